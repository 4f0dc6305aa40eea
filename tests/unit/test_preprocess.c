/* Pictures: files, resizing, presets. Expected pixels come from Pillow 13 on the same pictures. */
#include <stdlib.h>
#include <string.h>

#include "calibration/preprocess.h"
#include "quantcore/base/rng.h"
#include "tests/check.h"
#include "tests/unit/data_files.h"

static struct mpq_ctx ctx;
static struct mpq_arena *arena;

static int set_up(void **state)
{
    mpq_ctx_init(&ctx);
    arena = mpq_arena_create(&ctx);
    return arena ? data_files_set_up(state) : -1;
}

static int tear_down(void **state)
{
    mpq_arena_free(arena);
    return data_files_tear_down(state);
}

static struct mpq_picture resize(int64_t h, int64_t w, int64_t c, int64_t to_h, int64_t to_w)
{
    struct mpq_picture picture = data_picture(&ctx, arena, h, w, c);
    CHECK_OK(&ctx, mpq_picture_resize(&ctx, arena, &picture, to_h, to_w, &picture));
    assert_int_equal(picture.height, to_h);
    assert_int_equal(picture.width, to_w);
    return picture;
}

static uint64_t hash(const struct mpq_picture *picture)
{
    return data_hash(picture->pixel,
                     (size_t)(picture->height * picture->width * picture->channels));
}

static void resizes_as_pillow(void **state)
{
    (void)state;
    static const uint8_t down[] = {89,  128, 140, 116, 137, 144, 134, 123, 130, 102, 127, 180,
                                   103, 141, 123, 134, 127, 139, 132, 151, 127, 163, 122, 145,
                                   112, 165, 122, 114, 145, 127, 114, 145, 95,  139, 109, 135};
    static const uint8_t up[] = {0,   0,   8,   19,  29,  37,  37,  36,  36,  45,  57,  68,
                                 76,  76,  91,  91,  100, 113, 126, 135, 135, 146, 146, 156,
                                 170, 184, 194, 194, 182, 182, 193, 208, 222, 233, 233};
    struct mpq_picture picture = resize(7, 5, 3, 3, 4);
    assert_memory_equal(picture.pixel, down, sizeof down);
    picture = resize(3, 2, 1, 5, 7);
    assert_memory_equal(picture.pixel, up, sizeof up);
    picture = resize(9, 20, 1, 4, 23); /* the height goes first */
    assert_true(hash(&picture) == 0x64cb17c4f4d5052f);
    picture = resize(40, 30, 3, 24, 24);
    assert_true(hash(&picture) == 0xab8b4d43df7eb6cd);
}

static void keeps_a_picture_of_the_right_size(void **state)
{
    (void)state;
    struct mpq_picture picture = data_picture(&ctx, arena, 4, 6, 3), same;
    CHECK_OK(&ctx, mpq_picture_resize(&ctx, arena, &picture, 4, 6, &same));
    assert_ptr_equal(same.pixel, picture.pixel);
}

static void converts_as_pillow(void **state)
{
    (void)state;
    static const uint8_t gray[] = {43,  80, 117, 154, 191, 199, 134, 178, 193, 87,  54,  98,
                                   196, 97, 71,  122, 173, 195, 60,  118, 176, 205, 113, 94};
    struct mpq_picture color = data_picture(&ctx, arena, 4, 6, 3), out;
    CHECK_OK(&ctx, mpq_picture_convert(&ctx, arena, &color, 1, &out));
    assert_memory_equal(out.pixel, gray, sizeof gray);
    CHECK_OK(&ctx, mpq_picture_convert(&ctx, arena, &out, 3, &out));
    for (size_t i = 0; i < 72; i++)
        assert_int_equal(out.pixel[i], gray[i / 3]);
    CHECK_OK(&ctx, mpq_picture_convert(&ctx, arena, &color, 4, &out));
    for (size_t i = 0; i < 96; i++)
        assert_int_equal(out.pixel[i], i % 4 == 3 ? 255 : color.pixel[i / 4 * 3 + i % 4]);
}

/* Every kind of PNG that holds its pixels in 8 bits or more gives them back. */
static void reads_png(void **state)
{
    (void)state;
    for (int64_t channels = 1; channels <= 4; channels++)
        for (int wide = 0; wide < 2; wide++)
            for (int interlaced = 0; interlaced < 2; interlaced++) {
                struct mpq_picture picture = data_picture(&ctx, arena, 11, 13, channels), out;
                char *path = data_file_png("x.png", &picture, wide, interlaced);
                CHECK_OK(&ctx, mpq_picture_read(&ctx, arena, path, &out));
                int64_t kept = channels > 2 ? 3 : 1; /* alpha is dropped */
                assert_int_equal(out.channels, kept);
                assert_int_equal(out.height, 11);
                assert_int_equal(out.width, 13);
                for (int64_t i = 0; i < 11 * 13; i++)
                    assert_memory_equal(out.pixel + i * kept, picture.pixel + i * channels,
                                        (size_t)kept);
            }
}

