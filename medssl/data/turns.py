"""Steps of two data sets in turns, one dimension a step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from medssl.data.dataset import StepDataset, due

Batch = dict[str, Tensor]


class Turns(torch.utils.data.Dataset[Batch]):
    """Batches of two data sets as a pure function of their number; all parts of a step are of one data set.

    Whose turn it is follows from the step and the share alone: with a share of 0.5 they alternate, with 0.25 every
    fourth step is the second one's. So all devices agree, and a resumed run goes on as it would have. Each data set
    gives its own steps one after the other, as if it were alone; `step` of a batch is its number in the run, and
    `damaged` counts the second one's cases behind the first one's.

    Args:
        first: A data set.
        second: Another one, with as many parts a step.
        share: Share of the steps that are the second one's, between 0 and 1.
    """

    def __init__(self, first: StepDataset, second: StepDataset, share: float) -> None:
        self._first, self._second, self._share = first, second, share

    def __getitem__(self, draw: int) -> Batch:
        """Part `draw % parts` of step `draw // parts`."""
        parts = self._first.plan.parts
        step, part = divmod(int(draw), parts)
        earlier = int(step * self._share)  # steps of the second one
        if due(step, self._share):
            batch = self._second[earlier * parts + part]
            if "damaged" in batch:
                batch["damaged"] += len(self._first.cases)
        else:
            batch = self._first[(step - earlier) * parts + part]
        batch["step"] = torch.tensor(int(draw))
        return batch


class ByDimension:
    """Calls for each batch what belongs to the dimension of its images.

    Args:
        parts: What to call for 2 and for 3 spatial dimensions.
    """

    def __init__(self, parts: Mapping[int, Callable[[Batch], Batch]]) -> None:
        self._parts = dict(parts)

    def __call__(self, batch: Batch) -> Batch:
        """The batch, varied."""
        return self._parts[batch["image"].ndim - 2](batch)
