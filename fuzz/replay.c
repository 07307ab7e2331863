/* SPDX-License-Identifier: MIT */
/*
 * replay.c - in place of libFuzzer's main: runs a target once over each file of a directory, so
 * that every build replays the seeds, with any compiler. A violated invariant aborts.
 */
#include "base/base.h"

#include <dirent.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* A heap copy of exactly the file's size lets ASan see reads past its end. */
static int replay_file(const char *path)
{
    _cleanup_free_ uint8_t *bytes = NULL;
    FILE *f = fopen(path, "rb");
    size_t size;
    long end;

    if (!f || fseek(f, 0, SEEK_END) < 0 || (end = ftell(f)) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    rewind(f);
    size = (size_t)end;
    bytes = xcalloc(size, 1);
    if (fread(bytes, 1, size, f) != size) {
        fprintf(stderr, "%s: short read\n", path);
        fclose(f);
        return -1;
    }
    fclose(f);
    fprintf(stderr, "%s: %zu bytes\n", path, size);
    LLVMFuzzerTestOneInput(bytes, size);
    return 0;
}

/* libFuzzer calls it once where a target has it. */
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    struct dirent *entry;
    unsigned n = 0;

    if (!dir) {
        fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
        return 2;
    }
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    while ((entry = readdir(dir)) != NULL) {
        _cleanup_free_ char *path = xasprintf("%s/%s", argv[1], entry->d_name);

        if (entry->d_name[0] == '.')
            continue;
        if (replay_file(path) < 0)
            return 1;
        n++;
    }
    closedir(dir);
    printf("%u inputs replayed\n", n);
    return n ? 0 : 1;
}
