/* How each operator reads a weight that can be stored with few bits. Private to this folder. */
#ifndef MPQ_PASS_LAYER_WEIGHT_H
#define MPQ_PASS_LAYER_WEIGHT_H

#include "quantcore/quant/layer.h"

struct mpq_layer_weight {
    const char *op_type;
    uint32_t input;     /* position of the weight among the node's inputs                 */
    const char *suffix; /* of the layer's name: "" unless the node has several weights    */
    /* Fill the view of the weight, x and what belongs to it, and is_weight_only, in a layer that
     * has name, node, weight and, for the rest, one group and no x. NULL, or the reason why the
     * weight cannot be read that way. */
    const char *(*read)(const struct mpq_node *node, const struct mpq_tensor *w,
                        struct mpq_layer *layer);
};

/* The next row for the node's operator after `from` (NULL: the first), or NULL. */
const struct mpq_layer_weight *mpq_layer_weight_next(const struct mpq_node *node,
                                                     const struct mpq_layer_weight *from);

#endif
