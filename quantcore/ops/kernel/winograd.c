#include "quantcore/ops/kernel/winograd.h"

#include <math.h>
#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/sweep.h"

#define LD       MPQ_TILE_MAX_COLUMNS
#define SIDE     4 /* outputs of a tile along an axis */
#define TAPS     9
#define LINE     (64 / (int64_t)sizeof(mpq_real)) /* elements of one of the cache */
#define PRODUCTS 36
#define APART                                                                                      \
    16 /* elements between the arrays of two products: else all would share lines of cache */

enum {
    BLOCK_ROWS = 32,    /* whose sums stay in cache while the transformed inputs pass by once */
    MAX_CHANNELS = 256, /* transformed inputs of a tile's columns are to stay in cache */
    MAX_COPY = SIDE * LD
};

/* A unit of work: some images, or a band of rows of tiles of one. Its padded input is dealt out to
 * 36 planes, one for each element of the 6 x 6 that a tile reads, in which tiles lie side by side:
 *   plane[6 * i + j] of a channel [image][row of tiles][tile] */
struct job {
    const struct mpq_conv *conv;
    bool is_gradient;
    const mpq_real *x, *w, *bias;
    const struct mpq_clamp *clamp;
    bool add;
    mpq_real *y;
    int64_t tiles[2];         /* rows and columns of an image */
    int64_t reach;            /* rows of a tile that are read */
    int64_t images, band;     /* of a unit                    */
    int64_t n_block, n_band;  /* units                        */
    int64_t plane, channel;   /* elements                     */
    int64_t ldu;              /* channels, rounded up to vectors */
    int64_t offset[PRODUCTS]; /* in a channel                 */
    int64_t *column;          /* [c] of a channel in v        */
    mpq_real *u;              /* [PRODUCTS][m][ldu]           */
    mpq_real *own;            /* [threads][own_elements] staged, v, sums */
    int64_t staged_elements, own_elements;
};

struct unit {
    int64_t image, n_image, row, n_row;
};

/* Cycles of a vector of tiles, roughly: 36 products, transforms of inputs and outputs; and of the
 * weights. Against 9 products for each output. */
bool mpq_winograd_pays(const struct mpq_conv *conv)
{
    const double input = 200, output = 300, weights = 15, lanes = mpq_tile_best()->lanes;
    double c = (double)conv->c, m = (double)conv->m, n = (double)conv->n;
    if (conv->group != 1 || conv->out[1] != 1 || conv->in[1] != 1 || conv->c > MAX_CHANNELS)
        return false;
    for (int i = 0; i < 3; i++)
        if (conv->kernel[i] != (i == 1 ? 1 : 3) || conv->stride[i] != 1 || conv->dilation[i] != 1 ||
            conv->pad[i] < 0 || conv->pad[i] > 2)
            return false;
    int64_t tiles = mpq_ceil_div(conv->out[0], SIDE) * mpq_ceil_div(conv->out[2], SIDE);
    double vectors = n * (double)tiles / lanes;
    double plain = (double)TAPS * c * m * n * (double)mpq_volume(conv->out) / lanes;
    double cost = vectors * (PRODUCTS * c * m + input * c + output * m) + weights * c * m;
    return vectors >= 1 && cost < 0.8 * plain;
}

bool mpq_winograd_backward(const struct mpq_conv *conv, struct mpq_conv *out)
{
    *out = *conv;
    out->c = conv->m;
    out->m = conv->c;
    for (int i = 0; i < 3; i++) {
        out->in[i] = conv->out[i];
        out->out[i] = conv->in[i];
        out->pad[i] = conv->kernel[i] - 1 - conv->pad[i];
    }
    return mpq_winograd_pays(out);
}

/* Roughly what the columns of tiles of a unit cost: those of few vectors are slower. */
static double columns_cost(int64_t places)
{
    static const double cost[MPQ_TILE_VECTORS + 1] = {0, 1.25, 2.05, 3};
    double sum = 0;
    for (int64_t left = mpq_ceil_div(places, mpq_tile_best()->lanes); left > 0;) {
        int vectors = mpq_sweep_vectors(left);
        sum += cost[vectors];
        left -= vectors;
    }
    return sum;
}

