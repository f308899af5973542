"""Hostile PyTorch files are refused with little time and memory, and ordinary files pass."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch

from minidistil import CheckpointError
from minidistil.checkpoint import pickles
from minidistil.checkpoint.budget import Budget

PROTO, STOP = b"\x80\x02", b"."
TUPLE1, TUPLE2, EMPTY_TUPLE, MARK, TUPLE = b"\x85", b"\x86", b")", b"(", b"t"
EMPTY_LIST, EMPTY_DICT, APPEND, SETITEM, REDUCE = b"]", b"}", b"a", b"s", b"R"


def read(path):
    return pickles.read(path, Budget())


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
        read(archive(tmp_path / "pytorch_model.bin", opcodes))
    assert len(str(caught.value)) < 1_000


def test_a_tensor_of_more_elements_than_its_storage_is_refused(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(1, 1).expand(2**28 - 1, 16)})
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="more elements than its storage"):
        read(path)


WORDS, PROJECTOR = "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"
BIASES = "cls.predictions.bias", "cls.predictions.decoder.bias"


def test_only_weights_that_the_model_ties_share_memory(tmp_path):
    path, weight = tmp_path / "pytorch_model.bin", torch.arange(64.0)
    for tied in ((WORDS, PROJECTOR), BIASES):
        found = read(saved(path, dict.fromkeys(tied, weight)))
        assert [torch.equal(found[name], weight) for name in tied] == [True, True]
    for names in (("a", "b"), (WORDS, "a"), (WORDS, PROJECTOR, "classifier.bias")):
        with pytest.raises(CheckpointError, match=f"holds '{names[-1]}', which shares its memory"):
            read(saved(path, dict.fromkeys(names, weight)))


def test_parts_of_one_tensor_may_be_several_weights(tmp_path):
    fused = torch.arange(12.0).view(6, 2)
    parts = {"q": fused[:2], "k": fused[2:4], "v": fused[4:]}
    found = read(saved(tmp_path / "pytorch_model.bin", parts))
    assert all(torch.equal(found[name], part) for name, part in parts.items())
    with pytest.raises(CheckpointError, match="holds 'o', which shares its memory"):
        read(saved(tmp_path / "pytorch_model.bin", {**parts, "o": fused[3]}))


def test_a_storage_larger_than_the_file_is_refused_in_the_old_format(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(5)}, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    patched = data.replace(b"K\x05N", b"J\xff\xff\xff\x7fN")  # the number of elements, before view metadata None
    assert patched != data
    path.write_bytes(patched)
    with pytest.raises(CheckpointError, match="a storage of another size than in its pickle"):
        read(path)


def test_records_that_overlap_are_refused(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(1000), "b": torch.zeros(1000)})
    data, name = bytearray(path.read_bytes()), b"data/"
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02" and name in data[i : i + 80]]
    for entry in entries:  # every record of the central directory claims the whole file
        data[entry + 20 : entry + 28] = struct.pack("<II", len(data) // 2, len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"records that overlap|BadZipFile"):
        read(path)


FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before torch 1.6"])


@FORMATS
def test_tensors_are_those_of_torch_load(tmp_path, zipped):
    weight, generator = torch.nn.Parameter(torch.randn(4, 3)), torch.Generator().manual_seed(0)
    numbers = torch.randint(-100, 100, (3, 5), generator=generator)
    tensors = OrderedDict(
        **{WORDS: weight, PROJECTOR: weight},
        **{str(dtype): numbers.to(dtype) for dtype in pickles.DTYPES.values()},
        transposed=torch.randn(2, 5).t(),
        part=torch.arange(10)[3:7],
        column=torch.randn(5, 4)[:, 1],
        step=torch.randn(12)[::3],
        scalar=torch.tensor(1.5),
        empty=torch.zeros(0, 3),
    )
    tensors._metadata = {"": {"version": 1}, "weight": {}}
    path = saved(tmp_path / "pytorch_model.bin", tensors, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    found = read(path)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].stride()) == (tensor.dtype, tensor.stride()), name
        assert torch.equal(found[name], tensor), name


@FORMATS
def test_changing_tensors_does_not_change_the_file(tmp_path, zipped):
    tensors = {"a": torch.zeros(100), "b": torch.ones(3).half()}
    path = saved(tmp_path / "pytorch_model.bin", tensors, _use_new_zipfile_serialization=zipped)
    before = path.read_bytes()
    read(path)["a"].add_(1)
    assert path.read_bytes() == before


def test_a_big_endian_archive_is_refused(tmp_path):
    path = saved(tmp_path / "pytorch_model.bin", {"a": torch.ones(3)})
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "big.bin", "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, b"big" if name.endswith("byteorder") else whole.read(name))
    with pytest.raises(CheckpointError, match="has the byte order 'big'"):
        read(tmp_path / "big.bin")


def test_a_state_dict_of_python_2_passes(tmp_path):
    pairs = EMPTY_LIST + MARK + EMPTY_LIST + b"q\x00" + MARK + text("epoch") + b"K\x01" + b"ee"
    opcodes = b"ccollections\nOrderedDict\n" + pairs + TUPLE1 + REDUCE
    assert pickle.loads(PROTO + opcodes + STOP) == {"epoch": 1}
    with pytest.raises(CheckpointError, match="holds 'epoch', a int"):
        read(archive(tmp_path / "pytorch_model.bin", opcodes))


def test_a_pickle_of_a_million_opcodes_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin has too many pickle opcodes: expected at most 50,000"
    ):
        read(archive(tmp_path / "pytorch_model.bin", EMPTY_TUPLE * 1_000_000))


@FORMATS
def test_a_file_that_is_cut_short_is_refused(tmp_path, zipped):
    path = saved(tmp_path / "whole.bin", {"a": torch.zeros(3)}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for end in range(0, len(whole), 1 if len(whole) < 1000 else 7):
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            read(tmp_path / "pytorch_model.bin")


def test_files_share_the_limits_of_headers_and_opcodes(tmp_path):
    paths = [archive(tmp_path / name, EMPTY_TUPLE * 20_000 + EMPTY_DICT) for name in ("a.bin", "b.bin", "c.bin")]
    budget = Budget()
    assert [pickles.read(path, budget) for path in paths[:2]] == [{}, {}]
    with pytest.raises(CheckpointError, match=r"c\.bin has too many pickle opcodes: .* 50,000 in all files"):
        pickles.read(paths[2], budget)


def test_the_list_of_storages_of_the_old_format_must_be_complete(tmp_path):
    path = saved(tmp_path / "a.bin", {"a": torch.zeros(5)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    start = content.rindex(PROTO)
    for keys in (EMPTY_LIST, text("0" * 1000), EMPTY_DICT):
        path.write_bytes(content[:start] + PROTO + keys + STOP)
        with pytest.raises(CheckpointError, match=r"a\.bin has a broken list of storages"):
            read(path)
