#include "importer/contrib.h"

#include <math.h>
#include <string.h>

#include "importer/import_tensor.h"
#include "importer/rewrite.h"

/* A node on its way: rules append to the rewrite and say whether they did. */
struct job {
    struct mpq_rewrite *rewrite;
    const Onnx__NodeProto *node;
    int64_t opset;
    bool failed; /* out of memory: the error is in the ctx */
};

/* ---- the node ---- */

static char *input(const struct job *job, size_t i)
{
    return i < job->node->n_input && *job->node->input[i] ? job->node->input[i] : NULL;
}

static char *output(const struct job *job, size_t i)
{
    return i < job->node->n_output && *job->node->output[i] ? job->node->output[i] : NULL;
}

static float attr_float(const struct job *job, const char *name, float absent)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(job->node, name);
    return attr && attr->has_f ? attr->f : absent;
}

static int64_t attr_int(const struct job *job, const char *name, int64_t absent)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(job->node, name);
    return attr && attr->has_i ? attr->i : absent;
}

static bool attr_is(const struct job *job, const char *name, const char *value)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(job->node, name);
    return attr && attr->s.len == strlen(value) && memcmp(attr->s.data, value, attr->s.len) == 0;
}

static const Onnx__TensorProto *constant(const struct job *job, const char *name)
{
    for (size_t i = 0; name && i < job->rewrite->n_initializer; i++)
        if (job->rewrite->initializer[i]->name &&
            strcmp(job->rewrite->initializer[i]->name, name) == 0)
            return job->rewrite->initializer[i];
    return NULL;
}

/* ---- making nodes; NULL from any of these means that memory has run out, and is passed on ---- */

static char *check(struct job *job, enum mpq_status status, char *name)
{
    if (status == MPQ_OK)
        return name;
    job->failed = true;
    return NULL;
}

static char *fresh(struct job *job, const char *stem)
{
    char *name = NULL;
    if (job->failed)
        return NULL;
    enum mpq_status status = mpq_rewrite_name(job->rewrite, stem, &name);
    return check(job, status, name);
}

/* op_type(a, b, c) under that name, or a new one where `to` is NULL. */
static char *make(struct job *job, const char *op_type, char *to, char *a, char *b, char *c)
{
    char *in[] = {a, b, c};
    if (!to)
        to = fresh(job, op_type);
    if (job->failed)
        return NULL;
    return check(job, mpq_rewrite_op(job->rewrite, op_type, c ? 3 : b ? 2 : 1, in, to), to);
}

static char *make_with(struct job *job, const char *op_type, char *to, char *a, const char *attr,
                       int64_t value)
{
    if (!to)
        to = fresh(job, op_type);
    if (job->failed)
        return NULL;
    return check(job, mpq_rewrite_op_with(job->rewrite, op_type, 1, &a, to, attr, value), to);
}

/* An initializer of that type and shape whose data are `data`. */
static char *make_constant(struct job *job, const struct mpq_tensor *tensor)
{
    struct mpq_ctx *ctx = job->rewrite->ctx;
    Onnx__TensorProto *proto = mpq_arena_alloc(ctx, job->rewrite->arena, 1, sizeof *proto);
    int64_t *dims = mpq_arena_copy(ctx, job->rewrite->arena, tensor->shape.dim,
                                   (size_t)tensor->shape.rank * sizeof *dims);
    char *name = fresh(job, "constant");
    if (!proto || !dims || !name) {
        job->failed = true;
        return NULL;
    }
    onnx__tensor_proto__init(proto);
    proto->name = name;
    proto->has_data_type = proto->has_raw_data = 1;
    proto->data_type = (int32_t)tensor->dtype;
    proto->n_dims = (size_t)tensor->shape.rank;
    proto->dims = dims;
    proto->raw_data = (ProtobufCBinaryData){mpq_tensor_bytes(tensor), tensor->data};
    return check(job, mpq_rewrite_append_initializer(job->rewrite, proto), name);
}

