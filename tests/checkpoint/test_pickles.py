"""Hostile PyTorch files are refused with little time and memory, and ordinary files pass."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch

from minidistil import CheckpointError
from minidistil.checkpoint import pickles
from minidistil.checkpoint.tensors import _read

PROTO, STOP = b"\x80\x02", b"."
TUPLE1, TUPLE2, EMPTY_TUPLE, MARK, TUPLE = b"\x85", b"\x86", b")", b"(", b"t"
EMPTY_LIST, EMPTY_DICT, APPEND, SETITEM, REDUCE = b"]", b"}", b"a", b"s", b"R"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def archive(path, opcodes, **records):
    """Write a file in the format of torch.save, with these opcodes as its pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", PROTO + opcodes + STOP)
        for name, data in records.items():
            file.writestr(f"archive/data/{name}", data)
    return path


def saved(path, tensors, **options):
    torch.save(tensors, path, **options)
    return path


DOUBLED = EMPTY_TUPLE + b"".join(b"q\x00h\x00" + TUPLE2 for _ in range(40))
BIG = b"\x8a\x05" + (2**31).to_bytes(5, "little")
HOSTILE = {
    "a million nested tuples as a key": EMPTY_DICT + EMPTY_TUPLE + TUPLE1 * 1_000_000 + text("v") + SETITEM,
    "forty doubled tuples as a key": EMPTY_DICT + DOUBLED + text("v") + SETITEM,
    "a tuple as a key": EMPTY_DICT + EMPTY_TUPLE + text("v") + SETITEM,
    "a set of doubled tuples": b"cbuiltins\nset\n" + EMPTY_LIST + DOUBLED + APPEND + TUPLE1 + REDUCE,
    "doubled tuples as a callable": DOUBLED + EMPTY_TUPLE + REDUCE,
    "a large bytearray": b"cbuiltins\nbytearray\n" + BIG + TUPLE1 + REDUCE,
    "a Counter": b"ccollections\nCounter\n" + EMPTY_TUPLE + REDUCE,
    "a global with a name of 300 kB": b"ctorch\n" + b"x" * 300_000 + b"\n",
    "a million nested lists": EMPTY_LIST * 1_000_000 + APPEND * 999_999,
    "lists nested through the memo": b"]q\x00]q\x01]q\x02h\x00h\x01ah\x01h\x02a",
    "an integer of 200 bytes": b"\x8a\xc8" + b"\x01" * 200,
    "an opcode of a later protocol": b"\x95" + b"\0" * 8,
    "a storage that the file lacks": MARK + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    + BIG + TUPLE + b"Q",
}  # fmt: skip


@pytest.mark.parametrize("opcodes", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, opcodes):
    with pytest.raises(CheckpointError) as caught:
        pickles.check(archive(tmp_path / "pytorch_model.bin", opcodes))
    assert len(str(caught.value)) < 1_000


def test_a_tensor_of_more_elements_than_its_storage_is_refused(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(1, 1).expand(2**28 - 1, 16)})
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="more elements than its storage"):
        _read(path)


def test_a_storage_shared_by_many_tensors_is_refused(tmp_path):
    weight = torch.zeros(8, 8)
    with pytest.raises(CheckpointError, match="w2 shares its storage"):
        _read(saved(tmp_path / "pytorch_model.bin", {f"w{i}": weight.view(64) for i in range(9)}))


def test_a_storage_larger_than_the_file_is_refused_in_the_old_format(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(5)}, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    patched = data.replace(b"K\x05N", b"J\xff\xff\xff\x7fN")  # the number of elements, before view metadata None
    assert patched != data
    path.write_bytes(patched)
    with pytest.raises(CheckpointError, match="larger than the file"):
        pickles.check(path)


def test_records_that_overlap_are_refused(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(1000), "b": torch.zeros(1000)})
    data, name = bytearray(path.read_bytes()), b"data/"
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02" and name in data[i : i + 80]]
    for entry in entries:  # every record of the central directory claims the whole file
        data[entry + 20 : entry + 28] = struct.pack("<II", len(data) // 2, len(data) // 2)
    path.write_bytes(data)
    with pytest.raises((CheckpointError, zipfile.BadZipFile)):
        pickles.check(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_ordinary_state_dicts_pass(tmp_path, zipped):
    weight = torch.nn.Parameter(torch.randn(4, 3))
    tensors = OrderedDict(
        weight=weight,
        tied=weight,
        half=torch.ones(3).half(),
        bfloat16=torch.ones(3).bfloat16(),
        transposed=torch.randn(2, 5).t(),
        part=torch.arange(10)[3:7],
        scalar=torch.tensor(1.5),
        empty=torch.zeros(0, 3),
    )
    tensors._metadata = {"": {"version": 1}, "weight": {}}
    path = saved(tmp_path / "pytorch_model.bin", tensors, _use_new_zipfile_serialization=zipped)
    read = _read(path)
    assert {name: stored.shape for name, stored in read.items()} == {k: list(v.shape) for k, v in tensors.items()}
    assert all(torch.equal(stored.read(), tensors[name]) for name, stored in read.items())


def test_a_state_dict_of_python_2_passes(tmp_path):
    pairs = EMPTY_LIST + MARK + MARK + text("epoch") + b"K\x01" + b"l" + b"e"
    opcodes = (
        b"ccollections\nOrderedDict\n" + pairs.replace(b"(X", b"]q\x00(X").replace(b"le", b"ee") + TUPLE1 + REDUCE
    )
    assert pickle.loads(PROTO + opcodes + STOP) == {"epoch": 1}
    pickles.check(archive(tmp_path / "pytorch_model.bin", opcodes))


def test_a_pickle_of_a_million_opcodes_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="more than 100,000 pickle opcodes"):
        pickles.check(archive(tmp_path / "pytorch_model.bin", EMPTY_TUPLE * 1_000_000))


def test_broken_pickles_raise_exceptions(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    good = zipfile.ZipFile(buffer).read("archive/data.pkl")[2:-1]
    for end in range(len(good)):
        with pytest.raises(CheckpointError):
            _read(archive(tmp_path / "pytorch_model.bin", good[:end]))
