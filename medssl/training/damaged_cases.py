"""Cases that cannot be read while a run goes on: named, counted, passed over up to a limit."""

import sys
from collections.abc import Sequence

from torch import Tensor

from medssl.imaging.errors import CacheError
from medssl.training.run_folder import RunFolder


class DamagedCases:
    """Takes note of what the data source passed over.

    Args:
        names: Names of the cases, in the order of the source's numbers.
        limit: How many are allowed.
        run: Where `damaged_cases` of run.json lists them; those of earlier sessions count as well.
    """

    def __init__(self, names: Sequence[str], limit: int, run: RunFolder) -> None:
        self._names, self._limit, self._run = names, limit, run
        self._found: set[str] | None = None

    def __call__(self, parts: Sequence[dict[str, Tensor]]) -> None:
        """Look at a step's batches, and take `damaged` out of them.

        Raises:
            CacheError: More cases than allowed.
        """
        numbers = {n for part in parts for n in part.pop("damaged", Tensor()).long().tolist()}
        if not numbers:
            return
        if self._found is None:
            self._found = set(self._run.read().get("damaged_cases", ())) if self._run.writes else set()
        fresh = {self._names[n] for n in numbers} - self._found
        if not fresh:
            return
        self._found |= fresh
        told = ", ".join(sorted(fresh))
        sys.stderr.write(
            f"\ndamaged: case(s) {told} of the cache cannot be read any more, others stand in for them: "
            f"{len(self._found)} so far, {self._limit} allowed (train.damaged_cases)\n"
        )
        self._run.update(damaged_cases=sorted(self._found))
        if len(self._found) > self._limit:
            raise CacheError(
                f"{len(self._found)} cases of the cache cannot be read: {', '.join(sorted(self._found))}; run medssl "
                "prepare again (it makes anew what is damaged once the cases' folders are deleted), then resume",
                reason="bad-cache",
            )
