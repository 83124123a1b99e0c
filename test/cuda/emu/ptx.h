// ptx.h: nvcc's PTX as it is executed: ptx_parse.cpp makes these, ptx_run.cpp runs them, ptx_math.cpp knows what arithmetic gives.
//
// Nothing is guessed: what is not known here ends the program with the line.  PTX ISA 9.0.  A register is 64 bits that hold a value modulo its
// width; who reads it extends it to the type that it works on.
#pragma once
#include <stdint.h>
#include <string>
#include <vector>

namespace ptx {

enum Type { B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64, PRED, F16X2, BF16X2, NO_TYPE };
extern const int type_bytes[NO_TYPE];
inline bool is_signed(Type t)
{
    return t >= S8 && t <= S64;
}
inline bool is_float(Type t)
{
    return t == F16 || t == BF16 || t == F32 || t == F64;
}

// The register's value as one of type t: zero or sign extended.
inline uint64_t extend(uint64_t v, Type t)
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

// X(name in PTX, opcode)
#define PTX_OPCODES(X)                                                                                                       \
    X(mov, MOV)                                                                                                              \
    X(add, ADD) X(sub, SUB) X(mul, MUL) X(mad, MAD) X(fma, FMA) X(div, DIV) X(rem, REM) X(min, MIN) X(max, MAX)              \
    X(abs, ABS) X(neg, NEG) X(and, AND) X(or, OR) X(xor, XOR) X(not, NOT) X(shl, SHL) X(shr, SHR)                            \
    X(setp, SETP) X(selp, SELP) X(cvt, CVT) X(cvta, CVTA) X(ld, LD) X(st, ST) X(bra, BRA) X(call, CALL) X(ret, RET) X(exit, EXIT) \
    X(bar, BAR) X(barrier, BARRIER) X(shfl, SHFL) X(vote, VOTE) X(mma, MMA) X(ldmatrix, LDMATRIX) X(atom, ATOM) X(red, RED)  \
    X(ex2, EX2) X(lg2, LG2) X(rcp, RCP) X(sqrt, SQRT) X(rsqrt, RSQRT) X(sin, SIN) X(cos, COS) X(tanh, TANH)                  \
    X(copysign, COPYSIGN) X(bfi, BFI) X(bfe, BFE) X(prmt, PRMT) X(popc, POPC) X(clz, CLZ) X(bfind, BFIND) X(brev, BREV) X(shf, SHF)          \
    X(dp4a, DP4A) X(lop3, LOP3) X(membar, MEMBAR) X(fence, FENCE) X(cp, CP_ASYNC) X(trap, TRAP)
#define PTX_NAME(name, opcode) opcode,
enum Opcode { PTX_OPCODES(PTX_NAME) OPCODES };
#undef PTX_NAME

enum Space { GENERIC, GLOBAL, SHARED, LOCAL, PARAM, CONST };
enum Compare { EQ, NE, LT, LE, GT, GE, LO, LS, HI, HS, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NAN_, NO_COMPARE };
enum Rounding { NEAREST, DOWN, UP, ZERO };
enum Special { TID_X, TID_Y, TID_Z, NTID_X, NTID_Y, NTID_Z, CTAID_X, CTAID_Y, CTAID_Z, NCTAID_X, NCTAID_Y, NCTAID_Z, LANEID, WARPID, SPECIALS };
// What a modifier chooses where the opcode alone does not say: `variant` of an instruction.
enum Variant { NO_VARIANT, V_AND, V_OR, V_XOR, V_ADD, V_MIN, V_MAX, V_EXCH, V_CAS, V_IDX, V_UP, V_DOWN, V_BFLY, V_BALLOT, V_ANY, V_ALL, V_POPC,
               V_LEFT, V_RIGHT, V_COMMIT, V_WAIT, V_WAIT_ALL };

// All values of a thread lie in one frame: its registers, then what else an instruction may name, constants too.  So reading an operand is one load.
struct Operand {
    enum Kind { REGISTER, IMMEDIATE, SPECIAL, VECTOR, ADDRESS, PARAMETER, SLOT, DYNAMIC, LABEL } kind = IMMEDIATE;
    uint64_t value = 0;             // number of a register, parameter, special register or instruction; place of a slot; the immediate itself
    unsigned at = 0;                // where the value lies in the frame; of an address its base's
    int64_t offset = 0;             // of an address
    int second = -1;                // p|q: q
    std::vector<Operand> elements;  // of a vector, of a call's arguments; an address's base
};

struct Instruction;
// What an instruction that only computes gives for its operands.
typedef uint64_t Result(const Instruction &, uint64_t, uint64_t, uint64_t, uint64_t);

enum { MOST_OPERANDS = 5 };
struct Instruction {
    Opcode op;
    int predicate = -1;
    Result *result = nullptr;          // NULL: the instruction does more than to set its first operand
    unsigned at[MOST_OPERANDS] = {};   // of its operands; where there is none, of a zero
    int64_t offset = 0;                // of the address among them
    Type type = NO_TYPE, from = NO_TYPE;
    Space space = GENERIC;
    Compare compare = NO_COMPARE;
    Rounding rounding = NEAREST;
    Variant variant = NO_VARIANT;
    int vector = 1;
    bool ftz = false, sat = false, wide = false, hi = false, to = false, integral = false, trans = false, wrap = false, shiftamt = false, nan = false, warp = false,
         red = false, bf16 = false, x4 = false, m16n8k16 = false;
    bool negated = false;
    int line = 0, source = 0; // in the PTX, in the .cu file
    std::vector<Operand> o;
    std::string text, callee; // callee: of a call, whose operands are its results and its arguments
};

// An entry, or a function that is called: its parameters are its arguments, then its results.
struct Kernel {
    std::vector<Instruction> code;
    std::vector<uint64_t> frame; // as a thread begins: registers 0, constants
    std::vector<Operand> own;    // what differs from thread to thread: special registers, parameters, slots
    size_t shared = 0, local = 0; // bytes of static variables
};

[[noreturn]] void give_up(const std::string &sentence);
void parse(const std::string &path);
const Kernel *find(const std::string &name); // NULL: in no file parsed so far

// What the instruction gives for the values of its operands, as the register will hold it; which function says so (NULL: it does more than that).
uint64_t arithmetic(const Instruction &i, uint64_t a, uint64_t b, uint64_t c);
bool compared(const Instruction &i, uint64_t a, uint64_t b);
Result *result_of(const Instruction &i);
unsigned bits_of(Type t);
[[noreturn]] void unknown(const Instruction &i);

} // namespace ptx
