/* report_plots.c: the figures of the report: front, hypervolume, layers, losses.
 *
 * A wide figure is drawn twice, for a desk and for a phone; the page shows one of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/report_private.h"
#include "io/report_svg.h"

struct size {
    const char *css;
    double width, height, radius;
};
static const struct size sizes[] = {{"wide", 930, 420, 4.5}, {"narrow", 370, 330, 3.6}};
static const struct size low_sizes[] = {{"wide", 930, 230, 4}, {"narrow", 370, 220, 3}};
enum { SIZES = 2 };

struct range {
    double low, high;
};

static void take_in(struct range *r, double x)
{
    if (!isfinite(x))
        return;
    r->low = fmin(r->low, x);
    r->high = fmax(r->high, x);
}

static void key_open(struct text *out)
{
    text_puts(out, "<div class=\"key\">");
}

/* mark: svg content in a box of 16 x 12. */
static void key_item(struct text *out, const char *mark, const char *name)
{
    text_printf(out, "<span><svg viewBox=\"0 0 16 12\" aria-hidden=\"true\">%s</svg>", mark);
    text_html(out, name);
    text_puts(out, "</span>");
}

static void key_line(struct text *out, const char *css, const char *name)
{
    char mark[96];
    snprintf(mark, sizeof mark, "<line class=\"line %s\" x1=\"0\" y1=\"6\" x2=\"16\" y2=\"6\"/>", css);
    key_item(out, mark, name);
}

/* ---- the front ---- */

static size_t count(const struct report *r, enum report_trial_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_trials; i++)
        n += r->trial[i].kind == kind;
    return n;
}

static double scale_of(const struct report *r)
{
    return r->score_scale > 0 ? r->score_scale : 100;
}

static void front_ranges(const struct report *r, struct range *size, struct range *score)
{
    for (size_t i = 0; i < r->n_trials; i++) {
        const struct report_trial *t = &r->trial[i];
        take_in(size, t->bytes);
        if (t->kind == REPORT_FAILED)
            continue;
        double error = isfinite(t->error) ? t->error : 0;
        take_in(score, t->score - error);
        take_in(score, t->score + error);
    }
    double margin = size->high > size->low ? 0.04 * (size->high - size->low) : 0.05 * size->high;
    size->low -= margin;
    size->high += margin;
}

struct place {
    double x, y;
};

static int by_x(const void *a, const void *b)
{
    const struct place *p = a, *q = b;
    return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : (p->y > q->y) - (p->y < q->y);
}

static void front_line(const struct report *r, struct svg_plot *plot, double unit)
{
    struct place *p = malloc((r->n_trials + 1) * sizeof *p);
    double *x = malloc(2 * (r->n_trials + 1) * sizeof *x), *y = x ? x + r->n_trials + 1 : NULL;
    size_t n = 0;
    if (p && x) {
        for (size_t i = 0; i < r->n_trials; i++)
            if (r->trial[i].front && r->trial[i].kind != REPORT_FAILED && isfinite(r->trial[i].bytes) && isfinite(r->trial[i].score))
                p[n++] = (struct place){r->trial[i].bytes / unit, scale_of(r) * r->trial[i].score};
        qsort(p, n, sizeof *p, by_x);
        for (size_t i = 0; i < n; i++) {
            x[i] = p[i].x;
            y[i] = p[i].y;
        }
        svg_line(plot, "front", x, y, n, true);
    } else {
        plot->out->failed = true;
    }
    free(p);
    free(x);
}

static void trial_title(const struct report *r, size_t i, double unit, const char *name, char s[320])
{
    const struct report_trial *t = &r->trial[i];
    char size[32], score[32], error[32];
    bool percent = scale_of(r) >= 100;
    int digits = percent ? 1 : 4, n = snprintf(s, 320, "trial %zu: %s %s, %s%s \xc2\xb1 %s", i + 1, report_number(size, t->bytes / unit, 3), name,
                                               report_number(score, scale_of(r) * t->score, digits), percent ? " %" : "",
                                               report_number(error, scale_of(r) * t->error, digits));
    if (t->note && n > 0 && n < 320)
        snprintf(s + n, (size_t)(320 - n), "; %s", t->note);
}

