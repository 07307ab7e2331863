/* SPDX-License-Identifier: MIT */
/*
 * frames.c - see frames.h.
 *
 * libpcap reads the file, whole, before the process is confined: so nobody waits for a disk while packets are
 * due, and a loop costs nothing. What it says of lengths and times is judged here.
 */
#include "net/pcap/frames.h"

#include <pcap/pcap.h>

#define LEAST_FRAME   14u
#define LARGEST_FRAME 65600u

/* Grows by half, so that all copies together cost as much as two. */
static void *grow(void *list, uint64_t used, uint64_t *room, uint64_t need, size_t size)
{
    if (need <= *room)
        return list;
    *room = MAX(need, *room + *room / 2);
    list = reallocarray(list, *room, size);
    CHECK(list || used == 0);
    return list;
}

struct load {
    struct frames *f;
    uint64_t list_room, bytes_room, first, last;
};

static void add(struct load *l, uint64_t when, const uint8_t *data, uint32_t length)
{
    struct frames *f = l->f;

    f->list = grow(f->list, f->n, &l->list_room, f->n + 1, sizeof(*f->list));
    f->bytes = grow(f->bytes, f->used, &l->bytes_room, f->used + length, 1);
    if (f->n == 0)
        l->first = l->last = when;
    l->last = MAX(l->last, when); /* captures of several processors go back at times */
    f->list[f->n++] =
        (struct frame_at){.when = l->last - l->first, .offset = f->used, .length = length};
    memcpy(f->bytes + f->used, data, length);
    f->used += length;
    f->longest = MAX(f->longest, length);
}

static int read_all(struct load *l, pcap_t *pcap, uint64_t memory, struct dt_error *err)
{
    struct frames *f = l->f;
    struct pcap_pkthdr *h;
    const uint8_t *data;
    int ret;

    while ((ret = pcap_next_ex(pcap, &h, &data)) == 1) {
        if (h->caplen != h->len || h->caplen < LEAST_FRAME || h->caplen > LARGEST_FRAME ||
            h->ts.tv_sec < 0) {
            f->skipped++;
            continue;
        }
        if (f->used + h->caplen + (f->n + 1) * sizeof(*f->list) > memory)
            return dt_fail(err, -EFBIG, "its frames take more than the %llu bytes of memory=",
                           (unsigned long long)memory);
        add(l, (uint64_t)h->ts.tv_sec * DT_S(1) + (uint64_t)h->ts.tv_usec, data, h->caplen);
    }
    if (ret == PCAP_ERROR)
        return dt_fail(err, -EBADMSG, "after %llu frames: %s",
                       (unsigned long long)(f->n + f->skipped), pcap_geterr(pcap));
    if (f->n == 0)
        return dt_fail(err, -EINVAL, "there is no whole Ethernet frame in it");
    return 0;
}

int frames_load(struct frames *f, FILE *file, uint64_t memory, struct dt_error *err)
{
    char why[PCAP_ERRBUF_SIZE] = "";
    pcap_t *pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, why);
    struct load load = {.f = f};
    int ret;

    *f = (struct frames){0};
    if (!pcap) {
        fclose(file);
        return dt_fail(err, -EBADMSG, "%s", why);
    }
    if (pcap_datalink(pcap) != DLT_EN10MB)
        ret = dt_fail(err, -EINVAL, "its frames are not of Ethernet, but of link type %d",
                      pcap_datalink(pcap));
    else
        ret = read_all(&load, pcap, memory, err);
    pcap_close(pcap);
    if (ret < 0)
        frames_free(f);
    return ret;
}

void frames_free(struct frames *f)
{
    free(f->list);
    free(f->bytes);
    *f = (struct frames){0};
}
