/* Networks of one graph, one a thread, each of which runs batches of its own: where a batch is
 * small that keeps threads busier than sharing out the loops of every node does. What has run is
 * looked at on the same thread, in the order of the samples, so what comes of it does not depend on
 * how many networks there are. */
#ifndef MPQ_CLI_CREW_H
#define MPQ_CLI_CREW_H

#include "calibration/dataset.h"
#include "quantcore/supernet/network.h"

struct mpq_crew {
    struct mpq_network *network; /* [n] */
    uint32_t *wanted;            /* [n * batch] room */
    uint32_t n, batch;
    const mpq_node_id *pause; /* [n_pause] ascending: nodes before which a pass is looked at;
                                 NULL: it is when it is over */
    uint32_t n_pause;
    const uint32_t *behind; /* [n_pause + 1] a stretch is looked at once the batch before has been
                               at that one; NULL: at the same */
};

/* No more networks than threads, or than it takes to run n_sample samples at once. Lives in
 * `arena`. */
enum mpq_status mpq_crew_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_graph *graph, uint32_t batch, uint32_t n_sample,
                                const struct mpq_exec_options *options,
                                struct mpq_crew *out) MPQ_CHECKED;

/* Of one network, which is there already. */
enum mpq_status mpq_crew_of(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_network *network, struct mpq_crew *out) MPQ_CHECKED;

/* A network that has run its nodes [from, to): its first n samples are those from `first` on. Of
 * different stretches several may be looked at at once, on lanes below crew->n. */
struct mpq_crew_turn {
    struct mpq_network *network;
    uint32_t first, n;
    mpq_node_id from, to;
    int lane;
};
typedef enum mpq_status mpq_crew_fn(struct mpq_ctx *ctx, void *arg,
                                    const struct mpq_crew_turn *turn);

/* Run samples sample[first..n); the rest of a last, smaller batch repeats its first sample. `stage`
 * is what progress says. */
enum mpq_status mpq_crew_run(struct mpq_ctx *ctx, struct mpq_crew *crew,
                             struct mpq_dataset *dataset, const uint32_t *sample, uint32_t first,
                             uint32_t n, const char *stage, mpq_crew_fn *fn, void *arg) MPQ_CHECKED;

/* How many batches run at once where n_sample samples do. */
uint32_t mpq_crew_size(uint32_t batch, uint32_t n_sample);

/* Read samples index[0..n), n <= batch, into input [n_input]; the rest of the batch repeats the
 * first. `wanted` [batch] then has all their numbers. */
enum mpq_status mpq_crew_read(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                              const uint32_t *index, uint32_t n, uint32_t batch,
                              struct mpq_tensor *const *input, uint32_t *wanted) MPQ_CHECKED;

#endif
