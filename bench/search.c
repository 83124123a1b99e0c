/* search.c: strategies against each other on problems whose whole truth is known: hypervolume against trials and against seconds.
 *
 *   build/bench/search [--seeds N] [--only STRATEGY] [--out DIR]
 * A problem is a table of every configuration: toys computed here, and data/world/truth.jsonl, 256 plans of a real model that were all fine-tuned and scored.
 * A strategy sees noisy scores (of the real model: one seed's); what it has found is judged by the true ones.  "gp" runs again with what a search of a teacher, the
 * same problem or one of another depth, has learnt (search_prior.h).  Writes search.md, .csv, .json and search.svg. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/linalg.h"
#include "base/order.h"
#include "base/rng.h"
#include "bench/search_problems.h"
#include "bench/table.h"
#include "io/report_svg.h"
#include "search.h"
#include "search_prior.h"

enum { MOST_TRIALS = 60, CHECKPOINTS = 5, MOST_SEEDS = 100 };
static const int checkpoint[CHECKPOINTS] = {10, 20, 30, 40, 50};
static const struct contestant {
    const char *name, *strategy;
    double low_cost;  /* of a short trial; 0: there are none */
    double agreement; /* of a short trial's true score with the full one, a correlation; 1: fewer documents alone */
} contestants[] = {{"random", "random", 0, 1}, {"gp", "gp", 0, 1}, {"amq", "amq", 0, 1}, {"autoqra", "autoqra", 0, 1}, {"autoqra, short trials", "autoqra", 0.25, 1},
                   {"evopress", "evopress", 0, 1}, {"dp", "dp", 0, 1}};
/* What "gp" makes of short trials: the quarter of the documents that autoqra gets, and a tenth of the steps, of which no truth is recorded: made up, see bent. */
static const struct contestant shorter[] = {{"gp, a quarter of the documents", "gp", 0.25, 1}, {"gp, a tenth of the steps, 0.9", "gp", 0.1, 0.9},
                                            {"gp, a tenth of the steps, 0.6", "gp", 0.1, 0.6}, {"gp, a tenth of the steps, 0", "gp", 0.1, 0}};
enum { STRATEGIES = sizeof contestants / sizeof *contestants };

/* ---- one run ---- */

struct course {
    double volume[MOST_TRIALS + 1]; /* share of the true one after so many full trials' cost */
    double seconds, proposals;      /* of proposing alone */
};

/* Of the processor: what others do meanwhile does not count. */
static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of the variance of a measured score, what engine_pairs.c says of the 256 trials of a seed: 1.9e-4 of 5.0e-4. */
#define PAIRED_SHARE 0.38

/* Few steps and all documents: a score that correlates with the true one as said, behind it by two of its deviations, with the noise of a full trial. */
static struct search_point bent(const struct problem *p, const struct search_proposal *next, uint64_t seed, double agreement)
{
    size_t at = problem_index(p, next->level);
    struct search_point point = {.level = next->level, .size = problem_size((void *)(uintptr_t)p, next->level), .low_fidelity = true};
    struct rng rng = {.seed = seed, .stream = RNG_WORLD, .step = (uint32_t)at + (1u << 30)};
    double variance = p->variance ? p->variance[at * TRUTH_SEEDS + seed % TRUTH_SEEDS] : p->deviation * p->deviation;
    double luck = p->variance ? PAIRED_SHARE * variance : variance;
    point.score = p->mean + agreement * (p->truth[at] - p->mean) + sqrt(1 - agreement * agreement) * (p->other[at] - p->mean);
    point.score += sqrt(luck) * rng_normal(&rng) - 2 * problem_deviation(p->truth, p->count);
    point.variance = luck;
    return point;
}

/* A short trial answers with four times the variance: a quarter of the documents. */
static struct search_point measure(const struct problem *p, const struct search_proposal *next, uint64_t seed, const struct contestant *who)
{
    double low_cost = who->low_cost;
    if (next->low_fidelity && who->agreement < 1)
        return bent(p, next, seed, who->agreement);
    size_t at = problem_index(p, next->level);
    struct search_point point = {.level = next->level, .size = problem_size((void *)(uintptr_t)p, next->level), .low_fidelity = next->low_fidelity};
    struct rng rng = {.seed = seed, .stream = RNG_WORLD, .step = (uint32_t)at + (next->low_fidelity ? 1u << 30 : 0)};
    double deviation = p->deviation;
    if (p->seen) {
        point.score = p->seen[at * TRUTH_SEEDS + seed % TRUTH_SEEDS];
        point.variance = p->variance[at * TRUTH_SEEDS + seed % TRUTH_SEEDS];
        deviation = next->low_fidelity ? sqrt(point.variance * (1 / low_cost - 1)) : 0;
    } else {
        deviation *= next->low_fidelity ? sqrt(1 / low_cost) : 1;
        point.score = p->truth[at];
        point.variance = deviation * deviation;
    }
    point.score += deviation * rng_normal(&rng);
    if (next->low_fidelity && p->seen)
        point.variance /= low_cost;
    else if (p->seen)
        point.paired = PAIRED_SHARE * point.variance;
    return point;
}

