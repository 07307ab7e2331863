/* SPDX-License-Identifier: MIT */
/*
 * aliases.c - other names of commands: those of the thesis (tables 5.1 and 5.2), of rbd, of zfs and of
 * qemu-img; and what is asked for elsewhere and not needed here.
 */
#include "tools/cvd/cvd.h"

/** struct alias - @words: one or two. @refusal: why there is no such command. */
struct alias {
    const char *words, *command, *refusal;
};

static const struct alias aliases[] = {
    {"check", "pool check", NULL},
    {"children", NULL, "'cvd tree' shows what stands on what"},
    {"clone", "dup", NULL},
    {"cp", NULL,
     "a copy is a clone, made at once: 'cvd snap', 'cvd label' and 'cvd dup'; or 'cvd send' to "
     "'cvd receive', into another pool"},
    {"destroy", "delete", NULL},
    {"export-diff", NULL, "'cvd send POOL/DISK@B --from @A' writes what differs"},
    {"flatten", NULL,
     "no disk needs it: a read takes the same time whatever the disk is a clone of. To make one "
     "that stands "
     "alone, export it, and fill a new disk from that"},
    {"import", NULL, "'cvd create POOL/DISK' and 'cvd fill POOL/DISK FILE' do it"},
    {"import-diff", NULL, "'cvd receive POOL/DISK' reads what 'cvd send' wrote"},
    {"lock", NULL, "a disk has one writer at most at any time, and needs nothing for that"},
    {"ls", "list", NULL},
    {"map", NULL, "'devtap run' with the back cvd serves a disk (man devtap-cvd)"},
    {"mv", "rename", NULL},
    {"pool delete", NULL, "a pool is a file: remove that"},
    {"pool list", NULL, "a pool is a file; /etc/devtap/pools has links to those with names"},
    {"pool ls", NULL, "a pool is a file; /etc/devtap/pools has links to those with names"},
    {"remove", "delete", NULL},
    {"rm", "delete", NULL},
    {"snap create", "snap", NULL},
    {"snap list", "snaps", NULL},
    {"snap ls", "snaps", NULL},
    {"snap protect", "label", NULL},
    {"snap rename", "rename", NULL},
    {"snap rm", "delete", NULL},
    {"snap rollback", "rollback", NULL},
    {"snap unprotect", "unlabel", NULL},
    {"snap_collapse", "collapse", NULL},
    {"snap_label", "label", NULL},
    {"snap_list", "snaps", NULL},
    {"snapshot", "snap", NULL},
    {"status", NULL, "'cvd list' tells of disks, 'cvd pool stats' of those in use"},
    {NULL, NULL, NULL},
};

/* How many of the first words of @argv are @name's: all of them, or 0. */
static unsigned matches(const char *name, char **argv)
{
    const char *space = strchr(name, ' ');
    size_t n = space ? (size_t)(space - name) : strlen(name);

    if (!argv[0] || strlen(argv[0]) != n || strncmp(argv[0], name, n))
        return 0;
    if (!space)
        return 1;
    return argv[1] && strcmp(argv[1], space + 1) == 0 ? 2 : 0;
}

static const struct command *by_name(const char *name)
{
    for (const struct command *c = cvd_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

const char *command_refusal(char **argv)
{
    for (const struct alias *a = aliases; a->words; a++)
        if (a->refusal && matches(a->words, argv))
            return a->refusal;
    return NULL;
}

const struct command *command_find(char ***argv)
{
    /* Two words before one: `snap ls` is not `snap`, whose arguments have a slash. */
    for (unsigned words = 2; words > 0; words--) {
        for (const struct command *c = cvd_commands; c->name; c++)
            if (matches(c->name, *argv) == words) {
                *argv += words;
                return c;
            }
        for (const struct alias *a = aliases; a->words; a++)
            if (a->command && matches(a->words, *argv) == words) {
                *argv += words;
                return by_name(a->command);
            }
    }
    return NULL;
}

void aliases_each(void (*each)(void *arg, const char *words, const struct command *c), void *arg)
{
    for (const struct alias *a = aliases; a->words; a++)
        if (a->command)
            each(arg, a->words, by_name(a->command));
}
