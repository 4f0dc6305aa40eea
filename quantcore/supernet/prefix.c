#include "quantcore/supernet/prefix.h"

#include <string.h>

enum { MAX_PREFIXES = 16 };

/* The next of what is compared, from h on, that is known before `node` runs; n_head: none. It need
 * not be alive: perhaps no node reads it any more. */
static uint32_t next_head(const struct mpq_network *network, uint32_t h, mpq_node_id node)
{
    for (; h < network->loss.n_head; h++) {
        const struct mpq_value *value = &network->graph->value[network->loss.head[h].value];
        if (value->producer == MPQ_NO_NODE ? !value->constant : value->producer < node)
            break;
    }
    return h;
}

static size_t state_bytes(const struct mpq_network *network, mpq_node_id node)
{
    size_t bytes = mpq_exec_live_bytes(network->exec, node);
    for (uint32_t h = 0; (h = next_head(network, h, node)) < network->loss.n_head; h++)
        bytes += mpq_tensor_bytes(mpq_exec_tensor(network->exec, network->loss.head[h].value));
    return bytes;
}

static void save(const struct mpq_network *network, mpq_node_id node, char *state)
{
    mpq_exec_save(network->exec, node, state);
    state += mpq_exec_live_bytes(network->exec, node);
    for (uint32_t h = 0; (h = next_head(network, h, node)) < network->loss.n_head; h++) {
        const struct mpq_tensor *y = mpq_exec_tensor(network->exec, network->loss.head[h].value);
        memcpy(state, y->data, mpq_tensor_bytes(y));
        state += mpq_tensor_bytes(y);
    }
}

static void restore(struct mpq_network *network, mpq_node_id node, const char *state)
{
    mpq_exec_restore(network->exec, node, state);
    state += mpq_exec_live_bytes(network->exec, node);
    for (uint32_t h = 0; (h = next_head(network, h, node)) < network->loss.n_head; h++) {
        const struct mpq_tensor *y = mpq_exec_tensor(network->exec, network->loss.head[h].value);
        memcpy(y->data, state, mpq_tensor_bytes(y));
        state += mpq_tensor_bytes(y);
    }
}

/* ---- where ---- */

/* Nodes that prefixes end at, in order; and what runs before each node. */
struct choice {
    const double *macs; /* [n_node + 1] multiplications of the nodes before */
    const mpq_node_id *first;
    uint32_t n_unit, n_node;
    mpq_node_id node[MAX_PREFIXES];
};

/* Multiplications before the nodes at which units begin that are in no prefix, with one more at
 * `node`: what evaluations that differ in one unit each run although they need not. */
static double waste(const struct choice *c, mpq_node_id node)
{
    double sum = 0;
    for (uint32_t u = 0; u < c->n_unit; u++) {
        mpq_node_id from = node <= c->first[u] ? node : 0;
        for (uint32_t i = 0; i < c->n_node; i++)
            if (c->node[i] <= c->first[u] && c->node[i] > from)
                from = c->node[i];
        sum += c->macs[c->first[u]] - c->macs[from];
    }
    return sum;
}

static void insert(struct choice *c, mpq_node_id node)
{
    uint32_t i = c->n_node++;
    for (; i > 0 && c->node[i - 1] > node; i--)
        c->node[i] = c->node[i - 1];
    c->node[i] = node;
}

/* One more node; false where none helps within what is left of the memory. */
static bool choose_next(struct choice *c, const struct mpq_network *network, uint32_t n_batch,
                        size_t *left)
{
    double least = waste(c, 0);
    mpq_node_id best = 0;
    size_t best_bytes = 0;
    for (uint32_t u = 0; u < c->n_unit; u++) {
        if (c->first[u] == network->graph->n_node)
            continue;
        size_t bytes = state_bytes(network, c->first[u]);
        double wasted = c->first[u] ? waste(c, c->first[u]) : least;
        if (wasted < least && bytes <= *left / n_batch) {
            least = wasted;
            best = c->first[u];
            best_bytes = bytes;
        }
    }
    if (!best)
        return false;
    insert(c, best);
    *left -= best_bytes * n_batch;
    return true;
}

static enum mpq_status choose(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                              const struct mpq_network *network, uint32_t n_batch, size_t max_bytes,
                              struct choice *c)
{
    uint32_t n_node = network->graph->n_node;
    double *macs = mpq_arena_alloc(ctx, scratch, n_node + 1, sizeof *macs);
    if (!macs)
        return MPQ_E_NOMEM;
    for (mpq_node_id n = 0; n < n_node; n++)
        macs[n + 1] = macs[n] + (double)mpq_bind_macs(network->graph, &network->binding, n);
    c->macs = macs;
    while (c->n_node < MAX_PREFIXES && choose_next(c, network, n_batch, &max_bytes))
        ;
    return MPQ_OK;
}

