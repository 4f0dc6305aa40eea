#include "quantcore/ops/kernel/stage.h"

#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"

/* Elements of a staged copy that stay in the second level cache beside the rest; twice and more are
 * worth it where images are so small that each alone would leave tiles unfilled. */
#define STAGE_AIM  (192 * 1024 / (int64_t)sizeof(mpq_real))
#define IMAGES_AIM (512 * 1024 / (int64_t)sizeof(mpq_real))
#define PLACES_AIM 512

/* The three indices of element i of an array of that shape. */
static void split(int64_t i, const int64_t dim[3], int64_t out_index[3])
{
    out_index[0] = i / (dim[1] * dim[2]);
    out_index[1] = i / dim[2] % dim[1];
    out_index[2] = i % dim[2];
}

/* Where every slot's plane starts and ends with zeros along an axis, a row can end in the zeros
 * that the next one starts with. How many they can share. */
static int64_t shared_zeros(const struct mpq_stage *s, int axis)
{
    const struct mpq_stage_map *map = &s->source;
    int64_t shared = s->max_shift[axis];
    for (int64_t slot = 0; slot < s->n_slot[axis]; slot++) {
        int64_t low, high;
        mpq_clip_range(s->extent[axis], map->step[axis],
                       slot * s->dilation[axis] % s->stride[axis] - map->before[axis],
                       map->dim[axis], &low, &high);
        shared = mpq_min(shared, mpq_min(low, s->extent[axis] - high));
    }
    return shared;
}

static void set_layout(struct mpq_stage *s)
{
    int64_t shared[3];
    s->n_block = mpq_ceil_div(s->n, s->images);
    s->n_band = mpq_ceil_div(s->total[0], s->band);
    for (int i = 0; i < 3; i++) {
        s->extent[i] = (i == 0 ? s->band : s->total[i]) + s->max_shift[i];
        shared[i] = i > 0 || s->n_band == 1 ? shared_zeros(s, i) : 0;
        s->pitch[i] = s->extent[i] - shared[i];
    }
    s->image = mpq_volume(s->pitch);
    s->plane =
        s->images * s->image + (shared[0] * s->pitch[1] + shared[1]) * s->pitch[2] + shared[2];
    s->channel = mpq_volume(s->n_slot) * s->plane;
    /* Channels a power of two apart would compete for the same lines of the cache. */
    s->channel = (s->channel + 15) / 16 * 16;
    if (s->channel % 32 == 0)
        s->channel += 16;
}

/* Whole images while they fit and are needed to fill tiles, else bands of rows; and at least as
 * many units as threads where there is that much to cut. */
static void cut(struct mpq_stage *s)
{
    int64_t threads = mpq_thread_count();
    s->images = 1;
    s->band = s->total[0];
    set_layout(s);
    int64_t room = mpq_max(1, IMAGES_AIM / (s->channels * s->channel));
    s->images = mpq_min(mpq_min(room, mpq_ceil_div(PLACES_AIM, s->image)), s->n);
    s->images = mpq_max(1, mpq_min(s->images, s->n * s->group / threads));
    s->images = mpq_ceil_div(s->n, mpq_ceil_div(s->n, s->images));
    int64_t row = s->channels * (s->channel / s->extent[0]);
    int64_t rows = mpq_max(4, STAGE_AIM / mpq_max(1, row) - s->max_shift[0]);
    if (s->images == 1)
        s->band = mpq_min(s->band, rows);
    if (s->n * s->group < threads)
        s->band =
            mpq_min(s->band, mpq_ceil_div(s->total[0], mpq_ceil_div(threads, s->n * s->group)));
    s->band = mpq_ceil_div(s->total[0], mpq_ceil_div(s->total[0], s->band));
    set_layout(s);
}

static void set_taps(const struct mpq_conv *conv, struct mpq_stage *s)
{
    for (int i = 0; i < 3; i++) {
        s->kernel[i] = conv->kernel[i];
        s->dilation[i] = conv->dilation[i];
        s->stride[i] = conv->stride[i];
        s->period[i] = conv->stride[i] / mpq_gcd(conv->stride[i], conv->dilation[i]);
        s->max_shift[i] = (conv->kernel[i] - 1) * conv->dilation[i] / conv->stride[i];
    }
}

