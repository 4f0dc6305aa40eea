#include "quantcore/supernet/network.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"

enum { MAX_BATCH = 4096, LOSS_GRAIN = 1 << 17 };

/* The options with heads that survive the forward pass and take the seeds; for the graph as bound
 * in `network`, whose heads are found. */
static enum mpq_status add_heads(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_network *network, struct mpq_exec_options *options)
{
    const struct mpq_graph *graph = network->graph;
    MPQ_TRY(mpq_bind_batch(ctx, arena, graph, network->batch, &network->binding));
    MPQ_TRY(mpq_loss_create(ctx, arena, graph, &network->binding, network->batch, &network->loss));
    bool *keep = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *keep);
    bool *seed = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *seed);
    if (!keep || !seed)
        return MPQ_E_NOMEM;
    if (options->keep)
        memcpy(keep, options->keep, graph->n_value * sizeof *keep);
    if (options->seed)
        memcpy(seed, options->seed, graph->n_value * sizeof *seed);
    for (uint32_t h = 0; h < network->loss.n_head; h++)
        keep[network->loss.head[h].value] = seed[network->loss.head[h].value] = true;
    options->keep = keep;
    options->seed = seed;
    return MPQ_OK;
}

enum mpq_status mpq_network_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_graph *graph, uint32_t batch,
                                   const struct mpq_exec_options *options, struct mpq_network *out)
{
    struct mpq_network network = {.graph = graph, .batch = batch};
    struct mpq_exec_options with_heads = *options;
    MPQ_TRY(add_heads(ctx, arena, &network, &with_heads));
    MPQ_TRY(mpq_exec_create(ctx, arena, graph, &network.binding, &with_heads, &network.exec));
    MPQ_TRY(
        mpq_exec_tensors(ctx, arena, network.exec, graph->input, graph->n_input, &network.input));
    *out = network;
    return MPQ_OK;
}

static enum mpq_status measure(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               struct mpq_network *network, struct mpq_exec_options options,
                               size_t *out_bytes, double *out_again)
{
    MPQ_TRY(add_heads(ctx, scratch, network, &options));
    return mpq_exec_measure(ctx, network->graph, &network->binding, &options, out_bytes, out_again);
}

enum mpq_status mpq_network_measure(struct mpq_ctx *ctx, const struct mpq_graph *graph,
                                    uint32_t batch, const struct mpq_exec_options *options,
                                    size_t *out_bytes, double *out_again)
{
    struct mpq_network network = {.graph = graph, .batch = batch};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? measure(ctx, scratch, &network, *options, out_bytes, out_again) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}

enum mpq_status mpq_network_read(struct mpq_ctx *ctx, struct mpq_network *network,
                                 const struct mpq_samples *samples, const uint32_t *index,
                                 uint32_t n)
{
    uint32_t full[MAX_BATCH];
    MPQ_ASSERT(n > 0 && n <= network->batch && network->batch <= MAX_BATCH);
    for (uint32_t i = 0; i < network->batch; i++)
        full[i] = index[i < n ? i : n - 1];
    return samples->read(ctx, samples->arg, full, network->batch, network->input);
}

void mpq_network_copy_inputs(const struct mpq_network *from, struct mpq_network *to)
{
    for (uint32_t i = 0; i < from->graph->n_input; i++)
        memcpy(to->input[i]->data, from->input[i]->data, mpq_tensor_bytes(to->input[i]));
}

static double variance_of(const mpq_real *x, int64_t n)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++)
        square += ((double)x[i] - mean) * ((double)x[i] - mean);
    return square > 0 ? square / (double)n : 1;
}

/* Room for references of head h, fewer the more columns there are. */
static enum mpq_status create_references(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                         const struct mpq_loss_head *head, uint32_t h,
                                         struct mpq_targets *targets)
{
    const int64_t most_elements = 1 << 18, least = 16;
    int64_t n_row = targets->n_sample * (head->n_sample / head->n_column), n;
    if (!(head->kl_weight > 0))
        return MPQ_OK;
    n = most_elements / head->n_column > least ? most_elements / head->n_column : least;
    n = n < MPQ_MAX_REFERENCES ? n : MPQ_MAX_REFERENCES;
    n = n < n_row ? n : n_row;
    return mpq_references_create(ctx, arena, n, head->n_column, &targets->references[h]);
}

