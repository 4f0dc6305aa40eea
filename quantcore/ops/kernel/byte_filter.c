#include "quantcore/ops/kernel/byte_filter.h"

#include <stddef.h>
#include <string.h>

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"
#include "quantcore/base/thread.h"
#include "quantcore/ops/kernel/depthwise.h"
#include "quantcore/ops/op_util.h"

#if MPQ_SIMD_X86
#include <immintrin.h>

#define TARGET __attribute__((target("arch=x86-64-v4,avx512vnni,avx512vbmi")))

/* 16 outputs at once. Four taps of a filter row are a piece: of 64 bytes of x the four that a piece
 * needs for each output are picked, and multiplied and added up. Outputs are 16 of a row, or, where
 * all of a plane of x fits into 64 bytes, of a plane. */
enum { OUTPUTS = 16, WINDOW = 64, MAX_PIECES = 16, MAX_GROUPS = 4 };

struct pick {
    uint8_t from[WINDOW]; /* byte 4 * output + tap is that of the window   */
    __mmask64 is_within;  /* x; others are x_zero. Where planes are whole. */
};

struct job {
    const struct mpq_byte_filter *f;
    int n_piece, row_pieces; /* of a filter, and of a row of it */
    bool is_whole;           /* planes are windows */
    struct pick pick[MAX_GROUPS][MAX_PIECES];
};

static int64_t row_pieces_of(const struct mpq_conv *conv)
{
    return mpq_ceil_div(conv->kernel[2], 4);
}

bool mpq_is_byte_filter(const struct mpq_conv *conv)
{
    return mpq_is_depthwise(conv) && conv->in[1] == 1 && conv->out[1] == 1 &&
           conv->kernel[1] == 1 && conv->pad[1] == 0 &&
           conv->kernel[0] * row_pieces_of(conv) <= MAX_PIECES && conv->stride[2] < WINDOW &&
           conv->dilation[2] < WINDOW &&
           (OUTPUTS - 1) * conv->stride[2] + (conv->kernel[2] - 1) * conv->dilation[2] < WINDOW &&
           __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi");
}

/* For output `first` + i of a row or plane and each tap of a piece: where in the window it is. */
static void set_pick(const struct job *job, int64_t first, int piece, struct pick *out)
{
    const struct mpq_conv *conv = job->f->conv;
    *out = (struct pick){.is_within = 0};
    for (int i = 0; i < WINDOW; i++) {
        int64_t at = first + i / 4, tap = piece % job->row_pieces * 4 + i % 4;
        if (tap >= conv->kernel[2])
            continue; /* its weight is 0 */
        if (!job->is_whole) {
            out->from[i] = (uint8_t)(at * conv->stride[2] + tap * conv->dilation[2]);
            continue;
        }
        int64_t row = at / conv->out[2] * conv->stride[0] - conv->pad[0] +
                      piece / job->row_pieces * conv->dilation[0];
        int64_t column =
            at % conv->out[2] * conv->stride[2] - conv->pad[2] + tap * conv->dilation[2];
        if (row < 0 || row >= conv->in[0] || column < 0 || column >= conv->in[2])
            continue;
        out->from[i] = (uint8_t)(row * conv->in[2] + column);
        out->is_within |= (__mmask64)1 << i;
    }
}

/* The weights of a channel, four taps to an element, and its bias with what x_zero adds. */
static int32_t take_channel(const struct job *job, int64_t c, int32_t w[MAX_PIECES])
{
    const struct mpq_byte_filter *f = job->f;
    int64_t columns = f->conv->kernel[2], taps = f->conv->kernel[0] * columns;
    const uint8_t *from = f->w + c * taps;
    uint32_t sum = 0;
    for (int64_t t = 0; t < taps; t++)
        sum += (uint32_t)(int8_t)from[t];
    for (int p = 0; p < job->n_piece; p++) {
        int64_t first = p % job->row_pieces * 4;
        w[p] = 0;
        memcpy(&w[p], from + p / job->row_pieces * columns + first,
               (size_t)mpq_min(4, columns - first));
    }
    return (int32_t)((f->bias ? (uint32_t)f->bias[c] : 0) - (uint32_t)f->x_zero * sum);
}

/* The bits of [low, high) of a window. */
static __mmask64 window_mask(int64_t low, int64_t high)
{
    low = mpq_max(low, 0);
    high = mpq_min(high, WINDOW);
    return low < high ? ~(__mmask64)0 >> (WINDOW - (high - low)) << low : 0;
}

/* `n` outputs; numbers beyond int32, and NaN, become its lowest where they are not above to.high.
 */
MPQ_INLINE TARGET void store(const struct mpq_requant *to, __m512i sum, float scale, int64_t n,
                             uint8_t *y)
{
    __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale));
    __m512i code = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(to->high), x));
    code = _mm512_max_epi32(code, _mm512_set1_epi32((int32_t)to->low));
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(code, _mm512_set1_epi32(to->zero)));
    if (n >= OUTPUTS)
        _mm_storeu_si128((__m128i *)y, bytes);
    else
        _mm_mask_storeu_epi8(y, (__mmask16)((1u << n) - 1), bytes);
}

