/* The published supernet: which layers get which widths, that training learns and repeats, and that
 * folding gives what was trained. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quantcore/base/rng.h"
#include "quantcore/supernet/paper_score.h"
#include "tests/check.h"
#include "tests/unit/net.h"

enum { BATCH = 16, N_SAMPLE = 96, N_CLASS = 4 };

/* Samples whose class shows in the mean of a channel. */
static enum mpq_status read_samples(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                    uint32_t n, struct mpq_tensor *const *input)
{
    (void)ctx, (void)arg;
    int64_t count = mpq_shape_count(&input[0]->shape) / n;
    mpq_real *x = input[0]->data;
    for (uint32_t s = 0; s < n; s++)
        for (int64_t i = 0; i < count; i++)
            x[s * count + i] =
                (mpq_real)(mpq_rng_normal(3, MPQ_STREAM_TEST, index[s], (uint32_t)i) +
                           (i / 36 % 3 == index[s] % N_CLASS ? 0.7 : 0));
    return MPQ_OK;
}

static const struct mpq_samples samples = {read_samples, NULL};

static mpq_value_id conv(struct net *net, mpq_value_id x, const char *name, int64_t from,
                         int64_t to, int64_t group, int64_t size)
{
    char weight[32];
    snprintf(weight, sizeof weight, "%s_w", name);
    mpq_value_id w = net_random(net, weight, MPQ_SHAPE(to, from / group, size, size), false);
    return net_node(net, "Conv", name,
                    NET_ATTRS(NET_INT("group", group),
                              NET_INTS("pads", size / 2, size / 2, size / 2, size / 2)),
                    NET_IN(x, w));
}

/* gamma has both signs */
static mpq_value_id norm(struct net *net, mpq_value_id x, const char *name, int64_t n)
{
    static const char *const part[] = {"gamma", "beta", "mean", "var"};
    mpq_value_id in[5] = {x};
    for (int i = 0; i < 4; i++) {
        char constant[32];
        snprintf(constant, sizeof constant, "%s_%s", name, part[i]);
        in[i + 1] = net_random(net, constant, MPQ_SHAPE(n), i == 3);
    }
    return net_node(net, "BatchNormalization", name, NET_NO_ATTRS, 5, in);
}

/* conv, conv, depthwise, conv with a factor a channel behind its batch norm, conv alone, Gemm */
static mpq_value_id build(struct net *net)
{
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 6, 6));
    mpq_value_id a = norm(net, conv(net, x, "c1", 3, 6, 1, 3), "n1", 6);
    mpq_value_id b = net_node(net, "Relu", "r1", NET_NO_ATTRS, NET_IN(a));
    mpq_value_id c = norm(net, conv(net, b, "c2", 6, 8, 1, 3), "n2", 8);
    mpq_value_id d = norm(net, conv(net, c, "dw", 8, 8, 8, 3), "n3", 8); /* a signed input */
    mpq_value_id e = net_node(net, "Relu", "r3", NET_NO_ATTRS, NET_IN(d));
    mpq_value_id f = norm(net, conv(net, e, "c4", 8, 8, 1, 1), "n4", 8);
    mpq_value_id factor = net_random(net, "factor", MPQ_SHAPE(1, 8, 1, 1), true);
    mpq_value_id g = net_node(net, "Mul", "m4", NET_NO_ATTRS, NET_IN(f, factor));
    mpq_value_id h = net_node(net, "Relu", "r4", NET_NO_ATTRS, NET_IN(g));
    mpq_value_id i =
        net_node(net, "Relu", "r5", NET_NO_ATTRS, NET_IN(conv(net, h, "c5", 8, 8, 1, 1)));
    mpq_value_id p = net_node(net, "GlobalAveragePool", "p", NET_NO_ATTRS, NET_IN(i));
    mpq_value_id q = net_node(net, "Flatten", "f", NET_NO_ATTRS, NET_IN(p));
    mpq_value_id w = net_random(net, "w", MPQ_SHAPE(N_CLASS, 8), false);
    mpq_value_id bias = net_random(net, "bias", MPQ_SHAPE(N_CLASS), false);
    mpq_value_id y =
        net_node(net, "Gemm", "y", NET_ATTRS(NET_INT("transB", 1)), NET_IN(q, w, bias));
    net_output(net, y);
    return y;
}

