/* Col2Im: x [N, C * block, n_block] summed back into images [N, C, ...] at the places that its
 * columns were cut from: the transpose of what convolution does to its input. image_shape and
 * block_shape are constant. */
#include <string.h>

#include "quantcore/ops/op_util.h"

#define MAX_DIMS 6

struct geometry {
    int n;
    int64_t image[MAX_DIMS], block[MAX_DIMS], stride[MAX_DIMS], dilation[MAX_DIMS];
    int64_t pad[2 * MAX_DIMS], count[MAX_DIMS]; /* blocks along each dimension */
    int64_t n_image, n_tap, n_block;            /* elements of an image, of a block; blocks */
};

/* n entries of at least `least`, or `absent` where there is no such attribute. */
static enum mpq_status read_list(struct mpq_ctx *ctx, const struct mpq_node *node, const char *name,
                                 int n, int64_t absent, int64_t least, int64_t *out)
{
    size_t n_list;
    const int64_t *list = mpq_attr_ints(&node->attr_set, name, &n_list);
    if (list && n_list != (size_t)n)
        return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%s has %zu entries, not %d", name, n_list,
                             n);
    for (int i = 0; i < n; i++) {
        out[i] = list ? list[i] : absent;
        if (out[i] < least || out[i] > INT32_MAX)
            return mpq_fail_node(ctx, node, MPQ_E_FORMAT, "%s has the entry %lld", name,
                                 (long long)out[i]);
    }
    return MPQ_OK;
}

/* As large as can be where the product is larger: no tensor has so many elements. */
static int64_t times(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

/* The values of inputs that infer has checked. */
static struct geometry geometry_of(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    struct mpq_ctx quiet;
    mpq_ctx_init(&quiet);
    struct geometry g = {.n = (int)x[1]->shape.dim[0], .n_image = 1, .n_tap = 1, .n_block = 1};
    bool good = read_list(&quiet, node, "strides", g.n, 1, 1, g.stride) == MPQ_OK &&
                read_list(&quiet, node, "dilations", g.n, 1, 1, g.dilation) == MPQ_OK &&
                read_list(&quiet, node, "pads", 2 * g.n, 0, 0, g.pad) == MPQ_OK;
    MPQ_ASSERT(good);
    for (int d = 0; d < g.n; d++) {
        g.image[d] = mpq_tensor_int(x[1], d);
        g.block[d] = mpq_tensor_int(x[2], d);
        int64_t room =
            g.image[d] + g.pad[d] + g.pad[g.n + d] - g.dilation[d] * (g.block[d] - 1) - 1;
        g.count[d] = room < 0 ? 0 : room / g.stride[d] + 1;
        g.n_image = times(g.n_image, g.image[d]);
        g.n_tap = times(g.n_tap, g.block[d]);
        g.n_block = times(g.n_block, g.count[d]);
    }
    return g;
}

static enum mpq_status col2im_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    int64_t image[MAX_DIMS], block[MAX_DIMS], list[2 * MAX_DIMS];
    int n = 0, n_block = 0;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_const_ints(ctx, node, x, 1, "image_shape", MAX_DIMS, image, &n));
    MPQ_TRY(mpq_const_ints(ctx, node, x, 2, "block_shape", MAX_DIMS, block, &n_block));
    MPQ_TRY(read_list(ctx, node, "pads", 2 * n, 0, 0, list));
    MPQ_TRY(read_list(ctx, node, "dilations", n, 1, 1, list));
    MPQ_TRY(read_list(ctx, node, "strides", n, 1, 1, list));
    struct mpq_shape shape = {.rank = n + 2};
    bool good = n > 0 && n == n_block && x[0]->shape.rank == 3;
    for (int d = 0; d < n && good; d++) {
        good = image[d] > 0 && image[d] <= INT32_MAX && block[d] > 0 && block[d] <= INT32_MAX;
        shape.dim[2 + d] = image[d];
    }
    if (good) {
        struct geometry g = geometry_of(node, x);
        good = x[0]->shape.dim[2] == g.n_block && x[0]->shape.dim[1] % g.n_tap == 0;
        shape.dim[0] = x[0]->shape.dim[0];
        shape.dim[1] = x[0]->shape.dim[1] / g.n_tap;
    }
    if (!good)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "an input of %s does not fit image and block",
                             MPQ_SHAPE_TEXT(&x[0]->shape));
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

/* Where tap `tap` of block `block` lies in an image, or -1 in its padding. */
static int64_t place(const struct geometry *g, int64_t tap, int64_t block)
{
    int64_t at = 0, step = 1;
    for (int d = g->n - 1; d >= 0; d--) {
        int64_t k =
            block % g->count[d] * g->stride[d] + tap % g->block[d] * g->dilation[d] - g->pad[d];
        if (k < 0 || k >= g->image[d])
            return -1;
        at += k * step;
        step *= g->image[d];
        block /= g->count[d];
        tap /= g->block[d];
    }
    return at;
}

static void col2im_forward(const struct mpq_kernel_args *args)
{
    struct geometry g = geometry_of(args->node, args->x);
    int64_t n_plane = args->y[0]->shape.dim[0] * args->y[0]->shape.dim[1];
    const mpq_real *x = args->x[0]->data;
    mpq_real *y = args->y[0]->data;
    memset(y, 0, mpq_tensor_bytes(args->y[0]));
    for (int64_t p = 0; p < n_plane; p++)
        for (int64_t tap = 0; tap < g.n_tap; tap++)
            for (int64_t b = 0; b < g.n_block; b++) {
                int64_t at = place(&g, tap, b);
                if (at >= 0)
                    y[p * g.n_image + at] += x[(p * g.n_tap + tap) * g.n_block + b];
            }
}

static void col2im_backward(const struct mpq_kernel_args *args)
{
    struct geometry g = geometry_of(args->node, args->x);
    int64_t n_plane = args->y[0]->shape.dim[0] * args->y[0]->shape.dim[1];
    for (int64_t p = 0; args->dx[0] && args->dy[0] && p < n_plane; p++)
        for (int64_t tap = 0; tap < g.n_tap; tap++)
            for (int64_t b = 0; b < g.n_block; b++) {
                int64_t at = place(&g, tap, b);
                if (at >= 0)
                    args->dx[0][(p * g.n_tap + tap) * g.n_block + b] +=
                        args->dy[0][p * g.n_image + at];
            }
}

const struct mpq_op mpq_op_col2im = {.name = "Col2Im",
                                     .domain = "",
                                     .n_in_min = 3,
                                     .n_in_max = 3,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .infer = col2im_infer,
                                     .forward = col2im_forward,
                                     .backward = col2im_backward};
