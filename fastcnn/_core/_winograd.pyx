"""Winograd's F(m x m, 3x3), m = 2, 4, 6: 3x3 convolution at stride 1 with 4/9, 1/4 or 16/81 of the multiplications.

The output is cut into tiles of m x m pixels, each of which sees (m + 2) x (m + 2) pixels of the input. In the
transformed domain a tile is as many points, and the convolution one matrix product for each of them: tiles x channels
times channels x filters. A task takes a block of tiles, whose transforms stay in L2: it transforms their input, and
then, one panel of filters after another, multiplies and transforms back. Where there are more filters than tiles, a
task takes one panel instead, whose filters it transforms where it needs them, and all tiles.

With a dilation d, every d-th row or column of the output sees every d-th of the input. These *phases* are convolutions
of their own: the pixels of a tile lie d apart.

The gradient of the input is the same convolution of the output's gradient with filters flipped and transposed. Where
tiles are as few as the rows of a dot leaf, these stay as they lie, and a product's elements are dots of their rows.

The gradient of the filters is the transpose: the transform of the input times that of the output's gradient, reduced
over the tiles. All threads work at one block of tiles after another: they share out its tiles, then its products.
Where there is but one block, products become gradients as soon as they are made.

A product's element is one chain over the channels, or over the tiles, or such a dot, and a tile's transforms do not
depend on its neighbours, so that neither the threads nor the cut of the work change a bit.
"""

from cython.parallel cimport parallel, prange, threadid

cimport numpy as cnp

from ._conv cimport Geometry, Pooled, pool_pixels, pooled_to, scaled
from ._gemm cimport bring_near, fc_prefetch, multiply_tiles, packed_width, pad_bias, panel_shape
from ._runtime cimport (
    FC_DOT_ROWS, Shares, acquire, aligned, ceil_div, distance, fc_dot, fc_kernels, fc_tile, fc_winograd,
    fc_winograd_leaves, kernels, l2_bytes, l2_room, l3_is_far, line, odd_lines, pixel_pitch, release, share, take,
    threads_for,
)

cnp.import_array()

# Tiles up to which the gradient of the input takes filters as they lie.
FEW_TILES = FC_DOT_ROWS

cdef enum:
    # Channels of a panel's filters whose taps are transposed at a time, to be transformed while they are near.
    SLICE = 32
    # Channels that a slab has at most (two threads of a Granite Rapids, 512-512 filters of 4 x 4 points, 7x7 pixels:
    # 1.02 ms with 160, 0.98 with 96, 0.99 with 64).
    MOST_SLAB = 96
    # Rows of filters that lie transposed whose dots are taken at a time: with 4 tiles come from L2 too often
    # (gradient of the input of 512-512 filters, 7x7 pixels, two threads of a Zen 5: 0.53 ms, with 8 0.47).
    DOT_COLUMNS = 8
    # Tiles that a block has at least; and where L3 is far and has all that one panel of filters takes (two threads of a
    # Granite Rapids, 512-512 filters, 8 images of 28x28: 30.1 ms with 48, 28.4 with 64, 28.1 with 96, 27.0 with 128; 16
    # of 14x14: 19.0, 18.4, 18.4, 18.6).
    LEAST_TILES = 32
    MORE_TILES = 96
    # Tiles that a block has at least where threads could share panels instead of blocks: the rows of a register tile.
    FEWEST_TILES = 16
    # Rows of filters that are asked for ahead of their turn, and tiles: what lies in so many places, and is read
    # between stores to as many others, the hardware does not foresee (gradient of 64-64 filters of 64 images of 32x32,
    # one thread of a Zen 5: 11.5 ms without, 7.2 with; of 32-32 filters 3.5 and 2.4).
    AHEAD = 4
    TILES_AHEAD = 2
    # Tiles that a shared block of the filters' gradient has at least, and a part of them: with fewer the sums are
    # loaded and stored too often, more of them are written too far from the cores (64, 128 and 256 tiles of 6 x 6
    # points: 1.42, 1.46 and 1.34 times as fast as direct, geometric mean of 12 layers of benchmarks/layers.py).
    GRADIENT_TILES = 128


cdef struct Axis:
    # A side of the images, of so many pixels. A tile sees `span` of them, `dilation` apart: the first one from `base`
    # on, which may lie outside, the next one from `step` pixels of its phase on. Tiles of all phases, one after the
    # other, and of one.
    Py_ssize_t size, base, span, step, dilation, tiles, phase_tiles


cdef struct Source:
    # Images, of pixels of so many bytes.
    const char *x
    Py_ssize_t pixel
    Axis rows, cols


cdef Axis axis(Py_ssize_t size, Py_ssize_t base, Py_ssize_t span, Py_ssize_t tile, Py_ssize_t dilation,
               Py_ssize_t out) noexcept nogil:
    """Return a side of the source of an output of so many pixels."""
    cdef Axis a
    a.size, a.base, a.span, a.step, a.dilation = size, base, span, tile, dilation
    a.phase_tiles = ceil_div(ceil_div(out, dilation), tile)
    a.tiles = min(dilation, out) * a.phase_tiles
    return a


cdef inline Py_ssize_t first_pixel(const Axis *a, Py_ssize_t tile) noexcept nogil:
    """Return the first output pixel of a tile."""
    return tile // a.phase_tiles + tile % a.phase_tiles * a.step * a.dilation


cdef inline int before(const Axis *a, Py_ssize_t first, Py_ssize_t end, Py_ssize_t most) noexcept nogil:
    """Return how many of at most so many pixels, from `first` on and a dilation apart, lie before `end`."""
    return <int> max(0, min(most, ceil_div(end - first, a.dilation)))


