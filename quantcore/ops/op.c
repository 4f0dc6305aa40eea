#include "quantcore/ops/op.h"

#include <string.h>

#define MPQ_OP(name, symbol) extern const struct mpq_op mpq_op_##symbol;
#include "quantcore/ops/op_list.inc"
#undef MPQ_OP

static const struct mpq_op *const registry[] = {
#define MPQ_OP(name, symbol) &mpq_op_##symbol,
#include "quantcore/ops/op_list.inc"
#undef MPQ_OP
};

size_t mpq_op_count(void)
{
    return MPQ_COUNT(registry);
}

const struct mpq_op *mpq_op_at(size_t i)
{
    return registry[i];
}

const struct mpq_op *mpq_op_find(const char *domain, const char *op_type)
{
    if (strcmp(domain, "ai.onnx") == 0)
        domain = "";
    for (size_t i = 0; i < MPQ_COUNT(registry); i++)
        if (strcmp(registry[i]->name, op_type) == 0 && strcmp(registry[i]->domain, domain) == 0)
            return registry[i];
    return NULL;
}

/* Of the n values between low and high (-1: no limit), the first `low` must be present. */
static enum mpq_status check_values(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const mpq_value_id *value, uint32_t n, int low, int high,
                                    const char *what)
{
    if (n < (uint32_t)low || (high >= 0 && n > (uint32_t)high))
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "has %u %ss", n, what);
    for (int i = 0; i < low; i++)
        if (value[i] == MPQ_NO_VALUE)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%s %d is missing", what, i);
    return MPQ_OK;
}

enum mpq_status mpq_op_resolve(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    const struct mpq_op *op = node->op = mpq_op_find(node->domain, node->op_type);
    if (!op)
        return MPQ_OK;
    MPQ_TRY(check_values(ctx, node, node->in, node->n_in, op->n_in_min, op->n_in_max, "input"));
    MPQ_TRY(
        check_values(ctx, node, node->out, node->n_out, op->n_out_min, op->n_out_max, "output"));
    return op->parse ? op->parse(ctx, arena, node) : MPQ_OK;
}

enum mpq_status mpq_op_evaluate(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_node *node, const struct mpq_tensor *const *x,
                                struct mpq_tensor *const *y)
{
    MPQ_TRY(node->op->infer(ctx, node, x, y));
    for (uint32_t i = 0; i < node->n_out; i++)
        if (y[i])
            MPQ_TRY(mpq_tensor_alloc(ctx, arena, y[i]->dtype, &y[i]->shape, y[i]));
    size_t bytes = node->op->workspace ? node->op->workspace(node, x, y, false) : 0;
    void *workspace = mpq_arena_alloc(ctx, arena, bytes + 64, 1);
    if (!workspace)
        return MPQ_E_NOMEM;
    node->op->forward(
        &(struct mpq_kernel_args){.node = node, .x = x, .y = y, .workspace = workspace});
    return MPQ_OK;
}
