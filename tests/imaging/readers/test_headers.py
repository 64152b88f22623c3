"""Headers of NRRD and MHA, palettes, zips and DICOM labels: what must not be guessed."""

import struct
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pydicom
import pytest
import SimpleITK
from dicom_phantom import ramp, slice_dataset, write_series
from pydicom.uid import MediaStorageDirectoryStorage

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.readers import archive
from medssl.imaging.readers.open import read_label, read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Source, Volume
from medssl.imaging.writers.nifti import write_nifti

_VOXELS = np.arange(60, dtype=np.int16).tobytes()
_NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n"
_MHA = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nBinaryData = True\nElementType = MET_SHORT\n"


def _reason(path: Path | str) -> str:
    with pytest.raises(ImageError) as error:
        read_volume(path)
    return error.value.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("", "no-orientation"),
        ("space: left-posterior-superior\nspace directions: (0,0,0) (0,1,0) (0,0,1)\n", "bad-spacing"),
        ("spacings: -1 1 1\n", "bad-spacing"),
        ("spacings: 0 1 1\n", "bad-spacing"),
        ("spacings: nan 1 1\n", "bad-spacing"),
    ],
)
def test_nrrd_headers_that_place_nothing(tmp_path: Path, fields: str, reason: str):
    path = tmp_path / "a.nrrd"
    path.write_bytes((_NRRD + fields + "\n").encode() + _VOXELS)
    assert _reason(path) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("ElementSpacing = 1 1 1\n", "no-orientation"),
        ("ElementSpacing = 0 1 1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n", "bad-spacing"),
        ("ElementSpacing = -1 1 1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n", "bad-spacing"),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", "bad-spacing"),
    ],
)
def test_mha_headers_that_place_nothing(tmp_path: Path, fields: str, reason: str):
    path = tmp_path / "a.mha"
    path.write_bytes((_MHA + fields + "ElementDataFile = LOCAL\n").encode() + _VOXELS)
    assert _reason(path) == reason


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_flat_image_without_a_voxel_size_is_like_a_picture(tmp_path: Path, suffix: str):
    """It counted as 1 mm."""
    path, nrrd = tmp_path / f"a{suffix}", suffix == ".nrrd"
    head = "NRRD0004\ntype: short\ndimension: 2\nsizes: 10 6\nendian: little\nencoding: raw\n{}\n"
    head = head if nrrd else "NDims = 2\nDimSize = 10 6\nElementType = MET_SHORT\n{}ElementDataFile = LOCAL\n"
    path.write_bytes(head.format("").encode() + _VOXELS)
    volume = read_volume(path)
    assert not volume.source.calibrated
    assert volume.source.notes == ("pixel size is not known, so mm and mL mean nothing",)
    path.write_bytes(head.format("spacings: 2 3\n" if nrrd else "ElementSpacing = 2 3\n").encode() + _VOXELS)
    assert read_volume(path).source.calibrated
    np.testing.assert_allclose(read_volume(path).geometry.spacing_mm, (2, 3))


@pytest.mark.parametrize(
    ("field", "mm"),
    [
        ('space units: "mm" "mm" "mm"', True),
        ('space units: "" "???" "Millimeters"', True),
        ('units: "mm" "mm" "mm"', True),
        ('space units: "cm" "cm" "cm"', False),
        ('space units: "microns" "microns" "microns"', False),
        ('units: "mm" "mm" "um"', False),
    ],
)
def test_nrrd_lengths_in_another_unit_than_mm_are_refused(tmp_path: Path, field: str, mm: bool):
    text = f"space: LPS\nspace directions: (2,0,0) (0,1,0) (0,0,1)\n{field}\n\n"
    path = tmp_path / "a.nrrd"
    path.write_bytes((_NRRD + text).encode() + _VOXELS)
    if mm:
        np.testing.assert_allclose(read_volume(path).geometry.spacing_mm, (2, 1, 1))
    else:
        assert _reason(path) == "length-unit"


