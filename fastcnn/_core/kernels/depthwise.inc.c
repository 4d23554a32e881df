/* Depthwise convolution of a row of pixels, along a contiguous run of channels: see fc_depthwise in kernels.h. */

#define depthwise_pixels FC_NAME(depthwise_pixels)
#define depthwise_run FC_NAME(depthwise_run)
#define depthwise_taps FC_NAME(depthwise_taps)
#define depthwise_taps_grid FC_NAME(depthwise_taps_grid)
#define depthwise_stride FC_NAME(depthwise_stride)
#define depthwise_grid FC_NAME(depthwise_grid)
#define depthwise_grid_run FC_NAME(depthwise_grid_run)
#define depthwise_grid_runs FC_NAME(depthwise_grid_runs)
#define depthwise_grids FC_NAME(depthwise_grids)
#define depthwise_filter_run FC_NAME(depthwise_filter_run)
#define depthwise_filters FC_NAME(depthwise_filters)

#define AT(base, offset) ((FC_T *)((base) + (offset)) + c)

/* One vector of channels of `count` pixels from i on, whose sums stay in registers.  What is used in the loop over taps
 * is copied first: it could be what is stored to, as far as the compiler knows.  Pixels are addressed as rows of a
 * matrix product's tile are. */
FC_INLINE void depthwise_pixels(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, const int count) {
    const vec start = t->bias ? load_left(AT(t->bias, 0), left) : (vec){0};
    const ptrdiff_t *taps = t->taps, *filter_taps = t->filter_taps;
    const ptrdiff_t n_taps = t->n_taps, step = t->x_step, y_step = t->y_step;
    const char *w = (const char *)AT(t->w, 0), *x[3];
    const int relu = t->relu;
    char *y = (char *)AT(t->y, i * y_step);
    vec sum[8];
    FC_UNROLL for (int j = 0; j < 3; j++) x[j] = (const char *)AT(t->x, (i + 3 * j) * step);
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = start;
        if (t->residual) sum[j] += load_left((const FC_T *)(y + j * y_step + t->residual), left);
    }
    for (ptrdiff_t k = 0; k < n_taps; k++) {
        const vec wk = load_left((const FC_T *)(w + filter_taps[k]), left);
        const char *xk[3];
        FC_UNROLL for (int j = 0; j < 3; j++) xk[j] = x[j] + taps[k];
        FC_UNROLL for (int j = 0; j < count; j++) sum[j] += load_left((const FC_T *)(xk[j / 3] + j % 3 * step), left) * wk;
    }
    FC_UNROLL for (int j = 0; j < count; j++) {
        store_left((FC_T *)(y + j * y_step), clamp(sum[j], relu), left);
    }
}

FC_INLINE void depthwise_run(const fc_depthwise *t, ptrdiff_t i, const int count) {
    ptrdiff_t c = 0;
    for (; c + VL <= t->channels; c += VL) depthwise_pixels(t, c, VL, i, count);
    if (c < t->channels) depthwise_pixels(t, c, t->channels - c, i, count);
}

/* Taps in rows of three neighbours, as a filter of three columns has them: pixels then see the same columns, which are
 * read once for all of them.  Returns how many columns it is from one pixel to the next, 1 or 2; -1 where a pixel sees
 * the last tap first; 0 for all else. */
static int depthwise_stride(const fc_depthwise *t) {
    if (t->n_taps % 3 || !t->n_taps) return 0;
    const ptrdiff_t column = t->taps[1] - t->taps[0];
    for (ptrdiff_t k = 0; k < t->n_taps; k += 3)
        if (t->taps[k + 1] - t->taps[k] != column || t->taps[k + 2] - t->taps[k + 1] != column) return 0;
    return t->x_step == column ? 1 : t->x_step == 2 * column ? 2 : t->x_step == -column ? -1 : 0;
}

/* To which of so many pixels the place s of three in column q belongs, and whether to any. */
#define PIXEL(q, s) (((q) - (s)) / (stride))
#define BELONGS(q, s, pixels) ((q) >= (s) && ((q) - (s)) % (stride) == 0 && PIXEL(q, s) < (pixels))

/* As depthwise_pixels, where depthwise_stride() is not 0: each sum takes its taps in the same order.  Columns outside
 * are left out. */
