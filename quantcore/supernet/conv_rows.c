#include "quantcore/supernet/conv_rows.h"

#include "quantcore/base/integer.h"
#include "quantcore/base/simd.h"

void mpq_conv_rows_offsets(const struct mpq_conv *conv, int64_t *out_offset)
{
    const int64_t *in = conv->in, *step = conv->dilation, *kernel = conv->kernel;
    for (int64_t c = 0; c < conv->c / conv->group; c++)
        for (int64_t i = 0; i < kernel[0]; i++)
            for (int64_t j = 0; j < kernel[1]; j++)
                for (int64_t k = 0; k < kernel[2]; k++)
                    *out_offset++ =
                        ((c * in[0] + i * step[0]) * in[1] + j * step[1]) * in[2] + k * step[2];
}

int64_t mpq_conv_rows_apart(const struct mpq_conv *conv, int64_t most)
{
    int64_t apart = mpq_ceil_div(mpq_volume(conv->out), most);
    while (apart > 1 && mpq_gcd(apart, conv->out[2]) > 1)
        apart++;
    return apart;
}

/* place [n_tap] of the output position `at`. */
static void place_taps(const struct mpq_conv *conv, int64_t at, int64_t *place)
{
    int64_t places = mpq_volume(conv->out), image = at / places, begin[3];
    const int64_t *in = conv->in, *step = conv->dilation, *kernel = conv->kernel;
    for (int d = 2; d >= 0; d--) {
        begin[d] = at % conv->out[d] * conv->stride[d] - conv->pad[d];
        at /= conv->out[d];
    }
    for (int64_t i = 0; i < kernel[0]; i++)
        for (int64_t j = 0; j < kernel[1]; j++)
            for (int64_t k = 0; k < kernel[2]; k++) {
                int64_t z = begin[0] + i * step[0], y = begin[1] + j * step[1];
                int64_t x = begin[2] + k * step[2];
                bool is_inside = z >= 0 && z < in[0] && y >= 0 && y < in[1] && x >= 0 && x < in[2];
                *place++ =
                    is_inside ? image * conv->c * mpq_volume(in) + (z * in[1] + y) * in[2] + x : -1;
            }
}

struct mpq_conv_rows mpq_conv_rows_place(const struct mpq_conv *conv, const int64_t *offset,
                                         int64_t first, int64_t apart, int64_t n_row,
                                         int64_t *place)
{
    int64_t n_tap = mpq_volume(conv->kernel);
    for (int64_t r = 0; r < n_row; r++)
        place_taps(conv, first + r * apart, place + r * n_tap);
    return (struct mpq_conv_rows){conv, n_tap, n_row, place, offset};
}

MPQ_MULTIVERSION
static void fill_inside(const mpq_real *restrict x, const int64_t *restrict offset, int64_t n,
                        mpq_real *restrict row)
{
    for (int64_t i = 0; i < n; i++)
        row[i] = x[offset[i]];
}

void mpq_conv_rows_fill(const struct mpq_conv_rows *rows, const mpq_real *x, int64_t g,
                        int64_t begin, int64_t end, mpq_real *row)
{
    const struct mpq_conv *conv = rows->conv;
    int64_t channels = conv->c / conv->group, plane = mpq_volume(conv->in), n_tap = rows->n_tap;
    x += g * channels * plane;
    row += begin * channels * n_tap;
    for (int64_t r = begin; r < end; r++) {
        const int64_t *place = rows->place + r * n_tap;
        if (channels > 1 && mpq_conv_rows_is_inside(place, n_tap)) {
            fill_inside(x + place[0], rows->offset, channels * n_tap, row);
            row += channels * n_tap;
            continue;
        }
        for (int64_t c = 0; c < channels; c++)
            for (int64_t t = 0; t < n_tap; t++)
                *row++ = place[t] < 0 ? 0 : x[c * plane + place[t]];
    }
}
