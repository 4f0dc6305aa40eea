#include "quantcore/ops/kernel/pointwise.h"

#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/sweep.h"
#include "quantcore/ops/kernel/tile.h"

#define LD   MPQ_TILE_MAX_COLUMNS
#define LINE (64 / (int64_t)sizeof(mpq_real)) /* elements of a cache line */

enum {
    MIN_PLACES = 192, /* below, images are better staged together: tiles are filled */
    UNIT_PLACES = 768,
    K_BLOCK = 1536,         /* products to a sum at most: a panel of them stays in cache */
    PANEL_ROWS = 32,        /* rows from which on gathering columns that lie far apart pays */
    STRIP_ELEMENTS = 65536, /* of x that stay in cache while all rows pass over them */
};

struct job {
    const struct mpq_pointwise *p;
    int64_t n_unit;                 /* of an image and group */
    int64_t *offset, *panel_offset; /* [k], [K_BLOCK] */
    mpq_real *panel;                /* [threads][panel_elements] */
};

/* A tile's worth of columns and where its products read: x, or a panel. */
struct columns {
    int64_t begin, n;
    const mpq_real *s;
    const int64_t *offset;
};

static bool is_all(const int64_t v[3], int64_t value)
{
    return v[0] == value && v[1] == value && v[2] == value;
}

