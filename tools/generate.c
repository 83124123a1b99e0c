/* generate.c: the roof of generation: a prompt, a chat or a benchmark -> text on stdout as it is made. */
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "generate.h"
#include "inference.h"
#include "tools/roof.h"

static const char usage[] =
    "usage: generate MODEL [--adapter DIR] --prompt TEXT | --prompt-file F | --chat | --bench [options]\n"
    "\n"
    "MODEL: a Hugging Face folder, a .gguf file, the model/ folder that train wrote, or a llama2.c .bin.\n"
    "\n"
    "  --prompt TEXT       the text to continue, names of special tokens (<|im_start|>) are those tokens; it is printed before its\n"
    "                      continuation\n"
    "  --prompt-file F     the same from a file; - is stdin\n"
    "  --chat              a conversation: one line of stdin a turn, in the form of the model's chat template\n"
    "  --chat-template T   another form: chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, gemma, phi3,\n"
    "                      one that the model has by that name (tool_use ...), or a file of Jinja\n"
    "  --system TEXT       the system's message that the conversation begins with\n"
    "  --bench             tokens/s of a prompt (pp) and of generation (tg), as a table\n"
    "  -n N                tokens to make at most; 0: until the context is full (128)\n"
    "  --temperature T     0: always the likeliest token (0.8)\n"
    "  --top-k K           only the K likeliest; 0: all (40)\n"
    "  --top-p P           only the likeliest that together hold P (0.95)\n"
    "  --seed S            of the draws: same seed, same text (0)\n"
    "  --threads N         0: one a core (0)\n"
    "  --compute-dtype T   f32, bf16, int8 (reads prompts faster, with 8-bit activations; on a GPU it is bf16), or auto: bf16 or\n"
    "                      what this CPU has that is at least as exact (auto)\n"
    "  --cache-type T      f16 or f32: keys and values of the context, 16 bits in half the memory, or exact (f16)\n"
    "  --device D          cuda: the GPU (docs/cuda.md); cpu; auto: the GPU if there is one that can be used (auto)\n"
    "  --quiet             no speed on stderr at the end\n"
    "  --help, --version\n"
    "\n"
    "environment: VENEER_CPU = avx512_bf16, avx512, avx2, neon, plain or ref: kernels of that instruction set instead of the best that\n"
    "             the CPU has; ref is the plain C that all of them are held to, slow\n"
    "exit: 0 done, 1 failed, 2 wrong usage or input, 3 not enough memory, 75 stopped\n";

struct options {
    const char *model, *adapter, *prompt, *prompt_file, *chat_template, *system, *device, *compute_dtype, *cache;
    enum format cache_type;
    struct ops_context kernels;
    long long n, top_k, seed, threads;
    double temperature, top_p;
    bool chat, bench, quiet;
};

/* ---- command line ---- */

static enum status parse_number(const char *name, const char *value, double low, double high, double *out, struct err *err)
{
    char *end;
    double x = value ? strtod(value, &end) : 0;
    if (!value || end == value || *end || !(x >= low && x <= high))
        return err_set(err, ERR_INPUT, "%s %s, want a number from %g to %g", name, value ? value : "without a value", low, high);
    *out = x;
    return OK;
}

