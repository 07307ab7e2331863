/* SPDX-License-Identifier: MIT */
/* test_net_link.c - what is told of a card's link: at each change, and by whoever takes another process's place. */
#include "tests/unit/net_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <cmocka.h>

static uint8_t said; /* by the back */
static unsigned ups, downs;

static int far_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    info->link = said;
    return 0;
}

static void far_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    dt_sent(c, packets, n);
}

static const struct dt_net_ext far_end = {DT_NET_EXT_HEADER,
                                          .name = "far",
                                          .summary = "a wire whose link is what the test says",
                                          .flags = DT_BACK | DT_SELF_CONTAINED,
                                          .transmit = far_transmit,
                                          .info = far_info};

static void hear(const struct device_event *e)
{
    ups += strcmp(e->event, "link-up") == 0;
    downs += strcmp(e->event, "link-down") == 0;
}

static void start(uint8_t link)
{
    said = link;
    ups = downs = 0;
    rig_start("far");
}

static void say(uint8_t link)
{
    said = link;
    dt_layer_info_changed(rig.dev->layers[1]);
    rig_turn();
}

static void test_changes(void **state)
{
    start(DT_LINK_UNKNOWN);
    assert_int_equal(ups + downs, 0);
    say(DT_LINK_UP);
    assert_int_equal(ups, 1);
    say(DT_LINK_UP);
    assert_int_equal(ups, 1);
    say(DT_LINK_DOWN);
    assert_int_equal(downs, 1);
    say(DT_LINK_UNKNOWN);
    assert_int_equal(ups, 2);
    assert_int_equal(downs, 1);
    rig_stop();
}

/* What the process before told last may have been otherwise; the first one has nothing to take back. */
static void test_successor(void **state)
{
    static const uint8_t links[] = {DT_LINK_UNKNOWN, DT_LINK_UP, DT_LINK_DOWN};

    for (unsigned i = 0; i < ARRAY_SIZE(links); i++) {
        rig.blobs = mmap(NULL, blob_area_size(), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert_ptr_not_equal(rig.blobs, MAP_FAILED);
        for (unsigned n = 0; n < 2; n++) {
            start(links[i]);
            assert_int_equal(ups, links[i] == DT_LINK_UP || (n && links[i] == DT_LINK_UNKNOWN));
            assert_int_equal(downs, links[i] == DT_LINK_DOWN);
            rig_stop();
        }
        munmap(rig.blobs, blob_area_size());
        rig.blobs = NULL;
    }
}

/* An extension is somebody else's. */
static void test_no_such_state(void **state)
{
    static const struct rig_refusal none[] = {{"far", "far: 3 is no state of a link"}};
    json_t *show;

    said = 3;
    rig_refuses(none, 1);
    start(DT_LINK_UP);
    say(200);
    assert_int_equal(device_net_info(rig.dev)->link, DT_LINK_UP);
    show = device_show(rig.dev);
    assert_string_equal(json_string_value(json_object_get(json_object_get(show, "card"), "link")),
                        "up");
    json_decref(show);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_successor),
        cmocka_unit_test(test_no_such_state),
    };

    CHECK(registry_add_net(&far_end, &rig.err) == 0);
    device_events(hear);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
