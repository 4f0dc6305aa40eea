#include "quantcore/ops/kernel/pool.h"

#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/ops/op_util.h"

static enum mpq_status read_ints(struct mpq_ctx *ctx, const struct mpq_node *node, const char *name,
                                 int n, int64_t absent, int64_t least, int64_t *out)
{
    size_t n_found;
    const int64_t *value = mpq_attr_ints(&node->attr_set, name, &n_found);
    if (n_found && n_found != (size_t)n)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%s has %zu entries, not %d", name, n_found,
                             n);
    for (int i = 0; i < n; i++) {
        out[i] = n_found ? value[i] : absent;
        if (out[i] < least || out[i] > INT32_MAX)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%s holds %lld", name, (long long)out[i]);
    }
    return MPQ_OK;
}

static enum mpq_status read_auto_pad(struct mpq_ctx *ctx, const struct mpq_node *node,
                                     enum mpq_auto_pad *out)
{
    static const char *const name[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    const char *text = mpq_attr_string(&node->attr_set, "auto_pad", "NOTSET");
    for (size_t i = 0; i < MPQ_COUNT(name); i++)
        if (strcmp(text, name[i]) == 0) {
            *out = (enum mpq_auto_pad)i;
            return MPQ_OK;
        }
    return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "auto_pad is '%s'", text);
}

enum mpq_status mpq_pool_parse(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_node *node)
{
    size_t n;
    int64_t pads[2 * MPQ_POOL_DIMS];
    struct mpq_pool_attrs *a = mpq_arena_alloc(ctx, arena, 1, sizeof *a);
    if (!a)
        return MPQ_E_NOMEM;
    mpq_attr_ints(&node->attr_set, "kernel_shape", &n);
    if (n < 1 || n > MPQ_POOL_DIMS)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "kernel_shape has %zu entries", n);
    a->n = (int)n;
    MPQ_TRY(read_ints(ctx, node, "kernel_shape", a->n, 1, 1, a->kernel));
    MPQ_TRY(read_ints(ctx, node, "strides", a->n, 1, 1, a->stride));
    MPQ_TRY(read_ints(ctx, node, "dilations", a->n, 1, 1, a->dilation));
    MPQ_TRY(read_ints(ctx, node, "pads", 2 * a->n, 0, 0, pads));
    MPQ_TRY(read_auto_pad(ctx, node, &a->auto_pad));
    for (int i = 0; i < a->n && a->auto_pad == MPQ_PAD_EXPLICIT; i++) {
        a->pad_begin[i] = pads[i];
        a->pad_end[i] = pads[a->n + i];
    }
    a->ceil_mode = mpq_attr_int(&node->attr_set, "ceil_mode", 0) != 0;
    a->count_include_pad = mpq_attr_int(&node->attr_set, "count_include_pad", 0) != 0;
    a->column_major = mpq_attr_int(&node->attr_set, "storage_order", 0) != 0;
    node->attrs = a;
    return MPQ_OK;
}

/* Windows of dimension i over `in` elements, and the padding before and after them. A last window
 * that ceil_mode adds but that begins beyond the input is dropped. < 1: none fits. */
static int64_t count_windows(const struct mpq_pool_attrs *a, int i, int64_t in, int64_t *pad,
                             int64_t *pad_end)
{
    int64_t reach = (a->kernel[i] - 1) * a->dilation[i] + 1, stride = a->stride[i];
    *pad = a->pad_begin[i];
    *pad_end = a->pad_end[i];
    if (a->auto_pad == MPQ_PAD_SAME_UPPER || a->auto_pad == MPQ_PAD_SAME_LOWER) {
        int64_t out = (in + stride - 1) / stride, total = (out - 1) * stride + reach - in;
        total = total > 0 ? total : 0;
        *pad = a->auto_pad == MPQ_PAD_SAME_UPPER ? total / 2 : total - total / 2;
        *pad_end = total - *pad;
        return out;
    }
    int64_t room = in + *pad + *pad_end - reach;
    if (room < 0)
        return 0;
    int64_t out = (room + (a->ceil_mode ? stride - 1 : 0)) / stride + 1;
    return (out - 1) * stride >= in + *pad ? out - 1 : out;
}

enum mpq_status mpq_pool_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                               const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_pool_attrs *a = node->attrs;
    struct mpq_shape shape = x[0]->shape;
    if (shape.rank != a->n + 2)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "a %d-dimensional kernel, but the input is %s",
                             a->n, MPQ_SHAPE_TEXT(&shape));
    for (int i = 0; i < a->n; i++) {
        int64_t pad, pad_end, in = shape.dim[2 + i];
        shape.dim[2 + i] = count_windows(a, i, in, &pad, &pad_end);
        if (shape.dim[2 + i] < 1)
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "no window of %lld fits into %lld",
                                 (long long)a->kernel[i], (long long)in);
    }
    return mpq_infer_set(ctx, node, y[0], x[0]->dtype, &shape);
}

