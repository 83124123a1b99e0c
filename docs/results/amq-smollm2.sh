#!/bin/sh
# AMQ's table on SmolLM2-135M-Instruct: who finds the best 2, 3, 4 bits for each linear at 2.5, 3.0, 3.5, 4.0 stored bits a weight: amq, dp, evopress, random, against one
# format everywhere (HQQ, GPTQ, AWQ), llama.cpp's rule by hand (one bit more for v_proj and down_proj of the first and last eighth of the layers and of every third one between) and
# BitStack.  Perplexity of WikiText-2 test (windows of 2048), KL and JSD from the unquantized model there, seven tasks.
#   sh docs/results/amq-smollm2.sh [--quick]      writes build/amq/table.md; --quick: few probes of a small text: that it runs
# OUT, LEVELS, BUDGETS, STRATEGIES, WRITERS, UNIFORM, QUANTIZERS, HAND, LIMIT, TEST_BYTES choose a part of it.  Goes on after any stop.  DATA is where lm/, commonsense/ and instruct/ are.  Searching text, calibration text and test text are disjoint.
set -e
cd "$(dirname "$0")/../.."
DATA=${DATA:-../shared/data} MODEL=data/models/SmolLM2-135M-Instruct.Q4_1.gguf
out=${OUT:-build/amq} budgets=${BUDGETS-"2.5 3.0 3.5 4.0"} strategies=${STRATEGIES-"amq dp evopress random"} uniform=${UNIFORM-"2 3 4"} quantizers=${QUANTIZERS-"hqq gptq awq"} writers=${WRITERS-"gptq awq"} hand=${HAND-"2 3"}
levels=${LEVELS:-gptq} more="" limit=${LIMIT:-30} test_bytes=${TEST_BYTES:-160000} window=2048
if [ "$1" = --quick ]; then
    out=build/amq-quick budgets=3.0 strategies="amq random" writers=gptq uniform=3 quantizers=hqq hand=3 limit=2 test_bytes=4000 window=256
    more="search_space=layer num_initial=2 num_trials=2 search_tokens=128 max_seq_len=128 calibration_seq_len=64 quantizer_samples=4"
fi
[ -d "$DATA/lm" ] || { echo "no $DATA/lm: set DATA to a folder that has lm/, commonsense/ and instruct/"; exit 2; }
mkdir -p $out
make -s train evaluate
[ -s data/models/SmolLM2-135M-Instruct.Q4_1.gguf ] || make -s models
make -s build/bench/bitstack
head -c $test_bytes "$DATA/lm/wikitext-2-v1.test.txt" > $out/test.txt

train() {
    ./train examples/amq-smollm2.txt dataset=$DATA/instruct/rasbt_1100.jsonl search_data=$DATA/lm/wikitext-2-v1.valid.txt calibration_data=$DATA/lm/c4_demo.jsonl \
        eval_data=$DATA/commonsense eval_limit=$limit $more "$@"
}

# One search without a budget a strategy: its front has every budget.  Levels are GPTQ's by the moments of the unquantized model; the plan is written by each
# of the writers, GPTQ from the inputs that the quantized layers before leave.  LEVELS=hqq: AMQ's own proxy.
for s in $strategies; do
    [ -s $out/search-$s/report.html ] || train search=$s objective=jsd search_quantizer=$levels quantizer=hqq export=none eval_limit=1 output_dir=$out/search-$s
done

# The best plan of a front within a budget: sizes of all-low and all-high are 2.25 and 4.25 bits a weight.
best_plan() {
    awk -F, -v b=$2 'NR == 1 { next }
        NR == FNR { if (low == "" || $2 < low) low = $2; if ($2 > high) high = $2; next }
        $5 == 0 && $7 == 1 && $2 <= low + (b - 2.25) / 2 * (high - low) && (best == "" || $3 > score) { best = $1; score = $3 }
        END { print best }' $out/search-$1/search/pareto.csv $out/search-$1/search/pareto.csv
}

measure() { # DIR: divergence and perplexity of what was written
    [ -s $1/divergence.txt ] || ./evaluate $1/model --compute-dtype auto --kl $MODEL --text $out/test.txt --window $window --quiet > $1/divergence.txt
    rm -f $1/model/model.safetensors # 500 MB each
}

rows="" stacks=""
for b in $budgets; do
    for s in $strategies; do
        for w in $writers; do
            dir=$out/$s-$b-$w
            [ -s $dir/report.html ] || train search=none plan=$out/search-$s/search/front/trial-$(best_plan $s $b).txt quantizer=$w output_dir=$dir
            measure $dir
            rows="$rows $dir"
        done
    done
done
for b in ${STACKS-$budgets}; do # BitStack: any size
    dir=$out/bitstack-$b
    [ -s $dir/divergence.txt ] || build/bench/bitstack $MODEL --text $DATA/lm/c4_demo.jsonl --bpw $b --out $dir/model
    measure $dir
    stacks="$stacks $dir"
done
for n in $uniform; do
    for q in $quantizers; do
        dir=$out/$q-$n
        [ -s $dir/report.html ] || train search=none quant_types=hqq$n quantizer=$q output_dir=$dir
        measure $dir
        rows="$rows $dir"
    done
done
more_bits='layers\.(0|1|2|5|8|11|14|17|20|23|26|27|28|29)\.(self_attn\.v_proj|mlp\.down_proj)'
for n in $hand; do
    dir=$out/hand-$n
    [ -s $dir/report.html ] || train search=none quant_types=hqq$n quantizer=gptq "bits_pattern=$more_bits=hqq$((n + 1)),.*=hqq$n" output_dir=$dir
    measure $dir
    rows="$rows $dir"
done

{
    ./evaluate --compare $rows
    echo
    echo "| run | divergence and perplexity |"
    echo "|---|---|"
    for dir in $rows $stacks; do
        echo "| $(basename $dir) | $(cat $dir/divergence.txt) |"
    done
} > $out/table.md
cat $out/table.md
