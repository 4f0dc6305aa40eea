#include "quantcore/pass/edit.h"

/* Dropout passes its input on unless its training_mode (input 2) may be true or somebody reads the
 * mask. */
static bool is_idle_dropout(const struct mpq_edit *edit, const struct mpq_node *node)
{
    if (!mpq_node_is(node, "Dropout"))
        return false;
    mpq_value_id mode = mpq_edit_input(edit, node, 2);
    double is_training;
    if (mode != MPQ_NO_VALUE && (!mpq_edit_number(edit, mode, &is_training) || is_training != 0))
        return false;
    if (node->n_out > 1 && node->out[1] != MPQ_NO_VALUE) {
        const struct mpq_edit_value *mask = &edit->value[node->out[1]];
        return mask->n_read == 0 && !mask->is_pinned;
    }
    return true;
}

/* The element type of v where the graph says it. */
static enum mpq_dtype type_of(const struct mpq_edit *edit, mpq_value_id v)
{
    const struct mpq_node *producer = mpq_edit_producer(edit, v);
    if (producer && mpq_node_is(producer, "Cast"))
        return (enum mpq_dtype)mpq_attr_int(&producer->attr_set, "to", MPQ_UNDEFINED);
    return edit->graph->value[v].dtype;
}

/* Casts between floating types, all of which are float here, have nothing left to do. */
static bool is_idle_cast(const struct mpq_edit *edit, const struct mpq_node *node)
{
    return mpq_node_is(node, "Cast") && node->n_in == 1 && node->in[0] != MPQ_NO_VALUE &&
           mpq_attr_int(&node->attr_set, "to", MPQ_UNDEFINED) == MPQ_FLOAT &&
           type_of(edit, node->in[0]) == MPQ_FLOAT;
}

static enum mpq_status drop_idle(struct mpq_edit *edit, mpq_node_id n)
{
    const struct mpq_node *node = &edit->graph->node[n];
    if (!mpq_node_is(node, "Identity") && !is_idle_dropout(edit, node) && !is_idle_cast(edit, node))
        return MPQ_OK;
    if (node->n_in == 0 || node->n_out == 0 || node->in[0] == MPQ_NO_VALUE)
        return MPQ_OK; /* malformed: whoever runs it complains */
    bool is_done;
    return mpq_edit_bypass(edit, node->out[0], node->in[0], &is_done);
}

enum mpq_status mpq_drop_idle(struct mpq_edit *edit)
{
    return mpq_edit_sweep(edit, drop_idle);
}

enum mpq_status mpq_drop_dead(struct mpq_edit *edit)
{
    for (mpq_node_id n = edit->graph->n_node; n-- > 0;) {
        struct mpq_node *node = &edit->graph->node[n];
        bool is_dead = !edit->is_removed[n];
        for (uint32_t i = 0; i < node->n_out && is_dead; i++)
            if (node->out[i] != MPQ_NO_VALUE)
                is_dead =
                    edit->value[node->out[i]].n_read == 0 && !edit->value[node->out[i]].is_pinned;
        if (is_dead)
            mpq_edit_remove(edit, node);
    }
    return MPQ_OK;
}
