/* SPDX-License-Identifier: MIT */
/*
 * base.h - checks, lists, scope guards and small helpers used by every layer.
 * What extensions may use too is in <devtap/base.h>.
 */
#ifndef BASE_H
#define BASE_H

#include <devtap/base.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Each argument is evaluated once: some of them are read from memory that others write. */
#define MIN(a, b)                                         \
    ({                                                    \
        __typeof__((a) + (b)) min_a_ = (a), min_b_ = (b); \
        min_a_ < min_b_ ? min_a_ : min_b_;                \
    })
#define MAX(a, b)                                         \
    ({                                                    \
        __typeof__((a) + (b)) max_a_ = (a), max_b_ = (b); \
        max_a_ > max_b_ ? max_a_ : max_b_;                \
    })
#define ALIGN_UP(x, a)                  (((x) + ((a)-1)) & ~((__typeof__(x))(a)-1))
#define ALIGN_DOWN(x, a)                ((x) & ~((__typeof__(x))(a)-1))
#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define CACHE_LINE                      64
#define CACHE_ALIGNED                   __attribute__((aligned(CACHE_LINE)))
#define PAGE_SIZE_4K                    4096u

/* Checks stay in release builds: a bug of ours ends this process, which is replaced. */
_Noreturn void check_failed(const char *file, int line, const char *what);
#define CHECK(cond)                                  \
    do {                                             \
        if (unlikely(!(cond)))                       \
            check_failed(__FILE__, __LINE__, #cond); \
    } while (0)
/* An object's first field is `uint32_t magic`; entry points verify it. */
#define CHECK_MAGIC(obj, value) CHECK((obj) != NULL && (obj)->magic == (value))

/* Scope guards: `_cleanup_free_ char *s`, `_cleanup_close_ int fd = -1`. */
static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}
static inline void cleanup_close(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define _cleanup_free_  __attribute__((cleanup(cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))

/* Moves a value out of a guarded variable. */
#define TAKE_FD(fd)     \
    ({                  \
        int fd_ = (fd); \
        (fd) = -1;      \
        fd_;            \
    })
#define TAKE_PTR(p)             \
    ({                          \
        __typeof__(p) p_ = (p); \
        (p) = NULL;             \
        p_;                     \
    })

/* Allocation at start-up or on the control path only: failure ends the process. */
void *xcalloc(size_t n, size_t size);
void *xaligned(size_t align, size_t size); /* zeroed */
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) DT_PRINTF(1, 2);

/* Log lines below @level are dropped before they are formatted. */
void log_set_level(enum dt_log_level level);
#define log_error(...)   dt_log(DT_LOG_ERROR, __VA_ARGS__)
#define log_warning(...) dt_log(DT_LOG_WARNING, __VA_ARGS__)
#define log_info(...)    dt_log(DT_LOG_INFO, __VA_ARGS__)
#define log_debug(...)   dt_log(DT_LOG_DEBUG, __VA_ARGS__)

/** struct log_limit - a place in the code that a guest or a peer can reach as often as it likes. */
struct log_limit {
    uint64_t second; /* of dt_clock_ns(), in which @lines were let through */
    uint32_t lines, dropped;
};
/** log_limit_allows() - may one more line be written? From any thread; what was left out is told. */
bool log_limit_allows(struct log_limit *limit);
/* log_limited() - like dt_log(), but from each place in the code at most LOG_LIMIT lines a second. */
#define LOG_LIMIT 10u
#define log_limited(level, ...)         \
    do {                                \
        static struct log_limit limit_; \
                                        \
        if (log_limit_allows(&limit_))  \
            dt_log(level, __VA_ARGS__); \
    } while (0)

/* Doubly linked intrusive list; an unlinked node points to itself. */
struct list {
    struct list *next, *prev;
};
static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_add_tail(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}
static inline void list_del(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
#define list_entry(node, type, member) container_of(node, type, member)
#define list_for_each(it, head)        for (struct list *it = (head)->next; it != (head); it = it->next)
#define list_for_each_safe(it, head)                                          \
    for (struct list *it = (head)->next, *it##_next = it->next; it != (head); \
         it = it##_next, it##_next = it->next)

/* Little-endian loads and stores for virtio and for our formats (the supported hosts are LE). */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "devtap supports little-endian hosts");

/* One private copy of memory that a guest may be writing at this moment. */
#define READ_ONCE(x)     (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

#endif
