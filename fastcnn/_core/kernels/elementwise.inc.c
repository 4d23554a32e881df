/* Runs of elements, rows and columns: activations, softmax, normalisation, dropout, optimiser steps.
 * Equations stand beside the entries in kernels.h. */

#define exp_parts FC_NAME(exp_parts)
#define vexp FC_NAME(vexp)
#define vtanh FC_NAME(vtanh)
#define vsigmoid FC_NAME(vsigmoid)
#define vgated FC_NAME(vgated)
#define vgated_slope FC_NAME(vgated_slope)
#define vhard_sigmoid FC_NAME(vhard_sigmoid)
#define vhard_swish FC_NAME(vhard_swish)
#define magnitude FC_NAME(magnitude)
#define normal_tail FC_NAME(normal_tail)
#define vgelu FC_NAME(vgelu)
#define vgelu_slope FC_NAME(vgelu_slope)

/* x = n ln 2 + r with |r| <= ln 2 / 2.  Returns e^r - 1 by its Taylor polynomial, whose first dropped term is
 * below half an ulp, and 2^(n-1).  Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits. */
FC_INLINE vec exp_parts(vec x, vec *half_power) {
    const vec magic = splat(sizeof(FC_T) == 4 ? (FC_T)12582912.0 : (FC_T)6755399441055744.0);
    const int mantissa = sizeof(FC_T) == 4 ? 23 : 52, bias = sizeof(FC_T) == 4 ? 127 : 1023;
    const FC_T ln2_hi = sizeof(FC_T) == 4 ? (FC_T)0.693359375 : (FC_T)0.693147180369123816490;
    const FC_T ln2_lo = sizeof(FC_T) == 4 ? (FC_T)-2.12194440e-4 : (FC_T)1.90821492927058770002e-10;
    static const double inverse_factorial[14] = {
        1.0,           1.0,           1.0 / 2,        1.0 / 6,         1.0 / 24,        1.0 / 120,        1.0 / 720,
        1.0 / 5040,    1.0 / 40320,   1.0 / 362880,   1.0 / 3628800,   1.0 / 39916800,  1.0 / 479001600,  1.0 / 6227020800};
    const int degree = sizeof(FC_T) == 4 ? 7 : 13;

    vec shifted = x * (FC_T)1.44269504088896340736 + magic;
    vec n = shifted - magic;
    vec r = (x - n * ln2_hi) - n * ln2_lo;
    mask n_bits = (mask)shifted - (mask)magic;
    *half_power = (vec)((n_bits + (bias - 1)) << mantissa);
    vec p = splat((FC_T)inverse_factorial[degree]);
    FC_UNROLL for (int i = degree - 1; i > 0; i--) p = p * r + (FC_T)inverse_factorial[i];
    return p * r;
}

/* e^x within 2 ulp; zero below 2^-125 (2^-1021), infinity above the largest number, NaN stays. */
FC_INLINE vec vexp(vec x) {
    const FC_T low = sizeof(FC_T) == 4 ? (FC_T)-86.0 : (FC_T)-707.0;
    const FC_T high = sizeof(FC_T) == 4 ? (FC_T)88.72283 : (FC_T)709.782712893384;
    vec power, clamped = blend(x < low, splat(low), blend(x > high, splat(high), x));
    vec p = exp_parts(clamped, &power);
    vec y = (p * power + power) * (FC_T)2;
    return blend(x < low, (vec){0}, blend(x > high, splat((FC_T)INFINITY), y));
}

/* tanh |x| = -(e^(-2|x|) - 1) / (e^(-2|x|) + 1), from e^z - 1 so that small arguments keep their digits. */
FC_INLINE vec vtanh(vec x) {
    vec z = (vec)((mask)x & ~((mask)x & (mask)splat((FC_T)-0.0))) * (FC_T)-2, power;
    z = blend(z < (FC_T)-50, splat((FC_T)-50), z);
    vec p = exp_parts(z, &power);
    power *= (FC_T)2;
    vec expm1 = p * power + (power - (FC_T)1);
    vec t = -expm1 / (expm1 + (FC_T)2);
    const mask sign = (mask)splat((FC_T)-0.0);
    return (vec)(((mask)t & ~sign) | ((mask)x & sign));
}

