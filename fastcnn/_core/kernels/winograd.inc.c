/* Transforms of Winograd's F(4x4, 3x3), each along a contiguous run of channels: see fc_winograd in kernels.h.
 *
 * Y = A^T [(G g G^T) . (B^T d B)] A, with the points 0, 1, -1, 2, -2 and infinity; Lavin and Gray, "Fast algorithms
 * for convolutional neural networks", 2016. */

#define winograd_bt FC_NAME(winograd_bt)
#define winograd_g FC_NAME(winograd_g)
#define winograd_at FC_NAME(winograd_at)
#define winograd_a FC_NAME(winograd_a)
#define winograd_gt FC_NAME(winograd_gt)
#define winograd_points FC_NAME(winograd_points)
#define winograd_pixels FC_NAME(winograd_pixels)

/* t = B^T d, one column of it. */
FC_INLINE void winograd_bt(const vec *d, vec *t) {
    const vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    t[0] = 4 * d[0] - 5 * d[2] + d[4];
    t[1] = a + b;
    t[2] = a - b;
    t[3] = c + e;
    t[4] = c - e;
    t[5] = 4 * d[1] - 5 * d[3] + d[5];
}

/* t = G g. */
FC_INLINE void winograd_g(const vec *g, vec *t) {
    const vec a = (g[0] + g[2]) * (FC_T)(-1.0 / 6), b = g[1] * (FC_T)(-1.0 / 6);
    const vec c = g[0] * (FC_T)(1.0 / 24) + g[2] * (FC_T)(1.0 / 6), e = g[1] * (FC_T)(1.0 / 12);
    t[0] = g[0] * (FC_T)0.25;
    t[1] = a + b;
    t[2] = a - b;
    t[3] = c + e;
    t[4] = c - e;
    t[5] = g[2];
}

/* y = A^T m. */
FC_INLINE void winograd_at(const vec *m, vec *y) {
    const vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2 * e;
    y[2] = a + 4 * c;
    y[3] = b + 8 * e + m[5];
}

/* t = A y. */
FC_INLINE void winograd_a(const vec *y, vec *t) {
    const vec a = y[0] + y[2], b = y[1] + y[3], c = y[0] + 4 * y[2], e = 2 * y[1] + 8 * y[3];
    t[0] = y[0];
    t[1] = a + b;
    t[2] = a - b;
    t[3] = c + e;
    t[4] = c - e;
    t[5] = y[3];
}

/* g = G^T m. */
FC_INLINE void winograd_gt(const vec *m, vec *g) {
    const vec a = (m[1] + m[2]) * (FC_T)(-1.0 / 6), b = m[3] + m[4];
    g[0] = m[0] * (FC_T)0.25 + a + b * (FC_T)(1.0 / 24);
    g[1] = (m[2] - m[1]) * (FC_T)(1.0 / 6) + (m[3] - m[4]) * (FC_T)(1.0 / 12);
    g[2] = a + b * (FC_T)(1.0 / 6) + m[5];
}

/* T p T^T for taps x taps pixels: input (6, T = B^T), output's gradient (4, T = A) or filter (3, T = G). */
FC_INLINE void winograd_points(const fc_winograd *t, const int taps) {
    for (ptrdiff_t c = 0; c < t->channels; c += VL) {
        vec p[6], half[6][6]; /* [column][row] */
        FC_UNROLL for (int j = 0; j < taps; j++) {
            FC_UNROLL for (int i = 0; i < taps; i++) {
                const FC_T *x = (const FC_T *)(t->x + i * t->x_row + j * t->x_col) + c;
                p[i] = t->channels - c >= VL ? load(x) : load_part(x, t->channels - c);
            }
            taps == 6 ? winograd_bt(p, half[j]) : taps == 4 ? winograd_a(p, half[j]) : winograd_g(p, half[j]);
        }
        FC_UNROLL for (int i = 0; i < 6; i++) {
            vec points[6];
            FC_UNROLL for (int j = 0; j < taps; j++) p[j] = half[j][i];
            taps == 6 ? winograd_bt(p, points) : taps == 4 ? winograd_a(p, points) : winograd_g(p, points);
            FC_UNROLL for (int j = 0; j < 6; j++) store((FC_T *)(t->y + (6 * i + j) * t->point) + c, points[j]);
        }
    }
}

static void FC_NAME(winograd_input)(const fc_winograd *t) { winograd_points(t, 6); }
static void FC_NAME(winograd_filter)(const fc_winograd *t) { winograd_points(t, 3); }
static void FC_NAME(winograd_output_backward)(const fc_winograd *t) { winograd_points(t, 4); }

/* T m T^T, the first rows x cols of taps x taps pixels: output (4, T = A^T) or filter's gradient (3, T = G^T). */
FC_INLINE void winograd_pixels(const fc_winograd *t, const int taps, ptrdiff_t rows, ptrdiff_t cols, const char *bias,
                               int relu) {
    for (ptrdiff_t c = 0; c < t->channels; c += VL) {
        const ptrdiff_t left = t->channels - c;
        const vec start = bias ? load((const FC_T *)bias + c) : (vec){0};
        vec half[6][4]; /* [column][row] */
        FC_UNROLL for (int j = 0; j < 6; j++) {
            vec m[6];
            FC_UNROLL for (int i = 0; i < 6; i++) m[i] = load((const FC_T *)(t->x + (6 * i + j) * t->point) + c);
            taps == 4 ? winograd_at(m, half[j]) : winograd_gt(m, half[j]);
        }
        FC_UNROLL for (int i = 0; i < taps; i++) {
            if (i >= rows) break;
            vec m[6], v[4];
            FC_UNROLL for (int j = 0; j < 6; j++) m[j] = half[j][i];
            taps == 4 ? winograd_at(m, v) : winograd_gt(m, v);
            FC_UNROLL for (int j = 0; j < taps; j++) {
                if (j >= cols) break;
                FC_T *y = (FC_T *)(t->y + i * t->y_row + j * t->y_col) + c;
                vec sum = v[j] + start;
                if (relu) sum = vrelu(sum);
                if (left >= VL)
                    store(y, sum);
                else
                    store_part(y, sum, left);
            }
        }
    }
}

static void FC_NAME(winograd_output)(const fc_winograd *t) {
    winograd_pixels(t, 4, t->rows, t->cols, t->bias, t->relu);
}
static void FC_NAME(winograd_filter_backward)(const fc_winograd *t) { winograd_pixels(t, 3, 3, 3, NULL, 0); }
