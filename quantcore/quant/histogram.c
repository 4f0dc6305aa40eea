#include "quantcore/quant/histogram.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/simd.h"

enum { BINS = MPQ_HISTOGRAM_BINS };

/* Double the bin width; the range grows downwards or upwards. */
static void widen(struct mpq_histogram *h, bool downwards)
{
    uint64_t merged[BINS / 2];
    for (int i = 0; i < BINS / 2; i++)
        merged[i] = h->count[2 * i] + h->count[2 * i + 1];
    memset(h->count, 0, sizeof h->count);
    memcpy(h->count + (downwards ? BINS / 2 : 0), merged, sizeof merged);
    if (downwards)
        h->low -= h->width * BINS;
    h->width *= 2;
}

MPQ_MULTIVERSION
static void find_ends(const mpq_real *x, int64_t n, double *out_low, double *out_high)
{
    enum { STRANDS = 64 };
    mpq_real least[STRANDS], most[STRANDS];
    for (int j = 0; j < STRANDS; j++)
        least[j] = most[j] = x[0];
    int64_t whole = n - n % STRANDS;
    for (int64_t i = 0; i < whole; i += STRANDS)
        for (int j = 0; j < STRANDS; j++) {
            least[j] = x[i + j] < least[j] ? x[i + j] : least[j];
            most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
        }
    for (int64_t i = whole; i < n; i++) {
        least[0] = x[i] < least[0] ? x[i] : least[0];
        most[0] = x[i] > most[0] ? x[i] : most[0];
    }
    for (int j = 1; j < STRANDS; j++) {
        least[0] = least[j] < least[0] ? least[j] : least[0];
        most[0] = most[j] > most[0] ? most[j] : most[0];
    }
    *out_low = (double)least[0];
    *out_high = (double)most[0];
}

MPQ_MULTIVERSION
static void find_bins(const mpq_real *restrict x, int64_t n, double base, double per_width,
                      int32_t *restrict bin)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t b = (int32_t)(((double)x[i] - base) * per_width);
        bin[i] = b < BINS ? b : BINS - 1;
    }
}

/* Neighbours go to two counts: many are equal, zeros above all, and each would wait for the one
 * before it. */
static void count(struct mpq_histogram *h, const mpq_real *x, int64_t n)
{
    enum { BLOCK = 1024 };
    int32_t bin[BLOCK];
    uint32_t even[BINS] = {0}, odd[BINS] = {0};
    double base = h->low, per_width = 1 / h->width;
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t n_here = n - first < BLOCK ? n - first : BLOCK, i = 0;
        find_bins(x + first, n_here, base, per_width, bin);
        for (; i + 1 < n_here; i += 2) {
            even[bin[i]]++;
            odd[bin[i + 1]]++;
        }
        if (i < n_here)
            even[bin[i]]++;
    }
    for (int i = 0; i < BINS; i++)
        h->count[i] += (uint64_t)even[i] + odd[i];
}

/* n > 0 values between low and high. */
static void add(struct mpq_histogram *h, const mpq_real *x, int64_t n, double low, double high)
{
    enum { LONGEST = 1 << 30 };
    if (h->n == 0) {
        /* A little room above, so that the maximum itself falls inside. */
        double span = high - low;
        if (!(span > 0))
            span = fabs(low) > 0 ? fabs(low) : 1;
        h->low = low;
        h->width = span * (1 + 1e-6) / BINS;
        h->minimum = low;
        h->maximum = high;
    }
    h->minimum = low < h->minimum ? low : h->minimum;
    h->maximum = high > h->maximum ? high : h->maximum;
    while (low < h->low)
        widen(h, true);
    while (high >= h->low + h->width * BINS)
        widen(h, false);
    for (int64_t first = 0; first < n; first += LONGEST)
        count(h, x + first, n - first < LONGEST ? n - first : LONGEST);
    h->n += (uint64_t)n;
}

void mpq_histogram_add(struct mpq_histogram *h, const mpq_real *x, int64_t n)
{
    double low, high;
    if (n <= 0)
        return;
    find_ends(x, n, &low, &high);
    add(h, x, n, low, high);
}

static void see_extreme(struct mpq_histogram_end *end, double extreme, bool is_first)
{
    if (is_first || extreme >= end->most) {
        end->is_shared = !is_first && extreme == end->most;
        end->most = extreme;
    }
    end->sum += extreme;
    end->square += extreme * extreme;
}

void mpq_histogram_add_samples(struct mpq_histogram *h, const mpq_real *x, int64_t n,
                               int64_t n_sample)
{
    double low = 0, high = 0;
    int64_t size = n / n_sample;
    if (size <= 0)
        return;
    for (int64_t i = 0; i < n_sample; i++) {
        double least, most;
        find_ends(x + i * size, size, &least, &most);
        see_extreme(&h->end[0], -least, h->n_sample == 0);
        see_extreme(&h->end[1], most, h->n_sample == 0);
        h->n_sample++;
        low = i == 0 || least < low ? least : low;
        high = i == 0 || most > high ? most : high;
    }
    add(h, x, size * n_sample, low, high);
}

/* The mean squared error, what is cut off by `cut` times its square, or an error that is no less
 * than `limit` if that is not. */
