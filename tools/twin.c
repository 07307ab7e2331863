/* SPDX-License-Identifier: MIT */
/* twin.c - what devtap move-back, shadow and mode ask of the layers `copy` and `shadow`. */
#include "tools/tools.h"

#include <time.h>
#include <unistd.h>

#define LOOK_NS DT_MS(100)
#define AWAY_NS DT_S(60) /* how long a worker may be away */
#define TRIES   100u

static void pause_a_little(void)
{
    const struct timespec pause = {.tv_nsec = LOOK_NS};

    nanosleep(&pause, NULL);
}

/* Another change, or the death of a worker: over in a moment. */
static bool in_the_way(int error)
{
    return error == -EBUSY || error == -EIO;
}

/* ---- Questions ------------------------------------------------------------------------------ */

int client_show(struct client *client, json_t **show, struct dt_error *err)
{
    return client_call(
        client, json_pack("{ss ss}", "verb", "show", "device", client_device(client)), show, err);
}

int client_do(struct client *client, const char *layer, const char *command, const char *arg,
              json_t **result, struct dt_error *err)
{
    json_t *args = json_array();

    if (arg)
        json_array_append_new(args, json_string(arg));
    return client_call(client,
                       json_pack("{ss ss ss ss so}", "verb", "do", "device", client_device(client),
                                 "layer", layer, "command", command, "args", args),
                       result, err);
}

int client_set(struct client *client, const char *layer, const char *param, const char *value,
               struct dt_error *err)
{
    return client_call(client,
                       json_pack("{ss ss ss s{ss}}", "verb", "set", "device", client_device(client),
                                 "layer", layer, "values", param, value),
                       NULL, err);
}

int twin_find(struct twin_client *tc, struct dt_error *err)
{
    size_t n = strlen(tc->kind), i;
    uint64_t until = dt_clock_ns() + AWAY_NS;
    json_t *show = NULL, *layer;
    int ret;

    while ((ret = client_show(tc->client, &show, err)) < 0 && in_the_way(ret) &&
           dt_clock_ns() < until)
        pause_a_little();

    json_array_foreach(json_object_get(show, "chain"), i, layer)
    {
        const char *name = json_string_value(json_object_get(layer, "name")) ?: "";

        if (strncmp(name, tc->kind, n) != 0 || (name[n] && name[n] != '#'))
            continue;
        snprintf(tc->name, sizeof(tc->name), "%s", name);
        ret = 1;
    }
    json_decref(show);
    return ret;
}

int twin_status(struct twin_client *tc, json_t **status, struct dt_error *err)
{
    uint64_t until = dt_clock_ns() + AWAY_NS;
    int ret;

    while ((ret = client_do(tc->client, tc->name, "status", NULL, status, err)) < 0 &&
           in_the_way(ret) && dt_clock_ns() < until)
        pause_a_little();
    return ret;
}

int twin_configure(struct twin_client *tc, const char *param, const char *value,
                   struct dt_error *err)
{
    uint64_t until = dt_clock_ns() + AWAY_NS;
    int ret;

    while ((ret = client_set(tc->client, tc->name, param, value, err)) < 0 && in_the_way(ret) &&
           dt_clock_ns() < until)
        pause_a_little();
    return ret;
}

/* ---- Changes -------------------------------------------------------------------------------- */

static int step(struct twin_client *tc, const char *text, bool force, json_t **result,
                struct dt_error *err)
{
    const struct change_options o = {.force = force, .patience = CHANGE_PATIENCE};

    return chain_change(tc->client, json_pack("[s]", text), &o, result, err);
}

static int step_patiently(struct twin_client *tc, const char *text, json_t **result,
                          struct dt_error *err)
{
    int ret = step(tc, text, false, result, err);

    for (unsigned i = 1; i < TRIES && in_the_way(ret); i++) {
        pause_a_little();
        ret = step(tc, text, false, result, err);
    }
    return ret;
}

static char *insert_step(const struct twin_client *tc, const char *position, const char *to,
                         const char *const *more)
{
    struct setting settings[8] = {{(char *)"to", (char *)(uintptr_t)to}};
    struct layer_spec layer = {
        .name = (char *)(uintptr_t)tc->kind, .settings = settings, .count = 1};
    const struct chain_spec spec = {&layer, 1};
    _cleanup_free_ char *text = NULL;

    for (; *more && layer.count < ARRAY_SIZE(settings); more += 2)
        settings[layer.count++] =
            (struct setting){(char *)(uintptr_t)more[0], (char *)(uintptr_t)more[1]};
    text = chain_format(&spec);
    return xasprintf("insert %s %s", position, text);
}

int twin_insert(struct twin_client *tc, const char *position, const char *to,
                const char *const *more, struct dt_error *err)
{
    _cleanup_free_ char *text = NULL;
    json_t *result = NULL, *status = NULL;
    struct dt_error ignored;
    int ret = twin_find(tc, err);

    if (ret > 0)
        return dt_fail(err, -EBUSY, "%s has the layer '%s' already", client_device(tc->client),
                       tc->name);
    text = insert_step(tc, position, to, more);
    ret = ret ?: step_patiently(tc, text, &result, err);
    json_decref(result);
    if (ret < 0)
        return ret;
    ret = twin_find(tc, err);
    ret = ret > 0 ? twin_status(tc, &status, err) : ret ?: dt_fail(err, -ENOENT, "it is gone");
    if (ret == 0 &&
        strcmp(json_string_value(json_object_get(status, "state")) ?: "", "absent") == 0) {
        ret = dt_fail(err, -ENODEV, "%s",
                      json_string_value(json_object_get(status, "reason")) ?: "it is not there");
        twin_remove(tc, NULL, &ignored);
    }
    json_decref(status);
    return ret;
}

