#!/bin/sh
# The ablations of AutoMixQ's paper on the default run's model, 5 seeds each: number format, initialisation, LoftQ iterations, importance, aggregation.
#   sh docs/results/ablations.sh [--quick]     writes build/ablations/table.md and table.svg; a quarter of an hour of two cores; --quick: one seed, five steps
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

# Mean and standard error over seeds; the difference from the group's first choice, seed by seed, so that what a seed does to all of them cancels.
awk -F'|' 'function deviation(sum, squares, n) { v = n > 1 ? (squares - sum * sum / n) / (n - 1) : 0; return v > 0 ? sqrt(v) : 0 }
    function flush(   i, d, sum, squares, dsum, dsquares) {
        if (n == 0) return
        for (i = 1; i <= n; i++) {
            sum += x[i]; squares += x[i] * x[i]
            d = x[i] - first[i]; dsum += d; dsquares += d * d
        }
        difference = name == base ? "" : sprintf("%+.1f +- %.1f", dsum / n, deviation(dsum, dsquares, n) / sqrt(n))
        printf "| %s | %s | %.1f +- %.1f | %s | %.2f |\n", group, name, sum / n, deviation(sum, squares, n) / sqrt(n), difference, size / 1e6
        printf "%s|%s|%.6g|%.6g\n", group, name, sum / n, deviation(sum, squares, n) / sqrt(n) > means
    }
    BEGIN { print "| ablation | choice | mean accuracy % | difference from the first of its group | MB |\n|---|---|---:|---:|---:|" }
    { if ($1 "|" $2 != last) { flush(); n = 0; if ($1 != group) base = $2; group = $1; name = $2; last = $1 "|" $2 }
      x[++n] = 100 * $3; if (name == base) first[n] = x[n]; size = $4 }
    END { flush() }' means=$out/means.txt $out/rows.txt > $out/table.md
cat $out/table.md

# The figure: means with two standard errors to either side.
awk -F'|' '{ group[NR] = $1; name[NR] = $2; mean[NR] = $3; error[NR] = $4
        low = NR == 1 || $3 - 2 * $4 < low ? $3 - 2 * $4 : low; high = NR == 1 || $3 + 2 * $4 > high ? $3 + 2 * $4 : high }
    function at(v) { return 260 + 420 * (v - low) / (high - low) }
    END {
        low = int(low) - 1; high = int(high) + 2
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 %d\" font-family=\"sans-serif\" font-size=\"12\">\n", 22 * NR + 60
        print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        for (v = low; v <= high; v++)
            printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"10\" y2=\"%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", at(v), at(v), 22 * NR + 20, at(v), 22 * NR + 36, v
        for (i = 1; i <= NR; i++) {
            y = 22 * i + 4
            if (group[i] != group[i - 1]) printf "<text x=\"8\" y=\"%d\" font-weight=\"bold\">%s</text>\n", y, group[i]
            printf "<text x=\"250\" y=\"%d\" text-anchor=\"end\">%s</text><line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#3060a0\" stroke-width=\"2\"/>", y, name[i], at(mean[i] - 2 * error[i]), at(mean[i] + 2 * error[i]), y - 4, y - 4
            printf "<circle cx=\"%.1f\" cy=\"%d\" r=\"4\" fill=\"#3060a0\"/>\n", at(mean[i]), y - 4
        }
        printf "<text x=\"470\" y=\"%d\" text-anchor=\"middle\">mean accuracy of seven tasks, %%; bars: two standard errors over seeds</text>\n</svg>\n", 22 * NR + 54
    }' $out/means.txt > $out/table.svg
