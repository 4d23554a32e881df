/* The vector type of the ISA and of the element type being compiled.
 *
 * A stub (isa_*.c) sets FC_VECTOR_BYTES, and FC_MASKED_MOVES to the same where the ISA has them; table.inc.c sets the
 * element type FC_T, its integer twin FC_INT and its suffix, then includes this file and the bodies once for float and
 * once for double.
 * Everything is GCC/Clang vector extensions; intrinsics are what they have no word for: masked moves, those past the
 * caches, and the larger of two.
 */
#ifndef FC_SIMD_H
#define FC_SIMD_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef FC_MASKED_MOVES
#include <immintrin.h>
#endif

#define FC_CAT_(a, b) a##b
#define FC_CAT(a, b) FC_CAT_(a, b)
#define FC_NAME(name) FC_CAT(name, FC_CAT(_, FC_SUFFIX)) /* name_f32 or name_f64 */
#define FC_INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define FC_UNROLL _Pragma("clang loop unroll(full)")
#define FC_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define FC_UNROLL _Pragma("GCC unroll 32")
#define FC_ROLLED _Pragma("GCC unroll 1")
#endif

/* FC_KEEP keeps a vector in a register: GCC would read it from memory again for each of its few uses, which makes tiles
 * of up to 3 rows load-bound (3 x 4 vectors of AVX-512: 34 % of the peak instead of 87 %).
 * FC_HERE has a constant made where it is used: made before a loop that needs all registers, it would take one. */
#if defined(__AVX512F__)
#define FC_KEEP(v) __asm__("" : "+v"(v))
#define FC_HERE(v) __asm__ volatile("" : "+v"(v))
#elif defined(__AVX__)
#define FC_KEEP(v) __asm__("" : "+x"(v))
#define FC_HERE(v) __asm__ volatile("" : "+x"(v))
#else
#define FC_KEEP(v) ((void)0)
#define FC_HERE(v) ((void)0)
#endif

/* Has a pointer in a register before it is used again: GCC would make an address of each sum that leads to it. */
#define FC_HOLD(p) __asm__("" : "+r"(p))

#define FC_COMMA ,
#define VL ((ptrdiff_t)(FC_VECTOR_BYTES / sizeof(FC_T))) /* lanes of a register */
#define vec FC_NAME(vec)
#define mask FC_NAME(mask)
#define vec_at FC_NAME(vec_at)
#define load FC_NAME(load)
#define store FC_NAME(store)
#define splat FC_NAME(splat)
#define store_past FC_NAME(store_past)
#define stores_past_done FC_NAME(stores_past_done)
#define blend FC_NAME(blend)
#define copy_part FC_NAME(copy_part)
#define first_lanes FC_NAME(first_lanes)
#define load_part FC_NAME(load_part)
#define store_part FC_NAME(store_part)
#define load_left FC_NAME(load_left)
#define store_left FC_NAME(store_left)
#define larger FC_NAME(larger)
#define smaller FC_NAME(smaller)
#define vrelu FC_NAME(vrelu)
#define vrelu6 FC_NAME(vrelu6)
#define clamp FC_NAME(clamp)
#define sum_lanes FC_NAME(sum_lanes)
#define fold FC_NAME(fold)
#define sum_lanes_of_4 FC_NAME(sum_lanes_of_4)
#define rotate FC_NAME(rotate)
#define to_boundary FC_NAME(to_boundary)
#define permute FC_NAME(permute)
#define permute_two FC_NAME(permute_two)

#endif

/* A register, the result of comparing two (all ones or all zeros per lane), a register at any address. */
typedef FC_T vec __attribute__((vector_size(FC_VECTOR_BYTES), may_alias));
typedef FC_INT mask __attribute__((vector_size(FC_VECTOR_BYTES)));
typedef FC_T vec_at __attribute__((vector_size(FC_VECTOR_BYTES), aligned(sizeof(FC_T)), may_alias));

FC_INLINE vec load(const FC_T *p) { return *(const vec_at *)p; }
FC_INLINE void store(FC_T *p, vec v) { *(vec_at *)p = v; }
FC_INLINE vec splat(FC_T x) { return x - (vec){0}; }
FC_INLINE vec blend(mask m, vec yes, vec no) { return (vec)(((mask)yes & m) | ((mask)no & ~m)); }

