/* Runs of elements, rows and columns: activations, softmax, normalisation, dropout, optimiser steps.
 * Equations stand beside the entries in kernels.h. */

#define polynomial FC_NAME(polynomial)
#define exp_parts FC_NAME(exp_parts)
#define vexp FC_NAME(vexp)
#define vtanh FC_NAME(vtanh)
#define bounded FC_NAME(bounded)
#define vsigmoid FC_NAME(vsigmoid)
#define vgated FC_NAME(vgated)
#define vgated_slope FC_NAME(vgated_slope)
#define vhard_sigmoid FC_NAME(vhard_sigmoid)
#define vhard_swish FC_NAME(vhard_swish)
#define magnitude FC_NAME(magnitude)
#define normal_tail FC_NAME(normal_tail)
#define vgelu FC_NAME(vgelu)
#define vgelu_slope FC_NAME(vgelu_slope)

#define EITHER(f, d) (sizeof(FC_T) == 4 ? (f) : (d))
#define POLYNOMIAL(x, f, d) polynomial(x, EITHER(f, d), (int)(EITHER(sizeof f, sizeof d) / sizeof(double)))
#define LOWEST (FC_T)EITHER(-86.0, -707.0) /* e^x is zero below */
#define BEYOND (FC_T)EITHER(86.6, 707.7)   /* exp_parts has zero for e^-BEYOND */

FC_INLINE vec polynomial(vec x, const double *c, const int n) {
    vec sum = splat((FC_T)c[n - 1]);
    FC_UNROLL for (int i = n - 2; i >= 0; i--) sum = sum * x + (FC_T)c[i];
    return sum;
}

/* x = n ln 2 + r with |r| <= ln 2 / 2, for -BEYOND <= x < 90 (711).  Returns 4 (e^r - 1), and 2^(n-2): zero at -BEYOND.
 * Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits; the exponent's bias comes along.
 * 4 (e^r - 1 - r) / r^2 is interpolated at Chebyshev's nodes, with 50 digits: e^r is wrong by less than 0.1 ulp. */
FC_INLINE vec exp_parts(vec x, vec *quarter_power) {
    const vec magic = splat((FC_T)EITHER(12582912.0 + 125, 6755399441055744.0 + 1021));
    const FC_T ln2_hi = (FC_T)EITHER(0.693359375, 0.693147180369123816490);
    const FC_T ln2_lo = (FC_T)EITHER(-2.12194440e-4, 1.90821492927058770002e-10);
    static const double f[] = {4, 2.000000005, 0.6666630787, 0.1666658596, 0.03345272618, 0.005573460995};
    static const double d[] = {
        4, 2.00000000000000041, 0.66666666666666684, 0.166666666666496494, 0.0333333333333045383,
        0.00555555556688623475, 7.93650794992892324e-4, 9.92060851738554423e-5, 1.10229021593354844e-5,
        1.10480357927818355e-6, 1.00420870782738071e-7};

    const vec shifted = x * (FC_T)1.44269504088896340736 + magic, n = shifted - magic;
    const vec r = (x - n * ln2_hi) - n * ln2_lo;
    *quarter_power = (vec)((mask)shifted << EITHER(23, 52));
    return POLYNOMIAL(r, f, d) * r;
}

/* e^x within 1.25 ulp; zero below LOWEST, infinity above the largest number, NaN stays. */
FC_INLINE vec vexp(vec x) {
    const vec clamped = smaller(splat((FC_T)EITHER(89.5, 710.5)), blend(x < LOWEST, splat(-BEYOND), x));
    vec power, p = exp_parts(clamped, &power);
    return (p + (FC_T)4) * power;
}

