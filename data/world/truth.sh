#!/bin/sh
# Writes data/world/truth.jsonl: every one of the 2^8 plans {nf4, int8}^8 of the small world's pruned model, really fine-tuned as a trial of config.txt and scored on
# all documents, with three seeds (data order, dropout, adapter starts).  Goes on after any stop; about half an hour of two cores.
#   sh data/world/truth.sh
set -e
cd "$(dirname "$0")/../.."
for seed in 1 2 3; do
    ./train config.txt search=random seed=$seed num_initial=2 num_trials=254 eval_split=0.99 final_steps=1 export=none output_dir=build/truth/$seed
done
for seed in 1 2 3; do
    sed -n 's/^{"type":"trial".*"level":"\([01]*\)".*"size":\([0-9.e+]*\),"score":\([0-9.e-]*\),"variance":\([0-9.e-]*\),.*/\1 \2 \3 \4/p' build/truth/$seed/search/journal.jsonl
done | sort -s -k1,1 | awk '
    function flush() { if (n) printf "{\"plan\":\"%s\",\"size\":%d,\"score\":[%s],\"variance\":[%s]}\n", plan, size, score, variance }
    ($1 "") != plan { flush(); plan = $1 ""; size = $2; score = variance = ""; n = 0 }
    { score = score (n ? "," : "") sprintf("%.6f", $3); variance = variance (n ? "," : "") sprintf("%.3g", $4); n++ }
    END { flush() }' > build/truth/truth.jsonl
[ "$(wc -l < build/truth/truth.jsonl)" = 256 ] || { echo "truth: not all of the 256 plans are there"; exit 1; }
cp build/truth/truth.jsonl data/world/truth.jsonl