static char *make_number(struct job *job, float value)
{
    float *data = mpq_arena_copy(job->rewrite->ctx, job->rewrite->arena, &value, sizeof value);
    if (!data) {
        job->failed = true;
        return NULL;
    }
    return make_constant(job, &(struct mpq_tensor){MPQ_FLOAT, {.rank = 0}, data});
}

/* The node as another operator of ai.onnx with its first n inputs and the attributes that `keeps`
 * lists, up to a NULL. */
static char *make_like(struct job *job, const char *op_type, char *to, size_t n,
                       const char *const *keeps)
{
    struct mpq_ctx *ctx = job->rewrite->ctx;
    Onnx__NodeProto *copy = mpq_arena_copy(ctx, job->rewrite->arena, job->node, sizeof *copy);
    Onnx__AttributeProto **attr = mpq_arena_alloc(ctx, job->rewrite->arena, job->node->n_attribute,
                                                  sizeof(Onnx__AttributeProto *));
    char **out = mpq_arena_alloc(ctx, job->rewrite->arena, 1, sizeof *out);
    if (!to)
        to = fresh(job, op_type);
    if (!copy || !attr || !out || job->failed) {
        job->failed = true;
        return NULL;
    }
    copy->op_type = (char *)(uintptr_t)op_type;
    copy->domain = NULL;
    copy->n_input = job->node->n_input < n ? job->node->n_input : n;
    out[0] = to;
    copy->output = out;
    copy->n_output = 1;
    copy->n_attribute = 0;
    for (size_t i = 0; i < job->node->n_attribute; i++)
        for (const char *const *keep = keeps; *keep; keep++)
            if (job->node->attribute[i]->name && strcmp(job->node->attribute[i]->name, *keep) == 0)
                attr[copy->n_attribute++] = job->node->attribute[i];
    copy->attribute = attr;
    return check(job, mpq_rewrite_append(job->rewrite, copy), to);
}

static bool set_float_attr(struct job *job, Onnx__NodeProto *node, const char *name, float value)
{
    Onnx__AttributeProto *attr =
        mpq_arena_alloc(job->rewrite->ctx, job->rewrite->arena, 1, sizeof *attr);
    node->attribute =
        mpq_arena_grow(job->rewrite->ctx, job->rewrite->arena, node->attribute, node->n_attribute,
                       node->n_attribute + 1, sizeof(Onnx__AttributeProto *));
    if (!attr || !node->attribute)
        return false;
    onnx__attribute_proto__init(attr);
    attr->name = (char *)(uintptr_t)name;
    attr->has_type = attr->has_f = 1;
    attr->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
    attr->f = value;
    node->attribute[node->n_attribute++] = attr;
    return true;
}

/* ---- activations ---- */

static char *activate(struct job *job, const char *activation, char *to, char *x, float alpha,
                      float beta)
{
    if (strcmp(activation, "Clip") == 0)
        return make(job, "Clip", to, x, make_number(job, alpha), make_number(job, beta));
    to = make(job, activation, to, x, NULL, NULL);
    Onnx__NodeProto *made = to ? job->rewrite->node[job->rewrite->n_node - 1] : NULL;
    bool has_alpha = strcmp(activation, "LeakyRelu") == 0 || strcmp(activation, "Elu") == 0 ||
                     strcmp(activation, "HardSigmoid") == 0;
    if (made && has_alpha && !set_float_attr(job, made, "alpha", alpha))
        job->failed = true;
    if (made && strcmp(activation, "HardSigmoid") == 0 && !set_float_attr(job, made, "beta", beta))
        job->failed = true;
    return to;
}

static const char *known_activation(const struct job *job)
{
    static const char *const known[] = {"Relu", "Sigmoid",     "Tanh", "LeakyRelu",
                                        "Clip", "HardSigmoid", "Elu"};
    for (size_t i = 0; i < MPQ_COUNT(known); i++)
        if (attr_is(job, "activation", known[i]))
            return known[i];
    return NULL;
}

