"""Curves from rows whose differences are known."""

import math

import numpy as np
import pytest

from medssl.evaluation.curves import CurveRow, curve_figure, curve_json, paired_curve
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import write_json


def _rows(gain: dict[int, float], seeds: int = 5, noise: float = 0.0) -> list[CurveRow]:
    """Every patient has its own difficulty and two cases; the pretrained arm is better by `gain` at each seed."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.8, 0.05, size=10)
    rows = []
    for labels, better in gain.items():
        for seed in range(seeds):
            luck = rng.normal(0, noise)
            for patient in range(10):
                for side in "LR":
                    base = float(difficulty[patient])
                    case = f"{patient}{side}"
                    rows.append(CurveRow(labels, seed, "scratch", case, str(patient), base))
                    rows.append(CurveRow(labels, seed, "ssl", case, str(patient), base + better + luck))
    return rows


def test_known_gain_is_found_exactly_without_noise() -> None:
    points = paired_curve(_rows({2: 0.03, 8: 0.0}), "ssl", "scratch")
    assert [p.labels for p in points] == [2, 8]
    assert points[0].over_seeds.estimate == pytest.approx(0.03)
    assert points[0].over_seeds.low == pytest.approx(0.03)
    assert points[0].over_seeds_and_patients.high == pytest.approx(0.03)
    assert points[1].over_seeds.estimate == pytest.approx(0.0)
    assert points[0].seed_differences == pytest.approx([0.03] * 5)


def test_interval_over_seeds_is_the_t_interval() -> None:
    point = paired_curve(_rows({4: 0.02}, noise=0.01), "ssl", "scratch")[0]
    d = np.array(point.seed_differences)
    half = 2.7764451 * d.std(ddof=1) / math.sqrt(5)
    assert point.over_seeds.high == pytest.approx(d.mean() + half)
    assert point.over_seeds.clusters == 5


def test_unpaired_seeds_are_left_out_and_named() -> None:
    rows = [r for r in _rows({2: 0.01}) if not (r.arm == "ssl" and r.seed == 3)]
    point = paired_curve(rows, "ssl", "scratch")[0]
    assert point.seeds == (0, 1, 2, 4)
    assert point.unpaired_seeds == (3,)


def test_mistakes_are_refused() -> None:
    rows = _rows({2: 0.01}, seeds=2)
    with pytest.raises(ConfigError, match="arm 'other' has no results"):
        paired_curve(rows, "other", "scratch")
    with pytest.raises(ConfigError, match="twice"):
        paired_curve([*rows, rows[0]], "ssl", "scratch")
    with pytest.raises(ConfigError, match="1 of 20 test cases have no result"):
        paired_curve(rows[1:], "ssl", "scratch")


def test_figure_and_json(tmp_path) -> None:  # type: ignore[no-untyped-def]
    points = paired_curve(_rows({2: 0.03, 4: 0.02, 8: 0.0}, noise=0.01), "ssl", "scratch")
    figure = curve_figure(points, "ssl", "scratch")
    figure.savefig(tmp_path / "curve.png")
    assert [axes.get_xlabel() for axes in figure.axes] == ["labelled patients"] * 2
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["2", "4", "8"]
    write_json(tmp_path / "curve.json", curve_json(points, "ssl", "scratch"))
