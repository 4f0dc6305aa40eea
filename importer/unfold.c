#include "importer/unfold.h"

#include <inttypes.h>
#include <string.h>

#include "importer/import_tensor.h"
#include "importer/rewrite.h"

static enum mpq_status fail(const struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                            enum mpq_status status, const char *sentence)
{
    return mpq_fail(rewrite->ctx, status, "node '%s' (%s): %s", mpq_rewrite_label(owner),
                    owner->op_type, sentence);
}

static Onnx__GraphProto *body_of(const Onnx__NodeProto *owner, const char *name)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(owner, name);
    return attr ? attr->g : NULL;
}

static enum mpq_status check_names(const struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                                   const Onnx__GraphProto *body)
{
    bool good = true;
    for (size_t i = 0; i < body->n_input; i++)
        good &= body->input[i]->name != NULL;
    for (size_t i = 0; i < body->n_output; i++)
        good &= body->output[i]->name != NULL;
    return good ? MPQ_OK
                : fail(rewrite, owner, MPQ_E_FORMAT, "an input or output of its body has no name");
}

/* ---- If ---- */

static enum mpq_status find_branch(struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                                   const char *which, Onnx__GraphProto **out)
{
    Onnx__GraphProto *body = body_of(owner, which);
    if (!body || body->n_output < owner->n_output || body->n_input)
        return mpq_fail(rewrite->ctx, MPQ_E_FORMAT, "node '%s' (If) has no %s with %zu outputs",
                        mpq_rewrite_label(owner), which, owner->n_output);
    *out = body;
    return check_names(rewrite, owner, body);
}

/* The nodes of a body, once. */
static enum mpq_status put_nodes(struct mpq_rewrite *rewrite, const Onnx__GraphProto *body,
                                 struct mpq_renaming *renaming)
{
    for (size_t n = 0; n < body->n_node; n++) {
        Onnx__NodeProto *copy = NULL;
        MPQ_TRY(mpq_rewrite_copy_node(rewrite, renaming, body->node[n], &copy));
        MPQ_TRY(mpq_rewrite_append(rewrite, copy));
    }
    return MPQ_OK;
}

static enum mpq_status put_branch(struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                                  const char *which, char ***out_made)
{
    struct mpq_renaming renaming = {0};
    Onnx__GraphProto *body = NULL;
    MPQ_TRY(find_branch(rewrite, owner, which, &body));
    MPQ_TRY(mpq_rewrite_adopt_initializers(rewrite, body, true, &renaming));
    MPQ_TRY(mpq_rewrite_adopt_values(rewrite, body, true, &renaming));
    MPQ_TRY(put_nodes(rewrite, body, &renaming));
    char **made = mpq_arena_alloc(rewrite->ctx, rewrite->arena, owner->n_output, sizeof *made);
    if (!made)
        return MPQ_E_NOMEM;
    for (size_t i = 0; i < owner->n_output; i++)
        made[i] = mpq_renaming_get(&renaming, body->output[i]->name);
    *out_made = made;
    return MPQ_OK;
}

static enum mpq_status take_branch(struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                                   const char *which)
{
    char **made;
    MPQ_TRY(put_branch(rewrite, owner, which, &made));
    for (size_t i = 0; i < owner->n_output; i++)
        if (*owner->output[i])
            MPQ_TRY(mpq_rewrite_op(rewrite, "Identity", 1, &made[i], owner->output[i]));
    return MPQ_OK;
}

/* A condition may be [1] or []; as a scalar it broadcasts without changing a rank. */
static enum mpq_status put_scalar(struct mpq_rewrite *rewrite, char *condition, char **out)
{
    MPQ_TRY(mpq_rewrite_name(rewrite, "condition", out));
    return mpq_rewrite_op(rewrite, "Squeeze", 1, &condition, *out);
}

static enum mpq_status take_both(struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner)
{
    char **made[2], *condition = NULL;
    MPQ_TRY(put_branch(rewrite, owner, "then_branch", &made[0]));
    MPQ_TRY(put_branch(rewrite, owner, "else_branch", &made[1]));
    MPQ_TRY(put_scalar(rewrite, owner->input[0], &condition));
    for (size_t i = 0; i < owner->n_output; i++)
        if (*owner->output[i])
            MPQ_TRY(mpq_rewrite_op(rewrite, "Where", 3,
                                   (char *[]){condition, made[0][i], made[1][i]},
                                   owner->output[i]));
    return MPQ_OK;
}

/* ---- Loop and Scan ---- */

