"""The same place of the body in two views must have the same embedding, and no other place may.

SAM: Yan et al., IEEE TMI 2022, https://arxiv.org/abs/2012.02383.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from medssl.losses.precision import without_autocast

_NOWHERE = 1e6  # steps: no cell lies within a radius of it


@dataclass(frozen=True)
class PairSampling:
    """How many places are compared with how many others.

    Args:
        candidates: Places of a view that are looked at for a counterpart in the other.
        anchors: Of those that have one, how many are compared.
        hard: So many of the most similar other places of the two views are hard negatives.
        taken: So many of them are drawn for each anchor.
        near: Farthest that a counterpart may be, in steps of the grid.
        ignored: Places nearer than this to an anchor or its counterpart are no negatives, in steps of the grid.
    """

    candidates: int
    anchors: int
    hard: int
    taken: int
    near: float
    ignored: float


@without_autocast
def place_info_nce(
    embedding: Tensor,
    places: Tensor,
    sampling: PairSampling,
    temperature: float,
    generator: torch.Generator,
    *,
    ranking: Tensor | None = None,
    others: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each anchor's counterpart against hard negatives of both views, and others.

    Equals the logarithm of one more than the number of negatives where all embeddings agree; 0 where no place has a
    counterpart.

    Args:
        embedding: (2, N, E) of unit length, of the cells of both views of one image.
        places: (2, N, D) where they lie in the image, in steps of the grid; NaN where a cell shows no place of it: it
            then is no anchor, no counterpart and no negative.
        sampling: How many of what.
        temperature: Divides the cosines.
        generator: CPU generator.
        ranking: (2, N, E) further embeddings that take part in the choice of hard negatives, not in the loss.
        others: (M, E) embeddings of other images: negatives for all.

    Returns:
        () mean over the anchors of both directions.
    """
    rows, everyone = embedding.shape[1], embedding.float().flatten(0, 1)
    shown = ~places.isnan().any(-1)
    known = places.float().masked_fill(~shown[..., None], _NOWHERE)
    everywhere = known.flatten(0, 1)
    seen = (embedding if ranking is None else torch.cat([embedding, ranking], dim=-1)).detach().float().flatten(0, 1)
    total, count = everyone.new_zeros(()), everyone.new_zeros(())
    for view in range(2):
        drawn = torch.randperm(rows, generator=generator)[: sampling.candidates].to(places.device)
        distance, partner = torch.cdist(known[view, drawn], known[1 - view]).min(1)
        distance = distance.masked_fill(~shown[view, drawn], torch.inf)
        order = torch.argsort((distance > sampling.near).int(), stable=True)[: sampling.anchors]
        has_one = distance[order] <= sampling.near
        anchor, partner = drawn[order] + view * rows, partner[order] + (1 - view) * rows
        far = ~_near(everywhere, anchor, sampling.ignored) & ~_near(everywhere, partner, sampling.ignored)
        far &= shown.flatten()
        likeness = everyone[anchor] @ everyone.T
        ranked = seen[anchor] @ seen.T
        negative = _hard(ranked.masked_fill_(~far, -torch.inf), sampling, generator)
        parts = [
            (everyone[anchor] * everyone[partner]).sum(1, keepdim=True),
            likeness.gather(1, negative).masked_fill(~far.gather(1, negative), -torch.inf),
        ]
        if others is not None:
            parts.append(everyone[anchor] @ others.float().T)
        logits = torch.cat(parts, dim=1) / temperature
        each = F.cross_entropy(logits, torch.zeros_like(anchor), reduction="none")
        total, count = total + (each * has_one).sum(), count + has_one.sum()
    return total / count.clamp_min(1)


def _near(places: Tensor, chosen: Tensor, radius: float) -> Tensor:
    """(A, N) whether each place lies within a radius of each chosen one."""
    return torch.cdist(places[chosen], places) <= radius


def _hard(ranked: Tensor, sampling: PairSampling, generator: torch.Generator) -> Tensor:
    """Numbers (A, n) of negatives, drawn for each anchor from the highest ranked."""
    highest = ranked.topk(min(sampling.hard, ranked.shape[1]), dim=1, sorted=False).indices
    lots = torch.rand(highest.shape, generator=generator).to(ranked.device)
    drawn = lots.topk(min(sampling.taken, lots.shape[1]), dim=1, sorted=False).indices
    return highest.gather(1, drawn)
