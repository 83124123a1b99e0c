/* train_golden_test.c: LoRA steps against PEFT, torch AdamW and transformers' schedule: loss, norm, first gradient, final adapters.
 *
 * The golden rows are padded on the right; here they lie one after the other without their pads, and every step's rows come out of
 * the data order by filling the dataset backwards through it.  Everything of a case is read from train.json and its arrays. */
#include "toy.h"

#include "golden.h"

#include <math.h>
#include <stdio.h>

#include "finetune.h"
#include "io/json.h"
#include "io/safetensors.h"

struct common {
    struct json *root;
    struct safetensors weights, data, nf4;
    struct model_config config;
    int64_t steps, accumulation, nf4_block, warmup;
    double lr, beta1, beta2, eps, clip;
    int64_t micros, rows, columns; /* shape of the data */
    int32_t *tokens, *labels, *mask;
};

/* ---- reading ---- */

static int64_t integer(const struct json *object, const char *key)
{
    struct err err;
    int64_t out = 0;
    ASSERT_OK(json_int(object, key, "train.json", 0, 1000000, &out, &err));
    return out;
}

static double number(const struct json *object, const char *key)
{
    struct err err;
    double out = NAN;
    ASSERT_OK(json_number(object, key, "train.json", &out, &err));
    return out;
}

static double item(const struct json *object, const char *key, size_t i)
{
    struct err err;
    const struct json *array;
    double out = NAN;
    ASSERT_OK(json_array(object, key, "train.json", &array, &err));
    ASSERT_OK(json_as_number(json_at(array, i), key, &out, &err));
    return out;
}

static const struct st_tensor *tensor(const struct safetensors *st, const char *format, ...)
{
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const struct st_tensor *t = safetensors_find(st, name);
    if (!t)
        fail_msg("no tensor %s", name);
    return t;
}

static void read_real(const struct safetensors *st, const struct st_tensor *t, real *to, size_t n)
{
    struct err err;
    assert_int_equal(t->elements, n);
    ASSERT_OK(safetensors_read_real(st, t, 0, n, to, &err));
}

static int32_t *read_ints(const struct safetensors *st, const char *name)
{
    struct err err;
    const struct st_tensor *t = tensor(st, "%s", name);
    assert_int_equal(t->dtype, ST_I32);
    int32_t *to = malloc(t->elements * sizeof *to);
    assert_non_null(to);
    ASSERT_OK(safetensors_read(st, t, 0, to, t->elements * sizeof *to, &err));
    return to;
}

static void open_file(struct safetensors *st, const char *name)
{
    struct err err;
    char path[512];
    ASSERT_OK(safetensors_open(st, golden_path(path, name), &err));
}

static void open_config(struct common *c, const char *model)
{
    struct err err;
    char name[128], path[512], *text;
    size_t n;
    snprintf(name, sizeof name, "llama/%s/config.json", model);
    ASSERT_OK(file_read(golden_path(path, name), 1 << 20, &text, &n, &err));
    ASSERT_OK(model_config_parse(&c->config, text, n, path, &err));
    free(text);
    snprintf(name, sizeof name, "llama/%s/model.safetensors", model);
    open_file(&c->weights, name);
}

static void open_common(struct common *c)
{
    struct err err;
    const char *model;
    memset(c, 0, sizeof *c);
    c->root = golden_json("train/train.json");
    assert_non_null(c->root);
    ASSERT_OK(json_string(c->root, "model", "train.json", &model, &err));
    open_config(c, model);
    open_file(&c->data, "train/data.safetensors");
    open_file(&c->nf4, "train/nf4_base.safetensors");
    c->steps = integer(c->root, "steps");
    c->accumulation = integer(c->root, "accumulation");
    c->nf4_block = integer(c->root, "nf4_block");
    c->warmup = integer(c->root, "warmup");
    c->lr = number(c->root, "lr");
    c->eps = number(c->root, "eps");
    c->clip = number(c->root, "clip");
    c->beta1 = item(c->root, "betas", 0);
    c->beta2 = item(c->root, "betas", 1);
    const struct st_tensor *t = tensor(&c->data, "input_ids");
    assert_int_equal(t->n_dims, 3);
    c->micros = (int64_t)t->dim[0];
    c->rows = (int64_t)t->dim[1];
    c->columns = (int64_t)t->dim[2];
    c->tokens = read_ints(&c->data, "input_ids");
    c->labels = read_ints(&c->data, "labels");
    c->mask = read_ints(&c->data, "attention_mask");
}

