/* SPDX-License-Identifier: MIT */
/* test_base.c - errors, the log, vectors against a naive model, and the generator. */
#include "base/base.h"
#include "base/boot.h"
#include "base/packet.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define MODEL_MAX 600

/* A vector over scattered pieces of @store, and @flat: for each of its bytes, where it lies. */
struct model {
    char store[2 * MODEL_MAX];
    struct iovec iov[12];
    unsigned n;
    char *flat[MODEL_MAX];
    size_t length;
};

static void model_make(struct model *m, struct dt_rng *rng)
{
    size_t at = 0;

    m->n = (unsigned)dt_rng_below(rng, ARRAY_SIZE(m->iov) + 1);
    m->length = 0;
    for (size_t i = 0; i < sizeof(m->store); i++)
        m->store[i] = (char)dt_rng_next(rng);
    for (unsigned i = 0; i < m->n; i++) {
        size_t len = dt_rng_below(rng, 3) ? dt_rng_below(rng, 50) : 0;

        at += dt_rng_below(rng, 20);
        m->iov[i] = (struct iovec){m->store + at, len};
        for (size_t k = 0; k < len; k++)
            m->flat[m->length++] = m->store + at + k;
        at += len;
    }
}

/* How many of @len bytes at @offset exist. */
static size_t model_clip(const struct model *m, size_t offset, size_t len)
{
    return offset >= m->length ? 0 : MIN(len, m->length - offset);
}

static void check_read(struct model *m, size_t offset, size_t len)
{
    char buf[MODEL_MAX * 2];
    size_t want = model_clip(m, offset, len);

    memset(buf, 0x5a, sizeof(buf));
    assert_int_equal(dt_iov_read(m->iov, m->n, offset, buf, len), want);
    for (size_t i = 0; i < want; i++)
        assert_int_equal(buf[i], *m->flat[offset + i]);
    for (size_t i = want; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 0x5a);
}

static void check_write(struct model *m, struct dt_rng *rng, size_t offset, size_t len, bool fill)
{
    char before[sizeof(m->store)], buf[MODEL_MAX * 2];
    size_t want = model_clip(m, offset, len), got;

    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = fill ? 0x77 : (char)dt_rng_next(rng);
    memcpy(before, m->store, sizeof(before));
    for (size_t i = 0; i < want; i++)
        before[m->flat[offset + i] - m->store] = buf[i];
    if (fill)
        got = dt_iov_fill(m->iov, m->n, offset, 0x77, len);
    else
        got = dt_iov_write(m->iov, m->n, offset, buf, len);
    assert_int_equal(got, want);
    assert_memory_equal(before, m->store, sizeof(before));
}

static void check_slice(struct model *m, size_t offset, size_t len, unsigned max)
{
    struct iovec out[ARRAY_SIZE(m->iov) + 1];
    size_t at = offset;
    unsigned need = 0;
    int rc;

    for (size_t k = offset; k < offset + len && k < m->length; k++) {
        bool new_entry = k == offset;

        for (unsigned i = 0; i < m->n; i++)
            new_entry |= m->iov[i].iov_len && m->iov[i].iov_base == m->flat[k];
        need += new_entry;
    }
    memset(out, 0, sizeof(out));
    rc = dt_iov_slice(m->iov, m->n, offset, len, out, max);
    if (need > max) {
        assert_int_equal(rc, -E2BIG);
        return;
    }
    if (offset > m->length || len > m->length - offset) {
        assert_int_equal(rc, -EINVAL);
        return;
    }
    assert_int_equal(rc, need);
    for (int i = 0; i < rc; i++) {
        assert_true(out[i].iov_len > 0);
        for (size_t k = 0; k < out[i].iov_len; k++)
            assert_ptr_equal((char *)out[i].iov_base + k, m->flat[at++]);
    }
    assert_int_equal(at, offset + len);
    assert_null(out[max].iov_base);
}

