"""Locks that one process holds at a time. The operating system releases them when it ends, if killed too."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, warn

LOCK = ".lock"  # name of the lock file of a folder
OFFSET = 2**31 - 2  # of the byte that is locked on Windows, where a locked byte cannot be read


def lock_file(file: int, path: Path) -> None:
    """Lock an open file until it is closed. Raises InputError if another process holds the lock.

    file: the file descriptor. path: for messages.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, OFFSET, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise InputError(
            f"another run is writing to {path}: wait until it has finished, or choose another output"
        ) from error
    except OSError as error:  # some network file systems
        warn(f"cannot lock {path} ({error.strerror}): make sure that no other run writes to it")


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if it is missing, within a `with` block.

    Raises InputError if another process holds the lock, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        created = not folder.exists()
        if not created and not folder.is_dir():
            raise InputError(f"cannot write to {folder}: it is a file; expected a folder")
        if folder.is_symlink() and created:
            raise InputError(f"cannot write to {folder}: it is a link to a folder that does not exist")
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        lock_file(file, folder)
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file)):  # its owner has just removed it
            raise InputError(f"another run has just written to {folder}: start this one again")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()
            if created:
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()
    finally:
        os.close(file)
