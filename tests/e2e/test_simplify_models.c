/* Simplifying changes no output: every model of a folder, with and without, on random inputs. The
 * folder lies beside the source tree and is no part of it; where it is absent there is nothing to
 * test. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "importer/import.h"
#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/engine/exec.h"
#include "quantcore/pass/pass.h"
#include "tests/check.h"

static void fill_input(struct mpq_tensor *tensor, uint64_t step)
{
    for (int64_t i = 0; i < mpq_shape_count(&tensor->shape); i++) {
        bool is_index = mpq_dtype_is_integer(tensor->dtype);
        mpq_tensor_set_double(tensor, i,
                              is_index
                                  ? (double)mpq_rng_below(3, MPQ_STREAM_TEST, step, (uint32_t)i, 50)
                                  : mpq_rng_uniform(3, MPQ_STREAM_TEST, step, (uint32_t)i));
    }
}

static enum mpq_status run(struct mpq_ctx *ctx, struct mpq_arena *arena,
                           const struct mpq_graph *graph, int64_t batch, struct mpq_exec **out)
{
    struct mpq_binding *binding = mpq_arena_alloc(ctx, arena, 1, sizeof *binding);
    if (!binding)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_batch(ctx, arena, graph, batch, binding));
    MPQ_TRY(mpq_exec_create(ctx, arena, graph, binding, &(struct mpq_exec_options){0}, out));
    for (uint32_t i = 0; i < graph->n_input; i++)
        fill_input(mpq_exec_tensor(*out, graph->input[i]), i);
    mpq_exec_forward(*out, 0, graph->n_node);
    return MPQ_OK;
}

/* Largest difference, as part of the largest value. */
static double compare(const struct mpq_tensor *a, const struct mpq_tensor *b)
{
    double difference = 0, largest = 1e-6;
    assert_true(mpq_shape_equal(&a->shape, &b->shape));
    for (int64_t i = 0; i < mpq_shape_count(&a->shape); i++) {
        double x = mpq_tensor_double(a, i), y = mpq_tensor_double(b, i);
        assert_false(isnan(x) || isnan(y));
        difference = fmax(difference, fabs(x - y));
        largest = fmax(largest, fabs(x));
    }
    return difference / largest;
}

static void check_model(const char *path, const char *name)
{
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    struct mpq_graph *graph, *simple;
    struct mpq_exec *before, *after;
    size_t bytes;
    if (mpq_import_file(&ctx, arena, path, &graph, &bytes) != MPQ_OK) {
        print_message("%-32s not imported: %.120s\n", name, ctx.message);
        mpq_arena_free(arena);
        return;
    }
    CHECK_OK(&ctx, mpq_simplify(&ctx, arena, graph, &simple));
    enum mpq_status status = run(&ctx, arena, graph, 2, &before);
    if (status != MPQ_OK) {
        print_message("%-32s %u -> %u nodes, not run: %.120s\n", name, graph->n_node,
                      simple->n_node, ctx.message);
        mpq_arena_free(arena);
        return;
    }
    CHECK_OK(&ctx, run(&ctx, arena, simple, 2, &after));
    double worst = 0;
    for (uint32_t o = 0; o < graph->n_output; o++) {
        assert_string_equal(graph->value[graph->output[o]].name,
                            simple->value[simple->output[o]].name);
        worst = fmax(worst, compare(mpq_exec_tensor(before, graph->output[o]),
                                    mpq_exec_tensor(after, simple->output[o])));
    }
    print_message("%-32s %u -> %u nodes, outputs differ by %.1e\n", name, graph->n_node,
                  simple->n_node, worst);
    assert_true(worst < 1e-4);
    mpq_arena_free(arena);
}

/* A row of a batch must be what the sample alone gives. */
static double compare_row(const struct mpq_tensor *batch, const struct mpq_tensor *single,
                          int64_t row)
{
    struct mpq_tensor part = *batch;
    assert_int_equal(batch->shape.dim[0], 2 * single->shape.dim[0]);
    part.shape.dim[0] = single->shape.dim[0];
    part.data = (char *)batch->data + (size_t)row * mpq_tensor_bytes(&part);
    return compare(&part, single);
}

/* Models whose input is one image can be run with two. */
static void check_rebatch(const char *path, const char *name)
{
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    struct mpq_graph *graph;
    struct mpq_exec *batch, *single;
    size_t bytes;
    bool has_changed;
    if (mpq_import_file(&ctx, arena, path, &graph, &bytes) != MPQ_OK ||
        mpq_simplify(&ctx, arena, graph, &graph) != MPQ_OK ||
        run(&ctx, arena, graph, 1, &single) != MPQ_OK || graph->n_input != 1 ||
        mpq_exec_tensor(single, graph->input[0])->shape.rank != 4)
        goto out;
    CHECK_OK(&ctx, mpq_rebatch(&ctx, arena, graph, &graph, &has_changed));
    CHECK_OK(&ctx, run(&ctx, arena, graph, 2, &batch));
    const struct mpq_tensor *from = mpq_exec_tensor(batch, graph->input[0]);
    struct mpq_tensor *to = mpq_exec_tensor(single, graph->input[0]);
    for (int64_t row = 0; row < 2; row++) {
        memcpy(to->data, (char *)from->data + (size_t)row * mpq_tensor_bytes(to),
               mpq_tensor_bytes(to));
        mpq_exec_forward(single, 0, graph->n_node);
        for (uint32_t o = 0; o < graph->n_output; o++) {
            double worst = compare_row(mpq_exec_tensor(batch, graph->output[o]),
                                       mpq_exec_tensor(single, graph->output[o]), row);
            if (!(worst < 1e-4))
                fail_msg("%s: output %u of row %d differs by %g", name, o, (int)row, worst);
        }
    }
    print_message("%-32s %s\n", name, has_changed ? "rebatched" : "has a free batch");
out:
    mpq_arena_free(arena);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void for_each_model(void (*check)(const char *path, const char *name))
{
    enum { MAX_MODELS = 256 };
    char *name[MAX_MODELS], path[4096];
    size_t n = 0;
    DIR *folder = opendir(MPQ_TEST_MODELS);
    if (!folder)
        skip();
    for (struct dirent *entry; (entry = readdir(folder)) && n < MAX_MODELS;)
        if (strlen(entry->d_name) > 5 && !strcmp(strrchr(entry->d_name, 0) - 5, ".onnx"))
            name[n++] = strdup(entry->d_name);
    closedir(folder);
    qsort(name, n, sizeof *name, by_name);
    mpq_thread_set_count(1);
    for (size_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", MPQ_TEST_MODELS, name[i]);
        check(path, name[i]);
        free(name[i]);
    }
}

static void outputs_stay(void **state)
{
    (void)state;
    for_each_model(check_model);
}

static void batches_are_single_samples(void **state)
{
    (void)state;
    for_each_model(check_rebatch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_stay),
        cmocka_unit_test(batches_are_single_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
