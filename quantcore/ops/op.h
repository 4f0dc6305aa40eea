/* The operator registry: one file op_xxx.c an operator, one line of op_list.inc.
 *
 * Whatever can fail fails in `parse` or `infer`; forward and backward return nothing, allocate
 * nothing, write only their outputs and their workspace and leave their inputs alone. They see
 * tensors and their node, never the graph. */
#ifndef MPQ_OPS_OP_H
#define MPQ_OPS_OP_H

#include "quantcore/ir/graph.h"
#include "quantcore/ops/kernel/clamp.h"

struct mpq_kernel_args {
    const struct mpq_node *node;
    const struct mpq_tensor *const *x; /* [n_in], NULL: absent; each has data                     */
    struct mpq_tensor *const *y;       /* [n_out], NULL: absent. forward: written. backward: what
                                          forward wrote                                           */
    const mpq_real *const *dy;         /* backward: [n_out], NULL: this output has no gradient    */
    mpq_real *const *dx;               /* backward: [n_in], added to; NULL: not wanted            */
    const bool *dx_is_fresh;           /* [n_in] dx[i] holds nothing yet: it is written, not added
                                          to. NULL, as for rows without sets_dx: none is          */
    const struct mpq_clamp *clamp;     /* forward of rows with clamps_y: what y[0] is clamped to;
                                          NULL: nothing                                           */
    bool sums_plainly; /* what is summed may lie on a grid of quantized values, where a
                          sum in another way would fall to the other side of ties */
    void *workspace;   /* op->workspace bytes, 64-byte aligned, content undefined */
};

enum { MPQ_IGNORES_X = 1, MPQ_IGNORES_Y = 2 };

struct mpq_op {
    const char *name, *domain; /* as ONNX spells them; domain "" is ai.onnx */
    int n_in_min, n_in_max;    /* n_in_max -1: any number                   */
    int n_out_min, n_out_max;
    int weight_input; /* input that is quantized where constant; 0: the operator has none
                         (input 0 is never a weight: MatMul with a constant left side is
                         looked at by the layer table itself)      */

    bool reads_shape_only; /* forward looks at the shapes of its inputs, never at their data: it is
                              folded as soon as shapes are known (Shape, Size) */

    /* attr_set -> node->attrs (arena). NULL: no attributes are read. Reports unsupported values. */
    enum mpq_status (*parse)(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node);

    /* dtype and shape of every present output from those of the inputs. x[i]->data is non-NULL
     * where the input is constant, as shapes, axes and the like usually are; an input whose data
     * are needed and absent is MPQ_E_UNSUPPORTED. x shapes are fully known, and so must y be. */
    enum mpq_status (*infer)(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *const *y);

    /* Bytes of scratch memory for forward, and for backward too where `training`. NULL: none. */
    size_t (*workspace)(const struct mpq_node *node, const struct mpq_tensor *const *x,
                        struct mpq_tensor *const *y, bool training);

    unsigned backward_ignores; /* MPQ_IGNORES_X, _Y: of those backward looks at shapes alone, so
                                  their data need not be kept */
    bool clamps_y;             /* forward heeds args->clamp */
    /* The bounds of an operator that is nothing but min(max(x[0], low), high), where they are
     * constant: it can then be fused into the row that makes its input. Its backward must work
     * from y in the place of x as well. NULL: not such an operator. */
    bool (*clamp)(const struct mpq_node *node, const struct mpq_tensor *const *x,
                  struct mpq_clamp *out);
    bool sets_dx; /* backward heeds dx_is_fresh, for its first output's gradient present       */
    bool in_place_dx; /* dx[0], where fresh and of dy[0]'s size, may share its memory: element i of
                         it depends on element i of dy[0], which nothing looks at afterwards */

    void (*forward)(const struct mpq_kernel_args *args);
    void (*backward)(const struct mpq_kernel_args *args); /* NULL: no gradient passes */

    /* Multiply-accumulates of one forward pass. NULL: none worth counting. */
    uint64_t (*macs)(const struct mpq_node *node, const struct mpq_tensor *const *x,
                     struct mpq_tensor *const *y);
};

/* The row for an operator, or NULL. */
const struct mpq_op *mpq_op_find(const char *domain, const char *op_type);

/* Row i in the order of op_list.inc; i < mpq_op_count(). */
size_t mpq_op_count(void);
const struct mpq_op *mpq_op_at(size_t i);

/* Look up node->op, check that there are as many inputs and outputs as it takes and that the first
 * n_in_min and n_out_min are present, run parse. A node without a row gets
 * op NULL and OK: whoever must execute it complains. */
enum mpq_status mpq_op_resolve(struct mpq_ctx *ctx, struct mpq_arena *arena,
                               struct mpq_node *node) MPQ_CHECKED;

/* Infer, allocate the outputs in `arena` and run forward, for nodes whose inputs all have data. y
 * [n_out] receives the tensors; an absent output stays as it is. */
enum mpq_status mpq_op_evaluate(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                const struct mpq_node *node, const struct mpq_tensor *const *x,
                                struct mpq_tensor *const *y) MPQ_CHECKED;

#endif
