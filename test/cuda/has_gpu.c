/* has_gpu.c: the name of the device that the tests would run on, or the sentence of what is missing and status 2. */
#include <stdio.h>

#include "cuda/device.h"

int main(void)
{
    struct device *device;
    struct err err;
    enum status status = device_open(&device, &err);
    puts(status == OK ? device_name(device) : err.text);
    if (status == OK)
        device_close(device);
    return status == OK ? 0 : 2;
}
