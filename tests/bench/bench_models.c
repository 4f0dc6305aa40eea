/* What running and tuning real models costs, as CSV on stdout:
 *   bench_models [-t threads] [-w work] [-m megabytes] MODEL.onnx BATCH [MODEL.onnx BATCH ...]
 *
 * work is "forward", "train" (a tuning step: the widest path and three random ones, distilled, with
 * the update of all parameters; on noise), "nodes" (one row an operator: its nodes in one forward
 * pass) or "layers" (one row a node, for one small batch); without -w the first two. -m: what
 * activations and gradients of a tuning step may take. "forward" takes the batch in the small
 * batches in which the program runs samples. FLOPs are counted once: 2 a multiply-accumulate, and
 * three times that for forward with backward. Bytes are those of a node's inputs and outputs. Rates
 * are also given as shares of a 2048 cube product of BLAS and of a large copy in the same run. Each
 * work is measured in a process of its own, whose peak resident memory its rows give. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "calibration/observe.h"
#include "importer/import.h"
#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/pass/pass.h"
#include "quantcore/supernet/evaluate.h"
#include "quantcore/supernet/tune.h"

enum { MAX_TIMES = 64, TUNE_STEPS = 7, MIN_RUNS = 5, MAX_RUNS = 40 };

struct peaks {
    double gflops, gbytes;
};

struct bench {
    struct mpq_ctx ctx;
    struct mpq_arena *arena;
    const char *name;
    uint32_t batch;
    size_t max_bytes; /* 0: no limit */
    const struct mpq_graph *graph;
    struct mpq_binding binding; /* at the batch */
    struct mpq_layer_table layers;
    struct mpq_act_plan act;
    struct peaks peaks;
    double start, time[MAX_TIMES]; /* of the steps seen by on_progress() */
    int n_time;
};

