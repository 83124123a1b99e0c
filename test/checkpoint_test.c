/* checkpoint_test.c: folders on disk that break one promise, each with its sentence; packed weights and shards read back. */
#include "checkpoint_fixture.h"

#include <math.h>

#include "io/safetensors.h"

/* ---- a folder ---- */

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"vocab_size\":5,\"rms_norm_eps\":1e-5,\"head_dim\":4}";

enum { EMBED, NORM, IN_NORM, POST_NORM, PROJ_Q, PROJ_K, PROJ_V, PROJ_O, GATE, UP, DOWN, HEAD, N_ITEMS };

static size_t usual_items(struct st_item *item)
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } all[N_ITEMS] = {
        {"model.embed_tokens.weight", V, C}, {"model.norm.weight", 0, C},
        {"model.layers.0.input_layernorm.weight", 0, C}, {"model.layers.0.post_attention_layernorm.weight", 0, C},
        {"model.layers.0.self_attn.q_proj.weight", Q, C}, {"model.layers.0.self_attn.k_proj.weight", K, C},
        {"model.layers.0.self_attn.v_proj.weight", K, C}, {"model.layers.0.self_attn.o_proj.weight", C, Q},
        {"model.layers.0.mlp.gate_proj.weight", F, C}, {"model.layers.0.mlp.up_proj.weight", F, C},
        {"model.layers.0.mlp.down_proj.weight", C, F}, {"lm_head.weight", V, C},
    };
    fill_numbers();
    for (size_t i = 0; i < N_ITEMS; i++)
        item[i] = (struct st_item){.name = all[i].name, .dtype = ST_F32, .n_dims = all[i].rows ? 2 : 1,
                                   .dim = {all[i].rows ? all[i].rows : all[i].cols, all[i].cols}, .data = numbers};
    return N_ITEMS;
}

static void put_folder(const char *json, const struct st_item *item, size_t n)
{
    char path[256];
    struct err err;
    put_file(dir, "config.json", json, strlen(json));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (safetensors_write(path, item, n, NULL, NULL, NULL, &err) != OK)
        fail_msg("%s", err.text);
}

static void folders_that_break_one_promise(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS + 4];
    char path[256];
    refused("", "config.json: No such file or directory");
    put_file(dir, "config.json", config, sizeof config - 1);
    refused("", "holds config.json and no weights, want model.safetensors beside it (train --plan needs none)");

    put_folder(config, item, usual_items(item) - 2); /* no down_proj (and no head, which is then the embedding) */
    refused("", "tensor model.layers.0.mlp.down_proj.weight is missing");
    usual_items(item);
    item[PROJ_K].dim[0] = 8;
    put_folder(config, item, N_ITEMS);
    refused("", "model.layers.0.self_attn.k_proj.weight has shape [8, 8], the configuration wants [4, 8]");
    usual_items(item);
    item[EMBED].dim[0] = 6;
    put_folder(config, item, N_ITEMS);
    refused("", "model.embed_tokens.weight has shape [6, 8], the configuration wants [5, 8]");
    usual_items(item);
    item[HEAD].dim[0] = 4;
    put_folder(config, item, N_ITEMS);
    refused("", "lm_head.weight has shape [4, 8], the configuration wants [5, 8]");
    usual_items(item);
    item[UP].dtype = ST_I32;
    put_folder(config, item, N_ITEMS);
    refused("", "model.layers.0.mlp.up_proj.weight is stored as I32, want F32, F16, BF16 or bitsandbytes' nf4, fp4, int8");
    usual_items(item);
    item[NORM].n_dims = 3;
    item[NORM].dim[1] = item[NORM].dim[2] = 1;
    put_folder(config, item, N_ITEMS);
    refused("", "model.norm.weight has 3 dimensions, want 1 or 2");
    usual_items(item);
    item[N_ITEMS] = (struct st_item){.name = "model.layers.0.mlp.up_proj.bias", .dtype = ST_F32, .n_dims = 1, .dim = {F}, .data = numbers};
    put_folder(config, item, N_ITEMS + 1);
    refused("", "model.layers.0.mlp.up_proj.bias is there, the configuration says there is none");
    put_folder("{\"model_type\":\"gemma\"}", item, usual_items(item));
    refused("", "config.json.model_type: got gemma, want llama, mistral or qwen2");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(truncate(path, 100), 0);
    put_file(dir, "config.json", config, sizeof config - 1);
    struct checkpoint *c;
    struct err err;
    assert_int_equal(open_named(&c, "", &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "model.safetensors: at byte 0: a header of "));
}

