/* tokenizer_files_test.c: the files beside a tokenizer.json; which of a folder's tokenizers is taken; what an export makes and copies. */
#include "tokenizer_parts.h"

#include "export.h"
#include "io/checkpoint.h"

/* ---- beside tokenizer.json ---- */

static void put(const char *dir, const char *name, const char *text)
{
    put_file(dir, name, text, strlen(text));
}

static enum status load(struct tokenizer **t, const char *dir, struct err *err)
{
    char *path = path_join(dir, "tokenizer.json");
    enum status status = tokenizer_load_json(t, path, err);
    free(path);
    return status;
}

static void files_beside(void **state)
{
    (void)state;
    char dir[64];
    struct tokenizer *t;
    struct err err;
    struct text json = {0};
    make_folder(dir);
    print(&json, &(struct parts){.post = TEMPLATE(SPECIAL ", " TEXT, "[4]")});
    put(dir, "tokenizer.json", json.s);
    assert_int_equal(load(&t, dir, &err), OK);
    assert_int_equal(tokenizer_bos(t), 4); /* of the post-processor */
    assert_int_equal(tokenizer_eos(t), -1);
    assert_true(tokenizer_add_bos(t));
    assert_null(tokenizer_chat_template(t));
    tokenizer_free(t);
    put(dir, "special_tokens_map.json", "{\"bos_token\": \"a\", \"eos_token\": {\"content\": \"b\"}}");
    put(dir, "tokenizer_config.json", "{\"bos_token\": \"ab\", \"add_bos_token\": false, \"chat_template\": [{\"name\": \"tool\", \"template\": \"T\"}, "
                                      "{\"name\": \"default\", \"template\": \"D\"}]}");
    assert_int_equal(load(&t, dir, &err), OK);
    assert_int_equal(tokenizer_bos(t), 4);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_false(tokenizer_add_bos(t));
    assert_string_equal(tokenizer_chat_template(t), "D");
    assert_string_equal(tokenizer_named_chat_template(t, "tool"), "T");
    assert_string_equal(tokenizer_chat_template_name(t, 0), "tool");
    assert_null(tokenizer_chat_template_name(t, 1));
    tokenizer_free(t);
    put(dir, "chat_template.jinja", "J");
    put(dir, "tokenizer_config.json", "{\"eos_token\": null, \"chat_template\": \"C\"}");
    assert_int_equal(load(&t, dir, &err), OK);
    assert_int_equal(tokenizer_eos(t), -1);
    assert_string_equal(tokenizer_chat_template(t), "J");
    assert_null(tokenizer_named_chat_template(t, "tool")); /* as transformers, which takes files or the list */
    tokenizer_free(t);
    put(dir, "tokenizer_config.json", "{\"eos_token\": \"<x>\"}");
    assert_refused(load(&t, dir, &err), ERR_INPUT, &err, dir, "tokenizer_config.json: eos_token '<x>' is no piece of tokenizer.json");
    put(dir, "special_tokens_map.json", "{}");
    text_clear(&json);
    print(&json, &(struct parts){0});
    put(dir, "tokenizer.json", json.s);
    put(dir, "tokenizer_config.json", "{\"add_bos_token\": true}");
    assert_refused(load(&t, dir, &err), ERR_INPUT, &err, dir, "tokenizer_config.json: add_bos_token is true, and no bos_token is named");
    text_free(&json);
    dir_remove(dir);
}

/* ---- in a model's folder ---- */

static void copy_world(const char *dir, const char *name)
{
    char from[128], *bytes;
    size_t n;
    struct err err;
    snprintf(from, sizeof from, "data/world/model/%s", name);
    assert_int_equal(file_read(from, 1 << 27, &bytes, &n, &err), OK);
    put_file(dir, name, bytes, n);
    free(bytes);
}

static void folder_takes(const char *dir, int32_t pieces, const char *sentence)
{
    struct checkpoint *c;
    const struct tokenizer *t;
    struct err err;
    assert_int_equal(checkpoint_open(&c, dir, &err), OK);
    if (sentence) {
        assert_refused(checkpoint_tokenizer(c, &t, &err), ERR_INPUT, &err, dir, sentence);
    } else {
        assert_int_equal(checkpoint_tokenizer(c, &t, &err), OK);
        assert_int_equal(tokenizer_vocab_size(t), pieces);
    }
    checkpoint_close(c);
}

