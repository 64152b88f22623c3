"""Optimisers, parameter groups and the learning-rate schedule."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from medssl.imaging.errors import ConfigError
from medssl.training.lars import LARS
from medssl.training.options import TrainOptions

_TOKENS = r"cls_token|mask_token|mask_tokens|pos_embed|position_embedding|position|tokens|gamma|register_tokens"
_DOUBLINGS = 4  # from a tenth to more than one
_SPARED = re.compile(rf"(^|[._])({_TOKENS})($|[._])|(^|\.)query$")


@dataclass
class ParameterGroup:
    """Parameters with one learning rate and one weight decay.

    Args:
        names: Names in the module.
        parameters: The parameters, in the order of the names.
        scale: Learning rate relative to the run's.
        decay: Whether weight decay applies.
        frozen_steps: First steps in which the learning rate is zero.
        thaw_steps: After them it begins at a tenth and doubles every so many steps; 0 = it is all there at once.
        steady: Whether the learning rate stays at its peak once it is warmed up.
    """

    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    scale: float = 1.0
    decay: bool = True
    frozen_steps: int = 0
    thaw_steps: int = 0
    steady: bool = False

    def rate_at(self, step: int) -> float:
        """Learning rate relative to the run's at a step counted from 0."""
        begun = step - self.frozen_steps
        if begun < 0:
            return 0.0
        doubled = begun // self.thaw_steps if self.thaw_steps else _DOUBLINGS
        return self.scale * min(1.0, 0.1 * 2.0 ** min(doubled, _DOUBLINGS))


def parameter_groups(
    module: nn.Module,
    layer_decay: float = 1.0,
    encoder: str | None = None,
    encoder_scale: float = 1.0,
    frozen_steps: int = 0,
    thaw_steps: int = 0,
    undecayed_scale: float = 1.0,
) -> list[ParameterGroup]:
    """Group the trainable parameters by layer and by whether they are decayed.

    Biases, norms (at most one axis), tokens and position embeddings are never decayed. Layer `l` of the `L` layers of
    the encoder gets `encoder_scale * layer_decay ** (L - l)`; everything else the full rate (BEiT, Bao et al. 2022,
    https://arxiv.org/abs/2106.08254). Names that begin as one of the module's `steady_rates`, where it has any, keep
    their rate to the end.

    Args:
        module: Module to train.
        layer_decay: Factor from a layer to the one below it.
        encoder: Prefix of the encoder's parameter names; by default that of the module's attribute `encoder`.
        encoder_scale: Learning rate of the encoder's last layer relative to the rest.
        frozen_steps: Steps during which the encoder does not move.
        thaw_steps: Steps after which its learning rate, a tenth of its own at first, doubles; 0 = its own at once.
        undecayed_scale: Learning rate of what is not decayed relative to that of its neighbours.

    Raises:
        ConfigError: Rates by layer of an encoder whose layers have names of their own, such as timm's.
    """
    prefix = _encoder_prefix(module) if encoder is None else encoder
    depth = {
        name: _depth(name.removeprefix(prefix))
        for name, _ in module.named_parameters()
        if prefix and name.startswith(prefix)
    }
    if layer_decay != 1 and depth and -1 not in depth.values():
        names = ", ".join(list(depth)[:2])
        raise ConfigError([f"train.layer_decay: which layers of this encoder are first is not known ({names}, ...)"])
    top = max((d for d in depth.values() if d is not None), default=-1) + 2
    kept = getattr(module, "steady_rates", ())
    groups: dict[tuple[float, bool, tuple[int, int], bool], ParameterGroup] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        scale, frozen = 1.0, (0, 0)
        if name in depth:
            layer = depth[name]
            scale = encoder_scale * layer_decay ** (top - (top if layer is None else layer + 1))
            frozen = (frozen_steps, thaw_steps)
        decay = parameter.ndim > 1 and not _SPARED.search(name)
        scale, steady = scale if decay else scale * undecayed_scale, name.startswith(kept)
        group = groups.setdefault((scale, decay, frozen, steady), ParameterGroup([], [], scale, decay, *frozen, steady))
        group.names.append(name)
        group.parameters.append(parameter)
    return list(groups.values())


def _encoder_prefix(module: nn.Module) -> str:
    inner = getattr(module, "encoder", None)
    return next((f"{name}." for name, part in module.named_modules() if part is inner), "")


def _depth(name: str) -> int | None:
    """Number of a block or stage; -1 for the stem and embeddings, None for what comes after the last block."""
    if found := re.match(r"(?:\w+\.)*?(?:blocks|stages|levels|layers)\.(\d+)\.", name):
        return int(found.group(1))
    return -1 if re.match(r"(?:slices\.)?(?:patch_embed|embed|stem|pos|tokens|cls_token|position)", name) else None


def build_optimizer(groups: Sequence[ParameterGroup], options: TrainOptions) -> torch.optim.Optimizer:
    """The optimiser over the groups; AdamW and SGD fused, which is one pass over the weights a step."""
    content = [
        {"params": g.parameters, "weight_decay": options.weight_decay if g.decay else 0.0, "lr": options.lr * g.scale}
        for g in groups
    ]
    if options.optimizer == "lars":
        return LARS([{**part, "adapt": g.decay} for part, g in zip(content, groups, strict=True)], lr=options.lr)
    if options.optimizer == "sgd":
        momentum, nesterov = options.momentum, options.nesterov
        return torch.optim.SGD(content, lr=options.lr, momentum=momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(content, lr=options.lr, betas=(0.9, options.beta2), fused=True)


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set the momentum of SGD to 0, once the strategy has split the weights: its parts are as large as theirs.

    Fused steps want all of it from the start on, and some weights have no gradient yet.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def rate_at(step: int, options: TrainOptions, steady: bool = False) -> float:
    """Share of the peak learning rate at a step counted from 0; a pure function, so there is no state to resume.

    Args:
        step: Steps done.
        options: The schedule.
        steady: Do not fall after the warm-up.
    """
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    share = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    if steady or options.schedule == "constant":
        return 1.0
    falling = 0.5 * (1 + math.cos(math.pi * share)) if options.schedule == "cosine" else (1 - share) ** 0.9
    return options.final_lr + (1 - options.final_lr) * falling


def decay_at(step: int, options: TrainOptions) -> float:
    """Weight decay at a step counted from 0: half a cosine from `weight_decay` to `weight_decay_end`, where given."""
    if options.weight_decay_end is None:
        return options.weight_decay
    rest = 0.5 * (1 + math.cos(math.pi * step / max(options.steps, 1)))
    return options.weight_decay_end + (options.weight_decay - options.weight_decay_end) * rest


def set_rates(
    optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], step: int, options: TrainOptions
) -> None:
    """Set each group's learning rate and weight decay for a step."""
    decay = decay_at(step, options)
    for target, group in zip(_groups(optimizer), groups, strict=True):
        target["lr"] = options.lr * rate_at(step, options, group.steady) * group.rate_at(step)
        target["weight_decay"] = decay if group.decay else 0.0


@torch.no_grad()
def clip_each(module: nn.Module, largest: float) -> None:
    """Shorten each parameter's gradient to a norm of `largest`, each on its own, as DINO does."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    torch._foreach_mul_(gradients, [(largest / (norm + 1e-6)).clamp(max=1) for norm in norms])


def _groups(optimizer: torch.optim.Optimizer) -> Iterator[dict[str, object]]:
    yield from optimizer.param_groups
