/* SPDX-License-Identifier: MIT */
/* pcapng.c - see pcapng.h. */
#include "net/capture/pcapng.h"

#include <stdio.h>
#include <sys/stat.h>

#define ETHERNET  1u
#define BYTES_MAX (16u << 20) /* of a block, in files of others too */

enum { OPT_END = 0, IF_NAME = 2, IF_DESCRIPTION = 3, IF_TSRESOL = 9, USER_APPLICATION = 4 };
enum { PACKET_FLAGS = 2, PACKET_DROPCOUNT = 4 };
enum { INBOUND = 1, OUTBOUND = 2 };

static void put16(uint8_t **to, uint16_t v)
{
    memcpy(*to, &v, sizeof(v));
    *to += sizeof(v);
}

static void put32(uint8_t **to, uint32_t v)
{
    memcpy(*to, &v, sizeof(v));
    *to += sizeof(v);
}

static void put_option(uint8_t **to, uint16_t code, const void *value, uint16_t length)
{
    put16(to, code);
    put16(to, length);
    memset(*to, 0, ALIGN_UP(length, 4u));
    if (length)
        memcpy(*to, value, length);
    *to += ALIGN_UP(length, 4u);
}

static void put_text(uint8_t **to, uint16_t code, const char *text)
{
    put_option(to, code, text, (uint16_t)strnlen(text, 128));
}

/* The length of a block stands in it twice. */
static void end_block(uint8_t *begin, uint8_t **to)
{
    uint32_t length = (uint32_t)(*to + 4 - begin);

    memcpy(begin + 4, &length, sizeof(length));
    put32(to, length);
}

size_t pcapng_header(uint8_t to[PCAPNG_HEADER_MAX], const char *device, const char *layer,
                     uint32_t snaplen)
{
    uint8_t *at = to, *begin = to;
    const uint8_t nanoseconds = 9;

    put32(&at, PCAPNG_SECTION);
    put32(&at, 0);
    put32(&at, 0x1a2b3c4d);
    put16(&at, 1);
    put16(&at, 0);
    put32(&at, 0xffffffff); /* a section of unknown length */
    put32(&at, 0xffffffff);
    put_text(&at, USER_APPLICATION, "devtap " DEVTAP_VERSION);
    put_option(&at, OPT_END, NULL, 0);
    end_block(begin, &at);
    begin = at;
    put32(&at, PCAPNG_INTERFACE);
    put32(&at, 0);
    put16(&at, ETHERNET);
    put16(&at, 0);
    put32(&at, snaplen);
    put_text(&at, IF_NAME, device);
    put_text(&at, IF_DESCRIPTION, layer);
    put_option(&at, IF_TSRESOL, &nanoseconds, 1);
    put_option(&at, OPT_END, NULL, 0);
    end_block(begin, &at);
    return (size_t)(at - to);
}

static uint32_t block_length(const struct pcapng_frame *f)
{
    return PCAPNG_FRONT + ALIGN_UP(f->captured, 4u) + 8 + (f->dropped ? 12 : 0) + 4 + 4;
}

uint32_t pcapng_front(uint8_t to[PCAPNG_FRONT], const struct pcapng_frame *f)
{
    put32(&to, PCAPNG_PACKET);
    put32(&to, block_length(f));
    put32(&to, 0);
    put32(&to, (uint32_t)(f->time >> 32));
    put32(&to, (uint32_t)f->time);
    put32(&to, f->captured);
    put32(&to, f->length);
    return block_length(f);
}

uint32_t pcapng_back(uint8_t to[PCAPNG_AROUND], const struct pcapng_frame *f)
{
    uint32_t padding = ALIGN_UP(f->captured, 4u) - f->captured;
    uint32_t flags = f->outbound ? OUTBOUND : INBOUND;
    uint8_t *at = to + padding;

    memset(to, 0, padding);
    put_option(&at, PACKET_FLAGS, &flags, sizeof(flags));
    if (f->dropped)
        put_option(&at, PACKET_DROPCOUNT, &f->dropped, sizeof(f->dropped));
    put_option(&at, OPT_END, NULL, 0);
    put32(&at, block_length(f));
    return (uint32_t)(at - to);
}

/* ---- What a process that died left ---- */

int64_t pcapng_whole(int fd)
{
    uint64_t at = 0;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    while (at + 12 <= (uint64_t)st.st_size) {
        uint32_t begin[2], end;

        if (pread(fd, begin, sizeof(begin), (off_t)at) != sizeof(begin))
            return -EIO;
        if (at == 0 && begin[0] != PCAPNG_SECTION)
            return -EBADMSG;
        if (begin[1] < 12 || begin[1] % 4 || begin[1] > BYTES_MAX ||
            at + begin[1] > (uint64_t)st.st_size)
            break;
        if (pread(fd, &end, sizeof(end), (off_t)(at + begin[1] - 4)) != sizeof(end))
            return -EIO;
        if (end != begin[1])
            break;
        at += begin[1];
    }
    return at || !st.st_size ? (int64_t)at : -EBADMSG;
}
