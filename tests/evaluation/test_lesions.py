"""Single lesions: hand-drawn masks, closed forms, and slow oracles for matching and curves."""

import itertools

import numpy as np
import pytest
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score
from scipy.ndimage import label
from sklearn.metrics import average_precision_score

from medssl.evaluation.lesions import (
    RATES,
    CaseLesions,
    average_precision,
    case_auroc,
    find_lesions,
    sensitivities,
    summarise_lesions,
)
from medssl.evaluation.options import LesionOptions
from medssl.imaging.errors import ConfigError

_IOU = LesionOptions(("all",), threshold=0.1, overlap=0.1)


def _row(text: str, digits: str) -> tuple[np.ndarray, np.ndarray]:
    """A line of voxels: lesions where `text` has an x, probabilities in tenths in `digits`."""
    return np.array([[float(c) / 10 for c in digits]], np.float32), np.array([[c == "x" for c in text]])


@pytest.mark.parametrize(
    ("text", "digits", "found", "false"),
    [
        ("..xxx....", "007900000", [0.9], []),  # a candidate of two voxels on a lesion of three
        ("..xxx....", "000000850", [0.0], [0.8]),  # beside it: missed, and a false alarm
        ("..xxx....", "001110000", [0.0], []),  # not above the threshold
        ("xx.....xx", "330000066", [0.3, 0.6], []),
        ("xxxxxxxx.", "970850000", [0.9], []),  # two candidates on one lesion: the second counts nowhere
        ("xxxxxxxx.", "555500900", [0.5], []),  # but is the case's highest, where the larger one was paired
        ("xxx.xxx..", "555955500", [0.9, 0.0], []),  # one candidate on two lesions finds one
        (".........", "009000000", [], [0.9]),
        (".........", "000000000", [], []),
    ],
)
def test_hand_drawn_lines(text: str, digits: str, found: list[float], false: list[float]):
    probability, reference = _row(text, digits)
    case = find_lesions(probability, reference, _IOU)
    np.testing.assert_allclose(case.found, found, rtol=1e-6)
    np.testing.assert_allclose(case.false, false, rtol=1e-6)
    above = probability[probability > _IOU.threshold]
    assert case.highest == pytest.approx(above.max(initial=0)), "of all candidates"


def test_the_rule_of_matching_decides():
    probability, reference = _row("xxxxxxxxx.", "0000000099")
    shared, either, sizes = 1, 10, 11
    for match, overlap, hit in (
        ("any", 1.0, True),
        ("iou", shared / either, True), ("iou", shared / either + 0.01, False),
        ("dice", 2 * shared / sizes - 0.01, True), ("dice", 2 * shared / sizes + 0.01, False),
    ):  # fmt: skip
        case = find_lesions(probability, reference, LesionOptions(("a",), match=match, overlap=overlap))
        assert (case.hits, len(case.false)) == ((1, 0) if hit else (0, 1)), (match, overlap)


