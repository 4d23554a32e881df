"""Matrix product C = act(A B + bias) with A, B or both transposed.

Four ways, by shape:

* *blocks*, the general one: C is cut into blocks, which are shared out among the threads; for each, slabs of the
  reduction: the slab of B is packed into panels as wide as a register tile, which stay in L2 while all rows of A
  pass by, some tiles' rows at a time (the layers of Goto and van de Geijn, "Anatomy of
  high-performance matrix multiplication", 2008, without a packed A: its rows are read in place, unless it is
  transposed). Of a B that was packed before, panel after panel passes by the rows of A in L2;
* *in place*, where A has few rows and B fits into L2: as blocks, but tiles read B where it is;
* *stream*, where A has few rows and B is larger: B is read once from afar and in its own order, row after row, parts
  of the reduction side by side. For very few rows of A those of B are added up in long passes, for more they are
  packed, a few from end to end at a time;
* *dots*, where A has few rows and B is transposed: rows of A against rows of B. Of short ones, where A is transposed
  too, the product is that of B and A, and C is turned.

A tile's element is one chain of multiply-adds over k in all of the tile's widths and heights, and slabs
continue it through C, so neither the threads nor the cut of the work change a bit of the result.
"""

from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ._runtime cimport (
    FC_CLIPPED_RELU, FC_DOT_ROWS, FC_RELU, FC_STREAM_ROWS, Shares, acquire, ceil_div, fc_dot, fc_kernels, fc_tile,
    in_vectors, is_plain, kernels, l1_bytes, l2_bytes, l2_room, l3_bytes, l3_is_far, line, release, share, take,
    threads_for, threads_for_flops,
)

cnp.import_array()

# What arguments.py says of the size of an array.
cdef Py_ssize_t MAX_ELEMENTS = 1 << 47

cdef enum:
    # In brackets: how many times as long the products that they decide on take with half of them and with twice as much
    # (some ten products of each kind, of one thread and of two, float32, AVX-512, Zen 5; = means within 2 %).
    # Rows of A up to which dots beat packing a transposed B (at 9 to 16 rows 1.1 to 2.0; at 17 to 32, of a B beyond L2,
    # up to 1.3).
    MOST_DOT_ROWS = 16
    # Elements of B's rows for each of A's from which dots pay: what ends a sum is the same for short ones (1.04, 1.08).
    DOT_DEPTH = 4
    # Rows of A up to which reading B in place beats packing it, while B fits into half of L2 (at 33 to 64 rows 1.05 to
    # 1.5; at 98 and 128, of two panels, 1.1 to 1.2).
    IN_PLACE_ROWS = 64
    # Sums of a tile with which its multiply-adds need not wait for each other (8: 1.02, 16: =).
    LEAST_SUMS = 12
    # Vectors of a panel that L1 has no room for (=, =).
    DEEP_VECTORS = 2
    # Rows of A up to which a stream through B reads it where it is (1.06, 12: =); and up to which streaming, part by
    # part, beats packing B block by block (at 25 to 32 rows 24: 1.1 to 1.3; at 48 rows 48: 1.1).
    UNPACKED_ROWS = 8
    STREAMED_ROWS = 32
    # Rows of B that two and more rows of A take at a time; those of a B beyond L2 ask for as many more (4 x 4096 with
    # 4096 x 16384 numbers, two threads of a Granite Rapids: 10.2 ms, with that 8.5; 8: 14.4 and 12.0).
    PASS_ROWS = 4
    # Parts of such a product, each of which a thread may take (1.02, 1.03), and the rows of B that a part has at least
    # (1.05, 1.07); and of those that are packed at a time, or more where L1 has room for a panel of them (seven
    # products with a B from memory, two threads of a Granite Rapids: 1.08, =).
    STREAM_PARTS = 8
    STREAM_DEPTH = 64
    PACKED_DEPTH = 32
    PAGE = 4096
    # Elements of a B no wider than a panel from which a product of one row is reduced in parts, if it is in the caches
    # (a quarter: 1.5; four times: 1.08, of 16384 x 16 2.2).
    NARROW_B = 1 << 17
    # Columns of a block: enough of them that packing is little work beside multiplying (=, =).
    BLOCK_COLUMNS = 512
    # Where A has so many rows, read in place, a block has no more columns than make one slab of all k, but at least so
    # many: with several slabs C, whose rows lie far apart, is loaded and stored again (2048^3, one thread: 68.7 ms
    # instead of 75.0; 25088 x 1024 x 1024, two: 106 ms instead of 132; 64 rows: =, 1024: 1.03; 32 columns: =, of
    # 512 x 8192 x 512 1.08, 128: =).
    SLAB_ROWS = 256
    LEAST_COLUMNS = 64
    # Blocks that each of several threads has, at least and at most (22 products, two threads of a Granite Rapids: 4
    # alone takes 1.02 times as long, of 400^3 and 64 x 4096 x 64 1.1 and 1.2; from 1 on =, of 784 x 512 x 128 1.05).
    LEAST_TASKS = 2
    MOST_TASKS = 4
    # Tiles of A's rows that take turns at a panel (=, =).
    GROUP_TILES = 8
    # Products of an element of C from which it may be written past the caches, where L3 is near (1x1 layers of
    # benchmarks/layers.py).
    PAST_DEPTH = 64
    # What it costs to bring an element of A or of a packed B near (none: =, 4: =), and to pack one, of B or of a
    # transposed A, in multiply-adds (2: =, of 300^3 1.16, 32: =; a transposed A packed for nothing: products of 2048
    # and 3136 rows of 784 and 1152 columns, two threads of a Granite Rapids, 1.3).
    READ_COST = 1
    PACK_COST = 8
    # What it costs to begin a row of a block of C, all of its multiply-adds over k together (8: =, 512: =).
    C_COST = 64


