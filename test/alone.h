/* alone.h: the few names of cmocka that level_test.c and level_matrix.h use, for machines that are only emulated and have no cmocka. */
#ifndef VENEER_TEST_ALONE_H
#define VENEER_TEST_ALONE_H
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    void *initial_state;
};

enum alone_end { ALONE_SKIPPED = 1, ALONE_FAILED = 2 };

static jmp_buf alone_out; /* of the test that runs */

#define alone_check(is_true, text)                                                                                     \
    do {                                                                                                               \
        if (!(is_true)) {                                                                                              \
            printf("%s:%d: %s\n", __FILE__, __LINE__, text);                                                           \
            longjmp(alone_out, ALONE_FAILED);                                                                          \
        }                                                                                                              \
    } while (0)
#define assert_true(a) alone_check(a, #a)
#define assert_non_null(a) alone_check((a) != NULL, #a)
#define assert_int_equal(a, b) alone_check((a) == (b), #a " = " #b)
#define assert_in_range(a, low, high) alone_check((a) >= (low) && (a) <= (high), #a)
#define print_error(...) printf(__VA_ARGS__)
#define skip() longjmp(alone_out, ALONE_SKIPPED)

static inline int alone_one(const struct CMUnitTest *test)
{
    void *state = test->initial_state;
    int end = setjmp(alone_out);
    if (end == 0)
        test->test_func(&state);
    return end;
}

static inline int alone_run(const struct CMUnitTest *tests, size_t n)
{
    static const char *const verdict[] = {"      OK", " SKIPPED", "  FAILED"};
    int count[3] = {0};
    for (size_t i = 0; i < n; i++)
        if (tests[i].name) {
            int end = alone_one(&tests[i]);
            count[end]++;
            printf("[ %s ] %s\n", verdict[end], tests[i].name);
            fflush(stdout);
        }
    printf("%d passed, %d failed, %d skipped\n", count[0], count[ALONE_FAILED], count[ALONE_SKIPPED]);
    return count[ALONE_FAILED] > 0;
}
#define cmocka_run_group_tests(tests, setup, teardown) alone_run(tests, sizeof(tests) / sizeof *(tests))

#endif
