"""Tiny checkpoints in every form of file, before they are damaged."""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

Content = dict[str, bytes]  # filename -> content


@functools.cache
def intact(tokenizer: str, weights: str) -> Content:
    """Return a tiny checkpoint, with a form of tokenizer and of weights, see `TARGETS`. Do not modify it."""
    import torch

    import minidistil
    from minidistil.checkpoint.files import write_json

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "the a an good bad film end is not it s zoe cafe worst best and or was be on in"
    words += " e i o t ☃ 字 . , ! ? : ' [ ] # ##ing ##s ##e ##a ##ly"
    pieces = special + words.split()
    pieces += [f"word{i}" for i in range(60 - len(pieces))]
    config = minidistil.DistilBertConfig(
        vocab_size=len(pieces) + 1,
        max_position_embeddings=24,
        n_layers=2,
        n_heads=2,
        dim=16,
        hidden_dim=24,
        id2label={0: "entailment", 1: "neutral", 2: "contradiction"},
    )
    model = minidistil.DistilBertForSequenceClassification(config)
    rng = random.Random(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor([rng.gauss(0, 0.5) for _ in range(parameter.numel())]).view_as(parameter))
    tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {
        "do_lower_case": True,
        "model_max_length": 24,
        "strip_accents": None,
        "tokenizer_class": "DistilBertTokenizer",
        "truncation_side": "right",
        "added_tokens_decoder": {
            str(i): {"content": token, "lstrip": False, "normalized": False, "special": True}
            for i, token in enumerate(special)
        },
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)),
    }
    roles = {role: value for role, value in settings.items() if role.endswith("_token")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        write_json(folder / "tokenizer_config.json", settings)
        write_json(
            folder / "special_tokens_map.json", {**roles, "mask_token": {"content": "[MASK]", "lstrip": True}}
        )
        if tokenizer.startswith("json"):
            minidistil.Tokenizer.from_pretrained(folder).save_pretrained(folder)
            write_json(folder / "tokenizer_config.json", settings)
            (folder / "vocab.txt").unlink()
        if tokenizer.endswith("apart"):  # tokenizer_config.json overrides these files
            apart = {key: value for key, value in settings.items() if key not in {*roles, "added_tokens_decoder"}}
            write_json(folder / "tokenizer_config.json", apart)
            write_json(folder / "added_tokens.json", {"<added>": len(pieces)})
        else:
            (folder / "special_tokens_map.json").unlink()
        _write_weights(folder, tensors, weights)
        contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for name in contents:
        if name.endswith(".json"):  # the same format as after damage to JSON, so that nothing else differs
            contents[name] = json.dumps(json.loads(contents[name])).encode()
    return contents


def _write_weights(folder: Path, tensors: dict[str, Any], form: str) -> None:
    from safetensors.torch import save_file

    from minidistil.checkpoint.files import write_json

    if form == "safetensors":
        return
    (folder / "model.safetensors").unlink()
    if form in ("zip", "legacy"):
        (folder / "pytorch_model.bin").write_bytes(pickled(tensors, form))
        return
    stem, ending = ("model", "safetensors") if form == "safetensors shards" else ("pytorch_model", "bin")
    shard_of = {name: f"{stem}-0000{1 + i % 2}-of-00002.{ending}" for i, name in enumerate(tensors)}
    for shard in set(shard_of.values()):
        part = {name: tensor for name, tensor in tensors.items() if shard_of[name] == shard}
        if ending == "safetensors":
            save_file(part, folder / shard)
        else:
            (folder / shard).write_bytes(pickled(part, "zip"))
    write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": 1}, "weight_map": shard_of})


def pickled(value: Any, form: str) -> bytes:
    """Return the bytes of torch.save, deterministically: its legacy format names storages by their addresses."""
    import torch

    names: dict[int, str] = {}

    class Counted(str):
        def __new__(cls, place: int) -> Any:
            return names.setdefault(place, f"{len(names):03}")

    file = io.BytesIO()
    with mock.patch.object(torch.serialization, "str", Counted, create=True):
        torch.save(value, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()
