/* Products of unsigned bytes with signed ones, rounded to bytes again without leaving registers:
 * a 1 x 1 QLinearConv. */
#ifndef MPQ_OPS_KERNEL_BYTE_PRODUCT_H
#define MPQ_OPS_KERNEL_BYTE_PRODUCT_H

#include <stdbool.h>

#include "quantcore/ops/kernel/quantized.h"

/* y[image][i][place] = saturate(rint((sum + bias[i]) * scale[i]) + zero), where sum is that of
 * w[i][j] * x[image][j][place] over j, all modulo 2^32.
 *   x [n, k, places] unsigned   w [m, w_row] signed   y [n, m, places] must not alias x
 * w_row is mpq_byte_product_row(k); weights from k on are 0. */
struct mpq_byte_product {
    int64_t n, m, k, places;
    const uint8_t *x, *w;
    const int32_t *bias; /* [m] */
    const float *scale;  /* [m] */
    struct mpq_requant to;
    bool y_is_signed;
    uint8_t *y;
};

/* Whether this processor multiplies bytes. */
bool mpq_byte_product_is_there(void);

static inline int64_t mpq_byte_product_row(int64_t k)
{
    return (k + 3) / 4 * 4;
}

/* For the present thread count; n, m, k, places > 0. */
size_t mpq_byte_product_bytes(int64_t k);
void mpq_byte_product_run(const struct mpq_byte_product *p, void *workspace);

#endif
