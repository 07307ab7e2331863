/* SPDX-License-Identifier: MIT */
/* passphrase.c - what workers will want to know of a person is asked for before they start. */
#include "tools/run/supervise.h"

#include "blk/crypt/prompt.h"

static bool wants_person(const struct layer_spec *layer)
{
    bool prompt = false;

    if (strcmp(layer->name, "crypt") != 0)
        return false;
    for (unsigned i = 0; i < layer->count; i++)
        if (strcmp(layer->settings[i].key, "prompt") == 0)
            parse_bool(layer->settings[i].value,
                       &prompt); /* a worker complains of what is no boolean */
    return prompt;
}

static bool chain_wants_person(const char *chain)
{
    struct chain_spec spec;
    bool wants = false;

    if (chain_parse(&spec, chain, NULL) < 0)
        return false; /* and of what is no chain */
    for (unsigned i = 0; i < spec.count; i++)
        wants = wants || wants_person(&spec.layers[i]);
    chain_spec_free(&spec);
    return wants;
}

int supervise_ask_passphrases(const struct run_config *config, struct dt_error *err)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < config->count && isatty(STDIN_FILENO); i++) {
        const struct disk_config *d = &config->disks[i];
        struct secret key;

        if (!chain_wants_person(d->options.chain))
            continue;
        ret = prompt_ask(d->name, &key, err);
        if (ret < 0)
            break;
        ret = prompt_keep(d->name, &key, err);
        secret_free(&key);
        if (ret < 0)
            dt_fail_prefix(err, "%s", d->name);
    }
    return ret;
}
