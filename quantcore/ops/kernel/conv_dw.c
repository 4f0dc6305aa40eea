#include "quantcore/ops/kernel/conv.h"

#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/depthwise.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/sweep.h"

/* Places of a block: their transposed gradients and what they read stay in cache. */
#define BLOCK_PLACES 512

#define K_BLOCK 16

struct dw_job {
    const struct mpq_conv *conv;
    struct mpq_stage stage;
    const mpq_real *x, *dy;
    mpq_real *dw;
    int64_t k_blocks;     /* of K_BLOCK */
    int64_t n_k, columns; /* columns: output channels of a group, rounded up to a vector    */
    int64_t block_rows, max_run; /* rows of places to a block; runs in it */
    int64_t *offset;      /* [n_k]                                                          */
    bool *used;           /* [threads] whose sums are to be added                           */
    mpq_real *sum;        /* [threads][group][n_k][columns]                                 */
    mpq_real *buffer;     /* [threads][stride]                                              */
    mpq_real *transposed; /* [threads][places of a block][columns]                          */
    int64_t *start;       /* [threads][max_run]                                             */
    int64_t stride;
};

static int64_t sum_elements(const struct dw_job *job)
{
    return job->conv->group * job->n_k * job->columns;
}

static int64_t transposed_elements(const struct dw_job *job)
{
    return job->max_run * job->conv->out[2] * job->columns + MPQ_STAGE_SLACK;
}

static size_t dw_setup(const struct mpq_conv *conv, void *workspace, struct dw_job *job)
{
    size_t used = 0;
    int64_t threads = mpq_thread_count(), lanes = mpq_tile_best()->lanes;
    mpq_stage_forward(conv, &job->stage);
    job->conv = conv;
    job->n_k = conv->c / conv->group * mpq_volume(conv->kernel);
    job->k_blocks = (job->n_k + K_BLOCK - 1) / K_BLOCK;
    job->columns = (conv->m / conv->group + lanes - 1) / lanes * lanes;
    int64_t row = conv->out[1] * conv->out[2];
    job->block_rows = row < BLOCK_PLACES ? BLOCK_PLACES / row : 1;
    job->max_run = job->block_rows * conv->out[1];
    job->stride = ((int64_t)mpq_stage_elements(&job->stage) + 15) / 16 * 16;
    job->offset = mpq_scratch_take(workspace, &used, job->n_k, sizeof *job->offset);
    job->used = mpq_scratch_take(workspace, &used, threads, sizeof *job->used);
    job->sum = mpq_scratch_take(workspace, &used, threads * sum_elements(job), sizeof(mpq_real));
    job->buffer = mpq_scratch_take(workspace, &used, threads * job->stride, sizeof(mpq_real));
    job->transposed =
        mpq_scratch_take(workspace, &used, threads * transposed_elements(job), sizeof(mpq_real));
    job->start = mpq_scratch_take(workspace, &used, threads * job->max_run, sizeof *job->start);
    return used;
}

/* Rows [begin, end) of the unit, counted over its images: transpose their gradients, list where
 * their places start. Returns the number of runs. */
static int64_t gather_rows(const struct dw_job *job, const struct mpq_unit *unit, int64_t begin,
                           int64_t end, int64_t *start, mpq_real *t)
{
    const struct mpq_conv *conv = job->conv;
    const struct mpq_stage *s = &job->stage;
    int64_t m = conv->m / conv->group, area = mpq_volume(conv->out);
    int64_t row_places = conv->out[1] * conv->out[2], n_run = 0;
    for (int64_t r = begin; r < end;) {
        int64_t image = r / unit->n_row, i = r % unit->n_row;
        int64_t n = unit->n_row - i < end - r ? unit->n_row - i : end - r;
        const mpq_real *dy = job->dy + ((unit->image + image) * conv->m + unit->group * m) * area +
                             (unit->row + i) * row_places;
        mpq_tile_best()->transpose(m, n * row_places, dy, area, t, job->columns);
        t += n * row_places * job->columns;
        for (int64_t end_row = i + n; i < end_row; i++)
            for (int64_t j = 0; j < conv->out[1]; j++)
                start[n_run++] = image * s->image + (i * s->pitch[1] + j) * s->pitch[2];
        r += n;
    }
    return n_run;
}

