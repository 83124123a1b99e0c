/* Every fuzz target over its corpus: what a fuzzer once found interesting stays harmless.
 * A target is build/CONFIG/fuzz/fuzz_NAME (`make fuzzers` builds it), its corpus test/fuzz/corpus/NAME. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* build/CONFIG of this very program, which is build/CONFIG/test/fuzz_replay_test. */
static void build_folder(char path[512])
{
    ssize_t n = readlink("/proc/self/exe", path, 511);
    assert_true(n > 0);
    path[n] = 0;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(path, '/');
        assert_non_null(slash);
        *slash = 0;
    }
}

static int run(const char *program, const char *corpus)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, corpus, (char *)NULL);
        _exit(127);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void every_corpus_is_harmless(void **state)
{
    (void)state;
    char build[512], program[1024], corpus[1024];
    int targets = 0;
    build_folder(build);
    DIR *dir = opendir("test/fuzz/corpus");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(program, sizeof program, "%s/fuzz/fuzz_%s", build, entry->d_name);
        snprintf(corpus, sizeof corpus, "test/fuzz/corpus/%s", entry->d_name);
        int code = run(program, corpus);
        if (code != 0)
            print_message("%s %s: exit code %d%s\n", program, corpus, code, code == 127 ? " (make fuzzers)" : "");
        assert_int_equal(code, 0);
        targets++;
    }
    closedir(dir);
    assert_true(targets > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_corpus_is_harmless)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
