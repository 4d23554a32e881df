/* Register tiles of the matrix product, dot tiles, and packing: see fc_tile and fc_dot in kernels.h. */

#define tile_begin FC_NAME(tile_begin)
#define tile_end FC_NAME(tile_end)
#define tile_prefetch FC_NAME(tile_prefetch)

#define FC_EACH(what)                                                                  \
    {                                                                                  \
        FC_UNROLL for (int m = 0; m < rows; m++)                                       \
            FC_UNROLL for (int j = 0; j < vecs; j++) if (whole || left > j * VL) what; \
    }
#define FC_C(offset) ((FC_T *)(c + (offset) + m * t->c_row) + j * VL)

/* What the sums of a tile at c begin with; whole: all of its columns are stored. */
FC_INLINE void tile_begin(const fc_tile *t, const char *c, vec *acc, const int rows, const int vecs, const int whole) {
    const ptrdiff_t left = t->columns;
    if (t->accumulate) {
        if (!whole) FC_UNROLL for (int i = 0; i < rows * vecs; i++) acc[i] = (vec){0};
        FC_EACH(acc[m * vecs + j] = whole ? load(FC_C(0)) : load_left(FC_C(0), left - j * VL))
        return;
    }
    FC_UNROLL for (int j = 0; j < vecs; j++) {
        const vec start = t->bias ? load((const FC_T *)t->bias + j * VL) : (vec){0};
        FC_UNROLL for (int m = 0; m < rows; m++) acc[m * vecs + j] = start;
    }
    if (t->residual)
        FC_EACH(acc[m * vecs + j] += whole ? load(FC_C(t->residual)) : load_left(FC_C(t->residual), left - j * VL))
}

/* Asks for what the sums of the next tile, at c, begin with. */
FC_INLINE void tile_prefetch(const char *c, ptrdiff_t c_row, const int rows, const int vecs) {
    FC_ROLLED for (int m = 0; m < rows; m++)
        for (int j = 0; j < vecs; j++) __builtin_prefetch(c + m * c_row + j * FC_VECTOR_BYTES, 1);
}

/* Applies the relu and stores the sums. */
FC_INLINE void tile_end(const fc_tile *t, char *c, vec *acc, const int rows, const int vecs, const int whole) {
    const ptrdiff_t left = t->columns;
    if (t->relu) {
        vec least = (vec){0}, most = splat((FC_T)6);
        FC_HERE(least);
        FC_UNROLL for (int i = 0; i < rows * vecs; i++) acc[i] = larger(least, acc[i]);
        FC_HERE(most);
        if (t->relu == 2) FC_UNROLL for (int i = 0; i < rows * vecs; i++) acc[i] = smaller(most, acc[i]);
    }
    if (!whole) FC_EACH(store_left(FC_C(0), acc[m * vecs + j], left - j * VL))
    else if (t->past) FC_EACH(store_past(FC_C(0), acc[m * vecs + j]))
    else FC_EACH(store(FC_C(0), acc[m * vecs + j]))
}
#undef FC_EACH
#undef FC_C

/* Rows are addressed from every third one, at +0, +1 and +2 row strides: x86 forms these in the load itself,
 * so that 14 rows need five pointers, not 14.  The loops over m and j must unroll fully, or the accumulators
 * go to memory.  Tiles wider than a panel read B where it is, each row too far from the last for the hardware's
 * prefetchers.  Lines are asked for one by one, as a burst of requests would leave none for loads. */
#define TILE_STEP(ROWS, VECS)                                                                      \
    {                                                                                              \
        vec bk[VECS];                                                                              \
        FC_UNROLL for (int j = 0; j < VECS; j++) {                                                 \
            bk[j] = load((const FC_T *)b + j * VL);                                                \
            if (VECS > FC_PANEL_VECTORS) __builtin_prefetch(b + 8 * b_step + j * FC_VECTOR_BYTES); \
            FC_KEEP(bk[j]);                                                                        \
        }                                                                                          \
        FC_UNROLL for (int m = 0; m < ROWS; m++) {                                                 \
            vec am = splat(*(const FC_T *)(a[m / 3] + m % 3 * row));                               \
            FC_UNROLL for (int j = 0; j < VECS; j++) acc[m * VECS + j] += am * bk[j];              \
        }                                                                                          \
        FC_UNROLL for (int i = 0; i < (ROWS + 2) / 3; i++) {                                       \
            a[i] += a_step;                                                                        \
            FC_HOLD(a[i]);                                                                         \
        }                                                                                          \
        b += b_step;                                                                               \
    }

