/* SPDX-License-Identifier: MIT */
/*
 * log.c - the program's log: one write(2) per line, so that lines of several threads and
 * processes on one pipe do not mix, and no control characters, because parts of a line may
 * come from a guest or a socket.
 */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#define LOG_LINE_MAX 1024

static unsigned log_level = DT_LOG_INFO;

void log_set_level(enum dt_log_level level)
{
    __atomic_store_n(&log_level, (unsigned)level, __ATOMIC_RELAXED);
}

/*
 * systemd.exec(5): JOURNAL_STREAM holds device:inode of the journal's socket. It must be
 * compared, because a terminal started from a user unit inherits the variable.
 */
static bool stderr_is_journal(void)
{
    const char *value = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;

    return value && sscanf(value, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == dev && st.st_ino == ino;
}

static size_t log_prefix(char *line, size_t size, enum dt_log_level level)
{
    static const struct {
        int priority; /* syslog(3) */
        const char *word;
    } levels[] = {
        [DT_LOG_ERROR] = {3, "error: "},
        [DT_LOG_WARNING] = {4, "warning: "},
        [DT_LOG_INFO] = {6, ""},
        [DT_LOG_DEBUG] = {7, "debug: "},
    };
    static int journal = -1; /* -1 = not asked yet; racing threads compute the same value */
    int is_journal = __atomic_load_n(&journal, __ATOMIC_RELAXED);
    int n;

    if (is_journal < 0) {
        is_journal = stderr_is_journal();
        __atomic_store_n(&journal, is_journal, __ATOMIC_RELAXED);
    }
    if (is_journal)
        n = snprintf(line, size, "<%d>", levels[level].priority);
    else
        n = snprintf(line, size, "%s: %s", program_invocation_short_name, levels[level].word);
    return MIN((size_t)n, size - 1);
}

void dt_log(enum dt_log_level level, const char *fmt, ...)
{
    char line[LOG_LINE_MAX];
    int saved_errno = errno;
    size_t n;
    int body;
    va_list args;

    if ((unsigned)level > __atomic_load_n(&log_level, __ATOMIC_RELAXED))
        return;
    n = log_prefix(line, sizeof(line) - 1, level);
    errno = saved_errno; /* for %m */
    va_start(args, fmt);
    body = vsnprintf(line + n, sizeof(line) - 1 - n, fmt, args);
    va_end(args);
    if (body > 0) {
        size_t end = n + MIN((size_t)body, sizeof(line) - 2 - n);

        for (; n < end; n++)
            if ((unsigned char)line[n] < ' ' || line[n] == 0x7f)
                line[n] = '?';
    }
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) {
        /* There is nowhere left to say so. */
    }
    errno = saved_errno;
}

/* Threads that race here may let a line more or less through. */
bool log_limit_allows(struct log_limit *limit)
{
    uint64_t second = dt_clock_ns() / DT_S(1);
    uint32_t dropped;

    if (__atomic_exchange_n(&limit->second, second, __ATOMIC_RELAXED) != second) {
        __atomic_store_n(&limit->lines, 0, __ATOMIC_RELAXED);
        dropped = __atomic_exchange_n(&limit->dropped, 0, __ATOMIC_RELAXED);
        if (dropped)
            log_warning("%u lines like the next one were left out", dropped);
    }
    if (__atomic_fetch_add(&limit->lines, 1, __ATOMIC_RELAXED) < LOG_LIMIT)
        return true;
    __atomic_fetch_add(&limit->dropped, 1, __ATOMIC_RELAXED);
    return false;
}