/* One colour survives JPEG within a level or two. */
static void check_flat_jpeg(const uint8_t *color, int64_t channels, const uint8_t *want,
                            int64_t n_want)
{
    struct mpq_picture picture = data_picture(&ctx, arena, 17, 19, channels), out;
    for (int64_t i = 0; i < 17 * 19; i++)
        memcpy(picture.pixel + i * channels, color, (size_t)channels);
    char *path = data_file_jpeg("x.jpg", &picture, 95);
    CHECK_OK(&ctx, mpq_picture_read(&ctx, arena, path, &out));
    assert_int_equal(out.channels, n_want);
    assert_int_equal(out.height, 17);
    assert_int_equal(out.width, 19);
    for (int64_t i = 0; i < 17 * 19 * n_want; i++)
        CHECK_NEAR(out.pixel[i], want[i % n_want], 0, 2);
}

static void reads_jpeg(void **state)
{
    (void)state;
    check_flat_jpeg((const uint8_t[]){90}, 1, (const uint8_t[]){90}, 1);
    check_flat_jpeg((const uint8_t[]){200, 100, 50}, 3, (const uint8_t[]){200, 100, 50}, 3);
    /* Inverted CMYK: 255 is no ink. */
    check_flat_jpeg((const uint8_t[]){200, 100, 50, 255}, 4, (const uint8_t[]){200, 100, 50}, 3);
    check_flat_jpeg((const uint8_t[]){255, 255, 51, 100}, 4, (const uint8_t[]){100, 100, 20}, 3);
}

static void names_damaged_pictures(void **state)
{
    (void)state;
    struct mpq_picture picture = data_picture(&ctx, arena, 64, 64, 3), out;
    size_t n;
    uint8_t *bytes = data_file_read(data_file_jpeg("x.jpg", &picture, 90), &n);
    char *path = data_file_write("cut.jpg", bytes, n / 2);
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, path, &out), MPQ_E_FORMAT,
                "cut.jpg: is a damaged JPEG picture: Premature end");
    path = data_file_write("head.jpg", bytes, 40);
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, path, &out), MPQ_E_FORMAT,
                "head.jpg: is a damaged JPEG picture");
    free(bytes);
    bytes = data_file_read(data_file_png("x.png", &picture, false, false), &n);
    path = data_file_write("cut.png", bytes, n / 2);
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, path, &out), MPQ_E_FORMAT,
                "cut.png: is a damaged PNG picture: the file ends early");
    bytes[n / 2] ^= 1;
    path = data_file_write("bit.png", bytes, n);
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, path, &out), MPQ_E_FORMAT,
                "bit.png: is a damaged PNG picture");
    free(bytes);
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, data_file_text("t.jpg", "GIF89a"), &out),
                MPQ_E_FORMAT, "t.jpg: is neither a JPEG nor a PNG picture");
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, data_file("absent.png"), &out), MPQ_E_IO,
                "absent.png");
}

