/* SPDX-License-Identifier: MIT */
/*
 * fuzz_config.c - any text as a configuration file.
 *
 * Invariants: an error is one line that begins with the file's name and a line number that
 * exists; what was accepted has a name and a bounded number of disks; nothing leaks.
 */
#include "tools/run/run.h"

static void check_error(const struct dt_error *err, const uint8_t *bytes, size_t size)
{
    unsigned long line, lines = 1;

    for (size_t i = 0; i < size; i++)
        lines += bytes[i] == '\n';
    CHECK(strncmp(err->text, "fuzz.conf:", 10) == 0);
    line = strtoul(err->text + 10, NULL, 10);
    CHECK(line >= 1 && line <= lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct run_config config;
    struct dt_error err = {""};

    if (size > CONFIG_MAX_FILE)
        return 0;
    run_config_init(&config);
    if (run_config_parse_text(&config, "fuzz.conf", (const char *)bytes, size, &err) < 0) {
        check_error(&err, bytes, size);
    } else {
        for (unsigned i = 0; i < config.count; i++)
            CHECK(config.disks[i].name[0] != '\0');
        if (run_config_judge(&config, &err) < 0)
            CHECK(err.text[0] != '\0');
    }
    run_config_free(&config);
    return 0;
}