static double error_below(const struct mpq_histogram *h, const struct mpq_act_quant *quant,
                          double cut, double limit)
{
    enum { BLOCK = 256 };
    /* Within a bin the values are taken as its centre, plus what their spread adds where bins are
     * not small against the step: nothing for 4096 bins and 256 steps. */
    double scale = (double)quant->scale, q_max = (double)((1 << quant->bits) - 1), sum = 0;
    double most = limit * (double)h->n * (1 + 1e-9); /* beyond any error of the division */
    for (int i = 0; i < BINS && (i % BLOCK || !(sum > most)); i++) {
        if (!h->count[i])
            continue;
        double x = h->low + (i + 0.5) * h->width;
        double q = rint(x / scale) + quant->zero_point;
        double weight = q < 0 || q > q_max ? cut : 1;
        q = q < 0 ? 0 : q > q_max ? q_max : q;
        double error = x - (q - quant->zero_point) * scale;
        sum += weight * (double)h->count[i] * error * error;
    }
    return h->n ? sum / (double)h->n : 0;
}

double mpq_histogram_mse(const struct mpq_histogram *h, const struct mpq_act_quant *quant)
{
    return error_below(h, quant, 1, (double)INFINITY);
}

static struct mpq_act_quant quant_of_range(double low, double high, struct mpq_act_form form)
{
    double q_max = (double)((1 << form.bits) - 1);
    if (form.is_symmetric) {
        int zero_point = 1 << (form.bits - 1);
        float scale = (float)(fmax(-low, high) / (zero_point - 1));
        return (struct mpq_act_quant){scale > 0 ? scale : 1.0f, zero_point, form.bits};
    }
    float scale = (float)((high - low) / q_max);
    struct mpq_act_quant quant = {scale > 0 ? scale : 1.0f, 0, form.bits};
    double zero_point = rint(-low / (double)quant.scale);
    quant.zero_point = (int)(zero_point < 0 ? 0 : zero_point > q_max ? q_max : zero_point);
    return quant;
}

/* Mean squared error that samples not seen add at one end, `limit` away from zero. Their extremes
 * are taken to be of Gumbel's distribution with the mean and variance of those seen (Coles, An
 * Introduction to Statistical Modeling of Extreme Values, 2001, 3.1), whose tail is exponential:
 * they exceed l with a probability of about exp(-(l - mean) / spread), and then by a square of 2
 * spread^2 on average, by one value of the sample. Within what was seen the histogram tells. */
static double tail(const struct mpq_histogram *h, const struct mpq_histogram_end *end, double limit)
{
    const double pi = 3.14159265358979323846;
    double n = (double)h->n_sample;
    if (n < 2 || h->is_bounded || end->is_shared || end->most <= 0)
        return 0;
    double mean = end->sum / n, variance = (end->square - n * mean * mean) / (n - 1);
    double spread = variance > 0 ? sqrt(6 * variance) / pi : 0;
    if (!(spread > 0))
        return 0;
    double chance = exp(-(fmax(limit, end->most) - mean) / spread);
    return chance * 2 * spread * spread * n / (double)h->n;
}

/* Or one that is no less than `limit` if that is not. */
static double expected_error(const struct mpq_histogram *h, const struct mpq_act_quant *quant,
                             double cut, double low, double high, double limit)
{
    return error_below(h, quant, cut, limit) +
           cut * (tail(h, &h->end[0], -low) + tail(h, &h->end[1], high));
}

struct best {
    const struct mpq_histogram *histogram;
    struct mpq_act_form form;
    struct mpq_act_quant quant;
    double error, low, high;
};

static void try_range(struct best *best, double low, double high)
{
    struct mpq_act_quant quant = quant_of_range(low, high, best->form);
    double error =
        expected_error(best->histogram, &quant, best->form.cut_weight, low, high, best->error);
    if (error < best->error) {
        best->quant = quant;
        best->error = error;
        best->low = low;
        best->high = high;
    }
}

void mpq_histogram_range(const struct mpq_histogram *h, struct mpq_act_form form,
                         struct mpq_act_quant *out)
{
    double low = h->n && h->minimum < 0 ? h->minimum : 0;
    double high = h->n && h->maximum > 0 ? h->maximum : 0;
    form.cut_weight = form.cut_weight > 0 ? form.cut_weight : 1;
    struct best best = {h, form, quant_of_range(low, high, form), 0, low, high};
    if (high > low && form.bits <= 8 && !form.is_min_max) {
        enum { STEPS = 50 };
        best.error = expected_error(h, &best.quant, form.cut_weight, low, high, (double)INFINITY);
        if (tail(h, &h->end[0], -low) + tail(h, &h->end[1], high) > 0) {
            for (int i = 1; i <= STEPS; i++)
                try_range(&best, low, high * (1 + (double)i / STEPS));
            high = best.high;
            for (int i = 1; i <= STEPS && low < 0; i++)
                try_range(&best, low * (1 + (double)i / STEPS), high);
            low = best.low;
        }
        for (int i = 1; i < STEPS; i++) {
            double shrink = 1 - (double)i / STEPS;
            try_range(&best, low * shrink, high * shrink);
        }
        double best_low = best.low, best_high = best.high;
        for (int i = 1; i <= STEPS && low < 0 && high > 0 && !form.is_symmetric; i++) {
            double shrink = (double)i / STEPS;
            try_range(&best, low * shrink, best_high);
            try_range(&best, best_low, high * shrink);
        }
    }
    *out = best.quant;
}
