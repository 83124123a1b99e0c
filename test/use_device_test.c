/* The words of the key `device`: what they mean, and what is said where a GPU cannot be used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "cuda/device.h"
#include "use_device.h"

static void words(void **state)
{
    (void)state;
    struct err err = {""};
    assert_int_equal(use_device("auto", &err), OK);
    assert_int_equal(use_device("cpu", &err), OK);
    assert_int_equal(use_device("gpu", &err), ERR_INPUT);
    assert_string_equal(err.text, "device = gpu, want auto, cpu or cuda");
}

/* Which sentence depends on the machine; a build without CUDA has one. */
static void cuda_is_refused_in_a_sentence(void **state)
{
    (void)state;
    struct err err = {""};
    assert_int_equal(use_device("cuda", &err), ERR_INPUT);
    if (device_ops() == NULL)
        assert_string_equal(err.text, "this program was built without CUDA, want one built by make CUDA=1 (with the CUDA 13 toolkit) or device = cpu");
    assert_true(err.text[0] != '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words), cmocka_unit_test(cuda_is_refused_in_a_sentence)};
    return cmocka_run_group_tests_name("use_device", tests, NULL, NULL);
}
