#include "cli/memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "cli/pipeline.h"
#include "quantcore/base/thread.h"
#include "quantcore/pass/pass.h"
#include "quantcore/supernet/round.h"
#include "quantcore/supernet/round_layer.h"

/* Code, libraries, tables and stacks; a thread adds its stack and the buffers of BLAS. */
#define PROGRAM_BYTES ((size_t)16 << 20)
#define THREAD_BYTES  ((size_t)4 << 20)
/* A weight of the written file while it is read back and unpacked, in float and on integers. */
#define VERIFY_BYTES_A_WEIGHT 48
#define REFINE_SAMPLES        512 /* at most */
/* Blocks that go back to the system one by one, and the heap that smaller ones come from and that
 * stays, where neither is left to the C library. */
#define LARGE_BYTES (1 << 20)
#define HEAP_BYTES  (16 << 20)

void mpq_memory_return_early(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    mallopt(M_TRIM_THRESHOLD, LARGE_BYTES);
#endif
}

enum mpq_status mpq_memory_keep_heap(struct mpq_ctx *ctx)
{
#ifdef __GLIBC__
    struct mpq_arena *arena = mpq_arena_create(ctx);
    mallopt(M_MMAP_THRESHOLD, HEAP_BYTES + LARGE_BYTES); /* so that this is heap */
    mallopt(M_TRIM_THRESHOLD, 2 * HEAP_BYTES);
    void *heap = arena ? mpq_arena_alloc(ctx, arena, HEAP_BYTES, 1) : NULL;
    mpq_arena_free(arena);
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    return heap ? MPQ_OK : MPQ_E_NOMEM;
#else
    (void)ctx;
    return MPQ_OK;
#endif
}

static size_t program_bytes(void)
{
    return PROGRAM_BYTES + THREAD_BYTES * (size_t)mpq_thread_count();
}

static double megabytes(size_t bytes)
{
    return (double)bytes / 1e6;
}

/* Rounded up. */
static unsigned whole_megabytes(size_t bytes)
{
    return (unsigned)(bytes / 1000000 + 1);
}

enum mpq_status mpq_memory_fail(struct mpq_ctx *ctx, size_t limit, size_t least, const char *what)
{
    return mpq_fail(ctx, MPQ_E_INFEASIBLE,
                    "--max-memory of %.1f MB cannot be kept: '%s' takes %u MB with one sample at a "
                    "time, which is the least possible",
                    megabytes(limit), what, whole_megabytes(least));
}

size_t mpq_memory_taken(const struct mpq_arena *arena)
{
    return program_bytes() + mpq_arena_bytes(arena);
}

/* ---- what does not depend on the batch ---- */

enum stage { CALIBRATE, EVALUATE, ROUND, TUNE, SEARCH, REFINE, VERIFY, N_STAGE };

static const char *const stage_name[N_STAGE] = {"calibrate", "evaluate", "round", "tune",
                                                "search",    "refine",   "verify"};

struct planner {
    struct mpq_pipeline *p;
    size_t limit;
    uint32_t wanted;              /* samples of a tuning step; 0: none                           */
    const struct mpq_graph *fake; /* run_graph with FakeQuant nodes                              */
    bool *keep;                   /* [n_value] of run_graph: inputs and outputs of layers,       */
    bool *observed;               /* and all that activations' ranges are taken from             */
    bool improves;                /* what activations cost may be measured and made less         */
    size_t base;                  /* program, model, data                                        */
    size_t weights;               /* 4 bytes each                                                */
    size_t supernet, offsets;     /* and the second-order codes of all widths                    */
    size_t gather_all, gather_most, cross_most, round_most; /* moments; room to round by         */
    size_t input, head; /* of a sample: inputs; outputs that are compared              */
};

/* A choice: what it takes, stage by stage. */
struct choice {
    uint32_t batch, tune_batch;
    struct mpq_memory memory;
    size_t activations[N_STAGE], bytes[N_STAGE];
    double again;
    enum stage worst;
};

