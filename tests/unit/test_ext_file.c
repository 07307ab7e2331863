/* SPDX-License-Identifier: MIT */
/*
 * test_ext_file.c - the back `file` on real files beside the test, with both engines of the loop.
 */
#include "ext_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define MIB (1u << 20)

static char path[64];
static uint8_t *data, *back; /* page-aligned, a MiB and a page each */

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)dt_rng_next(&rng);
}

static int make_file(void **state)
{
    static unsigned serial;
    int fd;

    disk.engine = *(const enum loop_engine *)*state;
    snprintf(path, sizeof(path), "ext-file-%d-%u.tmp", getpid(), serial++);
    unlink(path);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 16 * MIB), 0);
    close(fd);
    data = xaligned(4096, MIB + 4096);
    back = xaligned(4096, MIB + 4096);
    fill(data, MIB, serial);
    return 0;
}

static int remove_file(void **state)
{
    unlink(path);
    free(data);
    free(back);
    return 0;
}

static void data_comes_back(void **state)
{
    for (unsigned cache = 0; cache < 2; cache++) {
        disk_open("file path=%s cache=%s", path, cache ? "writeback" : "none");
        assert_int_equal(device_info(disk.dev)->sectors, 16 * MIB / 512);
        assert_int_equal(device_info(disk.dev)->logical_block, 512);
        for (unsigned i = 0; i < 64; i++)
            assert_int_equal(
                disk_do(DT_OP_WRITE, i & 1 ? DT_REQ_FUA : 0, i * 9, 8, data + i * 4096), 0);
        assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
        for (unsigned i = 0; i < 64; i++) {
            assert_int_equal(disk_do(DT_OP_READ, 0, i * 9, 8, back), 0);
            assert_memory_equal(back, data + i * 4096, 4096);
        }
        assert_int_equal(disk_do(DT_OP_WRITE, 0, 16 * MIB / 512 - 2048, 2048, data), 0);
        assert_int_equal(disk_do(DT_OP_READ, 0, 16 * MIB / 512 - 2048, 2048, back), 0);
        assert_memory_equal(back, data, MIB);
        assert_int_equal(disk_do(DT_OP_READ, 0, 8192, 8, back), 0);
        assert_true(all_bytes(back, 4096, 0));
        disk_close();
    }
}

static void many_at_once(void **state)
{
    struct disk_slot *slots[DISK_SLOTS];

    disk_open("file path=%s", path);
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        slots[i] = disk_submit(DT_OP_WRITE, 0, i * 8, 8, data + i % 200 * 4096);
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        slots[i] = disk_submit(DT_OP_READ, 0, i * 8, 8, back + i % 200 * 4096);
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    assert_memory_equal(back + 56 * 4096, data + 56 * 4096, 144 * 4096);
    disk_close();
}

static void odd_memory_is_bounced(void **state)
{
    struct disk_slot *slots[20];

    disk_open("file path=%s", path);
    /* More than there are buffers, longer than one of them, at odd addresses in odd pieces. */
    for (unsigned i = 0; i < 20; i++) {
        struct iovec iov[3] = {
            {data + 1, 1000}, {data + 1001, 77}, {data + 1078, 600 * 512 - 1077}};

        slots[i] = disk_submit_iov(DT_OP_WRITE, i & 1 ? DT_REQ_FUA : 0, i * 600, 600, iov, 3);
    }
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    for (unsigned i = 0; i < 20; i++) {
        struct iovec iov[2] = {{back + 3, 511}, {back + 514, 600 * 512 - 511}};

        memset(back, 0, MIB);
        assert_int_equal(disk_wait(disk_submit_iov(DT_OP_READ, 0, i * 600, 600, iov, 2)), 0);
        assert_memory_equal(back + 3, data + 1, 600 * 512);
        assert_int_equal(back[2], 0);
        assert_int_equal(back[3 + 600 * 512], 0);
    }
    _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECT);
    assert_int_equal(disk_counter("file", "bounced"), fd >= 0 ? 40 : 0);
    disk_close();
}

static uint64_t allocated(void)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void space_comes_and_goes(void **state)
{
    disk_open("file path=%s", path);
    assert_true(device_info(disk.dev)->can_discard);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 2048, data), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_true(allocated() >= MIB);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 1024, NULL), 0);
    assert_true(allocated() < MIB);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 1024, 8, NULL), 0);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP | DT_REQ_FUA, 1040, 1001, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 2048, back), 0);
    assert_true(all_bytes(back, 1032 * 512, 0));
    assert_memory_equal(back + 1032 * 512, data + 1032 * 512, 8 * 512);
    assert_true(all_bytes(back + 1040 * 512, 1001 * 512, 0));
    assert_memory_equal(back + 2041 * 512, data + 2041 * 512, 7 * 512);
    disk_close();
    disk_open("file path=%s discard=off", path);
    assert_false(device_info(disk.dev)->can_discard);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), -EOPNOTSUPP);
    disk_close();
}

