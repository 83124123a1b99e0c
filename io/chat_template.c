/* chat_template.c: rendering a conversation, its tokens, and which of them are answers. */
#include "io/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "io/jinja.h"

struct chat_template {
    struct jinja *jinja, *for_tools; /* for_tools NULL: as the others */
    const struct tokenizer *tokenizer;
    struct tokenizer_view view;
    char *where;
};

enum status chat_template_open(struct chat_template **out, const char *source, const char *where, const struct tokenizer *tokenizer, struct err *err)
{
    struct chat_template *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t || !(t->where = strdup(where))) {
        free(t);
        return err_set(err, ERR_MEMORY, "out of memory for a chat template");
    }
    t->tokenizer = tokenizer;
    tokenizer_view(tokenizer, &t->view);
    enum status status = jinja_parse(&t->jinja, source, strlen(source), where, err);
    if (status == OK)
        *out = t;
    else
        chat_template_free(t);
    return status;
}

void chat_template_free(struct chat_template *t)
{
    if (!t)
        return;
    jinja_free(t->jinja);
    jinja_free(t->for_tools);
    free(t->where);
    free(t);
}

enum status chat_template_for_tools(struct chat_template *t, const char *source, struct err *err)
{
    jinja_free(t->for_tools);
    return jinja_parse(&t->for_tools, source, strlen(source), "the model's chat template tool_use", err);
}

/* ---- text ---- */

static enum status put_message(struct jinja *j, struct value messages, const struct chat_message *m, struct err *err)
{
    struct value one, member;
    TRY(jinja_dict(j, &one, err));
    TRY(jinja_put(j, one, "role", jinja_string(m->role), err));
    if (m->content)
        TRY(jinja_put(j, one, "content", jinja_string(m->content), err));
    for (const struct json *item = m->members ? json_first(m->members) : NULL; item; item = json_next(item)) {
        bool known = strcmp(json_key(item), "role") == 0 || (m->content && strcmp(json_key(item), "content") == 0);
        if (known)
            continue;
        TRY(jinja_json(j, item, &member, err));
        TRY(jinja_put(j, one, json_key(item), member, err));
    }
    return jinja_append(j, messages, one, err);
}

static enum status put_token(const struct chat_template *t, struct jinja *j, const char *name, int32_t id, struct err *err)
{
    return id < 0 ? OK : jinja_set(j, name, jinja_string(t->view.piece[id]), err);
}

/* The first n messages. */
static enum status render(struct chat_template *t, const struct chat *chat, size_t n, bool generation_prompt, struct text *out, struct jinja_spans *spans,
                          struct err *err)
{
    struct value messages, tools = {.type = VALUE_NONE};
    struct jinja *j = chat->tools && t->for_tools ? t->for_tools : t->jinja;
    TRY(stop_check(err));
    jinja_begin(j);
    TRY(jinja_list(j, &messages, err));
    for (size_t i = 0; i < n; i++)
        TRY(put_message(j, messages, &chat->message[i], err));
    if (chat->tools)
        TRY(jinja_json(j, chat->tools, &tools, err));
    TRY(jinja_set(j, "messages", messages, err));
    TRY(jinja_set(j, "tools", tools, err));
    TRY(jinja_set(j, "documents", (struct value){.type = VALUE_NONE}, err));
    TRY(jinja_set(j, "add_generation_prompt", jinja_bool(generation_prompt), err));
    TRY(put_token(t, j, "bos_token", tokenizer_bos(t->tokenizer), err));
    TRY(put_token(t, j, "eos_token", tokenizer_eos(t->tokenizer), err));
    TRY(put_token(t, j, "unk_token", tokenizer_unk(t->tokenizer), err));
    return jinja_render(j, out, spans, err);
}

enum status chat_template_render(struct chat_template *t, const struct chat *chat, bool generation_prompt, struct text *out, struct err *err)
{
    return render(t, chat, chat->n, generation_prompt, out, NULL, err);
}

/* ---- tokens ---- */

static const char *bytes(const struct text *text)
{
    return text->s ? text->s : "";
}

static enum status encode(const struct chat_template *t, const char *text, size_t n, int bos, struct tokens *out, struct err *err)
{
    return tokenizer_encode_bos(t->tokenizer, tokenizer_bos_for(t->tokenizer, bos), text, n, out, err);
}

enum status chat_template_encode(struct chat_template *t, const struct chat *chat, bool generation_prompt, int bos, struct tokens *out, struct err *err)
{
    struct text text = {0};
    enum status status = chat_template_render(t, chat, generation_prompt, &text, err);
    if (status == OK)
        status = encode(t, bytes(&text), text.n, bos, out, err);
    text_free(&text);
    return status;
}

/* Control and user-defined pieces: those that are found by name. */
static bool is_special(const struct chat_template *t, int32_t id)
{
    return t->view.type[id] == 3 || t->view.type[id] == 4;
}

/* ---- answers ---- */

struct answers {
    struct chat_template *template;
    int bos;
    struct text text; /* of the whole conversation */
    struct tokens *all; /* its tokens */
    struct tokens part;
    uint8_t *learn;
    struct err *err;
};

/* Tokens that text[0, n) has in common with the whole; *inside: the next token goes beyond n. */
static enum status tokens_before(struct answers *a, size_t n, size_t *count, bool *inside)
{
    a->part.n = 0;
    TRY(encode(a->template, a->text.s, n, a->bos, &a->part, a->err));
    *count = 0;
    while (*count < a->part.n && *count < a->all->n && a->part.id[*count] == a->all->id[*count])
        ++*count;
    *inside = *count < a->part.n;
    return OK;
}

