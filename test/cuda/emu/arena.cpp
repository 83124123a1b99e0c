// arena.cpp: device memory.  One gigabyte of addresses that host code cannot touch (PROT_NONE): a device pointer that is dereferenced on the host
// faults, as it would with a GPU.  What nobody wrote is 0xFF (NaN in every float format).  Behind each allocation lie 256 bytes that must not change.
#include "emu.h"
#include <algorithm>
#include <map>
#include <stdlib.h>
#include <sys/mman.h>

namespace emu {

char *arena;
ByteState *arena_state;

static const size_t ALIGNMENT = 256, ZONE = 256; // as cudaMalloc aligns
static const unsigned char ZONE_BYTE = 0xa5;
static const size_t HUGE_PAGE = 2 * MB;
static std::map<size_t, size_t> allocations; // offset -> bytes
static size_t in_use, most_in_use;
static size_t top; // what was ever allocated lies below; the rest is closed for good
static int open_count;

void *reserve(size_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("emulated device memory");
        _exit(2);
    }
    return p;
}

// In huge pages where the system has them: opening and closing takes as long as there are pages.
static char *reserve_huge(size_t bytes)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(reserve(bytes + HUGE_PAGE));
    char *aligned = reinterpret_cast<char *>((p + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    madvise(aligned, bytes, MADV_HUGEPAGE);
    return aligned;
}

void arena_init()
{
    arena = reserve_huge(ARENA_BYTES);
    arena_state = reinterpret_cast<ByteState *>(reserve_huge(ARENA_BYTES));
    mprotect(arena, ARENA_BYTES, PROT_NONE);
}

OpenArena::OpenArena()
{
    if (!open_count++)
        mprotect(arena, top, PROT_READ | PROT_WRITE);
}

OpenArena::~OpenArena()
{
    if (!--open_count)
        mprotect(arena, top, PROT_NONE);
}

bool in_arena(const void *p)
{
    const char *c = static_cast<const char *>(p);
    return c >= arena && c < arena + ARENA_BYTES;
}

void *device_alloc(size_t bytes)
{
    if (bytes > device.memory || in_use > device.memory - bytes)
        return nullptr;
    size_t at = 0;
    for (auto &a : allocations) {
        if (at + bytes + ZONE <= a.first)
            break;
        at = (a.first + a.second + ZONE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    if (at + bytes + ZONE > ARENA_BYTES)
        return nullptr;
    allocations[at] = bytes;
    top = std::max(top, (at + bytes + ZONE + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    in_use += bytes;
    most_in_use = most_in_use > in_use ? most_in_use : in_use;
    OpenArena open;
    memset(arena + at, 0xff, bytes);
    memset(arena + at + bytes, ZONE_BYTE, ZONE);
    memset(arena_state + at, UNWRITTEN, bytes);
    return arena + at;
}

bool device_free(void *p)
{
    auto it = in_arena(p) ? allocations.find(static_cast<size_t>(static_cast<char *>(p) - arena)) : allocations.end();
    if (it == allocations.end()) {
        report(0, "memcheck", "cudaFree of %p, which is no allocation", p);
        return false;
    }
    OpenArena open;
    char *end = arena + it->first + it->second;
    for (size_t i = 0; i < ZONE; i++) {
        if (static_cast<unsigned char>(end[i]) == ZONE_BYTE)
            continue;
        report(0, "memcheck", "byte %zu behind an allocation of %zu bytes was written", i, it->second);
        break;
    }
    memset(arena + it->first, 0xff, it->second);
    memset(arena_state + it->first, FOREIGN, it->second);
    in_use -= it->second;
    allocations.erase(it);
    return true;
}

bool device_range(const void *p, size_t n, const char *what)
{
    if (in_arena(p)) {
        size_t at = static_cast<size_t>(static_cast<const char *>(p) - arena);
        auto it = allocations.upper_bound(at);
        if (it != allocations.begin() && (--it, at + n <= it->first + it->second))
            return true;
    }
    report(0, "memcheck", "%s: %zu bytes at %p are not inside a device allocation", what, n, p);
    return false;
}

} // namespace emu

static void mark(const void *p, size_t n, emu::ByteState state)
{
    if (emu::device_range(p, n, "memory that a test marks"))
        memset(emu::arena_state + (static_cast<const char *>(p) - emu::arena), state, n);
}

extern "C" {
void emu_fence(const void *p, size_t n)
{
    mark(p, n, emu::FOREIGN);
}
void emu_forget(const void *p, size_t n)
{
    mark(p, n, emu::UNWRITTEN);
}
size_t emu_memory(size_t *most, int reset)
{
    if (most)
        *most = emu::most_in_use;
    if (reset)
        emu::most_in_use = emu::in_use;
    return emu::in_use;
}
}
