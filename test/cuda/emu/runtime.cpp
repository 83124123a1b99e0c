// runtime.cpp: the bodies of NVIDIA's runtime API, with its own prototypes.  Each call that can fail passes begin_call (failures.cpp).
//
// Copies and memsets on a stream are work of that stream (launch.cpp); a copy without Async waits for everything before it, as the default stream does.
#include "emu.h"
#include <algorithm>
#include <stdlib.h>

using namespace emu;

#define BEGIN(name, failure)                                                                                                 \
    do {                                                                                                                     \
        cudaError_t begun = begin_call(name, failure);                                                                       \
        if (begun != cudaSuccess)                                                                                            \
            return begun;                                                                                                    \
    } while (0)

struct CUevent_st {
    bool recorded;
};

static Stream *stream_of(cudaStream_t s)
{
    return s == cudaStreamLegacy || s == cudaStreamPerThread ? nullptr : reinterpret_cast<Stream *>(s);
}

// ---- copies
static void check_read(const char *from, size_t n)
{
    const ByteState *s = arena_state + (from - arena);
    for (size_t i = 0; machine.checked && i < n; i++) {
        if (s[i] != UNWRITTEN)
            continue;
        report(0, "initcheck", "a copy to the host reads byte %zu of %zu, which nobody wrote", i, n);
        return;
    }
}

static void copy(void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    if (kind == cudaMemcpyDefault)
        kind = static_cast<cudaMemcpyKind>((in_arena(from) ? 2 : 0) + (in_arena(to) ? 1 : 0)); // the enum's own bits
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if ((!from_device && in_arena(from)) || (!to_device && in_arena(to))) {
        report(0, "memcheck", "a copy of %zu bytes names a device pointer as the host's", n);
        return;
    }
    OpenArena open;
    if ((from_device && !device_range(from, n, "source of a copy")) || (to_device && !device_range(to, n, "destination of a copy")))
        return;
    if (from_device && !to_device)
        check_read(static_cast<const char *>(from), n);
    if (to_device && from_device)
        memmove(arena_state + (static_cast<char *>(to) - arena), arena_state + (static_cast<const char *>(from) - arena), n);
    else if (to_device)
        memset(arena_state + (static_cast<char *>(to) - arena), WRITTEN, n);
    memmove(to, from, n);
}

static void fill(void *to, int value, size_t n)
{
    OpenArena open;
    if (!device_range(to, n, "memset"))
        return;
    memset(to, value, n);
    memset(arena_state + (static_cast<char *>(to) - arena), WRITTEN, n);
}

