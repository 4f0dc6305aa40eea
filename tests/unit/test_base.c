/* Errors, arenas, string maps, threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/room.h"
#include "quantcore/base/strmap.h"
#include "quantcore/base/thread.h"
#include "tests/unit/fixture.h"

/* ---- ctx ---- */

static void first_failure_wins(void **state)
{
    (void)state;
    assert_int_equal(mpq_fail(&ctx, MPQ_E_IO, "file %d", 1), MPQ_E_IO);
    assert_int_equal(mpq_fail(&ctx, MPQ_E_SHAPE, "later"), MPQ_E_IO);
    assert_int_equal(ctx.status, MPQ_E_IO);
    assert_string_equal(ctx.message, "file 1");
    mpq_ctx_clear(&ctx);
    assert_int_equal(ctx.status, MPQ_OK);
    assert_string_equal(ctx.message, "");
    assert_int_equal(mpq_fail(&ctx, MPQ_E_SHAPE, "later"), MPQ_E_SHAPE);
}

static void prefix_comes_before_the_sentence(void **state)
{
    (void)state;
    mpq_fail(&ctx, MPQ_E_FORMAT, "ends early");
    mpq_fail_prefix(&ctx, "model.onnx");
    assert_string_equal(ctx.message, "model.onnx: ends early");
}

static void long_sentences_are_cut_not_overrun(void **state)
{
    (void)state;
    char *text = malloc(2 * sizeof ctx.message);
    assert_non_null(text);
    memset(text, 'x', 2 * sizeof ctx.message);
    text[2 * sizeof ctx.message - 1] = '\0';
    mpq_fail(&ctx, MPQ_E_FORMAT, "%s", text);
    assert_int_equal(strlen(ctx.message), sizeof ctx.message - 1);
    mpq_fail_prefix(&ctx, "p");
    assert_int_equal(strlen(ctx.message), sizeof ctx.message - 1);
    assert_memory_equal(ctx.message, "p: xxx", 6);
    mpq_fail_prefix(&ctx, text); /* no room for it: the sentence stays */
    assert_memory_equal(ctx.message, "p: xxx", 6);
    free(text);
}

struct heard {
    char line[64];
    enum mpq_log_level level;
    struct mpq_progress progress;
};

static void hear_log(void *user, enum mpq_log_level level, const char *line)
{
    struct heard *heard = user;
    heard->level = level;
    snprintf(heard->line, sizeof heard->line, "%s", line);
}

static void hear_progress(void *user, const struct mpq_progress *progress)
{
    ((struct heard *)user)->progress = *progress;
}

static void listeners_hear_and_cancel_stops(void **state)
{
    (void)state;
    CHECK_OK(&ctx, mpq_step(&ctx, "tune", 1, 2, 0.5)); /* nobody listens */
    mpq_log(&ctx, MPQ_LOG_INFO, "nobody");

    struct heard heard = {0};
    volatile sig_atomic_t cancel = 0;
    ctx.user = &heard;
    ctx.log = hear_log;
    ctx.progress = hear_progress;
    ctx.cancel = &cancel;
    mpq_log(&ctx, MPQ_LOG_DEBUG, "%d layers", 7);
    assert_string_equal(heard.line, "7 layers");
    assert_int_equal(heard.level, MPQ_LOG_DEBUG);
    CHECK_OK(&ctx, mpq_step(&ctx, "tune", 1, 2, 0.5));
    assert_string_equal(heard.progress.stage, "tune");
    assert_int_equal(heard.progress.step, 1);
    assert_int_equal(heard.progress.n_steps, 2);
    cancel = 1;
    CHECK_FAILS(&ctx, mpq_step(&ctx, "tune", 2, 2, 0.5), MPQ_E_CANCELLED, "tune");
    assert_int_equal(heard.progress.step, 1);
}

/* ---- arena ---- */

