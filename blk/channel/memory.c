/* SPDX-License-Identifier: MIT */
/*
 * memory.c - trust=memory: the process has the guest's memory, and requests say where in it their data lie.
 *
 * The rights of a shared file cannot be narrowed, so this is all of the memory, for a process that could write
 * whatever it was told; that it maps it for reading, where it only reads, guards against mistakes alone. Hence
 * only on a person's word, and an event each time.
 *
 * Regions change while no request of the guest's is in the chain. What lies elsewhere (a private copy that a layer
 * asked for, a bounce buffer) is copied as without trust.
 */
#include "blk/channel/internal.h"

static bool only_reads(const struct proxy *p)
{
    return p->w->ext.read_data == DT_DATA_NONE;
}

static json_t *region_json(const struct proxy *p, unsigned i, unsigned n,
                           const struct device_region *r)
{
    if (n == 0)
        return json_pack("{si si}", "region", 0, "regions", 0);
    return json_pack("{si si sI sI si}", "region", (int)i, "regions", (int)n, "size",
                     (json_int_t)r->size, "offset", (json_int_t)r->offset, "writable",
                     !only_reads(p));
}

static void report(const struct proxy *p)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < p->granted; i++)
        bytes += p->memory[i].size;
    if (p->granted)
        dt_layer_event(p->layer, "memory-granted",
                       "process %d of the extension can read and write all of the guest's memory, "
                       "%llu MiB in %u pieces%s",
                       (int)p->process.pid, (unsigned long long)(bytes >> 20), p->granted,
                       only_reads(p) ? "; it maps it to read" : "");
}

int proxy_send_memory(struct proxy *p, bool wait, struct dt_error *err)
{
    unsigned n;
    const struct device_region *memory = layer_memory(p->layer, &n);
    int ret = 0;

    p->memory = memory;
    p->granted = 0;
    if (!p->trust || n > CHANNEL_REGIONS)
        return 0;
    for (unsigned i = 0; i < MAX(n, 1u) && ret == 0; i++) {
        int fd = n ? memory[i].fd : -1;
        json_t *json = region_json(p, i, n, n ? &memory[i] : NULL);

        if (wait)
            ret = proxy_call_fd(p, CONTROL_MEMORY, json, fd, NULL, err);
        else
            ret = proxy_tell(p, CONTROL_MEMORY, json, fd, &p->memory_seq, err);
    }
    if (ret < 0)
        return ret;
    p->granted = n;
    report(p);
    return 0;
}

/* No request of the guest's is in the chain, and none comes before this returns. */
void proxy_memory_changed(struct dt_layer *layer)
{
    struct proxy *p = dt_layer_data(layer);
    struct dt_error err;
    int ret;

    p->granted = 0;
    if (p->state == PROXY_CLOSED || p->process.sock < 0)
        return; /* the next process will have it */
    ret = proxy_send_memory(p, true, &err);
    if (ret < 0)
        proxy_break(p, "%s", err.text);
}

/* Where in the guest's memory is this? */
static bool find(const struct proxy *p, const struct iovec *iov, struct channel_vector *v)
{
    for (unsigned i = 0; i < p->granted; i++) {
        uint64_t offset = (uintptr_t)iov->iov_base - (uintptr_t)p->memory[i].host;

        if (offset < p->memory[i].size && iov->iov_len <= p->memory[i].size - offset) {
            *v = (struct channel_vector){i, (uint32_t)iov->iov_len, offset};
            return true;
        }
    }
    return false;
}

unsigned proxy_vectors(const struct proxy *p, const struct iovec *iov, unsigned n,
                       struct channel_vector *list)
{
    if (n > CHANNEL_VECTORS)
        return 0;
    for (unsigned i = 0; i < n; i++)
        if (iov[i].iov_len > UINT32_MAX || !find(p, &iov[i], &list[i]))
            return 0;
    return n;
}
