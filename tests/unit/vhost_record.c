/* SPDX-License-Identifier: MIT */
#include "vhost_record.h"
#include "vhost_peer.h"

#include <sys/stat.h>

FILE *record_open(const char *name)
{
    const char *dir = getenv("DEVTAP_RECORD");
    _cleanup_free_ char *path = dir ? xasprintf("%s/%s", dir, name) : NULL;
    FILE *f = path ? fopen(path, "wb") : NULL;

    CHECK(f || !dir);
    return f;
}

static void record(FILE *f, uint8_t kind, uint8_t arg, const void *head, size_t head_len,
                   const void *bytes, size_t len)
{
    struct record_header h = {kind, arg, (uint16_t)(head_len + len)};

    fwrite(&h, sizeof(h), 1, f);
    if (head_len)
        fwrite(head, 1, head_len, f);
    if (len)
        fwrite(bytes, 1, len, f);
}

static uint8_t fd_kind(const struct peer *p, int fd)
{
    struct stat st;

    for (unsigned q = 0; q < TOY_QUEUES; q++) {
        if (fd == p->kick[q])
            return (uint8_t)(RECORD_FD_KICK + q);
        if (fd == p->call[q])
            return (uint8_t)(RECORD_FD_CALL + q);
    }
    CHECK(fstat(fd, &st) == 0);
    if (fd == p->mem_fd)
        return RECORD_FD_MEMORY;
    return S_ISSOCK(st.st_mode) ? RECORD_FD_SOCKET : RECORD_FD_REGION;
}

void record_message(FILE *f, const struct peer *p, const struct vhost_message *m)
{
    uint8_t head[] = {(uint8_t)m->header.request, (uint8_t)m->header.flags};
    uint8_t arg = (uint8_t)(m->nfds << 4);

    if (!f)
        return;
    if (m->nfds)
        arg |= fd_kind(p, m->fds[0]);
    record(f, RECORD_MESSAGE, arg, head, sizeof(head), m->raw, m->header.size);
}

void record_changes(FILE *f, const struct peer *p, uint8_t *shadow)
{
    const uint32_t block = 64;

    for (uint32_t at = 0; f && at < PEER_BUFFERS; at += block) {
        uint32_t end = at;

        while (end < PEER_BUFFERS && end - at < 4096 &&
               memcmp(p->mem + end, shadow + end, block) != 0)
            end += block;
        if (end == at)
            continue;
        record(f, RECORD_MEMORY, 0, &at, sizeof(at), p->mem + at, end - at);
        memcpy(shadow + at, p->mem + at, end - at);
        at = end - block;
    }
}

void record_plain(FILE *f, uint8_t kind, uint8_t arg)
{
    if (f)
        record(f, kind, arg, NULL, 0, NULL, 0);
}
