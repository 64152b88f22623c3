"""Joint labels of class and transformation, and what is distilled from them.

Lee et al., "Self-supervised Label Augmentation via Input Transformations", ICML 2020, https://arxiv.org/abs/1910.05872.
The logits of sample b under transformation j are row `b * M + j`; column `c * M + j` stands for class c under j.
"""

import torch
from torch import Tensor
from torch.nn import functional


def joint_cross_entropy(logits: Tensor, classes: Tensor, transforms: int) -> Tensor:
    """Cross-entropy () of all samples under all transformations.

    Args:
        logits: (B * M, C * M).
        classes: (B,) class numbers.
        transforms: M; with 1 it is plain cross-entropy.
    """
    joint = classes[:, None] * transforms + torch.arange(transforms, device=classes.device)
    return functional.cross_entropy(logits, joint.flatten())


def aggregated(logits: Tensor, transforms: int) -> Tensor:
    """Logits (B, C) of the classes: mean over the transformations of the columns of each sample's own one."""
    classes = logits.shape[1] // transforms
    table = logits.reshape(-1, transforms, classes, transforms)  # (B, M, C, M)
    return table.diagonal(dim1=1, dim2=3).mean(-1)


def self_distillation(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 KL(softmax(teacher / T) | softmax(student / T))`, mean over samples; no gradient reaches the teacher.

    Args:
        teacher: (B, C) aggregated logits.
        student: (B, C) logits of the images as they are.
        temperature: T.
    """
    known = (teacher.detach() / temperature).softmax(1)
    learned = (student / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(learned, known, reduction="batchmean")