bool mpq_is_pointwise(const struct mpq_conv *conv)
{
    return is_all(conv->kernel, 1) && is_all(conv->stride, 1) && is_all(conv->pad, 0) &&
           memcmp(conv->in, conv->out, sizeof conv->in) == 0 && mpq_volume(conv->in) >= MIN_PLACES;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Tiles of a strip: as many as stay in cache, at most those of a unit. */
static int64_t strip_tiles(int64_t k)
{
    int64_t n = STRIP_ELEMENTS / (min64(k, K_BLOCK) * LD);
    return n < 1 ? 1 : min64(n, UNIT_PLACES / LD);
}

static int64_t panel_elements(int64_t k)
{
    return strip_tiles(k) * min64(k, K_BLOCK) * LD + MPQ_STAGE_SLACK;
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

/* The last columns of an image: nothing behind them may be read. */
static void gather_tail(const mpq_real *x, int64_t ldx, int64_t n_k, int64_t n, mpq_real *panel)
{
    for (int64_t k = 0; k < n_k; k++) {
        memcpy(panel + k * LD, x + k * ldx, (size_t)n * sizeof *x);
        memset(panel + k * LD + n, 0, (size_t)(LD - n) * sizeof *x);
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

MPQ_MULTIVERSION
static void store(int rows, int64_t n, const mpq_real *tile, const mpq_real *bias, bool add,
                  const struct mpq_clamp *clamp, mpq_real *y, int64_t ldy)
{
    for (int i = 0; i < rows; i++, tile += LD, y += ldy) {
        mpq_real b = bias ? bias[i] : 0;
        if (n == LD) /* a constant length needs no loop ends */
            store_row(y, tile, LD, b, add, clamp);
        else
            store_row(y, tile, n, b, add, clamp);
    }
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
static void fetch_tile(const mpq_real *y, int64_t ldy, int rows, int64_t n)
{
    for (int i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j += LINE)
            __builtin_prefetch(y + i * ldy + j, 1);
}

/* Products [k, k + n_k) of all rows with the columns of a strip: row by row, so that y is written
 * in few streams. */
static void run_strip(const struct job *job, const struct columns *strip, int n_columns, int64_t k,
                      int64_t n_k, int64_t group, struct ahead *ahead, mpq_real *y)
{
    const struct mpq_pointwise *p = job->p;
    const struct mpq_tile_set *set = mpq_tile_best();
    const struct mpq_clamp *clamp = k + n_k == p->k ? p->clamp : NULL;
    _Alignas(64) mpq_real tile[MPQ_TILE_MAX_ROWS * LD];
    int rows;
    for (int64_t row = 0; row < p->m; row += rows) {
        const mpq_real *bias = p->bias && k == 0 ? p->bias + group * p->m + row : NULL;
        rows = set->max_rows;
        while (rows > p->m - row)
            rows /= 2;
        for (const struct columns *c = strip; c < strip + n_columns; c++) {
            int vectors = (int)((c->n + set->lanes - 1) / set->lanes);
            mpq_real *to = y + row * p->places + c->begin;
            fetch_ahead(ahead, p->places);
            if (p->m >= p->k)
                fetch_tile(to, p->places, rows, c->n);
            set->product(rows, vectors, n_k, p->a + (group * p->m + row) * p->k + k, p->k, c->s,
                         c->offset, tile, LD);
            store(rows, c->n, tile, bias, p->add || k > 0, clamp, to, p->places);
        }
    }
}

/* The next columns of [at, end), for products [k, k + n_k); a panel is filled where they lie far
 * apart or at the end of x. */
static struct columns take_columns(const struct job *job, const mpq_real *x, int64_t at,
                                   int64_t end, int64_t n_k, mpq_real *panel)
{
    const struct mpq_pointwise *p = job->p;
    const struct mpq_tile_set *set = mpq_tile_best();
    int64_t left = (end - at + set->lanes - 1) / set->lanes;
    int64_t wide = mpq_sweep_vectors(left) * set->lanes;
    struct columns c = {
        .begin = at, .n = min64(wide, end - at), .s = x + at, .offset = job->offset};
    if (c.n < wide)
        gather_tail(x + at, p->places, n_k, c.n, panel);
    else if (p->m >= PANEL_ROWS)
        set->gather(n_k, x + at, job->offset, &(struct mpq_tile_run){.count = (int)c.n}, 1, panel,
                    LD);
    if (c.n < wide || p->m >= PANEL_ROWS) {
        c.s = panel;
        c.offset = job->panel_offset;
    }
    return c;
}

static void run_unit(const struct job *job, int64_t image, int64_t group, int64_t begin,
                     int64_t end, mpq_real *panel)
{
    const struct mpq_pointwise *p = job->p;
    const mpq_real *x = p->x + (image * p->group + group) * p->k * p->places;
    mpq_real *y = p->y + (image * p->group + group) * p->m * p->places;
    int64_t n_block = (p->m + mpq_tile_best()->max_rows - 1) / mpq_tile_best()->max_rows;
    struct columns strip[UNIT_PLACES / LD];
    for (int64_t at = begin, next = begin; at < end; at = next) {
        for (int64_t k = 0, n_k; k < p->k; k += n_k) {
            int n = 0;
            n_k = min64(K_BLOCK, p->k - k);
            for (next = at; n < strip_tiles(p->k) && next < end; n++) {
                strip[n] =
                    take_columns(job, x + k * p->places, next, end, n_k, panel + n * n_k * LD);
                next += strip[n].n;
            }
            /* The next rows of these columns, or the first of the next. */
            int64_t row = k + n_k < p->k ? k + n_k : 0, first = row > 0 ? at : next;
            struct ahead ahead = ahead_of(x + row * p->places + first, min64(K_BLOCK, p->k - row),
                                          min64(p->places - first, next - at), n * n_block);
            run_strip(job, strip, n, k, n_k, group, &ahead, y);
        }
    }
}

static void run_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_pointwise *p = job->p;
    mpq_real *panel = job->panel + thread * panel_elements(p->k);
    for (int64_t i = begin; i < end; i++) {
        int64_t unit = i % job->n_unit, group = i / job->n_unit % p->group;
        int64_t first = unit * UNIT_PLACES;
        run_unit(job, i / job->n_unit / p->group, group, first,
                 min64(first + UNIT_PLACES, p->places), panel);
    }
}

void mpq_pointwise_run(const struct mpq_pointwise *p, void *workspace)
{
    struct job job = {.p = p, .n_unit = (p->places + UNIT_PLACES - 1) / UNIT_PLACES};
    (void)setup(p->k, workspace, &job);
    for (int64_t k = 0; k < p->k; k++)
        job.offset[k] = k * p->places;
    mpq_sweep_panel_offsets(min64(p->k, K_BLOCK), job.panel_offset);
    mpq_parallel_for(p->n * p->group * job.n_unit, 1, run_piece, &job);
}
