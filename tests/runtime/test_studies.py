"""Series of a study as channels: chosen by rules, brought to one grid, refused with names where that cannot be done."""

import csv
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import write_series
from result_objects import COMPANION
from tiny_bundle import write_bundle

from medssl.__main__ import main
from medssl.commands.predict import predict
from medssl.imaging.errors import ConfigError, ImageError, MedsslError
from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.open import read_channels, read_volume
from medssl.imaging.resample import regrid_image
from medssl.imaging.series import SeriesRule
from medssl.imaging.study import covered, find_studies, on_first_grid, read_study
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.inputs import find_cases
from medssl.runtime.results import FORMATS
from medssl.runtime.server.secret import Secret

_CHANNELS = ("T1", "FLAIR")
_RULES = (
    SeriesRule("MR", ("t1|mprage",), ("post",)),
    SeriesRule("MR", ("flair",), plane="axial", spacing_mm=(0.4, 4.0)),
)


def _series(folder: Path, uid: str, description: str, *, spacing=(0.5, 0.5), shape=(6, 12, 12), **attributes) -> Path:
    values = np.random.default_rng(len(uid)).integers(0, 20, size=shape).astype(np.int16)
    usual = {"Modality": "MR", "SeriesDescription": description}
    return write_series(folder, values, series=uid, spacing=spacing, **{**usual, **attributes})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """T1, FLAIR on a coarser grid, and T1 after contrast."""
    _series(tmp_path / "study" / "a", "1.2.3.1", "sag T1 MPRAGE")
    _series(tmp_path / "study" / "b", "1.2.3.22", "ax FLAIR", spacing=(1.0, 1.0), shape=(6, 6, 6))
    _series(tmp_path / "study" / "c", "1.2.3.333", "T1 post contrast")
    return tmp_path / "study"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", channels=_CHANNELS, series=_RULES)


def _read(folder: Path, rules=_RULES, channels=_CHANNELS) -> Volume:
    (found,), *_ = find_studies(folder)
    return read_study(found, channels, rules)


def test_the_series_that_fit_become_channels_on_the_first_ones_grid(study: Path):
    volume = _read(study)
    t1, flair = read_volume(study / "a"), read_volume(study / "b")
    assert volume.geometry.is_close(t1.geometry)
    np.testing.assert_array_equal(volume.array[0], t1.array[0])
    np.testing.assert_allclose(volume.array[1], regrid_image(flair.array, flair.geometry, t1.geometry)[0], atol=1e-4)
    told = volume.source.channels
    assert [(c.name, c.description, c.resampled) for c in told] == [
        ("T1", "sag T1 MPRAGE", False),
        ("FLAIR", "ax FLAIR", True),
    ]
    assert told[1].series_uid == "1.2.3.22"
    assert volume.source.paths == t1.source.paths, "results refer to the first channel's files"


