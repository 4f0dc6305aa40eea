/* Unique: the different slices of x along an axis, or its different elements; where the first of
 * each was, which of them each is, and how many there are of each. Of constants only, as how many
 * there are depends on data. */
#include <string.h>

#include "quantcore/ops/op_util.h"

#define FLAT      INT64_MIN /* no axis */
#define MAX_SLICE 16384     /* they are compared one by one */

struct attrs {
    int64_t axis;
    bool sorted;
};

static enum mpq_status unique_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "axis", FLAT),
                          mpq_attr_int(&node->attr_set, "sorted", 1) != 0};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

/* x as [outer][n][inner]. */
struct slices {
    const struct mpq_tensor *x;
    int64_t outer, n, inner;
};

static struct slices slices_of(const struct attrs *attrs, const struct mpq_tensor *x)
{
    const struct mpq_shape *shape = &x->shape;
    if (attrs->axis == FLAT)
        return (struct slices){x, 1, mpq_shape_count(shape), 1};
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    return (struct slices){x, mpq_shape_count_range(shape, 0, axis), shape->dim[axis],
                           mpq_shape_count_range(shape, axis + 1, shape->rank)};
}

/* Order of slices a and b by their first elements that differ. */
static int compare(const struct slices *s, int64_t a, int64_t b)
{
    for (int64_t o = 0; o < s->outer; o++)
        for (int64_t i = 0; i < s->inner; i++) {
            double u = mpq_tensor_double(s->x, (o * s->n + a) * s->inner + i);
            double v = mpq_tensor_double(s->x, (o * s->n + b) * s->inner + i);
            if (u != v)
                return u < v ? -1 : 1;
        }
    return 0;
}

static int64_t first_like(const struct slices *s, int64_t i)
{
    int64_t first = 0;
    while (compare(s, first, i) != 0)
        first++;
    return first;
}

static enum mpq_status unique_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    struct mpq_shape shape = x[0]->shape;
    int axis = 0;
    if (!x[0]->data)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                             "the shape of the output depends on data: input 0 is not constant");
    if (!mpq_dtype_is_integer(x[0]->dtype) && x[0]->dtype != MPQ_BOOL)
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    if (attrs->axis != FLAT)
        MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, shape.rank, &axis));
    struct slices s = slices_of(attrs, x[0]);
    if (s.n > MAX_SLICE)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "more than %d slices", MAX_SLICE);
    int64_t n = 0;
    for (int64_t i = 0; i < s.n; i++)
        n += first_like(&s, i) == i;
    if (attrs->axis == FLAT)
        shape = MPQ_SHAPE(n);
    else
        shape.dim[axis] = n;
    for (uint32_t k = 1; k < node->n_out; k++)
        if (y[k])
            MPQ_TRY(mpq_infer_set(ctx, node, y[k], MPQ_INT64, &MPQ_SHAPE(k == 2 ? s.n : n)));
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

static size_t unique_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y, bool training)
{
    (void)y, (void)training;
    return (size_t)slices_of(node->attrs, x[0]).n * sizeof(int64_t);
}

static void put(const struct mpq_kernel_args *args, uint32_t k, int64_t i, int64_t value)
{
    if (k < args->node->n_out && args->y[k])
        ((int64_t *)args->y[k]->data)[i] = value;
}

/* list [n]: the first slice of each kind, in order. */
static int64_t list_kinds(const struct slices *s, bool sorted, int64_t *list)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (first_like(s, i) != i)
            continue;
        int64_t at = n++;
        for (; sorted && at > 0 && compare(s, list[at - 1], i) > 0; at--)
            list[at] = list[at - 1];
        list[at] = i;
    }
    return n;
}

static void unique_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    struct slices s = slices_of(attrs, args->x[0]);
    int64_t *list = args->workspace, n = list_kinds(&s, attrs->sorted, list);
    size_t bytes = mpq_dtype_bytes(args->x[0]->dtype) * (size_t)s.inner;
    for (int64_t k = 0; k < n; k++) {
        int64_t count = 0;
        for (int64_t i = 0; i < s.n; i++)
            if (compare(&s, list[k], i) == 0) {
                put(args, 2, i, k);
                count++;
            }
        put(args, 1, k, list[k]);
        put(args, 3, k, count);
        for (int64_t o = 0; o < s.outer; o++)
            memcpy((uint8_t *)args->y[0]->data + (size_t)(o * n + k) * bytes,
                   (const uint8_t *)args->x[0]->data + (size_t)(o * s.n + list[k]) * bytes, bytes);
    }
}

const struct mpq_op mpq_op_unique = {.name = "Unique",
                                     .domain = "",
                                     .n_in_min = 1,
                                     .n_in_max = 1,
                                     .n_out_min = 1,
                                     .n_out_max = 4,
                                     .parse = unique_parse,
                                     .infer = unique_infer,
                                     .workspace = unique_workspace,
                                     .forward = unique_forward};
