#include "quantcore/supernet/moments.h"

#include <string.h>

#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/conv_attrs.h"
#include "quantcore/ops/kernel/depthwise.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/supernet/tap_rows.h"

enum {
    MAX_INPUTS = 4608,
    ROWS = 256,
    MAX_POSITIONS = 32768, /* of a convolution, over all samples, */
    LEAST_POSITIONS = 128, /* but no fewer and no more than these of one */
    MOST_POSITIONS = 4096,
    ENOUGH_ROWS = 2048, /* for each input that a weight meets */
    GRAIN = 8192,       /* numbers that are worth a thread */
};

/* One layer's inputs at work: x as the network has them, f as the float model has, or NULL; rows of
 * each. */
struct input {
    const mpq_real *x, *f;
    mpq_real *x_row, *f_row; /* [ROWS, k], those of the next thread `stride` further on */
    mpq_real *lack_row;      /* [ROWS, channels of a group], likewise; not where cross is summed */
    size_t stride;
    int64_t *place; /* [ROWS, taps] of struct mpq_conv_rows */
};

/* Rows of one group to be added to its moments. */
struct addition {
    struct mpq_moments *moments;
    const struct input *in;
    int64_t g, n_row;
};

/* mean [k] += columns [begin, end) of rows [n_row, k], few of them at once. */
MPQ_MULTIVERSION
static void add_columns(const mpq_real *restrict rows, int64_t n_row, int64_t k, int64_t begin,
                        int64_t end, double *restrict mean)
{
    int64_t r = 0;
    for (; r + 4 <= n_row; r += 4, rows += 4 * k)
        for (int64_t i = begin; i < end; i++)
            mean[i] += (double)((rows[i] + rows[k + i]) + (rows[2 * k + i] + rows[3 * k + i]));
    for (; r < n_row; r++, rows += k)
        for (int64_t i = begin; i < end; i++)
            mean[i] += (double)rows[i];
}

MPQ_MULTIVERSION
static void take_off(mpq_real *restrict f, const mpq_real *restrict x, int64_t n_row, int64_t k,
                     int64_t begin, int64_t end)
{
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t i = begin; i < end; i++)
            f[r * k + i] -= x[r * k + i];
}

/* Columns [begin, end): their means, and F - X in place of F. */
static void add_means(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct addition *a = arg;
    struct mpq_moments *m = a->moments;
    int64_t k = m->k;
    (void)thread;
    add_columns(a->in->x_row, a->n_row, k, begin, end, m->mean + a->g * k);
    if (!a->in->f)
        return;
    take_off(a->in->f_row, a->in->x_row, a->n_row, k, begin, end);
    if (m->cross)
        add_columns(a->in->f_row, a->n_row, k, begin, end, m->gap_mean + a->g * k);
}

/* ((F - X) w)^T X of the group, F - X being in place of F. */
static void add_lack(struct mpq_moments *m, int64_t g, const struct input *in, int64_t n_row)
{
    int64_t k = m->k, n = m->n_channel / m->n_group;
    mpq_gemm(false, true, n_row, n, k, 1, in->f_row, k, m->w + g * n * k, k, 0, in->lack_row, n);
    add_columns(in->lack_row, n_row, n, 0, n, m->lack_mean + g * n);
    mpq_gemm(true, false, n, k, n_row, 1, in->lack_row, n, in->x_row, k, 1, m->lack + g * n * k, k);
}

static void add_rows(struct mpq_moments *m, int64_t g, const struct input *in, int64_t n_row)
{
    int64_t k = m->k;
    struct addition addition = {m, in, g, n_row};
    mpq_parallel_for(k, 1 + GRAIN / n_row, add_means, &addition);
    mpq_gram(k, n_row, in->x_row, m->gram + g * k * k);
    if (m->cross)
        mpq_gemm(true, false, k, k, n_row, 1, in->f_row, k, in->x_row, k, 1, m->cross + g * k * k,
                 k);
    else if (in->f)
        add_lack(m, g, in, n_row);
}

