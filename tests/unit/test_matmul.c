/* Gemm and MatMul against loops written from their definitions, in double. */
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "tests/check.h"
#include "tests/unit/op_run.h"

extern const struct mpq_op mpq_op_gemm, mpq_op_matmul;

static const mpq_real *data(const struct op_run *run, int i)
{
    return run->x[i]->data;
}

struct gemm {
    int64_t m, n, k;
    bool trans_a, trans_b;
    float alpha, beta;
    struct mpq_shape c; /* rank -1: absent */
};

static void set_up_gemm(struct op_run *run, const struct gemm *g)
{
    struct mpq_shape a = g->trans_a ? MPQ_SHAPE(g->k, g->m) : MPQ_SHAPE(g->m, g->k);
    struct mpq_shape b = g->trans_b ? MPQ_SHAPE(g->n, g->k) : MPQ_SHAPE(g->k, g->n);
    op_run_init(run, &mpq_op_gemm);
    op_run_int(run, "transA", g->trans_a);
    op_run_int(run, "transB", g->trans_b);
    op_run_float(run, "alpha", g->alpha);
    op_run_float(run, "beta", g->beta);
    op_run_input(run, &a, 1);
    op_run_input(run, &b, 1);
    if (g->c.rank >= 0)
        op_run_input(run, &g->c, 1);
}

static int64_t c_index(const struct gemm *g, int64_t i, int64_t j)
{
    int rank = g->c.rank;
    int64_t columns = rank > 0 ? g->c.dim[rank - 1] : 1, rows = rank > 1 ? g->c.dim[0] : 1;
    return (rows > 1 ? i : 0) * columns + (columns > 1 ? j : 0);
}

static void check_gemm(const struct gemm *g)
{
    struct op_run run;
    set_up_gemm(&run, g);
    CHECK_OK(&run.ctx, op_run_infer(&run));
    op_run_forward(&run);
    const mpq_real *y = run.out.data;
    double *da = calloc((size_t)(g->m * g->k) + 1, sizeof *da);
    double *db = calloc((size_t)(g->k * g->n) + 1, sizeof *db);
    double dc[64] = {0};
    assert_true(da && db);
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, dy = (double)y[i * g->n + j];
            for (int64_t k = 0; k < g->k; k++) {
                int64_t ia = g->trans_a ? k * g->m + i : i * g->k + k;
                int64_t ib = g->trans_b ? j * g->k + k : k * g->n + j;
                sum += (double)data(&run, 0)[ia] * (double)data(&run, 1)[ib];
                da[ia] += (double)g->alpha * dy * (double)data(&run, 1)[ib];
                db[ib] += (double)g->alpha * dy * (double)data(&run, 0)[ia];
            }
            sum *= (double)g->alpha;
            if (g->c.rank >= 0) {
                sum += (double)g->beta * (double)data(&run, 2)[c_index(g, i, j)];
                dc[c_index(g, i, j)] += (double)g->beta * dy;
            }
            CHECK_NEAR(y[i * g->n + j], sum, 1e-5, 1e-4);
        }
    op_run_backward(&run, y, 1);
    for (int64_t i = 0; i < g->m * g->k; i++)
        CHECK_NEAR(run.dx[0][i], da[i] + 1, 1e-5, 1e-3);
    for (int64_t i = 0; i < g->k * g->n; i++)
        CHECK_NEAR(run.dx[1][i], db[i] + 1, 1e-5, 1e-3);
    for (int64_t i = 0; g->c.rank >= 0 && i < mpq_shape_count(&g->c); i++)
        CHECK_NEAR(run.dx[2][i], dc[i] + 1, 1e-5, 1e-3);
    free(da);
    free(db);
    op_run_free(&run);
}

static void test_gemm(void **state)
{
    (void)state;
    const struct mpq_shape c[] = {{.rank = -1},    {.rank = 0},     MPQ_SHAPE(7),   MPQ_SHAPE(1),
                                  MPQ_SHAPE(5, 7), MPQ_SHAPE(5, 1), MPQ_SHAPE(1, 7)};
    for (size_t i = 0; i < MPQ_COUNT(c); i++)
        for (int t = 0; t < 4; t++) {
            struct gemm g = {5, 7, 11, t & 1, t & 2, i % 2 ? 1 : -0.5f, i % 3 ? 1 : 2, c[i]};
            check_gemm(&g);
        }
    struct gemm empty = {5, 7, 0, false, true, 1, 1, MPQ_SHAPE(7)};
    check_gemm(&empty);
    empty = (struct gemm){0, 7, 3, false, false, 1, 1, MPQ_SHAPE(7)};
    check_gemm(&empty);
}

