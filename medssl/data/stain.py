"""Varying the stains of H&E sections: a pure function of images (n, 3, *S) float32 and numbers a sample."""

import torch
from torch import Tensor

_LEAST = 1 / 255  # the darkest light that is told from none
_RGB_OF_STAIN = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and DAB in red, green and blue: Ruifrok and Johnston, Anal Quant Cytol Histol
23 (2001) 291-299, in the form that most tools use."""


def jitter_stain(image: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Change how strongly each stain has taken.

    The image is taken apart into the three stains in optical density (Beer-Lambert), each is multiplied and moved, and
    they are put together again: Tellez et al., IEEE TMI 2018, https://arxiv.org/abs/1808.05896.

    Args:
        image: (n, 3, *S) red, green and blue, from -1 (no light) to 1 (white); clipped to that.
        factor: (n, 3) of haematoxylin, eosin and the rest.
        offset: (n, 3) added, in optical density (natural logarithm).
    """
    stains = torch.tensor(_RGB_OF_STAIN, dtype=torch.float64)
    stains = stains / stains.norm(dim=1, keepdim=True)
    apart, together = (matrix.to(image) for matrix in (torch.linalg.inv(stains), stains))
    density = -((image + 1) / 2).clamp(_LEAST, 1).log().movedim(1, -1)
    shape = [-1, *[1] * (image.ndim - 2), 3]
    amount = (density @ apart) * factor.view(shape) + offset.view(shape)
    light: Tensor = (-(amount @ together)).exp().clamp(0, 1)
    return (2 * light - 1).movedim(-1, 1)
