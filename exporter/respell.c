#include "exporter/respell.h"

#include "exporter/write.h"

#include <string.h>

struct job {
    struct mpq_build *build;
    const struct mpq_node *node;
    int64_t to;
    Onnx__NodeProto *out;
};

static void drop_attr(struct job *job, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < job->out->n_attribute; i++)
        if (strcmp(job->out->attribute[i]->name, name) != 0)
            job->out->attribute[n++] = job->out->attribute[i];
    job->out->n_attribute = n;
}

static enum mpq_status put_attr(struct job *job, const struct mpq_attr *attr)
{
    struct mpq_build *build = job->build;
    drop_attr(job, attr->name);
    size_t n = job->out->n_attribute;
    Onnx__AttributeProto **list =
        mpq_arena_grow(build->ctx, build->arena, job->out->attribute, n, n + 1, sizeof *list);
    if (!list)
        return MPQ_E_NOMEM;
    list[n] = mpq_write_attr(build->ctx, build->arena, attr);
    if (!list[n])
        return MPQ_E_NOMEM;
    job->out->attribute = list;
    job->out->n_attribute = n + 1;
    return MPQ_OK;
}

static enum mpq_status axes_to_input(struct job *job)
{
    struct mpq_build *build = job->build;
    size_t n;
    const int64_t *axes = mpq_attr_ints(&job->node->attr_set, "axes", &n);
    if (!axes || job->out->n_input != 1)
        return MPQ_OK;
    char **input = mpq_arena_alloc(build->ctx, build->arena, 2, sizeof *input);
    const char *name = mpq_build_shared_ints(build, axes, n);
    if (!input || !name)
        return build->ctx->status;
    input[0] = job->out->input[0];
    input[1] = mpq_write_text(name);
    job->out->input = input;
    job->out->n_input = 2;
    drop_attr(job, "axes");
    return MPQ_OK;
}

/* Equal parts must say how many. */
static enum mpq_status count_parts(struct job *job)
{
    if (job->out->n_input > 1 && *job->out->input[1])
        return MPQ_OK;
    return put_attr(job, &(struct mpq_attr){.name = "num_outputs",
                                            .kind = MPQ_ATTR_INT,
                                            .i = (int64_t)job->out->n_output});
}

static enum mpq_status sample_mode(struct job *job)
{
    const char *mode = mpq_attr_string(&job->node->attr_set, "mode", "bilinear");
    if (strcmp(mode, "nearest") == 0)
        return MPQ_OK;
    const char *now = strcmp(mode, "bicubic") == 0 ? "cubic" : "linear";
    return put_attr(job, &(struct mpq_attr){
                             .name = "mode", .kind = MPQ_ATTR_STRING, .n = strlen(now), .s = now});
}

static enum mpq_status refuse(struct job *job)
{
    return mpq_fail_node(job->build->ctx, job->node, MPQ_E_UNSUPPORTED,
                         "means something else in opset %d, which the weights' types need for this "
                         "--target",
                         (int)job->to);
}

/* What changed, as onnx/docs/Changelog.md has it; all else took more types, or got an attribute
 * whose default is the old meaning. */
static const struct {
    const char *op_type;
    int64_t since;
    enum mpq_status (*apply)(struct job *);
} rule[] = {
    {"ReduceL1", 18, axes_to_input},
    {"ReduceL2", 18, axes_to_input},
    {"ReduceLogSum", 18, axes_to_input},
    {"ReduceLogSumExp", 18, axes_to_input},
    {"ReduceMax", 18, axes_to_input},
    {"ReduceMean", 18, axes_to_input},
    {"ReduceMin", 18, axes_to_input},
    {"ReduceProd", 18, axes_to_input},
    {"ReduceSumSquare", 18, axes_to_input},
    {"Split", 18, count_parts},
    {"GridSample", 20, sample_mode},
    {"RoiAlign", 16, refuse},
    {"DFT", 20, refuse},
    {"GroupNormalization", 21, refuse},
};

static bool has_changed(const char *op_type, int64_t from, int64_t to, size_t *out_rule)
{
    for (size_t i = 0; i < MPQ_COUNT(rule); i++)
        if (rule[i].since > from && rule[i].since <= to && !strcmp(rule[i].op_type, op_type)) {
            *out_rule = i;
            return true;
        }
    return false;
}

/* Bodies of If, Loop and Scan are carried as they are, so nothing in them may have changed. */
static enum mpq_status check_body(struct job *job, const Onnx__GraphProto *body, int64_t from)
{
    size_t i;
    for (size_t n = 0; body && n < body->n_node; n++) {
        const Onnx__NodeProto *node = body->node[n];
        if (node->op_type && has_changed(node->op_type, from, job->to, &i))
            return mpq_fail_node(job->build->ctx, job->node, MPQ_E_UNSUPPORTED,
                                 "has a %s in its body, which is spelled otherwise in opset %d",
                                 node->op_type, (int)job->to);
        for (size_t a = 0; a < node->n_attribute; a++) {
            MPQ_TRY(check_body(job, node->attribute[a]->g, from));
            for (size_t g = 0; g < node->attribute[a]->n_graphs; g++)
                MPQ_TRY(check_body(job, node->attribute[a]->graphs[g], from));
        }
    }
    return MPQ_OK;
}

enum mpq_status mpq_respell(struct mpq_build *build, const struct mpq_node *node, int64_t from,
                            int64_t to, Onnx__NodeProto *out)
{
    struct job job = {build, node, to, out};
    size_t i;
    if (from >= to || *node->domain)
        return MPQ_OK;
    for (size_t a = 0; a < out->n_attribute; a++) {
        MPQ_TRY(check_body(&job, out->attribute[a]->g, from));
        for (size_t g = 0; g < out->attribute[a]->n_graphs; g++)
            MPQ_TRY(check_body(&job, out->attribute[a]->graphs[g], from));
    }
    return has_changed(node->op_type, from, to, &i) ? rule[i].apply(&job) : MPQ_OK;
}
