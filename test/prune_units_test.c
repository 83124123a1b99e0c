/* prune_units_test.c: whole layers and channels of the residual stream: how many stay, which ones, what their importance is, and that the
 * smaller model computes what the whole one does when the rest adds nothing. */
#include "base/linalg.h"
#include "prune_fixture.h"
#include "refused.h"

static const int32_t shapes[][7] = {{8, 128, 8, 4, 16, 256, 1024}, {30, 576, 9, 3, 64, 1536, 49152}, {22, 2048, 32, 4, 64, 5632, 32000}};

static struct prune_scores one_list(const struct model_config *c, enum prune_mode mode)
{
    struct rng rng = {.seed = 3, .stream = RNG_WORLD};
    int32_t n = mode == PRUNE_LAYER ? c->num_hidden_layers : c->hidden_size;
    struct prune_scores s = {.n_layers = c->num_hidden_layers, .unit = calloc((size_t)n, sizeof *s.unit)};
    for (int32_t i = 0; i < n; i++)
        s.unit[i] = rng_uniform(&rng);
    return s;
}

static void assert_says(struct model_config *c, struct prune_options o, const char *want)
{
    struct err err;
    double group, achieved;
    assert_refused(prune_widths(c, &o, &group, &achieved, &err), ERR_INPUT, &err, "", want);
}

/* ---- how many ---- */

/* The fewest layers that reach the share: with one more the share would not be reached.  A plan knows the number without scores. */
static void the_fewest_layers_go(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++)
        for (int percent = 1; percent <= 45; percent++) {
            const int32_t *s = shapes[k];
            struct model_config c = {0}, planned = {0}, got = {0};
            double group, achieved;
            uniform(&c, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
            c.attention_bias = k == 0;
            CHECK(model_config_copy(&planned, &c, &err));
            struct prune_options o = {.mode = PRUNE_LAYER, .ratio = percent / 100.0};
            struct prune_scores scores = one_list(&c, PRUNE_LAYER);
            struct prune_selection selection;
            CHECK(prune_widths(&planned, &o, &group, &achieved, &err));
            CHECK(prune_select(&selection, &scores, &c, &o, &c, &err));
            CHECK(prune_config(&got, &c, &selection, &err));
            double before = (double)parameters(&c), share = 1 - (double)parameters(&got) / before, layer = share / (s[0] - got.num_hidden_layers);
            assert_true(got.num_hidden_layers == planned.num_hidden_layers && selection.n_units == got.num_hidden_layers);
            assert_true(share >= o.ratio - 1e-12 && share - layer < o.ratio);
            assert_true(fabs(achieved - share) <= 1e-12 && fabs(selection.achieved - share) <= 1e-12);
            assert_true(fabs(group - (1 - (double)got.num_hidden_layers / s[0])) <= 1e-12 && selection.group_ratio == group);
            assert_true(got.intermediate_size[0] == s[5] && got.hidden_size == s[1]);
            prune_selection_free(&selection);
            prune_scores_free(&scores);
            model_config_free(&c);
            model_config_free(&planned);
            model_config_free(&got);
        }
}

static void as_near_as_multiples_of_hidden_size_come(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++)
        for (int percent = 15; percent <= 45; percent++)
            for (int32_t multiple = 1; multiple <= 32; multiple *= 32) {
                const int32_t *s = shapes[k];
                struct model_config c = {0}, got = {0};
                double group, achieved;
                uniform(&c, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
                c.attention_bias = c.attention_out_bias = k == 0;
                CHECK(model_config_copy(&got, &c, &err));
                struct prune_options o = {.mode = PRUNE_CHANNEL, .ratio = percent / 100.0, .hidden_multiple = multiple};
                CHECK(prune_widths(&got, &o, &group, &achieved, &err));
                double before = (double)parameters(&c), share = 1 - (double)parameters(&got) / before;
                double half_step = 0.5 * multiple / s[1]; /* all parameters are in channels, but for a few biases */
                assert_true(got.hidden_size % multiple == 0 && got.num_attention_heads[0] == s[2] && got.head_dim == s[4]);
                assert_true(fabs(share - o.ratio) <= half_step * (1 + 1e-9) && fabs(achieved - share) <= 1e-12);
                assert_true(group == 1 - (double)got.hidden_size / s[1]);
                model_config_free(&c);
                model_config_free(&got);
            }
}

