#include "cli/progress.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "cli/stopwatch.h"

#define REDRAW_S  0.1
#define MAX_WIDTH 79 /* a wrapped line could not be erased */

void mpq_progress_print(const struct mpq_progress *progress, uint64_t first_step, double elapsed_s,
                        char *buffer, size_t bytes)
{
    char steps[48] = "", loss[32] = "", left[32] = "";
    if (progress->n_steps)
        snprintf(steps, sizeof steps, " %" PRIu64 "/%" PRIu64, progress->step, progress->n_steps);
    else if (progress->step)
        snprintf(steps, sizeof steps, " %" PRIu64, progress->step);
    if (!isnan(progress->loss))
        snprintf(loss, sizeof loss, "  loss %.4g", progress->loss);
    if (progress->step > first_step && progress->n_steps >= progress->step && elapsed_s >= 1) {
        double per_step = elapsed_s / (double)(progress->step - first_step);
        double seconds = ceil(per_step * (double)(progress->n_steps - progress->step));
        if (seconds < 360000)
            snprintf(left, sizeof left, "  %d:%02d left", (int)seconds / 60, (int)seconds % 60);
    }
    snprintf(buffer, bytes, "%s%s%s%s", progress->stage, steps, loss, left);
}

static void draw(void *user, const struct mpq_progress *progress)
{
    struct mpq_terminal *terminal = user;
    if (!terminal->draws)
        return;
    double now = mpq_seconds();
    if (strncmp(terminal->stage, progress->stage, sizeof terminal->stage - 1) != 0) {
        snprintf(terminal->stage, sizeof terminal->stage, "%s", progress->stage);
        terminal->stage_start_s = now;
        terminal->first_step = progress->step;
    } else if (now - terminal->last_draw_s < REDRAW_S) {
        return;
    }
    char line[MAX_WIDTH + 1];
    mpq_progress_print(progress, terminal->first_step, now - terminal->stage_start_s, line,
                       sizeof line);
    fprintf(terminal->file, "\r\033[K%s", line);
    fflush(terminal->file);
    terminal->is_drawn = true;
    terminal->last_draw_s = now;
}

void mpq_terminal_clear(struct mpq_terminal *terminal)
{
    if (terminal->is_drawn) {
        fputs("\r\033[K", terminal->file);
        fflush(terminal->file);
    }
    terminal->is_drawn = false;
}

void mpq_progress_clear(struct mpq_ctx *ctx)
{
    if (ctx->progress == draw)
        mpq_terminal_clear(ctx->user);
}

static void log_line(void *user, enum mpq_log_level level, const char *line)
{
    struct mpq_terminal *terminal = user;
    if (terminal->quiet || (level != MPQ_LOG_WARNING && !terminal->verbose))
        return;
    mpq_terminal_clear(terminal);
    fprintf(terminal->file, "onnx-mpq: %s%s\n", level == MPQ_LOG_WARNING ? "warning: " : "", line);
    terminal->last_draw_s = 0; /* the line comes back at the next step */
}

void mpq_terminal_attach(struct mpq_terminal *terminal, FILE *file, bool quiet, bool verbose,
                         struct mpq_ctx *ctx)
{
    *terminal = (struct mpq_terminal){.file = file, .quiet = quiet, .verbose = verbose};
    terminal->draws = !quiet && isatty(fileno(file));
    ctx->log = log_line;
    ctx->progress = draw;
    ctx->user = terminal;
}
