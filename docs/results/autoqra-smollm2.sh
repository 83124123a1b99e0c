#!/bin/sh
# AutoQRA's table on SmolLM2-135M-Instruct, unpruned: LoRA of rank 16 on 16 bits, QLoRA on 4 bits with rank 16, AMQ's formats with LoRA of rank 16, AutoQRA (formats and ranks) at
# the bytes of QLoRA, and without a budget.
#   sh docs/results/autoqra-smollm2.sh [--quick]      writes build/autoqra/table.md; --quick: two steps, four documents: that it runs
# Goes on after any stop: a row whose run is finished is not run again.  DATA is where Alpaca-style data, task files and texts are.
set -e
cd "$(dirname "$0")/../.."
DATA=${DATA:-../shared/data}
out=${OUT:-build/autoqra} steps=60 search_limit=30 limit=100 initial=6 trials=10 probes="num_initial=40 num_trials=80 amq_batch=20 search_tokens=1024"
if [ "$1" = --quick ]; then
    out=build/autoqra-quick steps=2 search_limit=4 limit=4 initial=2 trials=1 probes="num_initial=2 num_trials=1 search_tokens=128"
fi
[ -d "$DATA/commonsense" ] || { echo "no $DATA/commonsense: set DATA to a folder that has commonsense/, instruct/ and lm/"; exit 2; }
mkdir -p $out
make -s train evaluate
[ -s data/models/SmolLM2-135M-Instruct.Q4_1.gguf ] || make -s models

# stored_bytes DIR: of a finished run's model and adapter
stored_bytes() {
    awk 'match($0, /"pick": \{"size_bytes": [0-9]+/) { sub(/.*"pick": \{"size_bytes": /, ""); printf "%d", $0 }' $1/eval/results.json
}

# run NAME key=value ...: one run, unless its report is there
run() {
    dir=$out/$1
    shift
    [ -s $dir/report.html ] && return
    ./train examples/smollm2-135m.txt dataset=$DATA/instruct/rasbt_1100.jsonl eval_data=$DATA/commonsense search_data=$DATA/lm/wikitext-2-v1.valid.txt \
        calibration_data=$DATA/lm/c4_demo.jsonl calibration_seq_len=128 output_dir=$dir pruning_ratio=0 max_seq_len=128 max_steps=$steps batch_size=8 micro_batch_size=1 \
        gradient_checkpointing=yes search_eval_limit=$search_limit eval_limit=$limit embedding_type=int8 export=none "$@"
}

formats=hqq2,hqq3,nf4,int8
run lora16 search=none quant_types=bf16 embedding_type=bf16 lora_r=16 lora_init=default
run qlora4 search=none quant_types=nf4 lora_r=16 lora_init=default
budget=$(stored_bytes $out/qlora4)
run amq-lora search=amq quant_types=$formats lora_r=16 lora_init=default target_size=$budget search_quantizer=gptq quantizer=gptq $probes
run autoqra search=autoqra quant_types=$formats rank_types=4,8,16,32 num_initial=$initial num_trials=$trials target_size=$budget search_quantizer=gptq
run autoqra-free search=autoqra quant_types=$formats rank_types=4,8,16,32 num_initial=$initial num_trials=$trials search_quantizer=gptq

# Accuracy of each task on the report part, the mean and its standard error, bytes, and the paired tests against LoRA on 16 bits.
./evaluate --compare $out/lora16 $out/qlora4 $out/amq-lora $out/autoqra $out/autoqra-free > $out/table.md
cat $out/table.md
