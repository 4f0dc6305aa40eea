/* Losses of allocations, with and without what was kept of the ones before; sensitivities; tuning
 * one allocation. */
#include <math.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/pass/pass.h"
#include "quantcore/supernet/round.h"
#include "quantcore/supernet/sensitivity.h"
#include "quantcore/supernet/tune.h"
#include "tests/check.h"
#include "tests/unit/net.h"

enum { N_LAYER = 4, N_SAMPLE = 21, BATCH = 8, WIDTH = 12 };

/* Four products, each with a Relu. The second and the third read what the first makes and run one
 * after the other, before either Relu; the second's is an output, the fourth reads the third's. */
struct family {
    struct mpq_layer layer[N_LAYER];
    struct mpq_layer_table table;
    mpq_node_id node[N_LAYER];
    struct mpq_network network;
    struct mpq_supernet supernet;
    struct mpq_targets targets;
    uint32_t sample[N_SAMPLE];
    struct mpq_evaluator evaluator;
};

static enum mpq_status read_normal(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                   uint32_t n, struct mpq_tensor *const *input)
{
    (void)ctx, (void)arg;
    int64_t count = mpq_shape_count(&input[0]->shape) / n;
    mpq_real *x = input[0]->data;
    for (uint32_t s = 0; s < n; s++)
        for (int64_t i = 0; i < count; i++)
            x[s * count + i] = (mpq_real)mpq_rng_normal(7, MPQ_STREAM_TEST, index[s], (uint32_t)i);
    return MPQ_OK;
}

static mpq_value_id add_product(struct net *net, struct family *f, uint32_t l, mpq_value_id x)
{
    static const char *const name[N_LAYER][3] = {
        {"w0", "b0", "h0"}, {"w1", "b1", "h1"}, {"w2", "b2", "h2"}, {"w3", "b3", "h3"}};
    struct mpq_layer *layer = &f->layer[l];
    *layer = (struct mpq_layer){.x_axis = -1,
                                .x_group_axis = -1,
                                .n_group = 1,
                                .n_outer = WIDTH,
                                .n_channel = WIDTH,
                                .n_inner = 1,
                                .n_param = WIDTH * WIDTH,
                                .x = x,
                                .node = net->graph->n_node};
    layer->weight = net_random(net, name[l][0], MPQ_SHAPE(WIDTH, WIDTH), false);
    layer->bias = net_random(net, name[l][1], MPQ_SHAPE(WIDTH), false);
    layer->y =
        net_node(net, "Gemm", name[l][2], NET_NO_ATTRS, NET_IN(x, layer->weight, layer->bias));
    f->node[l] = layer->node;
    return layer->y;
}

static void build_graph(struct net *net, struct family *f)
{
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, WIDTH));
    mpq_value_id h0 = add_product(net, f, 0, x);
    mpq_value_id r0 = net_node(net, "Relu", "r0", NET_NO_ATTRS, NET_IN(h0));
    mpq_value_id h1 = add_product(net, f, 1, r0), h2 = add_product(net, f, 2, r0);
    net_output(net, net_node(net, "Relu", "r1", NET_NO_ATTRS, NET_IN(h1)));
    mpq_value_id r2 = net_node(net, "Relu", "r2", NET_NO_ATTRS, NET_IN(h2));
    mpq_value_id h3 = add_product(net, f, 3, r2);
    net_output(net, net_node(net, "Relu", "r3", NET_NO_ATTRS, NET_IN(h3)));
}

static struct family *make_family(struct net *net)
{
    struct family *f = mpq_arena_alloc(&net->ctx, net->arena, 1, sizeof *f);
    const struct mpq_samples samples = {read_normal, NULL};
    struct mpq_layer_stats stats[N_LAYER];
    static mpq_real one[WIDTH];
    assert_non_null(f);
    build_graph(net, f);
    for (int i = 0; i < WIDTH; i++)
        one[i] = 1;
    for (int l = 0; l < N_LAYER; l++)
        stats[l] = (struct mpq_layer_stats){.input_mean = one, .input_power = one};
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        f->sample[i] = 3 * i;
    f->table = (struct mpq_layer_table){.n_layer = N_LAYER, .layer = f->layer};
    CHECK_OK(&net->ctx,
             mpq_network_create(&net->ctx, net->arena, net->graph, BATCH,
                                &(struct mpq_exec_options){.keep_all = true}, &f->network));
    CHECK_OK(&net->ctx, mpq_supernet_create(&net->ctx, net->arena, net->graph, &f->table,
                                            1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8,
                                            &f->supernet));
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &f->supernet, net->graph, stats, 0));
    CHECK_OK(&net->ctx, mpq_targets_create(&net->ctx, net->arena, &f->network, &samples, f->sample,
                                           N_SAMPLE, &f->targets));
    CHECK_OK(&net->ctx, mpq_evaluator_create(&net->ctx, net->arena, &f->supernet, &f->network,
                                             &samples, &f->targets, f->node, &f->evaluator));
    return f;
}

