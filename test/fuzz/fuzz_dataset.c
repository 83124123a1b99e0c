/* Any bytes as fine-tuning data or as a task file: labels are tokens that follow, counts agree. */
#include <string.h>

#include "io/chat_template.h"
#include "io/dataset.h"
#include "test/fuzz/memfd.h"

static void check(const struct dataset *d, int32_t vocabulary, int32_t most)
{
    uint64_t rows = 0, labelled = 0;
    for (size_t i = 0; i < d->n; i++) {
        const struct example *e = &d->example[i];
        if (e->n < 2 || e->n > most)
            abort();
        for (int32_t t = 0; t < e->n; t++) {
            bool label = e->labels[t] >= 0;
            if (e->tokens[t] < 0 || e->tokens[t] >= vocabulary || (label && (t + 1 == e->n || e->labels[t] != e->tokens[t + 1])))
                abort();
            labelled += label;
        }
        rows += (uint64_t)e->n;
    }
    if (rows != d->tokens || labelled != d->labelled)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct tokenizer *tokenizer; /* made once: a fuzzer calls this millions of times */
    struct dataset dataset;
    struct err err;
    char path[64];
    if (!tokenizer && tokenizer_load_sentencepiece(&tokenizer, "data/world/tokenizer.model", &err) != OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    struct dataset_options options = {.max_seq_len = n ? 2 + data[0] % 64 : 8, .packing = n > 1 && data[1] % 2, .train_on_inputs = n > 2 && data[2] % 2,
                                      .bos = -1, .chat_template = n > 3 && data[3] % 2 ? chat_template_known("zephyr") : NULL, .chat_name = "zephyr",
                                      .chat_all = n > 4 && data[4] % 2};
    int fd = memfd_of(data, n, path);
    if (dataset_load(&dataset, path, "auto", tokenizer, &options, &err) == OK) {
        check(&dataset, tokenizer_vocab_size(tokenizer), options.max_seq_len);
        dataset_free(&dataset);
    }
    close(fd);
    return 0;
}
