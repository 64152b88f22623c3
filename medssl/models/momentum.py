"""What follows a network that is trained: a slowly moving copy, and a queue of its outputs."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def cosine_momentum(start: float, step: int, steps: int) -> float:
    """Momentum after `step` of `steps` steps: rises from `start` to 1 along half a cosine (BYOL, DINO)."""
    progress = min(step / max(steps, 1), 1.0)
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class Teacher(nn.Module):
    """Exponential moving average of a student; never trained by gradient.

    Weights are averaged; buffers are not, as in the authors' codes of MoCo v3, BYOL and DINO: the teacher's batch norms
    standardise by the batch that it sees, and their running statistics, which an encoder file of it holds, are those of
    its own passes. It skips and drops nothing by chance (stochastic depth, dropout): what it says of an image is what
    the student must learn, not a draw.

    Args:
        student: What is followed; the teacher starts as its copy.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student)
        self.network.requires_grad_(False)
        _without_chance(self.network)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """As the student, without gradient."""
        return self.network(*inputs)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """`teacher <- momentum * teacher + (1 - momentum) * student`, weight by weight."""
        own, other = ([p.detach() for p in network.parameters()] for network in (self.network, student))
        torch._foreach_lerp_(own, other, 1 - momentum)


def _without_chance(network: nn.Module) -> None:
    """Set what modules skip or drop to 0; their mode stays that of training, for the statistics of batch norm."""
    for module in network.modules():
        names = ("drop_path", "drop_prob", "dropout", *(["p"] if isinstance(module, _DROPOUTS) else []))
        for name in names:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


class KeyQueue(nn.Module):
    """First in, first out: the latest `length` unit vectors; starts with random ones (MoCo).

    Args:
        length: Vectors kept; a whole number of batches.
        width: Size of a vector.
        seed: Seed of the random vectors at the start.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, length: int, width: int, seed: int = 0) -> None:
        super().__init__()
        random = torch.randn(length, width, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("keys", F.normalize(random, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest vectors by `keys` (B, E), normalised; B divides the length."""
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = F.normalize(keys.float(), dim=1)
        self.pointer.copy_((self.pointer + len(keys)) % len(self.keys))
