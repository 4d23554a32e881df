/* Depthwise convolution of a row of pixels, along a contiguous run of channels: see fc_depthwise in kernels.h. */

#define depthwise_see FC_NAME(depthwise_see)
#define depthwise_lanes FC_NAME(depthwise_lanes)
#define depthwise_store FC_NAME(depthwise_store)
#define depthwise_all FC_NAME(depthwise_all)
#define depthwise_pixels FC_NAME(depthwise_pixels)
#define depthwise_run FC_NAME(depthwise_run)
#define depthwise_taps FC_NAME(depthwise_taps)
#define depthwise_taps_grid FC_NAME(depthwise_taps_grid)
#define depthwise_stride FC_NAME(depthwise_stride)
#define depthwise_grid FC_NAME(depthwise_grid)
#define depthwise_grid_run FC_NAME(depthwise_grid_run)
#define depthwise_grid_runs FC_NAME(depthwise_grid_runs)
#define depthwise_grids FC_NAME(depthwise_grids)
#define depthwise_in_grids FC_NAME(depthwise_in_grids)
#define depthwise_two FC_NAME(depthwise_two)
#define depthwise_two_runs FC_NAME(depthwise_two_runs)
#define depthwise_taps_two FC_NAME(depthwise_taps_two)
#define depthwise_filters_two FC_NAME(depthwise_filters_two)
#define depthwise_filters_in_grids FC_NAME(depthwise_filters_in_grids)
#define depthwise_filters_all FC_NAME(depthwise_filters_all)
#define depthwise_filter_run FC_NAME(depthwise_filter_run)
#define depthwise_filters FC_NAME(depthwise_filters)

#define AT(base, offset) ((FC_T *)((base) + (offset)) + c)
/* Channels of x that a filter sees; and what is left of its row of filters, which of groups are whole vectors. */
#define DEPTH (grouped ? t->depth : 1)
#define FILTERS (grouped ? VL : left)

/* A vector of channels at p; of groups, to each filter's lane the one that it sees. */
FC_INLINE vec depthwise_see(const void *p, ptrdiff_t left, const int grouped, mask lanes) {
    return grouped ? permute(load((const FC_T *)p), lanes) : load_left((const FC_T *)p, left);
}

FC_INLINE mask depthwise_lanes(const fc_depthwise *t) {
    mask lanes;
    for (int i = 0; i < VL; i++) lanes[i] = (FC_INT)t->lanes[i];
    return lanes;
}

/* The results of `count` pixels, which begin at y. */
FC_INLINE void depthwise_store(const fc_depthwise *t, char *y, const vec *sum, ptrdiff_t left, const int count) {
    const int relu = t->relu;
    const ptrdiff_t y_step = t->y_step;
    if (t->past)
        FC_UNROLL for (int j = 0; j < count; j++) store_past((FC_T *)(y + j * y_step), clamp(sum[j], relu));
    else
        FC_UNROLL for (int j = 0; j < count; j++) store_left((FC_T *)(y + j * y_step), clamp(sum[j], relu), left);
}

/* One vector of channels of `count` pixels from i on, whose sums stay in registers.  What is used in the loop over taps
 * is copied first: it could be what is stored to, as far as the compiler knows.  Pixels are addressed as rows of a
 * matrix product's tile are. */
