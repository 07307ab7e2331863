/* SPDX-License-Identifier: MIT */
/*
 * test_inflight.c - the process dies between any two stores that matter.
 *
 * The ring's code is compiled with a hook at every such place (RING_STEP). The hook copies what
 * would survive, ring and log, gives the copy to a successor and compares with what the driver
 * knows: every chain is either used or returned, in the order of its offering, never both and
 * never twice; chains that were handed out before come back marked; and the successor goes on
 * for laps without upsetting the driver. Within its recovery the successor dies everywhere too. All of that without and with
 * a tail (tail.c), where successors may know of tails or not.
 */
#include "ring_common.h"

#include "ring/internal.h"

#define MAX_SIZE 16u

static struct world {
    struct rig rig;     /* the first process, and the driver that outlives them all */
    struct rig heir[2]; /* its successor, and the successor of one that died in recovery */
    struct dt_rng rng;
    unsigned level; /* who runs: 0 the first process, 1 or 2 an heir; 3: nobody may die */
    struct chains {
        uint64_t serial[MAX_SIZE], next_serial; /* by id: when it was offered */
        bool held[MAX_SIZE];                    /* by id: virtq_take() returned it */
    } offered;
    uint64_t crashes;
} w;

static uint64_t buffer_of(uint64_t serial)
{
    return RIG_PART + serial % 4096 * 64;
}

static void copy_survivors(struct rig *to, const struct rig *from)
{
    struct virtq_driver *d = &to->driver, old = *d;
    uint16_t size = d->size;

    memcpy(old.mem, from->driver.mem, from->driver.total);
    memcpy(to->log, from->log, from->log_bytes);
    *d = from->driver;
    d->mem = old.mem;
    d->entries = memcpy(old.entries, from->driver.entries, size * sizeof(*d->entries));
}

/* Reap all; returns how many, and takes them out of @out. */
static unsigned reap_all(struct rig *heir, bool *out)
{
    uint16_t id;
    unsigned n = 0;
    int r;

    while ((r = virtq_driver_reap(&heir->driver, &id, NULL, 1)) == 1) {
        assert_true(out[id]);
        out[id] = false;
        n++;
    }
    if (r < 0)
        fail_msg("the driver: %s", heir->driver.fault);
    return n;
}

/* The heir takes everything there is; it must be what @out says, oldest first. */
static unsigned heir_takes(struct rig *heir, unsigned level, const bool *out,
                           struct virtq_chain **chains)
{
    uint64_t replayed = heir->vq.stats.replayed, last = 0;
    unsigned n = 0;
    int r;

    while ((r = virtq_take(&heir->vq, chains + n, 1 + n % 3)) > 0) {
        for (unsigned end = n + (unsigned)r; n < end; n++) {
            const struct virtq_chain *c = chains[n];
            bool replay = n < heir->vq.stats.replayed - replayed;

            assert_true(c->id < heir->config.size && out[c->id]);
            assert_true(n == 0 || w.offered.serial[c->id] > last);
            last = w.offered.serial[c->id];
            assert_ptr_equal(c->iov[0].iov_base, memmap_host(&heir->map, buffer_of(last), 64));
            if (w.offered.held[c->id])
                assert_true(replay);
            assert_true(replay ? c->attempts >= 1 && c->attempts <= level : c->attempts == 0);
        }
    }
    if (r < 0)
        fail_msg("the heir: %s", heir->vq.fault);
    return n;
}

