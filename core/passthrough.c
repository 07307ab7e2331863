/* SPDX-License-Identifier: MIT */
/*
 * passthrough.c - who could serve the guest's own rings, and who wants that.
 *
 * A back offers it, a person asks for it, and the front, which has the rings, does it
 * (blk/vhost-user/mode.c).
 */
#include "core/passthrough.h"
#include "core/internal.h"

void layer_offer_passthrough(struct dt_layer *layer, const struct passthrough_ops *ops)
{
    layer->passthrough = ops;
}

int device_passthrough(struct device *dev, struct dt_layer **back,
                       const struct passthrough_ops **ops, struct dt_error *err)
{
    struct dt_layer *last = dev->layers[dev->nlayers];

    if (!last->passthrough)
        return dt_fail(err, -ENOTSUP,
                       "the back '%s' cannot be given the guest's rings; 'vhost-user path=...' can",
                       last->name);
    for (unsigned i = 1; i < dev->nlayers; i++)
        if (dev->layers[i]->ext->flags & DT_CONTENT_BEARING)
            return dt_fail(err, -ENOTSUP,
                           "without '%s' the guest would read something else: passthrough is not "
                           "possible",
                           dev->layers[i]->name);
    for (unsigned i = 1; i < dev->nlayers; i++)
        if (dev->layers[i]->handover)
            return dt_fail(err, -EBUSY,
                           "'%s' has to see every write: passthrough is not possible until it is "
                           "gone",
                           dev->layers[i]->name);
    *back = last;
    *ops = last->passthrough;
    return 0;
}

void layer_want_passthrough(struct dt_layer *layer)
{
    layer->dev->want_passthrough = true;
}

void device_in_passthrough(struct device *dev, bool on)
{
    dev->in_passthrough = on;
}

bool device_wants_passthrough(const struct device *dev)
{
    return dev->want_passthrough;
}

int layer_set_passthrough(struct dt_layer *layer, bool on, struct dt_error *err)
{
    struct device *dev = layer->dev;

    if (!dev->started || !dev->front_ops->set_passthrough)
        return dt_fail(err, -ENOTSUP, "this device's front has no modes");
    return dev->front_ops->set_passthrough(dev->lanes[0], on, err);
}
