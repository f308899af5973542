"""Plots of benchmark reports, drawn by matplotlib (extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint.files import write_files
from ..errors import InputError, require

SUFFIXES = (".svg", ".png", ".pdf")
COLORS = {"float32": "tab:blue", "bfloat16": "tab:orange", "int8": "tab:green"}
MARKERS = "os^vDX*P"


def check_plot(path: str | None) -> None:
    """Raise InputError or MissingDependency if a plot cannot be saved there. None is no plot."""
    if path is None:
        return
    require("matplotlib", extra="plot")
    if Path(path).suffix not in SUFFIXES or not Path(path).parent.is_dir():
        raise InputError(
            f"plot is {path}: expected a file name ending in {', '.join(SUFFIXES)}, in an existing folder"
        )


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, in inches, which needs no display."""
    require("matplotlib", extra="plot").use("agg")
    return require("matplotlib.figure", extra="plot").Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: str) -> None:
    """Save a figure in the format of the path's suffix."""
    write_files(Path(path).parent, {Path(path).name: figure.savefig})
