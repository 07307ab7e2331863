/* SPDX-License-Identifier: MIT */
/*
 * load.c - the front: random requests in random bursts, and the judgement of what comes back.
 *
 * Requests in flight never overlap where one of them writes, as with any sane guest; so the
 * content of every sector is known exactly when its request ends, and each read is compared in
 * full.
 */
#include "tools/conformance/internal.h"

#include <sys/mman.h>

#define GAP_MAX       512u
#define SLOT_MEMORY   ((LOAD_SECTORS << DT_SECTOR_SHIFT) + LOAD_IOVS * GAP_MAX + PAGE_SIZE_4K)
#define PICK_ATTEMPTS 8

const char *load_describe(const struct dt_req *req, char *text, size_t size)
{
    if (req->op == DT_OP_FLUSH)
        snprintf(text, size, "flush");
    else
        snprintf(text, size, "%s of %u sectors at %llu", dt_op_name(req->op), req->sectors,
                 (unsigned long long)req->sector);
    return text;
}

/* ---- Building a request ---------------------------------------------------------------------- */

static bool overlaps_busy(const struct load *load, const struct dt_req *req)
{
    for (unsigned i = 0; i < LOAD_SLOTS; i++) {
        const struct slot *other = &load->slots[i];

        if (other->busy && req->sector < other->sector + other->sectors &&
            other->sector < req->sector + req->sectors)
            return true;
    }
    return false;
}

static struct slot *free_slot(struct load *load)
{
    for (unsigned i = 0; i < LOAD_SLOTS; i++)
        if (!load->slots[i].busy && !load->slots[i].kept)
            return &load->slots[i];
    return NULL;
}

/* Cuts the slot's memory into vectors of odd lengths and places, for @bytes in all. */
static void cut_memory(struct load *load, struct slot *s, size_t bytes)
{
    unsigned max = dt_rng_below(&load->rng, 4) ? 4 : LOAD_IOVS;
    size_t align = dt_rng_below(&load->rng, 4) ? 512 : 1;
    uint8_t *at = s->memory + (align == 1 ? dt_rng_below(&load->rng, 64) : 0);

    s->niov = 0;
    while (bytes) {
        size_t n = bytes;

        if (s->niov + 1 < max && bytes > align)
            n = align * (1 + dt_rng_below(&load->rng, bytes / align));
        n = MIN(n, bytes);
        s->iov[s->niov++] = (struct iovec){at, n};
        at += n + align * dt_rng_below(&load->rng, align == 1 ? GAP_MAX : 2);
        bytes -= n;
    }
}

static void fill_buffer(struct load *load, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;

    cut_memory(load, s, dt_req_bytes(req));
    if (req->op == DT_OP_READ) {
        dt_iov_fill(s->iov, s->niov, 0, POISON, dt_req_bytes(req));
        return;
    }
    for (uint32_t i = 0; i < req->sectors; i++)
        content_fill(load->scratch + i * DT_SECTOR_SIZE, load->bench->seed, req->sector + i,
                     s->version);
    dt_iov_write(s->iov, s->niov, 0, load->scratch, dt_req_bytes(req));
}

static void log_start(struct load *load, struct slot *s)
{
    struct kill_log *log = load->bench->kill_log;
    const struct dt_req *req = &s->request->pub;
    struct record *r = log ? &log->records[s - load->slots] : NULL;

    if (!log)
        return;
    s->flush_mark = log->clock;
    *r = (struct record){0, req->op, req->sectors, s->version, req->sector};
    for (uint32_t i = 0; req->op == DT_OP_WRITE && i < req->sectors; i++)
        log->issued[req->sector + i] = s->version;
    __atomic_store_n(&r->busy, 1, __ATOMIC_RELEASE);
}

/* The request as the front gives it to core. @s->version and pub are set. */
static void slot_prepare(struct load *load, struct slot *s)
{
    struct request *r = s->request;

    s->niov = 0;
    s->scribbled = false;
    s->sector = r->pub.sector;
    s->sectors = r->pub.sectors;
    if (dt_req_has_data(&r->pub))
        fill_buffer(load, s);
    r->iov = s->iov;
    r->niov = s->niov;
    memset((uint8_t *)r + REQUEST_SIZE, POISON, RED_ZONE);
    s->busy = true;
    __atomic_fetch_add(&load->busy, 1, __ATOMIC_RELEASE);
    log_start(load, s);
}

/* ---- Choosing a request ---- */

static enum dt_op pick_op(struct load *load, const struct dt_block_info *info)
{
    uint64_t dice = dt_rng_below(&load->rng, 100);

    if (dice < 45)
        return DT_OP_READ;
    if (info->read_only && dice < 88) /* and now and then an attempt that must be refused */
        return DT_OP_READ;
    if (dice < 90)
        return DT_OP_WRITE;
    if (dice < 94)
        return DT_OP_FLUSH;
    if (load->bench->kill_log)
        return DT_OP_READ; /* whose content cannot tell a version */
    return dice < 97 ? DT_OP_DISCARD : DT_OP_WRITE_ZEROES;
}

static uint32_t pick_length(struct load *load, const struct dt_block_info *info, enum dt_op op)
{
    uint64_t dice = dt_rng_below(&load->rng, 1000);
    uint32_t max = dice < 700 ? 16 : dice < 990 ? 256 : LOAD_SECTORS;

    if (op == DT_OP_DISCARD && info->max_discard)
        max = MIN(max, info->max_discard);
    if (op == DT_OP_WRITE_ZEROES && info->max_write_zeroes)
        max = MIN(max, info->max_write_zeroes);
    return 1 + (uint32_t)dt_rng_below(&load->rng, max);
}

