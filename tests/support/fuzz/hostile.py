"""Files that were written to exhaust time or memory, or to crash a parser, by the kind of file."""

from __future__ import annotations

import functools
import json
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.fuzz.checkpoints import Content, intact
from support.fuzz.weights import zipped

SAME_HASH = 2**61 - 1  # multiples of this integer have the hash 0
Change = Callable[[bytes], bytes | Content]  # the file's content -> the new content, or several files

# PyTorch files

PROTO, STOP, MARK = b"\x80\x02", b".", b"("
FLOATS, TENSOR = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"


def text(value: str) -> bytes:
    """Return the opcode of a string."""
    encoded = value.encode(errors="surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """Return the opcode of an integer."""
    return pickle.dumps(value, 2)[2:-1]


def items(*values: int) -> bytes:
    """Return the opcodes of a tuple of integers."""
    return MARK + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", elements: int = 4, kind: bytes = FLOATS, rest: bytes = b"") -> bytes:
    """Return the opcodes of a reference to a storage."""
    parts = text("storage") + kind + text(key) + text("cpu") + number(elements) + rest
    return MARK + parts + b"tQ"


def tensor(
    size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00", source: bytes = storage()
) -> bytes:
    """Return the opcodes of a tensor."""
    return TENSOR + MARK + source + offset + size + stride + b"\x89" + ORDERED + b")Rt" + b"R"


def state(*values: bytes, names: list[str] | None = None) -> bytes:
    """Return the opcodes of a dict of objects."""
    pairs = zip(names or (f"w{i}" for i in range(len(values))), values, strict=True)
    return b"}" + MARK + b"".join(text(name) + value for name, value in pairs) + b"u"


def archive(opcodes: bytes, records: Content | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file of torch.save with this pickle."""
    named = {"data/0": bytes(16)} if records is None else records
    parts = {"archive/data.pkl": PROTO + opcodes + STOP, **{f"archive/{k}": v for k, v in named.items()}}
    return zipped(parts, compression)


def overlapping(content: bytes) -> bytes:
    """Return the archive with every entry of its directory replaced by the first one."""
    end = content.rindex(b"PK\x05\x06")
    (start,) = struct.unpack("<I", content[end + 16 : end + 20])
    first = content[start : content.index(b"PK\x01\x02", start + 4)]
    count = 2000
    directory = b"".join(first.replace(b"archive/data.pkl", b"archive/%08d" % i, 1) for i in range(count))
    sizes = struct.pack("<HHII", count, count, len(directory), start)
    return content[:start] + directory + content[end : end + 8] + sizes + content[end + 20 :]


def many_entries(content: bytes) -> bytes:
    """Return an archive with a directory of a million entries."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    directory = entry * 1_000_000
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, len(directory), 4, 0)
    return b"PK\x03\x04" + directory + end


def torch_1_5(*pickles: bytes, data: bytes = b"") -> bytes:
    """Return a file in the format before torch 1.6, with other pickles after its first three."""
    first = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(value, 2) for value in first) + b"".join(pickles) + data


def as_pickle(opcodes: bytes) -> bytes:
    return PROTO + opcodes + STOP


KEYS = as_pickle(b"]" + text("0") + b"a")
ONE = struct.pack("<q", 4) + bytes(16)
DOUBLED = b")" + b"".join(b"q\x00h\x00\x86" for _ in range(40))
BIN: dict[str, bytes] = {
    "keys with the same hash": archive(
        b"}" + MARK + b"".join(number(SAME_HASH * i) + b"N" for i in range(1, 10_000)) + b"u"
    ),
    "keys of an OrderedDict with the same hash": archive(
        ORDERED + b"]" + MARK + b"".join(number(SAME_HASH * i) + b"N\x86" for i in range(1, 10_000)) + b"e\x85R"
    ),
    "nested tuples as a key": archive(b"})" + b"\x85" * 1_000_000 + text("v") + b"s"),
    "doubled tuples as a key": archive(b"}" + DOUBLED + text("v") + b"s"),
    "doubled tuples as a name": archive(DOUBLED),
    "a dict as a key": archive(b"}}" + text("v") + b"s"),
    "a bytearray of 2 GB": archive(b"cbuiltins\nbytearray\n" + number(2**31) + b"\x85R"),
    "a global of 2 MB": archive(b"ctorch\n" + b"x" * 2_000_000 + b"\n"),
    "a million lists in lists": archive(b"]" * 1_000_000 + b"a" * 999_999),
    "99,000 lists in lists": archive(b"]" * 49_500 + b"a" * 49_499),
    "99,000 tuples in tuples": archive(b")" + b"\x85" * 99_000),
    "a list in itself": archive(b"]q\x00h\x00a"),
    "a dict in itself": archive(b"}q\x00" + text("a") + b"h\x00s"),
    "integers of 255 bytes": archive(b"]" + MARK + (b"\x8a\xff" + b"\x7f" * 255) * 5000 + b"e"),
    "an integer of 2 MB": archive(b"\x8b" + struct.pack("<i", 2_000_000) + b"\x7f" * 2_000_000),
    "a decimal integer of 2 MB": archive(b"I" + b"9" * 2_000_000 + b"\n"),
    "a decimal long of 2 MB": archive(b"L" + b"9" * 2_000_000 + b"L\n"),
    "a string of 4 GB": archive(b"X\xff\xff\xff\xff"),
    "a string of 2**63 bytes": archive(b"\x8d" + b"\xff" * 7 + b"\x7f"),
    "bytes of 2**63 bytes": archive(b"\x8e" + b"\xff" * 7 + b"\x7f"),
    "a bytearray of 2**63 bytes": archive(b"\x96" + b"\xff" * 7 + b"\x7f"),
    "a frame of 2**63 bytes": archive(b"\x95" + b"\xff" * 7 + b"\x7f"),
    "a negative length": archive(b"T\xff\xff\xff\xff"),
    "an escaped string": archive(b"S'" + b"\\x41" * 400_000 + b"'\n"),
    "a Unicode string of protocol 0": archive(b"V" + b"\\u0041" * 300_000 + b"\n"),
    "a memo of 2**32": archive(b"]r\xff\xff\xff\xffj\xff\xff\xff\xff"),
    "a negative memo": archive(b"]p-1\ng-1\n"),
    "an extension registry": archive(b"\x82\x01"),
    "an out-of-band buffer": archive(b"\x97"),
    "an instance of protocol 1": archive(MARK + b"iposix\nsystem\n"),
    "an object of protocol 1": archive(MARK + b"cposix\nsystem\n" + b"o"),
    "NEWOBJ": archive(ORDERED + b")\x81"),
    "a stack global": archive(text("posix") + text("system") + b"\x93"),
    "a global of a submodule": archive(b"ctorch.serialization\nos.system\n"),
    "a global with spaces": archive(b"ctorch FloatStorage\nx\n"),
    "a text reference to a storage": archive(b"P0\n"),
    "a reference that is a list": archive(b"]Q"),
    "a reference that is a storage": archive(storage() + b"Q"),
    "a reference with a tuple as its key": archive(
        MARK + text("storage") + FLOATS + DOUBLED + text("cpu") + number(4) + b"tQ"
    ),
    "a state of a list": archive(b"]}b"),
    "a state of a tensor": archive(tensor() + b"}b"),
    "items of a list": archive(b"]" + MARK + text("a") + text("b") + b"u"),
    "appending to a dict": archive(b"}" + text("a") + b"a"),
    "appending to a tuple": archive(b")" + text("a") + b"a"),
    "an odd number of items": archive(b"}" + MARK + text("a") + b"u"),
    "an empty stack": archive(b"a"),
    "a mark that is missing": archive(b"}u"),
    "nothing": archive(b""),
    "calling a dtype": archive(FLOATS + number(2**31) + b"\x85R"),
    "calling a tuple": archive(DOUBLED + b")R"),
    "calling with a list": archive(ORDERED + b"]R"),
    "a parameter of a list": archive(PARAMETER + b"]\x88}\x87R"),
    "an OrderedDict of doubled tuples": archive(ORDERED + b"]" + DOUBLED + b"a\x85R"),
    "an OrderedDict copied 10,000 times": archive(
        ORDERED + b"q\x00]" + MARK + (text("a") + text("b") + b"\x86") * 10_000 + b"e\x85q\x010"
        + b"h\x00h\x01R" * 10_000
    ),
    "the same large OrderedDict 10,000 times": archive(
        ORDERED + b"q\x00]" + MARK + (text("a") + text("b") + b"\x86q\x02" + b"h\x02" * 1000) * 9 + b"e\x85q\x01"
        + b"h\x00h\x01R" * 10_000
    ),
    "a tensor expanded to 2**32 elements": archive(state(tensor(items(2**28 - 1, 16), items(0, 0)))),
    "a tensor of 2**64 elements": archive(state(tensor(items(2**32, 2**32), items(0, 0)))),
    "a tensor of 2**2000 elements": archive(state(tensor(number(2**2000) + b"\x85", number(0) + b"\x85"))),
    "a negative size": archive(state(tensor(items(-4)))),
    "two negative sizes": archive(state(tensor(items(-2, -2), items(1, 1)))),
    "a negative stride": archive(state(tensor(stride=items(-1)))),
    "a negative offset": archive(state(tensor(offset=number(-1)))),
    "an offset beyond the end": archive(state(tensor(items(1), offset=number(4)))),
    "a stride beyond the end": archive(state(tensor(items(2), items(2**62)))),
    "a stride of 2**64": archive(state(tensor(items(1), number(2**64) + b"\x85"))),
    "an offset of 2**64 of an empty tensor": archive(state(tensor(items(0), offset=number(2**64)))),
    "10,000 dimensions": archive(state(tensor(items(*[1] * 10_000), items(*[1] * 10_000)))),
    "10,000 tensors of 10,000 dimensions": archive(
        items(*[1] * 10_000) + b"q\x05" + storage() + b"q\x06"
        + (TENSOR + MARK + b"h\x06K\x00h\x05h\x05\x89}tR") * 10_000
    ),
    "more strides than sizes": archive(state(tensor(items(4), items(1, 1)))),
    "sizes that are strings": archive(state(tensor(text("4") + b"\x85"))),
    "sizes that are booleans": archive(state(tensor(b"\x88\x85"))),
    "sizes that are floats": archive(state(tensor(b"G" + struct.pack(">d", 4.0) + b"\x85"))),
    "a storage of -1 elements": archive(state(tensor(items(0), source=storage(elements=-1)))),
    "a storage of 2**62 elements": archive(state(tensor(source=storage(elements=2**62)))),
    "a storage without a record": archive(state(tensor(source=storage("1")))),
    "a storage outside of the folder": archive(state(tensor(source=storage("../data.pkl")))),
    "a storage of two dtypes": archive(
        state(tensor(), tensor(source=storage(kind=b"ctorch\nDoubleStorage\n")))
    ),
    "a storage with the name of the pickle": archive(state(tensor(source=storage("data.pkl"))), {}),
    "a storage that is a view": archive(state(tensor(source=storage(rest=items(0, 4))))),
    "a thousand names of one storage": archive(state(*[tensor()] * 1000)),
    "a thousand names of nothing": archive(state(*[tensor(items(0))] * 1000)),
    "a name with a lone surrogate": archive(state(tensor(), names=["\ud800"])),
    "a name of 1 MB": archive(state(tensor(), names=["x" * 1_000_000])),
    "a name of 1 MB of prefixes": archive(state(tensor(), names=["module." * 140_000])),
    "a dict in the state": archive(state(b"}")),
    "compressed zeros": archive(state(tensor(items(2**28))), {"data/0": bytes(2**27)}, zipfile.ZIP_DEFLATED),
    "compressed with bzip2": archive(state(tensor()), None, zipfile.ZIP_BZIP2),
    "a large pickle": archive(text("x" * 3_000_000)),
    "a byte order of 3 MB": archive(state(tensor()), {"data/0": bytes(16), "byteorder": b"x" * 3_000_000}),
    "no pickle": zipped({"archive/data/0": bytes(16)}),
    "an empty archive": zipped({}),
    "records that overlap": overlapping(archive(state(tensor()))),
    "a directory of a million entries": many_entries(b""),
    "two archives": archive(state(tensor(items(2**28 - 1, 16), items(0, 0)))) + archive(state(tensor())),
    "a comment of 64 kB": archive(state(tensor()))[:-2] + b"\xff\xff" + b"PK\x05\x06" * 16383 + b"PK\x05",
    "old: nothing after the magic number": torch_1_5(),
    "old: a storage of 2**62 elements": torch_1_5(
        as_pickle(state(tensor(source=storage(elements=2**62)))), KEYS, data=struct.pack("<q", 2**62)
    ),
    "old: a list of keys nested in itself": torch_1_5(as_pickle(state(tensor())), as_pickle(b"]q\x00h\x00a")),
    "old: keys that are a bomb": torch_1_5(
        as_pickle(state(tensor())), as_pickle(b"cbuiltins\nbytearray\n" + number(2**31) + b"\x85R")
    ),
    "old: a million keys": torch_1_5(
        as_pickle(state(tensor())), as_pickle(b"]" + MARK + text("0") + b"q\x00" + b"h\x00" * 99_000 + b"e"),
        data=ONE,
    ),
    "old: keys as a string": torch_1_5(as_pickle(state(tensor())), as_pickle(text("0")), data=ONE),
    "old: keys as a string of 1 MB": torch_1_5(
        as_pickle(state(tensor(items(0), source=storage(elements=0)))), as_pickle(text("0" * 1_000_000)),
        data=bytes(8 * 1_000_001),
    ),
    "old: another size in the file": torch_1_5(as_pickle(state(tensor())), KEYS, data=struct.pack("<q", -4)),
    "old: a key without a storage": torch_1_5(as_pickle(state()), KEYS, data=ONE),
    "old: a storage without a key": torch_1_5(as_pickle(state(tensor())), as_pickle(b"]")),
    "old: a tar archive": b"N.N.N.N.".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"),
    "old: another magic number": as_pickle(number(5)) * 5,
    "old: a line of 20 MB": PROTO + b"ctorch\n" + b"x" * 20_000_000 + b"\n.",
}  # fmt: skip

# safetensors


def header(tensors: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file."""
    content = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(content)) + content + data


