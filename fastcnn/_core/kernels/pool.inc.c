/* Pooling over a window of taps, along a contiguous run of channels: see fc_pool in kernels.h. */

/* Runs BODY over the channels in whole vectors, then TAIL for each of the fewer than VL channels that are left: single
 * numbers are faster there than parts of vectors, which have to be put together in memory. */
#define FOR_CHANNELS(BODY, TAIL)                              \
    for (ptrdiff_t i = 0; i < t->pixels; i++) {               \
        const char *x = t->x + i * t->x_step;                 \
        char *dx = t->dx + i * t->x_step;                     \
        FC_T *y = (FC_T *)(t->y + i * t->y_step);             \
        (void)dx;                                             \
        (void)x;                                              \
        ptrdiff_t c = 0;                                      \
        for (; c + VL <= t->channels; c += VL) BODY           \
        for (; c < t->channels; c++) TAIL                     \
    }
#define TAP(base, k) ((FC_T *)((base) + t->taps[k]) + c)

/* A later tap wins only if it is greater, or the first NaN: v > m, or v is NaN and m is not. */
#define BEATS(v, m) (((v) > (m)) | (((v) != (v)) & ((m) == (m))))

#define MAX_POOL                                     \
    {                                                \
        vec m = load(TAP(x, 0));                     \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {  \
            vec v = load(TAP(x, k));                 \
            m = blend(BEATS(v, m), v, m);            \
        }                                            \
        store(y + c, m);                             \
    }

#define MAX_POOL_TAIL                                \
    {                                                \
        FC_T m = *TAP(x, 0);                         \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {  \
            FC_T v = *TAP(x, k);                     \
            m = BEATS(v, m) ? v : m;                 \
        }                                            \
        y[c] = m;                                    \
    }

#define MAX_POOL_BACKWARD                                               \
    {                                                                   \
        vec m = load(TAP(x, 0));                                        \
        mask at = {0};                                                  \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {                     \
            vec v = load(TAP(x, k));                                    \
            mask wins = BEATS(v, m);                                    \
            m = blend(wins, v, m);                                      \
            at = (at & ~wins) | (((FC_INT)k - (mask){0}) & wins);       \
        }                                                               \
        vec g = load(y + c);                                            \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++) {        \
            mask here = at == ((FC_INT)k - (mask){0});                  \
            store(TAP(dx, k), load(TAP(dx, k)) + (vec)((mask)g & here)); \
        }                                                               \
    }

#define MAX_POOL_BACKWARD_TAIL                           \
    {                                                    \
        FC_T m = *TAP(x, 0);                             \
        ptrdiff_t at = 0;                                \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) {      \
            FC_T v = *TAP(x, k);                         \
            int wins = BEATS(v, m);                      \
            m = wins ? v : m;                            \
            at = wins ? k : at;                          \
        }                                                \
        if (t->first_tap <= at && at < t->last_tap)      \
            *TAP(dx, at) += y[c];                        \
    }

#define AVG_POOL                                                                    \
    {                                                                               \
        vec sum = load(TAP(x, 0));                                                  \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) sum += load(TAP(x, k));           \
        store(y + c, sum * (FC_T)t->scale);                                         \
    }

#define AVG_POOL_TAIL                                                      \
    {                                                                      \
        FC_T sum = *TAP(x, 0);                                             \
        for (ptrdiff_t k = 1; k < t->n_taps; k++) sum += *TAP(x, k);       \
        y[c] = sum * (FC_T)t->scale;                                       \
    }

#define AVG_POOL_BACKWARD                                                 \
    {                                                                     \
        vec g = load(y + c) * (FC_T)t->scale;                             \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++)            \
            store(TAP(dx, k), load(TAP(dx, k)) + g);                      \
    }

#define AVG_POOL_BACKWARD_TAIL                                            \
    {                                                                     \
        FC_T g = y[c] * (FC_T)t->scale;                                   \
        for (ptrdiff_t k = t->first_tap; k < t->last_tap; k++)            \
            *TAP(dx, k) += g;                                             \
    }

static void FC_NAME(max_pool)(const fc_pool *t) { FOR_CHANNELS(MAX_POOL, MAX_POOL_TAIL) }
static void FC_NAME(max_pool_backward)(const fc_pool *t) { FOR_CHANNELS(MAX_POOL_BACKWARD, MAX_POOL_BACKWARD_TAIL) }
static void FC_NAME(avg_pool)(const fc_pool *t) { FOR_CHANNELS(AVG_POOL, AVG_POOL_TAIL) }
static void FC_NAME(avg_pool_backward)(const fc_pool *t) { FOR_CHANNELS(AVG_POOL_BACKWARD, AVG_POOL_BACKWARD_TAIL) }
