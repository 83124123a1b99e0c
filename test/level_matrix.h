/* level_matrix.h: matrices in every number format, in panels and as files lay them, every buffer of which ends at a page that may not be touched; and the
 * tests of a file for every level (cpu/level.h).  Defined TEST_ALONE: without cmocka. */
#ifndef VENEER_TEST_LEVEL_MATRIX_H
#define VENEER_TEST_LEVEL_MATRIX_H
#ifdef TEST_ALONE
#include "alone.h"
#else
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/size.h"
#include "cpu/level.h"
#include "quant_affine.h"
#include "quant_ggml.h"
#include "quant_panel.h"
#include "random_blocks.h"
#include "rounding.h"
#include "walled.h"

/* What no kernel may read into a result: it would make it NaN. */
static inline float *poison(struct walls *walls, size_t n)
{
    float *x = walled(walls, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

/* rows x cols normal numbers, rows ld apart, NaN between them. */
static inline float *normals(struct walls *walls, size_t rows, size_t cols, size_t ld, uint32_t step)
{
    struct rng rng = {.seed = 7, .stream = RNG_INIT, .step = step};
    float *x = poison(walls, (rows - 1) * ld + cols);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            x[i * ld + j] = (float)rng_normal(&rng);
    return x;
}

struct variant {
    enum format format;
    int block; /* 0: the default */
    bool double_quant;
};
static const struct variant variants[] = {
    {FORMAT_F32, 0, false},     {FORMAT_F16, 0, false},  {FORMAT_BF16, 0, false}, {FORMAT_NF4, 0, false},  {FORMAT_FP4, 0, false},
    {FORMAT_INT8, 0, false},    {FORMAT_INT8_64, 0, false}, {FORMAT_NF8, 0, false},  {FORMAT_Q4_0, 0, false}, {FORMAT_Q4_1, 0, false},
    {FORMAT_Q5_0, 0, false},    {FORMAT_Q5_1, 0, false}, {FORMAT_Q8_0, 0, false}, {FORMAT_NF4, 32, false}, {FORMAT_NF4, 4096, false},
    {FORMAT_FP4, 128, false},   {FORMAT_NF4, 0, true},   {FORMAT_FP4, 0, true},    {FORMAT_HQQ2, 0, false}, {FORMAT_HQQ3, 0, false},
    {FORMAT_HQQ4, 0, false},     {FORMAT_IQ4_NL, 0, false}, {FORMAT_IQ4_XS, 0, false}, {FORMAT_Q2_K, 0, false}, {FORMAT_Q3_K, 0, false},
    {FORMAT_Q4_K, 0, false},     {FORMAT_Q5_K, 0, false}, {FORMAT_Q6_K, 0, false},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

struct matrix {
    struct walls walls;
    struct qmat q;
    float *value; /* [rows, cols], decoded from the layout of files */
    double largest; /* |value| */
    float *large; /* [rows, cols]: |value|, and more where a format is a difference of larger numbers */
};

static inline size_t code_bytes(enum format f, size_t n)
{
    switch (f) {
    case FORMAT_F32: return 4 * n;
    case FORMAT_F16:
    case FORMAT_BF16: return 2 * n;
    case FORMAT_NF4:
    case FORMAT_FP4: return (n + 1) / 2;
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4: return quant_affine_bytes(f, n);
    default: return format_is_ggml(f) ? quant_ggml_size(f, n) : n;
    }
}

/* Places by hand what quant_place would, so that every part has its own wall. */
static inline void place(struct matrix *M, const struct variant *v, size_t rows, size_t cols, bool panels)
{
    size_t n = rows * cols, block = (size_t)(v->block ? v->block : format_info(v->format)->default_block);
    size_t blocks = v->format == FORMAT_INT8 ? rows : block && !format_is_ggml(v->format) ? (n + block - 1) / block : 0;
    M->q = (struct qmat){.format = v->format, .block = (int32_t)block, .double_quant = v->double_quant, .rows = rows, .cols = cols};
    size_t room = panels ? quant_panel_room(v->format, (int)block, rows, cols) : 0;
    M->q.codes = walled(&M->walls, room > 0 ? room : code_bytes(v->format, n));
    if (v->double_quant) {
        M->q.scale_codes = walled(&M->walls, blocks);
        M->q.nested_absmax = walled(&M->walls, (blocks + 255) / 256 * sizeof(float));
    } else if (quant_affine_bits(v->format))
        M->q.affine = walled(&M->walls, blocks * 2 * sizeof(uint16_t));
    else if (blocks)
        M->q.scales = walled(&M->walls, blocks * sizeof(float));
}

/* q4_0's values are code - 8, q4_1's and affine groups' code * scale + minimum; a kernel may sum the parts one by one. */
static inline void fill_large(struct matrix *M)
{
    size_t cols = M->q.cols;
    for (size_t i = 0; i < M->q.rows * cols; i++)
        M->large[i] = fabsf(M->value[i]), M->largest = fmax(M->largest, (double)M->large[i]);
    bool centred = M->q.format == FORMAT_Q4_0 || M->q.format == FORMAT_Q3_K;
    if (!M->q.panels)
        return;
    for (size_t p = 0; p < M->q.rows / PANEL_ROWS; p++)
        for (size_t k = 0; k < cols; k++) {
            float scale[PANEL_ROWS], minimum[PANEL_ROWS];
            quant_panel_scales(&M->q, p, k, scale, minimum);
            for (size_t r = 0; r < PANEL_ROWS; r++)
                M->large[(p * PANEL_ROWS + r) * cols + k] += centred ? 16 * fabsf(scale[r]) : 2 * fabsf(minimum[r]);
        }
}

static inline void matrix_open(struct matrix *M, const struct variant *v, size_t rows, size_t cols, bool panels)
{
    struct err err;
    memset(M, 0, sizeof *M);
    place(M, v, rows, cols, panels);
    M->value = walled(&M->walls, rows * cols * sizeof(float));
    M->large = walled(&M->walls, rows * cols * sizeof(float));
    if (format_info(v->format)->read_only)
        random_blocks(v->format, M->q.codes, rows * cols, 4);
    else
        assert_int_equal(quant_encode(&M->q, normals(&M->walls, rows, cols, cols, 4), false, &err), OK);
    quant_decode_rows(&M->q, 0, rows, M->value);
    if (panels)
        assert_int_equal(quant_to_panels(&M->q, &err), OK);
    assert_int_equal(M->q.panels, panels && quant_has_panels(v->format, M->q.block, rows, cols));
    fill_large(M);
}

static inline const char *name_of(const struct matrix *M)
{
    return format_info(M->q.format)->name;
}

/* ---- a file's tests for every level ---- */

struct level_case {
    const char *name;
    void (*run)(void **state); /* *state is the level */
};

static inline int run_levels(const struct level_case *cases, int n_cases)
{
    enum { MOST = 64 };
    struct CMUnitTest tests[MOST] = {{0}}; /* cmocka passes over what has no name */
    char names[MOST][64];
    int n = 0;
    for (int i = 0; level_at(i); i++)
        for (int c = 0; c < n_cases && n < MOST; c++, n++) {
            snprintf(names[n], sizeof names[n], "%s_%s", level_at(i)->name, cases[c].name);
            tests[n] = (struct CMUnitTest){.name = names[n], .test_func = cases[c].run, .initial_state = (void *)(uintptr_t)level_at(i)};
        }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
