/* SPDX-License-Identifier: MIT */
/*
 * bend.h - a rear whose replies and used entries are bent by the input: three bytes for each, what to change and by
 * how much; where the input ends, the truth begins.
 */
#ifndef FUZZ_BEND_H
#define FUZZ_BEND_H

#include "core/core.h"
#include "tests/unit/fake_rear.h"
#include "tests/unit/fds.h"

#include <stdio.h>

struct bend {
    const uint8_t *data;
    size_t size;
};

/* The next three bytes; false where there are none, or they leave things as they are. */
static inline bool bend_next(struct bend *in, uint8_t bend[3])
{
    if (in->size < 3)
        return false;
    memcpy(bend, in->data, 3);
    in->data += 3;
    in->size -= 3;
    return bend[0] & 0x0f;
}

static inline bool bend_reply(struct fake_rear *r, struct vhost_message *m)
{
    uint8_t bend[3];

    if (!bend_next(r->arg, bend))
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

static inline void bend_used(struct fake_rear *r, uint32_t *id, uint32_t *len, uint16_t *idx)
{
    uint8_t bend[3];

    if (!bend_next(r->arg, bend))
        return;
    *id ^= bend[0] & 0x10 ? bend[1] : 0;
    *len ^= bend[0] & 0x20 ? bend[2] << (bend[1] % 24) : 0;
    *idx = (uint16_t)(*idx + (bend[0] & 0x40 ? bend[1] : 0));
    r->lie = bend[0] & 0x80 ? bend[2] % LIE_COUNT : LIE_NONE;
}

/* What is open that was not before? */
static inline void bend_check_fds(unsigned before)
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

#endif
