/* A Pad by zeros before a Conv or a pooling operator becomes the pads of that operator. */
#include "quantcore/pass/edit.h"

#include <string.h>

/* Zeros added before and after each spatial dimension: pads[0 .. n_spatial) before, the rest after,
 * as the attribute `pads` has them. False where the Pad does anything else. */
static bool read_pad(const struct mpq_edit *edit, const struct mpq_node *pad, int n_spatial,
                     int64_t *out_pads)
{
    const struct mpq_tensor *amount = mpq_edit_integers(edit, mpq_edit_input(edit, pad, 1));
    mpq_value_id value = mpq_edit_input(edit, pad, 2), axes = mpq_edit_input(edit, pad, 3);
    int rank = n_spatial + 2;
    if (strcmp(mpq_attr_string(&pad->attr_set, "mode", "constant"), "constant") != 0 || !amount)
        return false;
    double filler;
    if (value != MPQ_NO_VALUE && (!mpq_edit_number(edit, value, &filler) || filler != 0))
        return false;
    const struct mpq_tensor *axis = mpq_edit_integers(edit, axes);
    if (axes != MPQ_NO_VALUE && !axis)
        return false;
    int64_t n = axis ? mpq_shape_count(&axis->shape) : rank;
    if (mpq_shape_count(&amount->shape) != 2 * n)
        return false;
    memset(out_pads, 0, 2 * (size_t)n_spatial * sizeof *out_pads);
    for (int64_t i = 0; i < n; i++) {
        int64_t d = axis ? mpq_tensor_int(axis, i) : i;
        int64_t before = mpq_tensor_int(amount, i), after = mpq_tensor_int(amount, n + i);
        d += d < 0 ? rank : 0;
        if (d < 0 || d >= rank || before < 0 || after < 0 || (d < 2 && before + after > 0))
            return false;
        if (d >= 2) {
            out_pads[d - 2] += before;
            out_pads[d - 2 + n_spatial] += after;
        }
    }
    return true;
}

/* Values that cannot be below zero, as far as their producer tells. */
static bool is_nonnegative(const struct mpq_edit *edit, mpq_value_id v)
{
    const struct mpq_node *node = mpq_edit_producer(edit, v);
    if (!node)
        return false;
    if (mpq_node_is(node, "Clip")) {
        double low;
        return mpq_edit_number(edit, mpq_edit_input(edit, node, 1), &low) && low >= 0;
    }
    return mpq_node_is(node, "Relu") || mpq_node_is(node, "Sigmoid");
}

/* Whether the operator, with these pads of its own already, may see padding where it saw zeros. */
static bool takes_zeros(const struct mpq_edit *edit, const struct mpq_node *node,
                        const struct mpq_node *pad, const int64_t *own, const int64_t *total,
                        int n_spatial)
{
    if (mpq_node_is(node, "Conv"))
        return true;
    size_t n_kernel;
    const int64_t *kernel = mpq_attr_ints(&node->attr_set, "kernel_shape", &n_kernel);
    if (n_kernel != (size_t)n_spatial || mpq_attr_int(&node->attr_set, "ceil_mode", 0) != 0)
        return false;
    bool has_own = false;
    for (int i = 0; i < 2 * n_spatial; i++) {
        has_own |= own[i] != 0;
        if (total[i] >= kernel[i % n_spatial]) /* runtimes refuse it: a window without an element */
            return false;
    }
    if (mpq_node_is(node, "AveragePool"))
        return !has_own || mpq_attr_int(&node->attr_set, "count_include_pad", 0) != 0;
    return is_nonnegative(edit, pad->in[0]); /* MaxPool pads with minus infinity */
}

static enum mpq_status set_pads(struct mpq_edit *edit, struct mpq_node *node, const int64_t *total,
                                int n_spatial)
{
    int64_t *pads =
        mpq_arena_copy(edit->ctx, edit->arena, total, 2 * (size_t)n_spatial * sizeof *total);
    if (!pads)
        return MPQ_E_NOMEM;
    struct mpq_attr attr = {
        .name = "pads", .kind = MPQ_ATTR_INTS, .n = 2 * (size_t)n_spatial, .ints = pads};
    MPQ_TRY(mpq_edit_set_attr(edit, node, &attr));
    MPQ_TRY(
        mpq_attr_set_without(edit->ctx, edit->arena, &node->attr_set, "auto_pad", &node->attr_set));
    if (mpq_node_is(node, "AveragePool"))
        MPQ_TRY(mpq_edit_set_attr(
            edit, node,
            &(struct mpq_attr){.name = "count_include_pad", .kind = MPQ_ATTR_INT, .i = 1}));
    return MPQ_OK;
}

/* Spatial dimensions, which the weight or the kernel shape tells; 0 where neither does. */
static int count_spatial(const struct mpq_edit *edit, const struct mpq_node *node)
{
    if (mpq_node_is(node, "Conv")) {
        const struct mpq_tensor *weight = mpq_edit_constant(edit, mpq_edit_input(edit, node, 1));
        return weight ? weight->shape.rank - 2 : 0;
    }
    size_t n;
    mpq_attr_ints(&node->attr_set, "kernel_shape", &n);
    return n <= MPQ_MAX_RANK - 2 ? (int)n : 0;
}

static enum mpq_status fold_pad(struct mpq_edit *edit, mpq_node_id n)
{
    struct mpq_node *node = &edit->graph->node[n];
    if (!mpq_node_is(node, "Conv") && !mpq_node_is(node, "MaxPool") &&
        !mpq_node_is(node, "AveragePool"))
        return MPQ_OK;
    const struct mpq_node *pad = mpq_edit_producer(edit, mpq_edit_input(edit, node, 0));
    if (!pad || !mpq_node_is(pad, "Pad"))
        return MPQ_OK;
    /* Which of its windows is larger, SAME and ceil_mode decide by the input's size. */
    const char *automatic = mpq_attr_string(&node->attr_set, "auto_pad", "NOTSET");
    bool is_valid = strcmp(automatic, "VALID") == 0;
    int n_spatial = count_spatial(edit, node);
    if (n_spatial < 1 || (!is_valid && strcmp(automatic, "NOTSET") != 0))
        return MPQ_OK;
    if (node->n_out > 1 && node->out[1] != MPQ_NO_VALUE) /* MaxPool's indices count the zeros */
        return MPQ_OK;

    int64_t own[2 * MPQ_MAX_RANK] = {0}, total[2 * MPQ_MAX_RANK];
    size_t n_own;
    const int64_t *given = mpq_attr_ints(&node->attr_set, "pads", &n_own);
    if (!is_valid && n_own == 2 * (size_t)n_spatial)
        memcpy(own, given, n_own * sizeof *own);
    if (!read_pad(edit, pad, n_spatial, total))
        return MPQ_OK;
    for (int i = 0; i < 2 * n_spatial; i++)
        total[i] += own[i];
    if (!takes_zeros(edit, node, pad, own, total, n_spatial))
        return MPQ_OK;
    MPQ_TRY(mpq_edit_set_input(edit, node, 0, pad->in[0]));
    MPQ_TRY(set_pads(edit, node, total, n_spatial));
    return mpq_op_resolve(edit->ctx, edit->arena, node);
}

enum mpq_status mpq_fold_pad(struct mpq_edit *edit)
{
    return mpq_edit_sweep(edit, fold_pad);
}