static void what_cannot_be_reached_is_said(void **state)
{
    (void)state;
    struct model_config c = {0};
    uniform(&c, 4, 32, 4, 2, 8, 64, 100);
    c.tie_word_embeddings = true;
    /* a layer: 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32 = 9280; outside: 33 * 100 + 32 = 3232 */
    struct prune_options o = {.mode = PRUNE_LAYER, .ratio = 0.75, .hidden_multiple = 8};
    assert_says(&c, o, "pruning_ratio = 0.75: no more than 0.6899 of the parameters can go (one layer of 4 stays); lower it");
    o.keep_layers = 5;
    assert_says(&c, o, "keep_layers = 5: the model has 4 layers");
    o = (struct prune_options){.mode = PRUNE_CHANNEL, .ratio = 0.76, .hidden_multiple = 8};
    assert_says(&c, o, "pruning_ratio = 0.76: no more than 0.7500 of the parameters can go (8 channels of hidden_size = 32 stay); lower it or hidden_multiple");
    o.ratio = 0.1;
    assert_says(&c, o, "pruning_ratio = 0.1: no channel of hidden_size = 32 would go, for hidden_multiple = 8; raise the one or lower the other");
    assert_int_equal(c.hidden_size, 32);
    model_config_free(&c);
}

/* ---- which ---- */

static void the_best_stay_in_order(void **state)
{
    (void)state;
    struct model_config c = {0}, left = {0};
    struct prune_selection s;
    uniform(&c, 8, 128, 8, 4, 16, 256, 1024);
    for (int32_t l = 0; l < 8; l++)
        c.intermediate_size[l] = 256 - l; /* to be known again */
    struct prune_options o = {.mode = PRUNE_LAYER, .ratio = 0.2, .hidden_multiple = 32};
    double layer[8] = {5, 4, 0.5, 4, 0.5, 7, 1, 0.25};
    struct prune_scores scores = {.n_layers = 8, .unit = layer};
    CHECK(prune_select(&s, &scores, &c, &o, &c, &err)); /* two go: the last, and of equals the one with the higher number */
    static const int32_t want[] = {0, 1, 2, 3, 5, 6};
    assert_int_equal(s.n_units, 6);
    assert_memory_equal(s.unit, want, sizeof want);
    CHECK(prune_config(&left, &c, &s, &err));
    for (int32_t i = 0; i < 6; i++)
        assert_int_equal(left.intermediate_size[i], 256 - want[i]);
    prune_selection_free(&s);
    model_config_free(&left);
    o.keep_layers = 3; /* LLM-Pruner's: the first ones, as the scores of nothing are equal */
    memset(layer, 0, sizeof layer);
    CHECK(prune_select(&s, &scores, &c, &o, &c, &err));
    assert_true(s.n_units == 3 && s.unit[0] == 0 && s.unit[1] == 1 && s.unit[2] == 2);
    prune_selection_free(&s);
    model_config_free(&c);
}

/* Steps whose ratio grows end where one step ends, counted from the model as it was. */
static void several_steps_end_at_the_same_share(void **state)
{
    (void)state;
    for (int mode = PRUNE_CHANNEL; mode <= PRUNE_LAYER; mode++) {
        struct model_config c = {0}, original = {0}, planned = {0};
        double group, achieved;
        uniform(&c, 8, 128, 8, 4, 16, 256, 1024);
        c.intermediate_size[5] = 64; /* the mean of the layers that are left is not that of all */
        CHECK(model_config_copy(&original, &c, &err));
        CHECK(model_config_copy(&planned, &c, &err));
        struct prune_options o = {.mode = (enum prune_mode)mode, .ratio = 0.4, .hidden_multiple = 8};
        CHECK(prune_widths(&planned, &o, &group, &achieved, &err));
        for (int step = 1; step <= 4; step++) {
            struct prune_scores scores = one_list(&c, o.mode);
            struct prune_selection s;
            struct model_config smaller = {0};
            o.ratio = 0.4 * step / 4;
            CHECK(prune_select(&s, &scores, &c, &o, &original, &err));
            CHECK(prune_config(&smaller, &c, &s, &err));
            assert_true(fabs(1 - (double)parameters(&smaller) / (double)parameters(&original) - s.achieved) <= 1e-12);
            group = s.group_ratio;
            prune_scores_free(&scores);
            prune_selection_free(&s);
            model_config_free(&c);
            c = smaller;
        }
        assert_true(c.num_hidden_layers == planned.num_hidden_layers && c.hidden_size == planned.hidden_size);
        assert_true(mode == PRUNE_LAYER ? c.num_hidden_layers < 8 : c.hidden_size < 128);
        model_config_free(&c);
        model_config_free(&original);
        model_config_free(&planned);
    }
}

