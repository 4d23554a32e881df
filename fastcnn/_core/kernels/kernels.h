/* The kernel table: every leaf that C owns, one row per element type, one table per ISA.
 *
 * A leaf is a column of register tiles, or a row of pixels or a few rows of an array, each along a contiguous run of
 * channels.  Loops over images, bands and blocks, packing, and threads belong to the Cython drivers, which reach a leaf
 * only through this table.
 * Pointers are untyped so that one driver serves float and double; all strides are in BYTES, all counts
 * in elements.  No leaf allocates, locks, or keeps state; none reads or writes outside the elements that
 * its comment names ("tail rule").
 */
#ifndef FC_KERNELS_H
#define FC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define FC_LINE 64     /* bytes of a line of the caches */
#define FC_MAX_ROWS 14 /* rows of the tallest register tile of any ISA */
#define FC_WIDTHS 8    /* vectors of the widest register tile */
#define FC_STREAM_ROWS 4
#define FC_WINOGRAD_TILES 3
#define FC_DOT_ROWS 4
#define FC_NARROW_FILTERS 8
#define FC_NARROW_STEP 4 /* taps, of which a leaf has the sums in registers at a time, or half of them */

/* C[m, n] = act(start[n] + sum_k A[m, k] B[k, n]) for one register tile.
 *
 * The reduction is n_runs runs of run_length elements: element k of run r of row m lies at
 * a + runs[r] + m * a_row + k * a_step, and the matching row of B follows at every b_step, over all runs.
 * start is the bias (NULL: zero) plus, where residual is not 0, what lies so many bytes from C, laid out as C; or C
 * itself where accumulate is set.  relu clamps below at zero, where it is 2 also above at six; NaN stays.
 * past: C is written past the caches, its rows begin at multiples of a vector's size; see past_done.
 * What will be read soon is asked for in three places, ahead_apart bytes from one to the next, of which ahead is the
 * first: all move on by ahead_step, at most a line of the caches, with every other k, until a tile ends with ahead at
 * ahead_end or beyond.
 * Tail rule: B and bias are read in whole vectors; C and residual only in their first `columns` columns.
 * Overwrites C; every element is one chain of multiply-adds in the order of k, in every tile shape,
 * so that results do not depend on how the drivers cut the work. */
typedef struct {
    const char *a;
    const ptrdiff_t *runs;
    ptrdiff_t n_runs, run_length, a_row, a_step;
    const char *b;
    ptrdiff_t b_step;
    const char *bias;
    char *c;
    ptrdiff_t c_row, columns, residual;
    const char *ahead, *ahead_end;
    ptrdiff_t ahead_step, ahead_apart;
    int accumulate, relu, past;
} fc_tile;

/* C[m, n] = act(start[n] + sum_k A[m, k] B[n, k]), k contiguous in both, for up to 4 rows and any number of columns.
 * Sums VL partial sums, then their tree.  Tail rule: reads only k < length. */
typedef struct {
    const char *a;
    ptrdiff_t a_row;
    const char *b;
    ptrdiff_t b_row, length;
    const char *bias;
    char *c;
    ptrdiff_t c_row, columns;
    int relu;
} fc_dot;

/* `pixels` output pixels of one row, each reduced over n_taps input pixels of `channels` contiguous channels.
 * Tap t of pixel i lies at x + i * x_step + taps[t].  Backward adds into dx, laid out as x, for the taps
 * first_tap <= t < last_tap only, so that a driver can own a band of rows.  Reads and writes nothing outside these
 * pixels, their windows, and what lies between them in a row. */
