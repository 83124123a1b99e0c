/* Any bytes as a tokenizer.json, or, after a zero byte, as the tokenizer_config.json of a small one; what is accepted must encode and decode. */
#include <string.h>

#include "io/tokenizer.h"
#include "test/fuzz/memfd.h"

static void use(const struct tokenizer *t)
{
    static const char text[] = " The  cat\xe2\x96\x81<s> 12\xff e\xcc\x81\n<e>aabb";
    struct tokens ids = {0};
    struct err err;
    char *back;
    size_t back_n;
    struct tokenizer_view view;
    tokenizer_view(t, &view);
    for (int special = 0; special < 2; special++) /* fails where an expression gives up */
        tokenizer_encode(t, text, sizeof text - 1, special == 1, &ids, &err);
    if (tokenizer_decode(t, ids.id, ids.n, &back, &back_n, &err) != OK)
        abort(); /* an encoder's ids are in the vocabulary */
    for (int32_t id = 0; id < view.n; id++)
        if (tokenizer_find(t, view.piece[id]) != id)
            abort();
    if (tokenizer_bos(t) >= view.n || tokenizer_eos(t) >= view.n || tokenizer_unk(t) >= view.n || (tokenizer_add_bos(t) && tokenizer_bos(t) < 0))
        abort();
    free(back);
    tokens_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char small[] = "{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"<e>\": 2}, \"merges\": []}}";
    struct tokenizer *t;
    struct err err;
    bool config = n > 0 && data[0] == 0;
    const char *text = config ? small : (const char *)data;
    if (tokenizer_parse_json(&t, text, config ? sizeof small - 1 : n, "fuzz", &err) != OK) {
        if (config)
            abort();
        return 0;
    }
    if (!config || tokenizer_apply_config(t, (const char *)data + 1, n - 1, "fuzz", &err) == OK)
        use(t);
    tokenizer_free(t);
    return 0;
}
