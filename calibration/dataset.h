/* Inputs for calibration, tuning and evaluation. A source is one file (source_xxx.c) and one line
 * of source_list.inc; all look like this from outside: n samples, each one tensor for every graph
 * input, and perhaps a label. */
#ifndef MPQ_CALIBRATION_DATASET_H
#define MPQ_CALIBRATION_DATASET_H

#include "calibration/preprocess.h"
#include "quantcore/ir/graph.h"

struct mpq_dataset;

/* Open what `path` is: an .npz (arrays named like graph inputs, or `images` [n,H,W,C] uint8;
 * `labels` optional), an .npy (the only graph input), or a folder of JPEG and PNG pictures (sorted
 * by name; labels.csv with file,label beside them optional). `labels_path`, or NULL, is a CSV
 * (file,label or one label a row) or an .npy that takes precedence.
 *
 * `shape` [n_input] is what one batch of one sample looks like (first dimension 1, all known):
 * arrays either have its rank and are stacked along the first dimension, or one rank more and each
 * entry is a whole input. Arrays of another numeric type are converted to the input's. Checked now:
 * names, shapes, types, a usable array, NaN, labels within 0 .. n_class-1 (n_class 0: not checked),
 * pictures readable when read. Sentences name the path and the numbers. */
enum mpq_status mpq_dataset_open(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                 const char *labels_path, const struct mpq_graph *graph,
                                 const struct mpq_shape *shape, int64_t n_class,
                                 const struct mpq_preprocess *preprocess,
                                 struct mpq_dataset **out) MPQ_CHECKED;

/* What the samples at `path` tell about dimensions of `shape` [n_input] that are unknown (-1), the
 * first excepted; the others stay. Arrays tell their own, pictures theirs or the crop's. */
enum mpq_status mpq_dataset_guess(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                  const struct mpq_graph *graph,
                                  const struct mpq_preprocess *preprocess,
                                  struct mpq_shape *shape) MPQ_CHECKED;

/* Samples drawn from N(0,1) (floats) or uniformly from 0..7 (integers); those of inputs that take
 * pictures are smooth over height and width and have the spectrum of pictures. For users without
 * data. A function of ctx->seed and the sample's number. */
enum mpq_status mpq_dataset_synthetic(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, const struct mpq_shape *shape,
                                      uint32_t n_sample, struct mpq_dataset **out) MPQ_CHECKED;

uint32_t mpq_dataset_count(const struct mpq_dataset *dataset);
bool mpq_dataset_has_labels(const struct mpq_dataset *dataset);
int64_t mpq_dataset_label(const struct mpq_dataset *dataset, uint32_t sample);

/* Whether the samples are pictures that were preprocessed, for which input, and how it holds them.
 */
bool mpq_dataset_pictures(const struct mpq_dataset *dataset, uint32_t *out_input,
                          struct mpq_picture_layout *out);

/* Write samples index[0..n) into `input` [n_input], tensors with data whose first dimension is n
 * times that of one sample; a scalar input stays one element, in which the samples must agree
 * (SHAPE). Pictures are decoded on first use and kept cropped as bytes. Runs on all threads. */
enum mpq_status mpq_dataset_read(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                 const uint32_t *index, uint32_t n,
                                 struct mpq_tensor *const *input) MPQ_CHECKED;

/* Do on all threads what reading these samples takes but once. Afterwards several threads may read
 * them at the same time. */
enum mpq_status mpq_dataset_prepare(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                                    const uint32_t *index, uint32_t n) MPQ_CHECKED;

#endif
