/* SPDX-License-Identifier: MIT */
/*
 * fuzz_nbd_uri.c - any text as an NBD URI.
 *
 * Invariants: an error is a text; what was accepted has either a socket's path or a host with a
 * port number, and an export's name; nothing leaks.
 */
#include "blk/nbd/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    _cleanup_free_ char *text = xcalloc(size + 1, 1);
    struct dt_error err = {""};
    struct remote_uri uri;

    if (size)
        memcpy(text, bytes, size);
    if (remote_uri_parse(&uri, text, &err) < 0) {
        CHECK(err.text[0] != '\0' && !uri.path && !uri.host && !uri.port && !uri.export);
        return 0;
    }
    CHECK(uri.export && !uri.path == !!uri.host && !uri.host == !uri.port);
    CHECK(!uri.path || uri.path[0] == '/');
    CHECK(uri.tls || !(uri.user || uri.certificates || uri.psk_file || uri.tls_hostname));
    CHECK(!uri.port || (atoi(uri.port) >= 0 && atoi(uri.port) <= 65535));
    remote_uri_free(&uri);
    return 0;
}
