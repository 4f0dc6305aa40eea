/* The kinds of attention, and the rotation of positions. Heads are [batch, head, sequence, size]
 * here; what becomes of a node is MatMul, Softmax, MatMul between Reshapes and Transposes. */
#include <math.h>
#include <string.h>

#include "importer/contrib_job.h"
#include "importer/contrib_rules.h"

/* x[..., begin:end:step, ...] along the axis. */
static char *slice(struct mpq_job *job, char *x, int64_t begin, int64_t end, int64_t axis,
                   int64_t step)
{
    char *in[] = {x, mpq_make_ints(job, 1, &begin), mpq_make_ints(job, 1, &end),
                  mpq_make_ints(job, 1, &axis), mpq_make_ints(job, 1, &step)};
    return mpq_make_list(job, "Slice", NULL, step == 1 ? 4 : 5, in);
}

static char *concat(struct mpq_job *job, char *to, char *a, char *b, int64_t axis)
{
    char *in[] = {a, b};
    to = mpq_make_list(job, "Concat", to, 2, in);
    mpq_set_int(job, "axis", axis);
    return to;
}

/* Opset 13 made the axes an input. */
static char *unsqueeze(struct mpq_job *job, char *x, int64_t axis)
{
    if (job->opset >= 13)
        return mpq_make(job, "Unsqueeze", NULL, x, mpq_make_ints(job, 1, &axis), NULL);
    x = mpq_make(job, "Unsqueeze", NULL, x, NULL, NULL);
    mpq_set_ints(job, "axes", 1, &axis);
    return x;
}

static char *transpose(struct mpq_job *job, char *to, char *x, int64_t a, int64_t b, int64_t c,
                       int64_t d)
{
    to = mpq_make(job, "Transpose", to, x, NULL, NULL);
    mpq_set_ints(job, "perm", 4, (int64_t[]){a, b, c, d});
    return to;
}

/* [batch, sequence, heads * size] in heads, and the other way round. */
static char *split_heads(struct mpq_job *job, char *x, int64_t n_head)
{
    char *shape = mpq_make_ints(job, 4, (int64_t[]){0, 0, n_head, -1});
    return transpose(job, NULL, mpq_make(job, "Reshape", NULL, x, shape, NULL), 0, 2, 1, 3);
}

static char *join_heads(struct mpq_job *job, char *to, char *x)
{
    char *shape = mpq_make_ints(job, 3, (int64_t[]){0, 0, -1});
    return mpq_make(job, "Reshape", to, transpose(job, NULL, x, 0, 2, 1, 3), shape, NULL);
}

/* ---- what is added to the scores ---- */

/* `value` where the mark is not set, else 0. */
static char *penalty(struct mpq_job *job, char *mark, float value)
{
    mark = mpq_make_with(job, "Cast", NULL, mark, "to", MPQ_FLOAT);
    char *gap = mpq_make(job, "Sub", NULL, mpq_make_number(job, 1.0f), mark, NULL);
    return mpq_make(job, "Mul", NULL, gap, mpq_make_number(job, value), NULL);
}

/* Dimension `axis` of x, an int64 scalar. */
static char *dimension(struct mpq_job *job, char *x, int64_t axis)
{
    char *shape = mpq_make(job, "Shape", NULL, x, NULL, NULL);
    return mpq_make(job, "Gather", NULL, shape, mpq_make_int(job, axis), NULL);
}

/* [query, key]: a query sees no key after its own, which is the last for the last query. */
static char *causal(struct mpq_job *job, char *q, char *k, float value)
{
    char *zero = mpq_make_int(job, 0), *one = mpq_make_int(job, 1);
    char *n_key = dimension(job, k, 2);
    char *first = mpq_make(job, "Sub", NULL, n_key, dimension(job, q, 2), NULL);
    char *query = mpq_make(job, "Range", NULL, first, n_key, one);
    char *key = mpq_make(job, "Range", NULL, zero, n_key, one);
    query = mpq_make(job, "Reshape", NULL, query, mpq_make_ints(job, 2, (int64_t[]){-1, 1}), NULL);
    char *hidden = mpq_make(job, "Less", NULL, query, key, NULL);
    hidden = mpq_make_with(job, "Cast", NULL, hidden, "to", MPQ_FLOAT);
    return mpq_make(job, "Mul", NULL, hidden, mpq_make_number(job, value), NULL);
}

