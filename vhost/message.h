/* SPDX-License-Identifier: MIT */
/*
 * message.h - the vhost-user protocol: its messages, and their way over a socket.
 *
 * Source: QEMU docs/interop/vhost-user.rst. Nothing in this folder knows what kind of device it is.
 */
#ifndef VHOST_MESSAGE_H
#define VHOST_MESSAGE_H

#include "loop/loop.h"
#include "ring/ring.h"

#define VHOST_MAX_QUEUES 256u
#define VHOST_MAX_FDS    8u
#define VHOST_MAX_CONFIG 256u
#define VHOST_VERSION    0x1u
#define VHOST_REPLY      0x4u
#define VHOST_NEED_REPLY 0x8u
/* Memory slots offered: constant, since a front end that reconnects refuses fewer than before,
 * and below MEMMAP_MAX_REGIONS, so that a tap has room for slots of its own in its rear. */
#define VHOST_MEM_SLOTS 509u
/* SET_VRING_KICK, _CALL, _ERR: the ring's index, and "no descriptor comes with this". */
#define VHOST_RING_INDEX_MASK 0xffu
#define VHOST_RING_NO_FD      0x100u
/* SET_VRING_ADDR: log writes to the used ring. */
#define VHOST_RING_F_LOG 0x1u
/* Bytes of SET_CONFIG and GET_CONFIG before the data. */
#define VHOST_CONFIG_HEADER 12u

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_LOG_BASE = 6,
    VHOST_SET_LOG_FD = 7,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SEND_RARP = 19,
    VHOST_NET_SET_MTU = 20,
    VHOST_SET_BACKEND_REQ_FD = 21,
    VHOST_IOTLB_MSG = 22,
    VHOST_SET_VRING_ENDIAN = 23,
    VHOST_GET_CONFIG = 24,
    VHOST_SET_CONFIG = 25,
    VHOST_CREATE_CRYPTO_SESSION = 26,
    VHOST_CLOSE_CRYPTO_SESSION = 27,
    VHOST_POSTCOPY_ADVISE = 28,
    VHOST_POSTCOPY_LISTEN = 29,
    VHOST_POSTCOPY_END = 30,
    VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32,
    VHOST_GPU_SET_SOCKET = 33,
    VHOST_RESET_DEVICE = 34,
    VHOST_VRING_KICK = 35,
    VHOST_GET_MAX_MEM_SLOTS = 36,
    VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38,
    VHOST_SET_STATUS = 39,
    VHOST_GET_STATUS = 40,
    VHOST_GET_SHARED_OBJECT = 41,
    VHOST_SET_DEVICE_STATE_FD = 42,
    VHOST_CHECK_DEVICE_STATE = 43,
    VHOST_REQUEST_END, /* one past the last that is known here */
};

/* What the back end asks of the front end, on the channel of SET_BACKEND_REQ_FD. */
enum vhost_backend_request {
    VHOST_BACKEND_IOTLB_MSG = 1,
    VHOST_BACKEND_CONFIG_CHANGE_MSG = 2,
};

/* What an IOTLB message says; rights are those of enum memmap_access. */
enum vhost_iotlb_type {
    VHOST_IOTLB_MISS = 1,       /* asks for a translation: back end to front end */
    VHOST_IOTLB_UPDATE = 2,     /* gives one */
    VHOST_IOTLB_INVALIDATE = 3, /* takes it away */
};

enum vhost_protocol_feature {
    VHOST_F_MQ = 0,
    VHOST_F_LOG_SHMFD = 1,
    VHOST_F_RARP = 2,
    VHOST_F_REPLY_ACK = 3,
    VHOST_F_MTU = 4,
    VHOST_F_BACKEND_REQ = 5,
    VHOST_F_CONFIG = 9,
    VHOST_F_INFLIGHT_SHMFD = 12,
    VHOST_F_RESET_DEVICE = 13,
    VHOST_F_CONFIGURE_MEM_SLOTS = 15,
    VHOST_F_STATUS = 16,
    VHOST_F_DEVICE_STATE = 19,
};
/* Virtio feature bit 30: protocol features exist. Bit 26: log dirty pages. */
#define VHOST_FEATURE_PROTOCOL 30
#define VHOST_FEATURE_LOG_ALL  26

struct vhost_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
} __attribute__((packed));

struct vhost_mem_region {
    uint64_t gpa, size, uva, offset;
};
/** struct vhost_iotlb - a translation: [@iova, @iova+@size) is the front end's address @uaddr. */
struct vhost_iotlb {
    uint64_t iova, size, uaddr;
    uint8_t access, type;
} __attribute__((aligned(8))); /* 32 bytes on the wire */
struct vhost_inflight {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
} __attribute__((aligned(8))); /* 24 bytes on the wire */

/** struct vhost_message - one message, payload by request. */
struct vhost_message {
    struct vhost_header header;
    union {
        uint64_t u64;
        struct {
            uint32_t index, num;
        } vring;
        struct {
            uint32_t index, flags;
            uint64_t desc, used, avail, log;
        } addr;
        struct {
            uint32_t count, padding;
            struct vhost_mem_region regions[8];
        } table;
        struct {
            uint64_t padding;
            struct vhost_mem_region region;
        } slot;
        struct {
            uint64_t size, offset;
        } log;
        struct {
            uint32_t offset, size, flags;
            uint8_t data[VHOST_MAX_CONFIG];
        } config;
        struct vhost_inflight inflight;
        struct vhost_iotlb iotlb;
        uint8_t raw[512];
    };
    int fds[VHOST_MAX_FDS];
    unsigned nfds;
};

/** vhost_request_name() - as the specification spells it, or "an unknown request". */
const char *vhost_request_name(uint32_t request);

/**
 * struct vhost_stream - reassembles messages from a non-blocking socket: a peer may send a
 * header in one piece and the payload in another, with file descriptors on either.
 * @sock:     the socket; stays the caller's.
 * @expect:   what the peer sends. Requests to a back end are checked against the table of sizes
 *            and descriptors; replies and the back end's own requests only for what they have in
 *            common, since what is right depends on what was asked.
 * @have:     bytes received of the message under way; 0 = at a message boundary.
 */
struct vhost_stream {
    int sock;
    enum vhost_expect { VHOST_EXPECT_REQUESTS, VHOST_EXPECT_REPLIES, VHOST_EXPECT_EVENTS } expect;
    size_t have;
    struct vhost_message message;
};
/**
 * vhost_stream_read() - receive what there is.
 * Return: 1 and a whole, size-checked message in @s->message (its fds now the caller's: take
 * or vhost_message_close_fds() them), 0 = not yet, -ECONNRESET at end of stream, -EPROTO with
 * @err naming the request and what is wrong with its version, size or number of fds, or saying
 * that the stream ended within a message; another -errno where the socket failed.
 *
 * A request whose number is not known here passes: whether it deserves an answer is for the
 * session to say.
 */
int vhost_stream_read(struct vhost_stream *s, struct dt_error *err);
void vhost_stream_reset(struct vhost_stream *s); /* closes fds that were received */
void vhost_message_close_fds(struct vhost_message *m);
/**
 * vhost_send() - send one message whole, with its fds (which stay the caller's).
 * @timeout_ms: how long to wait while the socket's buffer is full; 0 = not at all.
 * Return: 0, -ETIMEDOUT, or another -errno. After a failure the stream may have been cut within
 * a message: it is of no further use.
 */
int vhost_send(int sock, const struct vhost_message *m, int timeout_ms);
/** vhost_fd_is_eventfd() - is this descriptor an eventfd (the only kind taken for rings)? */
bool vhost_fd_is_eventfd(int fd);

#endif
