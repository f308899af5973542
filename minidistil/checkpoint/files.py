"""The files of a checkpoint, in a folder, in weights/ or on the Hub; and atomic writes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..config import MAX_BYTES
from ..errors import CheckpointError, InputError, warn

COMMIT = re.compile("[0-9a-f]{40}")
MAX_CONFIGS = 20  # in subfolders, that are read for a hint
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # of git, and SHA-256


class Files:
    """The files of one checkpoint."""

    def find(self, filename: str) -> Path | None:
        """Return the path of a file; None if the checkpoint has no such file."""
        raise TypeError(f"{type(self).__name__} has no files: use Folder or HubRepository")

    def get(self, *filenames: str) -> Path:
        """Return the path of the first of these files that exists. Raises CheckpointError if none does."""
        for filename in filenames:
            if (path := self.find(filename)) is not None:
                return path
        if self.find("adapter_config.json") is not None:
            raise CheckpointError(
                f"{self} has no {' or '.join(filenames)}, but adapter_config.json of peft: load its base model "
                "and the adapter, with PeftModel.from_pretrained, and save what merge_and_unload() returns"
            )
        raise CheckpointError(f"{self} has no {' or '.join(filenames)}{self.hint()}")

    def hint(self) -> str:
        """Return the end of the error message for a missing file."""
        return ": expected a checkpoint in the Hub's format"


def find_files(
    name: str | Path | Files,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Files:
    """Find a checkpoint: a folder, else a checkpoint that ships with the package, else a Hub repository.

    token, local_files_only: as for huggingface_hub.
    """
    if isinstance(name, Files):
        return name
    if not isinstance(name, str | Path) or not str(name):
        hint = ", or the model in it, get_base_model()" if hasattr(name, "get_base_model") else ""  # of peft
        kind = type(name)
        shown = repr(name) if name is None or isinstance(name, str | int) else f"a {kind.__name__}"
        if kind.__module__.startswith("transformers."):
            shown += " of transformers"
            hint = "; call save_pretrained(folder) on it, and pass the folder"
        raise InputError(f"the name of a checkpoint is {shown}: expected a folder or a Hub id{hint}")
    try:
        for folder in (Path(name).expanduser(), *_shipped(str(name))):
            if folder.is_dir():
                if revision is not None:
                    raise InputError(f"revision is {revision!r}, but {folder} is a folder: omit revision=")
                return Folder(folder)
        if Path(name).exists():
            raise CheckpointError(f"{name} is a file: expected a folder with config.json and model.safetensors")
    except (OSError, RuntimeError) as error:  # a name that is too long, ~ without a home
        raise CheckpointError(f"{name} is not a folder: {error}") from error
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise CheckpointError(
            f"there is no folder {name}: expected a folder with config.json, or a Hub id{_similar(name)}"
        )
    return HubRepository(name, revision, token, local_files_only)


def _shipped(name: str) -> Iterable[Path]:
    """Return the folders where a shipped checkpoint may be: in the wheel, or beside an editable package."""
    here = Path(__file__).parents[1]
    return (
        root / name for root in (here / "weights", here.parent / "weights") if "/" not in name and name.strip(".")
    )


def _similar(name: str | Path) -> str:
    """Return a hint with the folders that have a similar name, or an empty string."""
    import difflib  # only for this message

    path = Path(name).expanduser()
    try:
        folders = [place for place in path.parent.iterdir() if place.is_dir()]
    except OSError:
        return ""
    matches = difflib.get_close_matches(path.name, [place.name for place in folders])
    return f"; similar folders: {', '.join(str(path.parent / match) for match in matches)}" if matches else ""


@dataclasses.dataclass(frozen=True)
class Folder(Files):
    """A checkpoint in a folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def find(self, filename: str) -> Path | None:
        """Return the path of a file; None if the folder has no such file."""
        return _existing(self.path / filename)

    def hint(self) -> str:
        """Return the end of the error message for a missing file: the models in the folder, if there are any."""
        found = () if self.find("config.json") else self.path.glob("*/*config.json")
        configs = itertools.islice(found, MAX_CONFIGS)
        folders = {config.parent.name for config in configs if _is_of_model(config)}
        names = ", ".join(sorted(folders, key=lambda name: (len(name), name)))  # checkpoint-500, checkpoint-1000
        return f", but these folders in it hold a model: {names}. Pass one of them" if names else super().hint()