/* What hides keys after a query: more than a mask hides padding, or a query whose own keys are all
 * padding would see those after it. */
static float causal_value(const char *mask, float masked)
{
    return mask || masked > -10000.0f ? -1e30f : masked;
}

/* A mask of keys: 1 where they may be seen, [batch, key] or [batch, query, key], or how many of
 * them, [batch]. Becomes [batch, 1, 1 or query, key]. */
static char *mask_of(struct mpq_job *job, char *mask, int rank, char *k, float value)
{
    if (rank == 1) {
        char *key = mpq_make(job, "Range", NULL, mpq_make_int(job, 0), dimension(job, k, 2),
                             mpq_make_int(job, 1));
        char *n = mpq_make_with(job, "Cast", NULL, mask, "to", MPQ_INT64);
        n = mpq_make(job, "Reshape", NULL, n, mpq_make_ints(job, 4, (int64_t[]){-1, 1, 1, 1}),
                     NULL);
        mask = mpq_make(job, "Less", NULL, key, n, NULL);
    } else if (rank == 2)
        mask = mpq_make(job, "Reshape", NULL, mask, mpq_make_ints(job, 4, (int64_t[]){0, 1, 1, -1}),
                        NULL);
    else if (rank == 3)
        mask = unsqueeze(job, mask, 1);
    return penalty(job, mask, value);
}

/* The rank of a mask that is understood, or -1. Of those of rank 1 only numbers of keys are: sums.
 */
static int mask_rank_of(const struct mpq_job *job, const char *mask)
{
    const Onnx__NodeProto *maker = mpq_job_maker(job, mask);
    bool is_count = maker && (strcmp(maker->op_type, "ReduceSum") == 0 ||
                              strcmp(maker->op_type, "EmbedLayerNormalization") == 0);
    int rank = is_count ? 1 : mpq_job_rank(job, mask);
    return is_count || rank > 1 ? rank : -1;
}

/* ---- the product ---- */

struct heads {
    char *q, *k, *v;
    char *bias[3]; /* NULL: none */
    float scale;   /* 0: 1 / sqrt(size) */
};

static void attend(struct mpq_job *job, const struct heads *heads)
{
    char *turned = transpose(job, NULL, heads->k, 0, 1, 3, 2);
    char *score = mpq_make(job, "MatMul", NULL, heads->q, turned, NULL);
    if (heads->scale != 0) {
        score = mpq_make(job, "Mul", NULL, score, mpq_make_number(job, heads->scale), NULL);
    } else {
        char *size = mpq_make_with(job, "Cast", NULL, dimension(job, heads->q, 3), "to", MPQ_FLOAT);
        char *root = mpq_make(job, "Sqrt", NULL, size, NULL, NULL);
        score = mpq_make(job, "Div", NULL, score, root, NULL);
    }
    for (size_t i = 0; i < MPQ_COUNT(heads->bias); i++)
        if (heads->bias[i])
            score = mpq_make(job, "Add", NULL, score, heads->bias[i], NULL);
    char *share = mpq_make_with(job, "Softmax", NULL, score, "axis", -1);
    join_heads(job, mpq_job_out(job, 0), mpq_make(job, "MatMul", NULL, share, heads->v, NULL));
}

/* What Attention and QAttention have in common. */
struct packed {
    char *mask, *past, *bias;
    int64_t n_head, size[3]; /* of all heads of query, key, value */
    int mask_rank;
};

