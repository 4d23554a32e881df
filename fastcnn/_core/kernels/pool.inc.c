/* Pooling over a window of taps, along a contiguous run of channels: see fc_pool in kernels.h. */

/* Runs BODY(load, store, further argument of both, mask of the channels that count) over the channels of each pixel: in
 * whole vectors, unless BLOCKS has gone over them already, then once for the `left` < VL channels that are left.  Those go as a whole vector too while its further
 * elements belong to the next pixels: what is stored there is what was there, or is stored again by their turn.  Only
 * at the end of the row are they put together from parts, which is many times slower.
 *
 * overwrites: a backward pass need not read what it adds to, as windows do not overlap and every further element is
 * stored once more after it, by a tap or pixel to the right.  Where a pixel takes several vectors, the last one's further
 * elements would be stored too late for that. */
#define FOR_CHANNELS(BLOCKS, BODY)                                                    \
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

/* A later tap wins only if it is greater, or the first NaN: v > m, or v is NaN and m is not. */
#define BEATS(v, m) (((v) > (m)) | (((v) != (v)) & ((m) == (m))))

#define MAX_POOL(LOAD, STORE, LEFT, COUNTS)                \
    {                                                      \
        vec m = LOAD(TAP(x, 0) LEFT);                      \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {        \
            vec v = LOAD(TAP(x, k) LEFT);                  \
            m = blend(BEATS(v, m), v, m);                  \
        }                                                  \
        STORE(y + c, m LEFT);                              \
    }

#define MAX_POOL_BACKWARD(LOAD, STORE, LEFT, COUNTS)                                     \
    {                                                                                    \
        vec m = LOAD(TAP(x, 0) LEFT);                                                    \
        mask at = {0};                                                                   \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {                                      \
            vec v = LOAD(TAP(x, k) LEFT);                                                \
            mask wins = BEATS(v, m);                                                     \
            m = blend(wins, v, m);                                                       \
            at = (at & ~wins) | (((FC_INT)k - (mask){0}) & wins);                        \
        }                                                                                \
        vec g = LOAD(y + c LEFT);                                                        \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++) {                         \
            mask here = (at == ((FC_INT)k - (mask){0})) & COUNTS;                        \
            vec sum = overwrites ? (vec){0} : LOAD(TAP(dx, k) LEFT);                     \
            STORE(TAP(dx, k), blend(here, sum + g, sum) LEFT);                           \
        }                                                                                \
    }

#define AVG_POOL(LOAD, STORE, LEFT, COUNTS)                                              \
    {                                                                                    \
        vec sum = LOAD(TAP(x, 0) LEFT);                                                  \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) sum += LOAD(TAP(x, k) LEFT);           \
        STORE(y + c, sum * (FC_T)t->scale LEFT);                                         \
    }

#define AVG_POOL_BACKWARD(LOAD, STORE, LEFT, COUNTS)                      \
    {                                                                     \
        vec g = LOAD(y + c LEFT) * (FC_T)t->scale;                        \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++) {          \
            vec sum = overwrites ? (vec){0} : LOAD(TAP(dx, k) LEFT);      \
            STORE(TAP(dx, k), blend(COUNTS, sum + g, sum) LEFT);          \
        }                                                                 \
    }

static void FC_NAME(max_pool)(const fc_pool *t) {
    FOR_CHANNELS(IN_BLOCKS(blend(BEATS(v, m[b]), v, m[b]), m[b]), MAX_POOL)
}

static void FC_NAME(avg_pool)(const fc_pool *t) { FOR_CHANNELS(IN_BLOCKS(m[b] + v, m[b] * (FC_T)t->scale), AVG_POOL) }

static void FC_NAME(max_pool_backward)(const fc_pool *t) { FOR_CHANNELS(, MAX_POOL_BACKWARD) }

static void FC_NAME(avg_pool_backward)(const fc_pool *t) { FOR_CHANNELS(, AVG_POOL_BACKWARD) }