def test_the_unit_of_an_axis_that_is_none_of_space_does_not_matter(tmp_path: Path):
    text = 'space: LPS\nspace directions: none (2,0,0) (0,1,0)  (0,0,1)\nunits: "s" "mm" "mm" "mm"\n\n'
    head = _NRRD.replace("dimension: 3", "dimension: 4").replace("5 4 3", "5 4 3 1")
    (tmp_path / "a.nrrd").write_bytes((head + text).encode() + _VOXELS)
    assert read_volume(tmp_path / "a.nrrd").channels == 5


@pytest.mark.parametrize("kind", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_the_scan_leaves_out_nifti_without_intensities(tmp_path: Path, kind: object):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), kind), np.eye(4)), path)
    assert _reason(path) == "not-an-image"
    scan = scan_tree(tmp_path)
    assert not scan.images
    assert [problem.reason for problem in scan.problems] == ["not-an-image"]


def test_nrrd_spaces_are_told_apart(tmp_path: Path):
    text = "space: {}\nspace directions: (2,0,0) (0,1,0) (0,0,1)\nspace origin: (1,2,3)\n\n"
    for space, signs in (("left-posterior-superior", (-1, -1, 1)), ("right-anterior-superior", (1, 1, 1))):
        path = tmp_path / f"{space}.nrrd"
        path.write_bytes((_NRRD + text.format(space)).encode() + _VOXELS)
        volume = read_volume(path)
        np.testing.assert_allclose(volume.geometry.to_world((0, 0, 0)), np.multiply(signs, (1, 2, 3)))
        np.testing.assert_allclose(volume.geometry.to_world((1, 0, 0)), np.multiply(signs, (3, 2, 3)))
        assert volume.array[0, 1, 0, 0] == 1


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_2d_and_4d_files(tmp_path: Path, suffix: str):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / f"flat{suffix}"))
    assert read_volume(tmp_path / f"flat{suffix}").array.shape == (1, 5, 4)
    stack = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))] * 2)
    SimpleITK.WriteImage(stack, str(tmp_path / f"many{suffix}"))
    assert _reason(tmp_path / f"many{suffix}") == "not-3d"


def test_palette_numbers_are_labels_and_colours_are_images(tmp_path: Path):
    picture = PIL.Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 200, 10, 20, 30, 220, 40])
    picture.save(tmp_path / "label.png")
    colours = read_volume(tmp_path / "label.png")
    assert colours.array[:, 0, 1].tolist() == [200, 10, 20]
    label = read_label(tmp_path / "label.png", colours, (Label(1, "a"), Label(2, "b")))
    np.testing.assert_array_equal(label.array, [[[0, 1, 2], [2, 1, 0]]])


def test_scaled_and_double_nifti_become_float32(tmp_path: Path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    raw = bytearray(image.to_bytes())
    image.header["scl_slope"], image.header["scl_inter"], image.header["vox_offset"] = 0.5, -3, 352
    raw[:348] = image.header.binaryblock
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    array = read_volume(tmp_path / "a.nii").array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[0], np.arange(24).reshape(2, 3, 4) * 0.5 - 3)


def test_whole_slopes_keep_whole_numbers_in_the_smallest_type(tmp_path: Path):
    pixels = ramp(2).astype(np.uint16) * 0 + np.arange(12, dtype=np.uint16)
    folder = write_series(tmp_path / "s", pixels, RescaleSlope=1, RescaleIntercept=-1024)
    array = read_volume(folder).array
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array[0, :, 0, 0], np.arange(12) - 1024)


@pytest.mark.filterwarnings("ignore")  # pydicom remarks on the number while the file is written
def test_not_finite_positions_are_missing_positions(tmp_path: Path):
    folder = write_series(tmp_path / "s", ramp(3), ImagePositionPatient=["nan", "0", "0"])
    assert _reason(folder) == "no-orientation"


@pytest.mark.parametrize("again", ["b", "./b", ".//b"])
def test_a_zip_that_holds_a_name_twice_is_refused(tmp_path: Path, again: str):
    """The later file replaced the earlier, so that a slice at the end of a series was lost unseen."""
    folder = write_series(tmp_path / "series", ramp(4))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, on the name
        for k, name in enumerate(("a", "c", "b", again)):
            file.writestr(name, (folder / f"{k:03d}.dcm").read_bytes())
    with pytest.raises(ImageError, match=r"1 name.* more than once, for instance 'b'.*: pack it again") as error:
        read_volume(tmp_path / "a.zip")
    assert error.value.reason == "bad-zip"


