#!/bin/sh
# The floors of the house: a file includes only files on lower floors.  Prints each arrow that is not; exit 1 if there is one.
# Also: no exit, abort or printing below the roofs, and foreign headers only in their one place.
cd "$(dirname "$0")/.." || exit 1
floor() {
    case $1 in
    base/err.h|base/size.h|base/real.h|veneer.h) echo 0 ;;
    base/*) echo 1 ;;
    use_device.h) echo 24 ;;
    use_device.c) echo 24 ;;
    quant*|io/json.*) echo 10 ;;
    io/jinja*|io/regex.*|io/model_config*|io/safetensors.*|io/gguf*) echo 11 ;;
    io/tokenizer*|io/spm.*|io/bpe.*|io/pretokenizer.*) echo 12 ;;
    io/checkpoint*|io/chat_template*|io/tasks*) echo 13 ;;
    io/dataset*) echo 14 ;;
    io/report*) echo 25 ;;
    ops.h) echo 20 ;;
    plan*) echo 21 ;;
    cpu/*.h) echo 21 ;;
    cpu/*) echo 22 ;;
    cuda/device.h) echo 22 ;;
    cuda/*) echo 23 ;;
    lora.*|optim.*|affine.*|gram.*) echo 30 ;;
    gptq.*|bitstack.*|cloq.*) echo 35 ;;
    pareto.*) echo 39 ;;
    model*|gp.*|rbf.*|mlp.*|nsga2.*) echo 40 ;;
    awq.*|generate.*) echo 45 ;;
    calibrate*|prune*|finetune*|evaluate*|export*|search*|inference*|merge_report.*) echo 50 ;;
    strategy/predictor.*) echo 50 ;;
    strategy/knapsack.*) echo 51 ;;
    strategy/*|convert.*) echo 52 ;;
    config*) echo 55 ;;
    trial.h) echo 57 ;;
    trial*) echo 58 ;;
    engine*) echo 60 ;;
    tools/roof.h) echo 69 ;;
    train.c|tools/*) echo 70 ;;
    esac
}
bad=0
for f in *.c *.h base/*.[ch] io/*.[ch] cpu/*.[ch] cuda/*.[ch] cuda/*.cu cuda/*.cuh strategy/*.[ch] tools/*.c; do
    [ -f "$f" ] || continue
    ff=$(floor "$f")
    [ -n "$ff" ] || { echo "$f stands on no floor"; bad=1; continue; }
    for i in $(sed -n 's/^#include "\(.*\)"/\1/p' "$f"); do
        case $i in data/world/src/world.h) continue ;; esac # the generator of the example's data is its own house
        fi_=$(floor "$i")
        # x.c may include its own x.h, and rooms of one floor may be headers of the same family (x_*.h)
        [ "${i%.h}" = "${f%.c}" ] && continue
        a=${f%%[._]*}; b=${i%%[._]*}
        [ "$a" = "$b" ] && continue
        case $f:$i in cpu/*:cpu/*|cuda/*:cuda/*) continue ;; esac
        case $i in io/tokenizer_private.h) [ "$ff" = 12 ] && continue ;; esac
        if [ -z "$fi_" ] || [ "$fi_" -gt "$ff" ] || { [ "$fi_" -eq "$ff" ] && [ "$ff" -gt 1 ]; }; then
            echo "$f (floor $ff) includes $i (floor ${fi_:-?})"; bad=1
        fi
    done
done
below=$(ls *.c base/*.c io/*.c cpu/*.c cuda/*.c cuda/*.cu strategy/*.c 2>/dev/null | grep -v '^train.c$')
grep -nE '(^|[^_a-z])(exit|abort|printf|puts|perror) *\(' $below | grep -vE ':[0-9]+: *\*|text_p|//' && { echo 'exit, abort or printing below a roof'; bad=1; }
only() { h=$1; shift; grep -ln "#include <$h" *.c *.h base/* io/* cpu/* cuda/* strategy/* tools/* 2>/dev/null | grep -vE "$1" | sed "s|^|$h belongs in $1: |" | grep . && bad=1; }
only cblas.h '^base/linalg.c'; only lapacke.h '^base/linalg.c'; only cJSON.h '^io/json.c'; only cjson/ '^io/json.c'
only zlib.h '^base/gzip.c'; only nlopt.h '^gp.c'; only pcre2.h "^io/regex.c"; only utf8proc.h "^io/pretokenizer.c"
only cuda_runtime '^cuda/'; only cublas '^cuda/'
[ $bad -eq 0 ] && echo 'layers: in order'
exit $bad