enum mpq_status mpq_targets_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_loss *loss, const uint32_t *sample,
                                  uint32_t n_sample, struct mpq_targets *out)
{
    struct mpq_targets targets = {.n_sample = n_sample, .sample = sample};
    targets.target = mpq_arena_alloc(ctx, arena, loss->n_head, sizeof *targets.target);
    targets.variance = mpq_arena_alloc(ctx, arena, loss->n_head, sizeof *targets.variance);
    targets.references = mpq_arena_alloc(ctx, arena, loss->n_head, sizeof *targets.references);
    if (!targets.target || !targets.variance || !targets.references)
        return MPQ_E_NOMEM;
    for (uint32_t h = 0; h < loss->n_head; h++) {
        size_t count = (size_t)n_sample * (size_t)loss->head[h].n_sample;
        targets.target[h] = mpq_arena_alloc(ctx, arena, count, sizeof **targets.target);
        if (!targets.target[h])
            return MPQ_E_NOMEM;
        MPQ_TRY(create_references(ctx, arena, &loss->head[h], h, &targets));
    }
    *out = targets;
    return MPQ_OK;
}

enum mpq_status mpq_targets_take(struct mpq_ctx *ctx, const struct mpq_network *network,
                                 uint32_t first, uint32_t n, struct mpq_targets *targets)
{
    for (uint32_t h = 0; h < network->loss.n_head; h++) {
        const struct mpq_loss_head *head = &network->loss.head[h];
        const mpq_real *y = mpq_exec_tensor(network->exec, head->value)->data;
        int64_t count = n * head->n_sample;
        memcpy(targets->target[h] + first * head->n_sample, y, (size_t)count * sizeof *y);
        for (int64_t i = 0; i < count; i++)
            if (!isfinite(y[i]))
                return mpq_fail(ctx, MPQ_E_NUMERIC,
                                "the float model's output '%s' is not finite on sample %u",
                                network->graph->value[head->value].name,
                                targets->sample[first + (uint32_t)(i / head->n_sample)]);
    }
    return MPQ_OK;
}

void mpq_targets_end(const struct mpq_loss *loss, struct mpq_targets *targets)
{
    for (uint32_t h = 0; h < loss->n_head; h++) {
        const struct mpq_loss_head *head = &loss->head[h];
        int64_t count = targets->n_sample * head->n_sample;
        targets->variance[h] = variance_of(targets->target[h], count);
        if (targets->references[h].n)
            mpq_references_take(&targets->references[h], targets->target[h],
                                count / head->n_column);
    }
}

enum mpq_status mpq_targets_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_network *network, const struct mpq_samples *samples,
                                   const uint32_t *sample, uint32_t n_sample,
                                   struct mpq_targets *out)
{
    MPQ_TRY(mpq_targets_begin(ctx, arena, &network->loss, sample, n_sample, out));
    for (uint32_t begin = 0; begin < n_sample; begin += network->batch) {
        uint32_t n = n_sample - begin < network->batch ? n_sample - begin : network->batch;
        MPQ_TRY(mpq_step(ctx, "float outputs", begin, n_sample, NAN));
        MPQ_TRY(mpq_network_read(ctx, network, samples, sample + begin, n));
        mpq_exec_forward(network->exec, 0, network->graph->n_node);
        MPQ_TRY(mpq_targets_take(ctx, network, begin, n, out));
    }
    mpq_targets_end(&network->loss, out);
    return MPQ_OK;
}

double mpq_head_expected_loss(const struct mpq_loss_head *head, const struct mpq_targets *targets,
                              uint32_t h, const mpq_real *y, const mpq_real *target,
                              double gradient_scale, mpq_real *dy)
{
    struct mpq_loss_head scaled = *head;
    int64_t n_row = head->n_sample / head->n_column;
    double scale = dy ? gradient_scale : 1, kl = 0;
    scaled.kl_weight *= scale;
    scaled.mse_weight *= scale;
    if (targets->references[h].n) {
        double factor = scaled.kl_weight / (double)n_row;
        kl = factor * mpq_expected_kl(&targets->references[h], y, target, n_row, factor, dy);
        scaled.kl_weight = 0;
    }
    return (kl + mpq_loss_head_value(&scaled, y, target, 1, targets->variance[h], dy)) / scale;
}

double mpq_network_loss_macs(const struct mpq_loss *loss, const struct mpq_targets *targets)
{
    const double in_double = 3; /* of the network's, in float, for one of these */
    double sum = 0;
    for (uint32_t h = 0; h < loss->n_head; h++)
        sum += in_double * (double)loss->head[h].n_sample * (double)(1 + targets->references[h].n);
    return sum;
}

/* Losses of a batch that a network has just run, sample by sample. */
struct batch_loss {
    const struct mpq_network *network;
    const struct mpq_targets *targets;
    const uint32_t *row; /* [n] the targets they answer for; NULL: first and those that follow */
    uint32_t first;
    bool is_expected;
    double gradient_scale; /* 0: none is wanted                                     */
    double *out;           /* [n] += */
};

