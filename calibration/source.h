/* Between dataset.c and the sources, source_xxx.c and synthesize.c; nobody else includes it. */
#ifndef MPQ_CALIBRATION_SOURCE_H
#define MPQ_CALIBRATION_SOURCE_H

#include "calibration/dataset.h"

struct mpq_dataset {
    struct mpq_arena *arena; /* everything here lives in it */
    const char *path;
    const struct mpq_source *source;
    void *state; /* the source's own */
    uint32_t n_sample, n_input;
    const char **input_name;        /* [n_input]                                              */
    struct mpq_tensor *input;       /* [n_input] one sample: type and shape, no data          */
    const int64_t *label;           /* [n_sample] or NULL                                     */
    const char *const *sample_name; /* [n_sample] file names, or NULL where samples have none */
    uint32_t picture_input;         /* the input that takes pictures, UINT32_MAX: none        */
    const char *label_path;         /* where the labels come from, for sentences              */
};

struct mpq_source_request {
    const char *path; /* dataset->path */
    bool is_folder;
    uint8_t magic[8]; /* how the file begins, zero-padded */
    const struct mpq_preprocess *preprocess;
    bool want_labels; /* false where labels of another file take precedence */
};

/* A row of source_list.inc. `open` fills n_sample and state, and label, label_path and sample_name
 * where it has them. */
struct mpq_source {
    const char *what; /* for the sentence that lists what can be opened */
    bool (*accepts)(const struct mpq_source_request *request); /* asked in the list's order */
    enum mpq_status (*open)(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                            struct mpq_dataset *dataset);

    /* Fill unknown dimensions of dataset->input but the first. NULL: it does not tell. */
    enum mpq_status (*guess)(struct mpq_ctx *ctx, const struct mpq_source_request *request,
                             struct mpq_dataset *dataset);

    /* Make samples index[0..n) ready to be read. NULL: they always are. */
    enum mpq_status (*prepare)(struct mpq_ctx *ctx, struct mpq_dataset *dataset,
                               const uint32_t *index, uint32_t n);

    /* Sample -> y [n_input], tensors of dataset->input's shapes with data. Runs on several threads
     * at once, each with a ctx and a scratch arena of its own. */
    enum mpq_status (*read)(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                            const struct mpq_dataset *dataset, uint32_t sample,
                            struct mpq_tensor *y);
};

extern const struct mpq_source mpq_source_synthetic; /* of mpq_dataset_synthetic() alone */

#endif
