/* SPDX-License-Identifier: MIT */
/*
 * prompt.c - passphrases that a person types.
 *
 * Theory of operation: workers have no terminal, and one that takes over at night could not ask. So whoever
 * starts them asks, once, and keeps the answer where all workers to come find it: in a session
 * keyring made for this process and its children. The kernel never writes keys to swap, lets only
 * those read them who hold the keyring, and forgets them with its last holder, however that
 * ends. Keepers and extensions hold it too, but may not ask for keys: their system call filters forbid it,
 * and a worker's from the moment its disks are open.
 */
#include "blk/crypt/prompt.h"

#include <linux/keyctl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define PROMPT_MAX 512u

/* The terminal's signals are off meanwhile: whoever interrupts gets it back as it was. */
static int read_line(struct secret *key, const struct termios *terminal)
{
    while (key->length < PROMPT_MAX) {
        ssize_t n = read(STDIN_FILENO, key->bytes + key->length, 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        if (key->bytes[key->length] == terminal->c_cc[VINTR] ||
            key->bytes[key->length] == terminal->c_cc[VQUIT])
            return -ECANCELED;
        if (key->bytes[key->length] == '\n') {
            key->bytes[key->length] = 0;
            return 0;
        }
        key->length++;
    }
    return -E2BIG;
}

int prompt_ask(const char *device, struct secret *key, struct dt_error *err)
{
    struct termios shown, hidden;
    int ret;

    *key = (struct secret){0};
    if (tcgetattr(STDIN_FILENO, &shown) < 0)
        return dt_fail(err, -errno, "the terminal: %s", strerror(errno));
    ret = secret_new(key, PROMPT_MAX + 1, err);
    if (ret < 0)
        return ret;
    hidden = shown;
    hidden.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    fprintf(stderr, "Passphrase for %s: ", device);
    fflush(stderr);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
    ret = read_line(key, &hidden);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
    fputc('\n', stderr);
    if (ret < 0) {
        secret_free(key);
        return dt_fail(err, ret, "no passphrase was read: %s", strerror(-ret));
    }
    return 0;
}

char *prompt_key_name(const char *device)
{
    return xasprintf("devtap-prompt:%s", device);
}

/*
 * A new session keyring, which has the one of before within: keys of the user's are found as ever. That one can be
 * linked only by who holds it, and we no longer do then: so by way of this process's own.
 */
static int own_session(void)
{
    long before = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1);
    bool held =
        before > 0 && syscall(SYS_keyctl, KEYCTL_LINK, before, KEY_SPEC_PROCESS_KEYRING) == 0;
    int ret = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 ? -errno : 0;

    if (held && ret == 0 && syscall(SYS_keyctl, KEYCTL_LINK, before, KEY_SPEC_SESSION_KEYRING) < 0)
        log_warning("the keys of the session are not seen: %s", strerror(errno));
    if (held)
        syscall(SYS_keyctl, KEYCTL_UNLINK, before, KEY_SPEC_PROCESS_KEYRING);
    return ret;
}

int prompt_keep(const char *device, const struct secret *key, struct dt_error *err)
{
    _cleanup_free_ char *name = prompt_key_name(device);
    static bool own;
    int ret = own ? 0 : own_session();

    own = ret == 0;
    if (ret == 0 &&
        syscall(SYS_add_key, "user", name, key->bytes, key->length, KEY_SPEC_SESSION_KEYRING) < 0)
        ret = -errno;
    return ret < 0 ? dt_fail(err, ret,
                             "the kernel's keyring cannot keep the passphrase for workers (%s): "
                             "take key-file=, "
                             "or say devtap run --single",
                             strerror(-ret))
                   : 0;
}