/* tanh |x| = -(e^(-2|x|) - 1) / (e^(-2|x|) + 1), from e^z - 1 so that small arguments keep their digits. */
FC_INLINE vec vtanh(vec x) {
    const mask sign = (mask)splat((FC_T)-0.0);
    vec power, p = exp_parts(larger(splat((FC_T)-50), (vec)((mask)x | sign) * (FC_T)2), &power);
    const vec expm1 = p * power + (power * (FC_T)4 - (FC_T)1), t = expm1 / (expm1 + (FC_T)2);
    return (vec)(((mask)t & ~sign) | ((mask)x & sign));
}

FC_INLINE vec bounded(vec x) { return smaller(splat(BEYOND), larger(splat(-BEYOND), x)); }

/* 1 / (1 + e^-x), where x is LOWEST at least; and e^-x. */
FC_INLINE vec vsigmoid(vec x, vec *inverse_exp) {
    vec power, p = exp_parts(-bounded(x), &power);
    *inverse_exp = (p + (FC_T)4) * power;
    return (FC_T)1 / (*inverse_exp + (FC_T)1);
}

/* x sigmoid(z), and its slope sigmoid(z) + x z' sigmoid(z) sigmoid(-z) of a finite x z'; zero where the sigmoid is. */
FC_INLINE vec vgated(vec x, vec z) {
    vec e;
    return (vec)((mask)(x * vsigmoid(z, &e)) & ~(z < LOWEST));
}

FC_INLINE vec vgated_slope(vec x_dz, vec z) {
    vec e, gate = vsigmoid(z, &e);
    return (vec)((mask)(gate + x_dz * gate * (gate * e)) & ~(z < LOWEST));
}

FC_INLINE vec vhard_sigmoid(vec x) { return vrelu6(x + (FC_T)3) * (FC_T)(1 / 6.0); }

FC_INLINE vec vhard_swish(vec x) { return (vec)((mask)(x * vhard_sigmoid(x)) & ~(x <= (FC_T)-3)); }

/* |x|, but no more than a u at which normal_tail's bell is zero. */
FC_INLINE vec magnitude(vec x) {
    return smaller(splat((FC_T)EITHER(13.16, 37.62)), (vec)((mask)x & ~(mask)splat((FC_T)-0.0)));
}

/* bell * above / below = Q(u), the share of a normal distribution above u >= 0, with bell = e^(-u^2 / 2): Cody, Math.
 * Comp. 23, 1969.  above / below is the rational function that equals Q(u) / bell at Chebyshev's nodes of
 * (u - k) / (u + k), k = 3 (4), over all magnitudes, calculated with 50 digits: wrong by less than 0.06 ulp.  All its
 * coefficients are positive, so nothing cancels.  The relative error of bell, and so of Q, is some u^2 / 4
 * epsilon. */
FC_INLINE vec normal_tail(vec u, vec *bell, vec *below) {
    static const double above_f[] = {0.5000000016, 0.4345041147, 0.1803905044, 0.03966366234, 0.003969372516};
    static const double below_f[] = {1, 1.666893051, 1.190765976, 0.46195176, 0.0994296682, 0.009949593216};
    static const double above_d[] = {
        0.5, 0.82538180767011775, 0.675588046558722431, 0.354204821407218319, 0.130487901516990786,
        0.0351310632320615468, 0.00699024896745959927, 0.00101618966406966806, 1.03670986465740362e-4,
        6.74803051162759742e-6, 2.15333807947843146e-7};
    static const double below_d[] = {
        1, 2.44864817614310093, 2.80491466770011714, 1.98804518273798126, 0.970995218196203053, 0.344092279587577617,
        0.0905738968751456689, 0.017780740800759687, 0.00256412454865393548, 2.60404387741787637e-4,
        1.69148040785528589e-5, 5.39761811485875392e-7};
    vec power, p = exp_parts(u * u * (FC_T)-0.5, &power);
    *bell = (p + (FC_T)4) * power;
    *below = POLYNOMIAL(u, below_f, below_d);
    return POLYNOMIAL(u, above_f, above_d);
}

