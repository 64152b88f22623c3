"""Masked autoencoder for vision transformers.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, https://arxiv.org/abs/2111.06377.
Deviations: 2D and 3D; the decoder's output layer is applied to hidden tokens only, which changes nothing but the time;
a floor under the variance of target patches, because air in medical images is constant.
"""

from typing import final

import torch
from torch import Tensor, nn

from medssl.data.masking import MaskKind, draw_mask, step_generator, visible_and_hidden, wrong_mask
from medssl.losses.reconstruction import denormalise_patches, masked_token_mse, normalise_patches, token_mse
from medssl.methods.base import Batch, Method, MethodCard, expect, not_negative, ratio, require
from medssl.models.positions import patchify, pick, with_hidden
from medssl.models.token_decoder import TokenDecoder
from medssl.models.vit import ViT


@final
class MAE(Method):
    """Reconstruct hidden patches from the visible ones.

    Args:
        encoder: A `ViT`; it embeds visible patches only.
        seed: Seed of the masks.
        mask_ratio: Share of patches hidden.
        mask: Which: `random`, in boxes (`block`), or by filtered noise as in ColorMAE (Hinojosa et al., ECCV 2024,
            https://arxiv.org/abs/2407.13036), where `green` was best; `[green, 0.6, 1.8]` gives the widths of its
            filters in patches, `[red, 1.5]` that of the one filter that red and blue have.
        decoder: Width, blocks and attention heads of the decoder.
        variance_floor: Target patches get mean 0 and variance 1; this is added to their variance (1e-6 in the paper;
            higher spares constant patches). None: the voxels are the target as they are.
        min_patch_std: Hidden patches whose standard deviation is not above this in any channel do not count: air says
            nothing of the body. In the units of the prepared image; None, as in the paper, counts all.

    Raises:
        ConfigError: The encoder is no ViT, or the numbers do not fit.
    """

    card = MethodCard("He et al., CVPR 2022", "https://arxiv.org/abs/2111.06377", "masked", ("ViT",))

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.75,
        mask: MaskKind = "random",
        decoder: tuple[int, int, int] = (192, 2, 3),
        variance_floor: float | None = 1e-3,
        min_patch_std: float | None = None,
    ) -> None:
        super().__init__()
        vit = expect(encoder, ViT, "mae", "for CNNs use spark")
        problems = not_negative(min_patch_std=min_patch_std or 0, variance_floor=variance_floor or 0)
        require(ratio(mask_ratio=mask_ratio) + wrong_mask(mask) + problems)
        self._vit, self.seed, self.mask_ratio, self.mask = vit, seed, mask_ratio, mask
        self.variance_floor = variance_floor
        self.min_patch_std, self.over_batch = min_patch_std, min_patch_std is not None
        self.decoder = TokenDecoder(vit.width, decoder, vit.patch_embed.in_features)

    @property
    def encoder(self) -> nn.Module:
        """The ViT."""
        return self._vit

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean squared error of the hidden patches, or of those that are not flat (`min_patch_std`)."""
        image = batch["image"]
        visible, hidden = self._draw(image, int(batch["step"]))
        patches = pick(patchify(image.float(), self._vit.patch_size), hidden)
        target, prediction = self._target(patches), self._predict(image, visible, hidden)
        if self.min_patch_std is None:
            return {"loss": token_mse(prediction, target)}
        of_channels = patches.reshape(*patches.shape[:2], -1, image.shape[1])  # the channel comes last in a token
        counted = of_channels.std(-2).amax(-1) > self.min_patch_std
        return {"loss": masked_token_mse(prediction, target, counted), "counted_patches": counted.float().mean()}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, input with hidden patches at 0, and the reconstruction in the input's intensities."""
        image = batch["image"]
        grid = self._vit.grid(image.shape[2:])
        visible, hidden = self._draw(image, int(batch["step"]))
        predicted = self._predict(image, visible, hidden).float()
        if self.variance_floor is not None:
            own = pick(patchify(image.float(), self._vit.patch_size), hidden)
            predicted = denormalise_patches(predicted, own, self.variance_floor)
        return with_hidden(image, hidden, predicted, grid, self._vit.patch_size)

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Indices of visible (B, n) and hidden (B, m) patches."""
        grid = self._vit.grid(image.shape[2:])
        mask = draw_mask(self.mask, grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step))
        visible, hidden = (part.to(image.device) for part in visible_and_hidden(mask))
        return visible, hidden

    def _predict(self, image: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Hidden patches (B, m, P)."""
        tokens = self._vit.encode(image, visible)
        out: Tensor = self.decoder(tokens, self._vit.grid(image.shape[2:]), visible, hidden)
        return out

    def _target(self, patches: Tensor) -> Tensor:
        return patches if self.variance_floor is None else normalise_patches(patches, self.variance_floor)