/* (F - X)^T X and the sums of F - X, times w. */
static void take_from_cross(struct mpq_moments *m, int64_t g)
{
    int64_t k = m->k, n = m->n_channel / m->n_group;
    mpq_gemm(false, false, n, k, k, 1, m->w + g * n * k, k, m->cross + g * k * k, k, 0,
             m->lack + g * n * k, k);
    for (int64_t c = g * n; c < (g + 1) * n; c++) {
        m->lack_mean[c] = 0;
        for (int64_t i = 0; i < k; i++)
            m->lack_mean[c] += (double)m->w[c * k + i] * m->gap_mean[g * k + i];
    }
}

/* The upper triangles of what mpq_gram() has made, and what comes from (F - X)^T X. */
static void complete(struct mpq_moments *m)
{
    int64_t k = m->k;
    for (int64_t g = 0; g < m->n_group; g++) {
        mpq_real *gram = m->gram + g * k * k;
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j < i; j++)
                gram[j * k + i] = gram[i * k + j];
        if (m->cross)
            take_from_cross(m, g);
    }
}

/* Rows of a convolution at work, all groups of them or one. */
struct conv_work {
    const struct mpq_conv_rows *rows;
    const struct input *in;
    struct mpq_moments *moments;
    int64_t g;
};

static void fill_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct conv_work *work = arg;
    const struct input *in = work->in;
    (void)thread;
    mpq_conv_rows_fill(work->rows, in->x, work->g, begin, end, in->x_row);
    if (in->f)
        mpq_conv_rows_fill(work->rows, in->f, work->g, begin, end, in->f_row);
}

/* Filters of one channel each, groups [begin, end), in the thread's own rows. */
static void add_taps(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct conv_work *work = arg;
    struct mpq_moments *m = work->moments;
    int64_t k = m->k, n_row = work->rows->n_row, stride = mpq_tap_rows_stride(k);
    mpq_real *row = work->in->x_row + (size_t)thread * work->in->stride, *sum = row + ROWS * stride;
    mpq_tap_rows_begin(n_row, k, row);
    for (int64_t g = begin; g < end; g++) {
        mpq_tap_rows_fill(work->rows, work->in->x, work->in->f, m->w ? m->w + g * k : NULL, g, row);
        mpq_tap_rows_products(n_row, k, row, sum);
        const mpq_real *lack = sum + k * stride, *mean = lack + stride;
        for (int64_t i = 0; i < k; i++) {
            for (int64_t j = 0; j <= i; j++)
                m->gram[(g * k + i) * k + j] += sum[i * stride + j];
            m->mean[g * k + i] += (double)mean[i];
            if (m->lack)
                m->lack[g * k + i] += lack[i];
        }
        if (m->lack)
            m->lack_mean[g] += (double)mean[k];
    }
}

/* The whole work of groups [begin, end), in the thread's own rows. */
static void add_groups(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct conv_work *work = arg;
    struct input in = *work->in;
    in.x_row += (size_t)thread * in.stride;
    if (in.f) {
        in.f_row += (size_t)thread * in.stride;
        in.lack_row += (size_t)thread * in.stride;
    }
    for (int64_t g = begin; g < end; g++) {
        struct conv_work one = {work->rows, &in, work->moments, g};
        fill_rows(&one, 0, work->rows->n_row, 0);
        add_rows(work->moments, g, &in, work->rows->n_row);
    }
}

/* Evenly spaced output positions of the batch's first n images, about `most` of each; not the same
 * ones of every batch. Several groups are dealt to the threads. */