struct trial {
    struct net *net;
    struct mpq_graph *graph, *folded; /* with and without batch norms */
    struct mpq_layer_table layers, folded_layers;
    struct mpq_paper_net paper;
    struct mpq_network float_network, network;
    struct mpq_targets targets;
    struct mpq_paper_truth truth;
    uint32_t sample[N_SAMPLE];
    int32_t label[N_SAMPLE];
};

static void list_layers(struct net *net, const struct mpq_graph *graph, struct mpq_layer_table *out)
{
    struct mpq_binding binding;
    CHECK_OK(&net->ctx, mpq_bind_batch(&net->ctx, net->arena, graph, 1, &binding));
    CHECK_OK(&net->ctx, mpq_layer_table_build(&net->ctx, net->arena, graph, &binding, out));
}

static void set_up(struct net *net, struct trial *t)
{
    struct mpq_ctx *ctx = &net->ctx;
    const struct mpq_exec_options keep_all = {.keep_all = true};
    *t = (struct trial){.net = net};
    build(net);
    CHECK_OK(ctx, mpq_simplify_keep_norms(ctx, net->arena, net->graph, &t->graph));
    t->folded = net_simplify(net);
    list_layers(net, t->graph, &t->layers);
    list_layers(net, t->folded, &t->folded_layers);
    assert_int_equal(net_count(t->graph, "BatchNormalization"), 4);
    assert_int_equal(net_count(t->folded, "BatchNormalization"), 0);
    CHECK_OK(ctx, mpq_paper_create(ctx, net->arena, t->graph, &t->layers, UINT16_MAX, UINT16_MAX,
                                   &t->paper));
    for (uint32_t i = 0; i < N_SAMPLE; i++) {
        t->sample[i] = i;
        t->label[i] = (int32_t)(i % N_CLASS);
    }
    CHECK_OK(ctx,
             mpq_network_create(ctx, net->arena, t->folded, BATCH, &keep_all, &t->float_network));
    CHECK_OK(ctx,
             mpq_network_create(ctx, net->arena, t->paper.graph, BATCH, &keep_all, &t->network));
    CHECK_OK(ctx, mpq_targets_create(ctx, net->arena, &t->float_network, &samples, t->sample,
                                     N_SAMPLE, &t->targets));
    struct mpq_network plain;
    CHECK_OK(ctx, mpq_network_create(ctx, net->arena, t->graph, BATCH, &keep_all, &plain));
    CHECK_OK(ctx, mpq_paper_calibrate(ctx, &t->paper, &plain, &samples, t->sample, N_SAMPLE));
    t->truth = (struct mpq_paper_truth){.targets = &t->targets, .label = t->label};
}

static void layers_have_the_published_widths(void **state)
{
    static struct trial t;
    const mpq_bits_mask usual = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
    set_up(*state, &t);
    assert_int_equal(t.layers.n_layer, 6);
    const struct mpq_paper_layer *layer = t.paper.layer;
    assert_false(layer[0].is_searchable || layer[5].is_searchable);
    assert_int_equal(layer[0].weights, 1 << 8);
    assert_int_equal(layer[0].inputs, 1 << MPQ_PAPER_FLOAT);
    assert_int_equal(layer[5].weights, 1 << 8);
    assert_int_equal(layer[5].inputs, 1 << 8);
    assert_int_equal(layer[1].weights, usual);
    assert_int_equal(layer[1].inputs, usual);
    assert_int_equal(layer[2].weights, usual & ~(1 << 2)); /* depthwise */
    assert_int_equal(layer[2].inputs, usual & ~(1 << 2));
    const bool is_signed[] = {false, false, true, false, false, false};
    const int n_norm[] = {1, 25, 16, 25, 0, 0};
    for (uint32_t l = 0; l < 6; l++) {
        int n = 0;
        for (int i = 0; i < MPQ_N_BITS * MPQ_N_BITS; i++)
            n += layer[l].norm[i / MPQ_N_BITS][i % MPQ_N_BITS].gamma != NULL;
        assert_int_equal(n, n_norm[l]);
        assert_int_equal(layer[l].is_signed, is_signed[l]);
    }
    struct net *net = *state;
    CHECK_FAILS(
        &net->ctx,
        mpq_paper_create(&net->ctx, net->arena, t.graph, &t.layers, 1 << 8, UINT16_MAX, &t.paper),
        MPQ_E_USAGE, "takes 2 to 6 bits");
}

/* Gain and offset of a batch norm at its own statistics. */
static void affine(double gamma, double beta, double mean, double var, double epsilon,
                   double out[2])
{
    out[0] = gamma / sqrt(var + epsilon);
    out[1] = beta - out[0] * mean;
}