FC_INLINE vec vsigmoid(vec x) {
    vec e = vexp((vec)((mask)x | (mask)splat((FC_T)-0.0))); /* e^-|x| */
    vec one = splat((FC_T)1);
    return blend(x < (FC_T)0, e, one) / (one + e);
}

/* x sigmoid(z), and its slope sigmoid(z) + x z' sigmoid(z) sigmoid(-z): zero where the sigmoid is, whatever x. */
FC_INLINE vec vgated(vec x, vec z) {
    const vec gate = vsigmoid(z);
    return blend(gate == (FC_T)0, (vec){0}, x * gate);
}

FC_INLINE vec vgated_slope(vec x_dz, vec z) {
    const vec e = vexp((vec)((mask)z | (mask)splat((FC_T)-0.0))), one = splat((FC_T)1), whole = one + e;
    const vec bend = x_dz * (e / (whole * whole));
    return blend(z < (FC_T)0, e, one) / whole + blend(e == (FC_T)0, (vec){0}, bend);
}

FC_INLINE vec vhard_sigmoid(vec x) {
    const vec up = x + (FC_T)3;
    return vrelu6(up) / (FC_T)6;
}

FC_INLINE vec vhard_swish(vec x) {
    const vec gate = vhard_sigmoid(x);
    return blend(gate == (FC_T)0, (vec){0}, x * gate);
}

/* |x|, or 40 where it is larger: what a normal distribution has beyond is zero in either element type. */
FC_INLINE vec magnitude(vec x) {
    const vec u = (vec)((mask)x & ~(mask)splat((FC_T)-0.0));
    return blend(u > (FC_T)40, splat((FC_T)40), u);
}

/* Q(u) = erfc(v) / 2 with v = u / sqrt 2, the share of a normal distribution above u >= 0, and bell = e^(-u^2 / 2).
 * (1 + 2v) e^(v^2) erfc(v) is a Chebyshev series in t = (v - 3.75) / (v + 3.75): Shepherd and Laframboise, Math. Comp.
 * 36, 1981.  Its coefficients, calculated anew with 50 digits, are cut off where they fall below half an ulp.  The
 * relative error is that of e^(-u^2 / 2), some u^2 / 2 ulp. */
FC_INLINE vec normal_tail(vec u, vec *bell) {
    static const double c[24] = {
        1.1775789345674018,     -4.5900545806464773e-3,  -8.4249133366517916e-2, 5.9209939998191889e-2,
        -2.6658668435305752e-2, 9.0749976707052651e-3,   -2.4131635404176082e-3, 4.9077583652580863e-4,
        -6.9169733025012064e-5, 4.1390279860730102e-6,   7.7403830661984907e-7,  -2.1886401049234396e-7,
        1.076499946567091e-8,   4.5219598112182869e-9,   -7.7544002088313511e-10, -6.3180883408866845e-11,
        2.8687950109306699e-11, 1.9455868545777347e-13,  -9.6546967484334389e-13, 3.2525481481487398e-14,
        3.3478119482868054e-14, -1.8645628804193131e-15, -1.2507950530688647e-15, 7.4182352566240435e-17};
    const vec v = u * (FC_T)0.70710678118654752, t = (v - (FC_T)3.75) / (v + (FC_T)3.75), twice = t + t;
    vec sum = {0}, next = {0};
    FC_UNROLL for (int i = sizeof(FC_T) == 4 ? 11 : 23; i > 0; i--) { /* Clenshaw's recurrence */
        const vec last = next;
        next = sum;
        sum = twice * sum + ((FC_T)c[i] - last);
    }
    sum = t * sum + ((FC_T)c[0] - next);
    *bell = vexp(u * u * (FC_T)-0.5);
    return *bell * sum * (FC_T)0.5 / (v + v + (FC_T)1);
}

/* x times the share of a normal distribution below x: for a positive x that is 1 - Q(x). */
FC_INLINE vec vgelu(vec x) {
    vec u = magnitude(x), bell;
    return vrelu(x) - u * normal_tail(u, &bell);
}

FC_INLINE vec vgelu_slope(vec x) {
    vec u = magnitude(x), bell, tail = normal_tail(u, &bell);
    vec below = tail - u * bell * (FC_T)0.39894228040143268; /* 1 / sqrt(2 pi) */
    return blend(x < (FC_T)0, below, (FC_T)1 - below);
}

