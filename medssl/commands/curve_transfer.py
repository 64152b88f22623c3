"""The part of `medssl curve` that asks whether frozen features would have told which arm does best."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.study_tuned import Done, Tuned
from medssl.imaging.errors import ConfigError, message_of

if TYPE_CHECKING:
    from medssl.data.cache import Cache
    from medssl.evaluation.study_transfer import CaseFeatures
    from medssl.models.encoder import Encoder

Scores = dict[str, float]


def transferability(
    finished: Sequence[Done], arms: Sequence[str], cache: "Cache", points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Scores of each arm's encoder on the labelled cases it learned from, and their rank correlation with the results.

    Arms with `longer_as` are left out: they start from the same weights as the arm from scratch. Encoders that cannot
    be scored are told, whatever the reason.

    Args:
        finished: Fine-tunings of the study.
        arms: The order of the arms.
        cache: Of the study.
        points: Results at each number of labels.
    """
    from medssl.evaluation.study_transfer import rank_correlation
    from medssl.evaluation.transferability import SCORES

    runs = [done.run for done in finished if not done.failed and not done.run.arm.longer_as]
    runs.sort(key=lambda run: (arms.index(run.arm.name), run.labels, run.seed))
    scores, missing = _scores(runs, cache)
    told = []
    for point in points:
        labels = int(point["labels"])
        estimates = {arm: found["mean"]["estimate"] for arm, found in point["arms"].items()}
        results = {arm: math.nan if value is None else float(value) for arm, value in estimates.items()}
        here = {arm: _mean(by_seed) for (arm, n), by_seed in scores.items() if n == labels}
        told.append(
            {
                "labels": labels,
                "arms": {
                    arm: {n: v if math.isfinite(v) else None for n, v in own.items()} for arm, own in here.items()
                },
                "correlation": {n: rank_correlation({a: own[n] for a, own in here.items()}, results) for n in SCORES},
            }
        )
    return {"points": told, "missing": missing}


def _scores(runs: Sequence[Tuned], cache: "Cache") -> tuple[dict[tuple[str, int], list[Scores]], dict[str, str]]:
    """(arm, labels) to the scores of each seed, and why an arm has none."""
    from medssl.evaluation.study_transfer import transfer_scores

    features: dict[tuple[str, Path | int], dict[str, CaseFeatures]] = {}
    scores: dict[tuple[str, int], list[Scores]] = {}
    missing: dict[str, str] = {}
    for run in runs:
        name = run.arm.name
        key = name, run.init or run.seed
        if name in missing:
            continue
        try:
            if key not in features:
                features[key] = _features(run, cache)
            found = transfer_scores(_learned_from(run, features[key], cache))
        except Exception as error:  # of memory, of a file: whatever it is, the study is finished and is to be told
            missing[name] = "; ".join(error.problems) if isinstance(error, ConfigError) else message_of(error)
            continue
        scores.setdefault((name, run.labels), []).append(found)
    return {key: found for key, found in scores.items() if key[0] not in missing}, missing


def _learned_from(run: Tuned, features: "Mapping[str, CaseFeatures]", cache: "Cache") -> "list[CaseFeatures]":
    """Those of the cases that a run learned from."""
    patients = set(json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["patients"]["train"])
    return [features[case.case] for case in cache.cases if case.patient in patients and case.case in features]


def _features(run: Tuned, cache: "Cache") -> "dict[str, CaseFeatures]":
    """Of every case that a run of the study may learn from."""
    from medssl.evaluation.study_transfer import case_features
    from medssl.tasks.options import CropOptions
    from medssl.training.shares import labelled

    segmentation = run.options.get("task", "segmentation") == "segmentation"
    cases = labelled(cache, "segmentation" if segmentation else "classification", ("train", ""))
    size = run.options.get("crops", {}).get("size", CropOptions().size)
    return case_features(_encoder(run, cache), cache, cases, size, segmentation)


def _encoder(run: Tuned, cache: "Cache") -> "Encoder":
    """The encoder as the arm's fine-tuning begins with it."""
    from medssl.evaluation.frozen import pretrained_encoder, random_encoder
    from medssl.models.component import Component

    if run.init is not None:
        return pretrained_encoder(run.init, cache.spatial_dims, cache.channels)
    component = Component.from_json(run.options["network"]["encoder"])
    return random_encoder(component, cache.spatial_dims, cache.channels, run.seed)


def _mean(by_seed: Sequence[Scores]) -> Scores:
    return {name: sum(one[name] for one in by_seed) / len(by_seed) for name in by_seed[0]}
