#include "calibration/observe.h"

#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"

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
    o.group_strand = mpq_arena_alloc(ctx, arena, plan->n_group, sizeof *o.group_strand);
    o.layer_strand = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *o.layer_strand);
    o.load = mpq_arena_alloc(ctx, arena, (size_t)mpq_thread_count(), sizeof *o.load);
    o.is_bad = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *o.is_bad);
    if (!o.histogram || !o.stats || !o.n_seen || !o.keep || !o.group_strand || !o.layer_strand ||
        !o.load || !o.is_bad)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < plan->n_value; v++)
        o.keep[v] = plan->group[v] != MPQ_NO_GROUP;
    /* Wider than the Clip before it, a QuantizeLinear does not take its place. */
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (mpq_node_is(&graph->node[n], "Clip") && o.keep[graph->node[n].out[0]])
            o.histogram[plan->group[graph->node[n].out[0]]].is_bounded = true;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        struct mpq_layer_stats *stats = &o.stats[l];
        size_t n_weight = (size_t)(layer->n_group * layer->n_outer * layer->n_inner);
        o.keep[layer->y] = true;
        if (layer->x == MPQ_NO_VALUE)
            continue;
        o.keep[layer->x] = true;
        stats->input_mean = mpq_arena_alloc(ctx, arena, n_weight, sizeof(mpq_real));
        stats->input_power = mpq_arena_alloc(ctx, arena, n_weight, sizeof(mpq_real));
        if (!stats->input_mean || !stats->input_power)
            return MPQ_E_NOMEM;
    }
    *out = o;
    return MPQ_OK;
}

enum { LANES = 16 };
typedef mpq_real lanes __attribute__((vector_size(LANES * sizeof(mpq_real))));

/* Add the sums of x and of its squares: in lanes, of blocks. */
MPQ_MULTIVERSION
static void add_sums(const mpq_real *x, int64_t n, double *sum, double *square)
{
    enum { BLOCK = 1024 };
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t end = n - first < BLOCK ? n : first + BLOCK;
        lanes part = {0}, part_square = {0}, next;
        int64_t whole = end - (end - first) % LANES;
        for (int64_t i = first; i < whole; i += LANES) {
            memcpy(&next, x + i, sizeof next);
            part += next;
            part_square += next * next;
        }
        next = (lanes){0}; /* the rest, with zeros behind */
        memcpy(&next, x + whole, (size_t)(end - whole) * sizeof *x);
        part += next;
        part_square += next * next;
        for (int j = 0; j < LANES; j++) {
            *sum += (double)part[j];
            *square += (double)part_square[j];
        }
    }
}

/* Mean and mean square at one place (group, c) of the input. */
static void measure_place(const mpq_real *x, const struct mpq_layer_input *in, int64_t group,
                          int64_t c, double *out_mean, double *out_power)
{
    double sum = 0, square = 0;
    for (int64_t o = 0; o < in->outer; o++)
        for (int64_t m = 0; m < in->middle; m++) {
            int64_t at = ((o * in->group + group) * in->middle + m) * in->n + c;
            const mpq_real *row = x + at * in->inner;
            if (in->inner > 1) {
                add_sums(row, in->inner, &sum, &square);
                continue;
            }
            sum += (double)row[0];
            square += (double)row[0] * (double)row[0];
        }
    double n_value = (double)(in->outer * in->middle * in->inner);
    *out_mean = sum / n_value;
    *out_power = square / n_value;
}

/* Add to the running means, in which this batch has the given share. A place serves as many
 * consecutive weights as a channel has for it: the taps of a kernel. */
static void observe_input(const struct mpq_layer *layer, const struct mpq_tensor *x, double share,
                          struct mpq_layer_stats *stats)
{
    struct mpq_layer_input in = mpq_layer_input(layer, &x->shape);
    int64_t n_place = in.group * in.n;
    int64_t repeat = layer->n_group * layer->n_outer * layer->n_inner / (n_place ? n_place : 1);
    for (int64_t place = 0; place < n_place; place++) {
        double mean, power;
        measure_place(x->data, &in, place / in.n, place % in.n, &mean, &power);
        for (int64_t r = place * repeat; r < (place + 1) * repeat; r++) {
            stats->input_mean[r] += (mpq_real)(share * (mean - (double)stats->input_mean[r]));
            stats->input_power[r] += (mpq_real)(share * (power - (double)stats->input_power[r]));
        }
    }
}

static double mean_square(const struct mpq_tensor *tensor)
{
    int64_t n = mpq_shape_count(&tensor->shape);
    double sum = 0, square = 0;
    add_sums(tensor->data, n, &sum, &square);
    return square / (double)n;
}

static void observe_layer(struct mpq_observer *o, uint32_t l, struct mpq_exec *exec)
{
    const struct mpq_layer *layer = &o->layers->layer[l];
    struct mpq_layer_stats *stats = &o->stats[l];
    const struct mpq_tensor *y = mpq_exec_tensor(exec, layer->y);
    uint64_t n = (uint64_t)mpq_shape_count(&y->shape);
    if (!n)
        return;
    o->n_seen[l] += n;
    double share = (double)n / (double)o->n_seen[l];
    stats->output_power += share * (mean_square(y) - stats->output_power);
    if (layer->x != MPQ_NO_VALUE)
        observe_input(layer, mpq_exec_tensor(exec, layer->x), share, stats);
}

