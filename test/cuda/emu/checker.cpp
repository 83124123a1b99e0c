// checker.cpp: what compute-sanitizer's four tools look for, on every access of a kernel.
//
//   memcheck    inside an allocation that is alive, inside the shared memory of the launch, aligned, no host memory
//   initcheck   no byte is read that nobody wrote
//   racecheck   by happens-before, not by luck: each word of 4 bytes remembers its last writer and two readers with (launch, block, thread, epoch
//               of the barrier, epoch of the warp).  Two accesses of a block are ordered when a __syncthreads lies between them, or, in one warp, a
//               full __syncwarp.  Blocks of a launch are never ordered, launches always are.
//   synccheck   barriers and masks (blocks.cpp)
//
// Accesses arrive from the callbacks that g++ -fsanitize=thread puts before each load and store (its runtime is not linked), or from ptx_run.cpp.
#include "emu.h"
#include <dlfcn.h>
#include <map>
#include <stdarg.h>
#include <stdlib.h>

namespace emu {

struct Access {
    uint32_t launch, block, epoch, warp_epoch, place;
    uint16_t thread;
    uint8_t bytes; // of the word, a bit each
    bool atomic;
};
struct Word {
    Access writer, reader[2];
};
struct Span { // memory that is watched
    char *from;
    size_t bytes;
    ByteState *state;
    Word *words;
    bool shared;
};
static Span device_span, dynamic_span, static_span;
static long reports;
static bool quiet;
static std::map<std::string, long> seen, kinds;

// ---- reports
static std::string find_place(uintptr_t pc)
{
    char text[600] = "";
    if (pc >> 62) {
        snprintf(text, sizeof text, "PTX line %u (source line %u)", static_cast<unsigned>(pc), static_cast<unsigned>(pc >> 32 & 0x3fffffff));
        return text;
    }
    Dl_info d;
    if (!pc || !dladdr(reinterpret_cast<void *>(pc), &d))
        return text;
    char command[500];
    snprintf(command, sizeof command, "addr2line -e '%s' 0x%lx 2>/dev/null", d.dli_fname,
             static_cast<unsigned long>(pc - 1 - reinterpret_cast<uintptr_t>(d.dli_fbase)));
    FILE *f = popen(command, "r");
    if (!f)
        return text;
    if (!fgets(text, sizeof text, f))
        text[0] = 0;
    pclose(f);
    std::string s = text;
    s = s.substr(0, s.find_first_of(" \n"));
    return s.substr(s.rfind('/') + 1);
}

std::string place_name(uintptr_t pc)
{
    static std::map<uintptr_t, std::string> known; // a fault may come a million times
    auto it = known.find(pc);
    return it != known.end() ? it->second : known[pc] = find_place(pc);
}

void report(uintptr_t pc, const char *kind, const char *format, ...)
{
    const char *kernel = machine.config ? machine.config->name : "the host";
    char text[500], key[600];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    reports++;
    kinds[kind]++;
    snprintf(key, sizeof key, "%s@%lx@%s", kind, static_cast<unsigned long>(pc), kernel);
    if (seen[key]++ || quiet)
        return;
    std::string place = place_name(pc);
    fflush(stdout);
    fprintf(stderr, "%s: %s: %s%s%s\n", kind, kernel, text, place.empty() ? "" : " at ", place.c_str());
    static const bool stop = getenv("EMU_STOP") != nullptr;
    if (stop)
        _exit(3);
}

// ---- memory that is watched
static Span make_span(char *from, size_t bytes, ByteState *state, bool shared)
{
    Span s = {from, bytes, state, static_cast<Word *>(reserve((bytes / 4 + 2) * sizeof(Word))), shared};
    if (!state)
        s.state = static_cast<ByteState *>(reserve(bytes + 64));
    return s;
}

void checker_block()
{
    if (!machine.checked)
        return;
    if (!device_span.from) {
        device_span = make_span(arena, ARENA_BYTES, arena_state, false);
        dynamic_span = make_span(dynamic_shared, SHARED_BYTES, nullptr, true);
    }
    if (image.shared && static_span.from != image.shared)
        static_span = make_span(image.shared, image.shared_bytes, nullptr, true);
    memset(dynamic_span.state, UNWRITTEN, shared_bytes);
    if (image.shared)
        memset(static_span.state, UNWRITTEN, image.shared_bytes);
}

static bool within(const Span &s, const char *p)
{
    return p >= s.from && p < s.from + s.bytes;
}

// What a kernel may read beside device and shared memory: its stack, its thread's indices, its arguments, constants of the image.
static bool harmless(const char *p, bool write)
{
    if (on_fiber_stack(p))
        return true;
    const char *fibers = reinterpret_cast<char *>(machine.fibers);
    if (p >= fibers && p < fibers + MAX_THREADS * sizeof(Fiber))
        return true;
    return !write && ((p >= image.from && p < image.to) || (p >= arguments && p < arguments + ARGUMENT_BYTES) ||
                      (p >= ptx_variables && p < ptx_variables + PTX_VARIABLE_BYTES));
}

// ---- races
static bool ordered(const Access &past, const Access &now, bool shared)
{
    if (past.launch != now.launch)
        return true;
    if (past.block != now.block)
        return shared; // each block has its own
    if (past.thread == now.thread || past.epoch < now.epoch)
        return true;
    return past.thread / WARP == now.thread / WARP && past.warp_epoch < now.warp_epoch;
}

static bool clash(const Access &past, const Access &now, bool shared)
{
    return (past.bytes & now.bytes) && !(past.atomic && now.atomic) && !ordered(past, now, shared);
}

static void remember(Word &word, const Access &now, bool write, bool shared)
{
    if (!write) {
        if (ordered(word.reader[0], now, shared))
            word.reader[0] = now;
        else if (ordered(word.reader[1], now, shared))
            word.reader[1] = now;
        return;
    }
    const Access &w = word.writer;
    bool same = w.launch == now.launch && w.block == now.block && w.thread == now.thread && w.epoch == now.epoch && w.atomic == now.atomic;
    uint8_t before = same ? w.bytes : 0;
    word.writer = now;
    word.writer.bytes |= before;
}

static void check_race(Word &word, const Access &now, bool write, bool shared, uintptr_t pc)
{
    const Access *other = clash(word.writer, now, shared) ? &word.writer : nullptr;
    for (int r = 0; write && !other && r < 2; r++)
        other = clash(word.reader[r], now, shared) ? &word.reader[r] : nullptr;
    if (other) {
        uintptr_t there = pc >> 62 ? ptx_place(static_cast<int>(other->place), 0) : reinterpret_cast<uintptr_t>(image.from) + other->place;
        report(pc, "racecheck", "%s memory: a %s by block %u thread %u is unordered with a %s by block %u thread %u (%s)",
               shared ? "shared" : "global", write ? "write" : "read", now.block, now.thread, other == &word.writer ? "write" : "read",
               other->block, other->thread, quiet ? "" : place_name(there).c_str());
    }
    remember(word, now, write, shared);
}

// ---- one access
static const Span *find_span(char *p, int size, uintptr_t pc, bool write)
{
    if (within(device_span, p))
        return &device_span;
    if (within(static_span, p))
        return &static_span;
    if (within(dynamic_span, p)) {
        size_t end = static_cast<size_t>(p - dynamic_shared) + static_cast<size_t>(size);
        if (end <= shared_bytes)
            return &dynamic_span;
        report(pc, "memcheck", "dynamic shared memory is touched up to byte %zu, the launch has %zu", end, shared_bytes);
        return nullptr;
    }
    if (!harmless(p, write))
        report(pc, "memcheck", "host memory %p is touched (%d bytes)", static_cast<void *>(p), size);
    return nullptr;
}

// Whether all of them are written, which is the usual case: eight at once, as far as that goes.
static bool all_written(const ByteState *state, size_t size)
{
    static const uint64_t eight = 0x0101010101010101ull * WRITTEN;
    size_t width = size < 8 ? size : 8, at = 0;
    uint64_t some, differs = 0;
    if (size & (size - 1))
        return false;
    for (; at < size; at += width) {
        some = eight;
        memcpy(&some, state + at, width);
        differs |= some ^ eight;
    }
    return !differs;
}

static bool check_bytes(const Span &span, size_t at, int size, bool write, bool atomic, uintptr_t pc)
{
    if (all_written(span.state + at, static_cast<size_t>(size)))
        return true;
    bool foreign = false, unwritten = false;
    for (int i = 0; i < size; i++) {
        foreign |= span.state[at + static_cast<size_t>(i)] == FOREIGN;
        unwritten |= span.state[at + static_cast<size_t>(i)] == UNWRITTEN;
    }
    int thread = machine.current->ids.linear;
    if (foreign) {
        report(pc, "memcheck", "a %s of %d bytes is out of bounds, block %u thread %d", write ? "write" : "read", size, machine.block, thread);
        return false;
    }
    if (unwritten && (!write || atomic))
        report(pc, "initcheck", "%s memory is read that nobody wrote, block %u thread %d", span.shared ? "shared" : "global", machine.block,
               thread);
    if (write)
        memset(span.state + at, WRITTEN, static_cast<size_t>(size));
    return true;
}

void access(void *p, int size, bool write, bool atomic, uintptr_t pc)
{
    Fiber *f = machine.current;
    if (!f || !machine.checked)
        return;
    char *c = static_cast<char *>(p);
    const Span *span = find_span(c, size, pc, write);
    if (!span)
        return;
    machine.counts.accesses++;
    uintptr_t address = reinterpret_cast<uintptr_t>(p);
    if (address % static_cast<unsigned>(size))
        report(pc, "memcheck", "an access of %d bytes is not aligned", size);
    size_t at = static_cast<size_t>(c - span->from);
    if (!check_bytes(*span, at, size, write, atomic, pc))
        return;
    uint32_t place = static_cast<uint32_t>(pc >> 62 ? pc : pc - reinterpret_cast<uintptr_t>(image.from));
    Access now = {machine.launch, machine.block, machine.epoch, f->warp_epoch, place, static_cast<uint16_t>(f->ids.linear), 0, atomic};
    for (size_t i = at, end = at + static_cast<size_t>(size); i < end;) {
        unsigned low = i & 3, n = static_cast<unsigned>(std::min<size_t>(4 - low, end - i));
        now.bytes = static_cast<uint8_t>(((1u << n) - 1) << low);
        check_race(span->words[i / 4], now, write, span->shared, pc);
        i += n;
    }
    if (machine.stats)
        statistics_add(address, size, span->shared, write, pc);
}

void note_atomic(void *p, int size, uintptr_t pc)
{
    access(p, size, true, true, pc);
    machine.counts.atomics++;
}

// A program that was reported on and did not look fails.
static struct Verdict {
    ~Verdict()
    {
        if (!reports)
            return;
        fflush(stdout);
        fprintf(stderr, "%ld checker reports\n", reports);
        _exit(3);
    }
} verdict;

} // namespace emu

