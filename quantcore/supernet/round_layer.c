#include "quantcore/supernet/round_layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/gemm.h"
#include "quantcore/ops/kernel/linear_algebra.h"
#include "quantcore/quant/scale.h"

enum {
    ABREAST = 8, /* channels that are rounded together */
    PANEL = 32,  /* inputs whose errors reach those behind them at once */
};

/* One width of a layer at work. */
struct job {
    const struct mpq_levels *levels;
    mpq_real *scale;  /* [n_channel] given, to become those that serve best */
    mpq_real *offset; /* [n_param] to find */
};

/* Scales are tried in steps of a sixteenth of an octave, from LOWEST to HIGHEST of the given one:
 * below that clipped weights are made up for on the samples only. Of few inputs all are tried; of
 * many, whose errors change little from step to step, every other. */
enum { STEPS = 16, LOWEST = -2, HIGHEST = 6, FEW = 64, MANY = 1024 };

/* One group of a layer, its k inputs taken in `order`, the strongest first. */
struct rounding {
    const struct mpq_layer *layer;
    struct job job;
    const mpq_real *w;    /* latent                                                    */
    const mpq_real *miss; /* [n_channel, k] what the channels miss, see aim_at_float(); NULL
                             where the float model's inputs are taken to be the same */
    const double *upper;  /* [k, k] u with u^T u = (X^T X + damping)^-1, in order      */
    const int32_t *order;
    int64_t k, first_channel, n_channel;
    double *row; /* [thread][N_ROW, k], see struct abreast */
};

/* Moves the channel's weights w to those whose answer to X is nearest to the float model's to F,
 *
 *     w + (F w_float - X w)^T X (X^T X + damping)^-1,
 *
 * where damping keeps them near w in directions that the samples do not show. `row` holds w, in
 * order; `half` [k] is room. */
static void aim_at_float(const struct rounding *r, int64_t c, double *row, double *half)
{
    const mpq_real *miss = r->miss + c * r->k;
    for (int64_t j = 0; j < r->k; j++) {
        const double *u = r->upper + j * r->k;
        half[j] = 0;
        for (int64_t i = j; i < r->k; i++)
            half[j] += u[i] * (double)miss[r->order[i]];
    }
    for (int64_t j = 0; j < r->k; j++) {
        const double *u = r->upper + j * r->k;
        for (int64_t i = j; i < r->k; i++)
            row[i] += u[i] * half[j];
    }
}

typedef double lanes __attribute__((vector_size(64)));
enum { LANES = sizeof(lanes) / sizeof(double) };

/* x[c][i] -= by[j][c] * u[j][i] of ABREAST channels and n_step inputs j, in their order; rows of x
 * and u are k apart. The numbers stay in registers meanwhile. */
MPQ_MULTIVERSION
static void take_off(double *restrict x, int64_t k, const double *restrict u, double (*by)[ABREAST],
                     int64_t n_step, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes sum[ABREAST], next;
        for (int c = 0; c < ABREAST; c++)
            memcpy(&sum[c], x + c * k + i, sizeof next);
        for (int64_t j = 0; j < n_step; j++) {
            memcpy(&next, u + j * k + i, sizeof next);
            for (int c = 0; c < ABREAST; c++)
                sum[c] -= by[j][c] * next;
        }
        for (int c = 0; c < ABREAST; c++)
            memcpy(x + c * k + i, &sum[c], sizeof next);
    }
    for (; i < n; i++)
        for (int64_t j = 0; j < n_step; j++)
            for (int c = 0; c < ABREAST; c++)
                x[c * k + i] -= by[j][c] * u[j * k + i];
}

/* Channels that are rounded together: [ABREAST, k] in the order of inputs. */
struct abreast {
    int64_t first, n;         /* n <= ABREAST; rows of those that are not there are swept, too */
    double *aim, *row, *best; /* weights to round; the same as corrected so far; with least error */
    double scale[ABREAST], error[ABREAST]; /* of `row`; error of the outputs, squared */
    double best_scale[ABREAST], least[ABREAST];
};

enum { N_ROW = 3 * ABREAST };

/* Round input j of all channels; `step` has their errors then, in units of u's diagonal. */
static void round_input(const struct rounding *r, struct abreast *a, int64_t j, double *step)
{
    for (int64_t i = 0; i < a->n; i++) {
        double w = a->row[i * r->k + j];
        int8_t level = mpq_levels_nearest(r->job.levels, (mpq_real)(w / a->scale[i]));
        step[i] = (w - level * a->scale[i]) / r->upper[j * r->k + j];
        a->error[i] += step[i] * step[i];
    }
}