static void close_common(struct common *c)
{
    json_free(c->root);
    safetensors_close(&c->weights);
    safetensors_close(&c->data);
    safetensors_close(&c->nf4);
    model_config_free(&c->config);
    free(c->tokens);
    free(c->labels);
    free(c->mask);
}

/* ---- data ---- */

/* Row `row` of micro-batch `micro` without its pads; labels move one to the left: a row predicts the next token. */
static void fill_example(const struct common *c, struct example *e, int64_t micro, int64_t row)
{
    const size_t at = (size_t)((micro * c->rows + row) * c->columns);
    e->tokens = calloc((size_t)c->columns, sizeof *e->tokens);
    e->labels = calloc((size_t)c->columns, sizeof *e->labels);
    assert_true(e->tokens && e->labels);
    e->n = 0;
    for (int64_t t = 0; t < c->columns && c->mask[at + (size_t)t]; t++) {
        e->tokens[e->n] = c->tokens[at + (size_t)t];
        bool next = t + 1 < c->columns && c->mask[at + (size_t)t + 1] && c->labels[at + (size_t)t + 1] >= 0;
        e->labels[e->n++] = next ? c->labels[at + (size_t)t + 1] : -1;
    }
}

/* One epoch holds all steps: sequence s of the run is example order[s] of the dataset. */
static void make_dataset(const struct common *c, uint64_t seed, struct dataset *d)
{
    size_t n = (size_t)(c->steps * c->accumulation * c->rows);
    uint32_t *order = malloc(n * sizeof *order);
    memset(d, 0, sizeof *d);
    d->example = calloc(n, sizeof *d->example);
    assert_true(order && d->example);
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    struct rng rng = {.seed = seed, .stream = RNG_DATA_ORDER, .step = 0};
    rng_shuffle(&rng, order, n);
    d->n = n;
    for (size_t s = 0; s < n; s++) {
        struct example *e = &d->example[order[s]];
        fill_example(c, e, (int64_t)(s / (size_t)c->rows) % c->micros, (int64_t)(s % (size_t)c->rows));
        d->longest = e->n > d->longest ? e->n : d->longest;
        d->tokens += (uint64_t)e->n;
    }
    free(order);
}

/* ---- a case's model ---- */

static void make_plan(const struct common *c, const struct json *scenario, const struct safetensors *arrays, bool nf4, struct plan *plan)
{
    struct err err;
    const struct json *scaling;
    ASSERT_OK(plan_new(plan, &c->config, FORMAT_F32, &err));
    ASSERT_OK(json_object(scenario, "scaling", "train.json", &scaling, &err));
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[64];
            plan_name(l, (enum linear)j, name);
            struct plan_linear *p = &plan->layer[l].linear[j];
            p->rank = (int32_t)tensor(arrays, "init.base_model.model.%s.lora_A.weight", name)->dim[0];
            p->alpha = (float)(number(scaling, name) * p->rank);
            if (nf4) {
                p->format = FORMAT_NF4;
                p->block = (int32_t)c->nf4_block;
            }
        }
}

static void load_linear(const struct common *c, struct qmat *q, const char *name)
{
    struct err err;
    if (q->format == FORMAT_F32) {
        read_real(&c->weights, tensor(&c->weights, "%s.weight", name), q->codes, q->rows * q->cols);
        return;
    }
    const struct st_tensor *codes = tensor(&c->nf4, "%s.packed", name), *scales = tensor(&c->nf4, "%s.absmax", name);
    assert_int_equal(codes->bytes, (q->rows * q->cols + 1) / 2);
    assert_int_equal(scales->elements, (q->rows * q->cols + (size_t)q->block - 1) / (size_t)q->block);
    ASSERT_OK(safetensors_read(&c->nf4, codes, 0, q->codes, codes->bytes, &err));
    ASSERT_OK(safetensors_read(&c->nf4, scales, 0, q->scales, scales->bytes, &err));
}

