/* prune_test.c: shares that are reached, ranges, ties, one threshold for all layers, several steps; a pruned model computes what the whole
 * one does without those heads and channels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/linalg.h"
#include "prune_fixture.h"

/* ---- widths ---- */

static struct prune_options by_depth(double ratio, int32_t multiple, int32_t L)
{
    struct prune_options o = {.ratio = ratio, .ffn_multiple = multiple, .attention_start = -1, .attention_end = -1, .mlp_start = -1,
                              .mlp_end = -1, .taylor = SALIENCE_PARAM_FIRST};
    prune_ranges(&o, L);
    return o;
}

static void ranges_by_depth(void **state)
{
    (void)state;
    static const int32_t want[][3] = {{2, 0, 2}, {3, 0, 3}, {4, 1, 3}, {8, 1, 7}, {22, 2, 21}, {32, 4, 30}, {40, 5, 38}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct prune_options o = by_depth(0.2, 32, want[i][0]);
        assert_true(o.attention_start == want[i][1] && o.attention_end == want[i][2]);
        assert_true(o.mlp_start == want[i][1] && o.mlp_end == want[i][2]);
    }
    struct prune_options o = {.attention_start = 3, .attention_end = -1, .mlp_start = -1, .mlp_end = 5};
    prune_ranges(&o, 32);
    assert_true(o.attention_start == 3 && o.attention_end == 30 && o.mlp_start == 4 && o.mlp_end == 5);
}

