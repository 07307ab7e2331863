/* SPDX-License-Identifier: MIT */
/*
 * change.c - the chain of a running device is exchanged for another.
 *
 * Theory of operation: a chain is data. The one that is wanted is compared with the one that runs,
 * layer by layer, and what both have stays alive: the same object, contexts, counters, timers. New
 * layers are opened beside the running chain, so that one that cannot be opened changes nothing.
 * Then the lanes admit nothing more, requests in flight finish in the chain that they entered, and
 * with all threads standing still the contexts are linked anew: the next generation. What is left
 * over is stopped, closed and forgotten once requests flow again.
 *
 * Nothing is freed and no state is dropped before the point where nothing can fail any more, so
 * every refusal leaves the old chain as it was.
 */
#include "core/internal.h"

#define RETRY_NS DT_MS(1)

/**
 * struct plan - the chain that is wanted, from 1 as in a device.
 * @kept:  for each layer: it runs already.
 * @heir:  for each layer: the one of the old chain whose name and state it gets, or NULL.
 * @rest:  what is left of a new layer's settings.
 * @giver: the layer that gives its place to the chain that it kept equal, or NULL; @let_go: it did.
 * @gone:  for each layer of the old chain: it is not in the new one.
 */
struct plan {
    struct device *dev;
    struct change *change;
    struct dt_error *err;
    struct chain_spec spec;
    struct dt_layer **layers;
    unsigned n;
    bool kept[CHAIN_MAX_LAYERS + 1], gone[CHAIN_MAX_LAYERS + 1];
    struct dt_layer *heir_of[CHAIN_MAX_LAYERS + 1];
    struct layer_spec rest[CHAIN_MAX_LAYERS + 1];
    struct dt_layer *giver;
    bool let_go;
    int ret;
};

/* ---- What stays ---------------------------------------------------------------------------- */

static void keep(struct plan *p, unsigned i, unsigned old)
{
    p->layers[i] = p->dev->layers[old];
    p->kept[i] = true;
    p->gone[old] = false;
    p->spec.layers[i - 1].ordinal = p->layers[i]->ordinal;
    p->change->kept++;
}

static void match(struct plan *p, bool numbered)
{
    for (unsigned i = 1; i <= p->n; i++) {
        const struct layer_spec *wanted = &p->spec.layers[i - 1];

        if (p->kept[i] || (wanted->ordinal != 0) != numbered)
            continue;
        for (unsigned k = 1; !p->kept[i] && k <= p->dev->nlayers; k++)
            if (p->gone[k] && p->dev->layers[k]->ordinal == (wanted->ordinal ?: 1) &&
                layer_spec_equal(wanted, &p->dev->spec.layers[k - 1]))
                keep(p, i, k);
    }
}

/* ---- What is new --------------------------------------------------------------------------- */

static const struct dt_block_ext *known_here(const struct device *dev, const char *name)
{
    for (const struct dt_block_ext *ext = registry_next(NULL); ext; ext = registry_next(ext))
        if (registry_kind(ext) == dev->class->kind && strcmp(ext->name, name) == 0)
            return ext;
    return NULL;
}

static bool is_path(const struct dt_block_ext *ext, const char *key)
{
    int index = ext ? param_find(ext->params, key) : -1;

    return index >= 0 && ext->params[index].type == DT_PARAM_PATH;
}

/* Can this process, which can open nothing any more, open it? */
static bool within(const struct plan *p, const struct layer_spec *spec)
{
    const struct dt_block_ext *ext = known_here(p->dev, spec->name);

    for (unsigned i = 0; i < spec->count; i++)
        if (strcmp(spec->settings[i].key, "place") == 0 || is_path(ext, spec->settings[i].key))
            return false;
    return ext && (!ext->open || (ext->flags & DT_SELF_CONTAINED)) &&
           !(ext->load && p->dev->state_dir);
}

