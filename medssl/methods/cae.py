"""CAE: an encoder of visible patches, a regressor that predicts the latents of hidden ones, and a decoder of those.

Chen et al., "Context Autoencoder for Self-Supervised Representation Learning", 2022, https://arxiv.org/abs/2202.03026
(IJCV 2024). Deviations: 2D and 3D; the target is the normalised voxels of a patch, not the code of a tokenizer that was
trained on photographs; boxes have 4 patches and more, not 16; no drop path.
"""

from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.data.masking import MaskKind, draw_mask, step_generator, visible_and_hidden, wrong_mask
from medssl.losses.reconstruction import denormalise_patches, normalise_patches, token_mse
from medssl.methods.base import Batch, Method, MethodCard, expect, not_negative, positive, ratio, require
from medssl.models.attention import TransformerBlock
from medssl.models.latent_regressor import LatentRegressor
from medssl.models.positions import patchify, pick, sincos_positions, with_hidden
from medssl.models.vit import ViT


@final
class CAE(Method):
    """Masked modelling whose encoder does none of the reconstruction.

    Args:
        encoder: A `ViT`; it embeds visible patches only.
        seed: Seed of the masks.
        mask_ratio: Share of patches hidden.
        mask: Which, as in `mae`; the paper's are boxes.
        depths: Blocks of the regressor and of the decoder, with the encoder's width and heads.
        alignment: Weight of the distance between predicted latents and those that the encoder makes of the hidden
            patches (2 in the paper, beside a cross-entropy over 8192 codes).
        variance_floor: Added to the variance of target patches, because air is constant.

    Raises:
        ConfigError: The encoder is no ViT, or numbers out of range.
    """

    card = MethodCard("Chen et al., IJCV 2024", "https://arxiv.org/abs/2202.03026", "masked", ("ViT",))

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.5,
        mask: MaskKind = "block",
        depths: tuple[int, int] = (4, 4),
        alignment: float = 0.1,
        variance_floor: float = 1e-3,
    ) -> None:
        super().__init__()
        vit = expect(encoder, ViT, "cae", "for CNNs use spark")
        problems = ratio(mask_ratio=mask_ratio) + not_negative(alignment=alignment, variance_floor=variance_floor)
        require(problems + wrong_mask(mask) + positive(regressor_blocks=depths[0], decoder_blocks=depths[1]))
        self._vit, self.seed, self.mask_ratio, self.mask = vit, seed, mask_ratio, mask
        self.alignment, self.variance_floor = alignment, variance_floor
        self.regressor = LatentRegressor(vit.width, vit.heads, depths[0])
        self.decoder = nn.ModuleList(TransformerBlock(vit.width, vit.heads) for _ in range(depths[1]))
        self.norm = nn.LayerNorm(vit.width, eps=1e-6)
        self.out = nn.Linear(vit.width, vit.patch_embed.in_features)

    @property
    def encoder(self) -> nn.Module:
        """The ViT."""
        return self._vit

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and its parts `reconstruction` and `alignment` before they are weighted."""
        image = batch["image"]
        visible, hidden = self._draw(image, int(batch["step"]))
        latents = self._latents(image, visible, hidden)
        target = normalise_patches(pick(patchify(image.float(), self._vit.patch_size), hidden), self.variance_floor)
        reconstruction = token_mse(self._decode(image, latents, hidden), target)
        with torch.no_grad():  # the same encoder, which sees the hidden patches alone
            wanted = self._tokens(image, hidden)
        alignment = F.mse_loss(latents.float(), wanted.float())
        return {
            "loss": reconstruction + self.alignment * alignment,
            "reconstruction": reconstruction.detach(),
            "alignment": alignment.detach(),
        }

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, input with hidden patches at 0, and the reconstruction in the input's intensities."""
        image, size = batch["image"], self._vit.patch_size
        visible, hidden = self._draw(image, int(batch["step"]))
        own = pick(patchify(image.float(), size), hidden)
        predicted = self._decode(image, self._latents(image, visible, hidden), hidden).float()
        predicted = denormalise_patches(predicted, own, self.variance_floor)
        return with_hidden(image, hidden, predicted, self._vit.grid(image.shape[2:]), size)

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Numbers of visible (B, n) and hidden (B, m) patches."""
        grid = self._vit.grid(image.shape[2:])
        mask = draw_mask(self.mask, grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step))
        visible, hidden = (part.to(image.device) for part in visible_and_hidden(mask))
        return visible, hidden

    def _tokens(self, image: Tensor, keep: Tensor) -> Tensor:
        """The encoder's patch tokens (B, n, E) of the patches it is shown."""
        return self._vit.encode(image, keep)[:, self._vit.tokens.shape[1] :]

    def _latents(self, image: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predicted latents (B, m, E) of the hidden patches."""
        positions = sincos_positions(self._vit.grid(image.shape[2:]), self._vit.width).to(image.device)
        out: Tensor = self.regressor(self._tokens(image, visible), positions[visible], positions[hidden])
        return out

    def _decode(self, image: Tensor, latents: Tensor, hidden: Tensor) -> Tensor:
        """Voxels (B, m, P) of the hidden patches, from their latents and nothing else."""
        positions = sincos_positions(self._vit.grid(image.shape[2:]), self._vit.width).to(latents)
        tokens = latents + positions[hidden]
        for block in self.decoder:
            tokens = block(tokens)
        out: Tensor = self.out(self.norm(tokens))
        return out