void mpq_pool_make(const struct mpq_node *node, const struct mpq_shape *x,
                   const struct mpq_shape *y, struct mpq_pool *out)
{
    const struct mpq_pool_attrs *a = node->attrs;
    int missing = MPQ_POOL_DIMS - a->n;
    out->n_plane = x->dim[0] * x->dim[1];
    out->in_count = mpq_shape_count_range(x, 2, x->rank);
    out->out_count = mpq_shape_count_range(y, 2, y->rank);
    for (int i = 0; i < missing; i++)
        out->dim[i] = (struct mpq_pool_dim){1, 1, 1, 1, 1, 0, 0};
    for (int i = 0; i < a->n; i++) {
        struct mpq_pool_dim *d = &out->dim[missing + i];
        *d = (struct mpq_pool_dim){.in = x->dim[2 + i],
                                   .out = y->dim[2 + i],
                                   .kernel = a->kernel[i],
                                   .stride = a->stride[i],
                                   .dilation = a->dilation[i]};
        count_windows(a, i, d->in, &d->pad, &d->pad_end);
    }
}

/* Windows [*begin, *end) whose tap falls inside the input. */
static void find_valid(const struct mpq_pool_dim *d, int64_t tap, int64_t *begin, int64_t *end)
{
    int64_t shift = tap * d->dilation - d->pad; /* input of window 0 */
    int64_t first = shift < 0 ? (-shift + d->stride - 1) / d->stride : 0;
    int64_t last = d->in - 1 - shift; /* shift + o * stride <= in - 1 */
    int64_t stop = last < 0 ? 0 : last / d->stride + 1;
    *begin = first < d->out ? first : d->out;
    *end = stop < d->out ? stop : d->out;
    if (*end < *begin)
        *end = *begin;
}

int64_t mpq_pool_padded(const struct mpq_pool_dim *dim)
{
    int64_t of_windows = (dim->out - 1) * dim->stride + (dim->kernel - 1) * dim->dilation + 1;
    return mpq_max(dim->pad + dim->in, of_windows);
}

int64_t mpq_pool_taps_inside(const struct mpq_pool *pool, const int64_t o[3])
{
    int64_t count = 1;
    for (int i = 0; i < MPQ_POOL_DIMS; i++) {
        const struct mpq_pool_dim *d = &pool->dim[i];
        int64_t inside = 0;
        for (int64_t tap = 0; tap < d->kernel; tap++) {
            int64_t at = o[i] * d->stride + tap * d->dilation - d->pad;
            inside += at >= 0 && at < d->in;
        }
        count *= inside;
    }
    return count;
}

void mpq_pool_sweep(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y,
                    mpq_pool_row_fn *row_fn)
{
    const struct mpq_pool_dim *d = &pool->dim[0], *h = &pool->dim[1], *w = &pool->dim[2];
    int64_t d_begin, d_end, h_begin, h_end, w_begin, w_end;
    for (int64_t kd = 0; kd < d->kernel; kd++) {
        find_valid(d, kd, &d_begin, &d_end);
        for (int64_t kh = 0; kh < h->kernel; kh++) {
            find_valid(h, kh, &h_begin, &h_end);
            for (int64_t kw = 0; kw < w->kernel; kw++) {
                find_valid(w, kw, &w_begin, &w_end);
                int64_t column = w_begin * w->stride + kw * w->dilation - w->pad;
                for (int64_t od = d_begin; od < d_end; od++)
                    for (int64_t oh = h_begin; oh < h_end; oh++) {
                        int64_t depth = od * d->stride + kd * d->dilation - d->pad;
                        int64_t row = oh * h->stride + kh * h->dilation - h->pad;
                        row_fn(y + (od * h->out + oh) * w->out + w_begin,
                               x + (depth * h->in + row) * w->in + column, w_end - w_begin,
                               w->stride);
                    }
            }
        }
    }
}

/* All taps of the last dimension over one row. */
static void sweep_columns(const struct mpq_pool_dim *w, const mpq_real *x, mpq_real *y,
                          mpq_pool_row_fn *row_fn)
{
    for (int64_t kw = 0; kw < w->kernel; kw++) {
        int64_t begin, end;
        find_valid(w, kw, &begin, &end);
        if (begin < end)
            row_fn(y + begin, x + begin * w->stride + kw * w->dilation - w->pad, end - begin,
                   w->stride);
    }
}

size_t mpq_pool_separable_bytes(const struct mpq_pool *pool)
{
    return ((size_t)pool->dim[2].in * sizeof(mpq_real) + 63) / 64 * 64;
}

void mpq_pool_separable(const struct mpq_pool *pool, const mpq_real *x, mpq_real *y, mpq_real start,
                        mpq_real *row, mpq_pool_row_fn *row_fn)
{
    const struct mpq_pool_dim *d = &pool->dim[0], *h = &pool->dim[1], *w = &pool->dim[2];
    for (int64_t i = 0; i < pool->out_count; i++)
        y[i] = start;
    for (int64_t od = 0; od < d->out; od++)
        for (int64_t oh = 0; oh < h->out; oh++, y += w->out) {
            for (int64_t i = 0; i < w->in; i++)
                row[i] = start;
            for (int64_t kd = 0; kd < d->kernel; kd++)
                for (int64_t kh = 0; kh < h->kernel; kh++) {
                    int64_t depth = od * d->stride + kd * d->dilation - d->pad;
                    int64_t line = oh * h->stride + kh * h->dilation - h->pad;
                    if (depth >= 0 && depth < d->in && line >= 0 && line < h->in)
                        row_fn(row, x + (depth * h->in + line) * w->in, w->in, 1);
                }
            sweep_columns(w, row, y, row_fn);
        }
}
