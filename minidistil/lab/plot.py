"""Plots of `bench` reports: a roofline, bars with the times of each case, and lines over the cases of a sweep."""

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
        roofline.plot(intensities, rates, "o-", color=f"C{i}", label=name)
        for number, point in enumerate(zip(intensities, rates, strict=True), 1):
            roofline.annotate(number, point, textcoords="offset points", xytext=(4, 4), fontsize="x-small")
    for number, (axes, (title, case)) in enumerate(zip(bars, cases.items(), strict=True), 1):
        milliseconds = [case["rows"][name]["cold"]["seconds"] * 1e3 for name in names]
        drawn = axes.barh(names, milliseconds, color=[f"C{i}" for i in range(len(names))])
        axes.bar_label(drawn, fmt="{:.3g}", padding=3)
        axes.axvline(case["bound"] * 1e3, color="black", linestyle=":")
        axes.set(xlabel="ms (dotted: bound)")
        axes.set_title(f"{number}: " + title.replace("; ", "\n"), fontsize="small")
        axes.margins(x=0.25)
    roofline.set(title="roofline", xlabel="FLOPs per byte", ylabel="GFLOP/s")
    roofline.legend(fontsize="x-small")
    figure.suptitle(next(header(report)))
    save_figure(figure, path)


def plot_sweep(report: dict[str, Any], path: str) -> None:
    """Plot cold-cache times and the bound, and speeds relative to plain PyTorch, over the cases of a sweep."""
    groups: dict[str, list[str]] = {}  # titles by the size of the layer
    for title in report["cases"]:
        groups.setdefault(title.partition("; ")[2], []).append(title)
    figure = new_figure(10, 4.5 * max(len(groups), 1))
    panels = figure.subplots(max(len(groups), 1), 2, squeeze=False)
    for (size, titles), (times, speeds) in zip(groups.items(), panels, strict=False):
        cases = [report["cases"][title] for title in titles]
        labels = [title.partition("; ")[0] for title in titles]
        times.plot(labels, [case["bound"] * 1e3 for case in cases], "k:", label="bound")
        for name in cases[0]["rows"]:
            cold = [case["rows"][name]["cold"] for case in cases]
            times.plot(labels, [timed["seconds"] * 1e3 for timed in cold], "o-", label=name)
            if cold[0]["speed"] is not None:
                speeds.plot(labels, [timed["speed"] for timed in cold], "o-", label=name)
        times.set(yscale="log", ylabel="cold ms", title=size or report["op"])
        speeds.set(ylabel="speed relative to torch", ylim=(0, None))
        for axes in (times, speeds):
            axes.tick_params(axis="x", labelrotation=20)
        times.legend(fontsize="small")
    figure.suptitle(next(header(report)))
    save_figure(figure, path)
