#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/thread.h"

struct option_row {
    const char *name;
    char letter;          /* of the short form, or 0                                     */
    unsigned commands;    /* OR of enum mpq_command_bit; a name may have a row a command */
    const char *argument; /* as help shows it, for a choice the words; NULL: a switch    */
    bool (*parse)(const struct option_row *row, const char *text, void *field);
    const char *expects; /* "...", completes "--name: 'text' is not ..."                */
    size_t offset;       /* of the field in struct mpq_options                          */
    const char *initial; /* default, parsed like any value; NULL: the field's own       */
    const char *note;    /* default in words, where there is nothing to parse           */
    const char *help;
};

/* ---- one parser a kind of argument: false where the text is not one ---- */

static bool parse_number(const char *text, const char **end, double *out)
{
    if (!isdigit((unsigned char)*text) && !strchr(".-+", *text))
        return false; /* strtod would take "inf", "nan" and blanks */
    char *stop;
    double value = strtod(text, &stop);
    if (stop == text || !isfinite(value))
        return false;
    *end = stop;
    *out = value;
    return true;
}

static bool parse_text(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    *(const char **)field = text;
    return *text != '\0';
}

static bool parse_switch(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    *(bool *)field = strcmp(text, "yes") == 0;
    return *(bool *)field || strcmp(text, "no") == 0;
}

/* The position of `text` among the words of row->argument, "a|b|c". */
static bool parse_choice(const struct option_row *row, const char *text, void *field)
{
    size_t length = strlen(text);
    int position = 0;
    for (const char *word = row->argument; *text; position++) {
        size_t n = strcspn(word, "|");
        if (n == length && memcmp(word, text, n) == 0) {
            *(int *)field = position;
            return true;
        }
        if (!word[n])
            break;
        word += n + 1;
    }
    return false;
}

static bool parse_target(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    *(const struct mpq_target **)field = mpq_target_find(text);
    return *(const struct mpq_target **)field != NULL;
}

static bool parse_unsigned(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    char *end;
    errno = 0;
    *(uint64_t *)field = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno;
}

static bool parse_count(const struct option_row *row, const char *text, void *field)
{
    uint64_t value;
    if (!parse_unsigned(row, text, &value) || value > 1000000000)
        return false;
    *(int64_t *)field = (int64_t)value;
    return true;
}

static bool parse_positive(const struct option_row *row, const char *text, void *field)
{
    return parse_count(row, text, field) && *(int64_t *)field > 0;
}

static bool parse_threads(const struct option_row *row, const char *text, void *field)
{
    if (strcmp(text, "all") == 0) {
        *(int64_t *)field = mpq_thread_available();
        return true;
    }
    return parse_positive(row, text, field) && *(int64_t *)field <= 1024;
}

static bool parse_scale(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    const char *end;
    return parse_number(text, &end, field) && !*end && *(double *)field > 0;
}

static bool parse_channels(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    struct mpq_per_channel *list = field;
    list->n = 0;
    for (;; text++) {
        if (list->n == 4 || !parse_number(text, &text, &list->value[list->n]))
            return false;
        list->n++;
        if (*text != ',')
            return !*text;
    }
}

static bool parse_std(const struct option_row *row, const char *text, void *field)
{
    const struct mpq_per_channel *list = field;
    if (!parse_channels(row, text, field))
        return false;
    for (int i = 0; i < list->n; i++)
        if (list->value[i] <= 0)
            return false;
    return true;
}

static bool parse_bits(const struct option_row *row, const char *text, void *field)
{
    (void)row;
    bool *bits = field;
    memset(bits, 0, MPQ_N_BITS * sizeof *bits);
    for (;; text += 2) {
        if (*text < '0' + MPQ_MIN_BITS || *text > '0' + MPQ_MAX_BITS)
            return false;
        bits[*text - '0'] = true;
        if (text[1] != ',')
            return !text[1];
    }
}