/* One search, from its first trial to its last, into an empty archive and a course of zeros. */
static enum status search_once(const struct problem *p, const struct search_space *space, const struct contestant *who, uint64_t seed,
                               struct search_archive *archive, struct course *course, struct err *err)
{
    struct search_cache cache = {0};
    struct search_options options = {.strategy = who->strategy, .seed = seed, .num_initial = 10, .num_trials = MOST_TRIALS - 10, .low_cost = who->low_cost,
                                     .batch = 8, .cache = &cache};
    struct pareto_point *found = calloc(16 * MOST_TRIALS, sizeof *found);
    uint8_t level[MOST_VARIABLES];
    struct search_proposal next = {.level = level};
    double cost = 0;
    size_t n = 0, reached = 0;
    enum status status = found ? OK : err_set(err, ERR_MEMORY, "out of memory for a run");
    while (status == OK && cost < MOST_TRIALS) {
        double start = now_s();
        status = search_propose(space, archive, &options, &next, err);
        course->seconds += now_s() - start;
        course->proposals++;
        if (status != OK || next.done)
            break;
        struct search_point point = measure(p, &next, seed, who);
        status = search_archive_add(archive, space, &point, err);
        cost += next.low_fidelity ? options.low_cost : 1;
        if (!next.low_fidelity && n < 16 * MOST_TRIALS)
            found[n++] = problem_on_axes(p, point.size, p->truth[problem_index(p, level)]);
        double share = problem_volume(found, n) / p->volume;
        while (reached < MOST_TRIALS && (double)(reached + 1) <= cost + 1e-9)
            course->volume[++reached] = share;
    }
    for (size_t t = reached + 1; t <= MOST_TRIALS; t++) /* the space is used up, or nothing more is proposed */
        course->volume[t] = course->volume[reached];
    search_cache_free(&cache);
    free(found);
    return status;
}

static enum status run_once(const struct problem *p, const struct contestant *who, uint64_t seed, struct course *course, struct err *err)
{
    struct search_archive archive = {0}, learnt = {0};
    struct search_prior prior = {0};
    struct search_space space = p->space;
    enum status status = OK;
    if (p->teacher) {
        struct course ignored = {.proposals = 0};
        status = search_once(p->teacher, &p->teacher->space, who, seed + 1, &learnt, &ignored, err);
        if (status == OK)
            status = search_prior_new(&prior, &p->teacher->space, &learnt, &p->space, err);
        space.prior = &prior;
    }
    memset(course, 0, sizeof *course);
    if (status == OK)
        status = search_once(p, &space, who, seed, &archive, course, err);
    search_archive_free(&archive);
    search_archive_free(&learnt);
    search_prior_free(&prior);
    return status;
}

/* ---- many runs ---- */

/* Linear between the two nearest of n sorted values. */
static double quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

struct summary {
    double median[MOST_TRIALS + 1], low[MOST_TRIALS + 1], high[MOST_TRIALS + 1];
    double proposal_s;
    double to95, to99; /* trials until the median is there; NaN: not within the run */
};

static enum status summarise(const struct problem *p, const struct contestant *who, size_t seeds, struct summary *s, struct err *err)
{
    struct course *course = calloc(seeds, sizeof *course);
    double value[MOST_SEEDS], seconds = 0, proposals = 0;
    if (!course)
        return err_set(err, ERR_MEMORY, "out of memory for runs");
    enum status status = OK;
    for (size_t k = 0; status == OK && k < seeds; k++) {
        status = run_once(p, who, k + 1, &course[k], err);
        seconds += course[k].seconds;
        proposals += course[k].proposals;
    }
    *s = (struct summary){.proposal_s = proposals > 0 ? seconds / proposals : 0, .to95 = NAN, .to99 = NAN};
    for (size_t t = 1; status == OK && t <= MOST_TRIALS; t++) {
        for (size_t k = 0; k < seeds; k++)
            value[k] = course[k].volume[t];
        qsort(value, seeds, sizeof *value, order_doubles);
        s->median[t] = quantile(value, seeds, 0.5);
        s->low[t] = quantile(value, seeds, 0.25);
        s->high[t] = quantile(value, seeds, 0.75);
        if (isnan(s->to95) && s->median[t] >= 0.95)
            s->to95 = (double)t;
        if (isnan(s->to99) && s->median[t] >= 0.99)
            s->to99 = (double)t;
    }
    free(course);
    return status;
}

