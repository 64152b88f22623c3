"""Heads between an encoder's vector and a self-supervised loss; thrown away after pretraining."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from medssl.models.encoder import Encoder


class Projector(nn.Sequential):
    """Linear layers with batch norm and ReLU between them: (B, widths[0]) to (B, widths[-1]).

    Args:
        widths: Widths from input to output, at least two.
        norm: Batch norm after each hidden layer. It needs batches of about 32 and more.
        bias: Biases of the hidden layers.
        last_bias: Bias of the last layer.
        last_norm: Batch norm after the last layer: none, with learned scale and shift, or without.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        norm: bool = True,
        bias: bool = False,
        last_bias: bool = False,
        last_norm: Literal["none", "learned", "fixed"] = "none",
    ) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            layers.append(nn.Linear(inputs, outputs, bias=bias))
            layers += [nn.BatchNorm1d(outputs)] if norm else []
            layers.append(nn.ReLU())
        layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias))
        if last_norm != "none":
            layers.append(nn.BatchNorm1d(widths[-1], affine=last_norm == "learned"))
        super().__init__(*layers)


class Branch(nn.Module):
    """Encoder and projector: image (B, C, *S) to embedding (B, E)."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, image: Tensor) -> Tensor:
        """The embedding."""
        out: Tensor = self.projector(self.encoder.embed(image))
        return out
