"""Whether images are of one patient, as far as their headers tell: names and numbers are kept as hashes."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from medssl.imaging.errors import ImageError

KEYWORDS = ("PatientID", "PatientName", "PatientBirthDate")
"""DICOM attributes that tell patients apart, in the order of a `Person`'s fields."""


@dataclass(frozen=True)
class Person:
    """Whom a DICOM header names: hashes, empty where it says nothing.

    Args:
        number: Pseudonym of the PatientID.
        name: Of the PatientName.
        birth: Of the PatientBirthDate.
    """

    number: str = ""
    name: str = ""
    birth: str = ""

    @classmethod
    def hashed(cls, number: str, name: str, birth: str) -> "Person":
        """Hashes of what stands in a header; of a name its letters alone count, without ideographs behind `=`.

        The issuer of the number does not count: some objects of a patient lack it, and one patient on both sides of a
        split is worse than two that share a number on one. Whoever has a PatientID can compute its pseudonym: this
        hides nothing from them.
        """
        letters = re.sub(r"[\W_]+", " ", name.partition("=")[0]).strip().casefold()
        return cls(*(_hash(text) for text in (number.strip(), letters, birth.strip())))


NOBODY = Person()


def pseudonym(kind: str, text: str) -> str:
    """Stable name that does not show the text it stands for, `kind` and 12 digits; empty where the text is."""
    return kind + hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


def _hash(text: str) -> str:
    return pseudonym("p", text and f"|{text}")


def joined(sets: Iterable[set[str]]) -> list[set[str]]:
    """Sets that share a member made one; empty ones go."""
    groups: dict[str, set[str]] = {}
    for own in sets:
        whole = own.union(*(groups[member] for member in own if member in groups))
        groups.update(dict.fromkeys(whole, whole))
    return list({id(group): group for group in groups.values()}.values())


def refuse_several(people: Iterable[Person], what: str) -> None:
    """Refuse images of different patients.

    Args:
        people: Whom each image names.
        what: What the images are, in plural.

    Raises:
        ImageError: Two of them both have a number, name or date of birth, and not the same.
    """
    values = zip(*(astuple(person) for person in people), strict=True)
    told = [keyword for keyword, each in zip(KEYWORDS, values, strict=False) if len({*each} - {""}) > 1]
    if told:
        raise ImageError(f"{what} are of different patients: their {' and '.join(told)} differ", reason="patients")
