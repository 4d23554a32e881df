#define FC_VECTOR_BYTES 16
#define FC_REGISTERS 32
#include "table.inc.c"
const fc_isa fc_isa_neon = {"neon", &table_f32, &table_f64};