/* What `count` rows or images of so many places cost in units of `size`. */
static double units_cost(int64_t count, int64_t size, int64_t places)
{
    int64_t whole = (count - 1) / size;
    return (double)whole * columns_cost(size * places) +
           columns_cost((count - whole * size) * places);
}

/* Some rows or some images to a unit, whichever leaves the fewest tiles of vectors empty while the
 * planes, of so many channels, fill a share of the cache. */
static void cut(struct job *job, int64_t channels)
{
    enum { STAGE_ELEMENTS = 256 * 1024 / sizeof(mpq_real) };
    const struct mpq_conv *conv = job->conv;
    int64_t threads = mpq_thread_count(), all = job->tiles[0], width = job->tiles[1];
    int64_t most =
        mpq_max(STAGE_ELEMENTS / (channels * PRODUCTS), MPQ_TILE_VECTORS * mpq_tile_best()->lanes);
    int64_t most_images = mpq_ceil_div(conv->n, threads);
    int64_t most_rows = mpq_min(all, mpq_ceil_div(all * conv->n, threads));
    double least = INFINITY;
    for (int64_t rows = 1; rows <= most_rows && (rows == 1 || rows * width <= most); rows++) {
        double cost = (double)conv->n * units_cost(all, rows, width);
        if (cost < least) {
            least = cost;
            job->band = rows;
            job->images = 1;
        }
    }
    for (int64_t images = 2; images <= most_images && images * all * width <= most; images++) {
        double cost = units_cost(conv->n, images, all * width);
        if (cost < least) {
            least = cost;
            job->band = all;
            job->images = images;
        }
    }
    job->n_band = mpq_ceil_div(all, job->band);
    job->n_block = mpq_ceil_div(conv->n, job->images);
}

/* The planes of a unit, once that is cut. */
static void lay_out(struct job *job)
{
    const struct mpq_conv *conv = job->conv;
    job->plane = job->images * job->band * job->tiles[1] + MPQ_TILE_MAX_COLUMNS;
    job->channel = PRODUCTS * job->plane + APART;
    for (int k = 0; k < PRODUCTS; k++)
        job->offset[k] = APART + k * job->plane; /* before the first an element is put back */
    job->staged_elements = mpq_ceil_div(conv->c * job->channel + MPQ_STAGE_SLACK, 16) * 16;
}

static void find_tiles(const struct mpq_conv *conv, int64_t reach, struct job *job)
{
    job->conv = conv;
    job->reach = reach;
    for (int i = 0; i < 2; i++)
        job->tiles[i] = mpq_ceil_div(conv->out[2 * i], SIDE);
}

static size_t setup(const struct mpq_conv *conv, void *workspace, struct job *job)
{
    size_t used = 0;
    int64_t lanes = mpq_tile_best()->lanes;
    find_tiles(conv, SIDE + 2, job);
    cut(job, conv->c);
    lay_out(job);
    job->ldu = mpq_ceil_div(conv->c, lanes) * lanes;
    job->own_elements = job->staged_elements +
                        PRODUCTS * ((conv->c + BLOCK_ROWS) * LD + 2 * APART) + MPQ_STAGE_SLACK;
    job->column = mpq_scratch_take(workspace, &used, conv->c, sizeof *job->column);
    job->u = mpq_scratch_take(workspace, &used, PRODUCTS * (conv->m * job->ldu + APART),
                              sizeof(mpq_real));
    job->own = mpq_scratch_take(workspace, &used, mpq_thread_count() * job->own_elements,
                                sizeof(mpq_real));
    return used;
}

size_t mpq_winograd_bytes(const struct mpq_conv *conv)
{
    struct job job;
    return setup(conv, NULL, &job);
}

/* The weights of some outputs; those of a gradient are turned around, tap 8 first, and their
 * channels lie m apart. */
