/* The class of every sample, from an array or a CSV file. */
#ifndef MPQ_CALIBRATION_LABELS_H
#define MPQ_CALIBRATION_LABELS_H

#include "quantcore/ir/tensor.h"

/* An array of n_sample whole numbers of any numeric type, [n] or [n,1]. FORMAT otherwise; `where`
 * names it. */
enum mpq_status mpq_labels_from_array(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const char *where, const struct mpq_tensor *array,
                                      uint32_t n_sample, const int64_t **out_label) MPQ_CHECKED;

/* The file at `path`: an .npy as above, or a CSV whose rows are either one label each, in the order
 * of the samples, or file,label (more columns are ignored) for the samples called sample_name[i],
 * whose folders do not count. A first row whose label is no number is a header. sample_name is NULL
 * where samples have no names. FORMAT names row or sample. */
enum mpq_status mpq_labels_read(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                const char *const *sample_name, uint32_t n_sample,
                                const int64_t **out_label) MPQ_CHECKED;

/* FORMAT, with sample, label and n_class, for the first label outside 0..n_class-1. */
enum mpq_status mpq_labels_check(struct mpq_ctx *ctx, const char *where, const int64_t *label,
                                 const char *const *sample_name, uint32_t n_sample,
                                 int64_t n_class) MPQ_CHECKED;

#endif