/* What it declares is known only to a process that can load it. */
static int unknown(const struct plan *p, const struct layer_spec *spec)
{
    if (p->change->force)
        return 1;
    return dt_fail(p->err, -EPERM,
                   "whether '%.64s' changes what the guest reads is known only once it is loaded "
                   "(--force does it if you know that it does not)",
                   spec->name);
}

static int find_new(struct plan *p)
{
    for (unsigned i = 1; i <= p->n; i++) {
        const struct layer_spec *spec = &p->spec.layers[i - 1];
        const struct dt_block_ext *ext;

        if (p->kept[i])
            continue;
        p->change->opened++;
        if (p->change->confined && !within(p, spec)) {
            snprintf(p->change->outside, sizeof(p->change->outside), "%s", spec->name);
            if (!known_here(p->dev, spec->name))
                return unknown(p, spec);
        }
        ext = placement_find(p->dev->class->kind, spec, &p->rest[i], p->err);
        if (!ext)
            return -ENOENT;
        p->layers[i] = layer_new(p->dev, ext);
    }
    return 0;
}

/* One of the same extension and number, with other settings. */
static void find_heirs(struct plan *p)
{
    for (unsigned i = 1; i <= p->n; i++)
        for (unsigned k = 1; !p->kept[i] && k <= p->dev->nlayers; k++)
            if (p->gone[k] && strcmp(p->layers[i]->name, p->dev->layers[k]->name) == 0)
                p->heir_of[i] = p->dev->layers[k];
}

