/* SPDX-License-Identifier: MIT */
/* passthrough.h - a back that serves the guest's own rings (passthrough.c). */
#ifndef CORE_PASSTHROUGH_H
#define CORE_PASSTHROUGH_H

#include "core/core.h"

/**
 * struct device_ring - a ring of the guest's driver, with nothing of it in flight.
 * @base: as vhost-user's SET_VRING_BASE has it; set again by left(), or @unsure: only the ring's own flags tell.
 * @desc, @driver, @device: guest-physical.
 * @kick, @call: -1 = none.
 */
struct device_ring {
    unsigned index;
    uint16_t size;
    uint32_t base;
    bool unsure;
    uint64_t desc, driver, device;
    int kick, call;
};
/**
 * struct passthrough - the rings while a back has them; the front's, which keeps it in place from enter()
 * until entered() failed or left() was called.
 * @features: that the driver acknowledged. @writeback: the cache mode it chose.
 * @log: the region with the in-flight logs of the rings. @logged: set by judge(): the back keeps them up to
 *       date, so that its loss loses nothing.
 * @lossy: set by judge(): what the back had may get lost (packets do), so rings go on from where they stand
 *       when it is.
 * @entered: result of enter(): 0, or -errno with @why; then the back has none of the rings.
 * @left: the back has none of the rings any more, because leave() was called or for reasons of its
 *        own. 0: all that it took is answered and each @base is right; else -errno with @why, and only the log
 *        knows.
 * Both run on a thread of the back's.
 * @drain_ns: set by the back before left(): how long it waited for what was in flight.
 */
struct passthrough {
    uint64_t features;
    bool packed, writeback, logged, lossy;
    struct {
        int fd;
        uint64_t size, offset;
        uint16_t queues, queue_size;
    } log;
    struct device_ring *rings;
    unsigned count;
    uint64_t drain_ns;
    void (*entered)(struct passthrough *p, int result, const char *why);
    void (*left)(struct passthrough *p, int result, const char *why);
};
/** struct passthrough_ops - of such a back; none of them waits. @judge: could it serve these rings? */
struct passthrough_ops {
    int (*judge)(struct dt_layer *layer, struct passthrough *p, struct dt_error *err);
    void (*enter)(struct dt_layer *layer, struct passthrough *p);
    void (*leave)(struct dt_layer *layer);
};
/** layer_offer_passthrough() - from open(). */
void layer_offer_passthrough(struct dt_layer *layer, const struct passthrough_ops *ops);
/** device_passthrough() - the back and what it offers. Return: 0; -ENOTSUP where it cannot, or the layers
 *  above it change what the guest reads, with @err. */
int device_passthrough(struct device *dev, struct dt_layer **back,
                       const struct passthrough_ops **ops, struct dt_error *err);
/** device_in_passthrough() - the front is about to hand rings over; or has them again. On the device's
 *  first thread. Meanwhile no layer that must see every write can come into the chain. */
void device_in_passthrough(struct device *dev, bool on);
/** layer_want_passthrough() - from load(): a person wanted it of the process before. */
void layer_want_passthrough(struct dt_layer *layer);
bool device_wants_passthrough(const struct device *dev);
/** layer_set_passthrough() - a person wants it, or wants it no more; the front follows when it can. On the
 *  device's first thread. */
int layer_set_passthrough(struct dt_layer *layer, bool on, struct dt_error *err);

#endif
