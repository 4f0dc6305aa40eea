#include "quantcore/ops/kernel/conv.h"

#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/depthwise.h"
#include "quantcore/ops/kernel/pointwise.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/sweep.h"

#define C_BLOCK 16 /* input channels packed together */

struct dx_job {
    const struct mpq_conv *conv;
    struct mpq_stage stage;
    const mpq_real *dy, *w;
    bool add;
    mpq_real *dx;
    int64_t c_blocks;        /* of C_BLOCK in a group                                */
    int64_t n_phase;         /* each a convolution of its own                        */
    struct mpq_phase *phase; /* [n_phase]                                            */
    int64_t *tap;            /* [phase][taps of phase] in the kernel                 */
    int64_t *offset;         /* [phase][m, taps of phase]                            */
    mpq_real *a;             /* [group][phase][c][m, taps of phase] the weights again */
    int64_t *panel_offset;   /* [m, taps]                                            */
    mpq_real *panel;         /* [threads, panel_elements], or nothing                */
    int64_t panel_elements;
    mpq_real *buffer; /* [threads, stride] */
    int64_t stride;
};

static size_t dx_setup(const struct mpq_conv *conv, void *workspace, struct dx_job *job)
{
    size_t used = 0;
    mpq_stage_backward(conv, &job->stage);
    job->conv = conv;
    job->c_blocks = (conv->c / conv->group + C_BLOCK - 1) / C_BLOCK;
    int64_t n_k = conv->m / conv->group * mpq_volume(conv->kernel);
    job->stride = ((int64_t)mpq_stage_elements(&job->stage) + 15) / 16 * 16;
    job->n_phase = mpq_phase_count(&job->stage);
    job->phase = mpq_scratch_take(workspace, &used, job->n_phase, sizeof *job->phase);
    job->tap = mpq_scratch_take(workspace, &used, mpq_volume(conv->kernel), sizeof *job->tap);
    job->a = mpq_scratch_take(workspace, &used, n_k * conv->c, sizeof(mpq_real));
    job->offset = mpq_scratch_take(workspace, &used, n_k, sizeof *job->offset);
    job->panel_elements = mpq_sweep_panel(&job->stage, conv->c / conv->group, n_k);
    job->panel_offset = mpq_scratch_take(workspace, &used, n_k, sizeof *job->offset);
    job->panel = mpq_scratch_take(workspace, &used, job->panel_elements * mpq_thread_count(),
                                  sizeof(mpq_real));
    job->buffer =
        mpq_scratch_take(workspace, &used, job->stride * mpq_thread_count(), sizeof(mpq_real));
    return used;
}

/* a[c][m, tap] = w[m][c][tap] for input channels [begin, end) of a group. */
static void pack(const struct dx_job *job, const struct mpq_phase *p, int64_t group, int64_t begin,
                 int64_t end)
{
    int64_t m = job->stage.channels, c = job->conv->c / job->conv->group;
    int64_t taps = mpq_volume(job->conv->kernel), n_tap = mpq_volume(p->n_tap);
    const int64_t *tap = job->tap + p->taps_before;
    for (int64_t j = 0; j < m; j++)
        for (int64_t i = begin; i < end; i++) {
            const mpq_real *w = job->w + ((group * m + j) * c + i) * taps;
            mpq_real *a = job->a + (group * taps + p->taps_before) * m * c + (i * m + j) * n_tap;
            for (int64_t t = 0; t < n_tap; t++)
                a[t] = w[tap[t]];
        }
}

/* In blocks of channels, so that what is read and what is written stay in cache. */
static void pack_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct dx_job *job = arg;
    int64_t c = job->conv->c / job->conv->group;
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i / job->c_blocks, first = i % job->c_blocks * C_BLOCK;
        int64_t last = first + C_BLOCK < c ? first + C_BLOCK : c;
        for (int64_t p = 0; p < job->n_phase; p++)
            pack(job, &job->phase[p], group, first, last);
    }
}

static void dx_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct dx_job *job = arg;
    const struct mpq_conv *conv = job->conv;
    int64_t m = conv->m / conv->group, c = conv->c / conv->group, taps = mpq_volume(conv->kernel);
    mpq_real *buffer = job->buffer + thread * job->stride;
    struct mpq_filled filled = {0};
    for (int64_t i = begin; i < end; i++) {
        struct mpq_unit unit = mpq_stage_unit(&job->stage, i);
        mpq_stage_fill(&job->stage, &unit, &filled, job->dy, buffer);
        for (const struct mpq_phase *p = job->phase; p < job->phase + job->n_phase; p++) {
            struct mpq_sweep sweep = {.stage = &job->stage,
                                      .n_row = c,
                                      .n_k = m * mpq_volume(p->n_tap),
                                      .n_channel = conv->c,
                                      .a = job->a + unit.group * m * c * taps +
                                           p->taps_before * m * c,
                                      .offset = job->offset + p->taps_before * m,
                                      .phase = {p->phase[0], p->phase[1], p->phase[2]},
                                      .add = job->add};
            if (job->panel_elements) {
                sweep.panel = job->panel + thread * job->panel_elements;
                sweep.panel_offset = job->panel_offset;
            }
            mpq_sweep_unit(&sweep, &unit, buffer,
                           job->dx +
                               (unit.image * conv->c + unit.group * c) * mpq_volume(conv->in));
        }
    }
}

