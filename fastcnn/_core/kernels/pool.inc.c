/* Pooling over a window of taps, along a contiguous run of channels: see fc_pool in kernels.h. */

/* Runs BODY(load, store, further argument of both, mask of the channels that count) over the channels of each pixel: in
 * whole vectors, unless BLOCKS has gone over them already, then once for the `left` < VL channels that are left.  Those
 * go as a whole vector too while its further elements belong to the next pixels: what is stored there is what was
 * there, or is stored again by their turn.  Only at the end of the row are they taken as parts, which is slower.
 *
 * overwrites: a backward pass need not read what it adds to, as windows do not overlap and every further element is
 * stored once more after it, by a tap or pixel to the right.  Where a pixel takes several vectors, the last one's further
 * elements would be stored too late for that. */
#define FOR_CHANNELS(BLOCKS, BODY)                                                    \
    const fc_pool own = *t; /* else it could be what is stored to, to the compiler */ \
    t = &own;                                                                         \
    const ptrdiff_t left = t->channels % VL;                                          \
    const ptrdiff_t whole_until = t->pixels - 1 - (VL - left) / t->channels;          \
    const mask all = ~(mask){0};                                                      \
    mask first = {0};                                                                 \
    for (ptrdiff_t j = 0; j < left; j++) first[j] = -1;                               \
    const int overwrites = t->tiled && (left == 0 || t->channels < VL);               \
    (void)all, (void)first, (void)overwrites;                                         \
    for (ptrdiff_t i = 0; i < t->pixels; i++) {                                       \
        const char *x = t->x + i * t->x_step;                                         \
        char *dx = t->dx + i * t->x_step;                                             \
        FC_T *y = (FC_T *)(t->y + i * t->y_step);                                     \
        (void)dx;                                                                     \
        (void)x;                                                                      \
        ptrdiff_t c = 0;                                                              \
        BLOCKS                                                                        \
        for (; c + VL <= t->channels; c += VL) BODY(load, store, , all)               \
        if (left && i < whole_until)                                                  \
            BODY(load, store, , first)                                                \
        else if (left)                                                                \
            BODY(load_part, store_part, FC_COMMA left, first)                         \
    }
#define TAP(base, k) ((FC_T *)((base) + t->taps[k]) + c)

/* Forward passes take several vectors of a pixel at a time while there are as many: each tap is one longer read, and
 * there is more to do while it comes. */
#define BLOCK 4
#define IN_BLOCKS(COMBINED, RESULT)                                                             \
    for (; c + BLOCK * VL <= t->channels; c += BLOCK * VL) {                                    \
        vec m[BLOCK];                                                                           \
        FC_UNROLL for (int b = 0; b < BLOCK; b++) m[b] = load(TAP(x, 0) + b * VL);              \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) FC_UNROLL for (int b = 0; b < BLOCK; b++) {   \
                vec v = load(TAP(x, k) + b * VL);                                               \
                m[b] = COMBINED;                                                                \
            }                                                                                   \
        FC_UNROLL for (int b = 0; b < BLOCK; b++) store(y + c + b * VL, RESULT);                \
    }

#define bytes FC_NAME(bytes)
#define words FC_NAME(words)
#define long_words FC_NAME(long_words)
#define load_bytes FC_NAME(load_bytes)
#define store_bytes FC_NAME(store_bytes)

/* A later tap wins only if it is greater, or the first NaN: v > m, or v is NaN, and m is not NaN. */
#define BEATS(v, m) (~((v) <= (m)) & ((m) == (m)))

#define LANES_OF(k) ((FC_INT)(k) - (mask){0})

/* Finds the maximum m of a window, and at which tap it lies. */
#define MAXIMUM(N_TAPS, LOAD, ...)                                    \
    vec m = LOAD(TAP(x, 0) __VA_ARGS__);                              \
    mask at = {0};                                                    \
    for (ptrdiff_t k = 1; k < (N_TAPS); k++) {                        \
        const vec v = LOAD(TAP(x, k) __VA_ARGS__);                    \
        const mask wins = BEATS(v, m);                                \
        m = blend(wins, v, m);                                        \
        at = (at & ~wins) | (LANES_OF(k) & wins);                     \
    }

