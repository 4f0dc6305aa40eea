#include "importer/contrib_job.h"

#include <string.h>

#include "importer/import_tensor.h"

#define MAX_IN    5 /* of a node that is made                                */
#define MAX_CASTS 4 /* one after the other that are looked through for a rank */

char *mpq_job_in(const struct mpq_job *job, size_t i)
{
    return i < job->node->n_input && *job->node->input[i] ? job->node->input[i] : NULL;
}

char *mpq_job_out(const struct mpq_job *job, size_t i)
{
    return i < job->node->n_output && *job->node->output[i] ? job->node->output[i] : NULL;
}

float mpq_job_float(const struct mpq_job *job, const char *name, float absent)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(job->node, name);
    return attr && attr->has_f ? attr->f : absent;
}

int64_t mpq_job_int(const struct mpq_job *job, const char *name, int64_t absent)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(job->node, name);
    return attr && attr->has_i ? attr->i : absent;
}

bool mpq_job_attr_is(const struct mpq_job *job, const char *name, const char *value)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(job->node, name);
    return attr && attr->s.len == strlen(value) && memcmp(attr->s.data, value, attr->s.len) == 0;
}

/* ---- names ---- */

static enum mpq_status add_name(struct mpq_rewrite *rewrite, struct mpq_strmap *map,
                                const char *name, size_t index)
{
    if (!name || !*name)
        return MPQ_OK;
    return mpq_strmap_add(rewrite->ctx, rewrite->arena, map, name, (uint32_t)index, NULL);
}

/* What nodes and outputs read, also those of bodies, whose own names do not matter here. */
static enum mpq_status add_reads(struct mpq_rewrite *rewrite, const Onnx__GraphProto *graph,
                                 struct mpq_strmap *read)
{
    for (size_t i = 0; i < graph->n_output; i++)
        MPQ_TRY(add_name(rewrite, read, graph->output[i]->name, 0));
    for (size_t n = 0; n < graph->n_node; n++) {
        const Onnx__NodeProto *node = graph->node[n];
        for (size_t i = 0; i < node->n_input; i++)
            MPQ_TRY(add_name(rewrite, read, node->input[i], 0));
        for (size_t i = 0; i < node->n_attribute; i++) {
            const Onnx__AttributeProto *attr = node->attribute[i];
            if (attr->g)
                MPQ_TRY(add_reads(rewrite, attr->g, read));
            for (size_t j = 0; j < attr->n_graphs; j++)
                MPQ_TRY(add_reads(rewrite, attr->graphs[j], read));
        }
    }
    return MPQ_OK;
}

static const Onnx__TensorShapeProto *shape_of(const Onnx__ValueInfoProto *info)
{
    const Onnx__TypeProto *type = info->type;
    return type && type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE
               ? type->tensor_type->shape
               : NULL;
}

static enum mpq_status add_shapes(struct mpq_rewrite *rewrite, Onnx__ValueInfoProto **info,
                                  size_t n, struct mpq_job_names *names)
{
    for (size_t i = 0; i < n; i++) {
        const Onnx__TensorShapeProto *shape = shape_of(info[i]);
        if (!shape)
            continue;
        MPQ_TRY(add_name(rewrite, &names->shape, info[i]->name, names->n_declared));
        names->declared[names->n_declared++] = shape;
    }
    return MPQ_OK;
}

enum mpq_status mpq_job_names_build(struct mpq_rewrite *rewrite, struct mpq_job_names *out)
{
    const Onnx__GraphProto *graph = rewrite->graph;
    *out = (struct mpq_job_names){0};
    for (size_t i = 0; i < graph->n_initializer; i++)
        MPQ_TRY(add_name(rewrite, &out->constant, graph->initializer[i]->name, i));
    for (size_t i = 0; i < graph->n_initializer; i++) {
        const Onnx__TensorProto *tensor = graph->initializer[i];
        out->room += 64 * ((uint64_t)tensor->raw_data.len + tensor->n_int32_data);
    }
    for (size_t n = 0; n < graph->n_node; n++)
        for (size_t i = 0; i < graph->node[n]->n_output && graph->node[n]->op_type; i++)
            MPQ_TRY(add_name(rewrite, &out->producer, graph->node[n]->output[i], n));
    out->declared = mpq_arena_alloc(rewrite->ctx, rewrite->arena,
                                    graph->n_input + graph->n_value_info + graph->n_output,
                                    sizeof *out->declared);
    if (!out->declared)
        return MPQ_E_NOMEM;
    MPQ_TRY(add_shapes(rewrite, graph->input, graph->n_input, out));
    MPQ_TRY(add_shapes(rewrite, graph->value_info, graph->n_value_info, out));
    MPQ_TRY(add_shapes(rewrite, graph->output, graph->n_output, out));
    return add_reads(rewrite, graph, &out->read);
}

