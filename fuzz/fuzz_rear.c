/* SPDX-License-Identifier: MIT */
/*
 * fuzz_rear.c - a back `vhost-user` of a disk before a rear whose replies and used entries are bent by the
 * input (bend.h).
 *
 * Invariants: every request is answered at the latest when the rear is gone; no descriptor is left;
 * what lies outside of the buffers is not touched (the sanitizers see to that).
 */
#include "fuzz/bend.h"
#include "tests/unit/tap_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void load(struct tap_rig *rig, struct fake_rear *rear)
{
    tap_give_memory(rig, 0x10000000);
    for (unsigned i = 0; i < 6; i++)
        tap_submit(rig, i, i % 3 == 2 ? DT_OP_WRITE : DT_OP_READ, i * 8, 8,
                   i == 2 ? DT_REQ_FUA : 0);
    tap_turn(rig, 3);
    tap_give_memory(rig, 0x20000000);
    tap_submit(rig, 6, DT_OP_FLUSH, 0, 0, 0);
    tap_turn(rig, 3);
    fake_rear_stop(rear);
    for (unsigned i = 0; i < 7; i++)
        CHECK(tap_wait(rig, &rig->slots[i], 10000) != -ETIME);
    tap_close(rig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fake_rear rear;
    struct bend input = {data, size};
    struct dt_error err;
    struct tap_rig rig;
    char chain[128];
    unsigned fds;

    log_set_level(DT_LOG_ERROR);
    fds = count_fds();
    rear = (struct fake_rear){.features = FAKE_FEATURES,
                              .protocol = FAKE_PROTOCOL,
                              .disk = {.capacity = FAKE_SECTORS, .blk_size = 512, .seg_max = 126},
                              .mangle = bend_reply,
                              .mangle_used = bend_used,
                              .arg = &input};
    fake_rear_start(&rear);
    snprintf(chain, sizeof(chain), "vhost-user path=%s timeout=20ms on-rear-loss=fail", rear.path);
    if (tap_open(&rig, chain, &err) < 0)
        fake_rear_stop(&rear);
    else
        load(&rig, &rear);
    bend_check_fds(fds);
    return 0;
}
