#!/bin/sh
# The instructions that five kernels of the AVX2 level take, counted by valgrind: a gate that no clock and no neighbour moves.
# usage: callgrind.sh BUILD_DIR COMPILER [--record].  Fails when a kernel takes 3 % more than test/instructions.txt says.
# AVX2, because valgrind 3.19 knows no AVX-512; one thread, so that nobody waits.
build=$1 compiler=$2 record=$3
table=test/instructions.txt
name=instruction_counts
version=$("$compiler" -dumpfullversion -dumpversion 2>/dev/null)
"$compiler" --version 2>/dev/null | grep -q clang && version="clang $version" || version="gcc $version"
skip() { echo "skipped: $name ($1)"; exit 0; }
[ "$(uname -m)" = x86_64 ] || skip 'they are those of x86-64'
command -v valgrind >/dev/null || skip 'no valgrind'
grep -q -w avx2 /proc/cpuinfo || skip 'no AVX2'
[ -n "$record" ] || [ "$version" = "$(sed -n 's/^compiler //p' $table)" ] ||
    skip "recorded with $(sed -n 's/^compiler //p' $table), this is $version; make record-instructions makes them anew"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# The instructions of one call.
count() {
    VENEER_CPU=avx2 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 \
        valgrind -q --tool=callgrind --callgrind-out-file="$work/out" --toggle-collect=counted_call "$build/test/count_kernels" "$1" || return 1
    sed -n 's/^totals: \([0-9]*\).*/\1/p' "$work/out"
}

failed=0
echo "compiler $version" >"$work/table"
for kernel in forward dX few few_fixed attention; do
    now=$(count $kernel) && [ -n "$now" ] || { echo "FAILED: $kernel does not run under valgrind"; exit 1; }
    echo "$kernel $now" >>"$work/table"
    [ -n "$record" ] && continue
    was=$(sed -n "s/^$kernel //p" $table)
    if [ -z "$was" ]; then
        echo "FAILED: $kernel: not in $table"; failed=1
    elif [ $((now * 100)) -gt $((was * 103)) ]; then
        echo "FAILED: $kernel: $now instructions, $was were recorded: $(((now - was) * 100 / was)) % more"; failed=1
    elif [ $((now * 100)) -lt $((was * 97)) ]; then
        echo "$kernel: $now instructions, $was were recorded: $(((was - now) * 100 / was)) % less; record it: make record-instructions"
    else
        echo "$kernel: $now instructions, $was were recorded"
    fi
done
[ -n "$record" ] && cp "$work/table" $table && cat $table
exit $failed