TARGET static void run_whole(const struct job *job, const uint8_t *x, const int32_t *w,
                             int32_t bias, float scale, uint8_t *y)
{
    const struct mpq_byte_filter *f = job->f;
    const int64_t n = mpq_volume(f->conv->out);
    const __m512i zero = _mm512_set1_epi8((char)f->x_zero);
    const __m512i plane = _mm512_maskz_loadu_epi8(window_mask(0, mpq_volume(f->conv->in)), x);
    for (int64_t first = 0; first < n; first += OUTPUTS) {
        const struct pick *pick = job->pick[first / OUTPUTS];
        __m512i sum = _mm512_set1_epi32(bias);
        for (int p = 0; p < job->n_piece; p++)
            sum = _mm512_dpbusd_epi32(sum,
                                      _mm512_mask_permutexvar_epi8(zero, pick[p].is_within,
                                                                   _mm512_loadu_si512(pick[p].from),
                                                                   plane),
                                      _mm512_set1_epi32(w[p]));
        store(&f->to, sum, scale, n - first, y + first);
    }
}

/* Filter rows and pieces of a row are constants where it is inlined with such. */
MPQ_INLINE TARGET void run_rows_of(int64_t filter_rows, int row_pieces, const struct job *job,
                                   const uint8_t *x, const int32_t *w, int32_t bias, float scale,
                                   uint8_t *y)
{
    const struct mpq_byte_filter *f = job->f;
    const struct mpq_conv *conv = f->conv;
    const __m512i zero = _mm512_set1_epi8((char)f->x_zero);
    for (int64_t first = 0; first < conv->out[2]; first += OUTPUTS) {
        int64_t column = first * conv->stride[2] - conv->pad[2];
        const __mmask64 within = window_mask(-column, conv->in[2] - column);
        for (int64_t i = 0; i < conv->out[0]; i++) {
            __m512i sum = _mm512_set1_epi32(bias);
#pragma GCC unroll 3
            for (int64_t r = 0; r < filter_rows; r++) {
                int64_t row = i * conv->stride[0] - conv->pad[0] + r * conv->dilation[0];
                __m512i window = zero;
                if (row >= 0 && row < conv->in[0])
                    window = _mm512_mask_loadu_epi8(zero, within, x + row * conv->in[2] + column);
                for (int p = 0; p < row_pieces; p++)
                    sum = _mm512_dpbusd_epi32(
                        sum,
                        _mm512_permutexvar_epi8(_mm512_loadu_si512(job->pick[0][p].from), window),
                        _mm512_set1_epi32(w[r * row_pieces + p]));
            }
            store(&f->to, sum, scale, conv->out[2] - first, y + i * conv->out[2] + first);
        }
    }
}

TARGET static void run_rows(const struct job *job, const uint8_t *x, const int32_t *w, int32_t bias,
                            float scale, uint8_t *y)
{
    int64_t rows = job->f->conv->kernel[0];
    if (rows == 3 && job->row_pieces == 1)
        run_rows_of(3, 1, job, x, w, bias, scale, y);
    else
        run_rows_of(rows, job->row_pieces, job, x, w, bias, scale, y);
}

static void run_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct mpq_byte_filter *f = job->f;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int64_t c = i % f->conv->c;
        int32_t w[MAX_PIECES], bias = take_channel(job, c, w);
        (job->is_whole ? run_whole : run_rows)(job, f->x + i * mpq_volume(f->conv->in), w, bias,
                                               f->scale[c], f->y + i * mpq_volume(f->conv->out));
    }
}

void mpq_byte_filter_run(const struct mpq_byte_filter *filter)
{
    const struct mpq_conv *conv = filter->conv;
    struct job job = {.f = filter, .row_pieces = (int)row_pieces_of(conv)};
    job.n_piece = (int)conv->kernel[0] * job.row_pieces;
    job.is_whole =
        mpq_volume(conv->in) <= WINDOW && mpq_volume(conv->out) <= (int64_t)MAX_GROUPS * OUTPUTS;
    int64_t n_group = job.is_whole ? mpq_ceil_div(mpq_volume(conv->out), OUTPUTS) : 1;
    for (int64_t g = 0; g < n_group; g++)
        for (int p = 0; p < job.n_piece; p++)
            set_pick(&job, g * OUTPUTS, p, &job.pick[g][p]);
    mpq_parallel_for(conv->n * conv->c, 1 + MPQ_GRAIN / (mpq_volume(conv->out) + 1), run_planes,
                     &job);
}
#else
bool mpq_is_byte_filter(const struct mpq_conv *conv)
{
    (void)conv;
    return false;
}

void mpq_byte_filter_run(const struct mpq_byte_filter *filter)
{
    (void)filter;
}
#endif
