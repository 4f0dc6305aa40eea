/* The staged copy of an array of images that a convolution reads, and the way from a place in it to
 * the array that is written.
 *
 * Along an axis, tap t at output o reads x[o * stride + t * dilation - pad]. Split t * dilation =
 * shift * stride + phase: what a tap reads is plane `phase` of x, which holds every stride-th
 * element, at o + shift. Taps t and t + period have the same phase; the phases in use are numbered
 * by slot = t % period.
 *
 *   stage[channel][slot][image][row][..][column], with zeros for padding
 *
 * A place is an index into one [image][row][..][column] block. Output (o0, o1, o2) of an image has
 * the place (o0 * pitch1 + o1) * pitch2 + o2, and for tap t reads place + offset(t). */
#ifndef MPQ_OPS_KERNEL_STAGE_H
#define MPQ_OPS_KERNEL_STAGE_H

#include "quantcore/ops/kernel/conv.h"
#include "quantcore/ops/kernel/tile.h"

/* What tiles may read past the end, in elements. */
#define MPQ_STAGE_SLACK (2 * MPQ_TILE_MAX_COLUMNS)

/* From an index i along each axis of a staged plane or of the places to the array's own:
 * i * step + phase[slot] - before. */
struct mpq_stage_map {
    int64_t step[3], before[3];
    int64_t dim[3]; /* of the array: what lies outside is padding, or is dropped */
};

struct mpq_stage {
    int64_t n, channels, group; /* images and channels (of a group) to be staged, groups          */
    int64_t total[3];           /* places along each axis                                         */
    int64_t max_shift[3];       /* of any tap                                                     */
    int64_t period[3];          /* of taps with the same phase                                    */
    int64_t n_slot[3];          /* staged                                                         */
    int64_t kernel[3], dilation[3], stride[3];
    struct mpq_stage_map source, sink;

    /* The cut into units of work. */
    int64_t images, band;          /* images and rows (of places) of a unit, but for the last     */
    int64_t n_block, n_band;       /* units along images and along rows                           */
    int64_t extent[3];             /* what is read of a plane: band + shift, total + shift ...    */
    int64_t pitch[3];              /* extent, less the zeros that neighbours share                */
    int64_t image, plane, channel; /* elements of one image of a slot, one slot, one channel      */
};

/* The stage that reads x to make y or dw, and the one that reads dy to make dx. */
void mpq_stage_forward(const struct mpq_conv *conv, struct mpq_stage *out);
void mpq_stage_backward(const struct mpq_conv *conv, struct mpq_stage *out);

int64_t mpq_stage_units(const struct mpq_stage *stage);
size_t mpq_stage_elements(const struct mpq_stage *stage); /* of one thread's buffer */

struct mpq_unit {
    int64_t group, image, n_image, row, n_row;
    int64_t places; /* up to the last that an output has */
};
struct mpq_unit mpq_stage_unit(const struct mpq_stage *stage, int64_t index);

/* The part of a staged plane that holds elements of the array: [low, high) along each axis, from
 * element `first` of the array's plane on. */
struct mpq_window {
    int64_t low[3], high[3], first;
};

/* What a buffer holds: the unit that was filled into it last and the windows of the first slots.
 * All zero to begin with. */
#define MPQ_KEPT_WINDOWS 8
struct mpq_filled {
    struct mpq_unit unit;
    struct mpq_window window[MPQ_KEPT_WINDOWS];
};

/* Copy what the unit reads from array [n, group * channels, dims]. The zeros and windows of the
 * last unit are used again where they are the same. */
void mpq_stage_fill(const struct mpq_stage *stage, const struct mpq_unit *unit,
                    struct mpq_filled *filled, const mpq_real *array, mpq_real *buffer);

/* The offset of every channel and tap in the stage that reads x, in the order of the weight:
 * out [channels, taps]. */
void mpq_stage_offsets(const struct mpq_stage *stage, int64_t *out);

/* The taps of one phase. They alone reach the elements i * stride + phase of x: for dx they form a
 * convolution of their own. Phases are numbered over the three axes. */
struct mpq_phase {
    int64_t slot[3], phase[3];
    int64_t n_tap[3];
    int64_t taps_before; /* of the phases before */
};
int64_t mpq_phase_count(const struct mpq_stage *stage);
void mpq_stage_phases(const struct mpq_stage *stage, struct mpq_phase *out); /* all of them */
/* The index in the kernel of tap i of a phase, 0 <= i < volume of n_tap. */
int64_t mpq_phase_tap(const struct mpq_stage *stage, const struct mpq_phase *phase, int64_t i);
/* The offset of every channel and tap of a phase in the stage that reads dy: [channels, taps]. */
void mpq_phase_offsets(const struct mpq_stage *stage, const struct mpq_phase *phase, int64_t *out);

/* Parts of columns [begin, begin + n) of places that the written array has: columns from .. from +
 * count go to `to`, `to` + step ...; `to` counts from the unit's first image and channel. `phase`
 * of the sink; channels as many as the array has in all. Returns the number of parts, <= n. */
struct mpq_part {
    int64_t to;
    int from, count;
};
int mpq_stage_parts(const struct mpq_stage *stage, const struct mpq_unit *unit,
                    const int64_t phase[3], int64_t channels, int64_t begin, int64_t n,
                    struct mpq_part *out);

/* n_row rows of places, `stride` apart, to as many channels of the sink from `to` on: written with
 * bias [n_row] or NULL, or added (bias NULL), then clamped (or NULL; only where steps are 1). */
void mpq_stage_store(const struct mpq_stage *stage, const struct mpq_part *part, int n_part,
                     int n_row, const mpq_real *from, int64_t stride, const mpq_real *bias,
                     bool add, const struct mpq_clamp *clamp, mpq_real *to);

#endif
