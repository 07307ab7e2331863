/* SPDX-License-Identifier: MIT */
/* socket.c - who may use a socket that is made, as people write it. */
#include "core/text.h"

#include <grp.h>

int parse_socket_group(const char *text, long *group, struct dt_error *err)
{
    const struct group *entry;
    uint64_t n;

    if (parse_uint(text, &n) == 0) {
        if (n >= UINT32_MAX) /* cut to 32 bits it might be root's */
            return dt_fail(err, -EINVAL, "'%.64s' is no group's number", text);
        *group = (long)n;
        return 0;
    }
    entry = getgrnam(text);
    if (!entry)
        return dt_fail(err, -EINVAL, "no group is named '%.64s'", text);
    *group = (long)entry->gr_gid;
    return 0;
}

int parse_socket_mode(const char *text, unsigned *mode, struct dt_error *err)
{
    char *end;
    unsigned long n = strtoul(text, &end, 8);

    if (end == text || *end || n > 0777)
        return dt_fail(err, -EINVAL, "socket-mode=%.20s is not an octal mode such as 0660", text);
    *mode = (unsigned)n;
    return 0;
}