static void memory_is_zero_and_aligned(void **state)
{
    (void)state;
    static const size_t size[] = {1, 3, 16, 63, 64, 65, 1000, 4095, 4096, 5000, 70000, 1 << 20};
    static const unsigned char zero[1 << 20];
    for (int round = 0; round < 3; round++) {
        for (size_t repeat = 0; repeat < 50; repeat++)
            for (size_t i = 0; i < MPQ_COUNT(size); i++) {
                if (size[i] > 70000 && repeat)
                    continue;
                void *p = mpq_arena_alloc(&ctx, arena, 1, size[i]);
                assert_non_null(p);
                assert_int_equal((uintptr_t)p % (size[i] >= 64 ? 64 : 16), 0);
                assert_memory_equal(p, zero, size[i]);
                memset(p, 0xff, size[i]); /* what the next round must not see */
            }
        mpq_arena_reset(arena);
        assert_int_equal(mpq_arena_bytes(arena), 0);
    }
}

static void objects_do_not_overlap(void **state)
{
    (void)state;
    enum { N = 5000 };
    unsigned char *p[N];
    size_t bytes = 0;
    for (size_t i = 0; i < N; i++) {
        size_t n = 1 + i * 37 % 301;
        p[i] = mpq_arena_alloc(&ctx, arena, n, 1);
        assert_non_null(p[i]);
        memset(p[i], (int)(i & 0xff), n);
        bytes += n;
    }
    assert_int_equal(mpq_arena_bytes(arena), bytes);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < 1 + i * 37 % 301; k++)
            assert_int_equal(p[i][k], i & 0xff);
}

static void nothing_is_a_pointer_too(void **state)
{
    (void)state;
    assert_non_null(mpq_arena_alloc(&ctx, arena, 0, 8));
    assert_non_null(mpq_arena_alloc(&ctx, arena, 8, 0));
    assert_non_null(mpq_arena_copy(&ctx, arena, NULL, 0));
    assert_non_null(mpq_arena_grow(&ctx, arena, NULL, 0, 4, 8));
    mpq_arena_free(NULL);
}

static void too_much_is_a_status(void **state)
{
    (void)state;
    assert_null(mpq_arena_alloc(&ctx, arena, SIZE_MAX / 2, 3));
    assert_int_equal(ctx.status, MPQ_E_NOMEM);
    mpq_ctx_clear(&ctx);
    assert_null(mpq_arena_alloc(&ctx, arena, SIZE_MAX / 2, 1));
    assert_int_equal(ctx.status, MPQ_E_NOMEM);
    mpq_ctx_clear(&ctx);
    assert_non_null(mpq_arena_alloc(&ctx, arena, 1, 1));
}

static void allocation_fails_on_demand(void **state)
{
    (void)state;
    ctx.allocations_left = 2;
    assert_non_null(mpq_arena_alloc(&ctx, arena, 1, 8));
    assert_non_null(mpq_arena_strdup(&ctx, arena, "two"));
    assert_null(mpq_arena_alloc(&ctx, arena, 1, 8));
    assert_int_equal(ctx.status, MPQ_E_NOMEM);
    assert_null(mpq_arena_printf(&ctx, arena, "%d", 4));
    assert_int_equal(mpq_arena_defer(&ctx, arena, free, NULL), MPQ_E_NOMEM);
}

static void copies_hold_what_was_given(void **state)
{
    (void)state;
    static const int32_t odd[] = {1, 3, 5};
    assert_memory_equal(mpq_arena_copy(&ctx, arena, odd, sizeof odd), odd, sizeof odd);
    assert_string_equal(mpq_arena_strdup(&ctx, arena, "name"), "name");
    assert_string_equal(mpq_arena_printf(&ctx, arena, "%s_%d", "name", 12), "name_12");
    static const int32_t grown[] = {1, 3, 5, 0, 0};
    assert_memory_equal(mpq_arena_grow(&ctx, arena, odd, 3, 5, sizeof *odd), grown, sizeof grown);
}

static char order[4];

static void note(void *object)
{
    strncat(order, object, 1);
}

static void deferred_calls_run_newest_first_and_once(void **state)
{
    (void)state;
    order[0] = '\0';
    CHECK_OK(&ctx, mpq_arena_defer(&ctx, arena, note, "a"));
    CHECK_OK(&ctx, mpq_arena_defer(&ctx, arena, note, "b"));
    mpq_arena_reset(arena);
    assert_string_equal(order, "ba");
    CHECK_OK(&ctx, mpq_arena_defer(&ctx, arena, note, "c"));
    mpq_arena_free(arena);
    assert_string_equal(order, "bac");
    arena = NULL;
}