static void batch_norms_are_those_of_the_file_by_the_samples_statistics(void **state)
{
    static struct trial t;
    set_up(*state, &t);
    struct mpq_ctx *ctx = &t.net->ctx;
    for (uint32_t l = 0; l < 4; l++) {
        const struct mpq_learned_layer *learned = &t.paper.learned[l];
        int b = mpq_bits_highest(t.paper.layer[l].weights);
        const struct mpq_paper_norm *norm =
            &t.paper.layer[l].norm[b][mpq_bits_highest(t.paper.layer[l].inputs)];
        const mpq_real *file[4];
        for (int i = 0; i < 4; i++)
            file[i] = learned->norm[i]->data;
        for (int64_t c = 0; c < t.layers.layer[l].n_channel; c++) {
            double want[2], got[2];
            affine((double)file[0][c], (double)file[1][c], (double)file[2][c], (double)file[3][c],
                   learned->epsilon, want);
            affine((double)norm->gamma[c], (double)norm->beta[c], (double)norm->mean[c],
                   (double)norm->var[c], learned->epsilon, got);
            CHECK_NEAR(got[0], fabs(want[0]), 1e-4, 1e-6); /* weights carry the sign */
            CHECK_NEAR(got[1], want[1], 1e-3, 1e-4);
        }
    }
    /* The first layer has 8 bits and a float input: its statistics are nearly the same. */
    const struct mpq_paper_norm *norm = &t.paper.layer[0].norm[8][MPQ_PAPER_FLOAT];
    mpq_real mean[6], var[6];
    memcpy(mean, norm->mean, sizeof mean);
    memcpy(var, norm->var, sizeof var);
    uint8_t weights[6], inputs[6];
    mpq_paper_widest(&t.paper, weights, inputs);
    CHECK_OK(ctx, mpq_paper_reestimate(ctx, &t.paper, &t.network, &samples, t.sample, N_SAMPLE,
                                       weights, inputs));
    for (int c = 0; c < 6; c++) {
        CHECK_NEAR(norm->mean[c], mean[c], 0.02, 0.02);
        CHECK_NEAR(norm->var[c], var[c], 0.05, 0);
    }
}

static double weight_error(const struct trial *t, uint32_t l, int bits, mpq_real step)
{
    const struct mpq_paper_layer *layer = &t->paper.layer[l];
    int64_t n = t->layers.layer[l].n_param;
    double sum = 0;
    mpq_lsq_forward(mpq_lsq_weight_range(bits), step, layer->w, n, layer->wq);
    for (int64_t i = 0; i < n; i++)
        sum += pow((double)layer->w[i] - (double)layer->wq[i], 2);
    return sum;
}

static void first_steps_have_the_least_squared_error(void **state)
{
    static struct trial t;
    set_up(*state, &t);
    double published = 0, first = 0;
    for (uint32_t l = 0; l < 6; l++)
        for (int b = 2; b <= 6; b++) {
            const struct mpq_paper_layer *layer = &t.paper.layer[l];
            mpq_real step = layer->weight_step[b];
            double error = weight_error(&t, l, b, step);
            mpq_real rule = mpq_lsq_weight_step(layer->w, t.layers.layer[l].n_param, b);
            first += error;
            published += weight_error(&t, l, b, rule);
            assert_true(error < 1.01 * weight_error(&t, l, b, MPQ_REAL(1.2) * step));
            assert_true(error < 1.01 * weight_error(&t, l, b, MPQ_REAL(0.8) * step));
        }
    assert_true(first < 0.9 * published);
    /* Inputs that are never negative use all of their levels for what is positive. */
    const mpq_real *step = t.paper.layer[1].input_step;
    assert_true(step[2] > 2 * step[4] && step[4] > 2 * step[6]);
}

static void nothing_to_search_is_refused(void **state)
{
    struct net *net = *state;
    struct mpq_layer_table layers;
    struct mpq_paper_net paper;
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, 3, 6, 6));
    mpq_value_id y = conv(net, conv(net, x, "c1", 3, 6, 1, 3), "c2", 6, 4, 1, 3);
    net_output(net, y);
    list_layers(net, net->graph, &layers);
    CHECK_FAILS(&net->ctx,
                mpq_paper_create(&net->ctx, net->arena, net->graph, &layers, UINT16_MAX, UINT16_MAX,
                                 &paper),
                MPQ_E_UNSUPPORTED, "nothing to search");
}

