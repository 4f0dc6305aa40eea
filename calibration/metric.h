/* How good a model is, and how near another one: sums over samples, printed as shares and nats. */
#ifndef MPQ_CALIBRATION_METRIC_H
#define MPQ_CALIBRATION_METRIC_H

#include "quantcore/ir/tensor.h"

/* The classes of an output, if it looks like scores of classes: FLOAT, [N,C] or [N,..,C,..] with
 * all other dimensions 1, C >= 2. Else 0. The C scores of a sample are contiguous then. */
int64_t mpq_metric_classes(const struct mpq_tensor *output);

/* Index of the largest of score[0..n), the lowest of several; NaN is never the largest. */
int64_t mpq_metric_argmax(const mpq_real *score, int64_t n);

/* Whether fewer than k scores come before score[label]: larger ones, equal ones of lower index. */
bool mpq_metric_is_in_top(const mpq_real *score, int64_t n, int64_t label, int k);

/* Kullback-Leibler divergence in nats, sum p log(p / q), of the distributions that two score rows
 * mean. Where the reference is a distribution already (none negative, sum within 1e-3 of 1) both
 * rows are taken as probabilities, q normalized and floored at 1e-8; else both are logits and go
 * through softmax. */
double mpq_metric_kl(const mpq_real *reference, const mpq_real *score, int64_t n);

/* Top-1 and top-5 against labels. Zero it to start. */
struct mpq_accuracy {
    uint64_t n_sample, n_top1, n_top5;
};
void mpq_accuracy_add(struct mpq_accuracy *accuracy, const mpq_real *score, int64_t n_class,
                      int64_t label);

/* One output of a model against the same of a reference. Zero it to start. */
struct mpq_comparison {
    uint64_t n_sample, n_agree; /* samples; with the same argmax, where there are classes */
    uint64_t n_element;
    double kl_sum;                         /* over samples                                */
    double signal, noise;                  /* sums of reference^2, (reference - y)^2      */
    double difference_sum, difference_max; /* of |reference - y|                          */
};
/* n_sample samples of n_element each; n_class is 0 or n_element. */
void mpq_comparison_add(struct mpq_comparison *comparison, const mpq_real *reference,
                        const mpq_real *y, uint32_t n_sample, int64_t n_element, int64_t n_class);
double mpq_comparison_sqnr_db(const struct mpq_comparison *comparison); /* inf where equal */

/* The difference of two accuracies measured on the same n samples, of which n_lost are right only
 * in the first and n_won only in the second:
 *
 *   difference = (n_lost - n_won) / n
 *   interval   = d +- 1.96 sqrt((p + r - d^2) / (n + 2)),
 *                p = (n_lost + 1) / (n + 2), r = (n_won + 1) / (n + 2), d = p - r
 *
 * the adjusted Wald interval of Bonett and Price ("Adjusted Wald confidence interval for a
 * difference of binomial proportions based on paired data", J. Educ. Behav. Stat. 37, 2012), at
 * 95 %. The plain one (Agresti, Categorical Data Analysis, 10.1) has width 0 where no sample
 * changed sides, which 100 samples do not justify. All NaN where n is 0. */
struct mpq_paired {
    double difference, low, high;
};
struct mpq_paired mpq_paired_difference(uint64_t n, uint64_t n_lost, uint64_t n_won);

/* How sure one may be that the difference is at most `limit`: the probability of the one-sided
 * interval that ends there. */
double mpq_paired_confidence(uint64_t n, uint64_t n_lost, uint64_t n_won, double limit);

/* Range and moments of an output. Zero it to start. */
struct mpq_spread {
    uint64_t n_finite, n_nonfinite;
    double min, max, mean; /* of the finite ones             */
    double squares;        /* sum of (value - mean)^2        */
};
void mpq_spread_add(struct mpq_spread *spread, const mpq_real *y, int64_t n);
double mpq_spread_deviation(const struct mpq_spread *spread); /* of the population; NaN of none */

#endif
