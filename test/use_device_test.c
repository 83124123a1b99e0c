/* The words of the key `device`: what they mean, and what is said where a GPU cannot be used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "cuda/device.h"
#include "use_device.h"

/* auto is the device where one opens, else the CPU; what else stands in the context is left alone. */
static void opening_fills_the_table(void **state)
{
    (void)state;
    struct err err = {""};
    struct ops_context c = {.threads = 3, .compute = COMPUTE_BF16};
    assert_int_equal(use_device_open("cpu", &c, &err), OK);
    assert_ptr_equal(c.ops, cpu_ops(false));
    assert_null(c.device);
    assert_int_equal(use_device_open("auto", &c, &err), OK);
    assert_ptr_equal(c.ops, c.device ? device_ops() : cpu_ops(false));
    use_device_close(&c);
    assert_null(c.device);
    assert_int_equal(c.threads, 3);
    assert_int_equal(c.compute, COMPUTE_BF16);
    assert_int_equal(use_device_open("gpu", &c, &err), ERR_INPUT);
    assert_string_equal(err.text, "device = gpu, want auto, cpu or cuda");
    if (device_ops() == NULL) {
        assert_int_equal(use_device_open("cuda", &c, &err), ERR_INPUT);
        assert_string_equal(err.text, "this program was built without CUDA, want one built by make CUDA=1 (with the CUDA 13 toolkit) or device = cpu");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(opening_fills_the_table)};
    return cmocka_run_group_tests_name("use_device", tests, NULL, NULL);
}
