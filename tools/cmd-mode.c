/* SPDX-License-Identifier: MIT */
/* cmd-mode.c - devtap mode: who serves the guest's rings, the chain or the rear behind it. */
#include "tools/tools.h"

#include <time.h>

#define BACK    "vhost-user" /* the back that can be detached; others have modes, too */
#define LOOK_NS DT_MS(20)
#define WAIT_NS DT_S(10)

struct mode_options {
    bool force, copy, compare;
};

/* The front's part of what `show` tells; new reference. */
static int ask(struct client *client, json_t **front, struct dt_error *err)
{
    json_t *show = NULL;
    int ret = client_show(client, &show, err);

    if (ret < 0)
        return ret;
    *front = json_incref(json_object_get(show, "front"));
    json_decref(show);
    return *front ? 0 : dt_fail(err, -EAGAIN, "%s has no front yet", client_device(client));
}

static int wish(struct client *client, const char *back, const char *mode, struct dt_error *err)
{
    json_t *reply = NULL;
    int ret = client_do(client, back, "mode", mode, &reply, err);

    json_decref(reply);
    return ret;
}

/* ---- Another back --------------------------------------------------------------------------- */

/* What the device stands on: @back is the layer's name, @rear the detached one as written, or NULL;
 * owned. @content: other backs may hold something else; a card's hold nothing. */
static int find_back(struct client *client, char **back, char **rear, bool *content,
                     struct dt_error *err)
{
    json_t *show = NULL, *chain;
    int ret = client_show(client, &show, err);

    *back = *rear = NULL;
    if (ret < 0)
        return ret;
    chain = json_object_get(show, "chain");
    *content = !json_object_get(show, "card");
    *back = xstrdup(json_string_value(
                        json_object_get(json_array_get(chain, json_array_size(chain) - 1), "name"))
                        ?: "");
    if (json_object_get(show, "rear"))
        *rear = xstrdup(json_string_value(json_object_get(show, "rear")) ?: "");
    json_decref(show);
    return 0;
}

/* Its content, if it has any, is equal because it was copied or compared, or because somebody says so. */
static int put_back(struct client *client, const char *back, const char *chain,
                    const struct mode_options *o, struct dt_error *err)
{
    const struct change_options how = {.force = o->force, .patience = CHANGE_PATIENCE};
    json_t *result = NULL;
    int ret;

    if (o->copy || o->compare) {
        ret = move_back(client, chain, o->compare, &result, err);
    } else {
        _cleanup_free_ char *step = xasprintf("replace %s %s", back, chain);

        ret = chain_change(client, json_pack("[s]", step), &how, &result, err);
    }
    json_decref(result);
    return ret;
}

/* To go on with another content than the guest knows takes one of these. */
static bool vouched(const struct mode_options *o)
{
    return o->force || o->copy || o->compare;
}

static bool is_rear(const char *back)
{
    size_t n = strlen(BACK);

    return strncmp(back, BACK, n) == 0 && (back[n] == '\0' || back[n] == '#');
}

static int intercept(struct client *client, const char *chain, const struct mode_options *o,
                     struct dt_error *err)
{
    _cleanup_free_ char *back = NULL, *rear = NULL;
    bool content = true;
    int ret = find_back(client, &back, &rear, &content, err);

    if (ret < 0)
        return ret;
    if (!chain)
        return dt_fail(err, -EINVAL, "which BACK is to serve it?");
    if (!is_rear(back))
        return dt_fail(err, -EINVAL, "%s has no rear to be detached: it stands on '%s'",
                       client_device(client), back);
    if (content && !vouched(o))
        return dt_fail(err, -EPERM,
                       "the guest could read other data then: --copy copies the disk there first, "
                       "--compare compares the two, --force does it if you know them to be equal");
    return put_back(client, back, chain, o, err);
}

/* Passthrough and interpose need the rear. */
static int attach(struct client *client, const char *mode, const struct mode_options *o,
                  struct dt_error *err)
{
    _cleanup_free_ char *back = NULL, *rear = NULL;
    bool content = true;
    int ret = find_back(client, &back, &rear, &content, err);

