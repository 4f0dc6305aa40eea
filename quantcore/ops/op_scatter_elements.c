/* ScatterElements: a copy of x in which y[index[i][j]][j] = updates[i][j], here along axis 0, or is
 * combined with it. Computed indices are clamped into the axis, as in op_gather.c. */
#include <math.h>
#include <string.h>

#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/op_util.h"

enum reduction { NONE, ADD, MUL, MAX, MIN, N_REDUCTION };

struct attrs {
    int64_t axis;
    enum reduction reduction;
};

static enum mpq_status scatter_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     struct mpq_node *node)
{
    static const char *const name[N_REDUCTION] = {"none", "add", "mul", "max", "min"};
    const char *wanted = mpq_attr_string(&node->attr_set, "reduction", "none");
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "axis", 0), NONE};
    while (attrs.reduction < N_REDUCTION && strcmp(name[attrs.reduction], wanted) != 0)
        attrs.reduction++;
    if (attrs.reduction == N_REDUCTION)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "reduction '%s' is not known", wanted);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status scatter_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *to = &x[0]->shape, *index = &x[1]->shape;
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, to->rank, &axis));
    bool fits = index->rank == to->rank && mpq_shape_equal(index, &x[2]->shape) &&
                x[2]->dtype == x[0]->dtype;
    for (int i = 0; fits && i < to->rank; i++)
        fits = i == axis || index->dim[i] <= to->dim[i];
    if (!fits)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "updates are %s %s for %s %s at indices %s",
                             mpq_dtype_name(x[2]->dtype), MPQ_SHAPE_TEXT(&x[2]->shape),
                             mpq_dtype_name(x[0]->dtype), MPQ_SHAPE_TEXT(to),
                             MPQ_SHAPE_TEXT(index));
    MPQ_TRY(mpq_check_indices(ctx, node, x[1], to->dim[axis]));
    if (attrs->reduction != NONE && !mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return mpq_infer_same(ctx, node, x, y);
}

static double reduce(enum reduction reduction, double a, double b)
{
    return reduction == ADD   ? a + b
           : reduction == MUL ? a * b
           : reduction == MAX ? fmax(a, b)
                              : fmin(a, b);
}

static void scatter_one(struct mpq_tensor *y, int64_t to, const struct mpq_tensor *updates,
                        int64_t from, enum reduction reduction)
{
    size_t bytes = mpq_dtype_bytes(y->dtype);
    if (reduction == NONE)
        memcpy((uint8_t *)y->data + (size_t)to * bytes,
               (const uint8_t *)updates->data + (size_t)from * bytes, bytes);
    else
        mpq_tensor_set_double(
            y, to, reduce(reduction, mpq_tensor_double(y, to), mpq_tensor_double(updates, from)));
}

static void scatter_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &args->x[1]->shape, *whole = &args->x[0]->shape;
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    int64_t stride[MPQ_MAX_RANK], place[MPQ_MAX_RANK] = {0}, n = mpq_shape_count(shape);
    mpq_dense_strides(whole, stride);
    mpq_forward_copy(args);
    for (int64_t from = 0; from < n; from++) {
        int64_t to = mpq_index_at(args->x[1], from, whole->dim[axis]) * stride[axis];
        for (int i = 0; i < shape->rank; i++)
            to += i == axis ? 0 : place[i] * stride[i];
        scatter_one(args->y[0], to, args->x[2], from, attrs->reduction);
        for (int i = shape->rank - 1; i >= 0 && ++place[i] == shape->dim[i]; i--)
            place[i] = 0;
    }
}

const struct mpq_op mpq_op_scatter_elements = {.name = "ScatterElements",
                                               .domain = "",
                                               .n_in_min = 3,
                                               .n_in_max = 3,
                                               .n_out_min = 1,
                                               .n_out_max = 1,
                                               .parse = scatter_parse,
                                               .infer = scatter_infer,
                                               .forward = scatter_forward};
