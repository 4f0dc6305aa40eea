/* MelWeightMatrix: [dft_length / 2 + 1, num_mel_bins] weights that gather the bins of a spectrum
 * into triangles evenly spaced on the mel scale. All five inputs are constant scalars. */
#include <math.h>

#include "quantcore/ops/op_util.h"

enum { N_BINS, DFT_LENGTH, SAMPLE_RATE, LOW_HZ, HIGH_HZ, N_INPUT };

static enum mpq_status mel_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                 const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    if (mpq_attr_int(&node->attr_set, "output_datatype", MPQ_FLOAT) != MPQ_FLOAT)
        return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "weights of another type than float");
    for (int i = 0; i < N_INPUT; i++) {
        if (!x[i]->data)
            return mpq_fail_node(ctx, node, MPQ_E_UNSUPPORTED, "input %d is not constant", i);
        if (mpq_shape_count(&x[i]->shape) != 1 ||
            (x[i]->dtype != MPQ_FLOAT && (i > SAMPLE_RATE || !mpq_dtype_is_integer(x[i]->dtype))))
            return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "input %d is %s %s", i,
                                 mpq_dtype_name(x[i]->dtype), MPQ_SHAPE_TEXT(&x[i]->shape));
    }
    double n = mpq_tensor_double(x[N_BINS], 0), length = mpq_tensor_double(x[DFT_LENGTH], 0);
    if (!(n >= 1 && n < 1e6 && length >= 1 && length < 1e6 &&
          mpq_tensor_double(x[SAMPLE_RATE], 0) > 0))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "%g bins of a spectrum of %g", n, length);
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT,
                         &MPQ_SHAPE((int64_t)length / 2 + 1, (int64_t)n));
}

/* The spectrum's bin of edge i of 0 .. bins + 1. */
static int64_t edge(const struct mpq_kernel_args *args, int64_t i)
{
    double v[N_INPUT];
    for (int k = 0; k < N_INPUT; k++)
        v[k] = mpq_tensor_double(args->x[k], 0);
    double low = 2595 * log10(1 + v[LOW_HZ] / 700), high = 2595 * log10(1 + v[HIGH_HZ] / 700);
    double mel = low + (double)i * (high - low) / (v[N_BINS] + 2);
    double hz = 700 * (pow(10, mel / 2595) - 1);
    return (int64_t)floor((v[DFT_LENGTH] + 1) * hz / v[SAMPLE_RATE]);
}

static void mel_forward(const struct mpq_kernel_args *args)
{
    mpq_real *y = args->y[0]->data;
    int64_t n_row = args->y[0]->shape.dim[0], n = args->y[0]->shape.dim[1];
    for (int64_t i = 0; i < n_row * n; i++)
        y[i] = 0;
    for (int64_t bin = 0; bin < n; bin++) {
        int64_t low = edge(args, bin), centre = edge(args, bin + 1), high = edge(args, bin + 2);
        if (low == centre && centre >= 0 && centre < n_row)
            y[centre * n + bin] = 1;
        for (int64_t i = low < 0 ? 0 : low; low < centre && i <= centre && i < n_row; i++)
            y[i * n + bin] = (mpq_real)((double)(i - low) / (double)(centre - low));
        for (int64_t i = centre < 0 ? 0 : centre; i < high && i < n_row; i++)
            y[i * n + bin] = (mpq_real)((double)(high - i) / (double)(high - centre));
    }
}

const struct mpq_op mpq_op_mel_weight_matrix = {.name = "MelWeightMatrix",
                                                .domain = "",
                                                .n_in_min = N_INPUT,
                                                .n_in_max = N_INPUT,
                                                .n_out_min = 1,
                                                .n_out_max = 1,
                                                .infer = mel_infer,
                                                .forward = mel_forward};
