/* SPDX-License-Identifier: MIT */
/*
 * key.c - where a passphrase comes from: a file, the kernel's keyring, or a person at a terminal.
 *
 * Never from the command line, which every process can read. All bytes count, as for
 * cryptsetup --key-file: a newline at the end of a file is part of the passphrase. The worker that takes
 * over after a crash asks again, which a file and the keyring can answer at any time, and for a
 * person who answered once, the keyring (prompt.c).
 */
#include "blk/crypt/internal.h"
#include "blk/crypt/prompt.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <sys/syscall.h>

#define KEY_MAX (8u << 20) /* as cryptsetup's limit for key files */

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

/* At our own terminal, or before we were started: a worker has none. */
static int from_person(const char *device, struct secret *key, struct dt_error *err)
{
    _cleanup_free_ char *kept = NULL;

    if (isatty(STDIN_FILENO))
        return prompt_ask(device, key, err);
    kept = prompt_key_name(device);
    if (from_keyring(kept, key, NULL) == 0)
        return 0;
    return dt_fail(
        err, -EINVAL,
        "prompt=on needs a terminal: start devtap from one, with this layer in the disk's "
        "own chain, or take the key from key-file= or keyring=");
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
        ret = from_person(what, passphrase, err);
    if (ret < 0)
        secret_free(passphrase);
    return ret;
}
