#include "quantcore/ops/kernel/lane_filter.h"

#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/tile.h"

enum {
    MAX_TAPS = 49,
    BAND_PLACES = 768, /* of x that are transposed together: they and y's stay in L2 */
};

/* A block of channels, a vector of them, and a band of output rows are a unit: what it reads of x
 * is transposed to [row][column][channel], between rows of zeros where it reaches over the edge,
 * and y back. Columns near an edge leave out the taps that are beyond it. */
struct job {
    const struct mpq_filter *filter;
    const struct mpq_conv *conv;         /* filter->conv */
    int64_t taps, n_block, n_band, band; /* band: output rows of one, but for the last */
    int64_t in_rows;                     /* that a band reads */
    int n_part;
    struct mpq_tile_taps *part; /* [out[2]] */
    int *tap;                   /* [out[2], taps] */
    int64_t *offset;            /* [out[2], taps] */
    char *own;                  /* [threads][own_bytes] */
    size_t own_bytes;
};

struct worker {
    mpq_real *x, *y;    /* [in_rows, in[2], lanes], [band, out[2], lanes] */
    mpq_real *w, *bias; /* [taps, lanes], [lanes]                         */
};

static int64_t lanes_of(void)
{
    return mpq_tile_best()->lanes;
}

/* Output rows of a band: of equal bands of about BAND_PLACES, with a vector of places at least. */
static int64_t band_of(const struct mpq_conv *conv)
{
    int64_t rows = mpq_max(4, BAND_PLACES / (conv->stride[0] * conv->in[2]));
    int64_t least = mpq_ceil_div(lanes_of(), conv->out[2]);
    int64_t n_band = mpq_max(1, mpq_min(mpq_ceil_div(conv->out[0], rows), conv->out[0] / least));
    return mpq_ceil_div(conv->out[0], n_band);
}

bool mpq_is_lane_filter(const struct mpq_conv *conv)
{
    int64_t lanes = lanes_of(), band = band_of(conv), last = (conv->out[0] - 1) % band + 1;
    return (conv->stride[2] > 1 || 2 * conv->out[2] <= lanes) && conv->in[1] == 1 &&
           conv->out[1] == 1 && conv->kernel[1] == 1 && conv->pad[1] == 0 && conv->c >= lanes &&
           mpq_volume(conv->kernel) <= MAX_TAPS && last * conv->out[2] >= lanes;
}

static size_t worker_setup(const struct job *job, void *base, struct worker *out)
{
    size_t used = 0;
    int64_t lanes = lanes_of();
    out->x =
        mpq_scratch_take(base, &used, job->in_rows * job->conv->in[2] * lanes, sizeof(mpq_real));
    out->y = mpq_scratch_take(base, &used, job->band * job->conv->out[2] * lanes, sizeof(mpq_real));
    out->w = mpq_scratch_take(base, &used, job->taps * lanes, sizeof(mpq_real));
    out->bias = mpq_scratch_take(base, &used, lanes, sizeof(mpq_real));
    return used;
}

static size_t setup(const struct mpq_conv *conv, void *workspace, struct job *job)
{
    struct worker worker;
    size_t used = 0;
    job->conv = conv;
    job->taps = mpq_volume(conv->kernel);
    job->n_block = mpq_ceil_div(conv->c, lanes_of());
    job->band = band_of(conv);
    job->n_band = mpq_ceil_div(conv->out[0], job->band);
    job->in_rows =
        (job->band - 1) * conv->stride[0] + (conv->kernel[0] - 1) * conv->dilation[0] + 1;
    job->own_bytes = worker_setup(job, NULL, &worker);
    job->part = mpq_scratch_take(workspace, &used, conv->out[2], sizeof *job->part);
    job->tap = mpq_scratch_take(workspace, &used, conv->out[2] * job->taps, sizeof *job->tap);
    job->offset = mpq_scratch_take(workspace, &used, conv->out[2] * job->taps, sizeof *job->offset);
    job->own = mpq_scratch_take(workspace, &used, mpq_thread_count(), job->own_bytes);
    return used;
}

size_t mpq_lane_filter_bytes(const struct mpq_conv *conv)
{
    struct job job;
    return setup(conv, NULL, &job);
}

