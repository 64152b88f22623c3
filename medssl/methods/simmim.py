"""SimMIM: paint hidden blocks with a single linear layer, from an encoder that sees a token in their place.

Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, https://arxiv.org/abs/2111.09886, and as
Swin V2 was trained with it, Liu et al., CVPR 2022, https://arxiv.org/abs/2111.09883. With `foreground` and
`decoder="unet"` the 3D recipe of NeRF-MAE, Irshad et al., ECCV 2024, https://arxiv.org/abs/2404.01300.
Deviations: 2D and 3D; NeRF-MAE hides each window by chance, here each sample hides the same number of blocks; its
density is the body here, voxels above a threshold.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from medssl.data.masking import draw_mask, step_generator
from medssl.imaging.errors import ConfigError
from medssl.losses.reconstruction import local_statistics, masked_l1, masked_token_mse
from medssl.methods.base import Batch, Method, MethodCard, expect, not_negative, ratio, require
from medssl.models.bottleneck_decoders import LinearDecoder
from medssl.models.decoders import decoder_for, without_head
from medssl.models.encoder import PatchEncoder
from medssl.models.masked import enlarged


@final
class SimMIM(Method):
    """Masked image modelling for transformers that keep all tokens.

    Args:
        encoder: A `SwinV2` or a `ViT`.
        seed: Seed of the masks.
        mask_ratio: Share of blocks hidden.
        block: Side of a block in voxels, one number or one an axis; a multiple of the patch, 32 in the paper.
        local_norm: Side of the box, odd, over which the target gets mean 0 and variance 1 about each voxel, and what is
            added to its variance: (47, 1e-6) for Swin V2. None: the voxels are the target as they are.
        foreground: Voxels with a channel above this are body, in the units of the prepared image. Then intensities
            count in the body alone, hidden or not, and the body's outline is predicted in the hidden blocks (NeRF-MAE).
            None: all hidden voxels count.
        decoder: `linear`: one layer on the coarsest map, thrown away; `unet`: the decoder of segmentation with skips,
            whose weights fine-tuning can take over (NeRF-MAE).

    Raises:
        ConfigError: The encoder has no patches, or the numbers do not fit.
    """

    card = MethodCard("Xie et al., CVPR 2022", "https://arxiv.org/abs/2111.09886", "masked", ("SwinV2", "ViT"))

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.6,
        block: int | Sequence[int] = 32,
        local_norm: tuple[int, float] | None = None,
        foreground: float | None = None,
        decoder: Literal["linear", "unet"] = "linear",
    ) -> None:
        super().__init__()
        instead = "such as SwinV2 or ViT; for CNNs use spark"
        patches = expect(encoder, PatchEncoder, "simmim", instead)  # type: ignore[type-abstract]
        self.block = tuple([block] * patches.spatial_dims if isinstance(block, int) else block)
        problems = ratio(mask_ratio=mask_ratio)
        if len(self.block) != patches.spatial_dims or any(
            b < 1 or b % p for b, p in zip(self.block, patches.patch_size, strict=False)
        ):
            problems.append(f"block must be a multiple of the patch {patches.patch_size}, got {self.block}")
        if decoder not in ("linear", "unet"):
            problems.append(f"decoder must be linear or unet, got {decoder!r}")
        if local_norm is not None:
            problems += not_negative(variance_floor=local_norm[1])
            if local_norm[0] < 3 or local_norm[0] % 2 == 0:
                problems.append(f"the box of local_norm must be odd and 3 or more, got {local_norm[0]}")
        require(problems)
        self._encoder, self.seed, self.mask_ratio = patches, seed, mask_ratio
        self.local_norm, self.foreground, self.linear = local_norm, foreground, decoder == "linear"
        self.over_batch = foreground is not None
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, patches.width), std=0.02))
        outputs = patches.in_channels + (foreground is not None)
        self.decoder = LinearDecoder(patches, outputs) if self.linear else decoder_for(patches, outputs)

    @property
    def encoder(self) -> nn.Module:
        """The transformer."""
        return self._encoder

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """Weights of the `unet` decoder without its last layer, which is made new for the task; else nothing."""
        return {} if self.linear else without_head(self.decoder)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean absolute error of hidden voxels; with `foreground`, the sum of its two squared errors."""
        image = batch["image"]
        blocks = self._draw(image, int(batch["step"]))
        prediction, hidden = self._predict(image, blocks).float(), enlarged(blocks, self.block)[:, None]
        mean, deviation = self._statistics(image)
        target = (image.float() - mean) / deviation
        if self.foreground is None:
            return {"loss": masked_l1(prediction, target, hidden.expand_as(target))}
        body = (image.float() > self.foreground).any(1, keepdim=True)
        intensity = masked_token_mse(_tokens(prediction[:, :-1]), _tokens(target), body.flatten(1))
        outline = masked_token_mse(_tokens(prediction[:, -1:].sigmoid()), _tokens(body.float()), hidden.flatten(1))
        return {"loss": intensity + outline, "intensity": intensity.detach(), "outline": outline.detach()}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, input with hidden blocks at 0, and the reconstruction in the input's intensities."""
        image = batch["image"].float()
        blocks = self._draw(image, int(batch["step"]))
        hidden = enlarged(blocks, self.block)[:, None]
        mean, deviation = self._statistics(image)
        predicted = self._predict(image, blocks).float()[:, : image.shape[1]] * deviation + mean
        filled = torch.where(hidden, predicted, image)
        return {"input": image, "masked": image.masked_fill(hidden, 0.0), "reconstructed": filled}

    def _draw(self, image: Tensor, step: int) -> Tensor:
        """Hidden blocks (B, *grid) bool."""
        shape = tuple(image.shape[2:])
        if any(n % b for n, b in zip(shape, self.block, strict=True)):
            raise ConfigError([f"crop of {shape} does not divide into blocks of {self.block}"])
        grid = [n // b for n, b in zip(shape, self.block, strict=True)]
        mask = draw_mask("random", grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step))
        return mask.to(image.device)

    def _predict(self, image: Tensor, blocks: Tensor) -> Tensor:
        """(B, outputs, *S); the decoder may look at the image, so hidden voxels are 0 there too."""
        hidden = enlarged(blocks, [b // p for b, p in zip(self.block, self._encoder.patch_size, strict=True)])
        shown = image.masked_fill(enlarged(blocks, self.block)[:, None], 0.0)
        prediction: Tensor = self.decoder(shown, self._encoder(shown, (hidden.flatten(1), self.mask_token)))
        return prediction

    def _statistics(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What is taken from the voxels, and what they are divided by, to make the target."""
        if self.local_norm is None:
            return torch.zeros((), device=image.device), torch.ones((), device=image.device)
        return local_statistics(image, *self.local_norm)


def _tokens(image: Tensor) -> Tensor:
    """(B, C, *S) to (B, V, C)."""
    return image.flatten(2).transpose(1, 2)