static bool parse_size(const struct option_row *row, const char *text, void *field)
{
    static const struct {
        const char *name;
        double factor;
    } unit[] = {{"", 1},      {"B", 1},      {"k", 1e3},        {"kB", 1e3},       {"K", 1e3},
                {"KB", 1e3},  {"M", 1e6},    {"MB", 1e6},       {"G", 1e9},        {"GB", 1e9},
                {"Ki", 1024}, {"KiB", 1024}, {"Mi", 1048576.0}, {"MiB", 1048576.0}};
    (void)row;
    struct mpq_size *size = field;
    const char *end;
    double value;
    if (!parse_number(text, &end, &value) || value <= 0)
        return false;
    if (strcmp(end, "%") == 0) {
        *size = (struct mpq_size){.share = value / 100};
        return value <= 100;
    }
    for (size_t i = 0; i < MPQ_COUNT(unit); i++)
        if (strcmp(end, unit[i].name) == 0) {
            double bytes = floor(value * unit[i].factor);
            if (bytes < 1 || bytes > (double)INT64_MAX / 2)
                return false;
            *size = (struct mpq_size){.bytes = (uint64_t)bytes};
            return true;
        }
    return false;
}

/* Sizes joined by commas, each with what it is called in a file name. */
static bool parse_sizes(const struct option_row *row, const char *text, void *field)
{
    struct mpq_sizes *sizes = field;
    sizes->n = 0;
    for (;;) {
        char piece[sizeof sizes->of->label - 4];
        size_t n = strcspn(text, ",");
        if (n >= sizeof piece || sizes->n == MPQ_MAX_SIZES)
            return false;
        struct mpq_labelled_size *size = &sizes->of[sizes->n++];
        snprintf(piece, sizeof piece, "%.*s", (int)n, text);
        if (!parse_size(row, piece, &size->size))
            return false;
        bool is_share = n && piece[n - 1] == '%';
        snprintf(size->label, sizeof size->label, "%.*s%s", (int)(is_share ? n - 1 : n), piece,
                 is_share ? "pct" : "");
        if (!text[n])
            return true;
        text += n + 1;
    }
}

static bool parse_pareto(const struct option_row *row, const char *text, void *field)
{
    return parse_count(row, text, field) && *(int64_t *)field >= 2 &&
           *(int64_t *)field <= MPQ_MAX_SIZES;
}

static bool parse_avg_bits(const struct option_row *row, const char *text, void *field)
{
    return parse_scale(row, text, field) && *(double *)field >= MPQ_MIN_BITS &&
           *(double *)field <= MPQ_MAX_BITS;
}

static bool parse_points(const struct option_row *row, const char *text, void *field)
{
    return parse_scale(row, text, field) && *(double *)field >= 0.01 && *(double *)field <= 100;
}

static bool parse_bitops(const struct option_row *row, const char *text, void *field)
{
    static const char units[] = "kMGT";
    (void)row;
    struct mpq_bitops *bitops = field;
    int n = 0;
    *bitops = (struct mpq_bitops){.number = 0};
    if (sscanf(text, "W%1dA%1d%n", &bitops->weight_bits, &bitops->activation_bits, &n) == 2)
        return !text[n] && bitops->weight_bits >= MPQ_MIN_BITS &&
               bitops->weight_bits <= MPQ_MAX_BITS && bitops->activation_bits >= MPQ_MIN_BITS &&
               bitops->activation_bits <= MPQ_MAX_BITS;
    *bitops = (struct mpq_bitops){.number = 0};
    if (!parse_number(text, &text, &bitops->number) || bitops->number <= 0)
        return false;
    if (strcmp(text, "%") == 0) {
        *bitops = (struct mpq_bitops){.share = bitops->number / 100};
        return true;
    }
    const char *unit = *text ? strchr(units, *text) : NULL;
    for (long i = unit ? unit - units : -1; i >= 0; i--)
        bitops->number *= 1000;
    return !text[unit ? 1 : 0] && bitops->number < 1e19;
}

