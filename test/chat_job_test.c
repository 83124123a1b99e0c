/* chat_job_test.c: a job on conversations: the template that was trained with is in everything that is written, and said in the log. */
#include "base/text.h"
#include "io/checkpoint.h"
#include "io/chat_template.h"
#include "job.h"

static const char talks[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"What does the fox eat?\"}, {\"role\": \"assistant\", \"content\": \"The fox eats seeds.\"}]}\n"
                            "{\"messages\": [{\"role\": \"user\", \"content\": \"What does the owl eat?\"}, {\"role\": \"assistant\", \"content\": \"The owl eats flies.\"}]}\n";

static char *text_of(const char *path)
{
    char *text;
    size_t n;
    struct err err;
    if (file_read(path, 1 << 26, &text, &n, &err) != OK)
        fail_msg("%s", err.text);
    return text;
}

static void assert_template(const char *path, const char *source)
{
    struct checkpoint *c;
    const struct tokenizer *tokenizer;
    struct err err = {{0}};
    assert_int_equal(checkpoint_open(&c, path, &err), OK);
    assert_int_equal(checkpoint_tokenizer(c, &tokenizer, &err), OK);
    assert_string_equal(tokenizer_chat_template(tokenizer), source);
    checkpoint_close(c);
}

static void keep_line(void *user, const char *text)
{
    text_puts(user, text);
    text_puts(user, "\n");
}

/* The log holds `says`. */
static void run(const char *model, const char *output, const char *template, const char *says)
{
    struct text log = {0};
    struct veneer *job;
    char assignments[10][128] = {"dataset=talks.jsonl", "eval_data=", "eval_tasks=", "objective=auto", "search=none", "pruning_ratio=0", "max_steps=1"};
    snprintf(assignments[7], 128, "model=%s", model);
    snprintf(assignments[8], 128, "output_dir=%s", output);
    snprintf(assignments[9], 128, "chat_template=%s", template);
    assert_int_equal(veneer_new(&job), 0);
    veneer_log(job, keep_line, &log);
    int code = veneer_read(job, "job.txt");
    for (int i = 0; i < 10 && !code; i++)
        code = veneer_set(job, assignments[i], "test");
    if (code || veneer_run(job))
        fail_msg("%s", veneer_error(job));
    if (!strstr(log.s, says))
        fail_msg("'%s' is not in the log: %s", says, log.s);
    veneer_free(job);
    text_free(&log);
}

/* A model without a template, tuned by one that is named; its output, tuned by the template that it now carries; that one by a file. */
static void template_is_carried(void **state)
{
    (void)state;
    static const char own[] = "{% for m in messages %}{{ m.content ~ eos_token }}{% endfor %}";
    job_write("talks.jsonl", talks);
    job_write("own.jinja", own);
    run("base/model", "named", "zephyr", "data: 2 examples (messages, zephyr), ");
    assert_template("named/model", chat_template_known("zephyr"));
    assert_template("named/model.gguf", chat_template_known("zephyr"));
    char *text = text_of("named/adapter/chat_template.jinja");
    assert_string_equal(text, chat_template_known("zephyr"));
    free(text);
    run("named/model", "kept", "", "data: 2 examples (messages, the model's chat template), ");
    assert_template("kept/model", chat_template_known("zephyr"));
    run("named/model", "file", "own.jinja", "own.jinja), ");
    assert_template("file/model", own);
    assert_template("file/model.gguf", own);
    run("base/model", "none", "", "data: 2 examples (messages, as ChatML: the model has no chat template), ");
    assert_int_not_equal(access("none/adapter/chat_template.jinja", F_OK), 0);
}

/* One of the model's own by its name; conversations with tools by the one named tool_use; none without a name. */
static void by_its_own_name(void **state)
{
    (void)state;
    char sentence[1024];
    static const char rag[] = "{% for m in messages %}rag {{ m.content ~ eos_token }}{% endfor %}";
    static const char tools[] = "{% for m in messages %}{{ tools|tojson ~ m.content ~ eos_token }}{% endfor %}";
    static const char with_tools[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}], \"tools\": [{\"n\": 1}]}\n";
    job_write("talks.jsonl", talks);
    run("base/model", "own", "zephyr", "zephyr");
    assert_int_equal(mkdir("own/model/additional_chat_templates", 0700), 0);
    job_write("own/model/additional_chat_templates/rag.jinja", rag);
    run("own/model", "rag", "rag", "data: 2 examples (messages, rag), ");
    assert_template("rag/model", rag);
    char *text = text_of("rag/adapter/additional_chat_templates/rag.jinja");
    assert_string_equal(text, rag);
    free(text);
    job_write("own/model/additional_chat_templates/tool_use.jinja", "{{ raise_exception('with tools') }}");
    run("own/model", "plain", "", "data: 2 examples (messages, the model's chat template), ");
    job_write("talks.jsonl", with_tools);
    assert_int_equal(job_run(sentence, "job.txt", "model=own/model", "dataset=talks.jsonl", "output_dir=bad", NULL), ERR_INPUT);
    assert_string_equal(sentence, "talks.jsonl:1: the model's chat template tool_use: line 1: the template refuses this conversation: with tools");
    job_write("own/model/additional_chat_templates/tool_use.jinja", tools);
    job_write("talks.jsonl", talks);
    assert_int_equal(job_run(sentence, "job.txt", "model=own/model", "dataset=talks.jsonl", "chat_template=ragg", "output_dir=bad", NULL), ERR_INPUT);
    assert_string_equal(sentence, "the chat template is no file and none of rag, tool_use, chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, "
                                  "gemma, phi3: ragg: No such file or directory");
    unlink("own/model/chat_template.jinja");
    unlink("own/model/tokenizer.gguf");
    unlink("own/model/tokenizer.json");
    unlink("own/model/tokenizer_config.json");
    assert_int_equal(job_run(sentence, "job.txt", "model=own/model", "dataset=talks.jsonl", "output_dir=bad", NULL), ERR_INPUT);
    assert_string_equal(sentence, "the model has chat templates with names and none that is the default; choose one (--chat-template, chat_template) of rag, tool_use, chatml, "
                                  "llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, gemma, phi3");
}

static void nothing_to_take(void **state)
{
    (void)state;
    char sentence[1024];
    assert_int_equal(job_run(sentence, "job.txt", "dataset=talks.jsonl", "chat_template=model", "output_dir=bad", NULL), ERR_INPUT);
    assert_string_equal(sentence, "chat_template = model, and the model has none; choose one of chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, "
                                  "alpaca, gemma, phi3, or a file");
    assert_int_equal(job_run(sentence, "job.txt", "dataset=talks.jsonl", "chat_template=chatmll", "output_dir=bad", NULL), ERR_INPUT);
    assert_string_equal(sentence, "the chat template is no file and none of chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, gemma, phi3: "
                                  "chatmll: No such file or directory");
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(template_is_carried), cmocka_unit_test(by_its_own_name), cmocka_unit_test(nothing_to_take)};
    return cmocka_run_group_tests(tests, job_setup, job_teardown);
}
