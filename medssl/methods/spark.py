"""Sparse and hierarchical masked modelling for convolutional encoders.

Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
https://arxiv.org/abs/2301.03580. In 3D as Wald et al., "Revisiting MAE Pre-training for 3D Medical Image Segmentation",
CVPR 2025, https://arxiv.org/abs/2410.23132: mask cells smaller than the total stride (coarser levels are computed
densely), and with `sparse=False` their plain masked U-Net.
Deviations: instance norm in place of batch norm; the decoder is the U-Net decoder of fine-tuning, so that its weights can
be transferred as well; hidden positions of each level are filled with a learned vector without a further projection.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from medssl.data.masking import enlarge, random_mask, step_generator
from medssl.imaging.errors import ConfigError
from medssl.losses.reconstruction import masked_token_mse, normalise_patches
from medssl.methods.base import Batch, Method
from medssl.models.decoders import UNetDecoder
from medssl.models.positions import patchify, unpatchify
from medssl.models.unet import ResidualUNetEncoder


@final
class SparK(Method):
    """Reconstruct hidden blocks; the encoder sees visible voxels only.

    Args:
        encoder: A `ResidualUNetEncoder`.
        seed: Seed of the masks.
        mask_ratio: Share of blocks hidden (0.6 in SparK, 0.75 in Revisiting MAE).
        block: Side of a block in voxels, one number or one an axis.
        sparse: Masked statistics in the encoder; False feeds zeros for hidden voxels to the dense network.
        normalise_target: Each target block gets mean 0 and variance 1 (SparK); False targets the voxels (3D recipe).
        variance_floor: Added to the variance of a target block.
        convolutions: Convolutions of each decoder stage; as in fine-tuning, when its weights shall be transferred.

    Raises:
        ConfigError: The encoder is no convolutional pyramid, or the numbers do not fit.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.6,
        block: int | Sequence[int] = 8,
        sparse: bool = True,
        normalise_target: bool = False,
        variance_floor: float = 1e-6,
        convolutions: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, ResidualUNetEncoder):
            raise ConfigError([f"spark needs a ResidualUNetEncoder, got {type(encoder).__name__}; for a ViT use mae"])
        if not 0 < mask_ratio < 1:
            raise ConfigError([f"mask_ratio must lie between 0 and 1, got {mask_ratio}"])
        self._encoder, self.seed, self.mask_ratio, self.sparse = encoder, seed, mask_ratio, sparse
        self.block = tuple([block] * encoder.spatial_dims if isinstance(block, int) else block)
        self.normalise_target, self.variance_floor = normalise_target, variance_floor
        self.decoder = UNetDecoder(encoder, encoder.in_channels, convolutions)
        self.fills = nn.ParameterList(
            nn.Parameter(nn.init.trunc_normal_(torch.zeros(width), std=0.02, a=-0.02, b=0.02))
            for width in (encoder.feature_channels if sparse else ())
        )

    @property
    def encoder(self) -> nn.Module:
        """The convolutional encoder."""
        return self._encoder

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """Weights of the decoder without its last layer, which is made new for the task."""
        return {name: tensor for name, tensor in self.decoder.state_dict().items() if not name.startswith("head.")}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean squared error over hidden blocks."""
        image = batch["image"]
        hidden = self._draw(image, int(batch["step"]))
        prediction = patchify(self._predict(image, hidden), self.block)
        return {"loss": masked_token_mse(prediction, self._target(image), hidden.flatten(1))}

    def after_step(self, step: int) -> None:
        """Nothing to do: the method has no state beside its weights."""

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, input with hidden blocks at 0, and the reconstruction in the input's intensities."""
        image = batch["image"]
        cells = self._draw(image, int(batch["step"]))
        hidden = enlarge(cells, self.block)
        predicted = patchify(self._predict(image, cells).float(), self.block)
        if self.normalise_target:
            own = patchify(image.float(), self.block)
            predicted = predicted * (own.var(-1, keepdim=True) + self.variance_floor).sqrt() + own.mean(
                -1, keepdim=True
            )
        grid = cells.shape[1:]
        filled = torch.where(hidden, unpatchify(predicted, grid, self.block), image.float())
        return {"input": image.float(), "masked": image.float() * ~hidden, "reconstructed": filled}

    def _draw(self, image: Tensor, step: int) -> Tensor:
        """Hidden blocks (B, *grid) bool."""
        if any(n % b for n, b in zip(image.shape[2:], self.block, strict=True)):
            raise ConfigError([f"crop of {tuple(image.shape[2:])} does not divide into blocks of {self.block}"])
        grid = [n // b for n, b in zip(image.shape[2:], self.block, strict=True)]
        return random_mask(grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step)).to(image.device)

    def _predict(self, image: Tensor, cells: Tensor) -> Tensor:
        visible = (~enlarge(cells, self.block)).to(image.dtype)
        if not self.sparse:
            return self.decoder(image, self._encoder(image * visible))
        return self.decoder(image, self._densified(self._encoder(image, visible), visible))

    def _densified(self, maps: list[Tensor], visible: Tensor) -> list[Tensor]:
        """Learned vectors in place of the zeros at hidden positions, on the levels that have any."""
        filled = []
        for level, out in enumerate(maps):
            step = self._encoder.strides[level]
            if all(b % s == 0 for b, s in zip(self.block, step, strict=True)):
                every = (slice(None), slice(None), *(slice(None, None, s) for s in step))
                seen = visible[every]  # cells are multiples of the stride: one voxel speaks for all it covers
                fill = self.fills[level].view(1, -1, *([1] * len(step))).to(out.dtype)
                filled.append(out * seen + fill * (1 - seen))
            else:
                filled.append(out)
        return filled

    def _target(self, image: Tensor) -> Tensor:
        patches = patchify(image.float(), self.block)
        return normalise_patches(patches, self.variance_floor) if self.normalise_target else patches
