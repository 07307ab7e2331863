/* SPDX-License-Identifier: MIT */
/*
 * card.c - what the guest sees of the card: features (virtio 1.2, 5.1.3); and its rings' comings and goings.
 *
 * The device configuration space (MAC address, link status, queue pairs) and the control queue are the VMM's: over
 * vhost-user they never reach a back end, which is told of the queues it is to serve by enabling
 * their rings. So nothing here believes a guest about its address. Some VMMs, and taps, read a space of ours (protocol feature
 * CONFIG), and give the guest of it what they see fit: the link, the largest packet, and how many queues there are. It has no
 * address: that has to stay the guest's for its life, and a back's may be another tomorrow.
 */
#include "net/vhost-user/internal.h"

#include "front/mode.h"
#include "net/virtio/offloads.h"

#define BIT(n) (1ull << (n))

/* ---- What is offered, and what was chosen ---- */

static void card_init(struct front *front, const struct front_config *config)
{
    struct card_front *card = CARD(front);
    const struct dt_net_info *info = device_net_info(front->dev);

    front->offered = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_ANY_LAYOUT) |
                     BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                     BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |
                     BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_MTU) |
                     BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);
    if (front->packed)
        front->offered |= BIT(VIRTIO_F_RING_PACKED);
    /* Core does what the guest does not. */
    front->offered |= virtio_offload_features(info->offloads, DT_OFFLOAD_ALL);
    front->offered |= BIT(VIRTIO_NET_F_GUEST_ECN);
    if (config->config_space) {
        card->config_space = true;
        front->protocol_features |= BIT(VHOST_F_CONFIG);
        front->offered |= BIT(VIRTIO_NET_F_STATUS);
    }
    if (info->offloads & DT_OFFLOAD_TSO4)
        front->offered |= BIT(VIRTIO_NET_F_HOST_ECN);
    card->rings = xcalloc(front->nqueues, sizeof(*card->rings));
    card->lanes = xcalloc(front->nlanes, sizeof(*card->lanes));
    for (unsigned t = 0; t < front->nlanes; t++)
        card_lane_init(&card->lanes[t]);
}

static void card_fini(struct front *front)
{
    struct card_front *card = CARD(front);

    for (unsigned t = 0; t < front->nlanes; t++)
        card_lane_drop_backlog(&card->lanes[t], device_lane(front->dev, t)); /* of lost rings */
    free(card->lanes);
    free(card->rings);
}

static uint64_t card_features(void *front)
{
    return ((struct front *)front)->offered;
}

static int card_set_features(void *dev, uint64_t features, struct dt_error *err)
{
    struct front *front = dev;
    struct card_front *card = CARD(front);

    front->features = features;
    card->allowed = virtio_offloads_of(features, false);
    card->takes = virtio_offloads_of(features, true);
    if (!(card->takes & DT_OFFLOAD_CSUM)) /* super-frames stand on it (5.1.3.1) */
        card->takes = 0;
    card->mergeable = features & BIT(VIRTIO_NET_F_MRG_RXBUF);
    card->ecn = features & BIT(VIRTIO_NET_F_GUEST_ECN);
    card->header = card->mergeable || features & BIT(VIRTIO_F_VERSION_1)
                       ? sizeof(struct dt_vnet_header)
                       : offsetof(struct dt_vnet_header, num_buffers);
    return 0;
}

static int card_set_mtu(void *dev, uint16_t mtu)
{
    return mtu <= device_net_info(((struct front *)dev)->dev)->mtu ? 0 : -EINVAL;
}

static void fill_config(struct front *front, uint8_t space[VHOST_MAX_CONFIG])
{
    const struct dt_net_info *info = device_net_info(front->dev);
    struct virtio_net_config config = {.mtu = info->mtu};

    if (CARD(front)->config_space) {
        config.status = info->link == DT_LINK_DOWN ? 0 : VIRTIO_NET_S_LINK_UP;
        config.max_virtqueue_pairs = (uint16_t)(front->nqueues / 2);
    }
    memset(space, 0, VHOST_MAX_CONFIG);
    memcpy(space, &config, sizeof(config));
}

static int card_get_config(void *dev, void *buf, uint32_t offset, uint32_t len)
{
    uint8_t space[VHOST_MAX_CONFIG];

    if (offset > sizeof(space) || len > sizeof(space) - offset)
        return -EINVAL;
    fill_config(dev, space);
    memcpy(buf, space + offset, len);
    return 0;
}

static int card_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len)
{
    return -EINVAL;
}

/* The keeper judges NET_SET_MTU by it, whether a VMM reads it or not. */
static void card_floor(struct front *front, struct link_floor *floor)
{
    fill_config(front, floor->config);
    if (CARD(front)->config_space)
        memset(floor->writable + offsetof(struct virtio_net_config, status), LINK_CONFIG_LIVE,
               sizeof(uint16_t));
}

