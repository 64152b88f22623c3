"""A vision transformer for 2D and 3D images: an embedding of patches each, everything else in common."""

from collections.abc import Sequence

from torch import Tensor, nn

from medssl.models.component import Component
from medssl.models.encoder import MixedEncoder
from medssl.models.vit import Attention, ViT


class UnifiedViT(MixedEncoder):
    """Unified patch embedding of Uni4Eye (Cai et al., MICCAI 2022, https://arxiv.org/abs/2203.04614).

    It is a 2D `ViT` and a 3D `ViT` whose class token, blocks and norm are the same; the image's dimension chooses.
    Positions are fixed in either dimension, where the authors' later code leaves those of 3D at zero.

    Args:
        in_channels: Channels of the images.
        patch_size_2d: Side of a 2D patch in pixels, one number or one an axis.
        patch_size_3d: Side of a 3D patch in voxels, one number or one an axis.
        width: As in `ViT`, like all that follow.
        depth: Number of blocks.
        heads: Attention heads.
        registers: Extra learned tokens.
        attention: Rotary positions, bounded weights, or both.

    Raises:
        ConfigError: Width and heads do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        patch_size_2d: int | Sequence[int] = 16,
        patch_size_3d: int | Sequence[int] = 16,
        width: int | str = 384,
        depth: int = 6,
        heads: int = 6,
        registers: int = 0,
        attention: Attention = "plain",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        common = {"width": width, "depth": depth, "heads": heads, "registers": registers, "attention": attention}
        self._arguments = {
            dims: {"spatial_dims": dims, "in_channels": in_channels, "patch_size": patch, **common}
            for dims, patch in ((2, patch_size_2d), (3, patch_size_3d))
        }
        flat, volume = (ViT(**self._arguments[dims]) for dims in (2, 3))  # type: ignore[arg-type]
        self.width = flat.width
        self.patch_embeds = nn.ModuleDict({"2d": flat.patch_embed, "3d": volume.patch_embed})
        self.tokens, self.blocks, self.norm = flat.tokens, flat.blocks, flat.norm
        volume.tokens, volume.blocks, volume.norm = flat.tokens, flat.blocks, flat.norm
        self._plain = {2: flat, 3: volume}  # no modules of this one: each weight has one name in a checkpoint

    def plain(self, spatial_dims: int) -> ViT:
        """The ViT of one dimension."""
        return self._plain[spatial_dims]

    def description(self, spatial_dims: int) -> Component:
        """Class and arguments that build it."""
        return Component(f"{ViT.__module__}.{ViT.__qualname__}", dict(self._arguments[spatial_dims]))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Patch grids (B, E, *grid) at four depths."""
        maps: list[Tensor] = self.plain(image.ndim - 2)(image)
        return maps
