/* SPDX-License-Identifier: MIT */
/* test_registry.c - what a description may not say, and how names are found. */
#include "core/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

struct data {
    uint64_t rate, burst;
    unsigned mode;
};

static void noop_burst(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
}

static enum dt_verdict noop_one(struct dt_ctx *c, struct dt_req *req)
{
    return DT_PASS;
}

static int noop_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    return 0;
}

static int noop_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    return 0;
}

static int noop_cancel(struct dt_ctx *c, struct dt_req *req)
{
    return 0;
}

static int64_t noop_save(struct dt_layer *layer, void *buf, size_t size)
{
    return 0;
}

static int noop_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    return 0;
}

#define EXT(n) DT_BLOCK_EXT_HEADER, .name = n, .summary = "A line", .request = noop_one
#define BACK(n) \
    DT_BLOCK_EXT_HEADER, .name = n, .summary = "A line", .flags = DT_BACK, .info = noop_info
#define PARAM(n, f) \
    .name = n, .type = DT_PARAM_UINT, .offset = offsetof(struct data, f), .help = "A sentence."
#define PARAMS() .layer_size = sizeof(struct data), .params = (const struct dt_param[])

static const char *const no_choices[] = {NULL};

/* Each is refused, with exactly this text. */
static void test_contradictions(void **state)
{
    const struct {
        struct dt_block_ext ext;
        const char *text;
    } cases[] = {
        {{.abi = 7, .size = sizeof(struct dt_block_ext)},
         "it was built for extension ABI 7, and this program has 1: compile it again"},
        {{.abi = DT_ABI, .size = 8},
         "its description claims a size of 8 bytes: use DT_BLOCK_EXT_HEADER"},
        {{DT_BLOCK_EXT_HEADER},
         "an extension's name must be lower-case-with-dashes, at most 31: ''"},
        {{EXT("Upper")}, "an extension's name must be lower-case-with-dashes, at most 31: 'Upper'"},
        {{DT_BLOCK_EXT_HEADER, .name = "x"}, "x: its summary is missing, or is more than one line"},
        {{EXT("x"), .flags = 64}, "x: it has an unknown flag"},
        {{EXT("x"), .read_data = 9}, "x: read_data or write_data is no enum dt_data"},
        {{EXT("x"), .submit = noop_burst},
         "x: it sets both submit and request: which one is meant?"},
        {{EXT("x"), .complete = noop_burst, .response = noop_one},
         "x: it sets both complete and response: which one is meant?"},
        {{EXT("x"), .cancel = noop_cancel},
         "x: it has cancel, so it holds requests: it needs quiesce too"},
        {{EXT("x"), .save = noop_save}, "x: save and load belong together"},
        {{EXT("x"), .set = noop_set}, "x: it has set, but no parameter is DT_PARAM_LIVE"},
        {{EXT("x"), .frame_size = 500},
         "x: its frame of 500 bytes is larger than the 256 that all layers share"},
        {{EXT("x"), .read_data = DT_DATA_TRANSFORM},
         "x: DT_DATA_TRANSFORM needs a callback down and one up"},
        {{DT_BLOCK_EXT_HEADER, .name = "x", .summary = "A line", .write_data = DT_DATA_PEEK,
          .complete = noop_burst},
         "x: write_data is declared, but no submit or request would look"},
        {{BACK("x")}, "x: a back needs submit or request"},
        {{BACK("x"), .submit = noop_burst, .complete = noop_burst},
         "x: a back has nothing below: complete is never called"},
        {{DT_BLOCK_EXT_HEADER, .name = "x", .summary = "A line", .flags = DT_BACK,
          .submit = noop_burst},
         "x: a back needs info: it alone knows the disk's size"},
        {{BACK("x"), .submit = noop_burst, .sub_requests = 4},
         "x: a back has nothing below to send requests of its own to"},
        {{EXT("x"), .params = (const struct dt_param[]){{PARAM("rate", rate)}, {NULL}}},
         "x: parameter 'rate': its offset lies outside the layer's data (is layer_size set?)"},
        {{EXT("x"), PARAMS(){{PARAM("Rate", rate)}, {NULL}}},
         "x: parameter 'Rate': its name must be lower-case-with-dashes"},
        {{EXT("x"), PARAMS(){{.name = "rate", .type = 99, .help = "A sentence."}, {NULL}}},
         "x: parameter 'rate': its type is unknown"},
        {{EXT("x"),
          PARAMS(){{.name = "rate", .type = DT_PARAM_UINT, .offset = 4, .help = "H."}, {NULL}}},
         "x: parameter 'rate': its offset does not fit its type"},
        {{EXT("x"), PARAMS(){{PARAM("rate", rate), .initial = "fast"}, {NULL}}},
         "x: parameter 'rate': its default is refused: rate=fast: not a number (such as 5000, 20k "
         "or 3M)"},
        {{EXT("x"), PARAMS(){{PARAM("rate", rate), .initial = "5", .min = 10, .max = 20}, {NULL}}},
         "x: parameter 'rate': its default is refused: rate=5: too small: the least is 10"},
        {{EXT("x"), PARAMS(){{PARAM("rate", rate), .min = 10}, {NULL}}},
         "x: parameter 'rate': its minimum is above its maximum"},
        {{EXT("x"), PARAMS(){{PARAM("rate", rate)}, {PARAM("rate", burst)}, {NULL}}},
         "x: parameter 'rate': it is declared twice"},
        {{EXT("x"), PARAMS(){{PARAM("rate", rate)}, {PARAM("burst", rate)}, {NULL}}},
         "x: parameter 'burst': its field is also that of 'rate'"},
        {{EXT("x"),
          PARAMS(){{PARAM("rate", rate), .initial = "1", .flags = DT_PARAM_REQUIRED}, {NULL}}},
         "x: parameter 'rate': it is required, so it has no default"},
        {{EXT("x"), PARAMS(){{.name = "mode",
                              .type = DT_PARAM_ENUM,
                              .help = "H.",
                              .offset = offsetof(struct data, mode)},
                             {NULL}}},
         "x: parameter 'mode': choices belong to DT_PARAM_ENUM, which needs them"},
        {{EXT("x"), PARAMS(){{.name = "mode",
                              .type = DT_PARAM_ENUM,
                              .help = "H.",
                              .offset = offsetof(struct data, mode),
                              .choices = no_choices},
                             {NULL}}},
         "x: parameter 'mode': its choices are empty"},
        {{EXT("x"), .counters = (const struct dt_counter[]){{"hits", NULL, "Hits."}, {NULL}}},
         "x: counter 'hits' needs a lower-case-with-dashes name, a unit and help"},
        {{EXT("x"), .verbs = (const struct dt_verb[]){{"go", NULL, "Goes.", NULL}, {NULL}}},
         "x: verb 'go' needs a lower-case-with-dashes name, help and run()"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct dt_error err = {""};

        assert_true(registry_add(&cases[i].ext, &err) < 0);
        assert_string_equal(err.text, cases[i].text);
    }
    assert_true(registry_add(NULL, NULL) < 0);
    assert_null(registry_next(NULL));
}

/* Descriptions from an older and from a newer header. */
static void test_sizes(void **state)
{
    static struct {
        struct dt_block_ext ext;
        uint64_t later;
    } newer = {.ext = {EXT("newer")}};
    /* A page end would show reads past the size; here the garbage behind it must not count. */
    static struct dt_block_ext older = {EXT("older")};
    struct dt_error err = {""};

    older.size = offsetof(struct dt_block_ext, admit);
    older.fence = noop_fence; /* lies behind its size */
    assert_int_equal(registry_add(&older, &err), 0);
    assert_null(registry_find("older", &err)->fence);
    assert_ptr_equal(registry_find("older", &err)->request, noop_one);

    newer.ext.size = sizeof(newer);
    newer.later = 1;
    assert_int_equal(registry_add(&newer.ext, &err), -ENOEXEC);
    assert_string_equal(err.text,
                        "it was built for a newer devtap and uses what this one does not have");
    newer.later = 0;
    assert_int_equal(registry_add(&newer.ext, &err), 0);
}

static void test_find(void **state)
{
    static const struct dt_block_ext throttle = {EXT("throttle")};
    static const struct dt_block_ext file = {BACK("file"), .submit = noop_burst};
    struct dt_error err = {""};

    setenv("DEVTAP_EXTENSIONS", "/nonexistent", 1);
    assert_int_equal(registry_add(&throttle, &err), 0);
    assert_int_equal(registry_add(&file, &err), 0);
    assert_int_equal(registry_add(&file, &err), -EEXIST);
    assert_string_equal(err.text, "file: a back of that name is already there");
    assert_string_equal(registry_find("file", &err)->name, "file");
    assert_null(registry_find("throtle", &err));
    assert_string_equal(err.text,
                        "no extension or back is named 'throtle'; did you mean 'throttle'?");
    assert_null(registry_find("qcow2", &err));
    assert_string_equal(err.text,
                        "no extension or back is named 'qcow2' (`devtap extensions` lists them)");
    assert_null(registry_find("./nothing.so", &err));
    assert_string_equal(err.text,
                        "cannot load ./nothing.so: cannot open shared object file: No such "
                        "file or directory");
    assert_null(registry_find("../../etc/passwd", NULL));
}

static void test_order(void **state)
{
    static const char *const names[] = {"older", "newer", "throttle", "file"};
    const struct dt_block_ext *ext = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        ext = registry_next(ext);
        assert_string_equal(ext->name, names[i]);
    }
    assert_null(registry_next(ext));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