FC_INLINE void depthwise_pixels(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, const int count,
                                const int grouped, mask lanes) {
    const vec start = t->bias ? load_left(AT(t->bias, 0), left) : (vec){0};
    const ptrdiff_t *taps = t->taps, *filter_taps = t->filter_taps;
    const ptrdiff_t n_taps = t->n_taps, step = t->x_step, y_step = t->y_step;
    const char *w = (const char *)AT(t->w, 0), *x[3];
    char *y = (char *)AT(t->y, i * y_step);
    vec sum[8];
    FC_UNROLL for (int j = 0; j < 3; j++) x[j] = (const char *)AT(t->x, (i + 3 * j) * step);
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = start;
        if (t->residual) sum[j] += load_left((const FC_T *)(y + j * y_step + t->residual), left);
    }
    for (ptrdiff_t k = 0; k < n_taps; k++) {
        const char *xk[3];
        FC_UNROLL for (int j = 0; j < 3; j++) xk[j] = x[j] + taps[k];
        for (ptrdiff_t g = 0; g < DEPTH; g++) {
            const vec wk = load_left((const FC_T *)(w + filter_taps[k] + g * t->filter_step), FILTERS);
            FC_UNROLL for (int j = 0; j < count; j++)
                sum[j] += depthwise_see(xk[j / 3] + j % 3 * step, left, grouped, lanes + (FC_INT)g) * wk;
        }
    }
    depthwise_store(t, y, sum, left, count);
}

FC_INLINE void depthwise_run(const fc_depthwise *t, ptrdiff_t i, const int count, const int grouped, mask lanes) {
    ptrdiff_t c = 0;
    if (grouped) {
        depthwise_pixels(t, 0, t->channels, i, count, grouped, lanes);
        return;
    }
    for (; c + VL <= t->channels; c += VL) depthwise_pixels(t, c, VL, i, count, grouped, lanes);
    if (c < t->channels) depthwise_pixels(t, c, t->channels - c, i, count, grouped, lanes);
}

/* Taps in rows of so many neighbours, as a filter of as many columns has them: pixels then see the same columns, which
 * are read once for all of them.  Returns how many columns it is from one pixel to the next, 1 or 2; 0 for all else. */
FC_INLINE int depthwise_stride(const fc_depthwise *t, const int width) {
    if (t->width != width || !t->n_taps) return 0;
    const ptrdiff_t column = t->taps[1] - t->taps[0];
    for (ptrdiff_t k = 0; k < t->n_taps; k += width)
        for (int s = 1; s < width; s++)
            if (t->taps[k + s] - t->taps[k + s - 1] != column) return 0;
    return t->x_step == column ? 1 : t->x_step == 2 * column ? 2 : 0;
}

/* To which of so many pixels the place s of a row of taps in column q belongs, and whether to any. */
#define PIXEL(q, s) (((q) - (s)) / (stride))
#define BELONGS(q, s, pixels) ((q) >= (s) && ((q) - (s)) % (stride) == 0 && PIXEL(q, s) < (pixels))
/* Whether column q of those that `count` pixels from i on see is outside: the first `before` are, and the last `behind`,
 * never more than half of a row of taps. */
#define OUTSIDE(q) (((q) < (width) / 2 && (q) < before) || ((q) >= columns - (width) / 2 && columns - (q) <= behind))
#define COLUMNS_BEFORE(i) (t->left - (i) * (stride))
#define COLUMNS_BEHIND(i, count) (t->right - (t->pixels - (i) - (count)) * (stride))

/* As depthwise_pixels, where depthwise_stride() is not 0: each sum takes its taps in the same order.  Columns outside
 * are left out. */
