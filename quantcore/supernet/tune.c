#include "quantcore/supernet/tune.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/engine/optim.h"
#include "quantcore/supernet/freeze.h"

/* Gradients and moments of one layer's parameters. */
struct layer_state {
    mpq_real *dw;
    struct mpq_adam adam_w;
    double w_rms, y_rms;
    mpq_real *widest_y; /* output on the widest path, for the mitigation */
    struct width_state {
        bool used; /* by some path of this step */
        mpq_real *dscale, *dbias;
        struct mpq_adam adam_scale, adam_bias;
    } width[MPQ_N_BITS];
};

struct tuner {
    struct mpq_supernet *net;
    struct mpq_network network;
    struct mpq_sampler sampler;
    const struct mpq_samples *samples;
    const struct mpq_targets *targets;
    const struct mpq_tune_options *options;
    struct layer_state *layer;
    uint32_t *order; /* permutation of the samples, new each epoch */
    uint32_t *row;   /* [batch] targets of this batch */
    uint32_t *sample;
    uint8_t *bits;
    uint32_t *layer_of;   /* [n_value] the layer whose output it is */
    uint32_t path;        /* that is run: 0 is the widest */
    uint8_t *last_bits;   /* of the path run before */
    mpq_node_id *node_of; /* [n_layer] the first that reads its weight */
};

/* ---- setting up ---- */

static enum mpq_status create_layer_state(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          struct tuner *t, uint32_t l)
{
    const struct mpq_layer *shape = &t->net->layers->layer[l];
    const struct mpq_supernet_layer *layer = &t->net->layer[l];
    struct layer_state *state = &t->layer[l];
    size_t n_channel = (size_t)shape->n_channel;
    state->dw = mpq_arena_alloc(ctx, arena, (size_t)shape->n_param, sizeof *state->dw);
    if (!state->dw)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_adam_create(ctx, arena, shape->n_param, &state->adam_w));
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        struct width_state *width = &state->width[b];
        if (!(layer->candidates >> b & 1))
            continue;
        width->dscale = mpq_arena_alloc(ctx, arena, n_channel, sizeof *width->dscale);
        width->dbias = mpq_arena_alloc(ctx, arena, n_channel, sizeof *width->dbias);
        if (!width->dscale || !width->dbias)
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_adam_create(ctx, arena, shape->n_channel, &width->adam_scale));
        MPQ_TRY(mpq_adam_create(ctx, arena, shape->n_channel, &width->adam_bias));
    }
    double square = 0;
    for (int64_t i = 0; i < shape->n_param; i++)
        square += (double)layer->w[i] * (double)layer->w[i];
    state->w_rms = sqrt(square / (double)shape->n_param);
    state->y_rms = sqrt(t->options->stats[l].output_power);
    if (t->options->align) {
        const struct mpq_tensor *y = &t->network.binding.tensor[shape->y];
        state->widest_y = mpq_arena_alloc(ctx, arena, (size_t)mpq_shape_count(&y->shape),
                                          sizeof *state->widest_y);
        if (!state->widest_y)
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

/* dy += factor * (y - widest) */
MPQ_MULTIVERSION
static void pull(mpq_real *restrict dy, const mpq_real *restrict y, const mpq_real *restrict widest,
                 int64_t n, mpq_real factor)
{
    for (int64_t i = 0; i < n; i++)
        dy[i] += factor * (y[i] - widest[i]);
}

struct pull_job {
    mpq_real *dy, factor;
    const mpq_real *y, *widest;
};

static void pull_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct pull_job *job = arg;
    (void)thread;
    pull(job->dy + begin, job->y + begin, job->widest + begin, end - begin, job->factor);
}

/* The mitigation, when backward comes to a layer's output: the widest path's is remembered, and
 * gives others a gradient. */
