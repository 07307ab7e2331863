/* SPDX-License-Identifier: MIT */
/*
 * pinned.c - a root that the process which serves a pool keeps for us as it is, while a connection lasts; and who has one.
 */
#include "tools/cvd/cvd.h"

#define ANSWER_MS 60000 /* a root is to be made */
#define ASK_MS    5000

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_root(struct px_root *root, const char *text)
{
    uint8_t *to = (uint8_t *)root;

    if (!text || strlen(text) != 2 * sizeof(*root))
        return false;
    for (size_t i = 0; i < sizeof(*root); i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        to[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

int target_pin(struct target *t, const char *what, struct px_root *root, struct dt_error *err)
{
    _cleanup_free_ char *owner = xasprintf("cvd %s (pid %d)", what, (int)getpid());
    json_t *result = NULL;
    int ret = cvd_ask(t->sock, json_pack("{ss ss}", "verb", "pin", "owner", owner), ANSWER_MS,
                      &result, err);

    if (ret == 0 && !parse_root(root, json_string_value(json_object_get(result, "root"))))
        ret = dt_fail(err, -EIO, "the process that serves the pool named no root");
    json_decref(result);
    return ret;
}

int target_look_pinned(struct target *t, struct dt_error *err)
{
    const struct store_file_options file = {.read_only = true};
    const struct command look = {.needs = NEEDS_LOOK, .ranges = true, .either = true};
    struct pool_options o = {.read_only = true};
    struct dt_error why;
    struct px_root root;
    struct store *store;
    int ret = target_served_by(t->path, &why);

    if (ret <= 0)
        return 0;
    t->sock = ret;
    ret = target_pin(t, "du", &root, err);
    ret = ret ?: store_file_open(&store, t->path, &file, err);
    if (ret < 0)
        return ret;
    if (t->pool)
        (void)pool_close(t->pool, &why);
    t->pool = NULL;
    o.root = &root;
    ret = pool_open(&t->pool, store, &o, err);
    if (ret < 0)
        store->close(store);
    ret = ret ?: target_find(t, &look, err);
    return ret < 0 ? ret : 1;
}

json_t *pool_pin_ask(const char *path)
{
    struct dt_error ignored;
    json_t *pin = NULL;

    target_ask(path, json_pack("{ss}", "verb", "pinned"), ASK_MS, &pin, &ignored);
    if (json_object_get(pin, "owner"))
        return pin;
    json_decref(pin);
    return NULL;
}

void pool_pin_print(const json_t *pin)
{
    const json_t *owner = json_object_get(pin, "owner");
    char since[64];

    print_time((uint64_t)json_integer_value(json_object_get(pin, "since")), since, sizeof(since));
    printf("held       %s of what is free, for %s since %s\n",
           human_bytes((uint64_t)json_integer_value(json_object_get(pin, "held"))),
           json_string_value(owner), since);
}