static void past_the_end_are_zeroes(void **state)
{
    for (unsigned cache = 0; cache < 2; cache++) {
        disk_open("file path=%s cache=%s", path, cache ? "writeback" : "none");
        assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 2048, data), 0);
        /* Somebody cuts the file under us, in the middle of a sector. */
        assert_int_equal(truncate(path, 5 * 512 + 100), 0);
        memset(back, 0xff, MIB);
        assert_int_equal(disk_do(DT_OP_READ, 0, 0, 64, back), 0);
        assert_memory_equal(back, data, 5 * 512 + 100);
        assert_true(all_bytes(back + 5 * 512 + 100, 64 * 512 - 5 * 512 - 100, 0));
        memset(back, 0xff, MIB);
        assert_int_equal(disk_do(DT_OP_READ, 0, 1000, 64, back + 1), 0);
        assert_true(all_bytes(back + 1, 64 * 512, 0));
        assert_int_equal(disk_counter("file", "past-end"), 2);
        disk_close();
        assert_int_equal(truncate(path, 16 * MIB), 0);
    }
}

static void bad_files_are_refused(void **state)
{
    static const struct {
        const char *chain;
        int error;
        const char *says;
    } cases[] = {
        {"file path=no-such-file", -ENOENT, "no-such-file does not exist"},
        {"file path=.", -EISDIR, "is a directory"},
        {"file path=/dev/null", -EINVAL, "neither a regular file nor a block device"},
        {"file path=odd.tmp", -EINVAL, "700 bytes, is not a multiple of 512"},
        {"file path=empty.tmp", -EINVAL, "is empty"},
        {"file path=odd.tmp size=1M", -EINVAL, "size= is for create=on"},
        {"file path=new.tmp create=on", -EINVAL, "needs size="},
        {"file path=new.tmp create=on size=700", -EINVAL, "not a multiple of 512"},
        {"file path=new.tmp block-size=1024", -ENOENT, "does not exist"},
        {"file path=odd.tmp block-size=1024", -EINVAL, "512 or 4096"},
        {"file", -EINVAL, "'path' is missing"},
    };
    int fd = open("odd.tmp", O_RDWR | O_CREAT | O_TRUNC, 0600);

    assert_int_equal(ftruncate(fd, 700), 0);
    close(fd);
    close(open("empty.tmp", O_RDWR | O_CREAT | O_TRUNC, 0600));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(disk_try("%s", cases[i].chain), cases[i].error);
        assert_error_says(cases[i].says);
        unlink("new.tmp");
    }
    unlink("odd.tmp");
    unlink("empty.tmp");
}

static void files_are_made(void **state)
{
    struct stat st;

    unlink(path);
    disk_open("file path=%s create=on size=64M", path);
    assert_int_equal(device_info(disk.dev)->sectors, 64 * MIB / 512);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 100, 8, data), 0);
    disk_close();
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 < MIB);
    /* An existing one keeps its size and contents. */
    disk_open("file path=%s create=on size=1G block-size=4096", path);
    assert_int_equal(device_info(disk.dev)->sectors, 64 * MIB / 512);
    assert_int_equal(device_info(disk.dev)->logical_block, 4096);
    assert_int_equal(disk_do(DT_OP_READ, 0, 96, 16, back), 0);
    assert_memory_equal(back + 4 * 512, data, 4096);
    disk_close();
    disk_open("file path=%s read-only=on", path);
    assert_true(device_info(disk.dev)->read_only);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), -EROFS);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 100, 8, back), 0);
    assert_memory_equal(back, data, 4096);
    disk_close();
}

static int resize(const char *size, const char *how)
{
    const char *argv[] = {size, how};
    int ret = disk_verb("file", "resize", how ? 2 : 1, argv);

    loop_turn(disk.loop, false);
    return ret;
}

