#include "quantcore/supernet/round.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/conv_attrs.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/kernel/linear_algebra.h"

enum { MAX_INPUTS = 4608, ROWS = 256, MAX_ROWS_A_BATCH = 4096 };

/* Second moments of a layer's input: row r of X holds what the k weights of an output channel meet
 * at one output position, and moment is the sum of X^T X over positions. A convolution of G groups
 * has G of them. */
struct gram {
    int64_t k, n_group;
    mpq_real *moment; /* [n_group, k, k]; NULL: this layer keeps its code */
    double *mean;     /* [n_group, k] sum of X                            */
    uint64_t n_row;
};

/* Where inputs come from: the parameters of mpq_round_supernet(). */
struct source {
    struct mpq_network *network;
    const mpq_node_id *layer_node;
    const struct mpq_samples *samples;
    const uint32_t *sample;
    uint32_t n_sample;
};

/* ---- gathering ---- */

/* One row of X: the inputs under the filter of group g at output position `at` of image n. */
static void fill_row(const struct mpq_conv *conv, const mpq_real *x, int64_t n, int64_t g,
                     int64_t at, mpq_real *row)
{
    int64_t channels = conv->c / conv->group;
    const int64_t o[3] = {at / (conv->out[1] * conv->out[2]), at / conv->out[2] % conv->out[1],
                          at % conv->out[2]};
    for (int64_t c = 0; c < channels; c++) {
        const mpq_real *plane = x + (n * conv->c + g * channels + c) * mpq_volume(conv->in);
        for (int64_t t = 0; t < mpq_volume(conv->kernel); t++) {
            const int64_t tap[3] = {t / (conv->kernel[1] * conv->kernel[2]),
                                    t / conv->kernel[2] % conv->kernel[1], t % conv->kernel[2]};
            int64_t place = 0;
            bool inside = true;
            for (int d = 0; d < 3; d++) {
                int64_t i = o[d] * conv->stride[d] + tap[d] * conv->dilation[d] - conv->pad[d];
                inside = inside && i >= 0 && i < conv->in[d];
                place = place * conv->in[d] + i;
            }
            *row++ = inside ? plane[place] : 0;
        }
    }
}

static void add_rows(struct gram *gram, int64_t g, const mpq_real *rows, int64_t n_row)
{
    int64_t k = gram->k;
    mpq_gemm(true, false, k, k, n_row, 1, rows, k, rows, k, 1, gram->moment + g * k * k, k);
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t i = 0; i < k; i++)
            gram->mean[g * k + i] += (double)rows[r * k + i];
}

/* Evenly spaced output positions of the batch's first n images, at most MAX_ROWS_A_BATCH. */
static void gather_conv(struct gram *gram, const struct mpq_conv *conv, const mpq_real *x,
                        int64_t n, mpq_real *rows)
{
    int64_t places = mpq_volume(conv->out), total = n * places;
    int64_t apart = (total + MAX_ROWS_A_BATCH - 1) / MAX_ROWS_A_BATCH;
    for (int64_t g = 0; g < gram->n_group; g++) {
        int64_t n_row = 0;
        for (int64_t p = 0; p < total; p += apart) {
            fill_row(conv, x, p / places, g, p % places, rows + n_row++ * gram->k);
            if (n_row == ROWS || p + apart >= total) {
                add_rows(gram, g, rows, n_row);
                n_row = 0;
            }
        }
    }
    gram->n_row += (uint64_t)((total + apart - 1) / (apart ? apart : 1));
}

/* A plain product: the rows of the input are those of X, wherever their n numbers lie. Of all rows
 * the given share; the rest of the batch repeats a sample. */
static void gather_product(struct gram *gram, const struct mpq_layer_input *in, const mpq_real *x,
                           double share, mpq_real *rows)
{
    int64_t total = in->outer * in->middle * in->inner;
    total = (int64_t)((double)total * share + 0.5);
    for (int64_t g = 0; g < in->group; g++)
        for (int64_t first = 0; first < total; first += ROWS) {
            int64_t n_row = total - first < ROWS ? total - first : ROWS;
            for (int64_t r = 0; r < n_row; r++) {
                int64_t i = (first + r) % in->inner, at = (first + r) / in->inner;
                int64_t o = at / in->middle, m = at % in->middle;
                const mpq_real *from =
                    x + ((o * in->group + g) * in->middle + m) * in->n * in->inner + i;
                for (int64_t k = 0; k < in->n; k++)
                    rows[r * in->n + k] = from[k * in->inner];
            }
            add_rows(gram, g, rows, n_row);
        }
    gram->n_row += (uint64_t)total;
}

