/* Einsum of one or two inputs. Each label of the equation belongs to one group:
 *
 *     B   in the output and in both inputs      N   in the output and in b alone
 *     M   in the output and in a alone          K   not in the output: summed
 *
 * so that with a gathered as [B, M, K] and b as [B, K, N] it is a product of matrices, scattered
 * from [B, M, N] into the output. An input without a label repeats along it, a label twice in one
 * input walks its diagonal; both are only strides. A single input is multiplied by the number 1. */
#include <ctype.h>
#include <string.h>

#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/kernel/move.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/op_util.h"

enum { IN_A, IN_B, N_OPERAND };
enum group { GROUP_B, GROUP_M, GROUP_N, GROUP_K, N_GROUP };

#define ELLIPSIS  256 /* labels of its dimensions: this + the number of dimensions after it */
#define MAX_LABEL (2 * MPQ_MAX_RANK)

struct label {
    int code; /* a letter, or from ELLIPSIS on */
    int64_t dim;
    bool is_in[N_OPERAND];
    int64_t stride[N_OPERAND];
    int n_use; /* in the inputs */
    enum group group;
};

struct plan {
    int n_label, n_out;
    struct label label[MAX_LABEL];
    int out[MPQ_MAX_RANK]; /* labels of the output's dimensions */
    int64_t size[N_GROUP];
};

static enum mpq_status einsum_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    const char *equation = mpq_attr_string(&node->attr_set, "equation", "");
    char *plain = mpq_arena_strdup(ctx, arena, equation);
    size_t n = 0;
    if (!plain)
        return MPQ_E_NOMEM;
    for (const char *c = equation; *c; c++)
        if (*c != ' ')
            plain[n++] = *c;
    plain[n] = '\0';
    node->attrs = plain;
    return MPQ_OK;
}

/* ---- the equation ---- */

static int find_label(const struct plan *plan, int code)
{
    for (int i = 0; i < plan->n_label; i++)
        if (plan->label[i].code == code)
            return i;
    return -1;
}

/* One dimension of an input; false where its size contradicts another's. */
static bool add_dimension(struct plan *plan, int operand, int code, int64_t dim, int64_t stride)
{
    int i = find_label(plan, code);
    if (i < 0) {
        i = plan->n_label++;
        plan->label[i] = (struct label){.code = code, .dim = 1};
    }
    struct label *label = &plan->label[i];
    if (dim != 1 && label->dim != 1 && dim != label->dim)
        return false;
    label->dim = dim != 1 ? dim : label->dim;
    label->is_in[operand] = true;
    label->stride[operand] += dim != 1 ? stride : 0;
    label->n_use++;
    return true;
}

/* The term of an input, "b...ij" up to a comma, an arrow or the end. */
static const char *add_input(struct plan *plan, int operand, const char *term, size_t length,
                             const struct mpq_shape *shape)
{
    int64_t stride[MPQ_MAX_RANK];
    int n_letter = 0, d = 0;
    for (size_t i = 0; i < length; i++)
        n_letter += isalpha((unsigned char)term[i]) != 0;
    mpq_dense_strides(shape, stride);
    for (size_t i = 0; i < length; i++) {
        bool is_ellipsis = length - i >= 3 && memcmp(term + i, "...", 3) == 0;
        if (!is_ellipsis && !isalpha((unsigned char)term[i]))
            return "has a character that is no label";
        int n = is_ellipsis ? shape->rank - n_letter : 1;
        i += is_ellipsis ? 2 : 0;
        for (int k = 0; k < n; k++, d++) {
            if (d >= shape->rank)
                return "has more labels than an input has dimensions";
            int code = is_ellipsis ? ELLIPSIS + n - 1 - k : term[i];
            if (!add_dimension(plan, operand, code, shape->dim[d], stride[d]))
                return "has a label of two sizes";
        }
    }
    return d == shape->rank ? NULL : "has fewer labels than an input has dimensions";
}

static bool add_output_label(struct plan *plan, int code)
{
    int i = find_label(plan, code);
    for (int k = 0; k < plan->n_out; k++)
        if (plan->out[k] == i)
            return false;
    if (i < 0 || plan->n_out == MPQ_MAX_RANK)
        return false;
    plan->out[plan->n_out++] = i;
    return true;
}

static bool add_output_ellipsis(struct plan *plan)
{
    for (int code = ELLIPSIS + MPQ_MAX_RANK; code >= ELLIPSIS; code--)
        if (find_label(plan, code) >= 0 && !add_output_label(plan, code))
            return false;
    return true;
}

