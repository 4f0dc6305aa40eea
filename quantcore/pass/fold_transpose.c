/* Transposes sink towards the outputs, through elementwise operators and Concat, until they meet
 * their inverse and both go. A file made from a channels-last model has one before and one after
 * every convolution. */
#include "quantcore/pass/edit.h"

#include <string.h>

struct perm {
    int rank;
    int axis[MPQ_MAX_RANK]; /* dimension i of the output is dimension axis[i] of the input */
};

static bool read_perm(const struct mpq_edit *edit, const struct mpq_node *node, struct perm *out)
{
    if (!node || !mpq_node_is(node, "Transpose") || node->n_in != 1 || node->n_out != 1)
        return false;
    size_t n;
    const int64_t *axis = mpq_attr_ints(&node->attr_set, "perm", &n);
    int rank = axis ? (int)n : edit->value[mpq_edit_input(edit, node, 0)].shape.rank;
    bool seen[MPQ_MAX_RANK] = {false};
    if (rank < 1 || rank > MPQ_MAX_RANK)
        return false;
    out->rank = rank;
    for (int i = 0; i < rank; i++) {
        int64_t a = axis ? axis[i] : rank - 1 - i;
        if (a < 0 || a >= rank || seen[a])
            return false;
        seen[a] = true;
        out->axis[i] = (int)a;
    }
    return true;
}

static bool perm_equal(const struct perm *a, const struct perm *b)
{
    return a->rank == b->rank && memcmp(a->axis, b->axis, (size_t)a->rank * sizeof *a->axis) == 0;
}

static bool perm_is_identity(const struct perm *perm)
{
    for (int i = 0; i < perm->rank; i++)
        if (perm->axis[i] != i)
            return false;
    return true;
}

static enum mpq_status set_perm(struct mpq_edit *edit, struct mpq_node *node,
                                const struct perm *perm)
{
    int64_t *axis = mpq_arena_alloc(edit->ctx, edit->arena, perm->rank, sizeof *axis);
    if (!axis)
        return MPQ_E_NOMEM;
    for (int i = 0; i < perm->rank; i++)
        axis[i] = perm->axis[i];
    struct mpq_attr attr = {
        .name = "perm", .kind = MPQ_ATTR_INTS, .n = (size_t)perm->rank, .ints = axis};
    MPQ_TRY(mpq_edit_set_attr(edit, node, &attr));
    return mpq_op_resolve(edit->ctx, edit->arena, node);
}

/* A Transpose of a Transpose is one Transpose; one that changes nothing goes. */
static enum mpq_status merge(struct mpq_edit *edit, struct mpq_node *node, const struct perm *perm)
{
    mpq_value_id x = node->in[0];
    struct perm total = *perm, before;
    const struct mpq_node *first = mpq_edit_producer(edit, x);
    bool is_pair = read_perm(edit, first, &before) && before.rank == perm->rank;
    if (is_pair) {
        x = mpq_edit_input(edit, first, 0);
        for (int i = 0; i < perm->rank; i++)
            total.axis[i] = before.axis[perm->axis[i]];
    }
    if (perm_is_identity(&total)) {
        bool is_done;
        MPQ_TRY(mpq_edit_bypass(edit, node->out[0], x, &is_done));
        if (is_done)
            return MPQ_OK;
    }
    if (!is_pair)
        return MPQ_OK;
    MPQ_TRY(mpq_edit_set_input(edit, node, 0, x));
    return set_perm(edit, node, &total);
}

/* Operators that treat every element alike: the first n_data inputs are combined by broadcasting
 * (-1: all of them), the others are scalars. */
static const struct elementwise {
    const char *op_type;
    int n_data;
} elementwise[] = {
    {"Abs", 1},   {"Add", 2},         {"Cast", 1},       {"Ceil", 1},      {"Clip", 1},
    {"Div", 2},   {"Elu", 1},         {"Erf", 1},        {"Exp", 1},       {"Floor", 1},
    {"Gelu", 1},  {"HardSigmoid", 1}, {"HardSwish", 1},  {"LeakyRelu", 1}, {"Log", 1},
    {"Max", -1},  {"Min", -1},        {"Mish", 1},       {"Mul", 2},       {"Neg", 1},
    {"PRelu", 2}, {"Pow", 2},         {"Reciprocal", 1}, {"Relu", 1},      {"Round", 1},
    {"Selu", 1},  {"Sigmoid", 1},     {"Sign", 1},       {"Softplus", 1},  {"Softsign", 1},
    {"Sqrt", 1},  {"Sub", 2},         {"Sum", -1},       {"Tanh", 1},      {"ThresholdedRelu", 1},
};

