#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calibration/dataset.h"
#include "calibration/npz.h"
#include "quantcore/base/thread.h"
#include "tests/check.h"
#include "tests/unit/data_files.h"

#define MAX_INPUT 4

static struct mpq_ctx ctx;
static struct mpq_arena *arena;

/* The model as far as data go: its inputs. */
static struct mpq_graph *graph;
static struct mpq_shape shape[MAX_INPUT];
static mpq_value_id input_id[MAX_INPUT];
static int64_t n_class;
static struct mpq_preprocess preprocess;

/* The arrays of the .npz to be written. */
static const char *array_name[MAX_INPUT];
static struct mpq_tensor array[MAX_INPUT];
static uint32_t n_array;

static int set_up(void **state)
{
    mpq_ctx_init(&ctx);
    arena = mpq_arena_create(&ctx);
    if (!arena || mpq_graph_create(&ctx, arena, "g", 17, &graph) != MPQ_OK ||
        mpq_preprocess_preset(&ctx, "raw", &preprocess) != MPQ_OK)
        return -1;
    graph->input = input_id;
    n_array = 0;
    n_class = 0;
    return data_files_set_up(state);
}

static int tear_down(void **state)
{
    mpq_arena_free(arena);
    mpq_thread_set_count(1);
    return data_files_tear_down(state);
}

static void add_input(const char *name, enum mpq_dtype dtype, struct mpq_shape one)
{
    mpq_value_id id;
    CHECK_OK(&ctx, mpq_graph_add_value(&ctx, graph, name, &id));
    graph->value[id].dtype = dtype;
    shape[graph->n_input] = one;
    input_id[graph->n_input++] = id;
}

/* An array of the values 0, 1, 2, ... */
static struct mpq_tensor *add_array(const char *name, enum mpq_dtype dtype, struct mpq_shape all)
{
    struct mpq_tensor *tensor = &array[n_array];
    array_name[n_array++] = name;
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, dtype, &all, tensor));
    for (int64_t i = 0; i < mpq_shape_count(&all); i++)
        mpq_tensor_set_double(tensor, i, (double)i);
    return tensor;
}

static char *write_npz(void)
{
    char *path = data_file("x.npz");
    CHECK_OK(&ctx, mpq_npz_write(&ctx, arena, path, true, array_name, array, n_array));
    return path;
}

static enum mpq_status open_with(const char *path, const char *labels, struct mpq_dataset **out)
{
    return mpq_dataset_open(&ctx, arena, path, labels, graph, shape, n_class, &preprocess, out);
}

static struct mpq_dataset *open_npz(void)
{
    struct mpq_dataset *dataset;
    CHECK_OK(&ctx, open_with(write_npz(), NULL, &dataset));
    return dataset;
}

static void npz_fails(enum mpq_status status, const char *part)
{
    struct mpq_dataset *dataset;
    CHECK_FAILS(&ctx, open_with(write_npz(), NULL, &dataset), status, part);
}

/* Samples index[0..n) of every input, batched along the first dimension. */
static struct mpq_tensor *const *read_batch(struct mpq_dataset *dataset, const uint32_t *index,
                                            uint32_t n)
{
    struct mpq_tensor **batch = mpq_arena_alloc(&ctx, arena, MAX_INPUT, sizeof *batch);
    for (uint32_t i = 0; i < graph->n_input; i++) {
        struct mpq_shape all = shape[i];
        if (all.rank)
            all.dim[0] *= n;
        batch[i] = mpq_arena_alloc(&ctx, arena, 1, sizeof *batch[i]);
        CHECK_OK(&ctx,
                 mpq_tensor_alloc(&ctx, arena, graph->value[input_id[i]].dtype, &all, batch[i]));
    }
    CHECK_OK(&ctx, mpq_dataset_read(&ctx, dataset, index, n, batch));
    return batch;
}

