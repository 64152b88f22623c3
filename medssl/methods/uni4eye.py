"""Uni4Eye: masked modelling of 2D and 3D images with one transformer, of the image and of its gradient.

Cai et al., "Uni4Eye: Unified 2D and 3D Self-supervised Pre-training via Masked Image Modeling Transformer for
Ophthalmic Image Classification", MICCAI 2022, https://arxiv.org/abs/2203.04614. Its code was not to be had: details are
those of the successor's. Deviations: dimensions take turns by the step, not by the epoch; positions are fixed in 3D
too; only hidden patches are computed in the decoders' last block, which changes nothing.
"""

from typing import final

import torch
from torch import Tensor, nn

from medssl.data.masking import MaskKind, draw_mask, step_generator, visible_and_hidden, wrong_mask
from medssl.losses.gradients import sobel_magnitude
from medssl.losses.reconstruction import denormalise_patches, normalise_patches, token_mse
from medssl.methods.base import Batch, Method, MethodCard, expect, not_negative, ratio, require
from medssl.models.positions import patchify, pick, with_hidden
from medssl.models.token_decoder import TokenDecoder
from medssl.models.unified_vit import UnifiedViT

_TARGETS = ("image", "gradient")


@final
class Uni4Eye(Method):
    """Reconstruct hidden patches and how fast they change, in 2D and 3D by turns.

    Args:
        encoder: A `UnifiedViT`; it embeds visible patches only.
        seed: Seed of the masks.
        mask_ratio: Share of patches hidden (0.75 is the default of the authors' later code).
        mask: Which, as in MAE.
        decoder: Width, blocks and attention heads of each of the two decoders; both serve 2D and 3D and have an output
            layer for each.
        weights: Of the error of the image and of that of the gradient.
        variance_floor: Where given, target patches get mean 0 and variance 1, and this is added to their variance;
            None, as in the authors' code: the voxels as they are.

    Raises:
        ConfigError: The encoder is no `UnifiedViT`, or the numbers do not fit.
    """

    card = MethodCard("Cai et al., MICCAI 2022", "https://arxiv.org/abs/2203.04614", "masked", ("UnifiedViT",))
    mixed = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.75,
        mask: MaskKind = "random",
        decoder: tuple[int, int, int] = (192, 2, 3),
        weights: tuple[float, float] = (1.0, 1.0),
        variance_floor: float | None = None,
    ) -> None:
        super().__init__()
        self._encoder = expect(encoder, UnifiedViT, "uni4eye", "it has an embedding of patches for 2D and one for 3D")
        problems = not_negative(image=weights[0], gradient=weights[1], variance_floor=variance_floor or 0)
        if sum(weights) <= 0:
            problems.append(f"weights must not both be 0, got {weights}")
        require(problems + ratio(mask_ratio=mask_ratio) + wrong_mask(mask))
        self.seed, self.mask_ratio, self.mask = seed, mask_ratio, mask
        self.weights, self.variance_floor = weights, variance_floor
        self.decoders = nn.ModuleDict({name: TokenDecoder(self._encoder.width, decoder, 0) for name in _TARGETS})
        patches = {dims: self._encoder.plain(dims).patch_embed.in_features for dims in (2, 3)}
        self.heads = nn.ModuleDict(
            {f"{name}_{dims}d": nn.Linear(decoder[0], patches[dims]) for name in _TARGETS for dims in (2, 3)}
        )

    @property
    def encoder(self) -> UnifiedViT:
        """The transformer with both embeddings."""
        return self._encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: weighted errors of the hidden patches of the image and of its gradient, and each by dimension."""
        image = batch["image"]
        dims = image.ndim - 2
        visible, hidden = self._draw(image, int(batch["step"]))
        tokens = self._encoder.plain(dims).encode(image, visible)
        targets = {"image": image, "gradient": sobel_magnitude(image)}  # of the image as it was varied
        errors = {
            name: token_mse(self._predict(name, tokens, image, visible, hidden), self._target(target, hidden))
            for name, target in targets.items()
        }
        loss = self.weights[0] * errors["image"] + self.weights[1] * errors["gradient"]
        return {"loss": loss, **{f"{name}_{dims}d": error.detach() for name, error in errors.items()}}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor] | None:
        """Input, input with hidden patches at 0, and the reconstruction in the input's intensities."""
        image = batch["image"]
        vit = self._encoder.plain(image.ndim - 2)
        visible, hidden = self._draw(image, int(batch["step"]))
        predicted = self._predict("image", vit.encode(image, visible), image, visible, hidden).float()
        if self.variance_floor is not None:
            own = pick(patchify(image.float(), vit.patch_size), hidden)
            predicted = denormalise_patches(predicted, own, self.variance_floor)
        return with_hidden(image, hidden, predicted, vit.grid(image.shape[2:]), vit.patch_size)

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Numbers of visible (B, n) and hidden (B, m) patches."""
        grid = self._encoder.plain(image.ndim - 2).grid(image.shape[2:])
        mask = draw_mask(self.mask, grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step))
        visible, hidden = (part.to(image.device) for part in visible_and_hidden(mask))
        return visible, hidden

    def _predict(self, name: str, tokens: Tensor, image: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """What a decoder makes of the hidden patches: (B, m, P)."""
        dims = image.ndim - 2
        grid = self._encoder.plain(dims).grid(image.shape[2:])
        out: Tensor = self.heads[f"{name}_{dims}d"](self.decoders[name](tokens, grid, visible, hidden))
        return out

    def _target(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Hidden patches (B, m, P) of the image or of its gradient."""
        patches = pick(patchify(image.float(), self._encoder.plain(image.ndim - 2).patch_size), hidden)
        return patches if self.variance_floor is None else normalise_patches(patches, self.variance_floor)