static enum status mark(struct answers *a, size_t start, size_t end, size_t *last)
{
    size_t from, to;
    bool inside;
    TRY(tokens_before(a, start, &from, &inside));
    TRY(tokens_before(a, end, &to, &inside));
    to += inside && to < a->all->n;
    for (size_t t = from; t < to; t++)
        a->learn[t] = 1;
    *last = to;
    return OK;
}

/* White space behind the token that ends a turn is nobody's answer. */
static enum status turn_end(struct answers *a, size_t start, size_t *end)
{
    size_t shorter = *end, count;
    bool inside;
    while (shorter > start && strchr(" \t\r\n", a->text.s[shorter - 1]))
        shorter--;
    if (shorter == *end || shorter == start)
        return OK;
    TRY(tokens_before(a, shorter, &count, &inside));
    if (!inside && count > 0 && is_special(a->template, a->all->id[count - 1]))
        *end = shorter;
    return OK;
}

/* Bytes of the text of the first n messages, which must begin the whole. */
static enum status prefix(struct answers *a, const struct chat *chat, size_t n, bool generation_prompt, size_t *length)
{
    struct text text = {0};
    enum status status = render(a->template, chat, n, generation_prompt, &text, NULL, a->err);
    *length = text.n;
    if (status == OK && (text.n > a->text.n || memcmp(bytes(&text), a->text.s, text.n) != 0))
        status = err_set(a->err, ERR_INPUT, "%s: writes the first %zu messages%s in another way when more follow, so that answers cannot be told apart; mark them "
                                            "by {%% generation %%} in it, or choose another template (--chat-template, chat_template), such as chatml",
                         a->template->where, n, generation_prompt ? " and its generation prompt" : "");
    text_free(&text);
    return status;
}

static enum status mark_message(struct answers *a, const struct chat *chat, size_t i, size_t most, bool *beyond, size_t *last)
{
    size_t start, end = a->text.n, count;
    bool inside;
    if (i == 0)
        return err_set(a->err, ERR_INPUT, "the first message is the assistant's, want a user's before it");
    TRY(prefix(a, chat, i, true, &start));
    TRY(tokens_before(a, start, &count, &inside));
    *beyond = count >= most;
    if (*beyond)
        return OK;
    if (i + 1 < chat->n)
        TRY(prefix(a, chat, i + 1, false, &end));
    if (end <= start)
        return err_set(a->err, ERR_INPUT, "%s: leaves message %zu, an assistant's, out", a->template->where, i + 1);
    TRY(turn_end(a, start, &end));
    return mark(a, start, end, last);
}

static enum status push_eos(struct answers *a)
{
    int32_t eos = tokenizer_eos(a->template->tokenizer);
    if (eos < 0)
        return OK;
    TRY(tokens_push(a->all, eos, a->err));
    a->learn[a->all->n - 1] = 1; /* there is room for one more */
    return OK;
}

static enum status mark_messages(struct answers *a, const struct chat *chat, size_t most)
{
    size_t last = 0;
    bool beyond = false;
    for (size_t i = 0; i < chat->n && !beyond; i++)
        if (strcmp(chat->message[i].role, "assistant") == 0)
            TRY(mark_message(a, chat, i, most, &beyond, &last));
    bool open = !beyond && last > 0 && last == a->all->n && !is_special(a->template, a->all->id[last - 1]);
    return open ? push_eos(a) : OK;
}

enum status chat_template_answers(struct chat_template *t, const struct chat *chat, int bos, size_t most, struct tokens *out, uint8_t **learn, struct err *err)
{
    struct answers a = {.template = t, .bos = bos, .all = out, .err = err};
    struct jinja_spans spans = {0};
    size_t last;
    *learn = NULL;
    out->n = 0;
    text_puts(&a.text, "");
    enum status status = render(t, chat, chat->n, false, &a.text, &spans, err);
    if (status == OK)
        status = encode(t, bytes(&a.text), a.text.n, bos, out, err);
    if (status == OK && !(a.learn = calloc(out->n + 1, 1)))
        status = err_set(err, ERR_MEMORY, "out of memory for a conversation");
    for (size_t i = 0; status == OK && i < spans.n; i++)
        status = mark(&a, spans.span[i].start, spans.span[i].end, &last);
    if (status == OK && spans.n == 0)
        status = mark_messages(&a, chat, most);
    text_free(&a.text);
    tokens_free(&a.part);
    free(spans.span);
    if (status == OK)
        *learn = a.learn;
    else
        free(a.learn);
    return status;
}

/* ---- where an answer ends ---- */

enum status chat_template_end(struct chat_template *t, int32_t *id, struct err *err)
{
    static const char words[] = "An answer of five words";
    const struct chat_message message[] = {{.role = "user", .content = "A question"}, {.role = "assistant", .content = words}};
    const struct chat chat = {.message = message, .n = 2};
    struct text text = {0};
    struct tokens tokens = {0};
    *id = -1;
    enum status status = chat_template_render(t, &chat, false, &text, err);
    const char *end = status == OK ? strstr(bytes(&text), words) : NULL;
    if (end) {
        end += sizeof words - 1;
        end += strspn(end, " \t\r\n");
        status = tokenizer_encode(t->tokenizer, end, strlen(end), true, &tokens, err);
    }
    if (status == OK && tokens.n && is_special(t, tokens.id[0]))
        *id = tokens.id[0];
    text_free(&text);
    tokens_free(&tokens);
    return status;
}
