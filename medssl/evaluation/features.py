"""Frozen features of images: one vector an image in several ways, and the tokens of the deepest map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from medssl.evaluation.device import device_of, gpu_memory_told
from medssl.models.encoder import Encoder
from medssl.models.vit import ViT

_BATCH = 64
_UPDATES = 60  # passes of a batch through batch norm: what it started with then counts for less than 1 %
_TOKENS = {2: 5, 3: 3}  # most cells an axis of the maps that attentive probes read


@dataclass(frozen=True)
class Features:
    """Of N images.

    Args:
        pooled: Kind of pooling to (N, E): `mean` and `peak` (mean and maximum) of the deepest map, `levels` (means of
            all maps) and, where the encoder has a token for it, `summary`.
        tokens: (N, T, E) cells of the deepest map, at most 5 x 5 or 3 x 3 x 3 (averages), or the images of a bag.
        there: (N, T) which of them are there, where bags differ in size.
        blocks: More kinds of pooling, for linear probes alone: class tokens of a transformer's last blocks.
    """

    pooled: dict[str, Tensor]
    tokens: Tensor
    there: Tensor | None = None
    blocks: dict[str, Tensor] = field(default_factory=dict)


@gpu_memory_told()
def calibrate(encoder: Encoder, images: Tensor, rows: Tensor | None = None, seed: int = 0) -> None:
    """Let batch norm see the images, so that a random encoder is not judged by statistics that it never met.

    Nothing changes in an encoder without such statistics. Leaves the encoder in eval mode.

    Args:
        encoder: Its buffers change.
        images: (N, C, *S).
        rows: Numbers of those of the training split; all when left out.
        seed: Seed of the batches.
    """
    seen = torch.arange(len(images)) if rows is None else rows
    generator = torch.Generator().manual_seed(seed)
    if any(name.endswith("running_var") for name, _ in encoder.named_buffers()):
        encoder.train()
        with torch.no_grad():
            for _ in range(_UPDATES):
                encoder(images[seen[torch.randperm(len(seen), generator=generator)[:_BATCH]]].to(device_of(encoder)))
    encoder.eval()


@gpu_memory_told()
@torch.no_grad()
def extract(encoder: Encoder, images: Tensor, bags: Tensor | None = None, blocks: Sequence[int] = ()) -> Features:
    """Features of images, from an encoder in eval mode: float32 on the CPU, wherever the encoder computes.

    Args:
        encoder: The encoder.
        images: (N, C, *S), or (M, C, *S) in N bags.
        bags: (M,) bag of each image, from 0: features are averaged over a bag, its tokens are the means of its images'
            deepest maps.
        blocks: Numbers of last blocks whose class tokens are kept as well, of a vision transformer.
    """
    parts = [_of_batch(encoder, batch) for batch in torch.split(images, _BATCH)]
    pooled = {name: torch.cat([part.pooled[name] for part in parts]) for name in parts[0].pooled}
    more = _of_blocks(encoder, images, blocks) if isinstance(encoder, ViT) and blocks else {}
    if bags is None:
        return Features(pooled, torch.cat([part.tokens for part in parts]), blocks=more)
    numbers = range(int(bags.max()) + 1)
    averaged, more = (
        {name: torch.stack([v[bags == n].mean(0) for n in numbers]) for name, v in kinds.items()}
        for kinds in (pooled, more)
    )
    members = [pooled["mean"][bags == n] for n in numbers]
    sizes = torch.tensor([len(bag) for bag in members])
    tokens = torch.nn.utils.rnn.pad_sequence(members, batch_first=True)
    return Features(averaged, tokens, torch.arange(tokens.shape[1]) < sizes[:, None], more)


def _of_blocks(encoder: ViT, images: Tensor, blocks: Sequence[int]) -> dict[str, Tensor]:
    """Class tokens of the last blocks, with and without the mean of the last patches, as in DINOv2's linear probe.

    Oquab et al., 2023, https://arxiv.org/abs/2304.07193; numbers above the encoder's depth mean all its blocks.
    """
    numbers = sorted({min(count, len(encoder.blocks)) for count in blocks})
    device = device_of(encoder)
    found = [encoder.class_tokens(batch.to(device), numbers[-1]) for batch in torch.split(images, _BATCH)]
    tokens, patches = (torch.cat(parts).float().cpu() for parts in zip(*found, strict=True))
    kinds = {}
    for count in numbers:
        kinds[f"class tokens of {count}"] = own = tokens[:, -count:].flatten(1)
        kinds[f"class tokens of {count} and patches"] = torch.cat([own, patches], dim=1)
    return kinds


def _of_batch(encoder: Encoder, images: Tensor) -> Features:
    images = images.to(device_of(encoder))
    maps: Sequence[Tensor] = encoder(images)
    means = [level.flatten(2).mean(2) for level in maps]
    pooled = {
        "mean": means[-1],
        "peak": torch.cat([means[-1], maps[-1].flatten(2).amax(2)], 1),
        "levels": torch.cat(means, 1),
    }
    if type(encoder).summary is not Encoder.summary:
        pooled["summary"] = encoder.summary(images)
    return Features({name: value.float().cpu() for name, value in pooled.items()}, _tokens(maps[-1].float()).cpu())


def _tokens(deepest: Tensor) -> Tensor:
    """(B, E, *S) to (B, T, E), averaged where there are too many."""
    dims = deepest.ndim - 2
    size = [min(n, _TOKENS[dims]) for n in deepest.shape[2:]]
    pool: Callable[[Tensor, list[int]], Tensor] = (
        functional.adaptive_avg_pool3d if dims == 3 else functional.adaptive_avg_pool2d  # type: ignore[assignment]
    )
    return pool(deepest, size).flatten(2).transpose(1, 2)