def test_a_turned_series_is_resampled_through_its_whole_affine(tmp_path: Path):
    """A plane of known values: the value at a place is the same, whatever the grid."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    grid = Geometry(np.diag([1.0, 1, 2, 1]), (10, 12, 5))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [1.1, 1.2, 2.5], (-2, -14, -2)
    other = Geometry(affine, (30, 32, 6))

    def plane(geometry: Geometry) -> Volume:
        place = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
        return Volume((place @ [1.0, 2.0, 3.0])[None].astype(np.float32), geometry)

    (_, (moved, inside, resampled)) = on_first_grid([plane(grid), plane(other)], ("a", "b"))
    assert (inside, resampled) == (1.0, True)
    np.testing.assert_allclose(moved.array, plane(grid).array, atol=1e-3)


def test_a_missing_and_an_ambiguous_channel_are_named_with_what_was_found(study: Path):
    with pytest.raises(ImageError) as missing:
        _read(study, (_RULES[0], SeriesRule("MR", ("dwi",))), ("T1", "DWI"))
    assert missing.value.reason == "channel-missing"
    for part in ("channel DWI (MR, dwi): no series fits", "'ax FLAIR', axial, 6 x 6 x 6, 1.00 x 1.00 x 2.50 mm"):
        assert part in missing.value.message
    with pytest.raises(ImageError, match="2 series fit, one is due\n") as several:
        _read(study, (SeriesRule("MR", ("t1",)), _RULES[1]))
    assert several.value.reason == "channel-ambiguous"
    assert "  fit channel T1: 'sag T1 MPRAGE', 'T1 post contrast'\n" in several.value.message
    with pytest.raises(ImageError, match=r"one series fits channels T1 and FLAIR\n  fits .*: 'ax FLAIR'\n"):
        _read(study, (_RULES[1], _RULES[1]))


_ONE, _TWO = SeriesRule("MR", ("one",)), SeriesRule("MR", ("two",))


@pytest.mark.parametrize(
    ("reason", "rules", "second"),
    [
        ("channel-missing", (_ONE, SeriesRule("MR", ("three",))), {}),
        ("channel-missing", (_ONE, _TWO), {"positions": [(0, 0, 2.5 * k) for k in (0, 1, 2, 3, 4, 6)]}),
        ("channel-ambiguous", (SeriesRule("MR"), _TWO), {}),
        ("channel-ambiguous", (_ONE, _ONE), {}),
        ("frame-of-reference", (_ONE, _TWO), {"FrameOfReferenceUID": "1.2.99"}),
        ("small-overlap", (_ONE, _TWO), {"positions": [(0, 0, 500 + 2.5 * k) for k in range(6)]}),
    ],
)
def test_no_description_is_in_what_the_server_says_of_an_error(
    tmp_path: Path, reason: str, rules: tuple[SeriesRule, ...], second: dict[str, Any]
):
    """Its ledger and list of jobs hold what `public` leaves of a message."""
    _series(tmp_path / "study" / "a", "1.2.3.1", "Meier^Anna one")
    _series(tmp_path / "study" / "b", "1.2.3.2", "Meier^Anna two", **second)
    with pytest.raises(ImageError) as told:
        _read(tmp_path / "study", rules)
    assert told.value.reason == reason
    public = Secret(tmp_path / "key").public(told.value.message, tmp_path / "study")
    assert "channel" in public
    assert "Meier" not in public


def test_a_description_is_told_in_the_report_and_in_no_other_result(tmp_path: Path):
    """Nor in the picture's pixels: with other descriptions all other results are the same to the byte."""
    bundle = write_bundle(tmp_path / "bundle", channels=_CHANNELS, series=(_ONE, _TWO))
    found = []
    for name in ("Meier^Anna", "Schulz^Ute"):
        shutil.rmtree(tmp_path / "study", ignore_errors=True)
        for k, word in enumerate(("one", "two")):
            spacing = (0.5 * (k + 1),) * 2  # the second is resampled, and a sentence says so
            folder = _series(
                tmp_path / "study" / word, f"1.2.3.{k + 1}", f"{name} {word}", spacing=spacing, **COMPANION
            )
            for number, file in enumerate(sorted(folder.iterdir())):
                dataset = pydicom.dcmread(file)
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}.{number}"
                dataset.save_as(file)
        predict(bundle, [str(tmp_path / "study")], tmp_path / name, format=",".join(FORMATS), threads=1)
        files = {path.name: path.read_bytes() for path in (tmp_path / name / "study").iterdir()}
        assert name.encode() in files.pop("report.json")
        assert not [file for file, content in files.items() if name.encode() in content]
        found.append(files)
    assert len(found[0]) == len(FORMATS) - 1
    assert found[0] == found[1]
    assert b"channel FLAIR was resampled to the grid of T1" in found[0]["seg.dcm"]


def test_a_series_that_lacks_a_slice_is_no_channel_and_the_reason_is_told(study: Path):
    sorted((study / "b").iterdir())[2].unlink()
    with pytest.raises(ImageError, match=r"channel FLAIR .*no series fits(.|\n)*left out: .*seem to be missing"):
        _read(study)

    (found,), *_ = find_studies(study, resample_irregular=True)
    volume = read_study(found, _CHANNELS, _RULES, resample_irregular=True)
    assert any("uneven slices were resampled" in note for note in volume.source.notes)


