/* Scores of allocations by forward passes on fixed samples: what the search asks for. */
#ifndef MPQ_SUPERNET_EVALUATE_H
#define MPQ_SUPERNET_EVALUATE_H

#include "quantcore/supernet/prefix.h"
#include "quantcore/supernet/supernet.h"

struct mpq_evaluator {
    const struct mpq_supernet *net;
    struct mpq_network *network;       /* [n_network] the fake-quantized graph, created with
                                          keep_all unless mpq_evaluate_samples() is all       */
    const struct mpq_targets *targets; /* on the samples that decide                          */
    const mpq_node_id *layer_node;     /* [n_layer] each layer's node in network->graph       */
    void **input;                      /* [n_batch * n_input] the samples, read once          */
    struct mpq_prefixes *prefixes;     /* of mpq_evaluate_samples(); NULL: none are kept      */
    uint32_t n_network; /* of which mpq_evaluate_samples() runs batches at once; 0: one       */
};

enum mpq_status mpq_evaluator_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                     const struct mpq_supernet *net, struct mpq_network *network,
                                     const struct mpq_samples *samples,
                                     const struct mpq_targets *targets,
                                     const mpq_node_id *layer_node,
                                     struct mpq_evaluator *out) MPQ_CHECKED;

/* From now on mpq_evaluate_samples() keeps in `room`, in up to max_bytes, what it computed for the
 * first layers, and takes it where it would be the same. The supernet must not change; bits are
 * then [n_layer + n_group], the groups' being what act_quant [n_group], which the FakeQuant nodes
 * read, says at the time. Until evaluator->prefixes is NULL again. */
enum mpq_status mpq_evaluator_keep_prefixes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                            struct mpq_room *room, struct mpq_evaluator *evaluator,
                                            const struct mpq_act_quant *act_quant, uint32_t n_group,
                                            size_t max_bytes) MPQ_CHECKED;

/* out_first [n_group]: the first FakeQuant node that reads each of act_quant [n_group], n_node of
 * the graph where none does. */
void mpq_evaluator_group_nodes(const struct mpq_evaluator *evaluator,
                               const struct mpq_act_quant *act_quant, uint32_t n_group,
                               mpq_node_id *out_first);

/* Mean expected loss (supernet/network.h) of the allocation against the float model; and that of
 * each sample, out_sample_loss [targets->n_sample]. */
enum mpq_status mpq_evaluate(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                             const uint8_t *bits, double *out_loss) MPQ_CHECKED;
enum mpq_status mpq_evaluate_samples(struct mpq_ctx *ctx, struct mpq_evaluator *evaluator,
                                     const uint8_t *bits, double *out_sample_loss) MPQ_CHECKED;

/* What evaluations are made of: the samples in batches of network->batch, the last of which may
 * have fewer; load one, then run it from node `first` on, the nodes before it having run: its loss,
 * summed over its samples. */
uint32_t mpq_evaluator_batches(const struct mpq_evaluator *evaluator);
uint32_t mpq_evaluator_batch_size(const struct mpq_evaluator *evaluator, uint32_t batch);
void mpq_evaluator_load(struct mpq_evaluator *evaluator, uint32_t batch);
double mpq_evaluator_run(struct mpq_evaluator *evaluator, uint32_t batch, mpq_node_id first);

#endif
