#include "importer/upgrade.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

#include "quantcore/ops/op.h"

/* One node on its way. Rules edit the node; `in` has room for MAX_IN inputs. */
#define MAX_IN 5
struct job {
    struct mpq_ctx *ctx;
    struct mpq_upgrade *upgrade;
    struct mpq_graph *graph;
    struct mpq_node node;
    mpq_value_id in[MAX_IN];
};

/* A node that its row refuses is carried, with the reason, like one without a row. */
static enum mpq_status resolve(struct job *job, struct mpq_node *node)
{
    enum mpq_status status = mpq_op_resolve(job->ctx, job->graph->arena, node);
    if (status != MPQ_E_UNSUPPORTED)
        return status;
    char sentence[sizeof job->ctx->message];
    memcpy(sentence, job->ctx->message, sizeof sentence);
    mpq_ctx_clear(job->ctx);
    const char *reason = strstr(sentence, "): ");
    node->op = NULL;
    node->refusal = mpq_arena_strdup(job->ctx, job->graph->arena, reason ? reason + 3 : sentence);
    return node->refusal ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status append(struct job *job, struct mpq_node *node)
{
    MPQ_TRY(resolve(job, node));
    MPQ_TRY(mpq_graph_add_node(job->ctx, job->graph, node, NULL));
    return mpq_trace_node(job->ctx, &job->upgrade->trace, job->graph, node);
}

static enum mpq_status drop_attr(struct job *job, const char *name)
{
    return mpq_attr_set_without(job->ctx, job->graph->arena, &job->node.attr_set, name,
                                &job->node.attr_set);
}

static enum mpq_status put_attr(struct job *job, const struct mpq_attr *attr)
{
    return mpq_attr_set_with(job->ctx, job->graph->arena, &job->node.attr_set, attr,
                             &job->node.attr_set);
}

static enum mpq_status put_string(struct job *job, const char *name, const char *value)
{
    const struct mpq_attr attr = {
        .name = name, .kind = MPQ_ATTR_STRING, .n = strlen(value), .s = value};
    return put_attr(job, &attr);
}

/* Make input i this value; the ones between that the node did not have are absent. */
static void put_input(struct job *job, uint32_t i, mpq_value_id value)
{
    MPQ_ASSERT(i < MAX_IN);
    if (job->node.in != job->in) {
        memcpy(job->in, job->node.in, job->node.n_in * sizeof *job->in);
        job->node.in = job->in;
    }
    while (job->node.n_in <= i)
        job->in[job->node.n_in++] = MPQ_NO_VALUE;
    job->in[i] = value;
}

static enum mpq_status new_value(struct job *job, const char *suffix, mpq_value_id *out)
{
    char *stem = mpq_arena_printf(job->ctx, job->graph->arena, "%s_%s",
                                  job->graph->value[job->node.out[0]].name, suffix);
    return stem ? mpq_graph_add_unique(job->ctx, job->graph, stem, out) : MPQ_E_NOMEM;
}

/* Make input i a new constant, named after the node's output. */
static enum mpq_status put_constant(struct job *job, uint32_t i, const char *suffix,
                                    const struct mpq_tensor *tensor)
{
    char *stem = mpq_arena_printf(job->ctx, job->graph->arena, "%s_%s",
                                  job->graph->value[job->node.out[0]].name, suffix);
    mpq_value_id id;
    if (!stem)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_graph_add_constant(job->ctx, job->graph, stem, tensor, &id));
    put_input(job, i, id);
    return MPQ_OK;
}

static enum mpq_status put_ints(struct job *job, uint32_t i, const char *suffix,
                                const int64_t *values, size_t n)
{
    int64_t *copy = mpq_arena_copy(job->ctx, job->graph->arena, values, n * sizeof *copy);
    if (!copy)
        return MPQ_E_NOMEM;
    const struct mpq_tensor tensor = {MPQ_INT64, MPQ_SHAPE((int64_t)n), copy};
    return put_constant(job, i, suffix, &tensor);
}