/* Conv(x, w, b), + z, activated. */
static bool fused_conv(struct job *job)
{
    static const char *const keeps[] = {"auto_pad", "dilations", "group", "kernel_shape",
                                        "pads",     "strides",   NULL};
    const char *activation = known_activation(job);
    const Onnx__AttributeProto *params = mpq_rewrite_attr(job->node, "activation_params");
    size_t n = params ? params->n_floats : 0;
    if (!activation && mpq_rewrite_attr(job->node, "activation"))
        return false;
    char *sum = input(job, 3), *y = output(job, 0);
    y = make_like(job, "Conv", activation || sum ? NULL : y, 3, keeps);
    if (sum)
        y = make(job, "Add", activation ? NULL : output(job, 0), y, sum, NULL);
    if (activation)
        activate(job, activation, output(job, 0), y, n > 0 ? params->floats[0] : 0.01f,
                 n > 1 ? params->floats[1] : 0.5f);
    return true;
}

static bool fused_gemm(struct job *job)
{
    static const char *const keeps[] = {"alpha", "beta", "transA", "transB", NULL};
    const char *activation = known_activation(job);
    if (!activation)
        return false;
    char *y = make_like(job, "Gemm", NULL, 3, keeps);
    activate(job, activation, output(job, 0), y, attr_float(job, "activation_alpha", 0.01f),
             attr_float(job, "activation_beta", 0.5f));
    return true;
}

/* x (1 + erf(x / sqrt(2))) / 2, which runtimes know as Gelu in this form. */
static void gelu_of(struct job *job, char *x)
{
    char *one = make_number(job, 1.0f), *half = make_number(job, 0.5f);
    char *t = make(job, "Div", NULL, x, make_number(job, 1.41421356237309504880f), NULL);
    t = make(job, "Erf", NULL, t, NULL, NULL);
    t = make(job, "Add", NULL, t, one, NULL);
    t = make(job, "Mul", NULL, x, t, NULL);
    make(job, "Mul", output(job, 0), t, half, NULL);
}

static bool gelu(struct job *job)
{
    gelu_of(job, input(job, 0));
    return true;
}

static bool bias_gelu(struct job *job)
{
    gelu_of(job, make(job, "Add", NULL, input(job, 0), input(job, 1), NULL));
    return true;
}

/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 of x, to which a bias is added. */
static bool fast_gelu(struct job *job)
{
    char *x = input(job, 0);
    if (input(job, 1))
        x = make(job, "Add", NULL, x, input(job, 1), NULL);
    char *one = make_number(job, 1.0f);
    char *t = make(job, "Mul", NULL, x, x, NULL);
    t = make(job, "Mul", NULL, t, make_number(job, 0.044715f), NULL);
    t = make(job, "Add", NULL, t, one, NULL);
    t = make(job, "Mul", NULL, t, x, NULL);
    t = make(job, "Mul", NULL, t, make_number(job, 0.79788456080286535588f), NULL);
    t = make(job, "Tanh", NULL, t, NULL, NULL);
    t = make(job, "Add", NULL, t, one, NULL);
    t = make(job, "Mul", NULL, x, t, NULL);
    make(job, "Mul", output(job, 0), t, make_number(job, 0.5f), NULL);
    return true;
}

static bool quick_gelu(struct job *job)
{
    char *x = input(job, 0);
    char *t = make(job, "Mul", NULL, x, make_number(job, attr_float(job, "alpha", 1.702f)), NULL);
    make(job, "Mul", output(job, 0), x, make(job, "Sigmoid", NULL, t, NULL, NULL), NULL);
    return true;
}

/* ---- normalizations over the last axis ---- */