static void test_iov(void **state)
{
    struct model m;
    struct dt_rng rng;

    dt_rng_seed(&rng, 1);
    for (int round = 0; round < 20000; round++) {
        size_t offset, len;

        model_make(&m, &rng);
        offset = dt_rng_below(&rng, m.length + 10);
        len = dt_rng_below(&rng, m.length + 10);
        assert_int_equal(dt_iov_length(m.iov, m.n), m.length);
        check_read(&m, offset, len);
        check_write(&m, &rng, offset, len, false);
        check_write(&m, &rng, offset, len, true);
        check_slice(&m, offset, len, (unsigned)dt_rng_below(&rng, ARRAY_SIZE(m.iov) + 1));
        check_slice(&m, offset, len, ARRAY_SIZE(m.iov));
    }
    /* Ranges that would wrap around. */
    m.iov[0] = (struct iovec){m.store, 8};
    assert_int_equal(dt_iov_fill(m.iov, 1, SIZE_MAX - 2, 0, 8), 0);
    assert_int_equal(dt_iov_slice(m.iov, 1, 4, SIZE_MAX - 2, m.iov + 1, 4), -EINVAL);
    assert_int_equal(dt_iov_slice(NULL, 0, 0, 0, NULL, 0), 0);
}

static void test_rng(void **state)
{
    /* xoshiro256** from the state 1, 2, 3, 4: the values of the authors' own code. */
    static const uint64_t known[] = {11520, 0, 1509978240, 1215971899390074240};
    struct dt_rng rng = {{1, 2, 3, 4}}, other;
    unsigned seen[10] = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
        assert_int_equal(dt_rng_next(&rng), known[i]);
    dt_rng_seed(&rng, 42);
    dt_rng_seed(&other, 42);
    for (int i = 0; i < 100; i++)
        assert_int_equal(dt_rng_next(&rng), dt_rng_next(&other));
    for (int i = 0; i < 100000; i++)
        seen[dt_rng_below(&rng, 10)]++;
    for (int i = 0; i < 10; i++)
        assert_in_range(seen[i], 9600, 10400); /* 4 standard deviations; the seed is fixed */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(dt_rng_below(&rng, 1), 0);
        assert_true(dt_rng_below(&rng, (1ull << 63) + 1) <= 1ull << 63);
    }
}

