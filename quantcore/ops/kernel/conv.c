#include "quantcore/ops/kernel/conv.h"

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/depthwise.h"
#include "quantcore/ops/kernel/pointwise.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/sweep.h"

bool mpq_conv_is_empty(const struct mpq_conv *conv)
{
    return conv->n == 0 || conv->c == 0 || conv->m == 0 || mpq_volume(conv->in) == 0 ||
           mpq_volume(conv->out) == 0;
}

struct forward_job {
    const struct mpq_conv *conv;
    struct mpq_stage stage;
    const mpq_real *x, *w, *bias;
    bool add;
    const struct mpq_clamp *clamp;
    mpq_real *y;
    int64_t n_k;
    int64_t panel_elements;
    mpq_real *panel;                /* [threads, panel_elements], not always used */
    int64_t *offset, *panel_offset; /* [n_k] */
    mpq_real *buffer;               /* [threads, stride] */
    int64_t stride;
};

static size_t forward_setup(const struct mpq_conv *conv, void *workspace, struct forward_job *job)
{
    size_t used = 0;
    mpq_stage_forward(conv, &job->stage);
    job->conv = conv;
    job->n_k = conv->c / conv->group * mpq_volume(conv->kernel);
    job->stride = ((int64_t)mpq_stage_elements(&job->stage) + 15) / 16 * 16;
    job->offset = mpq_scratch_take(workspace, &used, job->n_k, sizeof *job->offset);
    job->panel_elements = mpq_sweep_panel(&job->stage, conv->m / conv->group, job->n_k);
    job->panel_offset = mpq_scratch_take(workspace, &used, job->n_k, sizeof *job->offset);
    job->panel = mpq_scratch_take(workspace, &used, job->panel_elements * mpq_thread_count(),
                                  sizeof(mpq_real));
    job->buffer =
        mpq_scratch_take(workspace, &used, job->stride * mpq_thread_count(), sizeof(mpq_real));
    return used;
}

static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct forward_job *job = arg;
    const struct mpq_conv *conv = job->conv;
    int64_t m = conv->m / conv->group, area = mpq_volume(conv->out);
    mpq_real *buffer = job->buffer + thread * job->stride;
    struct mpq_filled filled = {0};
    for (int64_t i = begin; i < end; i++) {
        struct mpq_unit unit = mpq_stage_unit(&job->stage, i);
        struct mpq_sweep sweep = {.stage = &job->stage,
                                  .n_row = m,
                                  .n_k = job->n_k,
                                  .n_channel = conv->m,
                                  .a = job->w + unit.group * m * job->n_k,
                                  .bias = job->bias ? job->bias + unit.group * m : NULL,
                                  .offset = job->offset,
                                  .add = job->add,
                                  .clamp = job->clamp,
                                  .is_bytes = conv->is_bytes};
        if (job->panel_elements) {
            sweep.panel = job->panel + thread * job->panel_elements;
            sweep.panel_offset = job->panel_offset;
        }
        mpq_stage_fill(&job->stage, &unit, &filled, job->x, buffer);
        mpq_sweep_unit(&sweep, &unit, buffer,
                       job->y + (unit.image * conv->m + unit.group * m) * area);
    }
}

void mpq_conv_fill_bias(int64_t n, int64_t m, int64_t places, const mpq_real *bias, mpq_real *y)
{
    for (int64_t i = 0; i < n * m; i++)
        for (int64_t j = 0; j < places; j++)
            y[i * places + j] = bias ? bias[i % m] : 0;
}

void mpq_conv_forward(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *w,
                      const mpq_real *bias, bool add, const struct mpq_clamp *clamp, mpq_real *y,
                      void *workspace)
{
    if (mpq_conv_is_empty(conv)) {
        if (!add)
            mpq_conv_fill_bias(conv->n, conv->m, mpq_volume(conv->out), bias, y);
        if (clamp)
            mpq_clamp_row(y, conv->n * conv->m * mpq_volume(conv->out), *clamp);
        return;
    }
    if (mpq_is_depthwise(conv) && !conv->is_bytes) {
        mpq_depthwise_forward(conv, x, w, bias, add, clamp, y, workspace);
        return;
    }
    if (mpq_is_pointwise(conv)) {
        mpq_pointwise_run(&(struct mpq_pointwise){.n = conv->n,
                                                  .group = conv->group,
                                                  .m = conv->m / conv->group,
                                                  .k = conv->c / conv->group,
                                                  .places = mpq_volume(conv->in),
                                                  .a = w,
                                                  .x = x,
                                                  .bias = bias,
                                                  .clamp = clamp,
                                                  .add = add,
                                                  .is_bytes = conv->is_bytes,
                                                  .y = y},
                          workspace);
        return;
    }
    struct forward_job job = {.x = x, .w = w, .bias = bias, .add = add, .clamp = clamp, .y = y};
    (void)forward_setup(conv, workspace, &job);
    mpq_stage_offsets(&job.stage, job.offset);
    mpq_sweep_panel_offsets(job.n_k, job.panel_offset);
    mpq_parallel_for(mpq_stage_units(&job.stage), 1, forward_piece, &job);
}

size_t mpq_conv_forward_bytes(const struct mpq_conv *conv)
{
    struct forward_job job;
    if (mpq_conv_is_empty(conv))
        return 0;
    if (mpq_is_depthwise(conv) && !conv->is_bytes)
        return mpq_depthwise_bytes(conv);
    if (mpq_is_pointwise(conv))
        return mpq_pointwise_bytes(conv->c / conv->group);
    return forward_setup(conv, NULL, &job);
}

struct db_job {
    int64_t n, m, places;
    const mpq_real *dy;
    mpq_real *db;
};

/* Sums in eight strands of double, always the same eight. */
MPQ_MULTIVERSION
static double sum_of(const mpq_real *v, int64_t n)
{
    double strand[8] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            strand[j] += (double)v[i + j];
    for (; i < n; i++)
        strand[i % 8] += (double)v[i];
    for (int j = 0; j < 8; j++)
        sum += strand[j];
    return sum;
}

static void db_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct db_job *job = arg;
    for (int64_t m = begin; m < end; m++) {
        double sum = 0;
        for (int64_t i = 0; i < job->n; i++)
            sum += sum_of(job->dy + (i * job->m + m) * job->places, job->places);
        job->db[m] += (mpq_real)sum;
    }
}

void mpq_conv_db(int64_t n, int64_t m, int64_t places, const mpq_real *dy, mpq_real *db)
{
    struct db_job job = {n, m, places, dy, db};
    mpq_parallel_for(m, 1, db_piece, &job);
}
