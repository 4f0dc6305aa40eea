/* Conv and ConvTranspose against loops written from their definitions, in double. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/winograd.h"
#include "tests/check.h"
#include "tests/unit/op_run.h"

#define SEED 20240611u

extern const struct mpq_op mpq_op_conv, mpq_op_conv_transpose;

/* One convolution over three spatial dimensions; x, y by the roles in Conv. */
struct shape {
    int dims;
    int64_t n, c, m, group;
    int64_t in[3], kernel[3], stride[3], dilation[3], pad[3], pad_end[3], extra[3];
    int64_t out[3];
    bool bias;
};

static int64_t volume(const int64_t d[3])
{
    return d[0] * d[1] * d[2];
}

/* Whether tap k at output place o reads input place *out_i. */
static bool reads(const struct shape *s, int64_t o, int64_t k, int64_t *out_i)
{
    int64_t place[3] = {o / (s->out[1] * s->out[2]), o / s->out[2] % s->out[1], o % s->out[2]};
    int64_t tap[3] = {k / (s->kernel[1] * s->kernel[2]), k / s->kernel[2] % s->kernel[1],
                      k % s->kernel[2]};
    *out_i = 0;
    for (int i = 0; i < 3; i++) {
        int64_t p = place[i] * s->stride[i] + tap[i] * s->dilation[i] - s->pad[i];
        if (p < 0 || p >= s->in[i])
            return false;
        *out_i = *out_i * s->in[i] + p;
    }
    return true;
}

/* Calls fn for every product of an output, an input and a weight element. */
static void each_product(const struct shape *s,
                         void (*fn)(double **v, int64_t y, int64_t x, int64_t w), double **v)
{
    int64_t cg = s->c / s->group, mg = s->m / s->group, i;
    for (int64_t o = 0; o < volume(s->out); o++)
        for (int64_t k = 0; k < volume(s->kernel); k++) {
            if (!reads(s, o, k, &i))
                continue;
            for (int64_t n = 0; n < s->n; n++)
                for (int64_t m = 0; m < s->m; m++)
                    for (int64_t c = 0; c < cg; c++)
                        fn(v, (n * s->m + m) * volume(s->out) + o,
                           (n * s->c + m / mg * cg + c) * volume(s->in) + i,
                           (m * cg + c) * volume(s->kernel) + k);
        }
}

/* v: y, x, w, dy, dx, dw */
enum { Y, X, W, DY, DX, DW, N_V };

static void add_y(double **v, int64_t y, int64_t x, int64_t w)
{
    v[Y][y] += v[X][x] * v[W][w];
}

static void add_gradients(double **v, int64_t y, int64_t x, int64_t w)
{
    v[DX][x] += v[DY][y] * v[W][w];
    v[DW][w] += v[DY][y] * v[X][x];
}

/* The transpose: y takes the place of dx and x that of dy. */
static void add_y_transposed(double **v, int64_t y, int64_t x, int64_t w)
{
    v[Y][x] += v[X][y] * v[W][w];
}

static void add_gradients_transposed(double **v, int64_t y, int64_t x, int64_t w)
{
    v[DX][y] += v[DY][x] * v[W][w];
    v[DW][w] += v[DY][x] * v[X][y];
}

static double *doubles(const mpq_real *from, int64_t n)
{
    double *v = calloc((size_t)n + 1, sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; from && i < n; i++)
        v[i] = (double)from[i];
    return v;
}

