"""How a run trains: the options shared by pretraining and fine-tuning; torch-free, so that help is at once."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from medssl.imaging.errors import ConfigError

RESUMABLE = (
    "steps",
    "time_limit_min",
    "workers",
    "log_every",
    "checkpoint_every",
    "validate_every",
    "health_every",
    "damaged_cases",
)
"""Options that `--resume` may change: they do not touch what a step computes. A new `steps` changes the schedule from
the checkpoint on, as it must when a run is prolonged; all other differences are refused."""

_FROM_ONE = (
    "steps",
    "batch_size",
    "accumulate",
    "checkpoint_every",
    "log_every",
    "validate_every",
    "health_every",
    "nodes",
)
_FROM_ZERO = (
    "warmup_steps",
    "undecayed_lr",
    "weight_decay",
    "clip_norm",
    "clip_each",
    "workers",
    "time_limit_min",
    "seed",
    "damaged_cases",
)
_SHARES = ("ema_decay", "beta2", "momentum")


@dataclass(frozen=True)
class TrainOptions:
    """Length, optimiser, precision and house-keeping of a run.

    Raises:
        ConfigError: Values that contradict their rule or one another, all at once.
    """

    steps: int = 1000
    """Optimiser steps in all."""

    batch_size: int = 4
    """Crops of one optimiser step, over all devices and accumulated parts together."""

    accumulate: int = 1
    """Compute a step's batch in this many parts, to fit memory. The gradient is that of the whole batch where the loss
    is a mean over samples; a loss that compares samples, as Dice does, or counts what it finds in them, and batch norm,
    see one part at a time, which a run says."""

    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """Fused AdamW, SGD with momentum, or LARS with momentum 0.9 for large batches."""

    momentum: float = 0.99
    """Momentum of sgd: 0.99 in nnU-Net (Isensee et al. 2021), 0.9 in MoCo v2 and SimSiam; a step then is 100 or 10
    times the learning rate, so a rate belongs to one of them."""

    nesterov: bool = True
    """Nesterov's form of the momentum of sgd, as in nnU-Net; MoCo v2 and SimSiam have the plain one."""

    lr: float = 1e-3
    """Peak learning rate."""

    undecayed_lr: float = 0.0
    """Peak learning rate of what weight decay spares: biases, norms, tokens and position embeddings; 0 = `lr`. The
    authors of Barlow Twins give them 0.0048 where the rest has 0.2."""

    warmup_steps: int = 0
    """Steps of linear warm-up to the peak."""

    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """After the warm-up: half a cosine to `final_lr`, (1 - t)^0.9 to `final_lr`, or constant."""

    final_lr: float = 0.0
    """Learning rate at the end, as a share of `lr`; DINO and I-JEPA stop at 1e-6, SwAV and Barlow Twins at 0.001 of
    theirs."""

    weight_decay: float = 0.05
    """Decoupled weight decay (for sgd and lars: L2); never on biases, norms, tokens and position embeddings."""

    weight_decay_end: float | None = None
    """Weight decay at the end, reached along half a cosine (DINO); None = `weight_decay` throughout."""

    beta2: float = 0.999
    """Second-moment decay of AdamW; masked autoencoders use 0.95."""

    layer_decay: float = 1.0
    """Learning rate of each encoder layer relative to the one above it; 1 = all alike, 0.75 is usual for a ViT."""

    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 = no clipping."""

    clip_each: float = 0.0
    """Largest norm of each parameter's gradient on its own, before `clip_norm` (DINO: 3); 0 = no clipping."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; weights and optimiser stay fp32. A processor without AVX-512 computes in fp32
    whatever is asked, and the run says so: there bf16 took 17 times as long."""

    compile: bool = False
    """Compile the network with torch.compile; falls back to eager where compilation fails."""

    channels_last: bool = False
    """Keep convolutions in channels-last memory order: for GPUs; on CPUs it was 15 % slower."""

    ema_decay: float = 0.0
    """Average the weights over steps with this decay; the average is what is validated and saved; 0 = off."""

    workers: int = 0
    """Processes that read crops; 0 = read in the training process."""

    checkpoint_every: int = 500
    """Steps between checkpoints."""

    log_every: int = 20
    """Steps between lines of metrics.jsonl and TensorBoard."""

    validate_every: int = 250
    """Steps between validations, where the run has any."""

    health_every: int = 500
    """Steps between looks at the run's health: panel, spread of features and attention, probe, where it has any; of
    the student, also where a method keeps its teacher."""

    time_limit_min: float = 0.0
    """Stop with a checkpoint after this many minutes; 0 = no limit. Each fold has its own; one that is stopped is the
    last of its call."""

    damaged_cases: int = 3
    """Cases of the cache that may turn out unreadable while the run goes on: each is named and counted, and another
    case stands in for it; in pretraining those of split val that the health check looks at count as well. One more
    ends the run."""

    devices: int | Literal["auto"] = 1
    """Devices on each node, or auto for all that are there."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""

    strategy: str = "auto"
    """How devices share the work, by Lightning's names: auto, ddp, fsdp."""

    nodes: int = 1
    """Machines; start one process a device with torchrun or srun."""

    seed: int = 0
    """Seed of weights, crops, augmentation and masks."""

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """Every contradiction, one sentence each."""
        sgd = self.optimizer == "sgd"
        rules = [
            *((name, getattr(self, name) >= 1, "must be 1 or more") for name in _FROM_ONE),
            *((name, getattr(self, name) >= 0, "must be 0 or more") for name in _FROM_ZERO),
            *((name, 0 <= getattr(self, name) < 1, "must lie in [0, 1)") for name in _SHARES),
            ("lr", self.lr > 0, "must be positive"),
            ("final_lr", 0 <= self.final_lr <= 1, "must lie in [0, 1]"),
            ("final_lr", not self.final_lr or self.schedule != "constant", "is not reached by train.schedule constant"),
            ("momentum", self.momentum > 0 or not self.nesterov, "must be above 0 with train.nesterov"),
            ("momentum", sgd or self.momentum == TrainOptions.momentum, "is for train.optimizer sgd alone"),
            ("nesterov", sgd or self.nesterov == TrainOptions.nesterov, "is for train.optimizer sgd alone"),
            (
                "beta2",
                self.optimizer == "adamw" or self.beta2 == TrainOptions.beta2,
                "is for train.optimizer adamw alone",
            ),
            ("weight_decay_end", (self.weight_decay_end or 0) >= 0, "must be 0 or more"),
            (
                "clip_each",
                not (self.clip_each and "fsdp" in self.strategy),
                "needs whole gradients, which strategy fsdp splits",
            ),
            ("layer_decay", 0 < self.layer_decay <= 1, "must lie in (0, 1]"),
            ("devices", self.devices == "auto" or self.devices >= 1, "must be 1 or more, or auto"),
            ("warmup_steps", self.warmup_steps <= max(self.steps, 0), f"must not exceed train.steps {self.steps}"),
            (
                "batch_size",
                self.accumulate < 1 or self.batch_size % self.accumulate == 0,
                f"must divide by train.accumulate {self.accumulate}: all parts of a batch have one size",
            ),
            (
                "optimizer",
                not (self.optimizer == "lars" and "fsdp" in self.strategy),
                "needs whole weights, which strategy fsdp splits: use ddp, or adamw",
            ),
            (
                "ema_decay",
                not (self.ema_decay and "fsdp" in self.strategy),
                "needs the whole weights on each device, which strategy fsdp splits: use ddp, or ema_decay 0",
            ),
        ]
        return [f"train.{name} {rule}, got {getattr(self, name)}" for name, holds, rule in rules if not holds]

    @property
    def undecayed_scale(self) -> float:
        """Learning rate of what weight decay spares, relative to `lr`."""
        return self.undecayed_lr / self.lr if self.undecayed_lr else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