void mpq_stage_forward(const struct mpq_conv *conv, struct mpq_stage *out)
{
    struct mpq_stage s = {.n = conv->n, .channels = conv->c / conv->group, .group = conv->group};
    set_taps(conv, &s);
    for (int i = 0; i < 3; i++) {
        s.total[i] = conv->out[i];
        s.n_slot[i] = mpq_min(conv->kernel[i], s.period[i]);
        s.source.step[i] = conv->stride[i];
        s.source.before[i] = conv->pad[i];
        s.source.dim[i] = conv->in[i];
        s.sink.step[i] = 1;
        s.sink.dim[i] = conv->out[i];
    }
    cut(&s);
    *out = s;
}

/* x[stride * a + phase - pad] gets w[t] * dy[a - shift(t)]: the places are the values a for which
 * that is in x for any phase, and one plane of dy serves all taps. */
void mpq_stage_backward(const struct mpq_conv *conv, struct mpq_stage *out)
{
    struct mpq_stage s = {.n = conv->n, .channels = conv->m / conv->group, .group = conv->group};
    set_taps(conv, &s);
    for (int i = 0; i < 3; i++) {
        int64_t first = mpq_floor_div(conv->pad[i], conv->stride[i]);
        int64_t last = mpq_floor_div(conv->in[i] - 1 + conv->pad[i], conv->stride[i]);
        s.total[i] = last - first + 1;
        s.n_slot[i] = 1;
        s.source.step[i] = 1;
        s.source.before[i] = s.max_shift[i] - first;
        s.source.dim[i] = conv->out[i];
        s.sink.step[i] = conv->stride[i];
        s.sink.before[i] = conv->pad[i] - first * conv->stride[i];
        s.sink.dim[i] = conv->in[i];
    }
    cut(&s);
    *out = s;
}

int64_t mpq_stage_units(const struct mpq_stage *stage)
{
    return stage->n_block * stage->n_band * stage->group;
}

size_t mpq_stage_elements(const struct mpq_stage *stage)
{
    return (size_t)(stage->channels * stage->channel + MPQ_STAGE_SLACK);
}

struct mpq_unit mpq_stage_unit(const struct mpq_stage *stage, int64_t index)
{
    int64_t band = index % stage->n_band, rest = index / stage->n_band;
    struct mpq_unit u = {.group = rest % stage->group,
                         .image = rest / stage->group * stage->images,
                         .row = band * stage->band};
    u.n_image = mpq_min(stage->images, stage->n - u.image);
    u.n_row = mpq_min(stage->band, stage->total[0] - u.row);
    u.places = (u.n_image - 1) * stage->image +
               ((u.n_row - 1) * stage->pitch[1] + stage->total[1] - 1) * stage->pitch[2] +
               stage->total[2];
    return u;
}

static struct mpq_window window_of(const struct mpq_stage *s, const struct mpq_unit *unit,
                                   int64_t slot)
{
    const struct mpq_stage_map *map = &s->source;
    struct mpq_window w = {.first = 0};
    int64_t index[3];
    split(slot, s->n_slot, index);
    for (int i = 0; i < 3; i++) {
        int64_t start = (i == 0 ? unit->row * map->step[0] : 0) - map->before[i] +
                        index[i] * s->dilation[i] % s->stride[i];
        mpq_clip_range(s->extent[i], map->step[i], start, map->dim[i], &w.low[i], &w.high[i]);
        w.first = w.first * map->dim[i] + start + w.low[i] * map->step[i];
    }
    return w;
}

static void fill_plane(const struct mpq_stage *s, const struct mpq_window *w, const mpq_real *from,
                       const mpq_real *end, mpq_real *to)
{
    const struct mpq_tile_set *set = mpq_tile_best();
    const int64_t *step = s->source.step, *dim = s->source.dim;
    const int64_t rows = w->high[1] - w->low[1], n = w->high[2] - w->low[2];
    from += w->first;
    to += (w->low[0] * s->pitch[1] + w->low[1]) * s->pitch[2] + w->low[2];
    if (dim[1] == 1) {
        set->copy_rows(to, s->pitch[1] * s->pitch[2], from, step[0] * dim[2],
                       w->high[0] - w->low[0], n, step[2], end);
        return;
    }
    for (int64_t i = w->low[0]; i < w->high[0]; i++) {
        set->copy_rows(to, s->pitch[2], from, step[1] * dim[2], rows, n, step[2], end);
        to += s->pitch[1] * s->pitch[2];
        from += step[0] * dim[1] * dim[2];
    }
}

