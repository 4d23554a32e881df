"""What the drivers share: the active kernel table, threads, scratch memory, cache sizes."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport numpy as cnp


cdef extern from "kernels.h" nogil:
    enum:
        FC_MAX_ISAS, FC_LINE, FC_STREAM_ROWS, FC_DOT_ROWS, FC_NARROW_FILTERS, FC_NARROW_STEP
        FC_RELU, FC_CLIPPED_RELU, FC_CLIPPED_RELU_BACKWARD
        FC_LEAKY_RELU, FC_LEAKY_RELU_BACKWARD
        FC_SIGMOID, FC_SIGMOID_BACKWARD, FC_TANH, FC_TANH_BACKWARD
        FC_HARD_SIGMOID, FC_HARD_SIGMOID_BACKWARD, FC_HARD_SWISH, FC_HARD_SWISH_BACKWARD
        FC_SILU, FC_SILU_BACKWARD, FC_GELU, FC_GELU_BACKWARD, FC_GELU_TANH, FC_GELU_TANH_BACKWARD, FC_ADD
        FC_SOFTMAX, FC_LOG_SOFTMAX, FC_SOFTMAX_BACKWARD, FC_LOG_SOFTMAX_BACKWARD

    ctypedef struct fc_tile:
        const char *a
        const Py_ssize_t *runs
        Py_ssize_t n_runs, run_length, a_row, a_step
        const char *b
        Py_ssize_t b_step
        const char *bias
        char *c
        Py_ssize_t c_row, columns, residual
        const char *ahead
        const char *ahead_end
        Py_ssize_t ahead_step, ahead_apart
        int accumulate, relu, past

    ctypedef struct fc_dot:
        const char *a
        Py_ssize_t a_row
        const char *b
        Py_ssize_t b_row, length
        const char *bias
        char *c
        Py_ssize_t c_row, columns
        int relu

    ctypedef struct fc_pool:
        const char *x
        Py_ssize_t x_step
        const Py_ssize_t *taps
        Py_ssize_t n_taps, first_tap, last_tap
        char *y
        Py_ssize_t y_step, pixels, channels
        char *dx
        uint8_t *argmax
        double scale
        int tiled, threes
        const char *result
        char *total
        int relu

    ctypedef struct fc_depthwise:
        const char *x
        Py_ssize_t x_step
        const Py_ssize_t *taps
        const char *w
        char *dw
        const Py_ssize_t *filter_taps
        Py_ssize_t n_taps
        const char *bias
        char *y
        Py_ssize_t y_step, pixels, channels, residual
        int relu, prefetch, past, width, left, right
        Py_ssize_t depth, filter_step
        const Py_ssize_t *lanes
        Py_ssize_t y_row
        const char *next_x
        const char *next_y
        Py_ssize_t next_row

    ctypedef struct fc_narrow:
        const char *x
        const Py_ssize_t *taps
        Py_ssize_t n_taps
        const char *w
        Py_ssize_t w_tap
        const char *bias
        char *y
        Py_ssize_t y_row, y_plane, pixels, filters
        char *sums
        int adds, relu
        char *maxima
        Py_ssize_t maxima_pixel
        const char *result
        uint8_t *argmax
        char *room

    ctypedef struct fc_winograd:
        const char *x
        Py_ssize_t x_row, x_col
        char *y
        Py_ssize_t y_row, y_col, point, channels
        const char *bias
        Py_ssize_t residual
        int row, col, rows, cols, relu
        const char *ahead

    ctypedef struct fc_winograd_leaves:
        void (*input)(const fc_winograd *) noexcept nogil
        void (*filter)(const fc_winograd *) noexcept nogil
        void (*output)(const fc_winograd *) noexcept nogil
        void (*output_backward)(const fc_winograd *) noexcept nogil
        void (*filter_backward)(const fc_winograd *) noexcept nogil

    ctypedef void fc_map(Py_ssize_t n, const void *a, const void *b, void *out, double alpha) noexcept nogil
    ctypedef void fc_row_map(Py_ssize_t n, const void *a, const void *b, void *out) noexcept nogil

    ctypedef struct fc_norm:
        Py_ssize_t rows, columns
        const char *x
        const char *residual
        const char *g
        const char *mean
        const char *scale
        const char *offset
        const char *g_mean
        const char *slope
        char *y
        char *total
        char *dot
        int relu
        int past
        Py_ssize_t x_gap

    ctypedef struct fc_kernels:
        Py_ssize_t itemsize, lanes
        Py_ssize_t max_rows[8]
        Py_ssize_t panel_vectors
        Py_ssize_t row_vectors
        void (*tile[8][14])(const fc_tile *, Py_ssize_t tiles) noexcept nogil
        void (*stream[4])(const fc_tile *) noexcept nogil
        void (*past_done)() noexcept nogil
        void (*dot[4])(const fc_dot *) noexcept nogil
        void (*pack_rows)(Py_ssize_t depth, Py_ssize_t columns, Py_ssize_t width, const void *src,
                          Py_ssize_t stride, void *dst) noexcept nogil
        void (*pack_transposed)(Py_ssize_t depth, Py_ssize_t columns, Py_ssize_t width, const void *src,
                                Py_ssize_t stride, void *dst) noexcept nogil
        void (*transpose)(Py_ssize_t depth, Py_ssize_t columns, Py_ssize_t width, const void *src,
                          Py_ssize_t stride, void *dst, Py_ssize_t dst_row) noexcept nogil
        fc_winograd_leaves winograd[3]
        void (*depthwise)(const fc_depthwise *) noexcept nogil
        void (*depthwise_pair)(const fc_depthwise *) noexcept nogil
        void (*depthwise_filter_backward)(const fc_depthwise *) noexcept nogil
        void (*depthwise_filter_pair)(const fc_depthwise *) noexcept nogil
        void (*grouped)(const fc_depthwise *) noexcept nogil
        void (*grouped_filter_backward)(const fc_depthwise *) noexcept nogil
        Py_ssize_t narrow_most
        void (*narrow[FC_NARROW_FILTERS])(const fc_narrow *) noexcept nogil
        void (*narrow_filters[FC_NARROW_FILTERS])(const fc_narrow *) noexcept nogil
        void (*narrow_sums)(Py_ssize_t n, Py_ssize_t parts, Py_ssize_t part_bytes, const void *sums,
                            void *out) noexcept nogil
        void (*narrow_pool)(const fc_narrow *) noexcept nogil
        void (*narrow_pool_backward)(const fc_narrow *) noexcept nogil
        void (*max_pool)(const fc_pool *) noexcept nogil
        void (*max_pool_backward)(const fc_pool *) noexcept nogil
        void (*avg_pool)(const fc_pool *) noexcept nogil
        void (*avg_pool_backward)(const fc_pool *) noexcept nogil
        fc_map *map[20]
        fc_row_map *row_map[4]
        void (*relu_backward)(Py_ssize_t n, const void *g, const void *h, const void *y, int relu, int past,
                              void *out) noexcept nogil
        void (*column_sum)(Py_ssize_t rows, Py_ssize_t columns, const void *x, void *out) noexcept nogil
        void (*bias_add)(Py_ssize_t rows, Py_ssize_t columns, const void *x, const void *bias, int relu,
                         void *y) noexcept nogil
        void (*normalize_moments)(const fc_norm *) noexcept nogil
        void (*normalize)(const fc_norm *) noexcept nogil
        void (*normalize_sums)(const fc_norm *) noexcept nogil
        void (*normalize_backward)(const fc_norm *) noexcept nogil
        void (*layer_normalize)(Py_ssize_t rows, Py_ssize_t columns, const void *x, const void *scale,
                                const void *offset, double epsilon, void *y) noexcept nogil
        void (*layer_normalize_backward)(Py_ssize_t rows, Py_ssize_t columns, const void *g, const void *x,
                                         const void *scale, double epsilon, void *dx, void *dscale) noexcept nogil
        double (*softmax_cross_entropy)(Py_ssize_t n, const void *x, const void *t, void *dx) noexcept nogil
        void (*dropout)(Py_ssize_t n, const void *x, uint64_t seed, uint64_t first, uint32_t threshold,
                        double scale, void *y) noexcept nogil
        void (*sgd)(Py_ssize_t n, void *p, const void *g, void *v, double rate, double momentum,
                    int nesterov, double decay) noexcept nogil
        void (*adam)(Py_ssize_t n, void *p, const void *g, void *m, void *v, double alpha, double beta_1,
                     double beta_2, double epsilon, double rate_decay) noexcept nogil
        double (*fma_rounds)(Py_ssize_t rounds) noexcept nogil

    ctypedef struct fc_isa:
        const char *name
        const fc_kernels *f32
        const fc_kernels *f64

    int fc_available(const fc_isa **isas)


# Data-cache bytes of one core (L1, L2) and of the machine (L3), found at import; what of L2 blocks are sized for; and
# what the caches have no room for.
cdef Py_ssize_t l1_bytes, l2_bytes, l3_bytes, l2_room, past_bytes
cdef bint l3_is_far

cdef const fc_kernels *kernels(cnp.ndarray x) noexcept
cdef bint is_plain(object x) noexcept
cdef int threads_for(double work) noexcept nogil
cdef int threads_for_flops(const fc_kernels *table, double flops) noexcept nogil
cdef char *acquire(size_t size) except NULL
cdef void release(char *buffer) noexcept
cdef cnp.ndarray aligned(Py_ssize_t size, cnp.dtype dtype)


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """Return a / b rounded up, 0 for a negative a."""
    return (a + b - 1) // b if a > 0 else 0


cdef inline Py_ssize_t distance(cnp.ndarray y, cnp.ndarray residual) noexcept:
    """Return how many bytes it is from y to another array of its shape, which may be None: 0."""
    return 0 if residual is None else <Py_ssize_t> cnp.PyArray_BYTES(residual) - <Py_ssize_t> cnp.PyArray_BYTES(y)


cdef inline Py_ssize_t pixel_pitch(cnp.ndarray y) noexcept:
    """Return how many bytes it is from a pixel of images, or of some of their channels, to the next."""
    # Strides of a single pixel say nothing where the array is contiguous.
    if cnp.PyArray_IS_C_CONTIGUOUS(y):
        return cnp.PyArray_DIM(y, 3) * cnp.PyArray_ITEMSIZE(y)
    return cnp.PyArray_STRIDE(y, 2)


cdef inline bint in_vectors(const fc_kernels *table, const char *y, Py_ssize_t row) noexcept nogil:
    """Whether rows so many bytes apart begin at multiples of a vector's size, as stores past the caches must."""
    cdef Py_ssize_t vector = table.lanes * table.itemsize
    return row % vector == 0 and <size_t> y % vector == 0


