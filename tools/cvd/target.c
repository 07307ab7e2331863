/* SPDX-License-Identifier: MIT */
/*
 * target.c - the pool that a command is about: opened, looked at, or served by another process.
 */
#include "tools/cvd/cvd.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define WAIT_NS DT_MS(500)
#define LOOKS   10u
#define WAKE_NS DT_MS(1)

/* A word that is no file here may be a name, which is a link in the folder of names; takes over @text. */
static char *find_pool(char *text)
{
    _cleanup_free_ char *link =
        xasprintf("%s/%s", getenv("DEVTAP_POOLS") ?: "/etc/devtap/pools", text);
    char *path = strchr(text, '/') || access(text, F_OK) == 0 ? NULL : realpath(link, NULL);

    if (!path)
        return text;
    free(text);
    return path;
}

int target_split(const char *text, char **path, char **name, struct dt_error *err)
{
    const char *slash = strrchr(text, '/');

    if (!slash || slash == text || !slash[1])
        return dt_fail(err, -EINVAL,
                       "'%s' is not POOL/DISK, with POOL the path of a pool or its name", text);
    *path = find_pool(xasprintf("%.*s", (int)(slash - text), text));
    *name = xstrdup(slash + 1);
    return 0;
}

/* Of a disk that was named although the command is about all of its pool. */
static char *pool_of(const char *text)
{
    char *path = find_pool(xstrdup(text)), *disk = NULL, *whole;
    struct dt_error err;

    if (access(path, F_OK) == 0 || target_split(text, &whole, &disk, &err) < 0)
        return path;
    free(disk);
    if (access(whole, F_OK) < 0) {
        free(whole);
        return path;
    }
    free(path);
    return whole;
}

/* Not a POOL/DISK: there is such a file, or what stands before the name is a folder, so that it names a pool that is not there. */
static bool is_pool(const char *text)
{
    const char *slash = strrchr(text, '/');
    _cleanup_free_ char *before = NULL;
    struct stat st;

    if (!slash || (stat(text, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))))
        return true;
    before = xasprintf("%.*s", (int)(slash - text), text);
    return stat(*before ? before : "/", &st) == 0 && S_ISDIR(st.st_mode);
}

int target_name(struct target *t, const struct command *c, const char *text, struct dt_error *err)
{
    int ret;

    t->slot = t->first = NO_SLOT;
    t->moment = PRESENT;
    if (c->whole_pool || (c->either && is_pool(text))) {
        t->path = c->makes || c->either ? find_pool(xstrdup(text)) : pool_of(text);
        return 0;
    }
    ret = target_split(text, &t->path, &t->name, err);
    if (ret == 0 && c->names_new)
        *strchrnul(t->name, '@') = '\0';
    return ret;
}

int target_new_name(struct target *t, const char *text, char **name, struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    _cleanup_free_ char *path = NULL, *last = NULL;
    size_t disk = strcspn(t->name, "@");
    const char *at;
    int ret = strchr(text, '/') ? target_split(text, &path, &last, err) : 0;

    if (ret == 0 && path && strcmp(path, t->path) != 0)
        ret = dt_fail(err, -EINVAL, "%s and %s are two pools", path, t->path);
    if (ret < 0)
        return ret;
    last = last ?: xstrdup(text);
    at = r->kind == PX_SNAPSHOT && strchr(t->name, '@') ? strchr(last, '@') : NULL;
    if (at && at != last && (strncmp(last, t->name, disk) != 0 || last + disk != at))
        return dt_fail(err, -EINVAL, "a snapshot stays with its disk: %.*s@NAME", (int)disk,
                       t->name);
    *name = xstrdup(at ? at + 1 : last);
    return 0;
}

int target_other(struct target *t, const char *text, uint32_t *slot, struct dt_error *err)
{
    uint64_t moment;
    int ret = target_other_at(t, text, slot, &moment, err);

    if (ret == 0 && moment != PRESENT)
        return dt_fail(err, -EINVAL, "a snapshot is wanted: %s", text);
    return ret;
}

int target_other_at(struct target *t, const char *text, uint32_t *slot, uint64_t *moment,
                    struct dt_error *err)
{
    _cleanup_free_ char *path = NULL, *name = NULL;
    int ret = 0;

    if (text[0] == '@') {
        const char *at = strchrnul(t->name, '@');

        name = xasprintf("%.*s%s", (int)(at - t->name), t->name, text);
    } else {
        ret = target_split(text, &path, &name, err);
        if (ret == 0 && strcmp(path, t->path))
            ret = dt_fail(err, -EINVAL, "%s and %s are two pools", path, t->path);
    }
    if (ret < 0)
        return ret;
    return pool_moment(t->pool, name, slot, moment, err);
}

/* Beside a process that writes to the pool, what a root reaches may be gone before it was read:
 * look again. */
static int look(struct target *t, struct store *store, struct dt_error *err)
{
    const struct pool_options o = {.read_only = true};
    int ret = -EBADMSG;

    for (unsigned i = 0; i < LOOKS && ret == -EBADMSG; i++)
        ret = pool_open(&t->pool, store, &o, err);
    return ret;
}

