"""DICOM label objects of other programs: what overlaps, what is no class, what lies outside, whose numbers they are."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import by_another_program, ramp, write_series
from pydicom.dataset import Dataset
from result_objects import COMPANION, MAKER, mask_on

from medssl.imaging.errors import ImageError
from medssl.imaging.labels import Label
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.rtstruct import write_rtstruct

_LIVER, _TUMOUR = (slice(1, 8), slice(1, 8), slice(1, 3)), (slice(3, 5), slice(3, 5), slice(1, 2))
_CLASSES = (Label(1, "liver"), Label(2, "tumour"))


def _image(folder: Path) -> Volume:
    return read_volume(write_series(folder / "s", ramp(4), **COMPANION))


def _drawn(image: Volume, box: tuple[slice, ...]) -> Volume:
    array = np.zeros((1, *image.geometry.shape), np.uint8)
    array[(0, *box)] = 1
    return Volume(array, image.geometry)


def _structures(image: Volume, path: Path, *drawn: tuple[str, tuple[slice, ...]]) -> Dataset:
    """RTSTRUCT of another program with these structures, numbered in their order; they may overlap."""
    parts = []
    for name, box in drawn:
        write_rtstruct(_drawn(image, box), image, (Label(1, name),), path, MAKER)
        parts.append(pydicom.dcmread(path))
    whole = parts[0]
    whole.Manufacturer = "Other"
    for number, part in enumerate(parts, start=1):
        part.StructureSetROISequence[0].ROINumber = number
        part.ROIContourSequence[0].ReferencedROINumber = number
        if number > 1:
            whole.StructureSetROISequence.append(part.StructureSetROISequence[0])
            whole.ROIContourSequence.append(part.ROIContourSequence[0])
    whole.save_as(path)
    return whole


@pytest.mark.parametrize("order", [(("liver", _LIVER), ("tumour", _TUMOUR)), (("tumour", _TUMOUR), ("liver", _LIVER))])
def test_of_overlapping_structures_the_later_class_is_taken_whatever_their_numbers(tmp_path: Path, order: tuple):
    image = _image(tmp_path)
    _structures(image, tmp_path / "rt.dcm", *order)
    label = read_label(tmp_path / "rt.dcm", image, _CLASSES)
    wanted = np.zeros(image.geometry.shape, np.uint8)
    wanted[_LIVER], wanted[_TUMOUR] = 1, 2
    np.testing.assert_array_equal(label.array[0], wanted)
    assert any("overlaps others; there the class that comes later in the list" in note for note in label.source.notes)


def test_a_class_that_would_vanish_below_another_is_refused(tmp_path: Path):
    image = _image(tmp_path)
    _structures(image, tmp_path / "rt.dcm", ("tumour", _TUMOUR), ("liver", _LIVER))
    for classes in (_CLASSES[::-1], ()):  # by the list; by the larger number
        with pytest.raises(ImageError, match="'tumour' would vanish below other segments") as error:
            read_label(tmp_path / "rt.dcm", image, classes)
        assert error.value.reason == "label-overlap"


def test_without_classes_the_names_of_the_numbers_are_told(tmp_path: Path):
    image = _image(tmp_path)
    _structures(image, tmp_path / "rt.dcm", ("liver", _LIVER), ("tumour", _TUMOUR))
    assert read_label(tmp_path / "rt.dcm", image).source.names == {1: "liver", 2: "tumour"}
    assert read_label(tmp_path / "rt.dcm", image, _CLASSES).source.names == {}


def _moved(dataset: Dataset, structure: int, by_mm: float, path: Path) -> None:
    """Save with a copy of the structure's first contour that lies elsewhere along z."""
    contours = dataset.ROIContourSequence[structure].ContourSequence
    further = Dataset()
    further.update(contours[0])
    points = np.reshape([float(v) for v in contours[0].ContourData], (-1, 3)) + np.array([0, 0, by_mm])
    further.ContourData = [f"{v:.4f}" for v in points.ravel()]
    contours.append(further)
    dataset.save_as(path)


def test_contours_beyond_the_image_are_left_out_and_told(tmp_path: Path):
    image = _image(tmp_path)
    dataset = _structures(image, tmp_path / "rt.dcm", ("liver", _LIVER), ("couch", _TUMOUR))
    whole = read_label(tmp_path / "rt.dcm", image, (Label(1, "liver"),)).array
    _moved(dataset, 0, -40, tmp_path / "rt.dcm")
    label = read_label(tmp_path / "rt.dcm", image, (Label(1, "liver"),))
    np.testing.assert_array_equal(label.array, whole)
    assert "1 contour(s) of structure 'liver' lie outside the image and were left out" in label.source.notes


def test_structures_that_are_no_class_cannot_spoil_a_label(tmp_path: Path):
    image = _image(tmp_path)
    dataset = _structures(image, tmp_path / "rt.dcm", ("liver", _LIVER), ("couch", _TUMOUR))
    step = float(np.linalg.norm(image.geometry.affine[:3, 2]))
    _moved(dataset, 1, 0.5 * step, tmp_path / "rt.dcm")
    label = read_label(tmp_path / "rt.dcm", image, (Label(1, "liver"),))
    assert label.array.sum() == np.zeros(image.geometry.shape)[_LIVER].size
    with pytest.raises(ImageError, match=r"a contour of structure 'couch' around \(.*\) mm lies between"):
        read_label(tmp_path / "rt.dcm", image)


def test_a_structure_that_lies_nowhere_on_the_image_is_of_another(tmp_path: Path):
    image = _image(tmp_path)
    dataset = _structures(image, tmp_path / "rt.dcm", ("liver", _LIVER))
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.reshape([float(v) for v in contour.ContourData], (-1, 3)) + np.array([0, 0, 400])
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
    dataset.save_as(tmp_path / "rt.dcm")
    with pytest.raises(ImageError, match="lie nowhere on the image") as error:
        read_label(tmp_path / "rt.dcm", image)
    assert error.value.reason == "label-grid"


def test_results_of_medssl_are_no_labels_of_an_expert(tmp_path: Path):
    image = _image(tmp_path)
    write_dicom_seg(mask_on(image), image, (Label(1, "a"), Label(3, "b")), tmp_path / "seg.dcm", MAKER)
    write_rtstruct(_drawn(image, _LIVER), image, (Label(1, "a"),), tmp_path / "rt.dcm", MAKER)
    scan = scan_tree(tmp_path)
    assert scan.labels == []
    assert {Path(p.path).name: p.reason for p in scan.problems} == {"seg.dcm": "own-result", "rt.dcm": "own-result"}
    by_another_program(tmp_path / "seg.dcm")
    assert [label.path.name for label in scan_tree(tmp_path).labels] == ["seg.dcm"]
    (tmp_path / "twice.dcm").write_bytes((tmp_path / "seg.dcm").read_bytes())
    scan = scan_tree(tmp_path)
    assert [label.path.name for label in scan.labels] == ["seg.dcm"]
    assert {Path(p.path).name: p.reason for p in scan.problems} == {"twice.dcm": "duplicate", "rt.dcm": "own-result"}
