#include "quantcore/ops/kernel/granularity.h"

#include "quantcore/base/thread.h"
#include "quantcore/ops/op_util.h"

enum mpq_status mpq_granularity_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_node *node)
{
    int64_t dtype = mpq_attr_int(&node->attr_set, "output_dtype", MPQ_UNDEFINED);
    struct mpq_granularity_attrs attrs = {
        .axis = mpq_attr_int(&node->attr_set, "axis", 1),
        .block_size = mpq_attr_int(&node->attr_set, "block_size", 0),
        .dtype = dtype > 0 && dtype < MPQ_N_DTYPE ? (enum mpq_dtype)dtype : MPQ_UNDEFINED};
    if (attrs.block_size < 0)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "block_size is %lld",
                             (long long)attrs.block_size);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

/* A scale of one element, whatever its rank, serves the whole tensor. */
static bool is_per_tensor(const struct mpq_tensor *scale)
{
    return scale->shape.rank <= 1 && mpq_shape_count(&scale->shape) == 1;
}

enum mpq_status mpq_granularity_check(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x)
{
    const struct mpq_granularity_attrs *attrs = node->attrs;
    const struct mpq_tensor *zero_point = mpq_input(node, x, 2);
    const struct mpq_shape *shape = &x[0]->shape, *scale = &x[1]->shape;
    int axis = 0;
    MPQ_TRY(mpq_check_float(ctx, node, x, 1));
    if (zero_point && !mpq_shape_equal(&zero_point->shape, scale) &&
        !(is_per_tensor(x[1]) && is_per_tensor(zero_point)))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "scale %s but zero point %s",
                             MPQ_SHAPE_TEXT(scale), MPQ_SHAPE_TEXT(&zero_point->shape));
    if (is_per_tensor(x[1]))
        return MPQ_OK;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, shape->rank, &axis));
    struct mpq_shape want = MPQ_SHAPE(shape->dim[axis]);
    if (attrs->block_size > 0) {
        want = *shape;
        want.dim[axis] = (shape->dim[axis] + attrs->block_size - 1) / attrs->block_size;
    }
    if (!mpq_shape_equal(scale, &want))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "scale is %s where %s is needed",
                             MPQ_SHAPE_TEXT(scale), MPQ_SHAPE_TEXT(&want));
    return MPQ_OK;
}

void mpq_granularity_make(const struct mpq_node *node, const struct mpq_tensor *const *x,
                          struct mpq_granularity *out)
{
    const struct mpq_granularity_attrs *attrs = node->attrs;
    const struct mpq_shape *shape = &x[0]->shape;
    if (is_per_tensor(x[1])) {
        *out = (struct mpq_granularity){1, 1, mpq_shape_count(shape), 1, 0, 0, 0};
        return;
    }
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    *out = (struct mpq_granularity){.outer = mpq_shape_count_range(shape, 0, axis),
                                    .n = shape->dim[axis],
                                    .inner = mpq_shape_count_range(shape, axis + 1, shape->rank),
                                    .block = 1,
                                    .block_step = 1};
    if (attrs->block_size > 0) {
        out->block = attrs->block_size;
        out->inner_step = 1;
        out->block_step = out->inner;
        out->outer_step = out->inner * x[1]->shape.dim[axis];
    }
}

struct walk {
    const struct mpq_granularity *g;
    mpq_granularity_fn fn;
    const void *job;
};

/* Rows [begin, end) of outer * n. */
static void walk_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct walk *walk = arg;
    const struct mpq_granularity *g = walk->g;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row / g->n * g->outer_step + row % g->n / g->block * g->block_step;
        if (g->inner_step == 0)
            walk->fn(walk->job, row * g->inner, g->inner, at);
        else
            for (int64_t i = 0; i < g->inner; i++)
                walk->fn(walk->job, row * g->inner + i, 1, at + i);
    }
}

/* The whole tensor with one scale. */
static void walk_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct walk *walk = arg;
    (void)thread;
    walk->fn(walk->job, begin, end - begin, 0);
}

void mpq_granularity_run(const struct mpq_granularity *g, mpq_granularity_fn fn, const void *job)
{
    struct walk walk = {g, fn, job};
    if (g->block_step == 0)
        mpq_parallel_for(g->inner, MPQ_GRAIN, walk_piece, &walk);
    else
        mpq_parallel_for(g->outer * g->n, 1 + MPQ_GRAIN / (g->inner + 1), walk_rows, &walk);
}
