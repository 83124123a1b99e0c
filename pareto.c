/* pareto.c: two or three objectives, all minimised.  Hypervolume improvement: Emmerich et al. 2011; here in its O(n) form, slice by slice. */
#include "pareto.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the normal distribution's tail ---- */

static const double sqrt2 = 1.41421356237309504880, sqrt_pi = 1.77245385090551602730, log_sqrt_2pi = 0.91893853320467274178;

/* Continued fraction of erfcx for x >= 2, from the back: 1/(x + (1/2)/(x + (2/2)/(x + ...))) / sqrt(pi). */
static double erfcx_tail(double x)
{
    double f = x;
    for (int k = 120; k >= 1; k--)
        f = x + 0.5 * k / f;
    return 1 / (f * sqrt_pi);
}

double normal_erfcx(double x)
{
    if (x >= 2)
        return erfcx_tail(x);
    /* exp(x^2) with x^2 = s + r exactly: a large x^2 would lose digits of its fraction */
    double s = x * x, r = fma(x, x, -s);
    return exp(s) * (1 + r) * erfc(x);
}

double normal_log_h(double z)
{
    if (z > -1)
        return log(normal_h(z));
    double tail = 1 + z * (sqrt_pi / sqrt2) * normal_erfcx(-z / sqrt2);
    if (z < -1e4) /* the difference above has no digits left: h(z) = phi(z) / z^2 (1 - 3/z^2 + ...) */
        tail = 1 / (z * z);
    return -0.5 * z * z - log_sqrt_2pi + log(tail);
}

double normal_h(double z)
{
    if (z < -5)
        return exp(normal_log_h(z));
    if (z < -1) {
        double tail = 1 + z * (sqrt_pi / sqrt2) * normal_erfcx(-z / sqrt2);
        return exp(-0.5 * z * z - log_sqrt_2pi) * tail;
    }
    return z * 0.5 * erfc(-z / sqrt2) + exp(-0.5 * z * z - log_sqrt_2pi);
}

/* psi(c; m, s) = E max(c - x, 0) for x ~ N(m, s^2) */
static double psi(double c, double m, double s)
{
    if (c == -INFINITY)
        return 0;
    if (s <= 0)
        return c > m ? c - m : 0;
    double z = (c - m) / s;
    return z > 40 ? c - m : s * normal_h(z); /* h(40) = 40 in double, and z may be infinite when s is tiny */
}

/* ---- dominance ---- */

bool pareto_dominates(struct pareto_point p, struct pareto_point q)
{
    return p.a <= q.a && p.b <= q.b && p.c <= q.c && (p.a < q.a || p.b < q.b || p.c < q.c);
}

size_t pareto_front(const struct pareto_point *p, size_t n, bool *front)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        front[i] = !isnan(p[i].a) && !isnan(p[i].b) && !isnan(p[i].c);
        for (size_t j = 0; front[i] && j < n; j++)
            front[i] = !pareto_dominates(p[j], p[i]);
        count += front[i];
    }
    return count;
}

enum status pareto_ranks(const struct pareto_point *p, size_t n, int *rank, struct err *err)
{
    size_t *dominated_by = calloc(n ? n : 1, sizeof *dominated_by), left = n;
    if (!dominated_by)
        return err_set(err, ERR_MEMORY, "out of memory for %zu points", n);
    for (size_t i = 0; i < n; i++) {
        rank[i] = -1;
        for (size_t j = 0; j < n; j++)
            dominated_by[i] += pareto_dominates(p[j], p[i]);
    }
    for (int r = 0; left > 0; r++) {
        for (size_t i = 0; i < n; i++)
            if (rank[i] < 0 && dominated_by[i] == 0) {
                rank[i] = r;
                left--;
            }
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; rank[i] == r && j < n; j++)
                dominated_by[j] -= rank[j] < 0 && pareto_dominates(p[i], p[j]);
    }
    free(dominated_by);
    return OK;
}

/* ---- crowding ---- */

struct entry {
    double value;
    size_t index;
};

static int by_value(const void *x, const void *y)
{
    const struct entry *p = x, *q = y;
    if (p->value != q->value)
        return p->value < q->value ? -1 : 1;
    return (p->index > q->index) - (p->index < q->index);
}

static void add_gaps(const struct entry *e, size_t n, double *distance)
{
    double range = e[n - 1].value - e[0].value;
    distance[e[0].index] = distance[e[n - 1].index] = INFINITY;
    for (size_t i = 1; i + 1 < n; i++)
        if (range > 0)
            distance[e[i].index] += (e[i + 1].value - e[i - 1].value) / range;
}

static bool seen_before(const struct pareto_point *p, const int *rank, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (rank[j] == rank[i] && p[j].a == p[i].a && p[j].b == p[i].b)
            return true;
    return false;
}

enum status pareto_crowding(const struct pareto_point *p, const int *rank, size_t n, double *distance, struct err *err)
{
    struct entry *e = malloc((n ? n : 1) * sizeof *e);
    int ranks = 0;
    if (!e)
        return err_set(err, ERR_MEMORY, "out of memory for %zu points", n);
    for (size_t i = 0; i < n; i++) {
        distance[i] = 0;
        ranks = rank[i] >= ranks ? rank[i] + 1 : ranks;
    }
    for (int r = 0; r < ranks; r++)
        for (int objective = 0; objective < 2; objective++) {
            size_t k = 0;
            for (size_t i = 0; i < n; i++)
                if (rank[i] == r && !seen_before(p, rank, i))
                    e[k++] = (struct entry){objective ? p[i].b : p[i].a, i};
            if (k == 0)
                continue;
            qsort(e, k, sizeof *e, by_value);
            add_gaps(e, k, distance);
        }
    free(e);
    return OK;
}