static void compare(const char *what, const struct shape *s, const mpq_real *got,
                    const double *want, int64_t n, double offset, double scale)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - offset - want[i]) <= 2e-5 * (scale + fabs(want[i]))))
            fail_msg("%s[%d] = %.9g, expected %.9g: n %d c %d m %d group %d in %d %d %d kernel %d "
                     "%d %d stride %d %d %d dilation %d %d %d pad %d %d %d threads %d",
                     what, (int)i, (double)got[i] - offset, want[i], (int)s->n, (int)s->c,
                     (int)s->m, (int)s->group, (int)s->in[0], (int)s->in[1], (int)s->in[2],
                     (int)s->kernel[0], (int)s->kernel[1], (int)s->kernel[2], (int)s->stride[0],
                     (int)s->stride[1], (int)s->stride[2], (int)s->dilation[0], (int)s->dilation[1],
                     (int)s->dilation[2], (int)s->pad[0], (int)s->pad[1], (int)s->pad[2],
                     mpq_thread_count());
}

/* Attributes and inputs: the last `dims` of the three dimensions count. */
static void set_up(struct op_run *run, const struct shape *s, bool transposed, uint64_t seed)
{
    int64_t pads[6], first = 3 - s->dims;
    struct mpq_shape x = {.rank = 2 + s->dims, .dim = {s->n, transposed ? s->m : s->c}};
    struct mpq_shape w = {.rank = 2 + s->dims, .dim = {s->m, s->c / s->group}};
    struct mpq_shape b = MPQ_SHAPE(transposed ? s->c : s->m);
    for (int i = 0; i < s->dims; i++) {
        x.dim[2 + i] = transposed ? s->out[first + i] : s->in[first + i];
        w.dim[2 + i] = s->kernel[first + i];
        pads[i] = s->pad[first + i];
        pads[s->dims + i] = s->pad_end[first + i];
    }
    op_run_init(run, transposed ? &mpq_op_conv_transpose : &mpq_op_conv);
    op_run_ints(run, "kernel_shape", (size_t)s->dims, s->kernel + first);
    op_run_ints(run, "strides", (size_t)s->dims, s->stride + first);
    op_run_ints(run, "dilations", (size_t)s->dims, s->dilation + first);
    op_run_ints(run, "pads", 2 * (size_t)s->dims, pads);
    op_run_int(run, "group", s->group);
    if (transposed)
        op_run_ints(run, "output_padding", (size_t)s->dims, s->extra + first);
    op_run_input(run, &x, seed);
    op_run_input(run, &w, seed);
    if (s->bias)
        op_run_input(run, &b, seed);
}

/* With every thread count from `low` to `high`. */
static void check_shape(const struct shape *s, bool transposed, uint64_t seed, int low, int high)
{
    struct op_run run;
    double *v[N_V];
    set_up(&run, s, transposed, seed);
    CHECK_OK(&run.ctx, op_run_infer(&run));
    const int64_t *size = transposed ? s->in : s->out;
    for (int i = 0; i < s->dims; i++)
        assert_int_equal(run.out.shape.dim[2 + i], size[3 - s->dims + i]);
    int64_t n_x = mpq_shape_count(&run.x[0]->shape), n_w = mpq_shape_count(&run.x[1]->shape);
    int64_t n_y = mpq_shape_count(&run.out.shape), n_b = run.out.shape.dim[1];
    int64_t area = volume(size);
    mpq_real *dy = malloc(((size_t)n_y + 1) * sizeof *dy);
    assert_non_null(dy);
    for (int64_t i = 0; i < n_y; i++)
        dy[i] = (mpq_real)mpq_rng_normal(seed, MPQ_STREAM_TEST, 9, (uint32_t)i);
    v[Y] = doubles(NULL, n_y);
    v[X] = doubles(run.x[0]->data, n_x);
    v[W] = doubles(run.x[1]->data, n_w);
    v[DY] = doubles(dy, n_y);
    v[DX] = doubles(NULL, n_x);
    v[DW] = doubles(NULL, n_w);
    double *db = doubles(NULL, n_b);
    for (int64_t i = 0; i < n_y; i++) {
        v[Y][i] = s->bias ? (double)((const mpq_real *)run.x[2]->data)[i / area % n_b] : 0;
        db[i / area % n_b] += v[DY][i];
    }
    each_product(s, transposed ? add_y_transposed : add_y, v);
    each_product(s, transposed ? add_gradients_transposed : add_gradients, v);

    double products = sqrt((double)(n_w / run.x[1]->shape.dim[0]) + 1);
    double places = sqrt((double)(s->n * area) + 1);
    for (int threads = low; threads <= high; threads++) {
        mpq_thread_set_count(threads);
        op_run_forward(&run);
        compare("y", s, run.out.data, v[Y], n_y, 0, products);
        for (int start = 0; start <= (run.node.op->sets_dx ? 1 : 0); start++) {
            op_run_backward(&run, dy, start ? NAN : 1);
            compare("dx", s, run.dx[0], v[DX], n_x, 1 - start, products);
            compare("dw", s, run.dx[1], v[DW], n_w, 1 - start, places);
            if (s->bias)
                compare("db", s, run.dx[2], db, n_b, 1 - start, places);
        }
    }
    mpq_thread_set_count(1);
    for (int i = 0; i < N_V; i++)
        free(v[i]);
    free(db);
    free(dy);
    op_run_free(&run);
}

