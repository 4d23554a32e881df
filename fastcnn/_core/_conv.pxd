cdef class Geometry:
    cdef readonly Py_ssize_t images, in_h, in_w, channels, rows, cols, filters, out_h, out_w
    cdef readonly Py_ssize_t stride_h, stride_w, top, left, dilation_h, dilation_w, groups

    cdef double flops(self) noexcept
    cdef bint is_product(self) noexcept
    cdef bint samples(self) noexcept
