/* convert, stage by stage. Data flows one way: bytes, graph, ranges, supernet, allocation, bytes.
 * Each stage reads what the ones before it left in the struct and fills its own part; the order is
 * that of the declarations below. The pipeline is a library so that tests run it in-process. */
#ifndef MPQ_CLI_PIPELINE_H
#define MPQ_CLI_PIPELINE_H

#include "calibration/dataset.h"
#include "calibration/metric.h"
#include "calibration/observe.h"
#include "cli/answers.h"
#include "cli/checkpoint.h"
#include "cli/crew.h"
#include "cli/memory.h"
#include "cli/options.h"
#include "cli/plan.h"
#include "exporter/export.h"
#include "quantcore/pass/cut.h"
#include "quantcore/pass/equalize.h"
#include "quantcore/quant/report.h"
#include "quantcore/quant/weight_fit.h"
#include "quantcore/search/search.h"
#include "quantcore/supernet/evaluate.h"
#include "quantcore/supernet/moments.h"
#include "quantcore/supernet/tune.h"

#define MPQ_MAX_STAGES 16

/* Samples of one dataset with a purpose of their own. */
struct mpq_part {
    struct mpq_dataset *dataset;
    uint32_t *sample, n;
};

struct mpq_pipeline {
    const struct mpq_options *options;
    struct mpq_arena *arena;

    /* open */
    struct mpq_graph *imported;           /* as the file has it                               */
    struct mpq_cut cut;                   /* of the simplified graph; `whole` is what is exported */
    struct mpq_graph *graph;              /* cut.run: all that stages look at                 */
    const struct mpq_graph *export_graph; /* cut.whole; later with constants rounded */
    size_t float_bytes;                   /* of the file and of external data                 */
    const char *external_name;            /* of the second output file, should there be one   */
    struct mpq_binding binding;           /* of `graph` at batch 1                         */
    struct mpq_layer_table layers;
    mpq_bits_mask candidates; /* widths a layer may get */
    struct mpq_act_plan act;  /* none with --weights-only */
    struct mpq_plan plan;     /* of the layers, where the options name one                */
    uint32_t scored;          /* output that looks like class scores, or UINT32_MAX       */
    int64_t n_class;

    /* data: three disjoint parts */
    struct mpq_part tune, decide, report; /* learn from; accept and search on; measure on */
    struct mpq_part choose; /* with --max-drop, held back from `report` to choose the size by */
    bool decides_on_report; /* nothing is decided: the decide part is what begins the report part */
    bool is_synthetic;

    /* calibrate */
    const struct mpq_graph *run_graph; /* `graph`, with its batch freed where it was fixed */
    uint32_t batch;                    /* of forward passes                        */
    bool takes_batches;                /* several samples at once give the same answers */
    struct mpq_memory memory;          /* how --max-memory is kept                      */
    struct mpq_room *room; /* of states that search and refining go on from, NULL: not yet */
    struct mpq_observer observer;
    struct mpq_act_quant *act_quant; /* [n_group] as FakeQuant nodes read it now; else widest  */
    struct mpq_act_quant *act_by_width[MPQ_N_BITS]; /* [n_group], NULL: no candidate            */
    double cut_weight; /* of ranges of the widest, 0: as any other error (mpq_act_form)         */
    uint32_t n_act; /* groups whose width is searched: n_group, or 0 where there is one width   */
    struct mpq_moments *moments; /* [n_layer] in moment_arena, until rounded by; NULL: none */
    const struct mpq_graph *moments_of; /* the graph that they were gathered in */
    struct mpq_arena *moment_arena;
    bool observes_more; /* ranges are taken from more samples: with few, activations lose much */
    bool is_resumed;    /* from the checkpoint: neither calibrated nor tuned */
    struct mpq_equalize equalize; /* no edges: channels are as the model has them */
    /* `graph` and `run_graph` with constants rounded as the file has them, and with the gains of
     * that, too: what is quantized. Where the quantized model is compared with the float one, that
     * is the latter as it came. */
    const struct mpq_graph *rounded_graph, *rounded_run_graph;
    const struct mpq_graph *equal_graph, *equal_run_graph;

    /* What is left float because quantizing its activations costs most: layers, and their share of
     * the multiplications of all layers. */
    uint32_t n_left_float;
    double left_float_macs;

