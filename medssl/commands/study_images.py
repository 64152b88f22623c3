"""Images without labels that arms of a study are pretrained on, beside the study's own."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from medssl.commands.comparison import key_of
from medssl.commands.console import say
from medssl.commands.parsing import parse_verb, run_verb
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ImageSet
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import sha256, write_text
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import split_field, split_slice


def image_problems(images: ImageSet, options: dict[str, Any], data: Path) -> list[str]:
    """What is wrong with a set, before anything is run.

    Args:
        images: The set.
        options: Options of the study's `medssl prepare`.
        data: The study's data folder.
    """
    problems = [] if (data / images.images).is_dir() else [f"{data / images.images} does not exist"]
    for verb, given in (("curate", images.curate.options), ("prepare", _prepare_options(images, options))):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "options.yaml"
            path.write_text(yaml.safe_dump(given), encoding="utf-8")
            try:
                parse_verb(verb, ["manifest.csv", "--out", "out", "--config", str(path)])
            except ConfigError as error:
                problems += [f"{verb}: {problem}" for problem in error.problems]
    return [f"image_sets: {images.name}: {problem}" for problem in problems]


def prepare_images(images: ImageSet, options: dict[str, Any], own: Path, data: Path, out: Path) -> Path:
    """Index, curate and prepare a set as the study's images are prepared; what is there already is kept.

    Labels are taken away first, so that curation looks at every image. Files that are also cases of the study's splits
    val and test are left out, whatever their names are.

    Args:
        images: The set.
        options: Options of the study's `medssl prepare`.
        own: The study's cache, with its splits.
        data: The study's data folder.
        out: The study's folder, with its manifest.

    Returns:
        The cache.
    """
    options = _prepare_options(images, options)
    folder = out / "images" / f"{images.name.replace(' ', '_')}-{key_of([asdict(images), options, own.name])}"
    cache, curated = folder / "cache", folder / "curated"
    if (cache / "cache.json").is_file():
        return cache
    training, held_out = _rows_of(own, out / "manifest.csv")
    if not curated.is_dir():
        run_verb("index", [str(data / images.images), "--out", str(folder / "found.csv")])
        _list_allowed(folder / "found.csv", held_out, folder / "listed.csv")
        write_text(folder / "curate.yaml", yaml.safe_dump(images.curate.options))
        config = ["--config", str(folder / "curate.yaml")]
        run_verb("curate", [str(folder / "listed.csv"), "--out", str(curated), *config])
    rows = [_unlabelled(row, curated) for row in Manifest.read(curated / "manifest.csv").rows]
    Manifest.from_rows([*rows, *(training if images.own else [])], root=folder).write(folder / "images.csv")
    write_text(folder / "prepare.yaml", yaml.safe_dump(options))
    run_verb("prepare", [str(folder / "images.csv"), "--out", str(cache), "--config", str(folder / "prepare.yaml")])
    return cache


def _prepare_options(images: ImageSet, options: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name not in ("labels", "split")}
    return merged(kept, images.prepare.options)


def _rows_of(cache: Path, manifest: Path) -> tuple[list[Row], set[str]]:
    """Rows of the study's training images, and what identifies the files of its other images."""
    from medssl.data.cache import Cache

    training = {case.case for case in Cache.open(cache).cases if case.split == "train"}
    rows = [_unlabelled(row, manifest.parent) for row in Manifest.read(manifest).rows]
    held_out: set[str] = set()
    for row in rows:
        held_out |= set() if row.case in training else _identities(row)
    return [row for row in rows if row.case in training], held_out


def _list_allowed(found: Path, held_out: set[str], listed: Path) -> None:
    rows = [_unlabelled(row, found.parent) for row in Manifest.read(found).rows]
    allowed = [row for row in rows if not _identities(row) & held_out]
    if len(allowed) < len(rows):
        say(f"curve: {len(rows) - len(allowed)} image(s) are also cases that are held out: left out of pretraining")
    Manifest.from_rows(allowed, root=listed.parent).write(listed)


def _identities(row: Row) -> set[str]:
    """Path and content of every file of a row; of a folder its path."""
    files = [split_field(split_slice(part)[0])[0] for part in row.image.split(";")]
    return {str(file) for file in files} | {sha256(file) for file in files if file.is_file()}


def _unlabelled(row: Row, root: Path) -> Row:
    """The row for pretraining alone, with paths that hold from any folder."""
    parts = [str((root / part.strip()).resolve()) for part in row.image.split(";")]
    return replace(row, image=";".join(parts), label="", class_name="", split="train")
