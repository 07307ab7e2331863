/* SPDX-License-Identifier: MIT */
/* test_net_pcap.c - the back `pcap`: frames come when they are due, by a clock that the test turns. */
#include "net/pcap/frames.h"
#include "tests/unit/net_rig.h"

#include <pcap/pcap.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

extern const struct dt_net_ext net_pcap;
static char path[64], chain[256];
static uint64_t began;

/* Frames of 60 bytes and one more each, ten ms apart; the last of them is cut. */
static void write_file(unsigned n, int linktype)
{
    pcap_t *pcap =
        pcap_open_dead_with_tstamp_precision(linktype, 65600, PCAP_TSTAMP_PRECISION_NANO);
    pcap_dumper_t *to = pcap_dump_open(pcap, path);
    uint8_t frame[2000] = {0};

    assert_non_null(to);
    for (unsigned i = 0; i <= n; i++) {
        struct pcap_pkthdr h = {.ts = {1000, 500000000 + (int)i * 10000000},
                                .caplen = 60 + i,
                                .len = 60 + i + (i == n)};

        memset(frame, (int)i + 1, sizeof(frame));
        h.ts.tv_sec += h.ts.tv_usec / 1000000000;
        h.ts.tv_usec %= 1000000000;
        pcap_dump((uint8_t *)to, &h, frame);
    }
    pcap_dump_close(to);
    pcap_close(pcap);
}

static void start(const char *options)
{
    snprintf(chain, sizeof(chain), "pcap in=%s %s", path, options);
    rig_start(chain);
    rig_turn();
    began = test_clock;
}

static void pass_time(uint64_t ns)
{
    for (uint64_t end = test_clock + ns; test_clock < end;) {
        test_clock += DT_US(250);
        rig_turn();
    }
}

static void test_as_recorded(void **state)
{
    write_file(20, DLT_EN10MB);
    start("");
    pass_time(DT_MS(500));
    assert_int_equal(rig.guest.n, 20);
    for (unsigned i = 0; i < 20; i++) {
        const struct rig_frame *g = &rig.guest.frames[i];

        assert_int_equal(g->length, 60 + i);
        assert_int_equal(g->data[0], i + 1);
        assert_int_equal(g->data[59 + i], i + 1);
        assert_in_range(g->at - began, i * DT_MS(10), i * DT_MS(10) + DT_MS(1));
    }
    assert_int_equal(rig_counter("pcap", "skipped"), 1);
    assert_int_equal(rig_counter("pcap", "rounds"), 1);
    assert_true(rig_send(rig.guest.frames[0].data, 60, NULL, 0));
    assert_int_equal(rig.sent, 1);
    rig_stop();
}

static void test_speed(void **state)
{
    write_file(20, DLT_EN10MB);
    start("speed=10");
    pass_time(DT_MS(10));
    assert_in_range(rig.guest.n, 10, 11);
    assert_int_equal(device_set(rig.dev, "pcap", "speed", "0.1", &rig.err), 0);
    pass_time(DT_MS(150));
    assert_in_range(rig.guest.n, 11, 13);
    assert_int_equal(device_set(rig.dev, "pcap", "speed", "fast", &rig.err), -EINVAL);
    assert_int_equal(device_set(rig.dev, "pcap", "speed", "inf", &rig.err), -EINVAL);
    assert_int_equal(device_set(rig.dev, "pcap", "speed", "max", &rig.err), 0);
    pass_time(DT_MS(1));
    assert_int_equal(rig.guest.n, 20);
    rig_stop();
}

static void test_loop(void **state)
{
    json_t *reply;

    write_file(20, DLT_EN10MB);
    start("speed=max loop=3");
    pass_time(DT_MS(5));
    assert_int_equal(rig.guest.n, 60);
    assert_int_equal(rig.guest.frames[20].length, 60);
    assert_int_equal(rig_counter("pcap", "rounds"), 3);
    assert_int_equal(device_do(rig.dev, "pcap", "restart", 0, NULL, &reply, &rig.err), 0);
    json_decref(reply);
    pass_time(DT_MS(5));
    assert_int_equal(rig.guest.n, 120);
    assert_int_equal(device_set(rig.dev, "pcap", "loop", "4", &rig.err), 0);
    pass_time(DT_MS(5));
    assert_int_equal(rig.guest.n, 140);
    rig_stop();
}

