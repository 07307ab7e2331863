/* SPDX-License-Identifier: MIT */
/*
 * tls.h - TLS to an NBD server, spoken by us: see tls.c for how and why.
 */
#ifndef NBD_TLS_H
#define NBD_TLS_H

#include "blk/nbd/uri.h"

#include <gnutls/gnutls.h>

/**
 * struct tls_keys - what sessions need of files, read once, while files can be read.
 * @certificates, @psk: one of the two.
 * @name: whom the server's certificate must name; NULL: nobody in particular.
 */
struct tls_keys {
    gnutls_certificate_credentials_t certificates;
    gnutls_psk_client_credentials_t psk;
    gnutls_priority_t priority;
    char *name;
    bool verify;
};

/** tls_keys_load() - for the server of @uri. Return: 0; -ENOENT or another -errno of a file; -EKEYREJECTED for what
 *  GnuTLS cannot use. */
int tls_keys_load(struct tls_keys **keys, const struct remote_uri *uri, struct dt_error *err);
/** tls_keys_free() - once no line is left that was made with them. NULL is fine. */
void tls_keys_free(struct tls_keys *keys);

/** struct tls_line - one session, on a thread of its own. */
struct tls_line;
/**
 * tls_line_new() - speak TLS on @server, and the rest of NBD in the clear on @plain.
 * @server: a socket that is connected or connecting, non-blocking; taken over in any case.
 * @plain: set to a socket, the caller's: an NBD server's, up to the end of the session.
 *
 * Nothing is known yet when it returns: a session that cannot be is one that ends before its
 * greeting. Return: 0; -errno of what a thread needs.
 */
int tls_line_new(struct tls_line **line, const struct tls_keys *keys, int server, int *plain,
                 struct dt_error *err);
/** tls_line_reason() - why it ended; NULL: it has not, or not by itself. Valid until it is freed. */
const char *tls_line_reason(const struct tls_line *line);
/** tls_line_free() - end it: what was written to @plain before is still sent if the server takes it at once. NULL is
 *  fine. */
void tls_line_free(struct tls_line *line);

#endif