/* An option with a value; *found tells whether argv[*i] is one. */
static enum status parse_valued(int argc, char **argv, int *i, struct options *o, bool *found, struct err *err)
{
    struct {
        const char *name, **text;
        long long *number;
        double *real_number, low, high;
    } table[] = {{"--adapter", &o->adapter, NULL, NULL, 0, 0},
                 {"--prompt", &o->prompt, NULL, NULL, 0, 0},
                 {"--prompt-file", &o->prompt_file, NULL, NULL, 0, 0},
                 {"--chat-template", &o->chat_template, NULL, NULL, 0, 0},
                 {"--system", &o->system, NULL, NULL, 0, 0},
                 {"--device", &o->device, NULL, NULL, 0, 0},
                 {"--compute-dtype", &o->compute_dtype, NULL, NULL, 0, 0},
                 {"--cache-type", &o->cache, NULL, NULL, 0, 0},
                 {"-n", NULL, &o->n, NULL, 0, 1 << 30},
                 {"--top-k", NULL, &o->top_k, NULL, 0, 1 << 30},
                 {"--seed", NULL, &o->seed, NULL, 0, 9e15},
                 {"--threads", NULL, &o->threads, NULL, 0, 1024},
                 {"--temperature", NULL, NULL, &o->temperature, 0, 100},
                 {"--top-p", NULL, NULL, &o->top_p, 0, 1}};
    for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
        const char *value;
        if (!roof_option(argc, argv, i, table[k].name, &value))
            continue;
        *found = true;
        if (table[k].number)
            return roof_int(table[k].name, value, (long long)table[k].low, (long long)table[k].high, table[k].number, err);
        if (table[k].real_number)
            return parse_number(table[k].name, value, table[k].low, table[k].high, table[k].real_number, err);
        if (!value)
            return err_set(err, ERR_INPUT, "%s without a value", table[k].name);
        *table[k].text = value;
        return OK;
    }
    return OK;
}

static enum status parse_cache_type(const char *name, enum format *type, struct err *err)
{
    if (strcmp(name, "f16") != 0 && strcmp(name, "f32") != 0)
        return err_set(err, ERR_INPUT, "--cache-type %s, want f16 or f32", name);
    *type = strcmp(name, "f16") == 0 ? FORMAT_F16 : FORMAT_F32;
    return OK;
}

static enum status parse(int argc, char **argv, struct options *o, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        bool found = false;
        TRY(parse_valued(argc, argv, &i, o, &found, err));
        if (found)
            continue;
        if (strcmp(argv[i], "--chat") == 0)
            o->chat = true;
        else if (strcmp(argv[i], "--bench") == 0)
            o->bench = true;
        else if (strcmp(argv[i], "--quiet") == 0)
            o->quiet = true;
        else if (argv[i][0] == '-' && argv[i][1])
            return err_set(err, ERR_INPUT, "unknown option '%s'; --help lists what there is", argv[i]);
        else if (o->model)
            return err_set(err, ERR_INPUT, "a second model '%s'", argv[i]);
        else
            o->model = argv[i];
    }
    if (!o->model)
        return err_set(err, ERR_INPUT, "no model is named; --help says how");
    if ((o->prompt != NULL) + (o->prompt_file != NULL) + o->chat + o->bench != 1)
        return err_set(err, ERR_INPUT, "want one of --prompt, --prompt-file, --chat and --bench");
    if (!o->chat && (o->chat_template || o->system))
        return err_set(err, ERR_INPUT, "%s is of --chat", o->system ? "--system" : "--chat-template");
    TRY(parse_cache_type(o->cache, &o->cache_type, err));
    return roof_kernels(o->device, o->compute_dtype, &o->kernels, err);
}

/* ---- text out ---- */

/* copy: gets the text too, or NULL. */
static enum status print(struct text *text, struct text *copy, struct err *err)
{
    bool good = text->n == 0 || (fwrite(text->s, 1, text->n, stdout) == text->n && fflush(stdout) == 0);
    if (copy && text->n)
        text_add(copy, text->s, text->n);
    text_clear(text);
    return good ? OK : err_set(err, ERR_FAILED, "standard output cannot be written");
}

struct speed {
    size_t prompt, made;
    double prompt_s, made_s;
};

/* Makes up to n tokens behind what the generator holds; each is printed as soon as its characters are whole.  talk: the conversation whose answer
 * this is, or NULL; answer: gets all that was printed, or NULL. */
