/* Second-order rounding: the factorisation, and that layers answer better than with nearest levels.
 */
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/linear_algebra.h"
#include "quantcore/quant/scale.h"
#include "quantcore/supernet/moment_walk.h"
#include "quantcore/supernet/round.h"
#include "tests/check.h"
#include "tests/unit/net.h"

static void inverse_cholesky_is_a_factor_of_the_inverse(void **state)
{
    (void)state;
    enum { N = 5 };
    double a[N * N], saved[N * N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i * N + j] = saved[i * N + j] = (i == j ? 3 : 0) + 1.0 / (1 + i + j);
    assert_true(mpq_inverse_cholesky(N, a));
    /* (u^T u) a = 1, u the upper triangle. */
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++) {
                double inverse = 0;
                for (int m = 0; m <= (i < k ? i : k); m++)
                    inverse += a[m * N + i] * a[m * N + k];
                sum += inverse * saved[k * N + j];
            }
            CHECK_NEAR(sum, i == j, 0, 1e-12);
        }
    const double indefinite[] = {1, 2, 2, 1};
    memcpy(a, indefinite, sizeof indefinite);
    assert_false(mpq_inverse_cholesky(2, a));
}

/* Inputs whose neighbours are correlated and whose mean is not zero, as those of real layers. */
static enum mpq_status read_correlated(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                       uint32_t n, struct mpq_tensor *const *input)
{
    (void)ctx, (void)arg;
    int64_t count = mpq_shape_count(&input[0]->shape) / n;
    mpq_real *x = input[0]->data;
    for (uint32_t s = 0; s < n; s++) {
        double smooth = 0;
        for (int64_t i = 0; i < count; i++) {
            smooth = 0.8 * smooth + 0.6 * mpq_rng_normal(3, MPQ_STREAM_TEST, index[s], (uint32_t)i);
            x[s * count + i] = (mpq_real)(smooth + 0.5);
        }
    }
    return MPQ_OK;
}

struct trial {
    struct mpq_layer layer;
    struct mpq_layer_table table;
    struct mpq_network network;
    struct mpq_supernet net;
    mpq_node_id node;
};

/* Mean squared difference of output y from the float one, and of the channel means, over samples
 * that rounding did not see. */
static void measure(struct net *net, struct trial *t, bool is_float, const uint8_t *bits,
                    mpq_value_id y, double *reference, double *out_error, double *out_shift)
{
    const struct mpq_samples samples = {read_correlated, NULL};
    uint32_t index[16];
    for (uint32_t i = 0; i < 16; i++)
        index[i] = 1000 + i;
    if (is_float) {
        mpq_exec_feed(t->network.exec, t->layer.weight, NULL);
        if (t->layer.bias != MPQ_NO_VALUE)
            mpq_exec_feed(t->network.exec, t->layer.bias, NULL);
    } else
        mpq_supernet_apply(&t->net, t->network.exec, bits);
    CHECK_OK(&net->ctx, mpq_network_read(&net->ctx, &t->network, &samples, index, 16));
    mpq_exec_forward(t->network.exec, 0, t->network.graph->n_node);
    const struct mpq_tensor *out = mpq_exec_tensor(t->network.exec, y);
    int64_t count = mpq_shape_count(&out->shape);
    double error = 0, shift = 0;
    for (int64_t i = 0; i < count; i++) {
        double value = mpq_tensor_double(out, i);
        if (is_float)
            reference[i] = value;
        error += (value - reference[i]) * (value - reference[i]) / (double)count;
        shift += (value - reference[i]) / (double)count;
    }
    *out_error = error;
    *out_shift = fabs(shift);
}

