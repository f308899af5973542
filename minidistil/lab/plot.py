"""Plot a `bench` report: a roofline, and bars with the times of each case."""

from __future__ import annotations

from typing import Any

from ..benchmarks.plots import new_figure, save_figure
from .report import header


def plot_times(report: dict[str, Any], path: str) -> None:
    """Plot cold-cache times: FLOP rates under the machine's roofline, and a bar chart per case."""
    cases, (copies, matmuls) = report["cases"], report["ceilings"].values()
    names = list(next(iter(cases.values()))["rows"]) if cases else []  # the same for all cases
    figure = new_figure(6 + 3.5 * len(cases), 5)
    roofline, *bars = figure.subplots(1, 1 + len(cases), squeeze=False)[0]
    intensities = [case["operations"] / case["bytes"] for case in cases.values()]  # FLOPs per byte
    ridge = matmuls / copies  # below this intensity memory is the limit, above it compute
    ends = [min([*intensities, ridge]) / 4, ridge, max([*intensities, ridge]) * 4]
    roofline.loglog(ends, [min(matmuls, copies * x) / 1e9 for x in ends], color="black", label="ceilings")
    for i, name in enumerate(names):
        seconds = [case["rows"][name]["cold"]["seconds"] for case in cases.values()]
        rates = [case["operations"] / time / 1e9 for case, time in zip(cases.values(), seconds, strict=True)]
        roofline.plot(intensities, rates, "o", color=f"C{i}", label=name)
    for axes, (title, case) in zip(bars, cases.items(), strict=True):
        milliseconds = [case["rows"][name]["cold"]["seconds"] * 1e3 for name in names]
        drawn = axes.barh(names, milliseconds, color=[f"C{i}" for i in range(len(names))])
        axes.bar_label(drawn, fmt="{:.3g}", padding=3)
        axes.axvline(case["bound"] * 1e3, color="black", linestyle=":")
        axes.set(xlabel="ms (dotted: bound)")
        axes.set_title(title.replace("; ", "\n"), fontsize="small")
        axes.margins(x=0.25)
    roofline.set(title="roofline", xlabel="FLOPs per byte", ylabel="GFLOP/s")
    roofline.legend(fontsize="x-small")
    figure.suptitle(next(header(report)))
    save_figure(figure, path)
