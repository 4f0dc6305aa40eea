/* Cast: y = x as element type `to`. Floats become integers by truncation; an integer that does not
 * fit is taken modulo 2^bits, as numpy does. CastLike takes the type from its input 1. */
#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ir/small_float.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status cast_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "to", MPQ_UNDEFINED);
}

static bool is_castable(enum mpq_dtype dtype)
{
    return mpq_dtype_is_integer(dtype) || dtype == MPQ_BOOL || dtype == MPQ_FLOAT ||
           mpq_dtype_is_other_float(dtype) || mpq_is_small_float(dtype);
}

static enum mpq_status infer_to(struct mpq_ctx *ctx, const struct mpq_node *node,
                                const struct mpq_tensor *x, struct mpq_tensor *y, enum mpq_dtype to)
{
    if (!is_castable(x->dtype) || !is_castable(to) ||
        strcmp(mpq_attr_string(&node->attr_set, "round_mode", "up"), "up") != 0)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "a cast from %s to %s is not supported",
                             mpq_dtype_name(x->dtype), mpq_dtype_name(to));
    return mpq_infer_set(ctx, node, y, to, &x->shape);
}

static enum mpq_status cast_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int64_t to = mpq_parsed_int(node);
    return infer_to(ctx, node, x[0], y[0],
                    to > 0 && to < MPQ_N_DTYPE ? (enum mpq_dtype)to : MPQ_UNDEFINED);
}

static enum mpq_status cast_like_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y)
{
    return infer_to(ctx, node, x[0], y[0], x[1]->dtype);
}

static bool is_integral(enum mpq_dtype dtype)
{
    return mpq_dtype_is_integer(dtype) || dtype == MPQ_BOOL;
}

/* The integer a float is cut down to: NaN 0, too large ones the largest that 64 bits hold. */
static int64_t truncate(double value)
{
    if (isnan(value))
        return 0;
    if (value >= 0x1p63)
        return value < 0x1p64 ? (int64_t)(uint64_t)value : INT64_MAX;
    return value <= -0x1p63 ? INT64_MIN : (int64_t)value;
}

/* Only types of eight bits and fewer ask: what is too large for them becomes the largest number. */
static bool saturates(const struct mpq_node *node)
{
    return mpq_attr_int(&node->attr_set, "saturate", 1) != 0;
}

/* Elements [begin, end) of integers, made integers or FLOAT. */
static void cast_integers(void *arg, int64_t begin, int64_t end, int thread)
{
    enum { BLOCK = 256 };
    const struct mpq_kernel_args *args = arg;
    int64_t value[BLOCK];
    (void)thread;
    for (int64_t i = begin, n; i < end; i += n) {
        n = end - i < BLOCK ? end - i : BLOCK;
        mpq_tensor_ints(args->x[0], i, n, value);
        if (args->y[0]->dtype != MPQ_FLOAT) {
            mpq_tensor_set_ints(args->y[0], i, n, value);
            continue;
        }
        mpq_real *y = (mpq_real *)args->y[0]->data + i;
        for (int64_t j = 0; j < n; j++)
            y[j] = (mpq_real)(double)value[j];
    }
}

static void cast_forward(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *x = args->x[0];
    struct mpq_tensor *y = args->y[0];
    int64_t n = mpq_shape_count(&y->shape);
    bool to_float = y->dtype == MPQ_FLOAT && x->dtype != MPQ_UINT64;
    if (x->dtype == y->dtype)
        mpq_forward_copy(args);
    else if (is_integral(x->dtype) && (is_integral(y->dtype) || to_float))
        mpq_parallel_for(n, MPQ_GRAIN, cast_integers, (void *)args);
    else if (mpq_dtype_is_integer(y->dtype))
        for (int64_t i = 0; i < n; i++)
            mpq_tensor_set_int(y, i, truncate(mpq_tensor_double(x, i)));
    else if (mpq_is_small_float(y->dtype))
        for (int64_t i = 0; i < n; i++)
            ((uint8_t *)y->data)[i] =
                mpq_small_float_encode(y->dtype, mpq_tensor_double(x, i), saturates(args->node));
    else
        for (int64_t i = 0; i < n; i++)
            mpq_tensor_set_double(y, i, mpq_tensor_double(x, i));
}

/* A gradient passes only from float to float; an integer output never has one. */
const struct mpq_op mpq_op_cast = {.name = "Cast",
                                   .domain = "",
                                   .n_in_min = 1,
                                   .n_in_max = 1,
                                   .n_out_min = 1,
                                   .n_out_max = 1,
                                   .parse = cast_parse,
                                   .infer = cast_infer,
                                   .forward = cast_forward,
                                   .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                   .sets_dx = true,
                                   .in_place_dx = true,
                                   .backward = mpq_backward_copy};

const struct mpq_op mpq_op_cast_like = {.name = "CastLike",
                                        .domain = "",
                                        .n_in_min = 2,
                                        .n_in_max = 2,
                                        .n_out_min = 1,
                                        .n_out_max = 1,
                                        .infer = cast_like_infer,
                                        .forward = cast_forward,
                                        .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                        .sets_dx = true,
                                        .in_place_dx = true,
                                        .backward = mpq_backward_copy};
