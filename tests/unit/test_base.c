#include <string.h>

#include "quantcore/base/ctx.h"
#include "tests/check.h"

static void first_failure_wins(void **state)
{
    (void)state;
    struct mpq_ctx ctx;
    mpq_ctx_init(&ctx);
    assert_int_equal(mpq_fail(&ctx, MPQ_E_IO, "file %d", 1), MPQ_E_IO);
    assert_int_equal(mpq_fail(&ctx, MPQ_E_SHAPE, "later"), MPQ_E_IO);
    assert_string_equal(ctx.message, "file 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_failure_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
