/* What the weights of a convolution meet, row by row: row r of group g holds the inputs under the
 * filter at an output position, channels outermost and then taps, as the weights are stored; 0
 * where the filter is outside of the image. */
#ifndef MPQ_SUPERNET_CONV_ROWS_H
#define MPQ_SUPERNET_CONV_ROWS_H

#include "quantcore/ops/kernel/conv.h"

struct mpq_conv_rows {
    const struct mpq_conv *conv;
    int64_t n_tap, n_row;
    int64_t *place; /* [n_row, n_tap] where the tap is in a plane, counted from the batch's first
                       number; -1: outside */
    const int64_t *offset; /* [k] from the filter's first tap to each number under it, within the
                              image */
};

/* Whether all taps of a row, place [n_tap], are inside: the first and the last are. */
static inline bool mpq_conv_rows_is_inside(const int64_t *place, int64_t n_tap)
{
    return place[0] >= 0 && place[n_tap - 1] >= 0;
}

/* offset [k] of struct mpq_conv_rows. */
void mpq_conv_rows_offsets(const struct mpq_conv *conv, int64_t *out_offset);

/* How far output positions are apart of which at most `most` >= 1 in an image are to be seen: not
 * in step with the image's rows, or they would be of few columns, those at an edge among them. */
int64_t mpq_conv_rows_apart(const struct mpq_conv *conv, int64_t most);

/* The rows of output positions first, first + apart, ..., counted over all images of a batch: one
 * table for all groups and for whatever is read by this geometry. `place` is room for n_row times
 * the taps of a filter. */
struct mpq_conv_rows mpq_conv_rows_place(const struct mpq_conv *conv, const int64_t *offset,
                                         int64_t first, int64_t apart, int64_t n_row,
                                         int64_t *place);

/* Rows [begin, end) of group g, of the batch x, to row [n_row, k]. */
void mpq_conv_rows_fill(const struct mpq_conv_rows *rows, const mpq_real *x, int64_t g,
                        int64_t begin, int64_t end, mpq_real *row);

#endif
