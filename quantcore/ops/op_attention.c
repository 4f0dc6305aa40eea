/* Attention of opset 23: y = softmax(scale q k' + bias) v for each head, where k and v may have
 * fewer heads than q, of which each serves several in a row. q, k, v are [batch, heads, sequence,
 * size], or [batch, sequence, heads * size] with the numbers of heads as attributes.
 *
 * Inputs 3 to 6: a mask, bool or added; past keys and values that come before k and v and are given
 * back, all together, as outputs 1 and 2; how many keys of each batch entry are no padding. Output
 * 3 shows the scores at a stage that an attribute names. */
#include <math.h>
#include <string.h>

#include "quantcore/ops/op_util.h"

enum { Q, K, V, MASK, PAST_KEY, PAST_VALUE, LENGTHS, N_INPUT };

struct attrs {
    bool is_causal;
    int64_t q_heads, kv_heads, stage;
    double scale, softcap;
    int64_t left, right; /* how far before and after its place a query looks; -1: without end */
};

static enum mpq_status attention_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       struct mpq_node *node)
{
    const struct mpq_attr_set *set = &node->attr_set;
    struct attrs attrs = {
        mpq_attr_int(set, "is_causal", 0) != 0,    mpq_attr_int(set, "q_num_heads", 0),
        mpq_attr_int(set, "kv_num_heads", 0),      mpq_attr_int(set, "qk_matmul_output_mode", 0),
        (double)mpq_attr_float(set, "scale", 0),   (double)mpq_attr_float(set, "softcap", 0),
        mpq_attr_int(set, "left_window_size", -1), mpq_attr_int(set, "right_window_size", -1)};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

/* An operand: elements of one place of one head are contiguous. */
struct view {
    int64_t heads, places, size, batch_step, head_step, place_step;
};

static struct view view_of(const struct mpq_shape *shape, int64_t heads)
{
    if (shape->rank == 4)
        return (struct view){shape->dim[1],
                             shape->dim[2],
                             shape->dim[3],
                             shape->dim[1] * shape->dim[2] * shape->dim[3],
                             shape->dim[2] * shape->dim[3],
                             shape->dim[3]};
    if (heads < 0 || heads > shape->dim[2]) /* more than there is to share: does not fit */
        heads = 0;
    int64_t size = heads > 0 ? shape->dim[2] / heads : 0;
    return (struct view){heads, shape->dim[1], size, shape->dim[1] * shape->dim[2],
                         size,  shape->dim[2]};
}

struct problem {
    struct view q, k, v, past_k, past_v, y;
    int64_t batch, past, keys; /* keys: past and present */
    double scale, softcap;
    bool is_causal;
    int64_t left, right;
};

static struct problem problem_of(const struct mpq_node *node, const struct mpq_tensor *const *x)
{
    const struct attrs *attrs = node->attrs;
    struct problem p = {.q = view_of(&x[Q]->shape, attrs->q_heads),
                        .k = view_of(&x[K]->shape, attrs->kv_heads),
                        .v = view_of(&x[V]->shape, attrs->kv_heads),
                        .batch = x[Q]->shape.dim[0],
                        .softcap = attrs->softcap,
                        .is_causal = attrs->is_causal,
                        .left = attrs->left,
                        .right = attrs->right};
    if (mpq_input(node, x, PAST_KEY) && mpq_input(node, x, PAST_VALUE)) {
        p.past_k = view_of(&x[PAST_KEY]->shape, 0);
        p.past_v = view_of(&x[PAST_VALUE]->shape, 0);
        p.past = p.past_k.places;
    }
    p.keys = p.past + p.k.places;
    p.scale = attrs->scale != 0 ? attrs->scale : 1 / sqrt((double)p.q.size);
    p.y = (struct view){p.q.heads, p.q.places, p.v.size, 0, 0, 0};
    if (x[Q]->shape.rank == 4) {
        p.y.place_step = p.v.size;
        p.y.head_step = p.q.places * p.v.size;
    } else {
        p.y.place_step = p.q.heads * p.v.size;
        p.y.head_step = p.v.size;
    }
    p.y.batch_step = p.q.heads * p.q.places * p.v.size;
    return p;
}

static bool fits(const struct problem *p, const struct mpq_node *node,
                 const struct mpq_tensor *const *x)
{
    const struct mpq_tensor *mask = mpq_input(node, x, MASK),
                            *lengths = mpq_input(node, x, LENGTHS);
    bool has_past = mpq_input(node, x, PAST_KEY) || mpq_input(node, x, PAST_VALUE);
    bool good = p->q.heads > 0 && p->k.heads > 0 && p->q.heads % p->k.heads == 0 &&
                p->k.heads == p->v.heads && p->q.size == p->k.size && p->k.places == p->v.places &&
                x[K]->shape.dim[0] == p->batch && x[V]->shape.dim[0] == p->batch && p->q.size > 0;
    if (good && has_past)
        good = mpq_input(node, x, PAST_KEY) && mpq_input(node, x, PAST_VALUE) &&
               x[PAST_KEY]->shape.rank == 4 && x[PAST_VALUE]->shape.rank == 4 &&
               p->past_k.heads == p->k.heads && p->past_v.heads == p->v.heads &&
               p->past_k.size == p->k.size && p->past_v.size == p->v.size &&
               p->past_k.places == p->past_v.places && x[PAST_KEY]->shape.dim[0] == p->batch &&
               x[PAST_VALUE]->shape.dim[0] == p->batch;
    if (good && mask) { /* its last dimension may be short: what is missing is masked */
        struct mpq_shape scores = MPQ_SHAPE(p->batch, p->q.heads, p->q.places, p->keys), joint;
        struct mpq_shape padded = mask->shape;
        good = mask->shape.rank >= 1 && mask->shape.rank <= 4 &&
               (mask->dtype == MPQ_BOOL || mask->dtype == MPQ_FLOAT);
        if (good && padded.dim[padded.rank - 1] <= p->keys)
            padded.dim[padded.rank - 1] = p->keys;
        good = good && mpq_shape_broadcast(&scores, &padded, &joint) &&
               mpq_shape_equal(&scores, &joint);
    }
    if (good && lengths)
        good = mpq_dtype_is_integer(lengths->dtype) &&
               mpq_shape_equal(&lengths->shape, &MPQ_SHAPE(p->batch));
    return good;
}

static enum mpq_status attention_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                       const struct mpq_tensor *const *x,
                                       struct mpq_tensor *const *y)
{
    for (int i = 0; i < N_INPUT; i++)
        if (i < MASK || i == PAST_KEY || i == PAST_VALUE)
            MPQ_TRY(mpq_check_float(ctx, node, x, i));
    int rank = x[Q]->shape.rank;
    bool good = (rank == 3 || rank == 4) && x[K]->shape.rank == rank && x[V]->shape.rank == rank;
    struct problem p = {0};
    if (good)
        p = problem_of(node, x);
    if (!good || !fits(&p, node, x))
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "queries %s, keys %s, values %s do not fit",
                             MPQ_SHAPE_TEXT(&x[Q]->shape), MPQ_SHAPE_TEXT(&x[K]->shape),
                             MPQ_SHAPE_TEXT(&x[V]->shape));
    struct mpq_shape shape = MPQ_SHAPE(p.batch, p.q.heads, p.q.places, p.v.size);
    if (rank == 3)
        shape = MPQ_SHAPE(p.batch, p.q.places, p.q.heads * p.v.size);
    const struct mpq_shape more[] = {MPQ_SHAPE(p.batch, p.k.heads, p.keys, p.k.size),
                                     MPQ_SHAPE(p.batch, p.v.heads, p.keys, p.v.size),
                                     MPQ_SHAPE(p.batch, p.q.heads, p.q.places, p.keys)};
    for (uint32_t k = 1; k < node->n_out; k++)
        if (y[k])
            MPQ_TRY(mpq_infer_set(ctx, node, y[k], MPQ_FLOAT, &more[k - 1]));
    return mpq_infer_set(ctx, node, y[0], MPQ_FLOAT, &shape);
}

