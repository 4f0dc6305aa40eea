/* What a user watching stderr sees: one redrawn line of progress, warnings, and with -v more. */
#ifndef MPQ_CLI_PROGRESS_H
#define MPQ_CLI_PROGRESS_H

#include <stdio.h>

#include "quantcore/base/ctx.h"

struct mpq_terminal {
    FILE *file;
    bool draws, quiet, verbose; /* draws: file is a terminal and we may redraw a line */
    bool is_drawn;              /* a progress line stands there now                   */
    char stage[32];
    double stage_start_s, last_draw_s;
    uint64_t first_step; /* of this stage, for the time left */
};

/* Listen to ctx's log and progress. `terminal` must outlive ctx's use; `file` is stderr, or a file
 * in tests. Draws only where it is a terminal and not quiet. */
void mpq_terminal_attach(struct mpq_terminal *terminal, FILE *file, bool quiet, bool verbose,
                         struct mpq_ctx *ctx);

/* Erase the progress line, if there is one. */
void mpq_terminal_clear(struct mpq_terminal *terminal);

/* The same for the terminal that listens to ctx, if one does: before results are printed, which
 * may go to the same screen. */
void mpq_progress_clear(struct mpq_ctx *ctx);

/* "step/n  loss 0.123  1:05 left" after the stage's name, into buffer. `elapsed_s` is the time the
 * steps since first_step took. Separate from drawing so that it can be tested. */
void mpq_progress_print(const struct mpq_progress *progress, uint64_t first_step, double elapsed_s,
                        char *buffer, size_t bytes);

#endif
