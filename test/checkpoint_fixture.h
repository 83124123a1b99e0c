/* checkpoint_fixture.h: a tiny model on disk, and what is said when it is opened. */
#ifndef VENEER_TEST_CHECKPOINT_FIXTURE_H
#define VENEER_TEST_CHECKPOINT_FIXTURE_H
#include "dir.h"

#include "io/checkpoint.h"

/* One layer of 2 heads of 4 and 1 key-value head, width 8, FFN 8, 5 pieces. */
enum { C = 8, Q = 8, K = 4, F = 8, V = 5 };

static float numbers[256]; /* what all tensors are filled from: n / 16 */

static inline void fill_numbers(void)
{
    for (size_t i = 0; i < 256; i++)
        numbers[i] = (float)i / 16;
}

static inline enum status open_named(struct checkpoint **c, const char *name, struct err *err)
{
    char path[256];
    snprintf(path, sizeof path, "%s%s%s", dir, *name ? "/" : "", name);
    return checkpoint_open(c, path, err);
}

/* What is said when DIR/name (the folder itself for "") is opened. */
static inline void refused(const char *name, const char *sentence)
{
    struct checkpoint *c;
    struct err err = {""};
    enum status got = open_named(&c, name, &err);
    const char *said = strncmp(err.text, dir, strlen(dir)) == 0 && err.text[strlen(dir)] == ':' ? err.text + strlen(dir) + 2 : NULL;
    if (said) /* messages about a folder begin with it */
        assert_string_equal(said, sentence);
    else
        assert_refused(got, ERR_INPUT, &err, dir, sentence);
    assert_int_equal(got, ERR_INPUT);
    assert_null(c);
}

#endif