static void check_layer(struct net *net, struct trial *t, mpq_value_id y)
{
    static double reference[65536];
    const struct mpq_samples samples = {read_correlated, NULL};
    uint32_t sample[64];
    for (uint32_t i = 0; i < 64; i++)
        sample[i] = i;
    t->table = (struct mpq_layer_table){.n_layer = 1, .layer = &t->layer};
    t->layer.n_param = t->layer.n_outer * t->layer.n_channel * t->layer.n_inner;
    size_t n_weight = (size_t)(t->layer.n_group * t->layer.n_outer * t->layer.n_inner);
    struct mpq_layer_stats stats = {
        .input_mean = mpq_arena_alloc(&net->ctx, net->arena, n_weight, sizeof(mpq_real)),
        .input_power = mpq_arena_alloc(&net->ctx, net->arena, n_weight, sizeof(mpq_real)),
        .output_power = 1};
    for (size_t i = 0; i < n_weight; i++) {
        stats.input_mean[i] = MPQ_REAL(0.5);
        stats.input_power[i] = MPQ_REAL(1.25);
    }
    CHECK_OK(&net->ctx,
             mpq_network_create(&net->ctx, net->arena, net->graph, 16,
                                &(struct mpq_exec_options){.keep_all = true}, &t->network));
    CHECK_OK(&net->ctx, mpq_supernet_create(&net->ctx, net->arena, net->graph, &t->table,
                                            1 << 2 | 1 << 3 | 1 << 4 | 1 << 8, &t->net));
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &t->net, net->graph, &stats, 0));
    double error, shift;
    measure(net, t, true, NULL, y, reference, &error, &shift);
    double nearest[9];
    for (uint8_t b = 2; b <= 8; b = (uint8_t)(b < 4 ? b + 1 : b + 4))
        measure(net, t, false, &b, y, reference, &nearest[b], &shift);
    const struct mpq_moment_source source = {.network = &t->network,
                                             .layer_node = &t->node,
                                             .samples = &samples,
                                             .sample = sample,
                                             .n_sample = 64};
    CHECK_OK(&net->ctx, mpq_round_supernet(&net->ctx, net->arena, &t->net, &source));
    for (uint8_t b = 2; b <= 8; b = (uint8_t)(b < 4 ? b + 1 : b + 4)) {
        measure(net, t, false, &b, y, reference, &error, &shift);
        if (!(error < 0.9 * nearest[b]))
            fail_msg("%d bits: error %g, %g with nearest levels", b, error, nearest[b]);
        if (t->layer.bias != MPQ_NO_VALUE)
            assert_true(shift < 0.2 * sqrt(error));
    }
}

static void a_gemm_errs_less(void **state)
{
    struct net *net = *state;
    struct trial t = {0};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 40));
    t.layer = (struct mpq_layer){.x_axis = -1,
                                 .x_group_axis = -1,
                                 .n_group = 1,
                                 .n_outer = 40,
                                 .n_channel = 24,
                                 .n_inner = 1};
    t.layer.weight = net_random(net, "w", MPQ_SHAPE(40, 24), false);
    t.layer.bias = net_random(net, "b", MPQ_SHAPE(24), false);
    t.layer.x = x;
    t.layer.y = net_node(net, "Gemm", "y", NET_NO_ATTRS, NET_IN(x, t.layer.weight, t.layer.bias));
    net_output(net, t.layer.y);
    check_layer(net, &t, t.layer.y);
}

static void a_grouped_strided_convolution_errs_less(void **state)
{
    struct net *net = *state;
    struct trial t = {0};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 8, 9, 10));
    const struct mpq_attr attrs[] = {NET_INT("group", 2), NET_INTS("strides", 2, 1),
                                     NET_INTS("pads", 1, 0, 1, 2)};
    t.layer = (struct mpq_layer){.x_axis = 1,
                                 .x_group_axis = -1,
                                 .n_group = 2,
                                 .n_outer = 1,
                                 .n_channel = 6,
                                 .n_inner = 4 * 3 * 3};
    t.layer.weight = net_random(net, "w", MPQ_SHAPE(6, 4, 3, 3), false);
    t.layer.bias = net_random(net, "b", MPQ_SHAPE(6), false);
    t.layer.x = x;
    t.layer.y = net_node(net, "Conv", "y", MPQ_COUNT(attrs), attrs, 3,
                         (mpq_value_id[]){x, t.layer.weight, t.layer.bias});
    net_output(net, t.layer.y);
    check_layer(net, &t, t.layer.y);
}