/* The mean of x along it. Opset 18 made the axes an input. */
static char *last_mean(struct job *job, char *x)
{
    char *axes = NULL;
    if (job->failed)
        return NULL;
    if (job->opset >= 18) {
        enum mpq_status status =
            mpq_rewrite_constant(job->rewrite, MPQ_INT64, 1, 1, &(int64_t){-1}, &axes);
        return make(job, "ReduceMean", NULL, x, check(job, status, axes), NULL);
    }
    char *mean = make(job, "ReduceMean", NULL, x, NULL, NULL);
    Onnx__NodeProto *made = mean ? job->rewrite->node[job->rewrite->n_node - 1] : NULL;
    struct {
        Onnx__AttributeProto attr, *attrs;
        int64_t axis;
    } *list = mpq_arena_alloc(job->rewrite->ctx, job->rewrite->arena, 1, sizeof *list);
    if (!made || !list) {
        job->failed = true;
        return NULL;
    }
    onnx__attribute_proto__init(&list->attr);
    list->attr.name = (char *)(uintptr_t) "axes";
    list->attr.has_type = 1;
    list->attr.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
    list->attr.n_ints = 1;
    list->attr.ints = &list->axis;
    list->axis = -1;
    list->attrs = &list->attr;
    made->n_attribute = 1;
    made->attribute = &list->attrs;
    return mean;
}

/* (x - mean) / sqrt(variance + epsilon) * gamma + beta, or, where it keeps the mean, x over its
 * root mean square. */
static void normalize(struct job *job, char *x, char *gamma, char *beta, bool keeps_mean)
{
    if (!keeps_mean)
        x = make(job, "Sub", NULL, x, last_mean(job, x), NULL);
    char *t = last_mean(job, make(job, "Mul", NULL, x, x, NULL));
    t = make(job, "Add", NULL, t, make_number(job, attr_float(job, "epsilon", 1e-5f)), NULL);
    t = make(job, "Sqrt", NULL, t, NULL, NULL);
    t = make(job, "Div", NULL, x, t, NULL);
    t = make(job, "Mul", beta ? NULL : output(job, 0), t, gamma, NULL);
    if (beta)
        make(job, "Add", output(job, 0), t, beta, NULL);
}

/* Whether something in the graph, or in a body, reads output i. */
static bool is_read(const struct job *job, size_t i)
{
    const Onnx__GraphProto *graph = job->rewrite->graph;
    const char *name = output(job, i);
    bool found = name && mpq_rewrite_bodies_read(graph, name);
    for (size_t n = 0; n < graph->n_node && name && !found; n++)
        for (size_t k = 0; k < graph->node[n]->n_input && !found; k++)
            found = strcmp(graph->node[n]->input[k], name) == 0;
    for (size_t k = 0; k < graph->n_output && name && !found; k++)
        found = graph->output[k]->name && strcmp(graph->output[k]->name, name) == 0;
    return found;
}

/* x + skip (+ bias), which is output 3 as well; nobody reads outputs 1 and 2 in inference. */
static char *skip_sum(struct job *job, char *bias)
{
    if (is_read(job, 1) || is_read(job, 2))
        return NULL;
    char *sum = make(job, "Add", bias ? NULL : output(job, 3), input(job, 0), input(job, 1), NULL);
    return bias ? make(job, "Add", output(job, 3), sum, bias, NULL) : sum;
}

static bool skip_layer_normalization(struct job *job)
{
    char *sum = skip_sum(job, input(job, 4));
    if (sum)
        normalize(job, sum, input(job, 2), input(job, 3), false);
    return sum || job->failed;
}

static bool skip_simplified(struct job *job)
{
    char *sum = skip_sum(job, input(job, 3));
    if (sum)
        normalize(job, sum, input(job, 2), NULL, true);
    return sum || job->failed;
}

static bool simplified(struct job *job)
{
    if (attr_int(job, "axis", -1) != -1 || is_read(job, 1))
        return false;
    normalize(job, input(job, 0), input(job, 1), NULL, true);
    return true;
}

/* ---- products ---- */

/* A matrix product whose operands may be transposed: a constant matrix by Transpose, which is
 * folded, anything else by Einsum, which needs to know no rank. */