typedef struct {
    const char *x;
    ptrdiff_t x_step;
    const ptrdiff_t *taps;
    ptrdiff_t n_taps, first_tap, last_tap;
    char *y; /* forward: result; backward: the gradient that comes in */
    ptrdiff_t y_step, pixels, channels;
    char *dx;
    /* Number of the tap that won, of an element as y's: the maximum writes it, its gradient takes it in place of x.
     * NULL: it is not kept. */
    uint8_t *argmax;
    double scale; /* of an average: 1 / number of taps */
    int tiled;    /* windows lie side by side in a row, without gap or overlap, and rows do not share any */
    int threes;   /* windows are 3 pixels wide, at a stride of 2 */
    /* Of maxima of whole windows of 2 x 2 pixels, with argmax, backward can go through a relu before them, as in fc_norm,
     * too: its results lie in `result` as y does, and the sums over the pixels of what it lets through are added to
     * `total`, in whole vectors of channels.  NULL: there is none. */
    const char *result;
    char *total;
    int relu;
} fc_pool;

/* `pixels` output pixels of one row, each channel c with a filter of its own:
 * y[i, c] = act(bias[c] + sum_t x[i, t, c] w[t, c]), and dw[t, c] += sum_i x[i, t, c] y[i, c] in the backward leaf.
 * Tap t of pixel i lies at x + i * x_step + taps[t], its filter at w (dw) + filter_taps[t].
 * Grouped: up to a vector of filters c, each of which sees `depth` channels of a vector x[i, t] from lanes[c] on, their
 * filters filter_step bytes apart: y[i, c] = act(bias[c] + sum_t,d x[i, t, lanes[c] + d] w[t, d, c]), and dw[t, d, c].
 * Tail rule: reads and writes these pixels, taps and filters in their channels only; grouped, whole vectors of x. */
typedef struct {
    const char *x;
    ptrdiff_t x_step;
    const ptrdiff_t *taps;
    const char *w;
    char *dw;
    const ptrdiff_t *filter_taps;
    ptrdiff_t n_taps;
    const char *bias; /* NULL: zero */
    char *y;
    ptrdiff_t y_step, pixels, channels, residual; /* as of fc_tile */
    int relu, prefetch; /* prefetch: 1: ask for what the next row reads (of pairs the next pixels) and what the next
                         * pixels write, which lie far away; 2: for what they write only */
    int past; /* y is written past the caches: its pixels are whole vectors, at multiples of their size */
    /* Taps are in rows of so many columns.  So many of the first pixel's first columns, and of the last pixel's last, are
     * outside and not read: at most half a row's, of 3 or 5 columns that are neighbours, where there are 4 pixels or
     * more, from one to the next 1 or 2 columns; none where it is grouped and there are 5. */
    int width, left, right;
    ptrdiff_t depth, filter_step;
    const ptrdiff_t *lanes;
    /* depthwise_pair and depthwise_filter_pair: the same pixels of the next row of y too, so many bytes on.  Both see 3 x 3
     * taps, pixels that are neighbours, of the four rows at x + taps, of which those below zero are outside; 4 pixels or
     * more.  filter_taps are in the order of what the upper row sees. */
    ptrdiff_t y_row;
    /* What prefetch asks for in place of x, and of y that is read, where these are made of it: of two rows, the second is
     * next_row bytes on.  NULL: of x and y themselves. */
    const char *next_x, *next_y;
    ptrdiff_t next_row;
} fc_depthwise;

/* Pixels of planes, of one channel each: plane k of the result lies at y + k * y_plane, and tap t of its pixels is as
 * many neighbours of some plane of the input, from x + taps[t] on.
 * narrow: y[k, p] = act(bias[k] + y[k, p] + sum_t x[t, p] w[t, k]) for N filters k, whose numbers of tap t lie side by
 * side at w + t * w_tap; y itself counts where `adds` is set.  Every element is one chain as a tile's.
 * narrow_filters: sums[t, k] += sum_p x[t, p] y[k, p], lane by lane: of a tap there are `filters` vectors of sums, of
 * which it takes N.  Taps are whole FC_NARROW_STEPs.
 * narrow_pool: of two rows of pixels in `filters` planes, the second y_row from the first, the maxima of 2 x 2, `pixels`
 * of them, to pixels of as many channels at `maxima`, maxima_pixel bytes apart, and which of the four each is to argmax,
 * NULL: that is not wanted.  narrow_pool_backward: from what comes in for these, dense, and relu's result as in fc_pool,
 * the gradients of the two rows, zeros behind them, and to a tap's sums the sums of what relu lets through.  Both take
 * room for 4 * filters runs of half a row in whole vectors.
 * Tail rule: planes are read and written in whole vectors, and but by narrow_filters in pairs of vectors; what the last
 * one has too many lies behind a row. */
