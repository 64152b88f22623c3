"""The precision that a run really has."""

import torch

from medssl.training.options import TrainOptions


def has_bf16(device: torch.device) -> bool:
    """Whether torch computes bf16 with the device's vectors; without, convolutions took 17 times as long as in fp32."""
    vectors = torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cpu" or vectors


def arithmetic(device: torch.device, options: TrainOptions) -> str:
    """The precision of a run on a device, and why where it is not the one that was asked for."""
    if options.precision == "bf16" and not has_bf16(device):
        return "fp32 (bf16 was asked for, but would take many times as long on this processor)"
    return options.precision
