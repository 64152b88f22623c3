"""NIfTI, NRRD, MHA, pictures and zips: what is read, and what is refused and why."""

import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
import tifffile
from dicom_phantom import ramp, write_series

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.readers.open import read_channels, read_label, read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_AFFINE = np.array([[0.0, -1.5, 0, 30], [0, 0, 2.0, -7], [-0.7, 0, 0, 5], [0, 0, 0, 1]])


def _reason(path: Path | str) -> str:
    with pytest.raises(ImageError) as error:
        read_volume(path)
    assert str(path).partition("#")[0] in error.value.message
    return error.value.reason


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray = _AFFINE) -> Path:
    write_nifti(Volume(array[None], Geometry(affine, array.shape)), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_round_trip_and_simpleitk_agrees_on_the_place(tmp_path: Path, suffix: str, rng: np.random.Generator):
    array = rng.normal(size=(4, 5, 6)).astype(np.float32)
    path = _nifti(tmp_path / f"a{suffix}", array)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.geometry.affine, _AFFINE, atol=1e-6)
    other = SimpleITK.ReadImage(str(path))
    world = np.array(other.TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)
    np.testing.assert_allclose(volume.geometry.to_world((1, 2, 3)), world, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_formats_lie_where_nifti_puts_them(tmp_path: Path, suffix: str, rng: np.random.Generator):
    array = rng.integers(0, 99, size=(4, 5, 6)).astype(np.int16)
    nifti = _nifti(tmp_path / "a.nii", array)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti)), str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.geometry.is_close(read_volume(nifti).geometry)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_pictures(tmp_path: Path, mode: str, channels: int):
    PIL.Image.new(mode, (7, 5)).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    assert volume.array.shape == (channels, 5, 7)
    assert not volume.source.calibrated


def test_tiff_with_16_bits_and_five_channels(tmp_path: Path, rng: np.random.Generator):
    array = rng.integers(0, 60000, size=(5, 8, 9)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, array)


def test_a_zipped_dicom_folder_is_read_like_the_folder(tmp_path: Path):
    folder = write_series(tmp_path / "series", ramp(4))
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"x/{file.name}")
    np.testing.assert_array_equal(read_volume(tmp_path / "series.zip").array, read_volume(folder).array)


@pytest.mark.parametrize("name", ["../out.dcm", "/out.dcm"])
def test_a_zip_that_leaves_its_folder_is_refused(tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    assert _reason(tmp_path / "a.zip") == "zip-unsafe"


def test_bad_files_have_reasons(tmp_path: Path):
    good = _nifti(tmp_path / "good.nii.gz", np.ones((8, 8, 8), np.float32))
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "text.nii").write_text("this is no image")
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "text.dcm").write_text("this is no image" * 20)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "cut.mha").write_text("ObjectType = Image\n")
    (tmp_path / "notzip.zip").write_text("no zip")
    assert _reason(tmp_path / "cut.nii.gz") == "truncated"
    assert _reason(tmp_path / "text.nii") == "truncated"
    assert _reason(tmp_path / "empty.nii.gz") == "empty-file"
    assert _reason(tmp_path / "text.dcm") == "not-an-image"
    assert _reason(tmp_path / "cut.png") == "truncated"
    assert _reason(tmp_path / "cut.mha") == "truncated"
    assert _reason(tmp_path / "notzip.zip") == "bad-zip"
    assert _reason(tmp_path / "absent.nii") == "no-such-file"


@pytest.mark.parametrize(("name", "kept"), [("a.nii", 5000), ("a.nii.gz", 5000), ("a.nii.gz", -40)])
def test_the_scan_finds_a_cut_nifti_by_its_length(
    tmp_path: Path, rng: np.random.Generator, name: str, kept: int, monkeypatch: pytest.MonkeyPatch
):
    path = _nifti(tmp_path / name, rng.normal(size=(16, 16, 16)).astype(np.float32))
    whole = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("medssl.imaging.readers.nifti._unpacks_to", None)
        assert len(scan_tree(tmp_path).images) == 1, "a whole file is not unpacked"
    path.write_bytes(whole[:kept])
    scan = scan_tree(tmp_path)
    assert not scan.images
    assert [(p.path, p.reason) for p in scan.problems] == [(str(path), "truncated")]


