/* Matrix products, recurrent layers, tables and choices with quantized operands. */
#include "importer/contrib_job.h"
#include "importer/contrib_rules.h"

/* Code k of a row: `bits` of them a byte, the first in the low bits. */
static unsigned code_at(const uint8_t *row, int64_t k, int bits)
{
    return row[k * bits / 8] >> (k * bits % 8) & ((1u << bits) - 1);
}

struct nbits {
    int64_t k, n, block, n_block;
    int bits;
    struct mpq_tensor code, scale, zero;
    bool has_zero;
};

/* w[k][n] = (code - zero) * scale of its block, in float as MatMulNBits dequantizes. */
static void dequantize(const struct nbits *b, float *w)
{
    int64_t blob = b->block * b->bits / 8, zero_row = (b->n_block * b->bits + 7) / 8;
    for (int64_t n = 0; n < b->n; n++)
        for (int64_t k = 0; k < b->k; k++) {
            int64_t block = k / b->block;
            const uint8_t *codes = (const uint8_t *)b->code.data + (n * b->n_block + block) * blob;
            float zero = (float)(1 << (b->bits - 1));
            if (b->has_zero && b->zero.dtype == MPQ_UINT8)
                zero = (float)code_at((const uint8_t *)b->zero.data + n * zero_row, block, b->bits);
            else if (b->has_zero)
                zero = (float)mpq_tensor_double(&b->zero, n * b->n_block + block);
            float scale = (float)mpq_tensor_double(&b->scale, n * b->n_block + block);
            w[k * b->n + n] = ((float)code_at(codes, k % b->block, b->bits) - zero) * scale;
        }
}

/* k, n or a block of so many that n rows of k rounded up to blocks can be counted. */
static bool is_size(int64_t size)
{
    return size > 0 && size <= (int64_t)1 << 28;
}

/* MatMulNBits: x by a matrix stored in blocks along k. The codes become the floats they stand for.
 */
bool mpq_contrib_matmul_nbits(struct mpq_job *job)
{
    int64_t bits = mpq_job_int(job, "bits", 4);
    struct nbits b = {.k = mpq_job_int(job, "K", 0),
                      .n = mpq_job_int(job, "N", 0),
                      .block = mpq_job_int(job, "block_size", 0),
                      .bits = bits == 2 || bits == 4 || bits == 8 ? (int)bits : 0};
    struct mpq_tensor weight;
    bool fits = b.bits && is_size(b.k) && is_size(b.n) && is_size(b.block) && b.block % 16 == 0;
    if (!fits || mpq_job_in(job, 4) || !mpq_job_read_constant(job, 1, &b.code) ||
        !mpq_job_read_constant(job, 2, &b.scale))
        return job->failed;
    b.n_block = (b.k + b.block - 1) / b.block;
    b.has_zero = mpq_job_in(job, 3) != NULL;
    if (b.has_zero && !mpq_job_read_constant(job, 3, &b.zero))
        return job->failed;
    int64_t n_zero = b.has_zero ? mpq_shape_count(&b.zero.shape) : 0;
    bool is_packed = b.has_zero && b.zero.dtype == MPQ_UINT8;
    if (b.code.dtype != MPQ_UINT8 || b.scale.dtype != MPQ_FLOAT ||
        mpq_shape_count(&b.code.shape) != b.n * b.n_block * (b.block * b.bits / 8) ||
        mpq_shape_count(&b.scale.shape) != b.n * b.n_block ||
        (is_packed && n_zero != b.n * ((b.n_block * b.bits + 7) / 8)) ||
        (b.has_zero && !is_packed && (b.zero.dtype != MPQ_FLOAT || n_zero != b.n * b.n_block)))
        return false;
    if (!mpq_job_alloc(job, &MPQ_SHAPE(b.k, b.n), &weight))
        return true;
    dequantize(&b, weight.data);
    char *bias = mpq_job_in(job, 5);
    char *y = mpq_make(job, "MatMul", bias ? NULL : mpq_job_out(job, 0), mpq_job_in(job, 0),
                       mpq_make_constant(job, &weight), NULL);
    if (bias)
        mpq_make(job, "Add", mpq_job_out(job, 0), y, bias, NULL);
    return true;
}

