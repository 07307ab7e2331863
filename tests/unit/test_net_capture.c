/* SPDX-License-Identifier: MIT */
/* test_net_capture.c - `capture`: what it writes, libpcap reads; files, FIFOs, and what dies half-way. */
#include "net/capture/pcapng.h"
#include "tests/unit/net_rig.h"

#include <fcntl.h>
#include <pcap/pcap.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

extern const struct dt_net_ext net_capture;
static struct frame f;
static char path[64], chain[256];

static void start(const char *options)
{
    snprintf(chain, sizeof(chain), "capture out=%s %s | wire", path, options);
    rig_start(chain);
}

static void udp(uint16_t dport, uint32_t bytes)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.7", "198.51.100.1");
    frame_udp(&f, 1000, dport);
    frame_pattern(&f, bytes);
    frame_end(&f);
}

static pcap_t *open_file(const char *name)
{
    char why[PCAP_ERRBUF_SIZE];
    pcap_t *pcap = pcap_open_offline_with_tstamp_precision(name, PCAP_TSTAMP_PRECISION_NANO, why);

    if (!pcap)
        fail_msg("%s: %s", name, why);
    assert_int_equal(pcap_datalink(pcap), DLT_EN10MB);
    return pcap;
}

/* The next frame; NULL at the end, and nothing else but an end. */
static const uint8_t *next(pcap_t *pcap, struct pcap_pkthdr **h)
{
    const uint8_t *data;
    int ret = pcap_next_ex(pcap, h, &data);

    if (ret != 1 && ret != PCAP_ERROR_BREAK)
        fail_msg("%d: %s", ret, pcap_geterr(pcap));
    return ret == 1 ? data : NULL;
}

static unsigned count(const char *name)
{
    pcap_t *pcap = open_file(name);
    struct pcap_pkthdr *h;
    unsigned n = 0;

    while (next(pcap, &h))
        n++;
    pcap_close(pcap);
    return n;
}

/* Each kind of packet comes back whole, with right checksums, in order, with a time. */
static void test_kinds(void **state)
{
    struct pcap_pkthdr *h;
    const uint8_t *data;
    uint64_t last = 0;
    pcap_t *pcap;

    start("");
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&f, kind, 2);

        frame_pattern(&f, 5000 + kind);
        frame_end(&f);
        if (v.flags)
            f.bytes[v.csum_start + v.csum_offset] ^= 0x5a; /* whatever the guest left there */
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        assert_int_equal(rig.wire.frames[kind].length, f.n); /* and goes on as it came */
    }
    assert_int_equal(rig_counter("capture", "captured"), FRAME_KINDS);
    rig_stop();
    pcap = open_file(path);
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        uint64_t when;

        data = next(pcap, &h);
        assert_non_null(data);
        assert_int_equal(h->caplen, h->len);
        assert_int_equal(h->len, 14 + (kind & FRAME_V6 ? 40 : 20) + (kind & FRAME_TCP ? 20 : 8) +
                                     5000 + kind);
        assert_true(frame_sums_right(data, h->len));
        when = (uint64_t)h->ts.tv_sec * DT_S(1) + (uint64_t)h->ts.tv_usec;
        assert_true(when >= last && when / DT_S(1) > 1600000000);
        last = when;
    }
    assert_null(next(pcap, &h));
    pcap_close(pcap);
}

static void test_choice(void **state)
{
    struct pcap_pkthdr *h;
    pcap_t *pcap;

    start("match='udp dst port 53' direction=tx snaplen=60");
    for (unsigned i = 0; i < 10; i++) {
        udp(i % 2 ? 53 : 54, 500);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        rig_arrive(f.bytes, f.n, NULL);
    }
    assert_int_equal(rig_counter("capture", "captured"), 5);
    assert_int_equal(device_set(rig.dev, "capture", "match", "no such", &rig.err), -EINVAL);
    assert_int_equal(device_set(rig.dev, "capture", "direction", "rx", &rig.err), 0);
    rig_arrive(f.bytes, f.n, NULL);
    assert_int_equal(rig_counter("capture", "captured"), 6);
    assert_int_equal(rig.wire.n, 10);
    assert_int_equal(rig.guest.n, 11);
    rig_stop();
    pcap = open_file(path);
    for (unsigned i = 0; i < 6; i++) {
        assert_non_null(next(pcap, &h));
        assert_int_equal(h->caplen, 60);
        assert_int_equal(h->len, 542);
    }
    assert_null(next(pcap, &h));
    pcap_close(pcap);
}

