#include "quantcore/supernet/paper_train.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/engine/optim.h"
#include "quantcore/supernet/freeze.h"

/* Constants of the reference code. Its 150 epochs of 2502 steps stand for any number of steps, so
 * what counts epochs or steps there is a share of the run here. */
enum { N_RANDOM = 3, EPOCHS = 150, SNAP_FROM = 40, WARM_UP = 5 };
static const double paper_momentum = 0.9;
static const double paper_decay = 2.5e-5;
static const double paper_align = 0.01;
static const double paper_statistic = 0.1;        /* share of the new batch in running statistics */
static const double paper_average = 3333 / 375e3; /* memory of the moving average, as a share    */
static const double paper_last_rate = 1e-5 / 0.04;

/* One learned step and its optimizer; steps that a path did not use are left alone. */
struct step_state {
    bool used;
    struct mpq_adam adam;
};

struct layer_state {
    mpq_real *widest_y; /* output on the widest path of this step */
    struct step_state weight[MPQ_N_BITS], input[MPQ_N_BITS];
};

struct trainer {
    struct mpq_paper_net *net;
    struct mpq_network network;
    const struct mpq_samples *samples;
    const struct mpq_paper_truth *truth;
    const struct mpq_paper_train_options *options;
    struct layer_state *layer;
    mpq_real *gradient, *velocity, *average; /* [net->n_value] */
    struct mpq_paper_batch batch;
    mpq_real **widest; /* [n_head][batch * n_sample] answers of the widest path */
    uint8_t *weight_bits, *input_bits;
    double *turbulence;
    bool *is_selected;
};

/* ---- setting up ---- */

static enum mpq_status create_layer(struct mpq_ctx *ctx, struct mpq_arena *arena, struct trainer *t,
                                    uint32_t l)
{
    struct layer_state *state = &t->layer[l];
    const struct mpq_tensor *y = &t->network.binding.tensor[t->net->learned[l].y];
    state->widest_y =
        mpq_arena_alloc(ctx, arena, (size_t)mpq_shape_count(&y->shape), sizeof(mpq_real));
    if (!state->widest_y)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        MPQ_TRY(mpq_adam_create(ctx, arena, 1, &state->weight[b].adam));
        MPQ_TRY(mpq_adam_create(ctx, arena, 1, &state->input[b].adam));
    }
    return MPQ_OK;
}

static enum mpq_status create_heads(struct mpq_ctx *ctx, struct mpq_arena *arena, struct trainer *t,
                                    uint32_t batch)
{
    const struct mpq_loss *loss = &t->network.loss;
    t->widest = mpq_arena_alloc(ctx, arena, loss->n_head, sizeof *t->widest);
    if (!t->widest)
        return MPQ_E_NOMEM;
    for (uint32_t h = 0; h < loss->n_head; h++) {
        size_t n = batch * (size_t)loss->head[h].n_sample;
        t->widest[h] = mpq_arena_alloc(ctx, arena, n, sizeof **t->widest);
        if (!t->widest[h])
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena, struct trainer *t,
                              uint32_t batch)
{
    const struct mpq_graph *graph = t->net->graph;
    uint32_t n_layer = t->net->layers->n_layer, n_value = graph->n_value;
    bool *want = mpq_arena_alloc(ctx, arena, n_value, sizeof *want);
    bool *seed = mpq_arena_alloc(ctx, arena, n_value, sizeof *seed);
    bool *keep = mpq_arena_alloc(ctx, arena, n_value, sizeof *keep);
    t->layer = mpq_arena_alloc(ctx, arena, n_layer, sizeof *t->layer);
    t->gradient = mpq_arena_alloc(ctx, arena, t->net->n_value, sizeof(mpq_real));
    t->velocity = mpq_arena_alloc(ctx, arena, t->net->n_value, sizeof(mpq_real));
    t->average = mpq_arena_copy(ctx, arena, t->net->value, t->net->n_value * sizeof(mpq_real));
    t->weight_bits = mpq_arena_alloc(ctx, arena, n_layer, 1);
    t->input_bits = mpq_arena_alloc(ctx, arena, n_layer, 1);
    t->turbulence = mpq_arena_alloc(ctx, arena, n_layer, sizeof *t->turbulence);
    t->is_selected = mpq_arena_alloc(ctx, arena, n_layer, sizeof *t->is_selected);
    if (ctx->status != MPQ_OK)
        return ctx->status;
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_learned_layer *learned = &t->net->learned[l];
        want[t->net->layers->layer[l].weight] = true;
        if (t->net->layer[l].bias)
            want[t->net->layers->layer[l].bias] = true;
        if (learned->has_input_step)
            want[learned->input_step] = true;
        if (learned->gamma != MPQ_NO_VALUE)
            want[learned->gamma] = want[learned->beta] = keep[learned->batch_mean] =
                keep[learned->batch_var] = true;
        seed[learned->y] = keep[learned->y] = t->options->align && t->net->layer[l].is_searchable;
    }
    MPQ_TRY(mpq_network_create(
        ctx, arena, graph, batch,
        &(struct mpq_exec_options){.want_grad = want, .seed = seed, .keep = keep}, &t->network));
    for (uint32_t l = 0; l < n_layer; l++)
        MPQ_TRY(create_layer(ctx, arena, t, l));
    MPQ_TRY(
        mpq_paper_batch_create(ctx, arena, &t->network, t->truth, t->options->change, &t->batch));
    return create_heads(ctx, arena, t, batch);
}