/* Two steps a round: with 14 x 2 vectors of AVX-512, 95 % of the peak instead of 88 % with one. */
#define TILE_STEPS(ROWS, VECS, ASKS)                                                               \
    {                                                                                              \
        ptrdiff_t k = t->run_length;                                                               \
        for (; k > 1; k -= 2) {                                                                    \
            if (ROWS > 2 && ASKS) __builtin_prefetch(ahead, 0, 2);                                 \
            TILE_STEP(ROWS, VECS)                                                                  \
            if (ROWS > 2 && ASKS) {                                                                \
                __builtin_prefetch(ahead + ahead_apart, 0, 2);                                     \
                __builtin_prefetch(ahead + 2 * ahead_apart, 0, 2);                                 \
                ahead += ahead_step;                                                               \
            }                                                                                      \
            TILE_STEP(ROWS, VECS)                                                                  \
        }                                                                                          \
        if (k > 0) TILE_STEP(ROWS, VECS)                                                           \
    }

#define TILE(ROWS, VECS)                                                                               \
    static void FC_NAME(tile_##ROWS##x##VECS)(const fc_tile *t, ptrdiff_t tiles) {                     \
        const ptrdiff_t row = t->a_row, a_step = t->a_step, b_step = t->b_step;                        \
        const int whole = t->columns >= VECS * VL;                                                     \
        const char *rows = t->a, *next_ahead = t->ahead;                                               \
        char *c = t->c;                                                                                \
        for (; tiles > 0; tiles--) {                                                                   \
            vec acc[ROWS * VECS];                                                                      \
            const int goes_ahead = next_ahead < t->ahead_end;                                          \
            const char *b = t->b, *ahead = goes_ahead ? next_ahead : b;                                \
            const ptrdiff_t ahead_step = goes_ahead ? t->ahead_step : 0;                               \
            const ptrdiff_t ahead_apart = goes_ahead ? t->ahead_apart : 0;                             \
            if (t->accumulate && tiles > 1) tile_prefetch(c + ROWS * t->c_row, t->c_row, ROWS, VECS);  \
            if (whole) tile_begin(t, c, acc, ROWS, VECS, 1);                                           \
            else tile_begin(t, c, acc, ROWS, VECS, 0);                                                 \
            for (ptrdiff_t r = 0; r < t->n_runs; r++) {                                                \
                const char *a[(ROWS + 2) / 3];                                                         \
                FC_UNROLL for (int i = 0; i < (ROWS + 2) / 3; i++)                                     \
                    a[i] = rows + t->runs[r] + 3 * i * row;                                            \
                if (VECS > 1 || goes_ahead) TILE_STEPS(ROWS, VECS, 1)                                  \
                else TILE_STEPS(ROWS, VECS, 0) /* it is loads that take the time of these */           \
            }                                                                                          \
            if (whole) tile_end(t, c, acc, ROWS, VECS, 1);                                             \
            else tile_end(t, c, acc, ROWS, VECS, 0);                                                   \
            rows += ROWS * row;                                                                        \
            c += ROWS * t->c_row;                                                                      \
            next_ahead += t->n_runs * (t->run_length / 2) * ahead_step;                                \
        }                                                                                              \
    }

/* The tallest tile of each width: what leaves a register for each vector of B's row and one for A (with 9 x 3 vectors,
 * which would just do, GCC 12 has some sums go to memory); and wider ones of one row, which read long runs of B where it
 * is. */
#if FC_REGISTERS >= 32
#define FC_TILE_ROWS {14, 14, 8, 6, 1, 1, 1, 1}
#define FC_PANEL_VECTORS 4
#define FC_ROW_VECTORS 8
#define FC_TILES(X)                                                                       \
    {{X(1, 1), X(2, 1), X(3, 1), X(4, 1), X(5, 1), X(6, 1), X(7, 1), X(8, 1), X(9, 1),    \
      X(10, 1), X(11, 1), X(12, 1), X(13, 1), X(14, 1)},                                  \
     {X(1, 2), X(2, 2), X(3, 2), X(4, 2), X(5, 2), X(6, 2), X(7, 2), X(8, 2), X(9, 2),    \
      X(10, 2), X(11, 2), X(12, 2), X(13, 2), X(14, 2)},                                  \
     {X(1, 3), X(2, 3), X(3, 3), X(4, 3), X(5, 3), X(6, 3), X(7, 3), X(8, 3)},            \
     {X(1, 4), X(2, 4), X(3, 4), X(4, 4), X(5, 4), X(6, 4)},                              \
     {X(1, 5)}, {X(1, 6)}, {X(1, 7)}, {X(1, 8)}}
