#include "tests/grad/grad.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/base/rng.h"

#define MAX_OUT 8

/* |difference quotient - gradient| <= RTOL |quotient| + ATOL: the quotient itself is good to about
 * h^2 = 1e-10 plus rounding 1e-16 / h. */
#define RTOL 1e-5
#define ATOL 1e-7

struct problem {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    struct mpq_node node;
    struct mpq_tensor x[GRAD_MAX_INPUT], y[MAX_OUT];
    const struct mpq_tensor *x_list[GRAD_MAX_INPUT];
    struct mpq_tensor *y_list[MAX_OUT];
    mpq_real *dx[GRAD_MAX_INPUT], *dx_list[GRAD_MAX_INPUT];
    mpq_real *dy[MAX_OUT];
    const mpq_real *dy_list[MAX_OUT];
    void *workspace;
    char message[512];
};

static bool near_kink(const struct grad_case *c, double value)
{
    for (int k = 0; k < c->n_kink; k++)
        if (fabs(value - c->kink[k]) < 1e-2)
            return true;
    return false;
}

/* Element i of a permuted grid over (low, high), jittered by a quarter step: no two are close. */
static void fill(struct problem *p, const struct grad_case *c, int input)
{
    const struct grad_input *in = &c->in[input];
    struct mpq_tensor *x = &p->x[input];
    uint32_t n = (uint32_t)mpq_shape_count(&x->shape);
    uint32_t *order = mpq_arena_alloc(&p->ctx, p->arena, n, sizeof *order);
    mpq_rng_permutation(p->ctx.seed, MPQ_STREAM_TEST, (uint64_t)input, n, order);
    for (uint32_t i = 0; i < n; i++) {
        double jitter = mpq_rng_uniform(p->ctx.seed, MPQ_STREAM_TEST, 100 + (uint64_t)input, i) / 4;
        double value = in->low + (in->high - in->low) * (order[i] + 0.5 + jitter) / n;
        while (!in->fixed && near_kink(c, value))
            value += 0.021;
        ((mpq_real *)x->data)[i] = (mpq_real)value;
    }
}

static enum mpq_status set_inputs(struct problem *p, const struct grad_case *c)
{
    int i = 0;
    for (; i < GRAD_MAX_INPUT && c->in[i].present; i++) {
        const struct grad_input *in = &c->in[i];
        if (in->absent)
            continue;
        enum mpq_dtype dtype = in->is_bool ? MPQ_BOOL : in->ints ? MPQ_INT64 : MPQ_FLOAT;
        MPQ_TRY(mpq_tensor_alloc(&p->ctx, p->arena, dtype, &in->shape, &p->x[i]));
        p->x_list[i] = &p->x[i];
        if (!in->ints)
            fill(p, c, i);
        else
            for (int64_t k = 0; k < mpq_shape_count(&in->shape); k++)
                mpq_tensor_set_int(&p->x[i], k, in->ints[k]);
    }
    p->node.n_in = (uint32_t)i;
    return MPQ_OK;
}

static enum mpq_status set_outputs(struct problem *p, const struct grad_case *c)
{
    p->node.n_out = c->n_out ? (uint32_t)c->n_out : 1;
    for (uint32_t k = 0; k < p->node.n_out; k++)
        p->y_list[k] = &p->y[k];
    MPQ_TRY(p->node.op->infer(&p->ctx, &p->node, p->x_list, p->y_list));
    for (uint32_t k = 0; k < p->node.n_out; k++) {
        MPQ_TRY(mpq_tensor_alloc(&p->ctx, p->arena, p->y[k].dtype, &p->y[k].shape, &p->y[k]));
        if (p->y[k].dtype != MPQ_FLOAT)
            continue;
        int64_t n = mpq_shape_count(&p->y[k].shape);
        p->dy_list[k] = p->dy[k] = mpq_arena_alloc(&p->ctx, p->arena, (size_t)n, sizeof(mpq_real));
        for (int64_t i = 0; i < n; i++)
            p->dy[k][i] =
                (mpq_real)mpq_rng_normal(p->ctx.seed, MPQ_STREAM_TEST, 200 + k, (uint32_t)i);
    }
    return MPQ_OK;
}