/* ---- element by element ---- */

#define MAP(NAME, VALUE)                                                                                  \
    static void FC_NAME(NAME)(ptrdiff_t n, const void *a_, const void *b_, void *out_, double alpha_) {   \
        const FC_T *pa = a_, *pb = b_;                                                                    \
        FC_T *out = out_;                                                                                 \
        const FC_T alpha = (FC_T)alpha_;                                                                  \
        (void)alpha;                                                                                      \
        ptrdiff_t i = 0;                                                                                  \
        for (; i + VL <= n; i += VL) {                                                                    \
            vec a = load(pa + i), b = load(pb + i);                                                       \
            (void)b;                                                                                      \
            store(out + i, VALUE);                                                                        \
        }                                                                                                 \
        if (i < n) {                                                                                      \
            vec a = load_part(pa + i, n - i), b = load_part(pb + i, n - i);                               \
            (void)b;                                                                                      \
            store_part(out + i, VALUE, n - i);                                                            \
        }                                                                                                 \
    }

MAP(relu, vrelu(a))
MAP(relu_backward, (vec)((mask)a & (b > (FC_T)0)))
MAP(clipped_relu, blend(a > alpha, splat(alpha), vrelu(a)))
MAP(clipped_relu_backward, (vec)((mask)a & (b > (FC_T)0) & (b < alpha)))
MAP(leaky_relu, blend(a < (FC_T)0, a * alpha, a))
MAP(leaky_relu_backward, blend(b < (FC_T)0, a * alpha, a))
MAP(sigmoid, vsigmoid(a))
MAP(sigmoid_backward, a * (b * ((FC_T)1 - b)))
MAP(tanh, vtanh(a))
MAP(tanh_backward, a * ((FC_T)1 - b * b))
MAP(hard_sigmoid, vhard_sigmoid(a))
MAP(hard_sigmoid_backward, (vec)((mask)(a / (FC_T)6) & (b > (FC_T)0) & (b < (FC_T)1)))
MAP(hard_swish, vhard_swish(a))
MAP(hard_swish_backward, blend(b <= (FC_T)-3, (vec){0}, blend(b >= (FC_T)3, a, a * (b / (FC_T)3 + (FC_T)0.5))))
MAP(silu, vgated(a, a))
MAP(silu_backward, a * vgated_slope(b, b))
MAP(gelu, vgelu(a))
MAP(gelu_backward, a * vgelu_slope(b))

/* 1 + tanh(z) = 2 sigmoid(2z), z = sqrt(2 / pi) (x + 0.044715 x^3): Hendrycks and Gimpel, 2016. */
#define GELU_SLOPE (FC_T)1.5957691216057308 /* 2 sqrt(2 / pi) */
#define GELU_CUBE (FC_T)0.044715
MAP(gelu_tanh, vgated(a, a * GELU_SLOPE * (a * a * GELU_CUBE + (FC_T)1)))
MAP(gelu_tanh_backward, a * vgated_slope(b * GELU_SLOPE * (b * b * ((FC_T)3 * GELU_CUBE) + (FC_T)1),
                                         b * GELU_SLOPE * (b * b * GELU_CUBE + (FC_T)1)))
#undef GELU_SLOPE
#undef GELU_CUBE
MAP(add, a + b)

static void FC_NAME(relu_backward_sum)(ptrdiff_t n, const void *g_, const void *h_, const void *y_, int relu,
                                       void *out_) {
    const FC_T *g = g_, *h = h_, *py = y_;
    FC_T *out = out_;
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const ptrdiff_t left = n - i;
        const vec sum = load_left(g + i, left) + load_left(h + i, left), y = load_left(py + i, left);
        const vec passed = (vec)((mask)sum & (y > (FC_T)0));
        store_left(out + i, relu == 2 ? (vec)((mask)passed & (y < (FC_T)6)) : passed, left);
    }
}

/* ---- one row ---- */

#define row_max FC_NAME(row_max)
#define row_sum_exp FC_NAME(row_sum_exp)
#define row_dot FC_NAME(row_dot)

