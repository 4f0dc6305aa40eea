/* Measured with 8-bit activations, no tuning, weights within 30 % of the file (agreement with the
 * float model, KL in nats; plain noise, statistics, statistics and classes):
 *
 *   keyword spotting, DS-CNN     72.3 %, 0.772   98.9 %, 0.014   98.0 %, 0.019
 *   CIFAR-10, ResNet-8, 0..255    9.4 %, 3.407   97.4 %, 0.048   97.1 %, 0.015
 *   CIFAR-10, ResNet-20          98.8 %, 0.012   98.8 %, 0.009   99.1 %, 0.003
 *   CIFAR-10, ViT with norms     81.5 %, 0.049   95.6 %, 0.013   92.9 %, 0.014
 *   ImageNet, MobileNet 0.25     45.7 %, 0.800   30.0 %, 1.239   79.7 %, 0.193
 */
#include "calibration/synthesize.h"

#include <math.h>
#include <string.h>

#include "calibration/source.h"
#include "quantcore/base/rng.h"
#include "quantcore/base/thread.h"
#include "quantcore/engine/loss.h"
#include "quantcore/engine/optim.h"
#include "quantcore/pass/pass.h"

#define STAGE     "synthesize"
#define MAX_BATCH 32

/* ---- the part of the graph that matters ------------------------------------------------------ */

static bool makes_any(const struct mpq_node *node, const bool *needed)
{
    for (uint32_t i = 0; i < node->n_out; i++)
        if (node->out[i] != MPQ_NO_VALUE && needed[node->out[i]])
            return true;
    return false;
}

static bool is_norm(const struct mpq_graph *graph, const struct mpq_node *node)
{
    return mpq_node_is(node, "BatchNormalization") && node->op &&
           !graph->value[node->in[0]].constant && graph->value[node->in[3]].constant &&
           graph->value[node->in[4]].constant;
}

/* A graph at any batch of the nodes that inputs of norms, and outputs where wanted, depend on: the
 * rest costs time, and need not even be something that can be run or differentiated. */
static enum mpq_status trim(struct mpq_ctx *ctx, struct mpq_arena *arena,
                            const struct mpq_graph *graph, bool with_outputs,
                            struct mpq_graph **out)
{
    struct mpq_graph *part;
    bool *needed = mpq_arena_alloc(ctx, arena, graph->n_value, sizeof *needed);
    if (!needed)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_graph_clone(ctx, arena, graph, true, &part));
    if (!with_outputs)
        part->n_output = 0;
    for (uint32_t i = 0; i < part->n_output; i++)
        needed[part->output[i]] = true;
    for (uint32_t n = graph->n_node; n-- > 0;) {
        const struct mpq_node *node = &graph->node[n];
        bool is_needed = makes_any(node, needed);
        for (uint32_t i = 0; is_needed && i < node->n_in; i++)
            if (node->in[i] != MPQ_NO_VALUE)
                needed[node->in[i]] = true;
        if (is_norm(graph, node))
            needed[node->in[0]] = true;
    }
    for (uint32_t n = 0; n < graph->n_node; n++)
        if (makes_any(&graph->node[n], needed))
            MPQ_TRY(mpq_graph_add_node(ctx, part, &graph->node[n], NULL));
    bool changed;
    return mpq_rebatch(ctx, arena, part, out, &changed);
}

/* ---- how much work ----------------------------------------------------------------------------
 */

struct effort {
    uint32_t batch, n_batch, n_step;
};

static double count_elements(const struct mpq_binding *binding, mpq_value_id v)
{
    const struct mpq_tensor *tensor = &binding->tensor[v];
    return tensor->shape.rank < 0 || tensor->data ? 0 : (double)mpq_shape_count(&tensor->shape);
}

/* A function of the model alone, so that a run repeats. A step of one sample takes about three
 * times the multiply-accumulates of its forward pass, and memory traffic worth 20 of them for every
 * element of every value; 1.5e12 take about half a minute on two cores. False where even the least
 * is too much. */
