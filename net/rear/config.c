/* SPDX-License-Identifier: MIT */
/*
 * config.c - what a rear with a configuration space says of the card (virtio 1.2, 5.1.4).
 *
 * Few rears have one: over vhost-user the space that the guest sees is the VMM's. Those that do know of the wire what nobody else
 * tells: its largest packet, whether it is up, and which address they take for the card's.
 *
 * Read at each connection, and when the rear says that it changed. It is a stranger's: what cannot be ends the session; what
 * merely makes no sense to the guest is left out, with a line in the log.
 */
#include "net/rear/internal.h"

#include "base/bytes.h"
#include <endian.h>

#define LEAST_MTU 68u /* virtio 1.2, 5.1.4.1 */
#define END_OF(field) \
    (offsetof(struct virtio_net_config, field) + sizeof(((struct virtio_net_config *)0)->field))

/* Bytes that hold all which it says it has, and no more: a space may end there. */
static uint32_t bytes_of(const struct rear_session *s)
{
    const bool pairs = s->features & REAR_BIT(VIRTIO_NET_F_MQ);

    if (!(s->protocol & REAR_BIT(VHOST_F_CONFIG)))
        return 0;
    if (s->features & REAR_BIT(VIRTIO_NET_F_MTU))
        return END_OF(mtu);
    if (s->features & CARD_TELLING && pairs)
        return END_OF(max_virtqueue_pairs);
    if (s->features & REAR_BIT(VIRTIO_NET_F_STATUS))
        return END_OF(status);
    return s->features & REAR_BIT(VIRTIO_NET_F_MAC) ? END_OF(mac) : 0;
}

/* GET_QUEUE_NUM counts what the rear can serve; this, what the device behind it has. */
static int judge_pairs(struct rear *rear, unsigned pairs, struct dt_error *err)
{
    unsigned threads = dt_layer_threads(rear->layer);

    if (pairs < 1 || pairs > VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX)
        return dt_fail(err, -EPROTO, "the back end says that it has %u pairs of queues", pairs);
    if (pairs < threads)
        return dt_fail(err, -EINVAL,
                       "the back end's card has %u pairs of queues, fewer than the device's %u "
                       "threads",
                       pairs, threads);
    rear->queues = MIN(rear->queues, pairs);
    return 0;
}

/* The guest knows ours. One that shrinks while it serves drops what is longer, as an interface of the host would. */
static int judge_mtu(struct card_rear *cr, unsigned mtu, bool again, bool begun,
                     struct dt_error *err)
{
    if (mtu < LEAST_MTU)
        return dt_fail(err, -EPROTO,
                       "the back end says that its largest packet has %u bytes, fewer than any "
                       "card's (%u)",
                       mtu, LEAST_MTU);
    if (!again)
        cr->mtu = card_rear_mtu(cr, (uint16_t)mtu);
    if (mtu >= cr->mtu)
        return 0;
    if (again && !begun)
        return dt_fail(err, -EINVAL,
                       "the back end takes packets of %u bytes at most, and the guest was told %u",
                       mtu, cr->mtu);
    if (!begun)
        return dt_fail(err, -EINVAL,
                       "the back end takes packets of %u bytes at most, and the card has %u: say "
                       "mtu=%u",
                       mtu, cr->mtu, mtu);
    if (mtu != cr->told.mtu)
        dt_layer_event(cr->rear.layer, "rear-mtu",
                       "%s takes packets of %u bytes at most from now on, and the guest was told "
                       "%u",
                       cr->rear.path, mtu, cr->mtu);
    return 0;
}

static void take_mac(const struct card_rear *cr, struct card_told *told, const uint8_t mac[6])
{
    char text[MAC_TEXT];

    if (mac[0] & 1 || mac_is_zero(mac))
        log_limited(DT_LOG_WARNING,
                    "%s: %s says that the card's address is %s, which no card has: ignored",
                    dt_layer_device(cr->rear.layer), cr->rear.path, mac_text(text, mac));
    else
        memcpy(told->mac, mac, sizeof(told->mac));
}

/* As its features say: what they do not name is not looked at. */
static int judge(struct card_rear *cr, const struct rear_session *s,
                 const struct virtio_net_config *config, bool again, struct card_told *told,
                 struct dt_error *err)
{
    unsigned mtu = le16toh(config->mtu);
    int ret = 0;

    if (s->features & REAR_BIT(VIRTIO_NET_F_MQ))
        ret = judge_pairs(&cr->rear, le16toh(config->max_virtqueue_pairs), err);
    if (ret == 0 && s->features & REAR_BIT(VIRTIO_NET_F_MTU)) {
        ret = judge_mtu(cr, mtu, again, rear_session_begun(s), err);
        told->mtu = (uint16_t)mtu;
    }
    if (s->features & REAR_BIT(VIRTIO_NET_F_MAC))
        take_mac(cr, told, config->mac);
    if (s->features & REAR_BIT(VIRTIO_NET_F_STATUS))
        told->link = le16toh(config->status) & VIRTIO_NET_S_LINK_UP ? DT_LINK_UP : DT_LINK_DOWN;
    return ret;
}

int card_rear_learn(struct card_rear *cr, struct rear_session *s, bool again, struct dt_error *err)
{
    struct virtio_net_config config = {0};
    struct card_told told = {0};
    uint32_t bytes = bytes_of(s);
    int ret = 0;
    bool other;

    if (!again)
        cr->mtu = card_rear_mtu(cr, 0);
    if (bytes > 0)
        ret = vhost_frontend_get_config(s->frontend, &config, 0, bytes, err);
    if (bytes > 0 && ret == 0)
        ret = judge(cr, s, &config, again, &told, err);
    if (ret == -EIO) { /* it has none after all */
        log_limited(DT_LOG_WARNING, "%s: %s: %s", dt_layer_device(cr->rear.layer), cr->rear.path,
                    err->text);
        ret = 0;
    }
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&cr->rear.lock);
    other = told.mtu != cr->told.mtu || told.link != cr->told.link ||
            memcmp(told.mac, cr->told.mac, sizeof(told.mac)) != 0;
    cr->told = told;
    pthread_mutex_unlock(&cr->rear.lock);
    cr->rear.changed |= again && (other || rear_gone(&cr->rear));
    return 0;
}

struct card_told card_rear_told(struct card_rear *cr)
{
    struct card_told told;

    pthread_mutex_lock(&cr->rear.lock);
    told = cr->told;
    pthread_mutex_unlock(&cr->rear.lock);
    if (rear_gone(&cr->rear))
        told.link = DT_LINK_DOWN;
    return told;
}

/*
 * The guest's address is the VMM's to give, and nobody tells us of it. But a rear that knows one may drop what comes from
 * others, and then nobody else says why.
 */
void card_rear_compare(struct card_ctx *cc, const struct dt_packet *p)
{
    const struct card_told told = card_rear_told(cc->rear);
    char says[MAC_TEXT], sends[MAC_TEXT];

    cc->compares = false;
    if (!mac_is_zero(told.mac) && memcmp(told.mac, p->data + 6, sizeof(told.mac)) != 0)
        dt_layer_event(cc->c->layer, "rear-mac",
                       "%s says that the card's address is %s, and the guest sends from %s",
                       cc->rear->rear.path, mac_text(says, told.mac), mac_text(sends, p->data + 6));
}
