/* SPDX-License-Identifier: MIT */
/*
 * discard.c - gives the space of whole granules back where the overlay holds them: they read as zeroes
 * from then on. The base shows nowhere that it did not show before; so what is the base's stays.
 */
#include "blk/cow/internal.h"

#include <fcntl.h>
#include <linux/falloc.h>

static void punched(struct dt_io *io, int result)
{
    struct cow_part *part = container_of(io, struct cow_part, io);
    struct cow_job *job = part->job;

    if (result == -EINTR || result == -EAGAIN) {
        cow_discard_run(job);
    } else if (result < 0) {
        cow_job_finish(job, result);
    } else {
        job->at += job->length;
        cow_discard_run(job);
    }
}

void cow_discard_run(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    const struct dt_req *req = cow_req(job->cio);
    uint64_t granule = (job->at + COW_GRANULE - 1) >> COW_SHIFT, end = cow_end(req) >> COW_SHIFT;
    bool set = false;

    if (cow_end(req) == w->header.size)
        end = w->at.granules;
    while (granule < end) {
        uint64_t run = cow_map_run(w->now, granule, end, &set);

        if (set) {
            struct cow_part *part = &job->parts[0];

            job->at = granule << COW_SHIFT;
            job->length = run << COW_SHIFT;
            part->job = job;
            part->io.done = punched;
            dt_io_fallocate(c, &part->io, w->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            w->at.data_offset + job->at, job->length);
            return;
        }
        granule += run;
    }
    cow_job_finish(job, 0);
}
