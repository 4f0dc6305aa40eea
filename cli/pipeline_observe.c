/* Part of the calibrate stage: the float model run over samples, and what is learned on the way. */
#include <string.h>

#include "cli/pipeline.h"
#include "cli/runner.h"

uint32_t mpq_pipeline_at_once(const struct mpq_pipeline *p, uint32_t n_sample)
{
    return mpq_pipeline_runs_plainly(p) && !p->options->max_memory ? n_sample : 1;
}

enum mpq_status mpq_pipeline_crew(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                  uint32_t batch, uint32_t n_sample,
                                  const struct mpq_exec_options *options, struct mpq_crew *out)
{
    return mpq_crew_create(ctx, arena, graph, batch, mpq_pipeline_at_once(p, n_sample), options,
                           out);
}

uint32_t mpq_pipeline_affordable(const struct mpq_pipeline *p)
{
    enum { MOST = 1024 };
    uint64_t budget = (uint64_t)(p->observes_more ? 1e11 : 1e10);
    uint64_t n = budget / mpq_pipeline_macs(p);
    if (!mpq_pipeline_is_fixed(p) || n > MOST)
        return MOST;
    return n < MPQ_LEAST_OBSERVED ? MPQ_LEAST_OBSERVED : (uint32_t)n;
}

uint32_t mpq_pipeline_observed(const struct mpq_pipeline *p)
{
    uint32_t n = mpq_pipeline_affordable(p);
    return n < p->tune.n ? n : p->tune.n;
}

/* The float networks at work, and what is learned from them besides the ranges. */
struct observation {
    struct mpq_pipeline *p;
    const struct mpq_graph *graph;
    struct mpq_crew crew;
    struct mpq_moment_source source;
    struct mpq_moment_room room;
    mpq_node_id *layer_node;
    struct mpq_equalize *equalize; /* the edges' ranges; NULL: none */
    struct mpq_targets *few;       /* answers to the first samples; NULL: not wanted */
};

/* Whether second moments for rounding are gathered on the way: of floats, which eight bits of
 * activations change little. */
static bool gathers(const struct mpq_pipeline *p)
{
    const struct mpq_options *options = p->options;
    return mpq_pipeline_runs_plainly(p) && mpq_pipeline_rounds(p) && !options->max_memory;
}

static enum mpq_status begin_moments(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_arena *scratch, uint32_t n, struct observation *o)
{
    enum { SAMPLES = 32, POSITIONS = 4096 };
    o->layer_node = mpq_arena_alloc(ctx, scratch, p->layers.n_layer, sizeof *o->layer_node);
    MPQ_TRY(mpq_pipeline_passing(ctx, p, &p->moment_arena));
    p->moments = mpq_arena_alloc(ctx, p->moment_arena, p->layers.n_layer, sizeof *p->moments);
    p->moments_of = o->graph;
    if (!o->layer_node || !p->moments)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        o->layer_node[l] = p->layers.layer[l].node;
    o->source = (struct mpq_moment_source){.network = o->crew.network,
                                           .layer_node = o->layer_node,
                                           .n_sample = n < SAMPLES ? n : SAMPLES,
                                           .n_position = POSITIONS};
    return mpq_moments_begin(ctx, p->moment_arena, &p->layers, &o->source, 0, p->layers.n_layer,
                             &o->room, p->moments);
}

/* ---- the stretches of a pass ---- */

/* What is looked at takes much memory, as it would all have to be kept until the end: so a pass
 * pauses as soon as this much has come up, and it is looked at while it is in the cache. */
#define STRETCH_BYTES ((size_t)2 << 20)

static size_t seen_bytes(const struct mpq_pipeline *p, const struct mpq_node *node)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE && p->observer.keep[node->out[i]])
            bytes += mpq_tensor_bytes(&p->binding.tensor[node->out[i]]);
    return bytes;
}

/* Where passes of a batch pause: *out [*out_n]; end[n] is where the stretch of node n ends. */
static enum mpq_status find_pauses(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                   uint32_t batch, mpq_node_id *end, mpq_node_id **out,
                                   uint32_t *out_n)
{
    mpq_node_id *pause = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *pause);
    uint32_t n_pause = 0;
    size_t bytes = 0;
    if (!pause)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < graph->n_node; n++) {
        bytes += batch * seen_bytes(p, &graph->node[n]);
        if (bytes < STRETCH_BYTES || n + 1 == graph->n_node)
            continue;
        pause[n_pause++] = n + 1;
        bytes = 0;
    }
    for (mpq_node_id n = 0, i = 0; n < graph->n_node; n++) {
        i += i < n_pause && pause[i] <= n;
        end[n] = i < n_pause ? pause[i] : graph->n_node;
    }
    *out = pause;
    *out_n = n_pause;
    return MPQ_OK;
}

