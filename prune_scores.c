/* prune_scores.c: how important every unit is: head and FFN channel, channel of the residual stream, or layer.
 *
 * Zeroing w changes the loss by about -g w + h w^2 / 2 (Taylor): the salience of an element.  Coupled rows and columns (a KV head's
 * rows of q, k, v and columns of o; row i of gate and up, column i of down; all that reads or writes one channel of the residual stream; all
 * linears of a layer) are joined into one score a unit.
 * LLM-Pruner, arXiv:2305.11627, eq. 3-6. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/device.h"
#include "prune_private.h"

/* ---- scores of rows and columns ---- */

struct sides {
    double *rows[LINEAR_COUNT], *cols[LINEAR_COUNT];
    double *block; /* [n] all of them, owned */
    double *sums;  /* [n] where a device's kernels add them up; on the CPU block */
    size_t n;
};

static size_t sides_of(const struct model_layer *layer)
{
    size_t n = 0;
    for (int j = 0; j < LINEAR_COUNT; j++)
        n += layer->linear[j].rows + layer->linear[j].cols;
    return n;
}

size_t prune_sums(const struct model *model)
{
    size_t most = (size_t)model->config.hidden_size + (size_t)model->config.vocab_size;
    for (int32_t l = 0; l < model->config.num_hidden_layers; l++) {
        size_t n = sides_of(&model->layer[l]);
        most = n > most ? n : most;
    }
    return most;
}

static enum status sides_alloc(struct sides *s, const struct model_layer *layer, double *sums, struct err *err)
{
    size_t at = 0;
    s->n = sides_of(layer);
    s->block = calloc(s->n, sizeof *s->block);
    s->sums = sums ? sums : s->block;
    if (!s->block)
        return err_set(err, ERR_MEMORY, "out of memory for importance");
    for (int j = 0; j < LINEAR_COUNT; j++) {
        s->rows[j] = s->block + at;
        at += layer->linear[j].rows;
        s->cols[j] = s->block + at;
        at += layer->linear[j].cols;
    }
    return OK;
}

static enum salience kind_of(const struct prune_options *o)
{
    return o->type == PRUNE_L1 ? SALIENCE_L1 : o->type == PRUNE_L2 ? SALIENCE_L2 : o->taylor;
}

/* n sums that kernels will add to, or have added to. */
static void clear_sums(const struct ops_context *c, double *sums, size_t n)
{
    if (c->device)
        device_zero(c->device, sums, n * sizeof *sums);
}

static enum status read_sums(const struct ops_context *c, double *to, const double *sums, size_t n, struct err *err)
{
    if (c->device)
        TRY(device_download(c->device, to, sums, n * sizeof *to, err));
    for (size_t i = 0; i < n; i++)
        to[i] = fabs(to[i]); /* changes only the signed sums of VECTORIZE */
    return OK;
}

/* F, which lies as G. */
static const real *squares(const struct prune_room *room, const real *G)
{
    return G && room->fisher ? room->fisher + (G - room->grads.block) : NULL;
}

static enum status fill_sides(struct sides *s, const struct model *model, const struct model_run *run, int32_t l, const struct prune_room *room,
                              const struct prune_options *o, struct err *err)
{
    enum salience kind = kind_of(o);
    const struct model_layer *layer = &model->layer[l];
    clear_sums(run->ops, s->sums, s->n);
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const real *G = o->type == PRUNE_TAYLOR ? room->grads.layer[l].linear[j] : NULL, *F = squares(room, G);
        run->ops->ops->salience(run->ops, kind, &layer->linear[j], G, F, s->sums + (s->rows[j] - s->block), s->sums + (s->cols[j] - s->block));
    }
    return read_sums(run->ops, s->block, s->sums, s->n, err);
}

/* ---- units ---- */

static double join(enum prune_grouping grouping, const double *member, int n)
{
    double sum = 0, most = member[0], product = 1;
    for (int i = 0; i < n; i++) {
        sum += member[i];
        most = member[i] > most ? member[i] : most;
        product *= member[i]; /* double: four float-sized factors of 1e-30 still fit */
    }
    switch (grouping) {
    case GROUP_SUM:
        return sum;
    case GROUP_MEAN:
        return sum / n;
    case GROUP_MAX:
        return most;
    case GROUP_PROD:
        return product;
    case GROUP_FIRST:
        return member[0];
    }
    return sum;
}