/* a > b ? a : b and a < b ? a : b; so b where one is NaN. */
#if FC_MASKED_MOVES == 64
FC_INLINE vec larger(vec a, vec b) {
    return sizeof(FC_T) == 4 ? (vec)_mm512_max_ps((__m512)a, (__m512)b) : (vec)_mm512_max_pd((__m512d)a, (__m512d)b);
}
FC_INLINE vec smaller(vec a, vec b) {
    return sizeof(FC_T) == 4 ? (vec)_mm512_min_ps((__m512)a, (__m512)b) : (vec)_mm512_min_pd((__m512d)a, (__m512d)b);
}
#elif FC_MASKED_MOVES == 32
FC_INLINE vec larger(vec a, vec b) {
    return sizeof(FC_T) == 4 ? (vec)_mm256_max_ps((__m256)a, (__m256)b) : (vec)_mm256_max_pd((__m256d)a, (__m256d)b);
}
FC_INLINE vec smaller(vec a, vec b) {
    return sizeof(FC_T) == 4 ? (vec)_mm256_min_ps((__m256)a, (__m256)b) : (vec)_mm256_min_pd((__m256d)a, (__m256d)b);
}
#else
FC_INLINE vec larger(vec a, vec b) { return blend(a > b, a, b); }
FC_INLINE vec smaller(vec a, vec b) { return blend(a < b, a, b); }
#endif

FC_INLINE vec vrelu(vec x) { return larger((vec){0}, x); } /* NaN stays */
FC_INLINE vec vrelu6(vec x) { return smaller(splat((FC_T)6), vrelu(x)); }
FC_INLINE vec clamp(vec x, int relu) { return relu == 1 ? vrelu(x) : relu ? vrelu6(x) : x; }

/* Non-temporal stores, past the caches, to multiples of a vector's size: for results that are larger than the caches, which would be
 * read from memory before they are written, and push out what is of use.  After the last one they are made to be seen
 * before any later store. */
#if FC_MASKED_MOVES == 64
FC_INLINE void store_past(FC_T *p, vec v) { _mm512_stream_ps((float *)p, (__m512)v); }
FC_INLINE void stores_past_done(void) { _mm_sfence(); }
#elif FC_MASKED_MOVES == 32
FC_INLINE void store_past(FC_T *p, vec v) { _mm256_stream_ps((float *)p, (__m256)v); }
FC_INLINE void stores_past_done(void) { _mm_sfence(); }
#else
FC_INLINE void store_past(FC_T *p, vec v) { store(p, v); }
FC_INLINE void stores_past_done(void) {}
#endif

/* The first n < VL lanes; the others are read as zero and not written. */
#if FC_MASKED_MOVES == 64
FC_INLINE vec load_part(const FC_T *p, ptrdiff_t n) {
    const unsigned lanes = (1u << n) - 1;
    return sizeof(FC_T) == 4 ? (vec)_mm512_maskz_loadu_ps((__mmask16)lanes, p)
                             : (vec)_mm512_maskz_loadu_pd((__mmask8)lanes, p);
}
FC_INLINE void store_part(FC_T *p, vec v, ptrdiff_t n) {
    const unsigned lanes = (1u << n) - 1;
    if (sizeof(FC_T) == 4) _mm512_mask_storeu_ps(p, (__mmask16)lanes, (__m512)v);
    else _mm512_mask_storeu_pd(p, (__mmask8)lanes, (__m512d)v);
}
#elif FC_MASKED_MOVES == 32
FC_INLINE mask first_lanes(ptrdiff_t n) {
    mask lane;
    FC_UNROLL for (ptrdiff_t i = 0; i < VL; i++) lane[i] = (FC_INT)i;
    return lane < (FC_INT)n;
}
FC_INLINE vec load_part(const FC_T *p, ptrdiff_t n) {
    const __m256i lanes = (__m256i)first_lanes(n);
    return sizeof(FC_T) == 4 ? (vec)_mm256_maskload_ps((const float *)p, lanes)
                             : (vec)_mm256_maskload_pd((const double *)p, lanes);
}
FC_INLINE void store_part(FC_T *p, vec v, ptrdiff_t n) {
    const __m256i lanes = (__m256i)first_lanes(n);
    if (sizeof(FC_T) == 4) _mm256_maskstore_ps((float *)p, lanes, (__m256)v);
    else _mm256_maskstore_pd((double *)p, lanes, (__m256d)v);
}
#else
/* By halves, since the sizes are then constants and memcpy becomes a move. */
FC_INLINE void copy_part(FC_T *to, const FC_T *from, ptrdiff_t n) {
#define FC_COPY_HALF(LANES)                              \
    if (LANES < VL && (n & LANES)) {                     \
        memcpy(to, from, LANES * sizeof(FC_T));          \
        to += LANES, from += LANES;                      \
    }
    FC_COPY_HALF(8) FC_COPY_HALF(4) FC_COPY_HALF(2) FC_COPY_HALF(1)
#undef FC_COPY_HALF
}
FC_INLINE vec load_part(const FC_T *p, ptrdiff_t n) {
    vec v = {0};
    copy_part((FC_T *)&v, p, n);
    return v;
}
FC_INLINE void store_part(FC_T *p, vec v, ptrdiff_t n) { copy_part(p, (const FC_T *)&v, n); }
#endif

