#include "quantcore/ops/kernel/normalize.h"

#include <math.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/real_math.h"
#include "quantcore/ops/op_util.h"

struct job {
    const struct mpq_normalize *n;
    const mpq_real *x, *scale, *bias, *dy;
    mpq_real *y, *mean, *inverse, *dx, *d_scale, *d_bias;
};

/* Mean (0 for RMS) and 1 / sqrt(variance + epsilon) of a row, in two passes. */
static void measure(const struct mpq_normalize *n, const mpq_real *x, double *mean, double *inverse)
{
    double sum = 0, length = (double)n->length;
    *mean = n->keep_mean ? 0 : mpq_sum(x, n->length) / length;
    for (int64_t j = 0; j < n->length; j++)
        sum += ((double)x[j] - *mean) * ((double)x[j] - *mean);
    *inverse = 1 / sqrt(sum / length + n->epsilon);
}

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_normalize *n = job->n;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        const mpq_real *x = job->x + r * n->length;
        mpq_real *y = job->y + r * n->length;
        int64_t at = r % n->n_group * (n->length / n->run);
        double mean, inverse;
        measure(n, x, &mean, &inverse);
        for (int64_t j = 0; j < n->length; at++)
            for (int64_t k = 0; k < n->run; k++, j++)
                y[j] = (x[j] - (mpq_real)mean) * (mpq_real)inverse * job->scale[at] +
                       (job->bias ? job->bias[at] : 0);
        if (job->mean)
            job->mean[r] = (mpq_real)mean;
        if (job->inverse)
            job->inverse[r] = (mpq_real)inverse;
    }
}

void mpq_normalize_forward(const struct mpq_normalize *normalize,
                           const struct mpq_kernel_args *args, mpq_real *mean,
                           mpq_real *inverse_deviation)
{
    const struct mpq_tensor *bias = mpq_input(args->node, args->x, 2);
    struct job job = {.n = normalize,
                      .x = args->x[0]->data,
                      .scale = args->x[1]->data,
                      .bias = bias ? bias->data : NULL,
                      .y = args->y[0]->data,
                      .mean = mean,
                      .inverse = inverse_deviation};
    mpq_parallel_for(normalize->n_row, 1 + MPQ_GRAIN / (normalize->length + 1), forward_rows, &job);
}

/* With h = (x - mean) * inverse and g = dy * scale:
 * dx = inverse * (g - mean of g (not for RMS) - h * mean of g h). */
static void backward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_normalize *n = job->n;
    (void)thread;
    for (int64_t r = begin; r < end; r++) {
        const mpq_real *x = job->x + r * n->length, *dy = job->dy + r * n->length;
        mpq_real *dx = job->dx + r * n->length;
        int64_t first = r % n->n_group * (n->length / n->run);
        double mean, inverse, sum = 0, product = 0, length = (double)n->length;
        measure(n, x, &mean, &inverse);
        for (int64_t j = 0; j < n->length; j++) {
            double g = (double)dy[j] * (double)job->scale[first + j / n->run];
            sum += g;
            product += g * ((double)x[j] - mean) * inverse;
        }
        sum = n->keep_mean ? 0 : sum;
        for (int64_t j = 0; j < n->length; j++) {
            double g = (double)dy[j] * (double)job->scale[first + j / n->run];
            double h = ((double)x[j] - mean) * inverse;
            dx[j] += (mpq_real)(inverse * (g - sum / length - h * product / length));
        }
    }
}

/* Rows share scales, so this part is one worker's. */
static void add_parameter_gradients(const struct job *job)
{
    const struct mpq_normalize *n = job->n;
    for (int64_t r = 0; r < n->n_row; r++) {
        const mpq_real *x = job->x + r * n->length, *dy = job->dy + r * n->length;
        int64_t first = r % n->n_group * (n->length / n->run);
        double mean, inverse;
        measure(n, x, &mean, &inverse);
        for (int64_t j = 0; j < n->length; j++) {
            int64_t at = first + j / n->run;
            if (job->d_scale)
                job->d_scale[at] += dy[j] * (mpq_real)(((double)x[j] - mean) * inverse);
            if (job->d_bias)
                job->d_bias[at] += dy[j];
        }
    }
}

void mpq_normalize_backward(const struct mpq_normalize *normalize,
                            const struct mpq_kernel_args *args)
{
    struct job job = {.n = normalize,
                      .x = args->x[0]->data,
                      .scale = args->x[1]->data,
                      .dy = args->dy[0],
                      .dx = args->dx[0],
                      .d_scale = args->dx[1],
                      .d_bias = mpq_grad(args, 2)};
    if (!job.dy)
        return;
    if (job.dx)
        mpq_parallel_for(normalize->n_row, 1 + MPQ_GRAIN / (normalize->length + 1), backward_rows,
                         &job);
    if (job.d_scale || job.d_bias)
        add_parameter_gradients(&job);
}