static void test_errors(void **state)
{
    struct dt_error err;
    char big[2 * sizeof(err.text)];

    assert_int_equal(dt_fail(NULL, -EIO, "nobody reads %d", 1), -EIO);
    dt_fail_prefix(NULL, "nobody");
    assert_int_equal(dt_fail(&err, -ENOENT, "cannot open %s", "disk"), -ENOENT);
    dt_fail_prefix(&err, "device %s", "vda");
    assert_string_equal(err.text, "device vda: cannot open disk");
    assert_int_equal(dt_fail(&err, -EIO, "again: %s", err.text), -EIO);
    assert_string_equal(err.text, "again: device vda: cannot open disk");

    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    dt_fail_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_int_equal(dt_fail(&err, -EIO, "%s", big), -EIO);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    dt_fail_prefix(&err, "short");
    assert_memory_equal(err.text, "short: xxx", 10);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

/* Runs @child with its stderr in a pipe; returns its wait status and what it wrote. */
static int run_child(void (*child)(void), char *text, size_t size)
{
    int fds[2], status;
    ssize_t n;
    size_t used = 0;
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        child();
        _exit(0);
    }
    close(fds[1]);
    while (used < size - 1 && (n = read(fds[0], text + used, size - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void child_logs(void)
{
    char big[4096];

    unsetenv("JOURNAL_STREAM");
    program_invocation_short_name = (char *)"prog";
    memset(big, 'y', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    log_debug("dropped");
    log_info("a\nb\x1b[c");
    errno = ENOENT;
    log_error("%m");
    if (errno != ENOENT)
        log_error("errno was lost");
    log_set_level(DT_LOG_ERROR);
    log_warning("dropped");
    log_error("%s", big);
}

static void child_journals(void)
{
    char value[64];
    struct stat st;

    fstat(STDERR_FILENO, &st);
    snprintf(value, sizeof(value), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", value, 1);
    log_set_level(DT_LOG_DEBUG);
    log_error("e");
    log_warning("w");
    log_info("i");
    log_debug("d");
}

static void child_elsewhere(void)
{
    setenv("JOURNAL_STREAM", "1:1", 1); /* inherited from a parent; stderr is another file */
    program_invocation_short_name = (char *)"prog";
    log_info("i");
}

static void child_floods(void)
{
    program_invocation_short_name = (char *)"prog";
    while (dt_clock_ns() % DT_S(1) > DT_MS(500)) /* all within one second */
        usleep(10000);
    for (int i = 0; i <= 100; i++) {
        if (i == 100)
            usleep(1000000);
        log_limited(DT_LOG_INFO, "%d", i);
    }
}

static void test_log_limited(void **state)
{
    char text[8192];

    assert_int_equal(run_child(child_floods, text, sizeof(text)), 0);
    assert_non_null(strstr(text, "prog: 9\n"));
    assert_null(strstr(text, "prog: 10\n"));
    assert_non_null(
        strstr(text, "prog: warning: 90 lines like the next one were left out\nprog: 100\n"));
}

static void test_log(void **state)
{
    const char *start = "prog: a?b?[c\nprog: error: No such file or directory\nprog: error: yyy";
    char text[8192];

    assert_int_equal(run_child(child_logs, text, sizeof(text)), 0);
    assert_memory_equal(text, start, strlen(start));
    assert_int_equal(text[strlen(text) - 1], '\n');
    assert_int_equal(strchr(text + strlen(start), '\n') - text, strlen(text) - 1);
    assert_int_equal(run_child(child_journals, text, sizeof(text)), 0);
    assert_string_equal(text, "<3>e\n<4>w\n<6>i\n<7>d\n");
    assert_int_equal(run_child(child_elsewhere, text, sizeof(text)), 0);
    assert_string_equal(text, "prog: i\n");
}

static void child_checks(void)
{
    int two = 2;

    signal(SIGABRT, SIG_DFL);
    CHECK(two == 2);
    CHECK(two == 3);
}

static void test_check(void **state)
{
    char text[8192];
    int status = run_child(child_checks, text, sizeof(text));

    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "test_base.c:"));
    assert_non_null(strstr(text, "check failed: two == 3"));
}

static void test_alloc(void **state)
{
    _cleanup_free_ char *zeroed = xcalloc(3, 5), *page = xaligned(4096, 100);
    _cleanup_free_ char *copy = xstrdup("text"), *text = xasprintf("%d-%s", 7, "x");
    _cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int taken = TAKE_FD(fd);

    assert_null(xstrdup(NULL));
    for (int i = 0; i < 15; i++)
        assert_int_equal(zeroed[i], 0);
    assert_int_equal((uintptr_t)page % 4096, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(page[i], 0);
    assert_string_equal(copy, "text");
    assert_string_equal(text, "7-x");
    assert_int_equal(fd, -1);
    assert_int_equal(close(taken), 0);
}

static void test_list(void **state)
{
    struct list head, nodes[5];
    unsigned i = 0;

    list_init(&head);
    assert_true(list_empty(&head));
    for (i = 0; i < ARRAY_SIZE(nodes); i++)
        list_add_tail(&head, &nodes[i]);
    list_del(&nodes[2]);
    i = 0;
    list_for_each_safe (it, &head) {
        i += i == 2;
        assert_ptr_equal(it, &nodes[i]);
        list_del(it);
        assert_true(list_empty(it));
        i++;
    }
    assert_int_equal(i, ARRAY_SIZE(nodes));
    assert_true(list_empty(&head));
}

/* Whoever dies with letters unread is heard all the same. */
static void test_packet_last_words(void **state)
{
    int fds[2], fd, word = 7, heard = 0;

    assert_int_equal(packet_pair(fds), 0);
    assert_int_equal(packet_send(fds[0], &word, sizeof(word), -1), 0); /* never read */
    word = 8;
    assert_int_equal(packet_send(fds[1], &word, sizeof(word), -1), 0);
    close(fds[1]);
    assert_int_equal(packet_receive(fds[0], &heard, sizeof(heard), &fd), 1);
    assert_int_equal(heard, 8);
    assert_int_equal(packet_receive(fds[0], &heard, sizeof(heard), &fd), -ECONNRESET);
    close(fds[0]);
}

static void test_boot(void **state)
{
    const uint8_t none[BOOT_ID_SIZE] = {0}, one[BOOT_ID_SIZE] = {[7] = 1},
                  other[BOOT_ID_SIZE] = {2};

    assert_true(boot_is(one, one)); /* whatever it begins with */
    assert_false(boot_is(one, other));
    assert_false(boot_is(none, one));
    assert_false(boot_is(none, none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_iov),         cmocka_unit_test(test_rng),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_log),
        cmocka_unit_test(test_log_limited), cmocka_unit_test(test_packet_last_words),
        cmocka_unit_test(test_check),       cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_list),        cmocka_unit_test(test_boot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
