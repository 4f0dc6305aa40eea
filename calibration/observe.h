/* What calibration learns from running the float model: the distribution of every value that will
 * be quantized, and how strongly each layer's inputs speak. One streaming pass, constant memory. */
#ifndef MPQ_CALIBRATION_OBSERVE_H
#define MPQ_CALIBRATION_OBSERVE_H

#include "quantcore/engine/exec.h"
#include "quantcore/quant/histogram.h"

struct mpq_observer {
    const struct mpq_layer_table *layers;
    const struct mpq_act_plan *plan;
    struct mpq_histogram *histogram; /* [n_group] */
    struct mpq_layer_stats *stats;   /* [n_layer] */
    uint64_t *n_seen;                /* [n_layer] output elements seen so far */
    bool *keep; /* [n_value] values that must be kept for observing, for mpq_exec_create */
    /* Of one call of mpq_observer_add(): who does what, and how much. */
    int *group_strand, *layer_strand; /* [n_group], [n_layer]; -1: nobody */
    double *load;                     /* [threads] */
    bool *is_bad;                     /* [n_value] found not to be finite */
};

enum mpq_status mpq_observer_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph,
                                    const struct mpq_layer_table *layers,
                                    const struct mpq_act_plan *plan,
                                    struct mpq_observer *out) MPQ_CHECKED;

/* Add what nodes [from, to) have made of the batch that `exec` runs forward, the graph's inputs
 * with from 0; of layers, where they answer. The batch's samples from n on repeat the first, whose
 * extremes must not count as those of several samples. NUMERIC, naming the value, where one is NaN
 * or infinite. Runs on all threads; several may call it at once for values of different groups and
 * different layers. */
enum mpq_status mpq_observer_add(struct mpq_ctx *ctx, struct mpq_observer *observer,
                                 const struct mpq_graph *graph, struct mpq_exec *exec,
                                 mpq_node_id from, mpq_node_id to, uint32_t batch,
                                 uint32_t n) MPQ_CHECKED;

/* Activation quantization of every group in that form, out_quant [n_group]. */
void mpq_observer_ranges(const struct mpq_observer *observer, struct mpq_act_form form,
                         struct mpq_act_quant *out_quant);

#endif