static bool parse_time(const struct option_row *row, const char *text, void *field)
{
    static const struct {
        const char *name;
        double seconds;
    } unit[] = {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}};
    (void)row;
    double value;
    if (!parse_number(text, &text, &value) || value <= 0 || value > 1e6)
        return false;
    for (size_t i = 0; i < MPQ_COUNT(unit); i++)
        if (strcmp(text, unit[i].name) == 0) {
            *(double *)field = value * unit[i].seconds;
            return true;
        }
    return false;
}

/* ---- the table ---- */

#define CONVERT       MPQ_COMMAND_CONVERT
#define EVAL          MPQ_COMMAND_EVAL
#define SEARCH        MPQ_COMMAND_SEARCH
#define APPLY         MPQ_COMMAND_APPLY
#define ANY           MPQ_COMMAND_ANY
#define FROM          (SEARCH | APPLY) /* commands that begin with a checkpoint            */
#define MADE          (CONVERT | FROM)
#define KEPT          0x10000 /* in the checkpoint; no command              */
#define FIELD(member) offsetof(struct mpq_options, member)
#define TYPED(member) offsetof(struct mpq_options, typed.member)

#define DEFAULT_SIZE "20%"

#define A_FILE      parse_text, "a file name"
#define A_TEXT      parse_text, "NAME=SIZES"
#define A_SWITCH    parse_switch, "a switch"
#define A_CHOICE    parse_choice, NULL
#define PER_CHANNEL "one number, or one a channel, as a,b,c"

