#include "quantcore/ops/kernel/pointwise.h"

#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/sweep.h"
#include "quantcore/ops/kernel/tile.h"

#define LD   MPQ_TILE_MAX_COLUMNS
#define LINE (64 / (int64_t)sizeof(mpq_real)) /* elements of a cache line */

enum {
    UNIT_PLACES = 768,
    K_BLOCK = 1536,         /* products to a sum at most: a panel of them stays in cache */
    PANEL_ROWS = 32,        /* rows from which on gathering columns that lie far apart pays */
    STRIP_ELEMENTS = 65536, /* of x that stay in cache while all rows pass over them */
    NEAR_ELEMENTS = 262144, /* of y that are in cache anyway */
    WEIGHTS_AHEAD = 2048,   /* that are fetched for the next rows: more would fill L1 */
};

/* A unit is a stretch of places of one image, or a few whole images: columns run over the places of
 * all of them. */
struct job {
    const struct mpq_pointwise *p;
    int64_t images, n_block;        /* images of a unit, but for the last; units along images */
    int64_t n_stretch;              /* units of an image */
    int64_t *offset, *panel_offset; /* [k], [K_BLOCK] */
    mpq_real *panel;                /* [threads][panel_elements] */
};

/* A tile's worth of columns, where its products read (x, or a panel) and where they are written. */
struct columns {
    int n, n_run;
    bool is_whole;                /* vectors of it are vectors of y, */
    int64_t at[MPQ_TILE_VECTORS]; /* at these places                 */
    const mpq_real *s;
    const int64_t *offset;
    struct mpq_tile_run run[LD]; /* `place` in y */
};

static bool is_all(const int64_t v[3], int64_t value)
{
    return v[0] == value && v[1] == value && v[2] == value;
}

bool mpq_is_pointwise(const struct mpq_conv *conv)
{
    return is_all(conv->kernel, 1) && is_all(conv->stride, 1) && is_all(conv->pad, 0) &&
           memcmp(conv->in, conv->out, sizeof conv->in) == 0;
}

/* Tiles of a strip: as many as stay in cache, at most those of a unit. */
static int64_t strip_tiles(int64_t k)
{
    int64_t n = STRIP_ELEMENTS / (mpq_min(k, K_BLOCK) * LD);
    return n < 1 ? 1 : mpq_min(n, UNIT_PLACES / LD);
}

static int64_t panel_elements(int64_t k)
{
    return strip_tiles(k) * mpq_min(k, K_BLOCK) * LD + MPQ_STAGE_SLACK;
}

static size_t setup(int64_t k, void *workspace, struct job *job)
{
    size_t used = 0;
    job->offset = mpq_scratch_take(workspace, &used, k, sizeof *job->offset);
    job->panel_offset = mpq_scratch_take(workspace, &used, K_BLOCK, sizeof *job->panel_offset);
    job->panel = mpq_scratch_take(workspace, &used, panel_elements(k) * mpq_thread_count(),
                                  sizeof(mpq_real));
    return used;
}

size_t mpq_pointwise_bytes(int64_t k)
{
    struct job job;
    return setup(k, NULL, &job);
}

/* Columns of x that lie before x_end into a panel, run by run: nothing there may be read. */
static void gather_tail(const struct columns *c, const mpq_real *x, const int64_t *offset,
                        int64_t n_k, mpq_real *panel)
{
    for (int64_t k = 0; k < n_k; k++, panel += LD) {
        for (const struct mpq_tile_run *run = c->run; run < c->run + c->n_run; run++)
            memcpy(panel + run->column, x + offset[k] + run->place, (size_t)run->count * sizeof *x);
        memset(panel + c->n, 0, (size_t)(LD - c->n) * sizeof *x);
    }
}

MPQ_INLINE void store_row(mpq_real *restrict y, const mpq_real *restrict x, int64_t n,
                          mpq_real bias, bool add, const struct mpq_clamp *clamp)
{
    if (add)
        for (int64_t j = 0; j < n; j++)
            y[j] += x[j];
    else
        for (int64_t j = 0; j < n; j++)
            y[j] = x[j] + bias;
    if (clamp)
        mpq_clamp_row(y, n, *clamp);
}

/* A tile's rows to y. */
MPQ_MULTIVERSION
static void store(const struct columns *c, int rows, const mpq_real *tile,
                  const struct mpq_tile_sink *sink)
{
    for (const struct mpq_tile_run *run = c->run; run < c->run + c->n_run; run++)
        for (int i = 0; i < rows; i++)
            store_row(sink->y + i * sink->ldy + run->place, tile + i * LD + run->column, run->count,
                      sink->bias ? sink->bias[i] : 0, sink->add, sink->clamp);
}

