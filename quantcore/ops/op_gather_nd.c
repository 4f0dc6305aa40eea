/* GatherND: the last axis of the indices holds the first coordinates of a slice of x, after
 * batch_dims leading axes that both have in common. ScatterND: a copy of x in which those slices
 * are replaced by those of input 2, or combined with them. Computed indices are clamped, as in
 * op_gather.c.
 */
#include <string.h>

#include "quantcore/ops/kernel/scatter.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status gather_nd_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "batch_dims", 0);
}

/* *out_n: coordinates of one index. */
static enum mpq_status check_index(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_shape *from, const struct mpq_tensor *index,
                                   int64_t batch_dims, int *out_n)
{
    int64_t n = index->shape.rank > 0 ? index->shape.dim[index->shape.rank - 1] : 0;
    bool fits =
        batch_dims >= 0 && batch_dims < index->shape.rank && n >= 1 && n <= from->rank - batch_dims;
    for (int i = 0; fits && i < batch_dims; i++)
        fits = index->shape.dim[i] == from->dim[i];
    if (!fits)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "indices %s for an input of %s",
                             MPQ_SHAPE_TEXT(&index->shape), MPQ_SHAPE_TEXT(from));
    if (!mpq_dtype_is_integer(index->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "indices are %s",
                             mpq_dtype_name(index->dtype));
    int64_t count = mpq_shape_count(&index->shape);
    for (int64_t i = 0; i < count; i++) {
        int64_t dim = from->dim[batch_dims + i % n], k = index->data ? mpq_tensor_int(index, i) : 0;
        if (k < -dim || k >= dim)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "index %lld is outside of length %lld",
                                 (long long)k, (long long)dim);
    }
    *out_n = (int)n;
    return MPQ_OK;
}

static enum mpq_status gather_nd_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape, *index = &x[1]->shape;
    int batch_dims = (int)mpq_parsed_int(node), n = 0;
    MPQ_TRY(check_index(ctx, node, from, x[1], mpq_parsed_int(node), &n));
    struct mpq_shape shape = {.rank = index->rank - 1 + from->rank - batch_dims - n};
    if (shape.rank > MPQ_MAX_RANK)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "the output has rank %d", shape.rank);
    for (int i = 0; i < shape.rank; i++)
        shape.dim[i] =
            i < index->rank - 1 ? index->dim[i] : from->dim[i - (index->rank - 1) + batch_dims + n];
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

struct layout {
    int batch_dims, n;        /* coordinates of one index */
    int64_t count, per_batch; /* indices in all, in one batch */
    int64_t batch, slice;     /* elements of x in one batch, in one slice */
};

static struct layout make_layout(const struct mpq_kernel_args *args, int64_t batch_dims)
{
    const struct mpq_shape *from = &args->x[0]->shape, *index = &args->x[1]->shape;
    struct layout l = {.batch_dims = (int)batch_dims, .n = (int)index->dim[index->rank - 1]};
    l.count = mpq_shape_count_range(index, 0, index->rank - 1);
    l.per_batch = mpq_shape_count_range(index, l.batch_dims, index->rank - 1);
    l.batch = mpq_shape_count_range(from, l.batch_dims, from->rank);
    l.slice = mpq_shape_count_range(from, l.batch_dims + l.n, from->rank);
    return l;
}

/* First element of the slice that index i names. */
static int64_t slice_offset(const struct mpq_kernel_args *args, const struct layout *l, int64_t i)
{
    const struct mpq_shape *from = &args->x[0]->shape;
    int64_t at = 0;
    for (int k = 0; k < l->n; k++) {
        int64_t dim = from->dim[l->batch_dims + k];
        at = at * dim + mpq_index_at(args->x[1], i * l->n + k, dim);
    }
    return i / l->per_batch * l->batch + at * l->slice;
}