/* ---- output ---- */

static const char *const column[] = {"problem", "strategy", "10 trials %", "20", "30", "40", "50", "quartiles at 30", "95 % after", "99 % after", "a proposal, ms",
                                     "minutes to 95 %"};

static void add_row(struct table *table, const struct problem *p, const char *strategy, const struct summary *s)
{
    table_text(table, "%s", p->name);
    table_text(table, "%s", strategy);
    for (int k = 0; k < CHECKPOINTS; k++)
        table_number(table, 100 * s->median[checkpoint[k]], 1);
    table_text(table, "%.1f - %.1f", 100 * s->low[30], 100 * s->high[30]);
    table_number(table, s->to95, 0);
    table_number(table, s->to99, 0);
    table_number(table, 1e3 * s->proposal_s, 2);
    table_number(table, p->trial_s > 0 ? s->to95 * (p->trial_s + s->proposal_s) / 60 : NAN, 2);
}

/* A page of its own: the classes of the lines are here. */
static void open_page(struct text *svg, double height)
{
    text_printf(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\">\n<style>"
                     "text{fill:#444}.grid{stroke:#ddd}.axis{stroke:#888}path,polyline{fill:none;stroke-width:2}.s0{stroke:#888}.s1{stroke:#2563a8}.s2{stroke:#2a8559}"
                     ".s3{stroke:#b4257a}.s4{stroke:#c47b12}.s5{stroke:#6b4fbb}.s6{stroke:#1a9aa0}</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", height);
}

static void draw(struct text *svg, const struct problem *p, const struct summary *s, double top)
{
    struct svg_plot plot;
    double x[MOST_TRIALS], y[MOST_TRIALS], least = 100;
    for (size_t k = 0; k < STRATEGIES; k++)
        least = s[k].median[5] > 0 ? fmin(least, 100 * s[k].median[5]) : least;
    struct svg_axes axes = {.x0 = 5, .x1 = MOST_TRIALS, .y0 = least, .y1 = 100, .x_label = "trials", .y_label = "hypervolume found, % (median)", .title = p->name};
    text_printf(svg, "<text x=\"20\" y=\"%.0f\" font-weight=\"bold\">%s: %s</text>\n<g transform=\"translate(0 %.0f)\">", top + 16, p->name, p->what, top + 22);
    svg_open(&plot, svg, "plot", 620, 260, &axes);
    for (size_t k = 0; k < STRATEGIES; k++) {
        char css[8];
        size_t n = 0;
        for (size_t t = 5; t <= MOST_TRIALS; t++, n++) {
            x[n] = (double)t;
            y[n] = 100 * s[k].median[t];
        }
        snprintf(css, sizeof css, "s%zu", k);
        if (s[k].median[MOST_TRIALS] > 0)
            svg_line(&plot, css, x, y, n, false);
    }
    svg_close(&plot);
    text_puts(svg, "</g>\n");
    for (size_t k = 0; k < STRATEGIES; k++)
        text_printf(svg, "<path class=\"s%zu\" d=\"M640 %.0fh20\"/><text x=\"666\" y=\"%.0f\">%s</text>\n", k, top + 46 + 18 * (double)k, top + 50 + 18 * (double)k,
                    contestants[k].name);
}

struct arguments {
    size_t seeds;
    const char *only, *out;
};

static int usage(void)
{
    fputs("usage: search [--seeds 1..100] [--only random|gp|amq|autoqra|evopress|dp] [--out DIR]\n", stderr);
    return 2;
}

static bool read_arguments(int argc, char **argv, struct arguments *a)
{
    *a = (struct arguments){.seeds = 20, .out = "build/bench"};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--seeds") == 0)
            a->seeds = (size_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            a->only = argv[i + 1];
        else if (strcmp(argv[i], "--out") == 0)
            a->out = argv[i + 1];
        else
            return false;
    }
    return a->seeds >= 1 && a->seeds <= MOST_SEEDS;
}

static enum status bench_problem(struct problem *p, const struct arguments *a, struct table *table, struct text *svg, double top, struct err *err)
{
    struct summary s[STRATEGIES];
    memset(s, 0, sizeof s);
    for (size_t k = 0; k < STRATEGIES; k++) {
        if (a->only && strcmp(a->only, contestants[k].strategy) != 0)
            continue;
        TRY(summarise(p, &contestants[k], a->seeds, &s[k], err));
        add_row(table, p, contestants[k].name, &s[k]);
        fprintf(stderr, "%s, %s: %.1f %% after 30 trials\n", p->name, contestants[k].name, 100 * s[k].median[30]);
    }
    draw(svg, p, s, top);
    return OK;
}

