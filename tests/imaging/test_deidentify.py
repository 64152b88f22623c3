"""De-identification: nothing of the person stays, files still belong together, geometry and pixels are the same."""

import csv
import os
import re
import stat
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, SecondaryCaptureImageStorage
from result_objects import COMPANION, KINDS

from medssl.__main__ import main
from medssl.imaging.deidentify import Pseudonyms, deidentify
from medssl.imaging.index import index_tree
from medssl.imaging.readers.open import read_volume

_SECRETS = {
    "PatientName": "Mustermann^Erika^Maria",
    "PatientID": "KH-4711-0815",
    "PatientBirthDate": "19700203",
    "PatientAddress": "Lindenallee 7",
    "OtherPatientIDs": ["SECOND-ID-99", "THIRD-ID-98"],
    "AccessionNumber": "ACC123456",
    "ReferringPhysicianName": "Quacksalber^Heinz",
    "InstitutionName": "Charivari Klinik",
    "StationName": "CT-KELLER-3",
    "StudyDescription": "follow-up of Mustermann",
    "SeriesDescription": "thorax, Frau Mustermann",
    "ProtocolName": "protocol of Quacksalber",
    "StudyDate": "20240301",
    "SeriesDate": "20240302",
    "AcquisitionDateTime": "20240302101112.123456",
    "StudyTime": "101112.5",
    "DeviceSerialNumber": "SERIAL-777",
    "PatientComments": "lives in Lindenallee",
}


def _private_and_nested(dataset: FileDataset) -> None:
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "LO", "Mustermann private")
    inner = Dataset()
    inner.PatientID, inner.ReferencedSOPInstanceUID = "KH-4711-0815", "1.2.3.44"
    inner.PersonName = "Quacksalber^Heinz"
    outer = Dataset()
    outer.ReferencedSOPClassUID, outer.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.55"
    outer.PurposeOfReferenceCodeSequence = [inner]
    dataset.SourceImageSequence = [outer]
    dataset.RequestAttributesSequence = [inner]
    dataset.add_new((0x6000, 0x3000), "OW", b"\0\1")
    dataset.add_new((0x6000, 0x0010), "US", 1)
    dataset.preamble = b"Mustermann".ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = "CHARIVARI"


def _identified(folder: Path, patient: str = "KH-4711-0815", series: str = "1.2.3.1", slices: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(slices):
        own = {**_SECRETS, "PatientID": patient, "StudyInstanceUID": f"{series}.9"}
        dataset = slice_dataset(ramp(slices)[k], (1, 2, 2.5 * k), series=series, number=k + 1, **own)
        _private_and_nested(dataset)
        dataset.save_as(folder / f"Mustermann_{k}.dcm", enforce_file_format=True)
    return folder


def _run(folder: Path, out: Path, *more: str) -> int:
    return main(["deidentify", str(folder), "--out", str(out), *more])


def _files(out: Path) -> list[Path]:
    return sorted(p for p in out.rglob("*") if p.is_file())


def _problems(private: Path) -> dict[str, str]:
    with (private / "problems.csv").open(newline="") as stream:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}


def test_no_byte_of_the_output_holds_a_name_number_date_or_uid_of_the_input(tmp_path: Path):
    assert _run(_identified(tmp_path / "in"), tmp_path / "out") == 0
    words = [
        "Mustermann",
        "Erika",
        "KH-4711",
        "Lindenallee",
        "SECOND-ID",
        "THIRD-ID",
        "ACC123",
        "Quacksalber",
        "Charivari",
    ]
    # a time with its point: new UIDs hold any six digits by chance
    words += ["KELLER", "SERIAL-777", "19700203", "20240301", "20240302", "101112.", "SIEMENS CSA", "CHARIVARI"]
    words += ["1.2.3.1", "1.2.3.44", "1.2.3.55"]
    assert len(_files(tmp_path / "out")) == 4
    for file in _files(tmp_path / "out"):
        content = file.read_bytes()
        for word in words:
            assert word.encode() not in content, word
            assert word not in str(file.relative_to(tmp_path / "out"))


