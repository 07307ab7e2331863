/* SPDX-License-Identifier: MIT */
/*
 * nearest.c - "did you mean ...?": of the names that are known, the one closest to what a
 * person wrote, by edit distance (insert, delete, replace, or swap two neighbours: Damerau's
 * distance in its restricted form).
 */
#include "core/core.h"

#define NEAREST_MAX 32u /* longer names are not compared */

static unsigned edit_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned rows[3][NEAREST_MAX + 1]; /* this row, the one before, the one before that */
    unsigned *now = rows[0], *last = rows[1], *older = rows[2];

    if (na > NEAREST_MAX || nb > NEAREST_MAX)
        return UINT32_MAX;
    for (size_t j = 0; j <= nb; j++)
        last[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);

            best = MIN(best, last[j] + 1);
            best = MIN(best, now[j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = MIN(best, older[j - 2] + 1);
            now[j] = best;
        }
        unsigned *recycled = older;

        older = last;
        last = now;
        now = recycled;
    }
    return last[nb];
}

void nearest_offer(struct nearest *nearest, const char *name)
{
    unsigned distance = edit_distance(nearest->wanted, name);
    size_t length = MIN(strlen(nearest->wanted), strlen(name));

    /* One mistake in a short word, two or three in a long one; and never all of it. */
    if (distance > 1 + length / 4 || distance >= length)
        return;
    if (!nearest->best || distance < nearest->distance) {
        nearest->best = name;
        nearest->distance = distance;
    }
}

void nearest_hint(const struct nearest *nearest, struct dt_error *err)
{
    size_t used;

    if (!err || !nearest->best)
        return;
    used = strlen(err->text);
    snprintf(err->text + used, sizeof(err->text) - used, "; did you mean '%s'?", nearest->best);
}

void word_list_add(char *list, size_t size, const char *word)
{
    size_t used = strlen(list);

    snprintf(list + used, size - used, "%s%s", used ? ", " : "", word);
}
