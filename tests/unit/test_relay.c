/* Pieces on several lanes: what is in turn comes in order, what is not overlaps, and of several
 * failures the first piece's is told. */
#include "quantcore/base/relay.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "quantcore/base/thread.h"
#include "tests/unit/fixture.h"

enum { N_PIECE = 9, N_STEP = 4, NEVER = N_PIECE };

struct log {
    atomic_int clock;
    int worked[N_PIECE][N_STEP], turned[N_PIECE][N_STEP]; /* when, from 1 */
    int lane[N_PIECE];
    int64_t fails_at_work, fails_in_turn; /* pieces, at step 2 */
};

static enum mpq_status fail_at(struct mpq_ctx *own, int64_t piece)
{
    return mpq_fail(own, MPQ_E_FORMAT, "piece %d", (int)piece);
}

static enum mpq_status work(struct mpq_ctx *own, void *arg, int64_t piece, int lane, uint32_t step)
{
    struct log *log = arg;
    log->worked[piece][step] = atomic_fetch_add(&log->clock, 1) + 1;
    log->lane[piece] = lane;
    return step == 2 && piece == log->fails_at_work ? fail_at(own, piece) : MPQ_OK;
}

static enum mpq_status turn(struct mpq_ctx *own, void *arg, int64_t piece, int lane, uint32_t step)
{
    struct log *log = arg;
    log->lane[piece] = log->lane[piece] == lane ? lane : -1;
    log->turned[piece][step] = atomic_fetch_add(&log->clock, 1) + 1;
    return step == 2 && piece == log->fails_in_turn ? fail_at(own, piece) : MPQ_OK;
}

static struct mpq_relay relay_of(struct log *log, int n_lane, bool is_serial,
                                 const uint32_t *behind)
{
    *log = (struct log){.fails_at_work = NEVER, .fails_in_turn = NEVER};
    return (struct mpq_relay){.n = N_PIECE,
                              .n_lane = n_lane,
                              .is_serial = is_serial,
                              .n_step = N_STEP,
                              .behind = behind,
                              .work = work,
                              .turn = turn,
                              .arg = log};
}

static void check_order(const struct log *log, int n_lane, const uint32_t *behind)
{
    for (int i = 0; i < N_PIECE; i++) {
        assert_int_equal(log->lane[i], i % n_lane);
        for (int s = 0; s < N_STEP; s++) {
            assert_true(log->worked[i][s] > 0 && log->turned[i][s] > log->worked[i][s]);
            if (s > 0)
                assert_true(log->worked[i][s] > log->turned[i][s - 1]);
            if (i > 0)
                assert_true(log->turned[i][s] >
                            log->turned[i - 1][behind ? behind[s] : (uint32_t)s]);
        }
    }
    assert_int_equal(log->clock, 2 * N_PIECE * N_STEP);
}

static void turns_come_in_order(void **state)
{
    static const uint32_t joined[N_STEP] = {0, 3, 2, 3};
    struct log log;
    (void)state;
    mpq_thread_set_count(4);
    for (int repeat = 0; repeat < 50; repeat++)
        for (int n_lane = 1; n_lane <= 4; n_lane++)
            for (int i = 0; i < 4; i++) {
                const uint32_t *behind = i & 1 ? joined : NULL;
                struct mpq_relay relay = relay_of(&log, n_lane, i & 2, behind);
                CHECK_OK(&ctx, mpq_relay_run(&ctx, &relay));
                check_order(&log, n_lane, behind);
            }
    mpq_thread_set_count(1);
}

/* The first piece is at step 1 when the second begins: who waited for whole pieces would do so for
 * ever. */
static enum mpq_status meet(struct mpq_ctx *own, void *arg, int64_t piece, int lane, uint32_t step)
{
    atomic_int *has_begun = arg;
    time_t begin = time(NULL);
    (void)lane;
    if (piece == 1)
        atomic_store(has_begun, 1);
    while (piece == 0 && step == 1 && !atomic_load(has_begun))
        if (time(NULL) > begin + 20)
            return mpq_fail(own, MPQ_E_NUMERIC, "nobody came");
    return MPQ_OK;
}

static enum mpq_status do_nothing(struct mpq_ctx *own, void *arg, int64_t piece, int lane,
                                  uint32_t step)
{
    (void)own, (void)arg, (void)piece, (void)lane, (void)step;
    return MPQ_OK;
}

static void lanes_overlap(void **state)
{
    atomic_int has_begun = 0;
    (void)state;
    mpq_thread_set_count(2);
    CHECK_OK(&ctx, mpq_relay_run(&ctx, &(struct mpq_relay){.n = 2,
                                                           .n_lane = 2,
                                                           .n_step = 2,
                                                           .work = meet,
                                                           .turn = do_nothing,
                                                           .arg = &has_begun}));
    mpq_thread_set_count(1);
}

static void the_first_failure_is_told(void **state)
{
    struct log log;
    (void)state;
    mpq_thread_set_count(4);
    for (int repeat = 0; repeat < 50; repeat++)
        for (int n_lane = 1; n_lane <= 4; n_lane++) {
            struct mpq_relay relay = relay_of(&log, n_lane, false, NULL);
            log.fails_in_turn = 3; /* is told, though piece 4 may have failed before */
            log.fails_at_work = 4;
            CHECK_FAILS(&ctx, mpq_relay_run(&ctx, &relay), MPQ_E_FORMAT, "piece 3");
            assert_true(log.turned[2][N_STEP - 1] > 0); /* those before it go on to their end */
            assert_int_equal(log.turned[4][2], 0);
        }
    mpq_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(turns_come_in_order),
        TEST(lanes_overlap),
        TEST(the_first_failure_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