static void stacks_samples_of_the_same_rank(void **state)
{
    (void)state;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3));
    add_array("x", MPQ_FLOAT, MPQ_SHAPE(5, 3));
    struct mpq_dataset *dataset = open_npz();
    assert_int_equal(mpq_dataset_count(dataset), 5);
    assert_false(mpq_dataset_has_labels(dataset));
    const uint32_t index[] = {4, 0, 4};
    struct mpq_tensor *const *batch = read_batch(dataset, index, 3);
    static const double want[] = {12, 13, 14, 0, 1, 2, 12, 13, 14};
    for (int i = 0; i < 9; i++)
        CHECK_NEAR(mpq_tensor_double(batch[0], i), want[i], 0, 0);
}

static void takes_whole_inputs_of_one_rank_more(void **state)
{
    (void)state;
    add_input("state", MPQ_FLOAT, MPQ_SHAPE(2, 1, 2));
    add_input("sr", MPQ_INT64, (struct mpq_shape){.rank = 0});
    add_array("state", MPQ_DOUBLE, MPQ_SHAPE(3, 2, 1, 2));
    struct mpq_tensor *rate = add_array("sr", MPQ_INT64, MPQ_SHAPE(3));
    struct mpq_dataset *dataset = open_npz();
    uint32_t index[] = {2, 1};
    struct mpq_tensor *const *batch = read_batch(dataset, index, 1);
    for (int i = 0; i < 4; i++)
        CHECK_NEAR(mpq_tensor_double(batch[0], i), 8 + i, 0, 0);
    CHECK_NEAR(mpq_tensor_double(batch[1], 0), 2, 0, 0);

    /* A batch has one scalar: its samples must agree. */
    struct mpq_tensor two = *batch[0], *both[] = {&two, batch[1]};
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_FLOAT, &MPQ_SHAPE(4, 1, 2), &two));
    CHECK_FAILS(&ctx, mpq_dataset_read(&ctx, dataset, index, 2, both), MPQ_E_SHAPE,
                "input 'sr' is a scalar, and samples 2 and 1 of one batch differ in it");
    for (int i = 0; i < 3; i++)
        mpq_tensor_set_double(rate, i, 16000);
    dataset = open_npz();
    CHECK_OK(&ctx, mpq_dataset_read(&ctx, dataset, index, 2, both));
    CHECK_NEAR(mpq_tensor_double(both[1], 0), 16000, 0, 0);
    CHECK_NEAR(mpq_tensor_double(both[0], 4), 4, 0, 0);
}

static void converts_types(void **state)
{
    (void)state;
    static const enum mpq_dtype from[] = {MPQ_BOOL,  MPQ_INT8,   MPQ_UINT8,   MPQ_INT16,
                                          MPQ_INT32, MPQ_UINT64, MPQ_FLOAT16, MPQ_DOUBLE};
    static const enum mpq_dtype to[] = {MPQ_FLOAT, MPQ_INT64, MPQ_INT32, MPQ_BOOL, MPQ_FLOAT16};
    for (size_t f = 0; f < MPQ_COUNT(from); f++)
        for (size_t t = 0; t < MPQ_COUNT(to); t++) {
            graph->n_input = n_array = 0;
            char name[16];
            snprintf(name, sizeof name, "x%zu_%zu", f, t);
            add_input(name, to[t], MPQ_SHAPE(1, 1));
            add_array(name, from[f], MPQ_SHAPE(2, 1));
            const uint32_t index[] = {0, 1};
            struct mpq_tensor *const *batch = read_batch(open_npz(), index, 2);
            CHECK_NEAR(mpq_tensor_double(batch[0], 0), 0, 0, 0);
            CHECK_NEAR(mpq_tensor_double(batch[0], 1), 1, 0, 0);
        }
}

