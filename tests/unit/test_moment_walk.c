/* Moments layer after layer, on states that are kept, against those of passes from the start. */
#include "quantcore/supernet/moment_walk.h"

#include <stdio.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/conv_attrs.h"
#include "quantcore/supernet/conv_rows.h"
#include "tests/check.h"
#include "tests/unit/net.h"

enum { N_LAYER = 5, BATCH = 4, N_SAMPLE = 90, MOST_NETWORKS = 3 };
enum { N_ENOUGH = 16 }; /* batches that run at least */
enum { MOST_ROWS = BATCH * 81, MOST_INPUTS = 72 };

static uint32_t n_read; /* samples, so far */

static enum mpq_status read_normal(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                   uint32_t n, struct mpq_tensor *const *input)
{
    mpq_real *x = input[0]->data;
    int64_t per_sample = mpq_shape_count(&input[0]->shape) / n;
    (void)ctx;
    (void)arg;
    n_read += n;
    for (uint32_t s = 0; s < n; s++)
        for (int64_t i = 0; i < per_sample; i++)
            x[s * per_sample + i] =
                (mpq_real)mpq_rng_normal(1, MPQ_STREAM_TEST, index[s], (uint32_t)i);
    return MPQ_OK;
}

enum { WIDE = 3 }; /* the layer whose (F - X)^T X is summed */

/* Convolutions, the second depthwise, the fourth one wide, that leave less and less of an image;
 * and one that is depthwise of one tap. */
static void build(struct net *net, struct mpq_layer *layer)
{
    const struct mpq_attr attrs[N_LAYER][3] = {
        {NET_INT("group", 1), NET_INTS("strides", 1, 1), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 8), NET_INTS("strides", 2, 2), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 1), NET_INTS("strides", 1, 1), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 1), NET_INTS("strides", 2, 2), NET_INTS("pads", 1, 1, 1, 1)},
        {NET_INT("group", 20), NET_INTS("strides", 1, 1), NET_INTS("pads", 0, 0, 0, 0)}};
    static const int64_t in[N_LAYER] = {3, 8, 8, 4, 20}, out[N_LAYER] = {8, 8, 4, 20, 20};
    static const int64_t edge[N_LAYER] = {3, 3, 3, 3, 1};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 9, 9));
    for (int l = 0; l < N_LAYER; l++) {
        char name[3][16];
        for (int i = 0; i < 3; i++)
            snprintf(name[i], sizeof name[i], "%c%d", "wyr"[i], l);
        int64_t per_group = in[l] / attrs[l][0].i, n_inner = per_group * edge[l] * edge[l];
        mpq_value_id w =
            net_random(net, name[0], MPQ_SHAPE(out[l], per_group, edge[l], edge[l]), false);
        layer[l] = (struct mpq_layer){.node = (mpq_node_id)(2 * l),
                                      .x = x,
                                      .weight = w,
                                      .x_axis = 1,
                                      .x_group_axis = -1,
                                      .n_group = attrs[l][0].i,
                                      .n_outer = 1,
                                      .n_channel = out[l],
                                      .n_inner = n_inner,
                                      .n_param = out[l] * n_inner};
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
    for (int64_t i = 0; i < want->n_group * want->k * want->k; i++)
        CHECK_NEAR(got->gram[i], want->gram[i], 1e-4, 1e-2);
    for (int64_t i = 0; i < want->n_channel * want->k; i++)
        CHECK_NEAR(got->lack[i], want->lack[i], 1e-3, 1e-1);
    for (int64_t i = 0; i < want->n_group * want->k; i++)
        CHECK_NEAR(got->mean[i], want->mean[i], 1e-4, 1e-3);
    for (int64_t i = 0; i < want->n_channel; i++)
        CHECK_NEAR(got->lack_mean[i], want->lack_mean[i], 1e-3, 1e-2);
}

/* Rows [n_row, k] of group g of what the network has just run. */
static void read_rows(const struct mpq_network *network, const struct mpq_layer *layer, int64_t g,
                      int64_t n_row, mpq_real *row)
{
    static int64_t place[MOST_ROWS * 9], offset[MOST_INPUTS];
    const struct mpq_tensor *x[2] = {mpq_exec_tensor(network->exec, layer->x),
                                     mpq_exec_tensor(network->exec, layer->weight)};
    const struct mpq_conv conv = mpq_conv_geometry(&network->graph->node[layer->node], x);
    mpq_conv_rows_offsets(&conv, offset);
    const struct mpq_conv_rows rows = mpq_conv_rows_place(&conv, offset, 0, 1, n_row, place);
    mpq_conv_rows_fill(&rows, x[0]->data, g, 0, n_row, row);
}

