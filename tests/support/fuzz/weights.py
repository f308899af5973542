"""Damage to files of weights: safetensors, pickles and zip files, and parts of them."""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from support.fuzz.checkpoints import pickled
from support.fuzz.damage import Damage, flip
from support.fuzz.tables import KEYS, PICKLED_CLASSES, PICKLED_NUMBERS, PICKLED_STRINGS


def layout(rng: random.Random, content: bytes) -> bytes:
    """Change shapes, dtypes and offsets in a safetensors header, which stays valid JSON."""
    tree = json.loads(content)
    names = [name for name in tree if name != "__metadata__"]
    a, b = (tree[name] for name in rng.sample(names, 2))
    start, end = a["data_offsets"]
    size = end - start
    how = rng.randrange(9)
    if how == 0:
        a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]
    elif how == 1:
        a["data_offsets"] = b["data_offsets"]
    elif how == 2:
        shift = rng.choice((-4, 1, 4, size))
        a["data_offsets"] = [start + shift, end + shift]
    elif how == 3:
        a["dtype"] = rng.choice(
            ("BOOL", "I8", "F8_E4M3", "F8_E5M2", "F4", "F16", "BF16", "I32", "F64", "U64", "C64")
        )
    elif how == 4:
        a["dtype"], a["shape"] = rng.choice(
            [
                ("I32", a["shape"]),
                ("U32", a["shape"]),
                ("F64", [size // 8]),
                ("F16", [size // 2]),
                ("C64", [size // 8]),
            ]
        )
    elif how == 5:
        a["shape"] = rng.choice(([size // 4], [1, *a["shape"]], a["shape"][::-1], [2, size // 8], [size // 4, 1]))
    elif how == 6:
        a["shape"] = rng.choice(([], [0], [0, 2**63], [2**32, 2**32], [2**62, 4], [1] * 70, [1] * 1000, [-4, -4]))
    elif how == 7:
        tree[rng.choice(KEYS)] = {"dtype": "F32", "shape": [0], "data_offsets": [start, start]}
    else:
        a["shape"], a["data_offsets"] = [0, 16], [start, start]
    return json.dumps(tree).encode()


def _opcodes(content: bytes) -> Iterator[tuple[int, int, str, Any]]:
    """Yield the opcodes of the pickles at the start of a file: (start, end, name, argument)."""
    stream = io.BytesIO(content)
    for _ in range(5):  # the legacy format has up to five, a zip file one
        if content[stream.tell() : stream.tell() + 1] != b"\x80":
            return
        codes = list(pickletools.genops(stream))
        ends = [place for _, _, place in codes[1:]] + [stream.tell()]
        yield from ((place, end, code.name, arg) for (code, arg, place), end in zip(codes, ends, strict=True))


def pickled_numbers(rng: random.Random, content: bytes) -> bytes:
    """Replace an integer of a pickle: a size, a stride, an offset or a flag."""
    places = [(start, end) for start, end, name, _ in _opcodes(content) if "INT" in name and "PUT" not in name]
    start, end = rng.choice(places)
    value = rng.choice(PICKLED_NUMBERS)
    return content[:start] + pickle.dumps(value, 2)[2:-1] + content[end:]


def pickled_strings(rng: random.Random, content: bytes) -> bytes:
    """Replace a string or a class of a pickle: a name, a key or a type of storage."""
    places = [(start, end, name) for start, end, name, _ in _opcodes(content) if name in ("BINUNICODE", "GLOBAL")]
    start, end, name = rng.choice(places)
    if name == "GLOBAL":
        return (
            content[:start]
            + b"c"
            + rng.choice(PICKLED_CLASSES).replace(" ", "\n").encode()
            + b"\n"
            + content[end:]
        )
    return content[:start] + pickle.dumps(rng.choice(PICKLED_STRINGS), 2)[2:].split(b"q\x00")[0] + content[end:]


def opcodes(rng: random.Random, content: bytes) -> bytes:
    """Delete, duplicate or replace an opcode of a pickle."""
    start, end, _, _ = rng.choice(list(_opcodes(content)))
    new = rng.choice(
        (b"", content[start:end] * 2, b".", b"N", b"]", b"}", b")", b"(", b"t", b"R", b"Q", b"b", b"0", b"u")
    )
    return content[:start] + new + content[end:]


def nested_keys(rng: random.Random, content: bytes) -> bytes:
    """Replace a string of a pickle, which may be a key, by nested tuples."""
    places = [(start, end) for start, end, name, _ in _opcodes(content) if name == "BINUNICODE"]
    start, end = rng.choice(places)
    return content[:start] + b")" + b"\x85" * rng.choice((0, 1, 100, 900, 5000)) + content[end:]


PICKLE: dict[str, Damage] = {
    "nested keys": nested_keys,
    "pickled numbers": pickled_numbers,
    "pickled strings": pickled_strings,
    "opcodes": opcodes,
}


def odd_tensors(rng: random.Random, content: bytes) -> bytes:
    """Replace a tensor by another kind of tensor or object that torch.save supports."""
    import torch

    tensors = torch.load(io.BytesIO(content), weights_only=True)
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    kinds: list[Callable[[], Any]] = [
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.clone().requires_grad_(),
        lambda: torch.ones(1).expand(tensor.shape),
        lambda: tensor.new_zeros(1).as_strided(tensor.shape, [0] * tensor.ndim),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.to(torch.complex64),
        lambda: torch._neg_view(tensor.clone()),
        lambda: tensor.half(),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.int(),
        lambda: tensor.flatten(),
        lambda: tensor.T if tensor.ndim == 2 else tensor[:1],
        lambda: torch.full_like(tensor, rng.choice((math.nan, math.inf, 3e38, 0.0))),
        lambda: torch.tensor(1.0),
        lambda: torch.empty(0),
        lambda: torch.nested.nested_tensor([tensor, tensor]),
        lambda: torch.zeros(1, 1).to_sparse_csr(),
        lambda: tensor.untyped_storage(),
        lambda: tensor.tolist(),
        lambda: {"a": tensor},
        lambda: None,
        lambda: name,
        lambda: tensor.numpy(),
        lambda: torch.zeros(tensor.shape, dtype=torch.uint16),
        lambda: tensor.to_mkldnn(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about experimental kinds of tensors
        value = rng.choice(kinds)()
        place = rng.choice((name, name, name, name, name, "extra", ("a", 1), None, 5, b"a"))
        if rng.random() < 0.1:
            tensors = rng.choice(([value], value, {"state_dict": tensors}, {}, {name: value}))
        else:
            tensors[place] = value
        try:
            return pickled(tensors, "zip" if content[:2] == b"PK" else "legacy")
        except (RuntimeError, NotImplementedError, TypeError):  # the legacy format does not support every kind
            return flip(rng, content)


def records(rng: random.Random, content: bytes) -> bytes:
    """Delete, empty, swap, rename, cut or compress records of a zip file."""
    old = zipfile.ZipFile(io.BytesIO(content))
    parts = {name: old.read(name) for name in old.namelist()}
    a, b = rng.sample(list(parts), 2)
    how = rng.randrange(7)
    if how == 0:
        del parts[a]
    elif how == 1:
        parts[a] = b""
    elif how == 2:
        parts[a], parts[b] = parts[b], parts[a]
    elif how == 3:
        parts[rng.choice((a.upper(), f"../{a}", a.split("/", 1)[1], "x" * 1000))] = parts.pop(a)
    elif how == 4:
        parts[a] = parts[a][: len(parts[a]) // 2]
    elif how == 5:
        byteorder = next(name for name in parts if name.endswith("byteorder"))
        parts[byteorder] = rng.choice((b"big", b"", b"odd", b"\xff", b"little\n"))
    return zipped(parts, zipfile.ZIP_DEFLATED if how == 6 else zipfile.ZIP_STORED)


def zipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name, part in parts.items():
            new.writestr(zipfile.ZipInfo(name), part, compression)  # with a constant time
    return file.getvalue()


def all_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    return change(content)


def length_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Change the length of a safetensors header."""
    return change(content[:8]) + content[8:]


def header_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Change a safetensors header, and in most cases its length too."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = change(content[8:end])
    length = struct.pack("<Q", len(header)) if rng.random() < 0.8 else content[:8]
    return length + header + content[end:]


def body_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Change the tensors of a safetensors file."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return content[:end] + change(content[end:])


def pickle_of(content: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Change the pickle in a zip file."""
    old = zipfile.ZipFile(io.BytesIO(content))
    parts = {name: old.read(name) for name in old.namelist()}
    return zipped({name: change(part) if name.endswith("data.pkl") else part for name, part in parts.items()})


def length(rng: random.Random, content: bytes) -> bytes:
    (value,) = struct.unpack("<Q", content)
    others = (
        0,
        1,
        2,
        value - 1,
        value + 1,
        value + 8,
        10**8,
        10**8 + 1,
        2**31,
        2**32,
        2**63,
        2**64 - 1,
        2**64 - 8,
    )
    return struct.pack("<Q", rng.choice(others))
