"""Images without labels that arms of a study are pretrained on, beside the study's own."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from medssl.commands.app import run_stage
from medssl.commands.keys import key_of
from medssl.commands.parsing import parse_options, run_verb
from medssl.commands.study_copies import allowed, rows_of
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ImageSet
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import write_text
from medssl.imaging.manifest import Manifest, Row

_HELD_OUT = "by patient and by voxels"
"""How images of held-out patients are told; part of a set's key, so that a change makes sets anew."""


def image_problems(images: ImageSet, options: dict[str, Any], data: Path) -> list[str]:
    """What is wrong with a set, before anything is run.

    Args:
        images: The set.
        options: Options of the study's `medssl prepare`.
        data: The study's data folder.
    """
    problems = [] if (data / images.images).is_dir() else [f"{data / images.images} does not exist"]
    for verb, given in (("curate", images.curate.options), ("prepare", _prepare_options(images, options))):
        try:
            parse_options(verb, ["manifest.csv", "--out", "out"], given)
        except ConfigError as error:
            problems += [f"{verb}: {problem}" for problem in error.problems]
    return [f"image_sets: {images.name}: {problem}" for problem in problems]


def images_cache(images: ImageSet, options: dict[str, Any], own: Path, out: Path) -> Path:
    """Folder of a set's cache.

    Args:
        images: The set.
        options: Options of the study's `medssl prepare`.
        own: The study's cache, with its splits.
        out: The study's folder.
    """
    key = key_of([asdict(images), _prepare_options(images, options), own.name, _HELD_OUT])
    return out / "images" / f"{_in_names(images)}-{key}" / "cache"


def prepare_images(images: ImageSet, options: dict[str, Any], own: Path, data: Path, out: Path) -> Path:
    """Index, curate and prepare a set as the study's images are prepared; what is there already is kept.

    Labels are taken away first, so that curation looks at every image. Images of the study's patients of splits val and
    test are left out, and copies of these, whatever their names and formats are.

    Args:
        images: The set.
        options: Options of the study's `medssl prepare`.
        own: The study's cache, with its splits.
        data: The study's data folder.
        out: The study's folder.

    Returns:
        The cache.

    Raises:
        MedsslError: No image would be left.
    """
    cache = images_cache(images, options, own, out)
    if (cache / "cache.json").is_file():
        return cache
    folder, curated = cache.parent, cache.with_name("curated")
    training, held_out = rows_of(own)
    learned = training if images.own else []
    if not curated.is_dir():
        run_verb("index", [str(data / images.images), "--out", str(folder / "found.csv"), "--overwrite"])
        found = [_unlabelled(row, folder) for row in Manifest.read(folder / "found.csv").rows]
        rows = allowed(found, learned, held_out, images.name)
        if not rows:
            raise MedsslError(
                f"image set {images.name}: all {len(found)} images are of the study itself: take others, or leave the "
                "set out",
                reason="nothing-left",
            )
        Manifest.from_rows(rows, root=folder).write(folder / "listed.csv")
        write_text(folder / "curate.yaml", yaml.safe_dump(images.curate.options))
        config = ["--config", str(folder / "curate.yaml")]
        run_verb("curate", [str(folder / "listed.csv"), "--out", str(curated), *config])
    rows = _renamed(Manifest.read(curated / "manifest.csv").rows, _in_names(images), learned)
    Manifest.from_rows([*rows, *learned], root=folder).write(folder / "images.csv")
    write_text(folder / "prepare.yaml", yaml.safe_dump(_prepare_options(images, options)))
    run_stage("prepare", [str(folder / "images.csv"), "--out", str(cache), "--config", str(folder / "prepare.yaml")])
    return cache


def _prepare_options(images: ImageSet, options: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name not in ("labels", "split")}
    return merged(kept, images.prepare.options)


def _in_names(images: ImageSet) -> str:
    return images.name.replace(" ", "_")


def _renamed(rows: Sequence[Row], name: str, beside: Sequence[Row]) -> list[Row]:
    """Rows whose cases begin with the set's name, so that none is called like another row's."""
    taken = {row.case.lower() for row in beside}
    while taken & {f"{name}_{row.case}".lower() for row in rows}:
        name += "_"
    return [replace(row, case=f"{name}_{row.case}") for row in rows]


def _unlabelled(row: Row, root: Path) -> Row:
    """The row for pretraining alone, with paths that hold from any folder."""
    parts = [str((root / part.strip()).resolve()) for part in row.image.split(";")]
    return replace(row, image=";".join(parts), label="", class_name="", split="train")
