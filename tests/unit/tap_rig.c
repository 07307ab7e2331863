/* SPDX-License-Identifier: MIT */
/* tap_rig.c - see tap_rig.h. */
#include "tests/unit/tap_rig.h"

#include "blk/blk.h"
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#define GUEST_BYTES (TAP_SLOTS * TAP_BYTES)

static struct tap_rig *hears;
static char heard[sizeof(hears->events)];
static pthread_mutex_t hearing = PTHREAD_MUTEX_INITIALIZER;

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        container_of(reqs[i], struct tap_slot, req)->busy = false;
}

static void on_wake(struct lane *lane)
{
}

static void on_info(void *front)
{
    hears->resized++;
}

static const struct front_ops front = {
    .complete = on_complete, .wake = on_wake, .info_changed = on_info};

/* On any thread. */
static void on_event(const struct device_event *e)
{
    size_t used;

    pthread_mutex_lock(&hearing);
    used = strlen(heard);
    snprintf(heard + used, sizeof(heard) - used, "%s: %s\n", e->event, e->text);
    pthread_mutex_unlock(&hearing);
}

static void hear(struct tap_rig *rig)
{
    size_t used = strlen(rig->events);

    pthread_mutex_lock(&hearing);
    snprintf(rig->events + used, sizeof(rig->events) - used, "%s", heard);
    heard[0] = '\0';
    pthread_mutex_unlock(&hearing);
}

static void make_guest(struct tap_rig *rig)
{
    rig->guest_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(rig->guest_fd >= 0 && ftruncate(rig->guest_fd, GUEST_BYTES) == 0);
    rig->guest = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, rig->guest_fd, 0);
    CHECK(rig->guest != MAP_FAILED);
    rig->slots = xaligned(CACHE_LINE, TAP_SLOTS * sizeof(*rig->slots));
    for (unsigned i = 0; i < TAP_SLOTS; i++)
        rig->slots[i].data = i % 2 ? xcalloc(1, TAP_BYTES) : rig->guest + i * TAP_BYTES;
}

static void free_guest(struct tap_rig *rig)
{
    for (unsigned i = 1; i < TAP_SLOTS; i += 2)
        free(rig->slots[i].data);
    free(rig->slots);
    munmap(rig->guest, GUEST_BYTES);
    close(rig->guest_fd);
}

int tap_open(struct tap_rig *rig, const char *chain, struct dt_error *err)
{
    const struct loop_config config = {.engine = LOOP_EPOLL, .spin_ns = DT_US(20)};
    struct chain_spec spec;
    int ret;

    *rig = (struct tap_rig){0};
    hears = rig;
    heard[0] = '\0';
    blk_register_builtin();
    device_events(on_event);
    CHECK(loop_new(&rig->loop, &config, err) == 0 && chain_parse(&spec, chain, err) == 0);
    ret = device_new(
        &rig->dev,
        &(struct device_config){.name = "tap", .chain = &spec, .loops = &rig->loop, .threads = 1},
        err);
    chain_spec_free(&spec);
    ret = ret ?: device_start(rig->dev, &front, NULL, err);
    if (ret < 0) {
        device_free(rig->dev);
        loop_free(rig->loop);
        return ret;
    }
    make_guest(rig);
    return 0;
}

void tap_close(struct tap_rig *rig)
{
    device_stop(rig->dev);
    device_free(rig->dev);
    while (loop_turn(rig->loop, false))
        ;
    loop_free(rig->loop);
    free_guest(rig);
    device_events(NULL);
}

void tap_give_memory(struct tap_rig *rig, uint64_t gpa)
{
    const struct device_region region = {
        .gpa = gpa, .size = GUEST_BYTES, .host = rig->guest, .fd = rig->guest_fd};

    device_set_memory(rig->dev, &region, gpa != 0);
}

struct tap_slot *tap_submit(struct tap_rig *rig, unsigned index, enum dt_op op, uint64_t sector,
                            uint32_t sectors, unsigned flags)
{
    struct tap_slot *slot = &rig->slots[index];
    struct request *r = &slot->req;
    size_t bytes = (size_t)sectors << DT_SECTOR_SHIFT;

    CHECK(!slot->busy && bytes <= TAP_BYTES);
    slot->busy = true;
    r->pub = (struct dt_req){
        .op = (uint8_t)op, .sector = sector, .sectors = sectors, .flags = (uint8_t)flags};
    r->iov = slot->iov;
    r->niov = 0;
    if (dt_req_has_data(&r->pub)) {
        r->niov = index % 4 < 2 ? 4 : 1;
        for (unsigned i = 0; i < r->niov; i++)
            slot->iov[i] = (struct iovec){slot->data + i * (bytes / r->niov), bytes / r->niov};
    }
    lane_submit(device_lane(rig->dev, 0), &r, 1);
    return slot;
}

int tap_wait(struct tap_rig *rig, struct tap_slot *slot, unsigned ms)
{
    uint64_t end = dt_clock_ns() + DT_MS(ms);

    while (slot->busy && dt_clock_ns() < end)
        loop_turn(rig->loop, false);
    hear(rig);
    return slot->busy ? -ETIME : slot->req.pub.error;
}

void tap_turn(struct tap_rig *rig, unsigned ms)
{
    uint64_t end = dt_clock_ns() + DT_MS(ms);

    while (dt_clock_ns() < end)
        loop_turn(rig->loop, false);
    hear(rig);
}

uint64_t tap_counter(struct tap_rig *rig, const char *name)
{
    json_t *stats = device_stats(rig->dev), *layers = json_object_get(stats, "layers");
    json_t *back = json_array_get(layers, json_array_size(layers) - 1);
    json_t *value = json_object_get(json_object_get(back, "counters"), name);
    uint64_t n;

    CHECK(json_is_integer(value));
    n = (uint64_t)json_integer_value(value);
    json_decref(stats);
    return n;
}