cdef inline const char *sight(const Source *s, Py_ssize_t tile, Py_ssize_t *row, Py_ssize_t *col) noexcept nogil:
    """Return the first pixel that a tile sees, which may lie outside the image, and its row and column."""
    cdef Py_ssize_t image = tile // (s.rows.tiles * s.cols.tiles)
    row[0] = s.rows.base + first_pixel(&s.rows, tile // s.cols.tiles % s.rows.tiles)
    col[0] = s.cols.base + first_pixel(&s.cols, tile % s.cols.tiles)
    return s.x + ((image * s.rows.size + row[0]) * s.cols.size + col[0]) * s.pixel


cdef void look(const Source *s, Py_ssize_t tile, fc_winograd *t) noexcept nogil:
    """Point t.x at the first pixel that a tile sees, and say which of its rows and columns lie inside the image; point
    t.ahead at those pixels of a later tile that none before it sees."""
    cdef Py_ssize_t row, col
    t.x_row = s.rows.dilation * s.cols.size * s.pixel
    t.x_col = s.cols.dilation * s.pixel
    t.ahead = sight(s, tile + TILES_AHEAD, &row, &col)
    t.ahead += (s.rows.span - s.rows.step) * t.x_row + (s.cols.span - s.cols.step) * t.x_col
    t.x = sight(s, tile, &row, &col)
    t.row = before(&s.rows, row, 0, s.rows.span)
    t.col = before(&s.cols, col, 0, s.cols.span)
    t.rows = before(&s.rows, row, s.rows.size, s.rows.span)
    t.cols = before(&s.cols, col, s.cols.size, s.cols.span)


# ---- result and gradient of the input ----

cdef struct Convolution:
    const fc_kernels *table
    fc_winograd_leaves leaves
    # Pixels of a side of an output tile, and points of a tile.
    Py_ssize_t tile, points
    Source source
    Py_ssize_t images, channels
    # Filters as they lie in memory: bytes from tap to tap, and from channel to channel of the source.
    const char *w
    bint transposed
    Py_ssize_t tap_row, tap_col, w_row
    # Transformed filters: panel after panel its points, from one to the next `filter_point` bytes, channels x width
    # each.
    char *filters
    Py_ssize_t columns, width, panels, filter_point
    const char *bias
    # How far from y lies what is added to it before relu, laid out as y; 0: nothing is.
    Py_ssize_t residual
    int relu
    # Bytes from one pixel of the output to the next.
    char *y
    Py_ssize_t out_h, out_w, y_pixel
    Pooled pooled
    # Cut of the work: tiles of a block, panels of a group; or, by panels, one block, and where the filters are not
    # transformed yet, those of a panel when they are needed, a slab of channels at a time, to points slab_point bytes
    # apart; where these are by dots, some of their rows at a time, with all channels.
    bint by_panels, by_dots
    Py_ssize_t tiles, block, blocks, group, groups, slab, slab_point
    # Scratch of a thread: the block's points of the input, of a slab of channels after the other, or of all of them, a
    # part; `row` bytes a tile, `point` bytes from one point to the next, part_bytes from one part to the next. Points
    # of a panel's product, likewise; a tile of a result that is pooled.
    Py_ssize_t part, row, point, part_bytes, product_point, input_bytes, product_bytes, tile_bytes


cdef inline void prefetch_taps(const Convolution *g, const char *x, Py_ssize_t nbytes) noexcept nogil:
    """Ask for the nine taps from x on: they lie too far apart for the hardware to foresee."""
    cdef Py_ssize_t r, s
    for r in range(3):
        for s in range(3):
            fc_prefetch(x + r * g.tap_row + s * g.tap_col, nbytes)


cdef void transpose_taps(const Convolution *g, Py_ssize_t panel, Py_ssize_t channel, Py_ssize_t channels, char *taps,
                         Py_ssize_t tap_bytes) noexcept nogil:
    """Transpose some channels of one panel of filters: tap after tap, so many bytes apart, channels x width each."""
    cdef Py_ssize_t size = g.table.itemsize, first = panel * g.width, width, columns, tap
    cdef const char *w
    cdef int kind
    columns = min(g.width, g.columns - first)
    panel_shape(g.table, columns, &width, &kind)
    for tap in range(9):
        w = g.w + tap // 3 * g.tap_row + tap % 3 * g.tap_col + first * g.w_row + channel * size
        g.table.pack_transposed(channels, columns, width, w, g.w_row, taps + tap * tap_bytes)


cdef void transform_panel(const Convolution *g, Py_ssize_t panel, Py_ssize_t channel, Py_ssize_t channels, char *to,
                          Py_ssize_t point, char *taps) noexcept nogil:
    """Transform some channels of one panel of filters, to points so many bytes apart."""
    cdef Py_ssize_t size = g.table.itemsize, first = panel * g.width, tap_bytes = g.width * SLICE * size, width, k
    cdef int kind
    cdef fc_winograd t
    t.channels = min(g.width, g.columns - first)
    panel_shape(g.table, t.channels, &width, &kind)
    t.point = point
    t.ahead = NULL
    t.x_row = 3 * tap_bytes if g.transposed else g.tap_row
    t.x_col = tap_bytes if g.transposed else g.tap_col
    for k in range(channels):
        if g.transposed:
            if k % SLICE == 0:
                transpose_taps(g, panel, channel + k, min(SLICE, channels - k), taps, tap_bytes)
            t.x = taps + k % SLICE * width * size
        else:
            t.x = g.w + (channel + k) * g.w_row + first * size
            if k + AHEAD < channels:
                prefetch_taps(g, t.x + AHEAD * g.w_row, t.channels * size)
        t.y = to + k * width * size
        g.leaves.filter(&t)


cdef void multiply_panel(const Convolution *g, Py_ssize_t panel, Py_ssize_t channel, Py_ssize_t channels,
                         const char *filters, Py_ssize_t filter_point, Py_ssize_t tiles, const char *points,
                         char *products) noexcept nogil:
    """Some channels' part of the products of a block of tiles with one panel of filters.

    Meanwhile the next point is brought near: its filters, where these lie there already, and its tiles, where these are
    too many for L2, or some come from another core.
    """
    cdef Py_ssize_t size = g.table.itemsize, no_offset = 0, width, i, groups, upper
    cdef const char *after = points  # the tiles of the point that follows after the last one
    cdef int kind
    cdef fc_tile t
    if channel + channels < g.channels:
        after += (channel // g.part + 1) * g.part_bytes
    points += channel // g.part * g.part_bytes
    panel_shape(g.table, g.columns - panel * g.width, &width, &kind)
    # The rows during which it is the tiles.
    groups = ceil_div(tiles, g.table.max_rows[kind])
    upper = 0
    if g.slab:
        upper = tiles
    elif g.points * g.point > l2_bytes // 2:
        upper = tiles * (groups * tiles * g.row // (tiles * g.row + channels * width * size)) // groups
    t.runs = &no_offset
    t.n_runs = 1
    t.run_length = channels
    t.a_row = g.row
    t.a_step = size
    t.b_step = width * size
    t.bias = NULL
    t.c_row = width * size
    t.columns = width
    t.residual = 0
    t.past = False
    t.ahead = t.ahead_end = NULL
    t.accumulate = channel > 0
    t.relu = 0
    for i in range(g.points):
        t.b = filters + i * filter_point
        t.a = points + i * g.point
        t.c = products + i * g.product_point
        bring_near(g.table, kind, &t, upper, 1, t.a + g.point if i + 1 < g.points else after, tiles * g.row)
        multiply_tiles(g.table, kind, &t, upper)
        # Behind the last one there is the next panel's first.
        bring_near(g.table, kind, &t, tiles - upper, 1, t.b + filter_point, channels * t.b_step)
        multiply_tiles(g.table, kind, &t, tiles - upper)


cdef void transform_input(const Convolution *g, Py_ssize_t first, Py_ssize_t place, char *points) noexcept nogil:
    """Transform what one tile of a block sees to its place among the block's points."""
    cdef Py_ssize_t channel = 0, nbytes = g.part * g.table.itemsize
    cdef fc_winograd t
    look(&g.source, first + place, &t)
    t.point = g.point
    t.y = points + place * g.row
    while channel < g.channels:
        t.channels = min(g.part, g.channels - channel)
        g.leaves.input(&t)
        t.x, t.ahead, t.y = t.x + nbytes, t.ahead + nbytes, t.y + g.part_bytes
        channel += g.part


cdef void transform_products(const Convolution *g, Py_ssize_t panel, Py_ssize_t first, Py_ssize_t tiles,
                             const char *products, char *pixels) noexcept nogil:
    """Transform a block's products with one panel to output pixels, which are pooled tile by tile if they are."""
    cdef Py_ssize_t size = g.table.itemsize, i, tile, image, row, col, width
    cdef const Axis *rows = &g.source.rows
    cdef const Axis *cols = &g.source.cols
    cdef int kind
    cdef fc_winograd t
    t.residual = g.residual
    t.relu = g.relu
    t.ahead = NULL
    t.y_col = g.source.cols.dilation * g.y_pixel
    t.y_row = g.source.rows.dilation * g.out_w * g.y_pixel
    if g.pooled.y != NULL:
        t.y_col = g.width * size
        t.y_row = g.tile * t.y_col
    t.channels = min(g.width, g.columns - panel * g.width)
    t.point = g.product_point
    t.bias = g.bias + panel * g.width * size if g.bias != NULL else NULL
    panel_shape(g.table, t.channels, &width, &kind)
    for i in range(tiles):
        tile = first + i
        image = tile // (rows.tiles * cols.tiles)
        row = first_pixel(rows, tile // cols.tiles % rows.tiles)
        col = first_pixel(cols, tile % cols.tiles)
        t.x = products + i * width * size
        t.rows = before(rows, row, g.out_h, g.tile)
        t.cols = before(cols, col, g.out_w, g.tile)
        if g.pooled.y == NULL:
            t.y = g.y + ((image * g.out_h + row) * g.out_w + col) * g.y_pixel + panel * g.width * size
            t.ahead = t.y + g.tile * t.y_col  # the next tile, but for the last one of a row
            g.leaves.output(&t)
        else:
            t.y = pixels
            g.leaves.output(&t)
            pool_pixels(g.table, &g.pooled, pixels, t.y_row, t.y_col, image, row, col, t.rows, t.cols,
                        panel * g.width * size, t.channels)


cdef void block_task(const Convolution *g, Py_ssize_t task, char *scratch) noexcept nogil:
    """A block of tiles for a group of panels."""
    cdef Py_ssize_t first = task // g.groups * g.block, first_panel = task % g.groups * g.group, panel, i
    cdef Py_ssize_t tiles = min(g.block, g.tiles - first)
    cdef char *products = scratch + g.input_bytes
    for i in range(tiles):
        transform_input(g, first, i, scratch)
    for panel in range(first_panel, min(g.panels, first_panel + g.group)):
        multiply_panel(g, panel, 0, g.channels, g.filters + panel * g.points * g.filter_point, g.filter_point, tiles,
                       scratch, products)
        transform_products(g, panel, first, tiles, products, products + g.product_bytes)


cdef void panel_task(const Convolution *g, Py_ssize_t panel, const char *points, char *scratch) noexcept nogil:
    """All tiles for one panel, whose filters are transformed here, some channels at a time, or were before."""
    cdef Py_ssize_t channel = 0, channels
    cdef char *filters = scratch + g.product_bytes
    if g.filters != NULL:
        multiply_panel(g, panel, 0, g.channels, g.filters + panel * g.points * g.filter_point, g.filter_point, g.tiles,
                       points, scratch)
        channel = g.channels
    while channel < g.channels:
        channels = min(g.slab, g.channels - channel)
        transform_panel(g, panel, channel, channels, filters, g.slab_point, filters + g.points * g.slab_point)
        multiply_panel(g, panel, channel, channels, filters, g.slab_point, g.tiles, points, scratch)
        channel += channels
    transform_products(g, panel, 0, g.tiles, scratch, filters)


cdef void transform_rows(const Convolution *g, Py_ssize_t first, Py_ssize_t rows, char *to) noexcept nogil:
    """Transform some rows of filters that lie transposed, as they lie."""
    cdef Py_ssize_t i
    cdef fc_winograd t
    t.channels = g.channels
    t.point = g.slab_point
    t.ahead = NULL
    t.x_row, t.x_col = g.tap_row, g.tap_col
    for i in range(rows):
        t.x = g.w + (first + i) * g.w_row
        t.y = to + i * g.row
        g.leaves.filter(&t)


cdef void dots_task(const Convolution *g, Py_ssize_t panel, const char *points, char *scratch) noexcept nogil:
    """All tiles for one panel of filters that lie transposed: a product's elements are dots of their rows."""
    cdef Py_ssize_t size = g.table.itemsize, first = panel * g.width, columns = min(g.width, g.columns - first)
    cdef Py_ssize_t column = 0, i
    cdef char *filters = scratch + g.product_bytes
    cdef fc_dot t
    t.a_row = t.b_row = g.row
    t.length = g.channels
    t.bias = NULL
    t.c_row = g.width * size
    t.relu = 0
    while column < columns:
        t.columns = min(DOT_COLUMNS, columns - column)
        transform_rows(g, first + column, t.columns, filters)
        for i in range(g.points):
            t.a = points + i * g.point
            t.b = filters + i * g.slab_point
            t.c = scratch + i * g.product_point + column * size
            g.table.dot[g.tiles - 1](&t)
        column += t.columns
    transform_products(g, panel, 0, g.tiles, scratch, NULL)


cdef void plan_filters(Convolution *g) noexcept nogil:
    """Lay out the transformed filters, which does not depend on the images."""
    cdef Py_ssize_t size = g.table.itemsize
    g.width = g.table.panel_vectors * g.table.lanes
    g.panels = ceil_div(g.columns, g.width)
    # Of an odd number of rows: points that lie a power of two apart would meet in the same cache sets (256-256 filters,
    # 16 images of 14x14, two threads of a Zen 5: 3.1 ms instead of 2.85).
    g.filter_point = line((g.channels | 1) * g.width * size)


cdef bint pays_panels(const Convolution *g, int threads) noexcept nogil:
    """Whether to go panel by panel: a panel's products stay in L2, and all filters' points, which are then read but
    once, or not even written, are too large for the caches and more than all tiles' points, which every panel reads."""
    cdef Py_ssize_t products = g.tiles * g.points * g.width * g.table.itemsize
    if g.panels < threads or products > l2_bytes * 3 // 4:
        return False
    return g.panels * g.points * g.filter_point > 4 * l2_bytes and g.tiles * g.row <= g.filter_point


cdef void cut(Convolution *g, int threads) noexcept nogil:
    """Choose the blocks and groups: a block's points stay in L2, and every thread has as many blocks as the others.

    Where that leaves a block too few tiles, groups of panels are the tasks, of which each transforms its block.
    """
    cdef Py_ssize_t size = g.table.itemsize, even
    g.tiles = g.images * g.source.rows.tiles * g.source.cols.tiles
    g.row = ceil_div(g.channels, g.table.lanes) * g.table.lanes * size
    # Whatever the threads, since sums are in another order.
    g.by_dots = g.transposed and g.tiles <= FC_DOT_ROWS
    if g.by_dots:
        g.width = g.table.lanes
        g.panels = ceil_div(g.columns, g.width)
    g.by_panels = g.by_dots or pays_panels(g, threads)
    # Not so few tiles that the filters' points, which come from beyond L2, are read for little.
    g.block = max(MORE_TILES if l3_is_far and g.points * g.filter_point > l2_bytes * 5 // 4 else LEAST_TILES,
                  l2_room * 3 // 4 // (g.points * (g.row + g.width * size)))
    g.slab = g.slab_point = 0
    if g.by_panels:
        g.block = g.tiles
    if g.by_dots:
        g.slab_point = odd_lines(DOT_COLUMNS * g.row)
    elif g.by_panels and g.filters == NULL:
        g.slab = max(SLICE, l2_room * 5 // 8 // (g.points * g.width * size) // SLICE * SLICE)
        g.slab = min(min(g.slab, MOST_SLAB), g.channels)
        g.slab_point = odd_lines(g.slab * g.width * size)
    g.part = g.slab if g.slab else g.channels
    g.row = ceil_div(g.part, g.table.lanes) * g.table.lanes * size
    g.blocks = ceil_div(g.tiles, min(g.block, g.tiles))
    even = ceil_div(g.blocks, threads) * threads
    if not g.by_panels and (g.tiles >= FEWEST_TILES * even or g.panels < threads):
        g.blocks = min(even, g.tiles)
    g.block = ceil_div(g.tiles, g.blocks)
    g.blocks = ceil_div(g.tiles, g.block)
    g.groups = min(g.panels, ceil_div(4 * threads, g.blocks)) if g.blocks < threads else 1
    g.group = ceil_div(g.panels, g.groups)
    g.groups = ceil_div(g.panels, g.group)
    g.point = odd_lines(g.block * g.row)
    g.product_point = odd_lines(g.block * g.width * size)
    g.part_bytes = g.points * g.point
    g.input_bytes = ceil_div(g.channels, g.part) * g.part_bytes
    g.product_bytes = g.points * g.product_point
    g.tile_bytes = 0 if g.pooled.y == NULL else line(g.tile * g.tile * g.width * size)


cdef void transform_part(const Convolution *g, Py_ssize_t panel, Py_ssize_t channel, Py_ssize_t channels,
                         char *taps) noexcept nogil:
    """Transform at most so many channels of one panel of filters to their place among all points."""
    cdef Py_ssize_t width
    cdef int kind
    panel_shape(g.table, g.columns - panel * g.width, &width, &kind)
    transform_panel(g, panel, channel, min(channels, g.channels - channel),
                    g.filters + panel * g.points * g.filter_point + channel * width * g.table.itemsize, g.filter_point,
                    taps)


cdef void transform_filters(const Convolution *g, char *scratch, Py_ssize_t thread_bytes, int threads) noexcept nogil:
    """Transform all filters, in parallel: the panels, or, where they are few, some channels of one each."""
    cdef Py_ssize_t parts = min(ceil_div(4 * threads, g.panels), ceil_div(g.channels, SLICE)) if threads > 1 else 1
    cdef Py_ssize_t channels = ceil_div(ceil_div(g.channels, parts), SLICE) * SLICE, i
    for i in prange(g.panels * parts, num_threads=threads, schedule="static"):
        transform_part(g, i // parts, i % parts * channels, channels, scratch + threadid() * thread_bytes)


cdef void convolve_blocks(Convolution *g, char *scratch, Py_ssize_t thread_bytes, int threads) noexcept nogil:
    """Block by block, with filters that are transformed already."""
    cdef Py_ssize_t i, task
    cdef Shares shares
    share(&shares, g.blocks * g.groups, threads)
    for i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
        task = take(&shares, i)
        while task >= 0:
            block_task(g, task, scratch + i * thread_bytes)
            task = take(&shares, i)


cdef void convolve_panels(Convolution *g, char *scratch, Py_ssize_t thread_bytes, int threads) noexcept nogil:
    """All tiles as one block, whose points all threads share, panel by panel."""
    cdef Py_ssize_t i, panel
    cdef Shares shares
    cdef char *points = scratch + threads * thread_bytes
    share(&shares, g.panels, threads)
    with parallel(num_threads=threads):
        for i in prange(g.tiles, schedule="static"):
            transform_input(g, 0, i, points)
        for i in prange(threads, schedule="static", chunksize=1):
            panel = take(&shares, i)
            while panel >= 0:
                if g.by_dots:
                    dots_task(g, panel, points, scratch + i * thread_bytes)
                else:
                    panel_task(g, panel, points, scratch + i * thread_bytes)
                panel = take(&shares, i)


cdef int convolve(Convolution *g, const char *bias, int threads) except -1:
    """Run a convolution; where its filters are not transformed yet, transform them."""
    cdef Py_ssize_t size = g.table.itemsize, filter_bytes = 0, taps_bytes = 0, shared_bytes = 0
    cdef Py_ssize_t bias_bytes, thread_bytes
    cdef char *scratch
    cdef char *buffer
    plan_filters(g)
    cut(g, threads)
    bias_bytes = line(g.panels * g.width * size)
    if g.filters == NULL:
        taps_bytes = 9 * g.width * SLICE * size if g.transposed else 0
    if g.by_panels:
        thread_bytes = g.product_bytes + max(g.points * g.slab_point + taps_bytes, g.tile_bytes)
        shared_bytes = g.input_bytes
    else:
        thread_bytes = max(taps_bytes, g.input_bytes + g.product_bytes + g.tile_bytes)
        filter_bytes = g.panels * g.points * g.filter_point if g.filters == NULL else 0
    buffer = scratch = acquire(filter_bytes + bias_bytes + threads * thread_bytes + shared_bytes)
    scratch += filter_bytes
    g.bias = pad_bias(bias, g.columns * size, bias_bytes, scratch)
    scratch += bias_bytes
    with nogil:
        if g.by_panels:
            convolve_panels(g, scratch, thread_bytes, threads)
        else:
            if g.filters == NULL:
                g.filters = buffer
                transform_filters(g, scratch, thread_bytes, threads)
            convolve_blocks(g, scratch, thread_bytes, threads)
    release(buffer)
    return 0


# ---- gradient of the filters ----

ctypedef void (*transform)(const fc_winograd *) noexcept nogil


cdef struct Operand:
    # One side of the products: images whose channels go in parts of `width`. Part after part its points of a block of
    # tiles, from one to the next `point` bytes, each tiles x width.
    Source source
    Py_ssize_t channels, width, parts, point
    char *at


cdef struct FilterGradient:
    const fc_kernels *table
    fc_winograd_leaves leaves
    Py_ssize_t points
    # Rows of a point's product are channels of the input, its columns channels of the output's gradient.
    Operand x, dy
    # Tiles in all, and of a block; the block at work.
    Py_ssize_t tiles, block, first, count
    # A pair is a part of the rows and one of the columns. Its products' sums are points, so many bytes from one to the
    # next, of rows x columns. by_pairs: with a single block, a thread needs those of one pair at a time.
    Py_ssize_t sum_point
    bint by_pairs
    # Where the sums of all pairs stay in L2 beside a block, threads share nothing: each works on a part of the tiles,
    # from `start` on, in blocks and with sums of its own; the parts' sums are added in the end. 0 parts: blocks are
    # shared, so that half of what two threads multiply was transformed by the other one.
    Py_ssize_t parts, start
    char *dw


cdef void cut_operand(Operand *o, Py_ssize_t channels, Py_ssize_t width, Py_ssize_t block,
                      Py_ssize_t size) noexcept nogil:
    o.channels = channels
    o.width = width
    o.parts = ceil_div(channels, width)
    o.point = odd_lines(block * width * size)


cdef inline Py_ssize_t columns(const Operand *o, Py_ssize_t part) noexcept nogil:
    return min(o.width, o.channels - part * o.width)


cdef void transform_tile(const Operand *o, Py_ssize_t points, Py_ssize_t size, Py_ssize_t tile, Py_ssize_t place,
                         transform leaf) noexcept nogil:
    """Transform what a tile sees to its place in the block."""
    cdef Py_ssize_t part
    cdef fc_winograd t
    look(&o.source, tile, &t)
    t.point = o.point
    for part in range(o.parts):
        t.channels = columns(o, part)
        t.y = o.at + part * points * o.point + place * o.width * size
        leaf(&t)
        t.x += o.width * size
        t.ahead += o.width * size


cdef void add_products(const FilterGradient *g, Py_ssize_t pair, Py_ssize_t point, char *sums) noexcept nogil:
    """Add the block's products of one point, for one part of the rows and one of the columns.

    Meanwhile the next point is brought near where threads share a block, and another one may have transformed it.
    """
    cdef Py_ssize_t size = g.table.itemsize, no_offset = 0, width, row = pair % g.x.parts, panel = pair // g.x.parts
    cdef Py_ssize_t rows = columns(&g.x, row), upper, a_bytes = 0, b_bytes = 0
    cdef int kind
    cdef fc_tile t
    panel_shape(g.table, columns(&g.dy, panel), &width, &kind)
    t.runs = &no_offset
    t.n_runs = 1
    t.run_length = g.count
    t.a_row = size
    t.a_step = g.x.width * size
    t.b_step = g.dy.width * size
    t.bias = NULL
    t.c_row = g.dy.width * size
    t.columns = width
    t.residual = 0
    t.past = False
    t.relu = 0
    t.a = g.x.at + (row * g.points + point) * g.x.point
    t.b = g.dy.at + (panel * g.points + point) * g.dy.point
    t.c = sums + point * g.sum_point
    t.accumulate = g.first > g.start
    if g.parts == 0 and point + 1 < g.points:
        # What other pairs need as well, unless these are another thread's, is for the first of them.
        a_bytes = g.count * t.a_step if g.by_pairs or panel == 0 else 0
        b_bytes = g.count * t.b_step if g.by_pairs or row == 0 else 0
    upper = rows // 2 // g.table.max_rows[kind] * g.table.max_rows[kind]
    bring_near(g.table, kind, &t, upper, 1, t.a + g.x.point, a_bytes)
    multiply_tiles(g.table, kind, &t, upper)
    bring_near(g.table, kind, &t, rows - upper, 1, t.b + g.dy.point, b_bytes)
    multiply_tiles(g.table, kind, &t, rows - upper)


cdef void transform_sums(const FilterGradient *g, Py_ssize_t pair, Py_ssize_t row, const char *sums) noexcept nogil:
    """Transform a pair's sums, one row of each point, to gradients of filters."""
    cdef Py_ssize_t size = g.table.itemsize, panel = pair // g.x.parts
    cdef Py_ssize_t channel = pair % g.x.parts * g.x.width + row
    cdef fc_winograd t
    t.point = g.sum_point
    t.ahead = NULL
    t.y_col = g.x.channels * g.dy.channels * size
    t.y_row = 3 * t.y_col
    t.x = sums + row * g.dy.width * size
    t.channels = columns(&g.dy, panel)
    t.y = g.dw + (channel * g.dy.channels + panel * g.dy.width) * size
    g.leaves.filter_backward(&t)


cdef void pair_task(const FilterGradient *g, Py_ssize_t pair, char *sums) noexcept nogil:
    """A pair's part of the gradient from first to last, where there is but one block."""
    cdef Py_ssize_t i
    for i in range(g.points):
        add_products(g, pair, i, sums)
    for i in range(columns(&g.x, pair % g.x.parts)):
        transform_sums(g, pair, i, sums)


cdef void channel_task(const FilterGradient *g, Py_ssize_t task, const char *sums) noexcept nogil:
    """One channel of the input and one part of the columns, when all blocks are done."""
    cdef Py_ssize_t channel = task // g.dy.parts, pair = task % g.dy.parts * g.x.parts + channel // g.x.width
    transform_sums(g, pair, channel % g.x.width, sums + pair * g.points * g.sum_point)


cdef void transform_block(const FilterGradient *g, Py_ssize_t i) noexcept nogil:
    """Transform what one of a block's tiles sees of both sides."""
    transform_tile(&g.x, g.points, g.table.itemsize, g.first + i, i, g.leaves.input)
    transform_tile(&g.dy, g.points, g.table.itemsize, g.first + i, i, g.leaves.output_backward)


cdef void part_task(const FilterGradient *given, Py_ssize_t part, char *sums, char *points) noexcept nogil:
    """A part of the tiles, block after block, whose points have a place of their own."""
    cdef FilterGradient g = given[0]
    cdef Py_ssize_t pairs = g.x.parts * g.dy.parts, pair_bytes = g.points * g.sum_point, i
    cdef Py_ssize_t end = g.tiles * (part + 1) // g.parts
    g.dy.at = points + (g.dy.at - g.x.at)
    g.x.at = points
    g.first = g.start = g.tiles * part // g.parts
    while g.first < end:
        g.count = min(g.block, end - g.first)
        for i in range(g.count):
            transform_block(&g, i)
        for i in range(g.points * pairs):
            add_products(&g, i % pairs, i // pairs, sums + i % pairs * pair_bytes)
        g.first += g.count


cdef void reduce_parts(const FilterGradient *g, char *sums, Py_ssize_t sum_bytes, Py_ssize_t points_bytes,
                       int threads) noexcept nogil:
    """Part after part; then the sum of their sums, slice by slice, is transformed."""
    cdef char *points = sums + g.parts * sum_bytes
    cdef Py_ssize_t slice_bytes = sum_bytes // g.points, i, part
    for i in prange(g.parts, num_threads=threads, schedule="dynamic"):
        part_task(g, i, sums + i * sum_bytes, points + threadid() * points_bytes)
    for i in prange(g.points, num_threads=threads, schedule="static"):
        for part in range(1, g.parts):
            g.table.column_sum(1, slice_bytes // g.table.itemsize, sums + part * sum_bytes + i * slice_bytes,
                               sums + i * slice_bytes)
    for i in prange(g.x.channels * g.dy.parts, num_threads=threads, schedule="static"):
        channel_task(g, i, sums)


cdef void reduce_tiles(FilterGradient *g, char *sums, int threads) noexcept nogil:
    """Block after block; in the end, or at once where the sums are one pair's alone, transform them."""
    cdef Py_ssize_t pairs = g.x.parts * g.dy.parts, i
    cdef Py_ssize_t pair_bytes = g.points * g.sum_point
    g.first = 0
    while g.first < g.tiles:
        g.count = min(g.block, g.tiles - g.first)
        with parallel(num_threads=threads):
            for i in prange(g.count, schedule="static"):
                transform_block(g, i)
            if g.by_pairs:
                for i in prange(pairs, schedule="dynamic"):
                    pair_task(g, i, sums + threadid() * pair_bytes)
            else:
                for i in prange(g.points * pairs, schedule="static"):
                    add_products(g, i % pairs, i // pairs, sums + i % pairs * pair_bytes)
        g.first += g.count
    if not g.by_pairs:
        for i in prange(g.x.channels * g.dy.parts, num_threads=threads, schedule="static"):
            channel_task(g, i, sums)


# ---- one object for each size of tile ----

cdef class Winograd:
    """F(tile x tile, 3x3) for 3x3 filters at stride 1 in one group, dilated or not; only what is not is pooled."""

    cdef readonly int tile

    def __init__(self, int tile):
        self.tile = tile

    cdef Convolution convolution(self, cnp.ndarray x) noexcept:
        cdef Convolution c
        c.table = kernels(x)
        c.leaves = c.table.winograd[self.tile // 2 - 1]
        c.tile = self.tile
        c.points = (self.tile + 2) * (self.tile + 2)
        return c

    cdef Source source_of(self, Geometry g, cnp.ndarray x) noexcept:
        """Return the input, of which every tile of the result sees a part."""
        cdef Source s
        s.x, s.pixel = cnp.PyArray_BYTES(x), g.channels * cnp.PyArray_ITEMSIZE(x)
        s.rows = axis(g.in_h, -g.top, self.tile + 2, self.tile, g.dilation_h, g.out_h)
        s.cols = axis(g.in_w, -g.left, self.tile + 2, self.tile, g.dilation_w, g.out_w)
        return s

    cdef Convolution result_of(self, Geometry g, cnp.ndarray w) noexcept:
        """Return the convolution with these filters; its images are still to be set."""
        cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(w)
        cdef Convolution c = self.convolution(w)
        c.channels = g.channels
        c.columns = g.filters
        c.w = cnp.PyArray_BYTES(w)
        c.transposed = False
        c.w_row = g.filters * size
        c.tap_col = g.channels * c.w_row
        c.tap_row = 3 * c.tap_col
        c.filters = NULL
        return c

    def prepare(self, Geometry g, cnp.ndarray w, cnp.ndarray scale=None):
        """Return the filters, each times its float64 if there is a scale, as forward takes them when they are prepared.
        """
        cdef Convolution c = self.result_of(g, w)
        cdef cnp.ndarray filters
        plan_filters(&c)
        filters = aligned(c.panels * c.points * c.filter_point // c.table.itemsize, w.dtype)
        c.filters = cnp.PyArray_BYTES(filters)
        if scale is not None:
            c.w = scaled(w, scale)
        transform_filters(&c, NULL, 0, threads_for(<double> c.panels * c.points * c.filter_point))
        if scale is not None:
            release(<char *> c.w)
        return filters

    def forward(self, Geometry g, cnp.ndarray x, cnp.ndarray w, cnp.ndarray bias, cnp.ndarray residual, int relu,
                cnp.ndarray y, bint prepared=False, bint pools=False, cnp.ndarray argmax=None):
        """Write act(conv(x, w) + bias + residual) to y, whose pixels may lie apart; bias and residual may be None.

        Or, without a residual, the maxima of 2 x 2 pixels, and to argmax, of bytes, if there is one, which pixel it is.
        """
        cdef Convolution c = self.result_of(g, w)
        if prepared:
            c.filters = cnp.PyArray_BYTES(w)
        c.images = g.images
        c.source = self.source_of(g, x)
        c.residual = distance(y, residual)
        c.relu = relu
        c.y = cnp.PyArray_BYTES(y)
        c.y_pixel = pixel_pitch(y)
        c.pooled = pooled_to(y, pools, argmax)
        c.out_h, c.out_w = g.out_h, g.out_w
        convolve(&c, NULL if bias is None else cnp.PyArray_BYTES(bias), threads_for(g.flops() / 4))

    def backward_input(self, Geometry g, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray dx):
        """Write the gradient of the input to dx."""
        cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(dy)
        cdef Convolution c = self.convolution(dy)
        c.images, c.channels = g.images, g.filters
        c.source.x, c.source.pixel = cnp.PyArray_BYTES(dy), g.filters * size
        c.source.rows = axis(g.out_h, g.top - 2 * g.dilation_h, c.tile + 2, c.tile, g.dilation_h, g.in_h)
        c.source.cols = axis(g.out_w, g.left - 2 * g.dilation_w, c.tile + 2, c.tile, g.dilation_w, g.in_w)
        # Flipped: from the last tap backwards.
        c.transposed = True
        c.w_row = g.filters * size
        c.tap_col = -g.channels * c.w_row
        c.tap_row = 3 * c.tap_col
        c.w = cnp.PyArray_BYTES(w) - 2 * (c.tap_row + c.tap_col)
        c.filters = NULL
        c.columns = g.channels
        c.residual = 0
        c.relu = 0
        c.y = cnp.PyArray_BYTES(dx)
        c.y_pixel = g.channels * size
        c.pooled = pooled_to(None, False, None)
        c.out_h, c.out_w = g.in_h, g.in_w
        convolve(&c, NULL, threads_for(g.flops() / 4))

    def backward_filters(self, Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
        """Write the gradient of the filters to dw."""
        cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), sum_bytes, input_bytes, points_bytes, pairs
        cdef Py_ssize_t shared_bytes
        cdef int threads = threads_for(g.flops() / 4)
        cdef char *sums
        cdef FilterGradient f
        f.table = kernels(x)
        f.leaves = f.table.winograd[self.tile // 2 - 1]
        f.points = (self.tile + 2) * (self.tile + 2)
        f.dw = cnp.PyArray_BYTES(dw)
        f.x.source = self.source_of(g, x)
        f.dy.source.x, f.dy.source.pixel = cnp.PyArray_BYTES(dy), g.filters * size
        f.dy.source.rows = axis(g.out_h, 0, self.tile, self.tile, g.dilation_h, g.out_h)
        f.dy.source.cols = axis(g.out_w, 0, self.tile, self.tile, g.dilation_w, g.out_w)
        f.tiles = g.images * f.x.source.rows.tiles * f.x.source.cols.tiles
        # Threads meet twice in every block: where there are few channels it should be worth it.
        f.block = max(GRADIENT_TILES, 4 * l2_bytes // (f.points * (g.channels + g.filters) * size))
        f.block = ceil_div(f.tiles, ceil_div(f.tiles, f.block))
        cut_operand(&f.x, g.channels, packed_width(f.table, g.channels), f.block, size)
        cut_operand(&f.dy, g.filters, f.table.panel_vectors * f.table.lanes, f.block, size)
        pairs = f.x.parts * f.dy.parts
        f.sum_point = odd_lines(f.x.width * f.dy.width * size)
        sum_bytes = pairs * f.points * f.sum_point
        f.start = f.parts = 0
        if 3 * sum_bytes <= 2 * l2_room and f.tiles >= 4 * GRADIENT_TILES:
            f.parts = 8 if f.tiles >= 8 * GRADIENT_TILES else 4
            f.block = max(FEWEST_TILES, l2_bytes // 2 // (f.points * (g.channels + g.filters) * size))
            cut_operand(&f.x, g.channels, f.x.width, f.block, size)
            cut_operand(&f.dy, g.filters, f.dy.width, f.block, size)
        f.by_pairs = f.block == f.tiles and (threads == 1 or pairs >= 4 * threads)
        input_bytes = f.x.parts * f.points * f.x.point
        points_bytes = input_bytes + f.dy.parts * f.points * f.dy.point
        if f.parts:
            shared_bytes = f.parts * sum_bytes
            sums = acquire(shared_bytes + threads * points_bytes)
        else:
            shared_bytes = (threads if f.by_pairs else pairs) * f.points * f.sum_point
            sums = acquire(shared_bytes + points_bytes)
        f.x.at = sums + shared_bytes
        f.dy.at = f.x.at + input_bytes
        with nogil:
            if f.parts:
                reduce_parts(&f, sums, sum_bytes, points_bytes, threads)
            else:
                reduce_tiles(&f, sums, threads)
        release(sums)
