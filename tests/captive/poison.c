/* SPDX-License-Identifier: MIT */
/* poison.c - dies of a request that touches one sector, or hangs or leaks, as a layer with a bug would. */
#include <devtap/block.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct poison {
    uint64_t sector;
    bool hang, leak;
};

static const struct dt_param params[] = {
    {.name = "sector",
     .type = DT_PARAM_UINT,
     .initial = "8",
     .offset = offsetof(struct poison, sector),
     .help = "Die of a write to this sector."},
    {.name = "hang",
     .type = DT_PARAM_BOOL,
     .initial = "off",
     .offset = offsetof(struct poison, hang),
     .help = "Hang instead of dying."},
    {.name = "leak",
     .type = DT_PARAM_BOOL,
     .initial = "off",
     .offset = offsetof(struct poison, leak),
     .help = "Take memory until there is none instead of dying."},
    {NULL},
};

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    const struct poison *p = c->layer_data;

    if (req->op != DT_OP_WRITE || req->sector > p->sector ||
        p->sector >= req->sector + req->sectors)
        return DT_PASS;
    for (char *more; p->leak && (more = malloc(1 << 20)) != NULL;)
        memset(more, 1, 1 << 20);
    if (!p->hang)
        abort();
    for (;;)
        sleep(1);
}

static const struct dt_block_ext poison = {
    DT_BLOCK_EXT_HEADER,   .name = "poison", .summary = "dies of a write to one sector",
    .flags = DT_PER_QUEUE, .params = params, .layer_size = sizeof(struct poison),
    .request = request,
};
DT_BLOCK_EXTENSION(poison)
