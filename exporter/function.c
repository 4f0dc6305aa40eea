#include "exporter/function.h"

#include <string.h>

#include "exporter/write.h"

/* Most values in a body and most functions in a file: all of them are named by one letter. */
#define MAX_NAMES MPQ_N_LETTER

/* Least bytes that a function must save: fewer programs read a file that has functions. */
#define WORTH_A_FUNCTION 64

/* Values of the graph that a body reads or makes: name[i] is called mpq_build_letter(i) there. */
struct renaming {
    const char *name[MAX_NAMES];
    bool is_made[MAX_NAMES];
    size_t n;
};

/* A function that some runs could call. */
struct body {
    Onnx__FunctionProto message; /* without name and domain until it is kept              */
    Onnx__NodeProto *own;        /* the node that a call names, in message; NULL: none    */
    uint8_t *packed;             /* [bytes] message as it was found: equal bodies are one */
    size_t bytes;
    int64_t saving; /* of file bytes, by all calls together */
};

/* Stands for the name and the domain of a function until it is kept: as long as these. */
static const char unnamed[] = "?";

/* What may take the place of the nodes [first, run->end). */
struct call {
    Onnx__NodeProto *message; /* NULL: the run stays as it is, so far */
    struct body *body;
    size_t first;
};

struct writing {
    struct mpq_build *build;
    int64_t opset;
    struct mpq_functions functions;
    struct body **body;
    size_t n_body;
};

/* What a node takes in a graph, tag and length included. */
static size_t node_bytes(const Onnx__NodeProto *node)
{
    size_t bytes = onnx__node_proto__get_packed_size(node);
    return 1 + mpq_varint_bytes(bytes) + bytes;
}

static char *rename_value(struct renaming *renaming, const char *name, bool is_made)
{
    size_t i = 0;
    if (!*name)
        return mpq_write_text(name);
    while (i < renaming->n && strcmp(renaming->name[i], name) != 0)
        i++;
    if (i == MAX_NAMES)
        return NULL;
    if (i == renaming->n) {
        renaming->name[i] = name;
        renaming->is_made[i] = is_made;
        renaming->n++;
    }
    return mpq_write_text(mpq_build_letter(i));
}

/* The node with the names of the body; NULL: there are too many, or no memory. */
static Onnx__NodeProto *copy_node(struct mpq_build *build, const Onnx__NodeProto *node,
                                  struct renaming *renaming)
{
    Onnx__NodeProto *copy = mpq_arena_copy(build->ctx, build->arena, node, sizeof *node);
    char **name =
        mpq_arena_alloc(build->ctx, build->arena, node->n_input + node->n_output, sizeof *name);
    if (!copy || !name)
        return NULL;
    copy->input = name;
    copy->output = name + node->n_input;
    for (size_t i = 0; i < node->n_input; i++)
        if (!(copy->input[i] = rename_value(renaming, node->input[i], false)))
            return NULL;
    for (size_t i = 0; i < node->n_output; i++)
        if (!(copy->output[i] = rename_value(renaming, node->output[i], true)))
            return NULL;
    return copy;
}

/* Whether a body can say all that the node says: documentation, metadata and the like are about
 * this one node, and bodies inside it read values of the graph by name. */
static bool can_be_in_body(const Onnx__NodeProto *node)
{
    bool is_plain = (!node->domain || !*node->domain) &&
                    (!node->doc_string || !*node->doc_string) && !node->n_metadata_props &&
                    !node->n_device_configurations && !node->base.n_unknown_fields;
    for (size_t a = 0; a < node->n_attribute; a++)
        is_plain &= !node->attribute[a]->g && !node->attribute[a]->n_graphs;
    return is_plain;
}

/* Inputs and outputs of function and call: values that the run reads and does not make, and those
 * it makes that others may read. */