static void weights_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t c = job->conv->c, m = job->conv->m;
    mpq_real turned[MAX_CHANNELS * TAPS];
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        for (int64_t j = 0; job->is_gradient && j < c; j++)
            for (int64_t k = 0; k < TAPS; k++)
                turned[j * TAPS + k] = job->w[(j * m + i) * TAPS + TAPS - 1 - k];
        const mpq_real *w = job->is_gradient ? turned : job->w + i * c * TAPS;
        set->winograd_weights(c, w, job->is_gradient ? w + c * TAPS : job->w + m * c * TAPS,
                              job->u + i * job->ldu, m * job->ldu + APART);
    }
}

/* Zeros where tiles reach beyond the rows of x: another unit had rows there. */
static void clear_beyond(const struct job *job, int64_t start, int64_t n_row, mpq_real *planes)
{
    int64_t columns = job->tiles[1];
    for (int64_t tile = 0; tile < n_row; tile++)
        for (int64_t i = 0; i < job->reach; i++) {
            int64_t row = start + tile * SIDE + i;
            for (int64_t j = 0; j < 6 && (row < 0 || row >= job->conv->in[0]); j++)
                memset(planes + job->offset[6 * i + j] + tile * columns, 0,
                       (size_t)columns * sizeof *planes);
        }
}

/* The rows of x that the unit's tiles read, of all its images and channels. A row is element i of
 * one row of tiles, and element i + 4 of the row before, if that reaches so far. What rows never
 * write is zero from the beginning. */
static void stage(const struct job *job, const struct unit *unit, mpq_real *staged)
{
    const struct mpq_conv *conv = job->conv;
    int64_t area = mpq_volume(conv->in), width = job->tiles[1] * SIDE + 2 - conv->pad[2];
    const mpq_real *end = job->x + conv->n * conv->c * area;
    int64_t start = unit->row * SIDE - conv->pad[0], first = start > 0 ? start : 0;
    int64_t last = start + unit->n_row * SIDE + job->reach - SIDE;
    last = last < conv->in[0] ? last : conv->in[0];
    width = width < conv->in[2] ? width : conv->in[2]; /* negative padding behind */
    for (int64_t c = 0; c < conv->c; c++)
        for (int64_t image = 0; image < unit->n_image; image++) {
            const mpq_real *x = job->x + ((unit->image + image) * conv->c + c) * area;
            mpq_real *planes = staged + c * job->channel + image * job->band * job->tiles[1];
            if (job->n_band > 1)
                clear_beyond(job, start, unit->n_row, planes);
            for (int64_t row = first; row < last; row++) {
                mpq_real *to[2] = {NULL, NULL};
                int n_to = 0;
                for (int64_t i = (row - start) % SIDE; i < job->reach; i += SIDE) {
                    int64_t tile = (row - start - i) / SIDE;
                    if (row - start >= i && tile < unit->n_row)
                        to[n_to++] = planes + job->offset[6 * i] + tile * job->tiles[1];
                }
                for (int64_t j = 0; j < width; j += LINE)
                    __builtin_prefetch(x + area + row * conv->in[2] + j); /* the next channel's */
                mpq_tile_best()->winograd_deal(conv->pad[2], (int)job->reach, width,
                                               x + row * conv->in[2], end, to, job->tiles[1],
                                               job->plane);
            }
        }
}

/* Where the outputs of places [begin, begin + n) go, from the unit's first image and channel on:
 * rows of tiles, four lines each, cut at the edges of y. */
static int list_copies(const struct job *job, const struct unit *unit, int64_t begin, int64_t n,
                       struct mpq_tile_copy *copy)
{
    const int64_t *out = job->conv->out, columns = job->tiles[1];
    int n_copy = 0;
    for (int64_t at = begin, next; at < begin + n; at = next) {
        int64_t line = at / columns, tile = at % columns;
        int64_t image = line / job->band, row = line % job->band;
        next = (line + 1) * columns < begin + n ? (line + 1) * columns : begin + n;
        int64_t y = (unit->row + row) * SIDE, x = tile * SIDE, width = (next - at) * SIDE;
        width = width < out[2] - x ? width : out[2] - x;
        for (int i = 0; row < unit->n_row && i < SIDE && y + i < out[0]; i++)
            copy[n_copy++] = (struct mpq_tile_copy){.to = image * job->conv->m * mpq_volume(out) +
                                                          (y + i) * out[2] + x,
                                                    .line = i,
                                                    .from = (int)(SIDE * (at - begin)),
                                                    .count = (int)width};
    }
    return n_copy;
}