static void gather_nd_forward(const struct mpq_kernel_args *args)
{
    struct layout l = make_layout(args, mpq_parsed_int(args->node));
    size_t element = mpq_dtype_bytes(args->y[0]->dtype), bytes = element * (size_t)l.slice;
    for (int64_t i = 0; i < l.count; i++)
        memcpy((uint8_t *)args->y[0]->data + (size_t)i * bytes,
               (const uint8_t *)args->x[0]->data + (size_t)slice_offset(args, &l, i) * element,
               bytes);
}

static void gather_nd_backward(const struct mpq_kernel_args *args)
{
    struct layout l = make_layout(args, mpq_parsed_int(args->node));
    if (!args->dy[0] || !args->dx[0])
        return;
    for (int64_t i = 0; i < l.count; i++)
        mpq_accumulate(args->dx[0] + slice_offset(args, &l, i), args->dy[0] + i * l.slice, l.slice,
                       false);
}

const struct mpq_op mpq_op_gather_nd = {.name = "GatherND",
                                        .domain = "",
                                        .n_in_min = 2,
                                        .n_in_max = 2,
                                        .n_out_min = 1,
                                        .n_out_max = 1,
                                        .parse = gather_nd_parse,
                                        .infer = gather_nd_infer,
                                        .forward = gather_nd_forward,
                                        .backward = gather_nd_backward};

static enum mpq_status scatter_nd_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                        struct mpq_node *node)
{
    enum mpq_scatter reduction = MPQ_SCATTER_NONE;
    MPQ_TRY(mpq_scatter_read(ctx, node, &reduction));
    node->attrs = mpq_arena_copy(ctx, arena, &reduction, sizeof reduction);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status scatter_nd_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                        const struct mpq_tensor *const *x,
                                        struct mpq_tensor *const *y)
{
    const struct mpq_shape *from = &x[0]->shape, *index = &x[1]->shape;
    int n = 0;
    MPQ_TRY(check_index(ctx, node, from, x[1], 0, &n));
    struct mpq_shape updates = {.rank = index->rank - 1 + from->rank - n};
    for (int i = 0; i < updates.rank && i < MPQ_MAX_RANK; i++)
        updates.dim[i] = i < index->rank - 1 ? index->dim[i] : from->dim[i - (index->rank - 1) + n];
    if (!mpq_shape_equal(&x[2]->shape, &updates) || x[2]->dtype != x[0]->dtype)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "updates are %s %s for %s %s at indices %s",
                             mpq_dtype_name(x[2]->dtype), MPQ_SHAPE_TEXT(&x[2]->shape),
                             mpq_dtype_name(x[0]->dtype), MPQ_SHAPE_TEXT(from),
                             MPQ_SHAPE_TEXT(index));
    MPQ_TRY(mpq_scatter_check(ctx, node, x, *(const enum mpq_scatter *)node->attrs));
    return mpq_infer_same(ctx, node, x, y);
}

static void scatter_nd_forward(const struct mpq_kernel_args *args)
{
    const enum mpq_scatter *reduction = args->node->attrs;
    struct layout l = make_layout(args, 0);
    mpq_forward_copy(args);
    for (int64_t i = 0; i < l.count; i++)
        mpq_scatter_forward(args, *reduction, slice_offset(args, &l, i), i * l.slice, l.slice);
}

static void scatter_nd_backward(const struct mpq_kernel_args *args)
{
    const enum mpq_scatter *reduction = args->node->attrs;
    struct layout l = make_layout(args, 0);
    if (!args->dy[0])
        return;
    mpq_scatter_backward_begin(args);
    for (int64_t i = l.count; i-- > 0;)
        mpq_scatter_backward(args, *reduction, slice_offset(args, &l, i), i * l.slice, l.slice);
    mpq_scatter_backward_end(args);
}

const struct mpq_op mpq_op_scatter_nd = {.name = "ScatterND",
                                         .domain = "",
                                         .n_in_min = 3,
                                         .n_in_max = 3,
                                         .n_out_min = 1,
                                         .n_out_max = 1,
                                         .parse = scatter_nd_parse,
                                         .infer = scatter_nd_infer,
                                         .workspace = mpq_scatter_workspace,
                                         .forward = scatter_nd_forward,
                                         .backward = scatter_nd_backward};
