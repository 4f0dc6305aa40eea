/* Rates of the convolution kernels at shapes of real networks, as CSV on stdout:
 *   bench_kernels [threads [net]]
 * GFLOP/s, products counted as the plain sums have them, of y, dx and dw, best of several runs, and
 * of all three together as a share of what one large BLAS product reaches in the same run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/conv.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/kernel/tile.h"
#include "quantcore/ops/kernel/winograd.h"

#define MIN_SECONDS 0.15

/* On one thread the time of the processor, which other programs disturb less. */
static double now(void)
{
    struct timespec t;
    clock_gettime(mpq_thread_count() > 1 ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static mpq_real *numbers(int64_t n)
{
    mpq_real *v = aligned_alloc(64, ((size_t)n * sizeof *v + 63) / 64 * 64 + 64);
    if (!v)
        abort();
    for (int64_t i = 0; i < n; i++)
        v[i] = (mpq_real)(i % 17 - 8) / 8;
    return v;
}

struct bench {
    struct mpq_conv conv, back;
    mpq_real *x, *w, *y;
    void *workspace;
};

static void run_y(struct bench *b)
{
    if (mpq_winograd_pays(&b->conv))
        mpq_winograd_run(&b->conv, false, b->x, b->w, NULL, NULL, false, b->y, b->workspace);
    else
        mpq_conv_forward(&b->conv, b->x, b->w, NULL, false, NULL, b->y, b->workspace);
}

static void run_dx(struct bench *b)
{
    if (mpq_winograd_backward(&b->conv, &b->back))
        mpq_winograd_run(&b->back, true, b->y, b->w, NULL, NULL, false, b->x, b->workspace);
    else
        mpq_conv_dx(&b->conv, b->y, b->w, false, b->x, b->workspace);
}

static void run_dw(struct bench *b)
{
    if (mpq_winograd_dw_pays(&b->conv))
        mpq_winograd_dw(&b->conv, b->x, b->y, b->w, b->workspace);
    else
        mpq_conv_dw(&b->conv, b->x, b->y, b->w, b->workspace);
}

static void run_peak(struct bench *b)
{
    mpq_gemm(false, false, 2048, 2048, 2048, 1, b->x, 2048, b->w, 2048, 0, b->y, 2048);
}

static double seconds(void (*fn)(struct bench *b), struct bench *b)
{
    double best = 1e9, start = now();
    for (int i = 0; i < 3 || now() - start < MIN_SECONDS; i++) {
        double t = now();
        fn(b);
        t = now() - t;
        if (t < best)
            best = t;
    }
    return best;
}

static double peak(void)
{
    struct bench b = {
        .x = numbers(2048 * 2048), .w = numbers(2048 * 2048), .y = numbers(2048 * 2048)};
    double rate = 2 * 2048.0 * 2048 * 2048 / seconds(run_peak, &b) / 1e9;
    free(b.x);
    free(b.w);
    free(b.y);
    return rate;
}

struct row {
    const char *net;
    int n, c, m, group, size, kernel, stride;
};

static size_t workspace_bytes(struct bench *b)
{
    size_t most = 0;
    const size_t bytes[] = {
        mpq_conv_forward_bytes(&b->conv),
        mpq_conv_dx_bytes(&b->conv),
        mpq_conv_dw_bytes(&b->conv),
        mpq_winograd_pays(&b->conv) ? mpq_winograd_bytes(&b->conv) : 0,
        mpq_winograd_backward(&b->conv, &b->back) ? mpq_winograd_bytes(&b->back) : 0,
        mpq_winograd_dw_pays(&b->conv) ? mpq_winograd_dw_bytes(&b->conv) : 0,
    };
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        most = bytes[i] > most ? bytes[i] : most;
    return (most + 63) / 64 * 64;
}

static void measure(const struct row *r, double peak_rate)
{
    int64_t out = (r->size + 2 * (r->kernel / 2) - r->kernel) / r->stride + 1;
    struct bench b = {.conv = {.n = r->n,
                               .c = r->c,
                               .m = r->m,
                               .group = r->group,
                               .in = {r->size, 1, r->size},
                               .out = {out, 1, out},
                               .kernel = {r->kernel, 1, r->kernel},
                               .stride = {r->stride, 1, r->stride},
                               .dilation = {1, 1, 1},
                               .pad = {r->kernel / 2, 0, r->kernel / 2}}};
    int64_t k = (int64_t)r->c / r->group * r->kernel * r->kernel;
    double gflop = 2e-9 * r->n * r->m * (double)(out * out) * (double)k;
    b.x = numbers((int64_t)r->n * r->c * r->size * r->size);
    b.w = numbers(r->m * k);
    b.y = numbers(r->n * r->m * out * out);
    b.workspace = aligned_alloc(64, workspace_bytes(&b));
    if (!b.workspace)
        abort();
    double y = seconds(run_y, &b), dx = seconds(run_dx, &b), dw = seconds(run_dw, &b);
    printf("%s,%d,%d,%d,%d,%d,%d,%d,%.2f,%.1f,%.1f,%.1f,%.2f\n", r->net, r->n, r->c, r->m, r->group,
           r->size, r->kernel, r->stride, (y + dx + dw) * 1e3, gflop / y, gflop / dx, gflop / dw,
           3 * gflop / (y + dx + dw) / peak_rate);
    fflush(stdout);
    free(b.x);
    free(b.w);
    free(b.y);
    free(b.workspace);
}

int main(int argc, char **argv)
{
    static const struct row row[] = {
        {"resnet20", 64, 3, 16, 1, 32, 3, 1},         {"resnet20", 64, 16, 16, 1, 32, 3, 1},
        {"resnet20", 64, 16, 32, 1, 32, 3, 2},        {"resnet20", 64, 32, 32, 1, 16, 3, 1},
        {"resnet20", 64, 32, 64, 1, 16, 3, 2},        {"resnet20", 64, 64, 64, 1, 8, 3, 1},
        {"squeezenet", 16, 3, 64, 1, 224, 3, 2},      {"squeezenet", 16, 64, 16, 1, 55, 1, 1},
        {"squeezenet", 16, 16, 64, 1, 55, 1, 1},      {"squeezenet", 16, 16, 64, 1, 55, 3, 1},
        {"squeezenet", 16, 256, 32, 1, 27, 1, 1},     {"squeezenet", 16, 32, 128, 1, 27, 3, 1},
        {"squeezenet", 16, 48, 192, 1, 13, 3, 1},     {"squeezenet", 16, 64, 256, 1, 13, 3, 1},
        {"squeezenet", 16, 512, 1000, 1, 13, 1, 1},   {"mobilenetv2", 16, 3, 32, 1, 128, 3, 2},
        {"mobilenetv2", 16, 32, 32, 32, 64, 3, 1},    {"mobilenetv2", 16, 16, 96, 1, 64, 1, 1},
        {"mobilenetv2", 16, 96, 96, 96, 64, 3, 2},    {"mobilenetv2", 16, 96, 24, 1, 32, 1, 1},
        {"mobilenetv2", 16, 144, 144, 144, 32, 3, 1}, {"mobilenetv2", 16, 192, 32, 1, 16, 1, 1},
        {"mobilenetv2", 16, 384, 384, 384, 8, 3, 1},  {"mobilenetv2", 16, 576, 96, 1, 8, 1, 1},
        {"mobilenetv2", 16, 960, 320, 1, 4, 1, 1},    {"mobilenetv2", 16, 960, 960, 960, 4, 3, 1},
        {"mobilenetv1", 16, 8, 16, 1, 112, 1, 1},     {"mobilenetv1", 16, 32, 32, 32, 56, 3, 1},
        {"mobilenetv1", 16, 128, 128, 1, 14, 1, 1},   {"resnet18", 8, 64, 64, 1, 56, 3, 1},
        {"resnet18", 8, 128, 256, 1, 28, 3, 2},       {"resnet18", 8, 512, 512, 1, 7, 3, 1},
        {"resnet18", 1, 64, 64, 1, 56, 3, 1},         {"resnet18", 1, 512, 512, 1, 7, 3, 1},
    };
    mpq_thread_set_count(argc > 1 ? atoi(argv[1]) : 1);
    double peak_rate = peak();
    printf("# %d threads, %s tiles, BLAS product %.1f GFLOP/s\n", mpq_thread_count(),
           mpq_tile_best()->name, peak_rate);
    printf("net,n,c,m,group,size,kernel,stride,ms,y_gflops,dx_gflops,dw_gflops,of_blas\n");
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (argc < 3 || strcmp(argv[2], row[i].net) == 0)
            measure(&row[i], peak_rate);
    return 0;
}
