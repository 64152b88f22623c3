"""The network of Alice: a summary, tokens of encoder and decoder, and a reconstruction; and what aligns the tokens."""

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.attention import CrossAttention
from medssl.models.decoders import UNetDecoder
from medssl.models.encoder import Encoder
from medssl.models.projectors import Branch, DINOHead, Prototypes


@dataclass(frozen=True)
class Described:
    """What the network says of images.

    Args:
        summary: (B, K) logits of the whole.
        coarse: (B, N, K) logits of the places of the encoder's last map.
        fine: (B, M, K) logits of the places of the decoder's first map.
        image: (B, C, *S) reconstruction.
    """

    summary: Tensor
    coarse: Tensor
    fine: Tensor
    image: Tensor


class DescribingBranch(Branch):
    """Encoder, U-Net decoder and one DINO head with prototypes of its own for places; alone it is the summary.

    Jiang et al., ICCV 2023, https://arxiv.org/abs/2302.05615. Deviation: student and teacher share their heads alike.

    Args:
        encoder: Encoder whose maps get coarser.
        head: Widths of the hidden layers and of the vectors before the prototypes, and the number K of prototypes.
        norm: Batch norm behind the hidden layers of the head, as in `DINOHead`.

    Raises:
        ConfigError: All maps of the encoder have one size.
    """

    def __init__(self, encoder: Encoder, head: tuple[int, int, int], *, norm: bool = False) -> None:
        hidden, bottleneck, prototypes = head
        decoder = UNetDecoder(encoder, encoder.in_channels)  # refuses an encoder whose maps are of one size
        *_, before, last = encoder.feature_channels
        super().__init__(encoder, DINOHead(last, hidden, bottleneck, prototypes, norm=norm))
        self.decoder = decoder
        self.to_coarse, self.to_fine = nn.Linear(last, last), nn.Linear(before, last)
        self.places = Prototypes(bottleneck, prototypes)

    def describe(self, image: Tensor) -> Described:
        """Describe images (B, C, *S)."""
        pyramid = self.encoder(image)
        made = self.decoder.climb(pyramid)
        coarse, fine = (part.flatten(2).transpose(1, 2) for part in (pyramid[-1], made[0]))
        return Described(
            self.projector(coarse.mean(1)),
            self._of_places(self.to_coarse(coarse)),
            self._of_places(self.to_fine(fine)),
            self.decoder.finish(made[-1]),
        )

    def _of_places(self, tokens: Tensor) -> Tensor:
        """Logits (B, N, K) of tokens (B, N, E)."""
        vectors = cast(DINOHead, self.projector).mlp(tokens.flatten(0, 1))
        logits: Tensor = self.places(vectors)
        return logits.view(*tokens.shape[:2], -1)


class Alignment(nn.Module):
    """Conditional anatomical semantic alignment: places of the encoder ask places of a decoder: (B, N, K) to (B, N, K).

    One layer of cross-attention and a feed-forward part, each followed by a norm (Jiang et al., ICCV 2023). Deviations:
    the projections have biases; no dropout.

    Args:
        width: Number K of prototypes.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, heads)
        self.norm, self.norm_out = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """What `asking` (B, N, K) finds in `asked` (B, M, K)."""
        found = self.norm(asking + self.attention(asking, asked, asked))
        out: Tensor = self.norm_out(found + self.narrow(F.relu(self.widen(found))))
        return out
