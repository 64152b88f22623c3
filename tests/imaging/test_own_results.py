"""Results of medssl are known as such, and nothing else is; other content has other UIDs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, slice_dataset, write_series
from result_objects import COMPANION, FINDINGS, KINDS, MAKER, mask_on, shares_on

from medssl.imaging.dicom_transfer import identity
from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.own_results import is_own_result
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_image import write_mr_series

_CAPTURE, _SEGMENTATION = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"


def _stack(folder: Path) -> Volume:
    return read_volume(write_series(folder, ramp(4), **COMPANION))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_result_is_known_by_its_head(tmp_path: Path, kind: str):
    KINDS[kind](_stack(tmp_path / "s"), tmp_path / "o.dcm")
    assert is_own_result(pydicom.dcmread(tmp_path / "o.dcm"))
    assert identity(tmp_path / "o.dcm").own_result


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"Manufacturer": "medssl"},  # an image that names us, of a kind that we do not write
        {"Manufacturer": "medssl", "SOPClassUID": _CAPTURE},  # UIDs of somebody else
        {"SOPClassUID": _CAPTURE, "SOPInstanceUID": "2.25.12"},  # a capture without a maker
        {"Manufacturer": "Medssler", "SOPClassUID": _CAPTURE, "SOPInstanceUID": "2.25.12"},
        {"Manufacturer": "Other", "SOPClassUID": _SEGMENTATION, "SOPInstanceUID": "2.25.12"},
        {"Manufacturer": "medssl", "SOPInstanceUID": "2.25.12"},  # a CT image
    ],
)
def test_no_image_and_no_object_of_others_is_taken_for_a_result(tmp_path: Path, attributes: dict[str, str]):
    dataset = slice_dataset(ramp(1)[0], (0, 0, 0), **attributes)
    dataset.save_as(tmp_path / "o.dcm", enforce_file_format=True)
    assert not identity(tmp_path / "o.dcm").own_result


def test_a_picture_of_a_result_beside_its_series_is_left_out(tmp_path: Path):
    volume = _stack(tmp_path / "s")
    KINDS["sc"](volume, tmp_path / "s" / "sc.dcm")
    again = read_volume(tmp_path / "s")
    assert np.array_equal(again.array, volume.array)
    scan = scan_tree(tmp_path / "s")
    assert [len(image.files) for image in scan.images] == [4]
    assert [problem.reason for problem in scan.problems] == ["own-result"]
    with pytest.raises(ImageError, match="no scan") as told:
        read_volume(tmp_path / "s" / "sc.dcm")
    assert told.value.reason == "own-result"


def test_made_up_images_are_images(tmp_path: Path):
    volume = Volume(np.ones((1, 4, 4, 2), np.float32), Geometry(np.eye(4), (4, 4, 2)))
    write_mr_series(volume, tmp_path / "mr", patient="p", description="synthetic")
    assert not any(identity(path).own_result for path in (tmp_path / "mr").iterdir())


def _uids(path: Path) -> tuple[str, str]:
    dataset = pydicom.dcmread(path)
    return str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)


@pytest.mark.parametrize("kind", KINDS)
def test_other_cautions_make_another_object(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    volume, seen = _stack(tmp_path / "s"), []
    for cautions in (MAKER.cautions, MAKER.cautions[1:], (), ("".join(MAKER.cautions),)):
        monkeypatch.setattr("result_objects.MAKER", replace(MAKER, cautions=cautions))
        KINDS[kind](volume, tmp_path / "o.dcm")
        seen += _uids(tmp_path / "o.dcm")
    assert len(set(seen)) == 8


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("sr_of_classes", "sr_without_seg")])
def test_another_mask_makes_another_object(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    volume, mask, shares = _stack(tmp_path / "s"), mask_on, shares_on

    def changed(of: Volume) -> Volume:
        array = of.array.copy()
        array[0, 0, 0, 0] ^= 1  # one voxel
        return replace(of, array=array)

    KINDS[kind](volume, tmp_path / "a.dcm")
    monkeypatch.setattr("result_objects.mask_on", lambda v: changed(mask(v)))
    monkeypatch.setattr("result_objects.shares_on", lambda v: changed(shares(v)))
    KINDS[kind](volume, tmp_path / "b.dcm")
    assert not set(_uids(tmp_path / "a.dcm")) & set(_uids(tmp_path / "b.dcm"))


def test_other_numbers_make_another_report_and_digits_that_it_does_not_tell_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    volume, uids = _stack(tmp_path / "s"), []
    first, second = FINDINGS.structures
    for volume_ml in (first.volume_ml, 1.25 + 1e-9, 1.26):
        structures = (replace(first, volume_ml=volume_ml), second)
        monkeypatch.setattr("result_objects.FINDINGS", replace(FINDINGS, structures=structures))
        KINDS["sr_without_seg"](volume, tmp_path / "o.dcm")
        uids.append(_uids(tmp_path / "o.dcm"))
    assert uids[0] == uids[1]
    assert not set(uids[0]) & set(uids[2])


@pytest.mark.parametrize("kind", KINDS)
def test_another_version_of_medssl_that_finds_the_same_makes_the_same_object(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    volume = _stack(tmp_path / "s")
    KINDS[kind](volume, tmp_path / "a.dcm")
    for module in ("dicom_source", "rtstruct"):
        monkeypatch.setattr(f"medssl.imaging.writers.{module}.version", lambda _: "99.0")
    KINDS[kind](volume, tmp_path / "b.dcm")
    assert _uids(tmp_path / "a.dcm") == _uids(tmp_path / "b.dcm")
