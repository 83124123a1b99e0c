/* generate.c: decoding with a cache, sampling, characters, conversations. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

#include "quant_affine.h"
#include "quant_panel.h"

/* ---- sampling ---- */

void sampler_next(struct sampler *s, const struct ops_context *c, const real *logits, size_t V, int32_t *token)
{
    struct sample_args a = {.logits = logits, .V = V, .temperature = s->temperature, .top_k = s->top_k, .top_p = s->top_p, .token = token};
    if (s->temperature > 0)
        a.u = rng_uniform(&s->rng);
    c->ops->sample(c, &a);
}

/* ---- a running generation ---- */

enum { PROMPT_ROWS = 256 }; /* rows of a prompt at once */

static enum status place(struct generator *g, size_t context, enum format cache_type, struct err *err)
{
    size_t V = (size_t)g->model->config.vocab_size;
    g->run.max_n = context < PROMPT_ROWS ? context : PROMPT_ROWS;
    g->ops.scratch = arena_take(&g->memory, model_decode_scratch_size(g->model, &g->ops, g->run.max_n, context), sizeof(real));
    g->logits = arena_take(&g->memory, V, sizeof *g->logits);
    g->token = arena_take(&g->memory, 1, sizeof *g->token);
    g->held = arena_take_table(&g->memory, context, sizeof *g->held);
    kv_cache_place(&g->cache, g->model, cache_type, context, &g->memory);
    return model_run_place(&g->run, g->model, g->lora, &g->memory, err);
}

static int32_t largest_rank(const struct lora *lora)
{
    int32_t most = 0;
    for (int l = 0; lora && l < lora->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            most = lora->adapter[l][j].r > most ? lora->adapter[l][j].r : most;
    return most;
}

/* A generator without memory. */
static void set_up(struct generator *g, const struct model *model, size_t max_rank, const struct ops_context *ops)
{
    memset(g, 0, sizeof *g);
    g->model = model;
    g->ops = (struct ops_context){.ops = ops->ops, .device = ops->device, .threads = ops->threads, .compute = ops->compute};
    g->run = (struct model_run){.ops = &g->ops, .max_rank = max_rank};
    model_use_tables(ops, &g->memory, &g->tables);
}

enum status generator_open(struct generator *g, const struct model *model, const struct lora *lora, size_t context, enum format cache_type,
                           const struct ops_context *ops, struct err *err)
{
    set_up(g, model, (size_t)largest_rank(lora), ops);
    g->lora = lora;
    g->sampler = (struct sampler){.top_p = 1, .rng = {.stream = RNG_SAMPLE}};
    TRY(place(g, context, cache_type, err));
    TRY(model_commit(&g->ops, &g->memory, "the context", err));
    return place(g, context, cache_type, err);
}

size_t generator_bytes(const struct model *model, size_t max_rank, size_t context, enum format cache_type, const struct ops_context *ops)
{
    struct generator g;
    struct err err;
    set_up(&g, model, max_rank, ops);
    return place(&g, context, cache_type, &err) == OK ? g.memory.used : SIZE_MAX;
}

void generator_close(struct generator *g)
{
    model_release(&g->ops, &g->memory);
    memset(g, 0, sizeof *g);
}

enum status generator_feed(struct generator *g, const int32_t *tokens, size_t n, struct err *err)
{
    int32_t V = g->model->config.vocab_size;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return err_set(err, ERR_INPUT, "token %d, the model has 0 to %d", tokens[i], V - 1);
    while (n > 0) {
        size_t rows = n < g->run.max_n ? n : g->run.max_n;
        TRY(model_decode(&g->run, g->model, g->lora, &g->cache, tokens, rows, g->logits, err));
        memcpy(g->held + g->cache.n - rows, tokens, rows * sizeof *tokens);
        tokens += rows;
        n -= rows;
    }
    return OK;
}

enum status generator_sample(struct generator *g, int32_t *token, struct err *err)
{
    sampler_next(&g->sampler, &g->ops, g->logits, (size_t)g->model->config.vocab_size, g->token);
    return model_fetch(&g->ops, token, g->token, sizeof *token, err);
}

enum status generator_logits(const struct generator *g, real *logits, struct err *err)
{
    return model_fetch(&g->ops, logits, g->logits, (size_t)g->model->config.vocab_size * sizeof *logits, err);
}

bool generator_is_end(const struct generator *g, int32_t token)
{
    const struct model_config *c = &g->model->config;
    for (int32_t i = 0; i < c->n_eos; i++)
        if (token == c->eos_token_id[i])
            return true;
    return false;
}

/* What kernels read: in panels some codes are wider than in files. */
static double matrix_bytes(const struct qmat *W)
{
    size_t bytes = quant_bytes(W->format, W->block, W->double_quant, W->rows, W->cols);
    if (W->panels && W->affine)
        bytes += quant_panel_room(W->format, W->block, W->rows, W->cols) - quant_affine_bytes(W->format, W->rows * W->cols);
    else if (W->panels && format_is_ggml(W->format))
        bytes = quant_panel_room(W->format, W->block, W->rows, W->cols);
    return (double)bytes;
}

double generator_weight_bytes(const struct model *model)
{
    double C = (double)model->config.hidden_size, n = matrix_bytes(&model->head) + C * sizeof(real);
    for (int l = 0; l < model->plan.n_layers; l++) {
        n += 2 * C * sizeof(real);
        for (int j = 0; j < LINEAR_COUNT; j++)
            n += matrix_bytes(&model->layer[l].linear[j]);
    }
    return n + matrix_bytes(&model->embed) / (double)model->embed.rows;
}

/* ---- text as it is made ---- */

enum { LOOK_BACK = 6, MOST_HELD = 8 }; /* tokens */

enum status text_stream_start(struct text_stream *s, const struct tokenizer *tokenizer, const int32_t *ids, size_t n, struct err *err)
{
    s->tokenizer = tokenizer;
    s->ids.n = 0;
    for (size_t i = n > LOOK_BACK ? n - LOOK_BACK : 0; i < n; i++)
        TRY(tokens_push(&s->ids, ids[i], err));
    s->known = 0;
    s->shown = s->ids.n;
    return OK;
}

/* Decodes from `known` on, once up to what was shown and once to the end: the difference is new.  Alone, the new tokens would lose the space
 * that the first piece of a text drops. */
static enum status show(struct text_stream *s, bool all, struct text *out, struct err *err)
{
    static const char broken[] = "\xEF\xBF\xBD";
    char *before = NULL, *after = NULL;
    size_t n_before, n_after, held = s->ids.n - s->shown;
    const int32_t *ids = s->ids.id + s->known;
    enum status status = tokenizer_decode(s->tokenizer, ids, s->shown - s->known, &before, &n_before, err);
    if (status == OK)
        status = tokenizer_decode(s->tokenizer, ids, s->ids.n - s->known, &after, &n_after, err);
    if (status == OK && n_after > n_before) {
        bool complete = n_after < 3 || memcmp(after + n_after - 3, broken, 3) != 0;
        if (complete || all || held >= MOST_HELD) {
            text_add(out, after + n_before, n_after - n_before);
            s->known = s->shown;
            s->shown = s->ids.n;
        }
    }
    free(before);
    free(after);
    return status == OK && out->failed ? err_set(err, ERR_MEMORY, "out of memory for text") : status;
}

enum status text_stream_add(struct text_stream *s, int32_t id, struct text *out, struct err *err)
{
    TRY(tokens_push(&s->ids, id, err));
    return show(s, false, out, err);
}

enum status text_stream_end(struct text_stream *s, struct text *out, struct err *err)
{
    return s->ids.n > s->shown ? show(s, true, out, err) : OK;
}

void text_stream_free(struct text_stream *s)
{
    tokens_free(&s->ids);
    memset(s, 0, sizeof *s);
}

/* ---- chat ---- */

enum status conversation_open(struct conversation *c, struct chat_template *template, struct err *err)
{
    memset(c, 0, sizeof *c);
    c->template = template;
    return chat_template_end(template, &c->end, err);
}

void conversation_free(struct conversation *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->content[i]);
    free(c->content);
    free(c->message);
    memset(c, 0, sizeof *c);
}

