/* Any bytes as a template, rendered for a conversation twice: the same text or the same refusal, which says where. */
#include <string.h>

#include "io/jinja.h"
#include "test/fuzz/memfd.h"

static enum status message(struct jinja *t, struct value list, const char *role, const char *content, struct err *err)
{
    struct value one;
    TRY(jinja_dict(t, &one, err));
    TRY(jinja_put(t, one, "role", jinja_string(role), err));
    TRY(jinja_put(t, one, "content", jinja_string(content), err));
    return jinja_append(t, list, one, err);
}

static enum status render(struct jinja *t, struct text *out, struct jinja_spans *spans, struct err *err)
{
    struct value messages;
    jinja_begin(t);
    TRY(jinja_list(t, &messages, err));
    TRY(message(t, messages, "system", " Be brief.\n", err));
    TRY(message(t, messages, "user", "Gr\xc3\xb6\xc3\x9f" "e \"x\"", err));
    TRY(message(t, messages, "assistant", "\xe6\x97\xa5 ok", err));
    TRY(jinja_set(t, "messages", messages, err));
    TRY(jinja_set(t, "bos_token", jinja_string("<s>"), err));
    TRY(jinja_set(t, "eos_token", jinja_string("</s>"), err));
    TRY(jinja_set(t, "add_generation_prompt", jinja_bool(true), err));
    return jinja_render(t, out, spans, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct jinja *t;
    struct err err = {{0}}, again = {{0}};
    struct text first = {0}, second = {0};
    struct jinja_spans spans = {0};
    if (jinja_parse(&t, (const char *)data, n, "fuzz", &err) != OK) {
        if (strncmp(err.text, "fuzz: ", 6) != 0)
            abort();
        return 0;
    }
    enum status status = render(t, &first, &spans, &err);
    for (size_t i = 0; i < spans.n; i++)
        if (spans.span[i].start > spans.span[i].end || spans.span[i].end > first.n)
            abort();
    if (status != OK && strncmp(err.text, "fuzz: ", 6) != 0)
        abort();
    if (render(t, &second, NULL, &again) != status || first.n != second.n || strcmp(err.text, again.text) != 0 ||
        (first.n && memcmp(first.s, second.s, first.n) != 0) || (first.n && !utf8_is_name(first.s, first.n)))
        abort();
    free(spans.span);
    text_free(&first);
    text_free(&second);
    jinja_free(t);
    return 0;
}