static void add_layers(struct planner *pl)
{
    const struct mpq_layer_table *layers = &pl->p->layers;
    size_t n_width = (size_t)__builtin_popcount(pl->p->candidates), cross = 0;
    for (uint32_t l = 0; l < layers->n_layer; l++) {
        const struct mpq_layer *layer = &layers->layer[l];
        size_t weights = (size_t)layer->n_param * sizeof(mpq_real);
        size_t channels = (size_t)layer->n_channel * sizeof(mpq_real);
        size_t gather = mpq_moments_bytes(layer, false), round = mpq_round_bytes(layer);
        pl->weights += weights;
        pl->supernet += 3 * weights + (2 + 2 * n_width) * channels;
        pl->offsets += n_width * weights;
        pl->gather_all += gather;
        pl->gather_most = gather > pl->gather_most ? gather : pl->gather_most;
        round *= (size_t)mpq_thread_count(); /* each may round one */
        pl->round_most = round > pl->round_most ? round : pl->round_most;
        /* Layers that read the same are refined together. */
        bool is_next = l && (layer->node == layer[-1].node || layer->x == layer[-1].x);
        cross = (is_next ? cross : 0) + mpq_moments_bytes(layer, true);
        pl->cross_most = cross > pl->cross_most ? cross : pl->cross_most;
    }
}

static enum mpq_status create(struct mpq_ctx *ctx, struct mpq_arena *scratch, struct planner *pl)
{
    struct mpq_pipeline *p = pl->p;
    const struct mpq_graph *graph = p->run_graph;
    struct mpq_graph *fake;
    struct mpq_binding binding;
    struct mpq_loss loss;
    mpq_node_id *node_of = mpq_arena_alloc(ctx, scratch, graph->n_node, sizeof *node_of);
    pl->keep = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *pl->keep);
    pl->observed = mpq_arena_alloc(ctx, scratch, graph->n_value, sizeof *pl->observed);
    if (!node_of || !pl->keep || !pl->observed)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < p->layers.n_layer; l++) {
        pl->keep[p->layers.layer[l].y] = true;
        if (p->layers.layer[l].x != MPQ_NO_VALUE)
            pl->keep[p->layers.layer[l].x] = true;
    }
    for (uint32_t v = 0; v < graph->n_value; v++)
        pl->observed[v] = pl->keep[v] || (v < p->act.n_value && p->act.group[v] != MPQ_NO_GROUP);
    MPQ_TRY(mpq_insert_fake_quant(ctx, scratch, graph, &p->act, p->act_quant, &fake, node_of));
    pl->fake = fake;
    MPQ_TRY(mpq_bind_batch(ctx, scratch, graph, 1, &binding));
    for (uint32_t i = 0; i < graph->n_input; i++)
        pl->input += mpq_tensor_bytes(&binding.tensor[graph->input[i]]);
    MPQ_TRY(mpq_loss_create(ctx, scratch, graph, &binding, 1, &loss));
    for (uint32_t h = 0; h < loss.n_head; h++)
        pl->head += (size_t)loss.head[h].n_sample * sizeof(mpq_real);
    add_layers(pl);
    /* Where what activations lose is made less, they are observed up to four times more: by more
     * samples, equalized, and with what either order leaves float; and there are the weights of
     * both graphs. */
    pl->base = mpq_memory_taken(p->arena) +
               p->act.n_group * sizeof(struct mpq_histogram) * (pl->improves ? 5 : 1) +
               (pl->improves ? 2 * pl->weights : 0);
    return MPQ_OK;
}

/* ---- a choice ---- */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* What is left besides `taken`. */
static size_t left(const struct planner *pl, size_t taken)
{
    return taken < pl->limit ? pl->limit - taken : 0;
}

/* The largest batch, at most as wanted, at which a step fits beside `held`; with as little
 * recomputation as that takes. 1 where none does. */