extern "C" {

// ---- memory
cudaError_t cudaMalloc(void **p, size_t n)
{
    BEGIN("cudaMalloc", cudaErrorMemoryAllocation);
    *p = n ? device_alloc(n) : nullptr;
    if (n && !*p)
        return set_error(cudaErrorMemoryAllocation);
    live += n > 0;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    if (!p)
        return cudaSuccess;
    drain_all();
    if (!device_free(p))
        return set_error(cudaErrorInvalidValue);
    live--;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n)
{
    BEGIN("cudaMallocHost", cudaErrorMemoryAllocation);
    *p = malloc(n);
    live++;
    return *p ? cudaSuccess : set_error(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned)
{
    return cudaMallocHost(p, n);
}
cudaError_t cudaFreeHost(void *p)
{
    drain_all();
    live -= p != nullptr;
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    BEGIN("cudaMemGetInfo", cudaErrorUnknown);
    *total = device.memory;
    *unused = device.memory - emu_memory(nullptr, 0);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t s)
{
    BEGIN("cudaMemcpyAsync", cudaErrorIllegalAddress);
    enqueue(stream_of(s), [=] { copy(to, from, n, kind); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    BEGIN("cudaMemcpy", cudaErrorIllegalAddress);
    drain_all();
    copy(to, from, n, kind);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t s)
{
    BEGIN("cudaMemcpy2DAsync", cudaErrorIllegalAddress);
    if (width > to_pitch || width > from_pitch)
        return set_error(cudaErrorInvalidPitchValue);
    enqueue(stream_of(s), [=] {
        for (size_t r = 0; r < height; r++)
            copy(static_cast<char *>(to) + r * to_pitch, static_cast<const char *>(from) + r * from_pitch, width, kind);
    });
    return cudaSuccess;
}
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind)
{
    cudaError_t e = cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
    drain_all();
    return e;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s)
{
    BEGIN("cudaMemsetAsync", cudaErrorIllegalAddress);
    enqueue(stream_of(s), [=] { fill(to, value, n); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t n)
{
    BEGIN("cudaMemset", cudaErrorIllegalAddress);
    drain_all();
    fill(to, value, n);
    return cudaSuccess;
}

// ---- streams and events
cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    BEGIN("cudaStreamCreate", cudaErrorMemoryAllocation);
    *s = reinterpret_cast<cudaStream_t>(stream_make());
    live++;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    return cudaStreamCreate(s);
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    stream_free(stream_of(s));
    live--;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    BEGIN("cudaStreamSynchronize", cudaErrorLaunchFailure);
    drain(stream_of(s));
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t s)
{
    return cudaStreamSynchronize(s);
}
cudaError_t cudaDeviceSynchronize(void)
{
    BEGIN("cudaDeviceSynchronize", cudaErrorLaunchFailure);
    drain_all();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    BEGIN("cudaEventCreate", cudaErrorMemoryAllocation);
    *e = new CUevent_st{};
    live++;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    return cudaEventCreate(e);
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    drain_all();
    delete e;
    live--;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    BEGIN("cudaEventRecord", cudaErrorLaunchFailure);
    e->recorded = false;
    enqueue(stream_of(s), [=] { e->recorded = true; });
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    BEGIN("cudaEventSynchronize", cudaErrorLaunchFailure);
    if (!e->recorded)
        drain_all();
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    BEGIN("cudaStreamWaitEvent", cudaErrorLaunchFailure);
    enqueue(stream_of(s), [=] {
        if (!e->recorded)
            drain_all(); // the work before the event has to run first
    });
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    BEGIN("cudaEventElapsedTime", cudaErrorInvalidResourceHandle);
    *ms = 0;
    return cudaSuccess;
}

// ---- errors
cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = lost_error;
    return e;
}
cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}
const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInsufficientDriver:
        return "cudaErrorInsufficientDriver";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    default:
        return "cudaErrorUnknown";
    }
}
const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    default:
        return "unknown error";
    }
}

// ---- the device
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = device.driver;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    BEGIN("cudaGetDeviceCount", cudaErrorUnknown);
    *n = device.devices;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int d)
{
    BEGIN("cudaSetDevice", cudaErrorDevicesUnavailable);
    return d < device.devices ? cudaSuccess : set_error(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int *d)
{
    *d = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceReset(void)
{
    drain_all();
    lost_error = last_error = cudaSuccess;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    BEGIN("cudaDeviceGetAttribute", cudaErrorInvalidValue);
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = device.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = device.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(shared_limit_of_device());
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(SHARED_DEFAULT);
        break;
    case cudaDevAttrWarpSize:
        *value = WARP;
        break;
    case cudaDevAttrMaxThreadsPerBlock:
        *value = MAX_THREADS;
        break;
    default:
        return set_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    BEGIN("cudaGetDeviceProperties", cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->totalGlobalMem = device.memory;
    p->major = device.major;
    p->minor = device.minor;
    p->multiProcessorCount = 4;
    p->warpSize = WARP;
    p->maxThreadsPerBlock = MAX_THREADS;
    p->sharedMemPerBlock = SHARED_DEFAULT;
    p->sharedMemPerBlockOptin = shared_limit_of_device();
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    BEGIN("cudaFuncSetAttribute", cudaErrorInvalidDeviceFunction);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > shared_limit_of_device())
        return set_error(cudaErrorInvalidValue);
    limit_shared(kernel, static_cast<size_t>(value));
    return cudaSuccess;
}
}
