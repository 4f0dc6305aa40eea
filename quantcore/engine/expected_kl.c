#include "quantcore/engine/expected_kl.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/double_math.h"

/* Blocks of columns whose errors stay in the first cache, of rows that share each reference as it
 * is read, and of references that share a row's gradient. Sums are of PARTS vectors: no longer
 * ones, which gcc takes apart in memory where a machine has none. */
enum { LANES = 4, PARTS = 2, STEP = PARTS * LANES, COLUMNS = 256, ROWS = 4, REFERENCES = 4 };

typedef double lanes
    __attribute__((vector_size(LANES * sizeof(double)), aligned(sizeof(double)), may_alias));
typedef mpq_real reals
    __attribute__((vector_size(LANES * sizeof(mpq_real)), aligned(sizeof(mpq_real)), may_alias));

enum mpq_status mpq_references_create(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t n,
                                      int64_t n_column, struct mpq_references *out)
{
    struct mpq_references references = {
        .n = n,
        .n_column = n_column,
        .p = mpq_arena_alloc(ctx, arena, (size_t)(n * n_column), sizeof *references.p),
        .total = mpq_arena_alloc(ctx, arena, (size_t)n_column, sizeof *references.total)};
    MPQ_ASSERT(n <= MPQ_MAX_REFERENCES);
    if (!references.p || !references.total)
        return MPQ_E_NOMEM;
    *out = references;
    return MPQ_OK;
}

void mpq_references_take(struct mpq_references *references, const mpq_real *logits, int64_t n_row)
{
    int64_t n_column = references->n_column;
    memset(references->total, 0, (size_t)n_column * sizeof *references->total);
    for (int64_t r = 0; r < references->n; r++) {
        const mpq_real *row = logits + r * n_row / references->n * n_column;
        mpq_real *p = references->p + r * n_column;
        double max = (double)row[0], sum = 0;
        for (int64_t j = 1; j < n_column; j++)
            max = fmax(max, (double)row[j]);
        for (int64_t j = 0; j < n_column; j++)
            sum += exp((double)row[j] - max);
        for (int64_t j = 0; j < n_column; j++) {
            p[j] = (mpq_real)(exp((double)row[j] - max) / sum);
            references->total[j] += (double)p[j];
        }
    }
}

/* With d a row's error, less its mean, KL is log(1 + sum p (e^d - 1)) - sum p d, and its gradient
 * p e^d / (1 + sum p (e^d - 1)) - p: all that depends on p are products. */
struct block {
    const struct mpq_references *references;
    const mpq_real *y, *target; /* [rows, n_column] */
    double mean[ROWS];
    double sum[ROWS][MPQ_MAX_REFERENCES]; /* of p (e^d - 1) for each p */
};

/* Sum of all lanes of x [PARTS]. */
MPQ_INLINE double sum_of(const lanes *x)
{
    lanes sum = x[0] + x[1];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

MPQ_INLINE double product(const double *a, const double *b, int64_t n)
{
    lanes part[PARTS] = {{0}};
    double rest = 0;
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        for (int v = 0; v < PARTS; v++)
            part[v] += *(const lanes *)(a + i + v * LANES) * *(const lanes *)(b + i + v * LANES);
    for (; i < n; i++)
        rest += a[i] * b[i];
    return sum_of(part) + rest;
}

MPQ_INLINE void find_means(struct block *b, int rows)
{
    int64_t n_column = b->references->n_column;
    for (int k = 0; k < rows; k++) {
        const mpq_real *y = b->y + k * n_column, *target = b->target + k * n_column;
        b->mean[k] = 0;
        for (int64_t j = 0; j < n_column; j++)
            b->mean[k] += ((double)y[j] - (double)target[j]) / (double)n_column;
    }
}

/* Columns [first, first + n) of the rows' d and e^d - 1. */
MPQ_INLINE void find_growth(const struct block *b, int rows, int64_t first, int64_t n,
                            double error[][COLUMNS], double growth[][COLUMNS])
{
    for (int k = 0; k < rows; k++) {
        const mpq_real *y = b->y + k * b->references->n_column + first;
        const mpq_real *target = b->target + k * b->references->n_column + first;
        for (int64_t j = 0; j < n; j++) {
            double d = (double)y[j] - (double)target[j] - b->mean[k];
            error[k][j] = d;
            growth[k][j] = mpq_expm1_saturated(d);
        }
    }
}

/* sum[row][r] += the sum of p * growth over n columns, p being the r-th distribution, which is read
 * once for all rows. */
MPQ_INLINE void add_products(const mpq_real *p, int rows, double growth[][COLUMNS], int64_t n,
                             int64_t r, double sum[][MPQ_MAX_REFERENCES])
{
    lanes part[ROWS][PARTS] = {{{0}}};
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
#pragma GCC unroll 2
        for (int v = 0; v < PARTS; v++) {
            int64_t at = i + v * LANES;
            lanes q = __builtin_convertvector(*(const reals *)(p + at), lanes);
#pragma GCC unroll 4
            for (int k = 0; k < rows; k++)
                part[k][v] += q * *(const lanes *)(growth[k] + at);
        }
#pragma GCC unroll 4
    for (int k = 0; k < rows; k++) {
        double rest = 0;
        for (int64_t j = i; j < n; j++)
            rest += (double)p[j] * growth[k][j];
        sum[k][r] += sum_of(part[k]) + rest;
    }
}

/* moved[row] += the sum of `many` distributions from p on, each times the row's share of it. */
MPQ_INLINE void add_shares(const mpq_real *p, int64_t n_column, int many, int rows, int64_t n,
                           double share[][REFERENCES], double moved[][COLUMNS])
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes q[REFERENCES];
#pragma GCC unroll 4
        for (int m = 0; m < many; m++)
            q[m] = __builtin_convertvector(*(const reals *)(p + m * n_column + i), lanes);
#pragma GCC unroll 4
        for (int k = 0; k < rows; k++) {
            lanes sum = *(const lanes *)(moved[k] + i);
#pragma GCC unroll 4
            for (int m = 0; m < many; m++)
                sum += q[m] * share[k][m];
            *(lanes *)(moved[k] + i) = sum;
        }
    }
    for (; i < n; i++)
        for (int k = 0; k < rows; k++)
            for (int m = 0; m < many; m++)
                moved[k][i] += (double)p[m * n_column + i] * share[k][m];
}

