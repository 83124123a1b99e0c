/* plot.c: see plot.h. */
#include "io/plot.h"

#include <math.h>
#include <stdio.h>

/* 1, 2 or 5 times a power of ten, so that about `count` steps cover the range. */
static double round_step(double range, int count)
{
    double raw = range / count, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

static void widen(double *low, double *high, int count, double *step)
{
    if (!isfinite(*low) || !isfinite(*high) || *high < *low) {
        *low = 0;
        *high = 1;
    }
    if (*high - *low < 1e-12 * (1 + fabs(*high))) {
        *low -= 0.5;
        *high += 0.5;
    }
    *step = round_step(*high - *low, count);
    *low = floor(*low / *step + 1e-9) * *step;
    *high = ceil(*high / *step - 1e-9) * *step;
}

double plot_x(const struct plot *p, double x)
{
    return p->left + (x - p->x0) / (p->x1 - p->x0) * (p->width - p->left - p->right);
}

double plot_y(const struct plot *p, double y)
{
    return p->height - p->bottom - (y - p->y0) / (p->y1 - p->y0) * (p->height - p->top - p->bottom);
}

void plot_text(struct plot *p, const char *css, double px, double py, const char *anchor, const char *text)
{
    text_printf(p->out, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", css, px, py, anchor);
    text_html(p->out, text);
    text_puts(p->out, "</text>\n");
}

static void rule(struct plot *p, const char *css, double xa, double ya, double xb, double yb)
{
    text_printf(p->out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", css, xa, ya, xb, yb);
}

static void number(char s[32], double x, double step)
{
    int digits = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
    snprintf(s, 32, "%.*f", digits > 9 ? 9 : digits, fabs(x) < step * 1e-6 ? 0 : x);
}

static void ticks(struct plot *p, double x_step, double y_step)
{
    char s[32];
    double foot = p->height - p->bottom;
    for (int i = 0; p->y0 + i * y_step <= p->y1 + y_step * 1e-6; i++) {
        double y = p->y0 + i * y_step, py = plot_y(p, y);
        rule(p, "grid", p->left, py, p->width - p->right, py);
        number(s, y, y_step);
        plot_text(p, "tick", p->left - 8, py + 4, "end", s);
    }
    for (int i = 0; p->x0 + i * x_step <= p->x1 + x_step * 1e-6; i++) {
        double x = p->x0 + i * x_step, px = plot_x(p, x);
        rule(p, "axis", px, foot, px, foot + 4);
        number(s, x, x_step);
        plot_text(p, "tick", px, foot + 18, "middle", s);
    }
    rule(p, "axis", p->left, foot, p->width - p->right, foot);
}

void plot_open(struct plot *p, struct text *out, double width, double height, double x0, double x1, double y0, double y1,
              const char *x_label, const char *y_label, const char *title)
{
    double x_step, y_step;
    *p = (struct plot){.out = out, .width = width, .height = height, .left = 64, .right = 20, .top = 28, .bottom = 48,
                           .x0 = x0, .x1 = x1, .y0 = y0, .y1 = y1};
    widen(&p->x0, &p->x1, 6, &x_step);
    widen(&p->y0, &p->y1, 5, &y_step);
    text_printf(out, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", width, height);
    text_html(out, title);
    text_puts(out, "\">\n");
    ticks(p, x_step, y_step);
    plot_text(p, "label", p->left + (width - p->left - p->right) / 2, height - 8, "middle", x_label);
    plot_text(p, "label", 4, 16, "start", y_label);
}

void plot_close(struct plot *p)
{
    text_puts(p->out, "</svg>\n");
}

void plot_point(struct plot *p, const char *css, double x, double y, double error, double radius, const char *title)
{
    if (!isfinite(x) || !isfinite(y))
        return;
    double px = plot_x(p, x), py = plot_y(p, y);
    if (isfinite(error) && error > 0) {
        char bar[64];
        snprintf(bar, sizeof bar, "bar %s", css);
        double high = fmin(y + error, p->y1), low = fmax(y - error, p->y0);
        rule(p, bar, px, plot_y(p, high), px, plot_y(p, low));
    }
    text_printf(p->out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\">", css, px, py, radius);
    text_puts(p->out, "<title>");
    text_html(p->out, title ? title : "");
    text_puts(p->out, "</title></circle>\n");
}

void plot_line(struct plot *p, const char *css, const double *x, const double *y, size_t n, bool steps)
{
    bool open = false;
    text_printf(p->out, "<path class=\"line %s\" d=\"", css);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i]))
            continue;
        if (open && steps)
            text_printf(p->out, "H%.1f", plot_x(p, x[i]));
        text_printf(p->out, "%s%.1f %.1f", open ? "L" : "M", plot_x(p, x[i]), plot_y(p, y[i]));
        open = true;
    }
    text_puts(p->out, open ? "\"/>\n" : "M0 0\"/>\n");
}

void plot_bar(struct plot *p, const char *css, double x, double w, double y, const char *title)
{
    if (!isfinite(y))
        return;
    double foot = plot_y(p, p->y0), top = plot_y(p, y);
    text_printf(p->out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>", css, plot_x(p, x), top,
                plot_x(p, x + w) - plot_x(p, x), foot > top ? foot - top : 0);
    text_html(p->out, title ? title : "");
    text_puts(p->out, "</title></rect>\n");
}