/* Numbers of taps as bytes, of the element at the pixel's channel c; as many as the vector that is at work has. */
#define ARGMAX (t->argmax + i * (t->y_step / (ptrdiff_t)sizeof(FC_T)) + c)
#define ARGMAX_LANES (c + VL <= t->channels || i < whole_until ? VL : left)
typedef uint8_t bytes __attribute__((vector_size(FC_VECTOR_BYTES / sizeof(FC_T))));

/* What lies between bytes and the lanes of a mask: GCC 12 converts element by element where it is more than twice as
 * wide or half as wide in one step, save that AVX-512 narrows at once. */
typedef uint16_t words __attribute__((vector_size(FC_VECTOR_BYTES / sizeof(FC_T) * 2)));
typedef uint32_t long_words __attribute__((vector_size(FC_VECTOR_BYTES / sizeof(FC_T) * 4)));
#define CONVERT __builtin_convertvector

FC_INLINE mask load_bytes(const uint8_t *p, ptrdiff_t n) {
    bytes b = {0};
    if (n >= VL) memcpy(&b, p, sizeof b);
    else for (ptrdiff_t i = 0; i < n; i++) b[i] = p[i];
    return CONVERT(CONVERT(CONVERT(b, words), long_words), mask);
}

FC_INLINE void store_bytes(uint8_t *p, mask at, ptrdiff_t n) {
    const bytes b = FC_VECTOR_BYTES == 64 ? CONVERT(at, bytes) : CONVERT(CONVERT(CONVERT(at, long_words), words), bytes);
    if (n >= VL) memcpy(p, &b, sizeof b);
    else for (ptrdiff_t i = 0; i < n; i++) p[i] = b[i];
}

#define MAX_POOL(LOAD, STORE, LEFT, COUNTS)                        \
    {                                                              \
        MAXIMUM(t->n_taps, LOAD, LEFT)                             \
        STORE(y + c, m LEFT);                                      \
        if (argmax) store_bytes(ARGMAX, at, ARGMAX_LANES);         \
    }

#define MAX_POOL_BACKWARD(LOAD, STORE, LEFT, COUNTS)                                     \
    {                                                                                    \
        mask winner;                                                                     \
        if (argmax) winner = load_bytes(ARGMAX, ARGMAX_LANES);                           \
        else {                                                                           \
            MAXIMUM(n_taps, LOAD, LEFT)                                                  \
            winner = at;                                                                 \
        }                                                                                \
        vec g = LOAD(y + c LEFT);                                                        \
        if (through) {                                                                   \
            const vec r = LOAD((const FC_T *)(t->result + i * t->y_step) + c LEFT);      \
            g = (vec)((mask)g & (r > (FC_T)0));                                          \
            if (t->relu == 2) g = (vec)((mask)g & (r < (FC_T)6));                        \
            FC_T *total = (FC_T *)t->total + c;                                          \
            store(total, load(total) + (vec)((mask)g & COUNTS));                         \
        }                                                                                \
        for (ptrdiff_t k = first_tap; k < last_tap; k++) {                               \
            mask here = (winner == LANES_OF(k)) & COUNTS;                                \
            vec sum = overwrites ? (vec){0} : LOAD(TAP(dx, k) LEFT);                     \
            STORE(TAP(dx, k), blend(here, sum + g, sum) LEFT);                           \
        }                                                                                \
    }

/* Sums of a long run of taps are added up run by run: in one chain those of a million taps would be wrong by 1 %. */
#define FOR_RUNS(...)                                                                           \
    for (ptrdiff_t begin = 0; begin < t->n_taps; begin += run) {                                \
        const ptrdiff_t end = begin + run < t->n_taps ? begin + run : t->n_taps;                \
        __VA_ARGS__                                                                             \
    }