/* ---- one path ---- */

static int draw(mpq_bits_mask mask, uint64_t seed, uint64_t step, uint32_t index)
{
    uint32_t k =
        mpq_rng_below(seed, MPQ_STREAM_BITS, step, index, (uint32_t)__builtin_popcount(mask));
    while (k--)
        mask &= (mpq_bits_mask)(mask - 1);
    return mpq_bits_lowest(mask);
}

static void draw_path(struct trainer *t, uint64_t seed, uint64_t step, uint32_t path)
{
    uint32_t n_layer = t->net->layers->n_layer, base = path * 2 * n_layer;
    for (uint32_t l = 0; l < n_layer; l++) {
        const struct mpq_paper_layer *layer = &t->net->layer[l];
        t->weight_bits[l] = (uint8_t)draw(layer->active, seed, step, base + 2 * l);
        t->input_bits[l] = (uint8_t)draw(layer->inputs, seed, step, base + 2 * l + 1);
    }
}

/* Loss of the outputs, gradients added: half of it against the labels (where there are none, the
 * float model's answers) and half against the answers of a teacher: the float model for the widest
 * path, the widest path for the others. */
static double output_loss(struct trainer *t, bool is_widest)
{
    double sum = 0;
    for (uint32_t h = 0; h < t->network.loss.n_head; h++) {
        struct mpq_loss_head head = t->network.loss.head[h];
        const mpq_real *y = mpq_exec_tensor(t->network.exec, head.value)->data;
        mpq_real *dy = mpq_exec_grad(t->network.exec, head.value);
        const mpq_real *teacher = is_widest ? t->batch.soft[h] : t->widest[h];
        int64_t batch = t->network.batch;
        double variance = t->truth->targets->variance[h];
        head.kl_weight /= 2;
        head.mse_weight /= 2;
        sum += mpq_loss_head_value(&head, y, t->batch.hard[h], batch, variance, dy);
        sum += mpq_loss_head_value(&head, y, teacher, batch, variance, dy);
        if (is_widest)
            memcpy(t->widest[h], y, (size_t)(batch * head.n_sample) * sizeof *y);
    }
    return sum;
}

static void remember_widest(struct trainer *t)
{
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        const struct mpq_tensor *y = mpq_exec_tensor(t->network.exec, t->net->learned[l].y);
        if (t->net->layer[l].is_searchable)
            memcpy(t->layer[l].widest_y, y->data, mpq_tensor_bytes(y));
    }
}

/* Outputs of layers at their narrowest active width are drawn to those of the widest path. */
static double align(struct trainer *t)
{
    double loss = 0;
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        const struct mpq_paper_layer *layer = &t->net->layer[l];
        mpq_real *dy = mpq_exec_grad(t->network.exec, t->net->learned[l].y);
        if (!layer->is_searchable || !dy || t->weight_bits[l] != mpq_bits_lowest(layer->active))
            continue;
        const struct mpq_tensor *tensor = mpq_exec_tensor(t->network.exec, t->net->learned[l].y);
        const mpq_real *y = tensor->data, *widest = t->layer[l].widest_y;
        int64_t n = mpq_shape_count(&tensor->shape);
        mpq_real factor = (mpq_real)(2 * paper_align / (double)n);
        double square = 0;
        for (int64_t i = 0; i < n; i++) {
            mpq_real d = y[i] - widest[i];
            square += (double)d * (double)d;
            dy[i] += factor * d;
        }
        loss += paper_align * square / (double)n;
    }
    return loss;
}

static mpq_real *gradient_of(const struct trainer *t, const mpq_real *parameter)
{
    return t->gradient + (parameter - t->net->value);
}