static enum mpq_status connect(struct mpq_build *build, const struct mpq_run *run,
                               const struct renaming *renaming, Onnx__FunctionProto *function,
                               Onnx__NodeProto *call)
{
    size_t n = renaming->n;
    char **name = mpq_arena_alloc(build->ctx, build->arena, 4 * n, sizeof *name);
    if (!name)
        return MPQ_E_NOMEM;
    function->input = name;
    function->output = name + n;
    call->input = name + 2 * n;
    call->output = name + 3 * n;
    for (size_t i = 0; i < n; i++) {
        bool is_read = false;
        for (size_t k = 0; k < run->n_out && renaming->is_made[i]; k++)
            is_read |= strcmp(run->out[k], renaming->name[i]) == 0;
        if (!renaming->is_made[i]) {
            function->input[function->n_input++] = mpq_write_text(mpq_build_letter(i));
            call->input[call->n_input++] = mpq_write_text(renaming->name[i]);
        } else if (is_read) {
            function->output[function->n_output++] = mpq_write_text(mpq_build_letter(i));
            call->output[call->n_output++] = mpq_write_text(renaming->name[i]);
        }
    }
    return MPQ_OK;
}

/* The body that equals `wanted`; a new one where there is none. */
static enum mpq_status find_body(struct writing *w, const struct body *wanted, struct body **out)
{
    struct mpq_build *build = w->build;
    size_t bytes = onnx__function_proto__get_packed_size(&wanted->message);
    uint8_t *packed = mpq_arena_alloc(build->ctx, build->arena, bytes, 1);
    if (!packed)
        return MPQ_E_NOMEM;
    onnx__function_proto__pack(&wanted->message, packed);
    for (size_t i = 0; i < w->n_body; i++)
        if (w->body[i]->bytes == bytes && memcmp(w->body[i]->packed, packed, bytes) == 0) {
            *out = w->body[i];
            return MPQ_OK;
        }
    struct body *made = mpq_arena_copy(build->ctx, build->arena, wanted, sizeof *wanted);
    if (!made)
        return MPQ_E_NOMEM;
    made->packed = packed;
    made->bytes = bytes;
    made->saving =
        -(int64_t)(2 + mpq_varint_bytes(bytes + 6) + bytes + 6); /* name and domain: 3 each */
    w->body[w->n_body++] = *out = made;
    return MPQ_OK;
}

/* The call that may take the place of the nodes [first, run->end). One that cannot has no body. */
static enum mpq_status make_call(struct writing *w, const struct mpq_run *run, size_t first,
                                 struct call *out)
{
    struct mpq_build *build = w->build;
    struct renaming renaming = {0};
    struct body wanted = {0};
    size_t n = run->end - first, before = 0;
    *out = (struct call){.first = first};
    for (size_t i = first; i < run->end; i++)
        if (!can_be_in_body(build->node[i]))
            return MPQ_OK;
    if (n < 2)
        return MPQ_OK;
    struct {
        Onnx__NodeProto call;
        Onnx__OperatorSetIdProto opset, *opsets;
        Onnx__NodeProto *node[];
    } *made = mpq_arena_alloc(build->ctx, build->arena, 1, sizeof *made + n * sizeof *made->node);
    if (!made)
        return MPQ_E_NOMEM;
    onnx__node_proto__init(&made->call);
    onnx__operator_set_id_proto__init(&made->opset);
    onnx__function_proto__init(&wanted.message);
    made->opset.domain = mpq_write_text("");
    made->opset.has_version = 1;
    made->opset.version = w->opset;
    made->opsets = &made->opset;
    wanted.message.n_opset_import = 1;
    wanted.message.opset_import = &made->opsets;
    wanted.message.n_node = n;
    wanted.message.node = made->node;
    for (size_t i = 0; i < n; i++) {
        const Onnx__NodeProto *node = build->node[first + i];
        made->node[i] = copy_node(build, node, &renaming);
        if (!made->node[i])
            return build->ctx->status;
        before += node_bytes(node);
        if (first + i != run->own || !node->name || !*node->name)
            continue;
        made->call.name = node->name;
        wanted.own = made->node[i];
        wanted.own->name = mpq_write_text(unnamed);
    }
    MPQ_TRY(connect(build, run, &renaming, &wanted.message, &made->call));
    made->call.op_type = made->call.domain = mpq_write_text(unnamed);
    MPQ_TRY(find_body(w, &wanted, &out->body));
    out->message = &made->call;
    out->body->saving += (int64_t)before - (int64_t)node_bytes(&made->call);
    return MPQ_OK;
}