static const struct option_row table[] = {
    {"output", 'o', CONVERT | APPLY, "FILE", A_FILE, FIELD(output), NULL, "MODEL.mpq.onnx",
     "Write the quantized model here."},
    {"output", 'o', SEARCH, "FILE", A_FILE, FIELD(output), NULL, "MODEL.mpq.onnx",
     "Name of the files written, each with its budget before .onnx: MODEL.mpq.15pct.onnx."},
    {"report", 0, SEARCH, "FILE", A_FILE, FIELD(report), NULL, "MODEL.mpq.budgets.csv",
     "Write one CSV row a budget here."},
    {"model", 0, FROM, "FILE", A_FILE, FIELD(model), NULL, "the one that was tuned",
     "The float model, where it has moved."},
    {"report", 0, CONVERT | APPLY, "FILE", A_FILE, FIELD(report), NULL,
     "the output's name with .csv",
     "Write one CSV row a layer here, and key,value rows about the whole run beside it to the same "
     "name with .summary.csv."},
    {"overwrite", 0, MADE | EVAL, NULL, A_SWITCH, FIELD(overwrite), "no", NULL,
     "Replace output files that exist."},
    {"data", 0, MADE | KEPT, "PATH", A_FILE, FIELD(data), NULL, "synthetic samples",
     "Samples to calibrate and tune on, no labels needed: .npz with arrays named like the model's "
     "inputs, or with `images` (uint8 NHWC) to be preprocessed; .npy; or a folder of JPEG and PNG "
     "pictures."},
    {"eval", 0, MADE | KEPT, "PATH", A_FILE, FIELD(eval), NULL, "none",
     "Other samples, of the same kinds, on which the float and the quantized model are compared."},
    {"labels", 0, MADE | KEPT, "FILE", A_FILE, FIELD(labels), NULL, "those in the samples' file",
     "Labels of --eval, or of --data where there is no --eval: CSV with file,label or one label a "
     "row, or .npy."},
    {"data", 0, EVAL, "PATH", A_FILE, FIELD(data), NULL, NULL,
     "Samples to run: .npz with arrays named like the model's inputs, or with `images` (uint8 "
     "NHWC) to be preprocessed; .npy; or a folder of JPEG and PNG pictures. Required."},
    {"labels", 0, EVAL, "FILE", A_FILE, FIELD(labels), NULL, "those in the samples' file",
     "Labels of --data: CSV with file,label or one label a row, or .npy."},
    {"reference", 0, EVAL, "MODEL", A_FILE, FIELD(reference), NULL, "none",
     "Run this model on the same samples and compare with it."},
    {"outputs", 0, EVAL, "FILE", A_FILE, FIELD(outputs), NULL, "none",
     "Write all outputs to this .npz, arrays named like the model's outputs."},

    {"input-shape", 0, ANY | KEPT, "NAME=SIZES", A_TEXT, FIELD(input_shape), NULL,
     "those of the data",
     "Sizes of one sample for an input that leaves some open, as NAME=1x3x224x224; several joined "
     "by commas. The file written leaves them open, too."},

    {"input-value", 0, ANY | KEPT, "NAME=INTEGER", parse_text, "NAME=INTEGER", FIELD(input_value),
     NULL, "none",
     "Value of an input of one integer or bool that chooses branches of If; several joined by "
     "commas. The file written has the branch taken alone."},

    {"size", 0, CONVERT, "SIZE", parse_size, "a size: N% of the float file up to 100%, or N[k|M]B",
     FIELD(size), NULL, DEFAULT_SIZE,
     "Largest size of the file written: N% of the float file, or bytes as 150kB, 1.5MB, 64KiB "
     "(k = 1000, Ki = 1024). With another of the limits that follow, none."},
    {"size", 0, SEARCH, "SIZES", parse_sizes, "a list of sizes as 10%,15%,150kB", FIELD(sizes),
     NULL, "none", "Sizes of the files, a search each, joined by commas."},
    {"pareto", 0, SEARCH, "N", parse_pareto, "a number of files from 2 to 64", FIELD(pareto), NULL,
     "none", "As many sizes, evenly apart in proportion, from the smallest file to the largest."},
    {"avg-bits", 0, CONVERT | SEARCH, "X", parse_avg_bits, "a number from 2 to 8", FIELD(avg_bits),
     NULL, "no limit", "Largest average width of the weights."},
    {"bitops", 0, CONVERT | SEARCH, "N", parse_bitops,
     "a number of BitOPs, as 3e9 or 1.5G, a share of those at 8 bits, as 25%, or those of one "
     "width, as W4A4",
     FIELD(bitops), NULL, "no limit",
     "Most bit operations a sample: MACs * weight bits * activation bits, summed over the layers."},
    {"latency", 0, CONVERT | SEARCH, "FILE", A_FILE, FIELD(latency), NULL, "none",
     "CSV of measured times, with a header and columns node, weight_bits, seconds, and "
     "activation_bits where they matter. A width without a row takes the time of the next wider "
     "one that has."},
    {"max-latency", 0, CONVERT | SEARCH, "TIME", parse_time, "a time, as 3.5ms, 800us or 0.1s",
     FIELD(max_latency), NULL, "no limit", "Largest sum of the layers' times by --latency."},
    {"max-drop", 0, CONVERT | SEARCH, "POINTS", parse_points, "a number of points from 0.01 to 100",
     FIELD(max_drop), NULL, "no limit",
     "The smallest file whose top-1 drops by no more than that, in percent of the samples, with a "
     "confidence of 80 %. Half of the samples that measure choose it, the other half report. "
     "Without labels, another answer than that of the float model counts as lost."},
    {"exclude", 0, CONVERT | SEARCH | KEPT, "PATTERNS", parse_text, "a pattern", FIELD(exclude),
     NULL, "none",
     "Layers that stay float: names of nodes, operator types, or extended regular expressions that "
     "match one of them as a whole; several joined by commas."},
    {"lock", 0, CONVERT | SEARCH | KEPT, "PATTERN=BITS", parse_text, "PATTERN=BITS", FIELD(lock),
     NULL, "none", "Layers whose weights get this width, one of --bits; several joined by commas."},
    {"bits", 0, CONVERT | SEARCH | KEPT, "LIST", parse_bits,
     "a list of widths from 2 to 8, as 2,4,8", FIELD(bits), "2,3,4,5,6,8", NULL,
     "Weight widths a layer may get."},
    {"target", 0, MADE | KEPT, MPQ_TARGET_NAMES, parse_target, NULL, FIELD(target), "ort", NULL,
     "Who runs the file. ort: ONNX Runtime, each weight in its own number of bits, unpacked by "
     "standard operators when the model is loaded; int8: a byte a weight, for whatever reads 8-bit "
     "QDQ; onnx: the types int2, int4 and int8 of opsets 25, 21 and 13; openvino; tensorrt: signed "
     "types, zero point 0; qnn: weights in int4 and int8, activations of 8 bits, or with qnn16 of "
     "16."},
    {"act-bits", 0, CONVERT | SEARCH | KEPT, "LIST", parse_bits,
     "a list of widths from 2 to 8, as 4,8", FIELD(act_bits), NULL, "that of --target",
     "Widths activations may have. More than one are searched, which pays with a limit on BitOPs "
     "or latency: the file does not shrink."},
    {"weights-only", 0, CONVERT, NULL, A_SWITCH, FIELD(weights_only), "no", NULL,
     "Do not run the model: choose widths by the weights alone, leave activations in float and "
     "carry everything else through, unknown operators included. Needs no data."},
    {"short-names", 0, MADE | KEPT, NULL, A_SWITCH, FIELD(short_names), "no", NULL,
     "Give inner values new names of two letters and nodes none, for models whose names take more "
     "of "
     "the file than their weights. Inputs and outputs keep theirs."},
    {"saturation-safe", 0, MADE | KEPT, NULL, A_SWITCH, FIELD(saturation_safe), "no", NULL,
     "Change the channels whose weights could make 8-bit kernels saturate on x86 processors "
     "without VNNI; the report counts them in any case."},
    {"recipe", 0, CONVERT, "default|paper", A_CHOICE, FIELD(recipe), "default", NULL,
     "paper: the supernet as published (arXiv 2401.01543), for models with BatchNormalization and "
     "labelled data: learned steps, weights and inputs of convolutions in 2 to 6 bits each, "
     "within --bitops alone (default W4A4, counted as published)."},
    {"effort", 0, CONVERT, "none|quick|default|thorough", A_CHOICE, FIELD(effort), "default", NULL,
     "How long to tune the weights before the search; none: not at all."},
    {"steps", 0, CONVERT, "N", parse_count, "a number of steps", FIELD(steps), NULL,
     "as --effort says", "Tuning steps."},
    {"no-freeze", 0, CONVERT, NULL, A_SWITCH, FIELD(no_freeze), "no", NULL,
     "Do not freeze widths during tuning."},
    {"no-align", 0, CONVERT, NULL, A_SWITCH, FIELD(no_align), "no", NULL,
     "Do not align the features of narrow paths with those of the widest."},
    {"no-refine", 0, MADE, NULL, A_SWITCH, FIELD(no_refine), "no", NULL,
     "Do not round the weights again for the allocation found."},
    {"no-round", 0, CONVERT, NULL, A_SWITCH, FIELD(no_round), "no", NULL,
     "Do not round to second order before tuning."},
    {"no-codebook", 0, CONVERT, NULL, A_SWITCH, FIELD(no_codebook), "no", NULL,
     "Integers instead of learned levels, at every width."},
    {"baseline", 0, CONVERT, "none|rtn|mse|rounded", A_CHOICE, FIELD(baseline), "none", NULL,
     "What there is to beat: the widest single width that fits for all layers, integers, no "
     "tuning. "
     "rtn: to the nearest, min-max ranges; mse: ranges of least squared error, corrected biases; "
     "rounded: the same with second-order rounding."},
    {"checkpoint", 0, CONVERT, "FILE", A_FILE, FIELD(checkpoint), NULL, "none",
     "Tuned state: where FILE exists, resume from it without calibrating or tuning; else (or with "
     "--overwrite) save it there."},
    {"seed", 0, CONVERT | KEPT, "N", parse_unsigned, "a whole number of at most 64 bits",
     FIELD(seed), "1", NULL,
     "Key of all random numbers. Same command, seed and threads: same bytes."},

    {"preprocess", 0, MADE | EVAL | KEPT, "imagenet|imagenet-tf|unit|raw", A_CHOICE, TYPED(preset),
     "raw", NULL,
     "From a picture x (0..255) to the input, y = (x * scale - mean) / std. imagenet: short side "
     "to 8/7 of the crop, centre crop, scale 1/255, mean .485,.456,.406, std .229,.224,.225; "
     "imagenet-tf: the same crop, scale 1/127.5, mean 1, std 1; unit: resized, scale 1/255; raw: "
     "resized, 0..255."},
    {"mean", 0, MADE | EVAL | KEPT, "A,B,C", parse_channels, PER_CHANNEL, TYPED(mean), NULL,
     "the preset's", "Mean a channel, in the model's channel order and after --scale."},
    {"std", 0, MADE | EVAL | KEPT, "A,B,C", parse_std, PER_CHANNEL ", above 0", TYPED(std), NULL,
     "the preset's", "Standard deviation a channel."},
    {"scale", 0, MADE | EVAL | KEPT, "X", parse_scale, "a number above 0", TYPED(scale), NULL,
     "the preset's", "Factor of 0..255."},
    {"resize", 0, MADE | EVAL | KEPT, "N", parse_positive, "a number of pixels", TYPED(resize),
     NULL, "the preset's", "Short side in pixels before the crop."},
    {"crop", 0, MADE | EVAL | KEPT, "N", parse_positive, "a number of pixels", TYPED(crop), NULL,
     "the input's size", "Side of the centre crop in pixels."},
    {"channel-order", 0, MADE | EVAL | KEPT, "rgb|bgr", A_CHOICE, TYPED(channel_order), "rgb", NULL,
     "Channel order of the model."},

    {"threads", 0, MADE | EVAL, "N", parse_threads, "a number of threads from 1 to 1024",
     FIELD(threads), "all", NULL, "Threads to use; all: one a core."},
    {"quiet", 'q', ANY, NULL, A_SWITCH, FIELD(quiet), "no", NULL,
     "Print nothing but errors and what was asked for."},
    {"verbose", 'v', ANY, NULL, A_SWITCH, FIELD(verbose), "no", NULL, "Say what is being done."},
    {"help", 'h', ANY, NULL, A_SWITCH, FIELD(help), NULL, NULL, "Print this and exit."},
};
_Static_assert(MPQ_COUNT(table) <= MPQ_MAX_OPTIONS, "raise MPQ_MAX_OPTIONS");

