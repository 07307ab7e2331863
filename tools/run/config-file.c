/* SPDX-License-Identifier: MIT */
/*
 * config-file.c - devtap.conf(5): lines of KEY = VALUE, sections [disk NAME], comments, and
 * values continued on lines that begin with white space.
 */
#include "tools/run/run.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>

/** struct parser - one file. @line: of what is being parsed; @start: where its value began. */
struct parser {
    struct run_config *config;
    const char *name;
    unsigned line, start;
    bool in_disk;
    uint64_t process_here; /* process options of this file, for those given twice */
    struct dt_error *err;
    char *key; /* the setting under way, completed by the next line that is no continuation */
    char *value;
};

static int locate(const struct parser *p, unsigned line, int ret)
{
    if (ret < 0)
        dt_fail_prefix(p->err, "%s:%u", p->name, line);
    return ret;
}

/* ---- Settings ------------------------------------------------------------------------------ */

static int unknown_key(const struct parser *p, const struct dt_param *params)
{
    struct nearest nearest = {.wanted = p->key};

    for (const struct dt_param *q = params; q->name; q++)
        nearest_offer(&nearest, q->name);
    dt_fail(p->err, -EINVAL, "'%.40s' is no key of %s", p->key,
            p->in_disk ? "a disk" : "the process");
    nearest_hint(&nearest, p->err);
    return -EINVAL;
}

static int set_process(struct parser *p)
{
    struct process_options *o = &p->config->process;
    int index = param_find(process_params, p->key);
    uint64_t bit;

    /* These make sense on a command line only. */
    if (index < 0 || strcmp(p->key, "config") == 0 || strcmp(p->key, "foreground") == 0 ||
        strcmp(p->key, "print-capabilities") == 0)
        return unknown_key(p, process_params);
    bit = 1ull << index;
    if (p->process_here & bit)
        return dt_fail(p->err, -EINVAL, "'%s' is given twice", p->key);
    p->process_here |= bit;
    if (p->config->process_given & bit) { /* the command line wins, but nonsense is still said */
        struct process_options judged = {0};
        struct dt_param alone[2] = {process_params[index]};
        int ret = param_apply(alone, &judged, p->value, p->err);

        param_free_all(alone, &judged);
        return ret;
    }
    return param_apply(&process_params[index], o, p->value, p->err);
}

static int set_disk(struct parser *p)
{
    struct disk_config *disk = &p->config->disks[p->config->count - 1];
    int index = param_find(disk_params, p->key);

    if (index < 0)
        return unknown_key(p, disk_params);
    return config_set(disk_params, &disk_params[index], &disk->options, &disk->given, p->value,
                      p->err);
}

/* The setting under way is complete. */
static int finish_setting(struct parser *p)
{
    int ret;

    if (!p->key)
        return 0;
    ret = p->in_disk ? set_disk(p) : set_process(p);
    free(p->key);
    free(p->value);
    p->key = p->value = NULL;
    return locate(p, p->start, ret);
}

/* ---- Lines --------------------------------------------------------------------------------- */

static int parse_section(struct parser *p, const char *text, size_t n)
{
    _cleanup_free_ char *where = xasprintf("%s:%u", p->name, p->line), *name = NULL;
    size_t word;
    bool net;

    if (n < 2 || text[n - 1] != ']')
        return dt_fail(p->err, -EINVAL, "a section ends with ']'");
    text++;
    n -= 2;
    net = n >= 4 && strncmp(text, "net", 3) == 0;
    word = net ? 3 : 4;
    if (n <= word || (!net && strncmp(text, "disk", 4) != 0) || !isspace((unsigned char)text[word]))
        return dt_fail(p->err, -EINVAL, "a section is [disk NAME] or [net NAME]");
    for (text += word, n -= word; n && isspace((unsigned char)*text); text++)
        n--;
    while (n && isspace((unsigned char)text[n - 1]))
        n--;
    if (n == 0)
        return dt_fail(p->err, -EINVAL, "the %s has no name: [%s NAME]", net ? "card" : "disk",
                       net ? "net" : "disk");
    name = strndup(text, n);
    p->in_disk = true;
    return config_add_disk(p->config, net ? DEVICE_NET : DEVICE_DISK, name, where, p->err);
}

static int parse_setting(struct parser *p, const char *text, size_t n)
{
    const char *equals = memchr(text, '=', n), *value;
    size_t key = equals ? (size_t)(equals - text) : 0;

    while (key && isspace((unsigned char)text[key - 1]))
        key--;
    if (key == 0)
        return dt_fail(p->err, -EINVAL,
                       "KEY = VALUE, a [disk NAME] or [net NAME] section or a comment was "
                       "expected");
    value = equals + 1;
    while (value < text + n && isspace((unsigned char)*value))
        value++;
    p->key = strndup(text, key);
    p->value = strndup(value, (size_t)(text + n - value));
    p->start = p->line;
    return 0;
}

static int continue_value(struct parser *p, const char *text, size_t n)
{
    char *longer;

    if (!p->key)
        return dt_fail(p->err, -EINVAL,
                       "a line that begins with white space continues a value, "
                       "and there is none");
    longer = xasprintf("%s%s%.*s", p->value, *p->value ? " " : "", (int)n, text);
    free(p->value);
    p->value = longer;
    return 0;
}

static int parse_line(struct parser *p, const char *line, size_t n)
{
    bool indented = n && isspace((unsigned char)*line);
    int ret;

    while (n && isspace((unsigned char)*line)) {
        line++;
        n--;
    }
    while (n && isspace((unsigned char)line[n - 1]))
        n--;
    if (n == 0 || *line == '#')
        return 0;
    if (memchr(line, '\0', n))
        return locate(p, p->line, dt_fail(p->err, -EINVAL, "it holds a zero byte"));
    if (indented)
        return locate(p, p->line, continue_value(p, line, n));
    ret = finish_setting(p);
    if (ret < 0)
        return ret;
    ret = *line == '[' ? parse_section(p, line, n) : parse_setting(p, line, n);
    return locate(p, p->line, ret);
}

int run_config_parse_text(struct run_config *config, const char *name, const char *text,
                          size_t size, struct dt_error *err)
{
    struct parser p = {.config = config, .name = name, .err = err};
    int ret = 0;

    if (size > CONFIG_MAX_FILE)
        return dt_fail(err, -EINVAL, "%s: longer than %u bytes", name, CONFIG_MAX_FILE);
    while (ret == 0 && size) {
        const char *end = memchr(text, '\n', size);
        size_t n = end ? (size_t)(end - text) : size;

        p.line++;
        ret = parse_line(&p, text, n);
        text += n + (end != NULL);
        size -= n + (end != NULL);
    }
    ret = ret ?: finish_setting(&p);
    free(p.key);
    free(p.value);
    return ret;
}

int run_config_read_file(struct run_config *config, const char *path, struct dt_error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    _cleanup_free_ char *text = xcalloc(CONFIG_MAX_FILE + 1, 1);
    size_t have = 0;
    ssize_t got = 0;

    if (fd < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    while (have <= CONFIG_MAX_FILE && (got = read(fd, text + have, CONFIG_MAX_FILE + 1 - have)) > 0)
        have += (size_t)got;
    if (got < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    return run_config_parse_text(config, path, text, have, err);
}
