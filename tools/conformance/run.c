/* SPDX-License-Identifier: MIT */
/*
 * run.c - runs the properties, each in a child process: a failed check of core's ends the child,
 * and what it printed tells why. A child that hangs is killed.
 */
#include "tools/conformance/net.h"

#include <ftw.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define LOG_MAX 65536u

/* As whoever serves it stops it: a layer may have begun work of its own. */
static void property_open(struct bench *b)
{
    const char *late;

    bench_open(b, 1);
    b->verdict->count++;
    late = bench_quiesce(b, b->config->patience);
    if (late)
        bench_fail("it does not come to rest: %s", late);
    bench_close(b);
}

static const struct property disk_properties[] = {
    {"open", "devices", "it opens, starts, stops and closes", property_open},
    {"content", "requests", "every request comes back once, and reads give what was written",
     property_content},
    {"neutral", "requests", "without DT_CONTENT_BEARING, what lies below is what was written",
     property_neutral},
    {"stable", "requests", "with DT_DATA_STABLE, a guest that changes its buffers changes nothing",
     property_stable},
    {"errors", "failed requests", "errors from below arrive, and what succeeded is right",
     property_errors},
    {"quiesce", "stops", "under load, everything held comes back by the deadline",
     property_quiesce},
    {"cancel", "cancellations", "a cancelled request ends at once with -ECANCELED",
     property_cancel},
    {"restart", "restarts", "stop and start, close and open lose nothing", property_restart},
    {"state", "blobs", "saved state comes back; damaged state is refused or harmless",
     property_state},
    {"live", "changes", "live parameters take valid values and refuse others", property_live},
    {"map", "sectors", "what is said to be zeroes or a hole reads as zeroes", property_map},
    {"threads", "requests", "with DT_PER_QUEUE, two threads at once are safe", property_threads},
    {"kill", "kills", "after kill -9 and replay, everything flushed is there", property_kill},
    {NULL},
};

static const struct property card_properties[] = {
    {"open", "cards", "it opens, starts, stops and closes", card_property_open},
    {"verdicts", "packets", "every packet ends once, and is counted once", card_property_verdicts},
    {"batches", "packets", "batches of 1 to 32 are the same as single packets",
     card_property_batches},
    {"offloads", "packets", "to a wire that takes no offloads none is left to do",
     card_property_offloads},
    {"quiesce", "stops", "under load, everything held is let go of by the deadline",
     card_property_quiesce},
    {"restart", "restarts", "stop and start, close and open leave nothing behind",
     card_property_restart},
    {"kill", "kills",
     "after kill -9 under load, saved state is taken and every descriptor comes back",
     card_property_kill},
    {"state", "blobs", "saved state comes back; damaged state is refused or harmless",
     card_property_state},
    {"live", "changes", "live parameters take valid values and refuse others", card_property_live},
    {"parameters", "refusals", "a parameter that there is not is refused in one line",
     card_property_parameters},
    {NULL},
};

static const struct property *properties_of(bool net)
{
    return net ? card_properties : disk_properties;
}

bool conformance_property(bool net, unsigned index, const char **name, const char **claim)
{
    const struct property *properties = properties_of(net);

    if (!properties[index].name)
        return false;
    *name = properties[index].name;
    *claim = properties[index].claim;
    return true;
}

/* ---- A child ---- */

