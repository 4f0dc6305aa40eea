#include "quantcore/quant/lsq.h"

#include <math.h>

#include "quantcore/base/simd.h"

/* Below it a step of a tensor of zeros; x / step stays a number for any weight. */
static const double least_step = 1e-12;

struct mpq_lsq_range mpq_lsq_range(int bits, bool is_signed)
{
    if (!is_signed)
        return (struct mpq_lsq_range){0, (1 << bits) - 1};
    int half = 1 << (bits - 1);
    return (struct mpq_lsq_range){-half, half - 1};
}

struct mpq_lsq_range mpq_lsq_weight_range(int bits)
{
    struct mpq_lsq_range range = mpq_lsq_range(bits, true);
    range.low = range.low < -127 ? -127 : range.low;
    return range;
}

MPQ_MULTIVERSION
static void fake_quant(mpq_real low, mpq_real high, mpq_real step, const mpq_real *x, int64_t n,
                       mpq_real *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = mpq_round_small(mpq_clamp(x[i] / step, low, high)) * step;
}

void mpq_lsq_forward(struct mpq_lsq_range range, mpq_real step, const mpq_real *x, int64_t n,
                     mpq_real *y)
{
    if (!range.high)
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i];
    else
        fake_quant((mpq_real)range.low, (mpq_real)range.high, step, x, n, y);
}

/* At most this many terms are summed in mpq_real before they go to a double. */
enum { RUN = 64 };

MPQ_MULTIVERSION
static double step_gradient(mpq_real low, mpq_real high, mpq_real step, const mpq_real *restrict x,
                            const mpq_real *restrict dy, int64_t n)
{
    double sum = 0;
    for (int64_t first = 0; first < n; first += RUN) {
        int64_t end = first + RUN < n ? first + RUN : n;
        mpq_real part = 0, term[RUN];
        for (int64_t i = first; i < end; i++) {
            mpq_real z = x[i] / step, inside = mpq_clamp(z, low, high);
            /* Beyond the ends inside is the end itself; within, subtract where we came from. */
            term[i - first] = dy[i] * (mpq_round_small(inside) - (z > low && z < high ? z : 0));
        }
        for (int64_t i = 0; i < end - first; i++)
            part += term[i];
        sum += (double)part;
    }
    return sum;
}

MPQ_MULTIVERSION
static void pass_inside(mpq_real low, mpq_real high, mpq_real step, const mpq_real *restrict x,
                        const mpq_real *restrict dy, int64_t n, mpq_real *restrict dx)
{
    for (int64_t i = 0; i < n; i++) {
        mpq_real z = x[i] / step;
        dx[i] += (z >= low) & (z <= high) ? dy[i] : 0;
    }
}

double mpq_lsq_backward(struct mpq_lsq_range range, mpq_real step, const mpq_real *x,
                        const mpq_real *dy, int64_t n, mpq_real *dx)
{
    mpq_real low = (mpq_real)range.low, high = (mpq_real)range.high;
    if (!range.high) {
        for (int64_t i = 0; dx && i < n; i++)
            dx[i] += dy[i];
        return 0;
    }
    if (dx)
        pass_inside(low, high, step, x, dy, n, dx);
    return step_gradient(low, high, step, x, dy, n);
}

mpq_real mpq_lsq_weight_step(const mpq_real *w, int64_t n, int bits)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)w[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        square += ((double)w[i] - mean) * ((double)w[i] - mean);
    double reach = fabs(mean) + 3 * sqrt(square / (double)(n > 1 ? n - 1 : 1));
    return (mpq_real)fmax(reach / (1 << (bits - 1)), least_step);
}

mpq_real mpq_lsq_activation_step(double mean_magnitude, struct mpq_lsq_range range)
{
    return (mpq_real)fmax(2 * mean_magnitude / sqrt(range.high), least_step);
}