FC_INLINE FC_T row_max(ptrdiff_t n, const FC_T *x) {
    vec m = splat(x[0]);
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vec v = load(x + i);
        m = blend((v > m) | (v != v), v, m);
    }
    FC_T lanes[FC_VECTOR_BYTES / sizeof(FC_T)], best = x[0];
    memcpy(lanes, &m, sizeof m);
    for (ptrdiff_t j = 0; j < VL; j++)
        if (lanes[j] > best || lanes[j] != lanes[j]) best = lanes[j];
    for (; i < n; i++)
        if (x[i] > best || x[i] != x[i]) best = x[i];
    return best;
}

/* Returns sum exp(x - shift); writes the terms to y where y is given. */
FC_INLINE FC_T row_sum_exp(ptrdiff_t n, const FC_T *x, FC_T shift, FC_T *y) {
    vec sum = {0};
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vec e = vexp(load(x + i) - shift);
        if (y) store(y + i, e);
        sum += e;
    }
    FC_T total = sum_lanes(sum);
    if (i < n) {
        vec e = vexp(load_part(x + i, n - i) - shift);
        FC_T lanes[FC_VECTOR_BYTES / sizeof(FC_T)];
        memcpy(lanes, &e, sizeof e);
        for (ptrdiff_t j = 0; j < n - i; j++) total += lanes[j];
        if (y) store_part(y + i, e, n - i);
    }
    return total;
}

FC_INLINE FC_T row_dot(ptrdiff_t n, const FC_T *a, const FC_T *b) {
    vec sum = {0};
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) sum += load(a + i) * load(b + i);
    FC_T total = sum_lanes(sum);
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

static void FC_NAME(softmax)(ptrdiff_t n, const void *a, const void *b, void *out) {
    FC_T *y = out;
    (void)b;
    FC_T scale = (FC_T)1 / row_sum_exp(n, a, row_max(n, a), y);
    for (ptrdiff_t i = 0; i < n; i++) y[i] *= scale;
}

static void FC_NAME(log_softmax)(ptrdiff_t n, const void *a, const void *b, void *out) {
    const FC_T *x = a;
    FC_T *y = out;
    (void)b;
    FC_T max = row_max(n, x), log_sum = (FC_T)log((double)row_sum_exp(n, x, max, NULL));
    for (ptrdiff_t i = 0; i < n; i++) y[i] = (x[i] - max) - log_sum;
}

static void FC_NAME(softmax_backward)(ptrdiff_t n, const void *a, const void *b, void *out) {
    const FC_T *g = a, *y = b;
    FC_T *dx = out, dot = row_dot(n, g, y);
    for (ptrdiff_t i = 0; i < n; i++) dx[i] = y[i] * (g[i] - dot);
}

static void FC_NAME(log_softmax_backward)(ptrdiff_t n, const void *a, const void *b, void *out) {
    const FC_T *g = a, *y = b;
    FC_T *dx = out, sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += g[i];
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) store(dx + i, load(g + i) - vexp(load(y + i)) * sum);
    if (i < n) store_part(dx + i, load_part(g + i, n - i) - vexp(load_part(y + i, n - i)) * sum, n - i);
}

static double FC_NAME(softmax_cross_entropy)(ptrdiff_t n, const void *x_, const void *t_, void *dx_) {
    const FC_T *restrict x = x_, *restrict t = t_;
    FC_T *restrict dx = dx_, max = row_max(n, x), sum = row_sum_exp(n, x, max, dx), t_sum = 0;
    double log_sum = log((double)sum), loss = 0;
    for (ptrdiff_t i = 0; i < n; i++) t_sum += t[i];
    FC_T scale = t_sum / sum;
    for (ptrdiff_t i = 0; i < n; i++)
        if (t[i] != 0) loss += (double)t[i] * (log_sum - (double)(x[i] - max));
    for (ptrdiff_t i = 0; i < n; i++) dx[i] = dx[i] * scale - t[i];
    return loss;
}

/* ---- column by column, over dense rows ---- */

/* Fewer columns than lanes are taken VL rows at a time, as `columns` vectors of the dense memory: lane l of vector j
 * belongs to column (j VL + l) mod columns. */