@pytest.mark.parametrize(
    ("owner", "kept", "flagged"),
    [
        ("1.2.3.22", "PatientID", True),  # cut before its series is named
        ("1.2.3.22", "SeriesInstanceUID", True),
        ("1.2.3.22", "half of SeriesInstanceUID", True),
        ("1.2.3.333", "SeriesInstanceUID", False),  # of a series that is no channel
    ],
)
def test_a_destroyed_slice_that_may_be_a_channels_is_a_flag_of_all_results(
    bundle: Path, study: Path, tmp_path: Path, owner: str, kept: str, flagged: bool
):
    """In one folder, as they come by C-STORE; no gap shows that the last slice is missing."""
    flat, keyword = tmp_path / "flat", kept.rpartition(" ")[2]
    flat.mkdir()
    for number, file in enumerate(sorted(study.rglob("*.dcm"))):
        dataset = pydicom.dcmread(file)
        for name, value in COMPANION.items():
            setattr(dataset, name, value)
        dataset.save_as(flat / f"{number}.dcm")
        if dataset.SeriesInstanceUID == owner:
            last = flat / f"{number}.dcm"
    content, value = last.read_bytes(), str(pydicom.dcmread(last)[keyword].value).encode()
    end = content.index(value) + len(value)
    last.write_bytes(content[: end - (3 if kept.startswith("half") else 0)])
    with pytest.raises(MedsslError, match="part of no case"):
        predict(bundle, [str(flat)], tmp_path / "out", format="json,dicom-seg,dicom-sr", threads=1)
    report = json.loads((tmp_path / "out" / "flat" / "report.json").read_text())
    assert [flag["code"] for flag in report["flags"]] == ["damaged-files"] * flagged
    for name in ("seg.dcm", "sr.dcm"):
        text = (tmp_path / "out" / "flat" / name).read_bytes()
        assert (b"DO NOT USE: 1 damaged file(s) lie among those of the series" in text) is flagged


def test_series_that_do_not_lie_together_are_refused(tmp_path: Path):
    _series(tmp_path / "a", "1.2.3.1", "t1")
    _series(tmp_path / "b", "1.2.3.2", "flair", FrameOfReferenceUID="1.2.99")
    with pytest.raises(ImageError, match="FLAIR lies in another frame of reference than T1") as error:
        _read(tmp_path)
    assert error.value.reason == "frame-of-reference"
    volume = read_volume(tmp_path / "a")
    far = np.array(volume.geometry.affine)
    far[2, 3] += 7.0
    moved = Volume(volume.array, Geometry(far, volume.geometry.shape), source=volume.source)
    with pytest.raises(ImageError, match="channel b covers 50% of a, 80% are due") as error:
        on_first_grid([volume, moved], ("a", "b"))
    assert error.value.reason == "small-overlap"
    two = replace(moved, array=np.concatenate([moved.array] * 2), geometry=volume.geometry)
    with pytest.raises(ImageError, match="channel b has 2"):
        on_first_grid([volume, two], ("a", "b"))


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ({"PatientID": "7"}, {"PatientID": "8"}, "PatientID"),
        ({"PatientName": "Meier^Anna"}, {"PatientName": "Meier^Ute"}, "PatientName"),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "19700102"}, "PatientBirthDate"),
        ({"PatientID": "7", "PatientName": "A"}, {"PatientID": "8", "PatientName": "B"}, "PatientID and PatientName"),
        ({"PatientName": "Meier^Anna"}, {"PatientName": "MEIER^ANNA^^=x"}, ""),
        ({"PatientID": "7"}, {"PatientID": " 7 "}, ""),
        ({"PatientID": "7"}, {"PatientID": ""}, ""),
        ({"PatientBirthDate": "19700101"}, {"PatientID": None, "PatientName": None}, ""),
    ],
)
def test_channels_of_different_patients_are_refused(tmp_path: Path, one: dict, other: dict, differ: str):
    _series(tmp_path / "a", "1.2.3.1", "t1", **one)
    _series(tmp_path / "b", "1.2.3.2", "flair", **other)
    for read in (_read, lambda folder: read_channels("a;b", folder)):
        if not differ:
            assert read(tmp_path).channels == 2
            continue
        with pytest.raises(ImageError, match=f"of different patients: their {differ} differ$") as error:
            read(tmp_path)
        assert error.value.reason == "patients"
        assert "Meier" not in error.value.message


