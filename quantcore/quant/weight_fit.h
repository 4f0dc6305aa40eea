/* A layer's weights on the levels of every width, by the weights alone: for models that cannot be
 * run, of whose inputs nothing is known. */
#ifndef MPQ_QUANT_WEIGHT_FIT_H
#define MPQ_QUANT_WEIGHT_FIT_H

#include "quantcore/quant/levels.h"

struct mpq_weight_fit {
    struct mpq_levels levels;
    mpq_real *scale; /* [n_channel] > 0, mpq_scale_round()ed                            */
    double error;    /* sum (w - wq)^2 / sum w^2: what the layer adds to the noise of its output
                        in units of the signal, if its inputs are alike and independent */
};

/* Levels and scales of one width, see mpq_levels_fit(), for weights w [n_param]. out->scale is
 * memory of the caller's. */
enum mpq_status mpq_weight_fit(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               const struct mpq_layer *layer, const mpq_real *w, int bits,
                               bool integers_only, struct mpq_weight_fit *out) MPQ_CHECKED;

/* The codes that go with it, in `arena`; bias NULL. */
enum mpq_status mpq_weight_fit_code(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_layer *layer, const mpq_real *w,
                                    const struct mpq_weight_fit *fit,
                                    struct mpq_layer_code *out) MPQ_CHECKED;

#endif
