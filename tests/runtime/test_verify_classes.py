"""`verify --cases` of a bundle that classifies: classes called, beside the site's own."""

import csv
from pathlib import Path

import numpy as np
import pytest
from own_cases import SIZE, site_bundle, verify, write_image, write_manifest

_POINT = {
    "class": "ill",
    "threshold": 0.8,
    "rule": "given",
    "sensitivity": 0.9,
    "specificity": 0.7,
    "measured_on": "20 cases",
    "measured_by": "one network",
}

pytestmark = pytest.mark.usefixtures("untried")


def _case(folder: Path, name: str, dims: int, grey: float, reference: str, patient: str = "") -> dict[str, str]:
    """An image of one grey: the tiny bundle gives the second class the probability 1 / (1 + exp(10 - grey))."""
    folder.mkdir(exist_ok=True)
    image = write_image(folder / f"{name}.nii.gz", np.full(SIZE[dims], grey, dtype=np.float32))
    return {"case": name, "patient": patient or name, "image": image, "class": reference}


def _two(folder: Path, dims: int) -> Path:
    """Of 4 ill 3 are called so at 0.8 (4 would be at 0.5), of 3 well 2 are not; one case has no class."""
    greys = {"ill": (14, 13, 12, 10.5), "well": (5, 6, 13)}
    cases = [(f"{name}{n}", dims, grey, name) for name, some in greys.items() for n, grey in enumerate(some)]
    rows = [_case(folder, *case) for case in cases]
    return write_manifest(folder, [*rows, _case(folder, "untold", dims, 5, "")])


@pytest.mark.parametrize("dims", [2, 3])
def test_sensitivity_and_specificity_at_the_operating_point_have_exact_intervals(dims: int, tmp_path: Path):
    bundle = site_bundle(tmp_path / "b", dims, ("well", "ill"), operating_point=_POINT)
    code, found = verify(bundle, _two(tmp_path / "site", dims), tmp_path / "out")
    assert code == 0
    assert found["confusion"] == {"classes": ["well", "ill"], "table": [[2, 1], [1, 3]]}
    (ill,) = found["classes"]
    assert (ill["class"], ill["sensitivity"]["share"]) == ("ill", 0.75)
    assert ill["sensitivity"]["interval_95"] == pytest.approx([0.1941, 0.9937], abs=5e-5)  # tables of Clopper-Pearson
    assert (ill["specificity"]["hits"], ill["specificity"]["total"]) == (2, 3)
    assert ill["specificity"]["interval_95"] == pytest.approx([0.0943, 0.9916], abs=5e-5)
    assert [(one["case"], one["reason"]) for one in found["unusable"]] == [("untold", "no-reference")]
    assert found["patients"] == 7
    text = (tmp_path / "out" / "pq.md").read_text()
    assert "| well | 2 | 1 |" in text
    assert "| ill3 | ill3 | ill | well | **no** |" in text
    assert "ill is called from a probability of 0.8 on; its maker measured a sensitivity of 90.0% and" in text
    with (tmp_path / "out" / "pq_results.csv").open(newline="") as stream:
        lines = {line["case"]: line for line in csv.DictReader(stream)}
    assert (lines["ill3"]["reference"], lines["ill3"]["called"]) == ("ill", "well")
    assert float(lines["ill3"]["p_ill"]) == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-5)


@pytest.mark.parametrize(
    ("demand", "passed"),
    [("--accept.sensitivity=0.75", True), ("--accept.sensitivity=0.76", False), ("--accept.specificity=0.7", False)],
)
def test_demands_are_compared_with_what_was_measured(demand: str, passed: bool, tmp_path: Path):
    bundle = site_bundle(tmp_path / "b", 2, ("well", "ill"), operating_point=_POINT)
    code, found = verify(bundle, _two(tmp_path / "site", 2), tmp_path / "out", demand, "--accept.unusable", "1")
    first, unusable = found["demanded"]
    assert (first["passed"], unusable["passed"]) == (passed, True)
    assert code == (0 if passed else 2)
    assert ("the interval reaches below" in first["found"]) is passed


def test_of_three_classes_each_is_asked_against_the_rest(tmp_path: Path):
    site = tmp_path / "site"
    greys = {"low": (5, 6), "middle": (15, 25), "high": (25, 28, 15)}
    rows = [_case(site, f"{c}{n}", 3, g, c, patient=f"p{n}") for c, some in greys.items() for n, g in enumerate(some)]
    bundle = site_bundle(tmp_path / "b", 3, ("low", "middle", "high"))
    code, found = verify(bundle, write_manifest(site, rows), tmp_path / "out")
    assert code == 0
    assert found["confusion"]["table"] == [[2, 0, 0], [0, 1, 1], [0, 1, 2]]
    told = {one["class"]: (one["sensitivity"]["hits"], one["specificity"]["hits"]) for one in found["classes"]}
    assert told == {"low": (2, 5), "middle": (1, 4), "high": (2, 3)}
    text = (tmp_path / "out" / "pq.md").read_text()
    assert "no operating point: the most probable class is called" in text
    assert "7 images are of 3 patients: images of one patient are not independent" in text


def test_a_class_that_no_case_has_is_not_measured(tmp_path: Path):
    bundle = site_bundle(tmp_path / "b", 3, ("well", "ill"))
    cases = write_manifest(tmp_path / "site", [_case(tmp_path / "site", "a", 3, 5, "well")])
    code, found = verify(bundle, cases, tmp_path / "out", "--accept.sensitivity", "0.1")
    assert code == 2
    assert found["demanded"][0]["found"] == "not measured: no case tells it"
    assert "not measured: no image of it" in (tmp_path / "out" / "pq.md").read_text()


def test_a_class_that_the_bundle_does_not_know_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = site_bundle(tmp_path / "b", 3, ("well", "ill"))
    rows = [_case(tmp_path / "site", "a", 3, 5, "well"), _case(tmp_path / "site", "b", 3, 5, "Ill")]
    code, found = verify(bundle, write_manifest(tmp_path / "site", rows), tmp_path / "out")
    assert (code, found) == (2, {})
    told = capsys.readouterr().err
    assert "it knows well, ill" in told
    assert "case 'b': class 'Ill'" in told
