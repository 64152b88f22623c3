"""What does not fit between a study and its prepared cases is told before anything is pretrained."""

from pathlib import Path

import pytest
import yaml
from small_cache import small_cache

from medssl.commands.study_checks import check_cases, claim
from medssl.commands.study_tuned import cache_of
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.models.component import Overrides

_SPLITS = ("train", "train", "train", "val", "val", "test", "test")


def _problems(
    root: Path,
    splits: tuple[str, ...],
    classes: tuple[str, ...],
    metric: str = "auroc",
    patients: tuple[str, ...] = (),
    **given: object,
):
    """What is told of a study of these cases, each of a patient of its own unless patients are named."""
    (root / "prepare.py").touch()
    (root / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": {}}))
    arms = [ArmPlan("scratch"), ArmPlan("other")]
    plan = StudyPlan(str(root), arms, "scratch", metric=metric, **{"labels": [2], **given})  # type: ignore[arg-type]
    labelled = [split == "train" for split in splits] if metric == "dice" else ()
    path, shapes = cache_of(plan, root / "out"), [(8, 8)] * len(splits)
    small_cache(path, shapes, splits=splits, classes=classes, labelled=labelled, patients=patients)
    with pytest.raises(ConfigError) as error:
        check_cases(plan, root / "out", 3)
    return error.value.problems


def test_more_patients_than_there_are(tmp_path: Path):
    (told,) = _problems(tmp_path, _SPLITS, ("a", "b"), labels=[2, 4])
    assert told == "4 labelled patients, seed 0: labels 4: there are 3 labelled patients to take from"


def test_no_answer_to_test_on(tmp_path: Path):
    (told,) = _problems(tmp_path, _SPLITS, (), "dice")
    assert told == "split test has no labelled case: prepare with another split or seed"


@pytest.mark.parametrize("trials", [[], [Overrides({}), Overrides({})]])
def test_one_class_to_test_on_or_to_choose_by(tmp_path: Path, trials: list[Overrides]):
    told = _problems(tmp_path, _SPLITS, ("a", "b", "b", "c", "c", "a", "a"), trials=trials)
    assert told[0].startswith("split test has cases of a alone, so nothing can be measured there")
    chosen = [t for t in told if t.startswith("split val has cases of c alone, so no trial can be chosen there")]
    assert len(told) == 1 + len(chosen)
    assert len(chosen) == bool(trials), "without trials nothing is chosen"


def test_a_patient_of_two_classes_cannot_count_once(tmp_path: Path):
    splits, patients = (*_SPLITS, "test"), ("p", "q", "r", "s", "t", "u", "u", "v")
    told = _problems(tmp_path, splits, ("a", "b") * 4, patients=patients, unit="patients")
    assert told == ("unit patients: cases of u (split test) are of several classes: count cases",)


def test_patients_of_the_trials_are_asked_for_too(tmp_path: Path):
    trials = [Overrides({}), Overrides({})]
    (told,) = _problems(tmp_path, _SPLITS, ("a", "b"), trials=trials, trial_labels=9)
    assert told == "9 labelled patients, seed 0: labels 9: there are 3 labelled patients to take from"


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"trial_labels": -1, "trials": [Overrides({})]}, "trial_labels must be 0 or more, got -1"),
        ({"trial_labels": 2}, "trial_labels is for trials, there are none"),
        ({"split": "train"}, "split must be val or test, got 'train'"),
    ],
)
def test_numbers_and_splits_that_mean_nothing_are_refused(given: dict[str, object], part: str):
    with pytest.raises(ConfigError, match=part):
        StudyPlan("x", [ArmPlan("a"), ArmPlan("b")], "a", [2], "auroc", **given)  # type: ignore[arg-type]


def test_a_folder_that_holds_nothing_yet_is_taken_for_other_data(tmp_path: Path):
    claim(tmp_path / "wrong", tmp_path)
    claim(tmp_path / "right", tmp_path)
    (tmp_path / "cache-1").mkdir()
    (tmp_path / "cache-1" / "cache.json").touch()
    with pytest.raises(MedsslError, match="was made from the data in"):
        claim(tmp_path / "wrong", tmp_path)