FC_INLINE void depthwise_grid(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, const int count,
                              const int width, const int stride, const int grouped, mask lanes) {
    const vec start = t->bias ? load_left(AT(t->bias, 0), left) : (vec){0};
    const ptrdiff_t *taps = t->taps, *filter_taps = t->filter_taps;
    const ptrdiff_t n_taps = t->n_taps, column = t->x_step / stride, y_step = t->y_step;
    const char *w = (const char *)AT(t->w, 0), *first = (const char *)AT(t->x, i * t->x_step);
    const int columns = (count - 1) * stride + width;
    const ptrdiff_t before = COLUMNS_BEFORE(i), behind = COLUMNS_BEHIND(i, count);
    char *y = (char *)AT(t->y, i * y_step);
    vec sum[8];
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = start;
        if (t->residual) sum[j] += load_left((const FC_T *)(y + j * y_step + t->residual), left);
    }
    for (ptrdiff_t k = 0; k < n_taps; k += width) {
        const char *x[6];
        FC_UNROLL for (int j = 0; j < 6; j++) x[j] = first + taps[k] + 3 * j * column;
        vec see[17];
        if (grouped) FC_UNROLL for (int q = 0; q < columns; q++) {
            if (OUTSIDE(q)) continue;
            see[q] = load((const FC_T *)(x[q / 3] + q % 3 * column));
        }
        for (ptrdiff_t g = 0; g < DEPTH; g++) {
            vec wk[5];
            FC_UNROLL for (int s = 0; s < width; s++)
                wk[s] = load_left((const FC_T *)(w + filter_taps[k + s] + g * t->filter_step), FILTERS);
            FC_UNROLL for (int q = 0; q < columns; q++) {
                if (OUTSIDE(q)) continue;
                vec v = grouped ? permute(see[q], lanes + (FC_INT)g)
                                : load_left((const FC_T *)(x[q / 3] + q % 3 * column), left);
                FC_KEEP(v);
                FC_UNROLL for (int s = 0; s < width; s++) if (BELONGS(q, s, count)) sum[PIXEL(q, s)] += v * wk[s];
            }
        }
    }
    depthwise_store(t, y, sum, left, count);
}

FC_INLINE void depthwise_grid_run(const fc_depthwise *t, ptrdiff_t i, const int count, const int width,
                                  const int stride, const int grouped, mask lanes) {
    ptrdiff_t c = 0;
    /* What the pixels of the next row see first, a row of the source or, with a stride of 2, two; and the results of the
     * next pixels. */
    const ptrdiff_t last = t->taps[t->n_taps - 1];
    const ptrdiff_t row = t->next_x ? t->next_row : t->n_taps > width ? last - t->taps[t->n_taps - 1 - width] : 0;
    const char *x = (t->next_x ? t->next_x : t->x + last + row) + i * t->x_step;
    const char *y = (const char *)t->y + (i + count) * t->y_step;
    if (grouped) {
        depthwise_grid(t, 0, t->channels, i, count, width, stride, grouped, lanes);
        return;
    }
    for (; c + VL <= t->channels; c += VL) {
        if (t->prefetch) {
            if (t->prefetch == 1) FC_UNROLL for (int j = 0; j < count * stride; j++, x += FC_VECTOR_BYTES) {
                __builtin_prefetch(x);
                if (stride == 2) __builtin_prefetch(x + row);
            }
            if (!t->past) FC_UNROLL for (int j = 0; j < count; j++) __builtin_prefetch(AT(y, j * t->y_step), 1);
        }
        depthwise_grid(t, c, VL, i, count, width, stride, grouped, lanes);
    }
    if (c < t->channels) depthwise_grid(t, c, t->channels - c, i, count, width, stride, grouped, lanes);
}

/* All pixels, `count` at a time: the last ones once more where it does not divide them. */
FC_INLINE void depthwise_grid_runs(const fc_depthwise *t, const int count, const int width, const int stride,
                                   const int grouped, mask lanes) {
    ptrdiff_t i = 0;
    for (; i + count <= t->pixels; i += count) depthwise_grid_run(t, i, count, width, stride, grouped, lanes);
    if (i < t->pixels) depthwise_grid_run(t, t->pixels - count, count, width, stride, grouped, lanes);
}

/* Four pixels at least. Networks for 224 pixels halve to multiples of 7. */
FC_INLINE void depthwise_grids(const fc_depthwise *t, const int width, const int stride, const int grouped,
                               mask lanes) {
    if (t->pixels < 7) depthwise_grid_runs(t, 4, width, stride, grouped, lanes);
    else if (width == 5 || t->pixels < 8 || (t->pixels % 8 && t->pixels % 7 == 0))
        depthwise_grid_runs(t, 7, width, stride, grouped, lanes);
    else depthwise_grid_runs(t, 8, width, stride, grouped, lanes);
}

