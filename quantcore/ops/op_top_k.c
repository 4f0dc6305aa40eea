/* TopK: the k largest (or smallest) elements along an axis, in order, and where they were; of equal
 * ones the first comes first. k (input 1) is constant. */
#include <string.h>

#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t axis;
    bool is_largest;
};

static enum mpq_status top_k_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "axis", -1),
                          mpq_attr_int(&node->attr_set, "largest", 1) != 0};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status top_k_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    struct mpq_shape shape = x[0]->shape;
    int64_t k;
    int axis = 0, n = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, shape.rank, &axis));
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "k", 1, &k, &n));
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (n != 1 || k < 0 || k > shape.dim[axis])
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "k is %lld of %lld elements", (long long)k,
                             (long long)shape.dim[axis]);
    shape.dim[axis] = k;
    if (node->n_out > 1 && y[1])
        MPQ_TRY(mpq_infer_set(ctx, node, y[1], MPQ_INT64, &shape));
    return y[0] ? mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape) : MPQ_OK;
}

struct lines {
    int64_t outer, n, k, inner;
};

static struct lines lines_of(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &args->x[0]->shape;
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    return (struct lines){mpq_shape_count_range(shape, 0, axis), shape->dim[axis],
                          mpq_tensor_int(args->x[1], 0),
                          mpq_shape_count_range(shape, axis + 1, shape->rank)};
}

static size_t top_k_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                              struct mpq_tensor *const *y, bool training)
{
    (void)node, (void)y, (void)training;
    return (size_t)mpq_tensor_int(x[1], 0) * sizeof(int64_t);
}

/* Places of the best k along a line that starts at element `first`, best first: each element is put
 * where it belongs among the best so far. */
static void select_line(const struct mpq_kernel_args *args, const struct lines *l, int64_t first,
                        int64_t *best)
{
    double sign = ((const struct attrs *)args->node->attrs)->is_largest ? 1 : -1;
    const struct mpq_tensor *x = args->x[0];
    int64_t n_best = 0;
    for (int64_t i = 0; i < l->n && l->k > 0; i++) {
        double value = sign * mpq_tensor_double(x, first + i * l->inner);
        int64_t low = 0, high = n_best;
        while (low < high) {
            int64_t mid = (low + high) / 2;
            if (sign * mpq_tensor_double(x, first + best[mid] * l->inner) >= value)
                low = mid + 1;
            else
                high = mid;
        }
        if (low == l->k)
            continue;
        n_best += n_best < l->k;
        memmove(best + low + 1, best + low, (size_t)(n_best - low - 1) * sizeof *best);
        best[low] = i;
    }
}

static void for_each_line(const struct mpq_kernel_args *args,
                          void (*fn)(const struct mpq_kernel_args *, int64_t to, int64_t from))
{
    struct lines l = lines_of(args);
    int64_t *best = args->workspace;
    for (int64_t o = 0; o < l.outer; o++)
        for (int64_t i = 0; i < l.inner; i++) {
            int64_t first = o * l.n * l.inner + i;
            select_line(args, &l, first, best);
            for (int64_t k = 0; k < l.k; k++) {
                int64_t to = (o * l.k + k) * l.inner + i;
                if (args->node->n_out > 1 && args->y[1])
                    ((int64_t *)args->y[1]->data)[to] = best[k];
                fn(args, to, first + best[k] * l.inner);
            }
        }
}

static void copy_one(const struct mpq_kernel_args *args, int64_t to, int64_t from)
{
    size_t bytes = mpq_dtype_bytes(args->x[0]->dtype);
    if (args->y[0])
        memcpy((uint8_t *)args->y[0]->data + (size_t)to * bytes,
               (const uint8_t *)args->x[0]->data + (size_t)from * bytes, bytes);
}

static void add_one(const struct mpq_kernel_args *args, int64_t to, int64_t from)
{
    args->dx[0][from] += args->dy[0][to];
}

static void top_k_forward(const struct mpq_kernel_args *args)
{
    for_each_line(args, copy_one);
}

static void top_k_backward(const struct mpq_kernel_args *args)
{
    if (args->dy[0] && args->dx[0])
        for_each_line(args, add_one);
}

const struct mpq_op mpq_op_top_k = {.name = "TopK",
                                    .domain = "",
                                    .n_in_min = 2,
                                    .n_in_max = 2,
                                    .n_out_min = 0,
                                    .n_out_max = 2,
                                    .parse = top_k_parse,
                                    .infer = top_k_infer,
                                    .workspace = top_k_workspace,
                                    .forward = top_k_forward,
                                    .backward = top_k_backward};
