/* tokenizer_golden_test.c: ids and decoded text of 156 strings in six vocabularies, as sentencepiece, tiktoken and tokenizers give them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "golden_ids.h"

static void with_file(const char *name, enum status (*load)(struct tokenizer **, const char *, struct err *))
{
    struct tokenizer *t = golden_file(name, load);
    golden_compare(t, name);
    tokenizer_free(t);
}

static void llama2(void **state)
{
    (void)state;
    with_file("llama2", tokenizer_load_sentencepiece);
}

static void mistral_v1(void **state)
{
    (void)state;
    with_file("mistral-v1", tokenizer_load_sentencepiece);
}

static void mistral_v3(void **state)
{
    (void)state;
    with_file("mistral-v3", tokenizer_load_sentencepiece);
}

static void openllama3b(void **state)
{
    (void)state;
    with_file("openllama3b", tokenizer_load_sentencepiece);
}

static void llama3(void **state)
{
    (void)state;
    with_file("llama3", tokenizer_load_tiktoken);
}

static void smollm2(void **state)
{
    (void)state;
    struct tokenizer *t = golden_smollm2();
    golden_compare(t, "smollm2");
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama2),      cmocka_unit_test(mistral_v1), cmocka_unit_test(mistral_v3),
        cmocka_unit_test(openllama3b), cmocka_unit_test(llama3),     cmocka_unit_test(smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
