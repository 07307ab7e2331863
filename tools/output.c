/* SPDX-License-Identifier: MIT */
/* output.c - numbers, JSON and paragraphs on standard output. */
#include "tools/tools.h"

#include <math.h>
#include <sys/ioctl.h>

#define HUMAN_RING 16u

/* So that several may stand in one printf(). */
static char *next_buffer(void)
{
    static char buffers[HUMAN_RING][24];
    static unsigned at;

    return buffers[at++ % HUMAN_RING];
}

/* Three significant digits: 1.23, 12.3, 123. */
static const char *three_digits(double n, const char *unit)
{
    char *text = next_buffer();
    int decimals = n < 9.995 ? 2 : n < 99.95 ? 1 : 0;

    snprintf(text, 24, "%.*f%s", decimals, n, unit);
    return text;
}

const char *human_count(double n)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    unsigned u = 0;

    if (n < 999.5) {
        char *text = next_buffer();

        snprintf(text, 24, "%.0f", n);
        return text;
    }
    while (n >= 999.5 && u < ARRAY_SIZE(units) - 1) {
        n /= 1000;
        u++;
    }
    return three_digits(n, units[u]);
}

const char *human_ns(uint64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    double n = (double)ns;
    unsigned u = 0;

    if (ns < 1000) {
        char *text = next_buffer();

        snprintf(text, 24, "%uns", (unsigned)ns);
        return text;
    }
    while (n >= 999.5 && u < ARRAY_SIZE(units) - 1) {
        n /= 1000;
        u++;
    }
    return three_digits(n, units[u]);
}

const char *human_bytes(uint64_t n)
{
    static const char units[] = "BKMGTPE";
    double value = (double)n;
    char *text = next_buffer();
    unsigned u = 0;

    while (value >= 1024 && u < sizeof(units) - 2) {
        value /= 1024;
        u++;
    }
    snprintf(text, 24, value == floor(value) ? "%.0f%c" : "%.1f%c", value, units[u]);
    return text;
}

static void print_any(FILE *out, json_t *json, size_t flags)
{
    json_dumpf(json, out, flags | JSON_ENCODE_ANY);
    putc('\n', out);
    json_decref(json);
}

void print_json_to(FILE *out, json_t *json)
{
    print_any(out, json, JSON_INDENT(2));
}

void print_json(json_t *json)
{
    print_json_to(stdout, json);
}

void print_json_line(json_t *json)
{
    print_any(stdout, json, JSON_COMPACT);
    fflush(stdout);
}

void print_wrapped(FILE *out, unsigned indent, const char *text)
{
    unsigned column = 0;

    while (*text) {
        size_t n = strcspn(text, " \n");

        if (n == 0) {
            if (*text == '\n' && (text[1] == '\n' || text[1] == ' ')) {
                bool paragraph = text[1] == '\n'; /* an empty line separates them */

                fputs(paragraph ? "\n\n" : "\n", out);
                text += paragraph;
                column = 0;
                if (text[1] == ' ') { /* an example: a line as it is */
                    n = strcspn(text + 1, "\n");
                    column = (unsigned)fprintf(out, "%*s%.*s", (int)indent, "", (int)n, text + 1);
                    text += n;
                }
            }
            text++;
            continue;
        }
        if (column && column + 1 + n > 80) {
            putc('\n', out);
            column = 0;
        }
        column += (unsigned)fprintf(out, "%*s%.*s", column ? 1 : (int)indent, "", (int)n, text);
        text += n;
    }
    if (column)
        putc('\n', out);
}

int output_finish(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "devtap: standard output: %s\n", strerror(errno));
    return status ? status : STATUS_FAILED;
}