static void add_gradient(const struct trainer *t, mpq_value_id v, const mpq_real *parameter,
                         int64_t n)
{
    const mpq_real *from = v == MPQ_NO_VALUE ? NULL : mpq_exec_grad(t->network.exec, v);
    mpq_real *to = gradient_of(t, parameter);
    for (int64_t i = 0; from && i < n; i++)
        to[i] += from[i];
}

/* From the gradients of what the graph was fed to those of the parameters. */
static void collect_gradients(struct trainer *t)
{
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        const struct mpq_layer *shape = &t->net->layers->layer[l];
        const struct mpq_paper_layer *layer = &t->net->layer[l];
        const struct mpq_learned_layer *learned = &t->net->learned[l];
        int b = t->weight_bits[l], a = t->input_bits[l];
        const struct mpq_paper_norm *norm = &layer->norm[b][a];
        const mpq_real *dwq = mpq_exec_grad(t->network.exec, shape->weight);
        if (dwq)
            *gradient_of(t, &layer->weight_step[b]) +=
                (mpq_real)mpq_lsq_backward(mpq_lsq_weight_range(b), layer->weight_step[b], layer->w,
                                           dwq, shape->n_param, gradient_of(t, layer->w));
        t->layer[l].weight[b].used = true;
        if (learned->has_input_step) {
            add_gradient(t, learned->input_step, &layer->input_step[a], 1);
            t->layer[l].input[a].used = true;
        }
        if (layer->bias)
            add_gradient(t, shape->bias, layer->bias, shape->n_channel);
        if (norm->gamma) {
            add_gradient(t, learned->gamma, norm->gamma, shape->n_channel);
            add_gradient(t, learned->beta, norm->beta, shape->n_channel);
        }
    }
}

static void move_statistics(const struct trainer *t)
{
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        const struct mpq_learned_layer *learned = &t->net->learned[l];
        const struct mpq_paper_norm *norm =
            &t->net->layer[l].norm[t->weight_bits[l]][t->input_bits[l]];
        if (!norm->gamma)
            continue;
        const mpq_real *mean = mpq_exec_tensor(t->network.exec, learned->batch_mean)->data;
        const mpq_real *var = mpq_exec_tensor(t->network.exec, learned->batch_var)->data;
        mpq_real share = (mpq_real)paper_statistic;
        for (int64_t c = 0; c < t->net->layers->layer[l].n_channel; c++) {
            norm->mean[c] += share * (mean[c] - norm->mean[c]);
            norm->var[c] += share * (var[c] - norm->var[c]);
        }
    }
}

/* Terms on the latent weights of the path's widths. */
static double add_regularizers(struct trainer *t, double snap_weight)
{
    double loss = 0;
    for (uint32_t l = 0; l < t->net->layers->n_layer; l++) {
        const struct mpq_paper_layer *layer = &t->net->layer[l];
        const struct mpq_layer *shape = &t->net->layers->layer[l];
        int b = t->weight_bits[l];
        if (!layer->is_searchable)
            continue;
        mpq_real step = layer->weight_step[b], *dw = gradient_of(t, layer->w);
        if (snap_weight > 0)
            loss += snap_weight * mpq_paper_snap(shape, layer->w, step, b,
                                                 mpq_bits_lowest(layer->active), snap_weight, dw);
        if (b == 2)
            mpq_paper_region(shape, layer->w, step, b, -paper_decay, dw);
    }
    return loss;
}

static double run_path(struct trainer *t, bool is_widest, double snap_weight)
{
    struct mpq_exec *exec = t->network.exec;
    mpq_paper_apply(t->net, exec, t->weight_bits, t->input_bits);
    mpq_exec_forward(exec, 0, t->network.graph->n_node);
    mpq_exec_zero_grad(exec);
    double loss = output_loss(t, is_widest);
    if (t->options->align && is_widest)
        remember_widest(t);
    else if (t->options->align)
        loss += align(t);
    mpq_exec_backward(exec);
    collect_gradients(t);
    move_statistics(t);
    if (!is_widest)
        loss += add_regularizers(t, snap_weight);
    return loss;
}

/* ---- terms on weights ---- */

double mpq_paper_snap_weight(uint32_t step, uint32_t n_step)
{
    double from = (double)SNAP_FROM / EPOCHS * n_step, at = (double)step;
    if (at < from || n_step == 0)
        return 0;
    return 0.1 * (1 - cos(3.141592653589793 * (at - from) / ((double)n_step - from))) / 2;
}

