/* SPDX-License-Identifier: MIT */
/*
 * test_ext_lock.c - who may open an image at the same time, QEMU's programs among them; and the
 * fence: a successor waits until the I/O of a killed process has landed.
 */
#include "ext_disk.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MIB   (1u << 20)
#define IMAGE (64u * MIB)
#define READS 256u
#define EACH  (128u << 10)

static char path[64];

static int make_image(void **state)
{
    _cleanup_free_ uint8_t *bytes = xcalloc(1, MIB);
    int fd;

    snprintf(path, sizeof(path), "ext-lock-%d.tmp", getpid());
    unlink(path);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    memset(bytes, 0xa5, MIB);
    for (unsigned i = 0; i < IMAGE / MIB; i++)
        assert_int_equal(write(fd, bytes, MIB), MIB);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    return 0;
}

static int remove_image(void **state)
{
    unlink(path);
    return 0;
}

/* A second device while the first one stays open. */
static int try_beside(const char *name, const char *fmt)
{
    char chain[256];
    struct disk first = disk;
    struct dt_error err;
    int ret;

    snprintf(chain, sizeof(chain), fmt, path);
    ret = disk_try_named(name, chain);
    if (ret == 0)
        disk_close();
    err = disk.err;
    disk = first;
    disk.err = err;
    return ret;
}

static void writers_exclude_each_other(void **state)
{
    disk_open("file path=%s", path);
    assert_int_equal(try_beside("u", "file path=%s"), -EBUSY);
    assert_error_says("is in use by test_ext_lock (pid ");
    assert_error_says(path);
    assert_int_equal(try_beside("u", "file path=%s read-only=on"), -EBUSY);
    /* Asked for: several machines on one shared image. */
    assert_int_equal(try_beside("u", "file path=%s lock=off"), 0);
    /* Both ends of a live migration serve the same device, and only one of them is asked to. */
    assert_int_equal(try_beside("t", "file path=%s lock=off"), 0);
    /* Unasked, never the same device twice. */
    assert_int_equal(try_beside("t", "file path=%s"), -EBUSY);
    disk_close();
    disk_open("file path=%s", path);
    disk_close();
}

static void readers_share(void **state)
{
    disk_open("file path=%s read-only=on", path);
    assert_int_equal(try_beside("u", "file path=%s read-only=on"), 0);
    assert_int_equal(try_beside("t", "file path=%s read-only=on"), -EBUSY);
    assert_int_equal(try_beside("u", "file path=%s"), -EBUSY);
    disk_close();
}

/* ---- QEMU's own programs ---- */

static bool have_qemu(void)
{
    return system("qemu-io --version >/dev/null 2>&1") == 0;
}

static int qemu_io(const char *options, const char *command)
{
    _cleanup_free_ char *line =
        xasprintf("qemu-io %s -f raw -c '%s' %s >/dev/null 2>&1", options, command, path);

    return system(line);
}

static void qemu_refuses_ours(void **state)
{
    if (!have_qemu())
        skip();
    assert_int_equal(qemu_io("", "write 0 4096"), 0);
    disk_open("file path=%s", path);
    assert_int_not_equal(qemu_io("", "write 0 4096"), 0);
    disk_close();
    disk_open("file path=%s read-only=on", path);
    assert_int_not_equal(qemu_io("", "write 0 4096"), 0);
    assert_int_equal(qemu_io("-r", "read 0 4096"), 0);
    disk_close();
    disk_open("file path=%s lock=off", path);
    assert_int_equal(qemu_io("", "write 0 4096"), 0);
    disk_close();
}

static pid_t start_qemu_io(void)
{
    char *argv[] = {"qemu-io", "-f", "raw", "-c", "sleep 60000", path, NULL};
    uint64_t end = dt_clock_ns() + DT_S(60);
    pid_t pid;

    assert_int_equal(posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ), 0);
    /* It has opened the image when byte 101 is locked: "I write". */
    while (dt_clock_ns() < end) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
        _cleanup_close_ int fd = open(path, O_RDWR);

        assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
        if (lock.l_type != F_UNLCK)
            return pid;
        usleep(1000);
    }
    fail_msg("qemu-io did not open the image");
    return -1;
}

static void we_refuse_qemus(void **state)
{
    uint64_t before;
    pid_t pid;

    if (!have_qemu())
        skip();
    pid = start_qemu_io();
    before = dt_clock_ns();
    assert_int_equal(disk_try("file path=%s", path), -EBUSY);
    assert_error_says("is in use by qemu-io (pid ");
    assert_true(dt_clock_ns() - before < DT_S(2)); /* who lives is not waited for */
    assert_int_equal(disk_try("file path=%s read-only=on", path), -EBUSY);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    /* A reader that wants no writers, as a guest with a read-only disk. */
    _cleanup_close_ int fd = open(path, O_RDONLY);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1};

    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_int_equal(disk_try("file path=%s", path), -EBUSY);
    disk_open("file path=%s read-only=on", path);
    disk_close();
    lock.l_type = F_UNLCK;
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    disk_open("file path=%s", path);
    disk_close();
}

/* ---- The fence ---- */

/* The predecessor: many direct reads into memory that it shares with us, and then silence. */
static void predecessor(uint8_t *memory, int ready)
{
    if (disk_try("file path=%s", path) < 0)
        _exit(1);
    for (unsigned i = 0; i < READS; i++)
        disk_submit(DT_OP_READ, 0, i * (EACH / 512), EACH / 512, memory + (size_t)i * EACH);
    loop_turn(disk.loop, false);
    if (write(ready, "x", 1) == 1)
        pause();
}

/* By the last byte of each read: looking at all of it would take as long as the I/O. */
static unsigned landed(const uint8_t *memory)
{
    unsigned n = 0;

    for (unsigned i = 1; i <= READS; i++)
        n += memory[(size_t)i * EACH - 1] == 0xa5;
    return n;
}

static void old_io_lands_before_the_fence(void **state)
{
    size_t size = (size_t)READS * EACH;
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t *at_fence = malloc(size);
    unsigned waited = 0;

    disk.engine = *(const enum loop_engine *)*state;
    for (unsigned round = 0; round < 5; round++) {
        unsigned before;
        int ready[2];
        pid_t pid;
        char byte;

        memset(memory, 0, size);
        assert_int_equal(pipe(ready), 0);
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
            predecessor(memory, ready[1]);
            _exit(1);
        }
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        before = landed(memory);
        disk_open("file path=%s", path); /* waits in the fence */
        memcpy(at_fence, memory, size);
        waited += landed(memory) - before;
        usleep(100000);
        assert_memory_equal(at_fence, memory, size); /* nothing came later */
        disk_close();
        close(ready[0]);
    }
    print_message("# %u of %u reads landed between the end of the process and the fence\n", waited,
                  READS * 5);
    free(at_fence);
    munmap(memory, size);
}

int main(void)
{
    static const enum loop_engine engines[] = {LOOP_AUTO, LOOP_EPOLL};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writers_exclude_each_other),
        cmocka_unit_test(readers_share),
        cmocka_unit_test(qemu_refuses_ours),
        cmocka_unit_test(we_refuse_qemus),
        cmocka_unit_test_prestate(old_io_lands_before_the_fence, (void *)&engines[0]),
        cmocka_unit_test_prestate(old_io_lands_before_the_fence, (void *)&engines[1]),
    };

    return cmocka_run_group_tests(tests, make_image, remove_image);
}