static void one_trial(const struct report *r, size_t i, struct svg_plot *plot, double unit, const char *name, double radius)
{
    const struct report_trial *t = &r->trial[i];
    bool small = t->kind == REPORT_PROBE || t->kind == REPORT_SHORT;
    const char *css = t->kind == REPORT_SEED || t->kind == REPORT_PROBE ? "seed" : "try";
    double scale = scale_of(r);
    char title[320];
    trial_title(r, i, unit, name, title);
    if (t->kind == REPORT_FAILED) {
        svg_mark(plot, SVG_CROSS, "fail", t->bytes / unit, plot->y0 + 0.03 * (plot->y1 - plot->y0), 4, title);
        return;
    }
    if (small) {
        svg_mark(plot, SVG_DOT, css, t->bytes / unit, scale * t->score, 0.5 * radius, title);
        return;
    }
    svg_error(plot, t->kind == REPORT_SEED ? "bar seed" : "bar try", t->bytes / unit, scale * t->score, scale * t->error);
    svg_mark(plot, t->mark ? SVG_DIAMOND : SVG_DOT, css, t->bytes / unit, scale * t->score, t->mark ? radius + 2.5 : radius, title);
}

/* Rings and words over all marks: they are what a reader looks for first. */
static void notes(const struct report *r, struct svg_plot *plot, double unit)
{
    if (r->pick < r->n_trials && r->trial[r->pick].kind != REPORT_FAILED) {
        const struct report_trial *t = &r->trial[r->pick];
        svg_mark(plot, SVG_RING, "pick", t->bytes / unit, scale_of(r) * t->score, 9, "the pick");
        svg_note(plot, "on pick", t->bytes / unit, scale_of(r) * t->score, "pick");
    }
    for (size_t i = 0; i < r->n_trials; i++)
        if (r->trial[i].mark && r->trial[i].kind != REPORT_FAILED)
            svg_note(plot, "on", r->trial[i].bytes / unit, scale_of(r) * r->trial[i].score, r->trial[i].mark);
}

static void front_key(const struct report *r, struct text *out)
{
    key_open(out);
    key_item(out, "<circle class=\"seed\" cx=\"8\" cy=\"6\" r=\"4.5\"/>", "seed set");
    key_item(out, "<circle class=\"try\" cx=\"8\" cy=\"6\" r=\"4.5\"/>", "proposed");
    key_item(out, "<path class=\"seed\" d=\"M8 0l6 6l-6 6l-6 -6z\"/>", "one format everywhere");
    if (count(r, REPORT_PROBE))
        key_item(out, "<circle class=\"seed\" cx=\"8\" cy=\"6\" r=\"2.5\"/>", "probe: one variable lowered");
    if (count(r, REPORT_SHORT))
        key_item(out, "<circle class=\"try\" cx=\"8\" cy=\"6\" r=\"2.5\"/>", "short trial");
    key_line(out, "front", "front");
    key_item(out, "<circle class=\"ring pick\" cx=\"8\" cy=\"6\" r=\"4.5\"/>", "pick");
    if (count(r, REPORT_FAILED))
        key_item(out, "<path class=\"cross fail\" d=\"M4 2l8 8m0 -8l-8 8\"/>", "failed (at its size; it has no score)");
    text_puts(out, "</div>\n");
}

