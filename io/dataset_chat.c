/* dataset_chat.c: conversations -> tokens, of which the assistant's are learned.  By a chat template, or without one as ChatML. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/dataset_private.h"

/* ---- by a chat template ---- */

static void note_form(const struct loader *load, const char *form)
{
    snprintf(load->dataset->form, sizeof load->dataset->form, "%s", form);
}

static enum status open_template(struct loader *load)
{
    const struct dataset_options *o = load->options;
    if (load->chat)
        return OK;
    note_form(load, o->chat_name);
    TRY(chat_template_open(&load->chat, o->chat_template, o->chat_name, load->tokenizer, load->err));
    return o->chat_tools ? chat_template_for_tools(load->chat, o->chat_tools, load->err) : OK;
}

static enum status add_chat(struct loader *load, const struct chat *chat)
{
    struct tokens tokens = {0};
    uint8_t *learn = NULL;
    TRY(open_template(load));
    enum status status = chat_template_answers(load->chat, chat, load->options->bos, (size_t)load->options->max_seq_len, &tokens, &learn, load->err);
    if (status != OK)
        err_prefix(load->err, status, "%s", load->where);
    if (status == OK && load->options->train_on_inputs)
        memset(learn, 1, tokens.n);
    if (status == OK)
        status = dataset_add_example(load, tokens.id, learn, tokens.n);
    free(learn);
    tokens_free(&tokens);
    return status;
}

enum status dataset_add_exchange(struct loader *load, const char *instruction, const char *input, const char *answer)
{
    struct text user = {0};
    text_puts(&user, instruction);
    if (*input) {
        text_puts(&user, "\n\n");
        text_puts(&user, input);
    }
    const struct chat_message message[] = {{.role = "user", .content = user.s}, {.role = "assistant", .content = answer}};
    const struct chat chat = {.message = message, .n = 2};
    enum status status = user.failed ? dataset_no_memory(load) : add_chat(load, &chat);
    text_free(&user);
    return status;
}

static const char *role_of(const char *from)
{
    return strcmp(from, "human") == 0 ? "user" : strcmp(from, "gpt") == 0 ? "assistant" : from;
}

/* Content may be missing, or be parts, where the template has more to look at: tool calls, say. */
static enum status read_message(const struct loader *load, const struct json *item, bool sharegpt, struct chat_message *m)
{
    const struct json *content = json_member(item, "content");
    bool others = !sharegpt && ((content && json_type(content) == JSON_ARRAY) || json_member(item, "tool_calls"));
    TRY(dataset_need_text(load, item, sharegpt ? "from" : "role", &m->role));
    m->role = sharegpt ? role_of(m->role) : m->role;
    m->members = sharegpt ? NULL : item;
    return others ? OK : dataset_need_text(load, item, sharegpt ? "value" : "content", &m->content);
}

static enum status add_messages(struct loader *load, const struct json *list, const struct json *tools, bool sharegpt)
{
    size_t n = 0;
    struct chat_message *message = calloc(json_size(list), sizeof *message);
    enum status status = message ? OK : dataset_no_memory(load);
    for (const struct json *item = json_first(list); status == OK && item; item = json_next(item))
        status = read_message(load, item, sharegpt, &message[n++]);
    const struct chat chat = {.message = message, .n = n, .tools = tools && json_type(tools) == JSON_ARRAY ? tools : NULL};
    if (status == OK)
        status = add_chat(load, &chat);
    free(message);
    return status;
}

/* ---- as ChatML: <|im_start|>role\ncontent<|im_end|>\n; the assistant's content and its <|im_end|> are learned ---- */

struct turns {
    struct tokens all;
    uint8_t *learn;
    size_t cap;
};

static enum status add_piece(struct loader *load, struct turns *turns, const char *text, bool learn)
{
    size_t before = turns->all.n;
    TRY(tokenizer_encode(load->tokenizer, text, strlen(text), true, &turns->all, load->err));
    if (turns->all.n > turns->cap) {
        uint8_t *grown = realloc(turns->learn, 2 * turns->all.n);
        if (!grown)
            return dataset_no_memory(load);
        turns->learn = grown;
        turns->cap = 2 * turns->all.n;
    }
    for (size_t t = before; t < turns->all.n; t++)
        turns->learn[t] = learn || load->options->train_on_inputs;
    return OK;
}

static enum status add_turn(struct loader *load, struct turns *turns, const char *role, const char *content)
{
    bool answer = strcmp(role, "assistant") == 0;
    TRY(add_piece(load, turns, "<|im_start|>", false));
    TRY(add_piece(load, turns, role, false));
    TRY(add_piece(load, turns, "\n", false));
    TRY(add_piece(load, turns, content, answer));
    TRY(add_piece(load, turns, "<|im_end|>", answer));
    return add_piece(load, turns, "\n", false);
}

static enum status read_turn(struct loader *load, const struct json *item, bool sharegpt, struct turns *turns)
{
    const char *role, *content;
    TRY(dataset_need_text(load, item, sharegpt ? "from" : "role", &role));
    TRY(dataset_need_text(load, item, sharegpt ? "value" : "content", &content));
    role = sharegpt ? role_of(role) : role;
    if (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0)
        return err_set(load->err, ERR_INPUT, "%s: role '%s', want system, user or assistant", load->where, role);
    return add_turn(load, turns, role, content);
}

static enum status add_turns(struct loader *load, const struct json *list, bool sharegpt)
{
    struct turns turns = {0};
    TRY(chat_template_first(load->tokenizer, load->err));
    enum status status = OK;
    note_form(load, "as ChatML: the model has no chat template");
    for (const struct json *item = json_first(list); status == OK && item; item = json_next(item))
        status = read_turn(load, item, sharegpt, &turns);
    if (status == OK)
        status = dataset_add_example(load, turns.all.id, turns.learn, turns.all.n);
    tokens_free(&turns.all);
    free(turns.learn);
    return status;
}

enum status dataset_add_conversation(struct loader *load, const struct json *record, bool sharegpt)
{
    const struct json *list;
    const char *key = sharegpt ? "conversations" : "messages";
    TRY(json_array(record, key, load->where, &list, load->err));
    if (json_size(list) == 0)
        return err_set(load->err, ERR_INPUT, "%s.%s: is empty, want turns", load->where, key);
    return load->options->chat_template ? add_messages(load, list, json_member(record, "tools"), sharegpt) : add_turns(load, list, sharegpt);
}
