/* SPDX-License-Identifier: MIT */
/* memory.c - counts writes, and remembers across workers how many there were. */
#include <devtap/block.h>

#include <string.h>

struct memory {
    uint64_t writes;
    uint64_t loaded;
};
struct state {
    uint64_t writes, inverse;
};

static void submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct memory *m = c->layer_data;

    for (unsigned i = 0; i < n; i++)
        m->writes += reqs[i]->op == DT_OP_WRITE;
    dt_layer_state_changed(c->layer);
    dt_forward(c, reqs, n);
}

static int64_t save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct memory *m = dt_layer_data(layer);
    const struct state s = {m->writes, ~m->writes};

    memcpy(buf, &s, sizeof(s));
    return sizeof(s);
}

static int load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err)
{
    struct memory *m = dt_layer_data(layer);
    struct state s;

    if (version != 1 || size != sizeof(s))
        return dt_fail(err, -EINVAL, "%zu bytes of version %u", size, version);
    memcpy(&s, buf, sizeof(s));
    if (s.writes != ~s.inverse)
        return dt_fail(err, -EBADMSG, "it contradicts itself");
    m->writes = m->loaded = s.writes;
    return 0;
}

static int count(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                 struct dt_error *err)
{
    const struct memory *m = dt_layer_data(layer);

    dt_reply_u64(reply, "writes", m->writes);
    dt_reply_u64(reply, "loaded", m->loaded);
    return 0;
}

static const struct dt_verb verbs[] = {{"count", "", "Tell how many.", count}, {NULL}};

static const struct dt_block_ext memory = {
    DT_BLOCK_EXT_HEADER,
    .name = "memory",
    .summary = "counts writes and remembers",
    .layer_size = sizeof(struct memory),
    .verbs = verbs,
    .state_version = 1,
    .submit = submit,
    .save = save,
    .load = load,
};
DT_BLOCK_EXTENSION(memory)
