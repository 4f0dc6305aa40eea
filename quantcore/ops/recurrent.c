#include "quantcore/ops/recurrent.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/kernel/scratch.h"

/* Inputs and outputs as all three number them; only LSTM has the last ones. */
enum { IN_X, IN_W, IN_R, IN_BIAS, IN_LENGTH, IN_HIDDEN, IN_MEMORY, IN_PEEPHOLE };
enum { OUT_Y, OUT_HIDDEN, OUT_MEMORY };

struct attrs {
    const struct mpq_recurrent_cell *cell;
    int n_direction;
    bool is_reversed[2];
    bool is_batch_first; /* layout 1 */
    bool linear_before_reset;
    struct mpq_gate_function function[2][3]; /* of each direction */
};

/* ---- attributes ---- */

static enum mpq_status parse_direction(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       struct attrs *attrs)
{
    const char *direction = mpq_attr_string(&node->attr_set, "direction", "forward");
    attrs->n_direction = 1;
    if (strcmp(direction, "reverse") == 0)
        attrs->is_reversed[0] = true;
    else if (strcmp(direction, "bidirectional") == 0) {
        attrs->n_direction = 2;
        attrs->is_reversed[1] = true;
    } else if (strcmp(direction, "forward") != 0)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "direction '%s' is not known", direction);
    return MPQ_OK;
}

/* The next number of a list of parameters that functions consume in order, as ONNX Runtime reads
 * it: only those that have such a parameter take one. */
static mpq_real next_parameter(const struct mpq_attr *list, size_t *at, mpq_real absent)
{
    if (!list || list->kind != MPQ_ATTR_FLOATS || *at >= list->n)
        return absent;
    return (mpq_real)list->floats[(*at)++];
}

static enum mpq_status parse_functions(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       struct attrs *attrs)
{
    const struct mpq_attr_set *set = &node->attr_set;
    const struct mpq_attr *names = mpq_attr_find(set, "activations");
    const struct mpq_attr *alpha = mpq_attr_find(set, "activation_alpha");
    const struct mpq_attr *beta = mpq_attr_find(set, "activation_beta");
    float clip = mpq_attr_float(set, "clip", 0);
    int n_function = attrs->cell->n_function, n = n_function * attrs->n_direction;
    size_t alpha_at = 0, beta_at = 0;
    if (names && (names->kind != MPQ_ATTR_STRINGS || names->n != (size_t)n))
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%zu activation functions, not %d", names->n,
                             n);
    for (int i = 0; i < n; i++) {
        struct mpq_gate_function *f = &attrs->function[i / n_function][i % n_function];
        const char *name = names ? names->strings[i] : attrs->cell->function[i % n_function];
        if (!mpq_gate_find(name, f))
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                                 "the activation function '%s' is not known", name);
        if (f->uses_alpha)
            f->alpha = next_parameter(alpha, &alpha_at, f->alpha);
        if (f->uses_beta)
            f->beta = next_parameter(beta, &beta_at, f->beta);
        if (clip > 0 && i % n_function < 2) /* h sees the whole cell, as in ONNX Runtime */
            f->clip = (mpq_real)clip;
        if (!mpq_gate_finish(f))
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED,
                                 "the activation function '%s' has alpha %g, beta %g", name,
                                 (double)f->alpha, (double)f->beta);
    }
    return MPQ_OK;
}

enum mpq_status mpq_recurrent_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node, const struct mpq_recurrent_cell *cell)
{
    struct attrs *attrs = mpq_arena_alloc(ctx, arena, 1, sizeof *attrs);
    if (!attrs)
        return MPQ_E_NOMEM;
    const struct mpq_attr_set *set = &node->attr_set;
    attrs->cell = cell;
    attrs->is_batch_first = mpq_attr_int(set, "layout", 0) != 0;
    attrs->linear_before_reset = mpq_attr_int(set, "linear_before_reset", 0) != 0;
    if (mpq_attr_int(set, "input_forget", 0))
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input_forget is not supported");
    MPQ_TRY(parse_direction(ctx, node, attrs));
    MPQ_TRY(parse_functions(ctx, node, attrs));
    node->attrs = attrs;
    return MPQ_OK;
}

