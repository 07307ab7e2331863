/* SPDX-License-Identifier: MIT */
/*
 * test_ext_rekey.c - the extension crypt while the volume key changes: with a guest at work, across every kind of
 * crash, and handed over to and taken from libcryptsetup.
 */
#include "blk/crypt/internal.h"
#include "crypt_image.h"

#define MIB   3u
#define BYTES (MIB << 20)

static const struct format small = {"xts-plain64", 64, 512, false, MIB, 4};
static uint8_t *content, *seen;

/* ---- What goes to the disk is recorded ---------------------------------------------------------- */

#define RECORDS 4096u

static struct record {
    uint64_t at;
    uint32_t bytes; /* 0 = a flush */
    uint8_t *data;
} records[RECORDS];
static unsigned nrecords;
static bool recording;
static unsigned fail_after; /* so many writes; 0 = never */

static enum dt_verdict record_request(struct dt_ctx *c, struct dt_req *req)
{
    struct record *r = &records[nrecords];
    const struct iovec *iov;
    unsigned n;

    if (req->op == DT_OP_WRITE && fail_after && --fail_after == 0) {
        req->error = -EIO;
        return DT_DONE;
    }
    if (!recording || (req->op != DT_OP_WRITE && req->op != DT_OP_FLUSH))
        return DT_PASS;
    assert_true(nrecords++ < RECORDS);
    *r = (struct record){.at = req->sector << DT_SECTOR_SHIFT};
    if (req->op == DT_OP_WRITE) {
        r->bytes = (uint32_t)dt_req_bytes(req);
        r->data = xcalloc(1, r->bytes);
        n = dt_req_map(c, req, &iov);
        dt_iov_read(iov, n, 0, r->data, r->bytes);
    }
    return DT_PASS;
}

static const struct dt_block_ext recorder = {
    DT_BLOCK_EXT_HEADER,
    .name = "recorder",
    .summary = "a test's: remembers writes and flushes",
    .write_data = DT_DATA_PEEK,
    .request = record_request,
};

/* ---- A disk with known content ----------------------------------------------------------------- */

static int setup(void **state)
{
    struct dt_error err;

    content = xaligned(4096, BYTES);
    seen = xaligned(4096, BYTES);
    blk_register_builtin();
    assert_int_equal(registry_add(&recorder, &err), 0);
    return image_setup(state);
}

static int teardown(void **state)
{
    free(content);
    free(seen);
    return image_teardown(state);
}

static void open_it(void)
{
    disk_open("crypt key-file=%s | recorder | file path=%s cache=writeback", key_file, image);
}

static void transfer_all(enum dt_op op, uint8_t *bytes)
{
    for (uint64_t at = 0; at < BYTES; at += 192 << 10) /* no multiple of a zone */
        assert_int_equal(
            disk_do(op, 0, at >> 9, (uint32_t)MIN(BYTES - at, 192u << 10) >> 9, bytes + at), 0);
}

static void assert_content(void)
{
    memset(seen, 0, BYTES);
    transfer_all(DT_OP_READ, seen);
    assert_memory_equal(seen, content, BYTES);
}

static void fill(const struct format *f)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, 1);
    for (size_t i = 0; i < BYTES; i += 8) {
        uint64_t word = dt_rng_next(&rng);

        memcpy(content + i, &word, 8);
    }
    format(f);
    open_it();
    transfer_all(DT_OP_WRITE, content);
    disk_close();
}

/* Is nothing of a change of keys left in the header, and the old key gone? */
static bool is_changed(void)
{
    struct crypt_device *cd;
    char key[64];
    size_t n = sizeof(key);
    bool changed;

    assert_int_equal(crypt_init(&cd, image), 0);
    assert_int_equal(crypt_load(cd, CRYPT_LUKS2, NULL), 0);
    changed = crypt_reencrypt_status(cd, NULL) == CRYPT_REENCRYPT_NONE &&
              crypt_keyslot_status(cd, 0) == CRYPT_SLOT_INACTIVE;
    assert_true(crypt_volume_key_get(cd, CRYPT_ANY_SLOT, key, &n, PASSPHRASE, strlen(PASSPHRASE)) >=
                0);
    if (changed)
        assert_memory_not_equal(key, volume_key, sizeof(key));
    crypt_free(cd);
    return changed;
}

static void run_to_end(void)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);

    while (disk_counter("crypt", "rekeyed-bytes") < BYTES && dt_clock_ns() < deadline)
        loop_turn(disk.loop, true);
    assert_int_equal(disk_quiesce(DT_S(10)), 0);
}

static void forget_records(void)
{
    while (nrecords)
        free(records[--nrecords].data);
}

/* ---- The tests --------------------------------------------------------------------------------- */