/* ---- batches ---- */

/* The float model answers the picture that is trained on, the label stays. */
static void a_changed_batch_has_answers_of_its_own(void **state)
{
    static struct trial t;
    struct mpq_paper_batch batch;
    set_up(*state, &t);
    struct mpq_ctx *ctx = &t.net->ctx;
    const struct mpq_paper_change change = {
        {.height = 6, .width = 6, .channels = 3, .reach = 1, .mirrors = true}, t.folded};
    CHECK_OK(ctx, mpq_paper_batch_create(ctx, t.net->arena, &t.network, &t.truth, &change, &batch));
    CHECK_OK(ctx, mpq_paper_batch_read(ctx, &batch, &t.network, &samples, MPQ_STREAM_BATCH, 0));
    memcpy(t.float_network.input[0]->data, t.network.input[0]->data,
           mpq_tensor_bytes(t.network.input[0]));
    mpq_exec_forward(t.float_network.exec, 0, t.folded->n_node);
    const mpq_real *want = mpq_exec_tensor(t.float_network.exec, t.folded->output[0])->data;
    double moved = 0;
    for (int i = 0; i < BATCH; i++) {
        const mpq_real *plain = t.targets.target[0] + batch.row[i] * N_CLASS;
        for (int c = 0; c < N_CLASS; c++) {
            CHECK_NEAR(batch.soft[0][i * N_CLASS + c], want[i * N_CLASS + c], 1e-6, 1e-6);
            moved += fabs((double)plain[c] - (double)want[i * N_CLASS + c]);
            assert_true((batch.hard[0][i * N_CLASS + c] > 0) == (c == t.label[batch.row[i]]));
        }
    }
    assert_true(moved > 0.1);
}

/* By what the network answers and what the float model does to the same changed pictures: none
 * where they are one, each sample's own, and expected ones. */
static void losses_of_a_batch_are_of_its_samples(void **state)
{
    static struct trial t;
    struct mpq_paper_batch batch;
    set_up(*state, &t);
    struct mpq_ctx *ctx = &t.net->ctx;
    double loss[N_SAMPLE] = {0};
    const struct mpq_paper_truth truth = {.targets = &t.targets};
    const struct mpq_paper_change change = {
        {.height = 6, .width = 6, .channels = 3, .reach = 1, .mirrors = true}, t.folded};
    CHECK_OK(ctx,
             mpq_paper_batch_create(ctx, t.net->arena, &t.float_network, &truth, &change, &batch));
    CHECK_OK(ctx,
             mpq_paper_batch_read(ctx, &batch, &t.float_network, &samples, MPQ_STREAM_SEARCH, 2));
    mpq_exec_forward(t.float_network.exec, 0, t.folded->n_node);
    mpq_paper_batch_add_losses(&batch, &t.float_network, loss);
    for (int i = 0; i < N_SAMPLE; i++)
        CHECK_NEAR(loss[i], 0, 0, 1e-5);
    mpq_real *y = mpq_exec_tensor(t.float_network.exec, t.float_network.loss.head[0].value)->data;
    for (int c = 0; c < N_CLASS; c++)
        y[N_CLASS + c] = -y[N_CLASS + c];
    mpq_paper_batch_add_losses(&batch, &t.float_network, loss);
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        assert_int_equal(loss[i] > 0.01, i == batch.row[1]);
    CHECK_NEAR(
        loss[batch.row[1]],
        mpq_expected_kl(&t.targets.references[0], y + N_CLASS, batch.soft[0] + N_CLASS, 1, 0, NULL),
        1e-6, 1e-6);
}

/* ---- training ---- */

static double error_at(struct trial *t, int bits, int input_bits)
{
    uint8_t weights[6], inputs[6];
    struct mpq_paper_scorer scorer;
    struct mpq_ctx *ctx = &t->net->ctx;
    double sum = 0;
    for (uint32_t l = 0; l < 6; l++) {
        weights[l] = (uint8_t)(t->paper.layer[l].is_searchable ? bits : 8);
        inputs[l] = (uint8_t)(t->paper.layer[l].is_searchable ? input_bits : l ? 8 : 0);
    }
    CHECK_OK(ctx, mpq_paper_scorer_create(ctx, t->net->arena, &t->paper, &t->network, &samples,
                                          &t->truth, NULL, &scorer));
    for (uint64_t step = 0; step < N_SAMPLE / BATCH; step++) {
        CHECK_OK(ctx, mpq_paper_scorer_read(ctx, &scorer, step));
        sum += mpq_paper_score(&scorer, weights, inputs) / (N_SAMPLE / BATCH);
    }
    return sum;
}