    /* prepare */
    struct mpq_graph *fake_graph; /* run_graph with FakeQuant nodes                   */
    mpq_node_id *layer_node;      /* [n_layer] in fake_graph                          */
    struct mpq_network float_network, fake_network; /* with the values of all nodes, see below */
    struct mpq_supernet net;
    struct mpq_arena *net_arena; /* where it is until the codes are there, if nothing but they is
                                    wanted; else NULL, and it is in `arena`                    */
    struct mpq_targets decide_targets;
    struct mpq_evaluator evaluator;
    struct mpq_answers *answers; /* of the float model to what reports; NULL: are not kept */

    struct mpq_paper_run *paper; /* of --recipe paper, private to recipe_paper.c */

    /* tune */
    struct mpq_tune_result tuned;
    uint32_t n_step;
    bool tuning_helped;   /* on the decide part; else the net is as it was before    */
    bool has_sensitivity; /* of the net as it is now, but for activations */

    /* fit, with --weights-only instead of all the above but open */
    struct mpq_weight_fit *fit; /* [n_layer * MPQ_N_BITS] */

    /* search */
    uint64_t budget_bytes;
    uint64_t *layer_bytes; /* [n_layer * MPQ_N_BITS] what a width adds to the file            */
    double *uniform_loss;  /* [MPQ_N_BITS * decide.n] with all layers at one width, as far as that
                              is known: NaN                                                      */
    double *sensitivity;   /* [(n_layer + n_act) * MPQ_N_BITS], NaN: no candidate             */
    double *refined_share; /* [n_layer] of what a width adds to the loss, what refining leaves of
                              it; NaN: not measured */
    uint8_t *lock;         /* [n_layer] width that --lock asks for, or 0                      */
    struct mpq_search_problem problem;
    struct mpq_search_result found;
    bool refining_helped;                      /* net is no longer the family that was tuned */
    bool has_specialized, specializing_helped; /* tuned for `bits` alone; and kept so */
    uint8_t *bits;                             /* [n_layer + n_act] */

    /* export */
    struct mpq_layer_code *code; /* [n_layer]                                          */
    int64_t *n_saturating; /* [n_layer] channels that 8-bit kernels could clip; NULL where all run
                              in float */
    int64_t n_repaired;    /* channels that were changed so that they do not     */
    struct mpq_export_file file;

    /* verify */
    struct mpq_comparison *layer_comparison; /* [n_layer] outputs of layers, float and quantized */

    /* for the report */
    struct mpq_report_stage stage[MPQ_MAX_STAGES];
    uint32_t n_stage;
};

