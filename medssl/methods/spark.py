"""Sparse and hierarchical masked modelling for convolutional encoders.

Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
https://arxiv.org/abs/2301.03580. In 3D as Wald et al., "Revisiting MAE Pre-training for 3D Medical Image Segmentation",
CVPR 2025, https://arxiv.org/abs/2410.23132: mask cells smaller than the total stride (coarser levels are computed
densely), and with `sparse=False` their plain masked U-Net.
Deviations: instance norm in place of batch norm; with `decoder="unet"`, the default, the decoder is that of
fine-tuning, so that its weights can be transferred as well, and levels are filled without a norm and a projection
before it; `decoder="light"` is the paper's.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from medssl.data.masking import draw_mask, step_generator
from medssl.imaging.errors import ConfigError
from medssl.losses.reconstruction import masked_token_mse, normalise_patches
from medssl.methods.base import Batch, Method, MethodCard, expect, not_negative, ratio, require
from medssl.models.decoders import LightDecoder, UNetDecoder, without_head
from medssl.models.masked import Densify, HiddenBlocks
from medssl.models.positions import patchify, unpatchify
from medssl.models.unet import ResidualUNetEncoder

_FLOOR = 1e-6  # under the variance of a target block


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
        variance_floor: Added to the variance of a target block, with `normalise_target` alone; None = 1e-6.
        decoder: `unet`: the decoder of segmentation with skips, whose weights fine-tuning can take over (3D recipe);
            `light`: SparK's own, thrown away.

    Raises:
        ConfigError: The encoder is no convolutional pyramid, or the numbers do not fit.
    """

    card = MethodCard("Tian et al., ICLR 2023", "https://arxiv.org/abs/2301.03580", "masked", ("ResidualUNetEncoder",))

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.6,
        block: int | Sequence[int] = 8,
        sparse: bool = True,
        normalise_target: bool = False,
        variance_floor: float | None = None,
        decoder: Literal["light", "unet"] = "unet",
    ) -> None:
        super().__init__()
        unet = expect(encoder, ResidualUNetEncoder, "spark", "for a ViT use mae")
        problems = ratio(mask_ratio=mask_ratio) + not_negative(variance_floor=variance_floor or 0)
        if variance_floor is not None and not normalise_target:
            problems.append(f"variance_floor {variance_floor:g} does nothing without normalise_target: leave it out")
        if decoder not in ("light", "unet"):
            problems.append(f"decoder must be light or unet, got {decoder!r}")
        require(problems)
        self._encoder, self.seed, self.mask_ratio, self.sparse = unet, seed, mask_ratio, sparse
        self.block = tuple([block] * unet.spatial_dims if isinstance(block, int) else block)
        self.normalise_target = normalise_target
        self.variance_floor = _FLOOR if variance_floor is None else variance_floor
        light = decoder == "light"
        kind = LightDecoder if light else UNetDecoder
        self.decoder: nn.Module = kind(unet, unet.in_channels, norm=unet.norm)
        self.first = 1 if light else 0  # finest level the decoder reads
        strides, widths = unet.strides[self.first :], unet.feature_channels[self.first :]
        holes = [all(b % s == 0 for b, s in zip(self.block, stride, strict=True)) for stride in strides]
        self.densify = Densify(widths, holes, unet.norm if light else None) if sparse else None

    @property
    def encoder(self) -> nn.Module:
        """The convolutional encoder."""
        return self._encoder

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """Weights of the `unet` decoder without its last layer, which is made new for the task; else nothing."""
        return without_head(self.decoder) if isinstance(self.decoder, UNetDecoder) else {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean squared error over hidden blocks."""
        image = batch["image"]
        hidden = self._draw(image, int(batch["step"]))
        prediction = patchify(self._predict(image, hidden), self.block)
        return {"loss": masked_token_mse(prediction, self._target(image), hidden.flatten(1))}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, input with hidden blocks at 0, and the reconstruction in the input's intensities."""
        image = batch["image"]
        cells = self._draw(image, int(batch["step"]))
        predicted = patchify(self._predict(image, cells).float(), self.block)
        own = patchify(image.float(), self.block)
        if self.normalise_target:
            deviation = (own.var(-1, keepdim=True) + self.variance_floor).sqrt()
            predicted = predicted * deviation + own.mean(-1, keepdim=True)
        hidden, grid = cells.flatten(1)[..., None], cells.shape[1:]
        masked, filled = own.masked_fill(hidden, 0.0), torch.where(hidden, predicted, own)
        panels = [unpatchify(p, grid, self.block) for p in (masked, filled)]
        return {"input": image.float(), "masked": panels[0], "reconstructed": panels[1]}

    def _draw(self, image: Tensor, step: int) -> Tensor:
        """Hidden blocks (B, *grid) bool."""
        if any(n % b for n, b in zip(image.shape[2:], self.block, strict=True)):
            raise ConfigError([f"crop of {tuple(image.shape[2:])} does not divide into blocks of {self.block}"])
        grid = [n // b for n, b in zip(image.shape[2:], self.block, strict=True)]
        mask = draw_mask("random", grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step))
        return mask.to(image.device)

    def _predict(self, image: Tensor, cells: Tensor) -> Tensor:
        blocks = HiddenBlocks(cells, self.block)
        if self.densify is None:
            voxels = blocks.visible((1,) * len(self.block))
            return self._decode(image, self._encoder(image if voxels is None else image * voxels))
        masks = [blocks.visible(stride) for stride in self._encoder.strides[self.first :]]
        return self._decode(image, self.densify(self._encoder(image, blocks)[self.first :], masks))

    def _decode(self, image: Tensor, pyramid: list[Tensor]) -> Tensor:
        prediction: Tensor = self.decoder(image, pyramid)
        return prediction

    def _target(self, image: Tensor) -> Tensor:
        patches = patchify(image.float(), self.block)
        return normalise_patches(patches, self.variance_floor) if self.normalise_target else patches
