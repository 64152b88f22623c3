"""Which patient each case is of: told by tables and DICOM headers, or taken from study, name and folder."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medssl.imaging.naming import bids_subject, some
from medssl.imaging.pairing import Case
from medssl.imaging.patients import joined, pseudonym
from medssl.imaging.readers.scan import FoundImage
from medssl.imaging.tables import PatientTable, stem


def name_patients(
    cases: Sequence[Case], tables: Sequence[PatientTable], root: Path
) -> tuple[list[str], list[str], list[Path]]:
    """Patients of cases.

    What a table says counts first, then the PatientID, then the study's patient, then the `sub-` name of a path.

    Args:
        cases: The cases of a tree.
        tables: Tables beside them.
        root: The tree.

    Returns:
        A patient for each case, empty where nothing tells one; what the user should know of them; and the tables used.
    """
    told, notes, used = _told(cases, tables, root)
    stated = [patient or case.images[0].patient for patient, case in zip(told, cases, strict=True)]
    assumed, more = _assumed(cases, stated, root)
    subjects = [bids_subject(place_below(root, case)) for case in cases]
    patients = [a or b or c for a, b, c in zip(stated, assumed, subjects, strict=True)]
    return patients, notes + more, used


def place_below(root: Path, case: Case) -> Path:
    """Path of a case from the folder that was searched; that folder's name for a series that is all of it."""
    return case.place.relative_to(root) if case.place != root else Path(root.name)


def _told(cases: Sequence[Case], tables: Sequence[PatientTable], root: Path) -> tuple[list[str], list[str], list[Path]]:
    """Patients by tables; a row that names a case's place goes before one that has its name alone."""
    patients = [(0, "")] * len(cases)
    notes, used = [], []
    places = [_places(case) for case in cases] if tables else []
    for table in tables:
        found, unclear = _by_table(table, cases, places, root)
        doubtful = set()
        for number, (rank, patient) in found.items():
            before, other = patients[number]
            if rank >= before:
                patients[number] = rank, patient
            if rank == before and patient != other:
                doubtful.add(cases[number].name)
        where = table.path.relative_to(root)
        if found:
            used.append(table.path)
            notes.append(f"patients of {len(found)} of {len(cases)} cases were taken from {where}")
        if unclear:
            notes.append(f"warning: {where} names several patients for {some(unclear)}: write each file with its path")
        if doubtful:
            notes.append(f"warning: {where} and another table name different patients for {some(sorted(doubtful))}")
    return [patient for _, patient in patients], notes, used


def _by_table(
    table: PatientTable, cases: Sequence[Case], places: Sequence[set[str]], root: Path
) -> tuple[dict[int, tuple[int, str]], list[str]]:
    """What one table says: number of a case to 2 (by its place) or 1 (by its name) and patient; and what is unclear."""
    known = {place for own in places for place in own}
    by_place: dict[str, set[str]] = defaultdict(set)
    by_name: dict[str, set[tuple[str, bool]]] = defaultdict(set)
    for text, patient in table.rows:
        meant = (_bare(base / text) for base in (table.path.parent, root))
        place = next((place for place in meant if place in known), "")
        if place:
            by_place[place].add(patient)
        if not place or Path(text).name == text:
            by_name[stem(Path(text))].add((patient, bool(place)))
    found: dict[int, tuple[int, str]] = {}
    unclear = set()
    for number, case in enumerate(cases):
        here = {patient for place in places[number] for patient in by_place.get(place, ())}
        below = table.path.parent in case.place.parents
        named = {patient for patient, placed in by_name.get(case.name, ()) if below or not placed}
        if len(here or named) == 1:
            found[number] = (2 if here else 1), next(iter(here or named))
        elif here or named:
            unclear.add(case.name)
    return found, sorted(unclear)


def _places(case: Case) -> set[str]:
    """By which paths a table may mean a case."""
    files = {file for image in case.images for file in image.files}
    return {_bare(path) for path in (case.place, case.place.parent / case.name, *files)}


def _bare(path: Path) -> str:
    """Whole path without the suffixes of image formats."""
    return os.path.normpath((path.parent / stem(path)).absolute())


def _assumed(cases: Sequence[Case], stated: Sequence[str], root: Path) -> tuple[list[str], list[str]]:
    """Patients of DICOM images without a PatientID, so that one person does not become several.

    Images of one study, or of one name and date of birth, are of one person: of the one that others of them state, or
    of the `sub-` name of their paths, or one with a pseudonym. Where these names are several, each is believed.
    """
    hints = [_hints(case.images[0]) for case in cases]
    known: dict[str, set[str]] = defaultdict(set)
    for own, patient in zip(hints, stated, strict=True):
        for hint in own if patient else ():
            known[hint].add(patient)
    groups = joined(own for own, patient in zip(hints, stated, strict=True) if not patient)
    group_of = {hint: number for number, group in enumerate(groups) for hint in group}
    members: dict[int, list[int]] = defaultdict(list)
    for number, (own, patient) in enumerate(zip(hints, stated, strict=True)):
        if own and not patient:
            members[group_of[min(own)]].append(number)
    patients = [""] * len(cases)
    doubtful = []
    for group, numbers in members.items():
        others = {patient for hint in groups[group] for patient in known[hint]}
        subject_of = {number: bids_subject(place_below(root, cases[number])) for number in numbers}
        subjects = set(subject_of.values()) - {""}
        one = next((next(iter(names)) for names in (others, subjects) if len(names) == 1), min(groups[group]))
        for number, subject in subject_of.items():
            patients[number] = one if len(subjects) < 2 else subject or one
        doubtful += [cases[number].name for number in numbers] if len(others) > 1 else []
    return patients, _notes(cases, patients, doubtful)


def _hints(image: FoundImage) -> set[str]:
    """Pseudonyms that images of one person share: of name and date of birth together, and of the study."""
    person = image.person
    named = f"{person.name}|{person.birth}" if person.name and person.birth else ""
    return {pseudonym("p", named), pseudonym("p", image.study_uid)} - {""}


def _notes(cases: Sequence[Case], patients: Sequence[str], doubtful: Sequence[str]) -> list[str]:
    names = [case.name for case, patient in zip(cases, patients, strict=True) if patient]
    notes = []
    if names:
        people = len(set(patients) - {""})
        notes.append(
            "without a PatientID, so images of one study, or of one name and date of birth, count as one person; "
            f"{people} in all, check the column patient: {some(names)}"
        )
    if doubtful:
        notes.append(
            "warning: without a PatientID, and others of their study, or of their name and date of birth, are of "
            f"several patients; fill the column patient: {some(doubtful)}"
        )
    return notes