/* Any share that there is is reached to half a step (one layer's FFN by ffn_multiple), says so truly, and spares the layers out of range. */
static void every_share_is_reached(void **state)
{
    (void)state;
    static const int32_t shapes[][7] = {{8, 128, 8, 4, 16, 256, 1024}, {30, 576, 9, 3, 64, 1536, 49152}, {22, 2048, 32, 4, 64, 5632, 32000}};
    for (size_t k = 0; k < 3; k++)
        for (int percent = 1; percent <= 45; percent++) {
            const int32_t *s = shapes[k];
            struct model_config c = {0};
            double group, achieved;
            uniform(&c, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
            c.attention_bias = k == 0;
            struct prune_options o = by_depth(percent / 100.0, 32, s[0]);
            uint64_t before = parameters(&c);
            CHECK(prune_widths(&c, &o, &group, &achieved, &err));
            double half_step = 3.0 * s[1] * 32 / 2 / (double)before, real_share = 1 - (double)parameters(&c) / (double)before;
            assert_true(fabs(achieved - real_share) <= 1e-12);
            if (!(fabs(achieved - o.ratio) <= half_step * (1 + 1e-9)))
                fail_msg("shape %zu: %g asked, %g reached, half a step is %g", k, o.ratio, achieved, half_step);
            assert_true(group > 0 && group < 1);
            for (int32_t l = 0; l < s[0]; l++) {
                bool inside = l >= o.mlp_start && l < o.mlp_end;
                assert_true(c.intermediate_size[l] % 32 == 0 && c.num_attention_heads[l] == c.num_key_value_heads[l] * (s[2] / s[3]));
                assert_true(inside || (c.intermediate_size[l] == s[5] && c.num_key_value_heads[l] == s[3]));
            }
            model_config_free(&c);
        }
}

static void refused(struct model_config *c, struct prune_options o, const char *want)
{
    struct err err;
    double group, achieved;
    assert_int_equal(prune_widths(c, &o, &group, &achieved, &err), ERR_INPUT);
    if (!strstr(err.text, want))
        fail_msg("'%s', want '%s'", err.text, want);
}

static void what_cannot_be_reached_is_said(void **state)
{
    (void)state;
    struct model_config c = {0};
    uniform(&c, 4, 32, 4, 2, 8, 64, 100);
    struct prune_options o = by_depth(0.9, 32, 4);
    /* two layers may lose a KV head (2 C 2 D = 2 * 32 * 24) and 32 channels (3 * 32 * 32): 9216 of 43808 */
    uint64_t before = parameters(&c);
    char want[160];
    snprintf(want, sizeof want, "pruning_ratio = 0.9: the layers that may be pruned hold no more than %.4f of the parameters",
             2.0 * (2 * 32 * (16 + 8) + 3 * 32 * 32) / (double)before);
    refused(&c, o, want);
    o.ratio = 0.1;
    o.attention_end = 5;
    refused(&c, o, "block_attention_layer_start, block_attention_layer_end = 1, 5: want a range of layers from 0 to 4");
    o = by_depth(0.1, 32, 4);
    o.mlp_start = 4;
    refused(&c, o, "block_mlp_layer_start, block_mlp_layer_end = 4, 3: want a range of layers from 0 to 4");
    model_config_free(&c);
}

/* ---- selection ---- */

static struct prune_scores scores_of(const struct model_config *c, uint32_t step, double head_size)
{
    struct rng rng = {.seed = 3, .stream = RNG_WORLD, .step = step};
    size_t L = (size_t)c->num_hidden_layers;
    struct prune_scores s = {.n_layers = c->num_hidden_layers, .head = calloc(L, sizeof *s.head), .ffn = calloc(L, sizeof *s.ffn)};
    for (size_t l = 0; l < L; l++) {
        s.head[l] = calloc((size_t)c->num_key_value_heads[l], sizeof **s.head);
        s.ffn[l] = calloc((size_t)c->intermediate_size[l], sizeof **s.ffn);
        for (int32_t i = 0; i < c->num_key_value_heads[l]; i++)
            s.head[l][i] = head_size * rng_uniform(&rng);
        for (int32_t i = 0; i < c->intermediate_size[l]; i++)
            s.ffn[l][i] = rng_uniform(&rng);
    }
    return s;
}

/* Units ascending, and none left out that scores above one that stayed; of equals the lower number stays. */
static void check_kept(const int32_t *unit, int32_t keep, const double *score, int32_t n)
{
    double least = INFINITY;
    int32_t last = -1;
    for (int32_t i = 0; i < keep; i++) {
        assert_true(unit[i] >= 0 && unit[i] < n && (i == 0 || unit[i] > unit[i - 1]));
        if (score[unit[i]] <= least) {
            least = score[unit[i]];
            last = unit[i];
        }
    }
    for (int32_t u = 0, at = 0; u < n; u++) {
        if (at < keep && unit[at] == u)
            at++;
        else
            assert_true(score[u] < least || (score[u] == least && u > last));
    }
}

static void the_best_stay(void **state)
{
    (void)state;
    struct model_config c = {0};
    uniform(&c, 8, 128, 8, 4, 16, 256, 1024);
    struct prune_scores scores = scores_of(&c, 1, 1);
    for (int32_t i = 0; i < 256; i++)
        scores.ffn[3][i] = i / 100; /* many equals */
    for (int32_t i = 0; i < 4; i++)
        scores.head[4][i] = 1;
    struct prune_options o = by_depth(0.3, 32, 8);
    struct prune_selection s;
    CHECK(prune_select(&s, &scores, &c, &o, &c, &err));
    for (int32_t l = 0; l < 8; l++) {
        check_kept(s.head[l], s.n_heads[l], scores.head[l], 4);
        check_kept(s.ffn[l], s.n_ffn[l], scores.ffn[l], 256);
        bool inside = l >= o.mlp_start && l < o.mlp_end;
        assert_true(inside ? s.n_ffn[l] < 256 : s.n_ffn[l] == 256 && s.n_heads[l] == 4);
    }
    struct model_config planned = {0}, got = {0}; /* what --plan foretells without scores is what comes */
    double group, achieved;
    CHECK(model_config_copy(&planned, &c, &err));
    CHECK(prune_widths(&planned, &o, &group, &achieved, &err));
    CHECK(prune_config(&got, &c, &s, &err));
    assert_memory_equal(got.intermediate_size, planned.intermediate_size, 8 * sizeof(int32_t));
    assert_memory_equal(got.num_attention_heads, planned.num_attention_heads, 8 * sizeof(int32_t));
    assert_true(group == s.group_ratio && achieved == s.achieved);
    model_config_free(&planned);
    model_config_free(&got);
    prune_selection_free(&s);
    prune_scores_free(&scores);
    model_config_free(&c);
}

/* One threshold for all layers: unimportant layers lose more, each keeps a head and ffn_multiple channels, and the scale of head scores (sums
 * over many more elements than a channel's) does not matter. */
static void one_threshold_for_all_layers(void **state)
{
    (void)state;
    struct model_config c = {0};
    uniform(&c, 8, 128, 8, 4, 16, 256, 1024);
    struct prune_options o = by_depth(0.4, 32, 8);
    o.global = true;
    struct prune_selection a, b;
    struct prune_scores scores = scores_of(&c, 2, 1), scaled = scores_of(&c, 2, 1000);
    for (int32_t i = 0; i < 256; i++)
        scaled.ffn[2][i] = scores.ffn[2][i] *= 1e-3; /* layer 2 matters little */
    for (int32_t i = 0; i < 4; i++)
        scaled.head[2][i] = 1000 * (scores.head[2][i] *= 1e-3);
    CHECK(prune_select(&a, &scores, &c, &o, &c, &err));
    CHECK(prune_select(&b, &scaled, &c, &o, &c, &err));
    assert_memory_equal(a.n_heads, b.n_heads, 8 * sizeof *a.n_heads);
    assert_memory_equal(a.n_ffn, b.n_ffn, 8 * sizeof *a.n_ffn);
    assert_true(a.n_heads[2] == 1 && a.n_ffn[2] == 32);
    assert_true(a.n_heads[0] == 4 && a.n_ffn[0] == 256 && a.n_ffn[7] == 256);
    struct model_config got = {0};
    CHECK(prune_config(&got, &c, &a, &err));
    double share = 1 - (double)parameters(&got) / (double)parameters(&c);
    /* the last unit that went is a KV head (2 C D (n_rep + 1)) or a step of channels (3 C 32) */
    assert_true(a.achieved >= o.ratio && a.achieved - o.ratio <= 3.0 * 128 * 32 / (double)parameters(&c));
    assert_true(fabs(share - a.achieved) <= 1e-12);
    for (int32_t l = 0; l < 8; l++)
        check_kept(a.ffn[l], a.n_ffn[l], scores.ffn[l], 256);
    struct err err;
    struct prune_selection none;
    o.ratio = 0.95;
    assert_int_equal(prune_select(&none, &scores, &c, &o, &c, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "pruning_ratio = 0.95: the layers that may be pruned hold no more than"));
    prune_selection_free(&none);
    model_config_free(&got);
    prune_selection_free(&a);
    prune_selection_free(&b);
    prune_scores_free(&scores);
    prune_scores_free(&scaled);
    model_config_free(&c);
}

/* Three steps whose ratio grows end where one step ends, counted from the model as it was. */
static void several_steps_end_at_the_same_share(void **state)
{
    (void)state;
    struct model_config c = {0}, whole = {0};
    uniform(&c, 8, 128, 8, 4, 16, 256, 1024);
    CHECK(model_config_copy(&whole, &c, &err));
    uint64_t original = parameters(&c);
    double achieved = 0;
    for (int step = 1; step <= 3; step++) {
        struct prune_options o = by_depth(0.3 * step / 3, 32, 8);
        struct prune_scores scores = scores_of(&c, (uint32_t)step, 1);
        struct prune_selection s;
        struct model_config smaller = {0};
        CHECK(prune_select(&s, &scores, &c, &o, &whole, &err));
        CHECK(prune_config(&smaller, &c, &s, &err));
        assert_true(fabs(s.achieved - o.ratio) <= 3.0 * 128 * 32 / 2 / (double)original * (1 + 1e-9));
        achieved = s.achieved;
        prune_scores_free(&scores);
        prune_selection_free(&s);
        model_config_free(&c);
        c = smaller;
    }
    assert_true(fabs(1 - (double)parameters(&c) / (double)original - achieved) <= 1e-12);
    model_config_free(&c);
    model_config_free(&whole);
}

/* ---- scores ---- */

/* Magnitude needs no gradient: a unit's score is the sum over its rows and columns, query heads with their KV head. */
static void magnitudes_are_sums(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, false);
    for (int power = 1; power <= 2; power++) {
        struct prune_options o = {.type = power == 1 ? PRUNE_L1 : PRUNE_L2, .grouping = GROUP_SUM};
        struct prune_scores s = compute(&f, &o, NULL, 0);
        for (size_t l = 0; l < 3; l++) {
            const struct qmat *W = f.model.layer[l].linear;
            size_t C = 24, D = 8, n_rep = 2;
            for (size_t k = 0; k < (size_t)f.model.config.num_key_value_heads[l]; k++) {
                double want = magnitude(&W[LINEAR_Q], k * n_rep * D, n_rep * D, 0, C, power) + magnitude(&W[LINEAR_K], k * D, D, 0, C, power) +
                              magnitude(&W[LINEAR_V], k * D, D, 0, C, power) + magnitude(&W[LINEAR_O], 0, C, k * n_rep * D, n_rep * D, power);
                assert_true(fabs(s.head[l][k] - want) <= 1e-6 * want);
            }
            for (size_t i = 0; i < (size_t)f.model.config.intermediate_size[l]; i++) {
                double want = magnitude(&W[LINEAR_GATE], i, 1, 0, C, power) + magnitude(&W[LINEAR_UP], i, 1, 0, C, power) +
                              magnitude(&W[LINEAR_DOWN], 0, C, i, 1, power);
                assert_true(fabs(s.ffn[l][i] - want) <= 1e-6 * want);
            }
        }
        prune_scores_free(&s);
    }
    fixture_close(&f);
}

