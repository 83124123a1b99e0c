/* pareto.c: two objectives, both minimised.  Hypervolume improvement: Emmerich et al. 2011; here in its O(n) form. */
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
    return p.a <= q.a && p.b <= q.b && (p.a < q.a || p.b < q.b);
}

size_t pareto_front(const struct pareto_point *p, size_t n, bool *front)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        front[i] = !isnan(p[i].a) && !isnan(p[i].b);
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

/* The points inside the reference, sorted by a, each strictly better in b than those before. */
enum status pareto_ehvi_new(struct pareto_ehvi *e, const struct pareto_point *p, size_t n, struct pareto_point reference, struct err *err)
{
    e->front = malloc((n ? n : 1) * sizeof *e->front);
    e->n = 0;
    e->reference = reference;
    if (!e->front)
        return err_set(err, ERR_MEMORY, "out of memory for a front of %zu points", n);
    size_t inside = 0;
    for (size_t i = 0; i < n; i++)
        if (p[i].a < reference.a && p[i].b < reference.b)
            e->front[inside++] = p[i];
    qsort(e->front, inside, sizeof *e->front, by_a);
    double best = reference.b;
    for (size_t i = 0; i < inside; i++)
        if (e->front[i].b < best) {
            best = e->front[i].b;
            e->front[e->n++] = e->front[i];
        }
    return OK;
}

void pareto_ehvi_free(struct pareto_ehvi *e)
{
    free(e->front);
    memset(e, 0, sizeof *e);
}

double pareto_ehvi_at(const struct pareto_ehvi *e, struct pareto_point mean, struct pareto_point sd)
{
    double sum = 0, left = -INFINITY, height = e->reference.b;
    for (size_t i = 0; i <= e->n; i++) {
        double right = i < e->n ? e->front[i].a : e->reference.a;
        double width = psi(right, mean.a, sd.a) - psi(left, mean.a, sd.a);
        sum += (width > 0 ? width : 0) * psi(height, mean.b, sd.b);
        left = right;
        height = i < e->n ? e->front[i].b : height;
    }
    return sum > 0 ? sum : 0;
}

enum status pareto_hypervolume(const struct pareto_point *p, size_t n, struct pareto_point reference, double *volume, struct err *err)
{
    struct pareto_ehvi e;
    double top = reference.b;
    TRY(pareto_ehvi_new(&e, p, n, reference, err));
    *volume = 0;
    for (size_t i = 0; i < e.n; i++) {
        *volume += (reference.a - e.front[i].a) * (top - e.front[i].b);
        top = e.front[i].b;
    }
    pareto_ehvi_free(&e);
    return OK;
}