/* ---- hypervolume ---- */

static int by_a(const void *x, const void *y)
{
    const struct pareto_point *p = x, *q = y;
    if (p->a != q->a)
        return p->a < q->a ? -1 : 1;
    return (p->b > q->b) - (p->b < q->b);
}

static int by_number(const void *x, const void *y)
{
    const double *p = x, *q = y;
    return (*p > *q) - (*p < *q);
}

/* Where slices begin: each value of c once, ascending.  Returns how many. */
static size_t distinct_c(const struct pareto_point *p, size_t n, double *c)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        c[i] = p[i].c;
    qsort(c, n, sizeof *c, by_number);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || c[i] != c[kept - 1])
            c[kept++] = c[i];
    return kept;
}

/* Of points sorted by a those that have begun and are strictly better in b than all before them. */
static size_t front_from(const struct pareto_point *p, size_t n, double from, double best, struct pareto_point *front)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (p[i].c <= from && p[i].b < best) {
            best = p[i].b;
            front[kept++] = p[i];
        }
    return kept;
}

static enum status cut_slices(struct pareto_ehvi *e, const struct pareto_point *inside, size_t n, double *c, struct err *err)
{
    size_t slices = distinct_c(inside, n, c);
    e->slice = calloc(slices + 1, sizeof *e->slice);
    struct pareto_point *front = calloc(slices * n + 1, sizeof *front);
    if (!e->slice || !front) {
        free(front);
        return err_set(err, ERR_MEMORY, "out of memory for a front of %zu points", n);
    }
    e->n = slices + 1;
    e->slice[0] = (struct pareto_slice){.from = -INFINITY, .front = front};
    for (size_t k = 0; k < slices; k++)
        e->slice[k + 1] = (struct pareto_slice){.from = c[k], .front = front + k * n, .n = front_from(inside, n, c[k], e->reference.b, front + k * n)};
    return OK;
}

enum status pareto_ehvi_new(struct pareto_ehvi *e, const struct pareto_point *p, size_t n, struct pareto_point reference, struct err *err)
{
    struct pareto_point *inside = malloc((n ? n : 1) * sizeof *inside);
    double *c = malloc((n ? n : 1) * sizeof *c);
    size_t kept = 0;
    *e = (struct pareto_ehvi){.reference = reference};
    enum status status = inside && c ? OK : err_set(err, ERR_MEMORY, "out of memory for a front of %zu points", n);
    for (size_t i = 0; status == OK && i < n; i++)
        if (p[i].a < reference.a && p[i].b < reference.b && p[i].c < reference.c)
            inside[kept++] = p[i];
    if (status == OK) {
        qsort(inside, kept, sizeof *inside, by_a);
        status = cut_slices(e, inside, kept, c, err);
    }
    free(inside);
    free(c);
    return status;
}

void pareto_ehvi_free(struct pareto_ehvi *e)
{
    if (e->slice)
        free(e->slice[0].front);
    free(e->slice);
    memset(e, 0, sizeof *e);
}

static double area_gain(const struct pareto_slice *slice, struct pareto_point reference, struct pareto_point mean, struct pareto_point sd)
{
    double sum = 0, left = -INFINITY, height = reference.b;
    for (size_t i = 0; i <= slice->n; i++) {
        double right = i < slice->n ? slice->front[i].a : reference.a;
        double width = psi(right, mean.a, sd.a) - psi(left, mean.a, sd.a);
        sum += (width > 0 ? width : 0) * psi(height, mean.b, sd.b);
        left = right;
        height = i < slice->n ? slice->front[i].b : height;
    }
    return sum > 0 ? sum : 0;
}

/* Where slice k ends. */
static double slice_end(const struct pareto_ehvi *e, size_t k)
{
    return k + 1 < e->n ? e->slice[k + 1].from : e->reference.c;
}

double pareto_ehvi_at(const struct pareto_ehvi *e, struct pareto_point mean, struct pareto_point sd)
{
    double sum = 0;
    for (size_t k = 0; k < e->n; k++) {
        double thick = slice_end(e, k) - (e->slice[k].from > mean.c ? e->slice[k].from : mean.c);
        if (thick > 0)
            sum += thick * area_gain(&e->slice[k], e->reference, mean, sd);
    }
    return sum;
}

static double area_below(const struct pareto_slice *slice, struct pareto_point reference)
{
    double area = 0, top = reference.b;
    for (size_t i = 0; i < slice->n; i++) {
        area += (reference.a - slice->front[i].a) * (top - slice->front[i].b);
        top = slice->front[i].b;
    }
    return area;
}

enum status pareto_hypervolume(const struct pareto_point *p, size_t n, struct pareto_point reference, double *volume, struct err *err)
{
    struct pareto_ehvi e;
    enum status status = pareto_ehvi_new(&e, p, n, reference, err);
    *volume = 0;
    for (size_t k = 1; k < e.n; k++)
        *volume += (slice_end(&e, k) - e.slice[k].from) * area_below(&e.slice[k], reference);
    pareto_ehvi_free(&e);
    return status;
}
