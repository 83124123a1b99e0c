/* base_test.c: the ground floor.  What a user would lose if it broke: memory that is counted, another order of the data, a stop that is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/stop.h"
#include "base/text.h"

/* ---- err ---- */

static void err_escapes_control_bytes(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(err_set(&err, ERR_INPUT, "%s: bad", "a\x1b[31mb\nc\x7f"), ERR_INPUT);
    assert_string_equal(err.text, "a\\x1b[31mb\\x0ac\\x7f: bad");
    assert_int_equal(err_prefix(&err, ERR_FAILED, "line %d", 7), ERR_FAILED);
    assert_string_equal(err.text, "line 7: a\\x1b[31mb\\x0ac\\x7f: bad");
    assert_int_equal(err_set(NULL, ERR_BUSY, "nobody listens"), ERR_BUSY);
    char long_name[4000];
    memset(long_name, '\n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    err_set(&err, ERR_INPUT, "%s", long_name);
    assert_in_range(strlen(err.text), 1000, sizeof err.text - 1);
}

/* ---- sizes and the arena ---- */

static void sizes_refuse_overflow(void **state)
{
    (void)state;
    uint64_t out = 42;
    assert_false(size_mul(1ull << 32, 1ull << 32, &out));
    assert_false(size_add(UINT64_MAX, 1, &out));
    assert_false(size_align(UINT64_MAX - 3, 64, &out));
    assert_false(size_align(10, 48, &out));
    assert_int_equal(out, 42);
    assert_true(size_align(65, 64, &out));
    assert_int_equal(out, 128);
}

static void place(struct arena *arena, unsigned char **a, double **b)
{
    *a = arena_take(arena, 3, 1);
    *b = arena_take(arena, 100, sizeof **b);
}

static void arena_counts_what_it_carves(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct err err;
    unsigned char *a;
    double *b;
    place(&arena, &a, &b);
    assert_null(a);
    size_t counted = arena.used;
    assert_int_equal(counted, 64 + 832); /* 3 -> 64, 800 -> 832: multiples of 64 */
    assert_int_equal(arena_commit(&arena, "test", &err), OK);
    place(&arena, &a, &b);
    assert_int_equal(arena.used, counted);
    assert_false(arena.overflow);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_int_equal((uintptr_t)b % 64, 0);
    for (int i = 0; i < 100; i++)
        assert_true(b[i] == 0);
    assert_null(arena_take(&arena, 1, 1)); /* more than was counted */
    assert_true(arena.overflow);
    arena_free(&arena);
    assert_null(arena.base);
}

static void arena_refuses_what_does_not_fit(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct err err;
    arena_take(&arena, SIZE_MAX / 2, 4);
    assert_int_equal(arena_commit(&arena, "weights", &err), ERR_MEMORY);
    assert_non_null(strstr(err.text, "weights"));
    struct arena large = {0};
    arena_take(&large, SIZE_MAX / 4, 1); /* fits size_t, not the address space */
    assert_int_equal(arena_commit(&large, "activations", &err), ERR_MEMORY);
    assert_non_null(strstr(err.text, "activations"));
}

/* ---- random numbers ---- */

static void philox_known_answers(void **state)
{
    (void)state;
    /* Random123, kat_vectors, philox4x32 with 10 rounds */
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        philox4x32(kat[i], kat[i] + 4, out);
        assert_memory_equal(out, kat[i] + 6, sizeof out);
    }
    uint32_t counter[4] = {5, 1, 9, RNG_INIT}, key[2] = {0xdeadbeef, 7}, out[4];
    philox4x32(counter, key, out); /* the mapping that the header draws */
    for (uint64_t lane = 0; lane < 4; lane++)
        assert_int_equal(rng_at(0x7deadbeefull, RNG_INIT, 9, ((1ull << 32 | 5) * 4) + lane), out[lane]);
}

static void rng_is_a_function_of_its_place(void **state)
{
    (void)state;
    struct rng a = {.seed = 3, .stream = RNG_SAMPLE, .step = 2}, b = a;
    for (int i = 0; i < 10; i++)
        rng_next(&a);
    b.index = 10;
    assert_int_equal(rng_next(&a), rng_next(&b));
    struct rng c = {.seed = 1, .stream = RNG_INIT};
    double sum = 0, squares = 0;
    enum { N = 20000 };
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&c);
        sum += x;
        squares += x * x;
    }
    assert_int_equal(c.index, 2 * N);
    /* standard errors: 1/sqrt(N) = 0.0071 of the mean, sqrt(2/N) = 0.01 of the variance; five of each */
    assert_true(fabs(sum / N) <= 0.036);
    assert_true(fabs(squares / N - 1) <= 0.05);
}

static void rng_below_has_no_bias(void **state)
{
    (void)state;
    struct rng rng = {.seed = 11, .stream = RNG_SEARCH};
    const uint32_t n = 3u << 30; /* x % n without rejection would give the lower third twice as often */
    int low = 0;
    enum { N = 6000 };
    for (int i = 0; i < N; i++) {
        uint32_t x = rng_below(&rng, n);
        assert_true(x < n);
        low += x < (1u << 30);
    }
    /* a third of N with a standard deviation of sqrt(N 2/9) = 36.5; five of them.  The biased one would be at 3000 */
    assert_in_range(low, 2000 - 183, 2000 + 183);
}

