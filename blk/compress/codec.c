/* SPDX-License-Identifier: MIT */
/* codec.c - units to frames and back, by libzstd. */
#include "blk/compress/internal.h"

#include <zstd.h>

struct compress_packer {
    ZSTD_CCtx *c;
    ZSTD_DCtx *d;
};

void compress_packer_free(struct compress_packer *p)
{
    if (!p)
        return;
    ZSTD_freeCCtx(p->c);
    ZSTD_freeDCtx(p->d);
    free(p);
}

struct compress_packer *compress_packer_new(void)
{
    struct compress_packer *p = xcalloc(1, sizeof(*p));

    p->c = ZSTD_createCCtx();
    p->d = ZSTD_createDCtx();
    if (p->c && p->d)
        return p;
    compress_packer_free(p);
    return NULL;
}

uint32_t compress_pack(struct compress_packer *p, const uint8_t *data, uint8_t *packed, int level)
{
    size_t n = ZSTD_compressCCtx(p->c, packed, COMPRESS_MAX_FRAME, data, COMPRESS_UNIT, level);

    return ZSTD_isError(n) ? 0 : (uint32_t)n;
}

bool compress_unpack(struct compress_packer *p, const uint8_t *packed, uint32_t length,
                     uint8_t *data)
{
    return ZSTD_decompressDCtx(p->d, data, COMPRESS_UNIT, packed, length) == COMPRESS_UNIT;
}
