#include "quantcore/pass/fuse_match.h"

#include <math.h>

/* Operators through which QuantizeLinear moves up and DequantizeLinear moves down. */
static const char *const movers[] = {"MaxPool", "Reshape",   "Slice",
                                     "Squeeze", "Transpose", "Unsqueeze"};

const struct mpq_tensor *mpq_fuse_constant_of(const struct mpq_fuser *f, mpq_value_id v)
{
    return v == MPQ_NO_VALUE ? NULL : f->to->value[v].constant;
}

static mpq_value_id input_of(const struct mpq_node *node, uint32_t i)
{
    return i < node->n_in ? node->in[i] : MPQ_NO_VALUE;
}

bool mpq_fuse_is_mover(const struct mpq_node *node)
{
    for (size_t i = 0; i < MPQ_COUNT(movers); i++)
        if (mpq_node_is(node, movers[i]))
            return node->op && node->n_out == 1;
    return false;
}

bool mpq_fuse_is_eight_bits(enum mpq_dtype dtype)
{
    return dtype == MPQ_INT8 || dtype == MPQ_UINT8;
}

bool mpq_fuse_is_plain(const struct mpq_fuser *f, const struct mpq_node *node, bool may_have_axis)
{
    const struct mpq_tensor *scale = mpq_fuse_constant_of(f, input_of(node, 1));
    mpq_value_id zero_id = input_of(node, 2);
    const struct mpq_tensor *zero = mpq_fuse_constant_of(f, zero_id);
    if (!scale || scale->dtype != MPQ_FLOAT || (zero_id != MPQ_NO_VALUE && !zero) ||
        mpq_attr_int(&node->attr_set, "block_size", 0) != 0)
        return false;
    bool is_one = mpq_shape_count(&scale->shape) == 1;
    return is_one || (may_have_axis && scale->shape.rank == 1);
}

bool mpq_fuse_is_scalar(const struct mpq_fuser *f, const struct mpq_origin *o)
{
    return mpq_shape_count(&mpq_fuse_constant_of(f, o->scale)->shape) == 1;
}

static enum mpq_dtype quantized_type(const struct mpq_fuser *f, const struct mpq_node *q)
{
    const struct mpq_tensor *zero = mpq_fuse_constant_of(f, input_of(q, 2));
    int64_t named = mpq_attr_int(&q->attr_set, "output_dtype", MPQ_UNDEFINED);
    return zero ? zero->dtype : named ? (enum mpq_dtype)named : MPQ_UINT8;
}

bool mpq_fuse_is_shiftable(const struct mpq_fuser *f, const struct mpq_node *q)
{
    mpq_node_id reader = mpq_uses_single(&f->uses, q->out[0]);
    const struct mpq_tensor *zero = mpq_fuse_constant_of(f, input_of(q, 2));
    if (!zero || zero->dtype != MPQ_INT8 || !mpq_fuse_is_plain(f, q, false) ||
        reader == MPQ_NO_NODE)
        return false;
    const struct mpq_node *dq = &f->from->node[reader];
    const struct mpq_tensor *dq_zero = mpq_fuse_constant_of(f, input_of(dq, 2));
    mpq_value_id y = dq->out[0];
    return mpq_node_dequantizes(dq) && mpq_fuse_is_plain(f, dq, false) && dq_zero &&
           mpq_tensor_int(dq_zero, 0) == mpq_tensor_int(zero, 0) &&
           f->uses.first[y + 1] - f->uses.first[y] + f->uses.is_output[y] == 1;
}

enum mpq_dtype mpq_fuse_made_type(const struct mpq_fuser *f, const struct mpq_node *q)
{
    return f->shifted[q->out[0]] == MPQ_NO_VALUE ? quantized_type(f, q) : MPQ_UINT8;
}

mpq_value_id mpq_fuse_made_zero(const struct mpq_fuser *f, const struct mpq_node *q)
{
    mpq_value_id shifted = f->shifted[q->out[0]];
    return shifted == MPQ_NO_VALUE ? input_of(q, 2) : shifted;
}

mpq_value_id mpq_fuse_read_zero(const struct mpq_fuser *f, const struct mpq_node *dq)
{
    mpq_value_id shifted = f->shifted[dq->in[0]];
    return shifted == MPQ_NO_VALUE ? input_of(dq, 2) : shifted;
}