/* Our own tokenizer.gguf before tokenizer.json before tokenizer.model. */
static void which_one_is_taken(void **state)
{
    (void)state;
    char dir[64];
    struct text json = {0};
    make_folder(dir);
    copy_world(dir, "config.json");
    copy_world(dir, "model.safetensors");
    folder_takes(dir, 0, ": has no tokenizer.json, tokenizer.model or tokenizer.gguf");
    copy_world(dir, "tokenizer.model");
    folder_takes(dir, 1024, NULL);
    print(&json, &(struct parts){0});
    put(dir, "tokenizer.json", json.s);
    folder_takes(dir, 5, NULL);
    text_clear(&json);
    print(&json, &(struct parts){.added = "[]", .vocab = "{\"a\": 2000}"});
    put(dir, "tokenizer.json", json.s);
    folder_takes(dir, 0, "tokenizer.json: no piece has the id 0, want one for each from 0 to 2000");
    text_clear(&json);
    text_puts(&json, "{\"x0\": 0");
    for (int i = 1; i < 1025; i++)
        text_printf(&json, ", \"x%d\": %d", i, i);
    text_puts(&json, "}");
    struct text whole = {0};
    print(&whole, &(struct parts){.added = "[]", .vocab = json.s, .merges = "[]"});
    put(dir, "tokenizer.json", whole.s);
    folder_takes(dir, 0, ": the tokenizer has 1025 pieces, the embedding 1024 rows");
    copy_world(dir, "tokenizer.gguf");
    folder_takes(dir, 1024, NULL);
    text_free(&json);
    text_free(&whole);
    dir_remove(dir);
}

/* ---- out ---- */

static bool same_file(const char *a, const char *b, const char *name)
{
    char *from = path_join(a, name), *to = path_join(b, name), *x = NULL, *y = NULL;
    size_t nx, ny;
    struct err err;
    bool same = file_read(from, 1 << 27, &x, &nx, &err) == OK && file_read(to, 1 << 27, &y, &ny, &err) == OK && nx == ny && memcmp(x, y, nx) == 0;
    free(from);
    free(to);
    free(x);
    free(y);
    return same;
}

static bool is_there(const char *dir, const char *name)
{
    return same_file(dir, dir, name);
}

static void make_templates(const char *dir)
{
    char *path = path_join(dir, TOKENIZER_TEMPLATES);
    struct err err;
    assert_int_equal(dir_make(path, &err), OK);
    free(path);
}

static void copies_and_makes(void **state)
{
    (void)state;
    char from[64], to[64];
    struct tokenizer *json, *model;
    struct text text = {0};
    struct err err = {{0}};
    make_folder(from);
    make_folder(to);
    print(&text, &(struct parts){.pre = SPLIT("a|b")}); /* llama.cpp has no name for this */
    put(from, "tokenizer.json", text.s);
    put(from, "tokenizer_config.json", "{\"eos_token\":   \"<e>\"}");
    put(from, "chat_template.jinja", "J");
    put(to, "special_tokens_map.json", "{\"of\": \"another model\"}");
    put(to, "tokenizer.gguf", "of another model");
    assert_int_equal(load(&json, from, &err), OK);
    assert_int_equal(export_tokenizer(to, json, from, 2048, &err), OK);
    assert_true(same_file(from, to, "tokenizer.json"));
    assert_true(same_file(from, to, "tokenizer_config.json"));
    assert_true(same_file(from, to, "chat_template.jinja"));
    assert_false(is_there(to, "special_tokens_map.json"));
    assert_false(is_there(to, "tokenizer.gguf"));
    assert_int_equal(tokenizer_set_chat_template(json, "another", &err), OK);
    assert_int_equal(export_tokenizer(to, json, from, 2048, &err), OK);
    assert_false(same_file(from, to, "chat_template.jinja"));
    tokenizer_free(json);
    assert_int_equal(load(&json, to, &err), OK); /* what is written takes the new one along */
    assert_string_equal(tokenizer_chat_template(json), "another");
    assert_refused(export_tokenizer(to, json, NULL, 2048, &err), ERR_FAILED, &err, "",
                   "GGUF has no name for the pre-tokenizer of this tokenizer.json, so llama.cpp could not cut text as it does");
    assert_int_equal(tokenizer_load_sentencepiece(&model, "data/world/model/tokenizer.model", &err), OK);
    assert_int_equal(export_tokenizer(to, model, "data/world/model/tokenizer.model", 2048, &err), OK);
    assert_true(same_file("data/world/model", to, "tokenizer.model"));
    assert_true(is_there(to, "tokenizer.gguf"));
    assert_false(is_there(to, "chat_template.jinja"));
    tokenizer_free(json);
    assert_int_equal(load(&json, to, &err), OK); /* made from the vocabulary */
    assert_int_equal(tokenizer_vocab_size(json), 1024);
    assert_int_equal(tokenizer_bos(json), tokenizer_bos(model));
    assert_int_equal(tokenizer_eos(json), tokenizer_eos(model));
    tokenizer_free(json);
    tokenizer_free(model);
    text_free(&text);
    dir_remove(from);
    dir_remove(to);
}