static void refuses_values_the_model_cannot_take(void **state)
{
    (void)state;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 4));
    struct mpq_tensor *tensor = add_array("x", MPQ_FLOAT, MPQ_SHAPE(9, 4));
    mpq_tensor_set_double(tensor, 22, NAN);
    mpq_tensor_set_double(tensor, 33, INFINITY);
    mpq_thread_set_count(3);
    npz_fails(MPQ_E_NUMERIC, "x.npz: array 'x', sample 5: element 2 is ");
    mpq_tensor_set_double(tensor, 22, 0);
    npz_fails(MPQ_E_NUMERIC, "sample 8: element 1 is inf, which is no float number");
    n_array = 0;
    tensor = add_array("x", MPQ_DOUBLE, MPQ_SHAPE(9, 4));
    mpq_tensor_set_double(tensor, 4, 1e300);
    npz_fails(MPQ_E_NUMERIC, "sample 1: element 0 is 1e+300, which is no float number");

    graph->n_input = n_array = 0;
    add_input("i", MPQ_UINT8, MPQ_SHAPE(1, 1));
    add_array("i", MPQ_INT32, MPQ_SHAPE(257, 1));
    npz_fails(MPQ_E_NUMERIC, "sample 256: element 0 is 256, which is no uint8 number");
    graph->n_input = n_array = 0;
    add_input("j", MPQ_INT64, MPQ_SHAPE(1, 1));
    mpq_tensor_set_double(add_array("j", MPQ_FLOAT, MPQ_SHAPE(2, 1)), 1, 0.5);
    npz_fails(MPQ_E_NUMERIC, "element 0 is 0.5, which is no int64 number");
}

static void says_what_was_found_and_what_is_needed(void **state)
{
    (void)state;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3));
    add_array("y", MPQ_FLOAT, MPQ_SHAPE(5, 3));
    add_array("labels", MPQ_INT64, MPQ_SHAPE(5));
    npz_fails(MPQ_E_FORMAT, "x.npz: no array for input 'x', float [1,3]; found 'y' float [5,3], "
                            "'labels' int64 [5]");
    array_name[0] = "x";
    array[0].shape = MPQ_SHAPE(3, 5);
    npz_fails(MPQ_E_SHAPE, "array 'x' is float [3,5], which is no number of samples for input 'x', "
                           "float [1,3]");
    array[0].shape = MPQ_SHAPE(15);
    npz_fails(MPQ_E_SHAPE, "float [15]");
    array[0].shape = MPQ_SHAPE(0, 3);
    npz_fails(MPQ_E_SHAPE, "array 'x' holds 0 samples, shape [0,3]");

    graph->n_input = n_array = 0;
    add_input("a", MPQ_FLOAT, MPQ_SHAPE(1, 2));
    add_input("b", MPQ_FLOAT, MPQ_SHAPE(1, 2));
    add_array("a", MPQ_FLOAT, MPQ_SHAPE(3, 2));
    add_array("b", MPQ_FLOAT, MPQ_SHAPE(4, 2));
    npz_fails(MPQ_E_SHAPE, "array 'b' holds 4 samples, array 'a' 3");
}

static void feeds_pictures_of_an_npz(void **state)
{
    (void)state;
    add_input("data", MPQ_FLOAT, MPQ_SHAPE(1, 3, 4, 5));
    add_array("images", MPQ_UINT8, MPQ_SHAPE(2, 4, 5, 3));
    add_array("labels", MPQ_UINT8, MPQ_SHAPE(2));
    CHECK_OK(&ctx, mpq_preprocess_preset(&ctx, "imagenet-tf", &preprocess));
    n_class = 2;
    struct mpq_dataset *dataset = open_npz();
    assert_true(mpq_dataset_has_labels(dataset));
    assert_int_equal(mpq_dataset_label(dataset, 1), 1);
    uint32_t input;
    struct mpq_picture_layout layout;
    assert_true(mpq_dataset_pictures(dataset, &input, &layout));
    assert_true(input == 0 && layout.height == 4 && layout.width == 5 && !layout.channels_last);
    const uint32_t index[] = {1};
    struct mpq_tensor *const *batch = read_batch(dataset, index, 1);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 20; i++)
            CHECK_NEAR(mpq_tensor_double(batch[0], c * 20 + i), (60 + i * 3 + c) / 127.5 - 1, 1e-6,
                       1e-6);
}

