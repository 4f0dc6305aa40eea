/* Networks that run batches of their own: who sees which samples, at which pauses, and that neither
 * depends on the threads; what observing in stretches keeps; rounding and observing on any number
 * of threads. */
#include "cli/crew.h"

#include <math.h>
#include <string.h>

#include "calibration/observe.h"
#include "cli/runner.h"
#include "quantcore/base/thread.h"
#include "tests/unit/net.h"

enum { N_SAMPLE = 11, BATCH = 2, WIDTH = 20 };

/* Three products, each with a Relu. */
struct chain {
    struct net *net;
    struct mpq_dataset *dataset;
    struct mpq_binding binding;
    struct mpq_layer_table layers;
    struct mpq_act_plan act;
    uint32_t sample[N_SAMPLE];
};

static void make_chain(struct chain *c, struct net *net)
{
    static const char *const name[3][3] = {
        {"w0", "h0", "r0"}, {"w1", "h1", "r1"}, {"w2", "h2", "r2"}};
    struct mpq_ctx *ctx = &net->ctx;
    struct mpq_shape shape = MPQ_SHAPE(1, WIDTH);
    *c = (struct chain){.net = net};
    mpq_value_id x = net_input(net, "x", MPQ_SHAPE(-1, WIDTH));
    for (int i = 0; i < 3; i++) {
        mpq_value_id w = net_random(net, name[i][0], MPQ_SHAPE(WIDTH, WIDTH), false);
        x = net_node(net, "MatMul", name[i][1], NET_NO_ATTRS, NET_IN(x, w));
        x = net_node(net, "Relu", name[i][2], NET_NO_ATTRS, NET_IN(x));
    }
    net_output(net, x);
    CHECK_OK(ctx, mpq_dataset_synthetic(ctx, net->arena, net->graph, &shape, 64, &c->dataset));
    CHECK_OK(ctx, mpq_bind_batch(ctx, net->arena, net->graph, 1, &c->binding));
    CHECK_OK(ctx, mpq_layer_table_build(ctx, net->arena, net->graph, &c->binding, &c->layers));
    CHECK_OK(ctx, mpq_act_plan_build(ctx, net->arena, net->graph, &c->binding, &c->layers,
                                     (struct mpq_act_rules){0}, &c->act));
    for (uint32_t i = 0; i < N_SAMPLE; i++)
        c->sample[i] = 5 * i + 1;
}

/* ---- who sees what ---- */

enum { N_BATCH = (N_SAMPLE + BATCH - 1) / BATCH, MAX_TURNS = 4 };

struct seen {
    uint32_t start, next;     /* samples */
    uint32_t n_turn[N_BATCH]; /* of each, which may come on several threads */
    mpq_node_id from[N_BATCH][MAX_TURNS], to[N_BATCH][MAX_TURNS];
    mpq_real output[N_SAMPLE][WIDTH];
};

static enum mpq_status note(struct mpq_ctx *ctx, void *arg, const struct mpq_crew_turn *turn)
{
    struct seen *seen = arg;
    const struct mpq_graph *graph = turn->network->graph;
    uint32_t b = (turn->first - seen->start) / BATCH, t = seen->n_turn[b]++;
    seen->from[b][t] = turn->from;
    seen->to[b][t] = turn->to;
    if (turn->to < graph->n_node)
        return MPQ_OK;
    if (turn->first != seen->next)
        return mpq_fail(ctx, MPQ_E_NUMERIC, "sample %u comes too early", turn->first);
    seen->next += turn->n;
    memcpy(seen->output[turn->first], mpq_exec_tensor(turn->network->exec, graph->output[0])->data,
           turn->n * sizeof seen->output[0]);
    return MPQ_OK;
}

