#include "cli/options.h"

#include <math.h>
#include <string.h>

#include "cli/option_table.h"
#include "quantcore/base/fileio.h"

/* ---- near misses ---- */

/* Insertions, deletions and replacements from a to b (Levenshtein); words beyond 31 letters are
 * far from everything. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t n = strlen(b), row[32];
    if (n >= MPQ_COUNT(row))
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t best = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            if (best > diagonal + 1)
                best = diagonal + 1;
            if (best > row[j] + 1)
                best = row[j] + 1;
            row[j + 1] = best;
        }
    }
    return row[n];
}

const char *mpq_suggest(const char *typed, const char *const *word, size_t n)
{
    const char *nearest = NULL;
    size_t best = 3, length = strlen(typed);
    for (size_t i = 0; i < n; i++) {
        size_t distance = edit_distance(typed, word[i]);
        if (length >= 3 && strncmp(typed, word[i], length) == 0)
            distance = 1;
        if (distance < best && distance < strlen(word[i])) {
            best = distance;
            nearest = word[i];
        }
    }
    return nearest;
}

/* ---- parsing ---- */

static enum mpq_status set_option(struct mpq_ctx *ctx, size_t i, const char *text,
                                  struct mpq_options *options)
{
    const struct mpq_option_row *row = &mpq_option_table[i];
    if (!row->parse(row, text, (char *)options + row->offset))
        return row->expects ? mpq_fail(ctx, MPQ_E_USAGE, "--%s: '%s' is not %s", row->name, text,
                                       row->expects)
                            : mpq_fail(ctx, MPQ_E_USAGE, "--%s: '%s' is not one of %s", row->name,
                                       text, row->argument);
    options->text[i] = text;
    return MPQ_OK;
}

static enum mpq_status set_defaults(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                    struct mpq_options *options)
{
    *options = (struct mpq_options){.steps = -1, .typed = {.resize = -1, .crop = -1}};
    for (size_t i = 0; i < mpq_option_count(); i++)
        if (mpq_option_table[i].initial) {
            MPQ_TRY(set_option(ctx, i, mpq_option_table[i].initial, options));
            if (!(mpq_option_table[i].commands & command))
                options->text[i] = NULL;
        }
    return MPQ_OK;
}

static enum mpq_status unknown_option(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                      const char *command_name, const char *typed, size_t length)
{
    const char *name[MPQ_MAX_OPTIONS];
    char word[32];
    size_t n = 0;
    snprintf(word, sizeof word, "%.*s", (int)(length < 31 ? length : 31), typed);
    for (size_t i = 0; i < mpq_option_count(); i++) {
        if (mpq_option_table[i].commands & command)
            name[n++] = mpq_option_table[i].name;
        else if (strcmp(mpq_option_table[i].name, word) == 0)
            return mpq_fail(ctx, MPQ_E_USAGE, "--%s is not an option of %s", word, command_name);
    }
    const char *nearest = mpq_suggest(word, name, n);
    if (nearest)
        return mpq_fail(ctx, MPQ_E_USAGE, "--%s is not an option; did you mean --%s?", word,
                        nearest);
    return mpq_fail(ctx, MPQ_E_USAGE, "--%s is not an option; see onnx-mpq %s --help", word,
                    command_name);
}

/* The row that argument names, "--name", "--name=value", "-n" or "-nvalue"; *out_value is the
 * value it carries itself, or NULL. */
