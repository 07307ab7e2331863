/* SPDX-License-Identifier: MIT */
/* luks2-disk.c - the two copies of a LUKS2 header as they lie on the disk. All numbers are big-endian. */
#include "blk/crypt/luks2.h"

#include <endian.h>
#include <openssl/evp.h>

/* LUKS2 On-Disk Format Specification, 2.1. */
struct binary {
    char magic[6];
    uint16_t version;
    uint64_t size, sequence;
    char label[48], checksum[32];
    uint8_t salt[64];
    char uuid[40], subsystem[48];
    uint64_t offset;
    uint8_t padding[184];
    uint8_t sum[64];
    uint8_t rest[7 * 512];
} __attribute__((packed));
_Static_assert(sizeof(struct binary) == LUKS2_BINARY, "as the specification has it");

static const char magics[2][6] = {{'L', 'U', 'K', 'S', '\xba', '\xbe'},
                                  {'S', 'K', 'U', 'L', '\xba', '\xbe'}};

/* Of a whole copy whose own sum is zero. */
static bool hash(const uint8_t *bytes, uint64_t size, uint8_t *sum)
{
    return EVP_Digest(bytes, size, sum, NULL, EVP_sha256(), NULL) == 1;
}

static bool is_whole(const uint8_t *bytes, uint64_t size, unsigned copy)
{
    const struct binary *b = (const void *)bytes;
    uint8_t sum[LUKS2_HASH], *again;
    bool whole;

    if (memcmp(b->magic, magics[copy], sizeof(b->magic)) != 0 || be16toh(b->version) != 2 ||
        be64toh(b->size) != size || be64toh(b->offset) != copy * size ||
        strncmp(b->checksum, "sha256", sizeof(b->checksum)) != 0)
        return false;
    again = xcalloc(1, size);
    memcpy(again, bytes, size);
    memset(((struct binary *)(void *)again)->sum, 0, sizeof(b->sum));
    whole = hash(again, size, sum) && memcmp(sum, b->sum, sizeof(sum)) == 0;
    free(again);
    return whole;
}

static json_t *text_in(const uint8_t *bytes, uint64_t size)
{
    const char *text = (const char *)bytes + LUKS2_BINARY;
    json_t *json = json_loadb(text, strnlen(text, size - LUKS2_BINARY), 0, NULL);

    if (json && !json_is_object(json)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

int luks2_read(struct luks2 *l, const uint8_t *bytes, uint64_t size, struct dt_error *err)
{
    int best = -1;

    *l = (struct luks2){.size = size};
    for (int copy = 0; copy < 2; copy++) {
        const uint8_t *at = bytes + copy * size;
        uint64_t sequence = be64toh(((const struct binary *)(const void *)at)->sequence);
        json_t *json = is_whole(at, size, (unsigned)copy) ? text_in(at, size) : NULL;

        if (!json || (best >= 0 && sequence <= l->sequence)) {
            json_decref(json);
            continue;
        }
        json_decref(l->json);
        l->json = json;
        l->sequence = sequence;
        best = copy;
    }
    if (best < 0)
        return dt_fail(err, -EBADMSG, "neither copy of the header is whole");
    for (int copy = 0; copy < 2; copy++)
        memcpy(l->binary[copy], bytes + best * size, LUKS2_BINARY);
    return 0;
}

void luks2_free(struct luks2 *l)
{
    json_decref(l->json);
    l->json = NULL;
}

int luks2_write(const struct luks2 *l, unsigned copy, uint8_t *bytes)
{
    struct binary *b = (void *)bytes;
    size_t room = l->size - LUKS2_BINARY - 1, n;

    memset(bytes, 0, l->size);
    memcpy(bytes, l->binary[copy], LUKS2_BINARY);
    n = json_dumpb(l->json, (char *)bytes + LUKS2_BINARY, room, JSON_COMPACT);
    if (n == 0 || n > room)
        return -E2BIG;
    memcpy(b->magic, magics[copy], sizeof(b->magic));
    b->sequence = htobe64(l->sequence);
    b->offset = htobe64(copy * l->size);
    memset(b->sum, 0, sizeof(b->sum));
    return hash(bytes, l->size, b->sum) ? 0 : -EIO;
}
