"""Batch norm over the batch of all processes: two devices with half a batch each compute what one would with all.

On every device, CPUs included, where `torch.nn.SyncBatchNorm` runs on GPUs alone.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn

_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
    """`torch.nn.BatchNorm1d` of (B, C), and that of (B, C, *S), with the statistics of the batch of all processes.

    Parts that a layer of another library has behind its norm (`convert_batch_norms`) follow in their order.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each channel."""
        several = self.training and several_processes()
        out = self._over_processes(features) if several else super().forward(features)
        for part in self.children():
            out = part(out)
        return out

    def _check_input_dim(self, input: Tensor) -> None:
        """Images too."""

    def _over_processes(self, features: Tensor) -> Tensor:
        values = features.float()
        axes, shape = (0, *range(2, values.ndim)), (1, -1, *[1] * (values.ndim - 2))
        count = over_processes(torch.tensor(values.numel() / values.shape[1], device=values.device))
        mean = over_processes(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = over_processes(centred.square().sum(axes)) / count
        self._update(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(features.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum  # torch's mean of all
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)


def convert_batch_norms(module: nn.Module) -> list[str]:
    """Let batch norms of torch, and timm's `BatchNormAct2d`, take the statistics of the batch of all processes.

    Each layer stays the object that it is, with its name, weights, statistics and hooks; its class alone changes.

    Returns:
        Names of layers with running statistics of other kinds, which are as they were.
    """
    left = []
    for name, layer in module.named_modules():
        if type(layer) in _TORCH or _has_activation(layer):
            layer.__class__ = BatchNorm
        elif getattr(layer, "running_var", None) is not None and not isinstance(layer, BatchNorm | nn.SyncBatchNorm):
            left.append(name)
    return left


def _has_activation(layer: nn.Module) -> bool:
    """Whether a layer is timm's norm with what follows it: `drop`, then `act`."""
    parts = [name for name, _ in layer.named_children()]
    return type(layer).__name__ == "BatchNormAct2d" and isinstance(layer, nn.BatchNorm2d) and parts == ["drop", "act"]
