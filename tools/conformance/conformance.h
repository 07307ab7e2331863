/* SPDX-License-Identifier: MIT */
/*
 * conformance.h - does an extension or back keep its side of the contract? `devtap test`.
 *
 * Any chain is driven through core by a front of our own, without a VM: random bursts against a
 * model of the disk's content, errors from below, stops, kills and replays.
 */
#ifndef TOOLS_CONFORMANCE_H
#define TOOLS_CONFORMANCE_H

#include "base/base.h"
#include <jansson.h>

enum conformance_outcome { CONFORMANCE_PASSED, CONFORMANCE_FAILED, CONFORMANCE_SKIPPED };

/**
 * struct conformance_result - what came of one property.
 * @count, @unit: how much was tried: 5000 "requests".
 * @text: why it failed or was skipped; "" otherwise.
 * @log: what its process printed if it failed (the end of it; a sanitizer's report, say); or "".
 */
struct conformance_result {
    const char *property;
    enum conformance_outcome outcome;
    uint64_t count;
    const char *unit;
    const char *text, *log;
};

/**
 * struct conformance_config - what to test, how long.
 * @chain: as for `devtap run`; without a back, a model of one is put below.
 * @net: it is a network card's.
 * @seed: of everything random; the same seed does the same again. 0 = from the clock.
 * @property: only this one, or NULL.
 * @duration: ns of load for each property.
 * @patience: ns without any progress before a request counts as lost; half of it is what coming to rest may take.
 * @progress: called after each property; may be NULL.
 */
struct conformance_config {
    const char *chain;
    bool net;
    uint64_t seed;
    const char *property;
    uint64_t duration, patience;
    void (*progress)(void *arg, const struct conformance_result *result);
    void *arg;
};

/**
 * conformance_run() - test @config->chain, each property in a child process.
 * @report: {"chain", "seed", "properties": [{"name", "outcome", "count", "unit", "text",
 *          "log"}...],
 *          "passed", "failed", "skipped"}; a new reference.
 *
 * Return: the number of properties that failed; -errno if the chain could not be tested.
 */
int conformance_run(const struct conformance_config *config, json_t **report, struct dt_error *err);

/** conformance_property() - name and claim of property @index; of disks or of cards; false behind the last. */
bool conformance_property(bool net, unsigned index, const char **name, const char **claim);

#endif
