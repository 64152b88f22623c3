"""Heads between an encoder's vector and a self-supervised loss; thrown away after pretraining."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.batch_norm import BatchNorm
from medssl.models.encoder import Encoder
from medssl.models.vit import ViT


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
            layers += [BatchNorm(outputs)] if norm else []
            layers.append(nn.ReLU())
        layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias))
        if last_norm != "none":
            layers.append(BatchNorm(widths[-1], affine=last_norm == "learned"))
        super().__init__(*layers)


class Prototypes(nn.Module):
    """Cosines of vectors with learned unit vectors: (..., E) to (..., K).

    What DINO writes as a weight-normalised layer whose gains are fixed at 1. In float32 under bf16 autocast, too:
    losses divide the cosines by temperatures of 0.04 and more, and bf16 knows a cosine near 1 to 0.004 alone.

    Args:
        width: Width E of the vectors.
        count: Prototypes K.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, width), std=0.02))

    def forward(self, vectors: Tensor) -> Tensor:
        """The cosines, float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return F.linear(F.normalize(vectors.float(), dim=-1), F.normalize(self.weight.float(), dim=-1))


class DINOHead(nn.Module):
    """Three linear layers with GELU, then prototypes (Caron et al., ICCV 2021, arXiv 2104.14294): (..., E) to (..., K).

    Args:
        inputs: Width of what comes in.
        hidden: Width of the two hidden layers.
        bottleneck: Width of the vectors that are compared with the prototypes.
        prototypes: Their number K.
        norm: Batch norm behind the two hidden layers, for vectors (B, E) (`use_bn_in_head` of the authors' code).
    """

    def __init__(
        self, inputs: int, hidden: int = 2048, bottleneck: int = 256, prototypes: int = 65536, *, norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([inputs, hidden, hidden, bottleneck]):
            linear = nn.Linear(before, after)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, *([BatchNorm(after)] if norm else []), nn.GELU()]
        last = -2 if norm else -1
        self.mlp, self.prototypes = nn.Sequential(*layers[:last]), Prototypes(bottleneck, prototypes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Cosines with the prototypes."""
        out: Tensor = self.prototypes(self.mlp(vectors))
        return out


class Branch(nn.Module):
    """Encoder and projector: image (B, C, *S) to embedding (B, E).

    Args:
        encoder: The encoder.
        projector: What follows it.
        summary: Take the encoder's `summary`, a transformer's class token, instead of `embed`.
    """

    def __init__(self, encoder: Encoder, projector: nn.Module, *, summary: bool = False) -> None:
        super().__init__()
        self.encoder, self.projector, self.summary = encoder, projector, summary

    def forward(self, image: Tensor) -> Tensor:
        """The embedding."""
        vector = self.encoder.summary(image) if self.summary else self.encoder.embed(image)
        out: Tensor = self.projector(vector)
        return out


class PyramidBranch(nn.Module):
    """Encoder and projector: image (B, C, *S) to embedding (B, E), from the means of all maps side by side.

    Args:
        encoder: The encoder.
        head: Widths of the projector's two hidden layers, and of its output.
    """

    def __init__(self, encoder: Encoder, head: tuple[int, int]) -> None:
        super().__init__()
        self.encoder, self.width = encoder, head[1]
        self.projector = Projector([sum(encoder.feature_channels), head[0], *head], bias=True, last_bias=True)

    def forward(self, image: Tensor) -> Tensor:
        """The embedding."""
        means = torch.cat([level.flatten(2).mean(-1) for level in self.encoder(image)], dim=1)
        out: Tensor = self.projector(means)
        return out


class TokenBranch(Branch):
    """A ViT with a head for its class token and one for its patch tokens; as a function, the class token's alone.

    Args:
        encoder: The ViT.
        projector: Head of the class token.
        patch_projector: Head of the patch tokens; None = the same.
    """

    def __init__(self, encoder: ViT, projector: nn.Module, patch_projector: nn.Module | None = None) -> None:
        super().__init__(encoder, projector, summary=True)
        self.patch_projector = patch_projector

    def both(
        self, image: Tensor, rows: Tensor, fill: tuple[Tensor, Tensor] | None = None, small: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class tokens (B, E), what their head makes of them (B + b, K), and what its head makes of patch tokens.

        Args:
            image: (B, C, *S).
            rows: (M,) numbers of the patches, counted over the whole batch: samples may have any number of them.
            fill: Hidden patches and what takes their place, as in `ViT.encode`.
            small: Further images (b, C, *s) of another size, of which the head of the class token alone is asked; all
                go through the encoder in one pass.
        """
        vit = cast(ViT, self.encoder)
        tokens, *others = vit.encode_packed([image, *small], [fill, *(None for _ in small)])
        patches = tokens[:, vit.tokens.shape[1] :].flatten(0, 1)[rows]
        head = self.projector if self.patch_projector is None else self.patch_projector
        classes = torch.cat([group[:, 0] for group in (tokens, *others)])
        return tokens[:, 0], self.projector(classes), head(patches)
