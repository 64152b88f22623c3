"""Models Genesis: restore crops that were shuffled locally, bent in intensity and painted over.

Zhou et al., "Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis", MICCAI 2019,
https://arxiv.org/abs/1908.06912. Deviations: the output has no sigmoid, since images here are not scaled to 0 to 1;
mirroring is that of the crop (`views.augment.flip_axes`); AdamW and a schedule unless the run says otherwise, no early
stopping; and those of `medssl.data.spoiling`.
"""

from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from medssl.data.masking import step_generator
from medssl.data.spoiling import CorruptionOptions, draw_corruption, spoil
from medssl.methods.base import Batch, DenseMethod, MethodCard, not_negative, require, share
from medssl.models.decoders import decoder_for
from medssl.models.encoder import Encoder
from medssl.models.networks import Network


@final
class ModelsGenesis(DenseMethod):
    """Restoration of the whole crop by encoder and decoder.

    Args:
        encoder: Any encoder; a transformer of one patch grid gets UNETR's decoder, all others a U-Net's.
        seed: Seed of what is done to the crops.
        shuffle: Probability of local shuffling.
        windows: Windows that are shuffled; 10,000 cover a volume 1.2 times over, 500 do so with an image.
        bend: Probability that intensities pass through a random curve, which rises or falls.
        paint: Probability of painting noise.
        outside: Share of paintings that leave some blocks and paint all else, not the other way round.

    Raises:
        ConfigError: Numbers out of range, all at once.
    """

    card = MethodCard("Zhou et al., MICCAI 2019", "https://arxiv.org/abs/1908.06912", "anatomical")

    def __init__(
        self,
        encoder: Encoder,
        *,
        seed: int = 0,
        shuffle: float = 0.5,
        windows: int = 10_000,
        bend: float = 0.9,
        paint: float = 0.9,
        outside: float = 0.8,
    ) -> None:
        super().__init__()
        require(share(shuffle=shuffle, bend=bend, paint=paint, outside=outside) + not_negative(windows=windows))
        self.seed, self.options = seed, CorruptionOptions(shuffle, windows, bend, paint, outside)
        self.network = Network(encoder, decoder_for(encoder, encoder.in_channels))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean squared error over all voxels, spoilt or not."""
        image = batch["image"]
        restored = self.network(self._spoilt(image, int(batch["step"])))
        return {"loss": F.mse_loss(restored.float(), image.float())}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """Input, what was made of it, and what the network restored."""
        image = batch["image"].float()
        spoilt = self._spoilt(image, int(batch["step"]))
        return {"input": image, "masked": spoilt, "reconstructed": self.network(spoilt).float()}

    def _spoilt(self, image: Tensor, step: int) -> Tensor:
        drawn = draw_corruption(self.options, len(image), image.shape[2:], step_generator(self.seed, step))
        return spoil(drawn, image.float())
