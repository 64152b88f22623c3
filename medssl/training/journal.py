"""Numbers of a run as it goes: metrics.jsonl for programs, TensorBoard for people."""

import json
import math
import sys
from collections.abc import Mapping
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from medssl.imaging.files import write_text
from medssl.training.run_folder import RunFolder


class Journal:
    """Writes one line a logged step; use as a context manager.

    Lines behind `step` are removed first: a run that was killed after its checkpoint does those steps again, and no
    step may stand there twice. Values that are no numbers are written as null, because JSON has no NaN.

    Args:
        run: Folder of the run.
        step: Steps already done.
    """

    def __init__(self, run: RunFolder, step: int) -> None:
        self._run, self._path = run, run.path / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        if run.writes:
            kept = _lines_until(self._path.read_text(encoding="utf-8"), step) if self._path.exists() else ""
            write_text(self._path, kept)
            self._board = SummaryWriter(str(run.path / "tb"), purge_step=step + 1 if step else None)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of a step."""
        if self._board is None:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        self._board.flush()


def _lines_until(text: str, step: int) -> str:
    kept = []
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # cut by the kill
            continue
    return "".join(kept)


def names_at(run: RunFolder, step: int) -> set[str]:
    """What was logged at a step."""
    path = run.path / "metrics.jsonl"
    lines = _lines_until(path.read_text(encoding="utf-8"), step).splitlines() if path.exists() else []
    return {name for row in map(json.loads, lines) if row["step"] == step for name in row}


def values_of(run: RunFolder, name: str) -> list[float]:
    """What was logged under a name so far, in the order of the steps; nothing where the run is new."""
    path = run.path / "metrics.jsonl"
    lines = _lines_until(path.read_text(encoding="utf-8"), sys.maxsize).splitlines() if path.exists() else []
    values = [json.loads(line).get(name) for line in lines]
    return [float(value) for value in values if value is not None]