def test_a_study_without_a_uid_that_several_patients_share_is_refused(tmp_path: Path):
    """Even where the series that fit are of one of them: nobody knows which belong together."""
    for number, (word, patient) in enumerate((("t1", "7"), ("flair", "7"), ("other", "8"))):
        _series(tmp_path / word, f"1.2.3.{number}", word, StudyInstanceUID="", PatientID=patient)
    with pytest.raises(ImageError, match="series without a StudyInstanceUID are of different patients") as error:
        _read(tmp_path)
    assert error.value.reason == "patients"
    shutil.rmtree(tmp_path / "other")
    assert _read(tmp_path).channels == 2


@pytest.mark.parametrize(
    ("units", "told", "note"),
    [
        ({"Units": "BQML"}, "BQML", "PET intensities are in BQML, not SUV: do not use"),
        ({"Units": "GML"}, "GML", "PET intensities are in GML, which is a standardised uptake value (SUV)"),
        ({"Units": "MEIER"}, "", "PET intensities are in a unit that the image does not name, not SUV"),
        ({}, "", "PET intensities are in a unit that the image does not name, not SUV"),
    ],
)
def test_the_unit_of_a_pet_image_is_told(tmp_path: Path, units: dict[str, str], told: str, note: str):
    _series(tmp_path / "study" / "a", "1.2.3.1", "low dose", Modality="CT")
    pet = _series(tmp_path / "study" / "b", "1.2.3.2", "wb", Modality="PT", **units)
    rules = (SeriesRule("CT"), SeriesRule("PT"))
    both = write_bundle(tmp_path / "both", channels=("CT", "PET"), series=rules)
    alone = write_bundle(tmp_path / "alone", channels=("PET",))
    reports = []
    for bundle, given in ((both, tmp_path / "study"), (alone, pet)):
        out = tmp_path / f"out_{bundle.name}"
        predict(bundle, [str(given)], out, threads=1)
        reports.append(json.loads((out / given.name / "report.json").read_text()))
        assert sum(text.startswith(note) for text in reports[-1]["warnings"]) == 1
    assert [series["units"] for series in reports[0]["image"]["series"]] == ["", told]
    assert [report["image"]["units"] for report in reports] == ["", told]


@pytest.mark.parametrize("first", [{}, {"FrameOfReferenceUID": None}])
def test_a_frame_of_reference_that_is_not_named_is_told(tmp_path: Path, first: dict[str, None]):
    """By one series or by both."""
    _series(tmp_path / "a", "1.2.3.1", "t1", **first)
    _series(tmp_path / "b", "1.2.3.2", "flair", FrameOfReferenceUID=None)
    assert any("taken on trust" in note for note in _read(tmp_path).source.notes)


@pytest.mark.parametrize(("shift", "share"), [(0.0, 1.0), (0.49, 1.0), (5.0, 0.5), (20.0, 0.0)])
def test_covered_share(shift: float, share: float):
    affine = np.eye(4)
    affine[0, 3] = shift
    assert covered(Geometry(np.eye(4), (10, 10, 10)), Geometry(affine, (10, 10, 10))) == pytest.approx(share)


def test_predicting_a_study_folder_or_zip_tells_the_series(bundle: Path, study: Path, tmp_path: Path):
    _zip(tmp_path / "zipped.zip", study)
    for given, name in ((study, "study"), (tmp_path / "zipped.zip", "zipped")):
        predict(bundle, [str(given)], tmp_path / "out", threads=1)
        report = json.loads((tmp_path / "out" / name / "report.json").read_text())
        assert [s["description"] for s in report["image"]["series"]] == ["sag T1 MPRAGE", "ax FLAIR"]
        assert any("resampled to the grid of T1" in warning for warning in report["warnings"])
        volume = _read(study)
        mask = read_volume(tmp_path / "out" / name / "seg.nii.gz")
        total = volume.array.sum(axis=0)
        assert mask.geometry.is_close(volume.geometry)
        np.testing.assert_array_equal(mask.array[0], (total > 10).astype(int) + (total > 20))


