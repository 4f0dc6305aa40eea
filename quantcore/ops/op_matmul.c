/* MatMul, as numpy.matmul: the last two dimensions are matrices, those before them are broadcast; a
 * vector counts as a row on the left and as a column on the right. */
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/op_util.h"

struct product {
    int64_t m, n, k;
    int64_t n_batch;
    int rank; /* of the batch dimensions */
    int64_t dim[MPQ_MAX_RANK], a_stride[MPQ_MAX_RANK], b_stride[MPQ_MAX_RANK]; /* in matrices */
};

/* The shape without its matrix. */
static struct mpq_shape batch_shape(const struct mpq_shape *shape)
{
    struct mpq_shape batch = *shape;
    batch.rank = shape->rank > 2 ? shape->rank - 2 : 0;
    return batch;
}

/* How far apart, in matrices, neighbours along each dimension of `joint` lie in an operand; 0 along
 * dimensions in which it is broadcast. */
static void batch_strides(const struct mpq_shape *batch, const struct mpq_shape *joint,
                          int64_t *out_stride)
{
    int64_t stride = 1;
    for (int i = joint->rank - 1, j = batch->rank - 1; i >= 0; i--, j--) {
        out_stride[i] = j >= 0 && batch->dim[j] > 1 ? stride : 0;
        stride *= j >= 0 ? batch->dim[j] : 1;
    }
}

/* Where the right side is one matrix for all, the batch joins the rows of the left side. */
static struct product product_of(const struct mpq_shape *a, const struct mpq_shape *b)
{
    struct mpq_shape a_batch = batch_shape(a), b_batch = batch_shape(b), joint;
    struct product p = {.m = a->rank > 1 ? a->dim[a->rank - 2] : 1,
                        .n = b->rank > 1 ? b->dim[b->rank - 1] : 1,
                        .k = a->dim[a->rank - 1],
                        .n_batch = 1};
    if (mpq_shape_count(&b_batch) == 1 && a_batch.rank >= b_batch.rank) {
        p.m *= mpq_shape_count(&a_batch);
        return p;
    }
    (void)mpq_shape_broadcast(&a_batch, &b_batch, &joint);
    p.rank = joint.rank;
    p.n_batch = mpq_shape_count(&joint);
    for (int i = 0; i < joint.rank; i++)
        p.dim[i] = joint.dim[i];
    batch_strides(&a_batch, &joint, p.a_stride);
    batch_strides(&b_batch, &joint, p.b_stride);
    return p;
}

/* Which matrix of an operand takes part in product number `batch`. */
static int64_t matrix_index(const struct product *p, const int64_t *stride, int64_t batch)
{
    int64_t index = 0;
    for (int i = p->rank - 1; i >= 0; i--) {
        index += batch % p->dim[i] * stride[i];
        batch /= p->dim[i];
    }
    return index;
}

static bool is_broadcast(const struct product *p, const int64_t *stride)
{
    for (int i = 0; i < p->rank; i++)
        if (p->dim[i] > 1 && stride[i] == 0)
            return true;
    return false;
}

static enum mpq_status matmul_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *a = &x[0]->shape, *b = &x[1]->shape;
    MPQ_TRY(mpq_check_float(ctx, node, x, 0));
    MPQ_TRY(mpq_check_float(ctx, node, x, 1));
    struct mpq_shape a_batch = batch_shape(a), b_batch = batch_shape(b), shape;
    if (a->rank < 1 || b->rank < 1 ||
        a->dim[a->rank - 1] != b->dim[b->rank > 1 ? b->rank - 2 : 0] ||
        !mpq_shape_broadcast(&a_batch, &b_batch, &shape))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "cannot multiply %s by %s", MPQ_SHAPE_TEXT(a),
                             MPQ_SHAPE_TEXT(b));
    if (a->rank > 1)
        shape.dim[shape.rank++] = a->dim[a->rank - 2];
    if (b->rank > 1)
        shape.dim[shape.rank++] = b->dim[b->rank - 1];
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

struct job {
    struct product p;
    const mpq_real *a, *b, *dy;
    mpq_real *y, *da, *db;
};

static void forward_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct product *p = &job->p;
    for (int64_t i = begin; i < end; i++)
        mpq_gemm(false, false, p->m, p->n, p->k, 1,
                 job->a + matrix_index(p, p->a_stride, i) * p->m * p->k, p->k,
                 job->b + matrix_index(p, p->b_stride, i) * p->k * p->n, p->n, 0,
                 job->y + i * p->m * p->n, p->n);
}

static void da_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct product *p = &job->p;
    for (int64_t i = begin; i < end; i++)
        mpq_gemm(false, true, p->m, p->k, p->n, 1, job->dy + i * p->m * p->n, p->n,
                 job->b + matrix_index(p, p->b_stride, i) * p->k * p->n, p->n, 1,
                 job->da + matrix_index(p, p->a_stride, i) * p->m * p->k, p->k);
}

static void db_piece(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct product *p = &job->p;
    for (int64_t i = begin; i < end; i++)
        mpq_gemm(true, false, p->k, p->n, p->m, 1,
                 job->a + matrix_index(p, p->a_stride, i) * p->m * p->k, p->k,
                 job->dy + i * p->m * p->n, p->n, 1,
                 job->db + matrix_index(p, p->b_stride, i) * p->k * p->n, p->n);
}

/* Over the batch in parallel, unless that would leave threads idle (BLAS has its own) or pieces
 * would add into the same matrix. */
static void run(struct job *job, bool shared,
                void (*piece)(void *arg, int64_t begin, int64_t end, int thread))
{
    if (shared || job->p.n_batch < mpq_thread_count())
        piece(job, 0, job->p.n_batch, 0);
    else
        mpq_gemm_parallel_for(job->p.n_batch, 1, piece, job);
}

static struct job job_of(const struct mpq_kernel_args *args)
{
    return (struct job){.p = product_of(&args->x[0]->shape, &args->x[1]->shape),
                        .a = args->x[0]->data,
                        .b = args->x[1]->data};
}

static void matmul_forward(const struct mpq_kernel_args *args)
{
    struct job job = job_of(args);
    job.y = args->y[0]->data;
    run(&job, false, forward_piece);
}

/* dA = dy B', dB = A' dy */
static void matmul_backward(const struct mpq_kernel_args *args)
{
    struct job job = job_of(args);
    job.dy = args->dy[0];
    job.da = mpq_grad(args, 0);
    job.db = mpq_grad(args, 1);
    if (job.dy && job.da)
        run(&job, is_broadcast(&job.p, job.p.a_stride), da_piece);
    if (job.dy && job.db)
        run(&job, is_broadcast(&job.p, job.p.b_stride), db_piece);
}

static uint64_t matmul_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                            struct mpq_tensor *const *y)
{
    (void)node;
    (void)y;
    struct product p = product_of(&x[0]->shape, &x[1]->shape);
    return (uint64_t)p.n_batch * (uint64_t)p.m * (uint64_t)p.n * (uint64_t)p.k;
}

const struct mpq_op mpq_op_matmul = {.name = "MatMul",
                                     .domain = "",
                                     .n_in_min = 2,
                                     .n_in_max = 2,
                                     .n_out_min = 1,
                                     .n_out_max = 1,
                                     .weight_input = 1,
                                     .infer = matmul_infer,
                                     .backward_ignores = MPQ_IGNORES_Y,
                                     .forward = matmul_forward,
                                     .backward = matmul_backward,
                                     .macs = matmul_macs};
