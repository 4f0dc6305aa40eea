#include "quantcore/supernet/sensitivity.h"

#include <math.h>
#include <string.h>

#include "quantcore/supernet/round.h"

/* Fewer samples than these say little about which layer is worse. */
enum { LEAST_SAMPLES = 16 };

/* ---- widths between the measured ones ---- */

mpq_bits_mask mpq_sensitivity_measured(mpq_bits_mask candidates)
{
    int highest = mpq_bits_highest(candidates);
    mpq_bits_mask narrower = candidates & (mpq_bits_mask) ~(1u << highest), below = narrower;
    if (!narrower)
        return candidates;
    for (int i = __builtin_popcount(narrower) / 2; i > 0; i--)
        below &= (mpq_bits_mask)(below - 1);
    below = below ? below : narrower;
    return (mpq_bits_mask)(1u << highest | 1u << mpq_bits_lowest(narrower) |
                           1u << mpq_bits_lowest(below));
}

/* A measured width that adds to the loss: by `error` in the layer's output, `added` in the loss. */
struct anchor {
    double error, added;
};

/* What an error adds, by one or two anchors, the wider first. */
static double added_by(const struct anchor *anchor, int n_anchor, double error)
{
    const struct anchor *wide = &anchor[0], *narrow = &anchor[1];
    if (!n_anchor)
        return 0;
    if (n_anchor == 1 || error <= wide->error)
        return wide->added * error / wide->error;
    if (error >= narrow->error)
        return narrow->added * error / narrow->error;
    double t = log(error / wide->error) / log(narrow->error / wide->error);
    return wide->added * pow(narrow->added / wide->added, t);
}

void mpq_sensitivity_fill(mpq_bits_mask candidates, const double *error, double *loss)
{
    struct anchor anchor[2];
    int n_anchor = 0, highest = mpq_bits_highest(candidates);
    mpq_bits_mask measured = mpq_sensitivity_measured(candidates);
    for (int b = highest - 1; b >= MPQ_MIN_BITS; b--)
        if ((measured >> b & 1) && loss[b] > loss[highest] && error[b] > 0)
            anchor[n_anchor++] = (struct anchor){error[b], loss[b] - loss[highest]};
    for (int b = MPQ_MIN_BITS; b < highest; b++)
        if ((candidates >> b & 1) && !(measured >> b & 1))
            loss[b] = loss[highest] + added_by(anchor, n_anchor, error[b]);
}

/* ---- amounts ---- */

static double macs_from(const struct mpq_network *network, mpq_node_id first)
{
    double macs = 0;
    for (mpq_node_id n = first; n < network->graph->n_node; n++)
        macs += (double)mpq_bind_macs(network->graph, &network->binding, n);
    return macs;
}

/* Batches that are run where one takes `macs`. */
static uint32_t count_batches(const struct mpq_evaluator *e, double macs, double max_macs)
{
    uint32_t batch = e->network->batch, least = (LEAST_SAMPLES + batch - 1) / batch;
    uint32_t most = mpq_evaluator_batches(e);
    double n = max_macs / (macs + 1);
    n = n < least ? least : n;
    return n < most ? (uint32_t)n : most;
}

/* Samples in the first n batches. */
static uint32_t count_samples(const struct mpq_evaluator *e, uint32_t n_batch)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < n_batch; b++)
        n += mpq_evaluator_batch_size(e, b);
    return n;
}

static void apply_widest(struct mpq_evaluator *e)
{
    for (uint32_t l = 0; l < e->net->layers->n_layer; l++)
        mpq_supernet_apply_layer(e->net, e->network->exec, l,
                                 mpq_bits_highest(e->net->layer[l].candidates));
}

/* ---- layers ---- */

/* One layer at a time; sums over samples, [n_layer * MPQ_N_BITS] each. */
struct measurement {
    struct mpq_evaluator *e;
    double *loss, *error;
    mpq_real *kept;    /* the layer's output at its widest */
    bool measures_all; /* widths; none is left to be filled in */
};

