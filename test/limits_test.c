/* limits_test.c: the programs at the edges of the machine: a level that it lacks, more threads than cores, memory that a plan exceeds or that the
 * system refuses on the way, no huge pages.  One sentence on stderr, the exit code, and nothing half-written. */
#include "job.h"

#include <fcntl.h>
#include <stdbool.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "cpu/level.h"

struct fixture {
    struct job_home home;
    char train[512], generate[512];
};

/* What the child does to itself before it becomes the program. */
enum limit { NO_LIMIT, ADDRESS_SPACE, NO_HUGE_PAGES, NO_MADVISE };

struct child {
    const char *level; /* VENEER_CPU, or NULL */
    enum limit limit;
    size_t bytes;      /* ADDRESS_SPACE */
    char said[8192];   /* stderr */
    int code;
};

/* madvise fails with EINVAL, as where the kernel was built without transparent huge pages. */
static bool refuse_madvise(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 22 /* EINVAL */),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog all = {.len = sizeof program / sizeof *program, .filter = program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all) == 0;
}

static bool apply(const struct child *c)
{
    struct rlimit space = {.rlim_cur = c->bytes, .rlim_max = c->bytes};
    if (c->level)
        setenv("VENEER_CPU", c->level, 1);
    switch (c->limit) {
    case ADDRESS_SPACE:
        return setrlimit(RLIMIT_AS, &space) == 0;
    case NO_HUGE_PAGES:
        return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0;
    case NO_MADVISE:
        return refuse_madvise();
    case NO_LIMIT:
        break;
    }
    return true;
}

enum { NOT_HERE = 126 }; /* the limit cannot be set on this machine */

static void become(const struct child *c, const char *program, char **argv)
{
    int said = open("said", O_WRONLY | O_CREAT | O_TRUNC, 0666), nowhere = open("/dev/null", O_WRONLY);
    if (said < 0 || nowhere < 0 || dup2(said, 2) < 0 || dup2(nowhere, 1) < 0 || !apply(c))
        _exit(NOT_HERE);
    execv(program, argv);
    _exit(127);
}

/* Runs a program with arguments up to NULL; what it said, without the last newline. */
static void run(struct child *c, const char *program, ...)
{
    const char *argv[16] = {program};
    int status, n = 0;
    size_t bytes;
    char *text;
    struct err err;
    va_list list;
    va_start(list, program);
    while (n < 15 && argv[n])
        argv[++n] = va_arg(list, const char *);
    va_end(list);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        become(c, program, (char **)(uintptr_t)argv);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status))
        fail_msg("ended by signal %d", WTERMSIG(status));
    c->code = WEXITSTATUS(status);
    assert_int_equal(file_read("said", 1 << 20, &text, &bytes, &err), OK);
    snprintf(c->said, sizeof c->said, "%s", text);
    free(text);
    for (size_t end = strlen(c->said); end > 0 && c->said[end - 1] == '\n'; end--)
        c->said[end - 1] = 0;
}

static const char *last_line(const struct child *c)
{
    const char *newline = strrchr(c->said, '\n');
    return newline ? newline + 1 : c->said;
}

static void check(const struct child *c, int code, const char *sentence)
{
    if (c->code != code || strcmp(last_line(c), sentence) != 0)
        fail_msg("\ncode %d, want %d\n got: %s\nwant: %s", c->code, code, c->said, sentence);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    job_program(f->train, "train");
    job_program(f->generate, "tools/generate");
    *state = f;
    job_open(&f->home);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    job_close(&f->home);
    free(f);
    return 0;
}

/* ---- levels ---- */

/* ", plain, avx2": the levels that this machine has, as sentences list them. */
static void levels_here(char *text, size_t size)
{
    int last = 0;
    size_t n = 0;
    while (level_at(last + 1))
        last++;
    text[0] = 0;
    for (int i = last; i >= 0; i--)
        if (level_at(i)->supported())
            n += (size_t)snprintf(text + n, size - n, ", %s", level_at(i)->name);
}

