/* Operators whose loops depend on sizes, at sizes beyond those of ONNX's cases, against loops
 * written from their definitions. */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "tests/check.h"
#include "tests/unit/op_run.h"

extern const struct mpq_op mpq_op_transpose, mpq_op_reduce_mean, mpq_op_reduce_max, mpq_op_softmax,
    mpq_op_resize;

static int64_t size(uint64_t step, uint32_t i)
{
    return 1 + (int64_t)mpq_rng_below(7, MPQ_STREAM_TEST, step, i,
                                      i == 0     ? 4
                                      : step % 8 ? 90
                                                 : 220);
}

static struct mpq_shape random_shape(uint64_t step)
{
    struct mpq_shape shape = MPQ_SHAPE(size(step, 0), size(step, 1), size(step, 2));
    return shape;
}

static void start(struct op_run *run, const struct mpq_op *op, const struct mpq_shape *shape)
{
    op_run_init(run, op);
    op_run_input(run, shape, 3);
}

static void forward(struct op_run *run)
{
    CHECK_OK(&run->ctx, op_run_infer(run));
    op_run_forward(run);
}

static void test_transpose(void **state)
{
    static const int64_t perm[][3] = {{0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}};
    (void)state;
    for (uint64_t step = 0; step < 60; step++) {
        struct mpq_shape shape = random_shape(step);
        struct op_run run;
        const int64_t *p = perm[step % 4];
        start(&run, &mpq_op_transpose, &shape);
        op_run_ints(&run, "perm", 3, p);
        mpq_thread_set_count(1 + (int)(step % 3));
        forward(&run);
        const mpq_real *x = run.x[0]->data, *y = run.out.data;
        int64_t i[3], *j = i, at = 0;
        for (i[p[0]] = 0; i[p[0]] < shape.dim[p[0]]; i[p[0]]++)
            for (i[p[1]] = 0; i[p[1]] < shape.dim[p[1]]; i[p[1]]++)
                for (i[p[2]] = 0; i[p[2]] < shape.dim[p[2]]; i[p[2]]++, at++)
                    assert_true(y[at] == x[(j[0] * shape.dim[1] + j[1]) * shape.dim[2] + j[2]]);
        op_run_free(&run);
    }
    mpq_thread_set_count(1);
}

static void test_reduce(void **state)
{
    (void)state;
    for (uint64_t step = 0; step < 40; step++) {
        struct mpq_shape shape = random_shape(step);
        struct op_run run;
        int64_t axis = (int64_t)(step % 3), inner = 1;
        bool is_mean = step % 2;
        start(&run, is_mean ? &mpq_op_reduce_mean : &mpq_op_reduce_max, &shape);
        op_run_ints(&run, "axes", 1, &axis);
        forward(&run);
        const mpq_real *x = run.x[0]->data, *y = run.out.data;
        for (int i = 2; i > axis; i--)
            inner *= shape.dim[i];
        for (int64_t i = 0; i < mpq_shape_count(&run.out.shape); i++) {
            double sum = 0, max = -INFINITY;
            for (int64_t k = 0; k < shape.dim[axis]; k++) {
                double v = (double)x[(i / inner * shape.dim[axis] + k) * inner + i % inner];
                sum += v;
                max = v > max ? v : max;
            }
            CHECK_NEAR(y[i], is_mean ? sum / (double)shape.dim[axis] : max, 1e-6, 1e-6);
        }
        op_run_free(&run);
    }
}

static void test_softmax(void **state)
{
    (void)state;
    for (uint64_t step = 0; step < 40; step++) {
        struct mpq_shape shape = random_shape(step);
        struct op_run run;
        int64_t axis = (int64_t)(step % 3), inner = 1, n = shape.dim[axis];
        start(&run, &mpq_op_softmax, &shape);
        op_run_int(&run, "axis", axis);
        forward(&run);
        const mpq_real *x = run.x[0]->data, *y = run.out.data;
        for (int i = 2; i > axis; i--)
            inner *= shape.dim[i];
        for (int64_t i = 0; i < mpq_shape_count(&shape); i++) {
            const mpq_real *line = x + i / (n * inner) * n * inner + i % inner;
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += exp((double)line[k * inner] - (double)x[i]);
            CHECK_NEAR(y[i], 1 / sum, 1e-6, 1e-9);
        }
        op_run_free(&run);
    }
}

/* Linear, half-pixel centres: each y from the four neighbours of its place in x. */
static void test_resize(void **state)
{
    (void)state;
    for (uint64_t step = 0; step < 30; step++) {
        struct mpq_shape shape = random_shape(step), want = random_shape(step + 1000);
        struct op_run run;
        float scale[3] = {1};
        struct mpq_tensor absent = {MPQ_FLOAT, MPQ_SHAPE(0), NULL};
        struct mpq_tensor factors = {MPQ_FLOAT, MPQ_SHAPE(3), scale};
        for (int i = 1; i < 3; i++)
            scale[i] = ((float)want.dim[i] + 0.5f) / (float)shape.dim[i];
        start(&run, &mpq_op_resize, &shape);
        op_run_string(&run, "mode", "linear");
        op_run_input(&run, &MPQ_SHAPE(1), 0);
        op_run_input(&run, &MPQ_SHAPE(1), 0);
        run.tensor[1] = absent;
        run.tensor[2] = factors;
        forward(&run);
        const mpq_real *x = run.x[0]->data, *y = run.out.data;
        const int64_t *in = shape.dim, *out = run.out.shape.dim;
        for (int64_t i = 0; i < mpq_shape_count(&run.out.shape); i++) {
            int64_t index[3] = {i / (out[1] * out[2]), i / out[2] % out[1], i % out[2]};
            double sum = 0;
            for (int corner = 0; corner < 4; corner++) {
                int64_t from = index[0];
                double weight = 1;
                for (int k = 1; k < 3; k++) {
                    double at = ((double)index[k] + 0.5) / (double)scale[k] - 0.5;
                    double low = floor(at), part = at - low;
                    bool upper = corner & k;
                    double place = fmin(fmax(low + upper, 0), (double)(in[k] - 1));
                    weight *= upper ? part : 1 - part;
                    from = from * in[k] + (int64_t)place;
                }
                sum += weight * (double)x[from];
            }
            CHECK_NEAR(y[i], sum, 1e-5, 1e-4);
        }
        op_run_free(&run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_resize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