char *mpq_make_scaled_product(struct mpq_job *job, char *to, char *const in[4], char *scale,
                              char *bias)
{
    char *y = mpq_make_list(job, "MatMulInteger", NULL, 4, in);
    y = mpq_make_with(job, "Cast", NULL, y, "to", MPQ_FLOAT);
    y = mpq_make(job, "Mul", bias ? NULL : to, y, scale, NULL);
    return bias ? mpq_make(job, "Add", to, y, bias, NULL) : y;
}

/* MatMulIntegerToFloat: a, b, their scales, their zero points, bias. */
bool mpq_contrib_matmul_integer_to_float(struct mpq_job *job)
{
    char *scale = mpq_make(job, "Mul", NULL, mpq_job_in(job, 2), mpq_job_in(job, 3), NULL);
    char *in[4] = {mpq_job_in(job, 0), mpq_job_in(job, 1), mpq_job_in(job, 4), mpq_job_in(job, 5)};
    mpq_make_scaled_product(job, mpq_job_out(job, 0), in, scale, mpq_job_in(job, 6));
    return true;
}

/* DynamicQuantizeMatMul: a in float, b, its scale and zero point, bias. */
bool mpq_contrib_dynamic_quantize_matmul(struct mpq_job *job)
{
    char **made = mpq_arena_alloc(job->rewrite->ctx, job->rewrite->arena, 3, sizeof *made);
    char *a = mpq_job_in(job, 0);
    for (int i = 0; made && i < 3; i++)
        made[i] = mpq_make_name(job, "quantized");
    if (!made || job->failed || !mpq_make(job, "DynamicQuantizeLinear", made[0], a, NULL, NULL)) {
        job->failed = true;
        return true;
    }
    Onnx__NodeProto *quantize = job->rewrite->node[job->rewrite->n_node - 1];
    quantize->output = made;
    quantize->n_output = 3;
    char *in[4] = {made[0], mpq_job_in(job, 1), made[2], mpq_job_in(job, 3)};
    char *scale = mpq_make(job, "Mul", NULL, made[1], mpq_job_in(job, 2), NULL);
    mpq_make_scaled_product(job, mpq_job_out(job, 0), in, scale, mpq_job_in(job, 4));
    return true;
}

/* Weights of gates as DynamicQuantizeLSTM has them, one matrix a direction, with their scales and
 * zero points: one a direction, or one a column. */
struct gates {
    struct mpq_tensor code, scale, zero;
    bool has_zero;
};

static bool read_gates(struct mpq_job *job, size_t at, size_t scale_at, struct gates *g)
{
    if (!mpq_job_read_constant(job, at, &g->code) ||
        !mpq_job_read_constant(job, scale_at, &g->scale))
        return false;
    g->has_zero = mpq_job_in(job, scale_at + 1) != NULL;
    if (g->has_zero && !mpq_job_read_constant(job, scale_at + 1, &g->zero))
        return false;
    const struct mpq_shape *code = &g->code.shape, *scale = &g->scale.shape;
    if ((g->code.dtype != MPQ_INT8 && g->code.dtype != MPQ_UINT8) || code->rank != 3 ||
        code->dim[0] == 0 || g->scale.dtype != MPQ_FLOAT ||
        (g->has_zero && g->zero.dtype != g->code.dtype))
        return false;
    return (mpq_shape_equal(scale, &MPQ_SHAPE(code->dim[0])) ||
            mpq_shape_equal(scale, &MPQ_SHAPE(code->dim[0], code->dim[2]))) &&
           (!g->has_zero || mpq_shape_equal(scale, &g->zero.shape));
}