/* Whether value v goes into its group's range: others have it from those. */
static bool is_ranged(const struct mpq_pipeline *p, mpq_value_id v)
{
    return p->act.group[v] != MPQ_NO_GROUP && !p->act.lossless[v];
}

/* The last stretch in which values of a group are looked at, [n_group]. */
static void find_last(const struct mpq_pipeline *p, const struct mpq_graph *graph,
                      const uint32_t *stretch, uint32_t *last)
{
    memset(last, 0, p->act.n_group * sizeof *last);
    for (mpq_node_id n = 0; n < graph->n_node; n++)
        for (uint32_t i = 0; i < graph->node[n].n_out; i++) {
            mpq_value_id v = graph->node[n].out[i];
            if (v != MPQ_NO_VALUE && is_ranged(p, v))
                last[p->act.group[v]] = stretch[n];
        }
}

/* Samples are counted in their order, and by one thread at a time: in a stretch once the one before
 * has been counted in the last stretch that has a group in common with it, *out [n_pause + 1]. */
static enum mpq_status find_behind(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                   const mpq_node_id *pause, uint32_t n_pause, uint32_t **out)
{
    uint32_t *stretch = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *stretch);
    uint32_t *last = mpq_arena_alloc(ctx, arena, p->act.n_group, sizeof *last);
    uint32_t *behind = mpq_arena_alloc(ctx, arena, n_pause + 1, sizeof *behind);
    if (!stretch || !last || !behind)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0, s = 0; n < graph->n_node; n++)
        stretch[n] = s += s < n_pause && pause[s] <= n;
    for (uint32_t s = 0; s <= n_pause; s++)
        behind[s] = s;
    find_last(p, graph, stretch, last);
    /* The targets of Reshape that a graph for any batch has besides are in no group. */
    for (mpq_value_id v = 0; v < p->act.n_value; v++) {
        mpq_node_id maker = graph->value[v].producer;
        uint32_t s = maker == MPQ_NO_NODE ? 0 : stretch[maker];
        if (is_ranged(p, v) && last[p->act.group[v]] > behind[s])
            behind[s] = last[p->act.group[v]];
    }
    *out = behind;
    return MPQ_OK;
}

/* What is read at the pause behind node n. */
static void stay(const struct mpq_graph *graph, const mpq_node_id *end, mpq_value_id v,
                 mpq_node_id n, mpq_node_id *until)
{
    if (v != MPQ_NO_VALUE && graph->value[v].producer != MPQ_NO_NODE && until[v] < end[n])
        until[v] = end[n];
}

/* A value is looked at behind its producer; what a layer reads, behind the layer and what it
 * answers.
 */
static enum mpq_status find_until(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                  const mpq_node_id *end, mpq_node_id **out)
{
    mpq_node_id *until = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *until);
    if (!until)
        return MPQ_E_NOMEM;
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (p->observer.keep[v])
            stay(graph, end, v, graph->value[v].producer, until);
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        const struct mpq_layer *layer = &p->layers.layer[l];
        const struct mpq_node *node = &graph->node[layer->node];
        stay(graph, end, layer->x, layer->node, until);
        stay(graph, end, layer->x, graph->value[layer->y].producer, until);
        if (layer->x_input >= 0)
            stay(graph, end, node->in[layer->x_input], layer->node, until);
    }
    *out = until;
    return MPQ_OK;
}

/* ---- observing ---- */

/* The layers whose nodes are in [from, to). */
static void find_layers(const struct mpq_layer_table *layers, mpq_node_id from, mpq_node_id to,
                        uint32_t *out_begin, uint32_t *out_end)
{
    *out_begin = 0;
    while (*out_begin < layers->n_layer && layers->layer[*out_begin].node < from)
        ++*out_begin;
    *out_end = *out_begin;
    while (*out_end < layers->n_layer && layers->layer[*out_end].node < to)
        ++*out_end;
}