static void random_scores_belong_to_the_seed(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, false);
    struct prune_options o = {.type = PRUNE_RANDOM, .seed = 4};
    struct prune_scores a = compute(&f, &o, NULL, 0), b = compute(&f, &o, NULL, 0);
    o.seed = 5;
    struct prune_scores c = compute(&f, &o, NULL, 0);
    assert_memory_equal(a.ffn[0], b.ffn[0], 64 * sizeof(double));
    assert_true(memcmp(a.ffn[0], c.ffn[0], 64 * sizeof(double)) != 0 && memcmp(a.ffn[0], a.ffn[2], 64 * sizeof(double)) != 0);
    prune_scores_free(&a);
    prune_scores_free(&b);
    prune_scores_free(&c);
    fixture_close(&f);
}

/* A channel that nothing reads and a head whose output is cut off change no loss: their weights' gradients vanish, and with them the score. */
static void what_changes_no_loss_scores_nothing(void **state)
{
    (void)state;
    struct fixture f;
    static struct fixture_batch b[2];
    memset(b, 0, sizeof b);
    open_model(&f, false);
    for (int i = 0; i < 2; i++)
        add_random_sequence(&b[i], 20, 40, (uint32_t)i);
    real *down = f.model.layer[1].linear[LINEAR_DOWN].codes, *o_proj = f.model.layer[2].linear[LINEAR_O].codes;
    for (size_t r = 0; r < 24; r++) {
        down[r * 96 + 17] = 0;
        for (size_t c = 16; c < 32; c++) /* KV head 1: query heads 2 and 3 */
            o_proj[r * 48 + c] = 0;
    }
    for (int k = SALIENCE_VECTORIZE; k <= SALIENCE_PARAM_MIX; k++) {
        struct prune_options o = {.taylor = (enum salience)k, .grouping = GROUP_SUM};
        struct prune_scores s = compute(&f, &o, b, 2);
        assert_true(s.ffn[1][17] == 0 && s.head[2][1] == 0);
        assert_true(s.ffn[1][16] > 0 && s.head[2][0] > 0 && s.head[2][2] > 0);
        prune_scores_free(&s);
    }
    fixture_close(&f);
}

