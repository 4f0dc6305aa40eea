#include "quantcore/ops/kernel/depthwise.h"

#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/lane_filter.h"
#include "quantcore/ops/kernel/plane_filter.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/stage.h"

/* Planes are staged one channel at a time. Where outputs lie in rows like their places, a filter
 * runs over these; else it runs over all places of a unit as over one row, into `places`, of which
 * the parts are then kept. Parts are the same for units of equal shape. */
struct job {
    const struct mpq_conv *conv;
    struct mpq_stage stage;
    const mpq_real *x, *w, *bias, *dy;
    mpq_real *to; /* y, dx or dw */
    bool add;
    const struct mpq_clamp *clamp;
    int64_t taps, n_phase, max_part;
    struct mpq_phase *phase; /* [n_phase] */
    int64_t *offset; /* [taps], those of a phase together                                   */
    int64_t *tap;    /* [taps] which tap that is                                            */
    bool *used;      /* [threads]                                                           */
    char *own;       /* [threads, own_bytes] struct worker's arrays                         */
    size_t own_bytes;
};

struct worker {
    mpq_real *staged, *places;
    mpq_real *w;                 /* [taps]                                              */
    mpq_real *sum;               /* [c, taps], dw only                                  */
    struct mpq_part *part;       /* [n_phase, max_part]                                 */
    int *n_part;                 /* [n_phase]                                           */
    int64_t row, n_row, n_image; /* the shape that parts are for                   */
};

bool mpq_is_depthwise(const struct mpq_conv *conv)
{
    return conv->c == conv->group && conv->m == conv->group;
}

static size_t worker_setup(const struct job *job, void *base, struct worker *out)
{
    size_t used = 0;
    int64_t n = (int64_t)mpq_stage_elements(&job->stage);
    out->staged = mpq_scratch_take(base, &used, n, sizeof(mpq_real));
    out->places = mpq_scratch_take(base, &used, n, sizeof(mpq_real));
    out->w = mpq_scratch_take(base, &used, job->taps, sizeof(mpq_real));
    out->sum = mpq_scratch_take(base, &used, job->conv->c * job->taps, sizeof(mpq_real));
    out->part = mpq_scratch_take(base, &used, job->n_phase * job->max_part, sizeof *out->part);
    out->n_part = mpq_scratch_take(base, &used, job->n_phase, sizeof *out->n_part);
    out->n_image = 0;
    return used;
}

static size_t setup(const struct mpq_conv *conv, bool backward, void *workspace, struct job *job)
{
    struct worker worker;
    size_t used = 0;
    if (backward)
        mpq_stage_backward(conv, &job->stage);
    else
        mpq_stage_forward(conv, &job->stage);
    job->conv = conv;
    job->taps = mpq_volume(conv->kernel);
    job->n_phase = backward ? mpq_phase_count(&job->stage) : 1;
    job->max_part = job->stage.images * job->stage.pitch[0] * job->stage.pitch[1];
    job->own_bytes = worker_setup(job, NULL, &worker);
    job->phase = mpq_scratch_take(workspace, &used, job->n_phase, sizeof *job->phase);
    job->offset = mpq_scratch_take(workspace, &used, job->taps, sizeof *job->offset);
    job->tap = mpq_scratch_take(workspace, &used, job->taps, sizeof *job->tap);
    job->used = mpq_scratch_take(workspace, &used, mpq_thread_count(), sizeof *job->used);
    job->own = mpq_scratch_take(workspace, &used, mpq_thread_count(), job->own_bytes);
    return used;
}

/* The one that makes dx of dy with filters turned round, where the stride is 1. */
static bool backward_of(const struct mpq_conv *conv, struct mpq_conv *out)
{
    *out = *conv;
    memcpy(out->in, conv->out, sizeof out->in);
    memcpy(out->out, conv->in, sizeof out->out);
    for (int i = 0; i < 3; i++)
        out->pad[i] = (conv->kernel[i] - 1) * conv->dilation[i] - conv->pad[i];
    return mpq_volume(conv->stride) == 1;
}

/* Loops for special forms, which do without stages. */
static size_t special_bytes(const struct mpq_conv *conv)
{
    if (mpq_is_plane_filter(conv))
        return mpq_plane_filter_bytes(conv);
    return mpq_is_lane_filter(conv) ? mpq_lane_filter_bytes(conv) : 0;
}

