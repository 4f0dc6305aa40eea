/* Identity, and Dropout as it is at inference: y = x. */
#include <string.h>

#include "quantcore/ops/op_util.h"

const struct mpq_op mpq_op_identity = {.name = "Identity",
                                       .domain = "",
                                       .n_in_min = 1,
                                       .n_in_max = 1,
                                       .n_out_min = 1,
                                       .n_out_max = 1,
                                       .infer = mpq_infer_same,
                                       .forward = mpq_forward_copy,
                                       .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                       .sets_dx = true,
                                       .in_place_dx = true,
                                       .backward = mpq_backward_copy};

/* Inputs 1 (ratio) and 2 (training_mode) may be absent; output 1 is the mask, all true. */
static enum mpq_status dropout_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_tensor *ratio = mpq_input(node, x, 1), *training = mpq_input(node, x, 2);
    bool drops = training && (!training->data || mpq_tensor_int(training, 0));
    if (drops && !(ratio && ratio->data && mpq_tensor_double(ratio, 0) == 0))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "training mode is not supported");
    if (node->n_out > 1 && y[1])
        MPQ_TRY(mpq_infer_set(ctx, node, y[1], MPQ_BOOL, &x[0]->shape));
    return mpq_infer_same(ctx, node, x, y);
}

static void dropout_forward(const struct mpq_kernel_args *args)
{
    mpq_forward_copy(args);
    if (args->node->n_out > 1 && args->y[1])
        memset(args->y[1]->data, 1, mpq_tensor_bytes(args->y[1]));
}

const struct mpq_op mpq_op_dropout = {.name = "Dropout",
                                      .domain = "",
                                      .n_in_min = 1,
                                      .n_in_max = 3,
                                      .n_out_min = 1,
                                      .n_out_max = 2,
                                      .infer = dropout_infer,
                                      .forward = dropout_forward,
                                      .backward_ignores = MPQ_IGNORES_X | MPQ_IGNORES_Y,
                                      .sets_dx = true,
                                      .in_place_dx = true,
                                      .backward = mpq_backward_copy};
