/* The pipeline's verify stage before a file is read: the float and the quantized network side by
 * side, which of itself is what the file will be compared with. */
#include <math.h>
#include <string.h>

#include "calibration/metric.h"
#include "cli/pipeline.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/pass/pass.h"

/* The float and the quantized network, run side by side, with the codes of the file and summed as a
 * file is; what they answer and how far apart they are. */
struct pair {
    struct mpq_network *in_float, *fake;
    struct mpq_tensor **float_output, **fake_output;
    struct mpq_answers *answers; /* of the quantized one; NULL: are not kept */
    struct mpq_pair_loss loss;
    uint32_t *end;    /* [n_layer] of the layers that are compared together */
    mpq_real *scaled; /* room for what a layer answers, where channels are equalized */
};

/* Let the quantized network have the codes as they are stored. */
static enum mpq_status take_codes(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                  struct mpq_pipeline *p)
{
    struct mpq_export_plan plan = mpq_pipeline_export_plan(p);
    struct mpq_layer_code *stored =
        mpq_arena_alloc(ctx, scratch, p->layers.n_layer, sizeof *stored);
    if (!stored)
        return MPQ_E_NOMEM;
    plan.code = p->code;
    MPQ_TRY(mpq_export_codes(ctx, scratch, &plan, stored));
    return mpq_supernet_apply_codes(ctx, scratch, &p->layers, p->fake_network.exec, stored);
}

/* Layers are compared a stretch at a time, out of the cache: more would have to be kept. */
#define STRETCH_BYTES ((size_t)2 << 20)

/* The ends of their stretches, *out [n_layer]. */
static enum mpq_status find_ends(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                 const struct mpq_pipeline *p, uint32_t **out)
{
    uint32_t n_layer = p->layers.n_layer,
             *end = mpq_arena_alloc(ctx, scratch, n_layer, sizeof *end);
    if (!end)
        return MPQ_E_NOMEM;
    size_t bytes = 0;
    for (uint32_t l = 0, first = 0; l < n_layer; l++) {
        bytes += p->batch * mpq_tensor_bytes(&p->binding.tensor[p->layers.layer[l].y]);
        if (bytes < STRETCH_BYTES && l + 1 < n_layer)
            continue;
        while (first <= l)
            end[first++] = l + 1;
        bytes = 0;
    }
    *out = end;
    return MPQ_OK;
}

/* A network in which what layers answer is there once their stretch has run; layer l is at node[l].
 */
static enum mpq_status make_network(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                    const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                    const mpq_node_id *node, const uint32_t *end,
                                    struct mpq_network *out)
{
    mpq_node_id *until = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *until);
    if (!until)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        mpq_value_id y = p->layers.layer[l].y;
        mpq_node_id made = graph->value[y].producer + 1, last = node[end[l] - 1] + 1;
        until[y] = made > last ? made : last;
    }
    return mpq_network_create(ctx, scratch, graph, p->batch,
                              &(struct mpq_exec_options){.until = until}, out);
}

/* Where nothing else runs them, both networks are made now, in `scratch`. */
static enum mpq_status make_networks(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                     struct mpq_pipeline *p, const uint32_t *end)
{
    if (!p->net_arena)
        return MPQ_OK;
    mpq_node_id *node = mpq_arena_alloc(ctx, scratch, p->layers.n_layer, sizeof *node);
    if (!node)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        node[l] = p->layers.layer[l].node;
    MPQ_TRY(make_network(ctx, scratch, p, p->run_graph, node, end, &p->float_network));
    return make_network(ctx, scratch, p, p->fake_graph, p->layer_node, end, &p->fake_network);
}

static enum mpq_status make_pair(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                 struct mpq_pipeline *p, uint32_t n, struct pair *out)
{
    uint32_t *end;
    MPQ_TRY(find_ends(ctx, scratch, p, &end));
    MPQ_TRY(make_networks(ctx, scratch, p, end));
    *out = (struct pair){.in_float = &p->float_network, .fake = &p->fake_network, .end = end};
    const struct mpq_graph *graph = p->run_graph;
    size_t most = 0;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        size_t bytes =
            mpq_tensor_bytes(mpq_exec_tensor(p->float_network.exec, p->layers.layer[l].y));
        most = mpq_equalize_edge(&p->equalize, l) && bytes > most ? bytes : most;
    }
    out->scaled = mpq_arena_alloc(ctx, scratch, most, 1);
    p->layer_comparison =
        mpq_arena_alloc(ctx, p->arena, p->layers.n_layer, sizeof *p->layer_comparison);
    if (!out->scaled || !p->layer_comparison)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_exec_tensors(ctx, scratch, p->float_network.exec, graph->output, graph->n_output,
                             &out->float_output));
    MPQ_TRY(mpq_exec_tensors(ctx, scratch, p->fake_network.exec, p->fake_graph->output,
                             graph->n_output, &out->fake_output));
    MPQ_TRY(mpq_pipeline_make_answers(ctx, p, n, &out->answers));
    if (p->decides_on_report)
        MPQ_TRY(mpq_pipeline_keep_answers(ctx, p));
    return mpq_pair_loss_begin(ctx, scratch, &p->float_network.loss, n, &out->loss);
}

