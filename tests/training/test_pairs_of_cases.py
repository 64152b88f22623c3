"""The second view may show another case of the same patient."""

import pytest
from small_cache import small_cache
from tiny_methods import METHODS

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import NO_AUGMENTATION, AugmentOptions
from medssl.imaging.errors import ConfigError
from medssl.models.component import Component
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_SHAPES = [(20, 24), (24, 20), (18, 18)]
_VIEWS = ViewOptions((16, 16), partner="patient", augment=AugmentOptions(**NO_AUGMENTATION))
_TRAIN = TrainOptions(steps=2, batch_size=4, accelerator="cpu", health_every=1)


def _method(name):
    encoder, arguments, _ = METHODS[name]
    return Component(f"medssl.methods.{name}", arguments), encoder


def test_time_points_are_completed_from_one_another(tmp_path):
    cache = small_cache(tmp_path / "cache", _SHAPES, patients=["a", "a", "b"])
    pretrain(cache.path, tmp_path / "run", *_method("croco.CroCo"), _VIEWS, _TRAIN)
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_pairs_that_nobody_has_or_looks_at_are_refused_together(tmp_path):
    cache = small_cache(tmp_path / "cache", _SHAPES)
    with pytest.raises(ConfigError) as caught:
        pretrain(cache.path, tmp_path / "run", *_method("mae.MAE"), _VIEWS, _TRAIN)
    told = "\n".join(caught.value.problems)
    assert "every patient in splits ['train', ''] of" in told
    assert "views.partner patient: MAE has one view" in told
    assert not (tmp_path / "run").exists()
