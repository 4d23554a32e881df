from libc.stdint cimport uint8_t

cimport numpy as cnp

from ._runtime cimport fc_kernels


cdef class Geometry:
    cdef readonly Py_ssize_t images, in_h, in_w, channels, rows, cols, filters, out_h, out_w
    cdef readonly Py_ssize_t stride_h, stride_w, top, left, dilation_h, dilation_w, groups
    # Where filters have taps that see padding alone: the same without them, and the others' (rows, columns); else None.
    cdef readonly Geometry seen
    cdef readonly tuple taps

    cdef double flops(self) noexcept
    cpdef bint is_product(self) noexcept
    cdef bint samples(self) noexcept


cdef char *scaled(cnp.ndarray w, cnp.ndarray scale) except NULL
cdef cnp.ndarray scaled_array(cnp.ndarray w, cnp.ndarray scale)


cdef struct Pooled:
    # Where the maxima of 2 x 2 pixels go that are all that is wanted of a result; NULL: it is wanted itself. Their
    # images' size, and bytes from pixel to pixel. And which of the four each is, in dense order; NULL: that is not
    # wanted.
    char *y
    Py_ssize_t out_h, out_w, pixel
    uint8_t *argmax


cdef Pooled pooled_to(cnp.ndarray y, bint pools, cnp.ndarray argmax) noexcept
cdef void pool_pixels(const fc_kernels *table, const Pooled *p, const char *x, Py_ssize_t x_row, Py_ssize_t x_col,
                      Py_ssize_t image, Py_ssize_t row, Py_ssize_t col, Py_ssize_t rows, Py_ssize_t cols,
                      Py_ssize_t offset, Py_ssize_t channels) noexcept nogil