/* A scalar of the element type of input 0, which the operator wants the constant to have. */
static enum mpq_status put_scalar(struct job *job, uint32_t i, const char *suffix, double value)
{
    enum mpq_dtype dtype = mpq_trace_get(&job->upgrade->trace, job->graph, job->node.in[0]).dtype;
    struct mpq_tensor tensor;
    const struct mpq_shape scalar = {.rank = 0};
    if (dtype == MPQ_UNDEFINED)
        dtype = MPQ_FLOAT;
    MPQ_TRY(mpq_tensor_alloc(job->ctx, job->graph->arena, dtype, &scalar, &tensor));
    mpq_tensor_set_double(&tensor, 0, value);
    return put_constant(job, i, suffix, &tensor);
}

/* Attribute `name` (INTS) becomes input i. Absent: no such input. */
static enum mpq_status ints_to_input(struct job *job, const char *name, uint32_t i)
{
    const struct mpq_attr *attr = mpq_attr_find(&job->node.attr_set, name);
    if (!attr)
        return MPQ_OK;
    if (attr->kind != MPQ_ATTR_INTS && attr->kind != MPQ_ATTR_OPAQUE) /* as an empty list is */
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT,
                             "the attribute '%s' is no list of integers", name);
    size_t n;
    const int64_t *values = mpq_attr_ints(&job->node.attr_set, name, &n);
    MPQ_TRY(put_ints(job, i, name, values, n));
    return drop_attr(job, name);
}

static enum mpq_status axes_to_input(struct job *job)
{
    return ints_to_input(job, "axes", 1);
}

static enum mpq_status split_to_input(struct job *job)
{
    return ints_to_input(job, "split", 1);
}

static enum mpq_status clip(struct job *job)
{
    double low = (double)mpq_attr_float(&job->node.attr_set, "min", -FLT_MAX);
    double high = (double)mpq_attr_float(&job->node.attr_set, "max", FLT_MAX);
    if (low > -(double)FLT_MAX)
        MPQ_TRY(put_scalar(job, 1, "min", low));
    if (high < (double)FLT_MAX)
        MPQ_TRY(put_scalar(job, 2, "max", high));
    MPQ_TRY(drop_attr(job, "min"));
    return drop_attr(job, "max");
}

static enum mpq_status pad(struct job *job)
{
    double value = (double)mpq_attr_float(&job->node.attr_set, "value", 0.0f);
    const char *mode = mpq_attr_string(&job->node.attr_set, "mode", "constant");
    if (!mpq_attr_find(&job->node.attr_set, "pads"))
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT, "the attribute 'pads' is missing");
    MPQ_TRY(ints_to_input(job, "pads", 1));
    if (value != 0.0 && strcmp(mode, "constant") == 0)
        MPQ_TRY(put_scalar(job, 2, "value", value));
    return drop_attr(job, "value");
}

static enum mpq_status slice(struct job *job)
{
    const struct mpq_attr_set *set = &job->node.attr_set;
    if (!mpq_attr_find(set, "starts") || !mpq_attr_find(set, "ends"))
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT,
                             "the attribute 'starts' or 'ends' is missing");
    MPQ_TRY(ints_to_input(job, "starts", 1));
    MPQ_TRY(ints_to_input(job, "ends", 2));
    return ints_to_input(job, "axes", 3);
}

static enum mpq_status top_k(struct job *job)
{
    const int64_t k = mpq_attr_int(&job->node.attr_set, "k", -1);
    if (k < 0)
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT, "the attribute 'k' is missing");
    MPQ_TRY(put_ints(job, 1, "k", &k, 1));
    return drop_attr(job, "k");
}

/* Outputs after the first exist in training, or are listed by exporters and read by nobody. */
static bool drop_unread_outputs(struct job *job)
{
    for (uint32_t i = 1; i < job->node.n_out; i++)
        if (job->node.out[i] != MPQ_NO_VALUE && job->upgrade->is_read[job->node.out[i]])
            return false;
    job->node.n_out = 1;
    return true;
}

