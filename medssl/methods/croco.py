"""CroCo: complete a heavily masked image with the help of a second image of the same scene.

Weinzaepfel et al., "CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion", NeurIPS 2022,
https://arxiv.org/abs/2210.10716; v2: ICCV 2023, https://arxiv.org/abs/2211.10408. Deviations: 2D and 3D; the scene is a
part of a body: two boxes of one source crop, which overlap, or of two scans of a patient, or two channels of one crop;
the encoder keeps its class token, which the decoder does not see.
"""

from typing import Literal, final

import torch
from torch import Tensor, nn

from medssl.data.masking import draw_mask, step_generator, visible_and_hidden
from medssl.imaging.errors import ConfigError
from medssl.losses.reconstruction import normalise_patches, token_mse
from medssl.methods.base import Batch, Method, MethodCard, expect, not_negative, ratio, require
from medssl.models.pair_decoder import PairDecoder
from medssl.models.positions import patchify, pick
from medssl.models.vit import ViT


@final
class CroCo(Method):
    """Cross-view completion.

    Args:
        encoder: A `ViT`; it sees the visible patches of the first image and all of the second.
        seed: Seed of the masks.
        mask_ratio: Share of the first image's patches hidden (0.9 in the paper).
        pair: `views`: two overlapping boxes of a source crop, in 3D neighbouring slabs among them. `channels`: of one
            view, a channel is the first image and the others are the second: co-registered sequences.
        decoder: Width, blocks and attention heads of the decoder.
        variance_floor: Added to the variance of target patches, because air is constant (1e-6 in the paper).

    Raises:
        ConfigError: The encoder is no ViT, there is one channel only for `channels`, or numbers out of range.
    """

    card = MethodCard("Weinzaepfel et al., NeurIPS 2022", "https://arxiv.org/abs/2210.10716", "masked", ("ViT",))
    views = 2

    def __init__(
        self,
        encoder: nn.Module,
        *,
        seed: int = 0,
        mask_ratio: float = 0.9,
        pair: Literal["views", "channels"] = "views",
        decoder: tuple[int, int, int] = (192, 4, 6),
        variance_floor: float = 1e-3,
    ) -> None:
        super().__init__()
        vit = expect(encoder, ViT, "croco", "for CNNs use spark")
        require(ratio(mask_ratio=mask_ratio) + not_negative(variance_floor=variance_floor))
        if pair == "channels" and vit.in_channels < 2:
            raise ConfigError(["pair channels needs images of two channels or more, these have one: use views"])
        self._vit, self.seed, self.mask_ratio, self.pair = vit, seed, mask_ratio, pair
        self.variance_floor = variance_floor
        self.views = 2 if pair == "views" else 1
        self.decoder = PairDecoder(vit.width, decoder, vit.patch_embed.in_features)

    @property
    def encoder(self) -> nn.Module:
        """The ViT."""
        return self._vit

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean squared error of the first image's hidden patches, normalised."""
        step = int(batch["step"])
        first, second, own = self._images(batch, step)
        visible, hidden = self._draw(first, step)
        patches = pick(patchify(first.float(), self._vit.patch_size), hidden)
        predicted = self._predict(first, second, visible, hidden)
        if own is not None:  # only that channel is the first image's
            patches, predicted = (_channel(part, own, first.shape[1]) for part in (patches, predicted))
        return {"loss": token_mse(predicted, normalise_patches(patches, self.variance_floor))}

    def _images(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """First and second image (B, C, *S), and the channel (B,) of the first where it has one only."""
        if self.pair == "views":
            first, second = batch["views"]
            return first, second, None
        view = batch["image"]
        drawn = torch.randint(view.shape[1], (len(view),), generator=step_generator(self.seed + 1, step))
        mask = torch.zeros(view.shape[:2], dtype=torch.bool).scatter_(1, drawn[:, None], True).to(view.device)
        mask = mask.view(*mask.shape, *[1] * (view.ndim - 2))
        return view * mask, view * ~mask, drawn.to(view.device)

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Numbers of visible (B, n) and hidden (B, m) patches of the first image."""
        grid = self._vit.grid(image.shape[2:])
        mask = draw_mask("random", grid, image.shape[0], self.mask_ratio, step_generator(self.seed, step))
        visible, hidden = (part.to(image.device) for part in visible_and_hidden(mask))
        return visible, hidden

    def _predict(self, first: Tensor, second: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Hidden patches (B, m, P) of the first image."""
        extra = self._vit.tokens.shape[1]
        tokens, others = (
            self._vit.encode(image, keep)[:, extra:] for image, keep in ((first, visible), (second, None))
        )
        out: Tensor = self.decoder(tokens, others, self._vit.grid(first.shape[2:]), visible, hidden)
        return out


def _channel(patches: Tensor, channel: Tensor, channels: int) -> Tensor:
    """One channel (B, m, P) of patches (B, m, P * C), each sample's own."""
    split = patches.view(*patches.shape[:2], -1, channels)  # (B, m, P, C): patches have their channels last
    return split.gather(3, channel.view(-1, 1, 1, 1).expand(*split.shape[:3], 1))[..., 0]
