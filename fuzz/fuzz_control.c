/* SPDX-License-Identifier: MIT */
/*
 * fuzz_control.c - any bytes as a request of the control socket.
 *
 * Invariants: there is always a reply, of one line of JSON that says whether it went well; nothing
 * is asked of the disks unless the request was an object; nothing leaks.
 */
#include "tools/run/run.h"

static unsigned asked;

static int fake_list(void *arg, json_t **result, struct dt_error *err)
{
    asked++;
    *result = json_array();
    return 0;
}

static int fake_show(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    asked++;
    return dt_fail(err, -ENODEV, "no running device is named '%.64s'", device);
}

static int fake_set(void *arg, const char *device, const char *layer, const char *param,
                    const char *value, struct dt_error *err)
{
    asked++;
    return strlen(value) > 3 ? dt_fail(err, -EINVAL, "%.40s=%.40s", param, value) : 0;
}

static int fake_run(void *arg, const char *device, const char *layer, const char *command, int argc,
                    const char *const *argv, json_t **result, struct dt_error *err)
{
    asked++;
    for (int i = 0; i < argc; i++)
        CHECK(argv[i]);
    CHECK(!argv[argc]);
    *result = json_object();
    return 0;
}

static int fake_resize(void *arg, const char *device, const char *size, json_t **result,
                       struct dt_error *err)
{
    asked++;
    return 0;
}

static int fake_quit(void *arg, struct dt_error *err)
{
    asked++;
    return 0;
}

static int fake_map(void *arg, const char *device, uint64_t start, uint64_t length, json_t **result,
                    struct dt_error *err)
{
    asked++;
    CHECK(device && start <= INT64_MAX && length <= INT64_MAX);
    return 0;
}

/* Steps on a chain of text; whatever they leave can be written and read again. */
static int fake_change(void *arg, const char *device, json_t *request, json_t **result,
                       struct dt_error *err)
{
    struct chain_edit edit = {.names = {"throttle", "trace", "throttle#2", "file"}};
    struct change_request r;
    struct chain_spec again;
    int ret = change_request_read(&r, request, err);
    char *text;

    asked++;
    if (ret < 0 || !r.steps)
        return ret;
    CHECK(chain_parse(&edit.spec, "throttle | trace out=a | throttle#2 iops=1 | file path=b",
                      err) == 0);
    ret = change_apply_steps(&edit, r.steps, err);
    text = chain_format(&edit.spec);
    if (ret == 0) {
        CHECK(chain_parse(&again, text, err) == 0 && again.count == edit.spec.count);
        for (unsigned i = 0; i < again.count; i++)
            CHECK(layer_spec_equal(&again.layers[i], &edit.spec.layers[i]));
        chain_spec_free(&again);
    }
    free(text);
    chain_spec_free(&edit.spec);
    return ret;
}

static const struct protocol_ops ops = {
    fake_list,      fake_show,   fake_show, fake_set,
    fake_run,       fake_resize, fake_quit, .change = fake_change,
    .map = fake_map};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    bool fatal;
    char *reply, *end;
    json_t *json;

    asked = 0;
    reply = protocol_answer(&ops, NULL, (const char *)bytes, size, &fatal);
    end = strchr(reply, '\n');
    CHECK(end && end[1] == '\0');
    json = json_loads(reply, 0, NULL);
    CHECK(json && json_is_boolean(json_object_get(json, "ok")));
    CHECK(!fatal || (asked == 0 && json_is_false(json_object_get(json, "ok"))));
    json_decref(json);
    free(reply);
    return 0;
}
