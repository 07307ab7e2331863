/* SPDX-License-Identifier: MIT */
/*
 * fuzz_pool_request.c - any bytes as the first line of a connection to the process that serves a pool.
 *
 * Invariants: an error is a text and leaves nothing behind; what was accepted has all that its
 * verb needs, as texts without zero bytes in them.
 */
#include "tools/pool/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct pool_request request;
    struct dt_error err = {""};

    if (size > REQUEST_MAX)
        return 0;
    if (pool_request_parse(&request, (const char *)bytes, size, &err) < 0) {
        CHECK(err.text[0] && !request.json && !request.words);
        return 0;
    }
    if (request.verb == REQUEST_OPEN)
        CHECK(*request.disk && *request.owner);
    if (request.verb == REQUEST_MAP)
        CHECK(*request.disk && request.start <= INT64_MAX && request.length <= INT64_MAX);
    if (request.verb == REQUEST_EVENTS)
        CHECK(!request.disk || *request.disk);
    if (request.verb == REQUEST_RUN) {
        CHECK(*request.pool && request.count > 0 && !request.words[request.count]);
        for (unsigned i = 0; i < request.count; i++)
            CHECK(request.words[i]);
    }
    pool_request_free(&request);
    return 0;
}