/* ---- scores by their definition ---- */

enum { C = 24, V = 40, SAMPLES = 2 };

struct slopes {
    double *g, *f; /* parallel to f->grads.block */
};

static void train(struct fixture *f, const struct batch *b, size_t labels)
{
    double sum;
    size_t count;
    CHECK(model_train(&f->run, &f->model, NULL, &f->grads, b, (real)(1.0 / (double)labels), 0, &sum, &count, &err));
}

static size_t labels_in(const struct batch *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++)
        n += b->labels[i] >= 0;
    return n;
}

/* The gradient of the mean over all labels; the mean over samples of the squared gradient of each one's mean. */
static struct slopes slopes_of(struct fixture *f, const struct fixture_batch *b)
{
    size_t n = f->grads.n, all = 0;
    struct slopes s = {calloc(n, sizeof *s.g), calloc(n, sizeof *s.f)};
    for (int i = 0; i < SAMPLES; i++) {
        memset(f->grads.block, 0, n * sizeof *f->grads.block);
        train(f, &b[i].batch, labels_in(&b[i].batch));
        all += labels_in(&b[i].batch);
        for (size_t k = 0; k < n; k++)
            s.f[k] += (double)f->grads.block[k] * (double)f->grads.block[k] / SAMPLES;
    }
    memset(f->grads.block, 0, n * sizeof *f->grads.block);
    for (int i = 0; i < SAMPLES; i++)
        train(f, &b[i].batch, all);
    for (size_t k = 0; k < n; k++)
        s.g[k] = (double)f->grads.block[k];
    return s;
}

static double element(enum salience kind, double w, double g, double f)
{
    switch (kind) {
    case SALIENCE_VECTORIZE:
    case SALIENCE_PARAM_FIRST:
        return g * w;
    case SALIENCE_PARAM_SECOND:
        return w * w * f;
    case SALIENCE_PARAM_MIX:
        return g * w - 0.5 * w * w * f;
    case SALIENCE_L1:
        return fabs(w);
    case SALIENCE_L2:
        return w * w;
    }
    return NAN;
}

/* One row or column of a parameter: |sum| for vectorize, else the sum of absolute values. */
static double line(const struct fixture *f, const struct slopes *s, const struct parameter *p, enum salience kind, bool row, size_t at)
{
    double sum = 0;
    size_t base = (size_t)(p->g - f->grads.block);
    for (size_t i = 0; i < (row ? p->cols : p->rows); i++) {
        size_t e = row ? at * p->cols + i : i * p->cols + at;
        double x = element(kind, (double)p->w[e], s->g[base + e], s->f[base + e]);
        sum += kind == SALIENCE_VECTORIZE ? x : fabs(x);
    }
    return fabs(sum);
}

/* The lines of channel c in the modules that `modules` names (space-separated), summed: one member. */
static double member_of(const struct fixture *f, const struct slopes *s, const char *prefix, const char *modules, enum salience kind, size_t c)
{
    static struct parameters all;
    double sum = 0;
    list_parameters(&all, f);
    for (const char *m = modules; *m;) {
        char name[96];
        size_t n = strcspn(m, " ");
        snprintf(name, sizeof name, "%s%.*s.weight", prefix, (int)n, m);
        const struct parameter *p = find_parameter(&all, name);
        assert_non_null(p);
        sum += line(f, s, p, kind, strstr(name, "o_proj") || strstr(name, "down_proj"), c);
        m += n + (m[n] == ' ');
    }
    return sum;
}

