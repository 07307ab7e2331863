/* SPDX-License-Identifier: MIT */
/* net-property.c - what every layer of a network card promises. */
#include "tools/conformance/net.h"

#define STATE_BYTES (1u << 20)
#define REST_NS     DT_S(2)

static void rest(void)
{
    const char *late = card_rest(REST_NS);

    if (late)
        bench_fail("it does not come to rest: %s", late);
}

void card_property_open(struct bench *b)
{
    card_open(b);
    b->verdict->count++;
    card_close();
}

/* What a layer counted: packets that came to it, and those that it dropped. */
static uint64_t counted(unsigned index, const char *way, const char *what)
{
    json_t *stats = device_stats(card.dev);
    json_t *layer = json_array_get(json_object_get(stats, "layers"), index);
    json_t *ops = json_object_get(json_object_get(layer, "ops"), way);
    uint64_t n = (uint64_t)json_integer_value(json_object_get(ops, what));

    json_decref(stats);
    return n;
}

/* The first layer gets what the guest sends, and core cuts nothing before it. */
static bool counted_whole(const struct bench *b)
{
    const struct dt_net_ext *ext = registry_net(b->exts[0]);

    return (ext->transmit || ext->tx) && device_layer(card.dev, 1)->takes[DT_TX] == DT_OFFLOAD_ALL;
}

void card_property_verdicts(struct bench *b)
{
    card_open(b);
    card_load(b, b->config->duration);
    rest();
    if (card.fed == 0)
        bench_fail("no packet was let in");
    if (counted_whole(b) && counted(0, "transmit", "requests") != card.fed)
        bench_fail("%llu packets of the guest's were counted as %llu", (unsigned long long)card.fed,
                   (unsigned long long)counted(0, "transmit", "requests"));
    if (counted(0, "transmit", "errors") > counted(0, "transmit", "requests"))
        bench_fail("more packets were dropped than came");
    card_close();
}

void card_property_batches(struct bench *b)
{
    card_open(b);
    for (unsigned n = 1; n <= CARD_BURST; n++) {
        uint64_t before = card.fed;

        for (unsigned i = 0; i < 8; i++)
            card_burst(b, n);
        rest();
        b->verdict->count += card.fed - before;
    }
    card_close();
}

/* To a wire that takes nothing: whoever declares that it takes super-frames or partial checksums loses none of that. */
void card_property_offloads(struct bench *b)
{
    if (b->has_back)
        bench_skip("the chain has a back of its own");
    card.plain = true;
    card_open(b);
    card_load(b, b->config->duration);
    rest();
    card_close();
}

void card_property_quiesce(struct bench *b)
{
    uint64_t end;

    card_open(b);
    end = dt_clock_ns() + b->config->duration;
    do {
        uint64_t load = DT_MS(1 + dt_rng_below(&b->rng, 5)), counted_before = b->verdict->count;

        card_load(b, load);
        rest();
        b->verdict->count = counted_before + 1;
    } while (dt_clock_ns() < end);
    card_close();
}

void card_property_restart(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;

    while (dt_clock_ns() < end) {
        uint64_t before = b->verdict->count;

        card_build(b);
        for (unsigned i = 0; i < 3; i++) {
            card_start();
            card_load(b, DT_MS(2));
            rest();
            card_stop();
            b->verdict->count = ++before;
        }
        card_close();
    }
}

/* ---- State ---- */

static const struct dt_block_ext *saver(const struct bench *b, unsigned i)
{
    return b->exts[i]->save && b->exts[i]->load ? b->exts[i] : NULL;
}

/* Damaged state: refused, or taken without harm; but always in one line. */
static void load_damaged(struct bench *b, unsigned i, uint8_t *blob, size_t size)
{
    for (unsigned round = 0; round < 20; round++) {
        struct dt_error err = {""};
        size_t n = round & 1 || size == 0 ? size : (size_t)dt_rng_below(&b->rng, size);

        card_build(b);
        if (round & 1 && size)
            blob[dt_rng_below(&b->rng, size)] ^= (uint8_t)(1 + dt_rng_below(&b->rng, 255));
        if (saver(b, i)->load(device_layer(card.dev, i + 1), blob, n, b->exts[i]->state_version,
                              &err) < 0 &&
            (!*err.text || strchr(err.text, '\n')))
            bench_fail("it refuses a damaged state without one line that says why");
        card_start();
        card_load(b, DT_MS(2));
        rest();
        card_close();
    }
}

