/* SPDX-License-Identifier: MIT */
/* pcapng.h - the blocks of a pcapng file that capture writes (draft-ietf-opsawg-pcapng), all little-endian. */
#ifndef NET_CAPTURE_PCAPNG_H
#define NET_CAPTURE_PCAPNG_H

#include "base/base.h"

#define PCAPNG_SECTION   0x0a0d0d0au
#define PCAPNG_INTERFACE 1u
#define PCAPNG_PACKET    6u

/* The largest header: a section and an interface with names. */
#define PCAPNG_HEADER_MAX 1024u
/* What surrounds the data of a packet, at most: the block's fields and its options. */
#define PCAPNG_AROUND 64u
#define PCAPNG_FRONT  28u /* of which so much stands before the data */

/** pcapng_header() - a section and its one interface, into @to; returns the bytes. */
size_t pcapng_header(uint8_t to[PCAPNG_HEADER_MAX], const char *device, const char *layer,
                     uint32_t snaplen);
/**
 * struct pcapng_frame - one packet.
 * @time: ns since 1970. @dropped: packets that are missing before it.
 */
struct pcapng_frame {
    uint64_t time, dropped;
    uint32_t captured, length;
    bool outbound;
};
/** pcapng_front() - what stands before the data; returns the length of the whole block. */
uint32_t pcapng_front(uint8_t to[PCAPNG_FRONT], const struct pcapng_frame *frame);
/** pcapng_back() - padding, options, length: what stands behind the data; returns its bytes. */
uint32_t pcapng_back(uint8_t to[PCAPNG_AROUND], const struct pcapng_frame *frame);
/**
 * pcapng_whole() - how many bytes at the beginning of the file are whole blocks.
 * Return: -EBADMSG if it does not begin with a section, or -errno.
 */
int64_t pcapng_whole(int fd);

#endif
