/* SPDX-License-Identifier: MIT */
/*
 * fuzz_channel_worker.c - a hostile extension: arbitrary messages, indices and control frames reach
 * the proxy. Whatever comes, every request of the guest completes exactly once, what lies below
 * sees requests within the disk only, and nothing outside of the channel's memory is touched.
 */
#include "blk/channel/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define REQUESTS 8u

static struct device *dev;

/* ---- A process that there is not: the input speaks for it, and an eventfd tells that it was killed ---- */

static int peer = -1;

static void say(uint32_t type, uint32_t seq, const char *text)
{
    control_send(peer, type, seq, text, NULL, 0);
}

static int start_idle(char *const *argv, int sock, uint64_t mem_limit, pid_t *pid)
{
    if (peer >= 0)
        close(peer);
    peer = fcntl(sock, F_DUPFD_CLOEXEC, 3);
    say(CONTROL_HELLO, 0, "{\"name\":\"any\"}");
    say(CONTROL_ANSWER, 1, "{}");
    if (dev) /* a restart asks both at once */
        say(CONTROL_ANSWER, 2, "{}");
    *pid = 1;
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static int reap_idle(int pidfd, siginfo_t *info)
{
    info->si_code = CLD_KILLED;
    info->si_status = SIGKILL;
    return 0;
}

static int kill_idle(int pidfd)
{
    return eventfd_write(pidfd, 1) < 0 ? -errno : 0;
}

static const struct placed_spawner spawner = {start_idle, kill_idle, reap_idle};
static const struct placed_config config = {.spawner = &spawner};

/* ---- A chain around the proxy ---- */

static void any(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    abort(); /* runs in its process, which there is not */
}

static const struct dt_block_ext any_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "any",
    .summary = "any",
    .sub_requests = 4,
    .submit = any,
    .complete = any,
    .read_data = DT_DATA_TRANSFORM,
    .write_data = DT_DATA_TRANSFORM,
    .flags = DT_CONTENT_BEARING,
};

static int back_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = 2048;
    return 0;
}

static void back_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct iovec *iov;

        CHECK(reqs[i]->op < DT_OP_COUNT && reqs[i]->sector <= 2048 &&
              reqs[i]->sectors <= 2048 - reqs[i]->sector);
        if (dt_req_has_data(reqs[i])) {
            unsigned k = dt_req_map(c, reqs[i], &iov);

            CHECK(dt_iov_length(iov, k) == dt_req_bytes(reqs[i]));
            if (reqs[i]->op == DT_OP_READ)
                dt_iov_fill(iov, k, 0, 7, dt_req_bytes(reqs[i]));
        }
        reqs[i]->error = 0;
    }
    dt_complete(c, reqs, n);
}

static const struct dt_block_ext back = {
    DT_BLOCK_EXT_HEADER,        .name = "back",        .summary = "back",
    .flags = DT_BACK,           .info = back_info,     .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK, .submit = back_submit,
};

static struct slot_of_guest {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov;
    uint8_t data[4096];
    bool busy;
} CACHE_ALIGNED guest[REQUESTS];

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct slot_of_guest *g = container_of(reqs[i], struct slot_of_guest, req);

        CHECK(g->busy);
        g->busy = false;
    }
}

static void on_wake(struct lane *lane)
{
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};
static struct loop *loop;
static struct link *link_0; /* of the one thread there is */

static void set_up(void)
{
    struct chain_spec spec;
    struct dt_error err;

    log_set_level(DT_LOG_ERROR);
    CHECK(registry_add(&any_ext, &err) == 0 && registry_add(&back, &err) == 0);
    placed_init(&config);
    CHECK(loop_new(&loop, &(struct loop_config){.engine = LOOP_EPOLL}, &err) == 0);
    CHECK(chain_parse(&spec, "any place=process tries=1000000 | back", &err) == 0);
    CHECK(device_new(
              &dev,
              &(struct device_config){.name = "f", .chain = &spec, .loops = &loop, .threads = 1},
              &err) == 0);
    chain_spec_free(&spec);
    say(CONTROL_ANSWER, 2, "{}");
    CHECK(device_start(dev, &front, NULL, &err) == 0);
    link_0 = ((struct proxy *)dt_layer_data(device_layer(dev, 1)))->links[0];
}

static void submit(unsigned i)
{
    struct slot_of_guest *g = &guest[i];
    struct request *r = &g->req;

    if (g->busy)
        return;
    g->busy = true;
    g->iov = (struct iovec){g->data, sizeof(g->data)};
    r->pub = (struct dt_req){
        .op = (uint8_t)(i % 3), .sector = i % 3 == 2 ? 0 : 8 * i, .sectors = i % 3 == 2 ? 0 : 8};
    r->iov = &g->iov;
    r->niov = i % 3 == 2 ? 0 : 1;
    lane_submit(device_lane(dev, 0), &r, 1);
}

/* Until a process serves, and the loop has nothing else to do. */
static void settle(void)
{
    do {
        loop_turn(loop, !link_is_up(link_0));
    } while (!link_is_up(link_0) || loop_turn(loop, false));
}

/* As a sound process would, so that the next input begins with none in flight. */
static void answer_one(void)
{
    uint32_t head = link_0->map.header->up.head, id = 0;

    while (link_0->slots[id].state != SLOT_SENT && link_0->slots[id].state != SLOT_RETURNED)
        id++;
    link_0->map.up[head % link_0->map.entries] =
        (struct channel_msg){.kind = CHANNEL_DONE, .id = id};
    __atomic_store_n(&link_0->map.header->up.head, head + 1, __ATOMIC_RELEASE);
    loop_poller_wake(loop, &link_0->poller);
    settle();
}

/* The input: a byte that moves the index, and a message, again and again; the rest is a frame. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const size_t step = 1 + sizeof(struct channel_msg);

    if (!dev)
        set_up();
    settle();
    for (unsigned i = 0; i < REQUESTS; i++)
        submit(i);
    for (; size >= step && link_is_up(link_0); bytes += step, size -= step) {
        uint32_t head = link_0->map.header->up.head;

        memcpy(&link_0->map.up[head % link_0->map.entries], bytes + 1, sizeof(struct channel_msg));
        head += bytes[0] < 250 ? 1 : (uint32_t)(int8_t)bytes[0];
        __atomic_store_n(&link_0->map.header->up.head, head, __ATOMIC_RELEASE);
        loop_poller_wake(loop, &link_0->poller);
        while (loop_turn(loop, false))
            ;
    }
    if (size && link_is_up(link_0)) {
        send(peer, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        say(bytes[0] % 13, size > 1 ? bytes[1] : 0, size > 2 ? "{\"info\":{\"sectors\":-1}}" : "[");
    }
    settle();
    while (link_0->in_slots)
        answer_one();
    return 0;
}