static void test_unknown_level(void **state)
{
    const struct fixture *f = *state;
    char has[128], sentence[256];
    struct child c = {.level = "sse2"};
    levels_here(has, sizeof has);
    run(&c, f->train, "job.txt", "output_dir=none", NULL);
    snprintf(sentence, sizeof sentence, "train: VENEER_CPU = sse2 is no level, this machine has ref%s", has);
    check(&c, VENEER_INPUT, sentence);
    run(&c, f->train, "base.txt", "output_dir=none", NULL); /* full training goes another way */
    check(&c, VENEER_INPUT, sentence);
    run(&c, f->train, "--plan", "job.txt", NULL);
    check(&c, VENEER_INPUT, sentence);
    run(&c, f->generate, "base/model", "--prompt", "The fox", "-n", "2", NULL);
    snprintf(sentence, sizeof sentence, "generate: VENEER_CPU = sse2 is no level, this machine has ref%s", has);
    check(&c, VENEER_INPUT, sentence);
    assert_int_equal(access("none", F_OK), -1);
}

/* Every level runs where the CPU has it and is refused where it lacks it. */
static void test_each_level(void **state)
{
    const struct fixture *f = *state;
    char has[128], sentence[256];
    levels_here(has, sizeof has);
    for (int i = 0; level_at(i); i++) {
        struct child c = {.level = level_at(i)->name};
        run(&c, f->generate, "base/model", "--prompt", "The fox", "-n", "2", "--quiet", NULL);
        snprintf(sentence, sizeof sentence, "generate: VENEER_CPU = %s: this CPU lacks it, it has ref%s", c.level, has);
        if (level_at(i)->supported())
            check(&c, 0, "");
        else
            check(&c, VENEER_INPUT, sentence);
    }
    struct child c = {.level = "ref"};
    run(&c, f->generate, "base/model", "--prompt", "The fox", "-n", "2", "--quiet", NULL);
    check(&c, 0, "");
}

/* valgrind shows programs a CPU without AVX-512. */
static void test_level_that_the_cpu_lacks(void **state)
{
    const struct fixture *f = *state;
    static const char valgrind[] = "/usr/bin/valgrind";
    struct child c = {.level = "avx512"};
#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
    if (access(valgrind, X_OK) != 0)
        skip();
    setenv("OPENBLAS_NUM_THREADS", "1", 1); /* with OMP_WAIT_POLICY all that programs start again for, which valgrind forbids */
    run(&c, valgrind, "-q", "--tool=none", f->generate, "base/model", "--prompt", "The fox", NULL);
    unsetenv("OPENBLAS_NUM_THREADS");
    check(&c, VENEER_INPUT, "generate: VENEER_CPU = avx512: this CPU lacks it, it has ref, plain, avx2");
}

/* ---- threads ---- */

static void test_threads_out_of_range(void **state)
{
    const struct fixture *f = *state;
    struct child c = {.limit = NO_LIMIT};
    run(&c, f->train, "job.txt", "output_dir=none", "--threads", "-1", NULL);
    check(&c, VENEER_INPUT, "train: command line: threads = -1, want 0 to 1024");
    run(&c, f->train, "job.txt", "output_dir=none", "threads=4096", NULL);
    check(&c, VENEER_INPUT, "train: command line: threads = 4096, want 0 to 1024");
    run(&c, f->train, "job.txt", "output_dir=none", "threads=two", NULL);
    check(&c, VENEER_INPUT, "train: command line: threads = 'two', want a whole number");
    run(&c, f->train, "job.txt", "--threads", NULL);
    check(&c, VENEER_INPUT, "train: a value is missing after '--threads'; train --help lists what there is");
    run(&c, f->generate, "base/model", "--prompt", "The fox", "--threads", "-1", NULL);
    check(&c, VENEER_INPUT, "generate: --threads -1, want a whole number from 0 to 1024");
    run(&c, f->generate, "base/model", "--prompt", "The fox", "--threads", "1025", NULL);
    check(&c, VENEER_INPUT, "generate: --threads 1025, want a whole number from 0 to 1024");
    assert_int_equal(access("none", F_OK), -1);
}

