"""The one abstract class a self-supervised method implements."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""What a step gets: `image` (B, C, *S) float32 or bf16-castable, on the device, and `step` () int64."""


class Method(nn.Module, ABC):
    """A self-supervised pretraining method; abstract, one final subclass a file in `medssl/methods/`.

    State that is not trained by gradient (EMA teacher, queue, centre) lives here as buffers or frozen modules, so that
    a checkpoint of the method is the whole state. Randomness (masks) is drawn from `torch.Generator` seeded by
    `batch["step"]` and the run's seed, never from global state, so that a resumed run repeats itself.
    """

    views: ClassVar[int] = 1
    """How many augmented views of each crop the method asks for."""

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The plain encoder that is kept after pretraining."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` () with gradient, and logs (detached scalars) under their own names."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Called after each optimiser step (not each accumulated batch): EMA, queues; may do nothing."""

    @abstractmethod
    def reconstruction(self, batch: Batch) -> dict[str, Tensor] | None:
        """Return `input`, `masked`, `reconstructed` (B, C, *S) for the health panel, or None where there is none."""

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """Weights that load `strict=True` into the plain encoder."""
        return self.encoder.state_dict()