static void add_block(const struct dw_job *job, const mpq_real *s, const int64_t *start,
                      int64_t n_run, const mpq_real *t, mpq_real *sum)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    int vectors, rows;
    for (int64_t column = 0; column < job->columns; column += vectors * set->lanes) {
        int64_t left = (job->columns - column) / set->lanes;
        vectors = mpq_sweep_vectors(left);
        for (int64_t k = 0; k < job->n_k; k += rows) {
            rows = set->max_rows;
            while (rows > job->n_k - k)
                rows /= 2;
            set->gradient(rows, vectors, job->offset + k, s, start, n_run, job->conv->out[2],
                          t + column, job->columns, sum + k * job->columns + column, job->columns);
        }
    }
}

static void dw_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct dw_job *job = arg;
    mpq_real *sum = job->sum + thread * sum_elements(job);
    mpq_real *buffer = job->buffer + thread * job->stride;
    mpq_real *t = job->transposed + thread * transposed_elements(job);
    int64_t *start = job->start + thread * job->max_run;
    memset(sum, 0, (size_t)sum_elements(job) * sizeof *sum);
    job->used[thread] = true;
    struct mpq_filled filled = {0};
    for (int64_t i = begin; i < end; i++) {
        struct mpq_unit unit = mpq_stage_unit(&job->stage, i);
        mpq_stage_fill(&job->stage, &unit, &filled, job->x, buffer);
        int64_t n_row = unit.n_image * unit.n_row;
        for (int64_t r = 0; r < n_row; r += job->block_rows) {
            int64_t end_row = r + job->block_rows < n_row ? r + job->block_rows : n_row;
            int64_t n_run = gather_rows(job, &unit, r, end_row, start, t);
            add_block(job, buffer, start, n_run, t, sum + unit.group * job->n_k * job->columns);
        }
    }
}

/* dw[m][k] += the threads' sums [k][m], in the order of threads; a cache line of k at a time. */
static void dw_add_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct dw_job *job = arg;
    int64_t m = job->conv->m / job->conv->group;
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i / job->k_blocks, first = i % job->k_blocks * K_BLOCK;
        int64_t last = first + K_BLOCK < job->n_k ? first + K_BLOCK : job->n_k;
        for (int t = 0; t < mpq_thread_count(); t++) {
            if (!job->used[t])
                continue;
            const mpq_real *sum =
                job->sum + t * sum_elements(job) + group * job->n_k * job->columns;
            mpq_real *dw = job->dw + group * m * job->n_k;
            for (int64_t j = 0; j < m; j++)
                for (int64_t k = first; k < last; k++)
                    dw[j * job->n_k + k] += sum[k * job->columns + j];
        }
    }
}

void mpq_conv_dw(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *dy, mpq_real *dw,
                 void *workspace)
{
    if (mpq_conv_is_empty(conv))
        return;
    if (mpq_is_depthwise(conv)) {
        mpq_depthwise_dw(conv, x, dy, dw, workspace);
        return;
    }
    struct dw_job job = {.x = x, .dy = dy, .dw = dw};
    (void)dw_setup(conv, workspace, &job);
    mpq_stage_offsets(&job.stage, job.offset);
    memset(job.used, 0, (size_t)mpq_thread_count() * sizeof *job.used);
    mpq_parallel_for(mpq_stage_units(&job.stage), 1, dw_piece, &job);
    mpq_parallel_for(conv->group * job.k_blocks, 1, dw_add_piece, &job);
}

size_t mpq_conv_dw_bytes(const struct mpq_conv *conv)
{
    struct dw_job job;
    if (mpq_conv_is_empty(conv))
        return 0;
    return mpq_is_depthwise(conv) ? mpq_depthwise_bytes(conv) : dw_setup(conv, NULL, &job);
}