/* Whether taps are in rows of so many, and if so all pixels. */
FC_INLINE int depthwise_in_grids(const fc_depthwise *t, const int width, const int grouped, mask lanes) {
    switch (t->pixels < 4 ? 0 : depthwise_stride(t, width)) {
    case 1: depthwise_grids(t, width, 1, grouped, lanes); return 1;
    case 2: depthwise_grids(t, width, 2, grouped, lanes); return 1;
    }
    return 0;
}

FC_INLINE void depthwise_all(const fc_depthwise *t, const int grouped, mask lanes) {
    if (depthwise_in_grids(t, 3, grouped, lanes) || (!grouped && depthwise_in_grids(t, 5, 0, lanes))) return;
    ptrdiff_t i = 0;
    for (; i + 8 <= t->pixels; i += 8) depthwise_run(t, i, 8, grouped, lanes);
    switch (t->pixels - i) {
    case 7: depthwise_run(t, i, 7, grouped, lanes); break;
    case 6: depthwise_run(t, i, 6, grouped, lanes); break;
    case 5: depthwise_run(t, i, 5, grouped, lanes); break;
    case 4: depthwise_run(t, i, 4, grouped, lanes); break;
    case 3: depthwise_run(t, i, 3, grouped, lanes); break;
    case 2: depthwise_run(t, i, 2, grouped, lanes); break;
    case 1: depthwise_run(t, i, 1, grouped, lanes); break;
    }
}

static void FC_NAME(depthwise)(const fc_depthwise *t) { depthwise_all(t, 0, (mask){0}); }
static void FC_NAME(grouped)(const fc_depthwise *t) {
    if (VL > 2) depthwise_all(t, 1, depthwise_lanes(t)); /* no two groups of several channels share less */
}

/* As depthwise_grid, of 3 x 3 taps at a stride of 1, with the pixels below: the four rows that both see are read once. */
FC_INLINE void depthwise_two(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, const int count) {
    const int width = 3, stride = 1, columns = count + 2;
    const vec start = t->bias ? load_left(AT(t->bias, 0), left) : (vec){0};
    const ptrdiff_t *rows = t->taps, *filter_taps = t->filter_taps;
    const ptrdiff_t step = t->x_step, y_step = t->y_step, y_row = t->y_row;
    const char *w = (const char *)AT(t->w, 0), *first = (const char *)AT(t->x, i * step);
    const ptrdiff_t before = COLUMNS_BEFORE(i), behind = COLUMNS_BEHIND(i, count);
    char *y = (char *)AT(t->y, i * y_step);
    vec upper[8], lower[8], wk[2][3]; /* the filter's rows that the upper and the lower pixels take */
    FC_UNROLL for (int j = 0; j < count; j++) {
        upper[j] = lower[j] = start;
        if (t->residual) {
            upper[j] += load_left((const FC_T *)(y + j * y_step + t->residual), left);
            lower[j] += load_left((const FC_T *)(y + y_row + j * y_step + t->residual), left);
        }
    }
    FC_UNROLL for (int r = 0; r < 4; r++) {
        FC_UNROLL for (int s = 0; s < 3; s++) {
            wk[1][s] = wk[0][s];
            if (r < 3) wk[0][s] = load_left((const FC_T *)(w + filter_taps[3 * r + s]), left);
        }
        /* Of the pixels that are next, row by row: those below that none has seen yet, and their results. */
        if (r < 2 && t->prefetch == 1) {
            const char *ahead = (t->next_x ? (const char *)AT(t->next_x, i * step) + r * t->next_row : first + rows[r + 2])
                                + (count + 1) * step;
            FC_UNROLL for (int j = 0; j < count; j++) __builtin_prefetch(ahead + j * step);
        } else if (r >= 2 && t->prefetch) {
            const char *ahead = y + count * y_step + (r - 2) * y_row;
            FC_UNROLL for (int j = 0; j < count; j++) __builtin_prefetch(ahead + j * y_step, 1);
        }
        if (rows[r] < 0) continue;
        const char *x[4];
        FC_UNROLL for (int j = 0; j < 4; j++) x[j] = first + rows[r] + 3 * j * step;
        FC_UNROLL for (int q = 0; q < columns; q++) {
            if (OUTSIDE(q)) continue;
            vec v = load_left((const FC_T *)(x[q / 3] + q % 3 * step), left);
            FC_KEEP(v);
            FC_UNROLL for (int s = 0; s < 3; s++) if (BELONGS(q, s, count)) {
                if (r < 3) upper[PIXEL(q, s)] += v * wk[0][s];
                if (r > 0) lower[PIXEL(q, s)] += v * wk[1][s];
            }
        }
    }
    depthwise_store(t, y, upper, left, count);
    depthwise_store(t, y + y_row, lower, left, count);
}

