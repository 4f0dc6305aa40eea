#include "quantcore/base/rng.h"

#include <math.h>

void mpq_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void draw(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index,
                 uint32_t out[4])
{
    const uint32_t counter[4] = {index, (uint32_t)step, (uint32_t)(step >> 32), (uint32_t)stream};
    const uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    mpq_philox4x32(counter, k, out);
}

uint64_t mpq_rng_u64(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index)
{
    uint32_t r[4];
    draw(key, stream, step, index, r);
    return (uint64_t)r[1] << 32 | r[0];
}

uint32_t mpq_rng_below(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index,
                       uint32_t n)
{
    /* Multiply-shift; its bias is below n / 2^32. */
    return (uint32_t)((mpq_rng_u64(key, stream, step, index) >> 32) * n >> 32);
}

double mpq_rng_uniform(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index)
{
    return (double)(mpq_rng_u64(key, stream, step, index) >> 11) * 0x1p-53;
}

double mpq_rng_normal(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t index)
{
    /* Box-Muller; the second uniform comes from the other half of the same draw. */
    uint32_t r[4];
    draw(key, stream, step, index, r);
    double u = ((double)r[0] + 0.5) * 0x1p-32, v = (double)r[2] * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void mpq_rng_permutation(uint64_t key, enum mpq_rng_stream stream, uint64_t step, uint32_t n,
                         uint32_t *out_order)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = mpq_rng_below(key, stream, step, i, i + 1);
        out_order[i] = out_order[j];
        out_order[j] = i;
    }
}