struct draw {
    uint64_t step;
    uint32_t i;
};

static int64_t draw(struct draw *d, int64_t low, int64_t high)
{
    return low + (int64_t)mpq_rng_below(SEED, MPQ_STREAM_TEST, d->step, d->i++,
                                        (uint32_t)(high - low + 1));
}

/* A random shape of at most about 2 million products. */
static struct shape random_shape(uint64_t step, bool transposed)
{
    struct draw d = {step, 0};
    struct shape s = {.dims = (int)draw(&d, 1, 3), .n = draw(&d, 1, 5), .bias = draw(&d, 0, 1)};
    if (draw(&d, 0, 1))
        s.dims = 2;
    s.group = draw(&d, 0, 2) ? 1 : draw(&d, 1, 6);
    s.c = s.group * draw(&d, 1, s.group > 1 ? 3 : 19);
    s.m = s.group * draw(&d, 1, s.group > 1 ? 3 : 19);
    if (draw(&d, 0, 3) == 0)
        s.c = s.m = s.group = draw(&d, 1, 20);
    for (int i = 0; i < 3; i++) {
        s.in[i] = s.kernel[i] = s.stride[i] = s.dilation[i] = s.out[i] = 1;
        if (i < 3 - s.dims)
            continue;
        s.kernel[i] = draw(&d, 1, s.dims == 3 ? 3 : 5);
        s.stride[i] = draw(&d, 0, 1) ? 1 : draw(&d, 1, 4);
        s.dilation[i] = draw(&d, 0, 1) ? 1 : draw(&d, 1, 3);
        s.pad[i] = draw(&d, 0, 3);
        s.pad_end[i] = draw(&d, 0, 3);
        int64_t span = (s.kernel[i] - 1) * s.dilation[i] + 1;
        if (transposed) {
            s.out[i] = draw(&d, 1, s.dims == 3 ? 5 : 9);
            s.extra[i] = draw(&d, 0, s.stride[i] - 1);
            int64_t full = (s.out[i] - 1) * s.stride[i] + s.extra[i] + span;
            if (full <= s.pad[i] + s.pad_end[i])
                s.pad[i] = s.pad_end[i] = 0;
            s.in[i] = full - s.pad[i] - s.pad_end[i];
        } else {
            s.in[i] = draw(&d, 1, s.dims == 3 ? 6 : 20);
            if (s.in[i] + s.pad[i] + s.pad_end[i] < span)
                s.in[i] = span;
            s.out[i] = (s.in[i] + s.pad[i] + s.pad_end[i] - span) / s.stride[i] + 1;
        }
    }
    return s;
}

static void test_random(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 200; i++) {
        int threads = 1 + (int)(i % 3);
        struct shape conv = random_shape(i, false), transposed = random_shape(i, true);
        check_shape(&conv, false, i, threads, threads);
        check_shape(&transposed, true, i, threads, threads);
    }
}

