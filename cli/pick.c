#include "cli/pick.h"

#include <regex.h>
#include <string.h>

/* One pattern, which lives until pattern_free(). A name need not be a regular expression. */
struct pattern {
    const char *text;
    regex_t regex;
    int error; /* of regcomp(); 0: there is a regex */
};

static enum mpq_status pattern_make(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *text,
                                    struct pattern *out)
{
    char *whole = mpq_arena_printf(ctx, arena, "^(%s)$", text);
    if (!whole)
        return MPQ_E_NOMEM;
    out->text = text;
    out->error = regcomp(&out->regex, whole, REG_EXTENDED | REG_NOSUB);
    return MPQ_OK;
}

static void pattern_free(struct pattern *pattern)
{
    if (!pattern->error)
        regfree(&pattern->regex);
}

static bool matches(const struct pattern *pattern, const struct mpq_graph *graph,
                    const struct mpq_layer *layer)
{
    const char *operator_type = graph->node[layer->node].op_type;
    return strcmp(layer->name, pattern->text) == 0 ||
           (!pattern->error && (regexec(&pattern->regex, layer->name, 0, NULL, 0) == 0 ||
                                regexec(&pattern->regex, operator_type, 0, NULL, 0) == 0));
}

static enum mpq_status fail_pattern(struct mpq_ctx *ctx, const char *option,
                                    const struct pattern *pattern)
{
    char reason[128];
    if (!pattern->error)
        return mpq_fail(ctx, MPQ_E_USAGE, "--%s: '%s' matches no layer (see onnx-mpq inspect)",
                        option, pattern->text);
    regerror(pattern->error, &pattern->regex, reason, sizeof reason);
    return mpq_fail(ctx, MPQ_E_USAGE, "--%s: '%s' is no regular expression: %s", option,
                    pattern->text, reason);
}

/* picked[l] becomes `value` where layer l matches. */
static enum mpq_status pick(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *option,
                            const char *text, const struct mpq_graph *graph,
                            const struct mpq_layer_table *layers, uint8_t value, uint8_t *picked)
{
    struct pattern pattern;
    uint32_t n = 0;
    MPQ_TRY(pattern_make(ctx, arena, text, &pattern));
    for (uint32_t l = 0; l < layers->n_layer; l++)
        if (matches(&pattern, graph, &layers->layer[l])) {
            picked[l] = value;
            n++;
        }
    enum mpq_status status = n ? MPQ_OK : fail_pattern(ctx, option, &pattern);
    pattern_free(&pattern);
    return status;
}

/* Cut the first piece off a list joined by commas; commas within braces or brackets belong to a
 * regular expression. */
static char *next_piece(char **rest)
{
    char *begin = *rest;
    int depth = 0;
    for (char *c = begin; *c; c++) {
        depth += *c == '{' || *c == '[';
        depth -= *c == '}' || *c == ']';
        if (*c == ',' && depth <= 0) {
            *c = '\0';
            *rest = c + 1;
            return begin;
        }
    }
    *rest = NULL;
    return begin;
}

enum mpq_status mpq_pick_drop(struct mpq_ctx *ctx, struct mpq_arena *arena, const uint8_t *picked,
                              struct mpq_layer_table *layers)
{
    uint32_t n = layers->n_layer, kept = 0;
    struct mpq_rejected_layer *rejected = mpq_arena_grow(
        ctx, arena, layers->rejected, layers->n_rejected, layers->n_rejected + n, sizeof *rejected);
    if (!rejected)
        return MPQ_E_NOMEM;
    for (uint32_t l = 0; l < n; l++) {
        if (picked[l])
            rejected[layers->n_rejected++] =
                (struct mpq_rejected_layer){layers->layer[l].node, "excluded"};
        else
            layers->layer[kept++] = layers->layer[l];
    }
    layers->rejected = rejected;
    layers->n_layer = kept;
    if (!kept)
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "all layers are excluded");
    return MPQ_OK;
}

enum mpq_status mpq_pick_exclude(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *patterns,
                                 const struct mpq_graph *graph, struct mpq_layer_table *layers)
{
    if (!patterns)
        return MPQ_OK;
    char *rest = mpq_arena_strdup(ctx, arena, patterns);
    uint8_t *picked = mpq_arena_alloc(ctx, arena, layers->n_layer, 1);
    if (!rest || !picked)
        return MPQ_E_NOMEM;
    while (rest)
        MPQ_TRY(pick(ctx, arena, "exclude", next_piece(&rest), graph, layers, 1, picked));
    return mpq_pick_drop(ctx, arena, picked, layers);
}

enum mpq_status mpq_pick_lock(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *locks,
                              const struct mpq_graph *graph, const struct mpq_layer_table *layers,
                              uint16_t allowed, uint8_t *out_bits)
{
    memset(out_bits, 0, layers->n_layer);
    if (!locks)
        return MPQ_OK;
    char *rest = mpq_arena_strdup(ctx, arena, locks);
    if (!rest)
        return MPQ_E_NOMEM;
    while (rest) {
        char *piece = next_piece(&rest), *equals = strrchr(piece, '=');
        if (!equals || equals[1] < '0' + MPQ_MIN_BITS || equals[1] > '0' + MPQ_MAX_BITS ||
            equals[2])
            return mpq_fail(ctx, MPQ_E_USAGE, "--lock: '%s' is not PATTERN=BITS", piece);
        uint8_t bits = (uint8_t)(equals[1] - '0');
        if (!(allowed >> bits & 1))
            return mpq_fail(ctx, MPQ_E_USAGE, "--lock: '%s': %d is not one of the widths in --bits",
                            piece, bits);
        *equals = '\0';
        MPQ_TRY(pick(ctx, arena, "lock", piece, graph, layers, bits, out_bits));
    }
    return MPQ_OK;
}
