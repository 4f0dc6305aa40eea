/* Weights of 2 to 7 bits at their true size: codes packed into bytes, and a program of standard
 * operators (opset 13) that a runtime folds into an int8 initializer when it loads the file.
 *
 * Layers of one width make a group: one chain unpacks them all.
 *
 *   index, of planes where they are few: uint8 bit planes, of all groups in one tensor,
 *       bits = Gather(table [256, 8] of the bits of a byte, Cast(bytes)) -> Split;
 *       a group:  Reshape [b,-1] -> MatMulInteger([[1,2,4..]], .)
 *   index, of cells, which load five times faster and take more text. g codes make a cell of
 *       k = g*b bits, whose low 8 bits are in one tensor and the others in a second (a third):
 *       Cast(low) + Gather(high table, Cast(high))
 *   offsets, where there are several layers: [rows, row] + CumSum(ScatterElements(0, begins, size))
 *   levels: Gather(table, index), the table [layers * size] or, of cells, [layers * size, g]
 *       = Gather(levels [2^b, layers], codes [g, 2^k]) -> Transpose -> Reshape
 *   layers: Split by what follows their first dimension -> Reshape -> Split along the first
 *
 * codes and high tables are computed from Range, once a file for each width that occurs.
 * Weights of 8 bits, and all weights for a runtime that does not fold, are plain initializers. */
#ifndef MPQ_EXPORTER_STORAGE_H
#define MPQ_EXPORTER_STORAGE_H

#include "exporter/build.h"
#include "quantcore/quant/layer.h"

#define MPQ_STORAGE_MAX_CELL_BITS 14

struct mpq_storage_layer {
    int bits;
    enum mpq_dtype dtype;    /* of its initializer; UNDEFINED: it comes as a program */
    struct mpq_shape shape;  /* of the weight                             */
    const int8_t *level, *q; /* as struct mpq_layer_code; unread where build->measured */
    uint32_t n_level;
    const char *piece; /* of a program: the layer's int8 tensor, once begun */
};

struct mpq_storage_program {
    struct mpq_build *build;
    struct mpq_storage_layer *layer;
    /* Names of what is shared, made at first use. */
    const char *range[MPQ_STORAGE_MAX_CELL_BITS + 1]; /* by bits of a cell                        */
    const char *codes[MPQ_MAX_BITS];                  /* by width; 1: the bits of a byte */
    const char *codes_by_cell[MPQ_MAX_BITS];
    const char *high[MPQ_MAX_BITS][MPQ_STORAGE_MAX_CELL_BITS]; /* by width and shift of the part  */
};

/* Write the programs. layer [n_layer] outlives them. */
enum mpq_status mpq_storage_begin(struct mpq_build *build, struct mpq_storage_layer *layer,
                                  uint32_t n_layer, struct mpq_storage_program *out) MPQ_CHECKED;

/* The name of one layer's integer tensor, written here where it is an initializer, or NULL (see
 * build.h). */
const char *mpq_storage_weight(struct mpq_storage_program *program, uint32_t layer);

/* Whether a float constant is worth storing as a bit an element, masks for instance: two values, a
 * multiple of eight elements, not few. out_value[1] is the one that tensor->data does not begin
 * with. */
bool mpq_storage_has_two_values(const struct mpq_tensor *tensor, float out_value[2]);

/* Write it so, a byte being a cell of 8 codes; the output is `name`. */
const char *mpq_storage_two_values(struct mpq_storage_program *program,
                                   const struct mpq_tensor *tensor, const float value[2],
                                   const char *name);

#endif
