/* SPDX-License-Identifier: MIT */
/* format.h - what a pool looks like on its store: devtap-pool(5). */
#ifndef PARALLAX_FORMAT_H
#define PARALLAX_FORMAT_H

#include "base/base.h"

#define PX_BLOCK        4096u
#define PX_BLOCK_SHIFT  12u
#define PX_FANOUT       256u
#define PX_FAN_SHIFT    8u
#define PX_MAX_LEVELS   6u
#define PX_VERSION      1u /* of the label */
#define PX_ROOT_VERSION 5u /* and all versions before it can be read */
#define PX_ROOT_REOPEN  5u /* whose journal goes on in another generation */
#define PX_ROOT_BRANCH  4u /* the first with branches */
#define PX_ROOT_SHARES  3u /* the first with features */
#define PX_ROOT_PLAIN   2u /* of a pool without features and without branches */
#define PX_NAME         64u
#define PX_MAX_SIZE     ((uint64_t)64 << 40) /* of a disk */

/* Fixed places, in blocks. */
#define PX_LABEL_AT      0u
#define PX_ROOT_AT       1u
#define PX_ROOT_SLOTS    4u
#define PX_HOLDER_AT     9u
#define PX_LABEL_COPY_AT 10u
#define PX_JOURNAL_AT    16u
#define PX_JOURNAL_MIN   16u
#define PX_JOURNAL_MAX   16384u
#define PX_MIN_BLOCKS    256u
#define PX_MAX_BLOCKS    ((uint64_t)1 << 40)
#define PX_GROUP_SHIFT   15u /* blocks that one block of free map covers */
#define PX_GROUP_BLOCKS  (1u << PX_GROUP_SHIFT)
#define PX_GROUP_WORDS   (PX_GROUP_BLOCKS / 64)

/** struct px_ptr - a pointer to a block: address, birth, flags, CRC. See the accessors. */
struct px_ptr {
    uint64_t lo, hi;
};

/* In memory only: the block is dirty and its CRC is not known yet. */
#define PX_PTR_PENDING 0x8000u
/* In memory only, of what forward_follow_marked() found: other pointers lead to the block, too. */
#define PX_PTR_MERGED 0x4000u
/* Of a pointer to data in a pool that shares blocks: its life. */
#define PX_PTR_LIFE 0xfu
#define PX_LIVES    16u
/* CRC of a pointer to a node that could not be read when the journal was replayed, and lacks what that said since: it is not to be
 * followed, even if it could be read again. */
#define PX_LOST_CRC 0x7473306cu /* "l0st" */

static inline uint64_t ptr_addr(struct px_ptr p)
{
    return p.lo & ((1ull << 40) - 1);
}
static inline uint64_t ptr_birth(struct px_ptr p)
{
    return p.lo >> 40 | (p.hi & 0xffff) << 24;
}
static inline uint32_t ptr_flags(struct px_ptr p)
{
    return (uint32_t)(p.hi >> 16) & 0xffff;
}
static inline unsigned ptr_life(struct px_ptr p)
{
    return ptr_flags(p) & PX_PTR_LIFE;
}
static inline uint32_t ptr_crc(struct px_ptr p)
{
    return (uint32_t)(p.hi >> 32);
}
static inline bool ptr_hole(struct px_ptr p)
{
    return ptr_addr(p) == 0;
}
static inline struct px_ptr ptr_make(uint64_t addr, uint64_t birth, uint32_t flags, uint32_t crc)
{
    return (struct px_ptr){addr | birth << 40,
                           (birth >> 24 & 0xffff) | (uint64_t)flags << 16 | (uint64_t)crc << 32};
}
static inline bool ptr_same(struct px_ptr a, struct px_ptr b)
{
    return ptr_addr(a) == ptr_addr(b) && ptr_life(a) == ptr_life(b);
}

struct px_label {
    char magic[8];
    uint32_t version, crc;
    uint8_t uuid[16];
    uint64_t created;
    uint64_t journal_blocks;
    uint8_t reserved[4048];
};
_Static_assert(sizeof(struct px_label) == PX_BLOCK, "");

struct px_root {
    char magic[8];
    uint32_t version, crc;
    uint8_t uuid[16];
    uint64_t seq;
    uint64_t generation;
    uint64_t journal_seq;
    uint64_t blocks;
    uint64_t used;
    uint64_t slots;
    struct px_ptr catalog, spacemap;
    uint8_t catalog_levels, spacemap_levels;
    uint16_t features; /* what follows is of version 3 */
    uint8_t forward_levels, share;
    uint16_t branched; /* of version 4: histories may have branches */
    struct px_ptr forwards;
    uint64_t shared, share_rate, relived;
    uint64_t preallocated; /* of all versions */
    uint8_t preallocation; /* likewise */
    uint8_t reserved[7];
    uint64_t next_generation; /* of version 5, and so is what follows */
    uint32_t closed_blocks;   /* of the journal's first generation, and... */
    uint16_t closed_bytes;    /* ...of records in the last of them */
    uint8_t reserved2[3906];
};
_Static_assert(sizeof(struct px_root) == PX_BLOCK, "");
_Static_assert(offsetof(struct px_root, next_generation) == 176, "");

enum px_feature { PX_SHARED = 1, PX_FEATURES = PX_SHARED };
enum px_share { PX_SHARE_OFF, PX_SHARE_ON, PX_SHARE_WRITES, PX_SHARES };
enum px_preallocation { PX_THIN, PX_FALLOC, PX_FULL, PX_PREALLOCATIONS };

