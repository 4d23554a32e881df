#define FC_VECTOR_BYTES 32
#define FC_REGISTERS 16
#define FC_MASKED_MOVES 32
#include "table.inc.c"
const fc_isa fc_isa_avx2 = {"avx2", &table_f32, &table_f64};