static double channel(const struct fixture *f, const struct slopes *s, enum salience kind, enum prune_grouping grouping, size_t c)
{
    static const char *const of_layer[] = {"self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                                           "mlp.down_proj", "input_layernorm", "post_attention_layernorm"};
    double member[3 * 6 + 3], sum = 0, most = 0, logs = 0;
    int n = 0;
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < 6; i++) {
            char prefix[32];
            snprintf(prefix, sizeof prefix, "model.layers.%d.", l);
            member[n++] = member_of(f, s, prefix, of_layer[i], kind, c);
        }
    member[n++] = member_of(f, s, "", "model.norm", kind, c);
    member[n++] = member_of(f, s, "", "model.embed_tokens", kind, c);
    if (!f->model.config.tie_word_embeddings)
        member[n++] = member_of(f, s, "", "lm_head", kind, c);
    for (int i = 0; i < n; i++) {
        sum += member[i];
        most = member[i] > most ? member[i] : most;
        logs += log(member[i]);
    }
    return grouping == GROUP_SUM ? sum : grouping == GROUP_MEAN ? sum / n : grouping == GROUP_MAX ? most : grouping == GROUP_PROD ? logs : member[0];
}

static struct prune_options kind_of(enum prune_mode mode, enum salience kind, enum prune_grouping grouping)
{
    return (struct prune_options){.mode = mode, .grouping = grouping, .hidden_multiple = 1, .taylor = kind <= SALIENCE_PARAM_MIX ? kind : SALIENCE_PARAM_FIRST,
                                  .type = kind == SALIENCE_L1 ? PRUNE_L1 : kind == SALIENCE_L2 ? PRUNE_L2 : PRUNE_TAYLOR};
}

static void open_with_data(struct fixture *f, struct fixture_batch *b, bool tied)
{
    memset(b, 0, SAMPLES * sizeof *b);
    open_model(f, tied);
    for (int i = 0; i < SAMPLES; i++)
        add_random_sequence(&b[i], 20, V, (uint32_t)i);
}

/* All that reads or writes a channel is in its score, embedding, head and norms too; every way to join them. */
static void a_channel_is_all_that_touches_it(void **state)
{
    (void)state;
    static struct fixture_batch b[SAMPLES];
    for (int tied = 0; tied < 2; tied++) {
        struct fixture f;
        open_with_data(&f, b, tied);
        struct slopes s = slopes_of(&f, b);
        for (int kind = SALIENCE_VECTORIZE; kind <= SALIENCE_L2; kind++)
            for (int grouping = GROUP_SUM; grouping <= GROUP_FIRST; grouping++) {
                struct prune_options o = kind_of(PRUNE_CHANNEL, (enum salience)kind, (enum prune_grouping)grouping);
                struct prune_scores scores = compute(&f, &o, b, SAMPLES);
                for (size_t c = 0; c < C; c++) {
                    double want = channel(&f, &s, (enum salience)kind, (enum prune_grouping)grouping, c);
                    /* signed sums cancel, products of elements are rounded to 24 bits: 1e-4 of the value is some hundred of those */
                    if (!(fabs(scores.unit[c] - want) <= 1e-4 * fabs(want)))
                        fail_msg("kind %d, grouping %d, channel %zu: %.9g, want %.9g", kind, grouping, c, scores.unit[c], want);
                }
                prune_scores_free(&scores);
            }
        free(s.g);
        free(s.f);
        fixture_close(&f);
    }
}

