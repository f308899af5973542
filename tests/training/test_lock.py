"""Two runs do not write into one folder."""

from __future__ import annotations

import pytest

from minidistil.errors import InputError
from minidistil.io.locks import LOCK, locked_folder
from minidistil.training import fine_tune
from support.runs import QUICK


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}], ids=["new", "overwrite", "resume"])
def test_a_second_run_into_a_folder_is_refused_and_changes_nothing(encoder, texts, tmp_path, how):
    output = tmp_path / "run"
    with locked_folder(output):
        (output / "run.json").write_text("{}")
        (output / ".saving-now").write_text("a file that the first run is writing")
        before = files_of(output)
        with pytest.raises(InputError, match=r"another run is writing to .*run: wait until it has finished"):
            fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", **how)
        assert files_of(output) == before


def test_a_run_is_locked_until_it_ends_and_leaves_no_lock(encoder, texts, tmp_path, monkeypatch):
    output, locked = tmp_path / "run", []
    monkeypatch.setattr(
        "minidistil.training.fine_tuning.write_card", lambda folder, run: locked.append((folder / LOCK).exists())
    )
    fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", quiet=True)
    assert locked == [True]
    assert not (output / LOCK).exists()
    fine_tune(encoder, texts, output, recipe=QUICK, device="cpu", overwrite=True, quiet=True)


def test_a_lock_of_a_killed_run_is_no_obstacle(encoder, texts, tmp_path):
    (tmp_path / LOCK).touch()
    fine_tune(encoder, texts, tmp_path, recipe=QUICK, device="cpu", quiet=True)
    assert not (tmp_path / LOCK).exists()


def test_a_run_that_is_refused_leaves_no_folder(encoder, texts, tmp_path):
    with pytest.raises(InputError, match="has no run to resume"):
        fine_tune(encoder, texts, tmp_path / "new", recipe=QUICK, device="cpu", resume=True)
    assert not (tmp_path / "new").exists()
