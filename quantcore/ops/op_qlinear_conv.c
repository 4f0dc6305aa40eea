/* QLinearConv: y = quantized conv(x, w) + bias of 8-bit tensors with an int32 bias in units of
 * x_scale * w_scale; scale and zero point of w by tensor or output channel. ConvInteger: the same
 * sums, in int32.
 *
 * The convolution runs in mpq_real on x - x_zero and w - w_zero: all products and sums are
 * integers, exact as long as they stay below 2^24. Where the weights of an output channel could
 * take the sum beyond that, the filter is cut into slices, runs of (input channel, tap), whose sums
 * int32 takes. Where the processor multiplies bytes (mpq_tile_bytes()) and x is unsigned, w signed
 * with zero point 0 and padding is x's zero point or none, the codes themselves are multiplied,
 * four channels at once, and x_zero times the weights is taken off by way of the bias; slices are
 * whole channels then. Images are taken a few at a time, so that what lies between the conversions
 * stays in cache. 1 x 1 and depthwise filters of bytes do without conversions (byte_product.h,
 * byte_filter.h). */
#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/conv_attrs.h"
#include "quantcore/ops/kernel/byte_filter.h"
#include "quantcore/ops/kernel/byte_product.h"
#include "quantcore/ops/kernel/integer_gemm.h"
#include "quantcore/ops/kernel/pointwise.h"
#include "quantcore/ops/kernel/quantized.h"
#include "quantcore/ops/kernel/scratch.h"
#include "quantcore/ops/kernel/tile.h"
#include "quantcore/ops/op_util.h"

extern const struct mpq_op mpq_op_conv_integer;

#define CHUNK_ELEMENTS (1 << 21) /* of x and y together, converted at once */

enum place { X, X_SCALE, X_ZERO, W, W_SCALE, W_ZERO, Y_SCALE, Y_ZERO, BIAS };
enum integer_place { INTEGER_X, INTEGER_W, INTEGER_X_ZERO, INTEGER_W_ZERO };

struct operands {
    const struct mpq_tensor *x, *x_zero, *w, *w_zero, *bias;
    const struct mpq_tensor *x_scale, *w_scale, *y_scale, *y_zero; /* NULL: sums are wanted */
};

static struct operands operands_of(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    if (node->op == &mpq_op_conv_integer)
        return (struct operands){.x = x[INTEGER_X],
                                 .x_zero = mpq_input(node, x, INTEGER_X_ZERO),
                                 .w = x[INTEGER_W],
                                 .w_zero = mpq_input(node, x, INTEGER_W_ZERO)};
    return (struct operands){x[X],
                             mpq_input(node, x, X_ZERO),
                             x[W],
                             mpq_input(node, x, W_ZERO),
                             mpq_input(node, x, BIAS),
                             x[X_SCALE],
                             x[W_SCALE],
                             x[Y_SCALE],
                             mpq_input(node, x, Y_ZERO)};
}

/* x, w and bias as a Conv has them, for what looks at shapes only. */
struct float_view {
    struct mpq_tensor tensor[3];
    const struct mpq_tensor *x[3];
};

static void view_as_float(const struct operands *operands, struct float_view *out)
{
    const struct mpq_tensor *from[] = {operands->x, operands->w, operands->bias};
    for (int i = 0; i < 3; i++) {
        out->x[i] = from[i] ? &out->tensor[i] : NULL;
        if (from[i])
            out->tensor[i] = (struct mpq_tensor){MPQ_FLOAT, from[i]->shape, NULL};
    }
}