/* Sample s is input s alone. */
static enum mpq_status read_unit(struct mpq_ctx *ctx, void *arg, const uint32_t *index, uint32_t n,
                                 struct mpq_tensor *const *input)
{
    (void)ctx, (void)arg;
    int64_t count = mpq_shape_count(&input[0]->shape) / n;
    mpq_real *x = input[0]->data;
    for (uint32_t s = 0; s < n; s++)
        for (int64_t i = 0; i < count; i++)
            x[s * count + i] = i == index[s];
    return MPQ_OK;
}

static double scale_error(const struct net *net, const struct trial *t,
                          const struct mpq_levels *levels, int64_t c, double scale)
{
    const float *w = net->graph->value[t->layer.weight].constant->data;
    double sum = 0;
    for (int64_t i = 0; i < t->layer.n_outer; i++) {
        double x = (double)w[i * t->layer.n_channel + c];
        double error = x - scale * mpq_levels_nearest(levels, (mpq_real)(x / scale));
        sum += error * error;
    }
    return sum;
}

/* A product of k inputs and n_channel outputs, the net's only node. */
static struct mpq_layer make_product(struct net *net, int64_t k, int64_t n_channel)
{
    struct mpq_layer layer = {.x_axis = -1,
                              .x_group_axis = -1,
                              .n_group = 1,
                              .n_outer = k,
                              .n_channel = n_channel,
                              .n_inner = 1,
                              .n_param = k * n_channel,
                              .bias = MPQ_NO_VALUE,
                              .scale_steps = 16};
    layer.x = net_input(net, "x", MPQ_SHAPE(-1, k));
    layer.weight = net_random(net, "w", MPQ_SHAPE(k, n_channel), false);
    layer.y = net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(layer.x, layer.weight));
    net_output(net, layer.y);
    return layer;
}

/* Of inputs that say nothing about each other each weight becomes the level nearest to it, so all
 * there is to find is the scale. */
static void scales_err_least_nearby(void **state)
{
    enum { K = 12 };
    struct net *net = *state;
    struct trial t = {0};
    const struct mpq_samples samples = {read_unit, NULL};
    uint32_t sample[K];
    t.layer = make_product(net, K, 9);
    t.table = (struct mpq_layer_table){.n_layer = 1, .layer = &t.layer};
    mpq_real power[K], mean[K] = {0}, before[9][9];
    for (uint32_t i = 0; i < K; i++) {
        sample[i] = i;
        power[i] = 1;
    }
    const struct mpq_layer_stats stats = {mean, power, 1};
    CHECK_OK(&net->ctx,
             mpq_network_create(&net->ctx, net->arena, net->graph, K,
                                &(struct mpq_exec_options){.keep_all = true}, &t.network));
    CHECK_OK(&net->ctx, mpq_supernet_create(&net->ctx, net->arena, net->graph, &t.table,
                                            1 << 3 | 1 << 8, &t.net));
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &t.net, net->graph, &stats, 0));
    for (int b = 3; b <= 8; b += 5)
        memcpy(before[b], t.net.layer[0].width[b].scale, sizeof before[b]);
    const struct mpq_moment_source source = {.network = &t.network,
                                             .layer_node = &t.node,
                                             .samples = &samples,
                                             .sample = sample,
                                             .n_sample = K};
    CHECK_OK(&net->ctx, mpq_round_supernet(&net->ctx, net->arena, &t.net, &source));
    int n_moved = 0;
    for (int b = 3; b <= 8; b += 5) {
        const struct mpq_supernet_width *width = &t.net.layer[0].width[b];
        for (int64_t c = 0; c < 9; c++) {
            double error = scale_error(net, &t, &width->levels, c, (double)width->scale[c]);
            double given = (double)mpq_scale_round(&t.layer, (float)before[b][c]);
            n_moved += fabs(log2((double)width->scale[c] / given)) > 0.01;
            for (int shift = -2; shift <= 6; shift++) {
                double scale = given * exp2(shift / 16.0);
                assert_true(error <= scale_error(net, &t, &width->levels, c, scale) * 1.0001);
            }
        }
    }
    assert_true(n_moved > 4);
    t.layer.keeps_scales = true;
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &t.net, net->graph, &stats, 0));
    CHECK_OK(&net->ctx, mpq_round_supernet(&net->ctx, net->arena, &t.net, &source));
    for (int b = 3; b <= 8; b += 5)
        for (int64_t c = 0; c < 9; c++)
            CHECK_NEAR(t.net.layer[0].width[b].scale[c],
                       mpq_scale_round(&t.layer, (float)before[b][c]), 0, 0);
}

