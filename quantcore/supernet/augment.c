#include "quantcore/supernet/augment.h"

#include <string.h>

#include "quantcore/base/rng.h"

/* Where place i of a line of n comes from, mirrored at the ends, which are not repeated. */
static int64_t reflect(int64_t i, int64_t n)
{
    if (i < 0)
        i = -i;
    return i < n ? i : 2 * (n - 1) - i;
}

struct change {
    int64_t down, right;
    bool mirrors;
};

static struct change draw(const struct mpq_augment *a, uint64_t seed, uint64_t step, uint32_t i)
{
    uint32_t n = (uint32_t)(2 * a->reach + 1);
    return (struct change){
        .down = (int64_t)mpq_rng_below(seed, MPQ_STREAM_AUGMENT, step, 3 * i, n) - a->reach,
        .right = (int64_t)mpq_rng_below(seed, MPQ_STREAM_AUGMENT, step, 3 * i + 1, n) - a->reach,
        .mirrors = a->mirrors && mpq_rng_below(seed, MPQ_STREAM_AUGMENT, step, 3 * i + 2, 2)};
}

/* One picture, from -> to; a pixel is `channels` values that lie `apart`. */
static void change(const struct mpq_augment *a, struct change c, const mpq_real *from, mpq_real *to)
{
    int64_t pixel = a->channels_last ? a->channels : 1;
    int64_t apart = a->channels_last ? 1 : a->height * a->width;
    for (int64_t y = 0; y < a->height; y++)
        for (int64_t x = 0; x < a->width; x++) {
            int64_t row = reflect(y - c.down, a->height), column = reflect(x - c.right, a->width);
            if (c.mirrors)
                column = a->width - 1 - column;
            for (int64_t k = 0; k < a->channels; k++)
                to[(y * a->width + x) * pixel + k * apart] =
                    from[(row * a->width + column) * pixel + k * apart];
        }
}

void mpq_augment(const struct mpq_augment *a, uint64_t seed, uint64_t step, uint32_t n, mpq_real *x,
                 mpq_real *scratch)
{
    int64_t size = a->height * a->width * a->channels;
    for (uint32_t i = 0; i < n; i++, x += size) {
        memcpy(scratch, x, (size_t)size * sizeof *x);
        change(a, draw(a, seed, step, i), scratch, x);
    }
}
