"""How odd series are treated: nothing is averaged or invented in silence."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_phantom import ramp, read, slice_dataset, write_series
from pydicom.dataset import Dataset

from medssl.imaging.errors import ImageError
from medssl.imaging.preprocess import Preprocess, prepare_volume
from medssl.imaging.readers.open import read_volume
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.volume import Volume

_TILT = np.tan(np.deg2rad(15))


def _value_at(volume, slice_, row, column):
    """Intensity at the place where slice, row and column were written (0.5 mm pixels, 2.5 mm slices)."""
    index = volume.geometry.to_index(np.array([-0.5 * column, -0.5 * row, 2.5 * slice_]))
    whole = np.rint(index).astype(int)
    np.testing.assert_allclose(index, whole, atol=1e-3)
    return volume.array[(0, *whole)]


@pytest.mark.parametrize("order", [list(range(16)), list(range(15, -1, -1)), [*range(1, 16, 2), *range(0, 16, 2)]])
def test_slices_are_sorted_by_geometry_not_by_name(tmp_path: Path, order: list[int]):
    volume = read_volume(write_series(tmp_path, ramp(), order=order))
    assert volume.array.shape == (1, 12, 10, 16)
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.5, 0.5, 2.5))
    for place in ((0, 0, 0), (3, 4, 5), (15, 9, 11)):
        assert _value_at(volume, *place) == ramp()[place]


def test_a_missing_slice_is_refused_and_named(tmp_path: Path):
    write_series(tmp_path, ramp())
    (tmp_path / "007.dcm").unlink()
    with pytest.raises(ImageError, match=r"1 slice.* missing: 5\.00 mm between slices 7 and 8") as error:
        read_volume(tmp_path)
    assert error.value.reason == "missing-slice"


def test_an_exact_duplicate_is_dropped_and_said(tmp_path: Path):
    write_series(tmp_path, ramp())
    slice_dataset(ramp()[5], (0, 0, 12.5)).save_as(tmp_path / "again.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path)
    assert volume.array.shape[-1] == 16
    assert volume.source.notes == ("1 exact duplicate slice(s) left out",)


@pytest.mark.parametrize("beside", [(30, 0), (0, -30), (0, 0.2)])
def test_planes_side_by_side_are_no_duplicates_whatever_their_pixels(tmp_path: Path, beside: tuple[float, float]):
    write_series(tmp_path, ramp())
    slice_dataset(ramp()[5], (*beside, 12.5)).save_as(tmp_path / "again.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match="planes lie side by side") as error:
        read_volume(tmp_path)
    assert error.value.reason == "several-volumes"


def test_a_duplicate_whose_place_is_rounded_otherwise_is_one(tmp_path: Path):
    write_series(tmp_path, ramp())
    slice_dataset(ramp()[5], (0.004, 0, 12.5)).save_as(tmp_path / "again.dcm", enforce_file_format=True)
    assert read_volume(tmp_path).array.shape[-1] == 16


def test_different_images_at_one_position_are_refused(tmp_path: Path):
    write_series(tmp_path, ramp())
    slice_dataset(ramp()[5] + 1, (0, 0, 12.5)).save_as(tmp_path / "again.dcm", enforce_file_format=True)
    with pytest.raises(ImageError) as error:
        read_volume(tmp_path)
    assert error.value.reason == "several-volumes"


def test_a_gap_that_doubles_is_refused_unless_resampling_is_asked_for(tmp_path: Path):
    places = [(0, 0, 2.5 * k if k < 8 else 20 + 5.0 * (k - 8)) for k in range(16)]
    write_series(tmp_path, ramp(), positions=places)
    with pytest.raises(ImageError):
        read_volume(tmp_path)
    volume = read_volume(tmp_path, resample_irregular=True)
    assert "resampled" in volume.source.notes[0]
    assert volume.geometry.shape[2] == 23  # 55 mm in steps of 2.5
    halfway = volume.array[0, :, :, 9].astype(float)  # between slices 8 and 9
    np.testing.assert_allclose(halfway, (ramp()[8].T + ramp()[9].T.astype(float)) / 2, atol=1e-3)


def test_uneven_positions_have_their_own_reason(tmp_path: Path):
    places = [(0, 0, 2.5 * k + (0.9 if k > 8 else 0)) for k in range(16)]
    with pytest.raises(ImageError) as error:
        read_volume(write_series(tmp_path, ramp(), positions=places))
    assert error.value.reason == "uneven-spacing"


@pytest.mark.parametrize("step", [0.009, 0.001])
def test_small_slice_distances_are_looked_at_as_closely(tmp_path: Path, step: float):
    """Below 0.01 mm a missing slice was within the rounding of headers, below 0.001 mm slices were at one position."""
    places = [(0, 0, step * k) for k in range(16)]
    folder = write_series(tmp_path, ramp(), positions=places, spacing=(step, step), SliceThickness=step)
    np.testing.assert_allclose(read_volume(folder).geometry.spacing_mm, (step, step, step))
    (folder / "007.dcm").unlink()
    with pytest.raises(ImageError, match=f"{2 * step:.3f}.* mm between slices 7 and 8, {step:.3f}") as error:
        read_volume(folder)
    assert error.value.reason == "missing-slice"


@pytest.mark.parametrize("apart", [0.0011, 0.1])
@pytest.mark.parametrize("resample", [False, True])
def test_time_points_that_lie_a_little_apart_are_not_mixed(tmp_path: Path, apart: float, resample: bool):
    """Of 24 slices of two time points resample_irregular made 25002 slices, half of each."""
    places = [(0, 0, 2.5 * k) for k in range(8)] + [(0, 0, 2.5 * k + apart) for k in range(8)]
    with pytest.raises(ImageError, match="several volumes") as error:
        read_volume(write_series(tmp_path, ramp(), positions=places), resample_irregular=resample)
    assert error.value.reason == "several-volumes"
    assert "resample_irregular" not in error.value.message


def test_two_images_at_one_rounded_position_are_no_thin_volume(tmp_path: Path):
    with pytest.raises(ImageError) as error:
        read_volume(write_series(tmp_path, ramp(2), positions=[(0, 0, 0), (0, 0, 0.0005)]))
    assert error.value.reason == "several-volumes"


def test_two_slabs_far_apart_are_no_time_points(tmp_path: Path):
    places = [(0, 0, 2.5 * k + (200 if k > 7 else 0)) for k in range(16)]
    with pytest.raises(ImageError) as error:
        read_volume(write_series(tmp_path, ramp(), positions=places))
    assert error.value.reason == "missing-slice"


def test_evened_slices_are_within_the_size_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    places = [(0, 0, 2.5 * k + (20000 if k > 7 else 0)) for k in range(16)]
    folder = write_series(tmp_path, ramp(), positions=places)
    monkeypatch.setenv("MEDSSL_MAX_IMAGE_GIB", "0.001")
    with pytest.raises(ImageError) as error:
        read_volume(folder, resample_irregular=True)
    assert error.value.reason == "image-limit"
    assert [p.reason for p in scan_tree(folder, resample_irregular=True).problems] == ["image-limit"] * 16


def test_small_differences_of_slice_distance_that_add_up_are_refused(tmp_path: Path):
    """Each is within the rounding of headers, but the slice in the middle would lie 0.4 of a distance beside."""
    places = [(0, 0, k + 0.019 * max(0, k - 42)) for k in range(84)]
    folder = write_series(tmp_path, np.repeat(ramp(1), 84, axis=0), positions=places)
    with pytest.raises(ImageError, match="add up") as error:
        read_volume(folder)
    assert error.value.reason == "uneven-spacing"
    assert read_volume(folder, resample_irregular=True).geometry.shape[2] in (84, 85)


def test_gantry_tilt_keeps_the_full_affine_and_is_resampled_in_preprocessing(tmp_path: Path):
    places = [(0, 2.5 * k * _TILT, 2.5 * k) for k in range(16)]
    volume = read_volume(write_series(tmp_path, ramp(), positions=places))
    assert volume.geometry.is_sheared
    assert "tilted by 15.0 degrees" in volume.source.notes[0]
    prepared = prepare_volume(volume, Preprocess())
    assert not prepared.record.prepared.is_sheared
    assert "resampled" in prepared.notes[0]


def test_a_localizer_in_the_folder_is_left_out(tmp_path: Path):
    write_series(tmp_path, ramp())
    scout = slice_dataset(
        ramp(1, 40, 40)[0],
        (0, 0, 0),
        orientation=(1, 0, 0, 0, 0, -1),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    scout.save_as(tmp_path / "scout.dcm", enforce_file_format=True)
    assert read_volume(tmp_path).array.shape == (1, 12, 10, 16)


def test_non_square_pixels_keep_their_sides_apart(tmp_path: Path):
    volume = read_volume(write_series(tmp_path, ramp(), spacing=(0.8, 0.3)))  # row spacing, column spacing
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.3, 0.8, 2.5))


def test_two_series_in_one_folder_must_be_chosen_from(tmp_path: Path):
    write_series(tmp_path / "a", ramp())
    write_series(tmp_path / "b", ramp(4), series="1.2.3.9")
    with pytest.raises(ImageError, match=r"1\.2\.3\.9") as error:
        read_volume(tmp_path)
    assert error.value.reason == "several-series"
    assert read_volume(f"{tmp_path}#1.2.3.9").array.shape[-1] == 4


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("ImageOrientationPatient", None, "no-orientation"),
        ("ImagePositionPatient", None, "no-orientation"),
        ("PixelSpacing", [0.0, 0.5], "bad-spacing"),
        ("PixelSpacing", [-1.0, 0.5], "bad-spacing"),
        ("PixelSpacing", None, "bad-spacing"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "no-orientation"),
    ],
)
def test_headers_that_place_nothing_are_refused(tmp_path: Path, attribute: str, value: object, reason: str):
    with pytest.raises(ImageError) as error:
        read_volume(write_series(tmp_path, ramp(), **{attribute: value}))
    assert error.value.reason == reason


def test_slope_and_intercept_of_each_slice_count(tmp_path: Path):
    for k, plane in enumerate(ramp(3)):
        dataset = slice_dataset(plane, (0, 0, 2.5 * k), RescaleSlope=k + 1, RescaleIntercept=-10 * k)
        dataset.save_as(tmp_path / f"{k}.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path)
    for k in range(3):
        np.testing.assert_array_equal(volume.array[0, :, :, k], ramp(3)[k].T.astype(int) * (k + 1) - 10 * k)


def test_unsigned_first_slice_does_not_wrap_negative_later_ones(tmp_path: Path):
    slice_dataset(np.full((4, 4), 7, np.uint16), (0, 0, 0)).save_as(tmp_path / "0.dcm", enforce_file_format=True)
    slice_dataset(np.full((4, 4), -1000, np.int16), (0, 0, 1)).save_as(tmp_path / "1.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path)
    assert sorted(np.unique(volume.array)) == [-1000, 7]


def _monochrome1(folder: Path, pixels: np.ndarray, modality: str, **attributes: object) -> Volume:
    dataset = slice_dataset(pixels, (0, 0, 0), PhotometricInterpretation="MONOCHROME1", Modality=modality, **attributes)
    dataset.save_as(folder / "0.dcm", enforce_file_format=True)
    return read_volume(folder)


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "RF", "XA", "OT"])
def test_a_monochrome1_picture_is_turned_round_and_said(tmp_path: Path, modality: str):
    pixels = np.array([[0, 255], [10, 20]], dtype=np.uint8)
    volume = _monochrome1(tmp_path, pixels, modality)
    np.testing.assert_array_equal(volume.array[0].T, 255 - pixels.astype(int))
    assert "MONOCHROME1" in volume.source.notes[0]
    signed = _monochrome1(tmp_path, pixels.astype(np.int16) - 100, modality)
    np.testing.assert_array_equal(signed.array[0].T, -1 - (pixels.astype(int) - 100))


@pytest.mark.parametrize("modality", ["CT", "MR", "NM", "PT"])
def test_monochrome1_leaves_what_was_measured_as_it_is(tmp_path: Path, modality: str):
    """Air in HU stays air: how an image is shown says nothing of its numbers."""
    pixels = np.array([[0, 1000], [24, 4095]], dtype=np.uint16)
    attributes = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 1, "RescaleIntercept": -1024}
    volume = _monochrome1(tmp_path, pixels, modality, **attributes)
    np.testing.assert_array_equal(volume.array[0].T, pixels.astype(int) - 1024)
    assert not any("turned round" in note for note in volume.source.notes)


@pytest.mark.parametrize(("slope", "intercept"), [(2, -10), (0.5, 3.25), (-1, 4095)])
def test_monochrome1_is_turned_round_after_slope_and_intercept(tmp_path: Path, slope: float, intercept: float):
    pixels = np.array([[0, 1000], [24, 4095]], dtype=np.uint16)
    attributes = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": slope, "RescaleIntercept": intercept}
    read = _monochrome1(tmp_path, pixels, "DX", **attributes).array[0].T
    np.testing.assert_allclose(read, (4095 - pixels.astype(float)) * slope + intercept)


def test_monochrome1_is_turned_round_after_the_modality_table(tmp_path: Path):
    """A table that is no line: the mirror of f(x) is f(least) + f(most) - f(x), not f of the mirror of x."""
    pixels = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
    table = (1000 * np.log1p(np.arange(256))).astype(np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 16])
    item.add_new("LUTData", "OW", table.tobytes())
    item.ModalityLUTType = "US"
    volume = _monochrome1(tmp_path, pixels, "DX", ModalityLUTSequence=[item])
    np.testing.assert_array_equal(volume.array[0].T, table[255].astype(int) - table[pixels])
    measured = _monochrome1(tmp_path, pixels, "MR", ModalityLUTSequence=[item])
    np.testing.assert_array_equal(measured.array[0].T, table[pixels])


def test_real_series_lie_where_simpleitk_puts_them(real_data: Path):
    """All five series of two real studies, two of them oblique, voxel by voxel at random places."""
    rng = np.random.default_rng(0)
    folders = sorted({path.parent for path in (real_data / "dicom_mr_brain_pgbm").rglob("*.dcm")})
    assert len(folders) == 5
    for folder in folders:
        volume = read_volume(folder)
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        other = reader.Execute()
        for _ in range(100):
            index = [int(rng.integers(n)) for n in other.GetSize()]
            world = np.array(other.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
            ours = volume.geometry.to_index(world)
            np.testing.assert_allclose(ours, np.rint(ours), atol=0.02)
            assert volume.array[(0, *np.rint(ours).astype(int))] == other.GetPixel(index)


def test_real_enhanced_multiframe_equals_its_single_frames(real_data: Path):
    for name in ("23x38x3", "24x38x3"):
        folder = real_data / "dicom_ct_seg_dcmqi" / name
        single, several = read_volume(folder / "image"), read_volume(folder / "multiframe")
        assert single.geometry.is_close(several.geometry)
        np.testing.assert_array_equal(single.array, several.array)


def test_a_truncated_file_is_named(tmp_path: Path):
    write_series(tmp_path, ramp(3))
    path = tmp_path / "001.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImageError, match=r"001\.dcm"):
        read_volume(tmp_path)
    assert read(tmp_path / "000.dcm").Rows == 10
