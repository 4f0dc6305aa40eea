#include "cli/paper_refine.h"

enum { DRAWS = 4 }; /* changes of a sample */

static enum mpq_status measure(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    double error;
    MPQ_TRY(mpq_evaluate_samples(ctx, &p->evaluator, p->bits, p->found.sample_loss));
    p->found.loss = mpq_search_mean(p->found.sample_loss, NULL, p->decide.n, &error);
    return MPQ_OK;
}

enum mpq_status mpq_paper_measure(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_samples samples = mpq_pipeline_samples(&p->decide);
    p->problem.n_sample = p->decide.n;
    p->found.sample_loss =
        mpq_arena_alloc(ctx, p->arena, p->decide.n, sizeof *p->found.sample_loss);
    if (!p->found.sample_loss)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_targets_create(ctx, p->arena, &p->float_network, &samples, p->decide.sample,
                               p->decide.n, &p->decide_targets));
    MPQ_TRY(mpq_evaluator_create(ctx, p->arena, &p->net, &p->fake_network, &samples,
                                 &p->decide_targets, p->layer_node, &p->evaluator));
    return measure(ctx, p);
}

/* Loss of both nets on each sample of the decide part, summed over n_draw changes of it. */
static enum mpq_status compare(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               struct mpq_pipeline *p, const struct mpq_paper_change *change,
                               uint32_t n_draw, const struct mpq_supernet *const net[2],
                               double *const loss[2])
{
    struct mpq_network network;
    struct mpq_paper_batch batch;
    const struct mpq_paper_truth truth = {.targets = &p->decide_targets};
    struct mpq_samples samples = mpq_pipeline_samples(&p->decide);
    MPQ_TRY(mpq_network_create(ctx, scratch, p->fake_graph, p->batch,
                               &(struct mpq_exec_options){.keep = NULL}, &network));
    MPQ_TRY(mpq_paper_batch_create(ctx, scratch, &network, &truth, change, &batch));
    uint32_t n_batch = (n_draw * p->decide.n + p->batch - 1) / p->batch;
    for (uint32_t step = 0; step < n_batch; step++) {
        MPQ_TRY(mpq_paper_batch_read(ctx, &batch, &network, &samples, MPQ_STREAM_SEARCH, step));
        for (int i = 0; i < 2; i++) {
            mpq_supernet_apply(net[i], network.exec, p->bits);
            mpq_exec_forward(network.exec, 0, network.graph->n_node);
            mpq_paper_batch_add_losses(&batch, &network, loss[i]);
        }
    }
    return MPQ_OK;
}

static enum mpq_status refine(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                              struct mpq_pipeline *p, const struct mpq_paper_change *change)
{
    uint32_t n_draw = change ? DRAWS : 1;
    struct mpq_supernet refined;
    double *loss[] = {mpq_arena_alloc(ctx, scratch, p->decide.n, sizeof(double)),
                      mpq_arena_alloc(ctx, scratch, p->decide.n, sizeof(double))};
    double error;
    if (!loss[0] || !loss[1])
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_pipeline_round(ctx, p, &p->net, p->bits, &refined));
    const struct mpq_supernet *const net[] = {&p->net, &refined};
    MPQ_TRY(compare(ctx, scratch, p, change, n_draw, net, loss));
    double gain = mpq_search_mean(loss[0], loss[1], p->decide.n, &error);
    mpq_log(ctx, MPQ_LOG_INFO, "rounding for the widths found: loss less by %.5f, error %.5f",
            gain / n_draw, error / n_draw);
    p->refining_helped = gain > error;
    if (!p->refining_helped)
        return MPQ_OK;
    p->net = refined;
    return measure(ctx, p);
}

enum mpq_status mpq_paper_refine(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                 const struct mpq_paper_change *change)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = refine(ctx, scratch, p, change);
    mpq_arena_free(scratch);
    return status;
}