static enum mpq_status qlinear_conv_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                          const struct mpq_tensor *const *x,
                                          struct mpq_tensor *const *y)
{
    struct operands operands = operands_of(node, x);
    struct float_view view;
    enum mpq_dtype dtype;
    view_as_float(&operands, &view);
    MPQ_TRY(mpq_conv_infer(ctx, node, view.x, y));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, X, X_SCALE, X_ZERO, 1));
    MPQ_TRY(mpq_quantized_check(ctx, node, x, W, W_SCALE, W_ZERO, x[W]->shape.dim[0]));
    MPQ_TRY(mpq_quantized_check_output(ctx, node, x, Y_SCALE, Y_ZERO, MPQ_UINT8, &dtype));
    if (operands.bias && operands.bias->dtype != MPQ_INT32)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "the bias is %s, not int32",
                             mpq_dtype_name(operands.bias->dtype));
    y[0]->dtype = dtype;
    return MPQ_OK;
}

static enum mpq_status conv_integer_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                          const struct mpq_tensor *const *x,
                                          struct mpq_tensor *const *y)
{
    struct operands operands = operands_of(node, x);
    struct float_view view;
    view_as_float(&operands, &view);
    MPQ_TRY(mpq_conv_infer(ctx, node, view.x, y));
    MPQ_TRY(mpq_quantized_check_codes(ctx, node, x, INTEGER_X, INTEGER_X_ZERO, 1));
    MPQ_TRY(mpq_quantized_check_codes(ctx, node, x, INTEGER_W, INTEGER_W_ZERO,
                                      operands.w->shape.dim[0]));
    y[0]->dtype = MPQ_INT32;
    return MPQ_OK;
}

struct job {
    struct mpq_conv conv;  /* of one chunk of images; c is that of the slice */
    int64_t c_group, taps; /* channels and taps of a filter              */
    int64_t in, out;       /* elements of a plane                           */
    int64_t begin, end;    /* the slice: (channel, tap) of a filter         */
    int channels;          /* to an element of x_real and w_real: 1 or 4 */
    struct operands operands;
    const uint8_t *x_data;
    uint8_t *y_data; /* or int32 */
    mpq_real *x_real, *w_real, *sum_real;
    mpq_real *less; /* [m] what x_zero adds to the slice's sums, negative; of 4 channels only */
    float *scale;   /* [m] from sums to steps of y; not where sums are wanted                 */
    int32_t *sum;
    void *workspace; /* of the convolution, or of the product of bytes                        */
    uint8_t *w_rows; /* [m, mpq_byte_product_row(c)] for that                                 */
    int32_t *bias;   /* [m] for that, with what x_zero adds                                   */
};

static int64_t chunk_images(const struct mpq_conv *conv)
{
    int64_t per_image = conv->c * mpq_volume(conv->in) + conv->m * mpq_volume(conv->out);
    int64_t n = per_image ? CHUNK_ELEMENTS / per_image : 1;
    return n < 1 ? 1 : n < conv->n ? n : conv->n;
}

/* x unsigned, w signed with zero point 0. */
static bool are_bytes(const struct operands *o)
{
    return o->x->dtype == MPQ_UINT8 && o->w->dtype == MPQ_INT8 &&
           !(o->w_zero &&
             mpq_sum_of_magnitudes(o->w_zero->data, true, 0, mpq_shape_count(&o->w_zero->shape)));
}

/* Whether codes may be multiplied as they are, four channels to an element: a channel's sum is
 * exact by itself. */
static bool takes_bytes(const struct mpq_conv *conv, const struct operands *o)
{
    int32_t x_zero = mpq_zero_at(o->x_zero, 0);
    if (!mpq_tile_bytes() || !are_bytes(o) || conv->c == conv->group ||
        mpq_volume(conv->kernel) * 255 * 128 > (int64_t)MPQ_EXACT_SUM)
        return false;
    for (int d = 0; d < 3 && x_zero != 0; d++) {
        int64_t last = (conv->out[d] - 1) * conv->stride[d] - conv->pad[d];
        if (conv->pad[d] > 0 || last + (conv->kernel[d] - 1) * conv->dilation[d] >= conv->in[d])
            return false;
    }
    return true;
}

static bool is_byte_product(const struct mpq_conv *conv)
{
    return conv->group == 1 && mpq_is_pointwise(conv) && mpq_byte_product_is_there();
}