def test_zip_limits_damage_and_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.dcm", b"0" * 100_000)
    monkeypatch.setenv("MEDSSL_MAX_IMAGE_GIB", str(99_999 / 4 / 2**30))
    assert _reason(path) == "zip-limit"
    monkeypatch.delenv("MEDSSL_MAX_IMAGE_GIB")
    with pytest.raises(ImageError, match="more than 0 files"):
        archive.unpack(path, tmp_path / "out", max_files=0)
    raw = bytearray(path.read_bytes())
    raw[40:60] = b"\xff" * 20
    (tmp_path / "b.zip").write_bytes(bytes(raw))
    assert _reason(tmp_path / "b.zip") == "bad-zip"


def _one_entry(told: int, place: bytes, *, record: bool = False, locator: bool = False) -> bytes:
    """A zip of one entry whose list takes 346 bytes, with what its end records say of that."""
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0)
    local = b"PK\3\4" + fields + b"a"
    listed = b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 299, 0, 0, 0, 0) + b"a" + b"c" * 299
    wide = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, len(listed), len(local)) if record else b""
    found = b"PK\6\7" + struct.pack("<IQI", 0, len(local + listed), 1) if locator else b""
    offset = place or struct.pack("<I", len(local))
    return local + listed + wide + found + b"PK\5\6" + struct.pack("<HHHHI", 0, 0, 1, 1, told) + offset + bytes(2)


@pytest.mark.parametrize(
    "content",
    [
        _one_entry(346, b""),
        _one_entry(0, b"", record=True, locator=True),
        _one_entry(1, b"", record=True, locator=True),
        _one_entry(0xFFFFFFFF, b"", record=True, locator=True),
        _one_entry(346, b"PK\5\6"),
    ],
    ids=["plain", "nothing beside ZIP64", "less beside ZIP64", "ZIP64", "signature in its own fields"],
)
def test_the_list_of_a_zip_is_measured_before_it_is_read_whatever_the_old_record_says(tmp_path: Path, content: bytes):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        assert [len(entry.comment) for entry in file.infolist()] == [299], "zipfile reads the list whole"
    with pytest.raises(ImageError, match="lists more than 1 files") as error:
        archive.unpack(path, tmp_path / "out", max_files=1)
    assert error.value.reason == "zip-limit"
    if b"PK\5\6" not in content[-6:]:
        archive.unpack(path, tmp_path / "out", max_files=2)
        assert (tmp_path / "out" / "a").read_bytes() == b""


def test_a_zip64_locator_without_its_record_is_refused(tmp_path: Path):
    (tmp_path / "a.zip").write_bytes(_one_entry(0, b"", locator=True))
    assert _reason(tmp_path / "a.zip") == "bad-zip"
    with pytest.raises(ImageError, match="ZIP64 record"):
        archive.unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_zip64_record_that_the_locator_names_counts_too(tmp_path: Path):
    """Newer versions of Python follow the locator where it points."""
    content = _one_entry(346, b"", record=True, locator=True)
    at = content.index(b"PK\6\7") + 8
    named = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 10**9, 0)
    (tmp_path / "a.zip").write_bytes(named + content[:at] + bytes(8) + content[at + 8 :])
    assert _reason(tmp_path / "a.zip") == "zip-limit"


def test_a_header_that_lies_about_its_size_is_stopped_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The limit counts bytes that really come out, so a small claim does not help."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.dcm", b"0" * 3_000_000)
    raw = bytearray(path.read_bytes())
    size = (3_000_000).to_bytes(4, "little")
    assert raw.count(size) == 2
    (tmp_path / "b.zip").write_bytes(bytes(raw).replace(size, (10).to_bytes(4, "little")))
    monkeypatch.setenv("MEDSSL_MAX_IMAGE_GIB", str(1000 / 4 / 2**30))
    assert _reason(tmp_path / "b.zip") in {"zip-limit", "bad-zip"}


def test_a_link_in_a_zip_is_refused(tmp_path: Path):
    entry = zipfile.ZipInfo("link.dcm")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(entry, "/etc/hostname")
    assert _reason(tmp_path / "a.zip") == "zip-unsafe"


