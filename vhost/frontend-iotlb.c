/* SPDX-License-Identifier: MIT */
/*
 * frontend-iotlb.c - the front end's part of a vIOMMU: translations given, taken away and asked for.
 */
#include "vhost/internal.h"

#include <inttypes.h>

int vhost_frontend_iotlb(struct vhost_frontend *f, const struct vhost_iotlb *change,
                         struct dt_error *err)
{
    struct vhost_message m = {
        .header = {.request = VHOST_IOTLB_MSG, .flags = VHOST_NEED_REPLY, .size = sizeof(m.iotlb)}};
    int rc;

    m.iotlb = *change;
    rc = frontend_query(f, &m, sizeof(m.u64), 0, err);
    if (rc == 0 && m.u64 != 0)
        return dt_fail(err, -EIO, "IOTLB_MSG: refused by the back end (%" PRIu64 ")", m.u64);
    return rc;
}

int vhost_frontend_miss(struct vhost_frontend *f, struct vhost_iotlb *miss)
{
    const struct vhost_message *m = &f->events.message;
    bool config_changed;

    CHECK_MAGIC(f, FRONTEND_MAGIC);
    while (f->events.sock >= 0) {
        int rc = vhost_stream_read(&f->events, NULL);

        if (rc <= 0)
            return rc;
        if (m->header.request == VHOST_BACKEND_IOTLB_MSG && m->header.size == sizeof(*miss) &&
            m->nfds == 0 && m->iotlb.type == VHOST_IOTLB_MISS) {
            *miss = m->iotlb;
            return 1;
        }
        rc = frontend_event(f, &config_changed);
        if (rc < 0)
            return rc;
    }
    return -ENOTCONN;
}