static bool add_output(struct plan *plan, const char *term)
{
    bool fits = true;
    for (; *term && fits; term++)
        if (strncmp(term, "...", 3) == 0) {
            fits = add_output_ellipsis(plan);
            term += 2;
        } else
            fits = isalpha((unsigned char)*term) && add_output_label(plan, *term);
    return fits;
}

/* Without an arrow: the ellipsis, then the labels used once, in order of the alphabet. */
static bool add_default_output(struct plan *plan)
{
    bool fits = add_output_ellipsis(plan);
    for (int code = 'A'; code <= 'z'; code++) {
        int i = find_label(plan, code);
        if (i >= 0 && plan->label[i].n_use == 1)
            fits = fits && add_output_label(plan, code);
    }
    return fits;
}

static void set_groups(struct plan *plan)
{
    for (int g = 0; g < N_GROUP; g++)
        plan->size[g] = 1;
    for (int i = 0; i < plan->n_label; i++)
        plan->label[i].group = GROUP_K;
    for (int k = 0; k < plan->n_out; k++) {
        struct label *label = &plan->label[plan->out[k]];
        label->group = !label->is_in[IN_B] ? GROUP_M : !label->is_in[IN_A] ? GROUP_N : GROUP_B;
    }
    for (int i = 0; i < plan->n_label; i++)
        plan->size[plan->label[i].group] *= plan->label[i].dim;
}

/* NULL, or what is wrong with the equation. */
static const char *make_plan(const struct mpq_node *node, const struct mpq_tensor *const *x,
                             struct plan *plan)
{
    const char *at = node->attrs, *arrow = strstr(at, "->");
    *plan = (struct plan){0};
    for (uint32_t i = 0; i < node->n_in; i++) {
        size_t length = strcspn(at, ",-");
        const char *wrong = add_input(plan, (int)i, at, length, &x[i]->shape);
        if (wrong)
            return wrong;
        at += length;
        if (i + 1 < node->n_in && *at++ != ',')
            return "has fewer terms than there are inputs";
    }
    if (arrow ? at != arrow : *at != '\0')
        return "has more terms than there are inputs";
    if (arrow ? !add_output(plan, arrow + 2) : !add_default_output(plan))
        return "has an output that cannot be made of the inputs";
    set_groups(plan);
    return NULL;
}

static enum mpq_status einsum_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    struct plan plan;
    struct mpq_shape shape = {0};
    for (uint32_t i = 0; i < node->n_in; i++)
        MPQ_TRY(mpq_check_float(ctx, node, x, (int)i));
    const char *wrong = make_plan(node, x, &plan);
    if (wrong)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "the equation '%s' %s",
                             (const char *)node->attrs, wrong);
    for (int k = 0; k < plan.n_out; k++)
        shape.dim[shape.rank++] = plan.label[plan.out[k]].dim;
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

/* ---- moving ---- */

/* Between input `operand` and its matrices, whose dimensions are those of the three groups. */
static struct mpq_move make_move(const struct plan *plan, int operand, const enum group *group)
{
    struct mpq_move move = {.loop = {.n_operand = 2}};
    struct mpq_loop *loop = &move.loop;
    int64_t dense = 1;
    for (int g = 0; g < 3; g++)
        for (int i = 0; i < plan->n_label; i++)
            if (plan->label[i].group == group[g])
                mpq_loop_push(loop, plan->label[i].dim,
                              (int64_t[]){0, plan->label[i].stride[operand]});
    for (int i = loop->rank; i-- > 0; dense *= loop->dim[i])
        loop->stride[0][i] = dense;
    return move;
}

/* Between the product [B, M, N] and the output. */
static struct mpq_move make_output_move(const struct plan *plan, const struct mpq_tensor *y)
{
    static const enum group group[] = {GROUP_N, GROUP_M, GROUP_B};
    int64_t stride[MAX_LABEL] = {0}, dense = 1;
    struct mpq_move move;
    for (int g = 0; g < 3; g++)
        for (int i = plan->n_label; i-- > 0;)
            if (plan->label[i].group == group[g]) {
                stride[i] = dense;
                dense *= plan->label[i].dim;
            }
    mpq_move_init(&move, &y->shape);
    for (int k = 0; k < plan->n_out; k++)
        move.loop.stride[1][k] = stride[plan->out[k]];
    return move;
}

static const enum group order_a[] = {GROUP_B, GROUP_M, GROUP_K};
static const enum group order_b[] = {GROUP_B, GROUP_K, GROUP_N};

struct arrays {
    mpq_real *a, *b, *c; /* [B, M, K], [B, K, N], [B, M, N] */
    mpq_real *da, *db, *dc;
};

