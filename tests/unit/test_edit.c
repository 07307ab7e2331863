/* SPDX-License-Identifier: MIT */
/* test_edit.c - steps on a chain, and a chain written again. */
#include "core/core.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void begin(struct chain_edit *edit)
{
    struct dt_error err;

    *edit = (struct chain_edit){.names = {"throttle", "trace", "throttle#2", "file"}};
    assert_int_equal(
        chain_parse(&edit->spec, "throttle iops=1 | trace out=t | throttle#2 | file path=f", &err),
        0);
    edit->spec.layers[0].ordinal = edit->spec.layers[1].ordinal = edit->spec.layers[3].ordinal = 1;
}

static void test_good(void **state)
{
    static const char *const cases[][3] = {
        {"insert top delay time=1ms", NULL,
         "delay time=1ms | throttle iops=1 | trace out=t | throttle#2 | file path=f"},
        {"insert 4 delay", NULL,
         "throttle iops=1 | trace out=t | throttle#2 | delay | file path=f"},
        {"insert bottom throttle", NULL,
         "throttle iops=1 | trace out=t | throttle#2 | throttle#3 | file path=f"},
        {"insert above:trace delay", "insert below:trace delay",
         "throttle iops=1 | delay | trace out=t | delay#2 | throttle#2 | file path=f"},
        {"insert top ./a.so", "remove trace",
         "./a.so | throttle iops=1 | throttle#2 | file path=f"},
        {"remove throttle", NULL, "trace out=t | throttle#2 | file path=f"},
        {"remove throttle", "insert top throttle iops=9",
         "throttle iops=9 | trace out=t | throttle#2 | file path=f"},
        {"move throttle#2 1", NULL, "throttle#2 | throttle iops=1 | trace out=t | file path=f"},
        {"move throttle below:trace", NULL,
         "trace out=t | throttle iops=1 | throttle#2 | file path=f"},
        {"move throttle bottom", "move trace bottom",
         "throttle#2 | throttle iops=1 | trace out=t | file path=f"},
        {"replace throttle#2 throttle iops=7", NULL,
         "throttle iops=1 | trace out=t | throttle#2 iops=7 | file path=f"},
        {"replace trace delay", NULL, "throttle iops=1 | delay | throttle#2 | file path=f"},
        {"replace file file path=\"a b\"", NULL,
         "throttle iops=1 | trace out=t | throttle#2 | file path=\"a b\""},
        {"insert 2 copy to='delay | file path=g'", "adopt copy",
         "throttle iops=1 | delay | file#2 path=g"},
        {"insert 1 delay", "move delay 2",
         "throttle iops=1 | delay | trace out=t | throttle#2 | file path=f"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct chain_edit edit;
        struct dt_error err = {""};
        char *text;

        begin(&edit);
        for (unsigned k = 0; k < 2 && cases[i][k]; k++)
            if (chain_edit_step(&edit, cases[i][k], &err) < 0)
                fail_msg("%s", err.text);
        text = chain_format(&edit.spec);
        assert_string_equal(text, cases[i][2]);
        free(text);
        chain_spec_free(&edit.spec);
    }
}

static void test_bad(void **state)
{
    static const char *const cases[][2] = {
        {"", "'' is no step"},
        {"insrt top delay", "did you mean 'insert'"},
        {"insert", "'' is no position"},
        {"insert 5 delay", "positions 1 to 4"},
        {"insert 0 delay", "positions 1 to 4"},
        {"insert 1x delay", "is no position"},
        {"insert above:nobody delay", "has no layer 'nobody'"},
        {"insert below:file delay", "nothing can be below the back"},
        {"insert top", "the chain is empty"},
        {"insert top delay | trace", "one layer at a time"},
        {"insert top delay \"a", "never closed"},
        {"remove", "the name of a layer is missing"},
        {"remove throttl", "did you mean 'throttle'"},
        {"remove file", "it can be replaced, not removed"},
        {"remove trace now", "what is 'now' for"},
        {"move file 1", "stays where it is"},
        {"move trace", "is no position"},
        {"move trace above:trace", "next to itself"},
        {"move trace top top", "what is 'top' for"},
        {"replace nobody delay", "has no layer 'nobody'"},
        {"replace trace", "the chain is empty"},
        {"adopt trace", "has no chain to='...'"},
        {"adopt nobody", "has no layer 'nobody'"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct chain_edit edit;
        struct dt_error err = {""};

        begin(&edit);
        assert_true(chain_edit_step(&edit, cases[i][0], &err) < 0);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], err.text);
        chain_spec_free(&edit.spec);
    }
}

static void test_full(void **state)
{
    struct chain_edit edit;
    struct dt_error err;

    begin(&edit);
    while (edit.spec.count < CHAIN_MAX_LAYERS)
        assert_int_equal(chain_edit_step(&edit, "insert top delay", &err), 0);
    assert_int_equal(chain_edit_step(&edit, "insert top delay", &err), -E2BIG);
    assert_int_equal(chain_edit_step(&edit, "move delay bottom", &err), 0);
    chain_spec_free(&edit.spec);
}

/* What is written is read as the same, however odd it is. */
static void test_format(void **state)
{
    static const char *const texts[] = {
        "null",
        "file path='a|b'",
        "file path=\"a\\\"b\\\\c\"",
        "file path= x=''",
        "a#2 | a | b#3 k='\n\t'",
        "'./my ext.so'#2 'k y'='v=1' | null",
        "f path=\"'\"",
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct chain_spec one, two;
        struct dt_error err;
        char *text;

        assert_int_equal(chain_parse(&one, texts[i], &err), 0);
        text = chain_format(&one);
        if (chain_parse(&two, text, &err) < 0)
            fail_msg("%s: %s", text, err.text);
        assert_int_equal(one.count, two.count);
        for (unsigned k = 0; k < one.count; k++) {
            assert_true(layer_spec_equal(&one.layers[k], &two.layers[k]));
            assert_int_equal(one.layers[k].ordinal, two.layers[k].ordinal);
        }
        free(text);
        chain_spec_free(&one);
        chain_spec_free(&two);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
