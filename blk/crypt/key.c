/* SPDX-License-Identifier: MIT */
/*
 * key.c - where a passphrase comes from: a file, the kernel's keyring, or a person at a terminal.
 *
 * Never from the command line, which every process can read. All bytes count, as for
 * cryptsetup --key-file: a newline at the end of a file is part of the passphrase. The worker that takes
 * over after a crash asks again, which a file and the keyring can answer at any time
 * and a person cannot.
 */
#include "blk/crypt/internal.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <termios.h>

#define KEY_MAX    (8u << 20) /* as cryptsetup's limit for key files */
#define PROMPT_MAX 512u

/* ---- A file ---------------------------------------------------------------------------------- */

/* Until its end: it may be a pipe or a credential. */
static int read_all(int fd, struct secret *key)
{
    for (;;) {
        ssize_t n = read(fd, key->bytes + key->length, key->room - key->length);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        key->length += (size_t)n;
        if (key->length == key->room)
            return -EFBIG;
    }
}

static int from_file(const char *path, struct secret *key, struct dt_error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int ret;

    if (fd < 0)
        return dt_fail(err, -errno, "key-file=%s: %s", path, strerror(errno));
    ret = secret_new(key, KEY_MAX, err);
    if (ret < 0)
        return ret;
    ret = read_all(fd, key);
    if (ret == -EFBIG)
        return dt_fail(err, ret, "key-file=%s holds 8 MiB or more: that is no key", path);
    if (ret < 0)
        return dt_fail(err, ret, "key-file=%s: %s", path, strerror(-ret));
    if (key->length == 0)
        return dt_fail(err, -EINVAL, "key-file=%s is empty", path);
    return 0;
}

/* ---- The keyring ----------------------------------------------------------------------------- */

static int keyring_failed(const char *name, struct dt_error *err)
{
    if (errno == ENOKEY || errno == EKEYEXPIRED || errno == EKEYREVOKED)
        return dt_fail(err, -ENOENT,
                       "keyring=%s: %s (a key of type 'user', in a keyring that this process sees; "
                       "'keyctl padd user %s @u' adds one)",
                       name, strerror(errno), name);
    return dt_fail(err, -errno, "keyring=%s: %s", name, strerror(errno));
}

static int from_keyring(const char *name, struct secret *key, struct dt_error *err)
{
    long id = syscall(SYS_request_key, "user", name, NULL, 0), n;
    int ret;

    if (id < 0)
        return keyring_failed(name, err);
    ret = secret_new(key, 32768, err); /* the most that a key of type user holds, and one */
    if (ret < 0)
        return ret;
    n = syscall(SYS_keyctl, KEYCTL_READ, id, key->bytes, key->room);
    if (n < 0)
        return keyring_failed(name, err);
    if (n == 0)
        return dt_fail(err, -EINVAL, "keyring=%s is empty", name);
    key->length = MIN((size_t)n, key->room);
    return 0;
}

/* ---- A person -------------------------------------------------------------------------------- */

static int read_line(struct secret *key)
{
    while (key->length < PROMPT_MAX) {
        ssize_t n = read(STDIN_FILENO, key->bytes + key->length, 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        if (key->bytes[key->length] == '\n') {
            key->bytes[key->length] = 0;
            return 0;
        }
        key->length++;
    }
    return -E2BIG;
}

static int from_terminal(const char *what, struct secret *key, struct dt_error *err)
{
    struct termios shown, hidden;
    int ret;

    /* Keepers and workers have no input: a worker that replaces a dead one at night could not ask. */
    if (!isatty(STDIN_FILENO))
        return dt_fail(err, -EINVAL,
                       "prompt=on needs a terminal, and a process that lives as long as the disk: "
                       "say devtap run --single, or take the key from key-file= or keyring=");
    ret = secret_new(key, PROMPT_MAX + 1, err);
    if (ret < 0)
        return ret;
    if (tcgetattr(STDIN_FILENO, &shown) < 0)
        return dt_fail(err, -errno, "the terminal: %s", strerror(errno));
    hidden = shown;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    fprintf(stderr, "Passphrase for %s: ", what);
    fflush(stderr);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
    ret = read_line(key);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
    fputc('\n', stderr);
    if (ret < 0)
        return dt_fail(err, ret, "no passphrase was read: %s", strerror(-ret));
    return 0;
}

/* ---- One of them ----------------------------------------------------------------------------- */

int key_obtain(const struct key_source *source, const char *what, struct secret *passphrase,
               struct dt_error *err)
{
    unsigned given = (source->file != NULL) + (source->keyring != NULL) + source->prompt;
    int ret;

    *passphrase = (struct secret){0};
    if (given != 1)
        return dt_fail(err, -EINVAL, "give %s of key-file=PATH, keyring=NAME and prompt=on",
                       given ? "only one" : "one");
    if (source->file)
        ret = from_file(source->file, passphrase, err);
    else if (source->keyring)
        ret = from_keyring(source->keyring, passphrase, err);
    else
        ret = from_terminal(what, passphrase, err);
    if (ret < 0)
        secret_free(passphrase);
    return ret;
}