/* x times the share of a normal distribution below x: for a positive x that is 1 - Q(x). */
FC_INLINE vec vgelu(vec x) {
    vec u = magnitude(x), bell, below, above = normal_tail(u, &bell, &below);
    return vrelu(x) - u * bell * above / below;
}

FC_INLINE vec vgelu_slope(vec x) {
    vec u = magnitude(x), bell, below, above = normal_tail(u, &bell, &below);
    const vec slope = bell * (above / below - u * (FC_T)0.39894228040143268); /* of a negative x; 1 / sqrt(2 pi) */
    return blend(x < (FC_T)0, slope, (FC_T)1 - slope);
}
#undef EITHER
#undef POLYNOMIAL
#undef LOWEST
#undef BEYOND

/* ---- element by element ---- */

#ifdef __clang__
#define FC_PAIRS _Pragma("clang loop unroll_count(2)")
#else
#define FC_PAIRS _Pragma("GCC unroll 2")
#endif
#define MAP(NAME, VALUE)                                                                                  \
    static void FC_NAME(NAME)(ptrdiff_t n, const void *a_, const void *b_, void *out_, double alpha_) {   \
        const FC_T *pa = a_, *pb = b_;                                                                    \
        FC_T *out = out_;                                                                                 \
        const FC_T alpha = (FC_T)alpha_;                                                                  \
        (void)alpha;                                                                                      \
        ptrdiff_t i = 0;                                                                                  \
        FC_PAIRS for (; i + VL <= n; i += VL) {                                                           \
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
MAP(clipped_relu, blend(a > alpha, splat(alpha), vrelu(a)))
MAP(clipped_relu_backward, (vec)((mask)a & (b > (FC_T)0) & (b < alpha)))
MAP(leaky_relu, blend(a < (FC_T)0, a * alpha, a))
MAP(leaky_relu_backward, blend(b < (FC_T)0, a * alpha, a))
MAP(sigmoid, vgated(splat((FC_T)1), a))
MAP(sigmoid_backward, a * (b * ((FC_T)1 - b)))
MAP(tanh, vtanh(a))
MAP(tanh_backward, a * ((FC_T)1 - b * b))
MAP(hard_sigmoid, vhard_sigmoid(a))
MAP(hard_sigmoid_backward, (vec)((mask)(a * (FC_T)(1 / 6.0)) & (b > (FC_T)0) & (b < (FC_T)1)))
MAP(hard_swish, vhard_swish(a))
MAP(hard_swish_backward,
    blend(b <= (FC_T)-3, (vec){0}, blend(b >= (FC_T)3, a, a * ((b + (FC_T)1.5) * (FC_T)(1 / 3.0)))))
MAP(silu, vgated(a, a))
MAP(silu_backward, a * vgated_slope(bounded(b), b))
MAP(gelu, vgelu(a))
MAP(gelu_backward, a * vgelu_slope(b))

/* 1 + tanh(z) = 2 sigmoid(2z), z = sqrt(2 / pi) (x + 0.044715 x^3): Hendrycks and Gimpel, 2016. */
#define GELU_2Z(x, CUBE) ((x) * (FC_T)1.5957691216057308 * ((x) * (x) * (FC_T)(CUBE) + (FC_T)1))
MAP(gelu_tanh, vgated(a, GELU_2Z(a, 0.044715)))
MAP(gelu_tanh_backward, a * vgated_slope(GELU_2Z(bounded(b), 3 * 0.044715), GELU_2Z(bounded(b), 0.044715)))
#undef GELU_2Z
MAP(add, a + b)

/* Of an array from memory the caches are asked for what comes so many bytes later: the hardware foresees a page at
 * most. */
#define PAGE_AHEAD 4096
#define page_ahead FC_NAME(page_ahead)
#define cut_off FC_NAME(cut_off)

FC_INLINE void page_ahead(const FC_T *p) { __builtin_prefetch((const char *)p + PAGE_AHEAD, 0, 2); }

FC_INLINE void cut_off(ptrdiff_t n, const FC_T *g, const FC_T *h, const FC_T *y, int relu, FC_T *out, const int sums,
                       const int past) {
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const ptrdiff_t left = n - i;
        const vec result = load_left(y + i, left);
        vec grad = load_left(g + i, left);
        if (sums) grad += load_left(h + i, left);
        if (past) {
            page_ahead(y + i);
            page_ahead(g + i);
            if (sums) page_ahead(h + i);
        }
        grad = (vec)((mask)grad & (result > (FC_T)0));
        if (relu == 2) grad = (vec)((mask)grad & (result < (FC_T)6));
        if (past && left >= VL) store_past(out + i, grad);
        else store_left(out + i, grad, left);
    }
    if (past) stores_past_done();
}

static void FC_NAME(relu_backward)(ptrdiff_t n, const void *g, const void *h, const void *y, int relu, int past,
                                   void *out) {
    if (past && h) cut_off(n, g, h, y, relu, out, 1, 1);
    else if (past) cut_off(n, g, h, y, relu, out, 0, 1);
    else if (h) cut_off(n, g, h, y, relu, out, 1, 0);
    else cut_off(n, g, h, y, relu, out, 0, 0);
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

/* Vectors of a chain of sums along a row: with more of them small terms would get lost, of a million classes in SSE2's
 * vectors a part in 20,000. */
#define ROW_CHAIN 64

/* Returns sum exp(x - shift); writes the terms to y where y is given. */
FC_INLINE FC_T row_sum_exp(ptrdiff_t n, const FC_T *x, FC_T shift, FC_T *y) {
    double total = 0;
    ptrdiff_t i = 0;
    while (i + VL <= n) {
        const ptrdiff_t end = n - i > ROW_CHAIN * VL ? i + ROW_CHAIN * VL : n;
        vec sum = {0};
        for (; i + VL <= end; i += VL) {
            vec e = vexp(load(x + i) - shift);
            if (y) store(y + i, e);
            sum += e;
        }
        total += (double)sum_lanes(sum);
    }
    if (i < n) {
        vec e = vexp(load_part(x + i, n - i) - shift);
        FC_T lanes[FC_VECTOR_BYTES / sizeof(FC_T)];
        memcpy(lanes, &e, sizeof e);
        for (ptrdiff_t j = 0; j < n - i; j++) total += (double)lanes[j];
        if (y) store_part(y + i, e, n - i);
    }
    return (FC_T)total;
}

FC_INLINE FC_T row_dot(ptrdiff_t n, const FC_T *a, const FC_T *b) {
    double total = 0;
    ptrdiff_t i = 0;
    while (i + VL <= n) {
        const ptrdiff_t end = n - i > ROW_CHAIN * VL ? i + ROW_CHAIN * VL : n;
        vec sum = {0};
        for (; i + VL <= end; i += VL) sum += load(a + i) * load(b + i);
        total += (double)sum_lanes(sum);
    }
    for (; i < n; i++) total += (double)(a[i] * b[i]);
    return (FC_T)total;
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
    FC_T *dx = out;
    double sum_ = 0; /* one chain: in float it would lose what many classes have */
    for (ptrdiff_t i = 0; i < n; i++) sum_ += (double)g[i];
    const FC_T sum = (FC_T)sum_;
    for (ptrdiff_t i = 0; i < n; i += VL)
        store_left(dx + i, load_left(g + i, n - i) - vexp(load_left(y + i, n - i)) * sum, n - i);
}

static double FC_NAME(softmax_cross_entropy)(ptrdiff_t n, const void *x_, const void *t_, void *dx_) {
    const FC_T *restrict x = x_, *restrict t = t_;
    FC_T *restrict dx = dx_, max = row_max(n, x), sum = row_sum_exp(n, x, max, dx);
    double log_sum = log((double)sum), loss = 0, t_sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) t_sum += (double)t[i];
    FC_T scale = (FC_T)(t_sum / (double)sum);
    for (ptrdiff_t i = 0; i < n; i++)
        if (t[i] != 0) loss += (double)t[i] * (log_sum - (double)(x[i] - max));
    for (ptrdiff_t i = 0; i < n; i++) dx[i] = dx[i] * scale - t[i];
    return loss;
}

/* ---- column by column, over dense rows ---- */

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
        /* VL rows at a time, as `columns` vectors of the dense memory: lane l of vector j belongs to column
         * (j VL + l) mod columns. */
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
    for (ptrdiff_t r = 0; r < rows; r++, x += columns, y += columns)
        for (ptrdiff_t c = 0; c < columns; c += VL)
            store_left(y + c, clamp(load_left(x + c, columns - c) + load_left(bias + c, columns - c), relu), columns - c);
}

