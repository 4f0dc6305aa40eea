/* HannWindow, HammingWindow, BlackmanWindow: y[i] = a0 - a1 cos(2 pi i / N) + a2 cos(4 pi i / N)
 * for i < size (a constant scalar), N being size, or size - 1 where not periodic. */
#include <math.h>

#include "quantcore/ops/op_util.h"

struct attrs {
    bool periodic;
    enum mpq_dtype dtype;
};

static enum mpq_status window_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    int64_t dtype = mpq_attr_int(&node->attr_set, "output_datatype", MPQ_FLOAT);
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "periodic", 1) != 0, (enum mpq_dtype)dtype};
    if (dtype != MPQ_FLOAT)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "a window of type %lld",
                             (long long)dtype);
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status window_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int64_t size;
    int n = 0;
    MPQ_TRY(mpq_const_ints(ctx, node, x, 0, "size", 1, &size, &n));
    if (n != 1 || size < 0)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "size is no number of elements");
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &MPQ_SHAPE(size));
}

static void window(const struct mpq_kernel_args *args, double a0, double a1, double a2)
{
    const struct attrs *attrs = args->node->attrs;
    int64_t size = args->y[0]->shape.dim[0];
    double n = (double)(attrs->periodic ? size : size - 1);
    for (int64_t i = 0; i < size; i++) {
        double t = n > 0 ? 2 * 3.14159265358979323846 * (double)i / n : 0;
        ((mpq_real *)args->y[0]->data)[i] = (mpq_real)(a0 - a1 * cos(t) + a2 * cos(2 * t));
    }
}

#define ROW(onnx_name, symbol, a0, a1, a2)                                                         \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        window(args, a0, a1, a2);                                                                  \
    }                                                                                              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 1,                                          \
                                           .n_in_max = 1,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = window_parse,                                  \
                                           .infer = window_infer,                                  \
                                           .forward = symbol##_forward}

ROW("HannWindow", hann_window, 0.5, 0.5, 0);
ROW("HammingWindow", hamming_window, 25.0 / 46, 21.0 / 46, 0);
ROW("BlackmanWindow", blackman_window, 0.42, 0.5, 0.08);
