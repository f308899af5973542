"""config.json: reading, labels, invalid values, writing, and files."""

import dataclasses
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidistil import CheckpointError, DistilBertConfig

NLI = {0: "entailment", 1: "neutral", 2: "contradiction"}

SIZES = ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim")
ALIASES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}


thorough = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(**values):
    return DistilBertConfig.from_dict(values)


@st.composite
def configs(draw):
    """Draw a valid config."""
    n_heads = draw(st.integers(1, 16))
    labels = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
    probability = st.floats(0, 1, exclude_max=True)
    return DistilBertConfig(
        vocab_size=draw(st.integers(1, 50_000)),
        max_position_embeddings=draw(st.integers(1, 1024)),
        sinusoidal_pos_embds=draw(st.booleans()),
        n_layers=draw(st.integers(1, 12)),
        n_heads=n_heads,
        dim=n_heads * draw(st.integers(1, 64)),
        hidden_dim=draw(st.integers(1, 4096)),
        dropout=draw(probability),
        attention_dropout=draw(probability),
        activation=draw(st.sampled_from(["gelu", "relu"])),
        initializer_range=draw(st.floats(0, 1)),
        qa_dropout=draw(probability),
        seq_classif_dropout=draw(probability),
        tie_word_embeddings=draw(st.booleans()),
        pad_token_id=draw(st.sampled_from([0, None])),
        problem_type=draw(st.sampled_from([None, "regression", "multi_label_classification"])),
        dtype=draw(st.sampled_from([None, "float32", "float16", "bfloat16"])),
        architectures=tuple(draw(st.lists(st.sampled_from(["DistilBertModel", "DistilBertForMaskedLM"])))),
        id2label=dict(enumerate(labels)),
    )


# Reading


def test_defaults_are_those_of_transformers():
    import transformers

    expected = transformers.DistilBertConfig()
    for field in dataclasses.fields(DistilBertConfig):
        if field.name not in ("architectures", "extra"):
            assert getattr(DistilBertConfig(), field.name) == getattr(expected, field.name), field.name


def test_an_empty_config_json_has_the_defaults():
    assert read() == DistilBertConfig()


def test_unknown_keys_are_kept_for_saving():
    config = read(dim=96, finetuning_task="mnli", nested={"a": [1, None]})
    assert config.extra == {"finetuning_task": "mnli", "nested": {"a": [1, None]}}
    assert config.to_dict()["finetuning_task"] == "mnli"
    assert config.to_dict()["nested"] == {"a": [1, None]}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_the_general_names_of_transformers_are_read_and_are_properties(alias, name):
    config = read(**{alias: 24})
    assert getattr(config, name) == getattr(config, alias) == 24
    assert alias not in config.extra


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_a_size_and_its_alias_must_agree(alias, name):
    assert getattr(read(**{alias: 24, name: 24}), name) == 24
    with pytest.raises(CheckpointError, match=rf"(?s)(?=.*\b{name}\b)(?=.*\b{alias}\b)"):
        read(**{alias: 24, name: 48})


def test_torch_dtype_is_the_old_name_of_dtype():
    config = read(torch_dtype="float16")
    assert config.dtype == "float16"
    assert "torch_dtype" not in config.to_dict()


@pytest.mark.parametrize("order", [("dtype", "torch_dtype"), ("torch_dtype", "dtype")])
def test_two_dtypes_that_differ_are_refused_in_either_order(order):
    stored = {"dtype": "float32", "torch_dtype": "float16"}
    assert read(dtype="float16", torch_dtype="float16").dtype == "float16"
    with pytest.raises(CheckpointError, match="torch_dtype"):
        read(**{key: stored[key] for key in order})


def test_another_model_type_is_refused():
    assert read(model_type="distilbert") == DistilBertConfig()
    with pytest.raises(CheckpointError, match="model_type is 'roberta'"):
        read(model_type="roberta")


