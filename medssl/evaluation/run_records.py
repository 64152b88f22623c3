"""What the run.json beside each model says: whom it learned from, whether it is done, which folds belong together."""

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


def refuse_running(folders: Sequence[Path], records: Sequence[Record]) -> None:
    """Refuse a run that goes on: its model is the one that an earlier session left, and is about to be replaced.

    Raises:
        CheckpointError: It does, or was killed before it could say that it does not.
    """
    going = [str(folder) for folder, record in zip(folders, records, strict=True) if record.get("status") == "running"]
    if going:
        raise CheckpointError(
            f"{', '.join(going)}: still in training, as run.json says, or killed in it: wait for its end, or go on "
            "with medssl finetune --resume",
            reason="unfinished",
        )


def stopped_early(folders: Sequence[Path], records: Sequence[Record], provenances: Sequence[Record]) -> str:
    """What to say of models whose training has not done all its steps; empty where all have.

    Args:
        folders: Folders of the models.
        records: Their run.json, which tell the steps of a run that was prolonged.
        provenances: What their model.json say, which have to do where there is no run.json.
    """
    found = []
    for folder, record, told in zip(folders, records, provenances, strict=True):
        done = told.get("steps")
        planned = record.get("config", {}).get("train", {}).get("steps", told.get("planned_steps"))
        short = done is not None and planned is not None and done < planned
        if short or told.get("finished") is False:
            which = f" of {folder.name}" if len(folders) > 1 else ""
            by = "" if told.get("finished", True) else " by its time limit"
            found.append(f"the training{which} was stopped{by} at step {done} of {planned or 'more'}")
    return "; ".join(found)


def patients_of(record: Record) -> dict[str, list[str] | None]:
    """Entry `patients`; empty where nobody knows."""
    return dict(record.get("patients", {}))
