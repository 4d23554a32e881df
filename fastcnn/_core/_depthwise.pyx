"""Depthwise convolution: every channel has its own filter; and grouped: filters see the channels of their group only.

There is little arithmetic for each element, so that no operand is copied or padded. A task is a row of output
pixels. Where all of its pixels see the same taps of the filter, which is everywhere but at the edges, the leaf takes
them in one call; a *span* is such a run of pixels. Pixels at the edges see fewer taps, and are spans of their own. But
of filters of three or five columns (takes_edges) they belong to the run: the leaf leaves out the columns outside.

The gradient of the input is the same with the taps that a pixel of the input is seen by; with strides, spans are every
stride-th pixel. With groups, a task is a row of output pixels for a *block* of filters, at most a vector of them, which
may reach over several groups: to each of its lanes the leaf brings the channels of the lane's group, one after the
other. The filters of a block are packed to lie together, unless they were prepared.

The source may be the result of a 1x1 convolution, the *expansion*, as in MobileNetV2's blocks (Sandler et al., 2018):
a task, some channels of a band of rows, then makes the rows that the filters see next, of a few of which there is room
in the caches, and which are never written elsewhere.

The gradient of the filters is reduced over pixels: rows are added up in parts whose number does not depend on the
threads, and the parts in their order, so that results have the same bits for every number of threads. Where the
input's gradient is wanted too, its rows are computed beside, while the rows of dy that both read are near.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

import numpy as np

cimport numpy as cnp

from ._conv cimport Geometry, scaled_array
from ._elementwise cimport (
    add_sums, choose_centre, norm_leaf, rows_of_gradient, rows_of_result, sum_lines, write_moments,
)
from ._gemm cimport bring_near, multiply_tiles, pad_bias, panel_shape, panel_width
from ._runtime cimport (
    FC_LINE, Shares, acquire, aligned, ceil_div, distance, fc_depthwise, fc_kernels, fc_map, fc_norm, fc_tile,
    in_vectors, kernels, l2_bytes, line, past_bytes, pixel_pitch, release, share, take, threads_for, threads_for_flops,
)

cnp.import_array()

cdef enum:
    # The gradient of the filters is added up in at most so many parts, of more than half of so many rows each.
    PARTS = 32
    PART_ROWS = 4
    # The shortest span whose edges the leaf leaves out by itself.
    EDGE_PIXELS = 4
    # No vector has more lanes.
    MOST_LANES = 16
    # Output rows of a band, at least; and of those that all groups of channels are cut into: where they would be fewer,
    # what bands make twice costs more than to read what the other threads' caches have.
    BAND_ROWS = 3
    ALL_BANDS_ROWS = 4
    # Rows from which the centre of moments is found.
    CENTRE_ROWS = 8
    # How many times as large as L2 images are at least that are made on the way. (Of 3x3, 2 threads, 1 MB each: both
    # passes of 16 x 14 x 14 x 576 take 0.8 of the time, of 384 channels 0.93, of 64 x 16 x 16 x 64, four times, 1.15.)
    LEAST_L2 = 4


cdef struct Axis:
    # Positions of the output and of the source; position `out` sees source (out * out_step - before + tap * dilation)
    # / source_step, where that is whole and inside.
    Py_ssize_t out, source, out_step, source_step, before, taps, dilation


cdef struct Span:
    # Output columns first, first + out_step, ...: `pixels` of them, whose source columns are source_step apart. Tap
    # taps[k] sees column sources[k] from the first of them.
    Py_ssize_t first, pixels, n_taps
    # How many of the first pixel's first columns, and of the last one's last, are outside, next to the source.
    Py_ssize_t left, right
    Py_ssize_t *taps
    Py_ssize_t *sources


cdef struct Block:
    # The filters `filter`, filter + 1, ... of a block, so many columns; where the vector of channels that they see
    # begins, and how much further the first one's group does.
    Py_ssize_t filter, columns, channel, lane


cdef struct Depthwise:
    const fc_kernels *table
    # Channels of the source, of which a filter sees `depth` (0: its own one, there are no groups); pixels' bytes.
    Py_ssize_t images, channels, filters, depth, x_pixel, y_pixel
    # Groups: blocks cut units, which are a group or as many whole ones as have room in a vector.
    Py_ssize_t blocks, unit_blocks, unit_filters, unit_channels, group_filters
    Axis rows, cols
    # How far a span's next pixel is, in the output and in the source.
    Py_ssize_t out_step, source_step
    Span *spans
    Py_ssize_t n_spans
    # Whether two rows of an image, one below the other, can be computed at once.
    bint pairs
    # The source; row r of all of its images is at row r % kept.
    const char *x
    Py_ssize_t kept
    # The filters, packed where there are groups; bytes from one tap to the next, and of a block.
    const char *w
    Py_ssize_t tap_bytes, block_bytes
    const char *bias
    # How far from y lies what is added to it before relu, laid out as y; 0: nothing is.
    Py_ssize_t residual
    int relu
    int prefetch
    # As of fc_depthwise.
    const char *next_x
    const char *next_y
    Py_ssize_t next_row
    # Whether y is written past the caches.
    bint past
    # Rows of y lie likewise.
    char *y
    Py_ssize_t y_kept
    # The gradient of the filters is added up in so many parts, whose rows differ by one at most.
    Py_ssize_t parts
    char *sums


cdef Py_ssize_t look(const Axis *a, Py_ssize_t out, Py_ssize_t edge, Py_ssize_t *taps,
                     Py_ssize_t *sources) noexcept nogil:
    """List the taps that an output position sees the source, and its edge of so many, with, and where; return how many.

    They are in the order of what they see.
    """
    cdef Py_ssize_t i, tap, at, n = 0
    for i in range(a.taps):
        tap = i if a.dilation > 0 else a.taps - 1 - i
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
    return ((d.cols.taps == 3 or (d.cols.taps == 5 and not d.depth)) and d.cols.dilation in (1, -1)
            and d.cols.source_step == 1 and d.source_step in (1, 2))


cdef inline Py_ssize_t result_bytes(const Depthwise *d) noexcept nogil:
    return d.images * d.rows.out * d.cols.out * d.y_pixel


cdef bint may_pair(const Depthwise *d) noexcept nogil:
    """Whether rows have the taps and the distance of those that the leaf takes by two, if no column has others."""
    return (not d.depth and d.rows.taps == d.cols.taps == 3 and d.rows.dilation in (1, -1) and takes_edges(d)
            and d.rows.out_step == d.rows.source_step == d.out_step == d.source_step == 1
            and d.cols.out >= EDGE_PIXELS)


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
            next = Span(out, 1, 0, 0, 0, lists, lists + d.cols.taps)
            next.n_taps = look(&d.cols, out, d.cols.taps // 2 if edges else 0, next.taps, next.sources)
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
        if last.n_taps == d.cols.taps:
            last.left = max(0, -last.sources[0])
            last.right = max(0, last.sources[0] + last.n_taps + (last.pixels - 1) * d.source_step - d.cols.source)
        if last.pixels < EDGE_PIXELS and (last.left or last.right):
            return False
    return True


cdef inline Py_ssize_t columns_bytes(const Depthwise *d) noexcept nogil:
    """Bytes of the spans and of their lists of taps."""
    return line(d.cols.out * (sizeof(Span) + 2 * d.cols.taps * sizeof(Py_ssize_t)))


cdef inline Py_ssize_t rows_bytes(const Depthwise *d) noexcept nogil:
    """Bytes of the lists that run_row wants."""
    return line((2 * d.rows.taps + 2 * d.rows.taps * d.cols.taps) * sizeof(Py_ssize_t))


cdef void cut_columns(Depthwise *d, bint writes, char *scratch) noexcept nogil:
    """Cut the columns into spans, in scratch, with their lists of taps behind them; writes: y is what is computed."""
    cdef Py_ssize_t *lists = <Py_ssize_t *> (scratch + d.cols.out * sizeof(Span))
    d.spans = <Span *> scratch
    if not (takes_edges(d) and find_spans(d, True, lists)):
        find_spans(d, False, lists)
    # Two rows that are written far away are slower than one.
    d.pairs = (may_pair(d) and d.n_spans == 1 and d.spans.n_taps == 3
               and (not writes or result_bytes(d) <= past_bytes))


cdef Block block_of(const Depthwise *d, Py_ssize_t i) noexcept nogil:
    """Return what the block of that number is; without groups it is all."""
    cdef Py_ssize_t unit = i // d.unit_blocks, first = i % d.unit_blocks * d.table.lanes
    cdef Block block = Block(unit * d.unit_filters + first, d.unit_filters - first, unit * d.unit_channels, 0)
    if d.depth:
        block.columns = min(d.table.lanes, min(block.columns, d.filters - block.filter))
        block.lane = max(0, block.channel + d.table.lanes - d.channels)
        block.channel -= block.lane
    return block


cdef void begin_rows(const Depthwise *d, const Block *block, Py_ssize_t number, char *sums,
                     fc_depthwise *t) noexcept nogil:
    """Fill in what all rows of a block have in common."""
    cdef Py_ssize_t size = d.table.itemsize
    t.x_step = d.source_step * d.x_pixel
    t.w = d.w + number * d.block_bytes
    t.dw = sums
    t.bias = d.bias + block.filter * size if d.bias != NULL else NULL
    t.residual = d.residual
    t.y_step = d.out_step * d.y_pixel
    t.channels = block.columns
    t.relu = d.relu
    t.prefetch = d.prefetch
    t.next_x, t.next_y, t.next_row = d.next_x, d.next_y, d.next_row
    t.past = d.past


cdef void run_row(const Depthwise *d, Py_ssize_t number, Py_ssize_t task, Py_ssize_t *lists, char *sums) noexcept nogil:
    """All spans of one output row for a block: compute it, or, where sums is not NULL, add to the filters' gradient."""
    cdef Py_ssize_t image = task // d.rows.out, row = task % d.rows.out, n_rows, i, j, k, n
    cdef Py_ssize_t size = d.table.itemsize
    cdef Py_ssize_t lanes[MOST_LANES]
    cdef Block block = block_of(d, number)
    cdef Py_ssize_t *row_taps = lists
    cdef Py_ssize_t *row_sources = lists + d.rows.taps
    cdef Py_ssize_t *taps = row_sources + d.rows.taps
    cdef Py_ssize_t *filter_taps = taps + d.rows.taps * d.cols.taps
    cdef const Span *span
    cdef fc_depthwise t
    n_rows = look(&d.rows, row, 0, row_taps, row_sources)
    for j in range(n_rows):
        row_sources[j] = (image * d.rows.source + row_sources[j]) % d.kept
    begin_rows(d, &block, number, sums, &t)
    t.x = d.x + block.channel * size
    t.taps = taps
    t.filter_taps = filter_taps
    t.depth = d.depth
    t.filter_step = d.table.lanes * size
    t.lanes = lanes
    for i in range(d.table.lanes if d.depth else 0):
        lanes[i] = block.lane + (i // d.group_filters * d.depth if i < block.columns and d.unit_blocks == 1 else 0)
    for i in range(d.n_spans):
        span = d.spans + i
        n = 0
        for j in range(n_rows):
            for k in range(span.n_taps):
                taps[n] = (row_sources[j] * d.cols.source + span.sources[k]) * d.x_pixel
                filter_taps[n] = (row_taps[j] * d.cols.taps + span.taps[k]) * d.tap_bytes
                n += 1
        t.n_taps = n
        t.pixels = span.pixels
        t.width = span.n_taps
        t.left = span.left
        t.right = span.right
        t.y = d.y + (task % d.y_kept * d.cols.out + span.first) * d.y_pixel + block.filter * size
        if sums == NULL:
            if d.depth:
                d.table.grouped(&t)
            else:
                d.table.depthwise(&t)
        elif d.depth:
            d.table.grouped_filter_backward(&t)
        else:
            d.table.depthwise_filter_backward(&t)


cdef void run_pair(const Depthwise *d, Py_ssize_t task, Py_ssize_t *lists, char *sums) noexcept nogil:
    """An output row and the next one of its image, as run_row."""
    cdef Py_ssize_t image = task // d.rows.out, first = task % d.rows.out - d.rows.before, i, k
    cdef Py_ssize_t *filter_taps = lists + 4
    cdef const Span *span = d.spans
    cdef Block block = block_of(d, 0)
    cdef fc_depthwise t
    first += min(0, 2 * d.rows.dilation)
    for i in range(4):
        lists[i] = -1
        if 0 <= first + i < d.rows.source:
            lists[i] = (image * d.rows.source + first + i) % d.kept * d.cols.source * d.x_pixel
    for i in range(3):
        for k in range(3):
            filter_taps[3 * i + k] = ((i if d.rows.dilation > 0 else 2 - i) * 3 + span.taps[k]) * d.tap_bytes
    begin_rows(d, &block, 0, sums, &t)
    t.x = d.x + span.sources[0] * d.x_pixel
    t.taps = lists
    t.filter_taps = filter_taps
    t.y = d.y + task % d.y_kept * d.cols.out * d.y_pixel
    t.y_row = ((task + 1) % d.y_kept - task % d.y_kept) * d.cols.out * d.y_pixel
    t.pixels = span.pixels
    t.left = span.left
    t.right = span.right
    if sums == NULL:
        d.table.depthwise_pair(&t)
    else:
        d.table.depthwise_filter_pair(&t)


cdef void run_rows(const Depthwise *d, Py_ssize_t first, Py_ssize_t end, Py_ssize_t *lists) noexcept nogil:
    """Compute output rows of one image, without groups."""
    while first < end:
        if d.pairs and first + 1 < end:
            run_pair(d, first, lists, NULL)
            first += 2
        else:
            run_row(d, 0, first, lists, NULL)
            first += 1


cdef void rows_beside(const Depthwise *d, Py_ssize_t row, Py_ssize_t count, Py_ssize_t *first,
                      Py_ssize_t *end) noexcept nogil:
    """Find the rows of the input's gradient that belong to so many rows of an image of dy: each has as many as the
    stride, and an image's last one all that are left."""
    cdef Py_ssize_t image = row // d.rows.source
    first[0] = min(d.rows.out, row % d.rows.source * d.rows.source_step)
    end[0] = min(d.rows.out, first[0] + count * d.rows.source_step)
    if row % d.rows.source + count == d.rows.source:
        end[0] = d.rows.out
    first[0] += image * d.rows.out
    end[0] += image * d.rows.out


cdef void rows_read(const Depthwise *d, Py_ssize_t row, Py_ssize_t end, Py_ssize_t *lists, Py_ssize_t *first,
                    Py_ssize_t *last) noexcept nogil:
    """Widen first to last - 1 to the rows of the source from which rows of an image are computed."""
    cdef Py_ssize_t image = row // d.rows.out, i, j
    cdef Py_ssize_t *sources = lists + d.rows.taps
    for i in range(row, end):
        for j in range(look(&d.rows, i % d.rows.out, 0, lists, sources)):
            first[0] = min(first[0], image * d.rows.source + sources[j])
            last[0] = max(last[0], image * d.rows.source + sources[j] + 1)


cdef struct Making:
    # Rows are made of t.x, and t.g, on their way through a batch normalisation, by a leaf, where they are needed: a
    # thread keeps so many of them in L2, each of so many pixels and bytes.
    fc_norm t
    norm_leaf *leaf
    Py_ssize_t pixels, nbytes, kept


cdef Making making(const fc_kernels *table, fc_norm t, Py_ssize_t pixels, Py_ssize_t kept) noexcept nogil:
    cdef Making m = Making(t, table.normalize, pixels, pixels * t.columns * table.itemsize, kept)
    if t.g != NULL:
        m.leaf = table.normalize_backward
    return m


cdef inline Py_ssize_t kept_bytes(const Making *m) noexcept nogil:
    return line(m.kept * m.nbytes) if m != NULL else 0


cdef struct Kept:
    # Rows first to end - 1 are there, row r at r % kept of the making.
    Py_ssize_t first, end
    char *rows


cdef void keep_rows(const Making *m, Py_ssize_t first, Py_ssize_t end, Kept *k) noexcept nogil:
    """Make those of some rows that are not there yet."""
    cdef fc_norm t = m.t
    cdef Py_ssize_t row
    if first >= end:
        return
    if not k.first <= first <= k.end:
        k.first = k.end = first
    t.rows = m.pixels
    for row in range(k.end, end):
        t.x = m.t.x + row * m.nbytes
        if m.t.g != NULL:
            t.g = m.t.g + row * m.nbytes
        t.y = k.rows + row % m.kept * m.nbytes
        m.leaf(&t)
    k.end = max(k.end, end)
    k.first = max(k.first, k.end - m.kept)


cdef void keep_read(const Depthwise *d, Py_ssize_t row, Py_ssize_t end, Py_ssize_t *lists, const Making *m,
                    Kept *k) noexcept nogil:
    """Make those rows of d's source, from which rows of an image are computed, that are not there yet."""
    cdef Py_ssize_t first = d.images * d.rows.source, last = 0
    rows_read(d, row, end, lists, &first, &last)
    keep_rows(m, first, last, k)


cdef struct Passing:
    # What a pass makes on the way: dy, and x, unless that is there: NULL. And what is added up of the input's gradient
    # for whoever has made x, part by part.
    const Making *dy
    const Making *x
    fc_norm sums
    # Rows of the input's gradient that are kept near until they are added up, and then copied past the caches; 0: none.
    Py_ssize_t dx_kept


cdef void sum_rows(const Depthwise *d, const Depthwise *own, const Passing *p, Py_ssize_t part, Py_ssize_t first,
                   Py_ssize_t last, char *sums) noexcept nogil:
    """Add up rows of the input's gradient, which a thread has of its own, or else at their place."""
    cdef Py_ssize_t row
    cdef fc_norm t = p.sums
    t.rows = d.cols.out
    t.past = p.dx_kept > 0
    for row in range(first, last):
        t.x = p.sums.x + row * p.x.nbytes
        t.g = own.y + row % own.y_kept * p.x.nbytes
        t.y = d.y + row * p.x.nbytes
        add_sums(d.table, d.table.normalize_sums, t, part, sums)


cdef inline Py_ssize_t rows_at_once(const Depthwise *d, Py_ssize_t row, Py_ssize_t end) noexcept nogil:
    """Whether two rows of an image come next, or one."""
    return 2 if d.pairs and row + 1 < end and (row + 1) % d.rows.out > 0 else 1


cdef void run_part(const Depthwise *f, const Depthwise *d, Py_ssize_t part, Py_ssize_t *lists, const Passing *p,
                   char *kept) noexcept nogil:
    """Add up a part of the filters' gradient; d, unless it is NULL, computes that of the input in the part's rows.

    p, where there is d and it is not NULL, tells what is made on the way.
    """
    cdef Py_ssize_t rows = f.images * f.rows.out, row = rows * part // f.parts, end = rows * (part + 1) // f.parts, i
    cdef Py_ssize_t count, first = 0, last = 0, dy_first, dy_last
    cdef Kept dy = Kept(0, 0, kept), x = Kept(0, 0, kept)
    cdef char *sums = f.sums + part * f.blocks * f.block_bytes
    cdef char *own = NULL
    cdef Depthwise own_f = f[0], own_d
    if d != NULL:
        own_d = d[0]
    if p != NULL:
        own_f.y, own_f.y_kept = kept, p.dy.kept
        own_d.x, own_d.kept = kept, p.dy.kept
        x.rows = kept + kept_bytes(p.dy)
        own = x.rows + kept_bytes(p.x)
        if p.dx_kept:
            own_d.y, own_d.y_kept = own + line(2 * f.x_pixel), p.dx_kept
        if p.x != NULL:
            own_f.x, own_f.kept = x.rows, p.x.kept
    memset(sums, 0, f.blocks * f.block_bytes)
    while row < end:
        count = rows_at_once(f, row, end)
        if d != NULL:
            rows_beside(d, row, count, &first, &last)
        if p != NULL:
            dy_first, dy_last = row, row + count
            rows_read(d, first, last, lists, &dy_first, &dy_last)
            keep_rows(p.dy, dy_first, dy_last, &dy)
            if p.x != NULL:
                keep_read(f, row, row + count, lists, p.x, &x)
                own_f.next_x = p.x.t.x + x.end * p.x.nbytes
            # Of the two that dy is made of one is asked for by each.
            own_f.next_y = p.dy.t.x + dy.end * p.dy.nbytes
            own_d.next_x = p.dy.t.g + dy.end * p.dy.nbytes
            own_d.next_row = p.dy.nbytes
        if count == 2:
            run_pair(&own_f, row, lists, sums)
        else:
            for i in range(f.blocks):
                run_row(&own_f, i, row, lists, sums + i * f.block_bytes)
        if d != NULL:
            run_rows(&own_d, first, last, lists)
        if p != NULL and p.x != NULL:
            sum_rows(d, &own_d, p, part, first, last, own)
        row += count


cdef void run_measured(const Depthwise *d, Py_ssize_t part, Py_ssize_t *lists, const Making *x, const fc_norm *moments,
                       char *kept) noexcept nogil:
    """Compute a part of the rows of the result, and add up their moments; x, unless it is NULL, makes the source."""
    cdef Py_ssize_t rows = d.images * d.rows.out, row = rows * part // d.parts, end = rows * (part + 1) // d.parts
    cdef Py_ssize_t count, nbytes = d.cols.out * d.y_pixel
    cdef Kept source = Kept(0, 0, kept)
    cdef fc_norm t = moments[0]
    cdef Depthwise own = d[0]
    if x != NULL:
        own.x, own.kept = kept, x.kept
    while row < end:
        count = rows_at_once(d, row, end)
        if x != NULL:
            keep_read(d, row, row + count, lists, x, &source)
            own.next_x = x.t.x + source.end * x.nbytes
            own.next_row = x.nbytes
        run_rows(&own, row, row + count, lists)
        t.rows = count * d.cols.out
        t.x = d.y + row * nbytes
        add_sums(d.table, d.table.normalize_moments, t, part, kept + kept_bytes(x))
        row += count


cdef Depthwise depthwise(Geometry g, cnp.ndarray x) noexcept:
    """Return what computes the result, or the filters' gradient, but for the arrays."""
    cdef Depthwise d
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    d.table = kernels(x)
    d.images = g.images
    d.rows = Axis(g.out_h, g.in_h, g.stride_h, 1, g.top, g.rows, g.dilation_h)
    d.kept = g.images * g.in_h
    d.y_kept = g.images * g.out_h
    d.cols = Axis(g.out_w, g.in_w, g.stride_w, 1, g.left, g.cols, g.dilation_w)
    d.out_step = 1
    d.source_step = g.stride_w
    d.w = d.bias = NULL
    d.residual = 0
    d.relu = 0
    d.past = False
    d.next_x = d.next_y = NULL
    d.next_row = 0
    cut_filters(&d, g.channels, g.filters, g.groups)
    d.x_pixel = g.channels * size
    d.y_pixel = g.filters * size
    d.prefetch = not d.depth and g.images * (g.in_h * g.in_w + g.out_h * g.out_w) * d.x_pixel > 2 * l2_bytes
    return d


cdef void cut_filters(Depthwise *d, Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t groups) noexcept:
    """Cut the filters into blocks."""
    cdef Py_ssize_t lanes = d.table.lanes, depth = channels // groups, group_filters = filters // groups, unit_groups
    d.channels = channels
    d.filters = filters
    d.depth = d.unit_channels = 0
    d.unit_filters = filters
    d.blocks = d.unit_blocks = 1
    d.tap_bytes = filters * d.table.itemsize
    if not depth == group_filters == 1:
        # A vector of channels must hold those of a group: nn/_algorithms.py chooses this for small groups only.
        unit_groups = max(1, min(lanes // group_filters, lanes // depth))
        d.depth = depth
        d.group_filters = group_filters
        d.unit_filters = unit_groups * group_filters
        d.unit_channels = unit_groups * depth
        d.unit_blocks = ceil_div(d.unit_filters, lanes)
        d.blocks = ceil_div(groups, unit_groups) * d.unit_blocks
        d.tap_bytes = depth * lanes * d.table.itemsize
    d.block_bytes = d.rows.taps * d.cols.taps * d.tap_bytes


cdef void pack_block(const Depthwise *d, const char *w, Py_ssize_t number, char *to) noexcept nogil:
    cdef Block block = block_of(d, number)
    cdef Py_ssize_t size = d.table.itemsize
    d.table.pack_rows(d.rows.taps * d.cols.taps * d.depth, block.columns, d.table.lanes, w + block.filter * size,
                      d.filters * size, to + number * d.block_bytes)


cdef void unpack_block(const Depthwise *d, const char *packed, Py_ssize_t number, char *w) noexcept nogil:
    cdef Block block = block_of(d, number)
    cdef Py_ssize_t size = d.table.itemsize, i
    for i in range(d.rows.taps * d.cols.taps * d.depth):
        memcpy(w + (i * d.filters + block.filter) * size,
               packed + number * d.block_bytes + i * d.table.lanes * size, block.columns * size)


cdef bint goes_past(const Depthwise *d) noexcept nogil:
    """Whether y is written past the caches, which takes vectors that are whole lines: parts of several would wait."""
    return (not d.depth and d.table.lanes * d.table.itemsize == FC_LINE and in_vectors(d.table, d.y, d.y_pixel)
            and result_bytes(d) > past_bytes)


cdef int run(Depthwise *d, const char *w, bint prepared, int threads) except -1:
    """Compute y from the filters w."""
    cdef Py_ssize_t i, list_bytes = rows_bytes(d), parts, rows
    cdef Py_ssize_t packed_bytes = d.blocks * d.block_bytes if d.depth and not prepared else 0
    cdef char *scratch = acquire(columns_bytes(d) + threads * list_bytes + packed_bytes)
    cdef char *lists = scratch + columns_bytes(d)
    cdef char *packed = lists + threads * list_bytes
    d.w = <const char *> packed if packed_bytes else w
    d.past = goes_past(d)
    with nogil:
        cut_columns(d, True, scratch)
        rows = 2 if d.pairs and d.images * d.rows.out >= 2 * threads else 1
        parts = ceil_div(d.rows.out, rows)  # of an image
        with parallel(num_threads=threads):
            if packed_bytes:
                for i in prange(d.blocks, schedule="static"):
                    pack_block(d, w, i, packed)
            for i in prange(d.images * parts * d.blocks if d.depth else 0, schedule="static"):
                run_row(d, i % d.blocks, i // d.blocks, <Py_ssize_t *> (lists + threadid() * list_bytes), NULL)
            for i in prange(0 if d.depth else d.images * parts, schedule="static"):
                run_rows(d, i // parts * d.rows.out + i % parts * rows,
                         i // parts * d.rows.out + min(d.rows.out, (i % parts + 1) * rows),
                         <Py_ssize_t *> (lists + threadid() * list_bytes))
            if d.past:
                d.table.past_done()
    release(scratch)
    return 0


cdef int run_filters(Depthwise *f, Depthwise *d, char *dw, int threads, const Passing *p=NULL) except -1:
    """Compute the gradient of the filters by f and, unless d is NULL, of the input by d, which has no groups; p, unless
    it is NULL, tells what is made on the way."""
    cdef Py_ssize_t i, list_bytes = rows_bytes(f), lines = columns_bytes(f), all_blocks = f.blocks * f.block_bytes
    cdef Py_ssize_t more_lines = columns_bytes(d) if d != NULL else 0
    cdef Py_ssize_t packed_bytes = all_blocks if f.depth else 0
    cdef Py_ssize_t own_bytes = 0, part
    cdef Shares shares
    cdef char *scratch
    cdef char *kept
    cdef char *lists
    cdef char *packed
    if p != NULL:
        own_bytes = kept_bytes(p.dy) + kept_bytes(p.x) + line(2 * f.x_pixel) + line(p.dx_kept * d.cols.out * d.y_pixel)
    scratch = acquire(lines + more_lines + threads * (list_bytes + own_bytes) + packed_bytes + f.parts * all_blocks)
    kept = scratch + lines + more_lines
    lists = kept + threads * own_bytes
    packed = lists + threads * list_bytes
    f.sums = packed + packed_bytes
    if d != NULL:
        d.past = goes_past(d) and (p == NULL or p.x == NULL)  # what is added up is read again
    share(&shares, f.parts, threads)
    with nogil:
        cut_columns(f, False, scratch)
        if d != NULL:
            cut_columns(d, True, scratch + lines)
        with parallel(num_threads=threads):
            for i in prange(threads, schedule="static", chunksize=1):
                part = take(&shares, i)
                while part >= 0:
                    run_part(f, d, part, <Py_ssize_t *> (lists + i * list_bytes), p, kept + i * own_bytes)
                    part = take(&shares, i)
            if d != NULL and d.past:
                d.table.past_done()
        if not f.depth:
            packed = dw
        sum_lines(f.table, f.parts, all_blocks // f.table.itemsize, f.sums, packed)
        for i in range(f.blocks if f.depth else 0):
            unpack_block(f, packed, i, dw)
    release(scratch)
    return 0


# ---- of a source that is made on the way ----

cdef struct Expansion:
    # The source is act(x @ filters + bias), of `depth` channels, the filters packed in panels. What no tile can apply,
    # goes over it once more while it is near.
    const char *x
    Py_ssize_t depth
    const char *filters
    Py_ssize_t filters_bytes, width, panels
    const char *bias
    int relu
    fc_map *activation
    double parameter
    # Channels are cut into groups of so many panels. Threads that share an image have so many tasks each: first the
    # groups that are a thread's own, in all rows; then one or other band of those that are left.
    Py_ssize_t group, groups, sharers, tasks, own, bands


cdef inline Py_ssize_t window_rows(const Depthwise *d) noexcept nogil:
    """Rows of the source from the first that an output row sees to the last."""
    return (d.rows.taps - 1) * d.rows.dilation + 1


cdef void expand(const Depthwise *d, const Expansion *e, Py_ssize_t image, Py_ssize_t panel, Py_ssize_t row,
                 Py_ssize_t end) noexcept nogil:
    """Make rows of the source, in the channels of d, which are those of the panels from that one on."""
    cdef Py_ssize_t size = d.table.itemsize, no_offset = 0, width, rows, column
    cdef Py_ssize_t panel_bytes = e.width * e.depth * size
    cdef int kind
    cdef char *y
    cdef fc_tile t
    t.runs = &no_offset
    t.n_runs = 1
    t.run_length = e.depth
    t.a_row = e.depth * size
    t.a_step = size
    t.c_row = d.x_pixel
    t.residual = 0
    t.relu = e.relu
    t.accumulate = t.past = False
    while row < end:
        rows = min(end - row, d.kept - row % d.kept)
        y = <char *> d.x + row % d.kept * d.cols.source * d.x_pixel
        column = 0
        while column < d.unit_filters:
            t.columns = min(e.width, d.unit_filters - column)
            panel_shape(d.table, t.columns, &width, &kind)
            t.b = e.filters + (panel + column // e.width) * panel_bytes
            t.b_step = width * size
            t.bias = e.bias + (panel * e.width + column) * size if e.bias != NULL else NULL
            t.a = e.x + (image * d.rows.source + row) * d.cols.source * t.a_row
            t.c = y + column * size
            t.ahead = t.ahead_end = NULL
            # The next panel, which may be the first that this thread takes next.
            bring_near(d.table, kind, &t, rows * d.cols.source, 1, t.b + panel_bytes,
                       min(panel_bytes, e.filters + e.filters_bytes - t.b - panel_bytes))
            multiply_tiles(d.table, kind, &t, rows * d.cols.source)
            column += e.width
        if e.activation != NULL:
            e.activation(rows * d.cols.source * d.unit_filters, y, y, y, e.parameter)
        row += rows


cdef void run_expanded(const Depthwise *all, const Expansion *e, Py_ssize_t task, Py_ssize_t *lists,
                       char *kept) noexcept nogil:
    """Output rows of one image, all of them or a band, in the channels of a group of panels."""
    cdef Py_ssize_t size = all.table.itemsize, number = task % e.tasks, sharer = task // e.tasks % e.sharers
    cdef Py_ssize_t image = task // e.tasks // e.sharers, group = sharer * e.own + number, panel, part
    cdef Py_ssize_t row = 0, end = all.rows.out
    cdef Py_ssize_t made = 0, first, wanted, last, next_row
    cdef Depthwise d = all[0]
    if number >= e.own:
        part = (number - e.own) * e.sharers + sharer
        group = e.sharers * e.own + part // e.bands
        row = d.rows.out * (part % e.bands) // e.bands
        end = d.rows.out * (part % e.bands + 1) // e.bands
    if group >= e.groups:
        return
    panel = group * e.group
    d.unit_filters = min(e.group * e.width, all.filters - panel * e.width)
    d.x = kept
    d.x_pixel = d.unit_filters * size
    d.w += panel * e.width * size
    d.y += image * d.rows.out * d.cols.out * d.y_pixel + panel * e.width * size
    if d.bias != NULL:
        d.bias += panel * e.width * size
    last = min(d.rows.source, (end - 1) * d.rows.out_step - d.rows.before + window_rows(&d))
    while row < end:
        next_row = min(end, row + 1 + d.pairs)
        first = max(0, row * d.rows.out_step - d.rows.before)
        wanted = min(last, (next_row - 1) * d.rows.out_step - d.rows.before + window_rows(&d))
        made = max(made, first)
        if made < wanted:
            wanted = min(last, first + d.kept)  # as many as there is room for
            expand(&d, e, image, panel, made, wanted)
            made = wanted
        run_rows(&d, row, next_row, lists)
        row = next_row


cdef void cut_expansion(Depthwise *d, Expansion *e, int threads) noexcept nogil:
    """Choose groups and bands, and how many rows of the source are kept: these stay in L2.

    Bands side by side make some rows twice, groups all read x.
    """
    cdef Py_ssize_t least = min(d.rows.source, window_rows(d) + d.rows.out_step - 1 + may_pair(d)), most
    cdef Py_ssize_t pixels = d.cols.source * d.table.itemsize
    cdef bint whole
    e.width = panel_width(d.table, d.filters, e.depth)
    e.panels = ceil_div(d.filters, e.width)
    e.sharers = ceil_div(threads, d.images)
    e.bands = max(1, min(e.sharers, d.rows.out // BAND_ROWS))
    whole = (e.sharers > 1 and d.rows.out < ALL_BANDS_ROWS * e.sharers
             and d.rows.source * pixels * e.depth <= l2_bytes // 2)
    most = max(1, l2_bytes // 2 // max(1, least * pixels * e.width))
    e.groups = e.panels if whole else min(e.panels, ceil_div(4 * threads, d.images * e.bands))
    e.group = min(most, ceil_div(e.panels, e.groups))
    e.groups = ceil_div(e.panels, e.group)
    e.own = e.groups // e.sharers if whole else 0
    e.tasks = e.own + ceil_div((e.groups - e.sharers * e.own) * e.bands, e.sharers)
    d.kept = min(d.rows.source, max(least, l2_bytes // 8 // max(1, pixels * e.width * e.group)))


cdef int run_expansion(Depthwise *d, Py_ssize_t depth, tuple expansion, double flops) except -1:
    """Compute y, in so many operations, from an expansion of d's x, of so many channels."""
    cdef cnp.ndarray filters, bias
    cdef int activation, threads
    cdef Expansion e
    cdef Py_ssize_t size = d.table.itemsize, i, task, bias_bytes, task_bytes, lists = columns_bytes(d)
    cdef Shares shares
    cdef char *scratch
    cdef char *own
    filters, bias, e.relu, activation, e.parameter = expansion
    e.x = d.x
    e.depth = depth
    e.filters = cnp.PyArray_BYTES(filters)
    e.filters_bytes = cnp.PyArray_NBYTES(filters)
    e.activation = NULL
    if activation >= 0:
        e.activation = d.table.map[activation]
    flops += 2.0 * d.images * d.rows.source * d.cols.source * d.filters * depth
    threads = threads_for_flops(d.table, flops)
    cut_expansion(d, &e, threads)
    # What is read is near, and what is written will be read soon.
    d.prefetch = 2 if result_bytes(d) > l2_bytes // 2 else 0
    bias_bytes = line(e.panels * e.width * size)
    task_bytes = rows_bytes(d) + line(d.kept * d.cols.source * e.group * e.width * size)
    scratch = acquire(lists + bias_bytes + threads * task_bytes)
    own = scratch + lists + bias_bytes
    e.bias = pad_bias(NULL if bias is None else cnp.PyArray_BYTES(bias), d.filters * size, bias_bytes, scratch + lists)
    share(&shares, d.images * e.sharers * e.tasks, threads)
    with nogil:
        cut_columns(d, True, scratch)
        for i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
            task = take(&shares, i)
            while task >= 0:
                run_expanded(d, &e, task, <Py_ssize_t *> (own + i * task_bytes), own + i * task_bytes + rows_bytes(d))
                task = take(&shares, i)
    release(scratch)
    return 0


# ---- result and gradients ----

def prepare(Geometry g, cnp.ndarray w, cnp.ndarray scale=None):
    """Return the filters, each times its float64 if there is a scale, as forward takes them when they are prepared:
    where there are groups packed, else as they are.
    """
    cdef Depthwise d = depthwise(g, w)
    cdef cnp.ndarray packed
    cdef Py_ssize_t i
    w = scaled_array(w, scale)
    if not d.depth:
        return w
    packed = aligned(d.blocks * d.block_bytes // d.table.itemsize, w.dtype)
    for i in range(d.blocks):
        pack_block(&d, cnp.PyArray_BYTES(w), i, cnp.PyArray_BYTES(packed))
    return packed


def forward(Geometry g, cnp.ndarray x, cnp.ndarray w, cnp.ndarray bias, cnp.ndarray residual, int relu,
            cnp.ndarray y, bint prepared=False, tuple expansion=None):
    """Write act(conv(x, w) + bias + residual) to y; bias and residual may be None. With groups of several channels or
    filters, y's pixels may lie apart.

    An expansion, for depthwise filters, is (filters, bias, relu, activation, parameter): act(x @ filters + bias) is
    convolved, the filters in packed panels. That is a relu as here, or, if the number of an activation is not negative,
    that map with its parameter.
    """
    cdef Depthwise d = depthwise(g, x)
    d.x = cnp.PyArray_BYTES(x)
    d.bias = NULL if bias is None else cnp.PyArray_BYTES(bias)
    d.residual = distance(y, residual)
    d.relu = relu
    d.y = cnp.PyArray_BYTES(y)
    d.y_pixel = pixel_pitch(y)
    if expansion is None:
        run(&d, cnp.PyArray_BYTES(w), prepared, threads_for(g.flops()))
    else:
        d.w = cnp.PyArray_BYTES(w)
        run_expansion(&d, cnp.PyArray_DIM(x, 3), expansion, g.flops())


cdef Depthwise for_input(Geometry g, cnp.ndarray dy, cnp.ndarray dx) noexcept:
    """Return what computes the gradient of the input, but for the filters."""
    cdef Depthwise d = depthwise(g, dy)
    cut_filters(&d, g.filters, g.channels, g.groups)
    d.x_pixel, d.y_pixel = d.y_pixel, d.x_pixel
    d.x = cnp.PyArray_BYTES(dy)
    d.y = cnp.PyArray_BYTES(dx)
    d.rows = Axis(g.in_h, g.out_h, 1, g.stride_h, -g.top, g.rows, -g.dilation_h)
    d.kept = g.images * g.out_h
    d.y_kept = g.images * g.in_h
    d.cols = Axis(g.in_w, g.out_w, 1, g.stride_w, -g.left, g.cols, -g.dilation_w)
    d.out_step = g.stride_w
    d.source_step = 1
    return d


cdef Py_ssize_t parts_of(Geometry g) noexcept:
    """Return in how many parts sums over the output's rows are taken: as many as most numbers of threads share out
    evenly."""
    cdef Py_ssize_t parts = 1
    while parts < PARTS and parts * PART_ROWS < g.images * g.out_h:
        parts *= 2
    return parts


cdef Depthwise for_filters(Geometry g, cnp.ndarray dy, cnp.ndarray x) noexcept:
    """Return what computes the gradient of the filters."""
    cdef Depthwise f = depthwise(g, x)
    f.x = cnp.PyArray_BYTES(x)
    f.y = cnp.PyArray_BYTES(dy)
    f.parts = parts_of(g)
    return f


def backward_input(Geometry g, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray dx):
    """Write the gradient of the input to dx."""
    cdef Depthwise d = for_input(g, dy, dx)
    if d.depth:
        w = np.ascontiguousarray(
            w.reshape(g.rows, g.cols, g.channels // g.groups, g.groups, d.depth).transpose(0, 1, 4, 3, 2)
        )
    run(&d, cnp.PyArray_BYTES(w), False, threads_for(g.flops()))


def backward_filters(Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
    """Write the gradient of the filters to dw."""
    cdef Depthwise f = for_filters(g, dy, x)
    run_filters(&f, NULL, cnp.PyArray_BYTES(dw), threads_for(g.flops()))


def backward(Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray w, cnp.ndarray dx, cnp.ndarray dw):
    """Write the gradients of the input and of depthwise filters to dx and dw, with the bits of one after the other.

    From one pass over dy, where that has as many parts as there are threads.
    """
    cdef Depthwise f = for_filters(g, dy, x), d = for_input(g, dy, dx)
    cdef int threads = threads_for(2 * g.flops())
    if f.parts < threads:
        backward_filters(g, dy, x, dw)
        backward_input(g, dy, w, dx)
    else:
        d.w = cnp.PyArray_BYTES(w)
        run_filters(&f, &d, cnp.PyArray_BYTES(dw), threads)


# ---- between batch normalisations, in training ----

cdef Py_ssize_t most_read(const Depthwise *d) except -1:
    """Return how many rows of the source, from first to last, two rows of an image are computed from at most."""
    cdef Py_ssize_t row, first, last, most = 1
    cdef Py_ssize_t *lists = <Py_ssize_t *> acquire(rows_bytes(d))
    for row in range(d.rows.out):
        first, last = d.rows.source, 0
        rows_read(d, row, min(row + 2, d.rows.out), lists, &first, &last)
        most = max(most, last - first)
    release(<char *> lists)
    return most


cdef int rows_kept(const Depthwise *d, Py_ssize_t *dy, Py_ssize_t *dx) except -1:
    """Find how many rows of dy are needed at a time, and how many of the input's gradient are computed."""
    cdef Py_ssize_t row, count, first, last, dy_first, dy_last
    cdef Py_ssize_t *lists = <Py_ssize_t *> acquire(rows_bytes(d))
    dy[0] = dx[0] = 1
    for row in range(d.rows.source):
        count = min(2, d.rows.source - row)
        rows_beside(d, row, count, &first, &last)
        dy_first, dy_last = row, row + count
        rows_read(d, first, last, lists, &dy_first, &dy_last)
        dy[0] = max(dy[0], dy_last - dy_first)
        dx[0] = max(dx[0], last - first)
    release(<char *> lists)
    return 0


def pays_normalized(Geometry g, cnp.ndarray x):
    """Whether what lies beside a batch normalisation is faster made on the way: arrays are beyond L2, but rows that are
    needed at a time stay there. Sums are then taken in another order, whatever the threads."""
    cdef Depthwise f = for_filters(g, x, x), d = for_input(g, x, x)
    cdef Py_ssize_t dy_rows, dx_rows
    if f.depth or g.filters < f.table.lanes or result_bytes(&d) <= LEAST_L2 * l2_bytes:
        return False
    rows_kept(&d, &dy_rows, &dx_rows)
    return (dy_rows * f.cols.out * f.y_pixel + (most_read(&f) + dx_rows) * f.cols.source * f.x_pixel
            <= l2_bytes * 5 // 8)


def backward_normalized(Geometry g, tuple normalized, cnp.ndarray x, tuple made, cnp.ndarray w, cnp.ndarray dx,
                        cnp.ndarray dw, cnp.ndarray total, cnp.ndarray dot):
    """Write what `backward` does, from a dy that is `normalized`: as `rows_of_gradient` takes it. The input is x, or
    `made` as `rows_of_result` takes it, of x; then total and dot are the sums of `_elementwise.normalize_sums`."""
    cdef Depthwise f = for_filters(g, x, x), d = for_input(g, x, dx)
    cdef Py_ssize_t dy_rows, dx_rows, nbytes = f.parts * f.x_pixel
    cdef Making dy, source
    cdef Passing p
    cdef char *sums
    rows_kept(&d, &dy_rows, &dx_rows)
    dy = making(f.table, rows_of_gradient(normalized), f.cols.out, dy_rows)
    p.dy = &dy
    p.x = NULL
    p.dx_kept = 0
    d.w = cnp.PyArray_BYTES(w)
    if made is not None:
        p.sums = rows_of_result(made)
        source = making(f.table, p.sums, f.cols.source, most_read(&f))
        p.x = &source
        if goes_past(&d):
            p.dx_kept = dx_rows
    sums = acquire(2 * nbytes)
    memset(sums, 0, 2 * nbytes)
    p.sums.total = sums
    p.sums.dot = sums + nbytes
    try:
        run_filters(&f, &d, cnp.PyArray_BYTES(dw), threads_for(2 * g.flops()), &p)
        if made is not None:
            sum_lines(f.table, f.parts, g.channels, p.sums.total, cnp.PyArray_BYTES(total))
            sum_lines(f.table, f.parts, g.channels, p.sums.dot, cnp.PyArray_BYTES(dot))
    finally:
        release(sums)


cdef void find_centre(const Depthwise *d, Py_ssize_t *lists, const Making *x, char *centre, char *kept) noexcept nogil:
    """Write the means of a few rows of the result, from all over the images."""
    cdef Py_ssize_t rows = min(d.images * d.rows.out, CENTRE_ROWS), i, row
    cdef Py_ssize_t nbytes = d.cols.out * d.y_pixel
    cdef char *y = kept + kept_bytes(x)
    cdef Kept source = Kept(0, 0, kept)
    cdef Depthwise own = d[0]
    own.y_kept = 1
    own.past = False
    if x != NULL:
        own.x, own.kept = kept, x.kept
    for i in range(rows):
        own.y = y + i * nbytes
        row = i * d.images // rows * d.rows.out + (2 * i + 1) * d.rows.out // (2 * rows)
        if x != NULL:
            keep_read(d, row, row + 1, lists, x, &source)
        run_row(&own, 0, row, lists, NULL)
    choose_centre(d.table, rows * d.cols.out, d.filters, y, centre)


def forward_measured(Geometry g, cnp.ndarray x, tuple made, cnp.ndarray w, cnp.ndarray y, cnp.ndarray mean,
                     cnp.ndarray variance):
    """Write the result to y and its moments to mean and variance. The input is x, or `made` as `rows_of_result` takes
    it, of x."""
    cdef Depthwise d = depthwise(g, x)
    cdef int threads = threads_for(g.flops())
    cdef Py_ssize_t i, part, list_bytes = rows_bytes(&d), own_bytes, nbytes
    cdef Shares shares
    cdef Making making_x
    cdef Making *source = NULL
    cdef fc_norm moments
    cdef char *scratch
    cdef char *own
    d.parts = parts_of(g)
    nbytes = d.parts * d.y_pixel
    d.x = cnp.PyArray_BYTES(x)
    d.y = cnp.PyArray_BYTES(y)
    d.w = cnp.PyArray_BYTES(w)
    if made is not None:
        making_x = making(d.table, rows_of_result(made), d.cols.source, most_read(&d))
        source = &making_x
        if d.prefetch and d.source_step > 1:
            d.prefetch = 2  # rows are made faster than they are seen
    # Sums, or what the centre is found from.
    own_bytes = list_bytes + kept_bytes(source) + line(max(2, CENTRE_ROWS * d.cols.out) * d.y_pixel)
    scratch = acquire(columns_bytes(&d) + 2 * nbytes + line(d.y_pixel) + threads * own_bytes)
    memset(&moments, 0, sizeof(moments))
    moments.columns = g.filters
    moments.mean = cnp.PyArray_BYTES(mean)
    moments.total = scratch + columns_bytes(&d)
    moments.dot = moments.total + nbytes
    own = moments.dot + nbytes + line(d.y_pixel)
    share(&shares, d.parts, threads)
    with nogil:
        cut_columns(&d, True, scratch)
        find_centre(&d, <Py_ssize_t *> own, source, cnp.PyArray_BYTES(mean), own + list_bytes)
        memset(moments.total, 0, 2 * nbytes)
        with parallel(num_threads=threads):
            for i in prange(threads, schedule="static", chunksize=1):
                part = take(&shares, i)
                while part >= 0:
                    run_measured(&d, part, <Py_ssize_t *> (own + i * own_bytes), source, &moments,
                                 own + i * own_bytes + list_bytes)
                    part = take(&shares, i)
        own = moments.dot + nbytes
        sum_lines(d.table, d.parts, g.filters, moments.total, own)
        sum_lines(d.table, d.parts, g.filters, moments.dot, cnp.PyArray_BYTES(variance))
        write_moments(d.table, d.images * d.rows.out * d.cols.out, g.filters, own, cnp.PyArray_BYTES(mean),
                      cnp.PyArray_BYTES(variance))
    release(scratch)