/* A layer: its linears, each the sum over its rows, joined; a weight's share, so that a wide layer (1) is not important for its size. */
static void a_layer_is_its_mean_weight(void **state)
{
    (void)state;
    static struct fixture_batch b[SAMPLES];
    struct fixture f;
    open_with_data(&f, b, false);
    struct slopes s = slopes_of(&f, b);
    static struct parameters all;
    list_parameters(&all, &f);
    for (int kind = SALIENCE_VECTORIZE; kind <= SALIENCE_L2; kind++)
        for (int grouping = GROUP_SUM; grouping <= GROUP_MAX; grouping++) {
            struct prune_options o = kind_of(PRUNE_LAYER, (enum salience)kind, (enum prune_grouping)grouping);
            struct prune_scores scores = compute(&f, &o, b, SAMPLES);
            for (int l = 0; l < 3; l++) {
                double sum = 0, most = 0, weights = 0;
                for (int j = 0; j < LINEAR_COUNT; j++) {
                    char module[64], name[80];
                    double total = 0;
                    plan_name(l, (enum linear)j, module);
                    snprintf(name, sizeof name, "%s.weight", module);
                    const struct parameter *p = find_parameter(&all, name);
                    for (size_t r = 0; r < p->rows; r++)
                        total += line(&f, &s, p, (enum salience)kind, true, r);
                    sum += total;
                    most = total > most ? total : most;
                    weights += (double)(p->rows * p->cols);
                }
                double want = (grouping == GROUP_MAX ? most : grouping == GROUP_MEAN ? sum / LINEAR_COUNT : sum) / weights;
                assert_true(fabs(scores.unit[l] - want) <= 1e-4 * want);
            }
            prune_scores_free(&scores);
        }
    free(s.g);
    free(s.f);
    fixture_close(&f);
}

static void random_scores_belong_to_the_seed(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, false);
    for (int mode = PRUNE_CHANNEL; mode <= PRUNE_LAYER; mode++) {
        size_t bytes = (mode == PRUNE_LAYER ? 3 : C) * sizeof(double);
        struct prune_options o = {.mode = (enum prune_mode)mode, .type = PRUNE_RANDOM, .seed = 4};
        struct prune_scores a = compute(&f, &o, NULL, 0), b = compute(&f, &o, NULL, 0);
        o.seed = 5;
        struct prune_scores c = compute(&f, &o, NULL, 0);
        assert_memory_equal(a.unit, b.unit, bytes);
        assert_true(memcmp(a.unit, c.unit, bytes) != 0 && a.unit[0] != a.unit[1]);
        prune_scores_free(&a);
        prune_scores_free(&b);
        prune_scores_free(&c);
    }
    fixture_close(&f);
}

/* ---- the smaller model ---- */

static void open_smaller(struct fixture *small, const struct fixture *whole, const struct prune_selection *s)
{
    struct model_config config = {0};
    struct plan plan;
    CHECK(prune_config(&config, &whole->model.config, s, &err));
    CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
    fixture_open(small, &config, &plan, (struct fixture_options){.max_n = 24, .threads = 1, .keep = true});
    CHECK(prune_apply(&small->model, &whole->model, s, &err));
    plan_free(&plan);
    model_config_free(&config);
}

static void logits_of(struct fixture *f, const struct batch *b, real logits[20 * V])
{
    const real *x;
    CHECK(model_hidden(&f->run, &f->model, NULL, b, &x, &err));
    model_logits(&f->run, &f->model, x, 20, logits);
}

/* o_proj and down_proj write zeros into these channels of the residual stream: from, from + step, ... */
static void silence(struct model_layer *layer, size_t from, size_t step)
{
    static const enum linear writers[] = {LINEAR_O, LINEAR_DOWN};
    for (int i = 0; i < 2; i++) {
        struct qmat *W = &layer->linear[writers[i]];
        for (size_t r = from; r < W->rows; r += step) {
            memset((real *)W->codes + r * W->cols, 0, W->cols * sizeof(real));
            if (layer->bias[writers[i]])
                layer->bias[writers[i]][r] = 0;
        }
    }
}

/* A layer that adds zeros to the residual stream scores 0, goes first, and the model without it has the very same logits. */
static void a_layer_that_adds_nothing_is_not_missed(void **state)
{
    (void)state;
    static struct fixture_batch b[SAMPLES];
    for (int32_t idle = 0; idle < 3; idle++) {
        struct fixture whole, small;
        struct prune_selection s;
        real want[20 * V], got[20 * V];
        open_with_data(&whole, b, idle == 2);
        silence(&whole.model.layer[idle], 0, 1);
        struct prune_options o = kind_of(PRUNE_LAYER, SALIENCE_PARAM_FIRST, GROUP_SUM);
        o.ratio = 0.1;
        struct prune_scores scores = compute(&whole, &o, b, SAMPLES);
        for (int32_t l = 0; l < 3; l++)
            assert_true(l == idle ? scores.unit[l] == 0 : scores.unit[l] > 0);
        CHECK(prune_select(&s, &scores, &whole.model.config, &o, &whole.model.config, &err));
        assert_true(s.n_units == 2 && s.unit[0] == (idle == 0) && s.unit[1] == 2 - (idle == 2));
        open_smaller(&small, &whole, &s);
        logits_of(&whole, &b[0].batch, want);
        logits_of(&small, &b[0].batch, got);
        assert_memory_equal(got, want, sizeof want);
        prune_scores_free(&scores);
        prune_selection_free(&s);
        fixture_close(&whole);
        fixture_close(&small);
    }
}

