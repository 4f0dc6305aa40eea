/* TensorScatter: a copy of the cache x [batch, ..., length, ...] in which the update, of the same
 * shape but shorter along the axis, lies from the place on that input 2 gives for each batch, or
 * from 0; in circular mode the axis is a ring. A place that is computed and out of range is
 * clamped, as in op_gather.c. */
#include <string.h>

#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t axis;
    bool is_ring;
};

static enum mpq_status tensor_scatter_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                            struct mpq_node *node)
{
    const char *mode = mpq_attr_string(&node->attr_set, "mode", "linear");
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "axis", -2), strcmp(mode, "circular") == 0};
    if (!attrs.is_ring && strcmp(mode, "linear") != 0)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "mode '%s' is not known", mode);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status tensor_scatter_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                            const struct mpq_tensor *const *x,
                                            struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    const struct mpq_shape *cache = &x[0]->shape, *update = &x[1]->shape;
    const struct mpq_tensor *place = mpq_input(node, x, 2);
    int axis = 0;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, cache->rank, &axis));
    bool fits = axis > 0 && update->rank == cache->rank && x[1]->dtype == x[0]->dtype &&
                update->dim[axis] <= cache->dim[axis];
    for (int i = 0; fits && i < cache->rank; i++)
        fits = i == axis || update->dim[i] == cache->dim[i];
    if (!fits)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "an update of %s %s for a cache of %s %s",
                             mpq_dtype_name(x[1]->dtype), MPQ_SHAPE_TEXT(update),
                             mpq_dtype_name(x[0]->dtype), MPQ_SHAPE_TEXT(cache));
    if (place && (!mpq_dtype_is_integer(place->dtype) || place->shape.rank != 1 ||
                  place->shape.dim[0] != cache->dim[0]))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "places are %s %s for a cache of %s",
                             mpq_dtype_name(place->dtype), MPQ_SHAPE_TEXT(&place->shape),
                             MPQ_SHAPE_TEXT(cache));
    for (int64_t b = 0; place && place->data && b < cache->dim[0]; b++) {
        int64_t at = mpq_tensor_int(place, b);
        if (at < 0 || (!attrs->is_ring && at > cache->dim[axis] - update->dim[axis]))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "place %lld is outside of %s",
                                 (long long)at, MPQ_SHAPE_TEXT(cache));
    }
    return mpq_infer_same(ctx, node, x, y);
}

/* Calls fn for each row of the update: elements [from, from + n) belong at [to, to + n) of y. */
static void for_each_row(const struct mpq_kernel_args *args,
                         void (*fn)(const struct mpq_kernel_args *, int64_t to, int64_t from,
                                    int64_t n))
{
    const struct attrs *attrs = args->node->attrs;
    const struct mpq_shape *cache = &args->x[0]->shape;
    const struct mpq_tensor *place = mpq_input(args->node, args->x, 2);
    int axis = (int)(attrs->axis < 0 ? attrs->axis + cache->rank : attrs->axis);
    int64_t length = cache->dim[axis], n = args->x[1]->shape.dim[axis];
    int64_t outer = mpq_shape_count_range(cache, 0, axis);
    int64_t inner = mpq_shape_count_range(cache, axis + 1, cache->rank);
    for (int64_t o = 0; o < outer; o++) {
        int64_t batch = o / (outer / cache->dim[0]), first = 0;
        if (place)
            first = mpq_tensor_int(place, batch);
        if (!attrs->is_ring)
            first = first < 0 ? 0 : first > length - n ? length - n : first;
        for (int64_t i = 0; i < n; i++) {
            int64_t row = ((first + i) % length + length) % length;
            fn(args, (o * length + row) * inner, (o * n + i) * inner, inner);
        }
    }
}

static void put_row(const struct mpq_kernel_args *args, int64_t to, int64_t from, int64_t n)
{
    size_t bytes = mpq_dtype_bytes(args->y[0]->dtype);
    memcpy((uint8_t *)args->y[0]->data + (size_t)to * bytes,
           (const uint8_t *)args->x[1]->data + (size_t)from * bytes, (size_t)n * bytes);
}

static void tensor_scatter_forward(const struct mpq_kernel_args *args)
{
    mpq_forward_copy(args);
    for_each_row(args, put_row);
}

const struct mpq_op mpq_op_tensor_scatter = {.name = "TensorScatter",
                                             .domain = "",
                                             .n_in_min = 2,
                                             .n_in_max = 3,
                                             .n_out_min = 1,
                                             .n_out_max = 1,
                                             .parse = tensor_scatter_parse,
                                             .infer = tensor_scatter_infer,
                                             .forward = tensor_scatter_forward};
