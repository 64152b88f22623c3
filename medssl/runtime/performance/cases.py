"""A site's own cases with their references: from a manifest, or from a folder that is indexed first."""

from dataclasses import dataclass, replace
from pathlib import Path

from medssl.imaging.errors import ConfigError, ImageError, ManifestError
from medssl.imaging.files import sha256
from medssl.imaging.index import index_tree
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import split_field
from medssl.imaging.problems import DAMAGED, Problem
from medssl.imaging.readers.open import read_channels
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec
from medssl.runtime.inputs import find_cases


@dataclass(frozen=True)
class SiteCases:
    """Cases to compare.

    Args:
        file: Manifest.
        sha256: Its hash.
        rows: A row a case, with or without a reference.
        root: Folder that paths are relative to.
        damaged: Files of an indexed folder that may be a patient's image and cannot be read.
        notes: What the user should know: other files that were not used, how patients were told.
    """

    file: Path
    sha256: str
    rows: tuple[Row, ...]
    root: Path
    damaged: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def site_cases(given: Path, spec: BundleSpec, manifest: Path) -> SiteCases:
    """Read a manifest, or index a folder.

    Args:
        given: Manifest, or folder of images and references.
        spec: The bundle's.
        manifest: Where the manifest of a folder is written.

    Raises:
        ConfigError: It is not there, or the bundle's images cannot be told in a folder.
        ManifestError: Mistakes in the manifest, classes that the bundle does not know, or no reference at all.
        ImageError: The folder holds no image.
    """
    if not given.exists():
        raise ConfigError([f"cases {given} does not exist: give a manifest or a folder of images and references"])
    damaged: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    if given.is_dir():
        if spec.series:
            raise ConfigError(
                [
                    "the bundle chooses among the series of a study, so cases must be a manifest whose column `image` "
                    f"names a study's folder or zip file, not the folder {given}"
                ]
            )
        found = index_tree(given, manifest)
        damaged = tuple(p for p in found.problems if p.reason in DAMAGED)
        rest = [p for p in found.problems if p.reason not in DAMAGED and p.action == "left out"]
        notes = (*found.notes, *(f"not used: {p.path} ({p.reason}): {p.message}" for p in rest))
        given = manifest
    read = Manifest.read(given)
    _refuse(read, spec)
    return SiteCases(given, sha256(given), read.rows, read.root, damaged, (*notes, *read.notes))


def _refuse(manifest: Manifest, spec: BundleSpec) -> None:
    known, column = ", ".join(spec.classes), "class" if spec.task == "classification" else "label"
    foreign = [row for row in manifest.rows if row.class_name and row.class_name not in spec.classes]
    if foreign and spec.task == "classification":
        lines = "".join(f"\n  - case {r.case!r}: class {r.class_name!r}" for r in foreign)
        raise ManifestError(
            f"{len(foreign)} case(s) have a class that the bundle does not know; it knows {known}:{lines}",
            reason="unknown-class",
        )
    if not any(reference_of(row, spec) for row in manifest.rows):
        raise ManifestError(
            f"none of the {len(manifest.rows)} case(s) has a reference to compare with: fill the column `{column}`",
            reason="no-labelled-cases",
        )


def reference_of(row: Row, spec: BundleSpec) -> str:
    """Class, or path of the label map, of a case; empty where it has none."""
    return row.class_name if spec.task == "classification" else row.label


def read_image(row: Row, root: Path, spec: BundleSpec) -> Volume:
    """Image of a case, read as `predict` reads it.

    Raises:
        ImageError: It cannot be used, or is several studies.
    """
    if not spec.series:
        return read_channels(row.image, root)
    parts = [part.strip() for part in row.image.split(";") if part.strip()]
    found, left_out = find_cases([";".join(str(root / part) for part in parts)], spec)
    if len(found) != 1:
        raise ImageError(
            f"{split_field(row.image)[0]} holds {len(found)} studies or images; a case is one", reason="several-studies"
        )
    image = found[0].read()
    damaged = tuple(f"left out: {p.path} ({p.reason}): {p.message}" for p in left_out if p.reason in DAMAGED)
    return replace(image, source=replace(image.source, notes=(*image.source.notes, *damaged)))
