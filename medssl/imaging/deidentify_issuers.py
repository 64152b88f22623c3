"""Whether each patient number of a folder means one patient: hospitals give the same numbers to different people."""

import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.patients import joined
from medssl.imaging.readers.dicom_frames import read_header

Issuers = dict[str, list[set[str]]]
"""Issuers of each PatientID; those that are named together in a study stand in one set."""


def find_issuers(files: Iterable[Path]) -> Issuers:
    """Look at all files first: many objects of a patient name no issuer.

    A study is of one patient, so issuers that name a number in one study mean the same patient.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file in files:
        number, issuer, study = _identity(file)
        if number and issuer and study:
            found[number][study].add(issuer)
    return {number: joined(studies.values()) for number, studies in found.items()}


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
