/* Any text through small vocabularies and back: the same text, but for what the decoders are known to change.
 * The input's first byte picks the vocabulary and whether control pieces are found in the text. */
#include <string.h>

#include "base/text.h"
#include "io/json.h"
#include "io/tokenizer.h"
#include "test/fuzz/memfd.h"

static void must(enum status status)
{
    if (status != OK)
        abort();
}

/* ---- SentencePiece: 256 bytes, some merges, an unused and a user-defined piece ---- */

static void put_piece(struct text *model, const char *piece, float score, char type)
{
    char n = (char)strlen(piece), head[] = {0x0A, (char)(n + 9), 0x0A, n};
    text_add(model, head, sizeof head);
    text_puts(model, piece);
    text_add(model, "\x15", 1);
    text_add(model, (const char *)&score, 4);
    text_add(model, (char[]){0x18, type}, 2);
}

static struct tokenizer *make_spm(void)
{
    static const struct {
        const char *piece;
        float score;
        char type;
    } more[] = {{"\xe2\x96\x81", -9, 1}, {"t", -9, 1}, {"h", -9, 1}, {"e", -9, 1}, {"a", -9, 1}, {"aa", -2, 1}, {"th", -1, 5}, {"the", -3, 1},
                {"\xe2\x96\x81the", -4, 1}, {"\xe2\x96\x81\xe2\x96\x81", -5, 1}, {"<tag>", 0, 4}, {"<tags>", 0, 4}};
    struct text m = {0};
    struct tokenizer *t;
    struct err err;
    put_piece(&m, "<unk>", 0, 2);
    put_piece(&m, "<s>", 0, 3);
    put_piece(&m, "</s>", 0, 3);
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        put_piece(&m, name, 0, 6);
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        put_piece(&m, more[i].piece, more[i].score, more[i].type);
    text_add(&m, "\x12\x02\x18\x02\x1a\x02\x20\x00", 8); /* BPE; extra spaces stay */
    must(tokenizer_parse_sentencepiece(&t, m.s, m.n, "spm", &err));
    text_free(&m);
    return t;
}

/* ---- ranks: 256 bytes, some joined pieces ---- */

static void put_rank(struct text *file, const char *bytes, size_t n, int rank)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t held = 0;
    int bits = 0;
    for (size_t i = 0; i < n; i++) {
        held = held << 8 | (unsigned char)bytes[i];
        for (bits += 8; bits >= 6; bits -= 6)
            text_add(file, &digits[held >> (bits - 6) & 63], 1);
    }
    if (bits)
        text_add(file, &digits[held << (6 - bits) & 63], 1);
    text_printf(file, " %d\n", rank);
}

static struct tokenizer *make_ranked(void)
{
    static const char *const more[] = {"th", "he", "the", " the", "aa", "aaaa", "  ", "12", "\n\n"};
    struct text file = {0};
    struct tokenizer *t;
    struct err err;
    char path[64];
    for (int b = 0; b < 256; b++)
        put_rank(&file, (const char[]){(char)b}, 1, b);
    for (int i = 0; i < (int)(sizeof more / sizeof *more); i++)
        put_rank(&file, more[i], strlen(more[i]), 256 + i);
    int fd = memfd_of((const uint8_t *)file.s, file.n, path);
    must(tokenizer_load_tiktoken(&t, path, &err));
    close(fd);
    text_free(&file);
    return t;
}

/* What comes back: U+FFFD for a byte that is no UTF-8; from SentencePiece a space for U+2581. */
static void expected(const char *s, size_t n, bool spm, struct text *out)
{
    for (size_t i = 0; i < n;) {
        size_t k = s[i] == 0 ? 1 : utf8_length(s + i, n - i);
        if (k == 0)
            text_puts(out, "\xef\xbf\xbd");
        else if (spm && k == 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0)
            text_puts(out, " ");
        else
            text_add(out, s + i, k);
        i += k ? k : 1;
    }
    text_add(out, "", 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct tokenizer *made[2]; /* as long as the process: a fuzzer calls this a million times */
    if (!made[0]) {
        made[0] = make_spm();
        made[1] = make_ranked();
    }
    if (n == 0)
        return 0;
    bool spm = data[0] & 1, special = data[0] & 2;
    const struct tokenizer *t = made[spm ? 0 : 1];
    const char *s = (const char *)data + 1;
    struct tokens ids = {0};
    struct text want = {0};
    struct err err;
    char *back;
    size_t back_n;
    must(tokenizer_encode(t, s, n - 1, special, &ids, &err));
    must(tokenizer_decode(t, ids.id, ids.n, &back, &back_n, &err));
    expected(s, n - 1, spm, &want);
    if (!(special && spm) && (back_n != want.n || memcmp(back, want.s, want.n) != 0))
        abort();
    free(back);
    text_free(&want);
    tokens_free(&ids);
    return 0;
}