static void load_weights(const struct common *c, struct model *model)
{
    size_t C = (size_t)c->config.hidden_size, V = (size_t)c->config.vocab_size;
    read_real(&c->weights, tensor(&c->weights, "model.embed_tokens.weight"), model->embed.codes, V * C);
    if (!c->config.tie_word_embeddings)
        read_real(&c->weights, tensor(&c->weights, "lm_head.weight"), model->head.codes, V * C);
    read_real(&c->weights, tensor(&c->weights, "model.norm.weight"), model->norm, C);
    for (int l = 0; l < c->config.num_hidden_layers; l++) {
        struct model_layer *layer = &model->layer[l];
        read_real(&c->weights, tensor(&c->weights, "model.layers.%d.input_layernorm.weight", l), layer->input_norm, C);
        read_real(&c->weights, tensor(&c->weights, "model.layers.%d.post_attention_layernorm.weight", l), layer->post_norm, C);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[64];
            plan_name(l, (enum linear)j, name);
            load_linear(c, &layer->linear[j], name);
            if (layer->bias[j])
                read_real(&c->weights, tensor(&c->weights, "%s.bias", name), layer->bias[j], layer->linear[j].rows);
        }
    }
}

static void load_adapters(const struct safetensors *arrays, struct lora *lora)
{
    for (int l = 0; l < lora->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[64];
            const struct adapter *a = &lora->adapter[l][j];
            plan_name(l, (enum linear)j, name);
            read_real(arrays, tensor(arrays, "init.base_model.model.%s.lora_A.weight", name), a->A, (size_t)a->r * a->in);
            read_real(arrays, tensor(arrays, "init.base_model.model.%s.lora_B.weight", name), a->B, (size_t)a->r * a->out);
        }
}

static void open_case(struct toy *toy, const struct common *c, const struct plan *plan, const struct safetensors *arrays, size_t max_n)
{
    struct err err;
    size_t rank = 0;
    memset(toy, 0, sizeof *toy);
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            rank = size_max(rank, (size_t)plan->layer[l].linear[j].rank);
    ASSERT_OK(model_shape(&toy->model, &c->config, plan, &err));
    for (int pass = 0; pass < 2; pass++) {
        model_place(&toy->model, FORMAT_F32, &toy->weights);
        lora_place(&toy->lora, plan, &c->config, true, &toy->optimizer);
        if (pass == 0) {
            ASSERT_OK(arena_commit(&toy->weights, "weights", &err));
            ASSERT_OK(arena_commit(&toy->optimizer, "optimizer", &err));
        }
    }
    load_weights(c, &toy->model);
    load_adapters(arrays, &toy->lora);
    toy_place_run(toy, max_n, rank, 2);
}

/* ---- the comparison ---- */

