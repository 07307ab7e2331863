/* SPDX-License-Identifier: MIT */
/*
 * test_net_front_hostile.c - what a VMM asks of a card, and that a hostile guest loses its own session while the card beside
 * it goes on.
 *
 * Of the control queue a back end sees nothing: the VMM answers its commands. What is left of it here are the rings that
 * it says are to be used, and the ring that would be its own.
 */
#include "card_common.h"

/* ---- What the VMM asks ---- */

/* RARP comes for guests that cannot announce themselves (docs/interop/vhost-user.rst). */
static void vmm_requests(void **state)
{
    const struct vhost_message rarp = {.header = {VHOST_SEND_RARP, VHOST_VERSION, 8},
                                       .raw = {0x52, 0x54, 0, 0, 0, 9, 0xee, 0xee}};
    static const uint8_t mac[] = {0x52, 0x54, 0, 0, 0, 9};
    struct card_frame frame = {0};
    struct dt_error err;

    start(*(bool *)*state, MERGEABLE);
    assert_int_equal(vhost_frontend_set_mtu(guest.front, 1500, &err), 0);
    assert_true(vhost_frontend_set_mtu(guest.front, 9000, &err) < 0);
    assert_int_equal(vhost_send(vhost_frontend_socket(guest.front), &rarp, 1000), 0);
    for (uint64_t end = dt_clock_ns() + DT_MS(CARD_WAIT_MS);
         !wire_take(&frame) && dt_clock_ns() < end;)
        ;
    assert_int_equal(frame.length, 60);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(frame.bytes[i], 0xff);
    assert_memory_equal(frame.bytes + 6, mac, 6);
    assert_int_equal(load_be16(frame.bytes + 12), 0x8035);
    assert_int_equal(load_be16(frame.bytes + 20), 3);
    assert_memory_equal(frame.bytes + 22, mac, 6);
    assert_memory_equal(frame.bytes + 32, mac, 6);
    free(frame.bytes);
    expect_sent(&guest);
    stop();
}

/* ---- What ends the session, and only that ---- */

static void session_ended(void)
{
    struct card_frame frame;

    assert_true(card_guest_gone(&guest, CARD_WAIT_MS));
    while (wire_take(&frame)) /* of memory that is gone there were zeroes to read */
        free(frame.bytes);
    expect_sent(&beside);
    card_guest_detach(&guest);
    card_guest_attach(&guest); /* the card is there for the next */
    expect_sent(&guest);
}

/* The ring beyond the pairs would be the control queue, which is the VMM's: it is refused, and all else goes on. */
static void no_control_queue(void **state)
{
    struct vhost_message m = {.header = {VHOST_SET_VRING_NUM, VHOST_VERSION | VHOST_NEED_REPLY, 8},
                              .vring = {2 * FRONT_QUEUES, 64}};
    struct vhost_stream replies = {.expect = VHOST_EXPECT_REPLIES};
    struct dt_error err;
    int n = 0;

    start(*(bool *)*state, MERGEABLE);
    replies.sock = vhost_frontend_socket(guest.front);
    assert_int_equal(vhost_send(replies.sock, &m, 1000), 0);
    for (uint64_t end = dt_clock_ns() + DT_MS(CARD_WAIT_MS); n == 0 && dt_clock_ns() < end;)
        n = vhost_stream_read(&replies, &err);
    assert_int_equal(n, 1);
    assert_int_not_equal(replies.message.u64, 0);
    expect_sent(&guest);
    stop();
}

static void addresses_outside(void **state)
{
    start(*(bool *)*state, MERGEABLE);
    card_guest_offer(&guest, CARD_TX, (struct virtq_buffer[]){{0x10, 100}}, 1, 0);
    session_ended();
    card_guest_offer(&guest, CARD_TX,
                     (struct virtq_buffer[]){part(CARD_MEMORY - CARD_DATA - 50, 100)}, 1, 0);
    session_ended();
    card_guest_offer(&guest, CARD_RX, (struct virtq_buffer[]){{UINT64_MAX - 20, 2048}}, 0, 1);
    make_tcp(100);
    wire_arrive(&guest, f.bytes, f.n,
                NULL); /* receive rings are looked into when something comes */
    session_ended();
    stop();
}

