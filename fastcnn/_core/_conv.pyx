"""Direct 2-D convolution: result, gradient of the input, gradient of the filters.

The receptive field of an output pixel is, in a zero-padded copy of the input, a few contiguous runs: one per
filter row, of S * C elements (one per filter tap, of C elements, where the filter is dilated). Convolution is
then a matrix product whose reduction is those runs, and a register tile computes a strip of output pixels of
one row without any im2col:

* forward: A = padded input, B = filters;
* gradient of the input: the same with A = padded output gradient and B = flipped, transposed filters; with
  strides, one such product for each phase of the strides, each with its own subset of the filter taps; or, where
  the input has few channels, every output pixel's gradient times a filter row, added to the run of input pixels
  that it came from;
* gradient of the filters: A = padded input transposed in place (by strides), B = output gradient, reduced
  over pixels.

``correlate`` serves the first two, ``scatter`` an input of few channels, ``accumulate_filters`` the filters. Work
is split over outputs, and the reduction over many pixels into parts whose number depends on sizes alone, so results
have the same bits for every number of threads.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._elementwise cimport add_sums, rows_of_gradient, rows_of_result, sum_lines
from ._gemm cimport (
    Ahead, Product, add_stretch, bring_near, bring_share, fc_prefetch, multiply_panels, multiply_tiles, pack_panels,
    packed_width, pad_bias, panel_shape, panel_steps, panel_width, pays_packed, product, share_out,
)
from ._runtime cimport (
    Shares, acquire, aligned, ceil_div, distance, fc_kernels, fc_norm, fc_pool, fc_tile, in_vectors, kernels, l1_bytes,
    l2_bytes, line, past_bytes, pixel_pitch, release, share, take, threads_for, threads_for_flops,
)

cnp.import_array()


cdef inline Py_ssize_t floor_mod(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return ((a % b) + b) % b


cdef slice seen_taps(Py_ssize_t size, Py_ssize_t outputs, Py_ssize_t stride, Py_ssize_t before, Py_ssize_t dilation,
                     Py_ssize_t taps):
    """Return which taps, along one axis, see pixels: all where none does. Of those before them as many are left out as
    there is padding for: what begins behind an image's first pixel is an image larger than its padding."""
    cdef Py_ssize_t first = max(0, min(ceil_div(before - (outputs - 1) * stride, dilation), before // dilation))
    cdef Py_ssize_t stop = min(taps, (size - 1 + before) // dilation + 1)
    return slice(first, stop) if first < stop else slice(0, taps)


cdef class Geometry:
    """The sizes of one convolution, checked by whoever makes it."""

    def __init__(self, input_shape, filters_shape, output_shape, strides, offsets, dilations, groups):
        self.images, self.in_h, self.in_w, self.channels = input_shape
        self.rows, self.cols, _, self.filters = filters_shape
        _, self.out_h, self.out_w, _ = output_shape
        self.stride_h, self.stride_w = strides
        self.top, self.left = offsets
        self.dilation_h, self.dilation_w = dilations
        self.groups = groups
        v = seen_taps(self.in_h, self.out_h, self.stride_h, self.top, self.dilation_h, self.rows)
        h = seen_taps(self.in_w, self.out_w, self.stride_w, self.left, self.dilation_w, self.cols)
        seen = v.stop - v.start, h.stop - h.start
        if seen != filters_shape[:2]:
            self.taps = v, h
            inside = self.top - v.start * self.dilation_h, self.left - h.start * self.dilation_w
            self.seen = Geometry(input_shape, (*seen, *filters_shape[2:]), output_shape, strides, inside, dilations,
                                 groups)

    cdef double flops(self) noexcept:
        return (2.0 * self.images * self.out_h * self.out_w * self.filters * self.rows * self.cols
                * (self.channels // self.groups))

    cpdef bint is_product(self) noexcept:
        """Whether this is a plain matrix product: 1x1 filters at every pixel."""
        return (self.rows == 1 and self.cols == 1 and self.stride_h == 1 and self.stride_w == 1
                and self.top == 0 and self.left == 0 and self.groups == 1
                and self.out_h == self.in_h and self.out_w == self.in_w)

    cdef bint samples(self) noexcept:
        """Whether this is one of 1x1 filters at some of the pixels, few enough that a copy of them stays in L2."""
        return (self.rows == 1 and self.cols == 1 and self.top == 0 and self.left == 0 and self.groups == 1
                and (self.out_h - 1) * self.stride_h < self.in_h and (self.out_w - 1) * self.stride_w < self.in_w
                and self.images * self.out_h * self.out_w * self.channels <= l2_bytes // 8)


# ---- a window that slides over a padded source ----

cdef struct Source:
    # Images of in_h x in_w pixels; of each pixel's x_channels the first `channels` from x on are used.
    const char *x
    Py_ssize_t in_h, in_w, x_channels, channels, size
    # Output pixel (0, 0) sees the source from (base_row, base_col) on, which may lie outside; steps from one
    # output pixel to the next; what a window spans.
    Py_ssize_t base_row, base_col, row_step, col_step, span_h, span_w
    Py_ssize_t out_h, out_w
    # Filled by plan_source: whether the source can be read in place, and the pitch of what is read, in bytes.
    bint in_place
    Py_ssize_t copy_w, pixel, pitch


cdef Source source_of(Geometry g, cnp.ndarray x) noexcept:
    """Return the input, of which every output pixel of the first group sees its window."""
    return Source(
        x=cnp.PyArray_BYTES(x), in_h=g.in_h, in_w=g.in_w, x_channels=g.channels, channels=g.channels // g.groups,
        size=cnp.PyArray_ITEMSIZE(x), base_row=-g.top, base_col=-g.left, row_step=g.stride_h, col_step=g.stride_w,
        span_h=(g.rows - 1) * g.dilation_h + 1, span_w=(g.cols - 1) * g.dilation_w + 1,
        out_h=g.out_h, out_w=g.out_w, in_place=False, copy_w=0, pixel=0, pitch=0)


cdef void plan_source(Source *s) noexcept nogil:
    cdef Py_ssize_t last_row = s.base_row + (s.out_h - 1) * s.row_step + s.span_h
    cdef Py_ssize_t last_col = s.base_col + (s.out_w - 1) * s.col_step + s.span_w
    s.in_place = s.base_row >= 0 and s.base_col >= 0 and last_row <= s.in_h and last_col <= s.in_w
    s.copy_w = (s.out_w - 1) * s.col_step + s.span_w
    s.pixel = (s.x_channels if s.in_place else s.channels) * s.size
    s.pitch = (s.in_w if s.in_place else s.copy_w) * s.pixel


cdef inline Py_ssize_t band_rows(const Source *s, Py_ssize_t rows) noexcept nogil:
    """Source rows that so many output rows see."""
    return (rows - 1) * s.row_step + s.span_h if rows > 0 else 0


cdef void copy_row(const Source *s, Py_ssize_t image, Py_ssize_t row, char *to) noexcept nogil:
    """Copy one source row, zero where it lies outside, to copy_w dense pixels."""
    cdef Py_ssize_t first = max(0, -s.base_col), last = min(s.copy_w, s.in_w - s.base_col), col
    cdef const char *x
    if row < 0 or row >= s.in_h or first >= last:
        memset(to, 0, s.copy_w * s.pixel)
        return
    memset(to, 0, first * s.pixel)
    x = s.x + ((image * s.in_h + row) * s.in_w + s.base_col + first) * s.x_channels * s.size
    if s.x_channels == s.channels:
        memcpy(to + first * s.pixel, x, (last - first) * s.pixel)
    else:
        for col in range(first, last):
            memcpy(to + col * s.pixel, x, s.pixel)
            x += s.x_channels * s.size
    memset(to + last * s.pixel, 0, (s.copy_w - last) * s.pixel)


cdef const char *window(const Source *s, Py_ssize_t image, Py_ssize_t out_row, Py_ssize_t rows,
                        char *copy) noexcept nogil:
    """Return where the first window of an output row begins: in place, or in a copy of the band made here."""
    cdef Py_ssize_t first = s.base_row + out_row * s.row_step, i
    if s.in_place:
        return s.x + (image * s.in_h + first) * s.pitch + s.base_col * s.pixel
    for i in range(band_rows(s, rows)):
        copy_row(s, image, first + i, copy + i * s.pitch)
    return copy


# ---- max pooling of a result on the way ----

cdef Pooled pooled_to(cnp.ndarray y, bint pools, cnp.ndarray argmax) noexcept:
    """Return where maxima go, to an array of images whose pixels may lie apart, if a result is pooled.

    With an argmax, of bytes, pixels of y lie side by side.
    """
    cdef Pooled p = Pooled(NULL, 0, 0, 0, NULL)
    if pools:
        p = Pooled(cnp.PyArray_BYTES(y), cnp.PyArray_DIM(y, 1), cnp.PyArray_DIM(y, 2), pixel_pitch(y), NULL)
        if argmax is not None:
            p.argmax = <uint8_t *> cnp.PyArray_BYTES(argmax)
    return p


cdef void pool_pixels(const fc_kernels *table, const Pooled *p, const char *x, Py_ssize_t x_row, Py_ssize_t x_col,
                      Py_ssize_t image, Py_ssize_t row, Py_ssize_t col, Py_ssize_t rows, Py_ssize_t cols,
                      Py_ssize_t offset, Py_ssize_t channels) noexcept nogil:
    """Write the maxima of 2 x 2 of the rows x cols pixels, at x, that begin at (row, col) of an image, in so many
    channels, the first of which is at some offset into a pixel."""
    cdef Py_ssize_t i, j, pixels = min(cols // 2, p.out_w - col // 2), step = pixels
    cdef Py_ssize_t taps[4]
    cdef fc_pool t
    taps[0], taps[1], taps[2], taps[3] = 0, x_col, x_row, x_row + x_col
    t.taps = taps
    t.n_taps = 4
    t.x_step = 2 * x_col
    t.y_step = p.pixel
    # Of whole vectors, or pixel by pixel: the leaf may write on into the channels of its own next pixels.
    if channels % table.lanes and p.pixel != channels * table.itemsize:
        step = 1
    t.pixels = step
    t.channels = channels
    t.argmax = NULL
    t.result = NULL
    t.tiled = True
    t.threes = False
    for i in range(min(rows // 2, p.out_h - row // 2)):
        j = 0
        while j < pixels:
            t.x = x + 2 * i * x_row + j * t.x_step
            t.y = p.y + ((image * p.out_h + row // 2 + i) * p.out_w + col // 2 + j) * p.pixel + offset
            if p.argmax != NULL:
                t.argmax = p.argmax + (t.y - p.y) // table.itemsize
            table.max_pool(&t)
            j += step


# ---- forward and gradient of the input ----

cdef struct Taps:
    # Filter taps along one axis, in the order of the source, and the source offset of each from the first.
    Py_ssize_t count, first, step, offset_step


cdef struct Correlation:
    const fc_kernels *table
    Source source
    Py_ssize_t images, depth, n_runs, run_length
    Py_ssize_t *runs
    # Filters: rows of w_row bytes, a tap of them as many as the source has channels (transposed: as the output has);
    # w_cols taps in a filter row. Then their packed panels, each with `depth` rows, where they are not prepared.
    const char *w
    Py_ssize_t w_row, w_cols
    bint transposed, prepared
    Taps row_taps, col_taps
    const char *filters
    Py_ssize_t columns, panels, width
    const char *bias
    char *y
    Py_ssize_t y_image, y_row, y_col
    # How far from y lies what is added to it before relu, laid out as y; 0: nothing is.
    Py_ssize_t residual
    int relu
    # Groups of the convolution, each a convolution by itself, and how many bytes its source, filters, packed filters,
    # bias and output are from the last one's.
    Py_ssize_t convs, x_conv, w_conv, filters_conv, bias_conv, y_conv
    # Cut of the work: images of a batch; rows of a band, panels of a group, and how many of each; runs of a slab, whose
    # part of a panel stays in L2 while the band's rows pass by and the next one is brought there. Where no two tasks
    # need the same panel, each packs its own, by slabs.
    Py_ssize_t batch, rows, bands, group, groups, slab
    bint packs_slabs
    # If the result is pooled, a task's part of it is made in scratch.
    Pooled pooled
    Py_ssize_t copy_bytes, slab_bytes, part_bytes


cdef void plan_filters(Correlation *c, Py_ssize_t channels) noexcept nogil:
    """Lay out the packed filters, which see so many channels."""
    c.depth = c.row_taps.count * c.col_taps.count * channels
    c.width = panel_width(c.table, c.columns, c.depth)
    c.panels = ceil_div(c.columns, c.width)


cdef Correlation correlation_of(const Correlation *c, Py_ssize_t i) noexcept nogil:
    """Return the correlation of the i-th group."""
    cdef Correlation own = c[0]
    own.source.x += i * c.x_conv
    own.w += i * c.w_conv
    own.filters += i * c.filters_conv
    own.y += i * c.y_conv
    if own.bias != NULL:
        own.bias += i * c.bias_conv
    return own


cdef void pack_filters(const Correlation *c, Py_ssize_t panel, Py_ssize_t run, Py_ssize_t n_runs,
                       char *to) noexcept nogil:
    """Pack some runs of one panel: of the filters as they are, or tap by tap transposed, in the order of the taps."""
    cdef Py_ssize_t size = c.table.itemsize, first = panel * c.width, left = min(c.width, c.columns - first)
    cdef Py_ssize_t taps = c.run_length // max(1, c.source.channels), i, tap
    if not c.transposed:
        pack_panels(c.table, c.w + run * c.run_length * c.w_row + first * size, c.w_row, False, n_runs * c.run_length,
                    left, c.width, to)
        return
    for i in range(run * taps, (run + n_runs) * taps):
        tap = ((c.row_taps.first + i // c.col_taps.count * c.row_taps.step) * c.w_cols
               + c.col_taps.first + i % c.col_taps.count * c.col_taps.step)
        to = pack_panels(c.table, c.w + (tap * c.columns + first) * c.w_row, c.w_row, True, c.source.channels, left,
                         c.width, to)


cdef void pack_panel(const Correlation *all, Py_ssize_t i) noexcept nogil:
    """Pack the i-th panel of all groups to its place among them."""
    cdef Correlation c = all[0]
    c.w += i // c.panels * c.w_conv
    pack_filters(&c, i % c.panels, 0, c.n_runs, <char *> c.filters + i * c.width * c.depth * c.table.itemsize)


cdef void correlate_band(const Correlation *c, Py_ssize_t task, char *copy, bint copied) noexcept nogil:
    """One band of output rows of a batch of images, for one group of filter panels; copied: its source is in the copy.
    """
    cdef Py_ssize_t size = c.table.itemsize, first_panel = task % c.groups * c.group, panel, row, run, i
    cdef Py_ssize_t band = task // c.groups % c.bands, image = task // c.groups // c.bands * c.batch, width
    cdef Py_ssize_t images = min(c.batch, c.images - image), x_image = c.source.in_h * c.source.pitch
    cdef Py_ssize_t first_row = band * c.rows, last_row = min(first_row + c.rows, c.source.out_h)
    cdef Py_ssize_t last_panel = min(first_panel + c.group, c.panels), slab_bytes
    cdef Py_ssize_t y_row = c.y_row, y_col = c.y_col, first_column = first_panel * c.width, columns
    cdef char *y = c.y + image * c.y_image + first_row * y_row + first_column * size
    cdef const char *x = copy
    cdef int kind
    cdef fc_tile t
    if not c.source.in_place:
        x_image = c.copy_bytes // c.batch
    if not copied:
        x = window(&c.source, image, first_row, last_row - first_row, copy)
        for i in range(1, images):
            window(&c.source, image + i, first_row, last_row - first_row, copy + i * x_image)
    columns = min(last_panel * c.width, c.columns) - first_column
    if c.pooled.y != NULL:
        y = copy + c.copy_bytes + c.slab_bytes
        y_col = columns * size
        y_row = c.source.out_w * y_col
    t.run_length = c.run_length
    t.a_row = c.source.col_step * c.source.pixel
    t.a_step = size
    t.c_row = y_col
    t.residual = c.residual
    t.past = False
    t.ahead = t.ahead_end = NULL
    for panel in range(first_panel, last_panel):
        t.columns = min(c.width, c.columns - panel * c.width)
        panel_shape(c.table, t.columns, &width, &kind)
        t.b_step = width * size
        t.bias = c.bias + panel * c.width * size if c.bias != NULL else NULL
        run = 0
        while True:
            t.runs = c.runs + run
            t.n_runs = min(c.slab, c.n_runs - run)
            t.accumulate = run > 0
            t.relu = c.relu if run + t.n_runs == c.n_runs else 0
            if c.packs_slabs:
                pack_filters(c, panel, run, t.n_runs, copy + c.copy_bytes)
                t.b = copy + c.copy_bytes
            else:
                t.b = c.filters + panel * c.width * c.depth * size + run * c.run_length * t.b_step
                # The next slab or panel, which may be that of the task which this thread is likely to take next.
                slab_bytes = t.n_runs * c.run_length * t.b_step
                bring_near(c.table, kind, &t, c.source.out_w, images * (last_row - first_row), t.b + slab_bytes,
                           min(slab_bytes, c.filters + c.columns * c.depth * size - t.b - slab_bytes))
            for i in range(images):
                for row in range(last_row - first_row):
                    t.a = x + i * x_image + row * c.source.row_step * c.source.pitch
                    t.c = y + i * c.y_image + row * y_row + (panel - first_panel) * c.width * size
                    multiply_tiles(c.table, kind, &t, c.source.out_w)
            run += c.slab
            if run >= c.n_runs:
                break
    if c.pooled.y != NULL:
        pool_pixels(c.table, &c.pooled, y, y_row, y_col, image, first_row, 0, last_row - first_row, c.source.out_w,
                    first_column * size, columns)


cdef void correlate_tasks(const Correlation *all, Shares *shares, Py_ssize_t thread, char *copy) noexcept nogil:
    """A thread's tasks. Each convolution has as many, one after the other, and each of its bands."""
    cdef Py_ssize_t tasks = ceil_div(all.images, all.batch) * all.bands * all.groups, band = -1
    cdef Py_ssize_t task = take(shares, thread)
    cdef Correlation own
    while task >= 0:
        own = correlation_of(all, task // tasks)
        correlate_band(&own, task % tasks, copy, task // all.groups == band and not own.source.in_place)
        band = task // all.groups
        task = take(shares, thread)


cdef void cut_correlation(Correlation *c, int threads) noexcept nogil:
    """Choose the bands and groups: a band's source stays in L2, and there are tasks enough to even out."""
    cdef Py_ssize_t size = c.table.itemsize, wanted = ceil_div(4 * threads, c.convs) if threads > 1 else 1
    cdef Py_ssize_t row_bytes = max(1, c.source.row_step * c.source.pitch), room = l2_bytes // 3, rows
    if c.images == 1 and not c.prepared and c.depth * c.columns * size > c.source.out_h * row_bytes:
        # As a single band it takes larger filters packed a slab at a time, which are not written and read again.
        room *= 2
    # So does its result, if it is pooled.
    rows = room // max(row_bytes, c.source.out_w * c.columns * size if c.pooled.y != NULL else 0)
    rows = max(1, min(c.source.out_h, rows))
    c.groups = 1
    if c.images * ceil_div(c.source.out_h, rows) < wanted:
        # Too few tasks: split whichever operand is the larger, so that each thread reads only its part of it.
        if c.depth * c.columns * size > c.source.out_h * row_bytes:
            c.groups = min(c.panels, ceil_div(wanted, c.images))
        rows = max(1, min(rows, c.images * c.groups * c.source.out_h // wanted))
    c.bands = ceil_div(c.source.out_h, rows)
    c.rows = ceil_div(c.source.out_h, c.bands)
    if c.pooled.y != NULL:
        c.rows = ceil_div(c.rows, 2) * 2
    c.bands = ceil_div(c.source.out_h, c.rows)
    c.group = ceil_div(c.panels, c.groups)
    c.groups = ceil_div(c.panels, c.group)
    # Where L2 has no room for the filters, they are read for several small images at a time (256-512 filters, 3x3 at a
    # stride of 2, 64 images of 8x8, two threads of a Granite Rapids: 10.1 ms, image by image 11.8; 512-512, 128 of 4x4:
    # 14.7 and 33.4).
    c.batch = 1
    if c.bands == 1 and c.groups == 1 and c.pooled.y == NULL and c.depth * c.columns * size > l2_bytes:
        c.batch = max(1, min(c.images // wanted, room // max(1, c.source.out_h * row_bytes)))
    c.part_bytes = 0 if c.pooled.y == NULL else line(
        c.rows * c.source.out_w * min(c.group * c.width, c.columns) * size)
    c.copy_bytes = 0 if c.source.in_place else c.batch * line(band_rows(&c.source, c.rows) * c.source.pitch)
    c.slab = max(1, l2_bytes // 8 // max(1, c.run_length * c.width * size))
    c.slab = max(1, ceil_div(c.n_runs, ceil_div(max(1, c.n_runs), c.slab)))
    c.packs_slabs = c.images * c.bands == 1 and not c.prepared
    c.slab_bytes = line(c.slab * c.run_length * c.width * size) if c.packs_slabs else 0


cdef int correlate(Correlation *c, const char *bias, int threads) except -1:
    """Run one correlation whose source, output, filters and taps are set."""
    cdef Py_ssize_t size = c.table.itemsize, i, j, task_bytes, n = 0
    cdef Shares shares
    cdef Taps r = c.row_taps, s = c.col_taps
    cdef bint merged
    cdef char *scratch
    cdef char *packed
    plan_source(&c.source)
    plan_filters(c, c.source.channels)
    merged = s.offset_step == 1 and c.source.pixel == c.source.channels * size
    c.n_runs = r.count * (1 if merged and s.count > 0 else s.count)
    c.run_length = (s.count if merged else 1) * c.source.channels
    cut_correlation(c, threads)
    c.filters_conv = 0 if c.packs_slabs else c.panels * c.width * c.depth * size
    c.bias_conv = c.panels * c.width * size
    task_bytes = c.copy_bytes + c.slab_bytes + c.part_bytes
    scratch = acquire((0 if c.prepared else line(c.convs * c.filters_conv)) + line(c.convs * c.bias_conv)
                      + line(c.n_runs * sizeof(Py_ssize_t)) + threads * task_bytes)
    packed = scratch
    if not c.prepared:
        c.filters = packed
        scratch += line(c.convs * c.filters_conv)
    c.bias = pad_bias(bias, c.columns * size, c.bias_conv, scratch)
    for i in range(1, c.convs if bias != NULL else 1):
        pad_bias(bias + i * c.columns * size, c.columns * size, c.bias_conv, scratch + i * c.bias_conv)
    scratch += line(c.convs * c.bias_conv)
    c.runs = <Py_ssize_t *> scratch
    scratch += line(c.n_runs * sizeof(Py_ssize_t))
    for i in range(r.count):
        for j in range(1 if merged and s.count > 0 else s.count):
            c.runs[n] = i * r.offset_step * c.source.pitch + j * s.offset_step * c.source.pixel
            n += 1
    share(&shares, c.convs * ceil_div(c.images, c.batch) * c.bands * c.groups, threads)
    with nogil, parallel(num_threads=threads):
        if not (c.packs_slabs or c.prepared):
            for i in prange(c.convs * c.panels, schedule="static"):
                pack_panel(c, i)
        for i in prange(threads, schedule="static", chunksize=1):
            correlate_tasks(c, &shares, i, scratch + i * task_bytes)
    release(packed)
    return 0


cdef Correlation forward_of(Geometry g, cnp.ndarray w) noexcept:
    """Return the correlation of one group with its filters; the rest is still to be set."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(w)
    cdef Correlation c
    c.table = kernels(w)
    c.columns = g.filters // g.groups
    c.w = cnp.PyArray_BYTES(w)
    c.w_row = g.filters * size
    c.w_cols = g.cols
    c.transposed = False
    c.prepared = False
    c.pooled = pooled_to(None, False, None)
    c.bias = NULL
    c.row_taps = Taps(g.rows, 0, 1, g.dilation_h)
    c.col_taps = Taps(g.cols, 0, 1, g.dilation_w)
    c.convs = g.groups
    c.x_conv = g.channels // g.groups * size
    c.w_conv = c.y_conv = c.columns * size
    return c


cdef Product forward_product(Geometry g, cnp.ndarray w) noexcept:
    """Return a 1x1 convolution as a product with its filters; the rest is still to be set."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(w)
    return Product(
        table=kernels(w), m=g.images * g.out_h * g.out_w, n=g.filters, k=g.channels, a=NULL, a_row=g.channels * size,
        a_step=size, b=cnp.PyArray_BYTES(w), b_row=g.filters * size, b_transposed=False, packed=False, bias=NULL,
        c=NULL, c_row=g.filters * size, residual=0, relu=0, ahead=NULL, ahead_bytes=0)


cdef void sample_row(Geometry g, const char *x, Py_ssize_t number, Py_ssize_t pixel, char *to) noexcept nogil:
    """Copy what one output row sees of the input."""
    cdef Py_ssize_t col
    x += (number // g.out_h * g.in_h + number % g.out_h * g.stride_h) * g.in_w * pixel
    to += number * g.out_w * pixel
    for col in range(g.out_w):
        memcpy(to + col * pixel, x + col * g.stride_w * pixel, pixel)


cdef char *sample(Geometry g, cnp.ndarray x, int threads) except NULL:
    """Return a copy, to be released, of the pixels that a 1x1 convolution with strides sees."""
    cdef Py_ssize_t pixel = g.channels * cnp.PyArray_ITEMSIZE(x), i
    cdef char *copy = acquire(g.images * g.out_h * g.out_w * pixel)
    cdef const char *pixels = cnp.PyArray_BYTES(x)
    with nogil:
        for i in prange(g.images * g.out_h, num_threads=threads, schedule="static"):
            sample_row(g, pixels, i, pixel, copy)
    return copy


def takes_plain(Geometry g, cnp.ndarray w):
    """Whether prepared filters are the filters themselves: those of a product that reads them in place."""
    cdef Product p = forward_product(g, w)
    return g.is_product() and not pays_packed(&p)


cdef cnp.ndarray seen_filters(Geometry g, cnp.ndarray w):
    """Return a copy of the taps that see pixels."""
    return cnp.PyArray_NewCopy(w[g.taps], cnp.NPY_CORDER)


cdef void scale_filters(cnp.ndarray w, cnp.ndarray scale, char *to) noexcept:
    cdef Py_ssize_t columns = cnp.PyArray_SIZE(scale), rows = cnp.PyArray_SIZE(w) // max(1, columns), i, j
    cdef const double *s = <const double *> cnp.PyArray_DATA(scale)
    cdef const float *w32 = <const float *> cnp.PyArray_DATA(w)
    cdef const double *w64 = <const double *> cnp.PyArray_DATA(w)
    cdef float *to32 = <float *> to
    cdef double *to64 = <double *> to
    cdef bint single = cnp.PyArray_ITEMSIZE(w) == 4
    cdef int threads = threads_for(<double> rows * columns)
    with nogil:
        for i in prange(rows, num_threads=threads, schedule="static"):
            if single:
                for j in range(columns):
                    to32[i * columns + j] = <float> (w32[i * columns + j] * s[j])
            else:
                for j in range(columns):
                    to64[i * columns + j] = w64[i * columns + j] * s[j]


cdef char *scaled(cnp.ndarray w, cnp.ndarray scale) except NULL:
    """Return the filters, each times its float64 and then rounded, in scratch memory."""
    cdef char *to = acquire(cnp.PyArray_NBYTES(w) + 1)
    scale_filters(w, scale, to)
    return to


cdef cnp.ndarray scaled_array(cnp.ndarray w, cnp.ndarray scale):
    """Return the same as an array; the filters themselves where there is no scale."""
    cdef cnp.ndarray to
    if scale is None:
        return w
    to = aligned(cnp.PyArray_SIZE(w), w.dtype)
    scale_filters(w, scale, cnp.PyArray_BYTES(to))
    return to.reshape((<object> w).shape)


def prepare(Geometry g, cnp.ndarray w, cnp.ndarray scale=None, bint packs=False):
    """Return the filters, each times its float64 if there is a scale, as forward takes them when they are prepared:
    group after group the packed panels, or, where it takes them plain and they need not be packed, as they are."""
    cdef Correlation c = forward_of(g, w)
    cdef Py_ssize_t i
    cdef int threads
    cdef cnp.ndarray filters
    if g.seen is not None:
        return prepare(g.seen, seen_filters(g, w), scale, packs)
    if takes_plain(g, w) and not packs:
        return scaled_array(w, scale)
    plan_filters(&c, g.channels // g.groups)
    c.run_length = c.depth
    c.n_runs = 1
    c.filters_conv = c.panels * c.width * c.depth * c.table.itemsize
    filters = aligned(c.convs * c.filters_conv // c.table.itemsize, w.dtype)
    c.filters = cnp.PyArray_BYTES(filters)
    threads = threads_for(<double> c.convs * c.filters_conv)
    if scale is not None:
        c.w = scaled(w, scale)
    with nogil:
        for i in prange(c.convs * c.panels, num_threads=threads, schedule="static"):
            pack_panel(&c, i)
    if scale is not None:
        release(<char *> c.w)
    return filters


def forward(Geometry g, cnp.ndarray x, cnp.ndarray w, cnp.ndarray bias, cnp.ndarray residual, int relu,
            cnp.ndarray y, bint prepared=False, bint pools=False, cnp.ndarray argmax=None, cnp.ndarray ahead=None):
    """Write act(conv(x, w) + bias + residual) to y, whose pixels may lie apart; bias and residual may be None.

    Or, of one group and more than one tap, without a residual, the maxima of 2 x 2 pixels, and to argmax, of bytes, if
    there is one, which pixel it is. Ahead is an array that will be read from memory afterwards, such as another layer's
    filters, or None.
    """
    cdef const char *b = NULL if bias is None else cnp.PyArray_BYTES(bias)
    cdef int threads = threads_for_flops(kernels(x), g.flops())
    cdef Py_ssize_t to_residual = distance(y, residual)
    cdef char *pixels = NULL
    cdef Correlation c
    cdef Product p
    if g.seen is not None:
        forward(g.seen, x, w if prepared else seen_filters(g, w), bias, residual, relu, y, prepared, pools, argmax,
                ahead)
        return
    if g.is_product() or g.samples():
        p = forward_product(g, w)
        p.a = cnp.PyArray_BYTES(x)
        if not g.is_product():
            pixels = sample(g, x, threads)
            p.a = pixels
        p.packed = prepared and (pixels != NULL or pays_packed(&p))
        p.bias = b
        p.c = cnp.PyArray_BYTES(y)
        p.c_row = pixel_pitch(y)
        p.residual = to_residual
        p.relu = relu
        if ahead is not None:
            p.ahead, p.ahead_bytes = cnp.PyArray_BYTES(ahead), cnp.PyArray_NBYTES(ahead)
        try:
            product(&p)
        finally:
            if pixels != NULL:
                release(pixels)
        return
    c = forward_of(g, w)
    c.prepared = prepared
    if prepared:
        c.filters = c.w
    c.images = g.images
    c.residual = to_residual
    c.relu = relu
    c.y_col = pixel_pitch(y)
    c.y_row = g.out_w * c.y_col
    c.y_image = g.out_h * c.y_row
    c.source = source_of(g, x)
    c.y = cnp.PyArray_BYTES(y)
    c.pooled = pooled_to(y, pools, argmax)
    correlate(&c, b, threads)


cdef struct Phase:
    # Input positions first, first + stride, ...: how many, the taps that reach them, and where the first
    # one's window begins in the output gradient.
    Py_ssize_t first, count, base, span
    Taps taps


cdef Phase phase_of(Py_ssize_t phase, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t before, Py_ssize_t kernel,
                    Py_ssize_t dilation) noexcept nogil:
    """Along one axis: position y and tap r meet output o where y + before = o * stride + r * dilation.

    Positions with (y + before) % stride == phase need the taps with r * dilation % stride == phase; counted in
    strides, tap r looks (phase - r * dilation) / stride from the position, so that the last tap comes first.
    """
    cdef Phase p
    cdef Py_ssize_t r, last = -1, look
    p.first = floor_mod(phase - before, stride)
    p.count = ceil_div(size - p.first, stride)
    p.taps = Taps(0, 0, 0, 0)
    for r in range(min(kernel, stride)):
        if (r * dilation) % stride == phase:
            # The taps of one phase are evenly spaced: find the first two.
            p.taps.first = r
            p.taps.step = 1
            while p.taps.step < kernel and (p.taps.step * dilation) % stride:
                p.taps.step += 1
            p.taps.count = (kernel - 1 - r) // p.taps.step + 1
            break
    last = p.taps.first + (p.taps.count - 1) * p.taps.step
    look = (phase - last * dilation) // stride if p.taps.count else 0
    p.taps.offset_step = p.taps.step * dilation // stride if p.taps.count else 1
    p.span = (p.taps.count - 1) * p.taps.offset_step + 1 if p.taps.count else 0
    p.base = (p.first + before - phase) // stride + look
    p.taps.first = last
    p.taps.step = -p.taps.step
    return p


# ---- gradient of an input with few channels ----

cdef enum:
    # Groups of images from which pixels of several of them are a tile's rows: enough for some threads.
    SCATTER_GROUPS = 8


cdef struct Scatter:
    const fc_kernels *table
    Py_ssize_t in_h, in_w, pixel, filters, rows, out_h, out_w, stride_h, stride_w, top, left, dilation_h
    # Filter rows: `columns` wide, packed in panels of all of them, in such an order that those which reach an input row
    # follow each other, a phase of the strides after the other.
    Py_ssize_t columns, width, panels
    const char *packed
    const Py_ssize_t *order
    const char *dy
    char *dx
    # A band of input rows of one image or of some, whose copies have room for every window; their pitch and bytes.
    Py_ssize_t images, group, band, bands, copy_w, pitch, copy_bytes
    # The rows of a tile are pixels of some images at the same place, or, of one image, pixels so far `apart` that they
    # have no input in common: from one to the next of them in dy and in a copy.
    Py_ssize_t apart, dy_row, copy_row


cdef bint scatters(Geometry g, Py_ssize_t lanes) noexcept:
    """Whether adding filter rows up takes fewer multiplications of vectors than a correlation: it fills vectors
    with a filter row of channels instead of a pixel's, but loads and stores its sums for each pixel."""
    cdef double correlating, scattering
    correlating = (<double> g.in_h * g.in_w * g.rows * g.cols * g.filters * ceil_div(g.channels, lanes)
                   / g.stride_h / g.stride_w)
    scattering = <double> g.out_h * g.out_w * (g.rows * g.filters * ceil_div(g.cols * g.channels, lanes) + 24)
    return g.groups == 1 and g.dilation_w == 1 and scattering < 0.8 * correlating


cdef void scatter_row(const Scatter *s, Py_ssize_t image, Py_ssize_t images, Py_ssize_t y, Py_ssize_t *runs,
                      char *sums) noexcept nogil:
    """Add the output gradients that a row of some images' input has a part in, times their filter rows, to a copy."""
    cdef Py_ssize_t size = s.table.itemsize, out_row = s.out_w * s.filters * size, panel, width, i
    cdef Py_ssize_t first, below, row = 0
    cdef const char *dy = s.dy + image * s.out_h * out_row
    cdef int kind
    cdef fc_tile t
    t.n_runs = 0
    for i in range(s.rows):
        below = y + s.top - s.order[i] * s.dilation_h
        if below >= 0 and below % s.stride_h == 0 and below // s.stride_h < s.out_h:
            if t.n_runs == 0:
                row = i
            runs[t.n_runs] = below // s.stride_h * out_row
            t.n_runs += 1
    t.runs = runs
    t.run_length = s.filters
    t.a_row = s.dy_row
    t.a_step = size
    t.bias = NULL
    t.c_row = s.copy_row
    t.residual = 0
    t.past = False
    t.ahead = t.ahead_end = NULL
    t.accumulate = True
    t.relu = 0
    for panel in range(s.panels if t.n_runs else 0):
        t.columns = min(s.width, s.columns - panel * s.width)
        panel_shape(s.table, t.columns, &width, &kind)
        t.b = s.packed + (panel * s.rows * s.width + row * width) * s.filters * size
        t.b_step = width * size
        for first in range(min(s.apart, s.out_w)):
            t.a = dy + first * s.filters * size
            t.c = sums + first * s.stride_w * s.pixel + panel * s.width * size
            multiply_tiles(s.table, kind, &t, images if s.group > 1 else ceil_div(s.out_w - first, s.apart))


cdef void scatter_task(const Scatter *s, Py_ssize_t task, Py_ssize_t *runs, char *copy) noexcept nogil:
    """A band of input rows: each gathers from the output rows whose windows hold it."""
    cdef Py_ssize_t image = task // s.bands * s.group, images = min(s.group, s.images - image)
    cdef Py_ssize_t first = task % s.bands * s.band, last = min(first + s.band, s.in_h)
    cdef Py_ssize_t i, y, inside = max(0, min(s.in_w, s.copy_w - s.left))
    cdef char *sums
    cdef char *dx
    memset(copy, 0, images * s.copy_bytes)
    for y in range(first, last):
        sums = copy + (y - first) * s.pitch
        scatter_row(s, image, images, y, runs, sums)
        for i in range(images):
            dx = s.dx + ((image + i) * s.in_h + y) * s.in_w * s.pixel
            memcpy(dx, sums + i * s.copy_bytes + s.left * s.pixel, inside * s.pixel)
            memset(dx + inside * s.pixel, 0, (s.in_w - inside) * s.pixel)


cdef void pack_scatter(const Scatter *s, const char *w, Py_ssize_t *order, char *to) noexcept:
    """Find the order of the filter rows, and pack them."""
    cdef Py_ssize_t pixel = s.filters * s.table.itemsize, panel, columns, phase, r, n = 0
    for phase in range(min(s.stride_h, (s.rows - 1) * s.dilation_h + 1)):
        for r in range(s.rows):
            if r * s.dilation_h % s.stride_h == phase:
                order[n] = r
                n += 1
    for panel in range(s.panels):
        columns = min(s.width, s.columns - panel * s.width)
        for n in range(s.rows):
            to = pack_panels(s.table, w + (order[n] * s.columns + panel * s.width) * pixel, pixel, True, s.filters,
                             columns, s.width, to)


cdef int scatter(Geometry g, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray dx) except -1:
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(dy), i, run_bytes, packed_bytes, task_bytes
    cdef int threads = threads_for_flops(kernels(dy), g.flops())
    cdef char *scratch
    cdef char *own
    cdef Scatter s
    s.table = kernels(dy)
    s.images = g.images
    s.in_h, s.in_w, s.pixel, s.filters, s.rows = g.in_h, g.in_w, g.channels * size, g.filters, g.rows
    s.out_h, s.out_w, s.stride_h, s.stride_w = g.out_h, g.out_w, g.stride_h, g.stride_w
    s.top, s.left, s.dilation_h = g.top, g.left, g.dilation_h
    s.columns = g.cols * g.channels
    s.width = panel_width(s.table, s.columns, s.rows * s.filters)
    s.panels = ceil_div(s.columns, s.width)
    s.apart = ceil_div(g.cols, g.stride_w)
    s.copy_w = (g.out_w - 1) * g.stride_w + g.cols
    s.pitch = s.copy_w * s.pixel
    # Tiles of the more rows; whatever the threads, since sums are in another order. Those of pixels of one image also
    # wait for each other, to add to what one has just stored.
    s.group = min(s.table.max_rows[0], g.images // SCATTER_GROUPS)
    if s.group < ceil_div(g.out_w, s.apart):
        s.group = 1
    # A band's copies stay in L2, and there are bands enough to even out the load.
    s.band = max(1, min(g.in_h, l2_bytes // 4 // (s.group * s.pitch)))
    if threads > 1:
        s.band = max(1, min(s.band, ceil_div(g.images, s.group) * g.in_h // (4 * threads)))
    s.bands = ceil_div(g.in_h, s.band)
    s.copy_bytes = line(s.band * s.pitch)
    if s.group > 1:
        s.apart = g.out_w
        s.dy_row = g.out_h * g.out_w * g.filters * size
        s.copy_row = s.copy_bytes
    else:
        s.dy_row = s.apart * g.filters * size
        s.copy_row = s.apart * g.stride_w * s.pixel
    run_bytes = line(s.rows * sizeof(Py_ssize_t))
    packed_bytes = line(s.rows * s.panels * s.width * s.filters * size)
    task_bytes = run_bytes + s.group * s.copy_bytes
    scratch = acquire(run_bytes + packed_bytes + threads * task_bytes)
    s.order = <Py_ssize_t *> scratch
    s.packed = scratch + run_bytes
    s.dy = cnp.PyArray_BYTES(dy)
    s.dx = cnp.PyArray_BYTES(dx)
    pack_scatter(&s, cnp.PyArray_BYTES(w), <Py_ssize_t *> scratch, scratch + run_bytes)
    with nogil, parallel(num_threads=threads):
        for i in prange(ceil_div(g.images, s.group) * s.bands, schedule="dynamic"):
            own = scratch + run_bytes + packed_bytes + threadid() * task_bytes
            scatter_task(&s, i, <Py_ssize_t *> own, own + run_bytes)
    release(scratch)
    return 0


def backward_input(Geometry g, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray dx):
    """Write the gradient of the input to dx."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(dy), y, x
    cdef int threads = threads_for_flops(kernels(dy), g.flops() / g.stride_h / g.stride_w)
    cdef Phase v, h
    cdef Taps no_taps = Taps(0, 0, 0, 1)
    cdef bint reached
    cdef Correlation c
    cdef Product p
    if g.seen is not None:
        backward_input(g.seen, dy, seen_filters(g, w), dx)
        return
    if g.is_product():
        p = forward_product(g, w)
        p.n, p.k, p.b_transposed = g.channels, g.filters, True
        p.a, p.a_row = cnp.PyArray_BYTES(dy), g.filters * size
        p.c, p.c_row = cnp.PyArray_BYTES(dx), g.channels * size
        product(&p)
        return
    c.table = kernels(dy)
    if scatters(g, c.table.lanes):
        scatter(g, dy, w, dx)
        return
    c.images = g.images
    c.columns = g.channels // g.groups
    c.convs = g.groups
    c.x_conv = c.w_conv = g.filters // g.groups * size
    c.y_conv = c.columns * size
    c.w = cnp.PyArray_BYTES(w)
    c.w_row = g.filters * size
    c.w_cols = g.cols
    c.transposed = True
    c.prepared = False
    c.pooled = pooled_to(None, False, None)
    c.residual = 0
    c.relu = 0
    c.y_col = g.stride_w * g.channels * size
    c.y_row = g.stride_h * g.in_w * g.channels * size
    c.y_image = g.in_h * g.in_w * g.channels * size
    # The first positions of all phases; there are no more of them than positions, however long the strides.
    for y in range(min(g.stride_h, g.in_h)):
        v = phase_of((y + g.top) % g.stride_h, g.in_h, g.stride_h, g.top, g.rows, g.dilation_h)
        for x in range(min(g.stride_w, g.in_w)):
            h = phase_of((x + g.left) % g.stride_w, g.in_w, g.stride_w, g.left, g.cols, g.dilation_w)
            # Positions that no tap reaches get the sum over no taps: zero.
            reached = v.taps.count > 0 and h.taps.count > 0
            c.source = Source(
                x=cnp.PyArray_BYTES(dy), in_h=g.out_h, in_w=g.out_w, x_channels=g.filters,
                channels=g.filters // g.groups, size=size, base_row=v.base, base_col=h.base, row_step=1, col_step=1,
                span_h=v.span if reached else 0, span_w=h.span if reached else 0, out_h=v.count, out_w=h.count,
                in_place=False, copy_w=0, pixel=0, pitch=0)
            c.y = cnp.PyArray_BYTES(dx) + (v.first * g.in_w + h.first) * g.channels * size
            c.row_taps = v.taps if reached else no_taps
            c.col_taps = h.taps if reached else no_taps
            correlate(&c, NULL, threads)


# ---- gradient of the filters ----

cdef enum:
    # The reduction over pixels is cut into parts of at least so many pixels, at most so many parts, whose sums take at
    # most so many bytes: then adding them up costs little beside making them.
    PART_PIXELS = 256
    PARTS = 16
    LEAST_PARTS = 8
    PART_BYTES = 1 << 23
    # Pixels of a block of 1x1 filters: so many that tiles of dw are loaded and stored rarely, so few that a panel's
    # gradients and a group's pixels share L1.
    LEAST_PIXELS = 64
    MOST_PIXELS = 256
    # Rows of dw up to which gradients that are whole vectors are read where they are (1x1, 16 to 128 channels with
    # AVX-512 and AVX2: 5 to 40 % less time than packed, from 256 on as much; 3x3 with 3 channels and AVX2: half of it).
    PLAIN_ROWS = 128
    # Elements of a sum that a thread adds up at a time.
    SUM_ELEMENTS = 4096


cdef struct Normalized:
    # The output gradient is made, of rows of t.g and t.x, on its way through a batch normalisation; and, unless dx is
    # NULL, that of the input of 1x1 filters beside it, with the transposed filters in panels so wide.
    fc_norm t
    const char *filters
    Py_ssize_t width
    char *dx
    # Where the input is another normalisation's result, it is made too; and the sums that its gradient needs are taken,
    # part by part, and while that is copied past the caches, if it is.
    bint makes_input, past
    fc_norm input


cdef struct Unpooled:
    # The output gradient is made of dy, that of the maxima of 2 x 2 pixels of what a relu gave; these maxima, and which
    # pixels they were. For each row of them, the sums of what the relu lets through.
    const char *dy
    const char *maxima
    const uint8_t *argmax
    int relu
    char *totals


cdef struct FilterGradient:
    const fc_kernels *table
    # NULL, both: there is an output gradient.
    const Normalized *normalized
    const Unpooled *unpooled
    Source source
    Py_ssize_t images, rows, cols, dilation_h, dilation_w
    Py_ssize_t columns, width, panels
    # Output gradient: from dy on, dy_row bytes a pixel. It can be read in place if its rows are whole vectors, or are
    # one panel and `overhang` rows of the image follow, into which the last vector then reads.
    const char *dy
    Py_ssize_t dy_row, overhang
    # whole: its rows are whole vectors. prefetch: the images are read in place, and they, or, where both are packed,
    # they and the gradients, from far away.
    bint whole, prefetch
    # Of 1x1 filters, more than a panel, the input is packed too, so many channels side by side, if these are not all
    # that there are. 0: other filters.
    Py_ssize_t x_width
    char *dw
    Py_ssize_t dw_row
    # As of Correlation.
    Py_ssize_t convs, x_conv, dy_conv, dw_conv
    # A filter row (and tap, where dilated) has `length` rows of dw, whose tiles go in `slices`.
    Py_ssize_t length, segments, slices
    # Cut of the work: parts of the reduction, whose number depends on nothing but the sizes, with sums of their own,
    # panel after panel; groups of (panel, filter row, segment, slice). A block of a part is so many output rows, a
    # strip so many runs.
    Py_ssize_t parts, groups, block_rows, strip
    char *sums
    Py_ssize_t sum_bytes, copy_bytes, pack_bytes, pack_x_bytes, run_bytes, made_bytes, made_x_bytes


cdef struct Block:
    # Output rows from `first` on; their pixels, a run for each row, or, packed, one run of all: where the first window
    # begins, how far each run is from it, and each pixel from the last.
    Py_ssize_t first, rows, n_runs, run_length, x_step
    const char *x
    Py_ssize_t *runs
    char *packed_x
    # Their gradients, from dy on, packed from panel `panel` on, or in place.
    const char *dy
    Py_ssize_t panel
    char *packed
    bint pack
    # Where its part of dw, or of the sums, begins; bytes from row to row, and from panel to panel. Whether that is to
    # be added to.
    char *dw
    Py_ssize_t dw_row, dw_panel
    bint accumulate
    Ahead next


cdef void part_rows(const FilterGradient *f, Py_ssize_t part, Py_ssize_t *first, Py_ssize_t *last) noexcept nogil:
    """Return the output rows of a part, counted through all images: whole images, or rows of one.

    Parts of an image more than others come first, so that threads can even out in the end.
    """
    cdef Py_ssize_t pieces = f.parts // f.images, height = f.source.out_h
    if pieces <= 1:
        first[0] = (f.images // f.parts * part + min(part, f.images % f.parts)) * height
        last[0] = (f.images // f.parts * (part + 1) + min(part + 1, f.images % f.parts)) * height
    else:
        first[0] = part // pieces * height + height * (part % pieces) // pieces
        last[0] = part // pieces * height + height * (part % pieces + 1) // pieces


cdef void find_runs(const FilterGradient *f, Block *b, char *copy) noexcept nogil:
    """Find the block's windows in place, or copy the source rows that they see."""
    cdef const Source *s = &f.source
    cdef Py_ssize_t image = b.first // s.out_h, row = b.first % s.out_h, height = min(b.rows, s.out_h), i
    cdef Py_ssize_t image_rows = s.in_h
    b.x = window(s, image, row, height, copy)
    if not s.in_place:
        image_rows = band_rows(s, height)
        for i in range(1, b.rows // height):
            window(s, image + i, 0, height, copy + i * image_rows * s.pitch)
    b.n_runs, b.run_length, b.x_step = b.rows, s.out_w, s.col_step * s.pixel
    for i in range(b.rows):
        b.runs[i] = (i // height * image_rows + i % height * s.row_step) * s.pitch


cdef void pack_pixels(const FilterGradient *f, Block *b) noexcept nogil:
    """Pack the pixels of the runs: x_width channels of all of them, then the next ones."""
    cdef Py_ssize_t size = f.table.itemsize, channel = 0, i
    cdef char *to = b.packed_x
    while channel < f.length:
        for i in range(b.n_runs):
            f.table.pack_rows(b.run_length, min(f.x_width, f.length - channel), f.x_width,
                              b.x + b.runs[i] + channel * size, b.x_step, to)
            to += b.run_length * f.x_width * size
        channel += f.x_width
    b.n_runs, b.run_length, b.x_step = 1, b.rows * f.source.out_w, f.x_width * size
    b.x, b.runs[0] = b.packed_x, 0


cdef inline bint packs_gradients(const FilterGradient *f) noexcept nogil:
    """Whether gradients are packed even where they could be read in place: those of several groups, and of several
    panels, which lie apart, unless these are whole vectors that few rows of dw read."""
    return f.convs > 1 or (f.panels > 1 and (not f.whole or sum_rows(f) > PLAIN_ROWS))


cdef void find_gradients(const FilterGradient *f, Block *b, Py_ssize_t panels) noexcept nogil:
    """Pack the block's gradients, so that what a strip sees of a panel lies together, unless they can stay."""
    cdef Py_ssize_t size = f.table.itemsize, pixels = b.rows * f.source.out_w, first = b.panel * f.width
    cdef Py_ssize_t left = f.images * f.source.out_h - b.first - b.rows
    b.pack = packs_gradients(f) or not (f.whole or f.overhang and left >= f.overhang)
    if b.pack:
        pack_panels(f.table, b.dy + first * size, f.dy_row, False, pixels,
                    min(panels * f.width, f.columns - first), f.width, b.packed)


cdef void plan_next(const FilterGradient *f, Block *b, Py_ssize_t rows) noexcept nogil:
    """Have the next block, of so many output rows at most, brought near while this one is computed: of this part, or of
    the next one, which this thread is likely to take."""
    cdef Py_ssize_t pixels = b.rows * f.source.out_w, first = b.first * f.source.out_w + pixels, steps = 0, nbytes
    cdef const Normalized *n = f.normalized
    b.next.stretches = 0
    rows = min(rows, f.images * f.source.out_h - b.first - b.rows)
    nbytes = rows * f.source.out_w * f.dy_row
    if rows <= 0 or f.groups > 1:
        return
    if f.x_width:
        steps = (f.panels * ceil_div(f.length, f.x_width)
                 * ceil_div(f.x_width, f.table.max_rows[f.width // f.table.lanes - 1]) * pixels)
    if f.prefetch and (f.x_width or n != NULL and n.makes_input):
        add_stretch(&b.next, b.x + b.rows * f.source.pitch, rows * f.source.pitch)
    if n != NULL:
        add_stretch(&b.next, n.t.x + first * f.dy_row, nbytes)
        add_stretch(&b.next, n.t.g + first * f.dy_row, nbytes)
        if n.dx != NULL:
            steps += panel_steps(f.table, pixels, f.columns, f.length, n.width)
    elif f.prefetch and f.x_width and f.dy != NULL:
        add_stretch(&b.next, f.dy + first * f.dy_row, nbytes)
    share_out(&b.next, steps)


cdef void make_gradients(const FilterGradient *f, Block *b, char *made, char *dx) noexcept nogil:
    """Make the block's gradients, and those of the input, which read them from where they have just been written."""
    cdef const Normalized *n = f.normalized
    cdef Py_ssize_t pixels = b.rows * f.source.out_w, first = b.first * f.source.out_w
    cdef fc_norm t = n.t
    t.rows = pixels
    t.g += first * f.dy_row
    t.x += first * f.dy_row
    t.y = made
    f.table.normalize_backward(&t)
    b.dy = made
    if n.dx != NULL:
        multiply_panels(f.table, made, pixels, n.filters, f.columns, f.length, n.width, dx, &b.next)


cdef void unpool_gradients(const FilterGradient *f, Block *b, char *made) noexcept nogil:
    """Make the block's gradients of those of maxima: of two rows at a time, and zeros of a last one without another."""
    cdef const Unpooled *u = f.unpooled
    cdef Py_ssize_t height = f.source.out_h, row = b.first, end = b.first + b.rows, maxima, at
    cdef Py_ssize_t row_bytes = f.source.out_w * f.dy_row
    cdef Py_ssize_t[4] taps
    cdef fc_pool t
    taps[0], taps[1], taps[2], taps[3] = 0, f.dy_row, row_bytes, row_bytes + f.dy_row
    memset(&t, 0, sizeof(t))
    t.taps, t.n_taps = taps, 4
    t.x_step, t.y_step = 2 * f.dy_row, f.dy_row
    t.pixels, t.channels = f.source.out_w // 2, f.columns
    t.tiled = True
    t.relu = u.relu
    b.dy = made
    while row < end:
        if height - row % height == 1:
            memset(made, 0, row_bytes)
            row, made = row + 1, made + row_bytes
            continue
        if f.source.out_w % 2:
            memset(made + row_bytes - f.dy_row, 0, f.dy_row)
            memset(made + 2 * row_bytes - f.dy_row, 0, f.dy_row)
        maxima = row // height * (height // 2) + row % height // 2
        at = maxima * t.pixels * f.dy_row
        t.y = <char *> u.dy + at
        t.result = u.maxima + at
        t.argmax = <uint8_t *> u.argmax + at // f.table.itemsize
        t.total = u.totals + maxima * f.dy_row
        t.dx = made
        f.table.max_pool_backward(&t)
        row, made = row + 2, made + 2 * row_bytes


cdef void make_input(const FilterGradient *f, Block *b, char *made) noexcept nogil:
    """Make the block's input of what lies at b.x."""
    cdef fc_norm t = f.normalized.input
    t.rows = b.rows * f.source.out_w
    t.x = b.x
    t.y = made
    f.table.normalize(&t)
    b.x = made


cdef void sum_input(const FilterGradient *f, const Block *b, Py_ssize_t part, const char *dx, char *own) noexcept nogil:
    """Add up what the gradient of the block's input, at dx, says of the normalisation that has made it."""
    cdef Py_ssize_t first = b.first * f.source.out_w
    cdef fc_norm t = f.normalized.input
    t.rows = b.rows * f.source.out_w
    t.x += first * f.source.pixel
    t.g = dx
    t.y = f.normalized.dx + first * f.source.pixel
    t.past = f.normalized.past
    add_sums(f.table, f.table.normalize_sums, t, part, own)


cdef int begin_tile(const FilterGradient *f, const Block *block, Py_ssize_t panel, fc_tile *t) noexcept nogil:
    """Fill in what the tiles of a panel of filters have in common, t.b where the block begins; return their kind."""
    cdef Py_ssize_t size = f.table.itemsize, width
    cdef int kind
    t.columns = min(f.width, f.columns - panel * f.width)
    panel_shape(f.table, t.columns, &width, &kind)
    t.run_length = block.run_length
    t.a_row = size
    t.a_step = block.x_step
    if block.pack:
        t.b = block.packed + (panel - block.panel) * f.width * block.rows * f.source.out_w * size
        t.b_step = width * size
    else:
        t.b = block.dy + panel * f.width * size
        t.b_step = f.dy_row
    t.bias = NULL
    t.c_row = block.dw_row
    t.residual = 0
    t.past = False
    t.ahead = t.ahead_end = NULL
    t.relu = 0
    return kind


cdef void accumulate_groups(const FilterGradient *f, Block *block, Py_ssize_t unit) noexcept nogil:
    """A slice of dw of 1x1 filters for one panel of them, over one block: x_width channels after x_width channels."""
    cdef Py_ssize_t slice = unit % f.slices, panel = unit // f.slices, groups = ceil_div(f.length, f.x_width)
    cdef Py_ssize_t group = groups * slice // f.slices, rows
    cdef fc_tile t
    cdef int kind = begin_tile(f, block, panel, &t)
    t.runs = block.runs
    t.n_runs = block.n_runs
    t.accumulate = block.accumulate
    t.c = block.dw + group * f.x_width * block.dw_row + panel * block.dw_panel
    for group in range(group, groups * (slice + 1) // f.slices):
        t.a = block.x + group * t.run_length * t.a_step
        rows = min(f.x_width, f.length - group * f.x_width)
        bring_share(f.table, kind, &t, rows, &block.next)
        multiply_tiles(f.table, kind, &t, rows)


cdef void accumulate_tiles(const FilterGradient *f, const Block *block, Py_ssize_t unit) noexcept nogil:
    """A slice of a segment of dw (a filter row, or a tap of it) for one panel of filters, over one block.

    In strips of pixels whose gradients stay in L1 while all the slice's tiles pass by.
    """
    cdef Py_ssize_t size = f.table.itemsize, tiles, first, last, left, part, run = 0
    cdef const char *next_x
    cdef Py_ssize_t slice = unit % f.slices, s = unit // f.slices % f.segments
    cdef Py_ssize_t r = unit // f.slices // f.segments % f.rows, panel = unit // f.slices // f.segments // f.rows
    cdef fc_tile t
    cdef int kind = begin_tile(f, block, panel, &t)
    tiles = ceil_div(f.length, f.table.max_rows[kind])
    first = f.length * (tiles * slice // f.slices) // tiles
    last = f.length * (tiles * (slice + 1) // f.slices) // tiles
    while run < block.n_runs:
        t.runs = block.runs + run
        t.n_runs = min(f.strip, block.n_runs - run)
        t.accumulate = block.accumulate or run > 0
        t.a = block.x + r * f.dilation_h * f.source.pitch + s * f.dilation_w * f.source.pixel + first * size
        t.c = block.dw + ((r * f.segments + s) * f.length + first) * block.dw_row + panel * block.dw_panel
        left = last - first
        if f.prefetch and not f.made_x_bytes and panel == block.panel and r == 0 and s == 0 and slice == 0:
            # The next strip's pixels, a part with each tile: read column by column, they would come one by one.
            next_x = block.x + block.runs[run] + t.n_runs * t.run_length * f.source.pixel
            part = line(ceil_div(t.n_runs * t.run_length * f.source.pixel, tiles))
            while left > f.table.max_rows[kind]:
                fc_prefetch(next_x, part)
                next_x += part
                multiply_tiles(f.table, kind, &t, f.table.max_rows[kind])
                left -= f.table.max_rows[kind]
        multiply_tiles(f.table, kind, &t, left)
        t.b += t.n_runs * t.run_length * t.b_step
        run += f.strip


cdef FilterGradient gradient_of(const FilterGradient *f, Py_ssize_t i) noexcept nogil:
    """Return the gradient of the i-th group."""
    cdef FilterGradient own = f[0]
    own.source.x += i * f.x_conv
    own.dy += i * f.dy_conv
    own.dw += i * f.dw_conv
    if f.parts > 1:
        own.sums += i * f.parts * f.sum_bytes
    return own


cdef void accumulate_task(const FilterGradient *all, Py_ssize_t task, char *scratch) noexcept nogil:
    cdef Py_ssize_t tasks = all.parts * all.groups
    cdef FilterGradient own = gradient_of(all, task // tasks)
    accumulate_part(&own, task % tasks, scratch)


cdef void accumulate_part(const FilterGradient *f, Py_ssize_t task, char *scratch) noexcept nogil:
    """One part of the reduction for one group of units, block after block."""
    cdef Py_ssize_t part = task // f.groups, group = task % f.groups, row, end, unit, left, begin
    cdef Py_ssize_t per_panel = f.slices * f.segments * f.rows, units = f.panels * per_panel
    cdef Py_ssize_t first = units * group // f.groups, last = units * (group + 1) // f.groups
    cdef bint makes_input = f.normalized != NULL and f.normalized.makes_input
    cdef char *made
    cdef char *dx = NULL
    cdef Block b
    b.dw, b.dw_row, b.dw_panel = f.dw, f.dw_row, f.width * f.table.itemsize
    if f.parts > 1:
        b.dw, b.dw_row, b.dw_panel = f.sums + part * f.sum_bytes, b.dw_panel, sum_rows(f) * b.dw_panel
    b.panel = first // per_panel
    b.runs = <Py_ssize_t *> scratch
    b.packed_x = scratch + f.run_bytes + f.copy_bytes
    b.packed = b.packed_x + f.pack_x_bytes
    made = b.packed + f.pack_bytes
    part_rows(f, part, &begin, &end)
    row = begin
    while row < end:
        b.first = row
        # A block is whole images, or rows of one.
        left = f.source.out_h - row % f.source.out_h
        b.rows = min(end - row, f.block_rows if f.block_rows >= f.source.out_h else min(f.block_rows, left))
        left = f.images * f.source.out_h - row
        if f.overhang and b.rows == left and left > f.overhang and f.block_rows >= f.source.out_h:
            b.rows -= f.overhang  # so that little is left to be packed
        find_runs(f, &b, scratch + f.run_bytes)
        plan_next(f, &b, f.block_rows)
        b.dy = f.dy + row * f.source.out_w * f.dy_row
        if f.normalized != NULL:
            if f.normalized.dx != NULL:
                dx = f.normalized.dx + row * f.source.out_w * f.source.pixel
            if f.normalized.past:
                dx = made + f.made_bytes  # where the input is made next
            make_gradients(f, &b, made, dx)
        if f.unpooled != NULL:
            unpool_gradients(f, &b, made)
        if makes_input:
            sum_input(f, &b, part, dx, made + f.made_bytes + f.made_x_bytes)
            make_input(f, &b, made + f.made_bytes)
        if f.pack_x_bytes:
            pack_pixels(f, &b)
        find_gradients(f, &b, ceil_div(last, per_panel) - b.panel)
        b.accumulate = row > begin
        for unit in range(first, last):
            if f.x_width:
                accumulate_groups(f, &b, unit)
            else:
                accumulate_tiles(f, &b, unit)
        row += b.rows


cdef inline Py_ssize_t sum_rows(const FilterGradient *f) noexcept nogil:
    """Rows of the sums of a panel, which are those of dw."""
    return f.rows * f.segments * f.length


cdef void add_parts(const FilterGradient *all, Py_ssize_t i, Py_ssize_t chunks, Py_ssize_t chunk) noexcept nogil:
    """Write the sum of all parts, in their order, for the i-th chunk: a panel has so many, of so many rows each."""
    cdef FilterGradient f = gradient_of(all, i // (all.panels * chunks))
    cdef Py_ssize_t size = f.table.itemsize, panel = i // chunks % f.panels, first = i % chunks * chunk, row, part
    cdef char *x
    cdef Py_ssize_t rows = min(chunk, sum_rows(&f) - first), columns = min(f.width, f.columns - panel * f.width)
    cdef Py_ssize_t step = 1 if columns < f.width else rows  # behind a narrow panel's rows there is nothing
    cdef char *sums = f.sums + (panel * sum_rows(&f) + first) * f.width * size
    for part in range(1, f.parts):
        for row in range(rows // step):
            x = sums + row * step * f.width * size
            f.table.column_sum(1, (step - 1) * f.width + columns, x + part * f.sum_bytes, x)
    for row in range(rows):
        memcpy(f.dw + (first + row) * f.dw_row + panel * f.width * size, sums + row * f.width * size, columns * size)


cdef void cut_filters(FilterGradient *f, int threads) noexcept nogil:
    """Choose parts, groups, blocks and strips."""
    cdef Py_ssize_t size = f.table.itemsize, height = f.source.out_h, width = f.source.out_w, pixel_bytes, wanted
    cdef Py_ssize_t elements = sum_rows(f) * f.columns, units, group_panels, rows
    f.parts = min(f.images * height * width // PART_PIXELS, PART_BYTES // (elements * size))
    f.parts = max(1, min(PARTS, f.parts) // f.convs)
    while f.parts & (f.parts - 1):
        f.parts -= 1  # a power of two, which most numbers of threads share out evenly
    if f.parts > f.images:
        f.parts = f.images * min(height, f.parts // f.images)
    f.sum_bytes = line(sum_rows(f) * f.panels * f.width * size)
    # Groups need no sums of their own, but each makes its own copies.
    f.groups = 1 if f.convs * f.parts % threads == 0 else ceil_div(2 * threads, f.convs * f.parts)
    units = f.panels * f.rows * f.segments
    f.slices = min(ceil_div(f.groups, units),
                   ceil_div(f.length, f.x_width if f.x_width else f.table.max_rows[0]))
    f.groups = min(f.groups, units * f.slices)
    group_panels = ceil_div(f.panels, f.groups) + (f.panels % f.groups != 0)
    # As many output rows as keep the block's operands in L2: tiles of dw are then loaded and stored rarely.
    # Strides longer than the image count as the image, which keeps the product within 64 bits.
    pixel_bytes = (min(f.source.row_step, f.source.in_h) * min(f.source.col_step, f.source.in_w)
                   * f.source.channels * size + group_panels * f.width * size)
    wanted = max(256, l2_bytes // 2 // pixel_bytes)
    if f.x_width:
        wanted = max(LEAST_PIXELS, min(MOST_PIXELS, l2_bytes // 4 // pixel_bytes))
    if height * width > wanted:
        f.block_rows = max(1, wanted // width)
        f.block_rows = ceil_div(height, ceil_div(height, f.block_rows))
    else:
        f.block_rows = height * min(f.images, wanted // (height * width))
    if not f.source.in_place:
        # Nor more than L2's size is copied, where there is more padding than image.
        rows = 1 + l2_bytes // f.source.pitch // f.source.row_step
        if rows >= height:
            rows = height * max(1, l2_bytes // f.source.pitch // band_rows(&f.source, height))
        f.block_rows = min(f.block_rows, rows)
    if f.unpooled != NULL and f.block_rows < height:
        f.block_rows = max(2, f.block_rows // 2 * 2)
    f.strip = max(1, l1_bytes // 2 // (f.width * size * max(1, width)))
    f.copy_bytes = 0
    if not f.source.in_place:
        f.copy_bytes = line(ceil_div(f.block_rows, height) * band_rows(&f.source, min(f.block_rows, height))
                            * f.source.pitch)
    f.pack_x_bytes = f.pack_bytes = 0
    if f.x_width and f.x_width < f.length:
        f.pack_x_bytes = line(ceil_div(f.length, f.x_width) * f.x_width * f.block_rows * width * size)
    if packs_gradients(f) or not f.whole:
        f.pack_bytes = line(min(f.panels, group_panels + 1) * f.width * f.block_rows * width * size)
    f.run_bytes = line(f.block_rows * sizeof(Py_ssize_t))
    f.made_bytes = f.made_x_bytes = 0
    if f.dy == NULL:  # a vector more, which the last one of a row that is not whole reads
        f.made_bytes = line(f.block_rows * width * f.dy_row + f.table.lanes * size)
    if f.normalized != NULL and f.normalized.makes_input:
        f.made_x_bytes = line(f.block_rows * width * f.source.pixel)


cdef int accumulate_filters(FilterGradient *f, int threads) except -1:
    """Reduce over all pixels, in tasks that share nothing they write, and add up their sums."""
    cdef Py_ssize_t size = f.table.itemsize, chunk, chunks, scratch_bytes, sum_bytes, read_bytes
    cdef Py_ssize_t i, task
    cdef Shares shares
    cdef bint merged
    cdef char *scratch
    plan_source(&f.source)
    f.width = panel_width(f.table, f.columns, 0)
    f.panels = ceil_div(f.columns, f.width)
    f.whole = f.columns % f.table.lanes == 0
    f.overhang = 0
    if not f.whole and f.panels == 1 and f.dy_row == f.columns * size:
        # Output rows, whole images of them, that hold a vector.
        f.overhang = ceil_div(f.table.lanes, f.source.out_h * f.source.out_w * f.columns) * f.source.out_h
    merged = f.dilation_w == 1 and f.source.pixel == f.source.channels * size
    f.length = (f.cols if merged else 1) * f.source.channels
    f.segments = 1 if merged else f.cols
    f.x_width = 0
    read_bytes = f.images * f.source.in_h * f.source.pitch
    if f.rows == 1 and f.cols == 1 and f.source.in_place and f.panels > 1:
        f.x_width = packed_width(f.table, f.length)
        read_bytes += f.images * f.source.out_h * f.source.out_w * f.dy_row
    f.prefetch = (f.source.in_place and f.source.col_step == 1 and f.source.row_step == 1
                  and read_bytes > 2 * l2_bytes)
    cut_filters(f, threads if f.dy != NULL else 1)  # a group would make them for itself
    scratch_bytes = f.run_bytes + f.copy_bytes + f.pack_x_bytes + f.pack_bytes + f.made_bytes
    if f.made_x_bytes:
        scratch_bytes += f.made_x_bytes + line(2 * f.source.pixel)
    sum_bytes = f.convs * f.parts * f.sum_bytes if f.parts > 1 else 0
    f.sums = acquire(sum_bytes + threads * scratch_bytes)
    scratch = f.sums + sum_bytes
    chunk = max(1, SUM_ELEMENTS // f.width)
    chunks = ceil_div(sum_rows(f), chunk)
    share(&shares, f.convs * f.parts * f.groups, threads)
    with nogil, parallel(num_threads=threads):
        for i in prange(threads, schedule="static", chunksize=1):
            task = take(&shares, i)
            while task >= 0:
                accumulate_task(f, task, scratch + i * scratch_bytes)
                task = take(&shares, i)
        if f.parts > 1:
            for i in prange(f.convs * f.panels * chunks, schedule="static"):
                add_parts(f, i, chunks, chunk)
    release(f.sums)
    return 0


cdef FilterGradient filter_gradient(Geometry g, cnp.ndarray x, cnp.ndarray dw) noexcept:
    """Return what computes the gradient of the filters, but for that of the output."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    cdef FilterGradient f
    f.table = kernels(x)
    f.normalized = NULL
    f.unpooled = NULL
    f.images = g.images
    f.rows = g.rows
    f.cols = g.cols
    f.dilation_h = g.dilation_h
    f.dilation_w = g.dilation_w
    f.columns = g.filters // g.groups
    f.dy_row = f.dw_row = g.filters * size
    f.convs = g.groups
    f.x_conv = g.channels // g.groups * size
    f.dy_conv = f.dw_conv = f.columns * size
    f.source = source_of(g, x)
    f.dy = NULL
    f.dw = cnp.PyArray_BYTES(dw)
    return f


def backward_filters(Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
    """Write the gradient of the filters to dw."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    cdef FilterGradient f
    cdef Product p
    cdef cnp.ndarray seen
    if g.seen is not None:
        seen = seen_filters(g, dw)
        backward_filters(g.seen, dy, x, seen)
        dw[...] = 0
        dw[g.taps] = seen
        return
    if g.is_product() and g.images * g.out_h * g.out_w < 2 * PART_PIXELS:  # not enough for parts
        p = forward_product(g, dw)
        p.m, p.k = g.channels, p.m
        p.a, p.a_row, p.a_step = cnp.PyArray_BYTES(x), size, g.channels * size
        p.b, p.c = cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(dw)
        product(&p)
        return
    f = filter_gradient(g, x, dw)
    f.dy = cnp.PyArray_BYTES(dy)
    accumulate_filters(&f, threads_for_flops(f.table, g.flops()))


def pays_normalized(Geometry g, cnp.ndarray x):
    """Whether what lies beside a batch normalisation is faster made on the way: the filters stay in L2 beside a block,
    and there are parts enough. Sums are then taken in another order, whatever the threads."""
    cdef Py_ssize_t nbytes = g.channels * g.filters * cnp.PyArray_ITEMSIZE(x), pixels = g.images * g.out_h * g.out_w
    return (g.is_product() and nbytes <= l2_bytes * 3 // 8 and g.filters >= kernels(x).lanes
            and pixels >= LEAST_PARTS * PART_PIXELS)


def pays_filters_normalized(Geometry g, cnp.ndarray x):
    """Whether `backward_filters_normalized` is faster than one after the other: there are parts enough, as for those of
    `backward_normalized`, and large filters have few."""
    cdef Py_ssize_t nbytes = g.rows * g.cols * g.channels * g.filters * cnp.PyArray_ITEMSIZE(x)
    return (g.groups == 1 and g.seen is None and nbytes <= PART_BYTES // LEAST_PARTS
            and g.images * g.out_h * g.out_w >= LEAST_PARTS * PART_PIXELS)


def pays_filters_pooled(Geometry g, cnp.ndarray x):
    """Whether `backward_filters_pooled` is faster than one after the other, as `backward_filters_normalized` is; of
    whole vectors of filters, and so many images that no part begins between two rows."""
    return g.images >= PARTS and g.filters % kernels(x).lanes == 0 and pays_filters_normalized(g, x)


def backward_normalized(Geometry g, tuple normalized, cnp.ndarray x, tuple made, cnp.ndarray w, cnp.ndarray dx,
                        cnp.ndarray dw, cnp.ndarray total, cnp.ndarray dot):
    """Write the gradients of the input and of 1x1 filters to dx and dw, from one of the output that is `normalized`: as
    `rows_of_gradient` takes it. The input is x, or `made` as `rows_of_result` takes it, of x; then total and dot are
    the sums of `_elementwise.normalize_sums`."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), sum_bytes, nbytes
    cdef FilterGradient f = filter_gradient(g, x, dw)
    cdef Normalized n
    cdef char *filters
    n.t = rows_of_gradient(normalized)
    n.dx = cnp.PyArray_BYTES(dx)
    n.width = panel_width(f.table, g.channels, g.filters)
    nbytes = line(ceil_div(g.channels, n.width) * n.width * g.filters * size)
    sum_bytes = PARTS * g.channels * size
    n.makes_input = made is not None
    if n.makes_input:
        n.input = rows_of_result(made)
    filters = acquire(nbytes + 2 * sum_bytes)
    n.filters = filters
    n.past = (n.makes_input and cnp.PyArray_NBYTES(dx) > past_bytes
              and in_vectors(f.table, n.dx, g.channels * size))
    n.input.total = filters + nbytes
    n.input.dot = n.input.total + sum_bytes
    memset(n.input.total, 0, 2 * sum_bytes)
    pack_panels(f.table, cnp.PyArray_BYTES(w), g.filters * size, True, g.filters, g.channels, n.width, filters)
    f.normalized = &n
    try:
        accumulate_filters(&f, threads_for_flops(f.table, 2 * g.flops()))
        if n.makes_input:
            sum_lines(f.table, f.parts, g.channels, n.input.total, cnp.PyArray_BYTES(total))
            sum_lines(f.table, f.parts, g.channels, n.input.dot, cnp.PyArray_BYTES(dot))
    finally:
        release(filters)


def backward_filters_normalized(Geometry g, tuple normalized, cnp.ndarray x, cnp.ndarray dw):
    """Write the gradient of the filters to dw, likewise, of filters of any size."""
    cdef FilterGradient f = filter_gradient(g, x, dw)
    cdef Normalized n
    memset(&n, 0, sizeof(n))
    n.t = rows_of_gradient(normalized)
    f.normalized = &n
    accumulate_filters(&f, threads_for_flops(f.table, g.flops()))


def backward_filters_pooled(Geometry g, cnp.ndarray dy, cnp.ndarray y, int relu, cnp.ndarray argmax, cnp.ndarray x,
                            cnp.ndarray dw, cnp.ndarray db):
    """Write the gradients of the filters and the bias, from dy, that of the maxima y of 2 x 2 pixels of a relu's
    result."""
    cdef FilterGradient f = filter_gradient(g, x, dw)
    cdef Py_ssize_t rows = g.images * (g.out_h // 2)
    cdef Unpooled u
    u.dy, u.maxima = cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(y)
    u.argmax = <uint8_t *> cnp.PyArray_BYTES(argmax)
    u.relu = relu
    u.totals = acquire(rows * f.dy_row)
    memset(u.totals, 0, rows * f.dy_row)
    f.unpooled = &u
    try:
        accumulate_filters(&f, threads_for_flops(f.table, g.flops()))
        sum_lines(f.table, rows, g.filters, u.totals, cnp.PyArray_BYTES(db))
    finally:
        release(u.totals)