static enum status reserve(struct conversation *c, struct err *err)
{
    if (c->n < c->cap)
        return OK;
    size_t cap = c->cap ? 2 * c->cap : 16;
    struct chat_message *message = realloc(c->message, cap * sizeof *message);
    c->message = message ? message : c->message;
    char **content = message ? realloc(c->content, cap * sizeof *content) : NULL;
    if (!content)
        return err_set(err, ERR_MEMORY, "out of memory for a conversation");
    c->content = content;
    c->cap = cap;
    return OK;
}

enum status conversation_say(struct conversation *c, const char *role, const char *content, struct err *err)
{
    TRY(reserve(c, err));
    char *copy = strdup(content);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a conversation");
    c->content[c->n] = copy;
    c->message[c->n++] = (struct chat_message){.role = role, .content = copy};
    return OK;
}

/* What the context already holds of tokens; the last one is always fed, for its logits. */
static size_t held(const struct generator *g, const struct tokens *tokens)
{
    size_t n = 0;
    while (n < g->cache.n && n + 1 < tokens->n && g->held[n] == tokens->id[n])
        n++;
    return n;
}

enum status conversation_feed(const struct conversation *c, struct generator *g, size_t *fed, struct err *err)
{
    struct tokens tokens = {0};
    const struct chat chat = {.message = c->message, .n = c->n};
    enum status status = chat_template_encode(c->template, &chat, true, -1, &tokens, err);
    if (status == OK && tokens.n == 0)
        status = err_set(err, ERR_INPUT, "the chat template makes no text of this conversation");
    if (status == OK && tokens.n >= g->cache.capacity)
        status = err_set(err, ERR_INPUT, "the conversation has %zu tokens, its context holds %zu", tokens.n, g->cache.capacity);
    if (status == OK) {
        size_t known = held(g, &tokens);
        *fed = tokens.n - known;
        g->cache.n = known;
        status = generator_feed(g, tokens.id + known, *fed, err);
    }
    tokens_free(&tokens);
    return status;
}

bool conversation_is_end(const struct conversation *c, const struct generator *g, int32_t token)
{
    return token == c->end || generator_is_end(g, token);
}
