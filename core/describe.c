/* SPDX-License-Identifier: MIT */
/*
 * describe.c - judges an extension's description when it is registered, so that a mistake is
 * found when its author first loads it and not when a request takes the wrong path.
 */
#include "core/describe.h"
#include "core/core.h"

#include <stdio.h>

#define NAME_MAX_LENGTH 31
#define STATE_MAX       (1u << 30)

/* A rule that was broken, in the words of its author. */
struct rule {
    bool broken;
    const char *text;
};

static int apply_rules(const struct rule *rules, size_t n, struct dt_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (rules[i].broken)
            return dt_fail(err, -EINVAL, "%s", rules[i].text);
    return 0;
}

bool describe_name_ok(const char *name)
{
    size_t n = name ? strlen(name) : 0;

    return n >= 1 && n <= NAME_MAX_LENGTH && name[0] >= 'a' && name[0] <= 'z' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static bool one_line(const char *text)
{
    return text && *text && !strpbrk(text, "\r\n");
}

/* ---- Parameters --------------------------------------------------------------------------- */

static bool is_number(const struct dt_param *p)
{
    return p->type == DT_PARAM_UINT || p->type == DT_PARAM_SIZE || p->type == DT_PARAM_DURATION;
}

static int check_param_shape(const struct dt_param *p, size_t layer_size, struct dt_error *err)
{
    const unsigned flags = DT_PARAM_REQUIRED | DT_PARAM_LIVE | DT_PARAM_SECRET;
    size_t size = param_size(p);
    struct rule rules[] = {
        {!describe_name_ok(p->name), "its name must be lower-case-with-dashes"},
        {!size, "its type is unknown"},
        {!one_line(p->help), "its help is missing, or is more than one line"},
        {p->flags & ~flags, "it has an unknown flag"},
        {size && (p->offset > layer_size || layer_size - p->offset < size),
         "its offset lies outside the layer's data (is layer_size set?)"},
        {size && p->offset % size, "its offset does not fit its type"},
        {(p->type == DT_PARAM_ENUM) != (p->choices != NULL),
         "choices belong to DT_PARAM_ENUM, which needs them"},
        {p->choices && !p->choices[0], "its choices are empty"},
        {p->min > p->max, "its minimum is above its maximum"},
        {p->max && !is_number(p), "only numbers have bounds"},
        {(p->flags & DT_PARAM_REQUIRED) && p->initial, "it is required, so it has no default"},
    };

    return apply_rules(rules, ARRAY_SIZE(rules), err);
}

/* Parses the default where nothing can be harmed: on a field of its own. */
static int check_initial(const struct dt_param *p, struct dt_error *err)
{
    _Alignas(max_align_t) char field[16] = {0};
    struct dt_param alone[2] = {*p};
    int ret;

    if (!p->initial)
        return 0;
    alone[0].offset = 0;
    ret = param_apply(alone, field, p->initial, err);
    if (ret < 0)
        dt_fail_prefix(err, "its default is refused");
    param_free_all(alone, field);
    return ret;
}

static int check_param_others(const struct dt_param *params, const struct dt_param *p,
                              struct dt_error *err)
{
    for (const struct dt_param *q = params; q < p; q++) {
        if (strcmp(q->name, p->name) == 0)
            return dt_fail(err, -EINVAL, "it is declared twice");
        if (q->offset < p->offset + param_size(p) && p->offset < q->offset + param_size(q))
            return dt_fail(err, -EINVAL, "its field is also that of '%s'", q->name);
    }
    return 0;
}

static int check_params(const struct dt_block_ext *ext, struct dt_error *err)
{
    for (const struct dt_param *p = ext->params; p && p->name; p++) {
        int ret = check_param_shape(p, ext->layer_size, err);

        ret = ret ?: check_initial(p, err);
        ret = ret ?: check_param_others(ext->params, p, err);
        if (ret < 0) {
            dt_fail_prefix(err, "parameter '%.40s'", p->name);
            return ret;
        }
    }
    return 0;
}

/* ---- Counters and verbs -------------------------------------------------------------------- */

static int check_counters(const struct dt_counter *counters, struct dt_error *err)
{
    for (const struct dt_counter *c = counters; c && c->name; c++) {
        if (!describe_name_ok(c->name) || !one_line(c->unit) || !one_line(c->help))
            return dt_fail(err, -EINVAL,
                           "counter '%.40s' needs a lower-case-with-dashes name, a unit and help",
                           c->name);
        for (const struct dt_counter *other = counters; other < c; other++)
            if (strcmp(other->name, c->name) == 0)
                return dt_fail(err, -EINVAL, "counter '%s' is declared twice", c->name);
    }
    return 0;
}

static int check_verbs(const struct dt_verb *verbs, struct dt_error *err)
{
    for (const struct dt_verb *v = verbs; v && v->name; v++) {
        if (!describe_name_ok(v->name) || !one_line(v->help) || !v->run)
            return dt_fail(err, -EINVAL,
                           "verb '%.40s' needs a lower-case-with-dashes name, help and run()",
                           v->name);
        for (const struct dt_verb *other = verbs; other < v; other++)
            if (strcmp(other->name, v->name) == 0)
                return dt_fail(err, -EINVAL, "verb '%s' is declared twice", v->name);
    }
    return 0;
}

/* ---- The whole ----------------------------------------------------------------------------- */

static bool any_live(const struct dt_param *params)
{
    for (const struct dt_param *p = params; p && p->name; p++)
        if (p->flags & DT_PARAM_LIVE)
            return true;
    return false;
}

/* What all classes have. */
static int check_common(const struct dt_block_ext *ext, struct dt_error *err)
{
    const unsigned flags =
        DT_BACK | DT_PER_QUEUE | DT_CONTENT_BEARING | DT_SELF_CONTAINED | DT_STATE_OF_RUN;
    struct rule rules[] = {
        {!one_line(ext->summary), "its summary is missing, or is more than one line"},
        {ext->flags & ~flags, "it has an unknown flag"},
        {ext->layer_size > STATE_MAX || ext->ctx_size > STATE_MAX,
         "layer_size and ctx_size are at most 1 GiB"},
        {!ext->save != !ext->load, "save and load belong together"},
        {ext->set && !any_live(ext->params), "it has set, but no parameter is DT_PARAM_LIVE"},
    };
    int ret;

    if (!describe_name_ok(ext->name))
        return dt_fail(err, -EINVAL,
                       "an extension's name must be lower-case-with-dashes, at most %d: '%.40s'",
                       NAME_MAX_LENGTH, ext->name ? ext->name : "");
    ret = apply_rules(rules, ARRAY_SIZE(rules), err);
    ret = ret ?: check_params(ext, err);
    ret = ret ?: check_counters(ext->counters, err);
    return ret ?: check_verbs(ext->verbs, err);
}

static int check_head(const struct dt_block_ext *ext, struct dt_error *err)
{
    struct rule rules[] = {
        {ext->read_data > DT_DATA_TRANSFORM || ext->write_data > DT_DATA_TRANSFORM,
         "read_data or write_data is no enum dt_data"},
        {ext->submit && ext->request, "it sets both submit and request: which one is meant?"},
        {ext->complete && ext->response, "it sets both complete and response: which one is meant?"},
        {ext->cancel && !ext->quiesce, "it has cancel, so it holds requests: it needs quiesce too"},
    };

    if (ext->frame_size > DT_FRAME_BUDGET)
        return dt_fail(err, -EINVAL,
                       "its frame of %zu bytes is larger than the %u that all layers share",
                       ext->frame_size, DT_FRAME_BUDGET);
    return apply_rules(rules, ARRAY_SIZE(rules), err);
}

static int check_back(const struct dt_block_ext *ext, struct dt_error *err)
{
    struct rule rules[] = {
        {!ext->submit && !ext->request, "a back needs submit or request"},
        {ext->complete || ext->response, "a back has nothing below: complete is never called"},
        {!ext->info, "a back needs info: it alone knows the disk's size"},
        {ext->read_data == DT_DATA_TRANSFORM || ext->write_data == DT_DATA_TRANSFORM,
         "a back has nothing below to transform for: declare DT_DATA_PEEK or DT_DATA_STABLE"},
        {ext->sub_requests, "a back has nothing below to send requests of its own to"},
    };

    return apply_rules(rules, ARRAY_SIZE(rules), err);
}

static int check_extension(const struct dt_block_ext *ext, struct dt_error *err)
{
    bool down = ext->submit || ext->request, up = ext->complete || ext->response;
    bool transforms = ext->read_data == DT_DATA_TRANSFORM || ext->write_data == DT_DATA_TRANSFORM;
    struct rule rules[] = {
        {transforms && !(down && up), "DT_DATA_TRANSFORM needs a callback down and one up"},
        {ext->write_data && !down, "write_data is declared, but no submit or request would look"},
        {ext->read_data && !down && !up, "read_data is declared, but no callback would look"},
        {ext->frame_size && !down, "it has a frame, but no submit or request to fill it"},
    };

    return apply_rules(rules, ARRAY_SIZE(rules), err);
}

static int named(const struct dt_block_ext *ext, int ret, struct dt_error *err)
{
    if (ret < 0 && describe_name_ok(ext->name))
        dt_fail_prefix(err, "%s", ext->name);
    return ret;
}

int describe_check(const struct dt_block_ext *ext, struct dt_error *err)
{
    int ret = check_common(ext, err);

    ret = ret ?: check_head(ext, err);
    ret = ret ?: (ext->flags & DT_BACK ? check_back : check_extension)(ext, err);
    return named(ext, ret, err);
}

int describe_check_net(const struct dt_net_ext *ext, const struct dt_block_ext *view,
                       struct dt_error *err)
{
    bool back = ext->flags & DT_BACK;
    struct rule rules[] = {
        {ext->takes & ~(uint32_t)(DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH), "takes has an unknown bit"},
        {ext->transmit && ext->tx, "it sets both transmit and tx: which one is meant?"},
        {ext->receive && ext->rx, "it sets both receive and rx: which one is meant?"},
        {back && !ext->transmit, "a back needs transmit"},
        {back && (ext->receive || ext->rx), "a back has nothing below: receive is never called"},
        {back && !ext->info, "a back needs info: it alone knows the largest packet"},
        {back && ext->admit, "a back holds packets instead: their descriptors stay with the guest"},
        {!back && ext->resume, "only a back has resume"},
        {ext->takes & DT_OFFLOAD_SUPER && !(ext->takes & DT_OFFLOAD_CSUM),
         "super-frames have partial checksums: takes needs DT_OFFLOAD_CSUM too"},
    };

    return named(view, check_common(view, err) ?: apply_rules(rules, ARRAY_SIZE(rules), err), err);
}