static enum mpq_status find_option(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                   const char *command_name, const char *argument, size_t *out_row,
                                   const char **out_value)
{
    bool is_long = argument[1] == '-';
    const char *name = argument + (is_long ? 2 : 1);
    size_t length = is_long ? strcspn(name, "=") : 1;
    const char *rest = name[length] ? name + length + (is_long ? 1 : 0) : NULL;
    for (size_t i = 0; i < mpq_option_count(); i++) {
        const struct mpq_option_row *row = &mpq_option_table[i];
        bool same = is_long ? strlen(row->name) == length && !memcmp(row->name, name, length)
                            : row->letter == *name;
        if (!same || !(row->commands & command))
            continue;
        if (rest && !row->argument)
            return mpq_fail(ctx, MPQ_E_USAGE, "%s: --%s takes no value", argument, row->name);
        *out_row = i;
        *out_value = rest;
        return MPQ_OK;
    }
    if (is_long)
        return unknown_option(ctx, command, command_name, name, length);
    return mpq_fail(ctx, MPQ_E_USAGE, "%s is not an option; see onnx-mpq %s --help", argument,
                    command_name);
}

static bool begins_with_checkpoint(enum mpq_command_bit command)
{
    return (command & (MPQ_COMMAND_SEARCH | MPQ_COMMAND_APPLY)) != 0;
}

/* An argument that is no option. */
static enum mpq_status take_file(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                 const char *argument, struct mpq_options *options)
{
    const char **file = begins_with_checkpoint(command) ? &options->checkpoint : &options->model;
    if (command == MPQ_COMMAND_APPLY && options->checkpoint)
        file = &options->plan;
    if (*file)
        return mpq_fail(ctx, MPQ_E_USAGE, "one %s at a time: '%s' and '%s' were given",
                        file == &options->model  ? "model"
                        : file == &options->plan ? "plan"
                                                 : "checkpoint",
                        *file, argument);
    *file = argument;
    return MPQ_OK;
}

static enum mpq_status parse_arguments(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                       const char *command_name, int argc, char *const *argv,
                                       struct mpq_options *options)
{
    bool only_names = false;
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        if (only_names || argument[0] != '-' || !argument[1]) {
            MPQ_TRY(take_file(ctx, command, argument, options));
            continue;
        }
        if (strcmp(argument, "--") == 0) {
            only_names = true;
            continue;
        }
        size_t row = 0;
        const char *value = NULL;
        MPQ_TRY(find_option(ctx, command, command_name, argument, &row, &value));
        if (!mpq_option_table[row].argument)
            value = "yes";
        else if (!value && (i + 1 == argc || strncmp(argv[i + 1], "--", 2) == 0))
            return mpq_fail(ctx, MPQ_E_USAGE, "%s needs a value: %s", argument,
                            mpq_option_table[row].argument);
        else if (!value)
            value = argv[++i];
        MPQ_TRY(set_option(ctx, row, value, options));
        options->is_given[row] = true;
    }
    return MPQ_OK;
}

/* ---- what follows from several options ---- */

/* Returns how many channels the list names: one number is for any. */
static int fill_channels(const struct mpq_per_channel *list, float *channel)
{
    for (int c = 0; c < 4 && list->n; c++)
        if (list->n == 1 || c < list->n)
            channel[c] = (float)list->value[list->n == 1 ? 0 : c];
    return list->n == 1 ? 0 : list->n;
}

static enum mpq_status make_preprocess(struct mpq_ctx *ctx, struct mpq_options *options)
{
    const char *preset = NULL;
    for (size_t i = 0; i < mpq_option_count(); i++)
        if (mpq_option_table[i].offset == offsetof(struct mpq_options, typed.preset))
            preset = options->text[i];
    if (!preset)
        return MPQ_OK; /* not an option of this command */
    const struct mpq_preprocess_options *typed = &options->typed;
    struct mpq_preprocess *p = &options->preprocess;
    MPQ_TRY(mpq_preprocess_preset(ctx, preset, p));
    p->n_mean = fill_channels(&typed->mean, p->mean);
    p->n_std = fill_channels(&typed->std, p->std);
    if (typed->scale > 0)
        p->scale = (float)typed->scale;
    if (typed->resize > 0)
        p->resize = (int)typed->resize;
    if (typed->crop > 0)
        p->crop = (int)typed->crop;
    p->bgr = typed->channel_order == 1;
    return MPQ_OK;
}