static void assert_same_scores(const struct prune_scores *a, const struct prune_scores *b, const struct model_config *c)
{
    for (int32_t l = 0; a->unit == NULL && l < c->num_hidden_layers; l++) {
        assert_memory_equal(a->head[l], b->head[l], (size_t)c->num_key_value_heads[l] * sizeof **a->head);
        assert_memory_equal(a->ffn[l], b->ffn[l], (size_t)c->intermediate_size[l] * sizeof **a->ffn);
    }
    if (a->unit)
        assert_memory_equal(a->unit, b->unit, (size_t)c->num_hidden_layers * sizeof *a->unit);
}

/* Gradients of one layer at a time, or of all by model_train: every salience, activations kept, computed again or kept in bf16; another number of threads. */
static void a_layer_at_a_time_gives_the_same_bits(void **state)
{
    (void)state;
    static const struct fixture_options ways[] = {{.max_n = 24, .threads = 1, .keep = true},
                                                  {.max_n = 24, .threads = 3, .keep = false},
                                                  {.max_n = 24, .threads = 1, .keep = true, .compute = COMPUTE_BF16}};
    static struct fixture_batch b[2];
    memset(b, 0, sizeof b);
    add_random_sequence(&b[0], 17, 40, 0); /* sequences of unlike lengths and numbers of labels */
    add_random_sequence(&b[1], 23, 40, 1);
    for (int w = 0; w < 3 * 2; w++) {
        struct fixture f;
        open_model_with(&f, w % 2, ways[w / 2]);
        for (int k = SALIENCE_VECTORIZE; k <= SALIENCE_PARAM_MIX; k++) {
            struct prune_options o = {.taylor = (enum salience)k, .mode = w % 2 ? PRUNE_LAYER : PRUNE_BLOCK};
            struct prune_scores whole = compute_in(&f, &o, b, 2, LONG_CALIBRATION), layers = compute(&f, &o, b, 2);
            assert_same_scores(&whole, &layers, &f.model.config);
            prune_scores_free(&whole);
            prune_scores_free(&layers);
        }
        fixture_close(&f);
    }
}

