/* SPDX-License-Identifier: MIT */
/* kill.c - see kill.h. */
#include "base/kill.h"

#ifdef DEVTAP_KILL_POINTS
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *wanted = "";
static unsigned long count;

/* Before main(): a sandbox may hide nothing of the environment, but costs nothing here either. */
__attribute__((constructor)) static void kill_init(void)
{
    const char *text = getenv("DEVTAP_KILL"), *colon = text ? strchr(text, ':') : NULL;

    if (!colon)
        return;
    wanted = strndup(text, (size_t)(colon - text));
    count = strtoul(colon + 1, NULL, 10);
}

void kill_point(const char *name)
{
    if (count == 0 || strcmp(name, wanted) != 0 || __atomic_sub_fetch(&count, 1, __ATOMIC_RELAXED))
        return;
    dprintf(STDERR_FILENO, "killed at %s\n", name); /* so that a test knows it came here */
    kill(getpid(), SIGKILL);
    _exit(KILL_STATUS);
}
#endif