/* 32 -> 128 and the like: resized whole, whatever the preset's crop. */
static void resizes_pictures_of_an_npz(void **state)
{
    (void)state;
    struct mpq_picture picture = data_picture(&ctx, arena, 7, 5, 3), want;
    struct mpq_tensor *images = add_array("images", MPQ_UINT8, MPQ_SHAPE(1, 7, 5, 3));
    memcpy(images->data, picture.pixel, 105);
    CHECK_OK(&ctx, mpq_preprocess_preset(&ctx, "imagenet", &preprocess));
    preprocess.scale = 1;
    for (int c = 0; c < 4; c++)
        preprocess.mean[c] = 0, preprocess.std[c] = 1;
    CHECK_OK(&ctx, mpq_picture_resize(&ctx, arena, &picture, 4, 3, &want));
    const uint32_t index[] = {0};
    add_input("nchw", MPQ_FLOAT, MPQ_SHAPE(1, 3, 4, 3));
    struct mpq_tensor *const *batch = read_batch(open_npz(), index, 1);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 12; i++)
            CHECK_NEAR(mpq_tensor_double(batch[0], c * 12 + i), want.pixel[i * 3 + c], 0, 0);
}

static void refuses_pictures_that_are_none(void **state)
{
    (void)state;
    add_input("data", MPQ_FLOAT, MPQ_SHAPE(1, 3, 4, 5));
    add_array("images", MPQ_FLOAT, MPQ_SHAPE(2, 3, 4, 5));
    npz_fails(MPQ_E_SHAPE, "array 'images' is float [2,3,4,5], pictures are uint8 [n,H,W,C] with C "
                           "1, 3 or 4; an array called 'data' would be fed as it is");
    n_array = 0;
    add_array("pixels", MPQ_UINT8, MPQ_SHAPE(2, 4, 5, 3));
    npz_fails(MPQ_E_FORMAT, "no array for input 'data', float [1,3,4,5] (an array of that name, or "
                            "pictures as 'images'); found 'pixels' uint8 [2,4,5,3]");
}

static void checks_labels(void **state)
{
    (void)state;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 1));
    add_array("x", MPQ_FLOAT, MPQ_SHAPE(4, 1));
    struct mpq_tensor *labels = add_array("labels", MPQ_INT32, MPQ_SHAPE(4));
    n_class = 3;
    npz_fails(MPQ_E_FORMAT, "x.npz: array 'labels': sample 3 has label 3, the model has 3 classes");
    n_class = 4;
    (void)open_npz();
    mpq_tensor_set_double(labels, 2, -1);
    npz_fails(MPQ_E_FORMAT, "sample 2 has label -1, the model has 4 classes");
    n_class = 0;
    assert_int_equal(mpq_dataset_label(open_npz(), 2), -1);
    labels->shape = MPQ_SHAPE(3);
    npz_fails(MPQ_E_FORMAT,
              "array 'labels' has shape [3], expected one label for each of the 4 samples");
    n_array = 1;
    mpq_tensor_set_double(add_array("labels", MPQ_FLOAT, MPQ_SHAPE(4, 1)), 1, 0.5);
    npz_fails(MPQ_E_FORMAT, "label 0.5 of sample 1 is no whole number");
}