static void add_losses(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct batch_loss *b = arg;
    const struct mpq_targets *targets = b->targets;
    (void)thread;
    for (uint32_t h = 0; h < b->network->loss.n_head; h++) {
        const struct mpq_loss_head *head = &b->network->loss.head[h];
        const mpq_real *y = mpq_exec_tensor(b->network->exec, head->value)->data;
        mpq_real *dy = b->gradient_scale > 0 ? mpq_exec_grad(b->network->exec, head->value) : NULL;
        for (int64_t i = begin; i < end; i++) {
            int64_t at = i * head->n_sample, row = b->row ? b->row[i] : b->first + i;
            const mpq_real *target = targets->target[h] + row * head->n_sample;
            b->out[i] +=
                b->is_expected
                    ? mpq_head_expected_loss(head, targets, h, y + at, target, b->gradient_scale,
                                             dy ? dy + at : NULL)
                    : mpq_loss_head_value(head, y + at, target, 1, targets->variance[h], NULL);
        }
    }
}

static void find_losses(struct batch_loss *b, uint32_t n)
{
    double macs = mpq_network_loss_macs(&b->network->loss, b->targets);
    memset(b->out, 0, n * sizeof *b->out);
    mpq_parallel_for(n, 1 + (int64_t)(LOSS_GRAIN / macs), add_losses, b);
}

double mpq_network_loss(struct mpq_network *network, const struct mpq_targets *targets,
                        const uint32_t *row, uint32_t n, double gradient_scale)
{
    double loss[MAX_BATCH], sum = 0;
    MPQ_ASSERT(n <= MAX_BATCH);
    find_losses(&(struct batch_loss){.network = network,
                                     .targets = targets,
                                     .row = row,
                                     .is_expected = true,
                                     .gradient_scale = gradient_scale / n,
                                     .out = loss},
                n);
    for (uint32_t i = 0; i < n; i++)
        sum += loss[i] / n;
    return sum;
}

enum mpq_status mpq_pair_loss_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_loss *loss, uint32_t n_sample,
                                    struct mpq_pair_loss *out)
{
    size_t n = (size_t)loss->n_head * n_sample;
    *out = (struct mpq_pair_loss){n_sample, mpq_arena_alloc(ctx, arena, n, sizeof(double)),
                                  mpq_arena_alloc(ctx, arena, n, sizeof(double)),
                                  mpq_arena_alloc(ctx, arena, loss->n_head, sizeof(double)),
                                  mpq_arena_alloc(ctx, arena, loss->n_head, sizeof(double))};
    return out->kl && out->mse && out->sum && out->power ? MPQ_OK : MPQ_E_NOMEM;
}

void mpq_pair_loss_add(const struct mpq_network *in_float, const struct mpq_network *other,
                       uint32_t first, uint32_t n, struct mpq_pair_loss *pair)
{
    for (uint32_t h = 0; h < in_float->loss.n_head; h++) {
        struct mpq_loss_head kl = in_float->loss.head[h], mse = kl;
        const mpq_real *want = mpq_exec_tensor(in_float->exec, kl.value)->data;
        const mpq_real *y = mpq_exec_tensor(other->exec, other->loss.head[h].value)->data;
        kl.mse_weight = mse.kl_weight = 0;
        for (uint32_t i = 0; i < n; i++, want += kl.n_sample, y += kl.n_sample) {
            pair->kl[h * pair->n_sample + first + i] =
                mpq_loss_head_value(&kl, y, want, 1, 1, NULL);
            pair->mse[h * pair->n_sample + first + i] =
                mpq_loss_head_value(&mse, y, want, 1, 1, NULL);
            for (int64_t j = 0; j < kl.n_sample; j++) {
                pair->sum[h] += (double)want[j];
                pair->power[h] += (double)want[j] * (double)want[j];
            }
        }
    }
}

void mpq_pair_loss_end(const struct mpq_loss *loss, const struct mpq_pair_loss *pair,
                       double *out_loss)
{
    memset(out_loss, 0, pair->n_sample * sizeof *out_loss);
    for (uint32_t h = 0; h < loss->n_head; h++) {
        double n = (double)pair->n_sample * (double)loss->head[h].n_sample;
        double mean = pair->sum[h] / n, variance = pair->power[h] / n - mean * mean;
        variance = variance > 0 ? variance : 1;
        for (uint32_t i = 0; i < pair->n_sample; i++)
            out_loss[i] +=
                pair->kl[h * pair->n_sample + i] + pair->mse[h * pair->n_sample + i] / variance;
    }
}

void mpq_network_sample_loss(const struct mpq_network *network, const struct mpq_targets *targets,
                             uint32_t first, uint32_t n, double *out_loss)
{
    find_losses(&(struct batch_loss){network, targets, NULL, first, false, 0, out_loss}, n);
}

void mpq_network_expected_loss(const struct mpq_network *network, const struct mpq_targets *targets,
                               uint32_t first, uint32_t n, double *out_loss)
{
    find_losses(&(struct batch_loss){network, targets, NULL, first, true, 0, out_loss}, n);
}