/* ---- room ---- */

/* Whatever size follows whatever other, all of it can be written. */
static void rooms_hold_one_thing_after_another(void **state)
{
    (void)state;
    static const size_t size[] = {0, 1, 100000, 50 << 20, 50 << 20, 3 << 20, 8, 70 << 20};
    struct mpq_room *room;
    CHECK_OK(&ctx, mpq_room_create(&ctx, arena, &room));
    mpq_room_clear(room);
    mpq_room_clear(NULL);
    for (size_t i = 0; i < MPQ_COUNT(size); i++) {
        unsigned char *block = mpq_room_take(&ctx, room, size[i]);
        assert_non_null(block);
        memset(block, 1, size[i]);
    }
    mpq_room_clear(room);
    assert_non_null(mpq_room_take(&ctx, room, 1000));
}

static void rooms_fail_like_arenas(void **state)
{
    (void)state;
    struct mpq_room *room;
    ctx.allocations_left = 1;
    assert_int_equal(mpq_room_create(&ctx, arena, &room), MPQ_E_NOMEM);
    mpq_ctx_clear(&ctx);
    ctx.allocations_left = 3;
    CHECK_OK(&ctx, mpq_room_create(&ctx, arena, &room));
    unsigned char *block = mpq_room_take(&ctx, room, 8);
    assert_non_null(block);
    assert_null(mpq_room_take(&ctx, room, 16));
    assert_int_equal(ctx.status, MPQ_E_NOMEM);
    assert_ptr_equal(mpq_room_take(&ctx, room, 8), block); /* as it was */
}

/* ---- strmap ---- */

static void strmap_finds_what_was_added(void **state)
{
    (void)state;
    struct mpq_strmap map = {0};
    assert_int_equal(mpq_strmap_get(&map, "absent"), MPQ_STRMAP_NONE);
    for (uint32_t i = 0; i < 3000; i++) {
        char *key = mpq_arena_printf(&ctx, arena, "layer.%u", i);
        uint32_t index;
        CHECK_OK(&ctx, mpq_strmap_add(&ctx, arena, &map, key, i * 2, &index));
        assert_int_equal(index, i * 2);
    }
    assert_int_equal(map.n, 3000);
    for (uint32_t i = 0; i < 3000; i++)
        assert_int_equal(mpq_strmap_get(&map, mpq_arena_printf(&ctx, arena, "layer.%u", i)), i * 2);
    assert_int_equal(mpq_strmap_get(&map, "layer.3000"), MPQ_STRMAP_NONE);
    assert_int_equal(mpq_strmap_get(&map, ""), MPQ_STRMAP_NONE);
}

static void strmap_keeps_the_first_index(void **state)
{
    (void)state;
    struct mpq_strmap map = {0};
    uint32_t index;
    CHECK_OK(&ctx, mpq_strmap_add(&ctx, arena, &map, "x", 5, NULL));
    CHECK_OK(&ctx, mpq_strmap_add(&ctx, arena, &map, "x", 6, &index));
    assert_int_equal(index, 5);
    assert_int_equal(map.n, 1);
    mpq_strmap_set(&map, "x", 7);
    assert_int_equal(mpq_strmap_get(&map, "x"), 7);
}