/* Parameters are judged where nothing is harmed. */
static int judge_settings(struct plan *p)
{
    for (unsigned i = 1; i <= p->n; i++) {
        const struct dt_block_ext *ext = p->layers[i]->ext;
        void *data;
        int ret;

        if (p->kept[i])
            continue;
        data = xaligned(CACHE_LINE, MAX(ext->layer_size, (size_t)1));
        ret = param_apply_all(ext->params, data, &p->rest[i], p->err);
        if (ret == 0)
            param_free_all(ext->params, data);
        else
            dt_fail_prefix(p->err, "%s", p->layers[i]->name);
        free(data);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* ---- What the guest would read -------------------------------------------------------------- */

/* The next layer from @i on that decides what is read. */
static struct dt_layer *next_bearing(struct dt_layer *const *layers, unsigned n, unsigned *i)
{
    while (*i <= n && !bears_content(layers[*i]))
        ++*i;
    return *i <= n ? layers[(*i)++] : NULL;
}

static unsigned bearing_below(struct dt_layer *const *layers, unsigned n,
                              const struct dt_layer *layer)
{
    unsigned below = 0;

    for (unsigned i = n; i > 0 && layers[i] != layer; i--)
        below += bears_content(layers[i]);
    return below;
}

static int judge_content(struct plan *p)
{
    const struct device *dev = p->dev;
    unsigned i = 1, k = 1;
    struct dt_layer *now, *then;

    if (dev->class->kind != DEVICE_DISK)
        return 0;
    p->giver = handover_giver(dev, p->layers, &p->spec);
    if (p->change->force || p->giver)
        return 0;
    do {
        then = next_bearing(p->layers, p->n, &i);
        now = next_bearing(dev->layers, dev->nlayers, &k);
        if (then != now)
            return dt_fail(p->err, -EPERM,
                           "the guest could read other data then: %s decides what it reads "
                           "(--force does it if you know the contents to be equal)",
                           (now ?: then)->name);
    } while (now);
    for (i = 1; i <= p->n; i++) {
        struct dt_layer *layer = p->layers[i];

        if (p->kept[i] && !bears_content(layer) &&
            (layer->ext->read_data || layer->ext->write_data) &&
            bearing_below(p->layers, p->n, layer) !=
                bearing_below(dev->layers, dev->nlayers, layer))
            return dt_fail(p->err, -EPERM,
                           "%s would see other data than before, and may keep some of it (--force "
                           "does it all the same)",
                           layer->name);
    }
    return 0;
}

/* What the device would be; nothing is changed. While all threads stand still, as layers may look at
 * what their threads change. */
static void judge_device(void *arg)
{
    struct plan *p = arg;

    p->ret = p->dev->class->judge(p->dev, p->layers, p->n, p->err);
}

static int judge_info(struct plan *p)
{
    p->ret = 0;
    device_exclusive(p->dev, judge_device, p);
    return p->ret;
}

/* ---- A chain handed over --------------------------------------------------------------------- */

static void seal(void *arg)
{
    struct plan *p = arg;

    p->ret = p->giver->handover->seal(p->giver, p->change->force, p->err);
}

/* Whoever opens the chain next, this process or its successor, may rely on it from here on. */
static int seal_giver(struct plan *p)
{
    if (!p->giver)
        return 0;
    device_exclusive(p->dev, seal, p);
    if (p->ret < 0)
        dt_fail_prefix(p->err, "%s", p->giver->name);
    return p->ret;
}

static void let_go(void *arg)
{
    struct plan *p = arg;

    p->giver->handover->let_go(p->giver);
}

static void take_back(void *arg)
{
    struct plan *p = arg;

    p->giver->handover->take_back(p->giver);
}

/* What it has open is opened anew, and stores lock what they have. */
static int let_giver_go(struct plan *p)
{
    int ret;

    if (!p->giver)
        return 0;
    ret = device_hold(p->dev, dt_clock_ns() + p->change->patience, p->err);
    if (ret < 0)
        return ret;
    p->let_go = true;
    loop_call(p->dev->loops[0], let_go, p);
    return 0;
}

static void take_giver_back(struct plan *p)
{
    if (!p->let_go)
        return;
    loop_call(p->dev->loops[0], take_back, p);
    device_let_go(p->dev);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int open_new(struct plan *p)
{
    for (unsigned i = p->n; i > 0; i--) {
        struct dt_layer *layer = p->layers[i];
        int ret;

        if (p->kept[i])
            continue;
        layer->index = i;
        layer->below = i < p->n ? p->layers[i + 1] : NULL;
        ret = layer_open(layer, &p->rest[i], p->heir_of[i] || p->change->confined, p->err);
        /* A back locks its image while the one before still has its own: two of one exclude each
         * other. */
        if (ret == 0 && layer->ext->fence)
            ret = layer->ext->fence(layer, dt_clock_ns() + p->change->patience, p->err);
        if (ret < 0) {
            dt_fail_prefix(p->err, "%s", layer->name);
            return ret;
        }
        for (unsigned t = 0; t < p->dev->threads; t++)
            ctx_new(p->dev->lanes[t], layer);
    }
    return 0;
}

/* A dry run. Of layers that take nothing from outside, it is seen what only opening shows. */
static int try_new(struct plan *p)
{
    for (unsigned i = 1; i <= p->n; i++)
        if (!p->kept[i] && !within(p, &p->spec.layers[i - 1]))
            return 0;
    return open_new(p) ?: judge_info(p);
}

/* ---- The exchange ---------------------------------------------------------------------------- */

static void swap_chains(struct plan *p)
{
    struct device *dev = p->dev;
    struct dt_layer **layers = dev->layers;
    struct chain_spec spec = dev->spec;
    unsigned n = dev->nlayers;

    dev->layers = p->layers;
    dev->spec = p->spec;
    dev->nlayers = p->n;
    p->layers = layers;
    p->spec = spec;
    p->n = n;
    for (unsigned i = 1; i <= dev->nlayers; i++) {
        dev->layers[i]->index = i;
        dev->layers[i]->below = i < dev->nlayers ? dev->layers[i + 1] : NULL;
    }
}

/* Relinks every lane; the infos follow. */
static int link_lanes(struct device *dev, struct dt_error *err)
{
    int ret = device_gather_info(dev, true, err);

    for (unsigned t = 0; t < dev->threads; t++)
        if (lane_link(dev->lanes[t]) < 0 && ret == 0)
            ret = dt_fail(err, -ENOMEM, "no memory for private copies");
    return ret;
}

static bool at_rest(const struct device *dev)
{
    for (unsigned t = 0; t < dev->threads; t++)
        if (dev->lanes[t]->in_flight || dev->lanes[t]->subs)
            return false;
    return true;
}

/* A layer that must see every write cannot begin while the back takes them from the guest itself. */
static int judge_passthrough(const struct plan *p)
{
    for (unsigned i = 1; p->dev->in_passthrough && i <= p->n; i++)
        if (!p->kept[i] && p->layers[i]->handover)
            return dt_fail(p->err, -EBUSY,
                           "%s has to see every write: first 'devtap mode %s interpose'",
                           p->layers[i]->name, p->dev->name);
    return 0;
}

/* All threads stand still. -EAGAIN: a layer has begun something of its own again. */
static void exchange(void *arg)
{
    struct plan *p = arg;
    struct dt_error ignored;

    p->ret = -EAGAIN;
    if (!at_rest(p->dev))
        return;
    p->ret = judge_passthrough(p);
    if (p->ret < 0)
        return;
    swap_chains(p);
    p->ret = link_lanes(p->dev, p->err) ?: p->dev->class->keep(p->dev, p->err);
    if (p->ret < 0) {
        swap_chains(p);
        link_lanes(p->dev, &ignored);
    }
}

static void exchange_back(void *arg)
{
    struct plan *p = arg;
    struct dt_error ignored;

    swap_chains(p);
    link_lanes(p->dev, &ignored);
    p->dev->class->keep(p->dev, &ignored);
}

static void inherit(struct plan *p)
{
    for (unsigned i = 1; i <= p->dev->nlayers; i++)
        if (p->heir_of[i])
            state_inherit(p->dev->layers[i], p->heir_of[i]);
}

/* The old chain goes on, and keeps its state where it was. */
static void disinherit(struct plan *p)
{
    for (unsigned i = 1; i <= p->n; i++)
        if (p->heir_of[i]) {
            p->heir_of[i]->slot = p->layers[i]->slot;
            p->layers[i]->slot = -1;
        }
}

static void stop_on_thread(void *arg)
{
    ctx_stop(arg);
}

static void stop_layer(struct device *dev, struct dt_layer *layer)
{
    for (unsigned t = 0; t < dev->threads; t++)
        if (layer->ctxs[t])
            loop_call(dev->loops[t], stop_on_thread, layer->ctxs[t]);
}

static int start_new(struct plan *p)
{
    struct device *dev = p->dev;
    int ret = 0;

    for (unsigned t = 0; t < dev->threads && ret == 0; t++)
        ret = device_start_contexts(dev, t, p->err);
    if (ret < 0) {
        for (unsigned i = 1; i <= dev->nlayers; i++)
            if (!p->kept[i])
                stop_layer(dev, dev->layers[i]);
        device_exclusive(dev, exchange_back, p);
        disinherit(p);
    }
    return ret;
}

/* From the last request of the old chain to the first of the new. */
static int switch_over(struct plan *p)
{
    struct device *dev = p->dev;
    uint64_t started = dt_clock_ns(), deadline = started + p->change->patience, drained;
    int ret;

    do {
        ret = device_hold(dev, deadline, p->err);
        if (ret < 0)
            return ret;
        drained = dt_clock_ns();
        device_exclusive(dev, exchange, p);
        if (p->ret == -EAGAIN && !p->let_go) /* else what came would be in the old chain alone */
            device_let_go(dev);
    } while (p->ret == -EAGAIN && drained + RETRY_NS < deadline);
    if (p->ret == -EAGAIN)
        return dt_fail(p->err, -ETIMEDOUT, "%s: a layer does not stop requests of its own",
                       dev->name);
    ret = p->ret;
    if (ret == 0) {
        inherit(p);
        ret = start_new(p);
    }
    device_let_go(dev);
    p->change->drain_ns = drained - started;
    p->change->switch_ns = dt_clock_ns() - drained;
    return ret;
}

/* ---- What is left over --------------------------------------------------------------------- */

static void free_layer(struct device *dev, struct dt_layer *layer)
{
    stop_layer(dev, layer);
    for (unsigned t = 0; t < dev->threads; t++)
        if (layer->ctxs[t])
            ctx_free(layer->ctxs[t]);
    layer_free(layer);
}

/* Of the old chain; the plan has it now. */
static void drop_old(struct plan *p)
{
    for (unsigned k = 1; k <= p->n; k++) {
        if (!p->gone[k])
            continue;
        state_forget(p->layers[k]);
        free_layer(p->dev, p->layers[k]);
        p->change->closed++;
    }
}

static void drop_new(struct plan *p)
{
    for (unsigned i = 1; i <= p->n; i++)
        if (p->layers[i] && !p->kept[i])
            free_layer(p->dev, p->layers[i]);
}

static void plan_init(struct plan *p, struct device *dev, const struct chain_spec *target)
{
    chain_spec_copy(&p->spec, target);
    p->n = target->count;
    p->layers = xcalloc(CHAIN_MAX_LAYERS + 1, sizeof(struct dt_layer *));
    for (unsigned k = 1; k <= dev->nlayers; k++)
        p->gone[k] = true;
    match(p, true);
    match(p, false);
}

static void plan_free(struct plan *p)
{
    for (unsigned i = 1; i <= CHAIN_MAX_LAYERS; i++)
        free(p->rest[i].settings);
    free(p->layers);
    chain_spec_free(&p->spec);
}

/* Returns 0, 1 or -errno as device_change(); nothing was opened. */
static int judge(struct plan *p)
{
    int ret = find_new(p);

    ret = ret ?: chain_name(p->layers, &p->spec, p->err);
    ret = ret ?: chain_judge(p->dev, p->layers, p->n, p->err);
    ret = ret ?: judge_content(p);
    ret = ret ?: judge_settings(p);
    if (ret == 0)
        find_heirs(p);
    return ret == 0 && p->change->outside[0] ? 1 : ret;
}

int device_change(struct device *dev, const struct chain_spec *target, struct change *change,
                  struct dt_error *err)
{
    struct plan p = {.dev = dev, .change = change, .err = err};
    int ret;

    CHECK_MAGIC(dev, DEVICE_MAGIC);
    if (device_held(dev))
        return dt_fail(err, -EBUSY, "%s is held at rest by 'devtap quiesce'", dev->name);
    plan_init(&p, dev, target);
    ret = judge(&p);
    if (ret >= 0 && !change->dry_run)
        ret = seal_giver(&p) ?: ret;
    if (ret == 0 && change->dry_run) {
        ret = try_new(&p);
    } else if (ret == 0) {
        ret = let_giver_go(&p) ?: open_new(&p) ?: judge_info(&p) ?: switch_over(&p);
        if (ret == 0) {
            dev->generation++;
            drop_old(&p);
        }
    }
    if (ret != 0 || change->dry_run)
        drop_new(&p);
    if (ret != 0)
        take_giver_back(&p);
    if (ret < 0)
        dt_fail_prefix(err, "%s", dev->name);
    plan_free(&p);
    return ret;
}

void device_edit(const struct device *dev, struct chain_edit *edit)
{
    *edit = (struct chain_edit){0};
    chain_spec_copy(&edit->spec, &dev->spec);
    for (unsigned i = 1; i <= dev->nlayers; i++)
        snprintf(edit->names[i - 1], LAYER_NAME, "%s", dev->layers[i]->name);
}