static bool choose_effort(const struct mpq_graph *graph, const struct mpq_binding *one,
                          uint32_t n_sample, struct effort *out)
{
    enum { MAX_SAMPLE = 128, MIN_SAMPLE = 16, MAX_STEP = 60, MIN_STEP = 20 };
    const double max_work = 1.5e12, max_bytes = 512e6;
    double n_element = 0, n_input = 0, work = 1;
    for (uint32_t v = 0; v < graph->n_value; v++)
        n_element += count_elements(one, v);
    for (uint32_t i = 0; i < graph->n_input; i++)
        n_input += count_elements(one, graph->input[i]);
    for (uint32_t n = 0; n < graph->n_node; n++)
        work += 3 * (double)mpq_bind_macs(graph, one, n);
    double max_sample_step = max_work / (work + 20 * n_element);
    uint32_t n_step = MAX_STEP;
    if (n_sample > MAX_SAMPLE)
        n_sample = MAX_SAMPLE;
    while (n_step > MIN_STEP && n_step * (double)n_sample > max_sample_step)
        n_step--;
    while (n_sample > MIN_SAMPLE && (n_step * (double)n_sample > max_sample_step ||
                                     n_sample * n_input * sizeof(mpq_real) > max_bytes))
        n_sample--;
    uint32_t batch = MAX_BATCH; /* values and gradients of which fit */
    while (batch > 1 && (batch > n_sample || batch * n_element * 2 * sizeof(mpq_real) > max_bytes))
        batch /= 2;
    *out = (struct effort){batch, n_sample / batch, n_step};
    return n_step * (double)n_sample <= max_sample_step;
}

/* ---- loss ------------------------------------------------------------------------------------ */

/* One BatchNormalization node: what its input x [n, n_channel, inner] should look like and does. */
struct norm {
    mpq_value_id x;
    int64_t n, n_channel, inner;
    double epsilon, weight;
    const mpq_real *mean, *var; /* stored, [n_channel]                  */
    double *loss;               /* [n_channel] of the last batch        */
    const mpq_real *data;       /* x                                    */
    mpq_real *grad;             /* of x, added to; NULL: not wanted     */
};

/* The loss of a channel is d^2 + r^2,
 *
 *   d = (mean(x) - mean) / sqrt(var + epsilon)
 *   r = log((var(x) + epsilon) / (var + epsilon))
 *
 * ZeroQ's (Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, eq. 3) and
 * DeepInversion's (Yin et al., "Dreaming to Distill", CVPR 2020, eq. 4) differences of mean and
 * variance made free of scale, since the layers' scales differ by orders of magnitude. */
static void add_channels(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct norm *norm = arg;
    (void)thread;
    double n = (double)(norm->n * norm->inner);
    for (int64_t c = begin; c < end; c++) {
        double sum = 0, square = 0;
        for (int64_t s = 0; s < norm->n; s++) {
            const mpq_real *x = norm->data + (s * norm->n_channel + c) * norm->inner;
            for (int64_t i = 0; i < norm->inner; i++)
                sum += (double)x[i];
        }
        double mean = sum / n;
        for (int64_t s = 0; s < norm->n; s++) {
            const mpq_real *x = norm->data + (s * norm->n_channel + c) * norm->inner;
            for (int64_t i = 0; i < norm->inner; i++)
                square += ((double)x[i] - mean) * ((double)x[i] - mean);
        }
        double variance = square / n + norm->epsilon;
        double wanted = fmax((double)norm->var[c], 0) + norm->epsilon;
        double d = (mean - (double)norm->mean[c]) / sqrt(wanted), r = log(variance / wanted);
        norm->loss[c] = d * d + r * r;
        if (!norm->grad)
            continue;
        double share = 2 * norm->weight / (n * (double)norm->n_channel);
        mpq_real offset = (mpq_real)(share * d / sqrt(wanted));
        mpq_real slope = (mpq_real)(share * 2 * r / variance), centre = (mpq_real)mean;
        for (int64_t s = 0; s < norm->n; s++) {
            int64_t at = (s * norm->n_channel + c) * norm->inner;
            const mpq_real *restrict x = norm->data + at;
            mpq_real *restrict dx = norm->grad + at;
            for (int64_t i = 0; i < norm->inner; i++)
                dx[i] += offset + slope * (x[i] - centre);
        }
    }
}

