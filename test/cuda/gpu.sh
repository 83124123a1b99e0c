#!/bin/sh
# The tests of the kernels on a real GPU; without one they are skipped, with the sentence of what is missing.  usage: gpu.sh BUILD TEST...
build=$1; shift
name=$("$build/test/cuda/has_gpu") || { echo "skipped: test-gpu ($name)"; echo '0 passed, 0 failed, 1 skipped'; exit 0; }
echo "-- on $name"
exec sh test/run.sh "$build" "$@"
