from libc.string cimport memset

cimport numpy as cnp

from ._runtime cimport fc_kernels, fc_norm

ctypedef void norm_leaf(const fc_norm *) noexcept nogil

cdef fc_norm rows_of_result(tuple normalized) except *
cdef fc_norm rows_of_gradient(tuple normalized) except *
cdef void choose_centre(const fc_kernels *table, Py_ssize_t rows, Py_ssize_t columns, const char *x,
                        char *centre) noexcept nogil
cdef void write_moments(const fc_kernels *table, Py_ssize_t rows, Py_ssize_t columns, const char *sum, char *mean,
                        char *variance) noexcept nogil

cdef enum:
    # Rows from which the centre of moments is found.
    SAMPLES = 64


cdef inline void sum_lines(const fc_kernels *table, Py_ssize_t lines, Py_ssize_t columns, const char *x,
                           char *out) noexcept nogil:
    """Write the sums of so many lines, one after the other in their order."""
    memset(out, 0, columns * table.itemsize)
    table.column_sum(lines, columns, x, out)


cdef inline void add_sums(const fc_kernels *table, norm_leaf *leaf, fc_norm t, Py_ssize_t part,
                          char *own) noexcept nogil:
    """Add the sums over a few rows to a part's lines of t's: those over many, to which little is lost by and by.

    own has room for two lines.
    """
    cdef Py_ssize_t nbytes = t.columns * table.itemsize
    cdef char *total = t.total + part * nbytes
    cdef char *dot = t.dot + part * nbytes
    t.total = own
    t.dot = own + nbytes
    memset(own, 0, 2 * nbytes)
    leaf(&t)
    table.column_sum(1, t.columns, t.total, total)
    table.column_sum(1, t.columns, t.dot, dot)
