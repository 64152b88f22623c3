"""A patient's age, as DICOM, spreadsheets and people write it, in years."""

import re

_A_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
UNKNOWN = "not told"
_AGES = ((0, "0-17"), (18, "18-39"), (40, "40-64"), (65, "65-79"), (80, "80 and over"))
_OLDEST = 130
"""Years; a larger number is a year of birth, or stands for an age that is not known."""
_IN_YEARS = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*(?:y|yrs?|years?)?", re.IGNORECASE)
_AS_DICOM = re.compile(r"\d{3}[YMWD]")

HOW = "write years (63), or as DICOM does (063Y, 018M, 003W, 010D), or leave the field empty"


def years(age: str) -> float | None:
    """Years of an age such as `63`, `63,5`, `63 y`, `063Y` or `018M`; None where it is none.

    Months, weeks and days need DICOM's three digits: `63M` is as often a man of 63 years.
    """
    text = age.strip()
    if _AS_DICOM.fullmatch(text):
        found = dicom_years(text)
    else:
        written = _IN_YEARS.fullmatch(text)
        found = float(written[1].replace(",", ".")) if written else None
    return found if found is not None and found <= _OLDEST else None


def dicom_years(age: str) -> float | None:
    """Years of a DICOM age, also of one with fewer digits than it should have; None where it is none."""
    if not age[:-1].isdecimal() or age[-1] not in _A_YEAR:
        return None
    return int(age[:-1]) / _A_YEAR[age[-1]]


def age_band(age: str) -> str:
    """Band of an age as a manifest tells it."""
    found = years(age)
    return UNKNOWN if found is None else next(name for first, name in reversed(_AGES) if found >= first)