/* How many packets the blocks up to @size say are missing; @at: how far it was read before. */
static uint64_t read_missing(const uint8_t *bytes, ssize_t size, ssize_t *at)
{
    uint64_t sum = 0, missing;
    uint32_t length;

    while (*at + 12 <= size) {
        memcpy(&length, bytes + *at + 4, 4);
        assert_true(length >= 12 && length % 4 == 0 && length < 70000);
        if (*at + length > size)
            break;
        if (length == 28 + 1044 + 8 + 12 + 8) { /* with the option that says so */
            memcpy(&missing, bytes + *at + length - 16, 8);
            sum += missing;
        }
        *at += length;
    }
    return sum;
}

/* What the buffer has no room for is counted, here and in the file, and packets go on. */
static void test_full(void **state)
{
    static uint8_t bytes[4 << 20];
    uint64_t missing = 0;
    ssize_t size = 0, at = 0;
    int fd;

    assert_int_equal(mkfifo(path, 0600), 0);
    fd = open(path, O_RDONLY | O_NONBLOCK); /* a reader that does not read */
    assert_true(fd >= 0);
    start("buffer=256K");
    udp(53, 1002);
    for (unsigned i = 0; i < 1000; i++)
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 1000);
    assert_true(rig_counter("capture", "dropped") > 500);
    assert_int_equal(rig_counter("capture", "captured") + rig_counter("capture", "dropped"), 1000);
    /* Now it reads; and what comes next knows of those that are missing. */
    for (unsigned tries = 0; missing < rig_counter("capture", "dropped"); tries++) {
        ssize_t n = read(fd, bytes + size, 65536);

        assert_true(tries < 3000);
        size += MAX(n, (ssize_t)0);
        if (tries % 100 == 50)
            assert_true(rig_send(f.bytes, f.n, NULL, 0));
        missing += read_missing(bytes, size, &at);
        usleep(1000);
    }
    assert_int_equal(missing, rig_counter("capture", "dropped"));
    close(fd);
    rig_stop();
}

/* Readers come and go: each has a section of its own, and whole blocks. */
static void test_fifo(void **state)
{
    static const char copy[] = "capture-copy.tmp";
    uint8_t bytes[65536];

    assert_int_equal(mkfifo(path, 0600), 0);
    start("");
    udp(53, 100);
    for (unsigned i = 0; i < 5; i++)
        assert_true(rig_send(f.bytes, f.n, NULL, 0)); /* nobody is there */
    for (unsigned tries = 0; rig_counter("capture", "unwritten") < 5; tries++) {
        assert_true(tries < 3000);
        usleep(1000);
    }
    for (unsigned reader = 0; reader < 2; reader++) {
        int fd = open(path, O_RDONLY | O_NONBLOCK),
            to = open(copy, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        ssize_t size = 0, n;

        for (unsigned i = 0; i < 7; i++)
            assert_true(rig_send(f.bytes, f.n, NULL, 0));
        for (unsigned tries = 0; size < 7 * 180; tries++) {
            assert_true(tries < 3000);
            n = read(fd, bytes + size, sizeof(bytes) - (size_t)size);
            size += MAX(n, (ssize_t)0);
            usleep(1000);
        }
        close(fd);
        assert_int_equal(write(to, bytes, (size_t)size), size);
        close(to);
        assert_int_equal(count(copy), 7);
        assert_true(rig_send(f.bytes, f.n, NULL, 0)); /* which finds out that the reader has gone */
        for (unsigned tries = 0; rig_counter("capture", "unwritten") < 6 + reader; tries++) {
            assert_true(tries < 3000);
            usleep(1000);
        }
    }
    unlink(copy);
    rig_stop();
}

/* A second section behind the first; what a killed process left half written is cut off. */
static void test_continued(void **state)
{
    struct stat st;

    udp(53, 100);
    for (unsigned sections = 1; sections <= 2; sections++) {
        start("");
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        rig_stop();
        assert_int_equal(count(path), sections);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(truncate(path, st.st_size + (sections == 1 ? 8 : -5)), 0);
    }
    start("");
    rig_stop();
    assert_int_equal(count(path), 1); /* the second packet was torn */
}

static void test_refused(void **state)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);

    assert_int_equal(write(fd, "somebody's letters", 18), 18);
    close(fd);
    snprintf(chain, sizeof(chain), "capture out=%s | wire", path);
    assert_int_equal(rig_try(chain), -EEXIST);
    assert_non_null(strstr(rig.err.text, "left alone"));
    unlink(path);
    start("");
    {
        struct rig other = rig;

        assert_int_equal(rig_try(chain), -EBUSY);
        rig = other;
    }
    rig_stop();
    assert_int_equal(rig_try("capture out=/dev/null | wire"), -EINVAL);
    assert_int_equal(rig_try("capture out=/no/such/folder/x | wire"), -ENOENT);
}

