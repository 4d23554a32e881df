from ._runtime cimport fc_kernels


cdef struct Product:
    const fc_kernels *table
    Py_ssize_t m, n, k
    const char *a
    Py_ssize_t a_row, a_step
    const char *b
    Py_ssize_t b_row
    bint b_transposed
    const char *bias
    char *c
    Py_ssize_t c_row
    bint relu


cdef int product(const Product *p) except -1
cdef void panel_shape(const fc_kernels *table, Py_ssize_t columns, Py_ssize_t *width, int *kind) noexcept nogil
cdef char *pack_panels(const fc_kernels *table, const char *b, Py_ssize_t b_row, bint b_transposed, Py_ssize_t depth,
                       Py_ssize_t columns, char *to) noexcept nogil