static bool same_layout(const struct mpq_unit *a, const struct mpq_unit *b)
{
    return a->n_image == b->n_image && a->row == b->row && a->n_row == b->n_row;
}

static bool is_empty(const struct mpq_window *w)
{
    return w->low[0] == w->high[0] || w->low[1] == w->high[1] || w->low[2] == w->high[2];
}

/* From the start of the buffer to its end: copying a row may write zeros behind it. */
void mpq_stage_fill(const struct mpq_stage *s, const struct mpq_unit *unit,
                    struct mpq_filled *filled, const mpq_real *array, mpq_real *buffer)
{
    int64_t area = mpq_volume(s->source.dim), n_slot = mpq_volume(s->n_slot);
    const mpq_real *end = array + s->n * s->group * s->channels * area;
    const mpq_real *from = array + (unit->image * s->group + unit->group) * s->channels * area;
    if (!same_layout(unit, &filled->unit)) {
        memset(buffer, 0, mpq_stage_elements(s) * sizeof *buffer);
        for (int64_t slot = 0; slot < mpq_min(n_slot, MPQ_KEPT_WINDOWS); slot++)
            filled->window[slot] = window_of(s, unit, slot);
    }
    filled->unit = *unit;
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t slot = 0; slot < n_slot; slot++) {
            struct mpq_window beyond;
            const struct mpq_window *w = &filled->window[slot];
            mpq_real *to = buffer + c * s->channel + slot * s->plane;
            if (slot >= MPQ_KEPT_WINDOWS) {
                beyond = window_of(s, unit, slot);
                w = &beyond;
            }
            for (int64_t i = 0; i < unit->n_image && !is_empty(w); i++)
                fill_plane(s, w, from + (i * s->group * s->channels + c) * area, end,
                           to + i * s->image);
        }
}

void mpq_stage_offsets(const struct mpq_stage *s, int64_t *out)
{
    int64_t taps = mpq_volume(s->kernel);
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t i = 0; i < taps; i++) {
            int64_t tap[3], slot = 0, shift = 0;
            split(i, s->kernel, tap);
            for (int j = 0; j < 3; j++) {
                slot = slot * s->n_slot[j] + tap[j] % s->period[j];
                shift = shift * s->pitch[j] + tap[j] * s->dilation[j] / s->stride[j];
            }
            *out++ = c * s->channel + slot * s->plane + shift;
        }
}

static void count_slots(const struct mpq_stage *s, int64_t out_n[3])
{
    for (int i = 0; i < 3; i++)
        out_n[i] = mpq_min(s->kernel[i], s->period[i]);
}

int64_t mpq_phase_count(const struct mpq_stage *stage)
{
    int64_t n_slot[3];
    count_slots(stage, n_slot);
    return mpq_volume(n_slot);
}

void mpq_stage_phases(const struct mpq_stage *s, struct mpq_phase *out)
{
    int64_t n_slot[3], taps_before = 0;
    count_slots(s, n_slot);
    for (int64_t n = 0; n < mpq_volume(n_slot); n++) {
        struct mpq_phase p = {.taps_before = taps_before};
        split(n, n_slot, p.slot);
        for (int i = 0; i < 3; i++) {
            p.n_tap[i] = (s->kernel[i] - p.slot[i] - 1) / s->period[i] + 1;
            p.phase[i] = p.slot[i] * s->dilation[i] % s->stride[i];
        }
        taps_before += mpq_volume(p.n_tap);
        out[n] = p;
    }
}

int64_t mpq_phase_tap(const struct mpq_stage *s, const struct mpq_phase *phase, int64_t i)
{
    int64_t tap[3], index = 0;
    split(i, phase->n_tap, tap);
    for (int j = 0; j < 3; j++)
        index = index * s->kernel[j] + phase->slot[j] + tap[j] * s->period[j];
    return index;
}

void mpq_phase_offsets(const struct mpq_stage *s, const struct mpq_phase *phase, int64_t *out)
{
    int64_t taps = mpq_volume(phase->n_tap);
    for (int64_t m = 0; m < s->channels; m++)
        for (int64_t i = 0; i < taps; i++) {
            int64_t tap[3], shift = 0;
            split(mpq_phase_tap(s, phase, i), s->kernel, tap);
            for (int j = 0; j < 3; j++)
                shift =
                    shift * s->pitch[j] + s->max_shift[j] - tap[j] * s->dilation[j] / s->stride[j];
            *out++ = m * s->channel + shift;
        }
}