/* A body repeated: what its inputs are now, and the pieces its scan outputs have given. */
struct repeat {
    struct mpq_rewrite *rewrite;
    const Onnx__NodeProto *owner;
    const Onnx__GraphProto *body;
    struct mpq_renaming renaming;
    int64_t n;
    size_t n_state, n_scan;
    size_t first_in, first_out; /* of the states among the body's inputs and outputs */
    char **state;               /* [n_state] */
    char **piece;               /* [n_scan][n] */
};

static enum mpq_status begin_repeat(struct repeat *r, char *const *state)
{
    struct mpq_rewrite *rewrite = r->rewrite;
    MPQ_TRY(check_names(rewrite, r->owner, r->body));
    if (r->n == 0 && r->n_scan)
        return fail(rewrite, r->owner, MPQ_E_UNSUPPORTED,
                    "runs not once, so that nothing says what it collects");
    r->state = mpq_arena_copy(rewrite->ctx, rewrite->arena, state, r->n_state * sizeof *r->state);
    r->piece =
        mpq_arena_alloc(rewrite->ctx, rewrite->arena, r->n_scan * (size_t)r->n, sizeof *r->piece);
    if (!r->state || !r->piece)
        return MPQ_E_NOMEM;
    return mpq_rewrite_adopt_initializers(rewrite, r->body, false, &r->renaming);
}

static enum mpq_status set_input(struct repeat *r, size_t i, char *value)
{
    return mpq_renaming_add(r->rewrite, &r->renaming, r->body->input[i]->name, value);
}

/* One iteration, after the inputs that are no states have been set. out_next [n_state] */
static enum mpq_status put_iteration(struct repeat *r, int64_t i, const int64_t *axis,
                                     char **out_next)
{
    for (size_t k = 0; k < r->n_state; k++)
        MPQ_TRY(set_input(r, r->first_in + k, r->state[k]));
    MPQ_TRY(mpq_rewrite_adopt_values(r->rewrite, r->body, false, &r->renaming));
    MPQ_TRY(put_nodes(r->rewrite, r->body, &r->renaming));
    for (size_t k = 0; k < r->n_state; k++)
        out_next[k] = mpq_renaming_get(&r->renaming, r->body->output[r->first_out + k]->name);
    for (size_t k = 0; k < r->n_scan; k++) {
        char *made = r->body->output[r->first_out + r->n_state + k]->name, *axes = NULL;
        char **piece = &r->piece[k * (size_t)r->n + (size_t)i];
        made = mpq_renaming_get(&r->renaming, made);
        MPQ_TRY(mpq_rewrite_constant(r->rewrite, MPQ_INT64, 1, 1, &axis[k], &axes));
        MPQ_TRY(mpq_rewrite_name(r->rewrite, made, piece));
        MPQ_TRY(mpq_rewrite_op(r->rewrite, "Unsqueeze", 2, (char *[]){made, axes}, *piece));
    }
    return MPQ_OK;
}

static enum mpq_status end_repeat(struct repeat *r, const int64_t *axis)
{
    const Onnx__NodeProto *owner = r->owner;
    for (size_t k = 0; k < r->n_state && k < owner->n_output; k++)
        if (*owner->output[k])
            MPQ_TRY(mpq_rewrite_op(r->rewrite, "Identity", 1, &r->state[k], owner->output[k]));
    for (size_t k = 0; k < r->n_scan && r->n_state + k < owner->n_output; k++)
        if (*owner->output[r->n_state + k])
            MPQ_TRY(mpq_rewrite_op_with(r->rewrite, "Concat", (size_t)r->n,
                                        &r->piece[k * (size_t)r->n], owner->output[r->n_state + k],
                                        "axis", axis[k]));
    return MPQ_OK;
}

/* Whether the body passes its condition on, or says true: then the loop ends by its count. */
static bool always_goes_on(const Onnx__GraphProto *body)
{
    const char *name = body->output[0]->name;
    for (size_t step = 0; step <= body->n_node; step++) {
        const Onnx__NodeProto *maker = NULL;
        const Onnx__TensorProto *constant = NULL;
        if (strcmp(name, body->input[1]->name) == 0)
            return true;
        for (size_t i = 0; i < body->n_initializer; i++)
            if (body->initializer[i]->name && strcmp(body->initializer[i]->name, name) == 0)
                constant = body->initializer[i];
        for (size_t n = 0; n < body->n_node; n++)
            if (body->node[n]->n_output == 1 && strcmp(body->node[n]->output[0], name) == 0)
                maker = body->node[n];
        if (maker && !maker->op_type)
            return false;
        if (maker && strcmp(maker->op_type, "Constant") == 0 && maker->n_attribute == 1)
            constant = maker->attribute[0]->t;
        if (constant)
            return constant->data_type == MPQ_BOOL &&
                   ((constant->raw_data.len == 1 && constant->raw_data.data[0]) ||
                    (constant->n_int32_data == 1 && constant->int32_data[0]));
        if (!maker || strcmp(maker->op_type, "Identity") != 0 || maker->n_input != 1)
            return false;
        name = maker->input[0];
    }
    return false;
}

