#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "tests/grad/grad.h"

static const struct grad_table *const tables[] = {
    &grad_cases_conv,   &grad_cases_elementwise, &grad_cases_shape,
    &grad_cases_reduce, &grad_cases_recurrent,
};

/* Their backward is not the derivative of their forward; they have tests of their own. */
static const char *const surrogate[] = {"FakeQuant", "LearnedFakeQuant"};

static void test_every_case(void **state)
{
    int n_failed = 0;
    (void)state;
    for (size_t t = 0; t < MPQ_COUNT(tables); t++)
        for (size_t i = 0; i < tables[t]->n; i++) {
            const struct grad_case *c = &tables[t]->cases[i];
            const struct mpq_op *row = mpq_op_find(c->domain ? c->domain : "", c->op);
            double worst = 0;
            const char *message = !row            ? "there is no such operator"
                                  : row->backward ? grad_check(c, row, &worst)
                                                  : "the operator has no gradient";
            if (*message) {
                print_error("table %zu case %zu (%s): %s\n", t, i, c->op, message);
                n_failed++;
            }
        }
    assert_int_equal(n_failed, 0);
}

static bool has_case(const struct mpq_op *row)
{
    for (size_t i = 0; i < MPQ_COUNT(surrogate); i++)
        if (strcmp(surrogate[i], row->name) == 0)
            return true;
    for (size_t t = 0; t < MPQ_COUNT(tables); t++)
        for (size_t i = 0; i < tables[t]->n; i++)
            if (strcmp(tables[t]->cases[i].op, row->name) == 0)
                return true;
    return false;
}

static void test_every_gradient_has_a_case(void **state)
{
    int n_missing = 0;
    (void)state;
    for (size_t i = 0; i < mpq_op_count(); i++)
        if (mpq_op_at(i)->backward && !has_case(mpq_op_at(i))) {
            print_error("%s has a backward and no gradient case\n", mpq_op_at(i)->name);
            n_missing++;
        }
    assert_int_equal(n_missing, 0);
}

/* The check must find a wrong gradient: Mul with one sign flipped, with one term dropped, and with
 * a gradient written instead of added. */
static const struct mpq_op *mul;

static void flip_sign(const struct mpq_kernel_args *args)
{
    mul->backward(args);
    args->dx[1][0] = 1 - (args->dx[1][0] - 1);
}

static void drop_term(const struct mpq_kernel_args *args)
{
    mpq_real *dx[2] = {args->dx[0], NULL};
    struct mpq_kernel_args one = *args;
    one.dx = dx;
    mul->backward(&one);
}

static void overwrite(const struct mpq_kernel_args *args)
{
    memset(args->dx[0], 0, mpq_tensor_bytes(args->x[0]));
    mul->backward(args);
}

static void test_mutants_are_found(void **state)
{
    static const struct grad_case c = {"Mul", .in = {REALS(-1, 1, 2, 3), REALS(-1, 1, 3)}};
    void (*const mutant[])(const struct mpq_kernel_args *) = {flip_sign, drop_term, overwrite};
    double worst = 0;
    (void)state;
    mul = mpq_op_find("", "Mul");
    assert_string_equal(grad_check(&c, mul, &worst), "");
    for (size_t i = 0; i < MPQ_COUNT(mutant); i++) {
        struct mpq_op broken = *mul;
        broken.backward = mutant[i];
        const char *message = grad_check(&c, &broken, &worst);
        if (!*message)
            fail_msg("mutant %zu of Mul passes the gradient check", i);
    }
}

static void ignore_fresh(const struct mpq_kernel_args *args)
{
    struct mpq_kernel_args adding = *args;
    adding.dx_is_fresh = NULL;
    mul->backward(&adding);
}

static void clear_first(const struct mpq_kernel_args *args)
{
    for (int i = 0; i < 2 && args->dx_is_fresh; i++)
        memset(args->dx[i], 0, mpq_tensor_bytes(args->x[i]));
    ignore_fresh(args);
}

/* ... and a row that says more than its backward keeps. */
static void test_false_claims_are_found(void **state)
{
    static const struct grad_case c = {"Mul", .in = {REALS(-1, 1, 2, 3), REALS(-1, 1, 2, 3)}};
    double worst = 0;
    (void)state;
    mul = mpq_op_find("", "Mul");
    struct mpq_op broken = *mul;
    broken.backward = ignore_fresh;
    assert_non_null(strstr(grad_check(&c, &broken, &worst), "where fresh,"));
    broken.backward = clear_first;
    assert_non_null(strstr(grad_check(&c, &broken, &worst), "in place"));
}

/* And it must find one wrong sign in any backward: that of the largest element of the first
 * gradient of each case. */
static const struct mpq_op *mutated;
static bool is_mutated;

static void flip_largest(const struct mpq_kernel_args *args)
{
    mutated->backward(args);
    is_mutated = false;
    for (uint32_t k = 0; k < args->node->n_in && !is_mutated; k++) {
        int64_t largest = 0, n = args->dx[k] ? mpq_shape_count(&args->x[k]->shape) : 0;
        for (int64_t i = 1; i < n; i++) /* the check fills dx with 1 first */
            if (fabs(args->dx[k][i] - 1) > fabs(args->dx[k][largest] - 1))
                largest = i;
        if (n == 0 || args->dx[k][largest] == 1)
            continue;
        args->dx[k][largest] = 2 - args->dx[k][largest];
        is_mutated = true;
    }
}

static void test_a_wrong_sign_is_found(void **state)
{
    int n_missed = 0, n_found = 0;
    (void)state;
    for (size_t t = 0; t < MPQ_COUNT(tables); t++)
        for (size_t i = 0; i < tables[t]->n; i++) {
            const struct grad_case *c = &tables[t]->cases[i];
            double worst = 0;
            mutated = mpq_op_find(c->domain ? c->domain : "", c->op);
            if (!mutated || !mutated->backward)
                continue;
            struct mpq_op broken = *mutated;
            broken.backward = flip_largest;
            const char *message = grad_check(c, &broken, &worst);
            if (is_mutated && !*message) {
                print_error("table %zu case %zu (%s): a flipped sign passes\n", t, i, c->op);
                n_missed++;
            }
            n_found += is_mutated && *message;
        }
    assert_int_equal(n_missed, 0);
    print_message("%d flipped signs found\n", n_found);
    assert_true(n_found > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_case),
        cmocka_unit_test(test_every_gradient_has_a_case),
        cmocka_unit_test(test_mutants_are_found),
        cmocka_unit_test(test_a_wrong_sign_is_found),
        cmocka_unit_test(test_false_claims_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
