/* SPDX-License-Identifier: MIT */
/* test_ext_zero.c - the extension zero: what is turned, what is not, and what the disk holds. */
#include "ext_disk.h"

#include <sys/stat.h>

static uint8_t data[64 << 10] __attribute__((aligned(4096)));
static uint8_t back[64 << 10] __attribute__((aligned(4096)));

static void write_file(void)
{
    memset(data, 0x5a, sizeof(data));
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 128, data), 0);
}

static void only_zeroes_are_turned(void **state)
{
    struct iovec odd[3] = {{data + 3, 1}, {data + 9, 510}, {data + 4096, 513}};

    disk_open("zero | trace out=/tmp/dt-zero.trace | mem size=1M");
    write_file();
    memset(data, 0, sizeof(data));
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 8, 8, data), 0);
    assert_int_equal(disk_wait(disk_submit_iov(DT_OP_WRITE, 0, 32, 2, odd, 3)), 0);
    assert_int_equal(disk_counter("zero", "turned"), 2);
    assert_int_equal(disk_counter("zero", "turned-bytes"), 5120);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 128, back), 0);
    assert_true(all_bytes(back, 4096, 0x5a));
    assert_true(all_bytes(back + 4096, 4096, 0));
    assert_true(all_bytes(back + 8192, 8192, 0x5a));
    assert_true(all_bytes(back + 16384, 1024, 0));
    assert_true(all_bytes(back + 17408, sizeof(back) - 17408, 0x5a));
    disk_close();
    unlink("/tmp/dt-zero.trace");
}

/* One byte anywhere makes it a write. */
static void one_byte_counts(void **state)
{
    disk_open("zero | mem size=1M");
    for (size_t at = 0; at < 4096; at += at % 512 < 4 ? 1 : 127) {
        memset(data, 0, 4096);
        data[at] = 1;
        assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
        assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
        assert_memory_equal(back, data, 4096);
    }
    assert_int_equal(disk_counter("zero", "turned"), 0);
    disk_close();
}

static void file_stays_sparse(void **state)
{
    char path[] = "/tmp/dt-zero-XXXXXX";
    int fd = mkstemp(path);
    struct stat st;

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    disk_open("zero | file path=%s cache=writeback", path);
    memset(data, 0, sizeof(data));
    for (uint64_t at = 0; at < 2048; at += 128)
        assert_int_equal(disk_do(DT_OP_WRITE, DT_REQ_FUA, at, 128, data), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_blocks, 0);
    disk_set("zero", "unmap", "off");
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 128, data), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_blocks >= 128);
    disk_close();
    close(fd);
    unlink(path);
}

/* A back that says it can, and cannot: the write is not lost, and nothing else is tried. */
static enum dt_verdict refuse_zeroes(struct dt_ctx *c, struct dt_req *req)
{
    if (req->op != DT_OP_WRITE_ZEROES)
        return DT_PASS;
    req->error = -EOPNOTSUPP;
    return DT_DONE;
}
static const struct dt_block_ext refuser = {
    DT_BLOCK_EXT_HEADER,
    .name = "refuser",
    .summary = "a test's: refuses writes of zeroes that it offers",
    .request = refuse_zeroes,
};

static void refusal_is_hidden(void **state)
{
    struct dt_error err;

    assert_int_equal(registry_add(&refuser, &err), 0);
    disk_open("zero | refuser | mem size=1M");
    write_file();
    memset(data, 0, sizeof(data));
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(disk_do(DT_OP_WRITE, 0, 8, 8, data), 0);
    assert_int_equal(disk_counter("zero", "refused"), 1);
    assert_int_equal(disk_counter("zero", "turned"), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 8, 8, back), 0);
    assert_true(all_bytes(back, 4096, 0));
    disk_close();
    disk_open("zero | readonly | mem size=1M");
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 8, 8, data), -EROFS);
    disk_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_zeroes_are_turned),
        cmocka_unit_test(one_byte_counts),
        cmocka_unit_test(file_stays_sparse),
        cmocka_unit_test(refusal_is_hidden),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