def _existing(path: Path) -> Path | None:
    """Return the path of a file; None if there is nothing. Raises CheckpointError for anything else."""
    try:
        if path.is_file():
            return path
        if not os.path.lexists(path):
            return None
    except OSError as error:  # a name that is too long, a folder without read permission
        raise CheckpointError(f"cannot read {path}: {error}") from error
    kind = "a broken link" if path.is_symlink() and not path.exists() else "not a file"
    raise CheckpointError(f"{path} is {kind}: restore the file, or remove it")


def _is_of_model(config: Path) -> bool:
    """Return whether a file is the config of a model or an adapter, not of a module of sentence-transformers."""
    try:
        if not config.is_file():
            return False
        with config.open("rb") as file:
            return config.name == "adapter_config.json" or b'"model_type"' in file.read(MAX_BYTES)
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Subfolder(Files):
    """A folder inside a checkpoint."""

    files: Files
    name: str

    def __str__(self) -> str:
        return f"{self.files}/{self.name}"

    def find(self, filename: str) -> Path | None:
        """Return the path of a file; None if the folder has no such file."""
        return self.files.find(f"{self.name}/{filename}")

    def get(self, *filenames: str) -> Path:
        """Return the path of the first of these files that exists. Raises CheckpointError if none does."""
        return self.files.get(*(f"{self.name}/{filename}" for filename in filenames))


