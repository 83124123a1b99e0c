#!/bin/sh
# The tests of the CUDA backend at every level: compiled, checked in five orders of threads (the last with late streams), PTX.  usage: run.sh BUILD TEST...
# Closes with "N passed, N failed, N skipped".  ARCHS: folders of BUILD/ptx; empty: no nvcc, the PTX level is skipped.
build=$1; shift
passed=0; failed=0; skipped=0
log=$build/run.log
level() { # name, folder of the programs
    name=$1; folder=$2; shift 2
    echo "-- $name"
    sh test/run.sh "$build/$folder" "$@" >"$log" 2>&1
    sed '$d' "$log"
    set -- $(tail -n 1 "$log" | tr -d ,)
    passed=$((passed + $1)); failed=$((failed + $3)); skipped=$((skipped + $5))
}
unset EMU_ORDER EMU_SEED EMU_LAZY EMU_PTX
level 'compiled' shim $(echo "$@" | sed 's/planted_test//') # what is planted is for the checker
for o in '0 1' '1 1' '2 1' '2 2' '2 3 lazy'; do
    EMU_ORDER=${o%% *}; EMU_SEED=$(echo "$o" | cut -d' ' -f2); export EMU_ORDER EMU_SEED
    case $o in *lazy) EMU_LAZY=1; export EMU_LAZY ;; esac
    level "checked, order $o" check "$@"
done
unset EMU_ORDER EMU_SEED EMU_LAZY
for a in $ARCHS; do
    EMU_PTX=$(find "$build/ptx/$a" -name '*.ptx' | sort | tr '\n' ':' | sed 's/:$//'); export EMU_PTX
    level "PTX of $a" shim "$@"
done
echo '-- the benchmark of GPUs on toy shapes: that it runs to its end'
unset EMU_PTX
if "$build/shim/bench/gpu" --toy --out "$build" >"$log" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)); cat "$log"; fi
[ -n "$ARCHS" ] || { echo 'skipped: the PTX level (no nvcc)'; skipped=$((skipped + 1)); }
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
