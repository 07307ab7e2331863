/* SPDX-License-Identifier: MIT */
/*
 * fuzz_pcap.c - any bytes as a capture file: one to replay, and one to continue.
 *
 * Invariants: frames lie within what was read, in the order of their times; whole blocks end within the file, and what
 * lies before that end is as whole as before. */
#include "net/capture/pcapng.h"
#include "net/pcap/frames.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_frames(const struct frames *f)
{
    uint64_t last = 0;

    CHECK(f->n > 0);
    for (uint64_t i = 0; i < f->n; i++) {
        CHECK(f->list[i].when >= last && f->list[i].length >= 14 &&
              f->list[i].length <= f->longest);
        CHECK(f->list[i].offset + f->list[i].length <= f->used);
        last = f->list[i].when;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dt_error err = {""};
    struct frames frames;
    int64_t whole;
    FILE *file;
    int fd;

    if (size == 0)
        return 0;
    file = fmemopen((void *)(uintptr_t)data, size, "r");
    CHECK(file);
    if (frames_load(&frames, file, 1 << 20, &err) == 0) {
        check_frames(&frames);
        frames_free(&frames);
    } else {
        CHECK(err.text[0]);
    }
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    whole = pcapng_whole(fd);
    CHECK(whole == -EBADMSG || (whole >= 12 && whole <= (int64_t)size && whole % 4 == 0));
    if (whole > 0)
        CHECK(ftruncate(fd, whole) == 0 && pcapng_whole(fd) == whole);
    close(fd);
    return 0;
}