/* ---- shapes ---- */

struct sizes {
    int64_t step, row, input, hidden, direction, gate;
};

static struct sizes sizes_of(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    const struct attrs *attrs = node->attrs;
    const int64_t *dim = x[IN_X]->shape.dim;
    return (struct sizes){.step = dim[attrs->is_batch_first],
                          .row = dim[!attrs->is_batch_first],
                          .input = dim[2],
                          .hidden = x[IN_R]->shape.dim[2],
                          .direction = attrs->n_direction,
                          .gate = attrs->cell->n_gate};
}

static enum mpq_status check_input(struct mpq_ctx *ctx, const struct mpq_node *node,
                                   const struct mpq_tensor *const *x, uint32_t i,
                                   const struct mpq_shape *shape)
{
    const struct mpq_tensor *input = mpq_input(node, x, i);
    if (input && !mpq_shape_equal(&input->shape, shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %u is %s, not %s", i,
                             MPQ_SHAPE_TEXT(&input->shape), MPQ_SHAPE_TEXT(shape));
    if (input && i == IN_LENGTH && !mpq_dtype_is_integer(input->dtype))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "lengths are %s",
                             mpq_dtype_name(input->dtype));
    return i == IN_LENGTH ? MPQ_OK : mpq_check_float(ctx, node, x, (int)i);
}

enum mpq_status mpq_recurrent_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct attrs *attrs = node->attrs;
    for (int i = IN_X; i <= IN_R; i++)
        if (x[i]->shape.rank != 3)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %d is %s, not of rank 3", i,
                                 MPQ_SHAPE_TEXT(&x[i]->shape));
    struct sizes s = sizes_of(node, x);
    bool first = attrs->is_batch_first;
    struct mpq_shape state =
        first ? MPQ_SHAPE(s.row, s.direction, s.hidden) : MPQ_SHAPE(s.direction, s.row, s.hidden);
    struct mpq_shape all = first ? MPQ_SHAPE(s.row, s.step, s.direction, s.hidden)
                                 : MPQ_SHAPE(s.step, s.direction, s.row, s.hidden);
    const struct mpq_shape input[] = {
        [IN_X] = x[IN_X]->shape,
        [IN_W] = MPQ_SHAPE(s.direction, s.gate * s.hidden, s.input),
        [IN_R] = MPQ_SHAPE(s.direction, s.gate * s.hidden, s.hidden),
        [IN_BIAS] = MPQ_SHAPE(s.direction, 2 * s.gate * s.hidden),
        [IN_LENGTH] = MPQ_SHAPE(s.row),
        [IN_HIDDEN] = state,
        [IN_MEMORY] = state,
        [IN_PEEPHOLE] = MPQ_SHAPE(s.direction, 3 * s.hidden),
    };
    for (uint32_t i = 0; i < MPQ_COUNT(input); i++)
        MPQ_TRY(check_input(ctx, node, x, i, &input[i]));
    for (uint32_t k = 0; k < node->n_out; k++)
        if (y[k])
            MPQ_TRY(mpq_infer_set(ctx, node, y[k], MPQ_FLOAT, k == OUT_Y ? &all : &state));
    return MPQ_OK;
}

uint64_t mpq_recurrent_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y)
{
    struct sizes s = sizes_of(node, x);
    (void)y;
    return (uint64_t)(s.step * s.row * s.direction * s.gate * s.hidden) *
           (uint64_t)(s.input + s.hidden);
}

/* ---- one direction ---- */

