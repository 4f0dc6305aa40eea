/* Normalizations over the last axis, one of them of embedded words. */
#include "importer/contrib_job.h"
#include "importer/contrib_rules.h"

/* The mean of x along it. Opset 18 made the axes an input. */
static char *last_mean(struct mpq_job *job, char *x)
{
    const int64_t last = -1;
    if (job->opset >= 18)
        return mpq_make(job, "ReduceMean", NULL, x, mpq_make_ints(job, 1, &last), NULL);
    x = mpq_make(job, "ReduceMean", NULL, x, NULL, NULL);
    mpq_set_ints(job, "axes", 1, &last);
    return x;
}

/* (x - mean) / sqrt(variance + epsilon) * gamma + beta, or, where it keeps the mean, x over its
 * root mean square. */
static void normalize(struct mpq_job *job, char *x, char *gamma, char *beta, bool keeps_mean)
{
    if (!keeps_mean)
        x = mpq_make(job, "Sub", NULL, x, last_mean(job, x), NULL);
    char *t = last_mean(job, mpq_make(job, "Mul", NULL, x, x, NULL));
    t = mpq_make(job, "Add", NULL, t, mpq_make_number(job, mpq_job_float(job, "epsilon", 1e-5f)),
                 NULL);
    t = mpq_make(job, "Sqrt", NULL, t, NULL, NULL);
    t = mpq_make(job, "Div", NULL, x, t, NULL);
    t = mpq_make(job, "Mul", beta ? NULL : mpq_job_out(job, 0), t, gamma, NULL);
    if (beta)
        mpq_make(job, "Add", mpq_job_out(job, 0), t, beta, NULL);
}

/* Opset 13 made the axes an input. */
static void count_words(struct mpq_job *job, char *mask)
{
    const int64_t axis = 1;
    char *axes = job->opset >= 13 ? mpq_make_ints(job, 1, &axis) : NULL;
    mpq_make(job, "ReduceSum", mpq_job_out(job, 1), mask, axes, NULL);
    mpq_set_int(job, "keepdims", 0);
    if (!axes)
        mpq_set_ints(job, "axes", 1, &axis);
}

/* EmbedLayerNormalization: ids, segments; tables of words, positions and segments; gamma, beta; a
 * mask of words, positions. Outputs: normalized, how many words there are, before that. */
bool mpq_contrib_embed_layer_normalization(struct mpq_job *job)
{
    char *ids = mpq_job_in(job, 0), *segment = mpq_job_in(job, 1), *word = mpq_job_in(job, 2);
    char *place = mpq_job_in(job, 3), *kind = mpq_job_in(job, 4), *mask = mpq_job_in(job, 7);
    char *gamma = mpq_job_in(job, 5), *beta = mpq_job_in(job, 6), *at = mpq_job_in(job, 8);
    bool counts = mpq_job_is_read(job, 1);
    if (job->opset < 11 || !word || !place || !gamma || !beta || (segment && !kind) ||
        (counts && !mask))
        return false;
    char *sum = mpq_make(job, "Gather", NULL, word, ids, NULL);
    if (at) {
        at = mpq_make(job, "Gather", NULL, place, at, NULL);
    } else {
        char *zero = mpq_make_ints(job, 1, &(int64_t){0}),
             *one = mpq_make_ints(job, 1, &(int64_t){1});
        char *shape = mpq_make(job, "Shape", NULL, ids, NULL, NULL);
        char *n = mpq_make(job, "Slice", NULL, shape, one, mpq_make_ints(job, 1, &(int64_t){2}));
        at = mpq_make(job, "Slice", NULL, place, zero, n);
    }
    sum = mpq_make(job, "Add", segment ? NULL : mpq_job_out(job, 2), sum, at, NULL);
    if (segment)
        sum = mpq_make(job, "Add", mpq_job_out(job, 2), sum,
                       mpq_make(job, "Gather", NULL, kind, segment, NULL), NULL);
    normalize(job, sum, gamma, beta, false);
    if (counts)
        count_words(job, mask);
    return true;
}

/* x + skip (+ bias), which is output 3 as well; nobody reads outputs 1 and 2 in inference. */
static char *skip_sum(struct mpq_job *job, char *bias)
{
    if (mpq_job_is_read(job, 1) || mpq_job_is_read(job, 2))
        return NULL;
    char *sum = mpq_make(job, "Add", bias ? NULL : mpq_job_out(job, 3), mpq_job_in(job, 0),
                         mpq_job_in(job, 1), NULL);
    return bias ? mpq_make(job, "Add", mpq_job_out(job, 3), sum, bias, NULL) : sum;
}

bool mpq_contrib_skip_layer_normalization(struct mpq_job *job)
{
    char *sum = skip_sum(job, mpq_job_in(job, 4));
    if (sum)
        normalize(job, sum, mpq_job_in(job, 2), mpq_job_in(job, 3), false);
    return sum || job->failed;
}

bool mpq_contrib_skip_simplified(struct mpq_job *job)
{
    char *sum = skip_sum(job, mpq_job_in(job, 3));
    if (sum)
        normalize(job, sum, mpq_job_in(job, 2), NULL, true);
    return sum || job->failed;
}

bool mpq_contrib_simplified(struct mpq_job *job)
{
    if (mpq_job_int(job, "axis", -1) != -1 || mpq_job_is_read(job, 1))
        return false;
    normalize(job, mpq_job_in(job, 0), mpq_job_in(job, 1), NULL, true);
    return true;
}