const Onnx__TensorProto *mpq_job_constant(const struct mpq_job *job, const char *name)
{
    uint32_t i = name ? mpq_strmap_get(&job->names->constant, name) : MPQ_STRMAP_NONE;
    return i == MPQ_STRMAP_NONE ? NULL : job->rewrite->graph->initializer[i];
}

/* ---- nodes ---- */

static char *check(struct mpq_job *job, enum mpq_status status, char *name)
{
    if (status == MPQ_OK)
        return name;
    job->failed = true;
    return NULL;
}

char *mpq_make_name(struct mpq_job *job, const char *stem)
{
    char *name = NULL;
    if (job->failed)
        return NULL;
    enum mpq_status status = mpq_rewrite_name(job->rewrite, stem, &name);
    return check(job, status, name);
}

char *mpq_make_list(struct mpq_job *job, const char *op_type, char *to, size_t n, char *const *in)
{
    static char absent[] = "";
    char *list[MAX_IN];
    MPQ_ASSERT(n <= MAX_IN);
    for (size_t i = 0; i < n; i++)
        list[i] = in[i] ? in[i] : absent;
    if (!to)
        to = mpq_make_name(job, op_type);
    if (job->failed)
        return NULL;
    return check(job, mpq_rewrite_op(job->rewrite, op_type, n, list, to), to);
}

char *mpq_make(struct mpq_job *job, const char *op_type, char *to, char *a, char *b, char *c)
{
    char *in[] = {a, b, c};
    return mpq_make_list(job, op_type, to, c ? 3 : b ? 2 : 1, in);
}

char *mpq_make_with(struct mpq_job *job, const char *op_type, char *to, char *a, const char *attr,
                    int64_t value)
{
    if (!to)
        to = mpq_make_name(job, op_type);
    if (job->failed)
        return NULL;
    return check(job, mpq_rewrite_op_with(job->rewrite, op_type, 1, &a, to, attr, value), to);
}

