/* adapter_golden_test.c: a PEFT folder (golden/train/adapter: rank_pattern, alpha_pattern) read, applied, merged, written and read again;
 * what is refused.  Tolerance 1e-4 on logits: README of the folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "export.h"
#include "golden_tensors.h"
#include "inference.h"
#include "model_fixture.h"
#include "refused.h"

static const double tolerance = 1e-4;

struct loaded {
    struct checkpoint *checkpoint;
    struct plan plan;
    struct fixture f;
};

static void load(struct loaded *m, const char *adapter)
{
    char path[512], name[256];
    struct json *json = golden_json("train/train.json");
    const char *model;
    assert_non_null(json);
    CHECK(json_string(json, "model", "train.json", &model, &err));
    const char *leaf = strrchr(model, '/') ? strrchr(model, '/') + 1 : model;
    snprintf(name, sizeof name, "llama/%.200s", leaf);
    CHECK(checkpoint_open(&m->checkpoint, golden_path(path, name), &err));
    json_free(json);
    CHECK(plan_new(&m->plan, checkpoint_config(m->checkpoint), FORMAT_F32, &err));
    CHECK(adapter_read_plan(&m->plan, checkpoint_config(m->checkpoint), adapter, &err));
    fixture_open(&m->f, checkpoint_config(m->checkpoint), &m->plan, (struct fixture_options){.max_n = FIXTURE_ROWS, .threads = 1, .scoring = true});
    CHECK(model_load(&m->f.model, m->checkpoint, &err));
    CHECK(adapter_read_weights(&m->f.lora, adapter, &err));
}

static void unload(struct loaded *m)
{
    fixture_close(&m->f);
    plan_free(&m->plan);
    checkpoint_close(m->checkpoint);
}

static const char *golden_adapter(void)
{
    static char path[512];
    return golden_path(path, "train/adapter");
}

/* ---- applied ---- */

/* One segment a row; pads, whose golden logits are all zero, come last and change nothing before them. */
static void compare_logits(struct loaded *m, const struct lora *lora, const struct safetensors *st, const char *what)
{
    static struct fixture_batch b;
    const struct st_tensor *ids = safetensors_find(st, "input_ids");
    int32_t *tokens = golden_bytes(st, ids);
    double *want = golden_doubles(st, safetensors_find(st, what));
    size_t T = ids->dim[1], V = (size_t)m->f.model.config.vocab_size, compared = 0;
    const real *x;
    memset(&b, 0, sizeof b);
    for (size_t i = 0; i < ids->elements; i++) {
        if (i % T == 0)
            begin_segment(&b);
        add_row(&b, tokens[i], (int32_t)(i % T), -1);
    }
    real *got = malloc(b.batch.n * V * sizeof *got);
    assert_non_null(got);
    CHECK(model_hidden(&m->f.run, &m->f.model, lora, &b.batch, &x, &err));
    model_logits(&m->f.run, &m->f.model, x, b.batch.n, got);
    for (size_t r = 0; r < b.batch.n; r++) {
        bool pad = true;
        for (size_t v = 0; v < V; v++)
            pad = pad && want[r * V + v] == 0;
        for (size_t v = 0; v < V && !pad; v++, compared++)
            if (!(fabs((double)got[r * V + v] - want[r * V + v]) <= tolerance))
                fail_msg("%s[%zu, %zu] is %.9g, want %.9g", what, r, v, (double)got[r * V + v], want[r * V + v]);
    }
    assert_true(compared > 0);
    free(got);
    free(want);
    free(tokens);
}

static void applied(void **state)
{
    (void)state;
    struct loaded m;
    struct safetensors st;
    load(&m, golden_adapter());
    golden_open(&st, "train/adapter_check.safetensors");
    compare_logits(&m, &m.f.lora, &st, "logits");
    compare_logits(&m, NULL, &st, "logits_base");
    safetensors_close(&st);
    unload(&m);
}