static void shuffle_is_a_permutation_by_epoch(void **state)
{
    (void)state;
    uint32_t a[257], b[257], seen[257] = {0};
    for (uint32_t i = 0; i < 257; i++)
        a[i] = b[i] = i;
    struct rng first = {.seed = 5, .stream = RNG_DATA_ORDER, .step = 0}, second = {.seed = 5, .stream = RNG_DATA_ORDER, .step = 1};
    rng_shuffle(&first, a, 257);
    rng_shuffle(&second, b, 257);
    for (int i = 0; i < 257; i++)
        seen[a[i]]++;
    for (int i = 0; i < 257; i++)
        assert_int_equal(seen[i], 1);
    assert_memory_not_equal(a, b, sizeof a);
}

/* ---- text ---- */

static void text_escapes(void **state)
{
    (void)state;
    struct text text = {0};
    text_json_string(&text, "a\"b\\\n\t\x01\xc3\xa9", 9);
    assert_string_equal(text.s, "\"a\\\"b\\\\\\n\\t\\u0001\xc3\xa9\"");
    text_clear(&text);
    text_html(&text, "<a href=\"x\">&");
    assert_string_equal(text.s, "&lt;a href=&quot;x&quot;&gt;&amp;");
    text_clear(&text);
    for (int i = 0; i < 1000; i++)
        text_printf(&text, "%d,", i);
    assert_int_equal(text.n, strlen(text.s));
    assert_int_equal(text.n, 10 * 2 + 90 * 3 + 900 * 4);
    assert_false(text.failed);
    text_clear(&text);
    for (int single = 0; single < 2; single++, text_puts(&text, " "))
        text_number(&text, (double)0.1f, single);
    text_number(&text, 1e-6, false);
    assert_string_equal(text.s, "0.10000000149011612 0.1 1e-06");
    text_free(&text);
}

/* ---- checksums ---- */

static void checksums_known_answers(void **state)
{
    (void)state;
    unsigned char zeros[32] = {0}, ones[32];
    memset(ones, 255, sizeof ones);
    /* RFC 3720, B.4, and the check value of the catalogue */
    assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    /* FIPS 180-4 examples: one block, two blocks, a million 'a' in odd pieces */
    struct sha256 s;
    char hex[65];
    sha256_init(&s);
    sha256_hex(&s, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_init(&s);
    sha256_add(&s, "abc", 3);
    sha256_hex(&s, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_init(&s);
    sha256_add(&s, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    sha256_hex(&s, hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char piece[1000];
    memset(piece, 'a', sizeof piece);
    sha256_init(&s);
    for (size_t left = 1000000, n = 1; left > 0; left -= n) {
        n = (n * 7 + 3) % 999 + 1;
        n = n < left ? n : left;
        sha256_add(&s, piece, n);
    }
    sha256_hex(&s, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* ---- signals, memory ---- */

static void a_signal_is_a_flag(void **state)
{
    (void)state;
    struct err err;
    stop_install();
    stop_reset();
    assert_int_equal(stop_check(&err), OK);
    assert_int_equal(raise(SIGTERM), 0);
    assert_true(stop_requested());
    assert_int_equal(stop_check(&err), ERR_STOPPED);
    stop_reset();
    assert_false(stop_requested());
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        stop_install();
        raise(SIGTERM);
        raise(SIGTERM); /* the second ends the process */
        _exit(0);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGTERM);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
}

/* Two threads on one core wait for each other at every barrier: what a container or taskset leaves to the process is what counts. */
static void cores_are_those_that_the_process_may_use(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(machine_cores(), CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(machine_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void peak_memory_sees_what_was_touched(void **state)
{
    (void)state;
    enum { N = 64 << 20 };
    struct arena arena = {0};
    struct err err;
    double before = process_now_bytes();
    arena_take(&arena, N, 1);
    assert_int_equal(arena_commit(&arena, "test", &err), OK);
    memset(arena.base, 1, N);
    assert_true(process_peak_bytes() - before >= 0.95 * N);
    assert_true(process_now_bytes() <= process_peak_bytes() + 1048576); /* the kernel batches its counters */
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_escapes_control_bytes),
        cmocka_unit_test(sizes_refuse_overflow),
        cmocka_unit_test(arena_counts_what_it_carves),
        cmocka_unit_test(arena_refuses_what_does_not_fit),
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(rng_is_a_function_of_its_place),
        cmocka_unit_test(rng_below_has_no_bias),
        cmocka_unit_test(shuffle_is_a_permutation_by_epoch),
        cmocka_unit_test(text_escapes),
        cmocka_unit_test(checksums_known_answers),
        cmocka_unit_test(a_signal_is_a_flag),
        cmocka_unit_test(cores_are_those_that_the_process_may_use),
        cmocka_unit_test(peak_memory_sees_what_was_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