static bool fused_matmul(struct job *job)
{
    static const char *const stacks[2][2] = {{"...ij,...jk->...ik", "...ij,...kj->...ik"},
                                             {"...ji,...jk->...ik", "...ji,...kj->...ik"}};
    bool a = attr_int(job, "transA", 0) != 0, b = attr_int(job, "transB", 0) != 0;
    float alpha = attr_float(job, "alpha", 1.0f);
    char *right = input(job, 1), *to = alpha == 1.0f ? output(job, 0) : NULL, *y;
    if (attr_int(job, "transBatchA", 0) || attr_int(job, "transBatchB", 0))
        return false;
    const Onnx__TensorProto *weight = constant(job, right);
    if (b && weight && weight->n_dims == 2) {
        right = make(job, "Transpose", NULL, right, NULL, NULL);
        b = false;
    }
    const char *equation = weight && weight->n_dims == 2 ? "...ji,jk->...ik" : stacks[a][b];
    if (!a && !b) {
        y = make(job, "MatMul", to, input(job, 0), right, NULL);
    } else {
        y = make(job, "Einsum", to, input(job, 0), right, NULL);
        Onnx__NodeProto *made = y ? job->rewrite->node[job->rewrite->n_node - 1] : NULL;
        if (made && set_float_attr(job, made, "equation", 0)) {
            Onnx__AttributeProto *attr = made->attribute[0];
            attr->has_f = 0;
            attr->has_s = 1;
            attr->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
            attr->s = (ProtobufCBinaryData){strlen(equation), (uint8_t *)(uintptr_t)equation};
        } else {
            job->failed = true;
        }
    }
    if (alpha != 1.0f)
        make(job, "Mul", output(job, 0), y, make_number(job, alpha), NULL);
    return true;
}

/* Code k of a row: `bits` of them a byte, the first in the low bits. */
static unsigned code_at(const uint8_t *row, int64_t k, int bits)
{
    return row[k * bits / 8] >> (k * bits % 8) & ((1u << bits) - 1);
}

struct nbits {
    int64_t k, n, block, n_block;
    int bits;
    struct mpq_tensor code, scale, zero;
    bool has_zero;
};

/* w[k][n] = (code - zero) * scale of its block, in float as MatMulNBits dequantizes. */
static void dequantize(const struct nbits *b, float *w)
{
    int64_t blob = b->block * b->bits / 8, zero_row = (b->n_block * b->bits + 7) / 8;
    for (int64_t n = 0; n < b->n; n++)
        for (int64_t k = 0; k < b->k; k++) {
            int64_t block = k / b->block;
            const uint8_t *codes = (const uint8_t *)b->code.data + (n * b->n_block + block) * blob;
            float zero = (float)(1 << (b->bits - 1));
            if (b->has_zero && b->zero.dtype == MPQ_UINT8)
                zero = (float)code_at((const uint8_t *)b->zero.data + n * zero_row, block, b->bits);
            else if (b->has_zero)
                zero = (float)mpq_tensor_double(&b->zero, n * b->n_block + block);
            float scale = (float)mpq_tensor_double(&b->scale, n * b->n_block + block);
            w[k * b->n + n] = ((float)code_at(codes, k % b->block, b->bits) - zero) * scale;
        }
}

static bool read_constant(struct job *job, size_t i, struct mpq_tensor *out)
{
    const Onnx__TensorProto *proto = constant(job, input(job, i));
    enum mpq_status status =
        proto ? mpq_import_tensor_as_float(job->rewrite->ctx, job->rewrite->arena, proto->name,
                                           proto, out)
              : MPQ_OK;
    job->failed |= status != MPQ_OK;
    return proto && status == MPQ_OK;
}

/* k, n or a block of so many that n rows of k rounded up to blocks can be counted. */
static bool is_size(int64_t size)
{
    return size > 0 && size <= (int64_t)1 << 28;
}

