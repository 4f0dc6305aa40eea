/* Arithmetic and comparisons of two broadcast inputs. FLOAT runs in the loops of kernel/binary.h;
 * integers, which here are mostly shapes and indices, one by one in 64 bits. */
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/binary.h"

enum { INTEGERS = 256 }; /* that are looked at together */

/* f of two integers, as int64; for UINT64 the bits are those of the unsigned value. */
typedef int64_t integer_function(int64_t a, int64_t b, bool is_unsigned);

struct integer_work {
    struct mpq_loop loop;
    const struct mpq_kernel_args *args;
    integer_function *function;
};

/* n <= INTEGERS points of a span, y's from `at` on. */
static void integer_block(const struct integer_work *work, const struct mpq_span *span,
                          int64_t done, int64_t at, int64_t n)
{
    const struct mpq_tensor *const *x = work->args->x;
    int64_t step_a = mpq_loop_inner_stride(&work->loop, 0);
    int64_t step_b = mpq_loop_inner_stride(&work->loop, 1);
    int64_t a[INTEGERS], b[INTEGERS];
    bool is_unsigned = x[0]->dtype == MPQ_UINT64;
    mpq_tensor_ints(x[0], span->offset[0] + done * step_a, step_a ? n : 1, a);
    mpq_tensor_ints(x[1], span->offset[1] + done * step_b, step_b ? n : 1, b);
    for (int64_t i = n; i-- > 0;) /* backwards, as what is read once is in place 0 */
        a[i] = work->function(a[i * step_a], b[i * step_b], is_unsigned);
    mpq_tensor_set_ints(work->args->y[0], at, n, a);
}

static void integer_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct integer_work *work = arg;
    struct mpq_span span;
    (void)thread;
    for (mpq_span_first(&span, &work->loop, begin, end); span.n; mpq_span_next(&span)) {
        for (int64_t i = 0; i < span.n; i += INTEGERS)
            integer_block(work, &span, i, begin + i, span.n - i < INTEGERS ? span.n - i : INTEGERS);
        begin += span.n;
    }
}

static void integer_forward(const struct mpq_kernel_args *args, integer_function *function)
{
    struct integer_work work = {.args = args, .function = function};
    mpq_loop_init(&work.loop, &args->y[0]->shape);
    mpq_loop_add(&work.loop, &args->x[0]->shape);
    mpq_loop_add(&work.loop, &args->x[1]->shape);
    mpq_loop_merge(&work.loop);
    mpq_parallel_for(mpq_loop_count(&work.loop), MPQ_GRAIN, integer_piece, &work);
}

static enum mpq_status infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                             const struct mpq_tensor *const *x, struct mpq_tensor *y,
                             enum mpq_dtype dtype)
{
    struct mpq_shape shape;
    MPQ_TRY(mpq_check_same_dtype(ctx, node, x));
    MPQ_TRY(mpq_infer_broadcast(ctx, node, x, &shape));
    return mpq_infer_set(ctx, node, y, dtype, &shape);
}

static enum mpq_status arithmetic_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                        const struct mpq_tensor *const *x,
                                        struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype))
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return infer(ctx, node, x, y[0], x[0]->dtype);
}

static enum mpq_status compare_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype) && x[0]->dtype != MPQ_BOOL)
        MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    return infer(ctx, node, x, y[0], MPQ_BOOL);
}

#define FORWARD(symbol)                                                                            \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        if (args->x[0]->dtype == MPQ_FLOAT)                                                        \
            mpq_binary_forward(args, symbol##_span);                                               \
        else                                                                                       \
            integer_forward(args, symbol##_integer);                                               \
    }

#define ROW(onnx_name, symbol, infer_fn, parse_fn, backward_fn)                                    \
    ROW_WITH(onnx_name, symbol, infer_fn, parse_fn, backward_fn, false, 0)

#define ROW_WITH(onnx_name, symbol, infer_fn, parse_fn, backward_fn, clamps, ignores)              \
    const struct mpq_op mpq_op_##symbol = {.name = onnx_name,                                      \
                                           .domain = "",                                           \
                                           .n_in_min = 2,                                          \
                                           .n_in_max = 2,                                          \
                                           .n_out_min = 1,                                         \
                                           .n_out_max = 1,                                         \
                                           .parse = parse_fn,                                      \
                                           .infer = infer_fn,                                      \
                                           .backward_ignores = ignores,                            \
                                           .clamps_y = clamps,                                     \
                                           .sets_dx = true,                                        \
                                           .in_place_dx = true,                                    \
                                           .forward = symbol##_forward,                            \
                                           .backward = backward_fn}