def test_geometry_and_pixels_stay_and_the_copy_can_be_indexed(tmp_path: Path):
    original = read_volume(_identified(tmp_path / "in"))
    _run(tmp_path / "in", tmp_path / "out")
    copy = read_volume(tmp_path / "out")
    assert copy.geometry.is_close(original.geometry)
    np.testing.assert_array_equal(copy.array, original.array)
    index_tree(tmp_path / "out", tmp_path / "manifest.csv")
    with (tmp_path / "manifest.csv").open(newline="") as stream:
        assert [row["modality"] for row in csv.DictReader(stream)] == ["CT"]


def test_uids_names_and_references_agree_across_files_and_runs_with_one_key(tmp_path: Path):
    _identified(tmp_path / "in" / "a")
    _identified(tmp_path / "in" / "b", series="1.2.3.7")
    _identified(tmp_path / "in" / "c", patient="another", series="1.2.3.8")
    key = ["--private", str(tmp_path / "key")]
    assert _run(tmp_path / "in", tmp_path / "one", *key) == 0
    assert _run(tmp_path / "in" / "a", tmp_path / "two", *key) == 0
    assert _run(tmp_path / "in" / "a", tmp_path / "three") == 0
    one, two, three = ([pydicom.dcmread(p) for p in _files(tmp_path / n)] for n in ("one", "two", "three"))
    assert len({d.PatientID for d in one}) == 2
    assert len({d.SeriesInstanceUID for d in one}) == 3
    assert {d.SOPInstanceUID for d in two} < {d.SOPInstanceUID for d in one}
    assert not {d.SOPInstanceUID for d in three} & {d.SOPInstanceUID for d in one}, "another key"
    referred = {d.SourceImageSequence[0].ReferencedSOPInstanceUID for d in one}
    assert len(referred) == 1
    assert next(iter(referred)).startswith("2.25.")
    assert {d.SourceImageSequence[0].ReferencedSOPClassUID for d in one} == {"1.2.840.10008.5.1.4.1.1.2"}
    assert all(d.SOPInstanceUID == d.file_meta.MediaStorageSOPInstanceUID for d in one)
    assert {p.stem for p in _files(tmp_path / "one")} == {str(d.SOPInstanceUID) for d in one}


def test_dates_are_removed_or_shifted_by_one_number_a_patient(tmp_path: Path):
    _identified(tmp_path / "in")
    _run(tmp_path / "in", tmp_path / "removed")
    _run(tmp_path / "in", tmp_path / "shifted", "--dates", "shift")
    removed = pydicom.dcmread(_files(tmp_path / "removed")[0])
    assert removed.StudyDate == ""
    assert removed.LongitudinalTemporalInformationModified == "REMOVED"
    shifted = pydicom.dcmread(_files(tmp_path / "shifted")[0])
    study, series = (np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (shifted.StudyDate, shifted.SeriesDate))
    assert series - study == np.timedelta64(1, "D")
    moved = np.datetime64("2024-03-01") - study
    assert np.timedelta64(366, "D") <= moved < np.timedelta64(3650, "D")
    assert shifted.AcquisitionDateTime[8:] == "101112.123456"
    assert shifted.PatientBirthDate == ""
    assert [c.CodeValue for c in shifted.DeidentificationMethodCodeSequence] == ["113100", "113107"]
    assert shifted.PatientIdentityRemoved == "YES"


