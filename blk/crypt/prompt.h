/* SPDX-License-Identifier: MIT */
/* prompt.h - passphrases that a person types, for this process or for workers that it will start. */
#ifndef CRYPT_PROMPT_H
#define CRYPT_PROMPT_H

#include "blk/crypt/secret.h"

/** prompt_ask() - at the terminal that is our input; what is typed is not shown. */
int prompt_ask(const char *device, struct secret *key, struct dt_error *err);
/** prompt_keep() - for processes that this one starts from now on, in the kernel's memory and no longer than one of them
 *  lives. */
int prompt_keep(const char *device, const struct secret *key, struct dt_error *err);
/** prompt_key_name() - by what name they find it in the keyring; owned by the caller. */
char *prompt_key_name(const char *device);

#endif
