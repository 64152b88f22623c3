"""`verify --cases` of a bundle that segments: the protocol's part on performance, as a hospital fills it in."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import write_series
from own_cases import INTERVALS, block, site_bundle, verify, write_case, write_image, write_manifest
from result_objects import COMPANION

from medssl.__main__ import main
from medssl.imaging.files import sha256
from medssl.imaging.series import SeriesRule

pytestmark = pytest.mark.usefixtures("untried")


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(params=[2, 3])
def dims(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def bundle(dims: int, tmp_path: Path) -> Path:
    return site_bundle(tmp_path / "bundle", dims, intervals=INTERVALS if dims == 3 else {}, ignore_label=9)


def _site(folder: Path, dims: int) -> Path:
    """Four cases that can be compared, of three patients, and four that cannot."""
    six, five, three, nothing = (block(dims, 1, length) for length in (6, 5, 3, 0))
    both, drawn = six.copy(), five.copy()
    both[-1], drawn[-1] = 2, 2
    rows = [
        write_case(folder, "good", both, drawn, patient="p1", sex="F"),
        write_case(folder, "half", six, three, patient="p1", sex="F"),
        write_case(folder, "empty", nothing, nothing, patient="p2", sex="M"),
        write_case(folder, "rim", six, np.where(five > 0, five, 9).astype(np.uint8), patient="p3"),
        write_case(folder, "foreign", six, six * 7, patient="p4"),
        write_case(folder, "bare", six, None, patient="p5"),
        write_case(folder, "moved", six, six, patient="p6"),
        write_case(folder, "cut", six, six, patient="p7"),
    ]
    write_image(folder / "moved_mask.nii.gz", six, shift_mm=3.0)
    (folder / "cut.nii.gz").write_bytes((folder / "cut.nii.gz").read_bytes()[:60])
    return write_manifest(folder, rows)


def test_volumes_dice_and_intervals_of_each_case_are_those_drawn_by_hand(bundle: Path, dims: int, tmp_path: Path):
    code, found = verify(bundle, _site(tmp_path / "site", dims), tmp_path / "out")
    assert code == 0, "nothing was demanded"
    cases = {case["case"]: case["structures"]["low"] for case in found["cases"]}
    row, unit = (3, "mm2") if dims == 2 else (9, "ml")
    size = 0.5 if dims == 2 else 0.001
    dices = {"good": 2 * 5 / 11, "half": 2 * 3 / 9, "empty": None, "rim": 1.0}
    sizes = {"good": (6, 5), "half": (6, 3), "empty": (0, 0), "rim": (5, 5)}
    assert {name: one["dice"] for name, one in cases.items()} == dices
    for name, (measured, drawn) in sizes.items():
        assert cases[name][f"measured_{unit}"] == pytest.approx(measured * row * size)
        assert cases[name][f"reference_{unit}"] == pytest.approx(drawn * row * size)
    assert cases["empty"]["state"] == "both-empty"
    low, high = found["structures"]
    assert (low["median_dice"], low["min_dice"], low["min_dice_case"]) == (2 * 5 / 11, 2 * 3 / 9, "half")
    gaps = np.array([1, 3, 0, 0]) * row * size
    assert low[f"mean_difference_{unit}"] == pytest.approx(gaps.mean())
    assert low["limits_of_agreement"] == pytest.approx(gaps.mean() + 1.96 * gaps.std(ddof=1) * np.array([-1, 1]))
    assert (high["median_dice"], high["images"]) == (1.0, {"scored": 1, "both-empty": 3})
    if dims == 2:
        assert low["patients_inside"] is None
        return
    for name, (measured, drawn) in sizes.items():
        reach = 0.2 * (measured * row * size + 0.01)
        assert cases[name]["high_ml"] == pytest.approx(measured * row * size + reach)
        assert cases[name]["inside"] is (abs(measured - drawn) * row * size <= reach)
    assert (low["patients_inside"]["hits"], low["patients_inside"]["total"]) == (2, 3), "one image of p1 is outside"
    assert high["patients_inside"] is None
    assert found["promised_coverage"] == 0.9


def test_what_cannot_be_compared_is_listed_with_its_reason_and_counted(bundle: Path, dims: int, tmp_path: Path):
    code, found = verify(bundle, _site(tmp_path / "site", dims), tmp_path / "out")
    assert code == 0
    reasons = {case["case"]: case["reason"] for case in found["unusable"]}
    due = {"foreign": "label-values", "bare": "no-reference", "moved": "label-grid", "cut": "truncated"}
    assert reasons == due
    text = (tmp_path / "out" / "pq.md").read_text()
    assert "8 in all, 4 usable, of 3 patient(s), **4 not usable**" in text
    assert "**Few patients: 3.**" in text
    assert "label values [7]" in text
    assert "the bundle knows 1 low, 2 high" in text
    assert "No acceptance criterion was given" in text
    assert "| half | p1 | low |" in text
    lines = _table(tmp_path / "out" / "pq_results.csv")
    assert {line["case"]: line["status"] for line in lines if line["status"] != "ok"} == due
    assert [float(line["dice"]) for line in lines if line["case"] == "half" and line["structure"] == "low"] == [2 / 3]


def test_cases_are_predicted_as_predict_does(tmp_path: Path):
    bundle = site_bundle(tmp_path / "bundle", intervals=INTERVALS)
    write_case(tmp_path / "site", "a", block(3, 1, 6), block(3, 1, 4))
    _, found = verify(bundle, write_manifest(tmp_path / "site", [_row("a")]), tmp_path / "out")
    assert main(["predict", str(bundle), str(tmp_path / "site" / "a.nii.gz"), "--out", str(tmp_path / "p")]) == 0
    (told, _), ours = (
        json.loads((tmp_path / "p" / "a" / "report.json").read_text())["labels"],
        found["cases"][0]["structures"]["low"],
    )
    assert ours["measured_voxels"] == told["voxels"]
    for name, theirs in (("measured_ml", "volume_ml"), ("low_ml", "volume_ml_low"), ("high_ml", "volume_ml_high")):
        assert ours[name] == pytest.approx(told[theirs], abs=1e-6)


def _row(name: str) -> dict[str, str]:
    return {"case": name, "patient": name, "image": f"{name}.nii.gz", "label": f"{name}_mask.nii.gz"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_cases_that_the_bundle_may_have_learned_from_are_told(split: str, tmp_path: Path):
    row = write_case(tmp_path / "site", "a", block(3, 1, 6), block(3, 1, 4), split=split)
    cases = write_manifest(tmp_path / "site", [row])
    verify(site_bundle(tmp_path / "bundle"), cases, tmp_path / "out")
    assert ("of split train or val" in (tmp_path / "out" / "pq.md").read_text()) is (split == "train")
    same = site_bundle(tmp_path / "same", provenance={"manifest_sha256": sha256(cases)})
    verify(same, cases, tmp_path / "more")
    assert "was made from this very manifest" in (tmp_path / "more" / "pq.md").read_text()


@pytest.mark.parametrize(
    ("demands", "failed"),
    [
        (["--accept.dice", "0.9"], 0),
        (["--accept.dice", "0.92"], 1),
        (["--accept.dice", "{low: 0.7, high: 0.7}", "--accept.inside", "0.6"], 0),
        (["--accept.inside", "0.7", "--accept.dice", "{high: 1}"], 1),
        (["--accept.patients", "4"], 1),
        (["--accept.dice", "0.9", "--accept.unusable", "3"], 1),
    ],
)
def test_what_the_site_demands_passes_or_fails_with_exit_code_2(demands: list[str], failed: int, tmp_path: Path):
    bundle = site_bundle(tmp_path / "bundle", intervals=INTERVALS, ignore_label=9)
    allowed = [] if "--accept.unusable" in demands else ["--accept.unusable", "4"]
    code, found = verify(bundle, _site(tmp_path / "site", 3), tmp_path / "out", *demands, *allowed)
    assert [one["passed"] for one in found["demanded"]].count(False) == failed
    assert code == (2 if failed else 0)
    text = (tmp_path / "out" / "pq.md").read_text()
    assert text.count("| **failed** |") == failed
    assert f"**Performance at this site: {'failed' if failed else 'passed'}" in text
    assert json.loads((tmp_path / "out" / "pq.json").read_text())["passed"] is not bool(failed)


def test_a_structure_that_no_case_holds_is_not_good_enough(tmp_path: Path):
    bundle = site_bundle(tmp_path / "bundle")
    row = write_case(tmp_path / "site", "a", block(3, 1, 6), block(3, 1, 6))
    code, found = verify(bundle, write_manifest(tmp_path / "site", [row]), tmp_path / "out", "--accept.dice", "0.5")
    assert code == 2
    low, high, _ = found["demanded"]
    assert (low["passed"], high["passed"], high["found"]) == (True, False, "not defined: it is in no image")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--accept.dice", "1.2"], "accept.dice of low must be from 0 to 1, got 1.2"),
        (["--accept.dice", "{liver: 0.9}"], "accept.dice names 'liver', which is no structure of the bundle (low, hig"),
        (["--accept.sensitivity", "0.9"], "accept.sensitivity is not for a segmentation bundle"),
        (["--accept.inside", "0.9"], "the bundle has no volume intervals"),
    ],
)
def test_demands_that_make_no_sense_are_refused_before_anything_is_predicted(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, _ = verify(site_bundle(tmp_path / "bundle"), _site(tmp_path / "site", 3), tmp_path / "out", *more)
    assert code == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert list((tmp_path / "out").iterdir()) == []


def test_options_that_belong_together_and_files_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle, cases = site_bundle(tmp_path / "bundle"), _site(tmp_path / "site", 3)
    assert main(["verify", str(bundle), "--cases", str(cases)]) == 2
    assert "give --checklist FILE.md too" in capsys.readouterr().err
    assert main(["verify", str(bundle), "--checklist", str(tmp_path / "x.md"), "--accept.dice", "0.8"]) == 2
    assert "give --cases too" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pq_results.csv").write_text("kept")
    assert verify(bundle, cases, tmp_path / "out")[0] == 2
    assert "pq_results.csv exists already" in capsys.readouterr().err
    assert verify(bundle, cases, tmp_path / "out", "--overwrite")[0] == 0


def test_a_folder_is_indexed_and_its_damaged_file_is_counted(tmp_path: Path):
    _site(tmp_path / "site", 3)
    (tmp_path / "site" / "own.csv").unlink()
    code, found = verify(site_bundle(tmp_path / "bundle", ignore_label=9), tmp_path / "site", tmp_path / "out")
    assert code == 0
    assert {case["case"] for case in found["cases"]} == {"good", "half", "empty", "rim"}
    reasons = {Path(case["case"]).name: case["reason"] for case in found["unusable"]}
    assert reasons["cut.nii.gz"] == "truncated"
    assert reasons["moved"] == reasons["bare"] == "no-reference"
    assert found["manifest"] == "pq_manifest.csv"
    assert "moved_mask.nii.gz (label-grid)" in (tmp_path / "out" / "pq.md").read_text()
    assert len(_table(tmp_path / "out" / "pq_manifest.csv")) == 7


@pytest.mark.parametrize("name", ["seg.dcm", "rtstruct.dcm", "seg.nii.gz"])
def test_references_may_be_segmentations_structure_sets_and_nifti(name: str, tmp_path: Path):
    bundle = site_bundle(tmp_path / "bundle")
    values = np.tile(np.repeat([0, 15, 25], 4).astype(np.int16), (6, 10, 1))
    series = write_series(tmp_path / "site" / "a", values, **COMPANION)
    formats = ["--format", "nifti,dicom-seg,rtstruct"]
    assert main(["predict", str(bundle), str(series), "--out", str(tmp_path / "site" / "drawn"), *formats]) == 0
    row = {"case": "a", "patient": "p", "image": "a", "label": f"drawn/a/{name}"}
    code, found = verify(bundle, write_manifest(tmp_path / "site", [row]), tmp_path / "out")
    assert code == 0
    assert [one["dice"] for one in found["cases"][0]["structures"].values()] == [1.0, 1.0]


def test_an_image_that_a_library_trips_over_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from medssl.runtime.predictor import Predictor

    real = Predictor.predict

    def trips(self, volume, *more, **named):
        if volume.source.paths[0].name == "a.nii.gz":
            raise ValueError("axis 3 is out of bounds")
        return real(self, volume, *more, **named)

    rows = [write_case(tmp_path / "site", name, block(3, 1, 6), block(3, 1, 6)) for name in "ab"]
    monkeypatch.setattr(Predictor, "predict", trips)
    _, found = verify(site_bundle(tmp_path / "bundle"), write_manifest(tmp_path / "site", rows), tmp_path / "out")
    assert [case["case"] for case in found["cases"]] == ["b"]
    assert [(case["case"], case["reason"]) for case in found["unusable"]] == [("a", "unexpected")]


def test_a_bundle_that_fails_its_checks_predicts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = site_bundle(tmp_path / "bundle", golden_shift=1.0)
    code, _ = _verify_without_numbers(bundle, _site(tmp_path / "site", 3), tmp_path / "out")
    assert code == 2
    assert "do not use this bundle: golden case" in capsys.readouterr().err
    assert "Not done, because the bundle did not pass the checks above." in (tmp_path / "out" / "pq.md").read_text()
    assert not (tmp_path / "out" / "pq_results.csv").exists()


def _verify_without_numbers(bundle: Path, cases: Path, out: Path) -> tuple[int, None]:
    out.mkdir()
    return main(["verify", str(bundle), "--checklist", str(out / "pq.md"), "--cases", str(cases)]), None


def test_a_manifest_without_a_reference_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    row = write_case(tmp_path / "site", "a", block(3, 1, 6), None)
    code, _ = verify(site_bundle(tmp_path / "bundle"), write_manifest(tmp_path / "site", [row]), tmp_path / "out")
    assert code == 2
    assert "none of the 1 case(s) has a reference to compare with: fill the column `label`" in capsys.readouterr().err


def test_a_bundle_with_rules_takes_studies_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = site_bundle(tmp_path / "bundle", series=(SeriesRule("CT", ("thin",)),))
    values = np.tile(np.repeat([0, 15, 25], 4).astype(np.int16), (6, 10, 1))
    for name, uid, text in (("a", "1.2.3.1", "thin axial"), ("b", "1.2.3.2", "scout")):
        write_series(tmp_path / "site" / "s" / name, values, series=uid, **COMPANION, SeriesDescription=text)
    predicted = ["--out", str(tmp_path / "site" / "drawn"), "--format", "nifti"]
    assert main(["predict", str(bundle), str(tmp_path / "site" / "s"), *predicted]) == 0
    assert verify(bundle, tmp_path / "site", tmp_path / "out")[0] == 2
    assert "names a study's folder or zip file" in " ".join(capsys.readouterr().err.split())
    rows = [{"case": "s", "patient": "p", "image": "s", "label": "drawn/s/seg.nii.gz"}]
    _, found = verify(bundle, write_manifest(tmp_path / "site", rows), tmp_path / "out")
    assert [one["dice"] for one in found["cases"][0]["structures"].values()] == [1.0, 1.0]


def test_own_cases_need_no_training_library(tmp_path: Path):
    bundle, out = site_bundle(tmp_path / "bundle"), tmp_path / "out"
    cases = write_manifest(tmp_path / "site", [write_case(tmp_path / "site", "a", block(3, 1, 6), block(3, 1, 6))])
    arguments = ["verify", str(bundle), "--checklist", str(out / "pq.md"), "--cases", str(cases)]
    blocked = ["torch", "monai", "lightning", "sklearn", "skimage", "scipy"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))\nfrom medssl.__main__ import main\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(main({arguments}))"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 usable, of 1 patient(s)" in (out / "pq.md").read_text()