def test_the_key_lies_apart_is_private_and_makes_the_pseudonyms(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _run(_identified(tmp_path / "in"), tmp_path / "out")
    key = tmp_path / "out-private" / "key.txt"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out-private" / "problems.csv").stat().st_mode) == 0o600
    dataset = Dataset()
    dataset.PatientID = "KH-4711-0815"
    expected = Pseudonyms(bytes.fromhex(key.read_text().strip())).patient(dataset)
    assert pydicom.dcmread(_files(tmp_path / "out")[0]).PatientID == expected
    assert re.fullmatch(r"P[0-9A-F]{12}", expected)
    assert key.read_text().strip() not in "".join(p.read_bytes().decode("latin1") for p in _files(tmp_path / "out"))
    key.chmod(0o644)
    assert _run(tmp_path / "in", tmp_path / "again", "--private", str(key.parent)) == 2
    assert "chmod 600" in capsys.readouterr().err
    key.chmod(0o600)
    key.write_text("short")
    assert _run(tmp_path / "in", tmp_path / "again", "--private", str(key.parent)) == 2
    assert "holds no key" in capsys.readouterr().err


def _with(path: Path, **attributes: object) -> None:
    kind = attributes.pop("sop_class", None)
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0), **_SECRETS, **attributes)
    if kind:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.save_as(path, enforce_file_format=True)


def test_every_file_that_is_not_written_is_told_with_its_reason(tmp_path: Path):
    root = _identified(tmp_path / "in")
    _with(root / "burned.dcm", BurnedInAnnotation="YES")
    _with(root / "capture.dcm", sop_class=SecondaryCaptureImageStorage)
    _with(root / "ultrasound.dcm", Modality="US")
    _with(root / "denied.dcm", Modality="US", BurnedInAnnotation="NO", series="1.2.9")
    _with(root / "typed.dcm", KVP="100", ContrastBolusAgent="x", Manufacturer="for Mustermann", series="1.2.8")
    (root / "notes.txt").write_text("Erika Mustermann")
    whole = (root / "Mustermann_0.dcm").read_bytes()
    (root / "cut.dcm").write_bytes(whole[:-40])
    (root / "same.dcm").write_bytes(whole)
    (root / "link.dcm").symlink_to(root / "Mustermann_0.dcm")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MediaStorageDirectoryStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128).save_as(root / "DICOMDIR", enforce_file_format=True)
    assert _run(root, tmp_path / "out") == 0
    assert _problems(tmp_path / "out-private") == {
        "burned.dcm": "burned-in-text",
        "capture.dcm": "burned-in-text",
        "ultrasound.dcm": "burned-in-text",
        "typed.dcm": "identity-in-text",
        "notes.txt": "not-an-image",
        "cut.dcm": "truncated",
        "same.dcm": "duplicate",
        "link.dcm": "link",
        "DICOMDIR": "dicomdir",
    }
    assert len(_files(tmp_path / "out")) == 4 + 2
    typed = next(d for p in _files(tmp_path / "out") if (d := pydicom.dcmread(p)).get("KVP") == 100)
    assert typed.Manufacturer == "ANONYMIZED"
    assert _run(root, tmp_path / "all", "--accept-burned-in") == 0
    assert len(_files(tmp_path / "all")) == 4 + 2 + 3


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "SCREEN SAVE"),
        ({"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL", "DOSE_INFO"], "BurnedInAnnotation": "NO"}, "DOSE_INFO"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "CT_SOM5 PROT"),
        ({"ImageType": "SCREEN SAVE"}, "SCREEN SAVE"),
        ({"sop_class": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}, "whatever BurnedInAnnotation says"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.7.4", "BurnedInAnnotation": "NO"}, "secondary capture"),
    ],
)
def test_what_a_program_drew_is_left_out_whatever_it_says_of_itself(
    tmp_path: Path, written: dict[str, object], reason: str
):
    root = _identified(tmp_path / "in", slices=1)
    _with(root / "drawn.dcm", series="1.2.9", **written)
    assert _run(root, tmp_path / "out") == 0
    assert _problems(tmp_path / "out-private") == {"drawn.dcm": "burned-in-text"}
    assert reason in (tmp_path / "out-private" / "problems.csv").read_text()
    assert len(_files(tmp_path / "out")) == 1


