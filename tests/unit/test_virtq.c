/* SPDX-License-Identifier: MIT */
/*
 * test_virtq.c - device side against driver side, both honest, compared with a model: random
 * bursts, completion in any order, long chains, indirect tables, many laps of the ring.
 */
#include "ring_common.h"

#define MAX_BUFS 24u

/* A chain as it was offered. */
struct offered {
    struct virtq_buffer bufs[MAX_BUFS];
    unsigned nread, nwrite;
    uint64_t serial;
    uint32_t max_len, written;
};

struct model {
    struct rig rig;
    struct dt_rng rng;
    uint16_t size;
    struct offered *by_id;
    uint16_t *finished; /* ids in the order of push: a ring of @size */
    uint64_t offered, taken, pushed, reaped;
    struct virtq_chain **held;
    unsigned held_count;
};

static uint64_t below(struct model *m, uint64_t bound)
{
    return dt_rng_below(&m->rng, bound);
}

/* A range in guest memory that is no ring; now and then across two regions. */
static struct virtq_buffer random_buffer(struct model *m)
{
    uint32_t len = (uint32_t)below(m, below(m, 4) ? 64 : 9000);
    uint64_t addr;

    switch (below(m, 3)) {
    case 0:
        addr = RIG_PART - below(m, 4096); /* from 1M - 4096, mostly across the border */
        break;
    case 1:
        addr = RIG_FAR + below(m, RIG_PART - len + 1);
        break;
    default:
        addr = RIG_PART + below(m, RIG_PART - len + 1);
    }
    return (struct virtq_buffer){addr, len};
}

/* Turn the chain of one descriptor at hand into an indirect one, in the raw ring. */
static void make_indirect(struct model *m, uint16_t id, uint16_t at)
{
    struct virtq_driver *d = &m->rig.driver;

    if (!d->packed)
        rig_split(&m->rig)[id].flags |= VRING_DESC_F_INDIRECT;
    else if (d->first_word != 0 && d->first_at == at)
        d->first_word |= (uint64_t)VRING_DESC_F_INDIRECT << 48;
    else
        rig_packed(&m->rig)[at].flags |= VRING_DESC_F_INDIRECT;
}

/* One table per id, its entries in a random order (split) or in sequence (packed). */
static int add_indirect(struct model *m, const struct offered *o)
{
    struct virtq_driver *d = &m->rig.driver;
    bool write = below(m, 2);
    unsigned n = o->nread + o->nwrite;
    /* Ids and free heads are below 128: a table each, never two chains in one. */
    uint64_t table = RIG_TABLE + (uint64_t)d->free_head * MAX_BUFS * 16;
    uint8_t *host = rig_at(&m->rig, table, n * 16);
    uint16_t at = d->avail, slot[MAX_BUFS];
    int id;

    if (d->free_count == 0)
        return -ENOSPC; /* before the table of a chain that is out gets overwritten */
    for (unsigned i = 0; i < n; i++) {
        unsigned j = i == 0 || d->packed ? i : 1 + (unsigned)below(m, i);

        slot[i] = slot[j];
        slot[j] = (uint16_t)i;
    }
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = i >= o->nread ? VRING_DESC_F_WRITE : 0, last = i + 1 == n;
        struct vring_desc e = {o->bufs[i].addr, o->bufs[i].len,
                               last ? flags : flags | VRING_DESC_F_NEXT, last ? 0 : slot[i + 1]};
        struct vring_packed_desc p = {o->bufs[i].addr, o->bufs[i].len, 0xdead, flags};

        memcpy(host + 16 * slot[i], d->packed ? (void *)&p : (void *)&e, 16);
    }
    /* The device must ignore the write flag beside the indirect one. */
    id = virtq_driver_add(d, &(struct virtq_buffer){table, n * 16}, !write, write);
    if (id < 0)
        return id;
    d->entries[id].max_len = o->max_len;
    make_indirect(m, (uint16_t)id, at);
    return id;
}

static bool offer(struct model *m, bool indirect)
{
    struct offered o = {.serial = m->offered};
    unsigned most = MIN(m->size, below(m, 8) ? 4 : MAX_BUFS);
    int id;

    o.nread = (unsigned)below(m, most / 2);
    o.nwrite = (unsigned)below(m, most / 2) + (o.nread == 0);
    for (unsigned i = 0; i < o.nread + o.nwrite; i++) {
        o.bufs[i] = random_buffer(m);
        if (i >= o.nread)
            o.max_len += o.bufs[i].len;
    }
    if (indirect && m->size <= 128 && below(m, 2))
        id = add_indirect(m, &o);
    else
        id = virtq_driver_add(&m->rig.driver, o.bufs, o.nread, o.nwrite);
    if (id < 0) {
        assert_int_equal(id, -ENOSPC);
        return false;
    }
    m->by_id[id] = o;
    m->offered++;
    return true;
}