    if (ret == 0 && rear) {
        if (strcmp(mode, "interpose") != 0)
            return dt_fail(err, -EBUSY, "the rear is detached: first 'devtap mode %s interpose'",
                           client_device(client));
        if (content && !vouched(o))
            return dt_fail(
                err, -EPERM,
                "the rear has not seen what was written meanwhile: --copy copies the disk to it "
                "first, --compare compares the two, --force does it if you know them to be equal");
        ret = put_back(client, back, rear, o, err);
    }
    return ret ?: wish(client, rear ? BACK : back, mode, err); /* a back without modes says so */
}

static int set_mode(struct client *client, const char *mode, const char *chain,
                    const struct mode_options *o, struct dt_error *err)
{
    if (o->force + o->copy + o->compare > 1)
        return dt_fail(err, -EINVAL, "--copy, --compare and --force exclude each other");
    if (strcmp(mode, "intercept") == 0)
        return intercept(client, chain, o, err);
    if (chain)
        return dt_fail(err, -EINVAL, "%s takes no BACK", mode);
    return attach(client, mode, o, err);
}

/* ---- What became of it ---------------------------------------------------------------------- */

static const char *text_of(json_t *front, const char *key)
{
    return json_string_value(json_object_get(front, key)) ?: "";
}

/* Until it is so, or @deadline: then the reason is shown, and it will be so when that is over. */
static int await(struct client *client, const char *mode, json_t **front, struct dt_error *err)
{
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    uint64_t end = dt_clock_ns() + WAIT_NS;

    for (;;) {
        int ret = ask(client, front, err);

        if (ret < 0 || strcmp(text_of(*front, "mode"), mode) == 0 || dt_clock_ns() >= end ||
            !json_is_true(json_object_get(*front, "attached")))
            return ret;
        json_decref(*front);
        nanosleep(&pause, NULL);
    }
}

static void print_mode(json_t *front)
{
    const char *why = text_of(front, "mode_because");

    printf("%s", text_of(front, "mode"));
    if (strcmp(text_of(front, "mode"), text_of(front, "mode_wanted")) != 0)
        printf(", %s when that can be", text_of(front, "mode_wanted"));
    printf("%s%s\n", *why ? ": " : "", why);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    struct client *client = NULL;
    struct dt_error err;
    json_t *front = NULL;
    int ret = client_find(&client, argv[0], &err);

    if (ret == 0 && argc > 1)
        ret = set_mode(client, argv[1], argv[2], options, &err)
                  ?: await(client, argv[1], &front, &err);
    else if (ret == 0)
        ret = ask(client, &front, &err);
    client_free(client);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    print_mode(front);
    json_decref(front);
    return STATUS_DONE;
}

static const struct dt_param options[] = {
    {"copy", DT_PARAM_BOOL, .offset = offsetof(struct mode_options, copy),
     .help = "To another back and from it: copy the disk first, as devtap move-back does."},
    {"compare", DT_PARAM_BOOL, .offset = offsetof(struct mode_options, compare),
     .help = "The same, if a comparison of the two finds them equal."},
    {"force", DT_PARAM_BOOL, .offset = offsetof(struct mode_options, force),
     .help = "To another back and from it: you know that both hold the same."},
    {NULL},
};

const struct verb verb_mode = {
    .name = "mode",
    .args = "[OPTION...] DEVICE [passthrough|interpose|intercept BACK]",
    .summary = "who serves a disk: the back end behind it, the chain before it, or a back of ours",
    .help = "Passthrough: the back end that a disk with the back `vhost-user` or `cvd` stands on "
            "serves the guest's rings itself. Interpose: the chain does, before that back end. "
            "Intercept: the "
            "chain "
            "does, and ends in BACK, with the back end detached. Changed while the guest runs.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct mode_options),
    .min_args = 1,
    .max_args = 3,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