/* Query channels that read KV channel (head k, d), summed.  Interleaved is LLM-Pruner's view(n_rep, kv_channels).sum(0). */
static double fold(const double *query, int32_t k, int32_t d, int32_t kv, int32_t n_rep, int32_t D, bool interleaved)
{
    double sum = 0;
    for (int32_t i = 0; i < n_rep; i++) {
        int32_t head = interleaved ? i * kv + k : k * n_rep + i;
        sum += query[head * D + d];
    }
    return sum;
}

static void head_scores(double *score, const struct sides *s, const struct model_config *c, int32_t l, const struct prune_options *o)
{
    int32_t kv = c->num_key_value_heads[l], n_rep = c->num_attention_heads[l] / kv, D = c->head_dim;
    for (int32_t k = 0; k < kv; k++) {
        score[k] = 0;
        for (int32_t d = 0; d < D; d++) {
            double member[4] = {fold(s->rows[LINEAR_Q], k, d, kv, n_rep, D, o->interleaved_folding), s->rows[LINEAR_K][k * D + d],
                                s->rows[LINEAR_V][k * D + d], fold(s->cols[LINEAR_O], k, d, kv, n_rep, D, o->interleaved_folding)};
            score[k] += join(o->grouping, member, 4);
        }
    }
}

static void ffn_scores(double *score, const struct sides *s, int32_t F, const struct prune_options *o)
{
    for (int32_t i = 0; i < F; i++) {
        double member[3] = {s->rows[LINEAR_GATE][i], s->rows[LINEAR_UP][i], s->cols[LINEAR_DOWN][i]};
        score[i] = join(o->grouping, member, 3);
    }
}

static void random_scores(double *score, int32_t n, uint64_t seed, int32_t step)
{
    struct rng rng = {.seed = seed, .stream = RNG_PRUNE, .step = (uint32_t)step};
    for (int32_t i = 0; i < n; i++)
        score[i] = rng_uniform(&rng);
}

/* A layer's linears, each summed over its rows, joined; by the weight, so that layers of unlike widths compare by what each weight is worth. */
static double layer_score(const struct sides *s, const struct model_layer *layer, const struct prune_options *o)
{
    double member[LINEAR_COUNT] = {0}, weights = 0;
    for (int j = 0; j < LINEAR_COUNT; j++) {
        for (size_t i = 0; i < layer->linear[j].rows; i++)
            member[j] += s->rows[j][i];
        weights += (double)layer->linear[j].rows * (double)layer->linear[j].cols;
    }
    return join(o->grouping, member, LINEAR_COUNT) / weights;
}

/* ---- channels of the residual stream: members come one after the other ---- */

struct channels {
    double *score;        /* [C], of the scores */
    double *member;       /* [C], owned */
    double *sums;         /* [C + V] where kernels add up a member, and rows that nobody reads; owned unless a device's */
    const struct ops_context *ops;
    size_t C;
    int n;                /* members so far */
    enum prune_grouping grouping;
};

static enum status channels_alloc(struct channels *ch, const struct model *model, const struct ops_context *ops, double *score, double *sums,
                                  enum prune_grouping grouping, struct err *err)
{
    size_t C = (size_t)model->config.hidden_size, V = (size_t)model->config.vocab_size;
    *ch = (struct channels){.score = score, .ops = ops, .C = C, .grouping = grouping, .member = calloc(C + V, sizeof *ch->member)};
    ch->sums = sums ? sums : ch->member;
    return ch->member ? OK : err_set(err, ERR_MEMORY, "out of memory for importance");
}

/* A product of some hundred members leaves the range of double: its logarithm orders alike. */
static void add_member(struct channels *ch)
{
    for (size_t c = 0; c < ch->C; c++) {
        double m = ch->member[c], *score = &ch->score[c];
        if (ch->grouping == GROUP_PROD)
            *score += log(m);
        else if (ch->grouping == GROUP_MAX)
            *score = m > *score ? m : *score;
        else if (ch->grouping != GROUP_FIRST)
            *score += m;
        else if (ch->n == 0)
            *score = m;
        ch->member[c] = 0;
    }
    ch->n++;
}

