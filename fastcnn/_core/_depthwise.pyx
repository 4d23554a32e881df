"""Depthwise convolution: every channel has its own filter.

There is little arithmetic for each element, so that no operand is copied or padded. A task is a row of output
pixels. Where all of its pixels see the same taps of the filter, which is everywhere but at the edges, the leaf takes
them in one call; a *span* is such a run of pixels. Pixels at the edges see fewer taps, and are spans of their own,
but for filters of three columns: those belong to the run, and the leaf leaves out the column that is outside.

The gradient of the input is the same with the taps that a pixel of the input is seen by; with strides, spans are every
stride-th pixel. The gradient of the filters is reduced over pixels: rows are added up in parts whose number does not
depend on the threads, and the parts in their order, so that results have the same bits for every number of threads.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memset

cimport numpy as cnp

from ._conv cimport Geometry
from ._runtime cimport (
    acquire, ceil_div, distance, fc_depthwise, fc_kernels, kernels, l2_bytes, line, release, threads_for,
)

cnp.import_array()

cdef enum:
    # The gradient of the filters is added up in at most so many parts, of at least so many rows each.
    PARTS = 32
    PART_ROWS = 4
    # The shortest span whose edges the leaf leaves out by itself.
    EDGE_PIXELS = 4


cdef struct Axis:
    # Positions of the output and of the source; position `out` sees source (out * out_step - before + tap * dilation)
    # / source_step, where that is whole and inside.
    Py_ssize_t out, source, out_step, source_step, before, taps, dilation


cdef struct Span:
    # Output columns first, first + out_step, ...: `pixels` of them, whose source columns are source_step apart. Tap
    # taps[k] sees column sources[k] from the first of them.
    Py_ssize_t first, pixels, n_taps
    # Whether the first pixel's first column, or the last one's last, is the one next to the source, outside.
    bint left, right
    Py_ssize_t *taps
    Py_ssize_t *sources


cdef struct Depthwise:
    const fc_kernels *table
    Py_ssize_t images, pixel, channels
    Axis rows, cols
    # How far a span's next pixel is, in the output and in the source.
    Py_ssize_t out_step, source_step
    Span *spans
    Py_ssize_t n_spans
    const char *x
    const char *w
    const char *bias
    # How far from y lies what is added to it before relu, laid out as y; 0: nothing is.
    Py_ssize_t residual
    int relu
    bint prefetch
    char *y
    # The gradient of the filters, and that of each of its parts of so many rows; 0 parts: it is not what is wanted.
    char *dw
    Py_ssize_t parts, part_rows, part_bytes
    char *sums


cdef Py_ssize_t look(const Axis *a, Py_ssize_t out, Py_ssize_t edge, Py_ssize_t *taps,
                     Py_ssize_t *sources) noexcept nogil:
    """List the taps that an output position sees the source, and its edge of so many, with, and where; return how many.
    """
    cdef Py_ssize_t tap, at, n = 0
    for tap in range(a.taps):
        at = out * a.out_step - a.before + tap * a.dilation
        if at >= -edge and at % a.source_step == 0 and at // a.source_step < a.source + edge:
            taps[n] = tap
            sources[n] = at // a.source_step
            n += 1
    return n


cdef bint follows(const Span *span, const Span *next, Py_ssize_t step) noexcept nogil:
    """Whether a span's next pixel sees the same taps, `step` further in the source."""
    cdef Py_ssize_t k
    if span.n_taps != next.n_taps:
        return False
    for k in range(span.n_taps):
        if span.taps[k] != next.taps[k] or span.sources[k] + span.pixels * step != next.sources[k]:
            return False
    return True


cdef bint takes_edges(const Depthwise *d) noexcept nogil:
    """Whether the leaf can leave out columns at the edges of a span that is long enough."""
    return (d.cols.taps == 3 and d.cols.dilation in (1, -1) and d.cols.source_step == 1
            and d.source_step * d.cols.dilation in (1, 2, -1))


