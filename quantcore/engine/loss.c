#include "quantcore/engine/loss.h"

#include <math.h>
#include <string.h>

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
        int64_t n_column = rank ? tensor->shape.dim[rank - 1] : 1;
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
            "to compare");
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
    return kl > 0 ? kl : 0;
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

void mpq_loss_references(const mpq_real *logits, int64_t n_row, int64_t n_column, int64_t n,
                         mpq_real *out)
{
    for (int64_t r = 0; r < n; r++) {
        const mpq_real *row = logits + r * n_row / n * n_column;
        double max = (double)row[0], sum = 0;
        for (int64_t j = 1; j < n_column; j++)
            max = fmax(max, (double)row[j]);
        for (int64_t j = 0; j < n_column; j++)
            sum += exp((double)row[j] - max);
        for (int64_t j = 0; j < n_column; j++)
            out[r * n_column + j] = (mpq_real)(exp((double)row[j] - max) / sum);
    }
}

enum { LANES = 8, COLUMNS = 256, MOST_EXPONENT = 700 };

/* Sum of p * x. */
static double expectation(const mpq_real *p, const double *x, int64_t n)
{
    double sum[LANES] = {0}, total = 0;
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++)
            sum[j] += (double)p[i + j] * x[i + j];
    for (int64_t i = whole; i < n; i++)
        sum[0] += (double)p[i] * x[i];
    for (int j = 0; j < LANES; j++)
        total += sum[j];
    return total;
}

/* With d a row's error, less its mean, KL is log(1 + sum p (e^d - 1)) - sum p d, and its gradient
 * p e^d / (1 + sum p (e^d - 1)) - p: all that depends on p are products. */
struct expected_row {
    const mpq_real *y, *target, *reference;
    int64_t n_column, n_reference;
    double mean;
    double sum[MPQ_LOSS_REFERENCES]; /* of p (e^d - 1) for each p */
};

/* Columns [first, first + n) of d and e^d - 1. */
static void find_growth(const struct expected_row *row, int64_t first, int64_t n, double *error,
                        double *growth)
{
    for (int64_t j = 0; j < n; j++) {
        error[j] = (double)row->y[first + j] - (double)row->target[first + j] - row->mean;
        growth[j] = expm1(fmin(error[j], MOST_EXPONENT));
    }
}

static double expected_kl_row(struct expected_row *row)
{
    double kl = 0, error[COLUMNS], growth[COLUMNS];
    MPQ_ASSERT(row->n_reference <= MPQ_LOSS_REFERENCES);
    row->mean = 0;
    memset(row->sum, 0, sizeof row->sum);
    for (int64_t j = 0; j < row->n_column; j++)
        row->mean += ((double)row->y[j] - (double)row->target[j]) / (double)row->n_column;
    for (int64_t first = 0; first < row->n_column; first += COLUMNS) {
        int64_t n = row->n_column - first < COLUMNS ? row->n_column - first : COLUMNS;
        find_growth(row, first, n, error, growth);
        for (int64_t r = 0; r < row->n_reference; r++) {
            const mpq_real *p = row->reference + r * row->n_column + first;
            row->sum[r] += expectation(p, growth, n);
            kl -= expectation(p, error, n);
        }
    }
    for (int64_t r = 0; r < row->n_reference; r++) {
        row->sum[r] = fmax(row->sum[r], -1 + 1e-12);
        kl += log1p(row->sum[r]);
    }
    return fmax(kl / (double)row->n_reference, 0);
}

/* dy += factor times the gradient of what expected_kl_row() has just found. */
static void add_gradient(const struct expected_row *row, double factor, mpq_real *dy)
{
    double error[COLUMNS], growth[COLUMNS];
    for (int64_t first = 0; first < row->n_column; first += COLUMNS) {
        double shifted[COLUMNS] = {0}, before[COLUMNS] = {0};
        int64_t n = row->n_column - first < COLUMNS ? row->n_column - first : COLUMNS;
        find_growth(row, first, n, error, growth);
        for (int64_t r = 0; r < row->n_reference; r++) {
            const mpq_real *p = row->reference + r * row->n_column + first;
            double share = 1 / (1 + row->sum[r]);
            for (int64_t j = 0; j < n; j++) {
                shifted[j] += (double)p[j] * share;
                before[j] += (double)p[j];
            }
        }
        for (int64_t j = 0; j < n; j++)
            dy[first + j] += (mpq_real)(factor / (double)row->n_reference *
                                        (shifted[j] * (1 + growth[j]) - before[j]));
    }
}

double mpq_loss_expected_kl(const mpq_real *y, const mpq_real *target, int64_t n_row,
                            int64_t n_column, const mpq_real *reference, int64_t n_reference,
                            double factor, mpq_real *dy)
{
    double kl = 0;
    for (int64_t r = 0; r < n_row; r++) {
        struct expected_row row = {.y = y + r * n_column,
                                   .target = target + r * n_column,
                                   .reference = reference,
                                   .n_column = n_column,
                                   .n_reference = n_reference};
        kl += expected_kl_row(&row);
        if (dy)
            add_gradient(&row, factor, dy + r * n_column);
    }
    return kl;
}