static void training_learns_and_repeats(void **state)
{
    static struct trial t;
    struct mpq_paper_train_result result;
    set_up(*state, &t);
    struct mpq_ctx *ctx = &t.net->ctx;
    const struct mpq_paper_train_options options = {
        .n_step = 60, .rate = 0.02, .step_rate = 0.01, .freeze = true, .align = true};
    double before[2] = {error_at(&t, 6, 6), error_at(&t, 3, 3)};
    size_t bytes = t.paper.n_value * sizeof *t.paper.value;
    mpq_real *start = mpq_arena_copy(ctx, t.net->arena, t.paper.value, bytes);
    CHECK_OK(ctx, mpq_paper_train(ctx, &t.paper, BATCH, &samples, &t.truth, &options, &result));
    assert_true(result.last_loss < 0.9 * result.first_loss);
    assert_true(error_at(&t, 6, 6) < before[0]);
    assert_true(error_at(&t, 3, 3) < before[1]);
    uint32_t n_frozen = 0;
    for (uint32_t l = 0; l < 6; l++) {
        const struct mpq_paper_layer *layer = &t.paper.layer[l];
        mpq_bits_mask gone = layer->weights & ~layer->active;
        assert_true(gone == 0 || gone == 1 << mpq_bits_lowest(layer->weights));
        n_frozen += gone != 0;
        for (int64_t c = 0; layer->norm[6][6].gamma && c < t.layers.layer[l].n_channel; c++)
            assert_true(layer->norm[6][6].gamma[c] > 0);
    }
    assert_true(n_frozen <= 1); /* 0.2 of 4 layers is none, 0.27 one */
    mpq_real *first = mpq_arena_copy(ctx, t.net->arena, t.paper.value, bytes);
    memcpy(t.paper.value, start, bytes);
    for (uint32_t l = 0; l < 6; l++)
        t.paper.layer[l].active = t.paper.layer[l].weights;
    CHECK_OK(ctx, mpq_paper_train(ctx, &t.paper, BATCH, &samples, &t.truth, &options, &result));
    assert_memory_equal(first, t.paper.value, bytes);
}

/* Without labels the float model teaches: what was spoiled comes back. */
static void training_needs_no_labels(void **state)
{
    static struct trial t;
    struct mpq_paper_train_result result;
    set_up(*state, &t);
    struct mpq_ctx *ctx = &t.net->ctx;
    t.truth.label = NULL;
    for (int i = 0; i < MPQ_N_BITS * MPQ_N_BITS; i++) {
        mpq_real *gamma = t.paper.layer[3].norm[i / MPQ_N_BITS][i % MPQ_N_BITS].gamma;
        for (int64_t c = 0; gamma && c < t.layers.layer[3].n_channel; c++)
            gamma[c] *= 3;
    }
    double before = error_at(&t, 3, 3);
    CHECK_OK(ctx, mpq_paper_train(ctx, &t.paper, BATCH, &samples, &t.truth,
                                  &(struct mpq_paper_train_options){
                                      .n_step = 60, .rate = 0.02, .step_rate = 0.01},
                                  &result));
    assert_true(error_at(&t, 3, 3) < 0.8 * before);
}

/* A score after another is that of its widths alone, whatever was reused. */
static void scores_do_not_depend_on_the_order(void **state)
{
    static struct trial t;
    struct mpq_paper_scorer scorer;
    set_up(*state, &t);
    struct mpq_ctx *ctx = &t.net->ctx;
    uint8_t weights[6], inputs[6];
    double first[6];
    mpq_paper_widest(&t.paper, weights, inputs);
    CHECK_OK(ctx, mpq_paper_scorer_create(ctx, t.net->arena, &t.paper, &t.network, &samples,
                                          &t.truth, NULL, &scorer));
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 6; i++) {
            uint32_t l = round ? i : 5 - i;
            uint8_t saved = weights[l];
            CHECK_OK(ctx, mpq_paper_scorer_read(ctx, &scorer, 0)); /* forgets what it has run */
            if (round == 0)
                mpq_paper_score(&scorer, weights, inputs);
            weights[l] = (uint8_t)mpq_bits_lowest(t.paper.layer[l].weights);
            double score = mpq_paper_score(&scorer, weights, inputs);
            weights[l] = saved;
            if (round)
                assert_true(score == first[l]);
            first[l] = score;
        }
    }
}