def test_architectures_are_a_list_of_names():
    assert read(architectures=["DistilBertModel"]).architectures == ("DistilBertModel",)
    assert read(architectures=None).architectures == ()
    for wrong in ("DistilBertModel", [1], {}):
        with pytest.raises(CheckpointError, match="architectures"):
            read(architectures=wrong)


# Labels

SAME = {
    "string keys": {"id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"}},
    "int keys": {"id2label": NLI},
    "keys out of order": {"id2label": {"2": "contradiction", "0": "entailment", "1": "neutral"}},
    "label2id alone": {"label2id": {"entailment": 0, "neutral": 1, "contradiction": 2}},
    "label2id with string values": {"label2id": {"entailment": "0", "neutral": "1", "contradiction": "2"}},
    "both": {
        "id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"},
        "label2id": {"contradiction": "2", "entailment": "0", "neutral": "1"},
    },
    "both and num_labels": {
        "id2label": NLI,
        "label2id": {"entailment": 0, "neutral": 1, "contradiction": 2},
        "num_labels": 3,
    },
    "label2id is null": {"id2label": NLI, "label2id": None, "num_labels": None},
    "names in id2label only": {"id2label": NLI, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
    "names in label2id only": {
        "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
        "label2id": {"entailment": 0, "neutral": 1, "contradiction": 2},
    },
}


@pytest.mark.parametrize("stored", SAME.values(), ids=SAME.keys())
def test_labels_are_read_in_every_form_on_the_hub(stored):
    config = read(**stored)
    assert config.id2label == NLI
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.num_labels == 3


def test_the_default_is_two_labels_without_names():
    assert read().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert read(id2label=None, label2id=None).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert read(id2label={}, label2id={}).num_labels == 2


def test_num_labels_alone_makes_labels_without_names():
    assert read(num_labels=1).id2label == {0: "LABEL_0"}
    assert read(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert "num_labels" not in read(num_labels=3).extra


def test_two_classes_may_have_the_same_name():
    config = read(id2label={"0": "same", "1": "same"}, label2id={"same": 1})
    assert config.id2label == {0: "same", 1: "same"}
    assert config.label2id == {"same": 1}


def test_label_maps_that_contradict_each_other_are_both_shown():
    with pytest.raises(CheckpointError) as caught:
        read(id2label={"0": "yes", "1": "no"}, label2id={"yes": 1, "no": 0})
    message = str(caught.value)
    assert "id2label" in message
    assert "label2id" in message
    assert "{'0': 'yes', '1': 'no'}" in message
    assert "{'yes': 1, 'no': 0}" in message


def test_two_names_for_one_id_are_refused():
    with pytest.raises(CheckpointError, match="label2id"):
        read(id2label={"0": "yes", "1": "no"}, label2id={"yes": 0, "no": 1, "maybe": 1})


def test_two_names_for_one_id_without_id2label_are_refused():
    # one of the names would be dropped
    with pytest.raises(CheckpointError, match="label2id"):
        read(label2id={"yes": 0, "no": 0})


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("id2label", {"id2label": {"0": "a", "2": "b"}}),
        ("id2label", {"id2label": {"1": "a"}}),
        ("id2label", {"id2label": ["a", "b"]}),
        ("'x'", {"id2label": {"x": "a"}}),
        ("'-1'", {"id2label": {"-1": "a"}}),
        ("label2id", {"label2id": "a"}),
        ("'x'", {"label2id": {"a": "x"}}),
        ("0.5", {"label2id": {"a": 0.5}}),
        ("None", {"label2id": {"a": None}}),
        ("num_labels", {"num_labels": 0}),
        ("num_labels", {"num_labels": "3"}),
        ("num_labels", {"num_labels": 2.0}),
        ("num_labels", {"num_labels": 2, "id2label": NLI}),
    ],
)
def test_invalid_label_maps_are_refused(key, stored):
    with pytest.raises(CheckpointError, match=key):
        read(**stored)


# Invalid values