struct addition {
    struct mpq_observer *observer;
    const struct mpq_graph *graph;
    struct mpq_exec *exec;
    mpq_node_id from, to;
    uint32_t batch, n;
    bool is_shared_out; /* among all threads; else one of several callers does its own */
};

/* Of a value's rows those of the first n samples; all where rows are no samples of the batch. */
static int64_t new_rows(const struct addition *a, int64_t n_row)
{
    return n_row % a->batch ? n_row : n_row / a->batch * a->n;
}

static bool is_made(const struct addition *a, mpq_value_id v)
{
    mpq_node_id maker = a->graph->value[v].producer;
    return maker == MPQ_NO_NODE ? a->from == 0 : maker >= a->from && maker < a->to;
}

static bool is_counted(const struct addition *a, mpq_value_id v)
{
    const struct mpq_act_plan *plan = a->observer->plan;
    return plan->group[v] != MPQ_NO_GROUP && !plan->lossless[v] && is_made(a, v);
}

/* To the thread whose it is already, else to the one that has least to do. */
static void hand_out(struct mpq_observer *o, struct mpq_exec *exec, mpq_value_id v, int *strand)
{
    double cost = (double)mpq_tensor_bytes(mpq_exec_tensor(exec, v));
    if (*strand < 0)
        *strand = mpq_thread_least(o->load, cost);
    else
        o->load[*strand] += cost;
}

static void share_out(const struct addition *a)
{
    struct mpq_observer *o = a->observer;
    memset(o->load, 0, (size_t)mpq_thread_count() * sizeof *o->load);
    for (uint32_t g = 0; g < o->plan->n_group; g++)
        o->group_strand[g] = -1;
    for (uint32_t l = 0; l < o->layers->n_layer; l++)
        o->layer_strand[l] = -1;
    for (uint32_t v = 0; v < o->plan->n_value; v++)
        if (is_counted(a, v))
            hand_out(o, a->exec, v, &o->group_strand[o->plan->group[v]]);
    for (uint32_t l = 0; l < o->layers->n_layer; l++)
        if (is_made(a, o->layers->layer[l].y))
            hand_out(o, a->exec, o->layers->layer[l].y, &o->layer_strand[l]);
}

static void count_value(const struct addition *a, mpq_value_id v)
{
    struct mpq_observer *o = a->observer;
    const struct mpq_tensor *tensor = mpq_exec_tensor(a->exec, v);
    int64_t n_all = tensor->shape.rank ? tensor->shape.dim[0] : 1, n_new = new_rows(a, n_all);
    o->is_bad[v] = mpq_tensor_find_nonfinite(tensor) >= 0;
    if (!o->is_bad[v] && n_new > 0)
        mpq_histogram_add_samples(&o->histogram[o->plan->group[v]], tensor->data,
                                  mpq_shape_count(&tensor->shape) / n_all * n_new, n_new);
}

static bool is_within(const struct addition *a, int strand, int64_t begin, int64_t end)
{
    return !a->is_shared_out || (strand >= begin && strand < end);
}

/* What strands [begin, end) have been handed; all where nothing is. */
static void add_some(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct addition *a = arg;
    struct mpq_observer *o = a->observer;
    (void)thread;
    for (uint32_t v = 0; v < o->plan->n_value; v++)
        if (is_counted(a, v) && is_within(a, o->group_strand[o->plan->group[v]], begin, end))
            count_value(a, v);
    for (uint32_t l = 0; l < o->layers->n_layer; l++)
        if (is_made(a, o->layers->layer[l].y) && is_within(a, o->layer_strand[l], begin, end))
            observe_layer(o, l, a->exec);
}

enum mpq_status mpq_observer_add(struct mpq_ctx *ctx, struct mpq_observer *o,
                                 const struct mpq_graph *graph, struct mpq_exec *exec,
                                 mpq_node_id from, mpq_node_id to, uint32_t batch, uint32_t n)
{
    struct addition addition = {o, graph, exec, from, to, batch, n, !mpq_thread_is_inside()};
    if (addition.is_shared_out)
        share_out(&addition);
    mpq_parallel_for(mpq_thread_count(), 1, add_some, &addition);
    for (uint32_t v = 0; v < o->plan->n_value; v++) {
        if (!is_counted(&addition, v) || !o->is_bad[v])
            continue;
        const struct mpq_tensor *tensor = mpq_exec_tensor(exec, v);
        int64_t bad = mpq_tensor_find_nonfinite(tensor);
        return mpq_fail(ctx, MPQ_E_NUMERIC,
                        "the value '%s' of the float model is %g at element %lld",
                        graph->value[v].name, mpq_tensor_double(tensor, bad), (long long)bad);
    }
    return MPQ_OK;
}

struct ranging {
    const struct mpq_observer *observer;
    struct mpq_act_form form;
    struct mpq_act_quant *quant;
};

static void find_ranges(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct ranging *r = arg;
    (void)thread;
    for (int64_t g = begin; g < end; g++)
        mpq_histogram_range(&r->observer->histogram[g], r->form, &r->quant[g]);
}

void mpq_observer_ranges(const struct mpq_observer *o, struct mpq_act_form form,
                         struct mpq_act_quant *out_quant)
{
    struct ranging ranging = {o, form, out_quant};
    mpq_parallel_for(o->plan->n_group, 1, find_ranges, &ranging);
}