/* The geometry with n the images of a chunk; cuts the workspace, of which the convolution has what
 * comes last. */
static size_t setup(const struct mpq_node *node, const struct mpq_tensor *const *x, void *workspace,
                    struct job *job)
{
    struct operands operands = operands_of(node, x);
    struct float_view view;
    view_as_float(&operands, &view);
    *job = (struct job){.conv = mpq_conv_geometry(node, view.x), .operands = operands};
    struct mpq_conv *conv = &job->conv;
    conv->n = chunk_images(conv);
    job->c_group = conv->c / conv->group;
    job->taps = mpq_volume(conv->kernel);
    job->in = mpq_volume(conv->in);
    job->out = mpq_volume(conv->out);
    size_t bytes = 0;
    int64_t n_out = conv->n * conv->m * job->out;
    job->scale = mpq_scratch_take(workspace, &bytes, conv->m, sizeof(float));
    job->x_real =
        mpq_scratch_take(workspace, &bytes, conv->n * conv->c * job->in, sizeof(mpq_real));
    job->w_real =
        mpq_scratch_take(workspace, &bytes, conv->m * job->c_group * job->taps, sizeof(mpq_real));
    job->sum_real = mpq_scratch_take(workspace, &bytes, n_out, sizeof(mpq_real));
    job->sum = mpq_scratch_take(workspace, &bytes, n_out, sizeof(int32_t));
    job->less = mpq_scratch_take(workspace, &bytes, conv->m, sizeof(mpq_real));
    job->workspace = mpq_scratch_take(workspace, &bytes, 0, 1);
    return bytes;
}

/* The same for a product of bytes. */
static size_t setup_product(void *workspace, struct job *job)
{
    const struct mpq_conv *conv = &job->conv;
    size_t bytes = 0;
    job->scale = mpq_scratch_take(workspace, &bytes, conv->m, sizeof(float));
    job->bias = mpq_scratch_take(workspace, &bytes, conv->m, sizeof *job->bias);
    job->w_rows = mpq_scratch_take(workspace, &bytes, conv->m * mpq_byte_product_row(conv->c), 1);
    job->workspace = mpq_scratch_take(workspace, &bytes, 0, 1);
    return bytes + mpq_byte_product_bytes(conv->c);
}

static size_t qlinear_conv_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                     struct mpq_tensor *const *y, bool training)
{
    (void)y;
    (void)training;
    struct job job;
    size_t bytes = setup(node, x, NULL, &job), most = 0;
    for (int64_t c = 1; c <= job.c_group; c++) { /* fewer channels take another path, perhaps */
        struct mpq_conv slice = job.conv;
        slice.c = c * job.conv.group;
        for (int is_bytes = 0; is_bytes < 2; is_bytes++) {
            slice.is_bytes = is_bytes;
            most = mpq_max_size(most, mpq_conv_forward_bytes(&slice));
        }
    }
    mpq_scratch_take(NULL, &bytes, (int64_t)most, 1);
    return is_byte_product(&job.conv) ? mpq_max_size(bytes, setup_product(NULL, &job)) : bytes;
}

/* The longest slice from job->begin on in which no output channel can exceed an exact sum. */
static int64_t slice_end(const struct job *job)
{
    const uint8_t *w = job->operands.w->data;
    bool is_signed = job->operands.w->dtype == MPQ_INT8;
    int64_t length = job->c_group * job->taps, end = length;
    struct mpq_requant x =
        mpq_requant_to(job->operands.x->dtype, mpq_zero_at(job->operands.x_zero, 0));
    double x_high = x.high > -x.low ? (double)x.high : (double)-x.low;
    if (job->channels > 1)
        x_high = 255;
    int64_t room = (int64_t)(MPQ_EXACT_SUM / x_high);
    if ((end - job->begin) * 255 <= room) /* whatever the weights are */
        return end;
    for (int64_t m = 0; m < job->conv.m; m++) {
        int32_t zero = mpq_zero_at(job->operands.w_zero, m);
        int64_t sum = 0;
        if (mpq_sum_of_magnitudes(w + m * length + job->begin, is_signed, zero, end - job->begin) <=
            room)
            continue;
        for (int64_t i = job->begin; i < end; i++) {
            int32_t value = mpq_quantized_value(is_signed, w[m * length + i]) - zero;
            sum += value < 0 ? -value : value;
            if (sum > room)
                end = i;
        }
    }
    if (job->channels > 1 && end < length)
        end -= (end - job->begin) % job->taps;
    return end;
}