/* What layer l answers, after its stretch has run in both. */
static void compare_layer(struct mpq_pipeline *p, const struct pair *pair, uint32_t l)
{
    mpq_value_id y = p->layers.layer[l].y;
    struct mpq_tensor want = *mpq_exec_tensor(pair->in_float->exec, y);
    const struct mpq_equal_edge *edge = mpq_equalize_edge(&p->equalize, l);
    if (edge) {
        memcpy(pair->scaled, want.data, mpq_tensor_bytes(&want));
        want.data = pair->scaled;
        mpq_equalize_scale(edge, &want);
    }
    mpq_comparison_add(&p->layer_comparison[l], want.data,
                       mpq_exec_tensor(pair->fake->exec, y)->data, 1, mpq_shape_count(&want.shape),
                       0);
}

/* A network's nodes [from, to). */
struct leg {
    const struct mpq_network *network;
    mpq_node_id from, to;
};

static void run_legs(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct leg *leg = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        if (leg[i].to > leg[i].from)
            mpq_exec_forward(leg[i].network->exec, leg[i].from, leg[i].to);
}

/* Both networks go on up to the nodes before `to`. Two threads take one each, more of them share
 * out the loops of every node. */
static void go_on(struct leg leg[2], mpq_node_id to, mpq_node_id fake_to)
{
    leg[0].to = to;
    leg[1].to = fake_to;
    if (mpq_thread_count() == 2)
        mpq_gemm_parallel_for(2, 1, run_legs, leg);
    else
        run_legs(leg, 0, 2, 0);
    for (int i = 0; i < 2; i++)
        leg[i].from = leg[i].to > leg[i].from ? leg[i].to : leg[i].from;
}

/* Both networks, stretch by stretch, so that little has to be kept. */
static void run_layers(struct mpq_pipeline *p, const struct pair *pair)
{
    struct leg leg[2] = {{.network = pair->in_float}, {.network = pair->fake}};
    for (uint32_t l = 0, end; l < p->layers.n_layer; l = end) {
        end = pair->end[l];
        go_on(leg, p->layers.layer[end - 1].node + 1, p->layer_node[end - 1] + 1);
        for (uint32_t i = l; i < end; i++)
            compare_layer(p, pair, i);
    }
    go_on(leg, pair->in_float->graph->n_node, pair->fake->graph->n_node);
}

/* The first n samples of the decide part. */
static enum mpq_status compare_networks(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t n,
                                        struct pair *pair)
{
    struct mpq_network *in_float = pair->in_float, *fake = pair->fake;
    struct mpq_samples samples = mpq_pipeline_samples(&p->decide);
    uint32_t n_input = in_float->graph->n_input;
    for (uint32_t first = 0; first < n; first += in_float->batch) {
        uint32_t left = n - first, n_here = left < in_float->batch ? left : in_float->batch;
        MPQ_TRY(mpq_step(ctx, "layers", first, n, (double)NAN));
        MPQ_TRY(mpq_network_read(ctx, in_float, &samples, p->decide.sample + first, n_here));
        mpq_network_copy_inputs(in_float, fake);
        run_layers(p, pair);
        mpq_pair_loss_add(in_float, fake, first, n_here, &pair->loss);
        if (pair->answers)
            mpq_answers_keep(pair->answers, in_float->input, n_input, pair->fake_output,
                             in_float->batch, first, n_here);
        if (p->decides_on_report && p->answers)
            mpq_answers_keep(p->answers, in_float->input, n_input, pair->float_output,
                             in_float->batch, first, n_here);
    }
    return MPQ_OK;
}

static enum mpq_status ask_rest(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                struct mpq_pipeline *p, uint32_t first)
{
    struct mpq_crew crew;
    MPQ_TRY(mpq_pipeline_crew(ctx, scratch, p, p->run_graph, p->batch, p->report.n - first,
                              &(struct mpq_exec_options){0}, &crew));
    return mpq_pipeline_ask(ctx, p, &crew, first);
}

/* If all answers are kept, both networks can go, and what else the float model will be asked is
 * asked by as many as there are threads. */
static enum mpq_status ask_and_go(struct mpq_ctx *ctx, struct mpq_arena *own,
                                  struct mpq_pipeline *p, const struct pair *pair, uint32_t n)
{
    if (!p->decides_on_report || !p->answers || !pair->answers)
        return MPQ_OK;
    mpq_arena_reset(own);
    p->float_network.exec = p->fake_network.exec = NULL;
    MPQ_TRY(ask_rest(ctx, own, p, n));
    mpq_arena_reset(own);
    return MPQ_OK;
}

/* Where no allocation has been evaluated before: the one there is, now. */
static void settle_loss(struct mpq_pipeline *p, const struct pair *pair)
{
    double error;
    if (!p->net_arena)
        return;
    mpq_pair_loss_end(&p->float_network.loss, &pair->loss, p->found.sample_loss);
    p->found.loss = mpq_search_mean(p->found.sample_loss, NULL, p->decide.n, &error);
    if (p->found.uniform_bits)
        p->found.uniform_loss = p->found.loss;
    for (size_t i = 0; i < (size_t)p->layers.n_layer * MPQ_N_BITS; i++)
        if (!isnan(p->sensitivity[i]))
            p->sensitivity[i] = p->found.loss;
}

enum mpq_status mpq_pipeline_run_pair(struct mpq_ctx *ctx, struct mpq_arena *own,
                                      struct mpq_pipeline *p, uint32_t n,
                                      struct mpq_answers **out_answers)
{
    struct pair pair;
    MPQ_TRY(make_pair(ctx, own, p, n, &pair));
    MPQ_TRY(take_codes(ctx, own, p));
    mpq_exec_sum_plainly(p->fake_network.exec, true);
    MPQ_TRY(compare_networks(ctx, p, n, &pair));
    settle_loss(p, &pair);
    *out_answers = pair.answers;
    return ask_and_go(ctx, own, p, &pair, n);
}
