#define FC_VECTOR_BYTES 16
#define FC_REGISTERS 16
#include "table.inc.c"
const fc_isa fc_isa_sse2 = {"sse2", &table_f32, &table_f64};
