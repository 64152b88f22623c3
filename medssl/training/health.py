"""Is pretraining learning something? Numbers and a picture that show a collapse or a leak before the run is over."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

_PANEL_PIXELS = 128
_TITLE_PIXELS = 16


def feature_spread(features: Tensor) -> dict[str, float]:
    """How far embeddings of different images differ.

    `feature_std` is the standard deviation over images of the L2-normalised features, averaged over dimensions, times
    sqrt(E): about 1 when they spread over the sphere, 0 when all images look alike. `effective_rank` is the exponential
    of the entropy of the normalised singular values of the centred features (Roy and Vetterli 2007,
    https://doi.org/10.5281/zenodo.40421): 1 when they lie on a line.

    Args:
        features: (N, E).
    """
    features = features.double()
    unit = torch.nn.functional.normalize(features, dim=1)
    values = torch.linalg.svdvals(features - features.mean(0))
    shares = values / values.sum().clamp_min(1e-12)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    spread = unit.std(0, correction=0).mean() * features.shape[1] ** 0.5
    return {"feature_std": float(spread), "effective_rank": float(entropy.exp()) if values.sum() > 1e-9 else 0.0}


@contextmanager
def watched_attention(encoder: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Attention's name to the entropy of each of its heads, (heads,), for each pass that is made inside.

    Attention that has no `attention_entropy`, as that of timm's models, is not watched.
    """
    found: dict[str, list[Tensor]] = {}
    hooks = [
        part.register_forward_pre_hook(partial(_measure, found.setdefault(name, [])), with_kwargs=True)
        for name, part in encoder.named_modules()
        if hasattr(part, "attention_entropy")
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def attention_spread(found: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """`attention_entropy`: the lowest mean entropy of a head that `watched_attention` found; empty where it found none.

    A share of the largest: 1 looks at all tokens alike, 0 at one alone (Zhai et al., ICML 2023,
    https://arxiv.org/abs/2303.06296).
    """
    heads = [torch.stack(list(passes)).mean(0).min() for passes in found.values() if passes]
    return {"attention_entropy": float(min(heads))} if heads else {}


def knn_accuracy(features: Tensor, classes: Sequence[int], patients: Sequence[str], neighbours: int = 5) -> float:
    """Balanced accuracy of the k nearest neighbours by cosine, never of the same patient; ties go to the nearest.

    Args:
        features: (N, E).
        classes: Class of each image.
        patients: Patient of each image.
        neighbours: Neighbours that vote.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    same = torch.tensor([[a == b for b in patients] for a in patients])
    similarity = (unit @ unit.T).masked_fill(same, -torch.inf)
    target = torch.tensor(list(classes))
    hits: dict[int, list[bool]] = {}
    for row, own in zip(similarity, target.tolist(), strict=True):
        order = row.argsort(descending=True, stable=True)[:neighbours]
        votes = target[order[torch.isfinite(row[order])]].tolist()
        if votes:
            hits.setdefault(own, []).append(max(votes, key=votes.count) == own)
    return float(np.mean([np.mean(answers) for answers in hits.values()])) if hits else float("nan")


def presence_auroc(features: Tensor, present: Tensor, patients: Sequence[str], ridge: float = 1.0) -> float:
    """How well a linear probe tells which structures a crop holds; 0.5 is chance.

    Ridge regression on standardised features, fitted on one half of the patients and measured on the other, both ways
    round; the mean area under the ROC curve over structures that occur and are absent in both halves.

    Args:
        features: (N, E).
        present: (N, K) bool.
        patients: Patient of each crop.
        ridge: Strength of the penalty, a share of the number of crops.
    """
    names = sorted(set(patients))
    half = torch.tensor([names.index(patient) % 2 == 0 for patient in patients])
    areas = []
    for fitted in (half, ~half):
        if not fitted.any() or fitted.all():
            continue
        scores = _ridge_scores(features.double(), present.double(), fitted, ridge)
        truth = present[~fitted]
        for k in range(present.shape[1]):
            both = [part[:, k].any() and not part[:, k].all() for part in (truth, present[fitted])]
            if all(both):
                areas.append(auroc(scores[:, k], truth[:, k]))
    return float(np.mean(areas)) if areas else float("nan")


def auroc(scores: Tensor, truth: Tensor) -> float:
    """Probability that a positive scores above a negative, ties counted half."""
    differences = scores[truth][:, None] - scores[~truth][None, :]
    return float(((differences > 0).double() + 0.5 * (differences == 0).double()).mean())


def panel(columns: dict[str, Tensor], rows: int = 4) -> npt.NDArray[np.uint8]:
    """A picture with a row an image and a column a kind; 3D images by the middle plane of their last axis.

    Args:
        columns: Title to (B, C, *S); the first channel is shown, grey from the first column's 1st to 99th percentile.
        rows: Most images to show.

    Returns:
        (rows, cols, 3) uint8.
    """
    planes = {title: [_plane(image[0]) for image in images[:rows]] for title, images in columns.items()}
    reference = next(iter(planes.values()))
    limits = [np.percentile(plane, (1, 99)) for plane in reference]
    height = max(1, round(_PANEL_PIXELS / max(reference[0].shape)))
    tiles = {
        title: np.concatenate(
            [_grey(p, *lim).repeat(height, 0).repeat(height, 1) for p, lim in zip(ps, limits, strict=True)]
        )
        for title, ps in planes.items()
    }
    width = next(iter(tiles.values())).shape[1]
    body = np.concatenate(list(tiles.values()), axis=1)
    canvas = Image.new("RGB", (body.shape[1], body.shape[0] + _TITLE_PIXELS))
    canvas.paste(Image.fromarray(body), (0, _TITLE_PIXELS))
    draw = ImageDraw.Draw(canvas)
    for number, title in enumerate(tiles):
        draw.text((number * width + 4, 2), title, fill="white")
    return np.asarray(canvas)


def _measure(entropies: list[Tensor], part: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    entropies.append(cast(Callable[..., Tensor], part.attention_entropy)(*args, **options))


def _ridge_scores(features: Tensor, target: Tensor, fitted: Tensor, ridge: float) -> Tensor:
    known = features[fitted]
    mean, deviation = known.mean(0), known.std(0, correction=0).clamp_min(1e-6)
    x, unseen = (known - mean) / deviation, (features[~fitted] - mean) / deviation
    kernel = x @ x.T + ridge * len(x) * torch.eye(len(x), dtype=x.dtype)  # as many unknowns as crops, not features
    weights: Tensor = torch.linalg.solve(kernel, target[fitted] - target[fitted].mean(0))
    return unseen @ x.T @ weights


def _plane(image: Tensor) -> npt.NDArray[np.float32]:
    """(*S) to (rows, cols): the first axis to the right, the second upwards."""
    array = image.float().cpu().numpy()
    plane = array[..., array.shape[-1] // 2] if array.ndim == 3 else array
    return np.ascontiguousarray(np.flip(plane.T, 0)) if array.ndim == 3 else plane


def _grey(plane: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.uint8]:
    shades: npt.NDArray[np.uint8] = np.clip((plane - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return shades
