/* SPDX-License-Identifier: MIT */
/*
 * test_ring_hostile.c - rings that no honest driver or device writes: each must end in its
 * own words, after the good chain before it was delivered, and stay broken.
 */
#include "ring_common.h"

#define NEXT     VRING_DESC_F_NEXT
#define WRITE    VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT
#define AVAIL    (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED     (1u << VRING_PACKED_DESC_F_USED)
#define GOOD     RIG_PART
#define SIZE     8u

/* Split descriptor, packed descriptor at ring position, and table entries of either kind. */
static void sd(struct rig *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
               uint16_t next)
{
    rig_split(r)[i] = (struct vring_desc){addr, len, flags, next};
}

static void pd(struct rig *r, unsigned i, uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
    rig_packed(r)[i] = (struct vring_packed_desc){addr, len, id, flags | AVAIL};
}

static void st(struct rig *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
               uint16_t next)
{
    struct vring_desc *table = rig_at(r, RIG_TABLE, 16 * VIRTQ_MAX_IOV);

    table[i] = (struct vring_desc){addr, len, flags, next};
}

static void pt(struct rig *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags)
{
    struct vring_packed_desc *table = rig_at(r, RIG_TABLE, 16 * VIRTQ_MAX_IOV);

    table[i] = (struct vring_packed_desc){addr, len, 0xffff, flags};
}

/* ---- Split: descriptor 0 is a good chain and available entry 0 ------------------------ */

static void s_head_range(struct rig *r)
{
    rig_offer_split(r, 8);
}

static void s_idx_jump(struct rig *r)
{
    ((struct vring_avail *)rig_at(r, r->config.driver, 4))->idx = 10;
}

static void s_duplicate(struct rig *r)
{
    rig_offer_split(r, 0);
}

static void s_next_range(struct rig *r)
{
    sd(r, 1, GOOD, 8, NEXT, 900);
    rig_offer_split(r, 1);
}

static void s_loop_self(struct rig *r)
{
    sd(r, 1, GOOD, 8, NEXT, 1);
    rig_offer_split(r, 1);
}

static void s_loop_two(struct rig *r)
{
    sd(r, 1, GOOD, 8, NEXT, 2);
    sd(r, 2, GOOD, 8, NEXT, 1);
    rig_offer_split(r, 1);
}

static void s_order(struct rig *r)
{
    sd(r, 1, GOOD, 8, WRITE | NEXT, 2);
    sd(r, 2, GOOD, 8, 0, 0);
    rig_offer_split(r, 1);
}

/* An empty writable descriptor is none the less writable. */
static void s_order_empty(struct rig *r)
{
    sd(r, 1, GOOD, 0, WRITE | NEXT, 2);
    sd(r, 2, GOOD, 8, 0, 0);
    rig_offer_split(r, 1);
}

static void s_outside(struct rig *r)
{
    sd(r, 1, 2 * RIG_PART - 8, 9, 0, 0);
    rig_offer_split(r, 1);
}

static void s_hole(struct rig *r)
{
    sd(r, 1, 0x7fff0000, 1, 0, 0);
    rig_offer_split(r, 1);
}

static void s_wrap(struct rig *r)
{
    sd(r, 1, UINT64_MAX - 7, 0x100000, 0, 0);
    rig_offer_split(r, 1);
}

static void s_wrap_to_zero(struct rig *r)
{
    sd(r, 1, RIG_FAR + RIG_PART - 1, UINT32_MAX, WRITE, 0);
    rig_offer_split(r, 1);
}