static void labels_of_another_file_take_precedence(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 1));
    add_array("x", MPQ_FLOAT, MPQ_SHAPE(3, 1));
    add_array("labels", MPQ_INT32, MPQ_SHAPE(2)); /* of no use */
    char *path = write_npz();
    n_class = 10;
    CHECK_OK(&ctx, open_with(path, data_file_text("l.csv", "label\n7\n8\n\n9\n"), &dataset));
    assert_int_equal(mpq_dataset_label(dataset, 2), 9);
    CHECK_OK(&ctx, open_with(path,
                             data_file_text("l.csv", "\xef\xbb\xbf"
                                                     "4\r\n5\r\n6"),
                             &dataset));
    assert_int_equal(mpq_dataset_label(dataset, 0), 4);
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", "1\n2\n"), &dataset), MPQ_E_FORMAT,
                "l.csv: has 2 labels for 3 samples");
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", "1\ntwo\n3\n"), &dataset),
                MPQ_E_FORMAT, "l.csv: row 2 has the label 'two', which is no whole number");
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", "1.0\n2.0\n3.0\n"), &dataset),
                MPQ_E_FORMAT, "l.csv: row 2 has the label '2.0', which is no whole number");
    CHECK_FAILS(&ctx, open_with(path, path, &dataset), MPQ_E_FORMAT, "read from .csv or .npy");
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", "1\n2\n10\n"), &dataset),
                MPQ_E_FORMAT, "l.csv: sample 2 has label 10, the model has 10 classes");
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", "a,1\nb,2\nc,3\n"), &dataset),
                MPQ_E_FORMAT, "l.csv: names files, but the samples have no names");
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", ""), &dataset), MPQ_E_FORMAT,
                "l.csv: holds no labels");
    CHECK_FAILS(&ctx, open_with(path, data_file_text("l.csv", "1\n\"2\n"), &dataset), MPQ_E_FORMAT,
                "l.csv: a quote is out of place after row 1");
    CHECK_FAILS(&ctx, open_with(path, data_file("absent.csv"), &dataset), MPQ_E_IO, "absent.csv");
    uint8_t *bytes;
    size_t n;
    int64_t label[] = {3, 2, 1};
    struct mpq_tensor tensor = {MPQ_INT64, MPQ_SHAPE(3), label};
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, &tensor, &bytes, &n));
    CHECK_OK(&ctx, open_with(path, data_file_write("l.npy", bytes, n), &dataset));
    assert_int_equal(mpq_dataset_label(dataset, 0), 3);
}

static void reads_npy(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    uint8_t *bytes;
    size_t n;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 2));
    struct mpq_tensor *tensor = add_array("", MPQ_INT16, MPQ_SHAPE(3, 2));
    CHECK_OK(&ctx, mpq_npy_print(&ctx, arena, tensor, &bytes, &n));
    char *path = data_file_write("x.npy", bytes, n);
    CHECK_OK(&ctx, open_with(path, NULL, &dataset));
    const uint32_t index[] = {2};
    CHECK_NEAR(mpq_tensor_double(read_batch(dataset, index, 1)[0], 1), 5, 0, 0);
    CHECK_FAILS(&ctx, open_with(data_file_write("cut.npy", bytes, n - 1), NULL, &dataset),
                MPQ_E_FORMAT, "cut.npy: an array [3,2] of int16 takes 12 bytes, 11 are there");
    add_input("y", MPQ_FLOAT, MPQ_SHAPE(1, 2));
    CHECK_FAILS(&ctx, open_with(path, NULL, &dataset), MPQ_E_FORMAT,
                "x.npy: the model has 2 inputs; an .npy file can feed only one");
}

static void refuses_other_paths(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3, 4, 4));
    CHECK_FAILS(&ctx, open_with(data_file("absent"), NULL, &dataset), MPQ_E_IO,
                "absent: there is no such file or folder");
    CHECK_FAILS(&ctx, open_with(data_file_text("t.txt", "hello"), NULL, &dataset), MPQ_E_FORMAT,
                "t.txt: is not data that can be read; expected an .npz file, an .npy file or a "
                "folder of pictures");
    CHECK_FAILS(&ctx, open_with(data_file_text("t.npz", "PK"), NULL, &dataset), MPQ_E_FORMAT,
                "t.npz: cannot be opened as an .npz file");
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_FORMAT,
                ": this folder holds no JPEG or PNG pictures");
    graph->n_input = 0;
    add_input("s", MPQ_STRING, MPQ_SHAPE(1, 3));
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_UNSUPPORTED,
                "input 's' has elements of type string");
}

/* Three pictures of different size and kind; the last two in another case and colour. */
static void write_pictures(void)
{
    struct mpq_picture one = data_picture(&ctx, arena, 6, 6, 3);
    struct mpq_picture two = data_picture(&ctx, arena, 9, 12, 1);
    struct mpq_picture three = data_picture(&ctx, arena, 20, 10, 4);
    data_file_png("b.png", &two, false, false);
    data_file_png("a.png", &one, false, false);
    data_file_png("c.PNG", &three, false, false);
    data_file_text(".hidden.png", "nothing");
    data_file_text("notes.txt", "nothing");
}

