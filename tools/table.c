/* SPDX-License-Identifier: MIT */
/* table.c - aligned tables, and tables that are drawn over themselves on a terminal. */
#include "tools/tools.h"

#include <stdarg.h>
#include <sys/ioctl.h>

struct table {
    unsigned columns;
    char *titles[TABLE_MAX_COLUMNS];
    bool right[TABLE_MAX_COLUMNS];
    char **cells; /* row by row */
    size_t count, room;
};

struct table *table_new(const char *columns)
{
    struct table *table = xcalloc(1, sizeof(*table));

    while (*columns) {
        size_t n = strcspn(columns, " ");

        CHECK(table->columns < TABLE_MAX_COLUMNS);
        table->right[table->columns] = *columns == '>';
        if (*columns == '>')
            table->titles[table->columns++] = strndup(columns + 1, n - 1);
        else
            table->titles[table->columns++] = strndup(columns, n);
        columns += n + (columns[n] == ' ');
    }
    return table;
}

void table_clear(struct table *table)
{
    while (table->count)
        free(table->cells[--table->count]);
}

void table_free(struct table *table)
{
    if (!table)
        return;
    table_clear(table);
    for (unsigned i = 0; i < table->columns; i++)
        free(table->titles[i]);
    free(table->cells);
    free(table);
}

void table_cell(struct table *table, const char *fmt, ...)
{
    va_list args;

    if (table->count == table->room) {
        table->room = table->room ? 2 * table->room : 64;
        table->cells = reallocarray(table->cells, table->room, sizeof(char *));
        CHECK(table->cells);
    }
    va_start(args, fmt);
    CHECK(vasprintf(&table->cells[table->count++], fmt, args) >= 0);
    va_end(args);
}

/* Columns on a screen, not bytes: continuation bytes of UTF-8 take none. */
static size_t width_of(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += (*text & 0xc0) != 0x80;
    return n;
}

static void print_row(const struct table *table, FILE *out, char *const *cells,
                      const size_t *widths)
{
    for (unsigned c = 0; c < table->columns; c++) {
        int fill = (int)(widths[c] - width_of(cells[c]));

        if (c)
            fputs("  ", out);
        if (table->right[c])
            fprintf(out, "%*s%s", fill, "", cells[c]);
        else
            fprintf(out, "%s%*s", cells[c], c + 1 < table->columns ? fill : 0, "");
    }
    putc('\n', out);
}

unsigned table_print(const struct table *table, FILE *out)
{
    unsigned rows = (unsigned)(table->count / table->columns);
    size_t widths[TABLE_MAX_COLUMNS];

    for (unsigned c = 0; c < table->columns; c++) {
        widths[c] = width_of(table->titles[c]);
        for (unsigned r = 0; r < rows; r++)
            widths[c] = MAX(widths[c], width_of(table->cells[r * table->columns + c]));
    }
    print_row(table, out, table->titles, widths);
    for (unsigned r = 0; r < rows; r++)
        print_row(table, out, &table->cells[(size_t)r * table->columns], widths);
    return rows + 1;
}

void table_redraw(const struct table *table, FILE *out, unsigned *lines)
{
    if (*lines)
        fprintf(out, "\033[%uA\033[J", *lines); /* up, and clear to the end of the screen */
    *lines = table_print(table, out);
    fflush(out);
}
