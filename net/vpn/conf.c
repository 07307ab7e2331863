/* SPDX-License-Identifier: MIT */
/*
 * conf.c - keys and peers from a file in the form that wg(8) and wg-quick(8) have, of which we know the keys in the table
 * below; and one of ours, MACs. A word that is not known is refused: it may have been meant to protect something.
 */
#include "net/vpn/vpn.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>

#define CONF_MAX (256u << 10)

/** struct reader - @peer: of the section that we are in; NULL = [Interface]. */
struct reader {
    struct vpn_conf *conf;
    struct vpn_conf_peer *peer;
    const char *name;
    unsigned line;
    bool begun;
    struct dt_error *err;
};

static int complain(struct reader *r, const char *what)
{
    return dt_fail(r->err, -EINVAL, "%s:%u: %s", r->name, r->line, what);
}

/* ---- Values; never repeated in messages, since one may be a key in the wrong place ---- */

static int read_key(struct reader *r, const char *value, uint8_t key[WG_KEY])
{
    size_t n = 0;

    if (sodium_base642bin(key, WG_KEY, value, strlen(value), NULL, &n, NULL,
                          sodium_base64_VARIANT_ORIGINAL) < 0 ||
        n != WG_KEY)
        return complain(r, "no key: 44 characters of base64, as 'wg genkey' and 'wg pubkey' write");
    return 0;
}

static int read_private(struct reader *r, char *value)
{
    r->conf->has_private = true;
    return read_key(r, value, r->conf->private_);
}

static int read_public(struct reader *r, char *value)
{
    r->peer->has_public = true;
    return read_key(r, value, r->peer->public_);
}

static int read_psk(struct reader *r, char *value)
{
    return read_key(r, value, r->peer->psk);
}

static int read_number(struct reader *r, const char *value, uint32_t most, uint32_t *number)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno || n > most)
        return complain(r, "no number from 0 to 65535");
    *number = (uint32_t)n;
    return 0;
}

static int read_port(struct reader *r, char *value)
{
    uint32_t port = 0;
    int ret = read_number(r, value, UINT16_MAX, &port);

    r->conf->port = (uint16_t)port;
    return ret;
}

static int read_keepalive(struct reader *r, char *value)
{
    return strcmp(value, "off") == 0 ? 0 : read_number(r, value, UINT16_MAX, &r->peer->keepalive);
}

static int read_endpoint(struct reader *r, char *value)
{
    if (snprintf(r->peer->endpoint, sizeof(r->peer->endpoint), "%s", value) >=
        (int)sizeof(r->peer->endpoint))
        return complain(r, "an endpoint has 127 characters at most");
    return 0;
}

/* @bits: any prefix length may follow, or 32 alone. */
static int read_tunnel(struct reader *r, char *value, bool any, uint32_t *tunnel)
{
    char *slash = strchr(value, '/');
    uint32_t bits = 32;
    struct in_addr address;

    if (slash) {
        *slash = '\0';
        if (read_number(r, slash + 1, 32, &bits) < 0)
            bits = 33;
    }
    if (inet_pton(AF_INET, value, &address) != 1 || bits > 32 || (!any && bits != 32) ||
        address.s_addr == 0)
        return complain(r, any ? "no IPv4 address such as 10.9.0.1/24"
                               : "one IPv4 address such as 10.9.0.2/32 is needed here: the peer's "
                                 "end of the tunnel that GRE is to run in");
    *tunnel = address.s_addr;
    return 0;
}

static int read_address(struct reader *r, char *value)
{
    return read_tunnel(r, value, true, &r->conf->tunnel);
}

static int read_allowed(struct reader *r, char *value)
{
    return read_tunnel(r, value, false, &r->peer->tunnel);
}

static int read_mac(const char *text, uint8_t mac[6])
{
    unsigned b[6];
    int end = 0;

    if (sscanf(text, " %2x:%2x:%2x:%2x:%2x:%2x %n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &end) != 6 ||
        text[end] || b[0] & 1 || !(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]))
        return -EINVAL;
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return 0;
}

