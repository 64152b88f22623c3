"""Section about scores of frozen encoders beside what fine-tuning made of them."""

from collections.abc import Mapping
from typing import Any

from medssl.evaluation.report.page import Section, Table

NAMES = {"logme": "LogME", "h_score": "H-score, shrunk", "ped_logme": "LogME after PED"}


def correlation_section(results: Mapping[str, Any], title: str = "Would a score have told?") -> Section:
    """Scores of each arm's encoder before fine-tuning, and their rank correlation with the fine-tuned result.

    Args:
        results: Content of results.json of a study, with `transferability`.
        title: Heading.
    """
    found = results["transferability"]
    scores = Table(
        ("patients", "arm", *NAMES.values()),
        tuple(
            (str(point["labels"]), arm, *(_number(own[name]) for name in NAMES))
            for point in found["points"]
            for arm, own in point["arms"].items()
        ),
        "Of the labelled cases that the arm learned from, mean over the seeds; higher should be better.",
    )
    keys = ("weighted_tau", "kendall", "spearman", "p_value")
    correlations = Table(
        ("patients", "score", "arms", "weighted tau", "Kendall's tau", "Spearman's rho", "p of Kendall's"),
        tuple(
            (str(point["labels"]), NAMES[name], str(one["arms"]), *(_number(one[key]) for key in keys))
            for point in found["points"]
            for name, one in point["correlation"].items()
        ),
        "Rank correlation with the fine-tuned result: 1 is the same order, 0 none, -1 the opposite.",
    )
    few = [one["arms"] for point in found["points"] for one in point["correlation"].values() if one["few"]]
    warnings = (
        [f"Only {min(few)} arm(s) are ranked: such a correlation says next to nothing, even where it is 1 or -1."]
        if few
        else []
    )
    warnings += [f"{arm} has no score: {why}" for arm, why in found["missing"].items()]
    return Section(title, tables=tuple(t for t in (scores, correlations) if t.rows), warnings=tuple(warnings))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
