"""Volume Fusion: two scans are mixed region by region, and the network segments the regions by their mixing ratio.

Wang et al., "MIS-FM: 3D Medical Image Segmentation using Foundation Models Pretrained on a Large-Scale Unannotated
Dataset", 2023, https://arxiv.org/abs/2306.16925. Deviations: each crop of a batch is fused with the one before it,
where the authors fuse the halves of a double batch; Dice is the mean over the classes without the first; AdamW unless
the run says otherwise; the network is any encoder with the decoder that suits it.
"""

from typing import final

from torch import Tensor

from medssl.data.fusion import FusionOptions, class_map, draw_classes, fuse
from medssl.data.masking import step_generator
from medssl.losses.segmentation import dice_ce
from medssl.methods.base import Batch, DenseMethod, MethodCard, positive, require
from medssl.models.decoders import decoder_for
from medssl.models.encoder import Encoder
from medssl.models.networks import Network


@final
class VolumeFusion(DenseMethod):
    """Pseudo-segmentation of a discrete coefficient map.

    Args:
        encoder: Any encoder; a transformer of one patch grid gets UNETR's decoder, all others a U-Net's.
        seed: Seed of the maps.
        levels: Coefficients are 0, 1 / levels, ... 1, so that there are `levels` + 1 classes.
        boxes: Fewest and most boxes that are pasted into a map.
        sides: Shortest and longest side of a box, relative to the crop's.

    Raises:
        ConfigError: Numbers out of range, all at once.
    """

    card = MethodCard("Wang et al., 2023", "https://arxiv.org/abs/2306.16925", "anatomical")
    least_batch = 2
    over_batch = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        seed: int = 0,
        levels: int = 4,
        boxes: tuple[int, int] = (10, 39),
        sides: tuple[float, float] = (0.0625, 0.625),
    ) -> None:
        super().__init__()
        problems = positive(levels=levels)
        if not 1 <= boxes[0] <= boxes[1]:
            problems.append(f"boxes must rise from 1 or more, got {boxes}")
        if not 0 < sides[0] <= sides[1] <= 1:
            problems.append(f"sides must rise between 0 and 1, got {sides}")
        require(problems)
        self.seed, self.options = seed, FusionOptions(levels, boxes, sides)
        self.network = Network(encoder, decoder_for(encoder, levels + 1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: cross-entropy plus 1 - Dice; `accuracy`: share of voxels whose class is found."""
        fused, classes = self._fused(batch["image"], int(batch["step"]))
        logits = self.network(fused)
        accuracy = (logits.detach().argmax(1) == classes).float().mean()
        return {"loss": dice_ce(logits, classes), "accuracy": accuracy}

    def _fused(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Fused crops (B, C, *S) and their classes (B, *S)."""
        shape = image.shape[2:]
        drawn = draw_classes(self.options, len(image), shape, step_generator(self.seed, step))
        classes = class_map(drawn, shape, image.device)
        return fuse(image.float(), image.float().roll(1, 0), classes, self.options.levels), classes
