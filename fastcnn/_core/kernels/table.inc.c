/* One table: every body compiled for float and for double under the ISA that the including stub sets.
 * All symbols but the table are static, so that no wide instruction can leak into another path. */
#include "kernels.h"

#define FC_TILE_ENTRY(ROWS, VECS) FC_NAME(tile_##ROWS##x##VECS)
#define FC_WINOGRAD_ENTRY(POINTS)                                                                    \
    {FC_NAME(winograd_input_##POINTS), FC_NAME(winograd_filter_##POINTS),                            \
     FC_NAME(winograd_output_##POINTS), FC_NAME(winograd_output_backward_##POINTS),                  \
     FC_NAME(winograd_filter_backward_##POINTS)}
#define FC_NARROW_ENTRY(N) FC_NAME(narrow_##N),
#define FC_NARROW_FILTERS_ENTRY(N) FC_NAME(narrow_filters_##N),
#define FC_ROW                                                                                       \
    {                                                                                                \
        .itemsize = sizeof(FC_T), .lanes = FC_VECTOR_BYTES / sizeof(FC_T), .max_rows = FC_TILE_ROWS, \
        .panel_vectors = FC_PANEL_VECTORS, .row_vectors = FC_ROW_VECTORS,                            \
        .tile = FC_TILES(FC_TILE_ENTRY),                                                             \
        .stream = {FC_NAME(stream_1), FC_NAME(stream_2), FC_NAME(stream_3), FC_NAME(stream_4)},      \
        .dot = {FC_NAME(dot_1), FC_NAME(dot_2), FC_NAME(dot_3), FC_NAME(dot_4)},                     \
        .pack_rows = FC_NAME(pack_rows), .past_done = stores_past_done,                              \
        .pack_transposed = FC_NAME(pack_transposed), .max_pool = FC_NAME(max_pool),                  \
        .max_pool_backward = FC_NAME(max_pool_backward), .avg_pool = FC_NAME(avg_pool),              \
        .avg_pool_backward = FC_NAME(avg_pool_backward),                                             \
        .winograd = {FC_WINOGRAD_ENTRY(4), FC_WINOGRAD_ENTRY(6), FC_WINOGRAD_ENTRY(8)},              \
        .depthwise = FC_NAME(depthwise), .depthwise_pair = FC_NAME(depthwise_pair),                  \
        .depthwise_filter_backward = FC_NAME(depthwise_filter_backward),                             \
        .depthwise_filter_pair = FC_NAME(depthwise_filter_pair), .grouped = FC_NAME(grouped),        \
        .grouped_filter_backward = FC_NAME(grouped_filter_backward),                                 \
        .transpose = FC_NAME(transpose), .narrow_most = FC_NARROW_MOST,                              \
        .narrow = {FC_NARROW_ALL(FC_NARROW_ENTRY)},                                                  \
        .narrow_filters = {FC_NARROW_ALL(FC_NARROW_FILTERS_ENTRY)},                                  \
        .narrow_sums = FC_NAME(narrow_sums),                                                         \
        .narrow_pool = FC_NAME(narrow_pool), .narrow_pool_backward = FC_NAME(narrow_pool_backward),  \
        .map = {[FC_RELU] = FC_NAME(relu), [FC_CLIPPED_RELU] = FC_NAME(clipped_relu),                \
                [FC_CLIPPED_RELU_BACKWARD] = FC_NAME(clipped_relu_backward),                         \
                [FC_LEAKY_RELU] = FC_NAME(leaky_relu),                                               \
                [FC_LEAKY_RELU_BACKWARD] = FC_NAME(leaky_relu_backward),                             \
                [FC_SIGMOID] = FC_NAME(sigmoid), [FC_SIGMOID_BACKWARD] = FC_NAME(sigmoid_backward),  \
                [FC_TANH] = FC_NAME(tanh), [FC_TANH_BACKWARD] = FC_NAME(tanh_backward),              \
                [FC_HARD_SIGMOID] = FC_NAME(hard_sigmoid),                                           \
                [FC_HARD_SIGMOID_BACKWARD] = FC_NAME(hard_sigmoid_backward),                         \
                [FC_HARD_SWISH] = FC_NAME(hard_swish),                                               \
                [FC_HARD_SWISH_BACKWARD] = FC_NAME(hard_swish_backward),                             \
                [FC_SILU] = FC_NAME(silu), [FC_SILU_BACKWARD] = FC_NAME(silu_backward),              \
                [FC_GELU] = FC_NAME(gelu), [FC_GELU_BACKWARD] = FC_NAME(gelu_backward),              \
                [FC_GELU_TANH] = FC_NAME(gelu_tanh),                                                 \
                [FC_GELU_TANH_BACKWARD] = FC_NAME(gelu_tanh_backward), [FC_ADD] = FC_NAME(add)},     \
        .row_map = {[FC_SOFTMAX] = FC_NAME(softmax), [FC_LOG_SOFTMAX] = FC_NAME(log_softmax),        \
                    [FC_SOFTMAX_BACKWARD] = FC_NAME(softmax_backward),                               \
                    [FC_LOG_SOFTMAX_BACKWARD] = FC_NAME(log_softmax_backward)},                      \
        .relu_backward = FC_NAME(relu_backward),                                                     \
        .column_sum = FC_NAME(column_sum), .bias_add = FC_NAME(bias_add),                            \
        .normalize_moments = FC_NAME(normalize_moments), .normalize = FC_NAME(normalize),            \
        .normalize_sums = FC_NAME(normalize_sums), .normalize_backward = FC_NAME(normalize_backward), \
        .layer_normalize = FC_NAME(layer_normalize),                                                 \
        .layer_normalize_backward = FC_NAME(layer_normalize_backward),                               \
        .softmax_cross_entropy = FC_NAME(softmax_cross_entropy), .dropout = FC_NAME(dropout),        \
        .sgd = FC_NAME(sgd), .adam = FC_NAME(adam), .fma_rounds = FC_NAME(fma_rounds),               \
    }

#define FC_T float
#define FC_INT int32_t
#define FC_SUFFIX f32
#include "simd.h"
#include "gemm.inc.c"
#include "winograd.inc.c"
#include "depthwise.inc.c"
#include "pool.inc.c"
#include "narrow.inc.c"
#include "elementwise.inc.c"
static const fc_kernels table_f32 = FC_ROW;
#undef FC_T
#undef FC_INT
#undef FC_SUFFIX

#define FC_T double
#define FC_INT int64_t
#define FC_SUFFIX f64
#include "simd.h"
#include "gemm.inc.c"
#include "winograd.inc.c"
#include "depthwise.inc.c"
#include "pool.inc.c"
#include "narrow.inc.c"
#include "elementwise.inc.c"
static const fc_kernels table_f64 = FC_ROW;