/* The chain's vectors must be exactly the bytes that were offered, in order. */
static void compare(struct model *m, const struct virtq_chain *c)
{
    const struct offered *o = &m->by_id[c->id];
    uint64_t lens[2] = {0, 0};
    unsigned n = 0;

    assert_int_equal(c->attempts, 0);
    for (unsigned i = 0; i < o->nread + o->nwrite; i++) {
        uint64_t addr = o->bufs[i].addr, left = o->bufs[i].len;

        lens[i >= o->nread] += left;
        while (left > 0) {
            assert_true(n < (unsigned)c->nread + c->nwrite);
            assert_int_equal(n >= c->nread, i >= o->nread);
            assert_ptr_equal(c->iov[n].iov_base, memmap_host(&m->rig.map, addr, c->iov[n].iov_len));
            assert_true(c->iov[n].iov_len <= left);
            addr += c->iov[n].iov_len;
            left -= c->iov[n++].iov_len;
        }
    }
    assert_int_equal(n, c->nread + c->nwrite);
    assert_int_equal(c->read_len, lens[0]);
    assert_int_equal(c->write_len, lens[1]);
}

static void take(struct model *m)
{
    unsigned max = 1 + (unsigned)below(m, 40);
    struct virtq_chain *out[40];
    int n = virtq_take(&m->rig.vq, out, max);

    if (n < 0)
        fail_msg("%s", m->rig.vq.fault);
    assert_true((unsigned)n <= max);
    for (int i = 0; i < n; i++) {
        assert_int_equal(m->by_id[out[i]->id].serial, m->taken++);
        compare(m, out[i]);
        m->held[m->held_count++] = out[i];
    }
    assert_int_equal(m->rig.vq.in_flight, m->held_count);
}

static void push(struct model *m)
{
    unsigned n = (unsigned)below(m, m->held_count + 1);

    for (unsigned i = 0; i < n; i++) {
        unsigned which = (unsigned)below(m, m->held_count);
        struct virtq_chain *c = m->held[which];
        struct offered *o = &m->by_id[c->id];

        o->written = (uint32_t)below(m, (uint64_t)o->max_len + 1);
        m->finished[m->pushed++ % m->size] = c->id;
        virtq_push(&m->rig.vq, c, o->written);
        m->held[which] = m->held[--m->held_count];
    }
}

static void reap(struct model *m)
{
    uint32_t lens[40];
    uint16_t ids[40];
    int n = virtq_driver_reap(&m->rig.driver, ids, lens, 1 + (unsigned)below(m, 40));

    if (n < 0)
        fail_msg("%s", m->rig.driver.fault);
    for (int i = 0; i < n; i++) {
        assert_int_equal(ids[i], m->finished[m->reaped++ % m->size]);
        assert_int_equal(lens[i], m->by_id[ids[i]].written);
    }
}

static void drain(struct model *m)
{
    virtq_driver_publish(&m->rig.driver);
    while (m->reaped < m->offered) {
        take(m);
        push(m);
        virtq_publish(&m->rig.vq);
        reap(m);
    }
    assert_false(virtq_pending(&m->rig.vq));
    assert_int_equal(m->rig.driver.free_count, m->size);
}

static void run_model(uint16_t size, bool packed, bool event_idx, bool indirect, unsigned turns)
{
    struct model m = {.size = size};

    dt_rng_seed(&m.rng, size * 8u + packed * 4u + event_idx * 2u + indirect);
    rig_open(&m.rig, size, packed, event_idx);
    m.by_id = xcalloc(size, sizeof(*m.by_id));
    m.finished = xcalloc(size, sizeof(*m.finished));
    m.held = xcalloc(size, sizeof(*m.held));
    for (unsigned turn = 0; turn < turns; turn++) {
        switch (below(&m, 8)) {
        case 0:
        case 1:
            for (uint64_t n = below(&m, 40); n > 0 && offer(&m, indirect); n--)
                ;
            break;
        case 2:
            virtq_driver_publish(&m.rig.driver);
            break;
        case 3:
            take(&m);
            break;
        case 4:
            push(&m);
            break;
        case 5:
            virtq_publish(&m.rig.vq);
            break;
        case 6:
            reap(&m);
            break;
        default:
            below(&m, 2) ? (void)virtq_arm(&m.rig.vq) : virtq_disarm(&m.rig.vq);
            below(&m, 2) ? (void)virtq_driver_arm(&m.rig.driver)
                         : virtq_driver_disarm(&m.rig.driver);
        }
    }
    drain(&m);
    assert_true(m.offered > turns / 64);
    /* At rest both halves of a packed base agree. */
    uint32_t base = virtq_stop(&m.rig.vq);
    if (packed)
        assert_int_equal(base >> 16, base & 0xffff);
    else
        assert_int_equal(base, m.offered & 0xffff);
    free(m.by_id);
    free(m.finished);
    free(m.held);
    rig_close(&m.rig);
}

