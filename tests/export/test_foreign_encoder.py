"""Which encoder of a run is written; what is written is tested in tests/peers and tests/models."""

from pathlib import Path

import pytest
from small_encoder import small_encoder

from medssl.export.foreign_encoder import write_foreign_encoder
from medssl.imaging.errors import CheckpointError, ConfigError


def test_of_a_run_with_two_encoders_one_is_to_be_named(tmp_path: Path):
    run = small_encoder(tmp_path / "run", preprocess={"spatial_dims": 2})
    for suffix in ("safetensors", "json"):
        (run / f"encoder.{suffix}").rename(run / f"encoder_2d.{suffix}")
    (run / "encoder_3d.safetensors").touch()
    with pytest.raises(ConfigError, match=r"2 encoders: name one, .*encoder_2d\.safetensors or .*encoder_3d"):
        write_foreign_encoder(run, "torch", (), tmp_path / "out.safetensors")
    write_foreign_encoder(run / "encoder_2d.safetensors", "torch", (), tmp_path / "out.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty.encoder\.safetensors does not exist"):
        write_foreign_encoder(tmp_path / "empty", "torch", (), tmp_path / "new.safetensors")