/* On one thread the time of the processor, which other programs disturb less. */
static double now(void)
{
    struct timespec t;
    clock_gettime(mpq_thread_count() > 1 ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *time, int n)
{
    qsort(time, (size_t)n, sizeof *time, ascending);
    return n % 2 ? time[n / 2] : (time[n / 2 - 1] + time[n / 2]) / 2;
}

static void check(struct bench *b, enum mpq_status status)
{
    if (status == MPQ_OK)
        return;
    fprintf(stderr, "bench_models: %s: %s\n", b->name, b->ctx.message);
    exit(1);
}

static void *alloc(struct bench *b, size_t n, size_t size)
{
    void *p = mpq_arena_alloc(&b->ctx, b->arena, n, size);
    if (!p)
        check(b, MPQ_E_NOMEM);
    return p;
}

/* ---- peaks ---- */

static struct peaks measure_peaks(void)
{
    enum { N = 2048, COPY_BYTES = 64 << 20 };
    struct peaks peaks = {0};
    mpq_real *x = malloc(COPY_BYTES), *y = malloc(COPY_BYTES);
    if (!x || !y)
        abort();
    memset(x, 0, COPY_BYTES);
    memset(y, 0, COPY_BYTES);
    for (int i = 0; i < 4; i++) {
        double t = now();
        mpq_gemm(false, false, N, N, N, 1, x, N, x, N, 0, y, N);
        peaks.gflops = fmax(peaks.gflops, 2e-9 * N * N * N / (now() - t));
        t = now();
        memcpy(y, x, COPY_BYTES);
        peaks.gbytes = fmax(peaks.gbytes, 2e-9 * COPY_BYTES / (now() - t));
    }
    free(x);
    free(y);
    return peaks;
}

static double peak_megabytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

/* ---- a model ---- */

static enum mpq_status read_noise(struct mpq_ctx *ctx, void *arg, const uint32_t *index, uint32_t n,
                                  struct mpq_tensor *const *input)
{
    const struct bench *b = arg;
    for (uint32_t k = 0; k < b->graph->n_input; k++) {
        int64_t count = mpq_shape_count(&input[k]->shape);
        for (int64_t i = 0; i < count; i++) {
            uint64_t bits = ((uint64_t)i * 2654435761u + index[i * n / count] * 40503u) >> 7;
            double x = (double)(bits % 4096) / 1024 - 2;
            mpq_tensor_set_double(input[k], i, input[k]->dtype == MPQ_FLOAT ? x : fabs(x));
        }
    }
    (void)ctx;
    return MPQ_OK;
}

static void open_model(struct bench *b, const char *path, uint32_t batch)
{
    struct mpq_graph *graph;
    struct mpq_binding one;
    size_t bytes;
    bool changed;
    mpq_ctx_init(&b->ctx);
    b->arena = mpq_arena_create(&b->ctx);
    b->ctx.n_threads = mpq_thread_count();
    b->name = path;
    b->batch = batch;
    check(b, mpq_import_file(&b->ctx, b->arena, path, &graph, &bytes));
    check(b, mpq_simplify(&b->ctx, b->arena, graph, &graph));
    check(b, mpq_bind_batch(&b->ctx, b->arena, graph, 1, &one));
    check(b, mpq_layer_table_build(&b->ctx, b->arena, graph, &one, &b->layers));
    check(b, mpq_act_plan_build(&b->ctx, b->arena, graph, &one, &b->layers,
                                (struct mpq_act_rules){0}, &b->act));
    check(b, mpq_rebatch(&b->ctx, b->arena, graph, &graph, &changed));
    check(b, mpq_bind_batch(&b->ctx, b->arena, graph, batch, &b->binding));
    b->graph = graph;
}

static double gigaflops(const struct bench *b)
{
    double macs = 0;
    for (uint32_t n = 0; n < b->graph->n_node; n++)
        macs += (double)mpq_bind_macs(b->graph, &b->binding, n);
    return 2e-9 * macs;
}

static void print_row(const struct bench *b, const char *work, double seconds, double gflop,
                      double gbytes)
{
    const char *file = strrchr(b->name, '/');
    printf("%s,%u,%s,%.3f,%.1f,%.2f,%.1f,%.2f,%.0f\n", file ? file + 1 : b->name, b->batch, work,
           seconds * 1e3, gflop / seconds, gflop / seconds / b->peaks.gflops, gbytes / seconds,
           gbytes / seconds / b->peaks.gbytes, peak_megabytes());
    fflush(stdout);
}

static double float_bytes(const struct mpq_binding *binding, const mpq_value_id *value, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (value[i] != MPQ_NO_VALUE)
            sum += 1e-9 * (double)mpq_tensor_bytes(&binding->tensor[value[i]]);
    return sum;
}

static double node_bytes(const struct mpq_graph *graph, const struct mpq_binding *binding,
                         mpq_node_id n)
{
    const struct mpq_node *node = &graph->node[n];
    return float_bytes(binding, node->in, node->n_in) +
           float_bytes(binding, node->out, node->n_out);
}

/* ---- forward ---- */

static struct mpq_network float_network(struct bench *b, const struct mpq_exec_options *options)
{
    struct mpq_network network;
    uint32_t *index = alloc(b, b->batch, sizeof *index);
    for (uint32_t i = 0; i < b->batch; i++)
        index[i] = i;
    struct mpq_samples samples = {read_noise, b};
    check(b, mpq_network_create(&b->ctx, b->arena, b->graph, b->batch, options, &network));
    check(b, mpq_network_read(&b->ctx, &network, &samples, index, b->batch));
    return network;
}

/* As cli/runner.c does it: what fits into the cache goes through all nodes, then the next. */
static uint32_t slice_of(struct bench *b)
{
    const size_t target = (size_t)16 << 20;
    struct mpq_network one;
    uint32_t slice = 1;
    check(b,
          mpq_network_create(&b->ctx, b->arena, b->graph, 1, &(struct mpq_exec_options){0}, &one));
    size_t bytes = mpq_exec_bytes(one.exec);
    while (b->batch % (2 * slice) == 0 && 2 * slice * bytes <= target * (size_t)mpq_thread_count())
        slice *= 2;
    return slice;
}

static void measure_forward(struct bench *b)
{
    double time[MAX_RUNS], bytes = 0, start;
    int n = 0;
    uint32_t whole = b->batch;
    b->batch = slice_of(b);
    uint32_t n_slice = whole / b->batch;
    check(b, mpq_bind_batch(&b->ctx, b->arena, b->graph, b->batch, &b->binding));
    struct mpq_network network = float_network(b, &(struct mpq_exec_options){0});
    for (uint32_t i = 0; i < b->graph->n_node; i++)
        if (!b->binding.is_folded[i])
            bytes += n_slice * node_bytes(b->graph, &b->binding, i);
    for (start = now(); n < MIN_RUNS || (n < MAX_RUNS && now() - start < 2); n++) {
        double t = now();
        for (uint32_t i = 0; i < n_slice; i++)
            mpq_exec_forward(network.exec, 0, b->graph->n_node);
        time[n] = now() - t;
    }
    b->batch = whole;
    print_row(b, "forward", median(time, n), n_slice * gigaflops(b), bytes);
}

/* ---- nodes ---- */

struct kind {
    const char *name;
    double seconds, gflop, gbytes;
};

static void measure_nodes(struct bench *b)
{
    enum { RUNS = 5 };
    uint32_t n_kind = 0;
    struct kind *kind = alloc(b, b->graph->n_node, sizeof *kind);
    struct mpq_network network = float_network(b, &(struct mpq_exec_options){.keep_all = true});
    mpq_exec_forward(network.exec, 0, b->graph->n_node);
    for (mpq_node_id n = 0; n < b->graph->n_node; n++) {
        double time[RUNS];
        uint32_t k = 0;
        if (b->binding.is_folded[n])
            continue;
        for (int i = 0; i < RUNS; i++) {
            double t = now();
            mpq_exec_forward(network.exec, n, n + 1);
            time[i] = now() - t;
        }
        while (k < n_kind && strcmp(kind[k].name, b->graph->node[n].op_type) != 0)
            k++;
        n_kind += k == n_kind;
        kind[k].name = b->graph->node[n].op_type;
        kind[k].seconds += median(time, RUNS);
        kind[k].gflop += 2e-9 * (double)mpq_bind_macs(b->graph, &b->binding, n);
        kind[k].gbytes += node_bytes(b->graph, &b->binding, n);
    }
    for (uint32_t k = 0; k < n_kind; k++)
        print_row(b, kind[k].name, kind[k].seconds, kind[k].gflop, kind[k].gbytes);
}

/* One row a node, in the small batches of "forward": what the caches hold is as it is there. */
static void measure_layers(struct bench *b)
{
    enum { RUNS = 7 };
    b->batch = slice_of(b);
    check(b, mpq_bind_batch(&b->ctx, b->arena, b->graph, b->batch, &b->binding));
    struct mpq_network network = float_network(b, &(struct mpq_exec_options){0});
    double *time = alloc(b, (size_t)b->graph->n_node * RUNS, sizeof *time);
    for (int i = 0; i < RUNS; i++)
        for (mpq_node_id n = 0; n < b->graph->n_node; n++) {
            double t = now();
            mpq_exec_forward(network.exec, n, n + 1);
            time[n * RUNS + (uint32_t)i] = now() - t;
        }
    for (mpq_node_id n = 0; n < b->graph->n_node; n++)
        if (!b->binding.is_folded[n])
            print_row(b, b->graph->node[n].name, median(time + n * RUNS, RUNS),
                      2e-9 * (double)mpq_bind_macs(b->graph, &b->binding, n),
                      node_bytes(b->graph, &b->binding, n));
}

/* ---- training ---- */

static void on_progress(void *arg, const struct mpq_progress *progress)
{
    struct bench *b = arg;
    if (strcmp(progress->stage, "tune") != 0)
        return;
    if (b->start > 0 && b->n_time < MAX_TIMES)
        b->time[b->n_time++] = now() - b->start;
    b->start = now();
}

struct training {
    struct mpq_supernet net;
    struct mpq_graph *fake_graph;
    struct mpq_observer observer;
    struct mpq_act_quant *quant;
    mpq_node_id *node_of;
};

static struct training prepare_training(struct bench *b)
{
    struct training t = {.quant = alloc(b, b->act.n_group, sizeof *t.quant),
                         .node_of = alloc(b, b->graph->n_node, sizeof *t.node_of)};
    check(b, mpq_observer_create(&b->ctx, b->arena, b->graph, &b->layers, &b->act, &t.observer));
    struct mpq_network network =
        float_network(b, &(struct mpq_exec_options){.keep = t.observer.keep});
    mpq_exec_forward(network.exec, 0, b->graph->n_node);
    check(b, mpq_observer_add(&b->ctx, &t.observer, b->graph, network.exec, 0, b->graph->n_node,
                              network.batch, network.batch));
    mpq_observer_ranges(&t.observer, (struct mpq_act_form){.bits = 8}, t.quant);
    check(b, mpq_insert_fake_quant(&b->ctx, b->arena, b->graph, &b->act, t.quant, &t.fake_graph,
                                   t.node_of));
    check(b, mpq_supernet_create(&b->ctx, b->arena, b->graph, &b->layers, 0x17c, &t.net));
    check(b, mpq_supernet_fit(&b->ctx, &t.net, b->graph, t.observer.stats, true));
    return t;
}

/* Of tuning itself: the arena of all that came before it is gone by then. */
static void measure_training(struct bench *b)
{
    struct training t = prepare_training(b);
    uint32_t n_sample = b->batch, *sample = alloc(b, n_sample, sizeof *sample);
    double *sensitivity = alloc(b, (size_t)b->layers.n_layer * MPQ_N_BITS, sizeof *sensitivity);
    struct mpq_samples samples = {read_noise, b};
    struct mpq_targets targets;
    struct mpq_tune_result result;
    struct mpq_network network = float_network(b, &(struct mpq_exec_options){0});
    for (uint32_t i = 0; i < n_sample; i++)
        sample[i] = i;
    for (uint32_t i = 0; i < b->layers.n_layer * MPQ_N_BITS; i++)
        sensitivity[i] = pow(0.25, i % MPQ_N_BITS);
    check(b, mpq_targets_create(&b->ctx, b->arena, &network, &samples, sample, n_sample, &targets));
    b->ctx.progress = on_progress;
    b->ctx.user = b;
    check(b, mpq_tune(&b->ctx, &t.net, t.fake_graph, b->batch, &samples, &targets,
                      &(struct mpq_tune_options){.n_step = TUNE_STEPS + 1,
                                                 .n_random = 3,
                                                 .align = true,
                                                 .weight_rate = 5e-5,
                                                 .scale_rate = 2e-4,
                                                 .bias_rate = 1e-4,
                                                 .align_weight = 0.1,
                                                 .max_bytes = b->max_bytes,
                                                 .sensitivity = sensitivity,
                                                 .stats = t.observer.stats},
                      &result));
    print_row(b, "train", median(b->time, b->n_time), 4 * 3 * gigaflops(b), 0);
    if (getenv("BENCH_LOSS")) /* to see that a change of speed changed nothing else */
        fprintf(stderr, "%s: loss %.9g %.9g\n", b->name, result.first_loss, result.last_loss);
}

/* ---- one child process a row ---- */

static void in_child(struct bench *b, const char *path, uint32_t batch,
                     void (*measure)(struct bench *b))
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        abort();
    if (child == 0) {
        open_model(b, path, batch);
        measure(b);
        mpq_arena_free(b->arena);
        exit(0);
    }
    if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
        fprintf(stderr, "bench_models: %s: no row\n", path);
}

