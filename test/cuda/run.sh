#!/bin/sh
# The tests of the CUDA backend at every level: compiled, checked in five orders of threads (the last with late streams), PTX.  usage: run.sh BUILD TEST...
# Closes with "N passed, N failed, N skipped".  A test at a level is a job; as many run side by side as the process may use cores, and what they say is
# told in order.  ARCHS: folders of BUILD/ptx; empty: no nvcc, the PTX level is skipped.
build=$1; shift
tab=$(printf '\t')

# True where a test would find nothing there that it does not find at another level.
left_out() { # level, test
    case "$1 $2" in
    'compiled planted_test') ;;               # what is planted is for the checker
    'checked, order '[12]*' planted_test') ;; # it goes through the orders itself
    # kernels go through the orders in tests of their own; a whole job wants late streams
    'checked, order '[12]' '[12]' train_cuda_test' | 'checked, order '[12]' '[12]' engine_cuda_test' | 'checked, order '[12]' '[12]' inference_cuda_test') ;;
    'PTX of '*' engine_cuda_test') ;; # six whole jobs, interpreted, would take a quarter of an hour
    *) return 1 ;;
    esac
}

log_of() { # LEVEL tab TEST
    echo "$build/run/$1.log" | tr "$tab ," '___'
}

# run.sh BUILD --job 'LEVEL tab TEST': one job, into its log.
if [ "$1" = --job ]; then
    level=${2%"$tab"*}; test=${2#*"$tab"}; folder=shim; log=$(log_of "$2")
    unset EMU_ORDER EMU_SEED EMU_LAZY EMU_PTX
    case $level in
    checked*) folder=check; EMU_ORDER=$(echo "$level" | cut -d' ' -f3); EMU_SEED=$(echo "$level" | cut -d' ' -f4); export EMU_ORDER EMU_SEED ;;
    PTX*) EMU_PTX=$(find "$build/ptx/${level#PTX of }" -name '*.ptx' | sort | tr '\n' ':' | sed 's/:$//'); export EMU_PTX ;;
    esac
    case $level in *lazy) EMU_LAZY=1; export EMU_LAZY ;; esac
    sh test/run.sh "$build/$folder" "$test" >"$log.part" 2>&1
    mv "$log.part" "$log"
    echo # wakes who tells
    exit 0
fi

# PTX that differs from another architecture's in the line .target alone is the same program.
same_ptx() { # two architectures
    for f in $(cd "$build/ptx/$1" && find . -name '*.ptx'); do
        [ "$(grep -v '^\.target ' "$build/ptx/$1/$f" | cksum)" = "$(grep -v '^\.target ' "$build/ptx/$2/$f" | cksum)" ] || return 1
    done
}

levels() {
    echo compiled
    for o in '0 1' '1 1' '2 1' '2 2' '2 3 lazy'; do echo "checked, order $o"; done
    for a in $ARCHS; do
        [ "$a" != "${ARCHS%% *}" ] && same_ptx "${ARCHS%% *}" "$a" || echo "PTX of $a"
    done
}

tell() { # those jobs that are done, in order
    while [ -n "$next" ] && [ -f "$(log_of "$next")" ]; do
        level=${next%"$tab"*}; log=$(log_of "$next")
        [ "$level" = "$told" ] || echo "-- $level"
        told=$level
        sed '$d' "$log"
        set -- $(tail -n 1 "$log" | tr -d ,)
        passed=$((passed + $1)); failed=$((failed + $3)); skipped=$((skipped + $5))
        read -r next <&3
    done
}

rm -rf "$build/run"; mkdir -p "$build/run"
jobs=$build/run/jobs
levels | while read -r level; do
    for t in "$@"; do left_out "$level" "$t" || echo "$level$tab$t"; done
done >"$jobs"
# whole jobs take longest and begin first
whole='\(engine\|train\|inference\)_cuda_test$'
{ grep "$whole" "$jobs"; grep -v "$whole" "$jobs"; } | tr '\n' '\0' | xargs -0 -n 1 -P "$(nproc)" sh "$0" "$build" --job | {
    passed=0; failed=0; skipped=0; told=
    exec 3<"$jobs"
    read -r next <&3
    while read -r _; do tell; done
    [ -z "$next" ] || { echo "no verdict: $next"; failed=$((failed + 1)); }
    echo '-- the benchmark of GPUs on toy shapes: that it runs to its end'
    if "$build/shim/bench/gpu" --toy --out "$build" >"$build/run/gpu.log" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)); cat "$build/run/gpu.log"; fi
    for a in $ARCHS; do grep -q "^PTX of $a" "$jobs" || echo "-- PTX of $a: that of ${ARCHS%% *} but for the line .target, which is not run twice"; done
    [ -n "$ARCHS" ] || { echo 'skipped: the PTX level (no nvcc)'; skipped=$((skipped + 1)); }
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}