/* An operator with a gradient: value, df/da and df/db in terms of a and b. */
#define ARITHMETIC(onnx_name, symbol, ignores, value, slope_a, slope_b)                            \
    MPQ_BINARY_SPAN(symbol, mpq_real, value)                                                       \
    MPQ_BINARY_SLOPE(symbol##_a, slope_a)                                                          \
    MPQ_BINARY_SLOPE(symbol##_b, slope_b)                                                          \
    FORWARD(symbol)                                                                                \
    static void symbol##_backward(const struct mpq_kernel_args *args)                              \
    {                                                                                              \
        mpq_binary_backward(args, symbol##_a_slope, symbol##_b_slope);                             \
    }                                                                                              \
    ROW_WITH(onnx_name, symbol, arithmetic_infer, NULL, symbol##_backward, true, ignores)

/* Integers wrap around, as numpy's do. */
#define WRAPPING(symbol, op)                                                                       \
    static int64_t symbol##_integer(int64_t a, int64_t b, bool is_unsigned)                        \
    {                                                                                              \
        (void)is_unsigned;                                                                         \
        return (int64_t)((uint64_t)a op(uint64_t) b);                                              \
    }

WRAPPING(add, +)
ARITHMETIC("Add", add, MPQ_IGNORES_X | MPQ_IGNORES_Y, a + b, 1, 1);

WRAPPING(sub, -)
ARITHMETIC("Sub", sub, MPQ_IGNORES_X | MPQ_IGNORES_Y, a - b, 1, -1);

WRAPPING(mul, *)
ARITHMETIC("Mul", mul, MPQ_IGNORES_Y, a *b, b, a);

/* Truncates towards zero. A quotient by 0 is 0, there being no way to fail here. */
static int64_t div_integer(int64_t a, int64_t b, bool is_unsigned)
{
    if (b == 0)
        return 0;
    if (is_unsigned)
        return (int64_t)((uint64_t)a / (uint64_t)b);
    return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}
ARITHMETIC("Div", div, MPQ_IGNORES_Y, a / b, 1 / b, -a / (b * b));

/* alpha < 0 side of a parametric Relu; its slope b broadcasts to a, never a to b. */
static enum mpq_status prelu_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(infer(ctx, node, x, y[0], MPQ_FLOAT));
    if (!mpq_shape_equal(&y[0]->shape, &x[0]->shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "slope %s does not broadcast to input %s",
                             MPQ_SHAPE_TEXT(&x[1]->shape), MPQ_SHAPE_TEXT(&x[0]->shape));
    return MPQ_OK;
}

MPQ_BINARY_SPAN(prelu, mpq_real, a < 0 ? a * b : a)
MPQ_BINARY_SLOPE(prelu_a, a < 0 ? b : 1)
MPQ_BINARY_SLOPE(prelu_b, a < 0 ? a : 0)

static void prelu_forward(const struct mpq_kernel_args *args)
{
    mpq_binary_forward(args, prelu_span);
}

static void prelu_backward(const struct mpq_kernel_args *args)
{
    mpq_binary_backward(args, prelu_a_slope, prelu_b_slope);
}

ROW("PRelu", prelu, prelu_infer, NULL, prelu_backward);

/* Comparisons: bool out, no gradient. */
#define COMPARE(onnx_name, symbol, op)                                                             \
    static int64_t symbol##_integer(int64_t a, int64_t b, bool is_unsigned)                        \
    {                                                                                              \
        return is_unsigned ? (uint64_t)a op(uint64_t) b : a op b;                                  \
    }                                                                                              \
    MPQ_BINARY_SPAN(symbol, uint8_t, a op b)                                                       \
    FORWARD(symbol)                                                                                \
    ROW(onnx_name, symbol, compare_infer, NULL, NULL)

static enum mpq_status equal_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (x[0]->dtype == MPQ_STRING)
        return infer(ctx, node, x, y[0], MPQ_BOOL);
    return compare_infer(ctx, node, x, y);
}

static int64_t equal_integer(int64_t a, int64_t b, bool is_unsigned)
{
    (void)is_unsigned;
    return a == b;
}

static const char *string_at(const struct mpq_tensor *tensor, int64_t i)
{
    const char *string = ((const char *const *)tensor->data)[i];
    return string ? string : "";
}

static void equal_strings(const struct mpq_kernel_args *args)
{
    struct mpq_loop loop;
    struct mpq_span span;
    uint8_t *y = args->y[0]->data;
    mpq_loop_init(&loop, &args->y[0]->shape);
    mpq_loop_add(&loop, &args->x[0]->shape);
    mpq_loop_add(&loop, &args->x[1]->shape);
    mpq_loop_merge(&loop);
    int64_t step_a = mpq_loop_inner_stride(&loop, 0), step_b = mpq_loop_inner_stride(&loop, 1);
    for (mpq_span_first(&span, &loop, 0, mpq_loop_count(&loop)); span.n; mpq_span_next(&span))
        for (int64_t j = 0; j < span.n; j++)
            *y++ = strcmp(string_at(args->x[0], span.offset[0] + j * step_a),
                          string_at(args->x[1], span.offset[1] + j * step_b)) == 0;
}

MPQ_BINARY_SPAN(equal, uint8_t, a == b)

static void equal_forward(const struct mpq_kernel_args *args)
{
    if (args->x[0]->dtype == MPQ_STRING)
        equal_strings(args);
    else if (args->x[0]->dtype == MPQ_FLOAT)
        mpq_binary_forward(args, equal_span);
    else
        integer_forward(args, equal_integer);
}

ROW("Equal", equal, equal_infer, NULL, NULL);
COMPARE("Greater", greater, >);
COMPARE("GreaterOrEqual", greater_or_equal, >=);
COMPARE("Less", less, <);
COMPARE("LessOrEqual", less_or_equal, <=);

/* Logic on bool, bits on integers. */
static enum mpq_status logic_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (x[0]->dtype != MPQ_BOOL)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input 0 is %s, not bool",
                             mpq_dtype_name(x[0]->dtype));
    return infer(ctx, node, x, y[0], MPQ_BOOL);
}

static enum mpq_status bits_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                  const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (!mpq_dtype_is_integer(x[0]->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input 0 is %s, not an integer",
                             mpq_dtype_name(x[0]->dtype));
    return infer(ctx, node, x, y[0], x[0]->dtype);
}

#define LOGIC(onnx_name, symbol, infer_fn, op)                                                     \
    static int64_t symbol##_integer(int64_t a, int64_t b, bool is_unsigned)                        \
    {                                                                                              \
        (void)is_unsigned;                                                                         \
        return a op b;                                                                             \
    }                                                                                              \
    static void symbol##_forward(const struct mpq_kernel_args *args)                               \
    {                                                                                              \
        integer_forward(args, symbol##_integer);                                                   \
    }                                                                                              \
    ROW(onnx_name, symbol, infer_fn, NULL, NULL)

LOGIC("And", and, logic_infer, &);
LOGIC("Or", or, logic_infer, |);
LOGIC("Xor", xor, logic_infer, ^);
LOGIC("BitwiseAnd", bitwise_and, bits_infer, &);
LOGIC("BitwiseOr", bitwise_or, bits_infer, |);
LOGIC("BitwiseXor", bitwise_xor, bits_infer, ^);

/* BitShift: attrs is a bool, whether to the left. */
static enum mpq_status bit_shift_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_node *node)
{
    const char *direction = mpq_attr_string(&node->attr_set, "direction", "");
    bool is_left = direction[0] == 'L';
    if (!is_left && direction[0] != 'R')
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "direction is '%s'", direction);
    node->attrs = mpq_arena_copy(ctx, arena, &is_left, sizeof is_left);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static int64_t left_integer(int64_t a, int64_t b, bool is_unsigned)
{
    (void)is_unsigned;
    return (uint64_t)b < 64 ? (int64_t)((uint64_t)a << b) : 0;
}

/* Signed numbers keep their sign: all bits that come in are copies of it. */
static int64_t right_integer(int64_t a, int64_t b, bool is_unsigned)
{
    bool is_negative = a < 0 && !is_unsigned;
    uint64_t bits = is_negative ? ~(uint64_t)a : (uint64_t)a;
    bits = (uint64_t)b < 64 ? bits >> b : 0;
    return (int64_t)(is_negative ? ~bits : bits);
}

static void bit_shift_forward(const struct mpq_kernel_args *args)
{
    integer_forward(args, *(const bool *)args->node->attrs ? left_integer : right_integer);
}

ROW("BitShift", bit_shift, bits_infer, bit_shift_parse, NULL);

/* Mod: attrs is a bool, fmod: the result has the sign of the dividend (C), else the divisor. */
static enum mpq_status mod_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                 struct mpq_node *node)
{
    bool fmod = mpq_attr_int(&node->attr_set, "fmod", 0) != 0;
    node->attrs = mpq_arena_copy(ctx, arena, &fmod, sizeof fmod);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

static int64_t fmod_integer(int64_t a, int64_t b, bool is_unsigned)
{
    if (b == 0)
        return 0;
    if (is_unsigned)
        return (int64_t)((uint64_t)a % (uint64_t)b);
    return b == -1 ? 0 : a % b;
}

static int64_t mod_integer(int64_t a, int64_t b, bool is_unsigned)
{
    int64_t r = fmod_integer(a, b, is_unsigned);
    return !is_unsigned && r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

MPQ_BINARY_SPAN(fmod, mpq_real, MPQ_MATH(fmod)(a, b))
static inline mpq_real floor_mod(mpq_real a, mpq_real b)
{
    mpq_real r = MPQ_MATH(fmod)(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

MPQ_BINARY_SPAN(mod, mpq_real, floor_mod(a, b))

static void mod_forward(const struct mpq_kernel_args *args)
{
    bool fmod = *(const bool *)args->node->attrs;
    if (args->x[0]->dtype == MPQ_FLOAT)
        mpq_binary_forward(args, fmod ? fmod_span : mod_span);
    else
        integer_forward(args, fmod ? fmod_integer : mod_integer);
}

ROW("Mod", mod, arithmetic_infer, mod_parse, NULL);