static mpq_bits_mask measured_of(const struct measurement *m, uint32_t l)
{
    mpq_bits_mask candidates = m->e->net->layer[l].candidates;
    return m->measures_all ? candidates : mpq_sensitivity_measured(candidates);
}

/* Multiplications that the measured widths of all layers take a batch. */
static double count_macs(const struct measurement *m)
{
    double macs = 0;
    for (uint32_t l = 0; l < m->e->net->layers->n_layer; l++)
        macs += (__builtin_popcount(measured_of(m, l)) - 1) *
                macs_from(m->e->network, m->e->layer_node[l]);
    return macs;
}

static double squared_difference(const mpq_real *x, const mpq_real *y, int64_t n)
{
    enum { LANES = 8 };
    double sum[LANES] = {0}, total = 0;
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) {
            double d = (double)x[i + j] - (double)y[i + j];
            sum[j] += d * d;
        }
    for (int64_t i = whole; i < n; i++)
        sum[0] += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    for (int j = 0; j < LANES; j++)
        total += sum[j];
    return total;
}

/* All before layer l has run at the widest; what comes from it on has been disturbed by the layers
 * behind it. `widest`: the loss of the batch with all at their widest. */
static void measure_layer(struct measurement *m, uint32_t batch, uint32_t l, double widest)
{
    const struct mpq_supernet *net = m->e->net;
    struct mpq_exec *exec = m->e->network->exec;
    mpq_node_id node = m->e->layer_node[l];
    mpq_bits_mask candidates = net->layer[l].candidates;
    mpq_bits_mask measured = measured_of(m, l);
    const struct mpq_tensor *y = mpq_exec_tensor(exec, net->layers->layer[l].y);
    double *loss = &m->loss[l * MPQ_N_BITS], *error = &m->error[l * MPQ_N_BITS];
    int highest = mpq_bits_highest(candidates);
    if (l + 1 < net->layers->n_layer && m->e->layer_node[l + 1] == node)
        mpq_exec_forward(exec, node, node + 1); /* which is a layer of the same node */
    if (!m->measures_all)
        memcpy(m->kept, y->data, mpq_tensor_bytes(y));
    loss[highest] += widest;
    for (int b = MPQ_MIN_BITS; b < highest; b++) {
        if (!(candidates >> b & 1))
            continue;
        mpq_supernet_apply_layer(net, exec, l, b);
        mpq_exec_forward(exec, node, node + 1);
        if (!m->measures_all)
            error[b] += squared_difference(m->kept, y->data, mpq_shape_count(&y->shape));
        if (measured >> b & 1)
            loss[b] += mpq_evaluator_run(m->e, batch, node + 1);
    }
    mpq_supernet_apply_layer(net, exec, l, highest);
}

static enum mpq_status measure(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               struct mpq_evaluator *e, double max_macs, double *out)
{
    uint32_t n_layer = e->net->layers->n_layer;
    struct measurement m = {.e = e, .loss = out, .measures_all = true};
    size_t bytes = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        size_t y = mpq_tensor_bytes(mpq_exec_tensor(e->network->exec, e->net->layers->layer[l].y));
        bytes = y > bytes ? y : bytes;
    }
    m.measures_all = count_macs(&m) * mpq_evaluator_batches(e) <= max_macs;
    m.error = mpq_arena_alloc(ctx, scratch, (size_t)n_layer * MPQ_N_BITS, sizeof *m.error);
    m.kept = mpq_arena_alloc(ctx, scratch, bytes, 1);
    if (!m.error || !m.kept)
        return MPQ_E_NOMEM;
    memset(out, 0, (size_t)n_layer * MPQ_N_BITS * sizeof *out);
    uint32_t n_batch = count_batches(e, count_macs(&m), max_macs);
    uint32_t n_sample = count_samples(e, n_batch);
    apply_widest(e);
    for (uint32_t batch = 0; batch < n_batch; batch++) {
        mpq_evaluator_load(e, batch);
        double widest = mpq_evaluator_run(e, batch, 0);
        for (uint32_t l = n_layer; l-- > 0;) {
            MPQ_TRY(mpq_step(ctx, "sensitivity", batch * n_layer + (n_layer - 1 - l),
                             n_batch * n_layer, (double)NAN));
            measure_layer(&m, batch, l, widest);
        }
    }
    for (uint32_t i = 0; i < n_layer * MPQ_N_BITS; i++)
        out[i] = e->net->layer[i / MPQ_N_BITS].candidates >> i % MPQ_N_BITS & 1 ? out[i] / n_sample
                                                                                : (double)NAN;
    for (uint32_t l = 0; l < n_layer && !m.measures_all; l++)
        mpq_sensitivity_fill(e->net->layer[l].candidates, &m.error[l * MPQ_N_BITS],
                             &out[l * MPQ_N_BITS]);
    return MPQ_OK;
}

