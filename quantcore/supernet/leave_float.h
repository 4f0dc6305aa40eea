/* Which activations are left float: those that cost far more than others do, where few products
 * lose their integer kernels by it. */
#ifndef MPQ_SUPERNET_LEAVE_FLOAT_H
#define MPQ_SUPERNET_LEAVE_FLOAT_H

#include "quantcore/pass/pass.h"
#include "quantcore/supernet/network.h"

/* A group is not left float for less than this share of the noise of all. */
#define MPQ_LEAVE_FLOAT_SHARE 0.02

/* What the network, with activations as they are quantized now, adds to the float model's outputs:
 * the mean square in units of their variance, added over the outputs and averaged over the samples.
 * Unlike the loss it adds up over independent errors, however large they are. */
enum mpq_status mpq_output_noise(struct mpq_ctx *ctx, struct mpq_network *network,
                                 const struct mpq_samples *samples,
                                 const struct mpq_targets *targets, double *out) MPQ_CHECKED;

struct mpq_leave_float {
    const struct mpq_graph *graph; /* what the three that follow are of */
    const struct mpq_binding *binding;
    const struct mpq_layer_table *layers;
    const struct mpq_act_plan *plan; /* with nothing left float, and outputs only where read */
    double max_macs;  /* share of the layers' multiplications that may run in float */
    double min_share; /* of the noise of all that a group must make by itself, > 0   */

    /* Where noise is measured: activations quantized, weights as they are. */
    struct mpq_network *network;
    struct mpq_act_quant *act_quant; /* [n_group] what FakeQuant nodes read; ends as it began */
    const struct mpq_samples *samples;
    const struct mpq_targets *targets;
};

/* Which group comes next: the one that takes most of the noise for its share of the
 * multiplications, or the one that takes most. Either alone can be far from the best: by the room
 * that is left at the end, or by what many cheap ones would have taken. */
enum mpq_float_order { MPQ_FLOAT_CHEAPEST, MPQ_FLOAT_LARGEST, MPQ_N_FLOAT_ORDER };

/* out_stays_float[order] [n_value]. One group after the other, and with each all groups whose
 * kernels go with it, as long as it takes at least min_share of what all make, and no less a share
 * of that than the multiplications that become float are of all. A group's noise is that of
 * quantizing it alone. Sets of groups are halved, and one that makes too little is not looked into.
 */
enum mpq_status mpq_leave_float(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                const struct mpq_leave_float *problem,
                                bool *const out_stays_float[MPQ_N_FLOAT_ORDER]) MPQ_CHECKED;

#endif