static void align(void *arg, mpq_value_id v)
{
    enum { GRAIN = 16384 };
    struct tuner *t = arg;
    uint32_t l = t->layer_of[v];
    const struct mpq_tensor *y = mpq_exec_tensor(t->network.exec, v);
    if (t->path == 0)
        memcpy(t->layer[l].widest_y, y->data, mpq_tensor_bytes(y));
    if (t->path == 0 || t->bits[l] != mpq_bits_lowest(t->net->layer[l].active))
        return;
    int64_t n = mpq_shape_count(&y->shape);
    double power = t->options->stats[l].output_power * (double)n;
    struct pull_job job = {.dy = mpq_exec_grad(t->network.exec, v),
                           .factor =
                               (mpq_real)(2 * t->options->align_weight / (power > 0 ? power : 1)),
                           .y = y->data,
                           .widest = t->layer[l].widest_y};
    mpq_parallel_for(n, GRAIN, pull_piece, &job);
}

/* The marks [n_value] of what backward is to give and to stop at. */
static enum mpq_status mark_wanted(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_tune_options *options,
                                   struct mpq_exec_options *out)
{
    bool *want = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *want);
    bool *hooked = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *hooked);
    if (!want || !hooked)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        want[layers->layer[l].weight] = true;
        if (layers->layer[l].bias != MPQ_NO_VALUE)
            want[layers->layer[l].bias] = true;
        hooked[layers->layer[l].y] = options->align;
    }
    *out = (struct mpq_exec_options){
        .want_grad = want, .hooked = hooked, .max_bytes = options->max_bytes};
    return MPQ_OK;
}

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena, struct tuner *t,
                              const struct mpq_graph *graph, uint32_t batch)
{
    const struct mpq_layer_table *layers = t->net->layers;
    struct mpq_exec_options options;
    MPQ_TRY(mark_wanted(ctx, arena, graph, layers, t->options, &options));
    options.hook = align;
    options.hook_arg = t;
    t->layer = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *t->layer);
    t->order = mpq_arena_alloc(ctx, arena, t->targets->n_sample, sizeof *t->order);
    t->row = mpq_arena_alloc(ctx, arena, batch, sizeof *t->row);
    t->sample = mpq_arena_alloc(ctx, arena, batch, sizeof *t->sample);
    t->bits = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *t->bits);
    t->last_bits = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *t->last_bits);
    t->node_of = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *t->node_of);
    t->layer_of = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *t->layer_of);
    if (!t->layer || !t->order || !t->row || !t->sample || !t->bits || !t->last_bits ||
        !t->node_of || !t->layer_of)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < layers->n_layer; l++)
        t->layer_of[layers->layer[l].y] = l;
    for (mpq_node_id n = graph->n_node; n-- > 0;)
        for (uint32_t l = 0; l < layers->n_layer; l++)
            for (uint32_t i = 0; i < graph->node[n].n_in; i++)
                if (graph->node[n].in[i] == layers->layer[l].weight)
                    t->node_of[l] = n;
    MPQ_TRY(mpq_network_create(ctx, arena, graph, batch, &options, &t->network));
    for (uint32_t l = 0; l < layers->n_layer; l++)
        MPQ_TRY(create_layer_state(ctx, arena, t, l));
    return mpq_sampler_create(ctx, arena, t->net, t->options->sensitivity, &t->sampler);
}

/* ---- one step ---- */

static enum mpq_status read_batch(struct mpq_ctx *ctx, struct tuner *t, uint64_t step)
{
    uint32_t n = t->targets->n_sample, batch = t->network.batch;
    uint64_t at = step * batch;
    for (uint32_t i = 0; i < batch; i++, at++) {
        if (at % n == 0 || (i == 0 && step == 0))
            mpq_rng_permutation(ctx->seed, MPQ_STREAM_BATCH, at / n, n, t->order);
        t->row[i] = t->order[at % n];
        t->sample[i] = t->targets->sample[t->row[i]];
    }
    return mpq_network_read(ctx, &t->network, t->samples, t->sample, batch);
}

static void draw_widest(const struct mpq_supernet *net, uint8_t *bits)
{
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        bits[l] = (uint8_t)mpq_bits_highest(net->layer[l].active);
}

