"""Adding up losses of several tasks."""

from torch import Tensor


def automatic_weighting(losses: Tensor, sigma: Tensor) -> Tensor:
    """Sum of `loss / (2 sigma^2) + ln(1 + sigma^2)`: each task's learned uncertainty sets its weight.

    Kendall et al., CVPR 2018, https://arxiv.org/abs/1705.07115, in the form of Liebel and Körner, 2018,
    https://arxiv.org/abs/1805.06334, which cannot fall below 0.

    Args:
        losses: (n,) of the tasks, each 0 or more.
        sigma: (n,) learned; 1 at the start, not decayed. Only its square counts.
    """
    variance = sigma.float().square()
    return (losses.float() / (2 * variance) + variance.log1p()).sum()