#else
#define FC_TILE_ROWS {6, 6, 1, 1, 1, 1}
#define FC_PANEL_VECTORS 2
#define FC_ROW_VECTORS 6
#define FC_TILES(X)                                              \
    {{X(1, 1), X(2, 1), X(3, 1), X(4, 1), X(5, 1), X(6, 1)},     \
     {X(1, 2), X(2, 2), X(3, 2), X(4, 2), X(5, 2), X(6, 2)},     \
     {X(1, 3)}, {X(1, 4)}, {X(1, 5)}, {X(1, 6)}}
#endif

TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(1, 3) TILE(1, 4) TILE(1, 5) TILE(1, 6)
#if FC_REGISTERS >= 32
TILE(7, 1) TILE(8, 1) TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1) TILE(13, 1) TILE(14, 1)
TILE(7, 2) TILE(8, 2) TILE(9, 2) TILE(10, 2) TILE(11, 2) TILE(12, 2) TILE(13, 2) TILE(14, 2)
TILE(1, 7) TILE(1, 8)
TILE(2, 3) TILE(3, 3) TILE(4, 3) TILE(5, 3) TILE(6, 3) TILE(7, 3) TILE(8, 3)
TILE(2, 4) TILE(3, 4) TILE(4, 4) TILE(5, 4) TILE(6, 4)
#endif

/* `depth` rows of B, from row k on, are added to whole runs of `rows` rows of C in one pass, so that every load
 * walks through contiguous memory, which is what hardware prefetchers follow best. */
FC_INLINE void FC_NAME(add_pass)(const fc_tile *t, ptrdiff_t k, const int rows, const int depth) {
    const FC_T *b[8];
    FC_T a[4][8];
    const int goes_on = k > 0 || t->accumulate, relu = k + depth == t->run_length ? t->relu : 0;
    const ptrdiff_t asks = rows > 1 ? t->ahead_apart : 0;
    FC_UNROLL for (int i = 0; i < depth; i++) {
        b[i] = (const FC_T *)(t->b + (k + i) * t->b_step);
        FC_UNROLL for (int m = 0; m < rows; m++)
            a[m][i] = *(const FC_T *)(t->a + t->runs[0] + m * t->a_row + (k + i) * t->a_step);
    }
#define FC_LOAD_WHOLE(p, left) load(p)
#define FC_ADD_PASS(LOAD, LOAD_B, STORE, LEFT)                                                       \
    {                                                                                                \
        vec bn[8];                                                                                   \
        if (asks)                                                                                    \
            FC_UNROLL for (int i = 0; i < depth; i++)                                                \
                __builtin_prefetch((const char *)(b[i] + n) + asks, 0, 2);                           \
        FC_UNROLL for (int i = 0; i < depth; i++) bn[i] = LOAD_B(b[i] + n LEFT);                     \
        FC_UNROLL for (int m = 0; m < rows; m++) {                                                   \
            FC_T *c = (FC_T *)(t->c + m * t->c_row) + n;                                             \
            vec sum = goes_on ? LOAD(c LEFT) : t->bias ? LOAD((const FC_T *)t->bias + n LEFT) : (vec){0}; \
            FC_UNROLL for (int i = 0; i < depth; i++) sum += a[m][i] * bn[i];                        \
            STORE(c, clamp(sum, relu) LEFT);                                                         \
        }                                                                                            \
    }
    ptrdiff_t n = 0;
    /* Loads and stores across lines of the cache take twice the time. */
    const ptrdiff_t head = to_boundary(t->b);
    if (head > 0 && t->columns >= VL) {
        FC_ADD_PASS(load_part, FC_LOAD_WHOLE, store_part, FC_COMMA head)
        n = head;
    }
    for (; n + VL <= t->columns; n += VL) FC_ADD_PASS(load, load, store, )
    if (n < t->columns) {
        const ptrdiff_t left = t->columns - n, after = (t->run_length - k - depth) * t->b_step;
        if (after >= (VL - left) * (ptrdiff_t)sizeof(FC_T)) /* the rows of B that follow can be read */
            FC_ADD_PASS(load_part, FC_LOAD_WHOLE, store_part, FC_COMMA left)
        else
            FC_ADD_PASS(load_part, load_part, store_part, FC_COMMA left)
    }
#undef FC_LOAD_WHOLE
#undef FC_ADD_PASS
}

