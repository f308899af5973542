#!/usr/bin/env bash
# How these weights were made, from beginning to end: about two hours on two cores with AMX.
#   DATA    train.jsonl.gz: natural-language inference; classify/: labelled texts; dev/: what is measured at the end
#   MINILM  the folder of all-MiniLM-L6-v2; MPNET that of all-mpnet-base-v2
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
train=$DATA/train.jsonl.gz

python "$here/split.py" "$train" --train kept.jsonl.gz --held-out held.jsonl.gz

# the teacher, who says of each pair how likely each label is
python "$here/teacher.py" train "$MPNET" "$train" --output teacher
python "$here/teacher.py" label teacher "$train" --output soft.jsonl.gz

# inference: every pair, with the teacher's word
minidistil train "$MINILM" soft.jsonl.gz --labels ENTAILMENT,NEUTRAL,CONTRADICTION --output inference \
    --eval-data held.jsonl.gz --epochs 3 --batch-tokens 4096 --learning-rate 2e-4 --warmup-ratio 0.06 \
    --weight-decay 0.01 --dropout 0 --dtype bfloat16

# zero-shot classification: pairs about labelled texts, and inference again, lest it is forgotten
classify() {  # OUTPUT, pairs of inference, then the sets to leave out
    python "$here/hypotheses.py" "$DATA/classify" "$train" --output "$1.jsonl.gz" --without "${@:3}"
    minidistil train inference "$1.jsonl.gz" "$2" --output "$1" --eval-data held.jsonl.gz \
        --epochs 1 --batch-tokens 4096 --learning-rate 1e-4 --warmup-ratio 0.06 \
        --weight-decay 0.01 --dropout 0 --dtype bfloat16
    python "$here/average.py" inference "$1" "$1-averaged" --share 0.7
}
gunzip -c soft.jsonl.gz | awk 'NR % 4 == 0' | gzip > part.jsonl.gz
classify all soft.jsonl.gz
classify without-sst2-trec part.jsonl.gz sst2 trec
classify without-yelp-imdb-banking77 part.jsonl.gz yelp imdb banking77

# a set's figure is from the run that saw nothing of it
gunzip -c "$DATA/classify/banking77_test.jsonl.gz" | awk 'NR % 10 == 0' | gzip > banking77_test_every_10th.jsonl.gz
ln -s "$DATA"/classify/*.jsonl.gz .
zero_shot() {  # MODEL, FILE, TEMPLATE
    minidistil eval "$1" "$2.jsonl.gz" --zero-shot --template "$3" --json > "zero-shot-$2.json"
}
zero_shot without-sst2-trec-averaged sst2_dev "This review is {}."
zero_shot without-sst2-trec-averaged trec_test "This question is about a {}."
zero_shot without-yelp-imdb-banking77-averaged yelp_1000 "This review is {}."
zero_shot without-yelp-imdb-banking77-averaged imdb_1000 "This review is {}."
zero_shot without-yelp-imdb-banking77-averaged banking77_test_every_10th "The customer asks about {}."

python "$here/half.py" all-averaged minidistil-mnli
python "$here/measure.py" minidistil-mnli "$DATA/dev" inference all zero-shot-*.json
