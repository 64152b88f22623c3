"""SiT: recover a heavily corrupted view, and recognise it among the batch.

Atito, Awais and Kittler, "SiT: Self-supervised vIsion Transformer", 2021, https://arxiv.org/abs/2104.03602; as the
authors released it. Deviations: 2D and 3D; corrupted voxels hold noise rather than zeros, which in medical images are
air; ReLU for both hidden layers of the projector; no colour, no solarisation.
"""

from typing import cast, final

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.data.corruption import Content, Corruption, corrupt, draw_corruption
from medssl.data.masking import step_generator
from medssl.data.spatial import quarter_turned
from medssl.imaging.errors import ConfigError
from medssl.losses.contrastive import batch_info_nce
from medssl.losses.reconstruction import masked_l1
from medssl.methods.base import Batch, MethodCard, SiameseMethod, expect, not_negative, positive, ratio, require, share
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher, cosine_momentum
from medssl.models.positions import patchify
from medssl.models.projectors import Branch, Projector
from medssl.models.vit import ViT


@final
class SiT(SiameseMethod):
    """Group masked model learning with a contrast to a slowly moving teacher, who sees clean views.

    Args:
        encoder: A `ViT`.
        steps: Steps of the run, over which the momentum rises to 1.
        seed: Seed of the corruption.
        head: Widths of the projector's hidden layers and of its output.
        temperature: Divides the cosines.
        momentum: Of the teacher at the start.
        weights: Of the reconstruction, 1, or 5 for small sets; and of telling by how many quarter turns a view was
            turned in the plane of its first two axes, as in the paper's first version; 0 = views are not turned.
        corruption: What is put in place of voxels (`noise`, `zeros`, another `region` of the image); least share of an
            image it covers; least share that another image covers instead, in half of the images, 0 = never; boxes
            begin and end at multiples of so many voxels.

    Raises:
        ConfigError: The encoder is no ViT, or the numbers do not fit.
    """

    card = MethodCard("Atito et al., 2021", "https://arxiv.org/abs/2104.03602", "masked", ("ViT",))
    over_batch = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        seed: int = 0,
        head: tuple[int, int] = (4096, 256),
        temperature: float = 0.2,
        momentum: float = 0.996,
        weights: tuple[float, float] = (1.0, 0.0),
        corruption: tuple[Content, float, float, int] = ("noise", 0.5, 0.3, 1),
    ) -> None:
        super().__init__()
        vit = expect(encoder, ViT, "sit", "its reconstruction is read from tokens: for CNNs use spark")
        self.steps, self.seed, self.temperature, self.momentum = steps, seed, temperature, momentum
        (self.reconstructing, self.turning), (self.content, own, alien, self.align) = weights, corruption
        self.covered = (own, alien)
        problems = positive(temperature=temperature, align=self.align, reconstruction=weights[0])
        problems += share(momentum=momentum) + ratio(covered=own) + not_negative(turning=weights[1])
        if not 0 <= alien < 1:
            problems.append(f"the share that another image covers must lie in [0, 1), got {alien}")
        if self.turning and (vit.tokens.shape[1] < 2 or vit.patch_size[0] != vit.patch_size[1]):
            problems.append("telling quarter turns needs a ViT with a register to tell them and square patches")
        require(problems)
        self.student = Branch(vit, Projector([vit.width, head[0], *head], last_norm="fixed"), summary=True)
        self.teacher = Teacher(self.student)
        layers = [part for _ in range(3) for part in (nn.Linear(vit.width, vit.width), nn.GELU())]
        self.painter = nn.Sequential(*layers, nn.Linear(vit.width, vit.patch_embed.in_features))
        self.compass = nn.Linear(vit.width, 4) if self.turning else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the sum of both directions of the contrast, each times 2 x temperature, and the weighted others."""
        views, vit = batch["views"], cast(ViT, self.encoder)
        clean, drawn, turns = self._draw(views, int(batch["step"]))
        spoilt = [corrupt(view, part, self.content) for view, part in zip(clean, drawn, strict=True)]
        tokens = vit.encode(torch.cat(spoilt))
        first, second = self.student.projector(tokens[:, 0]).chunk(2)
        key_first, key_second = self.teacher(views.flatten(0, 1)).chunk(2)
        contrast = batch_info_nce(first, key_second, self.temperature)
        contrast = contrast + batch_info_nce(second, key_first, self.temperature)
        masks = torch.cat([part.mask for part in drawn]).to(views.device)
        reconstruction = self._painted_wrong(tokens[:, vit.tokens.shape[1] :], torch.cat(clean), masks)
        loss = contrast + self.reconstructing * reconstruction
        logs = {"contrast": contrast.detach(), "reconstruction": reconstruction.detach()}
        if self.compass is not None:
            turned = F.cross_entropy(self.compass(tokens[:, 1]).float(), turns.to(views.device))
            loss, logs["quarter_turns"] = loss + self.turning * turned, turned.detach()
        return {"loss": loss, **logs}

    def after_step(self, step: int) -> None:
        """The teacher follows."""
        self.teacher.follow(self.student, cosine_momentum(self.momentum, step - 1, self.steps))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # boxes are drawn in plain loops
    def _draw(self, views: Tensor, step: int) -> tuple[list[Tensor], list[Corruption], Tensor]:
        """The views (B, C, *S), turned where that is asked for; their corruption; quarter turns (V * B,)."""
        generator = step_generator(self.seed, step)
        shape = views.shape[3:]
        turns = torch.randint(4, views.shape[:2], generator=generator)
        clean = list(views)
        if self.turning:
            if shape[0] != shape[1]:
                raise ConfigError(
                    [f"quarter turns need views as long along axis 0 as along axis 1, got {tuple(shape)}"]
                )
            clean = [quarter_turned(view, given, (1, 2)) for view, given in zip(views, turns, strict=True)]
        drawn = [draw_corruption(shape, views.shape[1], self.covered, self.align, generator) for _ in clean]
        return clean, drawn, turns.flatten()

    def _painted_wrong(self, tokens: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """Mean absolute error of what is read from the patch tokens (B, N, E), over corrupted voxels."""
        size = cast(ViT, self.encoder).patch_size
        counted = patchify(mask.expand_as(clean), size)
        return masked_l1(self.painter(tokens), patchify(clean.float(), size), counted)