#define COLUMN_SUM_BLOCK(COUNT)                                                                   \
    for (; c + COUNT * VL <= columns; c += COUNT * VL) {                                          \
        vec sums[COUNT] = {0};                                                                    \
        for (ptrdiff_t i = 0; i < left; i++)                                                      \
            FC_UNROLL for (int j = 0; j < COUNT; j++) sums[j] += load(x + i * columns + c + j * VL); \
        FC_UNROLL for (int j = 0; j < COUNT; j++)                                                 \
            store(out + c + j * VL, load(out + c + j * VL) + sums[j]);                            \
    }

static void FC_NAME(column_sum)(ptrdiff_t rows, ptrdiff_t columns, const void *x_, void *out_) {
    const FC_T *x = x_;
    FC_T *out = out_;
    ptrdiff_t r = 0, c = 0;
    if (columns < VL && rows >= VL) {
        vec sums[FC_VECTOR_BYTES / sizeof(FC_T)] = {0};
        for (; r + VL <= rows; r += VL, x += VL * columns)
            for (ptrdiff_t j = 0; j < columns; j++) sums[j] += load(x + j * VL);
        for (ptrdiff_t i = 0; i < columns * VL; i++) out[i % columns] += ((FC_T *)sums)[i];
    }
    const ptrdiff_t left = rows - r;
    COLUMN_SUM_BLOCK(4)
    COLUMN_SUM_BLOCK(1)
    for (; c < columns; c++) {
        FC_T sum = 0;
        for (ptrdiff_t i = 0; i < left; i++) sum += x[i * columns + c];
        out[c] += sum;
    }
}
#undef COLUMN_SUM_BLOCK

static void FC_NAME(bias_add)(ptrdiff_t rows, ptrdiff_t columns, const void *x_, const void *bias_, int relu,
                              void *y_) {
    const FC_T *x = x_, *bias = bias_;
    FC_T *y = y_;
    for (ptrdiff_t r = 0; r < rows; r++, x += columns, y += columns) {
        ptrdiff_t c = 0;
        for (; c + VL <= columns; c += VL) {
            vec v = load(x + c) + load(bias + c);
            store(y + c, relu ? vrelu(v) : v);
        }
        for (; c < columns; c++) {
            FC_T v = x[c] + bias[c];
            y[c] = relu && v < 0 ? 0 : v;
        }
    }
}

/* ---- normalisation: along the rows, one after the other, so that memory is gone through in one sweep ----
 *
 * Statistics are read again for each row, from L1; with columns down the rows, where they would stay in registers,
 * 50,176 rows of 144 columns took 1.8 times as long.  Where nothing is written four rows go side by side.  The caches
 * are asked for what comes NORM_AHEAD bytes later. */

#define NORM_ROWS 4
#define NORM_AHEAD 4096
#define norm_gradient FC_NAME(norm_gradient)
#define norm_ahead FC_NAME(norm_ahead)
#define norm_store FC_NAME(norm_store)
#define norm_add FC_NAME(norm_add)
#define norm_moments FC_NAME(norm_moments)
#define norm_forward FC_NAME(norm_forward)
#define norm_sums FC_NAME(norm_sums)
#define norm_backward FC_NAME(norm_backward)

#define AT(p, i) ((FC_T *)t->p + (i))
#define LOAD(p, i) load_left(AT(p, i), left)

FC_INLINE void norm_ahead(const FC_T *p) { __builtin_prefetch((const char *)p + NORM_AHEAD, 0, 2); }

FC_INLINE void norm_store(FC_T *p, vec v, ptrdiff_t left, const int past) {
    if (past) store_past(p, v);
    else store_left(p, v, left);
}

FC_INLINE vec norm_gradient(vec g, vec centred, vec scale, vec offset, const int relu) {
    const vec y = centred * scale + offset;
    if (relu) g = (vec)((mask)g & (y > (FC_T)0));
    return relu == 2 ? (vec)((mask)g & (y < (FC_T)6)) : g;
}

/* Each of these takes one vector of columns, from c on, of `rows` rows, the first of which begins at element i. */
FC_INLINE void norm_forward(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                            const int past) {
    (void)rows;
    if (past) norm_ahead(AT(x, i + c));
    vec y = (LOAD(x, i + c) - LOAD(mean, c)) * LOAD(scale, c) + LOAD(offset, c);
    if (t->residual) y += LOAD(residual, i + c);
    norm_store(AT(y, i + c), clamp(y, relu), left, past);
}

