"""Figures of reports: small, so that their text stays legible on a phone."""

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
"""Told apart with every kind of colour vision (Okabe and Ito 2008, https://jfly.uni-koeln.de/color)."""

MARKERS = "os^Dv*PX"
LINES = ("-", "--", "-.", ":")
"""Markers and lines stand beside the colours, so that no figure says anything by colour alone."""

_WIDTH_IN, _WIDTH_LETTERS, _LINE_IN = 4.8, 60, 0.19
_LONGEST = 44
"""Letters of a name that are shown: its begin and its end."""
rcParams["text.parse_math"] = False  # a name may hold a dollar sign


class Style(NamedTuple):
    """How a name is drawn.

    Args:
        colour: Of markers and lines.
        marker: As matplotlib names it.
        line: As matplotlib names it.
    """

    colour: str
    marker: str
    line: str


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
    for name, (steps, values) in curves.items():
        colour, marker, line = _styles(list(curves))[name]
        smooth = _running_mean(np.asarray(values, dtype=np.float64), max(1, len(values) // 25))
        if len(values) > 50:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smooth, color=colour, linestyle=line, label=name)
        else:
            axes.plot(steps, values, color=colour, linestyle=line, marker=marker, markersize=4, label=name)
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
    styles = _styles(names)
    for place, (_, name, interval) in enumerate(rows):
        estimate, low, high = (interval.get(key) for key in ("estimate", "low", "high"))
        if estimate is None:
            continue
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=styles[name].colour, linewidth=3, alpha=0.5)
        axes.plot(estimate, place, styles[name].marker, color=styles[name].colour, markersize=7)
    groups = {group: [n for n, row in enumerate(rows) if row[0] == group] for group, _, _ in rows}
    _name_rows(axes, [float(np.mean(places)) for places in groups.values()], groups)
    if len(names) > 1:
        handles = [
            Line2D([], [], marker=style.marker, linestyle="", color=style.colour, label=name)
            for name, style in styles.items()
        ]
        _legend(figure, handles)
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
    for place, (name, numbers) in enumerate(values.items()):
        finite = np.asarray(numbers, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            axes.plot(
                place + rng.uniform(-0.16, 0.16, len(finite)),
                finite,
                ".",
                color=_styles(list(values))[name].colour,
                alpha=0.7,
            )
            axes.plot([place - 0.28, place + 0.28], [np.median(finite)] * 2, color="0.15", linewidth=1.5)
    _name_columns(axes, values)
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
    for number, (name, (colour, marker, line)) in enumerate(_styles(names).items()):
        there = [(place, p["arms"][name]) for place, p in enumerate(points) if name in p["arms"]]
        shift = 0.1 * (number - (len(names) - 1) / 2)
        places = [place + shift for place, _ in there]
        means = [found["mean"]["estimate"] for _, found in there]
        axes.plot(places, means, color=colour, marker=marker, linestyle=line, label=name)
        for place, (_, found) in zip(places, there, strict=True):
            mean, seeds = found["mean"], list(found["seeds"].values())
            if mean["low"] is not None:
                axes.plot([place, place], [mean["low"], mean["high"]], color=colour, alpha=0.5, linewidth=2)
            axes.plot([place] * len(seeds), seeds, ".", color=colour, alpha=0.4, markersize=4)
    axes.set_xticks(range(len(points)), [str(point["labels"]) for point in points])
    axes.set_xlabel("labelled patients")
    axes.set_ylabel(ylabel)
    _legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def shot_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """AUROC over the images a class, with the standard deviation over episodes.

    Args:
        curves: Encoder to `shots`, `auroc`, `deviation` of each number.
    """
    figure, axes = blank()
    for name, shots in curves.items():
        style = _styles(list(curves))[name]
        places, values = [shot["shots"] for shot in shots], [shot["auroc"] for shot in shots]
        bars = [shot["deviation"] for shot in shots]
        axes.errorbar(places, values, yerr=bars, color=style.colour, marker=style.marker, capsize=2, label=name)
    axes.set_xscale("log", base=2)
    ticks = sorted({shot["shots"] for shots in curves.values() for shot in shots})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("images a class")
    axes.set_ylabel("AUROC")
    axes.legend(frameon=False)
    return figure


def ranking_figure(rows: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]], xlabel: str) -> Figure:
    """Differences to a reference, a line a method, a marker a probe, and the line of no difference.

    Args:
        rows: Method, and probe to its difference (interval as JSON).
        xlabel: Name of the differences.
    """
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    figure, axes = blank(1.1 + 0.26 * len(rows))
    axes.axvline(0, color="0.5", linewidth=1)
    for number, (name, (colour, marker, _)) in enumerate(_styles(names).items()):
        shift = 0.22 * (number - (len(names) - 1) / 2)
        for place, (_, found) in enumerate(rows):
            interval = found.get(name)
            if interval is None or interval["estimate"] is None:
                continue
            if interval["low"] is not None and interval["high"] is not None:
                axes.plot([interval["low"], interval["high"]], [place + shift] * 2, color=colour, alpha=0.5)
            axes.plot(interval["estimate"], place + shift, marker, color=colour, markersize=5)
        axes.plot([], [], marker, color=colour, label=name)
    _name_rows(axes, range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", color="0.93")
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    _legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def map_figure(points: Mapping[str, Sequence[Sequence[float]]], xlabel: str = "", ylabel: str = "") -> Figure:
    """Images as points on a plane, a colour and a marker a group.

    Args:
        points: Group to the (x, y) of its images.
        xlabel: What the first axis is.
        ylabel: What the second axis is.
    """
    figure, axes = blank(4.2)
    for name, (colour, marker, _) in _styles(list(points)).items():
        x, y = np.asarray(points[name], dtype=np.float64).reshape(-1, 2).T
        axes.scatter(x, y, s=22, marker=marker, color=colour, alpha=0.75, linewidths=0, label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_xticks([])
    axes.set_yticks([])
    _legend(figure, axes.get_legend_handles_labels()[0])
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
    _name_columns(axes, names)
    _name_rows(axes, range(len(names)), names)
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


def legend_of(figure: Figure, handles: Sequence[Any], names: Sequence[str], **more: Any) -> None:
    """A legend above the axes, in as many columns as its names leave room for, three at most."""
    names = [_shown(name) for name in names]
    columns = min(max(_WIDTH_LETTERS // (max(map(len, names), default=0) + 6), 1), 3)
    _grow(figure, -(-len(names) // columns) - 1)
    names = [f" {name}" if name.startswith("_") else name for name in names]  # which matplotlib would leave out
    figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False, **more)


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend of artists that know their names."""
    legend_of(figure, handles, [str(handle.get_label()) for handle in handles])


def _name_columns(axes: Axes, names: Collection[str]) -> None:
    """Names below the axes, upright or, of many, slanting."""
    few = len(names) < 5
    lines = [textwrap.wrap(_shown(name), 14 if few else 24) for name in names]
    axes.set_xticks(range(len(names)), ["\n".join(each) for each in lines], rotation=0 if few else 30)
    _grow(axes.figure, max(len(each) for each in lines) - 1)


def _name_rows(axes: Axes, places: Iterable[float], names: Iterable[str]) -> None:
    """Names left of the axes."""
    lines = [textwrap.wrap(_shown(name), 22) for name in names]
    axes.set_yticks(list(places), ["\n".join(each) for each in lines])
    _grow(axes.figure, sum(len(each) - 1 for each in lines))


def _grow(figure: Figure | SubFigure, lines: int) -> None:
    """Make room for lines of text."""
    if isinstance(figure, Figure):
        figure.set_figheight(figure.get_figheight() + _LINE_IN * max(lines, 0))


def _shown(name: str) -> str:
    """A name; of a very long one the begin and the end."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half].rstrip()} ... {name[-half:].lstrip()}"


def _styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour, a marker and a line of its own for each name."""
    return {
        name: Style(COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)], LINES[n % len(LINES)])
        for n, name in enumerate(names)
    }


def _running_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Mean over the `width` values up to each one, fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))