double mpq_paper_snap(const struct mpq_layer *shape, const mpq_real *w, mpq_real step, int bits,
                      int narrowest, double weight, mpq_real *dw)
{
    struct mpq_lsq_range range = mpq_lsq_weight_range(bits);
    struct mpq_lsq_range coarse = mpq_lsq_weight_range(narrowest);
    int stride = 1 << (bits - narrowest);
    double n_weight = (double)(shape->n_param / shape->n_channel), sum = 0;
    mpq_real factor = (mpq_real)(2 * weight / n_weight);
    mpq_real low = (mpq_real)range.low, high = (mpq_real)range.high;
    for (int64_t i = 0; i < shape->n_param; i++) {
        mpq_real z = w[i] / step;
        if (z < low || z > high)
            continue; /* clamped to a level: neither distance nor gradient */
        int q = (int)rint((double)z);
        if (q % stride || q / stride < coarse.low || q / stride > coarse.high)
            continue;
        mpq_real d = w[i] - (mpq_real)q * step;
        sum += (double)d * (double)d;
        dw[i] += factor * d;
    }
    return sum / n_weight;
}

double mpq_paper_region(const struct mpq_layer *shape, const mpq_real *w, mpq_real step, int bits,
                        double weight, mpq_real *dw)
{
    struct mpq_lsq_range range = mpq_lsq_weight_range(bits);
    mpq_real low = (mpq_real)range.low * step, high = (mpq_real)range.high * step;
    double sum = 0;
    for (int64_t i = 0; i < shape->n_param; i++) {
        mpq_real clamped = w[i] < low ? low : w[i] > high ? high : w[i];
        sum += 0.5 * (double)clamped * (double)clamped;
        if (clamped == w[i])
            dw[i] += (mpq_real)weight * w[i];
    }
    return sum;
}

/* ---- the scheduler ---- */

double mpq_paper_turbulence(const struct mpq_paper_net *net, uint32_t l)
{
    const struct mpq_paper_layer *layer = &net->layer[l];
    struct mpq_layer flat = {.n_group = 1, .n_outer = 1, .n_channel = 1};
    flat.n_inner = flat.n_param = net->layers->layer[l].n_param;
    double sum = 0;
    int n = 0;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        if (!(layer->active >> b & 1))
            continue;
        struct mpq_lsq_range range = mpq_lsq_weight_range(b);
        struct mpq_levels levels;
        int8_t level[256];
        for (int q = range.low; q <= range.high; q++)
            level[q - range.low] = (int8_t)q;
        mpq_levels_set(b, level, (uint32_t)(range.high - range.low + 1), &levels);
        sum += mpq_freeze_unstable_share(&levels, &flat, layer->w, &layer->weight_step[b]) / b;
        n++;
    }
    return sum / n;
}

/* Freezing is for searchable layers; the ratio is a share of them. */
static enum mpq_status update_widths(struct mpq_ctx *ctx, struct trainer *t, double ratio)
{
    uint32_t n_layer = t->net->layers->n_layer, n = 0;
    for (uint32_t l = 0; l < n_layer; l++)
        if (t->net->layer[l].is_searchable)
            t->turbulence[n++] = mpq_paper_turbulence(t->net, l);
    MPQ_TRY(mpq_freeze_select(ctx, n, t->turbulence, ratio, t->is_selected));
    n = 0;
    for (uint32_t l = 0; l < n_layer; l++) {
        struct mpq_paper_layer *layer = &t->net->layer[l];
        if (layer->is_searchable)
            layer->active = mpq_freeze_active(layer->weights, t->is_selected[n++]);
    }
    return MPQ_OK;
}

/* ---- the optimizers ---- */

static void clip(mpq_real *gradient, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gradient[i] = gradient[i] > 1 ? 1 : gradient[i] < -1 ? -1 : gradient[i];
}

/* Stochastic gradient descent with Nesterov's momentum. */
static void descend(struct trainer *t, const struct mpq_paper_block *block, double rate)
{
    mpq_real *restrict value = t->net->value + block->begin;
    mpq_real *restrict velocity = t->velocity + block->begin;
    const mpq_real *restrict gradient = t->gradient + block->begin;
    mpq_real decay = (mpq_real)(block->kind == MPQ_PAPER_WEIGHT ? paper_decay : 0);
    mpq_real keep = (mpq_real)paper_momentum, r = (mpq_real)rate;
    for (size_t i = 0; i < block->n; i++) {
        mpq_real g = gradient[i] + decay * value[i];
        velocity[i] = keep * velocity[i] + g;
        value[i] -= r * (g + keep * velocity[i]);
    }
}

/* The published Adam adds its rate of 1e-5 some hundred thousand times. A short run moves by shares
 * of the step instead, which also keeps it positive. */