static void add_side(struct channels *ch, const double *side)
{
    for (size_t c = 0; c < ch->C; c++)
        ch->member[c] += side[c];
}

/* Embedding, head, or a norm as a matrix of one row: columns are channels. */
static enum status add_outside(struct channels *ch, const struct qmat *W, const struct prune_room *room, const real *G,
                               const struct prune_options *o, struct err *err)
{
    clear_sums(ch->ops, ch->sums, ch->C);
    ch->ops->ops->salience(ch->ops, kind_of(o), W, G, squares(room, G), ch->sums + ch->C, ch->sums);
    TRY(read_sums(ch->ops, ch->member, ch->sums, ch->C, err));
    add_member(ch);
    return OK;
}

static enum status add_norm(struct channels *ch, real *norm, const struct prune_room *room, const real *G, const struct prune_options *o, struct err *err)
{
    struct qmat W = {.format = FORMAT_F32, .rows = 1, .cols = ch->C, .codes = norm};
    return add_outside(ch, &W, room, G, o, err);
}

/* LLM-Pruner's members of a layer: attention as one, gate, up, down, its two norms. */
static enum status add_linears(struct channels *ch, const struct model *model, const struct model_run *run, int32_t l, const struct prune_room *room,
                               const struct prune_options *o, struct err *err)
{
    struct sides s = {0};
    TRY(sides_alloc(&s, &model->layer[l], run->ops->device ? ch->sums : NULL, err));
    enum status status = fill_sides(&s, model, run, l, room, o, err);
    add_side(ch, s.cols[LINEAR_Q]);
    add_side(ch, s.cols[LINEAR_K]);
    add_side(ch, s.cols[LINEAR_V]);
    add_side(ch, s.rows[LINEAR_O]);
    add_member(ch);
    const double *const mlp[] = {s.cols[LINEAR_GATE], s.cols[LINEAR_UP], s.rows[LINEAR_DOWN]};
    for (int i = 0; i < 3; i++) {
        add_side(ch, mlp[i]);
        add_member(ch);
    }
    free(s.block);
    return status;
}

static enum status add_layer(struct channels *ch, const struct model *model, const struct model_run *run, int32_t l, const struct prune_room *room,
                             const struct prune_options *o, struct err *err)
{
    const struct model_layer *layer = &model->layer[l];
    bool taylor = o->type == PRUNE_TAYLOR;
    TRY(add_linears(ch, model, run, l, room, o, err));
    TRY(add_norm(ch, layer->input_norm, room, taylor ? room->grads.layer[l].input_norm : NULL, o, err));
    return add_norm(ch, layer->post_norm, room, taylor ? room->grads.layer[l].post_norm : NULL, o, err);
}

static enum status add_outer(struct channels *ch, const struct model *model, const struct prune_room *room, const struct prune_options *o, struct err *err)
{
    bool taylor = o->type == PRUNE_TAYLOR;
    TRY(add_norm(ch, model->norm, room, taylor ? room->grads.norm : NULL, o, err));
    TRY(add_outside(ch, &model->embed, room, taylor ? room->grads.embed : NULL, o, err));
    return model->config.tie_word_embeddings ? OK : add_outside(ch, &model->head, room, taylor ? room->grads.head : NULL, o, err);
}

static enum status channel_scores(struct prune_scores *scores, const struct model *model, const struct model_run *run, const struct prune_room *room,
                                  const struct prune_options *o, struct err *err)
{
    struct channels ch;
    enum status status = channels_alloc(&ch, model, run->ops, scores->unit, room->sums, o->grouping, err);
    for (int32_t l = 0; status == OK && l < model->config.num_hidden_layers; l++)
        status = add_layer(&ch, model, run, l, room, o, err);
    if (status == OK)
        status = add_outer(&ch, model, room, o, err);
    for (size_t c = 0; status == OK && o->grouping == GROUP_MEAN && c < ch.C; c++)
        scores->unit[c] /= ch.n;
    free(ch.member);
    return status;
}

/* ---- all of a model ---- */