/* Templates with names: from files into files, from files into a GGUF and out of it into files again. */
static void named_templates(void **state)
{
    (void)state;
    char from[64], to[64];
    struct tokenizer *t;
    struct checkpoint *c;
    const struct tokenizer *back;
    struct err err;
    make_folder(from);
    make_folder(to);
    copy_world(from, "tokenizer.model");
    copy_world(from, "config.json");
    copy_world(from, "model.safetensors");
    put(from, "chat_template.jinja", "J");
    make_templates(from);
    put(from, "additional_chat_templates/tool_use.jinja", "T");
    put(from, "additional_chat_templates/a-b.jinja", "A");
    put(from, "additional_chat_templates/.hidden.jinja", "H");
    put(from, "additional_chat_templates/README.md", "R");
    for (int round = 0; round < 2; round++) { /* the second time from the tokenizer.gguf that the first has written, in which '-' is '_' */
        assert_int_equal(checkpoint_open(&c, round ? to : from, &err), OK);
        assert_int_equal(checkpoint_tokenizer(c, &back, &err), OK);
        assert_string_equal(tokenizer_chat_template(back), "J");
        assert_string_equal(tokenizer_named_chat_template(back, "tool_use"), "T");
        assert_string_equal(tokenizer_named_chat_template(back, "a-b"), "A");
        assert_string_equal(tokenizer_chat_template_name(back, round ? 2 : 1), "tool_use");
        assert_null(tokenizer_chat_template_name(back, round ? 3 : 2));
        assert_int_equal(export_tokenizer(to, back, NULL, 2048, &err), OK);
        assert_true(same_file(from, to, "chat_template.jinja"));
        assert_true(same_file(from, to, "additional_chat_templates/tool_use.jinja"));
        assert_true(same_file(from, to, "additional_chat_templates/a-b.jinja"));
        if (round == 0) {
            copy_world(to, "config.json");
            copy_world(to, "model.safetensors");
        }
        checkpoint_close(c);
    }
    assert_true(is_there(to, "additional_chat_templates/a_b.jinja"));
    /* a model without them removes them */
    assert_int_equal(tokenizer_load_sentencepiece(&t, "data/world/model/tokenizer.model", &err), OK);
    assert_int_equal(export_tokenizer(to, t, NULL, 2048, &err), OK);
    assert_false(is_there(to, "additional_chat_templates/tool_use.jinja"));
    assert_false(is_there(to, "chat_template.jinja"));
    tokenizer_free(t);
    put(from, "additional_chat_templates/two words.jinja", "T");
    assert_int_equal(checkpoint_open(&c, from, &err), OK);
    assert_refused(checkpoint_tokenizer(c, &back, &err), ERR_INPUT, &err, from,
                   "additional_chat_templates/two words.jinja: a chat template is named 'two words', want at most 64 letters, digits, '_', '-' and '.', no '.' in front");
    checkpoint_close(c);
    put(from, "additional_chat_templates/two words.jinja", "\xff");
    assert_int_equal(checkpoint_open(&c, from, &err), OK);
    assert_refused(checkpoint_tokenizer(c, &back, &err), ERR_INPUT, &err, from, "additional_chat_templates/two words.jinja: is no UTF-8 text");
    checkpoint_close(c);
    dir_remove(from);
    dir_remove(to);
}

