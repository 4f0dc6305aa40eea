/* Files for the tests of data: a folder that goes away, and what is written into it. */
#ifndef MPQ_TESTS_UNIT_DATA_FILES_H
#define MPQ_TESTS_UNIT_DATA_FILES_H

#include "calibration/picture.h"
#include "quantcore/ir/tensor.h"

/* Around every test: an empty folder, and the removal of all that is in it. */
int data_files_set_up(void **state);
int data_files_tear_down(void **state);

/* "folder/name", in memory that lives until tear_down; name "" is the folder. */
char *data_file(const char *name);
char *data_file_write(const char *name, const void *bytes, size_t n_bytes);
char *data_file_text(const char *name, const char *text);
uint8_t *data_file_read(const char *path, size_t *out_n_bytes); /* malloc */

/* Pixel (y, x, c) is (37x + 91y + 53c + 7xy) mod 256: no symmetry, all values. */
struct mpq_picture data_picture(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t height,
                                int64_t width, int64_t channels);
char *data_file_jpeg(const char *name, const struct mpq_picture *picture, int quality);
/* 2 or 4 channels: the last is alpha. wide: 16 bits, each byte doubled. */
char *data_file_png(const char *name, const struct mpq_picture *picture, bool wide,
                    bool interlaced);

/* A zip as numpy.savez_compressed() writes it, of one member and a text that is no array. */
char *data_file_deflated(const char *name, const char *member, const void *bytes, size_t n_bytes);

uint64_t data_hash(const uint8_t *bytes, size_t n); /* FNV-1a, 64 bits */

#endif
