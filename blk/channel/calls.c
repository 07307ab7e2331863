/* SPDX-License-Identifier: MIT */
/*
 * calls.c - control: what the proxy asks the process, and what the process says.
 *
 * A start sends everything at once and then waits for the answers to come in. Calls in the middle
 * of service (a parameter, a verb) block the thread for the round trip, at most until the deadline.
 */
#include "blk/channel/internal.h"

#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define END_MS 1000 /* from a closed control socket to the end of the process */

/* The present value as text, secrets included: it is for the extension, not for people. */
char *proxy_param_text(const struct proxy *p, unsigned index)
{
    struct dt_param param = p->w->ext.params[index];

    param.flags &= (uint8_t)~DT_PARAM_SECRET;
    return param_format(&param, p);
}

static json_t *settings(const struct proxy *p)
{
    json_t *json = json_object();

    for (unsigned i = 0; i < p->w->own_params; i++) {
        _cleanup_free_ char *text = proxy_param_text(p, i);

        if (text)
            json_object_set_new(json, p->w->ext.params[i].name, json_string(text));
    }
    return json;
}

static int send_json(struct proxy *p, uint32_t type, json_t *json, const int *fds, unsigned nfds,
                     uint32_t *seq, struct dt_error *err)
{
    char *text = json_dumps(json, JSON_COMPACT);
    int64_t ret = text ? process_send(&p->process, type, text, fds, nfds) : -EINVAL;

    free(text);
    json_decref(json);
    if (ret < 0)
        return dt_fail(err, (int)ret, "its process cannot be asked: %s", strerror((int)-ret));
    *seq = (uint32_t)ret;
    return 0;
}

int proxy_tell(struct proxy *p, uint32_t type, json_t *json, int fd, uint32_t *seq,
               struct dt_error *err)
{
    return send_json(p, type, json, &fd, fd >= 0, seq, err);
}

int proxy_send_init(struct proxy *p, struct dt_error *err)
{
    json_t *json = json_pack("{ss ss so so sI si si}", "device", dt_layer_device(p->layer), "layer",
                             dt_layer_name(p->layer), "parameters", settings(p), "below",
                             p->class->below(p), "spin", (json_int_t)p->spin, "state_version",
                             (int)p->w->ext.state_version, "threads", (int)p->nlinks);

    p->ready = p->started = false;
    p->starts = 0;
    p->refusal = 0;
    return send_json(p, CONTROL_INIT, json, NULL, 0, &p->init_seq, err);
}