/* One line says so, and the work is done; threads = 0, one a core, has nothing to say. */
static void test_more_threads_than_cores(void **state)
{
    const struct fixture *f = *state;
    struct child c = {.limit = NO_LIMIT};
    char threads[16], says[160], assignment[32];
    int cores = machine_cores(), many = cores + 1;
    snprintf(threads, sizeof threads, "%d", many);
    snprintf(assignment, sizeof assignment, "threads=%d", many);
    run(&c, f->train, "base.txt", "output_dir=many", assignment, NULL);
    snprintf(says, sizeof says, "threads = %d on %d cores: they take turns; threads = 0 is one a core\n", many, cores);
    assert_int_equal(c.code, 0);
    assert_int_equal(job_count(c.said, says), 1);
    run(&c, f->train, "base.txt", "output_dir=own", "threads=0", NULL);
    assert_int_equal(c.code, 0);
    assert_int_equal(job_count(c.said, "threads ="), 0);
    run(&c, f->generate, "base/model", "--prompt", "The fox", "-n", "2", "--threads", threads, NULL);
    snprintf(says, sizeof says, "generate: --threads %d on %d cores: they take turns; --threads 0 is one a core\n", many, cores);
    assert_int_equal(c.code, 0);
    assert_int_equal(job_count(c.said, says), 1);
    run(&c, f->generate, "base/model", "--prompt", "The fox", "-n", "2", "--threads", threads, "--quiet", NULL);
    check(&c, 0, "");
}

/* ---- keys and values ---- */

static void test_cache_types(void **state)
{
    const struct fixture *f = *state;
    struct child c = {.limit = NO_LIMIT};
    run(&c, f->generate, "base/model", "--prompt", "The fox", "--cache-type", "q8_0", NULL);
    check(&c, VENEER_INPUT, "generate: --cache-type q8_0, want f16 or f32");
    run(&c, f->generate, "base/model", "--prompt", "The fox", "--cache-type", NULL);
    check(&c, VENEER_INPUT, "generate: --cache-type without a value");
    run(&c, f->generate, "base/model", "--prompt", "The fox", "-n", "2", "--quiet", "--cache-type", "f32", NULL);
    check(&c, 0, "");
}

/* ---- memory ---- */

/* Both numbers; with gradient_checkpointing = auto the smallest plan recomputes, and one byte more than it needs is enough. */
static void test_max_memory_below_the_smallest_plan(void **state)
{
    const struct fixture *f = *state;
    struct child c = {.limit = NO_LIMIT};
    double plan, most;
    char enough[48];
    run(&c, f->train, "job.txt", "output_dir=none", "max_memory=1M", NULL);
    assert_int_equal(c.code, VENEER_MEMORY);
    assert_int_equal(sscanf(last_line(&c), "train: the smallest plan takes %lf MB, max_memory = %lf MB", &plan, &most), 2);
    assert_true(most > 0.99 && most < 1.06 && plan > most); /* 1M is 1024 x 1024 bytes, a MB of the sentence 1e6 */
    run(&c, f->train, "--plan", "job.txt", "max_memory=1M", NULL);
    assert_int_equal(c.code, VENEER_MEMORY);
    run(&c, f->train, "job.txt", "output_dir=none", "max_memory=1M", "gradient_checkpointing=no", NULL);
    assert_int_equal(c.code, VENEER_MEMORY);
    assert_int_equal(sscanf(last_line(&c), "train: the plan takes %lf MB, max_memory = %lf MB", &plan, &most), 2);
    assert_int_equal(access("none", F_OK), -1);
    snprintf(enough, sizeof enough, "max_memory=%.0f", plan * 1.1e6); /* the program itself is measured, and differs by some pages */
    run(&c, f->train, "--plan", "job.txt", enough, NULL);
    assert_int_equal(c.code, 0);
}

static void assert_same_file(const char *a, const char *b, const char *name)
{
    char first[128], second[128], *x, *y;
    size_t n, m;
    struct err err;
    snprintf(first, sizeof first, "%s/%s", a, name);
    snprintf(second, sizeof second, "%s/%s", b, name);
    assert_int_equal(file_read(first, 1 << 26, &x, &n, &err), OK);
    assert_int_equal(file_read(second, 1 << 26, &y, &m, &err), OK);
    if (n != m || memcmp(x, y, n) != 0)
        fail_msg("%s and %s differ", first, second);
    free(x);
    free(y);
}

