#include "calibration/metric.h"

#include <math.h>

#include "quantcore/base/simd.h"

int64_t mpq_metric_classes(const struct mpq_tensor *output)
{
    const struct mpq_shape *shape = &output->shape;
    int64_t n_class = 1;
    if (output->dtype != MPQ_FLOAT || shape->rank < 2)
        return 0;
    for (int i = 1; i < shape->rank; i++) {
        if (shape->dim[i] != 1 && n_class != 1)
            return 0;
        n_class *= shape->dim[i];
    }
    return n_class >= 2 ? n_class : 0;
}

int64_t mpq_metric_argmax(const mpq_real *score, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (score[i] > score[best] || (isnan(score[best]) && !isnan(score[i])))
            best = i;
    return best;
}

bool mpq_metric_is_in_top(const mpq_real *score, int64_t n, int64_t label, int k)
{
    int64_t before = 0;
    if (isnan(score[label]))
        return false;
    for (int64_t i = 0; i < n; i++)
        before += score[i] > score[label] || (score[i] == score[label] && i < label);
    return before < k;
}

/* ---- Kullback-Leibler divergence ---- */

static bool is_distribution(const mpq_real *p, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(p[i] >= 0))
            return false;
        sum += (double)p[i];
    }
    return fabs(sum - 1) <= 1e-3;
}

/* log of the sum of exp(x), shifted by the largest against overflow. */
static double log_sum_exp(const mpq_real *x, int64_t n)
{
    double shift = (double)x[mpq_metric_argmax(x, n)], sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - shift);
    return shift + log(sum);
}

static double kl_of_logits(const mpq_real *reference, const mpq_real *score, int64_t n)
{
    double log_zp = log_sum_exp(reference, n), log_zq = log_sum_exp(score, n), kl = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_p = (double)reference[i] - log_zp, log_q = (double)score[i] - log_zq;
        kl += exp(log_p) * (log_p - log_q);
    }
    return kl;
}

/* A quantized softmax gives exact zeros and rows that do not sum to 1. */
static double floored(mpq_real q)
{
    return (double)q > 1e-8 ? (double)q : 1e-8;
}

static double kl_of_probabilities(const mpq_real *reference, const mpq_real *score, int64_t n)
{
    double sum_p = 0, sum_q = 0, kl = 0;
    for (int64_t i = 0; i < n; i++) {
        sum_p += (double)reference[i];
        sum_q += floored(score[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        double p = (double)reference[i] / sum_p, q = floored(score[i]) / sum_q;
        if (p > 0)
            kl += p * log(p / q);
    }
    return kl;
}

double mpq_metric_kl(const mpq_real *reference, const mpq_real *score, int64_t n)
{
    double kl = is_distribution(reference, n) ? kl_of_probabilities(reference, score, n)
                                              : kl_of_logits(reference, score, n);
    return kl < 0 ? 0 : kl; /* rounding; NaN stays */
}

/* ---- sums over samples ---- */

void mpq_accuracy_add(struct mpq_accuracy *accuracy, const mpq_real *score, int64_t n_class,
                      int64_t label)
{
    accuracy->n_sample++;
    accuracy->n_top1 += mpq_metric_is_in_top(score, n_class, label, 1);
    accuracy->n_top5 += mpq_metric_is_in_top(score, n_class, label, 5);
}

/* Sums in strands, always the same. */
MPQ_MULTIVERSION
static void add_differences(struct mpq_comparison *comparison, const mpq_real *reference,
                            const mpq_real *y, int64_t n)
{
    enum { STRANDS = 16 };
    double signal[STRANDS] = {0}, noise[STRANDS] = {0}, sum[STRANDS] = {0}, most[STRANDS] = {0};
    int64_t whole = n - n % STRANDS;
    for (int64_t i = 0; i < whole; i += STRANDS)
        for (int j = 0; j < STRANDS; j++) {
            double r = (double)reference[i + j], difference = fabs(r - (double)y[i + j]);
            signal[j] += r * r;
            noise[j] += difference * difference;
            sum[j] += difference;
            most[j] = difference > most[j] ? difference : most[j];
        }
    for (int64_t i = whole; i < n; i++) {
        double r = (double)reference[i], difference = fabs(r - (double)y[i]);
        signal[0] += r * r;
        noise[0] += difference * difference;
        sum[0] += difference;
        most[0] = difference > most[0] ? difference : most[0];
    }
    for (int j = 0; j < STRANDS; j++) {
        comparison->signal += signal[j];
        comparison->noise += noise[j];
        comparison->difference_sum += sum[j];
        if (most[j] > comparison->difference_max)
            comparison->difference_max = most[j];
    }
    if (isnan(comparison->difference_sum))
        comparison->difference_max = comparison->difference_sum;
}

void mpq_comparison_add(struct mpq_comparison *comparison, const mpq_real *reference,
                        const mpq_real *y, uint32_t n_sample, int64_t n_element, int64_t n_class)
{
    int64_t n = n_sample * n_element;
    add_differences(comparison, reference, y, n);
    comparison->n_element += (uint64_t)n;
    comparison->n_sample += n_sample;
    for (uint32_t s = 0; s < n_sample && n_class; s++) {
        const mpq_real *a = reference + s * n_element, *b = y + s * n_element;
        comparison->n_agree += mpq_metric_argmax(a, n_class) == mpq_metric_argmax(b, n_class);
        comparison->kl_sum += mpq_metric_kl(a, b, n_class);
    }
}

double mpq_comparison_sqnr_db(const struct mpq_comparison *comparison)
{
    if (comparison->noise == 0)
        return INFINITY;
    return 10 * log10(comparison->signal / comparison->noise);
}

/* Bonett and Price: as if one sample more were lost, and one won, of two more. */
static double adjusted_difference(uint64_t n, uint64_t n_lost, uint64_t n_won, double *out_error)
{
    double total = (double)n + 2;
    double p = ((double)n_lost + 1) / total, r = ((double)n_won + 1) / total, d = p - r;
    *out_error = sqrt((p + r - d * d) / total);
    return d;
}

struct mpq_paired mpq_paired_difference(uint64_t n, uint64_t n_lost, uint64_t n_won)
{
    if (!n)
        return (struct mpq_paired){NAN, NAN, NAN};
    double error, d = adjusted_difference(n, n_lost, n_won, &error), half = 1.959963985 * error;
    return (struct mpq_paired){((double)n_lost - (double)n_won) / (double)n, d - half, d + half};
}

double mpq_paired_confidence(uint64_t n, uint64_t n_lost, uint64_t n_won, double limit)
{
    if (!n)
        return NAN;
    double error, d = adjusted_difference(n, n_lost, n_won, &error);
    return 0.5 * erfc((d - limit) / (error * sqrt(2)));
}

void mpq_spread_add(struct mpq_spread *spread, const mpq_real *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double value = (double)y[i];
        if (!isfinite(value)) {
            spread->n_nonfinite++;
            continue;
        }
        if (!spread->n_finite || value < spread->min)
            spread->min = value;
        if (!spread->n_finite || value > spread->max)
            spread->max = value;
        /* Welford's update: sums of squares lose a small deviation beside a large mean. */
        double delta = value - spread->mean;
        spread->n_finite++;
        spread->mean += delta / (double)spread->n_finite;
        spread->squares += delta * (value - spread->mean);
    }
}

double mpq_spread_deviation(const struct mpq_spread *spread)
{
    return spread->n_finite ? sqrt(spread->squares / (double)spread->n_finite) : (double)NAN;
}