void report_front(const struct report *r, struct text *out)
{
    struct range size = {INFINITY, -INFINITY}, score = {INFINITY, -INFINITY};
    const char *name;
    char label[48];
    if (r->n_trials == 0)
        return;
    front_ranges(r, &size, &score);
    double unit = report_unit(size.high, &name);
    snprintf(label, sizeof label, "stored model, %s", name);
    report_heading(out, r->score_label ? "Size against score" : "Size against accuracy",
                   r->score_label ? "Each mark is one choice of a format for every layer or linear, scored as the axis says. Up and to the left is better. The front joins "
                   "the trials that no other beats in both. Bars are one standard error: what lies within them is luck."
                   : "Each mark is one choice of a format for every layer, really fine-tuned and scored on the search part of the tasks. Up and to the left is "
                   "better. The front joins the trials that no other beats in both. Bars are one standard error: what lies within them is luck.");
    text_puts(out, "<figure>");
    front_key(r, out);
    for (int k = 0; k < SIZES; k++) {
        struct svg_plot plot;
        struct svg_axes axes = {.x0 = size.low / unit, .x1 = size.high / unit, .y0 = scale_of(r) * score.low, .y1 = scale_of(r) * score.high,
                                .x_label = label, .y_label = r->score_label ? r->score_label : "accuracy on the search part, %", .title = "Size against score of every trial"};
        svg_open(&plot, out, sizes[k].css, sizes[k].width, sizes[k].height, &axes);
        for (size_t i = 0; i < r->n_trials; i++)
            one_trial(r, i, &plot, unit, name, sizes[k].radius);
        front_line(r, &plot, unit);
        notes(r, &plot, unit);
        svg_close(&plot);
    }
    text_printf(out, "<figcaption>%zu trials: ", r->n_trials);
    if (count(r, REPORT_PROBE))
        text_printf(out, "%zu probes, ", count(r, REPORT_PROBE));
    if (count(r, REPORT_SHORT))
        text_printf(out, "%zu short ones, ", count(r, REPORT_SHORT));
    text_printf(out, "%zu of the seed set, %zu proposed, %zu failed. ", count(r, REPORT_SEED), count(r, REPORT_PROPOSED), count(r, REPORT_FAILED));
    text_html(out, r->pick_rule ? r->pick_rule : "");
    text_puts(out, "</figcaption></figure>\n");
}

/* ---- hypervolume ---- */

void report_volume(const struct report *r, struct text *out)
{
    struct range y = {INFINITY, -INFINITY};
    if (!r->hypervolume || r->n_trials < 2)
        return;
    double *x = malloc(r->n_trials * sizeof *x);
    if (!x) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < r->n_trials; i++) {
        x[i] = (double)i + 1;
        take_in(&y, r->hypervolume[i]);
    }
    report_heading(out, "How the front grew",
                   "The area that the front covers after each trial, on axes that all trials span from 0 to 1. Steps up are discoveries; a long flat end means "
                   "that more trials would have found little.");
    text_puts(out, "<figure>");
    for (int k = 0; k < SIZES; k++) {
        struct svg_plot plot;
        struct svg_axes axes = {.x0 = 1, .x1 = (double)r->n_trials, .y0 = y.low, .y1 = y.high, .x_label = "trial", .y_label = "hypervolume",
                                .title = "Hypervolume after each trial", .whole_x = true};
        size_t seeds = count(r, REPORT_PROBE) + count(r, REPORT_SEED);
        svg_open(&plot, out, low_sizes[k].css, low_sizes[k].width, low_sizes[k].height, &axes);
        svg_line(&plot, "try", x, r->hypervolume, r->n_trials, true);
        if (seeds > 0 && seeds < r->n_trials) {
            double px = svg_x(&plot, (double)seeds + 0.5);
            text_printf(out, "<line class=\"axis\" stroke-dasharray=\"3 4\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", px, plot.top, px,
                        plot.height - plot.bottom);
            svg_text(&plot, "label", px - 6, plot.top - 4, "end", "seed set");
            svg_text(&plot, "label", px + 6, plot.top - 4, "start", "proposals");
        }
        svg_close(&plot);
    }
    text_puts(out, "</figure>\n");
    free(x);
}

/* ---- layers ---- */

static double whole(const struct report_layers *s, size_t l)
{
    return s->full && isfinite(s->full[l]) ? s->full[l] : s->value[l];
}

static void layer_bars(const struct report *r, const struct report_layers *s, const char *css, struct text *out)
{
    size_t n = r->n_layers, every = (n + 11) / 12;
    struct range y = {0, 0};
    for (size_t l = 0; l < n; l++) {
        take_in(&y, s->value[l]);
        take_in(&y, whole(s, l));
    }
    struct svg_plot plot;
    struct svg_axes axes = {.x0 = 0, .x1 = (double)n, .y0 = 0, .y1 = y.high, .y_label = s->label, .title = s->label, .no_x_ticks = true};
    svg_open(&plot, out, "layers", 430, 170, &axes);
    for (size_t l = 0; l < n; l++) {
        char title[96], value[32], full[32], name[24];
        double middle = (svg_x(&plot, (double)l) + svg_x(&plot, (double)l + 1)) / 2;
        snprintf(title, sizeof title, "layer %zu: %s of %s", l, report_number(value, s->value[l], 1), report_number(full, whole(s, l), 1));
        svg_bar(&plot, "full", (double)l + 0.12, 0.76, whole(s, l), title);
        svg_bar(&plot, css, (double)l + 0.12, 0.76, s->value[l], title);
        snprintf(name, sizeof name, "%zu", l);
        if (l % every == 0)
            svg_text(&plot, "tick", middle, plot.height - plot.bottom + 16, "middle", name);
    }
    svg_close(&plot);
}

