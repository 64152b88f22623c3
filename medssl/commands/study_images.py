"""Images without labels that arms of a study are pretrained on, beside the study's own."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from medssl.commands.comparison import key_of
from medssl.commands.parsing import run_verb
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ImageSet
from medssl.imaging.files import write_text
from medssl.imaging.manifest import Manifest, Row


def prepare_images(images: ImageSet, options: dict[str, Any], own: Path, data: Path, out: Path) -> Path:
    """Index, curate and prepare a set as the study's images are prepared; what is there already is kept.

    Args:
        images: The set.
        options: Options of the study's `medssl prepare`.
        own: The study's cache, with its splits.
        data: The study's data folder.
        out: The study's folder, with its manifest.

    Returns:
        The cache.
    """
    options = {name: value for name, value in options.items() if name not in ("labels", "split")}
    options = merged(options, images.prepare.options)
    folder = out / "images" / f"{images.name.replace(' ', '_')}-{key_of([asdict(images), options, own.name])}"
    cache, listed, curated = folder / "cache", folder / "manifest.csv", folder / "curated"
    if (cache / "cache.json").is_file():
        return cache
    if not listed.is_file():
        run_verb("index", [str(data / images.images), "--out", str(listed)])
    if not curated.is_dir():
        write_text(folder / "curate.yaml", yaml.safe_dump(images.curate.options))
        run_verb("curate", [str(listed), "--out", str(curated), "--config", str(folder / "curate.yaml")])
    rows = [_unlabelled(row, curated) for row in Manifest.read(curated / "manifest.csv").rows]
    if images.own:
        rows += _training_rows(out / "manifest.csv", own)
    Manifest.from_rows(rows, root=folder).write(folder / "images.csv")
    write_text(folder / "prepare.yaml", yaml.safe_dump(options))
    run_verb("prepare", [str(folder / "images.csv"), "--out", str(cache), "--config", str(folder / "prepare.yaml")])
    return cache


def _training_rows(manifest: Path, cache: Path) -> list[Row]:
    from medssl.data.cache import Cache

    training = {case.case for case in Cache.open(cache).cases if case.split == "train"}
    return [_unlabelled(row, manifest.parent) for row in Manifest.read(manifest).rows if row.case in training]


def _unlabelled(row: Row, root: Path) -> Row:
    """The row for pretraining alone, with paths that hold from any folder."""
    parts = [str((root / part.strip()).resolve()) for part in row.image.split(";")]
    return replace(row, image=";".join(parts), label="", class_name="", split="train")
