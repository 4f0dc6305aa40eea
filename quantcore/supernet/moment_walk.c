#include "quantcore/supernet/moment_walk.h"

#include "quantcore/ops/kernel/gemm.h"

enum { LEAST_SAMPLES = 64 };

/* Multiplications in the time that a byte takes to be kept and fetched. */
#define MACS_A_BYTE 16.0

static size_t max_bytes(const struct mpq_moment_source *source)
{
    return source->max_bytes ? source->max_bytes : (size_t)1 << 30;
}

static uint32_t count_batches(const struct mpq_moment_source *source)
{
    return (source->n_sample + source->network->batch - 1) / source->network->batch;
}

/* Let the walk keep what layer l and those behind it need, of as many batches as there is room for.
 * Where that is all, states may as well stay as large as they are. */
static void lay_out(struct mpq_moment_walk *walk, const struct mpq_moment_source *source,
                    uint32_t l)
{
    uint32_t n_batch = count_batches(source);
    if (walk->n_kept == n_batch)
        return;
    walk->float_offset = walk->most[l];
    walk->n_byte = walk->most[l] + walk->float_most[l] + 1;
    size_t n = walk->capacity / walk->n_byte;
    walk->n_kept = n < n_batch ? (uint32_t)n : n_batch;
}

/* What the two networks need of a batch before layer l. */
static void live_bytes(const struct mpq_layer_table *layers, const struct mpq_moment_source *source,
                       uint32_t l, size_t *out, size_t *out_float)
{
    *out = mpq_exec_live_bytes(source->network->exec, source->layer_node[l]);
    *out_float = source->float_network
                     ? mpq_exec_live_bytes(source->float_network->exec, layers->layer[l].node)
                     : 0;
}

/* States move wherever to run on from the last place takes longer. */
static void plan_moves(const struct mpq_layer_table *layers, const struct mpq_moment_source *source,
                       uint32_t first, struct mpq_moment_walk *walk)
{
    double n_network = source->float_network ? 2 : 1, macs = 0;
    for (uint32_t l = first; l < layers->n_layer; l++) {
        size_t bytes, float_bytes;
        live_bytes(layers, source, l, &bytes, &float_bytes);
        walk->is_kept[l] = l == first || MACS_A_BYTE * (double)(bytes + float_bytes) <= macs;
        macs = walk->is_kept[l] ? 0 : macs;
        macs += n_network * source->network->batch * (double)layers->layer[l].macs;
    }
}

enum mpq_status mpq_moment_walk_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_layer_table *layers,
                                       const struct mpq_moment_source *source, uint32_t first,
                                       struct mpq_moment_walk *out)
{
    uint32_t n_layer = layers->n_layer;
    struct mpq_moment_walk walk = {
        .capacity = max_bytes(source),
        .is_kept = mpq_arena_alloc(ctx, arena, n_layer, sizeof *walk.is_kept),
        .most = mpq_arena_alloc(ctx, arena, n_layer + 1, sizeof *walk.most),
        .float_most = mpq_arena_alloc(ctx, arena, n_layer + 1, sizeof *walk.float_most)};
    if (!walk.is_kept || !walk.most || !walk.float_most)
        return MPQ_E_NOMEM;
    plan_moves(layers, source, first, &walk);
    for (uint32_t l = n_layer; l-- > first;) {
        size_t bytes = 0, float_bytes = 0;
        if (walk.is_kept[l])
            live_bytes(layers, source, l, &bytes, &float_bytes);
        walk.most[l] = bytes > walk.most[l + 1] ? bytes : walk.most[l + 1];
        walk.float_most[l] =
            float_bytes > walk.float_most[l + 1] ? float_bytes : walk.float_most[l + 1];
    }
    size_t whole = (walk.most[first] + walk.float_most[first] + 1) * count_batches(source);
    walk.capacity = whole < walk.capacity ? whole : walk.capacity;
    walk.state = source->room ? mpq_room_take(ctx, source->room, walk.capacity)
                              : mpq_arena_alloc(ctx, arena, walk.capacity, 1);
    *out = walk;
    return walk.state ? MPQ_OK : MPQ_E_NOMEM;
}

/* One network's way through a batch. */
struct leg {
    struct mpq_network *network;
    mpq_node_id from, to,
        last;         /* goes on at `from`, keeps its state before `to`, stops at `last` */
    const char *kept; /* its state before `from`; NULL: there is none, it begins anew */
    char *state;      /* where it goes; NULL: nowhere. Not behind `kept` */
};

static void begin_leg(const struct leg *leg)
{
    if (leg->kept)
        mpq_exec_restore(leg->network->exec, leg->from, leg->kept);
}

static void run_leg(const struct leg *leg)
{
    struct mpq_exec *exec = leg->network->exec;
    mpq_node_id from = leg->kept ? leg->from : 0;
    mpq_exec_forward(exec, from, leg->to);
    if (leg->state)
        mpq_exec_save(exec, leg->to, leg->state);
    mpq_exec_forward(exec, leg->to, leg->last);
}