static enum status scores_alloc(struct prune_scores *scores, const struct model_config *c, enum prune_mode mode, struct err *err)
{
    size_t L = (size_t)c->num_hidden_layers;
    scores->n_layers = c->num_hidden_layers;
    if (mode != PRUNE_BLOCK) {
        scores->unit = calloc(mode == PRUNE_LAYER ? L : (size_t)c->hidden_size, sizeof *scores->unit);
        return scores->unit ? OK : err_set(err, ERR_MEMORY, "out of memory for importance");
    }
    scores->head = calloc(L, sizeof *scores->head);
    scores->ffn = calloc(L, sizeof *scores->ffn);
    bool good = scores->head && scores->ffn;
    for (size_t l = 0; good && l < L; l++) {
        scores->head[l] = calloc((size_t)c->num_key_value_heads[l], sizeof **scores->head);
        scores->ffn[l] = calloc((size_t)c->intermediate_size[l], sizeof **scores->ffn);
        good = scores->head[l] && scores->ffn[l];
    }
    return good ? OK : err_set(err, ERR_MEMORY, "out of memory for importance");
}

static enum status layer_scores(struct prune_scores *scores, const struct model *model, const struct model_run *run, int32_t l,
                                const struct prune_room *room, const struct prune_options *o, struct err *err)
{
    const struct model_config *c = &model->config;
    if (o->type == PRUNE_RANDOM && o->mode == PRUNE_LAYER) {
        random_scores(&scores->unit[l], 1, o->seed, l);
        return OK;
    }
    if (o->type == PRUNE_RANDOM) {
        random_scores(scores->head[l], c->num_key_value_heads[l], o->seed, 2 * l + 1);
        random_scores(scores->ffn[l], c->intermediate_size[l], o->seed, 2 * l + 2);
        return OK;
    }
    struct sides sides = {0};
    TRY(sides_alloc(&sides, &model->layer[l], room->sums, err));
    enum status status = fill_sides(&sides, model, run, l, room, o, err);
    if (o->mode == PRUNE_LAYER) {
        scores->unit[l] = layer_score(&sides, &model->layer[l], o);
    } else {
        head_scores(scores->head[l], &sides, c, l, o);
        ffn_scores(scores->ffn[l], &sides, c->intermediate_size[l], o);
    }
    free(sides.block);
    return status;
}

/* From the last layer down, as its gradients come where only those of one layer are held. */
static enum status all_layers(struct prune_scores *scores, const struct model *model, struct model_run *run, struct prune_room *room,
                              const struct batch *batches, size_t n_batches, const struct prune_options *options, struct err *err)
{
    for (int32_t l = model->config.num_hidden_layers - 1; l >= 0; l--) {
        if (room->x)
            TRY(prune_layer_gradients(room, model, run, batches, n_batches, l, err));
        TRY(layer_scores(scores, model, run, l, room, options, err));
    }
    return OK;
}

enum status prune_scores_compute(struct prune_scores *scores, const struct model *model, struct model_run *run, struct prune_room *room,
                                 const struct batch *batches, size_t n_batches, const struct prune_options *options, struct err *err)
{
    memset(scores, 0, sizeof *scores);
    TRY(scores_alloc(scores, &model->config, options->mode, err));
    if (options->mode == PRUNE_LAYER && options->keep_layers > 0)
        return OK;
    if (options->type == PRUNE_TAYLOR)
        TRY(prune_gradients(room, model, run, batches, n_batches, options, err));
    if (options->mode != PRUNE_CHANNEL)
        return all_layers(scores, model, run, room, batches, n_batches, options, err);
    if (options->type != PRUNE_RANDOM)
        return channel_scores(scores, model, run, room, options, err);
    random_scores(scores->unit, model->config.hidden_size, options->seed, 0);
    return OK;
}

void prune_scores_free(struct prune_scores *scores)
{
    for (int32_t l = 0; l < scores->n_layers; l++) {
        if (scores->head)
            free(scores->head[l]);
        if (scores->ffn)
            free(scores->ffn[l]);
    }
    free(scores->head);
    free(scores->ffn);
    free(scores->unit);
    memset(scores, 0, sizeof *scores);
}
