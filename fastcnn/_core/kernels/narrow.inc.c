/* Convolutions of few filters, on planes of pixels: see fc_narrow in kernels.h. */

#define evens FC_NAME(evens)
#define odds FC_NAME(odds)
#define zip FC_NAME(zip)
#define NARROW_Y(row, k) ((FC_T *)(t->y + (row) * t->y_row + (k) * t->y_plane))

/* A tap of N filters is N numbers side by side, of which each is multiplied by two vectors of pixels. */
#define NARROW(N)                                                                                         \
    static void FC_NAME(narrow_##N)(const fc_narrow *t) {                                                 \
        for (ptrdiff_t p = 0; p < t->pixels; p += 2 * VL) {                                               \
            const char *x = t->x + p * sizeof(FC_T), *w = t->w;                                           \
            vec acc[2 * N];                                                                               \
            FC_UNROLL for (int k = 0; k < N; k++)                                                         \
                acc[2 * k] = acc[2 * k + 1] = splat(t->bias ? ((const FC_T *)t->bias)[k] : (FC_T)0);      \
            if (t->adds) FC_UNROLL for (int k = 0; k < 2 * N; k++)                                        \
                acc[k] += load(NARROW_Y(0, k / 2) + p + k % 2 * VL);                                      \
            for (ptrdiff_t i = 0; i < t->n_taps; i++, w += t->w_tap) {                                    \
                const FC_T *xi = (const FC_T *)(x + t->taps[i]);                                          \
                const vec first = load(xi), second = load(xi + VL);                                       \
                FC_UNROLL for (int k = 0; k < N; k++) {                                                   \
                    const vec wk = splat(((const FC_T *)w)[k]);                                           \
                    acc[2 * k] += wk * first;                                                             \
                    acc[2 * k + 1] += wk * second;                                                        \
                }                                                                                         \
            }                                                                                             \
            FC_UNROLL for (int k = 0; k < 2 * N; k++)                                                     \
                store(NARROW_Y(0, k / 2) + p + k % 2 * VL, clamp(acc[k], t->relu));                       \
        }                                                                                                 \
    }

/* So many filters' sums of two vectors, or of some taps, leave registers for what they are made of. */
#if FC_REGISTERS >= 32
#define FC_NARROW_MOST 8
#define FC_NARROW_TAPS(N) (N > 6 ? 2 : 4)
#define FC_NARROW_ALL(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#define FC_NARROW_MOST 6
#define FC_NARROW_TAPS(N) 2
#define FC_NARROW_ALL(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif

FC_NARROW_ALL(NARROW)

/* Sums of several taps at a time are in registers while the pixels pass by. */
#define NARROW_FILTERS(N)                                                                               \
    static void FC_NAME(narrow_filters_##N)(const fc_narrow *t) {                                       \
        for (ptrdiff_t i = 0; i < t->n_taps; i += FC_NARROW_TAPS(N)) {                                  \
            const ptrdiff_t tap = t->filters * VL;                                                      \
            FC_T *sums = (FC_T *)t->sums + i * tap;                                                     \
            const char *x[FC_NARROW_TAPS(N)];                                                           \
            vec acc[FC_NARROW_TAPS(N)][N];                                                              \
            FC_UNROLL for (int j = 0; j < FC_NARROW_TAPS(N); j++) {                                     \
                x[j] = t->x + t->taps[i + j];                                                           \
                FC_UNROLL for (int k = 0; k < N; k++) acc[j][k] = load(sums + j * tap + k * VL);        \
            }                                                                                           \
            for (ptrdiff_t p = 0; p < t->pixels; p += VL) {                                             \
                vec g[N];                                                                               \
                FC_UNROLL for (int k = 0; k < N; k++) g[k] = load(NARROW_Y(0, k) + p);                  \
                FC_UNROLL for (int j = 0; j < FC_NARROW_TAPS(N); j++) {                                 \
                    const vec xj = load((const FC_T *)x[j] + p);                                        \
                    FC_UNROLL for (int k = 0; k < N; k++) acc[j][k] += xj * g[k];                       \
                }                                                                                       \
            }                                                                                           \
            FC_UNROLL for (int j = 0; j < FC_NARROW_TAPS(N); j++)                                       \
                FC_UNROLL for (int k = 0; k < N; k++) store(sums + j * tap + k * VL, acc[j][k]);        \
        }                                                                                               \
    }

FC_NARROW_ALL(NARROW_FILTERS)

static void FC_NAME(narrow_sums)(ptrdiff_t n, ptrdiff_t parts, ptrdiff_t part_bytes, const void *sums, void *out) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const char *part = (const char *)((const FC_T *)sums + i * VL);
        vec sum = load((const FC_T *)part);
        for (ptrdiff_t j = 1; j < parts; j++) sum += load((const FC_T *)(part + j * part_bytes));
        ((FC_T *)out)[i] = sum_lanes(sum);
    }
}

