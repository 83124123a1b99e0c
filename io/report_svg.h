/* report_svg.h: plots as inline SVG: axes with round ticks, marks with error bars, lines, bars, labels that step out of each other's way.
 *
 * Colours are CSS classes of the page, so that one file serves light and dark.  What it is not: it knows no models and no pages.
 * Every function passes over numbers that are not finite. */
#ifndef VENEER_REPORT_SVG_H
#define VENEER_REPORT_SVG_H
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

enum { SVG_NOTES = 8, SVG_MARKS = 256 };

struct svg_axes {
    double x0, x1, y0, y1; /* ranges to show; empty or not finite: [0, 1].  y is widened to round ticks, x is not */
    const char *x_label, *y_label;
    const char *title;     /* for readers who hear the page */
    bool whole_x;          /* ticks of x on whole numbers only */
    bool no_x_ticks;       /* the caller labels x */
};

struct svg_plot {
    struct text *out;
    double width, height, left, right, top, bottom; /* pixels; the last four are margins */
    double x0, x1, y0, y1;                          /* the axes' ranges */
    struct svg_box {
        double left, top, right, bottom;
    } note[SVG_NOTES]; /* where labels already are, pixels */
    size_t n_notes;
    struct svg_dot {
        float x, y;
    } mark[SVG_MARKS]; /* the first marks, pixels: notes keep clear of them */
    size_t n_marks;
};

/* css: classes of the <svg> element. */
void svg_open(struct svg_plot *plot, struct text *out, const char *css, double width, double height, const struct svg_axes *axes);
void svg_close(struct svg_plot *plot);
double svg_x(const struct svg_plot *plot, double x);
double svg_y(const struct svg_plot *plot, double y);

enum svg_shape { SVG_DOT, SVG_RING, SVG_DIAMOND, SVG_CROSS };
/* A mark of `radius` pixels; title: what a pointer shows. */
void svg_mark(struct svg_plot *plot, enum svg_shape shape, const char *css, double x, double y, double radius, const char *title);
/* A vertical bar from y - error to y + error, cut at the axes' ends. */
void svg_error(struct svg_plot *plot, const char *css, double x, double y, double error);
/* A path through the points; steps: first across, then up. */
void svg_line(struct svg_plot *plot, const char *css, const double *x, const double *y, size_t n, bool steps);
/* Rectangle from y = 0 to y over [x, x + w] in axis units. */
void svg_bar(struct svg_plot *plot, const char *css, double x, double w, double y, const char *title);
/* Text at a place in pixels; anchor: start, middle or end. */
void svg_text(struct svg_plot *plot, const char *css, double px, double py, const char *anchor, const char *text);
/* Text beside the point (x, y), where it covers no earlier note, stays inside, and covers no mark if it can. */
void svg_note(struct svg_plot *plot, const char *css, double x, double y, const char *text);

#endif
