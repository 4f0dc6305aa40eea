/* What the float model answers to the samples that report, so that it is asked once. */
#include <math.h>

#include "cli/pipeline.h"

/* Room for what the runs over n samples answer, which have the outputs of the float model; *out
 * NULL where it would be more than `most`. */
static enum mpq_status make_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t n,
                                    size_t most, struct mpq_answers **out)
{
    const struct mpq_graph *graph = p->run_graph;
    struct mpq_tensor **output;
    MPQ_TRY(mpq_exec_tensors(ctx, p->arena, p->float_network.exec, graph->output, graph->n_output,
                             &output));
    return mpq_answers_create(ctx, p->arena, output, graph->n_output, p->batch, n,
                              mpq_memory_cache(p, most), out);
}

/* In memory, and in a checkpoint. */
static const size_t most_kept = (size_t)256 << 20, most_stored = (size_t)16 << 20;

enum mpq_status mpq_pipeline_make_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t n,
                                          struct mpq_answers **out)
{
    return make_answers(ctx, p, n, most_kept, out);
}

enum mpq_status mpq_pipeline_keep_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    return p->answers ? MPQ_OK : make_answers(ctx, p, p->report.n, most_kept, &p->answers);
}

enum mpq_status mpq_pipeline_room_for_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                              struct mpq_answers **out)
{
    return make_answers(ctx, p, p->report.n, most_stored, out);
}

enum mpq_status mpq_pipeline_ask(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                 struct mpq_tensor *const *output, uint32_t first)
{
    struct mpq_network *network = &p->float_network;
    const struct mpq_graph *graph = network->graph;
    struct mpq_samples samples = mpq_pipeline_samples(&p->report);
    for (; first < p->report.n; first += p->batch) {
        uint32_t left = p->report.n - first, n = left < p->batch ? left : p->batch;
        MPQ_TRY(mpq_step(ctx, "float answers", first, p->report.n, (double)NAN));
        MPQ_TRY(mpq_network_read(ctx, network, &samples, p->report.sample + first, n));
        mpq_exec_forward(network->exec, 0, graph->n_node);
        mpq_answers_keep(p->answers, network->input, graph->n_input, output, p->batch, first, n);
    }
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_answer(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_network *network = &p->float_network;
    const struct mpq_graph *graph = network->graph;
    struct mpq_tensor **output;
    MPQ_TRY(mpq_pipeline_room_for_answers(ctx, p, &p->answers));
    MPQ_TRY(
        mpq_exec_tensors(ctx, p->arena, network->exec, graph->output, graph->n_output, &output));
    return p->answers ? mpq_pipeline_ask(ctx, p, output, 0) : MPQ_OK;
}
