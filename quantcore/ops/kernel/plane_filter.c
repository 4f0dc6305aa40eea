#include "quantcore/ops/kernel/plane_filter.h"

#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/tile.h"

#define TAPS 9

struct job {
    const struct mpq_filter *filter;
    mpq_real *copy; /* [threads][copy_elements] */
};

bool mpq_is_plane_filter(const struct mpq_conv *conv)
{
    bool is = memcmp(conv->in, conv->out, sizeof conv->in) == 0 && conv->in[1] == 1 &&
              conv->dilation[0] == conv->dilation[2] && conv->out[2] >= mpq_tile_best()->lanes;
    for (int i = 0; i < 3; i++)
        is = is && conv->kernel[i] == (i == 1 ? 1 : 3) && conv->stride[i] == 1 &&
             conv->pad[i] == (i == 1 ? 0 : conv->dilation[i]);
    return is;
}

/* Elements before and behind a plane that are read. */
static int64_t reach_of(const struct mpq_conv *conv)
{
    return conv->dilation[0];
}

static int64_t copy_elements(const struct mpq_conv *conv)
{
    return mpq_volume(conv->in) + 2 * reach_of(conv);
}

size_t mpq_plane_filter_bytes(const struct mpq_conv *conv)
{
    return (size_t)(mpq_thread_count() * copy_elements(conv)) * sizeof(mpq_real);
}

/* Plane i of x; a copy where vectors would reach beyond an end of x. */
static const mpq_real *plane_of(const struct job *job, int64_t i, mpq_real *copy)
{
    const struct mpq_conv *conv = job->filter->conv;
    int64_t area = mpq_volume(conv->in), reach = reach_of(conv);
    int64_t behind = (conv->n * conv->c - i - 1) * area;
    const mpq_real *x = job->filter->x + i * area;
    return i * area >= reach && behind >= reach ? x
                                                : memcpy(copy + reach, x, (size_t)area * sizeof *x);
}

static void run_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_filter *f = job->filter;
    const struct mpq_conv *conv = f->conv;
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t area = mpq_volume(conv->in);
    mpq_real *copy = job->copy + thread * copy_elements(conv);
    for (int64_t i = begin; i < end; i++) {
        int64_t c = i % conv->c;
        mpq_real w[TAPS];
        for (int t = 0; t < TAPS; t++)
            w[t] = f->w[c * TAPS + (f->is_turned ? TAPS - 1 - t : t)];
        set->filter_same(conv->in[0], conv->in[2], conv->dilation[0], w, plane_of(job, i, copy),
                         f->bias ? f->bias[c] : 0, f->clamp, f->y + i * area);
    }
}

void mpq_plane_filter_run(const struct mpq_filter *filter, void *workspace)
{
    struct job job = {filter, workspace};
    mpq_parallel_for(filter->conv->n * filter->conv->c, 1, run_planes, &job);
}