/* Of the lanes of a, then b, those in even places, or in odd ones. */
FC_INLINE vec evens(vec a, vec b) {
    mask from;
    FC_UNROLL for (int i = 0; i < VL; i++) from[i] = 2 * i;
    return permute_two(a, b, from);
}
FC_INLINE vec odds(vec a, vec b) {
    mask from;
    FC_UNROLL for (int i = 0; i < VL; i++) from[i] = 2 * i + 1;
    return permute_two(a, b, from);
}

/* The lanes of a and b in turn, two vectors of them, to p. */
FC_INLINE void zip(FC_T *p, vec a, vec b) {
    mask low, high;
    FC_UNROLL for (int i = 0; i < VL; i++) {
        low[i] = i / 2 + i % 2 * VL;
        high[i] = (VL + i) / 2 + (VL + i) % 2 * VL;
    }
    store(p, permute_two(a, b, low));
    store(p + VL, permute_two(a, b, high));
}

/* Planes of half a row: of maxima or their gradients, and of which pixels these are; and both in the order of pixels. */
#define NARROW_ROOMS                                                                                     \
    const fc_narrow own = *t; /* else it could be what is stored to, to the compiler */                  \
    t = &own;                                                                                            \
    const ptrdiff_t row = t->y_row / (ptrdiff_t)sizeof(FC_T), width = (row + 2 * VL - 1) / (2 * VL) * VL; \
    const ptrdiff_t plane = t->filters * width, n = t->pixels * t->filters;                              \
    FC_T *const values = (FC_T *)t->room, *const places = values + plane;                                \
    FC_T *const dense = places + plane, *const dense_places = dense + plane

static void FC_NAME(narrow_pool)(const fc_narrow *t) {
    NARROW_ROOMS;
    (void)dense;
    for (ptrdiff_t k = 0; k < t->filters; k++)
        for (ptrdiff_t p = 0; p < t->pixels; p += VL) {
            const FC_T *upper = NARROW_Y(0, k) + 2 * p, *lower = NARROW_Y(1, k) + 2 * p;
            const vec u0 = load(upper), u1 = load(upper + VL), l0 = load(lower), l1 = load(lower + VL);
            const vec v[] = {evens(u0, u1), odds(u0, u1), evens(l0, l1), odds(l0, l1)};
            vec m = v[0];
            mask at = {0};
            FC_UNROLL for (int i = 1; i < 4; i++) {
                const mask wins = BEATS(v[i], m);
                m = blend(wins, v[i], m);
                at = (at & ~wins) | (LANES_OF(i) & wins);
            }
            store(values + k * width + p, m);
            store(places + k * width + p, (vec)at);
        }
    FC_NAME(transpose)(t->pixels, t->filters, t->filters, values, width * sizeof(FC_T), t->maxima, t->maxima_pixel);
    if (!t->argmax) return;
    FC_NAME(pack_transposed)(t->pixels, t->filters, t->filters, places, width * sizeof(FC_T), dense_places);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        mask at = (mask)load(dense_places + i);
        FC_KEEP(at); /* GCC converts what it still has to load element by element */
        store_bytes(t->argmax + i, at, n - i);
    }
}

static void FC_NAME(narrow_pool_backward)(const fc_narrow *t) {
    NARROW_ROOMS;
    for (ptrdiff_t i = 0; i < n; i += VL) {
        vec g = load_left((const FC_T *)t->maxima + i, n - i);
        if (t->relu) {
            const vec r = load_left((const FC_T *)t->result + i, n - i);
            g = (vec)((mask)g & (r > (FC_T)0));
            if (t->relu == 2) g = (vec)((mask)g & (r < (FC_T)6));
        }
        store(dense + i, g);
        store(dense_places + i, (vec)load_bytes(t->argmax + i, n - i));
    }
    FC_NAME(pack_transposed)(t->filters, t->pixels, width, dense, t->filters * sizeof(FC_T), values);
    FC_NAME(pack_transposed)(t->filters, t->pixels, width, dense_places, t->filters * sizeof(FC_T), places);
    for (ptrdiff_t k = 0; k < t->filters; k++) {
        FC_T *total = (FC_T *)t->sums + k * VL;
        vec sum = load(total);
        /* A row's end is written over the beginning of the next one, which therefore comes after it. */
        for (ptrdiff_t i = 0; i < 2; i++)
            for (ptrdiff_t p = 0; p < width; p += VL) {
                const vec g = load(values + k * width + p);
                const mask at = (mask)load(places + k * width + p);
                if (i == 0) sum += g;
                zip(NARROW_Y(i, k) + 2 * p, (vec)((mask)g & (at == LANES_OF(2 * i))),
                    (vec)((mask)g & (at == LANES_OF(2 * i + 1))));
            }
        store(total, sum);
    }
}
#undef NARROW_Y
#undef NARROW_ROOMS