/* Cut the workspace into the arrays of a run; with base NULL only count its bytes. */
static size_t cut(struct mpq_recurrence *run, void *base, bool training)
{
    const struct mpq_recurrent_cell *cell = run->cell;
    int64_t state = run->n_row * run->n_hidden, gates = run->n_step * state * cell->n_gate;
    size_t used = 0, real = sizeof(mpq_real);
    run->x = mpq_scratch_take(base, &used, run->n_step * run->n_row * run->n_input, real);
    run->gate = mpq_scratch_take(base, &used, gates, real);
    run->hidden = mpq_scratch_take(base, &used, (run->n_step + 1) * state, real);
    if (cell->has_memory)
        run->memory = mpq_scratch_take(base, &used, (run->n_step + 1) * state, real);
    if (cell->has_extra)
        run->extra = mpq_scratch_take(base, &used, run->n_step * state, real);
    if (!training)
        return used;
    run->dgate = mpq_scratch_take(base, &used, gates, real);
    run->dhidden = mpq_scratch_take(base, &used, state, real);
    run->dmemory = mpq_scratch_take(base, &used, state, real);
    run->dextra = mpq_scratch_take(base, &used, state, real);
    return used;
}

static struct mpq_recurrence make_run(const struct mpq_node *node,
                                      const struct mpq_tensor *const *x, int direction)
{
    const struct attrs *attrs = node->attrs;
    struct sizes s = sizes_of(node, x);
    return (struct mpq_recurrence){.cell = attrs->cell,
                                   .function = attrs->function[direction],
                                   .linear_before_reset = attrs->linear_before_reset,
                                   .is_reversed = attrs->is_reversed[direction],
                                   .n_step = s.step,
                                   .n_row = s.row,
                                   .n_input = s.input,
                                   .n_hidden = s.hidden,
                                   .length = mpq_input(node, x, IN_LENGTH)};
}

size_t mpq_recurrent_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y, bool training)
{
    struct mpq_recurrence run = make_run(node, x, 0);
    (void)y;
    return cut(&run, NULL, training);
}

/* One direction's part of an input, or NULL; `size` is what a direction has. */
static const mpq_real *share(const struct mpq_kernel_args *args, uint32_t i, int direction,
                             int64_t size)
{
    const struct mpq_tensor *input = mpq_input(args->node, args->x, i);
    return input ? (const mpq_real *)input->data + direction * size : NULL;
}

static mpq_real *gradient(const struct mpq_kernel_args *args, uint32_t i, int direction,
                          int64_t size)
{
    mpq_real *dx = mpq_grad(args, i);
    return dx ? dx + direction * size : NULL;
}

static struct mpq_recurrence start_run(const struct mpq_kernel_args *args, int direction,
                                       bool training)
{
    struct mpq_recurrence run = make_run(args->node, args->x, direction);
    int64_t gates = run.cell->n_gate * run.n_hidden;
    run.w = share(args, IN_W, direction, gates * run.n_input);
    run.r = share(args, IN_R, direction, gates * run.n_hidden);
    run.bias = share(args, IN_BIAS, direction, 2 * gates);
    run.peephole = share(args, IN_PEEPHOLE, direction, 3 * run.n_hidden);
    cut(&run, args->workspace, training);
    if (!training)
        return run;
    run.dw = gradient(args, IN_W, direction, gates * run.n_input);
    run.dr = gradient(args, IN_R, direction, gates * run.n_hidden);
    run.dbias = gradient(args, IN_BIAS, direction, 2 * gates);
    run.dpeephole = gradient(args, IN_PEEPHOLE, direction, 3 * run.n_hidden);
    return run;
}

/* Steps of a row; a length that is out of range cannot be refused here. */
static int64_t length_of(const struct mpq_recurrence *run, int64_t row)
{
    if (!run->length)
        return run->n_step;
    int64_t length = mpq_tensor_int(run->length, row);
    return length < 0 ? 0 : length > run->n_step ? run->n_step : length;
}

/* ---- between the operator's layout and step order ---- */

/* Place of (step, row) among the [time, batch] or [batch, time] of the operator. */
static int64_t time_of(const struct mpq_recurrence *run, int64_t s, int64_t row)
{
    return run->is_reversed ? length_of(run, row) - 1 - s : s;
}

