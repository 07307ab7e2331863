/* SPDX-License-Identifier: MIT */
/* job.c - requests that take more than one I/O. There are COW_JOBS at a time; others wait. */
#include "blk/cow/internal.h"

int cow_jobs_start(struct cow_ctx *cc)
{
    cow_list_init(&cc->job_wait);
    cc->job_memory = xcalloc(COW_JOBS, sizeof(*cc->job_memory));
    cc->edge_memory = xaligned(COW_GRANULE, COW_JOBS * 2 * COW_GRANULE);
    for (unsigned i = 0; i < COW_JOBS; i++) {
        struct cow_job *job = &cc->job_memory[i];

        job->edge[0] = cc->edge_memory + (size_t)i * 2 * COW_GRANULE;
        job->edge[1] = job->edge[0] + COW_GRANULE;
        job->next = cc->job_free;
        cc->job_free = job;
    }
    return 0;
}

void cow_jobs_stop(struct cow_ctx *cc)
{
    for (unsigned i = 0; cc->job_memory && i < COW_JOBS; i++)
        free(cc->job_memory[i].bounce);
    free(cc->job_memory);
    free(cc->edge_memory);
}

void cow_job_run(struct cow_job *job)
{
    const struct dt_req *req = cow_req(job->cio);

    job->at = cow_offset(req);
    job->pending = 0;
    job->error = 0;
    if (req->op == DT_OP_READ)
        cow_read_run(job);
    else if (req->op == DT_OP_DISCARD)
        cow_discard_run(job);
    else
        cow_write_run(job);
}

void cow_job_begin(struct cow_io *cio)
{
    struct cow_ctx *cc = cio->c->data;
    struct cow_job *job = cc->job_free;

    if (!job) {
        cow_list_add(&cc->job_wait, cio);
        return;
    }
    cc->job_free = job->next;
    job->cio = cio;
    cow_job_run(job);
}

void cow_job_end(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    struct cow_ctx *cc = c->data;
    struct cow_io *waiting;

    if (job->locked)
        dt_range_unlock(c, &job->range);
    job->locked = false;
    job->cio = NULL;
    job->next = cc->job_free;
    cc->job_free = job;
    waiting = cow_list_take(&cc->job_wait);
    if (waiting)
        cow_job_begin(waiting);
}

void cow_job_finish(struct cow_job *job, int error)
{
    struct cow_io *cio = job->cio;

    cow_job_end(job);
    cow_finish(cio, error);
}

void cow_short(struct cow_job *job, int error)
{
    struct dt_ctx *c = job->cio->c;
    struct cow_ctx *cc = c->data;

    if (!shortage_holds(&cc->shortage)) {
        cow_job_finish(job, shortage_error(&cc->shortage, error));
        return;
    }
    dt_count(c, HELD, 1);
    cow_jobs_add(&cc->held, job);
}

bool cow_again(struct shortage_ctx *s, int error)
{
    struct cow_ctx *cc = container_of(s, struct cow_ctx, shortage);
    struct cow_job *job = cc->held.head, *next;
    bool any = job != NULL;

    /* What is held again is not in the list that is gone through. */
    cow_jobs_init(&cc->held);
    for (; job; job = next) {
        next = job->next;
        if (error)
            cow_job_finish(job, error);
        else
            cow_job_run(job);
    }
    return any;
}
