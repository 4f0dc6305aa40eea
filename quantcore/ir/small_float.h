/* Floating-point numbers of eight, six and four bits, as ONNX defines them
 * (docs/docsgen/source/technical/ float8.md, float4.md): sign, exponent, mantissa. */
#ifndef MPQ_IR_SMALL_FLOAT_H
#define MPQ_IR_SMALL_FLOAT_H

#include <stdint.h>

#include "quantcore/ir/dtype.h"

/* Whether it is one of FLOAT8E4M3FN, FLOAT8E4M3FNUZ, FLOAT8E5M2, FLOAT8E5M2FNUZ, FLOAT6E2M3,
 * FLOAT6E3M2, FLOAT4E2M1 and FLOAT8E8M0. */
bool mpq_is_small_float(enum mpq_dtype dtype);

/* The number that a code stands for. */
double mpq_small_float_decode(enum mpq_dtype dtype, uint8_t code);

/* The code of the nearest number, the even one of two that are equally near; of
 * FLOAT8E8M0, which has no 0 and no sign, the next power of two upwards.
 * What is too large becomes the largest number where `saturates`, else infinity, or NaN in types
 * without it. Those of six and four bits have neither and always saturate; NaN becomes -0 there. */
uint8_t mpq_small_float_encode(enum mpq_dtype dtype, double value, bool saturates);

#endif