/* Codes [directions, k, n] to floats [directions, n, k], as LSTM has them; NULL: no room. */
static char *dequantize_gates(struct mpq_job *job, const struct gates *g)
{
    const int64_t *dim = g->code.shape.dim;
    int64_t per_direction = mpq_shape_count(&g->scale.shape) / dim[0];
    struct mpq_tensor weight;
    if (!mpq_job_alloc(job, &MPQ_SHAPE(dim[0], dim[2], dim[1]), &weight))
        return NULL;
    float *to = weight.data;
    for (int64_t d = 0; d < dim[0]; d++)
        for (int64_t n = 0; n < dim[2]; n++) {
            int64_t s = d * per_direction + n % per_direction;
            double scale = mpq_tensor_double(&g->scale, s);
            double zero = g->has_zero ? mpq_tensor_double(&g->zero, s) : 0;
            for (int64_t k = 0; k < dim[1]; k++) {
                double code = mpq_tensor_double(&g->code, (d * dim[1] + k) * dim[2] + n);
                *to++ = (float)((code - zero) * scale);
            }
        }
    return mpq_make_constant(job, &weight);
}

/* DynamicQuantizeLSTM: the inputs of LSTM, then scales and zero points of both weights. The codes
 * become the floats they stand for; what a runtime rounds to multiply them is not rounded. */
bool mpq_contrib_dynamic_quantize_lstm(struct mpq_job *job)
{
    static const char *const keeps[] = {
        "activation_alpha", "activation_beta", "activations",  "clip",
        "direction",        "hidden_size",     "input_forget", NULL};
    struct gates w = {0}, r = {0};
    if (!read_gates(job, 1, 8, &w) || !read_gates(job, 2, 10, &r))
        return job->failed;
    char **in =
        mpq_arena_copy(job->rewrite->ctx, job->rewrite->arena, job->node->input, 8 * sizeof *in);
    char *weight[2] = {dequantize_gates(job, &w), dequantize_gates(job, &r)};
    job->failed |= !in;
    if (!mpq_make_like(job, "LSTM", mpq_job_out(job, 0), 8, keeps) || job->failed)
        return true;
    Onnx__NodeProto *lstm = job->rewrite->node[job->rewrite->n_node - 1];
    in[1] = weight[0];
    in[2] = weight[1];
    lstm->input = in;
    lstm->output = job->node->output;
    lstm->n_output = job->node->n_output;
    return true;
}

/* A table in blocks along an axis: codes of a type of their own, or several in a byte along the
 * last axis, whose zero is then in the middle. */
struct table {
    struct mpq_tensor code, scale, zero;
    int axis, bits; /* bits: of a code in a byte, 0 where each has its own */
    int64_t block, length;
    bool has_zero;
};

static bool read_table(struct mpq_job *job, struct table *t)
{
    int64_t axis = mpq_job_int(job, "quantize_axis", 1);
    t->block = mpq_job_int(job, "block_size", 128);
    t->has_zero = mpq_job_in(job, 3) != NULL;
    if (!mpq_job_read_constant(job, 0, &t->code) || !mpq_job_read_constant(job, 2, &t->scale) ||
        (t->has_zero && !mpq_job_read_constant(job, 3, &t->zero)))
        return false;
    int rank = t->code.shape.rank;
    t->axis = (int)(axis < 0 ? axis + rank : axis);
    t->bits = t->code.dtype == MPQ_UINT8 ? (int)mpq_job_int(job, "bits", 4) : 0;
    bool is_nibble = t->code.dtype == MPQ_UINT4 || t->code.dtype == MPQ_INT4;
    if ((!is_nibble && t->bits != 2 && t->bits != 4 && t->bits != 8) || t->axis < 0 ||
        t->axis >= rank || t->block < 16 || t->block > 1 << 20 || t->scale.dtype != MPQ_FLOAT ||
        t->scale.shape.rank != rank || (t->has_zero && t->zero.dtype != t->code.dtype) ||
        (t->bits && t->axis != rank - 1))
        return false;
    int64_t per_byte = t->bits ? 8 / t->bits : 1;
    struct mpq_shape scale = t->code.shape, zero;
    t->length = t->code.shape.dim[t->axis] * per_byte;
    scale.dim[t->axis] = (t->length + t->block - 1) / t->block;
    zero = scale;
    zero.dim[t->axis] = (scale.dim[t->axis] + per_byte - 1) / per_byte;
    return mpq_shape_equal(&t->scale.shape, &scale) &&
           (!t->has_zero || mpq_shape_equal(&t->zero.shape, &zero));
}