static struct checkpoint *open_folder(void)
{
    struct checkpoint *c = NULL;
    struct err err;
    if (open_named(&c, "", &err) != OK)
        fail_msg("%s", err.text);
    return c;
}

static void a_number_that_is_none_is_named(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS];
    struct err err;
    real value[C * F];
    float bad[C * F] = {0};
    usual_items(item);
    item[DOWN].data = bad;
    bad[2 * F + 3] = NAN;
    put_folder(config, item, N_ITEMS);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_read(c, item[DOWN].name, value, C, F, &err), ERR_INPUT);
    assert_string_equal(err.text + strlen(dir) + 2, "model.layers.0.mlp.down_proj.weight[2, 3] is NaN, want a finite number");
    checkpoint_close(c);
    bad[2 * F + 3] = -INFINITY;
    put_folder(config, item, N_ITEMS);
    c = open_folder();
    assert_int_equal(checkpoint_read(c, item[DOWN].name, value, C, F, &err), ERR_INPUT);
    assert_string_equal(err.text + strlen(dir) + 2, "model.layers.0.mlp.down_proj.weight[2, 3] is infinite, want a finite number");
    assert_int_equal(checkpoint_read(c, "model.norm.weight", value, 1, C, &err), OK);
    assert_true(value[5] == (real)5 / 16);
    assert_int_equal(checkpoint_read(c, "model.norm.weight", value, 1, C + 1, &err), ERR_INPUT); /* not what is there */
    assert_int_equal(checkpoint_read(c, "model.norm.bias", value, 1, C, &err), ERR_INPUT);
    struct qmat shape;
    assert_int_equal(checkpoint_format(c, "nothing", &shape, &err), ERR_INPUT);
    assert_string_equal(err.text + strlen(dir) + 2, "tensor nothing is missing");
    checkpoint_close(c);
}

static void shards_are_one_model(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS];
    struct err err;
    char path[256];
    struct text map = {0};
    real value[C];
    usual_items(item);
    for (int k = 0; k < 2; k++) {
        snprintf(path, sizeof path, "%s/s%d", dir, k);
        assert_int_equal(safetensors_write(path, item + 6 * k, 6, NULL, NULL, NULL, &err), OK);
    }
    for (int i = 0; i < N_ITEMS; i++)
        text_printf(&map, "%s\"%s\":\"s%d\"", i ? "," : "{\"weight_map\":{", item[i].name, i / 6);
    text_puts(&map, "}}");
    put_file(dir, "model.safetensors.index.json", map.s, map.n);
    put_file(dir, "config.json", config, sizeof config - 1);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_read(c, "model.norm.weight", value, 1, C, &err), OK);
    assert_true(checkpoint_has(c, "lm_head.weight"));
    checkpoint_close(c);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    unlink(path);
    text_free(&map);
}

/* ---- packed weights in a folder ---- */

static const char state_json[] = "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"float32\",\"shape\":[8,8]}";
#define DOWN_NAME "model.layers.0.mlp.down_proj.weight"

/* The usual items with down_proj in nf4, as bitsandbytes stores it. */
static size_t nf4_items(struct st_item *item, const struct qmat *q)
{
    size_t n = usual_items(item) - 1; /* a head that is not there is the embedding */
    item[DOWN] = (struct st_item){.name = DOWN_NAME, .dtype = ST_U8, .n_dims = 2, .dim = {32, 1}, .data = q->codes};
    item[n++] = (struct st_item){.name = DOWN_NAME ".absmax", .dtype = ST_F32, .n_dims = 1, .dim = {1}, .data = q->scales};
    item[n++] = (struct st_item){.name = DOWN_NAME ".quant_map", .dtype = ST_F32, .n_dims = 1, .dim = {16}, .data = quant_nf4_table};
    item[n++] = (struct st_item){.name = DOWN_NAME ".quant_state.bitsandbytes__nf4", .dtype = ST_U8, .n_dims = 1,
                                 .dim = {sizeof state_json - 1}, .data = state_json};
    return n;
}

static void encode(struct qmat *q, struct arena *arena, enum format format, real *decoded)
{
    struct err err;
    real W[64];
    for (size_t i = 0; i < 64; i++)
        W[i] = sinf((float)i);
    quant_place(q, format, 0, false, 8, 8, arena);
    assert_int_equal(arena_commit(arena, "test", &err), OK);
    quant_place(q, format, 0, false, 8, 8, arena);
    assert_int_equal(quant_encode(q, W, false, &err), OK);
    quant_decode_rows(q, 0, 8, decoded);
}