static void test_model(void **state)
{
    static const uint16_t sizes[] = {2, 4, 8, 64, 256, 1024, 3, 5, 100};

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        bool odd = (sizes[i] & (sizes[i] - 1)) != 0;

        for (unsigned kind = odd ? 4 : 0; kind < 8; kind++)
            run_model(sizes[i], kind & 4, kind & 2, kind & 1, 20000);
    }
}

/* Chains beyond the slot's own vector: a long list, given back by the push; none left: wait. */
static void test_long_chains(void **state)
{
    for (int packed = 0; packed < 2; packed++) {
        struct virtq_buffer bufs[16];
        struct virtq_chain *a, *b;
        struct rig rig;

        rig_prepare(&rig, 64, packed, false, 1);
        rig_start(&rig);
        for (unsigned i = 0; i < 16; i++)
            bufs[i] = (struct virtq_buffer){RIG_PART + i * 100, 100};
        for (unsigned i = 0; i < 3; i++)
            assert_true(virtq_driver_add(&rig.driver, bufs, i == 2 ? 1 : 8, i == 2 ? 0 : 8) >= 0);
        virtq_driver_publish(&rig.driver);
        assert_int_equal(rig_take1(&rig, &a), 1);
        assert_int_equal(a->nread + a->nwrite, 16);
        assert_int_equal(a->write_len, 800);
        /* The second needs a list too; nothing behind it may overtake. */
        assert_int_equal(rig_take1(&rig, &b), 0);
        assert_true(virtq_pending(&rig.vq));
        virtq_push(&rig.vq, a, 800);
        assert_int_equal(rig_take1(&rig, &b), 1);
        assert_int_equal(b->nread, 8);
        assert_int_equal(rig_take1(&rig, &a), 1);
        assert_int_equal(a->nread, 1);
        rig_close(&rig);
    }
}

static void start_refused(struct rig *rig, int code, const char *text)
{
    struct dt_error err = {{0}};
    int r = virtq_start(&rig->vq, &rig->config, rig_base(rig), false, &err);

    if (r != code || !strstr(err.text, text))
        fail_msg("%d \"%s\" instead of %d \"%s\"", r, err.text, code, text);
}

static void test_start_refusals(void **state)
{
    struct dt_error err = {{0}};
    struct virtq_config good;
    struct rig rig;

    rig_prepare(&rig, 64, false, true, 1);
    good = rig.config;
    rig.config.size = 0;
    start_refused(&rig, -EINVAL, "split virtqueue cannot have 0");
    rig.config.size = 48;
    start_refused(&rig, -EINVAL, "cannot have 48");
    rig.config.size = 65535;
    rig.config.packed = true;
    start_refused(&rig, -EINVAL, "packed virtqueue cannot have 65535");
    rig.config = good;
    rig.config.desc = 8;
    start_refused(&rig, -EINVAL, "descriptor table at 0x8 is not aligned to 16");
    rig.config = good;
    rig.config.driver++;
    start_refused(&rig, -EINVAL, "available ring");
    rig.config = good;
    rig.config.device += 2;
    start_refused(&rig, -EINVAL, "used ring");
    rig.config = good;
    rig.config.desc = 2 * RIG_PART - 16;
    start_refused(&rig, -EFAULT, "descriptor table: 1024 bytes");
    rig.config.desc = UINT64_MAX - 15;
    start_refused(&rig, -EFAULT, "not within one memory region");
    rig.config = good;
    /* Exactly enough but for the event index. */
    rig.config.device = 2 * RIG_PART - (4 + 8 * 64);
    start_refused(&rig, -EFAULT, "used ring: 518 bytes");
    rig.config.event_idx = false;
    rig_start(&rig);
    rig_close(&rig);

    rig_prepare(&rig, 64, true, true, 1);
    rig.config.device |= 2;
    start_refused(&rig, -EINVAL, "device event area");
    rig.config.device &= ~3ull;
    assert_int_equal(virtq_start(&rig.vq, &rig.config, 0x80000040u, false, &err), -EINVAL);
    assert_non_null(strstr(err.text, "ring base 0x80000040"));
    rig_close(&rig);
}