/* The sums of product f for rows [row, row + n_row). */
static void multiply(const struct job *job, int vectors, int64_t row, int n_row, const mpq_real *v,
                     int64_t f, mpq_real *sum)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    const mpq_real *u = job->u + f * (job->conv->m * job->ldu + APART) + row * job->ldu;
    int rows;
    for (int i = 0; i < n_row; i += rows) {
        rows = set->max_rows;
        while (rows > n_row - i)
            rows /= 2;
        struct mpq_tile_sink sink = mpq_tile_rows(set, sum + i * LD, LD);
        set->product(rows, vectors, job->conv->c, u + i * job->ldu, job->ldu, v, job->column,
                     &sink);
    }
}

/* All channels of up to LD tiles from place `begin` on. */
static void run_columns(const struct job *job, int64_t begin, int vectors,
                        const struct mpq_tile_copy *copy, int n_copy, mpq_real *own, mpq_real *y)
{
    const struct mpq_conv *conv = job->conv;
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t area = mpq_volume(conv->out);
    int64_t ldv = conv->c * LD + APART, ld_sum = BLOCK_ROWS * LD + APART;
    mpq_real *v = own + job->staged_elements, *sum = v + PRODUCTS * ldv;
    int rows;
    for (int64_t c = 0; c < conv->c; c++)
        set->winograd_input(vectors, own + c * job->channel + begin, job->offset, v + c * LD, ldv);
    for (int64_t row = 0; row < conv->m; row += rows) {
        rows = (int)mpq_min(BLOCK_ROWS, conv->m - row);
        for (int64_t f = 0; f < PRODUCTS; f++)
            multiply(job, vectors, row, rows, v + f * ldv, f, sum + f * ld_sum);
        set->winograd_output(rows, vectors, sum, ld_sum, job->bias ? job->bias + row : NULL,
                             job->clamp, job->add, copy, n_copy, y + row * area, area);
    }
}

static struct unit unit_at(const struct job *job, int64_t i)
{
    struct unit unit = {.image = i / job->n_band * job->images, .row = i % job->n_band * job->band};
    int64_t n = job->conv->n - unit.image, n_row = job->tiles[0] - unit.row;
    unit.n_image = n < job->images ? n : job->images;
    unit.n_row = n_row < job->band ? n_row : job->band;
    return unit;
}

static void run_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_conv *conv = job->conv;
    mpq_real *own = job->own + thread * job->own_elements;
    struct mpq_tile_copy copy[MAX_COPY];
    int lanes = mpq_tile_best()->lanes;
    memset(own, 0, (size_t)job->staged_elements * sizeof *own);
    for (int64_t i = begin; i < end; i++) {
        struct unit unit = unit_at(job, i);
        stage(job, &unit, own);
        int64_t places = ((unit.n_image - 1) * job->band + unit.n_row) * job->tiles[1];
        for (int64_t at = 0, n; at < places; at += n) {
            int vectors = mpq_sweep_vectors(mpq_ceil_div(places - at, lanes));
            n = vectors * lanes < places - at ? vectors * lanes : places - at;
            int n_copy = list_copies(job, &unit, at, n, copy);
            if (n_copy > 0)
                run_columns(job, at, vectors, copy, n_copy, own,
                            job->y + unit.image * conv->m * mpq_volume(conv->out));
        }
    }
}