/* A PNG that claims 100000 x 100000 pixels in 41 bytes. */
static void refuses_huge_pictures(void **state)
{
    (void)state;
    static const uint8_t huge[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\206\240\0\1\206\240\10\2\0\0\0"
                                  "\x27\x30\x9c\x9f\0\0\0\1IDAT";
    struct mpq_picture out;
    char *path = data_file_write("huge.png", huge, sizeof huge - 1);
    CHECK_FAILS(&ctx, mpq_picture_read(&ctx, arena, path, &out), MPQ_E_LIMIT,
                "huge.png: a picture of 100000 x 100000 pixels is too large");
    CHECK_FAILS(&ctx, mpq_picture_alloc(&ctx, arena, 100000, 100000, 3, &out), MPQ_E_LIMIT,
                "100000 x 100000 pixels is too large");
}

static void survives_damage(void **state)
{
    (void)state;
    const uint64_t seed = 5;
    struct mpq_picture picture = data_picture(&ctx, arena, 24, 24, 3);
    print_message("seed=%llu\n", (unsigned long long)seed);
    for (int kind = 0; kind < 2; kind++) {
        size_t n;
        uint8_t *good = data_file_read(kind ? data_file_png("x", &picture, false, true)
                                            : data_file_jpeg("x", &picture, 80),
                                       &n);
        uint8_t *bytes = malloc(n);
        for (int round = 0; round < 1000; round++) {
            struct mpq_arena *one = mpq_arena_create(&ctx);
            struct mpq_picture out;
            memcpy(bytes, good, n);
            for (uint32_t flip = 0; flip < 3; flip++) {
                uint64_t r = mpq_rng_u64(seed, MPQ_STREAM_TEST, (uint64_t)round, flip);
                bytes[3 + r % (n - 3)] = (uint8_t)(r >> 32);
            }
            enum mpq_status status = kind ? mpq_picture_decode_png(&ctx, one, bytes, n, &out)
                                          : mpq_picture_decode_jpeg(&ctx, one, bytes, n, &out);
            assert_true(status == MPQ_OK || *ctx.message);
            mpq_ctx_clear(&ctx);
            mpq_arena_free(one);
        }
        free(bytes);
        free(good);
    }
}

static struct mpq_preprocess preset(const char *name)
{
    struct mpq_preprocess preprocess;
    CHECK_OK(&ctx, mpq_preprocess_preset(&ctx, name, &preprocess));
    return preprocess;
}

static void presets_give_their_values(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int channel, x;
        double y;
    } row[] = {
        {"imagenet", 0, 0, -0.485 / 0.229},
        {"imagenet", 1, 255, (1 - 0.456) / 0.224},
        {"imagenet", 2, 100, (100 / 255.0 - 0.406) / 0.225},
        {"imagenet-tf", 0, 0, -1},
        {"imagenet-tf", 2, 255, 1},
        {"unit", 1, 51, 0.2},
        {"raw", 0, 77, 77},
        {"raw", 2, 255, 255},
    };
    for (size_t i = 0; i < MPQ_COUNT(row); i++) {
        struct mpq_pixel_table table;
        struct mpq_preprocess preprocess = preset(row[i].name);
        mpq_pixel_table_fill(&preprocess, &table);
        CHECK_NEAR(table.value[row[i].channel][row[i].x], row[i].y, 1e-6, 1e-6);
    }
    struct mpq_preprocess preprocess;
    CHECK_FAILS(&ctx, mpq_preprocess_preset(&ctx, "resnet", &preprocess), MPQ_E_USAGE,
                "unknown preprocessing 'resnet'; known are imagenet, imagenet-tf, unit and raw");
}

static void finds_layouts(void **state)
{
    (void)state;
    struct mpq_picture_layout layout;
    assert_true(mpq_picture_layout_find(&MPQ_SHAPE(1, 3, 5, 7), &layout));
    assert_true(!layout.channels_last && layout.channels == 3 && layout.height == 5 &&
                layout.width == 7);
    assert_true(mpq_picture_layout_find(&MPQ_SHAPE(1, 49, 10, 1), &layout));
    assert_true(layout.channels_last && layout.channels == 1 && layout.height == 49 &&
                layout.width == 10);
    assert_true(mpq_picture_layout_find(&MPQ_SHAPE(1, 1, 3, 3), &layout));
    assert_true(!layout.channels_last && layout.channels == 1);
    assert_false(mpq_picture_layout_find(&MPQ_SHAPE(1, 3, 5), &layout));
    assert_false(mpq_picture_layout_find(&MPQ_SHAPE(2, 3, 5, 5), &layout));
    assert_false(mpq_picture_layout_find(&MPQ_SHAPE(1, 8, 5, 2), &layout));
    assert_false(mpq_picture_layout_find(&MPQ_SHAPE(1, 3, 0, 5), &layout));
}

/* torchvision: Resize(16), CenterCrop(14) of a 50 x 37 and of a 37 x 50 picture. */
static void crops_as_torchvision(void **state)
{
    (void)state;
    struct mpq_picture_layout layout = {14, 14, 3, false};
    struct mpq_preprocess preprocess = preset("imagenet");
    struct mpq_picture wide = data_picture(&ctx, arena, 37, 50, 3), out;
    struct mpq_picture tall = data_picture(&ctx, arena, 50, 37, 3);
    CHECK_OK(&ctx, mpq_preprocess_fit(&ctx, arena, &preprocess, &layout, false, &wide, &out));
    assert_true(hash(&out) == 0x78431c1ac2e95448); /* 8/7 of 14 is 16 */
    preprocess.resize = 16;
    preprocess.crop = 14;
    CHECK_OK(&ctx, mpq_preprocess_fit(&ctx, arena, &preprocess, &layout, false, &tall, &out));
    assert_true(hash(&out) == 0x20c444ee609c29cb);
    /* Taken as an array, the picture is not cropped. */
    struct mpq_picture whole;
    CHECK_OK(&ctx, mpq_picture_resize(&ctx, arena, &wide, 14, 14, &whole));
    CHECK_OK(&ctx, mpq_preprocess_fit(&ctx, arena, &preprocess, &layout, true, &wide, &out));
    assert_true(hash(&out) == hash(&whole));
}

