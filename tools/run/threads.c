/* SPDX-License-Identifier: MIT */
/* threads.c - the I/O threads of devtap run, each with a loop. */
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

int server_start_threads(struct server *s, struct dt_error *err)
{
    for (unsigned i = 0; i < thread_count(s); i++) {
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

        if (t->running) {
            loop_stop(t->loop);
            pthread_join(t->thread, NULL);
        }
        if (t->loop)
            loop_free(t->loop);
    }
    free(s->threads);
    if (s->loop)
        loop_free(s->loop);
}