static void move_step(struct trainer *t, struct step_state *state, mpq_real *step, double rate)
{
    mpq_real direction = *gradient_of(t, step);
    if (!state->used)
        return;
    state->used = false;
    mpq_adam_direction(&state->adam, &direction);
    *step *= (mpq_real)exp(-rate * (double)direction);
}

static void move_steps(struct trainer *t, uint32_t l, double rate)
{
    const struct mpq_paper_layer *layer = &t->net->layer[l];
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        move_step(t, &t->layer[l].weight[b], &layer->weight_step[b], rate);
        move_step(t, &t->layer[l].input[b], &layer->input_step[b], rate);
    }
}

/* From base along half a cosine to paper_last_rate of it, after a linear warm-up. */
static double rate_at(double base, uint32_t step, uint32_t n_step)
{
    double warm_up = fmax(1, (double)WARM_UP / EPOCHS * n_step), at = (double)step;
    if (at < warm_up)
        return base * (at + 1) / warm_up;
    double share = 0.5 * (1 + cos(3.141592653589793 * at / (double)n_step));
    return base * fmax(share, paper_last_rate);
}

static void take_step(struct trainer *t, uint32_t step)
{
    struct mpq_paper_net *net = t->net;
    uint32_t n_step = t->options->n_step;
    double rate = rate_at(t->options->rate, step, n_step);
    double step_rate =
        t->options->step_rate * 0.5 * (1 + cos(3.141592653589793 * step / (double)n_step));
    clip(t->gradient, net->n_value);
    for (uint32_t b = 0; b < net->n_block; b++)
        if (net->block[b].kind == MPQ_PAPER_WEIGHT || net->block[b].kind == MPQ_PAPER_PLAIN)
            descend(t, &net->block[b], rate);
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        move_steps(t, l, step_rate);
    mpq_paper_keep_gamma(net);
    memset(t->gradient, 0, net->n_value * sizeof *t->gradient);
    /* The memory grows with the run until it is what the paper's is to its own. */
    double memory = fmin(step + 1.0, fmax(1, paper_average * n_step));
    mpq_real share = (mpq_real)(1 / memory);
    for (size_t i = 0; i < net->n_value; i++)
        t->average[i] += share * (net->value[i] - t->average[i]);
}

static enum mpq_status train(struct mpq_ctx *ctx, struct trainer *t,
                             struct mpq_paper_train_result *out)
{
    uint32_t n_step = t->options->n_step, tenth = n_step / 10 ? n_step / 10 : 1;
    struct mpq_paper_train_result result = {0, 0};
    double smooth = NAN;
    for (uint32_t step = 0; step < n_step; step++) {
        double ratio, loss = 0, snap_weight = mpq_paper_snap_weight(step, n_step);
        MPQ_TRY(mpq_step(ctx, "train", step, n_step, smooth));
        if (t->options->freeze && mpq_freeze_at_step(step, n_step, &ratio))
            MPQ_TRY(update_widths(ctx, t, ratio));
        MPQ_TRY(
            mpq_paper_batch_read(ctx, &t->batch, &t->network, t->samples, MPQ_STREAM_BATCH, step));
        mpq_paper_widest(t->net, t->weight_bits, t->input_bits);
        run_path(t, true, 0);
        for (uint32_t path = 1; path <= N_RANDOM; path++) {
            draw_path(t, ctx->seed, step, path);
            loss += run_path(t, false, snap_weight) / N_RANDOM;
        }
        if (!isfinite(loss))
            return mpq_fail(ctx, MPQ_E_NUMERIC, "training diverged at step %u of %u", step, n_step);
        take_step(t, step);
        smooth = isnan(smooth) ? loss : 0.95 * smooth + 0.05 * loss;
        result.first_loss += step < tenth ? loss / tenth : 0;
        result.last_loss += step >= n_step - tenth ? loss / tenth : 0;
    }
    memcpy(t->net->value, t->average, t->net->n_value * sizeof *t->average);
    *out = result;
    return MPQ_OK;
}

enum mpq_status mpq_paper_train(struct mpq_ctx *ctx, struct mpq_paper_net *net, uint32_t batch,
                                const struct mpq_samples *samples,
                                const struct mpq_paper_truth *truth,
                                const struct mpq_paper_train_options *options,
                                struct mpq_paper_train_result *out)
{
    struct trainer t = {.net = net, .samples = samples, .truth = truth, .options = options};
    struct mpq_arena *arena = mpq_arena_create(ctx);
    if (!arena)
        return MPQ_E_NOMEM;
    enum mpq_status status = create(ctx, arena, &t, batch);
    if (status == MPQ_OK)
        status = train(ctx, &t, out);
    mpq_arena_free(arena);
    return status;
}
