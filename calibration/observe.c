#include "calibration/observe.h"

#include <math.h>

enum mpq_status mpq_observer_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph,
                                    const struct mpq_layer_table *layers,
                                    const struct mpq_act_plan *plan, struct mpq_observer *out)
{
    struct mpq_observer o = {.layers = layers, .plan = plan};
    o.histogram = mpq_arena_alloc(ctx, arena, plan->n_group, sizeof *o.histogram);
    o.stats = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *o.stats);
    o.n_seen = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *o.n_seen);
    o.keep = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *o.keep);
    if (!o.histogram || !o.stats || !o.n_seen || !o.keep)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < graph->n_value; v++)
        o.keep[v] = plan->group[v] != MPQ_NO_GROUP;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        struct mpq_layer_stats *stats = &o.stats[l];
        size_t n_weight = (size_t)(layer->n_group * layer->n_outer * layer->n_inner);
        stats->input_mean = mpq_arena_alloc(ctx, arena, n_weight, sizeof(mpq_real));
        stats->input_power = mpq_arena_alloc(ctx, arena, n_weight, sizeof(mpq_real));
        if (!stats->input_mean || !stats->input_power)
            return MPQ_E_NOMEM;
        o.keep[layer->x] = o.keep[layer->y] = true;
    }
    *out = o;
    return MPQ_OK;
}

/* Mean and mean square of x[outer][n][inner] for each place of the middle dimension, added to the
 * running means over n_seen positions; each serves `repeat` consecutive weights. */
static void add_input(const mpq_real *x, int64_t outer, int64_t n, int64_t inner, uint64_t n_seen,
                      int64_t repeat, struct mpq_layer_stats *stats)
{
    double n_value = (double)(outer * inner), share = n_value / (n_value + (double)n_seen);
    for (int64_t c = 0; c < n; c++) {
        double sum = 0, square = 0;
        for (int64_t o = 0; o < outer; o++) {
            const mpq_real *row = x + (o * n + c) * inner;
            mpq_real row_sum = 0, row_square = 0;
            for (int64_t i = 0; i < inner; i++) {
                row_sum += row[i];
                row_square += row[i] * row[i];
            }
            sum += (double)row_sum;
            square += (double)row_square;
        }
        for (int64_t r = c * repeat; r < (c + 1) * repeat; r++) {
            mpq_real *mean = &stats->input_mean[r], *power = &stats->input_power[r];
            *mean += (mpq_real)(share * (sum / n_value - (double)*mean));
            *power += (mpq_real)(share * (square / n_value - (double)*power));
        }
    }
}

static void observe_layer(struct mpq_observer *o, uint32_t l, const struct mpq_graph *graph,
                          struct mpq_exec *exec)
{
    const struct mpq_layer *layer = &o->layers->layer[l];
    const struct mpq_tensor *x = mpq_exec_tensor(exec, layer->x);
    const struct mpq_tensor *y = mpq_exec_tensor(exec, layer->y);
    const struct mpq_tensor *w = graph->value[layer->weight].constant;
    /* A convolution's weight [M, C/G, k...] meets its input [N, C, ...] channel by channel; the
     * others contract the last dimension of the input. */
    bool is_conv = w->shape.rank > 2;
    int axis = is_conv ? 1 : x->shape.rank - 1;
    int64_t outer = mpq_shape_count_range(&x->shape, 0, axis), n = x->shape.dim[axis];
    int64_t inner = mpq_shape_count_range(&x->shape, axis + 1, x->shape.rank);
    uint64_t before = o->n_seen[l];
    int64_t repeat = layer->n_group * layer->n_outer * layer->n_inner / n;
    add_input(x->data, outer, n, inner, before, repeat, &o->stats[l]);
    o->n_seen[l] += (uint64_t)(outer * inner);

    const mpq_real *out = y->data;
    int64_t n_out = mpq_shape_count(&y->shape);
    double sum = 0;
    for (int64_t i = 0; i < n_out; i++)
        sum += (double)out[i] * (double)out[i];
    double share = (double)(outer * inner) / (double)o->n_seen[l];
    if (n_out)
        o->stats[l].output_power += share * (sum / (double)n_out - o->stats[l].output_power);
}

enum mpq_status mpq_observer_add(struct mpq_ctx *ctx, struct mpq_observer *o,
                                 const struct mpq_graph *graph, struct mpq_exec *exec)
{
    for (uint32_t v = 0; v < graph->n_value; v++) {
        uint32_t group = o->plan->group[v];
        if (group == MPQ_NO_GROUP || o->plan->lossless[v])
            continue;
        const struct mpq_tensor *tensor = mpq_exec_tensor(exec, v);
        int64_t bad = mpq_tensor_find_nonfinite(tensor);
        if (bad >= 0)
            return mpq_fail(ctx, MPQ_E_NUMERIC,
                            "the value '%s' of the float model is %g at element %lld",
                            graph->value[v].name, mpq_tensor_double(tensor, bad), (long long)bad);
        mpq_histogram_add(&o->histogram[group], tensor->data, mpq_shape_count(&tensor->shape));
    }
    for (uint32_t l = 0; l < o->layers->n_layer; l++)
        observe_layer(o, l, graph, exec);
    return MPQ_OK;
}

void mpq_observer_ranges(const struct mpq_observer *o, struct mpq_act_form form,
                         struct mpq_act_quant *out_quant)
{
    for (uint32_t g = 0; g < o->plan->n_group; g++)
        mpq_histogram_range(&o->histogram[g], form, &out_quant[g]);
}
