"""Pages of `medssl evaluate` of a model: the summary first, then numbers, pictures, failures, parts, training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medssl.evaluation.report.failures import classification_failures, segmentation_failures
from medssl.evaluation.report.feature_map import feature_map_section
from medssl.evaluation.report.lesions import lesion_section
from medssl.evaluation.report.page import Section
from medssl.evaluation.report.results import (
    class_comparison_section,
    classification_section,
    comparison_section,
    length_unit,
    segmentation_section,
    subgroup_section,
)
from medssl.evaluation.report.sections import loss_curve_section, overlay_section
from medssl.evaluation.report.summary import classification_summary, segmentation_summary

Pictures = Sequence[tuple[Path, str]]


def segmentation_page(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    overlays: Pictures,
    logs: Mapping[str, Path] = MappingProxyType({}),
    maps: Pictures = (),
) -> list[Section]:
    """Every section about a segmentation but the environment.

    Args:
        results: Content of results.json.
        rows: Lines of cases.csv.
        overlays: Pictures of the best, median and worst case, with captions.
        logs: Name to folder of the training runs, for learning curves.
        maps: Maps of the features, with captions.
    """
    comparison = [comparison_section(results, text=_arms_explained(results))] if results["differences"] else []
    own = results["arms"][results["arm"]]
    return [
        segmentation_summary(results),
        segmentation_section(results, rows),
        *([lesion_section(results)] if results.get("lesions") else []),
        *comparison,
        *([overlay_section(overlays, "Best, median and worst case")] if overlays else []),
        segmentation_failures(results, rows),
        subgroup_section(own["subgroups"], length_unit(results)),
        *_closing(logs, maps),
    ]


def classification_page(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    logs: Mapping[str, Path] = MappingProxyType({}),
    maps: Pictures = (),
) -> list[Section]:
    """Every section about a classification but the environment.

    Args:
        results: Content of results.json.
        rows: Lines of cases.csv.
        logs: Name to folder of the training runs, for learning curves.
        maps: Maps of the features, with captions.
    """
    return [
        classification_summary(results),
        classification_section(results),
        *([class_comparison_section(results)] if results.get("differences") else []),
        classification_failures([row for row in rows if row.get("arm", results["arm"]) == results["arm"]]),
        subgroup_section(results["subgroups"]),
        *_closing(logs, maps),
    ]


def training_logs(runs: Mapping[str, Path]) -> dict[str, Path]:
    """Name to folder of every metrics.jsonl of some runs; a run with folds has one a fold."""
    found = {name: run for name, run in runs.items() if (run / "metrics.jsonl").is_file()}
    folds = {
        f"{name} {path.parent.name}": path.parent
        for name, run in runs.items()
        for path in sorted(run.glob("fold_*/metrics.jsonl"))
    }
    return {**found, **folds}


def _closing(logs: Mapping[str, Path], maps: Pictures) -> list[Section]:
    plane = feature_map_section(None, maps)
    curves = [loss_curve_section(logs, "Learning curves")] if logs else []
    return [*([plane] if plane else []), *curves]


def _arms_explained(results: Mapping[str, Any]) -> list[str]:
    meanings = {
        "finetune": "finetune: the network of this run.",
        "baseline": "baseline: the same training from random weights, without pretraining.",
        "threshold rule": "threshold rule: each voxel gets the class of the nearest typical intensity; no network.",
    }
    return [meanings[name] for name in results["arms"] if name in meanings]