void report_layers(const struct report *r, struct text *out)
{
    static const char *const css[] = {"try", "low", "front", "high"};
    if (r->n_series == 0 || r->n_layers == 0)
        return;
    report_heading(out, "Layer by layer", "What the pick gives each layer (colour), of what the layer had before or could have had (grey). Layer 0, on the left, reads the "
                                          "embeddings.");
    text_puts(out, "<figure><div class=\"pair\">\n");
    for (size_t i = 0; i < r->n_series; i++)
        if (r->layers[i].value)
            layer_bars(r, &r->layers[i], css[i % 4], out);
    text_puts(out, "</div></figure>\n");
}

/* ---- losses ---- */

/* The mean over the neighbours within a thirtieth of the curve, so that curves can be told apart; not finite where all of them are not. */
static void smooth(const double *loss, double *to, size_t n)
{
    size_t reach = n / 30;
    for (size_t i = 0; i < n; i++) {
        double sum = 0, weight = 0;
        for (size_t k = i > reach ? i - reach : 0; k < n && k <= i + reach; k++)
            if (fabs(loss[k]) < 1e200) {
                sum += loss[k];
                weight++;
            }
        to[i] = weight > 0 ? sum / weight : NAN;
    }
}

static const char *curve_css(size_t i)
{
    static const char *const css[] = {"low", "high", "pick", "try", "front"};
    return css[i % 5];
}

static void one_curve(struct svg_plot *plot, const struct report_curve *c, const char *css)
{
    char faint[32];
    double *mean = malloc((c->n + 1) * sizeof *mean);
    if (!mean) {
        plot->out->failed = true;
        return;
    }
    smooth(c->loss, mean, c->n);
    snprintf(faint, sizeof faint, "%s faint", css);
    svg_line(plot, faint, c->step, c->loss, c->n, false);
    svg_line(plot, css, c->step, mean, c->n, false);
    free(mean);
}

void report_losses(const struct report *r, struct text *out)
{
    struct range step = {INFINITY, -INFINITY}, loss = {INFINITY, -INFINITY};
    for (size_t i = 0; i < r->n_curves; i++)
        for (size_t k = 0; k < r->curve[i].n; k++) {
            take_in(&step, r->curve[i].step[k]);
            take_in(&loss, r->curve[i].loss[k]);
        }
    if (!(step.high >= step.low) || !(loss.high >= loss.low))
        return;
    report_heading(out, "Fine-tuning",
                   "Loss on the training text in nats a label token: lower is better. Where a curve starts is what its formats cost before any tuning; where they "
                   "end is what tuning could not win back. Thick lines are means over neighbours of the thin ones.");
    text_puts(out, "<figure>");
    key_open(out);
    for (size_t i = 0; i < r->n_curves; i++)
        if (r->curve[i].n)
            key_line(out, curve_css(i), r->curve[i].name ? r->curve[i].name : "");
    text_puts(out, "</div>\n");
    for (int k = 0; k < SIZES; k++) {
        struct svg_plot plot;
        struct svg_axes axes = {.x0 = step.low, .x1 = step.high, .y0 = loss.low, .y1 = loss.high, .x_label = "step", .y_label = "loss, nats a token",
                                .title = "Loss while fine-tuning", .whole_x = true};
        svg_open(&plot, out, low_sizes[k].css, low_sizes[k].width, low_sizes[k].height + 70, &axes);
        for (size_t i = 0; i < r->n_curves; i++)
            one_curve(&plot, &r->curve[i], curve_css(i));
        svg_close(&plot);
    }
    text_puts(out, "</figure>\n");
}
