/* evaluate_generate.c: documents whose answers the model writes: greedy decoding with kept keys and values, stop strings, exact match.
 *
 * Rules: EleutherAI/lm-evaluation-harness, generate_until of models/huggingface.py, RegexFilter, the metric exact_match.
 * What it is not: what counts of an answer is decided in io/tasks_rules.h. */
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "evaluate_private.h"
#include "generate.h"

/* ---- made ready ---- */

enum status evaluate_ready_prompt(struct evaluate_set *set, struct ready *ready, struct written *w, const struct task *task, const struct task_doc *doc,
                                  const struct encoder *e, struct err *err)
{
    struct tokens tokens = {0};
    char where[512];
    *ready = (struct ready){.idx = doc->idx, .n_choices = 0};
    w->pattern = doc->pattern;
    w->target = strdup(doc->answer);
    if (!w->target)
        return err_set(err, ERR_MEMORY, "out of memory for a document");
    enum status status = evaluate_encode_context(&tokens, e, doc->context[0], strlen(doc->context[0]), err);
    size_t most = (size_t)task->rules->max_gen_toks;
    if (status == OK && tokens.n == 0)
        status = err_set(err, ERR_INPUT, "%s: the prompt has no token", evaluate_where(task, doc, where));
    if (status == OK && tokens.n + most > e->max_length)
        status = err_set(err, ERR_INPUT, "%s: the prompt has %zu tokens, and max_gen_toks is %zu: the model's window holds %zu; want fewer of either, or of num_fewshot",
                         evaluate_where(task, doc, where), tokens.n, most, e->max_length);
    if (status != OK) {
        tokens_free(&tokens);
        return status;
    }
    ready->tokens = tokens.id;
    ready->rows = (int32_t)tokens.n;
    set->most_rows = tokens.n > set->most_rows ? tokens.n : set->most_rows;
    return OK;
}

void evaluate_free_written(struct written *w)
{
    free(w->target);
    text_free(&w->text);
    text_free(&w->part);
}

static size_t longest_context(const struct evaluate_set *set)
{
    return set->most_rows + (size_t)set->rules->max_gen_toks;
}

size_t evaluate_bytes(const struct evaluate_set *set, const struct model *model, size_t max_rank, const struct ops_context *ops)
{
    return set->rules ? generator_bytes(model, max_rank, longest_context(set), FORMAT_F16, ops) : 0;
}

/* ---- writing ---- */

/* Rows that the cache still holds of the document before: examples that stand in front of both.  The last row is wanted for its logits. */
static size_t kept_rows(const struct ready *before, const struct ready *now)
{
    size_t n = 0, most = (size_t)(now->rows - 1);
    while (before && n < most && n < (size_t)before->rows && before->tokens[n] == now->tokens[n])
        n++;
    return n;
}

/* Feeds the prompt; then the likeliest token, until one ends the text, a stop string is whole, or there are max_gen_toks. */
static enum status write_answer(const struct evaluate_set *set, struct generator *g, const struct ready *d, size_t kept, struct text_stream *stream,
                                struct text *out, struct err *err)
{
    g->cache.n = kept;
    TRY(generator_feed(g, d->tokens + kept, (size_t)d->rows - kept, err));
    TRY(text_stream_start(stream, set->tokenizer, d->tokens, (size_t)d->rows, err));
    for (int32_t made = 0; made < set->rules->max_gen_toks; made++) {
        int32_t token;
        size_t before = out->n;
        TRY(generator_sample(g, &token, err));
        if (generator_is_end(g, token))
            break;
        TRY(text_stream_add(stream, token, out, err));
        if (task_rules_end(set->rules, out->s, out->n, before) < out->n)
            return OK;
        if (made + 1 < set->rules->max_gen_toks)
            TRY(generator_feed(g, &token, 1, err));
    }
    return text_stream_end(stream, out, err);
}

static enum status judge(const struct evaluate_set *set, struct written *w, bool *right, struct err *err)
{
    bool found;
    w->text.n = task_rules_end(set->rules, w->text.s, w->text.n, 0);
    w->text.s[w->text.n] = 0;
    TRY(task_rules_extract(set->rules, w->pattern, w->text.s, w->text.n, &w->part, &found, err));
    w->answer = (struct evaluate_answer){.target = w->target, .written = w->text.s, .extracted = found ? w->part.s : NULL};
    *right = false;
    return found ? task_rules_same(set->rules, w->target, w->part.s, right, err) : OK;
}

enum status evaluate_write_answers(struct evaluate_set *set, size_t count, const struct model_run *run, const struct model *model, const struct lora *lora,
                                   struct err *err)
{
    struct generator g;
    struct text_stream stream = {0};
    TRY(generator_open(&g, model, lora, longest_context(set), FORMAT_F16, run->ops, err));
    enum status status = OK;
    for (size_t i = 0; status == OK && i < count; i++) {
        struct written *w = &set->written[i];
        text_clear(&w->text);
        text_clear(&w->part);
        text_add(&w->text, "", 0);
        text_add(&w->part, "", 0);
        status = w->text.failed || w->part.failed ? err_set(err, ERR_MEMORY, "out of memory for an answer") : stop_check(err);
        if (status == OK)
            status = write_answer(set, &g, &set->doc[i], kept_rows(i ? &set->doc[i - 1] : NULL, &set->doc[i]), &stream, &w->text, err);
        if (status == OK)
            status = judge(set, w, &set->sample[i].acc, err);
    }
    text_stream_free(&stream);
    generator_close(&g);
    return status;
}
