"""DICOM data sets without their patient: the basic profile of PS3.15, nested sequences included, with keyed pseudonyms.

What is done with which attribute is in deidentify_profile.py; dummy values, but for dates, are those of
dicom-anonymizer (KitwareMedical, BSD). Ours are the walk through nested sequences, and names, UIDs and dates, which
that library draws at random where files must agree. Beyond the table: private and unknown attributes, overlays and
curves are removed, and free text is emptied.
"""

import datetime
import hashlib
import hmac
import re
import warnings
from importlib.metadata import version
from typing import Any, Literal

from dicomanonymizer import simpledicomanonymizer as profile
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.multival import MultiValue

from medssl.imaging.deidentify_names import known_names, replace_names
from medssl.imaging.deidentify_pixels import cut_behind, transfer_syntax
from medssl.imaging.deidentify_profile import EDITION, Action, action_on
from medssl.imaging.readers.dicom_frames import SEGMENTATIONS

Dates = Literal["remove", "shift"]
_STANDARD = frozenset((*UID_dictionary, *SEGMENTATIONS))
"""UIDs of the standard itself, which say what an object is, not whose; others below its root may be anyone's."""
_KIND = re.compile(r"1\.2\.840\.10008\.5\.1\.4(\.\d{1,4}){1,6}")
"""A UID of the standard for a kind of object; an attribute that names kinds may hold one newer than the list above."""
_LONG_AGO = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
"""Where a date is due; the library's are of the year 1, which validators refuse."""
_SHIFT_DAYS = (366, 3650)
_CLOCK = r"([01]\d|2[0-3])(:?[0-5]\d(:?([0-5]\d|60)(\.\d{1,6})?)?)?"
_FORMS = {
    "DA": re.compile(r"\d{8}"),
    "DT": re.compile(rf"\d{{8}}({_CLOCK})?([+-]\d{{4}})?"),
    "TM": re.compile(_CLOCK),
}
"""How dates and times are written (PS3.5 6.2), whole days alone; colons are those of older files."""


class Pseudonyms:
    """Names, UIDs and shifts that follow from a secret key: the same in every file and run, and not to be reversed.

    Args:
        key: At least 32 random bytes.
        dates: `remove` them (the basic profile), or `shift` all of a patient's by one number of days, so that intervals
            stay (the option "Retain Longitudinal Temporal Information With Modified Dates").
    """

    def __init__(self, key: bytes, dates: Dates = "remove") -> None:
        self._key, self.dates = key, dates

    def uid(self, original: str) -> str:
        """New UID below 2.25; those of the standard stay."""
        if not original or original in _STANDARD:
            return original
        return "2.25." + str(int.from_bytes(self._digest("uid", original)[:16], "big"))

    def patient(self, dataset: Dataset) -> str:
        """Pseudonym of a data set's patient, from the PatientID alone; one without is taken for its study's.

        Not from the issuer: objects of one patient often lack it, and a folder or run in which it is missing must give
        the same pseudonym.
        """
        number = str(dataset.get("PatientID", "") or "").strip()
        identity = ("patient", number) if number else ("study", str(dataset.get("StudyInstanceUID", "")))
        return "P" + self._digest(*identity).hex()[:12].upper()

    def label(self, original: str) -> str:
        """New text for one that only has to agree; none for none."""
        return original and "T" + self._digest("label", original).hex()[:12].upper()

    def shift(self, patient: str) -> datetime.timedelta:
        """How far a patient's dates are moved back."""
        low, high = _SHIFT_DAYS
        return datetime.timedelta(days=low + int.from_bytes(self._digest("days", patient)[:8], "big") % (high - low))

    def _digest(self, *parts: str) -> bytes:
        return hmac.new(self._key, "\0".join(parts).encode(), hashlib.sha256).digest()