/* Filters [begin, end), the slice's channels by four; and what x_zero adds to their sums. */
static void pack_filters(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t length = job->c_group * job->taps, first = job->begin / job->taps;
    int64_t n = job->end / job->taps - first, n_four = (n + 3) / 4;
    int32_t x_zero = mpq_zero_at(job->operands.x_zero, 0);
    (void)thread;
    for (int64_t m = begin; m < end; m++) {
        const uint8_t *w = (const uint8_t *)job->operands.w->data + m * length + job->begin;
        job->less[m] = (mpq_real)(-x_zero * mpq_sum_of_signed(w, n * job->taps));
        if (job->taps == 1) { /* they lie like that */
            mpq_real *to = job->w_real + m * n_four;
            to[n_four - 1] = 0;
            memcpy(to, w, (size_t)n);
            continue;
        }
        for (int64_t q = 0; q < n_four; q++)
            mpq_pack_bytes(w + 4 * q * job->taps, job->taps, (int)(n - 4 * q < 4 ? n - 4 * q : 4),
                           job->w_real + (m * n_four + q) * job->taps, job->taps);
    }
}

/* Filters [begin, end), their channels of the slice; taps outside of it are 0. */
static void convert_filters(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    bool is_signed = job->operands.w->dtype == MPQ_INT8;
    int64_t length = job->c_group * job->taps;
    int64_t first = job->begin / job->taps * job->taps;
    int64_t last = (job->end + job->taps - 1) / job->taps * job->taps;
    (void)thread;
    for (int64_t m = begin; m < end; m++) {
        mpq_real *to = job->w_real + m * (last - first);
        int32_t zero = mpq_zero_at(job->operands.w_zero, m);
        memset(to, 0, (size_t)(last - first) * sizeof *to);
        mpq_shift_to_real((const uint8_t *)job->operands.w->data + m * length + job->begin,
                          is_signed, zero, to + job->begin - first, job->end - job->begin);
    }
}

/* Planes [begin, end) of the n * group * channels of the slice, four to one. */
static void pack_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    int64_t first = job->begin / job->taps, n = job->end / job->taps - first, n_four = (n + 3) / 4;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int64_t done = p % n_four * 4, from = p / n_four * job->c_group + first + done;
        mpq_pack_bytes(job->x_data + from * job->in, job->in, (int)(n - done < 4 ? n - done : 4),
                       job->x_real + p * job->in, job->in);
    }
}

/* Planes [begin, end) of the n * group * channels of the slice. */
static void convert_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    bool is_signed = job->operands.x->dtype == MPQ_INT8;
    int32_t zero = mpq_zero_at(job->operands.x_zero, 0);
    int64_t c_slice = job->conv.c / job->conv.group, first = job->begin / job->taps;
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int64_t from = p / c_slice * job->c_group + first + p % c_slice;
        mpq_shift_to_real(job->x_data + from * job->in, is_signed, zero, job->x_real + p * job->in,
                          job->in);
    }
}

/* Output planes [begin, end) of the chunk: the slice's sums join the others, and after the last
 * slice they are rounded. */