/* False, and nothing done, where the convolution is not of a special form. */
static bool run_special(const struct mpq_filter *filter, void *workspace)
{
    if (mpq_is_plane_filter(filter->conv))
        mpq_plane_filter_run(filter, workspace);
    else if (mpq_is_lane_filter(filter->conv))
        mpq_lane_filter_run(filter, workspace);
    else
        return false;
    return true;
}

size_t mpq_depthwise_bytes(const struct mpq_conv *conv)
{
    struct job job;
    struct mpq_conv back;
    size_t bytes = mpq_max_size(setup(conv, false, NULL, &job), setup(conv, true, NULL, &job));
    if (backward_of(conv, &back))
        bytes = mpq_max_size(bytes, special_bytes(&back));
    return mpq_max_size(bytes, special_bytes(conv));
}

static void find_parts(const struct job *job, const struct mpq_unit *unit, struct worker *worker)
{
    if (worker->n_image == unit->n_image && worker->row == unit->row &&
        worker->n_row == unit->n_row)
        return;
    for (int64_t i = 0; i < job->n_phase; i++) {
        worker->n_part[i] = mpq_stage_parts(&job->stage, unit, job->phase[i].phase, job->conv->c, 0,
                                            unit->places, worker->part + i * job->max_part);
    }
    worker->n_image = unit->n_image;
    worker->row = unit->row;
    worker->n_row = unit->n_row;
}

/* Whether place (i, 0, j) is output (i, 0, j). */
static bool has_rows(const struct job *job)
{
    const struct mpq_stage *s = &job->stage;
    bool has = job->n_phase == 1 && s->total[1] == 1 && !job->add;
    for (int i = 0; i < 3; i++)
        has =
            has && s->sink.step[i] == 1 && s->sink.before[i] == 0 && s->sink.dim[i] == s->total[i];
    return has;
}

static void filter_rows(const struct job *job, const struct mpq_unit *unit,
                        const struct worker *worker)
{
    const struct mpq_stage *s = &job->stage;
    int64_t row = s->total[2];
    for (int64_t i = 0; i < unit->n_image; i++)
        mpq_tile_best()->filter_rows(
            unit->n_row, row, job->taps, worker->w, job->offset, worker->staged + i * s->image,
            s->pitch[1] * s->pitch[2], job->bias ? job->bias[unit->group] : 0, job->clamp,
            job->to + ((unit->image + i) * job->conv->c + unit->group) * s->total[0] * row +
                unit->row * row,
            row);
}

/* forward and dx: they differ in the stage, and dx has a convolution for each phase. */
static void filter_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_tile_set *set = mpq_tile_best();
    struct worker worker;
    (void)worker_setup(job, job->own + (size_t)thread * job->own_bytes, &worker);
    int64_t area = mpq_volume(job->stage.sink.dim);
    bool in_rows = has_rows(job);
    struct mpq_filled filled = {0};
    for (int64_t i = begin; i < end; i++) {
        struct mpq_unit unit = mpq_stage_unit(&job->stage, i);
        mpq_real *to = job->to + (unit.image * job->conv->c + unit.group) * area;
        for (int64_t t = 0; t < job->taps; t++)
            worker.w[t] = job->w[unit.group * job->taps + job->tap[t]];
        mpq_stage_fill(&job->stage, &unit, &filled, job->x, worker.staged);
        if (in_rows) {
            filter_rows(job, &unit, &worker);
            continue;
        }
        find_parts(job, &unit, &worker);
        for (int64_t p = 0; p < job->n_phase; p++) {
            int64_t t = job->phase[p].taps_before, n_tap = mpq_volume(job->phase[p].n_tap);
            set->filter(unit.places, n_tap, worker.w + t, job->offset + t, worker.staged,
                        job->bias ? job->bias[unit.group] : 0, worker.places);
            mpq_stage_store(&job->stage, worker.part + p * job->max_part, worker.n_part[p], 1,
                            worker.places, 0, NULL, job->add, job->clamp, to);
        }
    }
}

/* All taps in one go, to outputs that lie side by side. */
static void whole_filter(struct job *job)
{
    struct mpq_phase *p = job->phase;
    *p = (struct mpq_phase){.taps_before = 0};
    memcpy(p->n_tap, job->conv->kernel, sizeof p->n_tap);
    mpq_stage_offsets(&job->stage, job->offset);
}