static void assert_same_result(const char *a, const char *b)
{
    static const char *const names[] = {"model/model.safetensors", "adapter/adapter_model.safetensors", "model.gguf", "eval/results.json",
                                        "search/journal.jsonl"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_same_file(a, b, names[i]);
}

/* No file of the results is there unless it is whole: half-made ones have names of their own. */
static void assert_nothing_half_written(const char *dir)
{
    static const char *const whole[] = {"model/model.safetensors", "adapter/adapter_model.safetensors", "model.gguf"};
    char path[128];
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, whole[i]);
        if (access(path, F_OK) == 0)
            assert_same_file("free", dir, whole[i]);
    }
}

/* The job in so much address space: true when it ends well, else exit 3 and one sentence. */
static bool fits(const struct fixture *f, size_t bytes, const char *dir)
{
    struct child c = {.limit = ADDRESS_SPACE, .bytes = bytes};
    char output_dir[64];
    snprintf(output_dir, sizeof output_dir, "output_dir=%s", dir);
    run(&c, f->train, "job.txt", output_dir, "--quiet", NULL);
    if (c.code == 127 || strncmp(c.said, "OpenBLAS", 8) == 0) /* the dynamic linker's word, a library's: main was not reached */
        return false;
    if (c.code != 0 && (c.code != VENEER_MEMORY || strncmp(c.said, "train: ", 7) != 0 || strchr(c.said, '\n')))
        fail_msg("%zu bytes: code %d: %s", bytes, c.code, c.said);
    assert_nothing_half_written(dir);
    return c.code == 0;
}

/* Address space from what the program needs to start to what the job needs, in large steps and, where it nearly fits, in small ones that end in the
 * middle of the work.  The job goes on from there when there is more. */
static void test_memory_refused_on_the_way(void **state)
{
    const struct fixture *f = *state;
    const size_t MIB = 1 << 20;
    struct child free_run = {.limit = NO_LIMIT};
    size_t enough = 32 * MIB;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* their shadows take terabytes of addresses */
#endif
    run(&free_run, f->train, "job.txt", "output_dir=free", NULL);
    assert_int_equal(free_run.code, 0);
    while (!fits(f, enough, "large-steps")) {
        enough += 16 * MIB;
        assert_true(enough < 1024 * MIB);
    }
    for (size_t bytes = enough - 16 * MIB; bytes < enough && !fits(f, bytes, "small-steps");)
        bytes += MIB;
    assert_same_result("free", "large-steps");
    run(&free_run, f->train, "job.txt", "output_dir=small-steps", NULL);
    assert_int_equal(free_run.code, 0);
    assert_same_result("free", "small-steps");
}

/* ---- huge pages ---- */

/* A machine whose huge pages are off, and one whose kernel has never heard of them: small pages do. */
static void test_without_huge_pages(void **state)
{
    const struct fixture *f = *state;
    static const enum limit limits[] = {NO_HUGE_PAGES, NO_MADVISE};
    static const char *const dirs[] = {"output_dir=off", "output_dir=unknown"};
    struct child c = {.limit = NO_LIMIT};
    int tried = 0;
    run(&c, f->train, "job.txt", "output_dir=large-pages", NULL);
    assert_int_equal(c.code, 0);
    for (int i = 0; i < 2; i++) {
        struct child without = {.limit = limits[i]};
        run(&without, f->train, "job.txt", dirs[i], "--quiet", NULL);
        if (without.code == NOT_HERE)
            continue;
        check(&without, 0, "");
        assert_same_result("large-pages", strchr(dirs[i], '=') + 1);
        tried++;
    }
    if (tried == 0)
        skip();
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_level),
        cmocka_unit_test(test_each_level),
        cmocka_unit_test(test_level_that_the_cpu_lacks),
        cmocka_unit_test(test_threads_out_of_range),
        cmocka_unit_test(test_more_threads_than_cores),
        cmocka_unit_test(test_cache_types),
        cmocka_unit_test(test_max_memory_below_the_smallest_plan),
        cmocka_unit_test(test_memory_refused_on_the_way),
        cmocka_unit_test(test_without_huge_pages),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