/* Whether X can be gathered: the layer is a convolution or a product whose every input meets one
 * weight of a channel. ConvTranspose, where it meets all taps of the kernel, is neither. */
static bool is_gathered(const struct mpq_layer *layer, const struct source *source, mpq_node_id id)
{
    struct mpq_network *network = source->network;
    if (layer->x == MPQ_NO_VALUE || layer->n_outer * layer->n_inner > MAX_INPUTS)
        return false;
    struct mpq_layer_input in = mpq_layer_input(layer, &network->binding.tensor[layer->x].shape);
    return mpq_node_is(&network->graph->node[id], "Conv") ||
           in.n == layer->n_outer * layer->n_inner;
}

static enum mpq_status create_gram(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_layer *layer, struct gram *out)
{
    out->k = layer->n_outer * layer->n_inner;
    out->n_group = layer->n_group;
    out->mean = mpq_arena_alloc(ctx, arena, (size_t)(out->n_group * out->k), sizeof *out->mean);
    out->moment =
        mpq_arena_alloc(ctx, arena, (size_t)(out->n_group * out->k * out->k), sizeof *out->moment);
    return out->mean && out->moment ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status gather(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                              const struct mpq_layer_table *layers, const struct source *source,
                              struct gram *gram)
{
    struct mpq_network *network = source->network;
    int64_t most = 1;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        if (is_gathered(&layers->layer[l], source, source->layer_node[l]))
            MPQ_TRY(create_gram(ctx, scratch, &layers->layer[l], &gram[l]));
        most = gram[l].moment && gram[l].k > most ? gram[l].k : most;
    }
    mpq_real *rows = mpq_arena_alloc(ctx, scratch, (size_t)(ROWS * most), sizeof *rows);
    if (!rows)
        return MPQ_E_NOMEM;
    for (uint32_t first = 0; first < source->n_sample; first += network->batch) {
        uint32_t left = source->n_sample - first;
        uint32_t n = left < network->batch ? left : network->batch;
        MPQ_TRY(mpq_step(ctx, "round", first, source->n_sample, (double)NAN));
        MPQ_TRY(mpq_network_read(ctx, network, source->samples, source->sample + first, n));
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        for (uint32_t l = 0; l < layers->n_layer; l++) {
            const struct mpq_node *node = &network->graph->node[source->layer_node[l]];
            const struct mpq_layer *layer = &layers->layer[l];
            double share = (double)n / network->batch;
            if (!gram[l].moment)
                continue;
            /* As the node reads it, which may be quantized. */
            mpq_value_id v = layer->x_input < 0 ? layer->x : node->in[layer->x_input];
            const struct mpq_tensor *x[2] = {mpq_exec_tensor(network->exec, v),
                                             mpq_exec_tensor(network->exec, layer->weight)};
            if (!mpq_node_is(node, "Conv")) {
                struct mpq_layer_input in = mpq_layer_input(layer, &x[0]->shape);
                gather_product(&gram[l], &in, x[0]->data, share, rows);
                continue;
            }
            struct mpq_conv conv = mpq_conv_geometry(node, x);
            gather_conv(&gram[l], &conv, x[0]->data, (int64_t)((double)conv.n * share + 0.5), rows);
        }
    }
    return MPQ_OK;
}

/* ---- rounding ---- */

/* One width of a layer at work. */
struct job {
    const struct mpq_levels *levels;
    const mpq_real *scale; /* [n_channel] */
    mpq_real *offset;      /* [n_param] to find */
};