static enum mpq_status setup(struct problem *p, const struct grad_case *c, const struct mpq_op *row)
{
    static const mpq_value_id id[GRAD_MAX_INPUT + MAX_OUT] = {0};
    size_t n_attr = 0;
    while (n_attr < GRAD_MAX_ATTR && c->attr[n_attr].name)
        n_attr++;
    p->node = (struct mpq_node){.name = "checked",
                                .op_type = c->op,
                                .domain = c->domain ? c->domain : "",
                                .op = row,
                                .attr_set = {n_attr, c->attr},
                                .attrs = c->attrs,
                                .in = id,
                                .out = id};
    MPQ_TRY(set_inputs(p, c));
    if (row->parse)
        MPQ_TRY(row->parse(&p->ctx, p->arena, &p->node));
    MPQ_TRY(set_outputs(p, c));
    size_t bytes = row->workspace ? row->workspace(&p->node, p->x_list, p->y_list, true) : 0;
    p->workspace = mpq_arena_alloc(&p->ctx, p->arena, bytes + 64, 1);
    for (uint32_t i = 0; i < p->node.n_in; i++)
        if (p->x_list[i] && !c->in[i].fixed) {
            size_t n = (size_t)mpq_shape_count(&p->x[i].shape);
            p->dx_list[i] = p->dx[i] = mpq_arena_alloc(&p->ctx, p->arena, n, sizeof(mpq_real));
            for (size_t k = 0; k < n; k++)
                p->dx[i][k] = 1; /* backward adds: a backward that overwrites shows up */
        }
    return p->ctx.status;
}

static struct mpq_kernel_args arguments(struct problem *p)
{
    return (struct mpq_kernel_args){.node = &p->node,
                                    .x = p->x_list,
                                    .y = p->y_list,
                                    .dy = p->dy_list,
                                    .dx = p->dx_list,
                                    .workspace = p->workspace};
}

/* sum of dy * y over all outputs. */
static double objective(struct problem *p)
{
    struct mpq_kernel_args args = arguments(p);
    double sum = 0;
    for (uint32_t k = 0; k < p->node.n_out; k++) /* forward must write every element */
        memset(p->y[k].data, 0x7f, mpq_tensor_bytes(&p->y[k]));
    p->node.op->forward(&args);
    for (uint32_t k = 0; k < p->node.n_out; k++)
        if (p->dy[k])
            for (int64_t i = 0; i < mpq_shape_count(&p->y[k].shape); i++)
                sum += (double)p->dy[k][i] * (double)((const mpq_real *)p->y[k].data)[i];
    return sum;
}

static bool check_input(struct problem *p, uint32_t input, double *worst)
{
    mpq_real *x = p->x[input].data;
    int64_t n = mpq_shape_count(&p->x[input].shape);
    double dot = 0, norm_got = 0, norm_want = 0;
    for (int64_t i = 0; i < n; i++) {
        mpq_real before = x[i];
        double h = 1e-5 * fmax(1, fabs((double)before));
        x[i] = (mpq_real)((double)before + h);
        double up = objective(p);
        x[i] = (mpq_real)((double)before - h);
        double down = objective(p);
        x[i] = before;
        double want = (up - down) / (2 * h), got = (double)p->dx[input][i] - 1;
        double error = fabs(got - want) / (RTOL * fabs(want) + ATOL);
        if (!(error <= 1)) {
            snprintf(p->message, sizeof p->message,
                     "input %u element %lld: gradient %.9g, difference quotient %.9g", input,
                     (long long)i, got, want);
            return false;
        }
        *worst = fmax(*worst, error);
        dot += got * want, norm_got += got * got, norm_want += want * want;
    }
    if (dot < (1 - 1e-9) * sqrt(norm_got * norm_want)) {
        snprintf(p->message, sizeof p->message, "input %u: cosine %.12g", input,
                 dot / sqrt(norm_got * norm_want));
        return false;
    }
    return true;
}

/* With dx_is_fresh backward must leave what it adds else (dx is that plus 1 here), whatever dx
 * held; and where in_place_dx says so, dx[0] may be dy[0]. */
