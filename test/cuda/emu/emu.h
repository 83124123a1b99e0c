// emu.h: what the parts of the emulator know of each other.  Kernels see cuda_emu.h, tests see emu_ctl.h.
//
//   fibers.cpp   a stack for each CUDA thread, and the switch between them
//   blocks.cpp   one block: who runs, who waits for whom, what a barrier or a shuffle gives
//   tensor.cpp   mma.sync, ldmatrix, cp.async
//   arena.cpp    device memory: allocations, what was written, poison
//   launch.cpp   grids, the limits of a launch, streams, the kernels' image
//   checker.cpp  every access of a kernel: bounds, initialisation, races; reports
//   statistics.cpp  how the accesses of a warp fall into sectors and banks
//   runtime.cpp  cudaXxx;  failures.cpp  the machine that is told of, calls that fail;  blas.cpp  cublasXxx
//   ptx_parse.cpp, ptx_math.cpp, ptx_run.cpp  nvcc's PTX on the same fibers, under the same checker
#pragma once
#include "cuda_emu.h"
#include "emu_ctl.h"
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <functional>
#include <stdio.h>
#include <string>
#include <unistd.h>
#include <vector>

#undef warpSize // a member of cudaDeviceProp too

namespace emu {

constexpr int WARP = 32, MAX_THREADS = 1024;
constexpr size_t KB = 1024, MB = 1024 * KB;
constexpr size_t ARENA_BYTES = 1024 * MB, SHARED_BYTES = 227 * KB, SHARED_DEFAULT = 48 * KB, ARGUMENT_BYTES = 16 * MB;

// ---- fibers.cpp
enum State { RUNNING, AT_WARP, AT_BARRIER, DONE };
enum Wait { WAIT_SYNC, WAIT_EXCHANGE, WAIT_VOTE };

struct Copy { // a cp.async on its way
    char *to;
    const char *from;
    int bytes, group;
};

typedef void *Place[5]; // of __builtin_setjmp

struct alignas(64) Fiber {
    // what a lane looks at of the others, in one line of the cache
    State state;
    int line; // where it waits
    // at a warp operation
    Wait wait;
    Exchange op;
    unsigned mask;
    int width, argument, predicate;
    uint64_t value, result;
    // at a barrier
    BarrierKind barrier;
    Ids ids;
    // at a tensor-core instruction
    const uint32_t *a, *b;
    float *d;
    uint32_t *loaded;
    const void *row;
    bool flag; // mma: bf16, else fp16; ldmatrix: transposed
    std::vector<Copy> copies;
    int copy_group;
    uint32_t warp_epoch; // grows at each full __syncwarp
    // fibers.cpp's own
    Place context;
    bool started;
    char *stack;
};

struct Machine {
    Fiber *fibers;  // [MAX_THREADS]
    Fiber *current; // NULL while the host runs
    int threads;    // of a block of this launch
    void (*body)(void *);
    void *arguments;
    const Config *config; // of the launch that runs, or NULL
    uint32_t epoch;       // grows at each barrier of a block
    uint32_t launch, block;
    int order;
    uint64_t seed;
    bool lazy, stats, checked;
    emu_counters counts;
};
extern Machine machine;

void fibers_init();
void yield();            // from a fiber to the scheduler
void resume(Fiber *);    // from the scheduler to a fiber, until it yields
void abandon(Fiber *);   // its next resume starts a new run of the body
bool on_fiber_stack(const void *p);

// ---- blocks.cpp
void run_block(dim3 block, uint3 index);
void warp_wait(Wait wait, Exchange op, unsigned mask, int line);

// ---- tensor.cpp: all lanes have come, at the same instruction
void mma_execute(Fiber *warp);
void ldmatrix_execute(Fiber *warp);

// ---- arena.cpp
enum ByteState : uint8_t { FOREIGN, UNWRITTEN, WRITTEN };
extern char *arena;           // device memory: PROT_NONE while the host runs
extern ByteState *arena_state; // [ARENA_BYTES]
void arena_init();
void *reserve(size_t bytes); // zeros that take no memory until they are touched
bool in_arena(const void *p);
void *device_alloc(size_t bytes); // NULL: none left
bool device_free(void *p);        // false: not an allocation
// True when p[0 .. n) lies in one allocation; reports if not.
bool device_range(const void *p, size_t n, const char *what);
// Host code of the emulator that works on device memory holds one of these.
struct OpenArena {
    OpenArena();
    ~OpenArena();
};

// ---- launch.cpp
extern char *dynamic_shared; // [SHARED_BYTES]: what PTX calls the shared window, static variables first
extern char *arguments;      // [ARGUMENT_BYTES]
extern size_t shared_bytes;  // of dynamic_shared, in this launch
struct Image {               // the library that holds the kernels: its constants, its static __shared__ variables
    const char *path;
    char *from, *to;
    char *shared;
    size_t shared_bytes;
};
extern Image image;
void init(); // everything; cheap when done
struct Stream;
Stream *stream_make();
void stream_free(Stream *);
void enqueue(Stream *, std::function<void()> work); // NULL: the default stream
void drain(Stream *);
void drain_all();
void limit_shared(const void *kernel, size_t bytes);

// ---- checker.cpp
void access(void *p, int size, bool write, bool atomic, uintptr_t pc);
// One sentence for each kind, place and kernel; counted always.  pc: of the compiled code, ptx_place(...), or 0.
__attribute__((format(printf, 3, 4))) void report(uintptr_t pc, const char *kind, const char *format, ...);
inline uintptr_t ptx_place(int line, int source)
{
    return 1ull << 62 | static_cast<uintptr_t>(source) << 32 | static_cast<unsigned>(line);
}
std::string place_name(uintptr_t pc);
void checker_block(); // a block begins: its shared memory is unwritten
#define EMU_CALLER reinterpret_cast<uintptr_t>(__builtin_return_address(0))

// ---- statistics.cpp
void statistics_add(uintptr_t address, int size, bool shared, bool write, uintptr_t pc);
void statistics_block();

// ---- failures.cpp
extern emu_device device;
extern cudaError_t last_error, lost_error; // lost_error: what every call returns after a failure that lasts
cudaError_t set_error(cudaError_t);
// Counts a call that can fail.  Not cudaSuccess: it is to fail so; `failure` is what it returns when emu_fail chose it.
cudaError_t begin_call(const char *name, cudaError_t failure);
extern long live; // what was made and not freed
size_t shared_limit_of_device();

// ---- ptx_run.cpp
constexpr size_t PTX_VARIABLE_BYTES = MB;
extern char *ptx_variables; // [PTX_VARIABLE_BYTES]: what a module declares beside its kernels, read by them
// True when a kernel of this name is in EMU_PTX: body and arguments are replaced, *shared is what its static variables take.
bool ptx_bind(const void *kernel, const void *const *each, void (**body)(void *), void **arguments, size_t *shared);

} // namespace emu
