#include "calibration/array.h"

#include <math.h>

#include "quantcore/base/workers.h"

enum mpq_status mpq_array_match(struct mpq_ctx *ctx, const char *where,
                                const struct mpq_tensor *array, const char *input_name,
                                const struct mpq_tensor *input, uint32_t *out_n_sample)
{
    const struct mpq_shape *have = &array->shape, *want = &input->shape;
    int extra = have->rank - want->rank;
    bool fits = extra == 1 || (extra == 0 && want->rank > 0);
    int64_t n = fits ? have->dim[0] : 0;
    for (int d = extra == 1 ? 0 : 1; fits && d < want->rank; d++)
        fits = have->dim[d + extra] == want->dim[d];
    if (fits && extra == 0) {
        fits = want->dim[0] > 0 && n % want->dim[0] == 0;
        n = fits ? n / want->dim[0] : 0;
    }
    if (!fits)
        return mpq_fail(ctx, MPQ_E_SHAPE,
                        "%s is %s %s, which is no number of samples for input '%s', %s %s", where,
                        mpq_dtype_name(array->dtype), MPQ_SHAPE_TEXT(have), input_name,
                        mpq_dtype_name(input->dtype), MPQ_SHAPE_TEXT(want));
    if (n < 1 || n >= UINT32_MAX)
        return mpq_fail(ctx, MPQ_E_SHAPE, "%s holds %lld samples, shape %s", where, (long long)n,
                        MPQ_SHAPE_TEXT(have));
    *out_n_sample = (uint32_t)n;
    return MPQ_OK;
}

void mpq_array_guess(const struct mpq_shape *array, struct mpq_shape *input)
{
    int extra = array->rank - input->rank;
    for (int d = 1; (extra == 0 || extra == 1) && d < input->rank; d++)
        if (input->dim[d] < 0)
            input->dim[d] = array->dim[d + extra];
}

/* Values that the input's type cannot hold: beyond its range, or with a fraction. */
static bool fits_type(double value, enum mpq_dtype dtype)
{
    bool is_bool = dtype == MPQ_BOOL;
    if (dtype == MPQ_FLOAT)
        return isfinite((float)value);
    if (dtype == MPQ_FLOAT16)
        return fabs(value) < 65520;
    if (!is_bool && !mpq_dtype_is_integer(dtype))
        return isfinite(value);
    bool is_signed =
        dtype == MPQ_INT8 || dtype == MPQ_INT16 || dtype == MPQ_INT32 || dtype == MPQ_INT64;
    int bits = is_bool ? 1 : mpq_dtype_bits(dtype);
    double end = ldexp(1, is_signed ? bits - 1 : bits); /* first value beyond */
    return value < end && value >= (is_signed ? -end : 0) && value == floor(value);
}

/* Sample number i of n elements as it is stored. */
static enum mpq_status read_stored(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   const struct mpq_rows *array, int64_t i, int64_t n,
                                   struct mpq_tensor *out)
{
    *out = (struct mpq_tensor){array->header.dtype, MPQ_SHAPE(n), NULL};
    out->data = mpq_arena_alloc(ctx, scratch, (size_t)n, mpq_dtype_bytes(out->dtype));
    return out->data ? mpq_rows_read(ctx, array, i * n, n, out->data) : MPQ_E_NOMEM;
}

struct check {
    const char *where;
    const struct mpq_rows *array;
    enum mpq_dtype dtype;
    int64_t n_element; /* of one sample */
};

static enum mpq_status check_sample(struct mpq_ctx *ctx, struct mpq_arena *scratch, void *arg,
                                    int64_t sample)
{
    const struct check *check = arg;
    struct mpq_tensor x;
    MPQ_TRY(read_stored(ctx, scratch, check->array, sample, check->n_element, &x));
    for (int64_t i = 0; i < check->n_element; i++) {
        double value = mpq_tensor_double(&x, i);
        if (!fits_type(value, check->dtype))
            return mpq_fail(
                ctx, MPQ_E_NUMERIC, "%s, sample %lld: element %lld is %g, which is no %s number",
                check->where, (long long)sample, (long long)i, value, mpq_dtype_name(check->dtype));
    }
    return MPQ_OK;
}

enum mpq_status mpq_array_check(struct mpq_ctx *ctx, const char *where,
                                const struct mpq_rows *array, const struct mpq_tensor *input,
                                uint32_t n_sample)
{
    enum mpq_dtype dtype = array->header.dtype;
    bool is_exact = dtype == MPQ_BOOL || mpq_dtype_is_integer(dtype);
    if (dtype == input->dtype && is_exact)
        return MPQ_OK;
    struct check check = {where, array, input->dtype, mpq_shape_count(&input->shape)};
    return mpq_workers_run(ctx, n_sample, check_sample, &check);
}

enum mpq_status mpq_array_copy(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               const struct mpq_rows *array, uint32_t sample, struct mpq_tensor *y)
{
    int64_t count = mpq_shape_count(&y->shape);
    struct mpq_tensor x;
    if (array->header.dtype == y->dtype)
        return mpq_rows_read(ctx, array, sample * count, count, y->data);
    MPQ_TRY(read_stored(ctx, scratch, array, sample, count, &x));
    for (int64_t i = 0; i < count; i++)
        mpq_tensor_set_double(y, i, mpq_tensor_double(&x, i));
    return MPQ_OK;
}