char *mpq_make_constant(struct mpq_job *job, const struct mpq_tensor *tensor)
{
    struct mpq_ctx *ctx = job->rewrite->ctx;
    Onnx__TensorProto *proto = mpq_arena_alloc(ctx, job->rewrite->arena, 1, sizeof *proto);
    int64_t *dims = mpq_arena_copy(ctx, job->rewrite->arena, tensor->shape.dim,
                                   (size_t)tensor->shape.rank * sizeof *dims);
    char *name = mpq_make_name(job, "constant");
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

static char *make_integers(struct mpq_job *job, int rank, int64_t n, const int64_t *value)
{
    char *name = NULL;
    if (job->failed)
        return NULL;
    enum mpq_status status = mpq_rewrite_constant(job->rewrite, MPQ_INT64, rank, n, value, &name);
    return check(job, status, name);
}

char *mpq_make_int(struct mpq_job *job, int64_t value)
{
    return make_integers(job, 0, 1, &value);
}

char *mpq_make_ints(struct mpq_job *job, int64_t n, const int64_t *value)
{
    return make_integers(job, 1, n, value);
}

char *mpq_make_number(struct mpq_job *job, float value)
{
    float *data = mpq_arena_copy(job->rewrite->ctx, job->rewrite->arena, &value, sizeof value);
    if (!data) {
        job->failed = true;
        return NULL;
    }
    return mpq_make_constant(job, &(struct mpq_tensor){MPQ_FLOAT, {.rank = 0}, data});
}

char *mpq_make_like(struct mpq_job *job, const char *op_type, char *to, size_t n,
                    const char *const *keeps)
{
    struct mpq_ctx *ctx = job->rewrite->ctx;
    Onnx__NodeProto *copy = mpq_arena_copy(ctx, job->rewrite->arena, job->node, sizeof *copy);
    Onnx__AttributeProto **attr = mpq_arena_alloc(ctx, job->rewrite->arena, job->node->n_attribute,
                                                  sizeof(Onnx__AttributeProto *));
    char **out = mpq_arena_alloc(ctx, job->rewrite->arena, 1, sizeof *out);
    if (!to)
        to = mpq_make_name(job, op_type);
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

/* An attribute that is still to be given its value, of the node made last. */
static Onnx__AttributeProto *add_attr(struct mpq_job *job, const char *name,
                                      Onnx__AttributeProto__AttributeType type)
{
    struct mpq_rewrite *rewrite = job->rewrite;
    if (job->failed)
        return NULL;
    Onnx__NodeProto *node = rewrite->node[rewrite->n_node - 1];
    Onnx__AttributeProto *attr = mpq_arena_alloc(rewrite->ctx, rewrite->arena, 1, sizeof *attr);
    Onnx__AttributeProto **list =
        mpq_arena_grow(rewrite->ctx, rewrite->arena, node->attribute, node->n_attribute,
                       node->n_attribute + 1, sizeof(Onnx__AttributeProto *));
    if (!attr || !list) {
        job->failed = true;
        return NULL;
    }
    onnx__attribute_proto__init(attr);
    attr->name = (char *)(uintptr_t)name;
    attr->has_type = 1;
    attr->type = type;
    list[node->n_attribute++] = attr;
    node->attribute = list;
    return attr;
}

void mpq_set_float(struct mpq_job *job, const char *name, float value)
{
    Onnx__AttributeProto *attr = add_attr(job, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    if (!attr)
        return;
    attr->has_f = 1;
    attr->f = value;
}

void mpq_set_int(struct mpq_job *job, const char *name, int64_t value)
{
    Onnx__AttributeProto *attr = add_attr(job, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (!attr)
        return;
    attr->has_i = 1;
    attr->i = value;
}

void mpq_set_ints(struct mpq_job *job, const char *name, size_t n, const int64_t *value)
{
    int64_t *copy = mpq_arena_copy(job->rewrite->ctx, job->rewrite->arena, value, n * sizeof *copy);
    job->failed |= !copy;
    Onnx__AttributeProto *attr = add_attr(job, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    if (!attr)
        return;
    attr->n_ints = n;
    attr->ints = copy;
}

void mpq_set_string(struct mpq_job *job, const char *name, const char *text)
{
    Onnx__AttributeProto *attr = add_attr(job, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING);
    if (!attr)
        return;
    attr->has_s = 1;
    attr->s = (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static bool is_cast(const Onnx__NodeProto *node)
{
    return node && strcmp(node->op_type, "Cast") == 0 && node->n_input == 1;
}

static const Onnx__NodeProto *producer(const struct mpq_job *job, const char *name)
{
    uint32_t n = mpq_strmap_get(&job->names->producer, name);
    return n == MPQ_STRMAP_NONE ? NULL : job->rewrite->graph->node[n];
}

const Onnx__NodeProto *mpq_job_maker(const struct mpq_job *job, const char *name)
{
    const Onnx__NodeProto *maker = producer(job, name);
    for (int n = 0; n < MAX_CASTS && is_cast(maker); n++)
        maker = producer(job, maker->input[0]);
    return maker;
}

static const Onnx__TensorShapeProto *declared_shape(const struct mpq_job *job, const char *name)
{
    uint32_t index = mpq_strmap_get(&job->names->shape, name);
    return index == MPQ_STRMAP_NONE ? NULL : job->names->declared[index];
}

int mpq_job_rank(const struct mpq_job *job, const char *name)
{
    const Onnx__TensorProto *tensor = mpq_job_constant(job, name);
    const Onnx__NodeProto *maker = NULL;
    if (tensor)
        return (int)tensor->n_dims;
    for (int n = 0; n <= MAX_CASTS; n++) { /* they keep the rank */
        const Onnx__TensorShapeProto *shape = declared_shape(job, name);
        if (shape)
            return (int)shape->n_dim;
        maker = producer(job, name);
        if (!is_cast(maker))
            break;
        name = maker->input[0];
    }
    return -1;
}

int64_t mpq_job_last_dim(const struct mpq_job *job, const char *name)
{
    const Onnx__TensorShapeProto *shape = name ? declared_shape(job, name) : NULL;
    if (!shape || !shape->n_dim)
        return -1;
    const Onnx__TensorShapeProto__Dimension *last = shape->dim[shape->n_dim - 1];
    return last->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE
               ? last->dim_value
               : -1;
}

bool mpq_job_is_read(const struct mpq_job *job, size_t i)
{
    const char *name = mpq_job_out(job, i);
    return name && mpq_strmap_get(&job->names->read, name) != MPQ_STRMAP_NONE;
}

bool mpq_job_alloc(struct mpq_job *job, const struct mpq_shape *shape, struct mpq_tensor *out)
{
    struct mpq_ctx *ctx = job->rewrite->ctx;
    int64_t n = 0;
    enum mpq_status status = mpq_shape_count_checked(ctx, shape, sizeof(float), &n);
    uint64_t bytes = (uint64_t)n * sizeof(float);
    if (status == MPQ_OK && bytes > job->names->room)
        status = mpq_fail(ctx, MPQ_E_LIMIT, "codes of weights are named by too many nodes");
    if (status == MPQ_OK)
        status = mpq_tensor_alloc(ctx, job->rewrite->arena, MPQ_FLOAT, shape, out);
    if (status == MPQ_OK)
        job->names->room -= bytes;
    job->failed |= status != MPQ_OK;
    return status == MPQ_OK;
}

bool mpq_job_read_constant(struct mpq_job *job, size_t i, struct mpq_tensor *out)
{
    const Onnx__TensorProto *proto = mpq_job_constant(job, mpq_job_in(job, i));
    enum mpq_status status =
        proto ? mpq_import_tensor_as_float(job->rewrite->ctx, job->rewrite->arena, proto->name,
                                           proto, out)
              : MPQ_OK;
    job->failed |= status != MPQ_OK;
    return proto && status == MPQ_OK;
}