/* All pixels of both rows, `count` at a time, as depthwise_grid_runs. */
FC_INLINE void depthwise_two_runs(const fc_depthwise *t, const int count) {
    for (ptrdiff_t i = 0; i < t->pixels; i += count) {
        const ptrdiff_t at = i + count <= t->pixels ? i : t->pixels - count;
        ptrdiff_t c = 0;
        for (; c + VL <= t->channels; c += VL) depthwise_two(t, c, VL, at, count);
        if (c < t->channels) depthwise_two(t, c, t->channels - c, at, count);
    }
}

static void FC_NAME(depthwise_pair)(const fc_depthwise *t) {
#if FC_REGISTERS >= 32
    if (t->pixels >= 8 && (t->pixels % 8 == 0 || t->pixels % 7)) { depthwise_two_runs(t, 8); return; }
    if (t->pixels >= 7) { depthwise_two_runs(t, 7); return; }
#endif
    depthwise_two_runs(t, 4);
}

/* What `pixels` pixels from i on, which see the same columns, add to the gradients of `count` taps. */
FC_INLINE void depthwise_taps_grid(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, const char *const *x, vec *sum,
                                   ptrdiff_t i, const int count, const int width, const int stride, const int pixels,
                                   const int grouped, mask lanes) {
    const ptrdiff_t column = t->x_step / stride;
    const int columns = (pixels - 1) * stride + width;
    const ptrdiff_t before = COLUMNS_BEFORE(i), behind = COLUMNS_BEHIND(i, pixels);
    vec g[4];
    FC_UNROLL for (int j = 0; j < pixels; j++) {
        g[j] = load_left(AT(t->y, (i + j) * t->y_step), left);
        FC_KEEP(g[j]);
    }
    FC_UNROLL for (int r = 0; r < count; r += width) {
        FC_UNROLL for (int q = 0; q < columns; q++) {
            if (OUTSIDE(q)) continue;
            vec v = depthwise_see(AT(x[r], i * t->x_step + q * column), left, grouped, lanes);
            FC_KEEP(v);
            FC_UNROLL for (int s = 0; s < width; s++) if (BELONGS(q, s, pixels)) sum[r + s] += v * g[PIXEL(q, s)];
        }
    }
}

/* What pixels i to `end` add to one vector of channels of the gradients of `count` taps from k on, which stay in
 * registers; of groups, those of one channel of each.  With a stride they are in rows of so many, else in none. */
