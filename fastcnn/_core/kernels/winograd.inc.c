/* Transforms of Winograd's F(m x m, 3x3) for m = 2, 4 and 6, each along a contiguous run of channels: see fc_winograd in
 * kernels.h.
 *
 * Y = A^T [(G g G^T) . (B^T d B)] A; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016.  The
 * matrices interpolate at `points` = m + 2 points: 0, 1, -1, infinity; with m = 4 also 2, -2, and with m = 6 also 1/2,
 * -1/2.  Each function below multiplies one column by one of them. */

#define winograd_bt FC_NAME(winograd_bt)
#define winograd_g FC_NAME(winograd_g)
#define winograd_at FC_NAME(winograd_at)
#define winograd_a FC_NAME(winograd_a)
#define winograd_gt FC_NAME(winograd_gt)
#define winograd_transform FC_NAME(winograd_transform)
#define winograd_points FC_NAME(winograd_points)
#define winograd_pixels FC_NAME(winograd_pixels)

/* The sum and the difference of two halves: what a point and its negative give. */
#define PAIR(t, i, even, odd) (t[i] = (even) + (odd), t[(i) + 1] = (even) - (odd))
#define C(x) ((FC_T)(x))

/* t = B^T d. */
FC_INLINE void winograd_bt(const int points, const vec *d, vec *t) {
    if (points == 4) {
        t[0] = d[0] - d[2];
        PAIR(t, 1, d[2], d[1]);
        t[3] = d[3] - d[1];
    } else if (points == 6) {
        const vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
        t[0] = 4 * d[0] - 5 * d[2] + d[4];
        PAIR(t, 1, a, b);
        PAIR(t, 3, c, e);
        t[5] = 4 * d[1] - 5 * d[3] + d[5];
    } else {
        const vec a = d[2] + d[6] - C(4.25) * d[4], b = d[1] + d[5] - C(4.25) * d[3];
        const vec c = C(0.25) * d[2] - C(1.25) * d[4] + d[6], e = C(0.5) * d[1] - C(2.5) * d[3] + 2 * d[5];
        const vec f = 4 * d[2] - 5 * d[4] + d[6], g = 2 * d[1] - C(2.5) * d[3] + C(0.5) * d[5];
        t[0] = d[0] - d[6] + C(5.25) * (d[4] - d[2]);
        PAIR(t, 1, a, b);
        PAIR(t, 3, c, e);
        PAIR(t, 5, f, g);
        t[7] = d[7] - d[1] + C(5.25) * (d[3] - d[5]);
    }
}

/* t = G g. */
FC_INLINE void winograd_g(const int points, const vec *g, vec *t) {
    const vec ends = g[0] + g[2];
    t[points - 1] = g[2];
    if (points == 4) {
        t[0] = g[0];
        PAIR(t, 1, C(0.5) * ends, C(0.5) * g[1]);
    } else if (points == 6) {
        t[0] = C(0.25) * g[0];
        PAIR(t, 1, C(-1.0 / 6) * ends, C(-1.0 / 6) * g[1]);
        PAIR(t, 3, C(1.0 / 24) * g[0] + C(1.0 / 6) * g[2], C(1.0 / 12) * g[1]);
    } else {
        t[0] = g[0];
        PAIR(t, 1, C(-2.0 / 9) * ends, C(-2.0 / 9) * g[1]);
        PAIR(t, 3, C(1.0 / 90) * g[0] + C(2.0 / 45) * g[2], C(1.0 / 45) * g[1]);
        PAIR(t, 5, C(32.0 / 45) * g[0] + C(8.0 / 45) * g[2], C(16.0 / 45) * g[1]);
    }
}