@pytest.mark.parametrize("value", ["PROTON", "PROTECTED", "M", "NORM", "MIP", "CSA MPR"])
def test_other_types_of_images_are_no_pages_of_text(tmp_path: Path, value: str):
    (tmp_path / "in").mkdir()
    _with(tmp_path / "in" / "image.dcm", ImageType=["DERIVED", "SECONDARY", value])
    assert _run(tmp_path / "in", tmp_path / "out") == 0
    assert _problems(tmp_path / "out-private") == {}


def test_an_overlay_in_the_bits_of_the_pixels_may_be_text(tmp_path: Path):
    """Group 60xx goes, but what it said of the pixels is in them."""
    root = _identified(tmp_path / "in", slices=1)  # its overlay has data of its own
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0), series="1.2.9")
    dataset.add_new((0x6002, 0x0102), "US", 15)
    dataset.save_as(root / "drawn.dcm", enforce_file_format=True)
    assert _run(root, tmp_path / "out") == 0
    assert _problems(tmp_path / "out-private") == {"drawn.dcm": "burned-in-text"}


def test_the_picture_of_a_result_does_not_leave(tmp_path: Path):
    volume = read_volume(write_series(tmp_path / "in", ramp(4), **COMPANION))
    for kind in ("sc", "sr", "seg"):
        KINDS[kind](volume, tmp_path / "in" / f"{kind}.dcm")
    (tmp_path / "in" / "referred.dcm").unlink()  # the segmentation that the report was made with
    assert _run(tmp_path / "in", tmp_path / "out") == 0
    assert _problems(tmp_path / "out-private") == {
        "sc.dcm": "own-result",
        "sr.dcm": "not-an-image",
        "seg.dcm": "identity-in-text",  # the patient is called Test, the model "test model"
    }
    assert {pydicom.dcmread(path).Modality for path in _files(tmp_path / "out")} == {"CT", "SEG"}


def test_folders_that_are_links_or_may_not_be_read_are_told(tmp_path: Path):
    root = _identified(tmp_path / "in")
    _identified(tmp_path / "elsewhere", series="1.2.3.9")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "pipe")
    (root / "closed").mkdir(mode=0o000)
    assert _run(root, tmp_path / "out") == 0
    expected = {"linked": "link", "pipe": "no-file"}
    if not os.access(root / "closed", os.R_OK):  # root may read everything
        expected["closed"] = "no-permission"
    assert _problems(tmp_path / "out-private") == expected
    assert len(_files(tmp_path / "out")) == 4


def test_mistakes_are_told_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = _identified(tmp_path / "in")
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    for arguments, part in (
        ([str(root), "--out", str(tmp_path / "there")], "exists already"),
        ([str(root), "--out", str(tmp_path / "o"), "--private", str(tmp_path / "o" / "p")], "kept apart"),
        ([str(root), "--out", str(root / "o")], "among the files with names"),
        ([str(tmp_path / "none"), "--out", str(tmp_path / "o")], "does not exist"),
        ([str(root), "--out", str(tmp_path / "o"), "--dates", "keep"], "dates"),
        ([str(tmp_path / "empty"), "--out", str(tmp_path / "o")], "could be written"),
    ):
        assert main(["deidentify", *arguments]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def _raw(path: Path, **uids: str) -> None:
    """A slice with UIDs as given, right or wrong."""
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0))
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on the wrong ones
        for name, value in uids.items():
            setattr(dataset, name, value)
        dataset.save_as(path, enforce_file_format=True)


def test_uids_below_the_root_of_the_standard_are_kept_only_where_the_standard_has_them(tmp_path: Path):
    root = tmp_path / "in"
    root.mkdir()
    escaping, own = "1.2.840.10008./../../escaped", "1.2.840.10008.4711.815"
    _raw(root / "escaping.dcm", StudyInstanceUID=escaping)
    _raw(root / "own.dcm", StudyInstanceUID=own, SOPInstanceUID=f"{own}.1", FrameOfReferenceUID=f"{own}.2")
    labelmap = "1.2.840.10008.5.1.4.1.1.66.7"  # younger than pydicom's dictionary
    _raw(root / "labelmap.dcm", SOPClassUID=labelmap, SOPInstanceUID="1.2.3.77")
    _raw(root / "two.dcm", SOPInstanceUID="1.2.3\\1.2.4")
    assert _run(root, tmp_path / "deep" / "er" / "out") == 0
    assert _problems(tmp_path / "deep" / "er" / "out-private") == {"two.dcm": "bad-uid"}
    assert not list(tmp_path.rglob("escaped*"))
    copies = _files(tmp_path / "deep" / "er" / "out")
    assert len(copies) == 3
    assert all(re.fullmatch(r"2\.25\.\d+", part.removesuffix(".dcm")) for p in copies for part in p.parts[-3:])
    assert not [p for p in copies if own.encode() in p.read_bytes()]
    assert labelmap in {pydicom.dcmread(p).SOPClassUID for p in copies}


