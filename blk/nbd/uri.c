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

/* USER@, whom a shared key is of; @at goes behind it. */
static int parse_user(struct remote_uri *uri, const char **at, const char *end,
                      struct dt_error *err)
{
    const char *from = *at, *stop = memchr(from, '@', (size_t)(end - from));

    if (!stop)
        return 0;
    if (!uri->tls)
        return dt_fail(err, -EINVAL, "a user is for TLS (nbds)");
    *at = stop + 1;
    return take(&uri->user, from, (size_t)(stop - from), err);
}

/* HOST[:PORT], HOST perhaps in brackets. */
static int parse_host(struct remote_uri *uri, const char *host, const char *end,
                      struct dt_error *err)
{
    const char *stop;
    int ret;

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

static int parse_switch(bool *field, const char *value, struct dt_error *err)
{
    static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on"};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(value, words[i]) == 0) {
            *field = i % 2;
            return 0;
        }
    return dt_fail(err, -EINVAL, "tls-verify-peer=%.32s: write true or false", value);
}

/* The text at @n bytes of @name, as a field of @uri; NULL: there is none of that name. */
static char **field_of(struct remote_uri *uri, const char *name, size_t n)
{
    const struct {
        const char *name;
        char **field;
    } fields[] = {{"socket", &uri->path},
                  {"tls-certificates", &uri->certificates},
                  {"tls-psk-file", &uri->psk_file},
                  {"tls-hostname", &uri->tls_hostname}};

    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
        if (strlen(fields[i].name) == n && memcmp(name, fields[i].name, n) == 0)
            return fields[i].field;
    return NULL;
}

static int parse_verify(struct remote_uri *uri, const char *at, size_t n, struct dt_error *err)
{
    _cleanup_free_ char *value = NULL;
    int ret = take(&value, at, n, err);

    return ret ?: parse_switch(&uri->tls_verify, value, err);
}

static int parse_pair(struct remote_uri *uri, bool local, const char *at, const char *end,
                      struct dt_error *err)
{
    const char *equals = memchr(at, '=', (size_t)(end - at)), *value = equals ? equals + 1 : end;
    size_t n = (size_t)((equals ?: end) - at);
    char **field = field_of(uri, at, n);
    bool verify = n == 15 && memcmp(at, "tls-verify-peer", n) == 0;
    int ret;

    if (!equals || (!field && !verify))
        return dt_fail(err, -EINVAL,
                       "'%.*s' is unknown: there are socket=PATH, tls-certificates=DIR, "
                       "tls-psk-file=FILE, tls-hostname=NAME and tls-verify-peer=true|false",
                       (int)MIN(n, (size_t)32), at);
    if (field != &uri->path && !uri->tls)
        return dt_fail(err, -EINVAL, "%.*s is for TLS: begin with nbds", (int)n, at);
    if (verify)
        return parse_verify(uri, value, (size_t)(end - value), err);
    if (field == &uri->path && !local)
        return dt_fail(err, -EINVAL, "socket= is for nbd+unix");
    if (*field)
        return dt_fail(err, -EINVAL, "%.*s= appears twice", (int)n, at);
    ret = take(field, value, (size_t)(end - value), err);
    if (ret == 0 && field != &uri->tls_hostname)
        *field = absolute(*field);
    return ret;
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
    int ret;

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
    ret = parse_user(uri, &at, slash, err);
    if (ret == 0 && !local)
        ret = parse_host(uri, at, slash, err);
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

    *uri = (struct remote_uri){.tls_verify = true};
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
    free(uri->user);
    free(uri->certificates);
    free(uri->psk_file);
    free(uri->tls_hostname);
    *uri = (struct remote_uri){0};
}