/* A row of scores, of probabilities, and of gradients of both. */
static size_t attention_workspace(const struct mpq_node *node, const struct mpq_tensor *const *x,
                                  struct mpq_tensor *const *y, bool training)
{
    (void)y, (void)training;
    return (size_t)problem_of(node, x).keys * 4 * sizeof(double);
}

/* Key or value number `key` of a head, past ones first. */
static int64_t offset_in(const struct view *view, int64_t batch, int64_t head, int64_t place)
{
    return batch * view->batch_step + head * view->head_step + place * view->place_step;
}

static const mpq_real *row_at(const struct mpq_kernel_args *args, const struct problem *p,
                              int which, int64_t batch, int64_t head, int64_t key)
{
    const struct view *now = which == K ? &p->k : &p->v;
    const struct view *past = which == K ? &p->past_k : &p->past_v;
    if (key < p->past)
        return (const mpq_real *)args->x[which == K ? PAST_KEY : PAST_VALUE]->data +
               offset_in(past, batch, head, key);
    return (const mpq_real *)args->x[which]->data + offset_in(now, batch, head, key - p->past);
}

/* What a mask, causality and padding add to a score: 0, -infinity, or the mask's own. */
static double bias_at(const struct mpq_kernel_args *args, const struct problem *p, int64_t batch,
                      int64_t head, int64_t i, int64_t key)
{
    const struct mpq_tensor *mask = mpq_input(args->node, args->x, MASK);
    const struct mpq_tensor *lengths = mpq_input(args->node, args->x, LENGTHS);
    double bias = 0;
    int64_t place = i + (lengths ? mpq_tensor_int(lengths, batch) - p->q.places : p->past);
    if ((p->is_causal && key > place) || (p->left >= 0 && key < place - p->left) ||
        (p->right >= 0 && key > place + p->right))
        return -INFINITY;
    if (lengths && key >= mpq_tensor_int(lengths, batch))
        return -INFINITY;
    if (mask) {
        int64_t index[4] = {batch, head, i, key}, at = 0;
        int rank = mask->shape.rank;
        if (key >= mask->shape.dim[rank - 1] && mask->shape.dim[rank - 1] != 1)
            return -INFINITY;
        for (int d = 0; d < rank; d++)
            at = at * mask->shape.dim[d] + (mask->shape.dim[d] == 1 ? 0 : index[4 - rank + d]);
        if (mask->dtype == MPQ_BOOL)
            bias = ((const uint8_t *)mask->data)[at] ? 0 : -INFINITY;
        else
            bias = (double)((const mpq_real *)mask->data)[at];
    }
    return bias;
}