FRACTIONS = ("dropout", "attention_dropout", "seq_classif_dropout")
INVALID = [
    *((key, value) for key in SIZES for value in (0, -1, 12.0, "12", True, None, [12])),
    *((key, value) for key in FRACTIONS for value in (1.5, 1, -0.1, "0.1", True, None, math.nan, [0.1])),
    *(("initializer_range", value) for value in (-0.1, math.inf, math.nan, "0.02", True, None)),
    *(("sinusoidal_pos_embds", value) for value in (0, 1, "true", None)),
    *(("activation", value) for value in ("gelu_new", "GELU", "silu", "", None, 1, ["gelu"])),
    *(("dtype", value) for value in ("int64", "float8_e4m3fn", "single", 32, ["float32"])),
    *(("problem_type", value) for value in ("classification", 1, ["regression"])),
    *(("pad_token_id", value) for value in (-1, 30522, 0.0, "0", True)),
    ("n_heads", 7),
]


@pytest.mark.parametrize(("key", "value"), INVALID)
def test_an_invalid_value_is_an_error_that_names_its_key(key, value):
    with pytest.raises(CheckpointError, match=rf"\b{key} is "):
        read(**{key: value})
    with pytest.raises(CheckpointError, match=rf"\b{key} is "):
        DistilBertConfig(**{key: value})


@pytest.mark.parametrize(
    "labels", [{}, {1: "a"}, {0: "a", 2: "b"}, {"0": "a"}, {0: "a", "1": "b"}, ["a", "b"], None]
)
def test_invalid_labels_are_an_error_in_the_constructor_too(labels):
    with pytest.raises(CheckpointError, match="id2label"):
        DistilBertConfig(id2label=labels)


def test_an_error_shows_the_value_and_the_expected_ones():
    with pytest.raises(CheckpointError, match="n_heads is 5: it must divide dim, which is 64"):
        read(dim=64, n_heads=5)
    with pytest.raises(CheckpointError, match="activation is 'gelu_new': expected one of gelu, relu"):
        read(activation="gelu_new")


# Writing


@pytest.mark.full
@thorough
@given(configs(), st.dictionaries(st.sampled_from(["finetuning_task", "summary", "x"]), st.integers() | st.none()))
def test_a_written_config_is_read_back(config, extra):
    config = dataclasses.replace(config, extra=extra)
    assert DistilBertConfig.from_dict(config.to_dict()) == config
    assert DistilBertConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_missing_padding_token_is_read_back():
    # the default is 0, so null must be written
    assert read(**DistilBertConfig(pad_token_id=None).to_dict()).pad_token_id is None


@pytest.mark.full
@thorough
@given(configs())
def test_transformers_reads_a_written_config_with_the_same_values(config):
    import transformers

    stored = json.loads(json.dumps(config.to_dict()))
    reopened = transformers.DistilBertConfig.from_dict(stored)
    for field in dataclasses.fields(config):
        if field.name not in ("architectures", "dtype", "extra"):
            assert getattr(reopened, field.name) == getattr(config, field.name), field.name
    assert tuple(reopened.architectures or ()) == config.architectures
    assert str(reopened.dtype).removeprefix("torch.") == str(config.dtype)
    assert reopened.label2id == config.label2id
    assert reopened.num_labels == config.num_labels


def test_a_config_of_transformers_is_read_with_the_same_values(tmp_path):
    import transformers

    original = transformers.DistilBertConfig(
        vocab_size=99,
        dim=32,
        n_heads=4,
        n_layers=2,
        hidden_dim=48,
        activation="relu",
        id2label=NLI,
        dtype="float16",
    )
    original.save_pretrained(tmp_path)
    config = DistilBertConfig.from_file(tmp_path / "config.json")
    assert (config.vocab_size, config.dim, config.n_heads, config.n_layers) == (99, 32, 4, 2)
    assert (config.hidden_dim, config.activation, config.id2label, config.dtype) == (48, "relu", NLI, "float16")


# Files


