/* SPDX-License-Identifier: MIT */
/*
 * test_ext_crypt.c - the extension crypt against libcryptsetup, which makes the headers here, against the
 * published vectors of XTS, and against a plain loop over OpenSSL.
 */
#include "blk/crypt/internal.h"
#include "crypt_image.h"

#include <openssl/evp.h>
#include <sys/syscall.h>

#define DATA_MIB 8u

static uint8_t data[64 << 10] __attribute__((aligned(4096)));
static uint8_t back[64 << 10] __attribute__((aligned(4096)));

static int setup(void **state)
{
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 512);
    return image_setup(state);
}

/* What the file must hold at @sector of the data: each unit by itself, by another way through OpenSSL. */
static void assert_holds(const struct format *f, uint64_t sector, const uint8_t *plain, size_t n)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint64_t offset = f->detached ? 0 : 16 << 20;
    int fd = open(image, O_RDONLY), length;

    assert_true(pread(fd, back, n, (off_t)(offset + sector * 512)) == (ssize_t)n);
    close(fd);
    assert_memory_not_equal(back, plain, n);
    for (size_t at = 0; at < n; at += f->sector) {
        uint64_t tweak[2] = {sector + at / 512, 0};

        assert_int_equal(EVP_DecryptInit_ex(ctx,
                                            f->key == 64 ? EVP_aes_256_xts() : EVP_aes_128_xts(),
                                            NULL, volume_key, (uint8_t *)tweak),
                         1);
        assert_int_equal(EVP_DecryptUpdate(ctx, back + at, &length, back + at, (int)f->sector), 1);
    }
    EVP_CIPHER_CTX_free(ctx);
    assert_memory_equal(back, plain, n);
}

static void check_format(const struct format *f)
{
    char detached[80] = "";

    format(f);
    if (f->detached)
        snprintf(detached, sizeof(detached), "header=%s", header);
    disk_open("crypt key-file=%s %s | file path=%s", key_file, detached, image);
    assert_int_equal(device_info(disk.dev)->sectors, DATA_MIB << 11);
    assert_int_equal(device_info(disk.dev)->logical_block, f->sector);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 64, 128, data), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, (DATA_MIB << 11) - 8, 8, data), 0);
    memset(back, 0, sizeof(back));
    assert_int_equal(disk_do(DT_OP_READ, 0, 64, 128, back), 0);
    assert_memory_equal(back, data, sizeof(data));
    assert_int_equal(disk_counter("crypt", "encrypted-bytes"), sizeof(data) + 4096);
    assert_int_equal(disk_counter("crypt", "decrypted-bytes"), sizeof(data));
    disk_close();
    assert_holds(f, 64, data, sizeof(data));
    assert_holds(f, (DATA_MIB << 11) - 8, data, 4096);
    /* And again, from what is on the disk. */
    disk_open("crypt key-file=%s %s | file path=%s", key_file, detached, image);
    assert_int_equal(disk_do(DT_OP_READ, 0, 72, 8, back), 0);
    assert_memory_equal(back, data + 4096, 4096);
    disk_close();
}

static void all_formats(void **state)
{
    check_format(&(struct format){"xts-plain64", 64, 512, false, DATA_MIB, 0});
    check_format(&(struct format){"xts-plain64", 64, 4096, false, DATA_MIB, 0});
    check_format(&(struct format){"xts-plain64", 32, 512, true, DATA_MIB, 0});
    check_format(&(struct format){"xts-plain64", 32, 4096, false, DATA_MIB, 0});
    check_format(&(struct format){"xts-plain64", 64, 4096, true, DATA_MIB, 0});
}

/* Serves @below, puts all of the image there, and then opens crypt on it: what it begins with is in the files of
 * that layer alone, which cannot be started when crypt reads its header. */
static void opens_on(const char *below)
{
    int fd = open(image, O_RDONLY);
    ssize_t n;

    disk_open("%s", below);
    for (uint64_t at = 0; (n = pread(fd, back, sizeof(back), (off_t)at)) > 0; at += (uint64_t)n)
        assert_int_equal(disk_do(DT_OP_WRITE, 0, at / 512, (uint32_t)n / 512, back), 0);
    close(fd);
    disk_rest_and_close();
    for (unsigned i = 0; i < 2; i++) {
        disk_open("crypt key-file=%s | throttle | %s", key_file, below);
        assert_int_equal(disk_do(DT_OP_READ, 0, 64, 128, back), 0);
        assert_memory_equal(back, data, sizeof(data));
        disk_rest_and_close();
    }
}

