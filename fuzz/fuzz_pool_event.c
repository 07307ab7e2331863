/* SPDX-License-Identifier: MIT */
/*
 * fuzz_pool_event.c - any bytes as a line of the process that serves a pool, on the connection for events.
 *
 * Invariants: what is accepted as an event has a name and a text, both one line of printable characters.
 */
#include "base/base.h"
#include "blk/cvd/events.h"

#include <string.h>

static bool printable(const char *text, size_t size)
{
    size_t n = strnlen(text, size);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return false;
    return n < size;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct cvd_event e;
    int ret = cvd_event_parse(&e, (const char *)bytes, size);

    CHECK(ret == 1 || ret == 0 || ret == -EINVAL);
    if (ret == 1)
        CHECK(e.event[0] && printable(e.event, sizeof(e.event)) &&
              printable(e.text, sizeof(e.text)));
    return 0;
}