static void add_moments(const struct observation *o, const struct mpq_crew_turn *turn)
{
    const struct mpq_pipeline *p = o->p;
    struct mpq_moment_source source = o->source;
    uint32_t left = source.n_sample - turn->first, begin, end;
    find_layers(&p->layers, turn->from, turn->to, &begin, &end);
    source.network = turn->network;
    mpq_moments_add(&p->layers, &source, begin, end, turn->n < left ? turn->n : left, turn->lane,
                    &o->room, p->moments);
}

static void see_edges(const struct observation *o, const struct mpq_crew_turn *turn)
{
    for (uint32_t e = 0; e < o->equalize->n_edge; e++) {
        struct mpq_equal_edge *edge = &o->equalize->edge[e];
        mpq_value_id y = o->p->layers.layer[edge->from].y;
        mpq_node_id maker = o->graph->value[y].producer;
        if (maker >= turn->from && maker < turn->to)
            mpq_equalize_see(edge, mpq_exec_tensor(turn->network->exec, y));
    }
}

static enum mpq_status take_turn(struct mpq_ctx *ctx, void *arg, const struct mpq_crew_turn *turn)
{
    struct observation *o = arg;
    struct mpq_network *network = turn->network;
    if (turn->first < o->source.n_sample)
        add_moments(o, turn);
    MPQ_TRY(mpq_observer_add(ctx, &o->p->observer, o->graph, network->exec, turn->from, turn->to,
                             network->batch, turn->n));
    if (o->equalize)
        see_edges(o, turn);
    if (o->few && turn->first < o->few->n_sample && turn->to == o->graph->n_node) {
        uint32_t left = o->few->n_sample - turn->first;
        MPQ_TRY(
            mpq_targets_take(ctx, network, turn->first, turn->n < left ? turn->n : left, o->few));
    }
    return MPQ_OK;
}

/* Alone in memory, a pass keeps no more than it has to. */
static enum mpq_status make_networks(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                     uint32_t n_observed, struct mpq_crew *out)
{
    mpq_node_id *pause = NULL, *until = NULL;
    mpq_node_id *end = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *end);
    uint32_t n_pause = 0, *behind = NULL;
    if (!end)
        return MPQ_E_NOMEM;
    if (mpq_pipeline_runs_plainly(p)) {
        MPQ_TRY(find_pauses(ctx, scratch, p, graph, p->batch, end, &pause, &n_pause));
        MPQ_TRY(find_behind(ctx, scratch, p, graph, pause, n_pause, &behind));
        MPQ_TRY(find_until(ctx, scratch, p, graph, end, &until));
    }
    const struct mpq_exec_options options = {.keep = until ? NULL : p->observer.keep,
                                             .until = until};
    MPQ_TRY(mpq_pipeline_crew(ctx, scratch, p, graph, p->batch, n_observed, &options, out));
    out->pause = pause;
    out->n_pause = n_pause;
    out->behind = behind;
    return MPQ_OK;
}

static enum mpq_status observe(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                               struct mpq_arena *scratch, struct observation *o, uint32_t n_few,
                               struct mpq_arena *arena, struct mpq_targets *few)
{
    uint32_t n_observed = mpq_pipeline_observed(p);
    MPQ_TRY(make_networks(ctx, scratch, p, o->graph, n_observed, &o->crew));
    const struct mpq_loss *loss = &o->crew.network[0].loss;
    bool has_moments = p->moments && p->moments_of == o->graph;
    if (gathers(p) && !has_moments)
        MPQ_TRY(begin_moments(ctx, p, scratch, n_observed, o));
    if (few)
        MPQ_TRY(mpq_targets_begin(ctx, arena, loss, p->tune.sample,
                                  n_observed < n_few ? n_observed : n_few, few));
    o->few = few;
    MPQ_TRY(mpq_crew_run(ctx, &o->crew, p->tune.dataset, p->tune.sample, 0, n_observed, "calibrate",
                         take_turn, o));
    if (o->source.n_sample)
        mpq_moments_end(0, p->layers.n_layer, p->moments);
    if (few)
        mpq_targets_end(loss, few);
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_observe(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     const struct mpq_graph *graph, struct mpq_equalize *equalize,
                                     uint32_t n_few, struct mpq_arena *arena,
                                     struct mpq_targets *few)
{
    struct observation o = {.p = p, .graph = graph, .equalize = equalize};
    MPQ_TRY(mpq_observer_create(ctx, p->arena, graph, &p->layers, &p->act, &p->observer));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = observe(ctx, p, scratch, &o, n_few, arena, few);
    mpq_arena_free(scratch);
    return status;
}