/* A letter that names no function yet, `wish` if that is one; NULL: none is left. */
static const char *free_letter(const struct mpq_functions *functions, char wish)
{
    const char *free = NULL;
    for (size_t i = 0; i < MAX_NAMES; i++) {
        bool is_taken = false;
        for (size_t f = 0; f < functions->n; f++)
            is_taken |= strcmp(functions->function[f]->name, mpq_build_letter(i)) == 0;
        if (!is_taken && (!free || *mpq_build_letter(i) == wish))
            free = mpq_build_letter(i);
    }
    return free;
}

/* Make the body a function of the file if it saves enough; whether it is one. */
static bool keep_body(struct mpq_functions *functions, struct body *body)
{
    if (body->message.name || body->saving < WORTH_A_FUNCTION)
        return body->message.name != NULL;
    const Onnx__NodeProto *first = body->own ? body->own : body->message.node[0];
    const char *name = free_letter(functions, *first->op_type);
    if (!name)
        return false;
    body->message.name = mpq_write_text(name);
    body->message.domain = mpq_write_text(functions->domain);
    if (body->own)
        body->own->name = body->message.name;
    functions->function[functions->n++] = &body->message;
    return true;
}

static size_t behind_own(const struct mpq_run *run)
{
    return run->own == MPQ_NO_OWN ? run->first : run->own + 1;
}

/* Calls for the runs that have none yet: of whole runs, or of what is behind their own node. */
static enum mpq_status make_calls(struct writing *w, const struct mpq_run *run, size_t n_run,
                                  bool is_whole, struct call *call)
{
    w->n_body = 0;
    for (size_t r = 0; r < n_run; r++)
        if (!call[r].message)
            MPQ_TRY(make_call(w, &run[r], is_whole ? run[r].first : behind_own(&run[r]), &call[r]));
    for (size_t r = 0; r < n_run; r++) {
        struct body *body = call[r].body;
        if (!call[r].message || call[r].message->op_type != unnamed)
            continue;
        bool is_kept = keep_body(&w->functions, body);
        call[r].message->op_type = body->message.name;
        call[r].message->domain = body->message.domain;
        if (!is_kept)
            call[r].message = NULL;
    }
    return MPQ_OK;
}

static void replace_runs(struct mpq_build *build, const struct mpq_run *run, size_t n_run,
                         const struct call *call)
{
    size_t n = 0, from = 0;
    for (size_t r = 0; r <= n_run; r++) {
        if (r < n_run && !call[r].message)
            continue;
        for (size_t end = r < n_run ? call[r].first : build->n_node; from < end; from++)
            build->node[n++] = build->node[from];
        if (r < n_run) {
            build->node[n++] = call[r].message;
            from = run[r].end;
        }
    }
    build->n_node = n;
}

static const char *free_domain(Onnx__OperatorSetIdProto *const *taken, size_t n_taken)
{
    for (size_t i = 12; i < MAX_NAMES; i++) { /* m */
        bool is_taken = false;
        for (size_t k = 0; k < n_taken; k++)
            is_taken |= taken[k]->domain && strcmp(taken[k]->domain, mpq_build_letter(i)) == 0;
        if (!is_taken)
            return mpq_build_letter(i);
    }
    return NULL;
}

enum mpq_status mpq_write_functions(struct mpq_build *build, int64_t opset,
                                    Onnx__OperatorSetIdProto *const *taken, size_t n_taken,
                                    const struct mpq_run *run, size_t n_run,
                                    struct mpq_functions *out)
{
    struct writing w = {.build = build, .opset = opset};
    struct call *call = mpq_arena_alloc(build->ctx, build->arena, n_run, sizeof *call);
    w.body = mpq_arena_alloc(build->ctx, build->arena, n_run, sizeof *w.body);
    w.functions.function = mpq_arena_alloc(build->ctx, build->arena, MAX_NAMES, sizeof(void *));
    w.functions.domain = free_domain(taken, n_taken);
    if (!call || !w.body || !w.functions.function)
        return MPQ_E_NOMEM;
    if (w.functions.domain) {
        MPQ_TRY(make_calls(&w, run, n_run, true, call));
        MPQ_TRY(make_calls(&w, run, n_run, false, call));
        replace_runs(build, run, n_run, call);
    }
    *out = w.functions;
    return MPQ_OK;
}