static void truncated_memory(void **state)
{
    start(*(bool *)*state, MERGEABLE);
    memmap_guard_install(); /* cmocka puts a handler of its own before each test */
    assert_int_equal(ftruncate(guest.memory_fd, CARD_DATA), 0); /* the rings stay */
    card_guest_offer(&guest, CARD_TX, (struct virtq_buffer[]){part(0, 100)}, 1, 0);
    assert_true(card_guest_gone(&guest, CARD_WAIT_MS));
    assert_int_equal(ftruncate(guest.memory_fd, CARD_MEMORY), 0);
    session_ended();
    card_guest_offer(&guest, CARD_RX, (struct virtq_buffer[]){part(0, 2048)}, 0, 1);
    assert_int_equal(ftruncate(guest.memory_fd, CARD_DATA), 0);
    make_tcp(100);
    for (unsigned i = 0; i < 2; i++) /* the next look into a ring tells */
        wire_arrive(&guest, f.bytes, f.n, NULL);
    assert_true(card_guest_gone(&guest, CARD_WAIT_MS));
    assert_int_equal(ftruncate(guest.memory_fd, CARD_MEMORY), 0);
    session_ended();
    stop();
}

/* ---- A guest that changes its mind ---- */

static bool scribbling;

/* Descriptors, headers of packets and the packets' own, while these are read. */
static void *scribble(void *arg)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, 7);
    while (__atomic_load_n(&scribbling, __ATOMIC_RELAXED)) {
        uint64_t r = dt_rng_next(&rng);
        volatile struct vring_desc *d =
            (void *)(guest.memory + guest.rings[CARD_TX].desc_off + CARD_DATA / CARD_RINGS);

        d += r % 8;
        switch (r >> 32 & 7) {
        case 0:
            d->addr = CARD_GPA + CARD_DATA + (r >> 40) % 8192;
            break;
        case 1:
            d->len = (uint32_t)(r >> 40) % 4096;
            break;
        case 2:
            d->flags = (uint16_t)(r >> 50 & 3);
            break;
        default: /* mostly what is judged: the virtio header, Ethernet, IP and TCP */
            *(volatile uint8_t *)data((r >> 8) % (HEADER + 54)) = (uint8_t)(r >> 40);
        }
    }
    return NULL;
}

/* What gets to the wire fits itself, whenever it was changed: the wire of the rig judges that. */
static void memory_changes_while_it_is_read(void **state)
{
    unsigned sessions = 0, passed = 0;

    start(*(bool *)*state, all_offloads() | MERGEABLE);
    for (unsigned round = 0; round < 30; round++) {
        struct dt_vnet_header v;
        struct card_frame frame;
        pthread_t thread;

        __atomic_store_n(&scribbling, true, __ATOMIC_RELAXED);
        pthread_create(&thread, NULL, scribble, NULL);
        for (unsigned i = 0; i < 100 && !card_guest_gone(&guest, 0); i++) {
            uint16_t id;

            v = frame_kind(&f, i % FRAME_KINDS, 80);
            frame_pattern(&f, 3501);
            frame_end(&f);
            memcpy(data(0), &v, HEADER);
            memcpy(data(HEADER), f.bytes, f.n);
            if (guest.rings[CARD_TX].free_count < 2)
                break;
            card_guest_offer(&guest, CARD_TX,
                             (struct virtq_buffer[]){part(0, HEADER), part(HEADER, f.n)}, 2, 0);
            if (card_guest_reap(&guest, CARD_TX, &id, 20) < 0)
                break;
            while (wire_take(&frame)) {
                free(frame.bytes);
                passed++;
            }
        }
        __atomic_store_n(&scribbling, false, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        sessions += card_guest_gone(&guest, 0);
        card_guest_detach(&guest);
        while (wire_take(&frame))
            free(frame.bytes);
        expect_sent(&beside);
        card_guest_attach(&guest);
    }
    print_message("# %u of 30 sessions were broken, %u packets were sent\n", sessions, passed);
    expect_sent(&guest);
    stop();
}

int main(void)
{
    static const struct card_test tests[] = {
        {"requests of the VMM", vmm_requests},
        {"no control queue", no_control_queue},
        {"addresses outside", addresses_outside},
        {"truncated memory", truncated_memory},
        {"memory changes while it is read", memory_changes_while_it_is_read},
    };

    return run_card_tests(tests, ARRAY_SIZE(tests));
}
