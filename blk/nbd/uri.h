/* SPDX-License-Identifier: MIT */
/* uri.h - NBD URIs, as the NBD project's doc/uri.md defines them: what we need to know of one. */
#ifndef NBD_URI_H
#define NBD_URI_H

#include "base/base.h"

/**
 * struct remote_uri - the parts of a URI, unescaped, owned.
 * @tls:    nbds, and then may be set: @user and @psk_file (absolute) of a shared key, @certificates
 *          (a folder, absolute), @tls_hostname (the name to expect in the server's certificate, if
 *          it is not @host), @tls_verify (the default: the certificate must be good).
 * @path:   of a Unix socket, made absolute; or NULL, and @host and @port are set.
 * @export: the export's name; "" is the server's default.
 */
struct remote_uri {
    bool tls, tls_verify;
    char *path, *host, *port;
    char *export;
    char *user, *certificates, *psk_file, *tls_hostname;
};

/** remote_uri_parse() - `nbd[s]://HOST[:PORT]/EXPORT`, `nbd[s]+unix:///EXPORT?socket=PATH`. */
int remote_uri_parse(struct remote_uri *uri, const char *text, struct dt_error *err);
void remote_uri_free(struct remote_uri *uri);

#endif