/* y = A^T m. */
FC_INLINE void winograd_at(const int points, const vec *m, vec *y) {
    const vec a = m[1] + m[2], b = m[1] - m[2];
    if (points == 4) {
        y[0] = m[0] + a;
        y[1] = b + m[3];
    } else if (points == 6) {
        const vec c = m[3] + m[4], e = m[3] - m[4];
        y[0] = m[0] + a + c;
        y[1] = b + 2 * e;
        y[2] = a + 4 * c;
        y[3] = b + 8 * e + m[5];
    } else {
        const vec c = m[3] + m[4], e = m[3] - m[4], f = m[5] + m[6], g = m[5] - m[6];
        y[0] = m[0] + a + c + f;
        y[1] = b + 2 * e + C(0.5) * g;
        y[2] = a + 4 * c + C(0.25) * f;
        y[3] = b + 8 * e + C(0.125) * g;
        y[4] = a + 16 * c + C(0.0625) * f;
        y[5] = b + 32 * e + C(0.03125) * g + m[7];
    }
}

/* t = A y. */
FC_INLINE void winograd_a(const int points, const vec *y, vec *t) {
    t[0] = y[0];
    t[points - 1] = y[points - 3];
    if (points == 4)
        PAIR(t, 1, y[0], y[1]);
    else if (points == 6) {
        PAIR(t, 1, y[0] + y[2], y[1] + y[3]);
        PAIR(t, 3, y[0] + 4 * y[2], 2 * y[1] + 8 * y[3]);
    } else {
        PAIR(t, 1, y[0] + y[2] + y[4], y[1] + y[3] + y[5]);
        PAIR(t, 3, y[0] + 4 * y[2] + 16 * y[4], 2 * y[1] + 8 * y[3] + 32 * y[5]);
        PAIR(t, 5, y[0] + C(0.25) * y[2] + C(0.0625) * y[4], C(0.5) * y[1] + C(0.125) * y[3] + C(0.03125) * y[5]);
    }
}

/* g = G^T m. */
FC_INLINE void winograd_gt(const int points, const vec *m, vec *g) {
    const vec a = m[1] + m[2], b = m[1] - m[2];
    if (points == 4) {
        g[0] = m[0] + C(0.5) * a;
        g[1] = C(0.5) * b;
        g[2] = C(0.5) * a + m[3];
    } else if (points == 6) {
        const vec c = m[3] + m[4], e = m[3] - m[4];
        g[0] = C(0.25) * m[0] - C(1.0 / 6) * a + C(1.0 / 24) * c;
        g[1] = C(1.0 / 12) * e - C(1.0 / 6) * b;
        g[2] = C(1.0 / 6) * (c - a) + m[5];
    } else {
        const vec c = m[3] + m[4], e = m[3] - m[4], f = m[5] + m[6], h = m[5] - m[6];
        g[0] = m[0] - C(2.0 / 9) * a + C(1.0 / 90) * c + C(32.0 / 45) * f;
        g[1] = C(1.0 / 45) * e - C(2.0 / 9) * b + C(16.0 / 45) * h;
        g[2] = C(2.0 / 45) * c - C(2.0 / 9) * a + C(8.0 / 45) * f + m[7];
    }
}

/* T p T^T for taps x taps pixels: input (taps = points, T = B^T), output's gradient (points - 2, T = A) or filter
 * (3, T = G).  edges: only pixels inside are read, the others are zero. */
FC_INLINE void winograd_transform(const fc_winograd *t, const int points, const int taps, const int edges,
                                  void (*const transform)(const int, const vec *, vec *)) {
    const int row = t->row, rows = t->rows, col = t->col, cols = t->cols;
    for (ptrdiff_t c = 0; c < t->channels; c += VL) {
        vec p[8], half[8][8]; /* [column][row] */
        FC_UNROLL for (int j = 0; j < taps; j++) {
            if (edges && (j < col || j >= cols)) {
                FC_UNROLL for (int i = 0; i < points; i++) half[j][i] = (vec){0};
                continue;
            }
            FC_UNROLL for (int i = 0; i < taps; i++) {
                p[i] = (vec){0};
                if (edges && (i < row || i >= rows)) continue;
                p[i] = load_left((const FC_T *)(t->x + i * t->x_row + j * t->x_col) + c, t->channels - c);
            }
            transform(points, p, half[j]);
        }
        FC_UNROLL for (int i = 0; i < points; i++) {
            vec to[8];
            if (i < points - 2 && t->ahead)
                FC_UNROLL for (int j = 0; j < points - 2; j++)
                    __builtin_prefetch((const FC_T *)(t->ahead + i * t->x_row + j * t->x_col) + c, 0, 2);
            FC_UNROLL for (int j = 0; j < taps; j++) p[j] = half[j][i];
            transform(points, p, to);
            FC_UNROLL for (int j = 0; j < points; j++) store((FC_T *)(t->y + (points * i + j) * t->point) + c, to[j]);
        }
    }
}