/* MatMulNBits: x by a matrix stored in blocks along k. The codes become the floats they stand for.
 */
static bool matmul_nbits(struct job *job)
{
    int64_t bits = attr_int(job, "bits", 4);
    struct nbits b = {.k = attr_int(job, "K", 0),
                      .n = attr_int(job, "N", 0),
                      .block = attr_int(job, "block_size", 0),
                      .bits = bits == 2 || bits == 4 || bits == 8 ? (int)bits : 0};
    struct mpq_tensor weight;
    bool fits = b.bits && is_size(b.k) && is_size(b.n) && is_size(b.block) && b.block % 16 == 0;
    if (!fits || input(job, 4) || !read_constant(job, 1, &b.code) ||
        !read_constant(job, 2, &b.scale))
        return job->failed;
    b.n_block = (b.k + b.block - 1) / b.block;
    b.has_zero = input(job, 3) != NULL;
    if (b.has_zero && !read_constant(job, 3, &b.zero))
        return job->failed;
    int64_t n_zero = b.has_zero ? mpq_shape_count(&b.zero.shape) : 0;
    bool is_packed = b.has_zero && b.zero.dtype == MPQ_UINT8;
    if (b.code.dtype != MPQ_UINT8 || b.scale.dtype != MPQ_FLOAT ||
        mpq_shape_count(&b.code.shape) != b.n * b.n_block * (b.block * b.bits / 8) ||
        mpq_shape_count(&b.scale.shape) != b.n * b.n_block ||
        (is_packed && n_zero != b.n * ((b.n_block * b.bits + 7) / 8)) ||
        (b.has_zero && !is_packed && (b.zero.dtype != MPQ_FLOAT || n_zero != b.n * b.n_block)))
        return false;
    if (mpq_tensor_alloc(job->rewrite->ctx, job->rewrite->arena, MPQ_FLOAT, &MPQ_SHAPE(b.k, b.n),
                         &weight) != MPQ_OK) {
        job->failed = true;
        return true;
    }
    dequantize(&b, weight.data);
    char *bias = input(job, 5);
    char *y = make(job, "MatMul", bias ? NULL : output(job, 0), input(job, 0),
                   make_constant(job, &weight), NULL);
    if (bias)
        make(job, "Add", output(job, 0), y, bias, NULL);
    return true;
}

/* a scale (integers times integers) + bias */
static void scaled_product(struct job *job, char *const in[4], char *scale, char *bias)
{
    static char none[] = "";
    char *to = fresh(job, "product");
    char *list[] = {in[0], in[1], in[2] ? in[2] : none, in[3] ? in[3] : none};
    if (job->failed)
        return;
    check(job, mpq_rewrite_op(job->rewrite, "MatMulInteger", 4, list, to), to);
    char *y = make_with(job, "Cast", NULL, to, "to", MPQ_FLOAT);
    y = make(job, "Mul", bias ? NULL : output(job, 0), y, scale, NULL);
    if (bias)
        make(job, "Add", output(job, 0), y, bias, NULL);
}

/* MatMulIntegerToFloat: a, b, their scales, their zero points, bias. */
static bool matmul_integer_to_float(struct job *job)
{
    char *scale = make(job, "Mul", NULL, input(job, 2), input(job, 3), NULL);
    char *in[4] = {input(job, 0), input(job, 1), input(job, 4), input(job, 5)};
    scaled_product(job, in, scale, input(job, 6));
    return true;
}

