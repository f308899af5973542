"""The structure of the package: import order, imports of torch, and the size of the core."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import pytest

import minidistil
from support.places import ROOT

PACKAGE = ROOT / "minidistil"
ORDER = [
    *("errors", "checks", "forks", "reference", "config", "layout", "ops", "model", "heads", "tracing"),
    *("checkpoint", "checkpoint.arguments", "vocabulary"),
    *("tokenizer", "batching", "backends", "backends.prepared", "backends.onednn"),
    *("backends.fbgemm", "backends.processor", "backends.int8"),
    *("io", "io.text_files", "io.locks"),
    *("checkpoint.files", "checkpoint.tasks", "checkpoint.names"),
    "checkpoint.config",
    *(
        "checkpoint.budget",
        "checkpoint.pickles",
        "checkpoint.tensors",
        "checkpoint.matching",
        "checkpoint.arrays",
        "checkpoint.architectures",
        "checkpoint.load",
        "checkpoint.save",
    ),
    *("checkpoint.tokenizer_limits", "checkpoint.tokenizer"),
    *("pipelines.scores", "pipelines.base", "pipelines.pooling", "pipelines.inference"),
    "pipelines.numpy_engine",
    *("pipelines.classification", "pipelines.fill_mask", "pipelines.token_classification"),
    "pipelines.question_answering",
    *("pipelines.sentence_transformers", "pipelines.embedding", "pipelines"),
    *("training.progress", "training.records", "training.labels", "training.label_rules", "training.data"),
    *("training.recipe", "training.distributed"),
    "training.adaptation",
    *("training.metrics", "training.evaluation", "training.machine", "training.card", "training.loop"),
    *("training.console", "training.base", "training.run", "training.fine_tuning", "training"),
    *("benchmarks", "benchmarks.measure", "benchmarks.plots", "benchmarks.workload", "benchmarks.startup"),
    *("benchmarks.training", "benchmarks.precisions", "benchmarks.runtimes", "benchmarks.race"),
    "lab.configs",
    *("lab.registry", "lab.rounding", "lab.reference", "lab.numpy_ops", "lab.cases", "lab.operations"),
    *(
        "lab.arena",
        "lab.state",
        "lab.classifier",
        "lab.profiler",
        "lab.server",
        "lab.worker",
        "lab.suites",
        "lab.tolerance",
        "lab.gate",
        "lab.checks",
    ),
    *("lab.triton_setup", "lab.embed", "lab.linear", "lab.add_norm", "lab.attention", "lab.block"),
    "lab.static_shapes",
    *("lab.memory", "lab.workloads", "lab.cost", "lab.timer", "lab.report", "lab.plot", "lab.results"),
    *("lab.bench", "lab.in_model", "lab.summary", "lab.child", "lab.skeletons"),
    *("lab", "cli", "cli.output", "cli.options", "cli.sources"),
    *("cli.sinks", "cli.answer", "cli.verbs", "cli.training", "cli.benchmarks"),
    *("cli.lab_times", "cli.lab", "cli.env", "cli.main"),
    "__main__",
]
EXCEPTIONS = {  # from_pretrained and save_pretrained
    *(("model", "checkpoint.load"), ("model", "checkpoint.save"), ("tokenizer", "checkpoint.tokenizer")),
}
FREE_OF_TORCH = [
    *("errors", "checks", "reference", "config", "tokenizer", "batching", "checkpoint.files", "checkpoint.tasks"),
    *("checkpoint.names", "checkpoint.config", "checkpoint.tensors", "checkpoint.matching", "checkpoint.arrays"),
    "pipelines.numpy_engine",
    *("pipelines", "pipelines.scores", "pipelines.base", "pipelines.classification", "pipelines.fill_mask"),
    *("pipelines.token_classification", "pipelines.question_answering", "pipelines.embedding"),
    *(
        "pipelines.sentence_transformers",
        "training",
        "training.progress",
        "training.labels",
        "training.label_rules",
        "training.metrics",
        "cli.main",
        "cli.answer",
        "cli.verbs",
        "cli.sources",
        "cli.sinks",
        "io.text_files",
        "io.locks",
        "forks",
    ),
]
BUDGETS = {("layout", "ops", "model", "heads"): 852, ("reference",): 140}


def text_of(module):
    path = PACKAGE / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")


def imports_of(module):
    """Yield all imports of a module, inside functions too; modules of the package begin with a dot."""
    package = ["", *module.split(".")[: None if (PACKAGE / module.replace(".", "/")).is_dir() else -1]]
    for node in ast.walk(ast.parse(text_of(module))):
        if isinstance(node, ast.Import):
            yield from (_relative(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = f"{base}.{node.module}" if node.level and node.module else node.module or base
            for alias in node.names:
                name = _relative(f"{source}.{alias.name}")
                is_module = name[1:] in ORDER
                if is_module or source or alias.name != "__version__":
                    yield name if is_module else _relative(source)


def _relative(name):
    return name.removeprefix("minidistil") if name.startswith("minidistil.") else name


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_every_module_is_in_the_order():
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    assert {".".join(path.parts).removesuffix(".__init__") for path in paths} == {*ORDER, "__init__"}


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_modules_above_it(module):
    above = ORDER[: ORDER.index(module)]
    for name in imports_of(module):
        if name.startswith("."):
            assert name[1:] in above or (module, name[1:]) in EXCEPTIONS


def test_an_import_of_a_module_from_its_package_counts(monkeypatch):
    lines = "from ..benchmarks import race\nfrom . import race\nimport minidistil.cli.main\n"
    lines += "from .. import __version__"
    monkeypatch.setitem(globals(), "text_of", lambda module: lines)
    assert list(imports_of("benchmarks.measure")) == [".benchmarks.race", ".benchmarks.race", ".cli.main"]


def test_the_only_import_cycles_are_from_pretrained_and_save_pretrained():
    """Without these exceptions every import goes from a module to one above it, so there can be no cycle."""
    assert {module for module, _ in EXCEPTIONS} == {"model", "tokenizer"}
    for module, name in EXCEPTIONS:
        assert f".{name}" in set(imports_of(module))
        functions = [node for node in ast.walk(ast.parse(text_of(module))) if isinstance(node, ast.FunctionDef)]
        inside = [node.name for node in functions if f"from .{name} import" in ast.unparse(node)]
        assert inside
        assert set(inside) <= {"from_pretrained", "save_pretrained"}


def test_modules_that_are_free_of_torch_do_not_import_it():
    names = ", ".join(f"minidistil.{name}" for name in FREE_OF_TORCH)
    assert run(f"import sys, json, {names}; print(json.dumps('torch' in sys.modules))") is False


def test_texts_become_token_ids_without_torch(checkpoint):
    code = f"""
