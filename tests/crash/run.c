/* SPDX-License-Identifier: MIT */
/*
 * run.c - drives a chain as a guest would, then makes crash states of what its files went
 * through, opens the chain on each, and reads the whole disk.
 *
 * All draws come from the run's seed, so a run is the same each time. One state in eight is a
 * start of its own: the recovery is logged, with some more requests, and crashed in turn.
 */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <sys/stat.h>

#define STATES_PER_RUN 500u
#define NESTED         6u
#define FUA_CHANCE     0.1
#define STUCK_NS       DT_S(20)
#define MAX_SECTORS    64u /* of one request */

/* struct guest_op - a request of the guest under way. */
struct guest_op {
    struct disk_slot *slot;
    enum dt_op op;
    uint64_t sector, issued;
    uint32_t sectors;
    bool fua;
    uint8_t *data;
};

struct run {
    const struct crash_setup *setup;
    char dir[64], chain[1024];
    uint64_t seed, next_id;
    struct dt_rng rng;
    unsigned tried, wanted;
    char *failed; /* text; "" while all is well */
};

struct guest {
    struct run *run;
    struct crash_model *model;
    struct guest_op ops[16];
    unsigned left, depth;
};

static bool wrong(struct run *r, const char *fmt, ...) DT_PRINTF(2, 3);
static bool wrong(struct run *r, const char *fmt, ...)
{
    va_list args;
    int at = snprintf(r->failed, 512, "%s: seed %llu, state %u: ", r->setup->name,
                      (unsigned long long)r->seed, r->tried);

    va_start(args, fmt);
    vsnprintf(r->failed + at, 512 - (size_t)at, fmt, args);
    va_end(args);
    return false;
}

/* ---- The guest ---- */

static uint64_t pick_range(struct guest *g, uint32_t *sectors)
{
    const struct crash_setup *s = g->run->setup;
    struct dt_rng *rng = &g->run->rng;
    uint32_t blocks = s->sectors / s->block, hot = MAX(1u, blocks / 8);
    uint32_t most = (uint32_t)dt_rng_below(rng, 4) ? 4 : MAX_SECTORS / s->block;
    uint64_t at = dt_rng_below(rng, dt_rng_below(rng, 2) ? hot : blocks);

    /* Often a whole, aligned block of 4 KiB, as file systems send. */
    if (dt_rng_below(rng, 3) == 0 && s->block == 1 && blocks >= 16) {
        *sectors = 8;
        return ALIGN_DOWN(MIN(at, (uint64_t)blocks - 8), (uint64_t)8);
    }
    *sectors = (uint32_t)(1 + dt_rng_below(rng, MIN(most, blocks - at))) * s->block;
    return at * s->block;
}

static enum dt_op pick_op(struct guest *g)
{
    uint64_t n = dt_rng_below(&g->run->rng, 100);

    if (n < 55)
        return DT_OP_WRITE;
    if (n < 70)
        return DT_OP_READ;
    if (n < 85 || g->run->setup->no_discard)
        return DT_OP_FLUSH;
    return n < 90 ? DT_OP_DISCARD : DT_OP_WRITE_ZEROES;
}

static void begin(struct guest *g, struct guest_op *o)
{
    struct run *r = g->run;
    uint64_t id = 0;
    uint8_t flags = 0;

    *o = (struct guest_op){.op = pick_op(g), .issued = crash_clock()};
    if (o->op != DT_OP_FLUSH)
        o->sector = pick_range(g, &o->sectors);
    if (o->op == DT_OP_READ || o->op == DT_OP_WRITE)
        o->data = xaligned(4096, o->sectors * 512u);
    if (o->op == DT_OP_WRITE) {
        id = r->next_id++;
        crash_fill(o->data, o->sector, o->sectors, id);
    }
    o->fua =
        (o->op == DT_OP_WRITE || o->op == DT_OP_WRITE_ZEROES) && dt_rng_chance(&r->rng, FUA_CHANCE);
    if (o->fua)
        flags |= DT_REQ_FUA;
    if (o->op == DT_OP_WRITE_ZEROES && dt_rng_below(&r->rng, 2))
        flags |= DT_REQ_UNMAP;
    if (o->op != DT_OP_READ && o->op != DT_OP_FLUSH)
        crash_model_begin(g->model, o->sector, o->sectors, id, o->issued);
    o->slot = disk_submit(o->op, flags, o->sector, o->sectors, o->data);
    g->left--;
}

static bool end(struct guest *g, struct guest_op *o)
{
    struct run *r = g->run;
    char why[256];
    bool good = o->slot->error == 0, fine = true;

    if (o->op == DT_OP_FLUSH && good)
        crash_model_flushed(g->model, o->issued);
    else if (o->op == DT_OP_FLUSH || (o->fua && !good))
        crash_model_flush_failed(g->model);
    if (o->op == DT_OP_READ && good &&
        !crash_model_check(g->model, o->sector, o->sectors, o->data,
                           (struct crash_moment){CRASH_RUNNING, o->issued}, why))
        fine = wrong(r, "while it ran: %s", why);
    else if (o->op != DT_OP_READ && o->op != DT_OP_FLUSH)
        crash_model_ended(g->model, o->sector, o->sectors, o->issued,
                          good && o->op != DT_OP_DISCARD, o->fua);
    free(o->data);
    *o = (struct guest_op){0};
    return fine;
}