int twin_remove(struct twin_client *tc, json_t **result, struct dt_error *err)
{
    _cleanup_free_ char *text = xasprintf("remove %s", tc->name);
    json_t *own = NULL;
    int ret = step_patiently(tc, text, &own, err);

    if (result)
        *result = own;
    else
        json_decref(own);
    return ret;
}

/* ---- Until all is there --------------------------------------------------------------------- */

static void print_progress(json_t *status)
{
    json_int_t bytes = json_integer_value(json_object_get(status, "bytes"));
    json_int_t left = json_integer_value(json_object_get(status, "bytes-left"));
    json_int_t rate = json_integer_value(json_object_get(status, "bytes-per-second"));
    const char *failure = json_string_value(json_object_get(status, "failure"));

    fprintf(stderr, "\r\033[K%s: %.1f %%, %s of %s left",
            json_string_value(json_object_get(status, "state")) ?: "?",
            bytes ? 100.0 * (double)(bytes - left) / (double)bytes : 0.0,
            human_bytes((uint64_t)left), human_bytes((uint64_t)bytes));
    if (rate)
        fprintf(stderr, ", %s/s", human_bytes((uint64_t)rate));
    fprintf(stderr, "%s%s", failure ? "; " : "", failure ?: "");
    fflush(stderr);
}

/* The layer is gone. Was its chain put in its place, by an attempt whose outcome we did not hear?
 */
static bool was_adopted(struct twin_client *tc, json_t **result)
{
    struct chain_spec to = {0}, now = {0};
    struct dt_error ignored;
    json_t *show = NULL;
    const char *text;
    bool ret = false;

    if (!tc->to || client_show(tc->client, &show, &ignored) < 0)
        return false;
    text = json_string_value(json_object_get(show, "written")) ?: "";
    if (chain_parse(&to, tc->to, &ignored) == 0 && chain_parse(&now, text, &ignored) == 0)
        ret = layer_spec_equal(&to.layers[to.count - 1], &now.layers[now.count - 1]);
    if (ret)
        *result = json_pack("{ss}", "chain", text);
    chain_spec_free(&to);
    chain_spec_free(&now);
    json_decref(show);
    return ret;
}

/* It was said to hold the same. */
static int give_up_different(struct twin_client *tc, json_t *status, struct dt_error *err)
{
    long long sector = json_integer_value(json_object_get(status, "different-sector"));
    struct dt_error ignored;

    twin_remove(tc, NULL, &ignored);
    return dt_fail(err, -EPERM,
                   "%s holds something else than the disk, first in sector %lld: the disk is where "
                   "it was (--copy makes them equal)",
                   tc->to, sector);
}

/* 1: it holds all. */
static int look(struct twin_client *tc, bool progress, struct dt_error *err)
{
    json_t *status = NULL;
    const char *state;
    int ret = twin_status(tc, &status, err);

    if (ret == 0 && !tc->to)
        tc->to = xstrdup(json_string_value(json_object_get(status, "to")) ?: "");
    if (ret == -ENODEV)
        ret = dt_fail(err, -ECANCELED, "it was given up meanwhile: the disk is where it was");
    if (ret < 0)
        return ret;
    state = json_string_value(json_object_get(status, "state")) ?: "";
    if (progress)
        print_progress(status);
    if (strcmp(state, "absent") == 0)
        ret = dt_fail(err, -ENODEV, "the second chain is gone: %s",
                      json_string_value(json_object_get(status, "reason")) ?: "");
    else if (strcmp(state, "different") == 0)
        ret = give_up_different(tc, status, err);
    else
        ret = strcmp(state, "in step") == 0;
    json_decref(status);
    return ret;
}

int twin_adopt(struct twin_client *tc, bool force, bool progress, uint64_t patience,
               json_t **result, struct dt_error *err)
{
    _cleanup_free_ char *text = xasprintf("adopt %s", tc->name);
    uint64_t until = dt_clock_ns() + patience;
    bool tried = false;
    int ret;

    progress = progress && isatty(STDERR_FILENO);
    for (;;) {
        ret = force ? 1 : look(tc, progress, err);
        if (ret == -ECANCELED && tried && was_adopted(tc, result))
            ret = 1;
        else if (ret > 0) {
            tried = true;
            ret = step(tc, text, force, result, err) ?: 1;
        }
        if (ret != 0 && !in_the_way(ret)) /* busy, too: something was written just then */
            break;
        if (patience && dt_clock_ns() > until) {
            ret = dt_fail(err, -ETIMEDOUT, "not all is on the second chain yet");
            break;
        }
        pause_a_little();
    }
    if (progress)
        fputs("\r\033[K", stderr);
    free(TAKE_PTR(tc->to));
    return MIN(ret, 0);
}
