"""Tables of unusual values that the fuzzer writes into a checkpoint, and texts that it classifies."""

from __future__ import annotations

from typing import Any

TEXTS = [
    "a good film",
    "",
    " \t\r\n ",
    "Zoë\u2019s café: the worst, isn't it?!",
    "漢字 かな 한글 ᄀ각 😀👩‍👩‍👧 \U0010ffff",
    "\u202e\u200b\ufeff\u0000\u0001\ufffd",
    "e" + "\u0301" * 200,
    "İıſßﷺ" * 5,
    "a" * 3000,
    "[MASK] [SEP] ##ing the [UNK]",
    {"text": "a bad film", "text_pair": "the good end ☃"},
]


def _deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


NUMBERS = ["0", "-0", "-1", "1", "2", "3", "16", "23", "25", "60", "61", "62", "255", "65536"]
NUMBERS += ["268435455", "268435456", "2147483647", "2147483648", "-2147483648", "4294967295", "4294967296"]
NUMBERS += ["9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616"]
NUMBERS += ["1" + "0" * 400, "9" * 5000, "-" + "9" * 4300, "0.5", "-0.5", "1.0", "16.0", "1e-320", "1e308"]
NUMBERS += ["1e400", "-1e400", "NaN", "Infinity", "-Infinity"]
STRINGS = [
    '""',
    '"a"',
    '"[UNK]"',
    '"[MASK]"',
    '"\\ud800"',
    '"\\u0000"',
    '"☃"',
    '"16"',
    '"left"',
    '"bert"',
    '"\\n"',
]
STRINGS += ['"relu"', '"bfloat16"', '"float16"', '"regression"', '"PreTrainedTokenizerFast"', f'"{"x" * 100_000}"']
STRINGS += [f'"{"9" * 5000}"', '"../config.json"', '"config.json"', '"/dev/zero"', '"F64"', '"I64"', '"F8_E4M3"']
NESTED = ["[]", "{}", "[[]]", "[0]", "[null]", "[true]", '["a", "b"]', '{"a": 1}', '{"": null}', '{"0": "a"}']
NESTED += ['{"content": 5}', '{"content": "[MASK]"}', '{"content": null}', '{"content": ""}', '["\\ud800"]']
NESTED += [_deep(depth) for depth in (100, 400, 900, 940, 960, 970, 980, 985, 990, 5000, 200_000)]
NESTED += [_deep(depth, '{"a":', "}") for depth in (100, 400, 900, 960, 980, 200_000)]
KEYS = [
    "",
    "a",
    "0",
    "-1",
    "3",
    "9" * 5000,
    "²",
    "\u0661",
    "\ud800",
    "x" * 10_000,
    "content",
    "__metadata__",
    "__class__",
]
KEYS += ["hidden_size", "num_labels", "num_hidden_layers", "torch_dtype", "problem_type", "vocab_size", "dtype"]
KEYS += ["architectures", "label2id", "id2label", "layer_norm_eps", "extra", "max_len", "split_special_tokens"]
KEYS += [
    "additional_special_tokens",
    "extra_special_tokens",
    "bos_token",
    "pad_token",
    "unk_token",
    "type",
    "model",
]
COMPONENTS: dict[str, list[Any]] = {  # of a tokenizer.json
    "normalizer": [
        None,
        {"type": "Lowercase"},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
        {"type": "Precompiled", "precompiled_charsmap": "CAAAAAAAAAAAAAAAAAAA"},
        {"type": "Precompiled", "precompiled_charsmap": ""},
        {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": "("}, "content": "x"},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "x"},
        {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 100},
        {"type": "Replace", "pattern": {"Regex": ".*"}, "content": ""},
        {"type": "Prepend", "prepend": "▁" * 1000},
        {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "NFKC"}]},
        {"type": "Sequence", "normalizers": []},
        {"type": "ByteLevel"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
    "pre_tokenizer": [
        None,
        {"type": "Whitespace"},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": "(?<=a)"}, "behavior": "MergedWithNext", "invert": True},
        {"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Removed", "invert": False},
        {"type": "Split", "pattern": {"String": ""}, "behavior": "Contiguous", "invert": False},
        {"type": "Punctuation", "behavior": "MergedWithPrevious"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": "", "prepend_scheme": "always", "split": True},
        {"type": "Digits", "individual_digits": True},
        {"type": "UnicodeScripts"},
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": 3},
        {"type": "CharDelimiterSplit", "delimiter": "a"},
        {"type": "Sequence", "pretokenizers": []},
    ],
    "post_processor": [
        None,
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        {"type": "BertProcessing", "sep": ["", 4294967295], "cls": ["[CLS]", 2]},
        {
            "type": "RobertaProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[GONE]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 9}}],
            "special_tokens": {},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "B", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"x": {"id": "x", "ids": [], "tokens": []}},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"x": {"id": "x", "ids": [2] * 30, "tokens": ["y"] * 30}},
        },
        {"type": "Sequence", "processors": []},
    ],
    "model": [
        {"type": "WordLevel", "vocab": {"a": 0, "[CLS]": 1, "[SEP]": 2}, "unk_token": "[UNK]"},
        {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 4294967295}, "unk_token": "[UNK]"},
        {"type": "WordLevel", "vocab": {}, "unk_token": ""},
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "[GONE]"},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 2.0},
        {
            "type": "BPE",
            "vocab": {"a": 0, "aa": 1},
            "merges": [["a", "a"]],
            "byte_fallback": True,
            "unk_token": "a",
        },
        {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]], "byte_fallback": False},
        {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]], "byte_fallback": False},
        {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0], ["", 1e308]], "byte_fallback": True},
        {"type": "Unigram", "unk_id": 0, "vocab": [], "byte_fallback": False},
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": 2**60,
            "vocab": {"[UNK]": 0, "": 1, "a": 2},
        },
        {
            "type": "WordPiece",
            "unk_token": "[GONE]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 0,
            "vocab": {"a": 0},
        },
    ],
    "truncation": [
        {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0},
        {"direction": "Left", "max_length": 2, "strategy": "OnlySecond", "stride": 2**63},
    ],
    "padding": [
        {
            "strategy": {"Fixed": 2**40},
            "direction": "Left",
            "pad_to_multiple_of": 0,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "",
        },
        {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": 8,
            "pad_id": 99,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    ],
    "added_tokens": [
        [],
        [{"id": 4294967295, "content": "a"}],
        [
            {"id": i, "content": content, "special": special, "normalized": not special}
            | dict.fromkeys(flags, True)
            for i, (content, special, flags) in enumerate(
                [
                    ("", True, []),
                    ("a", False, ["single_word"]),
                    (" ", False, ["lstrip", "rstrip"]),
                    ("e\u0301", True, []),
                ]
            )
        ],
        [
            {"id": 5, "content": content, "special": False, "normalized": True}
            | {"single_word": False, "lstrip": True, "rstrip": True}
            for content in ("a", "A", "́", " ", "the film", "\u0000")
        ],
    ],
    "decoder": [
        None,
        {"type": "ByteFallback"},
        {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
    ],
}


VOCABULARY_LINES = (
    b"",
    b" ",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\0",
    b"x" * 1_000_000,
    "\u2028".encode(),
    b"\r",
    b"[UNK]",
    b"##",
)
PICKLED_NUMBERS = (0, 1, 2, 3, 15, 16, 17, 255, 976, 10**6, 2**31, 2**40, 2**61, 2**63 - 1, 2**64, -1, -16)
PICKLED_STRINGS = (
    "",
    "cpu",
    "cuda:0",
    "meta",
    "xla",
    "storage",
    "module",
    "0",
    "1",
    "99",
    "../version",
    "a" * 1000,
)
PICKLED_CLASSES = (
    "torch IntStorage",
    "torch DoubleStorage",
    "torch HalfStorage",
    "torch BoolStorage",
    "builtins eval",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "torch Size",
    "torch Tensor",
    "os system",
    "torch.storage UntypedStorage",
    "torch.storage TypedStorage",
    "torch._tensor _rebuild_from_type_v2",
)