/* Inputs of the node that carry the layout; 0 where a Transpose cannot sink through it. */
static uint32_t count_data_inputs(const struct mpq_node *node)
{
    if (mpq_node_is(node, "Concat"))
        return node->n_in;
    for (size_t i = 0; i < MPQ_COUNT(elementwise); i++) {
        if (!mpq_node_is(node, elementwise[i].op_type))
            continue;
        uint32_t n = elementwise[i].n_data < 0 ? node->n_in : (uint32_t)elementwise[i].n_data;
        return n < node->n_in ? n : node->n_in;
    }
    return 0;
}

/* Whether each input that carries the layout is a constant of fitting rank or a Transpose by one
 * common perm, and the others are constants. */
static bool match_inputs(const struct mpq_edit *edit, const struct mpq_node *node, uint32_t n_data,
                         struct perm *out_perm)
{
    bool is_concat = mpq_node_is(node, "Concat");
    int least_rank = MPQ_MAX_RANK, most_rank = 0; /* of the constants */
    out_perm->rank = 0;
    for (uint32_t i = 0; i < node->n_in; i++) {
        const struct mpq_tensor *constant = mpq_edit_constant(edit, node->in[i]);
        if (i >= n_data && (constant || node->in[i] == MPQ_NO_VALUE))
            continue;
        if (i >= n_data || node->in[i] == MPQ_NO_VALUE)
            return false;
        struct perm perm;
        if (constant) {
            least_rank = constant->shape.rank < least_rank ? constant->shape.rank : least_rank;
            most_rank = constant->shape.rank > most_rank ? constant->shape.rank : most_rank;
            if (!mpq_dtype_bytes(constant->dtype))
                return false;
        } else if (!read_perm(edit, mpq_edit_producer(edit, node->in[i]), &perm) ||
                   (out_perm->rank && !perm_equal(&perm, out_perm))) {
            return false;
        } else {
            *out_perm = perm;
        }
    }
    return most_rank <= out_perm->rank && !(is_concat && least_rank < out_perm->rank);
}

/* The last Transpose that only this node reads and so can give its slot to it; NULL where there is
 * none, or where a Transpose that others read too takes what is not computed yet at that slot. One
 * goes and one comes, so their number never grows. */
static struct mpq_node *find_slot(const struct mpq_edit *edit, const struct mpq_node *node,
                                  uint32_t n_data)
{
    struct mpq_node *slot = NULL;
    for (uint32_t i = 0; i < n_data; i++) {
        struct mpq_node *producer = mpq_edit_producer(edit, node->in[i]);
        if (producer && mpq_edit_is_private(edit, node->in[i]) && (!slot || producer > slot))
            slot = producer;
    }
    for (uint32_t i = 0; i < n_data && slot; i++) {
        const struct mpq_node *transpose = mpq_edit_producer(edit, node->in[i]);
        const struct mpq_node *maker =
            transpose ? mpq_edit_producer(edit, mpq_edit_input(edit, transpose, 0)) : NULL;
        if (maker && maker >= slot)
            return NULL;
    }
    return slot;
}

/* The constant as it broadcasts against values from before the Transpose. */
static enum mpq_status untranspose(struct mpq_edit *edit, const struct perm *perm,
                                   const struct mpq_tensor *c, struct mpq_tensor *out)
{
    struct mpq_shape padded = {.rank = perm->rank, .dim = {0}}, shape = padded;
    int missing = perm->rank - c->shape.rank;
    for (int i = 0; i < perm->rank; i++)
        padded.dim[i] = i < missing ? 1 : c->shape.dim[i - missing];
    for (int i = 0; i < perm->rank; i++)
        shape.dim[perm->axis[i]] = padded.dim[i];
    MPQ_TRY(mpq_tensor_alloc(edit->ctx, edit->arena, c->dtype, &shape, out));

    size_t bytes = mpq_dtype_bytes(c->dtype);
    int64_t index[MPQ_MAX_RANK] = {0}, n = mpq_shape_count(&padded); /* index of the constant */
    for (int64_t from = 0; from < n; from++) {
        int64_t at[MPQ_MAX_RANK], to = 0;
        for (int i = 0; i < perm->rank; i++)
            at[perm->axis[i]] = index[i];
        for (int i = 0; i < perm->rank; i++)
            to = to * shape.dim[i] + at[i];
        memcpy((char *)out->data + (size_t)to * bytes, (const char *)c->data + (size_t)from * bytes,
               bytes);
        for (int i = perm->rank - 1; i >= 0 && ++index[i] == padded.dim[i]; i--)
            index[i] = 0;
    }
    return MPQ_OK;
}

