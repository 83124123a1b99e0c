/* report.c: the page: header, tables, captions; its figures are in report_plots.c. */
#include "io/report.h"

#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "io/report_private.h"

/* Colours by what they mean; each once for light and once for dark.  Two sizes of every wide figure are in the file and one is shown: text
 * that is scaled down with its figure cannot be read on a phone. */
static const char style[] =
    ":root{--bg:#f7f7f4;--ink:#1b2125;--soft:#5f6a72;--grid:#e4e6e3;--card:#fff;--seed:#7b868e;--try:#2563a8;--front:#2a8559;--pick:#b4257a;"
    "--low:#c2591b;--high:#6b4fc8;--fail:#c0392b}\n"
    "@media (prefers-color-scheme:dark){:root{--bg:#111518;--ink:#e6e9ea;--soft:#98a3aa;--grid:#2a3136;--card:#191e22;--seed:#8e99a1;--try:#6bb1f2;"
    "--front:#5fc793;--pick:#f57fbd;--low:#f5a45c;--high:#b39bff;--fail:#f4796b}}\n"
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}"
    "body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",sans-serif}"
    "main{max-width:1000px;margin:0 auto;padding:28px 20px 72px}h1{font-size:30px;line-height:1.2;margin:2px 0 8px;overflow-wrap:anywhere}"
    "h2{font-size:21px;line-height:1.3;margin:44px 0 4px}p{margin:4px 0 12px;max-width:70ch}.soft,figcaption,.tick,.label{color:var(--soft)}"
    "figure,.card{margin:14px 0;background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:14px 16px}"
    "figcaption{font-size:14px;margin-top:8px;max-width:84ch}code{font:13px/1.5 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}"
    ".facts{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:18px 0}.facts .card{margin:0;padding:12px 14px}"
    ".facts b{display:block;font-size:19px;line-height:1.3}.facts span{font-size:13px;color:var(--soft)}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:12px 0;font-size:14px}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}"
    "th,td{padding:6px 8px;text-align:right;border-bottom:1px solid var(--grid);vertical-align:baseline}"
    "th{color:var(--soft);font-weight:600;font-size:13px;line-height:1.25}tr>:first-child{text-align:left;padding-left:0}"
    "td .pm{color:var(--soft);font-weight:400;font-size:13px;white-space:nowrap}.chosen{font-weight:700}th.chosen{color:var(--pick)}"
    "tbody tr:last-child>*{border-bottom:0}tr.sum>*{border-top:2px solid var(--grid)}"
    ".key{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:14px;margin-bottom:6px}.key span{white-space:nowrap}.key svg{display:inline-block;width:16px;"
    "height:12px;margin-right:6px;vertical-align:-1px}"
    "svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,-apple-system,\"Segoe UI\",sans-serif;fill:var(--ink)}"
    "svg .tick,svg .label{fill:var(--soft)}svg text.on{font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}"
    "svg text.value{font-size:11px;fill:var(--soft)}"
    ".grid{stroke:var(--grid)}.axis{stroke:var(--soft)}.line{fill:none;stroke-width:2;stroke-linejoin:round}.faint{opacity:.28;stroke-width:1.2}"
    ".bar{opacity:.35;stroke-width:1.3}.full{fill:var(--seed);opacity:.2}.ring{stroke-width:2.5}.cross{stroke-width:2;fill:none}"
    ".narrow{display:none}.pair{display:grid;grid-template-columns:1fr 1fr;gap:18px 24px}"
    ".memory{display:grid;grid-template-columns:max-content 1fr max-content;gap:7px 14px;align-items:center;font-size:14px;"
    "font-variant-numeric:tabular-nums}.memory .track{background:var(--grid);border-radius:4px;height:14px;overflow:hidden}"
    ".memory i{display:block;height:100%;background:var(--try);border-radius:4px;min-width:1px}.memory .total i{background:var(--pick)}"
    ".memory .total{font-weight:600}.memory small{display:block;color:var(--soft);font-size:12px;line-height:1.3;"
    "font-weight:400}.memory .row{display:contents}.memory .number{text-align:right}"
    "summary{cursor:pointer;font-weight:600}pre{font:12px/1.5 ui-monospace,Menlo,Consolas,monospace;overflow-x:auto;margin:10px 0 0}\n"
    "@media (max-width:700px){main{padding:18px 12px 48px}h1{font-size:25px}.wide{display:none}.narrow{display:block}.pair{grid-template-columns:1fr}"
    "figure,.card{padding:10px 10px}.facts{grid-template-columns:1fr 1fr;gap:8px}.facts b{font-size:17px}table{font-size:13px}th,td{padding:5px 2px}"
    "th{font-size:10.5px}td .pm{display:block;font-size:11.5px}.memory{gap:7px 8px;grid-template-columns:minmax(0,9.5em) 1fr max-content}}\n"
    "@media print{body{background:#fff}figure,.card{break-inside:avoid}}\n";

