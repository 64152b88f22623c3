"""Every method on the smallest network that it runs on, on views of 16 x 16 or, in 3D, 16 x 16 x 16."""

from pathlib import Path
from typing import Any

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import ViewAugment
from medssl.models.component import Component
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

VIT = Component("medssl.models.vit.ViT", {"patch_size": 4, "width": 12, "depth": 1, "heads": 2})
CNN = Component("medssl.models.resnet.ResNet", {"depth": 10, "width": 4, "small": True})
UNET = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8], "blocks": [1, 1]})
SWIN = Component(
    "medssl.models.swin.SwinV2",
    {"patch_size": 2, "width": 8, "stages": [[2, 2], [2, 2]], "window": 3, "drop_path": 0.3},
)
METHODS: dict[str, tuple[Component, dict[str, Any], bool]] = {
    "simclr.SimCLR": (CNN, {"hidden": 8, "width": 8}, False),
    "moco_v2.MoCoV2": (CNN, {"queue": 12, "hidden": 8, "width": 8}, False),
    "moco_v3.MoCoV3": (CNN, {"hidden": 8, "width": 8}, False),
    "byol.BYOL": (CNN, {"hidden": 8, "width": 8}, False),
    "simsiam.SimSiam": (CNN, {"hidden": 8, "bottleneck": 4}, False),
    "barlow_twins.BarlowTwins": (CNN, {"width": 8}, False),
    "vicreg.VICReg": (CNN, {"width": 8}, False),
    "swav.SwAV": (CNN, {"head": [8, 8, 12], "queue": 4, "shares": [0.1, 0.2]}, True),
    "dino.DINO": (VIT, {"head": [8, 8, 12], "schedule": (0.9, 0.1, 0.2)}, True),
    "ibot.IBOT": (VIT, {"head": [8, 8, 12, 0], "schedule": [0.9, 0.5, 0.2]}, True),
    "dinov2.DINOv2": (VIT, {"head": [8, 8, 12, 10], "schedule": [0.9, 0.5, 0.2], "spread": [0.9, 0.1]}, True),
    "sit.SiT": (VIT, {"head": [8, 8]}, False),
    "mae.MAE": (VIT, {"decoder": [12, 1, 2]}, False),
    "simmim.SimMIM": (SWIN, {"block": 4, "decoder": "unet"}, False),
    "spark.SparK": (UNET, {"block": 4}, False),
    "cae.CAE": (VIT, {"depths": [1, 1]}, False),
    "croco.CroCo": (VIT, {"mask_ratio": 0.75, "decoder": [12, 1, 2]}, False),
    "ijepa.IJEPA": (VIT, {"predictor": [12, 1, 2]}, False),
    "alice.Alice": (UNET, {"crop": [12, 12], "mask": ["block", 0.5, 4], "head": [8, 8, 8, False]}, False),
    "sam.SAM": (CNN, {"width": 6, "fine": [20, 10, 20, 8], "coarse": [20, 4, 8, 4], "others": 6}, False),
    "voco.VoCo": (CNN, {"grid": [2, 2], "head": [8, 8]}, False),
    "models_genesis.ModelsGenesis": (CNN, {"windows": 50}, False),
    "volume_fusion.VolumeFusion": (CNN, {"boxes": [2, 6]}, False),
    "swin_unetr.SwinUNETRPretraining": (SWIN, {"weighting": "automatic", "width": 8}, False),
}
"""Class below `medssl.methods`: its encoder, its arguments, and whether it has local views."""
_IN_3D = {"alice.Alice": {"crop": [12, 12, 12]}, "voco.VoCo": {"grid": [2, 2, 2]}}


def run(data: Path, out: Path, name: str, *, dims: int = 2, resume: bool = False, **given: Any) -> None:
    """Pretrain with a method of `METHODS`; `given` are options of `train`, and other `arguments` of the method."""
    encoder, arguments, local = METHODS[name]
    arguments = {**arguments, **(_IN_3D.get(name, {}) if dims == 3 else {}), **given.pop("arguments", {})}
    views = ViewOptions((16,) * dims, augment=ViewAugment(noise_p=0.5), local_views=2 if local else 0)
    train = TrainOptions(**{"steps": 8, "batch_size": 4, "lr": 0.01, "accelerator": "cpu", **given})
    pretrain(data, out, Component(f"medssl.methods.{name}", arguments), encoder, views, train, resume=resume)
