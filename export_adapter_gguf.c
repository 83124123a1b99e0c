/* export_adapter_gguf.c: adapters as a GGUF that llama.cpp adds to a model's.  Keys and names: llama.cpp's convert_lora_to_gguf.py and llama-adapter.cpp. */
#include <stdlib.h>

#include "base/stop.h"
#include "export_private.h"

struct source {
    const struct lora *lora;
    size_t head_dim;
    real *temp; /* the largest B */
};

enum { SIDES = 2 }; /* an id: (layer * LINEAR_COUNT + linear) * SIDES, + 1 for B */

/* s B with its rows where a GGUF has them. */
static void scaled(const struct adapter *a, int j, size_t head_dim, real *out)
{
    size_t r = (size_t)a->r;
    for (size_t o = 0; o < a->out; o++)
        for (size_t i = 0; i < r; i++)
            out[o * r + i] = a->s * a->B[export_gguf_row(j, o, head_dim) * r + i];
}

static enum status emit(void *user, const struct gguf_item *item, struct gguf_sink *sink, struct err *err)
{
    struct source *s = user;
    size_t i = item->id / SIDES;
    int j = (int)(i % LINEAR_COUNT);
    const struct adapter *a = &s->lora->adapter[i / LINEAR_COUNT][j];
    bool is_b = item->id % SIDES;
    TRY(stop_check(err));
    if (is_b)
        scaled(a, j, s->head_dim, s->temp);
    enum status status = export_gguf_encoded(is_b ? s->temp : a->A, item, sink, err);
    return status == ERR_FAILED ? err_prefix(err, status, "%s", item->name) : status;
}

static enum status put_tensors(struct gguf_writer *w, const struct lora *lora, enum format format, struct err *err)
{
    for (int l = 0; l < lora->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct adapter *a = &lora->adapter[l][j];
            size_t id = (size_t)(l * LINEAR_COUNT + j) * SIDES;
            char name[GGUF_MAX_TENSOR_NAME + 1];
            if (a->r == 0)
                continue;
            export_gguf_name(l, (enum linear)j, "weight.lora_a", name);
            TRY(export_gguf_matrix(w, name, (size_t)a->r, a->in, format, id, err));
            export_gguf_name(l, (enum linear)j, "weight.lora_b", name);
            TRY(export_gguf_matrix(w, name, a->out, (size_t)a->r, format, id + 1, err));
        }
    return OK;
}

static void put_keys(struct gguf_writer *w, const struct model_config *config, enum format format, const char *name)
{
    gguf_put_string(w, "general.type", "adapter");
    gguf_put_string(w, "general.architecture", export_gguf_architecture(config));
    gguf_put_string(w, "general.name", name);
    gguf_put_u32(w, "general.file_type", format == FORMAT_F32 ? 0 : format == FORMAT_F16 ? 1 : 32); /* 32: mostly bf16 */
    gguf_put_string(w, "adapter.type", "lora");
    gguf_put_f32(w, "adapter.lora.alpha", 0);
}

/* Elements of the largest B; 0: there is none. */
static size_t largest(const struct lora *lora)
{
    size_t most = 0;
    for (int l = 0; l < lora->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct adapter *a = &lora->adapter[l][j];
            most = a->out * (size_t)a->r > most ? a->out * (size_t)a->r : most;
        }
    return most;
}

enum status export_adapter_gguf(const char *path, const struct lora *lora, const struct model_config *config, enum format format, const char *name,
                                struct err *err)
{
    struct gguf_writer w = {0};
    size_t n = largest(lora);
    if (!format_is_float(format))
        return err_set(err, ERR_INPUT, "an adapter cannot be written as %s, want f32, f16 or bf16", format_info(format)->name);
    if (n == 0)
        return err_set(err, ERR_INPUT, "the adapter has no linear with a rank: nothing to write");
    struct source s = {.lora = lora, .head_dim = (size_t)config->head_dim, .temp = malloc(n * sizeof(real))};
    enum status status = s.temp ? OK : err_set(err, ERR_MEMORY, "out of memory for a matrix of %zu elements", n);
    put_keys(&w, config, format, name);
    if (status == OK)
        status = put_tensors(&w, lora, format, err);
    if (status == OK)
        status = gguf_write(&w, path, emit, &s, err);
    gguf_writer_free(&w);
    free(s.temp);
    return status;
}