void mpq_winograd_run(const struct mpq_conv *conv, bool is_gradient, const mpq_real *x,
                      const mpq_real *w, const mpq_real *bias, const struct mpq_clamp *clamp,
                      bool add, mpq_real *y, void *workspace)
{
    struct job job = {.is_gradient = is_gradient,
                      .x = x,
                      .w = w,
                      .bias = bias,
                      .clamp = clamp,
                      .add = add,
                      .y = y};
    (void)setup(conv, workspace, &job);
    mpq_sweep_panel_offsets(conv->c, job.column);
    mpq_parallel_for(conv->m, 1, weights_piece, &job);
    mpq_parallel_for(job.n_block * job.n_band, 1, run_piece, &job);
}

/* ---- the gradient for w ---- */

/* x and dy are dealt out alike; the 36 numbers of a tile's inputs and of its gradients are
 * multiplied, summed over all tiles, and what weights were made of is made back. */
struct dw_job {
    struct job x, dy;
    struct mpq_conv dy_conv;
    int64_t ldc;   /* channels of x, rounded up to vectors      */
    int64_t *row;  /* [LD] of a tile among transposed inputs    */
    bool *used;    /* [threads] whose sums are to be added      */
    mpq_real *sum; /* [threads][PRODUCTS] of [m][ldc], APART    */
    mpq_real
        *own; /* [threads][own_elements] staged x and dy, inputs, gradients, inputs transposed */
    int64_t sum_elements, own_elements;
    mpq_real *dw;
};

/* As mpq_winograd_pays(); inputs are dealt out once more, and transposed. */
bool mpq_winograd_dw_pays(const struct mpq_conv *conv)
{
    const double input = 1200, output = 250, lanes = mpq_tile_best()->lanes;
    double c = (double)conv->c, m = (double)conv->m, n = (double)conv->n;
    int64_t tiles = mpq_ceil_div(conv->out[0], SIDE) * mpq_ceil_div(conv->out[2], SIDE);
    double vectors = n * (double)tiles / lanes;
    double plain = (double)TAPS * c * m * n * (double)mpq_volume(conv->out) / lanes;
    return mpq_winograd_pays(conv) && conv->m <= MAX_CHANNELS &&
           vectors * (PRODUCTS * c * m + input * c + output * m) < 0.8 * plain;
}

static int64_t dw_product(const struct dw_job *job) /* elements of the sums of one product */
{
    return job->x.conv->m * job->ldc + APART;
}

static size_t dw_setup(const struct mpq_conv *conv, void *workspace, struct dw_job *job)
{
    size_t used = 0;
    int64_t threads = mpq_thread_count(), lanes = mpq_tile_best()->lanes;
    job->dy_conv = *conv;
    job->dy_conv.c = conv->m;
    for (int i = 0; i < 3; i++) {
        job->dy_conv.in[i] = conv->out[i];
        job->dy_conv.pad[i] = 0;
    }
    find_tiles(conv, SIDE + 2, &job->x);
    cut(&job->x, conv->c + conv->m);
    job->dy = job->x;
    find_tiles(&job->dy_conv, SIDE, &job->dy);
    lay_out(&job->x);
    lay_out(&job->dy);
    job->ldc = mpq_ceil_div(conv->c, lanes) * lanes;
    job->sum_elements = PRODUCTS * dw_product(job);
    job->own_elements = job->x.staged_elements + job->dy.staged_elements +
                        PRODUCTS * ((conv->c + conv->m) * LD + 2 * APART) + LD * job->ldc +
                        MPQ_STAGE_SLACK;
    job->own_elements = mpq_ceil_div(job->own_elements, 16) * 16;
    job->row = mpq_scratch_take(workspace, &used, LD, sizeof *job->row);
    job->used = mpq_scratch_take(workspace, &used, threads, sizeof *job->used);
    job->sum = mpq_scratch_take(workspace, &used, threads * job->sum_elements, sizeof(mpq_real));
    job->own = mpq_scratch_take(workspace, &used, threads * job->own_elements, sizeof(mpq_real));
    return used;
}

size_t mpq_winograd_dw_bytes(const struct mpq_conv *conv)
{
    struct dw_job job;
    return dw_setup(conv, NULL, &job);
}