/* ---- losses ---- */

/* 12 columns, one row a sample, against all 21 of them and by squares, for both outputs. */
static void a_loss_takes_what_its_products_do(void **state)
{
    struct net *net = *state;
    struct family *f = make_family(net);
    const struct mpq_loss none = {0};
    assert_int_equal(f->targets.references[1].n, N_SAMPLE);
    CHECK_NEAR(mpq_network_loss_macs(&f->network.loss, &f->targets), 3 * 2 * WIDTH * (N_SAMPLE + 1),
               0, 0);
    CHECK_NEAR(mpq_network_loss_macs(&none, &f->targets), 0, 0, 0);
}

/* ---- prefixes ---- */

enum { MOST_NETWORKS = 3 };

/* The same losses to the last bit, whatever came before and whatever memory there is. */
static void check_prefixes(struct net *net, const struct family *f, struct mpq_network *network,
                           uint32_t n_network, struct mpq_room *room, size_t max_bytes)
{
    static const uint8_t bits[][N_LAYER] = {{8, 8, 8, 8}, {4, 4, 4, 4}, {4, 4, 4, 8}, {4, 4, 2, 5},
                                            {4, 3, 4, 4}, {4, 4, 4, 3}, {2, 4, 4, 4}, {2, 4, 4, 8},
                                            {2, 4, 8, 8}, {2, 4, 8, 8}, {4, 4, 4, 4}, {3, 4, 4, 4}};
    struct mpq_evaluator plain = f->evaluator, keeping = plain;
    size_t taken = 0;
    uint32_t n_used = 0;
    keeping.network = network;
    keeping.n_network = n_network;
    CHECK_OK(&net->ctx, mpq_evaluator_keep_prefixes(&net->ctx, net->arena, room, &keeping, NULL, 0,
                                                    max_bytes));
    for (uint32_t i = 0; i < keeping.prefixes->n_prefix; i++)
        taken += 3 * keeping.prefixes->prefix[i].n_byte;
    assert_true(taken <= max_bytes);
    assert_int_equal(keeping.prefixes->n_prefix > 0, max_bytes > 1000);
    for (size_t i = 0; i < MPQ_COUNT(bits); i++) {
        double loss[N_SAMPLE], again[N_SAMPLE];
        CHECK_OK(&net->ctx, mpq_evaluate_samples(&net->ctx, &plain, bits[i], loss));
        CHECK_OK(&net->ctx, mpq_evaluate_samples(&net->ctx, &keeping, bits[i], again));
        assert_memory_equal(loss, again, sizeof loss);
        n_used += !mpq_prefixes_begins_anew(keeping.prefixes);
    }
    if (max_bytes > 20000) {
        assert_int_equal(keeping.prefixes->n_prefix, N_LAYER - 1);
        assert_int_equal(n_used, 5); /* nothing shares anything with what came up just once */
    }
}

static void prefixes_and_networks_change_no_loss(void **state)
{
    struct net *net = *state;
    struct family *f = make_family(net);
    struct mpq_network network[MOST_NETWORKS];
    struct mpq_room *room;
    mpq_thread_set_count(MOST_NETWORKS);
    CHECK_OK(&net->ctx, mpq_room_create(&net->ctx, net->arena, &room));
    for (int i = 0; i < MOST_NETWORKS; i++)
        CHECK_OK(&net->ctx,
                 mpq_network_create(&net->ctx, net->arena, net->graph, BATCH,
                                    &(struct mpq_exec_options){.keep_all = true}, &network[i]));
    for (uint32_t n = 0; n <= MOST_NETWORKS; n++)
        for (size_t max_bytes = 0; max_bytes < 100000; max_bytes = 2 * max_bytes + 1000)
            check_prefixes(net, f, network, n, room, max_bytes);
    mpq_thread_set_count(1);
}

