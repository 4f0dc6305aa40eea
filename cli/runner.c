#include "cli/runner.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "cli/crew.h"
#include "quantcore/base/relay.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/pass/pass.h"

#define MAX_BATCH 32 /* beyond it a GEMM gains nothing and memory grows */
/* What a batch may take a thread: about what stays in the cache from one node to the next, which is
 * worth more than longer products are (tests/bench/NOTES.md). */
#define TARGET_BYTES ((size_t)16 << 20)
/* Where passes are few, memory is what counts, and each thread runs batches of its own. */
#define FRUGAL_BYTES ((size_t)4 << 20)

/* runner.n execs, the first of which is the runner's own. */
static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct mpq_exec_options *options, struct mpq_runner runner,
                              struct mpq_runner *out)
{
    static const struct mpq_exec_options forward_only;
    const struct mpq_graph *graph = runner.graph;
    uint32_t batch = runner.batch;
    runner.binding = mpq_arena_alloc(ctx, arena, 1, sizeof *runner.binding);
    runner.all_exec = mpq_arena_alloc(ctx, arena, runner.n, sizeof(struct mpq_exec *));
    runner.all_input = mpq_arena_alloc(ctx, arena, runner.n, sizeof(struct mpq_tensor **));
    runner.all_output = mpq_arena_alloc(ctx, arena, runner.n, sizeof(struct mpq_tensor **));
    if (!runner.binding || !runner.all_exec || !runner.all_input || !runner.all_output)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_batch(ctx, arena, graph, batch, runner.binding));
    for (uint32_t i = 0; i < runner.n; i++) {
        struct mpq_exec **exec = &runner.all_exec[i];
        MPQ_TRY(mpq_exec_create(ctx, arena, graph, runner.binding,
                                options ? options : &forward_only, exec));
        MPQ_TRY(mpq_exec_tensors(ctx, arena, *exec, graph->input, graph->n_input,
                                 &runner.all_input[i]));
        MPQ_TRY(mpq_exec_tensors(ctx, arena, *exec, graph->output, graph->n_output,
                                 &runner.all_output[i]));
    }
    runner.exec = runner.all_exec[0];
    runner.input = runner.all_input[0];
    runner.output = runner.all_output[0];
    runner.n_element = mpq_arena_alloc(ctx, arena, graph->n_output, sizeof(int64_t));
    if (!runner.n_element)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < graph->n_output; i++)
        runner.n_element[i] = mpq_shape_count(&runner.output[i]->shape) / batch;
    *out = runner;
    return MPQ_OK;
}

enum mpq_status mpq_runner_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, uint32_t batch,
                                  const struct mpq_exec_options *options, struct mpq_runner *out)
{
    return create(ctx, arena, options, (struct mpq_runner){.graph = graph, .batch = batch, .n = 1},
                  out);
}

enum mpq_status mpq_runner_create_many(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_graph *graph, uint32_t batch,
                                       uint32_t n_sample, struct mpq_runner *out)
{
    return create(
        ctx, arena, NULL,
        (struct mpq_runner){.graph = graph, .batch = batch, .n = mpq_crew_size(batch, n_sample)},
        out);
}

/* What the runner shows: its i-th exec and what is there. */
static struct mpq_runner show(const struct mpq_runner *runner, uint32_t i)
{
    struct mpq_runner one = *runner;
    one.exec = runner->all_exec[i];
    one.input = runner->all_input[i];
    one.output = runner->all_output[i];
    return one;
}

/* Samples index[0..n) on their way through the execs. */
struct run {
    const struct mpq_runner *runner;
    struct mpq_dataset *dataset;
    const uint32_t *index;
    uint32_t n;
    uint32_t *wanted; /* [runner->n * batch] room */
    const char *stage;
    mpq_runner_fn *fn;
    void *arg;
};

/* Of batch `piece` the first sample, and how many there are. */
static uint32_t first_of(const struct run *run, int64_t piece, uint32_t *out_n)
{
    uint32_t batch = run->runner->batch, first = (uint32_t)piece * batch, left = run->n - first;
    *out_n = left < batch ? left : batch;
    return first;
}

static enum mpq_status run_batch(struct mpq_ctx *ctx, void *arg, int64_t piece, int lane,
                                 uint32_t step)
{
    const struct run *run = arg;
    const struct mpq_runner *runner = run->runner;
    uint32_t n, first = first_of(run, piece, &n);
    (void)step;
    MPQ_TRY(mpq_step(ctx, run->stage, first, run->n, (double)NAN));
    MPQ_TRY(mpq_crew_read(ctx, run->dataset, run->index + first, n, runner->batch,
                          runner->all_input[lane], run->wanted + (uint32_t)lane * runner->batch));
    mpq_exec_forward(runner->all_exec[lane], 0, runner->graph->n_node);
    return MPQ_OK;
}

