/* SPDX-License-Identifier: MIT */
/* status.c - how verbs end: exit statuses and errors; devtap(1). */
#include "tools/tools.h"

const struct dt_param json_only[] = {
    {"json", DT_PARAM_BOOL, .offset = offsetof(struct json_options, json), .help = "Print JSON."},
    {NULL},
};

int verb_checks(const char *word, struct dt_error *err)
{
    if (strcmp(word, "check") != 0 && strcmp(word, "info") != 0)
        return dt_fail(err, -EINVAL, "'%.40s': info or check was expected", word);
    return strcmp(word, "check") == 0;
}

enum exit_status exit_status_of(int error)
{
    switch (-error) {
    case 0:
        return STATUS_DONE;
    case EINVAL:
    case ERANGE:
    case E2BIG:
    case ENAMETOOLONG:
    case ENOTUNIQ:
    case ENOEXEC:
    case EISDIR:
        return STATUS_USAGE;
    case ENOENT:
    case ENODEV:
    case ENOTDIR:
        return STATUS_NOT_FOUND;
    case EBUSY:
    case EADDRINUSE:
    case EAGAIN:
    case ETXTBSY:
        return STATUS_IN_USE;
    case EACCES:
    case EPERM:
    case EROFS:
        return STATUS_DENIED;
    case EBADMSG:
    case EILSEQ:
        return STATUS_FAULT;
    default:
        return STATUS_FAILED;
    }
}

int verb_fail(const struct verb *verb, int error, const struct dt_error *err)
{
    fflush(stdout);
    fprintf(stderr, "devtap %s: %s\n", verb->name, err->text);
    return exit_status_of(error);
}