FC_INLINE void depthwise_taps(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, ptrdiff_t i, ptrdiff_t end,
                              ptrdiff_t k, const int count, const int width, const int stride, ptrdiff_t channel,
                              const int grouped, mask lanes) {
    vec sum[10];
    const char *x[10];
    FC_UNROLL for (int j = 0; j < count; j++) {
        sum[j] = load_left(AT(t->dw, t->filter_taps[k + j] + channel * t->filter_step), FILTERS);
        x[j] = t->x + t->taps[k + j];
    }
    /* What the next output row sees and none before it, and its gradients. */
    const ptrdiff_t done = c * t->pixels * (ptrdiff_t)sizeof(FC_T);
    const char *next_x = t->next_x ? t->next_x : t->x + t->taps[t->n_taps - 1] + t->pixels * t->x_step;
    const char *next_y = (t->next_y ? t->next_y : t->y + t->pixels * t->y_step) + done;
    next_x += stride * stride * done;
    for (; stride && i + 4 <= end; i += 4) {
        if (t->prefetch && k == 0) {
            FC_UNROLL for (int j = 0; j < 4 * stride * stride; j++, next_x += FC_VECTOR_BYTES) __builtin_prefetch(next_x);
            FC_UNROLL for (int j = 0; j < 4; j++, next_y += FC_VECTOR_BYTES) __builtin_prefetch(next_y);
        }
        depthwise_taps_grid(t, c, left, x, sum, i, count, width, stride, 4, grouped, lanes);
    }
    for (; stride && i + 2 <= end; i += 2)
        depthwise_taps_grid(t, c, left, x, sum, i, count, width, stride, 2, grouped, lanes);
    for (; stride && i < end; i++)
        depthwise_taps_grid(t, c, left, x, sum, i, count, width, stride, 1, grouped, lanes);
    for (; i < end; i++) {
        const vec g = load_left(AT(t->y, i * t->y_step), left);
        FC_UNROLL for (int j = 0; j < count; j++)
            sum[j] += depthwise_see(AT(x[j], i * t->x_step), left, grouped, lanes) * g;
    }
    FC_UNROLL for (int j = 0; j < count; j++)
        store_left(AT(t->dw, t->filter_taps[k + j] + channel * t->filter_step), sum[j], FILTERS);
}

FC_INLINE void depthwise_filter_run(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, const int width,
                                    const int stride, const int grouped, mask lanes) {
    /* Of groups a few pixels, which stay in L1 for all their channels. */
    const ptrdiff_t part = grouped ? 8 : t->pixels;
    const int most = width == 5 ? 10 : 9;
    for (ptrdiff_t i = 0; i < t->pixels; i += part) {
        const ptrdiff_t end = i + part < t->pixels ? i + part : t->pixels;
        for (ptrdiff_t g = 0; g < DEPTH; g++) {
            const mask see = lanes + (FC_INT)g;
            ptrdiff_t k = 0;
            for (; k + most <= t->n_taps; k += most)
                depthwise_taps(t, c, left, i, end, k, most, width, stride, g, grouped, see);
            for (; k + width <= t->n_taps; k += width)
                depthwise_taps(t, c, left, i, end, k, width, width, stride, g, grouped, see);
            for (; k < t->n_taps; k++) depthwise_taps(t, c, left, i, end, k, 1, 1, 0, g, grouped, see);
        }
    }
}

FC_INLINE void depthwise_filters(const fc_depthwise *t, const int width, const int stride, const int grouped,
                                 mask lanes) {
    ptrdiff_t c = 0;
    for (; !grouped && c + VL <= t->channels; c += VL) depthwise_filter_run(t, c, VL, width, stride, grouped, lanes);
    if (c < t->channels) depthwise_filter_run(t, c, t->channels - c, width, stride, grouped, lanes);
}

FC_INLINE int depthwise_filters_in_grids(const fc_depthwise *t, const int width, const int grouped, mask lanes) {
    switch (t->pixels < 4 ? 0 : depthwise_stride(t, width)) {
    case 1: depthwise_filters(t, width, 1, grouped, lanes); return 1;
    case 2: depthwise_filters(t, width, 2, grouped, lanes); return 1;
    }
    return 0;
}

FC_INLINE void depthwise_filters_all(const fc_depthwise *t, const int grouped, mask lanes) {
    if (depthwise_filters_in_grids(t, 3, grouped, lanes)) return;
    if (!grouped && depthwise_filters_in_grids(t, 5, 0, lanes)) return;
    depthwise_filters(t, 3, 0, grouped, lanes);
}

