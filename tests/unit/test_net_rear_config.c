/* SPDX-License-Identifier: MIT */
/*
 * test_net_rear_config.c - the back `vhost-user` of a card before a rear with a configuration space: what it says of the
 * card, that it changes, and that it may be wrong.
 */
#include "tests/unit/fake_rear.h"
#include "tests/unit/net_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <cmocka.h>

#define TELLS (1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MTU)

static const struct virtio_net_config usual = {.mac = {0x52, 0x54, 0, 1, 2, 3},
                                               .status = VIRTIO_NET_S_LINK_UP,
                                               .max_virtqueue_pairs = 1,
                                               .mtu = 9000};
static struct fake_rear rear;
static unsigned heard_n;
static struct {
    char name[32], text[160];
} heard[64];

static void hear(const struct device_event *e)
{
    unsigned i = __atomic_fetch_add(&heard_n, 1, __ATOMIC_SEQ_CST) % ARRAY_SIZE(heard);

    snprintf(heard[i].text, sizeof(heard[i].text), "%s", e->text);
    snprintf(heard[i].name, sizeof(heard[i].name), "%s", e->event);
}

/* How often @event was told. */
static unsigned told(const char *event)
{
    unsigned n = 0;

    for (unsigned i = 0; i < MIN(heard_n, ARRAY_SIZE(heard)); i++)
        n += strcmp(heard[i].name, event) == 0;
    return n;
}

static int try_with(uint64_t features, const struct virtio_net_config *card, const char *options)
{
    bool (*mangle)(struct fake_rear * rear, struct vhost_message * m) = rear.mangle;
    char chain[200];

    rear = (struct fake_rear){.net = true,
                              .features = FAKE_NET_FEATURES | features,
                              .protocol = FAKE_NET_PROTOCOL | 1ull << VHOST_F_CONFIG |
                                          1ull << VHOST_F_BACKEND_REQ,
                              .card = *card,
                              .mangle = mangle};
    fake_rear_start(&rear);
    heard_n = 0;
    snprintf(chain, sizeof(chain), "vhost-user path=%s %s", rear.path, options);
    return rig_try(chain);
}

static void begin(uint64_t features, const struct virtio_net_config *card, const char *options)
{
    if (try_with(features, card, options) < 0)
        fail_msg("%s", rig.err.text);
    TURN_UNTIL(__atomic_load_n(&rear.rings[1].enabled, __ATOMIC_ACQUIRE));
}

static void end(void)
{
    rig_stop();
    fake_rear_stop(&rear);
}

static const struct dt_net_info *card(void)
{
    return device_net_info(rig.dev);
}

static void say(uint16_t status, uint16_t pairs, uint16_t mtu)
{
    struct virtio_net_config now = usual;

    now.status = status;
    now.max_virtqueue_pairs = pairs;
    now.mtu = mtu;
    assert_true(fake_rear_say(&rear, &now));
}

static unsigned sessions(void)
{
    return __atomic_load_n(&rear.sessions, __ATOMIC_ACQUIRE);
}

/* A packet of the guest's, from @mac, gets there. */
static void send_from(const uint8_t mac[6])
{
    unsigned before = __atomic_load_n(&rear.served, __ATOMIC_ACQUIRE);
    uint8_t frame[60] = {0x52, 0x54, 0, 9, 9, 9};

    memcpy(frame + 6, mac, 6);
    assert_true(rig_send(frame, sizeof(frame), NULL, 0));
    TURN_UNTIL(__atomic_load_n(&rear.served, __ATOMIC_ACQUIRE) > before);
}

/* ---- What it says ---------------------------------------------------------------------------- */

