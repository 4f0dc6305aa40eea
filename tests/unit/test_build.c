#include "exporter/build.h"

#include <string.h>

#include "tests/unit/net.h"

static void begin(struct net *net, struct mpq_build *build)
{
    net_input(net, "a", MPQ_SHAPE(1)); /* names that we might choose */
    net_input(net, "c0", MPQ_SHAPE(1));
    CHECK_OK(&net->ctx, mpq_build_init(&net->ctx, net->arena, net->graph, build));
}

static void test_names_are_new(void **state)
{
    struct mpq_build build;
    begin(*state, &build);
    const char *name[5000];
    for (size_t i = 0; i < MPQ_COUNT(name); i++) {
        name[i] = mpq_build_name(&build);
        assert_int_equal(strlen(name[i]), i < 52 * 62 - 1 ? 2 : 3);
        assert_string_not_equal(name[i], "c0");
    }
    assert_string_equal(name[1], "b0");
    assert_string_equal(name[2], "d0");
    assert_string_equal(name[52], "b1");
}

/* What is used most gets one letter, what nobody uses none; of equals the first comes first. Those
 * who hold a name see it change. */
static void test_the_most_used_are_short(void **state)
{
    struct net *net = *state;
    struct mpq_build build;
    const char *value[60];
    begin(net, &build);
    (void)mpq_build_name(&build); /* for nothing */
    const char *five = mpq_build_shared_int32(&build, 5);
    for (size_t i = 0; i < MPQ_COUNT(value); i++)
        value[i] = MPQ_BUILD_OP(&build, "Add", {i ? value[i - 1] : "c0", five});
    const char *last = MPQ_BUILD_OP(&build, "Sum", {value[7], value[7], value[9]});
    CHECK_OK(&net->ctx, mpq_build_shorten(&build));
    assert_string_equal(five, "b"); /* the graph has an "a" */
    assert_string_equal(value[7], "c");
    assert_string_equal(value[9], "d");
    assert_string_equal(value[0], "e");
    assert_string_equal(value[49], "Z");
    assert_string_equal(value[50], "a0");
    assert_string_equal(value[52], "d0"); /* nor "c0" */
    assert_int_equal(strlen(last), 2);
    assert_string_equal(build.initializer[0]->name, "b");
    assert_string_equal(build.node[0]->input[0], "c0");
    for (size_t i = 0; i < MPQ_COUNT(value); i++) {
        assert_string_equal(build.node[i]->input[1], "b");
        assert_string_equal(build.node[i]->output[0], value[i]);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(value[k], value[i]);
    }
}

static void test_constants_are_shared(void **state)
{
    struct mpq_build build;
    begin(*state, &build);
    const char *five = mpq_build_shared_int32(&build, 5);
    assert_ptr_equal(mpq_build_shared_int32(&build, 5), five);
    assert_ptr_not_equal(mpq_build_shared_uint8(&build, 5), five);
    assert_ptr_not_equal(mpq_build_shared_int32(&build, 6), five);
    assert_ptr_not_equal(mpq_build_shared_ints(&build, (int64_t[]){5}, 1), five);
    assert_int_equal(build.n_initializer, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names_are_new, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_the_most_used_are_short, net_setup, net_teardown),
        cmocka_unit_test_setup_teardown(test_constants_are_shared, net_setup, net_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
