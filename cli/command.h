/* A command of the tool: one file cmd_<name>.c, one row of the table in command.c. */
#ifndef MPQ_CLI_COMMAND_H
#define MPQ_CLI_COMMAND_H

#include "cli/options.h"

/* Results go to stdout or to named files; the sentence of a failure stays in ctx for main to print.
 * `arena` lives as long as the process. */
typedef enum mpq_status mpq_command_fn(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_options *options);

mpq_command_fn mpq_cmd_convert, mpq_cmd_search, mpq_cmd_apply, mpq_cmd_eval, mpq_cmd_inspect,
    mpq_cmd_lint;

/* onnx-mpq ARGUMENTS: parses, runs, prints the error if any; the exit code. */
int mpq_main(int argc, char *const *argv);

#endif