def _zip(path: Path, folder: Path, more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.dcm")):
            archive.write(file, file.relative_to(folder))
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return path


def test_zips_below_a_folder_are_studies_by_the_rules_and_what_is_left_out_is_told(
    bundle: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "in").mkdir()
    _zip(tmp_path / "in" / "whole.zip", study, {"inner.zip": b"PK"})
    _zip(tmp_path / "in" / "post.zip", _series(tmp_path / "one", "1.2.3.4444", "T1 post contrast"))
    (tmp_path / "in" / "torn.zip").write_bytes(b"PK\3\4")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    assert main(["predict", str(bundle), str(tmp_path / "in"), "--out", str(out), "--threads", "1"]) == 2
    told = capsys.readouterr()
    assert "left out: 3 file(s)" in told.out + told.err
    with (out / "summary.csv").open(newline="") as stream:
        rows = {Path(row["input"]).name: row for row in csv.DictReader(stream)}
    assert {name: (row["case"], row["status"]) for name, row in rows.items()} == {
        "whole.zip": ("whole", "ok"),
        "post.zip": ("post", "channel-missing"),
        "torn.zip": ("", "bad-zip"),
        "inner.zip": ("", "nested-zip"),
        "notes.txt": ("", rows["notes.txt"]["status"]),
    }
    assert all(row["message"].startswith("left out: ") for row in rows.values() if not row["case"])


def test_a_zip_of_several_series_in_a_folder_does_not_vanish_without_rules(study: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    _zip(tmp_path / "in" / "whole.zip", study)
    _zip(tmp_path / "in" / "one.zip", study / "a")
    spec = Bundle.open(write_bundle(tmp_path / "plain")).spec
    cases, left_out = find_cases([str(tmp_path / "in")], spec)
    assert [case.name for case in cases] == ["one"]
    assert [(Path(problem.path).name, problem.reason) for problem in left_out] == [("whole.zip", "several-series")]


def test_each_study_of_a_folder_is_a_case_and_a_bad_one_does_not_stop_the_others(
    bundle: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _series(study / "other", "1.9.1", "t1", StudyInstanceUID="1.9")
    assert main(["predict", str(bundle), str(study), "--out", str(tmp_path / "out"), "--threads", "1"]) == 2
    assert "channel FLAIR (MR, flair, axial, 0.4 to 4 mm): no series fits" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["study_3", "summary.csv"]  # the end of its UID


def test_rules_are_part_of_the_bundle_and_checked(bundle: Path):
    assert Bundle.open(bundle).spec.series == _RULES
    with pytest.raises(ConfigError) as error:
        SeriesRule(words=("t1|",), spacing_mm=(2.0, 1.0), plane="oblique")  # type: ignore[arg-type]
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError, match="must ask for something"):
        SeriesRule()


def test_real_series_of_one_study_become_channels(real_data: Path):
    studies, *_ = find_studies(real_data / "dicom_mr_brain_pgbm")
    (found,) = [study for study in studies if len(study.series) == 3]
    rules = (SeriesRule("MR", ("t1",)), SeriesRule("MR", ("flair",)), SeriesRule("MR", ("hippo",)))
    volume = read_study(found, _CHANNELS, rules[:2])
    assert volume.array.shape == (2, 280, 320, 22)
    assert [channel.resampled for channel in volume.source.channels] == [False, False]
    crop = read_study(found, ("crop", "FLAIR"), (rules[2], rules[1]))
    assert crop.array.shape == (2, 34, 50, 40)
    assert [channel.resampled for channel in crop.source.channels] == [False, True]
    with pytest.raises(ImageError, match="channel crop covers"):
        read_study(found, ("T1", "crop"), (rules[0], rules[2]))