static struct shape square(int64_t n, int64_t c, int64_t m, int64_t group, int64_t size,
                           int64_t kernel, int64_t stride)
{
    struct shape s = {.dims = 2, .n = n, .c = c, .m = m, .group = group, .bias = true};
    for (int i = 0; i < 3; i++) {
        bool used = i > 0;
        s.in[i] = used ? size : 1;
        s.kernel[i] = used ? kernel : 1;
        s.stride[i] = used ? stride : 1;
        s.dilation[i] = 1;
        s.pad[i] = s.pad_end[i] = used ? kernel / 2 : 0;
        s.out[i] = (s.in[i] + 2 * s.pad[i] - s.kernel[i]) / s.stride[i] + 1;
    }
    return s;
}

/* Shapes like those of real networks: bands of rows, many small images in one unit, every tail of a
 * tile, gathered places, sums long enough to be cut. */
static void test_network_shapes(void **state)
{
    (void)state;
    const struct shape shape[] = {
        square(2, 16, 16, 1, 32, 3, 1),    square(1, 64, 40, 1, 38, 3, 1),
        square(2, 3, 64, 1, 61, 3, 2),     square(2, 64, 16, 1, 55, 1, 1),
        square(9, 70, 13, 1, 4, 1, 1),     square(9, 40, 24, 1, 4, 3, 1),
        square(5, 16, 32, 1, 16, 1, 2),    square(1, 96, 96, 96, 30, 3, 1),
        square(3, 144, 144, 144, 7, 3, 1), square(2, 32, 32, 32, 64, 3, 2),
        square(1, 32, 64, 32, 12, 3, 1),   square(2, 24, 24, 4, 14, 5, 1),
        square(17, 12, 12, 12, 4, 5, 1),   square(1, 8, 8, 8, 150, 3, 1),
        square(1, 180, 9, 1, 6, 3, 1),     square(3, 200, 40, 1, 5, 3, 1),
        square(2, 40, 200, 1, 5, 3, 2),    square(2, 40, 41, 1, 14, 1, 1),
        square(1, 1600, 9, 1, 15, 1, 1),   square(2, 24, 36, 3, 29, 1, 1),
        square(8, 17, 33, 1, 8, 3, 1),     square(3, 40, 24, 1, 13, 3, 1),
        square(1, 16, 64, 1, 55, 3, 1),    square(1, 12, 20, 1, 130, 3, 1),
        square(40, 50, 33, 1, 1, 1, 1),    square(7, 20, 90, 2, 7, 1, 1),
        square(3, 1700, 20, 1, 3, 1, 1),   square(2, 9, 300, 1, 31, 1, 1),
    };
    for (size_t i = 0; i < MPQ_COUNT(shape); i++)
        check_shape(&shape[i], false, i, 1, 3);
}

/* A depthwise one with filters `apart` wide holes in both directions and uneven padding. */
static struct shape depthwise(int64_t n, int64_t c, int64_t height, int64_t width, int64_t stride,
                              int64_t apart, int64_t pad, int64_t pad_end)
{
    struct shape s = {.dims = 2, .n = n, .c = c, .m = c, .group = c, .bias = true};
    for (int i = 0; i < 3; i++) {
        bool used = i > 0;
        s.in[i] = i == 0 ? 1 : i == 1 ? height : width;
        s.kernel[i] = used ? 3 : 1;
        s.stride[i] = used ? stride : 1;
        s.dilation[i] = used ? apart : 1;
        s.pad[i] = used ? pad : 0;
        s.pad_end[i] = used ? pad_end : 0;
        s.out[i] = (s.in[i] + s.pad[i] + s.pad_end[i] - s.dilation[i] * (s.kernel[i] - 1) - 1) /
                       s.stride[i] +
                   1;
    }
    return s;
}