static void finish_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct operands *o = &job->operands;
    const int32_t *bias = o->bias ? o->bias->data : NULL;
    bool is_sum = !o->y_scale, is_last = job->end == job->c_group * job->taps;
    struct mpq_requant to =
        mpq_requant_to(o->y_zero ? o->y_zero->dtype : MPQ_UINT8, mpq_zero_at(o->y_zero, 0));
    (void)thread;
    for (int64_t p = begin; p < end; p++) {
        int64_t m = p % job->conv.m, at = p * job->out;
        if (!job->begin && is_last && !is_sum) {
            mpq_requantize_real(&to, job->sum_real + at, bias ? bias[m] : 0, job->scale[m],
                                job->y_data + at, job->out);
            continue;
        }
        (job->begin ? mpq_integer_add : mpq_integer_store)(job->sum + at, job->sum_real + at,
                                                           job->out);
        if (is_last && is_sum)
            memcpy((int32_t *)job->y_data + at, job->sum + at, (size_t)job->out * sizeof *job->sum);
        else if (is_last)
            mpq_requantize(&to, job->sum + at, bias ? bias[m] : 0, job->scale[m], job->y_data + at,
                           job->out);
    }
}

static void find_scales(const struct job *job)
{
    const struct operands *o = &job->operands;
    if (!o->y_scale)
        return;
    float x_scale = mpq_scale_at(o->x_scale, 0), y_scale = mpq_scale_at(o->y_scale, 0);
    for (int64_t m = 0; m < job->conv.m; m++)
        job->scale[m] = x_scale * mpq_scale_at(o->w_scale, m) / y_scale;
}

/* The slice that begins at job->begin: where it ends, and its weights. */
static void take_slice(struct job *job)
{
    int64_t length = job->c_group * job->taps;
    job->end = slice_end(job);
    int64_t n_channel = (job->end + job->taps - 1) / job->taps - job->begin / job->taps;
    job->conv.c = (n_channel + job->channels - 1) / job->channels * job->conv.group;
    mpq_parallel_for(job->conv.m, 1 + MPQ_GRAIN / length,
                     job->channels > 1 ? pack_filters : convert_filters, job);
}

static void run_slice(struct job *job)
{
    mpq_parallel_for(job->conv.n * job->conv.c, 1 + MPQ_GRAIN / (job->in + 1),
                     job->channels > 1 ? pack_planes : convert_planes, job);
    mpq_conv_forward(&job->conv, job->x_real, job->w_real, job->channels > 1 ? job->less : NULL,
                     false, NULL, job->sum_real, job->workspace);
    mpq_parallel_for(job->conv.n * job->conv.m, 1 + MPQ_GRAIN / (job->out + 1), finish_planes, job);
}

/* Filters [begin, end): their biases, and rows with zeros behind. */
static void take_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct operands *o = &job->operands;
    int64_t k = job->conv.c, row = mpq_byte_product_row(k);
    int32_t x_zero = mpq_zero_at(o->x_zero, 0);
    const int32_t *bias = o->bias ? o->bias->data : NULL;
    (void)thread;
    for (int64_t m = begin; m < end; m++) {
        const uint8_t *w = (const uint8_t *)o->w->data + m * k;
        uint32_t less = x_zero ? (uint32_t)x_zero * (uint32_t)mpq_sum_of_signed(w, k) : 0;
        job->bias[m] = (int32_t)((bias ? (uint32_t)bias[m] : 0) - less);
        if (row > k) {
            memcpy(job->w_rows + m * row, w, (size_t)k);
            memset(job->w_rows + m * row + k, 0, (size_t)(row - k));
        }
    }
}

static void run_product(struct job *job, const struct mpq_kernel_args *args)
{
    const struct mpq_conv *conv = &job->conv;
    const struct operands *o = &job->operands;
    setup_product(args->workspace, job);
    find_scales(job);
    mpq_parallel_for(conv->m, 1 + MPQ_GRAIN / conv->c, take_rows, job);
    mpq_byte_product_run(
        &(struct mpq_byte_product){
            .n = o->x->shape.dim[0],
            .m = conv->m,
            .k = conv->c,
            .places = job->in,
            .x = o->x->data,
            .w = mpq_byte_product_row(conv->c) > conv->c ? job->w_rows : o->w->data,
            .bias = job->bias,
            .scale = job->scale,
            .to = mpq_requant_to(args->y[0]->dtype, mpq_zero_at(o->y_zero, 0)),
            .y_is_signed = args->y[0]->dtype == MPQ_INT8,
            .y = args->y[0]->data},
        job->workspace);
}