static void reads_a_folder_in_the_order_of_names(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    write_pictures();
    data_file_text("labels.csv", "file,label,name\nsub/c.PNG,2,\"c, d\"\na.png,0\nb.png,1,b\n");
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 6, 6, 3));
    n_class = 3;
    CHECK_OK(&ctx, open_with(data_file(""), NULL, &dataset));
    assert_int_equal(mpq_dataset_count(dataset), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(mpq_dataset_label(dataset, i), i);
    uint32_t input;
    struct mpq_picture_layout layout;
    assert_true(mpq_dataset_pictures(dataset, &input, &layout) && layout.channels_last);
    struct mpq_picture one = data_picture(&ctx, arena, 6, 6, 3), two;
    two = data_picture(&ctx, arena, 9, 12, 1);
    CHECK_OK(&ctx, mpq_picture_resize(&ctx, arena, &two, 6, 6, &two));
    mpq_thread_set_count(2);
    for (int round = 0; round < 2; round++) { /* decoded, then from the cache */
        const uint32_t index[] = {1, 0, 1, 1, 2};
        struct mpq_tensor *const *batch = read_batch(dataset, index, 5);
        for (int i = 0; i < 108; i++) {
            CHECK_NEAR(mpq_tensor_double(batch[0], i), two.pixel[i / 3], 0, 0);
            CHECK_NEAR(mpq_tensor_double(batch[0], 108 + i), one.pixel[i], 0, 0);
            CHECK_NEAR(mpq_tensor_double(batch[0], 324 + i), two.pixel[i / 3], 0, 0);
        }
        unlink(data_file("a.png"));
        unlink(data_file("b.png"));
    }
}

/* Where the listener was told to be, and whether he asks to stop there. */
struct listener {
    uint64_t step[8];
    uint32_t n;
    bool stops;
    volatile sig_atomic_t cancel;
};

static void listen(void *user, const struct mpq_progress *progress)
{
    struct listener *listener = user;
    assert_true(listener->n < MPQ_COUNT(listener->step));
    listener->step[listener->n++] = progress->step;
    listener->cancel = listener->stops;
}

static void a_folder_is_read_step_by_step(void **state)
{
    (void)state;
    enum { N = 140 };
    struct mpq_dataset *dataset;
    struct mpq_picture picture = data_picture(&ctx, arena, 6, 6, 3);
    struct listener listener = {.stops = true};
    uint32_t index[N];
    for (uint32_t i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u.png", i);
        data_file_png(name, &picture, false, false);
        index[i] = i;
    }
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 6, 6, 3));
    CHECK_OK(&ctx, open_with(data_file(""), NULL, &dataset));
    ctx.progress = listen;
    ctx.user = &listener;
    ctx.cancel = &listener.cancel;
    mpq_thread_set_count(2);
    CHECK_FAILS(&ctx, mpq_dataset_prepare(&ctx, dataset, index, N), MPQ_E_CANCELLED, "interrupted");
    assert_int_equal(listener.n, 1);
    listener = (struct listener){.n = 0};
    CHECK_OK(&ctx, mpq_dataset_prepare(&ctx, dataset, index, N));
    static const uint64_t want[] = {0, 64, 128};
    assert_int_equal(listener.n, MPQ_COUNT(want));
    assert_memory_equal(listener.step, want, sizeof want);
    CHECK_OK(&ctx, mpq_dataset_prepare(&ctx, dataset, index, N)); /* nothing to do, or to tell */
    assert_int_equal(listener.n, MPQ_COUNT(want));
    struct mpq_tensor *const *batch = read_batch(dataset, index, N);
    for (int i = 0; i < N * 108; i++)
        CHECK_NEAR(mpq_tensor_double(batch[0], i), picture.pixel[i % 108], 0, 0);
}

