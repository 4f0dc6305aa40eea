/* The gradient of MaxPool against its definition: the first maximum of a window gets what the
 * window's output has. Inputs are small integers, so most windows have several. */
#include <math.h>
#include <stdlib.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "tests/check.h"
#include "tests/unit/op_run.h"

extern const struct mpq_op mpq_op_max_pool;

enum { DIMS = 3 };

/* The last `n` of three dimensions count. */
struct pool {
    int n;
    int64_t in[DIMS], out[DIMS], kernel[DIMS], stride[DIMS], dilation[DIMS], pads[2 * DIMS];
};

static int64_t draw(uint64_t step, uint32_t *i, int64_t low, int64_t high)
{
    return low +
           (int64_t)mpq_rng_below(7, MPQ_STREAM_TEST, step, (*i)++, (uint32_t)(high - low + 1));
}

/* dx of one plane += what its windows hand out. */
static void hand_out(const struct pool *p, const mpq_real *x, const mpq_real *dy, double *dx)
{
    int64_t n_window = p->out[0] * p->out[1] * p->out[2];
    int64_t n_tap = p->kernel[0] * p->kernel[1] * p->kernel[2];
    for (int64_t o = 0; o < n_window; o++) {
        int64_t best = -1;
        for (int64_t k = 0; k < n_tap; k++) {
            int64_t rest_o = o, rest_k = k, at[DIMS];
            bool inside = true;
            for (int i = DIMS; i-- > 0; rest_o /= p->out[i], rest_k /= p->kernel[i]) {
                at[i] = rest_o % p->out[i] * p->stride[i] - p->pads[i] +
                        rest_k % p->kernel[i] * p->dilation[i];
                inside = inside && at[i] >= 0 && at[i] < p->in[i];
            }
            int64_t place = (at[0] * p->in[1] + at[1]) * p->in[2] + at[2];
            if (inside && (best < 0 || x[place] > x[best]))
                best = place;
        }
        if (best >= 0)
            dx[best] += (double)dy[o];
    }
}

static struct pool draw_pool(uint64_t step, struct op_run *run)
{
    uint32_t i = 0;
    struct pool p = {.n = (int)draw(step, &i, 1, DIMS)};
    int64_t pads[2 * DIMS], ceil_mode = draw(step, &i, 0, 1);
    struct mpq_shape shape = {.rank = 2 + p.n, .dim = {draw(step, &i, 1, 3), draw(step, &i, 1, 4)}};
    for (int d = 0; d < DIMS; d++)
        p.in[d] = p.out[d] = p.kernel[d] = p.stride[d] = p.dilation[d] = 1;
    for (int d = 0; d < p.n; d++) {
        int slot = DIMS - p.n + d;
        p.kernel[slot] = draw(step, &i, 1, 3);
        p.stride[slot] = draw(step, &i, 1, 3);
        p.dilation[slot] = draw(step, &i, 1, 2);
        p.pads[slot] = draw(step, &i, 0, p.kernel[slot] - 1);
        p.in[slot] = draw(step, &i, 5, d == p.n - 1 ? 70 : 9);
        shape.dim[2 + d] = p.in[slot];
        pads[d] = p.pads[slot];
        pads[p.n + d] = draw(step, &i, 0, p.kernel[slot] - 1);
    }
    op_run_init(run, &mpq_op_max_pool);
    op_run_ints(run, "kernel_shape", (size_t)p.n, p.kernel + DIMS - p.n);
    op_run_ints(run, "strides", (size_t)p.n, p.stride + DIMS - p.n);
    op_run_ints(run, "dilations", (size_t)p.n, p.dilation + DIMS - p.n);
    op_run_ints(run, "pads", 2 * (size_t)p.n, pads);
    op_run_int(run, "ceil_mode", ceil_mode);
    op_run_input(run, &shape, step);
    CHECK_OK(&run->ctx, op_run_infer(run));
    for (int d = 0; d < p.n; d++)
        p.out[DIMS - p.n + d] = run->out.shape.dim[2 + d];
    return p;
}

static void test_max_pool_gradient(void **state)
{
    (void)state;
    for (uint64_t step = 0; step < 300; step++) {
        struct op_run run;
        struct pool p = draw_pool(step, &run);
        int64_t n_x = mpq_shape_count(&run.x[0]->shape), n_y = mpq_shape_count(&run.out.shape);
        int64_t n_plane = run.x[0]->shape.dim[0] * run.x[0]->shape.dim[1];
        mpq_real *x = run.x[0]->data, *dy = malloc((size_t)n_y * sizeof *dy);
        double *want = calloc((size_t)n_x, sizeof *want);
        assert_true(dy && want);
        for (int64_t i = 0; i < n_x; i++)
            x[i] = (mpq_real)rint((double)x[i]);
        for (int64_t i = 0; i < n_y; i++)
            dy[i] = (mpq_real)mpq_rng_normal(7, MPQ_STREAM_TEST, step, 1000 + (uint32_t)i);
        for (int64_t k = 0; k < n_plane; k++)
            hand_out(&p, x + k * (n_x / n_plane), dy + k * (n_y / n_plane),
                     want + k * (n_x / n_plane));
        mpq_thread_set_count(1 + (int)(step % 3));
        op_run_forward(&run);
        for (int start = 0; start < 2; start++) {
            op_run_backward(&run, dy, start ? NAN : 1);
            for (int64_t i = 0; i < n_x; i++)
                CHECK_NEAR(run.dx[0][i], want[i] + 1 - start, 1e-5, 1e-5);
        }
        free(want);
        free(dy);
        op_run_free(&run);
    }
    mpq_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_max_pool_gradient)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
