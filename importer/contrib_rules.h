/* The rules of contrib.c, one an operator: the node is translated, or false and nothing is made. */
#ifndef MPQ_IMPORTER_CONTRIB_RULES_H
#define MPQ_IMPORTER_CONTRIB_RULES_H

#include "importer/contrib_job.h"

/* contrib_fused.c */
bool mpq_contrib_bias_gelu(struct mpq_job *job);
bool mpq_contrib_fast_gelu(struct mpq_job *job);
bool mpq_contrib_fused_conv(struct mpq_job *job);
bool mpq_contrib_fused_gemm(struct mpq_job *job);
bool mpq_contrib_fused_matmul(struct mpq_job *job);
bool mpq_contrib_gelu(struct mpq_job *job);
bool mpq_contrib_quick_gelu(struct mpq_job *job);

/* contrib_norm.c */
bool mpq_contrib_embed_layer_normalization(struct mpq_job *job);
bool mpq_contrib_simplified(struct mpq_job *job);
bool mpq_contrib_skip_layer_normalization(struct mpq_job *job);
bool mpq_contrib_skip_simplified(struct mpq_job *job);

/* contrib_integer.c */
bool mpq_contrib_dynamic_quantize_lstm(struct mpq_job *job);
bool mpq_contrib_dynamic_quantize_matmul(struct mpq_job *job);
bool mpq_contrib_gather_block_quantized(struct mpq_job *job);
bool mpq_contrib_matmul_integer_to_float(struct mpq_job *job);
bool mpq_contrib_matmul_nbits(struct mpq_job *job);
bool mpq_contrib_qlinear_where(struct mpq_job *job);

/* contrib_attention.c */
bool mpq_contrib_attention(struct mpq_job *job);
bool mpq_contrib_group_query_attention(struct mpq_job *job);
bool mpq_contrib_multi_head_attention(struct mpq_job *job);
bool mpq_contrib_qattention(struct mpq_job *job);
bool mpq_contrib_rotary_embedding(struct mpq_job *job);

/* scale * (a b) + bias of integers in = {a, b, zero points or NULL}; bias may be NULL. */
char *mpq_make_scaled_product(struct mpq_job *job, char *to, char *const in[4], char *scale,
                              char *bias);

#endif
