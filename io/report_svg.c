/* report_svg.c: see report_svg.h.  Text is 12 pixels high; a figure of such text is about 6.6 pixels wide. */
#include "io/report_svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double glyph = 6.6, line_height = 14;

/* ---- ranges and ticks ---- */

/* The nearest of 1, 2 and 5 times a power of ten, so that about `count` steps cover the range. */
static double round_step(double range, double count)
{
    double raw = range / count, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m <= 1.4 ? 1 : m <= 3 ? 2 : m <= 7 ? 5 : 10);
}

/* Makes [low, high] a range that can be drawn. */
static void repair(double *low, double *high)
{
    if (!isfinite(*low) || !isfinite(*high) || *high < *low || fabs(*low) > 1e200 || fabs(*high) > 1e200) {
        *low = 0;
        *high = 1;
    }
    double least = 1e-9 * fmax(fabs(*low), fabs(*high));
    if (*high - *low <= least) {
        double half = fmax(0.5, fabs(*high) * 0.05);
        *low -= *low == 0 ? 0 : half; /* bars stand on 0 */
        *high += half;
    }
}

static void widen(double *low, double *high, double step)
{
    *low = floor(*low / step + 1e-9) * step;
    *high = ceil(*high / step - 1e-9) * step;
}

static void number(char s[32], double x, double step)
{
    int digits = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
    snprintf(s, 32, "%.*f", digits > 9 ? 9 : digits, fabs(x) < step * 1e-6 ? 0 : x);
}

double svg_x(const struct svg_plot *p, double x)
{
    return p->left + (x - p->x0) / (p->x1 - p->x0) * (p->width - p->left - p->right);
}

double svg_y(const struct svg_plot *p, double y)
{
    return p->height - p->bottom - (y - p->y0) / (p->y1 - p->y0) * (p->height - p->top - p->bottom);
}

/* A place in pixels that a browser can draw; false for what is not finite and for what lies far off the axes. */
static bool place(const struct svg_plot *p, double x, double y, double *px, double *py)
{
    *px = svg_x(p, x);
    *py = svg_y(p, y);
    return fabs(*px) < 1e5 && fabs(*py) < 1e5;
}

