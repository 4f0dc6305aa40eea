/* Random numbers as a function, not a stream: the same (key, stream, step, index) always gives the
 * same number, so adding a draw elsewhere changes nothing and a resumed run continues exactly.
 * Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11).
 */
#ifndef MPQ_BASE_RNG_H
#define MPQ_BASE_RNG_H

#include <stdint.h>

/* One per use, so that two uses never share numbers. */
enum mpq_rng_stream {
    MPQ_STREAM_BITS = 1,  /* widths of a random path                */
    MPQ_STREAM_BATCH,     /* which samples form a batch             */
    MPQ_STREAM_SPLIT,     /* tuning part, search part of the data   */
    MPQ_STREAM_SYNTHETIC, /* inputs made up where the user has none */
    MPQ_STREAM_AUGMENT,
    MPQ_STREAM_TEST,
    MPQ_STREAM_SEARCH /* which samples candidates are compared on */
};

uint64_t mpq_rng_u64(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index);
uint32_t mpq_rng_below(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index,
                       uint32_t n); /* 0 .. n-1 */
double mpq_rng_uniform(uint64_t key, enum mpq_rng_stream stream, uint64_t step,
                       uint32_t index); /* [0, 1)   */
double mpq_rng_normal(uint64_t key, enum mpq_rng_stream stream, uint64_t step,
                      uint32_t index); /* N(0, 1)  */

/* A random order of 0 .. n-1 (Fisher-Yates), a function of key, stream and step. */
void mpq_rng_permutation(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t n,
                         uint32_t *out_order);

/* The bare generator, for its test against the published vectors. */
void mpq_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