cdef void panel_shape(const fc_kernels *table, Py_ssize_t columns, Py_ssize_t *width, int *kind) noexcept nogil:
    """Choose the width of a panel of B that has so many columns left, and the kind of tile that reads it."""
    cdef Py_ssize_t vectors = min(table.panel_vectors, ceil_div(columns, table.lanes))
    kind[0] = <int> vectors - 1
    width[0] = vectors * table.lanes


cdef Py_ssize_t panel_width(const fc_kernels *table, Py_ssize_t columns, Py_ssize_t depth) noexcept nogil:
    """Return the width of all but the last of the panels of so many columns and rows: as few as can be, equally wide.

    A panel that has more rows than L1 has room for is read from L2 by every tile: tall tiles of narrow panels do that
    less often.
    """
    cdef Py_ssize_t most = table.panel_vectors
    if depth * most * table.lanes * table.itemsize > l1_bytes:
        most = min(most, DEEP_VECTORS)
    return equal_width(table, columns, most)


cdef char *pack_panels(const fc_kernels *table, const char *b, Py_ssize_t b_row, bint b_transposed, Py_ssize_t depth,
                       Py_ssize_t columns, Py_ssize_t most, char *to) noexcept nogil:
    """Pack a matrix of depth x columns, which has b_row bytes from row to row (transposed: from column to column),
    in panels of at most so many columns, one after the other; return where the next one goes."""
    cdef Py_ssize_t size = table.itemsize, width, n = 0
    cdef int kind
    while n < columns:
        panel_shape(table, min(most, columns - n), &width, &kind)
        if b_transposed:
            table.pack_transposed(depth, min(width, columns - n), width, b + n * b_row, b_row, to)
        else:
            table.pack_rows(depth, min(width, columns - n), width, b + n * size, b_row, to)
        to += width * depth * size
        n += width
    return to


cdef void bring_share(const fc_kernels *table, int kind, fc_tile *t, Py_ssize_t rows, Ahead *next) noexcept nogil:
    """Have tiles of so many rows ask for their share of what is next."""
    cdef Py_ssize_t last = next.stretches - 1, part, steps
    t.ahead = t.ahead_end = NULL
    if last < 0:
        return
    steps = ceil_div(rows, table.max_rows[kind]) * t.n_runs * t.run_length
    part = min(line(<Py_ssize_t> (next.share * steps)), next.nbytes[last])
    bring_near(table, kind, t, rows, 1, next.start[last], part)
    next.start[last] += part
    next.nbytes[last] -= part
    if not next.nbytes[last]:
        next.stretches -= 1


cdef void multiply_panels(const fc_kernels *table, const char *a, Py_ssize_t rows, const char *packed,
                          Py_ssize_t depth, Py_ssize_t columns, Py_ssize_t most, char *c, Ahead *next) noexcept nogil:
    """Write the product of so many dense rows and a B that pack_panels has packed, by one thread, to dense rows."""
    cdef Py_ssize_t no_offset = 0, width, n = 0
    cdef int kind
    cdef fc_tile t
    t.runs = &no_offset
    t.n_runs = 1
    t.run_length = depth
    t.a_row = depth * table.itemsize
    t.a_step = table.itemsize
    t.b = packed
    t.bias = NULL
    t.c_row = columns * table.itemsize
    t.residual = 0
    t.accumulate = t.past = False
    t.relu = 0
    while n < columns:
        t.columns = min(most, columns - n)
        panel_shape(table, t.columns, &width, &kind)
        t.b_step = width * table.itemsize
        t.a = a
        t.c = c + n * table.itemsize
        bring_share(table, kind, &t, rows, next)
        multiply_tiles(table, kind, &t, rows)
        t.b += depth * t.b_step
        n += width


cdef struct Blocks:
    Py_ssize_t width, depth, down, across, columns, group, slab_bytes
    const char *bias
    bint past, packed, by_panels, is_far  # far: A's rows, which the group of rows before has brought near
    Py_ssize_t b_bytes, scratch_bytes


cdef struct Slab:
    # Panels of a block's columns from b on, with so many rows in each; and of those rows `length`, from `first` on,
    # which are rows k and on of B.
    const char *b
    Py_ssize_t rows, first, length, k