typedef struct {
    const char *x;
    const ptrdiff_t *taps;
    ptrdiff_t n_taps;
    const char *w;
    ptrdiff_t w_tap;
    const char *bias; /* NULL: zero */
    char *y;
    ptrdiff_t y_row, y_plane, pixels, filters;
    char *sums;
    int adds, relu;
    char *maxima;
    ptrdiff_t maxima_pixel;
    const char *result;
    uint8_t *argmax;
    char *room;
} fc_narrow;

/* One tile of Winograd's F(m x m, 3x3): (m + 2) x (m + 2) points, from one to the next `point` bytes, each a run of
 * `channels`.  input: as many pixels from x on, x_row and x_col bytes apart, to the points at y; those outside of rows
 * row <= i < rows and columns col <= j < cols are zero and not read.  filter: 3 x 3 taps at x, likewise, to the points at
 * y.  output: the points at x to the first rows x cols of m x m pixels at y, y_row and y_col bytes apart, with bias
 * (NULL: zero), residual (as of fc_tile) and relu.  Their transposes, for the filters' gradient: output_backward takes
 * m x m pixels at x, of which some may lie outside as input's, to the points at y; filter_backward takes the points at x
 * to 3 x 3 taps at y.  All but filter and filter_backward also ask for m x m pixels from `ahead` on, as far apart as
 * those at x, or at y for output; they may lie anywhere, NULL: none.
 * Tail rule: pixels and taps are read and written in their channels only, points and bias in whole vectors. */
typedef struct {
    const char *x;
    ptrdiff_t x_row, x_col;
    char *y;
    ptrdiff_t y_row, y_col, point, channels;
    const char *bias;
    ptrdiff_t residual;
    int row, col, rows, cols, relu;
    const char *ahead;
} fc_winograd;

typedef struct {
    void (*input)(const fc_winograd *);
    void (*filter)(const fc_winograd *);
    void (*output)(const fc_winograd *);
    void (*output_backward)(const fc_winograd *);
    void (*filter_backward)(const fc_winograd *);
} fc_winograd_leaves;

/* out = f(a, b), element by element; out may be a or b. */
enum {
    FC_RELU,
    FC_CLIPPED_RELU,          /* at most alpha */
    FC_CLIPPED_RELU_BACKWARD, /* a: gradient, b: argument or result */
    FC_LEAKY_RELU,
    FC_LEAKY_RELU_BACKWARD, /* a: gradient, b: argument or result (alpha > 0) */
    FC_SIGMOID,
    FC_SIGMOID_BACKWARD, /* a: gradient, b: result */
    FC_TANH,
    FC_TANH_BACKWARD, /* a: gradient, b: result */
    FC_HARD_SIGMOID, /* relu6(a + 3) / 6 */
    FC_HARD_SIGMOID_BACKWARD, /* a: gradient, b: result */
    FC_HARD_SWISH,
    FC_HARD_SWISH_BACKWARD, /* from here on a: gradient, b: argument */
    FC_SILU,
    FC_SILU_BACKWARD,
    FC_GELU,
    FC_GELU_BACKWARD,
    FC_GELU_TANH,
    FC_GELU_TANH_BACKWARD,
    FC_ADD, /* a + b */
    FC_MAPS
};
typedef void fc_map(ptrdiff_t n, const void *a, const void *b, void *out, double alpha);