/* As many lanes as are left of a run: all of them, or a part. */
FC_INLINE vec load_left(const FC_T *p, ptrdiff_t left) { return left >= VL ? load(p) : load_part(p, left); }
FC_INLINE void store_left(FC_T *p, vec v, ptrdiff_t left) {
    if (left >= VL) store(p, v);
    else store_part(p, v, left);
}

/* Elements from p on to the next boundary of a vector. */
FC_INLINE ptrdiff_t to_boundary(const void *p) {
    return (-(ptrdiff_t)(size_t)p & (FC_VECTOR_BYTES - 1)) / (ptrdiff_t)sizeof(FC_T);
}

/* Lane i is lane from[i] of v. */
FC_INLINE vec permute(vec v, mask from) {
#ifdef __clang__
    vec out;
    for (int i = 0; i < VL; i++) out[i] = v[from[i]];
    return out;
#else
    return __builtin_shuffle(v, from);
#endif
}

/* Lane i is lane from[i] of a, or from[i] - VL of b. */
FC_INLINE vec permute_two(vec a, vec b, mask from) {
#ifdef __clang__
    vec out;
    for (int i = 0; i < VL; i++) out[i] = from[i] < VL ? a[from[i]] : b[from[i] - VL];
    return out;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

/* Lane i is lane (i + n) mod VL of v, for n = 0, VL/4, VL/2 or 3VL/4. */
FC_INLINE vec rotate(vec v, ptrdiff_t n) {
    mask quarter, half;
    FC_UNROLL for (int i = 0; i < VL; i++) quarter[i] = (i + VL / 4) % VL, half[i] = i ^ VL / 2;
    if (n & VL / 4) v = permute(v, quarter);
    if (n & VL / 2) v = permute(v, half);
    return v;
}

/* Sums of pairs of lanes, `apart` from each other: of a's where that bit of the lane's number is 0, else of b's. */
FC_INLINE vec fold(vec a, vec b, const int apart) {
    mask bit;
    vec crossed, other;
    FC_UNROLL for (int i = 0; i < VL; i++) bit[i] = i & apart ? -1 : 0;
    crossed = blend(bit, a, b);
    FC_UNROLL for (int i = 0; i < VL; i++) other[i] = crossed[i ^ apart];
    return blend(bit, b, a) + other;
}

FC_INLINE FC_T sum_lanes(vec v) {
    if (VL > 8) v = fold(v, v, 8);
    if (VL > 4) v = fold(v, v, 4);
    if (VL > 2) v = fold(v, v, 2);
    if (VL > 1) v = fold(v, v, 1);
    return v[0];
}

/* The sums of four vectors, of four lanes at least, in the first four lanes. */
FC_INLINE vec sum_lanes_of_4(const vec *v) {
    vec sums = fold(fold(v[0], v[1], 1), fold(v[2], v[3], 1), 2);
    if (VL > 4) sums = fold(sums, sums, 4);
    if (VL > 8) sums = fold(sums, sums, 8);
    return sums;
}