static int64_t x_place(const struct mpq_recurrence *run, bool batch_first, int64_t s, int64_t row)
{
    int64_t t = time_of(run, s, row);
    return (batch_first ? row * run->n_step + t : t * run->n_row + row) * run->n_input;
}

static int64_t y_place(const struct mpq_recurrence *run, const struct attrs *attrs, int direction,
                       int64_t s, int64_t row)
{
    int64_t t = time_of(run, s, row), n = attrs->n_direction;
    return (attrs->is_batch_first ? (row * run->n_step + t) * n + direction
                                  : (t * n + direction) * run->n_row + row) *
           run->n_hidden;
}

static int64_t state_place(const struct mpq_recurrence *run, const struct attrs *attrs,
                           int direction, int64_t row)
{
    return (attrs->is_batch_first ? row * attrs->n_direction + direction
                                  : direction * run->n_row + row) *
           run->n_hidden;
}

static void load_x(const struct mpq_recurrence *run, const mpq_real *x, bool batch_first)
{
    size_t bytes = (size_t)run->n_input * sizeof *x;
    mpq_real *to = run->x;
    for (int64_t s = 0; s < run->n_step; s++)
        for (int64_t row = 0; row < run->n_row; row++, to += run->n_input)
            if (s < length_of(run, row))
                memcpy(to, x + x_place(run, batch_first, s, row), bytes);
            else
                memset(to, 0, bytes);
}

/* `state` [B, H] from a tensor of states, 0 where it is absent. */
static void load_state(const struct mpq_recurrence *run, const struct attrs *attrs, int direction,
                       const mpq_real *from, mpq_real *state)
{
    size_t bytes = (size_t)run->n_hidden * sizeof *state;
    for (int64_t row = 0; row < run->n_row; row++, state += run->n_hidden)
        if (from)
            memcpy(state, from + state_place(run, attrs, direction, row), bytes);
        else
            memset(state, 0, bytes);
}

static void store_state(const struct mpq_recurrence *run, const struct attrs *attrs, int direction,
                        const mpq_real *state, struct mpq_tensor *to)
{
    for (int64_t row = 0; to && row < run->n_row; row++)
        memcpy((mpq_real *)to->data + state_place(run, attrs, direction, row),
               state + row * run->n_hidden, (size_t)run->n_hidden * sizeof *state);
}

/* Times beyond a sequence's end are 0. */
static void store_y(const struct mpq_recurrence *run, const struct attrs *attrs, int direction,
                    struct mpq_tensor *y)
{
    size_t bytes = (size_t)run->n_hidden * sizeof(mpq_real);
    if (y && run->length && direction == 0)
        memset(y->data, 0, mpq_tensor_bytes(y));
    for (int64_t s = 0; y && s < run->n_step; s++)
        for (int64_t row = 0; row < run->n_row; row++)
            if (s < length_of(run, row))
                memcpy((mpq_real *)y->data + y_place(run, attrs, direction, s, row),
                       run->hidden + ((s + 1) * run->n_row + row) * run->n_hidden, bytes);
}

/* ---- forward ---- */

struct rows {
    const struct mpq_recurrence *run;
    int64_t s;
    void (*fn)(const struct mpq_recurrence *run, int64_t s, int64_t row);
};

static void rows_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct rows *rows = arg;
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        if (rows->s < length_of(rows->run, row))
            rows->fn(rows->run, rows->s, row);
}

void mpq_recurrent_rows(const struct mpq_recurrence *run, int64_t s,
                        void (*fn)(const struct mpq_recurrence *run, int64_t s, int64_t row))
{
    int64_t grain = 1 + MPQ_GRAIN / 4 / (1 + run->cell->n_gate * run->n_hidden);
    mpq_parallel_for(run->n_row, grain, rows_piece, &(struct rows){run, s, fn});
}

