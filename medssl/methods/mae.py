"""Masked autoencoder for vision transformers.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, https://arxiv.org/abs/2111.06377.
Deviations: 2D and 3D; the decoder's output layer is applied to hidden tokens only, which changes nothing but the time;
a floor under the variance of target patches, because air in medical images is constant.
"""

from typing import final

import torch
from torch import Tensor, nn

from medssl.data.masking import MaskKind, draw_mask, step_generator
from medssl.imaging.errors import ConfigError
from medssl.losses.reconstruction import masked_token_mse, normalise_patches, token_mse
from medssl.methods.base import Batch, Method, MethodCard
from medssl.models.positions import patchify, pick, sincos_positions, unpatchify
from medssl.models.vit import TransformerBlock, ViT


@final
class MAE(Method):
    """Reconstruct hidden patches from the visible ones.

    Args:
        encoder: A `ViT`; it embeds visible patches only.
        seed: Seed of the masks.
        mask_ratio: Share of patches hidden.
        mask: Which: `random`, in boxes (`block`), or by filtered noise as in ColorMAE (Hinojosa et al., ECCV 2024,
            https://arxiv.org/abs/2407.13036), where `green` was best.
        decoder: Width, blocks and attention heads of the decoder; few wide heads are faster, as the maps between tokens
            cost most.
        variance_floor: Target patches get mean 0 and variance 1; this is added to their variance (1e-6 in the paper;
            higher spares constant patches). None: the voxels are the target as they are.
        min_patch_std: Hidden patches whose standard deviation is not above this do not count: air says nothing of the
            body. In the units of the prepared image; None, as in the paper, counts all.

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
        problems = []
        if not isinstance(encoder, ViT):
            raise ConfigError([f"mae needs a ViT encoder, got {type(encoder).__name__}; for CNNs use spark"])
        if not 0 < mask_ratio < 1:
            problems.append(f"mask_ratio must lie between 0 and 1, got {mask_ratio}")
        decoder_width, decoder_depth, decoder_heads = decoder
        if decoder_width % decoder_heads or decoder_width < 2 * encoder.spatial_dims:
            problems.append(f"decoder: width {decoder_width} must be divisible by heads {decoder_heads}")
        if min_patch_std is not None and min_patch_std < 0:
            problems.append(f"min_patch_std must be 0 or more, got {min_patch_std}")
        if problems:
            raise ConfigError(problems)
        self._vit, self.seed, self.mask_ratio, self.mask = encoder, seed, mask_ratio, mask
        self.variance_floor = variance_floor
        self.min_patch_std = min_patch_std
        self.project = nn.Linear(encoder.width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder = nn.ModuleList(TransformerBlock(decoder_width, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.predict = nn.Linear(decoder_width, encoder.patch_embed.in_features)
        nn.init.normal_(self.mask_token, std=0.02)

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
        counted = patches.std(-1) > self.min_patch_std
        return {"loss": masked_token_mse(prediction, target, counted), "counted_patches": counted.float().mean()}

    def after_step(self, step: int) -> None:
        """Nothing to do: the method has no state beside its weights."""

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, input with hidden patches at 0, and the reconstruction in the input's intensities."""
        image = batch["image"]
        grid = self._vit.grid(image.shape[2:])
        visible, hidden = self._draw(image, int(batch["step"]))
        patches = patchify(image.float(), self._vit.patch_size)
        predicted = self._predict(image, visible, hidden).float()
        if self.variance_floor is not None:
            own = pick(patches, hidden)
            predicted = predicted * (own.var(-1, keepdim=True) + self.variance_floor).sqrt() + own.mean(
                -1, keepdim=True
            )
        index = hidden[..., None].expand_as(predicted)
        masked = patches.scatter(1, index, 0.0)
        filled = patches.scatter(1, index, predicted)
        as_image = [unpatchify(p, grid, self._vit.patch_size) for p in (masked, filled)]
        return {"input": image.float(), "masked": as_image[0], "reconstructed": as_image[1]}

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Indices of visible (B, n) and hidden (B, m) patches."""
        generator = step_generator(self.seed, step)
        grid = self._vit.grid(image.shape[2:])
        mask = draw_mask(self.mask, grid, image.shape[0], self.mask_ratio, generator).flatten(1)
        order = mask.long().argsort(stable=True, dim=1).to(image.device)
        split = mask.shape[1] - int(mask[0].sum())
        return order[:, :split], order[:, split:]

    def _predict(self, image: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Hidden patches (B, m, P)."""
        encoded = self.project(self._vit.encode(image, visible))  # (B, extra + n, D)
        extra = encoded.shape[1] - visible.shape[1]
        positions = sincos_positions(self._vit.grid(image.shape[2:]), encoded.shape[-1]).to(encoded)
        seen = encoded[:, extra:] + positions[visible]
        unseen = self.mask_token.to(encoded.dtype) + positions[hidden]
        tokens = torch.cat([encoded[:, :extra], seen, unseen], dim=1)  # order is free: positions are in the tokens
        for block in self.decoder[:-1]:
            tokens = block(tokens)
        tokens = self.decoder[-1](tokens, first=extra + visible.shape[1])  # hidden tokens alone are read from here on
        out: Tensor = self.predict(self.decoder_norm(tokens))
        return out

    def _target(self, patches: Tensor) -> Tensor:
        return patches if self.variance_floor is None else normalise_patches(patches, self.variance_floor)
