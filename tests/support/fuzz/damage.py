"""Damage to any bytes, to JSON, and to the files of a tokenizer."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from support.fuzz.tables import COMPONENTS, KEYS, NESTED, NUMBERS, STRINGS, VOCABULARY_LINES

Damage = Callable[[random.Random, bytes], bytes]


def _place(rng: random.Random, content: bytes) -> int:
    return rng.randrange(len(content)) if content else 0


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = _place(rng, content)
    return start, min(len(content), start + rng.choice((1, 2, 8, 64, 1000)))


def flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 16)) if content else 0):
        changed[_place(rng, content)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    new = rng.choice((bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)))
    return content[:start] + new + content[end:]


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.choice((_place(rng, content), max(0, len(content) - rng.randrange(1, 9))))]


def insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.choice((0, _place(rng, content), len(content)))
    new = rng.choice(
        (rng.randbytes(rng.choice((1, 8, 100))), bytes(8), b"\xef\xbb\xbf", b" \n", b"\xff", b"}", b'"')
    )
    return content[:at] + new + content[at:]


def delete(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def duplicate(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 50)) + content[end:]


def swap(rng: random.Random, content: bytes) -> bytes:
    size = rng.choice((1, 8, 64, 500))
    size = min(size, len(content) // 2)
    first = rng.randrange(len(content) - 2 * size + 1)
    second = rng.randrange(first + size, len(content) - size + 1)
    a, b = content[first : first + size], content[second : second + size]
    return content[:first] + b + content[first + size : second] + a + content[second + size :]


BYTES: dict[str, Damage] = {
    function.__name__: function for function in (flip, overwrite, truncate, insert, delete, duplicate, swap)
}


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a tree of JSON: (its container, its key or index)."""
    if isinstance(value, dict | list):
        for key, below in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _nodes(below)


def _pick_node(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """Pick a place, in a random container, so that long lists are not preferred."""
    nodes = list(_nodes(tree))
    groups = [list(group) for _, group in itertools.groupby(nodes, key=lambda node: id(node[0]))]
    return rng.choice(rng.choice([nodes, *groups]))


def _with_literal(tree: Any, container: Any, key: Any, literal: str) -> bytes:
    """Return the tree as text, with any literal at one place, valid JSON or not."""
    container[key] = "\x00here"
    return json.dumps(tree).replace('"\\u0000here"', literal, 1).encode()


def _replaced(literals: list[str]) -> Damage:
    def replace(rng: random.Random, content: bytes) -> bytes:
        tree = json.loads(content)
        return _with_literal(tree, *_pick_node(rng, tree), rng.choice(literals))

    return replace


def numbers(rng: random.Random, content: bytes) -> bytes:
    """Replace a number."""
    tree = json.loads(content)
    places = [(c, k) for c, k in _nodes(tree) if isinstance(c[k], int | float) and not isinstance(c[k], bool)]
    return _with_literal(tree, *rng.choice(places or list(_nodes(tree))), rng.choice(NUMBERS))


def keys(rng: random.Random, content: bytes) -> bytes:
    """Rename, delete, add or duplicate a key."""
    tree = json.loads(content)
    container, key = _pick_node(rng, tree)
    how = rng.randrange(4)
    new = rng.choice(KEYS)
    if not isinstance(container, dict) or how == 0:
        del container[key]
    elif how == 1:
        container[new] = container.pop(key)
    elif how == 2:
        return _with_literal(tree, container, new, rng.choice(NUMBERS + STRINGS + NESTED))
    else:
        container["\x00again"] = json.loads(rng.choice(STRINGS))
        return json.dumps(tree).replace('"\\u0000again"', json.dumps(key), 1).encode()
    return json.dumps(tree).encode()


def exchange(rng: random.Random, content: bytes) -> bytes:
    """Swap two values, or nest one in the other or in a list."""
    tree = json.loads(content)
    (a, i), (b, j) = _pick_node(rng, tree), _pick_node(rng, tree)
    x, y = copy.deepcopy(a[i]), copy.deepcopy(b[j])
    if rng.random() < 0.5:
        b[j] = x
        if j in (b if isinstance(b, dict) else range(len(b))) and i in (
            a if isinstance(a, dict) else range(len(a))
        ):
            a[i] = y
    else:
        a[i] = rng.choice(([x], {"content": x}, [x, y], str(x)))
    return json.dumps(tree).encode()


JSON: dict[str, Damage] = {
    "numbers": numbers,
    "unusual numbers": _replaced(NUMBERS),
    "strings": _replaced(STRINGS),
    "nested": _replaced(["null", "true", "false", *NESTED]),
    "keys": keys,
    "exchange": exchange,
}


def components(rng: random.Random, content: bytes) -> bytes:
    """Replace parts of a tokenizer by others that the library may support."""
    tree = json.loads(content)
    for part in rng.sample(sorted(COMPONENTS), rng.choice((1, 1, 2))):
        tree[part] = rng.choice(COMPONENTS[part])
    return json.dumps(tree).encode()


def ids(rng: random.Random, content: bytes) -> bytes:
    """Change ids or tokens of a vocabulary."""
    tree = json.loads(content)
    vocabulary = tree["model"]["vocab"]
    piece = rng.choice(list(vocabulary))
    how = rng.randrange(5)
    if how == 0:
        vocabulary[piece] = int(rng.choice(("0", "1", "60", "61", "1000", "4294967295", "4294967296", "-1")))
    elif how == 1:
        del vocabulary[rng.choice(("[UNK]", "[CLS]", "[SEP]", "[PAD]", piece))]
    elif how == 2:
        vocabulary[rng.choice(("", " ", "##", "x" * 10_000, "\u0000", "\ud800"))] = vocabulary.pop(piece)
    elif how == 3:
        token = rng.choice(tree["added_tokens"])
        token["id"] = rng.choice((0, 5, 59, 60, 61, 4294967295))
    else:
        order = list(vocabulary.values())
        rng.shuffle(order)
        tree["model"]["vocab"] = dict(zip(vocabulary, order, strict=True))
    return json.dumps(tree).encode()


def lines(rng: random.Random, content: bytes) -> bytes:
    """Delete, duplicate, shuffle or replace lines."""
    rows = content.split(b"\n")
    at = rng.randrange(len(rows))
    how = rng.randrange(6)
    if how == 0:
        del rows[at : at + rng.choice((1, 1, 50))]
    elif how == 1:
        rows[at:at] = [rows[rng.randrange(len(rows))]] * rng.choice((1, 2, 1000))
    elif how == 2:
        rng.shuffle(rows)
    elif how == 3:
        rows[at] = rng.choice(VOCABULARY_LINES)
    elif how == 4:
        del rows[rows.index(rng.choice((b"[UNK]", b"[CLS]", b"[SEP]", b"[PAD]", b"[MASK]")))]
    else:
        return rng.choice((b"\r\n", b"\r", b"\n\n", b" \n", b" ")).join(rows)
    return b"\n".join(rows)


def line_ends(rng: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b" \n", "\u2028".encode())))
