/* Samples for users without data, made to fit the model. */
#ifndef MPQ_CALIBRATION_SYNTHESIZE_H
#define MPQ_CALIBRATION_SYNTHESIZE_H

#include "calibration/dataset.h"

/* `graph` as imported, BatchNormalization still in it; `shape` as for mpq_dataset_open(). The
 * samples start as mpq_dataset_synthetic() makes them and are then changed until the inputs of the
 * BatchNormalization nodes have the mean and variance that are stored there, and outputs that are
 * scores of classes speak for one. Where there is no such node, or no gradient reaches the inputs
 * from it, or it would take minutes, the result is mpq_dataset_synthetic() of n_sample; a matched
 * dataset has at most 128, fewer for large models. A function of
 * ctx->seed; progress stage "synthesize". */
enum mpq_status mpq_dataset_synthesize(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_graph *graph, const struct mpq_shape *shape,
                                       uint32_t n_sample, struct mpq_dataset **out) MPQ_CHECKED;

#endif
