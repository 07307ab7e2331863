/* SPDX-License-Identifier: MIT */
/* test_parallax_label.c - one of a pool's two labels is damaged or missing: it opens, and who may write mends it. */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t places[] = {PX_LABEL_AT, PX_LABEL_COPY_AT};

static uint8_t *label_at(struct px_use *u, unsigned which)
{
    return u->store->bytes + places[which] * PX_BLOCK;
}

static bool same(struct px_use *u)
{
    return memcmp(label_at(u, 0), label_at(u, 1), PX_BLOCK) == 0;
}

/* Whichever it is, and whatever of it but its name. */
static void either_is_enough(void **state)
{
    for (unsigned which = 0; which < 2; which++)
        for (unsigned at = 8; at < 64; at += 5) {
            struct px_use u;

            px_begin(&u, 1024);
            label_at(&u, which)[at] ^= 4;
            px_reopen(&u);
            assert_true(same(&u));
            assert_int_equal(u.others, 1);
            px_end(&u);
        }
}

static void a_missing_copy_is_written(void **state)
{
    struct px_use u;

    px_begin(&u, 1024);
    memset(label_at(&u, 1), 0, PX_BLOCK);
    px_reopen(&u);
    assert_true(same(&u));
    assert_int_equal(u.others, 0);
    px_end(&u);
}

static int open_it(struct px_use *u, bool read_only, struct dt_error *err)
{
    struct pool_options o = {.read_only = read_only};
    struct pool *pool;
    int ret = pool_open(&pool, &u->store->s, &o, err);

    if (ret == 0)
        pool_release(pool);
    return ret;
}

static void readers_change_nothing(void **state)
{
    struct dt_error err;
    struct px_use u;
    uint8_t before[PX_BLOCK];

    px_begin(&u, 1024);
    label_at(&u, 0)[20] ^= 4;
    memcpy(before, label_at(&u, 0), PX_BLOCK);
    assert_int_equal(open_it(&u, true, &err), 0);
    assert_memory_equal(before, label_at(&u, 0), PX_BLOCK);
    px_end(&u);
}

/* A file system was made there since, or a newer program has been at work: then the copy says nothing. */
static void what_is_no_pool_is_not_opened(void **state)
{
    struct dt_error err;
    struct px_use u;

    px_begin(&u, 1024);
    memset(label_at(&u, 0), 0, 16);
    assert_int_equal(open_it(&u, false, &err), -EINVAL);
    assert_non_null(strstr(err.text, "is no pool"));
    memcpy(label_at(&u, 0), label_at(&u, 1), PX_BLOCK);
    label_at(&u, 0)[40] ^= 4;
    label_at(&u, 1)[40] ^= 4;
    assert_int_equal(open_it(&u, false, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "its label, and the copy of it"));
    memcpy(label_at(&u, 0), label_at(&u, 1), PX_BLOCK);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(either_is_enough),
        cmocka_unit_test(a_missing_copy_is_written),
        cmocka_unit_test(readers_change_nothing),
        cmocka_unit_test(what_is_no_pool_is_not_opened),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
