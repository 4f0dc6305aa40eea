/* Running a graph over a dataset, in batches of a size the tool chooses. */
#ifndef MPQ_CLI_RUNNER_H
#define MPQ_CLI_RUNNER_H

#include "calibration/dataset.h"
#include "quantcore/engine/exec.h"

/* How many samples to run at once, a power of two, and the graph that takes them: `graph`, or one
 * that mpq_rebatch() made of it where the file fixes the first dimension at 1. The largest batch
 * whose buffers stay in the cache, or 2, is tried on real samples against one at a time; where the
 * results differ, or the shapes do not follow the batch, *out_batch is 1 and *out_graph is `graph`.
 * Trying takes no more than max_bytes (0: no limit); where two samples would, it is left out.
 * is_frugal: memory counts more than time, so batches are smaller, and where that leaves one sample
 * nothing is tried. *out_is_free: they do not differ, *out_graph takes any batch. */
enum mpq_status mpq_batch_choose(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_graph *graph, struct mpq_dataset *dataset,
                                 size_t max_bytes, bool is_frugal,
                                 const struct mpq_graph **out_graph, uint32_t *out_batch,
                                 bool *out_is_free) MPQ_CHECKED;

struct mpq_runner {
    const struct mpq_graph *graph;
    struct mpq_binding *binding; /* exec looks into it, so it does not move with this struct */
    struct mpq_exec *exec;
    uint32_t batch;
    struct mpq_tensor **input, **output; /* [n_input], [n_output], each of `batch` samples */
    int64_t *n_element;                  /* [n_output] of one sample                       */
    /* Where there are more of the same, one a thread, to run several batches at once: their execs,
     * inputs and outputs, the above being the first of them. */
    struct mpq_exec **all_exec;                    /* [n] */
    struct mpq_tensor ***all_input, ***all_output; /* [n] */
    uint32_t n;
};

/* `options` may be NULL; see mpq_exec_create(). Lives in `arena`. */
enum mpq_status mpq_runner_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_graph *graph, uint32_t batch,
                                  const struct mpq_exec_options *options,
                                  struct mpq_runner *out) MPQ_CHECKED;

/* The same for n_sample samples, as many batches of which run at once as there are threads. */
enum mpq_status mpq_runner_create_many(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_graph *graph, uint32_t batch,
                                       uint32_t n_sample, struct mpq_runner *out) MPQ_CHECKED;

/* What is called after each forward pass: the outputs' first n samples are those of index[0..n),
 * n <= runner->batch. The rest of a last, smaller batch repeats one of them. */
typedef enum mpq_status mpq_runner_fn(struct mpq_ctx *ctx, void *arg,
                                      const struct mpq_runner *runner, const uint32_t *index,
                                      uint32_t n);

/* Run samples index[0..n), or 0..n-1 where index is NULL, in order; `stage` is what progress
 * says. */
enum mpq_status mpq_runner_run(struct mpq_ctx *ctx, struct mpq_runner *runner,
                               struct mpq_dataset *dataset, const uint32_t *index, uint32_t n,
                               const char *stage, mpq_runner_fn *fn, void *arg) MPQ_CHECKED;

#endif