static int read_macs(struct reader *r, char *value)
{
    struct vpn_macs_list *list = r->peer ? &r->peer->macs : &r->conf->macs;
    char *rest;

    for (char *word = strtok_r(value, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        if (list->n == VPN_LISTS)
            return complain(r, "32 addresses at most");
        if (read_mac(word, list->mac[list->n]) < 0)
            return complain(r, "no list of addresses such as 52:54:00:12:34:56, "
                               "52:54:00:12:34:57");
        list->n++;
    }
    return 0;
}

/* ---- Lines ---- */

enum { INTERFACE = 1, PEER = 2 };
static const struct {
    const char *name;
    unsigned sections;
    int (*read)(struct reader *r, char *value);
} words[] = {
    {"PrivateKey", INTERFACE, read_private}, {"ListenPort", INTERFACE, read_port},
    {"Address", INTERFACE, read_address},    {"MACs", INTERFACE | PEER, read_macs},
    {"PublicKey", PEER, read_public},        {"PresharedKey", PEER, read_psk},
    {"Endpoint", PEER, read_endpoint},       {"PersistentKeepalive", PEER, read_keepalive},
    {"AllowedIPs", PEER, read_allowed},
};

static char *trim(char *text)
{
    size_t n;

    text += strspn(text, " \t\r");
    n = strlen(text);
    while (n && strchr(" \t\r", text[n - 1]))
        text[--n] = '\0';
    return text;
}

static int begin_section(struct reader *r, const char *line)
{
    if (strcasecmp(line, "[Interface]") == 0) {
        r->peer = NULL;
    } else if (strcasecmp(line, "[Peer]") == 0) {
        if (r->conf->npeers == VPN_PEERS)
            return complain(r, "63 peers at most");
        r->peer = &r->conf->peers[r->conf->npeers++];
        r->peer->line = r->line;
    } else {
        return complain(r, "neither [Interface] nor [Peer]");
    }
    r->begun = true;
    return 0;
}

static int read_line(struct reader *r, char *line)
{
    char *value = strchr(line, '='), *word;
    unsigned section = r->peer ? PEER : INTERFACE;

    if (line[0] == '[')
        return begin_section(r, line);
    if (!value || !r->begun)
        return complain(r, "neither a section nor NAME = VALUE in one");
    *value++ = '\0';
    word = trim(line);
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
        if (strcasecmp(word, words[i].name) == 0 && words[i].sections & section)
            return words[i].read(r, trim(value));
    return dt_fail(r->err, -EINVAL, "%s:%u: '%.40s' is not known in [%s]", r->name, r->line, word,
                   section == PEER ? "Peer" : "Interface");
}

static int judge(struct reader *r)
{
    const struct vpn_conf *conf = r->conf;

    if (!conf->has_private)
        return dt_fail(r->err, -EINVAL, "%s: [Interface] has no PrivateKey", r->name);
    if (conf->npeers == 0)
        return dt_fail(r->err, -EINVAL, "%s: there is no [Peer]", r->name);
    for (unsigned i = 0; i < conf->npeers; i++) {
        r->line = conf->peers[i].line;
        if (!conf->peers[i].has_public)
            return complain(r, "this peer has no PublicKey");
        if (conf->peers[i].tunnel && !conf->tunnel)
            return complain(r, "AllowedIPs asks for GRE, and [Interface] has no Address for it");
        for (unsigned k = 0; k < i; k++)
            if (memcmp(conf->peers[k].public_, conf->peers[i].public_, WG_KEY) == 0)
                return complain(r, "another peer has the same PublicKey");
    }
    return 0;
}

int vpn_conf_parse(struct vpn_conf *conf, char *text, const char *name, struct dt_error *err)
{
    struct reader r = {.conf = conf, .name = name, .err = err};
    int ret = 0;

    memset(conf, 0, sizeof(*conf));
    for (char *next; ret == 0 && text; text = next) {
        next = strchr(text, '\n');
        if (next)
            *next++ = '\0';
        r.line++;
        text[strcspn(text, "#")] = '\0';
        text = trim(text);
        if (*text)
            ret = read_line(&r, text);
    }
    return ret ?: judge(&r);
}

/* ---- The file ---- */

static int open_private(const char *path, struct dt_error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return dt_fail(err, -errno, "conf=%s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode) && st.st_mode & (S_IRWXO | S_IWGRP))
        return dt_fail(err, -EPERM,
                       "conf=%s has a private key, and its mode %03o lets others at it: chmod 600",
                       path, st.st_mode & 0777);
    return TAKE_FD(fd);
}

/* Until the end: it may be a pipe. Returns the length. */
static ssize_t read_all(int fd, char *text, size_t room)
{
    size_t n = 0;

    while (n < room) {
        ssize_t got = read(fd, text + n, room - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : (ssize_t)n;
        n += (size_t)got;
    }
    return -EFBIG;
}

int vpn_conf_read(struct vpn_conf **conf, const char *path, struct dt_error *err)
{
    _cleanup_close_ int fd = open_private(path, err);
    char *text;
    ssize_t n;
    int ret;

    if (fd < 0)
        return fd;
    text = sodium_malloc(CONF_MAX);
    *conf = sodium_malloc(sizeof(**conf));
    if (!text || !*conf) {
        ret = dt_fail(err, -ENOMEM, "conf=%s: no memory", path);
    } else if ((n = read_all(fd, text, CONF_MAX)) < 0) {
        ret = dt_fail(err, (int)n, "conf=%s: %s", path, strerror((int)-n));
    } else {
        text[n] = '\0'; /* there is room: fewer than CONF_MAX were read */
        ret = vpn_conf_parse(*conf, text, path, err);
    }
    sodium_free(text);
    if (ret < 0)
        sodium_free(TAKE_PTR(*conf));
    return ret;
}
