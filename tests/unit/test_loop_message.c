/* SPDX-License-Identifier: MIT */
/* test_loop_message.c - messages between threads, and stopping. */
#include "loop_common.h"

enum { SENDERS = 4, MESSAGES = 250000 };

struct test_message {
    struct loop_message message;
    unsigned sender, number;
};

static struct test_message *all_messages;
static struct loop *message_loop;
static unsigned message_next[SENDERS];
static uint64_t messages_run;

static void message_run(struct loop_message *message)
{
    struct test_message *m = container_of(message, struct test_message, message);

    assert_int_equal(m->number, message_next[m->sender]);
    __atomic_store_n(&message_next[m->sender], m->number + 1, __ATOMIC_RELEASE);
    if (++messages_run == (uint64_t)SENDERS * MESSAGES)
        loop_stop(message_loop);
}

/* Bursts, and between many of them a pause until the loop has run them all and falls asleep. */
static void *sender_thread(void *arg)
{
    unsigned sender = (unsigned)(uintptr_t)arg;
    struct test_message *m = all_messages + (size_t)sender * MESSAGES;
    struct dt_rng rng;

    dt_rng_seed(&rng, sender);
    for (unsigned i = 0; i < MESSAGES;) {
        unsigned burst = 1 + (unsigned)dt_rng_below(&rng, 200);

        for (; burst && i < MESSAGES; burst--, i++) {
            m[i].message.run = message_run;
            m[i].sender = sender;
            m[i].number = i;
            loop_post(message_loop, &m[i].message);
        }
        while (__atomic_load_n(&message_next[sender], __ATOMIC_ACQUIRE) < i)
            sched_yield();
    }
    return NULL;
}

static void test_messages(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct loop_stats stats;
    pthread_t threads[SENDERS];

    message_loop = loop;
    messages_run = 0;
    memset(message_next, 0, sizeof(message_next));
    all_messages = xcalloc((size_t)SENDERS * MESSAGES, sizeof(*all_messages));
    for (uintptr_t i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sender_thread, (void *)i), 0);
    loop_run(loop);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(messages_run, SENDERS * MESSAGES);
    loop_get_stats(loop, &stats);
    print_message("# %llu sleeps in %llu turns\n", (unsigned long long)stats.sleeps,
                  (unsigned long long)stats.turns);
    assert_true(stats.sleeps > 0);
    free(all_messages);
    loop_free(loop);
}

/* Two loops wake each other, so that each sleeps before every message. */
struct player {
    struct loop_message message;
    struct loop *loop;
    struct player *peer;
    unsigned left;
};

static void player_run(struct loop_message *message)
{
    struct player *p = container_of(message, struct player, message);

    if (p->left-- == 0) {
        loop_stop(p->loop);
        p->peer->left = 0;
        loop_stop(p->peer->loop);
        return;
    }
    loop_post(p->peer->loop, &p->peer->message);
}

static void *loop_thread(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void test_ping_pong(void **state)
{
    struct player a = {.message.run = player_run, .left = 20000}, b = a;
    struct loop_stats stats;
    pthread_t thread;

    a.loop = make_loop(state, 0);
    b.loop = make_loop(state, 0);
    a.peer = &b;
    b.peer = &a;
    b.left++;
    assert_int_equal(pthread_create(&thread, NULL, loop_thread, b.loop), 0);
    loop_post(a.loop, &a.message);
    loop_run(a.loop);
    pthread_join(thread, NULL);
    loop_get_stats(a.loop, &stats);
    assert_true(stats.sleeps > 1000);
    loop_free(a.loop);
    loop_free(b.loop);
}

static void test_stop(void **state)
{
    struct loop *loop = make_loop(state, 0);
    pthread_t thread;

    for (int i = 0; i < 200; i++) {
        assert_int_equal(pthread_create(&thread, NULL, loop_thread, loop), 0);
        if (i == 0)
            sched_yield();
        loop_stop(loop);
        pthread_join(thread, NULL);
        if (strcmp(loop_engine_name(loop), "io_uring") == 0)
            break; /* the ring belongs to its first thread */
    }
    loop_free(loop);
}

struct letter {
    struct loop_message message;
    struct loop *loop;
    struct letter *other; /* to be taken back when this one runs */
    unsigned runs;
    bool taken_back;
};

static void letter_run(struct loop_message *message)
{
    struct letter *l = container_of(message, struct letter, message);

    l->runs++;
    if (l->other)
        l->taken_back = loop_unpost(l->loop, &l->other->message);
}

/* The newest, one in between, one that is no longer there, and one whose turn has begun. */
static void test_unpost(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct letter l[4] = {{.message.run = letter_run}};

    for (unsigned i = 0; i < ARRAY_SIZE(l); i++) {
        l[i] = (struct letter){.message.run = letter_run, .loop = loop};
        loop_post(loop, &l[i].message);
    }
    assert_true(loop_unpost(loop, &l[3].message));
    assert_true(loop_unpost(loop, &l[1].message));
    assert_false(loop_unpost(loop, &l[1].message));
    l[0].other = &l[2];
    loop_turn(loop, false);
    assert_false(l[0].taken_back);
    for (unsigned i = 0; i < ARRAY_SIZE(l); i++)
        assert_int_equal(l[i].runs, i % 2 == 0);
    assert_false(loop_unpost(loop, &l[2].message));
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_messages),
        BOTH(test_ping_pong),
        BOTH(test_stop),
        BOTH(test_unpost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