/* ---- sensitivities ---- */

static void the_ends_and_the_middle_are_measured(void **state)
{
    (void)state;
    static const struct {
        mpq_bits_mask candidates, measured;
    } row[] = {{0x17c, 0x114}, {0x1fc, 0x124}, {0x114, 0x114}, {0x110, 0x110},
               {0x100, 0x100}, {0x15c, 0x114}, {0x154, 0x114}};
    for (size_t i = 0; i < MPQ_COUNT(row); i++)
        assert_int_equal(mpq_sensitivity_measured(row[i].candidates), row[i].measured);
}

static void losses_between_the_measured_follow_the_error(void **state)
{
    (void)state;
    const mpq_bits_mask all = 0x17c;
    const double error[MPQ_N_BITS] = {[2] = 64, [3] = 16, [4] = 4, [5] = 1, [6] = 0.25};
    /* In proportion, above the loss of 8 bits. */
    double loss[MPQ_N_BITS] = {[2] = 65, [4] = 5, [8] = 1};
    mpq_sensitivity_fill(all, error, loss);
    CHECK_NEAR(loss[3], 17, 1e-12, 0);
    CHECK_NEAR(loss[5], 2, 1e-12, 0);
    CHECK_NEAR(loss[6], 1.25, 1e-12, 0);
    /* Less than in proportion where the loss saturates. */
    double saturating[MPQ_N_BITS] = {[2] = 16, [4] = 4};
    mpq_sensitivity_fill(all, error, saturating);
    CHECK_NEAR(saturating[3], 8, 1e-12, 0);
    CHECK_NEAR(saturating[5], 1, 1e-12, 0);
    /* One of the measured is lost in noise, then both. */
    double noisy[MPQ_N_BITS] = {[2] = 65, [4] = 0.5, [8] = 1};
    mpq_sensitivity_fill(all, error, noisy);
    CHECK_NEAR(noisy[3], 17, 1e-12, 0);
    CHECK_NEAR(noisy[5], 2, 1e-12, 0);
    double flat[MPQ_N_BITS] = {[2] = 0.9, [4] = 0.5, [8] = 1};
    mpq_sensitivity_fill(all, error, flat);
    CHECK_NEAR(flat[3], 1, 0, 0);
    /* Weights that all widths hold exactly. */
    const double none[MPQ_N_BITS] = {0};
    double same[MPQ_N_BITS] = {[2] = 1, [4] = 1, [8] = 1};
    mpq_sensitivity_fill(all, none, same);
    CHECK_NEAR(same[3], 1, 0, 0);
}

/* All of them where that may be, else those that are measured, and the rest lies near it. */
static void sensitivities_are_losses_of_allocations(void **state)
{
    struct net *net = *state;
    struct family *f = make_family(net);
    double loss[N_LAYER * MPQ_N_BITS], all[N_LAYER * MPQ_N_BITS], few[N_LAYER * MPQ_N_BITS];
    const double some = 30.0 * N_SAMPLE * WIDTH * WIDTH; /* enough for three widths, not for all */
    CHECK_OK(&net->ctx, mpq_sensitivity(&net->ctx, &f->evaluator, NULL, 0, some, loss));
    CHECK_OK(&net->ctx, mpq_sensitivity(&net->ctx, &f->evaluator, NULL, 0, 1e12, all));
    for (uint32_t l = 0; l < N_LAYER; l++)
        for (uint32_t b = 0; b < MPQ_N_BITS; b++) {
            double evaluated, sensitivity = loss[l * MPQ_N_BITS + b];
            uint8_t bits[N_LAYER] = {8, 8, 8, 8};
            bool is_candidate = f->supernet.layer[l].candidates >> b & 1;
            assert_int_equal(isnan(sensitivity), !is_candidate);
            assert_int_equal(isnan(all[l * MPQ_N_BITS + b]), !is_candidate);
            if (!is_candidate)
                continue;
            bits[l] = (uint8_t)b;
            CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &f->evaluator, bits, &evaluated));
            CHECK_NEAR(all[l * MPQ_N_BITS + b], evaluated, 1e-5, 1e-12);
            if (mpq_sensitivity_measured(f->supernet.layer[l].candidates) >> b & 1)
                CHECK_NEAR(sensitivity, evaluated, 1e-5, 1e-12);
            assert_true(sensitivity < 4 * evaluated && evaluated < 4 * sensitivity);
        }
    assert_memory_not_equal(loss, all, sizeof all);
    /* Two batches hold 16 samples. */
    CHECK_OK(&net->ctx, mpq_sensitivity(&net->ctx, &f->evaluator, NULL, 0, 0, few));
    double sample_loss[N_SAMPLE], mean = 0;
    const uint8_t bits[N_LAYER] = {8, 4, 8, 8};
    CHECK_OK(&net->ctx, mpq_evaluate_samples(&net->ctx, &f->evaluator, bits, sample_loss));
    for (int i = 0; i < 16; i++)
        mean += sample_loss[i] / 16;
    CHECK_NEAR(few[1 * MPQ_N_BITS + 4], mean, 1e-5, 1e-12);
    assert_true(few[1 * MPQ_N_BITS + 4] != loss[1 * MPQ_N_BITS + 4]);
}

