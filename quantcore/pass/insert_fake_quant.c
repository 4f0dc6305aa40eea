#include "quantcore/pass/pass.h"

struct inserter {
    struct mpq_ctx *ctx;
    const struct mpq_graph *from;
    const struct mpq_act_plan *plan;
    const struct mpq_act_quant *quant;
    struct mpq_graph *to;
    mpq_value_id *quantized; /* [n_value of from]: what readers of a value read now */
};

/* *out = FakeQuant(x) of a group; `of` is the value in the old graph that it is a form of. */
static enum mpq_status add_fake_quant(struct inserter *s, mpq_value_id of, mpq_value_id x,
                                      uint32_t group, mpq_value_id *out)
{
    char *stem = mpq_arena_printf(s->ctx, s->to->arena, "%s_quantized", s->from->value[of].name);
    if (!stem)
        return MPQ_E_NOMEM;
    mpq_value_id y;
    MPQ_TRY(mpq_graph_add_unique(s->ctx, s->to, stem, &y));
    s->to->value[y].dtype = s->from->value[of].dtype;
    s->to->value[y].shape = s->from->value[of].shape;
    s->to->value[y].dim_param = s->from->value[of].dim_param;
    struct mpq_node node = {.name = s->to->value[y].name,
                            .op_type = "FakeQuant",
                            .domain = "onnx_mpq",
                            .op = mpq_op_find("onnx_mpq", "FakeQuant"),
                            .attrs = &s->quant[group],
                            .n_in = 1,
                            .n_out = 1,
                            .in = &x,
                            .out = &y,
                            .source = MPQ_NO_NODE};
    *out = y;
    return mpq_graph_add_node(s->ctx, s->to, &node, NULL);
}

static enum mpq_status quantize_value(struct inserter *s, mpq_value_id v)
{
    if (v == MPQ_NO_VALUE || s->plan->group[v] == MPQ_NO_GROUP || s->plan->lossless[v])
        return MPQ_OK;
    return add_fake_quant(s, v, v, s->plan->group[v], &s->quantized[v]);
}

static enum mpq_status add_node(struct inserter *s, mpq_node_id id, mpq_node_id *out)
{
    struct mpq_node node = s->from->node[id];
    mpq_value_id *in = mpq_arena_copy(s->ctx, s->to->arena, node.in, node.n_in * sizeof *node.in);
    if (!in)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < node.n_in; i++)
        if (in[i] != MPQ_NO_VALUE)
            in[i] = s->quantized[in[i]];
    node.in = in;
    uint32_t own = s->plan->own_group ? s->plan->own_group[id] : MPQ_NO_GROUP;
    if (own != MPQ_NO_GROUP)
        MPQ_TRY(add_fake_quant(s, s->from->node[id].in[0], in[0], own, &in[0]));
    MPQ_TRY(mpq_graph_add_node(s->ctx, s->to, &node, out));
    for (uint32_t i = 0; i < node.n_out; i++)
        MPQ_TRY(quantize_value(s, node.out[i]));
    return MPQ_OK;
}

enum mpq_status mpq_insert_fake_quant(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph,
                                      const struct mpq_act_plan *plan,
                                      const struct mpq_act_quant *quant, struct mpq_graph **out,
                                      mpq_node_id *out_node_of)
{
    struct inserter s = {.ctx = ctx, .from = graph, .plan = plan, .quant = quant};
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, true, &s.to));
    s.quantized = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *s.quantized);
    if (!s.quantized)
        return MPQ_E_NOMEM;
    for (mpq_value_id v = 0; v < graph->n_value; v++)
        s.quantized[v] = v;
    for (uint32_t i = 0; i < graph->n_input; i++)
        MPQ_TRY(quantize_value(&s, graph->input[i]));
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        MPQ_TRY(add_node(&s, n, &out_node_of[n]));
    for (uint32_t i = 0; i < graph->n_output; i++)
        s.to->output[i] = s.quantized[graph->output[i]];
    *out = s.to;
    return MPQ_OK;
}