/* From gradients of the quantized weights to those of latent weights, scales and biases. */
static void collect_gradients(struct tuner *t)
{
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &t->net->layers->layer[l];
        const struct mpq_supernet_width *width = &t->net->layer[l].width[t->bits[l]];
        struct width_state *state = &t->layer[l].width[t->bits[l]];
        const mpq_real *dwq = mpq_exec_grad(t->network.exec, shape->weight);
        if (!dwq)
            continue;
        state->used = true;
        mpq_levels_backward(&width->levels, shape, mpq_supernet_weights(t->net, l, t->bits[l]),
                            t->net->layer[l].scale_used, dwq, t->layer[l].dw, state->dscale);
        const mpq_real *dbias = width->bias ? mpq_exec_grad(t->network.exec, shape->bias) : NULL;
        for (int64_t c = 0; dbias && c < shape->n_channel; c++)
            state->dbias[c] += dbias[c];
    }
}

/* Quantizes for the path; returns the first node that computes anything else than it did on the
 * path before, which ran on the same samples and the same parameters. */
static mpq_node_id apply_path(struct tuner *t)
{
    mpq_node_id first = t->network.graph->n_node - 1;
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        if (t->path > 0 && t->bits[l] == t->last_bits[l])
            continue;
        mpq_supernet_apply_layer(t->net, t->network.exec, l, t->bits[l]);
        first = t->node_of[l] < first ? t->node_of[l] : first;
        t->last_bits[l] = t->bits[l];
    }
    return t->path == 0 ? 0 : mpq_exec_resume(t->network.exec, first);
}

static double run_path(struct tuner *t, uint32_t path)
{
    struct mpq_network *network = &t->network;
    t->path = path;
    mpq_exec_forward(network->exec, apply_path(t), network->graph->n_node);
    mpq_exec_zero_grad(network->exec);
    double loss = mpq_network_loss(network, t->targets, t->row, network->batch, 0);
    mpq_network_loss(network, t->targets, t->row, network->batch, 1 / (loss + MPQ_TUNE_LOSS_FLOOR));
    mpq_exec_backward(network->exec);
    collect_gradients(t);
    return loss;
}

static void update_layer(struct tuner *t, uint32_t l, double share)
{
    const struct mpq_layer *shape = &t->net->layers->layer[l];
    struct mpq_supernet_layer *layer = &t->net->layer[l];
    struct layer_state *state = &t->layer[l];
    mpq_adam_direction(&state->adam_w, state->dw);
    mpq_real rate = (mpq_real)(t->options->weight_rate * state->w_rms * share);
    for (int64_t i = 0; i < shape->n_param; i++)
        layer->w[i] -= rate * state->dw[i];
    memset(state->dw, 0, (size_t)shape->n_param * sizeof *state->dw);

    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        struct width_state *width = &state->width[b];
        if (!width->used)
            continue;
        width->used = false;
        mpq_adam_direction(&width->adam_scale, width->dscale);
        mpq_adam_direction(&width->adam_bias, width->dbias);
        /* Multiplicative, so that a scale stays positive whatever its unit. */
        double scale_step = t->options->scale_rate * share;
        mpq_real bias_step = (mpq_real)(t->options->bias_rate * state->y_rms * share);
        for (int64_t c = 0; c < shape->n_channel; c++) {
            layer->width[b].scale[c] *= (mpq_real)exp(-scale_step * (double)width->dscale[c]);
            if (layer->width[b].bias)
                layer->width[b].bias[c] -= bias_step * width->dbias[c];
        }
        memset(width->dscale, 0, (size_t)shape->n_channel * sizeof *width->dscale);
        memset(width->dbias, 0, (size_t)shape->n_channel * sizeof *width->dbias);
    }
}

/* All paths of a step, and the optimizer's; returns the loss of the random ones, or of the widest
 * where there are none. */
