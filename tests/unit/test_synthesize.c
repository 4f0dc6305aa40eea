#include "calibration/synthesize.h"

#include <signal.h>
#include <string.h>

#include "quantcore/engine/exec.h"
#include "tests/unit/net.h"

#define N_SAMPLE 64
#define N_NORM   2

static const struct mpq_shape one_sample = {4, {1, 3, 12, 12}};

/* Two layers, their normalized inputs as outputs too. */
static void build(struct net *net, int64_t batch, bool with_norms)
{
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(batch, 3, 12, 12)), norm_in[N_NORM];
    for (int i = 0; i < N_NORM; i++) {
        char w[] = "w0", c[] = "c0", y[] = "y0", s[] = "s0", b[] = "b0", m[] = "m0", v[] = "v0";
        w[1] = c[1] = y[1] = s[1] = b[1] = m[1] = v[1] = (char)('0' + i);
        mpq_value_id kernel = net_random(net, w, MPQ_SHAPE(5, i ? 5 : 3, 3, 3), false);
        x = norm_in[i] = net_node(net, "Conv", c, NET_NO_ATTRS, NET_IN(x, kernel));
        if (with_norms)
            x = net_node(net, "BatchNormalization", y, NET_NO_ATTRS,
                         NET_IN(x, net_random(net, s, MPQ_SHAPE(5), true),
                                net_random(net, b, MPQ_SHAPE(5), false),
                                net_random(net, m, MPQ_SHAPE(5), false),
                                net_random(net, v, MPQ_SHAPE(5), true)));
    }
    net_output(net, net_node(net, "Relu", "y", NET_NO_ATTRS, NET_IN(x)));
    for (int i = 0; i < N_NORM; i++)
        net_output(net, norm_in[i]);
}

/* Of every channel of the inputs of both norms. */
struct moments {
    double mean[N_NORM][5], var[N_NORM][5];
};

static struct moments measure(struct net *net, const struct mpq_tensor *x)
{
    struct moments moments;
    struct mpq_binding binding;
    struct mpq_exec *exec;
    struct mpq_ctx *ctx = &net->ctx;
    CHECK_OK(ctx, mpq_bind_batch(ctx, net->arena, net->graph, N_SAMPLE, &binding));
    CHECK_OK(ctx, mpq_exec_create(ctx, net->arena, net->graph, &binding,
                                  &(struct mpq_exec_options){.keep_all = true}, &exec));
    mpq_exec_feed(exec, net->graph->input[0], x->data);
    mpq_exec_forward(exec, 0, net->graph->n_node);
    for (int k = 0; k < N_NORM; k++) {
        const struct mpq_tensor *t = mpq_exec_tensor(exec, net->graph->output[1 + k]);
        int64_t inner = t->shape.dim[2] * t->shape.dim[3];
        for (int64_t c = 0; c < 5; c++) {
            double sum = 0, square = 0, n = (double)(N_SAMPLE * inner);
            for (int64_t s = 0; s < N_SAMPLE; s++)
                for (int64_t i = 0; i < inner; i++) {
                    double value = mpq_tensor_double(t, (s * 5 + c) * inner + i);
                    sum += value;
                    square += value * value;
                }
            moments.mean[k][c] = sum / n;
            moments.var[k][c] = square / n - sum / n * (sum / n);
        }
    }
    return moments;
}

static struct mpq_tensor read_all(struct net *net, struct mpq_dataset *dataset)
{
    struct mpq_tensor x;
    uint32_t index[N_SAMPLE];
    assert_int_equal(mpq_dataset_count(dataset), N_SAMPLE);
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        index[i] = i;
    CHECK_OK(&net->ctx, mpq_tensor_alloc(&net->ctx, net->arena, MPQ_FLOAT,
                                         &MPQ_SHAPE(N_SAMPLE, 3, 12, 12), &x));
    CHECK_OK(&net->ctx,
             mpq_dataset_read(&net->ctx, dataset, index, N_SAMPLE, &(struct mpq_tensor *){&x}));
    return x;
}

static struct mpq_tensor synthesize(struct net *net)
{
    struct mpq_dataset *dataset;
    CHECK_OK(&net->ctx, mpq_dataset_synthesize(&net->ctx, net->arena, net->graph, &one_sample,
                                               N_SAMPLE, &dataset));
    return read_all(net, dataset);
}

