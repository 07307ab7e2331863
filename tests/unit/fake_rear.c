/* SPDX-License-Identifier: MIT */
/* fake_rear.c - see fake_rear.h. */
#include "tests/unit/fake_rear.h"

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONNECT_MS 10

/* ---- The ring -------------------------------------------------------------------------------- */

struct walk {
    struct vring_desc desc[256];
    unsigned n;
};

static bool walk_chain(struct fake_rear *r, const struct fake_ring *q, uint16_t head,
                       struct walk *w)
{
    struct vring_desc *table = memmap_host(&r->memory, q->desc, 16ull * q->size);
    unsigned at = head;

    w->n = 0;
    if (!table)
        return false;
    if (table[head].flags & VRING_DESC_F_INDIRECT) {
        table = memmap_host(&r->memory, table[head].addr, table[head].len);
        at = 0;
    }
    while (table && w->n < ARRAY_SIZE(w->desc)) {
        w->desc[w->n++] = table[at];
        if (!(table[at].flags & VRING_DESC_F_NEXT))
            return true;
        at = table[at].next;
    }
    return false;
}

static uint8_t move_data(struct fake_rear *r, const struct walk *w, uint64_t sector, bool write)
{
    uint64_t at = sector * 512;

    for (unsigned i = 1; i + 1 < w->n; i++) {
        uint8_t *host = memmap_host(&r->memory, w->desc[i].addr, w->desc[i].len);

        if (!host || at + w->desc[i].len > sizeof(r->data))
            return VIRTIO_BLK_S_IOERR;
        memcpy(write ? r->data + at : host, write ? host : r->data + at, w->desc[i].len);
        at += w->desc[i].len;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t execute(struct fake_rear *r, const struct walk *w)
{
    const struct virtio_blk_outhdr *h = memmap_host(&r->memory, w->desc[0].addr, sizeof(*h));

    if (!h)
        return VIRTIO_BLK_S_IOERR;
    switch (h->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        return move_data(r, w, h->sector, h->type == VIRTIO_BLK_T_OUT);
    case VIRTIO_BLK_T_FLUSH:
        r->flushes++;
        return VIRTIO_BLK_S_OK;
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static void push(struct fake_rear *r, struct fake_ring *q, uint32_t id, uint32_t len, int lie)
{
    struct vring_used *used = memmap_host(&r->memory, q->used, 6 + 8ull * q->size);
    const struct vring_avail *avail = memmap_host(&r->memory, q->avail, 6 + 2ull * q->size);
    unsigned copies = lie == LIE_TWICE ? 2 : 1;
    const uint64_t one = 1;
    uint16_t idx;

    if (!used)
        return;
    idx = used->idx;
    id = lie == LIE_ID ? (id + 1) % q->size : lie == LIE_RANGE ? 70000 : id;
    len = lie == LIE_SHORT ? 1 : lie == LIE_LONG ? len + 1 : len;
    for (unsigned i = 0; i < copies; i++)
        used->ring[idx++ % q->size] = (struct vring_used_elem){.id = id, .len = len};
    if (lie == LIE_INDEX)
        idx = (uint16_t)(idx + 2 * q->size);
    if (r->mangle_used) {
        struct vring_used_elem *e = &used->ring[(uint16_t)(idx - 1) % q->size];
        uint32_t raw_id = e->id, raw_len = e->len;

        r->mangle_used(r, &raw_id, &raw_len, &idx);
        *e = (struct vring_used_elem){.id = raw_id, .len = raw_len};
    }
    __atomic_store_n(&used->idx, idx, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (avail && __atomic_load_n(&avail->flags, __ATOMIC_RELAXED) & VRING_AVAIL_F_NO_INTERRUPT)
        return;
    CHECK(q->call < 0 || write(q->call, &one, sizeof(one)) == sizeof(one));
}

static void serve_one(struct fake_rear *r, struct fake_ring *q, uint16_t head)
{
    int lie = __atomic_exchange_n(&r->lie, LIE_NONE, __ATOMIC_SEQ_CST);
    uint32_t written = 0;
    uint8_t *status, code;
    struct walk w;

    if (!walk_chain(r, q, head, &w))
        return;
    code = execute(r, &w);
    for (unsigned i = 0; i < w.n; i++)
        written += w.desc[i].flags & VRING_DESC_F_WRITE ? w.desc[i].len : 0;
    status = memmap_host(&r->memory, w.desc[w.n - 1].addr, 1);
    if (status && lie != LIE_UNSET)
        *status = lie == LIE_STATUS ? 7 : code;
    if (lie == LIE_HANG_UP) {
        shutdown(r->conn, SHUT_RDWR);
        return;
    }
    __atomic_add_fetch(&r->served, 1, __ATOMIC_RELAXED);
    push(r, q, head, written, lie);
}

/* A packet for the wire. */
static void take_frame(struct fake_rear *r, struct fake_ring *q, uint16_t head)
{
    int lie = __atomic_exchange_n(&r->lie, LIE_NONE, __ATOMIC_SEQ_CST);
    struct walk w;

    if (!walk_chain(r, q, head, &w))
        return;
    r->frame_bytes = 0;
    for (unsigned i = 0; i < w.n; i++) {
        const void *host = memmap_host(&r->memory, w.desc[i].addr, w.desc[i].len);

        if (!host || r->frame_bytes + w.desc[i].len > sizeof(r->frame))
            return;
        memcpy(r->frame + r->frame_bytes, host, w.desc[i].len);
        r->frame_bytes += w.desc[i].len;
    }
    push(r, q, head, 0, lie);
    __atomic_add_fetch(&r->served, 1, __ATOMIC_RELEASE);
    if (r->mangle_frame) {
        r->mangle_frame(r);
        fake_rear_send(r, r->frame, r->frame_bytes, UINT32_MAX);
    }
}

static bool next_head(struct fake_rear *r, struct fake_ring *q, uint16_t *head)
{
    struct vring_avail *avail = memmap_host(&r->memory, q->avail, 6 + 2ull * q->size);

    if (!avail || !q->enabled || q->next == __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE))
        return false;
    *head = avail->ring[q->next++ % q->size] % q->size;
    return true;
}

static void serve_ring(struct fake_rear *r)
{
    struct fake_ring *q = &r->rings[r->net];
    uint16_t head;

    while (!__atomic_load_n(&r->mute, __ATOMIC_RELAXED) && next_head(r, q, &head))
        r->net ? take_frame(r, q, head) : serve_one(r, q, head);
}

/* Entries of a packet are published one after the other; the specification forbids that, and who is wary bears it. */
bool fake_rear_send(struct fake_rear *r, const void *bytes, uint32_t n, uint32_t each)
{
    int lie = __atomic_exchange_n(&r->lie, LIE_NONE, __ATOMIC_SEQ_CST);
    struct fake_ring *q = &r->rings[0];
    uint16_t head;
    struct walk w;

    for (uint32_t done = 0; done < n;) {
        uint32_t length;
        void *host;

        if (!next_head(r, q, &head) || !walk_chain(r, q, head, &w))
            return false;
        length = MIN(MIN(w.desc[0].len, each), n - done);
        host = memmap_host(&r->memory, w.desc[0].addr, w.desc[0].len);
        if (!host)
            return false;
        memcpy(host, (const uint8_t *)bytes + done, length);
        done += length;
        push(r, q, head, lie == LIE_LONG ? w.desc[0].len : length, done < n ? LIE_NONE : lie);
    }
    return true;
}

/* ---- The protocol ---------------------------------------------------------------------------- */

static void take_fd(struct vhost_message *m, int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = m->nfds ? TAKE_FD(m->fds[0]) : -1;
}

static void add_region(struct fake_rear *r, const struct vhost_mem_region *at, int fd)
{
    struct dt_error err;

    if (memmap_add(&r->memory, at->gpa, at->uva, at->size, fd, at->offset, &err) < 0)
        log_debug("fake rear: %s", err.text);
}

/* Memory, rings: what needs no answer of its own. */
static void obey(struct fake_rear *r, struct vhost_message *m)
{
    struct fake_ring *q = &r->rings[m->vring.index & 1]; /* of those requests that have one */

    switch (m->header.request) {
    case VHOST_SET_MEM_TABLE:
        memmap_clear(&r->memory);
        for (unsigned i = 0; i < m->nfds; i++)
            add_region(r, &m->table.regions[i], m->fds[i]);
        break;
    case VHOST_ADD_MEM_REG:
        add_region(r, &m->slot.region, m->fds[0]);
        break;
    case VHOST_REM_MEM_REG:
        memmap_remove(&r->memory, m->slot.region.gpa, m->slot.region.uva, m->slot.region.size);
        break;
    case VHOST_SET_VRING_NUM:
        q->size = (uint16_t)m->vring.num;
        break;
    case VHOST_SET_VRING_ADDR: /* the tap uses guest addresses for both */
        q->desc = m->addr.desc;
        q->avail = m->addr.avail;
        q->used = m->addr.used;
        break;
    case VHOST_SET_VRING_BASE:
        q->next = (uint16_t)m->vring.num;
        break;
    case VHOST_SET_VRING_KICK:
        take_fd(m, &q->kick);
        break;
    case VHOST_SET_VRING_CALL:
        take_fd(m, &q->call);
        break;
    case VHOST_SET_VRING_ENABLE:
        q->enabled = m->vring.num;
        break;
    case VHOST_NET_SET_MTU:
        r->mtu = (uint16_t)m->u64;
        break;
    case VHOST_SET_BACKEND_REQ_FD:
        take_fd(m, &r->events);
        break;
    }
}

static bool answer(struct fake_rear *r, struct vhost_message *m)
{
    m->header.size = sizeof(m->u64);
    switch (m->header.request) {
    case VHOST_GET_FEATURES:
        m->u64 = r->features;
        return true;
    case VHOST_GET_PROTOCOL_FEATURES:
        m->u64 = r->protocol;
        return true;
    case VHOST_GET_QUEUE_NUM:
        m->u64 = 1;
        return true;
    case VHOST_GET_MAX_MEM_SLOTS:
        m->u64 = 32;
        return true;
    case VHOST_GET_CONFIG:
        m->header.size = VHOST_CONFIG_HEADER + m->config.size;
        memset(m->config.data, 0, sizeof(m->config.data));
        if (r->net)
            memcpy(m->config.data, &r->card, sizeof(r->card));
        else
            memcpy(m->config.data, &r->disk, sizeof(r->disk));
        r->asked = m->config.size;
        return true;
    case VHOST_GET_VRING_BASE:
        m->header.size = sizeof(m->vring);
        m->vring.num = r->rings[m->vring.index & 1].next;
        r->rings[m->vring.index & 1].enabled = false;
        return true;
    default:
        m->u64 = 0;
        return m->header.flags & VHOST_NEED_REPLY;
    }
}

static void on_message(struct fake_rear *r, struct vhost_message *m)
{
    obey(r, m);
    vhost_message_close_fds(m);
    if (!answer(r, m))
        return;
    m->header.flags = VHOST_VERSION | VHOST_REPLY;
    m->nfds = 0;
    if (!r->mangle || r->mangle(r, m))
        vhost_send(r->conn, m, 1000);
}

static void hang_up(struct fake_rear *r)
{
    close(r->conn);
    r->conn = -1;
    memmap_clear(&r->memory);
    for (unsigned i = 0; i < 5; i++) {
        struct fake_ring *q = &r->rings[i / 2 % 2];
        int *fd = i == 4 ? &r->events : i % 2 ? &q->call : &q->kick;

        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        q->enabled = false;
    }
}

static void wait_idle_for(struct fake_rear *r, struct pollfd *p, nfds_t n, int ms)
{
    pthread_mutex_unlock(&r->busy);
    poll(p, n, ms);
    pthread_mutex_lock(&r->busy);
}

static void wait_idle(struct fake_rear *r, struct pollfd *p, nfds_t n)
{
    wait_idle_for(r, p, n, -1);
}

static void serve_session(struct fake_rear *r)
{
    struct vhost_stream stream = {.sock = r->conn, .expect = VHOST_EXPECT_REQUESTS};
    uint64_t count;

    for (;;) {
        struct pollfd p[] = {{.fd = r->quit_fd, .events = POLLIN},
                             {.fd = r->conn, .events = POLLIN},
                             {.fd = r->rings[r->net].kick, .events = POLLIN}};
        int rc = 0;

        wait_idle(r, p, 3);
        if (p[0].revents)
            break;
        if (p[2].revents && read(r->rings[r->net].kick, &count, sizeof(count)) > 0)
            serve_ring(r);
        while (p[1].revents && (rc = vhost_stream_read(&stream, NULL)) > 0) {
            on_message(r, &stream.message);
            serve_ring(r);
        }
        if (rc < 0)
            break;
    }
    vhost_stream_reset(&stream);
    hang_up(r);
}

static int dial(const struct fake_rear *r)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(addr.sun_path, r->path);
    if (sock >= 0 && connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        close(TAKE_FD(sock));
    return sock;
}

static void *run(void *arg)
{
    struct fake_rear *r = arg;

    pthread_mutex_lock(&r->busy);
    for (;;) {
        struct pollfd p[] = {{.fd = r->quit_fd, .events = POLLIN},
                             {.fd = r->listen_fd, .events = POLLIN}};

        wait_idle_for(r, p, 2, r->connects ? CONNECT_MS : -1);
        if (p[0].revents)
            break;
        r->conn =
            r->connects ? dial(r) : accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (r->conn < 0)
            continue;
        __atomic_add_fetch(&r->sessions, 1, __ATOMIC_RELAXED);
        serve_session(r);
    }
    pthread_mutex_unlock(&r->busy);
    return NULL;
}

static int listen_there(const struct fake_rear *r)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    unlink(r->path);
    strcpy(addr.sun_path, r->path);
    CHECK(sock >= 0 && bind(sock, (void *)&addr, sizeof(addr)) == 0 && listen(sock, 8) == 0);
    return sock;
}

void fake_rear_start(struct fake_rear *r)
{
    if (!r->path[0])
        snprintf(r->path, sizeof(r->path), "/tmp/devtap-fake-rear.%d", getpid());
    r->listen_fd = r->connects ? -1 : listen_there(r);
    r->quit_fd = eventfd(0, EFD_CLOEXEC);
    r->conn = r->events = -1;
    for (unsigned i = 0; i < 2; i++)
        r->rings[i].kick = r->rings[i].call = -1;
    memmap_init(&r->memory);
    pthread_mutex_init(&r->busy, NULL);
    CHECK(pthread_create(&r->thread, NULL, run, r) == 0);
}

void fake_rear_settle(struct fake_rear *r)
{
    pthread_mutex_lock(&r->busy);
    pthread_mutex_unlock(&r->busy);
}

void fake_rear_stop(struct fake_rear *r)
{
    const uint64_t one = 1;

    CHECK(write(r->quit_fd, &one, sizeof(one)) == sizeof(one));
    pthread_join(r->thread, NULL);
    free(r->memory.regions);
    close(r->quit_fd);
    if (r->connects)
        return;
    close(r->listen_fd);
    unlink(r->path);
}

static bool tell(struct fake_rear *r)
{
    struct vhost_message m = {
        .header = {.request = VHOST_BACKEND_CONFIG_CHANGE_MSG, .flags = VHOST_VERSION}};

    return r->events >= 0 && vhost_send(r->events, &m, 1000) == 0;
}

void fake_rear_resize(struct fake_rear *r, uint64_t sectors)
{
    pthread_mutex_lock(&r->busy);
    r->disk.capacity = sectors;
    CHECK(tell(r));
    pthread_mutex_unlock(&r->busy);
}

bool fake_rear_say(struct fake_rear *r, const struct virtio_net_config *card)
{
    bool heard;

    pthread_mutex_lock(&r->busy);
    r->card = *card;
    heard = tell(r);
    pthread_mutex_unlock(&r->busy);
    return heard;
}