void svg_text(struct svg_plot *p, const char *css, double px, double py, const char *anchor, const char *text)
{
    text_printf(p->out, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", css, px, py, anchor);
    text_html(p->out, text ? text : "");
    text_puts(p->out, "</text>\n");
}

static void rule(struct svg_plot *p, const char *css, double xa, double ya, double xb, double yb)
{
    text_printf(p->out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", css, xa, ya, xb, yb);
}

static void y_ticks(struct svg_plot *p, double step)
{
    char s[32];
    for (int i = 0; i < 100 && p->y0 + i * step <= p->y1 + step * 1e-6; i++) {
        double py = svg_y(p, p->y0 + i * step);
        rule(p, "grid", p->left, py, p->width - p->right, py);
        number(s, p->y0 + i * step, step);
        svg_text(p, "tick", p->left - 8, py + 4, "end", s);
    }
}

static void x_ticks(struct svg_plot *p, double step)
{
    char s[32];
    double foot = p->height - p->bottom, first = ceil(p->x0 / step - 1e-9) * step;
    for (int i = 0; i < 100 && first + i * step <= p->x1 + step * 1e-6; i++) {
        double px = svg_x(p, first + i * step);
        rule(p, "axis", px, foot, px, foot + 4);
        number(s, first + i * step, step);
        svg_text(p, "tick", px, foot + 18, "middle", s);
    }
}

static double widest_tick(const struct svg_plot *p, double step)
{
    char a[32], b[32];
    number(a, p->y0, step);
    number(b, p->y1, step);
    return glyph * (double)(strlen(a) > strlen(b) ? strlen(a) : strlen(b));
}

void svg_open(struct svg_plot *p, struct text *out, const char *css, double width, double height, const struct svg_axes *axes)
{
    *p = (struct svg_plot){.out = out, .width = width, .height = height, .right = 14, .top = 30, .bottom = axes->x_label ? 44 : 26,
                           .x0 = axes->x0, .x1 = axes->x1, .y0 = axes->y0, .y1 = axes->y1};
    repair(&p->x0, &p->x1);
    repair(&p->y0, &p->y1);
    double y_step = round_step(p->y1 - p->y0, fmax(2, height / 55));
    widen(&p->y0, &p->y1, y_step);
    p->left = 14 + widest_tick(p, y_step);
    double x_step = round_step(p->x1 - p->x0, width / 85);
    if (axes->whole_x)
        x_step = fmax(1, x_step);
    text_printf(out, "<svg class=\"%s\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", css, width, height);
    text_html(out, axes->title ? axes->title : "");
    text_puts(out, "\">\n");
    y_ticks(p, y_step);
    if (!axes->no_x_ticks)
        x_ticks(p, x_step);
    rule(p, "axis", p->left, height - p->bottom, width - p->right, height - p->bottom);
    if (axes->x_label)
        svg_text(p, "label", p->left + (width - p->left - p->right) / 2, height - 6, "middle", axes->x_label);
    svg_text(p, "label", 2, 14, "start", axes->y_label);
}

void svg_close(struct svg_plot *p)
{
    text_puts(p->out, "</svg>\n");
}

/* ---- marks ---- */

static void title_of(struct svg_plot *p, const char *title, const char *close)
{
    text_puts(p->out, "<title>");
    text_html(p->out, title ? title : "");
    text_printf(p->out, "</title></%s>\n", close);
}

void svg_mark(struct svg_plot *p, enum svg_shape shape, const char *css, double x, double y, double r, const char *title)
{
    double px, py;
    if (!place(p, x, y, &px, &py))
        return;
    if (p->n_marks < SVG_MARKS)
        p->mark[p->n_marks++] = (struct svg_dot){(float)px, (float)py};
    if (shape == SVG_DOT || shape == SVG_RING) {
        text_printf(p->out, "<circle class=\"%s%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\">", shape == SVG_RING ? "ring " : "", css, px, py, r);
        title_of(p, title, "circle");
        return;
    }
    if (shape == SVG_DIAMOND)
        text_printf(p->out, "<path class=\"%s\" d=\"M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz\">", css, px, py - r, r, r, -r, r, -r, -r);
    else
        text_printf(p->out, "<path class=\"cross %s\" d=\"M%.1f %.1fl%.1f %.1fm0 %.1fl%.1f %.1f\">", css, px - r, py - r, 2 * r, 2 * r, -2 * r, -2 * r, 2 * r);
    title_of(p, title, "path");
}

void svg_error(struct svg_plot *p, const char *css, double x, double y, double error)
{
    double px, low, high;
    if (error > 0 && place(p, x, fmin(y + error, p->y1), &px, &high) && place(p, x, fmax(y - error, p->y0), &px, &low))
        rule(p, css, px, high, px, low);
}

void svg_line(struct svg_plot *p, const char *css, const double *x, const double *y, size_t n, bool steps)
{
    bool open = false;
    for (size_t i = 0; i < n; i++) {
        double px, py;
        if (!place(p, x[i], y[i], &px, &py))
            continue;
        if (!open)
            text_printf(p->out, "<path class=\"line %s\" d=\"M%.1f %.1f", css, px, py);
        else if (steps)
            text_printf(p->out, "H%.1fV%.1f", px, py);
        else
            text_printf(p->out, "L%.1f %.1f", px, py);
        open = true;
    }
    if (open)
        text_puts(p->out, "\"/>\n");
}

void svg_bar(struct svg_plot *p, const char *css, double x, double w, double y, const char *title)
{
    double left, top, right, foot = svg_y(p, fmax(0, p->y0));
    if (!place(p, x, y, &left, &top) || !place(p, x + w, y, &right, &top))
        return;
    text_printf(p->out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">", css, left, fmin(top, foot), right - left,
                fabs(foot - top));
    title_of(p, title, "rect");
}

/* ---- notes ---- */

static bool is_free(const struct svg_plot *p, const struct svg_box *b)
{
    if (b->left < p->left || b->right > p->width - 2 || b->top < 16 || b->bottom > p->height - p->bottom)
        return false;
    for (size_t i = 0; i < p->n_notes; i++)
        if (b->left < p->note[i].right && b->right > p->note[i].left && b->top < p->note[i].bottom && b->bottom > p->note[i].top)
            return false;
    return true;
}

static bool covers_a_mark(const struct svg_plot *p, const struct svg_box *b)
{
    const double radius = 4;
    for (size_t i = 0; i < p->n_marks; i++)
        if (p->mark[i].x > b->left - radius && p->mark[i].x < b->right + radius && p->mark[i].y > b->top - radius && p->mark[i].y < b->bottom + radius)
            return true;
    return false;
}

void svg_note(struct svg_plot *p, const char *css, double x, double y, const char *text)
{
    double px, py, width = text ? glyph * (double)strlen(text) + 4 : 0;
    if (!text || !place(p, x, y, &px, &py))
        return;
    /* beside the point, above it, below it, then farther off: first where nothing is covered, then where only marks are */
    static const double away[][2] = {{12, 4}, {-12, 4}, {10, -12}, {-10, -12}, {10, 20}, {-10, 20}, {10, -28}, {-10, -28}, {10, 36}, {-10, 36}};
    enum { PLACES = sizeof away / sizeof *away };
    for (size_t k = 0; k < 2 * PLACES; k++) {
        double dx = away[k % PLACES][0], dy = away[k % PLACES][1], left = dx > 0 ? px + dx : px + dx - width;
        struct svg_box box = {left, py + dy - line_height + 3, left + width, py + dy + 3};
        if (!is_free(p, &box) || (k < PLACES && covers_a_mark(p, &box)))
            continue;
        if (p->n_notes < SVG_NOTES)
            p->note[p->n_notes++] = box;
        svg_text(p, css, dx > 0 ? box.left : box.right, box.bottom - 3, dx > 0 ? "start" : "end", text);
        return;
    } /* no room: the legend says it too */
}