FC_INLINE void norm_add(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                        const int moments) {
    const vec mean = LOAD(mean, c);
    const vec scale = moments ? (vec){0} : LOAD(scale, c), offset = moments ? (vec){0} : LOAD(offset, c);
    vec total = LOAD(total, c), dot = LOAD(dot, c);
    FC_UNROLL for (int j = 0; j < rows; j++, i += t->columns) {
        const vec centred = LOAD(x, i + c) - mean;
        vec g = centred;
        norm_ahead(AT(x, i + c));
        if (!moments) {
            g = norm_gradient(LOAD(g, i + c), centred, scale, offset, relu);
            norm_ahead(AT(g, i + c));
        }
        total += g;
        dot += g * centred;
    }
    store_left(AT(total, c), total, left);
    store_left(AT(dot, c), dot, left);
}

FC_INLINE void norm_moments(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                            const int past) {
    (void)past;
    norm_add(t, i, c, left, rows, relu, 1);
}

FC_INLINE void norm_sums(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                         const int past) {
    (void)past;
    norm_add(t, i, c, left, rows, relu, 0);
}

FC_INLINE void norm_backward(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                             const int past) {
    (void)rows;
    if (past) {
        norm_ahead(AT(x, i + c));
        norm_ahead(AT(g, i + c));
    }
    const vec centred = LOAD(x, i + c) - LOAD(mean, c), scale = LOAD(scale, c);
    const vec g = norm_gradient(LOAD(g, i + c), centred, scale, LOAD(offset, c), relu);
    norm_store(AT(y, i + c), (g - LOAD(g_mean, c) - centred * LOAD(slope, c)) * scale, left, past);
}

