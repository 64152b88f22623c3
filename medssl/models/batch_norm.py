"""Batch norm over the batch of all processes: two devices with half a batch each compute what one would with all.

On every device, CPUs included, where `torch.nn.SyncBatchNorm` runs on GPUs alone.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn


def several_processes() -> bool:
    """Whether a batch is computed by more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def over_processes(total: Tensor) -> Tensor:
    """Sum of the processes' tensors; the gradient is the sum of theirs, as DDP's mean over processes expects it."""
    if not several_processes():
        return total
    summed: Tensor = differentiable.all_reduce(total)  # type: ignore[no-untyped-call]
    return summed


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` of (B, E) with the statistics of the batch of all processes."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise each dimension."""
        if not self.training or not several_processes():
            return super().forward(vectors)
        values = vectors.float()
        count = over_processes(torch.tensor(float(len(values)), device=values.device))
        mean = over_processes(values.sum(0)) / count
        centred = values - mean
        variance = over_processes(centred.square().sum(0)) / count
        self._update(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        out = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            out = out * self.weight + self.bias
        return out.to(vectors.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)