enum mpq_status mpq_prefixes_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_room *room, const struct mpq_network *network,
                                    uint32_t n_batch, uint32_t n_unit, const mpq_node_id *first,
                                    size_t max_bytes, struct mpq_prefixes *out)
{
    struct mpq_prefixes prefixes = {.n_unit = n_unit};
    struct choice choice = {.first = first, .n_unit = n_unit};
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    enum mpq_status status =
        scratch ? choose(ctx, scratch, network, n_batch, max_bytes, &choice) : MPQ_E_NOMEM;
    mpq_arena_free(scratch);
    MPQ_TRY(status);
    prefixes.n_prefix = choice.n_node;
    prefixes.first = mpq_arena_copy(ctx, arena, first, n_unit * sizeof *first);
    prefixes.last = mpq_arena_alloc(ctx, arena, n_unit, 1);
    prefixes.prefix = mpq_arena_alloc(ctx, arena, choice.n_node, sizeof *prefixes.prefix);
    if (!prefixes.first || !prefixes.last || !prefixes.prefix)
        return MPQ_E_NOMEM;
    size_t n_byte = 0;
    for (uint32_t i = 0; i < choice.n_node; i++) {
        struct mpq_prefix *prefix = &prefixes.prefix[i];
        prefix->node = choice.node[i];
        prefix->n_byte = state_bytes(network, prefix->node);
        prefix->bits = mpq_arena_alloc(ctx, arena, n_unit, 1);
        if (!prefix->bits)
            return MPQ_E_NOMEM;
        n_byte += n_batch * prefix->n_byte;
    }
    char *state = mpq_room_take(ctx, room, n_byte);
    if (!state)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < choice.n_node; i++) {
        prefixes.prefix[i].state = state;
        state += n_batch * prefixes.prefix[i].n_byte;
    }
    *out = prefixes;
    return MPQ_OK;
}

/* ---- use ---- */

/* Whether two allocations compute the same up to `node`. */
static bool agree(const struct mpq_prefixes *p, const uint8_t *a, const uint8_t *b,
                  mpq_node_id node)
{
    for (uint32_t u = 0; u < p->n_unit; u++)
        if (a[u] != b[u] && p->first[u] < node)
            return false;
    return true;
}

bool mpq_prefixes_begins_anew(const struct mpq_prefixes *p)
{
    return p->from == p->n_prefix;
}

void mpq_prefixes_begin(struct mpq_prefixes *p, const uint8_t *bits)
{
    p->from = p->n_prefix;
    for (uint32_t i = 0; i < p->n_prefix; i++) {
        struct mpq_prefix *prefix = &p->prefix[i];
        bool is_usable = prefix->is_kept && agree(p, bits, prefix->bits, prefix->node);
        if (is_usable)
            p->from = i;
        prefix->is_due = !is_usable && (!p->has_last || agree(p, bits, p->last, prefix->node));
    }
    for (uint32_t i = 0; i < p->n_prefix; i++) {
        struct mpq_prefix *prefix = &p->prefix[i];
        /* What lies before where the run begins, it does not see. */
        prefix->is_due = prefix->is_due && (mpq_prefixes_begins_anew(p) || i > p->from);
        prefix->is_kept = prefix->is_kept && !prefix->is_due;
    }
}

void mpq_prefixes_end(struct mpq_prefixes *p, const uint8_t *bits)
{
    for (uint32_t i = 0; i < p->n_prefix; i++)
        if (p->prefix[i].is_due) {
            memcpy(p->prefix[i].bits, bits, p->n_unit);
            p->prefix[i].is_kept = true;
        }
    memcpy(p->last, bits, p->n_unit);
    p->has_last = true;
}

void mpq_prefixes_forward(const struct mpq_prefixes *p, struct mpq_network *network, uint32_t batch)
{
    struct mpq_exec *exec = network->exec;
    mpq_node_id node = 0;
    if (!mpq_prefixes_begins_anew(p)) {
        const struct mpq_prefix *prefix = &p->prefix[p->from];
        node = prefix->node;
        restore(network, node, prefix->state + batch * prefix->n_byte);
    }
    for (uint32_t i = 0; i < p->n_prefix; i++) {
        const struct mpq_prefix *prefix = &p->prefix[i];
        if (!prefix->is_due)
            continue;
        mpq_exec_forward(exec, node, prefix->node);
        save(network, prefix->node, prefix->state + batch * prefix->n_byte);
        node = prefix->node;
    }
    mpq_exec_forward(exec, node, network->graph->n_node);
}
