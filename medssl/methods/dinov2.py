"""DINOv2: DINO and iBOT with heads of their own, balanced by Sinkhorn-Knopp, and features that keep their distance.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, https://arxiv.org/abs/2304.07193.
Deviations: 2D and 3D; masks hide exactly the drawn ratio; all views share a pass, in which attention is computed for
each size on its own; patches of local views have the lowest positions of global ones (`ViT`); neighbours are looked for
in the batch of all processes; schedules follow the share of the run that is done.
"""

from typing import Literal, final

import torch
from torch import Tensor

from medssl.data.mask_ratios import stratified_ratios
from medssl.losses.agreement import koleo
from medssl.losses.distillation import sinkhorn
from medssl.methods.base import Batch, MethodCard, expect, not_negative, require
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
class DINOv2(MaskedDistillingMethod):
    """Self-distillation of class tokens across views and of hidden patches within a view, without collapse.

    Args:
        encoder: A `ViT`.
        steps: Steps of the run.
        seed: Seed of the masks.
        head: Widths of the heads' hidden layers and of the vectors before the prototypes; prototypes of the class
            token; prototypes of the patches' own head, 0 = both share one head, as the authors' small models do.
        temperatures: Of the student, and of the teacher at the start and after its warm-up.
        schedule: Momentum of the teacher at the start; share of the run over which its temperature rises; share in
            which the prototypes do not move.
        masks: Which masks (see `mae`); share of the global views that get one; lowest and highest ratio hidden.
        spread: Against collapse: `sinkhorn`, or the momentum of centres; and the weight of the KoLeo term, 0 = none.

    Raises:
        ConfigError: The encoder is no ViT, or numbers out of range.
    """

    card = MethodCard("Oquab et al., TMLR 2024", "https://arxiv.org/abs/2304.07193", "self-distillation", ("ViT",))

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        seed: int = 0,
        head: Heads = (2048, 256, 65536, 65536),
        temperatures: tuple[float, float, float] = (0.1, 0.04, 0.07),
        schedule: Schedule = (0.992, 0.3, 0.01),
        masks: Masks = ("block", 0.5, 0.1, 0.5),
        spread: tuple[float | Literal["sinkhorn"], float] = ("sinkhorn", 0.1),
    ) -> None:
        vit = expect(encoder, ViT, "dinov2", NO_TOKENS)
        balance, weight = spread
        balanced = balance == "sinkhorn"
        centre_momentum = 0.0 if isinstance(balance, str) else balance
        problems = wrong_numbers(temperatures, schedule, centre_momentum) + wrong_masks(head, masks)
        require(problems + not_negative(koleo=weight))
        super().__init__(
            vit,
            steps=steps,
            seed=seed,
            head=head,
            temperatures=temperatures,
            schedule=schedule,
            centred=not balanced,
            centre_momentum=centre_momentum,
            masks=masks,
        )
        self.koleo, self.balanced = weight, balanced
        self.over_batch = balanced or weight > 0
        _, *self.teacher_temperatures = temperatures

    def draw_ratios(self, count: int, generator: torch.Generator) -> Tensor:
        """A share of the views hides something, each its part of the range."""
        return stratified_ratios(count, self.masked, self.ratios, generator)

    def targets(self, known: Tensor, known_patches: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Balanced over the class tokens, and over the hidden patches, of all processes; or centred."""
        temperature = self.warmed(batch, *self.teacher_temperatures)
        if self.balanced:
            return sinkhorn(known, temperature), sinkhorn(known_patches, temperature)
        return self.centred("centre", known, temperature), self.centred("patch_centre", known_patches, temperature)

    def regularised(self, tokens: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """KoLeo of the class tokens of each global view on its own: across views it would push partners apart."""
        if not self.koleo:
            return {}
        return {"koleo": self.koleo * torch.stack([koleo(view) for view in tokens]).sum()}