static void refuses_a_crop_beyond_the_picture(void **state)
{
    (void)state;
    struct mpq_picture_layout layout = {224, 200, 3, false};
    struct mpq_preprocess preprocess = preset("imagenet");
    CHECK_OK(&ctx, mpq_preprocess_check(&ctx, &preprocess, &layout, false));
    preprocess.resize = 220;
    CHECK_FAILS(&ctx, mpq_preprocess_check(&ctx, &preprocess, &layout, false), MPQ_E_USAGE,
                "a short side of 220 do not cover a crop of 200x224");
    CHECK_OK(&ctx, mpq_preprocess_check(&ctx, &preprocess, &layout, true)); /* is not resized */
}

static void refuses_a_crop_that_is_not_made(void **state)
{
    (void)state;
    struct mpq_picture_layout layout = {32, 32, 3, false};
    struct mpq_preprocess preprocess = preset("unit");
    preprocess.crop = 32;
    CHECK_OK(&ctx, mpq_preprocess_check(&ctx, &preprocess, &layout, false));
    preprocess.crop = 28;
    CHECK_FAILS(&ctx, mpq_preprocess_check(&ctx, &preprocess, &layout, false), MPQ_E_USAGE,
                "--crop 28 without --resize: pictures are resized to 32x32");
    preprocess.resize = 36;
    CHECK_OK(&ctx, mpq_preprocess_check(&ctx, &preprocess, &layout, false));
}

static void refuses_a_mean_of_other_channels(void **state)
{
    (void)state;
    struct mpq_picture_layout gray = {28, 28, 1, false}, colour = {28, 28, 3, false};
    struct mpq_preprocess preprocess = preset("unit");
    preprocess.n_mean = preprocess.n_std = 3;
    CHECK_OK(&ctx, mpq_preprocess_check(&ctx, &preprocess, &colour, true));
    CHECK_FAILS(&ctx, mpq_preprocess_check(&ctx, &preprocess, &gray, true), MPQ_E_USAGE,
                "--mean is of 3 channels, the input has 1");
    preprocess.n_mean = 0;
    CHECK_FAILS(&ctx, mpq_preprocess_check(&ctx, &preprocess, &gray, false), MPQ_E_USAGE,
                "--std is of 3 channels, the input has 1");
}

static void writes_either_layout_and_order(void **state)
{
    (void)state;
    struct mpq_picture picture = data_picture(&ctx, arena, 2, 3, 3);
    struct mpq_preprocess preprocess = preset("raw");
    struct mpq_pixel_table table;
    float value[18];
    uint8_t byte[18];
    for (int last = 0; last < 2; last++)
        for (int bgr = 0; bgr < 2; bgr++) {
            struct mpq_picture_layout layout = {2, 3, 3, last};
            struct mpq_tensor y = {MPQ_FLOAT, MPQ_SHAPE(18), value};
            struct mpq_tensor z = {MPQ_UINT8, MPQ_SHAPE(18), byte};
            preprocess.bgr = bgr;
            preprocess.mean[0] = 1; /* of the model's first channel */
            mpq_pixel_table_fill(&preprocess, &table);
            mpq_preprocess_write(&preprocess, &table, &layout, &picture, &y);
            mpq_preprocess_write(&preprocess, &table, &layout, &picture, &z);
            for (int i = 0; i < 6; i++)
                for (int c = 0; c < 3; c++) {
                    int at = last ? i * 3 + c : c * 6 + i;
                    int x = picture.pixel[i * 3 + (bgr ? 2 - c : c)] - (c == 0);
                    CHECK_NEAR(value[at], x, 0, 0);
                    assert_int_equal(byte[at], x < 0 ? 0 : x); /* saturated */
                }
        }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(resizes_as_pillow),
        TEST(keeps_a_picture_of_the_right_size),
        TEST(converts_as_pillow),
        TEST(reads_png),
        TEST(reads_jpeg),
        TEST(names_damaged_pictures),
        TEST(refuses_huge_pictures),
        TEST(survives_damage),
        TEST(presets_give_their_values),
        TEST(finds_layouts),
        TEST(crops_as_torchvision),
        TEST(refuses_a_crop_beyond_the_picture),
        TEST(refuses_a_crop_that_is_not_made),
        TEST(refuses_a_mean_of_other_channels),
        TEST(writes_either_layout_and_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
