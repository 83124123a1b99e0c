/* quant_cut_test.c: rows and columns cut out of a matrix in every format: what falls between blocks is moved and changes no value, what divides them is encoded
 * anew as it would be alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "blocks_model.h"
#include "quant_cut.h"
#include "quant_panel.h"

enum { ROWS = 24, COLS = 768 };

static void place(struct qmat *q, enum format format, bool twice, size_t rows, size_t cols, struct arena *arena)
{
    quant_place(q, format, 0, twice, rows, cols, arena);
    CHECK(arena_commit(arena, "a matrix", &err));
    quant_place(q, format, 0, twice, rows, cols, arena);
}

/* The values of the rows and columns that stay. */
static void chosen(const struct qmat *q, const struct quant_units *rows, const struct quant_units *cols, real *out)
{
    real row[COLS];
    for (size_t r = 0; r < rows->n * rows->width; r++) {
        quant_decode_rows(q, (size_t)rows->unit[r / rows->width] * rows->width + r % rows->width, 1, row);
        for (size_t c = 0; c < cols->n * cols->width; c++)
            *out++ = row[(cols->unit ? (size_t)cols->unit[c / cols->width] : c / cols->width) * cols->width + c % cols->width];
    }
}

static void cut_case(enum format format, bool twice, size_t width, size_t height)
{
    static const int32_t column[] = {0, 2}, line[] = {1, 3, 4};
    struct quant_units rows = {line, 3, height}, cols = {column, 2, width};
    if (width == 0)
        cols = (struct quant_units){NULL, COLS, 1};
    size_t m = 3 * height, n = cols.n * cols.width, atom = quant_atom(format, twice || format == FORMAT_NF4 ? 64 : 0, twice, COLS);
    bool moved = atom > 0 && (width == 0 || width % atom == 0);
    struct arena a = {0}, b = {0}, c = {0};
    struct qmat from, to, alone;
    enum format becomes = moved ? format : quant_fallback(format, n);
    place(&from, format, twice, ROWS, COLS, &a);
    blocks_fill(&from, 7);
    place(&to, becomes, twice, m, n, &b);
    place(&alone, becomes, twice, m, n, &c);
    real *want = malloc(m * n * sizeof *want), *got = malloc(m * n * sizeof *got);
    chosen(&from, &rows, &cols, want);
    CHECK(quant_cut(&to, &from, &rows, &cols, &err));
    if (!moved) {
        CHECK(quant_encode(&alone, want, false, &err));
        quant_decode_rows(&alone, 0, m, want);
    }
    quant_decode_rows(&to, 0, m, got);
    if (memcmp(got, want, m * n * sizeof *got) != 0)
        fail_msg("%s, columns by %zu, rows by %zu, %s: other values", format_info(format)->name, width, height, moved ? "moved" : "encoded anew");
    free(want);
    free(got);
    arena_free(&a);
    arena_free(&b);
    arena_free(&c);
}

static void every_format(void **state)
{
    (void)state;
    static const size_t widths[] = {0, 8, 32, 64, 128, 256};
    for (int f = 0; f < FORMAT_COUNT; f++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (size_t height = 1; height <= 4; height += 3) {
                cut_case((enum format)f, false, widths[w], height);
                if (format_info((enum format)f)->double_quant)
                    cut_case((enum format)f, true, widths[w], height);
            }
}

/* Into F32, out of the layout of files or out of panels: the values that stay. */
static void into_floats(void **state)
{
    (void)state;
    enum { ALL = 32 }; /* rows: two panels */
    static const int32_t column[] = {0, 3, 4, 7, 11}, line[] = {1, 2, 9, 30};
    const struct quant_units rows = {line, 4, 1}, some = {column, 5, 64}, all = {NULL, COLS, 1};
    for (int f = 0; f < FORMAT_COUNT; f++) {
        struct arena a = {0};
        struct qmat from, to;
        place(&from, (enum format)f, false, ALL, COLS, &a);
        blocks_fill(&from, 8);
        for (int k = 0; k < 4; k++) {
            const struct quant_units *cols = k % 2 ? &some : &all;
            struct arena b = {0};
            real want[4 * COLS];
            size_t n = cols->n * cols->width;
            chosen(&from, &rows, cols, want);
            place(&to, FORMAT_F32, false, 4, n, &b);
            if (k == 2)
                CHECK(quant_to_panels(&from, &err));
            CHECK(quant_cut(&to, &from, &rows, cols, &err));
            assert_memory_equal(to.codes, want, 4 * n * sizeof *want);
            arena_free(&b);
        }
        arena_free(&a);
    }
}

/* llama.cpp's table (tensor_type_fallback in llama-quant.cpp). */
static void falls_back_as_llama_cpp(void **state)
{
    (void)state;
    static const enum format pairs[][2] = {{FORMAT_Q2_K, FORMAT_IQ4_NL}, {FORMAT_Q3_K, FORMAT_IQ4_NL}, {FORMAT_IQ4_XS, FORMAT_IQ4_NL}, {FORMAT_Q4_K, FORMAT_Q5_0},
                                           {FORMAT_Q5_K, FORMAT_Q5_1},   {FORMAT_Q6_K, FORMAT_Q8_0},   {FORMAT_Q4_0, FORMAT_Q4_0},     {FORMAT_NF4, FORMAT_NF4}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_int_equal(quant_fallback(pairs[i][0], 96), pairs[i][1]);
        assert_int_equal(quant_fallback(pairs[i][0], 72), pairs[i][0] == FORMAT_NF4 ? FORMAT_NF4 : FORMAT_F16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_format), cmocka_unit_test(into_floats), cmocka_unit_test(falls_back_as_llama_cpp)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