/* Round `aim` in a->scale, input after input, each of what those before it have left. What is
 * behind a panel of inputs comes from memory once for all channels. */
static void sweep(const struct rounding *r, struct abreast *a)
{
    int64_t k = r->k;
    double step[PANEL][ABREAST] = {0};
    memcpy(a->row, a->aim, (size_t)(ABREAST * k) * sizeof *a->row);
    memset(a->error, 0, sizeof a->error);
    for (int64_t first = 0, end; first < k; first = end) {
        end = k - first < PANEL ? k : first + PANEL;
        for (int64_t j = first; j < end; j++) {
            double(*one)[ABREAST] = step + (j - first);
            round_input(r, a, j, *one);
            take_off(a->row + j + 1, k, r->upper + j * k + j + 1, one, 1, end - j - 1);
        }
        take_off(a->row + end, k, r->upper + first * k + end, step, end - first, k - end);
    }
}

/* Round with the scales that many steps from the given ones; whether any channel errs less than it
 * has so far. */
static bool try_scales(const struct rounding *r, struct abreast *a, int shift)
{
    bool is_better = false;
    for (int64_t i = 0; i < a->n; i++) {
        double scale = (double)r->job.scale[a->first + i] * exp2((double)shift / STEPS);
        a->scale[i] = (double)mpq_scale_round(r->layer, (float)scale);
    }
    sweep(r, a);
    for (int64_t i = 0; i < a->n; i++) {
        if (shift && !(a->error[i] < a->least[i]))
            continue;
        is_better = true;
        a->least[i] = a->error[i];
        a->best_scale[i] = a->scale[i];
        memcpy(a->best + i * r->k, a->row + i * r->k, (size_t)r->k * sizeof *a->row);
    }
    return is_better;
}

/* Away from the given scales, either way, until none of the channels gains; of FEW inputs, to the
 * end. What those were fitted to is not what is left once inputs make up for each other: few levels
 * serve better further apart, and the weights of few inputs may by chance all lie near to levels.
 */
static void find_scales(const struct rounding *r, struct abreast *a)
{
    int stride = r->k > MANY ? 2 : 1;
    bool gains = true;
    try_scales(r, a, 0);
    if (r->layer->keeps_scales)
        return;
    for (int shift = stride; shift <= HIGHEST && (gains || r->k <= FEW); shift += stride)
        gains = try_scales(r, a, shift);
    gains = true;
    for (int shift = -stride; shift >= LOWEST && (gains || r->k <= FEW); shift -= stride)
        gains = try_scales(r, a, shift);
}

static void round_abreast(const struct rounding *r, int64_t c, int64_t n, double *room)
{
    int64_t k = r->k;
    struct abreast a = {
        .first = c, .n = n, .aim = room, .row = room + ABREAST * k, .best = room + 2 * ABREAST * k};
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++)
            a.aim[i * k + j] = (double)r->w[mpq_layer_weight_index(r->layer, c + i, r->order[j])];
        if (r->miss)
            aim_at_float(r, c + i, a.aim + i * k, a.row);
    }
    find_scales(r, &a);
    for (int64_t i = 0; i < n; i++) {
        r->job.scale[c + i] = (mpq_real)a.best_scale[i];
        for (int64_t j = 0; j < k; j++) {
            int64_t at = mpq_layer_weight_index(r->layer, c + i, r->order[j]);
            r->job.offset[at] = (mpq_real)(a.best[i * k + j] - (double)r->w[at]);
        }
    }
}

/* Blocks [begin, end) of ABREAST channels. Pieces are of whole blocks, or the scales of a channel
 * would depend on how many threads there are. */
static void round_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct rounding *r = arg;
    double *row = r->row + thread * N_ROW * r->k;
    for (int64_t block = begin; block < end; block++) {
        int64_t first = block * ABREAST, left = r->n_channel - first;
        round_abreast(r, r->first_channel + first, left < ABREAST ? left : ABREAST, row);
    }
}

struct strength {
    double moment;
    int32_t input;
};

static int by_strength(const void *a, const void *b)
{
    const struct strength *x = a, *y = b;
    if (x->moment != y->moment)
        return x->moment > y->moment ? -1 : 1;
    return x->input < y->input ? -1 : 1;
}

