cdef void *take(void *waits, size_t asked) noexcept nogil
cdef void give(void *waits, void *p, size_t size) noexcept nogil