/* Dense rows, and values per column c.
 * normalize: y = act((x - mean) * scale + offset + residual), where there is one.
 * normalize_moments: total[c] += sum (x - mean) and dot[c] += sum (x - mean)^2 over the rows.
 * With g, the gradient of the result before the activation: what comes in, or zero where relu cut the result off:
 * normalize_sums: total[c] += sum g and dot[c] += sum g (x - mean) over the rows.
 * normalize_backward: y = scale * (g - g_mean - (x - mean) * slope).
 * Tail rule: reads and writes these rows and columns only. */
typedef struct {
    ptrdiff_t rows, columns;
    const char *x, *residual, *g, *mean, *scale, *offset, *g_mean, *slope;
    char *y, *total, *dot;
    int relu; /* 0: no activation, 1: relu, 2: relu cut off at 6 */
    /* Whether y is written past the caches; its rows then begin at multiples of a vector's size.  Sums, which else write
     * no y, copy what they are over to it: x of the moments, g as it comes in. */
    int past;
    ptrdiff_t x_gap; /* normalize: bytes between rows of x, which then are not dense */
} fc_norm;

/* One row: y = softmax(x), and so on. a, b as in fc_map. */
enum { FC_SOFTMAX, FC_LOG_SOFTMAX, FC_SOFTMAX_BACKWARD, FC_LOG_SOFTMAX_BACKWARD, FC_ROW_MAPS };
typedef void fc_row_map(ptrdiff_t n, const void *a, const void *b, void *out);