/* A few laps of new chains, in which stale marks in ring or log would show. */
static void heir_lives_on(struct rig *heir)
{
    struct virtq_buffer bufs[2] = {{RIG_PART, 64}, {RIG_PART, 64}};
    struct virtq_chain *c[MAX_SIZE];
    bool out[MAX_SIZE] = {false};

    for (unsigned lap = 0; lap < 6; lap++) {
        unsigned offered = 0, taken = 0, most = lap % 2 ? heir->config.size : 2;
        int r;

        while (offered < most &&
               (r = virtq_driver_add(&heir->driver, bufs, 1, lap % 3 == 0)) >= 0) {
            out[r] = true;
            offered++;
        }
        virtq_driver_publish(&heir->driver);
        while ((r = virtq_take(&heir->vq, c + taken, MAX_SIZE - taken)) > 0)
            taken += (unsigned)r;
        assert_int_equal(r, 0);
        assert_int_equal(taken, offered);
        for (unsigned i = 0; i < taken; i++)
            virtq_push(&heir->vq, c[lap % 2 ? i : taken - 1 - i], 0);
        virtq_publish(&heir->vq);
        assert_int_equal(reap_all(heir, out), offered);
    }
}

/* Some are taken and come back unserved; no matter whether they were handed out before. */
static void heir_returns(struct rig *heir, unsigned most)
{
    struct virtq_chain *c[MAX_SIZE];
    int n = virtq_take(&heir->vq, c, most);

    if (n < 0)
        fail_msg("the heir: %s", heir->vq.fault);
    for (int i = 0; i < n; i++)
        virtq_return(&heir->vq, c[(i + 1) % n]);
    assert_int_equal(virtq_put_back(&heir->vq), n);
    assert_int_equal(heir->vq.in_flight, 0);
    /* Back in the ring they are as new; back in the log they are not. */
    for (int i = 0; i < n && heir->vq.replay_next == heir->vq.replay_count; i++)
        w.offered.held[c[i]->id] = false;
}

/* The driver does not stand still when the device dies: it takes what was returned and offers as much again. */
static unsigned driver_goes_on(struct rig *heir, bool *out)
{
    unsigned n = 0;
    int id;

    for (;; n++) {
        uint64_t at = buffer_of(w.offered.next_serial);
        struct virtq_buffer bufs[3] = {{at, 64}, {at, 64}, {at, 64}};

        id = virtq_driver_add(&heir->driver, bufs, 1, w.crashes / 2 % 3);
        if (id < 0)
            break;
        w.offered.serial[id] = w.offered.next_serial++;
        w.offered.held[id] = false;
        out[id] = true;
    }
    virtq_driver_publish(&heir->driver);
    return n;
}

static void succeed(const struct rig *dead, unsigned level)
{
    struct rig *heir = &w.heir[level - 1];
    struct virtq_chain *chains[MAX_SIZE + 3];
    bool out[MAX_SIZE], rest[MAX_SIZE];
    unsigned expected = 0, taken;
    struct dt_error err = {{0}};
    struct chains before;

    copy_survivors(heir, dead);
    for (unsigned id = 0; id < dead->config.size; id++) {
        out[id] = dead->driver.entries[id].ndesc != 0;
        expected += out[id];
    }
    expected -= reap_all(heir, out);
    before = w.offered;
    if (w.crashes % 2)
        expected += driver_goes_on(heir, out);
    memcpy(rest, out, sizeof(rest));

    heir->config.tail = w.rig.config.tail && w.crashes % 4 != 3;
    w.level = level;
    if (virtq_start(&heir->vq, &heir->config, 0x12345678, true, &err) < 0)
        fail_msg("recovery: %s", err.text);
    w.level = 3;
    if (w.crashes % 7 < 3)
        heir_returns(heir, 1 + (unsigned)(w.crashes % 5));
    taken = heir_takes(heir, level, out, chains);
    assert_int_equal(taken, expected);
    while (taken > 0) {
        unsigned which = w.crashes % 3 ? (unsigned)(w.crashes * 7 % taken) : 0;

        virtq_push(&heir->vq, chains[which], 0);
        taken--;
        memmove(&chains[which], &chains[which + 1], (taken - which) * sizeof(*chains));
        if (taken % 3 == 0) {
            virtq_publish(&heir->vq);
            reap_all(heir, rest);
        }
    }
    for (unsigned id = 0; id < dead->config.size; id++)
        assert_false(rest[id]);
    assert_int_equal(heir->driver.free_count, heir->config.size);
    heir_lives_on(heir);
    virtq_stop(&heir->vq);
    w.offered = before;
}