struct matcher {
    const struct mpq_graph *graph;
    struct mpq_binding binding;
    struct mpq_exec *exec;
    struct mpq_tensor **input; /* [n_input] of exec                                           */
    mpq_real **start;          /* [n_input] the batch before scale and shift; NULL: not float */
    struct mpq_adam *adam;     /* [n_input] where start is                                    */
    struct norm *norm;
    uint32_t n_norm, batch;
    struct mpq_loss loss;
    mpq_real **target;            /* [n_head] logits of the wanted classes; NULL: no classes */
    double scale, shift;          /* of the float inputs at the start */
    double first_loss, last_loss; /* of the last batch                */
};

/* Loss of the inputs as they are, with gradients where wanted: of norms, the mean over channels;
 * and that of every output of scores against the classes drawn. */
static double run(struct matcher *m, bool want_grad)
{
    double loss = 0;
    mpq_exec_forward(m->exec, 0, m->graph->n_node);
    if (want_grad)
        mpq_exec_zero_grad(m->exec);
    for (uint32_t k = 0; k < m->n_norm; k++) {
        struct norm *norm = &m->norm[k];
        double sum = 0;
        norm->data = mpq_exec_tensor(m->exec, norm->x)->data;
        norm->grad = want_grad ? mpq_exec_grad(m->exec, norm->x) : NULL;
        mpq_parallel_for(norm->n_channel, 1, add_channels, norm);
        for (int64_t c = 0; c < norm->n_channel; c++)
            sum += norm->loss[c];
        loss += norm->weight * sum / (double)norm->n_channel;
    }
    for (uint32_t h = 0; h < m->loss.n_head; h++) {
        const struct mpq_loss_head *head = &m->loss.head[h];
        if (m->target[h])
            loss += mpq_loss_head_value(head, mpq_exec_tensor(m->exec, head->value)->data,
                                        m->target[h], m->batch, 1,
                                        want_grad ? mpq_exec_grad(m->exec, head->value) : NULL);
    }
    if (want_grad)
        mpq_exec_backward(m->exec);
    return loss;
}

/* ---- matching -------------------------------------------------------------------------------- */

static enum mpq_status create_norms(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                    const struct mpq_graph *graph, struct matcher *m)
{
    m->norm = mpq_arena_alloc(ctx, arena, graph->n_node, sizeof *m->norm);
    if (!m->norm)
        return MPQ_E_NOMEM;
    for (uint32_t n = 0; n < graph->n_node; n++) {
        const struct mpq_node *node = &graph->node[n];
        if (!is_norm(graph, node))
            continue;
        const struct mpq_tensor *x = &m->binding.tensor[node->in[0]];
        const struct mpq_tensor *mean = graph->value[node->in[3]].constant;
        const struct mpq_tensor *var = graph->value[node->in[4]].constant;
        if (x->data || x->dtype != MPQ_FLOAT || x->shape.rank < 2 ||
            x->shape.dim[0] % m->batch != 0 || mean->dtype != MPQ_FLOAT ||
            var->dtype != MPQ_FLOAT || mpq_shape_count(&mean->shape) != x->shape.dim[1] ||
            mpq_shape_count(&var->shape) != x->shape.dim[1])
            continue;
        struct norm norm = {
            .x = node->in[0],
            .n = x->shape.dim[0],
            .n_channel = x->shape.dim[1],
            .inner = mpq_shape_count_range(&x->shape, 2, x->shape.rank),
            .epsilon = (double)mpq_attr_float(&node->attr_set, "epsilon", 1e-5f),
            .mean = mean->data,
            .var = var->data,
        };
        norm.loss = mpq_arena_alloc(ctx, arena, (size_t)norm.n_channel, sizeof *norm.loss);
        if (!norm.loss)
            return MPQ_E_NOMEM;
        m->norm[m->n_norm++] = norm;
    }
    return MPQ_OK;
}

/* Where outputs are scores of classes, every sample shall be of one (DeepInversion, eq. 2): with
 * statistics alone no score is high, and the range of scores found on such samples cuts off those
 * of real ones. */