class HubRepository(Files):
    """A checkpoint on the Hub, through huggingface_hub: its cache, its offline mode, its token.

    All files come from the same commit, that of the first file.
    """

    def __init__(
        self, name: str, revision: str | None, token: str | bool | None = None, local_files_only: bool = False
    ):
        self.name = name
        self.revision = revision
        self.options: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
        self.pinned = False
        self.folder: Path | None = None  # of the commit, in the cache
        self.warned = False

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at revision {self.revision}"

    def find(self, filename: str) -> Path | None:
        """Return the path of a file, downloaded unless cached; None if the repository has no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, constants

        before = self._cached(filename)
        if self.pinned and before is _CACHED_NO_EXIST:
            return None  # a commit never changes
        offline = constants.HF_HUB_OFFLINE or self.options["local_files_only"]
        if not (self.pinned or before is not None or offline):
            self._check_connection(filename)
        with self._unchecked(filename, download=not (offline or (self.pinned and before))) as unchecked:
            path = self._download(filename, offline)
            if path is None:
                return None
            folder = path.parents[filename.count("/")]
            if unchecked or str(path) != before:  # downloaded now, or by a process that was killed
                self._verify(path, filename, folder.name)
        self.revision, self.pinned, self.folder = folder.name, True, folder
        return path

    def _cached(self, filename: str) -> object:
        """Return the path of a file in the cache, a constant if the repository has no such file, else None."""
        from huggingface_hub import errors, try_to_load_from_cache

        with contextlib.suppress(errors.HFValidationError):  # hf_hub_download explains it
            return try_to_load_from_cache(self.name, filename, revision=self.revision)
        return None

    @contextlib.contextmanager
    def _unchecked(self, filename: str, *, download: bool) -> Iterator[bool]:
        """Mark a file of the cache as unchecked, unless there is no download; yield whether it was before.

        The mark is removed at the end, but not if the process is interrupted or killed.
        """
        from huggingface_hub import constants

        locks = Path(constants.HF_HUB_CACHE, ".locks", f"models--{self.name.replace('/', '--')}")
        mark = locks / f"unchecked--{filename.replace('/', '--')}"
        before = mark.exists()
        if download:
            with contextlib.suppress(OSError, ValueError):  # then nothing can be downloaded either
                locks.mkdir(parents=True, exist_ok=True)
                mark.touch()
        checked = False
        try:
            yield before
            checked = True
        except CheckpointError:
            checked = not before  # nothing was downloaded, or it was deleted
            raise
        finally:
            if checked:
                with contextlib.suppress(OSError, ValueError):  # a cache that may only be read
                    mark.unlink(missing_ok=True)

    def _download(self, filename: str, offline: bool) -> Path | None:
        """Return the path of a file in the cache; None if the repository has no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, errors, hf_hub_download

        try:
            return Path(hf_hub_download(self.name, filename, revision=self.revision, **self.options))
        except errors.LocalEntryNotFoundError as error:
            if offline or self._cached(filename) is _CACHED_NO_EXIST:
                return None if self.folder is None else _existing(self.folder / filename)
            raise self._unreachable(filename, error.__cause__ or error) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise CheckpointError(
                f"{self} is gated: request access on the Hub, and log in: hf auth login"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(
                f"there is no folder and no Hub repository {self.name}; if it is private, log in: hf auth login"
                f"{_similar(self.name)}"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CheckpointError(f"{self.name} on the Hub has no revision {self.revision}") from error
        except Exception as error:
            refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401
            hint = "; the token may have expired: log in: hf auth login" if refused else ""
            raise CheckpointError(
                f"cannot download {filename} of {self} from the Hub: {_reason(error)}{hint}"
            ) from error

    def _check_connection(self, filename: str) -> None:
        """Raise CheckpointError if the Hub cannot be reached. hf_hub_download would try for 23 seconds."""
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

        try:
            get_hf_file_metadata(
                hf_hub_url(self.name, filename, revision=self.revision), token=self.options["token"]
            )
        except (errors.HfHubHTTPError, errors.HFValidationError):
            return  # hf_hub_download explains these
        except Exception as error:  # of the HTTP library, which depends on huggingface_hub's version
            raise self._unreachable(filename, error) from error

    def _unreachable(self, filename: str, error: BaseException) -> CheckpointError:
        hint = "; HF_HUB_OFFLINE=1 uses cached files only" if self.pinned else _similar(self.name)
        return CheckpointError(
            f"cannot reach the Hub for {filename} of {self}, which is neither a folder here nor cached: "
            f"{_reason(error)}{hint}"
        )

    def _verify(self, path: Path, filename: str, commit: str) -> None:
        """Compare a downloaded file with its ETag and its commit. A file that differs is deleted.

        The ETag is a SHA-256 for large files and the hash of git's blob for small ones.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        fixed = self.pinned or (self.revision is not None and COMMIT.fullmatch(self.revision))
        try:
            if fixed and commit != self.revision:
                raise ValueError(f"it is of commit {commit}: expected {self.revision}")
            if path.is_symlink():  # to a file that is named by its ETag
                etag: str | None = path.readlink().name
            else:  # as on Windows
                url = hf_hub_url(self.name, filename, revision=commit)
                etag = get_hf_file_metadata(url, token=self.options["token"]).etag
            etag = "" if etag is None else etag.lower()
            known = HASH.fullmatch(etag)
            if known and etag != _hash(path, etag):
                raise ValueError(f"it differs from its ETag, {etag}")
        except Exception as error:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise CheckpointError(
                f"the download of {filename} of {self} failed its check, and was deleted: {_reason(error)}"
            ) from error
        if not known and not self.warned:
            self.warned = True
            warn(f"downloads of {self} are not verified: the server sent the ETag {etag!r}, which is no hash")

    def hint(self) -> str:
        """Return where the file was looked for, for the error message."""
        from huggingface_hub import constants

        if not (self.options["local_files_only"] or constants.HF_HUB_OFFLINE):
            return " on the Hub"
        reason = "local_files_only is True" if self.options["local_files_only"] else "HF_HUB_OFFLINE is set"
        return f" in the cache, and {reason}{'' if self.pinned else _similar(self.name)}"


def _hash(path: Path, etag: str) -> str:
    """Return the hash of a file of the kind that an ETag has."""
    import hashlib  # only after a download

    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    """Return the message of a huggingface_hub or network error in one line, without links to documentation."""
    return " ".join(re.sub(r"For more information check: \S+", "", str(error)).split()) or type(error).__name__


def write_files(folder: str | Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files into a temporary folder, then move them: after a failure the folder is unchanged."""
    import tempfile  # only to write

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in writers:
            if (folder / name).is_dir():
                raise IsADirectoryError(f"{name} is a folder")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-", ignore_cleanup_errors=True) as temporary:
            for name, write in writers.items():
                path = Path(temporary, name)
                path.touch()
                mode = path.stat().st_mode
                write(path)
                path.chmod(mode)  # safetensors creates files that only the owner may read
            for name in writers:
                Path(temporary, name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write to {folder}: {error}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, formatted as on the Hub."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8. Lone surrogates, which names of files may have, are escaped, as in JSON."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