@pytest.mark.parametrize("more", ["padding", "members", "voxels"])
def test_the_scan_takes_gzip_files_that_do_not_end_with_the_length_of_the_image(tmp_path: Path, more: str):
    path = _nifti(tmp_path / "a.nii.gz", np.ones((8, 8, 8), np.float32))
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(
        {
            "padding": gzip.compress(content) + bytes(8),
            "members": gzip.compress(content[:900]) + gzip.compress(content[900:]),
            "voxels": gzip.compress(content + b"more"),
        }[more]
    )
    assert len(scan_tree(tmp_path).images) == 1
    assert read_volume(path).array.all()


def test_nan_voxels_are_counted_and_refused(tmp_path: Path):
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, :2] = np.nan, np.inf
    with pytest.raises(ImageError, match="2 voxels") as error:
        read_volume(_nifti(tmp_path / "a.nii", array))
    assert error.value.reason == "non-finite"


def _header(path: Path, **fields: object) -> Path:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    raw = bytearray(image.to_bytes())
    for name, value in {"vox_offset": 352, **fields}.items():
        image.header[name] = value
    raw[:348] = image.header.binaryblock
    path.write_bytes(bytes(raw))
    return path


def test_nifti_headers_that_place_nothing(tmp_path: Path):
    assert _reason(_header(tmp_path / "a.nii", pixdim=[1, 0, 1, 1, 0, 0, 0, 0])) == "bad-spacing"
    assert _reason(_header(tmp_path / "b.nii", sform_code=0, qform_code=0)) == "no-orientation"
    assert _reason(_header(tmp_path / "c.nii", srow_x=[0, 0, 0, 0])) == "bad-affine"


@pytest.mark.parametrize(("unit", "named"), [(1, "metres"), (3, "micrometres"), (0, ""), (2, ""), (10, ""), (5, "")])
def test_lengths_in_another_unit_than_mm_are_refused(tmp_path: Path, unit: int, named: str):
    path = _header(tmp_path / "a.nii", xyzt_units=unit)
    if named:
        with pytest.raises(ImageError, match=f" in {named} ") as error:
            read_volume(path)
        assert error.value.reason == "length-unit"
        assert [problem.reason for problem in scan_tree(tmp_path).problems] == ["length-unit"]
        return
    geometry, other = read_volume(path).geometry, SimpleITK.ReadImage(str(path))
    world = np.array(other.TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)
    np.testing.assert_allclose(geometry.to_world((1, 2, 3)), world, atol=1e-4)


def _placed(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (1, 1)) -> Path:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    image.set_sform(sform, code=codes[0])
    image.set_qform(qform, code=codes[1])
    nib.save(image, path)
    return path


def test_where_sform_and_qform_differ_the_sform_is_used_and_it_is_told(tmp_path: Path):
    """SimpleITK takes the qform unless the sform is the scanner's: such a file has two places."""
    moved = _AFFINE.copy()
    moved[1, 3] += 0.6
    near = _placed(tmp_path / "near.nii", _AFFINE, moved, (2, 1))
    assert read_volume(near).source.notes == (), "less than the 0.7 mm of a voxel"
    moved[1, 3] += 3
    for codes, apart in (((2, 1), 3.6), ((1, 1), 0.0)):
        path = _placed(tmp_path / "far.nii", _AFFINE, moved, codes)
        volume = read_volume(path)
        np.testing.assert_allclose(volume.geometry.affine, _AFFINE, atol=1e-5)
        assert [note for note in volume.source.notes if "the sform was used" in note]
        origin = np.array(SimpleITK.ReadImage(str(path)).GetOrigin()) * (-1, -1, 1)
        assert np.linalg.norm(origin - _AFFINE[:3, 3]) == pytest.approx(apart, abs=1e-4)
    assert read_volume(_placed(tmp_path / "one.nii", _AFFINE, moved, (1, 0))).source.notes == ()


