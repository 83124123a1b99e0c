/* table.h: one table of results as Markdown, CSV and JSON, in the style of llama-bench: every CSV and JSON row carries its machine.
 *
 * No dates and no hosts: two runs of the same program on the same machine differ in the figures alone. */
#ifndef VENEER_BENCH_TABLE_H
#define VENEER_BENCH_TABLE_H
#include <stdbool.h>

#include "base/err.h"
#include "base/text.h"

enum { TABLE_COLUMNS_MOST = 20 };

/* Seconds of all processors since the machine started. */
struct machine_time {
    double all, busy, stolen, ours;
};

struct table {
    const char *name, *title;   /* files NAME.md ...; the heading */
    const char *const *column;  /* [n_columns] */
    int n_columns, n_cells;     /* cells row by row */
    struct text cells;          /* each cell ends with '\n' */
    struct text notes;          /* printed under the Markdown table */
    struct machine_time start;  /* so that a table can say how much of the machine it did not have */
};

/* column: literals that outlive the table. */
void table_open(struct table *table, const char *name, const char *title, const char *const *column, int n_columns);
/* The next cell.  A number that is NaN is an empty cell and null in JSON. */
void table_text(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_number(struct table *table, double value, int decimals);
void table_yes_no(struct table *table, bool yes);
/* Writes dir/NAME.md, .csv, .json and prints the Markdown.  When VENEER_CPU forces a level the files are NAME_LEVEL.md ... */
enum status table_write(const struct table *table, const char *dir, struct err *err);
void table_free(struct table *table);

#endif