/* Coarse activations hide nothing and are back afterwards. */
static void sensitivities_are_without_the_noise_of_activations(void **state)
{
    struct net *net = *state;
    struct family *f = make_family(net);
    const struct mpq_samples samples = {read_normal, NULL};
    struct mpq_act_quant coarse = {16, 2, 2}, quant = coarse;
    uint32_t n_value = net->graph->n_value, *group;
    double exact[N_LAYER * MPQ_N_BITS], loss[N_LAYER * MPQ_N_BITS], noisy;
    const uint8_t widest[N_LAYER] = {8, 8, 8, 8};
    struct mpq_graph *fake;
    struct mpq_network network;
    mpq_node_id node_of[N_LAYER + 4], node[N_LAYER];
    CHECK_OK(&net->ctx, mpq_sensitivity(&net->ctx, &f->evaluator, NULL, 0, 1e12, exact));
    group = mpq_arena_alloc(&net->ctx, net->arena, n_value, sizeof *group);
    assert_non_null(group);
    for (uint32_t v = 0; v < n_value; v++)
        group[v] = v == f->layer[1].x ? 0 : MPQ_NO_GROUP;
    bool *lossless = mpq_arena_alloc(&net->ctx, net->arena, n_value, sizeof *lossless);
    const struct mpq_act_plan plan = {n_value, group, lossless, NULL, 1};
    CHECK_OK(&net->ctx, mpq_insert_fake_quant(&net->ctx, net->arena, net->graph, &plan, &quant,
                                              &fake, node_of));
    for (uint32_t l = 0; l < N_LAYER; l++)
        node[l] = node_of[f->node[l]];
    CHECK_OK(&net->ctx, mpq_network_create(&net->ctx, net->arena, fake, BATCH,
                                           &(struct mpq_exec_options){.keep_all = true}, &network));
    CHECK_OK(&net->ctx, mpq_evaluator_create(&net->ctx, net->arena, &f->supernet, &network,
                                             &samples, &f->targets, node, &f->evaluator));
    CHECK_OK(&net->ctx, mpq_sensitivity(&net->ctx, &f->evaluator, &quant, 1, 1e12, loss));
    for (uint32_t i = 0; i < MPQ_COUNT(loss); i++)
        assert_true(isnan(exact[i]) || fabs(loss[i] - exact[i]) < 1e-3 + 0.1 * exact[i]);
    assert_memory_equal(&quant, &coarse, sizeof quant);
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &f->evaluator, widest, &noisy));
    assert_true(noisy > 10 * loss[8]);
}

/* ---- tuning one allocation ---- */

struct watch {
    uint32_t n_call, stop_at, last;
};

static enum mpq_status look(struct mpq_ctx *ctx, void *arg, uint32_t step, bool *out_stop)
{
    struct watch *watch = arg;
    (void)ctx;
    assert_false(*out_stop);
    watch->n_call++;
    watch->last = step;
    *out_stop = step == watch->stop_at;
    return MPQ_OK;
}