/* Whether a layer of [begin, end) multiplies its weights with what its own node makes. */
static bool reads_itself(const struct mpq_layer_table *layers, uint32_t begin, uint32_t end)
{
    for (uint32_t l = begin; l < end; l++)
        if (layers->layer[l].x_input < 0)
            return true;
    return false;
}

/* ---- a pass over the samples ---- */

/* Batches at work: batch b is run by network b % n_network. */
struct pass {
    const struct mpq_layer_table *layers;
    struct mpq_moment_source source; /* the samples that count */
    struct mpq_moment_room room;
    struct mpq_moments **set; /* [n_set][n_layer] that of each network, or one */
    uint32_t n_network, n_set;
    struct mpq_moment_walk before, after; /* no batches where there is no walk */
    bool keeps;                           /* the states, at leg.to */
    struct leg leg, float_leg;            /* of any batch */
    uint32_t begin, end;
    uint32_t first, beyond, n_batch; /* batches [first, beyond) now */
};

static uint32_t batch_size(const struct pass *pass, uint32_t batch)
{
    uint32_t size = pass->source.network->batch, left = pass->source.n_sample - batch * size;
    return left < size ? left : size;
}

/* Whether the networks begin anew with the batch. */
static bool is_read(const struct pass *pass, uint32_t batch)
{
    return batch >= pass->before.n_kept;
}

static enum mpq_status read_batch(struct mpq_ctx *ctx, const struct pass *pass, uint32_t batch)
{
    const struct mpq_moment_source *source = &pass->source;
    uint32_t i = batch % pass->n_network, n = batch_size(pass, batch);
    const uint32_t *sample = source->sample + batch * source->network->batch;
    MPQ_TRY(mpq_network_read(ctx, &source->network[i], source->samples, sample, n));
    if (source->float_network)
        mpq_network_copy_inputs(&source->network[i], &source->float_network[i]);
    return MPQ_OK;
}

/* Both networks' ways through batch `batch`; how many there are. */
static int legs_of(const struct pass *pass, uint32_t batch, struct leg out_leg[2])
{
    const struct mpq_moment_walk *before = &pass->before, *after = &pass->after;
    uint32_t i = batch % pass->n_network;
    struct leg *leg = &out_leg[0], *float_leg = &out_leg[1];
    *leg = pass->leg;
    leg->network = &pass->source.network[i];
    leg->kept = batch < before->n_kept ? before->state + batch * before->n_byte : NULL;
    leg->state = pass->keeps && batch < after->n_kept ? after->state + batch * after->n_byte : NULL;
    if (!pass->source.float_network)
        return 1;
    *float_leg = pass->float_leg;
    float_leg->network = &pass->source.float_network[i];
    float_leg->kept = leg->kept ? leg->kept + before->float_offset : NULL;
    float_leg->state = leg->state ? leg->state + after->float_offset : NULL;
    return 2;
}

/* What batch `batch` adds, which its network has just run. */
static void add_batch(const struct pass *pass, uint32_t batch)
{
    uint32_t i = batch % pass->n_network, n = batch_size(pass, batch);
    struct mpq_moment_source source = pass->source;
    source.network += i;
    source.float_network += source.float_network ? i : 0;
    bool has_own = pass->n_set > 1;
    mpq_moments_add(pass->layers, &source, pass->begin, pass->end, n, has_own ? (int)i : 0,
                    &pass->room, pass->set[has_own ? i : 0]);
}

/* States move: those of a batch go where that of a batch before it has been. */
static bool is_moved(const struct pass *pass)
{
    return pass->before.n_byte != pass->after.n_byte;
}

/* Whether one of the networks [first, last) runs the batch. */
static bool is_run_by(const struct pass *pass, uint32_t batch, int64_t first, int64_t last)
{
    uint32_t i = batch % pass->n_network;
    return i >= first && i < last;
}

/* What networks [first, last) go on from. */
static void begin_networks(void *arg, int64_t first, int64_t last, int thread)
{
    const struct pass *pass = arg;
    (void)thread;
    for (uint32_t b = pass->first; b < pass->beyond; b++) {
        struct leg leg[2];
        if (!is_run_by(pass, b, first, last))
            continue;
        for (int i = 0, n = legs_of(pass, b, leg); i < n; i++)
            begin_leg(&leg[i]);
    }
}

/* All that they have to do. */
static void run_networks(void *arg, int64_t first, int64_t last, int thread)
{
    const struct pass *pass = arg;
    (void)thread;
    for (uint32_t b = pass->first; b < pass->beyond; b++) {
        struct leg leg[2];
        if (!is_run_by(pass, b, first, last))
            continue;
        for (int i = 0, n = legs_of(pass, b, leg); i < n; i++) {
            if (!is_moved(pass))
                begin_leg(&leg[i]);
            run_leg(&leg[i]);
        }
        if (pass->n_set > 1)
            add_batch(pass, b);
    }
}