/* One place for every class that takes a colour. */
static void colours(struct text *out)
{
    static const char *const name[] = {"seed", "try", "front", "pick", "low", "high", "fail"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        text_printf(out, "circle.%s,rect.%s,path.%s{fill:var(--%s)}line.%s,path.line.%s,path.cross.%s,circle.ring.%s{stroke:var(--%s);fill:none}\n", name[i],
                    name[i], name[i], name[i], name[i], name[i], name[i], name[i], name[i]);
    text_puts(out, "text.pick{fill:var(--pick)!important}text.low{fill:var(--low)!important}text.high{fill:var(--high)!important}\n");
}

/* ---- small pieces, shared with the figures ---- */

double report_unit(double bytes, const char **name)
{
    static const struct {
        double size;
        const char *name;
    } unit[] = {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "bytes"}};
    size_t k = 0;
    while (k < 3 && !(bytes >= unit[k].size))
        k++;
    *name = unit[k].name;
    return unit[k].size;
}

const char *report_number(char s[32], double x, int digits)
{
    if (isfinite(x) && fabs(x) < 1e15)
        snprintf(s, 32, "%.*f", digits, x);
    else
        snprintf(s, 32, "\xe2\x80\x93"); /* a dash: not known */
    return s;
}

void report_heading(struct text *out, const char *title, const char *lead)
{
    text_puts(out, "<h2>");
    text_html(out, title);
    text_puts(out, "</h2>\n<p>");
    text_html(out, lead);
    text_puts(out, "</p>\n");
}

static void element(struct text *out, const char *tag, const char *css, const char *content)
{
    text_printf(out, css ? "<%s class=\"%s\">" : "<%s>", tag, css);
    text_html(out, content ? content : "");
    text_printf(out, "</%s>", tag);
}

/* ---- header ---- */

static void facts(const struct report *r, struct text *out)
{
    enum { LARGE = 4 };
    if (r->n_facts == 0)
        return;
    text_puts(out, "<div class=\"facts\">\n");
    for (size_t i = 0; i < r->n_facts && i < LARGE; i++) {
        text_puts(out, "<div class=\"card\">");
        element(out, "span", NULL, r->fact[i].name);
        element(out, "b", NULL, r->fact[i].value);
        text_puts(out, "</div>\n");
    }
    text_puts(out, "</div>\n<dl>\n");
    for (size_t i = LARGE; i < r->n_facts; i++) {
        element(out, "dt", NULL, r->fact[i].name);
        element(out, "dd", NULL, r->fact[i].value);
        text_puts(out, "\n");
    }
    if (r->command) {
        text_puts(out, "<dt>command</dt><dd>");
        element(out, "code", NULL, r->command);
        text_puts(out, "</dd>\n");
    }
    text_puts(out, "</dl>\n");
}

static void head(const struct report *r, struct text *out)
{
    text_puts(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\n<meta name=\"color-scheme\" content=\"light dark\"/>\n");
    element(out, "title", NULL, r->title ? r->title : "veneer report");
    text_puts(out, "\n<style>\n");
    text_puts(out, style);
    colours(out);
    text_puts(out, "</style>\n</head>\n<body>\n<main>\n<p class=\"soft\">");
    text_html(out, r->version ? r->version : "veneer");
    if (r->when) {
        text_puts(out, " \xc2\xb7 ");
        text_html(out, r->when);
    }
    text_puts(out, "</p>\n");
    element(out, "h1", NULL, r->title ? r->title : "report");
    text_puts(out, "\n");
    if (r->summary)
        element(out, "p", NULL, r->summary);
    text_puts(out, "\n");
    facts(r, out);
}

/* ---- the table of tasks: a row a task, a column a model, so that it fits a phone ---- */

static void cell(struct text *out, bool chosen, double value, double error)
{
    char s[32];
    text_printf(out, "<td%s>%s", chosen ? " class=\"chosen\"" : "", report_number(s, 100 * value, 1));
    if (isfinite(value) && isfinite(error))
        text_printf(out, " <span class=\"pm\">\xc2\xb1 %s</span>", report_number(s, 100 * error, 1));
    text_puts(out, "</td>");
}

static double value_at(const double *array, size_t i)
{
    return array ? array[i] : NAN;
}

static void size_row(const struct report *r, struct text *out)
{
    const char *unit;
    double most = 0;
    char s[32];
    for (size_t c = 0; c < r->n_columns; c++)
        most = isfinite(r->column[c].bytes) ? fmax(most, r->column[c].bytes) : most;
    double divisor = report_unit(most, &unit);
    text_printf(out, "<tr><td>size, %s</td>", unit);
    for (size_t c = 0; c < r->n_columns; c++)
        text_printf(out, "<td%s>%s</td>", r->column[c].chosen ? " class=\"chosen\"" : "", report_number(s, r->column[c].bytes / divisor, 2));
    text_puts(out, "</tr>\n");
}