static void test_limit(void **state)
{
    struct stat st;

    start("limit=4K");
    udp(53, 100);
    for (unsigned i = 0; i < 100; i++) {
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        if (i % 10 == 0)
            usleep(12000);
    }
    assert_int_equal(rig.wire.n, 100);
    rig_stop();
    assert_int_equal(stat(path, &st), 0);
    assert_in_range(st.st_size, 200, 4096);
    assert_true(count(path) < 100);
}

/* A file at its limit is not written, and its card is served all the same: this may be a dead worker's successor. */
static void test_limit_before(void **state)
{
    struct stat before, after;

    udp(53, 100);
    start("");
    for (unsigned i = 0; i < 30; i++)
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    rig_stop();
    assert_int_equal(stat(path, &before), 0);
    start("limit=4K");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    assert_int_equal(count(path), 30);
}

/* So it is where the file system has no space; when it has some again, that is recorded which comes then. */
static void test_no_space_before(void **state)
{
    struct rlimit all, none;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
    none = (struct rlimit){0, all.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    udp(53, 100);
    start("");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    for (unsigned tries = 0; rig_counter("capture", "unwritten") < 1; tries++) {
        assert_true(tries < 60000);
        usleep(1000);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 2);
    rig_stop();
    assert_int_equal(count(path), 1);
}

/* A packet passes that is not recorded. */
static void lose_one(void)
{
    start("");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    for (unsigned tries = 0; rig_counter("capture", "unwritten") < 1; tries++) {
        assert_true(tries < 60000);
        usleep(1000);
    }
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
}

/* Whatever is wrong with a file that was there before is told of, and its card is served. */
static void test_broken_before(void **state)
{
    int fd = memfd_create("capture", MFD_ALLOW_SEALING);

    assert_true(fd >= 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    udp(53, 100);
    start("");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    rig_stop();
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    lose_one();
    assert_int_equal(count(path), 1);
    close(fd);
}

/* So is one whose file system has become read-only; a new one is not made there. */
static void test_read_only_before(void **state)
{
    char folder[] = "capture-XXXXXX";

    assert_non_null(mkdtemp(folder));
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", folder, "tmpfs", 0, NULL) < 0) {
        rmdir(folder);
        skip();
    }
    snprintf(path, sizeof(path), "%s/file", folder);
    udp(53, 100);
    start("");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    rig_stop();
    assert_int_equal(mount("none", folder, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    lose_one();
    assert_int_equal(count(path), 1);
    snprintf(chain, sizeof(chain), "capture out=%s/other | wire", folder);
    assert_int_equal(rig_try(chain), -EROFS);
    umount2(folder, MNT_DETACH);
    rmdir(folder);
}

static int fresh(void **state)
{
    static unsigned serial;

    snprintf(path, sizeof(path), "capture-%d-%u.tmp", getpid(), serial++);
    unlink(path);
    return 0;
}

static int gone(void **state)
{
    unlink(path);
    return 0;
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fresh, gone)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_kinds),         TEST(test_choice),          TEST(test_full),
        TEST(test_fifo),          TEST(test_continued),       TEST(test_refused),
        TEST(test_limit),         TEST(test_limit_before),    TEST(test_no_space_before),
        TEST(test_broken_before), TEST(test_read_only_before)};

    signal(SIGPIPE, SIG_IGN); /* as the program has it */
    CHECK(registry_add_net(&net_capture, &rig.err) == 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