static double take_step(struct tuner *t, uint64_t seed, uint32_t step)
{
    const struct mpq_tune_options *options = t->options;
    draw_widest(t->net, t->bits);
    double widest = run_path(t, 0), loss = 0;
    for (uint32_t path = 1; path <= options->n_random; path++) {
        mpq_sampler_draw(&t->sampler, seed, step, path, t->bits);
        loss += run_path(t, path) / options->n_random;
    }
    double share = mpq_cosine_rate(1, step, options->n_step);
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++)
        update_layer(t, l, share);
    return options->n_random ? loss : widest;
}

static enum mpq_status tune(struct mpq_ctx *ctx, struct tuner *t, struct mpq_tune_result *out)
{
    const struct mpq_tune_options *options = t->options;
    uint32_t tenth = options->n_step / 10 ? options->n_step / 10 : 1;
    struct mpq_tune_result result = {0};
    double smooth = NAN;
    bool stop = false;
    while (result.n_step < options->n_step && !stop) {
        uint32_t step = result.n_step++;
        MPQ_TRY(mpq_step(ctx, "tune", step, options->n_step, smooth));
        double ratio;
        if (options->freeze && mpq_freeze_at_step(step, options->n_step, &ratio))
            MPQ_TRY(mpq_freeze_update(ctx, t->net, ratio));
        MPQ_TRY(read_batch(ctx, t, step));
        double loss = take_step(t, ctx->seed, step);
        smooth = isnan(smooth) ? loss : 0.95 * smooth + 0.05 * loss;
        if (step < tenth)
            result.first_loss += loss / tenth;
        if (options->watch && result.n_step < options->n_step &&
            result.n_step % options->watch_every == 0)
            MPQ_TRY(options->watch(ctx, options->watch_arg, result.n_step, &stop));
    }
    result.last_loss = smooth;
    *out = result;
    return MPQ_OK;
}

enum mpq_status mpq_tune(struct mpq_ctx *ctx, struct mpq_supernet *net,
                         const struct mpq_graph *graph, uint32_t batch,
                         const struct mpq_samples *samples, const struct mpq_targets *targets,
                         const struct mpq_tune_options *options, struct mpq_tune_result *out)
{
    struct tuner t = {.net = net, .samples = samples, .targets = targets, .options = options};
    struct mpq_arena *arena = mpq_arena_create(ctx);
    if (!arena)
        return MPQ_E_NOMEM;
    enum mpq_status status = create(ctx, arena, &t, graph, batch);
    if (status == MPQ_OK)
        status = tune(ctx, &t, out);
    mpq_arena_free(arena);
    return status;
}

static enum mpq_status measure(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               const struct mpq_layer_table *layers, const struct mpq_graph *graph,
                               uint32_t batch, const struct mpq_tune_options *options,
                               struct mpq_tune_memory *out)
{
    struct mpq_exec_options marks;
    struct mpq_binding binding;
    *out = (struct mpq_tune_memory){0};
    MPQ_TRY(mark_wanted(ctx, scratch, graph, layers, options, &marks));
    MPQ_TRY(mpq_network_measure(ctx, graph, batch, &marks, &out->network_bytes, &out->again));
    MPQ_TRY(mpq_bind_batch(ctx, scratch, graph, batch, &binding));
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        /* Of a layer's weights the gradient and two moments; of each width's channels the same of
         * scales and biases. */
        out->other_bytes +=
            3 * sizeof(mpq_real) * (size_t)(layer->n_param + 2 * MPQ_N_BITS * layer->n_channel);
        out->other_bytes += options->align ? mpq_tensor_bytes(&binding.tensor[layer->y]) : 0;
    }
    return MPQ_OK;
}

enum mpq_status mpq_tune_measure(struct mpq_ctx *ctx, const struct mpq_layer_table *layers,
                                 const struct mpq_graph *graph, uint32_t batch,
                                 const struct mpq_tune_options *options,
                                 struct mpq_tune_memory *out)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? measure(ctx, scratch, layers, graph, batch, options, out) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}
