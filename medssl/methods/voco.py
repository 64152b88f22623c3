"""VoCo: predict from features alone how much a random crop overlaps with each base crop of the same scan.

Wu et al., "VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D Medical Image Analysis", CVPR
2024, https://arxiv.org/abs/2402.17300. Deviations: crops are cut at the size that the network sees, not resized from
larger ones; they are mirrored one by one, if at all, and otherwise varied together with their source; the teacher
starts as a copy of the student; batch norms of the projector have scale, shift and running statistics.
"""

from collections.abc import Sequence
from typing import Literal, cast, final

import torch
from torch import Tensor

from medssl.data.boxes import cell_corners, cut_boxes, overlap_shares, place
from medssl.data.masking import step_generator
from medssl.imaging.errors import ConfigError
from medssl.losses.overlap import likeness, overlap_entropy, overlap_terms, similarity
from medssl.methods.base import Batch, Method, MethodCard, positive, require, share
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher
from medssl.models.projectors import PyramidBranch

_PLANE = 4  # cells along each of the first two axes where `grid` is left open
_FLIP = 0.2  # probability of each mirroring, the authors'


@final
class VoCo(Method):
    """Volume contrast: position in the body as the label.

    The method's crops are cut out of the batch's `image`, so `views.size` is the size of the region that base crops
    cover, and one of its cells is what the networks see.

    Args:
        encoder: Any encoder; the means of all its maps are compared.
        seed: Seed of the random crops.
        grid: Base crops an axis; None = 4 along the first two axes and 1 along a third, as the paper has it.
        crops: Random crops of each sample (2 in the authors' script).
        flip_axes: Axes along which crops are mirrored with probability 0.2, each crop on its own; in RAS+ images axis 0
            exchanges left and right.
        head: Widths of the projector's two hidden layers, and of its output.
        momentum: Of the teacher, constant.
        loss: `code`: the three terms of the authors' code; `paper`: the two of the paper.

    Raises:
        ConfigError: Numbers out of range, all at once.
    """

    card = MethodCard("Wu et al., CVPR 2024", "https://arxiv.org/abs/2402.17300", "anatomical")
    cuts_crops = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        seed: int = 0,
        grid: Sequence[int] | None = None,
        crops: int = 2,
        flip_axes: tuple[int, ...] = (),
        head: tuple[int, int] = (2048, 2048),
        momentum: float = 0.9,
        loss: Literal["code", "paper"] = "code",
    ) -> None:
        super().__init__()
        dims = encoder.spatial_dims
        self.grid = tuple([_PLANE, _PLANE, 1][:dims] if grid is None else grid)
        problems = positive(crops=crops) + share(momentum=momentum)
        if len(self.grid) != dims or min(self.grid) < 1 or max(self.grid) < 2:
            problems.append(f"grid needs {dims} numbers of 1 or more, one of them 2 or more, got {self.grid}")
        if any(axis not in range(dims) for axis in flip_axes):
            problems.append(f"flip_axes must name spatial axes below {dims}, got {flip_axes}")
        if loss not in ("code", "paper"):
            problems.append(f"loss must be code or paper, got {loss!r}")
        require(problems)
        self.seed, self.crops, self.flip_axes, self.momentum, self.loss = seed, crops, flip_axes, momentum, loss
        self.student = PyramidBranch(encoder, head)
        self.teacher = Teacher(self.student)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the student."""
        return self.student.encoder

    def other_encoder(self) -> dict[str, dict[str, Tensor]]:
        """That of the teacher."""
        return {"teacher": cast(PyramidBranch, self.teacher.network).encoder.state_dict()}

    def seen(self, batch: Batch) -> tuple[int, ...]:
        """The size of a base crop."""
        return tuple(n // cells for n, cells in zip(batch["image"].shape[2:], self.grid, strict=True))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: `overlap`, the mean of both pairings of student and teacher, plus `alike`, of the base crops."""
        views, wanted = self._cut(batch["image"], int(batch["step"]))
        samples, cells = len(views), wanted.shape[-1]
        flat = views.flatten(0, 1)
        student, teacher = (
            network(flat).view(samples, -1, self.student.width) for network in (self.student, self.teacher)
        )
        pairs = ((student[:, cells:], teacher[:, :cells]), (teacher[:, cells:], student[:, :cells]))
        overlap = torch.stack([self._overlap(similarity(crop, base), wanted) for crop, base in pairs]).mean()
        alike = likeness(student[:, :cells], squared=self.loss == "code")
        return {"loss": overlap + alike, "overlap": overlap.detach(), "alike": alike.detach()}

    def after_step(self, step: int) -> None:
        """The teacher follows, that is before it sees the next batch."""
        self.teacher.follow(self.student, self.momentum)

    def _overlap(self, cosine: Tensor, wanted: Tensor) -> Tensor:
        if self.loss == "paper":
            return overlap_entropy(cosine, wanted)
        near, far = overlap_terms(cosine, wanted)
        return near + far

    def _cut(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Base crops, then random ones, (B, K + crops, C, *size), and the random ones' shares (B, crops, K)."""
        shape = image.shape[2:]
        if any(n % cells for n, cells in zip(shape, self.grid, strict=True)):
            raise ConfigError(
                [f"crop of {tuple(shape)} does not divide into {self.grid} base crops: change views.size"]
            )
        size = [n // cells for n, cells in zip(shape, self.grid, strict=True)]
        base, generator = cell_corners(shape, self.grid), step_generator(self.seed, step)
        dims, count = len(size), len(base) + self.crops
        free = torch.rand(len(image), self.crops, dims, generator=generator, dtype=torch.float64)
        random = place(torch.tensor(size), shape, free)
        start = torch.cat([base.expand(len(image), -1, -1), random], dim=1)
        allowed = torch.tensor([axis in self.flip_axes for axis in range(dims)])
        flips = (torch.rand(len(image), count, dims, generator=generator) < _FLIP) & allowed
        return cut_boxes(image, start, size, flips), overlap_shares(random, base, size).to(image.device)
