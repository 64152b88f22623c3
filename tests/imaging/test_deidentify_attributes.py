"""What becomes of single attributes: sequences, free text, names typed into text, and values under a wrong name."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from result_objects import COMPANION, KINDS, LABELS, errors_of, mask_on

from medssl.imaging.deidentify import Dates, Pseudonyms, deidentify
from medssl.imaging.readers.open import read_label, read_volume

_KEY = b"k" * 32
_DUMMY = "ANONYMIZED"
_PET = "1.2.840.10008.5.1.4.1.1.128"


def _image(**attributes: object) -> FileDataset:
    fixed = {"SOPInstanceUID": "1.2.3.5"}
    return slice_dataset(ramp(1)[0], (0, 0, 0), **{**fixed, **attributes})


def _clean(dataset: FileDataset) -> tuple[FileDataset, list[str]]:
    return dataset, deidentify(dataset, Pseudonyms(_KEY))


def _item() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = _PET, "1.2.3.99"
    item.PersonName, item.TextValue, item.CodeMeaning = "Meier^Anna", "secret", "coded"
    item.private_block(0x0029, "SECRET VENDOR", create=True).add_new(0x10, "LO", "secret")
    return item


def _with_all_sequences() -> FileDataset:
    """In each sequence of the standard an item, and one in the same sequence within it."""
    dataset = _image()
    for tag, entry in DicomDictionary.items():
        if entry[0] == "SQ" and tag >> 16 > 4:  # the first groups belong to messages, file headers and folders
            outer = _item()
            outer.add(DataElement(tag, "SQ", Sequence([_item()])))
            dataset.add(DataElement(tag, "SQ", Sequence([outer])))
    return dataset


def _uids(dataset: Dataset, keyword: str) -> set[str]:
    return {str(e.value) for e in dataset.iterall() if e.keyword == keyword}


def test_every_sequence_of_the_standard_is_the_same_in_each_run_and_keeps_no_secret():
    first, second = (_clean(_with_all_sequences())[0] for _ in range(2))
    assert first.to_json() == second.to_json()
    del first.DeidentificationMethodCodeSequence  # written by us
    left = [element for element in first if element.VR == "SQ" and len(element.value)]
    assert len(left) > 100
    for element in left:
        for item in element.value:
            text = item.to_json().lower()
            assert "secret" not in text, element.keyword
            assert "meier" not in text, element.keyword
            assert _uids(item, "ReferencedSOPClassUID") == {_PET}, element.keyword
            assert _uids(item, "ReferencedSOPInstanceUID") == {Pseudonyms(_KEY).uid("1.2.3.99")}, element.keyword
            assert not [e for e in item.iterall() if e.tag.is_private], element.keyword


def test_references_stay_and_sequences_that_name_places_and_people_go():
    dataset = _image()
    for keyword in (
        "ReferencedPerformedProcedureStepSequence",
        "InstitutionCodeSequence",
        "AcquisitionContextSequence",
    ):
        setattr(dataset, keyword, [_item()])
    _clean(dataset)
    assert len(dataset.ReferencedPerformedProcedureStepSequence) == 1
    assert "InstitutionCodeSequence" not in dataset
    assert len(dataset.AcquisitionContextSequence) == 0, "due, and may be empty"


@pytest.mark.parametrize(
    ("patient", "attribute", "typed", "left"),
    [
        ("Meier^Anna", "BodyPartExamined", "MEIER", _DUMMY),
        ("Meier^Anna", "BodyPartExamined", "HEAD", "HEAD"),
        ("Head^Ann", "BodyPartExamined", "HEAD", "HEAD"),
        ("Primary^Ann", "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ("Meier^Anna", "ImageType", ["ORIGINAL", "PRIMARY", "MEIER"], ["ORIGINAL", "PRIMARY", _DUMMY]),
        ("Müller^Jörg", "ConvolutionKernel", "for MUELLER", _DUMMY),
        ("Mueller^Jorg", "ConvolutionKernel", "for Müller", _DUMMY),
        ("Dvořák^Josef", "ConvolutionKernel", "DVORAK", _DUMMY),
        ("Meier-Schulz^Anna Maria", "ConvolutionKernel", "schulz", _DUMMY),
        ("Meier-Schulz^Anna Maria", "SequenceName", "x_Maria_2", _DUMMY),
        ("Meier^Anna", "SequenceName", "Meier2", _DUMMY),
        ("Stein^Ann", "ConvolutionKernel", "Einstein", "Einstein"),
    ],
)
def test_names_are_found_in_text_and_codes_as_people_type_them(
    patient: str, attribute: str, typed: object, left: object
):
    dataset, told = _clean(_image(SpecificCharacterSet="ISO_IR 192", PatientName=patient, **{attribute: typed}))
    value = dataset[attribute].value
    assert (list(value) if isinstance(left, list) else value) == left
    assert told == ([attribute] if left != typed else [])


def test_a_patient_named_like_our_dummy_makes_no_dummy_a_name():
    dataset, told = _clean(_image(PatientName="Anonymized", ContrastBolusAgent="iodine"))
    assert (dataset.ContrastBolusAgent, told) == (_DUMMY, [])


def test_what_says_how_pixels_are_read_stays():
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [4, 0, 16], "US"
    lut.add_new("LUTData", "OW", bytes(8))
    image = _image(
        PatientName="Full^Color", PatientID="10918", PhotometricInterpretation="YBR_FULL_422",
        LossyImageCompressionMethod="ISO_10918_1", ModalityLUTSequence=[lut],
    )  # fmt: skip
    dataset, told = _clean(image)
    assert (dataset.PhotometricInterpretation, dataset.LossyImageCompressionMethod) == ("YBR_FULL_422", "ISO_10918_1")
    assert dataset.ModalityLUTSequence[0].LUTData == bytes(8)
    assert told == []


@pytest.mark.parametrize("keyword", ["FrameOfInterestDescription", "WindowCenterWidthExplanation", "LUTExplanation"])
def test_text_about_pixels_names_nobody(keyword: str):
    dataset, told = _clean(_image(PatientName="Full^Anna", **{keyword: "lesion of Anna"}))
    assert (dataset.get(keyword), told) == (_DUMMY, [keyword])


def test_numbers_are_found_by_themselves_alone():
    for kernel, left in (("no. 4711", _DUMMY), ("pat_4711", _DUMMY), ("94711", "94711"), ("4711a", "4711a")):
        dataset, _ = _clean(_image(PatientID="4711", ConvolutionKernel=kernel))
        assert dataset.ConvolutionKernel == left
    dataset, _ = _clean(_image(PatientID="2022", SpecificCharacterSet=["", "ISO 2022 IR 100"]))
    assert dataset.SpecificCharacterSet == ["", "ISO 2022 IR 100"]


def test_what_the_table_leaves_of_places_orders_dates_and_serial_numbers_goes():
    dataset = _image(
        PatientBirthDateInAlternativeCalendar="50/06/17",
        FillerOrderNumberProcedure="ORDER-17",
        TransducerData=["C5", "SERIAL-55360"],
        ContentLabel="CHARIVARI",
        ContentDescription="for the tumour board of Charivari",
        InterventionDescription="typed by a person",
        TrackingID="lesion of Meier",
        TrackingUID="1.2.3.4.5",
        DataSetTrailingPadding=b"Meier ",
    )
    issuer, encrypted = Dataset(), Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "charivari.example", "DNS"
    encrypted.EncryptedContent, encrypted.EncryptedContentTransferSyntaxUID = b"0123", "1.2.840.10008.1.2"
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "38867", "L", "typed for the RIS"
    dataset.ProcedureCodeSequence = dataset.RequestedProcedureCodeSequence = [procedure]
    dataset.IssuerOfAccessionNumberSequence, dataset.EncryptedAttributesSequence = [issuer], [encrypted]
    dataset.add(DataElement(Tag("ConvolutionKernel"), "OB", b"Meier "))
    _clean(dataset)
    text = dataset.to_json().lower()
    for word in ("50/06/17", "order-17", "55360", "charivari", "typed", "meier", "encrypted"):
        assert word not in text
    assert "DataSetTrailingPadding" not in dataset
    assert "ConvolutionKernel" not in dataset, "text under the name of bytes"
    again, _ = _clean(_image(TrackingID="lesion of Meier"))
    assert dataset.TrackingID == again.TrackingID != ""


@pytest.mark.parametrize("kind", ["seg", "fractional", "labelmap"])
def test_results_lose_their_free_text_stay_valid_and_can_be_read(tmp_path: Path, kind: str):
    volume = read_volume(write_series(tmp_path / "in", ramp(4), **COMPANION))
    KINDS[kind](volume, tmp_path / "result.dcm")
    before = errors_of(tmp_path / "result.dcm")
    images, label = (
        [pydicom.dcmread(path) for path in paths] for paths in (volume.source.paths, [tmp_path / "result.dcm"])
    )
    (tmp_path / "out").mkdir()
    for number, dataset in enumerate((*images, *label)):
        _clean(dataset)
        dataset.save_as(tmp_path / ("out" if number < len(images) else "") / f"{number}.dcm", enforce_file_format=True)
    written = tmp_path / f"{len(images)}.dcm"
    assert {item.get("SegmentDescription", "") for item in pydicom.dcmread(written).SegmentSequence} == {""}
    assert b"DO NOT USE" in (tmp_path / "result.dcm").read_bytes()
    assert b"DO NOT USE" not in written.read_bytes()
    assert len(errors_of(written)) <= len(before)
    if kind != "fractional":
        copy = read_volume(tmp_path / "out")
        np.testing.assert_array_equal(read_label(written, copy, LABELS).array, mask_on(volume).array)


def _under(kind: str, keyword: str, value: object) -> FileDataset:
    """An image with one attribute under the kind of value given, right or wrong."""
    dataset = _image()
    if keyword in dataset:
        delattr(dataset, keyword)
    with disable_value_validation():
        dataset.add(DataElement(Tag(keyword), kind, value))
    return dataset


def _written(dataset: FileDataset, dates: Dates = "remove") -> bytes:
    with disable_value_validation():
        deidentify(dataset, Pseudonyms(_KEY, dates))
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "keyword", "typed", "left"),
    [
        ("DA", "AcquisitionDate", "20240301 MEIER", ""),
        ("DA", "AcquisitionDate", "20240301-20240302", ""),
        ("DA", "AcquisitionDate", "20241301", ""),
        ("DT", "AcquisitionDateTime", "20240301 MEIER", ""),
        ("DT", "AcquisitionDateTime", "20240301MEIER", ""),
        ("DT", "AcquisitionDateTime", "20240301101112+0100", "*101112+0100"),
        ("DT", "AcquisitionDateTime", "20240301+0100", "*+0100"),
        ("DT", "AcquisitionDateTime", "20240301", "*"),
        ("TM", "AcquisitionTime", "MEIER", ""),
        ("TM", "AcquisitionTime", "471108", ""),
        ("TM", "AcquisitionTime", "101112 4711", ""),
        ("TM", "AcquisitionTime", "101112.123456 ", "101112.123456"),
        ("TM", "AcquisitionTime", "1011", "1011"),
        ("TM", "AcquisitionTime", "10:11:12.5", "10:11:12.5"),
        ("TM", "CalibrationTime", ["101112", "MEIER"], ["101112", ""]),
    ],
)
def test_what_stands_for_a_date_or_time_and_is_none_goes_where_dates_are_shifted(
    kind: str, keyword: str, typed: str | list[str], left: str | list[str]
):
    dataset = _under(kind, keyword, typed)
    assert b"MEIER" not in _written(dataset, "shift")
    value = dataset[keyword].value
    if isinstance(left, str) and left.startswith("*"):
        assert re.fullmatch(r"20[12]\d{5}", value[:8])
        assert (value[:8] != "20240301", value[8:]) == (True, left[1:])
    else:
        assert (list(value) if isinstance(left, list) else value) == left


@pytest.mark.parametrize(
    ("kind", "keyword", "typed"),
    [
        ("US", "SoftwareVersions", list(b"MEIERS")),
        ("SS", "ImageType", list(b"MEIERS")),
        ("FD", "BodyPartExamined", 1.5),
        ("AS", "ConvolutionKernel", "MEIER"),
        ("AT", "Manufacturer", 0x4D454945),
        ("LO", "DateOfLastCalibration", "20240301 MEIER"),
        ("OB", "EncapsulatedDocument", b"MEIER "),  # of its own kind, but no part of an image
    ],
)
def test_values_under_a_wrong_kind_and_documents_go(kind: str, keyword: str, typed: object):
    dataset = _under(kind, keyword, typed)
    written = _written(dataset)
    assert b"MEIER" not in written
    assert np.array(list(b"MEIERS"), "<u2").tobytes() not in written
    assert keyword not in dataset


@pytest.mark.parametrize(
    ("kind", "keyword", "value"),
    [("SH", "ConvolutionKernel", "B30f"), ("DS", "FlipAngle", "15"), ("FD", "SliceThickness", 2.5), ("SS", "Rows", 10)],
)
def test_numbers_and_text_under_a_kin_kind_stay(kind: str, keyword: str, value: object):
    dataset = _under(kind, keyword, value)
    _written(dataset)
    assert dataset[keyword].value == value


def test_a_name_under_a_wrong_kind_is_found_in_what_stays():
    dataset = _under("LO", "PatientName", "Meier^Anna")
    dataset.BodyPartExamined, dataset.SequenceName = "MEIER", "for Anna"
    assert b"MEIER" not in _written(dataset).upper()
    assert (dataset.BodyPartExamined, dataset.SequenceName) == (_DUMMY, _DUMMY)


def test_names_of_protocols_and_machines_of_a_hospital_go():
    dataset = _image(AcquisitionProtocolName="Dr. Meier liver", NTPSourceAddress="ntp.hospital", PulseSequenceName="se")
    item = Dataset()
    item.ContactDisplayName = "Meier"
    dataset.ScheduledProcessingParametersSequence = [item]
    _clean(dataset)
    assert dataset.AcquisitionProtocolName == ""
    assert "NTPSourceAddress" not in dataset
    assert not [e for e in dataset.iterall() if e.keyword == "ContactDisplayName"]
    assert dataset.PulseSequenceName == "se"
