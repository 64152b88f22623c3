"""What export promises holds in the clinic: folds, mirroring, channels, pictures and classes, each as in torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohort import make_cache, make_run, write_scans
from dicom_phantom import write_series

from medssl.commands.export import export
from medssl.commands.prepare import prepare
from medssl.data.cache import Cache
from medssl.export.options import ConfidenceOptions, OperationOptions, ParityOptions
from medssl.imaging.errors import ConfigError
from medssl.imaging.manifest import Manifest
from medssl.imaging.preprocess import Preprocess, prepare_volume, restore_label
from medssl.imaging.readers.open import read_channels
from medssl.imaging.series import SeriesRule
from medssl.runtime.inputs import find_cases
from medssl.runtime.predictor import Predictor
from medssl.tasks.inference import classify_image, segment_image
from medssl.tasks.model_file import load_model, model_folders

_QUICK = {"parity": ParityOptions(cases=1, threads=1), "confidence": ConfidenceOptions(measure=False)}
_RULES = [SeriesRule("MR", ("t1",)), SeriesRule("MR", ("flair",))]


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Each case with its own image and its left or right neighbour's as channels."""
    root = tmp_path_factory.mktemp("channels")
    rows = [
        replace(row, image=f"{row.image};images/{row.case[0]}{'LR'[row.case[1] == 'L']}.nii.gz")
        for row in write_scans(root, patients=4).rows
    ]
    Manifest.from_rows(rows, root=root).write(root / "manifest.csv")
    prepare(root / "manifest.csv", root / "cache", Preprocess(), channels=["T1", "FLAIR"], workers=1)
    return Cache.open(root / "cache")


def _networks(run: Path):
    loaded = [load_model(folder) for folder in model_folders(run)]
    return [network for network, _ in loaded], loaded[0][1]


def test_folds_of_two_channels_mirrored(two_channels: Cache, tmp_path: Path):
    run, out = make_run(tmp_path / "run", two_channels, folds=2), tmp_path / "bundle"
    export(run, out, data=two_channels.path, operation=OperationOptions(mirror="on"), **_QUICK, series=_RULES)
    predictor = Predictor(out, threads=1)
    networks, spec = _networks(run)
    spec = replace(spec, mirror_axes=(0, 1, 2))
    volume = read_channels(two_channels.cases[0].image_field, Path())
    prepared = prepare_volume(volume, spec.preprocess)
    expected = restore_label(segment_image(networks, spec, prepared.array), prepared.record)
    found = predictor.predict(volume).mask
    assert found is not None
    assert (found.array == expected.array).mean() > 0.999
    assert len(np.unique(expected.array)) > 1

    pixels = np.random.default_rng(0).integers(0, 100, size=(2, 8, 16, 20)).astype(np.int16)
    for number, name in enumerate(("t1", "flair")):
        description = {"SeriesDescription": name, "Modality": "MR"}
        write_series(tmp_path / "study" / name, pixels[number], series=f"1.2.{number}", **description)
    (case,), left_out = find_cases([str(tmp_path / "study")], predictor.bundle.spec)
    assert not left_out
    study = case.read()
    np.testing.assert_array_equal(study.array, np.transpose(pixels, (0, 3, 2, 1)))
    prepared = prepare_volume(study, spec.preprocess)
    expected = restore_label(segment_image(networks, spec, prepared.array), prepared.record)
    report = predictor.predict(study)
    assert report.mask is not None
    assert (report.mask.array == expected.array).mean() > 0.999
    assert [series["name"] for series in report.report["image"]["series"]] == ["T1", "FLAIR"]


@pytest.mark.parametrize("dims", [2, 3])
def test_folds_of_classifiers_mirrored(dims: int, tmp_path: Path):
    cache = make_cache(tmp_path / "cohort", dims=dims, classes=("healthy", "ill"), patients=4)
    run, out = make_run(tmp_path / "run", cache, "classifier", folds=2), tmp_path / "bundle"
    export(run, out, data=cache.path, operation=OperationOptions(mirror="on"), **_QUICK)
    networks, spec = _networks(run)
    spec = replace(spec, mirror_axes=tuple(range(dims)))
    volume = read_channels(cache.cases[0].image_field, Path())
    expected = classify_image(networks, spec, prepare_volume(volume, spec.preprocess).array)
    found = Predictor(out, threads=1).predict(volume).report["probabilities"]
    np.testing.assert_allclose([found["healthy"], found["ill"]], expected, atol=1e-5)


def test_pictures_are_segmented_as_in_torch(tmp_path: Path):
    cache = make_cache(tmp_path / "cohort", dims=2, patients=4)
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    export(run, out, data=cache.path, **_QUICK)
    networks, spec = _networks(run)
    volume = read_channels(cache.cases[0].image_field, Path())
    expected = segment_image(networks, spec, prepare_volume(volume, spec.preprocess).array)
    found = Predictor(out, threads=1).predict(volume).mask
    assert found is not None
    assert found.array.shape == (1, *expected.shape)
    assert (found.array[0] == expected).mean() > 0.999


def test_as_many_rules_as_channels(two_channels: Cache, tmp_path: Path):
    run = make_run(tmp_path / "run", two_channels)
    with pytest.raises(ConfigError, match=r"1 rule\(s\) for 2 channel\(s\) \(T1, FLAIR\)"):
        export(run, tmp_path / "bundle", data=two_channels.path, series=_RULES[:1])