static size_t cut(const struct plan *plan, void *base, bool training, struct arrays *out)
{
    int64_t b = plan->size[GROUP_B], m = plan->size[GROUP_M];
    int64_t n = plan->size[GROUP_N], k = plan->size[GROUP_K];
    size_t used = 0, real = sizeof(mpq_real);
    out->a = mpq_scratch_take(base, &used, b * m * k, real);
    out->b = mpq_scratch_take(base, &used, b * k * n, real);
    out->c = mpq_scratch_take(base, &used, b * m * n, real);
    if (!training)
        return used;
    out->da = mpq_scratch_take(base, &used, b * m * k, real);
    out->db = mpq_scratch_take(base, &used, b * k * n, real);
    out->dc = mpq_scratch_take(base, &used, b * m * n, real);
    return used;
}

static size_t einsum_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y, bool training)
{
    struct plan plan;
    struct arrays arrays;
    (void)y;
    make_plan(node, x, &plan);
    return cut(&plan, NULL, training, &arrays);
}

static void gather(const struct mpq_kernel_args *args, const struct plan *plan,
                   const struct arrays *arrays)
{
    static mpq_real one = 1;
    const struct mpq_tensor number = {.dtype = MPQ_FLOAT, .data = &one};
    struct mpq_tensor a = {.dtype = MPQ_FLOAT, .data = arrays->a}, b = {MPQ_FLOAT, {0}, arrays->b};
    struct mpq_move move_a = make_move(plan, IN_A, order_a),
                    move_b = make_move(plan, IN_B, order_b);
    mpq_move_forward(&move_a, args->x[IN_A], &a);
    mpq_move_forward(&move_b, args->node->n_in > 1 ? args->x[IN_B] : &number, &b);
}

static void einsum_forward(const struct mpq_kernel_args *args)
{
    struct plan plan;
    struct arrays t;
    make_plan(args->node, args->x, &plan);
    cut(&plan, args->workspace, false, &t);
    gather(args, &plan, &t);
    int64_t m = plan.size[GROUP_M], n = plan.size[GROUP_N], k = plan.size[GROUP_K];
    for (int64_t i = 0; i < plan.size[GROUP_B]; i++)
        mpq_gemm(false, false, m, n, k, 1, t.a + i * m * k, k, t.b + i * k * n, n, 0,
                 t.c + i * m * n, n);
    struct mpq_tensor c = {.dtype = MPQ_FLOAT, .data = t.c};
    struct mpq_move move = make_output_move(&plan, args->y[0]);
    mpq_move_forward(&move, &c, args->y[0]);
}

/* With C = A B: dA = dC B', dB = A' dC. */
static void einsum_backward(const struct mpq_kernel_args *args)
{
    struct plan plan;
    struct arrays t;
    if (!args->dy[0])
        return;
    make_plan(args->node, args->x, &plan);
    cut(&plan, args->workspace, true, &t);
    gather(args, &plan, &t);
    int64_t m = plan.size[GROUP_M], n = plan.size[GROUP_N], k = plan.size[GROUP_K];
    memset(t.dc, 0, (size_t)(plan.size[GROUP_B] * m * n) * sizeof *t.dc);
    struct mpq_move move = make_output_move(&plan, args->y[0]);
    mpq_move_backward(&move, args->dy[0], t.dc);
    for (int64_t i = 0; i < plan.size[GROUP_B]; i++) {
        const mpq_real *dc = t.dc + i * m * n;
        mpq_gemm(false, true, m, k, n, 1, dc, n, t.b + i * k * n, n, 0, t.da + i * m * k, k);
        mpq_gemm(true, false, k, n, m, 1, t.a + i * m * k, k, dc, n, 0, t.db + i * k * n, n);
    }
    struct mpq_move move_a = make_move(&plan, IN_A, order_a);
    struct mpq_move move_b = make_move(&plan, IN_B, order_b);
    mpq_move_backward(&move_a, t.da, mpq_grad(args, IN_A));
    mpq_move_backward(&move_b, t.db, mpq_grad(args, IN_B));
}

static uint64_t einsum_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y)
{
    struct plan plan;
    uint64_t macs = 1;
    (void)y;
    make_plan(node, x, &plan);
    for (int g = 0; g < N_GROUP; g++)
        macs *= (uint64_t)plan.size[g];
    return node->n_in > 1 ? macs : 0;
}

const struct mpq_op mpq_op_einsum = {.name = "Einsum",
                                     .domain = "",
                                     .n_in_min = 1,
                                     .n_in_max = 2,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .parse = einsum_parse,
                                     .infer = einsum_infer,
                                     .workspace = einsum_workspace,
                                     .forward = einsum_forward,
                                     .backward = einsum_backward,
                                     .macs = einsum_macs};