/* DynamicQuantizeMatMul: a in float, b, its scale and zero point, bias. */
static bool dynamic_quantize_matmul(struct job *job)
{
    char **made = mpq_arena_alloc(job->rewrite->ctx, job->rewrite->arena, 3, sizeof *made);
    char *a = input(job, 0);
    for (int i = 0; made && i < 3; i++)
        made[i] = fresh(job, "quantized");
    if (!made || job->failed) {
        job->failed = true;
        return true;
    }
    check(job, mpq_rewrite_op(job->rewrite, "DynamicQuantizeLinear", 1, &a, made[0]), a);
    if (job->failed)
        return true;
    Onnx__NodeProto *quantize = job->rewrite->node[job->rewrite->n_node - 1];
    quantize->output = made;
    quantize->n_output = 3;
    char *in[4] = {made[0], input(job, 1), made[2], input(job, 3)};
    scaled_product(job, in, make(job, "Mul", NULL, made[1], input(job, 2), NULL), input(job, 4));
    return true;
}

/* ---- the table ---- */

static const struct {
    const char *op_type;
    size_t n_in; /* that must be present */
    bool (*apply)(struct job *);
} rule[] = {
    {"BiasGelu", 2, bias_gelu},
    {"DynamicQuantizeMatMul", 3, dynamic_quantize_matmul},
    {"FastGelu", 1, fast_gelu},
    {"FusedConv", 2, fused_conv},
    {"FusedGemm", 2, fused_gemm},
    {"FusedMatMul", 2, fused_matmul},
    {"Gelu", 1, gelu},
    {"MatMulIntegerToFloat", 4, matmul_integer_to_float},
    {"MatMulNBits", 3, matmul_nbits},
    {"QuickGelu", 1, quick_gelu},
    {"SimplifiedLayerNormalization", 2, simplified},
    {"SkipLayerNormalization", 3, skip_layer_normalization},
    {"SkipSimplifiedLayerNormalization", 3, skip_simplified},
    {"TransposeMatMul", 2, fused_matmul},
};

/* ONNX Runtime has SimplifiedLayerNormalization in the domain of ONNX, which does not. */
static bool is_contrib(const Onnx__NodeProto *node)
{
    if (!node->op_type)
        return false;
    return (node->domain && strcmp(node->domain, "com.microsoft") == 0) ||
           strcmp(node->op_type, "SimplifiedLayerNormalization") == 0;
}

static enum mpq_status translate(struct job *job, bool *out_done)
{
    *out_done = false;
    for (size_t i = 0; i < MPQ_COUNT(rule); i++) {
        bool fits = strcmp(rule[i].op_type, job->node->op_type) == 0 && output(job, 0);
        for (size_t k = 0; k < rule[i].n_in && fits; k++)
            fits = input(job, k) != NULL;
        if (fits)
            *out_done = rule[i].apply(job);
    }
    return job->failed ? job->rewrite->ctx->status : MPQ_OK;
}

static int64_t default_opset(const Onnx__ModelProto *model)
{
    for (size_t i = 0; i < model->n_opset_import; i++) {
        const char *domain = model->opset_import[i]->domain;
        if (!domain || !*domain || strcmp(domain, "ai.onnx") == 0)
            return model->opset_import[i]->version;
    }
    return 0;
}

/* The first of the nodes that were made has the name of the one they replace. */
enum mpq_status mpq_translate_contrib(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      Onnx__ModelProto *model)
{
    Onnx__GraphProto *graph = model->graph;
    struct mpq_rewrite rewrite;
    bool any = false;
    for (size_t n = 0; n < graph->n_node; n++)
        any |= is_contrib(graph->node[n]);
    if (!any)
        return MPQ_OK;
    MPQ_TRY(mpq_rewrite_begin(ctx, arena, graph, &rewrite));
    for (size_t n = 0; n < graph->n_node; n++) {
        struct job job = {&rewrite, graph->node[n], default_opset(model), false};
        bool is_done = false;
        size_t first = rewrite.n_node;
        if (is_contrib(graph->node[n]))
            MPQ_TRY(translate(&job, &is_done));
        if (!is_done)
            MPQ_TRY(mpq_rewrite_append(&rewrite, graph->node[n]));
        else if (!rewrite.node[first]->name)
            rewrite.node[first]->name = graph->node[n]->name;
    }
    mpq_rewrite_end(&rewrite);
    return MPQ_OK;
}