/* state = condition ? next : state, and the condition of the iteration after this one. */
static enum mpq_status hold_back(struct repeat *r, char *const *next, char **condition)
{
    char *goes_on = mpq_renaming_get(&r->renaming, r->body->output[0]->name), *scalar = NULL;
    for (size_t k = 0; k < r->n_state; k++) {
        char *kept = NULL;
        MPQ_TRY(mpq_rewrite_name(r->rewrite, next[k], &kept));
        MPQ_TRY(mpq_rewrite_op(r->rewrite, "Where", 3, (char *[]){*condition, next[k], r->state[k]},
                               kept));
        r->state[k] = kept;
    }
    MPQ_TRY(put_scalar(r->rewrite, goes_on, &scalar));
    char *both = NULL;
    MPQ_TRY(mpq_rewrite_name(r->rewrite, "condition", &both));
    MPQ_TRY(mpq_rewrite_op(r->rewrite, "And", 2, (char *[]){*condition, scalar}, both));
    *condition = both;
    return MPQ_OK;
}

/* Loop: [count, condition, states...] -> [states..., collected...]. A loop that may stop early runs
 * to its count all the same, and its states stay as they are from there on. */
static enum mpq_status repeat_loop(struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                                   const struct mpq_unfolding *unfolding)
{
    struct repeat r = {.rewrite = rewrite,
                       .owner = owner,
                       .body = body_of(owner, "body"),
                       .n = unfolding->n,
                       .n_state = owner->n_input > 2 ? owner->n_input - 2 : 0,
                       .first_in = 2,
                       .first_out = 1};
    if (!r.body || r.body->n_input != r.n_state + 2 || r.body->n_output < r.n_state + 1)
        return fail(rewrite, owner, MPQ_E_FORMAT, "its body does not fit its inputs");
    r.n_scan = r.body->n_output - 1 - r.n_state;
    MPQ_TRY(begin_repeat(&r, owner->input + 2));
    bool may_stop = unfolding->how == MPQ_UNFOLD_WHILE || !always_goes_on(r.body);
    if (may_stop && r.n_scan)
        return fail(rewrite, owner, MPQ_E_UNSUPPORTED,
                    "how much it collects depends on data: its condition is computed");
    char **next = mpq_arena_alloc(rewrite->ctx, rewrite->arena, r.n_state, sizeof *next);
    int64_t *axis = mpq_arena_alloc(rewrite->ctx, rewrite->arena, r.n_scan, sizeof *axis);
    char *condition = NULL, *yes = NULL;
    if (!next || !axis)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_rewrite_constant(rewrite, MPQ_BOOL, 0, 1, &(int64_t){1}, &yes));
    condition = yes;
    if (unfolding->how == MPQ_UNFOLD_WHILE)
        MPQ_TRY(put_scalar(rewrite, owner->input[1], &condition));
    for (int64_t i = 0; i < r.n; i++) {
        char *count = NULL;
        MPQ_TRY(mpq_rewrite_constant(rewrite, MPQ_INT64, 0, 1, &i, &count));
        MPQ_TRY(set_input(&r, 0, count));
        MPQ_TRY(set_input(&r, 1, yes));
        MPQ_TRY(put_iteration(&r, i, axis, next));
        if (may_stop)
            MPQ_TRY(hold_back(&r, next, &condition));
        else
            memcpy(r.state, next, r.n_state * sizeof *next);
    }
    return end_repeat(&r, axis);
}

/* Entry k of a list attribute, 0 where there is no such list. */
static int64_t entry(const Onnx__NodeProto *owner, const char *name, size_t k)
{
    const Onnx__AttributeProto *attr = mpq_rewrite_attr(owner, name);
    return attr && k < attr->n_ints ? attr->ints[k] : 0;
}

