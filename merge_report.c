/* merge_report.c: see merge_report.h. */
#include "merge_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"

double merge_survived(const struct merge_sums *sums)
{
    return sums->update > 0 ? sums->moved / sums->update : NAN;
}

double merge_noise(const struct merge_sums *sums)
{
    return sums->update > 0 ? sqrt(sums->rest / sums->update) : NAN;
}

static void add(struct merge_sums *to, const struct merge_sums *sums)
{
    to->moved += sums->moved;
    to->update += sums->update;
    to->rest += sums->rest;
}

/* ---- one linear ---- */

static struct merge_sums compare_row(const real *W, const struct adapter *a, const real *B, const real *merged)
{
    struct merge_sums sums = {0};
    for (size_t c = 0; c < a->in; c++) {
        double dW = 0, moved = (double)merged[c] - (double)W[c];
        for (size_t i = 0; i < (size_t)a->r; i++)
            dW += (double)B[i] * (double)a->A[i * a->in + c];
        dW *= (double)a->s;
        sums.moved += moved * dW;
        sums.update += dW * dW;
        sums.rest += (moved - dW) * (moved - dW);
    }
    return sums;
}

enum status merge_compare(const struct qmat *from, const struct adapter *adapter, const struct qmat *to, struct merge_sums *sums, struct err *err)
{
    real *W = malloc(from->rows * from->cols * sizeof *W), *merged = malloc(to->rows * to->cols * sizeof *merged);
    struct merge_sums *row = malloc(from->rows * sizeof *row); /* added in their order, whoever computed them */
    bool enough = W && merged && row;
    *sums = (struct merge_sums){0};
    if (enough) {
        quant_decode_rows(from, 0, from->rows, W);
        quant_decode_rows(to, 0, to->rows, merged);
#pragma omp parallel for
        for (size_t o = 0; o < from->rows; o++)
            row[o] = compare_row(W + o * from->cols, adapter, adapter->B + o * (size_t)adapter->r, merged + o * to->cols);
        for (size_t o = 0; o < from->rows; o++)
            add(sums, &row[o]);
    }
    free(W);
    free(merged);
    free(row);
    return enough ? OK : err_set(err, ERR_MEMORY, "out of memory for a matrix of %zu rows and %zu columns", to->rows, to->cols);
}

/* ---- a model ---- */

enum status merge_report_make(struct merge_report *report, const struct model *from, const struct lora *lora, const struct model *to, struct err *err)
{
    size_t n = (size_t)from->plan.n_layers;
    *report = (struct merge_report){.n_layers = from->plan.n_layers, .linear = calloc(n, sizeof *report->linear)};
    if (!report->linear)
        return err_set(err, ERR_MEMORY, "out of memory for a report on %zu layers", n);
    for (size_t l = 0; l < n; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            TRY(stop_check(err));
            if (lora->adapter[l][j].r > 0)
                TRY(merge_compare(&from->layer[l].linear[j], &lora->adapter[l][j], &to->layer[l].linear[j], &report->linear[l][j], err));
        }
    return OK;
}

void merge_report_free(struct merge_report *report)
{
    free(report->linear);
    memset(report, 0, sizeof *report);
}

/* ---- tables ---- */

typedef double measure(const struct merge_sums *sums);

static void print_cell(double x, struct text *out)
{
    if (isnan(x))
        text_printf(out, " %9s", "-");
    else
        text_printf(out, " %9.4f", x);
}

/* A line from the sums of seven linears. */
static void print_line(const char *name, const struct merge_sums linear[LINEAR_COUNT], measure *of, struct text *out)
{
    struct merge_sums all = {0};
    for (int j = 0; j < LINEAR_COUNT; j++)
        add(&all, &linear[j]);
    text_printf(out, "%5s", name);
    print_cell(of(&all), out);
    for (int j = 0; j < LINEAR_COUNT; j++)
        print_cell(of(&linear[j]), out);
    text_puts(out, "\n");
}

static void print_table(const struct merge_report *report, measure *of, struct text *out)
{
    struct merge_sums all[LINEAR_COUNT] = {{0}};
    text_printf(out, "%5s %9s", "layer", "all");
    for (int j = 0; j < LINEAR_COUNT; j++)
        text_printf(out, " %9s", strrchr(linear_name[j], '.') + 1);
    text_puts(out, "\n");
    for (int32_t l = 0; l < report->n_layers; l++) {
        char name[16];
        snprintf(name, sizeof name, "%d", l);
        print_line(name, report->linear[l], of, out);
        for (int j = 0; j < LINEAR_COUNT; j++)
            add(&all[j], &report->linear[l][j]);
    }
    print_line("all", all, of, out);
}

void merge_report_print(const struct merge_report *report, struct text *out)
{
    text_puts(out, "survived: <W' - W, dW> / ||dW||^2, dW = s B A the update, W' the merged weights as they are stored; 1: all of the update is there\n");
    print_table(report, merge_survived, out);
    text_puts(out, "\nnoise: ||W' - W - dW|| / ||dW||, what rounding added, in units of the update\n");
    print_table(report, merge_noise, out);
}
