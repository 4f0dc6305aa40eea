#include "quantcore/ops/kernel/scatter.h"

#include <math.h>
#include <string.h>

#include "quantcore/ops/op_util.h"

enum mpq_status mpq_scatter_read(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 enum mpq_scatter *out)
{
    static const char *const name[MPQ_N_SCATTER] = {"none", "add", "mul", "max", "min"};
    const char *wanted = mpq_attr_string(&node->attr_set, "reduction", "none");
    for (int i = 0; i < MPQ_N_SCATTER; i++)
        if (strcmp(name[i], wanted) == 0) {
            *out = (enum mpq_scatter)i;
            return MPQ_OK;
        }
    return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "reduction '%s' is not known", wanted);
}

enum mpq_status mpq_scatter_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, enum mpq_scatter reduction)
{
    if (reduction == MPQ_SCATTER_NONE || mpq_dtype_is_integer(x[0]->dtype))
        return MPQ_OK;
    return mpq_check_float(ctx, node, x, 0);
}

static double combine(enum mpq_scatter reduction, double a, double b)
{
    return reduction == MPQ_SCATTER_ADD   ? a + b
           : reduction == MPQ_SCATTER_MUL ? a * b
           : reduction == MPQ_SCATTER_MAX ? fmax(a, b)
                                          : fmin(a, b);
}

/* Sums and products wrap around. */
static int64_t combine_integers(enum mpq_scatter reduction, int64_t a, int64_t b, bool is_unsigned)
{
    bool is_less = is_unsigned ? (uint64_t)a < (uint64_t)b : a < b;
    return reduction == MPQ_SCATTER_ADD                ? (int64_t)((uint64_t)a + (uint64_t)b)
           : reduction == MPQ_SCATTER_MUL              ? (int64_t)((uint64_t)a * (uint64_t)b)
           : is_less == (reduction == MPQ_SCATTER_MAX) ? b
                                                       : a;
}

void mpq_scatter_forward(const struct mpq_kernel_args *args, enum mpq_scatter reduction, int64_t to,
                         int64_t from, int64_t n)
{
    struct mpq_tensor *y = args->y[0];
    const struct mpq_tensor *updates = args->x[2];
    size_t bytes = mpq_dtype_bytes(y->dtype);
    bool is_integer = mpq_dtype_is_integer(y->dtype), is_unsigned = y->dtype == MPQ_UINT64;
    if (reduction == MPQ_SCATTER_NONE) {
        memcpy((uint8_t *)y->data + (size_t)to * bytes,
               (const uint8_t *)updates->data + (size_t)from * bytes, (size_t)n * bytes);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        if (is_integer)
            mpq_tensor_set_int(y, to + i,
                               combine_integers(reduction, mpq_tensor_int(y, to + i),
                                                mpq_tensor_int(updates, from + i), is_unsigned));
        else
            mpq_tensor_set_double(y, to + i,
                                  combine(reduction, mpq_tensor_double(y, to + i),
                                          mpq_tensor_double(updates, from + i)));
}

/* Which elements of x pass no gradient. */
size_t mpq_scatter_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                             struct mpq_tensor *const *y, bool training)
{
    (void)node, (void)x;
    return training ? (size_t)mpq_shape_count(&y[0]->shape) : 0;
}

void mpq_scatter_backward_begin(const struct mpq_kernel_args *args)
{
    memset(args->workspace, 0, (size_t)mpq_shape_count(&args->y[0]->shape));
}

void mpq_scatter_backward(const struct mpq_kernel_args *args, enum mpq_scatter reduction,
                          int64_t to, int64_t from, int64_t n)
{
    uint8_t *is_gone = args->workspace;
    for (int64_t i = 0; i < n && reduction != MPQ_SCATTER_ADD; i++) {
        if (reduction == MPQ_SCATTER_NONE && !is_gone[to + i] && args->dx[2])
            args->dx[2][from + i] += args->dy[0][to + i];
        is_gone[to + i] = true;
    }
    if (reduction == MPQ_SCATTER_ADD && args->dx[2])
        mpq_accumulate(args->dx[2] + from, args->dy[0] + to, n, false);
}

void mpq_scatter_backward_end(const struct mpq_kernel_args *args)
{
    const uint8_t *is_gone = args->workspace;
    int64_t n = mpq_shape_count(&args->y[0]->shape);
    for (int64_t i = 0; i < n && args->dx[0]; i++)
        if (!is_gone[i])
            args->dx[0][i] += args->dy[0][i];
}
