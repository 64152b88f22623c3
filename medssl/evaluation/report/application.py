"""The report of a whole application run: from training to bundle, out of the folders that its stages left."""

import csv
import json
from pathlib import Path
from typing import Any

from medssl.evaluation.report.page import Section, write_report
from medssl.evaluation.report.results import classification_section, comparison_section, segmentation_section
from medssl.evaluation.report.sections import (
    bundle_section,
    loss_curve_section,
    overlay_section,
    reconstruction_section,
)
from medssl.imaging.errors import MedsslError

_SHOWN_PREDICTIONS = 3


def write_application_report(out: Path, name: str, title: str, notes: tuple[str, ...] = ()) -> Path:
    """Write `OUT/report.html` about whatever stages are there; returns its path.

    Args:
        out: Folder of the run: `pretrain`, `finetune`, `baseline`, `evaluate`, `bundle`, `predictions`.
        name: Name of the application.
        title: One line for people.
        notes: Sentences that must not be overlooked; what `OUT/cohort/README.json` says of a made-up cohort is added.

    Raises:
        MedsslError: No stage left anything to report.
    """
    notes = (*notes, *_cohort_notes(out / "cohort" / "README.json"))
    sections = [
        *([Section("About these numbers", warnings=notes)] if notes else []),
        *_evaluation(out / "evaluate"),
        *_training(out),
        *_bundle(out / "bundle", out / "predictions"),
    ]
    if not sections:
        raise MedsslError(f"{out} holds nothing to report: no stage has run", reason="nothing-to-report")
    return write_report(out, sections, title or name, f"Application {name}")


def _cohort_notes(path: Path) -> list[str]:
    if not path.is_file():
        return []
    what = json.loads(path.read_text(encoding="utf-8")).get("what", "")
    return [f"{what}. Nothing about real patients follows from these numbers."] if what else []


def _evaluation(folder: Path) -> list[Section]:
    if not (folder / "results.json").is_file():
        return []
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if results["task"] == "classification":
        return [classification_section(results)]
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    sections = [segmentation_section(results, rows)]
    if results["differences"]:
        sections.append(comparison_section(results, text=_arms_explained(results)))
    pictures = [(folder / picture["file"], picture["caption"]) for picture in results["pictures"]]
    return [*sections, overlay_section(pictures, "Best, median and worst case")] if pictures else sections


def _arms_explained(results: dict[str, Any]) -> list[str]:
    meanings = {
        "finetune": "finetune: the network of this run.",
        "baseline": "baseline: the same training from random weights, without pretraining.",
        "threshold rule": "threshold rule: each voxel gets the class of the nearest typical intensity; no network.",
    }
    return [meanings[name] for name in results["arms"] if name in meanings]


def _training(out: Path) -> list[Section]:
    sections = []
    if (out / "pretrain" / "metrics.jsonl").is_file():
        sections.append(loss_curve_section(out / "pretrain", "Pretraining without labels"))
    if any((out / "pretrain" / "health").glob("step-*.png")):
        sections.append(reconstruction_section(out / "pretrain"))
    logs = [path for name in ("finetune", "baseline") for path in _logs(out / name)]
    runs = {str(path.parent.relative_to(out)): path.parent for path in logs}
    if runs:
        sections.append(loss_curve_section(runs, "Fine-tuning with labels"))
    return sections


def _logs(run: Path) -> list[Path]:
    return sorted(run.glob("metrics.jsonl")) + sorted(run.glob("fold_*/metrics.jsonl"))


def _bundle(bundle: Path, predictions: Path) -> list[Section]:
    if not (bundle / "bundle.json").is_file():
        return []
    sections = [bundle_section(bundle, predictions if predictions.is_dir() else None)]
    pictures = [
        (path, f"Predicted by the bundle, without torch: {path.parent.name}.")
        for path in sorted(predictions.glob("*/overlay.png"))[:_SHOWN_PREDICTIONS]
    ]
    return [*sections, overlay_section(pictures, "Predictions of new images")] if pictures else sections