/* ---- normalisation: along the rows, so that memory is gone through in one sweep ----
 *
 * Statistics are read again for each row, from L1; with columns down the rows, where they would stay in registers,
 * 50,176 rows of 144 columns took 1.8 times as long.  Where sums are taken four rows go side by side. */

#define NORM_ROWS 4
#define norm_gradient FC_NAME(norm_gradient)
#define norm_store FC_NAME(norm_store)
#define norm_add FC_NAME(norm_add)
#define norm_moments FC_NAME(norm_moments)
#define norm_forward FC_NAME(norm_forward)
#define norm_sums FC_NAME(norm_sums)
#define norm_backward FC_NAME(norm_backward)

#define AT(p, i) ((FC_T *)t->p + (i))
#define LOAD(p, i) load_left(AT(p, i), left)

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
    page_ahead(AT(x, i + c));
    vec y = (LOAD(x, i + c) - LOAD(mean, c)) * LOAD(scale, c) + LOAD(offset, c);
    if (t->residual) y += LOAD(residual, i + c);
    norm_store(AT(y, i + c), clamp(y, relu), left, past);
}

FC_INLINE void norm_add(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                        const int past, const int moments) {
    const vec mean = LOAD(mean, c);
    const vec scale = moments ? (vec){0} : LOAD(scale, c), offset = moments ? (vec){0} : LOAD(offset, c);
    vec total = LOAD(total, c), dot = LOAD(dot, c);
    FC_UNROLL for (int j = 0; j < rows; j++, i += t->columns) {
        const vec x = LOAD(x, i + c), centred = x - mean;
        vec g = centred;
        page_ahead(AT(x, i + c));
        if (moments) {
            if (past) store_past(AT(y, i + c), x);
        } else {
            g = LOAD(g, i + c);
            if (past) store_past(AT(y, i + c), g);
            g = norm_gradient(g, centred, scale, offset, relu);
            page_ahead(AT(g, i + c));
        }
        total += g;
        dot += g * centred;
    }
    store_left(AT(total, c), total, left);
    store_left(AT(dot, c), dot, left);
}