static bool has_limit(const struct mpq_options *options)
{
    const struct mpq_bitops *bitops = &options->bitops;
    return options->size.share > 0 || options->size.bytes || options->avg_bits > 0 ||
           bitops->number > 0 || bitops->share > 0 || bitops->weight_bits || options->latency ||
           options->max_drop > 0;
}

/* USAGE where an option of these names was given. */
static enum mpq_status forbid(struct mpq_ctx *ctx, const struct mpq_options *options,
                              const char *const *names, size_t n, const char *why)
{
    for (size_t i = 0; i < mpq_option_count(); i++)
        for (size_t k = 0; k < n; k++)
            if (options->is_given[i] && strcmp(mpq_option_table[i].name, names[k]) == 0)
                return mpq_fail(ctx, MPQ_E_USAGE, "--%s does not go with %s", names[k], why);
    return MPQ_OK;
}

/* Where no limit is given: the one kept at `offset` of the options. */
static enum mpq_status set_limit(struct mpq_ctx *ctx, size_t offset, const char *text,
                                 struct mpq_options *options)
{
    for (size_t i = 0; i < mpq_option_count() && !has_limit(options); i++)
        if (mpq_option_table[i].offset == offset)
            return set_option(ctx, i, text, options);
    return MPQ_OK;
}

/* The published method has one kind of budget. */
static enum mpq_status check_paper(struct mpq_ctx *ctx, struct mpq_options *options)
{
    static const char *const names[] = {
        "size",        "avg-bits",     "latency",         "max-latency", "max-drop",
        "lock",        "weights-only", "saturation-safe", "baseline",    "no-round",
        "no-codebook", "no-equalize",  "max-memory",      "float-macs"};
    MPQ_TRY(forbid(ctx, options, names, MPQ_COUNT(names), "--recipe paper"));
    if (strcmp(options->target->name, "ort") != 0 && strcmp(options->target->name, "int8") != 0)
        return mpq_fail(ctx, MPQ_E_USAGE, "--recipe paper writes for --target ort or int8");
    return set_limit(ctx, offsetof(struct mpq_options, bitops), "W4A4", options);
}

/* Then there is nothing to choose, and the size is what it is. */
static bool is_one_width(const struct mpq_options *options)
{
    int n = 0;
    for (int b = 0; b < MPQ_N_BITS; b++)
        n += options->bits[b];
    return n == 1;
}

static enum mpq_status check_limits(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                    struct mpq_options *options)
{
    if (options->max_drop > 0 && (options->sizes.n || options->pareto))
        return mpq_fail(ctx, MPQ_E_USAGE, "--max-drop finds the size; --size and --pareto name it");
    if (!options->latency != !(options->max_latency > 0))
        return mpq_fail(ctx, MPQ_E_USAGE, "--latency and --max-latency go together");
    if (command != MPQ_COMMAND_CONVERT || is_one_width(options))
        return MPQ_OK;
    return set_limit(ctx, offsetof(struct mpq_options, size), MPQ_DEFAULT_SIZE, options);
}

static enum mpq_status check_weights_only(struct mpq_ctx *ctx, const struct mpq_options *options)
{
    static const char *const names[] = {"data",     "eval",     "labels",      "checkpoint",
                                        "bitops",   "act-bits", "max-latency", "max-memory",
                                        "max-drop", "steps",    "float-macs"};
    return options->weights_only
               ? forbid(ctx, options, names, MPQ_COUNT(names), "--weights-only, which runs nothing")
               : MPQ_OK;
}

/* `path` without its suffix, if it has that one, and with `replacement` after it. */
static char *replace_suffix(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                            const char *suffix, const char *replacement)
{
    size_t n = strlen(path), n_suffix = strlen(suffix);
    if (n > n_suffix && strcmp(path + n - n_suffix, suffix) == 0)
        n -= n_suffix;
    return mpq_arena_printf(ctx, arena, "%.*s%s", (int)n, path, replacement);
}

char *mpq_path_csv(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path)
{
    return replace_suffix(ctx, arena, path, ".onnx", ".csv");
}