static void its_header_is_in_the_files_of_others(void **state)
{
    static const struct format f = {"xts-plain64", 64, 4096, false, DATA_MIB, 0};
    _cleanup_free_ char *blank = xasprintf("%s/blank", dir), *more = xasprintf("%s/more", dir),
                        *own = xasprintf("%s/own", dir), *cow = NULL, *cache = NULL, *mirror = NULL;

    format(&f);
    disk_open("crypt key-file=%s | file path=%s", key_file, image);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 64, 128, data), 0);
    disk_close();
    empty_file(blank, (16 + DATA_MIB) << 20);
    cow = xasprintf("cow overlay=%s create=on | file path=%s read-only=on", own, blank);
    opens_on(cow);
    unlink(own);
    cache = xasprintf(
        "cache path=%s size=40M mode=writeback keep-dirty=100%% sequential=0 | file path=%s", own,
        blank);
    opens_on(cache);
    unlink(own);
    empty_file(blank, ((16 + DATA_MIB) << 20) + (128 << 10));
    empty_file(more, ((16 + DATA_MIB) << 20) + (128 << 10));
    mirror = xasprintf("mirror create=clean leg1='file path=%s' leg2='file path=%s'", blank, more);
    opens_on(mirror);
    unlink(blank);
    unlink(more);
}

static void odd_vectors(void **state)
{
    static const struct format f = {"xts-plain64", 64, 512, false, DATA_MIB, 0};
    struct iovec out[4] = {
        {data + 1, 100}, {data + 101, 1000}, {data + 1101, 3}, {data + 1104, 2993}};
    struct iovec in[3] = {{back, 511}, {back + 511, 3073}, {back + 3584, 512}};

    format(&f);
    disk_open("crypt key-file=%s | file path=%s", key_file, image);
    assert_int_equal(disk_wait(disk_submit_iov(DT_OP_WRITE, 0, 5, 8, out, 4)), 0);
    assert_int_equal(disk_wait(disk_submit_iov(DT_OP_READ, 0, 5, 8, in, 3)), 0);
    assert_memory_equal(back, data + 1, 4096);
    disk_close();
    assert_holds(&f, 5, data + 1, 4096);
}

static void zeroes_and_discards(void **state)
{
    static const struct format f = {"xts-plain64", 64, 4096, false, DATA_MIB, 0};

    format(&f);
    disk_open("crypt key-file=%s | file path=%s", key_file, image);
    assert_false(device_info(disk.dev)->can_write_zeroes);
    assert_false(device_info(disk.dev)->can_discard);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 0, 8, NULL), -EOPNOTSUPP);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), -EOPNOTSUPP);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_close();
    disk_open("crypt discard=on key-file=%s | file path=%s", key_file, image);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 128, data), 0);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 64, 64, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 64, back),
                     0); /* not the header, not what is before */
    assert_memory_equal(back, data, 32768);
    disk_close();
}

/* ---- What is refused ---- */

#define assert_refused(code, says, ...)                \
    do {                                               \
        assert_int_equal(disk_try(__VA_ARGS__), code); \
        assert_error_says(says);                       \
    } while (0)

static void overwrite(const char *path, off_t at, int byte, size_t n)
{
    int fd = open(path, O_WRONLY);

    memset(back, byte, n);
    assert_true(fd >= 0 && pwrite(fd, back, n, at) == (ssize_t)n);
    close(fd);
}

static void keys_are_judged(void **state)
{
    static const struct format f = {"xts-plain64", 64, 4096, false, DATA_MIB, 0};

    format(&f);
    assert_refused(-EACCES, "opens no key slot", "crypt key-file=%s | file path=%s", bad_file,
                   image);
    assert_refused(-EINVAL, "give one of", "crypt | file path=%s", image);
    assert_refused(-EINVAL, "only one of", "crypt key-file=%s keyring=x | file path=%s", key_file,
                   image);
    assert_refused(-ENOENT, "No such file", "crypt key-file=%s/none | file path=%s", dir, image);
    assert_refused(-EINVAL, "is empty", "crypt key-file=/dev/null | file path=%s", image);
    assert_refused(-EFBIG, "that is no key", "crypt key-file=/dev/zero | file path=%s", image);
    assert_refused(-ENOENT, "keyctl padd", "crypt keyring=dt-no-such-key | file path=%s", image);
}

