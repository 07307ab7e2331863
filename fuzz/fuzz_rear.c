/* SPDX-License-Identifier: MIT */
/*
 * fuzz_rear.c - a back `vhost-user` before a rear whose replies and used entries are bent by the
 * input: three bytes for each, what to change and by how much; where the input ends, the truth
 * begins.
 *
 * Invariants: every request is answered at the latest when the rear is gone; no descriptor is left;
 * what lies outside of the buffers is not touched (the sanitizers see to that).
 */
#include "tests/unit/fake_rear.h"
#include "tests/unit/tap_rig.h"

#include <dirent.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

/* The next three bytes; false where there are none, or they leave things as they are. */
static bool next(struct input *in, uint8_t bend[3])
{
    if (in->size < 3)
        return false;
    memcpy(bend, in->data, 3);
    in->data += 3;
    in->size -= 3;
    return bend[0] & 0x0f;
}

static bool mangle(struct fake_rear *r, struct vhost_message *m)
{
    uint8_t bend[3];

    if (!next(r->arg, bend))
        return true;
    switch (bend[0] & 0x0f) {
    case 1:
        return false;
    case 2:
        m->header.request ^= bend[1];
        break;
    case 3:
        m->header.flags ^= bend[1];
        break;
    case 4:
        m->header.size = MIN((m->header.size ^ bend[1]), (uint32_t)sizeof(m->raw));
        break;
    default:
        m->raw[bend[1] % 64] ^= bend[2];
        break;
    }
    return true;
}

static void mangle_used(struct fake_rear *r, uint32_t *id, uint32_t *len, uint16_t *idx)
{
    uint8_t bend[3];

    if (!next(r->arg, bend))
        return;
    *id ^= bend[0] & 0x10 ? bend[1] : 0;
    *len ^= bend[0] & 0x20 ? bend[2] << (bend[1] % 24) : 0;
    *idx = (uint16_t)(*idx + (bend[0] & 0x40 ? bend[1] : 0));
    r->lie = bend[0] & 0x80 ? bend[2] % LIE_COUNT : LIE_NONE;
}

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    CHECK(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* What is open that was not before? */
static void check_fds(unsigned before)
{
    char path[32], target[128];

    while (dial_count() > 0) /* a connection that took too long ends on its own thread */
        usleep(1000);
    if (count_fds() == before)
        return;
    for (int fd = 0; fd < 1024; fd++) {
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        if (n > 0)
            fprintf(stderr, "%s: %.*s\n", path, (int)n, target);
    }
    CHECK(false);
}

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
    struct input input = {data, size};
    struct dt_error err;
    struct tap_rig rig;
    char chain[128];
    unsigned fds;

    log_set_level(DT_LOG_ERROR);
    fds = count_fds();
    rear = (struct fake_rear){.features = FAKE_FEATURES,
                              .protocol = FAKE_PROTOCOL,
                              .disk = {.capacity = FAKE_SECTORS, .blk_size = 512, .seg_max = 126},
                              .mangle = mangle,
                              .mangle_used = mangle_used,
                              .arg = &input};
    fake_rear_start(&rear);
    snprintf(chain, sizeof(chain), "vhost-user path=%s timeout=20ms on-rear-loss=fail", rear.path);
    if (tap_open(&rig, chain, &err) < 0)
        fake_rear_stop(&rear);
    else
        load(&rig, &rear);
    check_fds(fds);
    return 0;
}
