// launch.cpp: what <<<>>> does: the limits of a launch, its arguments, the grid, block by block; streams that run at once or, lazily, as late as
// they may; and the image, the library that holds the kernels.
#include "emu.h"
#include <algorithm>
#include <deque>
#include <dlfcn.h>
#include <link.h>
#include <map>
#include <stdlib.h>

namespace emu {

char *dynamic_shared, *arguments, *ptx_variables;
size_t shared_bytes;
Image image;

struct Stream {
    std::deque<std::function<void()>> queue;
};
static Stream default_stream;
static std::vector<Stream *> streams;
static std::map<const void *, size_t> shared_limit;

// EMU_LAUNCHES=FILE: for each kernel, its name, threads and dynamic shared memory at most, added to the file at the end.
static struct Widest {
    std::map<const void *, std::pair<size_t, size_t>> kernels;
    ~Widest()
    {
        const char *path = getenv("EMU_LAUNCHES");
        FILE *f = path ? fopen(path, "a") : nullptr;
        Dl_info d;
        for (auto &k : kernels)
            if (f && dladdr(k.first, &d) && d.dli_sname)
                fprintf(f, "%s %zu %zu\n", d.dli_sname, k.second.first, k.second.second);
        if (f)
            fclose(f);
    }
} widest;

void *dyn_smem()
{
    return dynamic_shared;
}

void init()
{
    if (arena)
        return;
    arena_init();
    fibers_init();
    dynamic_shared = static_cast<char *>(reserve(SHARED_BYTES));
    arguments = static_cast<char *>(reserve(ARGUMENT_BYTES));
    ptx_variables = static_cast<char *>(reserve(PTX_VARIABLE_BYTES));
    const char *order = getenv("EMU_ORDER"), *seed = getenv("EMU_SEED");
    emu_set(order ? atoi(order) : 0, seed ? strtoull(seed, nullptr, 10) : 1, getenv("EMU_LAZY") != nullptr, 0);
}

// ---- streams
Stream *stream_make()
{
    streams.push_back(new Stream);
    return streams.back();
}

void stream_free(Stream *s)
{
    drain(s);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == s)
            streams.erase(streams.begin() + static_cast<long>(i));
    delete s;
}

void drain(Stream *s)
{
    s = s ? s : &default_stream;
    while (!s->queue.empty()) {
        std::function<void()> work = std::move(s->queue.front());
        s->queue.pop_front();
        if (lost_error == cudaSuccess) // on a lost device nothing runs any more: the host's side of a copy may be gone
            work();
    }
}

void drain_all()
{
    drain(nullptr);
    for (Stream *s : streams)
        drain(s);
}

void enqueue(Stream *s, std::function<void()> work)
{
    if (machine.lazy)
        (s ? s : &default_stream)->queue.push_back(std::move(work));
    else
        work();
}

// ---- the image
static int find_image(dl_phdr_info *info, size_t, void *kernel)
{
    char *base = reinterpret_cast<char *>(info->dlpi_addr), *from = nullptr, *to = nullptr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &h = info->dlpi_phdr[i];
        if (h.p_type != PT_LOAD)
            continue;
        from = from ? from : base + h.p_vaddr;
        to = base + h.p_vaddr + h.p_memsz;
    }
    if (static_cast<char *>(kernel) < from || static_cast<char *>(kernel) >= to)
        return 0;
    image = Image{info->dlpi_name, from, to, nullptr, 0};
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_TLS)
            continue;
        image.shared = static_cast<char *>(info->dlpi_tls_data);
        image.shared_bytes = info->dlpi_phdr[i].p_memsz;
    }
    return 1;
}

// ---- launches
void *argument_memory(size_t bytes)
{
    init();
    static size_t at;
    at = (at + 63) / 64 * 64;
    if (at + bytes > ARGUMENT_BYTES) {
        drain_all();
        at = 0;
    }
    at += bytes;
    return arguments + at - bytes;
}

static void run_grid(const Config &config, void (*body)(void *), void *values, size_t static_bytes)
{
    OpenArena open;
    dim3 g = config.grid;
    machine.config = &config;
    machine.body = body;
    machine.arguments = values;
    machine.threads = static_cast<int>(config.block.x * config.block.y * config.block.z);
    shared_bytes = static_bytes + config.smem;
    machine.launch++;
    machine.counts.launches++;
    unsigned long blocks = 1ul * g.x * g.y * g.z;
    for (unsigned long k = 0; k < blocks; k++) {
        unsigned long i = machine.order == 1 ? blocks - 1 - k : k;
        machine.block = static_cast<uint32_t>(i);
        memset(dynamic_shared, 0xff, shared_bytes);
        if (image.shared)
            memset(image.shared, 0xff, image.shared_bytes);
        checker_block();
        run_block(config.block, uint3{static_cast<unsigned>(i % g.x), static_cast<unsigned>(i / g.x % g.y),
                                      static_cast<unsigned>(i / g.x / g.y)});
    }
    machine.config = nullptr;
}

void limit_shared(const void *kernel, size_t bytes)
{
    shared_limit[kernel] = bytes;
}

static bool launchable(const Config &c, const void *kernel)
{
    auto limit = shared_limit.find(kernel);
    size_t most = limit == shared_limit.end() ? SHARED_DEFAULT : limit->second;
    unsigned long threads = 1ul * c.block.x * c.block.y * c.block.z;
    dim3 g = c.grid;
    if (!threads || threads > MAX_THREADS || c.block.z > 64 || !g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535 || g.x > 0x7fffffff) {
        report(0, "launch", "%s: grid %u x %u x %u of %u x %u x %u threads cannot be launched", c.name, g.x, g.y, g.z, c.block.x, c.block.y,
               c.block.z);
        return false;
    }
    if (c.smem > most) {
        report(0, "launch", "%s asks for %zu bytes of dynamic shared memory, the limit is %zu (cudaFuncSetAttribute)", c.name, c.smem, most);
        return false;
    }
    return true;
}

void submit(const Config &config, const void *kernel, void (*body)(void *), void *values, const void *const *each)
{
    init();
    if (!image.from)
        dl_iterate_phdr(find_image, const_cast<void *>(kernel));
    if (begin_call("kernel launch", cudaErrorLaunchFailure) != cudaSuccess)
        return;
    if (!launchable(config, kernel)) {
        set_error(cudaErrorInvalidConfiguration);
        return;
    }
    std::pair<size_t, size_t> &w = widest.kernels[kernel];
    w.first = std::max<size_t>(w.first, 1ul * config.block.x * config.block.y * config.block.z);
    w.second = std::max(w.second, config.smem);
    size_t static_bytes = 0;
    if (ptx_bind(kernel, each, &body, &values, &static_bytes))
        machine.checked = true;
    enqueue(reinterpret_cast<Stream *>(config.stream), [=] { run_grid(config, body, values, static_bytes); });
}

} // namespace emu