static enum mpq_status name_outputs(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    struct mpq_options *options)
{
    if (!options->output)
        options->output = replace_suffix(ctx, arena, options->model, ".onnx", ".mpq.onnx");
    if (!options->output)
        return MPQ_E_NOMEM;
    if (!options->report)
        options->report = mpq_path_csv(ctx, arena, options->output);
    return options->report ? MPQ_OK : MPQ_E_NOMEM;
}

static enum mpq_status check_from(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                  const char *command_name, struct mpq_options *options)
{
    options->is_resumed = true;
    if (!options->checkpoint)
        return mpq_fail(ctx, MPQ_E_USAGE, "%s needs a checkpoint; see onnx-mpq %s --help",
                        command_name, command_name);
    if (command == MPQ_COMMAND_APPLY && !options->plan)
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "apply needs a plan, the layer CSV of a conversion; see onnx-mpq apply "
                        "--help");
    if (options->quiet && options->verbose)
        return mpq_fail(ctx, MPQ_E_USAGE, "--quiet and --verbose exclude each other");
    if (command == MPQ_COMMAND_SEARCH && options->sizes.n && options->pareto)
        return mpq_fail(ctx, MPQ_E_USAGE, "--size and --pareto exclude each other");
    MPQ_TRY(check_limits(ctx, command, options));
    if (command == MPQ_COMMAND_SEARCH && !options->sizes.n && !options->pareto &&
        !has_limit(options))
        return mpq_fail(ctx, MPQ_E_USAGE, "search needs a budget: --size LIST or --pareto N");
    return MPQ_OK;
}

enum mpq_status mpq_options_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  enum mpq_command_bit command, const char *command_name, int argc,
                                  char *const *argv, struct mpq_options *out)
{
    MPQ_TRY(set_defaults(ctx, command, out));
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            out->help = true;
            return MPQ_OK;
        }
    MPQ_TRY(parse_arguments(ctx, command, command_name, argc, argv, out));
    if (begins_with_checkpoint(command))
        return check_from(ctx, command, command_name, out);
    if (!out->model)
        return mpq_fail(ctx, MPQ_E_USAGE, "%s needs a model; see onnx-mpq %s --help", command_name,
                        command_name);
    if (out->quiet && out->verbose)
        return mpq_fail(ctx, MPQ_E_USAGE, "--quiet and --verbose exclude each other");
    if (command == MPQ_COMMAND_EVAL && !out->data)
        return mpq_fail(ctx, MPQ_E_USAGE, "eval needs samples: --data PATH");
    if (command == MPQ_COMMAND_CONVERT && out->labels && !out->eval && !out->data)
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "--labels needs the samples they belong to: --eval PATH or --data PATH");
    if (out->baseline && (out->checkpoint || out->max_drop > 0 || out->weights_only))
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "--baseline excludes --checkpoint, --max-drop and --weights-only");
    static const char *const tuned_only[] = {"steps", "float-macs"};
    if (out->baseline)
        MPQ_TRY(forbid(ctx, out, tuned_only, MPQ_COUNT(tuned_only), "--baseline"));
    MPQ_TRY(check_weights_only(ctx, out));
    MPQ_TRY(make_preprocess(ctx, out));
    static const char *const paper_only[] = {"no-augment"};
    if (!out->recipe)
        MPQ_TRY(forbid(ctx, out, paper_only, MPQ_COUNT(paper_only), "--recipe default"));
    MPQ_TRY(out->recipe ? check_paper(ctx, out) : check_limits(ctx, command, out));
    return command == MPQ_COMMAND_CONVERT ? name_outputs(ctx, arena, out) : MPQ_OK;
}

/* ---- options that a checkpoint keeps: NAME=VALUE lines ---- */

