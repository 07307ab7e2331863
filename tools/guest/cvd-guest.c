/* SPDX-License-Identifier: MIT */
/* cvd-guest.c - asks the host for a snapshot of the VM's disks: cvd-guest(1). */
#include "tools/guest/guest.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *port;
    char *freeze[FREEZE_MAX];
    unsigned nfreeze, timeout;
    bool json;
};

static char *late; /* what is complained of while something is frozen */
static bool hold;

enum guest_status complain(enum guest_status status, const char *format, ...)
{
    char *text = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (hold) {
        free(late);
        late = text;
        return status;
    }
    fprintf(stderr, "cvd-guest: %s\n", text ? text : "no memory");
    free(text);
    return status;
}

static void usage(FILE *out)
{
    fputs("usage: cvd-guest [OPTION...] snapshot [NAME]\n"
          "       cvd-guest [OPTION...] sync\n\n"
          "Asks the host for a snapshot of all of this VM's disks, or to make them durable.\n\n"
          "  --freeze DIRECTORY  freeze the file system mounted there meanwhile\n"
          "  --timeout SECONDS   how long the host may take (10)\n"
          "  --port PATH         the port, unless it is the one named " PORT_NAME "\n"
          "  --json              print the host's answer\n"
          "  --help, --version\n\n"
          "The manual: man cvd-guest\n",
          out);
}

/* While file systems are frozen: where complaints go to may be on one of them. */
static enum guest_status ask_frozen(const struct options *o, int fd, json_t *request,
                                    json_t **answer)
{
    struct frozen frozen;
    enum guest_status status = freeze(&frozen, o->freeze, o->nfreeze, o->timeout);
    bool in_time;

    if (status != GUEST_DONE) {
        json_decref(request);
        return status;
    }
    hold = true;
    status = port_ask(fd, request, o->timeout, answer);
    in_time = thaw(&frozen);
    hold = false;
    if (late)
        complain(status, "%s", late);
    if (!in_time && status == GUEST_DONE)
        status = complain(GUEST_NO_ANSWER, "the host took too long: the file systems were thawed "
                                           "before, and the snapshot may not be clean");
    return status;
}

static enum guest_status ask(const struct options *o, json_t *request, json_t **answer)
{
    enum guest_status status;
    int fd;

    status = port_open(&fd, o->port);
    if (status != GUEST_DONE) {
        json_decref(request);
        return status;
    }
    sync();
    status =
        o->nfreeze ? ask_frozen(o, fd, request, answer) : port_ask(fd, request, o->timeout, answer);
    close(fd);
    return status;
}

static void print_answer(const json_t *answer, bool json)
{
    const json_t *names = json_object_get(answer, "snapshots"), *name;
    size_t i;

    if (json) {
        json_dumpf(answer, stdout, JSON_INDENT(2));
        putchar('\n');
        return;
    }
    json_array_foreach(names, i, name) puts(json_string_value(name) ? json_string_value(name) : "");
}

static enum guest_status read_timeout(struct options *o, const char *text)
{
    char *end;
    unsigned long seconds = strtoul(text, &end, 10);

    if (*end || seconds == 0 || seconds > 3600)
        return complain(GUEST_USAGE, "--timeout is 1 to 3600 seconds");
    o->timeout = (unsigned)seconds;
    return GUEST_DONE;
}

static enum guest_status read_options(struct options *o, int argc, char **argv)
{
    static const struct option options[] = {
        {"freeze", required_argument, NULL, 'f'},
        {"timeout", required_argument, NULL, 't'},
        {"port", required_argument, NULL, 'p'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {NULL},
    };
    enum guest_status status = GUEST_DONE;
    int c;

    while (status == GUEST_DONE && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'f':
            if (o->nfreeze == FREEZE_MAX)
                return complain(GUEST_USAGE, "--freeze may be given %u times", FREEZE_MAX);
            o->freeze[o->nfreeze++] = optarg;
            break;
        case 't':
            status = read_timeout(o, optarg);
            break;
        case 'p':
            o->port = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'h':
            usage(stdout);
            exit(GUEST_DONE);
        case 'v':
            puts("cvd-guest " DEVTAP_VERSION);
            exit(GUEST_DONE);
        default:
            status = GUEST_USAGE;
        }
    return status;
}

static json_t *read_request(int argc, char **argv)
{
    bool snapshot = argc > 0 && strcmp(argv[0], "snapshot") == 0;
    bool wanted = argc == 1 || (snapshot && argc == 2);

    if (!wanted || (!snapshot && strcmp(argv[0], "sync")))
        return NULL;
    return argc == 2 ? json_pack("{ss ss}", "do", "snapshot", "name", argv[1])
                     : json_pack("{ss}", "do", argv[0]);
}

int main(int argc, char **argv)
{
    struct options o = {.timeout = 10};
    enum guest_status status;
    json_t *request, *answer = NULL;

    status = read_options(&o, argc, argv);
    if (status != GUEST_DONE)
        return (int)status;
    request = read_request(argc - optind, argv + optind);
    if (!request) {
        usage(stderr);
        return GUEST_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    status = ask(&o, request, &answer);
    if (answer)
        print_answer(answer, o.json);
    json_decref(answer);
    return (int)status;
}