void mpq_depthwise_forward(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *w,
                           const mpq_real *bias, bool add, const struct mpq_clamp *clamp,
                           mpq_real *y, void *workspace)
{
    struct job job = {.x = x, .w = w, .bias = bias, .to = y, .add = add, .clamp = clamp};
    struct mpq_filter filter = {conv, x, w, bias, clamp, y, false};
    if (!add && run_special(&filter, workspace))
        return;
    (void)setup(conv, false, workspace, &job);
    whole_filter(&job);
    for (int64_t i = 0; i < job.taps; i++)
        job.tap[i] = i;
    mpq_parallel_for(mpq_stage_units(&job.stage), 1, filter_piece, &job);
}

static void reverse(int64_t *v, int64_t n)
{
    for (int64_t i = 0; i < n / 2; i++) {
        int64_t other = v[n - 1 - i];
        v[n - 1 - i] = v[i];
        v[i] = other;
    }
}

/* Offsets fall from tap to tap there; taken backwards they rise, as filter_rows() likes it. */
void mpq_depthwise_dx(const struct mpq_conv *conv, const mpq_real *dy, const mpq_real *w, bool add,
                      mpq_real *dx, void *workspace)
{
    struct job job = {.x = dy, .w = w, .to = dx, .add = add};
    struct mpq_conv back;
    struct mpq_filter filter = {&back, dy, w, NULL, NULL, dx, true};
    if (!add && backward_of(conv, &back) && run_special(&filter, workspace))
        return;
    (void)setup(conv, true, workspace, &job);
    mpq_stage_phases(&job.stage, job.phase);
    for (const struct mpq_phase *p = job.phase; p < job.phase + job.n_phase; p++) {
        mpq_phase_offsets(&job.stage, p, job.offset + p->taps_before);
        for (int64_t t = 0; t < mpq_volume(p->n_tap); t++)
            job.tap[p->taps_before + t] = mpq_phase_tap(&job.stage, p, t);
        reverse(job.offset + p->taps_before, mpq_volume(p->n_tap));
        reverse(job.tap + p->taps_before, mpq_volume(p->n_tap));
    }
    mpq_parallel_for(mpq_stage_units(&job.stage), 1, filter_piece, &job);
}

/* The gradients of the unit at their places, zero at places that no output has. */
static void spread(const struct job *job, const struct mpq_unit *unit, struct worker *worker)
{
    const mpq_real *dy =
        job->dy + (unit->image * job->conv->c + unit->group) * mpq_volume(job->conv->out);
    memset(worker->places, 0, (size_t)(unit->places + MPQ_TILE_MAX_COLUMNS) * sizeof *dy);
    for (int i = 0; i < worker->n_part[0]; i++)
        memcpy(worker->places + worker->part[i].from, dy + worker->part[i].to,
               (size_t)worker->part[i].count * sizeof *dy);
}

static void dw_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    struct worker worker;
    (void)worker_setup(job, job->own + (size_t)thread * job->own_bytes, &worker);
    memset(worker.sum, 0, (size_t)(job->conv->c * job->taps) * sizeof *worker.sum);
    job->used[thread] = true;
    struct mpq_filled filled = {0};
    for (int64_t i = begin; i < end; i++) {
        struct mpq_unit unit = mpq_stage_unit(&job->stage, i);
        mpq_stage_fill(&job->stage, &unit, &filled, job->x, worker.staged);
        find_parts(job, &unit, &worker);
        spread(job, &unit, &worker);
        mpq_tile_best()->correlate(unit.places, job->taps, worker.places, job->offset,
                                   worker.staged, worker.sum + unit.group * job->taps);
    }
}

void mpq_depthwise_dw(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *dy,
                      mpq_real *dw, void *workspace)
{
    struct job job = {.x = x, .dy = dy};
    (void)setup(conv, false, workspace, &job);
    whole_filter(&job);
    memset(job.used, 0, (size_t)mpq_thread_count() * sizeof *job.used);
    mpq_parallel_for(mpq_stage_units(&job.stage), 1, dw_piece, &job);
    for (int t = 0; t < mpq_thread_count(); t++) {
        struct worker worker;
        if (!job.used[t])
            continue;
        (void)worker_setup(&job, job.own + (size_t)t * job.own_bytes, &worker);
        for (int64_t i = 0; i < conv->c * job.taps; i++)
            dw[i] += worker.sum[i];
    }
}