static enum mpq_status show_batch(struct mpq_ctx *ctx, void *arg, int64_t piece, int lane,
                                  uint32_t step)
{
    const struct run *run = arg;
    const struct mpq_runner shown = show(run->runner, (uint32_t)lane);
    uint32_t n;
    first_of(run, piece, &n);
    (void)step;
    return run->fn(ctx, run->arg, &shown, run->wanted + (uint32_t)lane * shown.batch, n);
}

static enum mpq_status run_all(struct mpq_ctx *ctx, const struct mpq_runner *runner,
                               struct run *run)
{
    MPQ_TRY(mpq_dataset_prepare(ctx, run->dataset, run->index, run->n));
    return mpq_relay_run(ctx, &(struct mpq_relay){.n = (run->n + runner->batch - 1) / runner->batch,
                                                  .n_lane = (int)runner->n,
                                                  .is_serial = !mpq_gemm_is_concurrent(),
                                                  .n_step = 1,
                                                  .work = run_batch,
                                                  .turn = show_batch,
                                                  .arg = run});
}

enum mpq_status mpq_runner_run(struct mpq_ctx *ctx, struct mpq_runner *runner,
                               struct mpq_dataset *dataset, const uint32_t *index, uint32_t n,
                               const char *stage, mpq_runner_fn *fn, void *arg)
{
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    uint32_t *wanted = mpq_arena_alloc(ctx, scratch, runner->n * runner->batch, sizeof *wanted);
    uint32_t *number = mpq_arena_alloc(ctx, scratch, n, sizeof *number);
    for (uint32_t i = 0; number && i < n; i++)
        number[i] = index ? index[i] : i;
    struct run run = {runner, dataset, number, n, wanted, stage, fn, arg};
    enum mpq_status status = wanted && number ? run_all(ctx, runner, &run) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    return status;
}

/* ---- the batch ---- */

/* Whether tensors at batch n are n times those at batch 1 along the first dimension. */
static bool follows_batch(struct mpq_tensor *const *one, struct mpq_tensor *const *many,
                          uint32_t n_tensor, int64_t n)
{
    for (uint32_t i = 0; i < n_tensor; i++) {
        struct mpq_shape expected = one[i]->shape;
        if (!expected.rank)
            return false;
        expected.dim[0] *= n;
        if (!mpq_shape_equal(&expected, &many[i]->shape))
            return false;
    }
    return true;
}

/* Error and variation of one output over the samples of a batch. */
struct batch_error {
    double error, variation, energy;
};

/* Add |many - one|^2, |one - first|^2 and |one|^2, where `first` is the first sample's output. */
static void add_error(struct batch_error *sum, const struct mpq_tensor *one,
                      const struct mpq_tensor *many, uint32_t sample, const double *first)
{
    int64_t n = mpq_shape_count(&one->shape);
    for (int64_t i = 0; i < n; i++) {
        double value = mpq_tensor_double(one, i);
        double error = mpq_tensor_double(many, sample * n + i) - value;
        sum->error += error * error;
        sum->variation += (value - first[i]) * (value - first[i]);
        sum->energy += value * value;
    }
}

/* The right answers, rounded differently, differ far less than answers to different samples do; a
 * QDQ model may round a few values to the next step, so the bound is no tighter than 25 dB. */
static bool is_same_answer(const struct batch_error *sum)
{
    return sum->error <= 3e-3 * sum->variation + 1e-9 * sum->energy;
}

/* The outputs of samples 0 .. batch-1 at once (in `many` already) against one at a time. */
static enum mpq_status compare_with_single(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                           struct mpq_runner *one, const struct mpq_runner *many,
                                           struct mpq_dataset *dataset, bool *out_same)
{
    uint32_t n_output = one->graph->n_output;
    struct batch_error *sum = mpq_arena_alloc(ctx, scratch, n_output, sizeof *sum);
    double **first = mpq_arena_alloc(ctx, scratch, n_output, sizeof(double *));
    if (!sum || !first)
        return MPQ_E_NOMEM;
    for (uint32_t sample = 0; sample < many->batch; sample++) {
        MPQ_TRY(mpq_step(ctx, "batch check", sample, many->batch, (double)NAN));
        MPQ_TRY(mpq_dataset_read(ctx, dataset, &sample, 1, one->input));
        mpq_exec_forward(one->exec, 0, one->graph->n_node);
        for (uint32_t i = 0; i < n_output; i++) {
            const struct mpq_tensor *y = one->output[i];
            if (!sample) {
                first[i] = mpq_arena_alloc(ctx, scratch, one->n_element[i], sizeof(double));
                if (!first[i])
                    return MPQ_E_NOMEM;
                for (int64_t e = 0; e < one->n_element[i]; e++)
                    first[i][e] = mpq_tensor_double(y, e);
            }
            add_error(&sum[i], y, many->output[i], sample, first[i]);
        }
    }
    *out_same = true;
    for (uint32_t i = 0; i < n_output; i++)
        *out_same = *out_same && is_same_answer(&sum[i]);
    return MPQ_OK;
}

