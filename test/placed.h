/* placed.h: a matrix in a number format, with memory of its own.  Include after cmocka.h. */
#ifndef VENEER_TEST_PLACED_H
#define VENEER_TEST_PLACED_H
#include <string.h>

#include "quant.h"

struct placed {
    struct qmat q;
    struct arena arena; /* arena_free by who placed it */
};

static inline void place(struct placed *p, enum format format, int block, bool twice, size_t rows, size_t cols)
{
    struct err err;
    memset(p, 0, sizeof *p);
    quant_place(&p->q, format, block, twice, rows, cols, &p->arena);
    assert_int_equal(arena_commit(&p->arena, "test", &err), OK);
    quant_place(&p->q, format, block, twice, rows, cols, &p->arena);
}

#endif