static void gather_conv(struct mpq_moments *m, const struct mpq_conv *conv, const struct input *in,
                        int64_t n, int64_t most)
{
    int64_t places = mpq_volume(conv->out), total = n * places, offset[MAX_INPUTS];
    if (!total)
        return;
    mpq_conv_rows_offsets(conv, offset);
    int64_t apart = mpq_conv_rows_apart(conv, most), first = (int64_t)(m->n_row % (uint64_t)apart);
    int64_t n_position = (total - first + apart - 1) / apart;
    for (int64_t done = 0, n_row; done < n_position; done += n_row) {
        n_row = n_position - done < ROWS ? n_position - done : ROWS;
        const struct mpq_conv_rows rows =
            mpq_conv_rows_place(conv, offset, first + done * apart, apart, n_row, in->place);
        struct conv_work work = {&rows, in, m, 0};
        if (mpq_is_depthwise(conv)) {
            mpq_parallel_for(m->n_group, 1 + GRAIN / (n_row * m->k), add_taps, &work);
            continue;
        }
        if (m->n_group > 1) {
            mpq_gemm_parallel_for(m->n_group, 1 + GRAIN / (n_row * m->k), add_groups, &work);
            continue;
        }
        mpq_parallel_for(n_row, 1 + GRAIN / m->k, fill_rows, &work);
        add_rows(m, 0, in, n_row);
    }
    m->n_row += (uint64_t)n_position;
}

/* Row `at` of group g of a plain product's input, wherever its n numbers lie. */
static void copy_row(const struct mpq_layer_input *shape, const mpq_real *x, int64_t g, int64_t at,
                     mpq_real *row)
{
    int64_t i = at % shape->inner, middle = at / shape->inner % shape->middle;
    int64_t outer = at / shape->inner / shape->middle;
    x += ((outer * shape->group + g) * shape->middle + middle) * shape->n * shape->inner + i;
    for (int64_t k = 0; k < shape->n; k++)
        row[k] = x[k * shape->inner];
}

/* Of all rows the given share; the rest of the batch repeats a sample. */
static void gather_product(struct mpq_moments *m, const struct mpq_layer_input *shape,
                           const struct input *in, double share)
{
    int64_t total = shape->outer * shape->middle * shape->inner;
    total = (int64_t)((double)total * share + 0.5);
    for (int64_t g = 0; g < shape->group; g++)
        for (int64_t first = 0; first < total; first += ROWS) {
            int64_t n_row = total - first < ROWS ? total - first : ROWS;
            for (int64_t r = 0; r < n_row; r++) {
                copy_row(shape, in->x, g, first + r, in->x_row + r * m->k);
                if (in->f)
                    copy_row(shape, in->f, g, first + r, in->f_row + r * m->k);
            }
            add_rows(m, g, in, n_row);
        }
    m->n_row += (uint64_t)total;
}

/* Whether X can be gathered: ConvTranspose, whose inputs meet all taps of the kernel, has none. */
static bool is_gathered(const struct mpq_layer *layer, const struct mpq_moment_source *source,
                        mpq_node_id id)
{
    struct mpq_network *network = source->network;
    if (layer->x == MPQ_NO_VALUE || layer->n_outer * layer->n_inner > MAX_INPUTS)
        return false;
    struct mpq_layer_input in = mpq_layer_input(layer, &network->binding.tensor[layer->x].shape);
    return mpq_node_is(&network->graph->node[id], "Conv") ||
           in.n == layer->n_outer * layer->n_inner;
}

static size_t gram_elements(const struct mpq_layer *layer)
{
    int64_t k = layer->n_outer * layer->n_inner;
    return (size_t)(layer->n_group * k * k);
}

/* Whether (F - X)^T X takes fewer products than (F - X) w, and that times X, do. Of filters of one
 * channel rows hold (F - X) w itself (tap_rows.h). */
static bool sums_cross(const struct mpq_layer *layer)
{
    return layer->n_group < layer->n_channel &&
           layer->n_outer * layer->n_inner <= 2 * (layer->n_channel / layer->n_group);
}

