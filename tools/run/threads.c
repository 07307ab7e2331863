/* SPDX-License-Identifier: MIT */
/*
 * threads.c - the I/O threads of devtap run, each with a loop.
 *
 * Theory of operation: the process begins as the thread that will hear signals and the control socket, and starts
 * the I/O threads. A worker exchanges the roles: a VM waits for what its first I/O thread does next, and a new
 * thread waits for a processor until those that are busy have had their time slices. So the thread that
 * opened the images goes on as the first I/O thread, and what nobody waits for is the new one's.
 */
#include "tools/run/server.h"

#include <sched.h>

static void *run_thread(void *arg)
{
    struct io_thread *t = arg;
    char name[16];

    snprintf(name, sizeof(name), "devtap-io%u", t->index);
    pthread_setname_np(pthread_self(), name);
    loop_run(t->loop);
    return NULL;
}

int server_new_loops(struct server *s, struct dt_error *err)
{
    struct loop_config config = {.engine = (enum loop_engine)s->config->process.engine,
                                 .spin_ns = s->config->process.poll};
    struct loop_config quiet = {.engine = LOOP_EPOLL};
    int ret = loop_new(&s->loop, &quiet, err);

    s->threads = xcalloc(thread_count(s), sizeof(*s->threads));
    for (unsigned i = 0; ret == 0 && i < thread_count(s); i++) {
        s->threads[i].index = i;
        ret = loop_new(&s->threads[i].loop, &config, err);
    }
    return ret;
}

int server_start_threads(struct server *s, unsigned first, unsigned end, struct dt_error *err)
{
    for (unsigned i = first; i < end; i++) {
        struct io_thread *t = &s->threads[i];
        int ret = pthread_create(&t->thread, NULL, run_thread, t);

        if (ret)
            return dt_fail(err, -ret, "cannot start a thread: %s", strerror(ret));
        t->running = true;
        while (!loop_is_foreign(t->loop))
            sched_yield();
    }
    return 0;
}

void server_stop_threads(struct server *s)
{
    for (unsigned i = 0; s->threads && i < thread_count(s); i++) {
        struct io_thread *t = &s->threads[i];

        if (t->running || t->own)
            loop_stop(t->loop);
        if (t->running)
            pthread_join(t->thread, NULL);
        t->running = false;
    }
}

/* ---- Roles exchanged ------------------------------------------------------------------------- */

static void run_owned(struct loop_message *message)
{
    sem_post(&container_of(message, struct exchange, message)->owned);
}

static void *run_rest(void *arg)
{
    struct exchange *e = arg;

    pthread_setname_np(pthread_self(), "devtap-control");
    while (sem_wait(&e->owned) < 0) {
    }
    e->rest(e->server);
    return NULL;
}

int server_exchange(struct server *s, void (*rest)(struct server *s), struct dt_error *err)
{
    struct exchange *e = &s->exchange;
    int ret;

    *e = (struct exchange){.server = s, .rest = rest, .message.run = run_owned};
    sem_init(&e->owned, 0, 0);
    loop_post(s->threads[0].loop, &e->message);
    ret = pthread_create(&e->thread, NULL, run_rest, e);
    if (ret)
        return dt_fail(err, -ret, "cannot start a thread: %s", strerror(ret));
    s->threads[0].own = true;
    return 0;
}

void server_run_exchanged(struct server *s)
{
    loop_run(s->threads[0].loop);
    pthread_join(s->exchange.thread, NULL);
    sem_destroy(&s->exchange.owned);
}

void server_free_loops(struct server *s)
{
    for (unsigned i = 0; s->threads && i < thread_count(s); i++)
        if (s->threads[i].loop)
            loop_free(s->threads[i].loop);
    free(s->threads);
    if (s->loop)
        loop_free(s->loop);
}