/* BLAS starts its threads when first used, and they do not survive a fork: a child of its own. */
static struct peaks peaks_in_child(void)
{
    struct peaks peaks = {1, 1};
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0)
        abort();
    pid_t child = fork();
    if (child < 0)
        abort();
    if (child == 0) {
        peaks = measure_peaks();
        exit(write(pipe_ends[1], &peaks, sizeof peaks) != sizeof peaks);
    }
    if (read(pipe_ends[0], &peaks, sizeof peaks) != sizeof peaks)
        abort();
    waitpid(child, NULL, 0);
    return peaks;
}

int main(int argc, char **argv)
{
    static const struct work {
        const char *name;
        void (*measure)(struct bench *b);
        bool by_default;
    } work[] = {{"forward", measure_forward, true},
                {"train", measure_training, true},
                {"nodes", measure_nodes, false},
                {"layers", measure_layers, false}};
    int option, threads = 1;
    size_t max_bytes = 0;
    const char *wanted = NULL;
    while ((option = getopt(argc, argv, "t:w:m:")) != -1) {
        if (option == 't')
            threads = atoi(optarg);
        else if (option == 'w')
            wanted = optarg;
        else if (option == 'm')
            max_bytes = (size_t)atol(optarg) << 20;
        else
            return 2;
    }
    mpq_thread_set_count(threads);
    struct peaks peaks = peaks_in_child();
    printf("# %d threads, product %.1f GFLOP/s, copy %.1f GB/s\n", threads, peaks.gflops,
           peaks.gbytes);
    printf("model,batch,work,ms,gflops,of_sgemm,gbytes,of_copy,peak_mb\n");
    for (int i = optind; i + 1 < argc; i += 2)
        for (size_t k = 0; k < sizeof work / sizeof *work; k++) {
            struct bench b = {.peaks = peaks, .max_bytes = max_bytes};
            if (wanted ? strcmp(wanted, work[k].name) == 0 : work[k].by_default)
                in_child(&b, argv[i], (uint32_t)atoi(argv[i + 1]), work[k].measure);
        }
    return 0;
}