/* dx = w^T dy for each image and group. The transposed weights come first in the workspace. */
static size_t pointwise_setup(const struct mpq_conv *conv, void *workspace, mpq_real **out_a,
                              void **out_rest)
{
    size_t used = 0;
    *out_a =
        mpq_scratch_take(workspace, &used, conv->m * (conv->c / conv->group), sizeof(mpq_real));
    *out_rest =
        mpq_scratch_take(workspace, &used, (int64_t)mpq_pointwise_bytes(conv->m / conv->group), 1);
    return used;
}

/* t [c, m] = w [m, c] transposed. */
static void transpose(int64_t m, int64_t c, const mpq_real *w, mpq_real *t)
{
    if (m >= mpq_tile_best()->lanes) {
        mpq_tile_best()->transpose(m, c, w, c, t, m);
        return;
    }
    for (int64_t i = 0; i < c; i++)
        for (int64_t j = 0; j < m; j++)
            t[i * m + j] = w[j * c + i];
}

static void pointwise_dx(const struct mpq_conv *conv, const mpq_real *dy, const mpq_real *w,
                         bool add, mpq_real *dx, void *workspace)
{
    int64_t m = conv->m / conv->group, c = conv->c / conv->group;
    mpq_real *a;
    void *rest;
    (void)pointwise_setup(conv, workspace, &a, &rest);
    for (int64_t g = 0; g < conv->group; g++)
        transpose(m, c, w + g * m * c, a + g * m * c);
    mpq_pointwise_run(&(struct mpq_pointwise){.n = conv->n,
                                              .group = conv->group,
                                              .m = c,
                                              .k = m,
                                              .places = mpq_volume(conv->in),
                                              .a = a,
                                              .x = dy,
                                              .add = add,
                                              .y = dx},
                      rest);
}

/* Each x belongs to one phase, and to none where steps are wider than the filter. */
static bool covers_input(const struct mpq_conv *conv)
{
    struct mpq_stage stage;
    mpq_stage_backward(conv, &stage);
    return mpq_phase_count(&stage) == mpq_volume(conv->stride);
}

void mpq_conv_dx(const struct mpq_conv *conv, const mpq_real *dy, const mpq_real *w, bool add,
                 mpq_real *dx, void *workspace)
{
    if (!add && (mpq_conv_is_empty(conv) || !covers_input(conv))) {
        memset(dx, 0, (size_t)(conv->n * conv->c * mpq_volume(conv->in)) * sizeof *dx);
        add = true;
    }
    if (mpq_conv_is_empty(conv))
        return;
    if (mpq_is_depthwise(conv)) {
        mpq_depthwise_dx(conv, dy, w, add, dx, workspace);
        return;
    }
    if (mpq_is_pointwise(conv)) {
        pointwise_dx(conv, dy, w, add, dx, workspace);
        return;
    }
    struct dx_job job = {.dy = dy, .w = w, .add = add, .dx = dx};
    (void)dx_setup(conv, workspace, &job);
    mpq_stage_phases(&job.stage, job.phase);
    for (const struct mpq_phase *p = job.phase; p < job.phase + job.n_phase; p++) {
        mpq_phase_offsets(&job.stage, p, job.offset + p->taps_before * job.stage.channels);
        for (int64_t i = 0; i < mpq_volume(p->n_tap); i++)
            job.tap[p->taps_before + i] = mpq_phase_tap(&job.stage, p, i);
    }
    mpq_sweep_panel_offsets(job.stage.channels * mpq_volume(conv->kernel), job.panel_offset);
    mpq_parallel_for(conv->group * job.c_blocks, 1, pack_piece, &job);
    mpq_parallel_for(mpq_stage_units(&job.stage), 1, dx_piece, &job);
}

size_t mpq_conv_dx_bytes(const struct mpq_conv *conv)
{
    struct dx_job job;
    if (mpq_conv_is_empty(conv))
        return 0;
    mpq_real *a;
    void *rest;
    if (mpq_is_pointwise(conv) && !mpq_is_depthwise(conv))
        return pointwise_setup(conv, NULL, &a, &rest);
    return mpq_is_depthwise(conv) ? mpq_depthwise_bytes(conv) : dx_setup(conv, NULL, &job);
}
