/* stub.c: device.h in a build without CUDA: opening says what is missing, and nothing else is ever called. */
#include "cuda/device.h"

static enum status missing(struct err *err)
{
    return err_set(err, ERR_INPUT, "this program was built without CUDA, want one built by make CUDA=1 (with the CUDA 13 toolkit) or device = cpu");
}

enum status device_open(struct device **device, struct err *err)
{
    *device = NULL;
    return missing(err);
}

void device_close(struct device *device)
{
    (void)device;
}

const char *device_name(const struct device *device)
{
    (void)device;
    return "none";
}

enum status device_memory(const struct device *device, size_t *total, size_t *available, struct err *err)
{
    (void)device;
    *total = *available = 0;
    return missing(err);
}

enum status device_commit(struct device *device, struct arena *arena, const char *what, struct err *err)
{
    (void)device, (void)arena, (void)what;
    return missing(err);
}

void device_release(struct device *device, struct arena *arena)
{
    (void)device, (void)arena;
}

enum status device_upload(struct device *device, void *to, const void *from, size_t bytes, struct err *err)
{
    (void)device, (void)to, (void)from, (void)bytes;
    return missing(err);
}

enum status device_download(struct device *device, void *to, const void *from, size_t bytes, struct err *err)
{
    (void)device, (void)to, (void)from, (void)bytes;
    return missing(err);
}

void device_zero(struct device *device, void *to, size_t bytes)
{
    (void)device, (void)to, (void)bytes;
}

void device_copy(struct device *device, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, size_t rows)
{
    (void)device, (void)to, (void)to_stride, (void)from, (void)from_stride, (void)bytes, (void)rows;
}

enum status device_upload_matrix(struct device *device, struct qmat *to, const struct qmat *from, struct err *err)
{
    (void)device, (void)to, (void)from;
    return missing(err);
}

enum status device_check(struct device *device, struct err *err)
{
    (void)device;
    return missing(err);
}

enum status device_encode(struct device *device, struct qmat *q, const real *W, bool f16_first, struct err *err)
{
    (void)device, (void)q, (void)W, (void)f16_first;
    return missing(err);
}

const struct ops *device_ops(void)
{
    return NULL;
}