static bool read_packed(struct mpq_job *job, const char *weight, struct packed *p)
{
    const Onnx__TensorProto *matrix = mpq_job_constant(job, weight);
    const Onnx__AttributeProto *sizes = mpq_rewrite_attr(job->node, "qkv_hidden_sizes");
    p->n_head = mpq_job_int(job, "num_heads", 0);
    p->mask_rank = p->mask ? mask_rank_of(job, p->mask) : 0;
    if (job->opset < 11 || !matrix || matrix->n_dims != 2 || matrix->dims[1] <= 0 ||
        mpq_job_int(job, "do_rotary", 0) || mpq_job_int(job, "past_present_share_buffer", 0))
        return false;
    int64_t sum = 0;
    for (size_t i = 0; i < 3; i++) {
        p->size[i] = sizes && sizes->n_ints == 3 ? sizes->ints[i] : matrix->dims[1] / 3;
        if (p->size[i] <= 0 || p->size[i] > matrix->dims[1])
            return false;
        sum += p->size[i];
    }
    return sum == matrix->dims[1] && p->n_head > 0 && p->size[0] % p->n_head == 0 &&
           p->size[2] % p->n_head == 0 && p->mask_rank >= 0 && p->mask_rank <= 3;
}

/* qkv [batch, sequence, query | key | value] to output 0, and the keys and values to output 1. */
static void attend_packed(struct mpq_job *job, char *qkv, const struct packed *p)
{
    float masked = mpq_job_float(job, "mask_filter_value", -10000.0f);
    char *part[3];
    int64_t at = 0;
    for (size_t i = 0; i < 3; at += p->size[i++])
        part[i] = split_heads(job, slice(job, qkv, at, at + p->size[i], -1, 1), p->n_head);
    for (size_t i = 1; i < 3 && p->past; i++) {
        char *before =
            mpq_make(job, "Gather", NULL, p->past, mpq_make_int(job, (int64_t)i - 1), NULL);
        part[i] = concat(job, NULL, before, part[i], 2);
    }
    if (mpq_job_out(job, 1))
        concat(job, mpq_job_out(job, 1), unsqueeze(job, part[1], 0), unsqueeze(job, part[2], 0), 0);
    float size = (float)(p->size[0] / p->n_head), scale = mpq_job_float(job, "scale", 0.0f);
    attend(job, &(struct heads){
                    .q = part[0],
                    .k = part[1],
                    .v = part[2],
                    .bias = {p->mask ? mask_of(job, p->mask, p->mask_rank, part[1], masked) : NULL,
                             mpq_job_int(job, "unidirectional", 0)
                                 ? causal(job, part[0], part[1], causal_value(p->mask, masked))
                                 : NULL,
                             p->bias},
                    .scale = scale != 0 ? scale : 1 / sqrtf(size)});
}

/* Attention: x, weight, bias, mask, past, what is added to the scores. */
bool mpq_contrib_attention(struct mpq_job *job)
{
    struct packed p = {
        .mask = mpq_job_in(job, 3), .past = mpq_job_in(job, 4), .bias = mpq_job_in(job, 5)};
    if (mpq_job_in(job, 6) || !read_packed(job, mpq_job_in(job, 1), &p))
        return false;
    char *qkv = mpq_make(job, "MatMul", NULL, mpq_job_in(job, 0), mpq_job_in(job, 1), NULL);
    if (mpq_job_in(job, 2))
        qkv = mpq_make(job, "Add", NULL, qkv, mpq_job_in(job, 2), NULL);
    attend_packed(job, qkv, &p);
    return true;
}

/* QAttention: x, weight, bias, their two scales, mask, their two zero points, past. */
bool mpq_contrib_qattention(struct mpq_job *job)
{
    struct packed p = {.mask = mpq_job_in(job, 5), .past = mpq_job_in(job, 8)};
    if (!read_packed(job, mpq_job_in(job, 1), &p))
        return false;
    char *scale = mpq_make(job, "Mul", NULL, mpq_job_in(job, 3), mpq_job_in(job, 4), NULL);
    char *in[4] = {mpq_job_in(job, 0), mpq_job_in(job, 1), mpq_job_in(job, 6), mpq_job_in(job, 7)};
    attend_packed(job, mpq_make_scaled_product(job, NULL, in, scale, mpq_job_in(job, 2)), &p);
    return true;
}