static void packed_nf4_reads_back(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS + 4];
    struct arena one = {0}, two = {0};
    struct qmat q, shape, back;
    struct err err;
    real want[64], got[64];
    encode(&q, &one, FORMAT_NF4, want);
    put_folder(config, item, nf4_items(item, &q));
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_format(c, DOWN_NAME, &shape, &err), OK);
    assert_true(shape.format == FORMAT_NF4 && shape.block == 64 && !shape.double_quant && shape.rows == 8);
    assert_int_equal(checkpoint_read(c, DOWN_NAME, got, 8, 8, &err), OK);
    assert_memory_equal(got, want, sizeof want);
    encode(&back, &two, FORMAT_NF4, got);
    memset(back.codes, 0, 32);
    assert_int_equal(checkpoint_read_codes(c, DOWN_NAME, &back, &err), OK);
    assert_memory_equal(back.codes, q.codes, 32);
    back.block = 128;
    assert_int_equal(checkpoint_read_codes(c, DOWN_NAME, &back, &err), ERR_FAILED); /* not the very same format */
    checkpoint_close(c);
    arena_free(&one);
    arena_free(&two);
}

static void packed_nf4_that_breaks_one_promise(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS + 4];
    struct arena arena = {0};
    struct qmat q;
    struct err err;
    real decoded[64];
    char text[128];
    float book[16];
    encode(&q, &arena, FORMAT_NF4, decoded);
    size_t n = nf4_items(item, &q);
    item[DOWN].dim[0] = 31;
    put_folder(config, item, n);
    refused("", DOWN_NAME " has 31 elements of U8, want 32 of U8");
    nf4_items(item, &q);
    item[HEAD].dim[0] = 2;
    put_folder(config, item, n);
    refused("", DOWN_NAME ".absmax has 2 elements of F32, want 1 of F32");
    nf4_items(item, &q);
    item[HEAD] = item[HEAD + 2]; /* the state alone */
    put_folder(config, item, n - 2);
    refused("", DOWN_NAME " has no absmax, want 1 elements of F32");
    static const char *const states[][2] = {
        {"{\"quant_type\":\"fp4\",\"blocksize\":64,\"shape\":[8,8]}", DOWN_NAME ".quant_state.bitsandbytes__nf4.quant_type: got fp4, want nf4"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":0,\"shape\":[8,8]}",
         DOWN_NAME ".quant_state.bitsandbytes__nf4.blocksize: got 0, want an integer from 32 to 4096"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":65,\"shape\":[8,8]}",
         DOWN_NAME ": block = 65 for nf4, want a power of two from 32 to 4096"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[8]}", DOWN_NAME ".quant_state.bitsandbytes__nf4.shape has 1 numbers, want 2"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[4,16]}", DOWN_NAME " has shape [4, 16], the configuration wants [8, 8]"},
        {"{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[1073741824,1073741824]}",
         DOWN_NAME " has 32 elements of U8, want 576460752303423488 of U8"},
        {"{", DOWN_NAME ".quant_state.bitsandbytes__nf4: at byte 1: want the name of a member"},
    };
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        nf4_items(item, &q);
        item[n - 1].data = states[i][0];
        item[n - 1].dim[0] = strlen(states[i][0]);
        put_folder(config, item, n);
        struct checkpoint *c;
        assert_int_equal(open_named(&c, "", &err), ERR_INPUT);
        const char *said = strstr(err.text, DOWN_NAME);
        assert_non_null(said);
        assert_string_equal(said, states[i][1]);
    }
    nf4_items(item, &q);
    memcpy(book, quant_nf4_table, sizeof book);
    book[9] += 0.01f;
    item[HEAD + 1].data = book;
    put_folder(config, item, n);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_read(c, DOWN_NAME, decoded, 8, 8, &err), ERR_INPUT); /* other weights than the file means */
    snprintf(text, sizeof text, DOWN_NAME ".quant_map[9]: got %.7g, want %.7g", (double)book[9], (double)quant_nf4_table[9]);
    assert_string_equal(err.text + strlen(dir) + 2, text);
    checkpoint_close(c);
    nf4_items(item, &q);
    q.scales[0] = -1;
    put_folder(config, item, n);
    c = open_folder();
    assert_int_equal(checkpoint_read(c, DOWN_NAME, decoded, 8, 8, &err), ERR_INPUT);
    assert_string_equal(err.text + strlen(dir) + 2, "scale 0 of " DOWN_NAME " is -1, want a finite one that is not negative");
    checkpoint_close(c);
    arena_free(&arena);
}