FC_INLINE void winograd_points(const fc_winograd *t, const int points, const int taps,
                               void (*const transform)(const int, const vec *, vec *)) {
    if (t->row > 0 || t->col > 0 || t->rows < taps || t->cols < taps)
        winograd_transform(t, points, taps, 1, transform);
    else
        winograd_transform(t, points, taps, 0, transform);
}

/* T m T^T, the first rows x cols of taps x taps pixels: output (taps = points - 2, T = A^T) or filter's gradient
 * (3, T = G^T). */
FC_INLINE void winograd_pixels(const fc_winograd *t, const int points, const int taps, ptrdiff_t rows, ptrdiff_t cols,
                               const char *bias, ptrdiff_t residual, int relu,
                               void (*const transform)(const int, const vec *, vec *)) {
    for (ptrdiff_t c = 0; c < t->channels; c += VL) {
        const vec start = bias ? load((const FC_T *)bias + c) : (vec){0};
        vec m[8], half[8][6]; /* [column][row] */
        FC_UNROLL for (int j = 0; j < points; j++) {
            FC_UNROLL for (int i = 0; i < points; i++)
                m[i] = load((const FC_T *)(t->x + (points * i + j) * t->point) + c);
            transform(points, m, half[j]);
            if (j < taps && t->ahead)
                FC_UNROLL for (int i = 0; i < taps; i++)
                    __builtin_prefetch((const FC_T *)(t->ahead + i * t->y_row + j * t->y_col) + c, 1, 3);
        }
        FC_UNROLL for (int i = 0; i < taps; i++) {
            if (i >= rows) break;
            vec v[6];
            FC_UNROLL for (int j = 0; j < points; j++) m[j] = half[j][i];
            transform(points, m, v);
            FC_UNROLL for (int j = 0; j < taps; j++) {
                if (j >= cols) break;
                char *y = t->y + i * t->y_row + j * t->y_col;
                vec sum = v[j] + start;
                if (residual) sum += load_left((const FC_T *)(y + residual) + c, t->channels - c);
                store_left((FC_T *)y + c, clamp(sum, relu), t->channels - c);
            }
        }
    }
}

#define WINOGRAD(POINTS)                                                                                 \
    static void FC_NAME(winograd_input_##POINTS)(const fc_winograd *t) {                                 \
        winograd_points(t, POINTS, POINTS, winograd_bt);                                                 \
    }                                                                                                    \
    static void FC_NAME(winograd_filter_##POINTS)(const fc_winograd *t) {                                \
        winograd_transform(t, POINTS, 3, 0, winograd_g);                                                       \
    }                                                                                                    \
    static void FC_NAME(winograd_output_##POINTS)(const fc_winograd *t) {                                \
        winograd_pixels(t, POINTS, POINTS - 2, t->rows, t->cols, t->bias, t->residual, t->relu,          \
                        winograd_at);                                                                    \
    }                                                                                                    \
    static void FC_NAME(winograd_output_backward_##POINTS)(const fc_winograd *t) {                       \
        winograd_points(t, POINTS, POINTS - 2, winograd_a);                                              \
    }                                                                                                    \
    static void FC_NAME(winograd_filter_backward_##POINTS)(const fc_winograd *t) {                       \
        winograd_pixels(t, POINTS, 3, 3, 3, NULL, 0, 0, winograd_gt);                                    \
    }
WINOGRAD(4)
WINOGRAD(6)
WINOGRAD(8)
#undef PAIR
#undef C
