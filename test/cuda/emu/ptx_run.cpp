// ptx_run.cpp: executes nvcc's PTX on the fibers of blocks.cpp, each access through the checker.  EMU_PTX=a.ptx:b.ptx makes every launch of a kernel
// that stands there run this way, under the same name and with the same arguments as the compiled source.
//
// This is where inline assembly is executed, which the shim replaces by a function.
#include "emu.h"
#include "ptx.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <unordered_map>

namespace ptx {

using emu::pack;

struct Call {
    const Kernel *kernel;
    const void *const *parameters;
};

// ---- one thread
class Thread {
public:
    explicit Thread(const Call *call) : kernel(call->kernel), values(kernel->frame), local(kernel->local + 16), ids(*emu::ids()), frame(values.data())
    {
        for (const Operand &o : kernel->own)
            frame[o.at] = o.kind == Operand::SPECIAL     ? special(o.value)
                          : o.kind == Operand::PARAMETER ? reinterpret_cast<uint64_t>(call->parameters[o.value])
                                                         : reinterpret_cast<uint64_t>(local.data() + o.value);
    }
    void run();

private:
    const Kernel *kernel;
    std::vector<uint64_t> values;
    std::vector<char> local;
    const emu::Ids &ids;
    uint64_t *frame;

    uint64_t special(uint64_t which) const;
    uint64_t value(const Operand &o) const
    {
        return frame[o.at];
    }
    uint64_t in(const Instruction &i, size_t n) const
    {
        return frame[i.at[n]];
    }
    void set(const Operand &o, uint64_t v)
    {
        frame[o.at] = v;
    }
    char *address(const Instruction &i, size_t n) const;
    void move(const Instruction &i);
    void load(const Instruction &i);
    void store(const Instruction &i);
    void atomic(const Instruction &i);
    void shuffle(const Instruction &i);
    void vote(const Instruction &i);
    void barrier(const Instruction &i);
    void multiply_tiles(const Instruction &i);
    void load_tiles(const Instruction &i);
    void copy_async(const Instruction &i);
    void compare(const Instruction &i);
    void call(const Instruction &i);
    void execute(const Instruction &i);
};

uint64_t Thread::special(uint64_t which) const
{
    switch (which) {
    case TID_X:
        return ids.tid.x;
    case TID_Y:
        return ids.tid.y;
    case TID_Z:
        return ids.tid.z;
    case NTID_X:
        return ids.bdim.x;
    case NTID_Y:
        return ids.bdim.y;
    case NTID_Z:
        return ids.bdim.z;
    case CTAID_X:
        return ids.bid.x;
    case CTAID_Y:
        return ids.bid.y;
    case CTAID_Z:
        return ids.bid.z;
    case NCTAID_X:
        return ids.gdim.x;
    case NCTAID_Y:
        return ids.gdim.y;
    case NCTAID_Z:
        return ids.gdim.z;
    case LANEID:
        return static_cast<uint64_t>(ids.lane);
    default:
        return static_cast<uint64_t>(ids.warp);
    }
}

char *Thread::address(const Instruction &i, size_t n) const
{
    uint64_t at = in(i, n) + static_cast<uint64_t>(i.offset);
    if (i.space == SHARED)
        return emu::dynamic_shared + static_cast<uint32_t>(at);
    if (i.space == LOCAL)
        return const_cast<char *>(local.data()) + at;
    return reinterpret_cast<char *>(at);
}

// Between a register and a tuple: packs, or unpacks.
void Thread::move(const Instruction &i)
{
    const Operand &to = i.o[0], &from = i.o[1];
    const std::vector<Operand> &e = to.kind == Operand::VECTOR ? to.elements : from.elements;
    unsigned each = bits_of(i.type) / static_cast<unsigned>(e.size());
    uint64_t mask = each == 64 ? ~0ull : (1ull << each) - 1, all = to.kind == Operand::VECTOR ? value(from) : 0;
    for (unsigned k = 0; k < e.size(); k++) {
        if (to.kind == Operand::VECTOR)
            set(e[k], all >> each * k & mask);
        else
            all |= (value(e[k]) & mask) << each * k;
    }
    if (to.kind != Operand::VECTOR)
        set(to, all);
}

// Locals, parameters and constants are a thread's own, or only read.
static bool is_checked(Space s)
{
    return s == GLOBAL || s == SHARED || s == GENERIC;
}

void Thread::load(const Instruction &i)
{
    size_t n = static_cast<size_t>(type_bytes[i.type]);
    const char *from = address(i, 1);
    if (is_checked(i.space))
        emu::access(const_cast<char *>(from), static_cast<int>(n) * i.vector, false, false, emu::ptx_place(i.line, i.source));
    for (size_t e = 0; e < static_cast<size_t>(i.vector); e++) {
        uint64_t v = 0;
        memcpy(&v, from + e * n, n);
        set(i.vector == 1 ? i.o[0] : i.o[0].elements[e], extend(v, i.type));
    }
}

void Thread::store(const Instruction &i)
{
    size_t n = static_cast<size_t>(type_bytes[i.type]);
    char *to = address(i, 0);
    if (is_checked(i.space))
        emu::access(to, static_cast<int>(n) * i.vector, true, false, emu::ptx_place(i.line, i.source));
    for (size_t e = 0; e < static_cast<size_t>(i.vector); e++) {
        uint64_t v = value(i.vector == 1 ? i.o[1] : i.o[1].elements[e]);
        memcpy(to + e * n, &v, n);
    }
}

void Thread::atomic(const Instruction &i)
{
    size_t n = static_cast<size_t>(type_bytes[i.type]), first = i.op == RED ? 0 : 1;
    char *at = address(i, first);
    uint64_t v = value(i.o[first + 1]), old = 0, result;
    emu::access(at, static_cast<int>(n), true, true, emu::ptx_place(i.line, i.source));
    emu::machine.counts.atomics++;
    memcpy(&old, at, n);
    Instruction step;
    step.text = i.text;
    step.type = i.type;
    switch (i.variant) {
    case V_ADD:
        step.op = ADD;
        result = arithmetic(step, old, v, 0);
        break;
    case V_MIN:
    case V_MAX:
        step.op = i.variant == V_MIN ? MIN : MAX;
        result = arithmetic(step, old, v, 0);
        break;
    case V_AND:
        result = old & v;
        break;
    case V_OR:
        result = old | v;
        break;
    case V_EXCH:
        result = v;
        break;
    case V_CAS:
        result = old == extend(v, i.type) ? value(i.o[first + 2]) : old;
        break;
    default:
        unknown(i);
    }
    memcpy(at, &result, n);
    if (i.op == ATOM)
        set(i.o[0], old);
}

void Thread::shuffle(const Instruction &i)
{
    unsigned limits = static_cast<unsigned>(in(i, 3)), mask = static_cast<unsigned>(in(i, 4));
    int width = 32 - static_cast<int>(limits >> 8 & 31), by = static_cast<int>(in(i, 2)), lane = ids.lane, low = lane & ~(width - 1);
    static const emu::Exchange ops[] = {emu::X_IDX, emu::X_UP, emu::X_DOWN, emu::X_XOR};
    emu::Exchange op = ops[i.variant - V_IDX];
    set(i.o[0], emu::shfl(op, mask, static_cast<uint32_t>(in(i, 1)), by, width, i.line));
    if (i.o[0].second < 0)
        return;
    bool inside = op == emu::X_IDX || (op == emu::X_UP ? lane - by >= low : op == emu::X_DOWN ? lane + by < low + width : (lane ^ by) < low + width);
    frame[i.o[0].second] = inside;
}

void Thread::vote(const Instruction &i)
{
    unsigned mask = static_cast<unsigned>(in(i, 2)), b = emu::ballot(mask, in(i, 1) != 0, i.line);
    set(i.o[0], i.variant == V_BALLOT ? b : i.variant == V_ANY ? b != 0 : b == mask);
}

void Thread::barrier(const Instruction &i)
{
    if (i.warp)
        return emu::syncwarp(static_cast<unsigned>(in(i, 0)), i.line);
    if (!i.red) {
        if (i.o.size() > 1 || in(i, 0) != 0)
            unknown(i);
        emu::barrier(emu::BARRIER_PLAIN, 0, i.line);
        return;
    }
    emu::BarrierKind kind = i.variant == V_POPC ? emu::BARRIER_COUNT : i.variant == V_AND ? emu::BARRIER_AND : emu::BARRIER_OR;
    set(i.o[0], static_cast<uint64_t>(emu::barrier(kind, in(i, i.o.size() - 1) != 0, i.line)));
}

void Thread::multiply_tiles(const Instruction &i)
{
    if (!i.m16n8k16 || i.o[1].elements.size() != 4)
        unknown(i);
    uint32_t a[4], b[2];
    float d[4];
    for (size_t e = 0; e < 4; e++) {
        a[e] = static_cast<uint32_t>(value(i.o[1].elements[e]));
        d[e] = emu::unpack<float>(value(i.o[3].elements[e]));
    }
    for (size_t e = 0; e < 2; e++)
        b[e] = static_cast<uint32_t>(value(i.o[2].elements[e]));
    emu::mma_m16n8k16(d, a, b, i.bf16, i.line);
    for (size_t e = 0; e < 4; e++)
        set(i.o[0].elements[e], pack(d[e]));
}

void Thread::load_tiles(const Instruction &i)
{
    if (!i.x4)
        unknown(i);
    uint32_t r[4];
    emu::ldmatrix_x4(r, address(i, 1), i.trans, i.line);
    for (size_t e = 0; e < 4; e++)
        set(i.o[0].elements[e], r[e]);
}

void Thread::copy_async(const Instruction &i)
{
    if (i.variant == V_COMMIT)
        return emu::cp_async_commit();
    if (i.variant == V_WAIT)
        return emu::cp_async_wait(static_cast<int>(in(i, 0)));
    if (i.variant == V_WAIT_ALL) {
        emu::cp_async_commit();
        return emu::cp_async_wait(0);
    }
    const Operand &to = i.o[0], &from = i.o[1];
    uint64_t into = value(to) + static_cast<uint64_t>(to.offset), of = value(from) + static_cast<uint64_t>(from.offset);
    if (in(i, 2) != 16)
        unknown(i);
    emu::cp_async16(emu::dynamic_shared + static_cast<uint32_t>(into), reinterpret_cast<const void *>(of),
                    static_cast<int>(i.o.size() > 3 ? in(i, 3) : in(i, 2)));
}

void Thread::compare(const Instruction &i)
{
    bool r = compared(i, in(i, 1), in(i, 2));
    if (i.o.size() > 3) {
        bool other = in(i, 3) != 0;
        r = i.variant == V_AND ? r && other : i.variant == V_OR ? r || other : r != other;
    }
    set(i.o[0], r);
    if (i.o[0].second >= 0)
        frame[i.o[0].second] = !r;
}

// A frame of its own, whose parameters lie in this one's slots.
void Thread::call(const Instruction &i)
{
    const Kernel *callee = find(i.callee);
    if (!callee)
        unknown(i);
    std::vector<const void *> slots;
    for (size_t list = 2; list-- > 0;)
        for (const Operand &o : i.o[list].elements)
            slots.push_back(reinterpret_cast<const void *>(value(o)));
    Call deeper = {callee, slots.data()};
    Thread(&deeper).run();
}

void Thread::execute(const Instruction &i)
{
    uint64_t window;
    switch (i.op) {
    case MOV:
        return move(i);
    case LD:
        return load(i);
    case ST:
        return store(i);
    case ATOM:
    case RED:
        return atomic(i);
    case SETP:
        return compare(i);
    case CVTA:
        window = reinterpret_cast<uint64_t>(i.space == SHARED ? emu::dynamic_shared : i.space == LOCAL ? local.data() : nullptr);
        return set(i.o[0], i.to ? in(i, 1) - window : in(i, 1) + window);
    case SHFL:
        return shuffle(i);
    case VOTE:
        return vote(i);
    case BAR:
    case BARRIER:
        return barrier(i);
    case MMA:
        return multiply_tiles(i);
    case LDMATRIX:
        return load_tiles(i);
    case CP_ASYNC:
        return copy_async(i);
    case MEMBAR:
    case FENCE:
        return;
    case CALL:
        return call(i);
    case TRAP:
        emu::trap(i.line);
    default:
        unknown(i);
    }
}

void Thread::run()
{
    long steps = 0;
    for (size_t at = 0; at < kernel->code.size();) {
        const Instruction &i = kernel->code[at++];
        steps++;
        if (i.predicate >= 0 && (frame[i.predicate] != 0) == i.negated)
            continue;
        if (i.result)
            frame[i.at[0]] = i.result(i, in(i, 1), in(i, 2), in(i, 3), in(i, 4));
        else if (i.op == RET || i.op == EXIT)
            break;
        else if (i.op == BRA)
            at = i.o[0].value;
        else
            execute(i);
    }
    emu::machine.counts.ptx_instructions += steps;
}

static void run(void *call)
{
    Thread(static_cast<const Call *>(call)).run();
}

// ---- which kernels run this way
static bool load_files()
{
    const char *list = getenv("EMU_PTX");
    std::string paths = list ? list : "";
    for (size_t from = 0; from < paths.size();) {
        size_t colon = paths.find(':', from);
        parse(paths.substr(from, colon - from));
        from = colon == std::string::npos ? paths.size() : colon + 1;
    }
    return !paths.empty();
}

static const Kernel *find_by_address(const void *function)
{
    static std::unordered_map<const void *, const Kernel *> bound;
    auto it = bound.find(function);
    if (it != bound.end())
        return it->second;
    Dl_info d;
    const char *name = dladdr(function, &d) && d.dli_sname ? d.dli_sname : "?";
    const Kernel *k = find(name);
    if (!k)
        give_up(std::string(name) + " is in none of the files of EMU_PTX");
    return bound[function] = k;
}

} // namespace ptx

bool emu::ptx_bind(const void *kernel, const void *const *each, void (**body)(void *), void **values, size_t *shared)
{
    static const bool on = ptx::load_files();
    if (!on)
        return false;
    const ptx::Kernel *k = ptx::find_by_address(kernel);
    *shared = (k->shared + 15) / 16 * 16;
    *body = ptx::run;
    *values = new (argument_memory(sizeof(ptx::Call))) ptx::Call{k, each};
    return true;
}