/* All depths of at most `most` for a number of rows: one pass each while they last, then one for the rest. */
FC_INLINE void FC_NAME(add_passes)(const fc_tile *t, const int rows, const int most) {
    ptrdiff_t k = 0;
    for (; k + most <= t->run_length; k += most) FC_NAME(add_pass)(t, k, rows, most);
    switch (t->run_length - k) {
    case 7: FC_NAME(add_pass)(t, k, rows, 7); break;
    case 6: FC_NAME(add_pass)(t, k, rows, 6); break;
    case 5: FC_NAME(add_pass)(t, k, rows, 5); break;
    case 4: FC_NAME(add_pass)(t, k, rows, 4); break;
    case 3: FC_NAME(add_pass)(t, k, rows, 3); break;
    case 2: FC_NAME(add_pass)(t, k, rows, 2); break;
    case 1: FC_NAME(add_pass)(t, k, rows, 1); break;
    default:
        if (k == 0) FC_NAME(add_pass)(t, 0, rows, 0); /* no rows at all: the start alone */
    }
}

/* Rows of B whose length is a power of two meet in one set of L1, which has 8 ways: a seventh and the run of C leave no
 * eighth unused, a ninth would push out what was prefetched. Four rows of A take four rows of B at a time, so that
 * their 16 factors have registers. */
static void FC_NAME(stream_1)(const fc_tile *t) { FC_NAME(add_passes)(t, 1, 7); }
static void FC_NAME(stream_2)(const fc_tile *t) { FC_NAME(add_passes)(t, 2, 4); }
static void FC_NAME(stream_3)(const fc_tile *t) { FC_NAME(add_passes)(t, 3, 4); }
static void FC_NAME(stream_4)(const fc_tile *t) { FC_NAME(add_passes)(t, 4, 4); }

/* What sums of up to four columns, from column n on, become in row m of C.  Four are made as one: 13 operations, where
 * each alone takes 8. */
FC_INLINE void FC_NAME(dot_finish)(const fc_dot *t, ptrdiff_t m, ptrdiff_t n, const vec *acc, const int columns) {
    FC_T *c = (FC_T *)(t->c + m * t->c_row) + n;
    const FC_T *bias = t->bias ? (const FC_T *)t->bias + n : NULL;
    if (VL >= 4) {
        vec sums = sum_lanes_of_4(acc);
        if (bias) sums += load_left(bias, columns);
        store_left(c, clamp(sums, t->relu), columns);
        return;
    }
    FC_UNROLL for (int i = 0; i < columns; i++) {
        vec sum = splat(sum_lanes(acc[i]));
        if (bias) sum += splat(bias[i]);
        c[i] = clamp(sum, t->relu)[0];
    }
}

/* How many elements of B's rows lie before a vector's boundary, where rows are whole vectors, and that is some quarters
 * of one, as it is in NumPy's arrays; else 0, as for rows so short that they end before it pays. */
FC_INLINE ptrdiff_t FC_NAME(dot_head)(const fc_dot *t, const int rows) {
    const ptrdiff_t head = to_boundary(t->b);
    const int is_whole = !((t->b_row | t->length * (ptrdiff_t)sizeof(FC_T)) & (FC_VECTOR_BYTES - 1));
    return VL >= 4 && is_whole && t->length > 3 * VL * rows && head % ((VL + 3) / 4) == 0 ? head : 0;
}

/* Up to four columns of C, from column n on.  Loads take the time, twice as long where they cross lines of the cache: so
 * B is read from a vector's boundary on, where it has one, and what lies before it first, with the sums turned to where
 * its lanes are, and back in the end.  No bit of the result depends on where B lies.  Up to 3 rows need FC_KEEP; with
 * four it made them a quarter slower. */
