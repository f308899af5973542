"""Checkpoints that are refused, with the message. `loaded.py` explains the columns of the table."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from minidistil import InputError
from support.corpus.draft import (
    WORDS,
    Runs,
    add,
    beside,
    case,
    cast,
    command_in_a_shard,
    config,
    cut,
    drop,
    forget,
    form,
    legacy,
    lose,
    move,
    pickled,
    place,
    plain,
    pointer,
    rename,
    replace,
    safetensors,
    shards,
    zipped,
)
from support.corpus.names import (
    BERT,
    BERT_MASKED_LM,
    BERT_TOKEN_CLASSIFIER,
    CLASSIFIER,
    ENCODER,
    FILE,
    FIRST_TENSOR,
    FORMS,
    HEADS,
    LABEL_N,
    LOAD_AS,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NO_LABELS,
    NOT_CONVERTIBLE,
    PROJECTOR,
    QUESTION_ANSWERING,
    SINUSOIDAL,
    TOKEN_CLASSIFIER,
    UNTIED,
)


def quietly(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Suppress the warnings of torch about experimental tensors."""

    def make(tensor: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return change(tensor)

    return make


REFUSED = [
    # Files
    case("no config.json", CLASSIFIER, config(None), error=r"has no config\.json"),
    *(
        case(f"config.json that is {name}", CLASSIFIER, config(text), error=rf"config\.json.*{message}")
        for name, text, message in (
            ("empty", "\n", "not readable JSON"),
            ("cut short", '{"dim": 32,', "not readable JSON"),
            ("a list", "[1]", "expected a JSON object, found list"),
            ("null", "null", "expected a JSON object, found NoneType"),
            ("an HTML page", "<!doctype html>", "not readable JSON"),
        )
    ),
    case("no weights", CLASSIFIER, form(), error=r"has no model\.safetensors or .*pytorch_model\.bin"),
    *(
        case(f"only {name}", CLASSIFIER, form(beside(name)), error=r"has no model\.safetensors or .*_model\.bin")
        for name in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.onnx", "model.ckpt.index")
    ),
    *(
        case(f"{name} that is a git-lfs pointer", CLASSIFIER, form(pointer(name)), error=rf"{name}.*git lfs pull")
        for name in ("model.safetensors", "pytorch_model.bin")
    ),
    *(
        case(
            f"truncated {name}",
            CLASSIFIER,
            form(it, cut("pytorch_model.bin")),
            error=r"_model\.bin is not a readable",
        )
        for name, it in {"pytorch_model.bin": zipped, "pytorch_model.bin of torch 1.5": legacy}.items()
    ),
    # .bin with other objects than tensors: no code may run
    *(
        case(f".bin with {name}", CLASSIFIER, form(pickled(content)), error=rf"pytorch_model\.bin.*{message}")
        for name, content, message in (
            (
                "a command",
                lambda draft, folder: {**draft.tensors, "x": Runs(folder)},
                r"posix\.system.*not allowed",
            ),
            ("only a command", lambda _, folder: Runs(folder), r"posix\.system.*not allowed"),
            (
                "a whole model",
                lambda draft, _: draft.model,
                r"refers to transformers\..*not allowed: expected a state dict",
            ),
            ("a whole layer", lambda *_: torch.nn.Linear(2, 2), r"refers to torch\.nn\.\S*Linear.*not allowed"),
            (
                "a NumPy number",
                lambda draft, _: {**draft.tensors, "loss": np.float64(1)},
                r"refers to numpy\.",
            ),
            ("a number", lambda draft, _: {**draft.tensors, "epoch": 3}, r"'epoch'.*\bint\b"),
            ("null", lambda draft, _: {**draft.tensors, "extra": None}, r"'extra'.*NoneType"),
            ("a trainer's checkpoint", lambda draft, _: {"state_dict": draft.tensors}, r"'state_dict'.*\bdict\b"),
            ("a list", lambda draft, _: [*draft.tensors.values()], "holds a list: expected a state dict"),
            ("a single tensor", lambda *_: torch.ones(2), "holds a Tensor: expected a state dict"),
            ("integers as names", lambda draft, _: dict(enumerate(draft.tensors.values())), "has a int as a key"),
            ("no tensors", lambda *_: {}, "does not hold this model's weights; missing: "),
        )
    ),
    case(
        "pickle of protocol 2 as .bin",
        CLASSIFIER,
        form(plain(2)),
        error=r"_model\.bin refers to posix\.system.*not allowed",
    ),
    case(
        "pickle of protocol 4 as .bin",
        CLASSIFIER,
        form(plain(4)),
        error=r"_model\.bin has the pickle opcode FRAME: expected a state dict",
    ),
    case(
        "command in a shard",
        CLASSIFIER,
        form(command_in_a_shard),
        error=r"-00002\.bin refers to posix\.system.*not allowed",
    ),
    *(
        case(
            f"{kind} in {name}",
            CLASSIFIER,
            replace("classifier.weight", change),
            form(FORMS[name]),
            error=rf"{name}.*expected floating-point weights, found classifier\.weight \({message}\)",
        )
        for kind, change, message in (
            ("8-bit integers", lambda part: part.to(torch.int8), "int8|I8"),
            ("64-bit integers", lambda part: part.long(), "int64|I64"),
            ("8-bit floats", lambda part: part.to(torch.float8_e4m3fn), "float8_e4m3fn|F8_E4M3"),
            ("complex numbers", lambda part: part.to(torch.complex64), "complex64|C64"),
        )
        for name in ("pytorch_model.bin", "model.safetensors")
        if (kind, name) != ("8-bit floats", "pytorch_model.bin")
    ),
    case(
        "8-bit floats in pytorch_model.bin",
        CLASSIFIER,
        cast(torch.float8_e4m3fn, "^classifier.weight"),
        form(zipped),
        error=r"pytorch_model\.bin refers to torch\._utils\._rebuild_tensor_v3",
    ),
    *(
        case(
            f"{kind} in {FILE[it]}",
            CLASSIFIER,
            replace("classifier.weight", quietly(change)),
            form(it),
            error=r"pytorch_model\.bin refers to torch\._utils\._rebuild_\w*tensor",
        )
        for kind, change in (
            ("a sparse tensor", lambda part: part.to_sparse()),
            ("a tensor without values", lambda part: part.to("meta")),
            ("a ragged tensor", lambda part: torch.nested.nested_tensor([*part])),
        )
        for it in (zipped, legacy)
        if (kind, it) != ("a ragged tensor", legacy)  # torch cannot read that
    ),
    # Shards
    *(
        case(f"{ending}: {name}", CLASSIFIER, form(shards(ending, spoil)), error=message)
        for ending in ("safetensors", "bin")
        for name, spoil, message in (
            (
                "shard path in the parent folder",
                place(lambda old: f"../{old}"),
                r"index\.json: classifier\.bias is in '\.\./.*beside",
            ),
            (
                "absolute shard path",
                place(lambda old: f"/etc/{old}"),
                r"index\.json: classifier\.bias is in '/etc/",
            ),
            (
                "shard path in a subfolder",
                place(lambda old: f"a/{old}"),
                r"index\.json: classifier\.bias is in 'a/",
            ),
            (
                "shard path with a backslash",
                place(lambda old: f"a\\{old}"),
                r"index\.json: classifier\.bias is in 'a",
            ),
            (
                "shard of another file type",
                place(lambda _: "config.json"),
                r"index\.json: classifier\.bias is in 'config",
            ),
            (
                "number as a shard path",
                place(lambda _: 1),
                r"index\.json: classifier\.bias is in 1: expected a \.\w+ file",
            ),
            (
                "indexed tensor that no shard holds",
                forget,
                r"index\.json: classifier\.bias is not in \S*-00001-of-00002",
            ),
            (
                "tensor in another shard than indexed",
                move,
                r"-00002\S* holds classifier\.bias, which \S*index\.json places in \S*-00001",
            ),
            (
                "tensor that the index does not name",
                lambda index, *_: index["weight_map"].pop("classifier.bias"),
                r"-00001-of-00002\S* holds classifier\.bias, which \S*index\.json (?!places in None)",
            ),
            (
                "list as weight_map",
                lambda index, *_: index.update(weight_map=["a"]),
                r"index\.json: weight_map is \['a'\]: expected",
            ),
            (
                "empty weight_map",
                lambda index, *_: index.update(weight_map={}),
                r"index\.json: weight_map is \{\}: expected",
            ),
            (
                "no weight_map",
                lambda index, *_: index.pop("weight_map"),
                r"index\.json: weight_map is None: expected",
            ),
        )
    ),
    *(
        case(
            f"{ending}: missing shard",
            CLASSIFIER,
            form(shards(ending), lose("*-00002-of-00002.*")),
            error=rf"index\.json.*-00002-of-00002\.{ending}|-00002-of-00002\.{ending}.*index\.json",
        )
        for ending in ("safetensors", "bin")
    ),
    # Tensor names
    *(
        case(
            f"two names for one weight: {cls}",
            cls,
            add(**{other: name}),
            form(it),
            error=rf"{file}.*{name}.* both map to ",
        )
        for cls, it, file, name, other in (
            (CLASSIFIER, safetensors, r"model\.safetensors", "classifier.bias", "module.classifier.bias"),
            (TOKEN_CLASSIFIER, zipped, r"pytorch_model\.bin", WORDS, WORDS.removeprefix("distilbert.")),
            (BERT, shards("bin"), r"index\.json", "embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"),
        )
    ),
    *(
        case(
            f"unexpected tensor {name}",
            CLASSIFIER,
            add(**{name: torch.ones(2)}),
            error=rf"safetensors .*unexpected: {name}$",
        )
        for name in (
            "extra",
            "2_Dense.linear.weight",
            "distilbert.pooler.dense.weight",
            "distilbert.embeddings.token_type_embeddings.weight",
            "distilbert.transformer.layer.0.adapter.up.weight",
            "classifier.weight.scale",
        )
    ),
    *(
        case(
            f"tensor names of {name}",
            CLASSIFIER,
            rename("^", prefix),
            error=rf"unexpected: {prefix}classifier\.bias",
        )
        for name, prefix in {"Lightning": "model.", "sentence-transformers": "0.auto_model."}.items()
    ),
    case(
        "BERT tensor names in a DistilBERT",
        ENCODER,
        rename(r"^transformer", "encoder"),
        error=r"unexpected: encoder\.layer",
    ),
    case(
        "missing encoder tensor",
        CLASSIFIER,
        drop(r"layer\.1\.ffn\.lin2\.bias"),
        error=r"missing: distilbert\.transformer\.layer\.1\.ffn\.lin2\.bias$",
    ),
    case(
        "missing encoder tensor, with a new head",
        CLASSIFIER,
        drop(r"layer\.1\.ffn\.lin2\.bias"),
        new_head=True,
        error=r"missing: distilbert\.transformer\.layer\.1\.ffn\.lin2\.bias(?!.*new_head)",
    ),
    case(
        "no position embeddings",
        ENCODER,
        drop("position"),
        shape=SINUSOIDAL,
        error=r"missing: \S*position\S*weight$",
    ),
    *(
        case(f"{count} layers in the config of {cls}", cls, config(n_layers=count), error=message)
        for cls in (ENCODER, CLASSIFIER)
        for count, message in (
            (1, r"unexpected: \S*transformer\.layer\.1\.(?!.*new_head)"),
            (3, r"missing: \S*transformer\.layer\.2\.(?!.*new_head)"),
            (1000, "config.json: n_layers is 1000: expected at most 48"),
        )
    ),
    *(
        case(f"different {key} in the config", CLASSIFIER, config(**{key: value}), error=message)
        for key, value, message in (
            ("vocab_size", 61, r"word_embeddings\.weight \[60, 32\] \(expected \[61, 32\]\)"),
            ("max_position_embeddings", 8, r"position_embeddings\.weight \[16, 32\] \(expected \[8, 32\]\)"),
            ("hidden_dim", 64, r"ffn\.lin1\.weight \[48, 32\] \(expected \[64, 32\]\)"),
            ("dim", 64, r"word_embeddings\.weight \[60, 32\] \(expected \[60, 64\]\)"),
        )
    ),
    case(
        "different vocab_size, with a new head",
        MASKED_LM,
        config(vocab_size=61),
        shape=UNTIED,
        new_head=True,
        error=r"word_embeddings\.weight \[60, 32\] \(expected \[61, 32\]\)",
    ),
    case(
        "masked LM without word embeddings",
        MASKED_LM,
        drop("word_embeddings"),
        error=r"missing: \S*word_embeddings\.weight, vocab",
    ),
    case(
        "untied config without a projector",
        MASKED_LM,
        drop(PROJECTOR),
        shape=UNTIED,
        error=f"missing: {PROJECTOR}.*new_head=True",
    ),
    # Heads
    *(
        case(
            f"encoder loaded as {cls}",
            ENCODER,
            form(it),
            NO_LABELS,
            **LOAD_AS[cls],
            error=rf"missing: {FIRST_TENSOR[cls]}.*new_head=True",
        )
        for cls, it in zip(HEADS, (safetensors, zipped, legacy, shards("safetensors"), shards("bin")), strict=True)
    ),
    *(
        case(f"{old} loaded as {new}", old, **LOAD_AS[new], error=rf"missing: {FIRST_TENSOR[new]}.*new_head=True")
        for old, new in (
            (TOKEN_CLASSIFIER, CLASSIFIER),
            (CLASSIFIER, TOKEN_CLASSIFIER),
            (QUESTION_ANSWERING, TOKEN_CLASSIFIER),
            (MASKED_LM, CLASSIFIER),
            (CLASSIFIER, MASKED_LM),
        )
    ),
    case(
        "multiple choice loaded as a classifier",
        MULTIPLE_CHOICE,
        **LOAD_AS[CLASSIFIER],
        error=r"classifier\.weight \[1, 32\] \(expected \[3, 32\]\)",
    ),
    case(
        "different number of labels",
        CLASSIFIER,
        config(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}),
        error=r"classifier\.weight \[3, 32\] \(expected \[2, 32\]\)",
    ),
    # Keys of config.json
    *(
        case(
            f"{name}, without task=",
            CLASSIFIER,
            config(architectures=value),
            error=rf"in config\.json {message}.*task=",
        )
        for name, value, message in (
            ("no architectures", ..., "is missing"),
            ("empty architectures", [], "is missing"),
            ("unknown architectures", ["MyTagger"], "names MyTagger"),
            ("TensorFlow architectures", ["TFDistilBertModel"], "names TFDistilBertModel"),
        )
    ),
    *(
        case(name, CLASSIFIER, config(**values), error=rf"config\.json: {message}")
        for name, values, message in (
            ("string as architectures", {"architectures": CLASSIFIER}, "architectures is 'DistilBertFor"),
            ("RoBERTa", {"model_type": "roberta"}, "model_type is 'roberta'.*'distilbert'"),
            ("ALBERT", {"model_type": "albert"}, "model_type is 'albert'.*'distilbert'"),
            ("null as model_type", {"model_type": None}, "model_type is None.*'distilbert'"),
            (
                "contradicting label maps",
                {"label2id": {"contra": 1, "entail": 0, "neutral": 2}},
                "id2label and label2id contr",
            ),
            ("id2label with a gap", {"id2label": {"0": "a", "2": "c"}, "label2id": ...}, "id2label is .*from 0"),
            (
                "word as a label id",
                {"label2id": {"a": "first"}},
                "the label map .*'first': expected an integer",
            ),
            (
                "two labels with the same id",
                {"label2id": {"a": 0, "b": 0, "c": 1}},
                "label2id is .*two labels have the same id",
            ),
            (
                "num_labels larger than the label map",
                {"num_labels": 4},
                "num_labels is 4: expected the number of labels, 3",
            ),
            (
                "contradicting dim and hidden_size",
                {"hidden_size": 64},
                "dim is 32, but its alias hidden_size is 64",
            ),
            (
                "contradicting dtype and torch_dtype",
                {"torch_dtype": "float16"},
                "dtype is 'float32', but its alias torch_dtype is 'float16'",
            ),
            (
                "activation gelu_new",
                {"activation": "gelu_new"},
                "activation is 'gelu_new': expected one of gelu, relu",
            ),
            ("dtype int8", {"dtype": "int8"}, "dtype is 'int8': expected one of float32"),
            ("n_heads that does not divide dim", {"n_heads": 5}, "n_heads is 5: it must divide dim, which is 32"),
            ("string as a size", {"dim": "32"}, "dim is '32': expected an integer"),
        )
    ),
    case("old BERT without model_type", BERT, config(model_type=...), error="model_type"),
    case(
        "old BERT without model_type, loaded by task",
        BERT_MASKED_LM,
        config(model_type=...),
        task="fill-mask",
        error="model_type",
    ),
    case(
        "question answering with 3 labels",
        QUESTION_ANSWERING,
        config(id2label=LABEL_N),
        error=r"config\.json: num_labels is 3: question answering has 2",
    ),
    case(
        "new question-answering head on 3 labels",
        CLASSIFIER,
        new_head=True,
        **LOAD_AS[QUESTION_ANSWERING],
        error=r"num_labels is 3.*num_labels=2",
    ),
    # Arguments
    *(
        case(name, cls, raises=InputError, error=message, **load)
        for name, cls, message, load in (
            (
                "num_labels without new_head",
                CLASSIFIER,
                "num_labels is 3, but only a new head .*new_head=True",
                {"num_labels": 3},
            ),
            (
                "new head for an encoder",
                ENCODER,
                "new_head is True, but DistilBertModel has no head",
                {"new_head": True},
            ),
            (
                "new head for a task without a head",
                MASKED_LM,
                "new_head is True",
                {"new_head": True, **LOAD_AS[ENCODER]},
            ),
            (
                "new question-answering head with 3 labels",
                QUESTION_ANSWERING,
                "num_labels is 3: .* 2",
                {"new_head": True, "num_labels": 3},
            ),
            (
                "new multiple-choice head with 3 labels",
                MULTIPLE_CHOICE,
                "num_labels is 3: ",
                {"new_head": True, "num_labels": 3},
            ),
            (
                "new masked-LM head with 3 labels",
                MASKED_LM,
                "num_labels is 3: .*task=",
                {"new_head": True, "num_labels": 3},
            ),
            *(
                (
                    f"new head with {count!r} labels",
                    CLASSIFIER,
                    f"num_labels is {count!r}: exp",
                    {"new_head": True, "num_labels": count},
                )
                for count in (0, -1, 2.0, "3", True)
            ),
        )
    ),
    # BERTs that cannot be converted
    *(
        case(
            f"BERT with {key} {value}",
            BERT,
            config(**{key: value}),
            error=rf"config\.json: {key} is {value!r}.*{message}",
        )
        for key, value, message in (
            ("layer_norm_eps", 1e-5, "1e-12"),
            ("position_embedding_type", "relative_key", "absolute"),
            ("is_decoder", True, "False"),
            ("add_cross_attention", True, "False"),
            ("hidden_act", "gelu_new", "gelu, relu"),
        )
    ),
    *(
        case(
            f"{cls} in {FILE[it]}",
            cls,
            form(it),
            error=rf"cannot be converted to Distil{cls}: {reason}.*new_head=True",
        )
        for it in (safetensors, zipped)
        for cls, reason in NOT_CONVERTIBLE.items()
    ),
    *(
        case(
            f"{cls} loaded by task",
            cls,
            **LOAD_AS[f"Distil{cls}"],
            error=rf"cannot be converted to Distil{cls}: {NOT_CONVERTIBLE[cls]}.*new_head=",
        )
        for cls in NOT_CONVERTIBLE
        if f"Distil{cls}" in LOAD_AS
    ),
    *(
        case(f"{old} loaded as {new}", old, **LOAD_AS[new], error=message)
        for old, new, message in (
            ("BertForSequenceClassification", TOKEN_CLASSIFIER, r"missing: classifier\.weight.*new_head=True"),
            (
                BERT_TOKEN_CLASSIFIER,
                CLASSIFIER,
                "cannot be converted to DistilBertForSequenceClassification.*new_head=True",
            ),
            (BERT, CLASSIFIER, "cannot be converted to DistilBertForSequenceClassification.*new_head=True"),
            (BERT, MASKED_LM, r"missing: vocab_transform\.weight.*new_head=True"),
            (BERT, TOKEN_CLASSIFIER, r"missing: classifier\.weight.*new_head=True"),
        )
    ),
    *(
        case(
            f"token classifier of a BERT classifier, {'no architectures' if names is ... else names[0]}",
            "BertForSequenceClassification",
            config(architectures=names),
            **LOAD_AS[TOKEN_CLASSIFIER],
            error=r"missing: classifier\.weight.*the head of another task: .*classifier\.weight",
        )
        for names in (..., ["TFBertForSequenceClassification"], ["BertForManyLabels"])
    ),
    case("BertForPreTraining without task=", "BertForPreTraining", error=r"names BertForPreTraining.*task="),
    case(
        "BERT with a new head, without task=", "BertForSequenceClassification", new_head=True, error="pass task="
    ),
    case(
        "BERT without segment embeddings",
        BERT,
        drop("token_type"),
        error=r"missing: embeddings\.token_type_embeddings\.weight$",
    ),
    case(
        "BERT with segment embeddings of another width",
        BERT,
        replace("embeddings.token_type_embeddings.weight", lambda part: part[:, :8].contiguous()),
        error=r"token_type_embeddings\.weight \[2, 8\] \(expected \[segments, 32\]\)",
    ),
    case(
        "BERT with pruned heads",
        BERT,
        replace("encoder.layer.0.attention.self.query.weight", lambda part: part[:24].contiguous()),
        config(pruned_heads={"0": [1]}),
        error=r"attention\.\S+\.weight \[24, 32\] \(expected \[32, 32\]\)",
    ),
]
