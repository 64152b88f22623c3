"""Predicting whole prepared images with networks in torch: what the clinic does with the exported bundle."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.runtime import sliding_window
from medssl.tasks.model_file import ModelSpec

FloatArray = npt.NDArray[np.float32]


class Ensemble(nn.Module):
    """Networks whose probabilities are averaged; answers the logits of the mean. One network is passed through.

    Args:
        networks: Networks from image (B, C, *S) to logits (B, K, ...).
        activation: How their logits become probabilities.
    """

    def __init__(self, networks: Sequence[nn.Module], activation: sliding_window.Activation = "softmax") -> None:
        super().__init__()
        self.networks, self._activation = nn.ModuleList(networks), activation

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, ...)."""
        outputs = [network(image) for network in self.networks]
        if len(outputs) == 1:
            first: Tensor = outputs[0]
            return first
        logits = torch.stack(outputs).float()
        if self._activation == "softmax":
            return _log_of_mean(functional.log_softmax(logits, dim=2))
        return _log_of_mean(functional.logsigmoid(logits)) - _log_of_mean(functional.logsigmoid(-logits))


def _log_of_mean(logs: Tensor) -> Tensor:
    """Logarithm of the mean over the first axis of the numbers whose logarithms are given."""
    return torch.logsumexp(logs, dim=0) - math.log(len(logs))


def window_function(network: nn.Module) -> Callable[[FloatArray], FloatArray]:
    """Logits (B, K, ...) of image windows (B, C, *window), numpy to numpy, on the network's own device."""
    device = next(network.parameters()).device

    @torch.no_grad()
    def predict(windows: FloatArray) -> FloatArray:
        image = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32)).to(device)
        logits: FloatArray = network(image).float().cpu().numpy()
        return logits

    return predict


def segment_image(
    networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray, batch_size: int = 2
) -> npt.NDArray[np.uint8]:
    """Class map (*S) of a prepared image (C, *S) by a sliding window; smaller images are padded."""
    return sliding_window.segment(
        image,
        spec.window,
        window_function(Ensemble(networks, spec.activation)),
        spec.network.out_channels,
        overlap=spec.overlap,
        batch_size=batch_size,
        mirror_axes=spec.mirror_axes,
    )


def segment_scores(
    networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray, batch_size: int = 2
) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """As `segment_image`, and the probabilities (K, *S) behind the class map."""
    logits = sliding_window.logits(
        image,
        spec.window,
        window_function(Ensemble(networks, spec.activation)),
        spec.network.out_channels,
        overlap=spec.overlap,
        batch_size=batch_size,
        mirror_axes=spec.mirror_axes,
    )
    activation = sliding_window.sigmoid if spec.activation == "sigmoid" else sliding_window.softmax
    return logits.argmax(0).astype(np.uint8), activation(logits[None])[0]


def classify_image(networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray) -> npt.NDArray[np.float64]:
    """Class probabilities (K,) of a prepared image (C, *S): the mean over windows that cover it."""
    return sliding_window.classify(
        image,
        spec.window,
        window_function(Ensemble(networks, spec.activation)),
        mirror_axes=spec.mirror_axes,
        activation=spec.activation,
    )