static void test_gemm_refused(void **state)
{
    (void)state;
    struct op_run run;
    set_up_gemm(&run, &(struct gemm){5, 7, 3, false, false, 1, 1, MPQ_SHAPE(6)});
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "input C of shape [6]");
    run.tensor[2].shape = MPQ_SHAPE(2, 5, 7);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "input C");
    run.tensor[1].shape = MPQ_SHAPE(4, 7);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "inner dimensions 3 and 4");
    run.tensor[1].shape = MPQ_SHAPE(4);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "must be a matrix");
    run.tensor[0].dtype = MPQ_DOUBLE;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_UNSUPPORTED, "double");
    op_run_free(&run);
}

/* Index into an operand of the element at (batch, i, j), from numpy's rules: shapes aligned at
 * their ends, dimensions of 1 repeated. `full` is the shape the operand is seen with. */
static int64_t seen_index(const struct mpq_shape *shape, const struct mpq_shape *full,
                          const int64_t *index)
{
    int64_t at = 0;
    for (int i = 0; i < shape->rank; i++) {
        int64_t place = index[full->rank - shape->rank + i];
        at = at * shape->dim[i] + (shape->dim[i] == 1 ? 0 : place);
    }
    return at;
}

static void check_matmul(struct mpq_shape a, struct mpq_shape b, struct mpq_shape y)
{
    struct op_run run;
    op_run_init(&run, &mpq_op_matmul);
    op_run_input(&run, &a, 2);
    op_run_input(&run, &b, 2);
    CHECK_OK(&run.ctx, op_run_infer(&run));
    assert_true(mpq_shape_equal(&run.out.shape, &y));
    op_run_forward(&run);

    struct mpq_shape a2 = a, b2 = b, full = {0};
    if (a.rank == 1)
        a2 = MPQ_SHAPE(1, a.dim[0]);
    if (b.rank == 1)
        b2 = MPQ_SHAPE(b.dim[0], 1);
    struct mpq_shape a_batch = a2, b_batch = b2;
    a_batch.rank -= 2;
    b_batch.rank -= 2;
    assert_true(mpq_shape_broadcast(&a_batch, &b_batch, &full));
    int64_t m = a2.dim[a2.rank - 2], n = b2.dim[b2.rank - 1], k = a2.dim[a2.rank - 1];
    int64_t n_batch = mpq_shape_count(&full);
    full.rank += 2;
    double *da = calloc((size_t)mpq_shape_count(&a) + 1, sizeof *da);
    double *db = calloc((size_t)mpq_shape_count(&b) + 1, sizeof *db);
    const mpq_real *got = run.out.data;
    assert_true(da && db);
    for (int64_t e = 0; e < n_batch * m * n; e++) {
        int64_t index_a[MPQ_MAX_RANK], index_b[MPQ_MAX_RANK], batch = e / (m * n);
        for (int i = full.rank - 3; i >= 0; i--) {
            index_a[i] = index_b[i] = batch % full.dim[i];
            batch /= full.dim[i];
        }
        double sum = 0;
        for (int64_t l = 0; l < k; l++) {
            index_a[full.rank - 2] = e / n % m;
            index_a[full.rank - 1] = index_b[full.rank - 2] = l;
            index_b[full.rank - 1] = e % n;
            int64_t ia = seen_index(&a2, &full, index_a), ib = seen_index(&b2, &full, index_b);
            sum += (double)data(&run, 0)[ia] * (double)data(&run, 1)[ib];
            da[ia] += (double)got[e] * (double)data(&run, 1)[ib];
            db[ib] += (double)got[e] * (double)data(&run, 0)[ia];
        }
        CHECK_NEAR(got[e], sum, 1e-5, 1e-4);
    }
    op_run_backward(&run, got, 1);
    for (int64_t i = 0; i < mpq_shape_count(&a); i++)
        CHECK_NEAR(run.dx[0][i], da[i] + 1, 1e-5, 1e-3);
    for (int64_t i = 0; i < mpq_shape_count(&b); i++)
        CHECK_NEAR(run.dx[1][i], db[i] + 1, 1e-5, 1e-3);
    free(da);
    free(db);
    op_run_free(&run);
}

