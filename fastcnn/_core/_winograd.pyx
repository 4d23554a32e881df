"""Winograd's F(4x4, 3x3): 3x3 convolution at stride 1 with a quarter of the multiplications.

The output is cut into tiles of 4 x 4 pixels, each of which sees 6 x 6 pixels of the input. In the transformed domain a
tile is 36 points, and the convolution one matrix product for each of them: tiles x channels times channels x filters.
A task takes a block of tiles, whose transforms stay in L2: it transforms their input, and then, one panel of filters
after another, multiplies and transforms back.

The gradient of the input is the same convolution of the output's gradient with filters flipped and transposed.

The gradient of the filters is the transpose: the transform of the input times that of the output's gradient, reduced
over the tiles. All threads work at one block of tiles after another: they share out its tiles, then its products.

A product's element is one chain over the channels, or over the tiles, and a tile's transforms do not depend on its
neighbours, so that neither the threads nor the cut of the work change a bit.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._conv cimport Geometry
from ._gemm cimport multiply_tiles, pad_bias, panel_shape
from ._runtime cimport (
    acquire, ceil_div, fc_kernels, fc_tile, fc_winograd, kernels, l2_bytes, line, release, threads_for,
)

cnp.import_array()

cdef enum:
    POINTS = 36
    # Filters that are transformed at a time before they are transposed; whole vectors of them.
    SLICE = 32
    # Tiles of a block of the filters' gradient: with fewer the sums are loaded and stored too often, more of them
    # are written too far from the cores (64, 128 and 256 tiles: 1.42, 1.46 and 1.34 times as fast as direct, geometric
    # mean of 12 layers of benchmarks/layers.py).
    GRADIENT_TILES = 128


cdef struct Source:
    # Images of in_h x in_w pixels of so many bytes; a tile sees span x span of them, an image's first tile from
    # (base_row, base_col) on. Tiles of an image.
    const char *x
    Py_ssize_t in_h, in_w, pixel, base_row, base_col, span, tiles_h, tiles_w


cdef void look(const Source *s, Py_ssize_t tile, char *patch, fc_winograd *t) noexcept nogil:
    """Point t.x at the pixels that a tile sees; where some lie outside the image, at a copy that has zeros there."""
    cdef Py_ssize_t image = tile // (s.tiles_h * s.tiles_w), i
    cdef Py_ssize_t row = tile // s.tiles_w % s.tiles_h * 4 + s.base_row, col = tile % s.tiles_w * 4 + s.base_col
    cdef Py_ssize_t first = max(0, -col), last = min(s.span, s.in_w - col)
    t.x_col = s.pixel
    if row >= 0 and col >= 0 and row + s.span <= s.in_h and col + s.span <= s.in_w:
        t.x = s.x + ((image * s.in_h + row) * s.in_w + col) * s.pixel
        t.x_row = s.in_w * s.pixel
        return
    memset(patch, 0, s.span * s.span * s.pixel)
    for i in range(max(0, -row), min(s.span, s.in_h - row)):
        if first < last:
            memcpy(patch + (s.span * i + first) * s.pixel,
                   s.x + ((image * s.in_h + row + i) * s.in_w + col + first) * s.pixel, (last - first) * s.pixel)
    t.x = patch
    t.x_row = s.span * s.pixel


# ---- result and gradient of the input ----

cdef struct Winograd:
    const fc_kernels *table
    Source source
    Py_ssize_t images, channels
    # Filters as they lie in memory: bytes from tap to tap, and from channel to channel of the source.
    const char *w
    bint transposed
    Py_ssize_t tap_row, tap_col, w_row
    # Transformed filters: panel after panel, 36 points of channels x width.
    char *filters
    Py_ssize_t columns, width, panels
    const char *bias
    bint relu
    char *y
    Py_ssize_t out_h, out_w
    # Cut of the work: tiles of a block, panels of a group.
    Py_ssize_t tiles, block, blocks, group, groups
    # Scratch of a thread: the block's points of the input, `row` bytes a tile; those of a panel's product; one patch.
    Py_ssize_t row, input_bytes, product_bytes, patch_bytes


cdef void transform_panel(const Winograd *g, Py_ssize_t panel, char *slice) noexcept nogil:
    """Transform the filters of one panel."""
    cdef Py_ssize_t size = g.table.itemsize, first = panel * g.width, width, columns, k, i, j, length
    cdef int kind
    cdef char *to = g.filters + first * POINTS * g.channels * size
    cdef fc_winograd t
    columns = min(g.width, g.columns - first)
    panel_shape(g.table, columns, &width, &kind)
    t.x_row = g.tap_row
    t.x_col = g.tap_col
    if not g.transposed:
        t.channels = columns
        t.point = g.channels * width * size
        for k in range(g.channels):
            t.x = g.w + k * g.w_row + first * size
            t.y = to + k * width * size
            g.table.winograd_filter(&t)
        return
    # Points of a column of the panel follow each other in memory: SLICE of them are put aside, then transposed.
    t.point = width * SLICE * size
    k = 0
    while k < g.channels:
        length = min(SLICE, g.channels - k)
        t.channels = length
        for j in range(columns):
            t.x = g.w + (first + j) * g.w_row + k * size
            t.y = slice + j * SLICE * size
            g.table.winograd_filter(&t)
        for i in range(POINTS):
            g.table.pack_transposed(length, columns, width, slice + i * t.point, SLICE * size,
                                    to + (i * g.channels + k) * width * size)
        k += length


cdef void multiply_panel(const Winograd *g, Py_ssize_t panel, Py_ssize_t tiles, const char *points,
                         char *products) noexcept nogil:
    """The 36 products of a block of tiles with one panel of filters."""
    cdef Py_ssize_t size = g.table.itemsize, no_offset = 0, width, i
    cdef int kind
    cdef fc_tile t
    panel_shape(g.table, g.columns - panel * g.width, &width, &kind)
    t.runs = &no_offset
    t.n_runs = 1
    t.run_length = g.channels
    t.a_row = g.row
    t.a_step = size
    t.b_step = width * size
    t.bias = NULL
    t.c_row = width * size
    t.columns = width
    t.accumulate = False
    t.relu = False
    for i in range(POINTS):
        t.b = g.filters + (panel * g.width * POINTS + i * width) * g.channels * size
        t.a = points + i * g.block * g.row
        t.c = products + i * g.block * t.c_row
        multiply_tiles(g.table, kind, &t, tiles)


cdef void winograd_task(const Winograd *g, Py_ssize_t task, char *scratch) noexcept nogil:
    """A block of tiles for a group of panels."""
    cdef Py_ssize_t size = g.table.itemsize, first = task // g.groups * g.block, panel, i, tile, row, col, width
    cdef Py_ssize_t tiles = min(g.block, g.tiles - first), first_panel = task % g.groups * g.group
    cdef char *products = scratch + g.input_bytes
    cdef int kind
    cdef fc_winograd t
    t.channels = g.channels
    t.point = g.block * g.row
    for i in range(tiles):
        look(&g.source, first + i, products + g.product_bytes, &t)
        t.y = scratch + i * g.row
        g.table.winograd_input(&t)
    t.relu = g.relu
    t.y_col = g.columns * size
    t.y_row = g.out_w * t.y_col
    for panel in range(first_panel, min(g.panels, first_panel + g.group)):
        multiply_panel(g, panel, tiles, scratch, products)
        t.channels = min(g.width, g.columns - panel * g.width)
        panel_shape(g.table, t.channels, &width, &kind)
        t.point = g.block * width * size
        t.bias = g.bias + panel * g.width * size if g.bias != NULL else NULL
        for i in range(tiles):
            tile = first + i
            row = tile // g.source.tiles_w % g.source.tiles_h * 4
            col = tile % g.source.tiles_w * 4
            t.x = products + i * width * size
            t.rows = <int> min(4, g.out_h - row)
            t.cols = <int> min(4, g.out_w - col)
            t.y = g.y + (((tile // (g.source.tiles_h * g.source.tiles_w) * g.out_h + row) * g.out_w + col) * g.columns
                         + panel * g.width) * size
            g.table.winograd_output(&t)


cdef void cut(Winograd *g, int threads) noexcept nogil:
    """Choose the blocks and groups: a block's points stay in L2, and there are tasks enough to even out."""
    cdef Py_ssize_t size = g.table.itemsize, wanted = 4 * threads if threads > 1 else 1
    g.tiles = g.images * g.source.tiles_h * g.source.tiles_w
    g.width = g.table.panel_vectors * g.table.lanes
    g.panels = ceil_div(g.columns, g.width)
    g.row = ceil_div(g.channels, g.table.lanes) * g.table.lanes * size
    # Not so few tiles that the filters' points are read for little.
    g.block = max(12, l2_bytes * 3 // 4 // (POINTS * (g.row + g.width * size)))
    g.blocks = ceil_div(g.tiles, min(g.block, g.tiles))
    g.block = ceil_div(g.tiles, g.blocks)
    g.blocks = ceil_div(g.tiles, g.block)
    g.groups = min(g.panels, ceil_div(wanted, g.blocks)) if g.blocks < wanted else 1
    g.group = ceil_div(g.panels, g.groups)
    g.groups = ceil_div(g.panels, g.group)
    g.input_bytes = line(POINTS * g.block * g.row)
    g.product_bytes = line(POINTS * g.block * g.width * size)
    g.patch_bytes = line(36 * g.channels * size)


cdef int convolve(Winograd *g, const char *bias, int threads) except -1:
    cdef Py_ssize_t size = g.table.itemsize, i, filter_bytes, bias_bytes, slice_bytes, thread_bytes, tasks
    cdef char *scratch
    cut(g, threads)
    filter_bytes = line(g.panels * g.width * POINTS * g.channels * size)
    bias_bytes = line(g.panels * g.width * size)
    slice_bytes = line(POINTS * g.width * SLICE * size) if g.transposed else 0
    thread_bytes = max(slice_bytes, g.input_bytes + g.product_bytes + g.patch_bytes)
    g.filters = acquire(filter_bytes + bias_bytes + threads * thread_bytes)
    scratch = g.filters + filter_bytes
    g.bias = pad_bias(bias, g.columns * size, bias_bytes, scratch)
    scratch += bias_bytes
    tasks = g.blocks * g.groups
    with nogil, parallel(num_threads=threads):
        for i in prange(g.panels, schedule="static"):
            transform_panel(g, i, scratch + threadid() * thread_bytes)
        for i in prange(tasks, schedule="dynamic"):
            winograd_task(g, i, scratch + threadid() * thread_bytes)
    release(g.filters)
    return 0


def forward(Geometry g, cnp.ndarray x, cnp.ndarray w, cnp.ndarray bias, bint relu, cnp.ndarray y):
    """Write act(conv(x, w) + bias) to y, for 3x3 filters at stride 1 in one group; bias may be None."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    cdef Winograd c
    c.table = kernels(x)
    c.images, c.channels = g.images, g.channels
    c.source = Source(cnp.PyArray_BYTES(x), g.in_h, g.in_w, g.channels * size, -g.top, -g.left, 6,
                      ceil_div(g.out_h, 4), ceil_div(g.out_w, 4))
    c.w = cnp.PyArray_BYTES(w)
    c.transposed = False
    c.w_row = g.filters * size
    c.tap_col = g.channels * c.w_row
    c.tap_row = 3 * c.tap_col
    c.columns = g.filters
    c.relu = relu
    c.y = cnp.PyArray_BYTES(y)
    c.out_h, c.out_w = g.out_h, g.out_w
    convolve(&c, NULL if bias is None else cnp.PyArray_BYTES(bias), threads_for(g.flops() / 4))


def backward_input(Geometry g, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray dx):
    """Write the gradient of the input to dx, for 3x3 filters at stride 1 in one group."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(dy)
    cdef Winograd c
    c.table = kernels(dy)
    c.images, c.channels = g.images, g.filters
    c.source = Source(cnp.PyArray_BYTES(dy), g.out_h, g.out_w, g.filters * size, g.top - 2, g.left - 2, 6,
                      ceil_div(g.in_h, 4), ceil_div(g.in_w, 4))
    # Flipped: from the last tap backwards.
    c.transposed = True
    c.w_row = g.filters * size
    c.tap_col = -g.channels * c.w_row
    c.tap_row = 3 * c.tap_col
    c.w = cnp.PyArray_BYTES(w) - 2 * (c.tap_row + c.tap_col)
    c.columns = g.channels
    c.relu = False
    c.y = cnp.PyArray_BYTES(dx)
    c.out_h, c.out_w = g.in_h, g.in_w
    convolve(&c, NULL, threads_for(g.flops() / 4))


# ---- gradient of the filters ----

ctypedef void (*transform)(const fc_winograd *) noexcept nogil


cdef struct Operand:
    # One side of the products: images whose channels go in parts of `width`. Part after part its points of a block of
    # tiles: 36 of them, `point` bytes from one to the next, each tiles x width.
    Source source
    Py_ssize_t channels, width, parts, point
    char *points


cdef struct FilterGradient:
    const fc_kernels *table
    # Rows of a point's product are channels of the input, its columns channels of the output's gradient.
    Operand x, dy
    # Tiles in all; the block at work.
    Py_ssize_t tiles, first, count
    # The products' sums: part after part of the columns, 36 points of channels x width.
    char *sums
    char *dw


cdef void cut_operand(Operand *o, Py_ssize_t channels, Py_ssize_t width, Py_ssize_t block,
                      Py_ssize_t size) noexcept nogil:
    o.channels = channels
    o.width = width
    o.parts = ceil_div(channels, width)
    # An odd number of lines, so that a tile's points do not meet in the same cache sets.
    o.point = line(block * width * size) | 64


cdef inline Py_ssize_t columns(const Operand *o, Py_ssize_t part) noexcept nogil:
    return min(o.width, o.channels - part * o.width)


cdef void transform_tile(const Operand *o, Py_ssize_t size, Py_ssize_t tile, Py_ssize_t place, transform leaf,
                         char *patch) noexcept nogil:
    """Transform what a tile sees to its place in the block."""
    cdef Py_ssize_t part
    cdef const char *x
    cdef fc_winograd t
    look(&o.source, tile, patch, &t)
    x = t.x
    t.point = o.point
    for part in range(o.parts):
        t.x = x + part * o.width * size
        t.channels = columns(o, part)
        t.y = o.points + part * POINTS * o.point + place * o.width * size
        leaf(&t)


cdef void add_products(const FilterGradient *g, Py_ssize_t task) noexcept nogil:
    """Add the block's products of one point, for one part of the rows and one of the columns."""
    cdef Py_ssize_t size = g.table.itemsize, no_offset = 0, width, row = task % g.x.parts
    cdef Py_ssize_t panel = task // g.x.parts % g.dy.parts, point = task // (g.x.parts * g.dy.parts)
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
    t.relu = False
    t.a = g.x.points + (row * POINTS + point) * g.x.point
    t.b = g.dy.points + (panel * POINTS + point) * g.dy.point
    t.c = g.sums + ((panel * POINTS + point) * g.x.channels + row * g.x.width) * t.c_row
    t.accumulate = g.first > 0
    multiply_tiles(g.table, kind, &t, columns(&g.x, row))


cdef void transform_sums(const FilterGradient *g, Py_ssize_t channel) noexcept nogil:
    """Transform one channel's sums to the gradient of its filters."""
    cdef Py_ssize_t size = g.table.itemsize, panel
    cdef fc_winograd t
    t.point = g.x.channels * g.dy.width * size
    t.y_col = g.x.channels * g.dy.channels * size
    t.y_row = 3 * t.y_col
    for panel in range(g.dy.parts):
        t.x = g.sums + panel * POINTS * t.point + channel * g.dy.width * size
        t.channels = columns(&g.dy, panel)
        t.y = g.dw + (channel * g.dy.channels + panel * g.dy.width) * size
        g.table.winograd_filter_backward(&t)


def backward_filters(Geometry g, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
    """Write the gradient of the filters to dw, for 3x3 filters at stride 1 in one group."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x), i, block, sum_bytes, input_bytes, gradient_bytes, patch_bytes
    cdef Py_ssize_t tiles_h = ceil_div(g.out_h, 4), tiles_w = ceil_div(g.out_w, 4)
    cdef int threads = threads_for(g.flops() / 4)
    cdef char *scratch
    cdef FilterGradient f
    f.table = kernels(x)
    f.dw = cnp.PyArray_BYTES(dw)
    f.tiles = g.images * tiles_h * tiles_w
    block = ceil_div(f.tiles, ceil_div(f.tiles, GRADIENT_TILES))
    f.x.source = Source(cnp.PyArray_BYTES(x), g.in_h, g.in_w, g.channels * size, -g.top, -g.left, 6, tiles_h, tiles_w)
    f.dy.source = Source(cnp.PyArray_BYTES(dy), g.out_h, g.out_w, g.filters * size, 0, 0, 4, tiles_h, tiles_w)
    cut_operand(&f.x, g.channels, min(3, ceil_div(g.channels, f.table.lanes)) * f.table.lanes, block, size)
    cut_operand(&f.dy, g.filters, f.table.panel_vectors * f.table.lanes, block, size)
    sum_bytes = line(f.dy.parts * f.dy.width * POINTS * g.channels * size)
    input_bytes = f.x.parts * POINTS * f.x.point
    gradient_bytes = f.dy.parts * POINTS * f.dy.point
    patch_bytes = line(36 * max(f.x.source.pixel, f.dy.source.pixel))
    f.sums = acquire(sum_bytes + input_bytes + gradient_bytes + threads * patch_bytes)
    f.x.points = f.sums + sum_bytes
    f.dy.points = f.x.points + input_bytes
    scratch = f.dy.points + gradient_bytes
    f.first = 0
    with nogil:
        while f.first < f.tiles:
            f.count = min(block, f.tiles - f.first)
            with parallel(num_threads=threads):
                for i in prange(f.count, schedule="static"):
                    transform_tile(&f.x, size, f.first + i, i, f.table.winograd_input,
                                   scratch + threadid() * patch_bytes)
                    transform_tile(&f.dy, size, f.first + i, i, f.table.winograd_output_backward,
                                   scratch + threadid() * patch_bytes)
                for i in prange(POINTS * f.x.parts * f.dy.parts, schedule="dynamic"):
                    add_products(&f, i)
            f.first += f.count
        for i in prange(g.channels, num_threads=threads, schedule="static"):
            transform_sums(&f, i)
    release(f.sums)