/* Pieces in the order in which they were made, or the other way round. */
static void reverse(char **piece, int64_t n)
{
    for (int64_t i = 0; i < n / 2; i++) {
        char *first = piece[i];
        piece[i] = piece[n - 1 - i];
        piece[n - 1 - i] = first;
    }
}

/* Scan: [states..., walked along...] -> [states..., collected...]. */
static enum mpq_status repeat_scan(struct mpq_rewrite *rewrite, const Onnx__NodeProto *owner,
                                   const struct mpq_unfolding *unfolding)
{
    const Onnx__AttributeProto *n_walked = mpq_rewrite_attr(owner, "num_scan_inputs");
    struct repeat r = {
        .rewrite = rewrite, .owner = owner, .body = body_of(owner, "body"), .n = unfolding->n};
    if (!r.body || !n_walked || n_walked->i < 1 || (uint64_t)n_walked->i > owner->n_input ||
        r.body->n_input != owner->n_input || r.body->n_output < owner->n_output ||
        r.body->n_output < owner->n_input - (size_t)n_walked->i)
        return fail(rewrite, owner, MPQ_E_FORMAT, "its body does not fit its inputs");
    r.n_state = owner->n_input - (size_t)n_walked->i;
    r.n_scan = r.body->n_output - r.n_state;
    MPQ_TRY(begin_repeat(&r, owner->input));
    int64_t *axis = mpq_arena_alloc(rewrite->ctx, rewrite->arena, r.n_scan, sizeof *axis);
    if (!axis)
        return MPQ_E_NOMEM;
    for (size_t k = 0; k < r.n_scan; k++)
        axis[k] = entry(owner, "scan_output_axes", k);
    char **next = mpq_arena_alloc(rewrite->ctx, rewrite->arena, r.n_state, sizeof *next);
    if (!next)
        return MPQ_E_NOMEM;
    for (int64_t i = 0; i < r.n; i++) {
        for (size_t k = 0; k < (size_t)n_walked->i; k++) {
            char *at = NULL, *slice = NULL, *from = owner->input[r.n_state + k];
            int64_t place = entry(owner, "scan_input_directions", k) ? r.n - 1 - i : i;
            MPQ_TRY(mpq_rewrite_constant(rewrite, MPQ_INT64, 0, 1, &place, &at));
            MPQ_TRY(mpq_rewrite_name(rewrite, r.body->input[r.n_state + k]->name, &slice));
            MPQ_TRY(mpq_rewrite_op_with(rewrite, "Gather", 2, (char *[]){from, at}, slice, "axis",
                                        entry(owner, "scan_input_axes", k)));
            MPQ_TRY(set_input(&r, r.n_state + k, slice));
        }
        MPQ_TRY(put_iteration(&r, i, axis, next));
        memcpy(r.state, next, r.n_state * sizeof *next);
    }
    for (size_t k = 0; k < r.n_scan; k++)
        if (entry(owner, "scan_output_directions", k))
            reverse(&r.piece[k * (size_t)r.n], r.n);
    return end_repeat(&r, axis);
}

static enum mpq_status unfold(struct mpq_rewrite *rewrite, Onnx__NodeProto *node,
                              const struct mpq_unfolding *unfolding)
{
    bool is_if = strcmp(node->op_type, "If") == 0;
    switch (unfolding->how) {
    case MPQ_UNFOLD_THEN:
        return take_branch(rewrite, node, "then_branch");
    case MPQ_UNFOLD_ELSE:
        return take_branch(rewrite, node, "else_branch");
    case MPQ_UNFOLD_BOTH:
        MPQ_ASSERT(is_if && node->n_input == 1);
        return take_both(rewrite, node);
    case MPQ_UNFOLD_REPEAT:
    case MPQ_UNFOLD_WHILE:
        MPQ_ASSERT(!is_if);
        return strcmp(node->op_type, "Loop") == 0 ? repeat_loop(rewrite, node, unfolding)
                                                  : repeat_scan(rewrite, node, unfolding);
    default:
        return mpq_rewrite_append(rewrite, node);
    }
}

enum mpq_status mpq_unfold_nodes(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 const struct mpq_unfolding *unfolding, Onnx__GraphProto *graph)
{
    struct mpq_rewrite rewrite;
    MPQ_TRY(mpq_rewrite_begin(ctx, arena, graph, &rewrite));
    for (size_t n = 0; n < graph->n_node; n++)
        MPQ_TRY(unfold(&rewrite, graph->node[n], &unfolding[n]));
    MPQ_TRY(mpq_rewrite_part_scopes(&rewrite));
    mpq_rewrite_end(&rewrite);
    return MPQ_OK;
}
