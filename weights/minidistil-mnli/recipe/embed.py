"""Embed texts, phrases and excerpts of reviews with a sentence embedder, as input of hypotheses.py.

    python embed.py MPNET CLASSIFY train.jsonl.gz --output vectors.pt

MPNET is the folder of all-mpnet-base-v2, CLASSIFY a folder of labeled texts. Each text in the output has its data
set ("nli" for a text from the pairs), its label if it is from a review, and its vector. Requires transformers.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from split import held_out, read

REVIEWS = {"sst2": "sst2_train", "yelp": "yelp_1000", "imdb": "imdb_1000"}
ROWS = 64
COMMON = """
a about after all also although always am an and another any are as at away back be because been
before being both but by came can come could did do does doing done down each even ever every few
first for from get gets give go goes going gone got had has have having he her here him his how i if
in into is it its just know less like made make makes many may me might more most much must my never
no not nothing now of off on once one only or other our out over own people person put really said
same saw say says see she should since so some someone something still such take than that the their
them then there these they thing things think this those through time to too took two under until up
us use used very want wants was way we well went were what when where which while who whole why will
with without would yes you your man woman men women
"""
STOP = frozenset(COMMON.split())


def bits(text: str, chance: random.Random) -> list[str]:
    """Split a review into excerpts of one to three sentences."""
    text = text.replace("\\n", " ").replace('\\"', " ")
    sentences = [s.strip() for s in re.split(r"(?<=[.!?]) +(?=[^.!?])", text) if len(s.split()) >= 3]
    found = []
    while sentences:
        count = chance.choice((1, 1, 2, 3))
        found.append(" ".join(" ".join(sentences[:count]).split()[:60]))
        sentences = sentences[count:]
    return found


def phrase(text: str, chance: random.Random) -> str | None:
    """Return one to five consecutive words, between content words; half the time only the content words."""
    words = re.findall(r"[a-z]+(?:['-][a-z]+)*|[^\w\s]", text.lower())
    said = [i for i, word in enumerate(words) if word not in STOP and len(word) > 2]
    if not said:
        return None
    first = chance.choice(said)
    length = chance.choice((1, 2, 3, 4, 5))
    last = max(i for i in said if first <= i < first + length)
    run = words[first : last + 1]
    if not all(word[0].isalpha() for word in run):
        return None
    return " ".join(run if chance.random() < 0.5 else [word for word in run if word not in STOP])


@torch.inference_mode()
def embed(folder: str, texts: list[str]) -> torch.Tensor:
    """Return normalized mean-pooled vectors: (n, D)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = tokenizer(texts, max_length=128, truncation=True)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found, begin = torch.zeros(len(ids), model.config.hidden_size), time.time()
    for step, start in enumerate(range(0, len(order), ROWS)):
        batch = order[start : start + ROWS]
        longest = -(-max(len(ids[i]) for i in batch) // 8) * 8  # a new shape costs a compilation
        pad = tokenizer.pad_token_id
        padded = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in batch])
        mask = (padded != pad).long()
        states = model(input_ids=padded, attention_mask=mask).last_hidden_state.float()
        means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found[torch.tensor(batch)] = torch.nn.functional.normalize(means, dim=1)
        if step % 100 == 0:
            print(f"{start} of {len(ids)}, {time.time() - begin:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Choose the texts and save their vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("data")
    parser.add_argument("--output", required=True)
    parser.add_argument("--texts", type=int, default=12000, help="number of texts from the pairs")
    parser.add_argument("--phrases", type=int, default=20000)
    given = parser.parse_args()
    chance = random.Random(0)
    pairs = [row for row in read(given.data) if not held_out(row)]
    known = sorted({row[side] for row in pairs for side in ("premise", "hypothesis")})
    known = [text for text in known if 4 <= len(text.split()) <= 30]
    chance.shuffle(known)
    asked = [text for text in known if text.rstrip().endswith("?")][: given.texts // 3]
    told = [text for text in known if not text.rstrip().endswith("?")][: given.texts - len(asked)]
    texts: list[dict[str, Any]] = [{"set": "nli", "text": text} for text in asked + told]
    texts += [{"set": "trec", "text": row["text"]} for row in read(str(given.folder / "trec_train.jsonl.gz"))]
    phrases = [phrase(text, chance) for text in asked * 2 + known[: given.phrases * 2]]
    phrases = sorted({found for found in phrases if found})
    chance.shuffle(phrases)
    reviews = [
        {"set": name, "text": bit, "label": row["label"], "review": place}
        for name, file in REVIEWS.items()
        for place, row in enumerate(read(str(given.folder / f"{file}.jsonl.gz")))
        for bit in ([row["text"]] if name == "sst2" else bits(row["text"], chance))
    ]
    found = {"texts": texts, "reviews": reviews, "phrases": [{"text": p} for p in phrases[: given.phrases]]}
    print({name: len(rows) for name, rows in found.items()}, "questions", len(asked), flush=True)
    vectors = {name: embed(given.embedder, [row["text"] for row in rows]).half() for name, rows in found.items()}
    torch.save({name: {"rows": rows, "vectors": vectors[name]} for name, rows in found.items()}, given.output)


if __name__ == "__main__":
    main()
