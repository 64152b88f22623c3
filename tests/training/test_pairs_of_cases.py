"""The second view may show another case of the same patient, or a neighbouring slice."""

import json
from dataclasses import replace

import pytest
from small_cache import small_cache
from tiny_methods import METHODS

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import NO_AUGMENTATION, ViewAugment
from medssl.imaging.errors import ConfigError
from medssl.models.component import Component
from medssl.models.weights import read_encoder
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_SHAPES = [(20, 24), (24, 20), (18, 18)]
_VIEWS = ViewOptions((16, 16), partner="patient", augment=ViewAugment(**NO_AUGMENTATION))
_TRAIN = TrainOptions(steps=2, batch_size=4, accelerator="cpu", log_every=1, health_every=1)


def _method(name):
    encoder, arguments, _ = METHODS[name]
    return Component(f"medssl.methods.{name}", arguments), encoder


def _losses(cache, run, views):
    pretrain(cache.path, run, *_method("croco.CroCo"), views, _TRAIN)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line]
    return [row["loss"] for row in rows if "loss" in row]


def test_time_points_are_completed_from_one_another(tmp_path):
    cache = small_cache(tmp_path / "cache", _SHAPES, patients=["a", "a", "b"])
    paired = _losses(cache, tmp_path / "run", _VIEWS)
    assert len(paired) == 2
    assert paired != _losses(cache, tmp_path / "same", replace(_VIEWS, partner="same"))


def test_neighbouring_slices_of_volumes_train_a_2d_encoder(tmp_path):
    cache = small_cache(tmp_path / "cache", [(20, 24, 6), (24, 20, 5)])
    views = replace(_VIEWS, partner="slice", slice_axis=2, slice_gap_mm=2.0)
    paired = _losses(cache, tmp_path / "run", views)
    assert paired != _losses(cache, tmp_path / "same", replace(views, partner="same", slice_gap_mm=0.0))
    _, meta = read_encoder(tmp_path / "run" / "encoder.safetensors")
    assert meta["encoder"]["init_args"]["spatial_dims"] == 2
    assert meta["preprocess"]["spatial_dims"] == 2
    assert meta["provenance"]["slice_axis"] == 2


def test_pairs_that_nobody_has_or_looks_at_are_refused_together(tmp_path):
    cache = small_cache(tmp_path / "cache", _SHAPES)
    with pytest.raises(ConfigError) as caught:
        pretrain(cache.path, tmp_path / "run", *_method("mae.MAE"), _VIEWS, _TRAIN)
    told = "\n".join(caught.value.problems)
    assert "every patient in splits ['train', ''] of" in told
    assert "views.partner patient: MAE has one view" in told
    assert not (tmp_path / "run").exists()


def test_slices_of_what_is_flat_are_refused(tmp_path):
    cache = small_cache(tmp_path / "cache", _SHAPES)
    with pytest.raises(ConfigError, match="is 2D, its images are no stacks of slices"):
        pretrain(cache.path, tmp_path / "run", *_method("croco.CroCo"), replace(_VIEWS, slice_axis=1), _TRAIN)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"size": (8, 8, 8), "slice_axis": 2},
            "views.size needs 2 numbers where slices are learned from, got (8, 8, 8)",
        ),
        ({"size": (8, 8), "slice_axis": 3}, "views.slice_axis must be 0, 1 or 2, got 3"),
        ({"size": (8, 8), "partner": "slice"}, "views.partner needs slice_axis, got slice"),
        ({"size": (8, 8), "slice_gap_mm": 2.0}, "views.slice_gap_mm is for partner slice alone, got 2.0"),
    ],
)
def test_options_of_slices_that_do_not_fit_are_refused(options, told):
    with pytest.raises(ConfigError) as caught:
        ViewOptions(**options)
    assert told in caught.value.problems
