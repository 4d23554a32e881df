#define FC_VECTOR_BYTES 64
#define FC_REGISTERS 32
#define FC_MASKED_MOVES 64
#include "table.inc.c"
const fc_isa fc_isa_avx512 = {"avx512", &table_f32, &table_f64};
