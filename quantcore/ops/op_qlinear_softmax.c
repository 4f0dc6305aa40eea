/* ONNX Runtime's QLinearSoftmax: exponentials from a table of 256 floats, scaled so that the
 * largest input of a line meets the table's end, and a quotient rounded to eight bits. 1 / y_scale
 * is rounded down to an integer, as its kernel does. `opset` below 13 normalizes over all
 * dimensions from axis on. */
#include <float.h>
#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/op_util.h"

enum place { X, X_SCALE, X_ZERO, Y_SCALE, Y_ZERO };

struct softmax_attrs {
    int64_t axis;
    bool is_flat; /* opset < 13 */
};

static enum mpq_status parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    struct softmax_attrs *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    a->is_flat = mpq_attr_int(&node->attr_set, "opset", 13) < 13;
    a->axis = mpq_attr_int(&node->attr_set, "axis", a->is_flat ? 1 : -1);
    node->attrs = a;
    return MPQ_OK;
}

static enum mpq_status infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct softmax_attrs *attrs = node->attrs;
    int axis = 0;
    enum mpq_dtype dtype;
    MPQ_TRY(mpq_check_axis(ctx, node, attrs->axis, x[X]->shape.rank, &axis));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, X, X_SCALE, X_ZERO, 1));
    MPQ_TRY(mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, x[X]->dtype, &dtype));
    return mpq_infer_set(ctx, node, y[0], dtype, &x[X]->shape);
}

struct job {
    int64_t n, inner; /* lines of n elements, `inner` apart */
    const uint8_t *x;
    uint8_t *y;
    uint8_t flip;     /* code -> order: signed codes get their sign flipped */
    float table[256]; /* e^x by order, up to a factor */
    float y_steps;
    int32_t y_zero, y_low;
};

static void make_table(struct job *job, float x_scale)
{
    double shift = log((double)(FLT_MAX / (float)job->n)) - 5;
    shift = (shift > 0 ? shift : 0) / (double)x_scale;
    for (int i = 0; i < 256; i++)
        job->table[i] = (float)exp((i - 255 + shift) * (double)x_scale);
}

static void normalize_lines(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    for (int64_t line = begin; line < end; line++) {
        int64_t at = line / job->inner * job->n * job->inner + line % job->inner;
        const uint8_t *x = job->x + at;
        int high = 0;
        for (int64_t i = 0; i < job->n; i++) {
            int order = x[i * job->inner] ^ job->flip;
            high = order > high ? order : high;
        }
        const float *table = job->table + 255 - high;
        float sum = 0;
        for (int64_t i = 0; i < job->n; i++)
            sum += table[x[i * job->inner] ^ job->flip];
        for (int64_t i = 0; i < job->n; i++) {
            float share = table[x[i * job->inner] ^ job->flip] * job->y_steps / sum;
            int32_t y = (int32_t)rintf(share) + job->y_zero;
            y = y > job->y_low + 255 ? job->y_low + 255 : y;
            job->y[at + i * job->inner] = (uint8_t)y;
        }
    }
}

static void forward(const struct mpq_kernel_args *args)
{
    const struct mpq_tensor *const *x = args->x;
    const struct softmax_attrs *attrs = args->node->attrs;
    const struct mpq_shape *shape = &x[X]->shape;
    int axis = (int)(attrs->axis < 0 ? attrs->axis + shape->rank : attrs->axis);
    bool is_signed = x[X]->dtype == MPQ_INT8;
    struct job job = {
        .n = attrs->is_flat ? mpq_shape_count_range(shape, axis, shape->rank) : shape->dim[axis],
        .inner = attrs->is_flat ? 1 : mpq_shape_count_range(shape, axis + 1, shape->rank),
        .x = x[X]->data,
        .y = args->y[0]->data,
        .flip = is_signed ? 0x80 : 0,
        .y_steps = floorf(1.0f / mpq_scale_at(x[Y_SCALE], 0)),
        .y_zero = mpq_zero_at(mpq_input(args->node, x, Y_ZERO), 0),
        .y_low = is_signed ? -128 : 0};
    if (job.n == 0)
        return;
    make_table(&job, mpq_scale_at(x[X_SCALE], 0));
    mpq_parallel_for(mpq_shape_count_range(shape, 0, axis) * job.inner,
                     1 + MPQ_GRAIN / 4 / (job.n + 1), normalize_lines, &job);
}

const struct mpq_op mpq_op_qlinear_softmax = {.name = "QLinearSoftmax",
                                              .domain = "com.microsoft",
                                              .n_in_min = 4,
                                              .n_in_max = 5,
                                              .n_out_min = 1,
                                              .n_out_max = 1,
                                              .parse = parse,
                                              .infer = infer,
                                              .forward = forward};
