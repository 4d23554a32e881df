/* Pooling over a window of taps, along a contiguous run of channels: see fc_pool in kernels.h. */


/* Runs BODY(c, n) over the channels in whole vectors, then once for the n < VL channels that are left. */
#define FOR_CHANNELS(BODY)                                         \
    for (ptrdiff_t i = 0; i < t->pixels; i++) {                    \
        const char *x = t->x + i * t->x_step;                      \
        char *dx = t->dx + i * t->x_step;                          \
        FC_T *y = (FC_T *)(t->y + i * t->y_step);                  \
        (void)dx;                                                  \
        (void)x;                                                   \
        ptrdiff_t c = 0;                                           \
        for (; c + VL <= t->channels; c += VL) BODY(load, store, ) \
        if (c < t->channels) {                                     \
            const ptrdiff_t left = t->channels - c;                \
            BODY(load_part, store_part, FC_COMMA left)             \
        }                                                          \
    }
#define TAP(base, k) ((FC_T *)((base) + t->taps[k]) + c)

/* A later tap wins only if it is greater, or the first NaN: v > m, or v is NaN and m is not. */
#define BEATS(v, m) (((v) > (m)) | (((v) != (v)) & ((m) == (m))))

#define MAX_POOL(LOAD, STORE, LEFT)                        \
    {                                                      \
        vec m = LOAD(TAP(x, 0) LEFT);                      \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {        \
            vec v = LOAD(TAP(x, k) LEFT);                  \
            m = blend(BEATS(v, m), v, m);                  \
        }                                                  \
        STORE(y + c, m LEFT);                              \
    }

#define MAX_POOL_BACKWARD(LOAD, STORE, LEFT)                                             \
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
            mask here = at == ((FC_INT)k - (mask){0});                                   \
            STORE(TAP(dx, k), LOAD(TAP(dx, k) LEFT) + (vec)((mask)g & here) LEFT);       \
        }                                                                                \
    }

#define AVG_POOL(LOAD, STORE, LEFT)                                                      \
    {                                                                                    \
        vec sum = LOAD(TAP(x, 0) LEFT);                                                  \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) sum += LOAD(TAP(x, k) LEFT);           \
        STORE(y + c, sum * (FC_T)t->scale LEFT);                                         \
    }

#define AVG_POOL_BACKWARD(LOAD, STORE, LEFT)                              \
    {                                                                     \
        vec g = LOAD(y + c LEFT) * (FC_T)t->scale;                        \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++)            \
            STORE(TAP(dx, k), LOAD(TAP(dx, k) LEFT) + g LEFT);            \
    }

static void FC_NAME(max_pool)(const fc_pool *t) { FOR_CHANNELS(MAX_POOL) }
static void FC_NAME(max_pool_backward)(const fc_pool *t) { FOR_CHANNELS(MAX_POOL_BACKWARD) }
static void FC_NAME(avg_pool)(const fc_pool *t) { FOR_CHANNELS(AVG_POOL) }
static void FC_NAME(avg_pool_backward)(const fc_pool *t) { FOR_CHANNELS(AVG_POOL_BACKWARD) }