static enum mpq_status choose_tuning(struct mpq_ctx *ctx, const struct planner *pl, size_t held,
                                     struct choice *c)
{
    struct mpq_tune_options options = {.align = !pl->p->options->no_align};
    struct mpq_tune_memory memory;
    /* What refining made, a copy of it that is tuned and the best of these; targets. */
    held += 4 * pl->weights + (size_t)pl->p->tune.n * pl->head;
    for (c->tune_batch = pl->wanted;; c->tune_batch /= 2) {
        options.max_bytes = 1;
        MPQ_TRY(mpq_tune_measure(ctx, &pl->p->layers, pl->fake, c->tune_batch, &options, &memory));
        if (c->tune_batch == 1 || held + memory.other_bytes + memory.network_bytes <= pl->limit)
            break;
    }
    c->memory.tune_batch = c->tune_batch;
    c->memory.tune_bytes = options.max_bytes = left(pl, held + memory.other_bytes) + 1;
    MPQ_TRY(mpq_tune_measure(ctx, &pl->p->layers, pl->fake, c->tune_batch, &options, &memory));
    c->activations[TUNE] = memory.network_bytes;
    c->again = memory.again;
    c->bytes[TUNE] = held + memory.other_bytes + memory.network_bytes;
    return MPQ_OK;
}

static enum mpq_status consider(struct mpq_ctx *ctx, const struct planner *pl, uint32_t batch,
                                struct choice *out)
{
    const struct mpq_pipeline *p = pl->p;
    struct choice c = {.batch = batch};
    size_t observe = 0, in_float, fake, run, run_fake;
    double again;
    uint32_t n_decide = (p->decide.n + batch - 1) / batch * batch;
    const struct mpq_exec_options plain = {0}, keep = {.keep = pl->keep}, all = {.keep_all = true};
    MPQ_TRY(mpq_network_measure(ctx, p->run_graph, batch, &plain, &run, &again));
    MPQ_TRY(mpq_network_measure(ctx, pl->fake, batch, &plain, &run_fake, &again));
    MPQ_TRY(mpq_network_measure(ctx, p->run_graph, batch, &keep, &in_float, &again));
    MPQ_TRY(mpq_network_measure(ctx, pl->fake, batch, &all, &fake, &again));
    if (!p->is_resumed)
        MPQ_TRY(mpq_network_measure(ctx, p->run_graph, batch,
                                    &(struct mpq_exec_options){.keep = pl->observed}, &observe,
                                    &again));
    if (pl->improves && !p->is_resumed)
        observe += run + run_fake;
    c.activations[CALIBRATE] = observe;
    c.bytes[CALIBRATE] = pl->base + observe + (p->is_resumed ? 0 : p->tune.n * pl->head);
    for (int s = EVALUATE; s < N_STAGE; s++)
        c.activations[s] = in_float + fake;
    size_t held =
        pl->base + in_float + fake + pl->supernet + n_decide * pl->input + p->decide.n * pl->head;
    c.bytes[EVALUATE] = held;
    held += p->is_resumed ? 2 * pl->offsets : pl->offsets; /* as read from the checkpoint */

