/* report.h: report.html: what a run did, for the person who started it: one file, figures as inline SVG, no script, light and dark, wide and narrow.
 *
 * What it is not: it measures nothing and knows no engine: a program fills `struct report` with plain arrays.  Borrowed pointers all; any
 * number may be NaN (unknown), any array empty, any string NULL: what is not known is not shown. */
#ifndef VENEER_REPORT_H
#define VENEER_REPORT_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/text.h"

/* A name and what it is, both text. */
struct report_fact {
    const char *name, *value;
};

/* One column of the table of tasks: a model that was scored on all of them.  Scores and errors are shares, 0 to 1. */
struct report_column {
    const char *name;          /* "before pruning" */
    const double *score, *error; /* [n_tasks] and one standard error of each */
    double mean, mean_error;
    double bytes;              /* of the stored model */
    bool chosen;               /* the pick: printed bold */
};

/* A probe measures one variable alone, a short trial is the cheap first look of a strategy: small marks. */
enum report_trial_kind { REPORT_PROBE, REPORT_SEED, REPORT_PROPOSED, REPORT_SHORT, REPORT_FAILED };

struct report_trial {
    double bytes, score, error; /* score (larger is better) and its standard error */
    enum report_trial_kind kind;
    bool front;                 /* nothing beats it in both */
    const char *mark;           /* "all low", "all high": labelled; NULL: an ordinary one */
    const char *note;           /* why it was tried; NULL: nothing to say */
};

/* A number of each layer, and what it could have been or was before. */
struct report_layers {
    const char *label;          /* "bits a weight" */
    const double *value, *full; /* [n_layers]; full may be NULL */
};

struct report_curve {
    const char *name;
    const double *step, *loss;  /* [n], nats a token */
    size_t n;
};

struct report_memory {
    const char *name, *what;    /* "optimizer", "adapters, gradients, moments" */
    double planned_bytes, measured_bytes; /* NaN: not measured */
    bool total;                 /* the peak: set apart */
};

struct report {
    const char *title, *version, *when, *command, *summary;
    const struct report_fact *fact; /* the first four are shown large */
    size_t n_facts;

    const char *const *task;        /* [n_tasks] */
    size_t n_tasks;
    const struct report_column *column;
    size_t n_columns;

    const struct report_trial *trial; /* in the order in which they ran */
    size_t n_trials;
    size_t pick;                      /* index into trial; n_trials: none */
    const char *pick_rule;            /* a sentence: how it was chosen */
    const char *score_label;          /* of the score's axis; NULL: accuracy */
    double score_scale;               /* scores are shown times this; 0: 100, percent */
    const double *hypervolume;        /* [n_trials] after each trial; NULL: not shown */

    const struct report_layers *layers;
    size_t n_series, n_layers;

    const struct report_curve *curve;
    size_t n_curves;

    const struct report_memory *memory;
    size_t n_memory;

    const char *config;               /* text of every key */
    const char *const *remark;        /* sentences for the foot */
    size_t n_remarks;
};

/* The whole page onto `out`. Well-formed XML after its first line; out->failed when out of memory. */
void report_html(const struct report *report, struct text *out);
/* The same, published at `path`. */
enum status report_write(const struct report *report, const char *path, struct err *err);

#endif
