"""Generate pairs for zero-shot classification: texts with true and false hypotheses, in many wordings.

    python hypotheses.py CLASSIFY vectors.pt --output pairs.jsonl.gz [--without sst2 trec ...]

CLASSIFY is a folder of labeled texts; vectors.pt is the output of embed.py. There are four kinds of pairs:

1. Labeled texts: one hypothesis with the correct label, others with wrong labels.
2. Excerpts of reviews: soft labels from a logistic regression on the vectors, fitted to the reviews in use.
3. Long reviews, joined from short ones, most of them with the same label.
4. Unlabeled texts: hypotheses that the text is about a phrase. The probability grows with the similarity of their
   vectors.

Data sets given as --without are excluded from all four.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from split import read

ANY = ("This example is {}.", "This text is about {}.", "The topic is {}.", "It is about {}.")
SETS: dict[str, dict[str, Any]] = {  # file, kind of templates, number of wrong hypotheses per text
    "sst2": {"file": "sst2_train", "kind": "film", "wrong": 1},
    "yelp": {"file": "yelp_1000", "kind": "restaurant", "wrong": 1},
    "imdb": {"file": "imdb_1000", "kind": "film", "wrong": 1},
    "trec": {"file": "trec_train", "kind": "question", "wrong": 2},
    "banking77": {"file": "banking77_train", "kind": "request", "wrong": 1},
}
TEMPLATES = {
    "film": ("This review is {}.", "The sentiment is {}.", "This is a {} review.", "The author's opinion is {}."),
    "restaurant": ("This review is {}.", "The sentiment is {}.", "The customer's opinion is {}."),
    "question": ("This question is about a {}.", "The answer is a {}.", "The question asks for a {}."),
    "request": (
        "The customer asks about {}.",
        "This request is about {}.",
        "This question is about {}.",
        "The topic is {}.",
    ),
}
WORDS = {
    "positive": ("positive", "positive", "good", "favorable", "enthusiastic"),
    "negative": ("negative", "negative", "bad", "unfavorable", "disappointed"),
}
OTHER = {"positive": "negative", "negative": "positive"}
MIDDLE, WIDTH = 0.45, 0.08  # cosine at which a phrase is correct with probability 0.5, and width of the sigmoid


def pair(premise: str, hypothesis: str, right: float) -> dict[str, Any]:
    """Return a pair whose hypothesis is correct with probability `right`."""
    label = {"entailment": right, "neutral": 0.3 * (1 - right), "contradiction": 0.7 * (1 - right)}
    return {
        "premise": premise,
        "hypothesis": hypothesis,
        "label": {name: round(share, 4) for name, share in label.items()},
    }


def about(kind: str, label: str, chance: random.Random) -> str:
    """Return a hypothesis with this label, from a random template of this kind."""
    template = chance.choice(TEMPLATES[kind] if chance.random() < 0.8 else ANY[:1])
    return template.format(chance.choice(WORDS.get(label, (label,))))


def labelled(folder: Path, name: str, chance: random.Random) -> list[dict[str, Any]]:
    """Return pairs from one data set of labeled texts."""
    found = SETS[name]
    rows = read(str(folder / f"{found['file']}.jsonl.gz"))
    labels = sorted({row["label"] for row in rows})
    pairs = []
    for row in rows:
        others = [label for label in labels if label != row["label"]]
        for label in [row["label"], *chance.sample(others, min(found["wrong"], len(others)))]:
            pairs.append(pair(row["text"], about(found["kind"], label, chance), float(label == row["label"])))
    return pairs


def opinions(rows: list[dict[str, Any]], vectors: torch.Tensor, chance: random.Random) -> list[dict[str, Any]]:
    """Return pairs from excerpts of reviews, except those with an unclear sentiment."""
    labels = [row["label"] == "positive" for row in rows]
    judge = LogisticRegression(C=0.3, max_iter=500).fit(vectors.numpy(), labels)
    pairs = []
    for row, logit in zip(rows, judge.decision_function(vectors.numpy()).tolist(), strict=True):
        if row["set"] == "sst2":  # its excerpts have labels of their own
            continue
        positive = 1 / (1 + math.exp(-2 * logit - (0.7 if row["label"] == "positive" else -0.7)))
        if abs(positive - 0.5) > 0.15:
            label = chance.choice(("positive", "negative"))
            right = positive if label == "positive" else 1 - positive
            pairs.append(pair(row["text"], about(SETS[row["set"]]["kind"], label, chance), right))
    return pairs


def joined(rows: list[dict[str, Any]], count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Return pairs from 4 to 14 short reviews joined, about one in seven of the opposite label."""
    short = {label: [row["text"] for row in rows if row["label"] == label] for label in OTHER}
    pairs = []
    for label in (*OTHER,) * (count // 2 if rows else 0):
        said = [
            chance.choice(short[OTHER[label] if chance.random() < 1 / 7 else label])
            for _ in range(chance.randint(4, 14))
        ]
        claimed = chance.choice((*OTHER,))
        pairs.append(pair(" ".join(said), about("film", claimed, chance), 0.95 if claimed == label else 0.05))
    return pairs


def topics(
    rows: list[dict[str, Any]],
    vectors: torch.Tensor,
    phrases: list[dict[str, Any]],
    others: torch.Tensor,
    chance: random.Random,
) -> list[dict[str, Any]]:
    """Return pairs of a text with three phrases: one of the 5 nearest, one of the 100 nearest, and any other."""
    pairs = []
    for start in range(0, len(rows), 1000):
        near, places = (vectors[start : start + 1000] @ others.T).sort(1, descending=True)
        for row, cosines, order in zip(rows[start : start + 1000], near, places, strict=True):
            template = chance.choice([*ANY, *TEMPLATES["request"]])
            for ends in ((0, 5), (5, 100), (100, len(phrases))):
                rank = chance.randrange(*ends)
                right = 1 / (1 + math.exp((MIDDLE - cosines[rank].item()) / WIDTH))
                pairs.append(pair(row["text"], template.format(phrases[order[rank]]["text"]), right))
    return pairs


def main() -> None:
    """Write all pairs. Training shuffles them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("vectors")
    parser.add_argument("--output", required=True)
    parser.add_argument("--without", nargs="*", choices=list(SETS), default=[])
    parser.add_argument("--topics", type=int, default=9000, help="texts to make pairs of the fourth kind from")
    parser.add_argument("--joined", type=int, default=2400, help="pairs of the third kind")
    given = parser.parse_args()
    chance = random.Random(0)
    found = torch.load(given.vectors)
    kept = {
        name: [i for i, row in enumerate(part["rows"]) if row.get("set") not in given.without]
        for name, part in found.items()
    }
    rows = {name: [found[name]["rows"][i] for i in places] for name, places in kept.items()}
    vectors = {name: found[name]["vectors"][places].float() for name, places in kept.items()}
    chosen = chance.sample(range(len(rows["texts"])), given.topics)
    parts = {name: labelled(given.folder, name, chance) for name in SETS if name not in given.without}
    parts["opinions"] = opinions(rows["reviews"], vectors["reviews"], chance)
    parts["joined"] = joined([row for row in rows["reviews"] if row["set"] == "sst2"], given.joined, chance)
    parts["topics"] = topics(
        [rows["texts"][i] for i in chosen], vectors["texts"][chosen], rows["phrases"], vectors["phrases"], chance
    )
    with gzip.open(given.output, "wt", encoding="utf-8") as file:
        for part in parts.values():
            file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in part)
    print({name: len(part) for name, part in parts.items()}, sum(map(len, parts.values())))


if __name__ == "__main__":
    main()