/* A tab at the beginning of a line continues the value. */
static char *continued(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *value)
{
    size_t n = strlen(value), used = 0;
    char *text = mpq_arena_alloc(ctx, arena, 2 * n + 1, 1);
    for (size_t i = 0; text && i < n; i++) {
        text[used++] = value[i];
        if (value[i] == '\n')
            text[used++] = '\t';
    }
    return text;
}

/* Where the value ends that `line` begins with, which becomes what it was; NULL: nowhere. */
static char *join_lines(char *line)
{
    char *end = strchr(line, '\n');
    while (end && end[1] == '\t') {
        memmove(end + 1, end + 2, strlen(end + 2) + 1);
        end = strchr(end + 1, '\n');
    }
    return end;
}

char *mpq_options_kept(struct mpq_ctx *ctx, struct mpq_arena *arena,
                       const struct mpq_options *options)
{
    char *value = continued(ctx, arena, options->model);
    char *text = value ? mpq_arena_printf(ctx, arena, "model=%s\n", value) : NULL;
    for (size_t i = 0; i < mpq_option_count() && text; i++)
        if (mpq_option_table[i].commands & MPQ_OPTION_KEPT && options->is_given[i]) {
            value = continued(ctx, arena, options->text[i]);
            text = value ? mpq_arena_printf(ctx, arena, "%s%s=%s\n", text, mpq_option_table[i].name,
                                            value)
                         : NULL;
        }
    return text;
}

static enum mpq_status restore_one(struct mpq_ctx *ctx, const char *name, const char *value,
                                   struct mpq_options *options)
{
    if (strcmp(name, "model") == 0) {
        options->model = options->model ? options->model : value;
        return MPQ_OK;
    }
    for (size_t i = 0; i < mpq_option_count(); i++)
        if (mpq_option_table[i].commands & MPQ_OPTION_KEPT &&
            strcmp(mpq_option_table[i].name, name) == 0)
            return options->is_given[i] ? MPQ_OK : set_option(ctx, i, value, options);
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: --%s is no option of this version", options->checkpoint,
                    name);
}

enum mpq_status mpq_options_restore(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *kept,
                                    struct mpq_options *options)
{
    char *line = mpq_arena_strdup(ctx, arena, kept);
    while (line && *line) {
        char *end = join_lines(line), *equals = strchr(line, '=');
        if (!end || !equals || equals > end)
            return mpq_fail(ctx, MPQ_E_FORMAT, "%s: its options cannot be read",
                            options->checkpoint);
        *end = *equals = '\0';
        MPQ_TRY(restore_one(ctx, line, equals + 1, options));
        line = end + 1;
    }
    if (!line)
        return MPQ_E_NOMEM;
    if (!options->model)
        return mpq_fail(ctx, MPQ_E_FORMAT, "%s: does not name its model", options->checkpoint);
    MPQ_TRY(make_preprocess(ctx, options));
    bool has_list = options->sizes.n || options->pareto, is_named = options->report != NULL;
    MPQ_TRY(name_outputs(ctx, arena, options));
    if (has_list && !is_named) /* the name with .csv is that of a layer report */
        options->report = replace_suffix(ctx, arena, options->output, ".onnx", ".budgets.csv");
    return options->report ? MPQ_OK : MPQ_E_NOMEM;
}

bool mpq_options_resume(const struct mpq_options *options)
{
    return options->is_resumed ||
           (options->checkpoint && !options->overwrite && mpq_file_exists(options->checkpoint));
}

char *mpq_path_labelled(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                        const char *label)
{
    size_t n = strlen(path);
    bool has_suffix = n > 5 && strcmp(path + n - 5, ".onnx") == 0;
    return mpq_arena_printf(ctx, arena, "%.*s.%s%s", (int)(has_suffix ? n - 5 : n), path, label,
                            has_suffix ? ".onnx" : "");
}

uint64_t mpq_size_bytes(const struct mpq_size *size, uint64_t float_bytes)
{
    if (size->share <= 0)
        return size->bytes;
    double bytes = floor(size->share * (double)float_bytes);
    return bytes < 1 ? 1 : (uint64_t)bytes;
}
