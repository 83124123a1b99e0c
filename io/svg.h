/* svg.h: plots as inline SVG: axes with round ticks, points with error bars, lines, bars.
 *
 * Colours are CSS classes (s0 .. s4, muted), so that one file serves light and dark.  What it is not: it knows no models. */
#ifndef VENEER_SVG_H
#define VENEER_SVG_H
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

struct svg_plot {
    struct text *out;
    double width, height, left, right, top, bottom; /* pixels; the last four are margins */
    double x0, x1, y0, y1;                          /* the axes' ranges */
};

/* A plot whose axes take in [x0, x1] and [y0, y1], widened to round ticks; ranges that are empty or not finite become [0, 1]. */
void svg_open(struct svg_plot *plot, struct text *out, double width, double height, double x0, double x1, double y0, double y1,
              const char *x_label, const char *y_label, const char *title);
void svg_close(struct svg_plot *plot);
double svg_x(const struct svg_plot *plot, double x);
double svg_y(const struct svg_plot *plot, double y);
/* Circle of `radius` pixels; error > 0: a bar of +- error; title: what a pointer shows.  Nothing when x or y is not finite. */
void svg_point(struct svg_plot *plot, const char *css, double x, double y, double error, double radius, const char *title);
void svg_line(struct svg_plot *plot, const char *css, const double *x, const double *y, size_t n, bool steps);
/* Rectangle from y = 0 (or the axis' foot) to y over [x, x + w] in axis units. */
void svg_bar(struct svg_plot *plot, const char *css, double x, double w, double y, const char *title);
void svg_text(struct svg_plot *plot, const char *css, double px, double py, const char *anchor, const char *text);

#endif