cdef inline Py_ssize_t line(Py_ssize_t nbytes) noexcept nogil:
    """Round up to whole cache lines."""
    return (nbytes + 63) & ~63


cdef inline Py_ssize_t odd_lines(Py_ssize_t nbytes) noexcept nogil:
    """Round up to an odd number of lines: what lies so far apart does not meet in the same cache sets."""
    return line(nbytes) | 64


# ---- tasks that threads share ----

cdef extern from *:
    """
    #define fc_take_one(place) __sync_fetch_and_add(place, 1)
    """
    Py_ssize_t fc_take_one(Py_ssize_t *place) noexcept nogil


cdef enum:
    # Threads with a share of their own; more of them share those. Numbers in a cache line.
    MOST_SHARES = 64
    SPREAD = 8


cdef struct Shares:
    # Tasks, so many for each thread, one after the other. Threads begin with their own: primitives give thread after
    # thread the same part of an image, which it then has in its caches from the one before. Whoever has done his own
    # takes from the others'.
    Py_ssize_t tasks, count
    Py_ssize_t next[MOST_SHARES * SPREAD]


cdef inline void share(Shares *s, Py_ssize_t tasks, int threads) noexcept nogil:
    """Share out so many tasks."""
    cdef Py_ssize_t i
    s.tasks = tasks
    s.count = min(threads, MOST_SHARES)
    for i in range(s.count):
        s.next[i * SPREAD] = tasks * i // s.count


cdef inline Py_ssize_t take(Shares *s, Py_ssize_t thread) noexcept nogil:
    """Return a thread's next task, -1 where none is left."""
    cdef Py_ssize_t i, owner, task
    for i in range(s.count):
        owner = (thread + i) % s.count
        if s.next[owner * SPREAD] < s.tasks * (owner + 1) // s.count:
            task = fc_take_one(&s.next[owner * SPREAD])
            if task < s.tasks * (owner + 1) // s.count:
                return task
    return -1