static enum mpq_status create_targets(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      struct matcher *m, bool *seed)
{
    if (!m->graph->n_output)
        return MPQ_OK;
    MPQ_TRY(mpq_loss_create(ctx, arena, m->graph, &m->binding, m->batch, &m->loss));
    m->target = mpq_arena_alloc(ctx, arena, m->loss.n_head, sizeof *m->target);
    if (!m->target)
        return MPQ_E_NOMEM;
    for (uint32_t h = 0; h < m->loss.n_head; h++) {
        struct mpq_loss_head *head = &m->loss.head[h];
        if (!(head->kl_weight > 0) || head->n_sample != head->n_column)
            continue;
        head->kl_weight = 1;
        head->mse_weight = 0;
        seed[head->value] = true;
        m->target[h] =
            mpq_arena_alloc(ctx, arena, (size_t)(head->n_sample * m->batch), sizeof **m->target);
        if (!m->target[h])
            return MPQ_E_NOMEM;
    }
    return MPQ_OK;
}

/* A class for every sample of a batch that starts at sample `first`. */
static void draw_classes(const struct mpq_ctx *ctx, struct matcher *m, uint32_t first)
{
    for (uint32_t h = 0; h < m->loss.n_head; h++) {
        int64_t n = m->loss.head[h].n_column;
        if (!m->target[h])
            continue;
        memset(m->target[h], 0, (size_t)(n * m->batch) * sizeof(mpq_real));
        for (uint32_t i = 0; i < m->batch; i++)
            m->target[h][i * n + mpq_rng_below(ctx->seed, MPQ_STREAM_SYNTHETIC, UINT64_MAX - h,
                                               first + i, (uint32_t)n)] = MPQ_REAL(20.0);
    }
}

static enum mpq_status matcher_create(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                      const struct mpq_graph *graph, struct mpq_graph *part,
                                      uint32_t batch, struct matcher *out)
{
    struct matcher m = {.graph = part, .batch = batch};
    bool *want = mpq_arena_alloc(ctx, arena, part->n_value, sizeof *want);
    bool *seed = mpq_arena_alloc(ctx, arena, part->n_value, sizeof *seed);
    m.input = mpq_arena_alloc(ctx, arena, part->n_input, sizeof(struct mpq_tensor *));
    m.start = mpq_arena_alloc(ctx, arena, part->n_input, sizeof *m.start);
    m.adam = mpq_arena_alloc(ctx, arena, part->n_input, sizeof *m.adam);
    if (!want || !seed || !m.input || !m.start || !m.adam)
        return MPQ_E_NOMEM;
    MPQ_TRY(mpq_bind_batch(ctx, arena, part, batch, &m.binding));
    MPQ_TRY(create_norms(ctx, arena, graph, &m));
    for (uint32_t i = 0; i < part->n_input; i++)
        want[part->input[i]] = part->value[part->input[i]].dtype == MPQ_FLOAT;
    double inner = 0;
    for (uint32_t k = 0; k < m.n_norm; k++) {
        seed[m.norm[k].x] = true;
        inner += (double)m.norm[k].inner / m.n_norm;
    }
    for (uint32_t k = 0; k < m.n_norm; k++)
        /* Deep layers have few positions and large gradients, and would win over the early ones. */
        m.norm[k].weight = (double)m.norm[k].inner / inner;
    MPQ_TRY(create_targets(ctx, arena, &m, seed));
    MPQ_TRY(mpq_exec_create(ctx, arena, part, &m.binding,
                            &(struct mpq_exec_options){.want_grad = want, .seed = seed}, &m.exec));
    for (uint32_t i = 0; i < part->n_input; i++) {
        m.input[i] = mpq_exec_tensor(m.exec, part->input[i]);
        if (!mpq_exec_grad(m.exec, part->input[i]))
            continue;
        int64_t n = mpq_shape_count(&m.input[i]->shape);
        m.start[i] = mpq_arena_alloc(ctx, arena, (size_t)n, sizeof **m.start);
        if (!m.start[i])
            return MPQ_E_NOMEM;
        MPQ_TRY(mpq_adam_create(ctx, arena, n, &m.adam[i]));
    }
    *out = m;
    return MPQ_OK;
}

/* Whether moving an input moves a norm. */
static bool can_match(const struct matcher *m)
{
    for (uint32_t i = 0; i < m->graph->n_input; i++)
        if (m->start[i])
            return m->n_norm > 0;
    return false;
}