/* ---- folding ---- */

/* The folded graph with codes and inputs quantized one by one answers a batch as the trained graph
 * does whose statistics are that batch's. */
static void folding_gives_what_was_trained(void **state)
{
    static struct trial t;
    set_up(*state, &t);
    struct net *net = t.net;
    struct mpq_ctx *ctx = &net->ctx;
    uint8_t weights[6] = {8, 6, 5, 4, 6, 8}, inputs[6] = {0, 5, 6, 6, 5, 8};
    struct mpq_layer_code code[6];
    struct mpq_act_quant quant[6];
    CHECK_OK(ctx, mpq_paper_reestimate(ctx, &t.paper, &t.network, &samples, t.sample, BATCH,
                                       weights, inputs));
    t.paper.layer[0].is_signed = true; /* a spoiled checkpoint may say so of a float input */
    CHECK_OK(ctx, mpq_paper_fold(ctx, net->arena, &t.paper, weights, inputs, t.folded,
                                 &t.folded_layers, code, quant));
    assert_int_equal(quant[0].bits, MPQ_PAPER_FLOAT);
    assert_int_equal(quant[0].zero_point, 0);
    assert_int_equal(quant[1].zero_point, 0);
    assert_int_equal(quant[2].zero_point, 32);

    struct mpq_act_plan plan = {.n_value = t.folded->n_value, .n_group = 6};
    plan.group = mpq_arena_alloc(ctx, net->arena, t.folded->n_value, sizeof *plan.group);
    plan.lossless = mpq_arena_alloc(ctx, net->arena, t.folded->n_value, sizeof *plan.lossless);
    plan.own_group = mpq_arena_alloc(ctx, net->arena, t.folded->n_node, sizeof *plan.own_group);
    for (uint32_t v = 0; v < t.folded->n_value; v++)
        plan.group[v] = MPQ_NO_GROUP;
    for (uint32_t n = 0; n < t.folded->n_node; n++)
        plan.own_group[n] = MPQ_NO_GROUP;
    for (uint32_t l = 1; l < 6; l++)
        plan.own_group[t.folded_layers.layer[l].node] = l;
    struct mpq_graph *fake;
    struct mpq_network network;
    mpq_node_id node_of[32];
    assert_true(t.folded->n_node <= MPQ_COUNT(node_of));
    CHECK_OK(ctx, mpq_insert_fake_quant(ctx, net->arena, t.folded, &plan, quant, &fake, node_of));
    CHECK_OK(ctx, mpq_network_create(ctx, net->arena, fake, BATCH,
                                     &(struct mpq_exec_options){.keep_all = true}, &network));
    CHECK_OK(ctx, mpq_supernet_apply_codes(ctx, net->arena, &t.folded_layers, network.exec, code));
    CHECK_OK(ctx, mpq_network_read(ctx, &network, &samples, t.sample, BATCH));
    mpq_exec_forward(network.exec, 0, fake->n_node);
    mpq_paper_apply(&t.paper, t.network.exec, weights, inputs);
    CHECK_OK(ctx, mpq_network_read(ctx, &t.network, &samples, t.sample, BATCH));
    mpq_exec_forward(t.network.exec, 0, t.paper.graph->n_node);
    const mpq_real *want = mpq_exec_tensor(t.network.exec, t.paper.graph->output[0])->data;
    const mpq_real *got = mpq_exec_tensor(network.exec, fake->output[0])->data;
    double signal = 0, noise = 0;
    for (int i = 0; i < BATCH * N_CLASS; i++) {
        signal += pow((double)want[i], 2);
        noise += pow((double)want[i] - (double)got[i], 2);
    }
    /* Scales have 8 bits and biases 11: some values go to another level. */
    assert_true(noise < 2e-3 * signal);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(layers_have_the_published_widths),
        TEST(batch_norms_are_those_of_the_file_by_the_samples_statistics),
        TEST(first_steps_have_the_least_squared_error),
        TEST(nothing_to_search_is_refused),
        TEST(a_changed_batch_has_answers_of_its_own),
        TEST(losses_of_a_batch_are_of_its_samples),
        TEST(training_learns_and_repeats),
        TEST(training_needs_no_labels),
        TEST(scores_do_not_depend_on_the_order),
        TEST(folding_gives_what_was_trained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