static void FC_NAME(depthwise_filter_backward)(const fc_depthwise *t) { depthwise_filters_all(t, 0, (mask){0}); }
static void FC_NAME(grouped_filter_backward)(const fc_depthwise *t) {
    if (VL > 2) depthwise_filters_all(t, 1, depthwise_lanes(t));
}

/* What `count` pixels from i on, and those below, add to the gradients of 3 x 3 taps, as depthwise_taps_grid. */
FC_INLINE void depthwise_taps_two(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left, vec *sum, ptrdiff_t i,
                                  const int count) {
    const int width = 3, stride = 1, columns = count + 2;
    const ptrdiff_t *rows = t->taps, step = t->x_step;
    const ptrdiff_t before = COLUMNS_BEFORE(i), behind = COLUMNS_BEHIND(i, count);
    vec upper[4], lower[4];
    FC_UNROLL for (int j = 0; j < count; j++) {
        upper[j] = load_left(AT(t->y, (i + j) * t->y_step), left);
        lower[j] = load_left(AT(t->y, t->y_row + (i + j) * t->y_step), left);
        FC_KEEP(upper[j]);
        FC_KEEP(lower[j]);
    }
    FC_UNROLL for (int r = 0; r < 4; r++) {
        if (rows[r] < 0) continue;
        FC_UNROLL for (int q = 0; q < columns; q++) {
            if (OUTSIDE(q)) continue;
            vec v = load_left(AT(t->x, rows[r] + (i + q) * step), left);
            FC_KEEP(v);
            FC_UNROLL for (int s = 0; s < 3; s++) if (BELONGS(q, s, count)) {
                if (r < 3) sum[3 * r + s] += v * upper[PIXEL(q, s)];
                if (r > 0) sum[3 * r - 3 + s] += v * lower[PIXEL(q, s)];
            }
        }
    }
}

/* All pixels of both rows, for a vector of channels. */
FC_INLINE void depthwise_filters_two(const fc_depthwise *t, ptrdiff_t c, ptrdiff_t left) {
    enum { count = FC_REGISTERS >= 32 ? 4 : 2 };
    vec sum[9];
    ptrdiff_t i = 0;
    FC_UNROLL for (int k = 0; k < 9; k++) sum[k] = load_left(AT(t->dw, t->filter_taps[k]), left);
    /* What the next two rows see and none before them, and their gradients. */
    const ptrdiff_t done = 2 * c * t->pixels * (ptrdiff_t)sizeof(FC_T);
    const char *next_x = (t->next_x ? t->next_x : t->x + t->taps[3] + t->pixels * t->x_step) + done;
    const char *next_y = (t->next_y ? t->next_y : t->y + 2 * t->y_row) + done;
    for (; i + count <= t->pixels; i += count) {
        if (t->prefetch) {
            FC_UNROLL for (int j = 0; j < 2 * count; j++, next_x += FC_VECTOR_BYTES) __builtin_prefetch(next_x);
            FC_UNROLL for (int j = 0; j < 2 * count; j++, next_y += FC_VECTOR_BYTES) __builtin_prefetch(next_y);
        }
        depthwise_taps_two(t, c, left, sum, i, count);
    }
    if (count == 4 && i + 2 <= t->pixels) {
        depthwise_taps_two(t, c, left, sum, i, 2);
        i += 2;
    }
    if (i < t->pixels) depthwise_taps_two(t, c, left, sum, i, 1);
    FC_UNROLL for (int k = 0; k < 9; k++) store_left(AT(t->dw, t->filter_taps[k]), sum[k], left);
}

static void FC_NAME(depthwise_filter_pair)(const fc_depthwise *t) {
    ptrdiff_t c = 0;
    for (; c + VL <= t->channels; c += VL) depthwise_filters_two(t, c, VL);
    if (c < t->channels) depthwise_filters_two(t, c, t->channels - c);
}

#undef PIXEL
#undef OUTSIDE
#undef COLUMNS_BEFORE
#undef COLUMNS_BEHIND
#undef DEPTH
#undef FILTERS
#undef BELONGS
#undef AT
