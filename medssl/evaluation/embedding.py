"""Images as an encoder sees them: one vector an image, from a cache or from a file, in the same way."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.bags import spread_slices
from medssl.evaluation.features import extract
from medssl.evaluation.frozen import encoder_problems, pretrained_encoder, slice_axis
from medssl.evaluation.options import EmbedOptions
from medssl.evaluation.probe_data import middle_crop
from medssl.imaging.errors import ConfigError, ImageError, MedsslError
from medssl.imaging.files import sha256
from medssl.imaging.naming import split_slice
from medssl.imaging.preprocess import Preprocess, prepare_volume
from medssl.imaging.target_grid import SHOWN
from medssl.imaging.volume import Volume
from medssl.models.weights import read_encoder

Array = npt.NDArray[np.float32]
Shown = dict[int | None, Array]
"""Images (C, *S) that the encoder sees of a case: the case itself under None, or slices by their numbers."""


class Embedder:
    """A frozen encoder and how images are shown to it; final.

    Batch norm keeps the statistics of the pretraining, so that a vector depends on its image alone.

    Args:
        file: Encoder file.
        preprocess: Of the images.
        channels: Their channels.
        options: What is made of an image.
        device: Where the encoder computes.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: It is for other images, or its size or pooling is not known.
    """

    def __init__(
        self, file: Path, preprocess: Preprocess, channels: Sequence[str], options: EmbedOptions, device: str = "cpu"
    ) -> None:
        meta = read_encoder(file)[1]
        own = meta["encoder"]["init_args"].get("spatial_dims", preprocess.spatial_dims)
        self.of_slices = own == 2 and preprocess.spatial_dims == 3
        dims = 2 if self.of_slices else preprocess.spatial_dims
        size = options.size or tuple(meta.get("provenance", {}).get("crop", ()))
        problems = encoder_problems(file, meta, dims, channels, "what is embedded")
        if not size:
            problems.append(f"embed.size is missing: {file} does not say how large the pretraining's crops were")
        elif len(size) != dims:
            problems.append(f"embed.size {size} needs {dims} numbers: what the encoder sees is {dims}D")
        if problems:
            raise ConfigError(problems)
        self._axis = slice_axis(options.slice_axis, meta)
        self.options, self.preprocess = replace(options, size=size, slice_axis=self._axis), preprocess
        self._encoder = pretrained_encoder(file, dims, channels).to(device).eval()
        self.about: dict[str, Any] = {
            "encoder": {
                "file": str(file.resolve()), "sha256": sha256(file),
                "method": meta.get("method", {}).get("class_path", "").rpartition(".")[2],
            },
            "preprocess": preprocess.to_json(),
            "channels": list(channels),
            "options": self.options.to_json(),
        }  # fmt: skip
        """What makes its vectors comparable with others; JSON-able."""

    def of_case(self, cache: Cache, case: CachedCase) -> Shown:
        """What the encoder sees of a case of a cache."""
        return self._shown(partial(middle_crop, cache, case), case.shape)

    def shown(self, volume: Volume) -> Shown:
        """What the encoder sees of an image that is not prepared.

        Raises:
            ImageError: It cannot be prepared, or has another number of channels than the encoder takes.
        """
        array, wanted = prepare_volume(volume, self.preprocess).array, len(self.about["channels"])
        if len(array) != wanted:
            raise ImageError(f"{len(array)} channel(s) where the encoder takes {wanted}", reason="channels")
        return self._shown(partial(_middle, array), array.shape[1:])

    def turned(self, image: str) -> bool:
        """Whether what the encoder sees of an image lies as volumes do, not as pictures are shown.

        Args:
            image: As a manifest names it.
        """
        is_slice = bool(split_slice(image.split(";", maxsplit=1)[0].strip())[1])
        return self.of_slices or (is_slice and self.preprocess.orientation != SHOWN)

    def rows(self, shown: Shown) -> list[int | None]:
        """Slices that get a vector of their own; None for the whole case."""
        return list(shown) if self.options.volumes == "each" else [None]

    def features(self, shown: Sequence[Shown], names: Sequence[str]) -> Array:
        """(n, E) vectors, one for each of `rows` of each case.

        Args:
            shown: What the encoder sees of each case.
            names: Of the cases, for messages.

        Raises:
            ConfigError: The encoder has no such pooling.
            MedsslError: Features that are no numbers.
        """
        images = torch.from_numpy(np.stack([image for case in shown for image in case.values()]))
        owners = [number for number, case in enumerate(shown) for _ in self.rows(case)]
        bags = None
        if self.of_slices and self.options.volumes == "mean":
            bags = torch.tensor([number for number, case in enumerate(shown) for _ in case])
        pooled = extract(self._encoder, images, bags).pooled
        if self.options.pooling not in pooled:
            raise ConfigError([f"embed.pooling {self.options.pooling}: this encoder has {', '.join(pooled)}"])
        found: Array = pooled[self.options.pooling].numpy()
        broken = sorted({owners[int(n)] for n in np.flatnonzero(~np.isfinite(found).all(1))})
        if broken:
            raise MedsslError(
                f"the features of {len(broken)} image(s) are no numbers (NaN), first {names[broken[0]]!r}: the "
                "encoder's training broke, or the image was prepared otherwise",
                reason="nan",
            )
        return found

    def _shown(self, middle: Callable[[Sequence[int]], Array], shape: Sequence[int]) -> Shown:
        options = self.options
        if not self.of_slices:
            return {None: middle(options.size)}
        return dict(spread_slices(middle, shape[self._axis], options.size, self._axis, options.slices).items())


def _middle(array: Array, size: Sequence[int]) -> Array:
    """The middle of (C, *S) as (C, *size); what is too small repeats its edge."""
    starts = [(n - s) // 2 for n, s in zip(array.shape[1:], size, strict=True)]
    cut = tuple(slice(max(start, 0), max(start, 0) + s) for start, s in zip(starts, size, strict=True))
    middle = array[(slice(None), *cut)]
    before = [max(-start, 0) for start in starts]
    after = [s - n - b for s, n, b in zip(size, middle.shape[1:], before, strict=True)]
    return np.pad(middle, [(0, 0), *zip(before, after, strict=True)], mode="edge").astype(np.float32)
