/* The environment every fallible function works in: where errors, warnings and progress go, how
 * many threads may run, the key of all random numbers, and the request to stop. No model data.
 *
 * A function that can fail returns a status and stores one sentence here, both at once, through
 * mpq_fail(). The first failure wins; callers forward the status with MPQ_TRY and never rewrite
 * the sentence. Library code never prints and never exits. */
#ifndef MPQ_BASE_CTX_H
#define MPQ_BASE_CTX_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mpq_status {
    MPQ_OK = 0,
    MPQ_E_USAGE,       /* the caller asked for something that makes no sense   */
    MPQ_E_IO,          /* a file cannot be opened, read, written, renamed      */
    MPQ_E_FORMAT,      /* bytes that are not what they should be               */
    MPQ_E_UNSUPPORTED, /* legal, but not something this program can do         */
    MPQ_E_SHAPE,       /* shapes or element types that do not fit              */
    MPQ_E_LIMIT,       /* larger than base/limits.h allows                     */
    MPQ_E_NOMEM,
    MPQ_E_NUMERIC,    /* NaN or infinity where a number is needed             */
    MPQ_E_INFEASIBLE, /* no allocation meets the budget                       */
    MPQ_E_LINT,       /* a file was looked at and has an error                */
    MPQ_E_CANCELLED   /* the user asked to stop                               */
};

#define MPQ_CHECKED                      __attribute__((warn_unused_result))
#define MPQ_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

enum mpq_log_level { MPQ_LOG_WARNING, MPQ_LOG_INFO, MPQ_LOG_DEBUG };

struct mpq_progress {
    const char *stage;      /* "calibrate", "tune", "search", ...               */
    uint64_t step, n_steps; /* n_steps 0: not known                             */
    double loss;            /* NaN: this stage has none                         */
};

struct mpq_ctx {
    enum mpq_status status; /* of the first failure                             */
    char message[4096];     /* its sentence, no newline; "" while status is OK  */

    int n_threads; /* >= 1 */
    uint64_t seed; /* key of mpq_rng_u64() for everything random in a run       */

    void (*log)(void *arg, enum mpq_log_level level, const char *line); /* may be NULL */
    void (*progress)(void *arg, const struct mpq_progress *progress);   /* may be NULL */
    void *user;                          /* arg of both                              */
    const volatile sig_atomic_t *cancel; /* polled once a step; may be NULL          */
    long allocations_left;               /* < 0: no limit. Tests count down to failure */
    struct mpq_file_kept *kept;          /* files that none may replace: fileio.h      */
};

/* Ready to use: no error, one thread, seed 0, nobody listening, no allocation limit. */
void mpq_ctx_init(struct mpq_ctx *ctx);

/* Store the sentence (printf style, no newline, no program name) unless one is stored already,
 * and return the status to return: the one stored first. */
enum mpq_status mpq_fail(struct mpq_ctx *ctx, enum mpq_status status, const char *format, ...)
    MPQ_PRINTF(3, 4);

/* Put "prefix: " before the stored sentence, once, by the function that owns the file. */
void mpq_fail_prefix(struct mpq_ctx *ctx, const char *prefix);

/* Put more after the stored sentence: what the user can do about it, by whoever knows. */
void mpq_fail_append(struct mpq_ctx *ctx, const char *more);

/* Forget the error, to try something else. */
void mpq_ctx_clear(struct mpq_ctx *ctx);

void mpq_log(struct mpq_ctx *ctx, enum mpq_log_level level, const char *format, ...)
    MPQ_PRINTF(3, 4);

/* Whether the user has asked to stop. */
bool mpq_is_cancelled(const struct mpq_ctx *ctx);

/* Tell the listener; CANCELLED once the user has asked to stop, else OK. */
enum mpq_status mpq_step(struct mpq_ctx *ctx, const char *stage, uint64_t step, uint64_t n_steps,
                         double loss) MPQ_CHECKED;

/* Abort with file, line and expression. For our own mistakes, in every build; never for input. */
_Noreturn void mpq_assert_failed(const char *expression, const char *file, int line);
#define MPQ_ASSERT(e) ((e) ? (void)0 : mpq_assert_failed(#e, __FILE__, __LINE__))

#define MPQ_TRY(e)                                                                                 \
    do {                                                                                           \
        enum mpq_status status_ = (e);                                                             \
        if (status_ != MPQ_OK)                                                                     \
            return status_;                                                                        \
    } while (0)

#define MPQ_COUNT(array) (sizeof(array) / sizeof *(array))

#endif
