/* Backward that computes values again instead of keeping them: the same gradients in less memory.
 */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/engine/exec.h"
#include "tests/check.h"
#include "tests/unit/net.h"

enum { BATCH = 2, N_BLOCK = 6, CHANNELS = 6, SIDE = 8 };

/* N_BLOCK times: conv, batch norm, relu (fused or not), conv, sigmoid, their product, add to what
 * came in; then pooled and concatenated with the first block's. */
struct deep {
    struct net *net;
    mpq_value_id x, y, conv[2 * N_BLOCK], weight[2 * N_BLOCK];
    struct mpq_binding binding;
    bool *want, *hooked, *keep;
};

static const char *name(struct net *net, const char *what, int i)
{
    return mpq_arena_printf(&net->ctx, net->arena, "%s%d", what, i);
}

static mpq_value_id conv(struct deep *d, mpq_value_id x, int i)
{
    static const int64_t pads[] = {1, 1, 1, 1}, kernel[] = {3, 3};
    static const struct mpq_attr attrs[] = {
        {.name = "pads", .kind = MPQ_ATTR_INTS, .n = 4, .ints = (int64_t *)pads},
        {.name = "kernel_shape", .kind = MPQ_ATTR_INTS, .n = 2, .ints = (int64_t *)kernel}};
    struct net *net = d->net;
    d->weight[i] = net_random(net, name(net, "w", i), MPQ_SHAPE(CHANNELS, CHANNELS, 3, 3), false);
    d->conv[i] = net_node(net, "Conv", name(net, "conv", i), 2, attrs, NET_IN(x, d->weight[i]));
    return d->conv[i];
}

static mpq_value_id batch_norm(struct deep *d, mpq_value_id x, int i)
{
    struct net *net = d->net;
    mpq_value_id scale = net_random(net, name(net, "scale", i), MPQ_SHAPE(CHANNELS), true);
    mpq_value_id shift = net_random(net, name(net, "shift", i), MPQ_SHAPE(CHANNELS), false);
    mpq_value_id mean = net_random(net, name(net, "mean", i), MPQ_SHAPE(CHANNELS), false);
    mpq_value_id variance = net_random(net, name(net, "variance", i), MPQ_SHAPE(CHANNELS), true);
    return net_node(net, "BatchNormalization", name(net, "bn", i), NET_NO_ATTRS,
                    NET_IN(x, scale, shift, mean, variance));
}

static bool *marks(struct net *net)
{
    bool *mark = mpq_arena_alloc(&net->ctx, net->arena, net->graph->n_value, sizeof *mark);
    assert_non_null(mark);
    return mark;
}

static struct deep make_deep(struct net *net)
{
    struct deep d = {.net = net};
    mpq_value_id x = d.x = net_input(net, "x", MPQ_SHAPE(-1, CHANNELS, SIDE, SIDE)), first = x;
    for (int i = 0; i < N_BLOCK; i++) {
        mpq_value_id y = conv(&d, x, 2 * i);
        if (i % 2)
            y = batch_norm(&d, y, i);
        y = net_node(net, "Relu", name(net, "relu", i), NET_NO_ATTRS, NET_IN(y));
        y = conv(&d, y, 2 * i + 1);
        mpq_value_id gate = net_node(net, "Sigmoid", name(net, "gate", i), NET_NO_ATTRS, NET_IN(y));
        y = net_node(net, "Mul", name(net, "mul", i), NET_NO_ATTRS, NET_IN(y, gate));
        x = net_node(net, "Add", name(net, "add", i), NET_NO_ATTRS, NET_IN(y, x));
        first = i ? first : x;
    }
    static const struct mpq_attr axis = {.name = "axis", .kind = MPQ_ATTR_INT, .i = 1};
    mpq_value_id both = net_node(net, "Concat", "both", 1, &axis, NET_IN(x, first));
    d.y = net_node(net, "GlobalAveragePool", "y", NET_NO_ATTRS, NET_IN(both));
    net_output(net, d.y);
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, net->graph, BATCH, &d.binding));
    d.want = marks(net);
    d.hooked = marks(net);
    d.keep = marks(net);
    for (int i = 0; i < 2 * N_BLOCK; i++)
        d.want[d.weight[i]] = true;
    return d;
}

/* A hook that reads the value as well as its gradient. */
static void add_value(void *arg, mpq_value_id v)
{
    struct mpq_exec *exec = *(struct mpq_exec **)arg;
    const struct mpq_tensor *tensor = mpq_exec_tensor(exec, v);
    for (int64_t i = 0; i < mpq_shape_count(&tensor->shape); i++)
        mpq_exec_grad(exec, v)[i] += ((const mpq_real *)tensor->data)[i];
}