int target_served_by(const char *path, struct dt_error *err)
{
    _cleanup_free_ char *name = cvd_socket(path);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_close_ int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(name) >= sizeof(addr.sun_path))
        return 0; /* nobody could have made it */
    strcpy(addr.sun_path, name);
    if (sock >= 0 && connect(sock, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
        return TAKE_FD(sock);
    if (sock >= 0 && (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR))
        return 0;
    return dt_fail(err, -errno, "%s: %s", name, strerror(errno));
}

int target_ask(const char *path, json_t *request, int timeout_ms, json_t **result,
               struct dt_error *err)
{
    int sock = target_served_by(path, err), ret;

    if (sock <= 0) {
        json_decref(request);
        return sock ?: dt_fail(err, -ENOENT, "nobody serves %s", path);
    }
    ret = cvd_ask(sock, request, timeout_ms, result, err);
    close(sock);
    return ret;
}

static int open_pool(struct target *t, const struct command *c, struct dt_error *err)
{
    struct store_file_options file = {.read_only = c->needs == NEEDS_LOOK};
    const struct pool_options o = {0};
    struct store *store;
    int ret = store_file_open(&store, t->path, &file, err);

    if (ret < 0)
        return ret;
    if (c->needs == NEEDS_LOOK)
        ret = look(t, store, err);
    else
        ret = store_file_lock(store, dt_clock_ns() + WAIT_NS, err)
                  ?: pool_open(&t->pool, store, &o, err);
    if (ret < 0)
        store->close(store);
    return ret;
}

int target_look(struct target *t, struct dt_error *err)
{
    const struct command look = {.needs = NEEDS_LOOK, .moments = true};
    int ret = open_pool(t, &look, err);

    return ret ?: target_find(t, &look, err);
}

/* DISK@A%B, as zfs has it: no name has such a sign. */
static int find_range(struct target *t, const char *percent, struct dt_error *err)
{
    _cleanup_free_ char *first = xasprintf("%.*s", (int)(percent - t->name), t->name);
    const char *at = strchr(first, '@');
    _cleanup_free_ char *last =
        xasprintf("%.*s@%s", (int)(at ? at - first : 0), first, percent + 1);

    if (!at || !percent[1])
        return dt_fail(err, -EINVAL, "snapshots from A to B are DISK@A%%B, not %s", t->name);
    t->first = pool_find(t->pool, first, err);
    t->slot = t->first == NO_SLOT ? NO_SLOT : pool_find(t->pool, last, err);
    return t->slot == NO_SLOT ? -ENOENT : 0;
}

int target_find(struct target *t, const struct command *c, struct dt_error *err)
{
    const char *percent = t->name ? strchr(t->name, '%') : NULL;

    if (!t->name || c->makes)
        return 0;
    if (percent && c->ranges)
        return find_range(t, percent, err);
    if (strstr(t->name, "@{") && !c->moments)
        return dt_fail(err, -EINVAL, "what a disk was can be looked at and copied, and no more: %s",
                       t->name);
    return pool_moment(t->pool, t->name, &t->slot, &t->moment, err);
}

int target_open(struct target *t, const struct command *c, const char *text, struct dt_error *err)
{
    int ret = target_name(t, c, text, err);

    if (ret == 0 && c->needs > NEEDS_LOOK)
        ret = target_served_by(t->path, err);
    if (ret > 0) {
        t->sock = ret;
        return 0;
    }
    if (ret == 0 && c->needs == NEEDS_SERVED)
        return dt_fail(err, -ENOENT, "nobody serves %s: 'cvd pool open %s' does", t->path, t->path);
    if (ret < 0 || c->needs == NEEDS_NOTHING)
        return ret;
    ret = open_pool(t, c, err);
    return ret ?: target_find(t, c, err);
}

int target_data(struct target *t, struct dt_error *err)
{
    const struct loop_config config = {0};
    int ret = loop_new(&t->loop, &config, err);

    if (ret == 0)
        ret = store_file_loop(pool_store(t->pool), t->loop);
    return ret < 0 ? dt_fail(err, ret, "no loop: %s", strerror(-ret)) : 0;
}

static void woken(struct dt_timer *timer)
{
}

/* What was waited for may have happened in the pool's turn, with no I/O: so no long sleep. */
void target_turn(struct target *t)
{
    struct dt_timer timer = {.fire = woken};

    pool_turn(t->pool);
    loop_timer_set(t->loop, &timer, loop_now(t->loop) + WAKE_NS);
    loop_turn(t->loop, true);
    loop_timer_cancel(t->loop, &timer);
    pool_turn(t->pool);
}

int target_close(struct target *t, int ret, struct dt_error *err)
{
    struct dt_error late;
    int closed = 0;

    if (t->loop)
        store_file_loop(pool_store(t->pool), NULL);
    if (t->pool)
        closed = pool_close(t->pool, &late);
    if (t->loop)
        loop_free(t->loop);
    if (t->sock > 0)
        close(t->sock);
    free(t->path);
    free(t->name);
    if (ret == 0 && closed < 0)
        *err = late;
    return ret ?: closed;
}