void ring_test_step(void)
{
    unsigned level = w.level;

    if (level >= 2)
        return;
    w.crashes++;
    succeed(level == 0 ? &w.rig : &w.heir[0], level + 1);
    w.level = level;
}

/* ---- The first process ---------------------------------------------------------------- */

static void offer_some(unsigned most)
{
    for (uint64_t n = dt_rng_below(&w.rng, 6); n > 0; n--) {
        uint64_t at = buffer_of(w.offered.next_serial);
        struct virtq_buffer bufs[3] = {{at, 64}, {at, 64}, {at, 64}};
        unsigned parts = 1 + (unsigned)dt_rng_below(&w.rng, most);
        int id = virtq_driver_add(&w.rig.driver, bufs, 1, parts - 1);

        if (id < 0)
            break;
        w.offered.serial[id] = w.offered.next_serial++;
        w.offered.held[id] = false;
    }
    virtq_driver_publish(&w.rig.driver);
}

/* All that is held goes back to the ring. The first process takes it again as it takes what is new. */
static void put_back(struct virtq_chain **held, unsigned count)
{
    virtq_publish(&w.rig.vq);
    for (unsigned i = 0; i < count; i++) {
        w.offered.held[held[i]->id] = false;
        virtq_return(&w.rig.vq, held[i]);
    }
    w.level = 0;
    assert_int_equal(virtq_put_back(&w.rig.vq), count);
    w.level = 3;
    assert_int_equal(w.rig.vq.in_flight, 0);
    assert_int_equal(w.rig.vq.last_avail, w.rig.vq.used);
}

/* A split ring whose indices are about to wrap. */
static void begin_at(struct rig *rig, uint16_t at)
{
    struct virtq_driver *d = &rig->driver;
    struct vring_avail *avail = rig_at(rig, rig->config.driver, 4);
    struct vring_used *used = rig_at(rig, rig->config.device, 4);
    struct dt_error err = {{0}};

    avail->idx = used->idx = at;
    d->avail = d->avail_published = d->used = d->used_shadow = at;
    if (virtq_start(&rig->vq, &rig->config, at, false, &err) < 0)
        fail_msg("%s", err.text);
}

static void run_process(uint16_t size, bool packed, bool tail, unsigned turns)
{
    struct virtq_chain *held[MAX_SIZE + 8];
    unsigned count = 0, tails = 0;
    uint16_t id;

    w = (struct world){.level = 3};
    dt_rng_seed(&w.rng, size * 2u + packed);
    rig_prepare(&w.rig, size, packed, false, 8);
    w.rig.config.tail = tail;
    if (!packed)
        begin_at(&w.rig, UINT16_MAX - 100);
    else
        rig_start(&w.rig);
    rig_prepare(&w.heir[0], size, packed, false, 4);
    rig_prepare(&w.heir[1], size, packed, false, 4);
    for (unsigned turn = 0; turn < turns; turn++) {
        bool in_order = tail && turn % 32 < 24;

        offer_some(in_order && turn % 64 < 32 ? 1 : 3);
        w.level = 0;
        int n = virtq_take(&w.rig.vq, held + count, 1 + (unsigned)dt_rng_below(&w.rng, 8));
        w.level = 3;
        assert_true(n >= 0);
        for (int i = 0; i < n; i++)
            w.offered.held[held[count + (unsigned)i]->id] = true;
        count += (unsigned)n;
        for (uint64_t k = dt_rng_below(&w.rng, count + 1); k > 0; k--) {
            /* The first ones, in their order or not; or any. */
            unsigned which = in_order ? (turn % 5 || count == 1 ? 0 : k % 2)
                                      : (unsigned)dt_rng_below(&w.rng, count);

            virtq_push(&w.rig.vq, held[which], 0);
            count--;
            memmove(&held[which], &held[which + 1], (count - which) * sizeof(*held));
        }
        tails += tail && w.rig.vq.done_count > 0 && tail_is_done(&w.rig.vq);
        w.level = 0;
        if (dt_rng_below(&w.rng, 4))
            virtq_publish(&w.rig.vq);
        w.level = 3;
        if (dt_rng_below(&w.rng, 5) == 0) {
            put_back(held, count);
            count = 0;
        }
        while (dt_rng_below(&w.rng, 8) && virtq_driver_reap(&w.rig.driver, &id, NULL, 1) == 1)
            ;
    }
    assert_true(w.crashes > turns);
    assert_true(tail ? tails > turns / 8 : tails == 0);
    rig_close(&w.rig);
    rig_close(&w.heir[0]);
    rig_close(&w.heir[1]);
}

