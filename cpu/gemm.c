/* gemm.c: the loops around the micro-kernels: blocks of k that fit the caches, panels of rows and columns. */
#include "cpu/gemm.h"

#include "cpu/cpu.h"
#include "cpu/fast.h"

enum {
    KC = 512,  /* units of k in a block: a B panel of 128 columns takes 256 KB */
    MC = 128,  /* rows of A packed at once */
    NC = GEMM_COLUMNS,
    A_BUFFER = (MC + MICRO_MR_MOST) * KC,
    B_BUFFER = KC * (NC + MICRO_NR_MOST),
    OWN_ROWS = 128 /* with so many rows a thread keeps to its own */
};
_Static_assert(A_BUFFER + B_BUFFER == GEMM_SCRATCH, "gemm.h says how much");

const struct micro *micro_of(const struct ops_context *c)
{
    const struct level *l = level();
    return c->compute != COMPUTE_F32 && l->bf16 ? l->bf16 : l->f32;
}

static real *a_buffer(const struct ops_context *c)
{
    return cpu_scratch(c) + c->scratch_n - GEMM_SCRATCH;
}

static real *b_buffer(const struct ops_context *c)
{
    return a_buffer(c) + A_BUFFER;
}

/* Length of a block of k: equal blocks of at most KC units, multiples of 64. */
static size_t k_block(const struct micro *m, size_t k)
{
    size_t most = (size_t)KC * (size_t)m->unit, blocks = (k + most - 1) / most;
    return blocks == 0 ? 64 : ((k + blocks - 1) / blocks + 63) / 64 * 64;
}

/* First row of panel i of `panels` that share n rows evenly: no ragged last one. */
static size_t panel_row(size_t n, size_t panels, size_t i)
{
    return n * i / panels;
}

static size_t panels_of(const struct micro *m, size_t n)
{
    return (n + (size_t)m->MR - 1) / (size_t)m->MR;
}

struct panels gemm_own(size_t panels)
{
    size_t thread = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads();
    return (struct panels){panels * thread / threads, panels * (thread + 1) / threads};
}

/* Either way each thread reads and writes other memory.  By columns W is unpacked once; by rows once a thread, but what a thread wrote before and reads
 * after, in norms, SwiGLU and attention, stays in its own cache: two threads without a cache in common lose up to a fifth of a product otherwise. */
bool gemm_by_rows(size_t n)
{
    return n >= OWN_ROWS * (size_t)omp_get_num_threads();
}

/* ---- dense, one thread ---- */

struct dense {
    const struct micro *micro;
    const struct gemm *g;
    bool a_t, b_t; /* A is [k, m]; B is [k, n] */
    real *a, *b;
};

/* Rows i0 .. i0+m-1 of A, columns k0 .. of the contraction, panel after panel. */
static void pack_a(const struct dense *d, size_t i0, size_t m, size_t k0, size_t k)
{
    const struct gemm *g = d->g;
    size_t panels = panels_of(d->micro, m), units = units_of(d->micro, k);
    for (size_t p = 0; p < panels; p++) {
        size_t r0 = panel_row(m, panels, p), rows = panel_row(m, panels, p + 1) - r0;
        real *to = d->a + r0 * units;
        if (d->a_t)
            d->micro->pack_t(to, rows, g->A + k0 * g->lda + i0 + r0, g->lda, rows, k);
        else
            d->micro->pack(to, rows, g->A + (i0 + r0) * g->lda + k0, g->lda, rows, k);
    }
}

static void pack_b(const struct dense *d, size_t j0, size_t n, size_t k0, size_t k)
{
    const struct gemm *g = d->g;
    size_t NR = (size_t)d->micro->NR, units = units_of(d->micro, k);
    for (size_t j = 0; j < n; j += NR) {
        size_t some = size_min(NR, n - j);
        if (d->b_t)
            d->micro->pack_t(d->b + j * units, NR, g->B + k0 * g->ldb + j0 + j, g->ldb, some, k);
        else
            d->micro->pack(d->b + j * units, NR, g->B + (j0 + j) * g->ldb + k0, g->ldb, some, k);
    }
}