cdef bint find_spans(Depthwise *d, bint edges, Py_ssize_t *lists) noexcept nogil:
    """Cut the columns into spans; lists has room for two lists of taps for each column.

    Returns whether the leaf can take them, which spans with edges may be too short for.
    """
    cdef Py_ssize_t phase, out, i
    cdef Span next
    cdef Span *last
    d.n_spans = 0
    for phase in range(min(d.out_step, d.cols.out)):
        last = NULL
        out = phase
        while out < d.cols.out:
            next = Span(out, 1, 0, False, False, lists, lists + d.cols.taps)
            next.n_taps = look(&d.cols, out, edges, next.taps, next.sources)
            if next.n_taps < d.cols.taps and edges:
                next.n_taps = look(&d.cols, out, 0, next.taps, next.sources)
            out += d.out_step
            if last != NULL and follows(last, &next, d.source_step):
                last.pixels += 1
                continue
            last = d.spans + d.n_spans
            last[0] = next
            d.n_spans += 1
            lists += 2 * d.cols.taps
    for i in range(d.n_spans if edges else 0):
        last = d.spans + i
        if last.n_taps == 3:
            last.left = min(last.sources[0], last.sources[2]) < 0
            last.right = max(last.sources[0], last.sources[2]) + (last.pixels - 1) * d.source_step == d.cols.source
        if last.pixels < EDGE_PIXELS and (last.left or last.right):
            return False
    return True


cdef void run_row(const Depthwise *d, Py_ssize_t task, Py_ssize_t *lists, char *sums) noexcept nogil:
    """All spans of one output row: compute it, or, where sums is not NULL, add to the gradient of the filters."""
    cdef Py_ssize_t image = task // d.rows.out, row = task % d.rows.out, n_rows, i, j, k, n
    cdef Py_ssize_t *row_taps = lists
    cdef Py_ssize_t *row_sources = lists + d.rows.taps
    cdef Py_ssize_t *taps = row_sources + d.rows.taps
    cdef Py_ssize_t *filter_taps = taps + d.rows.taps * d.cols.taps
    cdef const Span *span
    cdef fc_depthwise t
    n_rows = look(&d.rows, row, 0, row_taps, row_sources)
    t.x = d.x + image * d.rows.source * d.cols.source * d.pixel
    t.x_step = d.source_step * d.pixel
    t.taps = taps
    t.w = d.w
    t.dw = sums
    t.filter_taps = filter_taps
    t.bias = d.bias
    t.residual = d.residual
    t.y_step = d.out_step * d.pixel
    t.channels = d.channels
    t.relu = d.relu
    t.prefetch = d.prefetch
    for i in range(d.n_spans):
        span = d.spans + i
        n = 0
        for j in range(n_rows):
            for k in range(span.n_taps):
                taps[n] = (row_sources[j] * d.cols.source + span.sources[k]) * d.pixel
                filter_taps[n] = (row_taps[j] * d.cols.taps + span.taps[k]) * d.pixel
                n += 1
        t.n_taps = n
        t.pixels = span.pixels
        t.left = span.left
        t.right = span.right
        t.y = d.y + (task * d.cols.out + span.first) * d.pixel
        if sums == NULL:
            d.table.depthwise(&t)
        else:
            d.table.depthwise_filter_backward(&t)


cdef void run_part(const Depthwise *d, Py_ssize_t part, Py_ssize_t *lists) noexcept nogil:
    cdef Py_ssize_t row
    memset(d.sums + part * d.part_bytes, 0, d.part_bytes)
    for row in range(part * d.part_rows, min((part + 1) * d.part_rows, d.images * d.rows.out)):
        run_row(d, row, lists, d.sums + part * d.part_bytes)


cdef Depthwise depthwise(Geometry g, cnp.ndarray x) noexcept:
    cdef Depthwise d
    d.table = kernels(x)
    d.images = g.images
    d.channels = g.channels
    d.pixel = g.channels * cnp.PyArray_ITEMSIZE(x)
    d.rows = Axis(g.out_h, g.in_h, g.stride_h, 1, g.top, g.rows, g.dilation_h)
    d.cols = Axis(g.out_w, g.in_w, g.stride_w, 1, g.left, g.cols, g.dilation_w)
    d.out_step = 1
    d.source_step = g.stride_w
    d.bias = NULL
    d.residual = 0
    d.relu = 0
    d.prefetch = g.images * (g.in_h * g.in_w + g.out_h * g.out_w) * d.pixel > 2 * l2_bytes
    d.parts = 0
    d.part_bytes = 0
    return d