static void test_crash_anywhere(void **state)
{
    for (int tail = 0; tail < 2; tail++) {
        run_process(2, false, tail, 100);
        run_process(4, false, tail, 200);
        run_process(16, false, tail, 600);
        for (uint16_t size = 1; size < 6; size++)
            run_process(size, true, tail, 150);
        run_process(16, true, tail, 600);
    }
}

/* ---- What is counted, and what is refused --------------------------------------------- */

/* Split or packed, without or with a tail. */
static void open_kind(struct rig *rig, unsigned kind)
{
    rig_prepare(rig, 8, kind & 1, false, 8);
    rig->config.tail = kind >> 1 & 1;
    rig_start(rig);
}

static void restart(struct rig *rig)
{
    struct dt_error err = {{0}};

    virtq_abandon(&rig->vq);
    if (virtq_start(&rig->vq, &rig->config, 0, true, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_attempts(void **state)
{
    w.level = 3;
    for (int kind = 0; kind < 4; kind++) {
        struct virtq_buffer buf = {RIG_PART, 64};
        struct virtq_chain *c;
        struct rig rig;
        uint16_t id;

        open_kind(&rig, kind);
        virtq_driver_add(&rig.driver, &buf, 1, 0);
        virtq_driver_publish(&rig.driver);
        assert_int_equal(rig_take1(&rig, &c), 1);
        for (unsigned n = 1; n < 300; n++) {
            restart(&rig);
            assert_true(virtq_pending(&rig.vq));
            assert_false(virtq_arm(&rig.vq));
            assert_int_equal(rig_take1(&rig, &c), 1);
            assert_int_equal(c->attempts, MIN(n, 255));
            assert_int_equal(rig.vq.stats.replayed, n);
            assert_int_equal(rig_take1(&rig, &c), 0);
        }
        virtq_push(&rig.vq, c, 0);
        virtq_publish(&rig.vq);
        assert_int_equal(virtq_driver_reap(&rig.driver, &id, NULL, 1), 1);
        /* The same id, but another request. */
        assert_int_equal(virtq_driver_add(&rig.driver, &buf, 1, 0), id);
        virtq_driver_publish(&rig.driver);
        assert_int_equal(rig_take1(&rig, &c), 1);
        assert_int_equal(c->attempts, 0);
        rig_close(&rig);
    }
}

/* A log that was never written is no reason to refuse a ring. */
static void test_blank_log(void **state)
{
    struct dt_error err;
    struct rig rig;

    w.level = 3;
    for (int packed = 0; packed < 2; packed++) {
        rig_prepare(&rig, 8, packed, false, 1);
        assert_int_equal(virtq_start(&rig.vq, &rig.config, rig_base(&rig), true, &err), 0);
        assert_false(virtq_pending(&rig.vq));
        assert_int_equal(virtq_stop(&rig.vq), rig_base(&rig));
        rig_close(&rig);
    }
    assert_int_equal(inflight_queue_size(8, false), 192);
    assert_int_equal(inflight_queue_size(8, true), 320);
}

static void bad_version(void *log)
{
    ((struct log_split *)log)->version = 2;
}

static void bad_tail(void *log)
{
    ((struct log_split *)log)->tail = LOG_TAIL | 1u << 16;
}

static void bad_size(void *log)
{
    ((struct log_split *)log)->desc_num = 9;
}

static void split_far(void *log)
{
    ((struct log_split *)log)->used_idx -= 9;
}

static void split_batch_range(void *log)
{
    struct log_split *l = log;

    l->used_idx -= 1;
    l->last_batch_head = 8;
}

static void split_batch_loop(void *log)
{
    struct log_split *l = log;

    l->used_idx -= 3;
    l->last_batch_head = 1;
    l->desc[1].word.next = 2;
    l->desc[2].word.next = 1;
}

static void split_flag(void *log)
{
    ((struct log_split *)log)->desc[5].word.inflight = 2;
}

static void packed_free_range(void *log)
{
    ((struct log_packed *)log)->lists.old_free_head = 8;
}

static void packed_used_range(void *log)
{
    ((struct log_packed *)log)->used.used_idx = 8;
}

static void packed_used_back(void *log)
{
    ((struct log_packed *)log)->used.old_used_idx = 1;
}

static void packed_num(void *log)
{
    ((struct log_packed *)log)->desc[0].word.num = 9;
}

static void packed_flag(void *log)
{
    ((struct log_packed *)log)->desc[0].word.inflight = 3;
}

static void packed_link(void *log)
{
    ((struct log_packed *)log)->desc[0].word.next = 300;
}

static void packed_shared(void *log)
{
    ((struct log_packed *)log)->desc[2].word.next = 1; /* the first chain's last */
}

static void packed_last(void *log)
{
    ((struct log_packed *)log)->desc[0].word.last = 3;
}

static void packed_id(void *log)
{
    ((struct log_packed *)log)->desc[1].id = 9;
}

static void packed_same_id(void *log)
{
    ((struct log_packed *)log)->desc[1].id = 1;
}

static void test_refused_logs(void **state)
{
    static const struct {
        bool packed;
        void (*spoil)(void *log);
        const char *text;
    } cases[] = {
        {false, bad_version, "version 2"},
        {true, bad_version, "version 2"},
        {false, bad_tail, "features 0x8000000000010000"},
        {true, bad_tail, "features 0x8000000000010000"},
        {false, bad_size, "for 9 descriptors, but the queue has 8"},
        {true, bad_size, "for 9 descriptors, but the queue has 8"},
        {false, split_far, "more than the 8 descriptors apart"},
        {false, split_batch_range, "head 8 is the 1. of the last batch of 1, but it is outside"},
        {false, split_batch_loop, "head 1 is the 3. of the last batch of 3, but it is there"},
        {false, split_flag, "entry 5 says in flight 2"},
        {true, packed_free_range, "free list 4 after 8 do not fit a ring of 8"},
        {true, packed_used_range, "used 8/1"},
        {true, packed_used_back, "used 0/1 after 1/1"},
        {true, packed_num, "entry 0 says in flight 1 with 9 descriptors"},
        {true, packed_flag, "entry 0 says in flight 3"},
        {true, packed_link, "reaches entry 300, which is outside"},
        {true, packed_shared, "chain of entry 2 reaches entry 1, which is taken"},
        {true, packed_last, "ends at 1, not 3, or has the wrong id 0"},
        {true, packed_id, "or has the wrong id 9"},
        {true, packed_same_id, "or has the wrong id 1"},
    };

    w.level = 3;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct virtq_buffer bufs[2] = {{RIG_PART, 64}, {RIG_PART, 64}};
        struct dt_error err = {{0}};
        struct virtq_chain *c[2];
        struct rig rig;
        int r;

        rig_open(&rig, 8, cases[i].packed, false);
        virtq_driver_add(&rig.driver, bufs, 1, 1);
        virtq_driver_add(&rig.driver, bufs, 1, 1);
        virtq_driver_publish(&rig.driver);
        assert_int_equal(virtq_take(&rig.vq, c, 2), 2);
        virtq_abandon(&rig.vq);
        cases[i].spoil(rig.log);
        r = virtq_start(&rig.vq, &rig.config, 0, true, &err);
        if (r != -EBADMSG || !strstr(err.text, cases[i].text))
            fail_msg("%d \"%s\" instead of \"%s\"", r, err.text, cases[i].text);
        assert_false(rig.vq.started);
        rig_close(&rig);
    }
}

/* What was taken is told by the ring alone, and that is the guest's: it must not say that something is in flight twice. */
static void test_refused_tails(void **state)
{
    static const struct {
        uint16_t head;
        const char *text;
    } cases[] = {{9, "9, which was taken, is outside the ring now"},
                 {0, "0, which was taken, is in flight twice now"}};

    w.level = 3;
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        struct virtq_buffer buf = {RIG_PART, 64};
        uint16_t head = cases[i / 2].head;
        struct dt_error err = {{0}};
        struct virtq_chain *c[2];
        struct rig rig;
        int r;

        open_kind(&rig, 2 + i % 2);
        virtq_driver_add(&rig.driver, &buf, 1, 0);
        virtq_driver_add(&rig.driver, &buf, 1, 0);
        virtq_driver_publish(&rig.driver);
        assert_int_equal(virtq_take(&rig.vq, c, 2), 2);
        virtq_abandon(&rig.vq);
        if (rig.config.packed)
            rig_packed(&rig)[1].id = head;
        else
            ((struct vring_avail *)rig_at(&rig, rig.config.driver, 8))->ring[1] = head;
        r = virtq_start(&rig.vq, &rig.config, 0, true, &err);
        if (r != -EBADMSG || !strstr(err.text, cases[i / 2].text))
            fail_msg("%d \"%s\" instead of \"%s\"", r, err.text, cases[i / 2].text);
        rig_close(&rig);
    }
}

/* Any bytes at all: refused or taken up, but never out of bounds and no id twice. */
static void test_random_logs(void **state)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, 11);
    w.level = 3;
    for (unsigned turn = 0; turn < 4000; turn++) {
        struct virtq_buffer bufs[3] = {{RIG_PART, 64}, {RIG_PART, 64}, {RIG_PART, 64}};
        struct virtq_chain *c[VIRTQ_BURST];
        bool seen[8] = {false};
        struct rig rig;
        int n;

        open_kind(&rig, turn & 3);
        for (unsigned i = 0; i < 3; i++)
            virtq_driver_add(&rig.driver, bufs, 1, i);
        virtq_driver_publish(&rig.driver);
        virtq_take(&rig.vq, c, 3);
        virtq_abandon(&rig.vq);
        for (uint64_t k = 1 + dt_rng_below(&rng, 6); k > 0; k--) {
            uint8_t *byte = rig.log;

            byte += turn & 2 && k % 2 ? dt_rng_below(&rng, 2)
                                      : 12 + dt_rng_below(&rng, rig.log_bytes - 12);

            *byte = (uint8_t)(dt_rng_below(&rng, 2) ? dt_rng_below(&rng, 9) : dt_rng_next(&rng));
        }
        if (virtq_start(&rig.vq, &rig.config, 0, true, NULL) == 0) {
            while ((n = virtq_take(&rig.vq, c, VIRTQ_BURST)) > 0) {
                for (int i = 0; i < n; i++) {
                    assert_true(c[i]->id < 8 && !seen[c[i]->id]);
                    seen[c[i]->id] = true;
                    virtq_push(&rig.vq, c[i], 0);
                }
            }
            virtq_publish(&rig.vq);
        }
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_anywhere), cmocka_unit_test(test_attempts),
        cmocka_unit_test(test_blank_log),      cmocka_unit_test(test_refused_logs),
        cmocka_unit_test(test_refused_tails),  cmocka_unit_test(test_random_logs),
    };

    return cmocka_run_group_tests_name("inflight", tests, NULL, NULL);
}