/* Until opset 13 listing the statistics as outputs meant training. */
static enum mpq_status batch_normalization(struct job *job)
{
    if (mpq_attr_int(&job->node.attr_set, "spatial", 1) == 0)
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_UNSUPPORTED,
                             "spatial = 0 (statistics per pixel) was removed from ONNX");
    if (!drop_unread_outputs(job))
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_UNSUPPORTED,
                             "is in training form: its batch statistics are read");
    MPQ_TRY(drop_attr(job, "spatial"));
    return drop_attr(job, "consumed_inputs");
}

/* Inference does not read the ratio. */
static enum mpq_status dropout(struct job *job)
{
    drop_unread_outputs(job);
    return drop_attr(job, "ratio");
}

static enum mpq_status scatter(struct job *job)
{
    job->node.op_type = "ScatterElements";
    return MPQ_OK;
}

/* Whether axes grow and shrink, as far as constant scales say. */
static void find_changes(const struct mpq_tensor *scale, bool *grows, bool *shrinks)
{
    *grows = *shrinks = false;
    for (int64_t i = 0; scale && scale->dtype == MPQ_FLOAT && i < mpq_shape_count(&scale->shape);
         i++) {
        *grows |= mpq_tensor_double(scale, i) > 1.0;
        *shrinks |= mpq_tensor_double(scale, i) < 1.0 && mpq_tensor_double(scale, i) > 0.0;
    }
}

/* Input 2: those of the scales that shrink, or that do not, and 1 for the other axes. */
static enum mpq_status put_scales(struct job *job, const struct mpq_tensor *scale, bool shrinks)
{
    struct mpq_tensor part;
    MPQ_TRY(mpq_tensor_alloc(job->ctx, job->graph->arena, MPQ_FLOAT, &scale->shape, &part));
    for (int64_t i = 0; i < mpq_shape_count(&scale->shape); i++) {
        double s = mpq_tensor_double(scale, i);
        mpq_tensor_set_double(&part, i, (s < 1.0) == shrinks ? s : 1.0);
    }
    return put_constant(job, 2, "scales", &part);
}

/* Axes that shrink do so in a node of their own, before the others grow. */
static enum mpq_status shrink_first(struct job *job, const struct mpq_tensor *scale)
{
    mpq_value_id shrunk;
    MPQ_TRY(new_value(job, "shrunk", &shrunk));
    MPQ_TRY(put_scales(job, scale, true));
    MPQ_TRY(put_string(job, "nearest_mode", "ceil"));
    struct mpq_node inner = job->node;
    inner.name = "";
    inner.source = MPQ_NO_NODE;
    inner.out = &shrunk;
    MPQ_TRY(append(job, &inner));
    put_input(job, 0, shrunk);
    return put_scales(job, scale, false);
}

/* Before opset 11 a scaled-down axis took the sample above and any other the one below: ceil and
 * floor, which are said of all axes at once now. */
static enum mpq_status old_nearest(struct job *job, const struct mpq_tensor *scale)
{
    bool grows, shrinks;
    find_changes(scale, &grows, &shrinks);
    if (grows && shrinks)
        MPQ_TRY(shrink_first(job, scale));
    return put_string(job, "nearest_mode", shrinks && !grows ? "ceil" : "floor");
}

/* [x, scales] of opset 10, asymmetric by definition -> [x, roi, scales]. */
static enum mpq_status resize_10(struct job *job)
{
    if (job->node.n_in != 2)
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT, "has %u inputs, needs 2",
                             job->node.n_in);
    mpq_value_id scales = job->node.in[1];
    put_input(job, 2, scales);
    put_input(job, 1, MPQ_NO_VALUE);
    const char *mode = mpq_attr_string(&job->node.attr_set, "mode", "nearest");
    if (strcmp(mode, "bilinear") == 0)
        MPQ_TRY(put_string(job, "mode", "linear"));
    MPQ_TRY(put_string(job, "coordinate_transformation_mode", "asymmetric"));
    return strcmp(mode, "nearest") == 0 ? old_nearest(job, job->graph->value[scales].constant)
                                        : MPQ_OK;
}