/* Order the inputs and factorise the damped inverse of their moments; false where that fails. */
static bool factorise(const struct mpq_moments *moments, int64_t g, struct strength *strength,
                      int32_t *order, double *upper)
{
    int64_t k = moments->k;
    const mpq_real *moment = moments->gram + g * k * k;
    double mean = 0;
    for (int64_t i = 0; i < k; i++) {
        strength[i] = (struct strength){(double)moment[i * k + i], (int32_t)i};
        mean += strength[i].moment / (double)k;
    }
    if (!(mean > 0) || !isfinite(mean))
        return false;
    qsort(strength, (size_t)k, sizeof *strength, by_strength);
    for (int64_t i = 0; i < k; i++) {
        order[i] = strength[i].input;
        for (int64_t j = 0; j <= i; j++)
            upper[i * k + j] = (double)moment[(int64_t)order[i] * k + order[j]];
        upper[i * k + i] += 0.01 * mean;
    }
    return mpq_inverse_cholesky(k, upper);
}

/* out[c]: mean over the rows of X of output channel c of the codes q. */
static void mean_output(const struct mpq_layer *layer, const struct mpq_moments *moments,
                        const int8_t *q, const mpq_real *scale, double *out)
{
    int64_t per_group = layer->n_channel / moments->n_group;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        const double *mean = moments->mean + c / per_group * moments->k;
        out[c] = 0;
        for (int64_t i = 0; i < moments->k; i++)
            out[c] += q[mpq_layer_weight_index(layer, c, i)] * mean[i];
        out[c] *= (double)scale[c] / (double)moments->n_row;
    }
}

/* The same of the float weights over the rows of F. */
static void mean_float_output(const struct mpq_layer *layer, const struct mpq_moments *moments,
                              double *out)
{
    int64_t per_group = layer->n_channel / moments->n_group;
    for (int64_t c = 0; c < layer->n_channel; c++) {
        const double *mean = moments->mean + c / per_group * moments->k;
        out[c] = moments->lack_mean[c];
        for (int64_t i = 0; i < moments->k; i++)
            out[c] += (double)moments->w[c * moments->k + i] * mean[i];
        out[c] /= (double)moments->n_row;
    }
}

/* out [n_channel, k]: (F w_float - X w)^T X. */
static void find_miss(const struct mpq_layer *layer, const mpq_real *w,
                      const struct mpq_moments *moments, mpq_real *moved, mpq_real *out)
{
    int64_t k = moments->k, n = layer->n_channel / moments->n_group;
    bool is_moved = false;
    for (int64_t i = 0; i < layer->n_param; i++) {
        moved[i] = moments->w[i] - w[mpq_layer_weight_index(layer, i / k, i % k)];
        is_moved = is_moved || moved[i] != 0;
    }
    memcpy(out, moments->lack, (size_t)layer->n_param * sizeof *out);
    for (int64_t g = 0; is_moved && g < moments->n_group; g++)
        mpq_gemm(false, false, n, k, k, 1, moved + g * n * k, k, moments->gram + g * k * k, k, 1,
                 out + g * n * k, k);
}

static enum mpq_status round_groups(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                    const struct mpq_layer *layer, const mpq_real *w,
                                    const struct mpq_moments *moments, double *upper,
                                    const struct job *job, int n_job)
{
    int64_t k = moments->k, per_group = layer->n_channel / moments->n_group;
    mpq_real *miss = NULL;
    int32_t *order = mpq_arena_alloc(ctx, scratch, (size_t)k, sizeof *order);
    struct strength *strength = mpq_arena_alloc(ctx, scratch, (size_t)k, sizeof *strength);
    int64_t n_thread = mpq_thread_is_inside() ? 1 : mpq_thread_count();
    double *row = mpq_arena_alloc(ctx, scratch, (size_t)(N_ROW * k * n_thread), sizeof *row);
    if (!order || !strength || !row)
        return MPQ_E_NOMEM;
    if (moments->lack) {
        mpq_real *moved = mpq_arena_alloc(ctx, scratch, (size_t)layer->n_param, sizeof *moved);
        miss = mpq_arena_alloc(ctx, scratch, (size_t)layer->n_param, sizeof *miss);
        if (!moved || !miss)
            return MPQ_E_NOMEM;
        find_miss(layer, w, moments, moved, miss);
    }
    for (int64_t g = 0; g < moments->n_group; g++) {
        if (!factorise(moments, g, strength, order, upper))
            continue;
        for (int i = 0; i < n_job; i++) {
            struct rounding r = {.layer = layer,
                                 .job = job[i],
                                 .w = w,
                                 .miss = miss,
                                 .upper = upper,
                                 .order = order,
                                 .k = k,
                                 .first_channel = g * per_group,
                                 .n_channel = per_group,
                                 .row = row};
            mpq_parallel_for(mpq_ceil_div(per_group, ABREAST), 1, round_blocks, &r);
        }
    }
    return MPQ_OK;
}

