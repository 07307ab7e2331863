/* SPDX-License-Identifier: MIT */
/*
 * handover.c - a layer that keeps another chain equal to what it stands on gives its place to it.
 *
 * What that chain holds only the layer knows: it is asked, and vouches for it (change.c), so that
 * nobody needs to force the change.
 */
#include "core/internal.h"

void layer_offer_handover(struct dt_layer *layer, const struct handover_ops *ops)
{
    layer->handover = ops;
}

bool bears_content(const struct dt_layer *layer)
{
    return layer->ext->flags & (DT_BACK | DT_CONTENT_BEARING);
}

/* Do layers that bear content, of the first @n and the first @m, come in the same order? */
static bool same_bearing(struct dt_layer *const *a, unsigned n, struct dt_layer *const *b,
                         unsigned m)
{
    unsigned i = 1, k = 1;

    for (;;) {
        while (i <= n && !bears_content(a[i]))
            i++;
        while (k <= m && !bears_content(b[k]))
            k++;
        if (i > n || k > m)
            return i > n && k > m;
        if (a[i++] != b[k++])
            return false;
    }
}

static bool ends_with(const struct chain_spec *target, const struct chain_spec *tail)
{
    unsigned above = target->count - tail->count;

    if (tail->count > target->count)
        return false;
    for (unsigned i = 0; i < tail->count; i++)
        if (!layer_spec_equal(&target->layers[above + i], &tail->layers[i]))
            return false;
    return true;
}

static bool is_in(const struct dt_layer *layer, struct dt_layer *const *layers, unsigned n)
{
    for (unsigned i = 1; i <= n; i++)
        if (layers[i] == layer)
            return true;
    return false;
}

static bool gives(const struct device *dev, unsigned index, struct dt_layer *const *layers,
                  const struct chain_spec *target)
{
    struct dt_layer *layer = dev->layers[index];
    struct chain_spec tail;
    bool ret;

    if (!layer->handover || is_in(layer, layers, target->count) ||
        chain_parse(&tail, layer->handover->chain(layer), NULL) < 0)
        return false;
    ret = ends_with(target, &tail) &&
          same_bearing(layers, target->count - tail.count, dev->layers, index - 1);
    chain_spec_free(&tail);
    return ret;
}

struct dt_layer *handover_giver(const struct device *dev, struct dt_layer *const *layers,
                                const struct chain_spec *target)
{
    if (is_in(layers[target->count], dev->layers, dev->nlayers))
        return NULL; /* the back stays */
    for (unsigned i = 1; i <= dev->nlayers; i++)
        if (gives(dev, i, layers, target))
            return dev->layers[i];
    return NULL;
}
