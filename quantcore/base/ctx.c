#include "quantcore/base/ctx.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mpq_ctx_init(struct mpq_ctx *ctx)
{
    *ctx = (struct mpq_ctx){.n_threads = 1, .allocations_left = -1};
}

void mpq_ctx_clear(struct mpq_ctx *ctx)
{
    ctx->status = MPQ_OK;
    ctx->message[0] = '\0';
}

enum mpq_status mpq_fail(struct mpq_ctx *ctx, enum mpq_status status, const char *format, ...)
{
    MPQ_ASSERT(status != MPQ_OK);
    if (ctx->status != MPQ_OK)
        return ctx->status;
    ctx->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(ctx->message, sizeof ctx->message, format, args);
    va_end(args);
    return status;
}

void mpq_fail_prefix(struct mpq_ctx *ctx, const char *prefix)
{
    size_t n = strlen(prefix), size = sizeof ctx->message;
    if (n + 2 >= size)
        return;
    memmove(ctx->message + n + 2, ctx->message, size - n - 2);
    memcpy(ctx->message, prefix, n);
    memcpy(ctx->message + n, ": ", 2);
    ctx->message[size - 1] = '\0';
}

void mpq_fail_append(struct mpq_ctx *ctx, const char *more)
{
    size_t used = strlen(ctx->message);
    snprintf(ctx->message + used, sizeof ctx->message - used, "%s", more);
}

void mpq_log(struct mpq_ctx *ctx, enum mpq_log_level level, const char *format, ...)
{
    if (!ctx->log)
        return;
    char line[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->log(ctx->user, level, line);
}

bool mpq_is_cancelled(const struct mpq_ctx *ctx)
{
    return ctx->cancel && *ctx->cancel;
}

enum mpq_status mpq_step(struct mpq_ctx *ctx, const char *stage, uint64_t step, uint64_t n_steps,
                         double loss)
{
    if (mpq_is_cancelled(ctx))
        return mpq_fail(ctx, MPQ_E_CANCELLED, "interrupted during %s", stage);
    if (ctx->progress)
        ctx->progress(ctx->user, &(struct mpq_progress){stage, step, n_steps, loss});
    return MPQ_OK;
}

_Noreturn void mpq_assert_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "onnx-mpq: internal error, %s:%d: %s\n", file, line, expression);
    abort();
}
