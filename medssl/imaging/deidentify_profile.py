"""What becomes of each attribute: table E.1-1 of PS3.15, and what it leaves that can tell who someone is.

The table (edition 2026c) is the one that dicom-anonymizer (KitwareMedical, BSD) holds. Where it leaves a choice that
depends on the kind of object (X/Z, X/D, Z/D), an attribute is kept with an empty or dummy value, so that an object
stays valid. Sequences are emptied, or walked by the caller: the library would draw UIDs in them at random, those of
kinds of objects too, and leave private attributes.
"""

from typing import Literal

from dicomanonymizer import simpledicomanonymizer as table
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

EDITION = "2026c"
DUMMY = "ANONYMIZED"
"""What the library puts into text."""
Action = Literal["keep", "delete", "dummy", "empty", "uid", "label"]
"""`uid`: a new one that agrees everywhere, in all items of a sequence; `label`: likewise, for text."""
_FREE_TEXT = ("LT", "ST", "UT", "UC", "UR", "AE")
"""Kinds of values for what people type; PN is treated by the caller, LO, SH and CS are for terms and stay."""
_BINARY = ("OB", "OW", "OL", "OF", "OD", "OV")
_DATES = ("DA", "DT", "TM")
_WORDS = (*_FREE_TEXT, "LO", "SH", "CS", "PN")

_DELETED = (
    "ReferencedStudySequence",  # optional, and not allowed to be empty, as the next three
    "InstitutionCodeSequence",
    "OperatorIdentificationSequence",
    "WaveformAnnotationSequence",
    "EncryptedAttributesSequence",  # what an earlier de-identification removed, for whoever has its key
    "DataSetTrailingPadding",  # may hold anything
    "EncapsulatedDocument",  # no part of an image; the library would put a dummy in its place
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PlacerOrderNumberProcedure",
    "FillerOrderNumberProcedure",
    "PlacerOrderNumberImagingServiceRequestRetired",
    "FillerOrderNumberImagingServiceRequestRetired",
    "OrderPlacerIdentifierSequence",
    "OrderFillerIdentifierSequence",
    "IssuerOfAccessionNumberSequence",
    "IssuerOfPatientIDQualifiersSequence",
    "AssigningFacilitySequence",
    "AssigningJurisdictionCodeSequence",
    "AssigningAgencyOrDepartmentCodeSequence",
    "RequestingPhysicianIdentificationSequence",
    "RequestingServiceCodeSequence",
    "AsserterIdentificationSequence",
    "AuthorIdentificationSequence",
    "ProcedureCodeSequence",  # in words of the hospital's own, those of StudyDescription
    "RequestedProcedureCodeSequence",
    "PerformedProtocolCodeSequence",
    "ImageID",
    "TransducerData",  # with serial numbers
    "DeviceID",
    "GridID",
    "NTPSourceAddress",  # of a machine of the hospital's
    "ContactDisplayName",
)
_OURS: dict[str, Action] = {
    **dict.fromkeys(_DELETED, "delete"),
    "AcquisitionProtocolName": "empty",  # as typed as ProtocolName, which the table replaces
    "ContentDescription": "empty",
    "DoseComment": "empty",
    "FrameOfReferenceTransformationComment": "empty",
    "RadiationMachineName": "empty",
    "ContentLabel": "dummy",
    "TextValue": "dummy",
    "TrackingID": "label",  # due beside its UID
    "LongCodeValue": "keep",
    "URNCodeValue": "keep",
    "ReferencedPerformedProcedureStepSequence": "uid",  # of references alone; where it is due it must not be empty
}


def action_on(element: DataElement) -> Action:
    """What becomes of an attribute of the standard, dates and names of people aside."""
    tag = (element.tag.group, element.tag.element)
    due = dictionary_VR(element.tag)
    if _hidden(element.VR, due):
        return "delete"
    found = _ACTIONS.get(tag)
    if found is None:
        return "empty" if element.VR in _FREE_TEXT or due in _FREE_TEXT else "keep"
    if element.VR == "UI" and found != "delete":
        return "uid"
    return found


def _hidden(kind: str, due: str) -> bool:
    """Whether an attribute stands under another kind of value than is due, where no search for text would find it."""
    if kind in _BINARY:
        return not any(each.startswith("O") for each in due.split(" or "))
    if due in _DATES:
        return kind not in _DATES
    return due in _WORDS and kind not in (*_WORDS, *_DATES, "UI")


def _actions() -> dict[tuple[int, int], Action]:
    """Our reading of the library's table, by tag; its repeating groups go whole."""
    reading: dict[object, Action] = {
        table.delete: "delete",
        table.replace: "dummy",
        table.empty: "empty",
        table.replace_UID: "uid",
        table.empty_or_replace: "dummy",
        table.delete_or_empty: "empty",
        table.delete_or_replace: "dummy",
        table.delete_or_empty_or_replace: "dummy",
        table.delete_or_empty_or_replace_UID: "uid",
    }
    held = table.initialize_actions(f"dicomfields_{EDITION}")
    found = {(tag[0], tag[1]): reading[action] for tag, action in held.items() if len(tag) == 2}
    for keyword, action in _OURS.items():
        number = tag_for_keyword(keyword)
        if number is None:
            raise KeyError(keyword)
        found[number >> 16, number & 0xFFFF] = action
    return found


_ACTIONS = _actions()