static void test_matmul(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        mpq_thread_set_count(threads);
        check_matmul(MPQ_SHAPE(3, 5), MPQ_SHAPE(5, 4), MPQ_SHAPE(3, 4));
        check_matmul(MPQ_SHAPE(4, 17, 48), MPQ_SHAPE(48, 48), MPQ_SHAPE(4, 17, 48));
        check_matmul(MPQ_SHAPE(6, 17, 16), MPQ_SHAPE(6, 16, 17), MPQ_SHAPE(6, 17, 17));
        check_matmul(MPQ_SHAPE(45, 65), MPQ_SHAPE(65, 131), MPQ_SHAPE(45, 131));
        check_matmul(MPQ_SHAPE(9, 256), MPQ_SHAPE(256, 33), MPQ_SHAPE(9, 33));
        check_matmul(MPQ_SHAPE(9, 300), MPQ_SHAPE(300, 33), MPQ_SHAPE(9, 33));
        check_matmul(MPQ_SHAPE(2, 6, 3, 5), MPQ_SHAPE(5, 4), MPQ_SHAPE(2, 6, 3, 4));
        check_matmul(MPQ_SHAPE(2, 6, 3, 5), MPQ_SHAPE(1, 1, 5, 4), MPQ_SHAPE(2, 6, 3, 4));
        check_matmul(MPQ_SHAPE(2, 6, 3, 5), MPQ_SHAPE(2, 6, 5, 4), MPQ_SHAPE(2, 6, 3, 4));
        check_matmul(MPQ_SHAPE(2, 1, 3, 5), MPQ_SHAPE(6, 5, 4), MPQ_SHAPE(2, 6, 3, 4));
        check_matmul(MPQ_SHAPE(6, 3, 5), MPQ_SHAPE(2, 1, 5, 4), MPQ_SHAPE(2, 6, 3, 4));
        check_matmul(MPQ_SHAPE(3, 5), MPQ_SHAPE(7, 5, 4), MPQ_SHAPE(7, 3, 4));
        check_matmul(MPQ_SHAPE(1, 3, 5), MPQ_SHAPE(1, 1, 1, 5, 4), MPQ_SHAPE(1, 1, 1, 3, 4));
        check_matmul(MPQ_SHAPE(5), MPQ_SHAPE(5, 4), MPQ_SHAPE(4));
        check_matmul(MPQ_SHAPE(5), MPQ_SHAPE(6, 5, 4), MPQ_SHAPE(6, 4));
        check_matmul(MPQ_SHAPE(6, 3, 5), MPQ_SHAPE(5), MPQ_SHAPE(6, 3));
        check_matmul(MPQ_SHAPE(5), MPQ_SHAPE(5), (struct mpq_shape){.rank = 0});
        check_matmul(MPQ_SHAPE(0, 3, 5), MPQ_SHAPE(0, 5, 4), MPQ_SHAPE(0, 3, 4));
        check_matmul(MPQ_SHAPE(2, 3, 0), MPQ_SHAPE(2, 0, 4), MPQ_SHAPE(2, 3, 4));
    }
    mpq_thread_set_count(1);
}

static void test_matmul_refused(void **state)
{
    (void)state;
    struct op_run run;
    struct mpq_shape a = MPQ_SHAPE(2, 3, 5), b = MPQ_SHAPE(3, 5, 4);
    op_run_init(&run, &mpq_op_matmul);
    op_run_input(&run, &a, 1);
    op_run_input(&run, &b, 1);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "cannot multiply [2,3,5] by [3,5,4]");
    run.tensor[1].shape = MPQ_SHAPE(4);
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "by [4]");
    run.tensor[1].shape.rank = 0;
    CHECK_FAILS(&run.ctx, op_run_infer(&run), MPQ_E_SHAPE, "by []");
    op_run_free(&run);
}

static void gram_adds_the_lower_triangle(void **state)
{
    enum { N = 13, K = 5 };
    mpq_real x[N * K], gram[K * K];
    (void)state;
    for (int i = 0; i < N * K; i++)
        x[i] = (mpq_real)(i * 7 % 11 - 5);
    for (int i = 0; i < K * K; i++)
        gram[i] = 100;
    mpq_gram(K, N, x, gram);
    mpq_gram(K, 0, x, gram);
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) {
            double sum = 100;
            for (int r = 0; r < N && j <= i; r++)
                sum += (double)x[r * K + i] * (double)x[r * K + j];
            CHECK_NEAR(gram[i * K + j], sum, 0, 1e-4);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),           cmocka_unit_test(gram_adds_the_lower_triangle),
        cmocka_unit_test(test_gemm_refused),   cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
