"""A prepared image given in planes is the whole one, however it is cut."""

import numpy as np
import pytest

from medssl.imaging import preprocess, target_grid
from medssl.imaging.geometry import Geometry
from medssl.imaging.intensities import Percentiles, Spread
from medssl.imaging.preprocess import Intensity, PreparedImage, Preprocess, prepare_volume
from medssl.imaging.volume import Volume

_TILTED = np.array([[0.0, -0.8, 0, 9], [0, 0.1, 2.5, -3], [-0.7, 0, 0.3, 4], [0, 0, 0, 1]])
_OBLIQUE = np.array([[0.7, -0.4, 0, 9], [0.4, 0.7, 0, -3], [0, 0, 2.0, 4], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "affine", [np.diag([-0.7, 0.8, 2.5, 1]), _TILTED, _OBLIQUE], ids=["plain", "tilted", "oblique"]
)
@pytest.mark.parametrize(
    "settings",
    [
        Preprocess(intensity=Intensity("zscore", nonzero=True)),
        Preprocess(spacing_mm=(1.0, 1.0, 1.5), crop="above_mean", intensity=Intensity("percentile", (1.0,), (99.0,))),
        Preprocess(spacing_mm=(1.6, 1.6, 1.6), crop="nonzero", intensity=Intensity("window", (-50.0,), (50.0,))),
    ],
    ids=["zscore", "percentile", "window"],
)
def test_planes_are_those_of_the_whole_image(affine, settings, rng, monkeypatch):
    array = rng.normal(size=(2, 17, 20, 13)) * 40
    array[:, :4] = 0
    volume = Volume(array.astype(np.int16), Geometry(affine, array.shape[1:]))
    whole = prepare_volume(volume, settings)
    monkeypatch.setattr(target_grid, "BLOCK_BYTES", 4000)
    image = PreparedImage(volume, settings, most_bytes=0)
    assert image.shape == whole.array.shape
    assert image.record.prepared.is_close(whole.record.prepared)
    assert image.notes == whole.notes
    for axis in range(3):
        size = image.shape[axis + 1]
        for begin, end in ((0, min(5, size)), (2, min(9, size)), (0, size), (size - 1, size)):
            expected = np.take(whole.array, range(begin, end), axis + 1)
            np.testing.assert_allclose(image.planes(axis, begin, end), expected, atol=2e-4)


def test_small_images_are_kept_whole(rng):
    volume = Volume(rng.normal(size=(1, 6, 7)).astype(np.float32), Geometry(np.eye(4), (6, 7)))
    image = PreparedImage(volume, Preprocess(spatial_dims=2))
    np.testing.assert_array_equal(
        image.planes(1, 2, 5), prepare_volume(volume, Preprocess(spatial_dims=2)).array[..., 2:5]
    )
    assert volume.array.size * 4 < preprocess._WHOLE_BYTES


def test_spread_and_percentiles_of_parts_are_those_of_all(rng):
    values = rng.normal(1000, 0.5, size=1000).astype(np.float32)
    values[::7] = 0
    spread, percentiles = Spread(nonzero=True), Percentiles(1000, nonzero=True)
    for part in np.split(values, [1, 8, 300]):
        spread.add(part)
        percentiles.add(part)
    chosen = values[values != 0].astype(np.float64)
    assert (spread.low, spread.high) == (0, values.max())
    assert spread.mean == pytest.approx(chosen.mean(), rel=1e-12)
    assert spread.deviation == pytest.approx(chosen.std(), rel=1e-9)
    assert percentiles.at(5, 95) == pytest.approx(np.percentile(values[values != 0], (5, 95)), rel=1e-6)
