#include "quantcore/ir/small_float.h"

#include <math.h>

/* A row a type: bits of exponent and mantissa, the bias, the codes that are no numbers. */
struct format {
    int exponent_bits, mantissa_bits, bias;
    uint8_t largest; /* code of the largest finite number       */
    uint8_t nan;     /* code of NaN                             */
    uint8_t infinity;
    bool has_infinity, is_unsigned_zero; /* FNUZ: no -0, whose code is NaN */
    bool is_finite;                      /* all codes are numbers          */
};

static const struct format *format_of(enum mpq_dtype dtype)
{
    static const struct format e4m3fn = {4, 3, 7, 0x7e, 0x7f, 0, false, false, false},
                               e4m3fnuz = {4, 3, 8, 0x7f, 0x80, 0, false, true, false},
                               e5m2 = {5, 2, 15, 0x7b, 0x7f, 0x7c, true, false, false},
                               e5m2fnuz = {5, 2, 16, 0x7f, 0x80, 0, false, true, false},
                               e2m3 = {2, 3, 1, 0x1f, 0, 0, false, false, true},
                               e3m2 = {3, 2, 3, 0x1f, 0, 0, false, false, true},
                               e2m1 = {2, 1, 1, 0x7, 0, 0, false, false, true};
    switch (dtype) {
    case MPQ_FLOAT8E4M3FN:
        return &e4m3fn;
    case MPQ_FLOAT8E4M3FNUZ:
        return &e4m3fnuz;
    case MPQ_FLOAT8E5M2:
        return &e5m2;
    case MPQ_FLOAT8E5M2FNUZ:
        return &e5m2fnuz;
    case MPQ_FLOAT6E2M3:
        return &e2m3;
    case MPQ_FLOAT6E3M2:
        return &e3m2;
    case MPQ_FLOAT4E2M1:
        return &e2m1;
    default:
        return NULL;
    }
}

bool mpq_is_small_float(enum mpq_dtype dtype)
{
    return format_of(dtype) || dtype == MPQ_FLOAT8E8M0;
}

/* Of a code without its sign that is a number. */
static double magnitude(const struct format *f, int code)
{
    int exponent = code >> f->mantissa_bits, mantissa = code & ((1 << f->mantissa_bits) - 1);
    if (exponent == 0)
        return ldexp(mantissa, 1 - f->bias - f->mantissa_bits);
    return ldexp(mantissa + (1 << f->mantissa_bits), exponent - f->bias - f->mantissa_bits);
}

double mpq_small_float_decode(enum mpq_dtype dtype, uint8_t code)
{
    if (dtype == MPQ_FLOAT8E8M0)
        return code == 0xff ? (double)NAN : ldexp(1, code - 127);
    const struct format *f = format_of(dtype);
    int sign = 1 << (f->exponent_bits + f->mantissa_bits), rest = code & (sign - 1);
    if (f->is_unsigned_zero && code == f->nan)
        return (double)NAN;
    double value = magnitude(f, rest);
    if (!f->is_unsigned_zero && rest > f->largest)
        value = f->has_infinity && rest == f->infinity ? (double)INFINITY : (double)NAN;
    return code & sign ? -value : value;
}

static uint8_t encode_power(double value, bool saturates)
{
    int exponent;
    if (isnan(value))
        return 0xff;
    double fraction = frexp(fabs(value), &exponent); /* in [0.5, 1) */
    if (isinf(value) || exponent > 128)
        return saturates ? 0xfe : 0xff;
    if (value == 0 || exponent < -126)
        return 0;
    int code = exponent - 1 + 127 + (fraction > 0.5);
    return (uint8_t)(code > 0xfe ? (saturates ? 0xfe : 0xff) : code);
}

uint8_t mpq_small_float_encode(enum mpq_dtype dtype, double value, bool saturates)
{
    if (dtype == MPQ_FLOAT8E8M0)
        return encode_power(value, saturates);
    const struct format *f = format_of(dtype);
    int sign = signbit(value) ? 1 << (f->exponent_bits + f->mantissa_bits) : 0;
    double size = fabs(value), largest = magnitude(f, f->largest);
    if (f->is_finite && isnan(value)) /* -0 */
        return (uint8_t)(1 << (f->exponent_bits + f->mantissa_bits));
    if (isnan(value))
        return (uint8_t)(f->is_unsigned_zero ? f->nan : f->nan | sign);
    /* Half a step beyond the largest number rounds away from it. */
    double step = largest - magnitude(f, f->largest - 1);
    bool is_even = (f->largest & 1) == 0;
    if (size > largest + step / 2 || (size == largest + step / 2 && !is_even)) {
        if (saturates || f->is_finite)
            return (uint8_t)(f->largest | sign);
        if (f->has_infinity)
            return (uint8_t)(f->infinity | sign);
        return (uint8_t)(f->is_unsigned_zero ? f->nan : f->nan | sign);
    }
    int low = 0, high = f->largest; /* magnitude(low) <= size */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (magnitude(f, middle) <= size)
            low = middle;
        else
            high = middle - 1;
    }
    if (low < f->largest) {
        double below = size - magnitude(f, low), above = magnitude(f, low + 1) - size;
        low += above < below || (above == below && (low & 1));
    }
    if (low == 0 && f->is_unsigned_zero)
        sign = 0;
    return (uint8_t)(low | sign);
}
