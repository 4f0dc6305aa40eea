#include "tests/unit/data_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>
#include <png.h>
#include <zip.h>

#include "tests/check.h"

#define N_PATH 64

static char folder[] = "/tmp/mpq_data_XXXXXX";
static char path[N_PATH][512];
static int n_path;

int data_files_set_up(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    n_path = 0;
    return mkdtemp(folder) ? 0 : -1;
}

int data_files_tear_down(void **state)
{
    (void)state;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char full[512];
        snprintf(full, sizeof full, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.' || entry->d_name[1])
            unlink(full);
    }
    if (dir)
        closedir(dir);
    return rmdir(folder);
}

char *data_file(const char *name)
{
    char *full = path[n_path++ % N_PATH];
    snprintf(full, sizeof path[0], *name ? "%s/%s" : "%s%s", folder, name);
    return full;
}

char *data_file_write(const char *name, const void *bytes, size_t n_bytes)
{
    char *full = data_file(name);
    FILE *file = fopen(full, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
    return full;
}

char *data_file_text(const char *name, const char *text)
{
    return data_file_write(name, text, strlen(text));
}

uint8_t *data_file_read(const char *full, size_t *out_n_bytes)
{
    FILE *file = fopen(full, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    size_t n = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, n, file), n);
    fclose(file);
    *out_n_bytes = n;
    return bytes;
}

struct mpq_picture data_picture(struct mpq_ctx *ctx, struct mpq_arena *arena, int64_t height,
                                int64_t width, int64_t channels)
{
    struct mpq_picture picture;
    CHECK_OK(ctx, mpq_picture_alloc(ctx, arena, height, width, channels, &picture));
    for (int64_t y = 0, i = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < channels; c++)
                picture.pixel[i++] = (uint8_t)(37 * x + 91 * y + 53 * c + 7 * x * y);
    return picture;
}

char *data_file_jpeg(const char *name, const struct mpq_picture *picture, int quality)
{
    static const J_COLOR_SPACE space[] = {0, JCS_GRAYSCALE, 0, JCS_RGB, JCS_CMYK};
    char *full = data_file(name);
    FILE *file = fopen(full, "wb");
    assert_non_null(file);
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr error;
    jpeg.err = jpeg_std_error(&error);
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_height = (JDIMENSION)picture->height;
    jpeg.image_width = (JDIMENSION)picture->width;
    jpeg.input_components = (int)picture->channels;
    jpeg.in_color_space = space[picture->channels];
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, quality, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    for (int64_t y = 0; y < picture->height; y++) {
        JSAMPROW row = picture->pixel + y * picture->width * picture->channels;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    fclose(file);
    return full;
}

char *data_file_png(const char *name, const struct mpq_picture *picture, bool wide, bool interlaced)
{
    static const int color[] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                                PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
    char *full = data_file(name);
    FILE *file = fopen(full, "wb");
    assert_non_null(file);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    size_t row_bytes = (size_t)(picture->width * picture->channels) << wide;
    size_t n = row_bytes * (size_t)picture->height;
    uint8_t *bytes = malloc(n);
    png_bytepp row = malloc((size_t)picture->height * sizeof *row);
    assert_non_null(bytes);
    assert_non_null(row);
    for (size_t i = 0; i < n; i++)
        bytes[i] = picture->pixel[i >> wide];
    for (int64_t y = 0; y < picture->height; y++)
        row[y] = bytes + (size_t)y * row_bytes;
    png_init_io(png, file);
    png_set_IHDR(png, info, (png_uint_32)picture->width, (png_uint_32)picture->height,
                 wide ? 16 : 8, color[picture->channels],
                 interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    png_write_image(png, row);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    fclose(file);
    free(row);
    free(bytes);
    return full;
}

char *data_file_deflated(const char *name, const char *member, const void *bytes, size_t n_bytes)
{
    char *full = data_file(name);
    zip_t *zip = zip_open(full, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(zip);
    zip_int64_t i =
        zip_file_add(zip, member, zip_source_buffer(zip, bytes, n_bytes, 0), ZIP_FL_ENC_UTF_8);
    zip_set_file_compression(zip, (zip_uint64_t)i, ZIP_CM_DEFLATE, 9);
    zip_file_add(zip, "readme.txt", zip_source_buffer(zip, "hello", 5, 0), ZIP_FL_ENC_UTF_8);
    assert_int_equal(zip_close(zip), 0);
    return full;
}

uint64_t data_hash(const uint8_t *bytes, size_t n)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}
