"""A name → files → tensors → a model; and back."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .config import CHOICES, DistilBertConfig
from .errors import CheckpointError, InputError
from .model import DistilBertForSequenceClassification, DistilBertModel, Model
from .ops import Ops

M = TypeVar("M", bound=Model)

MODELS: dict[str, type[Model]] = {
    "DistilBertModel": DistilBertModel,
    "DistilBertForSequenceClassification": DistilBertForSequenceClassification,
}
TASKS: dict[str, type[Model]] = {
    "text-classification": DistilBertForSequenceClassification,
    "sentiment-analysis": DistilBertForSequenceClassification,
    "zero-shot-classification": DistilBertForSequenceClassification,
}
STORED = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
SHOWN = 8  # how many names of a kind an error lists


def from_pretrained(
    name: str | Path | Files,
    *,
    task: str | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    ops: Ops | None = None,
) -> Model:
    """Load a checkpoint, ready to answer (in eval mode).

    name: a folder, a checkpoint of weights/, or a Hub id. task: a pipeline's task; None: the class that
    config.json names in `architectures`. revision: a branch, tag or commit of the Hub's repository.
    dtype: "float32", "bfloat16", "float16", "float64" or a torch.dtype; None: float32 on the CPU, what the
    files say elsewhere. device: None is the CPU. ops: the operations to use.

    `CheckpointError` says which file, name or key is not as it must be, `InputError` which argument.
    On the CPU, weights stored in the asked dtype are not copied: they are the file, mapped into memory.
    """
    files = find_files(name, revision)
    cls = _class_for_task(task) if task else _class_for_files(files)
    return load(cls, files, dtype=dtype, device=device, ops=ops)


def load(
    cls: type[M],
    name: str | Path | Files,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    ops: Ops | None = None,
) -> M:
    """Load a checkpoint as one class: see `from_pretrained`."""
    if ops is not None and not isinstance(ops, Ops):
        raise InputError(f"ops is {type(ops).__name__}: expected Ops(...)")
    wanted = None if dtype is None else parse_dtype(dtype)
    where = parse_device("cpu" if device is None else device)
    files = find_files(name, revision)
    config = DistilBertConfig.from_file(files.get("config.json"))
    model = cls(config, device="meta")
    shapes = {name: list(parameter.shape) for name, parameter in model.state_dict().items()}
    model.load_state_dict(_read(files.get("model.safetensors"), shapes, where, wanted, config.dtype), assign=True)
    model.eval()
    return model if ops is None else model.with_ops(**vars(ops))


def _class_for_task(task: str) -> type[Model]:
    if task not in TASKS:
        raise InputError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
    return TASKS[task]


def _class_for_files(files: Files) -> type[Model]:
    config = DistilBertConfig.from_file(files.get("config.json"))
    for architecture in config.architectures:
        if architecture in MODELS:
            return MODELS[architecture]
    named = f"names {', '.join(config.architectures)}" if config.architectures else "is missing"
    raise CheckpointError(
        f"{files}: architectures in config.json {named}: minidistil has {', '.join(MODELS)}; "
        f"give task= ({', '.join(TASKS)}) to choose one"
    )


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Give the torch.dtype of a name, if it is one that models compute in."""
    name = str(dtype).removeprefix("torch.")
    names = [choice for choice in CHOICES["dtype"] if choice]
    if name not in names:
        raise InputError(f"dtype is {name!r}: expected one of {', '.join(names)}")
    return getattr(torch, name)


def parse_device(device: str | int | torch.device) -> torch.device:
    """Give a torch.device that this machine has; -1 is the CPU, another number that CUDA device."""
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 else "cpu"
    try:
        where = torch.device(device)
        if where.type not in ("cpu", "cuda"):
            torch.empty(1, device=where).cpu()  # whether torch has it at all: each kind raises an error of its own
    except Exception as error:
        raise InputError(f"device is {device!r}: expected cpu, cuda, cuda:1 or the like") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {str(where)!r}: torch sees {torch.cuda.device_count()} CUDA devices here")
    return where