def test_a_qform_that_mirrors_the_sform_is_refused(tmp_path: Path):
    mirrored = _AFFINE @ np.diag([-1.0, 1, 1, 1])
    assert _reason(_placed(tmp_path / "a.nii", _AFFINE, mirrored)) == "mirrored-qform"
    image = nib.load(_placed(tmp_path / "b.nii", _AFFINE, _AFFINE))
    image.header["quatern_b"] = np.nan
    nib.save(image, tmp_path / "c.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "c.nii").geometry.affine, _AFFINE, atol=1e-5)


def test_a_4d_image_is_refused_but_one_time_point_is_not(tmp_path: Path):
    for name, shape in (("many", (3, 4, 5, 2)), ("one", (3, 4, 5, 1))):
        image = nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4))
        image.set_sform(np.eye(4), code=1)
        nib.save(image, tmp_path / f"{name}.nii")
    assert _reason(tmp_path / "many.nii") == "not-3d"
    assert read_volume(tmp_path / "one.nii").array.shape == (1, 3, 4, 5)


def test_channels_are_joined_and_must_share_a_grid(tmp_path: Path):
    _nifti(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16))
    _nifti(tmp_path / "b.nii", np.ones((3, 4, 5), np.float32))
    assert read_channels("a.nii;b.nii", tmp_path).array.mean(axis=(1, 2, 3)).tolist() == [0, 1]
    moved = _AFFINE.copy()
    moved[0, 3] += 1
    _nifti(tmp_path / "c.nii", np.ones((3, 4, 5), np.float32), moved)
    with pytest.raises(ImageError) as error:
        read_channels("a.nii;c.nii", tmp_path)
    assert error.value.reason == "channel-grid"


def test_labels_must_fit_image_and_classes(tmp_path: Path):
    image = read_volume(_nifti(tmp_path / "image.nii", np.zeros((3, 4, 5), np.float32)))
    values = np.zeros((3, 4, 5), np.uint8)
    values[0, 0, :3] = 1, 7, 255
    path = _nifti(tmp_path / "label.nii", values)
    classes = (Label(1, "one"), Label(2, "two"))
    mapped = read_label(path, image, classes, {7: 2}, ignore=255)
    assert mapped.array[0, 0, 0].tolist() == [1, 2, 255, 0, 0]
    with pytest.raises(ImageError, match=r"\[7, 255\]"):
        read_label(path, image, classes)
    shifted = _AFFINE.copy()
    shifted[1, 3] += 5
    for wrong in (_nifti(tmp_path / "s.nii", values, shifted), _nifti(tmp_path / "t.nii", values[:2])):
        with pytest.raises(ImageError) as error:
            read_label(wrong, image, classes)
        assert error.value.reason == "label-grid"


def test_gzip_error_inside_the_stream(tmp_path: Path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"\0" * 500))
    assert _reason(path) == "truncated"


def test_voxels_that_differ_from_the_checksum_of_a_gzip_file_are_refused(tmp_path: Path, rng: np.random.Generator):
    path = tmp_path / "a.nii.gz"
    write_nifti(Volume(rng.integers(0, 9, (1, 30, 30, 30)).astype(np.int16), Geometry(np.eye(4), (30, 30, 30))), path)
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole))
    assert read_volume(path).array.shape == (1, 30, 30, 30)
    packed = bytearray(gzip.compress(whole[:1000] + bytes(100) + whole[1100:]))
    packed[-8:] = gzip.compress(whole)[-8:]  # it unpacks to the right length, with voxels that were never written
    path.write_bytes(packed)
    with pytest.raises(ImageError, match="CRC check failed") as error:
        read_volume(path)
    assert error.value.reason == "truncated"