/* Element i along the axis of a row of codes, `stride` apart. */
static double table_code(const struct table *t, const struct mpq_tensor *code, int64_t first,
                         int64_t i, int64_t stride)
{
    if (t->bits)
        return code_at((const uint8_t *)code->data + first, i, t->bits);
    return mpq_tensor_double(code, first + i * stride);
}

static void dequantize_table(const struct table *t, float *out)
{
    const struct mpq_shape *shape = &t->code.shape;
    int64_t inner = mpq_shape_count_range(shape, t->axis + 1, shape->rank), at = 0;
    int64_t n_block = t->scale.shape.dim[t->axis], stored = shape->dim[t->axis];
    int64_t n_zero = t->has_zero ? t->zero.shape.dim[t->axis] : 0;
    for (int64_t o = 0; o < mpq_shape_count_range(shape, 0, t->axis); o++)
        for (int64_t i = 0; i < t->length; i++)
            for (int64_t k = 0; k < inner; k++) {
                int64_t block = i / t->block;
                double zero = t->bits ? 1 << (t->bits - 1) : 0;
                if (t->has_zero)
                    zero = table_code(t, &t->zero, o * n_zero * inner + k, block, inner);
                double scale = mpq_tensor_double(&t->scale, (o * n_block + block) * inner + k);
                double code = table_code(t, &t->code, o * stored * inner + k, i, inner);
                out[at++] = (float)((code - zero) * scale);
            }
}

/* GatherBlockQuantized: rows of a table by their indices. The codes become the floats they stand
 * for. */
bool mpq_contrib_gather_block_quantized(struct mpq_job *job)
{
    struct table t = {0};
    struct mpq_tensor whole;
    if (!read_table(job, &t))
        return job->failed;
    struct mpq_shape shape = t.code.shape;
    shape.dim[t.axis] = t.length;
    if (!mpq_job_alloc(job, &shape, &whole))
        return true;
    dequantize_table(&t, whole.data);
    mpq_make(job, "Gather", mpq_job_out(job, 0), mpq_make_constant(job, &whole), mpq_job_in(job, 1),
             NULL);
    mpq_set_int(job, "axis", mpq_job_int(job, "gather_axis", 0));
    return true;
}

/* QLinearWhere: a condition; two tensors with scale and zero point each; those of the result. */
bool mpq_contrib_qlinear_where(struct mpq_job *job)
{
    char *choice[2];
    if (job->opset < 10 || !mpq_job_in(job, 4) || !mpq_job_in(job, 5) || !mpq_job_in(job, 7))
        return false;
    for (size_t i = 0; i < 2; i++)
        choice[i] = mpq_make(job, "DequantizeLinear", NULL, mpq_job_in(job, 3 * i + 1),
                             mpq_job_in(job, 3 * i + 2), mpq_job_in(job, 3 * i + 3));
    char *y = mpq_make(job, "Where", NULL, mpq_job_in(job, 0), choice[0], choice[1]);
    mpq_make(job, "QuantizeLinear", mpq_job_out(job, 0), y, mpq_job_in(job, 7), mpq_job_in(job, 8));
    return true;
}
