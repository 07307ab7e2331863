/* SPDX-License-Identifier: MIT */
/* test_loop_io.c - file I/O on both engines, and the restriction of the ring. */
#include "loop_common.h"

#include <liburing.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct test_io {
    struct dt_io io;
    int result;
    bool finished;
};

static unsigned ios_finished;

static void io_done(struct dt_io *io, int result)
{
    struct test_io *t = container_of(io, struct test_io, io);

    assert_false(t->finished);
    t->finished = true;
    t->result = result;
    ios_finished++;
}

static void io_reset(struct test_io *t)
{
    *t = (struct test_io){.io.done = io_done};
}

static int io_wait(struct loop *loop, struct test_io *t)
{
    assert_false(t->finished); /* never before the call returned */
    while (!t->finished)
        loop_turn(loop, true);
    return t->result;
}

static int do_readv(struct loop *loop, int fd, struct iovec *iov, unsigned n, uint64_t offset)
{
    struct test_io t = {.io.done = io_done};

    loop_readv(loop, &t.io, fd, iov, n, offset);
    return io_wait(loop, &t);
}

static int do_writev(struct loop *loop, int fd, struct iovec *iov, unsigned n, uint64_t offset)
{
    struct test_io t = {.io.done = io_done};

    loop_writev(loop, &t.io, fd, iov, n, offset);
    return io_wait(loop, &t);
}