static enum status bench_short(struct problem *p, const struct arguments *a, struct table *table, struct err *err)
{
    for (size_t k = 0; k < sizeof shorter / sizeof *shorter && (!a->only || strcmp(a->only, "gp") == 0); k++) {
        struct summary s;
        TRY(summarise(p, &shorter[k], a->seeds, &s, err));
        add_row(table, p, shorter[k].name, &s);
        fprintf(stderr, "%s, %s: %.1f %% after 30 trials\n", p->name, shorter[k].name, 100 * s.median[30]);
    }
    return OK;
}

/* "gp" alone, with what it has learnt of the teacher. */
static enum status bench_prior(struct problem *p, const struct problem *teacher, const char *what, const struct arguments *a, struct table *table, struct err *err)
{
    static const struct contestant gp = {"gp", "gp", 0, 1};
    struct summary s;
    if (a->only && strcmp(a->only, "gp") != 0)
        return OK;
    p->teacher = teacher;
    enum status status = summarise(p, &gp, a->seeds, &s, err);
    p->teacher = NULL;
    TRY(status);
    add_row(table, p, what, &s);
    fprintf(stderr, "%s, %s: %.1f %% after 30 trials\n", p->name, what, 100 * s.median[30]);
    return OK;
}

enum { SMALL_WORLD, ADDITIVE, COUPLED, RANKS, PROBLEMS };

static enum status bench_priors(struct problem *p, int which, const struct arguments *a, struct table *table, struct err *err)
{
    struct problem teacher = {0};
    if (which == SMALL_WORLD)
        return bench_prior(p, p, "gp, another seed's prior", a, table, err);
    if (which == RANKS)
        return OK;
    enum status status = problem_layers(&teacher, "8 layers", "", OF_8, 0, err);
    if (status == OK)
        status = bench_prior(p, &teacher, "gp, prior of 8 layers", a, table, err);
    problem_free(&teacher);
    TRY(status);
    status = problem_layers(&teacher, "reversed", "", OF_8_REVERSED, 0, err);
    if (status == OK)
        status = bench_prior(p, &teacher, "gp, misleading prior", a, table, err);
    problem_free(&teacher);
    return status;
}

static enum status make_problem(struct problem *p, int which, struct err *err)
{
    switch (which) {
    case SMALL_WORLD:
        return problem_measured(p, err);
    case ADDITIVE:
        return problem_layers(p, "additive", "12 layers of 2 formats whose losses add up", OF_12, 0, err);
    case COUPLED:
        return problem_layers(p, "coupled", "the same, but a layer is worth less when the next one differs", OF_12, 0.4, err);
    default:
        return problem_ranks(p, err);
    }
}

static enum status bench_all(const struct arguments *a, struct table *table, struct text *svg, struct err *err)
{
    enum { HEIGHT = 300 };
    open_page(svg, PROBLEMS * HEIGHT);
    for (int k = 0; k < PROBLEMS; k++) {
        struct problem p;
        enum status status = make_problem(&p, k, err);
        if (status == OK)
            status = bench_problem(&p, a, table, svg, k * HEIGHT, err);
        if (status == OK)
            status = bench_short(&p, a, table, err);
        if (status == OK)
            status = bench_priors(&p, k, a, table, err);
        problem_free(&p);
        TRY(status);
    }
    text_puts(svg, "</svg>\n");
    return svg->failed ? err_set(err, ERR_MEMORY, "out of memory for the figure") : OK;
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct err err = {""};
    struct table table;
    struct text svg = {0};
    if (!read_arguments(argc, argv, &a))
        return usage();
    linalg_init();
    table_open(&table, "search", "Search strategies: share of the true hypervolume found", column, sizeof column / sizeof *column);
    text_printf(&table.notes, "Medians over %zu seeds. A trial is a full one; probes count, short trials count a quarter. Judged by true scores, on axes that "
                              "the whole space spans from 0 to 1, below (1.1, 1.1). Minutes: trials of 1.4 s, as the default run's, and the proposals. search.svg draws it.\n",
                a.seeds);
    enum status status = bench_all(&a, &table, &svg, &err);
    if (status == OK)
        status = table_write(&table, a.out, &err);
    char *path = path_join(a.out, "search.svg");
    if (status == OK)
        status = path ? file_write(path, svg.s, svg.n, &err) : err_set(&err, ERR_MEMORY, "out of memory for a path");
    free(path);
    text_free(&svg);
    table_free(&table);
    if (status != OK)
        fprintf(stderr, "search: %s\n", err.text);
    return status == OK ? 0 : status == ERR_INPUT ? 2 : 1;
}