/* One third of a constant bias of query, key and value, added to x. */
static char *add_bias(struct mpq_job *job, char *x, char *bias, int64_t part)
{
    if (!bias)
        return x;
    int64_t size = mpq_job_constant(job, bias)->dims[0] / 3;
    return mpq_make(job, "Add", NULL, x, slice(job, bias, part * size, (part + 1) * size, 0, 1),
                    NULL);
}

/* Whether x is in heads already, as declared or as a Transpose of four axes makes it. */
static bool has_heads(const struct mpq_job *job, const char *x)
{
    int rank = mpq_job_rank(job, x);
    const Onnx__NodeProto *maker = mpq_job_maker(job, x);
    const Onnx__AttributeProto *perm =
        maker && strcmp(maker->op_type, "Transpose") == 0 ? mpq_rewrite_attr(maker, "perm") : NULL;
    return rank == 4 || (rank < 0 && perm && perm->n_ints == 4);
}

/* MultiHeadAttention: query, key, value, a bias of theirs, the mask of keys, what is added to the
 * scores, keys and values of before. */
bool mpq_contrib_multi_head_attention(struct mpq_job *job)
{
    char *in[3] = {mpq_job_in(job, 0), mpq_job_in(job, 1), mpq_job_in(job, 2)};
    char *bias = mpq_job_in(job, 3), *mask = mpq_job_in(job, 4);
    const Onnx__TensorProto *known = mpq_job_constant(job, bias);
    float masked = mpq_job_float(job, "mask_filter_value", -10000.0f);
    int64_t n_head = mpq_job_int(job, "num_heads", 0);
    int mask_rank = mask ? mask_rank_of(job, mask) : 0;
    /* Without keys or values they are packed, [batch, sequence, head, 2 or 3, size]. */
    if (job->opset < 11 || n_head <= 0 || !in[1] || !in[2] || mpq_job_in(job, 8) ||
        (bias && (!known || known->n_dims != 1 || known->dims[0] % 3)) || mask_rank < 0 ||
        mask_rank > 3)
        return false;
    bool are_heads = has_heads(job, in[1]); /* keys and values, of another node */
    if (are_heads && (bias || mpq_job_in(job, 6) || !has_heads(job, in[2])))
        return false;
    for (size_t i = 0; i < (are_heads ? 1 : 3); i++)
        in[i] = split_heads(job, add_bias(job, in[i], bias, (int64_t)i), n_head);
    for (size_t i = 1; i < 3; i++) {
        char *before = mpq_job_in(job, 5 + i), *now = mpq_job_out(job, i);
        if (before)
            in[i] = concat(job, now, before, in[i], 2);
        else if (now)
            in[i] = mpq_make(job, "Identity", now, in[i], NULL, NULL);
    }
    attend(job, &(struct heads){.q = in[0],
                                .k = in[1],
                                .v = in[2],
                                .bias = {mask ? mask_of(job, mask, mask_rank, in[1], masked) : NULL,
                                         mpq_job_int(job, "unidirectional", 0)
                                             ? causal(job, in[0], in[1], causal_value(mask, masked))
                                             : NULL,
                                         mpq_job_in(job, 5)},
                                .scale = mpq_job_float(job, "scale", 0.0f)});
    return true;
}

/* ---- rotation ---- */

/* x [batch, sequence, head, size] with pairs of its first 2 * half elements, neighbours or one from
 * each half, turned by angles of cosine c and sine s, [.., sequence, 1, half]. */
static char *turn(struct mpq_job *job, char *x, char *c, char *s, int64_t half, bool interleaved)
{
    char *a = slice(job, x, 0, interleaved ? 2 * half : half, 3, interleaved ? 2 : 1);
    char *b = slice(job, x, interleaved ? 1 : half, 2 * half, 3, interleaved ? 2 : 1);
    char *re = mpq_make(job, "Sub", NULL, mpq_make(job, "Mul", NULL, a, c, NULL),
                        mpq_make(job, "Mul", NULL, b, s, NULL), NULL);
    char *im = mpq_make(job, "Add", NULL, mpq_make(job, "Mul", NULL, a, s, NULL),
                        mpq_make(job, "Mul", NULL, b, c, NULL), NULL);
    if (!interleaved)
        return concat(job, NULL, re, im, 3);
    char *y = concat(job, NULL, unsqueeze(job, re, 4), unsqueeze(job, im, 4), 4);
    return mpq_make(job, "Reshape", NULL, y, mpq_make_ints(job, 4, (int64_t[]){0, 0, 0, -1}), NULL);
}