static void test_says_all(void **state)
{
    json_t *show;
    const char *mac = NULL, *link = NULL;

    begin(TELLS, &usual, "");
    assert_int_equal(card()->mtu, 9000);
    assert_int_equal(card()->link, DT_LINK_UP);
    assert_memory_equal(card()->mac, usual.mac, 6);
    assert_int_equal(rear.mtu, 9000);
    assert_int_equal(told("link-up"), 1); /* what a process before this one told may be otherwise */
    assert_int_equal(told("link-down"), 0);
    show = device_show(rig.dev);
    assert_int_equal(json_unpack(show, "{s{ssss}}", "card", "mac", &mac, "link", &link), 0);
    assert_string_equal(mac, "52:54:00:01:02:03");
    assert_string_equal(link, "up");
    json_decref(show);
    end();
}

/* A space may end behind the last field that there is. */
static void test_asks_for_what_there_is(void **state)
{
    static const struct {
        uint64_t features;
        uint32_t bytes;
    } cases[] = {
        {0, 0},
        {1ull << VIRTIO_NET_F_MAC, 10},
        {1ull << VIRTIO_NET_F_STATUS, 10},
        {1ull << VIRTIO_NET_F_MTU, 12},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        begin(cases[i].features, &usual, "");
        assert_int_equal(rear.asked, cases[i].bytes);
        assert_int_equal(card()->link == DT_LINK_UP,
                         cases[i].features == 1ull << VIRTIO_NET_F_STATUS);
        assert_int_equal(card()->mac[0], cases[i].features == 1ull << VIRTIO_NET_F_MAC ? 0x52 : 0);
        assert_int_equal(card()->mtu, cases[i].features == 1ull << VIRTIO_NET_F_MTU ? 9000 : 1500);
        end();
    }
}

static void test_parameter(void **state)
{
    begin(TELLS, &usual, "mtu=1400");
    assert_int_equal(card()->mtu, 1400);
    assert_int_equal(rear.mtu, 1400);
    end();
    assert_true(try_with(TELLS, &usual, "mtu=9001") < 0);
    assert_non_null(strstr(rig.err.text, "say mtu=9000"));
    fake_rear_stop(&rear);
}

/* ---- It changes ------------------------------------------------------------------------------ */

static void test_link(void **state)
{
    begin(TELLS, &usual, "");
    for (unsigned i = 1; i <= 3; i++) {
        say(0, 1, 9000);
        TURN_UNTIL(card()->link == DT_LINK_DOWN);
        assert_int_equal(told("link-down"), i);
        send_from(usual.mac); /* whether it goes anywhere is the rear's business */
        say(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE, 1, 9000);
        TURN_UNTIL(card()->link == DT_LINK_UP);
        assert_int_equal(told("link-up"), 1 + i);
    }
    assert_int_equal(sessions(), 1);
    end();
}

/* Nobody is there: the link is down, whatever it was. */
static void test_gone(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        begin(i ? 0 : TELLS, &usual, "");
        assert_int_equal(card()->link, i ? DT_LINK_UNKNOWN : DT_LINK_UP);
        fake_rear_stop(&rear);
        TURN_UNTIL(card()->link == DT_LINK_DOWN);
        fake_rear_start(&rear);
        TURN_UNTIL(card()->link == (i ? DT_LINK_UNKNOWN : DT_LINK_UP));
        assert_int_equal(told("link-down"), 1);
        assert_int_equal(told("link-up"), 2 - i);
        end();
    }
}

static void test_shrinks(void **state)
{
    begin(TELLS, &usual, "");
    say(VIRTIO_NET_S_LINK_UP, 1, 1500);
    TURN_UNTIL(told("rear-mtu") > 0);
    say(VIRTIO_NET_S_LINK_UP, 1, 1500); /* said once */
    say(0, 1, 1500);
    TURN_UNTIL(card()->link == DT_LINK_DOWN);
    assert_int_equal(told("rear-mtu"), 1);
    assert_int_equal(card()->mtu, 9000);
    send_from(usual.mac);
    assert_int_equal(sessions(), 1);
    fake_rear_stop(&rear); /* but a new session may as well be with another one */
    TURN_UNTIL(rig_counter("vhost-user", "rear-losses") == 1);
    fake_rear_start(&rear);
    TURN_UNTIL(sessions() >= 3);
    assert_false(__atomic_load_n(&rear.rings[1].enabled, __ATOMIC_ACQUIRE));
    fake_rear_settle(&rear);
    rear.card.mtu = 9216;
    TURN_UNTIL(__atomic_load_n(&rear.rings[1].enabled, __ATOMIC_ACQUIRE));
    end();
}

