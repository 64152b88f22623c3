"""The one abstract class a self-supervised method implements."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""What a step gets: `image` (B, C, *S) float32 or bf16-castable, on the device, `step` () int64 and
`patient` (B,) int64, the number of each sample's patient, and in training `progress` (), the share of the run's steps
done. Methods with several views get `views` (V, B, C, *size) and, where the run makes local views, `local_views` (L, B,
C, *smaller) of the same samples, with `..._centre` and `..._side` (V, B, D), the box of each view in voxels of
`image`."""


@dataclass(frozen=True)
class MethodCard:
    """What `medssl methods` tells of a method.

    Args:
        paper: First author, venue and year.
        link: Address of the paper.
        family: `contrastive`, `self-distillation`, `clustering`, `decorrelation`, `masked` or `anatomical`.
        backbones: Encoders it runs on.
        spatial_dims: Dimensions it runs in.
    """

    paper: str
    link: str
    family: Literal["contrastive", "self-distillation", "clustering", "decorrelation", "masked", "anatomical"]
    backbones: tuple[str, ...]
    spatial_dims: tuple[int, ...] = (2, 3)


class Method(nn.Module, ABC):
    """A self-supervised pretraining method; abstract, one final subclass a file in `medssl/methods/`.

    State that is not trained by gradient (EMA teacher, queue, centre) lives here as buffers or frozen modules, so that
    a checkpoint of the method is the whole state. Randomness (masks) is drawn from `torch.Generator` seeded by
    `batch["step"]` and the run's seed, never from global state, so that a resumed run repeats itself.
    """

    card: ClassVar[MethodCard]
    """What `medssl methods` tells of it."""

    views: ClassVar[int] = 1
    """How many augmented views of each sample the method asks for; 1 = the varied crop itself, `image`."""

    local_views: ClassVar[bool] = False
    """Whether the method makes use of further, smaller views."""

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The plain encoder that is kept after pretraining."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` () with gradient, and logs (detached scalars) under their own names."""

    def before_step(self, step: int) -> None:
        """Called before each optimiser step, counted from 0, when all gradients are there: they may be changed."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Called after each optimiser step (not each accumulated batch), counted from 1: EMA, queues."""

    def reconstruction(self, batch: Batch) -> dict[str, Tensor] | None:
        """Return `input`, `masked`, `reconstructed` (B, C, *S) for the health panel, or None where there is none."""
        return None

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """Weights that load `strict=True` into the plain encoder."""
        return self.encoder.state_dict()