/* Neighbours among output columns that see the same columns of the filter. */
static void set_parts(struct job *job)
{
    const struct mpq_conv *conv = job->conv;
    int64_t lanes = lanes_of(), last_low = -1, last_high = -1, low, high;
    for (int64_t j = 0; j < conv->out[2]; j++) {
        int64_t first = j * conv->stride[2] - conv->pad[2];
        mpq_clip_range(conv->kernel[2], conv->dilation[2], first, conv->in[2], &low, &high);
        if (low == last_low && high == last_high) {
            job->part[job->n_part - 1].n_column++;
            continue;
        }
        int *tap = job->tap + j * job->taps;
        int64_t *offset = job->offset + j * job->taps, n = 0;
        for (int64_t t = 0; t < job->taps; t++) {
            int64_t row = t / conv->kernel[2] * conv->dilation[0], column = t % conv->kernel[2];
            if (column < low || column >= high)
                continue;
            tap[n] = (int)t;
            offset[n++] = (row * conv->in[2] + first + column * conv->dilation[2]) * lanes;
        }
        job->part[job->n_part++] = (struct mpq_tile_taps){j, 1, (int)n, tap, offset};
        last_low = low;
        last_high = high;
    }
}

static void take_weights(const struct job *job, int64_t c, int64_t n_c, struct worker *worker)
{
    int64_t lanes = lanes_of();
    for (int64_t lane = 0; lane < n_c; lane++) {
        const mpq_real *w = job->filter->w + (c + lane) * job->taps;
        for (int64_t t = 0; t < job->taps; t++)
            worker->w[t * lanes + lane] = w[job->filter->is_turned ? job->taps - 1 - t : t];
        worker->bias[lane] = job->filter->bias ? job->filter->bias[c + lane] : 0;
    }
}

/* Rows of x [first, first + n) of n_c channels, zeros where there are none. */
static void take_rows(const struct job *job, const mpq_real *x, int64_t n_c, int64_t first,
                      int64_t n, struct worker *worker)
{
    const struct mpq_conv *conv = job->conv;
    int64_t lanes = lanes_of(), row = conv->in[2] * lanes, low, high;
    mpq_clip_range(n, 1, first, conv->in[0], &low, &high);
    memset(worker->x, 0, (size_t)(low * row) * sizeof *x);
    if (high > low)
        mpq_tile_best()->transpose(n_c, (high - low) * conv->in[2], x + (first + low) * conv->in[2],
                                   mpq_volume(conv->in), worker->x + low * row, lanes);
    memset(worker->x + high * row, 0, (size_t)((n - high) * row) * sizeof *x);
}

/* n_c channels from c on, output rows from `begin` on. */
static void run_unit(const struct job *job, int64_t image, int64_t c, int64_t n_c, int64_t begin,
                     struct worker *worker)
{
    const struct mpq_conv *conv = job->conv;
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t lanes = set->lanes, rows = mpq_min(job->band, conv->out[0] - begin);
    int64_t plane = image * conv->c + c, area = mpq_volume(conv->out);
    take_rows(job, job->filter->x + plane * mpq_volume(conv->in), n_c,
              begin * conv->stride[0] - conv->pad[0],
              job->in_rows - (job->band - rows) * conv->stride[0], worker);
    for (const struct mpq_tile_taps *part = job->part; part < job->part + job->n_part; part++)
        set->filter_lanes(rows, part, worker->w, worker->x, conv->stride[0] * conv->in[2] * lanes,
                          conv->stride[2] * lanes, worker->bias, job->filter->clamp, worker->y,
                          conv->out[2] * lanes);
    set->transpose(rows * conv->out[2], n_c, worker->y, lanes,
                   job->filter->y + plane * area + begin * conv->out[2], area);
}

/* Units: [block][image][band]. */
static void run_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_conv *conv = job->conv;
    int64_t last = -1;
    struct worker worker;
    (void)worker_setup(job, job->own + (size_t)thread * job->own_bytes, &worker);
    for (int64_t i = begin; i < end; i++) {
        int64_t image = i / job->n_band % conv->n, block = i / job->n_band / conv->n;
        int64_t c = block * lanes_of(), n_c = mpq_min(lanes_of(), conv->c - c);
        if (block != last)
            take_weights(job, c, n_c, &worker);
        last = block;
        run_unit(job, image, c, n_c, i % job->n_band * job->band, &worker);
    }
}

void mpq_lane_filter_run(const struct mpq_filter *filter, void *workspace)
{
    struct job job = {.filter = filter};
    (void)setup(filter->conv, workspace, &job);
    set_parts(&job);
    mpq_parallel_for(job.n_block * filter->conv->n * job.n_band, 1, run_piece, &job);
}
