/* SPDX-License-Identifier: MIT */
/*
 * fuzz_guest_request.c - any line that a VM may send through its port.
 *
 * Invariants: an error is a text, and leaves nothing to free; a name that was accepted can be no option,
 * no other disk and no moment of one, whatever comes behind it.
 */
#include "tools/cvd/guest-request.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct dt_error err = {""};
    struct guest_request r;

    if (guest_request_parse(&r, size ? (const char *)bytes : "", size, &err) < 0) {
        CHECK(err.text[0] != '\0' && !r.json);
        return 0;
    }
    CHECK(r.verb == GUEST_SNAPSHOT || r.verb == GUEST_SYNC);
    if (r.name) {
        CHECK(r.name[0] != '-' && r.name[0] != '.' && r.name[0] != '\0');
        CHECK(!strpbrk(r.name, "/@{} =\n"));
    }
    guest_request_free(&r);
    return 0;
}
