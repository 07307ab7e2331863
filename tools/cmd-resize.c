/* SPDX-License-Identifier: MIT */
/* cmd-resize.c - devtap resize: the command `resize` of a disk's back. */
#include "tools/tools.h"

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    struct client *client = NULL;
    struct dt_error err;
    uint64_t bytes;
    int ret = 0;

    if (parse_size(argv[1], &bytes) < 0)
        ret = dt_fail(&err, -EINVAL, "'%.40s' is not a size (such as 512M or 20G)", argv[1]);
    ret = ret ?: client_find(&client, argv[0], &err);
    if (ret == 0)
        ret = client_call(client,
                          json_pack("{ss ss ss}", "verb", "resize", "device", client_device(client),
                                    "size", argv[1]),
                          NULL, &err);
    client_free(client);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

static const struct dt_param no_options[] = {{NULL}};

const struct verb verb_resize = {
    .name = "resize",
    .args = "DEVICE SIZE",
    .summary = "change the size of a disk; the guest sees it at once",
    .groups = {{"Options", no_options}},
    .min_args = 2,
    .max_args = 2,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
