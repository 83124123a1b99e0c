/* plot.h: plots as inline SVG: axes with round ticks, points with error bars, lines, bars.
 *
 * Colours are CSS classes (s0 .. s4, muted), so that one file serves light and dark.  What it is not: it knows no models. */
#ifndef VENEER_PLOT_H
#define VENEER_PLOT_H
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

struct plot {
    struct text *out;
    double width, height, left, right, top, bottom; /* pixels; the last four are margins */
    double x0, x1, y0, y1;                          /* the axes' ranges */
};

/* A plot whose axes take in [x0, x1] and [y0, y1], widened to round ticks; ranges that are empty or not finite become [0, 1]. */
void plot_open(struct plot *plot, struct text *out, double width, double height, double x0, double x1, double y0, double y1,
              const char *x_label, const char *y_label, const char *title);
void plot_close(struct plot *plot);
double plot_x(const struct plot *plot, double x);
double plot_y(const struct plot *plot, double y);
/* Circle of `radius` pixels; error > 0: a bar of +- error; title: what a pointer shows.  Nothing when x or y is not finite. */
void plot_point(struct plot *plot, const char *css, double x, double y, double error, double radius, const char *title);
void plot_line(struct plot *plot, const char *css, const double *x, const double *y, size_t n, bool steps);
/* Rectangle from y = 0 (or the axis' foot) to y over [x, x + w] in axis units. */
void plot_bar(struct plot *plot, const char *css, double x, double w, double y, const char *title);
void plot_text(struct plot *plot, const char *css, double px, double py, const char *anchor, const char *text);

#endif
