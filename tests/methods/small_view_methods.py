"""Arguments that make methods of two views small, for batches of eight."""

from typing import Any

from medssl.methods.barlow_twins import BarlowTwins
from medssl.methods.byol import BYOL
from medssl.methods.dino import DINO
from medssl.methods.moco_v2 import MoCoV2
from medssl.methods.moco_v3 import MoCoV3
from medssl.methods.simclr import SimCLR
from medssl.methods.simsiam import SimSiam
from medssl.methods.swav import SwAV
from medssl.methods.vicreg import VICReg

SMALL: dict[Any, dict[str, Any]] = {
    SimCLR: {"hidden": 16, "width": 8},
    MoCoV2: {"batch_size": 8, "queue": 16, "hidden": 16, "width": 8},
    MoCoV3: {"steps": 100, "hidden": 16, "width": 8},
    BYOL: {"steps": 100, "hidden": 16, "width": 8},
    SimSiam: {"hidden": 16, "bottleneck": 8},
    BarlowTwins: {"width": 16},
    VICReg: {"width": 16},
    SwAV: {"steps": 100, "batch_size": 8, "head": (16, 8, 12), "queue": 16},
    DINO: {"steps": 100, "head": (16, 8, 12)},
}
