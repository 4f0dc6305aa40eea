/* What operators on 8-bit tensors share: their scales and zero points, tables of all 256 inputs,
 * and the way back from int32 sums to eight bits. All in float whatever mpq_real is, and in the
 * order in which ONNX Runtime's CPU kernels (MLAS) compute, so that results are the same bits. */
#ifndef MPQ_OPS_KERNEL_QUANTIZED_H
#define MPQ_OPS_KERNEL_QUANTIZED_H

#include "quantcore/ops/op.h"

/* Input i of the node: UNSUPPORTED unless it is int8 or uint8 with a scale of floats (input
 * i_scale) and a zero point of its type (input i_zero, may be absent), each of one element or of
 * n_channel.
 */
enum mpq_status mpq_quantized_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, uint32_t i, uint32_t i_scale,
                                    uint32_t i_zero, int64_t n_channel) MPQ_CHECKED;

/* The same of an input that has no scale. */
enum mpq_status mpq_quantized_check_codes(struct mpq_ctx *ctx, const struct mpq_node *node,
                                          const struct mpq_tensor *const *x, uint32_t i,
                                          uint32_t i_zero, int64_t n_channel) MPQ_CHECKED;

/* The same for the output y[0], whose type is that of its zero point, or `absent` without one. */
enum mpq_status mpq_quantized_check_output(struct mpq_ctx *ctx, const struct mpq_node *node,
                                           const struct mpq_tensor *const *x, uint32_t i_scale,
                                           uint32_t i_zero, enum mpq_dtype absent,
                                           enum mpq_dtype *out) MPQ_CHECKED;

/* Element i of a scale or zero point; a single one serves every i; no zero point is 0. */
float mpq_scale_at(const struct mpq_tensor *scale, int64_t i);
int32_t mpq_zero_at(const struct mpq_tensor *zero, int64_t i);

static inline int32_t mpq_quantized_value(bool is_signed, uint8_t code)
{
    return is_signed ? (int8_t)code : code;
}

/* y[i] = x[i] - zero, exact. */
void mpq_shift_to_real(const uint8_t *x, bool is_signed, int32_t zero, mpq_real *y, int64_t n);

/* Elements of four bytes: y[i] has x[j * apart + i] as byte j, which is 0 for j >= n_row; mpq_real
 * is a float. */
void mpq_pack_bytes(const uint8_t *x, int64_t apart, int n_row, mpq_real *y, int64_t n);

/* The largest |x[i]|; and the sum of |x[i] - zero|, and of signed x[i], over n codes. */
mpq_real mpq_largest_magnitude(const mpq_real *x, int64_t n);
int64_t mpq_sum_of_magnitudes(const uint8_t *x, bool is_signed, int32_t zero, int64_t n);
int64_t mpq_sum_of_signed(const uint8_t *x, int64_t n);

/* sum[i] = part[i], integers of up to 32 bits; and added to it, modulo 2^32. */
void mpq_integer_store(int32_t *sum, const mpq_real *part, int64_t n);
void mpq_integer_add(int32_t *sum, const mpq_real *part, int64_t n);

/* The target of a rounding: its zero point, and its range seen from there. */
struct mpq_requant {
    float low, high;
    int32_t zero;
};
struct mpq_requant mpq_requant_to(enum mpq_dtype dtype, int32_t zero);

/* x rounded to an integer, halves to even; |x| <= 2^22. */
static inline int32_t mpq_round_float(float x)
{
    return (int32_t)((x + 0x1.8p23f) - 0x1.8p23f);
}

/* The code nearest to x steps from the zero point. */
static inline uint8_t mpq_requant_round(const struct mpq_requant *to, float x)
{
    x = x > to->low ? x : to->low;
    x = x < to->high ? x : to->high;
    return (uint8_t)(mpq_round_float(x) + to->zero);
}

/* y[i] = saturate(rint((sum[i] + bias) * scale) + zero): one scale for all, or one for each i; sums
 * that are whole numbers in mpq_real, too. */
void mpq_requantize(const struct mpq_requant *to, const int32_t *sum, int32_t bias, float scale,
                    uint8_t *y, int64_t n);
void mpq_requantize_real(const struct mpq_requant *to, const mpq_real *sum, int32_t bias,
                         float scale, uint8_t *y, int64_t n);
void mpq_requantize_each(const struct mpq_requant *to, const int32_t *sum, const float *scale,
                         uint8_t *y, int64_t n);

/* table[code] = quantized f(dequantized code). `arg` is passed to f. */
void mpq_quantized_table(bool x_is_signed, float x_scale, int32_t x_zero, float y_scale,
                         const struct mpq_requant *to, float (*f)(float x, const void *arg),
                         const void *arg, uint8_t table[256]);

#endif