def test_a_patient_without_a_number_is_not_merged_with_others(tmp_path: Path):
    write_series(tmp_path / "in" / "a", ramp(2), series="1.2.1", StudyInstanceUID="1.2.10", PatientID="")
    write_series(tmp_path / "in" / "b", ramp(2), series="1.2.2", StudyInstanceUID="1.2.20", PatientID="")
    _run(tmp_path / "in", tmp_path / "out")
    assert len({pydicom.dcmread(p).PatientID for p in _files(tmp_path / "out")}) == 2


def _of_issuer(folder: Path, study: str, issuer: str | None, patient: str = "4711") -> Path:
    more = {} if issuer is None else {"IssuerOfPatientID": issuer}
    own = {
        "StudyInstanceUID": study,
        "PatientID": patient,
        "StudyDate": "20240301",
        "SpecificCharacterSet": "ISO_IR 100",
    }
    return write_series(folder, ramp(2), series=f"{study}.{len(list(folder.parent.iterdir()))}", **own, **more)


def _patients(out: Path) -> set[tuple[str, str]]:
    return {(str(d.PatientID), str(d.StudyDate)) for d in map(pydicom.dcmread, _files(out))}


def test_a_patient_whose_objects_name_the_issuer_or_not_is_one_in_every_folder_and_run(tmp_path: Path):
    (tmp_path / "in").mkdir()
    _of_issuer(tmp_path / "in" / "a", "1.2.10", None)
    _of_issuer(tmp_path / "in" / "b", "1.2.10", "HOSPITAL A")
    _of_issuer(tmp_path / "in" / "c", "1.2.20", None)
    found = []
    for name, place in (("all", "in"), ("one", "in/a"), ("two", "in/b"), ("three", "in/c")):
        more = ["--private", str(tmp_path / "key"), "--dates", "shift"]
        assert _run(tmp_path / place, tmp_path / name, *more) == 0
        assert _problems(tmp_path / "key") == {}
        found.append(_patients(tmp_path / name))
    assert len(found[0]) == 1, "one pseudonym and one shift of dates"
    assert found == [found[0]] * 4