/* RotaryEmbedding: x [batch, sequence, heads * size] or in heads, positions [batch, sequence],
 * tables of cosines and sines. Pairs of elements, neighbours or one from each half, are turned by
 * the angle of their position. */
bool mpq_contrib_rotary_embedding(struct mpq_job *job)
{
    char *x = mpq_job_in(job, 0), *position = mpq_job_in(job, 1);
    const Onnx__TensorProto *table = mpq_job_constant(job, mpq_job_in(job, 2));
    bool interleaved = mpq_job_int(job, "interleaved", 0) != 0;
    int64_t n_head = mpq_job_int(job, "num_heads", 0);
    int64_t turned = mpq_job_int(job, "rotary_embedding_dim", 0);
    int rank = mpq_job_rank(job, x);
    if (job->opset < 11 || !table || table->n_dims != 2 || (rank != 3 && rank != 4) ||
        mpq_job_rank(job, position) != 2 || mpq_job_int(job, "is_packed_batching", 0) ||
        mpq_job_float(job, "scale", 1.0f) != 1.0f || (turned && rank == 3 && !n_head))
        return false;
    int64_t half = table->dims[1];
    int64_t shape[] = {0, 0, n_head ? n_head : -1, n_head ? -1 : 2 * half};
    x = rank == 3 ? mpq_make(job, "Reshape", NULL, x, mpq_make_ints(job, 4, shape), NULL)
                  : transpose(job, NULL, x, 0, 2, 1, 3);
    char *c = mpq_make(job, "Gather", NULL, mpq_job_in(job, 2), position, NULL);
    char *s = mpq_make(job, "Gather", NULL, mpq_job_in(job, 3), position, NULL);
    c = unsqueeze(job, c, 2), s = unsqueeze(job, s, 2);
    char *y = turn(job, x, c, s, half, interleaved);
    if (turned)
        y = concat(job, NULL, y, slice(job, x, 2 * half, INT64_MAX, 3, 1), 3);
    if (rank == 3)
        mpq_make(job, "Reshape", mpq_job_out(job, 0), y,
                 mpq_make_ints(job, 3, (int64_t[]){0, 0, -1}), NULL);
    else
        transpose(job, mpq_job_out(job, 0), y, 0, 2, 1, 3);
    return true;
}

/* ---- groups of queries that share keys and values ---- */

/* Its optional features that are not understood. */
static bool is_plain_group_query(const struct mpq_job *job)
{
    for (size_t i = 9; i < job->node->n_input; i++)
        if (mpq_job_in(job, i))
            return false;
    return mpq_job_int(job, "local_window_size", -1) == -1 &&
           mpq_job_float(job, "softcap", 0) == 0 && mpq_job_int(job, "smooth_softmax", 0) <= 0;
}

/* How many elements a head has, as far as the file declares it, or -1. */
static int64_t head_size(const struct mpq_job *job, int64_t n, int64_t n_kv)
{
    int64_t size = mpq_job_last_dim(job, mpq_job_in(job, 3));
    if (size <= 0)
        size = mpq_job_last_dim(job, mpq_job_out(job, 1));
    if (size > 0)
        return size;
    size = mpq_job_last_dim(job, mpq_job_in(job, 0));
    return size > 0 ? size / (mpq_job_in(job, 1) ? n : n + 2 * n_kv) : -1;
}

/* Query and keys turned by their positions, which go on behind the keys of before; all of a head,
 * of the given size, or its first elements. */