FC_INLINE void FC_NAME(dot_columns)(const fc_dot *t, ptrdiff_t n, ptrdiff_t head, const int rows, const int columns) {
    vec acc[4][4], am[4];
    const char *b = t->b + n * t->b_row;
    FC_UNROLL for (int m = 0; m < rows; m++)
        FC_UNROLL for (int j = 0; j < 4; j++) acc[m][j] = (vec){0};
#define FC_A(m) ((const FC_T *)(t->a + (m) * t->a_row) + k)
#define FC_B(j) ((const FC_T *)(b + (j) * t->b_row) + k)
#define FC_DOT_PART(lanes)                                                                              \
    {                                                                                                   \
        FC_UNROLL for (int m = 0; m < rows; m++) am[m] = load_part(FC_A(m), lanes);                     \
        FC_UNROLL for (int j = 0; j < columns; j++) {                                                   \
            const vec bj = load_part(FC_B(j), lanes);                                                   \
            FC_UNROLL for (int m = 0; m < rows; m++) acc[m][j] += am[m] * bj;                           \
        }                                                                                               \
        if (head > 0) {                                                                                 \
            FC_UNROLL for (int m = 0; m < rows; m++)                                                    \
                FC_UNROLL for (int j = 0; j < columns; j++) acc[m][j] = rotate(acc[m][j], lanes);       \
        }                                                                                               \
    }
    ptrdiff_t k = 0;
    if (head > 0) FC_DOT_PART(head)
    for (k = head; k + VL <= t->length; k += VL) {
        FC_UNROLL for (int m = 0; m < rows; m++) {
            am[m] = load(FC_A(m));
            if (rows < 4) FC_KEEP(am[m]);
        }
        FC_UNROLL for (int j = 0; j < columns; j++) {
            vec bj = load(FC_B(j));
            if (rows > 1 && rows < 4) FC_KEEP(bj);
            FC_UNROLL for (int m = 0; m < rows; m++) acc[m][j] += am[m] * bj;
        }
    }
    if (k < t->length) FC_DOT_PART(t->length - k)
#undef FC_A
#undef FC_B
#undef FC_DOT_PART
    FC_UNROLL for (int m = 0; m < rows; m++) FC_NAME(dot_finish)(t, m, n, acc[m], columns);
}

FC_INLINE void FC_NAME(dots)(const fc_dot *t, const int rows) {
    const ptrdiff_t head = FC_NAME(dot_head)(t, rows);
    ptrdiff_t n = 0;
    for (; n + 4 <= t->columns; n += 4) FC_NAME(dot_columns)(t, n, head, rows, 4);
    switch (t->columns - n) {
    case 3: FC_NAME(dot_columns)(t, n, 0, rows, 3); break;
    case 2: FC_NAME(dot_columns)(t, n, 0, rows, 2); break;
    case 1: FC_NAME(dot_columns)(t, n, 0, rows, 1); break;
    }
}

static void FC_NAME(dot_1)(const fc_dot *t) { FC_NAME(dots)(t, 1); }
static void FC_NAME(dot_2)(const fc_dot *t) { FC_NAME(dots)(t, 2); }
static void FC_NAME(dot_3)(const fc_dot *t) { FC_NAME(dots)(t, 3); }
static void FC_NAME(dot_4)(const fc_dot *t) { FC_NAME(dots)(t, 4); }

static void FC_NAME(pack_rows)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const void *src, ptrdiff_t stride,
                      void *dst) {
    const char *s = src;
    FC_T *d = dst;
    for (ptrdiff_t k = 0; k < depth; k++, s += stride, d += width) {
        ptrdiff_t j = 0;
        for (; j + VL <= columns; j += VL) store(d + j, load((const FC_T *)s + j));
        if (j < columns) {
            store(d + j, load_part((const FC_T *)s + j, columns - j));
            j += VL;
        }
        for (; j < width; j += VL) store(d + j, (vec){0});
    }
}

/* Rows of dst that are written side by side, so that they stay in L1 until they are whole. */
#define FC_TRANSPOSED_ROWS 32

/* Dense pixels of three channels, as images have them, go to planes by whole vectors; returns how many did. */
static ptrdiff_t FC_NAME(split_threes)(ptrdiff_t pixels, const FC_T *src, FC_T *d, ptrdiff_t d_row) {
    ptrdiff_t j = 0;
    for (; j + VL <= pixels; j += VL, src += 3 * VL) {
        const vec v0 = load(src), v1 = load(src + VL), v2 = load(src + 2 * VL);
        FC_UNROLL for (int c = 0; c < 3; c++) {
            mask of_two, of_third;
            FC_UNROLL for (int i = 0; i < VL; i++) {
                const int at = 3 * i + c, is_third = at >= 2 * VL;
                of_two[i] = is_third ? 0 : at;
                of_third[i] = is_third ? at - VL : i;
            }
            store(d + c * d_row + j, permute_two(permute_two(v0, v1, of_two), v2, of_third));
        }
    }
    return j;
}