// ---- called by code that was built with -fsanitize=thread
#define TSAN(name, size, write)                                                                                              \
    void __tsan_##name(void *p)                                                                                              \
    {                                                                                                                        \
        emu::access(p, size, write, false, EMU_CALLER);                                                                      \
    }
#define TSAN_SIZE(size)                                                                                                      \
    TSAN(read##size, size, false)                                                                                            \
    TSAN(write##size, size, true)                                                                                            \
    TSAN(unaligned_read##size, size, false)                                                                                  \
    TSAN(unaligned_write##size, size, true)                                                                                  \
    TSAN(volatile_read##size, size, false)                                                                                   \
    TSAN(volatile_write##size, size, true)
extern "C" {
TSAN_SIZE(1)
TSAN_SIZE(2)
TSAN_SIZE(4)
TSAN_SIZE(8)
TSAN_SIZE(16)
void __tsan_read_range(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        emu::access(static_cast<char *>(p) + i, 1, false, false, EMU_CALLER);
}
void __tsan_write_range(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        emu::access(static_cast<char *>(p) + i, 1, true, false, EMU_CALLER);
}
void __tsan_init()
{
    emu::machine.checked = true;
}
void __tsan_func_entry(void *)
{
}
void __tsan_func_exit()
{
}
void __tsan_vptr_update(void **, void *)
{
}
void __tsan_vptr_read(void **)
{
}

long emu_errors(int reset)
{
    long n = emu::reports;
    if (reset) {
        emu::reports = 0;
        emu::seen.clear();
        emu::kinds.clear();
    }
    return n;
}
long emu_reported(const char *kind)
{
    return emu::kinds[kind];
}
void emu_quiet(int q)
{
    emu::quiet = q;
}
int emu_checked(void)
{
    return emu::machine.checked;
}
}