static void test_bases(void **state)
{
    static const uint32_t packed[][2] = {
        {0x80008000u, 0x80008000u},
        {0x00008000u, 0x80008000u}, /* upper half not set */
        {0x00050005u, 0x00050005u},
        {0x803f803fu, 0x803f803fu},
    };
    struct dt_error err;
    struct rig rig;

    for (unsigned i = 0; i < ARRAY_SIZE(packed); i++) {
        rig_prepare(&rig, 64, true, false, 1);
        assert_int_equal(virtq_start(&rig.vq, &rig.config, packed[i][0], false, &err), 0);
        assert_int_equal(virtq_stop(&rig.vq), packed[i][1]);
        rig_close(&rig);
    }
    /* A migrated split ring goes on where base and the ring's used index say. */
    rig_prepare(&rig, 64, false, false, 1);
    ((struct vring_used *)rig_at(&rig, rig.config.device, 4))->idx = 0xfffe;
    assert_int_equal(virtq_start(&rig.vq, &rig.config, 0xfffe, false, &err), 0);
    assert_int_equal(rig.vq.used, 0xfffe);
    assert_int_equal(virtq_stop(&rig.vq), 0xfffe);
    rig_close(&rig);
}

/* Who wants to be told, in all four kinds of ring. */
static void test_notifications(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        struct virtq_buffer buf = {RIG_PART, 8};
        struct virtq_chain *c;
        struct rig rig;
        uint16_t id;

        rig_open(&rig, 8, kind & 1, kind & 2);
        for (unsigned lap = 0; lap < 70000; lap += lap < 40 || lap > 65530 ? 1 : 100) {
            assert_true(virtq_arm(&rig.vq));
            assert_true(virtq_driver_arm(&rig.driver));
            virtq_driver_add(&rig.driver, &buf, 0, 1);
            assert_true(virtq_driver_publish(&rig.driver));
            assert_false(virtq_arm(&rig.vq));
            assert_int_equal(rig_take1(&rig, &c), 1);
            virtq_push(&rig.vq, c, 0);
            assert_true(virtq_publish(&rig.vq));
            assert_false(virtq_driver_arm(&rig.driver));
            assert_int_equal(virtq_driver_reap(&rig.driver, &id, NULL, 1), 1);
        }
        virtq_disarm(&rig.vq);
        virtq_driver_disarm(&rig.driver);
        for (unsigned i = 0; i < 100; i++) {
            virtq_driver_add(&rig.driver, &buf, 0, 1);
            /* EVENT_IDX on a split ring: what is armed is still crossed once. */
            if (i > 0)
                assert_false(virtq_driver_publish(&rig.driver));
            else
                virtq_driver_publish(&rig.driver);
            assert_int_equal(rig_take1(&rig, &c), 1);
            virtq_push(&rig.vq, c, 0);
            if (i > 0)
                assert_false(virtq_publish(&rig.vq));
            else
                virtq_publish(&rig.vq);
            assert_int_equal(virtq_driver_reap(&rig.driver, &id, NULL, 1), 1);
        }
        assert_false(virtq_publish(&rig.vq));
        assert_false(virtq_driver_publish(&rig.driver));
        rig_close(&rig);
    }
}

static void test_dirty(void **state)
{
    for (int packed = 0; packed < 2; packed++) {
        struct virtq_buffer bufs[2] = {{RIG_PART, 4096}, {RIG_PART + 0x3000, 0x2000}};
        uint8_t bits[(RIG_FAR + RIG_PART) / DIRTYLOG_PAGE / 8 / 1024] = {0};
        struct dirtylog log = {bits, sizeof(bits)};
        struct virtq_chain *c;
        struct rig rig;

        rig_open(&rig, 64, packed, true);
        virtq_set_dirty(&rig.vq, &log, rig.config.device, true);
        virtq_driver_add(&rig.driver, bufs, 1, 1);
        virtq_driver_publish(&rig.driver);
        assert_int_equal(rig_take1(&rig, &c), 1);
        virtq_dirty(&rig.vq, c, 0x1001);
        assert_int_equal(bits[RIG_PART / DIRTYLOG_PAGE / 8], 1 << 3 | 1 << 4);
        assert_int_equal(bits[0], 0);
        virtq_push(&rig.vq, c, 0x1001);
        virtq_publish(&rig.vq);
        /* The ring's own page: the used ring, or the packed ring itself. */
        assert_int_equal(bits[0], 1);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),          cmocka_unit_test(test_long_chains),
        cmocka_unit_test(test_start_refusals), cmocka_unit_test(test_bases),
        cmocka_unit_test(test_notifications),  cmocka_unit_test(test_dirty),
    };

    return cmocka_run_group_tests_name("virtq", tests, NULL, NULL);
}
