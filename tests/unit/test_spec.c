/* SPDX-License-Identifier: MIT */
/* test_spec.c - the syntax of chains, and errors that show the place. */
#include "core/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Prints what was parsed with every word in brackets. */
static void dump(const struct chain_spec *spec, char *out, size_t size)
{
    size_t n = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < spec->count; i++) {
        const struct layer_spec *layer = &spec->layers[i];

        n += (size_t)snprintf(out + n, size - n, "%s<%s>", i ? " | " : "", layer->name);
        for (unsigned j = 0; j < layer->count; j++)
            n += (size_t)snprintf(out + n, size - n, " <%s><%s>", layer->settings[j].key,
                                  layer->settings[j].value);
    }
}

static void test_good(void **state)
{
    static const char *const cases[][2] = {
        {"null", "<null>"},
        {"  null  ", "<null>"},
        {"trace out=/t | file path=a.img", "<trace> <out></t> | <file> <path><a.img>"},
        {"a|b|c", "<a> | <b> | <c>"},
        {"throttle\n  iops=5\tbytes=6\n|\nnull\n", "<throttle> <iops><5> <bytes><6> | <null>"},
        {"file path=\"/my disks/a|b\"", "<file> <path></my disks/a|b>"},
        {"file path='/a \\ b'", "<file> <path></a \\ b>"},
        {"file path=/a\\ b\\|c\\\"", "<file> <path></a b|c\">"},
        {"file path=\"a\\\"b\"'c'd", "<file> <path><a\"bcd>"},
        {"file path=", "<file> <path><>"},
        {"file path=''", "<file> <path><>"},
        {"file path=a=b", "<file> <path><a=b>"},
        {"'./my ext.so' key=1 | null", "<./my ext.so> <key><1> | <null>"},
        {"'a=b' 'k=1'=v=w", "<a=b> <k=1><v=w>"},
        {"a#x#2 | a#x#1", "<a#x> | <a#x>"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct chain_spec spec;
        struct dt_error err = {""};
        char text[512], *written;

        if (chain_parse(&spec, cases[i][0], &err) != 0)
            fail_msg("%s: %s", cases[i][0], err.text);
        dump(&spec, text, sizeof(text));
        assert_string_equal(text, cases[i][1]);
        written = chain_format(&spec);
        chain_spec_free(&spec);
        assert_null(spec.layers);
        if (chain_parse(&spec, written, &err) != 0)
            fail_msg("%s, written again as %s: %s", cases[i][0], written, err.text);
        dump(&spec, text, sizeof(text));
        assert_string_equal(text, cases[i][1]);
        chain_spec_free(&spec);
        free(written);
    }
}

static void test_bad(void **state)
{
    static const char *const cases[][2] = {
        {"", "the chain is empty: it needs at least a back, such as 'file path=disk.img'"},
        {"throttle iops 5000 | null", "chain, column 10: expected key=value, found 'iops' (at >>> "
                                      "in: throttle >>>iops 5000 | null)"},
        {"a | | b",
         "chain, column 5: the name of an extension or back is missing (at >>> in: a | >>>| b)"},
        {"| b", "chain, column 1: the name of an extension or back is missing (at >>> in: >>>| b)"},
        {"a |", "chain, column 4: the name of an extension or back is missing (at >>> in: a |>>>)"},
        {"file path=\"/a b",
         "chain, column 11: the quote is never closed (at >>> in: file path=>>>\"/a b)"},
        {"file path=a\\",
         "chain, column 12: nothing follows the backslash (at >>> in: file path=a>>>\\)"},
        {"path=/a", "chain, column 1: a layer begins with its name, found 'path=/a' (at >>> in: "
                    ">>>path=/a)"},
        {"file =x",
         "chain, column 6: a parameter's name is missing before '=' (at >>> in: file >>>=x)"},
        {"'' a=b",
         "chain, column 1: the name of an extension or back is empty (at >>> in: >>>'' a=b)"},
        {"a#1#2", "chain, column 1: a layer has one number at most (at >>> in: >>>a#1#2)"},
        {"a\n|\nb c", "chain, column 7: expected key=value, found 'c' (at >>> in: a | b >>>c)"},
        {"trace out=/var/tmp/a-long-name | throttle iops | file path=/a/longer/name/yet",
         "chain, column 43: expected key=value, found 'iops' (at >>> in: .../a-long-name | "
         "throttle "
         ">>>iops | file path=/a/long...)"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct chain_spec spec;
        struct dt_error err = {""};

        assert_int_equal(chain_parse(&spec, cases[i][0], &err), -EINVAL);
        assert_string_equal(err.text, cases[i][1]);
        assert_null(spec.layers);
        assert_int_equal(chain_parse(&spec, cases[i][0], NULL), -EINVAL);
    }
}

static void test_too_many(void **state)
{
    char text[4 * CHAIN_MAX_LAYERS + 8] = "a";
    struct chain_spec spec;
    struct dt_error err;

    for (unsigned i = 1; i < CHAIN_MAX_LAYERS; i++)
        strcat(text, " | a");
    assert_int_equal(chain_parse(&spec, text, &err), 0);
    assert_int_equal(spec.count, CHAIN_MAX_LAYERS);
    chain_spec_free(&spec);
    strcat(text, " | a");
    assert_int_equal(chain_parse(&spec, text, &err), -EINVAL);
    assert_non_null(strstr(err.text, "a chain has at most 16 layers"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_too_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
