"""From what is given to the cases that a bundle predicts: files, series, or whole studies by the bundle's rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medssl.imaging.errors import ConfigError
from medssl.imaging.naming import split_field
from medssl.imaging.readers.open import read_channels
from medssl.imaging.readers.scan import images_below
from medssl.imaging.study import find_studies, read_study
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec

_SUFFIXES = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".dcm", ".zip", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Case:
    """One thing to predict.

    Args:
        name: Name of its folder of results.
        given: What it was found as.
        read: Reads it; raises ImageError where that cannot be done.
    """

    name: str
    given: str
    read: Callable[[], Volume]


def find_cases(inputs: Sequence[str], spec: BundleSpec, *, resample_irregular: bool = False) -> list[Case]:
    """Cases below the inputs, with names that do not collide.

    With rules for series a folder or zip file is searched for studies, each of which is a case; without, each series
    is one.

    Args:
        inputs: Image fields (channels joined by `;`), folders, zip files.
        spec: The bundle's.
        resample_irregular: As for `read_volume`.

    Raises:
        ConfigError: Inputs that do not exist or hold nothing; all of them.
        ImageError: A zip file that cannot be searched.
    """
    check_present(inputs)
    found: list[tuple[str, Callable[[], Volume]]] = []
    problems = []
    for given in inputs:
        below = _below(given, spec, resample_irregular)
        found += below
        if not below:
            problems.append(f"input {given} holds no image; medssl index {given} --out manifest.csv says why")
    if problems:
        raise ConfigError(problems)
    names = case_names([text for text, _ in found])
    return [Case(name, text, read) for name, (text, read) in zip(names, found, strict=True)]


def check_present(inputs: Sequence[str]) -> None:
    """Refuse inputs that are not there.

    Raises:
        ConfigError: Some do not exist, or there are none.
    """
    missing = [p for given in inputs for p in given.split(";") if not split_field(p)[0].exists()]
    if missing or not inputs:
        raise ConfigError([f"input {path} does not exist" for path in missing] or ["no input given"])


def _below(given: str, spec: BundleSpec, resample_irregular: bool) -> list[tuple[str, Callable[[], Volume]]]:
    path = Path(given)
    if spec.series and (path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip")):
        studies, others = find_studies(path)
        read = partial(
            read_study,
            channels=spec.channels,
            rules=spec.series,
            spatial_dims=spec.preprocess.spatial_dims,
            resample_irregular=resample_irregular,
        )
        texts = [given if len(studies) == 1 else f"{given}#{study.uid}" for study in studies]
        found: list[tuple[str, Callable[[], Volume]]] = [
            (text, partial(read, study)) for text, study in zip(texts, studies, strict=True)
        ]
        fields = [image.field for image in others]
    else:
        found, fields = [], images_below(path) if path.is_dir() else [given]
    return found + [
        (field, partial(read_channels, field, Path(), resample_irregular=resample_irregular)) for field in fields
    ]


def case_names(fields: Sequence[str]) -> list[str]:
    """A folder name for each case, from its file or folder; repeated names get a number."""
    names: list[str] = []
    for text in fields:
        name = split_field(text.split(";", 1)[0])[0].resolve().name
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "case"
        number = 2
        unique = name
        while unique in names:
            unique = f"{name}_{number}"
            number += 1
        names.append(unique)
    return names
