#!/usr/bin/env python3
"""What each kernel takes, held to cuda/budget.txt.

    python3 test/cuda/budget.py PTXAS BUILD [--record] FILE.cu...        (make test-cuda-budget, make record-cuda-budget)

From the PTX in BUILD/ptx, which nvcc made: loads and stores of global memory and how many of them are vectors, barriers, double precision.  From
ptxas -v: registers, static shared memory, spills, stack.  From the machine code: instructions, tensor-core products, accesses to local memory (an
instruction is 16 bytes, its opcode the low 12 bits).  From BUILD/launches.txt, which the emulated tests leave: threads and dynamic shared memory of
the widest launch, and with them the blocks that fit on a multiprocessor (a kernel that no test launched: those it is bound to, and none).

No kernel may spill or touch local memory.  With the ptxas that wrote budget.txt the figures must be the same; another one may differ in them.
"""
import re
import struct
import subprocess
import sys

ptxas, build = sys.argv[1], sys.argv[2]
record = '--record' in sys.argv
files = [a for a in sys.argv[3:] if a != '--record']
budget = 'cuda/budget.txt'
# multiprocessor: warps, blocks, registers, bytes of shared memory (CUDA programming guide, technical specifications)
LIMITS = {'sm_80': (64, 32, 65536, 164 << 10), 'sm_89': (48, 24, 65536, 100 << 10), 'sm_90': (64, 32, 65536, 228 << 10)}
COLUMNS = 'arch kernel threads registers shared dynamic spills local loads vector_loads stores vector_stores barriers doubles code mma blocks'.split()


def sh(*command):
    r = subprocess.run(command, capture_output=True, text=True)
    if r.returncode:
        sys.exit(f'{" ".join(command)}\n{r.stderr}')
    return r.stdout + r.stderr


def short(names):
    """flash_forward<64, true> for its mangled name."""
    plain = sh('c++filt', *names).split('\n')
    result = {}
    for mangled, d in zip(names, plain):
        d = re.sub(r'^void ', '', d)
        d = re.sub(r'\((?:int|bool|unsigned int|[\w ]*enum[\w ]*)\)', '', d)
        depth, end = 0, len(d)
        for i, c in enumerate(d):
            depth += (c == '<') - (c == '>')
            if c == '(' and not depth:
                end = i
                break
        result[mangled] = d[:end].replace(' ', '')
    return result


def machine_code(path):
    """opcodes of each kernel of a cubin."""
    d = open(path, 'rb').read()
    at = struct.unpack_from('<Q', d, 0x28)[0]
    size, count, strings = struct.unpack_from('<HHH', d, 0x3A)
    sections = [struct.unpack_from('<IIQQQQIIQQ', d, at + i * size) for i in range(count)]
    names = d[sections[strings][4]:sections[strings][4] + sections[strings][5]]
    code = {}
    for s in sections:
        name = names[s[0]:names.index(b'\0', s[0])].decode()
        if name.startswith('.text.'):
            code[name[6:]] = [struct.unpack_from('<Q', d, s[4] + i)[0] & 0xfff for i in range(0, s[5], 16)]
    return code


def blocks(arch, threads, registers, shared):
    warps, most, register_file, memory = LIMITS[arch]
    per_block = (threads + 31) // 32
    by_registers = register_file // ((registers * 32 + 255) // 256 * 256) // 4 * 4 // per_block
    by_memory = memory // ((shared + 1024 + 127) // 128 * 128)
    return min(warps // per_block, most, by_registers, by_memory)


def measure(arch, source, launches):
    ptx, cubin = f'{build}/ptx/{arch}/{source[:-3]}.ptx', f'{build}/budget.cubin'
    said = sh(ptxas, '-v', f'-arch={arch}', ptx, '-o', cubin)
    text, code = open(ptx).read(), machine_code(cubin)
    bound = {m.group(1): int(m.group(2)) for m in re.finditer(r'\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)', text)}
    body = {m.group(1): m.group(2) for m in re.finditer(r'\.entry (\w+)\((.*?)\n\}', text, re.S)}
    found = re.findall(r"Compiling entry function '(\w+)'.*?\n.*?\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
                       r'.*?Used (\d+) registers(.*)', said)
    names = short([f[0] for f in found]) if found else {}
    rows = []
    for mangled, stack, spill_stores, spill_loads, registers, rest in found:
        threads, dynamic = launches.get(mangled, (bound.get(mangled, 256), 0))
        smem = re.search(r'(\d+) bytes smem', rest)
        shared = int(smem.group(1)) if smem else 0
        ops, b = code[mangled], body[mangled]
        n = lambda pattern: len(re.findall(pattern, b))
        local = sum(o in (0x983, 0x387, 0x987, 0x386) for o in ops) + int(stack)
        rows.append([arch, names[mangled], threads, int(registers), shared, dynamic, int(spill_stores) + int(spill_loads), local,
                     n(r'ld\.global'), n(r'ld\.global[\w.:]*\.v[24]'), n(r'st\.global'), n(r'st\.global[\w.:]*\.v[24]'), n(r'bar\.sync|barrier\.sync'),
                     n(r'\.f64'), sum(o != 0x918 for o in ops), ops.count(0x23c), blocks(arch, threads, int(registers), shared + dynamic)])
    return rows


def main():
    version = re.search(r'release [\d.]+, (V[\d.]+)', sh(ptxas, '--version')).group(1)
    launches = {}
    for line in open(f'{build}/launches.txt'):
        name, threads, dynamic = line.split()
        was = launches.get(name, (0, 0))
        launches[name] = (max(was[0], int(threads)), max(was[1], int(dynamic)))
    rows = [r for arch in ('sm_80', 'sm_90') for f in files for r in measure(arch, f, launches)]
    bad = [f'{r[0]} {r[1]}: {r[6]} bytes spilled, {r[7]} of local memory' for r in rows if r[6] or r[7]]
    table = [COLUMNS] + [[str(x) for x in r] for r in rows]
    width = [max(len(r[i]) for r in table) for i in range(len(COLUMNS))]
    lines = ['  '.join(x.ljust(w) if i < 2 else x.rjust(w) for i, (x, w) in enumerate(zip(r, width))) for r in table]
    head = f'# What each kernel takes (test/cuda/budget.py says how it is found); make record-cuda-budget writes it anew.  ptxas {version}\n'
    if record:
        open(budget, 'w').write(head + '\n'.join(lines) + '\n')
    kept = open(budget).read().split('\n')
    if version in kept[0]:
        recorded, now = {' '.join(l.split()) for l in kept[1:] if l}, {' '.join(l.split()) for l in lines}
        bad += [f'budget.txt: {l}' for l in sorted(recorded - now)] + [f'now:        {l}' for l in sorted(now - recorded)]
    else:
        print(f'budget.txt is of another ptxas than {version}: only spills and local memory are looked at')
    print('\n'.join(bad) if bad else f'budget: {len(rows)} kernels as recorded, no spills, no local memory')
    sys.exit(bool(bad))


main()