static void tasks(const struct report *r, struct text *out)
{
    if (r->n_columns == 0)
        return;
    report_heading(out, "What it cost, and what came back",
                   "Accuracy in percent, with one standard error, on the part of each task that the search never saw. Two numbers that differ by less "
                   "than twice their errors may well be equal. Size is that of the stored model with its adapters.");
    text_puts(out, "<div class=\"card\"><table>\n<thead><tr><th></th>");
    for (size_t c = 0; c < r->n_columns; c++)
        element(out, "th", r->column[c].chosen ? "chosen" : NULL, r->column[c].name);
    text_puts(out, "</tr></thead>\n<tbody>\n");
    for (size_t t = 0; t < r->n_tasks; t++) {
        text_puts(out, "<tr>");
        element(out, "td", NULL, r->task[t]);
        for (size_t c = 0; c < r->n_columns; c++)
            cell(out, r->column[c].chosen, value_at(r->column[c].score, t), value_at(r->column[c].error, t));
        text_puts(out, "</tr>\n");
    }
    if (r->n_tasks > 0) {
        text_puts(out, "<tr class=\"sum\"><td>mean</td>");
        for (size_t c = 0; c < r->n_columns; c++)
            cell(out, r->column[c].chosen, r->column[c].mean, r->column[c].mean_error);
        text_puts(out, "</tr>\n");
    }
    size_row(r, out);
    text_puts(out, "</tbody></table></div>\n");
}

/* ---- memory: bars of plain HTML, which flow on any width ---- */

static void memory_row(const struct report_memory *m, double most, double divisor, struct text *out)
{
    char s[32];
    bool measured = isfinite(m->measured_bytes);
    double bytes = measured && !isfinite(m->planned_bytes) ? m->measured_bytes : m->planned_bytes;
    double share = isfinite(bytes) && bytes > 0 && most > 0 ? 100 * fmin(1, bytes / most) : 0;
    text_printf(out, "<div class=\"row%s\"><div>", m->total ? " total" : "");
    text_html(out, m->name ? m->name : "");
    if (m->what)
        element(out, "small", NULL, m->what);
    text_printf(out, "</div><div class=\"%s\"><i style=\"width:%.2f%%\"></i></div><div class=\"number%s\">%s", m->total ? "track total" : "track", share,
                m->total ? " total" : "", report_number(s, bytes / divisor, 2));
    if (measured && isfinite(m->planned_bytes))
        text_printf(out, " <small>measured %s</small>", report_number(s, m->measured_bytes / divisor, 2));
    text_puts(out, "</div></div>\n");
}

static void memory(const struct report *r, struct text *out)
{
    const char *unit;
    double most = 0;
    if (r->n_memory == 0)
        return;
    for (size_t i = 0; i < r->n_memory; i++) {
        most = isfinite(r->memory[i].planned_bytes) ? fmax(most, r->memory[i].planned_bytes) : most;
        most = isfinite(r->memory[i].measured_bytes) ? fmax(most, r->memory[i].measured_bytes) : most;
    }
    double divisor = report_unit(most, &unit);
    report_heading(out, "Memory", "Bytes are planned before any is taken, by the code that later takes them. The parts do not all live at the same time: the "
                                  "peak is the largest sum that does.");
    text_puts(out, "<figure><div class=\"memory\">\n");
    for (size_t i = 0; i < r->n_memory; i++)
        memory_row(&r->memory[i], most, divisor, out);
    text_printf(out, "</div><figcaption>Numbers in %s, powers of ten.</figcaption></figure>\n", unit);
}

/* ---- foot ---- */

static void foot(const struct report *r, struct text *out)
{
    for (size_t i = 0; i < r->n_remarks; i++)
        if (r->remark[i]) {
            element(out, "p", "soft", r->remark[i]);
            text_puts(out, "\n");
        }
    if (r->config) {
        report_heading(out, "Configuration", "Every key as the run used it: the same file, seed and program make the same bytes again.");
        text_puts(out, "<details class=\"card\"><summary>all keys</summary>");
        element(out, "pre", NULL, r->config);
        text_puts(out, "</details>\n");
    }
    text_puts(out, "</main>\n</body>\n</html>\n");
}

void report_html(const struct report *r, struct text *out)
{
    head(r, out);
    tasks(r, out);
    report_front(r, out);
    report_volume(r, out);
    report_layers(r, out);
    report_losses(r, out);
    memory(r, out);
    foot(r, out);
}

enum status report_write(const struct report *report, const char *path, struct err *err)
{
    struct text out = {0};
    report_html(report, &out);
    enum status status = out.failed ? err_set(err, ERR_MEMORY, "out of memory for %s", path) : file_write(path, out.s, out.n, err);
    text_free(&out);
    return status;
}
