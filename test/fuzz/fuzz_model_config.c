/* Any bytes as config.json.  What is accepted is printed, and the print reads back as itself. */
#include <string.h>

#include "io/model_config.h"
#include "test/fuzz/memfd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_config config, again;
    struct text one = {0}, two = {0};
    struct err err;
    if (model_config_parse(&config, (const char *)data, n, "fuzz", &err) != OK)
        return 0;
    float *inv = malloc((size_t)config.head_dim / 2 * sizeof *inv);
    if (!inv)
        abort();
    model_config_inv_freq(&config, inv);
    model_config_print(&config, "float32", NULL, &one);
    if (model_config_parse(&again, one.s, one.n, "print", &err) != OK) {
        fprintf(stderr, "%s\n%s\n", err.text, one.s);
        abort();
    }
    model_config_print(&again, "float32", NULL, &two);
    if (one.n != two.n || memcmp(one.s, two.s, one.n) != 0)
        abort();
    free(inv);
    text_free(&one);
    text_free(&two);
    model_config_free(&config);
    model_config_free(&again);
    return 0;
}
