#include "exporter/saturate.h"

#include <math.h>

/* A bound of a Clip; where it is absent, as far away as can be. */
static bool clip_bound(const struct mpq_graph *graph, const struct mpq_node *node, uint32_t i,
                       float absent, float *out)
{
    *out = absent;
    if (i >= node->n_in || node->in[i] == MPQ_NO_VALUE)
        return true;
    const struct mpq_tensor *tensor = graph->value[node->in[i]].constant;
    if (tensor)
        *out = (float)mpq_tensor_double(tensor, 0);
    return tensor != NULL;
}

/* In the float arithmetic of QuantizeLinear, which is monotone: whatever lies beyond a bound ends
 * where the bound does. */
bool mpq_is_saturation(const struct mpq_export_plan *plan, mpq_node_id n)
{
    const struct mpq_node *node = &plan->graph->node[n];
    float low = 0, high = INFINITY;
    bool is_clip = mpq_node_is(node, "Clip");
    if (!plan->act || !(is_clip || mpq_node_is(node, "Relu")))
        return false;
    uint32_t group = plan->act->group[node->out[0]];
    if (group == MPQ_NO_GROUP)
        return false;
    if (is_clip && !(clip_bound(plan->graph, node, 1, -INFINITY, &low) &&
                     clip_bound(plan->graph, node, 2, INFINITY, &high) && low <= high))
        return false;
    const struct mpq_act_quant *quant = &plan->act_quant[group];
    float zero = (float)quant->zero_point, most = (float)((1 << quant->bits) - 1);
    return rintf(low / quant->scale) + zero <= 0 && rintf(high / quant->scale) + zero >= most;
}
