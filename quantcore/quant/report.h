/* What a run reports, as plain records: the pipeline fills them, the exporter writes them as CSV,
 * the command line prints the short form. NaN: not measured. */
#ifndef MPQ_QUANT_REPORT_H
#define MPQ_QUANT_REPORT_H

#include "quantcore/quant/layer.h"

struct mpq_report_layer {
    const char *node, *operator_type;
    uint64_t n_param, macs; /* macs of one sample                                     */
    int weight_bits, activation_bits;
    uint64_t float_bytes, quantized_bytes; /* of the weight, in the two files         */
    double sensitivity[MPQ_N_BITS]; /* by width, in the search's measure; NaN: no candidate */
    double sqnr_db;                 /* of the layer's output against float            */
    uint64_t bytes[MPQ_N_BITS];     /* by width, in the file                          */
    const char *chosen_by;          /* "search", "lock", ...                          */
    uint64_t n_saturating;          /* channels that 8-bit kernels without VNNI could clip      */
};

struct mpq_report_stage {
    const char *name;
    double seconds;
    uint64_t peak_rss_bytes; /* largest resident memory during it; 0: unknown */
};

/* Anything else worth a row: options, versions, counts. */
struct mpq_report_fact {
    const char *key, *value;
};

/* A limit of the search. Numbers are in `unit`. */
struct mpq_report_limit {
    const char *name, *unit;
    double budget, used;
    double price; /* by how much the estimated loss falls for one more; 0: does not bind */
};

struct mpq_report {
    const char *model, *output; /* file names as given                                  */
    const char *checkpoint;     /* that the tuned state was taken from; NULL: none      */

    uint32_t n_layer, n_stage, n_fact;
    const struct mpq_report_layer *layer;
    const struct mpq_report_stage *stage;
    const struct mpq_report_fact *fact;
    uint32_t n_carried;  /* nodes behind what can be run, in the file as they were */
    const char *carried; /* which, as one text; NULL: none                         */

    /* The search, in its measure of loss. The estimate adds up what each layer's width adds to the
     * loss by itself; no allocation within the limits has one below `bound`. */
    uint32_t n_limit;
    const struct mpq_report_limit *limit;
    double loss, loss_error; /* mean over the samples that decided, its standard error */
    double estimate, bound;
    bool bound_is_reached; /* by some allocation: the bound is exact */

    uint64_t float_bytes, quantized_bytes; /* files, as stat gives them */
    double average_weight_bits;            /* by parameters            */
    uint32_t n_left_float;  /* layers in float because their activations would lose most */
    double left_float_macs; /* their share of the multiplications of all layers          */
    uint64_t n_repaired;    /* channels changed so that 8-bit kernels cannot clip them */
    uint64_t bitops;        /* sum over layers of macs * weight bits * activation bits      */

    /* On the evaluation samples; n_eval 0: there were none and the rest is NaN. */
    uint64_t n_eval;
    const char *metric; /* "top1" as a share of 1, or NULL: no labels                */
    double metric_float, metric_quantized;
    double drop, drop_low, drop_high; /* float - quantized with its 95 % interval    */
    double max_drop, drop_confidence; /* a limit of the drop and how sure it is; NaN: none   */
    double agreement;                 /* share of samples with float's argmax        */
    double kl;                        /* nats, mean over samples                     */
    double sqnr_db;                   /* of the first output                         */

    /* The written file against the tuned network on n_verify samples, in float and on integers: the
     * output that is farthest off (inf: equal), and on integers differences of all outputs. */
    uint64_t n_verify;
    double verify_float_db, verify_db;
    double verify_difference, verify_difference_max; /* mean and largest |difference| */

    uint64_t seed;
    int n_threads;
};

#endif