/** struct px_forward - where pointers to an address with one life lead. Of life 0: also how many others lead
 * to the block there, and which lives are forwarded. See the accessors. */
struct px_forward {
    uint64_t where, refs;
};
#define PX_FORWARDS     (PX_BLOCK / sizeof(struct px_forward))
#define PX_FORWARD_KEPT ((uint64_t)1 << 41)
#define PX_FORWARD_LIVE 48 /* bits of @where below those of the lives */

static inline uint64_t forward_target(struct px_forward f)
{
    return f.where & (((uint64_t)1 << 40) - 1);
}
static inline uint32_t forward_lives(struct px_forward f)
{
    return (uint32_t)(f.where >> PX_FORWARD_LIVE);
}

enum px_kind { PX_FREE, PX_DISK, PX_SNAPSHOT, PX_LOG };
enum px_policy { PX_HOLD, PX_FAIL, PX_DROP_OLDEST, PX_POLICIES };
enum px_record_flags {
    PX_LABELLED = 1,
    PX_DYING = 2,
    PX_HEADLESS = 4,
    PX_SCHEDULED = 8,
    PX_HIDDEN = 16,
    PX_BRANCH = 32,
    PX_RECORD_FLAGS = 63
};

/** struct px_rule - of snapshots up to @age seconds old, keep one in @every seconds; 0: all. */
struct px_rule {
    uint32_t age, every;
};
#define PX_RULES 4u

struct px_record {
    uint32_t kind, flags;
    uint8_t uuid[16];
    uint64_t size;
    struct px_ptr root;
    union {
        struct {
            uint64_t epoch, since, origin_epoch;
        };
        struct { /* of a log */
            uint64_t floor, first, next;
        };
    };
    uint32_t parent, prev;
    uint64_t created;
    uint64_t cursor;
    uint32_t sector;
    uint8_t levels;
    uint8_t policy;
    uint16_t weight;
    uint64_t quota, charged; /* in blocks */
    uint32_t every, rules;
    char name[PX_NAME];
    union {
        struct px_rule rule[PX_RULES];
        struct { /* of a log, in blocks of data that were replaced; @counted: up to this entry */
            uint64_t most, held, counted, recent;
        };
    };
    uint64_t writes;    /* of a disk that is being received: how far it got, in bytes */
    uint32_t log;       /* the slot of its history, plus 1 */
    uint32_t past_keep; /* seconds */
    uint64_t
        damaged; /* a node that could not be read when the journal was replayed: nothing is written any more */
    uint64_t begun; /* of a log: when write @floor was */
};
_Static_assert(sizeof(struct px_record) == 256, "");
#define PX_RECORDS (PX_BLOCK / sizeof(struct px_record))

#define PX_JOURNAL_MAGIC 0x6e6a5850u /* "PXjn" */
struct px_journal {
    uint32_t magic, crc;
    uint64_t generation, seq, flushed;
    uint32_t used;
    uint32_t previous; /* CRC of the block before, as it was last */
    uint32_t reserved[2];
    uint8_t records[4048];
};
_Static_assert(sizeof(struct px_journal) == PX_BLOCK, "");

enum px_entry_type { PX_WRITE = 1, PX_ZERO = 2, PX_CHANGE = 3, PX_STAMP = 4 };
struct px_entry {
    uint16_t type, length;
    uint32_t slot;
};
struct px_write {
    struct px_entry head;
    uint64_t index, addr;
    uint32_t count, reserved;
    uint32_t crc[];
};
struct px_zero {
    struct px_entry head;
    uint64_t index, count;
};

#define PX_OWNER 32u
struct px_stamp {
    struct px_entry head;
    uint64_t time;
    char owner[PX_OWNER];
};

enum px_change_op {
    PX_CREATE = 1,
    PX_SNAP,
    PX_CLONE,
    PX_LABEL,
    PX_UNLABEL,
    PX_RENAME,
    PX_RESIZE,
    PX_DELETE,
    PX_ROLLBACK,
    PX_QUOTA,
    PX_WEIGHT,
    PX_SCHEDULE,
    PX_STAGE = 32,
    PX_PROGRESS,
    PX_ADOPT,
    PX_HISTORY,
};
struct px_change {
    struct px_entry head;
    uint32_t op, slot2;
    uint64_t count, size, time;
    uint32_t sector;
    uint32_t hidden; /* of a snapshot */
    uint8_t uuid[16];
    char name[PX_NAME];
};
_Static_assert(sizeof(struct px_change) == 128, "");
_Static_assert(sizeof(((struct px_record *)0)->rule) <= PX_NAME, "");

#define PX_PAST_MAGIC   0x61705850u /* "PXpa" */
#define PX_PAST_ENTRIES 84u
#define PX_PAST_AT      7 /* bits of an entry within its page, in @counted */
/** struct px_past_entry - what was at a place before write @number. @where: index and level. A hole at a level above 0:
 * all of the disk was replaced at once, and a snapshot has what was there. */
struct px_past_entry {
    uint64_t number, time, where;
    struct px_ptr old;
    uint64_t since;
};
#define PX_PAST_LEVEL 56 /* bits of @where below the level */

/** struct px_past - a page of a disk's history. */
struct px_past {
    uint32_t magic, used;
    uint64_t page;
    char owner[PX_OWNER];
    uint8_t reserved[16];
    struct px_past_entry entries[PX_PAST_ENTRIES];
};
_Static_assert(sizeof(struct px_past) == PX_BLOCK, "");

/** crc32c() - of @size bytes; @crc is that of what came before, 0 at the start. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t size);

#endif
