"""What `predict` writes for each format, and that flags and warnings reach every object a viewer may open."""

import json
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from highdicom.sr import srread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from result_objects import COMPANION
from tiny_bundle import BIAS, WEIGHT, write_bundle

from medssl.__main__ import main
from medssl.imaging.errors import ImageError, unquoted
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import Restoration
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_fractional_seg
from medssl.imaging.writers.dicom_source import Maker
from medssl.runtime.bundle import Bundle
from medssl.runtime.predictor import Prediction, Predictor
from medssl.runtime.results import DICOM_FORMATS, FORMATS, FRACTIONAL, MASK_FORMATS, forget_results, write_results
from medssl.runtime.server.secret import Secret
from medssl.runtime.shares import Shares
from medssl.runtime.sliding_window import segment_by

_FILES = {
    "dicom-seg": "seg.dcm",
    "dicom-seg-labelmap": "seg_labelmap.dcm",
    "dicom-seg-fractional": "seg_fractional.dcm",
    "rtstruct": "rtstruct.dcm",
    "dicom-sr": "sr.dcm",
    "dicom-sc": "sc.dcm",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series", (ramp(4) % 40).astype(np.int16), **COMPANION)


def _text(path: Path) -> str:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return " ".join(str(e.value) for e in dataset.iterall() if e.VR in ("ST", "LT", "UT", "LO"))


def test_whatever_was_written_of_a_case_is_forgotten(bundle: Path, series: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert main(["predict", str(bundle), str(series), "--out", str(out), "--format", ",".join(FORMATS)]) == 0
    assert len(list((out / "series").iterdir())) == len(FORMATS)
    forget_results(out / "series")
    assert [path.name for path in out.iterdir()] == ["summary.csv"]


def test_every_dicom_format_gives_its_file_of_the_same_study(bundle: Path, series: Path, tmp_path: Path):
    names = ",".join(sorted(_FILES))
    assert main(["predict", str(bundle), str(series), "--out", str(tmp_path / "out"), "--format", names]) == 0
    written = tmp_path / "out" / "series"
    assert sorted(p.name for p in written.iterdir()) == sorted(_FILES.values())
    assert {pydicom.dcmread(p).StudyInstanceUID for p in written.iterdir()} == {"1.2.3"}


def test_the_report_refers_to_the_segmentation_only_where_it_was_written(bundle: Path, series: Path):
    predictor, volume = Predictor(bundle), read_volume(series)
    for formats, expected in ((("dicom-sr",), False), (("dicom-sr", "dicom-seg"), True)):
        folder = bundle.parent / f"case{len(formats)}"
        write_results(folder, predictor.bundle, predictor.predict(volume), volume, formats)
        referred = [
            e.value for e in pydicom.dcmread(folder / "sr.dcm").iterall() if e.keyword == "ReferencedSOPInstanceUID"
        ]
        own = pydicom.dcmread(folder / "seg.dcm").SOPInstanceUID if expected else None
        assert (own in referred) is expected


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-seg-labelmap"])
def test_each_volume_of_a_report_refers_to_the_segment_of_its_name(bundle: Path, series: Path, kind: str):
    predictor, volume = Predictor(bundle), read_volume(series)
    folder = bundle.parent / "case"
    write_results(folder, predictor.bundle, predictor.predict(volume), volume, (kind, "dicom-sr"))
    segments = pydicom.dcmread(folder / _FILES[kind]).SegmentSequence
    names = {int(segment.SegmentNumber): segment.SegmentLabel for segment in segments}
    groups = srread(folder / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    referred = {g.tracking_identifier: names[g.referenced_segment.referenced_segment_numbers[0]] for g in groups}
    assert referred == {"low": "low", "high": "high"}


def test_flags_come_first_and_warnings_follow_in_every_object(bundle: Path, series: Path):
    predictor, volume = Predictor(bundle), read_volume(series)
    prediction = predictor.predict(volume, shares=True)
    flags = [{"code": "unlike", "text": "unlike training"}]
    for formats, file in _FILES.items():
        told = {"flags": flags, "warnings": ["do not use: unlike training", "w2"]}
        again = replace(prediction, report={**prediction.report, **told})
        write_results(bundle.parent / file, predictor.bundle, again, volume, (formats,))
        text = _text(bundle.parent / file / file)
        if formats != "dicom-sc":
            assert text.index("DO NOT USE: unlike training") < text.index("w2")
            assert "do not use: unlike training" not in text, "told once"


def test_intervals_of_volumes_are_told_in_the_report(bundle: Path, series: Path):
    predictor, volume = Predictor(bundle), read_volume(series)
    prediction = predictor.predict(volume)
    prediction.report["labels"][0] |= {"volume_ml_low": 0.1, "volume_ml_high": 0.25}
    prediction.report["volume_interval"] = {"coverage": 0.9}
    write_results(bundle.parent / "case", predictor.bundle, prediction, volume, ("dicom-sr",))
    text = _text(bundle.parent / "case" / "sr.dcm")
    assert (
        "low: interval of the volume 0.10 to 0.25 mL: of new patients like those of the validation, at least 90%"
        in text
    )
    assert "no statement about this one patient" in text
    assert "confidence" not in text


def test_notes_of_several_segmentations_are_told_once(bundle: Path, series: Path):
    predictor, volume = Predictor(bundle), read_volume(series)
    prediction = predictor.predict(volume)
    write_results(bundle.parent / "case", predictor.bundle, prediction, volume, ("dicom-seg", "dicom-seg-labelmap"))
    assert len([w for w in prediction.report["warnings"] if "has no code" in w]) == 1


def test_fractional_holds_the_softmax_of_the_logits(bundle: Path, series: Path, tmp_path: Path):
    volume = read_volume(series)
    predictor = Predictor(bundle)
    prediction = predictor.predict(volume, shares=True)
    assert prediction.shares is not None
    x = volume.array[0].astype(np.float64)
    logits = np.stack([weight * x + bias for weight, bias in zip(WEIGHT, BIAS, strict=True)])
    due = np.exp(logits - logits.max(axis=0))
    due = due / due.sum(axis=0)
    np.testing.assert_allclose(prediction.shares.array / 255, due[1:], atol=0.51 / 255)
    write_results(tmp_path / "case", predictor.bundle, prediction, volume, (FRACTIONAL,))
    stored = pydicom.dcmread(tmp_path / "case" / "seg_fractional.dcm")
    assert (stored.SegmentationType, stored.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert int(stored.pixel_array.max()) == int(prediction.shares.array.max())


def test_probabilities_that_were_not_kept_or_are_too_many_are_refused(
    bundle: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    predictor, volume = Predictor(bundle), read_volume(series)
    with pytest.raises(ImageError) as refused:
        write_results(tmp_path / "case", predictor.bundle, predictor.predict(volume), volume, (FRACTIONAL,))
    assert refused.value.reason == "no-shares"
    monkeypatch.setattr("medssl.runtime.shares._MOST", volume.array.size)
    with pytest.raises(ImageError, match="leave dicom-seg-fractional out") as refused:
        predictor.predict(volume, shares=True)
    assert refused.value.reason == "too-large"
    assert not (tmp_path / "case").exists()


def test_kept_probabilities_leave_less_memory_for_scores(bundle: Path, series: Path, monkeypatch: pytest.MonkeyPatch):
    plans = []

    def noted(plan, *arguments):
        plans.append(plan.slab_bytes)
        return segment_by(plan, *arguments)

    monkeypatch.setattr("medssl.runtime.predictor.segment_by", noted)
    volume = read_volume(series)
    for shares in (False, True):
        Predictor(bundle).predict(volume, shares=shares)
    assert plans[0] - plans[1] == 2 * volume.array.size


def test_fractional_frames_are_made_one_by_one(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    volume = read_volume(write_series(tmp_path / "s", np.zeros((64, 96, 96), np.int16), **COMPANION))
    shares = Volume(np.ones((2, *volume.geometry.shape), np.uint8), volume.geometry)
    saved = []
    module = "medssl.imaging.writers.dicom_seg"
    monkeypatch.setattr(f"{module}._save", lambda content, *_: saved.append(next(iter(content.said))[0, 0, 0]))
    arguments = (shares, volume, Bundle.open(bundle).spec.labels, tmp_path / "f.dcm", Maker("m", "k"))
    write_fractional_seg(*arguments)
    tracemalloc.start()
    write_fractional_seg(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert saved[1] == np.float32(1) / np.float32(255)
    assert peak < 2 * shares.array.size, "headers, and one plane"


@pytest.mark.parametrize("cropped", [False, True])
def test_probabilities_return_to_the_native_grid(cropped: bool):
    """Two classes on a grid twice as fine; beyond the prepared grid nothing is probable."""
    native = Geometry(np.diag([2.0, 2.0, 2.0, 1.0]), (6, 6, 6))
    start = np.diag([1.0, 1.0, 1.0, 1.0])
    start[:3, 3] = 3.5 if cropped else -0.5
    prepared = Geometry(start, (8, 8, 8) if cropped else (12, 12, 12))
    shares = Shares((1, 2), prepared.shape, native.shape, "softmax")
    logits = np.zeros((3, *prepared.shape), np.float32)
    logits[1] = np.log(2.0)  # probabilities 1/4, 1/2, 1/4
    shares.observe(tuple(slice(0, n) for n in prepared.shape), logits, np.zeros(prepared.shape, np.uint8))
    found = shares.restore(Restoration(native, prepared)).array
    inside = np.zeros(native.shape, bool)
    inside[(slice(2, 6),) * 3 if cropped else ...] = True
    assert set(np.unique(found[0][inside])) == {128}
    assert set(np.unique(found[1][inside])) == {64}
    assert not found[:, ~inside].any()


def test_formats_that_need_dicom_refuse_other_images_before_anything_is_written(bundle: Path, tmp_path: Path):
    volume = Volume(np.zeros((1, 8, 8, 8), np.float32), Geometry(np.eye(4), (8, 8, 8)))
    predictor = Predictor(bundle)
    for name in DICOM_FORMATS:
        with pytest.raises(ImageError, match=f"leave {name} out") as refused:
            write_results(tmp_path / "case", predictor.bundle, predictor.predict(volume), volume, ("json", name))
        assert refused.value.reason == "not-dicom"
    assert not (tmp_path / "case").exists()


def test_what_a_library_refuses_to_write_is_an_error_with_a_reason(bundle: Path, tmp_path: Path):
    """A slice without a place, sent as CT, of which highdicom makes no segmentation."""
    nowhere = {"FrameOfReferenceUID": None, "ImagePositionPatient": None, "ImageOrientationPatient": None}
    volume = read_volume(write_series(tmp_path / "flat", ramp(1), **COMPANION, **nowhere))
    prediction = Prediction(Volume(np.ones_like(volume.array, np.uint8), volume.geometry), {"warnings": []})
    with pytest.raises(ImageError, match=r"dicom-seg cannot be written .*ValueError.*leave dicom-seg out") as refused:
        write_results(tmp_path / "case", Bundle.open(bundle), prediction, volume, ("dicom-seg",))
    assert refused.value.reason == "not-written"
    assert not (tmp_path / "case").exists()

    write_results(tmp_path / "case", Bundle.open(bundle), prediction, volume, ("dicom-seg", "json"), partly=True)
    assert [path.name for path in (tmp_path / "case").iterdir()] == ["report.json"]
    told = json.loads((tmp_path / "case" / "report.json").read_text())["warnings"]
    assert [text.partition(":")[0] for text in told] == ["dicom-seg was not written"]


def test_a_date_that_cannot_be_is_a_warning_of_the_report_and_not_told(bundle: Path, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's about the date
        volume = read_volume(write_series(tmp_path / "odd", ramp(4), **{**COMPANION, "PatientBirthDate": "12.03.1950"}))
    predictor = Predictor(bundle)
    for name in DICOM_FORMATS:
        prediction = predictor.predict(volume, shares=True)
        write_results(tmp_path / "case", predictor.bundle, prediction, volume, (name, "json"))
        told = json.loads((tmp_path / "case" / "report.json").read_text())["warnings"]
        assert "PatientBirthDate of the image holds no possible date: DICOM results leave it out" in told
        assert not any(b"12.03.1950" in path.read_bytes() for path in (tmp_path / "case").iterdir())


def test_what_a_library_quotes_of_a_header_is_not_told_to_others(bundle: Path, tmp_path: Path):
    (file,) = write_series(tmp_path / "odd", ramp(1), **COMPANION).iterdir()
    dataset = pydicom.dcmread(file)
    dataset.LossyImageCompression, tag = "01", Tag("LossyImageCompressionRatio")
    dataset[tag] = RawDataElement(tag, "DS", 10, b"12.03.1950", 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's about the value
        dataset.save_as(file)
        volume = read_volume(tmp_path / "odd")
        prediction = Prediction(Volume(np.ones_like(volume.array, np.uint8), volume.geometry), {"warnings": []})
        with pytest.raises(ImageError, match=r"12\.03\.1950") as refused:
            write_results(tmp_path / "case", Bundle.open(bundle), prediction, volume, ("dicom-seg",))
    assert "1950" not in unquoted(refused.value)
    assert "dicom-seg cannot be written for this image (ValueError)" in unquoted(refused.value)


@pytest.mark.parametrize(
    "keyword", ["RescaleSlope", "SliceThickness", "Rows", "NumberOfFrames", "PixelSpacing", "PhotometricInterpretation"]
)
def test_what_a_damaged_header_holds_is_not_told_to_others(tmp_path: Path, keyword: str):
    """A name where a number is due, as a wrong export leaves it."""
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0))
    tag = Tag(keyword)
    kind = {"US": "LO"}.get(dictionary_VR(tag), dictionary_VR(tag))
    dataset[tag] = RawDataElement(tag, kind, 12, b"Meier^Annika", 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's about the value
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ImageError) as refused:
        read_volume(tmp_path)
    assert refused.value.reason in ("bad-dicom", "truncated")
    public = Secret(tmp_path / "key").public(unquoted(refused.value), tmp_path)
    assert "a.dcm" in public
    assert "Meier" not in public
    assert "nnika" not in public


def test_a_short_text_of_a_library_leaves_the_rest_of_a_message_alone():
    error = ImageError("3 of 30 files have no 3 (3)", reason="test")
    error.__cause__ = KeyError(3)
    assert unquoted(error) == "3 of 30 files have no 3 (KeyError)"


def test_a_classification_has_a_report_and_a_picture_but_no_mask(bundle: Path, series: Path, tmp_path: Path):
    whole = Bundle.open(bundle)
    spec = replace(whole.spec, task="classification", labels=(), classes=("sick", "well"))
    report = {"probabilities": {"sick": 0.9, "well": 0.1}, "class": "sick", "warnings": []}
    volume = read_volume(series)
    write_results(tmp_path / "case", replace(whole, spec=spec), Prediction(None, report), volume, tuple(FORMATS))
    written = {path.name for path in (tmp_path / "case").iterdir()}
    assert written == {"sr.dcm", "sc.dcm", "overlay.png", "report.json"}
    assert {"dicom-sr", "dicom-sc"} == DICOM_FORMATS - MASK_FORMATS


def test_a_folder_of_results_is_as_closed_as_the_umask_says(
    bundle: Path, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    predictor, volume = Predictor(bundle), read_volume(series)
    monkeypatch.setattr("medssl.runtime.results.UMASK", 0o077)
    write_results(tmp_path / "case", predictor.bundle, predictor.predict(volume), volume, ["json"])
    assert (tmp_path / "case").stat().st_mode & 0o777 == 0o700
