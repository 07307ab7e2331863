/* SPDX-License-Identifier: MIT */
/*
 * group.c - limits that several cards share: words in a file that all of them map.
 *
 * There is no lock that a card could die with, and nothing in the file that could be wrong but the words themselves, which are judged
 * whenever they are read (base/meter.h). Who maps it may use up or forgive what the group has, and can do no more; but who can
 * open it can cut it short, and the next look of those who map it is a SIGBUS. So it is its owner's alone (0600).
 * Times are the host's since it was started, so a file from before that says nothing.
 */
#include "net/rate/rate.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x3130657461527464ull /* "dtRate01" */

struct group {
    uint64_t magic; /* 0: it was just made */
    struct rate_words words;
};

/* Of another size it is somebody else's, and stays as it is. */
static int map(int fd, struct group **group)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (st.st_size != 0 && st.st_size != (off_t)sizeof(**group))
        return -EMEDIUMTYPE;
    if (st.st_size == 0 && ftruncate(fd, sizeof(**group)) < 0)
        return -errno;
    *group = mmap(NULL, sizeof(**group), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return *group == MAP_FAILED ? -errno : 0;
}

/* False: it is another's. */
static bool stamp(struct group *group)
{
    uint64_t seen = 0;

    return __atomic_compare_exchange_n(&group->magic, &seen, MAGIC, false, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED) ||
           seen == MAGIC;
}

int rate_group_open(const char *path, struct rate_words **words, struct dt_error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0600),
        ret;
    struct group *group;

    if (fd < 0)
        return dt_fail(err, -errno, "group=%s: %s", path, strerror(errno));
    ret = map(fd, &group);
    close(fd);
    if (ret == 0 && !stamp(group)) {
        munmap(group, sizeof(*group));
        ret = -EMEDIUMTYPE;
    }
    if (ret < 0)
        return dt_fail(err, ret == -EMEDIUMTYPE ? -EINVAL : ret, "group=%s: %s", path,
                       ret == -EMEDIUMTYPE ? "this is another kind of file"
                       : ret == -EINVAL    ? "it is no file"
                                           : strerror(-ret));
    *words = &group->words;
    return 0;
}

void rate_group_close(struct rate_words *words)
{
    munmap(container_of(words, struct group, words), sizeof(struct group));
}