static void set_inputs(struct matcher *m)
{
    for (uint32_t i = 0; i < m->graph->n_input; i++) {
        mpq_real *x = m->input[i]->data, scale = (mpq_real)m->scale, shift = (mpq_real)m->shift;
        for (int64_t e = 0; m->start[i] && e < mpq_shape_count(&m->input[i]->shape); e++)
            x[e] = shift + scale * m->start[i][e];
    }
}

static enum mpq_status read_start(struct mpq_ctx *ctx, struct matcher *m, struct mpq_dataset *noise,
                                  uint32_t first)
{
    uint32_t index[MAX_BATCH];
    for (uint32_t i = 0; i < m->batch; i++)
        index[i] = first + i;
    MPQ_TRY(mpq_dataset_read(ctx, noise, index, m->batch, m->input));
    for (uint32_t i = 0; i < m->graph->n_input; i++)
        if (m->start[i])
            memcpy(m->start[i], m->input[i]->data, mpq_tensor_bytes(m->input[i]));
    return MPQ_OK;
}

/* Whether inputs are in -1..1, 0..1, 0..255 or something else: no gradient step finds that, so the
 * scale and shift of the start are searched by loss. Steps of two octaves are too
 * coarse: on an image classifier of 0..255 agreement fell from 97 % to 69 %. */
static enum mpq_status find_scale(struct mpq_ctx *ctx, struct matcher *m)
{
    double best_scale = 1, best_shift = 0, best = INFINITY;
    for (int octave = -4; octave <= 8; octave++)
        for (int half = -4; half <= 4; half++) {
            m->scale = ldexp(1, octave);
            m->shift = 0.5 * half * m->scale;
            set_inputs(m);
            double loss = run(m, false);
            MPQ_TRY(mpq_step(ctx, STAGE, 0, 0, loss));
            if (loss < best) {
                best = loss;
                best_scale = m->scale;
                best_shift = m->shift;
            }
        }
    m->scale = best_scale;
    m->shift = best_shift;
    return MPQ_OK;
}

/* Adam on the inputs, from the start in the matcher to what is left in the exec. */
static enum mpq_status match_batch(struct mpq_ctx *ctx, struct matcher *m,
                                   const struct effort *effort, uint32_t batch)
{
    const double rate = 0.15; /* in units of the scale */
    for (uint32_t i = 0; i < m->graph->n_input; i++)
        if (m->start[i]) {
            memset(m->adam[i].mean, 0, (size_t)m->adam[i].n * sizeof(mpq_real));
            memset(m->adam[i].square, 0, (size_t)m->adam[i].n * sizeof(mpq_real));
            m->adam[i].t = 0;
        }
    set_inputs(m);
    for (uint32_t step = 0; step < effort->n_step; step++) {
        m->last_loss = run(m, true);
        if (step == 0)
            m->first_loss = m->last_loss;
        MPQ_TRY(mpq_step(ctx, STAGE, batch * effort->n_step + step,
                         effort->n_batch * effort->n_step, m->last_loss));
        mpq_real size = (mpq_real)(m->scale * mpq_cosine_rate(rate, step, effort->n_step));
        for (uint32_t i = 0; i < m->graph->n_input; i++) {
            if (!m->start[i])
                continue;
            mpq_real *x = m->input[i]->data;
            mpq_real *direction = mpq_exec_grad(m->exec, m->graph->input[i]);
            mpq_adam_direction(&m->adam[i], direction);
            for (int64_t e = 0; e < m->adam[i].n; e++)
                x[e] -= size * direction[e];
        }
    }
    return MPQ_OK;
}

/* ---- the dataset ----------------------------------------------------------------------------- */

/* dataset->state: [n_input] all samples of an input, one after the other. */
static enum mpq_status matched_read(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                    const struct mpq_dataset *dataset, uint32_t sample,
                                    struct mpq_tensor *y)
{
    (void)ctx, (void)scratch;
    char *const *data = dataset->state;
    for (uint32_t i = 0; i < dataset->n_input; i++) {
        size_t bytes = mpq_tensor_bytes(&y[i]);
        memcpy(y[i].data, data[i] + sample * bytes, bytes);
    }
    return MPQ_OK;
}

static const struct mpq_source matched = {.what = "matched samples", .read = matched_read};