/* One group of a layer, its k inputs taken in `order`, the strongest first. */
struct rounding {
    const struct mpq_layer *layer;
    struct job job;
    const mpq_real *w;   /* latent */
    const double *upper; /* [k, k] u with u^T u = (X^T X + damping)^-1, in order */
    const int32_t *order;
    int64_t k, first_channel;
    double *row; /* [thread][k] weights of the channel at work, as corrected so far */
};

static int64_t weight_index(const struct mpq_layer *layer, int64_t c, int64_t i)
{
    return (i / layer->n_inner * layer->n_channel + c) * layer->n_inner + i % layer->n_inner;
}

static void round_channels(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct rounding *r = arg;
    double *row = r->row + thread * r->k;
    for (int64_t c = r->first_channel + begin; c < r->first_channel + end; c++) {
        double scale = (double)r->job.scale[c];
        for (int64_t j = 0; j < r->k; j++)
            row[j] = (double)r->w[weight_index(r->layer, c, r->order[j])];
        for (int64_t j = 0; j < r->k; j++) {
            const double *u = r->upper + j * r->k;
            int8_t level = mpq_levels_nearest(r->job.levels, (mpq_real)(row[j] / scale));
            double step = (row[j] - level * scale) / u[j];
            int64_t at = weight_index(r->layer, c, r->order[j]);
            r->job.offset[at] = (mpq_real)(row[j] - (double)r->w[at]);
            for (int64_t i = j + 1; i < r->k; i++)
                row[i] -= step * u[i];
        }
    }
}

struct strength {
    double moment;
    int32_t input;
};

static int by_strength(const void *a, const void *b)
{
    const struct strength *x = a, *y = b;
    if (x->moment != y->moment)
        return x->moment > y->moment ? -1 : 1;
    return x->input < y->input ? -1 : 1;
}

/* Order the inputs and factorise the damped inverse of their moments; false where that fails. */
static bool factorise(const struct gram *gram, int64_t g, struct strength *strength, int32_t *order,
                      double *upper)
{
    int64_t k = gram->k;
    const mpq_real *moment = gram->moment + g * k * k;
    double mean = 0;
    for (int64_t i = 0; i < k; i++) {
        strength[i] = (struct strength){(double)moment[i * k + i], (int32_t)i};
        mean += strength[i].moment / (double)k;
    }
    if (!(mean > 0) || !isfinite(mean))
        return false;
    qsort(strength, (size_t)k, sizeof *strength, by_strength);
    for (int64_t i = 0; i < k; i++) {
        order[i] = strength[i].input;
        for (int64_t j = 0; j <= i; j++)
            upper[i * k + j] = (double)moment[(int64_t)order[i] * k + order[j]];
        upper[i * k + i] += 0.01 * mean;
    }
    return mpq_inverse_cholesky(k, upper);
}

/* out[c]: what the codes `to` add to the mean of output channel c over the codes `from`. */
static void mean_shift(const struct mpq_layer *layer, const struct gram *gram, const int8_t *from,
                       const int8_t *to, const mpq_real *scale, double *out)
{
    int64_t per_group = layer->n_channel / gram->n_group;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        const double *mean = gram->mean + c / per_group * gram->k;
        out[c] = 0;
        for (int64_t i = 0; i < gram->k; i++) {
            int64_t at = weight_index(layer, c, i);
            out[c] += (to[at] - from[at]) * mean[i];
        }
        out[c] *= (double)scale[c] / (double)gram->n_row;
    }
}

static enum mpq_status round_layer(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   const struct mpq_layer *layer, const mpq_real *w,
                                   const struct gram *gram, const struct job *job, int n_job)
{
    int64_t k = gram->k, per_group = layer->n_channel / gram->n_group;
    double *upper = mpq_arena_alloc(ctx, scratch, (size_t)(k * k), sizeof *upper);
    int32_t *order = mpq_arena_alloc(ctx, scratch, (size_t)k, sizeof *order);
    struct strength *strength = mpq_arena_alloc(ctx, scratch, (size_t)k, sizeof *strength);
    double *row = mpq_arena_alloc(ctx, scratch, (size_t)(k * mpq_thread_count()), sizeof *row);
    if (!upper || !order || !strength || !row)
        return MPQ_E_NOMEM;
    for (int64_t g = 0; g < gram->n_group; g++) {
        if (!factorise(gram, g, strength, order, upper))
            continue;
        for (int i = 0; i < n_job; i++) {
            struct rounding r = {layer, job[i], w, upper, order, k, g * per_group, row};
            mpq_parallel_for(per_group, 1, round_channels, &r);
        }
    }
    return MPQ_OK;
}

