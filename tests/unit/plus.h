/* SPDX-License-Identifier: MIT */
/* plus.h - callbacks of a layer that transforms: what is below is what is above, plus one in every byte. */
#ifndef PLUS_H
#define PLUS_H

#include <devtap/block.h>

static void plus_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct iovec *from;
        unsigned from_n;
        uint8_t *to;

        if (!dt_req_has_data(reqs[i]))
            continue;
        to = dt_req_transform(c, reqs[i], &from, &from_n);
        if (reqs[i]->op == DT_OP_READ)
            continue;
        dt_iov_read(from, from_n, 0, to, dt_req_bytes(reqs[i]));
        for (size_t k = 0; k < dt_req_bytes(reqs[i]); k++)
            to[k]++;
    }
    dt_forward(c, reqs, n);
}

static void plus_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct iovec *to;
        unsigned to_n;
        uint8_t *from;

        if (!dt_req_has_data(reqs[i]))
            continue;
        from = dt_req_restore(c, reqs[i], &to, &to_n);
        if (reqs[i]->op == DT_OP_WRITE)
            continue;
        for (size_t k = 0; k < dt_req_bytes(reqs[i]); k++)
            from[k]--;
        dt_iov_write(to, to_n, 0, from, dt_req_bytes(reqs[i]));
    }
    dt_complete(c, reqs, n);
}

#endif