static void strmap_survives_a_failed_growth(void **state)
{
    (void)state;
    struct mpq_strmap map = {0};
    static const char letter[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    char key[32][2] = {{0}};
    for (uint32_t i = 0; i < 32; i++) {
        key[i][0] = letter[i];
        CHECK_OK(&ctx, mpq_strmap_add(&ctx, arena, &map, key[i], i, NULL));
    }
    ctx.allocations_left = 0;
    assert_int_equal(mpq_strmap_add(&ctx, arena, &map, "one more", 32, NULL), MPQ_E_NOMEM);
    for (uint32_t i = 0; i < 32; i++)
        assert_int_equal(mpq_strmap_get(&map, key[i]), i);
}

/* ---- thread ---- */

enum { N_MAX = 1001 };

struct cover {
    unsigned char visits[N_MAX];
    int64_t begin[64], end[64]; /* of the piece each thread got */
};

static void visit(void *arg, int64_t begin, int64_t end, int thread)
{
    struct cover *cover = arg;
    cover->begin[thread] = begin;
    cover->end[thread] = end;
    for (int64_t i = begin; i < end; i++)
        cover->visits[i]++;
}

static void every_index_is_visited_once(void **state)
{
    (void)state;
    static const int64_t n[] = {0, 1, 2, 3, 7, 64, 97, N_MAX}, grain[] = {1, 2, 10, 5000};
    for (int threads = 1; threads <= 5; threads++)
        for (size_t i = 0; i < MPQ_COUNT(n); i++)
            for (size_t g = 0; g < MPQ_COUNT(grain); g++) {
                struct cover cover = {{0}, {0}, {0}};
                mpq_thread_set_count(threads);
                assert_int_equal(mpq_thread_count(), threads);
                mpq_parallel_for(n[i], grain[g], visit, &cover);
                for (int64_t k = 0; k < N_MAX; k++)
                    assert_int_equal(cover.visits[k], k < n[i]);
                for (int t = 0; t < threads; t++)
                    if (n[i] >= grain[g] && cover.end[t] > cover.begin[t])
                        assert_true(cover.end[t] - cover.begin[t] >= grain[g]);
            }
    mpq_thread_set_count(1);
    assert_true(mpq_thread_available() >= 1);
}

static void pieces_go_to_who_has_least(void **state)
{
    (void)state;
    static const double cost[] = {5, 1, 1, 2, 9, 1};
    static const int want[] = {0, 1, 2, 1, 2, 1};
    double load[3] = {0};
    mpq_thread_set_count(3);
    for (size_t i = 0; i < MPQ_COUNT(cost); i++)
        assert_int_equal(mpq_thread_least(load, cost[i]), want[i]);
    CHECK_NEAR(load[0], 5, 0, 0);
    CHECK_NEAR(load[1], 4, 0, 0);
    CHECK_NEAR(load[2], 10, 0, 0);
    mpq_thread_set_count(1);
}

static void costly_pieces_are_dealt_first(void **state)
{
    (void)state;
    static const double cost[] = {1, 2, 9, 0, 5, 5};
    static const int want[] = {2, 1, 0, 2, 1, 2};
    double load[3] = {0};
    int owner[MPQ_COUNT(cost)];
    mpq_thread_set_count(3);
    mpq_thread_deal(MPQ_COUNT(cost), cost, load, owner);
    for (size_t i = 0; i < MPQ_COUNT(cost); i++)
        assert_int_equal(owner[i], want[i]);
    CHECK_NEAR(load[0], 9, 0, 0);
    CHECK_NEAR(load[1], 7, 0, 0);
    CHECK_NEAR(load[2], 6, 0, 0);
    mpq_thread_set_count(1);
}

static void visit_nested(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    struct cover *cover = arg;
    for (int64_t i = begin; i < end; i++)
        mpq_parallel_for(1, 1, visit, &cover[i]);
}

static void nested_calls_run_serially(void **state)
{
    (void)state;
    static struct cover cover[9];
    mpq_thread_set_count(3);
    mpq_parallel_for(9, 1, visit_nested, cover);
    for (size_t i = 0; i < 9; i++) {
        assert_int_equal(cover[i].visits[0], 1);
        assert_int_equal(cover[i].end[0], 1);
    }
    mpq_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(first_failure_wins),
        TEST(prefix_comes_before_the_sentence),
        TEST(long_sentences_are_cut_not_overrun),
        TEST(listeners_hear_and_cancel_stops),
        TEST(memory_is_zero_and_aligned),
        TEST(objects_do_not_overlap),
        TEST(nothing_is_a_pointer_too),
        TEST(too_much_is_a_status),
        TEST(allocation_fails_on_demand),
        TEST(copies_hold_what_was_given),
        TEST(deferred_calls_run_newest_first_and_once),
        TEST(rooms_hold_one_thing_after_another),
        TEST(rooms_fail_like_arenas),
        TEST(strmap_finds_what_was_added),
        TEST(strmap_keeps_the_first_index),
        TEST(strmap_survives_a_failed_growth),
        TEST(every_index_is_visited_once),
        TEST(pieces_go_to_who_has_least),
        TEST(costly_pieces_are_dealt_first),
        TEST(nested_calls_run_serially),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