static void disks_grow_and_shrink(void **state)
{
    disk_open("file path=%s", path);
    assert_int_equal(disk_do(DT_OP_READ, 0, 20 * 2048, 8, back), -EINVAL);
    assert_int_equal(resize("32M", NULL), 0);
    assert_int_equal(device_info(disk.dev)->sectors, 32 * 2048);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 20 * 2048, 8, data), 0);
    assert_int_equal(resize("8M", NULL), -EINVAL);
    assert_error_says("resize 8M shrink");
    assert_int_equal(resize("8M", "shrink"), 0);
    assert_int_equal(device_info(disk.dev)->sectors, 8 * 2048);
    assert_int_equal(disk_do(DT_OP_READ, 0, 9 * 2048, 8, back), -EINVAL);
    assert_int_equal(resize("1000", NULL), -EINVAL);
    assert_int_equal(resize("lots", NULL), -EINVAL);
    assert_int_equal(resize("9E", NULL), -EINVAL);
    assert_int_equal(truncate(path, 12 * MIB), 0);
    assert_int_equal(disk_verb("file", "rescan", 0, NULL), 0);
    loop_turn(disk.loop, false);
    assert_int_equal(device_info(disk.dev)->sectors, 12 * 2048);
    disk_close();
}

/* A loop device of blocks of 4096, where this test may make one. */
static void devices_tell_their_shape(void **state)
{
    _cleanup_free_ char *command =
        xasprintf("losetup -f --show --sector-size 4096 %s 2>/dev/null", path);
    FILE *pipe = popen(command, "r");
    char device[64] = "";

    if (!fgets(device, sizeof(device), pipe))
        device[0] = '\0';
    device[strcspn(device, "\n")] = '\0';
    if (pclose(pipe) || !*device)
        skip();
    disk_open("file path=%s", device);
    assert_int_equal(device_info(disk.dev)->sectors, 16 * MIB / 512);
    assert_int_equal(device_info(disk.dev)->logical_block, 4096);
    assert_int_equal(disk_do(DT_OP_WRITE, DT_REQ_FUA, 8, 512, data), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 1024, 8, data + 1), 0); /* bounced */
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 4, 4, data), -EINVAL);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 16, 8, NULL), 0);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 32, 8, NULL), 0);
    if (device_info(disk.dev)->can_discard)
        assert_int_equal(disk_do(DT_OP_DISCARD, 0, 256, 256, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 256, back), 0);
    assert_memory_equal(back + 4096, data, 4096);
    assert_true(all_bytes(back + 16 * 512, 4096, 0));
    assert_memory_equal(back + 24 * 512, data + 16 * 512, 4096);
    assert_true(all_bytes(back + 32 * 512, 4096, 0));
    assert_int_equal(disk_do(DT_OP_READ, 0, 1024, 8, back), 0);
    assert_memory_equal(back, data + 1, 4096);
    assert_int_equal(disk_verb("file", "resize", 1, (const char *[]){"32M"}), -EINVAL);
    assert_error_says("block device");
    disk_close();
    assert_int_equal(disk_try("file path=%s block-size=512", device), -EINVAL);
    assert_error_says("have 4096 bytes");
    _cleanup_free_ char *detach = xasprintf("losetup -d %s", device);
    assert_int_equal(system(detach), 0);
}

static void depth_is_limited(void **state)
{
    struct disk_slot *slots[4];

    disk_open("file path=%s queue-depth=4", path);
    assert_int_equal(lane_admit(device_lane(disk.dev, 0), 32), 4);
    for (unsigned i = 0; i < 4; i++)
        slots[i] = disk_submit(DT_OP_READ, 0, i * 8, 8, back);
    assert_int_equal(lane_admit(device_lane(disk.dev, 0), 32), 0);
    disk.woken = 0;
    for (unsigned i = 0; i < 4; i++)
        disk_wait(slots[i]);
    assert_true(disk.woken > 0);
    assert_int_equal(lane_admit(device_lane(disk.dev, 0), 32), 4);
    disk_close();
}

/* ---- A full file system: one of 1 MiB in memory, in a mount namespace of our own ---- */

static bool tiny_mounted;

static int mount_tiny(void **state)
{
    make_file(state);
    if (!tiny_mounted && unshare(CLONE_NEWNS) == 0 &&
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0) {
        mkdir("ext-tiny.tmp", 0700);
        tiny_mounted = mount("tmpfs", "ext-tiny.tmp", "tmpfs", 0, "size=1M") == 0;
    }
    return 0;
}

static int unmount_tiny(void **state)
{
    if (tiny_mounted)
        umount("ext-tiny.tmp");
    tiny_mounted = false;
    rmdir("ext-tiny.tmp");
    return remove_file(state);
}

static void spend(uint64_t ns)
{
    for (uint64_t end = dt_clock_ns() + ns; dt_clock_ns() < end;)
        loop_turn(disk.loop, false);
}

/* Held @n times since the disk was opened: a busy machine may need a while for that. */
static void await_held(uint64_t n)
{
    for (unsigned i = 0; i < 500 && disk_counter("file", "held") < n; i++)
        spend(DT_MS(20));
    assert_true(disk_counter("file", "held") >= n);
}