/* The same range in steps so small that next to no noise is left. */
static struct mpq_act_quant finer(struct mpq_act_quant quant)
{
    enum { FINE_BITS = 16 };
    int times = quant.bits < FINE_BITS ? 1 << (FINE_BITS - quant.bits) : 1;
    quant.bits = quant.bits < FINE_BITS ? FINE_BITS : quant.bits;
    quant.scale /= (float)times;
    quant.zero_point *= times;
    return quant;
}

/* What they were, from `scratch`; NULL: out of memory. */
static struct mpq_act_quant *make_finer(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                        struct mpq_act_quant *act_quant, uint32_t n_group)
{
    struct mpq_act_quant *saved = mpq_arena_alloc(ctx, scratch, n_group, sizeof *saved);
    for (uint32_t g = 0; saved && g < n_group; g++) {
        saved[g] = act_quant[g];
        act_quant[g] = finer(saved[g]);
    }
    return saved;
}

enum mpq_status mpq_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *e,
                                struct mpq_act_quant *act_quant, uint32_t n_group, double max_macs,
                                double *out)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    struct mpq_act_quant *saved = scratch ? make_finer(ctx, scratch, act_quant, n_group) : NULL;
    enum mpq_status status = saved ? measure(ctx, scratch, e, max_macs, out) : MPQ_E_NOMEM;
    for (uint32_t g = 0; saved && g < n_group; g++)
        act_quant[g] = saved[g];
    mpq_arena_free(scratch);
    return status;
}

/* ---- what refining leaves ---- */

/* The loss of the allocation with those behind layer l rounded for it. */
static enum mpq_status compensated_loss(struct mpq_ctx *ctx, const struct mpq_evaluator *e,
                                        const struct mpq_moment_source *source, const uint8_t *bits,
                                        uint32_t l, double *out)
{
    uint32_t end = l + 1 + MPQ_COMPENSATING_LAYERS, n_layer = e->net->layers->n_layer;
    struct mpq_arena *work = mpq_arena_create(ctx);
    struct mpq_supernet net;
    struct mpq_evaluator evaluator = *e;
    evaluator.net = &net;
    enum mpq_status status = work ? mpq_supernet_copy(ctx, work, e->net, &net) : MPQ_E_NOMEM;
    if (status == MPQ_OK)
        status = mpq_round_allocation(ctx, work, &net, source, bits, l + 1,
                                      end < n_layer ? end : n_layer);
    if (status == MPQ_OK)
        status = mpq_evaluate(ctx, &evaluator, bits, out);
    mpq_arena_free(work);
    return status;
}

/* bits [n_layer]: all at their widest. */
static enum mpq_status measure_shares(struct mpq_ctx *ctx, struct mpq_evaluator e,
                                      const struct mpq_moment_source *source,
                                      const double *sensitivity, uint8_t *bits, double *out)
{
    const double least = 0.05; /* of what is less, noise is most */
    double widest, loss;
    MPQ_TRY(mpq_evaluate(ctx, &e, bits, &widest));
    for (uint32_t l = 0; l < e.net->layers->n_layer; l++) {
        const double *row = &sensitivity[l * MPQ_N_BITS];
        uint8_t highest = bits[l];
        int lowest = mpq_bits_lowest(e.net->layer[l].candidates);
        double added = row[lowest] - row[highest];
        out[l] = 1;
        if (l + 1 == e.net->layers->n_layer || !(added > 0))
            continue;
        bits[l] = (uint8_t)lowest;
        MPQ_TRY(compensated_loss(ctx, &e, source, bits, l, &loss));
        bits[l] = highest;
        double share = (loss - widest) / added;
        out[l] = share > 1 ? 1 : share > least ? share : least;
    }
    return MPQ_OK;
}

