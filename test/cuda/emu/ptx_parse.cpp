// ptx_parse.cpp: reads PTX as nvcc writes it, inline assembly included.
#include "ptx.h"
#include "emu.h"
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace ptx {

using std::string;
using std::vector;

const int type_bytes[NO_TYPE] = {1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8, 1, 4, 4};
static const char *const type_names[] = {"b8",  "b16", "b32", "b64", "u8",   "u16", "u32", "u64",  "s8",   "s16",
                                         "s32", "s64", "f16", "bf16", "f32", "f64", "pred", "f16x2", "bf16x2"};
static const char *const compare_names[] = {"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi",
                                            "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
static const char *const special_names[] = {"%tid.x",   "%tid.y",   "%tid.z",   "%ntid.x",   "%ntid.y",   "%ntid.z",   "%ctaid.x",
                                            "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid"};
#define PTX_NAME(name, opcode) {#name, opcode},
static const std::map<string, Opcode> opcodes = {PTX_OPCODES(PTX_NAME)};
#undef PTX_NAME
static const std::map<string, Variant> variants = {
    {"and", V_AND}, {"or", V_OR}, {"xor", V_XOR}, {"add", V_ADD}, {"min", V_MIN}, {"max", V_MAX}, {"exch", V_EXCH},
    {"cas", V_CAS}, {"idx", V_IDX}, {"up", V_UP}, {"down", V_DOWN}, {"bfly", V_BFLY}, {"ballot", V_BALLOT}, {"any", V_ANY},
    {"all", V_ALL}, {"popc", V_POPC}, {"l", V_LEFT}, {"r", V_RIGHT}, {"commit_group", V_COMMIT}, {"wait_group", V_WAIT}, {"wait_all", V_WAIT_ALL}};

static std::map<string, Kernel> kernels;
static size_t variable_bytes; // used of emu::ptx_variables: what .global and .const declare

void give_up(const string &sentence)
{
    fflush(stdout);
    fprintf(stderr, "PTX: %s\n", sentence.c_str());
    _exit(2);
}

const Kernel *find(const string &name)
{
    auto it = kernels.find(name);
    return it == kernels.end() ? nullptr : &it->second;
}

// ---- text
static string trim(const string &x)
{
    size_t a = x.find_first_not_of(" \t\r\n"), b = x.find_last_not_of(" \t\r\n");
    return a == string::npos ? "" : x.substr(a, b - a + 1);
}

// At commas outside brackets.
static vector<string> split(const string &x, char at = ',')
{
    vector<string> parts;
    string part;
    int depth = 0;
    for (char c : x) {
        depth += (c == '{' || c == '[' || c == '(') - (c == '}' || c == ']' || c == ')');
        if (c == at && !depth) {
            parts.push_back(trim(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trim(part).empty())
        parts.push_back(trim(part));
    return parts;
}

static bool starts(const string &x, const char *with, size_t at = 0)
{
    return x.compare(at, strlen(with), with) == 0;
}

static bool immediate(const string &x, uint64_t *v)
{
    if (starts(x, "0f") || starts(x, "0F") || starts(x, "0d") || starts(x, "0D")) {
        *v = strtoull(x.c_str() + 2, nullptr, 16);
        return true;
    }
    if (!isdigit(static_cast<unsigned char>(x[0])) && !(x[0] == '-' && x.size() > 1))
        return false;
    *v = x[0] == '-' ? static_cast<uint64_t>(strtoll(x.c_str(), nullptr, 0)) : strtoull(x.c_str(), nullptr, 0);
    return true;
}

// ---- one file
class Parser {
public:
    explicit Parser(const string &all) : s(all)
    {
    }
    void file();

private:
    const string &s;
    size_t p = 0;
    int line = 1, source = 0;
    Kernel *kernel = nullptr;
    std::map<string, int> registers, labels, parameters;
    std::map<string, uint64_t> shared_at, local_at, slots; // of the kernel; slots: arguments and results of its calls
    std::map<string, size_t> module_shared, extern_shared; // of the file: bytes
    std::map<string, char *> globals;
    vector<std::pair<size_t, string>> jumps; // instruction, label
    std::map<uint64_t, unsigned> constants;  // where they lie in the frame
    std::map<std::pair<int, uint64_t>, unsigned> own; // and what is the thread's own, by kind and value

    void space();
    string statement();
    int register_number(const string &name);
    uint64_t shared_variable(const string &name, size_t bytes);
    void declare(const string &text);
    void routine(const string &head);
    void parameter_names(const string &list);
    void call(Instruction &i, const string &text);
    void body();
    unsigned constant(uint64_t v);
    void place(Operand &o);
    void place_operands();
    void instruction(string text);
    void modifier(Instruction &i, const string &m);
    Operand operand(const string &x, Opcode op);
    Operand address(const string &x, Opcode op);
    Operand symbol(const string &x);
};

void Parser::space()
{
    for (;;) {
        while (p < s.size() && isspace(static_cast<unsigned char>(s[p])))
            line += s[p++] == '\n';
        if (!starts(s, "//", p))
            return;
        while (p < s.size() && s[p] != '\n')
            p++;
    }
}

// Up to the next semicolon outside braces.
string Parser::statement()
{
    size_t from = p;
    for (int depth = 0; p < s.size() && (depth || s[p] != ';'); p++) {
        depth += (s[p] == '{') - (s[p] == '}');
        line += s[p] == '\n';
    }
    return s.substr(from, p++ - from);
}

int Parser::register_number(const string &name)
{
    return registers.emplace(name, static_cast<int>(registers.size())).first->second;
}

uint64_t Parser::shared_variable(const string &name, size_t bytes)
{
    uint64_t at = (kernel->shared + 15) / 16 * 16;
    kernel->shared = at + bytes;
    return shared_at[name] = at;
}

// .shared .align 4 .b8 name[128];  .global .align 4 .f32 name[2] = {0f3F800000, 0f00000000};
void Parser::declare(const string &text)
{
    size_t bracket = text.find('['), equals = text.find('=');
    string head = trim(text.substr(0, bracket < equals ? bracket : equals)), name = head.substr(head.find_last_of(" \t") + 1);
    size_t each = 1, count = 1;
    for (int t = 0; t < NO_TYPE; t++)
        if (head.find(string(" .") + type_names[t] + " ") != string::npos)
            each = static_cast<size_t>(type_bytes[t]);
    if (bracket < equals)
        count = strtoul(text.c_str() + bracket + 1, nullptr, 10);
    size_t bytes = count * each;
    if (head.find(".shared") != string::npos) {
        if (head.find(".extern") != string::npos)
            extern_shared[name] = 0;
        else if (kernel)
            shared_variable(name, bytes);
        else
            module_shared[name] = bytes;
        return;
    }
    if (head.find(".local") != string::npos || (kernel && starts(head, ".param"))) {
        (starts(head, ".param") ? slots : local_at)[name] = kernel->local;
        kernel->local += (bytes + 15) / 16 * 16;
        return;
    }
    char *data = emu::ptx_variables + variable_bytes;
    variable_bytes += (bytes + 15) / 16 * 16;
    if (variable_bytes > emu::PTX_VARIABLE_BYTES)
        give_up("more variables than there is room for: " + name);
    if (equals != string::npos) {
        string list = text.substr(equals + 1);
        size_t open = list.find('{');
        vector<string> values = split(open == string::npos ? trim(list) : list.substr(open + 1, list.rfind('}') - open - 1));
        for (size_t i = 0; i < values.size() && i < count; i++) {
            uint64_t v;
            if (!immediate(values[i], &v))
                give_up("initializer " + values[i] + " of " + name);
            memcpy(data + i * each, &v, each);
        }
    }
    globals[name] = data;
}

Operand Parser::symbol(const string &x)
{
    Operand o;
    if (parameters.count(x)) {
        o.kind = Operand::PARAMETER;
        o.value = static_cast<uint64_t>(parameters[x]);
    } else if (slots.count(x)) {
        o.kind = Operand::SLOT;
        o.value = slots[x];
    } else if (shared_at.count(x)) {
        o.value = shared_at[x];
    } else if (module_shared.count(x)) {
        o.value = shared_variable(x, module_shared[x]);
    } else if (extern_shared.count(x)) {
        o.kind = Operand::DYNAMIC;
    } else if (local_at.count(x)) {
        o.value = local_at[x];
    } else if (globals.count(x)) {
        o.value = reinterpret_cast<uint64_t>(globals[x]);
    } else {
        give_up("unknown name " + x);
    }
    return o;
}

Operand Parser::address(const string &x, Opcode op)
{
    Operand o;
    o.kind = Operand::ADDRESS;
    string inside = trim(x.substr(1, x.rfind(']') - 1));
    size_t sign = inside.find_first_of("+-", 1);
    if (sign != string::npos)
        o.offset = strtoll(inside.c_str() + sign + (inside[sign] == '+'), nullptr, 0);
    o.elements.push_back(operand(trim(inside.substr(0, sign)), op));
    return o;
}

Operand Parser::operand(const string &x, Opcode op)
{
    Operand o;
    if (x[0] == '[')
        return address(x, op);
    if (x[0] == '{') {
        o.kind = Operand::VECTOR;
        for (const string &e : split(x.substr(1, x.rfind('}') - 1)))
            o.elements.push_back(operand(e, op));
        return o;
    }
    if (op == BRA && x[0] != '%') {
        o.kind = Operand::LABEL;
        jumps.push_back({kernel->code.size(), x});
        return o;
    }
    size_t bar = x.find('|');
    if (bar != string::npos) {
        o.kind = Operand::REGISTER;
        o.value = static_cast<uint64_t>(register_number(trim(x.substr(0, bar))));
        o.second = register_number(trim(x.substr(bar + 1)));
        return o;
    }
    if (immediate(x, &o.value))
        return o;
    for (int i = 0; i < SPECIALS; i++) {
        if (x != special_names[i])
            continue;
        o.kind = Operand::SPECIAL;
        o.value = static_cast<uint64_t>(i);
        return o;
    }
    if (x == "WARP_SZ") {
        o.value = 32;
        return o;
    }
    if (x[0] != '%' && x != "_" && !registers.count(x)) // _ is a result that nobody wants
        return symbol(x);
    o.kind = Operand::REGISTER;
    o.value = static_cast<uint64_t>(register_number(x));
    return o;
}

void Parser::modifier(Instruction &i, const string &m)
{
    for (int t = 0; t < NO_TYPE; t++)
        if (m == type_names[t]) {
            i.bf16 |= t == BF16;
            (i.type == NO_TYPE ? i.type : i.from) = static_cast<Type>(t);
            return;
        }
    if (i.op == SETP)
        for (int c = 0; c < NO_COMPARE; c++)
            if (m == compare_names[c])
                i.compare = static_cast<Compare>(c);
    if (variants.count(m) && i.variant == NO_VARIANT)
        i.variant = variants.at(m);
    static const std::map<string, Space> spaces = {{"global", GLOBAL}, {"local", LOCAL}, {"param", PARAM}, {"const", CONST}};
    if (spaces.count(m))
        i.space = spaces.at(m);
    if (starts(m, "shared") && i.space == GENERIC)
        i.space = SHARED;
    static const std::map<string, Rounding> roundings = {{"rm", DOWN}, {"rp", UP}, {"rz", ZERO}, {"rmi", DOWN}, {"rpi", UP}, {"rzi", ZERO}};
    if (roundings.count(m))
        i.rounding = roundings.at(m);
    i.integral |= m == "rni" || m == "rmi" || m == "rpi" || m == "rzi";
    if (m == "v2" || m == "v4")
        i.vector = m[1] - '0';
    i.ftz |= m == "ftz";
    i.sat |= m == "sat";
    i.wide |= m == "wide";
    i.hi |= m == "hi";
    i.to |= m == "to";
    i.trans |= m == "trans";
    i.wrap |= m == "wrap";
    i.shiftamt |= m == "shiftamt";
    i.nan |= m == "NaN";
    i.warp |= m == "warp";
    i.red |= m == "red";
    i.x4 |= m == "x4";
    i.m16n8k16 |= m == "m16n8k16";
    if (m == "cc" || m == "relu" || m == "satfinite" || m == "xorsign")
        give_up("modifier ." + m + " is not known: " + i.text);
}

// call.uni (result), name, (argument, argument);
void Parser::call(Instruction &i, const string &text)
{
    vector<string> parts = split(text);
    i.o.resize(2);
    for (const string &x : parts) {
        Operand &list = i.o[i.callee.empty() ? 0 : 1];
        if (x[0] != '(')
            i.callee = x;
        else
            for (const string &e : split(x.substr(1, x.rfind(')') - 1)))
                list.elements.push_back(symbol(e));
    }
    kernel->code.push_back(i);
}

void Parser::instruction(string text)
{
    text = trim(text);
    if (text.empty())
        return;
    Instruction i;
    i.text = text;
    i.line = line;
    i.source = source;
    if (text[0] == '@') {
        size_t end = text.find_first_of(" \t");
        i.negated = text[1] == '!';
        i.predicate = register_number(text.substr(1 + i.negated, end - 1 - i.negated));
        text = trim(text.substr(end));
    }
    size_t end = text.find_first_of(" \t\n");
    vector<string> parts = split(text.substr(0, end), '.');
    if (!opcodes.count(parts[0]))
        give_up("line " + std::to_string(line) + ": opcode not known: " + i.text);
    i.op = opcodes.at(parts[0]);
    if (i.op == CALL)
        return call(i, trim(text.substr(end)));
    for (size_t m = 1; m < parts.size(); m++)
        modifier(i, parts[m]);
    if (end != string::npos)
        for (const string &x : split(trim(text.substr(end))))
            i.o.push_back(operand(x, i.op));
    kernel->code.push_back(i);
}

// After the opening brace, to the closing one.
void Parser::body()
{
    for (int depth = 1; depth;) {
        space();
        if (p >= s.size())
            give_up("the file ends inside a kernel");
        size_t word = p;
        while (word < s.size() && (isalnum(static_cast<unsigned char>(s[word])) || s[word] == '_' || s[word] == '$'))
            word++;
        if (s[p] == '{' || s[p] == '}') {
            depth += s[p++] == '{' ? 1 : -1;
        } else if (starts(s, ".loc", p) && isspace(static_cast<unsigned char>(s[p + 4]))) {
            int file, number;
            if (sscanf(s.c_str() + p, ".loc %d %d", &file, &number) == 2 && file == 1 && number)
                source = number;
            p = s.find('\n', p);
        } else if (starts(s, ".pragma", p)) {
            statement();
        } else if (starts(s, ".reg", p)) {
            string names = trim(statement());
            for (const string &x : split(names.substr(names.find_first_of(" \t", 5))))
                if (x.find('<') == string::npos)
                    register_number(x);
        } else if (s[p] == '.') {
            declare(statement());
        } else if (word > p && s[word] == ':') {
            labels[s.substr(p, word - p)] = static_cast<int>(kernel->code.size());
            p = word + 1;
        } else {
            instruction(statement());
        }
    }
}

void Parser::parameter_names(const string &list)
{
    for (const string &x : split(list)) {
        string last = x.substr(x.find_last_of(" \t\n") + 1);
        int number = static_cast<int>(parameters.size());
        parameters[last.substr(0, last.find('['))] = number;
    }
}

// ---- the frame
unsigned Parser::constant(uint64_t v)
{
    auto known = constants.emplace(v, static_cast<unsigned>(kernel->frame.size()));
    if (known.second)
        kernel->frame.push_back(v);
    return known.first->second;
}

void Parser::place(Operand &o)
{
    for (Operand &e : o.elements)
        place(e);
    if (o.kind == Operand::REGISTER) {
        o.at = static_cast<unsigned>(o.value);
    } else if (o.kind == Operand::ADDRESS) {
        o.at = o.elements[0].at;
    } else if (o.kind == Operand::IMMEDIATE || o.kind == Operand::DYNAMIC) { // dynamic shared memory lies behind the static variables
        o.at = constant(o.kind == Operand::IMMEDIATE ? o.value : (kernel->shared + 15) / 16 * 16);
    } else if (o.kind != Operand::VECTOR && o.kind != Operand::LABEL) {
        auto known = own.emplace(std::make_pair(static_cast<int>(o.kind), o.value), static_cast<unsigned>(kernel->frame.size()));
        o.at = known.first->second;
        if (!known.second)
            return;
        kernel->frame.push_back(0);
        kernel->own.push_back(o);
    }
}

void Parser::place_operands()
{
    constants.clear();
    own.clear();
    kernel->frame.assign(registers.size(), 0);
    for (Instruction &i : kernel->code) {
        for (unsigned &at : i.at)
            at = constant(0);
        for (size_t n = 0; n < i.o.size(); n++) {
            place(i.o[n]);
            if (n < MOST_OPERANDS)
                i.at[n] = i.o[n].at;
            if (i.o[n].kind == Operand::ADDRESS)
                i.offset = i.o[n].offset;
        }
        i.result = result_of(i);
    }
}

// head: .visible .entry name(parameters), or .func (result) name (parameters)
void Parser::routine(const string &head)
{
    size_t entry = head.find(".entry"), from = entry != string::npos ? entry + 6 : head.find(".func") + 5, brace = s.find('{', p);
    string results;
    if (entry == string::npos && trim(head.substr(from))[0] == '(') {
        size_t open = head.find('(', from);
        results = head.substr(open + 1, head.find(')', open) - open - 1);
        from = head.find(')', open) + 1;
    }
    size_t open = head.find('(', from), close = head.find(')', open);
    if (open == string::npos)
        give_up("a kernel without a parameter list: " + head);
    kernel = &kernels[trim(head.substr(from, open - from))];
    *kernel = Kernel();
    registers.clear();
    labels.clear();
    parameters.clear();
    shared_at.clear();
    local_at.clear();
    slots.clear();
    parameter_names(head.substr(open + 1, close - open - 1));
    parameter_names(results);
    jumps.clear();
    for (; p <= brace; p++)
        line += s[p] == '\n';
    body();
    for (auto &j : jumps) {
        if (!labels.count(j.second))
            give_up("no label " + j.second);
        kernel->code[j.first].o[0].value = static_cast<uint64_t>(labels[j.second]);
    }
    place_operands();
    kernel = nullptr;
}

void Parser::file()
{
    for (space(); p < s.size(); space()) {
        size_t end = s.find('\n', p), brace = s.find('{', p), semicolon = s.find(';', p);
        string head = s.substr(p, (brace < semicolon ? brace : semicolon) - p);
        if (starts(s, ".version", p) || starts(s, ".target", p) || starts(s, ".address_size", p) || starts(s, ".file", p)) {
            p = end;
        } else if (starts(s, ".section", p)) {
            p = s.find('}', p) + 1;
        } else if (brace < semicolon && (head.find(".entry") != string::npos || head.find(".func") != string::npos)) {
            routine(head);
        } else if (head.find(".func") != string::npos) {
            statement();
        } else {
            declare(statement());
        }
    }
}

void parse(const string &path)
{
    FILE *f = fopen(path.c_str(), "rb");
    if (!f)
        give_up("cannot open " + path);
    string all;
    char buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;)
        all.append(buffer, n);
    fclose(f);
    Parser(all).file();
}

} // namespace ptx
