/* SPDX-License-Identifier: MIT */
/* test_load.c - extensions from shared objects: by path, by name, and what is refused. */
#include "core/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void check_refused(const char *name, const char *reason)
{
    struct dt_error err = {""};

    assert_null(registry_find(name, &err));
    if (!strstr(err.text, reason))
        fail_msg("%s: %s", name, err.text);
}

static void test_by_path(void **state)
{
    struct dt_error err = {""};
    const struct dt_block_ext * xor = registry_find(EXAMPLES_DIR "/xor.so", &err);

    if (!xor)
        fail_msg("%s", err.text);
    assert_string_equal(xor->name, "xor");
    assert_ptr_equal(registry_find(EXAMPLES_DIR "/xor.so", &err), xor); /* once only */
    assert_ptr_equal(registry_find("xor", &err), xor);                  /* known by now */
    assert_ptr_equal(registry_next(NULL), xor);
    assert_null(registry_next(xor));
}

static void test_by_name(void **state)
{
    struct dt_error err = {""};
    const struct dt_block_ext *ext;

    check_refused("watchpoint", "no extension or back is named 'watchpoint'");
    setenv("DEVTAP_EXTENSIONS", "/nonexistent:" EXAMPLES_DIR, 1);
    ext = registry_find("watchpoint", &err);
    if (!ext)
        fail_msg("%s", err.text);
    assert_string_equal(ext->name, "watchpoint");
}

static void test_wrong_file_name(void **state)
{
    char dir[] = "/tmp/devtap-load-XXXXXX";
    _cleanup_free_ char *link = NULL;

    assert_non_null(mkdtemp(dir));
    link = xasprintf("%s/other.so", dir);
    assert_int_equal(symlink(EXAMPLES_DIR "/xor.so", link), 0);
    setenv("DEVTAP_EXTENSIONS", dir, 1);
    check_refused("other", "other.so holds an extension named 'xor': rename the file to xor.so");
    unlink(link);
    rmdir(dir);
}

static void test_refused(void **state)
{
    check_refused(BROKEN_DIR "/hollow.so",
                  "hollow.so is no devtap extension: it lacks DT_BLOCK_EXTENSION(...) or "
                  "DT_NET_EXTENSION(...)");
    check_refused(BROKEN_DIR "/stale.so",
                  "stale.so: it was built for extension ABI 2, and this program has 1: compile it");
    check_refused("/proc/self/cmdline", "cannot load /proc/self/cmdline: ");
    check_refused(BROKEN_DIR "/missing.so", "No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_path),
        cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_wrong_file_name),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