/* The node's inputs from before the Transposes. */
static enum mpq_status collect_inputs(struct mpq_edit *edit, const struct mpq_node *node,
                                      uint32_t n_data, const struct perm *perm,
                                      mpq_value_id *out_in)
{
    for (uint32_t i = 0; i < node->n_in; i++) {
        const struct mpq_tensor *constant = mpq_edit_constant(edit, node->in[i]);
        out_in[i] = node->in[i];
        if (i >= n_data)
            continue;
        if (!constant) {
            out_in[i] = mpq_edit_input(edit, mpq_edit_producer(edit, node->in[i]), 0);
        } else if (mpq_shape_count(&constant->shape) != 1 || mpq_node_is(node, "Concat")) {
            struct mpq_tensor moved;
            MPQ_TRY(untranspose(edit, perm, constant, &moved));
            MPQ_TRY(mpq_edit_new_constant(edit, node->in[i], &moved, &out_in[i]));
        }
    }
    return MPQ_OK;
}

static enum mpq_status set_concat_axis(struct mpq_edit *edit, struct mpq_node *node,
                                       const struct perm *perm)
{
    int64_t axis = mpq_attr_int(&node->attr_set, "axis", 0);
    axis += axis < 0 ? perm->rank : 0;
    struct mpq_attr attr = {.name = "axis", .kind = MPQ_ATTR_INT, .i = perm->axis[axis]};
    return mpq_edit_set_attr(edit, node, &attr);
}

/* op(T(a), T(b), c) -> T(op(a, b, c')). The operator takes the slot of a Transpose, where all its
 * inputs are ready, and the Transpose that of the operator. */
static enum mpq_status sink(struct mpq_edit *edit, struct mpq_node *node, uint32_t n_data,
                            const struct perm *perm, struct mpq_node *slot)
{
    mpq_value_id *in = mpq_arena_alloc(edit->ctx, edit->arena, node->n_in, sizeof *in);
    if (!in)
        return MPQ_E_NOMEM;
    MPQ_TRY(collect_inputs(edit, node, n_data, perm, in));
    struct mpq_node moved = *node, transpose = *slot;
    mpq_value_id y = node->out[0], inner;
    struct mpq_shape shape = edit->value[y].shape, inner_shape = shape;
    for (int i = 0; i < shape.rank && shape.rank == perm->rank; i++)
        inner_shape.dim[perm->axis[i]] = shape.dim[i];
    MPQ_TRY(mpq_edit_new_value(edit, edit->graph->value[y].name, edit->graph->value[y].dtype,
                               &inner_shape, &inner));

    for (uint32_t i = 0; i < n_data; i++)
        if (!mpq_edit_constant(edit, moved.in[i]) && mpq_edit_is_private(edit, moved.in[i]))
            mpq_edit_remove(edit, mpq_edit_producer(edit, moved.in[i]));
    mpq_edit_remove(edit, node);
    moved.in = in;
    moved.out = &inner;
    transpose.in = &inner;
    transpose.out = &y;
    MPQ_TRY(mpq_edit_place(edit, slot, &moved));
    MPQ_TRY(mpq_edit_place(edit, node, &transpose));
    if (!mpq_node_is(slot, "Concat"))
        return MPQ_OK;
    MPQ_TRY(set_concat_axis(edit, slot, perm));
    return mpq_op_resolve(edit->ctx, edit->arena, slot);
}

static bool has_valid_axis(const struct mpq_node *node, int rank)
{
    int64_t axis = mpq_attr_int(&node->attr_set, "axis", 0);
    return axis >= -rank && axis < rank;
}

static enum mpq_status fold_transpose(struct mpq_edit *edit, mpq_node_id n)
{
    struct mpq_node *node = &edit->graph->node[n];
    struct perm perm;
    if (read_perm(edit, node, &perm))
        return merge(edit, node, &perm);
    uint32_t n_data = count_data_inputs(node);
    if (n_data == 0 || node->n_out != 1 || !match_inputs(edit, node, n_data, &perm) ||
        (mpq_node_is(node, "Concat") && !has_valid_axis(node, perm.rank)))
        return MPQ_OK;
    struct mpq_node *slot = find_slot(edit, node, n_data);
    return slot ? sink(edit, node, n_data, &perm, slot) : MPQ_OK;
}

enum mpq_status mpq_fold_transpose(struct mpq_edit *edit)
{
    return mpq_edit_sweep(edit, fold_transpose);
}