static double zero_value(const struct mpq_fuser *f, mpq_value_id zero)
{
    return zero == MPQ_NO_VALUE ? 0 : mpq_tensor_double(mpq_fuse_constant_of(f, zero), 0);
}

bool mpq_fuse_is_inverse(const struct mpq_fuser *f, const struct mpq_node *q,
                         const struct mpq_origin *o)
{
    if (o->q == MPQ_NO_VALUE || !mpq_fuse_is_plain(f, q, false) || !mpq_fuse_is_scalar(f, o) ||
        mpq_fuse_made_type(f, q) != o->dtype)
        return false;
    return mpq_tensor_double(mpq_fuse_constant_of(f, q->in[1]), 0) ==
               mpq_tensor_double(mpq_fuse_constant_of(f, o->scale), 0) &&
           zero_value(f, mpq_fuse_made_zero(f, q)) == zero_value(f, o->zero);
}

static bool clip_bound(const struct mpq_fuser *f, const struct mpq_node *clip, uint32_t i,
                       double absent, double *out)
{
    mpq_value_id v = input_of(clip, i);
    const struct mpq_tensor *bound = mpq_fuse_constant_of(f, v);
    *out = bound ? mpq_tensor_double(bound, 0) : absent;
    return v == MPQ_NO_VALUE || bound;
}

/* Whether what the Relu or Clip cuts off, the QuantizeLinear behind it would cut off as well. */
static bool is_redundant(const struct mpq_fuser *f, const struct mpq_node *clip,
                         const struct mpq_node *q)
{
    enum mpq_dtype dtype = quantized_type(f, q);
    double low, high, zero = zero_value(f, input_of(q, 2));
    double least = dtype == MPQ_INT8 ? -128 : dtype == MPQ_INT16 ? -32768 : 0;
    double most = least + (mpq_fuse_is_eight_bits(dtype) ? 255 : 65535);
    double scale = mpq_tensor_double(mpq_fuse_constant_of(f, q->in[1]), 0);
    if (mpq_node_is(clip, "Relu"))
        return zero == least;
    return clip_bound(f, clip, 1, -INFINITY, &low) && clip_bound(f, clip, 2, INFINITY, &high) &&
           rint(low / scale) + zero <= least && rint(high / scale) + zero >= most;
}

/* The QuantizeLinear that is alone in reading v, movers between them; or NO_NODE. */
static mpq_node_id find_quantizer(const struct mpq_fuser *f, mpq_value_id v)
{
    for (;;) {
        mpq_node_id n = mpq_uses_single(&f->uses, v);
        if (n == MPQ_NO_NODE || f->from->node[n].in[0] != v)
            return MPQ_NO_NODE;
        if (mpq_node_quantizes(&f->from->node[n]))
            return n;
        if (!mpq_fuse_is_mover(&f->from->node[n]))
            return MPQ_NO_NODE;
        v = f->from->node[n].out[0];
    }
}

/* Whether a QuantizeLinear is among several readers of v, or v is an output besides. */
static bool has_mixed_readers(const struct mpq_fuser *f, mpq_value_id v)
{
    for (uint32_t i = f->uses.first[v]; i < f->uses.first[v + 1]; i++)
        if (mpq_node_quantizes(&f->from->node[f->uses.node[i]]))
            return true;
    return false;
}

bool mpq_fuse_find_tail(const struct mpq_fuser *f, const struct mpq_node *node,
                        struct mpq_tail *out)
{
    mpq_value_id y = node->out[0];
    mpq_node_id next = mpq_uses_single(&f->uses, y);
    *out = (struct mpq_tail){MPQ_NO_NODE, MPQ_NO_NODE, y};
    const struct mpq_node *reader = next == MPQ_NO_NODE ? NULL : &f->from->node[next];
    if (reader && (mpq_node_is(reader, "Relu") || mpq_node_is(reader, "Clip")) &&
        reader->in[0] == y && mpq_uses_single(&f->uses, reader->out[0]) != MPQ_NO_NODE) {
        out->clip = next;
        out->last = reader->out[0];
    }
    out->q = find_quantizer(f, out->last);
    if (out->q == MPQ_NO_NODE)
        return out->clip == MPQ_NO_NODE && !has_mixed_readers(f, y);
    const struct mpq_node *q = &f->from->node[out->q];
    return mpq_fuse_is_plain(f, q, false) &&
           (out->clip == MPQ_NO_NODE || is_redundant(f, &f->from->node[out->clip], q));
}