static void make_floor(void)
{
    rig.blobs = mmap(NULL, blob_area_size(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(rig.blobs, MAP_FAILED);
}

static void drop_floor(void)
{
    munmap(rig.blobs, blob_area_size());
    rig.blobs = NULL;
}

static void comes_back_with(uint16_t mtu)
{
    unsigned before = sessions();

    fake_rear_stop(&rear);
    TURN_UNTIL(card()->link == DT_LINK_DOWN);
    rear.card.mtu = mtu;
    fake_rear_start(&rear);
    TURN_UNTIL(sessions() > before);
}

/* What counts is what the guest was told, not what the rear said when this worker began. */
static void test_promised_less(void **state)
{
    struct virtio_net_config small = usual;

    make_floor();
    small.mtu = 1500;
    begin(TELLS, &small, "");
    end();
    begin(TELLS, &usual, ""); /* the successor */
    assert_int_equal(card()->mtu, 1500);
    comes_back_with(1500);
    TURN_UNTIL(card()->link == DT_LINK_UP);
    assert_int_equal(rear.mtu, 1500);
    end();
    drop_floor();
}

static void test_promised_more(void **state)
{
    struct virtio_net_config small = usual;

    make_floor();
    begin(TELLS, &usual, "");
    end();
    small.mtu = 1500;
    begin(TELLS, &small, ""); /* with a warning: cards without a rear serve nobody */
    assert_int_equal(card()->mtu, 9000);
    comes_back_with(1500);
    TURN_UNTIL(sessions() >= 3);
    fake_rear_settle(&rear);
    assert_int_equal(card()->link, DT_LINK_DOWN);
    rear.card.mtu = 9000;
    TURN_UNTIL(card()->link == DT_LINK_UP);
    end();
    drop_floor();
}

/* Buffers are made for the largest packet, so how many bytes that may be is not a stranger's to say. */
static void test_says_too_much(void **state)
{
    struct virtio_net_config large = usual;

    large.mtu = 65535;
    begin(TELLS, &large, "");
    assert_int_equal(card()->mtu, 9216);
    assert_int_equal(rear.mtu, 9216);
    end();
    begin(TELLS, &large, "mtu=65535");
    assert_int_equal(card()->mtu, 65535);
    end();
}

/* It costs whoever shares the thread: nothing is told that is not new, and news ten times a second. */
static void test_repeats_itself(void **state)
{
    uint64_t start;
    unsigned asked;

    begin(TELLS, &usual, "");
    for (unsigned i = 0; i < 20; i++) {
        asked = __atomic_exchange_n(&rear.asked, 0, __ATOMIC_SEQ_CST);
        assert_true(asked > 0);
        say(VIRTIO_NET_S_LINK_UP, 1, 9000);
        TURN_UNTIL(__atomic_load_n(&rear.asked, __ATOMIC_SEQ_CST) > 0);
    }
    assert_int_equal(rig.changed, 0);
    start = real_now();
    for (unsigned i = 0; i < 200; i++) {
        __atomic_store_n(&rear.asked, 0, __ATOMIC_SEQ_CST);
        say(i % 2 ? VIRTIO_NET_S_LINK_UP : 0, 1, 9000);
        TURN_UNTIL(__atomic_load_n(&rear.asked, __ATOMIC_SEQ_CST) > 0);
    }
    assert_in_range(rig.changed, 1, 2 + (real_now() - start) / DT_MS(100));
    say(0, 1, 9000);
    TURN_UNTIL(card()->link == DT_LINK_DOWN);
    end();
}

/* A device that is not served after all: what its rear's thread still said lies in the loop, which lives on. */
static void test_freed_before_it_is_told(void **state)
{
    begin(TELLS, &usual, "");
    dt_layer_info_changed(rig.dev->layers[1]);
    device_stop(rig.dev);
    device_free(rig.dev);
    loop_turn(rig.loop, false);
    assert_int_equal(rig.changed, 0);
    loop_free(rig.loop);
    rig_clear();
    fake_rear_stop(&rear);
}

/* What only says something may be other, or gone, when it comes back. */
static void test_comes_back_with_another_address(void **state)
{
    begin(TELLS, &usual, "");
    fake_rear_stop(&rear);
    TURN_UNTIL(card()->link == DT_LINK_DOWN);
    rear.card.mac[5] = 9;
    fake_rear_start(&rear);
    TURN_UNTIL(card()->mac[5] == 9 && card()->link == DT_LINK_UP);
    fake_rear_stop(&rear);
    TURN_UNTIL(card()->link == DT_LINK_DOWN);
    rear.features &= ~(1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS);
    fake_rear_start(&rear);
    TURN_UNTIL(card()->link == DT_LINK_UNKNOWN);
    assert_int_equal(card()->mac[0], 0);
    fake_rear_stop(&rear);
    TURN_UNTIL(card()->link == DT_LINK_DOWN);
    rear.features |= TELLS;
    fake_rear_start(&rear);
    TURN_UNTIL(card()->link == DT_LINK_UP);
    end();
}

static void test_listens(void **state)
{
    char chain[200];

    rear = (struct fake_rear){.net = true,
                              .connects = true,
                              .features = FAKE_NET_FEATURES | TELLS,
                              .protocol = FAKE_NET_PROTOCOL | 1ull << VHOST_F_CONFIG |
                                          1ull << VHOST_F_BACKEND_REQ,
                              .card = usual};
    heard_n = 0;
    snprintf(rear.path, sizeof(rear.path), "/tmp/devtap-net-rear-config.%d", getpid());
    snprintf(chain, sizeof(chain), "vhost-user path=%s listen=on", rear.path);
    if (rig_try(chain) < 0)
        fail_msg("%s", rig.err.text);
    assert_int_equal(card()->link, DT_LINK_DOWN);
    assert_int_equal(card()->mtu, 1500); /* the guest is told before it is there */
    assert_int_equal(told("link-down"), 1);
    fake_rear_start(&rear);
    TURN_UNTIL(card()->link == DT_LINK_UP);
    assert_memory_equal(card()->mac, usual.mac, 6);
    assert_int_equal(rear.mtu, 1500);
    end();
    unlink(rear.path);
}

/* ---- Whose address is it? -------------------------------------------------------------------- */

static void test_other_source(void **state)
{
    const uint8_t other[6] = {0x52, 0x54, 0, 7, 7, 7};

    begin(TELLS, &usual, "");
    send_from(usual.mac);
    send_from(other); /* a bridge in the guest, perhaps */
    assert_int_equal(told("rear-mac"), 0);
    end();
    begin(TELLS, &usual, "");
    send_from(other);
    send_from(other);
    assert_int_equal(told("rear-mac"), 1);
    assert_non_null(strstr(heard[1].text, "52:54:00:01:02:03"));
    assert_non_null(strstr(heard[1].text, "52:54:00:07:07:07"));
    end();
    begin(0, &usual, "");
    send_from(other);
    assert_int_equal(told("rear-mac"), 0);
    end();
}

/* ---- It is wrong ----------------------------------------------------------------------------- */

static const struct {
    uint16_t pairs, mtu;
    const char *says;
} wrongs[] = {
    {1, 0, "has 0 bytes"},
    {1, 67, "has 67 bytes"},
    {0, 1500, "has 0 pairs"},
    {0x8001, 1500, "has 32769 pairs"},
};

static void test_wrong(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(wrongs); i++) {
        struct virtio_net_config wrong = usual;

        wrong.max_virtqueue_pairs = wrongs[i].pairs;
        wrong.mtu = wrongs[i].mtu;
        assert_true(try_with(TELLS, &wrong, "") < 0);
        if (!strstr(rig.err.text, wrongs[i].says))
            fail_msg("%s", rig.err.text);
        fake_rear_stop(&rear);
    }
}

/* And while it serves: the session ends, and the next one is taken when it makes sense. */
static void test_becomes_wrong(void **state)
{
    begin(TELLS, &usual, "");
    for (unsigned i = 0; i < ARRAY_SIZE(wrongs); i++) {
        unsigned before = sessions();

        say(VIRTIO_NET_S_LINK_UP, wrongs[i].pairs, wrongs[i].mtu);
        TURN_UNTIL(rig_counter("vhost-user", "rear-lies") == i + 1);
        TURN_UNTIL(sessions() > before); /* and refused again */
        fake_rear_settle(&rear);
        rear.card = usual;
        TURN_UNTIL(card()->link == DT_LINK_UP);
        send_from(usual.mac);
    }
    end();
}

static void test_address_of_none(void **state)
{
    static const uint8_t macs[][6] = {{0}, {1, 0, 0x5e, 1, 2, 3}, {255, 255, 255, 255, 255, 255}};

    for (unsigned i = 0; i < ARRAY_SIZE(macs); i++) {
        struct virtio_net_config wrong = usual;

        memcpy(wrong.mac, macs[i], 6);
        begin(TELLS, &wrong, "");
        assert_int_equal(card()->mac[0] | card()->mac[2] | card()->mac[5], 0);
        assert_int_equal(card()->mtu, 9000);
        send_from(usual.mac);
        assert_int_equal(told("rear-mac"), 0);
        end();
    }
}

static enum { REFUSED, SHORT, LONG, SHIFTED, SHRUNK, SILENT } how;

static bool answer_wrongly(struct fake_rear *r, struct vhost_message *m)
{
    if (m->header.request != VHOST_GET_CONFIG)
        return true;
    if (how == REFUSED)
        m->header.size = 0;
    else if (how == SHORT)
        m->header.size--;
    else if (how == LONG)
        m->header.size += 4;
    else if (how == SHIFTED)
        m->config.offset = 2;
    else if (how == SHRUNK)
        m->config.size = 4;
    return how != SILENT;
}

static void test_answers_wrongly(void **state)
{
    static const char *const says[] = {[SHORT] = "of 23 bytes instead of 24",
                                       [LONG] = "of 28 bytes instead of 24",
                                       [SHIFTED] = "got 12 bytes at 2",
                                       [SHRUNK] = "got 4 bytes at 0",
                                       [SILENT] = "no answer"};

    rear.mangle = answer_wrongly;
    how = REFUSED; /* it has none after all */
    begin(TELLS, &usual, "");
    assert_int_equal(card()->mtu, 1500);
    assert_int_equal(card()->link, DT_LINK_UNKNOWN);
    send_from(usual.mac);
    end();
    for (how = SHORT; how <= SILENT; how++) {
        assert_true(try_with(TELLS, &usual, how == SILENT ? "timeout=100ms" : "") < 0);
        if (!strstr(rig.err.text, says[how]))
            fail_msg("%s", rig.err.text);
        fake_rear_stop(&rear);
    }
    rear.mangle = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says_all),
        cmocka_unit_test(test_asks_for_what_there_is),
        cmocka_unit_test(test_parameter),
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_shrinks),
        cmocka_unit_test(test_promised_less),
        cmocka_unit_test(test_promised_more),
        cmocka_unit_test(test_says_too_much),
        cmocka_unit_test(test_repeats_itself),
        cmocka_unit_test(test_freed_before_it_is_told),
        cmocka_unit_test(test_comes_back_with_another_address),
        cmocka_unit_test(test_listens),
        cmocka_unit_test(test_other_source),
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_becomes_wrong),
        cmocka_unit_test(test_address_of_none),
        cmocka_unit_test(test_answers_wrongly),
    };

    log_set_level(DT_LOG_ERROR);
    device_events(hear);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