/* Numbers that a thread's rows of k inputs and what comes from them may take. */
static int64_t room_of(const struct mpq_layer *layer, int64_t k)
{
    int64_t of_taps = (ROWS + k + 2) * mpq_tap_rows_stride(k);
    return layer->n_group == layer->n_channel ? of_taps : ROWS * k;
}

size_t mpq_moments_bytes(const struct mpq_layer *layer, bool has_lack)
{
    size_t k = (size_t)(layer->n_outer * layer->n_inner);
    size_t n_square = gram_elements(layer), n_mean = (size_t)layer->n_group * k;
    size_t taps = (size_t)layer->n_inner; /* at most */
    size_t room = 3 * (size_t)room_of(layer, (int64_t)k) * sizeof(mpq_real);
    room += ROWS * taps * sizeof(int64_t);
    room *= (size_t)mpq_thread_count();
    if (k > MAX_INPUTS)
        return 0;
    size_t bytes = n_square * sizeof(mpq_real) + n_mean * sizeof(double) + room;
    if (has_lack)
        bytes +=
            (2 * (size_t)layer->n_param + (sums_cross(layer) ? n_square : 0)) * sizeof(mpq_real) +
            n_mean * sizeof(double);
    return bytes;
}

/* w: as the layer has them, NULL: F is not asked for. */
static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                              const struct mpq_layer *layer, mpq_real *gram, const mpq_real *w,
                              struct mpq_moments *out)
{
    struct mpq_moments m = {.k = layer->n_outer * layer->n_inner,
                            .n_group = layer->n_group,
                            .n_channel = layer->n_channel,
                            .gram = gram};
    size_t n_row = (size_t)(m.n_group * m.k), n_param = (size_t)layer->n_param;
    m.mean = mpq_arena_alloc(ctx, arena, n_row, sizeof *m.mean);
    if (!m.mean)
        return MPQ_E_NOMEM;
    if (w) {
        m.lack_mean = mpq_arena_alloc(ctx, arena, (size_t)m.n_channel, sizeof *m.lack_mean);
        m.lack = mpq_arena_alloc(ctx, arena, n_param, sizeof *m.lack);
        m.w = mpq_arena_alloc(ctx, arena, n_param, sizeof *m.w);
        if (!m.lack_mean || !m.lack || !m.w)
            return MPQ_E_NOMEM;
        for (int64_t i = 0; i < layer->n_param; i++)
            m.w[i] = w[mpq_layer_weight_index(layer, i / m.k, i % m.k)];
    }
    if (w && sums_cross(layer)) {
        m.cross = mpq_arena_alloc(ctx, arena, gram_elements(layer), sizeof *m.cross);
        m.gap_mean = mpq_arena_alloc(ctx, arena, n_row, sizeof *m.gap_mean);
        if (!m.cross || !m.gap_mean)
            return MPQ_E_NOMEM;
    }
    *out = m;
    return MPQ_OK;
}

/* Of the filter, where the node is a convolution. */
static int64_t count_taps(const struct mpq_moment_source *source, const struct mpq_layer *layer,
                          mpq_node_id id)
{
    const struct mpq_shape *w = &source->network->binding.tensor[layer->weight].shape;
    int64_t n = 1;
    for (int d = 2; d < w->rank && mpq_node_is(&source->network->graph->node[id], "Conv"); d++)
        n *= w->dim[d];
    return n;
}

