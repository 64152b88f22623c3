"""Cases that cannot be read while a run goes on: named, counted, passed over up to a limit."""

import sys
from collections.abc import Iterable, Sequence

import torch
from lightning.fabric import Fabric
from torch import Tensor

from medssl.imaging.errors import CacheError
from medssl.training.run_folder import RunFolder


class DamagedCases:
    """Takes note of what the data source passed over.

    Args:
        names: Names of the cases, in the order of the source's numbers, and behind them of those that others read.
        limit: How many are allowed, in all processes together.
        run: Where `damaged_cases` of run.json lists them; those of earlier sessions count as well.
    """

    def __init__(self, names: Sequence[str], limit: int, run: RunFolder) -> None:
        self._names, self._limit, self._run = names, limit, run
        self._met: set[int] = set()
        self._told: set[int] = set()

    def take(self, parts: Sequence[dict[str, Tensor]]) -> None:
        """Take `damaged` out of a step's batches, and note it."""
        self._met |= {n for part in parts for n in part.pop("damaged", Tensor()).long().tolist()}

    def note(self, names: Iterable[str]) -> None:
        """Note cases that others than the source could not read, such as the health check."""
        self._met |= {self._names.index(name) for name in names}

    def tell(self, fabric: Fabric) -> None:
        """Name what was met since, by whatever process; all processes must call it at the same step.

        Raises:
            CacheError: More cases than allowed, in every process alike.
        """
        numbers = self._of_all(fabric) - self._told
        if not numbers:
            return
        self._told |= numbers
        listed = self._run.read().get("damaged_cases", []) if self._run.writes else []
        earlier = set(fabric.broadcast(listed))
        fresh = {self._names[n] for n in numbers} - earlier
        if not fresh:
            return
        found = earlier | fresh
        if self._run.writes:
            sys.stderr.write(
                f"\ndamaged: case(s) {', '.join(sorted(fresh))} of the cache cannot be read any more, others stand in "
                f"for them: {len(found)} so far, {self._limit} allowed (train.damaged_cases)\n"
            )
        self._run.update(damaged_cases=sorted(found))
        if len(found) > self._limit:
            raise CacheError(
                f"{len(found)} cases of the cache cannot be read: {', '.join(sorted(found))}; run medssl prepare again "
                "(it makes anew what is damaged), then resume",
                reason="bad-cache",
            )

    def _of_all(self, fabric: Fabric) -> set[int]:
        if fabric.world_size == 1:
            return self._met
        met = torch.zeros(len(self._names), device=fabric.device)
        met[list(self._met)] = 1
        met = fabric.all_reduce(met, reduce_op="max")  # type: ignore[assignment]
        return set(met.nonzero().flatten().tolist())
