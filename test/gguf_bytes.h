/* gguf_bytes.h: GGUF files put together field by field, so that a test can get one of them wrong. */
#ifndef VENEER_TEST_GGUF_BYTES_H
#define VENEER_TEST_GGUF_BYTES_H
#include "test/refused.h"

#include "base/text.h"
#include "io/gguf.h"

static inline void u32(struct text *t, uint32_t x)
{
    text_add(t, (const char *)&x, 4);
}

static inline void u64(struct text *t, uint64_t x)
{
    text_add(t, (const char *)&x, 8);
}

static inline void f32(struct text *t, float x)
{
    text_add(t, (const char *)&x, 4);
}

static inline void str(struct text *t, const char *s)
{
    u64(t, strlen(s));
    text_puts(t, s);
}

static inline void start(struct text *t, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    text_clear(t);
    text_puts(t, "GGUF");
    u32(t, version);
    u64(t, n_tensors);
    u64(t, n_kv);
}

static inline void key(struct text *t, const char *name, uint32_t type)
{
    str(t, name);
    u32(t, type);
}

static inline void info(struct text *t, const char *name, uint64_t dim0, uint32_t type, uint64_t offset)
{
    str(t, name);
    u32(t, 1);
    u64(t, dim0);
    u32(t, type);
    u64(t, offset);
}

/* Zeros up to a multiple of `align`, then n more. */
static inline void zeros(struct text *t, size_t align, size_t n)
{
    for (size_t k = (align - t->n % align) % align + n; k > 0; k--)
        text_add(t, "", 1);
}

#endif