import sys, json
from minidistil import Tokenizer
ids = Tokenizer.from_pretrained({str(checkpoint)!r}).encode(["a text"]).ids
print(json.dumps([ids, "torch" in sys.modules]))
"""
    assert run(code) == [[[2, 5, 6, 3]], False]


@pytest.mark.parametrize("module", ["__init__", *ORDER])
def test_nothing_imports_transformers(module):
    assert not [name for name in imports_of(module) if name.split(".")[0] == "transformers"]


@pytest.mark.full
def test_the_public_names_import_few_modules():
    before = "import sys, json, torch, safetensors, tokenizers; before = set(sys.modules)\n"
    use = "from minidistil import from_pretrained, Tokenizer, pipeline\n"
    added = run(before + use + "print(json.dumps(sorted(set(sys.modules) - before)))")
    assert len(added) <= 40, added


def test_importing_the_package_imports_neither_torch_nor_numpy():
    assert not {"torch", "numpy"} & set(run("import sys, json, minidistil; print(json.dumps([*sys.modules]))"))


@pytest.fixture
def checkpoint(tmp_path):
    """Create the folder of a tiny zero-shot classifier."""
    names = {0: "entailment", 1: "neutral", 2: "contradiction"}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "text"]
    config = minidistil.DistilBertConfig(
        len(vocabulary), n_layers=1, n_heads=1, dim=8, hidden_dim=8, id2label=names
    )
    minidistil.DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return tmp_path


@pytest.mark.full
def test_a_zero_shot_answer_loads_neither_dynamo_nor_transformers(checkpoint):
    code = f"""
import sys, json
from minidistil import pipeline
pipeline("zero-shot-classification", model={str(checkpoint)!r})("a text", candidate_labels=["a", "b"])
print(json.dumps([m for m in ("torch._dynamo", "transformers", "huggingface_hub") if m in sys.modules]))
"""
    assert run(code) == []


@pytest.mark.parametrize("modules", BUDGETS, ids=lambda modules: "+".join(modules[:3]))
def test_the_core_stays_within_its_line_budgets(modules):
    """Count all lines, with comments and docstrings. Raise a budget only if the new lines are worth reading."""
    lines = sum(len(text_of(module).splitlines()) for module in modules)
    assert lines <= BUDGETS[modules]


def test_every_public_name_can_be_looked_up():
    assert not [name for name in minidistil.__all__ if not hasattr(minidistil, name)]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        _ = minidistil.banana


def test_the_version_is_that_of_pyproject_toml():
    written = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert written is not None
    assert minidistil.__version__ == written[1]
