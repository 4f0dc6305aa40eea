/* What a network answers to samples, kept so that it need not run again: the float model's answers
 * to those that report are the same for every budget. */
#ifndef MPQ_CLI_ANSWERS_H
#define MPQ_CLI_ANSWERS_H

#include "quantcore/ir/graph.h"

/* The first n_sample of n_room samples are known. */
struct mpq_answers {
    uint32_t n_room, n_sample, n_output;
    size_t *n_element;  /* [n_output] of a sample                                     */
    mpq_real **output;  /* [n_output] of all samples, one after the other             */
    uint64_t *input_id; /* [n_room] fingerprint of what the sample was                */
};

/* Room for the answers of n samples, output[i] [n_output] being those of `batch` at once; *out NULL
 * where they would take more than max_bytes. */
enum mpq_status mpq_answers_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   struct mpq_tensor *const *output, uint32_t n_output,
                                   uint32_t batch, uint32_t n, size_t max_bytes,
                                   struct mpq_answers **out) MPQ_CHECKED;

/* Whether the answers to samples [first, first + n) are known, which are the first n of the batch
 * that `input` [n_input] holds. NULL knows none. */
bool mpq_answers_know(const struct mpq_answers *answers, struct mpq_tensor *const *input,
                      uint32_t n_input, uint32_t batch, uint32_t first, uint32_t n);

/* Keep them: output [n_output] is what the batch was answered. Samples come in their order. */
void mpq_answers_keep(struct mpq_answers *answers, struct mpq_tensor *const *input,
                      uint32_t n_input, struct mpq_tensor *const *output, uint32_t batch,
                      uint32_t first, uint32_t n);

#endif
