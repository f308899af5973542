"""Locks of files and folders: one process at a time, released when it ends in any way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from minidistil.errors import InputError
from minidistil.io import locks
from minidistil.io.locks import LOCK, lock_file, locked_folder

HOLDER = """
import sys, time
from pathlib import Path
from minidistil.io.locks import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_locked_once_and_then_again(tmp_path):
    folder = tmp_path / "new" / "run"
    with locked_folder(folder):
        (folder / "file").write_text("kept")
        with (
            pytest.raises(InputError, match=r"another run is writing to .*run: wait until it has finished"),
            locked_folder(folder),
        ):
            pytest.fail("locked twice")
        assert (folder / LOCK).exists()
    assert [path.name for path in folder.iterdir()] == ["file"]
    with locked_folder(folder):
        pass


def test_a_new_folder_that_stays_empty_is_removed(tmp_path):
    with pytest.raises(KeyError), locked_folder(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with locked_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_releases_its_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another run is writing"), locked_folder(tmp_path):
            pytest.fail("locked twice")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    with locked_folder(tmp_path):
        pass


def test_a_lock_file_that_its_owner_removed_is_no_lock(tmp_path, monkeypatch):
    """A process can lock the file after its owner removed it, while another process locks a new one."""
    real = lock_file

    def remove_first(file, path):
        (tmp_path / LOCK).unlink()
        real(file, path)

    monkeypatch.setattr(locks, "lock_file", remove_first)
    with pytest.raises(InputError, match=r"has just written to .*: start this one again"), locked_folder(tmp_path):
        pytest.fail("locked")


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=f"cannot write to {folder}: "), locked_folder(folder):
            pytest.fail("locked")
    with pytest.raises(InputError, match="it is a file; expected a folder"), locked_folder(tmp_path / "file"):
        pytest.fail("locked")
    assert (tmp_path / "file").read_text() == ""


def test_a_link_to_a_missing_folder_is_refused_and_kept(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "missing")
    with pytest.raises(InputError, match="it is a link to a folder that does not exist"), locked_folder(link):
        pytest.fail("locked")
    assert link.is_symlink()
    assert not link.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=r"cannot lock .*: make sure that no other run writes to it"),
        locked_folder(tmp_path),
    ):
        pass


def test_a_lock_lasts_until_the_file_is_closed(tmp_path):
    path = tmp_path / "answers"
    first = os.open(path, os.O_WRONLY | os.O_CREAT)
    second = os.open(path, os.O_WRONLY)
    lock_file(first, path)
    with pytest.raises(InputError, match="another run is writing"):
        lock_file(second, path)
    os.close(first)
    lock_file(second, path)
    os.close(second)