/* Of so many inputs not all scales are tried: that depends on the channels that are rounded
 * together, and these not on the threads. */
static void scales_are_the_same_by_any_number_of_threads(void **state)
{
    enum { K = 70, N_CHANNEL = 44, N_SAMPLE = 160, BITS = 3, MOST_THREADS = 4 };
    struct net *net = *state;
    const struct mpq_samples samples = {read_correlated, NULL};
    struct mpq_layer layer = make_product(net, K, N_CHANNEL);
    const struct mpq_layer_table table = {.n_layer = 1, .layer = &layer};
    const mpq_node_id node = 0;
    mpq_real power[K];
    uint32_t sample[N_SAMPLE];
    struct mpq_network network;
    struct mpq_supernet fitted, by_one, by_more;
    struct mpq_moments moments;
    for (int i = 0; i < K; i++)
        power[i] = 1;
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        sample[i] = i;
    const struct mpq_layer_stats stats = {power, power, 1};
    CHECK_OK(&net->ctx, mpq_network_create(&net->ctx, net->arena, net->graph, 16,
                                           &(struct mpq_exec_options){.keep_all = true}, &network));
    const struct mpq_moment_source source = {.network = &network,
                                             .layer_node = &node,
                                             .samples = &samples,
                                             .sample = sample,
                                             .n_sample = N_SAMPLE};
    CHECK_OK(&net->ctx,
             mpq_moments_gather(&net->ctx, net->arena, &table, &source, 0, 1, NULL, &moments));
    CHECK_OK(&net->ctx,
             mpq_supernet_create(&net->ctx, net->arena, net->graph, &table, 1 << BITS, &fitted));
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &fitted, net->graph, &stats, 0));
    for (int n = 1; n <= MOST_THREADS; n++) {
        struct mpq_supernet *to = n == 1 ? &by_one : &by_more;
        mpq_thread_set_count(n);
        CHECK_OK(&net->ctx, mpq_supernet_copy(&net->ctx, net->arena, &fitted, to));
        CHECK_OK(&net->ctx, mpq_round_from(&net->ctx, net->arena, to, net->graph, &moments));
        assert_memory_equal(to->layer->width[BITS].scale, by_one.layer->width[BITS].scale,
                            N_CHANNEL * sizeof(mpq_real));
    }
    mpq_thread_set_count(1);
}

/* The rows of X are the columns of its input. */
static void a_left_operand_errs_less(void **state)
{
    struct net *net = *state;
    struct trial t = {0};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 40, 2));
    t.layer = (struct mpq_layer){.bias = MPQ_NO_VALUE,
                                 .x = x,
                                 .x_input = 1,
                                 .x_axis = -2,
                                 .x_group_axis = -1,
                                 .is_weight_only = true,
                                 .n_group = 1,
                                 .n_outer = 1,
                                 .n_channel = 24,
                                 .n_inner = 40};
    t.layer.weight = net_random(net, "w", MPQ_SHAPE(24, 40), false);
    t.layer.y = net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(t.layer.weight, x));
    net_output(net, t.layer.y);
    check_layer(net, &t, t.layer.y);
}