/* Scales were an attribute until opset 9, then an input; the operator went in opset 10. */
static enum mpq_status upsample(struct job *job)
{
    const struct mpq_attr *scales = mpq_attr_find(&job->node.attr_set, "scales");
    if (scales && scales->kind != MPQ_ATTR_FLOATS)
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT,
                             "the attribute 'scales' is no list of floats");
    if (scales) {
        float *copy =
            mpq_arena_copy(job->ctx, job->graph->arena, scales->floats, scales->n * sizeof *copy);
        if (!copy)
            return MPQ_E_NOMEM;
        const struct mpq_tensor tensor = {MPQ_FLOAT, MPQ_SHAPE((int64_t)scales->n), copy};
        MPQ_TRY(put_constant(job, 1, "scales", &tensor));
    }
    MPQ_TRY(drop_attr(job, "scales"));
    job->node.op_type = "Resize";
    return resize_10(job);
}

/* Opsets 11 and 12 require roi and scales, and have empty ones where they mean nothing.
 * tf_half_pixel_for_nn went in opset 13: floor((x + 0.5) / s) is what half_pixel gives when ties
 * are rounded up. */
static enum mpq_status resize_11(struct job *job)
{
    for (uint32_t i = 1; i < job->node.n_in && i < 3; i++) {
        mpq_value_id id = job->node.in[i];
        const struct mpq_tensor *value = id == MPQ_NO_VALUE ? NULL : job->graph->value[id].constant;
        if (value && mpq_shape_count(&value->shape) == 0)
            put_input(job, i, MPQ_NO_VALUE);
    }
    const struct mpq_attr_set *set = &job->node.attr_set;
    if (strcmp(mpq_attr_string(set, "coordinate_transformation_mode", ""),
               "tf_half_pixel_for_nn") != 0)
        return MPQ_OK;
    if (strcmp(mpq_attr_string(set, "mode", "nearest"), "nearest") != 0 ||
        strcmp(mpq_attr_string(set, "nearest_mode", ""), "floor") != 0)
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_UNSUPPORTED,
                             "tf_half_pixel_for_nn is supported with nearest_mode 'floor' only");
    MPQ_TRY(put_string(job, "coordinate_transformation_mode", "half_pixel"));
    return put_string(job, "nearest_mode", "round_prefer_ceil");
}

static enum mpq_status resize(struct job *job)
{
    return job->upgrade->opset < 11 ? resize_10(job) : resize_11(job);
}

/* A node of our own in front of the job's. */
static enum mpq_status append_new(struct job *job, const char *op_type, mpq_value_id x,
                                  const struct mpq_attr *attr, mpq_value_id y)
{
    struct mpq_node node = {.name = "",
                            .op_type = op_type,
                            .domain = "",
                            .n_in = 1,
                            .n_out = 1,
                            .in = &x,
                            .out = &y,
                            .source = MPQ_NO_NODE};
    if (attr)
        MPQ_TRY(
            mpq_attr_set_with(job->ctx, job->graph->arena, &node.attr_set, attr, &node.attr_set));
    return append(job, &node);
}

/* y = Reshape(Softmax(Flatten(x, axis)), Shape(x)); the job goes on with the Reshape. */
static enum mpq_status flatten_around(struct job *job, int64_t axis)
{
    const struct mpq_attr start = {.name = "axis", .kind = MPQ_ATTR_INT, .i = axis};
    const struct mpq_attr last = {.name = "axis", .kind = MPQ_ATTR_INT, .i = -1};
    mpq_value_id shape, flat, soft, x = job->node.in[0];
    MPQ_TRY(new_value(job, "shape", &shape));
    MPQ_TRY(new_value(job, "flat", &flat));
    MPQ_TRY(new_value(job, "flat_result", &soft));
    MPQ_TRY(append_new(job, "Shape", x, NULL, shape));
    MPQ_TRY(append_new(job, "Flatten", x, &start, flat));
    struct mpq_node inner = job->node;
    MPQ_TRY(
        mpq_attr_set_with(job->ctx, job->graph->arena, &inner.attr_set, &last, &inner.attr_set));
    inner.in = &flat;
    inner.out = &soft;
    MPQ_TRY(append(job, &inner));
    job->node.name = "";
    job->node.op_type = "Reshape";
    job->node.source = MPQ_NO_NODE;
    job->node.attr_set = (struct mpq_attr_set){0};
    put_input(job, 0, soft);
    put_input(job, 1, shape);
    return MPQ_OK;
}