static void round_scales(const struct mpq_layer *layer, const mpq_real *scale, mpq_real *out)
{
    for (int64_t c = 0; c < layer->n_channel; c++)
        out[c] = mpq_scale_round(layer, (float)scale[c]);
}

enum mpq_status mpq_round_layer(struct mpq_ctx *ctx, struct mpq_arena *scratch,
                                const struct mpq_layer *layer, struct mpq_supernet_layer *net_layer,
                                mpq_bits_mask mask, const struct mpq_graph *graph,
                                const struct mpq_moments *moments, double *upper,
                                mpq_real *const *offset)
{
    struct job job[MPQ_N_BITS];
    int n_job = 0;
    size_t n_param = (size_t)layer->n_param, n_channel = (size_t)layer->n_channel;
    double *wanted = mpq_arena_alloc(ctx, scratch, n_channel, sizeof *wanted);
    double *got = mpq_arena_alloc(ctx, scratch, n_channel, sizeof *got);
    int8_t *q = mpq_arena_alloc(ctx, scratch, n_param, 1);
    mpq_real *given = mpq_arena_alloc(ctx, scratch, n_channel, sizeof *given);
    mpq_real *target = mpq_arena_alloc(ctx, scratch, n_param, sizeof *target);
    if (!wanted || !got || !q || !given || !target)
        return MPQ_E_NOMEM;
    for (int b = MPQ_MIN_BITS; b <= MPQ_MAX_BITS; b++) {
        struct mpq_supernet_width *width = &net_layer->width[b];
        if (!(mask >> b & 1))
            continue;
        mpq_real *scale = mpq_arena_alloc(ctx, scratch, n_channel, sizeof *scale);
        if (!scale)
            return MPQ_E_NOMEM;
        round_scales(layer, width->scale, scale);
        job[n_job++] = (struct job){&width->levels, scale, offset[b]};
    }
    MPQ_TRY(round_groups(ctx, scratch, layer, net_layer->w, moments, upper, job, n_job));
    for (int i = 0; i < n_job; i++) {
        struct mpq_supernet_width *width = &net_layer->width[job[i].levels->bits];
        /* What the mean is now, it was before with the nearest codes and the bias as it is; the
         * float model knows best. */
        if (width->bias && moments->lack) {
            mean_float_output(layer, moments, wanted);
            memcpy(width->bias, graph->value[layer->bias].constant->data,
                   n_channel * sizeof *width->bias);
        } else if (width->bias) {
            round_scales(layer, width->scale, given);
            mpq_levels_encode(&width->levels, layer, net_layer->w, given, q);
            mean_output(layer, moments, q, given, wanted);
        }
        width->offset = job[i].offset;
        memcpy(width->scale, job[i].scale, n_channel * sizeof *width->scale);
        if (!width->bias)
            continue;
        for (size_t j = 0; j < n_param; j++)
            target[j] = net_layer->w[j] + job[i].offset[j];
        mpq_levels_encode(&width->levels, layer, target, job[i].scale, q);
        mean_output(layer, moments, q, job[i].scale, got);
        for (size_t c = 0; c < n_channel; c++)
            width->bias[c] += (mpq_real)(wanted[c] - got[c]);
    }
    return MPQ_OK;
}

size_t mpq_round_bytes(const struct mpq_layer *layer)
{
    size_t k = (size_t)(layer->n_outer * layer->n_inner);
    size_t of_weights = (size_t)layer->n_param * (3 * sizeof(mpq_real) + 1);
    size_t of_channels = (size_t)layer->n_channel * (2 * sizeof(double) + 8 * sizeof(mpq_real));
    size_t of_rows = k * (sizeof(struct strength) + 4 + N_ROW * sizeof(double));
    return k * k * sizeof(double) + of_weights + of_channels + of_rows;
}
