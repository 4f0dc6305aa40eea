#include "quantcore/ops/kernel/quantized.h"

#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/ops/op_util.h"

static bool is_eight_bits(enum mpq_dtype dtype)
{
    return dtype == MPQ_INT8 || dtype == MPQ_UINT8;
}

static enum mpq_status check_count(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *tensor, const char *what,
                                   int64_t n_channel)
{
    int64_t n = mpq_shape_count(&tensor->shape);
    if (n != 1 && n != n_channel)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "a %s of shape %s", what,
                             MPQ_SHAPE_TEXT(&tensor->shape));
    return MPQ_OK;
}

static enum mpq_status check_scale(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, uint32_t i_scale,
                                   int64_t n_channel)
{
    const struct mpq_tensor *scale = mpq_input(node, x, i_scale);
    if (!scale)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "input %u, a scale, is missing", i_scale);
    if (scale->dtype != MPQ_FLOAT16 && scale->dtype != MPQ_BFLOAT16)
        MPQ_TRY(mpq_check_float(ctx, node, x, (int)i_scale));
    return check_count(ctx, node, scale, "scale", n_channel);
}

enum mpq_status mpq_quantized_check_codes(struct mpq_ctx *ctx, const struct mpq_node *node,
                                          const struct mpq_tensor *const *x, uint32_t i,
                                          uint32_t i_zero, int64_t n_channel)
{
    const struct mpq_tensor *zero = mpq_input(node, x, i_zero);
    if (!x[i])
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "input %u is missing", i);
    if (!is_eight_bits(x[i]->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "input %u is %s, only int8 and uint8 are computed", i,
                             mpq_dtype_name(x[i]->dtype));
    if (!zero)
        return MPQ_OK;
    if (zero->dtype != x[i]->dtype)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %u is %s but its zero point is %s", i,
                             mpq_dtype_name(x[i]->dtype), mpq_dtype_name(zero->dtype));
    return check_count(ctx, node, zero, "zero point", n_channel);
}

enum mpq_status mpq_quantized_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, uint32_t i, uint32_t i_scale,
                                    uint32_t i_zero, int64_t n_channel)
{
    MPQ_TRY(mpq_quantized_check_codes(ctx, node, x, i, i_zero, n_channel));
    return check_scale(ctx, node, x, i_scale, n_channel);
}

enum mpq_status mpq_quantized_check_output(struct mpq_ctx *ctx, const struct mpq_node *node,
                                           const struct mpq_tensor *const *x, uint32_t i_scale,
                                           uint32_t i_zero, enum mpq_dtype absent,
                                           enum mpq_dtype *out)
{
    const struct mpq_tensor *zero = mpq_input(node, x, i_zero);
    MPQ_TRY(check_scale(ctx, node, x, i_scale, 1));
    enum mpq_dtype dtype = zero ? zero->dtype : absent;
    if (!is_eight_bits(dtype))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "the output is %s, only int8 and uint8 are computed",
                             mpq_dtype_name(dtype));
    if (zero)
        MPQ_TRY(check_count(ctx, node, zero, "zero point", 1));
    *out = dtype;
    return MPQ_OK;
}

float mpq_scale_at(const struct mpq_tensor *scale, int64_t i)
{
    return (float)mpq_tensor_double(scale, mpq_shape_count(&scale->shape) == 1 ? 0 : i);
}

int32_t mpq_zero_at(const struct mpq_tensor *zero, int64_t i)
{
    if (!zero)
        return 0;
    return (int32_t)mpq_tensor_int(zero, mpq_shape_count(&zero->shape) == 1 ? 0 : i);
}

MPQ_MULTIVERSION
static void shift_unsigned(const uint8_t *restrict x, int32_t zero, mpq_real *restrict y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = (mpq_real)(x[i] - zero);
}

MPQ_MULTIVERSION
static void shift_signed(const int8_t *restrict x, int32_t zero, mpq_real *restrict y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = (mpq_real)(x[i] - zero);
}

MPQ_MULTIVERSION
mpq_real mpq_largest_magnitude(const mpq_real *x, int64_t n)
{
    mpq_real high = 0, low = 0;
    for (int64_t i = 0; i < n; i++) {
        high = x[i] > high ? x[i] : high;
        low = x[i] < low ? x[i] : low;
    }
    return high > -low ? high : -low;
}

void mpq_shift_to_real(const uint8_t *x, bool is_signed, int32_t zero, mpq_real *y, int64_t n)
{
    if (is_signed)
        shift_signed((const int8_t *)x, zero, y, n);
    else
        shift_unsigned(x, zero, y, n);
}

