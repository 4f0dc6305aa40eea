/* Hot loops compiled for several instruction sets, the best one chosen when the program loads. The
 * program itself is built for the plainest x86-64, so it runs anywhere.
 *
 *     MPQ_MULTIVERSION
 *     static void relu(mpq_real *restrict y, const mpq_real *restrict x, int64_t n)
 *
 * The loop must be one the compiler can vectorize; small functions it calls must be inlined
 * (MPQ_INLINE), as a call would leave the instruction set. Contraction is off, so every version
 * rounds alike: elementwise results do not depend on the machine. */
#ifndef MPQ_BASE_SIMD_H
#define MPQ_BASE_SIMD_H

#if defined(__GNUC__) && defined(__x86_64__)
#define MPQ_SIMD_X86 1 /* __attribute__((target)) and __builtin_cpu_supports() are to be had */
#else
#define MPQ_SIMD_X86 0
#endif

/* The choice is made before the sanitizers are up, so their builds do without. */
#if MPQ_SIMD_X86 && !defined(__clang__) && defined(__gnu_linux__) &&                               \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MPQ_MULTIVERSION                                                                           \
    __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MPQ_MULTIVERSION
#endif

/* Before a loop whose iterations are independent, though arrays may be the same: in place. */
#if defined(__GNUC__) && !defined(__clang__)
#define MPQ_IN_PLACE _Pragma("GCC ivdep")
#else
#define MPQ_IN_PLACE
#endif

#ifdef __GNUC__
#define MPQ_INLINE static inline __attribute__((always_inline))
#else
#define MPQ_INLINE static inline
#endif

#endif