/* Rows and columns of x that come after a strip, asked for a few lines at a time while it is
 * computed: they lie in so many short rows that the processor does not foresee them. */
struct ahead {
    const mpq_real *row;
    int64_t rows, columns, at;
    int64_t portion; /* lines a time */
};

static struct ahead ahead_of(const mpq_real *x, int64_t rows, int64_t columns, int64_t n_time)
{
    struct ahead a = {.row = x, .rows = columns > 0 ? rows : 0, .columns = columns};
    a.portion = (a.rows * (columns / LINE + 1) + n_time - 1) / n_time;
    return a;
}

static void fetch_ahead(struct ahead *a, int64_t step)
{
    for (int64_t i = 0; i < a->portion && a->rows > 0; i++) {
        __builtin_prefetch(a->row + a->at, 0, 2);
        a->at += LINE;
        if (a->at >= a->columns + LINE) {
            a->at = 0;
            a->row += step;
            a->rows--;
        }
    }
}

/* A tile of y, which will be written: the old contents would be waited for. */
static void fetch_tile(const struct columns *c, const mpq_real *y, int64_t ldy, int rows)
{
    for (const struct mpq_tile_run *run = c->run; run < c->run + c->n_run; run++)
        for (int i = 0; i < rows; i++)
            for (int64_t j = 0; j < run->count; j += LINE)
                __builtin_prefetch(y + i * ldy + run->place + j, 1);
}

static void run_tile(const struct job *job, const struct columns *c, int rows, int64_t n_k,
                     const mpq_real *a, struct mpq_tile_sink sink)
{
    const struct mpq_pointwise *p = job->p;
    const struct mpq_tile_set *set = mpq_tile_best();
    mpq_tile_product *product = p->is_bytes ? mpq_tile_bytes() : set->product;
    int vectors = (c->n + set->lanes - 1) / set->lanes;
    _Alignas(64) mpq_real tile[MPQ_TILE_MAX_ROWS * LD];
    if (p->m >= p->k && p->n * p->group * p->m * p->places > NEAR_ELEMENTS)
        fetch_tile(c, sink.y, sink.ldy, rows);
    if (!c->is_whole) {
        struct mpq_tile_sink bare = mpq_tile_rows(set, tile, LD);
        product(rows, vectors, n_k, a, p->k, c->s, c->offset, &bare);
        store(c, rows, tile, &sink);
        return;
    }
    memcpy(sink.at, c->at, sizeof sink.at);
    product(rows, vectors, n_k, a, p->k, c->s, c->offset, &sink);
}

/* Products [k, k + n_k) of all rows with the columns of a strip: row by row, so that y is written
 * in few streams. */
static void run_strip(const struct job *job, const struct columns *strip, int n_columns, int64_t k,
                      int64_t n_k, int64_t group, struct ahead *ahead, mpq_real *y)
{
    const struct mpq_pointwise *p = job->p;
    int rows;
    for (int64_t row = 0; row < p->m; row += rows) {
        rows = mpq_tile_best()->max_rows;
        while (rows > p->m - row)
            rows /= 2;
        struct mpq_tile_sink sink = {.y = y + row * p->places,
                                     .ldy = p->places,
                                     .bias =
                                         p->bias && k == 0 ? p->bias + group * p->m + row : NULL,
                                     .add = p->add || k > 0,
                                     .clamp = k + n_k == p->k ? p->clamp : NULL};
        const mpq_real *a = p->a + (group * p->m + row) * p->k + k;
        int64_t left = rows * n_k <= WEIGHTS_AHEAD ? mpq_min(rows, p->m - row - rows) : 0;
        struct ahead weights = ahead_of(a + rows * p->k, left, n_k, n_columns);
        for (const struct columns *c = strip; c < strip + n_columns; c++) {
            fetch_ahead(ahead, p->places);
            fetch_ahead(&weights, p->k);
            run_tile(job, c, rows, n_k, a, sink);
        }
    }
}

/* The runs of the columns from `at` on, with places of x or y: images of it are `image` apart. */
static void set_runs(const struct job *job, int64_t at, int64_t image, struct columns *c)
{
    int64_t places = job->p->places, lanes = mpq_tile_best()->lanes;
    int64_t i = at < places ? 0 : at / places, place = at - i * places, count;
    c->is_whole = c->n % lanes == 0;
    c->n_run = 0;
    for (int column = 0; column < c->n; column += (int)count, i++, place = 0) {
        count = mpq_min(places - place, c->n - column);
        c->is_whole = c->is_whole && count % lanes == 0;
        struct mpq_tile_run *run = &c->run[c->n_run++];
        *run = (struct mpq_tile_run){
            .place = i * image + place, .column = column, .count = (int)count};
        for (int j = 0; c->is_whole && j < count; j += (int)lanes)
            c->at[(column + j) / lanes] = run->place + j;
    }
}