static void run_crew(struct chain *c, int threads, const mpq_node_id *pause, uint32_t n_pause,
                     uint32_t first, struct seen *out)
{
    struct mpq_ctx *ctx = &c->net->ctx;
    struct mpq_crew crew;
    *out = (struct seen){.start = first, .next = first};
    mpq_thread_set_count(threads);
    CHECK_OK(ctx, mpq_crew_create(ctx, c->net->arena, c->net->graph, BATCH, N_SAMPLE - first,
                                  &(struct mpq_exec_options){0}, &crew));
    assert_int_equal(crew.n, threads < 6 ? threads : 6);
    crew.pause = pause;
    crew.n_pause = n_pause;
    CHECK_OK(ctx,
             mpq_crew_run(ctx, &crew, c->dataset, c->sample, first, N_SAMPLE, "test", note, out));
    mpq_thread_set_count(1);
}

/* Every sample once and in order, with the answers of one network alone; the last batch is short.
 */
static void samples_come_in_order(void **state)
{
    struct chain c;
    struct seen alone, seen;
    make_chain(&c, *state);
    run_crew(&c, 1, NULL, 0, 0, &alone);
    assert_int_equal(alone.next, N_SAMPLE);
    assert_int_equal(alone.n_turn[N_BATCH - 1], 1);
    for (int threads = 2; threads <= 7; threads++) {
        run_crew(&c, threads, NULL, 0, 0, &seen);
        assert_int_equal(seen.next, N_SAMPLE);
        assert_memory_equal(seen.output, alone.output, sizeof alone.output);
    }
    run_crew(&c, 2, NULL, 0, 3, &seen);
    assert_memory_equal(seen.output[3], alone.output[3], (N_SAMPLE - 3) * sizeof alone.output[0]);
}

static void passes_pause(void **state)
{
    const mpq_node_id pause[] = {2, 3};
    struct chain c;
    struct seen alone, seen;
    make_chain(&c, *state);
    run_crew(&c, 1, NULL, 0, 0, &alone);
    run_crew(&c, 2, pause, 2, 0, &seen);
    assert_int_equal(seen.next, N_SAMPLE);
    static const mpq_node_id from[] = {0, 2, 3}, to[] = {2, 3, 6};
    for (int b = 0; b < N_BATCH; b++) {
        assert_int_equal(seen.n_turn[b], 3);
        assert_memory_equal(seen.from[b], from, sizeof from);
        assert_memory_equal(seen.to[b], to, sizeof to);
    }
    assert_memory_equal(seen.output, alone.output, sizeof alone.output);
}

/* ---- runners ---- */

static enum mpq_status note_runner(struct mpq_ctx *ctx, void *arg, const struct mpq_runner *runner,
                                   const uint32_t *index, uint32_t n)
{
    struct seen *seen = arg;
    (void)ctx;
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(index[i], 5 * (seen->next + i) + 1);
    memcpy(seen->output[seen->next], runner->output[0]->data, n * sizeof seen->output[0]);
    seen->next += n;
    return MPQ_OK;
}

static void runners_run_several_batches(void **state)
{
    struct chain c;
    struct seen alone, seen = {0};
    struct mpq_runner runner;
    make_chain(&c, *state);
    struct mpq_ctx *ctx = &c.net->ctx;
    run_crew(&c, 1, NULL, 0, 0, &alone);
    mpq_thread_set_count(4);
    CHECK_OK(ctx,
             mpq_runner_create_many(ctx, c.net->arena, c.net->graph, BATCH, N_SAMPLE, &runner));
    assert_int_equal(runner.n, 4);
    CHECK_OK(ctx, mpq_runner_run(ctx, &runner, c.dataset, c.sample, N_SAMPLE, "test", note_runner,
                                 &seen));
    mpq_thread_set_count(1);
    assert_int_equal(seen.next, N_SAMPLE);
    assert_memory_equal(seen.output, alone.output, sizeof alone.output);
}

/* ---- observing in stretches ---- */

struct observed {
    struct chain *chain;
    struct mpq_observer observer;
};

static enum mpq_status observe(struct mpq_ctx *ctx, void *arg, const struct mpq_crew_turn *turn)
{
    struct observed *o = arg;
    return mpq_observer_add(ctx, &o->observer, turn->network->graph, turn->network->exec,
                            turn->from, turn->to, turn->network->batch, turn->n);
}