static void multiply_block(const struct dense *d, size_t i0, size_t m, size_t j0, size_t n, size_t k, bool add)
{
    const struct gemm *g = d->g;
    size_t NR = (size_t)d->micro->NR, panels = panels_of(d->micro, m), units = units_of(d->micro, k);
    for (size_t j = 0; j < n; j += NR)
        for (size_t p = 0; p < panels; p++) {
            size_t r0 = panel_row(m, panels, p), rows = panel_row(m, panels, p + 1) - r0;
            d->micro->kernel(units, d->a + r0 * units, d->b + j * units, g->C + (i0 + r0) * g->ldc + j0 + j, g->ldc, rows,
                             size_min(NR, n - j), add);
        }
}

static void dense(const struct ops_context *c, const struct gemm *g, bool a_t, bool b_t)
{
    struct dense d = {.micro = micro_of(c), .g = g, .a_t = a_t, .b_t = b_t, .a = a_buffer(c), .b = b_buffer(c)};
    size_t kc = k_block(d.micro, g->k);
    for (size_t k0 = 0; k0 < g->k; k0 += kc)
        for (size_t j0 = 0; j0 < g->n; j0 += NC) {
            size_t k = size_min(kc, g->k - k0), n = size_min(NC, g->n - j0);
            pack_b(&d, j0, n, k0, k);
            for (size_t i0 = 0; i0 < g->m; i0 += MC) {
                size_t m = size_min(MC, g->m - i0);
                if (j0 == 0 || g->m > MC)
                    pack_a(&d, i0, m, k0, k);
                multiply_block(&d, i0, m, j0, n, k, g->add || k0 > 0);
            }
        }
}

void gemm_nn(const struct ops_context *c, struct gemm g)
{
    dense(c, &g, false, true);
}

void gemm_nt(const struct ops_context *c, struct gemm g)
{
    dense(c, &g, false, false);
}

void gemm_tn(const struct ops_context *c, struct gemm g)
{
    dense(c, &g, true, true);
}

/* ---- many rows times a frozen matrix, all threads ---- */

static size_t contraction(const struct product *p)
{
    return p->count > 0 ? p->count : p->transposed ? p->W->rows : p->W->cols;
}

size_t product_rows(const struct micro *micro, size_t reals, size_t k, size_t r)
{
    size_t MR = (size_t)micro->MR;
    return size_max(1, reals / (MR * (units_of(micro, k) + units_of(micro, r)))) * MR;
}

static struct panels own_panels(const struct product *p)
{
    return gemm_own(panels_of(p->micro, p->n));
}

void product_pack(const struct product *p, const real *x, size_t ldx)
{
    size_t panels = panels_of(p->micro, p->n), k = contraction(p), units = units_of(p->micro, k);
    struct panels own = own_panels(p);
    for (size_t i = own.first; i < own.end; i++) {
        size_t r0 = panel_row(p->n, panels, i), rows = panel_row(p->n, panels, i + 1) - r0;
        p->micro->pack(p->packed + r0 * units, rows, x + r0 * ldx, ldx, rows, k);
    }
}

void product_pack_extra(const struct product *p, const real *left, real scale)
{
    enum { SPAN = 64 };
    size_t panels = panels_of(p->micro, p->n), r = p->extra.r, units = units_of(p->micro, r);
    struct panels own = own_panels(p);
    for (size_t i = own.first; i < own.end; i++) {
        size_t r0 = panel_row(p->n, panels, i), rows = panel_row(p->n, panels, i + 1) - r0;
        real scaled[MICRO_MR_MOST * SPAN], *to = p->extra.packed + r0 * units;
        for (size_t j0 = 0; j0 < r; j0 += SPAN) {
            size_t some = size_min(SPAN, r - j0);
            for (size_t row = 0; row < rows; row++)
                for (size_t j = 0; j < some; j++)
                    scaled[row * SPAN + j] = scale * left[(r0 + row) * r + j0 + j];
            p->micro->pack(to + units_of(p->micro, j0) * rows, rows, scaled, SPAN, rows, some);
        }
    }
}

