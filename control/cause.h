/* SPDX-License-Identifier: MIT */
/* cause.h - why a process ended, for people and for programs. */
#ifndef CONTROL_CAUSE_H
#define CONTROL_CAUSE_H

#include <jansson.h>
#include <sys/types.h>

/* A process whose own check failed exits with this. */
#define EXIT_ASSERTION 134

/** cause_text() - why, in words; @code and @status as waitid(2) tells them. Return: @text. */
const char *cause_text(int code, int status, char *text, size_t size);
/** cause_json() - the fields of an event: "why" (signal, assertion or exit), "pid", and the number
 * of the signal or the exit status. The caller's. */
json_t *cause_json(int code, int status, pid_t pid);

#endif