#define AVG_POOL(LOAD, STORE, LEFT, COUNTS)                                                     \
    {                                                                                           \
        vec total = {0};                                                                        \
        FOR_RUNS(vec sum = LOAD(TAP(x, begin) LEFT);                                            \
                 for (ptrdiff_t k = begin + 1; k < end; k++) sum += LOAD(TAP(x, k) LEFT);       \
                 if (begin) total += sum;                                                       \
                 else total = sum;)                                                             \
        STORE(y + c, total * (FC_T)t->scale LEFT);                                              \
    }

#define AVG_POOL_IN_BLOCKS                                                                      \
    for (; c + BLOCK * VL <= t->channels; c += BLOCK * VL) {                                    \
        vec total[BLOCK], sum[BLOCK];                                                           \
        FOR_RUNS(FC_UNROLL for (int b = 0; b < BLOCK; b++) sum[b] = load(TAP(x, begin) + b * VL); \
                 for (ptrdiff_t k = begin + 1; k < end; k++)                                    \
                     FC_UNROLL for (int b = 0; b < BLOCK; b++) sum[b] += load(TAP(x, k) + b * VL); \
                 FC_UNROLL for (int b = 0; b < BLOCK; b++) if (begin) total[b] += sum[b];       \
                 else total[b] = sum[b];)                                                       \
        FC_UNROLL for (int b = 0; b < BLOCK; b++) store(y + c + b * VL, total[b] * (FC_T)t->scale); \
    }

#define AVG_POOL_BACKWARD(LOAD, STORE, LEFT, COUNTS)                      \
    {                                                                     \
        vec g = LOAD(y + c LEFT) * (FC_T)t->scale;                        \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++) {          \
            vec sum = overwrites ? (vec){0} : LOAD(TAP(dx, k) LEFT);      \
            STORE(TAP(dx, k), blend(COUNTS, sum + g, sum) LEFT);          \
        }                                                                 \
    }

FC_INLINE void FC_NAME(max_pool_channels)(const fc_pool *t, const int argmax) {
    if (argmax) {
        FOR_CHANNELS(, MAX_POOL)
    } else {
        FOR_CHANNELS(IN_BLOCKS(blend(BEATS(v, m[b]), v, m[b]), m[b]), MAX_POOL)
    }
}

static void FC_NAME(max_pool)(const fc_pool *t) {
    if (t->argmax) FC_NAME(max_pool_channels)(t, 1);
    else FC_NAME(max_pool_channels)(t, 0);
}

static void FC_NAME(avg_pool)(const fc_pool *t) {
    ptrdiff_t run = 128;
    while (run * run < t->n_taps) run *= 2;
    FOR_CHANNELS(AVG_POOL_IN_BLOCKS, AVG_POOL)
}

FC_INLINE void FC_NAME(max_pool_backward_taps)(const fc_pool *t, ptrdiff_t n_taps, ptrdiff_t first_tap,
                                               ptrdiff_t last_tap, const int argmax, const int through) {
    FOR_CHANNELS(, MAX_POOL_BACKWARD)
}

/* Windows of 3 x 3 pixels at a stride of 2, from left to right: the column that two of them share stays in registers,
 * with what the left one adds to it, so that memory is read and written once for both.  Else the right one would
 * wait for what the left one has just written. */