def test_dicomdir_and_reports_are_problems_beside_the_series(tmp_path: Path):
    folder = write_series(tmp_path / "s", ramp(3))
    directory = slice_dataset(ramp(1)[0], (0, 0, 0), Rows=None, Columns=None, PixelData=None)
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    (folder / "README").write_text("read me")
    (folder / "link").symlink_to(folder / "absent")
    assert read_volume(folder).array.shape[-1] == 3
    scan = scan_tree(tmp_path)
    assert len(scan.images) == 1
    assert {Path(p.path).name: p.reason for p in scan.problems} == {
        "DICOMDIR": "not-an-image",
        "README": "not-an-image",
        "link": "broken-link",
    }


def test_real_segment_on_one_slice_and_a_foreign_one(real_data: Path):
    """The single-frame object was drawn on this image; its pixels are counted by pydicom alone."""
    folder = real_data / "dicom_seg_highdicom"
    image = read_volume(folder / "ct_image.dcm")
    label = read_label(folder / "seg_image_ct_binary_single_frame.dcm", image)
    assert label.array.shape == image.array.shape
    pixels = pydicom.dcmread(folder / "seg_image_ct_binary_single_frame.dcm").pixel_array
    np.testing.assert_array_equal(label.array[0].T, pixels)
    with pytest.raises(ImageError) as error:
        read_label(folder / "seg_image_ct_binary.dcm", image)
    assert error.value.reason == "frame-of-reference"


def test_real_labelmap_segmentations_and_what_lies_outside(real_data: Path):
    folder = real_data / "dicom_ct_seg_dcmqi"
    for name in ("sparse-labelmap-ppv5.dcm", "sparse-labelmap-noppv.dcm"):
        whole = read_label(folder / name, read_volume(folder / "24x38x3" / "image"))
        assert int(whole.array.sum()) == int(pydicom.dcmread(folder / name).pixel_array.sum()) == 630
        assert whole.source.notes == ()
        other = read_volume(folder / "23x38x3" / "multiframe")
        with pytest.raises(ImageError) as error:
            read_label(folder / name, other)
        assert error.value.reason == "frame-of-reference"
        smaller = read_label(folder / name, replace(other, source=Source()))  # as after a conversion to NIfTI
        assert int(smaller.array.sum()) == 620
        assert "10 of 630 voxels of segment 'Liver' lie outside" in smaller.source.notes[0]


def test_real_overlapping_segments_are_said(real_data: Path):
    folder = real_data / "dicom_ct_seg_dcmqi"
    label = read_label(folder / "partial_overlaps.dcm", read_volume(folder / "ct-3slice"))
    assert np.unique(label.array).tolist() == [0, 1, 2, 3, 4, 5]
    assert any("overlaps" in note for note in label.source.notes)


def test_real_objects_that_are_no_images_have_their_reasons(real_data: Path):
    folder = real_data / "dicom_seg_highdicom"
    assert _reason(folder / "sm_image.dcm") == "whole-slide"
    assert _reason(folder / "sr_document.dcm") == "not-an-image"
    scan = scan_tree(folder)
    named = [str(f) for i in scan.images for f in i.files] + [str(x.path) for x in scan.labels]
    named += [p.path for p in scan.problems]
    assert sorted(named) == sorted(str(path) for path in folder.rglob("*") if path.is_file())


def test_real_high_throughput_jpeg2000(real_data: Path):
    array = read_volume(real_data / "dicom_odd_pydicom" / "HTJ2K_08_RGB.dcm").array
    assert array.shape == (3, 640, 480)
    assert array.std() > 10


def test_real_palette_is_applied(real_data: Path):
    """The picture is grey where red, green and blue agree; numbers of a palette would have one channel."""
    array = read_volume(real_data / "dicom_odd_pydicom" / "OBXXXX1A_rle.dcm").array
    assert array.shape[0] == 3
    assert len(np.unique(array)) > 2


@pytest.mark.parametrize("shape", [(4, 5, 1), (1, 5, 6)])
def test_one_slice_of_nifti_stays_3d(tmp_path: Path, shape: tuple[int, ...]):
    write_nifti(Volume(np.zeros((1, *shape), np.float32), Geometry(np.eye(4), shape)), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").array.shape == (1, *shape)
