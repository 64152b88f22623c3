"""Every method with a state of its own goes on after a crash as if there had been none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_cache import small_cache

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import AugmentOptions
from medssl.models.component import Component
from medssl.training import loop
from medssl.training.checkpoints import read_checkpoint
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_VIT = Component("medssl.models.vit.ViT", {"patch_size": 4, "width": 12, "depth": 1, "heads": 2})
_CNN = Component("medssl.models.resnet.ResNet", {"depth": 10, "width": 4, "small": True})
_SWIN = Component(
    "medssl.models.swin.SwinV2",
    {"patch_size": 2, "width": 8, "stages": [[2, 2], [2, 2]], "window": 3, "drop_path": 0.3},
)
_METHODS: dict[str, tuple[Component, dict[str, Any], bool]] = {
    "moco_v2.MoCoV2": (_CNN, {"queue": 12, "hidden": 8, "width": 8}, False),
    "byol.BYOL": (_CNN, {"hidden": 8, "width": 8}, False),
    "barlow_twins.BarlowTwins": (_CNN, {"width": 8}, False),
    "swav.SwAV": (_CNN, {"head": [8, 8, 12], "queue": 4, "shares": [0.1, 0.2]}, True),
    "dino.DINO": (_VIT, {"head": [8, 8, 12], "frozen": 0.2}, True),
    "voco.VoCo": (_CNN, {"grid": [2, 2], "head": [8, 8]}, False),
    "models_genesis.ModelsGenesis": (_CNN, {"windows": 50}, False),
    "volume_fusion.VolumeFusion": (_CNN, {"boxes": [2, 6]}, False),
    "ibot.IBOT": (_VIT, {"head": [8, 8, 12, 0], "schedule": [0.9, 0.5, 0.2]}, True),
    "dinov2.DINOv2": (_VIT, {"head": [8, 8, 12, 10], "schedule": [0.9, 0.5, 0.2], "spread": [0.9, 0.1]}, True),
    "sit.SiT": (_VIT, {"head": [8, 8]}, False),
    "simmim.SimMIM": (_SWIN, {"block": 4, "decoder": "unet"}, False),
    "swin_unetr.SwinUNETRPretraining": (_SWIN, {"weighting": "automatic", "width": 8}, False),
    "cae.CAE": (_VIT, {"depths": [1, 1]}, False),
    "croco.CroCo": (_VIT, {"mask_ratio": 0.75, "decoder": [12, 1, 2]}, False),
    "ijepa.IJEPA": (_VIT, {"predictor": [12, 1, 2]}, False),
}


def _run(data: Path, out: Path, name: str, resume: bool = False) -> None:
    encoder, arguments, local = _METHODS[name]
    views = ViewOptions((16, 16), augment=AugmentOptions(noise_p=0.5), local_views=2 if local else 0)
    train = TrainOptions(
        steps=8, batch_size=4, lr=0.01, checkpoint_every=3, health_every=4, accelerator="cpu", accumulate=2
    )
    pretrain(data, out, Component(f"medssl.methods.{name}", arguments), encoder, views, train, resume=resume)


@pytest.mark.parametrize("name", _METHODS)
def test_a_crash_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)]).path
    _run(data, tmp_path / "whole", name)

    def crash(state: loop.TrainState, *given: Any) -> dict[str, torch.Tensor]:
        if state.step == 5:
            raise RuntimeError("the power failed")
        return train_step(state, *given)

    train_step = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        with pytest.raises(RuntimeError, match="power"):
            _run(data, tmp_path / "broken", name)
    _run(data, tmp_path / "broken", name, resume=True)
    states = [read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")["module"] for run in ("whole", "broken")]
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key
    kept = [load_file(tmp_path / run / "encoder.safetensors") for run in ("whole", "broken")]
    assert all(torch.equal(tensor, kept[1][key]) for key, tensor in kept[0].items())