static void work_on(const char *resilience)
{
    struct dt_rng rng;

    fill(&small);
    prepare_rekey(&small, resilience);
    open_it();
    dt_rng_seed(&rng, 2);
    while (disk_counter("crypt", "rekeyed-bytes") < BYTES) {
        uint64_t sector = dt_rng_below(&rng, BYTES / 512 - 64);
        uint32_t n = 1 + (uint32_t)dt_rng_below(&rng, 64);

        content[sector * 512] ^= 0x5a;
        assert_int_equal(disk_do(DT_OP_WRITE, 0, sector, n, content + sector * 512), 0);
        sector = dt_rng_below(&rng, BYTES / 512 - 64);
        assert_int_equal(disk_do(DT_OP_READ, 0, sector, n, seen), 0);
        assert_memory_equal(seen, content + sector * 512, n * 512);
    }
    assert_content();
    run_to_end();
    assert_content(); /* a disk that went on after it was quiet */
    disk_close();
    assert_true(is_changed());
    open_it();
    assert_content();
    disk_close();
}

static void guest_works_on(void **state)
{
    work_on("checksum");
    work_on("journal");
}

static void stops_between_zones(void **state)
{
    fill(&small);
    prepare_rekey(&small, "checksum");
    for (unsigned stops = 0; !is_changed(); stops++) {
        assert_true(stops < 10);
        open_it();
        while (disk_counter("crypt", "rekeyed-bytes") == 0)
            loop_turn(disk.loop, true);
        disk_rest_and_close();
    }
    open_it();
    assert_content();
    disk_close();
}

/* Written to the disk, as far as the state goes: what was flushed, and any part of the rest. */
static void make_state(const uint8_t *before, size_t size, unsigned cut, uint32_t tear,
                       struct dt_rng *rng)
{
    uint8_t *disk_bytes = xcalloc(1, size);
    unsigned durable = cut;

    while (durable > 0 && records[durable - 1].bytes)
        durable--;
    memcpy(disk_bytes, before, size);
    for (unsigned i = 0; i < cut; i++)
        for (uint32_t at = 0; at < records[i].bytes; at += tear)
            if (i < durable || dt_rng_below(rng, 2))
                memcpy(disk_bytes + records[i].at + at, records[i].data + at, tear);
    put_file(image, disk_bytes, size);
    free(disk_bytes);
}

/* @tear: what the disk writes as a whole. */
static void crash_anywhere(const char *resilience, uint32_t tear)
{
    const char *wanted = getenv("DEVTAP_CRASH_STATES");
    size_t size = (small.offset + MIB) << 20;
    uint8_t *before = xcalloc(1, size);
    struct dt_rng rng;
    int fd;

    fill(&small);
    prepare_rekey(&small, resilience);
    fd = open(image, O_RDONLY);
    assert_true(read(fd, before, size) == (ssize_t)size);
    close(fd);
    recording = true;
    open_it();
    run_to_end();
    disk_close();
    recording = false;
    assert_true(nrecords > 8 * MIB);
    dt_rng_seed(&rng, 3);
    for (int i = 0; i < (wanted ? atoi(wanted) : 16); i++) {
        make_state(before, size, (unsigned)dt_rng_below(&rng, nrecords + 1), tear, &rng);
        open_it();
        assert_content();
        disk_close();
    }
    forget_records();
    free(before);
}

/* Checksums are of 4096 bytes on a file: the format relies on these being written as a whole. */
static void checksums_survive_crashes(void **state)
{
    crash_anywhere("checksum", 4096);
}

static void journal_survives_crashes(void **state)
{
    crash_anywhere("journal", 512);
}

/* Each write in turn fails once: a second later it goes on from what the disk says. */
static void errors_are_retried(void **state)
{
    for (unsigned nth = 1; nth <= 13; nth += 6) {
        fill(&small);
        prepare_rekey(&small, "checksum");
        fail_after = nth;
        open_it();
        run_to_end();
        assert_int_equal(fail_after, 0);
        assert_content();
        disk_close();
        assert_true(is_changed());
    }
}

static void what_cannot_go_on_is_refused(void **state)
{
    struct format f = small;

    fill(&small);
    prepare_rekey(&small, "none");
    assert_int_equal(disk_try("crypt key-file=%s | file path=%s", key_file, image), -EBUSY);
    assert_error_says("resilience is neither");
    f.mib = 2;
    f.sector = 4096;
    format(&f);
    prepare_rekey(&f, "checksum");
    assert_int_equal(truncate(image, 4 << 20), 0);
    assert_int_equal(disk_try("crypt key-file=%s | file path=%s", key_file, image), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_works_on),
        cmocka_unit_test(stops_between_zones),
        cmocka_unit_test(checksums_survive_crashes),
        cmocka_unit_test(journal_survives_crashes),
        cmocka_unit_test(errors_are_retried),
        cmocka_unit_test(what_cannot_go_on_is_refused),
    };

    if (disk_module(&blk_crypt) < 0)
        return 1;
    return cmocka_run_group_tests(tests, setup, teardown);
}
