#!/usr/bin/env bash
# Train these weights from scratch: about three hours on two cores with AMX. Set these variables:
#   DATA    folder with train.jsonl.gz (natural-language inference), classify/ (labeled texts) and dev/ (evaluation data)
#   MINILM  folder of all-MiniLM-L6-v2
#   MPNET   folder of all-mpnet-base-v2
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
train=$DATA/train.jsonl.gz

python "$here/split.py" "$train" --train kept.jsonl.gz --held-out held.jsonl.gz

# the teacher predicts soft labels for each pair
python "$here/teacher.py" train "$MPNET" "$train" --output teacher
python "$here/teacher.py" label teacher "$train" --output soft.jsonl.gz

# natural-language inference: all pairs with soft labels, with two seeds
tune() {  # arguments of `minidistil train`; adds those that all runs share
    minidistil train "$@" --eval-data held.jsonl.gz --batch-tokens 4096 --learning-rate 2e-4 --warmup-ratio 0.06 \
        --weight-decay 0.01 --dropout 0 --dtype bfloat16
}
labels=ENTAILMENT,NEUTRAL,CONTRADICTION
tune "$MINILM" soft.jsonl.gz --output inference --labels $labels --epochs 3
tune "$MINILM" soft.jsonl.gz --output inference-43 --labels $labels --epochs 3 --seed 43

# zero-shot classification: pairs about texts, and the inference pairs again to avoid forgetting
python "$here/embed.py" "$MPNET" "$DATA/classify" "$train" --output vectors.pt
classify() {  # OUTPUT, inference pairs, then the data sets to exclude
    python "$here/hypotheses.py" "$DATA/classify" vectors.pt --output "$1.jsonl.gz" --without "${@:3}"
    tune inference "$1.jsonl.gz" "$2" --output "$1" --epochs 1 --max-length 256
    python "$here/average.py" "$1-averaged" inference=0.15 inference-43=0.15 "$1=0.7"
}
classify all soft.jsonl.gz

# each zero-shot figure comes from a run without that data set
gunzip -c soft.jsonl.gz | awk 'NR % 8 == 0' | gzip > part.jsonl.gz
classify without-trec part.jsonl.gz trec
classify without-sst2 part.jsonl.gz sst2
classify without-yelp-banking77 part.jsonl.gz yelp banking77
classify without-imdb part.jsonl.gz imdb

ln -s "$DATA"/classify/*.jsonl.gz .
zero_shot() {  # MODEL, FILE, TEMPLATE
    minidistil eval "$1" "$2.jsonl.gz" --zero-shot --template "$3" --json "${@:4}" > "zero-shot-$2.json"
}
zero_shot without-sst2-averaged sst2_dev "This review is {}."
zero_shot without-trec-averaged trec_test "This question is about a {}."
zero_shot without-yelp-banking77-averaged yelp_1000 "This review is {}."
zero_shot without-imdb-averaged imdb_1000 "This review is {}."
zero_shot without-yelp-banking77-averaged banking77_test "The customer asks about {}." --dtype bfloat16

python "$here/half.py" all-averaged minidistil-mnli
python "$here/measure.py" minidistil-mnli "$DATA/dev" inference=0.15 inference-43=0.15 all=0.7 \
    zero-shot-*.json