cdef int run(Depthwise *d, int threads) except -1:
    cdef Py_ssize_t i, tasks = d.parts or d.images * d.rows.out
    cdef Py_ssize_t span_bytes = line(d.cols.out * sizeof(Span))
    cdef Py_ssize_t column_bytes = line(d.cols.out * 2 * d.cols.taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t list_bytes = line((2 * d.rows.taps + 2 * d.rows.taps * d.cols.taps) * sizeof(Py_ssize_t))
    cdef char *scratch = acquire(span_bytes + column_bytes + threads * list_bytes + d.parts * d.part_bytes)
    cdef char *lists = scratch + span_bytes + column_bytes
    d.spans = <Span *> scratch
    d.sums = lists + threads * list_bytes
    with nogil:
        if not (takes_edges(d) and find_spans(d, True, <Py_ssize_t *> (scratch + span_bytes))):
            find_spans(d, False, <Py_ssize_t *> (scratch + span_bytes))
        with parallel(num_threads=threads):
            for i in prange(tasks, schedule="static"):
                if d.parts:
                    run_part(d, i, <Py_ssize_t *> (lists + threadid() * list_bytes))
                else:
                    run_row(d, i, <Py_ssize_t *> (lists + threadid() * list_bytes), NULL)
        if d.parts:
            memset(d.dw, 0, d.part_bytes)
            d.table.column_sum(d.parts, d.part_bytes // d.table.itemsize, d.sums, d.dw)
    release(scratch)
    return 0


def prepare(Geometry g, cnp.ndarray w):
    """Return the filters, which are ready as they are."""
    return w


def forward(Geometry g, cnp.ndarray x, cnp.ndarray w, cnp.ndarray bias, cnp.ndarray residual, int relu,
            cnp.ndarray y, bint prepared=False):
    """Write act(conv(x, w) + bias + residual) to y, for as many groups as channels and filters; bias and residual may
    be None."""
    cdef Depthwise d = depthwise(g, x)
    d.x = cnp.PyArray_BYTES(x)
    d.w = cnp.PyArray_BYTES(w)
    d.bias = NULL if bias is None else cnp.PyArray_BYTES(bias)
    d.residual = distance(y, residual)
    d.relu = relu
    d.y = cnp.PyArray_BYTES(y)
    run(&d, threads_for(g.flops()))


def backward_input(Geometry g, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray dx):
    """Write the gradient of the input to dx."""
    cdef Depthwise d = depthwise(g, dy)
    d.x = cnp.PyArray_BYTES(dy)
    d.w = cnp.PyArray_BYTES(w)
    d.y = cnp.PyArray_BYTES(dx)
    d.rows = Axis(g.in_h, g.out_h, 1, g.stride_h, -g.top, g.rows, -g.dilation_h)
    d.cols = Axis(g.in_w, g.out_w, 1, g.stride_w, -g.left, g.cols, -g.dilation_w)
    d.out_step = g.stride_w
    d.source_step = 1
    run(&d, threads_for(g.flops()))


def backward_filters(Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
    """Write the gradient of the filters to dw."""
    cdef Depthwise d = depthwise(g, x)
    cdef Py_ssize_t rows = g.images * g.out_h
    d.x = cnp.PyArray_BYTES(x)
    d.w = NULL
    d.y = cnp.PyArray_BYTES(dy)
    d.dw = cnp.PyArray_BYTES(dw)
    d.part_rows = max(PART_ROWS, ceil_div(rows, PARTS))
    d.parts = ceil_div(rows, d.part_rows)
    d.part_bytes = g.rows * g.cols * d.pixel
    run(&d, threads_for(g.flops()))
