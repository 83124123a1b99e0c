// ptx_run.cpp: executes nvcc's PTX on the fibers of blocks.cpp, each access through the checker.  EMU_PTX=a.ptx:b.ptx makes every launch of a kernel
// that stands there run this way, under the same name and with the same arguments as the compiled source.
//
// This is where inline assembly is executed, which the shim replaces by a function.  Approximate instructions (ex2, lg2, rsqrt, sin ...) are those of
// libm: a GPU's may differ by 2 ulp.
#include "emu.h"
#include "ptx.h"
#include <dlfcn.h>
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <unordered_map>

namespace ptx {

using emu::pack;
using emu::unpack;

struct Call {
    const Kernel *kernel;
    const void *const *parameters;
};

static float f32(uint64_t v)
{
    return unpack<float>(v);
}
static double f64(uint64_t v)
{
    return unpack<double>(v);
}
static float flushed(float f, bool ftz)
{
    return ftz && fabsf(f) < 1.17549435e-38f ? copysignf(0.f, f) : f;
}
static float half_to_float(uint64_t v)
{
    __half_raw r;
    r.x = static_cast<unsigned short>(v);
    return __half2float(__half(r));
}
static uint64_t float_to_half(float f)
{
    return pack(__float2half_rn(f));
}
static uint64_t float_to_bf16(float f)
{
    return pack(__float2bfloat16_rn(f));
}

// The register's value as one of type t: zero or sign extended.
static uint64_t extend(uint64_t v, Type t)
{
    bool s = is_signed(t);
    switch (type_bytes[t]) {
    case 1:
        return s ? static_cast<uint64_t>(static_cast<int8_t>(v)) : static_cast<uint8_t>(v);
    case 2:
        return s ? static_cast<uint64_t>(static_cast<int16_t>(v)) : static_cast<uint16_t>(v);
    case 4:
        return s ? static_cast<uint64_t>(static_cast<int32_t>(v)) : static_cast<uint32_t>(v);
    default:
        return v;
    }
}

static unsigned bits_of(Type t)
{
    return static_cast<unsigned>(type_bytes[t]) * 8;
}

[[noreturn]] static void unknown(const Instruction &i)
{
    give_up("line " + std::to_string(i.line) + " is not executed: " + i.text);
}

// ---- arithmetic
struct RoundingMode { // of the host, for an add.rm and its like
    explicit RoundingMode(Rounding r) : changed(r != NEAREST)
    {
        if (changed)
            fesetround(r == DOWN ? FE_DOWNWARD : r == UP ? FE_UPWARD : FE_TOWARDZERO);
    }
    ~RoundingMode()
    {
        if (changed)
            fesetround(FE_TONEAREST);
    }
    bool changed;
};

template <class T> static T float_arithmetic(const Instruction &i, T x, T y, T z)
{
    RoundingMode mode(i.rounding);
    volatile T a = x, b = y, c = z, r; // volatile: computed under the mode
    switch (i.op) {
    case ADD:
        r = a + b;
        break;
    case SUB:
        r = a - b;
        break;
    case MUL:
        r = a * b;
        break;
    case DIV:
        r = a / b;
        break;
    case FMA:
    case MAD:
        r = std::fma(a, b, c);
        break;
    case MIN:
        r = i.nan && (x != x || y != y) ? static_cast<T>(NAN) : std::fmin(x, y);
        break;
    case MAX:
        r = i.nan && (x != x || y != y) ? static_cast<T>(NAN) : std::fmax(x, y);
        break;
    case ABS:
        r = std::fabs(x);
        break;
    case NEG:
        r = -x;
        break;
    case COPYSIGN:
        r = std::copysign(y, x);
        break;
    case RCP:
        r = 1 / a;
        break;
    case SQRT:
        r = std::sqrt(a);
        break;
    case RSQRT:
        r = static_cast<T>(1.0 / sqrt(static_cast<double>(x)));
        break;
    case EX2:
        r = std::exp2(x);
        break;
    case LG2:
        r = std::log2(x);
        break;
    case SIN:
        r = std::sin(x);
        break;
    case COS:
        r = std::cos(x);
        break;
    case TANH:
        r = std::tanh(x);
        break;
    default:
        unknown(i);
    }
    T result = r;
    return i.sat ? (result > 0 ? std::fmin(result, static_cast<T>(1)) : 0) : result;
}

static uint64_t float_result(const Instruction &i, uint64_t a, uint64_t b, uint64_t c)
{
    if (i.type == F64)
        return pack(float_arithmetic(i, f64(a), f64(b), f64(c)));
    if (i.type != F32)
        unknown(i);
    float r = float_arithmetic(i, flushed(f32(a), i.ftz), flushed(f32(b), i.ftz), flushed(f32(c), i.ftz));
    return pack(flushed(r, i.ftz));
}

static uint64_t product(const Instruction &i, uint64_t a, uint64_t b)
{
    if (!i.hi)
        return a * b;
    if (type_bytes[i.type] < 8)
        return is_signed(i.type) ? static_cast<uint64_t>(static_cast<int64_t>(a) * static_cast<int64_t>(b) >> bits_of(i.type))
                                 : a * b >> bits_of(i.type);
    __extension__ typedef __int128 wide;
    __extension__ typedef unsigned __int128 unsigned_wide;
    return is_signed(i.type) ? static_cast<uint64_t>(static_cast<wide>(static_cast<int64_t>(a)) * static_cast<int64_t>(b) >> 64)
                             : static_cast<uint64_t>(static_cast<unsigned_wide>(a) * b >> 64);
}

static uint64_t quotient(const Instruction &i, uint64_t a, uint64_t b)
{
    if (!b)
        return i.op == DIV ? ~0ull : a;
    int64_t x = static_cast<int64_t>(a), y = static_cast<int64_t>(b);
    if (is_signed(i.type) && y == -1)
        return i.op == DIV ? 0 - a : 0;
    if (i.op == DIV)
        return is_signed(i.type) ? static_cast<uint64_t>(x / y) : a / b;
    return is_signed(i.type) ? static_cast<uint64_t>(x % y) : a % b;
}

static uint64_t integer_result(const Instruction &i, uint64_t a, uint64_t b, uint64_t c)
{
    a = extend(a, i.type);
    b = extend(b, i.type);
    bool less = is_signed(i.type) ? static_cast<int64_t>(a) < static_cast<int64_t>(b) : a < b;
    switch (i.op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case MUL:
        return product(i, a, b);
    case MAD:
        return product(i, a, b) + c;
    case DIV:
    case REM:
        return quotient(i, a, b);
    case MIN:
        return less ? a : b;
    case MAX:
        return less ? b : a;
    case ABS:
        return static_cast<int64_t>(a) < 0 ? 0 - a : a;
    case NEG:
        return 0 - a;
    default:
        unknown(i);
    }
}

static uint64_t arithmetic(const Instruction &i, uint64_t a, uint64_t b, uint64_t c)
{
    if (is_float(i.type))
        return float_result(i, a, b, c);
    uint64_t r = integer_result(i, a, b, c);
    return i.wide ? r : extend(r, i.type);
}

// ---- bits
static uint64_t field(const Instruction &i, uint64_t a, unsigned at, unsigned length)
{
    uint64_t v = at > 63 ? 0 : extend(a, is_signed(i.type) ? i.type : bits_of(i.type) == 32 ? U32 : U64) >> at;
    if (length < 64)
        v &= (1ull << length) - 1;
    if (is_signed(i.type) && length && length < 64 && v >> (length - 1) & 1)
        v |= ~0ull << length;
    return v;
}

static uint64_t inserted(uint64_t a, uint64_t into, unsigned at, unsigned length, unsigned width)
{
    if (at >= width)
        return into;
    uint64_t mask = length >= 64 ? ~0ull : (1ull << length) - 1;
    return (into & ~(mask << at)) | (a & mask) << at;
}

static uint64_t logic3(uint32_t a, uint32_t b, uint32_t c, uint64_t table)
{
    uint32_t r = 0;
    for (unsigned e = 0; e < 8; e++)
        if (table >> e & 1)
            r |= (e & 4 ? a : ~a) & (e & 2 ? b : ~b) & (e & 1 ? c : ~c);
    return r;
}

static uint64_t dot4(const Instruction &i, uint32_t a, uint32_t b, uint32_t c)
{
    for (int e = 0; e < 4; e++) {
        int x = i.type == S32 ? static_cast<int8_t>(a >> 8 * e) : static_cast<uint8_t>(a >> 8 * e);
        int y = i.from == S32 ? static_cast<int8_t>(b >> 8 * e) : static_cast<uint8_t>(b >> 8 * e);
        c += static_cast<uint32_t>(x * y);
    }
    return c;
}

static uint64_t shifted(const Instruction &i, uint64_t a, uint64_t by)
{
    unsigned width = bits_of(i.type), n = static_cast<uint32_t>(by) > width ? width : static_cast<unsigned>(by);
    a = extend(a, i.type);
    if (i.op == SHL)
        return n >= width ? 0 : a << n;
    if (is_signed(i.type))
        return static_cast<uint64_t>(static_cast<int64_t>(a) >> (n >= width ? width - 1 : n));
    return n >= width ? 0 : a >> n;
}

static uint64_t funnel(const Instruction &i, uint64_t low, uint64_t high, uint64_t by)
{
    uint64_t v = high << 32 | static_cast<uint32_t>(low);
    unsigned n = static_cast<unsigned>(by);
    n = i.wrap ? n & 31 : n > 32 ? 32 : n;
    return i.variant == V_LEFT ? v << n >> 32 : v >> n;
}

static uint64_t reversed(uint64_t a, unsigned width)
{
    uint64_t r = 0;
    for (unsigned b = 0; b < width; b++)
        r |= (a >> b & 1) << (width - 1 - b);
    return r;
}

static uint64_t bits(const Instruction &i, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    unsigned width = bits_of(i.type);
    Type plain = width == 64 ? U64 : width == 32 ? U32 : U16;
    switch (i.op) {
    case AND:
        return a & b;
    case OR:
        return a | b;
    case XOR:
        return a ^ b;
    case NOT:
        return i.type == PRED ? !a : extend(~a, plain);
    case SHL:
    case SHR:
        return extend(shifted(i, a, b), i.type);
    case BFI:
        return extend(inserted(a, b, c & 255, d & 255, width), plain);
    case BFE:
        return extend(field(i, a, b & 255, c & 255), i.type);
    case PRMT:
        return __byte_perm(static_cast<unsigned>(a), static_cast<unsigned>(b), static_cast<unsigned>(c));
    case POPC:
        return static_cast<uint64_t>(__builtin_popcountll(extend(a, plain)));
    case CLZ:
        a = extend(a, plain);
        return a ? static_cast<uint64_t>(__builtin_clzll(a)) - (64 - width) : width;
    case BREV:
        return reversed(extend(a, plain), width);
    case SHF:
        return extend(funnel(i, a, b, c), U32);
    case DP4A:
        return dot4(i, static_cast<uint32_t>(a), static_cast<uint32_t>(b), static_cast<uint32_t>(c));
    default:
        return logic3(static_cast<uint32_t>(a), static_cast<uint32_t>(b), static_cast<uint32_t>(c), d);
    }
}

// ---- conversion and comparison
static double integral(double x, Rounding r)
{
    return r == DOWN ? floor(x) : r == UP ? ceil(x) : r == ZERO ? trunc(x) : nearbyint(x);
}

static double as_double(const Instruction &i, uint64_t v)
{
    switch (i.from) {
    case F32:
        return flushed(f32(v), i.ftz);
    case F64:
        return f64(v);
    case F16:
        return half_to_float(v);
    case BF16:
        return f32(v << 16);
    default:
        v = extend(v, i.from);
        return is_signed(i.from) ? static_cast<double>(static_cast<int64_t>(v)) : static_cast<double>(v);
    }
}

// Saturates, as a GPU does; NaN becomes 0.
static uint64_t to_integer(double x, Type t)
{
    unsigned width = bits_of(t);
    if (x != x)
        return 0;
    if (is_signed(t)) {
        double limit = ldexp(1, static_cast<int>(width) - 1);
        int64_t most = static_cast<int64_t>((1ull << (width - 1)) - 1);
        return static_cast<uint64_t>(x >= limit ? most : x < -limit ? -most - 1 : static_cast<int64_t>(x));
    }
    if (x >= ldexp(1, static_cast<int>(width)))
        return extend(~0ull, t);
    return x <= 0 ? 0 : static_cast<uint64_t>(x);
}

static uint64_t from_double(const Instruction &i, double x, bool from_64_bits, uint64_t original)
{
    RoundingMode mode(i.integral ? NEAREST : i.rounding);
    volatile double v = x;
    switch (i.type) {
    case F32: // an integer of 64 bits is rounded once, not by way of a double
        if (from_64_bits)
            return pack(is_signed(i.from) ? static_cast<float>(static_cast<int64_t>(original)) : static_cast<float>(original));
        return pack(flushed(static_cast<float>(v), i.ftz));
    case F64:
        return pack(static_cast<double>(v));
    case F16:
        return float_to_half(static_cast<float>(v));
    case BF16:
        return float_to_bf16(static_cast<float>(v));
    default:
        unknown(i);
    }
}

static uint64_t convert(const Instruction &i, uint64_t v)
{
    if (!is_float(i.from) && !is_float(i.type)) {
        if (i.sat)
            unknown(i);
        return extend(extend(v, i.from), i.type);
    }
    double x = as_double(i, v);
    if (!is_float(i.type))
        return extend(to_integer(integral(x, i.rounding), i.type), i.type);
    if (i.integral)
        x = integral(x, i.rounding);
    if (i.sat)
        x = x > 0 ? fmin(x, 1) : 0;
    return from_double(i, x, i.from == U64 || i.from == S64, v);
}

static bool ordered_compare(const Instruction &i, bool less, bool equal)
{
    switch (i.compare) {
    case EQ:
    case EQU:
        return equal;
    case NE:
    case NEU:
        return !equal;
    case LT:
    case LO:
    case LTU:
        return less;
    case LE:
    case LS:
    case LEU:
        return less || equal;
    case GT:
    case HI:
    case GTU:
        return !less && !equal;
    case GE:
    case HS:
    case GEU:
        return !less;
    case NUM:
        return true;
    case NAN_:
        return false;
    default:
        unknown(i);
    }
}

static bool compared(const Instruction &i, uint64_t a, uint64_t b)
{
    if (i.type == F32 || i.type == F64) {
        double x = i.type == F64 ? f64(a) : flushed(f32(a), i.ftz), y = i.type == F64 ? f64(b) : flushed(f32(b), i.ftz);
        if (x != x || y != y)
            return i.compare >= EQU && i.compare != NUM;
        return ordered_compare(i, x < y, x == y);
    }
    if (is_float(i.type))
        unknown(i);
    a = extend(a, i.type);
    b = extend(b, i.type);
    return ordered_compare(i, is_signed(i.type) ? static_cast<int64_t>(a) < static_cast<int64_t>(b) : a < b, a == b);
}

// ---- one thread
class Thread {
public:
    explicit Thread(const Call *call)
        : kernel(call->kernel), parameters(call->parameters), registers(static_cast<size_t>(kernel->registers) + 1),
          local(kernel->local + 16), ids(*emu::ids())
    {
    }
    void run();

private:
    const Kernel *kernel;
    const void *const *parameters;
    std::vector<uint64_t> registers;
    std::vector<char> local;
    const emu::Ids &ids;

