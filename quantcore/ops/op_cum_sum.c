/* CumSum, CumProd: running sums and products along the axis in constant input 1; exclusive of the
 * element itself or inclusive, from the front or in reverse. */
#include <string.h>

#include "quantcore/ops/op_util.h"

struct attrs {
    bool exclusive, reverse, is_product;
};

static enum mpq_status parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "exclusive", 0) != 0,
                          mpq_attr_int(&node->attr_set, "reverse", 0) != 0,
                          strcmp(node->op_type, "CumProd") == 0};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int64_t value;
    int n = 0, axis = 0;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "the axis", 1, &value, &n));
    if (n != 1)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%d axes", n);
    MPQ_TRY(mpq_check_axis(ctx, node, value, x[0]->shape.rank, &axis));
    if (!mpq_dtype_is_integer(x[0]->dtype) && x[0]->dtype != MPQ_DOUBLE)
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return mpq_infer_same(ctx, node, x, y);
}

/* fn(args, first element, elements, distance from one to the next in summing order). */
static void for_each_line(const struct mpq_kernel_args *args,
                          void (*fn)(const struct mpq_kernel_args *, int64_t, int64_t, int64_t))
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &args->x[0]->shape;
    int64_t value = mpq_tensor_int(args->x[1], 0);
    int axis = (int)(value < 0 ? value + shape->rank : value);
    int64_t outer = mpq_shape_count_range(shape, 0, axis), n = shape->dim[axis];
    int64_t inner = mpq_shape_count_range(shape, axis + 1, shape->rank);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            int64_t first = o * n * inner + i;
            if (attrs->reverse)
                fn(args, first + (n - 1) * inner, n, -inner);
            else
                fn(args, first, n, inner);
        }
}

static void forward_line(const struct mpq_kernel_args *args, int64_t at, int64_t n, int64_t step)
{
    const struct attrs *attrs = args->node->attrs;
    bool is_integer = mpq_dtype_is_integer(args->x[0]->dtype);
    uint64_t integer = attrs->is_product;
    double real = attrs->is_product;
    for (int64_t k = 0; k < n; k++, at += step) {
        uint64_t before_integer = integer;
        double before_real = real;
        if (is_integer) {
            uint64_t x = (uint64_t)mpq_tensor_int(args->x[0], at);
            integer = attrs->is_product ? integer * x : integer + x;
            mpq_tensor_set_int(args->y[0], at,
                               (int64_t)(attrs->exclusive ? before_integer : integer));
        } else {
            double x = mpq_tensor_double(args->x[0], at);
            real = attrs->is_product ? real * x : real + x;
            mpq_tensor_set_double(args->y[0], at, attrs->exclusive ? before_real : real);
        }
    }
}

/* The gradients are summed from the other end. */
static void back_sum_line(const struct mpq_kernel_args *args, int64_t at, int64_t n, int64_t step)
{
    bool exclusive = ((const struct attrs *)args->node->attrs)->exclusive;
    double sum = 0;
    for (int64_t k = n - 1; k >= 0; k--) {
        double before = sum;
        sum += (double)args->dy[0][at + k * step];
        args->dx[0][at + k * step] += (mpq_real)(exclusive ? before : sum);
    }
}

/* dx_k is the sum over i of dy_i times the product that y_i is without x_k; a quotient y_i / x_k
 * would not do where x_k is 0. */
static void back_multiply_line(const struct mpq_kernel_args *args, int64_t at, int64_t n,
                               int64_t step)
{
    bool exclusive = ((const struct attrs *)args->node->attrs)->exclusive;
    const mpq_real *x = (const mpq_real *)args->x[0]->data;
    double before = 1;
    for (int64_t k = 0; k < n; k++) {
        double between = 1, sum = 0;
        for (int64_t i = exclusive ? k + 1 : k; i < n; i++) {
            int64_t newest = exclusive ? i - 1 : i;
            if (newest > k)
                between *= (double)x[at + newest * step];
            sum += (double)args->dy[0][at + i * step] * between;
        }
        args->dx[0][at + k * step] += (mpq_real)(before * sum);
        before *= (double)x[at + k * step];
    }
}

static void forward(const struct mpq_kernel_args *args)
{
    for_each_line(args, forward_line);
}

static void backward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    if (args->dy[0] && args->dx[0])
        for_each_line(args, attrs->is_product ? back_multiply_line : back_sum_line);
}

#define ROW(onnx_name, symbol)                                                                     \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 2,                                          \
                                           .n_in_max = 2,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = parse,                                         \
                                           .infer = infer,                                         \
                                           .forward = forward,                                     \
                                           .backward = backward};
ROW("CumSum", cum_sum)
ROW("CumProd", cum_prod)
#undef ROW