static int make_file(void)
{
    int fd = memfd_create("loop-test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void test_io_vectors(void **state)
{
    struct loop *loop = make_loop(state, 0);
    int fd = make_file();
    char out[300], in[300];
    struct iovec iov[3] = {{out, 100}, {out + 100, 0}, {out + 100, 200}};

    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (char)(i * 7);
    assert_int_equal(do_writev(loop, fd, iov, 3, 1000), 300);
    assert_int_equal(do_writev(loop, fd, iov, 1, 0), 100);
    iov[0] = (struct iovec){in, 10};
    iov[1] = (struct iovec){in + 10, 90};
    iov[2] = (struct iovec){in + 100, 200};
    assert_int_equal(do_readv(loop, fd, iov, 3, 1000), 300);
    assert_memory_equal(in, out, 300);
    memset(in, 0, sizeof(in));
    iov[0] = (struct iovec){in, 300};
    assert_int_equal(do_readv(loop, fd, iov, 1, 0), 300);
    assert_memory_equal(in, out, 100);
    for (int i = 100; i < 300; i++)
        assert_int_equal(in[i], 0); /* the hole */
    /* Short at the end of the file, and behind it. */
    assert_int_equal(do_readv(loop, fd, iov, 1, 1290), 10);
    assert_int_equal(do_readv(loop, fd, iov, 1, 1300), 0);
    assert_int_equal(do_readv(loop, fd, iov, 0, 0), 0);
    close(fd);
    loop_free(loop);
}

static void test_io_errors(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_io t;
    char buf[16];
    struct iovec iov = {buf, sizeof(buf)};
    int full = open("/dev/full", O_RDWR | O_CLOEXEC),
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int file = make_file();

    assert_int_equal(do_readv(loop, 9999, &iov, 1, 0), -EBADF);
    assert_int_equal(do_writev(loop, full, &iov, 1, 0), -ENOSPC);
    assert_int_equal(do_writev(loop, null, &iov, 1, 0), -EBADF);
    iov.iov_base = (void *)8;
    assert_int_equal(do_writev(loop, file, &iov, 1, 0), -EFAULT);
    io_reset(&t);
    loop_fdatasync(loop, &t.io, 9999);
    assert_int_equal(io_wait(loop, &t), -EBADF);
    io_reset(&t);
    loop_fallocate(loop, &t.io, file, 0x1000, 0, 1);
    assert_int_equal(io_wait(loop, &t), -EOPNOTSUPP);
    close(full);
    close(null);
    close(file);
    loop_free(loop);
}

static void test_io_sync_and_holes(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_io t;
    int fd = make_file();
    _cleanup_free_ char *data = xaligned(4096, 1 << 20), *back = xaligned(4096, 1 << 20);
    struct iovec iov = {data, 1 << 20};
    struct stat before, after;

    memset(data, 0xab, 1 << 20);
    assert_int_equal(do_writev(loop, fd, &iov, 1, 0), 1 << 20);
    io_reset(&t);
    loop_fdatasync(loop, &t.io, fd);
    assert_int_equal(io_wait(loop, &t), 0);
    assert_int_equal(fstat(fd, &before), 0);
    io_reset(&t);
    loop_fallocate(loop, &t.io, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 512 * 1024);
    assert_int_equal(io_wait(loop, &t), 0);
    assert_int_equal(fstat(fd, &after), 0);
    assert_int_equal(after.st_size, 1 << 20);
    assert_true(after.st_blocks < before.st_blocks);
    iov.iov_base = back;
    assert_int_equal(do_readv(loop, fd, &iov, 1, 0), 1 << 20);
    memset(data + 4096, 0, 512 * 1024);
    assert_memory_equal(data, back, 1 << 20);
    close(fd);
    loop_free(loop);
}

/* 20,000 at once: far more than SQ entries (64), and than CQ entries (4,096). */
static void test_io_many(void **state)
{
    enum { N = 20000, BLOCK = 64 };
    struct loop *loop = make_loop(state, 0);
    struct test_io *ios = xcalloc(N, sizeof(*ios));
    struct iovec *iov = xcalloc(N, sizeof(*iov));
    char *data = xcalloc(N, BLOCK);
    struct loop_stats stats;
    int fd = make_file();

    for (int pass = 0; pass < 2; pass++) {
        ios_finished = 0;
        for (int i = 0; i < N; i++) {
            io_reset(&ios[i]);
            iov[i] = (struct iovec){data + (size_t)i * BLOCK, BLOCK};
            if (pass == 0) {
                memset(iov[i].iov_base, i % 251, BLOCK);
                loop_writev(loop, &ios[i].io, fd, &iov[i], 1, (uint64_t)i * BLOCK);
            } else {
                memset(iov[i].iov_base, 0, BLOCK);
                loop_readv(loop, &ios[i].io, fd, &iov[i], 1, (uint64_t)i * BLOCK);
            }
        }
        assert_int_equal(ios_finished, 0);
        while (ios_finished < N)
            loop_turn(loop, true);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(ios[i].result, BLOCK);
        assert_int_equal(data[i * BLOCK + i % BLOCK], (char)(i % 251));
    }
    loop_get_stats(loop, &stats);
    assert_int_equal(stats.ios, 2 * N);
    free(ios);
    free(iov);
    free(data);
    close(fd);
    loop_free(loop);
}

/* Slow completions (fdatasync runs on kernel threads) beyond the CQ, with the loop asleep. */
static void test_io_many_slow(void **state)
{
    enum { N = 6000 };
    struct loop *loop = make_loop(state, 0);
    struct test_io *ios = xcalloc(N, sizeof(*ios));
    int fd = make_file();

    ios_finished = 0;
    for (int i = 0; i < N; i++) {
        io_reset(&ios[i]);
        loop_fdatasync(loop, &ios[i].io, fd);
    }
    while (ios_finished < N)
        loop_turn(loop, true);
    for (int i = 0; i < N; i++)
        assert_int_equal(ios[i].result, 0);
    free(ios);
    close(fd);
    loop_free(loop);
}

struct chain {
    struct dt_io io;
    struct loop *loop;
    struct loop_poller poller;
    struct iovec iov;
    char buf[64];
    int fd;
    unsigned left;
    bool slow;
};

static void chain_next(struct dt_io *io, int result)
{
    struct chain *c = container_of(io, struct chain, io);

    assert_int_equal(result, c->slow ? 0 : (int)sizeof(c->buf));
    if (c->left-- == 0) {
        loop_stop(c->loop);
        return;
    }
    c->slow = c->left % 4 == 0;
    if (c->slow)
        loop_fdatasync(c->loop, io, c->fd);
    else
        loop_writev(c->loop, io, c->fd, &c->iov, 1, 0);
}

static unsigned idle_poll(struct loop_poller *poller)
{
    return 0;
}

static void *chain_thread(void *arg)
{
    struct chain *c = arg;

    loop_run(c->loop);
    return NULL;
}

/* I/O started by completions, on a thread that did not make the loop; asleep and spinning. */
static void test_io_chain(void **state)
{
    for (int spin = 0; spin < 2; spin++) {
        struct loop *loop = make_loop(state, UINT64_MAX);
        struct chain c = {.io.done = chain_next, .loop = loop, .left = 2000, .fd = make_file()};
        pthread_t thread;

        c.iov = (struct iovec){c.buf, sizeof(c.buf)};
        c.poller.poll = idle_poll;
        list_init(&c.poller.node);
        if (spin)
            loop_poller_wake(loop, &c.poller);
        loop_writev(loop, &c.io, c.fd, &c.iov, 1, 0);
        assert_int_equal(pthread_create(&thread, NULL, chain_thread, &c), 0);
        pthread_join(thread, NULL);
        loop_poller_remove(loop, &c.poller);
        close(c.fd);
        loop_free(loop);
    }
}

static void test_restricted(void **state)
{
    static const uint8_t forbidden[] = {
        IORING_OP_NOP,     IORING_OP_OPENAT,    IORING_OP_CONNECT, IORING_OP_SENDMSG,
        IORING_OP_SOCKET,  IORING_OP_SPLICE,    IORING_OP_CLOSE,   IORING_OP_UNLINKAT,
        IORING_OP_TIMEOUT, IORING_OP_URING_CMD,
    };
    struct loop *loop = make_loop(state, 0);
    struct test_io t;

    for (unsigned i = 0; i < ARRAY_SIZE(forbidden); i++) {
        io_reset(&t);
        uring_start_opcode(loop, &t.io, forbidden[i]);
        assert_int_equal(io_wait(loop, &t), -EACCES);
    }
    io_reset(&t);
    uring_start_opcode(loop, &t.io, IORING_OP_FSYNC);
    assert_int_equal(io_wait(loop, &t), -EBADF); /* allowed, and failed for its descriptor */
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_io_vectors),
        BOTH(test_io_errors),
        BOTH(test_io_sync_and_holes),
        BOTH(test_io_many),
        BOTH(test_io_many_slow),
        BOTH(test_io_chain),
        {"io_uring: test_restricted", test_restricted, NULL, NULL, &on_uring},
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