/* Softmax, LogSoftmax, Hardmax: until opset 13 the input was flattened to two dimensions at `axis`
 * (default 1) and rows were normalized. That is plain normalization along `axis` where no
 * dimension other than 1 comes after it. */
static enum mpq_status softmax(struct job *job)
{
    int64_t axis = mpq_attr_int(&job->node.attr_set, "axis", 1);
    if (job->node.n_in != 1 || job->node.in[0] == MPQ_NO_VALUE)
        return mpq_fail_node(job->ctx, &job->node, MPQ_E_FORMAT, "has %u inputs, needs 1",
                             job->node.n_in);
    struct mpq_shape shape = mpq_trace_get(&job->upgrade->trace, job->graph, job->node.in[0]).shape;
    bool is_plain = axis == -1;
    if (shape.rank >= 0) {
        if (axis < -shape.rank || axis > shape.rank)
            return mpq_fail_node(job->ctx, &job->node, MPQ_E_SHAPE,
                                 "axis %" PRId64 " with an input of %s", axis,
                                 MPQ_SHAPE_TEXT(&shape));
        if (axis < 0)
            axis += shape.rank;
        is_plain = axis < shape.rank;
        for (int i = (int)axis + 1; i < shape.rank; i++)
            is_plain &= shape.dim[i] == 1;
        if (axis == shape.rank - 1)
            axis = -1;
    }
    if (!is_plain)
        return flatten_around(job, axis);
    const struct mpq_attr attr = {.name = "axis", .kind = MPQ_ATTR_INT, .i = axis};
    return put_attr(job, &attr);
}

static enum mpq_status scan(struct job *job)
{
    return mpq_fail_node(job->ctx, &job->node, MPQ_E_UNSUPPORTED,
                         "Scan of opset 8 has no equivalent in later opsets");
}

/* Operators spelled otherwise before opset `until`. Everything else that changed between opsets 7
 * and 13 took more types, or got an attribute or input whose default is the old meaning. */
static const struct {
    const char *op_type;
    int64_t until;
    enum mpq_status (*apply)(struct job *);
} rule[] = {
    {"BatchNormalization", 14, batch_normalization},
    {"Clip", 11, clip},
    {"Dropout", 12, dropout},
    {"Hardmax", 13, softmax},
    {"LogSoftmax", 13, softmax},
    {"Pad", 11, pad},
    {"ReduceSum", 13, axes_to_input},
    {"Resize", 13, resize},
    {"Scan", 9, scan},
    {"Scatter", 11, scatter},
    {"Slice", 10, slice},
    {"Softmax", 13, softmax},
    {"Split", 13, split_to_input},
    {"Squeeze", 13, axes_to_input},
    {"TopK", 10, top_k},
    {"Unsqueeze", 13, axes_to_input},
    {"Upsample", 10, upsample},
};

bool mpq_upgrade_changes(const char *op_type, int64_t opset)
{
    for (size_t i = 0; i < MPQ_COUNT(rule); i++)
        if (strcmp(rule[i].op_type, op_type) == 0)
            return opset < rule[i].until && opset < 13;
    return false;
}

enum mpq_status mpq_upgrade_append(struct mpq_ctx *ctx, struct mpq_upgrade *upgrade,
                                   const struct mpq_node *node)
{
    struct job job = {.ctx = ctx, .upgrade = upgrade, .graph = upgrade->graph, .node = *node};
    for (size_t i = 0; i < MPQ_COUNT(rule) && !*node->domain; i++) {
        if (strcmp(rule[i].op_type, node->op_type) != 0 || upgrade->opset >= rule[i].until)
            continue;
        if (node->n_in == 0 || node->in[0] == MPQ_NO_VALUE || node->n_in > MAX_IN)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "has %u inputs", node->n_in);
        if (node->n_out == 0 || node->out[0] == MPQ_NO_VALUE)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "has no first output");
        MPQ_TRY(rule[i].apply(&job));
        break;
    }
    return append(&job, &job.node);
}
