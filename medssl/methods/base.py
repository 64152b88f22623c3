"""The one abstract class a self-supervised method implements."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar, cast

from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.imaging.preprocess import Preprocess
from medssl.models.decoders import without_head
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher
from medssl.models.networks import Network
from medssl.models.projectors import Branch

E = TypeVar("E", bound=nn.Module)

Batch = dict[str, Tensor]
"""What a step gets: `image` (B, C, *S) float32 or bf16-castable, on the device, `step` () int64, the number that its
masks are drawn by, `patient` (B,) int64, the number of each sample's patient, and in training `progress` (), the share
of the run's steps done, 1 where it is missing. Methods with several views get `views` (V, B, C, *size) and, where the
run makes local views, `local_views` (L, B, C, *smaller) of the same samples, with `..._centre` and `..._side` (V, B,
D), the box of each view in voxels of `image`."""


@dataclass(frozen=True)
class MethodCard:
    """What `medssl methods` tells of a method.

    Args:
        paper: First author, venue and year.
        link: Address of the paper.
        family: `contrastive`, `self-distillation`, `clustering`, `decorrelation`, `masked` or `anatomical`.
        backbones: Encoders it runs on; by default any.
        spatial_dims: Dimensions it runs in.
    """

    paper: str
    link: str
    family: Literal["contrastive", "self-distillation", "clustering", "decorrelation", "masked", "anatomical"]
    backbones: tuple[str, ...] = ("ViT", "SwinV2", "ResNet", "ResidualUNetEncoder")
    spatial_dims: tuple[int, ...] = (2, 3)

    @property
    def joint_embedding(self) -> bool:
        """Whether it is contrastive or another that makes embeddings alike: neighbours must tell what it learned."""
        return self.family in ("contrastive", "self-distillation", "clustering", "decorrelation")


@dataclass(frozen=True)
class HelperRun:
    """Another run whose network a method asks while it learns: what that has learned from, this method learns from.

    Args:
        option: What names it, for messages and the record.
        file: Its encoder file.
        preprocess: How its images were prepared; the method's must be prepared alike.
    """

    option: str
    file: Path
    preprocess: Preprocess


class Method(nn.Module, ABC):
    """A self-supervised pretraining method; abstract, one final subclass a file in `medssl/methods/`.

    State that is not trained by gradient (EMA teacher, queue, centre) lives here as buffers or frozen modules, so that
    a checkpoint of the method is the whole state. Randomness (masks) is drawn from `torch.Generator` seeded by
    `batch["step"]` and the run's seed, never from global state, so that a resumed run repeats itself.
    """

    card: ClassVar[MethodCard]
    """What `medssl methods` tells of it."""

    views: int = 1
    """How many augmented views of each sample the method asks for; 1 = the varied crop itself, `image`."""

    local_views: ClassVar[bool] = False
    """Whether the method makes use of further, smaller views."""

    places: ClassVar[bool] = False
    """Whether it is told which places of the views are one, `views_affine`: both views must show one crop."""

    cuts_crops: ClassVar[bool] = False
    """Whether the networks see crops that it cuts out of `image` itself."""

    mixed: ClassVar[bool] = False
    """Whether it learns from 2D and 3D images in one run; its encoder is a `MixedEncoder`, and each batch is of one
    dimension."""

    least_batch: ClassVar[int] = 1
    """Samples that must be computed together: 2 where the loss or a batch norm compares samples."""

    least_patients: int = 1
    """Patients that there must be: 2 where samples are contrasted with those of other patients alone."""

    over_batch: bool = False
    """Whether the loss compares the samples that are computed together, or is a mean over what happens to count in
    them, so that a step in parts (`train.accumulate`) is not that of the whole batch."""

    steady_rates: tuple[str, ...] = ()
    """How the names of those parameters begin whose learning rate stays at its peak once it is warmed up."""

    helpers: tuple[HelperRun, ...] = ()
    """Other runs that it asks; their hashes and patients are part of the record."""

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The plain encoder that is kept after pretraining."""

    def seen(self, batch: Batch) -> tuple[int, ...]:
        """Spatial shape of what the encoder sees in training: of the views, or of `image`."""
        return tuple(batch["views"].shape[3:] if self.views > 1 else batch["image"].shape[2:])

    def misfits(self, together: int, spatial_dims: int) -> list[str]:
        """What is wrong where this many samples of a dimension are computed together, over all devices; nothing by
        default.
        """
        return []

    def notes(self, cases: int) -> list[str]:
        """What should be known before it learns from so many cases, one sentence each; nothing by default."""
        return []

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` () with gradient, and logs (detached scalars) under their own names."""

    def before_step(self, step: int) -> None:
        """Called before each optimiser step, counted from 0, when all gradients are there: they may be changed."""

    def after_step(self, step: int) -> None:
        """Called after each optimiser step (not each accumulated batch), counted from 1: EMA, queues."""

    def reconstruction(self, batch: Batch) -> dict[str, Tensor] | None:
        """Return `input`, `masked`, `reconstructed` (B, C, *S) for the health panel, or None where there is none."""
        return None

    def trouble(self, logs: dict[str, float]) -> str:
        """What the numbers of a health check tell to be wrong, with the usual cures; empty where they tell nothing."""
        return ""

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """Weights that load `strict=True` into the plain encoder."""
        return self.encoder.state_dict()

    def other_encoder(self) -> dict[str, dict[str, Tensor]]:
        """Of a student and its teacher, the one that `encoder_state_dict` is not of: weights, under its name."""
        return {}


class SiameseMethod(Method):
    """A method that compares embeddings of views; abstract.

    Attributes:
        student: Encoder and projector that are trained.
    """

    views = 2
    least_batch = 2
    student: Branch

    @property
    def encoder(self) -> Encoder:
        """The encoder of the student."""
        return self.student.encoder

    def other_encoder(self) -> dict[str, dict[str, Tensor]]:
        """That of the teacher, where there is one."""
        teacher = getattr(self, "teacher", None)
        return {"teacher": cast(Branch, teacher.network).encoder.state_dict()} if isinstance(teacher, Teacher) else {}


class DenseMethod(Method):
    """A method that trains the decoder of segmentation as well, so that fine-tuning can take over both; abstract.

    Attributes:
        network: Encoder and decoder.
    """

    network: Network

    @property
    def encoder(self) -> nn.Module:
        """The encoder in front of the decoder."""
        return self.network.encoder

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """Weights of the decoder without its last layer, which is made new for the task."""
        return without_head(self.network.decoder)


def expect(encoder: nn.Module, kind: type[E], method: str, otherwise: str = "") -> E:
    """The encoder, which must be of a kind.

    Args:
        encoder: What the configuration names.
        kind: What the method needs.
        method: Name of the method, for the message.
        otherwise: What to do where the encoder is another one.

    Raises:
        ConfigError: It is another one.
    """
    if not isinstance(encoder, kind):
        wanted = f"{method} needs a {kind.__name__} encoder, got {type(encoder).__name__}"
        raise ConfigError([f"{wanted}; {otherwise}" if otherwise else wanted])
    return encoder


def positive(**values: float) -> list[str]:
    """A sentence for each value that is not above 0."""
    return [f"{name} must be positive, got {value}" for name, value in values.items() if value <= 0]


def not_negative(**values: float) -> list[str]:
    """A sentence for each value below 0."""
    return [f"{name} must be 0 or more, got {value}" for name, value in values.items() if value < 0]


def share(**values: float) -> list[str]:
    """A sentence for each value outside [0, 1]."""
    return [f"{name} must lie in [0, 1], got {value}" for name, value in values.items() if not 0 <= value <= 1]


def ratio(**values: float) -> list[str]:
    """A sentence for each value that does not lie between 0 and 1."""
    return [f"{name} must lie between 0 and 1, got {value}" for name, value in values.items() if not 0 < value < 1]


def whole_batches(queue: int, batch_size: int) -> list[str]:
    """A sentence where a queue is no whole number of batches."""
    fits = queue % batch_size == 0
    return [] if fits else [f"queue {queue} must be a whole number of batches of {batch_size} (train.batch_size)"]


def unbalanced(prototypes: int, batch: int, queue: int | None, kind: str = "samples") -> list[str]:
    """A sentence where so few vectors are balanced over prototypes that which one a vector gets is arbitrary.

    Args:
        prototypes: Number of prototypes.
        batch: Vectors that are computed together.
        queue: Earlier vectors beside them; None where the method keeps none of this kind.
        kind: What the vectors are of.
    """
    vectors = batch + (queue or 0)
    if 4 * vectors >= prototypes:
        return []
    where, longer = ("a batch", "") if queue is None else ("a batch and queue", "a longer queue, ")
    return [
        f"{prototypes} prototypes need {where} of {-(-prototypes // 4)} {kind} that are balanced together, got "
        f"{vectors}: take {longer}fewer prototypes, a larger batch, or fewer parts (train.accumulate)"
    ]


def require(problems: list[str]) -> None:
    """Refuse where there is any problem.

    Raises:
        ConfigError: All of them at once.
    """
    if problems:
        raise ConfigError(problems)