static _Noreturn void child_main(struct bench *b, const struct property *p, int log)
{
    uint64_t salt = 0;
    size_t used = strlen(b->dir);

    snprintf(b->dir + used, sizeof(b->dir) - used, "/%s", p->name); /* state of its own */
    CHECK(mkdir(b->dir, 0700) == 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(log, STDERR_FILENO);
    log_set_level(DT_LOG_ERROR);
    for (const char *c = p->name; *c; c++)
        salt = salt * 31 + (uint8_t)*c;
    b->seed = b->config->seed + salt;
    dt_rng_seed(&b->rng, b->seed);
    b->versions = shared_memory(BENCH_SECTORS * sizeof(b->versions[0]));
    memset(b->versions, 0xff, BENCH_SECTORS * sizeof(b->versions[0]));
    b->next_version = shared_memory(sizeof(*b->next_version));
    *b->next_version = 1;
    b->sectors = BENCH_SECTORS;
    b->counts_requests = strcmp(p->unit, "requests") == 0;
    if (!b->has_back)
        model_init(&b->model, b->seed, BENCH_SECTORS);
    p->run(b);
    b->verdict->state = PASSED;
    _exit(0);
}

/* What the child printed, or the end of it; owned by the caller. */
static char *read_log(int log)
{
    char *text = xcalloc(LOG_MAX + 1, 1);
    off_t end = lseek(log, 0, SEEK_END);

    if (pread(log, text, LOG_MAX, MAX(end - (off_t)LOG_MAX, 0)) < 0)
        text[0] = '\0';
    return text;
}

/* The line of the child's log that tells best what went wrong: what core or a sanitizer said. */
static bool find_reason(const char *log, char *text, size_t size)
{
    static const char *const marks[] = {
        "contract violated: ", "check failed: ", "ERROR: AddressSanitizer: ", "runtime error: ",
        "WARNING: ThreadSanitizer: "};

    for (unsigned i = 0; i < ARRAY_SIZE(marks); i++) {
        const char *at = strstr(log, marks[i]);

        if (at) {
            snprintf(text, size, "%.*s", (int)strcspn(at, "\n"), at);
            return true;
        }
    }
    return false;
}

static void explain_death(int status, const struct property *p, char *text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(text, size, "the process died: %s", strsignal(WTERMSIG(status)));
    else
        snprintf(text, size, "the process ended with status %d in the middle of %s",
                 WEXITSTATUS(status), p->name);
}

static bool wait_for(pid_t pid, uint64_t ns, int *status)
{
    for (uint64_t end = dt_clock_ns() + ns; dt_clock_ns() < end;) {
        if (waitpid(pid, status, WNOHANG) == pid)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, status, 0);
    return false;
}

/* Return: the child's log; owned by the caller. */
static char *run_property(struct bench *b, const struct property *p)
{
    uint64_t limit = 20 * b->config->duration + 8 * b->config->patience + DT_S(20);
    _cleanup_close_ int log = memfd_create("log", MFD_CLOEXEC);
    struct verdict *v = b->verdict;
    char *text;
    int status;
    pid_t pid;

    CHECK(log >= 0);
    memset(v, 0, sizeof(*v));
    fflush(NULL);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        child_main(b, p, log);
    if (!wait_for(pid, limit, &status)) {
        v->state = FAILED;
        snprintf(v->text, sizeof(v->text), "it hangs: no end after %llu s",
                 (unsigned long long)(limit / DT_S(1)));
    } else if (v->state == RUNNING) {
        v->state = FAILED;
        explain_death(status, p, v->text, sizeof(v->text));
    }
    /* A sanitizer may report and go on: that is no pass. */
    text = read_log(log);
    if (v->state != SKIPPED && find_reason(text, v->text, sizeof(v->text)))
        v->state = FAILED;
    return text;
}

/* ---- The whole ---- */

static int resolve(struct bench *b, struct dt_error *err)
{
    size_t frames = 0;
    unsigned guards;
    int ret = chain_parse(&b->user, b->config->chain, err);

    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < b->user.count; i++) {
        struct layer_spec rest;

        b->exts[i] = placement_find(b->config->net ? DEVICE_NET : DEVICE_DISK, &b->user.layers[i],
                                    &rest, err);
        free(rest.settings);
        if (!b->exts[i])
            return -ENOENT;
        frames += ALIGN_UP(b->exts[i]->frame_size, 16u);
    }
    b->has_back = b->exts[b->user.count - 1]->flags & DT_BACK;
    guards = b->user.count + !b->has_back;
    b->guarded = frames + guards * GUARD_FRAME <= DT_FRAME_BUDGET &&
                 b->user.count + guards + !b->has_back <= CHAIN_MAX_LAYERS;
    if (b->config->net) {
        if (!registry_find_kind(DEVICE_NET, card_wire.name, NULL))
            ret = registry_add_net(&card_wire, err) ?: registry_add_net(&card_plain_wire, err);
    } else if (!registry_find(model_ext.name, NULL)) {
        ret = registry_add(&model_ext, err);
        ret = ret ?: registry_add(&guard_ext, err);
    }
    return ret;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static json_t *result_json(const struct conformance_result *r)
{
    static const char *const outcomes[] = {"passed", "failed", "skipped"};

    return json_pack("{ss ss sI ss ss ss}", "name", r->property, "outcome", outcomes[r->outcome],
                     "count", (json_int_t)r->count, "unit", r->unit, "text", r->text, "log",
                     r->log);
}

static unsigned run_all(struct bench *b, json_t *report)
{
    const struct conformance_config *config = b->config;
    unsigned counts[3] = {0};
    json_t *list = json_array();

    for (unsigned i = 0; properties_of(config->net)[i].name; i++) {
        const struct property *p = &properties_of(config->net)[i];
        struct conformance_result r = {.property = p->name, .unit = p->unit};

        if (config->property && i > 0 && strcmp(config->property, p->name) != 0)
            continue;
        _cleanup_free_ char *log = run_property(b, p);
        r.outcome = b->verdict->state == PASSED   ? CONFORMANCE_PASSED
                    : b->verdict->state == FAILED ? CONFORMANCE_FAILED
                                                  : CONFORMANCE_SKIPPED;
        r.count = b->verdict->count;
        r.text = b->verdict->text;
        r.log = r.outcome == CONFORMANCE_FAILED ? log : "";
        counts[r.outcome]++;
        json_array_append_new(list, result_json(&r));
        if (config->progress)
            config->progress(config->arg, &r);
        if (i == 0 && r.outcome == CONFORMANCE_FAILED)
            break; /* nothing else can work */
    }
    json_object_set_new(report, "properties", list);
    json_object_set_new(report, "passed", json_integer(counts[CONFORMANCE_PASSED]));
    json_object_set_new(report, "failed", json_integer(counts[CONFORMANCE_FAILED]));
    json_object_set_new(report, "skipped", json_integer(counts[CONFORMANCE_SKIPPED]));
    return counts[CONFORMANCE_FAILED];
}

static int check_property(const struct conformance_config *config, struct dt_error *err)
{
    const char *name = config->property;
    struct nearest nearest = {.wanted = name};

    for (const struct property *p = properties_of(config->net); p->name; p++) {
        if (strcmp(p->name, name) == 0)
            return 0;
        nearest_offer(&nearest, p->name);
    }
    dt_fail(err, -EINVAL, "no property is named '%.40s'", name);
    nearest_hint(&nearest, err);
    return -EINVAL;
}

int conformance_run(const struct conformance_config *given, json_t **report, struct dt_error *err)
{
    struct conformance_config config = *given;
    struct bench *b = xcalloc(1, sizeof(*b));
    const char *tmp = getenv("TMPDIR");
    int ret = config.property ? check_property(&config, err) : 0;

    if (config.seed == 0)
        config.seed = dt_clock_ns() % 1000000000u + 1;
    bench = b;
    b->config = &config;
    b->verdict = shared_memory(sizeof(*b->verdict));
    snprintf(b->dir, sizeof(b->dir), "%s/devtap-test-XXXXXX",
             tmp && strlen(tmp) < 32 ? tmp : "/tmp");
    ret = ret ?: resolve(b, err);
    if (ret == 0 && !mkdtemp(b->dir))
        ret = dt_fail(err, -errno, "cannot make a directory %s: %s", b->dir, strerror(errno));
    if (ret == 0) {
        *report = json_pack("{ss sI}", "chain", config.chain, "seed", (json_int_t)config.seed);
        ret = (int)run_all(b, *report);
        nftw(b->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    }
    chain_spec_free(&b->user);
    munmap(b->verdict, sizeof(*b->verdict));
    free(b);
    bench = NULL;
    return ret;
}
