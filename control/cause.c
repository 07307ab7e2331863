/* SPDX-License-Identifier: MIT */
/* cause.c - why a process ended: waitid(2)'s numbers in words, and as an event's fields. */
#include "control/cause.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

const char *cause_text(int code, int status, char *text, size_t size)
{
    if (code != CLD_EXITED)
        snprintf(text, size, "%s", sigdescr_np(status) ? sigdescr_np(status) : "a signal");
    else if (status == EXIT_ASSERTION)
        snprintf(text, size, "a check of its own failed");
    else
        snprintf(text, size, "it exited with status %d", status);
    return text;
}

json_t *cause_json(int code, int status, pid_t pid)
{
    const char *kind = code != CLD_EXITED         ? "signal"
                       : status == EXIT_ASSERTION ? "assertion"
                                                  : "exit";
    json_t *json = json_pack("{ss si}", "why", kind, "pid", (int)pid);

    if (code != CLD_EXITED)
        json_object_set_new(json, "signal", json_integer(status));
    else if (status != EXIT_ASSERTION)
        json_object_set_new(json, "status", json_integer(status));
    return json;
}