def _read(
    path: Path,
    shapes: Mapping[str, list[int]],
    device: torch.device,
    dtype: torch.dtype | None,
    config_dtype: str | None,
) -> dict[str, Tensor]:
    """Read tensors of these shapes out of a safetensors file, each on the device and in the dtype asked for."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            _compare(path, shapes, {name: part.get_shape() for name, part in slices.items()})
            stored = {name: part.get_dtype() for name, part in slices.items()}
            odd = [f"{name} ({kind})" for name, kind in stored.items() if kind not in STORED]
            if odd:
                raise CheckpointError(f"{path}: expected floating-point weights, found {_some(odd)}")
            if dtype is None and device.type == "cpu":
                dtype = torch.float32
            elif dtype is None:
                dtype = parse_dtype(config_dtype) if config_dtype else STORED[next(iter(stored.values()))]
            return {name: file.get_tensor(name).to(device, dtype) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _compare(path: Path, expected: Mapping[str, list[int]], found: Mapping[str, list[int]]) -> None:
    """Refuse a file whose names and shapes are not the model's, naming every kind of difference at once."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shared = [name for name in expected if name in found]
    wrong = [f"{n} {found[n]} (expected {expected[n]})" for n in shared if found[n] != expected[n]]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
    problems = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
    if problems:
        raise CheckpointError(f"{path} does not hold this model's weights; {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save(model: Model, folder: str | Path) -> None:
    """Write config.json and model.safetensors, in the parameters' own dtype, as transformers reads them."""
    from safetensors.torch import save_file

    if model.device.type == "meta":
        raise InputError("there is nothing to save: the model is on the meta device, without weights")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    dtype = str(model.dtype).removeprefix("torch.")
    config = dataclasses.replace(model.config, architectures=(type(model).__name__,), dtype=dtype)
    write_files(
        folder,
        {
            "model.safetensors": lambda path: save_file(tensors, path, metadata={"format": "pt"}),
            "config.json": lambda path: write_json(path, config.to_dict()),
        },
    )


def write_files(folder: str | Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files beside their places, then rename them all: what fails leaves the folder's files as they were."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in writers:
            if (folder / name).is_dir():
                raise IsADirectoryError(f"{name} is a folder")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-", ignore_cleanup_errors=True) as beside:
            for name, write in writers.items():
                path = Path(beside, name)
                path.touch()
                mode = path.stat().st_mode
                write(path)
                path.chmod(mode)  # safetensors makes files that only their owner may read
            for name in writers:
                Path(beside, name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write to {folder}: {error}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file in the Hub's form."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


class Files:
    """The files of one checkpoint."""

    def find(self, filename: str) -> Path | None:
        """Give a file's path; None where the checkpoint has no such file."""
        raise TypeError(f"{type(self).__name__} has no files: use Folder or HubRepository")

    def get(self, *filenames: str) -> Path:
        """Give the path of the first of these files; CheckpointError where there is none."""
        for filename in filenames:
            if (path := self.find(filename)) is not None:
                return path
        raise CheckpointError(f"{self} has no {' or '.join(filenames)}{self.hint()}")

    def hint(self) -> str:
        """Say what may be the matter where a file is missing."""
        return ": is it a checkpoint in the Hub's format?"


def find_files(name: str | Path | Files, revision: str | None = None) -> Files:
    """Find a checkpoint: a folder, then the checkpoints that come with the package, then the Hub."""
    if isinstance(name, Files):
        return name
    if not isinstance(name, str | Path) or not str(name):
        raise InputError(f"the name of a checkpoint is {name!r}: expected a folder or a Hub id")
    try:
        for folder in (Path(name).expanduser(), *_shipped(str(name))):
            if folder.is_dir():
                if revision is not None:
                    raise InputError(f"revision goes with a Hub id: {folder} is a folder")
                return Folder(folder)
        if Path(name).exists():
            raise CheckpointError(f"{name} is a file: expected a folder with config.json and model.safetensors")
    except (OSError, RuntimeError) as error:  # too long a name, nobody's home
        raise CheckpointError(f"{name} is not a folder: {error}") from error
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise CheckpointError(f"there is no folder {name}: expected one with config.json, or a Hub id")
    return HubRepository(name, revision)


def _shipped(name: str) -> Iterable[Path]:
    """Where a checkpoint that comes with the project may lie: inside the wheel, or beside an editable package."""
    here = Path(__file__).parent
    return (
        root / name for root in (here / "weights", here.parent / "weights") if "/" not in name and name.strip(".")
    )


@dataclasses.dataclass(frozen=True)
class Folder(Files):
    """A checkpoint in a folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def find(self, filename: str) -> Path | None:
        """Give a file's path; None where the folder has no such file."""
        path = self.path / filename
        return path if path.is_file() else None


class HubRepository(Files):
    """A checkpoint on the Hub, through huggingface_hub: its cache, its offline mode, its token.

    All files come from the commit of the first one, whatever is pushed in between.
    """

    def __init__(self, name: str, revision: str | None):
        self.name = name
        self.revision = revision
        self.pinned = False

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at revision {self.revision}"

    def find(self, filename: str) -> Path | None:
        """Give a file's path, downloaded where the cache lacks it; None where the repository has no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, constants, errors, hf_hub_download, try_to_load_from_cache

        def known_missing() -> bool:
            return try_to_load_from_cache(self.name, filename, revision=self.revision) is _CACHED_NO_EXIST

        if self.pinned and known_missing():
            return None  # a commit never changes
        try:
            path = Path(hf_hub_download(self.name, filename, revision=self.revision))
        except errors.LocalEntryNotFoundError as error:
            if constants.HF_HUB_OFFLINE or known_missing():
                return None
            raise CheckpointError(
                f"cannot reach the Hub for {filename} of {self}, which is neither a folder here nor cached"
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise CheckpointError(
                f"{self} is gated: ask for access on the Hub, and log in: hf auth login"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"there is no folder and no Hub repository {self.name}; if it is private, log in: hf auth login"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(f"{self.name} on the Hub has no revision {self.revision}") from error
        except Exception as error:
            raise CheckpointError(f"cannot get {filename} of {self} from the Hub: {error}") from error
        self.revision = path.parent.name
        self.pinned = True
        return path

    def hint(self) -> str:
        """Say whether the Hub was asked."""
        from huggingface_hub import constants

        return " in the cache, and the Hub is off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else " on the Hub"
