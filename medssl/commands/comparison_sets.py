"""The sets of a comparison: which images they are, and their caches."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from medssl.commands.app import run_stage
from medssl.commands.console import say
from medssl.commands.keys import files_named, key_of
from medssl.commands.parsing import resolve_folder
from medssl.commands.prepare import source_hash
from medssl.evaluation.benchmark_plan import SetPlan
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import write_json, write_text
from medssl.imaging.manifest import Manifest, Row


def set_folder(images: SetPlan, out: Path) -> Path:
    """Folder of a set as the plan has it."""
    return out / "sets" / f"{images.name}-{key_of([asdict(images), *files_named(images.prepare.options)])}"


def cache_of(images: SetPlan, out: Path) -> Path:
    """The prepared set."""
    return set_folder(images, out) / "cache"


def same_data(sets: Sequence[SetPlan], data: Path, out: Path, told: Mapping[str, str]) -> dict[str, str]:
    """Name of each set to the SHA-256 of its images, wherever they lie; what is not told yet is taken for the same.

    Args:
        sets: What is asked for.
        data: Folder of the images.
        out: Folder of the comparison.
        told: Name of each set with results to the SHA-256 that results.json has; empty where it has none.

    Raises:
        MedsslError: Results or a prepared set in OUT are of other images.
    """
    problems, found = [], {images.name: _data_sha256(images, data) for images in sets}
    for images in sets:
        own, record = found[images.name], _record(images, out)
        earlier = {out / "results.json": told.get(images.name) or own}
        if record.is_file():
            earlier[record] = str(json.loads(record.read_text(encoding="utf-8"))["data_sha256"])
        problems += [
            f"{path}: set {images.name} has data_sha256 {before[:12]} there and {own[:12]} below {data}: results of "
            "other images are not mixed: choose another --out"
            for path, before in earlier.items()
            if before != own
        ]
        prepared_before = cache_of(images, out).is_dir() and not record.is_file()
        if not told.get(images.name, "" if prepared_before else own):
            say(f"WARNING: {out} does not tell which images its set {images.name} is of: taken for those below {data}")
    if problems:
        raise MedsslError("\n".join(problems), reason="run-exists")
    return found


def prepare_set(images: SetPlan, data: Path, out: Path, data_sha256: str) -> None:
    """Write the manifest of a set and prepare it; from then on its folder is of these images."""
    folder = set_folder(images, out)
    write_json(_record(images, out), {"data_sha256": data_sha256})
    _manifest(images, data).write(folder / "manifest.csv")
    options = dict(images.prepare.options)
    start = ["--config", str(resolve_folder("configs", Path(options.pop("config"))))] if "config" in options else []
    write_text(folder / "prepare.yaml", yaml.safe_dump(options))
    arguments = [str(folder / "manifest.csv"), "--out", str(folder / "cache"), *start]
    run_stage("prepare", [*arguments, "--config", str(folder / "prepare.yaml")])


def not_measured(images: SetPlan, out: Path) -> list[str]:
    """What to say of cases of a prepared set that are in no number, split by split; nothing where it is not there."""
    from medssl.data.cache import Cache
    from medssl.evaluation.probe_data import not_probed

    if not cache_of(images, out).is_dir():
        return []
    return [f"{images.name}: {text}" for text in not_probed(Cache.open(cache_of(images, out)), images.target)]


def _record(images: SetPlan, out: Path) -> Path:
    """What tells which images a set was prepared from."""
    return set_folder(images, out) / "data.json"


def _data_sha256(images: SetPlan, data: Path) -> str:
    """Over what the rows say and the bytes of their files, in order; where the files lie is left out."""
    rows = _manifest(images, data).rows
    said = [json.dumps([row.case, row.patient, row.class_name, row.split]) for row in rows]
    hashes = [source_hash(row, data, about) for row, about in zip(rows, said, strict=True)]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def _manifest(images: SetPlan, data: Path) -> Manifest:
    """The manifest of a set, from its table or from its folder."""
    folder = data / images.images
    if not images.table:
        rows = [{"image": path.name} for path in sorted(folder.iterdir()) if path.is_file()]
    else:
        with (data / images.table).open(newline="", encoding="utf-8-sig") as stream:
            table = list(csv.DictReader(stream))
        asked = {*images.columns.values(), *images.exclude}
        if missing := sorted(asked - set(table[0] if table else ())):
            raise ConfigError(
                [f"sets: {images.name}: {data / images.table} has no column {name!r}" for name in missing]
            )
        table = [row for row in table if _kept(row, images)]
        rows = [{name: row[column] for name, column in images.columns.items()} for row in table]
    return Manifest.from_rows([_row(row, images, data) for row in rows], root=data)


def _kept(row: dict[str, str], images: SetPlan) -> bool:
    return not any(row[column] == value for column, value in images.exclude.items())


def _row(row: dict[str, str], images: SetPlan, data: Path) -> Row:
    name = row["image"] + images.suffix
    case = name.split(".")[0]
    label = data / images.labels / name if images.labels else None
    return Row(
        case=case,
        patient=row.get("patient") or case,
        image=str((data / images.images / name).resolve()),
        label=str(label.resolve()) if label is not None and label.is_file() else "",
        class_name=row.get("class", ""),
        split=row.get("split", ""),
    )
