"""Winograd's F(4x4, 3x3): 3x3 convolution at stride 1 with a quarter of the multiplications.

The output is cut into tiles of 4 x 4 pixels, each of which sees 6 x 6 pixels of the input. In the transformed domain a
tile is 36 points, and the convolution one matrix product for each of them: tiles x channels times channels x filters.
A task takes a block of tiles, whose transforms stay in L2: it transforms their input, and then, one panel of filters
after another, multiplies and transforms back.

The gradient of the input is the same convolution of the output's gradient with filters flipped and transposed.

A product's element is one chain over the channels and a tile's transforms do not depend on its neighbours, so that
neither the threads nor the cut of the work change a bit.
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


cdef struct Winograd:
    const fc_kernels *table
    # Images of in_h x in_w pixels; output pixel (0, 0) sees them from (base_row, base_col) on.
    const char *x
    Py_ssize_t images, in_h, in_w, channels, base_row, base_col
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
    Py_ssize_t tiles_h, tiles_w, tiles, block, blocks, group, groups
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


cdef void transform_tile(const Winograd *g, Py_ssize_t tile, char *to, char *patch) noexcept nogil:
    """Transform the 6 x 6 pixels that a tile sees; what lies outside the image is zero."""
    cdef Py_ssize_t pixel = g.channels * g.table.itemsize, image = tile // (g.tiles_h * g.tiles_w), i
    cdef Py_ssize_t row = tile // g.tiles_w % g.tiles_h * 4 + g.base_row, col = tile % g.tiles_w * 4 + g.base_col
    cdef Py_ssize_t first = max(0, -col), last = min(6, g.in_w - col)
    cdef fc_winograd t
    t.channels = g.channels
    t.y = to
    t.point = g.block * g.row
    t.x_col = pixel
    if row >= 0 and col >= 0 and row + 6 <= g.in_h and col + 6 <= g.in_w:
        t.x = g.x + ((image * g.in_h + row) * g.in_w + col) * pixel
        t.x_row = g.in_w * pixel
    else:
        memset(patch, 0, 36 * pixel)
        for i in range(max(0, -row), min(6, g.in_h - row)):
            if first < last:
                memcpy(patch + (6 * i + first) * pixel,
                       g.x + ((image * g.in_h + row + i) * g.in_w + col + first) * pixel, (last - first) * pixel)
        t.x = patch
        t.x_row = 6 * pixel
    g.table.winograd_input(&t)


cdef void multiply_panel(const Winograd *g, Py_ssize_t panel, Py_ssize_t tiles, const char *points,
                         char *products) noexcept nogil:
    """The 36 products of a block of tiles with one panel of filters."""
    cdef Py_ssize_t size = g.table.itemsize, no_offset = 0, width, i
    cdef int kind
    cdef fc_tile t
    panel_shape(g.table, min(g.width, g.columns - panel * g.width), &width, &kind)
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
    for i in range(tiles):
        transform_tile(g, first + i, scratch + i * g.row, products + g.product_bytes)
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
            row = tile // g.tiles_w % g.tiles_h * 4
            col = tile % g.tiles_w * 4
            t.x = products + i * width * size
            t.rows = <int> min(4, g.out_h - row)
            t.cols = <int> min(4, g.out_w - col)
            t.y = g.y + (((tile // (g.tiles_h * g.tiles_w) * g.out_h + row) * g.out_w + col) * g.columns
                         + panel * g.width) * size
            g.table.winograd_output(&t)


cdef void cut(Winograd *g, int threads) noexcept nogil:
    """Choose the blocks and groups: a block's points stay in L2, and there are tasks enough to even out."""
    cdef Py_ssize_t size = g.table.itemsize, wanted = 4 * threads if threads > 1 else 1
    g.tiles_h = ceil_div(g.out_h, 4)
    g.tiles_w = ceil_div(g.out_w, 4)
    g.tiles = g.images * g.tiles_h * g.tiles_w
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
    c.x = cnp.PyArray_BYTES(x)
    c.images, c.in_h, c.in_w, c.channels = g.images, g.in_h, g.in_w, g.channels
    c.base_row, c.base_col = -g.top, -g.left
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
    c.x = cnp.PyArray_BYTES(dy)
    c.images, c.in_h, c.in_w, c.channels = g.images, g.out_h, g.out_w, g.filters
    c.base_row, c.base_col = g.top - 2, g.left - 2
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
