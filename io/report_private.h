/* report_private.h: pieces that report.c and report_plots.c share. */
#ifndef VENEER_REPORT_PRIVATE_H
#define VENEER_REPORT_PRIVATE_H
#include "io/report.h"

/* The unit in which `bytes` reads well: its size in bytes, and its name. */
double report_unit(double bytes, const char **name);
/* x with `digits` decimals into s, a dash when it is not finite; returns s. */
const char *report_number(char s[32], double x, int digits);
void report_heading(struct text *out, const char *title, const char *lead);

/* Figures; nothing when there is nothing to show. */
void report_front(const struct report *report, struct text *out);
void report_volume(const struct report *report, struct text *out);
void report_layers(const struct report *report, struct text *out);
void report_losses(const struct report *report, struct text *out);

#endif