/* Affine groups lie as values, with the scales and zeros that give their codes back. */
static void affine_groups(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS + 1];
    struct arena one = {0}, two = {0};
    struct qmat q, shape, back;
    struct err err;
    real want[64], got[64];
    encode(&q, &one, FORMAT_HQQ3, want);
    size_t n = usual_items(item) - 1;
    item[DOWN] = (struct st_item){.name = DOWN_NAME, .dtype = ST_F32, .n_dims = 2, .dim = {8, 8}, .data = want};
    item[n++] = (struct st_item){.name = DOWN_NAME ".hqq3", .dtype = ST_F16, .n_dims = 2, .dim = {1, 2}, .data = q.affine};
    put_folder(config, item, n);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_format(c, DOWN_NAME, &shape, &err), OK);
    assert_true(shape.format == FORMAT_HQQ3 && shape.block == 128 && shape.rows == 8);
    assert_int_equal(checkpoint_read(c, DOWN_NAME, got, 8, 8, &err), OK);
    assert_memory_equal(got, want, sizeof want);
    encode(&back, &two, FORMAT_HQQ3, got);
    memset(back.codes, 0, 24);
    memset(back.affine, 0, 4);
    assert_int_equal(checkpoint_read_codes(c, DOWN_NAME, &back, &err), OK);
    assert_memory_equal(back.codes, q.codes, 24);
    assert_memory_equal(back.affine, q.affine, 4);
    checkpoint_close(c);
    want[9] += 0.001f;
    put_folder(config, item, n);
    c = open_folder();
    assert_int_equal(checkpoint_read_codes(c, DOWN_NAME, &back, &err), ERR_INPUT);
    char text[160];
    snprintf(text, sizeof text, DOWN_NAME "[9] is %.9g, the nearest value of its group in " DOWN_NAME ".hqq3 is %.9g", (double)want[9],
             (double)got[9]);
    assert_string_equal(err.text + strlen(dir) + 2, text);
    checkpoint_close(c);
    q.affine[1] = 0x7e00;
    put_folder(config, item, n);
    c = open_folder();
    assert_int_equal(checkpoint_read_codes(c, DOWN_NAME, &back, &err), ERR_INPUT);
    assert_string_equal(err.text + strlen(dir) + 2, DOWN_NAME ".hqq3 holds a scale or a zero that is not finite");
    checkpoint_close(c);
    item[n - 1].dim[1] = 1;
    put_folder(config, item, n);
    refused("", DOWN_NAME ".hqq3 has 1 elements of F16, want 2 of F16");
    arena_free(&one);
    arena_free(&two);
}

static void packed_int8(void **state)
{
    (void)state;
    struct st_item item[N_ITEMS + 4];
    struct arena arena = {0};
    struct qmat q, shape;
    struct err err;
    real want[64], got[64];
    uint8_t order = 0;
    encode(&q, &arena, FORMAT_INT8, want);
    usual_items(item);
    item[DOWN].dtype = ST_I8;
    item[DOWN].data = q.codes;
    item[HEAD] = (struct st_item){.name = "model.layers.0.mlp.down_proj.SCB", .dtype = ST_F32, .n_dims = 1, .dim = {8}, .data = q.scales};
    item[N_ITEMS] = (struct st_item){.name = DOWN_NAME "_format", .dtype = ST_U8, .n_dims = 0, .data = &order};
    put_folder(config, item, N_ITEMS + 1);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_format(c, DOWN_NAME, &shape, &err), OK);
    assert_int_equal(shape.format, FORMAT_INT8);
    assert_int_equal(checkpoint_read(c, DOWN_NAME, got, 8, 8, &err), OK);
    assert_memory_equal(got, want, sizeof want);
    checkpoint_close(c);
    order = 1;
    put_folder(config, item, N_ITEMS + 1);
    refused("", DOWN_NAME "_format: got 1, want 0 (plain rows)");
    item[HEAD].dim[0] = 7;
    put_folder(config, item, N_ITEMS);
    refused("", "model.layers.0.mlp.down_proj.SCB has 7 elements of F32, want 8 of F32");
    put_folder(config, item, N_ITEMS - 1);
    refused("", DOWN_NAME " is stored as I8, want F32, F16, BF16 or bitsandbytes' nf4, fp4, int8");
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_that_break_one_promise),     cmocka_unit_test(a_number_that_is_none_is_named),
        cmocka_unit_test(shards_are_one_model),               cmocka_unit_test(packed_nf4_reads_back),
        cmocka_unit_test(packed_nf4_that_breaks_one_promise), cmocka_unit_test(affine_groups),
        cmocka_unit_test(packed_int8),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