/* dy [rows, n_column] += factor times the gradient of what find_kl() has just found. */
MPQ_INLINE void add_gradient(const struct block *b, int rows, double factor, mpq_real *dy)
{
    const struct mpq_references *references = b->references;
    double error[ROWS][COLUMNS], growth[ROWS][COLUMNS], moved[ROWS][COLUMNS];
    int64_t n_column = references->n_column, n_reference = references->n;
    for (int64_t first = 0; first < n_column; first += COLUMNS) {
        int64_t n = n_column - first < COLUMNS ? n_column - first : COLUMNS;
        find_growth(b, rows, first, n, error, growth);
        memset(moved, 0, rows * sizeof *moved);
        for (int64_t r = 0; r < n_reference; r += REFERENCES) {
            int many = n_reference - r < REFERENCES ? (int)(n_reference - r) : REFERENCES;
            const mpq_real *p = references->p + r * n_column + first;
            double share[ROWS][REFERENCES] = {{0}};
            for (int k = 0; k < rows; k++)
                for (int m = 0; m < many; m++)
                    share[k][m] = 1 / (1 + b->sum[k][r + m]);
            if (many == REFERENCES)
                add_shares(p, n_column, REFERENCES, rows, n, share, moved);
            else
                add_shares(p, n_column, many, rows, n, share, moved);
        }
        for (int k = 0; k < rows; k++)
            for (int64_t j = 0; j < n; j++)
                dy[k * n_column + first + j] +=
                    (mpq_real)(factor / (double)n_reference *
                               (moved[k][j] * (1 + growth[k][j]) - references->total[first + j]));
    }
}

/* *total += KL of one row after the other. */
MPQ_INLINE void find_kl(struct block *b, int rows, double *total)
{
    const struct mpq_references *references = b->references;
    double error[ROWS][COLUMNS], growth[ROWS][COLUMNS], kl[ROWS] = {0};
    int64_t n_column = references->n_column;
    find_means(b, rows);
    memset(b->sum, 0, rows * sizeof *b->sum);
    for (int64_t first = 0; first < n_column; first += COLUMNS) {
        int64_t n = n_column - first < COLUMNS ? n_column - first : COLUMNS;
        find_growth(b, rows, first, n, error, growth);
        for (int64_t r = 0; r < references->n; r++)
            add_products(references->p + r * n_column + first, rows, growth, n, r, b->sum);
        for (int k = 0; k < rows; k++)
            kl[k] -= product(references->total + first, error[k], n);
    }
    for (int k = 0; k < rows; k++) {
        const double least = -1 + 1e-12;
        double logarithm[MPQ_MAX_REFERENCES];
        for (int64_t r = 0; r < references->n; r++) {
            b->sum[k][r] = b->sum[k][r] < least ? least : b->sum[k][r];
            logarithm[r] = mpq_log1p(b->sum[k][r]);
        }
        for (int64_t r = 0; r < references->n; r++)
            kl[k] += logarithm[r];
        kl[k] /= (double)references->n;
        *total += kl[k] < 0 ? 0 : kl[k]; /* NaN stays */
    }
}

MPQ_INLINE void run(struct block *b, int rows, double factor, mpq_real *dy, double *total)
{
    find_kl(b, rows, total);
    if (dy)
        add_gradient(b, rows, factor, dy);
}

MPQ_MULTIVERSION
static void run_rows(struct block *b, double factor, mpq_real *dy, double *total)
{
    run(b, ROWS, factor, dy, total);
}

MPQ_MULTIVERSION
static void run_row(struct block *b, double factor, mpq_real *dy, double *total)
{
    run(b, 1, factor, dy, total);
}

double mpq_expected_kl(const struct mpq_references *references, const mpq_real *y,
                       const mpq_real *target, int64_t n_row, double factor, mpq_real *dy)
{
    double kl = 0;
    for (int64_t r = 0; r < n_row;) {
        int64_t at = r * references->n_column;
        bool is_full = n_row - r >= ROWS;
        struct block block;
        block.references = references;
        block.y = y + at;
        block.target = target + at;
        (is_full ? run_rows : run_row)(&block, factor, dy ? dy + at : NULL, &kl);
        r += is_full ? ROWS : 1;
    }
    return kl;
}
