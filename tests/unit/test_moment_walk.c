/* Moments layer after layer, on states that are kept, against those of passes from the start. */
#include "quantcore/supernet/moment_walk.h"

#include <stdio.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "tests/check.h"
#include "tests/unit/net.h"

enum { N_LAYER = 4, BATCH = 4, N_SAMPLE = 90, MOST_NETWORKS = 3 };

static enum mpq_status read_normal(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                   uint32_t n, struct mpq_tensor *const *input)
{
    mpq_real *x = input[0]->data;
    int64_t per_sample = mpq_shape_count(&input[0]->shape) / n;
    (void)ctx;
    (void)arg;
    for (uint32_t s = 0; s < n; s++)
        for (int64_t i = 0; i < per_sample; i++)
            x[s * per_sample + i] =
                (mpq_real)mpq_rng_normal(1, MPQ_STREAM_TEST, index[s], (uint32_t)i);
    return MPQ_OK;
}

/* Convolutions, the second depthwise, that leave less and less of an image. */
static void build(struct net *net, const struct mpq_attr attrs[][3], struct mpq_layer *layer)
{
    static const int64_t in[N_LAYER] = {3, 8, 8, 4}, out[N_LAYER] = {8, 8, 4, 5};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 9, 9));
    for (int l = 0; l < N_LAYER; l++) {
        char name[3][16];
        for (int i = 0; i < 3; i++)
            snprintf(name[i], sizeof name[i], "%c%d", "wyr"[i], l);
        int64_t per_group = in[l] / attrs[l][0].i;
        mpq_value_id w = net_random(net, name[0], MPQ_SHAPE(out[l], per_group, 3, 3), false);
        layer[l] = (struct mpq_layer){.node = (mpq_node_id)(2 * l),
                                      .x = x,
                                      .weight = w,
                                      .x_axis = 1,
                                      .x_group_axis = -1,
                                      .n_group = attrs[l][0].i,
                                      .n_outer = 1,
                                      .n_channel = out[l],
                                      .n_inner = per_group * 9,
                                      .n_param = out[l] * per_group * 9};
        layer[l].y = net_node(net, "Conv", name[1], 3, attrs[l], NET_IN(x, w));
        x = net_node(net, "Relu", name[2], NET_NO_ATTRS, NET_IN(layer[l].y));
    }
    net_output(net, x);
}

struct nets {
    struct mpq_network fake[MOST_NETWORKS], in_float[MOST_NETWORKS];
    mpq_real *other[N_LAYER]; /* weights of the float networks */
};

static void create_networks(struct net *net, const struct mpq_layer *layer, struct nets *nets)
{
    const struct mpq_exec_options plain = {0};
    for (int l = 0; l < N_LAYER; l++) {
        nets->other[l] =
            mpq_arena_alloc(&net->ctx, net->arena, (size_t)layer[l].n_param, sizeof(mpq_real));
        for (int64_t i = 0; i < layer[l].n_param; i++)
            nets->other[l][i] = (mpq_real)mpq_rng_normal(2, MPQ_STREAM_TEST, 0, (uint32_t)i);
    }
    for (int i = 0; i < MOST_NETWORKS; i++) {
        CHECK_OK(&net->ctx, mpq_network_create(&net->ctx, net->arena, net->graph, BATCH, &plain,
                                               &nets->fake[i]));
        CHECK_OK(&net->ctx, mpq_network_create(&net->ctx, net->arena, net->graph, BATCH, &plain,
                                               &nets->in_float[i]));
        for (int l = 0; l < N_LAYER; l++)
            mpq_exec_feed(nets->in_float[i].exec, layer[l].weight, nets->other[l]);
    }
}

static void check_same(const struct mpq_moments *got, const struct mpq_moments *want)
{
    assert_int_equal(got->n_row, want->n_row);
    for (int64_t i = 0; i < want->n_group * want->k * want->k; i++) {
        CHECK_NEAR(got->gram[i], want->gram[i], 1e-4, 1e-2);
        CHECK_NEAR(got->cross[i], want->cross[i], 1e-4, 1e-2);
    }
    for (int64_t i = 0; i < want->n_group * want->k; i++) {
        CHECK_NEAR(got->mean[i], want->mean[i], 1e-4, 1e-3);
        CHECK_NEAR(got->float_mean[i], want->float_mean[i], 1e-4, 1e-3);
    }
}

/* Room for that many batches at the first layer, and for more and more while the networks narrow;
 * once all are kept, states stay where they are. */
static void walk(struct net *net, const struct mpq_layer_table *table,
                 const struct mpq_moment_source *source, uint32_t n_kept_first)
{
    struct mpq_moment_walk walk;
    struct mpq_moments got[N_LAYER], want[N_LAYER];
    CHECK_OK(&net->ctx, mpq_moment_walk_create(&net->ctx, net->arena, table, source, &walk));
    walk.capacity = n_kept_first * (walk.most[0] + walk.float_most[0] + 1);
    uint32_t before = 0;
    for (uint32_t l = 0; l < N_LAYER; l++) {
        CHECK_OK(&net->ctx,
                 mpq_moments_gather(&net->ctx, net->arena, table, source, l, l + 1, &walk, got));
        assert_true(walk.n_kept >= before && (l || walk.n_kept == n_kept_first));
        before = walk.n_kept;
        struct mpq_moment_source few = *source;
        few.n_network = 1;
        few.n_sample = walk.n_kept * BATCH < N_SAMPLE ? walk.n_kept * BATCH : N_SAMPLE;
        few.n_sample = few.n_sample > 64 ? few.n_sample : 64;
        CHECK_OK(&net->ctx,
                 mpq_moments_gather(&net->ctx, net->arena, table, &few, l, l + 1, NULL, want));
        check_same(&got[l], &want[l]);
    }
    assert_true(walk.n_kept > 2 * n_kept_first);
}

static void walks_see_what_whole_passes_do(void **state)
{
    struct net *net = *state;
    struct mpq_layer layer[N_LAYER];
    struct nets nets;
    uint32_t sample[N_SAMPLE];
    const mpq_node_id node[N_LAYER] = {0, 2, 4, 6};
    const struct mpq_samples samples = {read_normal, NULL};
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        sample[i] = i;
    const struct mpq_attr attrs[N_LAYER][3] = {
        {NET_INT("group", 1), NET_INTS("strides", 1, 1), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 8), NET_INTS("strides", 2, 2), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 1), NET_INTS("strides", 1, 1), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 1), NET_INTS("strides", 2, 2), NET_INTS("pads", 1, 1, 1, 1)}};
    build(net, attrs, layer);
    mpq_thread_set_count(MOST_NETWORKS);
    create_networks(net, layer, &nets);
    const struct mpq_layer_table table = {.n_layer = N_LAYER, .layer = layer};
    for (uint32_t n = 0; n <= MOST_NETWORKS; n++)
        for (int is_tight = 0; is_tight < 2; is_tight++) {
            const struct mpq_moment_source source = {.network = nets.fake,
                                                     .layer_node = node,
                                                     .float_network = nets.in_float,
                                                     .samples = &samples,
                                                     .sample = sample,
                                                     .n_sample = N_SAMPLE,
                                                     .max_bytes = is_tight ? 100000 : 0,
                                                     .n_network = n};
            walk(net, &table, &source, is_tight ? 3 : 9);
        }
    mpq_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(walks_see_what_whole_passes_do, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