/* The scores of one query and their softmax; all masked: 0. capped [keys] before the mask. */
struct row {
    double *raw, *probability;
};

static void attend(const struct mpq_kernel_args *args, const struct problem *p, int64_t batch,
                   int64_t head, int64_t i, struct row *row)
{
    const mpq_real *q = (const mpq_real *)args->x[Q]->data + offset_in(&p->q, batch, head, i);
    int64_t kv = head / (p->q.heads / p->k.heads);
    double largest = -INFINITY, sum = 0;
    for (int64_t key = 0; key < p->keys; key++) {
        const mpq_real *k = row_at(args, p, K, batch, kv, key);
        double score = 0;
        for (int64_t c = 0; c < p->q.size; c++)
            score += (double)q[c] * (double)k[c];
        row->raw[key] = score * p->scale;
        row->probability[key] =
            (p->softcap > 0 ? p->softcap * tanh(row->raw[key] / p->softcap) : row->raw[key]) +
            bias_at(args, p, batch, head, i, key);
        largest = fmax(largest, row->probability[key]);
    }
    for (int64_t key = 0; key < p->keys; key++)
        sum += isfinite(largest) ? exp(row->probability[key] - largest) : 0;
    for (int64_t key = 0; key < p->keys; key++)
        row->probability[key] = sum > 0 ? exp(row->probability[key] - largest) / sum : 0;
}

