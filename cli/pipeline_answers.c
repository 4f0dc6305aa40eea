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

struct asking {
    struct mpq_pipeline *p;
    struct mpq_tensor **output; /* [n_output] room */
};

static enum mpq_status keep(struct mpq_ctx *ctx, void *arg, const struct mpq_crew_turn *turn)
{
    struct asking *asking = arg;
    struct mpq_network *network = turn->network;
    const struct mpq_graph *graph = network->graph;
    (void)ctx;
    for (uint32_t i = 0; i < graph->n_output; i++)
        asking->output[i] = mpq_exec_tensor(network->exec, graph->output[i]);
    mpq_answers_keep(asking->p->answers, network->input, graph->n_input, asking->output,
                     network->batch, turn->first, turn->n);
    return MPQ_OK;
}

enum mpq_status mpq_pipeline_ask(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_crew *crew,
                                 uint32_t first)
{
    uint32_t n_output = p->run_graph->n_output;
    struct asking asking = {p, mpq_arena_alloc(ctx, p->arena, n_output, sizeof *asking.output)};
    if (!asking.output)
        return MPQ_E_NOMEM;
    return mpq_crew_run(ctx, crew, p->report.dataset, p->report.sample, first, p->report.n,
                        "float answers", keep, &asking);
}

enum mpq_status mpq_pipeline_answer(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct mpq_crew crew;
    MPQ_TRY(mpq_pipeline_room_for_answers(ctx, p, &p->answers));
    if (!p->answers)
        return MPQ_OK;
    MPQ_TRY(mpq_crew_of(ctx, p->arena, &p->float_network, &crew));
    return mpq_pipeline_ask(ctx, p, &crew, 0);
}