static enum mpq_status match_all(struct mpq_ctx *ctx, struct matcher *m,
                                 const struct effort *effort, struct mpq_dataset *dataset)
{
    char **data = mpq_arena_alloc(ctx, dataset->arena, dataset->n_input, sizeof *data);
    if (!data)
        return MPQ_E_NOMEM;
    for (uint32_t i = 0; i < dataset->n_input; i++) {
        size_t bytes = mpq_tensor_bytes(&dataset->input[i]) * m->batch;
        if (bytes != mpq_tensor_bytes(m->input[i]))
            return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "an input does not follow the batch");
        data[i] = mpq_arena_alloc(ctx, dataset->arena, effort->n_batch, bytes);
        if (!data[i])
            return MPQ_E_NOMEM;
    }
    for (uint32_t b = 0; b < effort->n_batch; b++) {
        MPQ_TRY(read_start(ctx, m, dataset, b * m->batch));
        draw_classes(ctx, m, b * m->batch);
        if (b == 0)
            MPQ_TRY(find_scale(ctx, m));
        MPQ_TRY(match_batch(ctx, m, effort, b));
        for (uint32_t i = 0; i < dataset->n_input; i++) {
            if (m->start[i] && mpq_tensor_find_nonfinite(m->input[i]) >= 0)
                return mpq_fail(ctx, MPQ_E_NUMERIC, "the gradient is not finite");
            size_t bytes = mpq_tensor_bytes(m->input[i]);
            memcpy(data[i] + b * bytes, m->input[i]->data, bytes);
        }
    }
    dataset->source = &matched;
    dataset->state = data;
    dataset->n_sample = effort->n_batch * m->batch;
    return MPQ_OK;
}

static enum mpq_status match(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                             const struct mpq_graph *graph, bool with_outputs,
                             struct mpq_dataset *dataset)
{
    struct mpq_graph *part;
    struct mpq_binding one;
    struct effort effort;
    struct matcher m;
    MPQ_TRY(trim(ctx, scratch, graph, with_outputs, &part));
    MPQ_TRY(mpq_bind_batch(ctx, scratch, part, 1, &one));
    if (!choose_effort(part, &one, dataset->n_sample, &effort))
        return mpq_fail(ctx, MPQ_E_LIMIT, "the model is too large");
    MPQ_TRY(matcher_create(ctx, scratch, graph, part, effort.batch, &m));
    if (!can_match(&m))
        return mpq_fail(ctx, MPQ_E_UNSUPPORTED, "no BatchNormalization depends on a float input");
    MPQ_TRY(match_all(ctx, &m, &effort, dataset));
    mpq_log(
        ctx, MPQ_LOG_INFO,
        "%u synthetic samples match %u BatchNormalization nodes: start %g + %g noise, loss %.3g "
        "to %.3g",
        dataset->n_sample, m.n_norm, m.shift, m.scale, m.first_loss, m.last_loss);
    return MPQ_OK;
}

/* Whether the model is at fault, so that less can be tried. */
static bool cannot(enum mpq_status status)
{
    return status == MPQ_E_SHAPE || status == MPQ_E_UNSUPPORTED || status == MPQ_E_LIMIT ||
           status == MPQ_E_NUMERIC;
}

enum mpq_status mpq_dataset_synthesize(struct mpq_ctx *ctx, struct mpq_arena *arena,
                                       const struct mpq_graph *graph, const struct mpq_shape *shape,
                                       uint32_t n_sample, struct mpq_dataset **out)
{
    struct mpq_dataset *dataset;
    MPQ_TRY(mpq_dataset_synthetic(ctx, arena, graph, shape, n_sample, &dataset));
    struct mpq_arena *scratch = mpq_arena_create(ctx);
    if (!scratch)
        return MPQ_E_NOMEM;
    enum mpq_status status = match(ctx, scratch, graph, true, dataset);
    if (cannot(status)) {
        mpq_ctx_clear(ctx);
        mpq_arena_reset(scratch);
        status = match(ctx, scratch, graph, false, dataset);
    }
    mpq_arena_free(scratch);
    if (cannot(status)) {
        mpq_log(ctx, MPQ_LOG_INFO, "synthetic samples are noise that ignores the model: %s",
                ctx->message);
        mpq_ctx_clear(ctx);
        status = MPQ_OK;
    }
    if (status == MPQ_OK)
        *out = dataset;
    return status;
}