/* The rear has none of our rings while it has the guest's: it gets the packet with them, in a moment. */
static void card_send_rarp(void *front, const uint8_t mac[6])
{
    front_mode_leave(front, true);
    card_announce(front, mac);
}

/* ---- Rings ---- */

static void count_pairs(struct front_lane *fl)
{
    struct card_lane *cl = card_lane(fl);
    struct front *front = fl->front;
    unsigned ring = 0;

    cl->pairs = 0;
    for (unsigned i = 0; i < front->nqueues; i++) {
        const struct front_queue *q = &front->queues[i];

        if (q->lane != fl || !card_serves(q))
            continue;
        if (!IS_RX(q))
            ring = ring ? MIN(ring, q->vq.config.size) : q->vq.config.size;
        else if (cl->pairs++ == 0)
            cl->first = i / 2;
    }
    net_set_ring(fl->lane, ring);
    card_set_room(fl);
}

static void ring_opened(struct front_queue *q)
{
    net_guest_takes(q->lane->lane, CARD(q->front)->takes);
    count_pairs(q->lane);
}

static void ring_closed(struct front_queue *q)
{
    if (IS_RX(q))
        card_rx_release(q);
    if (IS_RX(q) && q->state == QUEUE_STOPPING)
        card_lane_drop_backlog(card_lane(q->lane), q->lane->lane);
    count_pairs(q->lane);
}

/* Buffers wait for packets, and these may never come. */
static bool ahead(const struct front_queue *q)
{
    return IS_RX(q);
}

static unsigned poll_ring(struct loop_poller *poller)
{
    struct front_queue *q = container_of(poller, struct front_queue, poller);

    return IS_RX(q) ? card_rx_poll(q) : card_tx_poll(q);
}

/* The spin time is over. Receive rings ask for a kick only while a packet waits for one. */
static bool arm_ring(struct loop_poller *poller)
{
    struct front_queue *q = container_of(poller, struct front_queue, poller);

    if (q->blocked || (IS_RX(q) && !card_rx_wanted(q)))
        return true;
    return virtq_arm(&q->vq);
}

static void wake(struct lane *lane)
{
    if (!lane_front(lane))
        return;
    front_wake(lane);
    net_resume(lane);
}

/* Guests that run keep what they were told, but of the link. */
static void info_changed(void *arg)
{
    struct front *front = arg;

    if (!CARD(front)->config_space)
        return;
    if (front->remote)
        vhost_remote_config_changed(front->remote);
    else if (front->session)
        vhost_session_notify_config(front->session);
}

static void show(struct front *front, json_t *show)
{
    static const char *const names[CARD_DROPS] = {[DROP_BACKLOG] = "no_buffer",
                                                  [DROP_TOO_BIG] = "too_big",
                                                  [DROP_HEADER] = "bad_header",
                                                  [DROP_LENGTH] = "bad_length"};
    json_t *dropped = json_object();

    for (unsigned i = 0; i < CARD_DROPS; i++) {
        uint64_t sum = 0;

        for (unsigned t = 0; t < front->nlanes; t++)
            sum += CARD(front)->lanes[t].drops[i];
        json_object_set_new(dropped, names[i], json_integer((json_int_t)sum));
    }
    json_object_set_new(show, "dropped", dropped);
}

/* Offloads, and the size of headers, follow from the features. */
static void card_hand_over(struct front *front, struct passthrough *p)
{
}

static const struct front_ops device_ops = {
    .wake = wake,
    .info_changed = info_changed,
    .set_passthrough = front_set_passthrough,
    .receive = card_receive,
    .sent = card_sent,
    .fetch = card_fetch,
    .pieces = card_pieces,
};

const struct front_class card_front = {
    .size = sizeof(struct card_front),
    .slot_size = sizeof(struct card_slot),
    .rings_per_queue = 2,
    .tail = true,
    .translates = true,
    .uses = card_uses,
    .ahead = ahead,
    .let_go = card_let_go,
    .protocol_features = BIT(VHOST_F_MQ) | BIT(VHOST_F_LOG_SHMFD) | BIT(VHOST_F_RARP) |
                         BIT(VHOST_F_REPLY_ACK) | BIT(VHOST_F_MTU) | BIT(VHOST_F_BACKEND_REQ) |
                         BIT(VHOST_F_RESET_DEVICE) | BIT(VHOST_F_CONFIGURE_MEM_SLOTS) |
                         BIT(VHOST_F_STATUS),
    .device_ops = &device_ops,
    .features = card_features,
    .set_features = card_set_features,
    .get_config = card_get_config,
    .set_config = card_set_config,
    .send_rarp = card_send_rarp,
    .set_mtu = card_set_mtu,
    .init = card_init,
    .fini = card_fini,
    .floor = card_floor,
    .poll = poll_ring,
    .arm = arm_ring,
    .ring_opened = ring_opened,
    .ring_closed = ring_closed,
    .hand_over = card_hand_over,
    .show = show,
};