/* gate = biases, then + W x */
static void fill_gates(const struct mpq_recurrence *run)
{
    int64_t n = run->cell->n_gate * run->n_hidden, rows = run->n_step * run->n_row;
    int64_t n_both = run->linear_before_reset ? run->cell->n_plain * run->n_hidden : n;
    for (int64_t row = 0; run->bias && row < rows; row++)
        for (int64_t i = 0; i < n; i++)
            run->gate[row * n + i] = run->bias[i] + (i < n_both ? run->bias[n + i] : 0);
    mpq_gemm(false, true, rows, n, run->n_input, 1, run->x, run->n_input, run->w, run->n_input,
             run->bias ? 1 : 0, run->gate, n);
}

/* Rows whose sequence is over. */
static void keep_states(const struct mpq_recurrence *run, int64_t s)
{
    int64_t h = run->n_hidden;
    for (int64_t row = 0; run->length && row < run->n_row; row++) {
        int64_t from = (s * run->n_row + row) * h, to = from + run->n_row * h;
        size_t bytes = (size_t)h * sizeof(mpq_real);
        if (s < length_of(run, row))
            continue;
        memcpy(run->hidden + to, run->hidden + from, bytes);
        if (run->memory)
            memcpy(run->memory + to, run->memory + from, bytes);
    }
}

static void run_forward(const struct mpq_kernel_args *args, const struct mpq_recurrence *run,
                        int direction)
{
    const struct attrs *attrs = args->node->attrs;
    int64_t h = run->n_hidden, n = run->cell->n_gate * h;
    int64_t state = run->n_row * h;
    load_x(run, args->x[IN_X]->data, attrs->is_batch_first);
    load_state(run, attrs, direction, share(args, IN_HIDDEN, 0, 0), run->hidden);
    if (run->memory)
        load_state(run, attrs, direction, share(args, IN_MEMORY, 0, 0), run->memory);
    fill_gates(run);
    for (int64_t s = 0; s < run->n_step; s++) {
        mpq_gemm(false, true, run->n_row, run->cell->n_plain * h, h, 1, run->hidden + s * state, h,
                 run->r, h, 1, run->gate + s * run->n_row * n, n);
        keep_states(run, s);
        run->cell->step(run, s);
    }
}

void mpq_recurrent_forward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    uint32_t n_out = args->node->n_out;
    for (int d = 0; d < attrs->n_direction; d++) {
        struct mpq_recurrence run = start_run(args, d, false);
        int64_t last = run.n_step * run.n_row * run.n_hidden;
        run_forward(args, &run, d);
        store_y(&run, attrs, d, args->y[OUT_Y]);
        if (n_out > OUT_HIDDEN)
            store_state(&run, attrs, d, run.hidden + last, args->y[OUT_HIDDEN]);
        if (n_out > OUT_MEMORY && run.memory)
            store_state(&run, attrs, d, run.memory + last, args->y[OUT_MEMORY]);
    }
}

/* ---- backward ---- */

static const mpq_real *output_gradient(const struct mpq_kernel_args *args, uint32_t k)
{
    return k < args->node->n_out ? args->dy[k] : NULL;
}

static void add_dy(const struct mpq_recurrence *run, const struct attrs *attrs, int direction,
                   const mpq_real *dy, int64_t s)
{
    for (int64_t row = 0; dy && row < run->n_row; row++)
        if (s < length_of(run, row)) {
            const mpq_real *from = dy + y_place(run, attrs, direction, s, row);
            mpq_real *to = run->dhidden + row * run->n_hidden;
            for (int64_t i = 0; i < run->n_hidden; i++)
                to[i] += from[i];
        }
}

/* Rows that are over: nothing comes through their gates. */
static void clear_over(const struct mpq_recurrence *run, int64_t s)
{
    int64_t h = run->n_hidden, n = run->cell->n_gate * h;
    for (int64_t row = 0; run->length && row < run->n_row; row++) {
        int64_t at = s * run->n_row + row;
        if (s < length_of(run, row))
            continue;
        memset(run->dgate + at * n, 0, (size_t)n * sizeof(mpq_real));
        if (run->extra)
            memset(run->extra + at * h, 0, (size_t)h * sizeof(mpq_real));
    }
}

