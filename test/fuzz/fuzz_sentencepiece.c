/* Any bytes as a SentencePiece model; what is accepted must encode and decode. */
#include <string.h>

#include "io/tokenizer.h"
#include "test/fuzz/memfd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char text[] = " The  cat\xe2\x96\x81<s> 12\xff\n";
    struct tokenizer *t;
    struct tokenizer_view view;
    struct tokens ids = {0};
    struct err err;
    char *back;
    size_t back_n;
    if (tokenizer_parse_sentencepiece(&t, data, n, "fuzz", &err) != OK)
        return 0;
    tokenizer_view(t, &view);
    for (int special = 0; special < 2; special++) /* fails where the vocabulary has neither bytes nor <unk> */
        tokenizer_encode(t, text, sizeof text - 1, special == 1, &ids, &err);
    for (int32_t id = 0; id < view.n; id++)
        if (tokenizer_find(t, view.piece[id]) != id && strlen(view.piece[id]) > 0 && tokenizer_find(t, view.piece[id]) >= view.n)
            abort();
    if (tokenizer_decode(t, ids.id, ids.n, &back, &back_n, &err) != OK)
        abort(); /* an encoder's ids are in the vocabulary */
    free(back);
    tokens_free(&ids);
    tokenizer_free(t);
    return 0;
}
