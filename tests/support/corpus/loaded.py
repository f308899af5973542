"""Unusual checkpoints that load, with the logits of transformers."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from support.corpus.draft import (
    DISTIL,
    WORDS,
    add,
    beside,
    biased,
    case,
    cast,
    config,
    drop,
    encoder,
    form,
    legacy,
    only,
    pickled,
    plus_one,
    rename,
    replace,
    rounded,
    safetensors,
    shards,
    typeform,
    zipped,
)
from support.corpus.names import (
    BERT,
    BERT_MASKED_LM,
    BERT_PROJECTOR,
    BERT_TOKEN_CLASSIFIER,
    BERT_WORDS,
    BERTS,
    BIAS,
    CLASSIFIER,
    ENCODER,
    FILE,
    FORMS,
    GAMMA,
    HEADS,
    LABEL_N,
    LOAD_AS,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NO_LABELS,
    NO_PREFIX,
    NOT_CONVERTIBLE,
    OTHER_BIAS,
    POOLER,
    POSITIONS,
    PROJECTOR,
    QUESTION_ANSWERING,
    SINUSOIDAL,
    TIED,
    TOKEN_CLASSIFIER,
    UNTIED,
)

# How to read a line of the tables: case(NAME, CLASS, CHANGE, CHANGE, ..., KEYWORD=...)
#   NAME      what is unusual about the checkpoint; the id of its test
#   CLASS     the transformers class whose weights are saved: ENCODER, CLASSIFIER, MASKED_LM, ... (see names.py)
#   CHANGE    before the files are written, in order: config() changes config.json (... removes a key), only() and
#             typeform() replace it; rename(), add(), drop(), replace(), cast() change tensors; form() the files:
#             safetensors, zipped and legacy (.bin), shards(), shards_by_transformers, beside() (others)
#   shape=    values of the transformers config that differ from the tiny default
#   cls=      load with this class of minidistil, instead of minidistil.from_pretrained
#   like=     the model whose logits are expected, made from the saved one: encoder, rounded(dtype), biased(...)
#   peer=     False where transformers cannot read these files
#   labels=   the expected labels, in order
#   error=    the expected message (a regular expression), and raises= its class: only in refused.py
#   others    arguments of from_pretrained: task=, dtype=, new_head=, num_labels=; **LOAD_AS[CLASS] is the task
LOADED = [
    # Every head in every form
    *(case(f"{cls} in {name}", cls, form(it)) for cls in (ENCODER, *HEADS) for name, it in FORMS.items()),
    *(
        case(name, CLASSIFIER, form(*forms))
        for name, forms in {
            "safetensors beside a different .bin": (safetensors, plus_one(zipped)),
            "shards of safetensors beside a different .bin": (shards("safetensors"), plus_one(zipped)),
            "safetensors beside different shards": (safetensors, plus_one(shards("safetensors"))),
            ".bin beside different shards": (zipped, plus_one(shards("bin"))),
            ".bin beside TensorFlow, Flax and Rust files": (
                zipped,
                beside("tf_model.h5", "flax_model.msgpack", "rust_model.ot"),
            ),
            "safetensors beside ONNX files": (safetensors, beside("onnx/model.onnx", "onnx/model_quantized.onnx")),
            "output folder of a Trainer": (
                safetensors,
                beside("training_args.bin", "optimizer.pt", "rng_state.pth"),
            ),
            "state_dict() in .bin": (pickled(lambda draft, _: draft.model.state_dict()),),
            "named_parameters() in .bin": (pickled(lambda draft, _: dict(draft.model.named_parameters())),),
            "safetensors without metadata": (
                lambda folder, draft: save_file(draft.tensors, folder / "model.safetensors"),
            ),
        }.items()
    ),
    case(
        "view of a larger tensor in .bin",
        CLASSIFIER,
        replace("classifier.weight", lambda part: torch.cat([part, part]).T.contiguous().T[:3]),
        form(zipped),
    ),
    case(
        "sentence-transformers folder",
        ENCODER,
        form(zipped, beside("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")),
        task="sentence-embedding",
    ),
    # Masked LM
    case("tied projector stored twice", MASKED_LM, add(**{PROJECTOR: WORDS})),
    case("tied projector stored twice, in .bin", MASKED_LM, add(**{PROJECTOR: WORDS}), form(zipped)),
    case(
        "tied projector, state_dict() in .bin", MASKED_LM, form(pickled(lambda draft, _: draft.model.state_dict()))
    ),
    case("tied projector without word embeddings", MASKED_LM, rename(f"^{WORDS}$", PROJECTOR)),
    case(
        "tied projector without word embeddings, in .bin", MASKED_LM, rename(f"^{WORDS}$", PROJECTOR), form(zipped)
    ),
    case("tied projector by default", MASKED_LM, config(tie_word_embeddings=...)),
    case("untied projector", MASKED_LM, shape=UNTIED),
    case("untied projector in .bin", MASKED_LM, form(zipped), shape=UNTIED),
    case("tied config with a different projector", MASKED_LM, TIED, shape=UNTIED),
    case("tied config with a different projector, in .bin", MASKED_LM, TIED, form(zipped), shape=UNTIED),
    # The encoder of every head
    *(case(f"the encoder of {cls}", cls, **LOAD_AS[ENCODER], like=encoder) for cls in HEADS),
    *(
        case(f"the encoder of {cls} in .bin by class", cls, form(zipped), cls=ENCODER, like=encoder)
        for cls in HEADS
    ),
    case("the encoder of an untied masked LM", MASKED_LM, shape=UNTIED, task="sentence-embedding", like=encoder),
    # Tensor names; transformers does not support most of these
    case("encoder with the prefix", ENCODER, rename("^", "distilbert.")),
    *(case(f"{cls} without the prefix", cls, NO_PREFIX) for cls in HEADS),
    *(case(f"{cls} in DataParallel", cls, rename("^", "module."), peer=False) for cls in (ENCODER, *HEADS)),
    case("compiled classifier", CLASSIFIER, rename("^", "_orig_mod."), peer=False),
    case("compiled classifier in DataParallel", CLASSIFIER, rename("^", "module._orig_mod."), peer=False),
    case(
        "masked LM in DataParallel, compiled",
        MASKED_LM,
        rename("^", "_orig_mod.module."),
        form(zipped),
        peer=False,
    ),
    case(
        "classifier with its encoder in DataParallel",
        CLASSIFIER,
        rename("^distilbert", "distilbert.module"),
        peer=False,
    ),
    case(
        "token classifier with compiled layers",
        TOKEN_CLASSIFIER,
        rename(r"(layer\.\d+)\.", r"\1._orig_mod."),
        peer=False,
    ),
    *(case(f"{cls} with gamma and beta", cls, *GAMMA, peer=False) for cls in (CLASSIFIER, MASKED_LM)),
    case(
        "legacy .bin in DataParallel with gamma and beta, without the prefix",
        QUESTION_ANSWERING,
        NO_PREFIX,
        *GAMMA,
        rename("^", "module."),
        form(legacy),
        peer=False,
    ),
    case("encoder with position ids", ENCODER, add(**{"embeddings.position_ids": POSITIONS})),
    case(
        "token classifier with position ids",
        TOKEN_CLASSIFIER,
        add(**{"distilbert.embeddings.position_ids": POSITIONS}),
    ),
    # Labels
    case(
        "config of typeform's MNLI model",
        CLASSIFIER,
        typeform(),
        labels=["ENTAILMENT", "NEUTRAL", "CONTRADICTION"],
    ),
    *(
        case(name, CLASSIFIER, typeform(**values), form(it, beside("tf_model.h5")), labels=labels)
        for name, it, labels, values in (
            (
                "first config of typeform's MNLI model, with default names in label2id",
                zipped,
                ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
                {
                    "id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"},
                    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
                },
            ),
            (
                "permuted labels, ids as strings, generation keys",
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
            (
                "id2label out of order",
                {"id2label": {"2": "c", "0": "a", "1": "b"}, "label2id": ...},
                ["a", "b", "c"],
            ),
            ("empty label names", {"id2label": dict.fromkeys("012", ""), "label2id": {"": 2}}, ["", "", ""]),
            (
                "garbled label names",
                {"id2label": {"0": "\ufeff", "1": "Ã©", "2": " "}, "label2id": ...},
                ["\ufeff", "Ã©", " "],
            ),
            (
                "duplicate label name",
                {"id2label": {"0": "yes", "1": "no", "2": "no"}, "label2id": {"yes": 0, "no": 2}},
                ["yes", "no", "no"],
            ),
            (
                "default label names",
                {"id2label": LABEL_N, "label2id": {v: int(k) for k, v in LABEL_N.items()}},
                [*LABEL_N.values()],
            ),
            (
                "num_labels without label names",
                {"id2label": ..., "label2id": ..., "num_labels": 3},
                [*LABEL_N.values()],
            ),
        )
    ),
    case(
        "label names only in label2id, out of order",
        CLASSIFIER,
        config(id2label=LABEL_N, label2id={"c": 2, "a": 0, "b": 1}),
        labels=["a", "b", "c"],
    ),
    case("no labels", CLASSIFIER, NO_LABELS, shape={"labels": 2}, labels=["LABEL_0", "LABEL_1"]),
    case("regression", CLASSIFIER, config(problem_type="regression"), shape={"labels": 1}),
    case(
        "multi-label classification",
        CLASSIFIER,
        config(problem_type="multi_label_classification"),
        shape={"labels": 6},
    ),
    case("77 labels", CLASSIFIER, shape={"labels": 77}),
    # Other keys of config.json
    *(
        case(f"{name}, loaded as {task}", TOKEN_CLASSIFIER, config(architectures=value), task=task)
        for task in ("token-classification", "ner")
        for name, value in (
            ("no architectures", ...),
            ("null architectures", None),
            ("unknown architectures", ["MyTagger"]),
        )
    ),
    case("no architectures, loaded by class", MULTIPLE_CHOICE, config(architectures=...), cls=MULTIPLE_CHOICE),
    case("unknown and known architecture", CLASSIFIER, config(architectures=["Mine", CLASSIFIER])),
    case("sinusoidal config with other position embeddings", ENCODER, shape=SINUSOIDAL),
    case(
        "sinusoidal masked LM with other position embeddings, in .bin",
        MASKED_LM,
        config(output_hidden_states=True),
        form(zipped),
        shape=SINUSOIDAL,
    ),
    *(
        case(
            f"{dtype} files, {key} {'missing' if value is ... else value}",
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
    case("float32 files loaded in float64", CLASSIFIER, dtype="float64"),
    *(case(f"{cls} with relu", cls, shape={"activation": "relu"}) for cls in (CLASSIFIER, MASKED_LM)),
    *(
        case(
            f"sizes under {name}",
            CLASSIFIER,
            config(**old, hidden_size=32, num_attention_heads=4, num_hidden_layers=2),
        )
        for name, old in {
            "their aliases": {"dim": ..., "n_heads": ..., "n_layers": ...},
            "both names": {},
        }.items()
    ),
    *(
        case(
            name,
            MASKED_LM,
            config(architectures=..., output_past=True),
            task="fill-mask",
            shape={"vocab_size": size},
        )
        for name, size in {"cased vocabulary": 97, "multilingual vocabulary": 1195}.items()
    ),
    case("one layer", CLASSIFIER, shape={"n_layers": 1}),
    case("twelve layers", CLASSIFIER, shape={"n_layers": 12}),
    case("one attention head", CLASSIFIER, shape={"n_heads": 1}),
    case("no padding token", CLASSIFIER, shape={"pad_token_id": None}),
    case("no model_type", CLASSIFIER, config(model_type=...)),
    case(
        "config with sizes only",
        ENCODER,
        only(**DISTIL, vocab_size=60, max_position_embeddings=16),
        **LOAD_AS[ENCODER],
    ),
    case(
        "config keys of transformers 2",
        TOKEN_CLASSIFIER,
        config(_name_or_path="a/b", transformers_version="2.3.0", pruned_heads={}),
    ),
    # Single-segment BERT
    *(
        case(f"{cls} in {name}{other}", cls, *changes, form(it))
        for cls in BERTS
        for name, it in {"safetensors": safetensors, ".bin": zipped, "shards of .bin": shards("bin")}.items()
        for other, changes in {
            "": (),
            " with the other prefix": (rename("^", "bert.") if cls == BERT else NO_PREFIX,),
        }.items()
    ),
    *(
        case(f"{cls} with {name}", cls, shape=shape)
        for cls in (BERT, BERT_MASKED_LM)
        for name, shape in {
            "1 layer": {"num_hidden_layers": 1},
            "3 wide layers": {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 2},
            "12 layers": {"num_hidden_layers": 12},
            "1 segment type": {"type_vocab_size": 1},
            "3 segment types": {"type_vocab_size": 3},
            "relu": {"hidden_act": "relu"},
        }.items()
    ),
    case("BERT with 12 layers by default", BERT, config(num_hidden_layers=...), shape={"num_hidden_layers": 12}),
    *(case(f"{cls} without the pooler", cls, form(it), shape={"pooler": False}) for cls, it in ((BERT, legacy),)),
    *(case(f"{cls} with a pooler", cls, add(**POOLER)) for cls in (BERT_MASKED_LM, BERT_TOKEN_CLASSIFIER)),
    case("masked LM bias under its other name", BERT_MASKED_LM, rename(f"^{BIAS}$", OTHER_BIAS)),
    case("masked LM bias stored twice", BERT_MASKED_LM, add(**{OTHER_BIAS: BIAS})),
    case(
        "two different masked LM biases",
        BERT_MASKED_LM,
        add(**{OTHER_BIAS: torch.ones(60)}),
        like=biased(torch.ones_like),
    ),
    case(
        "BERT masked LM with all names, in .bin",
        BERT_MASKED_LM,
        add(**{OTHER_BIAS: BIAS, BERT_PROJECTOR: BERT_WORDS}),
        form(zipped),
    ),
    case("BERT projector without word embeddings", BERT_MASKED_LM, rename(f"^{BERT_WORDS}$", BERT_PROJECTOR)),
    case("untied BERT masked LM", BERT_MASKED_LM, shape=UNTIED),
    case(  # transformers 5 would drop the bias, and leave the projector without one
        "untied BERT masked LM with one bias name",
        BERT_MASKED_LM,
        drop(OTHER_BIAS),
        shape=UNTIED,
        like=biased(lambda bias: bias),
        peer=False,
    ),
    case("tied BERT config with a different projector", BERT_MASKED_LM, TIED, shape=UNTIED),
    *(
        case(
            f"masked LM of BertForPreTraining in {FILE[it]}",
            "BertForPreTraining",
            form(it),
            task="fill-mask",
        )
        for it in (safetensors, zipped, legacy)
    ),
    *(
        case(f"the encoder of {cls} in {FILE[it]}", cls, form(it), **LOAD_AS[ENCODER], like=encoder)
        for it in (safetensors, zipped)
        for cls in (*BERTS[1:], "BertForPreTraining", *NOT_CONVERTIBLE)
    ),
    case(
        "BERT with gamma, beta and position ids",
        BERT_MASKED_LM,
        *GAMMA,
        add(**{"bert.embeddings.position_ids": POSITIONS}),
    ),
    case("BERT in DataParallel", BERT_TOKEN_CLASSIFIER, rename("^", "module."), form(zipped), peer=False),
    case(
        "config keys of multilingual BERT",
        BERT_MASKED_LM,
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
        case(f"BERT in {dtype}", BERT_TOKEN_CLASSIFIER, cast(dtype), form(it), like=rounded(dtype))
        for dtype, it in ((torch.float16, safetensors), (torch.bfloat16, zipped))
    ),
]