/* Channels that fill vectors and that do not, planes of one row and of many bands. */
static void test_depthwise(void **state)
{
    (void)state;
    const struct shape shape[] = {
        depthwise(3, 32, 4, 4, 1, 1, 1, 1),    depthwise(2, 35, 8, 8, 1, 1, 1, 1),
        depthwise(2, 37, 7, 5, 1, 1, 0, 2),    depthwise(2, 40, 8, 8, 1, 2, 2, 2),
        depthwise(1, 19, 6, 8, 1, 3, 3, 3),    depthwise(3, 33, 8, 8, 2, 1, 1, 1),
        depthwise(2, 16, 16, 15, 2, 1, 0, 1),  depthwise(1, 18, 97, 40, 2, 1, 1, 1),
        depthwise(2, 17, 66, 65, 2, 1, 1, 0),  depthwise(1, 21, 33, 32, 2, 2, 2, 2),
        depthwise(2, 16, 13, 14, 3, 1, 1, 1),  depthwise(2, 5, 33, 33, 1, 2, 2, 2),
        depthwise(1, 3, 15, 17, 1, 4, 4, 4),   depthwise(2, 2, 40, 65, 1, 4, 4, 4),
        depthwise(1, 2, 3, 18, 1, 20, 20, 20), depthwise(3, 2, 9, 64, 2, 1, 0, 1),
        depthwise(2, 3, 2, 34, 2, 1, 1, 1),    depthwise(2, 16, 34, 36, 2, 1, 0, 2),
    };
    for (size_t i = 0; i < MPQ_COUNT(shape); i++)
        check_shape(&shape[i], false, i, 1, 3);
}

/* Winograd's scheme beside the plain sums: every padding, uneven sizes, bands; errors relative to
 * the largest output. */
static void test_winograd(void **state)
{
    double worst = 0;
    int n_paid = 0;
    (void)state;
    for (uint64_t step = 0; step < 40; step++) {
        struct draw d = {step + 5000, 0};
        struct shape s = square(draw(&d, 1, 6), draw(&d, 8, 70), draw(&d, 8, 70), 1, 1, 3, 1);
        for (int i = 1; i < 3; i++) {
            s.in[i] = draw(&d, 5, 40);
            s.pad[i] = draw(&d, 0, 2);
            s.pad_end[i] = draw(&d, 0, 3);
            s.out[i] = s.in[i] + s.pad[i] + s.pad_end[i] - 2;
        }
        struct mpq_conv conv = {.n = s.n, .c = s.c, .m = s.m, .group = 1}, back;
        const int axis[3] = {1, 0, 2}; /* a convolution of two dimensions is {H, 1, W} */
        for (int i = 0; i < 3; i++) {
            conv.in[i] = s.in[axis[i]];
            conv.out[i] = s.out[axis[i]];
            conv.kernel[i] = s.kernel[axis[i]];
            conv.stride[i] = conv.dilation[i] = 1;
            conv.pad[i] = s.pad[axis[i]];
        }
        mpq_thread_set_count(1 + (int)(step % 3));
        n_paid += mpq_winograd_pays(&conv) + mpq_winograd_backward(&conv, &back);
        check_shape(&s, false, step, 1 + (int)(step % 3), 1 + (int)(step % 3));
        if (!mpq_winograd_pays(&conv))
            continue;
        struct op_run run;
        set_up(&run, &s, false, step);
        CHECK_OK(&run.ctx, op_run_infer(&run));
        op_run_forward(&run);
        int64_t n_y = mpq_shape_count(&run.out.shape);
        mpq_real *plain = mpq_arena_alloc(&run.ctx, run.arena, (size_t)n_y, sizeof *plain);
        void *workspace = mpq_arena_alloc(&run.ctx, run.arena, mpq_conv_forward_bytes(&conv), 1);
        assert_true(plain && workspace);
        mpq_conv_forward(&conv, run.x[0]->data, run.x[1]->data, run.x[2]->data, false, NULL, plain,
                         workspace);
        double largest = 0, error = 0;
        for (int64_t i = 0; i < n_y; i++) {
            largest = fmax(largest, fabs((double)plain[i]));
            error = fmax(error, fabs((double)plain[i] - (double)((mpq_real *)run.out.data)[i]));
        }
        worst = fmax(worst, error / largest);
        op_run_free(&run);
    }
    mpq_thread_set_count(1);
    assert_true(n_paid > 40);
    assert_true(worst < 3e-6);
}

