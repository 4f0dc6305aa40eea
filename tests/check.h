/* On top of cmocka: comparisons that name what differs. NaN is never near anything. */
#ifndef MPQ_TESTS_CHECK_H
#define MPQ_TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define CHECK_NEAR(got, want, rtol, atol)                                                          \
    do {                                                                                           \
        double got_ = (double)(got), want_ = (double)(want);                                       \
        if (!(fabs(got_ - want_) <= (atol) + (rtol)*fabs(want_)))                                  \
            fail_msg("%s = %.9g, expected %.9g (%s)", #got, got_, want_, #want);                   \
    } while (0)

/* The call succeeds; prints the sentence where it does not. */
#define CHECK_OK(ctx, call)                                                                        \
    do {                                                                                           \
        if ((call) != MPQ_OK)                                                                      \
            fail_msg("%s: %s", #call, (ctx)->message);                                             \
    } while (0)

/* The call fails with that status and a sentence that contains `part`; the error is cleared. */
#define CHECK_FAILS(ctx, call, expected, part)                                                     \
    do {                                                                                           \
        assert_int_equal((call), (expected));                                                      \
        if (!strstr((ctx)->message, (part)))                                                       \
            fail_msg("\"%s\" does not say \"%s\"", (ctx)->message, (part));                        \
        mpq_ctx_clear(ctx);                                                                        \
    } while (0)

#endif