/* One step of the disk; false when it has done no I/O for long. That its timers fire is no progress. */
static bool step(uint64_t *moved)
{
    if (crash_pump())
        *moved = dt_clock_ns();
    loop_turn(disk.loop, false);
    return dt_clock_ns() - *moved < STUCK_NS;
}

/* Ends what is done before anything is begun: a slot that is not busy may be taken again. */
static bool collect(struct guest *g, unsigned *busy)
{
    bool fine = true;

    *busy = 0;
    for (unsigned i = 0; i < g->depth; i++) {
        struct guest_op *o = &g->ops[i];

        if (o->slot && !o->slot->busy)
            fine &= end(g, o);
        *busy += o->slot != NULL;
    }
    return fine;
}

static bool serve(struct guest *g)
{
    uint64_t moved = dt_clock_ns();
    unsigned busy;
    bool fine = true;

    for (;;) {
        fine &= collect(g, &busy);
        for (unsigned i = 0; i < g->depth && g->left && fine; i++) {
            if (g->ops[i].slot || dt_rng_below(&g->run->rng, 3) == 0)
                continue;
            begin(g, &g->ops[i]);
            fine &= collect(g, &busy);
        }
        if (busy == 0 && (g->left == 0 || !fine))
            return fine;
        if (!step(&moved))
            return wrong(g->run, "stuck: %u requests do not end", busy);
    }
}

/* ---- The disk ---- */

static bool open_disk(struct run *r)
{
    if (disk_try("%s", r->chain) == 0)
        return true;
    return wrong(r, "does not open: %s", disk.err.text);
}

static bool close_disk(struct run *r)
{
    uint64_t moved = dt_clock_ns();
    int done = 0;

    device_quiesce(disk.dev, dt_clock_ns() + STUCK_NS, disk_on_quiesced, &done);
    while (!done)
        if (!step(&moved))
            return wrong(r, "stuck: does not come to rest");
    while (crash_pump() || loop_turn(disk.loop, false))
        ;
    disk_close();
    return true;
}

/* The whole disk, into memory of the caller's. */
static bool read_disk(struct run *r, uint8_t *data)
{
    const struct crash_setup *s = r->setup;
    uint64_t moved = dt_clock_ns();

    for (uint32_t at = 0, n; at < s->sectors; at += n) {
        struct disk_slot *slot;

        n = MIN(s->sectors - at, 256u);
        slot = disk_submit(DT_OP_READ, 0, at, n, data + at * 512u);
        while (slot->busy)
            if (!step(&moved))
                return wrong(r, "stuck: a read of sector %u does not end", at);
        if (slot->error)
            return wrong(r, "reading sector %u: %s", at, strerror(-slot->error));
    }
    return true;
}

static bool check_state(struct run *r, const struct crash_model *m, struct crash_moment moment)
{
    _cleanup_free_ uint8_t *data = xaligned(4096, r->setup->sectors * 512u);
    char why[256];
    bool fine = open_disk(r);

    if (!fine)
        return false;
    fine = read_disk(r, data);
    if (fine && !crash_model_check(m, 0, r->setup->sectors, data, moment, why))
        fine = wrong(r, "%s", why);
    return close_disk(r) && fine;
}

/* ---- States ---- */

static const char *const choices[] = {"killed", "nothing unflushed", "some unflushed", "torn",
                                      "few unflushed"};

/* In turn, and in the nested states at random. */
static enum crash_choice choice_of(const struct run *r, uint64_t n)
{
    enum crash_choice choice = (enum crash_choice)(n % CRASH_CHOICES);

    return choice == CRASH_KILLED && r->setup->power_only ? CRASH_NOTHING : choice;
}

static struct crash_moment moment_of(uint64_t when, enum crash_choice choice)
{
    return (struct crash_moment){choice == CRASH_KILLED ? CRASH_AFTER_KILL : CRASH_AFTER_LOSS,
                                 when};
}

static bool try_state(struct run *r, const struct crash_log *log, const struct crash_model *m,
                      uint64_t when, enum crash_choice choice, struct dt_rng *rng)
{
    crash_state_make(log, when, choice, rng);
    r->tried++;
    if (check_state(r, m, moment_of(when, choice)))
        return true;
    size_t at = strlen(r->failed);

    snprintf(r->failed + at, 512 - at, " (%s, at %llu of %llu)", choices[choice],
             (unsigned long long)when, (unsigned long long)log->end);
    return false;
}

