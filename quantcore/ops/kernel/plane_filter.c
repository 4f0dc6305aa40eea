#include "quantcore/ops/kernel/plane_filter.h"

#include <string.h>

#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/tile.h"

#define TAPS 9

struct job {
    const struct mpq_filter *filter;
    mpq_real *copy; /* [threads][copy_elements] */
};

static bool keeps_size(const struct mpq_conv *conv)
{
    bool does = memcmp(conv->in, conv->out, sizeof conv->in) == 0;
    for (int i = 0; i < 3; i += 2)
        does = does && conv->stride[i] == 1 && conv->pad[i] == conv->dilation[i];
    return does && conv->dilation[0] == conv->dilation[2];
}

/* With no more than one row and column of zeros at each side. */
static bool halves_size(const struct mpq_conv *conv)
{
    bool does = conv->pad[0] == conv->pad[2] && conv->pad[0] <= 1;
    for (int i = 0; i < 3; i += 2)
        does = does && conv->stride[i] == 2 && conv->dilation[i] == 1;
    return does && 2 * conv->out[2] <= conv->in[2] + conv->pad[2];
}

bool mpq_is_plane_filter(const struct mpq_conv *conv)
{
    return conv->kernel[0] == 3 && conv->kernel[1] == 1 && conv->kernel[2] == 3 &&
           conv->in[1] == 1 && conv->out[1] == 1 && conv->pad[1] == 0 && conv->stride[1] == 1 &&
           conv->out[2] >= mpq_tile_best()->lanes && (keeps_size(conv) || halves_size(conv));
}

/* Elements before and behind a plane that are read. */
static int64_t reach_of(const struct mpq_conv *conv)
{
    return conv->stride[0] == 2 ? 2 : conv->dilation[0];
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
    mpq_real *copy = job->copy + thread * copy_elements(conv);
    for (int64_t i = begin; i < end; i++) {
        int64_t c = i % conv->c;
        const mpq_real *x = plane_of(job, i, copy);
        mpq_real bias = f->bias ? f->bias[c] : 0, *y = f->y + i * mpq_volume(conv->out), w[TAPS];
        for (int t = 0; t < TAPS; t++)
            w[t] = f->w[c * TAPS + (f->is_turned ? TAPS - 1 - t : t)];
        if (conv->stride[0] == 2)
            set->filter_halved(conv->out[0], conv->out[2], conv->in[0], conv->in[2], conv->pad[0],
                               w, x, bias, f->clamp, y);
        else
            set->filter_same(conv->in[0], conv->in[2], conv->dilation[0], w, x, bias, f->clamp, y);
    }
}

void mpq_plane_filter_run(const struct mpq_filter *filter, void *workspace)
{
    struct job job = {filter, workspace};
    mpq_parallel_for(filter->conv->n * filter->conv->c, 1, run_planes, &job);
}
