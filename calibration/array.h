/* Arrays of samples that feed graph inputs as they are but for their element type. */
#ifndef MPQ_CALIBRATION_ARRAY_H
#define MPQ_CALIBRATION_ARRAY_H

#include "calibration/rows.h"

/* Whether an array of this shape holds samples of `input` (one sample: type and shape): of the same
 * rank, samples stacked along the first dimension, or of one rank more, each entry a whole input.
 * SHAPE, with both shapes, where it does not; `where` names the array, `input_name` the input. */
enum mpq_status mpq_array_match(struct mpq_ctx *ctx, const char *where,
                                const struct mpq_tensor *array, const char *input_name,
                                const struct mpq_tensor *input, uint32_t *out_n_sample) MPQ_CHECKED;

/* Unknown dimensions of an input, but for the first, as an array of that shape has them. */
void mpq_array_guess(const struct mpq_shape *array, struct mpq_shape *input);

/* NUMERIC, with sample, element and value, where a value is not finite as a float or does not exist
 * in an integer input's type. On all threads. */
enum mpq_status mpq_array_check(struct mpq_ctx *ctx, const char *where,
                                const struct mpq_rows *array, const struct mpq_tensor *input,
                                uint32_t n_sample) MPQ_CHECKED;

/* Sample of a checked array -> y, one sample with data. */
enum mpq_status mpq_array_copy(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                               const struct mpq_rows *array, uint32_t sample,
                               struct mpq_tensor *y) MPQ_CHECKED;

#endif