/* The end of the batches from pass->first on that are run together: all that need no reading where
 * networks wait for nothing, or one for each network. */
static uint32_t end_of_wave(const struct pass *pass)
{
    uint32_t end = pass->first;
    while (pass->n_set > 1 && !is_moved(pass) && end < pass->n_batch && !is_read(pass, end))
        end++;
    if (end > pass->first)
        return end;
    end += pass->n_network;
    return end < pass->n_batch ? end : pass->n_batch;
}

static enum mpq_status run_pass(struct mpq_ctx *ctx, struct pass *pass)
{
    for (; pass->first < pass->n_batch; pass->first = pass->beyond) {
        pass->beyond = end_of_wave(pass);
        for (uint32_t b = pass->first; b < pass->beyond; b++)
            if (is_read(pass, b))
                MPQ_TRY(read_batch(ctx, pass, b));
        if (is_moved(pass))
            mpq_gemm_parallel_for(pass->n_network, 1, begin_networks, pass);
        mpq_gemm_parallel_for(pass->n_network, 1, run_networks, pass);
        for (uint32_t b = pass->first; b < pass->beyond && pass->n_set == 1; b++)
            add_batch(pass, b);
    }
    for (uint32_t i = 1; i < pass->n_set; i++)
        mpq_moments_join(pass->begin, pass->end, pass->set[i], pass->set[0]);
    return MPQ_OK;
}

/* A set of moments for each network where they take little; else one for all. */
static enum mpq_status create_sets(struct mpq_ctx *ctx, struct mpq_arena *arena, struct pass *pass,
                                   struct mpq_moments *out)
{
    size_t bytes = 0;
    for (uint32_t l = pass->begin; l < pass->end; l++)
        bytes += mpq_moments_bytes(&pass->layers->layer[l], pass->source.float_network != NULL);
    pass->n_set = bytes * pass->n_network <= max_bytes(&pass->source) / 4 ? pass->n_network : 1;
    pass->set = mpq_arena_alloc(ctx, arena, pass->n_set, sizeof *pass->set);
    if (!pass->set)
        return MPQ_E_NOMEM;
    pass->set[0] = out;
    for (uint32_t i = 1; i < pass->n_set; i++) {
        pass->set[i] = mpq_arena_alloc(ctx, arena, pass->layers->n_layer, sizeof **pass->set);
        if (!pass->set[i])
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_moments_create(ctx, arena, pass->layers, &pass->source, pass->begin, pass->end,
                                   pass->set[i]));
    }
    return MPQ_OK;
}

static enum mpq_status gather(struct mpq_ctx *ctx, struct mpq_arena *arena, struct pass *pass,
                              struct mpq_moment_walk *walk, struct mpq_moments *out)
{
    struct mpq_moment_source *source = &pass->source;
    MPQ_TRY(create_sets(ctx, arena, pass, out));
    if (walk) {
        pass->before = *walk;
        pass->keeps = walk->is_kept[pass->begin];
        if (pass->keeps)
            lay_out(walk, source, pass->begin);
        pass->after = *walk;
        uint32_t n = walk->n_kept * source->network->batch;
        n = n > LEAST_SAMPLES ? n : LEAST_SAMPLES;
        source->n_sample = n < source->n_sample ? n : source->n_sample;
    }
    pass->n_batch = count_batches(source);
    MPQ_TRY(run_pass(ctx, pass));
    mpq_moments_end(pass->begin, pass->end, out);
    if (pass->keeps) {
        walk->node = pass->leg.to;
        walk->float_node = pass->float_leg.to;
    }
    return MPQ_OK;
}

enum mpq_status mpq_moments_gather(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                   const struct mpq_layer_table *layers,
                                   const struct mpq_moment_source *source, uint32_t begin,
                                   uint32_t end, struct mpq_moment_walk *walk,
                                   struct mpq_moments *out)
{
    const struct mpq_layer *layer = layers->layer;
    struct pass pass = {.layers = layers,
                        .source = *source,
                        .n_network = source->n_network > 1 ? source->n_network : 1,
                        .begin = begin,
                        .end = end};
    bool any = false;
    MPQ_TRY(mpq_moments_begin(ctx, arena, layers, source, begin, end, &pass.room, out));
    for (uint32_t l = begin; l < end; l++)
        any |= out[l].gram != NULL;
    if (!any)
        return MPQ_OK;
    mpq_node_id beyond = reads_itself(layers, begin, end) ? 1 : 0;
    pass.leg = (struct leg){.from = walk ? walk->node : 0,
                            .to = source->layer_node[begin],
                            .last = source->layer_node[end - 1] + beyond};
    pass.float_leg = (struct leg){.from = walk ? walk->float_node : 0,
                                  .to = layer[begin].node,
                                  .last = layer[end - 1].node + beyond};
    return gather(ctx, arena, &pass, walk, out);
}
