"""A narrow transformer that predicts something for hidden patches from the tokens of visible ones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.attention import TransformerBlock
from medssl.models.positions import sincos_positions


def decoder_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Width, blocks and heads, where a transformer with sine-cosine positions can have them.

    Raises:
        ConfigError: It cannot.
    """
    width, depth, heads = shape
    problems = []
    if min(width // 6, depth, heads) < 1:
        problems.append(f"decoder or predictor: needs a width of 6 or more, 1 block and 1 head or more, got {shape}")
    if heads > 0 and width % heads:
        problems.append(f"decoder or predictor: width {width} must be divisible by heads {heads}, got {shape}")
    if problems:
        raise ConfigError(problems)
    return width, depth, heads


class TokenDecoder(nn.Module):
    """Decoder of MAE (He et al., CVPR 2022, arXiv 2111.06377), predictor of I-JEPA (arXiv 2301.08243).

    Only hidden tokens are computed in the last block and in the output layer: nobody reads the others.

    Args:
        inputs: Width E of the encoder's tokens.
        shape: Width D, blocks and attention heads; few wide heads are faster, as the maps between tokens cost most.
        outputs: Numbers predicted for each hidden patch; 0 = its own width D, for who has
            output layers of their own.

    Raises:
        ConfigError: Width and heads do not fit.
    """

    def __init__(self, inputs: int, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        width, depth, heads = decoder_shape(shape)
        self.project = nn.Linear(inputs, width)
        self.out = nn.Linear(width, outputs) if outputs else nn.Identity()
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, grid: Sequence[int], visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions (B, m, outputs) for the patches `hidden`.

        Args:
            tokens: (B, extra + n, E); the extra ones have no place and come first.
            grid: Patches an axis.
            visible: (B, n) numbers of the patches that the tokens are of.
            hidden: (B, m) numbers of the patches to predict.
        """
        seen = self.project(tokens)
        extra = seen.shape[1] - visible.shape[1]
        positions = sincos_positions(list(grid), seen.shape[-1]).to(seen)
        unseen = self.mask_token.to(seen.dtype) + positions[hidden]
        seen = torch.cat([seen[:, :extra], seen[:, extra:] + positions[visible], unseen], dim=1)
        for block in self.blocks[:-1]:
            seen = block(seen)
        out: Tensor = self.out(self.norm(self.blocks[-1](seen, first=extra + visible.shape[1])))
        return out
