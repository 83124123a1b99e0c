#!/bin/sh
# The ablations of AutoMixQ's paper on the default run's model, 5 seeds each: number format, initialisation, LoftQ iterations, importance, aggregation.
#   sh docs/results/ablations.sh [--quick]     writes build/ablations/table.md; a quarter of an hour of two cores; --quick: one seed, five steps
# Every layer in one format, 200 steps of fine-tuning, scores of the report part.  Goes on after any stop.
set -e
cd "$(dirname "$0")/../.."
out=build/ablations seeds="1 2 3 4 5" steps=200
[ "$1" = --quick ] && out=build/ablations-quick seeds=1 steps=5
mkdir -p $out
: > $out/rows.txt

# row GROUP NAME key=value ...
row() {
    group=$1 name=$2
    shift 2
    for seed in $seeds; do
        dir=$out/$(echo "$group-$name" | tr ' ' _)-$seed
        [ -s $dir/report.html ] || ./train config.txt search=none quant_types=nf4 final_steps=$steps seed=$seed export=none output_dir=$dir "$@"
        sed -n "s/.*\"pick\": {\"size_bytes\": \([0-9]*\), \"mean\": \([0-9.]*\),.*/$group|$name|\2|\1/p" $dir/eval/results.json >> $out/rows.txt
    done
}

row "number format" nf4
row "number format" fp4 quant_types=fp4
row "number format" int8 quant_types=int8
row "number format" hqq4 quant_types=hqq4
row initialisation default lora_init=default
row initialisation gaussian lora_init=gaussian
row initialisation loftq
row initialisation pissa lora_init=pissa
row initialisation cloq lora_init=cloq
row "LoftQ iterations" 1
row "LoftQ iterations" 2 loftq_iters=2
row "LoftQ iterations" 4 loftq_iters=4
row importance "magnitude (l2)"
row importance "Element1 (param_first)" pruner_type=taylor taylor=param_first
row importance "Element2 (param_second)" pruner_type=taylor taylor=param_second
row importance "both (param_mix)" pruner_type=taylor taylor=param_mix
row importance "vector (vectorize)" pruner_type=taylor taylor=vectorize
row aggregation sum pruner_type=taylor grouping_strategy=sum
row aggregation max pruner_type=taylor grouping_strategy=max
row aggregation first pruner_type=taylor grouping_strategy=first

awk -F'|' 'function flush() {
        if (n == 0) return
        mean = sum / n
        deviation = n > 1 ? sqrt((squares - n * mean * mean) / (n - 1)) : 0
        printf "| %s | %s | %.1f +- %.1f | %.1f | %.2f |\n", group, name, 100 * mean, n > 1 ? 100 * deviation / sqrt(n) : 0, 100 * deviation, size / 1e6
    }
    BEGIN { print "| ablation | choice | mean accuracy %, standard error over seeds | deviation | MB |\n|---|---|---:|---:|---:|" }
    { key = $1 "|" $2
      if (key != last) { flush(); n = sum = squares = 0; group = $1; name = $2; last = key }
      n++; sum += $3; squares += $3 * $3; size = $4 }
    END { flush() }' $out/rows.txt > $out/table.md
cat $out/table.md
