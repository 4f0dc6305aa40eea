/* The part of a graph that can be run, apart from what cannot: nodes without a row, those whose
 * shapes depend on data, and all that reads what these compute. Detectors end in such nodes. */
#ifndef MPQ_PASS_CUT_H
#define MPQ_PASS_CUT_H

#include "quantcore/pass/bind.h"

/* Where an output of the part that can be run is read: input `input` of the carried node number
 * `carried`, from 0; or, where `carried` is MPQ_NO_NODE, as output number `input` of the graph. */
struct mpq_cut_output {
    uint32_t carried, input;
};

struct mpq_cut {
    struct mpq_graph *whole; /* all nodes, those that can be run first, the carried ones behind   */
    struct mpq_graph *run;   /* the former alone; node and value ids are those of `whole`         */
    uint32_t n_carried;      /* 0: `whole` and `run` are the graph that was given                 */
    const struct mpq_cut_output *output; /* [run->n_output]; NULL where nothing is carried        */
    const char *why; /* the sentence that names the first nodes not run; NULL: none is carried    */
};

/* Bind at batch 1 what can be run. Outputs of `run` are those of the graph that it computes, then
 * what carried nodes read of it, each value once, without inputs and what is constant at these
 * shapes. Constants that both parts read become two in `whole`, so that quantizing one leaves the
 * other alone. `binding` is of `run`. UNSUPPORTED, with the sentence of mpq_bind(), where nothing
 * of the graph can be run, or shapes are missing or do not fit. */
enum mpq_status mpq_cut_bind(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_graph *graph,
                             struct mpq_cut *out, struct mpq_binding *out_binding) MPQ_CHECKED;

/* The part that can be run of another graph with the same carried nodes, with outputs where `like`
 * has them. NUMERIC where the carried nodes are not the same. */
enum mpq_status mpq_cut_like(struct mpq_ctx *ctx, struct mpq_arena *arena, struct mpq_graph *graph,
                             const struct mpq_cut *like, struct mpq_graph **out) MPQ_CHECKED;

/* "'nms' (NonMaxSuppression), 'boxes' (Gather) and 7 more": the carried nodes. NULL: no memory. */
char *mpq_cut_list(struct mpq_ctx *ctx, struct mpq_arena *arena, const struct mpq_cut *cut);

#endif
