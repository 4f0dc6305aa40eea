/* Work on several threads that goes on from step to step, where what comes of it is put together in
 * one order whatever the threads are: two may work at different steps at once, and none waits for
 * another but where it would overtake it. */
#ifndef MPQ_BASE_RELAY_H
#define MPQ_BASE_RELAY_H

#include "quantcore/base/ctx.h"

/* Something to be done at a step of piece `piece`, on lane `lane`. */
typedef enum mpq_status mpq_relay_fn(struct mpq_ctx *ctx, void *arg, int64_t piece, int lane,
                                     uint32_t step);

struct mpq_relay {
    int64_t n;  /* pieces; those of one lane, lane, lane + n_lane, ..., come one after the other */
    int n_lane; /* >= 1, no more than there are threads: each on one of its own, */
    bool is_serial; /* or all on the caller's, piece by piece */
    uint32_t n_step;
    const uint32_t *behind; /* [n_step] >= the step; NULL: the steps themselves */
    mpq_relay_fn *work;     /* a step's own work, beside whatever others do */
    mpq_relay_fn *turn;     /* follows it once the piece before has had its turn at step behind[] */
    void *arg;
};

/* All steps of all pieces. One lane works in the caller's ctx, loops within it on all threads; so
 * does the first of several, on the caller's thread, while others have a ctx without progress and
 * loops run on a thread alone. Of several failures that of the first piece is stored; pieces behind
 * it may be left out. */
enum mpq_status mpq_relay_run(struct mpq_ctx *ctx, const struct mpq_relay *relay) MPQ_CHECKED;

#endif
