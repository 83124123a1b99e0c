/* checkpoint_files_test.c: models in one file (GGUF, llama2.c's) that break one promise, each with its sentence; permuted rows read back; what is no model. */
#include "checkpoint_fixture.h"

#include <math.h>
#include <sys/stat.h>

#include "gguf_bytes.h"
#include "io/tokenizer.h"

/* ---- a GGUF ---- */

struct recipe {
    const char *arch, *drop, *bias; /* a tensor that is left out; a bias that is added */
    int32_t heads, kv, key_length, bos;
    uint64_t pieces, q_rows;
    const char *scaling;
    bool arrays, bad_number;
};

static const struct recipe usual = {.arch = "llama", .heads = 2, .kv = 1, .key_length = 4, .bos = 1, .pieces = V, .q_rows = Q};

static void put_tensor(struct gguf_writer *w, const struct recipe *r, const char *name, uint64_t cols, uint64_t rows, const void *data)
{
    struct gguf_item item = {.format = FORMAT_F32, .n_dims = rows ? 2 : 1, .dim = {cols, rows}, .data = data};
    struct err err;
    snprintf(item.name, sizeof item.name, "%s", name);
    if (!r->drop || strcmp(r->drop, name) != 0)
        assert_int_equal(gguf_put_tensor(w, &item, &err), OK);
}

static void put_widths(struct gguf_writer *w, const struct recipe *r, const char *leaf, int32_t width)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", r->arch, leaf);
    if (r->arrays)
        gguf_put_i32s(w, name, &width, 1);
    else
        gguf_put_u32(w, name, (uint32_t)width);
}

static void put_keys(struct gguf_writer *w, const struct recipe *r)
{
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "<0x0A>", "a", "b"};
    static const float scores[6] = {0};
    static const int32_t types[] = {2, 3, 3, 6, 1, 1};
    char name[96];
    gguf_put_string(w, "general.architecture", r->arch);
    const struct {
        const char *leaf;
        uint32_t value;
    } sizes[] = {{"block_count", 1}, {"context_length", 16}, {"embedding_length", C},
                 {"attention.key_length", (uint32_t)r->key_length}, {"attention.value_length", (uint32_t)r->key_length}};
    for (size_t i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "%s.%s", r->arch, sizes[i].leaf);
        gguf_put_u32(w, name, sizes[i].value);
    }
    put_widths(w, r, "attention.head_count", r->heads);
    put_widths(w, r, "attention.head_count_kv", r->kv);
    put_widths(w, r, "feed_forward_length", F);
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", r->arch);
    gguf_put_f32(w, name, 1e-5f);
    snprintf(name, sizeof name, "%s.rope.scaling.type", r->arch);
    if (r->scaling)
        gguf_put_string(w, name, r->scaling);
    gguf_put_string(w, "tokenizer.ggml.model", "llama");
    gguf_put_strings(w, "tokenizer.ggml.tokens", pieces, r->pieces);
    gguf_put_f32s(w, "tokenizer.ggml.scores", scores, r->pieces);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, r->pieces);
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)r->bos);
}

static void put_gguf(const struct recipe *r)
{
    struct gguf_writer w = {0};
    struct err err;
    char path[256];
    float bad[64] = {0};
    fill_numbers();
    bad[9] = INFINITY;
    put_keys(&w, r);
    put_tensor(&w, r, "token_embd.weight", C, V, numbers);
    put_tensor(&w, r, "output_norm.weight", C, 0, numbers);
    put_tensor(&w, r, "blk.0.attn_norm.weight", C, 0, numbers);
    put_tensor(&w, r, "blk.0.ffn_norm.weight", C, 0, numbers);
    put_tensor(&w, r, "blk.0.attn_q.weight", C, r->q_rows, numbers);
    put_tensor(&w, r, "blk.0.attn_k.weight", C, K, numbers);
    put_tensor(&w, r, "blk.0.attn_v.weight", C, K, numbers);
    put_tensor(&w, r, "blk.0.attn_output.weight", Q, C, numbers);
    put_tensor(&w, r, "blk.0.ffn_gate.weight", C, F, numbers);
    put_tensor(&w, r, "blk.0.ffn_up.weight", C, F, r->bad_number ? bad : numbers);
    put_tensor(&w, r, "blk.0.ffn_down.weight", F, C, numbers);
    if (r->bias)
        put_tensor(&w, r, r->bias, C, 0, numbers);
    snprintf(path, sizeof path, "%s/g", dir);
    if (gguf_write(&w, path, NULL, NULL, &err) != OK)
        fail_msg("%s", err.text);
    gguf_writer_free(&w);
}

