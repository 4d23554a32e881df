"""Direct convolutions of few filters: the lanes of a vector are pixels, not filters.

A band of rows of the input is copied to planes, rows of the pixels of one channel, with zeros around them. A plane of
the result is then a sum of planes that are moved by the columns of a tap, each times one number, and the gradient of
that number is the product of the two planes. Few filters would leave most lanes of a vector empty; rows of pixels
leave those behind their end. Maxima of 2 x 2 pixels are taken of two rows of planes, and their gradients become planes
without having been an image.

Sums of a result are chains in the order of the direct algorithm (`_conv`), and have its bits. Those of a gradient are
taken in parts of the images, whose number depends on sizes alone.
"""

from cython.parallel cimport parallel, prange
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._conv cimport Geometry, scaled_array
from ._runtime cimport (
    FC_NARROW_STEP, Shares, acquire, ceil_div, fc_kernels, fc_narrow, kernels, l1_bytes, l2_bytes, line, odd_lines,
    pixel_pitch, release, share, take, threads_for_flops,
)

cnp.import_array()


cdef enum:
    # Parts of a gradient, and bytes of their sums, at most; pixels of one at least.
    PARTS = 16
    SUM_BYTES = 8 << 20
    PART_PIXELS = 512


cdef struct Narrow:
    const fc_kernels *table
    Py_ssize_t images, in_h, in_w, channels, filters, out_h, out_w, stride_h, top, left, span_h, size
    const char *x
    const Py_ssize_t *taps
    Py_ssize_t n_taps
    # Bytes of a row of pixels, in which a row of the result, too, has room for what its last taps see; of the input's
    # rows at one phase of the strides, of all of them in one channel; and of the result's in one channel.
    Py_ssize_t row, x_phase, x_plane, y_plane
    # Bands of so many rows of the result, an even number; and bytes of a thread's scratch: the planes, and room.
    Py_ssize_t bands, rows, x_bytes, y_bytes, room_bytes


# In the time of a multiply-add of two vectors, what an element costs to come from planes to the result, or to go to the
# input's. (390 convolutions of 1 to 14 filters, 1 to 16 channels, 1x1 to 7x7 taps and rows of 7 to 112 pixels on a
# Zen 5, by AVX-512 with one thread and two, and by AVX2: in the mean a result takes 1.01 to 1.02 times as long as by
# the faster algorithm, a gradient 1.02 to 1.04.)
cdef double RESULT_MOVED = 0.2, INPUT_MOVED = 0.4