FC_INLINE void depthwise_grid(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, const int count,
                              const int stride, const int reversed) {
    const vec start = t->bias ? load_left(AT(t->bias, 0), left) : (vec){0};
    const ptrdiff_t *taps = t->taps, *filter_taps = t->filter_taps;
    const ptrdiff_t n_taps = t->n_taps, column = t->x_step / stride, y_step = t->y_step;
    const char *w = (const char *)AT(t->w, 0), *first = (const char *)AT(t->x, i * t->x_step);
    const int relu = t->relu, columns = (count - 1) * stride + 3;
    const int outside_first = t->left && i == 0, outside_last = t->right && i + count == t->pixels;
    char *y = (char *)AT(t->y, i * y_step);
    vec sum[8];
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = start;
        if (t->residual) sum[j] += load_left((const FC_T *)(y + j * y_step + t->residual), left);
    }
    for (ptrdiff_t k = 0; k < n_taps; k += 3) {
        vec wk[3];
        const char *x[6];
        FC_UNROLL for (int s = 0; s < 3; s++) wk[s] = load_left((const FC_T *)(w + filter_taps[k + (reversed ? 2 - s : s)]), left);
        FC_UNROLL for (int j = 0; j < 6; j++) x[j] = first + taps[reversed ? k + 2 : k] + 3 * j * column;
        FC_UNROLL for (int n = 0; n < columns; n++) {
            const int q = reversed ? columns - 1 - n : n;
            if ((q == 0 && outside_first) || (q == columns - 1 && outside_last)) continue;
            vec v = load_left((const FC_T *)(x[q / 3] + q % 3 * column), left);
            FC_KEEP(v);
            FC_UNROLL for (int s = 0; s < 3; s++) if (BELONGS(q, s, count)) sum[PIXEL(q, s)] += v * wk[s];
        }
    }
    FC_UNROLL for (int j = 0; j < count; j++) {
        store_left((FC_T *)(y + j * y_step), clamp(sum[j], relu), left);
    }
}

FC_INLINE void depthwise_grid_run(const fc_depthwise *t, ptrdiff_t i, const int count, const int stride,
                                  const int reversed) {
    ptrdiff_t c = 0;
    /* The row of taps that none has seen yet (two with a stride of 2) of the next pixels, and their results. */
    const char *x = t->x + t->taps[reversed ? 0 : t->n_taps - 1] + (i + count) * t->x_step;
    const char *y = t->y + (i + count) * t->y_step;
    const ptrdiff_t row = t->n_taps > 3 ? t->taps[t->n_taps - 1] - t->taps[t->n_taps - 4] : 0;
    for (; c + VL <= t->channels; c += VL) {
        if (t->prefetch) {
            FC_UNROLL for (int j = 0; j < count * stride; j++, x += FC_VECTOR_BYTES) {
                __builtin_prefetch(x);
                if (stride == 2) __builtin_prefetch(x - row);
            }
            FC_UNROLL for (int j = 0; j < count; j++, y += FC_VECTOR_BYTES) __builtin_prefetch(y, 1);
        }
        depthwise_grid(t, c, VL, i, count, stride, reversed);
    }
    if (c < t->channels) depthwise_grid(t, c, t->channels - c, i, count, stride, reversed);
}

/* All pixels, `count` at a time: the last ones once more where it does not divide them. */
FC_INLINE void depthwise_grid_runs(const fc_depthwise *t, const int count, const int stride, const int reversed) {
    ptrdiff_t i = 0;
    for (; i + count <= t->pixels; i += count) depthwise_grid_run(t, i, count, stride, reversed);
    if (i < t->pixels) depthwise_grid_run(t, t->pixels - count, count, stride, reversed);
}

/* Four pixels at least. Networks for 224 pixels halve to multiples of 7. */
FC_INLINE void depthwise_grids(const fc_depthwise *t, const int stride, const int reversed) {
    if (t->pixels < 7) depthwise_grid_runs(t, 4, stride, reversed);
    else if (t->pixels < 8 || (t->pixels % 8 && t->pixels % 7 == 0)) depthwise_grid_runs(t, 7, stride, reversed);
    else depthwise_grid_runs(t, 8, stride, reversed);
}

