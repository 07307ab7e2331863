/* SPDX-License-Identifier: MIT */
/*
 * backend-memory.c - guest memory and the dirty log, changed while nothing uses them.
 *
 * Rings hold addresses into mappings. So before a region goes, the rings that lie in it are
 * stopped, and the start rule brings them back when memory covers them again (QEMU removes a
 * region before it adds its successor). Where a region goes in which no ring lies, requests
 * under way may still point into it: all rings are drained. So they are for a region more and for
 * the log, since requests that complete meanwhile would look both up: a page that they
 * dirtied without a mark would be missing after a migration.
 */
#include "vhost/internal.h"

#include <inttypes.h>

/* ---- Regions ---- */

static int map_region(struct vhost_backend *s, const struct vhost_mem_region *r, int fd,
                      struct dt_error *err)
{
    struct vhost_state *state = s->state;
    int rc;

    if (state->region_count >= MEMMAP_MAX_REGIONS)
        return dt_fail(err, -ENOSPC, "more than %u memory regions", MEMMAP_MAX_REGIONS);
    rc = memmap_add(&s->memory, r->gpa, r->uva, r->size, fd, r->offset, err);
    if (rc < 0)
        return rc;
    rc = backend_keep_file(s, &s->region_files[state->region_count], fd, err);
    if (rc < 0) {
        memmap_remove(&s->memory, r->gpa, r->uva, r->size);
        return rc;
    }
    state->region_uses[state->region_count] = 1;
    state->regions[state->region_count++] = *r;
    return 0;
}

int check_set_mem_table(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    uint32_t count = m->table.count;

    if (count > ARRAY_SIZE(m->table.regions) ||
        m->header.size < 8 + count * sizeof(m->table.regions[0]) || m->nfds != count)
        return dt_fail(err, -EINVAL,
                       "SET_MEM_TABLE: %u regions in %u bytes with %u descriptors do not fit",
                       count, m->header.size, m->nfds);
    backend_stop_queues(s);
    return 0;
}

static void forget_memory(struct vhost_backend *s)
{
    memmap_clear(&s->memory);
    backend_forget_regions(s);
    s->state->region_count = 0;
}

int set_mem_table(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    forget_memory(s);
    for (uint32_t i = 0; i < m->table.count; i++) {
        int rc = map_region(s, &m->table.regions[i], m->fds[i], err);

        if (rc < 0) {
            dt_fail_prefix(err, "SET_MEM_TABLE: region %u", i);
            forget_memory(s);
            return rc;
        }
    }
    return 0;
}

int get_max_mem_slots(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    m->u64 = VHOST_MEM_SLOTS;
    m->header.size = sizeof(m->u64);
    return 0;
}

/* A region is known by all but its offset in the file. */
static bool same_region(const struct vhost_mem_region *a, const struct vhost_mem_region *b)
{
    return a->gpa == b->gpa && a->uva == b->uva && a->size == b->size;
}

static struct vhost_mem_region *find_region(struct vhost_backend *s,
                                            const struct vhost_mem_region *region)
{
    for (uint32_t i = 0; i < s->state->region_count; i++)
        if (same_region(&s->state->regions[i], region))
            return &s->state->regions[i];
    return NULL;
}

/*
 * QEMU before 8.0 sends what it does with regions once for each queue pair of a network card: a region that is added
 * again is there already, and goes when it was removed as often.
 */
static uint32_t *uses(struct vhost_backend *s, const struct vhost_mem_region *region)
{
    const struct vhost_mem_region *known = find_region(s, region);

    return known ? &s->state->region_uses[known - s->state->regions] : NULL;
}

int check_add_mem_reg(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    if (!uses(s, &m->slot.region))
        backend_pause(s, true);
    return 0;
}

int add_mem_reg(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    uint32_t *again = uses(s, &m->slot.region);
    int rc;

    if (again && *again < UINT32_MAX &&
        find_region(s, &m->slot.region)->offset == m->slot.region.offset) {
        ++*again;
        return 0;
    }
    rc = map_region(s, &m->slot.region, m->fds[0], err);
    if (rc < 0)
        dt_fail_prefix(err, "ADD_MEM_REG");
    return rc;
}

static bool any_ring_within(const struct vhost_backend *s, const struct vhost_mem_region *r)
{
    for (unsigned q = 0; q < s->config.queues; q++) {
        const struct vhost_queue_state *v = &s->state->queues[q];

        /* Where a vIOMMU put a ring is not known here. */
        if (v->started && s->state->features & BIT(VIRTIO_F_ACCESS_PLATFORM))
            return true;
        if (v->started && (v->desc - r->uva < r->size || v->avail - r->uva < r->size ||
                           v->used - r->uva < r->size))
            return true;
    }
    return false;
}

int check_rem_mem_reg(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    const struct vhost_mem_region *r = &m->slot.region;

    if (!find_region(s, r))
        return dt_fail(err, -ENOENT, "REM_MEM_REG: no region of 0x%" PRIx64 " bytes at 0x%" PRIx64,
                       r->size, r->gpa);
    if (*uses(s, r) > 1)
        return 0;
    if (any_ring_within(s, r))
        backend_stop_queues(s);
    else
        backend_pause(s, true);
    return 0;
}

int rem_mem_reg(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    struct vhost_mem_region *r = find_region(s, &m->slot.region);
    struct vhost_state *state = s->state;
    struct vhost_file *file = &s->region_files[r - state->regions];
    struct vhost_file *last = &s->region_files[state->region_count - 1];

    if (--*uses(s, r) > 0)
        return 0;
    CHECK(memmap_remove(&s->memory, r->gpa, r->uva, r->size) == 0);
    backend_forget_file(s, file);
    state->region_count--;
    state->region_uses[r - state->regions] = state->region_uses[state->region_count];
    *r = state->regions[state->region_count];
    if (file != last) {
        *file = *last;
        last->fd = -1;
    }
    return 0;
}

/* ---- Dirty log ---- */

int check_set_log_base(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    if (m->nfds != 1 || m->header.size != sizeof(m->log) ||
        !(s->state->protocol_features & BIT(VHOST_F_LOG_SHMFD)))
        return dt_fail(err, -EINVAL,
                       "SET_LOG_BASE: %u bytes with %u descriptors, LOG_SHMFD %sacknowledged",
                       m->header.size, m->nfds,
                       s->state->protocol_features & BIT(VHOST_F_LOG_SHMFD) ? "" : "not ");
    backend_pause(s, true);
    return 0;
}

int set_log_base(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    int rc;

    memmap_clear(&s->log_map);
    s->dirty = (struct dirtylog){0};
    backend_forget_file(s, &s->log_file);
    rc = memmap_add(&s->log_map, 0, 0, m->log.size, m->fds[0], m->log.offset, err);
    if (rc == 0)
        rc = backend_keep_file(s, &s->log_file, m->fds[0], err);
    if (rc < 0) {
        memmap_clear(&s->log_map);
        dt_fail_prefix(err, "SET_LOG_BASE");
        return rc;
    }
    s->dirty.bits = memmap_host(&s->log_map, 0, m->log.size);
    s->dirty.size = m->log.size;
    s->state->log_size = m->log.size;
    s->state->log_offset = m->log.offset;
    m->header.size = 0; /* QEMU waits for an empty reply */
    return 0;
}

/* It may be signalled when the log changed; nobody waits for that. Its descriptor is closed. */
int set_log_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    return 0;
}