static void labels_of_a_folder_are_complete(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    write_pictures();
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3, 6, 6));
    data_file_text("labels.csv", "a.png,0\nc.PNG,1\n");
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_FORMAT,
                "labels.csv: has no label for 'b.png'");
    data_file_text("labels.csv", "a.png,0\nb.png,7\nc.PNG,1\na.png,0\n");
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_FORMAT,
                "labels.csv: rows 1 and 4 are both about 'a.png'");
    data_file_text("labels.csv", "a.png,0\nb.png,7\nc.PNG,1\n");
    n_class = 7;
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_FORMAT,
                "labels.csv: sample 1 (b.png) has label 7, the model has 7 classes");
    char *other = data_file_text("other.csv", "5\n4\n3\n");
    CHECK_OK(&ctx, open_with(data_file(""), other, &dataset));
    assert_int_equal(mpq_dataset_label(dataset, 0), 5);
}

static void names_the_picture_that_cannot_be_read(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    struct mpq_tensor y, *batch[] = {&y};
    write_pictures();
    data_file_text("b.png", "\x89PNG\r\n\x1a\nand then nothing");
    data_file_text("c.PNG", "no picture");
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3, 6, 6));
    CHECK_OK(&ctx, open_with(data_file(""), NULL, &dataset));
    CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, arena, MPQ_FLOAT, &MPQ_SHAPE(3, 3, 6, 6), &y));
    mpq_thread_set_count(3);
    const uint32_t index[] = {0, 1, 2};
    for (int round = 0; round < 2; round++)
        CHECK_FAILS(&ctx, mpq_dataset_read(&ctx, dataset, index, 3, batch), MPQ_E_FORMAT,
                    "b.png: is a damaged PNG picture");
}

static void refuses_models_that_take_no_pictures(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    write_pictures();
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 257));
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_SHAPE,
                "input 'x', shape [1,257], takes no pictures");
    shape[0] = MPQ_SHAPE(1, 3, 8, 8);
    preprocess.resize = 7;
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_USAGE,
                "a short side of 7 do not cover a crop of 8x8");
    add_input("y", MPQ_FLOAT, MPQ_SHAPE(1, 257));
    CHECK_FAILS(&ctx, open_with(data_file(""), NULL, &dataset), MPQ_E_SHAPE,
                "the model has 2 inputs, pictures can feed only one");
}

static void makes_up_samples(void **state)
{
    (void)state;
    struct mpq_dataset *dataset;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3, 32, 32));
    add_input("h", MPQ_FLOAT, MPQ_SHAPE(1, 4000));
    add_input("ids", MPQ_INT64, MPQ_SHAPE(1, 1000));
    add_input("on", MPQ_BOOL, MPQ_SHAPE(1, 100));
    ctx.seed = 3;
    CHECK_OK(&ctx, mpq_dataset_synthetic(&ctx, arena, graph, shape, 10, &dataset));
    assert_int_equal(mpq_dataset_count(dataset), 10);
    const uint32_t index[] = {7, 2};
    struct mpq_tensor *const *batch = read_batch(dataset, index, 2);
    mpq_thread_set_count(2);
    struct mpq_tensor *const *again = read_batch(dataset, index + 1, 1);
    for (uint32_t k = 0; k < 4; k++) { /* a sample does not depend on its batch */
        size_t bytes = mpq_tensor_bytes(again[k]);
        assert_memory_equal((uint8_t *)batch[k]->data + bytes, again[k]->data, bytes);
        assert_memory_not_equal(batch[k]->data, again[k]->data, bytes);
    }
    /* Mean 0, variance 1; neighbours alike in pictures only. */
    for (uint32_t k = 0; k < 2; k++) {
        double sum = 0, square = 0, product = 0;
        int64_t n = mpq_shape_count(&again[k]->shape);
        for (int64_t i = 0; i < n; i++) {
            double x = mpq_tensor_double(again[k], i);
            sum += x;
            square += x * x;
            product += i ? x * mpq_tensor_double(again[k], i - 1) : 0;
        }
        CHECK_NEAR(sum / (double)n, 0, 0, 0.05);
        CHECK_NEAR(square / (double)n, 1, 0, 0.05);
        CHECK_NEAR(product / (double)n, k == 0 ? 0.7 : 0, 0, k == 0 ? 0.2 : 0.05);
    }
    int seen[8] = {0};
    for (int64_t i = 0; i < 1000; i++)
        seen[mpq_tensor_int(again[2], i)]++;
    for (int i = 0; i < 8; i++)
        assert_in_range(seen[i], 80, 170);
    for (int64_t i = 0; i < 100; i++)
        assert_in_range(mpq_tensor_int(again[3], i), 0, 1);
}

