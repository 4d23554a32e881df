/* Depthwise convolution of a row of pixels, along a contiguous run of channels: see fc_depthwise in kernels.h. */

#define depthwise_pixels FC_NAME(depthwise_pixels)
#define depthwise_run FC_NAME(depthwise_run)
#define depthwise_taps FC_NAME(depthwise_taps)
#define depthwise_filter_run FC_NAME(depthwise_filter_run)

#define AT(base, offset) ((FC_T *)((base) + (offset)) + c)
#define LOAD(p) (left < VL ? load_part(p, left) : load(p))
#define STORE(p, v) (left < VL ? store_part(p, v, left) : store(p, v))

/* One vector of channels of `count` pixels from i on, whose sums stay in registers.  What is used in the loop over taps
 * is copied first: it could be what is stored to, as far as the compiler knows.  Pixels are addressed as rows of a
 * matrix product's tile are. */
FC_INLINE void depthwise_pixels(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, const int count) {
    const vec start = t->bias ? LOAD(AT(t->bias, 0)) : (vec){0};
    const ptrdiff_t *taps = t->taps, *filter_taps = t->filter_taps;
    const ptrdiff_t n_taps = t->n_taps, step = t->x_step, y_step = t->y_step;
    const char *w = (const char *)AT(t->w, 0), *x[3];
    const int relu = t->relu;
    char *y = (char *)AT(t->y, i * y_step);
    vec sum[8];
    FC_UNROLL for (int j = 0; j < 3; j++) x[j] = (const char *)AT(t->x, (i + 3 * j) * step);
    FC_UNROLL for (int j = 0; j < count; j++) sum[j] = start;
    for (ptrdiff_t k = 0; k < n_taps; k++) {
        const vec wk = LOAD((const FC_T *)(w + filter_taps[k]));
        const char *xk[3];
        FC_UNROLL for (int j = 0; j < 3; j++) xk[j] = x[j] + taps[k];
        FC_UNROLL for (int j = 0; j < count; j++) sum[j] += LOAD((const FC_T *)(xk[j / 3] + j % 3 * step)) * wk;
    }
    FC_UNROLL for (int j = 0; j < count; j++) {
        if (relu) sum[j] = blend(sum[j] < (vec){0}, (vec){0}, sum[j]);
        STORE((FC_T *)(y + j * y_step), sum[j]);
    }
}

FC_INLINE void depthwise_run(const fc_depthwise *t, ptrdiff_t i, const int count) {
    ptrdiff_t c = 0;
    for (; c + VL <= t->channels; c += VL) depthwise_pixels(t, c, VL, i, count);
    if (c < t->channels) depthwise_pixels(t, c, t->channels - c, i, count);
}

static void FC_NAME(depthwise)(const fc_depthwise *t) {
    ptrdiff_t i = 0;
    for (; i + 8 <= t->pixels; i += 8) depthwise_run(t, i, 8);
    switch (t->pixels - i) {
    case 7: depthwise_run(t, i, 7); break;
    case 6: depthwise_run(t, i, 6); break;
    case 5: depthwise_run(t, i, 5); break;
    case 4: depthwise_run(t, i, 4); break;
    case 3: depthwise_run(t, i, 3); break;
    case 2: depthwise_run(t, i, 2); break;
    case 1: depthwise_run(t, i, 1); break;
    }
}

/* One vector of channels of the gradients of `count` taps from k on, which stay in registers. */
FC_INLINE void depthwise_taps(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t k, const int count) {
    vec sum[9];
    const char *x[9];
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = LOAD(AT(t->dw, t->filter_taps[k + j]));
        x[j] = t->x + t->taps[k + j];
    }
    for (ptrdiff_t i = 0; i < t->pixels; i++) {
        const vec g = LOAD(AT(t->y, i * t->y_step));
        FC_UNROLL for (int j = 0; j < count; j++) sum[j] += LOAD(AT(x[j], i * t->x_step)) * g;
    }
    FC_UNROLL for (int j = 0; j < count; j++) STORE(AT(t->dw, t->filter_taps[k + j]), sum[j]);
}

FC_INLINE void depthwise_filter_run(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left) {
    ptrdiff_t k = 0;
    for (; k + 9 <= t->n_taps; k += 9) depthwise_taps(t, c, left, k, 9);
    for (; k + 3 <= t->n_taps; k += 3) depthwise_taps(t, c, left, k, 3);
    for (; k < t->n_taps; k++) depthwise_taps(t, c, left, k, 1);
}

static void FC_NAME(depthwise_filter_backward)(const fc_depthwise *t) {
    ptrdiff_t c = 0;
    for (; c + VL <= t->channels; c += VL) depthwise_filter_run(t, c, VL);
    if (c < t->channels) depthwise_filter_run(t, c, t->channels - c);
}

#undef AT
#undef LOAD
#undef STORE