static void one_allocation_is_tuned_until_its_watch_has_enough(void **state)
{
    enum { STEPS = 60, EVERY = 8, STOP = 24 };
    struct net *net = *state;
    struct family *f = make_family(net);
    const struct mpq_samples samples = {read_normal, NULL};
    const uint8_t bits[N_LAYER] = {3, 2, 3, 3};
    struct mpq_layer_stats stats[N_LAYER];
    double sensitivity[N_LAYER * MPQ_N_BITS] = {0}, before, after;
    struct watch watch = {0};
    struct mpq_tune_result result;
    struct mpq_tune_options options = {.n_step = STEPS,
                                       .weight_rate = 2e-3,
                                       .scale_rate = 2e-3,
                                       .bias_rate = 2e-3,
                                       .sensitivity = sensitivity,
                                       .stats = stats,
                                       .watch = look,
                                       .watch_every = EVERY,
                                       .watch_arg = &watch};
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &f->evaluator, bits, &before));
    for (int l = 0; l < N_LAYER; l++) {
        stats[l] = (struct mpq_layer_stats){.output_power = 1};
        f->supernet.layer[l].candidates = f->supernet.layer[l].active =
            (mpq_bits_mask)(1u << bits[l]);
    }
    CHECK_OK(&net->ctx, mpq_tune(&net->ctx, &f->supernet, net->graph, BATCH, &samples, &f->targets,
                                 &options, &result));
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &f->evaluator, bits, &after));
    assert_true(after < 0.8 * before);
    assert_true(result.last_loss < result.first_loss);
    assert_int_equal(result.n_step, STEPS);
    assert_int_equal(watch.n_call, STEPS / EVERY);
    watch = (struct watch){.stop_at = STOP};
    CHECK_OK(&net->ctx, mpq_tune(&net->ctx, &f->supernet, net->graph, BATCH, &samples, &f->targets,
                                 &options, &result));
    assert_int_equal(watch.last, STOP);
    assert_int_equal(result.n_step, STOP);
}

/* Both nodes compute anew with the width of a random path, not just the last one. */
static void a_weight_of_two_nodes_has_one_width_on_a_path(void **state)
{
    struct net *net = *state;
    const struct mpq_samples samples = {read_normal, NULL};
    struct mpq_layer layer = {.x_axis = -1,
                              .x_group_axis = -1,
                              .is_weight_only = true,
                              .n_group = 1,
                              .n_outer = WIDTH,
                              .n_channel = WIDTH,
                              .n_inner = 1,
                              .n_param = WIDTH * WIDTH,
                              .bias = MPQ_NO_VALUE};
    const struct mpq_layer_table table = {.n_layer = 1, .layer = &layer};
    mpq_real one[WIDTH];
    for (int i = 0; i < WIDTH; i++)
        one[i] = 1;
    const struct mpq_layer_stats stats = {one, one, 1};
    const uint32_t sample[BATCH] = {0, 1, 2, 3, 4, 5, 6, 7};
    const mpq_node_id node = 0;
    struct mpq_network network;
    struct mpq_supernet supernet;
    struct mpq_targets targets;
    struct mpq_evaluator evaluator;
    struct mpq_sampler sampler;
    struct mpq_tune_result result;
    double sensitivity[MPQ_N_BITS] = {[2] = 1}, loss;
    uint8_t bits = 0;
    layer.x = net_input(net, "x", MPQ_SHAPE(-1, WIDTH));
    layer.weight = net_random(net, "w", MPQ_SHAPE(WIDTH, WIDTH), false);
    layer.y = net_node(net, "MatMul", "h", NET_NO_ATTRS, NET_IN(layer.x, layer.weight));
    net_output(net, net_node(net, "MatMul", "y", NET_NO_ATTRS, NET_IN(layer.y, layer.weight)));
    CHECK_OK(&net->ctx, mpq_network_create(&net->ctx, net->arena, net->graph, BATCH,
                                           &(struct mpq_exec_options){.keep_all = true}, &network));
    CHECK_OK(&net->ctx, mpq_supernet_create(&net->ctx, net->arena, net->graph, &table,
                                            1 << 2 | 1 << 8, &supernet));
    CHECK_OK(&net->ctx, mpq_supernet_fit(&net->ctx, &supernet, net->graph, &stats, 0));
    CHECK_OK(&net->ctx, mpq_targets_create(&net->ctx, net->arena, &network, &samples, sample, BATCH,
                                           &targets));
    CHECK_OK(&net->ctx, mpq_evaluator_create(&net->ctx, net->arena, &supernet, &network, &samples,
                                             &targets, &node, &evaluator));
    CHECK_OK(&net->ctx,
             mpq_sampler_create(&net->ctx, net->arena, &supernet, sensitivity, &sampler));
    for (net->ctx.seed = 0; bits != 2; net->ctx.seed++)
        mpq_sampler_draw(&sampler, net->ctx.seed, 0, 1, &bits);
    net->ctx.seed--;
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &evaluator, &bits, &loss));
    CHECK_OK(&net->ctx,
             mpq_tune(&net->ctx, &supernet, net->graph, BATCH, &samples, &targets,
                      &(struct mpq_tune_options){
                          .n_step = 1, .n_random = 1, .sensitivity = sensitivity, .stats = &stats},
                      &result));
    CHECK_NEAR(result.first_loss, loss, 1e-4, 0);
}