static enum status continue_text(struct generator *g, const struct tokenizer *tokenizer, const struct conversation *talk, size_t n, struct text *answer,
                                 struct speed *speed, struct err *err)
{
    struct text_stream stream = {0};
    struct text text = {0};
    double start = clock_s();
    enum status status = text_stream_start(&stream, tokenizer, g->held, g->cache.n, err);
    size_t made = 0;
    while (status == OK && made < n) {
        int32_t token;
        status = generator_sample(g, &token, err);
        if (status != OK || (talk ? conversation_is_end(talk, g, token) : generator_is_end(g, token)))
            break;
        made++;
        status = text_stream_add(&stream, token, &text, err);
        if (status == OK)
            status = print(&text, answer, err);
        if (status == OK && made < n)
            status = generator_feed(g, &token, 1, err);
    }
    if (status == OK)
        status = text_stream_end(&stream, &text, err);
    if (status == OK)
        status = print(&text, answer, err);
    speed->made += made;
    speed->made_s += clock_s() - start;
    text_stream_free(&stream);
    text_free(&text);
    return status;
}

static void report_speed(const struct options *o, const struct speed *s)
{
    if (!o->quiet)
        fprintf(stderr, "generate: prompt %zu tokens, %.1f/s; made %zu tokens, %.1f/s\n", s->prompt,
                (double)s->prompt / fmax(s->prompt_s, 1e-9), s->made, (double)s->made / fmax(s->made_s, 1e-9));
}

static enum status open_generator(struct generator *g, const struct options *o, const struct inference *in, size_t context,
                                  struct err *err)
{
    TRY(generator_open(g, &in->model, inference_lora(in), context, o->cache_type, &in->ops, err));
    g->sampler.temperature = o->temperature;
    g->sampler.top_k = (int32_t)o->top_k;
    g->sampler.top_p = o->top_p;
    g->sampler.rng.seed = (uint64_t)o->seed;
    return OK;
}

static enum status end_line(struct err *err)
{
    return putchar('\n') == EOF || fflush(stdout) != 0 ? err_set(err, ERR_FAILED, "standard output cannot be written") : OK;
}

/* ---- a prompt ---- */

enum { MOST_PROMPT = 1 << 26 }; /* bytes */

static enum status read_stream(FILE *stream, struct text *out, struct err *err)
{
    char buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, stream)) > 0;) {
        text_add(out, buffer, n);
        if (out->n > MOST_PROMPT)
            return err_set(err, ERR_INPUT, "the prompt has more than %d bytes", MOST_PROMPT);
    }
    return out->failed ? err_set(err, ERR_MEMORY, "out of memory for the prompt") : OK;
}

static enum status read_prompt(const struct options *o, struct text *out, struct err *err)
{
    char *text;
    size_t n;
    if (o->prompt)
        text_puts(out, o->prompt);
    else if (strcmp(o->prompt_file, "-") == 0)
        TRY(read_stream(stdin, out, err));
    else {
        TRY(file_read(o->prompt_file, MOST_PROMPT, &text, &n, err));
        text_add(out, text, n);
        free(text);
    }
    if (o->prompt_file && out->n > 0 && out->s[out->n - 1] == '\n') /* editors end a file with one */
        out->s[--out->n] = 0;
    return out->failed ? err_set(err, ERR_MEMORY, "out of memory for the prompt") : OK;
}

static enum status generate_tokens(const struct options *o, const struct inference *in, struct text *prompt, const struct tokens *tokens,
                                   struct err *err)
{
    struct generator g;
    struct speed speed = {0};
    size_t most = (size_t)in->model.config.max_position_embeddings, n = (size_t)o->n;
    if (tokens->n == 0)
        return err_set(err, ERR_INPUT, "the prompt has no tokens, and this vocabulary has no token that begins a text");
    if (tokens->n >= most)
        return err_set(err, ERR_INPUT, "the prompt has %zu tokens, the model's context holds %zu with what it makes", tokens->n, most);
    n = n == 0 || n > most - tokens->n ? most - tokens->n : n;
    TRY(open_generator(&g, o, in, tokens->n + n, err));
    enum status status = print(prompt, NULL, err);
    double start = clock_s();
    if (status == OK)
        status = generator_feed(&g, tokens->id, tokens->n, err);
    speed = (struct speed){.prompt = tokens->n, .prompt_s = clock_s() - start};
    if (status == OK)
        status = continue_text(&g, in->tokenizer, NULL, n, NULL, &speed, err);
    generator_close(&g);
    if (status == OK)
        status = end_line(err);
    if (status == OK)
        report_speed(o, &speed);
    return status;
}