size_t mpq_option_count(void)
{
    return MPQ_COUNT(table);
}

const char *mpq_option_name(size_t i)
{
    MPQ_ASSERT(i < MPQ_COUNT(table));
    return table[i].name;
}

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
    const struct option_row *row = &table[i];
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
    for (size_t i = 0; i < MPQ_COUNT(table); i++)
        if (table[i].initial) {
            MPQ_TRY(set_option(ctx, i, table[i].initial, options));
            if (!(table[i].commands & command))
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
    for (size_t i = 0; i < MPQ_COUNT(table); i++) {
        if (table[i].commands & command)
            name[n++] = table[i].name;
        else if (strcmp(table[i].name, word) == 0)
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
    for (size_t i = 0; i < MPQ_COUNT(table); i++) {
        const struct option_row *row = &table[i];
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
    return (command & FROM) != 0;
}

/* An argument that is no option. */
static enum mpq_status take_file(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                 const char *argument, struct mpq_options *options)
{
    const char **file = begins_with_checkpoint(command) ? &options->checkpoint : &options->model;
    if (command == APPLY && options->checkpoint)
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
        if (!table[row].argument)
            value = "yes";
        else if (!value && (i + 1 == argc || strncmp(argv[i + 1], "--", 2) == 0))
            return mpq_fail(ctx, MPQ_E_USAGE, "%s needs a value: %s", argument,
                            table[row].argument);
        else if (!value)
            value = argv[++i];
        MPQ_TRY(set_option(ctx, row, value, options));
        options->is_given[row] = true;
    }
    return MPQ_OK;
}

/* ---- what follows from several options ---- */

static void fill_channels(const struct mpq_per_channel *list, float *channel)
{
    for (int c = 0; c < 4 && list->n; c++)
        if (list->n == 1 || c < list->n)
            channel[c] = (float)list->value[list->n == 1 ? 0 : c];
}

static enum mpq_status make_preprocess(struct mpq_ctx *ctx, struct mpq_options *options)
{
    const char *preset = NULL;
    for (size_t i = 0; i < MPQ_COUNT(table); i++)
        if (table[i].offset == TYPED(preset))
            preset = options->text[i];
    if (!preset)
        return MPQ_OK; /* not an option of this command */
    const struct mpq_preprocess_options *typed = &options->typed;
    struct mpq_preprocess *p = &options->preprocess;
    MPQ_TRY(mpq_preprocess_preset(ctx, preset, p));
    fill_channels(&typed->mean, p->mean);
    fill_channels(&typed->std, p->std);
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
    for (size_t i = 0; i < MPQ_COUNT(table); i++)
        for (size_t k = 0; k < n; k++)
            if (options->is_given[i] && strcmp(table[i].name, names[k]) == 0)
                return mpq_fail(ctx, MPQ_E_USAGE, "--%s does not go with %s", names[k], why);
    return MPQ_OK;
}

/* The published method has one kind of budget. */
static enum mpq_status check_paper(struct mpq_ctx *ctx, struct mpq_options *options)
{
    static const char *const names[] = {"size",     "avg-bits",     "max-latency",     "max-drop",
                                        "lock",     "weights-only", "saturation-safe", "baseline",
                                        "no-round", "no-codebook"};
    MPQ_TRY(forbid(ctx, options, names, MPQ_COUNT(names), "--recipe paper"));
    if (strcmp(options->target->name, "ort") != 0 && strcmp(options->target->name, "int8") != 0)
        return mpq_fail(ctx, MPQ_E_USAGE, "--recipe paper writes for --target ort or int8");
    for (size_t i = 0; i < MPQ_COUNT(table) && !has_limit(options); i++)
        if (table[i].offset == FIELD(bitops))
            return set_option(ctx, i, "W4A4", options);
    return MPQ_OK;
}

static enum mpq_status check_limits(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                    struct mpq_options *options)
{
    if (options->max_drop > 0 && (options->sizes.n || options->pareto))
        return mpq_fail(ctx, MPQ_E_USAGE, "--max-drop finds the size; --size and --pareto name it");
    if (!options->latency != !(options->max_latency > 0))
        return mpq_fail(ctx, MPQ_E_USAGE, "--latency and --max-latency go together");
    for (size_t i = 0; i < MPQ_COUNT(table) && command == CONVERT && !has_limit(options); i++)
        if (table[i].offset == FIELD(size))
            return set_option(ctx, i, DEFAULT_SIZE, options);
    return MPQ_OK;
}

static enum mpq_status check_weights_only(struct mpq_ctx *ctx, const struct mpq_options *options)
{
    static const char *const names[] = {"data",   "eval",     "labels",     "checkpoint",
                                        "bitops", "act-bits", "max-latency"};
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
    if (!options->report)
        return MPQ_E_NOMEM;
    if (strcmp(options->output, options->model) == 0)
        return mpq_fail(ctx, MPQ_E_USAGE, "--output is the model itself, '%s'", options->model);
    if (strcmp(options->output, options->report) == 0)
        return mpq_fail(ctx, MPQ_E_USAGE, "--output and --report are the same file, '%s'",
                        options->output);
    return MPQ_OK;
}

static enum mpq_status check_from(struct mpq_ctx *ctx, enum mpq_command_bit command,
                                  const char *command_name, struct mpq_options *options)
{
    options->is_resumed = true;
    if (!options->checkpoint)
        return mpq_fail(ctx, MPQ_E_USAGE, "%s needs a checkpoint; see onnx-mpq %s --help",
                        command_name, command_name);
    if (command == APPLY && !options->plan)
        return mpq_fail(ctx, MPQ_E_USAGE,
                        "apply needs a plan, the layer CSV of a conversion; see onnx-mpq apply "
                        "--help");
    if (options->quiet && options->verbose)
        return mpq_fail(ctx, MPQ_E_USAGE, "--quiet and --verbose exclude each other");
    if (command == SEARCH && options->sizes.n && options->pareto)
        return mpq_fail(ctx, MPQ_E_USAGE, "--size and --pareto exclude each other");
    MPQ_TRY(check_limits(ctx, command, options));
    if (command == SEARCH && !options->sizes.n && !options->pareto && !has_limit(options))
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
    MPQ_TRY(check_weights_only(ctx, out));
    MPQ_TRY(make_preprocess(ctx, out));
    MPQ_TRY(out->recipe ? check_paper(ctx, out) : check_limits(ctx, command, out));
    return command == MPQ_COMMAND_CONVERT ? name_outputs(ctx, arena, out) : MPQ_OK;
}

/* ---- options that a checkpoint keeps ---- */

char *mpq_options_kept(struct mpq_ctx *ctx, struct mpq_arena *arena,
                       const struct mpq_options *options)
{
    char *text = mpq_arena_printf(ctx, arena, "model=%s\n", options->model);
    for (size_t i = 0; i < MPQ_COUNT(table) && text; i++)
        if (table[i].commands & KEPT && options->is_given[i])
            text = mpq_arena_printf(ctx, arena, "%s%s=%s\n", text, table[i].name, options->text[i]);
    return text;
}

static enum mpq_status restore_one(struct mpq_ctx *ctx, const char *name, const char *value,
                                   struct mpq_options *options)
{
    if (strcmp(name, "model") == 0) {
        options->model = options->model ? options->model : value;
        return MPQ_OK;
    }
    for (size_t i = 0; i < MPQ_COUNT(table); i++)
        if (table[i].commands & KEPT && strcmp(table[i].name, name) == 0)
            return options->is_given[i] ? MPQ_OK : set_option(ctx, i, value, options);
    return mpq_fail(ctx, MPQ_E_FORMAT, "%s: --%s is no option of this version", options->checkpoint,
                    name);
}

enum mpq_status mpq_options_restore(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *kept,
                                    struct mpq_options *options)
{
    char *line = mpq_arena_strdup(ctx, arena, kept);
    while (line && *line) {
        char *end = strchr(line, '\n'), *equals = strchr(line, '=');
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

/* ---- help ---- */

#define HELP_COLUMN 6
#define HELP_WIDTH  80

/* Words of `text` from the given column on, wrapped; returns the column after them. */
static int print_wrapped(FILE *file, const char *text, int column)
{
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + n > HELP_WIDTH) {
            fprintf(file, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            fputc(' ', file);
            column++;
        }
        fprintf(file, "%.*s", n, text);
        column += n;
        text += n + (text[n] == ' ');
    }
    return column;
}

void mpq_options_help(FILE *file, unsigned commands)
{
    for (size_t i = 0; i < MPQ_COUNT(table); i++) {
        const struct option_row *row = &table[i];
        if ((row->commands & commands) != commands)
            continue;
        fputs("  ", file);
        if (row->letter)
            fprintf(file, "-%c, ", row->letter);
        fprintf(file, "--%s", row->name);
        if (row->argument)
            fprintf(file, " %s", row->argument);
        fprintf(file, "\n%*s", HELP_COLUMN, "");
        int column = print_wrapped(file, row->help, HELP_COLUMN);
        const char *value = row->note ? row->note : row->argument ? row->initial : NULL;
        if (value) {
            char text[128];
            snprintf(text, sizeof text, "Default: %s.", value);
            print_wrapped(file, text, column);
        }
        fputc('\n', file);
    }
}
