/* SPDX-License-Identifier: MIT */
/*
 * uri.c - NBD URIs taken apart. libnbd could do it, but it would also connect by itself, which a
 * confined process may not; and its errors do not say what to write instead.
 */
#include "blk/nbd/uri.h"

#include <limits.h>

#define DEFAULT_PORT "10809"

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The @n bytes at @from without their %XX; NULL where one is wrong or hides a NUL. */
static char *unescape(const char *from, size_t n)
{
    _cleanup_free_ char *out = xcalloc(n + 1, 1);
    size_t used = 0;

    for (size_t i = 0; i < n; i++) {
        int byte = (unsigned char)from[i];

        if (byte == '%') {
            if (i + 2 >= n || hex(from[i + 1]) < 0 || hex(from[i + 2]) < 0)
                return NULL;
            byte = hex(from[i + 1]) << 4 | hex(from[i + 2]);
            i += 2;
        }
        if (byte == '\0')
            return NULL;
        out[used++] = (char)byte;
    }
    return TAKE_PTR(out);
}

static int take(char **field, const char *from, size_t n, struct dt_error *err)
{
    *field = unescape(from, n);
    return *field ? 0 : dt_fail(err, -EINVAL, "'%%' must be followed by two hexadecimal digits");
}

/* [USER@]HOST[:PORT], HOST perhaps in brackets; the user is of TLS alone. */
static int parse_authority(struct remote_uri *uri, const char *at, const char *end,
                           struct dt_error *err)
{
    const char *user = memchr(at, '@', (size_t)(end - at)), *host, *stop;
    int ret;

    if (user && !uri->tls)
        return dt_fail(err, -EINVAL, "a user is for TLS (nbds)");
    host = user ? user + 1 : at;
    if (*host == '[') {
        host++;
        stop = memchr(host, ']', (size_t)(end - host));
        if (!stop)
            return dt_fail(err, -EINVAL, "the bracket of the address is never closed");
        ret = take(&uri->host, host, (size_t)(stop - host), err);
        stop++;
    } else {
        stop = memchr(host, ':', (size_t)(end - host)) ?: end;
        ret = take(&uri->host, host, (size_t)(stop - host), err);
    }
    if (ret < 0)
        return ret;
    if (uri->host[0] == '\0')
        return dt_fail(err, -EINVAL,
                       "the server's name is missing: nbd://HOST/EXPORT, or "
                       "nbd+unix:///EXPORT?socket=PATH");
    if (stop == end) {
        uri->port = xstrdup(DEFAULT_PORT);
        return 0;
    }
    if (*stop != ':' || stop + 1 == end)
        return dt_fail(err, -EINVAL, "a port must follow the host after ':'");
    uri->port = xcalloc((size_t)(end - stop), 1);
    memcpy(uri->port, stop + 1, (size_t)(end - stop) - 1);
    if (strspn(uri->port, "0123456789") != strlen(uri->port) || strlen(uri->port) > 5 ||
        atoi(uri->port) > 65535)
        return dt_fail(err, -EINVAL, "'%.32s' is no port number", uri->port);
    return 0;
}

/* Processes that open this later may have another working directory. */
static char *absolute(char *path)
{
    char cwd[PATH_MAX], *full;

    if (*path == '/' || *path == '\0' || !getcwd(cwd, sizeof(cwd)))
        return path;
    full = xasprintf("%s/%s", cwd, path);
    free(path);
    return full;
}

static int parse_pair(struct remote_uri *uri, bool local, const char *at, const char *end,
                      struct dt_error *err)
{
    const char *equals = memchr(at, '=', (size_t)(end - at)) ?: end;
    size_t n = (size_t)(equals - at);
    int ret;

    if (n == 6 && memcmp(at, "socket", 6) == 0 && equals < end) {
        if (!local)
            return dt_fail(err, -EINVAL, "socket= is for nbd+unix");
        if (uri->path)
            return dt_fail(err, -EINVAL, "socket= appears twice");
        ret = take(&uri->path, equals + 1, (size_t)(end - equals) - 1, err);
        if (ret == 0)
            uri->path = absolute(uri->path);
        return ret;
    }
    if (n > 4 && memcmp(at, "tls-", 4) == 0)
        return uri->tls ? 0 : dt_fail(err, -EINVAL, "%.*s is for TLS: begin with nbds", (int)n, at);
    return dt_fail(err, -EINVAL,
                   "'%.*s' is unknown: there are socket=PATH and tls-...=", (int)MIN(n, (size_t)32),
                   at);
}

static int parse_query(struct remote_uri *uri, bool local, const char *at, struct dt_error *err)
{
    int ret = 0;

    while (ret == 0 && at && *at) {
        const char *end = strpbrk(at, "&;") ?: at + strlen(at);

        ret = parse_pair(uri, local, at, end, err);
        at = *end ? end + 1 : NULL;
    }
    return ret;
}

static int parse(struct remote_uri *uri, const char *text, struct dt_error *err)
{
    static const struct {
        const char *scheme;
        bool tls, local;
    } schemes[] = {{"nbd://", false, false},
                   {"nbds://", true, false},
                   {"nbd+unix://", false, true},
                   {"nbds+unix://", true, true}};
    const char *at = NULL, *slash, *query;
    bool local = false;
    int ret = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(schemes) && !at; i++)
        if (strncmp(text, schemes[i].scheme, strlen(schemes[i].scheme)) == 0) {
            at = text + strlen(schemes[i].scheme);
            uri->tls = schemes[i].tls;
            local = schemes[i].local;
        }
    if (!at)
        return dt_fail(err, -EINVAL,
                       "an NBD URI begins with nbd://, nbds://, nbd+unix:// or "
                       "nbds+unix://");
    if (strchr(at, '#'))
        return dt_fail(err, -EINVAL, "an NBD URI has no '#' (write it as %%23)");
    query = strchr(at, '?') ?: at + strlen(at);
    slash = memchr(at, '/', (size_t)(query - at)) ?: query;
    if (!local)
        ret = parse_authority(uri, at, slash, err);
    if (ret == 0 && slash < query)
        slash++;
    ret = ret ?: take(&uri->export, slash, (size_t)(query - slash), err);
    ret = ret ?: parse_query(uri, local, *query ? query + 1 : query, err);
    if (ret == 0 && local && (!uri->path || !*uri->path))
        return dt_fail(err, -EINVAL, "the socket is missing: nbd+unix:///EXPORT?socket=PATH");
    return ret;
}

int remote_uri_parse(struct remote_uri *uri, const char *text, struct dt_error *err)
{
    int ret;

    *uri = (struct remote_uri){0};
    ret = parse(uri, text, err);
    if (ret < 0) {
        dt_fail_prefix(err, "uri=%.100s%s", text, strlen(text) > 100 ? "..." : "");
        remote_uri_free(uri);
    }
    return ret;
}

void remote_uri_free(struct remote_uri *uri)
{
    free(uri->path);
    free(uri->host);
    free(uri->port);
    free(uri->export);
    *uri = (struct remote_uri){0};
}