/* A guest without buffers misses nothing. */
static void test_room(void **state)
{
    write_file(20, DLT_EN10MB);
    start("");
    net_set_room(rig.lane, true, 0);
    pass_time(DT_MS(100));
    assert_int_equal(rig.guest.n, 1);
    net_set_room(rig.lane, true, 256);
    net_resume(rig.lane);
    pass_time(DT_MS(1));
    assert_int_equal(rig.guest.n, 11);
    pass_time(DT_MS(200));
    assert_int_equal(rig.guest.n, 20);
    rig_stop();
}

/* A successor goes on where the dead one was; what became due meanwhile comes at once. */
static void test_inherited(void **state)
{
    const struct dt_net_ext *ext = &net_pcap;
    struct dt_layer *layer;
    uint64_t blob[5], then;
    struct dt_error err;

    write_file(20, DLT_EN10MB);
    start("loop=2");
    pass_time(DT_MS(255)); /* the second round, since 190 ms */
    assert_int_equal(rig.guest.n, 27);
    assert_int_equal(ext->save(rig.dev->layers[1], blob, sizeof(blob)), sizeof(blob));
    assert_int_equal(ext->save(rig.dev->layers[1], blob, 8), -ENOSPC);
    then = test_clock;
    rig_stop();
    test_clock = then + DT_MS(30);
    rig_start(chain);
    layer = rig.dev->layers[1];
    assert_int_equal(ext->load(layer, blob, sizeof(blob), 1, &err), 0);
    pass_time(DT_MS(1));
    assert_int_equal(rig.guest.n, 3);
    assert_int_equal(rig.guest.frames[0].length, 67);
    pass_time(DT_MS(300));
    assert_int_equal(rig.guest.n, 13); /* and no third round */
    assert_int_equal(ext->load(layer, blob, 8, 1, &err), -EBADMSG);
    assert_int_equal(ext->load(layer, blob, sizeof(blob), 2, &err), -EBADMSG);
    blob[3] = 21;
    assert_int_equal(ext->load(layer, blob, sizeof(blob), 1, &err), -EBADMSG);
    rig_stop();

    write_file(19, DLT_EN10MB); /* another file: from its beginning */
    rig_start(chain);
    blob[3] = 5;
    assert_int_equal(ext->load(rig.dev->layers[1], blob, sizeof(blob), 1, &err), 0);
    pass_time(DT_MS(1));
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(rig.guest.frames[0].length, 60);
    rig_stop();
}

static void refuse(const char *options, int code, const char *said)
{
    snprintf(chain, sizeof(chain), "pcap in=%s %s", path, options);
    assert_int_equal(rig_try(chain), code);
    if (!strstr(rig.err.text, said))
        fail_msg("'%s' does not say '%s'", rig.err.text, said);
}

static void test_refused(void **state)
{
    FILE *file;

    unlink(path);
    refuse("", -ENOENT, "cannot open");
    write_file(0, DLT_EN10MB);
    refuse("", -EINVAL, "no whole Ethernet frame");
    write_file(20, DLT_RAW);
    refuse("", -EINVAL, "not of Ethernet");
    write_file(20, DLT_EN10MB);
    refuse("memory=1K", -EFBIG, "memory=");
    refuse("speed=0", -EINVAL, "speed");
    assert_int_equal(truncate(path, 200), 0);
    refuse("", -EBADMSG, "after 2 frames");
    file = fopen(path, "w");
    fputs("somebody's letters, which are long enough to be something", file);
    fclose(file);
    refuse("", -EBADMSG, path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_recorded), cmocka_unit_test(test_speed),
        cmocka_unit_test(test_loop),        cmocka_unit_test(test_room),
        cmocka_unit_test(test_inherited),   cmocka_unit_test(test_refused),
    };
    int ret;

    test_clock = DT_S(1000);
    snprintf(path, sizeof(path), "net-pcap-%d.tmp", getpid());
    CHECK(registry_add_net(&net_pcap, &rig.err) == 0);
    ret = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return ret;
}
