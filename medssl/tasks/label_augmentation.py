"""Classification that also learns how an image was turned or mirrored, and distils that into the plain network.

SLA with self-distillation: Lee et al., ICML 2020, https://arxiv.org/abs/1910.05872. Deviations: mirrorings as well as
quarter turns, 3D; both heads are of the decoder's class.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.losses.label_augmentation import aggregated, joint_cross_entropy, self_distillation
from medssl.models.networks import Network
from medssl.tasks.options import LabelAugmentOptions


class AugmentedLabelsTask(nn.Module):
    """A plain network, a second head for class and transformation together, and their loss.

    Only `network` is kept: it has learned from the second head, which looked at each image in all ways.

    Args:
        network: Image (B, C, *S) to logits (B, K).
        joint: Head to `K * len(transformations(options, dims))` logits.
        options: Transformations and temperature.
    """

    def __init__(self, network: Network, joint: nn.Module, options: LabelAugmentOptions) -> None:
        super().__init__()
        self.network, self.joint, self.options = network, joint, options

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, the sum of `joint_loss`, `class_loss` and `distillation_loss`, of `image` and `class_index` (B,)."""
        image, classes = batch["image"], batch["class_index"]
        views = transformed(image, self.options)  # (B, M, C, *S)
        count = views.shape[1]
        flat = views.flatten(0, 1)
        pyramid = self.network.encoder(flat)
        joint = self.joint(flat, pyramid).float()
        plain = self.network.decoder(image, [level[::count] for level in pyramid]).float()
        losses = {
            "joint_loss": joint_cross_entropy(joint, classes, count),
            "class_loss": functional.cross_entropy(plain, classes),
            "distillation_loss": self_distillation(aggregated(joint, count), plain, self.options.temperature),
        }
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}


def transformed(image: Tensor, options: LabelAugmentOptions) -> Tensor:
    """(B, M, C, *S): each image as it is, then under every other transformation.

    Args:
        image: (B, C, *S).
        options: Which transformations.
    """
    axes = tuple(a + 2 for a in options.axes)
    if options.transforms == "mirror":
        return torch.stack([image.flip(chosen) if chosen else image for chosen in subsets(axes)], dim=1)
    step = 2 if options.transforms == "half_turns" else 1
    return torch.stack([torch.rot90(image, k, axes) for k in range(0, 4, step)], dim=1)


def subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every choice of axes, none first."""
    return [chosen for size in range(len(axes) + 1) for chosen in itertools.combinations(axes, size)]