/* One tile of columns [j0, j0 + n): every block of k is unpacked once, NR columns at a time, and multiplied with all these rows. */
static void product_tile(const struct ops_context *c, const struct product *p, struct panels of, size_t j0, size_t n, real *y, size_t ldy, bool add)
{
    const struct micro *m = p->micro;
    size_t NR = (size_t)m->NR, K = contraction(p), kc = k_block(m, K), r = p->extra.r, blocks = (K + kc - 1) / kc;
    size_t panels = panels_of(m, p->n);
    real *b = b_buffer(c);
    for (size_t block = 0; block < blocks + (r > 0); block++) {
        size_t k0 = block < blocks ? block * kc : 0, k = block < blocks ? size_min(kc, K - k0) : r, units = units_of(m, k);
        const real *left = block < blocks ? p->packed : p->extra.packed;
        size_t u0 = k0 / (size_t)m->unit, all = block < blocks ? units_of(m, K) : units;
        for (size_t j = 0; j < n; j += NR) {
            size_t some = size_min(NR, n - j);
            if (block == blocks && p->transposed)
                m->pack_t(b, NR, p->extra.right + j0 + j, p->extra.ld, some, r);
            else if (block == blocks)
                m->pack(b, NR, p->extra.right + (j0 + j) * p->extra.ld, p->extra.ld, some, r);
            else if (p->transposed)
                m->panel_t(b, p->W, j0 + j, some, p->first + k0, k);
            else
                m->panel(b, p->W, j0 + j, some, p->first + k0, k);
            for (size_t i = of.first; i < of.end; i++) {
                size_t r0 = panel_row(p->n, panels, i), rows = panel_row(p->n, panels, i + 1) - r0;
                m->kernel(units, left + r0 * all + u0 * rows, b, y + r0 * ldy + j0 + j, ldy, rows, some, add || block > 0);
            }
        }
    }
}

size_t gemm_tile_columns(const struct ops_context *c, size_t NR, size_t columns)
{
    size_t threads = (size_t)c->threads, rounds = (columns + threads * NC - 1) / (threads * NC);
    return size_min(NC, ((columns + threads * rounds - 1) / (threads * rounds) + NR - 1) / NR * NR);
}

void product_multiply(const struct ops_context *c, const struct product *p, real *y, size_t ldy, bool add)
{
    size_t columns = p->transposed ? p->W->cols : p->W->rows, size = gemm_tile_columns(c, (size_t)p->micro->NR, columns);
    if (gemm_by_rows(p->n)) {
        for (size_t j0 = 0; j0 < columns; j0 += NC)
            product_tile(c, p, own_panels(p), j0, size_min(NC, columns - j0), y, ldy, add);
        return;
    }
#pragma omp for schedule(dynamic) nowait
    for (size_t j0 = 0; j0 < columns; j0 += size)
        product_tile(c, p, (struct panels){0, panels_of(p->micro, p->n)}, j0, size_min(size, columns - j0), y, ldy, add);
}

void product_narrow(const struct ops_context *c, const struct product *p, const real *right, size_t r, real *left)
{
    const struct micro *m = p->micro;
    size_t NR = (size_t)m->NR, K = contraction(p), kc = k_block(m, K), panels = panels_of(m, p->n), all = units_of(m, K);
    size_t most = size_max(1, NC / NR) * NR;
    struct panels own = own_panels(p);
    for (size_t j0 = 0; j0 < r && own.first < own.end; j0 += most)
        for (size_t k0 = 0; k0 < K; k0 += kc) {
            size_t n = size_min(most, r - j0), k = size_min(kc, K - k0), units = units_of(m, k);
            for (size_t j = 0; j < n; j += NR) {
                size_t some = size_min(NR, n - j);
                if (p->transposed)
                    m->pack_t(b_buffer(c) + j * units, NR, right + k0 * r + j0 + j, r, some, k);
                else
                    m->pack(b_buffer(c) + j * units, NR, right + (j0 + j) * K + k0, K, some, k);
            }
            for (size_t j = 0; j < n; j += NR)
                for (size_t i = own.first; i < own.end; i++) {
                    size_t r0 = panel_row(p->n, panels, i), rows = panel_row(p->n, panels, i + 1) - r0;
                    m->kernel(units, p->packed + r0 * all + k0 / (size_t)m->unit * rows, b_buffer(c) + j * units,
                              left + r0 * r + j0 + j, r, rows, size_min(NR, n - j), k0 > 0);
                }
        }
}
