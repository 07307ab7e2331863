/* SPDX-License-Identifier: MIT */
/* test_config.c - what devtap run is asked for: files, command lines, and both. */
#include "tools/run/run.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct run_config config;
static struct dt_error err;

static void fresh(void)
{
    run_config_free(&config);
    run_config_init(&config);
    err.text[0] = '\0';
}

static int parse(const char *text)
{
    fresh();
    return run_config_parse_text(&config, "f.conf", text, strlen(text), &err);
}

static int args(char **argv)
{
    fresh();
    return run_config_parse_args(&config, argv, &err);
}
#define ARGS(...) args((char *[]){__VA_ARGS__, NULL})

#define FAILS(input, message)                                                 \
    do {                                                                      \
        assert_true(parse(input) < 0 || run_config_judge(&config, &err) < 0); \
        if (!strstr(err.text, message))                                       \
            fail_msg("'%s' lacks '%s'", err.text, message);                   \
    } while (0)

static void test_file(void **state)
{
    assert_int_equal(parse("# a comment\n"
                           "threads = 2\n"
                           "poll=100us\n"
                           "\n"
                           "[disk vm1-root]\n"
                           "  # a comment may be indented\n"
                           "socket = /run/vm1.sock\n"
                           "socket-mode = 0660\n"
                           "serial =  ROOT 0001 \n"
                           "chain = throttle iops=5000\n"
                           "      | # not a comment\n"
                           "# but this is\n"
                           "      | null size=1G\n"
                           "[disk b]\r\n"
                           "fd = 7\r\n"
                           "chain = null size=1M\r\n"),
                     0);
    assert_int_equal(config.process.threads, 2);
    assert_int_equal(config.process.poll, DT_US(100));
    assert_int_equal(config.count, 2);
    assert_string_equal(config.disks[0].name, "vm1-root");
    assert_string_equal(config.disks[0].where, "f.conf:5");
    assert_string_equal(config.disks[0].options.serial, "ROOT 0001");
    assert_string_equal(config.disks[0].options.chain,
                        "throttle iops=5000 | # not a comment | null size=1G");
    assert_string_equal(config.disks[1].options.chain, "null size=1M");
}

static void test_cards(void **state)
{
    char **argv;

    assert_int_equal(parse("[net eth]\nchain = null\nqueues = 2\n[disk vda]\nchain = null\n"), 0);
    assert_int_equal(config.disks[0].kind, DEVICE_NET);
    assert_int_equal(config.disks[0].options.queues, 2);
    assert_int_equal(config.disks[1].kind, DEVICE_DISK);
    assert_int_equal(ARGS("--net", "eth", "--socket", "/x", "null", "--disk=vda", "null"), 0);
    assert_int_equal(config.disks[0].kind, DEVICE_NET);
    assert_int_equal(config.disks[1].kind, DEVICE_DISK);

    /* A worker is told the same. */
    argv = run_config_argv(&config, (const char *const[]){"worker", NULL});
    assert_string_equal(argv[4], "--net=eth");
    for (char **at = argv; *at; at++)
        free(*at);
    free(argv);
}

static void test_judged(void **state)
{
    assert_int_equal(parse("[disk a]\nsocket-mode=0660\nsocket-owner=0\nsocket-group=root\n"
                           "fd=5\nchain=null size=1M"),
                     0);
    assert_int_equal(run_config_judge(&config, &err), 0);
    assert_int_equal(config.disks[0].mode, 0660);
    assert_int_equal(config.disks[0].owner, 0);
    assert_int_equal(config.disks[0].group, 0);
    assert_int_equal(config.disks[0].inherited, 5);
}