/* Takes @bytes of the tiny file system, which alone would hold just a MiB. */
static int put_ballast(off_t bytes)
{
    int fd = open("ext-tiny.tmp/ballast", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(posix_fallocate(fd, 0, bytes), 0);
    return fd;
}

static void full_writes_are_held(void **state)
{
    struct disk_slot *slots[4];

    if (!tiny_mounted)
        skip();
    int fd = put_ballast(700 << 10);

    disk_open("file path=ext-tiny.tmp/disk create=on size=16M");
    for (unsigned i = 0; i < 4; i++)
        slots[i] = disk_submit(DT_OP_WRITE, 0, i * 2048, 256, data + i * 4096);
    await_held(2); /* there was room for two, whichever came first */
    assert_int_equal(slots[0]->busy + slots[1]->busy + slots[2]->busy + slots[3]->busy, 2);
    /* What needs no space goes on. */
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    /* Space again: the guest never sees an error. */
    assert_int_equal(ftruncate(fd, 0), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(disk_do(DT_OP_READ, 0, i * 2048, 256, back), 0);
        assert_memory_equal(back + 4096, data + i * 4096 + 4096, 255 * 512 - 4096);
    }
    disk_close();
    close(fd);
}

static void full_is_told_at_the_deadline(void **state)
{
    struct disk_slot *s;

    if (!tiny_mounted)
        skip();
    close(put_ballast(512 << 10));
    disk_open("file path=ext-tiny.tmp/disk create=on size=16M");
    s = disk_submit(DT_OP_WRITE, 0, 0, 2048, data); /* a MiB does not fit beside it */
    spend(DT_MS(20));
    struct disk_slot *z = disk_submit(DT_OP_WRITE_ZEROES, 0, 8192, 8192, NULL);
    spend(DT_MS(20));
    assert_true(s->busy);
    assert_true(z->busy);
    assert_int_equal(disk_quiesce(DT_S(3)), 0);
    assert_int_equal(s->error, -ECANCELED);
    disk_close();
    disk_open("file path=ext-tiny.tmp/disk on-full=fail");
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 4096, 2048, data), -ENOSPC);
    /* Live: from now on they are held, and let go when that is taken back. */
    disk_set("file", "on-full", "hold");
    s = disk_submit(DT_OP_WRITE, 0, 4096, 2048, data);
    spend(DT_MS(20));
    assert_true(s->busy);
    disk_set("file", "on-full", "fail");
    assert_int_equal(disk_wait(s), -ENOSPC);
    disk_close();
}

/* The kernel cuts a write at RLIMIT_FSIZE: the rest is continued, and fails. */
static void short_writes_are_continued(void **state)
{
    struct rlimit old, low = {8 * MIB + 4096, RLIM_INFINITY};
    struct disk_slot *s;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low.rlim_max = old.rlim_max;
    disk_open("file path=%s", path);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    s = disk_submit(DT_OP_WRITE, 0, 8 * 2048, 64, data);
    disk_wait(s);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    if (s->error) { /* io_uring may take the limit of another time */
        assert_int_equal(s->error, -EFBIG);
        assert_int_equal(disk_counter("file", "continued"), 1);
        disk_do(DT_OP_READ, 0, 8 * 2048, 8, back);
        assert_memory_equal(back, data, 4096);
    }
    disk_close();
}

int main(void)
{
    static const enum loop_engine engines[] = {LOOP_AUTO, LOOP_EPOLL};
#define FILE_TEST(f) cmocka_unit_test_setup_teardown(f, make_file, remove_file)
#define TINY_TEST(f) cmocka_unit_test_setup_teardown(f, mount_tiny, unmount_tiny)
    const struct CMUnitTest tests[] = {
        FILE_TEST(data_comes_back),
        FILE_TEST(many_at_once),
        FILE_TEST(odd_memory_is_bounced),
        FILE_TEST(space_comes_and_goes),
        FILE_TEST(past_the_end_are_zeroes),
        FILE_TEST(bad_files_are_refused),
        FILE_TEST(files_are_made),
        FILE_TEST(disks_grow_and_shrink),
        FILE_TEST(depth_is_limited),
        FILE_TEST(devices_tell_their_shape),
        FILE_TEST(short_writes_are_continued),
        TINY_TEST(full_writes_are_held),
        TINY_TEST(full_is_told_at_the_deadline),
    };
    struct CMUnitTest all[ARRAY_SIZE(engines) * ARRAY_SIZE(tests)];

    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        all[i] = tests[i % ARRAY_SIZE(tests)];
        all[i].initial_state = (void *)&engines[i / ARRAY_SIZE(tests)];
    }
    return cmocka_run_group_tests(all, NULL, NULL);
}