static void FC_NAME(depthwise)(const fc_depthwise *t) {
    switch (t->pixels < 4 ? 0 : depthwise_stride(t)) {
    case 1: depthwise_grids(t, 1, 0); return;
    case 2: depthwise_grids(t, 2, 0); return;
    case -1: depthwise_grids(t, 1, 1); return;
    }
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

/* What `pixels` pixels from i on, which see the same columns, add to the gradients of `count` taps. */
FC_INLINE void depthwise_taps_grid(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, const char *const *x, vec *sum,
                                   ptrdiff_t i, const int count, const int stride, const int pixels) {
    const ptrdiff_t column = t->x_step / stride;
    const int columns = (pixels - 1) * stride + 3;
    const int outside_first = t->left && i == 0, outside_last = t->right && i + pixels == t->pixels;
    vec g[4];
    FC_UNROLL for (int j = 0; j < pixels; j++) {
        g[j] = load_left(AT(t->y, (i + j) * t->y_step), left);
        FC_KEEP(g[j]);
    }
    FC_UNROLL for (int r = 0; r < count; r += 3) {
        FC_UNROLL for (int q = 0; q < columns; q++) {
            if ((q == 0 && outside_first) || (q == columns - 1 && outside_last)) continue;
            vec v = load_left(AT(x[r], i * t->x_step + q * column), left);
            FC_KEEP(v);
            FC_UNROLL for (int s = 0; s < 3; s++) if (BELONGS(q, s, pixels)) sum[r + s] += v * g[PIXEL(q, s)];
        }
    }
}

/* One vector of channels of the gradients of `count` taps from k on, which stay in registers. */
FC_INLINE void depthwise_taps(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t k, const int count,
                              const int stride) {
    vec sum[9];
    const char *x[9];
    ptrdiff_t i = 0;
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = load_left(AT(t->dw, t->filter_taps[k + j]), left);
        x[j] = t->x + t->taps[k + j];
    }
    /* What the next output row sees and none before it, and its gradients. */
    const ptrdiff_t done = c * t->pixels * (ptrdiff_t)sizeof(FC_T);
    const char *next_x = t->x + t->taps[t->n_taps - 1] + t->pixels * t->x_step + stride * stride * done;
    const char *next_y = t->y + t->pixels * t->y_step + done;
    for (; stride && i + 4 <= t->pixels; i += 4) {
        if (t->prefetch && k == 0) {
            FC_UNROLL for (int j = 0; j < 4 * stride * stride; j++, next_x += FC_VECTOR_BYTES) __builtin_prefetch(next_x);
            FC_UNROLL for (int j = 0; j < 4; j++, next_y += FC_VECTOR_BYTES) __builtin_prefetch(next_y);
        }
        depthwise_taps_grid(t, c, left, x, sum, i, count, stride, 4);
    }
    for (; stride && i + 2 <= t->pixels; i += 2) depthwise_taps_grid(t, c, left, x, sum, i, count, stride, 2);
    for (; stride && i < t->pixels; i++) depthwise_taps_grid(t, c, left, x, sum, i, count, stride, 1);
    for (; i < t->pixels; i++) {
        const vec g = load_left(AT(t->y, i * t->y_step), left);
        FC_UNROLL for (int j = 0; j < count; j++) sum[j] += load_left(AT(x[j], i * t->x_step), left) * g;
    }
    FC_UNROLL for (int j = 0; j < count; j++) store_left(AT(t->dw, t->filter_taps[k + j]), sum[j], left);
}

FC_INLINE void depthwise_filter_run(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, const int stride) {
    ptrdiff_t k = 0;
    for (; k + 9 <= t->n_taps; k += 9) depthwise_taps(t, c, left, k, 9, stride);
    for (; k + 3 <= t->n_taps; k += 3) depthwise_taps(t, c, left, k, 3, stride);
    for (; k < t->n_taps; k++) depthwise_taps(t, c, left, k, 1, 0);
}

FC_INLINE void depthwise_filters(const fc_depthwise *t, const int stride) {
    ptrdiff_t c = 0;
    for (; c + VL <= t->channels; c += VL) depthwise_filter_run(t, c, VL, stride);
    if (c < t->channels) depthwise_filter_run(t, c, t->channels - c, stride);
}

static void FC_NAME(depthwise_filter_backward)(const fc_depthwise *t) {
    switch (t->pixels < 4 ? 0 : depthwise_stride(t)) {
    case 1: depthwise_filters(t, 1); break;
    case 2: depthwise_filters(t, 2); break;
    default: depthwise_filters(t, 0);
    }
}

#undef PIXEL
#undef BELONGS
#undef AT