/* What layer l saw of the first `share` of the batch that the networks have just run. */
static void gather_layer(const struct mpq_moment_source *source, const struct mpq_layer *layer,
                         const struct mpq_node *node, double share, struct input *in,
                         struct mpq_moments *m)
{
    struct mpq_exec *exec = source->network->exec;
    /* As the node reads it, which may be quantized. */
    mpq_value_id v = layer->x_input < 0 ? layer->x : node->in[layer->x_input];
    const struct mpq_tensor *x[2] = {mpq_exec_tensor(exec, v),
                                     mpq_exec_tensor(exec, layer->weight)};
    in->x = x[0]->data;
    in->f =
        source->float_network ? mpq_exec_tensor(source->float_network->exec, layer->x)->data : NULL;
    if (mpq_node_is(node, "Conv")) {
        struct mpq_conv conv = mpq_conv_geometry(node, x);
        int64_t n_position = source->n_position ? source->n_position : MAX_POSITIONS;
        int64_t most = n_position / source->n_sample;
        most = most < LEAST_POSITIONS ? LEAST_POSITIONS : most;
        most = most > MOST_POSITIONS ? MOST_POSITIONS : most;
        int64_t enough = (ENOUGH_ROWS * m->k + source->n_sample - 1) / source->n_sample;
        most = most > enough ? enough : most;
        gather_conv(m, &conv, in, (int64_t)((double)conv.n * share + 0.5), most);
    } else {
        struct mpq_layer_input shape = mpq_layer_input(layer, &x[0]->shape);
        gather_product(m, &shape, in, share);
    }
}

enum mpq_status mpq_moments_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_moment_source *source, uint32_t begin,
                                   uint32_t end, struct mpq_moments *out)
{
    size_t n_gram = 0;
    for (uint32_t l = begin; l < end; l++) {
        out[l] = (struct mpq_moments){0};
        if (is_gathered(&layers->layer[l], source, source->layer_node[l]))
            n_gram += gram_elements(&layers->layer[l]);
    }
    mpq_real *gram = mpq_arena_alloc(ctx, arena, n_gram, sizeof *gram); /* of all layers */
    if (!gram)
        return MPQ_E_NOMEM;
    for (uint32_t l = begin; l < end; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        if (!is_gathered(layer, source, source->layer_node[l]))
            continue;
        const struct mpq_tensor *w = source->network->graph->value[layer->weight].constant;
        MPQ_TRY(create(ctx, arena, layer, gram, source->float_network ? w->data : NULL, &out[l]));
        gram += gram_elements(layer);
    }
    return MPQ_OK;
}

enum mpq_status mpq_moments_begin(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_layer_table *layers,
                                  const struct mpq_moment_source *source, uint32_t begin,
                                  uint32_t end, struct mpq_moment_room *out_room,
                                  struct mpq_moments *out)
{
    int64_t most = 0, most_taps = 0;
    MPQ_TRY(mpq_moments_create(ctx, arena, layers, source, begin, end, out));
    for (uint32_t l = begin; l < end; l++) {
        int64_t taps = count_taps(source, &layers->layer[l], source->layer_node[l]);
        int64_t room = room_of(&layers->layer[l], out[l].k);
        most = room > most ? room : most;
        most_taps = taps > most_taps ? taps : most_taps;
    }
    size_t n_thread = (size_t)mpq_thread_count();
    struct mpq_moment_room room = {.stride = (size_t)most,
                                   .place_stride = (size_t)(ROWS * most_taps)};
    room.x_row = mpq_arena_alloc(ctx, arena, n_thread * room.stride, sizeof *room.x_row);
    room.place = mpq_arena_alloc(ctx, arena, n_thread * room.place_stride, sizeof *room.place);
    room.load = mpq_arena_alloc(ctx, arena, n_thread, sizeof *room.load);
    room.owner = mpq_arena_alloc(ctx, arena, layers->n_layer, sizeof *room.owner);
    if (!room.x_row || !room.place || !room.load || !room.owner)
        return MPQ_E_NOMEM;
    if (source->float_network) {
        room.f_row = mpq_arena_alloc(ctx, arena, n_thread * room.stride, sizeof *room.f_row);
        room.lack_row = mpq_arena_alloc(ctx, arena, n_thread * room.stride, sizeof *room.lack_row);
        if (!room.f_row || !room.lack_row)
            return MPQ_E_NOMEM;
    }
    *out_room = room;
    return MPQ_OK;
}

