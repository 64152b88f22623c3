"""The evaluations of a study's networks: each split once, and what was found there."""

import csv
import json
import math
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.app import run_stage
from medssl.commands.study_tuned import Tuned, cache_of
from medssl.evaluation.study_plan import StudyPlan
from medssl.imaging.errors import CheckpointError, MedsslError

if TYPE_CHECKING:
    from medssl.data.cache import Cache, CachedCase
    from medssl.evaluation.study_scores import NetworkScores


def evaluate_network(run: Tuned, split: str) -> None:
    """Evaluate a network on a split, once; what is there is taken if it is of this split and of the study's cases.

    Raises:
        MedsslError: It has no answer to some of the cases: it is not compared with others.
    """
    out = _folder(run, split)
    if not is_evaluated(run, split):
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["--data", str(cache_of(run.plan, run.out)), "--split", split, "--out", str(out)]
        arguments += ["--measure.resamples", "100"]  # intervals of single networks are not what is asked
        run_stage("evaluate", [str(run.folder), *arguments])
    failures = _told(out).get("failures", [])
    if failures:
        why = "; ".join(f"{failure['case']}: {failure['message']} ({failure['reason']})" for failure in failures)
        raise MedsslError(f"{len(failures)} case(s) could not be evaluated: {why}", reason="cases-failed")


def is_evaluated(run: Tuned, split: str) -> bool:
    """Whether a network was evaluated on a split of the study's cases."""
    from medssl.data.cache import Cache

    told = _told(_folder(run, split))
    return (told.get("split"), told.get("data_sha256")) == (split, Cache.open(cache_of(run.plan, run.out)).data_sha256)


def validation_score(run: Tuned) -> float:
    """The study's metric of a network on the validation cases, as it is measured on the test cases; NaN without any.

    Raises:
        MedsslError: It has no answer to some of the cases.
    """
    import numpy as np

    from medssl.data.cache import Cache
    from medssl.evaluation.study_scores import measure_of

    if not validation_cases(run.plan, Cache.open(cache_of(run.plan, run.out))):
        return math.nan
    evaluate_network(run, "val")
    tested = read_tested(run, "val")
    return measure_of(run.plan.metric)(tested, np.arange(len(tested.cases)))


def validation_cases(plan: StudyPlan, cache: "Cache") -> "tuple[CachedCase, ...]":
    """Labelled cases that options are chosen on."""
    from medssl.training.shares import labelled

    return labelled(cache, plan.task, ("val",))


def forget_evaluations(run: Tuned) -> None:
    """Remove every evaluation of a network, for instance because it is trained further."""
    for folder in run.folder.glob("evaluation_*"):
        shutil.rmtree(folder, ignore_errors=True)


def read_tested(run: Tuned, split: str) -> "NetworkScores":
    """What an evaluated network said of every case of a split, or of every patient where the plan counts patients.

    Raises:
        CheckpointError: Its results are missing or damaged.
    """
    import numpy as np

    from medssl.evaluation.study_scores import NetworkScores, of_patients

    path, start = _folder(run, split) / "cases.csv", str(run.init or "")
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = sorted(csv.DictReader(stream), key=lambda row: row["case"])
    except (OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}): remove its folder", reason="no-result"
        ) from error
    if run.plan.metric == "dice":
        by_case: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            by_case[row["case"], row["patient"]] += [float(row["dice"])] if row["dice"] else []
        values = [sum(found) / len(found) if found else math.nan for found in by_case.values()]
        cases, patients = zip(*by_case, strict=True)
        return NetworkScores(run.arm.name, run.labels, run.seed, cases, patients, np.array(values), start=start)
    columns = [name for name in rows[0] if name.startswith("probability_")]
    names = [name.removeprefix("probability_") for name in columns]
    if run.plan.class_order:
        columns = [f"probability_{name}" for name in run.plan.class_order]
        names = list(run.plan.class_order)
    tested = NetworkScores(
        run.arm.name,
        run.labels,
        run.seed,
        tuple(row["case"] for row in rows),
        tuple(row["patient"] for row in rows),
        np.array([[float(row[column]) for column in columns] for row in rows]),
        np.array([names.index(row["class"]) for row in rows]),
        start,
    )
    return of_patients(tested) if run.plan.unit == "patients" else tested


def _told(folder: Path) -> dict[str, Any]:
    results = folder / "results.json"
    return dict(json.loads(results.read_text(encoding="utf-8"))) if results.is_file() else {}


def _folder(run: Tuned, split: str) -> Path:
    return run.folder / f"evaluation_{split}"
