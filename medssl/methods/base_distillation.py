"""What DINO and its heirs share: a student learns a slowly moving teacher's distributions over prototypes."""

import math
from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from medssl.data.mask_ratios import HiddenTokens, masks_of_ratios
from medssl.data.masking import MaskKind, step_generator, wrong_mask
from medssl.losses.distillation import (
    across_views,
    centred_softmax,
    entropy,
    entropy_of_mean,
    moved_centre,
    over_hidden_tokens,
)
from medssl.methods.base import Batch, SiameseMethod, share
from medssl.models.momentum import Teacher, cosine_momentum
from medssl.models.projectors import Branch, DINOHead, TokenBranch
from medssl.models.vit import ViT

Schedule = tuple[float, float, float]
"""Momentum of the teacher at the start, which rises to 1; share of the run over which the teacher's temperature rises;
share of the run in which the prototypes do not move."""

Heads = tuple[int, int, int, int]
"""Widths of the hidden layers and of the vectors before the prototypes; prototypes of the class token; prototypes of a
head of the patch tokens' own, 0 = both kinds of tokens share one head."""

Masks = tuple[MaskKind, float, float, float]
"""Which masks; share of the global views that get one; lowest and highest ratio of their patches that are hidden."""

_UNIFORM = 0.995  # of the largest possible entropy
_ALL_ONE = 0.05  # nats; the mean over a batch of eight images and more

NO_TOKENS = "a CNN has no tokens that could stand in place of hidden patches: use dino"


def wrong_numbers(temperatures: tuple[float, ...], schedule: Schedule, centre_momentum: float) -> list[str]:
    """A sentence for each number out of range."""
    momentum, warmup, frozen = schedule
    problems = share(momentum=momentum, warmup=warmup, frozen=frozen, centre_momentum=centre_momentum)
    return problems + ([] if min(temperatures) > 0 else [f"temperatures must be positive, got {temperatures}"])


def wrong_masks(head: Heads, masks: Masks) -> list[str]:
    """A sentence for each number of heads and masks out of range."""
    *widths, patches = head
    kind, masked, low, high = masks
    problems = share(masked=masked) + wrong_mask(kind)
    if min(widths) < 1 or patches < 0:
        problems.append(f"head needs positive numbers, of which the last one may be 0, got {head}")
    if not 0 < low <= high < 1:
        problems.append(f"masks: the ratios must rise between 0 and 1, got {(low, high)}")
    return problems


class DistillingMethod(SiameseMethod):
    """A student that learns a slowly moving teacher's distributions over prototypes; abstract.

    Args:
        student: Encoder and heads; the teacher starts as its copy.
        steps: Steps of the run.
        temperatures: Of the student, then those of the teacher.
        schedule: As `Schedule` says.
        centres: Name of each centre and its number of prototypes.
        centre_momentum: Of the centres.
    """

    local_views = True

    def __init__(
        self,
        student: Branch,
        *,
        steps: int,
        temperatures: tuple[float, ...],
        schedule: Schedule,
        centres: dict[str, int],
        centre_momentum: float,
    ) -> None:
        super().__init__()
        self.steps, self.temperature, self.centre_momentum = steps, temperatures[0], centre_momentum
        self.momentum, self.warmup, self.frozen = schedule
        self.student, self.teacher = student, Teacher(student)
        self._fresh: dict[str, tuple[Tensor, int]] = {}
        for name, count in centres.items():
            self.register_buffer(name, torch.zeros(count))

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """The teacher's encoder: its frozen features are the better ones (as the authors release it)."""
        return cast(Branch, self.teacher.network).encoder.state_dict()

    def other_encoder(self) -> dict[str, dict[str, Tensor]]:
        """That of the student."""
        return {"student": self.encoder.state_dict()}

    def trouble(self, logs: dict[str, float]) -> str:
        """Whether the teacher finds all prototypes equally likely, or one of them the likeliest, whatever it sees."""
        counts = [len(h.prototypes.weight) for h in self.student.modules() if isinstance(h, DINOHead)]
        for name, count in (("teacher_entropy", counts[0]), ("patch_entropy", counts[-1])):
            if logs.get(name, 0.0) >= _UNIFORM * math.log(count):
                return (
                    f"the teacher finds all prototypes equally likely ({name} {logs[name]:.4g} of at most "
                    f"{math.log(count):.4g}) and teaches nothing. Usual cures: a lower temperature of the teacher, a "
                    "lower --train.lr, fewer prototypes, a longer run"
                )
        if logs["teacher_usage"] < _ALL_ONE:
            return (
                f"the teacher gives nearly all images one prototype (teacher_usage {logs['teacher_usage']:.4g}): a "
                "collapse. Usual cures: a higher temperature of the teacher, a centre that moves faster (a lower "
                "centre_momentum), a lower --train.lr"
            )
        return ""

    def before_step(self, step: int) -> None:
        """Hold the prototypes still at first."""
        if step < self.frozen * self.steps:
            for head in self.student.modules():
                if isinstance(head, DINOHead):
                    head.prototypes.weight.grad = None

    def after_step(self, step: int) -> None:
        """The teacher follows, and the centres take in the step's logits."""
        self.teacher.follow(self.student, cosine_momentum(self.momentum, step - 1, self.steps))
        for name, (total, count) in self._fresh.items():
            centre = self.get_buffer(name)
            centre.copy_(moved_centre(centre, total, count, self.centre_momentum))
        self._fresh = {}

    def warmed(self, batch: Batch, low: float, high: float) -> float:
        """The teacher's temperature, which rises from `low` to `high` while the run warms up."""
        progress = float(batch.get("progress", 1.0))
        return high if progress >= self.warmup else low + (high - low) * progress / self.warmup

    def centred(self, name: str, logits: Tensor, temperature: float) -> Tensor:
        """The teacher's distributions (B, K) by the centre `name`, which takes the logits in after the step."""
        if self.training:  # sums, not the logits: those of all patches of a step would be gigabytes
            total, count = self._fresh.get(name, (torch.zeros_like(self.get_buffer(name)), 0))
            self._fresh[name] = total + logits.detach().float().sum(0), count + len(logits)
        return centred_softmax(logits, self.get_buffer(name), temperature)


