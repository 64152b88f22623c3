"""The folder of a run: run.json, metrics.jsonl, TensorBoard logs, checkpoints, health pictures."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from medssl.imaging.environment import environment
from medssl.imaging.errors import CheckpointError, ConfigError
from medssl.imaging.files import PARTIAL, atomic_path, write_json
from medssl.training.differences import differences

SCHEMA_VERSION = 1


class RunFolder:
    """A run's folder; only the first process of a distributed run writes into it.

    Args:
        path: Folder of the run.
        writes: Whether this process writes; False makes every writing method do nothing.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes

    @property
    def checkpoint(self) -> Path:
        """The latest checkpoint; a new one replaces it only when it is whole on disk."""
        return self.path / "checkpoints" / "last.ckpt"

    def best(self, step: int) -> Path:
        """Weights of the best validation, at `step`: the name tells it, so that a checkpoint finds its own."""
        return self.path / "checkpoints" / f"best-{step:07d}.safetensors"

    def best_files(self) -> dict[int, Path]:
        """Files of best weights that are there, by their step; besides the checkpoint's those that came after it."""
        files = (self.path / "checkpoints").glob("best-*.safetensors")
        return {int(file.stem[5:]): file for file in files if file.stem[5:].isdigit()}

    def start(self, description: Mapping[str, Any], resumable: frozenset[str] | set[str], resume: bool) -> None:
        """Make the folder and write run.json, or check that the run there may go on.

        Args:
            description: `verb`, `config` (nested plain values), `seed`, `data_sha256`, `read_as` of each cache and what
                else is worth keeping.
            resumable: Dotted names of options that a resumed run may change, for instance `train.workers`.
            resume: Go on with the run that is there; from the beginning when it has no checkpoint yet.

        Raises:
            ConfigError: The folder already holds a run and `resume` is off, there is none and it is on, or options or
                data differ from the run's.
        """
        if not self.writes:
            return
        file = self.path / "run.json"
        if resume and file.exists():
            old = self.read()
            if changed := differences(old, description, resumable):
                raise ConfigError(
                    [f"resume {self.path}: {line}; use the run's own value, or start a new run" for line in changed]
                )
            kept = {name: old[name] for name in ("sessions", "damaged_cases") if name in old}
        else:
            self.check(resume)
            kept = {"sessions": []}
        kept["sessions"] = [*kept["sessions"], environment()]
        write_json(file, {"schema_version": SCHEMA_VERSION, **description, "status": "running", **kept})
        self._remove_halves()

    def _remove_halves(self) -> None:
        """Remove what sessions were writing when they were killed: a checkpoint of full size a time."""
        for folder in (self.path, self.path / "checkpoints", self.path / "health"):
            for half in folder.glob(f"{PARTIAL}*"):
                if half.is_file():  # folders are of other commands, which may be at work
                    half.unlink()

    def changes(self, description: Mapping[str, Any], resumable: frozenset[str] | set[str]) -> list[str]:
        """What of a description differs from the run that is there, a clause each; arguments as `start`.

        Raises:
            CheckpointError: run.json cannot be read.
        """
        return differences(self.read(), description, resumable)

    def check(self, resume: bool) -> None:
        """Refuse a folder that holds a run, or none to resume; writes nothing.

        Raises:
            ConfigError: As said.
        """
        if not self.writes:
            return
        holds = (self.path / "run.json").exists()
        if resume and not holds:
            raise ConfigError([f"resume: {self.path} holds no run (no run.json): leave --resume out to start one"])
        if holds and not resume:
            raise ConfigError(
                [
                    f"out: {self.path} already holds a run: continue it with --resume, or choose another folder; "
                    "nothing is overwritten"
                ]
            )
        if self.path.exists() and not resume and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError([f"out: {self.path} is not an empty folder: choose another one; nothing is overwritten"])

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep `status` in run.json: running, then finished, stopped (by a signal) or failed."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            self.update(status="stopped")
            raise
        except Exception as error:
            self._try_update(status="failed", error=f"{type(error).__name__}: {error}")
            raise
        self.update(status="finished")

    def _try_update(self, **values: Any) -> None:
        """As `update`; a disk that takes nothing more must not hide the error that is being told."""
        with suppress(OSError):
            self.update(**values)

    def read(self) -> dict[str, Any]:
        """Content of run.json.

        Raises:
            CheckpointError: Not JSON, or made by a newer version.
        """
        file = self.path / "run.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            version = int(content["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error}): the run cannot be resumed", reason="run-damaged"
            ) from error
        if version > SCHEMA_VERSION:
            raise CheckpointError(
                f"{file} has schema version {version}, this medssl reads up to {SCHEMA_VERSION}: update medssl",
                reason="newer-version",
            )
        return dict(content)

    def update(self, **values: Any) -> None:
        """Change entries of run.json, for instance `status`."""
        if self.writes:
            write_json(self.path / "run.json", {**self.read(), **values})

    def write_image(self, name: str, pixels: Any) -> None:
        """Write `health/NAME.png`; pixels (rows, cols) or (rows, cols, 3) uint8."""
        if not self.writes:
            return
        with atomic_path(self.path / "health" / f"{name}.png") as temporary:
            Image.fromarray(pixels).save(temporary, format="png")


def encoder_patients(encoder: Path | None) -> list[str] | None:
    """Patients that the pretraining of an encoder file learned from, as the run.json beside it says.

    Args:
        encoder: The file; None = random weights, which know nobody.

    Returns:
        None where nobody knows: a file of others, or one that lies without its run.
    """
    if encoder is None:
        return []
    try:
        patients = json.loads((encoder.parent / "run.json").read_text(encoding="utf-8"))["patients"]["pretraining"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if patients is None else [str(patient) for patient in patients]