static void turn_both(struct mpq_job *job, char *part[2], char *past, int64_t size)
{
    int64_t half = mpq_job_constant(job, mpq_job_in(job, 7))->dims[1];
    bool interleaved = mpq_job_int(job, "rotary_interleaved", 0) != 0;
    char *first = past ? dimension(job, past, 2) : mpq_make_int(job, 0);
    char *end = mpq_make(job, "Add", NULL, first, dimension(job, part[0], 1), NULL);
    char *at = mpq_make(job, "Range", NULL, first, end, mpq_make_int(job, 1));
    char *c = unsqueeze(job, mpq_make(job, "Gather", NULL, mpq_job_in(job, 7), at, NULL), 1);
    char *s = unsqueeze(job, mpq_make(job, "Gather", NULL, mpq_job_in(job, 8), at, NULL), 1);
    for (int i = 0; i < 2; i++) {
        char *shape = mpq_make(job, "Shape", NULL, part[i], NULL, NULL);
        char *y = turn(job, part[i], c, s, half, interleaved);
        if (2 * half < size)
            y = concat(job, NULL, y, slice(job, part[i], 2 * half, INT64_MAX, 3, 1), 3);
        part[i] = mpq_make(job, "Reshape", NULL, y, shape, NULL);
    }
}

/* Head h of x, [batch, head, sequence, size], for each of n / n_shared queries. */
static char *share_heads(struct mpq_job *job, char *x, int64_t n, int64_t n_shared)
{
    int64_t head[256];
    for (int64_t i = 0; i < n; i++)
        head[i] = i / (n / n_shared);
    if (n == n_shared)
        return x;
    x = mpq_make(job, "Gather", NULL, x, mpq_make_ints(job, n, head), NULL);
    mpq_set_int(job, "axis", 1);
    return x;
}

/* GroupQueryAttention: query, key, value, or all in query; keys and values of before, of which all
 * are valid; numbers of keys, which follow from that; tables of cosines and sines. */
bool mpq_contrib_group_query_attention(struct mpq_job *job)
{
    char *in[3] = {mpq_job_in(job, 0), mpq_job_in(job, 1), mpq_job_in(job, 2)};
    char *past[3] = {NULL, mpq_job_in(job, 3), mpq_job_in(job, 4)};
    int64_t n = mpq_job_int(job, "num_heads", 0), n_kv = mpq_job_int(job, "kv_num_heads", 0);
    bool is_packed = !in[1] && !in[2];
    bool turns = mpq_job_int(job, "do_rotary", 0) != 0;
    const Onnx__TensorProto *table = mpq_job_constant(job, mpq_job_in(job, 7));
    if (job->opset < 11 || n <= 0 || n > 256 || n_kv <= 0 || n % n_kv || !past[1] != !past[2] ||
        (!is_packed && (!in[1] || !in[2])) || (turns && (!table || table->n_dims != 2)) ||
        !is_plain_group_query(job))
        return false;
    const int64_t heads[3] = {n, n_kv, n_kv};
    char *all = is_packed
                    ? mpq_make(job, "Reshape", NULL, in[0],
                               mpq_make_ints(job, 4, (int64_t[]){0, 0, n + 2 * n_kv, -1}), NULL)
                    : NULL;
    for (int64_t i = 0, at = 0; i < 3; at += heads[i++])
        in[i] = is_packed ? slice(job, all, at, at + heads[i], 2, 1)
                          : mpq_make(job, "Reshape", NULL, in[i],
                                     mpq_make_ints(job, 4, (int64_t[]){0, 0, heads[i], -1}), NULL);
    if (turns)
        turn_both(job, in, past[1], head_size(job, n, n_kv));
    for (size_t i = 0; i < 3; i++)
        in[i] = transpose(job, NULL, in[i], 0, 2, 1, 3);
    for (size_t i = 1; i < 3; i++) {
        char *now = mpq_job_out(job, i);
        if (past[i])
            in[i] = concat(job, now, past[i], in[i], 2);
        else if (now)
            in[i] = mpq_make(job, "Identity", now, in[i], NULL, NULL);
        in[i] = share_heads(job, in[i], n, n_kv);
    }
    attend(job, &(struct heads){.q = in[0],
                                .k = in[1],
                                .v = in[2],
                                .bias = {causal(job, in[0], in[1], -1e30f)},
                                .scale = mpq_job_float(job, "scale", 0.0f)});
    return true;
}
