#!/usr/bin/env python3
"""The tests of the CUDA backend tested: each mutant of mutants.txt is one fault in the kernels; a test has to notice it.

    python3 test/cuda/mutate.py BUILD CHECK NVCC PTX_FLAGS KERNELS [part of a name]     (make test-cuda-mutants says the commands)

A mutant is compiled for the checker and its tests run: it is caught by `numbers` (a test failed), by the `checker` (a report), by a second run with
`late streams`, or else, compiled by nvcc, by the same tests on its `PTX`.  What is marked equivalent must pass all of them.  mutants.txt:

    == name of the mutant
    in cuda/ops.cu            the file
    only cuda/gemm.cu         of a header: the kernels that are compiled with the fault (default: all that include it)
    -- text that is replaced  (must stand there; `nth N` where it stands more than once)
    ++ text instead of it     (may be missing: the text is taken out)
    by ops_cuda_test          tests that are run
    ptx                       inline assembly: the source is no different, look at PTX at once
    equivalent: why no test can notice

As many mutants at a time as the process may use cores.
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

build, check, nvcc, ptx, kernels = *sys.argv[1:5], sys.argv[5].split()
only = sys.argv[6] if len(sys.argv) > 6 else ''
home = os.path.dirname(os.path.abspath(__file__))


def read_mutants():
    mutants = []
    for line in open(f'{home}/mutants.txt'):
        line = line.rstrip('\n')
        if line.startswith('== '):
            mutants.append({'name': line[3:], 'from': [], 'to': [], 'nth': 0, 'by': [], 'only': [], 'ptx': False, 'equivalent': ''})
        elif not line or line.startswith('#'):
            continue
        elif line.startswith('-- '):
            mutants[-1]['from'].append(line[3:])
        elif line.startswith('++'):
            mutants[-1]['to'].append(line[3:])
        elif line.startswith('in '):
            mutants[-1]['file'] = line[3:]
        elif line.startswith('nth '):
            mutants[-1]['nth'] = int(line[4:])
        elif line.startswith('only '):
            mutants[-1]['only'] = line[5:].split()
        elif line.startswith('by '):
            mutants[-1]['by'] = line[3:].split()
        elif line == 'ptx':
            mutants[-1]['ptx'] = True
        elif line.startswith('equivalent: '):
            mutants[-1]['equivalent'] = line[12:]
        else:
            sys.exit(f'mutants.txt: {line}')
    return mutants


def mutated(m):
    text, old = open(m['file']).read(), '\n'.join(m['from'])
    at = -1
    for _ in range(max(m['nth'], 1)):
        at = text.find(old, at + 1)
        if at < 0:
            sys.exit(f"mutants.txt: {m['name']}: {m['file']} does not hold: {old}")
    if m['nth'] == 0 and text.find(old, at + 1) >= 0:
        sys.exit(f"mutants.txt: {m['name']}: {m['file']} holds this more than once, say nth N: {old}")
    return text[:at] + '\n'.join(m['to']) + text[at + len(old):]


def changed(m):
    """The kernel files that the mutant changes."""
    if m['only'] or m['file'].endswith('.cu'):
        return m['only'] or [m['file']]
    found, grew = {m['file']}, True
    sources = [os.path.join('cuda', f) for f in os.listdir('cuda') if f.endswith(('.cu', '.cuh', '.h'))]
    while grew:
        grew = False
        for s in sources:
            if s not in found and any(f'#include "{f}"' in open(s).read() for f in found):
                found.add(s)
                grew = True
    return sorted(f for f in found if f.endswith('.cu'))


def sh(command, **more):
    return subprocess.run(command, shell=True, capture_output=True, text=True, **more)


def write(m, work):
    """The file with its fault, as it is for nvcc and as g++ reads it; all others are found in their places."""
    shutil.rmtree(work, ignore_errors=True)
    for folder in ('plain', 'src'):
        os.makedirs(f'{work}/{folder}/cuda')
    open(f'{work}/plain/{m["file"]}', 'w').write(mutated(m))
    sh(f'sed -E -f test/cuda/emu/cu2cpp.sed {work}/plain/{m["file"]} > {work}/src/{re.sub("[.]cu$", ".cpp", m["file"])}')


def build_check(m, work):
    """kernels.so with the mutant, for the checker; what the compiler says when it refuses."""
    objects = []
    for k in kernels:
        o = f'{build}/check/{k[:-3]}.o'
        if k in changed(m):
            o = f'{work}/{os.path.basename(k)}.o'
            source = f'{work if k == m["file"] else build}/src/{k[:-3]}.cpp'
            r = sh(f'{check} -g0 -w -iquote {work}/src -iquote {build}/src -c {source} -o {o}')
            if r.returncode:
                return r.stderr
        objects.append(o)
    r = sh(f'c++ -shared -Wl,-soname,kernels.so -o {work}/kernels.so {" ".join(objects)}')
    return r.stderr if r.returncode else ''


def build_ptx(m, work):
    paths = []
    for k in kernels:
        p = f'{build}/ptx/sm_80/{k[:-3]}.ptx'
        if k in changed(m):
            p = f'{work}/{os.path.basename(k)}.ptx'
            r = sh(f'{nvcc} -I{work}/plain {ptx} {f"{work}/plain/" if k == m["file"] else ""}{k} -o {p}')
            if r.returncode:
                return None, r.stderr
        paths.append(p)
    return ':'.join(paths), ''


def run(folder, test, **environment):
    try:
        r = sh(f'{build}/{folder}/test/{test}', timeout=600, env={**os.environ, 'EMU_STOP': '1', **environment})
    except subprocess.TimeoutExpired:
        return 'numbers'
    out = r.stdout + r.stderr
    if re.search(r'^(memcheck|initcheck|racecheck|synccheck|launch|trap|cublas): ', out, re.M):
        return 'the checker'
    return 'numbers' if r.returncode else ''


def verdict(m, work):
    write(m, work)
    refused = build_check(m, work)
    if refused:
        sys.exit(f"{m['name']} does not compile:\n{refused}")
    if not m['ptx']:
        for t in m['by']:
            by = run('check', t, LD_LIBRARY_PATH=work)
            if by:
                return by
            if run('check', t, LD_LIBRARY_PATH=work, EMU_ORDER='2', EMU_SEED='3', EMU_LAZY='1'):
                return 'late streams'
    paths, refused = build_ptx(m, work)
    if refused:
        return 'ptxas' if m['ptx'] else sys.exit(f"{m['name']} does not compile:\n{refused}")
    return 'PTX' if any(run('shim', t, EMU_PTX=paths) for t in m['by']) else ''


def judged(m):
    work = f'{build}/mutants/{re.sub("[^a-z0-9]+", "_", m["name"].lower())}'
    by = verdict(m, work)
    shutil.rmtree(work)
    return m, by


def main():
    count, bad, equivalent = {}, 0, 0
    mutants = [m for m in read_mutants() if only in m['name']]
    cores = len(os.sched_getaffinity(0))
    for t in sorted({t for m in mutants for t in m['by']}):
        if run('check', t):
            sys.exit(f'{t} fails without a fault: nothing can be said')
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        for m, by in pool.map(judged, mutants):
            wrong = bool(by) == bool(m['equivalent'])
            bad += wrong
            equivalent += not wrong and not by
            said = by or ('equivalent: ' + m['equivalent'] if m['equivalent'] else 'NOT NOTICED')
            print(f"{m['name']:60s} {said}{'   BUT MARKED EQUIVALENT' if by and m['equivalent'] else ''}", flush=True)
            if by:
                count[by] = count.get(by, 0) + 1
    noticed = ', '.join(f'{n} by {k}' for k, n in sorted(count.items()))
    print(f'{len(mutants)} mutants: {sum(count.values())} noticed ({noticed}), {equivalent} equivalent, {bad} wrong')
    sys.exit(bad > 0)


main()