/* What a tokenizer_config.json lists stays there, unless a new template goes over it: beside a file transformers takes no list. */
static void listed_templates(void **state)
{
    (void)state;
    char from[64], to[64], list[8192];
    struct tokenizer *t;
    struct text json = {0};
    struct err err;
    make_folder(from);
    make_folder(to);
    print(&json, &(struct parts){0});
    put(from, "tokenizer.json", json.s);
    put(from, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", \"template\": \"D\"}, {\"name\": \"rag\", \"template\": \"R\"}]}");
    assert_int_equal(load(&t, from, &err), OK);
    assert_int_equal(export_tokenizer(to, t, from, 2048, &err), OK);
    assert_false(is_there(to, "additional_chat_templates/rag.jinja"));
    assert_int_equal(tokenizer_set_chat_template(t, "new", &err), OK);
    assert_int_equal(export_tokenizer(to, t, from, 2048, &err), OK);
    tokenizer_free(t);
    assert_int_equal(load(&t, to, &err), OK);
    assert_string_equal(tokenizer_chat_template(t), "new");
    assert_string_equal(tokenizer_named_chat_template(t, "rag"), "R");
    tokenizer_free(t);
    put(from, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"../x\", \"template\": \"D\"}]}");
    assert_refused(load(&t, from, &err), ERR_INPUT, &err, from,
                   "tokenizer_config.json: a chat template is named '../x', want at most 64 letters, digits, '_', '-' and '.', no '.' in front");
    size_t n = (size_t)snprintf(list, sizeof list, "{\"chat_template\": [");
    for (int i = 0; i < 65; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s{\"name\": \"t%d\", \"template\": \"\"}", i ? ", " : "", i);
    snprintf(list + n, sizeof list - n, "]}");
    put(from, "tokenizer_config.json", list);
    assert_refused(load(&t, from, &err), ERR_INPUT, &err, from, "tokenizer_config.json: more than 64 chat templates");
    text_free(&json);
    dir_remove(from);
    dir_remove(to);
}

/* A tokenizer.json from SentencePiece goes into a GGUF with scores that join as its merges do. */
static void merges_as_scores(void **state)
{
    (void)state;
    char dir[64];
    struct tokenizer *model, *json;
    struct checkpoint *c;
    const struct tokenizer *back;
    struct err err;
    static const char prose[] = "The quick  brown fox's 12 dogs\n\tare in the garden; d\xc3\xa9j\xc3\xa0 vu <s>";
    make_folder(dir);
    copy_world(dir, "config.json");
    copy_world(dir, "model.safetensors");
    assert_int_equal(tokenizer_load_sentencepiece(&model, "data/world/model/tokenizer.model", &err), OK);
    assert_int_equal(export_tokenizer(dir, model, NULL, 2048, &err), OK);
    assert_int_equal(load(&json, dir, &err), OK);
    char *path = path_join(dir, "tokenizer.gguf");
    assert_int_equal(export_vocabulary(path, json, &err), OK);
    assert_int_equal(checkpoint_open(&c, dir, &err), OK);
    assert_int_equal(checkpoint_tokenizer(c, &back, &err), OK);
    for (int special = 0; special < 2; special++) {
        struct tokens want = {0};
        assert_int_equal(tokenizer_encode(model, prose, sizeof prose - 1, special, &want, &err), OK);
        const struct tokenizer *others[] = {json, back};
        for (int i = 0; i < 2; i++) {
            struct tokens got = {0};
            assert_int_equal(tokenizer_encode(others[i], prose, sizeof prose - 1, special, &got, &err), OK);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, want.n * sizeof *want.id);
            tokens_free(&got);
        }
        tokens_free(&want);
    }
    checkpoint_close(c);
    tokenizer_free(model);
    tokenizer_free(json);
    free(path);
    dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_beside),       cmocka_unit_test(which_one_is_taken),
        cmocka_unit_test(copies_and_makes),   cmocka_unit_test(named_templates),
        cmocka_unit_test(listed_templates),   cmocka_unit_test(merges_as_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