static bool check_fresh(struct problem *p, bool in_place)
{
    bool fresh[GRAD_MAX_INPUT];
    struct mpq_kernel_args args = arguments(p);
    objective(p); /* y as it was before the differences */
    mpq_real *added[GRAD_MAX_INPUT];
    args.dx_is_fresh = fresh;
    for (uint32_t i = 0; i < p->node.n_in; i++) {
        size_t bytes = p->dx[i] ? mpq_tensor_bytes(&p->x[i]) : 0;
        fresh[i] = p->dx[i] != NULL;
        added[i] = mpq_arena_copy(&p->ctx, p->arena, p->dx[i], bytes);
        if (p->dx[i])
            memset(p->dx[i], 0xff, bytes);
    }
    if (in_place)
        p->dx_list[0] = memcpy(p->dx[0], p->dy[0], mpq_tensor_bytes(&p->x[0]));
    if (in_place)
        p->dy_list[0] = p->dx[0];
    p->node.op->backward(&args);
    for (uint32_t i = 0; i < p->node.n_in; i++)
        for (int64_t k = 0; p->dx[i] && k < mpq_shape_count(&p->x[i].shape); k++) {
            double got = (double)p->dx[i][k], want = (double)added[i][k] - 1;
            if (!(fabs(got - want) <= 1e-12 * fmax(1, fabs(want)))) {
                snprintf(p->message, sizeof p->message,
                         "input %u element %lld: %.17g where fresh%s, %.17g where added", i,
                         (long long)k, got, in_place ? " and in place" : "", want);
                return false;
            }
            p->dx[i][k] = added[i][k];
        }
    p->dy_list[0] = p->dy[0];
    return true;
}

static bool can_be_in_place(const struct problem *p)
{
    return p->node.op->in_place_dx && p->dx[0] && p->dy[0] &&
           mpq_tensor_bytes(&p->x[0]) == mpq_tensor_bytes(&p->y[0]);
}

/* Backward, with what the row says it ignores spoiled meanwhile. */
static void backward_with_poison(struct problem *p, const struct mpq_kernel_args *args)
{
    void *saved[GRAD_MAX_INPUT] = {0};
    unsigned ignores = p->node.op->backward_ignores;
    for (uint32_t i = 0; i < p->node.n_in; i++)
        if ((ignores & MPQ_IGNORES_X) && p->dx[i]) {
            size_t bytes = mpq_tensor_bytes(&p->x[i]);
            saved[i] = mpq_arena_copy(&p->ctx, p->arena, p->x[i].data, bytes);
            memset(p->x[i].data, 0xff, bytes);
        }
    for (uint32_t k = 0; k < p->node.n_out; k++)
        if (ignores & MPQ_IGNORES_Y)
            memset(p->y[k].data, 0xff, mpq_tensor_bytes(&p->y[k]));
    p->node.op->backward(args);
    for (uint32_t i = 0; i < p->node.n_in; i++)
        if (saved[i])
            memcpy(p->x[i].data, saved[i], mpq_tensor_bytes(&p->x[i]));
}

const char *grad_check(const struct grad_case *c, const struct mpq_op *row, double *worst)
{
    static struct problem p;
    if (p.arena)
        mpq_arena_free(p.arena);
    memset(&p, 0, sizeof p);
    mpq_ctx_init(&p.ctx);
    p.ctx.seed = 7;
    p.arena = mpq_arena_create(&p.ctx);
    if (!p.arena || setup(&p, c, row) != MPQ_OK)
        return p.ctx.message;
    objective(&p);
    struct mpq_kernel_args args = arguments(&p);
    backward_with_poison(&p, &args);
    bool any = false;
    for (uint32_t i = 0; i < p.node.n_in; i++)
        if (p.dx[i]) {
            any = true;
            if (!check_input(&p, i, worst))
                return p.message;
        }
    if (any && row->sets_dx && !check_fresh(&p, false))
        return p.message;
    if (any && can_be_in_place(&p) && !check_fresh(&p, true))
        return p.message;
    return any ? "" : "no input asks for a gradient";
}
