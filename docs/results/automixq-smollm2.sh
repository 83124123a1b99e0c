#!/bin/sh
# AutoMixQ's table on SmolLM2-135M-Instruct: LoRA on 16 bits, LoftQ on 8 and on 4, random mixes, AutoMixQ, at 20, 30 and 50 % pruned.  The mixes may take 80 % of LoftQ-8's
# bytes.  The embedding, a fifth of this model's parameters, has 8 bits in all rows but LoRA's, 16 there: were it F32 as in training, bits of layers would hardly count.
#   sh docs/results/automixq-smollm2.sh [--quick]      writes build/automixq/table.md; --quick: one ratio, two steps, four documents: that it runs
# Goes on after any stop: a row whose run is finished is not run again.  DATA is where Alpaca-style data and task files are.
set -e
cd "$(dirname "$0")/../.."
DATA=${DATA:-../shared/data}
out=build/automixq ratios="0.2 0.3 0.5" steps=60 search_limit=30 limit=100 initial=4 trials=6
if [ "$1" = --quick ]; then
    out=build/automixq-quick ratios=0.2 steps=2 search_limit=4 limit=4 initial=2 trials=1
fi
[ -d "$DATA/commonsense" ] || { echo "no $DATA/commonsense: set DATA to a folder that has commonsense/ and instruct/"; exit 2; }
mkdir -p $out
make -s train evaluate
[ -s data/models/SmolLM2-135M-Instruct.Q4_1.gguf ] || make -s models

# stored_bytes DIR [SHARE]: of a finished run's model
stored_bytes() {
    awk -v share=${2:-1} 'match($0, /"pick": \{"size_bytes": [0-9]+/) { sub(/.*"pick": \{"size_bytes": /, ""); printf "%d", share * $0 }' $1/eval/results.json
}

# run NAME RATIO key=value ...: one run, unless its report is there
run() {
    name=$1 ratio=$2
    shift 2
    dir=$out/$name-$ratio
    [ -s $dir/report.html ] && return
    ./train examples/smollm2-135m.txt dataset=$DATA/instruct/rasbt_1100.jsonl eval_data=$DATA/commonsense output_dir=$dir pruning_ratio=$ratio \
        max_seq_len=128 max_steps=$steps batch_size=8 micro_batch_size=1 gradient_checkpointing=yes search_eval_limit=$search_limit eval_limit=$limit \
        embedding_type=int8 export=none "$@"
}

for ratio in $ratios; do
    run lora $ratio search=none quant_types=bf16 embedding_type=bf16 lora_init=default
    run loftq8 $ratio search=none quant_types=int8
    run loftq4 $ratio search=none quant_types=nf4
    run automixq $ratio search=gp num_initial=$initial num_trials=$trials target_size=$(stored_bytes $out/loftq8-$ratio 0.8)
done
for ratio in $ratios; do
    run random $ratio search=random num_initial=2 num_trials=$((initial + trials - 2)) target_size=$(stored_bytes $out/loftq8-$ratio 0.8)
done

# One table a ratio: accuracy of each task on the report part, the mean and its standard error, bytes, and the paired tests against LoftQ-8.
for ratio in $ratios; do
    echo "## $ratio of the parameters pruned"
    echo
    ./evaluate --compare $out/loftq8-$ratio $out/lora-$ratio $out/loftq4-$ratio $out/random-$ratio $out/automixq-$ratio
    echo
done > $out/table.md
cat $out/table.md
