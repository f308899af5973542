"""Train the teacher, an MPNet classifier of the pairs, and predict soft labels with it.

    python teacher.py train MPNET train.jsonl.gz --output TEACHER
    python teacher.py label TEACHER train.jsonl.gz synthetic.jsonl.gz --output soft.jsonl.gz

MPNET is the folder of all-mpnet-base-v2 (109M parameters, Apache-2.0). Requires transformers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from split import held_out, read

LABELS = ("entailment", "neutral", "contradiction")
LENGTH = 80  # maximum number of tokens per pair: 97 % are shorter
ROWS = 64
RATE = 4e-5
WARM_UP = 0.06
HARD = 0.3  # weight of the human label in a soft label; the rest is the teacher's prediction


def load(folder: str) -> tuple[Any, Any]:
    """Return the model, without dropout, and its tokenizer."""
    names = dict(enumerate(LABELS))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        id2label=names,
        label2id={label: i for i, label in names.items()},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        dtype=torch.bfloat16,
    )
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def batches(tokenizer: Any, rows: list[dict[str, Any]], seed: int | None) -> list[list[tuple[int, list[int]]]]:
    """Return batches of (row, token ids) with similar lengths, in random order if there is a seed."""
    ids = tokenizer(
        [row["premise"] for row in rows], [row["hypothesis"] for row in rows], max_length=LENGTH, truncation=True
    )["input_ids"]
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    window = 100 * ROWS
    sorted_ = [
        i for w in range(0, len(order), window) for i in sorted(order[w : w + window], key=lambda i: len(ids[i]))
    ]
    found = [[(i, ids[i]) for i in sorted_[b : b + ROWS]] for b in range(0, len(sorted_), ROWS)]
    if seed is not None:
        random.Random(seed).shuffle(found)
    return found


def logits(model: Any, batch: list[tuple[int, list[int]]]) -> torch.Tensor:
    """Return the logits of a batch: (n, 3)."""
    longest = -(-max(len(ids) for _, ids in batch) // 8) * 8  # a new shape costs a compilation
    pad = model.config.pad_token_id
    padded = torch.tensor([ids + [pad] * (longest - len(ids)) for _, ids in batch])
    return model(input_ids=padded, attention_mask=(padded != pad).long()).logits.float()


def train(source: str, data: str, output: Path) -> None:
    """Train for one epoch on the pairs with premises of MultiNLI, and a quarter of the others.

    Word embeddings are frozen. The model computes in bfloat16; AdamW updates a float32 copy.
    """
    torch.manual_seed(0)
    model, tokenizer = load(source)
    model.train()
    model.mpnet.embeddings.requires_grad_(False)
    kept = [row for row in read(data) if not held_out(row)]
    rows = [row for i, row in enumerate(kept) if row["source"] in ("mnli", "lingnli") or i % 4 == 0]
    plan = batches(tokenizer, rows, seed=0)
    small = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters = [parameter.detach().float() for parameter in small]
    optimizer = torch.optim.AdamW(masters, lr=RATE, weight_decay=0.01, fused=True)
    begin, average = time.time(), 1.0
    for step, batch in enumerate(plan):
        left = 1 - step / len(plan)
        optimizer.param_groups[0]["lr"] = RATE * min((1 - left) / WARM_UP, left / (1 - WARM_UP))
        target = torch.tensor([LABELS.index(rows[i]["label"]) for i, _ in batch])
        loss = torch.nn.functional.cross_entropy(logits(model, batch), target)
        loss.backward()
        for master, parameter in zip(masters, small, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(small, masters)
        average += 0.02 * (loss.item() - average)
        if step % 50 == 0:
            minutes = (time.time() - begin) / (step + 1) * (len(plan) - step - 1) / 60
            print(
                f"step {step} of {len(plan)}, loss {average:.3f}, {minutes:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
        if step % 250 == 249:
            model.save_pretrained(output)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    held = [row for row in read(data) if held_out(row)]
    right = [held[i]["label"] == LABELS[best] for i, best in enumerate(predict(model, tokenizer, held).argmax(1))]
    print(json.dumps({"held out": len(held), "accuracy": sum(right) / len(right)}))


@torch.inference_mode()
def predict(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return the probabilities of LABELS: (rows, 3)."""
    model.eval()
    found = torch.zeros(len(rows), 3)
    plan = batches(tokenizer, rows, seed=None)
    begin = time.time()
    for step, batch in enumerate(plan):
        found[torch.tensor([i for i, _ in batch])] = logits(model, batch).softmax(1)
        if step % 200 == 0:
            left = (time.time() - begin) / (step + 1) * (len(plan) - step - 1) / 60
            print(f"labels {step} of {len(plan)}, {left:.0f} min left", file=sys.stderr, flush=True)
    return found


def label(source: str, data: list[str], output: Path) -> None:
    """Write every training pair with a soft label; for synthetic pairs, only the teacher's prediction."""
    model, tokenizer = load(source)
    with gzip.open(output.with_suffix(".new"), "wt", encoding="utf-8") as file:
        for path in data:
            rows = [row for row in read(path) if not held_out(row)]
            hard = 0.0 if "synthetic" in Path(path).name else HARD
            for row, soft in zip(rows, predict(model, tokenizer, rows).tolist(), strict=True):
                mixed = {
                    name: round(hard * (name == row["label"]) + (1 - hard) * p, 4)
                    for name, p in zip(LABELS, soft, strict=True)
                }
                kept = {"premise": row["premise"], "hypothesis": row["hypothesis"], "label": mixed}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    output.with_suffix(".new").replace(output)


def main() -> None:
    """Train the teacher, or predict soft labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "label"))
    parser.add_argument("model")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    if given.what == "train":
        train(given.model, given.data[0], given.output)
    else:
        label(given.model, given.data, given.output)


if __name__ == "__main__":
    main()
