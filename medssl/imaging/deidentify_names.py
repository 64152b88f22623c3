"""Names and numbers of people in attributes that the profile keeps: typed where they do not belong."""

import re
import unicodedata
from collections.abc import Iterator

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medssl.imaging.deidentify_profile import DUMMY

_TEXT = ("LO", "SH", "LT", "ST", "UT", "UC", "PN", "UR", "AE")
_IDENTIFYING = (
    "PatientID",
    "OtherPatientIDs",
    "IssuerOfPatientID",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "MedicalRecordLocator",
    "AdmissionID",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ResponsibleOrganization",
)
"""Beside the names of people, which have a kind of value of their own (PN)."""
_SHORTEST = 4
"""Shorter names and numbers are found in any text, so they prove nothing."""
_UMLAUTS = str.maketrans({letter: f"{plain}e" for letter, plain in zip("äöüøæ", "aouoa", strict=True)} | {"å": "aa"})
_TERMS = frozenset(
    re.findall(
        r"\w+",
        "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL MIXED LOCALIZER VOLUME NONE NORMAL OTHER COLOR MONOCHROME "
        "MONOCHROME1 MONOCHROME2 BINARY FRACTIONAL LABELMAP PROBABILITY OCCUPANCY AUTOMATIC SEMIAUTOMATIC MANUAL "
        "IDENTITY INVERSE LINEAR SIGMOID MAGNITUDE PHASE REAL BODY SURFACE SPIN GRADIENT STANDARD RESEARCH PRODUCT "
        "WHITE BLACK REMOVED MODIFIED HEAD BRAIN SKULL NECK CHEST HEART LUNG BREAST ABDOMEN LIVER KIDNEY PELVIS "
        "SPINE SHOULDER ELBOW HUMERUS HAND FINGER THUMB WRIST KNEE FOOT ANKLE HEEL FEMUR",
    )
)
"""Values of the standard by which people may be called, too: as a whole value of a coded attribute they name nobody."""


_HOW_TO_READ = ("SpecificCharacterSet", "DimensionOrganizationType")
"""How text and frames are read, in terms that hold words and numbers (ISO_IR 192, TILED_FULL)."""
_IMAGE_PIXELS = 0x0028
"""Group of how pixels are read, whose coded attributes hold terms alone: YBR_FULL, PALETTE COLOR, ISO_10918_1."""


def known_names(dataset: Dataset) -> set[str]:
    """Words and numbers that identify someone, in all their spellings."""
    found: set[str] = set()
    for element in dataset.iterall():
        person = element.VR == "PN" or (dictionary_has_tag(element.tag) and dictionary_VR(element.tag) == "PN")
        if element.value and (person or element.keyword in _IDENTIFYING):
            for value in _values(element):
                parts = [value] if not person else [*re.split(r"[\^=\s,-]+", value), *re.split(r"[\^=]", value)]
                found.update(spelling for part in parts for spelling in _spellings(part.strip()))
    return {part for part in found if len(part) >= _SHORTEST and part != DUMMY.casefold()}


def replace_names(dataset: Dataset, known: set[str]) -> Iterator[str]:
    """Put a dummy in place of what still names someone, and yield which attribute it was.

    Not nothing: some attributes must have a value.
    """
    if not known:
        return
    pattern = re.compile("|".join(_bounded(part) for part in sorted(known)))

    def named(text: str) -> bool:
        return any(pattern.search(spelling) for spelling in _spellings(text))

    for element in dataset.iterall():
        if element.keyword in _HOW_TO_READ or (element.VR == "CS" and element.tag.group == _IMAGE_PIXELS):
            continue
        if element.VR == "CS" and element.value:
            kept = [value if value in _TERMS or not named(value) else DUMMY for value in _values(element)]
            if kept != _values(element):
                element.value = kept if len(kept) > 1 else kept[0]
                yield element.keyword
        elif element.VR in _TEXT and element.value and named(str(element.value)):
            element.value = DUMMY
            yield element.keyword


def _bounded(part: str) -> str:
    """Pattern of a word or number by itself: an underscore parts words, and a digit may follow a name, not a number."""
    before, after = (r"[^\W_]" if end.isdigit() else r"[^\W\d_]" for end in (part[0], part[-1]))
    return f"(?<!{before}){re.escape(part)}(?!{after})"


def _values(element: DataElement) -> list[str]:
    return [str(value) for value in (element.value if isinstance(element.value, MultiValue) else [element.value])]


def _spellings(text: str) -> set[str]:
    """In small letters: as it stands, with umlauts written as two letters, and without accents."""
    small = unicodedata.normalize("NFC", text).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", small) if not unicodedata.combining(c))
    return {small, small.translate(_UMLAUTS), bare}
