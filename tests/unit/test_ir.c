#include <string.h>

#include "quantcore/ir/dtype.h"
#include "tests/check.h"

static void dtype_table(void **state)
{
    (void)state;
    assert_int_equal(mpq_dtype_bits(MPQ_INT4), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtype_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
