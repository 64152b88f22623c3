"""Predicting whole prepared images with networks in torch: what the clinic does with the exported bundle."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.runtime import sliding_window
from medssl.runtime.blending import Observe
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
        return self._mean([network(image) for network in self.networks])

    def with_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, ...), and features (B, F) of the first network, whose encoder works once for both."""
        first, *others = self.networks
        maps = first.get_submodule("encoder")(image)
        outputs = [first.get_submodule("decoder")(image, maps), *(network(image) for network in others)]
        return self._mean(outputs), pooled(maps)

    def features(self, image: Tensor) -> Tensor:
        """Features (B, F) of the first network alone."""
        return pooled(self.networks[0].get_submodule("encoder")(image))

    def _mean(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            first: Tensor = outputs[0]
            return first
        logits = torch.stack(outputs).float()
        if self._activation == "softmax":
            return _log_of_mean(functional.log_softmax(logits, dim=2))
        return _log_of_mean(functional.logsigmoid(logits)) - _log_of_mean(functional.logsigmoid(-logits))


class WithFeatures(nn.Module):
    """What a bundle with a gate exports: an ensemble that answers logits and features."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, ...) and features (B, F)."""
        return self.ensemble.with_features(image)


def pooled(maps: Sequence[Tensor]) -> Tensor:
    """Mean and standard deviation of each channel of every level of an encoder: (B, F)."""
    flat = [level.flatten(2) for level in maps]
    return torch.cat([part for level in flat for part in (level.mean(-1), level.std(-1, correction=0))], dim=1)


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
    networks: Sequence[nn.Module],
    spec: ModelSpec,
    image: FloatArray,
    batch_size: int = 2,
    observe: Observe | None = None,
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
        observe=observe,
    )


def segment_scores(
    networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray, batch_size: int = 2
) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """As `segment_image`, and the probabilities (K, *S) behind the class map."""
    activation = sliding_window.sigmoid if spec.activation == "sigmoid" else sliding_window.softmax
    shares = np.empty((spec.network.out_channels, *image.shape[1:]), np.float32)

    def observe(place: tuple[slice, ...], logits: FloatArray, _: npt.NDArray[np.uint8]) -> None:
        shares[(slice(None), *place)] = activation(logits[None])[0]

    return segment_image(networks, spec, image, batch_size, observe), shares


def classify_image(
    networks: Sequence[nn.Module], spec: ModelSpec, image: FloatArray, temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    """Class probabilities (K,) of a prepared image (C, *S): the mean over windows that cover it."""
    return sliding_window.classify(
        image,
        spec.window,
        window_function(Ensemble(networks, spec.activation)),
        mirror_axes=spec.mirror_axes,
        activation=spec.activation,
        temperature=temperature,
    )