static void s_indirect_off(struct rig *r)
{
    r->vq.config.indirect = false;
    sd(r, 1, RIG_TABLE, 16, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_indirect_next(struct rig *r)
{
    sd(r, 1, RIG_TABLE, 16, INDIRECT | NEXT, 0);
    rig_offer_split(r, 1);
}

static void s_table_empty(struct rig *r)
{
    sd(r, 1, RIG_TABLE, 0, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_ragged(struct rig *r)
{
    sd(r, 1, RIG_TABLE, 40, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_long(struct rig *r)
{
    sd(r, 1, RIG_TABLE, (VIRTQ_MAX_IOV + 1) * 16, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_outside(struct rig *r)
{
    sd(r, 1, 2 * RIG_PART - 32, 64, INDIRECT, 0);
    for (unsigned i = 0; i < 2; i++)
        ((struct vring_desc *)rig_at(r, 2 * RIG_PART - 32, 32))[i] =
            (struct vring_desc){GOOD, 8, NEXT, (uint16_t)(i + 1)};
    rig_offer_split(r, 1);
}

static void s_table_wraps(struct rig *r)
{
    sd(r, 1, UINT64_MAX - 15, 64, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_next(struct rig *r)
{
    st(r, 0, GOOD, 8, NEXT, 3);
    sd(r, 1, RIG_TABLE, 48, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_loop(struct rig *r)
{
    st(r, 0, GOOD, 8, NEXT, 1);
    st(r, 1, GOOD, 8, NEXT, 0);
    sd(r, 1, RIG_TABLE, 32, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_nested(struct rig *r)
{
    st(r, 0, GOOD, 8, NEXT, 1);
    st(r, 1, RIG_TABLE, 16, INDIRECT, 0);
    sd(r, 1, RIG_TABLE, 32, INDIRECT, 0);
    rig_offer_split(r, 1);
}

static void s_table_order(struct rig *r)
{
    st(r, 0, GOOD, 8, 0, 0);
    sd(r, 1, GOOD, 8, WRITE | NEXT, 2);
    sd(r, 2, RIG_TABLE, 16, INDIRECT, 0);
    rig_offer_split(r, 1);
}

/* 1024 entries that each lie across two regions: more pieces than any list has. */
static void s_pieces(struct rig *r)
{
    for (uint16_t i = 0; i < VIRTQ_MAX_IOV; i++)
        st(r, i, GOOD - 1, 2, i + 1u < VIRTQ_MAX_IOV ? NEXT : 0, (uint16_t)(i + 1));
    sd(r, 1, RIG_TABLE, VIRTQ_MAX_IOV * 16, INDIRECT, 0);
    rig_offer_split(r, 1);
}

/* ---- Packed: position 0 is a good chain with id 0 ------------------------------------- */

static void p_id_range(struct rig *r)
{
    pd(r, 1, GOOD, 8, 8, 0);
}

static void p_id_chain_end(struct rig *r)
{
    pd(r, 2, GOOD, 8, 300, 0);
    pd(r, 1, GOOD, 8, 1, NEXT);
}

static void p_duplicate(struct rig *r)
{
    pd(r, 1, GOOD, 8, 0, 0);
}

static void p_too_long(struct rig *r)
{
    for (unsigned i = 1; i < SIZE; i++)
        pd(r, i, GOOD, 8, 1, NEXT);
}

/* Ring full, and the driver turns position 0 round once more. */
static void p_lap(struct rig *r)
{
    struct virtq_chain *c[SIZE];

    for (uint16_t i = 1; i < SIZE; i++)
        pd(r, i, GOOD, 8, i, 0);
    assert_int_equal(virtq_take(&r->vq, c, SIZE), SIZE);
    rig_packed(r)[0].flags = USED;
}

static void p_order(struct rig *r)
{
    pd(r, 2, GOOD, 8, 1, 0);
    pd(r, 1, GOOD, 8, 1, WRITE | NEXT);
}

static void p_outside(struct rig *r)
{
    pd(r, 1, RIG_FAR - 1, 2, 1, 0);
}

static void p_indirect_next(struct rig *r)
{
    pd(r, 2, GOOD, 8, 1, 0);
    pd(r, 1, RIG_TABLE, 16, 1, INDIRECT | NEXT);
}

static void p_table_nested(struct rig *r)
{
    pt(r, 0, RIG_TABLE, 16, INDIRECT);
    pd(r, 1, RIG_TABLE, 16, 1, INDIRECT);
}

static void p_table_outside(struct rig *r)
{
    pt(r, 0, GOOD, 16, NEXT); /* next means nothing here */
    pt(r, 1, 2 * RIG_PART, 16, 0);
    pd(r, 1, RIG_TABLE, 32, 1, INDIRECT);
}

static void p_table_ragged(struct rig *r)
{
    pd(r, 1, RIG_TABLE, 17, 1, INDIRECT);
}

static const struct hostile {
    bool packed;
    void (*set)(struct rig *);
    const char *text;
} hostile[] = {
    {false, s_head_range, "available entry 1: head 8 is outside the ring of 8"},
    {false, s_idx_jump, "available index 10 is 9 ahead of 1 in a ring of 8"},
    {false, s_duplicate, "available entry 1: head 0 is in flight already"},
    {false, s_next_range, "descriptor 1: next 900 is outside the ring of 8"},
    {false, s_loop_self, "descriptor 1: next 1 makes a loop in the ring of 8"},
    {false, s_loop_two, "makes a loop in the ring of 8"},
    {false, s_order, "descriptor 2: readable, but an earlier one is writable"},
    {false, s_order_empty, "descriptor 2: readable, but an earlier one is writable"},
    {false, s_outside, "descriptor 1: 9 bytes at 0x1ffff8 are outside the guest's memory"},
    {false, s_hole, "descriptor 1: 1 bytes at 0x7fff0000 are outside the guest's memory"},
    {false, s_wrap, "1048576 bytes at 0xfffffffffffffff8 are outside the guest's memory"},
    {false, s_wrap_to_zero, "4294967295 bytes at 0x1000fffff are outside the guest's memory"},
    {false, s_indirect_off, "descriptor 1: indirect, which was not negotiated"},
    {false, s_indirect_next, "descriptor 1: indirect and next at once (flags 0x5)"},
    {false, s_table_empty, "descriptor 1: indirect table of 0 bytes"},
    {false, s_table_ragged, "descriptor 1: indirect table of 40 bytes"},
    {false, s_table_long, "descriptor 1: indirect table of 16400 bytes"},
    {false, s_table_outside,
     "descriptor 1, indirect entry 2: the table at 0x1fffe0 is outside the guest's memory"},
    {false, s_table_wraps, "indirect entry 0: the table at 0xfffffffffffffff0 is outside"},
    {false, s_table_next, "descriptor 1, indirect entry 0: next 3 is outside the table of 3"},
    {false, s_table_loop, "descriptor 1, indirect entry 1: next 0 makes a loop in the table of 2"},
    {false, s_table_nested, "descriptor 1, indirect entry 1: indirect inside an indirect table"},
    {false, s_table_order, "descriptor 2, indirect entry 0: readable, but an earlier one is"},
    {false, s_pieces, "indirect entry 512: the chain has more than 1024 pieces"},
    {true, p_id_range, "descriptor 1: buffer id 8 is outside the ring of 8"},
    {true, p_id_chain_end, "descriptor 2: buffer id 300 is outside the ring of 8"},
    {true, p_duplicate, "descriptor 1: buffer id 0 is in flight already"},
    {true, p_too_long, "descriptor 1: the chain is longer than the 7 that are free"},
    {true, p_lap, "descriptor 0: available again, but all 8 are in flight"},
    {true, p_order, "descriptor 2: readable, but an earlier one is writable"},
    {true, p_outside, "descriptor 1: 2 bytes at 0xffffffff are outside the guest's memory"},
    {true, p_indirect_next, "descriptor 1: indirect and next at once"},
    {true, p_table_nested, "descriptor 1, indirect entry 0: indirect inside an indirect table"},
    {true, p_table_outside, "descriptor 1, indirect entry 1: 16 bytes at 0x200000 are outside"},
    {true, p_table_ragged, "descriptor 1: indirect table of 17 bytes"},
};

static void test_refusals(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(hostile); i++) {
        const struct hostile *h = &hostile[i];
        struct virtq_chain *c[SIZE];
        struct rig rig;
        int r;

        rig_open(&rig, SIZE, h->packed, false);
        if (h->packed) {
            pd(&rig, 0, GOOD, 8, 0, 0);
        } else {
            sd(&rig, 0, GOOD, 8, 0, 0);
            rig_offer_split(&rig, 0);
        }
        if (h->set == s_idx_jump)
            assert_int_equal(rig_take1(&rig, c), 1);
        h->set(&rig);
        if (h->set != s_idx_jump && h->set != p_lap)
            assert_int_equal(virtq_take(&rig.vq, c, SIZE), 1);
        r = virtq_take(&rig.vq, c, SIZE);
        if (r != -EPROTO || !strstr(rig.vq.fault, h->text))
            fail_msg("%d \"%s\" instead of \"%s\"", r, rig.vq.fault, h->text);
        assert_int_equal(virtq_take(&rig.vq, c, SIZE), -EPROTO);
        assert_true(virtq_pending(&rig.vq));
        rig_close(&rig); /* checks that no long list was lost */
    }
}

/* A table across two regions is read piece by piece; a chain may end in a table. */
static void test_table_spans(void **state)
{
    for (int packed = 0; packed < 2; packed++) {
        struct virtq_chain *c;
        struct rig rig;
        uint64_t table = RIG_PART - 24;

        rig_open(&rig, SIZE, packed, false);
        for (unsigned i = 0; i < 3; i++) {
            struct vring_desc s = {RIG_FAR + 256 * i, 16, i < 2 ? NEXT : WRITE, (uint16_t)(i + 1)};
            struct vring_packed_desc p = {RIG_FAR + 256 * i, 16, 0, i < 2 ? 0 : WRITE};
            uint8_t entry[16];

            memcpy(entry, packed ? (void *)&p : (void *)&s, 16);
            for (unsigned k = 0; k < 16; k++)
                *(uint8_t *)rig_at(&rig, table + 16 * i + k, 1) = entry[k];
        }
        if (packed) {
            pd(&rig, 1, table, 48, 5, INDIRECT);
            pd(&rig, 0, GOOD, 8, 5, NEXT);
        } else {
            sd(&rig, 0, GOOD, 8, NEXT, 6);
            sd(&rig, 6, table, 48, INDIRECT, 0);
            rig_offer_split(&rig, 0);
        }
        assert_int_equal(rig_take1(&rig, &c), 1);
        assert_int_equal(c->ndesc, 2);
        assert_int_equal(c->nread, 3);
        assert_int_equal(c->nwrite, 1);
        assert_ptr_equal(c->iov[2].iov_base, rig_at(&rig, RIG_FAR + 256, 16));
        assert_ptr_equal(c->iov[3].iov_base, rig_at(&rig, RIG_FAR + 512, 16));
        rig_close(&rig);
    }
}

/* Nothing at all, and a chain of nothing but empty descriptors. */
static void test_empty(void **state)
{
    for (int packed = 0; packed < 2; packed++) {
        struct virtq_chain *c;
        struct rig rig;

        rig_open(&rig, SIZE, packed, false);
        assert_int_equal(rig_take1(&rig, &c), 0);
        assert_false(virtq_pending(&rig.vq));
        if (packed) {
            pd(&rig, 0, UINT64_MAX, 0, 3, 0);
        } else {
            sd(&rig, 3, UINT64_MAX, 0, 0, 0);
            rig_offer_split(&rig, 3);
        }
        assert_int_equal(rig_take1(&rig, &c), 1);
        assert_int_equal(c->id, 3);
        assert_int_equal(c->nread + c->nwrite, 0);
        rig_close(&rig);
    }
}

static void device_fault(bool packed, unsigned kind, const char *text)
{
    struct virtq_buffer bufs[2] = {{GOOD, 8}, {GOOD, 8}};
    struct rig rig;
    uint32_t len;
    uint16_t id;
    int r;

    rig_open(&rig, SIZE, packed, false);
    assert_int_equal(virtq_driver_add(&rig.driver, bufs, 1, 1), 0);
    assert_int_equal(virtq_driver_add(&rig.driver, bufs, 0, 0), -EINVAL);
    virtq_driver_publish(&rig.driver);
    assert_int_equal(virtq_driver_reap(&rig.driver, &id, &len, 1), 0);
    if (packed) {
        static const struct vring_packed_desc said[] = {{0, 8, 8, AVAIL | USED | WRITE},
                                                        {0, 8, 3, AVAIL | USED},
                                                        {0, 9, 0, AVAIL | USED | WRITE}};

        rig_packed(&rig)[0] = said[kind];
    } else {
        static const struct vring_used_elem said[] = {{0x10000, 8}, {3, 0}, {0, 9}, {0, 0}};
        struct vring_used *used = rig_at(&rig, rig.config.device, 4);

        used->ring[0] = said[kind];
        used->idx = kind == 3 ? 9 : 1;
    }
    r = virtq_driver_reap(&rig.driver, &id, &len, 1);
    if (r != -EPROTO || !strstr(rig.driver.fault, text))
        fail_msg("%d \"%s\" instead of \"%s\"", r, rig.driver.fault, text);
    assert_int_equal(virtq_driver_reap(&rig.driver, &id, &len, 1), -EPROTO);
    assert_false(virtq_driver_arm(&rig.driver));
    rig_close(&rig);
}

static void test_hostile_device(void **state)
{
    device_fault(false, 0, "used entry 0: id 65536 is not outstanding");
    device_fault(false, 1, "used entry 0: id 3 is not outstanding");
    device_fault(false, 2, "used entry 0: id 0: 9 bytes written, but 8 were offered");
    device_fault(false, 3, "used index 9 is 9 ahead of 0 in a ring of 8");
    device_fault(true, 0, "descriptor 0: used id 8 is not outstanding");
    device_fault(true, 1, "descriptor 0: used id 3 is not outstanding");
    device_fault(true, 2, "descriptor 0: used id 0: 9 bytes written, but 8 were offered");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_table_spans),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_hostile_device),
    };

    return cmocka_run_group_tests_name("ring_hostile", tests, NULL, NULL);
}