/* By the definition, of the batch that the networks have just run. */
static void check_sums(const struct mpq_network *fake, const struct mpq_network *in_float,
                       const struct mpq_layer *layer, const struct mpq_moments *m)
{
    static mpq_real x[MOST_ROWS * MOST_INPUTS], f[MOST_ROWS * MOST_INPUTS];
    int64_t k = m->k, n = (int64_t)m->n_row, per_group = m->n_channel / m->n_group;
    const mpq_real *w = fake->graph->value[layer->weight].constant->data;
    assert_true(n <= MOST_ROWS && k <= MOST_INPUTS);
    for (int64_t c = 0; c < m->n_channel; c++) {
        int64_t g = c / per_group;
        read_rows(fake, layer, g, n, x);
        read_rows(in_float, layer, g, n, f);
        for (int64_t i = 0; i < k; i++) {
            double lack = 0, mean = 0, lack_mean = 0;
            for (int64_t r = 0; r < n; r++) {
                double missing = 0;
                for (int64_t j = 0; j < k; j++)
                    missing += (double)w[c * k + j] * (double)(f[r * k + j] - x[r * k + j]);
                lack += missing * (double)x[r * k + i];
                mean += (double)x[r * k + i];
                lack_mean += missing;
            }
            CHECK_NEAR(m->lack[c * k + i], lack, 1e-4, 1e-2);
            CHECK_NEAR(m->mean[g * k + i], mean, 1e-5, 1e-3);
            CHECK_NEAR(m->lack_mean[c], lack_mean, 1e-5, 1e-3);
        }
        for (int64_t i = 0; i < k * k; i++) {
            double sum = 0;
            for (int64_t r = 0; r < n; r++)
                sum += (double)x[r * k + i / k] * (double)x[r * k + i % k];
            CHECK_NEAR(m->gram[g * k * k + i], sum, 1e-5, 1e-3);
        }
    }
}

/* Room for that many batches at the first layer, and for more and more while the networks narrow;
 * once all are kept, states stay where they are. Those of the first layer do for all where they do
 * not move. */
static void walk(struct net *net, const struct mpq_layer_table *table,
                 const struct mpq_moment_source *source, uint32_t n_kept_first, bool moves)
{
    struct mpq_moment_walk walk;
    struct mpq_moments got[N_LAYER], want[N_LAYER];
    CHECK_OK(&net->ctx, mpq_moment_walk_create(&net->ctx, net->arena, table, source, 0, &walk));
    walk.capacity = n_kept_first * (walk.most[0] + walk.float_most[0] + 1);
    uint32_t before = 0;
    for (uint32_t l = 0; l < N_LAYER; l++) {
        n_read = 0;
        CHECK_OK(&net->ctx,
                 mpq_moments_gather(&net->ctx, net->arena, table, source, l, l + 1, &walk, got));
        uint32_t n_run = walk.n_kept > N_ENOUGH ? walk.n_kept : N_ENOUGH;
        assert_int_equal(n_read, (n_run - before) * BATCH); /* for both networks, and but once */
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
    assert_true(moves ? walk.n_kept > 2 * n_kept_first : walk.n_kept == n_kept_first);
}

static const mpq_node_id node[N_LAYER] = {0, 2, 4, 6, 8};

static void sums_are_what_they_are_defined_as(void **state)
{
    struct net *net = *state;
    struct mpq_layer layer[N_LAYER];
    struct nets nets;
    const uint32_t sample[BATCH] = {0, 1, 2, 3};
    const struct mpq_samples samples = {read_normal, NULL};
    build(net, layer);
    create_networks(net, layer, &nets);
    const struct mpq_layer_table table = {.n_layer = N_LAYER, .layer = layer};
    const struct mpq_moment_source source = {.network = nets.fake,
                                             .layer_node = node,
                                             .float_network = nets.in_float,
                                             .samples = &samples,
                                             .sample = sample,
                                             .n_sample = BATCH};
    for (uint32_t l = 0; l < N_LAYER; l++) {
        struct mpq_moments got[N_LAYER];
        CHECK_OK(&net->ctx,
                 mpq_moments_gather(&net->ctx, net->arena, &table, &source, l, l + 1, NULL, got));
        assert_true((l == WIDE) == (got[l].cross != NULL));
        check_sums(&nets.fake[0], &nets.in_float[0], &layer[l], &got[l]);
    }
}

static void walks_see_what_whole_passes_do(void **state)
{
    struct net *net = *state;
    struct mpq_layer layer[N_LAYER];
    struct nets nets;
    uint32_t sample[N_SAMPLE];
    const struct mpq_samples samples = {read_normal, NULL};
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        sample[i] = i;
    build(net, layer);
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
            for (int moves = 0; moves < 2; moves++) {
                for (int l = 0; l < N_LAYER; l++)
                    layer[l].macs = moves ? 1000000 : 0;
                walk(net, &table, &source, is_tight ? 3 : 9, moves);
            }
        }
    mpq_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sums_are_what_they_are_defined_as, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(walks_see_what_whole_passes_do, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