/* Names of special tokens are those tokens, as in llama.cpp and transformers. */
static enum status encode_prompt(const struct tokenizer *tokenizer, const struct text *prompt, struct tokens *tokens, struct err *err)
{
    int32_t bos = tokenizer_bos_for(tokenizer, prompt->n == 0 ? 1 : -1); /* a text without words still begins somewhere */
    return tokenizer_encode_bos(tokenizer, bos, prompt->s ? prompt->s : "", prompt->n, tokens, err);
}

static enum status run_prompt(const struct options *o, const struct inference *in, struct err *err)
{
    struct text prompt = {0};
    struct tokens tokens = {0};
    enum status status = read_prompt(o, &prompt, err);
    if (status == OK)
        status = encode_prompt(in->tokenizer, &prompt, &tokens, err);
    if (status == OK)
        status = generate_tokens(o, in, &prompt, &tokens, err);
    text_free(&prompt);
    tokens_free(&tokens);
    return status;
}

/* ---- a conversation ---- */

enum { CHAT_CONTEXT = 4096 };

static enum status chat_answer(const struct options *o, const struct inference *in, struct generator *g, struct conversation *talk, const char *line,
                               struct err *err)
{
    struct text answer = {0};
    struct speed speed = {0};
    double start = clock_s();
    TRY(conversation_say(talk, "user", line, err));
    TRY(conversation_feed(talk, g, &speed.prompt, err));
    speed.prompt_s = clock_s() - start;
    size_t left = g->cache.capacity - g->cache.n, n = o->n == 0 || (size_t)o->n > left ? left : (size_t)o->n;
    text_puts(&answer, "");
    enum status status = continue_text(g, in->tokenizer, talk, n, &answer, &speed, err);
    if (status == OK && answer.failed)
        status = err_set(err, ERR_MEMORY, "out of memory for an answer");
    if (status == OK)
        status = conversation_say(talk, "assistant", answer.s, err);
    if (status == OK)
        status = end_line(err);
    if (status == OK)
        report_speed(o, &speed);
    text_free(&answer);
    return status;
}

static enum status answer_lines(const struct options *o, const struct inference *in, struct generator *g, struct conversation *talk, struct err *err)
{
    char *line = NULL;
    size_t cap = 0;
    bool person = isatty(STDIN_FILENO);
    enum status status = OK;
    while (status == OK) {
        if (person)
            fputs("> ", stderr);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        if (n > 0 && line[n - 1] == '\n')
            line[n - 1] = 0;
        if (*line && !utf8_is_name(line, strlen(line)))
            status = err_set(err, ERR_INPUT, "a line of the conversation is no UTF-8 text");
        else if (*line)
            status = chat_answer(o, in, g, talk, line, err);
    }
    free(line);
    return status == OK ? stop_check(err) : status;
}

static enum status open_template(const struct options *o, const struct inference *in, struct chat_template **template, struct err *err)
{
    char *named = NULL;
    if (o->chat_template)
        TRY(chat_template_read(o->chat_template, in->tokenizer, &named, err));
    else
        TRY(chat_template_first(in->tokenizer, err));
    const char *source = named ? named : tokenizer_chat_template(in->tokenizer);
    enum status status = source ? chat_template_open(template, source, named ? o->chat_template : "the model's chat template", in->tokenizer, err)
                                : err_set(err, ERR_INPUT, "the model has no chat template; give one by --chat-template (%s, or a file), or use --prompt",
                                          chat_template_names);
    free(named);
    return status;
}