cdef Py_ssize_t rows_of_band(Geometry g, Py_ssize_t row) noexcept:
    """Return how many rows of the result, an even number, stay in L1 with what they see, of so many bytes each."""
    return max(1, l1_bytes * 3 // 4 // (row * (min(g.stride_h, g.in_h) * g.channels + g.filters)) // 2) * 2


def pays(Geometry g, Py_ssize_t lanes, bint filters=False):
    """Whether a result, or the gradient of the filters, is faster so than directly, in vectors of so many lanes."""
    cdef double taps = g.rows * g.cols * g.channels, row = g.out_w + (g.cols - 1) * g.dilation_w, seen
    if g.stride_w != 1 or g.groups != 1 or g.filters >= lanes or 2 * g.out_w < lanes or not g.out_h:
        return False
    if g.rows == g.cols == 1 or g.seen is not None:
        return False  # products, which read dense rows where they are, and what may be one once taps are left out
    if filters and 4 * lanes * taps * g.filters > l2_bytes:
        return False  # sums of a vector for each number would not stay in L2
    # Rows of the input for each of the result; a band's first and last ones are others', too.
    seen = g.stride_h + (g.rows - 1.0) * g.dilation_h / min(g.out_h, rows_of_band(g, <Py_ssize_t> (4 * row)))
    return taps > (taps * g.filters * row / (g.out_w * lanes) + RESULT_MOVED * g.filters
                   + INPUT_MOVED * g.channels * seen)


cdef Narrow narrow(Geometry g, cnp.ndarray x) noexcept:
    """Lay out the planes of bands that stay in L1."""
    cdef Narrow n
    cdef Py_ssize_t span_w = (g.cols - 1) * g.dilation_w + 1, pair, pixels
    n.table = kernels(x)
    n.images, n.in_h, n.in_w, n.channels = g.images, g.in_h, g.in_w, g.channels
    n.filters, n.out_h, n.out_w, n.stride_h = g.filters, g.out_h, g.out_w, g.stride_h
    n.top, n.left, n.span_h = g.top, g.left, (g.rows - 1) * g.dilation_h + 1
    n.size = n.table.itemsize
    n.x = cnp.PyArray_BYTES(x)
    n.n_taps = g.rows * g.cols * g.channels
    n.row = (g.out_w + span_w - 1) * n.size
    n.rows = rows_of_band(g, n.row)
    n.bands = max(1, ceil_div(g.out_h, n.rows))
    n.rows = ceil_div(ceil_div(g.out_h, n.bands), 2) * 2
    n.bands = max(1, ceil_div(g.out_h, n.rows))
    # Leaves take pairs of vectors, and write a pair behind a row's end.
    pair = 2 * n.table.lanes * n.size
    pixels = ceil_div(n.rows * n.row, pair) * pair
    n.x_phase = line(pixels + (n.span_h - 1) // n.stride_h * n.row + span_w * n.size)
    n.x_plane = odd_lines((n.stride_h if g.out_h > 1 else min(n.stride_h, n.span_h)) * n.x_phase)
    n.y_plane = odd_lines(pixels + pair)
    n.x_bytes = n.channels * n.x_plane
    n.y_bytes = n.filters * n.y_plane
    n.room_bytes = 2 * n.filters * ceil_div(n.row, pair) * pair
    return n


cdef void find_taps(Geometry g, const Narrow *n, Py_ssize_t *taps, Py_ssize_t count) noexcept:
    """Find where each tap's pixels begin; those beyond the last are the last one."""
    cdef Py_ssize_t i, tap, row
    for i in range(count):
        tap = min(i, n.n_taps - 1)
        row = tap // g.channels // g.cols * g.dilation_h
        taps[i] = (tap % g.channels * n.x_plane + row % n.stride_h * n.x_phase + row // n.stride_h * n.row
                   + tap // g.channels % g.cols * g.dilation_w * n.size)


cdef void row_to_planes(const Narrow *n, const char *x, Py_ssize_t channels, Py_ssize_t pixels, Py_ssize_t width,
                        char *to, Py_ssize_t plane) noexcept nogil:
    """Copy a row of so many pixels, side by side, to planes, zeros behind it up to a width."""
    if channels == 1:
        memcpy(to, x, pixels * n.size)
        memset(to + pixels * n.size, 0, (width - pixels) * n.size)
    else:
        n.table.transpose(channels, pixels, width, x, channels * n.size, to, plane)


cdef void to_planes(const Narrow *n, Py_ssize_t image, Py_ssize_t first, Py_ssize_t last, char *to) noexcept nogil:
    """Copy what rows of the result see of the input to planes, zero where it lies outside."""
    cdef Py_ssize_t top = first * n.stride_h - n.top, rows = (last - first - 1) * n.stride_h + n.span_h, i
    memset(to, 0, n.x_bytes)
    to += n.left * n.size
    for i in range(max(0, -top), min(rows, n.in_h - top)):
        row_to_planes(n, n.x + (image * n.in_h + top + i) * n.in_w * n.channels * n.size, n.channels, n.in_w, n.in_w,
                      to + i % n.stride_h * n.x_phase + i // n.stride_h * n.row, n.x_plane)


cdef void result_to_planes(const Narrow *n, const char *y, Py_ssize_t image, Py_ssize_t first, Py_ssize_t last,
                           char *to) noexcept nogil:
    """Copy rows of an array like the result to planes, zeros behind each."""
    cdef Py_ssize_t _
    y += (image * n.out_h + first) * n.out_w * n.filters * n.size
    for _ in range(last - first):
        row_to_planes(n, y, n.filters, n.out_w, n.row // n.size, to, n.y_plane)
        y += n.out_w * n.filters * n.size
        to += n.row


cdef inline void find_band(const Narrow *n, Py_ssize_t task, Py_ssize_t *image, Py_ssize_t *first,
                           Py_ssize_t *last) noexcept nogil:
    """Find the image and the rows of the result that a task is about."""
    image[0] = task // n.bands
    first[0] = task % n.bands * n.rows
    last[0] = min(first[0] + n.rows, n.out_h)


cdef inline Py_ssize_t pixels_of(const Narrow *n, Py_ssize_t rows) noexcept nogil:
    """Return how many pixels it is from the first of a plane to the last of so many rows."""
    return (rows - 1) * (n.row // n.size) + n.out_w


cdef inline Py_ssize_t filters_beside(const Narrow *n, Py_ssize_t first) noexcept nogil:
    """Return how many of the filters from one on are computed at a time: equal numbers of them."""
    return min(ceil_div(n.filters, ceil_div(n.filters, n.table.narrow_most)), n.filters - first)


# ---- forward ----

cdef struct Result:
    const char *w
    const char *bias
    const char *residual
    char *y
    Py_ssize_t pixel  # bytes from one of y's pixels to the next
    uint8_t *argmax
    bint pools
    int relu


cdef void convolve_band(const Narrow *n, const Result *r, Py_ssize_t task, char *scratch) noexcept nogil:
    cdef Py_ssize_t image, first, last, row, k = 0, count, at
    cdef char *planes = scratch + n.x_bytes
    cdef fc_narrow t
    find_band(n, task, &image, &first, &last)
    to_planes(n, image, first, last, scratch)
    if r.residual != NULL:
        result_to_planes(n, r.residual, image, first, last, planes)
    t.x = scratch
    t.taps, t.n_taps = n.taps, n.n_taps
    t.w_tap = n.filters * n.size
    t.y_row, t.y_plane = n.row, n.y_plane
    t.adds = r.residual != NULL
    t.relu = r.relu
    t.pixels = pixels_of(n, last - first)
    while k < n.filters:
        count = filters_beside(n, k)
        t.w = r.w + k * n.size
        t.bias = r.bias + k * n.size if r.bias != NULL else NULL
        t.y = planes + k * n.y_plane
        n.table.narrow[count - 1](&t)
        k += count
    if not r.pools:
        for row in range(first, last):
            n.table.transpose(n.out_w, n.filters, n.filters, planes + (row - first) * n.row, n.y_plane,
                              r.y + (image * n.out_h + row) * n.out_w * r.pixel, r.pixel)
        return
    t.pixels, t.filters = n.out_w // 2, n.filters
    t.maxima_pixel = r.pixel
    t.room = planes + n.y_bytes
    for row in range(first, last - 1, 2):
        at = (image * (n.out_h // 2) + row // 2) * t.pixels
        t.y = planes + (row - first) * n.row
        t.maxima = r.y + at * r.pixel
        t.argmax = r.argmax + at * n.filters if r.argmax != NULL else NULL
        n.table.narrow_pool(&t)


def forward(Geometry g, cnp.ndarray x, cnp.ndarray w, cnp.ndarray bias, cnp.ndarray residual, int relu,
            cnp.ndarray y, bint prepared=False, bint pools=False, cnp.ndarray argmax=None):
    """Write act(conv(x, w) + bias + residual) to y, whose pixels may lie apart; bias and residual may be None.

    Or, without a residual, the maxima of 2 x 2 pixels, and to argmax, of bytes, if there is one and y is dense, which
    pixel it is. Prepared filters are those that they were made of.
    """
    cdef Py_ssize_t i, task, nbytes, tap_bytes
    cdef int threads = threads_for_flops(kernels(x), g.flops())
    cdef Shares shares
    cdef char *scratch
    cdef Narrow n = narrow(g, x)
    cdef Result r
    r.w = cnp.PyArray_BYTES(w)
    r.bias = NULL if bias is None else cnp.PyArray_BYTES(bias)
    r.residual = NULL if residual is None else cnp.PyArray_BYTES(residual)
    r.y = cnp.PyArray_BYTES(y)
    r.pixel = pixel_pitch(y)
    r.argmax = NULL if argmax is None else <uint8_t *> cnp.PyArray_BYTES(argmax)
    r.pools = pools
    r.relu = relu
    tap_bytes = line(n.n_taps * sizeof(Py_ssize_t))
    nbytes = n.x_bytes + n.y_bytes + n.room_bytes
    scratch = acquire(tap_bytes + threads * nbytes)
    n.taps = <Py_ssize_t *> scratch
    find_taps(g, &n, <Py_ssize_t *> scratch, n.n_taps)
    share(&shares, n.images * n.bands, threads)
    with nogil, parallel(num_threads=threads):
        for i in prange(threads, schedule="static", chunksize=1):
            task = take(&shares, i)
            while task >= 0:
                convolve_band(&n, &r, task, scratch + tap_bytes + i * nbytes)
                task = take(&shares, i)
    release(scratch)


def prepare(Geometry g, cnp.ndarray w, cnp.ndarray scale=None):
    """Return the filters, each times its float64 if there is a scale, as forward takes them when they are prepared."""
    return scaled_array(w, scale)


# ---- gradient of the filters ----

cdef struct Gradient:
    # What comes in; of maxima, where argmax is not NULL, what they were, if a relu has made them, and which pixels.
    const char *dy
    const char *result
    const uint8_t *argmax
    int relu
    # Sums of all parts: a row of vectors, one for each filter, for each tap, and one more for the bias.
    char *sums
    Py_ssize_t parts, part_bytes, vector


cdef void gradient_planes(const Narrow *n, const Gradient *d, Py_ssize_t image, Py_ssize_t first, Py_ssize_t last,
                          char *sums, char *planes) noexcept nogil:
    """Make the planes of the gradient of some rows of the result."""
    cdef Py_ssize_t row, end = (last - first) * n.row, k, at
    cdef fc_narrow t
    if d.argmax == NULL:
        result_to_planes(n, d.dy, image, first, last, planes)
    else:
        t.y_row, t.y_plane = n.row, n.y_plane
        t.pixels, t.filters = n.out_w // 2, n.filters
        t.relu = d.relu
        t.sums = sums
        t.room = planes + n.y_bytes
        for row in range(first, last - 1, 2):
            at = (image * (n.out_h // 2) + row // 2) * t.pixels * n.filters
            t.y = planes + (row - first) * n.row
            t.maxima = <char *> d.dy + at * n.size
            t.result = d.result + at * n.size
            t.argmax = <uint8_t *> d.argmax + at
            n.table.narrow_pool_backward(&t)
        end -= (last - first) % 2 * n.row  # of a row without another there are no maxima
    for k in range(n.filters):
        memset(planes + k * n.y_plane + end, 0, n.y_plane - end)


cdef void sum_part(const Narrow *n, const Gradient *d, Py_ssize_t part, char *scratch) noexcept nogil:
    """One part of the bands, one after the other."""
    cdef Py_ssize_t tasks = n.images * n.bands, task, image, first, last, k, count
    cdef char *sums = d.sums + part * d.part_bytes
    cdef char *planes = scratch + n.x_bytes
    cdef fc_narrow t
    memset(sums, 0, d.part_bytes)
    t.x = scratch
    t.taps, t.n_taps = n.taps, n.n_taps
    t.y_row, t.y_plane = n.row, n.y_plane
    t.filters = n.filters
    for task in range(tasks * part // d.parts, tasks * (part + 1) // d.parts):
        find_band(n, task, &image, &first, &last)
        to_planes(n, image, first, last, scratch)
        gradient_planes(n, d, image, first, last, sums, planes)
        t.pixels = pixels_of(n, last - first)
        k = 0
        while k < n.filters:
            count = filters_beside(n, k)
            t.y = planes + k * n.y_plane
            t.sums = sums + (n.filters + k) * d.vector
            n.table.narrow_filters[count - 1](&t)
            k += count


cdef int sum_filters(Geometry g, Gradient *d, cnp.ndarray x, cnp.ndarray dw, cnp.ndarray db) except -1:
    """Write the gradients of the filters and, of maxima, of the bias."""
    cdef Py_ssize_t i, task, nbytes, tap_bytes, sum_bytes, taps
    cdef int threads = threads_for_flops(kernels(x), g.flops())
    cdef Shares shares
    cdef char *scratch
    cdef Narrow n = narrow(g, x)
    taps = ceil_div(n.n_taps, FC_NARROW_STEP) * FC_NARROW_STEP
    tap_bytes = line(taps * sizeof(Py_ssize_t))
    d.vector = n.table.lanes * n.size
    d.part_bytes = line((1 + taps) * n.filters * d.vector)
    d.parts = min(min(PARTS, SUM_BYTES // d.part_bytes), n.images * n.out_h * n.out_w // PART_PIXELS)
    d.parts = max(1, min(d.parts, n.images * n.bands))
    sum_bytes = d.parts * d.part_bytes
    nbytes = n.x_bytes + n.y_bytes + n.room_bytes
    scratch = acquire(tap_bytes + sum_bytes + threads * nbytes)
    n.taps = <Py_ssize_t *> scratch
    find_taps(g, &n, <Py_ssize_t *> scratch, taps)
    n.n_taps = taps
    d.sums = scratch + tap_bytes
    share(&shares, d.parts, threads)
    with nogil, parallel(num_threads=threads):
        for i in prange(threads, schedule="static", chunksize=1):
            task = take(&shares, i)
            while task >= 0:
                sum_part(&n, d, task, scratch + tap_bytes + sum_bytes + i * nbytes)
                task = take(&shares, i)
    n.table.narrow_sums(cnp.PyArray_SIZE(dw), d.parts, d.part_bytes, d.sums + n.filters * d.vector,
                        cnp.PyArray_BYTES(dw))
    if db is not None:
        n.table.narrow_sums(n.filters, d.parts, d.part_bytes, d.sums, cnp.PyArray_BYTES(db))
    release(scratch)
    return 0


def backward_filters(Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
    """Write the gradient of the filters to dw."""
    cdef Gradient d
    d.dy = cnp.PyArray_BYTES(dy)
    d.argmax = NULL
    sum_filters(g, &d, x, dw, None)


def backward_filters_pooled(Geometry g, cnp.ndarray dy, cnp.ndarray y, int relu, cnp.ndarray argmax, cnp.ndarray x,
                            cnp.ndarray dw, cnp.ndarray db):
    """Write the gradients of the filters and the bias, from dy, that of the maxima y of 2 x 2 pixels."""
    cdef Gradient d
    d.dy = cnp.PyArray_BYTES(dy)
    d.result = cnp.PyArray_BYTES(y)
    d.argmax = <uint8_t *> cnp.PyArray_BYTES(argmax)
    d.relu = relu
    sum_filters(g, &d, x, dw, db)
