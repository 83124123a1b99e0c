/* refused.h: the whole sentence of a refusal, and files made in a test. */
#ifndef VENEER_TEST_REFUSED_H
#define VENEER_TEST_REFUSED_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"

/* The status is `want` and the sentence, after the folder DIR/ where it begins with it, is `text` to the letter. */
static inline void assert_refused(enum status got, enum status want, const struct err *err, const char *dir, const char *text)
{
    const char *said = err->text;
    size_t n = strlen(dir);
    if (n && strncmp(said, dir, n) == 0)
        said += n + (said[n] == '/');
    if (got != want)
        print_message("status %d, want %d, for: %s\n", got, want, text);
    assert_int_equal(got, want);
    assert_string_equal(said, text);
}

/* A folder of the test's own. */
static inline void make_folder(char dir[64])
{
    strcpy(dir, "/tmp/veneer-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static inline void put_file(const char *dir, const char *name, const void *bytes, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_true(file && fwrite(bytes, 1, n, file) == n);
    assert_int_equal(fclose(file), 0);
}

/* A test's setup and teardown: a folder of its own, whose path is *state. */
static inline int own_folder(void **state)
{
    char dir[64];
    make_folder(dir);
    *state = strdup(dir);
    return *state ? 0 : -1;
}

static inline int drop_folder(void **state)
{
    dir_remove(*state);
    free(*state);
    return 0;
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, own_folder, drop_folder)

/* A group's setup and teardown: a folder of its own is where it runs; *state is its path. */
static inline int enter_folder(void **state)
{
    static char dir[64];
    make_folder(dir);
    *state = dir;
    return chdir(dir);
}

static inline int leave_folder(void **state)
{
    if (chdir("/") != 0)
        return -1;
    dir_remove(*state);
    return 0;
}

#endif
