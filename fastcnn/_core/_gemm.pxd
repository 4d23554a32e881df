from libc.string cimport memcpy, memset

from ._runtime cimport FC_LINE, ceil_div, fc_kernels, fc_tile


cdef extern from *:
    """
    /* Asks for memory that will be read soon to be brought into L2. */
    static inline void fc_prefetch(const char *start, ptrdiff_t nbytes) {
        for (ptrdiff_t i = 0; i < nbytes; i += 64) __builtin_prefetch(start + i, 0, 2);
        __builtin_prefetch(start + nbytes - 1, 0, 2); /* start need not begin a line */
    }
    """
    void fc_prefetch(const char *start, Py_ssize_t nbytes) noexcept nogil


cdef struct Product:
    const fc_kernels *table
    Py_ssize_t m, n, k
    const char *a
    Py_ssize_t a_row, a_step
    # B as it is; or, packed, all of its panels one after the other, each with k rows.
    const char *b
    Py_ssize_t b_row
    bint b_transposed, packed
    const char *bias
    char *c
    Py_ssize_t c_row
    # How far from C lies what is added to it before relu, laid out as C; 0: nothing is.
    Py_ssize_t residual
    # 1: relu; 2: relu6.
    int relu
    # What will be read from memory once it is done, and is asked for meanwhile where there is time; or NULL.
    const char *ahead
    Py_ssize_t ahead_bytes


cdef struct Ahead:
    # Memory that will be read next, to be brought near meanwhile: so many stretches of it, the last one first, and how
    # much for each step of a tile's reduction.
    const char *start[3]
    Py_ssize_t nbytes[3]
    Py_ssize_t stretches
    double share


cdef int product(const Product *p) except -1
cdef bint pays_packed(const Product *p) noexcept nogil
cdef void panel_shape(const fc_kernels *table, Py_ssize_t columns, Py_ssize_t *width, int *kind) noexcept nogil
cdef Py_ssize_t panel_width(const fc_kernels *table, Py_ssize_t columns, Py_ssize_t depth) noexcept nogil
cdef char *pack_panels(const fc_kernels *table, const char *b, Py_ssize_t b_row, bint b_transposed, Py_ssize_t depth,
                       Py_ssize_t columns, Py_ssize_t most, char *to) noexcept nogil
cdef void multiply_panels(const fc_kernels *table, const char *a, Py_ssize_t rows, const char *packed,
                          Py_ssize_t depth, Py_ssize_t columns, Py_ssize_t most, char *c, Ahead *next) noexcept nogil
cdef void bring_share(const fc_kernels *table, int kind, fc_tile *t, Py_ssize_t rows, Ahead *next) noexcept nogil


cdef inline Py_ssize_t equal_width(const fc_kernels *table, Py_ssize_t elements, Py_ssize_t most) noexcept nogil:
    """Return the width of all but the last of as few parts as can be, of at most so many vectors each, equally wide."""
    cdef Py_ssize_t vectors = max(1, ceil_div(elements, table.lanes))
    return ceil_div(vectors, ceil_div(vectors, most)) * table.lanes


cdef inline Py_ssize_t packed_width(const fc_kernels *table, Py_ssize_t rows) noexcept nogil:
    """Return how many rows of A^T B are packed side by side."""
    return equal_width(table, rows, 3)


cdef inline void add_stretch(Ahead *next, const char *start, Py_ssize_t nbytes) noexcept nogil:
    next.start[next.stretches] = start
    next.nbytes[next.stretches] = nbytes
    next.stretches += 1


cdef inline Py_ssize_t panel_steps(const fc_kernels *table, Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns,
                                   Py_ssize_t most) noexcept nogil:
    """Return the steps of all tiles of multiply_panels."""
    return ceil_div(columns, most) * ceil_div(rows, table.max_rows[most // table.lanes - 1]) * depth


cdef inline void share_out(Ahead *next, Py_ssize_t steps) noexcept nogil:
    """Have so many steps bring all that is next near."""
    cdef Py_ssize_t total = 0, i
    for i in range(next.stretches):
        total += next.nbytes[i]
    next.share = <double> total / max(1, steps)


cdef inline Py_ssize_t rounds(const fc_tile *t, Py_ssize_t tiles) noexcept nogil:
    """Return how often so many tiles ask for what is ahead of them."""
    return tiles * t.n_runs * (t.run_length // 2)


cdef inline void bring_near(const fc_kernels *table, int kind, fc_tile *t, Py_ssize_t rows, Py_ssize_t times,
                            const char *start, Py_ssize_t nbytes) noexcept nogil:
    """Have the tiles of so many rows, so many times, ask for memory that is read next, as slowly as they can.

    Memory answers only so many requests at a time, and loads would wait for them. They are fewer where the hardware
    has seen a stream and goes ahead of it, which it does within a page, each time anew: three streams that are each
    slower spend less of their time at a page's beginning (one thread of a Granite Rapids, tiles of 6 x 4 vectors, a
    panel of 512 rows from memory for each 49 of A: one stream 171 GFLOP/s, three 194, nothing to ask for 220).
    """
    t.ahead = start
    t.ahead_apart = ceil_div(nbytes, 3)
    t.ahead_end = start + t.ahead_apart
    t.ahead_step = min(FC_LINE, 1 + t.ahead_apart // max(1, times * rounds(t, ceil_div(rows, table.max_rows[kind]))))


cdef inline void run_tiles(const fc_kernels *table, int kind, fc_tile *t, Py_ssize_t rows,
                           Py_ssize_t tiles) noexcept nogil:
    """Run so many tiles of so many rows, from t.a, t.c and t.ahead on, which it moves."""
    table.tile[kind][rows - 1](t, tiles)
    t.a += tiles * rows * t.a_row
    t.c += tiles * rows * t.c_row
    if t.ahead < t.ahead_end:
        t.ahead += rounds(t, tiles) * t.ahead_step


cdef inline void multiply_tiles(const fc_kernels *table, int kind, fc_tile *t, Py_ssize_t rows) noexcept nogil:
    """Run tiles of one kind down so many rows, from t.a, t.c and t.ahead on, which it moves."""
    cdef Py_ssize_t tiles = ceil_div(rows, table.max_rows[kind]), height, taller
    if rows <= 0:
        return
    # Equal tiles: 16 rows are better cut 8 + 8 than 14 + 2.
    height = rows // tiles
    taller = rows - height * tiles
    if taller:
        run_tiles(table, kind, t, height + 1, taller)
    run_tiles(table, kind, t, height, tiles - taller)


cdef inline const char *pad_bias(const char *bias, Py_ssize_t nbytes, Py_ssize_t room, char *to) noexcept nogil:
    """Copy a bias (NULL: none) to where a whole number of vectors can be read; return where it then is."""
    if bias == NULL:
        return NULL
    memcpy(to, bias, nbytes)
    memset(to + nbytes, 0, room - nbytes)
    return to