/* Mean squared difference of y from the float network's over samples that rounding did not see. */
static double error_of(struct net *net, struct mpq_network *network, struct mpq_network *reference,
                       mpq_value_id y)
{
    const struct mpq_samples samples = {read_correlated, NULL};
    uint32_t index[16];
    double error = 0;
    for (uint32_t i = 0; i < 16; i++)
        index[i] = 1000 + i;
    struct mpq_network *both[] = {network, reference};
    for (int i = 0; i < 2; i++) {
        CHECK_OK(&net->ctx, mpq_network_read(&net->ctx, both[i], &samples, index, 16));
        mpq_exec_forward(both[i]->exec, 0, both[i]->graph->n_node);
    }
    const struct mpq_tensor *got = mpq_exec_tensor(network->exec, y);
    const struct mpq_tensor *wanted = mpq_exec_tensor(reference->exec, y);
    int64_t count = mpq_shape_count(&got->shape);
    for (int64_t i = 0; i < count; i++) {
        double d = mpq_tensor_double(got, i) - mpq_tensor_double(wanted, i);
        error += d * d / (double)count;
    }
    return error;
}

/* The second of two layers makes good what the first has to get wrong at 2 bits; other widths and
 * the latent weights stay as they are. */
static void an_allocation_makes_good_what_layers_before_got_wrong(void **state)
{
    struct net *net = *state;
    const struct mpq_samples samples = {read_correlated, NULL};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 40)), h;
    struct mpq_layer layer[2] = {
        {.x_axis = -1, .x_group_axis = -1, .n_group = 1, .n_outer = 40, .n_channel = 32},
        {.x_axis = -1, .x_group_axis = -1, .n_group = 1, .n_outer = 32, .n_channel = 24}};
    layer[0].x = x;
    layer[0].weight = net_random(net, "w0", MPQ_SHAPE(40, 32), false);
    layer[0].bias = net_random(net, "b0", MPQ_SHAPE(32), false);
    h = net_node(net, "Gemm", "h", NET_NO_ATTRS, NET_IN(x, layer[0].weight, layer[0].bias));
    layer[1].x = layer[0].y = net_node(net, "Relu", "r", NET_NO_ATTRS, NET_IN(h));
    layer[1].weight = net_random(net, "w1", MPQ_SHAPE(32, 24), false);
    layer[1].bias = net_random(net, "b1", MPQ_SHAPE(24), false);
    layer[1].y = net_node(net, "Gemm", "y", NET_NO_ATTRS,
                          NET_IN(layer[1].x, layer[1].weight, layer[1].bias));
    layer[1].node = 2;
    net_output(net, layer[1].y);
    struct mpq_layer_stats stats[2];
    uint32_t sample[256];
    for (int l = 0; l < 2; l++) {
        layer[l].n_inner = 1;
        layer[l].n_param = layer[l].n_outer * layer[l].n_channel;
        layer[l].macs = 100000; /* states move */
        mpq_real *power =
            mpq_arena_alloc(&net->ctx, net->arena, (size_t)layer[l].n_outer, sizeof *power);
        for (int64_t i = 0; i < layer[l].n_outer; i++)
            power[i] = 1;
        stats[l] = (struct mpq_layer_stats){.input_mean = power, .input_power = power};
    }
    for (uint32_t i = 0; i < 256; i++)
        sample[i] = i;
    struct mpq_layer_table table = {.n_layer = 2, .layer = layer};
    struct mpq_network network, reference;
    struct mpq_supernet supernet;
    const struct mpq_exec_options keep_all = {.keep_all = true};
    CHECK_OK(&net->ctx,
             mpq_network_create(&net->ctx, net->arena, net->graph, 16, &keep_all, &network));
    CHECK_OK(&net->ctx,
             mpq_network_create(&net->ctx, net->arena, net->graph, 16, &keep_all, &reference));
    CHECK_OK(&net->ctx, mpq_supernet_create(&net->ctx, net->arena, net->graph, &table,
                                            1 << 2 | 1 << 4 | 1 << 8, &supernet));
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &supernet, net->graph, stats, 0));

    const uint8_t bits[] = {2, 4};
    const mpq_node_id node[] = {0, 2};
    struct mpq_supernet one_by_one;
    CHECK_OK(&net->ctx, mpq_supernet_copy(&net->ctx, net->arena, &supernet, &one_by_one));
    struct mpq_moment_source all = {.network = &network,
                                    .layer_node = node,
                                    .samples = &samples,
                                    .sample = sample,
                                    .n_sample = 256,
                                    .max_bytes = 1};
    CHECK_OK(&net->ctx, mpq_round_supernet(&net->ctx, net->arena, &one_by_one, &all));
    all.max_bytes = 0;
    CHECK_OK(&net->ctx, mpq_round_supernet(&net->ctx, net->arena, &supernet, &all));
    for (int l = 0; l < 2; l++)
        assert_memory_equal(one_by_one.layer[l].width[2].offset, supernet.layer[l].width[2].offset,
                            (size_t)layer[l].n_param * sizeof(mpq_real));
    mpq_supernet_apply(&supernet, network.exec, bits);
    double apart = error_of(net, &network, &reference, layer[1].y);
    const mpq_real *other = supernet.layer[0].width[8].offset;
    mpq_real latent = supernet.layer[1].w[5];
    const struct mpq_moment_source source = {.network = &network,
                                             .layer_node = node,
                                             .float_network = &reference,
                                             .samples = &samples,
                                             .sample = sample,
                                             .n_sample = 256};
    CHECK_OK(&net->ctx,
             mpq_round_allocation(&net->ctx, net->arena, &supernet, &source, bits, 0, 2));
    mpq_supernet_apply(&supernet, network.exec, bits);
    double together = error_of(net, &network, &reference, layer[1].y);
    if (!(together < 0.65 * apart))
        fail_msg("error %g, %g with layers rounded apart", together, apart);
    assert_ptr_equal(supernet.layer[0].width[8].offset, other);
    assert_true(supernet.layer[1].w[5] == latent);

    /* Batches that go on from where they were show what those from the start do: at the first layer
     * 11, all there is room for, and later as many as there is room for then. */
    struct mpq_moments walked[2], run[2];
    struct mpq_moment_walk walk;
    CHECK_OK(&net->ctx, mpq_moment_walk_create(&net->ctx, net->arena, &table, &source, 0, &walk));
    assert_int_equal(walk.capacity, 16 * (walk.most[0] + walk.float_most[0] + 1));
    walk.capacity = 11 * (walk.most[0] + walk.float_most[0] + 1);
    const uint32_t begin[] = {0, 1, 1}, n_kept[] = {11, 13, 13};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(&net->ctx, mpq_moments_gather(&net->ctx, net->arena, &table, &source, begin[i],
                                               begin[i] + 1, &walk, walked));
        assert_int_equal(walk.n_kept, n_kept[i]);
        mpq_supernet_apply_layer(&supernet, network.exec, begin[i], 8);
    }
    assert_int_equal(walk.node, 2);
    struct mpq_moment_source few = source;
    few.n_sample = 13 * 16;
    CHECK_OK(&net->ctx, mpq_moments_gather(&net->ctx, net->arena, &table, &few, 1, 2, NULL, run));
    assert_int_equal(walked[1].n_row, run[1].n_row);
    assert_memory_equal(walked[1].gram, run[1].gram, 32 * 32 * sizeof(mpq_real));
    assert_memory_equal(walked[1].lack, run[1].lack, (size_t)layer[1].n_param * sizeof(mpq_real));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inverse_cholesky_is_a_factor_of_the_inverse),
        cmocka_unit_test_setup_teardown(a_gemm_errs_less, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(a_grouped_strided_convolution_errs_less, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(scales_err_least_nearby, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(scales_are_the_same_by_any_number_of_threads, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(a_left_operand_errs_less, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(an_allocation_makes_good_what_layers_before_got_wrong,
                                        net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
