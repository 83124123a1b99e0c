// ptx_math.cpp: what the arithmetic, bit, conversion and comparison instructions of PTX give for the values of their operands.
//
// Approximate instructions (ex2, lg2, rsqrt, sin ...) are those of libm: a GPU's may differ by 2 ulp.
#include "emu.h"
#include "ptx.h"
#include <fenv.h>
#include <math.h>

namespace ptx {

using emu::pack;
using emu::unpack;

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

unsigned bits_of(Type t)
{
    return static_cast<unsigned>(type_bytes[t]) * 8;
}

[[noreturn]] void unknown(const Instruction &i)
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

uint64_t arithmetic(const Instruction &i, uint64_t a, uint64_t b, uint64_t c)
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

// The highest bit that is not the sign, or how far it lies below the top; all ones where there is none.
static uint64_t highest(const Instruction &i, uint64_t a, unsigned width)
{
    a = extend(a, i.type);
    if (is_signed(i.type) && static_cast<int64_t>(a) < 0)
        a = extend(~a, i.type);
    if (!a)
        return 0xffffffff;
    unsigned at = 63 - static_cast<unsigned>(__builtin_clzll(a));
    return i.shiftamt ? width - 1 - at : at;
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
    case BFIND:
        return highest(i, a, width);
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
static uint64_t convert_pair(const Instruction &i, uint64_t high, uint64_t low)
{
    bool b = i.type == BF16X2;
    return (b ? float_to_bf16(f32(high)) : float_to_half(f32(high))) << 16 | (b ? float_to_bf16(f32(low)) : float_to_half(f32(low)));
}

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

static uint64_t convert(const Instruction &i, uint64_t v, uint64_t low)
{
    if (i.type == BF16X2 || i.type == F16X2)
        return convert_pair(i, v, low);
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

bool compared(const Instruction &i, uint64_t a, uint64_t b)
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

// ---- which function computes an instruction
static uint64_t any_arithmetic(const Instruction &i, uint64_t a, uint64_t b, uint64_t c, uint64_t)
{
    return arithmetic(i, a, b, c);
}
static uint64_t any_conversion(const Instruction &i, uint64_t a, uint64_t b, uint64_t, uint64_t)
{
    return convert(i, a, b);
}
static uint64_t any_comparison(const Instruction &i, uint64_t a, uint64_t b, uint64_t, uint64_t)
{
    return compared(i, a, b);
}
static uint64_t moved(const Instruction &i, uint64_t a, uint64_t, uint64_t, uint64_t)
{
    return i.type == PRED ? a : extend(a, i.type);
}
static uint64_t selected(const Instruction &, uint64_t a, uint64_t b, uint64_t c, uint64_t)
{
    return c ? a : b;
}

// The most frequent ones once more, without the questions: integers whose result is a T, floats rounded to nearest.
template <Opcode OP, class T> static uint64_t whole(const Instruction &, uint64_t a, uint64_t b, uint64_t c, uint64_t)
{
    uint64_t r = OP == ADD ? a + b : OP == SUB ? a - b : OP == MUL ? a * b : a * b + c;
    return static_cast<uint64_t>(static_cast<T>(r));
}
template <Opcode OP, class T> static uint64_t whole_wide(const Instruction &, uint64_t a, uint64_t b, uint64_t c, uint64_t)
{
    uint64_t r = static_cast<uint64_t>(static_cast<T>(a)) * static_cast<uint64_t>(static_cast<T>(b));
    return OP == MUL ? r : r + c;
}
template <Opcode OP> static uint64_t single(const Instruction &, uint64_t a, uint64_t b, uint64_t c, uint64_t)
{
    float x = f32(a), y = f32(b);
    return pack(OP == ADD ? x + y : OP == SUB ? x - y : OP == MUL ? x * y : std::fma(x, y, f32(c)));
}

template <Opcode OP> static Result *arithmetic_of(const Instruction &i)
{
    if (i.type == F32 && i.rounding == NEAREST && !i.ftz && !i.sat)
        return single<OP>;
    if (is_float(i.type) || i.hi || i.sat)
        return any_arithmetic;
    if (i.wide)
        return i.type == S32 ? whole_wide<OP, int32_t> : i.type == U32 ? whole_wide<OP, uint32_t> : any_arithmetic;
    return i.type == S32 ? whole<OP, int32_t> : i.type == U32 ? whole<OP, uint32_t> : bits_of(i.type) == 64 ? whole<OP, uint64_t> : any_arithmetic;
}

Result *result_of(const Instruction &i)
{
    switch (i.op) {
    case ADD:
        return arithmetic_of<ADD>(i);
    case SUB:
        return arithmetic_of<SUB>(i);
    case MUL:
        return arithmetic_of<MUL>(i);
    case MAD:
    case FMA:
        return arithmetic_of<MAD>(i);
    case DIV:
    case REM:
    case MIN:
    case MAX:
    case ABS:
    case NEG:
    case COPYSIGN:
    case RCP:
    case SQRT:
    case RSQRT:
    case EX2:
    case LG2:
    case SIN:
    case COS:
    case TANH:
        return any_arithmetic;
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
    case BFIND:
    case BREV:
    case SHF:
    case DP4A:
    case LOP3:
        return bits;
    case CVT:
        return any_conversion;
    case SELP:
        return selected;
    case SETP: // with a third operand or a second result it does more
        return i.o.size() == 3 && i.o[0].second < 0 ? any_comparison : nullptr;
    case MOV:
        return i.o[0].kind == Operand::REGISTER && i.o[1].kind != Operand::VECTOR ? moved : nullptr;
    default:
        return nullptr;
    }
}

} // namespace ptx