/* What the source's network has just run, to be added to layers [begin, end). */
struct gathering {
    const struct mpq_layer_table *layers;
    const struct mpq_moment_source *source;
    const struct mpq_moment_room *room;
    struct mpq_moments *moments;
    double share;
    uint32_t begin, end;
    bool is_dealt;
};

/* The layers of threads [first, last). */
static void gather_some(void *arg, int64_t first, int64_t last, int thread)
{
    const struct gathering *g = arg;
    const struct mpq_moment_room *room = g->room;
    const struct mpq_graph *graph = g->source->network->graph;
    size_t at = (size_t)thread * room->stride;
    struct input in = {.x_row = room->x_row + at,
                       .f_row = room->f_row ? room->f_row + at : NULL,
                       .lack_row = room->lack_row ? room->lack_row + at : NULL,
                       .stride = room->stride,
                       .place = room->place + (size_t)thread * room->place_stride};
    for (uint32_t l = g->begin; l < g->end; l++)
        if (g->moments[l].gram &&
            (!g->is_dealt || (room->owner[l] >= first && room->owner[l] < last)))
            gather_layer(g->source, &g->layers->layer[l], &graph->node[g->source->layer_node[l]],
                         g->share, &in, &g->moments[l]);
}

/* One layer is gathered by all threads, several are dealt out to them: products of so few rows are
 * not worth sharing. */
void mpq_moments_add(const struct mpq_layer_table *layers, const struct mpq_moment_source *source,
                     uint32_t begin, uint32_t end, uint32_t n, int lane,
                     const struct mpq_moment_room *room, struct mpq_moments *moments)
{
    int n_thread = mpq_thread_count();
    struct gathering g = {.layers = layers,
                          .source = source,
                          .room = room,
                          .moments = moments,
                          .share = (double)n / source->network->batch,
                          .begin = begin,
                          .end = end,
                          .is_dealt = end > begin + 1 && !mpq_thread_is_inside()};
    if (!g.is_dealt) {
        gather_some(&g, 0, 1, lane);
        return;
    }
    memset(room->load, 0, (size_t)n_thread * sizeof *room->load);
    for (uint32_t l = begin; l < end; l++) {
        double k = moments[l].gram ? (double)moments[l].k : 0;
        room->owner[l] = mpq_thread_least(room->load, k * k * (double)moments[l].n_group);
    }
    mpq_gemm_parallel_for(n_thread, 1, gather_some, &g);
}

void mpq_moments_join(uint32_t begin, uint32_t end, const struct mpq_moments *other,
                      struct mpq_moments *moments)
{
    for (uint32_t l = begin; l < end; l++) {
        const struct mpq_moments *from = &other[l];
        struct mpq_moments *m = &moments[l];
        for (int64_t i = 0; m->gram && i < m->n_group * m->k * m->k; i++)
            m->gram[i] += from->gram[i];
        for (int64_t i = 0; m->cross && i < m->n_group * m->k * m->k; i++)
            m->cross[i] += from->cross[i];
        for (int64_t i = 0; m->lack && i < m->n_channel * m->k; i++)
            m->lack[i] += from->lack[i];
        for (int64_t i = 0; m->gram && i < m->n_group * m->k; i++)
            m->mean[i] += from->mean[i];
        for (int64_t i = 0; m->cross && i < m->n_group * m->k; i++)
            m->gap_mean[i] += from->gap_mean[i];
        for (int64_t i = 0; m->lack && i < m->n_channel; i++)
            m->lack_mean[i] += from->lack_mean[i];
        m->n_row += from->n_row;
    }
}

void mpq_moments_end(uint32_t begin, uint32_t end, struct mpq_moments *moments)
{
    for (uint32_t l = begin; l < end; l++)
        if (moments[l].gram)
            complete(&moments[l]);
}
