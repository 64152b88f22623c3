"""Networks with what they learned from, and which cases may judge them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import nn

from medssl.data.cache import Cache, CachedCase
from medssl.export.pretraining import RANDOM_WEIGHTS, HeldOut, Pretraining
from medssl.imaging.volume import Volume
from medssl.tasks.model_file import ModelSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Judges:
    """Cases on which a variant is compared with fp32.

    Args:
        cases: Labelled cases.
        held_out: No network has learned from their patients.
        others: Cases of other patients, labelled or not.
    """

    cases: Sequence[CachedCase]
    held_out: bool
    others: Sequence[CachedCase]


@dataclass(frozen=True)
class Trained:
    """Networks and what they learned from.

    Args:
        networks: One network or the folds, on the CPU.
        patients: Patients that each learned from; an empty set where nobody knows.
        spec: What they need and give.
        cache: Cache with the cases.
        reference: Original label map of a case on the grid of its image, as `evaluate` reads it.
        pretraining: What the networks began from, and whose images it has seen.
    """

    networks: Sequence[nn.Module]
    patients: Sequence[frozenset[str]]
    spec: ModelSpec
    cache: Cache
    reference: Callable[[Cache, CachedCase], Volume]
    pretraining: Pretraining = RANDOM_WEIGHTS

    def held_out(self) -> list[HeldOut]:
        """Labelled cases that are no test cases, with the networks that have not learned from their patient.

        Where enough patients (and all classes) remain, without those whose images a pretraining has seen.
        """
        return self._preferred(self._held_out())

    def unseen_by_first(self) -> list[CachedCase]:
        """Those that the first network has not seen, whose features are compared."""
        return [case for case, _ in self._preferred([one for one in self._held_out() if 0 in one[1]])]

    def judges(self, count: int) -> Judges:
        """Labelled cases that no network has seen and that are no test cases; any others where there are none, or of
        one class alone.
        """
        held = [case for case, unseen in self._held_out() if len(unseen) == len(self.networks)]
        usable = held and (self.spec.task == "segmentation" or len({case.class_name for case in held}) > 1)
        usual = [case for case in self.cache.cases if case.split != "test"]
        cases = spread(held if usable else [case for case in usual if self.known(case)], count)
        judged = {case.patient for case in cases}
        return Judges(cases, bool(usable), [case for case in usual if case.patient not in judged])

    def seen(self) -> list[CachedCase]:
        """Cases that the first network learned from."""
        return self._learned(self.patients[0])

    def learned(self) -> list[CachedCase]:
        """Cases that any of the networks learned from."""
        return self._learned(frozenset().union(*self.patients))

    def _learned(self, patients: frozenset[str]) -> list[CachedCase]:
        return [c for c in self.cache.cases if (c.patient in patients if patients else c.split == "train")]

    def measured_by(self, cases: Collection[CachedCase]) -> str:
        """What numbers of cases held out leave unsaid, for the bundle."""
        said = ["the cases held out also chose the weights that were kept, so these numbers are a little too good"]
        if len(self.networks) > 1:
            said.append(
                "each case was measured by the folds that have not learned from it, not by the mean of all "
                f"{len(self.networks)} that the bundle holds"
            )
        return "; ".join([*said, *self.pretraining.said(cases)])

    def _held_out(self) -> list[HeldOut]:
        found = []
        for case in self.cache.cases:
            unseen = tuple(n for n, seen in enumerate(self.patients) if self._unseen(case, seen))
            if self.known(case) and unseen and case.split != "test":
                found.append((case, unseen))
        return found

    def _preferred(self, found: list[HeldOut]) -> list[HeldOut]:
        return self.pretraining.left_out_of(found, self.cache, every_class=self.spec.task == "classification")

    def known(self, case: CachedCase) -> bool:
        """Whether a case has its answer."""
        return case.has_label if self.spec.task == "segmentation" else case.class_name in self.spec.classes

    def _unseen(self, case: CachedCase, seen: frozenset[str]) -> bool:
        return case.patient not in seen if seen else case.split == "val" and len(self.networks) == 1


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items, evenly over the list; all where it is 0."""
    picked = np.linspace(0, len(items) - 1, min(count or len(items), len(items))).round().astype(int)
    return [items[position] for position in dict.fromkeys(picked.tolist())]
