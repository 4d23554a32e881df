#define FC_VECTOR_BYTES sizeof(FC_T)
#define FC_REGISTERS 16
#include "table.inc.c"
const fc_isa fc_isa_scalar = {"scalar", &table_f32, &table_f64};