/* An activation fused into each of the ways to convolve is what it is after them. */
static void test_clamped(void **state)
{
    (void)state;
    const struct shape shape[] = {square(2, 16, 16, 1, 12, 3, 1), square(2, 40, 33, 1, 15, 1, 1),
                                  square(2, 16, 16, 1, 32, 3, 1), square(2, 9, 9, 9, 10, 3, 1),
                                  square(1, 400, 9, 1, 5, 3, 1),  square(1, 1600, 9, 1, 15, 1, 1),
                                  square(0, 4, 4, 1, 5, 3, 1)};
    const struct mpq_clamp clamp = {MPQ_REAL(-0.5), 2};
    for (size_t i = 0; i < MPQ_COUNT(shape); i++) {
        struct op_run run;
        set_up(&run, &shape[i], false, i);
        CHECK_OK(&run.ctx, op_run_infer(&run));
        op_run_forward(&run);
        int64_t n = mpq_shape_count(&run.out.shape);
        mpq_real *want =
            mpq_arena_copy(&run.ctx, run.arena, run.out.data, (size_t)n * sizeof *want);
        run.clamp = &clamp;
        op_run_forward(&run);
        const mpq_real *got = run.out.data;
        for (int64_t k = 0; k < n; k++)
            CHECK_NEAR(got[k],
                       want[k] < clamp.low    ? clamp.low
                       : want[k] > clamp.high ? clamp.high
                                              : want[k],
                       0, 0);
        op_run_free(&run);
    }
}

/* The same thread count gives the same bits. */
static void test_repeatable(void **state)
{
    (void)state;
    struct shape s = square(7, 16, 16, 1, 17, 3, 1);
    mpq_real first[16 * 16 * 9];
    mpq_thread_set_count(3);
    for (int round = 0; round < 3; round++) {
        struct op_run run;
        set_up(&run, &s, false, 5);
        CHECK_OK(&run.ctx, op_run_infer(&run));
        op_run_forward(&run);
        op_run_backward(&run, run.out.data, 0);
        if (round == 0)
            memcpy(first, run.dx[1], sizeof first);
        assert_memory_equal(first, run.dx[1], sizeof first);
        op_run_free(&run);
    }
    mpq_thread_set_count(1);
}

/* No images, no channels, no places: nothing is touched, or only the bias is written. */
static void test_empty(void **state)
{
    (void)state;
    struct shape shape[] = {square(0, 4, 4, 1, 5, 3, 1), square(2, 4, 4, 1, 5, 3, 1),
                            square(2, 4, 4, 4, 0, 3, 1), square(2, 4, 4, 1, 0, 1, 1)};
    shape[1].c = 0;
    shape[2].out[1] = shape[2].out[2] = 0;
    shape[3].out[1] = shape[3].out[2] = 0;
    for (size_t i = 0; i < MPQ_COUNT(shape); i++)
        check_shape(&shape[i], false, i, 1, 2);
    check_shape(&shape[0], true, 0, 1, 2);
}

