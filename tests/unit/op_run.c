#include "tests/unit/op_run.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "tests/check.h"

void op_run_init(struct op_run *run, const struct mpq_op *op)
{
    memset(run, 0, sizeof *run);
    mpq_ctx_init(&run->ctx);
    run->arena = mpq_arena_create(&run->ctx);
    run->node = (struct mpq_node){.name = "n", .op_type = op->name, .domain = "", .op = op};
    run->node.attr_set.attr = run->attr;
    run->node.in = run->id;
    run->node.out = run->id + OP_RUN_MAX;
    run->node.n_out = 1;
}

void op_run_free(struct op_run *run)
{
    mpq_arena_free(run->arena);
}

static struct mpq_attr *new_attr(struct op_run *run, const char *name, enum mpq_attr_kind kind)
{
    struct mpq_attr *a = &run->attr[run->node.attr_set.n++];
    *a = (struct mpq_attr){.name = name, .kind = kind, .n = 1};
    return a;
}

void op_run_ints(struct op_run *run, const char *name, size_t n, const int64_t *value)
{
    struct mpq_attr *a = new_attr(run, name, MPQ_ATTR_INTS);
    a->n = n;
    a->ints = mpq_arena_copy(&run->ctx, run->arena, value, n * sizeof *value);
}

void op_run_int(struct op_run *run, const char *name, int64_t value)
{
    new_attr(run, name, MPQ_ATTR_INT)->i = value;
}

void op_run_float(struct op_run *run, const char *name, float value)
{
    new_attr(run, name, MPQ_ATTR_FLOAT)->f = value;
}

void op_run_string(struct op_run *run, const char *name, const char *value)
{
    struct mpq_attr *a = new_attr(run, name, MPQ_ATTR_STRING);
    a->s = value;
    a->n = strlen(value);
}

void op_run_input(struct op_run *run, const struct mpq_shape *shape, uint64_t seed)
{
    uint32_t i = run->node.n_in++;
    struct mpq_tensor *t = &run->tensor[i];
    CHECK_OK(&run->ctx, mpq_tensor_alloc(&run->ctx, run->arena, MPQ_FLOAT, shape, t));
    mpq_real *v = t->data;
    for (int64_t j = 0; j < mpq_shape_count(shape); j++)
        v[j] = (mpq_real)mpq_rng_normal(seed, MPQ_STREAM_TEST, i, (uint32_t)j);
    run->x[i] = t;
}

enum mpq_status op_run_infer(struct op_run *run)
{
    struct mpq_tensor *out = &run->out;
    if (run->node.op->parse)
        MPQ_TRY(run->node.op->parse(&run->ctx, run->arena, &run->node));
    return run->node.op->infer(&run->ctx, &run->node, run->x, &out);
}

static void *dirty_workspace(struct op_run *run, bool training)
{
    struct mpq_tensor *out = &run->out;
    const struct mpq_op *op = run->node.op;
    size_t bytes = op->workspace ? op->workspace(&run->node, run->x, &out, training) : 0;
    void *p = mpq_arena_alloc(&run->ctx, run->arena, bytes, 1);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    return p;
}

void op_run_forward(struct op_run *run)
{
    struct mpq_tensor *out = &run->out;
    struct mpq_shape shape = out->shape;
    CHECK_OK(&run->ctx, mpq_tensor_alloc(&run->ctx, run->arena, MPQ_FLOAT, &shape, out));
    struct mpq_kernel_args args = {.node = &run->node, .x = run->x, .y = &out, .clamp = run->clamp};
    memset(out->data, 0xff, mpq_tensor_bytes(out));
    args.workspace = dirty_workspace(run, false);
    run->node.op->forward(&args);
}

void op_run_backward(struct op_run *run, const mpq_real *dy, mpq_real start)
{
    static const bool all[OP_RUN_MAX] = {true, true, true, true};
    struct mpq_tensor *out = &run->out;
    struct mpq_kernel_args args = {.node = &run->node,
                                   .x = run->x,
                                   .y = &out,
                                   .dy = &dy,
                                   .dx = run->dx,
                                   .dx_is_fresh = isnan(start) ? all : NULL};
    for (uint32_t i = 0; i < run->node.n_in; i++) {
        int64_t n = mpq_shape_count(&run->x[i]->shape);
        run->dx[i] = mpq_arena_alloc(&run->ctx, run->arena, (size_t)n, sizeof(mpq_real));
        assert_non_null(run->dx[i]);
        for (int64_t j = 0; j < n; j++)
            run->dx[i][j] = start;
    }
    args.workspace = dirty_workspace(run, true);
    run->node.op->backward(&args);
}