/* The next columns of [at, end) of a unit, for products [k, k + n_k) of x; a panel is filled where
 * they lie far apart, in several images or at the end of x, where there are `beyond` more elements.
 */
static void take_columns(const struct job *job, const mpq_real *x, int64_t beyond, int64_t at,
                         int64_t end, int64_t n_k, mpq_real *panel, struct columns *out)
{
    const struct mpq_pointwise *p = job->p;
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t left = (end - at + set->lanes - 1) / set->lanes;
    int64_t wide = mpq_sweep_vectors(left) * set->lanes;
    out->n = (int)mpq_min(wide, end - at);
    set_runs(job, at, p->group * p->k * p->places, out);
    out->s = x + out->run[0].place;
    out->offset = job->offset;
    bool at_end = at + out->n == end && beyond < set->lanes;
    if (out->n < wide || out->n_run > 1 || p->m >= PANEL_ROWS) {
        if (out->is_whole || !at_end)
            set->gather(n_k, x, job->offset, out->run, out->n_run, panel, LD);
        else
            gather_tail(out, x, job->offset, n_k, panel);
        out->s = panel;
        out->offset = job->panel_offset;
    }
    set_runs(job, at, p->group * p->m * p->places, out);
}

struct unit {
    int64_t group, image, begin, end; /* columns, from the image's first on */
};

static void run_unit(const struct job *job, const struct unit *u, mpq_real *panel)
{
    const struct mpq_pointwise *p = job->p;
    int64_t first = (u->image * p->group + u->group) * p->places;
    const mpq_real *x = p->x + first * p->k;
    /* Elements of x behind the last row of the last column. */
    int64_t last = (u->end - 1) / p->places;
    int64_t planes = (p->n - u->image - last) * p->group - u->group;
    int64_t beyond = (planes - 1) * p->k * p->places + (last + 1) * p->places - u->end;
    int64_t n_block = (p->m + mpq_tile_best()->max_rows - 1) / mpq_tile_best()->max_rows;
    struct columns strip[UNIT_PLACES / LD];
    for (int64_t at = u->begin, next = at; at < u->end; at = next) {
        for (int64_t k = 0, n_k; k < p->k; k += n_k) {
            int n = 0;
            n_k = mpq_min(K_BLOCK, p->k - k);
            for (next = at; n < strip_tiles(p->k) && next < u->end; n++) {
                take_columns(job, x + k * p->places, beyond + (p->k - k - n_k) * p->places, next,
                             u->end, n_k, panel + n * n_k * LD, &strip[n]);
                next += strip[n].n;
            }
            /* The next rows of these columns, or the first of the next. */
            int64_t row = k + n_k < p->k ? k + n_k : 0, from = row > 0 ? at : next;
            struct ahead ahead = ahead_of(x + row * p->places + from, mpq_min(K_BLOCK, p->k - row),
                                          mpq_min(p->places - from, next - at), n * n_block);
            run_strip(job, strip, n, k, n_k, u->group, &ahead, p->y + first * p->m);
        }
    }
}

static void run_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pointwise *p = job->p;
    mpq_real *panel = job->panel + thread * panel_elements(p->k);
    for (int64_t i = begin; i < end; i++) {
        int64_t stretch = i % job->n_stretch, rest = i / job->n_stretch;
        struct unit u = {.group = rest % p->group,
                         .image = rest / p->group * job->images,
                         .begin = stretch * UNIT_PLACES};
        u.end = mpq_min(u.begin + UNIT_PLACES, mpq_min(job->images, p->n - u.image) * p->places);
        run_unit(job, &u, panel);
    }
}

/* Whole images while they fit, but units for every thread. */
static int64_t images_of(const struct mpq_pointwise *p)
{
    int64_t images = mpq_min(UNIT_PLACES / p->places, p->n * p->group / mpq_thread_count());
    images = images < 1 ? 1 : mpq_min(images, p->n);
    return mpq_ceil_div(p->n, mpq_ceil_div(p->n, images));
}

void mpq_pointwise_run(const struct mpq_pointwise *p, void *workspace)
{
    struct job job = {.p = p, .images = images_of(p)};
    job.n_block = mpq_ceil_div(p->n, job.images);
    job.n_stretch = mpq_ceil_div(p->places, UNIT_PLACES);
    (void)setup(p->k, workspace, &job);
    for (int64_t k = 0; k < p->k; k++)
        job.offset[k] = k * p->places;
    mpq_sweep_panel_offsets(mpq_min(p->k, K_BLOCK), job.panel_offset);
    mpq_parallel_for(job.n_block * p->group * job.n_stretch, 1, run_piece, &job);
}