def deidentify(dataset: FileDataset, pseudonyms: Pseudonyms) -> list[str]:
    """Remove the patient from a data set, in place.

    Args:
        dataset: A whole file; its file header is made anew.
        pseudonyms: New names, UIDs and dates.

    Returns:
        Attributes that the profile keeps, but in whose text a name or number of the patient, a physician or the
        institution stood, which a person typed where it does not belong: they were replaced.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on odd values, most of which go away here
        known = known_names(dataset)
        patient = pseudonyms.patient(dataset)
        cut_behind(dataset)
        _walk(dataset, pseudonyms, pseudonyms.shift(patient))
        dataset.PatientID = dataset.PatientName = patient
        _declare(dataset, pseudonyms.dates)
        _renew_header(dataset)
        return sorted(set(replace_names(dataset, known)))


def _walk(dataset: Dataset, pseudonyms: Pseudonyms, shift: datetime.timedelta) -> None:
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if tag.is_private or tag.group >> 8 in (0x50, 0x60) or not dictionary_has_tag(tag) or element.VR == "UN":
            del dataset[tag]
            continue
        action = action_on(element)
        if action == "delete" and not _shifted(element, pseudonyms):
            del dataset[tag]
        elif element.VR in _LONG_AGO:
            _date(element, action, pseudonyms, shift)
        elif element.VR == "SQ":
            _sequence(element, action, pseudonyms, shift)
        elif action == "uid" or element.VR == "UI":
            _replace_uids(element, pseudonyms)
        elif action == "label":
            element.value = pseudonyms.label(str(element.value or ""))
        elif action != "keep":
            _dummy(dataset, element, action)
        elif element.VR == "PN":
            element.value = ""


def _sequence(element: DataElement, action: Action, pseudonyms: Pseudonyms, shift: datetime.timedelta) -> None:
    """Items that stay are treated as the data set is; a sequence that the table empties or replaces loses them all."""
    if action not in ("keep", "uid"):
        element.value = []
    for item in element.value:
        _walk(item, pseudonyms, shift)


def _shifted(element: DataElement, pseudonyms: Pseudonyms) -> bool:
    """Dates that the profile removes are kept where they are shifted, but for those of birth."""
    dated = element.VR in _LONG_AGO and dictionary_VR(element.tag) in _LONG_AGO
    return pseudonyms.dates == "shift" and dated and "Birth" not in element.keyword


def _date(element: DataElement, action: Action, pseudonyms: Pseudonyms, shift: datetime.timedelta) -> None:
    if _shifted(element, pseudonyms):
        element.value = _moved(element.value, element.VR, shift)
    elif action == "dummy":
        element.value = _LONG_AGO[element.VR]
    else:
        element.value = ""


def _moved(value: Any, kind: str, shift: datetime.timedelta) -> Any:
    """Date or date and time, earlier by `shift`; a time of day as it is; what is none of these becomes empty."""
    if isinstance(value, MultiValue):
        return [_moved(part, kind, shift) for part in value]
    text = str(value or "").strip()
    if not _FORMS[kind].fullmatch(text):
        return ""
    if kind == "TM":
        return text
    try:
        day = datetime.datetime.strptime(text[:8], "%Y%m%d").replace(tzinfo=datetime.UTC)
        return (day - shift).strftime("%Y%m%d").zfill(8) + text[8:]
    except (ValueError, OverflowError):
        return ""


def _replace_uids(element: DataElement, pseudonyms: Pseudonyms) -> None:
    def new(value: Any) -> str:
        kind = element.keyword.endswith("SOPClassUID") and _KIND.fullmatch(str(value))
        return str(value) if kind else pseudonyms.uid(str(value or ""))

    several = isinstance(element.value, MultiValue)
    element.value = [new(value) for value in element.value] if several else new(element.value)


def _dummy(dataset: Dataset, element: DataElement, action: Action) -> None:
    """A value that says nothing; where the library has none for this kind of value, the attribute goes."""
    try:
        if action == "dummy":
            profile.replace_element(element)
        else:
            profile.empty_element(element)
    except NotImplementedError:
        del dataset[element.tag]


def _declare(dataset: Dataset, dates: Dates) -> None:
    """Say in the data set what was done to it (PS3.15 E.1.1)."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"medssl {version('medssl')}, PS3.15 {EDITION} basic profile"[:64]
    codes = [("113100", "Basic Application Confidentiality Profile")]
    if dates == "shift":
        codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    dataset.DeidentificationMethodCodeSequence = []
    for value, meaning in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        dataset.DeidentificationMethodCodeSequence.append(item)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if dates == "shift" else "REMOVED"


def _renew_header(dataset: FileDataset) -> None:
    """File header and preamble made anew: the old ones name machines, and a preamble can hold anything."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax(dataset)
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