static enum status run_chat(const struct options *o, const struct inference *in, struct err *err)
{
    struct generator g;
    struct conversation talk = {0};
    struct chat_template *template;
    size_t most = (size_t)in->model.config.max_position_embeddings;
    TRY(open_template(o, in, &template, err));
    enum status status = conversation_open(&talk, template, err);
    if (status == OK && o->system)
        status = conversation_say(&talk, "system", o->system, err);
    if (status == OK)
        status = open_generator(&g, o, in, most < CHAT_CONTEXT ? most : CHAT_CONTEXT, err);
    if (status == OK) {
        status = answer_lines(o, in, &g, &talk, err);
        generator_close(&g);
    }
    conversation_free(&talk);
    chat_template_free(template);
    return status;
}

/* ---- a benchmark, its table in the form of llama.cpp's llama-bench ---- */

enum { BENCH_PROMPT = 512, BENCH_MADE = 128, BENCH_RUNS = 3, STREAM_BYTES = 1 << 28 };

/* Bytes/s that all threads together read from memory: the best of three sums over 256 MiB. */
static enum status measure_reading(int threads, double *bandwidth, struct err *err)
{
    size_t n = STREAM_BYTES / sizeof(uint64_t);
    uint64_t *x = malloc(STREAM_BYTES), sum = 0;
    if (!x)
        return err_set(err, ERR_MEMORY, "out of memory for %d bytes to measure the bandwidth with", STREAM_BYTES);
#pragma omp parallel for num_threads(threads)
    for (size_t i = 0; i < n; i++)
        x[i] = i;
    *bandwidth = 0;
    for (int run = 0; run < 3; run++) {
        double start = clock_s();
#pragma omp parallel for num_threads(threads) reduction(+ : sum)
        for (size_t i = 0; i < n; i++)
            sum += x[i];
        *bandwidth = fmax(*bandwidth, STREAM_BYTES / (clock_s() - start));
    }
    volatile uint64_t keep = sum; /* or the sums would be optimized away */
    (void)keep;
    free(x);
    return OK;
}

/* Bytes/s of copies within a device's memory, each byte read and written: the best of three times eight of 256 MiB. */
static enum status measure_copies(struct device *device, double *bandwidth, struct err *err)
{
    enum { COPIES = 8 };
    struct arena memory = {0};
    arena_take(&memory, 2, STREAM_BYTES);
    TRY(device_commit(device, &memory, "memory to measure the bandwidth with", err));
    enum status status = OK;
    *bandwidth = 0;
    for (int run = 0; status == OK && run < 3; run++) {
        double start = clock_s();
        for (int i = 0; i < COPIES; i++)
            device_copy(device, memory.base, 0, memory.base + STREAM_BYTES, 0, STREAM_BYTES, 1);
        status = device_check(device, err);
        *bandwidth = fmax(*bandwidth, 2.0 * COPIES * STREAM_BYTES / (clock_s() - start));
    }
    device_release(device, &memory);
    return status;
}

/* Seconds for n tokens at once, or for n one by one, in an empty context. */
static enum status time_tokens(struct generator *g, size_t n, bool at_once, double *seconds, struct err *err)
{
    int32_t tokens[BENCH_PROMPT];
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(i * 31 % (size_t)g->model->config.vocab_size);
    g->cache.n = 0;
    double start = clock_s();
    for (size_t i = 0; i < n; i += at_once ? n : 1)
        TRY(generator_feed(g, tokens + i, at_once ? n : 1, err));
    *seconds = clock_s() - start;
    return OK;
}

