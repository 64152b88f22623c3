"""A run of a method with a moving average leaves the encoders of both networks."""

from pathlib import Path

import pytest
import torch
from small_cache import small_cache
from tiny_methods import run

from medssl.models.weights import read_encoder
from medssl.training.checkpoints import read_checkpoint

_TEACHER = "teacher.network.encoder."
_STUDENT = "student.encoder."


@pytest.mark.parametrize(
    ("name", "kept", "other"),
    [
        *((name, _STUDENT, _TEACHER) for name in ("moco_v2.MoCoV2", "byol.BYOL", "sit.SiT", "voco.VoCo")),
        *((name, _TEACHER, _STUDENT) for name in ("dino.DINO", "alice.Alice")),
        ("ijepa.IJEPA", "teacher.network.", "_vit."),
    ],
)
def test_both_encoders_are_written_under_their_names(name: str, kept: str, other: str, tmp_path: Path) -> None:
    data = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)]).path
    run(data, tmp_path / "run", name, steps=2, checkpoint_every=2)
    weights = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["module"]
    second = "teacher" if other == _TEACHER else "student"
    (tensors, meta), (others, described) = (
        read_encoder(tmp_path / "run" / f"{file}.safetensors") for file in ("encoder", f"encoder_{second}")
    )
    tensors = {key: tensor for key, tensor in tensors.items() if key.startswith("encoder.")}
    for found, prefix in ((tensors, kept), (others, other)):
        wanted = {f"encoder.{key.removeprefix(prefix)}": t for key, t in weights.items() if key.startswith(prefix)}
        assert found.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.items())
    assert any(not torch.equal(tensor, others[key]) for key, tensor in tensors.items())
    assert described.pop("of") == second
    assert {**meta, "sha256": described["sha256"]} == described


def test_a_method_without_a_teacher_leaves_one(tmp_path: Path) -> None:
    data = small_cache(tmp_path / "cache", [(20, 24), (24, 20)]).path
    run(data, tmp_path / "run", "simclr.SimCLR", steps=1)
    assert [path.name for path in (tmp_path / "run").glob("*.safetensors")] == ["encoder.safetensors"]
