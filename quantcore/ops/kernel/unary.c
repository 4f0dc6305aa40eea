#include "quantcore/ops/kernel/unary.h"

static struct mpq_unary make(const struct mpq_kernel_args *args)
{
    const struct mpq_unary_attrs *attrs = args->node->attrs;
    return (struct mpq_unary){.a = attrs ? (mpq_real)attrs->a : 0,
                              .b = attrs ? (mpq_real)attrs->b : 0,
                              .x = args->x[0]->data,
                              .y = args->y[0]->data};
}

void mpq_unary_forward(const struct mpq_kernel_args *args, mpq_unary_piece *piece)
{
    struct mpq_unary unary = make(args);
    unary.out = args->y[0]->data;
    mpq_parallel_for(mpq_shape_count(&args->y[0]->shape), MPQ_GRAIN, piece, &unary);
}

void mpq_unary_backward(const struct mpq_kernel_args *args, mpq_unary_piece *piece)
{
    struct mpq_unary unary = make(args);
    unary.dy = args->dy[0];
    unary.out = args->dx[0];
    unary.fresh = mpq_is_fresh(args, 0);
    if (unary.dy && unary.out)
        mpq_parallel_for(mpq_shape_count(&args->y[0]->shape), MPQ_GRAIN, piece, &unary);
}

enum mpq_status mpq_unary_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node,
                                const char *name_a, float default_a, const char *name_b,
                                float default_b)
{
    struct mpq_unary_attrs *attrs = mpq_arena_alloc(ctx, arena, 1, sizeof *attrs);
    if (!attrs)
        return MPQ_E_NOMEM;
    attrs->a = name_a ? mpq_attr_float(&node->attr_set, name_a, default_a) : default_a;
    attrs->b = name_b ? mpq_attr_float(&node->attr_set, name_b, default_b) : default_b;
    node->attrs = attrs;
    return MPQ_OK;
}