/* The recovery from the present state and a little more, logged: crash states of that. */
static bool try_nested(struct run *r, const struct crash_model *before, struct crash_moment moment,
                       struct dt_rng *rng)
{
    _cleanup_free_ uint8_t *data = xaligned(4096, r->setup->sectors * 512u);
    struct crash_model m;
    struct crash_log log;
    struct guest g = {.run = r, .model = &m, .left = 8, .depth = 4};
    uint64_t begun = crash_clock();
    bool fine;

    crash_model_after(&m, before, &moment);
    crash_log_begin(&log);
    fine = open_disk(r);
    if (fine) {
        fine = read_disk(r, data);
        if (fine) {
            crash_model_seen(&m, 0, m.count, data);
            fine = serve(&g);
        }
        fine &= close_disk(r);
    }
    crash_log_end(&log);
    for (unsigned i = 0; i < NESTED && fine && r->tried < r->wanted; i++)
        fine = try_state(r, &log, &m, begun + 1 + dt_rng_below(rng, log.end - begun),
                         choice_of(r, dt_rng_below(rng, CRASH_CHOICES)), rng);
    crash_log_free(&log);
    crash_model_free(&m);
    return fine;
}

static bool try_states(struct run *r, const struct crash_log *log, const struct crash_model *m,
                       uint64_t begun)
{
    struct dt_rng rng;
    unsigned end = MIN(r->wanted, r->tried + STATES_PER_RUN);
    uint64_t span = log->end - begun, n = 0;
    bool fine = true;

    dt_rng_seed(&rng, r->seed);
    while (fine && r->tried < end) {
        uint64_t when = begun + 1 + dt_rng_below(&rng, span);
        enum crash_choice choice = choice_of(r, n);

        fine = try_state(r, log, m, when, choice, &rng);
        if (!fine || n++ % 8 != 7)
            continue;
        crash_state_make(log, when, choice, &rng);
        fine = try_nested(r, m, moment_of(when, choice), &rng);
    }
    return fine;
}

/* ---- Runs ---- */

static void make_directory(struct run *r)
{
    const char *from = r->setup->chain;
    char *to = r->chain;

    snprintf(r->dir, sizeof(r->dir), "%s/devtap-crash-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ".");
    CHECK(mkdtemp(r->dir));
    for (; *from; from++) {
        CHECK(to + sizeof(r->dir) < r->chain + sizeof(r->chain));
        if (*from == '@')
            to = stpcpy(to, r->dir);
        else
            *to++ = *from;
    }
    *to = '\0';
}

static void remove_directory(struct run *r)
{
    for (unsigned i = 0; r->setup->files[i]; i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", r->dir, r->setup->files[i]);

        unlink(path);
    }
    rmdir(r->dir);
}

/* A third of the runs have a flush that fails. */
static bool one_run(struct run *r)
{
    const struct crash_setup *s = r->setup;
    struct crash_model m;
    struct crash_log log;
    struct guest g = {.run = r, .model = &m, .left = s->ops, .depth = MIN(s->depth, 16u)};
    uint64_t begun;
    bool fine;

    dt_rng_seed(&r->rng, r->seed);
    crash_seed(r->seed);
    r->next_id = s->initial + 1;
    make_directory(r);
    crash_files_set(r->dir, s->files);
    if (s->prepare)
        s->prepare(r->dir);
    crash_model_init(&m, s->sectors, s->initial);
    begun = crash_clock();
    crash_log_begin(&log);
    fine = open_disk(r);
    if (fine) {
        crash_fail_sync(r->seed % 3 == 2 ? 1 + (unsigned)dt_rng_below(&r->rng, 12) : 0);
        fine = serve(&g);
        crash_fail_sync(0);
        fine &= close_disk(r);
    }
    crash_log_end(&log);
    fine = fine && try_states(r, &log, &m, begun);
    crash_log_free(&log);
    crash_model_free(&m);
    remove_directory(r);
    return fine;
}

unsigned crash_states_wanted(unsigned quick)
{
    const char *text = getenv("CRASH_STATES");

    return text && atoi(text) > 0 ? (unsigned)atoi(text) : quick;
}

unsigned crash_run(const struct crash_setup *setup, unsigned states, char failed[512])
{
    const char *only = getenv("CRASH_SEED");
    struct run r = {.setup = setup, .wanted = states, .failed = failed};

    failed[0] = '\0';
    log_set_level(DT_LOG_ERROR);
    disk.engine =
        LOOP_EPOLL; /* no I/O reaches the loop, and a ring for each state would take longer than the state */
    r.seed = only ? strtoull(only, NULL, 0) : 1;
    while (r.tried < states && one_run(&r) && !only)
        r.seed++;
    return r.tried;
}

void crash_test(const struct crash_setup *setup, unsigned quick)
{
    char failed[512];
    uint64_t start = dt_clock_ns();
    unsigned tried = crash_run(setup, crash_states_wanted(quick), failed);

    printf("# %s: %u crash states in %.1f s\n", setup->name, tried,
           (double)(dt_clock_ns() - start) / 1e9);
    if (failed[0])
        fail_msg("%s", failed);
}