typedef struct {
    ptrdiff_t itemsize, lanes;
    ptrdiff_t max_rows[FC_WIDTHS]; /* tallest tile of each width in vectors; 0 where there is none of that width */
    ptrdiff_t panel_vectors;       /* the width that runs fastest, for which panels of B are packed */
    ptrdiff_t row_vectors;         /* the widest tile of one row */
    /* So many tiles, each below the last one. [vectors - 1][rows - 1] */
    void (*tile[FC_WIDTHS][FC_MAX_ROWS])(const fc_tile *, ptrdiff_t tiles);
    /* A few rows of C of any width, reduced over one run, by streaming through rows of B; as fc_tile, but the tail rule:
     * reads and writes the first `columns` columns only.  Two rows and more ask for what of B lies ahead_apart bytes
     * beyond what they read, unless that is 0.  [rows - 1] */
    void (*stream[FC_STREAM_ROWS])(const fc_tile *);
    void (*past_done)(void); /* for a thread whose tiles were written past the caches to call */
    void (*dot[FC_DOT_ROWS])(const fc_dot *); /* [rows of A - 1] */

    /* dst[k][j] = src[k][j] (pack_rows) or src[j][k] (pack_transposed) for j < columns, zero up to width. */
    void (*pack_rows)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const void *src, ptrdiff_t stride,
                      void *dst);
    void (*pack_transposed)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const void *src,
                            ptrdiff_t stride, void *dst);
    /* As pack_transposed, but for rows of dst that lie dst_row bytes apart. */
    void (*transpose)(ptrdiff_t depth, ptrdiff_t columns, ptrdiff_t width, const void *src, ptrdiff_t stride,
                      void *dst, ptrdiff_t dst_row);

    fc_winograd_leaves winograd[FC_WINOGRAD_TILES]; /* [m / 2 - 1] */

    void (*depthwise)(const fc_depthwise *);
    void (*depthwise_pair)(const fc_depthwise *);
    void (*depthwise_filter_backward)(const fc_depthwise *);
    void (*depthwise_filter_pair)(const fc_depthwise *);
    void (*grouped)(const fc_depthwise *);
    void (*grouped_filter_backward)(const fc_depthwise *);

    ptrdiff_t narrow_most; /* the most filters N of the next two */
    void (*narrow[FC_NARROW_FILTERS])(const fc_narrow *);         /* [N - 1] */
    void (*narrow_filters[FC_NARROW_FILTERS])(const fc_narrow *); /* [N - 1] */
    /* out[i] = the sum over `parts`, part_bytes apart, of all lanes of vector i of sums, i < n. */
    void (*narrow_sums)(ptrdiff_t n, ptrdiff_t parts, ptrdiff_t part_bytes, const void *sums, void *out);
    void (*narrow_pool)(const fc_narrow *);
    void (*narrow_pool_backward)(const fc_narrow *);

    void (*max_pool)(const fc_pool *); /* the first NaN, or the maximum */
    void (*max_pool_backward)(const fc_pool *);
    void (*avg_pool)(const fc_pool *);
    void (*avg_pool_backward)(const fc_pool *);

    fc_map *map[FC_MAPS];
    fc_row_map *row_map[FC_ROW_MAPS];
    /* out = g, or g + h unless h is NULL, and 0 where a relu, as in fc_norm, has cut its result y off.  past: out, at a
     * multiple of a vector's size, is written past the caches, and what comes a page later is asked for. */
    void (*relu_backward)(ptrdiff_t n, const void *g, const void *h, const void *y, int relu, int past, void *out);
    /* out[c] += sum over rows of x[row, c], rows dense. */
    void (*column_sum)(ptrdiff_t rows, ptrdiff_t columns, const void *x, void *out);

    /* y = act(x + bias), row by row. */
    void (*bias_add)(ptrdiff_t rows, ptrdiff_t columns, const void *x, const void *bias, int relu, void *y);
    void (*normalize_moments)(const fc_norm *);
    void (*normalize)(const fc_norm *);
    void (*normalize_sums)(const fc_norm *);
    void (*normalize_backward)(const fc_norm *);
    /* Dense rows: y = (x - mean) * inverse * scale + offset with the row's own mean and 1 / sqrt(variance + epsilon).
     * Backward, from the gradient g of y: with h = g * scale and z = (x - mean) * inverse,
     * dx = (h - mean(h) - z * mean(h * z)) * inverse, and dscale += sum over the rows of g * z. */
    void (*layer_normalize)(ptrdiff_t rows, ptrdiff_t columns, const void *x, const void *scale,
                            const void *offset, double epsilon, void *y);
    void (*layer_normalize_backward)(ptrdiff_t rows, ptrdiff_t columns, const void *g, const void *x,
                                     const void *scale, double epsilon, void *dx, void *dscale);
    /* One row: dx = softmax(x) * sum(t) - t; returns sum_c t[c] (log sum_j exp x[j] - x[c]). */
    double (*softmax_cross_entropy)(ptrdiff_t n, const void *x, const void *t, void *dx);

    /* y[i] = x[i] * scale where word(first + i) >= threshold, else 0; word(i) is word i % 4 of Philox4x32-10
     * at counter i / 4 under key = seed.  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. */
    void (*dropout)(ptrdiff_t n, const void *x, uint64_t seed, uint64_t first, uint32_t threshold, double scale,
                    void *y);

    /* In place over one run of parameters. sgd: v may be NULL where momentum is 0. */
    void (*sgd)(ptrdiff_t n, void *p, const void *g, void *v, double rate, double momentum, int nesterov,
                double decay);
    void (*adam)(ptrdiff_t n, void *p, const void *g, void *m, void *v, double alpha, double beta_1,
                 double beta_2, double epsilon, double rate_decay);

    /* Keeps every multiply-add unit busy for `rounds` rounds; returns the floating-point operations done. */
    double (*fma_rounds)(ptrdiff_t rounds);
} fc_kernels;

typedef struct {
    const char *name;
    const fc_kernels *f32, *f64;
} fc_isa;

/* dispatch.c: the tables that this build has and this CPU can run, from the simplest to the best;
 * fills isas, which has room for FC_MAX_ISAS, and returns how many. */
#define FC_MAX_ISAS 8
int fc_available(const fc_isa **isas);

#endif
