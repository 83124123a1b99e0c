/* paper.c: bytes and operations of each kernel, as docs/cuda.md's roofline counts them: streams in fp32, activations inside a layer (ops.h: act) and factors of products in bf16. */
#include "bench/paper.h"

#include <math.h>
#include <string.h>

#include "generate.h"

/* Memory 80 %, products 60 %, attention 20 %. */
static const double of_bandwidth = 0.8, of_tensor = 0.6, of_attention = 0.2;

struct card card_of(const char *name)
{
    static const struct {
        const char *name;
        struct card card;
    } known[] = {{"H200", {4.8e12, 989e12}},    {"H100 PCIe", {2.0e12, 756e12}}, {"H100 NVL", {3.9e12, 835e12}}, {"H100", {3.35e12, 989e12}},
                 {"A100-SXM4-80GB", {2.039e12, 312e12}}, {"A100 80GB", {1.935e12, 312e12}}, {"A100", {1.555e12, 312e12}}, {"L40S", {0.864e12, 362e12}},
                 {"L4", {0.3e12, 121e12}},      {"RTX 4090", {1.008e12, 165e12}}, {"RTX 3090", {0.936e12, 71e12}}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strstr(name, known[i].name))
            return known[i].card;
    return (struct card){0};
}

/* ---- bytes ---- */

static double stored_bytes(const struct qmat *q)
{
    return (double)quant_bytes(q->format, q->block, q->double_quant, q->rows, q->cols);
}

/* A matrix decoded for a product: its codes, and bf16 written. */
static double decoded_bytes(const struct qmat *q)
{
    return q->format == FORMAT_BF16 ? 0 : stored_bytes(q) + 2 * (double)q->rows * (double)q->cols;
}

struct layer_bytes {
    double forward, backward; /* a row */
    double decoded;           /* a pass */
    double last;              /* of both: the down projection's, which recomputation leaves out, a row and a pass */
    double last_decoded;
};

static struct layer_bytes layer_bytes(const struct model *m, int l)
{
    const struct model_layer *layer = &m->layer[l];
    const struct plan_layer *p = &m->plan.layer[l];
    double C = m->config.hidden_size, D = m->config.head_dim, HD = p->heads * D, KVD = p->kv_heads * D, F = p->ffn;
    /* two norms, RoPE, SwiGLU, two additions */
    struct layer_bytes b = {.forward = 12 * C + 4 * (HD + KVD) + 6 * F + 24 * C, .backward = 28 * C + 4 * (HD + KVD) + 10 * F};
    for (int j = 0; j < LINEAR_COUNT; j++) {
        double out = (double)layer->linear[j].rows, in = (double)layer->linear[j].cols;
        bool adapter = p->linear[j].rank > 0, stream = j == LINEAR_O || j == LINEAR_DOWN;
        double forward = adapter ? 2 * in + (stream ? 8 : 4) * out : 0; /* x A^T reads x, B adds into y */
        b.forward += forward;
        b.backward += (stream ? 6 * out : 0) + (adapter ? 4 * out + 2 * in + 4 * in : 0); /* a stream's dy rounded; dh, dB read dy, dA reads x; dx += dh A */
        b.decoded += decoded_bytes(&layer->linear[j]);
        b.last = j == LINEAR_DOWN ? forward : b.last;
        b.last_decoded = j == LINEAR_DOWN ? decoded_bytes(&layer->linear[j]) : b.last_decoded;
    }
    return b;
}

double paper_step_s(const struct card *card, const struct workload *w, double rows, size_t length)
{
    const struct model *m = &w->model;
    struct arithmetic a = workload_arithmetic(w, length);
    double again = w->run.keep ? 0 : 1, bytes = 0;
    for (int l = 0; l < m->plan.n_layers; l++) {
        struct layer_bytes b = layer_bytes(m, l);
        bytes += rows * ((1 + again) * b.forward - again * b.last + b.backward) + (2 + again) * b.decoded - again * b.last_decoded;
    }
    bytes += rows * 10 * (double)m->head.rows + 2 * decoded_bytes(&m->head) + 32 * (double)w->lora.n; /* cross-entropy; AdamW and the norm of its gradient */
    double products = (2 + again) * a.linear - again * a.down + 2 * a.head, attention = (3.5 + again) * a.attention;
    if (card->bandwidth <= 0)
        return NAN;
    return bytes / (of_bandwidth * card->bandwidth) + rows * (products / of_tensor + attention / of_attention) / card->tensor;
}

double paper_token_bytes(const struct model *model, double context)
{
    double bytes = generator_weight_bytes(model);
    for (int l = 0; l < model->plan.n_layers; l++)
        bytes += 2 * context * model->plan.layer[l].kv_heads * (double)model->config.head_dim * (double)cache_number_bytes(FORMAT_F16);
    return bytes;
}