MPQ_MULTIVERSION
static void pack_four(const uint8_t *restrict a, const uint8_t *restrict b,
                      const uint8_t *restrict c, const uint8_t *restrict d, uint32_t *restrict y,
                      int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 | (uint32_t)d[i] << 24;
}

void mpq_pack_bytes(const uint8_t *x, int64_t apart, int n_row, mpq_real *y, int64_t n)
{
    enum { BLOCK = 256 };
    static const uint8_t none[BLOCK];
    uint32_t packed[BLOCK];
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t n_here = n - first < BLOCK ? n - first : BLOCK;
        const uint8_t *row[4];
        for (int j = 0; j < 4; j++)
            row[j] = j < n_row ? x + j * apart + first : none;
        pack_four(row[0], row[1], row[2], row[3], packed, n_here);
        memcpy(y + first, packed, (size_t)n_here * sizeof *packed);
    }
}

MPQ_MULTIVERSION
int64_t mpq_sum_of_magnitudes(const uint8_t *x, bool is_signed, int32_t zero, int64_t n)
{
    enum { BLOCK = 1 << 16 }; /* whose sum int32_t takes */
    const int32_t flip = is_signed ? 0x80 : 0;
    int64_t total = 0;
    zero += flip; /* the code with its sign bit flipped is the value + 128 */
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t end = n - first < BLOCK ? n : first + BLOCK;
        int32_t sum = 0;
        for (int64_t i = first; i < end; i++) {
            int32_t value = (x[i] ^ flip) - zero;
            sum += value < 0 ? -value : value;
        }
        total += sum;
    }
    return total;
}

MPQ_MULTIVERSION
int64_t mpq_sum_of_signed(const uint8_t *x, int64_t n)
{
    enum { BLOCK = 1 << 16 }; /* whose sum int32_t takes */
    int64_t total = 0;
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t end = n - first < BLOCK ? n : first + BLOCK;
        int32_t sum = 0;
        for (int64_t i = first; i < end; i++)
            sum += (int8_t)x[i];
        total += sum;
    }
    return total;
}

MPQ_MULTIVERSION
void mpq_integer_store(int32_t *restrict sum, const mpq_real *restrict part, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] = (int32_t)part[i];
}

MPQ_MULTIVERSION
void mpq_integer_add(int32_t *restrict sum, const mpq_real *restrict part, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] = (int32_t)((uint32_t)sum[i] + (uint32_t)(int32_t)part[i]);
}

struct mpq_requant mpq_requant_to(enum mpq_dtype dtype, int32_t zero)
{
    int32_t low = dtype == MPQ_INT8 ? -128 : 0;
    return (struct mpq_requant){(float)(low - zero), (float)(low + 255 - zero), zero};
}

MPQ_MULTIVERSION
void mpq_requantize(const struct mpq_requant *to, const int32_t *restrict sum, int32_t bias,
                    float scale, uint8_t *restrict y, int64_t n)
{
    const struct mpq_requant target = *to;
    for (int64_t i = 0; i < n; i++) {
        int32_t total = (int32_t)((uint32_t)sum[i] + (uint32_t)bias);
        y[i] = mpq_requant_round(&target, (float)total * scale);
    }
}

MPQ_MULTIVERSION
void mpq_requantize_real(const struct mpq_requant *to, const mpq_real *restrict sum, int32_t bias,
                         float scale, uint8_t *restrict y, int64_t n)
{
    const struct mpq_requant target = *to;
    for (int64_t i = 0; i < n; i++) {
        int32_t total = (int32_t)((uint32_t)(int32_t)sum[i] + (uint32_t)bias);
        y[i] = mpq_requant_round(&target, (float)total * scale);
    }
}

MPQ_MULTIVERSION
void mpq_requantize_each(const struct mpq_requant *to, const int32_t *restrict sum,
                         const float *restrict scale, uint8_t *restrict y, int64_t n)
{
    const struct mpq_requant target = *to;
    for (int64_t i = 0; i < n; i++)
        y[i] = mpq_requant_round(&target, (float)sum[i] * scale[i]);
}

void mpq_quantized_table(bool x_is_signed, float x_scale, int32_t x_zero, float y_scale,
                         const struct mpq_requant *to, float (*f)(float x, const void *arg),
                         const void *arg, uint8_t table[256])
{
    for (int code = 0; code < 256; code++) {
        int32_t x = mpq_quantized_value(x_is_signed, (uint8_t)code) - x_zero;
        table[code] = mpq_requant_round(to, f(x_scale * (float)x, arg) / y_scale);
    }
}
