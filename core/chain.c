/* SPDX-License-Identifier: MIT */
/* chain.c - a chain as written becomes open layers: the back first, each above what it stands on.
 */
#include "core/internal.h"
#include <fcntl.h>
#include <sys/stat.h>

#define EVENTS_A_SECOND 20u

static bool ordinal_taken(struct dt_layer *const *layers, unsigned n, const struct dt_layer *layer,
                          unsigned ordinal)
{
    for (unsigned i = 1; i <= n; i++)
        if (layers[i] != layer && layers[i]->ordinal == ordinal &&
            strcmp(layers[i]->ext->name, layer->ext->name) == 0)
            return true;
    return false;
}

static void name_layer(struct dt_layer *layer)
{
    if (layer->ordinal == 1)
        snprintf(layer->name, sizeof(layer->name), "%s", layer->ext->name);
    else
        snprintf(layer->name, sizeof(layer->name), "%s#%u", layer->ext->name, layer->ordinal);
}

/* Numbers that were written first: the others take what is free. */
int chain_name(struct dt_layer *const *layers, struct chain_spec *spec, struct dt_error *err)
{
    for (unsigned i = 1; i <= spec->count; i++) {
        struct dt_layer *layer = layers[i];

        layer->ordinal = layer->ordinal ?: spec->layers[i - 1].ordinal;
        if (layer->ordinal && ordinal_taken(layers, i - 1, layer, layer->ordinal))
            return dt_fail(err, -EINVAL, "two layers are named '%s#%u'", layer->ext->name,
                           layer->ordinal);
    }
    for (unsigned i = 1; i <= spec->count; i++) {
        struct dt_layer *layer = layers[i];

        for (unsigned n = 1; layer->ordinal == 0; n++)
            if (!ordinal_taken(layers, spec->count, layer, n))
                layer->ordinal = n;
        spec->layers[i - 1].ordinal = layer->ordinal;
        name_layer(layer);
    }
    return 0;
}

struct dt_layer *layer_new(struct device *dev, const struct dt_block_ext *ext)
{
    struct dt_layer *layer = xcalloc(1, sizeof(*layer));

    layer->magic = LAYER_MAGIC;
    layer->ext = ext;
    layer->may_take = registry_net(ext) ? registry_net(ext)->takes : 0;
    layer->takes[DT_TX] = layer->takes[DT_RX] = layer->may_take;
    layer->dev = dev;
    layer->state_fd = layer->slot = -1;
    layer->data = xaligned(CACHE_LINE, MAX(ext->layer_size, (size_t)1));
    layer->ctxs = xcalloc(dev->threads, sizeof(struct ctx *));
    return layer;
}

void layer_free(struct dt_layer *layer)
{
    if (layer->open && layer->ext->close)
        layer->ext->close(layer);
    param_free_all(layer->ext->params, layer->data);
    if (layer->state_fd >= 0)
        close(layer->state_fd);
    if (layer->slot >= 0)
        layer->dev->slots_taken &= ~(1ull << layer->slot);
    for (unsigned i = 0; i < layer->naddresses; i++)
        free(layer->addresses[i]);
    layer->magic = 0;
    free(layer->data);
    free(layer->ctxs);
    free(layer);
}

/* Ends with a back, has no back before, fits the frame budget, and may run on these threads. */
int chain_judge(const struct device *dev, struct dt_layer *const *layers, unsigned n,
                struct dt_error *err)
{
    size_t frames = 0;

    for (unsigned i = 1; i <= n; i++) {
        const struct dt_block_ext *ext = layers[i]->ext;
        bool last = i == n;

        if (last && !(ext->flags & DT_BACK))
            return dt_fail(err, -EINVAL,
                           "the chain ends with the extension '%s'; it must end with a back (such "
                           "as 'file path=...')",
                           ext->name);
        if (!last && (ext->flags & DT_BACK))
            return dt_fail(err, -EINVAL,
                           "'%s' is a back and must be the last of the chain, but '%s' follows it",
                           ext->name, layers[i + 1]->ext->name);
        if (dev->threads > 1 && !(ext->flags & DT_PER_QUEUE))
            return dt_fail(err, -EINVAL,
                           "'%s' serves a device on one thread only; give the device one thread, "
                           "not %u",
                           ext->name, dev->threads);
        frames += ALIGN_UP(ext->frame_size, (size_t)16);
    }
    if (frames > DT_FRAME_BUDGET)
        return dt_fail(err, -E2BIG,
                       "the layers of this chain keep %zu bytes in each request, more than the %u "
                       "there are: use fewer layers",
                       frames, DT_FRAME_BUDGET);
    return 0;
}

int layer_open(struct dt_layer *layer, const struct layer_spec *spec, bool fresh,
               struct dt_error *err)
{
    int ret = param_apply_all(layer->ext->params, layer->data, spec, err);

    if (ret == 0 && layer->ext->open)
        ret = layer->ext->open(layer, err);
    if (ret < 0)
        return ret;
    layer->open = true;
    if (!fresh)
        ret = state_load(layer, err);
    ret = ret ?: layer->dev->class->layer_info(layer, err);
    layer->loaded = ret == 0;
    return ret;
}