/* ---- what refining leaves ---- */

/* Of four layers the second and the last are read by nobody: what they lose stays. The third's
 * errors the fourth makes good in part, the first's all three do. */
static void shares_are_what_later_layers_do_not_make_good(void **state)
{
    struct net *net = *state;
    struct family *f = make_family(net);
    const struct mpq_samples samples = {read_normal, NULL};
    uint32_t sample[512];
    struct mpq_network reference;
    struct mpq_supernet net_before;
    double loss[N_LAYER * MPQ_N_BITS], share[N_LAYER], widest, narrow;
    uint8_t bits[N_LAYER] = {8, 8, 8, 8};
    for (uint32_t i = 0; i < MPQ_COUNT(sample); i++)
        sample[i] = 1000 + i;
    CHECK_OK(&net->ctx,
             mpq_network_create(&net->ctx, net->arena, net->graph, BATCH,
                                &(struct mpq_exec_options){.keep_all = true}, &reference));
    const struct mpq_moment_source source = {.network = &f->network,
                                             .layer_node = f->node,
                                             .float_network = &reference,
                                             .samples = &samples,
                                             .sample = sample,
                                             .n_sample = MPQ_COUNT(sample)};
    CHECK_OK(&net->ctx, mpq_sensitivity(&net->ctx, &f->evaluator, NULL, 0, 1e12, loss));
    CHECK_OK(&net->ctx, mpq_supernet_copy(&net->ctx, net->arena, &f->supernet, &net_before));
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &f->evaluator, bits, &widest));
    CHECK_OK(&net->ctx, mpq_refined_share(&net->ctx, &f->evaluator, &source, NULL, 0, loss, share));
    assert_true(share[0] >= 0.05 && share[0] < 0.9);
    assert_true(share[1] > 0.95 && share[1] <= 1);
    assert_true(share[2] >= 0.05 && share[2] < 0.9);
    assert_true(share[3] == 1);

    /* The third's, by hand; and the family is as it was. */
    bits[2] = 2;
    struct mpq_evaluator evaluator = f->evaluator;
    evaluator.net = &net_before;
    CHECK_OK(&net->ctx,
             mpq_round_allocation(&net->ctx, net->arena, &net_before, &source, bits, 3, N_LAYER));
    assert_null(net_before.layer[2].width[2].offset);
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &evaluator, bits, &narrow));
    CHECK_NEAR(share[2], (narrow - widest) / (loss[2 * MPQ_N_BITS + 2] - loss[2 * MPQ_N_BITS + 8]),
               1e-4, 0);
    assert_null(f->supernet.layer[3].width[8].offset);
    CHECK_OK(&net->ctx, mpq_evaluate(&net->ctx, &f->evaluator, bits, &narrow));
    CHECK_NEAR(narrow, loss[2 * MPQ_N_BITS + 2], 1e-5, 1e-12);

    /* One that adds nothing, and one with a single width, keep all of it. */
    loss[0 * MPQ_N_BITS + 2] = loss[0 * MPQ_N_BITS + 8];
    f->supernet.layer[2].candidates = 1 << 8;
    CHECK_OK(&net->ctx, mpq_refined_share(&net->ctx, &f->evaluator, &source, NULL, 0, loss, share));
    assert_true(share[0] == 1 && share[2] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_loss_takes_what_its_products_do, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(prefixes_and_networks_change_no_loss, net_setup,
                                        net_teardown),
        cmocka_unit_test(the_ends_and_the_middle_are_measured),
        cmocka_unit_test(losses_between_the_measured_follow_the_error),
        cmocka_unit_test_setup_teardown(sensitivities_are_losses_of_allocations, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(sensitivities_are_without_the_noise_of_activations,
                                        net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(one_allocation_is_tuned_until_its_watch_has_enough,
                                        net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(a_weight_of_two_nodes_has_one_width_on_a_path, net_setup,
                                        net_teardown),
        cmocka_unit_test_setup_teardown(shares_are_what_later_layers_do_not_make_good, net_setup,
                                        net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
