/* table.c: cells kept as text, written three ways. */
#include "bench/table.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "ops.h"

/* ---- time that others had ---- */

static double own_seconds(int who)
{
    struct rusage u;
    if (getrusage(who, &u) != 0)
        return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* From the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. */
static struct machine_time machine_time_now(void)
{
    struct machine_time t = {.ours = own_seconds(RUSAGE_SELF) + own_seconds(RUSAGE_CHILDREN)};
    double v[8] = {0}, tick = (double)sysconf(_SC_CLK_TCK);
    FILE *f = fopen("/proc/stat", "re");
    if (f && fscanf(f, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]) == 8) {
        for (int i = 0; i < 8; i++)
            t.all += v[i] / tick;
        t.busy = t.all - (v[3] + v[4] + v[7]) / tick;
        t.stolen = v[7] / tick;
    }
    if (f)
        fclose(f);
    return t;
}

static void print_quiet(const struct table *t, struct text *out)
{
    struct machine_time now = machine_time_now(), was = t->start;
    double all = now.all - was.all, others = now.busy - was.busy - (now.ours - was.ours);
    const char *clock = getenv("BENCH_CLOCK");
    if (clock && strcmp(clock, "cpu") == 0)
        text_puts(out, "Seconds are those that this process ran (BENCH_CLOCK=cpu): one thread only.\n");
    if (all > 0)
        text_printf(out, "Meanwhile other programs had %.0f %% of the processors' time, the host took %.0f %%.\n\n", 100 * (others > 0 ? others : 0) / all,
                    100 * (now.stolen - was.stolen) / all);
}

void table_open(struct table *table, const char *name, const char *title, const char *const *column, int n_columns)
{
    *table = (struct table){.name = name, .title = title, .column = column, .n_columns = n_columns, .start = machine_time_now()};
}

void table_text(struct table *table, const char *format, ...)
{
    char cell[160];
    va_list args;
    va_start(args, format);
    vsnprintf(cell, sizeof cell, format, args);
    va_end(args);
    text_printf(&table->cells, "%s\n", cell);
    table->n_cells++;
}

void table_number(struct table *table, double value, int decimals)
{
    if (isnan(value))
        table_text(table, "%s", "");
    else if (decimals < 0)
        table_text(table, "%.1e", value);
    else
        table_text(table, "%.*f", decimals, value);
}

void table_yes_no(struct table *table, bool yes)
{
    table_text(table, "%s", yes ? "yes" : "no");
}

void table_free(struct table *table)
{
    text_free(&table->cells);
    text_free(&table->notes);
}

/* ---- the machine ---- */

static void cpu_model(char *name, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    struct utsname machine;
    snprintf(name, size, "%s", uname(&machine) == 0 ? machine.machine : "unknown");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            line[strcspn(line, "\n")] = 0;
            snprintf(name, size, "%s", strchr(line, ':') + 2);
            break;
        }
    if (f)
        fclose(f);
}

/* ---- three forms ---- */

struct cursor {
    const char *at;
    char cell[160];
};

static const char *next_cell(struct cursor *c)
{
    size_t n = strcspn(c->at, "\n");
    snprintf(c->cell, sizeof c->cell, "%.*s", (int)n, c->at);
    c->at += n + (c->at[n] == '\n');
    return c->cell;
}

static bool is_number(const char *cell)
{
    char *end;
    strtod(cell, &end);
    return *cell && !*end && strspn(cell, "+-.0123456789e") == strlen(cell);
}

static void column_widths(const struct table *t, int *width)
{
    struct cursor c = {.at = t->cells.s};
    for (int j = 0; j < t->n_columns; j++)
        width[j] = (int)strlen(t->column[j]);
    for (int i = 0; i < t->n_cells; i++) {
        int n = (int)strlen(next_cell(&c)), j = i % t->n_columns;
        width[j] = n > width[j] ? n : width[j];
    }
}