def test_issuers_of_one_study_are_of_one_patient_and_it_is_told(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name, issuer in (("a", "HOSP"), ("b", "Hospital"), ("c", "RIS")):
        _of_issuer(tmp_path / "in" / name, "1.2.10", issuer)
    _of_issuer(tmp_path / "in" / "d", "1.2.20", "RIS")
    assert _run(tmp_path / "in", tmp_path / "out") == 0
    assert _problems(tmp_path / "out-private") == {"in": "several-issuers"}
    assert "'HOSP', 'Hospital', 'RIS' in one study" in (tmp_path / "out-private" / "problems.csv").read_text()
    assert len(_files(tmp_path / "out")) == 8
    assert len(_patients(tmp_path / "out")) == 1


def test_a_number_that_two_hospitals_give_out_is_left_out_and_told(tmp_path: Path):
    """The first file does not know of the last one, so all are looked at before one is written."""
    (tmp_path / "in").mkdir()
    _of_issuer(tmp_path / "in" / "a", "1.2.10", None)
    _of_issuer(tmp_path / "in" / "b", "1.2.20", "HOSPITAL A")
    _of_issuer(tmp_path / "in" / "c", "1.2.30", "HOSPITAL A", "4712")
    _of_issuer(tmp_path / "in" / "d", "1.2.40", "HOSPITAL B")
    assert _run(tmp_path / "in", tmp_path / "out") == 0
    assert len(_files(tmp_path / "out")) == 2, "another number of hospital A"
    with (tmp_path / "out-private" / "problems.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["reason"], row["action"]) for row in rows} == {("several-issuers", "left out")}
    assert {Path(row["path"]).parent.name for row in rows} == {"a", "b", "d"}
    assert "'HOSPITAL A', 'HOSPITAL B'" in rows[0]["message"]


def _problem_rows(private: Path) -> list[tuple[str, str, str]]:
    with (private / "problems.csv").open(newline="") as stream:
        return [(Path(row["path"]).parent.name, row["reason"], row["action"]) for row in csv.DictReader(stream)]


def test_a_file_without_a_number_is_of_its_studys_patient_and_it_is_told(tmp_path: Path):
    (tmp_path / "in").mkdir()
    _of_issuer(tmp_path / "in" / "a", "1.2.10", None, "")  # before the one that tells
    _of_issuer(tmp_path / "in" / "b", "1.2.10", None)
    _of_issuer(tmp_path / "in" / "c", "1.2.20", None, "")
    more = ["--private", str(tmp_path / "key"), "--dates", "shift"]
    assert _run(tmp_path / "in", tmp_path / "out", *more) == 0
    assert set(_problem_rows(tmp_path / "key")) == {("a", "patient-of-study", "mended")}
    assert len(_patients(tmp_path / "out")) == 2, "one pseudonym and one shift of dates for the study of two series"
    assert _run(tmp_path / "in" / "b", tmp_path / "alone", *more) == 0
    assert _patients(tmp_path / "alone") < _patients(tmp_path / "out")


def test_a_file_without_a_number_in_a_study_of_two_is_left_out(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name, number in (("a", "1"), ("b", "2"), ("c", "")):
        _of_issuer(tmp_path / "in" / name, "1.2.10", None, number)
    assert _run(tmp_path / "in", tmp_path / "out") == 0
    assert set(_problem_rows(tmp_path / "out-private")) == {("c", "patients", "left out")}
    assert len(_patients(tmp_path / "out")) == 2


def test_a_study_gives_no_number_that_two_hospitals_give_out(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name, study, issuer in (("a", "1.2.10", "HOSPITAL A"), ("b", "1.2.20", "HOSPITAL B")):
        _of_issuer(tmp_path / "in" / name, study, issuer)
    _of_issuer(tmp_path / "in" / "c", "1.2.10", None, "")
    _of_issuer(tmp_path / "in" / "d", "1.2.30", None, "4712")
    assert _run(tmp_path / "in", tmp_path / "out") == 0
    assert set(_problem_rows(tmp_path / "out-private")) == {(name, "several-issuers", "left out") for name in "abc"}


def test_attributes_that_no_dictionary_knows_go(tmp_path: Path):
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0))
    dataset.add_new((0x0018, 0xFFFE), "LO", "unknown")
    assert deidentify(dataset, Pseudonyms(b"k" * 32)) == []
    assert (0x0018, 0xFFFE) not in dataset


@pytest.mark.parametrize(
    "series", ["dicom_mr_brain_pgbm/Study3/11-T1post-18670", "dicom_ct_seg_dcmqi/24x38x3/multiframe"]
)
def test_real_series_keep_their_geometry_and_pixels(real_data: Path, tmp_path: Path, series: str):
    original = read_volume(real_data / series)
    assert _run(real_data / series, tmp_path / "out") == 0
    copy = read_volume(tmp_path / "out")
    assert copy.geometry.is_close(original.geometry)
    np.testing.assert_array_equal(copy.array, original.array)
    uid = original.source.uids["SeriesInstanceUID"].encode()
    for file in _files(tmp_path / "out"):
        assert uid not in file.read_bytes()
