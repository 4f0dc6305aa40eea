/* The memory plan, forward and backward over a graph, the loss and the optimizer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/engine/exec.h"
#include "quantcore/engine/loss.h"
#include "quantcore/engine/optim.h"
#include "quantcore/engine/plan.h"
#include "tests/check.h"
#include "tests/unit/net.h"

static int by_first(const void *a, const void *b)
{
    const struct mpq_plan_buffer *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static void live_buffers_never_overlap(void **state)
{
    (void)state;
    enum { N = 60 };
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mpq_arena *arena = mpq_arena_create(&ctx);
        struct mpq_plan_buffer buffer[N];
        size_t total, sum = 0;
        for (uint32_t i = 0; i < N; i++) {
            uint32_t first = mpq_rng_below(seed, MPQ_STREAM_TEST, i, 0, 40);
            buffer[i] =
                (struct mpq_plan_buffer){mpq_rng_below(seed, MPQ_STREAM_TEST, i, 1, 1000), first,
                                         first + mpq_rng_below(seed, MPQ_STREAM_TEST, i, 2, 10), 0};
            sum += (buffer[i].bytes + 63) / 64 * 64;
        }
        qsort(buffer, N, sizeof *buffer, by_first);
        CHECK_OK(&ctx, mpq_plan_place(&ctx, arena, buffer, N, &total));
        assert_true(total <= sum);
        for (int i = 0; i < N; i++) {
            assert_int_equal(buffer[i].offset % 64, 0);
            assert_true(buffer[i].offset + buffer[i].bytes <= total);
            for (int j = 0; j < i; j++) {
                bool same_time =
                    buffer[i].first <= buffer[j].last && buffer[j].first <= buffer[i].last;
                bool same_place = buffer[i].offset < buffer[j].offset + buffer[j].bytes &&
                                  buffer[j].offset < buffer[i].offset + buffer[i].bytes;
                if (same_time && same_place && buffer[i].bytes && buffer[j].bytes)
                    fail_msg("seed %d: buffers %d and %d overlap", (int)seed, i, j);
            }
        }
        mpq_arena_free(arena);
    }
}

static void a_chain_needs_two_buffers(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    struct mpq_plan_buffer buffer[10];
    size_t total;
    for (uint32_t i = 0; i < 10; i++)
        buffer[i] = (struct mpq_plan_buffer){640, i, i + 1, 0};
    CHECK_OK(&ctx, mpq_plan_place(&ctx, arena, buffer, 10, &total));
    assert_int_equal(total, 2 * 640);
    mpq_arena_free(arena);
}

static void adam_first_step_is_the_sign(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    struct mpq_arena *arena = mpq_arena_create(&ctx);
    struct mpq_adam adam;
    mpq_real grad[] = {3, MPQ_REAL(-1e-6), 0};
    CHECK_OK(&ctx, mpq_adam_create(&ctx, arena, 3, &adam));
    mpq_adam_direction(&adam, grad);
    CHECK_NEAR(grad[0], 1, 1e-4, 0);
    CHECK_NEAR(grad[1], -1, 1e-4, 0);
    CHECK_NEAR(grad[2], 0, 0, 0);
    mpq_arena_free(arena);
}

static void rate_falls_along_half_a_cosine(void **state)
{
    (void)state;
    CHECK_NEAR(mpq_cosine_rate(2, 50, 100), 1, 1e-12, 0);
    CHECK_NEAR(mpq_cosine_rate(2, 100, 100), 0, 0, 1e-12);
    assert_true(mpq_cosine_rate(2, 0, 100) < 0.5);
}

/* KL of logits against its definition, and both gradients by differences. */
static void loss_is_kl_plus_scaled_error(void **state)
{
    (void)state;
    enum { SAMPLES = 2, CLASSES = 3, N = SAMPLES * CLASSES };
    const struct mpq_loss_head head = {
        .n_column = CLASSES, .n_sample = CLASSES, .kl_weight = 1, .mse_weight = 0.5};
    mpq_real y[N] = {1, 2, MPQ_REAL(0.5), -1, 0, 1}, dy[N] = {0};
    const mpq_real target[N] = {MPQ_REAL(1.5), 1, 0, -1, MPQ_REAL(0.25), 2};
    double want = 0;
    for (int s = 0; s < SAMPLES; s++) {
        double p_sum = 0, q_sum = 0;
        for (int c = 0; c < CLASSES; c++) {
            p_sum += exp((double)target[s * CLASSES + c]);
            q_sum += exp((double)y[s * CLASSES + c]);
        }
        for (int c = 0; c < CLASSES; c++) {
            double t = (double)target[s * CLASSES + c], q = (double)y[s * CLASSES + c];
            want += exp(t) / p_sum * ((t - log(p_sum)) - (q - log(q_sum))) / SAMPLES;
            want += 0.5 * (t - q) * (t - q) / (N * 4.0);
        }
    }
    CHECK_NEAR(mpq_loss_head_value(&head, y, target, SAMPLES, 4, dy), want, 1e-5, 0);
    for (int i = 0; i < N; i++) {
        const mpq_real h = MPQ_REAL(1e-2);
        mpq_real saved = y[i];
        y[i] = saved + h;
        double above = mpq_loss_head_value(&head, y, target, SAMPLES, 4, NULL);
        y[i] = saved - h;
        double below = mpq_loss_head_value(&head, y, target, SAMPLES, 4, NULL);
        y[i] = saved;
        CHECK_NEAR(dy[i], (above - below) / (2 * (double)h), 1e-2, 1e-4);
    }
    CHECK_NEAR(mpq_loss_head_value(&head, target, target, SAMPLES, 4, NULL), 0, 0, 1e-9);
    y[1] = (mpq_real)NAN;
    assert_true(isnan(mpq_loss_head_value(&head, y, target, SAMPLES, 4, NULL)));
}

