/* The pipeline's samples: opened, and parted by purpose. */
#include "calibration/synthesize.h"
#include "cli/pipeline.h"
#include "quantcore/base/rng.h"

static enum mpq_status open_dataset(struct mpq_ctx *ctx, struct mpq_pipeline *p, const char *path,
                                    const char *labels, struct mpq_dataset **out)
{
    const struct mpq_options *options = p->options;
    struct mpq_shape *shape = mpq_arena_alloc(ctx, p->arena, p->graph->n_input, sizeof *shape);
    if (!shape)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_shapes(ctx, p->graph, 1, shape));
    if (!path) {
        struct mpq_cut cut = {.run = p->imported};
        struct mpq_binding binding;
        if (p->cut.why)
            MPQ_TRY(mpq_cut_bind(ctx, p->arena, p->imported, &cut, &binding));
        return mpq_dataset_synthesize(ctx, p->arena, cut.run, shape, 256, out);
    }
    return mpq_dataset_open(ctx, p->arena, path, labels, p->graph, shape, p->n_class,
                            &options->preprocess, out);
}

static struct mpq_part take(struct mpq_part *rest, uint32_t n)
{
    struct mpq_part part = {rest->dataset, rest->sample, n};
    rest->sample += n;
    rest->n -= n;
    return part;
}

/* A random order, so that parts are alike even where the data are sorted by class. */
static enum mpq_status shuffled(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                struct mpq_dataset *dataset, struct mpq_part *out)
{
    uint32_t n = mpq_dataset_count(dataset);
    *out = (struct mpq_part){dataset, mpq_arena_alloc(ctx, arena, n, sizeof *out->sample), n};
    if (!out->sample)
        return MPQ_E_NOMEM;
    mpq_rng_permutation(ctx->seed, MPQ_STREAM_SPLIT, 0, n, out->sample);
    return MPQ_OK;
}

/* Every second sample that would report chooses instead, so that both halves are alike even where
 * the data are sorted by class. */
static enum mpq_status split_report(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    uint32_t n = p->report.n;
    uint32_t *sample = mpq_arena_alloc(ctx, p->arena, n, sizeof *sample);
    if (!sample)
        return MPQ_E_NOMEM;
    p->choose = (struct mpq_part){p->report.dataset, sample, n / 2};
    for (uint32_t i = 0; i < n; i++)
        sample[i % 2 ? i / 2 : n / 2 + i / 2] = p->report.sample[i];
    p->report = (struct mpq_part){p->report.dataset, sample + n / 2, n - n / 2};
    return MPQ_OK;
}

/* How many of n samples decide, and of what is left report where nothing else does. */
static void count_parts(const struct mpq_pipeline *p, uint32_t n, uint32_t *out_decide,
                        uint32_t *out_report)
{
    enum { MIN_DECIDE = 64, MAX_DECIDE = 128, TO_JUDGE = 16, TO_VERIFY = 4 };
    /* A fifth decides, of small sets more: the search picks the best of a hundred candidates and
     * would pick noise on a few dozen samples. */
    uint32_t n_decide = n / 5 > MIN_DECIDE ? n / 5 : n / 2 < MIN_DECIDE ? n / 2 : MIN_DECIDE;
    n_decide = n_decide < MAX_DECIDE ? n_decide : MAX_DECIDE;
    *out_decide = n_decide;
    *out_report = (n - n_decide) / 3;
    if (mpq_pipeline_is_fixed(p)) {
        uint32_t most = mpq_pipeline_runs_plainly(p) ? TO_VERIFY : TO_JUDGE;
        *out_decide = n_decide < most ? n_decide : most;
    }
}

/* Where nothing is decided, the first samples of the report part do for `decide`, and measuring may
 * take no longer than learning does: who wants to know more says --eval. */
static void report_alone(struct mpq_pipeline *p, uint32_t n_decide, uint32_t n_report,
                         struct mpq_part *rest)
{
    uint32_t most = mpq_pipeline_affordable(p);
    p->decide = p->report = take(rest, n_report > n_decide ? n_report : n_decide);
    p->decide.n = n_decide;
    p->report.n = p->report.n < most ? p->report.n : most;
}

enum mpq_status mpq_pipeline_data(struct mpq_ctx *ctx, struct mpq_pipeline *p)
{
    enum { MIN_TO_SPLIT = 10 };
    const struct mpq_options *options = p->options;
    struct mpq_dataset *data, *eval = NULL;
    struct mpq_part rest;
    if (mpq_pipeline_is_fixed(p))
        mpq_memory_return_early();
    if (mpq_pipeline_runs_plainly(p) && !options->max_memory)
        MPQ_TRY(mpq_memory_keep_heap(ctx));
    if (options->max_memory && !options->data) /* making samples up takes what it takes */
        return mpq_fail(ctx, MPQ_E_USAGE, "--max-memory needs samples: --data PATH");
    if (options->eval)
        MPQ_TRY(open_dataset(ctx, p, options->eval, options->labels, &eval));
    MPQ_TRY(open_dataset(ctx, p, options->data, eval ? NULL : options->labels, &data));
    p->is_synthetic = !options->data;
    if (p->is_synthetic)
        mpq_log(ctx, MPQ_LOG_WARNING,
                "no --data: calibrating on made-up inputs. Expect a larger loss of accuracy than "
                "with a few hundred real ones, and measure it before use");
    MPQ_TRY(shuffled(ctx, p->arena, data, &rest));
    uint32_t n = rest.n;
    p->decides_on_report = mpq_pipeline_runs_plainly(p) && !eval && !p->is_synthetic;
    if (n < MIN_TO_SPLIT) {
        mpq_log(ctx, MPQ_LOG_WARNING,
                "%u inputs are too few to hold any back: everything is learned, decided and "
                "measured on the same ones",
                n);
        p->tune = p->decide = p->report = rest;
    } else {
        uint32_t n_decide, n_report;
        count_parts(p, n, &n_decide, &n_report);
        if (p->decides_on_report)
            report_alone(p, n_decide, n_report, &rest);
        else
            p->decide = take(&rest, n_decide);
        if (!eval && !p->is_synthetic && !p->decides_on_report)
            p->report = take(&rest, n_report);
        p->tune = rest;
    }
    if (eval) {
        uint32_t n_eval = mpq_dataset_count(eval);
        uint32_t *all = mpq_arena_alloc(ctx, p->arena, n_eval, sizeof *all);
        if (!all)
            return MPQ_E_NOMEM;
        for (uint32_t i = 0; i < n_eval; i++)
            all[i] = i;
        p->report = (struct mpq_part){eval, all, n_eval};
    }
    return options->max_drop > 0 ? split_report(ctx, p) : MPQ_OK;
}

static enum mpq_status read_samples(struct mpq_ctx *ctx, void *arg, const uint32_t *index,
                                    uint32_t n, struct mpq_tensor *const *input)
{
    return mpq_dataset_read(ctx, arg, index, n, input);
}

struct mpq_samples mpq_pipeline_samples(const struct mpq_part *part)
{
    return (struct mpq_samples){read_samples, part->dataset};
}