def info(shape: list[int], start: int = 0, end: int = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FIRST = "distilbert.transformer.layer.{}.ffn.lin1.weight"
SAFETENSORS: dict[str, bytes] = {
    "a header of 100 MB of spaces": header(b"{" + b" " * 100_000_000 + b"}"),
    "200,000 empty tensors": header({f"w{i}": info([0]) for i in range(200_000)}),
    "30,000 empty tensors": header({f"w{i}": info([0]) for i in range(30_000)}),
    "9,000 empty tensors": header({FIRST.format(i): info([0]) for i in range(9_000)}),
    "metadata of 20 MB": header({"__metadata__": {"x": "y" * 20_000_000}}),
    "tensors that overlap": header({"a": info([4], 0, 16), "b": info([4], 0, 16)}, bytes(16)),
    "a hole between tensors": header({"a": info([1], 0, 4), "b": info([1], 8, 12)}, bytes(12)),
    "offsets in reverse": header({"a": info([4], 16, 0)}, bytes(16)),
    "a shape that overflows": header({"a": info([2**32, 2**32], 0, 0)}),
    "a shape with a zero that overflows": header({"a": info([2**63, 2**63, 0], 0, 0)}),
    "10,000 dimensions": header({"a": info([1] * 10_000, 0, 4)}, bytes(4)),
    "half a byte": header({"a": info([1], 0, 1, "F4")}, bytes(1)),
    "four bits": header({"a": info([2], 0, 1, "F4")}, bytes(1)),
    "six bits": header({"a": info([4], 0, 3, "F6_E2M3")}, bytes(3)),
    "an unknown dtype": header({"a": info([1], 0, 4, "Q8")}, bytes(4)),
    "booleans": header({"classifier.bias": info([3], 0, 3, "BOOL")}, bytes(3)),
    "complex numbers": header({"classifier.bias": info([3], 0, 24, "C64")}, bytes(24)),
    "names twice": header(b'{"a":' + json.dumps(info([1], 0, 4)).encode() + b',"a":'
                          + json.dumps(info([1], 4, 8)).encode() + b"}", bytes(8)),
    "nested arrays": header(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a lone surrogate": header(b'{"\\ud800":' + json.dumps(info([1], 0, 4)).encode() + b"}", bytes(4)),
    "a name of 1 MB": header({"x" * 1_000_000: info([1], 0, 4)}, bytes(4)),
    "a list": header([]),
    "null": header(b"null"),
    "NaN as a size": header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'),
    "a float as a size": header(b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', bytes(4)),
    "a boolean as a size": header(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
    "a string as an offset": header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":["0",4]}}', bytes(4)),
    "offsets twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[4,8]}}', bytes(8)
    ),
    "numbers as metadata": header({"__metadata__": {"a": 1}, "a": info([1], 0, 4)}, bytes(4)),
    "a tensor as metadata": header({"__metadata__": info([1], 0, 4)}, bytes(4)),
    "a name that is not UTF-8": header(b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "nothing": b"",
    "eight zeros": bytes(8),
    "no tensors": header({}),
    "negative sizes": header({"a": info([-1], 0, 4)}, bytes(4)),
    "an offset of 2**64": header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}'),
}  # fmt: skip

# Indexes of shards

SHARD = "model-00001-of-00002.safetensors"
INDEX: dict[str, Any] = {
    "a million names": {f"w{i}": SHARD for i in range(1_000_000)},
    "100,000 names": {f"w{i}": SHARD for i in range(100_000)},
    "20,000 files": {f"w{i}": f"{i}.safetensors" for i in range(20_000)},
    "a path upwards": {"a": "../model-00001-of-00002.safetensors"},
    "an absolute path": {"a": "/dev/zero.safetensors"},
    "a folder": {"a": "x/model-00001-of-00002.safetensors"},
    "a backslash": {"a": "..\\model-00001-of-00002.safetensors"},
    "the index itself": {"a": "model.safetensors.index.json"},
    "another kind of file": {"a": "pytorch_model.bin"},
    "a nested map": {"a": {"b": {"c": SHARD}}},
    "a null byte": {"a": "a\0.safetensors"},
    "a long name of a file": {"a": "x" * 100_000 + ".safetensors"},
    "a lone surrogate": {"\ud800": SHARD},
    "a lone surrogate in a file": {"a": "\ud800.safetensors"},
    "a list": [SHARD],
    "dots": {"a": "..safetensors", "b": ".safetensors"},
}


def shards(count: int, shard: Callable[[str], bytes], stem: str = "model", ending: str = "safetensors") -> Change:
    """Replace the weights by files, each with one tensor and made by a function of its name, and an index."""
    shard_of = {f"w{i}": f"{stem}-{i}.{ending}" for i in range(count)}
    index = json.dumps({"weight_map": shard_of}).encode()
    content = {file: shard(name) for name, file in shard_of.items()}
    return lambda _: {**content, f"{stem}.{ending}.index.json": index}


SHARDS: dict[str, tuple[str, Change]] = {
    "4,000 files": ("safetensors", shards(4_000, lambda name: header({name: info([0])}))),
    "20 files with metadata of 900 kB": (
        "safetensors",
        shards(20, lambda name: header({"__metadata__": {str(i): "" for i in range(70_000)}, name: info([0])})),
    ),
    "20 files of 49,000 opcodes": (
        "bin",
        shards(20, lambda name: archive(b"N" * 49_000 + state(tensor(), names=[name])), "pytorch_model", "bin"),
    ),
    "60 files with large directories": (
        "bin",
        shards(
            60,
            lambda name: archive(
                state(tensor(), names=[name]), {"data/0": bytes(16), **{str(i): b"" for i in range(2_000)}}
            ),
            "pytorch_model",
            "bin",
        ),
    ),
}

# JSON


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


def with_value(literal: str) -> Change:
    """Add a key with this JSON to an object."""
    return lambda content: content.rstrip()[:-1] + b', "x": ' + literal.encode() + b"}"


def with_settings(**values: Any) -> Change:
    """Change keys of an object."""
    return lambda content: json.dumps({**json.loads(content), **values}).encode()


LABELS = {str(i): f"label {i}" for i in range(300_000)}
JSON: dict[str, Change] = {
    "a million lists in lists": with_value(nested(1_000_000)),
    "900 lists in lists": with_value(nested(900)),
    "900 objects in objects": with_value(nested(900, '{"a":', "}")),
    "50 MB of lists": with_value("[" + "[]," * 17_000_000 + "1]"),
    "7 MB of lists": with_value("[" + "[]," * 2_300_000 + "1]"),
    "7 MB of keys": with_value("{" + ", ".join(f'"{i}": 1' for i in range(500_000)) + "}"),
    "2 million integers": with_value("[" + "1," * 2_000_000 + "1]"),
    "120,000 keys": with_value("{" + ", ".join(f'"{i}": 1' for i in range(120_000)) + "}"),
    "20 MB of spaces": with_value(" " * 20_000_000 + "1"),
    "a string of 3 MB": with_value('"' + "x" * 3_000_000 + '"'),
    "an integer of 5,000 digits": with_value("9" * 5000),
    "an integer of 7 MB": with_value("9" * 7_000_000),
    "NaN": with_value("NaN"),
    "a lone surrogate": with_value('"\\ud800"'),
    "a lone surrogate as a key": with_value('{"a": [{"\\udfff": 1}]}'),
    "keys twice": with_value('1, "x": 2'),
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
}


def long_names(depth: int = 61, width: int = 19_000) -> str:
    """Return objects in objects, under long keys, around many empty objects."""
    return nested(depth, '{"' + "\U0001f600" * 50 + '":', "}").replace("1", "[" + "{}," * width + "{}]")


@functools.cache
def layers(count: int) -> Content:
    """Return the config and the weights of a model with many small layers."""
    import minidistil

    config = minidistil.DistilBertConfig(**SMALL, n_layers=count, id2label=dict(enumerate("abc")))
    with tempfile.TemporaryDirectory() as name:
        minidistil.DistilBertForSequenceClassification(config).save_pretrained(name)
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


SMALL = {"vocab_size": 61, "max_position_embeddings": 24, "n_heads": 2, "dim": 4, "hidden_dim": 4}
CONFIG: dict[str, Change] = {
    "ids of labels with the same hash": with_settings(
        id2label=None, label2id={f"a{i}": SAME_HASH * i for i in range(20_000)}
    ),
    "objects under long names": with_value(long_names()),
    "48 layers": lambda _: layers(48),
    "250 layers": with_settings(n_layers=250),
    "300,000 labels": with_settings(id2label=LABELS, label2id={v: int(k) for k, v in LABELS.items()}),
    "labels that are lists": with_settings(id2label={"0": [["a"] * 1000] * 1000, "1": "b", "2": "c"}),
    "a million architectures": with_settings(architectures=["Bert"] * 600_000),
    "20,000 layers": with_settings(n_layers=20_000),
    "sizes of 2**27": with_settings(dim=2**27, hidden_dim=2**27, vocab_size=2**27, n_heads=1),
    "a lone surrogate in a label": with_settings(id2label={"0": "a", "1": "\ud800", "2": "c"}),
    "a lone surrogate in an architecture": with_settings(architectures=["\udfff"]),
    "num_labels of 10**12": with_settings(num_labels=10**12, id2label=None, label2id=None),
    "a million positions": with_settings(max_position_embeddings=10**8),
}
TOKENIZER_CONFIG: dict[str, Change] = {
    "a string as additional tokens": with_settings(additional_special_tokens="the"),
    "a long mask token": with_settings(mask_token="x" * 5_000_000),
    "200,000 additional tokens": with_settings(additional_special_tokens=[f"<{i}>" for i in range(200_000)]),
    "200,000 added tokens": with_settings(
        added_tokens_decoder={str(i): {"content": f"<{i}>"} for i in range(100_000)}
    ),
    "a lone surrogate in an added token": with_settings(additional_special_tokens=["\ud800"]),
    "a maximum length of 10**400": with_settings(model_max_length=10**400),
}

# tokenizer.json


def steps(*parts: dict[str, Any], part: str = "normalizer", key: str = "normalizers") -> Change:
    """Replace a part of a tokenizer by a sequence."""
    return with_settings(**{part: {"type": "Sequence", key: list(parts)}})


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def added(tokens: list[str], normalized: bool = True) -> Change:
    """Add tokens to the end of the vocabulary."""

    def change(content: bytes) -> bytes:
        values = json.loads(content)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
        values["added_tokens"] += [
            {"id": 100 + i, "content": t, "normalized": normalized, **flags} for i, t in enumerate(tokens)
        ]
        return json.dumps(values).encode()

    return change


def model(**values: Any) -> Change:
    """Change keys of a tokenizer's model."""
    return lambda content: with_settings(model={**json.loads(content)["model"], **values})(content)


def template(*pieces: dict[str, Any], ids: int = 1) -> Change:
    special = {"x": {"id": "x", "ids": [2] * ids, "tokens": ["y"] * ids}}
    part = {"type": "TemplateProcessing", "single": pieces, "pair": [*pieces, TEXT_B], "special_tokens": special}
    return with_settings(post_processor=part)


SPECIAL = {"SpecialToken": {"id": "x", "type_id": 0}}
TEXT_A, TEXT_B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
METASPACE = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
SPLIT: dict[str, Any] = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
UNTYPED = {"pattern": {"String": "t"}, "content": "t" * 10}  # a step that the library accepts without its type
TOKENIZER: dict[str, Change] = {
    "seven replacements without a type": steps(*[UNTYPED] * 7),
    "a sequence without a type": with_settings(normalizer={"normalizers": [UNTYPED] * 7}),
    "prefixes without a type": steps(*[{"prepend": "x" * 1000}] * 60),
    "types with the same hash": steps(*[[{"type": SAME_HASH * i * j} for j in range(64)] for i in range(60)]),
    "a replacement by 1,000": with_settings(normalizer=replace("t", "t" * 1000)),
    "added tokens that the normalizer lengthens": lambda content: steps(replace("t", "t" * 90))(
        added([chr(0x4E00 + i) + "t" * 900 for i in range(100)])(content)
    ),
    "long added tokens with spaces": added([f"{i:02} " + "x" * 985 for i in range(95)]),
    "9,000 added tokens with spaces": added([f"q{i} z" for i in range(9_000)]),
    "9,000 added tokens with spaces that are not normalized": added(
        [f"q{i} z" for i in range(9_000)], normalized=False
    ),
    "a table whose trie has 4 billion bytes": with_settings(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    ),
    "decoders that lengthen": steps(*[replace("t", "t" * 30)] * 5, part="decoder", key="decoders"),
    "a random Unigram vocabulary": with_settings(
        model={
            "type": "Unigram", "unk_id": 0,
            "vocab": [["[UNK]", 0.0], *([f"{random.Random(i).getrandbits(3800):x}", -1.0] for i in range(2_000))],
        }
    ),
    "a token id beyond the model": with_settings(
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 99999], "cls": ["[CLS]", 2]}
    ),
    "a model without a token for unknown words": model(unk_token="<unknown>"),
    "eight replacements by ten": steps(*[replace("t", "t" * 10)] * 8),
    "twenty replacements by two": steps(*[replace("o", "oo")] * 20),
    "a nested sequence of replacements": steps(
        *[{"type": "Sequence", "normalizers": [replace("o", "oooo")] * 4}] * 4
    ),
    "a replacement of 2 MB": with_settings(normalizer=replace("t", "t" * 2_000_000)),
    "replacements of nothing": steps(*[replace("", "xx", "Regex")] * 12),
    "lookaheads replaced": steps(*[replace("(?=.)", "x", "Regex")] * 20),
    "compositions that are expanded": steps(*[replace(".", "\ufdfa", "Regex"), {"type": "NFKD"}] * 5),
    "a prefix of 20 MB": with_settings(normalizer={"type": "Prepend", "prepend": "x" * 20_000_000}),
    "prefixes of 900 characters": steps(*[{"type": "Prepend", "prepend": "x" * 900}] * 60),
    "an added token of 20 MB": added(["x" * 20_000_000]),
    "100,000 added tokens": added([f"token{i}" for i in range(100_000)]),
    "9,000 added tokens": added([f"token{i}" for i in range(9_000)]),
    "3,000 long added tokens": added([f"{i} " + "x" * 900 for i in range(3_000)]),
    "a template of 100,000 tokens": template(*[SPECIAL] * 100_000, TEXT_A),
    "a template of 1,000 texts": template(*[TEXT_A] * 1_000),
    "a special token of 100,000 ids": template(SPECIAL, TEXT_A, ids=100_000),
    "50 special tokens of 60 ids": template(*[SPECIAL] * 50, TEXT_A, ids=60),
    "30 byte levels": steps(*[{"type": "ByteLevel"}] * 30),
    "30 byte levels before the model": steps(*[BYTES] * 30, part="pre_tokenizer", key="pretokenizers"),
    "30 splits and metaspaces": steps(*[SPLIT, METASPACE] * 30, part="pre_tokenizer", key="pretokenizers"),
    "a regular expression of 1 MB": with_settings(
        pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a|" * 5 + "b" * 10**6 + ")" * 5}}
    ),
    "nested repetitions": with_settings(
        pre_tokenizer={**SPLIT, "pattern": {"Regex": "(?:(?:(?:a{1000}){1000}){1000}){1000}"}}
    ),
    "10,000 splits": steps(*[SPLIT] * 10_000, part="pre_tokenizer", key="pretokenizers"),
    "words of 10**6 characters": model(max_input_chars_per_word=10**6),
    "a prefix of pieces of 5 MB": model(continuing_subword_prefix="x" * 5_000_000),
    "a token of 10 MB": model(vocab={"[UNK]": 0, "[CLS]": 2, "[SEP]": 3, "a" * 10_000_000: 4}),
    "a decoder of 5 MB": with_settings(decoder={"type": "WordPiece", "prefix": "x" * 5_000_000, "cleanup": True}),
    "40 MB of spaces": lambda content: content.rstrip()[:-1] + b" " * 40_000_000 + b"}",
    "10,000 sequences in sequences": with_settings(normalizer=json.loads(
        '{"type": "Sequence", "normalizers": [' * 300 + '{"type": "NFC"}' + "]}" * 300
    )),
    "padding to 10**9": with_settings(padding={
        "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }),
}  # fmt: skip
VOCABULARY: dict[str, Change] = {
    "a line of 30 MB": lambda content: content + b"x" * 30_000_000 + b"\n",
    "4 million lines": lambda content: content + b"".join(b"%d\n" % i for i in range(4_000_000)),
}


def _always(content: bytes) -> Change:
    return lambda _: content


FILES = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
HOSTILE: dict[str, tuple[str, str, str, Change]] = {  # name -> form of tokenizer, of weights, file, change
    **{f"bin: {k}": ("vocab", "zip", "pytorch_model.bin", _always(v)) for k, v in BIN.items()},
    **{
        f"safetensors: {k}": ("vocab", "safetensors", "model.safetensors", _always(v))
        for k, v in SAFETENSORS.items()
    },
    **{
        f"index: {k}": (
            "vocab", "safetensors shards", "model.safetensors.index.json",
            _always(json.dumps({"weight_map": v}).encode()),
        )
        for k, v in INDEX.items()
    },
    **{
        f"{ending} shards: {k}": ("vocab", ending if ending == "safetensors" else "zip", FILES[ending], v)
        for k, (ending, v) in SHARDS.items()
    },
    "added_tokens.json: ids with the same hash": (
        "vocab, apart", "safetensors", "added_tokens.json",
        _always(json.dumps({f"a{i}": SAME_HASH * i for i in range(20_000)}).encode()),
    ),
    **{
        f"{file}: {k}": ("vocab", "safetensors", file, v)
        for file, changes in (
            ("config.json", {**JSON, **CONFIG}), ("tokenizer_config.json", {**JSON, **TOKENIZER_CONFIG}),
            ("vocab.txt", VOCABULARY),
        )
        for k, v in changes.items()
    },
    **{
        f"tokenizer.json: {k}": ("json", "safetensors", "tokenizer.json", v)
        for k, v in {**JSON, **TOKENIZER}.items()
    },
}  # fmt: skip


def make(name: str) -> Content:
    """Return the files of a hostile checkpoint."""
    tokenizer, weights, file, change = HOSTILE[name]
    content = dict(intact(tokenizer, weights))
    changed = change(content[file])
    if isinstance(changed, bytes):
        return {**content, file: changed}
    if any(name.endswith(".index.json") for name in changed):
        del content[file]  # which would be read instead of the index
    return {**content, **changed}
