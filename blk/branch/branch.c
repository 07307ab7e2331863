/* SPDX-License-Identifier: MIT */
/* branch.c - chains that layers have beside the one they stand in: branch.h. */
#include "blk/branch/branch.h"

/* A store may be away for now; a chain that names what does not exist never comes. */
static int judge_names(const struct chain_spec *spec, struct dt_error *err)
{
    for (unsigned i = 0; i < spec->count; i++) {
        const char *name = spec->layers[i].name;

        if (strcmp(name, "process") != 0 && !strchr(name, '/') && !registry_find(name, err))
            return -EINVAL;
    }
    return 0;
}

int branch_open(struct device **dev, struct dt_layer *layer, const char *text, struct dt_error *err)
{
    struct loop *loop = layer_loop(layer, 0);
    struct device_config config = {.name = dt_layer_device(layer), .loops = &loop, .threads = 1};
    struct chain_spec spec;
    int ret = chain_parse(&spec, text, err);

    *dev = NULL;
    if (ret < 0)
        return ret;
    config.chain = &spec;
    ret = judge_names(&spec, err) ?: device_new(dev, &config, err);
    chain_spec_free(&spec);
    if (ret < 0)
        *dev = NULL;
    return ret;
}

struct lane *branch_start(struct device *dev, const struct front_ops *ops, void *front, int *ret,
                          struct dt_error *err)
{
    struct lane *lane;

    *ret = device_start(dev, ops, front, err);
    if (*ret < 0)
        return NULL;
    lane = device_lane(dev, 0);
    lane_set_front(lane, front);
    return lane;
}