static void print_md(const struct table *t, const char *cpu, struct text *out)
{
    struct cursor c = {.at = t->cells.s};
    int width[TABLE_COLUMNS_MOST];
    column_widths(t, width);
    text_printf(out, "## %s\n\nCPU: %s; instruction set: %s\n\n", t->title, cpu, cpu_level_name());
    for (int j = 0; j < t->n_columns; j++)
        text_printf(out, "| %-*s %s", width[j], t->column[j], j + 1 < t->n_columns ? "" : "|\n");
    for (int j = 0; j < t->n_columns; j++) {
        text_puts(out, "|");
        for (int i = 0; i < width[j] + 2; i++)
            text_puts(out, "-");
        text_puts(out, j + 1 < t->n_columns ? "" : "|\n");
    }
    for (int i = 0; i < t->n_cells; i++) {
        int j = i % t->n_columns;
        const char *cell = next_cell(&c);
        text_printf(out, is_number(cell) ? "| %*s %s" : "| %-*s %s", width[j], cell, j + 1 < t->n_columns ? "" : "|\n");
    }
    text_puts(out, "\n");
    if (t->notes.n)
        text_printf(out, "%s\n", t->notes.s);
    print_quiet(t, out);
}

static void csv_field(struct text *out, const char *s)
{
    text_puts(out, "\"");
    for (; *s; s++) {
        text_add(out, s, 1);
        if (*s == '"')
            text_puts(out, "\"");
    }
    text_puts(out, "\"");
}

static void print_csv(const struct table *t, const char *cpu, struct text *out)
{
    struct cursor c = {.at = t->cells.s};
    text_puts(out, "cpu,instruction_set");
    for (int j = 0; j < t->n_columns; j++) {
        text_puts(out, ",");
        csv_field(out, t->column[j]);
    }
    text_puts(out, "\n");
    for (int i = 0; i < t->n_cells; i++) {
        const char *cell = next_cell(&c);
        if (i % t->n_columns == 0) {
            csv_field(out, cpu);
            text_printf(out, ",%s", cpu_level_name());
        }
        text_puts(out, ",");
        if (is_number(cell))
            text_puts(out, cell);
        else if (*cell)
            csv_field(out, cell);
        text_puts(out, (i + 1) % t->n_columns ? "" : "\n");
    }
}

static void print_json(const struct table *t, const char *cpu, struct text *out)
{
    struct cursor c = {.at = t->cells.s};
    text_puts(out, "[");
    for (int i = 0; i < t->n_cells; i++) {
        const char *cell = next_cell(&c), *column = t->column[i % t->n_columns];
        if (i % t->n_columns == 0) {
            text_puts(out, i ? ",\n {\"cpu\": " : "\n {\"cpu\": ");
            text_json_string(out, cpu, strlen(cpu));
            text_printf(out, ", \"instruction_set\": \"%s\"", cpu_level_name());
        }
        text_puts(out, ", ");
        text_json_string(out, column, strlen(column));
        text_puts(out, ": ");
        if (!*cell)
            text_puts(out, "null");
        else if (is_number(cell))
            text_puts(out, cell);
        else
            text_json_string(out, cell, strlen(cell));
        text_puts(out, (i + 1) % t->n_columns ? "" : "}");
    }
    text_puts(out, "\n]\n");
}

/* ---- files ---- */

static enum status write_file(const struct table *t, const char *dir, const char *kind, const struct text *text, struct err *err)
{
    char path[512];
    const char *forced = getenv("VENEER_CPU");
    if (text->failed)
        return err_set(err, ERR_MEMORY, "out of memory for table %s", t->name);
    snprintf(path, sizeof path, "%s/%s%s%s.%s", dir, t->name, forced ? "_" : "", forced ? cpu_level_name() : "", kind);
    FILE *f = fopen(path, "we");
    if (!f)
        return err_set(err, ERR_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    bool whole = fwrite(text->s, 1, text->n, f) == text->n;
    if (fclose(f) != 0 || !whole)
        return err_set(err, ERR_FAILED, "%s: writing failed: %s", path, strerror(errno));
    return OK;
}

enum status table_write(const struct table *table, const char *dir, struct err *err)
{
    static void (*const print[])(const struct table *, const char *, struct text *) = {print_csv, print_json, print_md};
    static const char *const kind[] = {"csv", "json", "md"};
    char cpu[160];
    struct text text = {0};
    enum status status = OK;
    cpu_model(cpu, sizeof cpu);
    if (table->cells.failed || table->notes.failed)
        return err_set(err, ERR_MEMORY, "out of memory for table %s", table->name);
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return err_set(err, ERR_FAILED, "%s: cannot be made: %s", dir, strerror(errno));
    for (int i = 0; i < 3 && status == OK; i++) {
        text_clear(&text);
        print[i](table, cpu, &text);
        status = write_file(table, dir, kind[i], &text, err);
    }
    if (status == OK)
        fputs(text.s, stdout);
    text_free(&text);
    return status;
}
