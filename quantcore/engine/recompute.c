/* What is cheaper to compute again than to keep. Segments as in Chen et al., "Training Deep Nets
 * with Sublinear Memory Cost", arXiv 1604.06174: of each but the last only what crosses its end is
 * kept, and backward runs its forward once more when it comes there. */
#include "quantcore/engine/exec_state.h"

/* Whether an output of node n is to be read after the run. */
static bool outlives(const struct mpq_exec *exec, const struct mpq_exec_options *options,
                     mpq_node_id n)
{
    const struct mpq_graph *graph = exec->graph;
    const struct mpq_node *node = &graph->node[n];
    bool any = options->keep_all;
    for (uint32_t i = 0; i < node->n_out; i++) {
        mpq_value_id v = node->out[i];
        any |= v != MPQ_NO_VALUE && options->keep && options->keep[v];
        for (uint32_t k = 0; k < graph->n_output; k++)
            any |= graph->output[k] == v;
    }
    return any;
}

/* The node whose outputs n has the memory of is asked for both. */
static bool outlives_fused(const struct mpq_exec *exec, const struct mpq_exec_options *options,
                           mpq_node_id n)
{
    const struct step *step = &exec->step[n];
    return outlives(exec, options, n) ||
           (step->clamps && outlives(exec, options, exec->graph->value[step->clamped].producer));
}

static bool is_cheap(const struct mpq_exec *exec, mpq_node_id n)
{
    return mpq_bind_macs(exec->graph, &exec->binding, n) == 0;
}

/* Bytes that node n writes. */
static size_t bytes_of(const struct mpq_exec *exec, mpq_node_id n)
{
    size_t bytes = 0;
    const struct mpq_node *node = &exec->graph->node[n];
    for (uint32_t i = 0; mpq_exec_runs(exec, n) && !exec->step[n].is_fused && i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE)
            bytes += mpq_tensor_bytes(&exec->tensor[node->out[i]]);
    return bytes;
}

/* last_reader [n_node]: of what each node writes; crossing [n_node]: bytes written up to node n
 * that nodes after it read. */
static void find_crossing(const struct mpq_exec *exec, mpq_node_id *last_reader, size_t *crossing)
{
    const struct mpq_graph *graph = exec->graph;
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; mpq_exec_runs(exec, n) && i < graph->node[n].n_in; i++) {
            mpq_value_id v = graph->node[n].in[i];
            mpq_node_id writer = v == MPQ_NO_VALUE ? MPQ_NO_NODE : graph->value[v].producer;
            if (writer == MPQ_NO_NODE)
                continue;
            last_reader[writer] = n;
            if (exec->step[writer].is_fused) /* whose memory is its maker's */
                last_reader[graph->value[graph->node[writer].in[0]].producer] = n;
        }
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (mpq_node_id k = n; k < last_reader[n]; k++)
            crossing[k] += bytes_of(exec, n);
}

/* The node near `wanted` bytes of the whole, after `begin`, whose end least crosses. */
static mpq_node_id find_border(const struct mpq_exec *exec, const size_t *crossing,
                               mpq_node_id begin, double low, double high)
{
    mpq_node_id best = begin;
    size_t least = SIZE_MAX;
    double written = 0;
    for (mpq_node_id n = 0; n < exec->graph->n_node && written <= high; n++) {
        written += (double)bytes_of(exec, n);
        if (n > begin && written >= low && crossing[n] < least) {
            least = crossing[n];
            best = n;
        }
    }
    return best;
}

static enum mpq_status choose_segments(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                       const struct mpq_exec *exec,
                                       const struct mpq_exec_options *options, uint32_t n_segment,
                                       bool *again)
{
    uint32_t n_node = exec->graph->n_node;
    mpq_node_id *last_reader = mpq_arena_alloc(ctx, scratch, n_node, sizeof *last_reader);
    size_t *crossing = mpq_arena_alloc(ctx, scratch, n_node, sizeof *crossing);
    if (!last_reader || !crossing)
        return MPQ_E_NOMEM;
    double total = 0;
    mpq_node_id begin = 0;
    find_crossing(exec, last_reader, crossing);
    for (mpq_node_id n = 0; n < n_node; n++)
        total += (double)bytes_of(exec, n);
    for (uint32_t s = 1; s < n_segment; s++) {
        double length = total / n_segment;
        mpq_node_id end =
            find_border(exec, crossing, begin, (s - 0.3) * length, (s + 0.3) * length);
        for (mpq_node_id n = begin; n <= end && end > begin; n++)
            again[n] = last_reader[n] <= end && !outlives_fused(exec, options, n);
        begin = end > begin ? end + 1 : begin;
    }
    for (mpq_node_id n = begin; n < n_node; n++)
        again[n] = is_cheap(exec, n) && !outlives_fused(exec, options, n);
    return MPQ_OK;
}

enum mpq_status mpq_recompute_choose(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     const struct mpq_exec *exec,
                                     const struct mpq_exec_options *options, int level, bool *again)
{
    static const uint32_t n_segment[MPQ_RECOMPUTE_LEVELS] = {0, 1, 2,  3,  4,  5,
                                                             6, 8, 11, 16, 23, 32};
    MPQ_ASSERT(level >= 0 && level < MPQ_RECOMPUTE_LEVELS);
    for (mpq_node_id n = 0; n < exec->graph->n_node; n++)
        again[n] = false;
    if (level)
        MPQ_TRY(choose_segments(ctx, scratch, exec, options, n_segment[level], again));
    for (mpq_node_id n = 0; n < exec->graph->n_node; n++)
        again[n] = again[n] && mpq_exec_runs(exec, n) && !exec->step[n].is_fused;
    return MPQ_OK;
}

/* Elements written count as much as products. */
static double work_of(const struct mpq_exec *exec, mpq_node_id n)
{
    return (double)mpq_bind_macs(exec->graph, &exec->binding, n) +
           (double)bytes_of(exec, n) / sizeof(mpq_real);
}

double mpq_recompute_share(const struct mpq_exec *exec, const struct schedule *schedule)
{
    double again = 0, all = 0;
    for (mpq_node_id n = 0; n < exec->graph->n_node; n++)
        all += mpq_exec_runs(exec, n) ? work_of(exec, n) : 0;
    for (uint32_t i = 0; i < schedule->n_turn; i++)
        again += schedule->turn[i].is_forward ? work_of(exec, schedule->turn[i].node) : 0;
    return all > 0 ? again / all : 0;
}
