/* Constants of the graph that no layer replaces, in as few bytes as they take: a bit an element
 * where there are two values, two bytes where that is exact, small ones that are equal as one.
 * Those of two bytes and of one shape but for their length lie in one tensor:
 *
 *   float16 -> Cast -> Split      [a], [b], ... as [a + b + ...]; [1, a, 1], [1, b, 1] likewise
 *   float16 -> Cast               what is large, or of another shape
 */
#ifndef MPQ_EXPORTER_CONSTANT_H
#define MPQ_EXPORTER_CONSTANT_H

#include "exporter/storage.h"

struct mpq_constant {
    const struct mpq_tensor *tensor;
    enum mpq_dtype file_dtype; /* as struct mpq_value                                */
    const char *name;          /* wanted; once written, under which it is read       */
    bool is_known;             /* somebody outside goes by that name: it is that one */
};

/* program: of the file, where its reader computes constants when it loads it; else NULL, and they
 * are initializers, but for those that the model has in two bytes. */
enum mpq_status mpq_constants_write(struct mpq_build *build, struct mpq_storage_program *program,
                                    struct mpq_constant *constant, size_t n) MPQ_CHECKED;

#endif