/* All widths of a layer of the supernet. */
static enum mpq_status round_widths(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_arena *scratch, const struct mpq_layer *layer,
                                    struct mpq_supernet_layer *net_layer, const struct gram *gram)
{
    struct job job[MPQ_N_BITS];
    int n_job = 0;
    size_t n_param = (size_t)layer->n_param, n_channel = (size_t)layer->n_channel;
    double *shift = mpq_arena_alloc(ctx, scratch, n_channel, sizeof *shift);
    int8_t *nearest = mpq_arena_alloc(ctx, scratch, n_param, 1);
    int8_t *rounded = mpq_arena_alloc(ctx, scratch, n_param, 1);
    mpq_real *target = mpq_arena_alloc(ctx, scratch, n_param, sizeof *target);
    if (!shift || !nearest || !rounded || !target)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        struct mpq_supernet_width *width = &net_layer->width[b];
        if (!(net_layer->candidates >> b & 1))
            continue;
        mpq_real *offset = mpq_arena_alloc(ctx, arena, n_param, sizeof *offset);
        mpq_real *scale = mpq_arena_alloc(ctx, scratch, n_channel, sizeof *scale);
        if (!offset || !scale)
            return MPQ_E_NOMEM;
        for (size_t c = 0; c < n_channel; c++)
            scale[c] = mpq_scale_round((float)width->scale[c]);
        job[n_job++] = (struct job){&width->levels, scale, offset};
    }
    MPQ_TRY(round_layer(ctx, scratch, layer, net_layer->w, gram, job, n_job));
    for (int i = 0; i < n_job; i++) {
        struct mpq_supernet_width *width = &net_layer->width[job[i].levels->bits];
        width->offset = job[i].offset;
        if (!width->bias)
            continue;
        for (size_t j = 0; j < n_param; j++)
            target[j] = net_layer->w[j] + job[i].offset[j];
        mpq_levels_encode(&width->levels, layer, net_layer->w, job[i].scale, nearest);
        mpq_levels_encode(&width->levels, layer, target, job[i].scale, rounded);
        mean_shift(layer, gram, nearest, rounded, job[i].scale, shift);
        for (size_t c = 0; c < n_channel; c++)
            width->bias[c] -= (mpq_real)shift[c];
    }
    return MPQ_OK;
}

static enum mpq_status round_all(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_arena *scratch, struct mpq_supernet *net,
                                 const struct source *source)
{
    const struct mpq_layer_table *layers = net->layers;
    struct mpq_arena *work = mpq_arena_create(ctx);
    struct gram *gram = mpq_arena_alloc(ctx, scratch, layers->n_layer, sizeof *gram);
    enum mpq_status status =
        work && gram ? gather(ctx, scratch, layers, source, gram) : MPQ_E_NOMEM;
    for (uint32_t l = 0; l < layers->n_layer && status == MPQ_OK; l++) {
        if (gram[l].moment && gram[l].n_row)
            status = round_widths(ctx, arena, work, &layers->layer[l], &net->layer[l], &gram[l]);
        if (status == MPQ_OK)
            mpq_arena_reset(work);
    }
    mpq_arena_free(work);
    return status;
}

enum mpq_status mpq_round_supernet(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_supernet *net, struct mpq_network *network,
                                   const mpq_node_id *layer_node, const struct mpq_samples *samples,
                                   const uint32_t *sample, uint32_t n)
{
    const struct source source = {network, layer_node, samples, sample, n};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++)
            net->layer[l].width[b].offset = NULL;
    for (uint32_t l = 0; l < net->layers->n_layer; l++)
        mpq_supernet_apply_layer(net, network->exec, l, mpq_bits_highest(net->layer[l].candidates));
    enum mpq_status status = round_all(ctx, arena, scratch, net, &source);
    mpq_arena_free(scratch);
    return status;
}