#define NORM(NAME, PART, ROWS)                                                                             \
    FC_INLINE void FC_NAME(NAME##_row)(const fc_norm *t, ptrdiff_t i, const int rows, const int relu,      \
                                       const int past) {                                                   \
        ptrdiff_t c = 0;                                                                                   \
        for (; c + VL <= t->columns; c += VL) PART(t, i, c, VL, rows, relu, past);                         \
        if (c < t->columns) PART(t, i, c, t->columns - c, rows, relu, 0);                                  \
    }                                                                                                      \
    FC_INLINE void FC_NAME(NAME##_rows)(const fc_norm *given, const int relu, const int past) {            \
        /* a copy, as the original could be what is stored to, as far as the compiler knows */             \
        const fc_norm copy = *given, *t = &copy;                                                           \
        ptrdiff_t r = 0;                                                                                   \
        for (; r + ROWS <= t->rows; r += ROWS) FC_NAME(NAME##_row)(t, r * t->columns, ROWS, relu, past);   \
        for (; r < t->rows; r++) FC_NAME(NAME##_row)(t, r * t->columns, 1, relu, past);                    \
        if (past) stores_past_done();                                                                      \
    }                                                                                                      \
    static void FC_NAME(NAME)(const fc_norm *t) {                                                          \
        switch (t->relu + (ROWS == 1 && t->past ? 3 : 0)) {                                                \
        case 0: FC_NAME(NAME##_rows)(t, 0, 0); break;                                                      \
        case 1: FC_NAME(NAME##_rows)(t, 1, 0); break;                                                      \
        case 2: FC_NAME(NAME##_rows)(t, 2, 0); break;                                                      \
        case 3: FC_NAME(NAME##_rows)(t, 0, 1); break;                                                      \
        case 4: FC_NAME(NAME##_rows)(t, 1, 1); break;                                                      \
        case 5: FC_NAME(NAME##_rows)(t, 2, 1); break;                                                      \
        }                                                                                                  \
    }

NORM(normalize_moments, norm_moments, NORM_ROWS)
NORM(normalize, norm_forward, 1)
NORM(normalize_sums, norm_sums, NORM_ROWS)
NORM(normalize_backward, norm_backward, 1)
#undef AT
#undef LOAD

/* ---- normalisation of rows ---- */

#define row_moments FC_NAME(row_moments)
#define CENTRED(x) (((x) - mean[0]) - mean[1])

/* Returns 1 / sqrt(variance + epsilon) of a row.  The mean is in two parts: what rounding leaves of a large one is found
 * from the sum of differences from it, which are small. */
FC_INLINE FC_T row_moments(ptrdiff_t n, const FC_T *x, double epsilon, FC_T *mean) {
    vec sums = {0}, rests = {0}, squares = {0};
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) sums += load(x + i);
    FC_T sum = sum_lanes(sums);
    for (; i < n; i++) sum += x[i];
    mean[0] = sum / (FC_T)n;
    for (i = 0; i + VL <= n; i += VL) {
        const vec near = load(x + i) - mean[0];
        rests += near;
        squares += near * near;
    }
    FC_T rest = sum_lanes(rests), square = sum_lanes(squares);
    for (; i < n; i++) {
        const FC_T near = x[i] - mean[0];
        rest += near;
        square += near * near;
    }
    mean[1] = rest / (FC_T)n;
    const double variance = (double)square / (double)n - (double)mean[1] * (double)mean[1];
    return (FC_T)(1 / sqrt((variance < 0 ? 0 : variance) + epsilon));
}

static void FC_NAME(layer_normalize)(ptrdiff_t rows, ptrdiff_t columns, const void *x_, const void *scale_,
                                     const void *offset_, double epsilon, void *y_) {
    const FC_T *restrict x = x_, *restrict scale = scale_, *restrict offset = offset_;
    FC_T *restrict y = y_;
    for (ptrdiff_t r = 0; r < rows; r++, x += columns, y += columns) {
        FC_T mean[2];
        const FC_T inverse = row_moments(columns, x, epsilon, mean);
        for (ptrdiff_t i = 0; i < columns; i++) y[i] = CENTRED(x[i]) * inverse * scale[i] + offset[i];
    }
}

static void FC_NAME(layer_normalize_backward)(ptrdiff_t rows, ptrdiff_t columns, const void *g_, const void *x_,
                                              const void *scale_, double epsilon, void *dx_, void *dscale_) {
    const FC_T *restrict g = g_, *restrict x = x_, *restrict scale = scale_;
    FC_T *restrict dx = dx_, *restrict dscale = dscale_;
    for (ptrdiff_t r = 0; r < rows; r++, g += columns, x += columns, dx += columns) {
        FC_T mean[2];
        const FC_T inverse = row_moments(columns, x, epsilon, mean);
        vec totals = {0}, dots = {0};
        ptrdiff_t i = 0;
        for (; i + VL <= columns; i += VL) {
            const vec scaled = load(g + i) * load(scale + i);
            totals += scaled;
            dots += scaled * CENTRED(load(x + i));
        }
        FC_T total = sum_lanes(totals), dot = sum_lanes(dots);
        for (; i < columns; i++) {
            total += g[i] * scale[i];
            dot += g[i] * scale[i] * CENTRED(x[i]);
        }
        const FC_T g_mean = total / (FC_T)columns, slope = dot / (FC_T)columns * inverse * inverse;
        for (i = 0; i < columns; i++) {
            const FC_T centred = CENTRED(x[i]);
            dx[i] = (g[i] * scale[i] - g_mean - centred * slope) * inverse;
            dscale[i] += g[i] * (centred * inverse);
        }
    }
}
#undef CENTRED

/* ---- dropout ---- */

/* FC_LANES blocks of Philox4x32-10 side by side: the loops over i are what the compiler vectorises. */
#define FC_LANES 16
static void FC_NAME(dropout)(ptrdiff_t n, const void *x_, uint64_t seed, uint64_t first, uint32_t threshold,
                             double scale_, void *y_) {
    const FC_T *x = x_, scale = (FC_T)scale_;
    FC_T *y = y_;
    for (ptrdiff_t done = 0; done < n; done += 4 * FC_LANES) { /* first is a multiple of 4 */
        uint32_t c0[FC_LANES], c1[FC_LANES], c2[FC_LANES] = {0}, c3[FC_LANES] = {0};
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int i = 0; i < FC_LANES; i++) {
            uint64_t counter = (first + (uint64_t)done) / 4 + (uint64_t)i;
            c0[i] = (uint32_t)counter, c1[i] = (uint32_t)(counter >> 32);
        }
        for (int round = 0; round < 10; round++) {
            for (int i = 0; i < FC_LANES; i++) {
                uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
                uint32_t t0 = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0, t2 = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
                c0[i] = t0, c1[i] = (uint32_t)p1, c2[i] = t2, c3[i] = (uint32_t)p0;
            }
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        const uint32_t *words[4] = {c0, c1, c2, c3};
        ptrdiff_t count = n - done < 4 * FC_LANES ? n - done : 4 * FC_LANES;
        for (ptrdiff_t i = 0; i < count; i++)
            y[done + i] = words[i % 4][i / 4] >= threshold ? x[done + i] * scale : 0;
    }
}
#undef FC_LANES

/* ---- optimiser steps: plain loops, which the compiler vectorises for the ISA at hand ---- */

/* What is smaller than any normal number, as the moments of what has no gradient any more become: arithmetic with it
 * takes a hundred times as long, and by rounding it never ends. */
#define NORMAL_OR_ZERO(x) ((x) < LEAST_NORMAL && (x) > -LEAST_NORMAL ? (FC_T)0 : (x))
#define LEAST_NORMAL (sizeof(FC_T) == 4 ? (FC_T)FLT_MIN : (FC_T)DBL_MIN)

static void FC_NAME(sgd)(ptrdiff_t n, void *p_, const void *g_, void *v_, double rate_, double momentum_,
                         int nesterov, double decay) {
    FC_T *restrict p = p_, *restrict v = v_;
    const FC_T *restrict g = g_;
    const FC_T rate = (FC_T)rate_, momentum = (FC_T)momentum_, keep = (FC_T)(1 - rate_ * decay);
    if (!v)
        for (ptrdiff_t i = 0; i < n; i++) p[i] = p[i] * keep - rate * g[i];
    else if (nesterov)
        for (ptrdiff_t i = 0; i < n; i++) {
            FC_T step = rate * g[i];
            FC_T moved = momentum * v[i] - step;
            v[i] = NORMAL_OR_ZERO(moved);
            p[i] = p[i] * keep + (momentum * v[i] - step);
        }
    else
        for (ptrdiff_t i = 0; i < n; i++) {
            FC_T moved = momentum * v[i] - rate * g[i];
            v[i] = NORMAL_OR_ZERO(moved);
            p[i] = p[i] * keep + v[i];
        }
}

static void FC_NAME(adam)(ptrdiff_t n, void *p_, const void *g_, void *m_, void *v_, double alpha_,
                          double beta_1, double beta_2, double epsilon_, double rate_decay) {
    FC_T *restrict p = p_, *restrict m = m_, *restrict v = v_;
    const FC_T *restrict g = g_;
    const FC_T alpha = (FC_T)alpha_, epsilon = (FC_T)epsilon_, keep = (FC_T)(1 - rate_decay);
    const FC_T new_1 = (FC_T)(1 - beta_1), new_2 = (FC_T)(1 - beta_2);
    for (ptrdiff_t i = 0; i < n; i++) {
        FC_T mean = m[i] + (g[i] - m[i]) * new_1, square = v[i] + (g[i] * g[i] - v[i]) * new_2;
        m[i] = NORMAL_OR_ZERO(mean);
        v[i] = NORMAL_OR_ZERO(square);
        p[i] = p[i] * keep - alpha * m[i] / ((sizeof(FC_T) == 4 ? (FC_T)sqrtf((float)v[i]) : (FC_T)sqrt((double)v[i])) + epsilon);
    }
}

#undef NORMAL_OR_ZERO
#undef LEAST_NORMAL

/* ---- the limit ---- */

static double FC_NAME(fma_rounds)(ptrdiff_t rounds, double *sink) {
    enum { CHAINS = FC_REGISTERS >= 32 ? 24 : 12 }; /* enough for two units of latency five */
    vec acc[CHAINS], a = splat((FC_T)0.5), b = splat((FC_T)0.25);
    FC_UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = splat((FC_T)i);
    for (ptrdiff_t r = 0; r < rounds; r++) {
        __asm__ volatile("" ::: ); /* keeps the loop from being solved in closed form */
        FC_UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * a + b;
    }
    for (int i = 0; i < CHAINS; i++) *sink += (double)sum_lanes(acc[i]);
    return (double)rounds * CHAINS * (double)VL * 2;
}