cdef void multiply_rows(const Product *p, const Blocks *s, const Slab *slab, const char *a, Py_ssize_t a_row,
                        Py_ssize_t a_step, Py_ssize_t m, Py_ssize_t rows, Py_ssize_t n, Py_ssize_t end,
                        Py_ssize_t ahead) noexcept nogil:
    """Rows m to m + rows of C, which lie a_row apart in A from a on, over one slab and columns n to end.

    Meanwhile the next `ahead` rows of A are brought near, a part with each panel: their reading would cost as much as a
    panel's arithmetic. Of a block that goes by panels it is the next panel, and then a part of what comes after the
    product. (From memory and beside it 2048 x 512 filters of 49 pixels take 0.21 ms, with nothing asked for 0.28.)
    """
    cdef Py_ssize_t size = p.table.itemsize, width, no_offset = 0, part, upper, tiles
    cdef const char *b = slab.b
    cdef Ahead next
    cdef int kind
    cdef fc_tile t
    t.runs = &no_offset
    t.n_runs = 1
    t.run_length = slab.length
    t.a_row = a_row
    t.a_step = a_step
    t.c_row = p.c_row
    t.residual = p.residual
    t.accumulate = slab.k > 0
    t.relu = p.relu if slab.k + slab.length == p.k else 0
    t.past = s.past
    next.stretches = 0
    if ahead > 0:
        add_stretch(&next, a + rows * a_row, ahead * a_row)
        share_out(&next, panel_steps(p.table, rows, slab.length, end - n, s.width))
    while n < end:
        t.columns = min(end - n, s.width)
        panel_shape(p.table, t.columns, &width, &kind)
        t.b_step = width * size
        t.b = b + slab.first * t.b_step
        b += slab.rows * t.b_step
        upper = rows
        if s.by_panels:
            if p.ahead != NULL:
                tiles = ceil_div(rows, p.table.max_rows[kind])
                upper = rows * ceil_div(tiles, 2) // tiles
            # The next task's first one too, which this thread is likely to take.
            bring_near(p.table, kind, &t, upper, 1, b, min(slab.length * t.b_step, p.b + p.n * p.k * size - b))
        else:
            bring_share(p.table, kind, &t, rows, &next)
        t.bias = s.bias + n * size if s.bias != NULL else NULL
        t.a = a
        t.c = p.c + m * p.c_row + n * size
        multiply_tiles(p.table, kind, &t, upper)
        if upper < rows:
            part = p.ahead_bytes // ceil_div(p.n, s.width)
            bring_near(p.table, kind, &t, rows - upper, 1, p.ahead + n // s.width * part, part)
            multiply_tiles(p.table, kind, &t, rows - upper)
        n += t.columns


cdef void multiply_block(const Product *p, const Blocks *s, Py_ssize_t task, char *scratch) noexcept nogil:
    cdef Py_ssize_t size = p.table.itemsize, m, rows
    cdef Py_ssize_t m0 = p.m * (task // s.across) // s.down, m1 = p.m * (task // s.across + 1) // s.down
    cdef Py_ssize_t n0 = task % s.across * s.columns, n1 = min(p.n, n0 + s.columns)
    # Rows up to which this thread is likely to go on.
    cdef Py_ssize_t next_end = p.m if s.across == 1 else m1
    cdef char *packed_a = scratch + s.b_bytes
    cdef const char *b
    cdef Slab slab
    slab.k = 0
    while True:
        slab.length = min(s.depth, p.k - slab.k)
        if s.packed:
            slab.b, slab.rows, slab.first = p.b + n0 * p.k * size, p.k, slab.k
        else:
            b = p.b + (n0 * p.b_row + slab.k * size if p.b_transposed else slab.k * p.b_row + n0 * size)
            pack_panels(p.table, b, p.b_row, p.b_transposed, slab.length, n1 - n0, s.width, scratch)
            slab.b, slab.rows, slab.first = scratch, slab.length, 0
        m = m0
        while m < m1:
            rows = ceil_div(m1 - m, ceil_div(m1 - m, s.group))  # equal groups, as equal tiles
            if p.a_step == size:
                multiply_rows(p, s, &slab, p.a + m * p.a_row + slab.k * size, p.a_row, size, m, rows, n0, n1,
                              min(s.group, next_end - m - rows) if s.is_far and slab.length == p.k else 0)
            else:
                p.table.pack_rows(slab.length, rows, s.group, p.a + slab.k * p.a_step + m * size, p.a_step, packed_a)
                multiply_rows(p, s, &slab, packed_a, size, s.group * size, m, rows, n0, n1, 0)
            m += rows
        slab.k += slab.length
        if slab.k >= p.k:
            break
    if s.past:
        p.table.past_done()


cdef void cut_blocks(const Product *p, Blocks *s, int threads) noexcept nogil:
    """Choose the blocks' rows and columns: of the cuts into enough of them, the one that costs a thread least.

    Blocks side by side read the same rows of A, blocks below each other pack the same part of B.
    """
    cdef Py_ssize_t panels = ceil_div(p.n, s.width), most = BLOCK_COLUMNS, size = p.table.itemsize
    cdef Py_ssize_t tasks, wanted, fewest, across, down, columns
    cdef double cost, rows, least = -1
    cdef double a_cost = READ_COST if p.a_step == size else PACK_COST, b_cost = READ_COST if s.packed else PACK_COST
    # The packed slab takes half of L2, or, where many rows read in place pass by, more, and is rather deep than wide.
    s.slab_bytes = l2_room // 2
    if p.a_step == size and not s.packed and p.m >= SLAB_ROWS:
        s.slab_bytes = l2_room * 3 // 4
        most = max(LEAST_COLUMNS, min(most, s.slab_bytes // max(1, p.k * size)))
    fewest = ceil_div(panels, max(1, most // s.width))
    s.down, s.across, s.columns = 1, panels, s.width
    for tasks in range(LEAST_TASKS, MOST_TASKS + 1):
        wanted = tasks * threads if threads > 1 else 1
        for across in range(fewest, max(fewest, min(panels, wanted)) + 1):
            columns = ceil_div(panels, across) * s.width
            if ceil_div(p.n, columns) < across:
                continue  # the same blocks as those of fewer across
            down = ceil_div(wanted, across)
            while down * across % threads:
                down += 1  # as many blocks for every thread
            down = max(1, min(down, p.m // s.group))
            rows = <double> p.m / down
            cost = (ceil_div(down * across, threads)
                    * (rows * min(columns, p.n) + (a_cost + C_COST / max(1, p.k)) * rows + b_cost * columns))
            if least < 0 or cost < least:
                least = cost
                s.down, s.across, s.columns = down, across, columns


cdef bint goes_past(const Product *p) noexcept nogil:
    """Whether C is written past the caches, which have better use than to hold it: it is then not read from memory
    before. That takes arithmetic enough beside it, unless L3 is as slow as memory (two threads of a Granite Rapids,
    gradient of 4096 x 4096 weights of 16 rows: 3.3 ms, past the caches 1.9)."""
    return ((l3_is_far or p.k >= PAST_DEPTH) and p.m * p.c_row > max(4 * l2_bytes, l3_bytes // 8)
            and in_vectors(p.table, p.c, p.c_row))


cdef bint is_panel(const Product *p) noexcept nogil:
    """Whether B is a packed panel as it is: its rows are whole vectors, no more than a panel's, and have no gaps."""
    cdef Py_ssize_t vectors = p.n // p.table.lanes
    return (not p.b_transposed and 0 < vectors <= p.table.panel_vectors and p.n == vectors * p.table.lanes
            and p.b_row == p.n * p.table.itemsize)


cdef int multiply_blocks(const Product *p, int threads) except -1:
    cdef Blocks s
    cdef Shares shares
    cdef Py_ssize_t size = p.table.itemsize, lanes = p.table.lanes, i, task, rows, bias_bytes
    cdef int kind
    cdef char *scratch
    s.packed = p.packed or is_panel(p)
    s.width = p.n
    if p.packed or not s.packed:
        s.width = panel_width(p.table, p.n, p.k if p.packed else 0)  # of B that is packed here, slabs are not deep
    # Rows of A that take turns at a panel: a tile's, or, where they must be packed, whole vectors of them: as many as
    # memory reads fast, which lie side by side (of 9, 6 and 3 a transposed A of 2048^3 took 38.7, 39.8 and 40.6 ms).
    panel_shape(p.table, s.width, &i, &kind)
    s.group = p.table.max_rows[kind] if p.a_step == size else 9 * lanes
    cut_blocks(p, &s, threads)
    s.is_far = p.m * p.a_row > l2_bytes // 2
    # Some tiles' rows, as tiles one below the other begin faster.
    if p.a_step == size:
        s.group *= GROUP_TILES
    # Panels that are packed already are taken one after the other, each by all rows of a block, if these and two panels
    # stay in L2 meanwhile: so B, which may come from memory, is read in one slow stream.
    rows = ceil_div(p.m, s.down)
    s.by_panels = s.packed and p.a_step == size and (rows + 2 * s.width) * p.k * size <= l2_bytes * 15 // 16
    if s.by_panels:
        s.group = p.m
    # Slabs of equal depth.
    s.depth = p.k if s.by_panels else max(64, s.slab_bytes // (s.columns * size))
    s.depth = max(1, ceil_div(p.k, max(1, ceil_div(p.k, s.depth))))
    s.past = s.depth == p.k and goes_past(p)
    s.b_bytes = 0 if s.packed else line(s.columns * s.depth * size)
    s.scratch_bytes = s.b_bytes + (0 if p.a_step == size else line(s.group * s.depth * size))
    bias_bytes = line(ceil_div(p.n, s.width) * s.width * size)
    scratch = acquire(bias_bytes + threads * s.scratch_bytes)
    s.bias = pad_bias(p.bias, p.n * size, bias_bytes, scratch)
    share(&shares, s.down * s.across, threads)
    with nogil:
        for i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
            task = take(&shares, i)
            while task >= 0:
                multiply_block(p, &s, task, scratch + bias_bytes + i * s.scratch_bytes)
                task = take(&shares, i)
    release(scratch)
    return 0


cdef void panel_in_place(const Product *p, Py_ssize_t n, Py_ssize_t end) noexcept nogil:
    """All rows of C in columns n to end.

    A panel is whole vectors: it reads on into columns that are not stored, and beyond B's rows into the next row;
    only the last rows, behind which B ends, are packed.
    """
    cdef Py_ssize_t size = p.table.itemsize, width, columns = end - n, packed_rows, whole, no_offset = 0
    cdef Py_ssize_t vectors = ceil_div(columns, p.table.lanes)
    cdef int kind
    # At most lanes - 1 rows of one vector, where B has one column; and a bias of 8 vectors.
    cdef char packed[1024]
    cdef char bias[512]
    cdef fc_tile t
    kind = <int> vectors - 1
    width = vectors * p.table.lanes
    packed_rows = min(p.k, ceil_div(max(0, n + width - p.n), p.n))
    whole = p.k - packed_rows
    if packed_rows:
        p.table.pack_rows(packed_rows, columns, width, p.b + whole * p.b_row + n * size, p.b_row, packed)
    t.runs = &no_offset
    t.n_runs = 1
    t.a_row = p.a_row
    t.a_step = p.a_step
    t.c_row = p.c_row
    t.columns = columns
    t.bias = pad_bias(p.bias + n * size if p.bias != NULL else NULL, columns * size, width * size, bias)
    t.a = p.a
    t.c = p.c + n * size
    t.residual = p.residual
    t.accumulate = False
    t.relu = 0 if packed_rows else p.relu
    t.past = False
    t.ahead = t.ahead_end = NULL
    t.run_length = whole
    t.b = p.b + n * size
    t.b_step = p.b_row
    multiply_tiles(p.table, kind, &t, p.m)
    if packed_rows:
        t.a = p.a + whole * p.a_step
        t.c = p.c + n * size
        t.accumulate = True
        t.relu = p.relu
        t.run_length = packed_rows
        t.b = packed
        t.b_step = width * size
        multiply_tiles(p.table, kind, &t, p.m)


cdef int multiply_in_place(const Product *p, int threads) except -1:
    """Each thread some of the panels, which are as wide as leaves it the fewest vectors.

    Loads across lines of the cache take twice the time: the first panel ends where all others have none.
    """
    cdef Py_ssize_t vectors = p.table.row_vectors if p.m == 1 else p.table.panel_vectors
    cdef Py_ssize_t lanes = p.table.lanes, size = p.table.itemsize, load, width
    cdef Py_ssize_t before = 0 if p.b_row % (lanes * size) else <size_t> p.b // size % lanes
    cdef Py_ssize_t across = ceil_div(before + p.n, lanes), i = vectors
    cdef Py_ssize_t least = ceil_div(ceil_div(across, i), threads) * i
    while i > 2 and (i - 1) * p.m >= LEAST_SUMS:
        i -= 1
        load = ceil_div(ceil_div(across, i), threads) * i
        if load < least:
            least = load
            vectors = i
    width = vectors * lanes
    with nogil:
        for i in prange(ceil_div(before + p.n, width), num_threads=threads, schedule="static"):
            panel_in_place(p, max(0, i * width - before), min(p.n, (i + 1) * width - before))
    return 0


cdef inline Py_ssize_t stream_length(const Product *p) noexcept nogil:
    """Rows of B in a part."""
    return max(STREAM_DEPTH, ceil_div(p.k, STREAM_PARTS))


cdef inline Py_ssize_t stream_row(const Product *p) noexcept nogil:
    """Bytes from one row of a part's C to the next: a quarter of a page beyond whole pages.

    CPUs tell stores from later loads by an address's last 12 bits: where rows of C or B lie whole pages apart, as
    they do in matrices of a power of two, each load would wait for the store before it.
    """
    return ceil_div(p.n * p.table.itemsize, PAGE) * PAGE + PAGE // 4


cdef inline char *apart_from(const char *other, char *scratch) noexcept nogil:
    """The first place in scratch that lies an eighth of a page apart from another one, in the same sense."""
    return scratch + (<size_t> other + PAGE // 8 - <size_t> scratch) % PAGE


cdef fc_tile stream_tile(const Product *p, const Py_ssize_t *no_offset) noexcept nogil:
    """Return what all steps of a part have in common: sums that neither begin with a bias nor end in a relu."""
    cdef fc_tile t
    t.runs = no_offset
    t.n_runs = 1
    t.a_row = p.a_row
    t.a_step = p.a_step
    t.c_row = stream_row(p)
    t.bias = NULL
    t.residual = 0
    t.relu = 0
    t.past = False
    t.ahead_apart = PASS_ROWS * p.b_row if p.k * p.b_row > l2_bytes else 0
    return t


cdef inline Py_ssize_t slab_bytes() noexcept nogil:
    """Room for the rows of B that a part takes at a time; C, and the rows that come next, have the rest of L2."""
    return l2_bytes // 4


cdef inline Py_ssize_t packed_depth(const fc_kernels *table, Py_ssize_t width) noexcept nogil:
    """Rows of a panel of so many columns that L1 has room for, or PACKED_DEPTH."""
    return max(PACKED_DEPTH, l1_bytes // 2 // (width * table.itemsize))


cdef void stream_part(const Product *p, Py_ssize_t k, Py_ssize_t length, Py_ssize_t n, Py_ssize_t end,
                      char *scratch) noexcept nogil:
    """Columns n to end of C, reduced over rows k to k + length of B, as many at a time as have room in L1.

    Of these so many rows at a time that the second rows of A find them in L2.
    """
    cdef Py_ssize_t size = p.table.itemsize, no_offset = 0, groups = ceil_div(p.m, FC_STREAM_ROWS), i, m, first
    cdef Py_ssize_t rows = ceil_div(p.m, groups)
    cdef Py_ssize_t most = max(16, l1_bytes // 2 // (rows * size)) // p.table.lanes * p.table.lanes, depth = length
    cdef fc_tile t = stream_tile(p, &no_offset)
    if groups > 1:
        depth = max(STREAM_DEPTH, slab_bytes() // (most * size) // PASS_ROWS * PASS_ROWS)
    t.b_step = p.b_row
    scratch = apart_from(p.b + k * p.b_row, scratch)
    while n < end:
        t.columns = min(most, end - n)
        first = k
        while first < k + length:
            t.run_length = min(depth, k + length - first)
            t.accumulate = first > k
            t.b = p.b + first * p.b_row + n * size
            for i in range(groups):
                m = p.m * i // groups
                t.a = p.a + m * p.a_row + first * p.a_step
                t.c = scratch + m * t.c_row + n * size
                p.table.stream[p.m * (i + 1) // groups - m - 1](&t)
            first += t.run_length
        n += t.columns


cdef void packed_part(const Product *p, Py_ssize_t k, Py_ssize_t length, Py_ssize_t n, Py_ssize_t end, char *scratch,
                      char *packed) noexcept nogil:
    """As stream_part, for more rows of A: of some rows of B panel after panel is packed, to stay in L1 while all rows
    of A pass by, and as much of the next rows is brought near."""
    cdef Py_ssize_t size = p.table.itemsize, most = panel_width(p.table, p.n, 0), no_offset = 0, last = k + length
    cdef Py_ssize_t columns, depth, first, column, width, at, nbytes
    cdef const char *b
    cdef const char *next
    cdef int kind
    cdef fc_tile t = stream_tile(p, &no_offset)
    scratch = apart_from(p.b + k * p.b_row, scratch)
    while n < end:
        columns = min(end - n, max(1, slab_bytes() // (PACKED_DEPTH * most * size)) * most)
        depth = min(packed_depth(p.table, most), max(1, slab_bytes() // (ceil_div(columns, most) * most * size)))
        depth = ceil_div(length, ceil_div(length, depth))  # slabs of equal depth
        first = k
        while first < last:
            t.run_length = min(depth, last - first)
            t.accumulate = first > k
            b = p.b + first * p.b_row + n * size
            next = b + t.run_length * p.b_row
            if first + t.run_length == (p.k if columns == p.n else last):
                next = p.b + k * p.b_row + (n + columns) * size if n + columns < end else NULL
            column = 0
            while column < columns:
                t.columns = min(most, columns - column)
                panel_shape(p.table, t.columns, &width, &kind)
                p.table.pack_rows(t.run_length, t.columns, width, b + column * size, p.b_row, packed)
                t.a = p.a + first * p.a_step
                t.b = packed
                t.b_step = width * size
                t.c = scratch + (n + column) * size
                t.ahead = t.ahead_end = NULL
                if next != NULL:
                    # A panel's share, of whole rows that have no gap or of one that is cut.
                    at, nbytes = column * t.run_length * size, most * t.run_length * size
                    if columns < p.n:
                        nbytes = min(nbytes, columns * size - at % (columns * size))
                        at = at // (columns * size) * p.b_row + at % (columns * size)
                    bring_near(p.table, kind, &t, p.m, 1, next + at, nbytes)
                multiply_tiles(p.table, kind, &t, p.m)
                column += most
            first += t.run_length
        n += columns


cdef void add_stream_parts(const Product *p, Py_ssize_t m, Py_ssize_t parts, Py_ssize_t length, char *scratch,
                           Py_ssize_t part_bytes) noexcept nogil:
    """One row of C from the bias and those of its parts."""
    cdef char *c = p.c + m * p.c_row
    cdef const char *part
    cdef Py_ssize_t nbytes = p.n * p.table.itemsize, i
    if p.bias == NULL:
        memset(c, 0, nbytes)
    else:
        memcpy(c, p.bias, nbytes)
    for i in range(parts):
        part = apart_from(p.b + i * length * p.b_row, scratch + i * part_bytes)
        p.table.column_sum(1, p.n, part + m * stream_row(p), c)
    if p.relu:
        p.table.map[FC_CLIPPED_RELU if p.relu == 2 else FC_RELU](p.n, c, c, c, 6)


cdef int multiply_stream(const Product *p, int threads) except -1:
    """The reduction in parts, each of which runs through rows of B from end to end; their sums are then added.

    So memory is read in one sweep by each thread. Where B has few rows, columns are shared too.
    """
    cdef Py_ssize_t length = stream_length(p), parts = ceil_div(p.k, length)
    cdef Py_ssize_t lanes = p.table.lanes, columns = ceil_div(ceil_div(p.n, lanes), STREAM_PARTS // parts) * lanes
    cdef Py_ssize_t size = p.table.itemsize
    cdef Py_ssize_t across = ceil_div(p.n, columns), k, n, i, m
    cdef Py_ssize_t nbytes = p.m * stream_row(p) + PAGE
    cdef bint packs = p.m > UNPACKED_ROWS
    cdef Py_ssize_t most = panel_width(p.table, p.n, 0)
    cdef Py_ssize_t own_bytes = line(packed_depth(p.table, most) * most * size) if packs else 0
    cdef char *scratch = acquire(parts * nbytes + threads * own_bytes)
    cdef char *own = scratch + parts * nbytes
    with nogil:
        for i in prange(parts * across, num_threads=threads, schedule="static"):
            k = i // across * length
            n = i % across * columns
            if packs:
                packed_part(p, k, min(length, p.k - k), n, min(p.n, n + columns), scratch + i // across * nbytes,
                            own + threadid() * own_bytes)
            else:
                stream_part(p, k, min(length, p.k - k), n, min(p.n, n + columns), scratch + i // across * nbytes)
        for m in prange(p.m, num_threads=threads if p.m > FC_STREAM_ROWS else 1, schedule="static"):
            add_stream_parts(p, m, parts, length, scratch, nbytes)
    release(scratch)
    return 0


cdef void dot_columns(const Product *p, const char *a, Py_ssize_t a_row, Py_ssize_t n, Py_ssize_t end) noexcept nogil:
    """Columns n to end of C, from rows of A that have no gaps, as many at a time as all rows of A find in L1."""
    cdef Py_ssize_t size = p.table.itemsize, most = max(4, l1_bytes // 2 // (p.k * size) // 4 * 4), m, rows
    cdef fc_dot t
    t.a_row = a_row
    t.b_row = p.b_row
    t.length = p.k
    t.c_row = p.c_row
    t.relu = p.relu
    while n < end:
        t.b = p.b + n * p.b_row
        t.columns = min(end - n, most if p.m > FC_DOT_ROWS else end)
        t.bias = p.bias + n * size if p.bias != NULL else NULL
        m = 0
        while m < p.m:
            rows = min(p.m - m, FC_DOT_ROWS)
            t.a = a + m * a_row
            t.c = p.c + m * p.c_row + n * size
            p.table.dot[rows - 1](&t)
            m += rows
        n += t.columns


cdef int multiply_dots(const Product *p, int threads) except -1:
    """A transposed A is turned first, which its few rows make little work."""
    cdef Py_ssize_t i, columns = ceil_div(ceil_div(p.n, 4), threads) * 4, a_row = p.a_row
    cdef char *scratch = NULL
    cdef const char *a = p.a
    if p.a_step != p.table.itemsize:
        a_row = line(p.k * p.table.itemsize)
        scratch = acquire(p.m * a_row)
        a = scratch
    with nogil:
        if scratch != NULL:
            p.table.pack_transposed(p.m, p.k, a_row // p.table.itemsize, p.a, p.a_step, scratch)
        for i in prange(ceil_div(p.n, columns), num_threads=threads, schedule="static"):
            dot_columns(p, a, a_row, i * columns, min(p.n, (i + 1) * columns))
    if scratch != NULL:
        release(scratch)
    return 0


cdef bint pays_turned(const Product *p) noexcept nogil:
    """Whether, where both are transposed, the product of B and A is less work: lanes that its tiles leave empty cost
    less than what ends dots."""
    return (p.m <= MOST_DOT_ROWS and 2 * p.m * p.m >= p.k and p.a_step != p.table.itemsize and p.b_transposed
            and p.bias == NULL and not p.residual and p.c_row == p.n * p.table.itemsize
            and p.m * p.c_row <= l2_bytes // 2)


cdef int multiply_turned(const Product *p) except -1:
    """C as the transpose of another product, of two that are not transposed."""
    cdef Product turned = p[0]
    turned.m, turned.n = p.n, p.m
    turned.a, turned.a_row, turned.a_step = p.b, p.b_row, p.table.itemsize
    turned.b, turned.b_row, turned.b_transposed = p.a, p.a_step, False
    turned.c_row = p.m * p.table.itemsize
    turned.c = acquire(p.n * turned.c_row)
    try:
        product(&turned)
        p.table.pack_transposed(p.m, p.n, p.n, turned.c, turned.c_row, p.c)
    finally:
        release(turned.c)
    return 0


cdef bint pays_dots(const Product *p) noexcept nogil:
    """Whether few rows of A meet rows of a transposed B: twice as many where these are long, stay in L2, and registers
    are many."""
    if p.residual or p.k < DOT_DEPTH * p.m:
        return False
    if p.m <= MOST_DOT_ROWS:
        return True
    return (p.m <= 2 * MOST_DOT_ROWS and p.k >= 2 * DOT_DEPTH * p.m and p.n * p.b_row <= l2_bytes // 2
            and p.table.panel_vectors > 2)


cdef bint fits_in_place(const Product *p) noexcept nogil:
    """Whether tiles read B where it is. Of a panel blocks do so too, and share out what has more rows than a tile."""
    cdef Py_ssize_t panels = ceil_div(p.n, p.table.panel_vectors * p.table.lanes)
    if p.m == 1 and panels <= 1 and p.k * p.n > NARROW_B:
        return False  # all of it would be a single task
    # Twice as many rows where there are panels enough to share out.
    return (p.m <= (IN_PLACE_ROWS if panels <= 2 else 2 * IN_PLACE_ROWS) and p.k * p.b_row <= l2_bytes // 2
            and not (is_panel(p) and p.m > p.table.max_rows[p.n // p.table.lanes - 1]))


cdef bint pays_streamed(const Product *p) noexcept nogil:
    """Whether to stream through a B that is not transposed: few rows do, more than a stream takes at a time where B is
    not as narrow as a panel, whose products stay in registers, and those for which it is packed where L2 has no room
    for it (16 rows with 1024 x 1024 numbers, two threads of a Granite Rapids: 0.15 ms, block by block 0.21)."""
    if p.residual:
        return False
    if p.m <= FC_STREAM_ROWS:
        return True
    if p.m > STREAMED_ROWS or p.n <= p.table.panel_vectors * p.table.lanes:
        return False
    return p.m <= UNPACKED_ROWS or p.k * p.b_row > l2_bytes


cdef bint pays_packed(const Product *p) noexcept nogil:
    """Whether a product whose B is not transposed would be glad of a packed B, which goes by blocks."""
    if is_panel(p) or p.m <= FC_STREAM_ROWS:
        return False
    return p.k * p.b_row > l1_bytes // 2 or not fits_in_place(p)


cdef int product(const Product *p) except -1:
    """Compute the product in the way that suits its shape."""
    # With one row it is B's reading that takes the time, however many lanes a vector has.
    cdef double flops = 2.0 * p.m * p.n * p.k
    cdef int threads = threads_for(flops) if p.m == 1 else threads_for_flops(p.table, flops)
    if p.m == 0 or p.n == 0:
        return 0
    if p.packed:
        return multiply_blocks(p, threads)
    if pays_turned(p):
        return multiply_turned(p)
    if p.b_transposed:
        if pays_dots(p):
            return multiply_dots(p, threads)
    elif fits_in_place(p):
        return multiply_in_place(p, threads)
    elif pays_streamed(p):
        return multiply_stream(p, threads)
    return multiply_blocks(p, threads)


cdef object by_rows(x, bint *transposed):
    """Return x, or where x is in Fortran order what it is the transpose of, *transposed flipped to say so."""
    if not cnp.PyArray_CheckExact(x) or cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_IS_C_CONTIGUOUS(x):
        return x
    if not cnp.PyArray_IS_F_CONTIGUOUS(x):
        return x
    transposed[0] = not transposed[0]
    return cnp.PyArray_Transpose(x, NULL)


def matmul(a, b, bint transpose_a, bint transpose_b, bias, int relu):
    """Return act(op(a) op(b) + bias), where bias may be None.

    Returns None, having done nothing, unless these are plain arrays of one element type whose shapes fit: the caller
    then converts them or says what is wrong. So what is right is checked once, here.
    """
    cdef Product p
    cdef cnp.npy_intp shape[2]
    cdef int kind
    cdef cnp.ndarray y
    a, b = by_rows(a, &transpose_a), by_rows(b, &transpose_b)
    if not (is_plain(a) and is_plain(b)) or cnp.PyArray_NDIM(a) != 2 or cnp.PyArray_NDIM(b) != 2:
        return None
    kind = cnp.PyArray_TYPE(a)
    p.m = cnp.PyArray_DIM(a, 1 if transpose_a else 0)
    p.k = cnp.PyArray_DIM(a, 0 if transpose_a else 1)
    p.n = cnp.PyArray_DIM(b, 0 if transpose_b else 1)
    if cnp.PyArray_TYPE(b) != kind or cnp.PyArray_DIM(b, 1 if transpose_b else 0) != p.k:
        return None
    if bias is not None:
        if not is_plain(bias) or cnp.PyArray_TYPE(bias) != kind:
            return None
        if cnp.PyArray_NDIM(bias) != 1 or cnp.PyArray_DIM(bias, 0) != p.n:
            return None
    if p.n and p.m > MAX_ELEMENTS // p.n:
        return None
    shape[0], shape[1] = p.m, p.n
    y = cnp.PyArray_EMPTY(2, shape, kind, 0)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(y)
    p.table = kernels(y)
    p.a = cnp.PyArray_BYTES(a)
    p.a_row = size if transpose_a else p.k * size
    p.a_step = p.m * size if transpose_a else size
    p.b = cnp.PyArray_BYTES(b)
    p.b_row = (p.k if transpose_b else p.n) * size
    p.b_transposed = transpose_b
    p.packed = False
    p.bias = NULL if bias is None else cnp.PyArray_BYTES(bias)
    p.c = cnp.PyArray_BYTES(y)
    p.c_row = p.n * size
    p.residual = 0
    p.relu = relu
    p.ahead = NULL
    product(&p)
    return y
