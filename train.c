/* train.c: the roof of the main job: argv -> veneer.h -> text and exit code. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/stop.h"
#include "tools/roof.h"
#include "veneer.h"

static const char usage[] =
    "usage: train [options] config.txt [key=value ...]\n"
    "\n"
    "Prunes a LLaMA-family model, searches a bit-width for every layer, fine-tunes LoRA adapters on the quantized\n"
    "model, evaluates it and writes model, adapter, GGUF and report.html into output_dir.  Run the same command\n"
    "again after any stop: it goes on where it stopped.\n"
    "\n"
    "  --plan          print the plan, the bytes of the file and of each memory lifetime; take none of them\n"
    "  --print-config  print every key with its value and where it came from\n"
    "  --threads N     the same as threads=N\n"
    "  --device D      the same as device=D (auto, cpu, cuda)\n"
    "  --quiet         no progress lines\n"
    "  --help          this, and every key\n"
    "  --version\n"
    "\n"
    "environment: VENEER_CPU = avx512_bf16, avx512, avx2, neon, plain or ref: kernels of that instruction set instead of the best that\n"
    "             the CPU has; ref is the plain C that all of them are held to, slow\n"
    "exit: 0 done, 1 failed, 2 wrong usage or input, 3 not enough memory, 4 output_dir in use, 75 stopped and saved\n"
    "\n"
    "keys of config.txt:\n";

struct options {
    const char *config;
    bool plan, print_config, quiet, help, version;
};

/* Progress: one line a report on stderr. */
static void print_line(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "%s\n", text);
}

static int fail(const struct veneer *job, int code)
{
    fprintf(stderr, "train: %s\n", veneer_error(job));
    return code;
}

static int complain(const char *what, const char *argument)
{
    fprintf(stderr, "train: %s '%s'; train --help lists what there is\n", what, argument);
    return VENEER_INPUT;
}

static int set(struct veneer *job, const char *key, const char *value)
{
    char assignment[256];
    snprintf(assignment, sizeof assignment, "%s=%s", key, value);
    int code = veneer_set(job, assignment, "command line");
    return code ? fail(job, code) : 0;
}

/* First pass: options and the file; assignments wait until the file has been read. */
static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        bool threads = strcmp(a, "--threads") == 0, device = strcmp(a, "--device") == 0;
        if (threads || device) {
            if (i + 1 >= argc)
                return complain("a value is missing after", a);
            i++;
        } else if (strcmp(a, "--plan") == 0)
            o->plan = true;
        else if (strcmp(a, "--print-config") == 0)
            o->print_config = true;
        else if (strcmp(a, "--quiet") == 0)
            o->quiet = true;
        else if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)
            o->help = true;
        else if (strcmp(a, "--version") == 0)
            o->version = true;
        else if (a[0] == '-')
            return complain("unknown option", a);
        else if (!strchr(a, '=')) {
            if (o->config)
                return complain("a second configuration file", a);
            o->config = a;
        }
    }
    return 0;
}

/* Second pass: what the command line says over the file. */
static int assign(struct veneer *job, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int code = 0;
        if (strcmp(argv[i], "--threads") == 0 || strcmp(argv[i], "--device") == 0) {
            code = set(job, argv[i] + 2, argv[i + 1]);
            i++;
        } else if (argv[i][0] != '-' && strchr(argv[i], '=')) {
            code = veneer_set(job, argv[i], "command line");
            if (code)
                fail(job, code);
        }
        if (code)
            return code;
    }
    return 0;
}

/* Text to stdout; a full disk or a closed pipe is an error, not silence. */
static int print(const char *text)
{
    if (fputs(text, stdout) < 0 || fflush(stdout) != 0) {
        fprintf(stderr, "train: standard output cannot be written\n");
        return VENEER_FAILED;
    }
    return 0;
}

static int show(struct veneer *job, const struct options *o)
{
    const char *text = NULL;
    int code = o->print_config ? veneer_print_config(job, &text) : veneer_plan(job, &text);
    int printed = text ? print(text) : 0;
    return code ? fail(job, code) : printed;
}

static int run(struct veneer *job, int argc, char **argv)
{
    struct options o = {0};
    const char *text;
    int code = parse(argc, argv, &o);
    if (code)
        return code;
    if (o.version)
        return printf("veneer %s\n", veneer_version()) < 0;
    if (o.help)
        return veneer_help(job, &text) ? fail(job, VENEER_FAILED) : print(usage) || print(text);
    if (!o.config) {
        fprintf(stderr, "usage: train [--plan | --print-config] config.txt [key=value ...]; train --help says more\n");
        return VENEER_INPUT;
    }
    if (!o.quiet)
        veneer_log(job, print_line, NULL);
    if ((code = veneer_read(job, o.config)))
        return fail(job, code);
    if ((code = assign(job, argc, argv)))
        return code;
    if (o.print_config || o.plan)
        return show(job, &o);
    code = veneer_run(job);
    return code ? fail(job, code) : 0;
}

int main(int argc, char **argv)
{
    roof_start(argv);
    stop_install();
    struct veneer *job;
    if (veneer_new(&job)) {
        fprintf(stderr, "train: no memory to start\n");
        return VENEER_MEMORY;
    }
    int code = run(job, argc, argv);
    veneer_free(job);
    return code;
}
