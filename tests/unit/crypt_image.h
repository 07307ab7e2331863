/* SPDX-License-Identifier: MIT */
/* crypt_image.h - LUKS disks for tests, made by libcryptsetup with a quick key derivation. */
#ifndef CRYPT_IMAGE_H
#define CRYPT_IMAGE_H

#include "ext_disk.h"
#include "scratch.h"

#include <libcryptsetup.h>
#include <sys/stat.h>

#define PASSPHRASE "a passphrase\nof two lines"

static char image[64], header[64], key_file[64], bad_file[64];
static uint8_t volume_key[64];

static inline int image_setup(void **state)
{
    scratch_make();
    snprintf(image, sizeof(image), "%s/image", dir);
    snprintf(header, sizeof(header), "%s/header", dir);
    snprintf(key_file, sizeof(key_file), "%s/key", dir);
    snprintf(bad_file, sizeof(bad_file), "%s/bad", dir);
    put_file(key_file, PASSPHRASE, strlen(PASSPHRASE));
    put_file(bad_file, PASSPHRASE "\n", strlen(PASSPHRASE) + 1);
    for (size_t i = 0; i < sizeof(volume_key); i++)
        volume_key[i] = (uint8_t)(i * 37 + 11);
    return 0;
}

static inline int image_teardown(void **state)
{
    unlink(image);
    unlink(header);
    unlink(key_file);
    unlink(bad_file);
    return rmdir(dir);
}

static const struct crypt_pbkdf_type quick = {.type = CRYPT_KDF_PBKDF2,
                                              .hash = "sha256",
                                              .iterations = 1000,
                                              .flags = CRYPT_PBKDF_NO_BENCHMARK};

/**
 * struct format - a disk as cryptsetup would make it.
 * @offset: of the data in MiB; 0 = 16, as it does by itself.
 */
struct format {
    const char *mode;
    size_t key;
    uint32_t sector;
    bool detached;
    unsigned mib, offset;
};

static inline void format(const struct format *f)
{
    struct crypt_params_luks2 params = {.sector_size = f->sector, .pbkdf = &quick};
    unsigned offset = f->offset ? f->offset : 16;
    struct crypt_device *cd;

    empty_file(image, (off_t)((f->detached ? 0 : offset) + f->mib) << 20);
    empty_file(header, 16 << 20);
    if (f->detached)
        assert_int_equal(crypt_init_data_device(&cd, header, image), 0);
    else
        assert_int_equal(crypt_init(&cd, image), 0);
    crypt_set_rng_type(cd, CRYPT_RNG_URANDOM);
    if (f->offset) {
        assert_int_equal(crypt_set_metadata_size(cd, 16384, (offset << 20) - 32768), 0);
        assert_int_equal(crypt_set_data_offset(cd, offset << 11), 0);
    }
    assert_int_equal(
        crypt_format(cd, CRYPT_LUKS2, "aes", f->mode, NULL, (char *)volume_key, f->key, &params),
        0);
    assert_int_equal(crypt_keyslot_add_by_volume_key(cd, CRYPT_ANY_SLOT, (char *)volume_key, f->key,
                                                     PASSPHRASE, strlen(PASSPHRASE)),
                     0);
    crypt_free(cd);
}

/* What `cryptsetup reencrypt --init-only` does. */
static inline void prepare_rekey(const struct format *f, const char *resilience)
{
    struct crypt_params_luks2 params = {.sector_size = f->sector};
    struct crypt_params_reencrypt change = {.mode = CRYPT_REENCRYPT_REENCRYPT,
                                            .direction = CRYPT_REENCRYPT_FORWARD,
                                            .resilience = resilience,
                                            .hash = "sha256",
                                            .luks2 = &params,
                                            .flags = CRYPT_REENCRYPT_INITIALIZE_ONLY};
    struct crypt_device *cd;
    int slot;

    assert_int_equal(crypt_init(&cd, image), 0);
    assert_int_equal(crypt_load(cd, CRYPT_LUKS2, NULL), 0);
    crypt_set_rng_type(cd, CRYPT_RNG_URANDOM);
    crypt_set_pbkdf_type(cd, &quick);
    slot = crypt_keyslot_add_by_key(cd, CRYPT_ANY_SLOT, NULL, f->key, PASSPHRASE,
                                    strlen(PASSPHRASE), CRYPT_VOLUME_KEY_NO_SEGMENT);
    assert_true(slot >= 0);
    assert_true(crypt_reencrypt_init_by_passphrase(cd, NULL, PASSPHRASE, strlen(PASSPHRASE), 0,
                                                   slot, "aes", "xts-plain64", &change) >= 0);
    crypt_free(cd);
}

#endif
