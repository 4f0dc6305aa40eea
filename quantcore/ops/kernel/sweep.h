/* What forward and the gradient for x share: tiles over all places of a unit, stored as they come.
 */
#ifndef MPQ_OPS_KERNEL_SWEEP_H
#define MPQ_OPS_KERNEL_SWEEP_H

#include "quantcore/ops/kernel/stage.h"

/* The product of a group's rows a [n_row, n_k] with the staged planes at offset [n_k]. Row i goes
 * to channel i of the sink, which has n_channel an image. */
struct mpq_sweep {
    const struct mpq_stage *stage;
    int64_t n_row, n_k, n_channel;
    const mpq_real *a;
    const mpq_real *bias; /* [n_row], or NULL */
    const int64_t *offset;
    int64_t phase[3];              /* of the sink */
    bool add;                      /* to what the sink holds; then no bias */
    const struct mpq_clamp *clamp; /* of the result, or NULL */
    bool is_bytes;                 /* as struct mpq_conv */

    /* Where short rows leave many places without an output, and there are rows enough to pay for
     * it, the outputs' places are first gathered into a panel. NULL: they are not. */
    mpq_real *panel;             /* mpq_sweep_panel() elements                 */
    const int64_t *panel_offset; /* [n_k] as mpq_sweep_panel_offsets() sets it */
};

/* `to`: the sink, from the unit's first image and the group's first channel on. */
void mpq_sweep_unit(const struct mpq_sweep *sweep, const struct mpq_unit *unit,
                    const mpq_real *staged, mpq_real *to);

/* Elements of a panel for at most n_k products, 0 where gathering does not pay. */
int64_t mpq_sweep_panel(const struct mpq_stage *stage, int64_t n_row, int64_t n_k);
void mpq_sweep_panel_offsets(int64_t n_k, int64_t *out);

/* How many of `left` vectors to take into a tile: three, but two of the last four. */
int mpq_sweep_vectors(int64_t left);

#endif