/* In blocks of 4 x 4, so that each load takes 4 contiguous elements of src and each store 4 of dst; the last ones begin
 * early enough to be whole.  What the next rows of dst take is asked for where there are any: it lies in too many places
 * for the hardware's prefetchers. */
static void FC_NAME(transpose_part)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const FC_T *src,
                                    ptrdiff_t stride, FC_T *d, ptrdiff_t d_row, int goes_on) {
    typedef FC_T quad __attribute__((vector_size(4 * sizeof(FC_T)), aligned(sizeof(FC_T)), may_alias));
#define FC_SRC(j) ((const FC_T *)((const char *)src + (j) * stride))
    ptrdiff_t done = 0;
    if (depth == 3 && stride == 3 * (ptrdiff_t)sizeof(FC_T)) done = FC_NAME(split_threes)(columns, src, d, d_row);
    else if (depth > 3 && columns > 3) for (; done < columns; done += 4) {
        const ptrdiff_t j = done + 4 > columns ? columns - 4 : done;
        const FC_T *s0 = FC_SRC(j), *s1 = FC_SRC(j + 1), *s2 = FC_SRC(j + 2), *s3 = FC_SRC(j + 3);
        if (goes_on) FC_UNROLL for (ptrdiff_t i = 0; i < FC_TRANSPOSED_ROWS; i += FC_LINE / (ptrdiff_t)sizeof(FC_T)) {
            __builtin_prefetch(s0 + depth + i);
            __builtin_prefetch(s1 + depth + i);
            __builtin_prefetch(s2 + depth + i);
            __builtin_prefetch(s3 + depth + i);
        }
        for (ptrdiff_t next = 0; next < depth; next += 4) {
            const ptrdiff_t k = next + 4 > depth ? depth - 4 : next;
            quad a = *(const quad *)(s0 + k), b = *(const quad *)(s1 + k);
            quad c = *(const quad *)(s2 + k), e = *(const quad *)(s3 + k);
            quad ab_lo = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_hi = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            quad ce_lo = __builtin_shufflevector(c, e, 0, 4, 1, 5), ce_hi = __builtin_shufflevector(c, e, 2, 6, 3, 7);
            *(quad *)(d + k * d_row + j) = __builtin_shufflevector(ab_lo, ce_lo, 0, 1, 4, 5);
            *(quad *)(d + (k + 1) * d_row + j) = __builtin_shufflevector(ab_lo, ce_lo, 2, 3, 6, 7);
            *(quad *)(d + (k + 2) * d_row + j) = __builtin_shufflevector(ab_hi, ce_hi, 0, 1, 4, 5);
            *(quad *)(d + (k + 3) * d_row + j) = __builtin_shufflevector(ab_hi, ce_hi, 2, 3, 6, 7);
        }
    }
    for (ptrdiff_t j = done; j < columns; j++) {
        const FC_T *s = FC_SRC(j);
        for (ptrdiff_t k = 0; k < depth; k++) d[k * d_row + j] = s[k];
    }
    for (ptrdiff_t j = columns; j < width; j++) /* few, for which memset would take long */
        for (ptrdiff_t k = 0; k < depth; k++) d[k * d_row + j] = 0;
#undef FC_SRC
}

static void FC_NAME(transpose)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const void *src, ptrdiff_t stride,
                               void *dst, ptrdiff_t dst_row) {
    FC_NAME(transpose_part)(depth, columns, width, src, stride, dst, dst_row / (ptrdiff_t)sizeof(FC_T), 0);
}

static void FC_NAME(pack_transposed)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const void *src,
                            ptrdiff_t stride, void *dst) {
    const FC_T *s = src;
    FC_T *d = dst;
    for (; depth > FC_TRANSPOSED_ROWS; depth -= FC_TRANSPOSED_ROWS) {
        FC_NAME(transpose_part)(FC_TRANSPOSED_ROWS, columns, width, s, stride, d, width, 1);
        s += FC_TRANSPOSED_ROWS, d += FC_TRANSPOSED_ROWS * width;
    }
    FC_NAME(transpose_part)(depth, columns, width, s, stride, d, width, 0);
}