    size_t room = left(pl, held + pl->round_most);
    c.memory.gather_bytes =
        smaller(pl->gather_all, room > pl->gather_most ? room : pl->gather_most);
    c.bytes[ROUND] = p->is_resumed ? 0 : held + pl->round_most + c.memory.gather_bytes;
    if (pl->wanted)
        MPQ_TRY(choose_tuning(ctx, pl, held, &c));
    c.activations[SEARCH] += run_fake;
    c.memory.cache_bytes = left(pl, held + run_fake) / 2;
    c.bytes[SEARCH] = held + run_fake + smaller(c.memory.cache_bytes, (size_t)256 << 20);
    held += 2 * pl->weights; /* the weights refined and their offsets */
    uint32_t n_thread = (uint32_t)mpq_thread_count(), part = mpq_pipeline_thread_batch(batch);
    size_t run_part, fake_part;
    MPQ_TRY(mpq_network_measure(ctx, p->run_graph, part, &plain, &run_part, &again));
    MPQ_TRY(mpq_network_measure(ctx, pl->fake, part, &plain, &fake_part, &again));
    c.activations[REFINE] += n_thread * (run_part + fake_part);
    size_t refine = held + pl->cross_most + pl->round_most + n_thread * (run_part + fake_part);
    size_t walk = (REFINE_SAMPLES / batch + 1) * (in_float + fake); /* more than all states are */
    walk = smaller(walk, (size_t)1 << 30);
    /* Moments of the other threads take a quarter as much. */
    c.memory.walk_bytes = smaller(left(pl, refine) / 5 * 4, walk);
    c.bytes[REFINE] =
        p->options->no_refine ? 0 : refine + c.memory.walk_bytes + c.memory.walk_bytes / 4;
    c.memory.walk_bytes += !c.memory.walk_bytes; /* 0 would be no limit */
    c.activations[VERIFY] += 2 * run;
    c.bytes[VERIFY] = held + 2 * run + pl->weights / sizeof(mpq_real) * VERIFY_BYTES_A_WEIGHT;
    for (int s = 0; s < N_STAGE; s++)
        if (c.bytes[s] > c.bytes[c.worst])
            c.worst = (enum stage)s;
    *out = c;
    return MPQ_OK;
}

/* The largest tuning batch, and of choices with the same the largest batch of forward passes. */
static enum mpq_status choose(struct mpq_ctx *ctx, const struct planner *pl, struct choice *best)
{
    bool fits = false;
    for (uint32_t batch = pl->p->batch; batch; batch /= 2) {
        struct choice c;
        MPQ_TRY(consider(ctx, pl, batch, &c));
        bool c_fits = c.bytes[c.worst] <= pl->limit;
        if (batch == pl->p->batch ||
            (c_fits ? !fits || c.tune_batch > best->tune_batch
                    : !fits && c.bytes[c.worst] < best->bytes[best->worst]))
            *best = c;
        fits |= c_fits;
        if (c_fits && c.tune_batch == pl->wanted)
            break;
    }
    if (fits)
        return MPQ_OK;
    return mpq_memory_fail(ctx, pl->limit, best->bytes[best->worst], stage_name[best->worst]);
}

static void log_choice(struct mpq_ctx *ctx, const struct choice *c)
{
    for (int s = 0; s < N_STAGE; s++) {
        if (!c->bytes[s])
            continue;
        uint32_t batch = s == TUNE ? c->tune_batch : c->batch;
        mpq_log(ctx, MPQ_LOG_INFO,
                "memory: %-9s %3u sample%s at a time, activations %.1f MB, %.0f %% of a pass run "
                "again, %.1f MB in all",
                stage_name[s], batch, batch == 1 ? "" : "s", megabytes(c->activations[s]),
                s == TUNE ? 100 * c->again : 0, megabytes(c->bytes[s]));
    }
}

enum mpq_status mpq_memory_plan(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    struct planner pl = {.p = p,
                         .limit = (size_t)p->options->max_memory,
                         .wanted = p->is_resumed ? 0 : mpq_pipeline_tune_batch(p),
                         .improves = !p->options->baseline};
    struct choice c = {0};
    if (!pl.limit)
        return MPQ_OK;
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = create(ctx, scratch, &pl);
    if (status == MPQ_OK)
        status = choose(ctx, &pl, &c);
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    log_choice(ctx, &c);
    p->batch = c.batch;
    p->memory = c.memory;
    return MPQ_OK;
}

size_t mpq_memory_cache(const struct mpq_pipeline *p, size_t wanted)
{
    return p->options->max_memory ? smaller(wanted, p->memory.cache_bytes) : wanted;
}
