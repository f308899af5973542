"""The project's prose is plain English: patterns that make a sentence hard to read stay out."""

from __future__ import annotations

import re

import pytest

from support.places import ROOT

PATTERNS = {
    "a docstring that begins with a vague verb": r'"""(Give|Say|Tell|Let|Ask|Hand)\b',
    "an archaic function word": r"\b(lest|anew|in place of|so many|hang on|errs by)\b",
    "an integer under another name": r"\bwhole numbers?\b",
    "a rate without its unit": r"\b(tokens|texts|steps) a second\b",
}
TEXTS = ["*.md", "*.toml", "docs/**/*.md", "weights/**/*.md", "notebooks/*.ipynb"]
FILES = [
    path
    for glob in [*TEXTS, "minidistil/**/*.py", "tests/**/*.py"]
    for path in sorted(ROOT.glob(glob))
    if path.name != "test_prose.py" and "data" not in path.parts
]
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "index.md"]


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_the_prose_is_free_of(pattern):
    places = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if re.search(pattern, line)
    ]
    assert places == []


def test_the_readme_is_a_front_door():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_first_paragraph_of_a_page_names_its_readers(path):
    title, paragraph = path.read_text(encoding="utf-8").split("\n\n")[:2]
    assert title.startswith("# ")
    assert re.match(r"(For|This (page|reference) is for) ", paragraph)
