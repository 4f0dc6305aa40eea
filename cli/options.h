/* The command line: one table of options, from which parsing, defaults, --help and the report's
 * echo are made. To add an option, add a row to option_table.c and a field here. */
#ifndef MPQ_CLI_OPTIONS_H
#define MPQ_CLI_OPTIONS_H

#include <stdio.h>

#include "calibration/preprocess.h"
#include "exporter/export.h"

/* Which commands an option belongs to: an OR of these. */
enum mpq_command_bit {
    MPQ_COMMAND_CONVERT = 1,
    MPQ_COMMAND_EVAL = 2,
    MPQ_COMMAND_INSPECT = 4,
    MPQ_COMMAND_SEARCH = 8,
    MPQ_COMMAND_APPLY = 16,
    MPQ_COMMAND_LINT = 32,
    MPQ_COMMAND_ANY = 63
};

/* What other tools do: one width for all layers, not tuned. */
enum mpq_baseline {
    MPQ_BASELINE_none,
    MPQ_BASELINE_rtn, /* integers to the nearest, ranges of weights and activations min-max   */
    MPQ_BASELINE_mse, /* integers to the nearest, ranges of least squared error, bias correction */
    MPQ_BASELINE_rounded /* the same with second-order rounding                                  */
};

enum mpq_effort { MPQ_EFFORT_NONE, MPQ_EFFORT_QUICK, MPQ_EFFORT_DEFAULT, MPQ_EFFORT_THOROUGH };

/* A file size: a share of the float file, or bytes. */
struct mpq_size {
    double share;   /* 0 < share <= 1; 0: bytes count */
    uint64_t bytes; /* > 0 where share is 0           */
};

/* BitOPs: a number, a share of those at 8-bit weights and activations, or those of one width each
 * for all weights and activations. */
struct mpq_bitops {
    double number, share;             /* > 0; else 0 */
    int weight_bits, activation_bits; /* > 0; else 0; none of them: no limit */
};

/* Several, as they were typed. */
#define MPQ_MAX_SIZES 64
struct mpq_sizes {
    uint32_t n;
    struct mpq_labelled_size {
        struct mpq_size size;
        char label[24]; /* for file names: "12.5pct", "150kB" */
    } of[MPQ_MAX_SIZES];
};

#define MPQ_MAX_OPTIONS 64

/* Everything typed, defaults filled in. Strings are the command line's or live in the arena;
 * NULL: not given and no default. Options of other commands keep their defaults. */
struct mpq_options {
    const char *model;
    const char *plan; /* second argument of apply */
    bool is_resumed;  /* `checkpoint` is where a command begins, not where it ends */

    const char *output, *report; /* convert: never NULL; MODEL.mpq.onnx beside the model, and the
                                    output's name with .csv                                */
    const char *data, *eval, *labels, *checkpoint;
    const char *reference, *outputs; /* of eval */

    const char *input_shape, *input_value; /* of all commands */

    /* Limits; where none is given, 20 % of the size, unless there is one width alone. */
    struct mpq_size size; /* neither share nor bytes: no limit    */
    double avg_bits;      /* of the weights; 0: no limit          */
    struct mpq_bitops bitops;
    double max_drop;    /* points of top-1; 0: no limit */
    double max_latency; /* seconds; 0: no limit, else `latency` is given */
    const char *latency;
    struct mpq_sizes sizes; /* of search            */
    int64_t pareto;         /* of search; 0: none   */
    const char *exclude, *lock;

    bool bits[MPQ_N_BITS], act_bits[MPQ_N_BITS]; /* candidate widths of weights and of activations,
                                                    at least one each within 2..8              */
    double float_macs;                           /* share of the multiplications, 0..1    */
    int baseline;                                /* enum mpq_baseline                          */
    int recipe;                                  /* see recipe.h                               */
    int effort;                                  /* enum mpq_effort                            */
    int names;                                   /* enum mpq_names                             */
    int64_t steps;                               /* -1: as the effort says                     */
    uint64_t seed;
    uint64_t max_memory; /* bytes of the process; 0: no limit                         */
    int64_t threads;     /* >= 1                                             */
    const struct mpq_target *target;
    const struct mpq_target *reader; /* of lint; NULL: anyone                            */
    bool overwrite, no_freeze, no_align, no_augment, no_refine, no_round, no_codebook, no_equalize,
        weights_only, saturation_safe;

    size_t message_limit; /* no option: tests set it, for what happens beyond 2 GiB; 0: as it is */

    struct mpq_preprocess preprocess; /* the preset with its overrides applied */

    bool quiet, verbose, help;

    /* As typed; `preprocess` is made of them. */
    struct mpq_preprocess_options {
        int preset;
        struct mpq_per_channel {
            int n; /* 0: not given; 1: the same for all */
            double value[4];
        } mean, std;
        double scale;         /* 0: not given  */
        int64_t resize, crop; /* -1: not given */
        int channel_order;    /* 0 rgb, 1 bgr  */
    } typed;

    /* Row i's value as it could be typed again; NULL: not given and no default, or not an option
     * of this command. */
    const char *text[MPQ_MAX_OPTIONS];
    bool is_given[MPQ_MAX_OPTIONS]; /* typed, not a default */
};

/* Parse the arguments after the command's name. USAGE with one sentence; with --help nothing else
 * is checked. */
enum mpq_status mpq_options_parse(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  enum mpq_command_bit command, const char *command_name, int argc,
                                  char *const *argv, struct mpq_options *out) MPQ_CHECKED;

/* What of the options made the tuned state: the model and each that was given, a line `name=value`
 * each, which a line goes on that begins with a tab. NULL without memory. */
char *mpq_options_kept(struct mpq_ctx *ctx, struct mpq_arena *arena,
                       const struct mpq_options *options);

/* Of a command whose argument is a checkpoint: take the options that were kept in it and are not
 * given now, the model among them, and name the outputs. FORMAT where the text is not such lines.
 */
enum mpq_status mpq_options_restore(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *kept,
                                    struct mpq_options *options) MPQ_CHECKED;

/* Whether the tuned state is there: `checkpoint` is read, and not written. */
bool mpq_options_resume(const struct mpq_options *options);

/* `path` with "." and `label` put before its .onnx, or at its end; NULL without memory. */
char *mpq_path_labelled(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path,
                        const char *label);

/* `path` with .csv in place of its .onnx, or at its end; NULL without memory. */
char *mpq_path_csv(struct mpq_ctx *ctx, struct mpq_arena *arena, const char *path);

/* The options that all these commands have, with their defaults, wrapped to 80 columns. */
void mpq_options_help(FILE *file, unsigned commands);

/* Rows of the table, to go with options->text: "size", "effort", ... */
size_t mpq_option_count(void);
const char *mpq_option_name(size_t i);

/* The budget in bytes for a float file of that size, at least 1; there is one. */
uint64_t mpq_size_bytes(const struct mpq_size *size, uint64_t float_bytes);

/* `word` from n words that is nearest to what was typed, or NULL if none is near. */
const char *mpq_suggest(const char *typed, const char *const *word, size_t n);

#endif