/* Where the loss of x -> MatMul -> `exp` -> over its sum along `axis` looks. */
static mpq_value_id head_of_softmax(struct net *net, bool by_input, int64_t axis, bool is_exp,
                                    struct mpq_loss_head *out, mpq_value_id *out_logits)
{
    enum { CLASSES = 5 };
    struct mpq_binding binding;
    struct mpq_loss loss;
    const struct mpq_attr axes = {.name = "axes", .kind = MPQ_ATTR_INTS, .n = 1, .ints = &axis};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(3, CLASSES), false);
    mpq_value_id logits = net_node(net, "MatMul", "logits", NET_NO_ATTRS, NET_IN(x, w));
    mpq_value_id e = net_node(net, is_exp ? "Exp" : "Abs", "e", NET_NO_ATTRS, NET_IN(logits));
    mpq_value_id sum = by_input ? net_node(net, "ReduceSum", "sum", NET_NO_ATTRS,
                                           NET_IN(e, net_ints(net, "axes", 1, &axis)))
                                : net_node(net, "ReduceSum", "sum", 1, &axes, NET_IN(e));
    mpq_value_id same = net_node(net, "Identity", "same", NET_NO_ATTRS, NET_IN(sum));
    mpq_value_id p = net_node(net, "Div", "p", NET_NO_ATTRS, NET_IN(e, same));
    net_output(net, p);
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, net->graph, 4, &binding));
    CHECK_OK(&net->ctx, mpq_loss_create(&net->ctx, net->arena, net->graph, &binding, 4, &loss));
    assert_int_equal(loss.n_head, 1);
    *out = loss.head[0];
    *out_logits = logits;
    return p;
}

static void a_softmax_written_out_is_one(void **state)
{
    struct mpq_loss_head head;
    mpq_value_id logits, p;
    (void)head_of_softmax(*state, false, -1, true, &head, &logits);
    assert_int_equal(head.value, logits);
    CHECK_NEAR(head.mse_weight, 0, 0, 0);
    net_teardown(state);
    net_setup(state);
    (void)head_of_softmax(*state, true, 1, true, &head, &logits);
    assert_int_equal(head.value, logits);
    net_teardown(state);
    net_setup(state);
    p = head_of_softmax(*state, true, 0, true, &head,
                        &logits); /* of the samples, not the classes */
    assert_int_equal(head.value, p);
    net_teardown(state);
    net_setup(state);
    p = head_of_softmax(*state, true, 1, false, &head, &logits);
    assert_int_equal(head.value, p);
}

