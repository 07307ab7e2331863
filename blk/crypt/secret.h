/* SPDX-License-Identifier: MIT */
/* secret.h - memory for keys and passphrases. */
#ifndef CRYPT_SECRET_H
#define CRYPT_SECRET_H

#include "base/base.h"

/** struct secret - bytes in pages of their own: locked, in no core dump, wiped when freed. */
struct secret {
    uint8_t *bytes;
    size_t length, room;
};
/** secret_new() - room for @room bytes, all zero; @length is 0. */
int secret_new(struct secret *secret, size_t room, struct dt_error *err);
/** secret_free() - wipe; harmless on one that is all zero. */
void secret_free(struct secret *secret);

#endif