static void step(const struct deep *d, struct mpq_exec *exec, uint64_t seed)
{
    struct mpq_tensor *x = mpq_exec_tensor(exec, d->x), *y = mpq_exec_tensor(exec, d->y);
    for (int64_t i = 0; i < mpq_shape_count(&x->shape); i++)
        ((mpq_real *)x->data)[i] = (mpq_real)mpq_rng_normal(seed, MPQ_STREAM_TEST, 9, (uint32_t)i);
    mpq_exec_forward(exec, 0, d->net->graph->n_node);
    mpq_exec_zero_grad(exec);
    memcpy(mpq_exec_grad(exec, d->y), y->data, mpq_tensor_bytes(y));
    mpq_exec_backward(exec);
}

static struct mpq_exec *create(const struct deep *d, size_t max_bytes, struct mpq_exec **hooked)
{
    struct net *net = d->net;
    struct mpq_exec_options options = {.keep = d->keep,
                                       .want_grad = d->want,
                                       .hooked = d->hooked,
                                       .hook = add_value,
                                       .hook_arg = hooked,
                                       .max_bytes = max_bytes};
    size_t bytes;
    double again;
    CHECK_OK(&net->ctx,
             mpq_exec_create(&net->ctx, net->arena, net->graph, &d->binding, &options, hooked));
    CHECK_OK(&net->ctx,
             mpq_exec_measure(&net->ctx, net->graph, &d->binding, &options, &bytes, &again));
    assert_int_equal(bytes, mpq_exec_bytes(*hooked));
    assert_true(again == mpq_exec_again(*hooked));
    return *hooked;
}

static void check_same(const struct deep *d, struct mpq_exec *exec, struct mpq_exec *plain)
{
    const struct mpq_tensor *y = mpq_exec_tensor(exec, d->y);
    assert_memory_equal(y->data, mpq_exec_tensor(plain, d->y)->data, mpq_tensor_bytes(y));
    for (int i = 0; i < 2 * N_BLOCK; i++) {
        const struct mpq_tensor *w = mpq_exec_tensor(exec, d->weight[i]);
        const mpq_real *dw = mpq_exec_grad(exec, d->weight[i]);
        assert_memory_equal(dw, mpq_exec_grad(plain, d->weight[i]), mpq_tensor_bytes(w));
    }
}

/* Every limit from what keeping everything takes down to nothing. */
static void check_limits(struct deep *d)
{
    struct mpq_exec *plain, *exec;
    create(d, 0, &plain);
    assert_true(mpq_exec_again(plain) == 0);
    size_t all = mpq_exec_bytes(plain), least = all;
    double again = 0;
    for (int tenth = 10; tenth >= 0; tenth--) {
        size_t limit = all * (size_t)tenth / 10 + 1;
        create(d, limit, &exec);
        assert_true(mpq_exec_bytes(exec) <= least);
        assert_true(mpq_exec_bytes(exec) <= limit || tenth < 7);
        least = mpq_exec_bytes(exec);
        again = mpq_exec_again(exec);
        for (uint64_t seed = 0; seed < 3; seed++) { /* nothing of the run before may linger */
            step(d, plain, seed);
            step(d, exec, seed);
            check_same(d, exec, plain);
        }
    }
    assert_true(least < all * 6 / 10);
    assert_true(again > 0.2 && again <= 1);
}

static void gradients_are_the_same(void **state)
{
    struct deep d = make_deep(*state);
    check_limits(&d);
}

static void hooks_see_values(void **state)
{
    struct deep d = make_deep(*state);
    for (int i = 0; i < 2 * N_BLOCK; i++)
        d.hooked[d.conv[i]] = true;
    check_limits(&d);
}

/* What is to be read afterwards is kept whatever the limit. */
static void kept_values_are_there(void **state)
{
    struct deep d = make_deep(*state);
    struct mpq_exec *plain, *exec;
    d.keep[d.conv[3]] = true;
    create(&d, 0, &plain);
    create(&d, 1, &exec);
    step(&d, plain, 1);
    step(&d, exec, 1);
    check_same(&d, exec, plain);
    const struct mpq_tensor *want = mpq_exec_tensor(plain, d.conv[3]);
    assert_memory_equal(mpq_exec_tensor(exec, d.conv[3])->data, want->data, mpq_tensor_bytes(want));
}

/* Forward from where the exec says that it can go on, after weights behind it have changed. */
static void resuming_is_right(void **state)
{
    struct deep d = make_deep(*state);
    for (size_t limit = 0; limit < 2; limit++) {
        struct mpq_exec *exec;
        create(&d, limit, &exec);
        step(&d, exec, 1);
        const struct mpq_tensor *y = mpq_exec_tensor(exec, d.y);
        void *want = mpq_arena_copy(&d.net->ctx, d.net->arena, y->data, mpq_tensor_bytes(y));
        for (mpq_node_id n = 0; n < d.net->graph->n_node; n++) {
            mpq_exec_forward(exec, mpq_exec_resume(exec, n), d.net->graph->n_node);
            assert_memory_equal(y->data, want, mpq_tensor_bytes(y));
            mpq_exec_zero_grad(exec);
            mpq_exec_backward(exec);
        }
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(gradients_are_the_same),
        TEST(hooks_see_values),
        TEST(kept_values_are_there),
        TEST(resuming_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
