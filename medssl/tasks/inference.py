"""Predicting whole prepared images with networks in torch: what the clinic does with the exported bundle."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medssl.runtime import sliding_window
from medssl.tasks.model_file import ModelSpec

FloatArray = npt.NDArray[np.float32]


def window_function(networks: Sequence[nn.Module]) -> Callable[[FloatArray], FloatArray]:
    """Logits (B, K, ...) of image windows (B, C, *window), numpy to numpy, on the networks' own device.

    Args:
        networks: One network, or the folds of an ensemble, whose softmax probabilities are averaged.
    """
    device = next(networks[0].parameters()).device

    @torch.no_grad()
    def predict(windows: FloatArray) -> FloatArray:
        image = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32)).to(device)
        outputs = [network(image).float() for network in networks]
        if len(outputs) > 1:
            outputs = [torch.stack(outputs).softmax(2).mean(0).log()]
        logits: FloatArray = outputs[0].cpu().numpy()
        return logits

    return predict


def segment_image(
    networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray, batch_size: int = 2
) -> npt.NDArray[np.uint8]:
    """Class map (*S) of a prepared image (C, *S) by a sliding window; smaller images are padded."""
    return sliding_window.segment(
        image,
        spec.window,
        window_function(networks),
        spec.network.out_channels,
        overlap=spec.overlap,
        batch_size=batch_size,
        mirror_axes=spec.mirror_axes,
    )


def classify_image(networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray) -> npt.NDArray[np.float64]:
    """Class probabilities (K,) of a prepared image (C, *S) from the window at its centre."""
    return sliding_window.classify(image, spec.window, window_function(networks), mirror_axes=spec.mirror_axes)