static enum status bench_row(struct generator *g, const char *model, size_t n, bool at_once, double bandwidth, struct text *table,
                             struct err *err)
{
    double speed[BENCH_RUNS], mean = 0, squares = 0, bytes = generator_weight_bytes(g->model);
    struct plan_storage storage = {.embed = g->model->embed.format, .head = g->model->head.format, .float_bits = 32};
    double size = (double)plan_bytes(&g->model->plan, &g->model->config, &storage);
    double parameters = (double)plan_parameters(&g->model->plan, &g->model->config);
    TRY(time_tokens(g, n < 8 ? n : 8, at_once, &speed[0], err)); /* wakes threads and caches */
    for (int i = 0; i < BENCH_RUNS; i++) {
        TRY(time_tokens(g, n, at_once, &speed[i], err));
        speed[i] = (double)n / speed[i];
        mean += speed[i] / BENCH_RUNS;
    }
    for (int i = 0; i < BENCH_RUNS; i++)
        squares += (speed[i] - mean) * (speed[i] - mean) / (BENCH_RUNS - 1);
    text_printf(table, "| %-30.30s | %7.2f MiB | %8.2f M | %-7s | %7d | %s%-5zu | %9.2f ± %.2f |", model, size / 1048576,
                parameters / 1e6, g->ops.device ? "CUDA" : "CPU", g->ops.threads, at_once ? "pp" : "tg", n, mean, sqrt(squares));
    if (at_once)
        text_puts(table, "      |     |\n");
    else /* every token reads every weight once */
        text_printf(table, " %5.2f | %3.0f |\n", mean * bytes / 1e9, 100 * mean * bytes / bandwidth);
    return OK;
}

static enum status run_bench(const struct options *o, const struct inference *in, struct err *err)
{
    struct generator g;
    struct text table = {0};
    size_t most = (size_t)in->model.config.max_position_embeddings;
    size_t prompt = most < BENCH_PROMPT ? most : BENCH_PROMPT, made = most < BENCH_MADE ? most : BENCH_MADE;
    double bandwidth = 0;
    const char *slash = strrchr(o->model, '/'), *name = slash && slash[1] ? slash + 1 : o->model;
    struct device *device = in->ops.device;
    TRY(device ? measure_copies(device, &bandwidth, err) : measure_reading(in->ops.threads, &bandwidth, err));
    TRY(open_generator(&g, o, in, prompt, err));
    text_puts(&table, "| model                          |        size |     params | backend | threads | test    |             t/s | "
                      " GB/s | % |\n"
                      "| ------------------------------ | ----------: | ---------: | ------- | ------: | ------: | --------------: | "
                      "----: | --: |\n");
    enum status status = bench_row(&g, name, prompt, true, bandwidth, &table, err);
    if (status == OK)
        status = bench_row(&g, name, made, false, bandwidth, &table, err);
    if (device)
        text_printf(&table, "\nmemory bandwidth just measured: %.1f GB/s (copies on the GPU %s); %% is of that\n", bandwidth / 1e9, device_name(device));
    else
        text_printf(&table, "\nmemory bandwidth just measured: %.1f GB/s (reading, %d threads); %% is of that\n", bandwidth / 1e9, in->ops.threads);
    if (status == OK)
        status = table.failed ? err_set(err, ERR_MEMORY, "out of memory for the table") : print(&table, NULL, err);
    text_free(&table);
    generator_close(&g);
    return status;
}

int main(int argc, char **argv)
{
    struct options o = {.device = "auto", .compute_dtype = "auto", .cache = "f16", .n = 128, .temperature = 0.8, .top_k = 40, .top_p = 0.95};
    struct inference in;
    struct err err = {{0}};
    roof_start(argv);
    int code;
    if (roof_asked(argc, argv, usage, &code))
        return code;
    stop_install();
    enum status status = parse(argc, argv, &o, &err);
    if (status != OK)
        return roof_fail("generate", status, &err);
    roof_threads("generate", o.threads, o.quiet);
    roof_device("generate", &o.kernels, o.quiet);
    const struct inference_options open = {.adapter = o.adapter, .threads = (int)o.threads, .compute = o.kernels.compute, .device = o.kernels.device};
    status = inference_open(&in, o.model, &open, &err);
    if (status == OK)
        status = (o.chat ? run_chat : o.bench ? run_bench : run_prompt)(&o, &in, &err);
    inference_close(&in);
    use_device_close(&o.kernels);
    return status == OK ? 0 : roof_fail("generate", status, &err);
}
