"""Which patient each number and study of a folder means: hospitals give the same numbers to different people."""

import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.patients import joined
from medssl.imaging.readers.dicom_frames import read_header


@dataclass(frozen=True)
class Numbers:
    """Patient numbers of a folder.

    Args:
        issuers: Issuers of each PatientID; those that are named together in a study stand in one set.
        studies: Every PatientID of each study.
    """

    issuers: dict[str, list[set[str]]]
    studies: dict[str, set[str]]


def find_numbers(files: Iterable[Path]) -> Numbers:
    """Look at all files first: many objects of a patient name no issuer, and some no number.

    A study is of one patient, so issuers that name a number in one study mean the same patient.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    named: dict[str, set[str]] = defaultdict(set)
    for file in files:
        number, issuer, study = _identity(file)
        if number and study:
            named[study].add(number)
            if issuer:
                found[number][study].add(issuer)
    return Numbers({number: joined(studies.values()) for number, studies in found.items()}, dict(named))


def several(groups: list[set[str]]) -> str:
    """The issuers, for a message."""
    return ", ".join(sorted(repr(issuer) for group in groups for issuer in group))


def _identity(file: Path) -> tuple[str, str, str]:
    """PatientID, its issuer and the study; empty where there is none, or where the file cannot be used anyway."""
    if file.is_symlink() or not file.is_file():
        return "", "", ""
    try:
        header = read_header(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on odd values
            number, issuer, study = (
                str(header.get(keyword, "") or "").strip()
                for keyword in ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
            )
    except (ImageError, PermissionError, ValueError, TypeError, AttributeError, NotImplementedError):
        return "", "", ""  # it is told when the file is to be written
    return number, issuer, study