static void test_errors_name_the_line(void **state)
{
    FAILS("threads = 2\nthraeds = 3\n",
          "f.conf:2: 'thraeds' is no key of the process; did you mean 'threads'?");
    FAILS("threads = 0", "f.conf:1: threads=0: too small");
    FAILS("\n\nthreads = 2\nthreads = 2\n", "f.conf:4: 'threads' is given twice");
    FAILS("config = /etc/x", "is no key of the process");
    FAILS("print-capabilities = on", "is no key of the process");
    FAILS("[disk a]\nthreads = 2\n", "is no key of a disk");
    FAILS("[disk a]\nchain = null\n[disk a]\n", "f.conf:3: a disk named 'a' is there already");
    FAILS("[disk]\n", "[disk NAME]");
    FAILS("[disk ]\n", "has no name");
    FAILS("[disk a\n", "ends with ']'");
    FAILS("[card a]\n", "[disk NAME] or [net NAME]");
    FAILS("[net ]\n", "the card has no name");
    FAILS("[net a]\nchain = null\n[disk a]\n", "a card named 'a' is there already");
    FAILS("[net a]\nserial = x\nchain = null\n", "net a: serial: a network card has none");
    FAILS("[net a]\ndeadline = 1s\nchain = null\n", "net a: deadline: only the requests of disks");
    FAILS("[disk a]\nconfig-space = on\nchain = null\n",
          "disk a: config-space: a disk always has one");
    FAILS("nonsense\n", "f.conf:1: KEY = VALUE");
    FAILS("= 3\n", "f.conf:1: KEY = VALUE");
    FAILS("  indented\n", "continues a value");
    FAILS("[disk a]\n  indented\n", "f.conf:2: a line that begins with white space");
    FAILS("[disk a]\nsocket=/x\n", "f.conf:1: disk a: it has no chain");
    FAILS("[disk a]\nsocket=/x\nfd=3\nchain=null", "which one is meant");
    FAILS("[disk a]\nsocket-mode=999\nchain=null", "not an octal mode");
    FAILS("[disk a]\nsocket-group=no-such-group\nchain=null", "no group is named");
    FAILS("[disk a]\nserial=123456789012345678901\nchain=null", "longer than 20 bytes");
    FAILS("[disk a]\nthreads-per-disk=2\nchain=null", "there are 1 threads");
    FAILS("[disk a]\nchain=null | \n", "chain, column");
    FAILS("[disk a]\nqueues=0\nchain=null", "f.conf:2: queues=0: too small");
    FAILS("", "no disk");
}

static void test_zero_byte(void **state)
{
    fresh();
    assert_true(run_config_parse_text(&config, "f", "a\0b=c", 5, &err) < 0);
    assert_non_null(strstr(err.text, "f:1: it holds a zero byte"));
}

static void test_command_line(void **state)
{
    assert_int_equal(ARGS("--threads", "2", "--disk", "a", "--socket", "/a", "null size=1M",
                          "--disk", "b", "--packed=off", "--fd=3", "mem size=1M"),
                     0);
    assert_int_equal(config.count, 2);
    assert_string_equal(config.disks[0].options.chain, "null size=1M");
    assert_int_equal(config.disks[0].options.packed, 1);
    assert_int_equal(config.disks[1].options.packed, 0);
    assert_int_equal(run_config_judge(&config, &err), 0);
}

static void test_command_line_errors(void **state)
{
    assert_true(ARGS("null") < 0);
    assert_non_null(strstr(err.text, "must follow its --disk"));
    assert_true(ARGS("--socket", "/a") < 0);
    assert_non_null(strstr(err.text, "--socket must follow its --disk"));
    assert_true(ARGS("--disk", "a", "null", "size=1M") < 0);
    assert_non_null(strstr(err.text, "quote a chain as one word"));
    assert_true(ARGS("--disk", "a", "null", "--disk", "a") < 0);
    assert_non_null(strstr(err.text, "there already"));
    assert_true(ARGS("--poll=1s", "--poll=2s") < 0);
    assert_non_null(strstr(err.text, "given twice"));
}

static void test_command_line_wins(void **state)
{
    const char *text = "threads = 4\npoll = 1ms\n[disk b]\nchain = null\nfd = 4\n";

    assert_int_equal(ARGS("--threads=2", "--disk", "a", "--fd=3", "null"), 0);
    assert_int_equal(run_config_parse_text(&config, "f", text, strlen(text), &err), 0);
    assert_int_equal(config.process.threads, 2);
    assert_int_equal(config.process.poll, DT_MS(1));
    assert_int_equal(config.count, 2);
    assert_true(run_config_parse_text(&config, "f", "threads=x", 9, &err) < 0);
    assert_non_null(strstr(err.text, "f:1: threads=x"));
}

static int finish(void **state)
{
    run_config_free(&config);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_cards),
        cmocka_unit_test(test_judged),
        cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_zero_byte),
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_command_line_errors),
        cmocka_unit_test(test_command_line_wins),
    };

    return cmocka_run_group_tests(tests, NULL, finish);
}