def test_a_file_is_read_by_its_path_or_its_name(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"dim": 24, "id2label": {"0": "être", "1": "否"}}, ensure_ascii=False), "utf-8")
    assert DistilBertConfig.from_file(path) == DistilBertConfig.from_file(str(path))
    assert DistilBertConfig.from_file(path).id2label == {0: "être", 1: "否"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b'{"dim": 24',
        b"[1, 2]",
        b'"distilbert"',
        b"null",
        b"\xff\xfe{}",
        b'{"model_type": "d\xe9"}',
        b'{"dim": 7}',
        b"[" * 100_000,
    ],
)
def test_an_error_in_a_file_names_the_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        DistilBertConfig.from_file(path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_or_a_folder_in_its_place_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing\.json"):
        DistilBertConfig.from_file(tmp_path / "missing.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(CheckpointError, match=r"folder\.json"):
        DistilBertConfig.from_file(tmp_path / "folder.json")


def test_an_id_of_thousands_of_digits_is_refused():
    with pytest.raises(CheckpointError, match="expected an integer"):
        read(label2id={"a": "9" * 5000})


@pytest.mark.parametrize("label", [["a"], {"name": "a"}])
def test_a_label_that_is_a_container_is_refused(label):
    with pytest.raises(CheckpointError, match=r"id2label has the label .*: expected a string"):
        read(id2label={"0": "a", "1": label})


def test_two_spellings_of_the_same_id_are_refused():
    with pytest.raises(CheckpointError, match="two labels have the same id"):
        read(id2label={"00": "a", "0": "b"})


@pytest.mark.parametrize(
    ("bert_key", "key", "other"),
    [("intermediate_size", "hidden_dim", 64), ("hidden_dropout_prob", "dropout", 0.5)],
)
def test_a_bert_key_takes_precedence_over_the_distilbert_key(bert_key, key, other):
    values = {"model_type": "bert", "intermediate_size": 32, "hidden_dropout_prob": 0.25}
    for both in ({key: other, **values}, {**values, key: other}):
        assert getattr(read(**both), key) == values[bert_key]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"id2label": {"0": "a", "1": "\\ud800"}}', r"id2label\.1"),
        ('{"id2label": {"0": "a", "1": "b"}, "summary": [{"x\\uDFFF": 1}]}', r"summary\.0\.x"),
        ('{"architectures": ["\\ud83d\\ude00", "\\ude00\\ud83d"]}', r"architectures\.1"),
    ],
)
def test_a_lone_surrogate_is_refused_when_it_is_read(tmp_path, content, place):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{place}\S* has a lone surrogate"):
        DistilBertConfig.from_file(tmp_path / "config.json")


def test_an_escaped_emoji_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"id2label": {"0": "\\ud83d\\ude00", "1": "\\\\ud800"}}')
    assert DistilBertConfig.from_file(tmp_path / "config.json").id2label == {0: "\U0001f600", 1: "\\ud800"}


@pytest.mark.parametrize("label", ["\ud800", "a\udfff", 5, None])
def test_a_label_that_cannot_be_saved_is_refused_by_the_constructor(label):
    with pytest.raises(CheckpointError, match=r"id2label\[1\] is "):
        DistilBertConfig(id2label={0: "a", 1: label})


def test_json_beyond_the_limits_is_refused(tmp_path):
    for content, message in (
        ('{"x": ' + "[" * 100 + "]" * 100 + "}", "nested deeper than 64"),
        ('{"x": "' + "x" * 2**22 + '"}', "4,194,304 bytes"),
        ('{"x": [' + "1," * 200_000 + "1]}", "more than 200,000 values"),
        ('{"x": [' + "[]," * 100_000 + "1]}", "20,000 lists and objects"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
            DistilBertConfig.from_file(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="id2label has 100,001 labels: expected at most 100,000"):
        read(id2label={str(i): "a" for i in range(100_001)})


def test_labels_that_config_json_could_not_hold_are_refused():
    DistilBertConfig(id2label={i: f"name {i}" for i in range(30_000)})
    with pytest.raises(CheckpointError, match=r"the labels have .* bytes: expected at most"):
        DistilBertConfig(id2label={0: "x" * 3_000_000, 1: "b"})