/* Whether `graph` at this batch answers as `one` does. A graph that cannot be bound or run at the
 * batch is an answer too, not a failure. */
static enum mpq_status check_batch(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                   struct mpq_runner *one, const struct mpq_graph *graph,
                                   uint32_t batch, struct mpq_dataset *dataset, bool *out_same)
{
    struct mpq_runner many;
    uint32_t index[MAX_BATCH];
    *out_same = false;
    enum mpq_status status = mpq_runner_create(ctx, scratch, graph, batch, NULL, &many);
    if (status == MPQ_E_SHAPE || status == MPQ_E_UNSUPPORTED || status == MPQ_E_LIMIT) {
        mpq_ctx_clear(ctx);
        return MPQ_OK;
    }
    MPQ_TRY(status);
    if (!follows_batch(one->input, many.input, graph->n_input, batch) ||
        !follows_batch(one->output, many.output, graph->n_output, batch))
        return MPQ_OK;
    for (uint32_t i = 0; i < batch; i++)
        index[i] = i;
    MPQ_TRY(mpq_dataset_read(ctx, dataset, index, batch, many.input));
    mpq_exec_forward(many.exec, 0, graph->n_node);
    return compare_with_single(ctx, scratch, one, &many, dataset, out_same);
}

/* One sample by itself runs beside the batch. */
static uint32_t affordable_batch(size_t bytes_of_one, uint32_t n_sample, size_t max_bytes,
                                 bool is_frugal)
{
    size_t target = is_frugal ? FRUGAL_BYTES : TARGET_BYTES * (size_t)mpq_thread_count();
    uint32_t batch = 1;
    while (2 * batch <= MAX_BATCH && 2 * batch <= n_sample && 2 * batch * bytes_of_one <= target &&
           (2 * batch + 1) * bytes_of_one <= max_bytes)
        batch *= 2;
    return batch;
}

static enum mpq_status try_batch(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                 const struct mpq_graph *graph, const struct mpq_graph *rebatched,
                                 struct mpq_dataset *dataset, size_t max_bytes, bool is_frugal,
                                 uint32_t *out_batch, bool *out_is_free)
{
    struct mpq_runner one;
    MPQ_TRY(mpq_runner_create(ctx, scratch, graph, 1, NULL, &one));
    uint32_t n_sample = mpq_dataset_count(dataset);
    max_bytes = max_bytes ? max_bytes : SIZE_MAX;
    uint32_t batch = affordable_batch(mpq_exec_bytes(one.exec), n_sample, max_bytes, is_frugal);
    bool same = true;
    if (mpq_exec_bytes(one.exec) > max_bytes / 3 || (is_frugal && batch == 1))
        n_sample = 1;
    if (n_sample > 1)
        MPQ_TRY(check_batch(ctx, scratch, &one, rebatched, batch > 1 ? batch : 2, dataset, &same));
    *out_batch = same ? batch : 1;
    *out_is_free = same && n_sample > 1;
    if (!same)
        mpq_log(ctx, MPQ_LOG_INFO,
                "samples run one at a time: the model gives other results for "
                "several at once");
    return MPQ_OK;
}

/* A scale taken from all samples of a batch is near enough to pass for that of each, but no more.
 */
static bool has_joint_range(const struct mpq_graph *graph)
{
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (mpq_node_is(&graph->node[n], "DynamicQuantizeLinear"))
            return true;
    return false;
}

enum mpq_status mpq_batch_choose(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_dataset *dataset,
                                 size_t max_bytes, bool is_frugal,
                                 const struct mpq_graph **out_graph, uint32_t *out_batch,
                                 bool *out_is_free)
{
    struct mpq_graph *rebatched;
    bool changed;
    uint32_t batch = 1;
    bool is_free = false;
    MPQ_TRY(mpq_rebatch(ctx, arena, graph, &rebatched, &changed));
    if (has_joint_range(graph)) {
        *out_graph = graph;
        *out_batch = 1;
        return MPQ_OK;
    }
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = try_batch(ctx, scratch, graph, changed ? rebatched : graph, dataset,
                                       max_bytes, is_frugal, &batch, &is_free);
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    *out_graph = is_free && changed ? rebatched : graph;
    *out_batch = batch;
    *out_is_free = is_free;
    return MPQ_OK;
}