/* The left factor signed: then the right one too. */
static bool are_factors(const struct mpq_origin *a, const struct mpq_origin *b)
{
    return mpq_fuse_is_eight_bits(a->dtype) && mpq_fuse_is_eight_bits(b->dtype) &&
           (a->dtype != MPQ_INT8 || b->dtype == MPQ_INT8);
}

/* A weight's scale: one for all, or one an output channel, which runs along `axis`. */
static bool has_channels_on(const struct mpq_fuser *f, const struct mpq_origin *w, int64_t axis)
{
    const struct mpq_tensor *q = mpq_fuse_constant_of(f, w->q);
    int64_t given = w->axis < 0 && q ? w->axis + q->shape.rank : w->axis;
    return mpq_fuse_is_scalar(f, w) || given == axis;
}

/* No bias, or int32 in units of x_scale * w_scale. Off by up to a hundredth, ONNX Runtime takes one
 * for the other; further off it does not fuse. */
static bool is_bias(const struct mpq_fuser *f, const struct mpq_origin *in)
{
    const struct mpq_origin *bias = &in[2];
    if (bias->q == MPQ_NO_VALUE)
        return true;
    const struct mpq_tensor *unit = mpq_fuse_constant_of(f, bias->scale),
                            *w = mpq_fuse_constant_of(f, in[1].scale);
    int64_t n = mpq_shape_count(&unit->shape), n_w = mpq_shape_count(&w->shape);
    double x_scale = mpq_tensor_double(mpq_fuse_constant_of(f, in[0].scale), 0);
    if (bias->dtype != MPQ_INT32 || (n != n_w && n != 1 && n_w != 1))
        return false;
    for (int64_t i = 0; i < n || i < n_w; i++) {
        double want = x_scale * mpq_tensor_double(w, n_w == 1 ? 0 : i);
        if (fabs(mpq_tensor_double(unit, n == 1 ? 0 : i) - want) > 0.01 * fabs(want))
            return false;
    }
    return true;
}

bool mpq_fuse_is_fusible(const struct mpq_fuser *f, const struct mpq_node *node,
                         const struct mpq_fuse_rule *rule, const struct mpq_origin *in, uint32_t n,
                         enum mpq_dtype y)
{
    bool is_float = y == MPQ_FLOAT;
    for (uint32_t i = 0; i < n && rule->form != MPQ_FUSE_CONV && rule->form != MPQ_FUSE_GEMM; i++)
        if (in[i].q == MPQ_NO_VALUE || !mpq_fuse_is_eight_bits(in[i].dtype))
            return false;
    for (uint32_t i = 0; i < n && rule->form <= MPQ_FUSE_VARIADIC; i++)
        if (!mpq_fuse_is_scalar(f, &in[i]) || in[i].dtype != y)
            return false;
    if (rule->form <= MPQ_FUSE_VARIADIC)
        return n > 0 && !is_float;
    if (n < 2 || in[0].q == MPQ_NO_VALUE || in[1].q == MPQ_NO_VALUE ||
        !mpq_fuse_is_scalar(f, &in[0]) || !are_factors(&in[0], &in[1]) || !is_bias(f, in) ||
        (!is_float && in[0].dtype != y))
        return false;
    if (rule->form != MPQ_FUSE_GEMM && in[0].dtype == MPQ_INT8)
        return false;
    if (rule->form == MPQ_FUSE_CONV)
        return !is_float && has_channels_on(f, &in[1], 0);
    if (rule->form == MPQ_FUSE_MATMUL)
        return mpq_fuse_is_scalar(f, &in[1]) ||
               (mpq_fuse_constant_of(f, in[1].q) && in[1].axis != 0);
    return has_channels_on(f, &in[1], mpq_attr_int(&node->attr_set, "transB", 0) ? 0 : 1) &&
           (n < 3 || mpq_attr_float(&node->attr_set, "beta", 1) == 1);
}