/* An output [N]: its one axis is that of the samples, not of classes. */
static void one_number_a_sample_is_compared_as_such(void **state)
{
    struct net *net = *state;
    struct mpq_binding binding;
    struct mpq_loss loss;
    const mpq_real y[3] = {1, 2, 3}, target[3] = {1, 2, 5};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(3), false);
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(x, w)));
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, net->graph, 3, &binding));
    CHECK_OK(&net->ctx, mpq_loss_create(&net->ctx, net->arena, net->graph, &binding, 3, &loss));
    assert_int_equal(loss.n_head, 1);
    CHECK_NEAR(mpq_loss_head_value(&loss.head[0], y, target, 1, 1, NULL), 0, 0, 0);
    CHECK_NEAR(mpq_loss_head_value(&loss.head[0], y + 2, target + 2, 1, 1, NULL), 4, 1e-9, 0);
}

/* x -> Gemm w -> Relu -> Gemm u -> (+ the Relu's output) -> y: a value read twice, two weights. */
struct diamond {
    mpq_value_id x, w, u, relu, y;
    struct mpq_binding binding;
};

static struct diamond make_diamond(struct net *net)
{
    struct diamond d;
    d.x = net_input(net, "x", MPQ_SHAPE(-1, 4));
    d.w = net_random(net, "w", MPQ_SHAPE(4, 5), false);
    d.u = net_random(net, "u", MPQ_SHAPE(5, 5), false);
    mpq_value_id first = net_node(net, "Gemm", "first", NET_NO_ATTRS, NET_IN(d.x, d.w));
    d.relu = net_node(net, "Relu", "relu", NET_NO_ATTRS, NET_IN(first));
    mpq_value_id second = net_node(net, "Gemm", "second", NET_NO_ATTRS, NET_IN(d.relu, d.u));
    d.y = net_node(net, "Add", "y", NET_NO_ATTRS, NET_IN(second, d.relu));
    net_output(net, d.y);
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, net->graph, 3, &d.binding));
    return d;
}

static void fill_input(struct mpq_exec *exec, mpq_value_id x)
{
    struct mpq_tensor *tensor = mpq_exec_tensor(exec, x);
    for (int64_t i = 0; i < mpq_shape_count(&tensor->shape); i++)
        ((mpq_real *)tensor->data)[i] =
            (mpq_real)mpq_rng_normal(5, MPQ_STREAM_TEST, 9, (uint32_t)i);
}

static double half_square(struct mpq_exec *exec, mpq_value_id y)
{
    const struct mpq_tensor *tensor = mpq_exec_tensor(exec, y);
    double sum = 0;
    for (int64_t i = 0; i < mpq_shape_count(&tensor->shape); i++)
        sum += 0.5 * mpq_tensor_double(tensor, i) * mpq_tensor_double(tensor, i);
    return sum;
}

static void shared_memory_changes_nothing(void **state)
{
    struct net *net = *state;
    struct diamond d = make_diamond(net);
    struct mpq_exec *thrifty, *generous;
    CHECK_OK(&net->ctx, mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                                        &(struct mpq_exec_options){0}, &thrifty));
    CHECK_OK(&net->ctx, mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                                        &(struct mpq_exec_options){.keep_all = true}, &generous));
    assert_true(mpq_exec_bytes(thrifty) <= mpq_exec_bytes(generous));
    fill_input(thrifty, d.x);
    fill_input(generous, d.x);
    mpq_exec_forward(thrifty, 0, net->graph->n_node);
    mpq_exec_forward(generous, 0, net->graph->n_node);
    const struct mpq_tensor *a = mpq_exec_tensor(thrifty, d.y), *b = mpq_exec_tensor(generous, d.y);
    assert_memory_equal(a->data, b->data, mpq_tensor_bytes(a));
    /* From a node in the middle, what came before is still there. */
    double whole = half_square(generous, d.y);
    mpq_exec_forward(generous, 2, net->graph->n_node);
    CHECK_NEAR(half_square(generous, d.y), whole, 0, 0);
}