/* Layers as the chain names them; @rest: what is left of each one's settings. */
static int make_layers(struct device *dev, const struct chain_spec *spec, struct layer_spec *rest,
                       struct dt_error *err)
{
    int ret;

    chain_spec_copy(&dev->spec, spec);
    dev->layers = xcalloc(spec->count + 1, sizeof(struct dt_layer *));
    for (unsigned i = 1; i <= spec->count; i++) {
        const struct dt_block_ext *ext =
            placement_find(dev->class->kind, &spec->layers[i - 1], &rest[i], err);

        if (!ext)
            return -ENOENT;
        dev->layers[i] = layer_new(dev, ext);
        dev->layers[i]->index = dev->nlayers = i;
    }
    ret = chain_name(dev->layers, &dev->spec, err)
              ?: chain_judge(dev, dev->layers, dev->nlayers, err);
    if (ret == 0)
        state_find_slots(dev->layers, dev->nlayers);
    return ret;
}

int chain_open(struct device *dev, const struct chain_spec *spec, struct dt_error *err)
{
    struct layer_spec rest[CHAIN_MAX_LAYERS + 1] = {0};
    int ret;

    CHECK(spec->count <= CHAIN_MAX_LAYERS);
    ret = make_layers(dev, spec, rest, err);
    for (unsigned i = dev->nlayers; ret == 0 && i > 0; i--) {
        struct dt_layer *layer = dev->layers[i];

        layer->below = i < dev->nlayers ? dev->layers[i + 1] : NULL;
        ret = layer_open(layer, &rest[i], false, err);
        if (ret < 0)
            dt_fail_prefix(err, "%s", layer->name);
    }
    for (unsigned i = 1; i <= CHAIN_MAX_LAYERS; i++)
        free(rest[i].settings);
    return ret;
}

void chain_close(struct device *dev)
{
    for (unsigned i = 1; i <= dev->nlayers; i++)
        layer_free(dev->layers[i]);
    free(dev->layers);
    dev->layers = NULL;
    dev->nlayers = 0;
    chain_spec_free(&dev->spec);
}

int device_gather_info(struct device *dev, bool all, struct dt_error *err)
{
    return dev->class->gather(dev, all, err);
}

/* ---- What a layer may ask ------------------------------------------------------------------ */

void *dt_layer_data(struct dt_layer *layer)
{
    CHECK_MAGIC(layer, LAYER_MAGIC);
    return layer->data;
}

const struct dt_block_ext *layer_ext(const struct dt_layer *layer)
{
    return layer->ext;
}

const char *layer_verb(const struct dt_layer *layer)
{
    return layer->verb;
}

struct dt_layer *device_layer(struct device *dev, unsigned index)
{
    CHECK(index >= 1 && index <= dev->nlayers);
    return dev->layers[index];
}

const char *dt_layer_name(const struct dt_layer *layer)
{
    return layer->name;
}

const char *dt_layer_device(const struct dt_layer *layer)
{
    return layer->dev->name;
}

const struct dt_block_info *dt_layer_info(const struct dt_layer *layer)
{
    return layer->below ? &layer->below->info : &layer->info;
}

unsigned dt_layer_threads(const struct dt_layer *layer)
{
    return layer->dev->threads;
}

struct dt_ctx *dt_layer_ctx(struct dt_layer *layer, unsigned thread)
{
    CHECK(thread < layer->dev->threads);
    return layer->ctxs[thread] ? &layer->ctxs[thread]->pub : NULL;
}

static void (*event_hook)(const struct device_event *event);

void device_events(void (*hear)(const struct device_event *event))
{
    event_hook = hear;
}

/*
 * A guest that makes a layer speak must not fill the disk with logs: so many lines a second, then
 * one that counts the rest. Threads may miscount by a few.
 */
static bool may_speak(struct dt_layer *layer)
{
    uint64_t second = dt_clock_ns() / DT_S(1);
    uint64_t before = __atomic_exchange_n(&layer->event_second, second, __ATOMIC_RELAXED);
    uint32_t said;

    if (before != second) {
        said = __atomic_exchange_n(&layer->events, 0, __ATOMIC_RELAXED);
        if (said > EVENTS_A_SECOND)
            log_warning("event=suppressed device=%s layer=%s: %u events were not logged",
                        layer->dev->name, layer->name, said - EVENTS_A_SECOND);
    }
    return __atomic_add_fetch(&layer->events, 1, __ATOMIC_RELAXED) <= EVENTS_A_SECOND;
}

static void speak(struct dt_layer *layer, struct device_event e, const char *fmt, va_list args)
{
    char text[400];

    if (!may_speak(layer))
        return;
    vsnprintf(text, sizeof(text), fmt, args);
    e.device = layer->dev->name;
    e.layer = layer->name;
    e.text = text;
    log_warning("event=%s device=%s layer=%s: %s", e.event, e.device, e.layer, text);
    if (event_hook)
        event_hook(&e);
}

void dt_layer_event(struct dt_layer *layer, const char *event, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    speak(layer, (struct device_event){.event = event}, fmt, args);
    va_end(args);
}

void layer_event(struct dt_layer *layer, const struct device_event *facts, const char *event,
                 const char *fmt, ...)
{
    struct device_event e = *facts;
    va_list args;

    e.event = event;
    va_start(args, fmt);
    speak(layer, e, fmt, args);
    va_end(args);
}
