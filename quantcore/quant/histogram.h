/* The distribution of a value, gathered in one pass over any number of batches in constant memory,
 * and the 8-bit (or narrower) range that represents it best. */
#ifndef MPQ_QUANT_HISTOGRAM_H
#define MPQ_QUANT_HISTOGRAM_H

#include "quantcore/quant/layer.h"

#define MPQ_HISTOGRAM_BINS 4096

/* The extremes of samples at one end, of x or of -x: what is known about samples not seen. */
struct mpq_histogram_end {
    double most, sum, square; /* over samples: the largest extreme, the sum, the sum of squares */
    bool is_shared;           /* more than one sample has the largest: it is a bound            */
};

/* Bin i counts values in [low + i*width, low + (i+1)*width). When a value falls outside,
 * neighbouring bins are merged in pairs and the width doubles, so no second pass is needed. Start
 * from all zero. */
struct mpq_histogram {
    double low, width;
    double minimum, maximum;         /* exact */
    struct mpq_histogram_end end[2]; /* of -x, of x */
    bool is_bounded;                 /* nothing exceeds what was seen; for the caller to set */
    uint64_t n_sample;               /* seen                                                 */
    uint64_t n;                      /* values seen */
    uint64_t count[MPQ_HISTOGRAM_BINS];
};

/* Add x[0..n). Values must be finite. The result depends on the order of batches only through the
 * place of the bins. */
void mpq_histogram_add(struct mpq_histogram *histogram, const mpq_real *x, int64_t n);

/* The same of n_sample >= 1 samples of equal size, one after the other, whose extremes are kept. */
void mpq_histogram_add_samples(struct mpq_histogram *histogram, const mpq_real *x, int64_t n,
                               int64_t n_sample);

/* The affine quantization of that form with the least mean squared error, weighted beyond the range
 * as the form says, on the histogram and, by their extremes so far, on samples not seen. Zero is
 * always represented exactly (ONNX padding and Relu need it). Candidates: the exact range, shrunken
 * ones, each end by itself where values of both signs occur and the form lets it, and up to twice
 * as wide ones where few values of few samples are known. 16 bits resolve more than the bins do and
 * get the exact range. An empty or all-zero histogram gives scale 1 and, where the form leaves it
 * open, zero point 0. */
void mpq_histogram_range(const struct mpq_histogram *histogram, struct mpq_act_form form,
                         struct mpq_act_quant *out);

/* Mean squared error of that quantization on the histogram. */
double mpq_histogram_mse(const struct mpq_histogram *histogram, const struct mpq_act_quant *quant);

#endif