class MaskedDistillingMethod(DistillingMethod):
    """One that also learns what the teacher, who sees everything, says of hidden patches; abstract.

    Args:
        encoder: A `ViT`.
        seed: Seed of the masks.
        head: As `Heads` says.
        masks: As `Masks` says.
        centred: Whether there are a `centre` and a `patch_centre`.
        **given: As `DistillingMethod` takes them.
    """

    def __init__(
        self, encoder: nn.Module, *, seed: int, head: Heads, masks: Masks, centred: bool = True, **given: Any
    ) -> None:
        hidden, bottleneck, classes, patches = head
        vit = cast(ViT, encoder)
        own = DINOHead(vit.width, hidden, bottleneck, patches) if patches else None
        student = TokenBranch(vit, DINOHead(vit.width, hidden, bottleneck, classes), own)
        centres = {"centre": classes, "patch_centre": patches or classes} if centred else {}
        super().__init__(student, centres=centres, **given)
        self.seed, (self.kind, self.masked, *_), self.ratios = seed, masks, masks[2:]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, vit.width))  # the student's alone

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the sum of its terms, which the log has one by one, and the entropies of what the teacher says."""
        views, temperature = batch["views"], self.temperature
        images = views.flatten(0, 1)
        hidden = self.draw(images, int(batch["step"]))
        student, teacher = cast(TokenBranch, self.student), cast(TokenBranch, self.teacher.network)
        local = [batch["local_views"].flatten(0, 1)] if "local_views" in batch else []
        tokens, classes, patches = student.both(images, hidden.rows, (hidden.mask, self.mask_token), local)
        with torch.no_grad():
            _, known, known_patches = teacher.both(images, hidden.rows)
        wanted, wanted_patches = self.targets(known, known_patches, batch)
        seen = torch.split(classes, views.shape[1])
        terms = {
            "class_loss": across_views(wanted.chunk(len(views)), seen, temperature),
            "patch_loss": over_hidden_tokens(wanted_patches, patches, temperature, hidden.sample, len(images)),
            **self.regularised(tokens.chunk(len(views))),
        }
        logs = {name: value.detach() for name, value in terms.items()}
        logs |= {"teacher_entropy": entropy(wanted), "teacher_usage": entropy_of_mean(wanted)}
        logs["patch_entropy"] = entropy(wanted_patches)
        return {"loss": torch.stack(list(terms.values())).sum(), **logs}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled anew for each ratio
    def draw(self, images: Tensor, step: int) -> HiddenTokens:
        """Which patches of the global views (V * B, C, *S) are hidden in a step."""
        generator = step_generator(self.seed, step)
        grid = cast(ViT, self.encoder).grid(images.shape[2:])
        ratios = self.draw_ratios(len(images), generator)
        return HiddenTokens.of(masks_of_ratios(self.kind, grid, ratios, generator), images.device)

    @abstractmethod
    def draw_ratios(self, count: int, generator: torch.Generator) -> Tensor:
        """Share of the patches hidden in each of `count` views; 0 = none."""

    @abstractmethod
    def targets(self, known: Tensor, known_patches: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's distributions of class tokens and of hidden patches, from its logits of them."""

    def regularised(self, tokens: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Further terms of the loss from the student's class tokens (B, E) of each global view; none by default."""
        return {}
