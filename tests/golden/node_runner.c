/* node_runner MODEL RTOL ATOL N_INPUT INPUT.pb... OUTPUT.pb...: run a model on its inputs and
 * compare with the outputs it should give. Prints one line: PASS, FAIL and why, or UNSUPPORTED and
 * why. Exit status 0 for the first and the last, 1 for FAIL, 2 where it was called wrongly. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "importer/import.h"
#include "importer/import_tensor.h"
#include "quantcore/base/fileio.h"
#include "quantcore/engine/exec.h"

static void free_proto(void *proto)
{
    onnx__tensor_proto__free_unpacked(proto, NULL);
}

static enum mpq_status read_tensor(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                                   bool as_float, struct mpq_tensor *out)
{
    uint8_t *data;
    size_t bytes;
    MPQ_TRY(mpq_file_read(ctx, arena, path, MPQ_LIMIT_MODEL_BYTES, &data, &bytes));
    Onnx__TensorProto *proto = onnx__tensor_proto__unpack(NULL, bytes, data);
    if (!proto)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s is no tensor", path);
    MPQ_TRY(mpq_arena_defer(ctx, arena, free_proto, proto));
    return as_float ? mpq_import_tensor_as_float(ctx, arena, path, proto, out)
                    : mpq_import_tensor(ctx, arena, path, proto, out);
}

static bool is_near(double got, double want, double rtol, double atol)
{
    if (isnan(want) || isinf(want))
        return isnan(want) ? isnan(got) : got == want;
    return fabs(got - want) <= atol + rtol * fabs(want);
}

static enum mpq_status compare(struct mpq_ctx *ctx, const char *name, const struct mpq_tensor *got,
                               const struct mpq_tensor *want, double rtol, double atol)
{
    bool is_rounded = mpq_dtype_is_other_float(want->dtype) && got->dtype == MPQ_FLOAT;
    if ((got->dtype != want->dtype && !is_rounded) || !mpq_shape_equal(&got->shape, &want->shape))
        return mpq_fail(ctx, MPQ_E_SHAPE, "output '%s' is %s %s, expected %s %s", name,
                        mpq_dtype_name(got->dtype), MPQ_SHAPE_TEXT(&got->shape),
                        mpq_dtype_name(want->dtype), MPQ_SHAPE_TEXT(&want->shape));
    if (want->dtype == MPQ_STRING || want->dtype == MPQ_COMPLEX64)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "outputs of type %s are not compared",
                        mpq_dtype_name(want->dtype));
    /* float16 and the like are computed as float, and rounded where they leave the graph. */
    double one = 0;
    struct mpq_tensor rounded = {want->dtype, {.rank = 0}, &one};
    for (int64_t i = 0; i < mpq_shape_count(&got->shape); i++) {
        double a = mpq_tensor_double(got, i), b = mpq_tensor_double(want, i);
        if (is_rounded) {
            mpq_tensor_set_double(&rounded, 0, a);
            a = mpq_tensor_double(&rounded, 0);
        }
        if (!is_near(a, b, rtol, atol))
            return mpq_fail(ctx, MPQ_E_NUMERIC, "output '%s' element %lld is %.9g, expected %.9g",
                            name, (long long)i, a, b);
    }
    return MPQ_OK;
}

static enum mpq_status run(struct mpq_ctx *ctx, struct mpq_arena *arena, char **argv, int n_in,
                           int n_out)
{
    struct mpq_graph *graph;
    struct mpq_binding binding;
    struct mpq_exec *exec;
    size_t bytes;
    MPQ_TRY(mpq_import_file(ctx, arena, argv[1], &graph, &bytes));
    if (graph->n_input != (uint32_t)n_in || graph->n_output != (uint32_t)n_out)
        return mpq_fail(ctx, MPQ_E_SHAPE, "the model has %u inputs and %u outputs", graph->n_input,
                        graph->n_output);
    struct mpq_tensor *x = mpq_arena_alloc(ctx, arena, (size_t)n_in, sizeof *x);
    struct mpq_shape *shape = mpq_arena_alloc(ctx, arena, (size_t)n_in, sizeof *shape);
    if (!x || !shape)
        return MPQ_E_NOMEM;
    for (int i = 0; i < n_in; i++) {
        MPQ_TRY(read_tensor(ctx, arena, argv[5 + i], true, &x[i]));
        shape[i] = x[i].shape;
    }
    MPQ_TRY(mpq_bind(ctx, arena, graph, shape, &binding));
    MPQ_TRY(mpq_exec_create(ctx, arena, graph, &binding, &(struct mpq_exec_options){0}, &exec));
    for (int i = 0; i < n_in; i++) {
        struct mpq_tensor *to = mpq_exec_tensor(exec, graph->input[i]);
        if (to->dtype != x[i].dtype)
            MPQ_TRY(read_tensor(ctx, arena, argv[5 + i], false, &x[i]));
        if (to->dtype != x[i].dtype)
            return mpq_fail(ctx, MPQ_E_SHAPE, "input %d is %s", i, mpq_dtype_name(x[i].dtype));
        memcpy(to->data, x[i].data, mpq_tensor_bytes(to));
    }
    mpq_exec_forward(exec, 0, graph->n_node);
    for (int i = 0; i < n_out; i++) {
        struct mpq_tensor want;
        const char *name = graph->value[graph->output[i]].name;
        MPQ_TRY(read_tensor(ctx, arena, argv[5 + n_in + i], false, &want));
        MPQ_TRY(compare(ctx, name, mpq_exec_tensor(exec, graph->output[i]), &want, atof(argv[2]),
                        atof(argv[3])));
    }
    return MPQ_OK;
}

int main(int argc, char **argv)
{
    struct mpq_ctx ctx;
    int n_in = argc > 4 ? atoi(argv[4]) : -1;
    if (n_in < 0 || argc < 5 + n_in)
        return 2;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    enum mpq_status status = arena ? run(&ctx, arena, argv, n_in, argc - 5 - n_in) : MPQ_E_NOMEM;
    mpq_arena_free(arena);
    if (status == MPQ_OK)
        puts("PASS");
    else
        printf("%s %s\n", status == MPQ_E_UNSUPPORTED ? "UNSUPPORTED" : "FAIL", ctx.message);
    return status != MPQ_OK && status != MPQ_E_UNSUPPORTED;
}