    uint64_t special(uint64_t which) const;
    uint64_t value(const Operand &o) const;
    uint64_t in(const Instruction &i, size_t n) const
    {
        return n < i.o.size() ? value(i.o[n]) : 0;
    }
    void set(const Operand &o, uint64_t v)
    {
        registers[o.value] = v;
    }
    char *address(const Instruction &i, const Operand &o) const;
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

uint64_t Thread::value(const Operand &o) const
{
    switch (o.kind) {
    case Operand::REGISTER:
        return registers[o.value];
    case Operand::IMMEDIATE:
        return o.value;
    case Operand::SPECIAL:
        return special(o.value);
    case Operand::PARAMETER:
        return reinterpret_cast<uint64_t>(parameters[o.value]);
    case Operand::DYNAMIC:
        return (kernel->shared + 15) / 16 * 16;
    default:
        give_up("an operand that has no value");
    }
}

char *Thread::address(const Instruction &i, const Operand &o) const
{
    uint64_t at = value(o.elements[0]) + static_cast<uint64_t>(o.offset);
    if (i.space == SHARED)
        return emu::dynamic_shared + static_cast<uint32_t>(at);
    if (i.space == LOCAL)
        return const_cast<char *>(local.data()) + at;
    return reinterpret_cast<char *>(at);
}

// mov between a register and a tuple packs and unpacks.
void Thread::move(const Instruction &i)
{
    const Operand &to = i.o[0], &from = i.o[1];
    if (to.kind == Operand::VECTOR || from.kind == Operand::VECTOR) {
        const std::vector<Operand> &e = to.kind == Operand::VECTOR ? to.elements : from.elements;
        unsigned each = bits_of(i.type) / static_cast<unsigned>(e.size());
        uint64_t mask = each == 64 ? ~0ull : (1ull << each) - 1, whole = 0;
        if (to.kind == Operand::VECTOR)
            whole = value(from);
        for (unsigned k = 0; k < e.size(); k++) {
            if (to.kind == Operand::VECTOR)
                set(e[k], whole >> each * k & mask);
            else
                whole |= (value(e[k]) & mask) << each * k;
        }
        if (to.kind != Operand::VECTOR)
            set(to, whole);
        return;
    }
    uint64_t v = value(from);
    set(to, i.type == PRED ? v : extend(v, i.type));
}

void Thread::load(const Instruction &i)
{
    size_t n = static_cast<size_t>(type_bytes[i.type]);
    const char *from = address(i, i.o[1]);
    if (i.space == GLOBAL || i.space == SHARED || i.space == GENERIC)
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
    char *to = address(i, i.o[0]);
    if (i.space != LOCAL)
        emu::access(to, static_cast<int>(n) * i.vector, true, false, emu::ptx_place(i.line, i.source));
    for (size_t e = 0; e < static_cast<size_t>(i.vector); e++) {
        uint64_t v = value(i.vector == 1 ? i.o[1] : i.o[1].elements[e]);
        memcpy(to + e * n, &v, n);
    }
}

void Thread::atomic(const Instruction &i)
{
    size_t n = static_cast<size_t>(type_bytes[i.type]), first = i.op == RED ? 0 : 1;
    char *at = address(i, i.o[first]);
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
    registers[static_cast<size_t>(i.o[0].second)] = inside;
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
        d[e] = f32(value(i.o[3].elements[e]));
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
    emu::ldmatrix_x4(r, address(i, i.o[1]), i.trans, i.line);
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
    Operand to = i.o[0], from = i.o[1];
    uint64_t into = value(to.elements[0]) + static_cast<uint64_t>(to.offset), of = value(from.elements[0]) + static_cast<uint64_t>(from.offset);
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
        registers[static_cast<size_t>(i.o[0].second)] = !r;
}

static uint64_t converted_pair(const Instruction &i, uint64_t high, uint64_t low)
{
    bool b = i.type == BF16X2;
    return (b ? float_to_bf16(f32(high)) : float_to_half(f32(high))) << 16 | (b ? float_to_bf16(f32(low)) : float_to_half(f32(low)));
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
    case SELP:
        return set(i.o[0], in(i, 3) ? in(i, 1) : in(i, 2));
    case CVT:
        return set(i.o[0], i.type == BF16X2 || i.type == F16X2 ? converted_pair(i, in(i, 1), in(i, 2)) : convert(i, in(i, 1)));
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
    case TRAP:
        emu::trap(i.line);
    case AND:
    case OR:
    case XOR:
    case NOT:
    case SHL:
    case SHR:
    case BFI:
    case BFE:
    case PRMT:
    case POPC:
    case CLZ:
    case BREV:
    case SHF:
    case DP4A:
    case LOP3:
        return set(i.o[0], bits(i, in(i, 1), in(i, 2), in(i, 3), in(i, 4)));
    default:
        return set(i.o[0], arithmetic(i, in(i, 1), in(i, 2), in(i, 3)));
    }
}

void Thread::run()
{
    long steps = 0;
    for (size_t at = 0; at < kernel->code.size();) {
        const Instruction &i = kernel->code[at++];
        steps++;
        if (i.predicate >= 0 && (registers[static_cast<size_t>(i.predicate)] != 0) == i.negated)
            continue;
        if (i.op == RET || i.op == EXIT)
            break;
        if (i.op == BRA)
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
