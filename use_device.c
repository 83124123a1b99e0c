/* use_device.c: a word of the user's into a table of kernels and the device that it runs on. */
#include "use_device.h"

#include <string.h>

#include "cuda/device.h"

enum status use_device_open(const char *name, struct ops_context *c, struct err *err)
{
    struct err none;
    bool only = strcmp(name, "cuda") == 0, may = strcmp(name, "auto") == 0;
    c->ops = cpu_ops(false);
    c->device = NULL;
    if (!only && !may && strcmp(name, "cpu") != 0)
        return err_set(err, ERR_INPUT, "device = %s, want auto, cpu or cuda", name);
    if (only)
        TRY(device_open(&c->device, err));
    else if (may && device_open(&c->device, &none) != OK)
        return OK;
    if (c->device)
        c->ops = device_ops();
    return OK;
}

void use_device_close(struct ops_context *c)
{
    device_close(c->device);
    c->device = NULL;
}
