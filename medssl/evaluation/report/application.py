"""The report of a whole application run: from training to bundle, out of the folders that its stages left."""

import csv
import json
from pathlib import Path

from medssl.evaluation.provenance import made_with
from medssl.evaluation.report.evaluation import classification_page, segmentation_page, training_logs
from medssl.evaluation.report.failures import not_prepared
from medssl.evaluation.report.page import Section, write_report
from medssl.evaluation.report.results import SCHEMA_VERSION
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
        out: Folder of the run: `cache`, `pretrain`, `finetune`, `baseline`, `evaluate`, `bundle`, `predictions`.
        name: Name of the application.
        title: One line for people.
        notes: Sentences that must not be overlooked; what `OUT/cohort/README.json` says of a made-up cohort is added.

    Raises:
        MedsslError: No stage left anything to report.
    """
    notes = (*notes, *_cohort_notes(out / "cohort" / "README.json"))
    evaluated, command = _evaluation(out / "evaluate")
    sections = [
        *([Section("About these numbers", warnings=notes)] if notes else []),
        *evaluated,
        *_left_out(out / "cache"),
        *_training(out),
        *_bundle(out / "bundle", out / "predictions"),
    ]
    if not sections:
        raise MedsslError(f"{out} holds nothing to report: no stage has run", reason="nothing-to-report")
    made = made_with([out / name for name in ("finetune", "baseline")])
    made["earlier"] += command
    return write_report(out, sections, title or name, f"Application {name}", made)


def _cohort_notes(path: Path) -> list[str]:
    if not path.is_file():
        return []
    what = json.loads(path.read_text(encoding="utf-8")).get("what", "")
    return [f"{what}. Nothing about real patients follows from these numbers."] if what else []


def _evaluation(folder: Path) -> tuple[list[Section], list[dict[str, str]]]:
    """Sections of `medssl evaluate`, and its command.

    Raises:
        MedsslError: An older medssl wrote the results.
    """
    if not (folder / "results.json").is_file():
        return [], []
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if results["schema_version"] != SCHEMA_VERSION:
        raise MedsslError(
            f"{folder}/results.json has schema version {results['schema_version']}, this medssl shows "
            f"{SCHEMA_VERSION}: remove {folder} and the evaluate.json in the stages folder, and run again",
            reason="other-version",
        )
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    told = results["environment"]["command"]
    command = [{"what": "evaluate", "command": told}] if told else []
    if results["task"] == "classification":
        return classification_page(results, rows), command
    pictures = [(folder / picture["file"], picture["caption"]) for picture in results["pictures"]]
    return segmentation_page(results, rows, pictures), command


def _left_out(cache: Path) -> list[Section]:
    return [Section("Cases left out", tables=tuple(tables))] if (tables := not_prepared(cache)) else []


def _training(out: Path) -> list[Section]:
    sections = []
    if (out / "pretrain" / "metrics.jsonl").is_file():
        sections.append(loss_curve_section(out / "pretrain", "Pretraining without labels"))
    if any((out / "pretrain" / "health").glob("step-*.png")):
        sections.append(reconstruction_section(out / "pretrain"))
    logs = training_logs({name: out / name for name in ("finetune", "baseline")})
    if logs:
        sections.append(loss_curve_section(logs, "Fine-tuning with labels"))
    return sections


def _bundle(bundle: Path, predictions: Path) -> list[Section]:
    if not (bundle / "bundle.json").is_file():
        return []
    sections = [bundle_section(bundle, predictions if predictions.is_dir() else None)]
    pictures = [
        (path, f"Predicted by the bundle, without torch: {path.parent.name}.")
        for path in sorted(predictions.glob("*/overlay.png"))[:_SHOWN_PREDICTIONS]
    ]
    return [*sections, overlay_section(pictures, "Predictions of the bundle")] if pictures else sections