/* Stage 0: scaled products, 1: with the cap, 2: with the mask, 3: probabilities. */
static double score_at(const struct mpq_kernel_args *args, const struct problem *p,
                       const struct row *row, int64_t batch, int64_t head, int64_t i, int64_t key)
{
    int64_t stage = ((const struct attrs *)args->node->attrs)->stage;
    double score = row->raw[key];
    if (stage == 3)
        return row->probability[key];
    if (stage >= 1 && p->softcap > 0)
        score = p->softcap * tanh(score / p->softcap);
    return stage == 2 ? score + bias_at(args, p, batch, head, i, key) : score;
}

static struct row rows_in(const struct mpq_kernel_args *args, const struct problem *p)
{
    double *memory = args->workspace;
    return (struct row){memory, memory + p->keys};
}

static mpq_real *output(const struct mpq_kernel_args *args, uint32_t k)
{
    return k < args->node->n_out && args->y[k] ? args->y[k]->data : NULL;
}

/* Past and present keys or values, one after the other. */
static void join(const struct mpq_kernel_args *args, const struct problem *p, int which,
                 mpq_real *to)
{
    const struct view *view = which == K ? &p->k : &p->v;
    for (int64_t i = 0; to && i < p->batch * view->heads * p->keys; i++)
        memcpy(to + i * view->size,
               row_at(args, p, which, i / p->keys / view->heads, i / p->keys % view->heads,
                      i % p->keys),
               (size_t)view->size * sizeof *to);
}

static void attention_forward(const struct mpq_kernel_args *args)
{
    struct problem p = problem_of(args->node, args->x);
    struct row row = rows_in(args, &p);
    mpq_real *scores = output(args, 3);
    join(args, &p, K, output(args, 1));
    join(args, &p, V, output(args, 2));
    for (int64_t n = 0; n < p.batch * p.q.heads * p.q.places; n++) {
        int64_t batch = n / p.q.places / p.q.heads, head = n / p.q.places % p.q.heads;
        int64_t i = n % p.q.places, kv = head / (p.q.heads / p.k.heads);
        mpq_real *y = (mpq_real *)args->y[0]->data + offset_in(&p.y, batch, head, i);
        attend(args, &p, batch, head, i, &row);
        for (int64_t c = 0; c < p.v.size; c++) {
            double sum = 0;
            for (int64_t key = 0; key < p.keys; key++)
                sum += row.probability[key] * (double)row_at(args, &p, V, batch, kv, key)[c];
            y[c] = (mpq_real)sum;
        }
        for (int64_t key = 0; scores && key < p.keys; key++)
            *scores++ = (mpq_real)score_at(args, &p, &row, batch, head, i, key);
    }
}

/* Gradient of key or value number `key`, or NULL where none is wanted. */
static mpq_real *grad_at(const struct mpq_kernel_args *args, const struct problem *p, int which,
                         int64_t batch, int64_t head, int64_t key)
{
    bool is_past = key < p->past;
    mpq_real *base = mpq_grad(args, (uint32_t)(!is_past     ? which
                                               : which == K ? PAST_KEY
                                                            : PAST_VALUE));
    const struct view *view =
        which == K ? (is_past ? &p->past_k : &p->k) : (is_past ? &p->past_v : &p->v);
    return base ? base + offset_in(view, batch, head, is_past ? key : key - p->past) : NULL;
}

