/* Any bytes as a safetensors file; every tensor of an accepted one is found by name and read whole. */
#include "io/safetensors.h"
#include "test/fuzz/memfd.h"

static void read_tensor(const struct safetensors *st, const struct st_tensor *tensor)
{
    char shape[128];
    unsigned char *bytes = malloc((size_t)tensor->bytes + 1); /* exactly what the file has: a sanitizer sees a byte too far */
    real *value = malloc(((size_t)tensor->elements + 1) * sizeof *value);
    if (!bytes || !value)
        abort();
    st_shape_text(tensor, shape);
    if (safetensors_find(st, tensor->name) != tensor || safetensors_read(st, tensor, 0, bytes, (size_t)tensor->bytes, NULL) != OK)
        abort();
    if (safetensors_read(st, tensor, 1, bytes, (size_t)tensor->bytes, NULL) == OK)
        abort();
    safetensors_read_real(st, tensor, 0, (size_t)tensor->elements, value, NULL);
    free(bytes);
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct safetensors st;
    struct err err;
    char path[64];
    int fd = memfd_of(data, n, path);
    if (safetensors_open(&st, path, &err) == OK) {
        uint64_t total = 0;
        for (size_t i = 0; i < st.n; i++) {
            total += st.tensor[i].bytes;
            if (i < 64)
                read_tensor(&st, &st.tensor[i]);
        }
        if (total > n)
            abort(); /* no byte belongs to two tensors */
        safetensors_metadata(&st, "format");
    }
    safetensors_close(&st);
    close(fd);
    return 0;
}