/* Other samples in between, from every node on, where values share memory. */
static void a_saved_run_goes_on(void **state)
{
    struct net *net = *state;
    struct diamond d = make_diamond(net);
    struct mpq_exec *exec;
    CHECK_OK(&net->ctx, mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                                        &(struct mpq_exec_options){0}, &exec));
    struct mpq_tensor *x = mpq_exec_tensor(exec, d.x), *y = mpq_exec_tensor(exec, d.y);
    fill_input(exec, d.x);
    mpq_exec_forward(exec, 0, net->graph->n_node);
    void *want = mpq_arena_copy(&net->ctx, net->arena, y->data, mpq_tensor_bytes(y));
    for (mpq_node_id n = 0; n < net->graph->n_node; n++) {
        fill_input(exec, d.x);
        mpq_exec_forward(exec, 0, n);
        void *saved = mpq_arena_alloc(&net->ctx, net->arena, mpq_exec_live_bytes(exec, n), 1);
        mpq_exec_save(exec, n, saved);
        memset(x->data, 0, mpq_tensor_bytes(x));
        mpq_exec_forward(exec, 0, net->graph->n_node);
        assert_memory_not_equal(y->data, want, mpq_tensor_bytes(y));
        mpq_exec_restore(exec, n, saved);
        mpq_exec_forward(exec, n, net->graph->n_node);
        assert_memory_equal(y->data, want, mpq_tensor_bytes(y));
    }
}

static void feeding_replaces_a_weight(void **state)
{
    struct net *net = *state;
    struct diamond d = make_diamond(net);
    struct mpq_exec *exec;
    mpq_real zeros[25] = {0};
    CHECK_OK(&net->ctx, mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                                        &(struct mpq_exec_options){.keep_all = true}, &exec));
    fill_input(exec, d.x);
    mpq_exec_forward(exec, 0, net->graph->n_node);
    double before = half_square(exec, d.y);
    mpq_exec_feed(exec, d.u, zeros);
    mpq_exec_forward(exec, 0, net->graph->n_node);
    CHECK_NEAR(half_square(exec, d.y), half_square(exec, d.relu), 0, 0);
    mpq_exec_feed(exec, d.u, NULL);
    mpq_exec_forward(exec, 0, net->graph->n_node);
    CHECK_NEAR(half_square(exec, d.y), before, 0, 0);
}

/* Gradients of half |y|^2 + half |relu|^2: one seed at the output, one in the middle. */
static void backward_matches_differences(void **state)
{
    struct net *net = *state;
    struct diamond d = make_diamond(net);
    bool *want = mpq_arena_alloc(&net->ctx, net->arena, net->graph->n_value, sizeof *want);
    bool *seed = mpq_arena_alloc(&net->ctx, net->arena, net->graph->n_value, sizeof *seed);
    want[d.w] = want[d.u] = seed[d.relu] = true;
    struct mpq_exec *exec;
    CHECK_OK(&net->ctx,
             mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                             &(struct mpq_exec_options){.want_grad = want, .seed = seed}, &exec));
    fill_input(exec, d.x);
    assert_null(mpq_exec_grad(exec, d.x));
    for (int repeat = 0; repeat < 2; repeat++) { /* nothing of the first run may linger */
        mpq_exec_forward(exec, 0, net->graph->n_node);
        mpq_exec_zero_grad(exec);
        const mpq_value_id seeded[] = {d.y, d.relu};
        for (int s = 0; s < 2; s++) {
            const struct mpq_tensor *tensor = mpq_exec_tensor(exec, seeded[s]);
            for (int64_t i = 0; i < mpq_shape_count(&tensor->shape); i++)
                mpq_exec_grad(exec, seeded[s])[i] += ((mpq_real *)tensor->data)[i];
        }
        mpq_exec_backward(exec);
    }
    const mpq_value_id weights[] = {d.w, d.u};
    for (int k = 0; k < 2; k++) {
        mpq_real *w = mpq_exec_tensor(exec, weights[k])->data;
        const mpq_real *dw = mpq_exec_grad(exec, weights[k]);
        for (int i = 0; i < 20; i++) {
            const mpq_real h = MPQ_REAL(1e-2);
            mpq_real saved = w[i];
            double loss[2];
            for (int side = 0; side < 2; side++) {
                w[i] = saved + (side ? h : -h);
                mpq_exec_forward(exec, 0, net->graph->n_node);
                loss[side] = half_square(exec, d.y) + half_square(exec, d.relu);
            }
            w[i] = saved;
            CHECK_NEAR(dw[i], (loss[1] - loss[0]) / (2 * (double)h), 2e-2, 2e-2);
        }
    }
}