static void add_bias_gradient(const struct mpq_recurrence *run)
{
    int64_t n = run->cell->n_gate * run->n_hidden, rows = run->n_step * run->n_row;
    int64_t n_both = run->linear_before_reset ? run->cell->n_plain * run->n_hidden : n;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t row = 0; row < rows; row++)
            sum += (double)run->dgate[row * n + i];
        run->dbias[i] += (mpq_real)sum;
        if (i < n_both)
            run->dbias[n + i] += (mpq_real)sum;
    }
}

static void add_dx(const struct mpq_recurrence *run, bool batch_first, mpq_real *dx)
{
    int64_t n = run->cell->n_gate * run->n_hidden;
    mpq_gemm(false, false, run->n_step * run->n_row, run->n_input, n, 1, run->dgate, n, run->w,
             run->n_input, 0, run->x, run->n_input);
    for (int64_t s = 0; s < run->n_step; s++)
        for (int64_t row = 0; row < run->n_row; row++)
            if (s < length_of(run, row)) {
                const mpq_real *from = run->x + (s * run->n_row + row) * run->n_input;
                mpq_real *to = dx + x_place(run, batch_first, s, row);
                for (int64_t i = 0; i < run->n_input; i++)
                    to[i] += from[i];
            }
}

static void add_state_gradient(const struct mpq_recurrence *run, const struct attrs *attrs,
                               int direction, const mpq_real *from, mpq_real *to)
{
    for (int64_t row = 0; to && row < run->n_row; row++)
        for (int64_t i = 0; i < run->n_hidden; i++)
            to[state_place(run, attrs, direction, row) + i] += from[row * run->n_hidden + i];
}

static void run_backward(const struct mpq_kernel_args *args, const struct mpq_recurrence *run,
                         int direction)
{
    const struct attrs *attrs = args->node->attrs;
    int64_t h = run->n_hidden, n = run->cell->n_gate * h, plain = run->cell->n_plain * h;
    int64_t rows = run->n_step * run->n_row;
    load_state(run, attrs, direction, output_gradient(args, OUT_HIDDEN), run->dhidden);
    load_state(run, attrs, direction, output_gradient(args, OUT_MEMORY), run->dmemory);
    for (int64_t s = run->n_step; s-- > 0;) {
        add_dy(run, attrs, direction, output_gradient(args, OUT_Y), s);
        clear_over(run, s);
        run->cell->step_back(run, s);
        mpq_gemm(false, false, run->n_row, h, plain, 1, run->dgate + s * run->n_row * n, n, run->r,
                 h, 1, run->dhidden, h);
    }
    if (run->dr)
        mpq_gemm(true, false, plain, h, rows, 1, run->dgate, n, run->hidden, h, 1, run->dr, h);
    if (run->dw)
        mpq_gemm(true, false, n, run->n_input, rows, 1, run->dgate, n, run->x, run->n_input, 1,
                 run->dw, run->n_input);
    if (run->dbias)
        add_bias_gradient(run);
    if (run->cell->finish_back)
        run->cell->finish_back(run);
    if (mpq_grad(args, IN_X))
        add_dx(run, attrs->is_batch_first, mpq_grad(args, IN_X));
    add_state_gradient(run, attrs, direction, run->dhidden, mpq_grad(args, IN_HIDDEN));
    if (run->memory)
        add_state_gradient(run, attrs, direction, run->dmemory, mpq_grad(args, IN_MEMORY));
}

void mpq_recurrent_backward(const struct mpq_kernel_args *args)
{
    const struct attrs *attrs = args->node->attrs;
    for (int d = 0; d < attrs->n_direction; d++) {
        struct mpq_recurrence run = start_run(args, d, true);
        run_forward(args, &run, d);
        run_backward(args, &run, d);
    }
}
