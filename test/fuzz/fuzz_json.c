/* Any bytes as JSON: parsed or refused; what is parsed is walked, every getter asked. */
#include <string.h>

#include "io/json.h"
#include "test/fuzz/memfd.h"

static void walk(const struct json *value, int depth)
{
    const char *text;
    int64_t whole;
    double number;
    bool flag;
    if (depth > JSON_MAX_DEPTH)
        abort(); /* the scan promises less */
    json_as_string(value, "fuzz", &text, NULL);
    json_as_int(value, "fuzz", -5, 1 << 20, &whole, NULL);
    json_as_number(value, "fuzz", &number, NULL);
    json_as_bool(value, "fuzz", &flag, NULL);
    size_t n = 0;
    for (const struct json *item = json_first(value); item; item = json_next(item), n++) {
        if (json_type(value) == JSON_OBJECT && json_member(value, json_key(item)) != item)
            abort(); /* a name has one meaning */
        if (n < 64)
            walk(item, depth + 1);
    }
    if (json_size(value) != n)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct json *root;
    struct err err;
    if (json_parse((const char *)data, n, "fuzz", &root, &err) == OK)
        walk(root, 0);
    else if (strncmp(err.text, "fuzz: ", 6) != 0)
        abort(); /* each refusal says where */
    json_free(root);
    return 0;
}
