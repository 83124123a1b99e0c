/* golden_tensors.h: arrays of a golden safetensors file as doubles, floats or bytes.  Include after cmocka.h. */
#ifndef VENEER_TEST_GOLDEN_TENSORS_H
#define VENEER_TEST_GOLDEN_TENSORS_H
#include "golden.h"
#include "io/safetensors.h"

static inline void golden_open(struct safetensors *st, const char *name)
{
    char path[512];
    struct err err;
    if (safetensors_open(st, golden_path(path, name), &err) != OK)
        fail_msg("%s", err.text);
}

static inline const struct st_tensor *golden_find(const struct safetensors *st, const char *format, ...)
{
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return safetensors_find(st, name);
}

/* The bytes of a tensor as stored; the caller frees them. */
static inline void *golden_bytes(const struct safetensors *st, const struct st_tensor *t)
{
    struct err err;
    assert_non_null(t);
    void *bytes = malloc((size_t)t->bytes + 1);
    assert_non_null(bytes);
    if (safetensors_read(st, t, 0, bytes, (size_t)t->bytes, &err) != OK)
        fail_msg("%s", err.text);
    return bytes;
}

/* Floating-point tensors as double. */
static inline double *golden_doubles(const struct safetensors *st, const struct st_tensor *t)
{
    void *raw = golden_bytes(st, t);
    double *x = malloc(((size_t)t->elements + 1) * sizeof *x);
    assert_true(t->dtype == ST_F32 || t->dtype == ST_F64);
    for (size_t i = 0; i < t->elements; i++)
        x[i] = t->dtype == ST_F64 ? ((double *)raw)[i] : (double)((float *)raw)[i];
    free(raw);
    return x;
}

static inline double golden_number(const struct json *object, const char *key)
{
    double x;
    struct err err;
    if (json_number(object, key, "golden", &x, &err) != OK)
        fail_msg("%s", err.text);
    return x;
}

#endif