static void check_state(struct bench *b, unsigned i)
{
    uint8_t *blob = xcalloc(1, STATE_BYTES);
    struct dt_error err = {""};
    int64_t size;

    card_open(b);
    card_load(b, b->config->duration / 4);
    rest();
    size = saver(b, i)->save(device_layer(card.dev, i + 1), blob, STATE_BYTES);
    card_close();
    if (size == -ENODATA || size == -E2BIG) {
        free(blob);
        return;
    }
    if (size < 0)
        bench_fail("its state cannot be saved: %s", strerror((int)-size));
    card_build(b);
    if (saver(b, i)->load(device_layer(card.dev, i + 1), blob, (size_t)size,
                          b->exts[i]->state_version, &err) < 0)
        bench_fail("its own state is refused: %s", err.text);
    card_start();
    card_load(b, DT_MS(5));
    rest();
    card_close();
    load_damaged(b, i, blob, (size_t)size);
    b->verdict->count = 1;
    free(blob);
}

void card_property_state(struct bench *b)
{
    bool any = false;

    for (unsigned i = 0; i < b->user.count; i++) {
        if (!saver(b, i))
            continue;
        any = true;
        check_state(b, i);
    }
    if (!any)
        bench_skip("no layer keeps state");
}

/* ---- Parameters ---- */

static void check_refusal(struct dt_layer *layer, const struct dt_param *param, const char *value)
{
    struct dt_error err = {""};
    int ret = device_set(card.dev, layer->name, param->name, value, &err);

    if (ret == 0)
        bench_fail("%s=%s is taken", param->name, value);
    if (!*err.text || strchr(err.text, '\n'))
        bench_fail("%s=%s is refused without one line that says why", param->name, value);
}

/* The value that it has, again; and what it cannot be. */
static void change(struct bench *b, struct dt_layer *layer, const struct dt_param *param)
{
    _cleanup_free_ char *value = param_format(param, layer->data);
    struct dt_error err = {""};

    if (param->flags & DT_PARAM_SECRET)
        return;
    if (value && device_set(card.dev, layer->name, param->name, value, &err) < 0)
        bench_fail("%s=%s, which it has, is refused: %s", param->name, value, err.text);
    if (param->type == DT_PARAM_UINT || param->type == DT_PARAM_BOOL ||
        param->type == DT_PARAM_ENUM || param->type == DT_PARAM_DURATION ||
        param->type == DT_PARAM_SIZE)
        check_refusal(layer, param, "no such value");
    card_load(b, DT_MS(2));
}

void card_property_live(struct bench *b)
{
    unsigned changes = 0;

    card_open(b);
    for (unsigned i = 0; i < b->user.count; i++)
        for (const struct dt_param *p = b->exts[i]->params; p && p->name; p++)
            if (p->flags & DT_PARAM_LIVE) {
                change(b, device_layer(card.dev, i + 1), p);
                changes++;
            }
    rest();
    card_close();
    if (changes == 0)
        bench_skip("no parameter can be changed live");
    b->verdict->count = changes;
}

void card_property_parameters(struct bench *b)
{
    static char name[] = "no-such-parameter", value[] = "1";
    struct setting settings[64];

    for (unsigned i = 0; i < b->user.count; i++) {
        const struct loop_config config = {.engine = LOOP_EPOLL};
        struct chain_spec chain;
        struct dt_error err = {""};
        unsigned n = b->user.layers[i].count;

        card_chain(b, &chain);
        CHECK(n < ARRAY_SIZE(settings));
        if (n)
            memcpy(settings, b->user.layers[i].settings, n * sizeof(settings[0]));
        settings[n] = (struct setting){name, value};
        chain.layers[i].settings = settings;
        chain.layers[i].count = n + 1;
        CHECK(loop_new(&card.loop, &config, &err) == 0);
        if (device_new(&card.dev,
                       &(struct device_config){.kind = DEVICE_NET,
                                               .name = "conformance",
                                               .chain = &chain,
                                               .loops = &card.loop,
                                               .threads = 1},
                       &err) == 0)
            bench_fail("a parameter that there is not is taken");
        if (!*err.text || strchr(err.text, '\n'))
            bench_fail("a parameter that there is not is refused without one line");
        loop_free(card.loop);
        b->verdict->count++;
    }
}
