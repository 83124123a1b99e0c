// failures.cpp: the machine that the API tells of, and how its calls fail: no device, no driver, an old one, a library that is not there, and the
// n-th call of all, once or from then on.
#include "emu.h"
#include <dlfcn.h>
#include <stdlib.h>

extern "C" const struct emu_device emu_default_device = {1, 8, 0, 13000, 1 << 30, false, 1};

namespace emu {

emu_device device = emu_default_device;
cudaError_t last_error = cudaSuccess, lost_error = cudaSuccess;
long live;
static long calls, fail_at;
static bool fail_sticky;
static const char *failed_name;

cudaError_t set_error(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

cudaError_t begin_call(const char *name, cudaError_t failure)
{
    init();
    calls++;
    if (device.driver < CUDART_VERSION / 1000 * 1000) // a runtime runs on drivers of its own major version and later
        return set_error(cudaErrorInsufficientDriver);
    if (device.devices == 0)
        return set_error(cudaErrorNoDevice);
    if (lost_error != cudaSuccess)
        return set_error(lost_error);
    if (!fail_at || --fail_at)
        return cudaSuccess;
    failed_name = name;
    if (fail_sticky)
        lost_error = failure;
    return set_error(failure);
}

size_t shared_limit_of_device()
{
    if (device.major >= 9)
        return SHARED_BYTES;
    return device.minor == 0 ? 163 * KB : 99 * KB; // 8.0; 8.6 and 8.9
}

} // namespace emu

using namespace emu;

extern "C" {

void emu_fail(long nth, int sticky)
{
    fail_at = nth;
    fail_sticky = sticky;
    failed_name = nullptr;
}
void emu_revive(void)
{
    fail_at = 0;
    last_error = lost_error = cudaSuccess;
}
const char *emu_failed(void)
{
    return failed_name;
}
long emu_calls(int reset)
{
    long n = calls;
    if (reset)
        calls = 0;
    return n;
}
long emu_live(void)
{
    return live;
}
void emu_set_device(const struct emu_device *d)
{
    init();
    device = *d;
}
void emu_set(int order, unsigned long long seed, int lazy, int stats)
{
    init();
    machine.order = order;
    machine.seed = seed ? seed * 0x9e3779b97f4a7c15ull : 1;
    machine.lazy = lazy;
    machine.stats = stats;
}
void emu_counts(struct emu_counters *counts, int reset)
{
    *counts = machine.counts;
    if (reset)
        machine.counts = emu_counters{};
}

// ---- dlopen of NVIDIA's libraries finds the bodies in this program (it is linked with --wrap and -rdynamic)
void *__real_dlopen(const char *name, int flags);
void *__real_dlsym(void *handle, const char *name);
int __real_dlclose(void *handle);
char *__real_dlerror(void);
static char nvidia, missing[100];

static bool starts(const char *name, const char *with)
{
    return !strncmp(name, with, strlen(with));
}
static bool named(const char *name, const char *library)
{
    return name && strstr(name, library);
}
void *__wrap_dlopen(const char *name, int flags)
{
    bool blas = named(name, "libcublas.so"), driver = named(name, "libcuda.so"), runtime = named(name, "libcudart.so"), ml = named(name, "libnvidia-ml.so");
    if (!blas && !driver && !runtime && !ml)
        return __real_dlopen(name, flags);
    calls++;
    bool chosen = fail_at && !--fail_at;
    if (chosen)
        failed_name = "dlopen";
    if (!chosen && !(blas && device.no_blas) && !(driver && !device.driver) && !(ml && !device.gpus))
        return &nvidia;
    snprintf(missing, sizeof missing, "%s: cannot open shared object file: No such file or directory", name);
    return nullptr;
}
void *__wrap_dlsym(void *handle, const char *name)
{
    if (device.no_blas && starts(name, "cublas"))
        return nullptr;
    return __real_dlsym(handle == &nvidia ? RTLD_DEFAULT : handle, name);
}
int __wrap_dlclose(void *handle)
{
    return handle == &nvidia ? 0 : __real_dlclose(handle);
}
char *__wrap_dlerror(void)
{
    if (!missing[0])
        return __real_dlerror();
    static char text[sizeof missing];
    memcpy(text, missing, sizeof text);
    missing[0] = 0;
    return text;
}

// ---- the driver, as far as it is asked whether it is there
int cuInit(unsigned)
{
    return device.devices ? 0 : 100; // CUDA_ERROR_NO_DEVICE
}
int cuDriverGetVersion(int *version)
{
    *version = device.driver;
    return 0;
}

// ---- NVML, as far as it is asked how many there are
int nvmlInit_v2(void)
{
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *n)
{
    *n = static_cast<unsigned>(device.gpus);
    return 0;
}
int nvmlShutdown(void)
{
    return 0;
}
}
