/* model_mirror.c: a model of the host, placed and uploaded for the passes of a device. */
#include "model_mirror.h"

#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"

static bool is_device(const struct model_mirror *m)
{
    return m && m->ops && m->ops->device;
}

/* ---- weights ---- */

/* The formats whose room linears take: the widest, or those of host's matrices, whatever its plan says. */
static enum status rooms(struct plan *plan, const struct model *host, const struct plan *widest, enum format floats, struct err *err)
{
    TRY(plan_copy(plan, widest ? widest : &host->plan, err));
    for (int i = 0; !widest && i < plan->n_layers * LINEAR_COUNT; i++) {
        struct plan_linear *p = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        const struct qmat *q = &host->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        p->format = q->format == FORMAT_F32 ? floats : q->format;
        p->block = q->block;
        p->double_quant = q->double_quant;
    }
    return OK;
}

/* A model that is shaped like host, with these rooms, in `arena`. */
static enum status place_rooms(struct model *model, const struct model *host, const struct plan *widest, enum format floats, struct arena *arena, struct err *err)
{
    struct plan plan;
    TRY(rooms(&plan, host, widest, floats, err));
    enum status status = model_shape(model, &host->config, &plan, err);
    plan_free(&plan);
    TRY(status);
    model_place_head(model, host->embed.format, host->head.format, arena);
    return OK;
}

enum status model_mirror_bytes(const struct model *host, const struct plan *widest, enum format floats, size_t *bytes, struct err *err)
{
    struct arena tables = {0}, count = {.tables = &tables};
    struct model model;
    TRY(place_rooms(&model, host, widest, floats, &count, err));
    model_free(&model);
    *bytes = count.used;
    return count.overflow ? err_set(err, ERR_MEMORY, "the weights do not fit in memory addresses") : OK;
}

/* Memory for `bytes`, unless that much is there. */
static enum status reserve(struct model_mirror *m, struct arena *arena, size_t bytes, const char *what, struct err *err)
{
    if (arena->base && arena->size == bytes)
        return OK;
    device_release(m->ops->device, arena);
    arena->used = bytes;
    return device_commit(m->ops->device, arena, what, err);
}

/* Host's linear in the room of the widest. */
static enum status place_inside(struct qmat *q, const struct qmat *host, struct err *err)
{
    struct arena tables = {0}, room = {.tables = &tables}, inside = {.base = q->codes, .tables = &tables};
    quant_place(&(struct qmat){0}, q->format, q->block, q->double_quant, q->rows, q->cols, &room);
    inside.size = room.used;
    quant_place(q, host->format, host->block, host->double_quant, host->rows, host->cols, &inside);
    return inside.overflow ? err_set(err, ERR_FAILED, "a linear in %s takes more memory of the device than was planned for it", format_info(host->format)->name) : OK;
}

static enum status place(struct model_mirror *m, const struct model *host, const struct plan *widest, struct err *err)
{
    size_t bytes;
    TRY(model_mirror_bytes(host, widest, m->floats, &bytes, err));
    if (m->weights.size != bytes)
        model_mirror_forget(m);
    TRY(reserve(m, &m->weights, bytes, "weights", err));
    model_free(&m->model);
    m->weights.used = 0;
    m->weights.tables = &m->tables; /* what model_place would compute is uploaded */
    TRY(place_rooms(&m->model, host, widest, m->floats, &m->weights, err));
    for (int l = 0; widest && l < host->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            TRY(place_inside(&m->model.layer[l].linear[j], &host->layer[l].linear[j], err));
    plan_free(&m->model.plan);
    return plan_copy(&m->model.plan, &host->plan, err);
}

static enum status remember(struct model_mirror *m, int32_t n_layers, struct err *err)
{
    if (m->held)
        return OK;
    m->held = calloc(model_pieces(n_layers), sizeof *m->held);
    return m->held ? OK : err_set(err, ERR_MEMORY, "out of memory for the table of what lies on the device");
}

enum status model_mirror_model(struct model_mirror *m, const struct model *host, const struct plan *widest, const struct model **there, struct err *err)
{
    *there = host;
    if (!is_device(m))
        return OK;
    *there = &m->model;
    if (m->model.plan.n_layers != host->plan.n_layers)
        model_mirror_forget(m);
    TRY(place(m, host, widest, err));
    TRY(remember(m, host->plan.n_layers, err));
    return model_upload(&m->model, host, m->held, m->ops, err);
}

/* ---- adapters ---- */

enum { BLOCKS = 4 }; /* p, g, m, v */

size_t model_mirror_adapter_bytes(const struct lora *host)
{
    struct arena count = {0};
    for (int i = 0; i < BLOCKS; i++)
        arena_take(&count, host->n, sizeof(real));
    return count.used;
}

static void place_adapters(struct model_mirror *m, const struct lora *host)
{
    struct lora *lora = &m->lora;
    struct adapter (*adapter)[LINEAR_COUNT] = lora->adapter;
    *lora = *host;
    lora->adapter = adapter;
    real **block[BLOCKS] = {&lora->p, &lora->g, &lora->m, &lora->v};
    m->adapters.used = 0;
    for (int i = 0; i < BLOCKS; i++)
        *block[i] = arena_take(&m->adapters, host->n, sizeof(real));
    for (int l = 0; l < host->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct adapter *from = &host->adapter[l][j];
            struct adapter *a = &adapter[l][j];
            size_t A = (size_t)(from->A - host->p), B = (size_t)(from->B - host->p);
            *a = *from;
            a->A = lora->p + A;
            a->B = lora->p + B;
            a->dA = lora->g + A;
            a->dB = lora->g + B;
        }
}

enum status model_mirror_adapters(struct model_mirror *m, const struct lora *host, const struct lora **there, struct err *err)
{
    *there = host;
    if (!host || !is_device(m))
        return OK;
    *there = &m->lora;
    if (!m->lora.adapter || m->lora.n_layers != host->n_layers) {
        free(m->lora.adapter);
        m->lora.adapter = calloc((size_t)host->n_layers, sizeof *m->lora.adapter);
        if (!m->lora.adapter)
            return err_set(err, ERR_MEMORY, "out of memory for the table of adapters");
    }
    TRY(reserve(m, &m->adapters, model_mirror_adapter_bytes(host), "adapters", err));
    place_adapters(m, host);
    return device_upload(m->ops->device, m->lora.p, host->p, host->n * sizeof(real), err);
}

enum status model_mirror_adapters_down(const struct model_mirror *m, struct lora *host, struct err *err)
{
    return is_device(m) ? device_download(m->ops->device, host->p, m->lora.p, host->n * sizeof(real), err) : OK;
}

/* ---- its end ---- */

void model_mirror_forget(struct model_mirror *m)
{
    if (!m)
        return;
    free(m->held);
    m->held = NULL;
}

void model_mirror_free(struct model_mirror *m)
{
    model_mirror_forget(m);
    model_free(&m->model);
    free(m->lora.adapter);
    if (is_device(m)) {
        device_release(m->ops->device, &m->weights);
        device_release(m->ops->device, &m->adapters);
    }
    *m = (struct model_mirror){.ops = m->ops, .floats = m->floats};
}
