/* Which tables this CPU can run.  FC_HAVE_* come from setup.py: the stubs that the target's compiler could build. */
#include "kernels.h"

extern const fc_isa fc_isa_scalar, fc_isa_sse2, fc_isa_avx2, fc_isa_avx512, fc_isa_neon;

int fc_available(const fc_isa **isas) {
    int n = 0;
    isas[n++] = &fc_isa_scalar;
#if defined(__x86_64__)
    /* These builtins read cpuid and what the operating system saves on a context switch. */
    __builtin_cpu_init();
#ifdef FC_HAVE_SSE2
    isas[n++] = &fc_isa_sse2; /* part of x86-64 */
#endif
#ifdef FC_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas[n++] = &fc_isa_avx2;
#endif
#ifdef FC_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        isas[n++] = &fc_isa_avx512;
#endif
#elif defined(__aarch64__) && defined(FC_HAVE_NEON)
    isas[n++] = &fc_isa_neon; /* part of AArch64 */
#endif
    return n;
}
