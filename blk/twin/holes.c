/* SPDX-License-Identifier: MIT */
/*
 * holes.c - what both chains say that they hold (dt_block_ext.status), so that holes are not copied.
 *
 * Theory of operation: layers may take their time with an answer, so a thread of our own asks, about a stretch of the disk
 * that begins where the copying is. An answer counts for what was acknowledged before the question; so each region in
 * which a write was under way then, or has begun since, is noted, and the answer says nothing of it. What both chains hold
 * as zeroes is clean without more ado; what the first one does is written there as zeroes (catchup.c). All doubt is data.
 *
 * A disk with many small holes would be asked all the time, and some layers have to stop the disk's threads for an
 * answer. So after data the next question comes only some way further on, and further each time.
 */
#include "blk/twin/twin.h"

#include <pthread.h>
#include <signal.h>

#define STEP_LEAST ((4u << 20) >> DT_SECTOR_SHIFT)
#define STEP_MOST  ((1u << 30) >> DT_SECTOR_SHIFT)
#define ANSWER_NS  DT_MS(200)

/* ---- What was written since ------------------------------------------------------------------ */

void twin_holes_touch(struct twin *t, uint64_t sector, uint64_t sectors)
{
    struct twin_holes *h = &t->holes;
    uint64_t first = MAX(sector >> t->shift, h->begin);
    uint64_t end = MIN(twin_last_region(t, sector, sectors) + 1, h->begin + HOLES_WINDOW);

    for (uint64_t r = first; h->made && r < end; r++)
        h->touched[(r - h->begin) / 64] |= 1ull << ((r - h->begin) % 64);
}

static bool is_touched(const struct twin_holes *h, uint64_t region)
{
    return h->touched[(region - h->begin) / 64] >> ((region - h->begin) % 64) & 1;
}

/* What is under way may be in an answer, or not. */
static void touch_all_under_way(struct twin *t)
{
    for (const struct twin_job *job = t->job_head; job; job = job->next)
        if (twin_writes(job->op))
            twin_holes_touch(t, job->sector, job->sectors);
    for (struct dt_req *req = t->loose; req; req = twin_frame(t, req)->next)
        twin_holes_touch(t, req->sector, req->sectors);
    for (unsigned i = 0; i < TWIN_COPIERS; i++)
        if (t->copiers[i].busy)
            twin_holes_touch(t, t->copiers[i].region << t->shift, 1);
}

/* ---- The thread that asks -------------------------------------------------------------------- */

static void ask(struct twin *t)
{
    struct twin_holes *h = &t->holes;

    dt_status_below(t->layer, &h->first);
    h->second.sectors = h->first.sectors;
    h->second.status = DT_STATUS_DATA;
    if (h->first.status != DT_STATUS_DATA)
        device_status(t->dev, &h->second);
}

static void *run_thread(void *arg)
{
    struct twin *t = arg;

    for (;;) {
        while (sem_wait(&t->holes.wake) < 0)
            ;
        if (t->holes.stop)
            return NULL;
        ask(t);
        loop_post(ctx_loop(t->c), &t->holes.answered);
    }
}

static bool make_thread(struct twin *t)
{
    struct twin_holes *h = &t->holes;
    sigset_t all, old;

    if (h->made)
        return true;
    sem_init(&h->wake, 0, 0);
    h->touched = xcalloc(HOLES_WINDOW / 64, sizeof(uint64_t));
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    h->made = pthread_create(&h->thread, NULL, run_thread, t) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (h->made) {
        pthread_setname_np(h->thread, "twin-holes");
        return true;
    }
    sem_destroy(&h->wake);
    free(h->touched);
    return false;
}

void twin_holes_fini(struct twin *t)
{
    struct twin_holes *h = &t->holes;

    if (h->made) {
        h->stop = true; /* it has no question: a stop comes at rest */
        sem_post(&h->wake);
        pthread_join(h->thread, NULL);
        sem_destroy(&h->wake);
        free(h->touched);
    }
    *h = (struct twin_holes){0};
}

/* ---- Questions, and answers ------------------------------------------------------------------ */

/* Whole regions that lie within the first @sectors from @begin on. */
static uint64_t regions_in(const struct twin *t, uint64_t begin, uint64_t sectors)
{
    uint64_t end = (begin << t->shift) + sectors;

    return (end >= t->sectors ? t->regions : end >> t->shift) - begin;
}

static void skip(struct twin *t)
{
    struct twin_holes *h = &t->holes;
    uint64_t bytes = 0;

    for (uint64_t r = h->begin; r < h->end; r++)
        if (twin_is_dirty(t, r) && !is_touched(h, r) && !twin_under_way(t, r)) {
            bytes += (twin_region_end(t, r) - (r << t->shift)) << DT_SECTOR_SHIFT;
            twin_clean(t, r);
        }
    dt_count(t->c, TWIN_HOLES, bytes);
    while (t->judged >= h->begin && t->judged < h->end && !is_touched(h, t->judged))
        t->judged++; /* they are equal without a look */
}

/* Return: for how many regions the answer is to count. */
static uint64_t judge_answer(struct twin *t)
{
    struct twin_holes *h = &t->holes;
    uint64_t n = regions_in(t, h->begin, h->second.sectors);

    if (n == 0) /* it ends within the region */
        h->first.status = DT_STATUS_DATA;
    if (h->first.status == DT_STATUS_DATA) {
        n = regions_in(t, h->begin, MAX(h->second.sectors, h->step));
        h->step = MIN(2 * h->step, STEP_MOST);
    } else if (h->second.sectors >= STEP_LEAST) {
        h->step = STEP_LEAST;
    }
    return MIN(MAX(n, 1u), HOLES_WINDOW);
}

static void run_answered(struct loop_message *message)
{
    struct twin *t = container_of(message, struct twin, holes.answered);
    struct twin_holes *h = &t->holes;

    h->asking = false;
    h->end = h->begin + judge_answer(t);
    if (h->first.status != DT_STATUS_DATA && h->second.status != DT_STATUS_DATA)
        skip(t);
    twin_run_waiting(t);
    twin_catch_up(t);
    ctx_busy(t->c, -1);
}

bool twin_holes_unknown(struct twin *t, uint64_t region)
{
    struct twin_holes *h = &t->holes;
    struct dt_extent question = {.sector = region << t->shift};

    if (h->asking || (region >= h->begin && region < h->end))
        return h->asking;
    /* Only a loop that runs on a thread of its own can be asked from another. */
    if (!loop_is_own(ctx_loop(t->c)) || !make_thread(t))
        return false;
    question.sectors = MIN(t->sectors - question.sector, (uint64_t)HOLES_WINDOW << t->shift);
    question.deadline = dt_clock_ns() + ANSWER_NS;
    h->first = h->second = question;
    h->begin = h->end = region;
    h->step = MAX(h->step, STEP_LEAST);
    memset(h->touched, 0, HOLES_WINDOW / 8);
    touch_all_under_way(t);
    h->asking = true;
    h->answered.run = run_answered;
    ctx_busy(t->c, 1);
    sem_post(&h->wake);
    return true;
}

bool twin_is_hole(const struct twin *t, uint64_t region)
{
    const struct twin_holes *h = &t->holes;

    return !h->asking && region >= h->begin && region < h->end &&
           h->first.status != DT_STATUS_DATA && !is_touched(h, region);
}