enum mpq_status mpq_pipeline_open(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options,
                                  struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_data(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_calibrate(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_prepare(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Round constants to what the file holds (quantcore/pass/round_constant.h), where its reader
 * computes constants when it loads it: rounded_graph, rounded_run_graph and export_graph, once
 * `run_graph` is there. Where a few samples say that the float model's outputs change by more than
 * next to nothing, none is rounded. */
enum mpq_status mpq_pipeline_round_constants(struct mpq_ctx *ctx,
                                             struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_tune(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_search(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Samples that a thread's network runs at once where each thread has its own: together as many as
 * one network of all threads would. */
uint32_t mpq_pipeline_thread_batch(uint32_t batch);

/* A copy of `family`, in p->arena, whose widths of the allocation are rounded once more for it,
 * layer after layer, aimed at what the float model answers: at the same channels where they were
 * equalized. */
enum mpq_status mpq_pipeline_round(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   const struct mpq_supernet *family, const uint8_t *bits,
                                   struct mpq_supernet *out) MPQ_CHECKED;

/* Fill p->refined_share, unless it is there: by rounding what is behind each layer for its errors,
 * or 1 everywhere where that would take minutes. Once the sensitivities are there. */
enum mpq_status mpq_pipeline_refined_share(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Round for the allocation found, for the best by the estimate, and for the best by what refining
 * leaves of that, should they differ: the search compares what is not refined yet. A resumed run,
 * which is to take seconds, does so for the first alone, also for the last where that is cheap, and
 * for the last alone where the first loses next to nothing.
 * The best on the decide part is kept, p->net and the allocation, where it is better than what was
 * found by more than the standard error. */
enum mpq_status mpq_pipeline_refine(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Tune the net, as it is refined, for p->bits alone, for as many steps as the family was to get, of
 * one path each; it ends early where the decide part gains nothing any more. The best of what that
 * part has seen is kept where it gains more than the standard error of the difference. What
 * mpq_pipeline_refine() does last, where there was tuning; not in a resumed run. */
enum mpq_status mpq_pipeline_specialize(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_export(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Run the float and the quantized network, with the codes of the file and summed plainly from then
 * on, over the first n samples of the decide part: p->layer_comparison, and the loss where none is
 * known. *out_answers has the quantized network's, NULL where they take too much. Where nothing
 * else runs them, both are made in `own`; where all answers are known they are gone afterwards.
 * The first half of mpq_pipeline_verify(). */
enum mpq_status mpq_pipeline_run_pair(struct mpq_ctx *ctx, struct mpq_arena *own,
                                      struct mpq_pipeline *p, uint32_t n,
                                      struct mpq_answers **out_answers) MPQ_CHECKED;

/* Re-read the file at `path`, run it by our engine beside the fake-quantized network, and measure
 * it against the float model; fills the accuracy part of the report. NUMERIC where the file does
 * not compute what the network does. */
enum mpq_status mpq_pipeline_verify(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *path,
                                    struct mpq_report *report) MPQ_CHECKED;

/* The tables that mpq_pipeline_search() searches by, which makes them if need be. */
enum mpq_status mpq_pipeline_prepare_search(struct mpq_ctx *ctx,
                                            struct mpq_pipeline *p) MPQ_CHECKED;

/* The smallest file whose drop is within options->max_drop, within the limits that the problem has;
 * part of mpq_pipeline_search(). INFEASIBLE where even the largest is not. */
enum mpq_status mpq_pipeline_search_drop(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* The widths of the plan in place of a search. FORMAT where the tuned state has not got one. */
enum mpq_status mpq_pipeline_apply(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Sizes of the smallest file there is and of that with everything at its widest; INFEASIBLE where
 * `bytes` is less than the former. */
enum mpq_status mpq_pipeline_size_range(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                        uint64_t *out_low, uint64_t *out_high) MPQ_CHECKED;
enum mpq_status mpq_pipeline_check_size(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                        uint64_t bytes) MPQ_CHECKED;

/* Let the fake-quantized network and the export plan have the activations of an allocation. */
void mpq_pipeline_set_activations(struct mpq_pipeline *p, const uint8_t *bits);

/* The stages of --weights-only, with mpq_pipeline_search() between the second and the third: the
 * graph is never bound, so its shapes may be unknown and its operators, too. */
enum mpq_status mpq_pipeline_open_weights(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                          const struct mpq_options *options,
                                          struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_fit_weights(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;
enum mpq_status mpq_pipeline_export_weights(struct mpq_ctx *ctx,
                                            struct mpq_pipeline *p) MPQ_CHECKED;

/* Re-read the file at `path` and unpack every layer's weight by our operators. NUMERIC where one is
 * not what its codes say. */
enum mpq_status mpq_pipeline_verify_weights(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                            const char *path,
                                            struct mpq_report *report) MPQ_CHECKED;

/* What both ways of opening begin with: the model as a graph, with the sizes that the options and
 * the samples at `data` (NULL: none) say. */
enum mpq_status mpq_pipeline_load(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_options *options, const char *data,
                                  struct mpq_pipeline *p) MPQ_CHECKED;

/* external_name, from the options: once they are there, and again where they become others. */
enum mpq_status mpq_pipeline_name_output(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* What both ways of exporting end with: p->code to the bytes of p->file. */
enum mpq_status mpq_pipeline_write(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* The widths that --bits allows. */
mpq_bits_mask mpq_pipeline_candidates(const struct mpq_options *options);

/* Whether the options leave one allocation and nothing to tune or to keep for later: all that is
 * done then is what that one file needs. */
bool mpq_pipeline_is_fixed(const struct mpq_pipeline *p);

/* Layers of more bits are as often worse as better for being refined (tests/bench/NOTES.md); an
 * allocation of such layers only is left as it is. */
#define MPQ_REFINED_BITS 5

/* Whether nothing is decided and nothing but the codes wanted: then no allocation is evaluated
 * before the file is, networks are made where they run, in as little memory as they can, and the
 * family is gone once it has given its codes. Else float_network keeps what layers read and
 * answer, fake_network everything. */
bool mpq_pipeline_runs_plainly(const struct mpq_pipeline *p);

/* Whether weights are rounded by second order. */
bool mpq_pipeline_rounds(const struct mpq_pipeline *p);

/* p's evaluator with networks of its own, in `arena`: they run from one end to the other, so that
 * values share memory and stay in the cache. As many as threads where that keeps these busy and
 * memory has no limit; else one. */
enum mpq_status mpq_pipeline_evaluator(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_pipeline *p,
                                       struct mpq_evaluator *out) MPQ_CHECKED;

/* Make p->room, unless it is there. */
enum mpq_status mpq_pipeline_room(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Make *arena, unless it is there: for what a later stage ends with mpq_arena_reset(). It goes with
 * p->arena at last. */
enum mpq_status mpq_pipeline_passing(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     struct mpq_arena **arena) MPQ_CHECKED;

/* How many of n_sample samples may run at once, each thread a batch of its own: one, unless the
 * pipeline runs plainly and memory has no limit. */
uint32_t mpq_pipeline_at_once(const struct mpq_pipeline *p, uint32_t n_sample);

/* As many networks as that takes. */
enum mpq_status mpq_pipeline_crew(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                  const struct mpq_pipeline *p, const struct mpq_graph *graph,
                                  uint32_t batch, uint32_t n_sample,
                                  const struct mpq_exec_options *options,
                                  struct mpq_crew *out) MPQ_CHECKED;

/* As many samples ranges are taken from whatever they cost. */
#define MPQ_LEAST_OBSERVED 32

/* How many samples ranges may be taken from; fewer where nothing else takes time, as long as
 * activations then lose next to nothing. A function of the model alone, so that a run repeats. */
uint32_t mpq_pipeline_affordable(const struct mpq_pipeline *p);

/* As many of the tune part. */
uint32_t mpq_pipeline_observed(const struct mpq_pipeline *p);

/* Run the float graph over so many; fills p->observer, p->moments where rounding is to have them,
 * the edges' ranges (equalize NULL: not wanted), and the answers to the first n_few samples, in
 * `arena` (few NULL: not wanted). */
enum mpq_status mpq_pipeline_observe(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                     const struct mpq_graph *graph, struct mpq_equalize *equalize,
                                     uint32_t n_few, struct mpq_arena *arena,
                                     struct mpq_targets *few) MPQ_CHECKED;

/* Multiplications of one sample, at least 1. */
uint64_t mpq_pipeline_macs(const struct mpq_pipeline *p);

/* Samples of a tuning step where memory has no limit; 0: nothing is tuned. */
uint32_t mpq_pipeline_tune_batch(const struct mpq_pipeline *p);

/* Tune `net`, in place, on the tune part for p->n_step steps, watched MPQ_LOOKS times or so;
 * options: what else mpq_tune() is told. */
#define MPQ_LOOKS 10
enum mpq_status mpq_pipeline_train(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                   struct mpq_arena *scratch, struct mpq_supernet *net,
                                   struct mpq_tune_options options,
                                   struct mpq_tune_result *out) MPQ_CHECKED;

/* Ask the float model for its answers to what reports, for a checkpoint; unless they are many. */
enum mpq_status mpq_pipeline_answer(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* Ask the float networks from sample `first` of those that report on. */
enum mpq_status mpq_pipeline_ask(struct mpq_ctx *ctx, struct mpq_pipeline *p, struct mpq_crew *crew,
                                 uint32_t first) MPQ_CHECKED;

/* Room for what a network with the outputs of the float one answers to n samples; *out NULL where
 * that would be much. */
enum mpq_status mpq_pipeline_make_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p, uint32_t n,
                                          struct mpq_answers **out) MPQ_CHECKED;

/* Room for them. */
enum mpq_status mpq_pipeline_room_for_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                              struct mpq_answers **out) MPQ_CHECKED;

/* Keep the float model's answers from the first verification on, for those that follow; unless they
 * are many. */
enum mpq_status mpq_pipeline_keep_answers(struct mpq_ctx *ctx, struct mpq_pipeline *p) MPQ_CHECKED;

/* What is known before the codes are: plan.code is NULL. */
struct mpq_export_plan mpq_pipeline_export_plan(const struct mpq_pipeline *p);

struct mpq_samples mpq_pipeline_samples(const struct mpq_part *part);

/* What a checkpoint is made of and read into; net as in struct mpq_checkpoint. */
struct mpq_checkpoint mpq_pipeline_checkpoint(struct mpq_pipeline *p, struct mpq_supernet *net);

/* The rest of the report, except what the files on disk say. */
enum mpq_status mpq_pipeline_report(struct mpq_ctx *ctx, struct mpq_pipeline *p,
                                    struct mpq_report *report) MPQ_CHECKED;

#endif