/* After every node, with values kept for as long as they are read, or all at the end. */
static void observe_chain(struct observed *o, int threads, bool in_stretches)
{
    struct chain *c = o->chain;
    struct mpq_ctx *ctx = &c->net->ctx;
    const struct mpq_graph *graph = c->net->graph;
    struct mpq_crew crew;
    mpq_node_id pause[] = {1, 2, 3, 4, 5}, until[32] = {0};
    mpq_thread_set_count(threads);
    CHECK_OK(ctx,
             mpq_observer_create(ctx, c->net->arena, graph, &c->layers, &c->act, &o->observer));
    for (uint32_t v = 0; v < graph->n_value; v++)
        if (o->observer.keep[v] && graph->value[v].producer != MPQ_NO_NODE)
            until[v] = graph->value[v].producer + 3; /* what the layer behind it answers */
    const struct mpq_exec_options options = {.keep = in_stretches ? NULL : o->observer.keep,
                                             .until = in_stretches ? until : NULL};
    CHECK_OK(ctx, mpq_crew_create(ctx, c->net->arena, graph, BATCH, N_SAMPLE, &options, &crew));
    crew.pause = pause;
    crew.n_pause = in_stretches ? 5 : 0;
    CHECK_OK(ctx, mpq_crew_run(ctx, &crew, c->dataset, c->sample, 0, N_SAMPLE, "test", observe, o));
    mpq_thread_set_count(1);
}

static void check_same(const struct observed *a, const struct observed *b)
{
    const struct chain *c = a->chain;
    for (uint32_t g = 0; g < c->act.n_group; g++)
        assert_memory_equal(&a->observer.histogram[g], &b->observer.histogram[g],
                            sizeof *a->observer.histogram);
    for (uint32_t l = 0; l < c->layers.n_layer; l++) {
        const struct mpq_layer_stats *x = &a->observer.stats[l], *y = &b->observer.stats[l];
        assert_memory_equal(x->input_mean, y->input_mean, WIDTH * sizeof *x->input_mean);
        assert_memory_equal(x->input_power, y->input_power, WIDTH * sizeof *x->input_power);
        CHECK_NEAR(x->output_power, y->output_power, 0, 0);
    }
}

static void stretches_and_threads_observe_the_same(void **state)
{
    struct chain c;
    struct observed whole = {&c, {0}}, other = {&c, {0}};
    make_chain(&c, *state);
    assert_int_equal(c.layers.n_layer, 3);
    observe_chain(&whole, 1, false);
    assert_int_equal(whole.observer.histogram[0].n_sample, N_SAMPLE);
    for (int threads = 1; threads <= 5; threads += 2) {
        observe_chain(&other, threads, true);
        check_same(&other, &whole);
    }
    observe_chain(&other, 3, false);
    check_same(&other, &whole);
}

/* The second's output is not finite: named wherever it is found. */
static void what_is_not_finite_is_named(void **state)
{
    struct chain c;
    struct observed o = {&c, {0}};
    struct mpq_crew crew;
    make_chain(&c, *state);
    struct mpq_ctx *ctx = &c.net->ctx;
    const struct mpq_graph *graph = c.net->graph;
    mpq_real *w = graph->value[c.layers.layer[1].weight].constant->data;
    w[0] = (mpq_real)INFINITY;
    CHECK_OK(ctx, mpq_observer_create(ctx, c.net->arena, graph, &c.layers, &c.act, &o.observer));
    CHECK_OK(ctx, mpq_crew_create(ctx, c.net->arena, graph, BATCH, N_SAMPLE,
                                  &(struct mpq_exec_options){.keep = o.observer.keep}, &crew));
    CHECK_FAILS(ctx,
                mpq_crew_run(ctx, &crew, c.dataset, c.sample, 0, N_SAMPLE, "test", observe, &o),
                MPQ_E_NUMERIC, "the value 'r1' of the float model is");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(samples_come_in_order),       TEST(passes_pause),
        TEST(runners_run_several_batches), TEST(stretches_and_threads_observe_the_same),
        TEST(what_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