/* W + s B A against PEFT's merge_and_unload: both in float32, r + 1 roundings of numbers below `most` each. */
static void merged(void **state)
{
    (void)state;
    struct loaded m;
    struct safetensors st;
    int found = 0;
    load(&m, golden_adapter());
    golden_open(&st, "train/adapter_check.safetensors");
    for (int i = 0; i < m.plan.n_layers * LINEAR_COUNT; i++) {
        char module[64];
        int l = i / LINEAR_COUNT, j = i % LINEAR_COUNT;
        const struct qmat *q = &m.f.model.layer[l].linear[j];
        plan_name(l, (enum linear)j, module);
        const struct st_tensor *t = golden_find(&st, "merged.%s.weight", module);
        if (!t)
            continue;
        assert_int_equal(t->elements, q->rows * q->cols);
        double *want = golden_doubles(&st, t), most = 0;
        real *got = malloc(t->elements * sizeof *got);
        assert_non_null(got);
        export_merged(&m.f.model, &m.f.lora, l, (enum linear)j, got);
        for (size_t e = 0; e < t->elements; e++)
            most = fabs(want[e]) > most ? fabs(want[e]) : most;
        for (size_t e = 0; e < t->elements; e++)
            assert_true(fabs((double)got[e] - want[e]) <= (m.plan.layer[l].linear[j].rank + 2) * 6e-8 * (most + 1));
        free(got);
        free(want);
        found++;
    }
    assert_true(found > 0);
    safetensors_close(&st);
    unload(&m);
}

/* ---- written and read again: the same ranks, alphas and bits ---- */

static void written_and_read(void **state)
{
    (void)state;
    struct loaded a, b;
    char dir[64], command[96];
    make_folder(dir);
    load(&a, golden_adapter());
    CHECK(export_adapter(dir, &a.f.lora, &a.plan, "base", &err));
    load(&b, dir);
    assert_int_equal(a.plan.use_rslora, b.plan.use_rslora);
    for (int i = 0; i < a.plan.n_layers * LINEAR_COUNT; i++) {
        const struct plan_linear *p = &a.plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        const struct plan_linear *q = &b.plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        assert_int_equal(p->rank, q->rank);
        assert_true(p->alpha == q->alpha);
    }
    assert_int_equal(a.f.lora.n, b.f.lora.n);
    assert_memory_equal(a.f.lora.p, b.f.lora.p, a.f.lora.n * sizeof(real));
    unload(&a);
    unload(&b);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* ---- refused ---- */

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *config, *sentence;
    } cases[] = {
        {"{\"peft_type\": \"IA3\"}", "adapter_config.json.peft_type: 'IA3', want LORA"},
        {"{\"r\": 8}", "adapter_config.json.peft_type: is missing, want a string"},
        {"{\"peft_type\": \"LORA\", \"use_dora\": true}", "adapter_config.json.use_dora: DoRA adapters are not read, merge it with PEFT first"},
        {"{\"peft_type\": \"LORA\", \"bias\": \"all\"}", "adapter_config.json.bias: 'all', want none"},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]}", "adapter_config.json.modules_to_save: full copies of modules are not read"},
        {"{\"peft_type\": \"LORA\", \"r\": 0, \"target_modules\": [\"q_proj\"]}", "adapter_config.json.r: got 0, want an integer from 1 to 65536"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"(\": 2}}",
         "adapter_config.json.rank_pattern: '(' is no regular expression"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"q_proj\": 2.5}}",
         "adapter_config.json: rank 2.5 of model.layers.0.self_attn.q_proj, want 1 to 65536"},
    };
    struct loaded m;
    char dir[64], command[96];
    struct err err;
    make_folder(dir);
    load(&m, golden_adapter());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_file(dir, "adapter_config.json", cases[i].config, strlen(cases[i].config));
        assert_refused(adapter_read_plan(&m.plan, &m.f.model.config, dir, &err), ERR_INPUT, &err, dir, cases[i].sentence);
    }
    unload(&m);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(applied), cmocka_unit_test(merged), cmocka_unit_test(written_and_read), cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