/* The key leaves with this process. */
static void a_keyring_has_the_key(void **state)
{
    static const struct format f = {"xts-plain64", 64, 4096, false, DATA_MIB, 0};
    const int process_keyring = -2;

    if (syscall(SYS_add_key, "user", "dt-test-key", PASSPHRASE, strlen(PASSPHRASE),
                process_keyring) < 0) {
        print_message("no keyrings here: %s\n", strerror(errno));
        skip();
    }
    format(&f);
    disk_open("crypt keyring=dt-test-key | file path=%s", image);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 64, 128, data), 0);
    disk_close();
    assert_holds(&f, 64, data, sizeof(data));
}

static void headers_are_judged(void **state)
{
    struct format f = {"xts-plain64", 64, 4096, false, DATA_MIB, 0};

    empty_file(image, 1 << 20);
    assert_refused(-EBADMSG, "no LUKS header", "crypt key-file=%s | file path=%s", key_file, image);
    /* Smaller than what libcryptsetup looks at first. */
    assert_refused(-EBADMSG, "no LUKS header", "crypt key-file=%s | mem size=4K", key_file);
    assert_refused(-ENOENT, "header=", "crypt header=%s/none key-file=%s | mem size=4K", dir,
                   key_file);

    format(&f);
    overwrite(image, 4096, 'x', 4096); /* the first copy's text: the second is there */
    disk_open("crypt key-file=%s | file path=%s", key_file, image);
    disk_close();
    overwrite(image, 16384 + 4096, 'x', 4096);
    assert_refused(-EBADMSG, "no LUKS header", "crypt key-file=%s | file path=%s", key_file, image);

    format(&f);
    assert_int_equal(truncate(image, 16 << 20), 0);
    assert_refused(-EBADMSG, "it was cut off", "crypt key-file=%s | file path=%s", key_file, image);
    format(&f);
    overwrite(image, 32768, 0, sizeof(back)); /* the key slot's material */
    assert_refused(-EACCES, "opens no key slot", "crypt key-file=%s | file path=%s", key_file,
                   image);
    f.mode = "cbc-essiv:sha256";
    f.key = 32;
    format(&f);
    assert_refused(-ENOTSUP, "aes-cbc-essiv", "crypt key-file=%s | file path=%s", key_file, image);
}

/* A disk with the read failing under the header says so. */
static void read_errors_show(void **state)
{
    static const struct format f = {"xts-plain64", 64, 4096, false, DATA_MIB, 0};

    format(&f);
    assert_refused(-EIO, "cannot be read from the layers below",
                   "crypt key-file=%s | error ops=read | file path=%s", key_file, image);
    disk_open("crypt key-file=%s | throttle iops=1000 | delay time=1ms | file "
              "path=%s",
              key_file, image);
    disk_close();
}

/* ---- IEEE 1619-2007, annex B ---- */

static void unhex(const char *text, uint8_t *bytes)
{
    for (unsigned value; sscanf(text, "%2x", &value) == 1; text += 2)
        *bytes++ = (uint8_t)value;
}

static void check_vector(const char *key, uint64_t unit, const char *cipher)
{
    uint8_t key_bytes[64], expect[32], plain[512], got[512];
    struct iovec iov = {plain, sizeof(plain)};
    struct dt_error err;
    struct xts *xts;

    for (unsigned i = 0; i < sizeof(plain); i++)
        plain[i] = (uint8_t)i;
    unhex(key, key_bytes);
    unhex(cipher, expect);
    assert_int_equal(xts_new(&xts, key_bytes, strlen(key) / 2, 512, &err), 0);
    xts_encrypt(xts, unit, &iov, 1, 0, got, sizeof(got));
    assert_memory_equal(got, expect, sizeof(expect));
    memset(plain, 0, sizeof(plain));
    xts_decrypt(xts, unit, got, sizeof(got), &iov, 1, 0);
    for (unsigned i = 0; i < sizeof(plain); i++)
        assert_int_equal(plain[i], (uint8_t)i);
    xts_free(xts);
}

static void published_vectors(void **state)
{
    check_vector("2718281828459045235360287471352631415926535897932384626433832795", 0,
                 "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c");
    check_vector("2718281828459045235360287471352662497757247093699959574966967627"
                 "3141592653589793238462643383279502884197169399375105820974944592",
                 0xff, "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(all_formats),
        cmocka_unit_test(its_header_is_in_the_files_of_others),
        cmocka_unit_test(a_keyring_has_the_key),
        cmocka_unit_test(odd_vectors),
        cmocka_unit_test(zeroes_and_discards),
        cmocka_unit_test(keys_are_judged),
        cmocka_unit_test(headers_are_judged),
        cmocka_unit_test(read_errors_show),
    };

    if (disk_module(&blk_crypt) < 0)
        return 1;
    return cmocka_run_group_tests(tests, setup, image_teardown);
}