/* Channels that nothing writes are 0 in every row x of the residual stream.  They score 0 and go first.  RMSNorm then means over K instead of C:
 *     mean_K x^2 + e' = C/K (mean_C x^2 + e)   for e' = e C/K,
 * so that norms times sqrt(C/K) give what they gave, and the logits agree but for the order of sums. */
static void channels_that_nothing_writes_are_not_missed(void **state)
{
    (void)state;
    static struct fixture_batch b[SAMPLES];
    for (int tied = 0; tied < 2; tied++) {
        enum { STEP = 3, K = C - C / STEP };
        struct fixture whole, small;
        struct prune_selection s;
        real want[20 * V], got[20 * V], *embed;
        open_with_data(&whole, b, tied);
        embed = whole.model.embed.codes;
        for (size_t i = 1; i < V * C; i += STEP) /* C is a multiple of STEP */
            embed[i] = 0;
        for (int l = 0; l < 3; l++)
            silence(&whole.model.layer[l], 1, STEP);
        for (int kind = SALIENCE_VECTORIZE; kind <= SALIENCE_PARAM_MIX; kind++) {
            struct prune_options o = kind_of(PRUNE_CHANNEL, (enum salience)kind, GROUP_SUM);
            o.ratio = 1.0 / STEP;
            struct prune_scores scores = compute(&whole, &o, b, SAMPLES);
            for (size_t c = 0; c < C; c++)
                assert_true(c % STEP == 1 ? scores.unit[c] == 0 : scores.unit[c] > 0);
            if (kind > SALIENCE_VECTORIZE)
                prune_selection_free(&s);
            CHECK(prune_select(&s, &scores, &whole.model.config, &o, &whole.model.config, &err));
            prune_scores_free(&scores);
            assert_int_equal(s.n_units, K);
            for (int32_t i = 0; i < K; i++)
                assert_int_equal(s.unit[i], 3 * (i / 2) + 2 * (i % 2));
        }
        open_smaller(&small, &whole, &s);
        assert_true(small.model.config.hidden_size == K && small.model.config.head_dim * small.model.config.num_attention_heads[0] == 48);
        small.model.config.rms_norm_eps *= (float)C / K;
        for (size_t c = 0; c < K; c++) {
            small.model.norm[c] *= (real)sqrt((double)C / K);
            for (int l = 0; l < 3; l++) {
                small.model.layer[l].input_norm[c] *= (real)sqrt((double)C / K);
                small.model.layer[l].post_norm[c] *= (real)sqrt((double)C / K);
            }
        }
        logits_of(&whole, &b[0].batch, want);
        logits_of(&small, &b[0].batch, got);
        for (size_t i = 0; i < 20 * V; i++) /* as in prune_test.c, and a rounding in every norm */
            assert_true(fabs((double)got[i] - (double)want[i]) <= 3 * 96 * 0x1p-24 * 8);
        prune_selection_free(&s);
        fixture_close(&whole);
        fixture_close(&small);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fewest_layers_go),
        cmocka_unit_test(as_near_as_multiples_of_hidden_size_come),
        cmocka_unit_test(what_cannot_be_reached_is_said),
        cmocka_unit_test(the_best_stay_in_order),
        cmocka_unit_test(several_steps_end_at_the_same_share),
        cmocka_unit_test(a_channel_is_all_that_touches_it),
        cmocka_unit_test(a_layer_is_its_mean_weight),
        cmocka_unit_test(random_scores_belong_to_the_seed),
        cmocka_unit_test(a_layer_that_adds_nothing_is_not_missed),
        cmocka_unit_test(channels_that_nothing_writes_are_not_missed),
    };
    linalg_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