static void ggufs_that_break_one_promise(void **state)
{
    (void)state;
    static const struct {
        struct recipe r;
        const char *sentence;
    } cases[] = {
        {{"gpt2", 0, 0, 2, 1, 4, 1, V, Q, 0, 0, 0}, "g: general.architecture = 'gpt2', want llama, deci or qwen2"},
        {{"llama", "blk.0.ffn_up.weight", 0, 2, 1, 4, 1, V, Q, 0, 0, 0}, "g: tensor model.layers.0.mlp.up_proj.weight is missing"},
        {{"llama", "token_embd.weight", 0, 2, 1, 4, 1, V, Q, 0, 0, 0}, "g: tensor token_embd.weight is missing"},
        {{"llama", 0, 0, 2, 1, 4, 1, V, 12, 0, 0, 0},
         "g: model.layers.0.self_attn.q_proj.weight has shape [12, 8], the configuration wants [8, 8]"},
        {{"llama", 0, 0, 2, 1, 4, 1, 4, Q, 0, 0, 0}, "g: tokenizer.ggml.tokens has 4 pieces, token_embd.weight 5 rows"},
        {{"llama", 0, 0, 2, 1, 4, 1, 6, Q, 0, 0, 0}, "g: tokenizer.ggml.tokens has 6 pieces, token_embd.weight 5 rows"},
        {{"llama", 0, 0, 2, 1, 4, 5, V, Q, 0, 0, 0}, "g: key tokenizer.ggml.bos_token_id: got 5, want 0 to 4"},
        {{"llama", 0, 0, 3, 2, 4, 1, V, Q, 0, 0, 0}, "g: layer 0 has 3 heads, want a multiple of its 2 KV heads"},
        {{"llama", 0, 0, 0, 1, 4, 1, V, Q, 0, 0, 0}, "g: key llama.attention.head_count: got 0, want 1 to 65536"},
        {{"llama", 0, 0, 2, 1, 3, 1, V, Q, 0, 0, 0}, "g: key_length 3 and value_length 3, want the same even number from 2 to 4096"},
        {{"llama", 0, 0, 2, 1, 4, 1, V, Q, "longrope", 0, 0}, "g: llama.rope.scaling.type = 'longrope', want none, linear or yarn"},
        {{"llama", 0, 0, 2, 1, 4, 1, V, Q, "yarn", 0, 0}, "g: key llama.rope.scaling.factor is missing, want a float"},
        {{"llama", 0, 0, 2, 1, 4, 1, V, Q, "linear", 0, 0}, "g: key llama.rope.scaling.factor is missing, want a float"},
        {{"llama", 0, "blk.0.ffn_down.bias", 2, 1, 4, 1, V, Q, 0, 0, 0},
         "g: model.layers.0.mlp.down_proj.bias is there, the configuration says there is none"},
        {{"llama", 0, "blk.0.attn_q.bias", 2, 1, 4, 1, V, Q, 0, 0, 0}, "g: tensor model.layers.0.self_attn.k_proj.bias is missing"},
        {{"llama", 0, "blk.0.attn_output.bias", 2, 1, 4, 1, V, Q, 0, 0, 0},
         "g: biases on attn_output but not on attn_q, attn_k, attn_v"},
        {{"llama", 0, "rope_freqs.weight", 2, 1, 4, 1, V, Q, 0, 0, 0}, "g: rope_freqs.weight has 8 elements, want 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_gguf(&cases[i].r);
        refused("g", cases[i].sentence);
    }
}

static void a_gguf_reads_in_hugging_face_order(void **state)
{
    (void)state;
    struct checkpoint *c;
    struct err err;
    real q[Q * C], up[F * C];
    const struct tokenizer *tokenizer;
    struct recipe r = usual;
    for (int arrays = 0; arrays < 2; arrays++) { /* one width for all, or one a layer */
        r.arch = arrays ? "deci" : "llama";
        r.arrays = arrays;
        put_gguf(&r);
        assert_int_equal(open_named(&c, "g", &err), OK);
        const struct model_config *m = checkpoint_config(c);
        assert_true(m->tie_word_embeddings && m->vocab_size == V && m->num_attention_heads[0] == 2 && m->num_key_value_heads[0] == 1);
        assert_int_equal(checkpoint_read(c, "model.layers.0.self_attn.q_proj.weight", q, Q, C, &err), OK);
        /* row p D/2 + j of a head comes from row 2 j + p: of a head of 4, rows 0 2 1 3 */
        static const int from[Q] = {0, 2, 1, 3, 4, 6, 5, 7};
        for (int row = 0; row < Q; row++)
            assert_true(q[row * C] == (real)(from[row] * C) / 16);
        assert_int_equal(checkpoint_read(c, "model.layers.0.mlp.up_proj.weight", up, F, C, &err), OK);
        assert_true(up[1 * C] == (real)C / 16); /* no other tensor is permuted */
        assert_int_equal(checkpoint_tokenizer(c, &tokenizer, &err), OK);
        assert_int_equal(tokenizer_vocab_size(tokenizer), V);
        checkpoint_close(c);
    }
    r.arch = "qwen2"; /* rotates halves: nothing is permuted */
    r.arrays = false;
    r.bias = NULL;
    put_gguf(&r);
    assert_int_equal(open_named(&c, "g", &err), OK);
    assert_int_equal(checkpoint_read(c, "model.layers.0.self_attn.q_proj.weight", q, Q, C, &err), OK);
    assert_true(q[1 * C] == (real)C / 16);
    checkpoint_close(c);
    r = usual;
    r.bad_number = true;
    put_gguf(&r);
    assert_int_equal(open_named(&c, "g", &err), OK);
    assert_refused(checkpoint_read(c, "model.layers.0.mlp.up_proj.weight", up, F, C, &err), ERR_INPUT, &err, dir,
                   "g: model.layers.0.mlp.up_proj.weight[1, 1] is infinite, want a finite number");
    checkpoint_close(c);
}

/* ---- llama2.c's file ---- */

static void put_bin(const int32_t header[7], size_t floats)
{
    struct text t = {0};
    text_add(&t, (const char *)header, 28);
    for (size_t i = 0; i < floats; i++)
        f32(&t, (float)i / 16);
    put_file(dir, "m.bin", t.s, t.n);
    text_free(&t);
}

static void a_llama2c_file(void **state)
{
    (void)state;
    enum { T = 16, BODY = V * C + C + Q * C + 2 * K * C + C * Q + C + 3 * F * C + C + T * 4 };
    const int32_t good[7] = {C, F, 1, 2, 1, V, T}, untied[7] = {C, F, 1, 2, 1, -V, T};
    struct checkpoint *c;
    struct err err;
    real q[Q * C], head[V * C];
    put_bin(good, BODY);
    assert_int_equal(open_named(&c, "m.bin", &err), OK);
    assert_true(checkpoint_config(c)->tie_word_embeddings && !checkpoint_has(c, "lm_head.weight"));
    assert_int_equal(checkpoint_read(c, "model.layers.0.self_attn.q_proj.weight", q, Q, C, &err), OK);
    assert_true(q[1 * C] == (real)(V * C + C + 2 * C) / 16); /* after embedding and norm, row 2 of the interleaved head */
    checkpoint_close(c);
    put_bin(untied, BODY + V * C);
    assert_int_equal(open_named(&c, "m.bin", &err), OK);
    assert_int_equal(checkpoint_read(c, "lm_head.weight", head, V, C, &err), OK);
    assert_true(head[0] == (real)BODY / 16);
    checkpoint_close(c);
    static const struct {
        int32_t header[7];
        const char *sentence;
    } cases[] = {
        {{0, F, 1, 2, 1, V, T}, "m.bin: dim = 0, want 1 to 65536"},
        {{C, F, -1, 2, 1, V, T}, "m.bin: n_layers = -1, want 1 to 1024"},
        {{C, F, 1, 2, 1, INT32_MIN, T}, "m.bin: vocab_size = -2147483648, want 1 to 4000000"},
        {{C, F, 1, 3, 1, V, T}, "m.bin: dim 8, n_heads 3, n_kv_heads 1 do not divide each other"},
        {{C, F, 2, 2, 1, V, T}, "m.bin: has 2076 bytes, its header wants 3676"},
        {{C, F, 1, 2, 1, -V, T}, "m.bin: has 2076 bytes, its header wants 2236"},
        {{65536, 1 << 20, 1024, 1024, 1024, 4000000, 1 << 20}, "m.bin: has 2076 bytes, its header wants 915843055878172"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_bin(cases[i].header, BODY);
        refused("m.bin", cases[i].sentence);
    }
    put_file(dir, "m.bin", good, 20);
    refused("m.bin", "m.bin: 28 bytes at byte 0 are wanted, the file has 20");
}

/* ---- no model at all ---- */

static void paths_that_are_no_model(void **state)
{
    (void)state;
    char fifo[256];
    put_file(dir, "page.gguf", "<!DOCTYPE html>", 15);
    refused("page.gguf", "page.gguf: is no model: want a folder with config.json, a GGUF file or a llama2.c .bin");
    put_file(dir, "empty", "", 0);
    refused("empty", "empty: is no model: want a folder with config.json, a GGUF file or a llama2.c .bin");
    refused("none", "none: No such file or directory");
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    refused("fifo", "fifo: is a device, pipe or socket, want a regular file"); /* and nobody waits for a writer */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ggufs_that_break_one_promise),       cmocka_unit_test(a_gguf_reads_in_hugging_face_order),
        cmocka_unit_test(a_llama2c_file),                     cmocka_unit_test(paths_that_are_no_model),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