enum mpq_status mpq_refined_share(struct mpq_ctx *ctx, const struct mpq_evaluator *e,
                                  const struct mpq_moment_source *source,
                                  struct mpq_act_quant *act_quant, uint32_t n_group,
                                  const double *sensitivity, double *out)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    uint32_t n_layer = e->net->layers->n_layer;
    uint8_t *bits = scratch ? mpq_arena_alloc(ctx, scratch, n_layer, 1) : NULL;
    struct mpq_act_quant *saved = bits ? make_finer(ctx, scratch, act_quant, n_group) : NULL;
    for (uint32_t l = 0; bits && l < n_layer; l++)
        bits[l] = (uint8_t)mpq_bits_highest(e->net->layer[l].candidates);
    enum mpq_status status =
        saved ? measure_shares(ctx, *e, source, sensitivity, bits, out) : MPQ_E_NOMEM;
    for (uint32_t g = 0; saved && g < n_group; g++)
        act_quant[g] = saved[g];
    mpq_arena_free(scratch);
    return status;
}

/* ---- groups of activations ---- */

/* Losses of one batch, added to out. Groups are visited in the order in which their first nodes
 * run, last first, so that what comes before is still there. */
static void add_groups(struct mpq_evaluator *e, uint32_t batch, struct mpq_act_quant *act_quant,
                       struct mpq_act_quant *const *by_width, const mpq_node_id *first,
                       uint32_t n_group, double *out)
{
    const struct mpq_graph *graph = e->network->graph;
    for (mpq_node_id n = graph->n_node; n-- > 0;)
        for (uint32_t g = 0; g < n_group; g++) {
            struct mpq_act_quant old = act_quant[g];
            for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS && first[g] == n; b++) {
                if (!by_width[b])
                    continue;
                act_quant[g] = by_width[b][g];
                out[g * MPQ_N_BITS + (uint32_t)b] += mpq_evaluator_run(e, batch, n);
            }
            act_quant[g] = old;
        }
}

enum mpq_status mpq_group_sensitivity(struct mpq_ctx *ctx, struct mpq_evaluator *e,
                                      struct mpq_act_quant *act_quant,
                                      struct mpq_act_quant *const *by_width, uint32_t n_group,
                                      double max_macs, double *out)
{
    const struct mpq_graph *graph = e->network->graph;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    mpq_node_id *first = scratch ? mpq_arena_alloc(ctx, scratch, n_group, sizeof *first) : NULL;
    enum mpq_status status = first ? MPQ_OK : MPQ_E_NOMEM;
    double macs = 0;
    int n_width = 0;
    if (first)
        mpq_evaluator_group_nodes(e, act_quant, n_group, first);
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
        n_width += by_width[b] != NULL;
    for (uint32_t g = 0; first && g < n_group; g++)
        macs += n_width * macs_from(e->network, first[g]);
    for (uint32_t i = 0; i < n_group * MPQ_N_BITS; i++)
        out[i] = by_width[i % MPQ_N_BITS] ? 0 : (double)NAN;
    uint32_t n_batch = count_batches(e, macs, max_macs), n_sample = count_samples(e, n_batch);
    apply_widest(e);
    for (uint32_t batch = 0; batch < n_batch && status == MPQ_OK; batch++) {
        status = mpq_step(ctx, "activations", batch, n_batch, (double)NAN);
        mpq_evaluator_load(e, batch);
        mpq_exec_forward(e->network->exec, 0, graph->n_node);
        add_groups(e, batch, act_quant, by_width, first, n_group, out);
    }
    for (uint32_t i = 0; i < n_group * MPQ_N_BITS; i++)
        out[i] /= n_sample;
    mpq_arena_free(scratch);
    return status;
}
