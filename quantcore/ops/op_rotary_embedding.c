/* RotaryEmbedding (Su et al., RoFormer, 2021): pairs of elements of each head turned by an angle
 * that depends on the position. x is [batch, heads, sequence, size] or [batch, sequence, hidden];
 * the caches hold cos and sin [positions, half] with position_ids, or [batch, sequence, half]. */
#include "quantcore/ops/op_util.h"

struct attrs {
    bool interleaved;
    int64_t num_heads, rotary_dim;
};

static enum mpq_status rotary_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_node *node)
{
    struct attrs attrs = {mpq_attr_int(&node->attr_set, "interleaved", 0) != 0,
                          mpq_attr_int(&node->attr_set, "num_heads", 0),
                          mpq_attr_int(&node->attr_set, "rotary_embedding_dim", 0)};
    node->attrs = mpq_arena_copy(ctx, arena, &attrs, sizeof attrs);
    return node->attrs ? MPQ_OK : MPQ_E_NOMEM;
}

/* Elements of a head are contiguous; heads and places are strides apart. */
struct layout {
    int64_t batch, heads, sequence, size, half;
    int64_t batch_step, head_step, place_step;
};

static struct layout layout_of(const struct attrs *attrs, const struct mpq_shape *x)
{
    struct layout l = {.batch = x->dim[0]};
    if (x->rank == 4) {
        l.heads = x->dim[1], l.sequence = x->dim[2], l.size = x->dim[3];
        l.place_step = l.size, l.head_step = l.sequence * l.size;
    } else {
        l.heads = attrs->num_heads > 0 && attrs->num_heads <= x->dim[2] ? attrs->num_heads : 0;
        l.sequence = x->dim[1];
        l.size = l.heads > 0 ? x->dim[2] / l.heads : 0;
        l.place_step = x->dim[2], l.head_step = l.size;
    }
    l.batch_step = l.heads * l.sequence * l.size;
    l.half = (attrs->rotary_dim ? attrs->rotary_dim : l.size) / 2;
    return l;
}

static enum mpq_status rotary_infer(struct mpq_ctx *ctx, const struct mpq_node *node,
                                    const struct mpq_tensor *const *x, struct mpq_tensor *const *y)
{
    const struct mpq_shape *shape = &x[0]->shape, *cache = &x[1]->shape;
    const struct mpq_tensor *position = mpq_input(node, x, 3);
    for (int i = 0; i < 3; i++)
        MPQ_TRY(mpq_check_float(ctx, node, x, i));
    bool good = shape->rank == 3 || shape->rank == 4;
    struct layout l = {0};
    if (good)
        l = layout_of(node->attrs, shape);
    good = good && l.heads > 0 && 2 * l.half <= l.size && l.half > 0 &&
           (shape->rank == 4 || l.heads * l.size == shape->dim[2]) &&
           mpq_shape_equal(cache, &x[2]->shape) && cache->rank == (position ? 2 : 3) &&
           cache->dim[cache->rank - 1] == l.half;
    if (good && position)
        good = mpq_shape_equal(&position->shape, &MPQ_SHAPE(l.batch, l.sequence));
    else if (good)
        good = cache->dim[0] == l.batch && cache->dim[1] == l.sequence;
    if (!good)
        return mpq_fail_node(ctx, node, MPQ_E_SHAPE, "caches of %s for an input of %s",
                             MPQ_SHAPE_TEXT(cache), MPQ_SHAPE_TEXT(shape));
    if (position)
        MPQ_TRY(mpq_check_indices(ctx, node, position, cache->dim[0]));
    return mpq_infer_same(ctx, node, x, y);
}

/* to = from turned by the angles, or against them; added to `to` where `adds`. */
static void turn(const struct mpq_kernel_args *args, const mpq_real *from, mpq_real *to,
                 mpq_real direction, bool adds)
{
    const struct attrs *attrs = args->node->attrs;
    struct layout l = layout_of(attrs, &args->x[0]->shape);
    const struct mpq_tensor *position = mpq_input(args->node, args->x, 3);
    for (int64_t i = 0; i < l.batch * l.sequence * l.heads; i++) {
        int64_t place = i / l.heads, head = i % l.heads;
        int64_t row = position ? mpq_index_at(position, place, args->x[1]->shape.dim[0]) : place;
        const mpq_real *cosine = (const mpq_real *)args->x[1]->data + row * l.half;
        const mpq_real *sine = (const mpq_real *)args->x[2]->data + row * l.half;
        int64_t first = place / l.sequence * l.batch_step + head * l.head_step +
                        place % l.sequence * l.place_step;
        for (int64_t k = 0; k < l.half; k++) {
            int64_t a = first + (attrs->interleaved ? 2 * k : k);
            int64_t b = attrs->interleaved ? a + 1 : a + l.half;
            mpq_real c = cosine[k], s = direction * sine[k];
            to[a] = (adds ? to[a] : 0) + (c * from[a] - s * from[b]);
            to[b] = (adds ? to[b] : 0) + (s * from[a] + c * from[b]);
        }
        for (int64_t k = first + 2 * l.half; k < first + l.size; k++)
            to[k] = (adds ? to[k] : 0) + from[k];
    }
}

static void rotary_forward(const struct mpq_kernel_args *args)
{
    turn(args, args->x[0]->data, args->y[0]->data, 1, false);
}

/* Turning back; the caches are constants of the model, without gradient. */
static void rotary_backward(const struct mpq_kernel_args *args)
{
    if (args->dx[0] && args->dy[0])
        turn(args, args->dy[0], args->dx[0], -1, true);
}

const struct mpq_op mpq_op_rotary_embedding = {.name = "RotaryEmbedding",
                                               .domain = "",
                                               .n_in_min = 3,
                                               .n_in_max = 4,
                                               .n_out_min = 1,
                                               .n_out_max = 1,
                                               .parse = rotary_parse,
                                               .infer = rotary_infer,
                                               .forward = rotary_forward,
                                               .backward = rotary_backward};
