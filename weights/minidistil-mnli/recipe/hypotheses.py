"""Pairs for zero-shot classification: texts with hypotheses about them, true and wrong, in many words.

    python hypotheses.py CLASSIFY train.jsonl.gz --output pairs.jsonl.gz [--without sst2 trec ...]

CLASSIFY is a folder of labelled texts. Two kinds of pairs are made. From each labelled text: a hypothesis with
its label, and others with wrong ones. From entailed NLI pairs: a phrase out of the hypothesis says what the
premise is about, and a phrase out of another hypothesis does not; nobody labelled these. A set that is left out
gives nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

from split import held_out, read

WRONG = {"entailment": 0.0, "neutral": 0.3, "contradiction": 0.7}
RIGHT = {"entailment": 1.0}
ANY = ("This example is {}.", "This text is about {}.", "The topic is {}.", "It is about {}.")
SETS: dict[str, dict[str, Any]] = {  # file, templates, wrong hypotheses for each text, words for a label
    "sst2": {"file": "sst2_train", "kind": "film", "wrong": 1},
    "yelp": {"file": "yelp_1000", "kind": "restaurant", "wrong": 1},
    "imdb": {"file": "imdb_1000", "kind": "film", "wrong": 1},
    "trec": {"file": "trec_train", "kind": "question", "wrong": 2},
    "banking77": {"file": "banking77_train", "kind": "request", "wrong": 2},
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


def labelled(folder: Path, name: str, chance: random.Random) -> list[dict[str, Any]]:
    """Pairs from one set of labelled texts."""
    found = SETS[name]
    rows = read(str(folder / f"{found['file']}.jsonl.gz"))
    labels = sorted({row["label"] for row in rows})
    pairs = []
    for row in rows:
        others = [label for label in labels if label != row["label"]]
        for label in [row["label"], *chance.sample(others, min(found["wrong"], len(others)))]:
            template = chance.choice(TEMPLATES[found["kind"]] if chance.random() < 0.8 else ANY[:1])
            word = chance.choice(WORDS.get(label, (label,)))
            pairs.append(
                {
                    "premise": row["text"],
                    "hypothesis": template.format(word),
                    "label": RIGHT if label == row["label"] else WRONG,
                }
            )
    return pairs


def phrases(text: str) -> list[str]:
    """The runs of one to three words between stop words."""
    runs: list[list[str]] = [[]]
    for word in re.findall(r"[a-z]+(?:-[a-z]+)*|\S", text.lower()):
        if word in STOP or not word[0].isalpha() or len(word) < 3:
            runs.append([])
        else:
            runs[-1].append(word)
    return [" ".join(run[-3:]) for run in runs if run]


def about(rows: list[dict[str, Any]], count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Pairs of a premise and what it is, or is not, about: a phrase from anywhere, or one that shares a word."""
    entailed = [row for row in rows if row["label"] == "entailment" and phrases(row["hypothesis"])]
    known: dict[str, list[str]] = {}
    for row in entailed:
        for phrase in phrases(row["hypothesis"]):
            for word in phrase.split():
                known.setdefault(word, []).append(phrase)
    pairs = []
    for row in chance.sample(entailed, count):
        template = chance.choice([*ANY, *TEMPLATES["request"]])
        right = chance.choice(phrases(row["hypothesis"]))
        read_ = set(re.findall(r"[a-z]+", f"{row['premise']} {row['hypothesis']}".lower()))
        anywhere = chance.choice(phrases(chance.choice(entailed)["hypothesis"]))
        near = chance.choice(known[chance.choice(right.split())])
        pairs.append({"premise": row["premise"], "hypothesis": template.format(right), "label": RIGHT})
        for wrong, most in ((anywhere, 0), (near, len(near.split()) - 1)):
            if len(read_ & set(wrong.split())) <= most:
                pairs.append({"premise": row["premise"], "hypothesis": template.format(wrong), "label": WRONG})
    return pairs


def main() -> None:
    """Write them all, in an order that does not matter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data")
    parser.add_argument("--output", required=True)
    parser.add_argument("--without", nargs="*", choices=list(SETS), default=[])
    parser.add_argument("--about", type=int, default=10000, help="premises to make pairs of the second kind from")
    given = parser.parse_args()
    chance = random.Random(0)
    rows = [row for row in read(given.data) if not held_out(row)]
    pairs = about(rows, given.about, chance)
    for name in SETS:
        if name not in given.without:
            pairs += labelled(given.folder, name, chance)
    with gzip.open(given.output, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    print(f"{len(pairs)} pairs")


if __name__ == "__main__":
    main()
