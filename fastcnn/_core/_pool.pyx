"""Max and average pooling, forward and backward.

Forward: one task is an output row; its interior pixels see the whole window and go to the leaf in one call, pixels at
the edges see fewer taps. Backward: one task is a band of input rows, which gathers from every window that touches it,
in the windows' order; a window on the border of two bands is looked at by both. Where there are few rows or bands, a
task is a slice of the channels of one.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._runtime cimport acquire, ceil_div, fc_kernels, fc_pool, kernels, line, release, threads_for

cnp.import_array()


cdef enum:
    # Vectors of channels that a slice has at least: as many as the leaves take at a time.
    SLICE = 4


cdef class Geometry:
    """The sizes of one pooling, checked by whoever makes it."""

    cdef readonly Py_ssize_t images, in_h, in_w, channels, rows, cols, out_h, out_w
    cdef readonly Py_ssize_t stride_h, stride_w, top, left

    def __init__(self, input_shape, output_shape, ksize, strides, offsets):
        self.images, self.in_h, self.in_w, self.channels = input_shape
        _, self.out_h, self.out_w, _ = output_shape
        self.rows, self.cols = ksize
        self.stride_h, self.stride_w = strides
        self.top, self.left = offsets


cdef struct Pooling:
    const fc_kernels *table
    Py_ssize_t in_h, in_w, pixel, channels, rows, cols, out_h, out_w, stride_h, stride_w, top, left
    # Slices of so many channels of a row (forward) or a band; backward an image is cut into bands of so many rows.
    Py_ssize_t images, slices, slice, bands, band
    # covers: windows lie side by side and hold every pixel, so that each element of the gradient is written once.
    bint average, backward, covers
    char *x
    char *y
    char *dx
    uint8_t *argmax
    # Of a gradient that goes back through a relu too: what it gave, and for each row of it the sums of what it lets
    # through, each so many bytes long.
    const char *result
    char *totals
    Py_ssize_t total_bytes
    int relu


cdef Pooling pooling(Geometry g, cnp.ndarray x, cnp.ndarray y, bint average, cnp.ndarray argmax) noexcept:
    cdef Pooling p
    p.table = kernels(y)
    p.images, p.in_h, p.in_w, p.channels = g.images, g.in_h, g.in_w, g.channels
    p.pixel = g.channels * cnp.PyArray_ITEMSIZE(y)
    p.rows, p.cols, p.out_h, p.out_w = g.rows, g.cols, g.out_h, g.out_w
    p.stride_h, p.stride_w, p.top, p.left = g.stride_h, g.stride_w, g.top, g.left
    p.average = average
    p.backward = False
    p.slices = 1
    p.slice = g.channels
    p.covers = (g.stride_h == g.rows and g.stride_w == g.cols and g.top == 0 and g.left == 0
                and g.in_h == g.out_h * g.rows and g.in_w == g.out_w * g.cols
                and (g.channels % p.table.lanes == 0 or g.channels < p.table.lanes))
    p.x = cnp.PyArray_BYTES(x)
    p.y = cnp.PyArray_BYTES(y)
    p.dx = p.x
    p.argmax = NULL if argmax is None else <uint8_t *> cnp.PyArray_BYTES(argmax)
    p.result = NULL
    p.relu = 0
    return p


cdef void pool_columns(const Pooling *p, fc_pool *t, Py_ssize_t *taps, Py_ssize_t image, Py_ssize_t out_row,
                       Py_ssize_t out_col, Py_ssize_t offset, Py_ssize_t first_row,
                       Py_ssize_t last_row) noexcept nogil:
    """Pool t.pixels output pixels with equal windows, in t.channels channels, the first of which is at some offset into
    a pixel; backward only into input rows first_row to last_row."""
    cdef Py_ssize_t top = out_row * p.stride_h - p.top, left = out_col * p.stride_w - p.left, r, s, n = 0
    cdef Py_ssize_t r0 = max(0, -top), r1 = min(p.rows, p.in_h - top)
    cdef Py_ssize_t s0 = max(0, -left), s1 = min(p.cols, p.in_w - left)
    for r in range(r0, r1):
        for s in range(s0, s1):
            taps[n] = ((r - r0) * p.in_w + s - s0) * p.pixel
            n += 1
    t.taps = taps
    t.n_taps = n
    t.scale = 1.0 / n
    t.x = p.x + ((image * p.in_h + top + r0) * p.in_w + left + s0) * p.pixel + offset
    t.dx = p.dx + (t.x - p.x)
    t.y = p.y + ((image * p.out_h + out_row) * p.out_w + out_col) * p.pixel + offset
    t.argmax = p.argmax + (t.y - p.y) // p.table.itemsize if p.argmax != NULL else NULL
    if not p.backward:
        if p.average:
            p.table.avg_pool(t)
        else:
            p.table.max_pool(t)
        return
    if p.result != NULL:
        t.result = p.result + (t.y - p.y)
        t.total = p.totals + (image * p.out_h + out_row) * p.total_bytes + offset
    t.first_tap = max(0, first_row - top - r0) * (s1 - s0)
    t.last_tap = min(r1 - r0, last_row - top - r0) * (s1 - s0)
    if p.average:
        p.table.avg_pool_backward(t)
    else:
        p.table.max_pool_backward(t)


cdef void pool_row(const Pooling *p, Py_ssize_t *taps, Py_ssize_t image, Py_ssize_t out_row, Py_ssize_t slice,
                   Py_ssize_t first_row, Py_ssize_t last_row) noexcept nogil:
    cdef Py_ssize_t col = 0, interior, end, offset = slice * p.slice * p.table.itemsize
    cdef fc_pool t
    t.x_step = p.stride_w * p.pixel
    t.y_step = p.pixel
    t.channels = min(p.slice, p.channels - slice * p.slice)
    t.tiled = p.stride_w == p.cols and p.stride_h >= p.rows
    t.threes = p.cols == 3 and p.stride_w == 2
    t.result = NULL
    t.relu = p.relu
    interior = ceil_div(p.left, p.stride_w)
    end = (p.in_w + p.left - p.cols) // p.stride_w + 1 if p.in_w + p.left >= p.cols else 0
    while col < p.out_w:
        t.pixels = end - col if interior <= col < end else 1
        pool_columns(p, &t, taps, image, out_row, col, offset, first_row, last_row)
        col += t.pixels


cdef void backward_band(const Pooling *p, Py_ssize_t *taps, Py_ssize_t task) noexcept nogil:
    cdef Py_ssize_t part = task // p.slices, image = part // p.bands
    cdef Py_ssize_t first = part % p.bands * p.band, last = min(p.in_h, first + p.band)
    cdef Py_ssize_t row = max(0, first + p.top - p.rows + 1)
    if not p.covers:
        memset(p.dx + (image * p.in_h + first) * p.in_w * p.pixel, 0, (last - first) * p.in_w * p.pixel)
    row = ceil_div(row, p.stride_h)
    while row < p.out_h and row * p.stride_h - p.top < last:
        pool_row(p, taps, image, row, task % p.slices, first, last)
        row += 1


cdef void forward_row(const Pooling *p, Py_ssize_t *taps, Py_ssize_t task) noexcept nogil:
    cdef Py_ssize_t row = task // p.slices
    pool_row(p, taps, row // p.out_h, row % p.out_h, task % p.slices, 0, p.in_h)


cdef int run(Pooling *p) except -1:
    # No window holds more taps than the image has pixels.
    cdef Py_ssize_t i, tap_bytes = line(min(p.rows, p.in_h) * min(p.cols, p.in_w) * sizeof(Py_ssize_t)), parts
    cdef int threads = threads_for(4.0 * p.images * p.out_h * p.out_w * p.channels * p.rows * p.cols)
    cdef char *taps = acquire(threads * tap_bytes)
    if p.backward:
        # Bands begin where windows do, so that few windows straddle two of them.
        p.bands = max(1, min(4 * threads // max(1, p.images), p.in_h // p.stride_h)) if threads > 1 else 1
        p.band = ceil_div(ceil_div(p.in_h, p.bands), p.stride_h) * p.stride_h
        p.bands = ceil_div(p.in_h, p.band)
    parts = p.images * (p.bands if p.backward else p.out_h)
    if threads > 1 and 0 < parts < 4 * threads and p.channels % p.table.lanes == 0 and (p.covers or not p.backward):
        p.slice = ceil_div(p.channels, ceil_div(4 * threads, parts) * SLICE * p.table.lanes) * SLICE * p.table.lanes
        p.slices = ceil_div(p.channels, p.slice)
    with nogil, parallel(num_threads=threads):
        for i in prange(parts * p.slices, schedule="static"):
            if p.backward:
                backward_band(p, <Py_ssize_t *> (taps + threadid() * tap_bytes), i)
            else:
                forward_row(p, <Py_ssize_t *> (taps + threadid() * tap_bytes), i)
    release(taps)
    return 0


def forward(Geometry g, cnp.ndarray x, bint average, cnp.ndarray y, cnp.ndarray argmax=None):
    """Write the maximum or average of each window to y, and to argmax, of bytes, which of its taps is the maximum."""
    cdef Pooling p = pooling(g, x, y, average, argmax)
    run(&p)


def backward(Geometry g, cnp.ndarray dy, cnp.ndarray x, bint average, cnp.ndarray dx, cnp.ndarray argmax=None):
    """Write the gradient of the input to dx; for an average, or with argmax, x is not looked at, and may then be dx."""
    cdef Pooling p = pooling(g, x, dy, average, argmax)
    p.backward = True
    p.dx = cnp.PyArray_BYTES(dx)
    run(&p)


def backward_through(Geometry g, cnp.ndarray dy, cnp.ndarray y, int relu, cnp.ndarray argmax, cnp.ndarray dx,
                     cnp.ndarray sums):
    """Write the gradient of what a relu was taken of, and the maxima of 2 x 2 pixels of that, y; and its sums over all
    pixels."""
    cdef Pooling p = pooling(g, dx, dy, False, argmax)
    cdef Py_ssize_t size = p.table.itemsize, rows = g.images * g.out_h
    cdef char *totals
    p.backward = True
    p.result = cnp.PyArray_BYTES(y)
    p.relu = relu
    p.total_bytes = line(g.channels * size)
    totals = acquire((rows + 1) * p.total_bytes + 1)
    memset(totals, 0, (rows + 1) * p.total_bytes)
    p.totals = totals + p.total_bytes
    try:
        run(&p)
        p.table.column_sum(rows, p.total_bytes // size, p.totals, totals)
        memcpy(cnp.PyArray_BYTES(sums), totals, g.channels * size)
    finally:
        release(totals)