static struct mpq_tensor noise(struct net *net)
{
    struct mpq_dataset *dataset;
    CHECK_OK(&net->ctx, mpq_dataset_synthetic(&net->ctx, net->arena, net->graph, &one_sample,
                                              N_SAMPLE, &dataset));
    return read_all(net, dataset);
}

/* Store in the norms what they see when the samples are pictures in 0..255. */
static void train(struct net *net)
{
    struct mpq_tensor x = noise(net);
    mpq_real *data = x.data;
    for (int64_t i = 0; i < mpq_shape_count(&x.shape); i++)
        data[i] = MPQ_REAL(120.0) + MPQ_REAL(60.0) * data[i];
    for (int k = 0; k < N_NORM; k++) { /* the second's input depends on the first */
        struct moments moments = measure(net, &x);
        const struct mpq_node *norm = &net->graph->node[2 * k + 1];
        assert_true(mpq_node_is(norm, "BatchNormalization"));
        for (int64_t c = 0; c < 5; c++) {
            ((mpq_real *)net->graph->value[norm->in[3]].constant->data)[c] =
                (mpq_real)moments.mean[k][c];
            ((mpq_real *)net->graph->value[norm->in[4]].constant->data)[c] =
                (mpq_real)moments.var[k][c];
        }
    }
}

/* Largest difference of a mean, in deviations, and of the logarithm of a variance. */
static double distance(const struct moments *got, const struct moments *want)
{
    double largest = 0;
    for (int k = 0; k < N_NORM; k++)
        for (int c = 0; c < 5; c++) {
            double d = fabs(got->mean[k][c] - want->mean[k][c]) / sqrt(want->var[k][c]);
            double r = fabs(log(got->var[k][c] / want->var[k][c]));
            largest = fmax(largest, fmax(d, r));
        }
    return largest;
}

static void matches_stored_statistics(void **state)
{
    struct net *net = *state;
    struct moments want, got, before;
    build(net, -1, true);
    train(net);
    for (int k = 0; k < N_NORM; k++) {
        const struct mpq_node *norm = &net->graph->node[2 * k + 1];
        for (int64_t c = 0; c < 5; c++) {
            want.mean[k][c] = mpq_tensor_double(net->graph->value[norm->in[3]].constant, c);
            want.var[k][c] = mpq_tensor_double(net->graph->value[norm->in[4]].constant, c);
        }
    }
    net->ctx.seed = 7; /* other noise than the norms were made from */
    struct mpq_tensor x = noise(net);
    before = measure(net, &x);
    x = synthesize(net);
    got = measure(net, &x);
    assert_true(distance(&before, &want) > 2);
    assert_true(distance(&got, &want) < 0.2);
}

static void repeats_itself(void **state)
{
    struct net *net = *state;
    build(net, -1, true);
    train(net);
    struct mpq_tensor a = synthesize(net);
    struct mpq_tensor b = synthesize(net);
    assert_memory_equal(a.data, b.data, mpq_tensor_bytes(&a));
    net->ctx.seed = 1;
    b = synthesize(net);
    assert_memory_not_equal(a.data, b.data, mpq_tensor_bytes(&a));
}

static void takes_a_fixed_batch(void **state)
{
    struct net *net = *state;
    build(net, 1, true);
    struct mpq_tensor a = noise(net), b = synthesize(net);
    assert_memory_not_equal(a.data, b.data, mpq_tensor_bytes(&a));
}

static void leaves_others_alone(void **state)
{
    struct net *net = *state;
    build(net, -1, false);
    struct mpq_tensor a = noise(net), b = synthesize(net);
    assert_memory_equal(a.data, b.data, mpq_tensor_bytes(&a));
}

static void stops_when_told(void **state)
{
    static const volatile sig_atomic_t now = 1;
    struct net *net = *state;
    struct mpq_dataset *dataset;
    build(net, -1, true);
    net->ctx.cancel = &now;
    assert_int_equal(
        mpq_dataset_synthesize(&net->ctx, net->arena, net->graph, &one_sample, N_SAMPLE, &dataset),
        MPQ_E_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(matches_stored_statistics, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(repeats_itself, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(takes_a_fixed_batch, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(leaves_others_alone, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(stops_when_told, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
