/* EyeLike: a matrix of the shape of x, 1 on the k-th diagonal, 0 elsewhere. */
#include "quantcore/ops/op_util.h"

struct attrs {
    int64_t k;
    enum mpq_dtype dtype; /* UNDEFINED: that of x */
};

static enum mpq_status eye_like_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_node *node)
{
    int64_t dtype = mpq_attr_int(&node->attr_set, "dtype", MPQ_UNDEFINED);
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "k", 0),
                          dtype > 0 && dtype < MPQ_N_DTYPE ? (enum mpq_dtype)dtype : MPQ_UNDEFINED};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status eye_like_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    enum mpq_dtype dtype = ((const struct attrs *)node->attrs)->dtype;
    if (dtype == MPQ_UNDEFINED)
        dtype = x[0]->dtype;
    if (x[0]->shape.rank != 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input is %s, not a matrix",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    if (dtype != MPQ_FLOAT && dtype != MPQ_BOOL && !mpq_dtype_is_integer(dtype))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "a matrix of %s", mpq_dtype_name(dtype));
    return mpq_infer_set(ctx, node, y[0], dtype, &x[0]->shape);
}

static void eye_like_forward(const struct mpq_kernel_args *args)
{
    struct mpq_tensor *y = args->y[0];
    int64_t k = ((const struct attrs *)args->node->attrs)->k;
    for (int64_t i = 0; i < y->shape.dim[0]; i++)
        for (int64_t j = 0; j < y->shape.dim[1]; j++)
            mpq_tensor_set_double(y, i * y->shape.dim[1] + j, j - i == k);
}

const struct mpq_op mpq_op_eye_like = {.name = "EyeLike",
                                       .domain = "",
                                       .n_in_min = 1,
                                       .n_in_max = 1,
                                       .n_out_min = 1,
                                       .n_out_max = 1,
                                       .reads_shape_only = true,
                                       .parse = eye_like_parse,
                                       .infer = eye_like_infer,
                                       .forward = eye_like_forward};
