"""What a study warns of beside its results."""

from pathlib import Path

import pytest
from small_cache import small_cache

from medssl.commands.study_results import _warnings
from medssl.evaluation.study_plan import ArmPlan, Metric, StudyPlan


@pytest.mark.parametrize(("metric", "kind"), [("dice", "label map"), ("auroc", "class")])
def test_test_cases_without_an_answer_are_told(tmp_path: Path, metric: Metric, kind: str):
    """Twelve test cases of which one has no label map, and one no class."""
    classes = ["ill" if n % 2 else "well" for n in range(11)] + [""]
    splits = ["test"] * 12 + ["train"]
    cache = small_cache(
        tmp_path, [(12, 12)] * 13, splits=splits, classes=[*classes, "ill"], labelled=[True] * 11 + [False] * 2
    )
    plan = StudyPlan("app", [ArmPlan("a"), ArmPlan("b")], "a", [1], metric)
    found = _warnings(plan, cache, {f"p{n}" for n in range(11)})
    assert found[-1].startswith(f"1 of 12 cases of split test have no {kind} and are in no number (c11)")
    assert len(found) == (1 if metric == "dice" else 2)