static void pick_range(struct load *load, const struct dt_block_info *info, struct dt_req *req)
{
    uint32_t align = info->logical_block >> DT_SECTOR_SHIFT;
    uint64_t room;

    if (req->op == DT_OP_DISCARD && info->discard_align)
        align = MAX(align, info->discard_align);
    req->sector = load->first + dt_rng_below(&load->rng, load->sectors);
    req->sector -= req->sector % align;
    req->sector = MAX(req->sector, load->first);
    room = load->first + load->sectors - req->sector;
    req->sectors = ALIGN_UP(pick_length(load, info, req->op), align);
    if (req->sectors > room)
        req->sectors = (uint32_t)(room - room % align);
}

/* Fills @req; false if everything tried would overlap what is in flight. */
static bool pick_request(struct load *load, struct dt_req *req)
{
    const struct dt_block_info *info = device_info(load->bench->dev);

    *req = (struct dt_req){.op = (uint8_t)pick_op(load, info),
                           .queue = (uint16_t)dt_rng_below(&load->rng, 4)};
    if (req->op == DT_OP_FLUSH)
        return true;
    if (req->op == DT_OP_WRITE && dt_rng_below(&load->rng, 20) == 0)
        req->flags |= DT_REQ_FUA;
    if (req->op == DT_OP_WRITE_ZEROES && dt_rng_below(&load->rng, 2))
        req->flags |= DT_REQ_UNMAP;
    for (unsigned i = 0; i < PICK_ATTEMPTS; i++) {
        pick_range(load, info, req);
        if (req->sectors && !overlaps_busy(load, req))
            return true;
    }
    return false;
}

/*
 * A guest that changes its buffer while the request is under way. Where core has not taken its copy
 * yet (the request waits for memory, or is being split), the change would rightly be seen.
 */
static void scribble(struct load *load, struct slot **slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct slot *s = slots[i];

        if (!s->busy || s->request->pub.op != DT_OP_WRITE || !s->request->own_iov)
            continue;
        s->scribbled = true;
        load->scribbles++;
        dt_iov_fill(s->iov, s->niov, 0, POISON, dt_req_bytes(&s->request->pub));
    }
}

static unsigned issue(struct load *load)
{
    unsigned want = (unsigned)dt_rng_below(&load->rng, LOAD_SLOTS - load->busy + 1);
    struct request *burst[LOAD_SLOTS];
    struct slot *slots[LOAD_SLOTS];
    unsigned n = 0;

    want = want ? lane_admit(device_lane(load->bench->dev, load->thread), want) : 0;
    while (n < want) {
        struct slot *s = free_slot(load);

        if (!s || !pick_request(load, &s->request->pub))
            break;
        s->version = __atomic_fetch_add(load->bench->next_version, 1, __ATOMIC_RELAXED);
        slot_prepare(load, s);
        slots[n] = s;
        burst[n++] = s->request;
    }
    if (n)
        lane_submit(device_lane(load->bench->dev, load->thread), burst, n);
    if (load->bench->scribble)
        scribble(load, slots, n);
    return n;
}

struct slot *load_one(struct load *load, enum dt_op op, uint64_t sector, uint32_t sectors,
                      uint32_t version, unsigned flags)
{
    struct slot *s = free_slot(load);

    CHECK(s);
    s->request->pub = (struct dt_req){
        .op = (uint8_t)op, .sector = sector, .sectors = sectors, .flags = (uint8_t)flags};
    s->version = version;
    slot_prepare(load, s);
    lane_submit(device_lane(load->bench->dev, load->thread), &s->request, 1);
    return s;
}

/* ---- What core calls ---- */

static void load_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct load *load = &bench->loads[lane_thread(lane)];

    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < LOAD_SLOTS; k++)
            if (load->slots[k].request == reqs[i])
                judge_done(load, &load->slots[k]);
}

static void load_wake(struct lane *lane)
{
    /* It asks again at every turn. */
}

static void load_info_changed(void *front)
{
}

const struct front_ops load_front_ops = {
    .complete = load_complete,
    .wake = load_wake,
    .info_changed = load_info_changed,
};

/* ---- Life ---- */

unsigned load_step(struct load *load)
{
    unsigned n = 0;

    if (__atomic_load_n(&load->enabled, __ATOMIC_ACQUIRE))
        n = issue(load);
    if (!load->bench->has_back)
        n += model_step(&load->bench->model, load->thread);
    return n;
}

static unsigned load_poll(struct loop_poller *poller)
{
    return load_step(container_of(poller, struct load, poller));
}

void load_init(struct load *load, struct bench *b, unsigned thread)
{
    uint64_t share = ALIGN_DOWN(b->sectors / b->threads, (uint64_t)8);

    *load = (struct load){.bench = b, .thread = thread, .first = thread * share};
    load->sectors = b->threads == 1 ? b->sectors : share;
    load->poller.poll = load_poll;
    list_init(&load->poller.node);
    dt_rng_seed(&load->rng, dt_rng_next(&b->rng));
    load->scratch = xcalloc(LOAD_SECTORS, DT_SECTOR_SIZE);
    load->memory = shared_memory(LOAD_SLOTS * SLOT_MEMORY); /* most of it is never touched */
    for (unsigned i = 0; i < LOAD_SLOTS; i++) {
        load->slots[i].request = xaligned(CACHE_LINE, REQUEST_SIZE + RED_ZONE);
        load->slots[i].memory = load->memory + i * SLOT_MEMORY;
    }
}

void load_fini(struct load *load)
{
    for (unsigned i = 0; i < LOAD_SLOTS; i++)
        free(load->slots[i].request);
    free(load->scratch);
    munmap(load->memory, LOAD_SLOTS * SLOT_MEMORY);
}
