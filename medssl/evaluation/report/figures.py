"""Figures of reports: small, so that their text stays legible on a phone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = ("#0b6e99", "#d1495b", "#5f8f3e", "#8d5fb0", "#c77700", "#3b4a57")
_WIDTH_IN = 5.2


def blank(height_in: float = 3.2) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, without frame on top and right."""
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curve_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str, logarithmic: bool = False
) -> Figure:
    """Curves over training steps: the values faint, their running mean strong where there are many.

    Args:
        curves: Name to (steps, values).
        ylabel: Name of the values.
        logarithmic: Logarithmic values where all are positive and the largest is more than 20 times the smallest.
    """
    figure, axes = blank()
    for (name, (steps, values)), colour in zip(curves.items(), _cycled(len(curves)), strict=True):
        smooth = _running_mean(np.asarray(values, dtype=np.float64), max(1, len(values) // 25))
        if len(values) > 50:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smooth, color=colour, label=name)
        else:
            axes.plot(steps, values, color=colour, marker="o", markersize=3, label=name)
    every = [v for _, values in curves.values() for v in values]
    if logarithmic and min(every) > 0 and max(every) > 20 * min(every):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


def interval_figure(rows: Sequence[tuple[str, str, Mapping[str, Any]]], xlabel: str) -> Figure:
    """Estimates with their intervals, one line each.

    Args:
        rows: (group, name, interval as JSON): a colour a name, a block a group.
        xlabel: Name of the values.
    """
    names = list(dict.fromkeys(name for _, name, _ in rows))
    figure, axes = blank(0.9 + 0.34 * len(rows))
    colours = dict(zip(names, _cycled(len(names)), strict=True))
    for place, (_, name, interval) in enumerate(rows):
        estimate, low, high = (interval.get(key) for key in ("estimate", "low", "high"))
        if estimate is None:
            continue
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colours[name], linewidth=3, alpha=0.5)
        axes.plot(estimate, place, "o", color=colours[name], markersize=7)
    groups = {group: [n for n, row in enumerate(rows) if row[0] == group] for group, _, _ in rows}
    axes.set_yticks([float(np.mean(places)) for places in groups.values()], list(groups))
    if len(names) > 1:
        handles = [Line2D([], [], marker="o", linestyle="", color=colours[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    return figure


def case_figure(values: Mapping[str, Sequence[float]], ylabel: str, floor: float | None = None) -> Figure:
    """Every case as a dot, a column a group, the median as a line.

    Args:
        values: Group to the numbers of its cases.
        ylabel: Name of the numbers.
        floor: Lower end of the axis.
    """
    figure, axes = blank()
    rng = np.random.default_rng(0)
    for place, (numbers, colour) in enumerate(zip(values.values(), _cycled(len(values)), strict=True)):
        finite = np.asarray(numbers, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            axes.plot(place + rng.uniform(-0.16, 0.16, len(finite)), finite, ".", color=colour, alpha=0.7)
            axes.plot([place - 0.28, place + 0.28], [np.median(finite)] * 2, color="0.15", linewidth=1.5)
    axes.set_xticks(range(len(values)), list(values), rotation=0 if len(values) < 5 else 30)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_ylabel(ylabel)
    if floor is not None:
        axes.set_ylim(bottom=floor)
    return figure


def label_figure(points: Sequence[Mapping[str, Any]], ylabel: str) -> Figure:
    """Arms over the number of labelled patients, with their intervals and each seed as a dot.

    Args:
        points: `labels` and `arms`: name to `mean` (interval as JSON) and `seeds`.
        ylabel: Name of the values.
    """
    figure, axes = blank(3.8)
    names = list(dict.fromkeys(name for point in points for name in point["arms"]))
    for number, (name, colour) in enumerate(zip(names, _cycled(len(names)), strict=True)):
        there = [(place, p["arms"][name]) for place, p in enumerate(points) if name in p["arms"]]
        shift = 0.1 * (number - (len(names) - 1) / 2)
        places = [place + shift for place, _ in there]
        axes.plot(places, [found["mean"]["estimate"] for _, found in there], "o-", color=colour, label=name)
        for place, (_, found) in zip(places, there, strict=True):
            mean, seeds = found["mean"], list(found["seeds"].values())
            if mean["low"] is not None:
                axes.plot([place, place], [mean["low"], mean["high"]], color=colour, alpha=0.5, linewidth=2)
            axes.plot([place] * len(seeds), seeds, ".", color=colour, alpha=0.4, markersize=4)
    axes.set_xticks(range(len(points)), [str(point["labels"]) for point in points])
    axes.set_xlabel("labelled patients")
    axes.set_ylabel(ylabel)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def shot_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """AUROC over the images a class, with the standard deviation over episodes.

    Args:
        curves: Encoder to `shots`, `auroc`, `deviation` of each number.
    """
    figure, axes = blank()
    for (name, shots), colour in zip(curves.items(), _cycled(len(curves)), strict=True):
        places, values = [shot["shots"] for shot in shots], [shot["auroc"] for shot in shots]
        bars = [shot["deviation"] for shot in shots]
        axes.errorbar(places, values, yerr=bars, color=colour, marker="o", markersize=4, capsize=2, label=name)
    axes.set_xscale("log", base=2)
    ticks = sorted({shot["shots"] for shots in curves.values() for shot in shots})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("images a class")
    axes.set_ylabel("AUROC")
    axes.legend(frameon=False)
    return figure


def confusion_figure(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Cases of each reference class (row) by prediction (column), coloured by their share of the row."""
    table = np.asarray(counts, dtype=np.float64)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes = blank(1.2 + 0.5 * len(names))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*table.shape):
        colour = "white" if share[row, column] > 0.6 else "0.15"
        axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), list(names), rotation=0 if len(names) < 5 else 30)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_xlabel("prediction")
    axes.set_ylabel("reference")
    return figure


def reliability_figure(bins: Sequence[Mapping[str, float]]) -> Figure:
    """Share of right answers over the confidence, a dot a bin.

    Args:
        bins: `confidence`, `accuracy`, `cases` of each bin that holds cases.
    """
    figure, axes = blank()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    most = max(b["cases"] for b in bins)
    sizes = [20 + 120 * b["cases"] / most for b in bins]
    axes.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins], s=sizes, color=COLOURS[0], alpha=0.8)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers")
    return figure


def _cycled(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _running_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Mean over the `width` values up to each one, fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))
