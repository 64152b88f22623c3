"""From what is given to the cases that a bundle predicts: files, series, or whole studies by the bundle's rules."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from medssl.imaging.errors import ConfigError
from medssl.imaging.naming import split_field, unique_names
from medssl.imaging.problems import Problem, in_short
from medssl.imaging.readers.open import read_channels
from medssl.imaging.readers.scan import scan_tree
from medssl.imaging.study import find_studies, read_study
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec

_SUFFIXES = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".dcm", ".zip", ".png", ".jpg", ".jpeg", ".tif", ".tiff")

_Found = tuple[str, Callable[[], Volume]]
"""What a case was found as, and what reads it."""


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


def find_cases(
    inputs: Sequence[str], spec: BundleSpec, *, resample_irregular: bool = False
) -> tuple[list[Case], list[Problem]]:
    """Cases below the inputs, with names that do not collide, and the files there that are part of none.

    With rules for series a folder or zip file is searched for studies, each of which is a case, zip files below a
    folder included; without, each series is one, and so is a zip file with one series.

    Args:
        inputs: Image fields (channels joined by `;`), folders, zip files.
        spec: The bundle's.
        resample_irregular: As for `read_volume`.

    Raises:
        ConfigError: Inputs that do not exist or hold nothing; all of them.
        ImageError: A zip file that cannot be searched.
    """
    check_present(inputs)
    found: list[_Found] = []
    problems, left_out = [], []
    for given in inputs:
        below, others = _below(given, spec, resample_irregular)
        found += below
        left_out += others
        if not below:
            advice = f"; medssl index {given} --out manifest.csv lists every file with its reason" if others else ""
            problems.append(f"input {given} holds no image that can be used: {in_short(others)}{advice}")
    if problems:
        raise ConfigError(problems)
    names = case_names([text for text, _ in found])
    return [Case(name, text, read) for name, (text, read) in zip(names, found, strict=True)], left_out


def check_present(inputs: Sequence[str]) -> None:
    """Refuse inputs that are not there.

    Raises:
        ConfigError: Some do not exist, or there are none.
    """
    missing = [p for given in inputs for p in given.split(";") if not split_field(p)[0].exists()]
    if missing or not inputs:
        raise ConfigError([f"input {path} does not exist" for path in missing] or ["no input given"])


def _below(given: str, spec: BundleSpec, resample_irregular: bool) -> tuple[list[_Found], list[Problem]]:
    path = Path(given)
    found: list[_Found] = []
    problems: list[Problem] = []
    if spec.series and (path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip")):
        studies, others, problems = find_studies(path, resample_irregular=resample_irregular)
        read = partial(
            read_study,
            channels=spec.channels,
            rules=spec.series,
            spatial_dims=spec.preprocess.spatial_dims,
            resample_irregular=resample_irregular,
        )
        places = Counter(study.place for study in studies)
        for study in studies:
            text = str(study.place) if places[study.place] == 1 else f"{study.place}#{study.uid}"
            found.append((text, partial(read, study)))
        fields = [image.field for image in others]
    elif path.is_dir():
        scan = scan_tree(path, resample_irregular=resample_irregular)
        fields, problems = [image.field for image in scan.images], scan.problems
    else:
        fields = [given]
    found += [(field, partial(read_channels, field, Path(), resample_irregular=resample_irregular)) for field in fields]
    return found, problems


def case_names(fields: Sequence[str]) -> list[str]:
    """A folder name for each case, from its file or folder; where names repeat, the folders above are put before them.

    A number would depend on the order, so that the name of one patient's case could be another's in the next call.
    Several series of one folder get the end of their UID.
    """
    split = [split_field(text.split(";", 1)[0]) for text in fields]
    places = [path.resolve() for path, _ in split]
    names, counts = [], Counter(places)
    for place, (_, uid) in zip(places, split, strict=True):
        name = place.name
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        names.append(f"{name}_{uid.rpartition('.')[2]}" if uid and counts[place] > 1 else name)
    levels = zip(*(place.parent.parts for place in places), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return unique_names(names, [Path(*place.parts[common:]) for place in places])
