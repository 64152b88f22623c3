"""What DICOM results repeat of the headers of their sources, however these are written."""

from pathlib import Path

import pydicom
import pytest
from dicom_phantom import ramp, write_series
from result_objects import COMPANION, KINDS, errors_of

from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_source import quiet


def _series(folder: Path, **attributes: object) -> Volume:
    write_series(folder, ramp(4), **{**COMPANION, **attributes})
    return read_volume(folder)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 6", "Meier^Anna"),
        ("ISO IR 100", "Müller^Jürgen"),
        ("ISO 2022 IR 100", "Müller^Jürgen"),
        (["ISO_IR 100", "ISO_IR 192"], "Meier^Anna"),
    ],
)
def test_results_are_written_whatever_encodes_the_text_of_the_source(tmp_path: Path, encoding: object, name: str):
    with quiet():  # pydicom remarks on encodings that the standard does not have
        volume = _series(tmp_path / "s", SpecificCharacterSet=encoding, PatientName=name)
    for kind in ("seg", "labelmap", "fractional", "sr", "sc", "rtstruct"):
        KINDS[kind](volume, tmp_path / f"{kind}.dcm")
        dataset = pydicom.dcmread(tmp_path / f"{kind}.dcm")
        assert (dataset.SpecificCharacterSet, str(dataset.PatientName)) == ("ISO_IR 192", name)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_of_patient_and_study_is_in_every_object(tmp_path: Path, kind: str):
    known = {"IssuerOfPatientID": "HOSP", "StudyDescription": "Schädel", "PatientAge": "050Y"}
    given = {**known, "SpecificCharacterSet": "ISO_IR 192", "ReferringPhysicianName": ["A^B", "C^D"]}
    KINDS[kind](_series(tmp_path / "s", **given), tmp_path / "r.dcm")
    dataset = pydicom.dcmread(tmp_path / "r.dcm")
    assert {name: dataset[name].value for name in known} == known
    assert not dataset.ReferringPhysicianName
    assert errors_of(tmp_path / "r.dcm") == [] or kind in ("labelmap",)
