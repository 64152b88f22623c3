"""Sections that reports are put together from: training, reconstructions, overlays, bundle."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.evaluation.report.figures import curve_figure
from medssl.evaluation.report.page import Section, Table, figure_picture, file_picture
from medssl.imaging.errors import CheckpointError

_PARITY = {
    "max logit difference, batch 1": "largest difference of a logit, batch 1",
    "max logit difference, batch 3": "largest difference of a logit, batch 3",
    "allowed logit difference": "largest difference allowed",
    "min dice": "smallest Dice between both masks",
    "due dice": "smallest Dice allowed",
    "differing voxels": "voxels that differ, of how many",
    "max probability difference": "largest difference of a probability",
    "windows": "windows compared",
    "volumes": "whole images compared",
    "torch window s": "seconds a window, torch",
    "onnxruntime window s": "seconds a window, ONNX Runtime",
    "opset": "ONNX opset",
}
"""Entries of bundle.json in words."""


def read_log(run: Path) -> list[dict[str, Any]]:
    """Lines of `RUN/metrics.jsonl`; empty where there is none.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): it cannot be shown", reason="run-damaged") from error


def loss_curve_section(runs: Path | Mapping[str, Path], title: str = "Training") -> Section:
    """Loss, and what was measured on the way (`val/...`, `health/...`), of one run or of several in one figure."""
    named = runs if isinstance(runs, Mapping) else {Path(runs).name: runs}
    logs = {name: read_log(run) for name, run in named.items()}
    keys = sorted({key for rows in logs.values() for row in rows for key in row})
    pictures = []
    for key in ("loss", *(k for k in keys if k.startswith(("val/", "health/")))):
        curves = {name: curve for name, rows in logs.items() if len((curve := _curve(rows, key))[0]) > 1}
        if curves:
            caption = f"{key} over the training steps" + (": " + ", ".join(curves) if len(curves) > 1 else "") + "."
            pictures.append(figure_picture(curve_figure(curves, key, logarithmic=key == "loss"), caption))
    tables = [
        Table(("run", "steps", "last loss", "steps/s"), tuple(_run_row(name, rows) for name, rows in logs.items()))
    ]
    measured = [key for key in keys if key.startswith(("val/", "health/"))]
    if measured:
        last = tuple((key, *(_last(rows, key) for rows in logs.values())) for key in measured)
        tables.append(Table(("last value", *logs), last))
    missing = tuple(f"{name}: no metrics.jsonl in {named[name]}." for name, rows in logs.items() if not rows)
    return Section(title, tables=tuple(tables), pictures=tuple(pictures), warnings=missing)


def reconstruction_section(run: Path, title: str = "Reconstructions") -> Section:
    """First and last reconstruction panel of a pretraining run (`RUN/health/step-N.png`)."""
    folder = Path(run) / "health"
    panels = sorted(folder.glob("step-*.png"), key=_step)
    if not panels:
        return Section(title, warnings=(f"No reconstruction panel in {folder}.",))
    shown = [panels[0], panels[-1]] if len(panels) > 1 else panels
    pictures = tuple(file_picture(path, f"After {_step(path)} steps.") for path in shown)
    text = "Each row is an image: what went in, what was hidden, what the network made of it."
    return Section(title, (text,), pictures=pictures)


def overlay_section(pictures: Sequence[tuple[Path, str]], title: str = "Overlays") -> Section:
    """Pictures with captions, for instance masks over images in three planes."""
    return Section(title, pictures=tuple(file_picture(path, caption, broad=True) for path, caption in pictures))


def bundle_section(bundle: Path, predictions: Path | None = None, title: str = "Bundle") -> Section:
    """Parity of a bundle with the network it was made from, and the timing of its predictions.

    Args:
        bundle: Folder of the bundle.
        predictions: Folder of `medssl predict`, with `CASE/report.json`; left out when None.
        title: Heading.
    """
    content = json.loads((Path(bundle) / "bundle.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in Path(bundle).iterdir() if path.is_file())
    parity = content.get("parity", {})
    rows = [("bundle on disk", f"{size / 1e6:.1f} MB"), ("window", " × ".join(str(n) for n in content["window"]))]
    rows += [(_PARITY.get(name, name), _shown(value)) for name, value in _flat(parity)]
    tables = [Table(("measured at export", "value"), tuple(rows))]
    text = ["The exported graph was compared with the trained network on real cases before the bundle was written."]
    if predictions is not None:
        timed = _timings(Path(predictions))
        if timed:
            tables.append(Table(("predicted case", *timed[0][1]), tuple((case, *row.values()) for case, row in timed)))
            text.append("Times of medssl predict, which needs no torch, in seconds.")
    return Section(title, tuple(text), tuple(tables))


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    known = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return [step for step, _ in known], [value for _, value in known]


def _last(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    _, values = _curve(rows, key)
    return f"{values[-1]:.4g}" if values else "–"


def _run_row(name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    steps, losses = _curve(rows, "loss")
    _, rates = _curve(rows, "steps_per_s")
    rate = f"{sorted(rates)[len(rates) // 2]:.3g}" if rates else "–"
    return (name, str(int(steps[-1])), f"{losses[-1]:.4g}", rate) if steps else (name, "–", "–", rate)


def _step(path: Path) -> int:
    """Number in the name of a panel; 0 where there is none."""
    return int(re.sub(r"\D", "", path.stem) or 0)


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        found += _flat(value, name + ", ") if isinstance(value, Mapping) else [(name, value)]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _timings(predictions: Path) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for path in sorted(predictions.glob("*/report.json")):
        timing = json.loads(path.read_text(encoding="utf-8")).get("timing", {})
        row = {name.replace("_", " "): f"{value:.2f}" for name, value in timing.items() if isinstance(value, float)}
        if row and (not found or list(row) == list(found[0][1])):
            found.append((path.parent.name, row))
    return found
