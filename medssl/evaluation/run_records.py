"""What the run.json beside each model of a run says: whom it learned from, and whether folds belong together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.imaging.errors import CheckpointError, ConfigError

Record = Mapping[str, Any]

_DEALT_BY = ("seed", "data_sha256", "labels", "folds")
"""What decides which patients a fold holds out."""


def read_record(folder: Path) -> Record:
    """Content of FOLDER/run.json; a model that was copied without it says nothing.

    Raises:
        CheckpointError: It is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): the run is not used", reason="run-damaged") from error


def refuse_partial_folds(run: Path, folders: Sequence[Path], records: Sequence[Record]) -> None:
    """Refuse folds of which one is missing, or that were dealt out differently, so that they are no cross-validation.

    Args:
        run: Folder of the run.
        folders: Folders of its models: the run itself, or its folds.
        records: Their run.json.

    Raises:
        CheckpointError: A fold is missing.
        ConfigError: The folds have other seeds, data, labels or numbers of folds.
    """
    if list(folders) == [run]:
        return
    numbers = [int(folder.name[5:]) for folder in folders if folder.name[5:].isdigit()]
    told = [int(record.get("config", {}).get("folds") or 0) for record in records]
    count = max([*told, *(number + 1 for number in numbers)], default=0)
    if missing := [f"fold_{number}" for number in range(count) if number not in numbers]:
        raise CheckpointError(
            f"{run} lacks {', '.join(missing)} of its {count} folds: train them with medssl finetune --folds {count} "
            f"--resume, or give one fold alone, for instance {folders[0]}",
            reason="no-model",
        )
    known = [{**record.get("config", {}), **record} for record in records if record]
    problems = [
        f"{run}: its folds differ in {name} ({', '.join(values)}), so patients may be held out twice or never: train "
        "them again in one folder with the same options"
        for name in _DEALT_BY
        if len(values := sorted({str(record[name]) for record in known if name in record})) > 1
    ]
    if problems:
        raise ConfigError(problems)


def patients_of(record: Record) -> dict[str, list[str] | None]:
    """Entry `patients`; empty where nobody knows."""
    return dict(record.get("patients", {}))
