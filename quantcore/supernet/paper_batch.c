#include "quantcore/supernet/paper_batch.h"

#include <string.h>

static bool has_labels(const struct mpq_paper_truth *truth, uint32_t head)
{
    return truth->label && head == truth->scored;
}

static enum mpq_status create_answers(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_network *network, struct mpq_paper_batch *batch)
{
    struct mpq_loss *loss = &network->loss;
    batch->hard = mpq_arena_alloc(ctx, arena, loss->n_head, sizeof *batch->hard);
    batch->soft = mpq_arena_alloc(ctx, arena, loss->n_head, sizeof *batch->soft);
    if (!batch->hard || !batch->soft)
        return MPQ_E_NOMEM;
    for (uint32_t h = 0; h < loss->n_head; h++) {
        size_t n = network->batch * (size_t)loss->head[h].n_sample;
        batch->soft[h] = batch->hard[h] = mpq_arena_alloc(ctx, arena, n, sizeof **batch->soft);
        if (has_labels(batch->truth, h))
            batch->hard[h] = mpq_arena_alloc(ctx, arena, n, sizeof **batch->hard);
        if (!batch->soft[h] || !batch->hard[h])
            return MPQ_E_NOMEM;
        if (loss->head[h].kl_weight > 0)
            loss->head[h].mse_weight = 0;
    }
    return MPQ_OK;
}

enum mpq_status mpq_paper_batch_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_network *network,
                                       const struct mpq_paper_truth *truth,
                                       const struct mpq_paper_change *change,
                                       struct mpq_paper_batch *out)
{
    struct mpq_paper_batch batch = {.truth = truth, .change = change};
    batch.order = mpq_arena_alloc(ctx, arena, truth->targets->n_sample, sizeof *batch.order);
    batch.row = mpq_arena_alloc(ctx, arena, network->batch, sizeof *batch.row);
    batch.sample = mpq_arena_alloc(ctx, arena, network->batch, sizeof *batch.sample);
    if (!batch.order || !batch.row || !batch.sample)
        return MPQ_E_NOMEM;
    if (change) {
        const struct mpq_augment *a = &change->augment;
        size_t size = (size_t)(a->height * a->width * a->channels);
        batch.picture = mpq_arena_alloc(ctx, arena, size, sizeof *batch.picture);
        if (!batch.picture)
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_network_create(ctx, arena, change->float_graph, network->batch,
                                   &(struct mpq_exec_options){.keep = NULL}, &batch.teacher));
    }
    MPQ_TRY(create_answers(ctx, arena, network, &batch));
    *out = batch;
    return MPQ_OK;
}

/* Classes as logits: softmax gives 1 for the label and 0 for all others. */
static void write_label(mpq_real *row, int64_t n_class, int32_t label)
{
    const mpq_real certain = 1000;
    for (int64_t c = 0; c < n_class; c++)
        row[c] = c == label ? certain : 0;
}

/* Change the pictures that network has read, and ask the float model about them. */
static void augment(struct mpq_ctx *ctx, struct mpq_paper_batch *batch, struct mpq_network *network,
                    uint64_t step)
{
    const struct mpq_augment *a = &batch->change->augment;
    mpq_augment(a, ctx->seed, step, network->batch, network->input[a->input]->data, batch->picture);
    mpq_network_copy_inputs(network, &batch->teacher);
    mpq_exec_forward(batch->teacher.exec, 0, batch->teacher.graph->n_node);
}

/* The next samples of an order that is drawn anew whenever it is used up. */
static void choose_rows(const struct mpq_ctx *ctx, struct mpq_paper_batch *batch, uint32_t n_batch,
                        enum mpq_rng_stream stream, uint64_t step)
{
    const struct mpq_targets *targets = batch->truth->targets;
    uint32_t n = targets->n_sample;
    uint64_t at = step * n_batch;
    for (uint32_t i = 0; i < n_batch; i++, at++) {
        if (i == 0 || at % n == 0)
            mpq_rng_permutation(ctx->seed, stream, at / n, n, batch->order);
        batch->row[i] = batch->order[at % n];
        batch->sample[i] = targets->sample[batch->row[i]];
    }
}

enum mpq_status mpq_paper_batch_read(struct mpq_ctx *ctx, struct mpq_paper_batch *batch,
                                     struct mpq_network *network, const struct mpq_samples *samples,
                                     enum mpq_rng_stream stream, uint64_t step)
{
    const struct mpq_paper_truth *truth = batch->truth;
    choose_rows(ctx, batch, network->batch, stream, step);
    MPQ_TRY(mpq_network_read(ctx, network, samples, batch->sample, network->batch));
    if (batch->change)
        augment(ctx, batch, network, step);
    for (uint32_t h = 0; h < network->loss.n_head; h++) {
        int64_t length = network->loss.head[h].n_sample;
        const mpq_real *answer =
            batch->change
                ? mpq_exec_tensor(batch->teacher.exec, batch->teacher.loss.head[h].value)->data
                : NULL;
        for (uint32_t i = 0; i < network->batch; i++) {
            const mpq_real *from =
                answer ? answer + i * length : truth->targets->target[h] + batch->row[i] * length;
            memcpy(batch->soft[h] + i * length, from, (size_t)length * sizeof *from);
            if (has_labels(truth, h))
                write_label(batch->hard[h] + i * length, length, truth->label[batch->row[i]]);
        }
    }
    return MPQ_OK;
}

void mpq_paper_batch_add_losses(const struct mpq_paper_batch *batch,
                                const struct mpq_network *network, double *loss)
{
    for (uint32_t h = 0; h < network->loss.n_head; h++) {
        const struct mpq_loss_head *head = &network->loss.head[h];
        const mpq_real *y = mpq_exec_tensor(network->exec, head->value)->data;
        for (uint32_t i = 0; i < network->batch; i++)
            loss[batch->row[i]] +=
                mpq_head_expected_loss(head, batch->truth->targets, h, y + i * head->n_sample,
                                       batch->soft[h] + i * head->n_sample, 0, NULL);
    }
}