int mpq_stage_parts(const struct mpq_stage *s, const struct mpq_unit *unit, const int64_t phase[3],
                    int64_t channels, int64_t begin, int64_t n, struct mpq_part *out)
{
    const struct mpq_stage_map *map = &s->sink;
    int64_t area = mpq_volume(map->dim);
    int64_t start[3], low, high;
    for (int i = 0; i < 3; i++)
        start[i] = phase[i] - map->before[i];
    mpq_clip_range(s->total[2], map->step[2], start[2], map->dim[2], &low, &high);
    int n_part = 0;
    int64_t row = begin / s->pitch[2];
    for (int64_t first = row * s->pitch[2]; first < begin + n; first += s->pitch[2], row++) {
        int64_t image = row / (s->pitch[0] * s->pitch[1]);
        int64_t i = row / s->pitch[1] % s->pitch[0], j = row % s->pitch[1];
        int64_t y = (unit->row + i) * map->step[0] + start[0], z = j * map->step[1] + start[1];
        int64_t from = mpq_max(first + low, begin), end = mpq_min(first + high, begin + n);
        if (image >= unit->n_image || i >= unit->n_row || j >= s->total[1] || y < 0 ||
            y >= map->dim[0] || z < 0 || z >= map->dim[1] || from >= end)
            continue;
        struct mpq_part part = {
            .to = image * channels * area + (y * map->dim[1] + z) * map->dim[2] +
                  (from - first) * map->step[2] + start[2],
            .from = (int)(from - begin),
            .count = (int)(end - from),
        };
        struct mpq_part *last = out + n_part - 1;
        if (n_part > 0 && last->from + last->count == part.from &&
            last->to + last->count * map->step[2] == part.to)
            last->count += part.count;
        else
            out[n_part++] = part;
    }
    return n_part;
}

/* y[j * step] += x[j]. With step 2 the elements between get a zero added, which makes the places
 * contiguous; the last has none behind it. */
MPQ_INLINE void add_row(mpq_real *restrict y, const mpq_real *restrict x, int n, int64_t step,
                        mpq_real zero)
{
    if (step == 1) {
        for (int j = 0; j < n; j++)
            y[j] += x[j];
    } else if (step == 2) {
        for (int j = 0; j < n - 1; j++) {
            y[2 * j] += x[j];
            y[2 * j + 1] += zero;
        }
        y[2 * (n - 1)] += x[n - 1];
    } else {
        for (int j = 0; j < n; j++)
            y[j * step] += x[j];
    }
}

/* y[j] = clamp(x[j] + b[j * step_b]); b may be y. */
MPQ_INLINE void clamp_row(mpq_real *y, const mpq_real *x, const mpq_real *b, int64_t step_b, int n,
                          const struct mpq_clamp *clamp)
{
    const mpq_real low = clamp->low, high = clamp->high;
    MPQ_IN_PLACE
    for (int j = 0; j < n; j++) {
        mpq_real v = x[j] + b[j * step_b];
        v = v > low ? v : low;
        y[j] = v < high ? v : high;
    }
}

MPQ_MULTIVERSION
void mpq_stage_store(const struct mpq_stage *s, const struct mpq_part *part, int n_part, int n_row,
                     const mpq_real *from, int64_t stride, const mpq_real *bias, bool add,
                     const struct mpq_clamp *clamp, mpq_real *to)
{
    int64_t area = mpq_volume(s->sink.dim), step = s->sink.step[2];
    for (int i = 0; i < n_row; i++, from += stride, to += area) {
        mpq_real b = bias ? bias[i] : 0;
        for (int p = 0; p < n_part; p++) {
            const mpq_real *restrict x = from + part[p].from;
            mpq_real *restrict y = to + part[p].to;
            if (add && clamp)
                clamp_row(y, x, y, 1, part[p].count, clamp);
            else if (clamp)
                clamp_row(y, x, &b, 0, part[p].count, clamp);
            else if (add)
                add_row(y, x, part[p].count, step, b);
            else if (step == 1)
                for (int j = 0; j < part[p].count; j++)
                    y[j] = x[j] + b;
            else
                for (int j = 0; j < part[p].count; j++)
                    y[j * step] = x[j] + b;
        }
    }
}