FC_INLINE void norm_moments(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                            const int past) {
    norm_add(t, i, c, left, rows, relu, past, 1);
}

FC_INLINE void norm_sums(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                         const int past) {
    norm_add(t, i, c, left, rows, relu, past, 0);
}

FC_INLINE void norm_backward(const fc_norm *t, ptrdiff_t i, ptrdiff_t c, ptrdiff_t left, const int rows, const int relu,
                             const int past) {
    (void)rows;
    page_ahead(AT(x, i + c));
    page_ahead(AT(g, i + c));
    const vec centred = LOAD(x, i + c) - LOAD(mean, c), scale = LOAD(scale, c);
    const vec g = norm_gradient(LOAD(g, i + c), centred, scale, LOAD(offset, c), relu);
    norm_store(AT(y, i + c), (g - LOAD(g_mean, c) - centred * LOAD(slope, c)) * scale, left, past);
}

/* ROWS side by side, one by one if there are gaps between them.  RELU: whether what is computed depends on one. */
#define NORM(NAME, PART, ROWS, RELU)                                                                       \
    FC_INLINE void FC_NAME(NAME##_row)(const fc_norm *t, ptrdiff_t i, const int rows, const int relu,      \
                                       const int past) {                                                   \
        ptrdiff_t c = 0;                                                                                   \
        for (; c + VL <= t->columns; c += VL) PART(t, i, c, VL, rows, relu, past);                         \
        if (c < t->columns) PART(t, i, c, t->columns - c, rows, relu, 0);                                  \
    }                                                                                                      \
    FC_INLINE void FC_NAME(NAME##_rows)(const fc_norm *given, const int relu, const int past) {            \
        /* a copy, as the original could be what is stored to, as far as the compiler knows */             \
        fc_norm copy = *given;                                                                             \
        const fc_norm *t = &copy;                                                                          \
        ptrdiff_t r = 0;                                                                                   \
        if (ROWS > 1 && !t->x_gap)                                                                         \
            for (; r + ROWS <= t->rows; r += ROWS)                                                         \
                FC_NAME(NAME##_row)(t, r * t->columns, ROWS, relu, past);                                  \
        for (; r < t->rows; r++, copy.x += t->x_gap) FC_NAME(NAME##_row)(t, r * t->columns, 1, relu, past); \
        if (past) stores_past_done();                                                                      \
    }                                                                                                      \
    static void FC_NAME(NAME)(const fc_norm *t) {                                                          \
        switch ((RELU ? t->relu : 0) + (t->past ? 3 : 0)) {                                                \
        case 0: FC_NAME(NAME##_rows)(t, 0, 0); break;                                                      \
        case 1: FC_NAME(NAME##_rows)(t, 1, 0); break;                                                      \
        case 2: FC_NAME(NAME##_rows)(t, 2, 0); break;                                                      \
        case 3: FC_NAME(NAME##_rows)(t, 0, 1); break;                                                      \
        case 4: FC_NAME(NAME##_rows)(t, 1, 1); break;                                                      \
        case 5: FC_NAME(NAME##_rows)(t, 2, 1); break;                                                      \
        }                                                                                                  \
    }

NORM(normalize_moments, norm_moments, NORM_ROWS, 0)
NORM(normalize, norm_forward, 1, 1)
NORM(normalize_sums, norm_sums, NORM_ROWS, 1)
NORM(normalize_backward, norm_backward, 1, 1)
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
        /* Without memory nothing of a large moment may be left, which rounding would leave. */
        FC_T mean = new_1 == 1 ? g[i] : m[i] + (g[i] - m[i]) * new_1;
        FC_T square = new_2 == 1 ? g[i] * g[i] : v[i] + (g[i] * g[i] - v[i]) * new_2;
        m[i] = NORMAL_OR_ZERO(mean);
        v[i] = NORMAL_OR_ZERO(square);
        p[i] = p[i] * keep - alpha * m[i] / ((sizeof(FC_T) == 4 ? (FC_T)sqrtf((float)v[i]) : (FC_T)sqrt((double)v[i])) + epsilon);
    }
}

#undef NORMAL_OR_ZERO
#undef LEAST_NORMAL

/* ---- the limit ---- */

static double FC_NAME(fma_rounds)(ptrdiff_t rounds) {
    enum { CHAINS = FC_REGISTERS >= 32 ? 24 : 12 }; /* enough for two units of latency five */
    vec acc[CHAINS], a = splat((FC_T)0.5), b = splat((FC_T)0.25);
    FC_UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = splat((FC_T)i);
    for (ptrdiff_t r = 0; r < rounds; r++) {
        __asm__ volatile("" ::: ); /* keeps the loop from being solved in closed form */
        FC_UNROLL for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * a + b;
    }
    volatile double sink = 0; /* keeps the sums from being left out */
    for (int i = 0; i < CHAINS; i++) sink = (double)sum_lanes(acc[i]);
    (void)sink;
    return (double)rounds * CHAINS * (double)VL * 2;
}
