/* The pipeline's last tuning: the allocation found, for itself alone. */
#include "cli/pipeline.h"

enum { PATIENCE = 3 };

struct watch {
    struct mpq_pipeline *p;
    struct mpq_evaluator evaluator; /* of the net as it is tuned, on the decide part */
    struct mpq_supernet best;
    double best_loss;
    uint32_t n_worse; /* looks since then */
};

/* Keeps the best net seen; stops where the samples held back gain nothing any more. */
static enum mpq_status look(struct mpq_ctx *ctx, void *arg, uint32_t step, bool *out_stop)
{
    struct watch *watch = arg;
    double loss;
    MPQ_TRY(mpq_evaluate(ctx, &watch->evaluator, watch->p->bits, &loss));
    mpq_log(ctx, MPQ_LOG_INFO, "specialized by %u steps: loss %.5f", step, loss);
    watch->n_worse++;
    if (loss < watch->best_loss) {
        watch->best_loss = loss;
        watch->n_worse = 0;
        mpq_supernet_assign(&watch->best, watch->evaluator.net);
    }
    *out_stop = watch->n_worse == PATIENCE;
    return MPQ_OK;
}

/* Tunes a copy of the net; what was best of it is in watch->best, p->net is as it was. */
static enum mpq_status tune(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_arena *scratch,
                            struct watch *watch)
{
    struct mpq_supernet net;
    struct mpq_tune_result result;
    /* Weights at four times the rate of a family's, whose paths have to agree on them. */
    const struct mpq_tune_options options = {.weight_rate = 2e-4,
                                             .scale_rate = 2e-4,
                                             .bias_rate = 1e-4,
                                             .watch = look,
                                             .watch_arg = watch};
    MPQ_TRY(mpq_supernet_copy(ctx, scratch, &p->net, &net));
    for (uint32_t l = 0; l < p->layers.n_layer; l++)
        net.layer[l].candidates = net.layer[l].active = (mpq_bits_mask)(1u << p->bits[l]);
    watch->evaluator.net = &net;
    MPQ_TRY(mpq_pipeline_train(ctx, p, scratch, &net, options, &result));
    bool stop;
    return result.n_step < p->n_step ? MPQ_OK : look(ctx, watch, result.n_step, &stop);
}

static enum mpq_status specialize(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                  struct mpq_arena *scratch)
{
    struct mpq_search_result *found = &p->found;
    struct watch watch = {.p = p, .evaluator = p->evaluator, .best_loss = found->loss};
    double *loss = mpq_arena_alloc(ctx, p->arena, p->decide.n, sizeof *loss), error;
    if (!loss)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_supernet_copy(ctx, p->arena, &p->net, &watch.best));
    MPQ_TRY(tune(ctx, p, scratch, &watch));
    watch.evaluator.net = &watch.best;
    MPQ_TRY(mpq_evaluate_samples(ctx, &watch.evaluator, p->bits, loss));
    double gain = mpq_search_mean(found->sample_loss, loss, p->decide.n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "tuning the allocation found for itself: loss %.5f to %.5f",
            found->loss, found->loss - gain);
    if (!(gain > error))
        return MPQ_OK;
    p->specializing_helped = true;
    p->net = watch.best;
    p->evaluator.net = &p->net;
    found->loss -= gain;
    found->sample_loss = loss;
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_specialize(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    p->has_specialized = true;
    enum mpq_status status = scratch ? specialize(ctx, p, scratch) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}
