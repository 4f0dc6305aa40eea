/* Around every TEST of the file that includes this: a ctx and an arena of its own. */
#ifndef MPQ_TESTS_UNIT_FIXTURE_H
#define MPQ_TESTS_UNIT_FIXTURE_H

#include "quantcore/base/arena.h"
#include "tests/check.h"

static struct mpq_ctx ctx;
static struct mpq_arena *arena;

static int set_up(void **state)
{
    (void)state;
    mpq_ctx_init(&ctx);
    arena = mpq_arena_create(&ctx);
    return arena ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    mpq_arena_free(arena);
    return 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

#endif