def test_corners_touch_and_ignored_voxels_count_nowhere():
    reference = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    probability = np.where(np.eye(3), 0.8, 0).astype(np.float32)
    assert find_lesions(probability, reference, _IOU).found.tolist() == pytest.approx([0.8])
    judged = ~reference
    case = find_lesions(probability, reference, _IOU, judged)
    assert (len(case.found), case.false.tolist()) == (0, pytest.approx([0.8]))
    case = find_lesions(probability, reference, _IOU, judged & ~np.eye(3, dtype=bool))
    assert (len(case.found), len(case.false)) == (0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_the_pairs_are_the_best_of_all(seed: int):
    """Every way to pair candidates with lesions, in 3D."""
    rng = np.random.default_rng(seed)
    reference, probability = rng.uniform(size=(2, 5, 5, 4)) < 0.12
    values = (probability * rng.uniform(0.2, 1, probability.shape)).astype(np.float32)
    ones = np.ones((3, 3, 3))
    (candidates, many), (lesions, count) = label(probability, ones), label(reference, ones)
    iou = np.zeros((many, count))
    for a, b in itertools.product(range(many), range(count)):
        here, there = candidates == a + 1, lesions == b + 1
        iou[a, b] = (here & there).sum() / (here | there).sum()
    iou[iou < 0.1] = 0
    size = max(many, count)
    padded = np.zeros((size, size))
    padded[:many, :count] = iou
    best = max(sum(padded[a, b] for a, b in enumerate(p)) for p in itertools.permutations(range(size)))
    case = find_lesions(values, reference, _IOU)
    scores = [values[candidates == a + 1].max() for a in range(many)]
    paired = [(scores.index(s), b) for b, s in enumerate(case.found) if s > 0]
    assert sum(iou[a, b] for a, b in paired) == pytest.approx(best)
    assert sorted(case.false) == pytest.approx(sorted(s for a, s in enumerate(scores) if not iou[a].any()))


def _case(found: list[float], false: list[float]) -> CaseLesions:
    return CaseLesions(np.array(found), np.array(false), max([0.0, *found, *false]))


def _cohort(seed: int, missed: float = 0.3) -> list[CaseLesions]:
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(9):
        found = rng.uniform(0.1, 1, rng.integers(4)).round(1) * (rng.uniform(size=1) > missed)
        cases.append(_case(found.tolist(), rng.uniform(0.1, 1, rng.integers(6)).round(1).tolist()))
    return cases


@pytest.mark.parametrize(("seed", "missed"), [(0, 0.3), (1, 0.5), (2, 0.0), (3, 0.0)])
def test_the_curve_is_that_of_monai_and_the_precision_that_of_scikit_learn(seed: int, missed: float):
    cases = _cohort(seed, missed)
    found, false = (np.concatenate([getattr(case, name) for case in cases]) for name in ("found", "false"))
    curve = compute_froc_curve_data(false, np.append(found, 0.0), len(found), len(cases))  # 0: its lowest is left out
    expected = [compute_froc_score(*curve, (rate,)) for rate in RATES]
    np.testing.assert_allclose(sensitivities(cases), expected)
    hit = found[found > 0]
    recalled = average_precision_score(np.repeat([1, 0], [len(hit), len(false)]), np.concatenate([hit, false]))
    assert average_precision(cases) == pytest.approx(recalled * len(hit) / len(found))


def test_closed_forms():
    """Two lesions found at 0.9 and 0.5, one missed, false alarms at 0.7 and 0.3, in two cases."""
    cases = [_case([0.9, 0.0], [0.7]), _case([0.5], [0.3])]
    assert average_precision(cases) == pytest.approx((1 + 2 / 3) / 3)
    np.testing.assert_allclose(sensitivities(cases, (0.1, 0.5, 0.75, 1, 8)), np.array([1, 2, 2, 2, 2]) / 3)
    assert np.isnan(case_auroc(cases))
    healthy = _case([], [0.6])
    assert case_auroc([*cases, healthy]) == 0.5
    second = find_lesions(*_row("xxxxxxxx.", "555500900"), _IOU)
    assert case_auroc([second, healthy]) == 1.0, "0.9 against 0.6, though the lesion was found at 0.5"
    nothing = [_case([], [])]
    assert np.isnan(average_precision(nothing))
    assert np.isnan(sensitivities(nothing)).all()
    silent = [_case([0.0, 0.0], [])]
    assert (average_precision(silent), *sensitivities(silent, (1.0,))) == (0.0, 0.0)


def test_patients_are_drawn_and_what_is_not_defined_is_null():
    cases = _cohort(5)
    found = summarise_lesions(cases, [f"p{n // 3}" for n in range(9)], resamples=100)
    assert found["average_precision"]["clusters"] == 3
    assert found["froc"]["estimate"] == pytest.approx(np.mean([v["estimate"] for v in found["sensitivity"].values()]))
    assert list(found["sensitivity"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert found["lesions"] == sum(len(case.found) for case in cases)
    empty = summarise_lesions([_case([], [0.4])] * 2, ["a", "b"], resamples=100)
    assert empty["average_precision"]["estimate"] is None
    assert empty["case_auroc"]["low"] is None


def test_options_out_of_range_are_told_together():
    with pytest.raises(ConfigError) as caught:
        LesionOptions(threshold=0, overlap=0)
    assert len(caught.value.problems) == 2