/* Every allocation fails once; each time there is a clean status. */
static void reports_missing_memory(void **state)
{
    (void)state;
    enum mpq_status status = MPQ_E_NOMEM;
    write_pictures();
    char *labels = data_file_text("labels.csv", "a.png,0\nb.png,1\nc.PNG,2\n");
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(1, 3, 6, 6));
    for (long n = 0; status != MPQ_OK; n++) {
        struct mpq_arena *one = mpq_arena_create(&ctx);
        struct mpq_dataset *dataset;
        struct mpq_tensor y, *batch[] = {&y};
        const uint32_t index[] = {2};
        CHECK_OK(&ctx, mpq_tensor_alloc(&ctx, one, MPQ_FLOAT, &shape[0], &y));
        ctx.allocations_left = n;
        status = mpq_dataset_open(&ctx, one, data_file(""), labels, graph, shape, 3, &preprocess,
                                  &dataset);
        if (status == MPQ_OK)
            status = mpq_dataset_read(&ctx, dataset, index, 1, batch);
        assert_true(status == MPQ_OK || status == MPQ_E_NOMEM);
        ctx.allocations_left = -1;
        mpq_ctx_clear(&ctx);
        mpq_arena_free(one);
        assert_true(n < 200);
    }
}

static void guesses_open_sizes(void **state)
{
    (void)state;
    add_input("x", MPQ_FLOAT, MPQ_SHAPE(-1, 3, -1, -1));
    add_input("whole", MPQ_FLOAT, MPQ_SHAPE(-1, -1, 2));
    add_array("images", MPQ_UINT8, MPQ_SHAPE(4, 5, 6, 3));
    add_array("whole", MPQ_FLOAT, MPQ_SHAPE(4, 1, 7, 2));
    char *path = write_npz();
    CHECK_OK(&ctx, mpq_dataset_guess(&ctx, arena, path, graph, &preprocess, shape));
    assert_true(mpq_shape_equal(&shape[0], &MPQ_SHAPE(-1, 3, 5, 6)));
    assert_true(mpq_shape_equal(&shape[1], &MPQ_SHAPE(-1, 7, 2)));
    shape[0] = MPQ_SHAPE(1, -1, -1, 3);
    preprocess.crop = 9;
    CHECK_OK(&ctx, mpq_dataset_guess(&ctx, arena, data_file("."), graph, &preprocess, shape));
    assert_true(mpq_shape_equal(&shape[0], &MPQ_SHAPE(1, 9, 9, 3)));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(stacks_samples_of_the_same_rank),
        TEST(takes_whole_inputs_of_one_rank_more),
        TEST(converts_types),
        TEST(refuses_values_the_model_cannot_take),
        TEST(says_what_was_found_and_what_is_needed),
        TEST(feeds_pictures_of_an_npz),
        TEST(resizes_pictures_of_an_npz),
        TEST(refuses_pictures_that_are_none),
        TEST(checks_labels),
        TEST(labels_of_another_file_take_precedence),
        TEST(reads_npy),
        TEST(refuses_other_paths),
        TEST(reads_a_folder_in_the_order_of_names),
        TEST(a_folder_is_read_step_by_step),
        TEST(labels_of_a_folder_are_complete),
        TEST(names_the_picture_that_cannot_be_read),
        TEST(refuses_models_that_take_no_pictures),
        TEST(guesses_open_sizes),
        TEST(makes_up_samples),
        TEST(reports_missing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