/* Largest absolute difference between what[...] of the golden arrays and p (A, B as lora lays them). */
static double distance(const struct safetensors *arrays, const char *what, const struct lora *lora, const real *p)
{
    double most = 0;
    for (int l = 0; l < lora->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            for (int side = 0; side < 2; side++) {
                char name[64];
                const struct adapter *a = &lora->adapter[l][j];
                plan_name(l, (enum linear)j, name);
                const struct st_tensor *t = tensor(arrays, "%s.base_model.model.%s.lora_%c.weight", what, name, side ? 'B' : 'A');
                const real *have = p + ((side ? a->B : a->A) - lora->p);
                real *want = malloc(t->elements * sizeof *want);
                assert_non_null(want);
                read_real(arrays, t, want, (size_t)a->r * (side ? a->out : a->in));
                for (size_t i = 0; i < t->elements; i++) {
                    double d = fabs((double)have[i] - (double)want[i]);
                    most = d <= most ? most : d; /* NaN wins */
                }
                free(want);
            }
    return most;
}

static void within(const char *scenario, const char *what, double difference, double tolerance)
{
    print_message("  %-16s %-22s %.2e, at most %.2e\n", scenario, what, difference, tolerance);
    if (!(difference <= tolerance))
        fail_msg("%s: %s differs by %g, at most %g", scenario, what, difference, tolerance);
}

static void check_curve(const char *name, const struct json *scenario, const struct json *error, const struct finetune *f, int64_t steps,
                        double lr)
{
    double loss = 0, norm = 0, rate = 0;
    assert_int_equal(f->n_curve, steps);
    for (size_t k = 0; k < (size_t)steps; k++) {
        double a = fabs(f->curve[k].loss - item(scenario, "loss", k)), b = fabs(f->curve[k].norm - item(scenario, "grad_norm", k));
        double r = fabs(f->curve[k].rate - item(scenario, "lr", k));
        loss = a <= loss ? loss : a;
        norm = b <= norm ? norm : b;
        rate = r <= rate ? rate : r;
    }
    /* ten times what the reference's own float32 run lost; lr is a float: half a unit in its last place, twice */
    within(name, "loss", loss, 10 * number(error, "loss"));
    within(name, "grad_norm", norm, 10 * number(error, "grad_norm"));
    within(name, "lr", rate, 0x1p-23 * lr);
}

static void run_case(const struct common *c, const char *name, const struct json *scenario)
{
    struct err err;
    struct safetensors arrays = {0};
    struct plan plan;
    struct toy toy;
    struct dataset data;
    struct finetune f = {0};
    const struct json *error;
    const char *base, *average;
    char file[128];
    snprintf(file, sizeof file, "train/%s.safetensors", name);
    open_file(&arrays, file);
    ASSERT_OK(json_string(scenario, "base", "train.json", &base, &err));
    ASSERT_OK(json_string(scenario, "norm", "train.json", &average, &err));
    ASSERT_OK(json_object(scenario, "hf_float32_max_abs_error", "train.json", &error, &err));
    struct finetune_options o = {.batch_size = c->accumulation * c->rows, .micro_batch_size = c->rows, .seed = 5,
                                 .micro_mean = strcmp(average, "micro_mean") == 0, .label = ""};
    o.optim = (struct optim){.lr = (real)c->lr, .beta1 = (real)c->beta1, .beta2 = (real)c->beta2, .eps = (real)c->eps,
                             .weight_decay = (real)number(scenario, "wd"), .max_grad_norm = (real)c->clip,
                             .schedule = SCHEDULE_LINEAR, .warmup_steps = c->warmup, .total_steps = c->steps};
    make_dataset(c, o.seed, &data);
    make_plan(c, scenario, &arrays, strcmp(base, "nf4") == 0, &plan);
    struct arena arena = {0};
    finetune_place(&f, &data, o.micro_batch_size, c->steps, &arena);
    ASSERT_OK(arena_commit(&arena, "batches", &err));
    finetune_place(&f, &data, o.micro_batch_size, c->steps, &arena);
    open_case(&toy, c, &plan, &arrays, finetune_rows(&data, o.micro_batch_size));
    struct finetune_target target = {.lora = &toy.lora};

    ASSERT_OK(finetune_run(&f, &toy.run, &toy.model, &target, &data, 1, &o, &err));
    within(name, "gradient of step 1", distance(&arrays, "grad1", &toy.lora, toy.lora.g), 10 * number(error, "grad1"));
    load_adapters(&arrays, &toy.lora);
    ASSERT_OK(finetune_run(&f, &toy.run, &toy.model, &target, &data, c->steps, &o, &err));
    check_curve(name, scenario, error, &f, c->steps, c->lr);
    within(name, "final adapters", distance(&arrays, "final", &toy.lora, toy.lora.p), 10 * number(error, "final"));

    toy_close(&toy);
    arena_free(&arena);
    plan_free(&plan);
    dataset_free(&data);
    safetensors_close(&arrays);
}

static void lora_steps_are_those_of_peft(void **state)
{
    (void)state;
    struct common c;
    struct err err;
    const struct json *cases;
    open_common(&c);
    ASSERT_OK(json_object(c.root, "cases", "train.json", &cases, &err));
    assert_true(json_size(cases) > 0);
    for (const struct json *s = json_first(cases); s; s = json_next(s))
        run_case(&c, json_key(s), s);
    close_common(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lora_steps_are_those_of_peft)};
    return cmocka_run_group_tests_name("train_golden", tests, NULL, NULL);
}