/* What came back joined goes to where it came from. */
static void split_gradient(const struct mpq_kernel_args *args, const struct problem *p, int which)
{
    const struct view *view = which == K ? &p->k : &p->v;
    const mpq_real *dy =
        (uint32_t)which < args->node->n_out && args->y[which] ? args->dy[which] : NULL;
    for (int64_t i = 0; dy && i < p->batch * view->heads * p->keys; i++) {
        mpq_real *to = grad_at(args, p, which, i / p->keys / view->heads, i / p->keys % view->heads,
                               i % p->keys);
        for (int64_t c = 0; to && c < view->size; c++)
            to[c] += dy[i * view->size + c];
    }
}

/* dv += p dy, ds = p (dy v - sum), dq += ds k, dk += ds q; the cap passes 1 - tanh^2. */
static void attention_backward(const struct mpq_kernel_args *args)
{
    struct problem p = problem_of(args->node, args->x);
    struct row row = rows_in(args, &p);
    double *ds = row.raw + 2 * p.keys;
    mpq_real *dq_base = mpq_grad(args, Q);
    split_gradient(args, &p, K); /* outputs 1 and 2 are those of inputs 1 and 2 */
    split_gradient(args, &p, V);
    for (int64_t n = 0; args->dy[0] && n < p.batch * p.q.heads * p.q.places; n++) {
        int64_t batch = n / p.q.places / p.q.heads, head = n / p.q.places % p.q.heads;
        int64_t i = n % p.q.places, kv = head / (p.q.heads / p.k.heads);
        const mpq_real *dy = args->dy[0] + offset_in(&p.y, batch, head, i);
        int64_t at = offset_in(&p.q, batch, head, i);
        const mpq_real *q = (const mpq_real *)args->x[Q]->data + at;
        double mean = 0;
        attend(args, &p, batch, head, i, &row);
        for (int64_t key = 0; key < p.keys; key++) {
            const mpq_real *v = row_at(args, &p, V, batch, kv, key);
            mpq_real *dv = grad_at(args, &p, V, batch, kv, key);
            ds[key] = 0;
            for (int64_t c = 0; c < p.v.size; c++) {
                ds[key] += (double)dy[c] * (double)v[c];
                if (dv)
                    dv[c] += (mpq_real)(row.probability[key] * (double)dy[c]);
            }
            mean += row.probability[key] * ds[key];
        }
        for (int64_t key = 0; key < p.keys; key++) {
            const mpq_real *k = row_at(args, &p, K, batch, kv, key);
            mpq_real *dk = grad_at(args, &p, K, batch, kv, key);
            double g = row.probability[key] * (ds[key] - mean) * p.scale;
            if (p.softcap > 0)
                g *= 1 - pow(tanh(row.raw[key] / p.softcap), 2);
            for (int64_t c = 0; c < p.q.size && g != 0; c++) {
                if (dq_base)
                    dq_base[at + c] += (mpq_real)(g * (double)k[c]);
                if (dk)
                    dk[c] += (mpq_real)(g * (double)q[c]);
            }
        }
    }
}

static uint64_t attention_macs(const struct mpq_node *node, const struct mpq_tensor *const *x,
                               struct mpq_tensor *const *y)
{
    struct problem p = problem_of(node, x);
    (void)y;
    return (uint64_t)(p.batch * p.q.heads * p.q.places) * (uint64_t)p.keys *
           (uint64_t)(p.q.size + p.v.size);
}

/* Scores (output 3) are for looking at: no gradient comes from them. */
const struct mpq_op mpq_op_attention = {.name = "Attention",
                                        .domain = "",
                                        .n_in_min = 3,
                                        .n_in_max = N_INPUT,
                                        .n_out_min = 1,
                                        .n_out_max = 4,
                                        .parse = attention_parse,
                                        .infer = attention_infer,
                                        .workspace = attention_workspace,
                                        .forward = attention_forward,
                                        .backward = attention_backward,
                                        .macs = attention_macs};