static void run_filter(struct job *job, const struct mpq_kernel_args *args)
{
    const struct operands *o = &job->operands;
    find_scales(job);
    job->conv.n = o->x->shape.dim[0];
    mpq_byte_filter_run(&(struct mpq_byte_filter){
        .conv = &job->conv,
        .x = o->x->data,
        .w = o->w->data,
        .x_zero = mpq_zero_at(o->x_zero, 0),
        .bias = o->bias ? o->bias->data : NULL,
        .scale = job->scale,
        .to = mpq_requant_to(args->y[0]->dtype, mpq_zero_at(o->y_zero, 0)),
        .y = args->y[0]->data});
}

static void qlinear_conv_forward(const struct mpq_kernel_args *args)
{
    struct job job;
    setup(args->node, args->x, args->workspace, &job);
    int64_t n = job.operands.x->shape.dim[0], chunk = job.conv.n, length = job.c_group * job.taps;
    int64_t x_image = job.conv.c * job.in, y_image = job.conv.m * job.out;
    if (length == 0 || mpq_shape_count(&args->y[0]->shape) == 0)
        return;
    job.conv.is_bytes = takes_bytes(&job.conv, &job.operands);
    if (job.conv.is_bytes && job.operands.y_scale && is_byte_product(&job.conv)) {
        run_product(&job, args);
        return;
    }
    if (job.operands.y_scale && mpq_is_byte_filter(&job.conv) && are_bytes(&job.operands)) {
        run_filter(&job, args);
        return;
    }
    job.channels = job.conv.is_bytes ? 4 : 1;
    find_scales(&job);
    take_slice(&job);
    bool is_one_slice = job.end == length; /* its weights serve all images */
    for (int64_t first = 0; first < n; first += chunk) {
        job.conv.n = n - first < chunk ? n - first : chunk;
        job.x_data = (const uint8_t *)job.operands.x->data + first * x_image;
        job.y_data = (uint8_t *)args->y[0]->data +
                     (size_t)(first * y_image) * mpq_dtype_bytes(args->y[0]->dtype);
        for (job.begin = 0; job.begin < length; job.begin = job.end) {
            if (!is_one_slice)
                take_slice(&job);
            run_slice(&job);
        }
    }
}

static uint64_t qlinear_conv_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                  struct mpq_tensor *const *y)
{
    const struct mpq_shape *w = &operands_of(node, x).w->shape;
    return (uint64_t)mpq_shape_count(&y[0]->shape) * (uint64_t)mpq_shape_count_range(w, 1, w->rank);
}

const struct mpq_op mpq_op_qlinear_conv = {.name = "QLinearConv",
                                           .domain = "",
                                           .n_in_min = 8,
                                           .n_in_max = 9,
                                           .n_out_min = 1,
                                           .n_out_max = 1,
                                           .parse = mpq_conv_parse,
                                           .infer = qlinear_conv_infer,
                                           .workspace = qlinear_conv_workspace,
                                           .forward = qlinear_conv_forward,
                                           .macs = qlinear_conv_macs};

const struct mpq_op mpq_op_conv_integer = {.name = "ConvInteger",
                                           .domain = "",
                                           .n_in_min = 2,
                                           .n_in_max = 4,
                                           .n_out_min = 1,
                                           .n_out_max = 1,
                                           .parse = mpq_conv_parse,
                                           .infer = conv_integer_infer,
                                           .workspace = qlinear_conv_workspace,
                                           .forward = qlinear_conv_forward,
                                           .macs = qlinear_conv_macs};
