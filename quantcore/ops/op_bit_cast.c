/* BitCast: the same bits under another type of the same size. */
#include "quantcore/ops/op_util.h"

static enum mpq_status bit_cast_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct mpq_node *node)
{
    return mpq_parse_int(ctx, arena, node, "to", 0);
}

/* FLOAT in memory is what is computed in, not always what the file has. */
static bool has_file_bits(enum mpq_dtype dtype)
{
    return mpq_dtype_bytes(dtype) * 8 == (size_t)mpq_dtype_bits(dtype);
}

static enum mpq_status bit_cast_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                      const struct mpq_tensor *const *x,
                                      struct mpq_tensor *const *y)
{
    int64_t to = mpq_parsed_int(node);
    if (to <= MPQ_UNDEFINED || to >= MPQ_N_DTYPE || to == MPQ_STRING || to == MPQ_BOOL ||
        mpq_dtype_bits((enum mpq_dtype)to) != mpq_dtype_bits(x[0]->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "%s to type %lld is not supported",
                             mpq_dtype_name(x[0]->dtype), (long long)to);
    if (!has_file_bits(x[0]->dtype) || !has_file_bits((enum mpq_dtype)to))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "the bits of %s are not kept",
                             mpq_dtype_name(x[0]->dtype));
    return mpq_infer_set(ctx, node, y[0], (enum mpq_dtype)to, &x[0]->shape);
}

const struct mpq_op mpq_op_bit_cast = {.name = "BitCast",
                                       .domain = "",
                                       .n_in_min = 1,
                                       .n_in_max = 1,
                                       .n_out_min = 1,
                                       .n_out_max = 1,
                                       .parse = bit_cast_parse,
                                       .infer = bit_cast_infer,
                                       .forward = mpq_forward_copy};
