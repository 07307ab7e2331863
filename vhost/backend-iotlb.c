/* SPDX-License-Identifier: MIT */
/*
 * backend-iotlb.c - a vIOMMU's translations: what the front end says of them, and what it is asked.
 *
 * The front end asks for an answer to each change, and its VMM stands still until it comes. An answer to an
 * INVALIDATE says that nobody uses the memory any more, so the session reads no further message until
 * the device has said so. Misses go out on the back end's own channel, where nobody waits for anything.
 * A front end that cannot translate an address does not answer a miss at all.
 *
 * Sources: QEMU docs/interop/vhost-user.rst, "IOMMU support"; linux/vhost_types.h.
 */
#include "vhost/internal.h"

#include <inttypes.h>

static const char *why_not(const struct vhost_backend *s, const struct vhost_iotlb *change)
{
    if (!(s->state->features & BIT(VIRTIO_F_ACCESS_PLATFORM)) || !s->config.ops->iotlb)
        return "ACCESS_PLATFORM was not acknowledged";
    if (change->type == VHOST_IOTLB_INVALIDATE)
        return NULL;
    if (change->type != VHOST_IOTLB_UPDATE)
        return "neither an update nor an invalidation";
    if (change->size == 0 || change->size - 1 > UINT64_MAX - change->iova ||
        change->size - 1 > UINT64_MAX - change->uaddr)
        return "an empty range, or one that wraps around";
    if (change->access == 0 || change->access > (MEMMAP_READ | MEMMAP_WRITE))
        return "a right that does not exist";
    return NULL;
}

/* An answer is due whatever it said, so nothing is refused in the way of other requests. */
int check_iotlb(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    const char *why = why_not(s, &m->iotlb);

    s->translated = why ? -EINVAL : 0;
    if (why) {
        log_limited(DT_LOG_WARNING,
                    "%s: IOTLB_MSG of type %u for 0x%" PRIx64 " bytes at 0x%" PRIx64
                    ": refused: %s",
                    s->name, m->iotlb.type, m->iotlb.size, m->iotlb.iova, why);
        return 0;
    }
    s->translating = true;
    s->config.ops->iotlb(s->config.dev, &m->iotlb);
    return 0;
}

void vhost_backend_iotlb_done(struct vhost_backend *s, int result)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    CHECK(s->translating);
    s->translating = false;
    s->translated = result;
    if (result < 0)
        log_limited(DT_LOG_WARNING, "%s: IOTLB_MSG: refused: %s", s->name,
                    result == -EFAULT ? "it leads outside the guest's memory" : strerror(-result));
    loop_defer(s->config.loop, &s->advance);
}

int answer_iotlb(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    m->u64 = s->translated < 0;
    m->header.size = sizeof(m->u64);
    return 0;
}

int vhost_backend_iotlb_miss(struct vhost_backend *s, uint64_t iova, unsigned access)
{
    struct vhost_message m = {.header = {.request = VHOST_BACKEND_IOTLB_MSG,
                                         .flags = VHOST_VERSION,
                                         .size = sizeof(m.iotlb)}};
    int rc;

    CHECK_MAGIC(s, BACKEND_MAGIC);
    m.iotlb.iova = iova;
    m.iotlb.access = (uint8_t)access;
    m.iotlb.type = VHOST_IOTLB_MISS;
    if (s->events < 0 || !(s->state->protocol_features & BIT(VHOST_F_BACKEND_REQ)))
        return -ENOTSUP;
    rc = vhost_send(s->events, &m, 0);
    if (rc < 0)
        close_fd(&s->events);
    return rc;
}