FC_INLINE void FC_NAME(max_pool_backward_3x3)(const fc_pool *t, ptrdiff_t c, ptrdiff_t left, const int argmax) {
    const ptrdiff_t pixel = t->taps[1], row = t->taps[3];
#define AT(base, r, s) ((FC_T *)((base) + (r) * row + (s) * pixel) + c)
    const char *x = t->x, *y = t->y;
    char *dx = t->dx;
    vec v[3][3], sum[3][3];
    for (int r = 0; r < 3; r++) {
        sum[r][0] = load_left(AT(dx, r, 0), left);
        if (!argmax) v[r][0] = load_left(AT(x, r, 0), left);
    }
    for (ptrdiff_t i = 0; i < t->pixels; i++, x += t->x_step, dx += t->x_step, y += t->y_step) {
        FC_UNROLL for (int r = 0; r < 3; r++) FC_UNROLL for (int s = 1; s < 3; s++) {
            sum[r][s] = load_left(AT(dx, r, s), left);
            if (!argmax) v[r][s] = load_left(AT(x, r, s), left);
        }
        mask at = {0};
        if (argmax) at = load_bytes(ARGMAX, left);
        else {
            /* The first NaN, or else the first of the maxima.  In two sweeps of single comparisons, the second from the
             * last tap to the first, as GCC joins comparisons by way of other registers. */
            vec m = v[0][0];
            FC_UNROLL for (int k = 1; k < 9; k++) m = blend(v[k / 3][k % 3] > m, v[k / 3][k % 3], m);
            mask nan_at = LANES_OF(-1);
            FC_UNROLL for (int k = 8; k >= 0; k--) {
                const vec u = v[k / 3][k % 3];
                at = (mask)blend(u == m, (vec)LANES_OF(k), (vec)at);
                nan_at = (mask)blend(u != u, (vec)LANES_OF(k), (vec)nan_at);
            }
            at = (mask)blend(nan_at >= 0, (vec)nan_at, (vec)at);
        }
        const vec g = load_left((const FC_T *)y + c, left);
        FC_UNROLL for (int r = 0; r < 3; r++) {
            FC_UNROLL for (int s = 0; s < 3; s++)
                sum[r][s] = blend(at == LANES_OF(3 * r + s), sum[r][s] + g, sum[r][s]);
            store_left(AT(dx, r, 0), sum[r][0], left);
            store_left(AT(dx, r, 1), sum[r][1], left);
            sum[r][0] = sum[r][2];
            if (!argmax) v[r][0] = v[r][2];
        }
    }
    for (int r = 0; r < 3; r++) store_left(AT(dx, r, 0), sum[r][0], left);
#undef AT
}

/* Whole windows of the usual sizes have loops of their own. */
FC_INLINE void FC_NAME(max_pool_backward_windows)(const fc_pool *t, const int argmax) {
    const int whole = t->first_tap == 0 && t->last_tap == t->n_taps;
    if (whole && t->n_taps == 4) FC_NAME(max_pool_backward_taps)(t, 4, 0, 4, argmax, 0);
    else if (whole && t->n_taps == 9 && t->threes) {
        ptrdiff_t c = 0;
        for (; c + VL <= t->channels; c += VL) FC_NAME(max_pool_backward_3x3)(t, c, VL, argmax);
        if (c < t->channels) FC_NAME(max_pool_backward_3x3)(t, c, t->channels - c, argmax);
    }
    else FC_NAME(max_pool_backward_taps)(t, t->n_taps, t->first_tap, t->last_tap, argmax, 0);
}

static void FC_NAME(max_pool_backward)(const fc_pool *t) {
    if (t->result) FC_NAME(max_pool_backward_taps)(t, 4, 0, 4, 1, 1);
    else if (t->argmax) FC_NAME(max_pool_backward_windows)(t, 1);
    else FC_NAME(max_pool_backward_windows)(t, 0);
}

/* Many channels go tap by tap, so that memory is written in long runs. */
#define TAP_BY_TAP                                                                                        \
    if (t->channels >= BLOCK * VL) {                                                                      \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++)                                            \
            for (c = 0; c + VL <= t->channels; c += VL) {                                                 \
                const vec g = load(y + c) * (FC_T)t->scale;                                               \
                const vec before = overwrites ? (vec){0} : load(TAP(dx, k));                              \
                store(TAP(dx, k), before + g);                                                            \
            }                                                                                             \
        c = t->channels - left;                                                                           \
    }

static void FC_NAME(avg_pool_backward)(const fc_pool *t) { FOR_CHANNELS(TAP_BY_TAP, AVG_POOL_BACKWARD) }
