/* SPDX-License-Identifier: MIT */
/*
 * rear.c - the back `vhost-user` of a disk: its description, and its life. See internal.h.
 *
 * Fence: a rear serves one front end at a time, and answers the next one only when the requests of
 * the one before are over. So once it has answered, nothing of an earlier, dead process of ours can
 * land.
 */
#include "blk/rear/internal.h"

const char *const rear_losses[] = {[REAR_HOLD] = "hold", [REAR_FAIL] = "fail", NULL};

static const struct dt_param params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct disk_rear, rear.path),
     .help = "Socket of a vhost-user-blk back end that listens."},
    REAR_PARAM_QUEUE_SIZE(16),
    REAR_PARAM_PACKED,
    REAR_PARAM_LOSS("on-rear-loss",
                    "While it is gone: hold requests until it is back, or let them fail."),
    REAR_PARAM_TIMEOUT("Longest wait for an answer on its control socket; then it counts as gone."),
    {NULL},
};

const struct dt_counter rear_counters[] = {
    REAR_COUNTERS,
    [REAR_REPLAYED] = {"replayed", "requests", "Requests in flight at such an end, sent again."},
    [REAR_HELD] = {"held", "requests", "Requests that came while it was gone, and waited."},
    [REAR_BOUNCED] = {"bounced", "requests",
                      "Requests copied because their data are not in guest memory."},
    [REAR_KICKS] = {"kicks", "kicks", "Times it was woken up; it may poll instead."},
    [REAR_CALLS] = {"calls", "calls", "Times it woke us up; we may poll instead."},
    {NULL},
};

static const struct dt_verb verbs[] = {REAR_VERB_MODE, {NULL}};

/* ---- Its class ------------------------------------------------------------------------------- */

static const char *while_lost(const struct rear *rear)
{
    const struct disk_rear *dr = container_of(rear, struct disk_rear, rear);

    return __atomic_load_n(&dr->on_loss, __ATOMIC_RELAXED) == REAR_FAIL
               ? "requests fail until it is back"
               : "requests wait until it is back";
}

static bool loss_accepted(const struct rear *rear)
{
    const struct disk_rear *dr = container_of(rear, struct disk_rear, rear);

    return __atomic_load_n(&dr->on_loss, __ATOMIC_RELAXED) == REAR_FAIL;
}

static const struct rear_class class = {
    .features = DISK_REAR_FEATURES,
    .protocol = DISK_REAR_PROTOCOL,
    .queue_rings = 1,
    .shares_memory = true,
    .keeps_log = true,
    .part_size = sizeof(struct rear_rings),
    .part_bytes = rear_rings_bytes,
    .part_init = rear_rings_init,
    .part_fini = rear_rings_fini,
    .agreed = disk_rear_agreed,
    .parameters_changed = rear_give_up,
    .obey = rear_obey,
    .while_lost = while_lost,
    .loss_accepted = loss_accepted,
    .give = disk_rear_give,
};

/* ---- Life ------------------------------------------------------------------------------------ */

int disk_rear_open(struct dt_layer *layer, struct dt_error *err)
{
    return rear_open(layer, &class, err);
}

int disk_rear_start(struct dt_ctx *c, struct dt_error *err)
{
    struct rear_ctx *rc = c->data;

    rear_ctx_init(rc, c);
    return rear_lane_start(&rc->lane, c, err);
}

void disk_rear_stop(struct dt_ctx *c)
{
    struct rear_ctx *rc = c->data;

    rear_lane_stop(&rc->lane);
    dt_timer_cancel(c, &rc->patience);
}

int disk_rear_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct disk_rear *dr = disk_rear(layer);

    *info = dr->info;
    info->sectors = __atomic_load_n(&dr->sectors, __ATOMIC_RELAXED);
    return 0;
}

int disk_rear_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    CHECK(disk_rear(layer)->rear.session.frontend);
    return 0;
}

const struct dt_block_ext blk_rear = {
    DT_BLOCK_EXT_HEADER,
    .name = "vhost-user",
    .summary = "A disk served by another vhost-user-blk back end",
    .help =
        "Connects to a back end such as qemu-storage-daemon, SPDK or another devtap, and gives it "
        "the guest's memory, so that data are not copied. When it goes away, requests wait (or "
        "fail, "
        "with on-rear-loss=fail), and what was in flight is sent again when it is back.",
    .flags = DT_BACK | DT_PER_QUEUE,
    .params = params,
    .verbs = verbs,
    .layer_size = sizeof(struct disk_rear),
    .open = disk_rear_open,
    .close = rear_close,
    REAR_EXTENSION,
};