/* A hook sees the output of the node with its gradient complete, and adds what a seed would. */
struct hooked {
    struct mpq_exec *exec;
    int n_call;
};

static void add_value(void *arg, mpq_value_id v)
{
    struct hooked *h = arg;
    const struct mpq_tensor *tensor = mpq_exec_tensor(h->exec, v);
    for (int64_t i = 0; i < mpq_shape_count(&tensor->shape); i++)
        mpq_exec_grad(h->exec, v)[i] += ((const mpq_real *)tensor->data)[i];
    h->n_call++;
}

static void a_hook_is_a_seed(void **state)
{
    struct net *net = *state;
    struct diamond d = make_diamond(net);
    bool *want = mpq_arena_alloc(&net->ctx, net->arena, net->graph->n_value, sizeof *want);
    bool *marked = mpq_arena_alloc(&net->ctx, net->arena, net->graph->n_value, sizeof *marked);
    want[d.w] = want[d.u] = marked[d.relu] = true;
    struct hooked hooked = {0};
    struct mpq_exec *seeded;
    CHECK_OK(&net->ctx,
             mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                             &(struct mpq_exec_options){.want_grad = want, .seed = marked},
                             &seeded));
    CHECK_OK(&net->ctx, mpq_exec_create(&net->ctx, net->arena, net->graph, &d.binding,
                                        &(struct mpq_exec_options){.want_grad = want,
                                                                   .hooked = marked,
                                                                   .hook = add_value,
                                                                   .hook_arg = &hooked},
                                        &hooked.exec));
    struct mpq_exec *both[] = {seeded, hooked.exec};
    for (int k = 0; k < 2; k++) {
        fill_input(both[k], d.x);
        mpq_exec_forward(both[k], 0, net->graph->n_node);
        mpq_exec_zero_grad(both[k]);
        struct hooked output = {both[k], 0};
        add_value(&output, d.y);
        if (k == 0)
            add_value(&output, d.relu);
        mpq_exec_backward(both[k]);
    }
    assert_int_equal(hooked.n_call, 1);
    for (int i = 0; i < 20; i++)
        CHECK_NEAR(mpq_exec_grad(hooked.exec, d.w)[i], mpq_exec_grad(seeded, d.w)[i], 1e-5, 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_buffers_never_overlap),
        cmocka_unit_test(a_chain_needs_two_buffers),
        cmocka_unit_test(adam_first_step_is_the_sign),
        cmocka_unit_test(rate_falls_along_half_a_cosine),
        cmocka_unit_test(loss_is_kl_plus_scaled_error),
        cmocka_unit_test_setup_teardown(a_softmax_written_out_is_one, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(one_number_a_sample_is_compared_as_such, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(shared_memory_changes_nothing, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(a_saved_run_goes_on, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(feeding_replaces_a_weight, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(backward_matches_differences, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(a_hook_is_a_seed, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
