#!/bin/sh
# Runs cmocka test programs and closes with "N passed, N failed, N skipped".  usage: run.sh BUILD_DIR TEST...
build=$1; shift
# threads that wait give their core away: several programs may share this machine
OMP_WAIT_POLICY=passive; export OMP_WAIT_POLICY
passed=0; failed=0; skipped=0; broken=
for t in "$@"; do
    out=$(CMOCKA_MESSAGE_OUTPUT=stdout "$build/test/$t" 2>&1); rc=$?
    p=$(printf '%s\n' "$out" | grep -c '^\[       OK \]')
    f=$(printf '%s\n' "$out" | grep -c '^\[  FAILED  \] [^0-9]')
    s=$(printf '%s\n' "$out" | grep -c '^\[  SKIPPED \] [^0-9]')
    # cmocka prints a skipped or failed name twice: once where it ran, once in the summary
    f=$(printf '%s\n' "$out" | sed -n 's/^\[  FAILED  \] \([^0-9].*\)/\1/p' | sort -u | grep -c .)
    s=$(printf '%s\n' "$out" | sed -n 's/^\[  SKIPPED \] \([^0-9].*\)/\1/p' | sort -u | grep -c .)
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then f=1; broken="$broken $t(exit $rc)"; fi
    if [ $rc -ne 0 ]; then printf '%s\n' "$out"; fi
    printf '%s\n' "$out" | sed -n 's/^\[  SKIPPED \] \([^0-9].*\)/skipped: \1/p' | sort -u
    passed=$((passed + p)); failed=$((failed + f)); skipped=$((skipped + s))
    printf '%-28s %4d passed %4d failed %4d skipped\n' "$t" "$p" "$f" "$s"
done
[ -n "$broken" ] && echo "ended without a verdict:$broken"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