/* The products of n <= LD tiles from place `begin` on, added to the sums. */
static void add_tiles(const struct dw_job *job, int64_t begin, int64_t n, mpq_real *own,
                      mpq_real *sum)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t c = job->x.conv->c, m = job->x.conv->m;
    int64_t ldv = c * LD + APART, ldd = m * LD + APART;
    const mpq_real *dy = own + job->x.staged_elements;
    mpq_real *v = own + job->x.staged_elements + job->dy.staged_elements;
    mpq_real *d = v + PRODUCTS * ldv, *t = d + PRODUCTS * ldd;
    int vectors = (int)mpq_ceil_div(n, set->lanes), rows, columns;
    for (int64_t i = 0; i < c; i++)
        set->winograd_input(vectors, own + i * job->x.channel + begin, job->x.offset, v + i * LD,
                            ldv);
    for (int64_t i = 0; i < m; i++)
        set->winograd_spread(vectors, dy + i * job->dy.channel + begin, job->dy.offset, d + i * LD,
                             ldd);
    for (int64_t f = 0; f < PRODUCTS; f++) {
        set->transpose(c, n, v + f * ldv, LD, t, job->ldc);
        for (int64_t row = 0; row < m; row += rows) {
            rows = set->max_rows;
            while (rows > m - row)
                rows /= 2;
            for (int64_t at = 0; at < job->ldc; at += columns * set->lanes) {
                columns = mpq_sweep_vectors((job->ldc - at) / set->lanes);
                struct mpq_tile_sink sink =
                    mpq_tile_rows(set, sum + f * dw_product(job) + row * job->ldc + at, job->ldc);
                sink.add = true;
                set->product(rows, columns, n, d + f * ldd + row * LD, LD, t + at, job->row, &sink);
            }
        }
    }
}

static void dw_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct dw_job *job = arg;
    mpq_real *own = job->own + thread * job->own_elements;
    mpq_real *sum = job->sum + thread * job->sum_elements;
    memset(sum, 0, (size_t)job->sum_elements * sizeof *sum);
    job->used[thread] = true;
    memset(own, 0, (size_t)(job->x.staged_elements + job->dy.staged_elements) * sizeof *own);
    for (int64_t i = begin; i < end; i++) {
        struct unit unit = unit_at(&job->x, i);
        stage(&job->x, &unit, own);
        stage(&job->dy, &unit, own + job->x.staged_elements);
        int64_t places = ((unit.n_image - 1) * job->x.band + unit.n_row) * job->x.tiles[1];
        int64_t n = mpq_ceil_div(places, mpq_ceil_div(places, LD)); /* as many each time */
        for (int64_t at = 0; at < places; at += n)
            add_tiles(job, at, mpq_min(n, places - at), own, sum);
    }
}

/* Outputs [begin, end): the threads' sums in their order. */
static void dw_collect_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct dw_job *job = arg;
    int64_t c = job->x.conv->c;
    (void)thread;
    for (int64_t m = begin; m < end; m++)
        for (int t = 0; t < mpq_thread_count(); t++)
            if (job->used[t])
                mpq_tile_best()->winograd_collect(c,
                                                  job->sum + t * job->sum_elements + m * job->ldc,
                                                  dw_product(job), job->dw + m * c * TAPS);
}

void mpq_winograd_dw(const struct mpq_conv *conv, const mpq_real *x, const mpq_real *dy,
                     mpq_real *dw, void *workspace)
{
    struct dw_job job = {.dw = dw};
    (void)dw_setup(conv, workspace, &job);
    job.x.x = x;
    job.dy.x = dy;
    for (int64_t i = 0; i < LD; i++)
        job.row[i] = i * job.ldc;
    memset(job.used, 0, (size_t)mpq_thread_count() * sizeof *job.used);
    mpq_parallel_for(job.x.n_block * job.x.n_band, 1, dw_piece, &job);
    mpq_parallel_for(conv->m, 1, dw_collect_piece, &job);
}
