"""iBOT: DINO, and the same for hidden patches, with the teacher as the tokenizer.

Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, https://arxiv.org/abs/2111.07832.
Deviations: 2D and 3D; masks hide exactly the drawn ratio; the head is applied to hidden patches only, so that their
centre is the mean of these and not of all patches; schedules follow the share of the run that is done.
"""

from typing import final

import torch
from torch import Tensor

from medssl.data.mask_ratios import independent_ratios
from medssl.methods.base import Batch, MethodCard, expect, require
from medssl.methods.base_distillation import (
    NO_TOKENS,
    Heads,
    MaskedDistillingMethod,
    Masks,
    Schedule,
    wrong_masks,
    wrong_numbers,
)
from medssl.models.encoder import Encoder
from medssl.models.vit import ViT


@final
class IBOT(MaskedDistillingMethod):
    """Self-distillation of class tokens across views, and of hidden patches within a view.

    Args:
        encoder: A `ViT`.
        steps: Steps of the run.
        seed: Seed of the masks.
        head: Widths of the heads' hidden layers and of the vectors before the prototypes; prototypes of the class
            token; prototypes of a head of the patches' own, 0 = both share one head, as in the paper.
        temperatures: Of the student; of the teacher at the start; after its warm-up for class tokens, and for patches.
        schedule: Momentum of the teacher at the start; share of the run over which its temperatures rise; share in
            which the prototypes do not move.
        centre_momentum: Of the centres of class tokens and of patches.
        masks: Which masks (see `mae`); share of the global views that get one; lowest and highest ratio hidden.

    Raises:
        ConfigError: The encoder is no ViT, or numbers out of range.
    """

    card = MethodCard("Zhou et al., ICLR 2022", "https://arxiv.org/abs/2111.07832", "self-distillation", ("ViT",))

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        seed: int = 0,
        head: Heads = (2048, 256, 8192, 0),
        temperatures: tuple[float, float, float, float] = (0.1, 0.04, 0.04, 0.07),
        schedule: Schedule = (0.996, 0.1, 0.01),
        centre_momentum: float = 0.9,
        masks: Masks = ("block", 0.5, 0.1, 0.5),
    ) -> None:
        vit = expect(encoder, ViT, "ibot", NO_TOKENS)
        require(wrong_numbers(temperatures, schedule, centre_momentum) + wrong_masks(head, masks))
        super().__init__(
            vit,
            steps=steps,
            seed=seed,
            head=head,
            temperatures=temperatures,
            schedule=schedule,
            centre_momentum=centre_momentum,
            masks=masks,
        )
        _, self.coldest, *self.warmest = temperatures

    def draw_ratios(self, count: int, generator: torch.Generator) -> Tensor:
        """Each view on its own hides something or nothing."""
        return independent_ratios(count, self.masked, self.ratios, generator)

    def targets(self, known: Tensor, known_patches: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Centred, each kind of token by its own centre and temperature."""
        classes, patches = (self.warmed(batch, self.coldest, warmest) for warmest in self.warmest)
        return self.centred("centre", known, classes), self.centred("patch_centre", known_patches, patches)