static void check_auto_pad(const char *auto_pad, int64_t size, int64_t pad, int64_t out)
{
    struct op_run run;
    struct shape s = square(1, 2, 2, 1, size, 4, 3);
    s.pad[1] = s.pad[2] = pad;
    s.out[1] = s.out[2] = out;
    s.bias = false;
    set_up(&run, &s, false, 1);
    run.node.attr_set.n = 0;
    op_run_string(&run, "auto_pad", auto_pad);
    op_run_ints(&run, "strides", 2, s.stride + 1);
    CHECK_OK(&run.ctx, op_run_infer(&run));
    assert_int_equal(run.out.shape.dim[2], out);
    double *v[N_V] = {[X] = doubles(run.x[0]->data, mpq_shape_count(&run.x[0]->shape)),
                      [W] = doubles(run.x[1]->data, mpq_shape_count(&run.x[1]->shape)),
                      [Y] = doubles(NULL, mpq_shape_count(&run.out.shape))};
    each_product(&s, add_y, v);
    op_run_forward(&run);
    compare("y", &s, run.out.data, v[Y], mpq_shape_count(&run.out.shape), 0, 6);
    for (int i = 0; i < N_V; i++)
        free(v[i]);
    op_run_free(&run);
}

static void test_auto_pad(void **state)
{
    (void)state;
    check_auto_pad("SAME_UPPER", 10, 1, 4); /* 3 in all: 1 before, 2 after */
    check_auto_pad("SAME_LOWER", 10, 2, 4);
    check_auto_pad("SAME_UPPER", 9, 0, 3);
    check_auto_pad("SAME_LOWER", 9, 1, 3);
    check_auto_pad("VALID", 10, 0, 3);
}

static void test_refused(void **state)
{
    (void)state;
    struct op_run run;
    struct shape s = square(1, 4, 4, 1, 5, 3, 1);
    set_up(&run, &s, false, 1);
    run.tensor[0].shape.dim[1] = 5;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "does not fit input [1,5,5,5]");
    run.tensor[0].shape.dim[1] = 4;
    run.tensor[2].shape.dim[0] = 3;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "bias [3]");
    run.tensor[2].shape.dim[0] = 4;
    run.tensor[0].shape.rank = 6;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_UNSUPPORTED, "spatial dimensions");
    run.tensor[0].shape.rank = 3;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "weight");
    run.tensor[0].shape.rank = run.tensor[1].shape.rank = 3;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "entries");
    op_run_free(&run);

    s.in[2] = 1;
    s.pad[2] = s.pad_end[2] = 0;
    set_up(&run, &s, false, 1);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "larger than the padded input");
    run.node.attr_set.n = 0;
    op_run_string(&run, "auto_pad", "SAME");
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_FORMAT, "auto_pad is 'SAME'");
    run.node.attr_set.n = 0;
    op_run_int(&run, "group", 0);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_FORMAT, "group is 0");
    run.node.attr_set.n = 0;
    op_run_ints(&run, "strides", 2, (const int64_t[]){1, 0});
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_FORMAT, "strides has the entry 0");
    op_run_free(&run);
}

static void magnitudes_of_codes_are_summed(void **state)
{
    enum { N = 200001 }; /* more than a sum of 32 bits takes at once */
    static uint8_t code[N];
    const int32_t zero[] = {0, 3, 128, 255, -128, 127};
    (void)state;
    for (int i = 0; i < N; i++)
        code[i] = (uint8_t)(i * 37 % 256);
    for (size_t z = 0; z < MPQ_COUNT(zero); z++)
        for (int is_signed = 0; is_signed < 2; is_signed++) {
            int64_t sum = 0;
            for (int i = 0; i < N; i++)
                sum += abs(mpq_quantized_value(is_signed, code[i]) - zero[z]);
            assert_int_equal(mpq_sum_of_magnitudes(code, is_signed, zero[z], N), sum);
        }
    const mpq_real x[] = {1, -7, 3};
    assert_true(mpq_largest_magnitude(x, 3) == 7 && mpq_largest_magnitude(x, 1) == 1);
}

int main(void)
{
    printf("seed=%u\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),    cmocka_unit_test(test_network_shapes),
        cmocka_unit_test(test_depthwise), cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_empty),     cmocka_unit_test(test_auto_pad),
        cmocka_unit_test(test_refused),   cmocka_unit_test(magnitudes_of_codes_are_summed),
        cmocka_unit_test(test_winograd),  cmocka_unit_test(test_clamped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
