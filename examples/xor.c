/* SPDX-License-Identifier: MIT */
/*
 * xor.c - a worked example that changes data: each byte is stored as byte XOR key. It hides nothing
 * from anybody; it shows how an extension that encrypts, say, would handle the guest's data.
 *
 *     cc -shared -fPIC $(pkg-config --cflags devtap) -o xor.so xor.c
 *     devtap run --disk vm1 --socket vm1.sock './xor.so key=42 | file path=vm1.img'
 */
#include <devtap/block.h>

struct xor { uint64_t key; };

static const struct dt_param params[] = {
    {.name = "key",
     .type = DT_PARAM_UINT,
     .initial = "90",
     .min = 1,
     .max = 255,
     .offset = offsetof(struct xor, key),
     .help = "The byte that every byte is combined with."},
    {NULL},
};

static void scramble(uint8_t *bytes, size_t n, uint64_t key)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] ^= (uint8_t)key;
}

/* Down: from here on, the layers below see a private buffer instead of the guest's memory. Never
 * scramble in place: the guest may be reading or writing that memory at this very moment. */
static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    const struct xor *x = c->layer_data;
    const struct iovec *guest;
    unsigned n;

    if (req->op == DT_OP_WRITE_ZEROES) { /* zeroes below would not be zeroes above: see info() */
        req->error = -EOPNOTSUPP;
        return DT_DONE;
    }
    if (dt_req_has_data(req)) {
        uint8_t *below = dt_req_transform(c, req, &guest, &n);

        if (req->op == DT_OP_WRITE) {
            dt_iov_read(guest, n, 0, below, dt_req_bytes(req));
            scramble(below, dt_req_bytes(req), x->key);
        }
    }
    return DT_PASS;
}

/* Up: the guest's buffer comes back, and what was read goes into it last, in the clear. */
static enum dt_verdict response(struct dt_ctx *c, struct dt_req *req)
{
    const struct xor *x = c->layer_data;
    const struct iovec *guest;
    unsigned n;

    if (dt_req_has_data(req)) {
        uint8_t *below = dt_req_restore(c, req, &guest, &n);

        if (req->op == DT_OP_READ && req->error == 0) {
            scramble(below, dt_req_bytes(req), x->key);
            dt_iov_write(guest, n, 0, below, dt_req_bytes(req));
        }
    }
    return DT_PASS;
}

/* What the disk is, on the way up from the back: tell the guest not to ask for zeroes. */
static int info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->can_write_zeroes = false;
    return 0;
}

static const struct dt_block_ext xor_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "xor",
    .summary = "Store every byte combined with a key (a worked example)",
    .flags = DT_PER_QUEUE | DT_CONTENT_BEARING, /* without it, the guest would read nonsense */
    .read_data = DT_DATA_TRANSFORM,
    .write_data = DT_DATA_TRANSFORM,
    .params = params,
    .layer_size = sizeof(struct xor),
    .info = info,
    .request = request,
    .response = response,
};
DT_BLOCK_EXTENSION(xor_ext)