static void calibration_without_labels_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    static struct fixture_batch b;
    memset(&b, 0, sizeof b);
    open_model(&f, false);
    begin_segment(&b);
    add_row(&b, 3, 0, -1);
    struct prune_options o = {.taylor = SALIENCE_PARAM_FIRST};
    struct prune_room room = {.grads = f.grads};
    struct prune_scores s;
    struct err err;
    assert_int_equal(prune_scores_compute(&s, &f.model, &f.run, &room, &b.batch, 1, &o, &err), ERR_INPUT);
    assert_string_equal(err.text, "the calibration data has no token to predict");
    prune_scores_free(&s);
    real *streams[3] = {NULL};
    b.labels[0] = 1;
    room = (struct prune_room){.grads = f.grads, .x = streams}; /* of no rows */
    assert_int_equal(prune_scores_compute(&s, &f.model, &f.run, &room, &b.batch, 1, &o, &err), ERR_FAILED);
    assert_string_equal(err.text, "1 rows of calibration, memory was planned for 0");
    prune_scores_free(&s);
    fixture_close(&f);
}

/* ---- the smaller model ---- */

static void zero_columns(struct qmat *W, const int32_t *unit, int32_t keep, size_t width)
{
    real *w = W->codes;
    size_t units = W->cols / width;
    for (size_t u = 0, at = 0; u < units; u++) {
        if (at < (size_t)keep && unit[at] == (int32_t)u) {
            at++;
            continue;
        }
        for (size_t r = 0; r < W->rows; r++)
            memset(w + r * W->cols + u * width, 0, width * sizeof *w);
    }
}

/* Cutting a unit out equals cutting off what it gives to the rest: columns of o_proj and down_proj at 0.  Biases go with their rows.
 * The same products are summed, some without zeros between: rounding alone differs. */
static void cut_out_is_cut_off(void **state)
{
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        struct fixture whole, small;
        static struct fixture_batch b;
        struct model_config config = {0};
        struct plan plan;
        memset(&b, 0, sizeof b);
        open_model(&whole, tied);
        add_random_sequence(&b, 20, 40, 1);
        struct prune_scores scores = scores_of(&whole.model.config, 4, 1);
        struct prune_options o = by_depth(0, 8, 3);
        struct prune_selection s;
        o.group_ratio = 0.4;
        CHECK(prune_select(&s, &scores, &whole.model.config, &o, &whole.model.config, &err));
        assert_true(s.n_heads[0] < 3 && s.n_ffn[1] < 96);
        CHECK(prune_config(&config, &whole.model.config, &s, &err));
        CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
        fixture_open(&small, &config, &plan, (struct fixture_options){.max_n = 24, .threads = 1, .keep = true});
        CHECK(prune_apply(&small.model, &whole.model, &s, &err));
        for (int l = 0; l < 3; l++) {
            zero_columns(&whole.model.layer[l].linear[LINEAR_O], s.head[l], s.n_heads[l], 2 * 8);
            zero_columns(&whole.model.layer[l].linear[LINEAR_DOWN], s.ffn[l], s.n_ffn[l], 1);
        }
        const real *x, *y;
        CHECK(model_hidden(&whole.run, &whole.model, NULL, &b.batch, &x, &err));
        CHECK(model_hidden(&small.run, &small.model, NULL, &b.batch, &y, &err));
        real want[20 * 40], got[20 * 40];
        model_logits(&whole.run, &whole.model, x, 20, want);
        model_logits(&small.run, &small.model, y, 20, got);
        for (size_t i = 0; i < 20 * 40; i++) /* three layers of sums of up to 96 terms of about 1 */
            assert_true(fabs((double)got[i] - (double)want[i]) <= 3 * 96 * 0x1p-24 * 4);
        prune_scores_free(&scores);
        prune_selection_free(&s);
        plan_free(&plan);
        model_config_free(&config);
        fixture_close(&whole);
        fixture_close(&small);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_by_depth),
        cmocka_unit_test(every_share_is_reached),
        cmocka_unit_test(what_cannot_be_reached_is_said),
        cmocka_unit_test(the_best_stay),
        cmocka_unit_test(one_threshold_for_all_layers),
        cmocka_unit_test(several_steps_end_at_the_same_share),
        cmocka_unit_test(magnitudes_are_sums),
        cmocka_unit_test(random_scores_belong_to_the_seed),
        cmocka_unit_test(what_changes_no_loss_scores_nothing),
        cmocka_unit_test(a_layer_at_a_time_gives_the_same_bits),
        cmocka_unit_test(calibration_without_labels_is_refused),
        cmocka_unit_test(cut_out_is_cut_off),
    };
    linalg_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
