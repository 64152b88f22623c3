"""A run that another one asks while it learns: what the record tells of it, and which images it is asked about."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_cache import small_cache

from medssl.commands.pretrain import pretrain
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import sha256
from medssl.models.component import Component
from medssl.models.weights import read_encoder
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_UNET = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8, 8], "blocks": [0, 1, 1]})
_TRAIN = TrainOptions(accelerator="cpu", steps=2, batch_size=2, checkpoint_every=1)


def _sam(data: Path, out: Path) -> Path:
    options = {"width": 4, "fine": [20, 5, 20, 10], "coarse": [8, 4, 8, 4], "others": 4}
    pretrain(
        data, out, Component("medssl.methods.sam.SAM", options), _UNET, ViewOptions((8, 8), source=(12, 12)), _TRAIN
    )
    return out


def _alice(data: Path, out: Path, matcher: Path, **flags: Any) -> None:
    options = {"crop": [8, 8], "mask": ["column", 0.75, 4], "head": [16, 8, 16, False], "matcher": str(matcher)}
    method = Component("medssl.methods.alice.Alice", options)
    pretrain(data, out, method, _UNET, ViewOptions((16, 16)), _TRAIN, **flags)


@pytest.fixture
def matcher(tmp_path: Path) -> Path:
    data = small_cache(tmp_path / "first", [(20, 20)] * 3, patients=["a", "b", "c"], splits=["train", "train", "test"])
    return _sam(data.path, tmp_path / "sam")


def test_the_record_names_the_matcher_and_whom_it_knows(matcher: Path, tmp_path: Path) -> None:
    data = small_cache(tmp_path / "then", [(20, 20)] * 2, patients=["b", "d"])
    _alice(data.path, tmp_path / "alice", matcher)
    file = matcher / "encoder.safetensors"
    described = json.loads((tmp_path / "alice" / "run.json").read_text())
    assert described["patients"]["pretraining"] == ["a", "b", "d"]
    assert described["helpers"] == {"matcher": sha256(file)}
    _, meta = read_encoder(tmp_path / "alice" / "encoder.safetensors")
    assert meta["provenance"]["helpers"] == {"matcher": sha256(file)}
    assert "helpers" not in read_encoder(file)[1]["provenance"]


def test_whom_a_matcher_without_its_run_knows_is_not_made_up(matcher: Path, tmp_path: Path) -> None:
    data = small_cache(tmp_path / "then", [(20, 20)] * 2)
    (matcher / "run.json").unlink()
    _alice(data.path, tmp_path / "alice", matcher)
    assert json.loads((tmp_path / "alice" / "run.json").read_text())["patients"]["pretraining"] is None


def test_a_run_does_not_go_on_with_another_matcher(matcher: Path, tmp_path: Path) -> None:
    data = small_cache(tmp_path / "then", [(20, 20)] * 2)
    _alice(data.path, tmp_path / "alice", matcher)
    other = _sam(small_cache(tmp_path / "other", [(24, 20)] * 2).path, tmp_path / "sam2")
    for name in ("encoder.safetensors", "encoder.json"):
        (other / name).replace(matcher / name)
    with pytest.raises(ConfigError, match="matcher: its file is not the one the run began with"):
        _alice(data.path, tmp_path / "alice", matcher, resume=True)


def test_a_matcher_of_images_prepared_otherwise_is_refused(matcher: Path, tmp_path: Path) -> None:
    data = small_cache(tmp_path / "then", [(20, 20)] * 2)
    content = json.loads((data.path / "cache.json").read_text())
    window = {"kind": "window", "low": [-100.0], "high": [200.0], "nonzero": False}
    content["preprocess"] |= {"spacing_mm": [2.0, 2.0], "intensity": window, "orientation": "LPS"}
    (data.path / "cache.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        _alice(data.path, tmp_path / "alice", matcher)
    told = caught.value.problems
    assert [problem.split(" had ")[1].split()[0] for problem in told] == ["orientation", "spacing_mm", "intensity"]
    assert "spacing_mm None, these have [2.0, 2.0]" in told[1]
    assert "prepare these so, or pretrain it on these" in told[1]
    assert not (tmp_path / "alice").exists()