int proxy_state_fd(const void *blob, size_t size)
{
    int fd = memfd_create("devtap-state", MFD_CLOEXEC);

    if (fd >= 0 && size && pwrite(fd, blob, size, 0) != (ssize_t)size) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* On a restart nobody waits for the answer: a refusal ends the process. */
int proxy_send_load(struct proxy *p, struct dt_error *err)
{
    _cleanup_close_ int fd = p->blob ? proxy_state_fd(p->blob, p->blob_size) : -1;

    if (!p->blob)
        return 0;
    if (fd < 0)
        return dt_fail(err, -errno, "its state cannot be passed on: %m");
    return send_json(p, CONTROL_LOAD, json_pack("{si}", "version", (int)p->blob_version), &fd, 1,
                     &p->load_seq, err);
}

static int send_start(struct link *l, struct dt_error *err)
{
    _cleanup_close_ int memfd = l->p->class->attach(l, err);
    int fds[] = {memfd, l->kick_down, l->kick_up};

    if (memfd < 0)
        return memfd;
    return send_json(l->p, CONTROL_START, json_pack("{si}", "thread", (int)l->thread), fds, 3,
                     &l->start_seq, err);
}

int proxy_send_start(struct proxy *p, struct dt_error *err)
{
    int ret = proxy_send_memory(p, false, err);

    for (unsigned i = 0; i < p->nlinks && ret == 0; i++)
        ret = send_start(p->links[i], err);
    return ret;
}

void proxy_ask_state(struct proxy *p)
{
    if (!p->w->saves || p->state != PROXY_LIVE || p->save_seq)
        return;
    p->saved_at = dt_clock_ns();
    send_json(p, CONTROL_SAVE, json_object(), NULL, 0, &p->save_seq, NULL);
}

/* ---- What the process says ---- */

/* The file is the process's and may change as we read: what counts is what was read once. */
static void keep_state(struct proxy *p, const struct control_frame *f)
{
    struct stat st;
    uint8_t *blob;

    if (f->nfds == 0 || fstat(f->fds[0], &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 0 ||
        st.st_size > STATE_MAX)
        return;
    blob = xcalloc(1, (size_t)st.st_size + 1);
    if (pread(f->fds[0], blob, (size_t)st.st_size, 0) != st.st_size) {
        free(blob);
        return;
    }
    free(p->blob);
    p->blob = blob;
    p->blob_size = (size_t)st.st_size;
    p->blob_version = p->w->ext.state_version;
}

/* 0, or the error that the answer reports. */
static int judge_answer(const json_t *answer, struct dt_error *err)
{
    const char *text = json_string_value(json_object_get(answer, "error"));
    json_int_t code = json_integer_value(json_object_get(answer, "code"));

    if (!text)
        return 0;
    return dt_fail(err, code > 0 && code < 4096 ? -(int)code : -EIO, "%.400s", text);
}

/* The disk as the extension makes it out of the one below, within what the channel can carry. */
int proxy_take_info(struct proxy *p, const json_t *answer)
{
    const struct dt_block_ext *e = &p->w->ext;
    const unsigned right = MAX(e->read_data, e->write_data);
    const uint32_t most =
        (1u << COPYPOOL_MAX_SHIFT >> DT_SECTOR_SHIFT) / (right == DT_DATA_TRANSFORM ? 2 : 1);
    struct dt_block_info info = p->below;

    if (info_from_json(&info, json_object_get(answer, "info")) < 0)
        return -EPROTO;
    if (right != DT_DATA_NONE && (info.max_sectors == 0 || info.max_sectors > most))
        info.max_sectors = most;
    p->info = info;
    p->have_info = true;
    return 0;
}

static void take_call_answer(struct proxy *p, json_t *answer)
{
    p->call_seq = 0;
    p->call_result = judge_answer(answer, p->call_err);
    json_decref(p->call_answer);
    p->call_answer = json_incref(answer);
}

/* The link whose channel this answer is about. */
static struct link *started_link(struct proxy *p, uint32_t seq)
{
    for (unsigned i = 0; i < p->nlinks; i++)
        if (seq && p->links[i]->start_seq == seq)
            return p->links[i];
    return NULL;
}

static void take_start_answer(struct proxy *p, struct link *l, const json_t *answer)
{
    struct dt_error err;

    l->start_seq = 0;
    if (judge_answer(answer, &err) < 0) {
        proxy_break(p, "%s", err.text);
        return;
    }
    p->started = ++p->starts == p->nlinks;
    proxy_turn_soon(p);
}

static void take_answer(struct proxy *p, const struct control_frame *f, json_t *answer)
{
    struct link *l = started_link(p, f->seq);
    struct dt_error err;

    if (f->seq == p->call_seq) {
        take_call_answer(p, answer);
    } else if (f->seq == p->init_seq) {
        p->init_seq = 0;
        p->refusal = judge_answer(answer, &err);
        if (p->refusal < 0)
            proxy_break(p, "%s", err.text);
        else if (p->class->take_info(p, answer) < 0)
            proxy_break(p, "it described the device wrongly");
        else
            p->ready = true;
    } else if (l) {
        take_start_answer(p, l, answer);
    } else if (f->seq == p->memory_seq) {
        p->memory_seq = 0;
        if (judge_answer(answer, &err) < 0)
            proxy_break(p, "%s", err.text);
    } else if (f->seq == p->load_seq) {
        p->load_seq = 0;
        if (judge_answer(answer, &err) < 0)
            proxy_break(p, "%s", err.text);
    } else if (f->seq == p->save_seq) {
        p->save_seq = 0;
        if (judge_answer(answer, &err) == 0)
            keep_state(p, f);
    } else if (!process_was_asked(&p->process, f->seq)) {
        proxy_break(p, "it answered what was not asked");
    }
}

static void take_event(struct proxy *p, const json_t *json)
{
    const char *event = json_string_value(json_object_get(json, "event"));
    const char *text = json_string_value(json_object_get(json, "text")) ?: "";
    char word[CONTROL_WORD_MAX];

    dt_layer_event(p->layer, control_word(word, event, "extension"), "%.300s", text);
}

static void take_frame(struct proxy *p, struct control_frame *f)
{
    json_t *json = json_loadb(f->payload, f->length, 0, NULL);

    if (f->type == CONTROL_HELLO) {
        if (p->w->hello && strcmp(p->w->hello, f->payload) != 0)
            proxy_break(p, "the program describes itself differently now: restart the disk");
    } else if (!json_is_object(json)) {
        proxy_break(p, "it sent a control message that is no JSON object");
    } else if (f->type == CONTROL_ANSWER) {
        take_answer(p, f, json);
    } else if (f->type == CONTROL_EVENT) {
        take_event(p, json);
    } else {
        proxy_break(p, "it sent a control message of an unknown kind");
    }
    json_decref(json);
    control_close_fds(f);
}

void proxy_frames(struct proxy *p)
{
    int ret;

    while (p->process.sock >= 0 && (ret = control_recv(p->process.sock, p->frame)) != 0) {
        if (ret == 1) {
            take_frame(p, p->frame);
            continue;
        }
        p->hung_up = true;
        if (ret == -EPROTO)
            proxy_break(p, "it sent a damaged control message");
        break;
    }
}

/* ---- Asking and waiting ---- */

int proxy_await(struct proxy *p, const bool *flag, uint64_t ns, struct dt_error *err)
{
    uint64_t until = dt_clock_ns() + ns, now;
    struct pollfd gone = {.fd = p->process.pidfd, .events = POLLIN};
    struct ending end;

    while (!*flag && !p->hung_up && !process_killed(&p->process) && (now = dt_clock_ns()) < until) {
        struct pollfd fd = {.fd = p->process.sock, .events = POLLIN};

        if (poll(&fd, 1, (int)((until - now) / DT_MS(1)) + 1) > 0)
            proxy_frames(p);
    }
    if (*flag)
        return 0;
    if (!p->hung_up)
        process_kill(&p->process, "it did not answer within %llu ms",
                     (unsigned long long)(ns / DT_MS(1)));
    if (poll(&gone, 1, END_MS) <= 0)
        process_kill(&p->process, "it closed its control socket, and did not end");
    process_reap(&p->process, &end);
    p->state = PROXY_CLOSED;
    return dt_fail(err, p->refusal ?: -EIO, "%s", end.cause);
}

int proxy_call(struct proxy *p, uint32_t type, json_t *request, json_t **answer,
               struct dt_error *err)
{
    return proxy_call_fd(p, type, request, -1, answer, err);
}

int proxy_call_fd(struct proxy *p, uint32_t type, json_t *request, int fd, json_t **answer,
                  struct dt_error *err)
{
    uint64_t ns = MAX(p->deadline, DT_S(1)), until = dt_clock_ns() + ns, now;
    int ret;

    if (p->process.sock < 0 || process_killed(&p->process) || p->hung_up) {
        json_decref(request);
        return dt_fail(err, -EAGAIN, "its process is not running");
    }
    p->call_err = err;
    p->call_result = 1;
    ret = send_json(p, type, request, &fd, fd >= 0, &p->call_seq, err);
    while (ret == 0 && p->call_result == 1 && !p->hung_up && !process_killed(&p->process) &&
           (now = dt_clock_ns()) < until) {
        struct pollfd fd = {.fd = p->process.sock, .events = POLLIN};

        if (poll(&fd, 1, (int)((until - now) / DT_MS(1)) + 1) > 0)
            proxy_frames(p);
    }
    p->call_seq = 0;
    p->call_err = NULL;
    if (ret == 0 && p->call_result == 1) {
        ret = dt_fail(err, -EIO, "its process %s", p->hung_up ? "ended" : "does not answer");
        if (!p->hung_up)
            proxy_break(p, "it did not answer a call within %llu ms",
                        (unsigned long long)(ns / DT_MS(1)));
    } else if (ret == 0) {
        ret = p->call_result;
    }
    if (ret == 0 && answer)
        *answer = TAKE_PTR(p->call_answer);
    json_decref(TAKE_PTR(p->call_answer));
    return ret;
}
