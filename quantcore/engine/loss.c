#include "quantcore/engine/loss.h"

#include <math.h>

static const double logits_mse_weight = 0.05;

static bool reduces_last_axis(const struct mpq_graph *graph, const struct mpq_node *node, int rank)
{
    size_t n = 0;
    const int64_t *axis = mpq_attr_ints(&node->attr_set, "axes", &n);
    if (node->n_in > 1 && node->in[1] != MPQ_NO_VALUE) {
        const struct mpq_tensor *axes = graph->value[node->in[1]].constant;
        if (!axes || axes->dtype != MPQ_INT64)
            return false;
        axis = axes->data;
        n = (size_t)mpq_shape_count(&axes->shape);
    }
    return n == 1 && (axis[0] == -1 || axis[0] == rank - 1);
}

/* Whether v holds sums of x along its last axis, brought into whatever shape. */
static bool is_sum_of(const struct mpq_graph *graph, mpq_value_id v, mpq_value_id x, int rank)
{
    static const char *const reshapes[] = {"Reshape", "Expand", "Unsqueeze", "Squeeze", "Identity"};
    for (mpq_node_id n = graph->value[v].producer; n != MPQ_NO_NODE;) {
        const struct mpq_node *node = &graph->node[n];
        if (mpq_node_is(node, "ReduceSum"))
            return node->in[0] == x && reduces_last_axis(graph, node, rank);
        bool is_reshape = false;
        for (size_t i = 0; i < sizeof reshapes / sizeof *reshapes; i++)
            is_reshape = is_reshape || mpq_node_is(node, reshapes[i]);
        if (!is_reshape)
            return false;
        n = graph->value[node->in[0]].producer;
    }
    return false;
}

/* What a final Softmax or LogSoftmax over the last axis has for its input, of either spelling:
 * exponentials over their sums, as some exporters write it, are one, too. MPQ_NO_VALUE where the
 * output is none. */
static mpq_value_id softmax_input(const struct mpq_graph *graph, mpq_value_id output, int rank)
{
    if (graph->value[output].producer == MPQ_NO_NODE)
        return MPQ_NO_VALUE;
    const struct mpq_node *node = &graph->node[graph->value[output].producer];
    if (mpq_node_is(node, "Softmax") || mpq_node_is(node, "LogSoftmax")) {
        int64_t axis = mpq_attr_int(&node->attr_set, "axis", -1);
        return axis == -1 || axis == rank - 1 ? node->in[0] : MPQ_NO_VALUE;
    }
    if (!mpq_node_is(node, "Div") || !is_sum_of(graph, node->in[1], node->in[0], rank))
        return MPQ_NO_VALUE;
    mpq_node_id n = graph->value[node->in[0]].producer;
    bool is_exp = n != MPQ_NO_NODE && mpq_node_is(&graph->node[n], "Exp");
    return is_exp ? graph->node[n].in[0] : MPQ_NO_VALUE;
}

enum mpq_status mpq_loss_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, const struct mpq_binding *binding,
                                int64_t batch, struct mpq_loss *out)
{
    struct mpq_loss loss = {.head =
                                mpq_arena_alloc(ctx, arena, graph->n_output, sizeof *loss.head)};
    if (!loss.head)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_output; i++) {
        mpq_value_id output = graph->output[i];
        mpq_value_id v = softmax_input(graph, output, binding->tensor[output].shape.rank);
        bool is_logits = v != MPQ_NO_VALUE;
        v = is_logits ? v : output;
        const struct mpq_tensor *tensor = &binding->tensor[v];
        int64_t count = mpq_shape_count(&tensor->shape);
        if (tensor->dtype != MPQ_FLOAT || tensor->data || count == 0 || count % batch)
            continue;
        int rank = tensor->shape.rank;
        int64_t n_column = rank > 1 ? tensor->shape.dim[rank - 1] : 1; /* [N]: of N samples */
        bool has_rows = is_logits || ((rank == 2 || rank == 3) && n_column > 1);
        loss.head[loss.n_head++] = (struct mpq_loss_head){
            .value = v,
            .n_column = n_column,
            .n_sample = count / batch,
            .kl_weight = has_rows ? 1 : 0,
            .mse_weight = is_logits  ? 0
                          : has_rows ? logits_mse_weight
                                     : 1,
        };
    }
    if (!loss.n_head)
        return mpq_fail(
            ctx, MPQ_E_UNSUPPORTED,
            "no output is a float tensor that depends on the input, so there is nothing "
            "to compare (convert --weights-only compares nothing)");
    *out = loss;
    return MPQ_OK;
}

/* KL(softmax(target) || softmax(y)) of one row; dy += (softmax(y) - softmax(target)) * factor. */
static double kl_row(const mpq_real *y, const mpq_real *target, int64_t n, double factor,
                     mpq_real *dy)
{
    double y_max = (double)y[0], t_max = (double)target[0], y_sum = 0, t_sum = 0;
    for (int64_t i = 1; i < n; i++) {
        y_max = fmax(y_max, (double)y[i]);
        t_max = fmax(t_max, (double)target[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        y_sum += exp((double)y[i] - y_max);
        t_sum += exp((double)target[i] - t_max);
    }
    double y_log = y_max + log(y_sum), t_log = t_max + log(t_sum), kl = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_p = (double)target[i] - t_log, log_q = (double)y[i] - y_log, p = exp(log_p);
        kl += p * (log_p - log_q);
        if (dy)
            dy[i] += (mpq_real)((exp(log_q) - p) * factor);
    }
    return kl < 0 ? 0 : kl; /* NaN stays */
}

double mpq_loss_head_value(const struct mpq_loss_head *head, const mpq_real *y,
                           const mpq_real *target, int64_t n, double variance, mpq_real *dy)
{
    int64_t count = n * head->n_sample, n_row = count / head->n_column;
    double kl = 0, square = 0;
    if (head->kl_weight > 0)
        for (int64_t r = 0; r < n_row; r++)
            kl += kl_row(y + r * head->n_column, target + r * head->n_column, head->n_column,
                         head->kl_weight / (double)n_row, dy ? dy + r * head->n_column : NULL);
    if (head->mse_weight > 0) {
        double factor = 2 * head->mse_weight / ((double)count * variance);
        for (int64_t i = 0; i < count; i++) {
            double d = (double)y[i] - (double)target[i];
            square += d * d;
            if (dy)
                dy[i] += (mpq_real)(factor * d);
        }
    }
    return head->kl_weight * kl / (double)n_row +
           head->mse_weight * square / ((double)count * variance);
}
